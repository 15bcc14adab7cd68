"""Draws nodes/web/docs/img/klein9b_schedule.png: what each shift does, from klein/schedule.py itself.

python tests/plot_schedule.py        (needs matplotlib)
"""

import io
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from klein.schedule import FIXED_MU, JUMP_TOKENS, empirical_mu, klein_sigmas, smooth_mu  # noqa: E402

TARGET = ROOT / "nodes" / "web" / "docs" / "img" / "klein9b_schedule.png"
STEPS = 4
FLUX2, SMOOTH, FIXED = "#c2410c", "#1d4ed8", "#4b5563"
EXACT = {"lw": 2, "ms": 5}
BEHIND = {"lw": 6, "ms": 8, "alpha": 0.35}
LEADER = {"arrowstyle": "-", "color": "0.4"}


def megapixels(tokens):
    return tokens / 4096


def curve(axes, mu, tokens, **style):
    axes.plot([megapixels(n) for n in tokens], [mu(n, STEPS) for n in tokens], **style)


def draw_mu(axes):
    below, above = range(256, JUMP_TOKENS + 1, 4), range(JUMP_TOKENS + 1, 16385, 4)
    axes.axhline(FIXED_MU, color=FIXED, lw=2, ls=":")
    curve(axes, smooth_mu, [*below, *above], color=SMOOTH, **BEHIND)
    curve(axes, empirical_mu, below, color=FLUX2, **EXACT)
    curve(axes, empirical_mu, above, color=FLUX2, **EXACT)
    curve(axes, empirical_mu, [JUMP_TOKENS, JUMP_TOKENS + 1], color=FLUX2, lw=1, ls=":")
    axes.annotate("flux2", (1.95, 1.62), color=FLUX2, fontweight="bold")
    axes.annotate("smooth", (1.5, 2.42), color=SMOOTH, fontweight="bold")
    axes.annotate(f"fixed, mu {FIXED_MU}", (2.6, 1.86), color=FIXED, fontweight="bold")
    edge = megapixels(JUMP_TOKENS)
    axes.annotate(f"drop at {JUMP_TOKENS} tokens\n(1.05 megapixels)", (edge, 1.3), (1.55, 1.12), arrowprops=LEADER)
    axes.annotate("together again\nfrom 2.67 megapixels", (2.67, 2.32), (1.2, 2.85), arrowprops=LEADER)
    axes.set(xlim=(0, 4), ylim=(1, 3.4), xlabel="megapixels (1 = 1024x1024 = 4096 tokens)", ylabel="mu")
    axes.set_title(f"Shift by picture size, {STEPS} steps", loc="left")


def draw_sigmas(axes):
    at, after = JUMP_TOKENS, JUMP_TOKENS + 1
    rows = [
        (f"flux2, {at} tokens", klein_sigmas(STEPS, at), FLUX2, "o-", EXACT),
        (f"flux2, {after} tokens", klein_sigmas(STEPS, after), FLUX2, "s--", EXACT),
        (
            f"smooth, {at} and {after} tokens",
            klein_sigmas(STEPS, after, shift="smooth"),
            SMOOTH,
            "o-",
            BEHIND,
        ),
        (f"fixed, mu {FIXED_MU}, any size", klein_sigmas(STEPS, at, shift="fixed"), FIXED, "^:", EXACT),
    ]
    for label, sigmas, color, style, weight in rows:
        axes.plot(range(STEPS + 1), sigmas, style, color=color, label=label, **weight)
    axes.set(xticks=range(STEPS + 1), ylim=(0, 1.04), xlabel="steps taken", ylabel="sigma, the noise left")
    axes.set_title(f"Sigmas on both sides of the drop, {STEPS} steps", loc="left")
    axes.legend(frameon=False, loc="lower left")


def main():
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    plt.rcParams.update({"axes.grid": True, "grid.alpha": 0.25, "font.size": 12})
    # One above the other: the help panel is some 280 pixels wide.
    figure, (above, below) = plt.subplots(2, 1, figsize=(5, 8), layout="constrained")
    draw_mu(above)
    draw_sigmas(below)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
