"""make bench: every benchmark in this folder, one table. A row over its limit is marked and fails the run."""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from bench.alone import rows_of  # noqa: E402


def verdict(row: dict) -> str:
    if row["value"] is None:
        return row["why"]
    return "" if row["limit"] is None else ("ok" if row["value"] <= row["limit"] else "OVER")


def show(row: dict) -> str:
    value = "" if row["value"] is None else f"{row['value']:.4g}"
    limit = "" if row["limit"] is None else f"{row['limit']:g}"
    return f"{row['name']:<64} {value:>9} {row['unit']:<6} {limit:>7}  {verdict(row)}"


def main() -> None:
    print(f"{'benchmark':<64} {'value':>9} {'unit':<6} {'limit':>7}")
    failed = False
    for path in sorted(FOLDER.glob("bench_*.py")):
        for row in rows_of(path.stem):
            print(show(row), flush=True)
            failed |= verdict(row) == "OVER"
    sys.exit(failed)


if __name__ == "__main__":
    main()
