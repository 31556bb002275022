"""Renewal: asks for a fresh token before the session's own ends, and shows it to the gateway.

Nothing is given up before the session's end: then the client comes again, with a token that it asks for anew.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from seriatim.errors import Code, Refusal
from seriatim.v1 import client_pb2 as pb

log = logging.getLogger("seriatim")

SHARE = (0.5, 0.7)
"""of what is left of the session, at which it is renewed, drawn at random"""
GAP = 1.0
"""seconds between two Renews at least: a source may give the same token again"""
PAUSE_MIN = 0.5
PAUSE_MAX = 30.0
PATIENCE = 10.0
"""seconds of the source, and then of the answer"""

Source = Callable[[], Awaitable[str]]
Show = Callable[[str], "asyncio.Future[pb.ServerFrame]"]
"""shows a token to the gateway; its answer"""


class Renewal:
    """The renewals of one connection, from its Welcome on, until `stop`."""

    def __init__(self, source: Source, show: Show, rng: random.Random, expires_in_ms: int) -> None:
        self._source = source
        self._show = show
        self._rng = rng
        self._pause = PAUSE_MIN
        self._task = asyncio.create_task(self._run(expires_in_ms), name="seriatim renewal")

    def stop(self) -> None:
        """The connection is gone."""
        self._task.cancel()

    async def _run(self, expires_in_ms: int) -> None:
        wait = self._wait(expires_in_ms)
        while True:
            await asyncio.sleep(wait)
            try:
                async with asyncio.timeout(PATIENCE):
                    token = await self._source()
                async with asyncio.timeout(PATIENCE):
                    answer = await self._show(token)
            except Exception as error:
                # It may have been the network on the way to whoever makes tokens.
                wait = self._after_failure(repr(error))
                continue
            if answer.HasField("renewed"):
                log.debug("session renewed for %d ms", answer.renewed.expires_in_ms)
                self._pause = PAUSE_MIN
                wait = self._wait(answer.renewed.expires_in_ms)
                continue
            refusal = Refusal.from_wire(answer.error)
            if refusal.code == Code.UNSUPPORTED:
                return
            wait = max(self._after_failure(str(refusal)), answer.error.retry_after_ms / 1000)

    def _wait(self, expires_in_ms: int) -> float:
        return max(GAP, expires_in_ms / 1000 * self._rng.uniform(*SHARE))

    def _after_failure(self, why: str) -> float:
        log.warning("session not renewed: %s", why)
        pause, self._pause = self._pause, min(self._pause * 2, PAUSE_MAX)
        return pause * self._rng.uniform(0.5, 1.0)
