"""A lost journal without job files, as an older version leaves it: the account's history says what is paid."""

import asyncio
import contextlib
import shutil

import numpy as np
import pytest
from lanes import a_lane, request, run
from remote.damages import delete, journal_of

from fake_segmind import Behaviour
from klein9b.remote import errors
from klein9b.remote.client import Client
from klein9b.remote.errors import NOTHING_SENT
from klein9b.remote.journal_restore import FILES_FOLDER, open_journal
from klein9b.remote.service import Terms, kept_picture, list_jobs

PHOTO = np.full((8, 8, 3), 0.5, np.float32)
OTHER = np.full((8, 8, 3), 0.25, np.float32)
DAY_S = 86400.0


def lose(folder):
    """Everything but the pictures."""
    delete(folder)
    shutil.rmtree(folder / FILES_FOLDER)


def paid_for(fake, folder, *requests, arrays=()):
    with a_lane(fake, folder) as lane:
        pictures = run(lane, *requests, arrays=arrays)
    lose(folder)
    return pictures


@pytest.mark.parametrize("form", ["python", "json", "object"])
def test_the_same_inputs_find_a_kept_picture_again(fake, tmp_path, form):
    fake.settings.history_body = form
    fake.settings.history_extra = {"webhook": None, "safety": True}
    asked = [request(cfg=5.0, negative_prompt=""), request(image_urls=("https://example.com/a.png",))]
    before = paid_for(fake, tmp_path, *asked)
    with a_lane(fake, tmp_path) as lane:
        after = run(lane, *asked)
    assert [one.receipt["sha256"] for one in after] == [one.receipt["sha256"] for one in before]
    assert fake.submits == len(fake.ledger) == 2


def test_a_job_in_flight_is_found_by_its_inputs(fake, tmp_path):
    fake.behave(Behaviour(run_seconds=1.0))
    with a_lane(fake, tmp_path) as lane, pytest.raises(errors.Interrupted):
        accepted = lambda: any(row.request_id for row in list_jobs(tmp_path))  # noqa: E731
        asyncio.run(lane.run([request()], [], Terms(), cancelled=accepted))
    lose(tmp_path)
    (tmp_path / "results" / f"{'0' * 64}.png").write_bytes(b"another picture, so that this is no first use")
    with a_lane(fake, tmp_path) as lane:
        assert run(lane, request())
    assert fake.submits == len(fake.ledger) == 1


def test_what_is_listed_by_its_hash_is_named_once_it_was_recovered(fake, tmp_path):
    (paid,) = paid_for(fake, tmp_path, request())
    assert [row.request_id for row in list_jobs(tmp_path)] == [None]
    with a_lane(fake, tmp_path) as lane:
        recovered = asyncio.run(lane.recover(paid.receipt["request_id"], Terms()))
    assert recovered.receipt["sha256"] == paid.receipt["sha256"]
    assert [row.request_id for row in list_jobs(tmp_path)] == [paid.receipt["request_id"]]


def test_uploads_cannot_be_told_apart_so_what_may_be_paid_is_not_sent(fake, tmp_path):
    (paid,) = paid_for(fake, tmp_path, request(), arrays=[PHOTO])
    with a_lane(fake, tmp_path) as lane:
        for _ in range(2):
            with pytest.raises(errors.SegmindError, match="may be this one") as said:
                run(lane, request(), arrays=[PHOTO])
        assert said.value.money == NOTHING_SENT and said.value.request_id == paid.receipt["request_id"]
        assert fake.submits == len(fake.requests_to("upload")) == 1
        assert run(lane, request(), arrays=[PHOTO, OTHER]), "another number of images is another job"
        assert run(lane, request(seed=8), arrays=[PHOTO])
        assert run(lane, request()), "and so is one without images"
        assert run(lane, request(), arrays=[PHOTO], reuse="always_new")
        assert run(lane, request(), arrays=[PHOTO])[0].receipt["reused"]
    assert fake.submits == 5


def test_a_week_later_nothing_can_be_had_and_nothing_is_refused(fake, tmp_path, clock):
    paid_for(fake, tmp_path, request(), arrays=[PHOTO])
    with a_lane(fake, tmp_path) as lane, pytest.raises(errors.SegmindError, match="may be this one"):
        run(lane, request(), arrays=[PHOTO])
    clock.slept = fake.clock.now() - clock.wall() + 8 * DAY_S
    fake.clock.advance(8 * DAY_S)
    with a_lane(fake, tmp_path, clock=clock) as lane:
        assert run(lane, request(), arrays=[PHOTO])
    assert fake.submits == 2


def test_inputs_that_the_history_does_not_tell_may_be_any(fake, tmp_path, monkeypatch):
    paid_for(fake, tmp_path, request())
    monkeypatch.setattr(type(fake.service.book.jobs()[0]), "body", property(lambda job: {}), raising=False)
    fake.settings.history_extra = {}
    with a_lane(fake, tmp_path) as lane, pytest.raises(errors.SegmindError, match="inputs it does not tell"):
        run(lane, request("something else"))
    assert fake.submits == 1


def test_a_failed_job_is_not_taken_for_a_paid_one(fake, tmp_path):
    fake.behave(Behaviour(), Behaviour.moderated())
    with a_lane(fake, tmp_path) as lane:
        run(lane, request("kept"))
        with pytest.raises(errors.JobFailed):
            run(lane, request())
    lose(tmp_path)
    with a_lane(fake, tmp_path) as lane:
        assert run(lane, request())
    assert (fake.submits, len(fake.ledger)) == (3, 2)


def test_the_last_of_several_for_the_same_inputs_is_the_one_that_counts(fake, tmp_path):
    with a_lane(fake, tmp_path) as lane:
        first, last = (run(lane, request(), reuse="always_new")[0].receipt["request_id"] for _ in range(2))
    lose(tmp_path)
    with a_lane(fake, tmp_path) as lane:
        assert run(lane, request())[0].receipt["request_id"] == last != first
    assert {row.request_id for row in list_jobs(tmp_path)} >= {first, last}


def test_every_page_is_read(fake, tmp_path):
    (paid,) = paid_for(fake, tmp_path, request())
    for n in range(250):
        fake.service.accept("flux-2-klein-9b", {"prompt": f"from elsewhere {n}", "seed": n})
    with a_lane(fake, tmp_path) as lane:
        (again,) = run(lane, request())
    assert again.receipt["request_id"] == paid.receipt["request_id"] and fake.submits == 1


@pytest.mark.parametrize("days", [-20, 20])
def test_the_days_asked_for_are_the_servers(fake, tmp_path, clock, days):
    paid_for(fake, tmp_path, request())
    clock.slept = days * DAY_S
    with a_lane(fake, tmp_path, clock=clock) as lane:
        assert run(lane, request())
    assert fake.submits == 1


def test_a_history_without_an_end_counts_as_unread(fake, tmp_path, monkeypatch):
    paid_for(fake, tmp_path, request())
    real, pages = Client.history, []

    async def history(self, first, last, page=1):
        pages.append(page)
        records, skew = await real(self, first, last)
        return tuple(type(one)(f"{one.request_id[:20]}-{page}", "COMPLETED", "") for one in records), skew

    monkeypatch.setattr(Client, "history", history)
    monkeypatch.setattr("klein9b.remote.history.MOST_PAGES", 3)
    with a_lane(fake, tmp_path) as lane, pytest.raises(errors.Unreachable, match="goes on after 3 pages"):
        run(lane, request("new"))
    assert pages == [1, 2, 3] and fake.submits == 1


def test_a_submit_that_is_being_looked_for_keeps_its_claim(fake, tmp_path):
    """always_new goes without the history; what it made is its own, whoever reads the history meanwhile."""
    paid_for(fake, tmp_path, request("kept"))
    with contextlib.closing(open_journal(tmp_path)) as journal:
        row = journal.claim("f" * 64, prompt="p", seed=1)
        journal.submitting(row.id, "digest")
        journal.unknown(row.id, "no answer")
        assert journal.history_is_due()
        found = [(one, "digest") for one in journal.rows() if one.id == row.id]
        journal.join([(type(row)(0, "another", 1, "ACCEPTED", request_id="request-1"), "digest"), *found])
        assert "request-1" not in {one.request_id for one in journal.rows()} and not journal.history_is_due()
        assert journal.found(row.id, "request-1")


def test_a_kept_picture_is_shown_without_a_key_or_a_network(fake, tmp_path):
    with a_lane(fake, tmp_path) as lane:
        (paid,) = run(lane, request())
    before = len(fake.requests)
    for name in (paid.receipt["request_id"], paid.receipt["sha256"]):
        shown = kept_picture(name, tmp_path)
        assert np.array_equal(shown.decoded.image, paid.decoded.image) and shown.receipt["reused"]
    assert kept_picture("no-such-request", tmp_path) is None
    assert len(fake.requests) == before
    next((tmp_path / "results").glob("*.png")).unlink()
    assert kept_picture(paid.receipt["request_id"], tmp_path) is None
    assert journal_of(tmp_path).is_file()
