"""Pilot: what a client does by itself: keeps a connection, brings requests out and answers in, repairs the
subscription.

One task dials. Everything else happens in callbacks of the event loop, which end with `_pump`: it sends what may be
sent and sets the one timer.

::

    waiting ─ pause over ─▶ dialing ─ Welcome ─▶ up ─ connection lost, or GoAway ─▶ dialing …
                               └─ refused for good ─▶ over: everything open ends
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from seriatim._inbox import WINDOW, AskPage, GiveCredit, Inbox, Subscribe, Subscription, Unsubscribe
from seriatim._renewal import Renewal
from seriatim._requests import Requests, Settled, Way
from seriatim._wire import LANE_BYTES_MAX, Address, DialError, Ended, Expired, Fatal, Trust, Wire, dial, greet
from seriatim.entry import Conversation, Entry, Identity, SyncPage
from seriatim.errors import (
    Code,
    ConnectError,
    ConnectRefused,
    ConnectTimeout,
    ProtocolError,
    Refusal,
    RequestError,
    SubscriptionRefused,
)
from seriatim.v1 import client_pb2 as pb

log = logging.getLogger("seriatim")

PAUSE_MIN = 0.050
PAUSE_MAX = 2.0
EXPIRED_MAX = 3
"""dials with fresh tokens that are refused as expired, before the client gives up"""
TOKEN_PATIENCE = 10.0
"""seconds of a token provider"""
REPAIR_TIMEOUT = 30.0
"""time of a page for the subscription until it is asked for anew"""

TokenProvider = Callable[[], str | Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Options:
    """What every connection of a client needs."""

    addresses: tuple[Address, ...]
    trust: Trust
    token: str | TokenProvider | None
    """`None`: the client certificate says who it is"""
    device: str
    keep_alive: float


class Backoff:
    """The pause before the next connection: doubles from 50 ms to 2 s, each time with a random part."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._pause = PAUSE_MIN

    def next(self) -> float:
        pause, self._pause = self._pause, min(self._pause * 2, PAUSE_MAX)
        return pause * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._pause = PAUSE_MIN


class Pilot:
    """Serves a client until it is closed or refused for good."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._rng = random.Random()
        self.requests = Requests(self._rng)
        self.identity: Identity | None = None
        self.limits = pb.Limits()
        self.connections = 0
        self.ended: ConnectError | None = None
        self.is_closed = False
        self.last_error = ""
        """of a dial"""
        self.up: asyncio.Future[None] = self._loop.create_future()
        """the first session"""
        self.up.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._wire: Wire | None = None
        self._wants_wire = asyncio.Event()
        self._attempt = 0
        self._backoff = Backoff(self._rng)
        self._up_since: float | None = None
        """when the last session began"""
        self._expired = 0
        self._timer: asyncio.TimerHandle | None = None
        self._pump_soon: asyncio.Handle | None = None
        self._tails: dict[Conversation, int] = {}
        # of the subscription
        self._inbox: Inbox | None = None
        self._subscribe_id: int | None = None
        """request id of a Subscribe without an answer"""
        self._subscription_id: int | None = None
        self._streams: dict[int, int | None] = {}
        """subscriptions of the inbox streams; `None` until the header is there"""
        self._held: list[tuple[int, pb.ServerFrame]] = []
        """frames of inbox streams that came before Subscribed did"""
        self._renewal: Renewal | None = None
        self._renewing: tuple[int, asyncio.Future[pb.ServerFrame]] | None = None
        """request id of a Renew without an answer, and who waits for it"""
        self._task: asyncio.Task[None] | None = None

    # ---- from the client ----

    def start(self) -> None:
        """Begins to dial."""
        self._wants_wire.set()
        self._task = asyncio.create_task(self._fly(), name=f"seriatim {self._options.device}")

    async def close(self) -> None:
        """Ends the connection; open requests end as rejected or unknown, a subscription just ends."""
        if not self.is_closed:
            self.is_closed = True
            self._finish(Refusal.of(Code.SHUTDOWN, "the client is closed"))
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def ask(
        self,
        way: Way,
        frame: pb.ClientFrame,
        timeout: float,
        settled: Settled,
        conversation: Conversation | None = None,
    ) -> None:
        """Takes a request. `conversation`: of a send."""
        self.requests.add(way, frame, self._loop.time() + timeout, settled, conversation)
        if self.is_closed or self.ended is not None:
            self.requests.handle_end(self._end_refusal())
        else:
            self.wake()

    def subscribe(self, start: int, cursor: int | None) -> Subscription:
        """A subscription that takes the place of the one before."""
        reader = Subscription(start, cursor, self.wake)
        if self._inbox is not None:
            self._inbox.replace()
        self._inbox = Inbox(reader)
        if self.is_closed:
            self._inbox.end(None)
        elif self.ended is not None:
            self._inbox.end(SubscriptionRefused(self._end_refusal()))
        else:
            self._leave_streams()
            self.wake()
        return reader

    def wake(self) -> None:
        """There is something to do."""
        if self._pump_soon is None and not self.is_closed and self.ended is None:
            self._pump_soon = self._loop.call_soon(self._pump)

    def known(self, conversation: Conversation) -> int | None:
        """The conversation's tail as far as this client has seen."""
        return self._tails.get(conversation)

    def saw(self, conversation: Conversation, seq: int) -> None:
        """A place of a conversation was seen."""
        self._tails[conversation] = max(self._tails.get(conversation, 0), seq + 1)

    # ---- the link ----

    async def _fly(self) -> None:
        try:
            while True:
                await self._wants_wire.wait()
                if self.ended is not None:
                    return
                if self._attempt > 0:
                    await asyncio.sleep(self._pause())
                try:
                    wire, welcome = await self._dial()
                except DialError as error:
                    self._handle_dial_error(error)
                else:
                    self._attach(wire, welcome)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # A defect of ours must not leave requests open for ever.
            log.exception("the client's task failed")
            self._die(ConnectTimeout(f"the client's task failed: {error!r}"))

    def _pause(self) -> float:
        """Before the next connection. One that was up for as long as the longest pause begins them anew: a gateway
        that lets a device in and throws it out is not asked without end."""
        if self._up_since is not None and self._loop.time() - self._up_since >= PAUSE_MAX:
            self._backoff.reset()
        self._up_since = None
        return self._backoff.next()

    async def _dial(self) -> tuple[Wire, pb.Welcome]:
        options, attempt = self._options, self._attempt
        self._attempt += 1
        count = len(options.addresses)
        address = options.addresses[attempt % count]
        wire = await dial(address, attempt // count, options.trust, options.keep_alive)
        try:
            token = await self._token()
        except BaseException:
            wire.drop()
            raise
        return wire, await greet(wire, token, options.device)

    async def _token(self) -> str:
        token = self._options.token
        if token is None:
            return ""
        if isinstance(token, str):
            return token
        try:
            given = token()
            if not inspect.isawaitable(given):
                return given
            async with asyncio.timeout(TOKEN_PATIENCE):
                return await given
        except Exception as error:
            # It may have been the network on the way to whoever makes tokens.
            raise DialError(f"the token provider failed: {error!r}") from error

    def _handle_dial_error(self, error: DialError) -> None:
        self.last_error = str(error)
        log.debug("dial failed: %s", error)
        match error:
            case Fatal():
                self._die(error.error)
            case Ended() if self.connections == 0:
                # Whoever never came in is told; whoever was in waits for a new one, which is read when it is there.
                self._die(error.error)
            case Expired() if self.connections > 0 and self._options.token is None:
                pass  # the certificate's, which ended behind the handshake
            case Expired():
                self._expired += 1
                if isinstance(self._options.token, str) or self._expired >= EXPIRED_MAX:
                    self._die(ConnectRefused(error.refusal))

    def _attach(self, wire: Wire, welcome: pb.Welcome) -> None:
        if self._wire is not None:
            # It was going down, and served on until there was another one.
            old, self._wire = self._wire, None
            old.drop()
            self._handle_lost()
        self._wire = wire
        self._wants_wire.clear()
        self._up_since = self._loop.time()
        self._expired = 0
        self.connections += 1
        self.limits = welcome.limits
        self.identity = Identity(welcome.tenant, welcome.user, welcome.generation)
        wire.attach(self)
        if callable(self._options.token) and welcome.expires_in_ms > 0:
            self._renewal = Renewal(self._token, self._renew, self._rng, welcome.expires_in_ms)
        if not self.up.done():
            self.up.set_result(None)
        self.wake()

    def _renew(self, token: str) -> asyncio.Future[pb.ServerFrame]:
        """Shows a fresh token."""
        answer: asyncio.Future[pb.ServerFrame] = self._loop.create_future()
        if self._wire is not None:
            self._renewing = (self.requests.new_id(), answer)
            renew = pb.Renew(token=token)
            self._wire.put(Way.CONTROL, pb.ClientFrame(request_id=self._renewing[0], renew=renew))
        return answer

    def _stop_renewal(self) -> None:
        if self._renewal is not None:
            self._renewal.stop()
        self._renewal = self._renewing = None

    def _handle_lost(self) -> None:
        self._stop_renewal()
        self.requests.handle_lost()
        self._subscribe_id = None
        self._leave_streams()
        if self._inbox is not None:
            self._inbox.handle_lost()

    def _die(self, error: ConnectError) -> None:
        log.info("client refused for good: %s", error)
        self.ended = error
        self._finish(self._end_refusal())
        if not self.up.done():
            self.up.set_exception(error)
        self._wants_wire.set()  # lets the task end

    def _end_refusal(self) -> Refusal:
        if isinstance(self.ended, ConnectRefused):
            return self.ended.refusal
        if self.ended is not None:
            return Refusal.of(Code.UNAVAILABLE, str(self.ended))
        return Refusal.of(Code.SHUTDOWN, "the client is closed")

    def _finish(self, refusal: Refusal) -> None:
        """Nothing will be answered any more."""
        self._stop_renewal()
        if self._timer is not None:
            self._timer.cancel()
        if self._pump_soon is not None:
            self._pump_soon.cancel()
        if self._wire is not None:
            wire, self._wire = self._wire, None
            wire.drop()
        self.requests.handle_end(refusal)
        if self._inbox is not None:
            self._inbox.end(None if self.is_closed else SubscriptionRefused(refusal))

    # ---- from the wire ----

    def handle_closed(self, wire: Wire, error: DialError) -> None:
        if wire is not self._wire:
            return
        log.debug("connection lost: %s", error)
        self._wire = None
        self._handle_lost()
        if isinstance(error, Fatal):
            return self._die(error.error)
        if isinstance(error, Expired) and isinstance(self._options.token, str):
            return self._die(ConnectRefused(error.refusal))
        self._wants_wire.set()

    def handle_frame(self, frame: pb.ServerFrame) -> None:
        if frame.request_id != 0 and frame.request_id == self._subscribe_id:
            return self._handle_subscribed(frame)
        if self._renewing is not None and frame.request_id == self._renewing[0]:
            (_, answer), self._renewing = self._renewing, None
            if not answer.done():
                answer.set_result(frame)
            return
        match frame.WhichOneof("body"):
            case "go_away":
                log.debug("the gateway goes down in %d ms", frame.go_away.drain_ms)
                # This connection serves on until there is another one.
                self._wants_wire.set()
            case _ if frame.request_id == 0:
                # Why the connection ends is in its close code.
                pass
            case _:
                self.requests.handle_answer(self._loop.time(), frame)

    def handle_call_broken(self, request_id: int) -> None:
        self.requests.handle_broken(self._loop.time(), request_id)

    def handle_read(self) -> None:
        self._pump()

    def is_waiting(self) -> bool:
        return self.requests.is_waiting or self._subscribe_id is not None

    def handle_inbox_frame(self, stream: int, frame: pb.ServerFrame) -> None:
        if frame.HasField("stream_header"):
            self._streams[stream] = frame.stream_header.subscription_id
        elif self._subscribe_id is not None:
            if self._streams.get(stream) is not None:
                self._held.append((stream, frame))
        elif self._is_current(stream) and self._inbox is not None:
            self._handle_pushed(self._inbox, frame)

    def handle_inbox_end(self, stream: int) -> None:
        is_current = self._is_current(stream)
        if self._subscribe_id is not None and self._streams.get(stream) is not None:
            # Whose end it is will be known with Subscribed.
            self._held.append((stream, pb.ServerFrame(end=True)))
            return
        self._streams.pop(stream, None)
        if is_current and self._inbox is not None:
            self._subscription_id = None
            self._inbox.handle_stream_end()

    # ---- the subscription ----

    def _is_current(self, stream: int) -> bool:
        subscription = self._streams.get(stream)
        return subscription is not None and subscription == self._subscription_id

    def _leave_streams(self) -> None:
        """What the streams that are there still bring is not wanted."""
        self._subscription_id = None
        self._streams.clear()
        self._held.clear()

    def _handle_subscribed(self, frame: pb.ServerFrame) -> None:
        self._subscribe_id = None
        held, self._held = self._held, []
        if frame.HasField("error"):
            if self._inbox is not None:
                refusal = Refusal.from_wire(frame.error)
                self._inbox.handle_subscribe_refused(self._loop.time(), refusal, self._rng)
                self.wake()
            return
        self._subscription_id = frame.subscribed.subscription_id
        for stream, pushed in held:
            if pushed.end:
                self.handle_inbox_end(stream)
            else:
                self.handle_inbox_frame(stream, pushed)

    def _handle_pushed(self, inbox: Inbox, frame: pb.ServerFrame) -> None:
        match frame.WhichOneof("body"):
            case "deliver":
                try:
                    entries = [Entry.of_inbox(entry) for entry in frame.deliver.entries]
                except ProtocolError as error:
                    return inbox.end(SubscriptionRefused(Refusal.of(Code.MALFORMED, str(error))))
                if inbox.is_live:
                    self.saw_all(entries)
                inbox.handle_entries(entries)
            case "lagging":
                inbox.handle_lagging(frame.lagging.upto)
            case "error":
                inbox.end(SubscriptionRefused(Refusal.from_wire(frame.error)))

    def saw_all(self, entries: Iterable[Entry]) -> None:
        """As `saw`."""
        for entry in entries:
            self.saw(entry.conversation, entry.conversation_seq)

    def _ask_page(self, inbox: Inbox, start: int) -> None:
        def settled(end: pb.ServerFrame | RequestError) -> None:
            if isinstance(end, RequestError):
                return inbox.handle_page_refused(end.refusal)
            try:
                page = SyncPage.from_wire(end.sync_page)
            except ProtocolError as error:
                return inbox.end(SubscriptionRefused(Refusal.of(Code.MALFORMED, str(error))))
            self.saw_all(page.entries)
            inbox.handle_page(page)

        frame = pb.ClientFrame(sync=pb.Sync(**{"from": start}, limit=WINDOW))
        self.requests.add(Way.CALL, frame, self._loop.time() + REPAIR_TIMEOUT, settled)

    def _pump_inbox(self, wire: Wire | None) -> None:
        if self._subscribe_id is not None:
            return  # its answer first
        while (inbox := self._inbox) is not None:
            need = inbox.need(wire is not None, wire is not None and self._subscription_id is not None)
            match need:
                case None:
                    break
                case AskPage():
                    self._ask_page(inbox, need.start)
                case Subscribe() if wire is not None:
                    self._leave_streams()
                    self._subscribe_id = self.requests.new_id()
                    asked = pb.Subscribe(**{"from": need.start}, cursor=need.cursor or 0, credit=need.credit)
                    wire.put(Way.CONTROL, pb.ClientFrame(request_id=self._subscribe_id, subscribe=asked))
                    break
                case GiveCredit() if wire is not None:
                    given = pb.Credit(subscription_id=self._subscription_id or 0, entries=need.entries)
                    wire.put(Way.CONTROL, pb.ClientFrame(credit=given))
                case Unsubscribe() if wire is not None:
                    left = pb.Unsubscribe(subscription_id=self._subscription_id or 0)
                    wire.put(Way.CONTROL, pb.ClientFrame(unsubscribe=left))
                    self._leave_streams()

    # ---- what goes out ----

    def _pump(self) -> None:
        if self._pump_soon is not None:
            self._pump_soon.cancel()
            self._pump_soon = None
        if self.is_closed or self.ended is not None:
            return
        self.requests.handle_timeout(self._loop.time())
        if self._inbox is not None:
            self._inbox.handle_timeout(self._loop.time())
        self._pump_inbox(self._wire)
        if self._wire is not None:
            self._send(self._wire)
        timeouts = (self.requests.poll_timeout(), None if self._inbox is None else self._inbox.poll_timeout())
        due = min((at for at in timeouts if at is not None), default=None)
        if self._timer is not None and (due is None or self._timer.when() > due):
            self._timer.cancel()
            self._timer = None
        if due is not None and self._timer is None:
            self._timer = self._loop.call_at(due, self._handle_timer)

    def _handle_timer(self) -> None:
        self._timer = None
        self._pump()

    def _send(self, wire: Wire) -> None:
        lane_bytes, weight = self.requests.lane_bytes, self.requests.sent_weight
        weight_max = self.limits.requests or 1
        full: set[Way] = set()
        for request in self.requests.ready():
            way = request.way
            is_heavy = way is not Way.CONTROL and weight > 0 and weight + request.weight > weight_max
            is_long = way is Way.LANE and lane_bytes > 0 and lane_bytes + request.size > LANE_BYTES_MAX
            if way in full:
                continue
            if is_heavy or is_long or not wire.put(way, request.frame):
                # What is behind it on the same way stays behind it.
                full.add(way)
                continue
            self.requests.sent(request.id)
            weight += request.weight
            lane_bytes += request.size if way is Way.LANE else 0
