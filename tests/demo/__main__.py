"""make demo: the shipped workflows on real photographs in a real ComfyUI, or what runs without one."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pack import ROOT, importable

importable()

from demo.install import find_or_install  # noqa: E402
from demo.say import say  # noqa: E402

OUTPUT = ROOT / "build" / "demo"


def main() -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    checkout = find_or_install(ROOT / "build" / "ComfyUI")
    if checkout is None:
        say("no ComfyUI here and none could be fetched: showing the edit, the samplers and the remote lane without it")
        from demo import edit_alone, remote_alone, samplers_alone

        edit_alone.run(OUTPUT)
        samplers_alone.run(OUTPUT)
        remote_alone.run(OUTPUT)
    else:
        from demo import in_host

        in_host.run(checkout, OUTPUT)


if __name__ == "__main__":
    main()
