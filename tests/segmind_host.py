"""A host's private Segmind folder, as tests and the demo need it."""

from pathlib import Path

from pack import importable

importable()

from klein9b.remote.journal import Journal  # noqa: E402
from klein9b.remote.journal_restore import JOURNAL_FILE  # noqa: E402
from klein9b.remote.keys import KEY_FILE  # noqa: E402

EARLIER_JOBS, SPREAD = 20, 20.0


def private_folder(base: Path) -> Path:
    """What folder_paths.get_system_user_directory("segmind") is for a host with this base directory."""
    folder = base / "user" / "__segmind"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_key(base: Path, key: str) -> Path:
    """The key file as the help page has it made."""
    path = private_folder(base) / KEY_FILE
    path.touch(mode=0o600)
    path.write_text(key + "\n")
    return path


def forget_key(base: Path) -> None:
    (private_folder(base) / KEY_FILE).unlink(missing_ok=True)


def remember_jobs(base: Path, seconds: float, cost_usd: float = 0.04) -> None:
    """A journal of earlier jobs, so dear each, the last so long and those before up to twenty times that.

    A host that knows them looks soon and often until then; without them the first look is at two seconds.
    """
    journal = Journal(private_folder(base) / JOURNAL_FILE)
    for i in range(EARLIER_JOBS):
        row = journal.claim(f"earlier {i}", prompt="", seed=i)
        journal.submitting(row.id, "")
        journal.accepted(row.id, f"earlier-{i}")
        journal.settle(row.id, cost_usd, None, 0.0, seconds * SPREAD ** (1 - (i + 1) / EARLIER_JOBS))
        journal.kept(row.id, "0" * 64)
    journal.close()


def environment(fake) -> dict[str, str]:
    """The three hosts; not the key."""
    return {
        "SEGMIND_BASE_URL": fake.api_url,
        "SEGMIND_STORAGE_URL": fake.storage_url,
        "SEGMIND_ACCOUNT_URL": fake.account_url,
    }
