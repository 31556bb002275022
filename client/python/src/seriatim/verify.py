"""Verify: proves from a page alone that nothing is missing, changed or out of order in it."""

from __future__ import annotations

from blake3 import blake3

from seriatim.entry import ID_BYTES, BodyState, Conversation, Entry, Group, Kind, SyncPage
from seriatim.errors import ChainError


def body_hash(salt: bytes, body: bytes) -> bytes:
    """What a message's header says of its body, 16 bytes."""
    return blake3(len(salt).to_bytes(8, "big") + salt + body).digest(ID_BYTES)


def header(user: str, entry: Entry) -> bytes:
    """What the chain of `user`'s inbox binds of an entry."""
    return b"".join(
        (
            b"\x01",
            _conversation(user, entry.conversation),
            _integer(entry.conversation_seq),
            _kind(entry),
            _text(entry.sender),
            entry.message_id,
            entry.body_hash,
            _integer(entry.at_ms),
        )
    )


def link(chain: bytes, prev_seq: int | None, seq: int, header: bytes) -> bytes:
    """The chain up to and with an entry, 16 bytes, from the chain before it."""
    return blake3(chain + (prev_seq or 0).to_bytes(8, "big") + seq.to_bytes(8, "big") + header).digest(ID_BYTES)


def verify_page(user: str, previous: bytes, page: SyncPage) -> bytes:
    """Recomputes the links of a page of `user`'s inbox from `previous`, the chain at the last entry before it
    (`ZERO_CHAIN` before the first). The chain at the page's last entry, for the next page. `ChainError` if the page
    does not follow.
    """
    chain = previous
    last: int | None = None
    for entry in page.entries:
        seq = entry.end - 1
        if last is not None and entry.prev_seq != last:
            raise ChainError(seq, "another predecessor than the page shows")
        chain = link(chain, entry.prev_seq, seq, header(user, entry))
        if entry.chain is not None and entry.chain != chain:
            raise ChainError(seq, "the chain breaks")
        if not body_matches(entry):
            raise ChainError(seq, "the body was changed")
        last = seq
    if last is not None and page.chain != chain:
        raise ChainError(last, "the chain breaks")
    return chain


def body_matches(entry: Entry) -> bool:
    """Does the body match its hash; of a reaction and of a pin, what they say? True where there is none to check."""
    if entry.body_state is not BodyState.HERE:
        return True
    set_or_not = bytes((not entry.unset,))
    match entry.kind:
        case Kind.CREATE | Kind.MEMBERS:
            return True
        case Kind.REACTION:
            says = set_or_not + (entry.emoji or "").encode()
            return entry.emoji is not None and body_hash(b"", says) == entry.body_hash
        case Kind.PIN:
            return body_hash(b"", set_or_not) == entry.body_hash
        case _:
            return body_hash(entry.salt, entry.body) == entry.body_hash


def _kind(entry: Entry) -> bytes:
    if entry.target is not None:
        return bytes((entry.kind,)) + _integer(entry.target)
    if entry.kind in (Kind.MUTE, Kind.ARCHIVE):
        return bytes((entry.kind, not entry.unset))
    return bytes((entry.kind,))


def _conversation(user: str, conversation: Conversation) -> bytes:
    if isinstance(conversation, Group):
        return b"\x01" + conversation.key
    # The smaller name by its bytes.
    first, second = sorted((user.encode(), conversation.user.encode()))
    return b"\x00" + _integer(len(first)) + first + _integer(len(second)) + second


def _text(text: str) -> bytes:
    data = text.encode()
    return _integer(len(data)) + data


def _integer(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)
