"""What a person reads when a job gives no picture: what happened, whether it cost money, what to do next."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Iterator, Sequence

from .errors import (
    NOTHING_SENT,
    BadInput,
    DownloadRefused,
    Interrupted,
    JobFailed,
    OutcomeUnknown,
    Rejected,
    ResultLost,
    SegmindError,
    SpendCapReached,
    StillRunning,
    Unreachable,
)
from .journal import OverspendError
from .journal_check import is_damage
from .protocol import Rejection
from .rows import Row, State

SENT = "What was sent is not sent again, and is charged if it completes"
NOT_BILLED = "Segmind does not bill refused or failed jobs"
WILL_BE_CHARGED = "Segmind has no cancel: the job is charged if it completes, and its picture is kept for you"
PAID = "The job is paid"
CHARGED = "The job that made it has been charged"
WAITS_THERE = "The job is paid, and its picture stays at Segmind for seven days"
RUN_AGAIN = "Run the same inputs again to pick the job up; that costs nothing"

_ADVICE = {
    401: "Check SEGMIND_API_KEY or the key file, then run again",
    403: "Ask for access to flux-2-klein-9b at Segmind, or use another key",
    404: "Check SEGMIND_BASE_URL, and at Segmind that flux-2-klein-9b is still offered",
    405: "Check SEGMIND_BASE_URL: it does not look like Segmind's gateway",
    406: "Add credits at Segmind, then run again",
    410: "The model was retired: choose another",
    413: "Send smaller or fewer images",
    429: "Wait a minute, then run again",
}


def meaning(status: int, words: str) -> tuple[str, str]:
    """What a refusal means and what to do about it, as two sentences without their full stops."""
    said = f'Segmind refused ({status}): "{words}"'
    low = words.lower()
    if status == 401 and "missing" in low:
        return f"{said}: the key did not reach it", "Look for a proxy that removes headers, then run again"
    if status == 406 and ("content type" in low or "content-type" in low):
        return f"{said}: a content type problem on the way", "Look for a proxy that rewrites requests"
    if status == 406 and ("cap" in low or "limit" in low):
        return f"{said}: a spending limit of the team", "Raise the limit at Segmind, then run again"
    if status == 406 and "credit" not in low and "balance" not in low and words != "no explanation":
        return said, "Change the input that it names, then run again"
    return said, _ADVICE.get(status, "Change the input that it names, then run again")


def rejected(refusal: Rejection) -> Rejected:
    """The submit was refused."""
    what, todo = meaning(refusal.status, refusal.words)
    return Rejected(what, NOT_BILLED, todo, status=refusal.status, words=refusal.words)


def upload_refused(refusal: Rejection) -> Rejected:
    what, todo = meaning(refusal.status, refusal.words)
    return Rejected(f"Uploading an image: {what}", NOTHING_SENT, todo, status=refusal.status, words=refusal.words)


def no_request_id(text: str) -> BadInput:
    return BadInput(
        f"{text[:80]!r} is not a request_id: 8 to 64 letters, digits, - and _",
        NOTHING_SENT,
        "Copy one from the list, a receipt or Segmind's console",
    )


def unreachable(why: str) -> Unreachable:
    return Unreachable(f"Segmind could not be reached ({why})", NOTHING_SENT, "Check the network, then run again")


def too_late_to_send(timeout_s: float) -> Unreachable:
    return Unreachable(
        f"The job could not be submitted within {timeout_s:.0f} seconds", NOTHING_SENT, "Run again, or later"
    )


def outcome_unknown(row: Row) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"The job was sent and no answer came ({row.note or 'the program stopped'}), and the account's"
        " request history does not show it yet",
        "It may have been accepted and charged, so it is not sent again",
        "Run the same inputs again to look in the history once more; to pay for another, set reuse to always_new",
    )


def failed(row: Row) -> JobFailed:
    return JobFailed(
        f'Segmind reports that the job failed: "{row.note}"',
        "Failed jobs are not billed",
        "Change what it names, or run again to try again",
        request_id=row.request_id,
    )


def still_running(row: Row, waited_s: float) -> StillRunning:
    where = "has been sent" if row.request_id is None else "is still running at Segmind"
    return StillRunning(
        f"The job {where} after {waited_s:.0f} seconds of waiting",
        WILL_BE_CHARGED,
        f"{RUN_AGAIN} (within an hour is surest, seven days is the end)",
        request_id=row.request_id,
    )


def interrupted(request_ids: Sequence[str], sending: int) -> Interrupted:
    """The person pressed cancel.

    Args:
        request_ids: of the jobs that were accepted and had not ended.
        sending: how many more may have been accepted.
    """
    todo = RUN_AGAIN if request_ids or sending else "Run again when you like"
    if not request_ids and not sending:
        return Interrupted("You stopped before anything was submitted", NOTHING_SENT, todo)
    jobs = ", ".join(request_ids) or "a job whose answer had not come yet"
    return Interrupted(f"You stopped waiting for {jobs}", WILL_BE_CHARGED, todo)


def out_of_reach(row: Row, why: str) -> StillRunning:
    """The job was accepted, and now its state or picture cannot be read."""
    return StillRunning(
        f"The job was accepted, but Segmind does not let it be read now ({why})",
        PAID if row.state == State.COMPLETED else WILL_BE_CHARGED,
        f"Check the key and the network. {RUN_AGAIN}",
        request_id=row.request_id,
    )


def foreign_address(url: str) -> DownloadRefused:
    return DownloadRefused(
        f"The picture is said to be at {url[:300]!r}, which is not where Segmind keeps results",
        WAITS_THERE,
        "Open that address yourself if you trust it, and report it to the makers of this pack",
    )


def private_address(why: str) -> DownloadRefused:
    return DownloadRefused(why, WAITS_THERE, "Look for a DNS or proxy setting that redirects it")


def too_large(why: str) -> DownloadRefused:
    return DownloadRefused(why, WAITS_THERE, "Ask for a smaller or more compressed picture")


def refused_picture(why: str) -> DownloadRefused:
    return DownloadRefused(why, CHARGED, "Look for the job in Segmind's console, which keeps its file for some days")


def damaged_picture(kind: str, flaw: str) -> DownloadRefused:
    """Fetched once more it may be whole."""
    what = f"The {kind} file is damaged ({flaw})"
    todo = "Run the same inputs again: the paid picture is fetched again, not made again"
    return DownloadRefused(what, CHARGED, todo, retryable=True)


def lost(row: Row) -> ResultLost:
    return ResultLost(
        "The picture is gone: Segmind keeps results for seven days, and it is not in the local store",
        PAID if row.cost_usd is not None else "The job was accepted and was charged if it completed",
        "To pay for another, set reuse to always_new",
        request_id=row.request_id,
    )


def over_cap(error: OverspendError) -> SpendCapReached:
    return SpendCapReached(
        f"This job (about ${error.estimate_usd:.4f}) on top of ${error.committed_usd:.4f} spent or reserved"
        f" by this run would pass max_cost_usd ${error.cap_usd:.4f}",
        "Nothing was sent for it",
        "Raise max_cost_usd, or lower count",
    )


def history_unread(why: str) -> Unreachable:
    return Unreachable(
        "The job journal was lost and made anew, and the account's history, which shows what else has been paid,"
        f" could not be read ({why})",
        NOTHING_SENT,
        "Check the key and the network, then run again; to pay for another picture without looking, set reuse to"
        " always_new",
    )


def journal_lost(aside: str, restored: int) -> str:
    """What a person hears of an earlier journal.

    Args:
        aside: the name and the flaw of one that was damaged; empty where there was none.
        restored: how many jobs came back.
    """
    what = f"The damaged job journal is kept as {aside}" if aside else "The job journal was lost, in whole or in part"
    return (
        f"{what}, and {restored} jobs came back from the files beside it; before anything new is sent, the account's"
        " history is read for the rest."
    )


def may_be_paid(row: Row) -> SegmindError:
    """The history shows a job that cannot be told from this one."""
    known = "this prompt and these settings, with as many images" if row.prompt_start else "inputs it does not tell"
    return SegmindError(
        f"The job journal was lost and made anew, and the account's history shows a job with {known}: it may be this"
        " one",
        NOTHING_SENT,
        "See its picture with Segmind Jobs, which costs nothing; to pay for another, set reuse to always_new",
        request_id=row.request_id,
    )


def money_of(row: Row, sent: bool) -> str:
    """What a job has cost or may cost.

    Args:
        sent: whether some of it has left this machine.
    """
    if row.state in (State.COMPLETED, State.KEPT) or row.cost_usd is not None:
        return WAITS_THERE
    return SENT if sent or row.state not in (State.PLANNED, State.SUBMITTING) else NOTHING_SENT


def disk_failed(error: Exception, money: str, request_id: str | None = None) -> SegmindError:
    """The journal, a job's file or the store of pictures could not be read or written."""
    what, todo = _disk_words(error)
    run_again = "Then run again" if money == NOTHING_SENT else RUN_AGAIN
    return SegmindError(f"{what} ({error})", money, f"{todo}. {run_again}", request_id=request_id)


@contextlib.contextmanager
def on_disk(money: str, request_id: str | None = None) -> Iterator[None]:
    """Says in our words what goes wrong on the disk inside it."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise disk_failed(error, money, request_id) from None


def not_understood(error: Exception) -> SegmindError:
    """An answer, or this pack, did what nobody thought of."""
    return SegmindError(
        f"The job met something this pack does not know ({type(error).__name__}: {error})",
        SENT,
        f"{RUN_AGAIN}; if it happens again, report it to the makers of this pack",
    )


def no_picture_because(row: Row) -> SegmindError | None:
    """Why a final row gives no picture; None when it does, or is not final."""
    if row.state == State.FAILED:
        return failed(row)
    if row.state == State.EXPIRED:
        return lost(row)
    if row.state == State.REJECTED:
        return Rejected(row.note, NOT_BILLED, "Run again", status=0, words=row.note)
    return None


def _disk_words(error: Exception) -> tuple[str, str]:
    """What happened and what to do about it, without full stops."""
    words, code = str(error).lower(), getattr(error, "errno", None)
    if is_damage(error):
        return "The job journal is damaged", "The next run sets it aside and makes it anew"
    if "locked" in words:
        return "Another program holds the job journal", "Close it, be it a second ComfyUI or a backup"
    if "full" in words or code in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full: jobs and pictures cannot be written", "Make room on it"
    if "readonly" in words or "unable to open" in words or code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "The folder of jobs and pictures cannot be written", "Correct its permissions"
    return "The job journal or the store of pictures could not be read or written", "Look after that disk"
