"""What was found, one JSON object a line: whatever was written before a run was cut off can be read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Record = dict[str, Any]
RUN = "run"


class Results:
    """A file that is only ever added to. Several runs may lie in it, each begins with a record of the kind "run"."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, kind: str, **values: Any) -> Record:
        """On disk when this returns. A line that an earlier process left half-written stays alone."""
        record = {"kind": kind, **values}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(record, default=str).encode() + b"\n"
        with self.path.open("ab+") as file:
            file.write(line if self._ends_with_a_line(file) else b"\n" + line)
            file.flush()
            os.fsync(file.fileno())
        return record

    @staticmethod
    def _ends_with_a_line(file: Any) -> bool:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return bool(file.read(1) == b"\n")

    def last_run(self) -> list[Record]:
        """Its records; lines that are no JSON object are left out."""
        records: list[Record] = []
        for line in self.path.read_text(errors="replace").splitlines() if self.path.exists() else ():
            record = _read(line)
            if record is not None:
                records = [record] if record["kind"] == RUN else [*records, record]
        return records


def _read(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "kind" in record else None


def of_kind(records: list[Record], kind: str) -> list[Record]:
    return [record for record in records if record["kind"] == kind]
