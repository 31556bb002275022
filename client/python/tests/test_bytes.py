"""Bytes: frames and chains, against the vectors of the page."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page import vectors

from seriatim import ZERO_CHAIN, BodyState, ChainError, Entry, Kind, Peer, ProtocolError, SyncPage, verify_page
from seriatim._frames import FRAME_BYTES_MAX, FrameDecoder, encode_frame
from seriatim.errors import FrameTooLarge
from seriatim.v1 import client_pb2 as pb
from seriatim.verify import body_hash, body_matches, header, link

IDS = bytes(range(16))
SALT = bytes((1, 2, 3, 4))
Client, Server = pb.ClientFrame, pb.ServerFrame


def amend(**act: object) -> pb.ClientFrame:
    """Of 9, by the id and in the conversation of the page."""
    amended = pb.Amend(message_id=IDS, conversation=pb.Conversation(peer="bob"), target=9, **act)  # type: ignore[arg-type]
    return Client(request_id=10, amend=amended)


FRAMES: dict[str, pb.ClientFrame | pb.ServerFrame] = {
    "Hello, request 1": Client(request_id=1, hello=pb.Hello(token="abc", device="phone")),
    "Ping, request 7, nonce 3": Client(request_id=7, ping=pb.Ping(nonce=3)),
    "Subscribe from 1, credit 100, request 2": Client(request_id=2, subscribe=pb.Subscribe(**{"from": 1}, credit=100)),
    "Ack of everything below 300, request 3": Client(request_id=3, ack=pb.Ack(cursor=300)),
    'Send "hi" to bob, request 4': Client(
        request_id=4,
        send=pb.Send(message_id=IDS, conversation=pb.Conversation(peer="bob"), salt=SALT, body=b"hi"),
    ),
    'Amend: edit 9 to "ho", request 10': amend(edit=pb.Edit(salt=SALT, body=b"ho")),
    "Amend: recall 9, request 10": amend(recall=pb.Recall()),
    "Amend: react to 9 with +, request 10": amend(react=pb.React(emoji="+")),
    "Amend: unpin 9, request 10": amend(pin=pb.Pin(unset=True)),
    "Mark: bob's read up to 300, request 11": Client(
        request_id=11, mark=pb.Mark(conversation=pb.Conversation(peer="bob"), read_upto=300)
    ),
    "Renew by the token, request 13": Client(request_id=13, renew=pb.Renew(token="abc")),
    "List, request 12": Client(request_id=12, list=pb.List()),
    "Sync from 1, request 5": Client(request_id=5, sync=pb.Sync(**{"from": 1})),
    "Status, request 6": Client(request_id=6, status=pb.Status()),
    "Next 10 of orders, request 8": Client(request_id=8, next=pb.Next(counter="orders", count=10)),
    "Current of orders, request 9": Client(request_id=9, current=pb.Current(counter="orders")),
    "Numbers 41 to 50, request 8": Server(request_id=8, numbers=pb.Numbers(first=41, count=10)),
    "CurrentNumber 51, request 9": Server(request_id=9, current_number=pb.CurrentNumber(number=51)),
    "Renewed for an hour, request 13": Server(request_id=13, renewed=pb.Renewed(expires_in_ms=3_600_000)),
    "Committed at 9, request 4": Server(request_id=4, committed=pb.Committed(seq=9)),
    "Error CONFLICT, request 4": Server(request_id=4, error=pb.Error(code=6, name="CONFLICT")),
    "Lagging, subscription 1, tail 41": Server(lagging=pb.Lagging(subscription_id=1, upto=41)),
    "on a WebSocket: Ping, request 7, nonce 3, control stream": Client(request_id=7, ping=pb.Ping(nonce=3)),
    "on a WebSocket: Status, request 6, lane 2, the device's last frame": Client(
        request_id=6, status=pb.Status(), lane=2, end=True
    ),
    "on a WebSocket: the device ends lane 1": Client(optional=True, lane=1, end=True),
    "on a WebSocket: Committed at 9, request 4, lane 1": Server(request_id=4, lane=1, committed=pb.Committed(seq=9)),
    "on a WebSocket: Lagging, subscription 1, tail 41, its inbox stream": Server(
        inbox=1, lagging=pb.Lagging(subscription_id=1, upto=41)
    ),
    "on a WebSocket: the inbox stream of subscription 1 ends": Server(optional=True, inbox=1, end=True),
}
CHAIN_ROWS = {f"{value}{of}" for value in ("body hash", "header", "chain") for of in ("", " of the reaction")}


def test_c001_every_vector_is_made_and_read() -> None:
    found = vectors()
    assert set(found) == set(FRAMES) | CHAIN_ROWS, "the page has a vector that nobody looks at, or lost one"
    for name, frame in FRAMES.items():
        decoder = FrameDecoder(type(frame))
        decoder.push(found[name])
        assert decoder.next_frame() == frame, name
        assert decoder.is_clean, name
        if name.startswith("on a WebSocket"):
            # These have the fields in another order than Python's library writes them: see the page.
            assert len(encode_frame(frame)) == len(found[name]), name
        else:
            assert encode_frame(frame) == found[name], name


def test_c002_the_chain_of_the_vector() -> None:
    found = vectors()
    entry = an_entry(b"hi", seq=1, prev_seq=None, conversation_seq=9, at_ms=1000, sender="alice")
    assert body_hash(SALT, b"hi") == found["body hash"] == entry.body_hash
    assert header("alice", entry) == found["header"]
    assert link(ZERO_CHAIN, None, 1, header("alice", entry)) == found["chain"]
    # The other member of the conversation has the same header.
    assert header("bob", replace(entry, conversation=Peer("alice"))) == found["header"]


def test_c002_c081_the_chain_of_the_reaction() -> None:
    found = vectors()
    reaction = replace(
        an_entry(b"", seq=2, prev_seq=1, conversation_seq=10, at_ms=1000, sender="alice"),
        kind=Kind.REACTION,
        target=9,
        emoji="+",
        body_hash=found["body hash of the reaction"],
    )
    assert body_hash(b"", b"\x01+") == reaction.body_hash
    assert body_matches(reaction)
    assert header("alice", reaction) == found["header of the reaction"]
    assert link(found["chain"], 1, 2, header("alice", reaction)) == found["chain of the reaction"]


@pytest.mark.parametrize(
    "changed",
    [{"target": 8}, {"emoji": "-"}, {"emoji": None}, {"unset": True}, {"kind": Kind.PIN}, {"kind": Kind.EDIT}],
    ids=str,
)
def test_c006_c081_a_changed_amendment_breaks_the_chain(changed: dict[str, object]) -> None:
    said = an_entry(b"hi", seq=1, prev_seq=None, conversation_seq=9, at_ms=1000, sender="alice")
    reaction = replace(
        an_entry(b"", seq=2, prev_seq=1, conversation_seq=10, at_ms=1000, sender="alice"),
        kind=Kind.REACTION,
        target=9,
        emoji="+",
        body_hash=body_hash(b"", b"\x01+"),
    )
    first = link(ZERO_CHAIN, None, 1, header("alice", said))
    second = link(first, 1, 2, header("alice", reaction))

    def page(*entries: Entry) -> SyncPage:
        return SyncPage(entries, upto=3, more=False, too_long=False, trim=1, tail=3, chain=second)

    assert verify_page("alice", ZERO_CHAIN, page(said, reaction)) == second
    with pytest.raises(ChainError):
        verify_page("alice", ZERO_CHAIN, page(said, replace(reaction, **changed)))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Kind.MUTE, Kind.ARCHIVE])
def test_c081_whether_a_mark_was_taken_back_is_in_its_header(kind: Kind) -> None:
    mark = replace(
        an_entry(b"", seq=2, prev_seq=1, conversation_seq=9, at_ms=1000, sender="alice"),
        kind=kind,
        salt=b"",
        body_hash=body_hash(b"", b""),
    )
    assert body_matches(mark)
    on, off = (header("alice", replace(mark, unset=unset)) for unset in (False, True))
    assert on != off
    assert len(on) == len(off)


def frames_of(decoder: FrameDecoder[pb.ServerFrame]) -> Iterator[pb.ServerFrame]:
    while (frame := decoder.next_frame()) is not None:
        yield frame


server_frames = st.builds(
    lambda id, seq, text: Server(request_id=id, error=pb.Error(code=seq, message=text)),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.text(max_size=300),
)


@given(st.lists(server_frames, max_size=8), st.data())
def test_c003_the_cuts_do_not_matter(frames: list[pb.ServerFrame], data: st.DataObject) -> None:
    stream = b"".join(map(encode_frame, frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    decoder = FrameDecoder(Server)
    read: list[pb.ServerFrame] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        decoder.push(stream[start:end])
        read.extend(frames_of(decoder))
    assert read == frames
    assert decoder.is_clean


@given(st.binary(max_size=64), st.lists(st.integers(0, 64), max_size=4))
def test_c003_any_bytes_end_alike_however_they_are_cut(noise: bytes, cuts: list[int]) -> None:
    def read(pieces: list[bytes]) -> tuple[list[pb.ServerFrame], str]:
        decoder = FrameDecoder(Server)
        frames: list[pb.ServerFrame] = []
        try:
            for piece in pieces:
                decoder.push(piece)
                frames.extend(frames_of(decoder))
        except ProtocolError as error:
            with pytest.raises(ProtocolError):
                decoder.next_frame()
            return frames, type(error).__name__
        return frames, ""

    places = [0, *sorted(min(cut, len(noise)) for cut in cuts), len(noise)]
    pieces = [noise[start:end] for start, end in itertools.pairwise(places)]
    whole, cut = read([noise]), read(pieces)
    # Frames before the end are the same; equality of messages with NaN or unknown fields is by their bytes.
    assert [frame.SerializeToString() for frame in whole[0]] == [frame.SerializeToString() for frame in cut[0]]
    assert whole[1] == cut[1]


def test_c004_a_length_above_the_limit_is_refused_before_its_bytes() -> None:
    decoder = FrameDecoder(Server)
    decoder.push(bytes.fromhex("808010"))  # 262144
    assert decoder.next_frame() is None, "the largest frame is one"
    decoder = FrameDecoder(Server)
    decoder.push(bytes.fromhex("818010"))  # 262145
    with pytest.raises(FrameTooLarge):
        decoder.next_frame()
    with pytest.raises(ValueError, match="at most 262144"):
        encode_frame(Server(error=pb.Error(message="x" * FRAME_BYTES_MAX)))


@pytest.mark.parametrize(
    "noise",
    ["808080808000", "ffffffffff", "03ffffff", "0108", "027a05", "04ba010208"],
    ids=["six bytes of length", "no end of length", "no message", "half a field", "half a body", "half an error"],
)
def test_c004_bytes_that_are_no_frame(noise: str) -> None:
    decoder = FrameDecoder(Server)
    decoder.push(bytes.fromhex(noise))
    with pytest.raises(ProtocolError, match=r"no frame|length") as refused:
        decoder.next_frame()
    assert not isinstance(refused.value, FrameTooLarge)


def test_c005_what_is_not_known_is_a_frame() -> None:
    decoder = FrameDecoder(Server)
    # Field 99, a body of a later version; then Committed with a field 15 of a later version; then a usual one.
    decoder.push(bytes.fromhex("0608079a060100"))
    decoder.push(bytes.fromhex("0908049201040809 7805".replace(" ", "")))
    decoder.push(vectors()["Committed at 9, request 4"])
    unknown, newer, usual = frames_of(decoder)
    assert (unknown.request_id, unknown.WhichOneof("body")) == (7, None)
    assert unknown.SerializeToString().hex() == "08079a060100", "what it does not know is kept"
    assert newer.committed.seq == usual.committed.seq == 9


def an_entry(body: bytes, *, seq: int, prev_seq: int | None, conversation_seq: int, at_ms: int, sender: str) -> Entry:
    return Entry(
        seq=seq,
        prev_seq=prev_seq,
        ordinal=seq,
        conversation=Peer("bob"),
        conversation_seq=conversation_seq,
        kind=Kind.MESSAGE,
        sender=sender,
        message_id=IDS,
        at_ms=at_ms,
        body_hash=body_hash(SALT, body),
        body_state=BodyState.HERE,
        body=body,
        salt=SALT,
        added=(),
        removed=(),
        chain=None,
    )


def a_page() -> SyncPage:
    """Of four entries, as a gateway would give it."""
    chain, previous, entries = ZERO_CHAIN, None, []
    for place in (1, 3, 4, 9):
        entry = an_entry(
            b"body %d" % place, seq=place, prev_seq=previous, conversation_seq=place, at_ms=place, sender="bob"
        )
        chain = link(chain, previous, place, header("alice", entry))
        entries.append(replace(entry, chain=chain))
        previous = place
    return SyncPage(tuple(entries), upto=10, more=False, too_long=False, trim=1, tail=10, chain=chain)


def test_c006_a_page_proves_itself_and_goes_on_from_any_place() -> None:
    page = a_page()
    assert verify_page("alice", ZERO_CHAIN, page) == page.chain
    first, rest = page.entries[:2], page.entries[2:]
    assert first[-1].chain is not None
    middle = verify_page("alice", ZERO_CHAIN, replace(page, entries=first, chain=first[-1].chain))
    assert verify_page("alice", middle, replace(page, entries=rest)) == page.chain


def without_links(page: SyncPage) -> SyncPage:
    """Only the page's own chain is left to break."""
    return replace(page, entries=tuple(replace(entry, chain=None) for entry in page.entries))


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize(
    "change",
    [
        {"body": b"another"},
        {"salt": b"another"},
        {"body_hash": bytes(16)},
        {"at_ms": 77},
        {"sender": "mallory"},
        {"conversation_seq": 77},
        {"message_id": bytes(16)},
        {"kind": Kind.CREATE},
        {"conversation": Peer("carol")},
        {"chain": bytes(16)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_c006_a_changed_entry_breaks_the_page(index: int, change: dict[str, object]) -> None:
    page = a_page()
    entries = list(page.entries)
    entries[index] = replace(entries[index], **change)  # type: ignore[arg-type]
    with pytest.raises(ChainError) as broken:
        verify_page("alice", ZERO_CHAIN, replace(page, entries=tuple(entries)))
    assert broken.value.seq == entries[index].seq
    if "chain" not in change:
        with pytest.raises(ChainError):
            verify_page("alice", ZERO_CHAIN, without_links(replace(page, entries=tuple(entries))))


@pytest.mark.parametrize("index", range(4))
def test_c006_a_left_out_entry_breaks_the_page(index: int) -> None:
    page = a_page()
    left = page.entries[:index] + page.entries[index + 1 :]
    for one in (replace(page, entries=left), without_links(replace(page, entries=left))):
        with pytest.raises(ChainError):
            verify_page("alice", ZERO_CHAIN, one)


def test_c006_another_order_and_another_beginning_break_the_page() -> None:
    page = a_page()
    swapped = (page.entries[0], page.entries[2], page.entries[1], page.entries[3])
    with pytest.raises(ChainError):
        verify_page("alice", ZERO_CHAIN, replace(page, entries=swapped))
    with pytest.raises(ChainError):
        verify_page("alice", bytes(15) + b"\x01", page)
    with pytest.raises(ChainError):
        verify_page("carol", ZERO_CHAIN, page)
