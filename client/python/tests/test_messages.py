"""Sending, groups and numbers, with a real cluster."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from cluster import PATIENCE, Cluster
from raw import session

from seriatim import Client, Code, Entry, Group, Kind, Peer, Rejected, SendRequest, SendState, new_message_id
from seriatim.v1 import client_pb2 as pb


async def entries_of(client: Client, count: int) -> list[Entry]:
    """The first entries of the inbox, once they are there."""
    async with asyncio.timeout(PATIENCE), client.subscribe(1) as inbox:
        return [await anext(inbox) for _ in range(count)]


async def rejected(asked: object, code: Code) -> None:
    with pytest.raises(Rejected) as refused:
        await asked  # type: ignore[misc]
    assert refused.value.refusal.code == code


async def test_what_a_device_has_seen_of_a_conversation_it_knows(cluster: Cluster) -> None:
    async with await cluster.device("m-kay") as kay, await cluster.device("m-lou") as lou:
        last = (await kay.send("m-lou", "one")).seq
        await entries_of(lou, 1)
    ways: list[tuple[Callable[[Client], Awaitable[object]], int | None]] = [
        (lambda device: device.history("m-kay"), last + 1),
        (lambda device: device.sync(), last + 1),
        (lambda device: device.list_conversations(), last + 1),
        # A page from beyond the end says nothing of it.
        (lambda device: device.history("m-kay", last + 100), None),
    ]
    for see, known in ways:
        async with await cluster.device("m-lou", "desk") as desk:
            assert desk.prepare("m-kay", b"").known is None
            await see(desk)
            assert desk.prepare("m-kay", b"").known == known


async def test_c020_c021_c022_a_message_its_repetition_and_another_body(cluster: Cluster) -> None:
    async with await cluster.device("m-alice") as alice:
        first = await alice.send("m-bob", "one")
        message = alice.prepare("m-bob", b"two")
        assert message.known == first.seq + 1
        second = await alice.send_request(message)
        assert second.seq > first.seq
        assert (first.duplicate, second.duplicate) == (False, False)
        again = await alice.send_request(message)
        assert (again.seq, again.duplicate) == (second.seq, True)
        await rejected(alice.send_request(replace(message, body=b"three")), Code.CONFLICT)
        # Also from another device, and with another salt.
        async with await cluster.device("m-alice", "laptop") as laptop:
            assert (await laptop.send_request(message)).duplicate
            await rejected(laptop.send_request(replace(message, salt=b"")), Code.CONFLICT)


async def test_c023_the_largest_body_and_one_byte_more(cluster: Cluster) -> None:
    async with await cluster.device("m-large") as client:
        body = bytes(range(256)) * 256
        sent = await client.send("m-large", body)
        assert (await client.history("m-large", sent.seq)).entries[0].body == body
        await rejected(client.send("m-large", body + b"x"), Code.MESSAGE_TOO_LARGE)
        assert (await client.send("m-large", "")).seq > sent.seq


async def test_c024_pipelined_sends_take_their_places_in_order(cluster: Cluster) -> None:
    async with await cluster.device("m-pipe") as client:
        tickets = [await client.submit(client.prepare("m-sink", str(place))) for place in range(300)]
        places = [(await ticket).seq for ticket in tickets]
        assert places == sorted(set(places))
        bodies: list[bytes] = []
        start, more = places[0], True
        while more:
            page = await client.history("m-sink", start, limit=100)
            bodies.extend(entry.body for entry in page.entries)
            start, more = page.upto, page.more
        assert bodies == [b"%d" % place for place in range(300)]


async def test_c025_one_that_is_too_early(cluster: Cluster) -> None:
    first, second = new_message_id(), new_message_id()
    to = pb.Conversation(peer="m-early")
    async with session(cluster, "m-early") as raw:
        lane = raw.open()
        raw.ask(lane, send=pb.Send(message_id=second, conversation=to, body=b"2", follows=first))
        refused = (await raw.answer(lane)).error
        assert (refused.code, refused.retry, refused.unknown) == (Code.OUT_OF_ORDER, True, False)
        raw.ask(lane, send=pb.Send(message_id=first, conversation=to, body=b"1"))
        one = (await raw.answer(lane)).committed
        raw.ask(lane, send=pb.Send(message_id=second, conversation=to, body=b"2", follows=first))
        two = (await raw.answer(lane)).committed
        assert 0 < one.seq < two.seq


async def test_c026_c028_what_became_of_a_send(cluster: Cluster) -> None:
    async with await cluster.device("m-query") as client:
        message = client.prepare("m-bob", "hi")
        assert (await client.query_send("m-bob", message.message_id)).state is SendState.NOT_YET
        sent = await client.send_request(message)
        for asked in (client.query_send, client.cancel_send):
            status = await asked("m-bob", message.message_id, message.known)
            assert (status.state, status.seq) == (SendState.COMMITTED, sent.seq)


async def test_c027_a_cancelled_message_never_comes(cluster: Cluster) -> None:
    async with await cluster.device("m-cancel") as client:
        message = client.prepare("m-cancel", "never")
        for asked in (client.cancel_send, client.cancel_send, client.query_send):
            assert (await asked("m-cancel", message.message_id)).state is SendState.CANCELLED
        await rejected(client.send_request(message), Code.CANCELLED)
        await rejected(client.send_request(replace(message, body=b"another")), Code.CANCELLED)
        behind = SendRequest(Peer("m-cancel"), b"behind", follows=message.message_id)
        await client.send_request(behind)
        assert [entry.body for entry in (await client.history("m-cancel")).entries] == [b"behind"]


async def test_c030_c031_c032_a_group(cluster: Cluster) -> None:
    async with (
        await cluster.device("g-ann") as ann,
        await cluster.device("g-ben") as ben,
        await cluster.device("g-cat") as cat,
    ):
        group = Group.new()
        message_id = new_message_id()
        created = await ann.create_group(group, ["g-ben"], message_id=message_id)
        assert (await ann.create_group(group, ["g-ben"], message_id=message_id)).duplicate
        await ann.send(group, "for two")
        await rejected(cat.send(group, "not yet"), Code.NOT_FOUND)
        changed = await ann.change_members(group, add=["g-cat"], remove=["g-ben"])
        assert changed.seq > created.seq
        await cat.send(group, "for the others")
        await rejected(ben.send(group, "no more"), Code.NOT_FOUND)

        first, second, third, fourth = await entries_of(ann, 4)
        assert (first.kind, first.added, first.sender) == (Kind.CREATE, ("g-ben",), "g-ann")
        assert (second.kind, second.body, second.conversation) == (Kind.MESSAGE, b"for two", group)
        assert (third.kind, third.added, third.removed) == (Kind.MEMBERS, ("g-cat",), ("g-ben",))
        assert (fourth.body, fourth.sender) == (b"for the others", "g-cat")

        of_ben = await entries_of(ben, 2)
        assert [entry.message_id for entry in of_ben[:2]] == [first.message_id, second.message_id]
        of_cat = await entries_of(cat, 2)
        assert [entry.message_id for entry in of_cat] == [third.message_id, fourth.message_id]
        # What was still to come to ben's inbox has come with this one.
        await ben.send("g-ben", "note")
        bodies: list[bytes] = []
        async with asyncio.timeout(PATIENCE), ben.subscribe(1) as inbox:
            while b"note" not in bodies:
                bodies.append((await anext(inbox)).body)
        assert b"for two" in bodies
        assert b"for the others" not in bodies


async def test_c033_a_stranger_learns_nothing(cluster: Cluster) -> None:
    async with await cluster.device("g-owner") as owner, await cluster.device("g-stranger") as stranger:
        there, nowhere = Group.new(), Group.new()
        await owner.create_group(there, [])
        ends = []
        for group in (there, nowhere):
            with pytest.raises(Rejected) as sent:
                await stranger.send(group, "hi")
            with pytest.raises(Rejected) as changed:
                await stranger.change_members(group, add=["g-stranger"])
            with pytest.raises(Rejected) as read:
                await stranger.history(group)
            with pytest.raises(Rejected) as cancelled:
                await stranger.cancel_send(group, new_message_id())
            ends.append([(end.value.refusal.code, str(end.value)) for end in (sent, changed, read, cancelled)])
        assert ends[0] == ends[1]
        assert {code for code, _ in ends[0]} == {Code.NOT_FOUND}


async def test_c050_c051_numbers(cluster: Cluster) -> None:
    token = cluster.token("counting", scopes=["sequence"])
    async with (
        await cluster.device("counting", "a", token=token) as one,
        await cluster.device("counting", "b", token=token) as other,
    ):
        asked = [client.next_numbers("orders", count) for count in (1, 10, 65_536, 3) for client in (one, other)]
        runs = await asyncio.gather(*asked)
        assert [run.count for run in runs] == [1, 1, 10, 10, 65_536, 65_536, 3, 3]
        in_order = sorted(runs, key=lambda run: run.first)
        assert all(run.end <= behind.first for run, behind in itertools.pairwise(in_order))
        current = await other.current_number("orders")
        assert current >= in_order[-1].end
        assert (await one.next_numbers("orders")).first >= current


async def test_c052_too_many_numbers_and_no_scope(cluster: Cluster) -> None:
    async with await cluster.device("counting", token=cluster.token("counting", scopes=["sequence"])) as client:
        await rejected(client.next_numbers("orders", 65_537), Code.COUNT_TOO_LARGE)
        await rejected(client.send("bob", "hi"), Code.FORBIDDEN)
    async with await cluster.device("m-plain") as client:
        await rejected(client.next_numbers("orders"), Code.FORBIDDEN)
        await rejected(client.current_number("orders"), Code.FORBIDDEN)
