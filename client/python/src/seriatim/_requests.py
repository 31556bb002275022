"""Requests: what was asked and not yet answered, and what to do with each refusal. No I/O, no clock of its own.

A request keeps its frame and is sent again as it is, after a lost connection and after a refusal that allows it.
Sends and amendments of one conversation that are under way at the same time name their predecessor (`follows`), so that
a retry of one cannot be overtaken by the next.

::

    ready ─▶ sent ─▶ answered
      ▲       │ refused, may be repeated ─▶ paused until … ─▶ ready
      │       │ OUT_OF_ORDER ─▶ parked until the predecessor is settled ─▶ ready
      └───────┴ connection lost                     time over ─▶ rejected or unknown
"""

from __future__ import annotations

import enum
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from seriatim.entry import Conversation
from seriatim.errors import Code, OutcomeUnknown, Refusal, Rejected, RequestError
from seriatim.v1 import client_pb2 as pb

PAUSE_MIN = 0.020
PAUSE_MAX = 1.0
_WRITES = frozenset(("send", "amend", "cancel_send", "create_group", "change_members", "next"))
"""Requests of which it matters whether an attempt happened."""
_HEAVY = frozenset(("sync", "history", "list"))
_HEAVY_WEIGHT = 32


class Way(enum.Enum):
    """The stream that a request goes on."""

    CONTROL = enum.auto()
    LANE = enum.auto()
    CALL = enum.auto()


class _State(enum.Enum):
    READY = enum.auto()
    SENT = enum.auto()
    PAUSED = enum.auto()
    PARKED = enum.auto()


def _send_of(frame: pb.ClientFrame) -> pb.Send | pb.Amend:
    """What has a place among the sends of its conversation."""
    return frame.amend if frame.WhichOneof("body") == "amend" else frame.send


Settled = Callable[[pb.ServerFrame | RequestError], None]


@dataclass(slots=True)
class Request:
    """One of them."""

    way: Way
    frame: pb.ClientFrame
    conversation: Conversation | None
    """of a send or an amendment"""
    deadline: float
    settled: Settled
    due: float
    size: int = 0
    """bytes of its frame"""
    state: _State = _State.READY
    attempts: int = 0
    uncertain: bool = False
    """an attempt may have happened"""
    refusal: Refusal | None = None

    @property
    def id(self) -> int:
        return self.frame.request_id

    @property
    def what(self) -> str:
        return self.frame.WhichOneof("body") or ""

    @property
    def weight(self) -> int:
        """How much of the gateway's limit of requests it uses."""
        return _HEAVY_WEIGHT if self.what in _HEAVY else 1


@dataclass(slots=True)
class Requests:
    """All of a client."""

    rng: random.Random = field(default_factory=random.Random)
    _requests: dict[int, Request] = field(default_factory=dict)
    _ready: set[int] = field(default_factory=set)
    _timers: list[tuple[float, int]] = field(default_factory=list)
    """heap; one whose request is gone or is due at another time means nothing"""
    _last_sends: dict[Conversation, bytes] = field(default_factory=dict)
    """the last send of a conversation that is under way"""
    _id_last: int = 0

    def new_id(self) -> int:
        """For a frame that is no request."""
        self._id_last += 1
        return self._id_last

    def add(
        self,
        way: Way,
        frame: pb.ClientFrame,
        deadline: float,
        settled: Settled,
        conversation: Conversation | None = None,
    ) -> None:
        """Takes a request. `conversation`: of a send or an amendment."""
        frame.request_id = self.new_id()
        if conversation is not None:
            send = _send_of(frame)
            last = self._last_sends.get(conversation)
            self._last_sends[conversation] = send.message_id
            if last is not None and not send.follows and last != send.message_id:
                send.follows = last
        request = Request(way, frame, conversation, deadline, settled, due=deadline, size=frame.ByteSize())
        self._requests[request.id] = request
        self._ready.add(request.id)
        heapq.heappush(self._timers, (deadline, request.id))

    def ready(self) -> list[Request]:
        """What is to be sent, oldest first."""
        return [self._requests[id] for id in sorted(self._ready)]

    @property
    def is_waiting(self) -> bool:
        """Is an answer awaited?"""
        return any(request.state is _State.SENT for request in self._requests.values())

    @property
    def sent_weight(self) -> int:
        """How much of the gateway's limit of requests is used."""
        return sum(request.weight for request in self._requests.values() if request.state is _State.SENT)

    @property
    def lane_bytes(self) -> int:
        """Bytes on the lane that have no answer yet."""
        sent = (r for r in self._requests.values() if r.state is _State.SENT and r.way is Way.LANE)
        return sum(request.size for request in sent)

    def sent(self, id: int) -> None:
        """It is on its way."""
        self._ready.discard(id)
        request = self._requests[id]
        request.state = _State.SENT
        request.attempts += 1

    def handle_lost(self) -> None:
        """The connection is gone: what was sent may have happened, and is sent again."""
        for request in self._requests.values():
            if request.state is _State.SENT:
                request.state = _State.READY
                request.uncertain = True
                self._ready.add(request.id)

    def handle_answer(self, now: float, frame: pb.ServerFrame) -> None:
        """An answer of the gateway. One to nothing that was sent is ignored."""
        request = self._requests.get(frame.request_id)
        if request is None or request.state is not _State.SENT:
            return
        if frame.WhichOneof("body") != "error":
            return self._settle(request, frame)
        refusal = Refusal.from_wire(frame.error)
        if refusal.code == Code.OUT_OF_ORDER and self._follows_open(request):
            request.state, request.refusal = _State.PARKED, refusal
            return
        if refusal.retry:
            return self._pause(now, request, refusal, refusal.unknown)
        before = request.uncertain and request.what in _WRITES
        uncertain = refusal.unknown or (before and not refusal.settles)
        self._settle(request, OutcomeUnknown(refusal) if uncertain else Rejected(refusal))

    def handle_broken(self, now: float, id: int) -> None:
        """A stream of a call broke without an answer."""
        request = self._requests.get(id)
        if request is not None and request.state is _State.SENT:
            self._pause(now, request, Refusal.of(Code.UNAVAILABLE, "the stream broke"), uncertain=True)

    def poll_timeout(self) -> float | None:
        """When `handle_timeout` must be called."""
        while self._timers:
            due, id = self._timers[0]
            request = self._requests.get(id)
            if request is not None and request.due == due:
                return due
            heapq.heappop(self._timers)
        return None

    def handle_timeout(self, now: float) -> None:
        """Pauses that are over, and times."""
        while (due := self.poll_timeout()) is not None and due <= now:
            request = self._requests[heapq.heappop(self._timers)[1]]
            if request.deadline <= now:
                self._time_over(request)
            else:
                request.state = _State.READY
                self._ready.add(request.id)
                self._set_due(request, request.deadline)

    def handle_end(self, refusal: Refusal) -> None:
        """This client will never be connected again."""
        for request in list(self._requests.values()):
            happened = request.uncertain or request.state is _State.SENT
            self._settle(request, OutcomeUnknown(refusal) if happened else Rejected(refusal))

    # ---- steps ----

    def _time_over(self, request: Request) -> None:
        refusal = Refusal.of(Code.TIMEOUT, "no answer in time")
        if request.uncertain or request.state is _State.SENT:
            self._settle(request, OutcomeUnknown(refusal))
        else:
            # Without a refusal it was never sent: no connection in all that time.
            self._settle(request, Rejected(request.refusal or refusal))

    def _follows_open(self, request: Request) -> bool:
        """Is the send that this one follows still open here?"""
        follows = _send_of(request.frame).follows
        return bool(follows) and self._is_open(follows)

    def _is_open(self, message_id: bytes) -> bool:
        sends = (other for other in self._requests.values() if other.conversation is not None)
        return any(_send_of(other.frame).message_id == message_id for other in sends)

    def _pause(self, now: float, request: Request, refusal: Refusal, uncertain: bool) -> None:
        pause: float = min(PAUSE_MIN * 2 ** min(request.attempts - 1, 8), PAUSE_MAX) * self.rng.uniform(0.5, 1.0)
        # Later, never earlier than told, and not all at once.
        told = refusal.retry_after_ms / 1000 * self.rng.uniform(1.0, 1.5)
        request.uncertain |= uncertain
        request.refusal = refusal
        request.state = _State.PAUSED
        self._set_due(request, min(now + max(pause, told), request.deadline))

    def _set_due(self, request: Request, due: float) -> None:
        request.due = due
        heapq.heappush(self._timers, (due, request.id))

    def _settle(self, request: Request, end: pb.ServerFrame | RequestError) -> None:
        del self._requests[request.id]
        self._ready.discard(request.id)
        if request.conversation is not None:
            self._settle_place(request.conversation, _send_of(request.frame), isinstance(end, Rejected))
        request.settled(end)

    def _settle_place(self, conversation: Conversation, gone: pb.Send | pb.Amend, rejected: bool) -> None:
        """A send is settled: those behind it go on. If it was rejected, they follow the one that it followed; if it is
        unknown, it may still come, and they keep their place behind it."""
        if self._is_open(gone.message_id):
            return  # the same message, asked twice
        if self._last_sends.get(conversation) == gone.message_id:
            del self._last_sends[conversation]
            if rejected and gone.follows and self._is_open(gone.follows):
                self._last_sends[conversation] = gone.follows
        for request in self._requests.values():
            if request.conversation is None or _send_of(request.frame).follows != gone.message_id:
                continue
            if rejected:
                _send_of(request.frame).follows = gone.follows
            if request.state is _State.PARKED:
                request.state = _State.READY
                self._ready.add(request.id)
