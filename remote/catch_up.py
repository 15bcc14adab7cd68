"""Brings the journal on to what the job files know: it may have been lost, or be older than what has happened."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from .job_files import JobFiles
from .journal import Journal
from .rows import Row, State
from .vault import Vault

_ORDER = (State.PLANNED, State.UNKNOWN, State.ACCEPTED, State.COMPLETED, State.KEPT)


class CatchUp:
    """The journal of one folder and the files beside it."""

    def __init__(self, journal: Journal, files: JobFiles, vault: Vault) -> None:
        self._journal, self._files, self._vault = journal, files, vault

    async def further(self, row: Row) -> bool:
        """Whether the file of a row knew more of it, such as that it has been sent; then the row does now."""
        if row.state not in _ORDER:
            return False
        known = await self._known(row)
        if known is None or _ORDER.index(known.state) <= _ORDER.index(row.state):
            return False
        return self._journal.catch_up(row.id, known)

    async def sent_before(self, row: Row) -> None:
        """A row that was about to be sent, and whose file says that it has been: UNKNOWN, or what the file knows."""
        known = await self._known(row)
        self._journal.catch_up(row.id, known or replace(row, state=State.UNKNOWN, request_id=None))

    async def _known(self, row: Row) -> Row | None:
        """What the file knows; KEPT only where the picture is here."""
        known = await asyncio.to_thread(self._files.read, row.fingerprint, row.attempt)
        if known is None or known.state != State.KEPT:
            return known
        here = await asyncio.to_thread(self._vault.get, known.sha256)
        return known if here else replace(known, state=State.ACCEPTED, sha256="")
