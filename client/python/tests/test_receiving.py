"""The inbox, with a real cluster."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from cluster import PATIENCE, Cluster
from raw import CONTROL, Raw, session

from seriatim import ZERO_CHAIN, Client, Code, Entry, Group, Kind, Rejected, Subscription, SubscriptionRefused
from seriatim.v1 import client_pb2 as pb


async def take(inbox: Subscription, count: int) -> list[Entry]:
    async with asyncio.timeout(PATIENCE):
        return [await anext(inbox) for _ in range(count)]


async def fill(client: Client, to: str, count: int) -> list[bytes]:
    """Sends; the bodies."""
    bodies = [f"{to} {place}".encode() for place in range(count)]
    tickets = [await client.submit(client.prepare(to, body)) for body in bodies]
    for ticket in tickets:
        await ticket
    return bodies


def check_joined(entries: list[Entry]) -> None:
    """Each names its predecessor, and the ordinals count."""
    for entry, behind in itertools.pairwise(entries):
        assert behind.prev_seq == entry.seq
        assert behind.ordinal == entry.ordinal + 1


async def test_c040_c041_every_entry_once_in_order(cluster: Cluster) -> None:
    async with await cluster.device("r-ann") as ann, await cluster.device("r-ben") as ben:
        async with ben.subscribe(1) as inbox:
            bodies = await fill(ann, "r-ben", 100)
            entries = await take(inbox, 100)
            bodies += await fill(ann, "r-ben", 20)
            entries += await take(inbox, 20)
        assert [entry.body for entry in entries] == bodies
        assert entries[0].prev_seq is None
        check_joined(entries)
        middle = entries[70]
        async with ben.subscribe(middle.seq) as inbox:
            assert await take(inbox, 50) == entries[70:]
        async with ben.subscribe(middle.end) as inbox:
            assert await take(inbox, 49) == entries[71:]


async def frames_until(raw: Raw, stream: int, body: str) -> list[pb.ServerFrame]:
    frames: list[pb.ServerFrame] = []
    while not frames or frames[-1].WhichOneof("body") != body:
        frames.append(await raw.answer(stream))
    return frames


def seqs_of(frames: list[pb.ServerFrame]) -> list[int]:
    return [entry.seq for frame in frames for entry in frame.deliver.entries]


async def test_c042_credit(cluster: Cluster) -> None:
    async with await cluster.device("r-credit") as client:
        await fill(client, "r-credit", 5)
        entries = await take(client.subscribe(1), 5)
    seqs = [entry.seq for entry in entries]
    async with session(cluster, "r-credit") as raw:
        raw.ask(CONTROL, subscribe=pb.Subscribe(**{"from": 1}, credit=2))
        number = (await raw.answer(CONTROL)).subscribed.subscription_id
        stream = await raw.inbox()
        header = (await raw.answer(stream)).stream_header
        assert (header.subscription_id, header.user, getattr(header, "from")) == (number, "r-credit", 1)
        frames = await frames_until(raw, stream, "lagging")
        assert seqs_of(frames) == seqs[:2]
        assert frames[-1].lagging.subscription_id == number
        assert frames[-1].lagging.upto >= entries[-1].end
        raw.ask(CONTROL, credit=pb.Credit(subscription_id=number, entries=1))
        assert seqs_of(await frames_until(raw, stream, "lagging")) == seqs[2:3]
        raw.ask(CONTROL, credit=pb.Credit(subscription_id=number, entries=10))
        frames = []
        while len(seqs_of(frames)) < 2:
            frames.append(await raw.answer(stream))
        assert seqs_of(frames) == seqs[3:]


async def test_c043_one_subscription(cluster: Cluster) -> None:
    async with session(cluster, "r-one") as raw:
        raw.ask(CONTROL, subscribe=pb.Subscribe(**{"from": 1}))
        first = (await raw.answer(CONTROL)).subscribed.subscription_id
        old = await raw.inbox()
        assert (await raw.answer(old)).stream_header.subscription_id == first
        raw.ask(CONTROL, subscribe=pb.Subscribe(**{"from": 1}))
        second = (await raw.answer(CONTROL)).subscribed.subscription_id
        new = await raw.inbox()
        assert (await raw.answer(new)).stream_header.subscription_id == second != first
        await raw.ended(old)
        raw.ask(CONTROL, unsubscribe=pb.Unsubscribe(subscription_id=second))
        await raw.ended(new)


async def test_c044_a_position_in_the_future(cluster: Cluster) -> None:
    async with await cluster.device("r-future") as client:
        await client.send("r-future", "a note")
        tail = (await take(client.subscribe(1), 1))[0].end
        with pytest.raises(SubscriptionRefused) as ended:
            await take(client.subscribe(tail + (1 << 40)), 1)
        assert ended.value.refusal.code == Code.CURSOR_AHEAD
        with pytest.raises(Rejected) as refused:
            await client.sync(tail + (1 << 40))
        assert refused.value.refusal.code == Code.CURSOR_AHEAD
        with pytest.raises(Rejected) as refused:
            await client.ack(tail + (1 << 40))
        assert refused.value.refusal.code == Code.CURSOR_AHEAD
        assert client.connections == 1


async def test_c045_two_devices_of_one_user(cluster: Cluster) -> None:
    async with (
        await cluster.device("r-two", "phone") as phone,
        await cluster.device("r-two", "laptop") as laptop,
        await cluster.device("r-other") as other,
    ):
        inboxes = (phone.subscribe(1), laptop.subscribe(1))
        await asyncio.gather(fill(phone, "r-other", 20), fill(laptop, "r-other", 20), fill(other, "r-two", 20))
        of_phone, of_laptop = [await take(inbox, 60) for inbox in inboxes]
        assert of_phone == of_laptop
        check_joined(of_phone)
        for sender, count in (("r-two", 40), ("r-other", 20)):
            assert sum(entry.sender == sender for entry in of_phone) == count


async def test_c046_cursors(cluster: Cluster) -> None:
    async with (
        await cluster.device("r-ack", "phone") as phone,
        await cluster.device("r-ack", "laptop") as laptop,
    ):
        await fill(phone, "r-ack", 3)
        first, second, third = await take(phone.subscribe(1), 3)
        assert await phone.ack(second.end) == second.end
        assert await laptop.ack(third.end) == third.end
        assert await phone.ack(first.end) == second.end, "never back"
        assert phone.cursor == second.end
        assert (await phone.status()).devices == {"phone": second.end, "laptop": third.end}


async def test_c047_c048_pages_and_their_chain(cluster: Cluster) -> None:
    async with await cluster.device("r-pages") as client:
        await fill(client, "r-pages", 25)
        every = await take(client.subscribe(1), 25)
        entries: list[Entry] = []
        start, chain, more, pages = None, ZERO_CHAIN, True, 0
        while more:
            page = await client.sync(start, limit=10, chain=chain)
            start, chain, more, pages = page.upto, page.chain, page.more, pages + 1
            entries.extend(page.entries)
        assert pages >= 3
        assert [entry.seq for entry in entries] == [entry.seq for entry in every]
        check_joined(entries)
        assert all(entry.chain for entry in entries)
        status = await client.status()
        assert (status.chain, status.ordinal) == (chain, 25)
        empty = await client.sync(start)
        assert (empty.entries, empty.more, empty.too_long, empty.upto) == ((), False, False, start)


async def test_c048_the_chain_of_every_kind_of_entry(cluster: Cluster) -> None:
    async with await cluster.device("r-kinds") as client, await cluster.device("r-kinds-2") as other:
        group = Group.new()
        await client.create_group(group, ["r-kinds-2"])
        await client.send(group, "to the group")
        await client.change_members(group, add=["r-kinds-3"], remove=["r-kinds-2"])
        await client.send("r-kinds", "a note")
        await other.send("r-kinds", "from the other")
        said = (await client.send("r-kinds", "to be amended")).seq
        await client.edit("r-kinds", said, "edited")
        await client.react("r-kinds", said, "+")
        await client.pin("r-kinds", said)
        await client.recall("r-kinds", said)
        entries = await take(client.subscribe(1), 10)
        note = next(entry.seq for entry in entries if entry.body == b"a note")
        assert note is not None
        await client.mark_read("r-kinds", note)
        await client.mute("r-kinds")
        await client.archive("r-kinds")
        page = await client.sync(chain=ZERO_CHAIN)
        assert {entry.kind for entry in page.entries} == set(Kind)
        assert len(page.entries) == 13


async def test_c049_history_and_status(cluster: Cluster) -> None:
    async with await cluster.device("r-history") as client, await cluster.device("r-nobody") as nobody:
        bodies = await fill(client, "r-peer", 12)
        first = await client.history("r-peer", limit=5)
        rest = await client.history("r-peer", first.upto)
        entries = first.entries + rest.entries
        assert [entry.body for entry in entries] == bodies
        assert (len(first.entries), first.more, rest.more) == (5, True, False)
        assert all(entry.seq is None and entry.prev_seq is None for entry in entries)
        places = [entry.conversation_seq for entry in entries]
        assert places == sorted(set(places))
        last = (await take(client.subscribe(1), 12))[-1]
        status = await client.status()
        assert status.tail is not None
        assert status.ceiling is not None
        assert last.end <= status.tail <= status.ceiling
        assert (status.ordinal, status.devices) == (12, {})
        empty = await nobody.status()
        assert (empty.trim, empty.tail, empty.ordinal, empty.chain) == (None, None, 0, ZERO_CHAIN)
