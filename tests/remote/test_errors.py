import pytest

from klein9b.remote import errors
from klein9b.remote.errors import BadInput, DownloadRefused, Rejected, SegmindError

SECRET = "SG_" + "0123456789abcdef"


def test_says_what_happened_then_the_money_then_the_next_step_then_the_request():
    error = SegmindError("The job failed", "Nothing was charged", "Press Run again.", request_id="r-12345678")
    assert str(error) == "The job failed. Nothing was charged. Press Run again. (request_id r-12345678)"


def test_without_a_request_there_is_no_request_id():
    assert str(BadInput("The prompt is empty", errors.NOTHING_SENT, "Write one")) == (
        "The prompt is empty. Nothing was sent and nothing was charged. Write one."
    )


def test_the_request_id_may_be_learned_later():
    error = DownloadRefused("The file is cut short", "The job was charged", "Run again", retryable=True)
    error.request_id = "r-12345678"
    assert error.retryable
    assert str(error).endswith("(request_id r-12345678)")


def test_a_rejection_keeps_the_status_and_the_servers_words():
    error = Rejected("No", "Not charged", "Top up", status=406, words=f"bad key {SECRET}")
    assert (error.status, error.words) == (406, "bad key [key removed]")


@pytest.mark.parametrize("kind", [SegmindError, *SegmindError.__subclasses__()])
def test_no_error_shows_a_key(kind):
    extra = {"status": 401, "words": SECRET} if kind is Rejected else {}
    error = kind(f"a {SECRET}", f"b {SECRET}", f"c {SECRET}", request_id=SECRET, **extra)
    shown = f"{error}{error!r}{error.args}{vars(error) | {'request_id': ''}}"
    assert SECRET not in shown
    assert shown.count("[key removed]") >= 4
