"""``python -m remote_child SPEC``: one run of the lane in a process of its own, which may be told to die.

SPEC is a JSON file: the fake's description, `directory`, `result` (a file to write), and `die`: null or
["before" | "after", a method of Journal].
"""

import json
import os
import signal
import sys
import types
from pathlib import Path

TESTS = Path(__file__).resolve().parent


def main():
    pack = types.ModuleType("klein9b")
    pack.__path__ = [str(TESTS.parent)]
    sys.modules["klein9b"] = pack
    spec = json.loads(Path(sys.argv[1]).read_text())
    if spec["die"]:
        arm(*spec["die"])
    import lanes

    fake = types.SimpleNamespace(**spec)
    try:
        with lanes.a_lane(fake, Path(spec["directory"])) as lane:
            picture = lanes.run(lane, lanes.request(), timeout_s=3000)[0]
        outcome = picture.receipt
    except Exception as error:
        outcome = {"error": type(error).__name__, "text": str(error)}
    Path(spec["result"]).write_text(json.dumps(outcome))


def arm(when, method):
    """Makes this process kill itself just before, or just after, the first call of a journal method."""
    from klein9b.remote.journal import Journal

    original = getattr(Journal, method)

    def deadly(self, *args, **kwargs):
        if when == "after":
            original(self, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(Journal, method, deadly)


if __name__ == "__main__":
    main()
