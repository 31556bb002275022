"""Inbox: the subscription of a client: exactly once, in order, over everything that may happen between.

An entry is taken if it joins on: `prev_seq < position <= seq`. One below the position was taken before; one that does
not join on, `Lagging`, and the end of the stream are repaired alike: by sync from the position, then a new
subscription from there. What waits for the reader is bounded by the credit that the gateway gets.
"""

from __future__ import annotations

import asyncio
import enum
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType

from seriatim.entry import Entry, SyncPage
from seriatim.errors import Code, Refusal, SubscriptionError, SubscriptionRefused, TooLong

WINDOW = 1_024
"""entries that may wait for the reader"""
CREDIT_STEP = WINDOW // 4
"""taken entries after which the gateway gets new credit"""
SUBSCRIBE_PAUSE = 0.050
"""shortest pause behind a Subscribe that was refused for now"""


class Subscription:
    """The inbox's entries from a position on: each exactly once, in order. An asynchronous iterator for one reader.

    A new subscription of the same client ends this one. It ends with a `SubscriptionError`, or without one once the
    client or the subscription is closed.
    """

    def __init__(self, position: int, cursor: int | None, wake: Callable[[], None]) -> None:
        self._position = position
        self.cursor = cursor
        """acknowledged when it began"""
        self._entries: deque[Entry] = deque()
        self._arrived = asyncio.Event()
        self._end: SubscriptionError | None = None
        self._is_over = False
        self._taken = 0
        self._wake = wake
        self.is_dropped = False
        """the reader is gone"""

    @property
    def position(self) -> int:
        """First seq that the reader does not have."""
        return self._position

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Entry:
        while not self._entries:
            if self._is_over or self.is_dropped:
                error, self._end = self._end, None
                if error is not None and not self.is_dropped:
                    raise error
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        entry = self._entries.popleft()
        self._position = entry.end
        self._taken += 1
        if self._taken % CREDIT_STEP == 0:
            self._wake()
        return entry

    async def aclose(self) -> None:
        """Ends it. What waits is dropped; a reader stops."""
        self.is_dropped = True
        self._entries.clear()
        self._arrived.set()
        self._wake()

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # ---- the client's side ----

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entries: Iterable[Entry]) -> None:
        if not self.is_dropped:
            self._entries.extend(entries)
            self._arrived.set()

    def end(self, error: SubscriptionError | None) -> None:
        """There will be nothing more behind what waits."""
        if not self._is_over:
            self._is_over = True
            self._end = error
            self._arrived.set()

    def take_credit(self, at_least: int = CREDIT_STEP) -> int:
        """Credit to give, 0 until it is worth a frame."""
        if self._taken < at_least:
            return 0
        taken, self._taken = self._taken, 0
        return taken


@dataclass(frozen=True, slots=True)
class AskPage:
    """Ask for a page."""

    start: int


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Subscribe on this connection."""

    start: int
    cursor: int | None
    credit: int


@dataclass(frozen=True, slots=True)
class GiveCredit:
    """Give credit."""

    entries: int


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """What the stream would still bring is not wanted."""


Need = AskPage | Subscribe | GiveCredit | Unsubscribe


class _State(enum.Enum):
    FRESH = enum.auto()
    """not subscribed on this connection"""
    PAUSED = enum.auto()
    """as before, and the gateway takes no subscription yet"""
    LIVE = enum.auto()
    LEAVING = enum.auto()
    """the stream is to be ended, then pages are missing"""
    BEHIND = enum.auto()
    """pages are missing"""
    ASKED = enum.auto()
    """one is asked for"""
    OVER = enum.auto()


class Inbox:
    """The client's side of a subscription. No I/O."""

    def __init__(self, reader: Subscription) -> None:
        self.reader = reader
        self._position = reader.position
        self._state = _State.FRESH
        self._must_leave = False
        self._until = 0.0
        """of the pause"""

    @property
    def is_over(self) -> bool:
        return self._state is _State.OVER

    @property
    def is_live(self) -> bool:
        """Is what the stream brings wanted?"""
        return self._state is _State.LIVE

    def replace(self) -> None:
        """Another subscription takes this one's place."""
        self.end(SubscriptionRefused(Refusal.of(Code.KICKED, "another subscription began")))

    def end(self, error: SubscriptionError | None) -> None:
        """There will be nothing more."""
        self._must_leave |= self._state is _State.LIVE
        self._state = _State.OVER
        self.reader.end(error)

    def handle_lost(self) -> None:
        """A connection is gone: subscribe on the next one from the position."""
        self._must_leave = False
        if self._state in (_State.LIVE, _State.PAUSED):
            self._state = _State.FRESH
        elif self._state is _State.LEAVING:
            self._state = _State.BEHIND

    def handle_subscribe_refused(self, now: float, refusal: Refusal, rng: random.Random) -> None:
        """The gateway refused to subscribe on this connection, for now or for good."""
        if not refusal.retry:
            return self.end(SubscriptionRefused(refusal))
        if self._state in (_State.LIVE, _State.LEAVING):
            self._state = _State.PAUSED
            # Never earlier than told, and not all devices at once.
            self._until = now + max(refusal.retry_after_ms / 1000, SUBSCRIBE_PAUSE) * rng.uniform(1.0, 1.5)

    def poll_timeout(self) -> float | None:
        """When `handle_timeout` must be called."""
        return self._until if self._state is _State.PAUSED else None

    def handle_timeout(self, now: float) -> None:
        """The pause may be over."""
        if self._state is _State.PAUSED and self._until <= now:
            self._state = _State.FRESH

    def handle_entries(self, entries: Iterable[Entry]) -> None:
        """Pushed entries."""
        if self._state is not _State.LIVE:
            return
        joined = []
        for entry in entries:
            seq = entry.end - 1
            if seq < self._position:
                continue
            if entry.prev_seq is not None and entry.prev_seq >= self._position:
                self._state = _State.LEAVING
                break
            self._position = seq + 1
            joined.append(entry)
        self.reader.put(joined)

    def handle_lagging(self, upto: int) -> None:
        """The gateway stopped pushing at the position. The inbox reaches to `upto`."""
        if self._state is _State.LIVE and upto > self._position:
            self._state = _State.LEAVING

    def handle_stream_end(self) -> None:
        """The inbox stream ended without the connection."""
        if self._state in (_State.LIVE, _State.LEAVING):
            self._state = _State.BEHIND

    def handle_page(self, page: SyncPage) -> None:
        """A page that was needed."""
        if self._state is not _State.ASKED:
            return
        if page.too_long:
            return self.end(TooLong(page.trim))
        self.reader.put(entry for entry in page.entries if entry.end > self._position)
        self._position = max(self._position, page.upto)
        self._state = _State.BEHIND if page.more else _State.FRESH

    def handle_page_refused(self, refusal: Refusal) -> None:
        """The page was refused, or not answered in time."""
        if self._state is not _State.ASKED:
            return
        if refusal.code in (Code.CURSOR_AHEAD, Code.FORBIDDEN):
            self.end(SubscriptionRefused(refusal))
        else:
            self._state = _State.BEHIND

    def need(self, is_connected: bool, is_pushed: bool) -> Need | None:
        """What to do now. `is_connected`: there is a session. `is_pushed`: the subscription's number is known, so
        that it can be given credit and ended."""
        if self.reader.is_dropped and self._state is not _State.OVER:
            self.end(None)
        if is_pushed and (self._must_leave or self._state is _State.LEAVING):
            self._must_leave = False
            if self._state is _State.LEAVING:
                self._state = _State.BEHIND
            return Unsubscribe()
        match self._state:
            case _State.FRESH if is_connected:
                self._state = _State.LIVE
                self.reader.take_credit(at_least=0)
                credit = max(WINDOW - len(self.reader), CREDIT_STEP)
                return Subscribe(self._position, self.reader.cursor, credit)
            case _State.LIVE if is_pushed and (credit := self.reader.take_credit()):
                return GiveCredit(credit)
            case _State.BEHIND if len(self.reader) < WINDOW:
                self._state = _State.ASKED
                return AskPage(self._position)
            case _:
                return None
