"""make demo: the shipped workflows on real photographs in a real ComfyUI, or what runs without one."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pack import ROOT, importable

importable()

from demo.say import say  # noqa: E402
from host.checkout import NoHost, find_checkout  # noqa: E402

OUTPUT = ROOT / "build" / "demo"


def main() -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    try:
        checkout = find_checkout()
    except NoHost as reason:
        say(f"{reason}. Showing the edit, the samplers and the remote lane without it")
        from demo import edit_alone, remote_alone, samplers_alone

        edit_alone.run(OUTPUT)
        samplers_alone.run(OUTPUT)
        remote_alone.run(OUTPUT)
    else:
        from demo import in_host

        in_host.run(checkout, OUTPUT)


if __name__ == "__main__":
    main()
