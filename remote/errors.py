"""What can go wrong between the graph and a paid picture.

    SegmindError
      MissingKey         no usable API key: nothing sent
      BadInput           a local check failed: nothing sent
      SpendCapReached    the job would pass the person's own limit: nothing sent
      Rejected           the server said no, in its own words
      JobFailed          accepted, then failed on the server: not billed
      OutcomeUnknown     the submit may or may not have arrived: never sent again
      Unreachable        no connection, or no turn before the deadline: nothing sent
      Interrupted        the person stopped waiting
      StillRunning       we stopped waiting, the job lives on: run again to re-attach
      ResultLost         accepted, but its picture can no longer be had
      DownloadRefused    the picture's address or bytes are not what we accept

Each message is three sentences: what happened, whether money was spent, what to do next; then the request_id
where there is one. Raise with `from None` when the cause is a transport error: its text may hold headers.
"""

from __future__ import annotations

from .redaction import redact

NOTHING_SENT = "Nothing was sent and nothing was charged."


class SegmindError(Exception):
    """Base of every error a person may see.

    Args:
        what: what happened.
        money: whether money was spent.
        todo: what to do next.
        request_id: Segmind's name for the job; may be set later by whoever knows it.
    """

    def __init__(self, what: str, money: str, todo: str, *, request_id: str | None = None) -> None:
        self.what, self.money, self.todo = (_sentence(redact(part)) for part in (what, money, todo))
        self.request_id = request_id
        super().__init__(self.what, self.money, self.todo)

    def among(self, kept: int, count: int) -> SegmindError:
        """This error as one of a batch: a copy, since several nodes may be told of the same one."""
        told = type(self).__new__(type(self), *self.args)
        told.__dict__.update(self.__dict__)
        if count > 1:
            told.todo += f" {kept} of {count} pictures of this batch are kept and will not be paid again."
        return told

    def __str__(self) -> str:
        said = f"{self.what} {self.money} {self.todo}"
        return f"{said} (request_id {redact(self.request_id)})" if self.request_id else said


class MissingKey(SegmindError):
    """No API key, or none that can be used."""


class BadInput(SegmindError):
    """A local check refused the request before anything was sent."""


class SpendCapReached(SegmindError):
    """Submitting would pass the limit the person set."""


class Rejected(SegmindError):
    """The server answered no; the request was not accepted.

    Args:
        status: HTTP status code.
        words: the server's own explanation, for showing and for telling apart the meanings of one code.
    """

    def __init__(
        self, what: str, money: str, todo: str, *, status: int, words: str, request_id: str | None = None
    ) -> None:
        super().__init__(what, money, todo, request_id=request_id)
        self.status = status
        self.words = redact(words)


class JobFailed(SegmindError):
    """The server accepted the job and then reported it FAILED."""


class OutcomeUnknown(SegmindError):
    """The submit was sent and no answer came: it may have been accepted, so it is not sent again."""


class StillRunning(SegmindError):
    """We stopped waiting before the job ended; the same inputs re-attach to it."""


class Unreachable(SegmindError):
    """Segmind could not be reached, or not in time, to submit the job."""


class Interrupted(SegmindError):
    """The person stopped waiting; jobs that Segmind accepted go on and are kept."""


class ResultLost(SegmindError):
    """The job was accepted and its picture can no longer be had, from Segmind or from here."""


class DownloadRefused(SegmindError):
    """A picture's address or bytes were refused.

    Args:
        retryable: whether fetching the same address again may give a good file (a truncated one, say).
    """

    def __init__(
        self, what: str, money: str, todo: str, *, retryable: bool = False, request_id: str | None = None
    ) -> None:
        super().__init__(what, money, todo, request_id=request_id)
        self.retryable = retryable


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
