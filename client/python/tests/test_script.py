"""The SDK against a gateway that follows a script."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from cluster import PATIENCE, until
from script import Certificate, Scripted, Visit

from seriatim import (
    Code,
    ConnectTimeout,
    Group,
    HandshakeFailed,
    OutcomeUnknown,
    Rejected,
    SendRequest,
    SubscriptionRefused,
    TooLong,
    connect,
)
from seriatim._inbox import CREDIT_STEP, WINDOW
from seriatim.entry import Peer
from seriatim.v1 import client_pb2 as pb


def pushed(seq: int, prev_seq: int) -> pb.Entry:
    return pb.Entry(
        seq=seq,
        prev_seq=prev_seq,
        ordinal=seq,
        conversation=pb.Conversation(peer="bob"),
        conversation_seq=seq,
        kind=pb.Entry.KIND_MESSAGE,
        sender="bob",
        message_id=seq.to_bytes(16, "big"),
        at_ms=seq,
        body_hash=bytes(16),
        body_state=pb.Entry.BODY_HERE,
    )


def deliver(*places: tuple[int, int]) -> pb.ServerFrame:
    return pb.ServerFrame(deliver=pb.Deliver(entries=[pushed(*place) for place in places]))


def start_of(frame: pb.ClientFrame) -> int:
    return int(getattr(frame.subscribe if frame.HasField("subscribe") else frame.sync, "from"))


async def read(subscription: Any, count: int) -> list[int]:
    async with asyncio.timeout(PATIENCE):
        return [(await anext(subscription)).seq for _ in range(count)]


async def test_c103_a_source_that_fails_or_is_refused_is_asked_again(certificate: Certificate) -> None:
    asked: list[str] = []

    def script(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        if frame.renew.token == "refused":
            visit.answer(stream, frame, error=pb.Error(code=Code.AUTH_FAILED, name="AUTH_FAILED"))
        elif frame.HasField("renew"):
            visit.answer(stream, frame, renewed=pb.Renewed(expires_in_ms=3_600_000))

    def token() -> str:
        asked.append(("first", "raises", "refused", "good")[min(len(asked), 3)])
        if asked[-1] == "raises":
            raise OSError("the issuer is away")
        return asked[-1]

    async with Scripted(certificate, script) as gateway:
        gateway.expires_in_ms = 1_000
        async with await gateway.connect(token=token) as client:
            await until(lambda: len(gateway.came("renew")) == 2)
            assert [frame.renew.token for frame in gateway.came("renew")] == ["refused", "good"]
            assert client.connections == 1


async def test_c103_a_gateway_that_says_no_end_is_not_asked_to_renew(certificate: Certificate) -> None:
    def script(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        visit.answer(stream, frame, committed=pb.Committed(seq=1))

    asked: list[None] = []

    def token() -> str:
        asked.append(None)
        return "abc"

    async with Scripted(certificate, script) as gateway, await gateway.connect(token=token) as client:
        assert client._pilot._renewal is None
        await client.send("bob", "hi")
        assert len(asked) == 1
        assert not gateway.came("renew")


async def test_c061_open_requests_are_sent_again_under_the_same_ids_in_order(certificate: Certificate) -> None:
    def script(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        if visit.number == 1:
            if len(gateway.came("send")) == 3:
                visit.leave()
        elif frame.HasField("send"):
            visit.answer(stream, frame, committed=pb.Committed(seq=frame.send.body[0], duplicate=True))

    async with Scripted(certificate, script) as gateway, await gateway.connect() as client:
        tickets = [await client.submit(client.prepare("bob", bytes([place]))) for place in (1, 2, 3)]
        ends = [await ticket for ticket in tickets]
        assert [(end.seq, end.duplicate) for end in ends] == [(1, True), (2, True), (3, True)]
        sends = gateway.came("send")
        first, again = sends[:3], sends[3:]
        assert [frame.send for frame in first] == [frame.send for frame in again], "the same to the last byte"
        assert [frame.send.body for frame in first] == [b"\x01", b"\x02", b"\x03"]
        assert [frame.send.follows for frame in first] == [b"", first[0].send.message_id, first[1].send.message_id]
        assert client.connections == 2


async def test_c063_no_answer_in_time_is_unknown_and_the_same_message_settles_it(certificate: Certificate) -> None:
    def script(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        if len(gateway.came("send")) == 2:
            visit.answer(stream, frame, committed=pb.Committed(seq=7, duplicate=True))

    async with Scripted(certificate, script) as gateway, await gateway.connect(request_timeout=0.2) as client:
        message = client.prepare("bob", "once")
        with pytest.raises(OutcomeUnknown) as unknown:
            await client.send_request(message)
        assert unknown.value.refusal.code == Code.TIMEOUT
        # The patience of another client, so that the answer may take as long as it likes.
        async with await gateway.connect() as patient:
            assert (await patient.send_request(message)).seq == 7
        first, second = gateway.came("send")
        assert first.send == second.send


async def test_c065_what_may_be_repeated_is_repeated_in_its_time(certificate: Certificate) -> None:
    times = []

    def script(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            refused = pb.Error(code=4711, name="NEWER", retry=True, retry_after_ms=300)
            visit.answer(stream, frame, error=refused)
        else:
            visit.answer(stream, frame, committed=pb.Committed(seq=1))

    async with Scripted(certificate, script) as gateway, await gateway.connect() as client:
        assert (await client.send("bob", "hi")).seq == 1
        assert times[1] - times[0] >= 0.3


async def test_c065_a_subscribe_that_is_refused_for_now_is_said_again_in_its_time(certificate: Certificate) -> None:
    times = []

    def script(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        if not frame.HasField("subscribe"):
            return
        times.append(asyncio.get_running_loop().time())
        if len(times) <= 2:
            visit.answer(stream, frame, error=pb.Error(code=Code.BUSY, name="BUSY", retry=True, retry_after_ms=200))
        else:
            visit.push(frame, 1, deliver((1, 0), (2, 1)))

    async with Scripted(certificate, script) as gateway, await gateway.connect() as client:
        assert await read(client.subscribe(1), 2) == [1, 2]
        assert [start_of(frame) for frame in gateway.came("subscribe")] == [1, 1, 1]
        assert times[1] - times[0] >= 0.2
        assert times[2] - times[1] >= 0.2
        assert client.connections == 1


async def test_c067_a_gap_a_repetition_lagging_and_an_ended_stream_go_unnoticed(certificate: Certificate) -> None:
    numbers = itertools.count(1)

    def script(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        start = start_of(frame) if frame.HasField("subscribe") or frame.HasField("sync") else 0
        if frame.HasField("subscribe"):
            number = next(numbers)
            if start == 1:  # a repetition, and a gap
                visit.push(frame, number, deliver((1, 0), (2, 1)), deliver((2, 1), (9, 8)))
            elif start == 10:  # Lagging
                lagging = pb.ServerFrame(lagging=pb.Lagging(subscription_id=number, upto=14))
                visit.push(frame, number, deliver((10, 9)), lagging)
            elif start == 14:  # the stream ends
                visit.push(frame, number, end_stream=True)
            else:
                visit.push(frame, number, deliver((start + 1, 14)))
        elif frame.HasField("sync"):
            places = {3: [(5, 2), (8, 5)], 9: [(9, 8)], 11: [(13, 10)], 14: [(14, 13)]}[start]
            more = start == 3
            upto = places[-1][0] + 1
            page = pb.SyncPage(entries=[pushed(*place) for place in places], upto=upto, more=more, trim=1, tail=upto)
            visit.answer(stream, frame, end_stream=True, sync_page=page)

    async with Scripted(certificate, script) as gateway, await gateway.connect() as client:
        subscription = client.subscribe(1)
        assert await read(subscription, 9) == [1, 2, 5, 8, 9, 10, 13, 14, 16]
        assert [start_of(frame) for frame in gateway.came("subscribe")] == [1, 10, 14, 15]
        assert [frame.unsubscribe.subscription_id for frame in gateway.came("unsubscribe")] == [1, 2]
        assert client.connections == 1


async def test_c068_a_reader_that_does_not_read_stops_the_gateway(certificate: Certificate) -> None:
    """The gateway pushes what it may; then credit comes only for what was read."""
    stream_of: list[int] = []
    place = 1

    def push(visit: Visit, count: int) -> None:
        nonlocal place
        entries = [(seq, seq - 1) for seq in range(place, place + count)]
        place += count
        visit.say(stream_of[0], deliver(*entries))

    def script(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        if frame.HasField("subscribe"):
            stream_of.append(visit.push(frame, 1))
            push(visit, frame.subscribe.credit)
        elif frame.HasField("credit"):
            push(visit, frame.credit.entries)
        elif frame.HasField("ack"):
            visit.answer(stream, frame, acked=pb.Acked(cursor=frame.ack.cursor))

    async with Scripted(certificate, script) as gateway, await gateway.connect() as client:
        subscription = client.subscribe(1)
        # What the control stream carried before an answered question has come.
        await client.ack(1)
        assert (place - 1, gateway.came("credit")) == (WINDOW, [])
        await read(subscription, CREDIT_STEP)
        await client.ack(1)
        assert [frame.credit.entries for frame in gateway.came("credit")] == [CREDIT_STEP]
        assert await read(subscription, WINDOW) == list(range(CREDIT_STEP + 1, CREDIT_STEP + WINDOW + 1))


@pytest.mark.parametrize("is_pushed", [True, False])
async def test_c069_trimmed_entries_end_the_subscription(certificate: Certificate, is_pushed: bool) -> None:
    def script(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        if frame.HasField("subscribe"):
            lagging = pb.ServerFrame(lagging=pb.Lagging(subscription_id=1, upto=90))
            visit.push(frame, 1, *([deliver((5, 4))] if is_pushed else []), lagging, end_stream=True)
        elif frame.HasField("sync"):
            page = pb.SyncPage(upto=start_of(frame), too_long=True, trim=70, tail=90)
            visit.answer(stream, frame, end_stream=True, sync_page=page)

    async with Scripted(certificate, script) as gateway, await gateway.connect() as client:
        subscription = client.subscribe(5)
        if is_pushed:
            assert await read(subscription, 1) == [5]
        with pytest.raises(TooLong) as ended:
            await read(subscription, 1)
        assert ended.value.trim == 70


async def test_c044_a_position_from_the_future_ends_the_subscription_only(certificate: Certificate) -> None:
    def script(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        if frame.HasField("subscribe"):
            refused = pb.ServerFrame(error=pb.Error(code=Code.CURSOR_AHEAD, name="CURSOR_AHEAD"))
            visit.push(frame, 1, refused, end_stream=True)
        else:
            visit.answer(stream, frame, acked=pb.Acked(cursor=1))

    async with Scripted(certificate, script) as gateway, await gateway.connect() as client:
        with pytest.raises(SubscriptionRefused) as refused:
            await read(client.subscribe(99), 1)
        assert refused.value.refusal.code == Code.CURSOR_AHEAD
        assert await client.ack(1) == 1


async def test_c070_after_goaway_the_client_goes_elsewhere_and_loses_nothing(certificate: Certificate) -> None:
    def leaving(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        # It takes the message and answers only once it is drained: too late, and yet in the old connection's time.
        if frame.HasField("subscribe"):
            visit.push(frame, 1, deliver((1, 0)))
        elif frame.HasField("send"):
            visit.say(0, pb.ServerFrame(go_away=pb.GoAway(drain_ms=60_000)))

    def staying(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        if frame.HasField("subscribe"):
            start = start_of(frame)
            visit.push(frame, 8, deliver((start, start - 1)))
        elif frame.HasField("send"):
            visit.answer(stream, frame, committed=pb.Committed(seq=1, duplicate=True))

    async with Scripted(certificate, leaving) as old, Scripted(certificate, staying) as new:
        async with await old.connect(new) as client:
            subscription = client.subscribe(1)
            assert await read(subscription, 1) == [1]
            assert (await client.send("bob", "hi")).duplicate
            assert await read(subscription, 1) == [2]
            assert [frame.send for frame in old.came("send")] == [frame.send for frame in new.came("send")]
            assert [start_of(frame) for frame in new.came("subscribe")] == [2]
            assert client.connections == 2


async def test_c070_until_there_is_another_gateway_the_old_one_serves_on(certificate: Certificate) -> None:
    def script(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        if len(gateway.came("send")) == 1:
            visit.say(0, pb.ServerFrame(go_away=pb.GoAway(drain_ms=60_000)))
        visit.answer(stream, frame, committed=pb.Committed(seq=1))

    async with Scripted(certificate, script) as gateway:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.1", 0))
            elsewhere = [f"127.0.0.1:{deaf.getsockname()[1]}"] * 10
            async with await gateway.connect(addresses=[gateway.address, *elsewhere]) as client:
                await client.send("bob", "before")
                await client.send("bob", "behind")
                assert [number for number, frame in gateway.frames if frame.HasField("send")] == [1, 1]


async def test_resets_that_mean_nothing_are_no_sign_of_life(certificate: Certificate) -> None:
    def script(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        visit.answer(stream, frame, committed=pb.Committed(seq=1))

    async with Scripted(certificate, script) as old, Scripted(certificate, script) as new:
        async with await old.connect(new, keep_alive=0.2) as client:
            await client.send("bob", "before")
            old.forget()
            # Far below the 30 s after which QUIC itself gives up.
            async with asyncio.timeout(20):
                await asyncio.gather(*(client.send("bob", str(place)) for place in range(20)))
            assert (client.connections, len(new.came("send"))) == (2, 20)


async def test_a_new_subscription_takes_the_place_of_one_that_is_under_way(certificate: Certificate) -> None:
    waiting: list[tuple[Visit, pb.ClientFrame]] = []

    def script(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        if frame.HasField("subscribe"):
            if not waiting:
                waiting.append((visit, frame))
            else:
                visit.push(frame, 2, deliver((20, 19)))

    async with Scripted(certificate, script) as gateway, await gateway.connect() as client:
        old = client.subscribe(1)
        await until(lambda: waiting)
        new = client.subscribe(20)
        visit, frame = waiting[0]
        visit.push(frame, 1, deliver((1, 0)))
        assert await read(new, 1) == [20]
        with pytest.raises(SubscriptionRefused):
            await read(old, 1)


async def test_c011_a_refusal_for_good_ends_everything_and_is_not_tried_again(certificate: Certificate) -> None:
    def script(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        visit.leave(5)

    async with Scripted(certificate, script) as gateway, await gateway.connect() as client:
        subscription = client.subscribe()
        with pytest.raises(OutcomeUnknown) as ended:
            await client.send("bob", "hi")
        assert ended.value.refusal.code == Code.AUTH_FAILED
        with pytest.raises(SubscriptionRefused):
            await read(subscription, 1)
        with pytest.raises(Rejected):
            await client.send("bob", "never sent")
        assert len(gateway.visits) == 1


async def test_c012_an_expired_token_is_followed_by_a_fresh_one(certificate: Certificate) -> None:
    tokens = iter(["old", "new"])

    def script(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        if visit.number == 1:
            visit.leave(6)
        else:
            visit.answer(stream, frame, committed=pb.Committed(seq=1))

    async def provider() -> str:
        await asyncio.sleep(0)
        return next(tokens)

    async with Scripted(certificate, script) as gateway, await gateway.connect(token=provider) as client:
        await client.send("bob", "hi")
        assert [frame.hello.token for frame in gateway.came("hello")] == ["old", "new"]


async def test_c012_a_fixed_token_that_expires_is_the_end(certificate: Certificate) -> None:
    async with Scripted(certificate, lambda visit, *_: visit.leave(6)) as gateway, await gateway.connect() as client:
        with pytest.raises(OutcomeUnknown) as ended:
            await client.send("bob", "hi")
        assert ended.value.refusal.code == Code.AUTH_EXPIRED
        assert len(gateway.visits) == 1


async def test_c073_another_ca_and_another_name_are_refused(
    certificate: Certificate, other_certificate: Certificate
) -> None:
    async with Scripted(certificate, lambda *_: None) as gateway:
        with pytest.raises(HandshakeFailed):
            await gateway.connect(ca=other_certificate.ca)
        with pytest.raises(HandshakeFailed):
            await gateway.connect(server_name="elsewhere.example")
        assert gateway.visits == []


async def test_nobody_there_is_a_timeout_that_says_why() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectTimeout):
            await connect(f"127.0.0.1:{deaf.getsockname()[1]}", token="t", device="d", connect_timeout=0.2)


async def test_a_token_provider_that_fails_is_asked_again(certificate: Certificate) -> None:
    calls = 0

    def provider() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("no network")
        return "t"

    async with Scripted(certificate, lambda *_: None) as gateway, await gateway.connect(token=provider) as client:
        assert (calls, client.connections) == (2, 1)


async def test_a_closed_client_ends_what_is_open(certificate: Certificate) -> None:
    async with Scripted(certificate, lambda *_: None) as gateway:
        client = await gateway.connect()
        sent = await client.submit(SendRequest(Peer("bob"), b"hi"))
        await until(lambda: gateway.came("send"))
        unsent = await client.submit(SendRequest(Peer("bob"), b"hi"))
        subscription = client.subscribe()
        await client.close()
        with pytest.raises(OutcomeUnknown):
            await sent
        with pytest.raises(Rejected):
            await unsent
        with pytest.raises(StopAsyncIteration):
            await anext(subscription)
        with pytest.raises(Rejected):
            await client.send("bob", "late")
        await client.close()


async def test_an_answer_of_another_kind_or_malformed_is_no_verdict(certificate: Certificate) -> None:
    answers: Iterator[dict[str, Any]] = iter(
        [
            {"acked": pb.Acked(cursor=1)},
            {"committed": pb.Committed(seq=0)},
            {"committed": pb.Committed(seq=1 << 53)},
        ]
    )

    def script(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        visit.answer(stream, frame, **next(answers))

    async with Scripted(certificate, script) as gateway, await gateway.connect() as client:
        for _ in range(3):
            with pytest.raises(OutcomeUnknown):
                await client.send("bob", "hi")


async def test_a_gateway_that_breaks_the_framing_is_left(certificate: Certificate) -> None:
    def script(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        if visit.number == 1:
            visit._quic.send_stream_data(stream, b"\x80" * 6)
            visit.transmit()
        else:
            visit.answer(stream, frame, committed=pb.Committed(seq=1))

    async with Scripted(certificate, script) as gateway, await gateway.connect() as client:
        assert (await client.send("bob", "hi")).seq == 1
        assert client.connections == 2


async def test_c071_a_gateway_that_throws_devices_out_is_asked_ever_more_rarely(certificate: Certificate) -> None:
    times: list[float] = []

    def script(visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        times.append(asyncio.get_running_loop().time())
        if visit.number < 5:
            visit.leave(11)
        else:
            visit.answer(stream, frame, committed=pb.Committed(seq=1))

    async with Scripted(certificate, script) as gateway, await gateway.connect() as client:
        assert (await client.send("bob", "hi")).seq == 1
        for longest, (before, after) in zip((0.05, 0.1, 0.2, 0.4), itertools.pairwise(times), strict=True):
            assert after - before >= longest / 2


async def test_a_request_that_no_frame_can_hold_is_rejected(certificate: Certificate) -> None:
    async with Scripted(certificate, lambda *_: None) as gateway, await gateway.connect() as client:
        with pytest.raises(Rejected) as refused:
            await client.create_group(Group.new(), [f"{number:064}" for number in range(5_000)])
        assert refused.value.refusal.code == Code.FRAME_TOO_LARGE
        assert gateway.came("create_group") == []


async def test_arguments_out_of_their_range() -> None:
    for wrong in ("localhost", ":1", "host:0", "host:65536", "::1:4433", "host:x"):
        with pytest.raises(ValueError, match=r"address|IPv6"):
            connect(wrong, token="t", device="d")
    with pytest.raises(ValueError, match="without an address"):
        connect([], token="t", device="d")
    for name in ("", "x" * 65, "a\nb"):
        with pytest.raises(ValueError, match="name"):
            connect("h:1", token="t", device=name)
        with pytest.raises(ValueError, match="name"):
            Peer(name)
    with pytest.raises(ValueError, match="16 are needed"):
        Group(b"short")
    with pytest.raises(ValueError, match="salt"):
        SendRequest(Peer("bob"), b"", salt=bytes(33))
    with pytest.raises(ValueError, match="keep-alive"):
        connect("h:1", token="t", device="d", keep_alive=60)
