"""Entry: what the protocol says, in checked types.

Seqs are `int`s from 1 on, below 2^53. Bounds (`upto`, `tail`, `cursor`) are exclusive.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

from seriatim.errors import ProtocolError
from seriatim.v1 import client_pb2 as pb

MESSAGE_BYTES_MAX = 65_536
"""bytes of a message's body"""
SALT_BYTES_MAX = 32
NAME_BYTES_MAX = 64
ID_BYTES = 16
SEQ_END = 1 << 53
"""seqs are below"""
ZERO_CHAIN = bytes(ID_BYTES)
"""the chain before the first entry"""


def check_name(name: str) -> str:
    """A name of a user, a device or a counter, or a reaction's emoji: 1 to 64 bytes, no control characters.
    `ValueError` for others."""
    if not 1 <= len(name.encode()) <= NAME_BYTES_MAX:
        raise ValueError(f"a name has 1 to {NAME_BYTES_MAX} bytes: {name!r}")
    if any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in name):
        raise ValueError(f"a name with a control character: {name!r}")
    return name


def check_id(value: bytes) -> bytes:
    """A message's or a group's id: 16 bytes. `ValueError` for others."""
    if len(value) != ID_BYTES:
        raise ValueError(f"an id of {len(value)} bytes, {ID_BYTES} are needed")
    return bytes(value)


def check_seq(seq: int) -> int:
    """A seq. `ValueError` for others."""
    if not 1 <= seq < SEQ_END:
        raise ValueError(f"a seq is from 1 on and below 2^53: {seq}")
    return seq


def new_message_id() -> bytes:
    """A UUIDv7: 48 bits of Unix milliseconds, then random."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return value.to_bytes(ID_BYTES, "big")


@dataclass(frozen=True, slots=True, order=True)
class Peer:
    """The direct conversation with a user; one's own name for notes to oneself."""

    user: str

    def __post_init__(self) -> None:
        check_name(self.user)


@dataclass(frozen=True, slots=True, order=True)
class Group:
    """A group, by the 16 bytes that its creator chose."""

    key: bytes

    def __post_init__(self) -> None:
        check_id(self.key)

    @classmethod
    def new(cls) -> Group:
        """With a random key, for `Client.create_group`."""
        return cls(os.urandom(ID_BYTES))


Conversation: TypeAlias = Peer | Group
"""A conversation as its member names it."""


class Kind(enum.IntEnum):
    """What an entry is."""

    MESSAGE = 0
    CREATE = 1
    MEMBERS = 2
    EDIT = 3
    """another body for an earlier message, its `target`"""
    RECALL = 4
    """the bodies of the target and of its edits are erased"""
    REACTION = 5
    PIN = 6
    READ = 7
    """a mark of the user's own, in no other inbox: everything up to `conversation_seq` is read"""
    MUTE = 8
    ARCHIVE = 9

    @property
    def is_amendment(self) -> bool:
        """Is it about an earlier message?"""
        return Kind.EDIT <= self <= Kind.PIN

    @property
    def is_mark(self) -> bool:
        """Does it come from the user himself, and from no conversation?"""
        return self >= Kind.READ


class BodyState(enum.Enum):
    """Where the body of an entry is."""

    HERE = "here"
    ERASED = "erased"
    TRIMMED = "trimmed"
    UNAVAILABLE = "unavailable"
    """for now: the entry counts, and `Client.history` may have the body later"""


class SendState(enum.Enum):
    """What became of a send."""

    COMMITTED = "committed"
    CANCELLED = "cancelled"
    """it will never be"""
    EXPIRED = "expired"
    """too old to be known"""
    NOT_YET = "not yet"
    """no verdict: an attempt may still be under way"""


@dataclass(frozen=True, slots=True)
class Committed:
    """A message, an amendment, a group or a change of members is durable."""

    seq: int
    """place in the conversation"""
    duplicate: bool
    """an earlier attempt had done it"""


@dataclass(frozen=True, slots=True)
class SendStatus:
    """The answer to `Client.query_send` and `Client.cancel_send`."""

    state: SendState
    seq: int | None
    """place in the conversation, if committed"""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A run of numbers of a counter: nobody else's for ever."""

    first: int
    count: int

    @property
    def end(self) -> int:
        """The first number behind the run."""
        return self.first + self.count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.end))


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the gateway takes this client for."""

    tenant: int
    user: str
    generation: int
    """raised when the cluster was restored from a backup: older positions may then lie in the future"""


@dataclass(frozen=True, slots=True)
class SendRequest:
    """A message to send. The same value may be sent again after an unknown outcome: it stays the same message.

    `ValueError` for an id, a salt or a seq out of its range. A body that is too large is refused when it is sent.
    """

    to: Conversation
    body: bytes = field(repr=False)
    """opaque, at most 64 KiB"""
    message_id: bytes = field(default_factory=new_message_id)
    """idempotency key, 16 bytes"""
    salt: bytes = field(default_factory=lambda: os.urandom(ID_BYTES), repr=False)
    """of the body's hash, at most 32 bytes"""
    follows: bytes | None = None
    """a message of this sender that must be settled before; by itself, the client names its last open send"""
    known: int | None = None
    """the conversation's tail known before the first attempt; see `Client.prepare`"""

    def __post_init__(self) -> None:
        check_id(self.message_id)
        if self.follows is not None:
            check_id(self.follows)
        if len(self.salt) > SALT_BYTES_MAX:
            raise ValueError(f"a salt of {len(self.salt)} bytes, at most {SALT_BYTES_MAX} are allowed")
        if self.known is not None:
            check_seq(self.known)


@dataclass(frozen=True, slots=True)
class Edit:
    """Another body for a message of one's own."""

    body: bytes = field(repr=False)
    """opaque, at most 64 KiB"""
    salt: bytes = field(default_factory=lambda: os.urandom(ID_BYTES), repr=False)
    """of the body's hash, at most 32 bytes"""

    def __post_init__(self) -> None:
        if len(self.salt) > SALT_BYTES_MAX:
            raise ValueError(f"a salt of {len(self.salt)} bytes, at most {SALT_BYTES_MAX} are allowed")


@dataclass(frozen=True, slots=True)
class Recall:
    """The end of a message of one's own: its body and those of its edits are erased, for everybody and for good."""


@dataclass(frozen=True, slots=True)
class React:
    """A reaction of this user."""

    emoji: str
    """1 to 64 bytes"""
    unset: bool = False
    """take it back"""

    def __post_init__(self) -> None:
        check_name(self.emoji)


@dataclass(frozen=True, slots=True)
class Pin:
    """A pin for all members."""

    unset: bool = False
    """take it away, whoever pinned"""


Act: TypeAlias = Edit | Recall | React | Pin
"""What may be done about an earlier message."""


@dataclass(frozen=True, slots=True)
class AmendRequest:
    """An amendment to send: an entry about an earlier message. The same value may be sent again after an unknown
    outcome; `Client.query_send` and `Client.cancel_send` know its message id too.

    `ValueError` for an id or a seq out of its range.
    """

    to: Conversation
    target: int
    """the message's `conversation_seq`"""
    act: Act
    message_id: bytes = field(default_factory=new_message_id)
    """idempotency key, 16 bytes"""
    follows: bytes | None = None
    """as in `SendRequest`"""
    known: int | None = None
    """as in `SendRequest`; see `Client.prepare_amendment`"""

    def __post_init__(self) -> None:
        check_seq(self.target)
        check_id(self.message_id)
        if self.follows is not None:
            check_id(self.follows)
        if self.known is not None:
            check_seq(self.known)

    def to_wire(self) -> pb.Amend:
        """Its frame."""
        amend = pb.Amend(
            message_id=self.message_id,
            conversation=conversation_to_wire(self.to),
            target=self.target,
            known=self.known or 0,
            follows=self.follows or b"",
        )
        match self.act:
            case Edit(body, salt):
                amend.edit.CopyFrom(pb.Edit(salt=salt, body=body))
                amend.edit.SetInParent()
            case Recall():
                amend.recall.SetInParent()
            case React(emoji, unset):
                amend.react.CopyFrom(pb.React(emoji=emoji, unset=unset))
            case Pin(unset):
                amend.pin.CopyFrom(pb.Pin(unset=unset))
                amend.pin.SetInParent()
        return amend


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the inbox, or of a conversation (`HistoryPage`: then it has no place in the inbox)."""

    seq: int | None
    """place in the inbox; `None` in a `HistoryPage`"""
    prev_seq: int | None
    """entry before it in the inbox"""
    ordinal: int
    """messages of the inbox up to and with it"""
    conversation: Conversation
    conversation_seq: int
    """place in the conversation"""
    kind: Kind
    sender: str
    message_id: bytes
    at_ms: int
    """Unix milliseconds, never below the predecessor's in its conversation"""
    body_hash: bytes
    body_state: BodyState
    body: bytes = field(repr=False)
    """as it was sent; empty unless `body_state` is `HERE`"""
    salt: bytes = field(repr=False)
    added: tuple[str, ...]
    """who joined"""
    removed: tuple[str, ...]
    """who left"""
    chain: bytes | None
    """the inbox's chain up to and with it; only in a `SyncPage`"""
    target: int | None = None
    """of an amendment: `conversation_seq` of the message that it is about"""
    emoji: str | None = None
    """of a reaction"""
    unset: bool = False
    """a reaction, a pin, a mute or an archive was taken back"""

    @property
    def end(self) -> int:
        """The position behind it: what `Client.ack` takes once it is stored."""
        if self.seq is None:
            raise ValueError("an entry of a history has no place in the inbox")
        return self.seq + 1

    @classmethod
    def from_wire(cls, entry: pb.Entry) -> Entry:
        """Checks it; `ProtocolError` if it breaks the protocol."""
        kind = _known(_KINDS, entry.kind, "kind")
        return cls(
            seq=_optional_seq(entry.seq, "seq"),
            prev_seq=_optional_seq(entry.prev_seq, "prev_seq"),
            ordinal=entry.ordinal,
            conversation=conversation_from_wire(entry.conversation),
            conversation_seq=seq_from_wire(entry.conversation_seq, "conversation_seq"),
            kind=kind,
            sender=_name(entry.sender),
            message_id=_bytes16(entry.message_id, "message id"),
            at_ms=entry.at_ms,
            body_hash=_bytes16(entry.body_hash, "body hash"),
            body_state=_known(_BODY_STATES, entry.body_state, "body state"),
            body=entry.body,
            salt=entry.salt,
            added=tuple(_name(name) for name in entry.added),
            removed=tuple(_name(name) for name in entry.removed),
            chain=_bytes16(entry.chain, "chain") if entry.chain else None,
            target=seq_from_wire(entry.target, "target") if kind.is_amendment else None,
            emoji=_name(entry.emoji) if entry.emoji else None,
            unset=entry.unset,
        )

    @classmethod
    def of_inbox(cls, entry: pb.Entry) -> Entry:
        """As `from_wire`, with a place in the inbox."""
        checked = cls.from_wire(entry)
        if checked.seq is None or (checked.prev_seq is not None and checked.prev_seq >= checked.seq):
            raise ProtocolError("an entry with a malformed place in the inbox")
        return checked


@dataclass(frozen=True, slots=True)
class SyncPage:
    """A page of the inbox."""

    entries: tuple[Entry, ...]
    """rising by seq"""
    upto: int
    """nothing below it is missing: the next `from_seq`"""
    more: bool
    too_long: bool
    """entries from `from_seq` on were trimmed"""
    trim: int
    """first kept"""
    tail: int
    """the inbox's, when it was read"""
    chain: bytes
    """at the last entry below `upto`, zeros before the first"""

    @classmethod
    def from_wire(cls, page: pb.SyncPage) -> SyncPage:
        """Checks it; `ProtocolError` if it breaks the protocol."""
        return cls(
            entries=tuple(Entry.of_inbox(entry) for entry in page.entries),
            upto=seq_from_wire(page.upto, "upto"),
            more=page.more,
            too_long=page.too_long,
            trim=seq_from_wire(page.trim, "trim"),
            tail=seq_from_wire(page.tail, "tail"),
            chain=_bytes16(page.chain, "chain") if page.chain else ZERO_CHAIN,
        )


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """A page of a conversation."""

    entries: tuple[Entry, ...]
    """rising by `conversation_seq`"""
    upto: int
    """the next `from_seq`"""
    more: bool

    @classmethod
    def from_wire(cls, page: pb.HistoryPage) -> HistoryPage:
        """Checks it; `ProtocolError` if it breaks the protocol."""
        entries = tuple(replace(Entry.from_wire(entry), seq=None, prev_seq=None) for entry in page.entries)
        return cls(entries=entries, upto=seq_from_wire(page.upto, "upto"), more=page.more)


@dataclass(frozen=True, slots=True)
class Listed:
    """A conversation in the user's list."""

    conversation: Conversation
    last: int
    """everything up to this place of the conversation is in the inbox"""
    inbox_seq: int | None
    """the newest entry that it brought into the inbox"""
    messages: int
    """of it in the inbox"""
    unread: int
    """how many of them are not read"""
    read_upto: int | None
    """the read mark: the entry's place in the inbox"""
    read_seq: int | None
    """the read mark: the entry's place in the conversation"""
    muted: bool
    """the user does not want to be disturbed by it"""
    archived: bool
    """the user does not want to see it"""

    @classmethod
    def from_wire(cls, listed: pb.Listed) -> Listed:
        """Checks it; `ProtocolError` if it breaks the protocol."""
        return cls(
            conversation=conversation_from_wire(listed.conversation),
            last=seq_from_wire(listed.last, "last"),
            inbox_seq=_optional_seq(listed.inbox_seq, "inbox_seq"),
            messages=listed.messages,
            unread=listed.unread,
            read_upto=_optional_seq(listed.read_upto, "read_upto"),
            read_seq=_optional_seq(listed.read_seq, "read_seq"),
            muted=listed.muted,
            archived=listed.archived,
        )


@dataclass(frozen=True, slots=True)
class ListPage:
    """A page of the user's conversations."""

    conversations: tuple[Listed, ...]
    """in an order of the server's own"""
    more: bool
    """there is more behind the last one"""
    unread: int
    """messages that are not read, of all conversations"""

    @classmethod
    def from_wire(cls, page: pb.ListPage) -> ListPage:
        """Checks it; `ProtocolError` if it breaks the protocol."""
        return cls(tuple(Listed.from_wire(listed) for listed in page.list), page.more, page.unread)


@dataclass(frozen=True, slots=True)
class StatusPage:
    """Where the inbox and its devices stand. `None` while nothing ever arrived."""

    trim: int | None
    """first kept"""
    tail: int | None
    """first unassigned"""
    ceiling: int | None
    """end of everything reserved"""
    ordinal: int
    """messages so far"""
    chain: bytes
    """at the last entry"""
    devices: dict[str, int]
    """cursors of all devices that have one"""

    @classmethod
    def from_wire(cls, page: pb.StatusPage) -> StatusPage:
        """Checks it; `ProtocolError` if it breaks the protocol."""
        return cls(
            trim=_optional_seq(page.trim, "trim"),
            tail=_optional_seq(page.tail, "tail"),
            ceiling=_optional_seq(page.ceiling, "ceiling"),
            ordinal=page.ordinal,
            chain=_bytes16(page.chain, "chain") if page.chain else ZERO_CHAIN,
            devices={_name(device.device): seq_from_wire(device.cursor, "cursor") for device in page.devices},
        )


def conversation_to_wire(conversation: Conversation) -> pb.Conversation:
    """As a frame names it."""
    if isinstance(conversation, Peer):
        return pb.Conversation(peer=conversation.user)
    return pb.Conversation(group=conversation.key)


def conversation_from_wire(conversation: pb.Conversation) -> Conversation:
    """Checks it; `ProtocolError` if it is none."""
    match conversation.WhichOneof("id"):
        case "peer":
            return Peer(_name(conversation.peer))
        case "group":
            return Group(_bytes16(conversation.group, "group"))
        case _:
            raise ProtocolError("an entry without a conversation")


def seq_from_wire(seq: int, what: str) -> int:
    """Checks it; `ProtocolError` if it is none."""
    if not 1 <= seq < SEQ_END:
        raise ProtocolError(f"a malformed {what}")
    return seq


def send_status_from_wire(status: pb.SendStatus) -> SendStatus:
    """Checks it; `ProtocolError` if it breaks the protocol."""
    state = _known(_SEND_STATES, status.state, "state")
    return SendStatus(state, seq_from_wire(status.seq, "seq") if state is SendState.COMMITTED else None)


def _optional_seq(seq: int, what: str) -> int | None:
    return seq_from_wire(seq, what) if seq else None


def _name(name: str) -> str:
    try:
        return check_name(name)
    except ValueError as error:
        raise ProtocolError("a malformed name") from error


def _bytes16(value: bytes, what: str) -> bytes:
    if len(value) != ID_BYTES:
        raise ProtocolError(f"a malformed {what}")
    return value


_T = TypeVar("_T")


def _known(table: dict[int, _T], value: int, what: str) -> _T:
    try:
        return table[value]
    except KeyError:
        raise ProtocolError(f"an unknown {what}: {value}") from None


_KINDS: dict[int, Kind] = {
    pb.Entry.KIND_MESSAGE: Kind.MESSAGE,
    pb.Entry.KIND_CREATE: Kind.CREATE,
    pb.Entry.KIND_MEMBERS: Kind.MEMBERS,
    pb.Entry.KIND_EDIT: Kind.EDIT,
    pb.Entry.KIND_RECALL: Kind.RECALL,
    pb.Entry.KIND_REACTION: Kind.REACTION,
    pb.Entry.KIND_PIN: Kind.PIN,
    pb.Entry.KIND_READ: Kind.READ,
    pb.Entry.KIND_MUTE: Kind.MUTE,
    pb.Entry.KIND_ARCHIVE: Kind.ARCHIVE,
}
_BODY_STATES: dict[int, BodyState] = {
    pb.Entry.BODY_HERE: BodyState.HERE,
    pb.Entry.BODY_ERASED: BodyState.ERASED,
    pb.Entry.BODY_TRIMMED: BodyState.TRIMMED,
    pb.Entry.BODY_UNAVAILABLE: BodyState.UNAVAILABLE,
}
_SEND_STATES: dict[int, SendState] = {
    pb.SendStatus.STATE_COMMITTED: SendState.COMMITTED,
    pb.SendStatus.STATE_CANCELLED: SendState.CANCELLED,
    pb.SendStatus.STATE_EXPIRED: SendState.EXPIRED,
    pb.SendStatus.STATE_NOT_YET: SendState.NOT_YET,
}
