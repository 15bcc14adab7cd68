"""Time to inspect a set of files whose sizes are those of the real ones, without weights in them."""

import tempfile
import time
from pathlib import Path

import weight_headers as files

from klein9b.klein.checkpoint import inspect_diffusion_model
from klein9b.klein.file_set import check_set

LIMIT_MS = 50
REPEATS = 20


def best_ms(run):
    """The fastest of a few runs: the machine's noise only ever adds."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)


def main():
    """Rows of {"name", "value", "unit", "limit"}; a value over its limit is a regression."""
    klein, qwen = files.flux2(**files.KLEIN_9B), files.qwen3_8b()
    layers, qwen_layers = files.block_matrices(klein), files.block_matrices(qwen)
    with tempfile.TemporaryDirectory() as folder:
        big = files.write(Path(folder) / "klein.safetensors", klein)
        marks = files.in_tensors(layers, format="int8_tensorwise", convrot=True)
        int8 = files.write(Path(folder) / "int8.safetensors", files.as_int8(klein, layers), blobs=marks)
        encoder = files.write(
            Path(folder) / "qwen.safetensors",
            files.as_fp8(qwen, qwen_layers),
            blobs=files.in_tensors(qwen_layers, format="float8_e4m3fn"),
        )
        vae = files.write(Path(folder) / "vae.safetensors", files.flux2_vae())
        size = f"{big.stat().st_size / 1e9:.1f} GB"
        runs = {
            f"inspect a sparse {size} Klein 9B": lambda: inspect_diffusion_model(big),
            "inspect an int8 Klein 9B with a mark a layer": lambda: inspect_diffusion_model(int8),
            "check a whole set of files": lambda: check_set(big, encoder, vae),
        }
        return [{"name": n, "value": best_ms(run), "unit": "ms", "limit": LIMIT_MS} for n, run in runs.items()]
