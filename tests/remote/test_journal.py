"""The journal: one row is at most one accepted submit, whoever looks at it."""

import contextlib
import sqlite3
import threading

import pytest

from klein9b.remote.errors import SegmindError
from klein9b.remote.journal import AVERAGE_COST_USD, Journal, OverspendError, read_estimate_usd
from klein9b.remote.rows import SCHEMA_VERSION


class Now:
    def __init__(self):
        self.time = 1_800_000_000.0

    def __call__(self):
        return self.time


@pytest.fixture
def now():
    return Now()


@pytest.fixture
def two(tmp_path, now):
    """Two processes on one folder."""
    path = tmp_path / "jobs.sqlite"
    closing = contextlib.closing
    with closing(Journal(path, now=now)) as one, closing(Journal(path, now=now)) as other:
        yield one, other


def accepted(journal, name="f", request_id="request-1", **money):
    row = journal.claim(name, prompt="p", seed=1)
    assert journal.submitting(row.id, "digest", **money)
    journal.accepted(row.id, request_id)
    return journal.row(row.id)


def test_a_claim_is_shared(two):
    one, other = two
    assert one.claim("f", prompt="p", seed=1) == other.claim("f", prompt="p", seed=1)


def test_only_the_owner_sends_and_only_once(two):
    one, other = two
    row = one.claim("f", prompt="p", seed=1)
    assert other.take(row.id).owner == one.owner
    assert not other.submitting(row.id, "d")
    assert one.submitting(row.id, "d") and not one.submitting(row.id, "d")


def test_a_dead_owner_is_followed_and_its_submit_is_unknown(two, now):
    one, other = two
    row = one.claim("f", prompt="p", seed=1)
    assert one.submitting(row.id, "d")
    now.time += 9
    assert other.take(row.id).state == "SUBMITTING"
    one.beat()
    now.time += 9
    assert other.take(row.id).owner == one.owner
    now.time += 2
    taken = other.take(row.id)
    assert (taken.state, taken.owner) == ("UNKNOWN", other.owner)
    one.not_sent(row.id)  # it was only slow, and now it has proof: the one who took over may send
    assert not one.submitting(row.id, "d") and other.submitting(row.id, "d")


def test_a_slow_senders_answer_counts_after_it_was_taken_for_dead(two, now):
    one, other = two
    for answer, state in ((one.accepted, "ACCEPTED"), (one.rejected, "REJECTED")):
        row = one.claim(state, prompt="p", seed=1)
        one.submitting(row.id, "d")
        now.time += 11
        assert other.take(row.id).state == "UNKNOWN"
        answer(row.id, "request-1")
        assert one.row(row.id).state == state


def test_a_request_id_given_twice_is_not_taken_from_the_first(two):
    one, other = two
    first = accepted(one)
    row = other.claim("g", prompt="p", seed=1)
    other.submitting(row.id, "d")
    other.accepted(row.id, "request-1")
    assert (one.row(first.id).request_id, one.row(row.id).state) == ("request-1", "UNKNOWN")


@pytest.mark.parametrize("end", ["failed", "rejected"])
def test_what_was_not_billed_may_be_tried_again(two, end):
    one, _ = two
    row = one.claim("f", prompt="p", seed=1)
    one.submitting(row.id, "d", budget="b", estimate_usd=0.04)
    if end == "failed":
        one.accepted(row.id, "request-1")
    getattr(one, end)(row.id, "why")
    assert one.row(row.id).note == "why" and one.committed_usd("b") == 0.0
    again = one.claim("f", prompt="p", seed=1)
    assert (again.attempt, again.state) == (2, "PLANNED")


@pytest.mark.parametrize("new", [False, True])
def test_what_may_have_been_billed_is_not(two, now, new):
    """always_new shares what is under way; it opens another only for what has ended."""
    one, _ = two
    row = one.claim("f", prompt="p", seed=1)
    for step in (
        lambda: one.submitting(row.id, "d"),
        lambda: one.unknown(row.id, "reset"),
        lambda: one.accepted(row.id, "request-1"),
        lambda: one.completed(row.id, "https://x"),
    ):
        step()
        assert one.claim("f", prompt="p", seed=1, new=new).id == row.id
    one.kept(row.id, "0" * 64)
    assert (one.claim("f", prompt="p", seed=1, new=new).id == row.id) is not new


def test_an_unknown_outcome_is_only_left_on_purpose(two, now):
    one, _ = two
    row = one.claim("f", prompt="p", seed=1)
    one.submitting(row.id, "d")
    one.unknown(row.id, "reset")
    one.release(row.id)
    assert one.claim("f", prompt="p", seed=1, new=True).id == row.id
    now.time += 61
    assert one.claim("f", prompt="p", seed=1).id == row.id
    assert one.claim("f", prompt="p", seed=1, new=True).attempt == 2


def test_a_request_id_belongs_to_one_row(two):
    one, other = two
    accepted(one)
    lost = other.claim("g", prompt="p", seed=1)
    other.submitting(lost.id, "digest")
    other.unknown(lost.id, "reset")
    assert not other.found(lost.id, "request-1")
    assert other.found(lost.id, "request-2")


def test_a_lost_submit_does_not_take_the_id_of_one_that_is_being_sent(two):
    one, _ = two
    lost = one.claim("f", prompt="p", seed=1)
    one.submitting(lost.id, "same")
    one.unknown(lost.id, "reset")
    twin = one.claim("g", prompt="p", seed=1)
    one.submitting(twin.id, "same")
    assert not one.found(lost.id, "request-1")
    one.accepted(twin.id, "request-1")
    assert not one.found(lost.id, "request-1")


def test_the_cap_counts_what_is_reserved_and_what_it_really_cost(two):
    one, other = two
    first = accepted(one, budget="b", cap_usd=0.10, estimate_usd=0.04)
    second = other.claim("g", prompt="p", seed=1)
    assert other.submitting(second.id, "d", budget="b", cap_usd=0.10, estimate_usd=0.04)
    third = one.claim("h", prompt="p", seed=1)
    with pytest.raises(OverspendError):
        one.submitting(third.id, "d", budget="b", cap_usd=0.10, estimate_usd=0.04)
    assert one.row(third.id).state == "PLANNED"
    one.settle(first.id, 0.01)
    assert one.submitting(third.id, "d", budget="b", cap_usd=0.10, estimate_usd=0.04)
    assert one.committed_usd("b") == pytest.approx(0.09)


def test_an_unknown_cost_is_not_zero(two):
    one, _ = two
    row = accepted(one, budget="b", estimate_usd=0.04)
    one.completed(row.id, "https://x")
    one.settle(row.id, None)
    assert one.row(row.id).cost_usd is None and one.committed_usd("b") == 0.04
    one.settle(row.id, 0.05)
    one.settle(row.id, None, 9.0)
    assert (one.row(row.id).cost_usd, one.row(row.id).remaining_usd) == (0.05, 9.0)
    assert one.estimate_usd() == 0.05 > AVERAGE_COST_USD


def test_discard_forgets_only_what_was_never_sent(two):
    one, other = two
    row = one.claim("f", prompt="p", seed=1)
    assert not other.discard(row.id) and one.discard(row.id) and one.row(row.id) is None
    kept = accepted(one)
    assert not one.discard(kept.id)


def test_final_states_stay(two):
    one, _ = two
    row = accepted(one)
    one.kept(row.id, "0" * 64)
    for change in (one.failed, one.expired, one.unknown, one.rejected, one.completed):
        change(row.id, "x")
    assert one.row(row.id).state == "KEPT"


def test_only_the_start_of_a_prompt_is_kept(two, tmp_path):
    one, _ = two
    one.claim("f", prompt="start " * 10 + "SECRET", seed=1)
    assert b"SECRET" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert one.rows()[0].prompt_start.startswith("start")


def test_uploads_are_remembered_for_a_while(two, now):
    one, other = two
    one.uploaded("sha", "host", "https://x")
    assert other.upload("sha", "host", 100) == "https://x" and other.upload("sha", "elsewhere", 100) is None
    now.time += 101
    assert other.upload("sha", "host", 100) is None


def test_a_newer_journal_is_left_alone(tmp_path):
    path = tmp_path / "jobs.sqlite"
    Journal(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(SegmindError, match="Update the pack"):
        Journal(path)


def test_every_commit_reaches_the_disk(tmp_path):
    with contextlib.closing(Journal(tmp_path / "j")) as journal:
        assert journal._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert journal._db.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert (tmp_path / "j").stat().st_mode & 0o077 == 0


def test_many_threads_claim_one_row_and_one_sends(tmp_path):
    path, sent, rows = tmp_path / "j", [], set()
    gate = threading.Barrier(8)

    def process():
        gate.wait()
        with contextlib.closing(Journal(path)) as journal:
            row = journal.claim("f", prompt="p", seed=1)
            rows.add(row.id)
            journal.take(row.id)
            if journal.submitting(row.id, "d"):
                sent.append(journal.owner)
            gate.wait()

    threads = [threading.Thread(target=process) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows) == len(sent) == 1


def test_an_id_is_never_given_again(two):
    one, _ = two
    first = one.claim("f", prompt="p", seed=1)
    assert one.discard(first.id)
    assert one.claim("g", prompt="p", seed=1).id != first.id


@pytest.mark.parametrize(
    ("before", "note"), [("submitting", "unknown"), ("submitting", "rejected"), ("sent", "failed")]
)
def test_no_note_holds_a_key(two, before, note):
    one, _ = two
    row = accepted(one) if before == "sent" else one.claim("f", prompt="p", seed=1)
    if before == "submitting":
        one.submitting(row.id, "digest")
    getattr(one, note)(row.id, "you sent x-api-key: SG_" + "0123456789abcdef")
    assert one.row(row.id).note == "you sent x-api-key: [key removed]"


@pytest.mark.parametrize("way", ["found", "accepted"])
def test_a_job_recovered_by_its_name_joins_the_row_of_its_inputs(two, way):
    one, other = two
    row = one.claim("f", prompt="p", seed=1)
    one.submitting(row.id, "digest", budget="run", estimate_usd=0.05)
    one.unknown(row.id, "no answer")
    recovered = other.adopt("request-1")
    other.settle(recovered.id, 0.04, 9.0)
    other.kept(recovered.id, "sha")
    getattr(one, way)(row.id, "request-1")
    joined = one.adopt("request-1")
    assert (joined.id, joined.state, joined.sha256, joined.cost_usd) == (row.id, "KEPT", "sha", 0.04)
    assert len(one.rows()) == 1 and one.committed_usd("run") == 0.04


def test_a_recovered_job_stays_where_nobody_may_have_its_name(two):
    one, other = two
    other.adopt("request-1")
    row = one.claim("f", prompt="p", seed=1)
    assert not one.found(row.id, "request-1"), "nothing was sent for it"
    assert {row.request_id: row.state for row in one.rows()}["request-1"] == "ACCEPTED"


class TestAGlanceAtTheEstimate:
    def test_it_is_what_the_open_journal_says(self, two, tmp_path):
        one, _ = two
        assert read_estimate_usd(tmp_path / "jobs.sqlite") == AVERAGE_COST_USD
        one.settle(accepted(one).id, 0.0514)
        assert read_estimate_usd(tmp_path / "jobs.sqlite") == one.estimate_usd() == 0.0514

    def test_it_makes_no_file_and_mends_none(self, tmp_path):
        path = tmp_path / "jobs.sqlite"
        assert read_estimate_usd(path) == AVERAGE_COST_USD and not path.exists()
        for content in (b"", b"not a database" * 100):
            path.write_bytes(content)
            assert read_estimate_usd(path) == AVERAGE_COST_USD
            assert path.read_bytes() == content and [one.name for one in tmp_path.iterdir()] == [path.name]

    def test_it_waits_for_nobody(self, two, tmp_path):
        one, _ = two
        one.settle(accepted(one).id, 0.0514)
        with one._write():
            assert read_estimate_usd(tmp_path / "jobs.sqlite") == 0.0514
        with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)) as db:
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
            with contextlib.suppress(sqlite3.OperationalError):
                db.execute("BEGIN EXCLUSIVE")
            assert read_estimate_usd(tmp_path / "jobs.sqlite") in (0.0514, AVERAGE_COST_USD)
