"""What the memory plan says beside what the host's own classes hold at Klein 9B's size, counted on the meta device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from full_size import cached_step, counted, latent, reference_pass, stock, vae

from host.checkout import NoHost, find_checkout
from host.inprocess import enter
from klein9b.klein.framing import Size
from klein9b.klein.kv_store import Storage
from klein9b.klein.vram import (
    KLEIN_9B,
    Job,
    cached_forward_bytes,
    forward_bytes,
    reference_pass_bytes,
    vae_decode_bytes,
)

SIZES = {"512x512": Size(512, 512), "1024x1024": Size(1024, 1024), "1440x1440": Size(1440, 1440)}
REFERENCES = (0, 2, 4)
MEGAPIXEL = Size(1024, 1024)
OFF = 10  # per cent

Row = dict[str, Any]


def main() -> list[Row]:
    """Rows of {"name", "value", "unit", "limit"}: by how many per cent a planned peak is off the counted one."""
    try:
        enter(find_checkout())
    except NoHost as reason:
        return [{"name": "the memory plan", "value": None, "unit": "", "limit": None, "why": str(reason)}]
    return [*forwards(), *caches(), *decoding()]


def forwards() -> Iterator[Row]:
    for name, size in SIZES.items():
        for count in REFERENCES:
            job = Job(size, (MEGAPIXEL,) * count)
            yield row(f"{name}, {count} references: a step", forward_bytes(KLEIN_9B, job), stock(job))


def caches() -> Iterator[Row]:
    for storage in Storage:
        job = Job(MEGAPIXEL, (MEGAPIXEL,) * 2, cache=storage)
        what = f"1024x1024, 2 references kept in {storage.value}"
        yield row(f"{what}: a step", cached_forward_bytes(KLEIN_9B, job), cached_step(job))
        yield row(f"{what}: computing them", reference_pass_bytes(KLEIN_9B, job), reference_pass(job))


def decoding() -> Iterator[Row]:
    measured = counted(vae(128).decode, latent(1, MEGAPIXEL))
    yield row("1024x1024: VAE decode", vae_decode_bytes(MEGAPIXEL), measured)


def row(name: str, planned: int, measured: int) -> Row:
    off = 100 * abs(planned - measured) / measured
    return {"name": f"{name}, {planned / 2**30:.2f} GiB planned", "value": off, "unit": "% off", "limit": OFF}
