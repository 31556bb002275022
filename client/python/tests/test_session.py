"""Sessions, with a real cluster."""

from __future__ import annotations

import asyncio
import time

import pytest
from cluster import PATIENCE, Cluster, signed_token, until
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from raw import CONTROL, connected, session

from seriatim import Code, ConnectRefused
from seriatim._frames import FRAME_BYTES_MAX, encode_frame
from seriatim.errors import Close
from seriatim.v1 import client_pb2 as pb

BOB = pb.Conversation(peer="bob")


async def test_c010_welcome_says_who_and_what(cluster: Cluster) -> None:
    async with connected(cluster) as raw:
        asked = raw.ask(CONTROL, hello=pb.Hello(token=cluster.token("s-alice", tenant=7), device="phone"))
        frame = await raw.answer(CONTROL)
        welcome = frame.welcome
        assert frame.request_id == asked
        assert (welcome.minor, welcome.tenant, welcome.user, list(welcome.features)) == (0, 7, "s-alice", [])
        assert abs(welcome.server_time_ms / 1000 - time.time()) < PATIENCE
        limits = welcome.limits
        assert (limits.frame_bytes, limits.message_bytes, limits.requests) == (262_144, 65_536, 256)
        assert (limits.lanes, limits.sync_entries, limits.idle_timeout_ms) == (16, 1_000, 45_000)
    async with await cluster.device("s-alice") as client:
        assert (client.identity.tenant, client.identity.user, client.connections) == (1, "s-alice", 1)


@pytest.mark.parametrize("kind", ["none", "no token", "another key", "another audience", "no user"])
async def test_c011_a_bad_token(cluster: Cluster, kind: str) -> None:
    claims = {"aud": "seriatim", "sub": "s-mallory", "tenant": 1, "exp": int(time.time()) + 3600}
    token = {
        "none": "",
        "no token": "abc",
        "another key": signed_token(Ed25519PrivateKey.generate(), **claims),
        "another audience": cluster.token("s-mallory", aud="elsewhere"),
        "no user": cluster.token(""),
    }[kind]
    async with connected(cluster) as raw:
        raw.ask(CONTROL, hello=pb.Hello(token=token, device="phone"))
        assert await raw.closed() == Close.AUTH_FAILED
    with pytest.raises(ConnectRefused) as refused:
        await cluster.device("s-mallory", token=lambda: token)
    assert refused.value.refusal.code == Code.AUTH_FAILED


async def test_c012_an_expired_token(cluster: Cluster) -> None:
    async with connected(cluster) as raw:
        raw.ask(CONTROL, hello=pb.Hello(token=cluster.token("s-late", -60), device="phone"))
        assert await raw.closed() == Close.AUTH_EXPIRED
    with pytest.raises(ConnectRefused) as refused:
        await cluster.device("s-late", token=cluster.token("s-late", -60))
    assert refused.value.refusal.code == Code.AUTH_EXPIRED
    tokens = iter([cluster.token("s-late", -60), cluster.token("s-late")])
    async with await cluster.device("s-late", token=lambda: next(tokens)) as client:
        assert client.connections == 1
        assert next(tokens, None) is None


async def test_c013_no_version_in_common(cluster: Cluster) -> None:
    async with connected(cluster) as raw:
        hello = pb.Hello(min_minor=1_000, max_minor=1_001, token=cluster.token("s-new"), device="phone")
        raw.ask(CONTROL, hello=hello)
        assert await raw.closed() == Close.UNSUPPORTED


async def test_c014_ping(cluster: Cluster) -> None:
    async with session(cluster, "s-ping") as raw:
        asked = raw.ask(CONTROL, ping=pb.Ping(nonce=2**63))
        answer = await raw.answer(CONTROL)
        assert (answer.request_id, answer.pong.nonce) == (asked, 2**63)


async def test_c015_the_end_of_the_control_stream(cluster: Cluster) -> None:
    async with session(cluster, "s-end") as raw:
        raw.write(CONTROL, b"", end_stream=True)
        assert await raw.closed() == Close.CRITICAL_STREAM_CLOSED


async def test_c016_frames_on_a_stream_that_is_not_theirs(cluster: Cluster) -> None:
    async with session(cluster, "s-wrong") as raw:
        raw.ask(CONTROL, hello=pb.Hello(token=cluster.token("s-wrong"), device="phone"))
        assert await raw.closed() == Close.PROTOCOL
    async with session(cluster, "s-wrong") as raw:
        raw.ask(CONTROL, sync=pb.Sync(**{"from": 1}))
        assert await raw.closed() == Close.PROTOCOL
    async with session(cluster, "s-wrong") as raw:
        lane = raw.open()
        raw.ask(lane, query_send=pb.QuerySend(message_id=bytes(16), conversation=BOB))
        raw.ask(lane, status=pb.Status())
        assert await raw.closed() == Close.PROTOCOL
    async with session(cluster, "s-wrong") as raw:
        # In one piece: the second one must not find the stream closed behind the first one's answer.
        questions = [pb.ClientFrame(request_id=place, status=pb.Status()) for place in (8, 9)]
        raw.write(raw.open(), b"".join(map(encode_frame, questions)))
        assert await raw.closed() == Close.PROTOCOL


async def test_c017_bytes_that_are_no_frame(cluster: Cluster) -> None:
    async with await cluster.device("s-quiet") as witness:
        for noise, code in [
            ("818010", Close.FRAME_TOO_LARGE),
            ("808080808000", Close.PROTOCOL),
            ("03ffffff", Close.PROTOCOL),
        ]:
            async with session(cluster, "s-noise") as raw:
                raw.write(CONTROL, bytes.fromhex(noise))
                assert await raw.closed() == code, noise
        await witness.send("bob", "still here")
        assert witness.connections == 1


async def test_c018_a_frame_that_is_not_known(cluster: Cluster) -> None:
    async with session(cluster, "s-newer") as raw:
        raw.write(CONTROL, bytes.fromhex("0808071801 9a060100".replace(" ", "")))  # optional
        raw.write(CONTROL, bytes.fromhex("0608079a060100"))
        answer = await raw.answer(CONTROL)
        assert (answer.request_id, answer.error.code) == (7, Code.UNSUPPORTED)
        raw.ask(CONTROL, ping=pb.Ping(nonce=1))
        assert (await raw.answer(CONTROL)).pong.nonce == 1, "and nothing was said of the optional one"


async def test_c019_a_lane_too_many(cluster: Cluster) -> None:
    async with session(cluster, "s-lanes") as raw:
        query = pb.QuerySend(message_id=bytes(16), conversation=BOB)
        lanes = [raw.open() for _ in range(17)]
        for lane in lanes:
            raw.ask(lane, query_send=query)
            # One after another: it is the seventeenth that is too many.
            answer = await raw.answer(lane)
            if lane == lanes[-1]:
                assert answer.error.code == Code.BUSY
            else:
                assert answer.WhichOneof("body") == "send_status", lanes.index(lane)


async def test_c029_fields_out_of_their_range(cluster: Cluster) -> None:
    async with session(cluster, "s-range") as raw:
        lane = raw.open()
        good = {"message_id": bytes(16), "conversation": BOB, "salt": b"", "body": b"hi"}
        for wrong in (
            {"message_id": bytes(15)},
            {"message_id": b""},
            {"salt": bytes(33)},
            {"conversation": pb.Conversation()},
            {"conversation": pb.Conversation(peer="x" * 65)},
            {"conversation": pb.Conversation(group=bytes(15))},
            {"follows": bytes(15)},
        ):
            asked = raw.ask(lane, send=pb.Send(**(good | wrong)))  # type: ignore[arg-type]
            answer = await raw.answer(lane)
            assert (answer.request_id, answer.error.code) == (asked, Code.MALFORMED), wrong
            assert not answer.error.retry, wrong
            assert not answer.error.unknown, wrong
        raw.ask(lane, send=pb.Send(**good))  # type: ignore[arg-type]
        assert (await raw.answer(lane)).committed.seq >= 1


async def test_c023_a_body_that_is_too_large_for_a_message_and_one_for_a_frame(cluster: Cluster) -> None:
    async with session(cluster, "s-large") as raw:
        lane = raw.open()
        for size, code in [(65_536, None), (65_537, Code.MESSAGE_TOO_LARGE), (200_000, Code.MESSAGE_TOO_LARGE)]:
            raw.ask(lane, send=pb.Send(message_id=size.to_bytes(16, "big"), conversation=BOB, body=bytes(size)))
            answer = await raw.answer(lane)
            assert (answer.error.code or None) == code, size
        frame = pb.ClientFrame(request_id=9, send=pb.Send(body=bytes(FRAME_BYTES_MAX - 64)))
        raw.write(lane, encode_frame(frame))
        assert (await raw.answer(lane)).request_id == 9, "a frame of nearly the largest kind is read"


async def test_a_session_ends_with_its_token(cluster: Cluster) -> None:
    ends_at: list[float] = []

    def token() -> str:
        if not ends_at:
            ends_at.append(time.time() + 2)
            return cluster.token("s-short", 2)
        # The session cannot be renewed.
        if time.time() < ends_at[0] + 1:
            raise OSError("whoever makes tokens is away")
        return cluster.token("s-short", 3600)

    async with await cluster.device("s-short", token=token) as client:
        await until(lambda: client.connections >= 2)
        assert (await client.send("bob", "with the fresh one")).seq >= 1


async def test_c100_a_renewed_session_outlives_its_first_token(cluster: Cluster) -> None:
    async with connected(cluster) as raw:
        raw.ask(CONTROL, hello=pb.Hello(token=cluster.token("s-renew", 3), device="raw"))
        welcome = (await raw.answer(CONTROL)).welcome
        assert 0 < welcome.expires_in_ms <= 3_000
        asked = raw.ask(CONTROL, renew=pb.Renew(token=cluster.token("s-renew", 600)))
        answer = await raw.answer(CONTROL)
        assert answer.request_id == asked
        assert 3_000 < answer.renewed.expires_in_ms <= 600_000
        await asyncio.sleep(welcome.expires_in_ms / 1_000 + 1)
        raw.ask(CONTROL, ping=pb.Ping(nonce=1))
        assert (await raw.answer(CONTROL)).pong.nonce == 1


async def test_c100_a_client_renews_by_itself(cluster: Cluster) -> None:
    begun = time.time()
    given: list[float] = []

    async def token() -> str:
        given.append(time.time())
        return cluster.token("s-lasting", 4)

    async with await cluster.device("s-lasting", token=token) as client:
        # Beyond the ends of the first two tokens.
        while time.time() < begun + 9 or len(given) < 3:
            await client.send("bob", "still here")
            await asyncio.sleep(0.05)
        assert client.connections == 1, given


async def test_c101_a_refused_renewal_does_no_harm(cluster: Cluster) -> None:
    async with connected(cluster) as raw:
        raw.ask(CONTROL, hello=pb.Hello(token=cluster.token("s-stays", 6), device="raw"))
        assert (await raw.answer(CONTROL)).HasField("welcome")
        for token, code in [
            ("", Code.AUTH_FAILED),
            ("abc", Code.AUTH_FAILED),
            (cluster.token("s-other"), Code.AUTH_FAILED),
            (cluster.token("s-stays", tenant=2), Code.AUTH_FAILED),
            (cluster.token("s-stays", -60), Code.AUTH_EXPIRED),
        ]:
            while True:
                raw.ask(CONTROL, renew=pb.Renew(token=token))
                error = (await raw.answer(CONTROL)).error
                if error.code != Code.BUSY:
                    break
                await asyncio.sleep(error.retry_after_ms / 1_000)
            assert error.code == code, token
            raw.ask(CONTROL, ping=pb.Ping(nonce=1))
            assert (await raw.answer(CONTROL)).pong.nonce == 1
        assert await raw.closed() == Close.AUTH_EXPIRED


async def test_c102_the_scopes_of_the_new_token_hold(cluster: Cluster) -> None:
    async with session(cluster, "s-scopes") as raw:
        raw.ask(CONTROL, subscribe=pb.Subscribe(**{"from": 1}, credit=10))
        inbox = await raw.inbox()
        assert (await raw.answer(inbox)).HasField("stream_header")
        assert (await raw.answer(CONTROL)).HasField("subscribed")
        raw.ask(CONTROL, renew=pb.Renew(token=cluster.token("s-scopes", scopes=["sequence"])))
        assert (await raw.answer(CONTROL)).HasField("renewed")
        assert (await raw.answer(inbox)).error.code == Code.FORBIDDEN
        await raw.ended(inbox)
        lane, call = raw.open(), raw.open()
        raw.ask(lane, next=pb.Next(counter="s-orders", count=1))
        assert (await raw.answer(lane)).HasField("numbers")
        raw.ask(call, end_stream=True, status=pb.Status())
        assert (await raw.answer(call)).error.code == Code.FORBIDDEN
