"""Client: the handle of a device: what it can ask."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from seriatim._frames import FRAME_BYTES_MAX
from seriatim._inbox import Subscription
from seriatim._pilot import Options, Pilot, TokenProvider
from seriatim._requests import Way
from seriatim._wire import Address, ClientCertificate, Trust
from seriatim.cursors import CursorStore
from seriatim.entry import (
    MESSAGE_BYTES_MAX,
    Act,
    AmendRequest,
    Committed,
    Conversation,
    Edit,
    Group,
    HistoryPage,
    Identity,
    Listed,
    ListPage,
    Numbers,
    Peer,
    Pin,
    React,
    Recall,
    SendRequest,
    SendStatus,
    StatusPage,
    SyncPage,
    check_id,
    check_name,
    check_seq,
    conversation_to_wire,
    new_message_id,
    send_status_from_wire,
    seq_from_wire,
)
from seriatim.errors import (
    Code,
    ConnectTimeout,
    OutcomeUnknown,
    ProtocolError,
    Refusal,
    Rejected,
    RequestError,
)
from seriatim.v1 import client_pb2 as pb
from seriatim.verify import verify_page

CONNECT_TIMEOUT = 10.0
REQUEST_TIMEOUT = 30.0
KEEP_ALIVE = 10.0
ADDED_BYTES_MAX = 64
"""bytes that the request id, and the id of the message before, add to a frame at most"""
REQUESTS_MAX = 256
"""requests without an answer"""

T = TypeVar("T")


def connect(
    addresses: str | Sequence[str],
    *,
    token: str | TokenProvider | None = None,
    device: str,
    certificate: ClientCertificate | None = None,
    ca: str | os.PathLike[str] | bytes | None = None,
    server_name: str | None = None,
    cursors: CursorStore | None = None,
    connect_timeout: float = CONNECT_TIMEOUT,
    request_timeout: float = REQUEST_TIMEOUT,
    keep_alive: float = KEEP_ALIVE,
) -> Connecting:
    """Connects a device of a user: ``async with connect(…) as client`` or ``client = await connect(…)``.

    From then on the client reconnects by itself.

    - `addresses`: `HOST:PORT` of the gateways, tried in turn.
    - `token`: a signed token, or a function (also an asynchronous one) that gives one: before every connection, and in
      good time before the session's token ends, to renew it. If it fails it is asked again after a pause.
    - `certificate`: shown to gateways that take client certificates; then no token is needed.
    - `device`: one endpoint of the user, 1 to 64 bytes; has its own cursor.
    - `ca`: the PEM file, or its bytes, of the only CA to trust; `None` takes the well-known ones.
    - `server_name`: whom the gateway's certificate must be for; `None` takes the host of the address.
    - `cursors`: where the device keeps how far it has stored its inbox.
    - `connect_timeout`: seconds to the first session; later connections are tried for ever.
    - `request_timeout`: seconds of a request, retries and reconnects included.
    - `keep_alive`: seconds without a datagram after which the gateway is asked whether it is there; at most 25.

    Raises `ValueError` for arguments out of their range, `ConnectError` if there is no session, `OSError` if `ca` or
    `certificate` cannot be read, and `CursorStoreError`.
    """
    listed = (addresses,) if isinstance(addresses, str) else tuple(addresses)
    if not listed:
        raise ValueError("connect without an address")
    if token is None and certificate is None:
        raise ValueError("connect without a token or a certificate")
    if not 0 < keep_alive <= 25:
        raise ValueError(f"a keep-alive of {keep_alive} s: more than 0 and at most 25 are needed")
    options = (tuple(Address.parse(one) for one in listed), token, check_name(device), keep_alive)

    async def make() -> Client:
        pem = ca if ca is None or isinstance(ca, bytes) else await asyncio.to_thread(Path(ca).read_bytes)
        cursor = await asyncio.to_thread(cursors.load) if cursors is not None else None
        if certificate is not None:
            # Told now, while somebody asks.
            await asyncio.to_thread(certificate.load)
        trust = Trust(server_name, pem, certificate)
        pilot = Pilot(Options(options[0], trust, options[1], options[2], options[3]))
        client = Client(pilot, request_timeout, cursors, cursor)
        pilot.start()
        try:
            await asyncio.wait_for(asyncio.shield(pilot.up), connect_timeout)
        except BaseException as error:
            await client.close()
            if isinstance(error, TimeoutError):
                raise ConnectTimeout(f"no answer from the gateway: {pilot.last_error or 'none yet'}") from error
            raise
        return client

    return Connecting(make)


class Connecting:
    """What `connect` gives: wait for it, or enter it."""

    def __init__(self, make: Callable[[], Awaitable[Client]]) -> None:
        self._make = make
        self._client: Client | None = None

    def __await__(self) -> Generator[object, None, Client]:
        return self._make().__await__()

    async def __aenter__(self) -> Client:
        self._client = await self._make()
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()


class Ticket:
    """A send or an amendment that is under way. Waiting for it gives `Committed`, or raises `Rejected` or
    `OutcomeUnknown`; it may be waited for again."""

    def __init__(self, future: asyncio.Future[Committed], request: SendRequest | AmendRequest) -> None:
        self._future = future
        self.request = request
        """what was sent: may be sent again after an unknown outcome"""

    def __await__(self) -> Generator[object, None, Committed]:
        # A waiter that goes away takes nobody's answer with it.
        return asyncio.shield(self._future).__await__()

    @property
    def is_done(self) -> bool:
        """Is there an end?"""
        return self._future.done()


class Client:
    """A device of a user, from `connect`. For one event loop.

    A request that is cancelled (its task, or a timeout of the caller's) goes on by itself; what became of a send is
    then known by its message id.
    """

    def __init__(self, pilot: Pilot, request_timeout: float, cursors: CursorStore | None, cursor: int | None) -> None:
        self._pilot = pilot
        self._request_timeout = request_timeout
        self._permits = asyncio.Semaphore(REQUESTS_MAX)
        self._cursors = cursors
        self._cursor = cursor
        self._saving = asyncio.Lock()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection; open requests end as rejected or unknown, and a subscription just ends."""
        await self._pilot.close()

    @property
    def identity(self) -> Identity:
        """Who the gateway takes this client for."""
        identity = self._pilot.identity
        assert identity is not None, "a client has had a session"
        return identity

    @property
    def connections(self) -> int:
        """Connections made so far: 1 and one for each reconnect."""
        return self._pilot.connections

    @property
    def cursor(self) -> int | None:
        """How far this device has stored its inbox, as its cursor store and `ack` say."""
        return self._cursor

    # ---- sending ----

    async def send(self, to: Conversation | str, body: bytes | str) -> Committed:
        """Sends a new message, retrying under one message id. `to`: a text is a user's name; `body`: a text is sent
        in UTF-8."""
        return await self.send_request(self.prepare(to, body))

    def prepare(self, to: Conversation | str, body: bytes | str, *, follows: bytes | None = None) -> SendRequest:
        """A new message that names what this client has seen of the conversation: what is needed to send it again much
        later."""
        conversation = _conversation(to)
        data = body.encode() if isinstance(body, str) else bytes(body)
        return SendRequest(conversation, data, follows=follows, known=self._pilot.known(conversation))

    async def send_request(self, request: SendRequest) -> Committed:
        """Sends a message, retrying under its message id."""
        return await (await self.submit(request))

    async def submit(self, request: SendRequest) -> Ticket:
        """Puts a message on its way and does not wait for its end. Messages submitted one after another to the same
        conversation take their places in this order. Waits while 256 requests are open."""
        self._check_body(request.body)
        send = pb.Send(
            message_id=request.message_id,
            conversation=conversation_to_wire(request.to),
            salt=request.salt,
            body=request.body,
            known=request.known or 0,
            follows=request.follows or b"",
        )

        return await self._submit(pb.ClientFrame(send=send), request)

    # ---- amending ----

    def prepare_amendment(self, to: Conversation | str, target: int, act: Act) -> AmendRequest:
        """A new amendment that names what this client has seen of the conversation: what is needed to send it again
        much later. `target`: the message's `conversation_seq`."""
        conversation = _conversation(to)
        return AmendRequest(conversation, target, act, known=self._pilot.known(conversation))

    async def submit_amendment(self, request: AmendRequest) -> Ticket:
        """Puts an amendment on its way, in the order of the messages and amendments submitted to the conversation.

        Rejected with `NOT_FOUND` if the target is no message that this user was given, `NOT_AUTHOR` if another one
        wrote what is to be edited or recalled, `RECALLED`, `TOO_LATE` beyond the tenant's time for it, and
        `AMENDMENTS_TOO_MANY`.
        """
        if isinstance(request.act, Edit):
            self._check_body(request.act.body)
        return await self._submit(pb.ClientFrame(amend=request.to_wire()), request)

    async def amend(self, to: Conversation | str, target: int, act: Act) -> Committed:
        """Sends a new amendment, retrying under one message id. Rejected as `submit_amendment` is."""
        return await (await self.submit_amendment(self.prepare_amendment(to, target, act)))

    async def edit(self, to: Conversation | str, target: int, body: bytes | str) -> Committed:
        """Gives a message of this user's own another body. The last edit in the conversation's order holds."""
        return await self.amend(to, target, Edit(body.encode() if isinstance(body, str) else bytes(body)))

    async def recall(self, to: Conversation | str, target: int) -> Committed:
        """Recalls a message of this user's own: its body and those of its edits are erased, for everybody and for
        good."""
        return await self.amend(to, target, Recall())

    async def react(self, to: Conversation | str, target: int, emoji: str, *, unset: bool = False) -> Committed:
        """Sets a reaction of this user to a message, or takes it back. Again, it changes nothing."""
        return await self.amend(to, target, React(emoji, unset))

    async def pin(self, to: Conversation | str, target: int, *, unset: bool = False) -> Committed:
        """Pins a message for all members, or unpins it."""
        return await self.amend(to, target, Pin(unset))

    # ---- what became of it ----

    async def query_send(self, to: Conversation | str, message_id: bytes, known: int | None = None) -> SendStatus:
        """What became of a send."""
        place = conversation_to_wire(_conversation(to))
        query = pb.QuerySend(message_id=check_id(message_id), conversation=place, known=known or 0)
        return await (await self._ask(Way.LANE, pb.ClientFrame(query_send=query), _send_status))

    async def cancel_send(self, to: Conversation | str, message_id: bytes, known: int | None = None) -> SendStatus:
        """Settles a send: if its message is not in the conversation, it never will be, and every attempt of it is
        refused with `CANCELLED`. `known` is what the send said. Answers what is true from now on: committed if the
        message was faster, cancelled, or expired; never not yet. May be asked again."""
        place = conversation_to_wire(_conversation(to))
        cancel = pb.CancelSend(message_id=check_id(message_id), conversation=place, known=known or 0)
        return await (await self._ask(Way.LANE, pb.ClientFrame(cancel_send=cancel), _send_status))

    async def create_group(self, group: Group, members: Sequence[str], *, message_id: bytes | None = None) -> Committed:
        """Creates a group of this user and `members`. With a message id of one's own it may be called again after an
        unknown outcome."""
        create = pb.CreateGroup(
            message_id=check_id(message_id or new_message_id()),
            group=group.key,
            members=[check_name(member) for member in members],
        )
        committed = await (await self._ask(Way.LANE, pb.ClientFrame(create_group=create), _committed))
        self._pilot.saw(group, committed.seq)
        return committed

    async def change_members(
        self,
        group: Group,
        *,
        add: Sequence[str] = (),
        remove: Sequence[str] = (),
        message_id: bytes | None = None,
        known: int | None = None,
    ) -> Committed:
        """Adds and removes members of a group. With a message id of one's own it may be called again after an unknown
        outcome, with the same `known`: the group's tail that was known before the first attempt, as `prepare` has
        it."""
        change = pb.ChangeMembers(
            message_id=check_id(message_id or new_message_id()),
            conversation=conversation_to_wire(group),
            add=[check_name(member) for member in add],
            remove=[check_name(member) for member in remove],
            known=(self._pilot.known(group) if known is None else known) or 0,
        )
        committed = await (await self._ask(Way.LANE, pb.ClientFrame(change_members=change), _committed))
        self._pilot.saw(group, committed.seq)
        return committed

    # ---- receiving ----

    def subscribe(self, from_seq: int | None = None) -> Subscription:
        """The inbox's entries from `from_seq` on, each exactly once, in order; `None`: from the stored cursor on, or
        else from the first. A client has one subscription: a new one ends the one before."""
        start = check_seq(from_seq) if from_seq is not None else self._cursor or 1
        return self._pilot.subscribe(start, self._cursor)

    async def ack(self, cursor: int) -> int:
        """Says that everything below `cursor` is stored on this device: to the cursor store, then to the gateway.
        Answers the gateway's durable cursor, which never goes back."""
        check_seq(cursor)
        async with self._saving:
            if self._cursor is None or cursor > self._cursor:
                if self._cursors is not None:
                    await asyncio.to_thread(self._cursors.save, cursor)
                self._cursor = cursor

        def take(frame: pb.ServerFrame) -> int:
            return seq_from_wire(_body(frame, "acked").acked.cursor, "cursor")

        return await (await self._ask(Way.CONTROL, pb.ClientFrame(ack=pb.Ack(cursor=cursor)), take))

    async def sync(self, from_seq: int | None = None, *, limit: int = 0, chain: bytes | None = None) -> SyncPage:
        """A page of the inbox from a position on, `None` from the first kept entry; `limit` 0 takes the gateway's.

        With `chain`, the chain at the last entry before the page (`ZERO_CHAIN` before the first), the page is proved:
        `ChainError` if something in it is missing, changed or out of order.
        """
        asked = pb.Sync(**{"from": from_seq or 0}, limit=limit)

        def take(frame: pb.ServerFrame) -> SyncPage:
            return SyncPage.from_wire(_body(frame, "sync_page").sync_page)

        page = await (await self._ask(Way.CALL, pb.ClientFrame(sync=asked), take))
        self._pilot.saw_all(page.entries)
        if chain is not None:
            verify_page(self.identity.user, chain, page)
        return page

    async def history(
        self, conversation: Conversation | str, from_seq: int | None = None, *, limit: int = 0
    ) -> HistoryPage:
        """A page of a conversation from a position on; `limit` 0 takes the gateway's."""
        place = conversation_to_wire(_conversation(conversation))
        asked = pb.History(conversation=place, **{"from": from_seq or 0}, limit=limit)

        def take(frame: pb.ServerFrame) -> HistoryPage:
            return HistoryPage.from_wire(_body(frame, "history_page").history_page)

        page = await (await self._ask(Way.CALL, pb.ClientFrame(history=asked), take))
        # From its start, the end of a page is a place of the conversation, also if nothing of it is kept.
        if page.entries or not from_seq:
            self._pilot.saw(_conversation(conversation), page.upto - 1)
        return page

    # ---- marks ----

    async def mark_read(self, conversation: Conversation | str, upto: int) -> Listed:
        """Says for all devices of the user that everything of a conversation up to this entry of the inbox is read. A
        mark only rises: a lower one changes nothing. Messages of one's own count as unread until they are marked, too.
        Rejected with `NOT_FOUND` if the conversation brought no such entry."""
        return await self._mark(conversation, pb.Mark(read_upto=check_seq(upto)))

    async def mute(self, conversation: Conversation | str, on: bool = True) -> Listed:
        """Says for all devices of the user whether he wants to be disturbed by a conversation. Rejected with
        `NOT_FOUND` if he has no such conversation."""
        return await self._mark(conversation, pb.Mark(muted=on))

    async def archive(self, conversation: Conversation | str, on: bool = True) -> Listed:
        """Says for all devices of the user whether he wants to see a conversation. Rejected with `NOT_FOUND` if he has
        no such conversation."""
        return await self._mark(conversation, pb.Mark(archived=on))

    async def list_conversations(self, after: Conversation | str | None = None, *, limit: int = 0) -> ListPage:
        """A page of the user's conversations behind `after`, with what is not read of each and of all; `limit` 0 takes
        the gateway's."""
        place = None if after is None else conversation_to_wire(_conversation(after))

        def take(frame: pb.ServerFrame) -> ListPage:
            return ListPage.from_wire(_body(frame, "list_page").list_page)

        page = await (await self._ask(Way.CALL, pb.ClientFrame(list=pb.List(after=place, limit=limit)), take))
        for listed in page.conversations:
            self._pilot.saw(listed.conversation, listed.last)
        return page

    async def status(self) -> StatusPage:
        """Where the inbox and its devices stand."""

        def take(frame: pb.ServerFrame) -> StatusPage:
            return StatusPage.from_wire(_body(frame, "status_page").status_page)

        return await (await self._ask(Way.CALL, pb.ClientFrame(status=pb.Status()), take))

    # ---- numbers ----

    async def next_numbers(self, counter: str, count: int = 1) -> Numbers:
        """Takes `count` numbers of a counter of the tenant: nobody else gets them, ever. The token needs the scope
        `sequence`. Repeated until answered: numbers may be skipped, none is given twice.

        Rejected with `COUNT_TOO_LARGE` beyond 65,536, `FORBIDDEN` without the scope, `QUOTA_EXCEEDED` when the tenant
        asks too often for too long, `GENERATION_EXHAUSTED` at a counter's end.
        """
        if count < 1:
            raise ValueError(f"a count is 1 or more: {count}")

        def take(frame: pb.ServerFrame) -> Numbers:
            numbers = _body(frame, "numbers").numbers
            first = seq_from_wire(numbers.first, "first")
            seq_from_wire(first + numbers.count, "count")
            return Numbers(first, numbers.count)

        asked = pb.Next(counter=check_name(counter), count=count)
        return await (await self._ask(Way.LANE, pb.ClientFrame(next=asked), take))

    async def current_number(self, counter: str) -> int:
        """Where a counter stands: every number that was answered before this call is below, none that is asked for
        after it returned is. Rejected as `next_numbers` is."""

        def take(frame: pb.ServerFrame) -> int:
            return seq_from_wire(_body(frame, "current_number").current_number.number, "number")

        asked = pb.Current(counter=check_name(counter))
        return await (await self._ask(Way.LANE, pb.ClientFrame(current=asked), take))

    # ---- steps ----

    def _check_body(self, body: bytes) -> None:
        bytes_max = self._pilot.limits.message_bytes or MESSAGE_BYTES_MAX
        if len(body) > bytes_max:
            text = f"a body of {len(body)} bytes, at most {bytes_max} are allowed"
            raise Rejected(Refusal.of(Code.MESSAGE_TOO_LARGE, text))

    async def _submit(self, frame: pb.ClientFrame, request: SendRequest | AmendRequest) -> Ticket:
        def take(answer: pb.ServerFrame) -> Committed:
            committed = _committed(answer)
            self._pilot.saw(request.to, committed.seq)
            return committed

        return Ticket(await self._ask(Way.LANE, frame, take, request.to), request)

    async def _mark(self, conversation: Conversation | str, mark: pb.Mark) -> Listed:
        mark.conversation.CopyFrom(conversation_to_wire(_conversation(conversation)))

        def take(frame: pb.ServerFrame) -> Listed:
            return Listed.from_wire(_body(frame, "marked").marked.now)

        return await (await self._ask(Way.LANE, pb.ClientFrame(mark=mark), take))

    async def _ask(
        self,
        way: Way,
        frame: pb.ClientFrame,
        take: Callable[[pb.ServerFrame], T],
        conversation: Conversation | None = None,
    ) -> asyncio.Future[T]:
        """Asks, once there is room among the open requests."""
        bytes_max = min(FRAME_BYTES_MAX, self._pilot.limits.frame_bytes or FRAME_BYTES_MAX) - ADDED_BYTES_MAX
        if frame.ByteSize() > bytes_max:
            raise Rejected(Refusal.of(Code.FRAME_TOO_LARGE, f"a request of {frame.ByteSize()} bytes"))
        await self._permits.acquire()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        # An end that nobody waits for any more is no news.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())

        def settled(end: pb.ServerFrame | RequestError) -> None:
            self._permits.release()
            if future.done():
                return
            if isinstance(end, RequestError):
                future.set_exception(end)
                return
            try:
                future.set_result(take(end))
            except ProtocolError as error:
                future.set_exception(OutcomeUnknown(Refusal.of(Code.INTERNAL, f"the gateway sent {error}")))

        self._pilot.ask(way, frame, self._request_timeout, settled, conversation)
        return future


def _conversation(to: Conversation | str) -> Conversation:
    return Peer(to) if isinstance(to, str) else to


def _body(frame: pb.ServerFrame, body: str) -> pb.ServerFrame:
    if frame.WhichOneof("body") != body:
        raise ProtocolError("another answer than asked for")
    return frame


def _committed(frame: pb.ServerFrame) -> Committed:
    committed = _body(frame, "committed").committed
    return Committed(seq_from_wire(committed.seq, "seq"), committed.duplicate)


def _send_status(frame: pb.ServerFrame) -> SendStatus:
    return send_status_from_wire(_body(frame, "send_status").send_status)
