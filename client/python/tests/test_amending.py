"""Amendments and marks, with a real cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

import pytest
from cluster import PATIENCE, Cluster
from raw import session

from seriatim import (
    ZERO_CHAIN,
    BodyState,
    Client,
    Code,
    Edit,
    Entry,
    Group,
    Kind,
    Peer,
    React,
    Recall,
    Rejected,
    SendState,
    new_message_id,
)
from seriatim.v1 import client_pb2 as pb


async def entries_of(client: Client, count: int) -> list[Entry]:
    """The first entries of the inbox, once they are there."""
    async with asyncio.timeout(PATIENCE), client.subscribe(1) as inbox:
        return [await anext(inbox) for _ in range(count)]


async def rejected(asked: Awaitable[object], code: Code) -> None:
    with pytest.raises(Rejected) as refused:
        await asked
    assert refused.value.refusal.code == code


async def test_c080_c081_amendments_come_to_everybody_in_order(cluster: Cluster) -> None:
    async with await cluster.device("a-ann") as ann, await cluster.device("a-ben") as ben:
        said = (await ann.send("a-ben", "helo")).seq
        await ann.edit("a-ben", said, "hello")
        await ben.react("a-ann", said, "👍")
        await ben.react("a-ann", said, "👍", unset=True)
        await ben.pin("a-ann", said)
        await ann.recall("a-ben", said)
        kinds = [Kind.MESSAGE, Kind.EDIT, Kind.REACTION, Kind.REACTION, Kind.PIN, Kind.RECALL]
        for client in (ann, ben):
            entries = await entries_of(client, 6)
            assert [entry.kind for entry in entries] == kinds
            assert [entry.target for entry in entries] == [None] + [said] * 5
            assert [(entry.emoji, entry.unset) for entry in entries[2:5]] == [
                ("👍", False),
                ("👍", True),
                (None, False),
            ]
            assert [entry.sender for entry in entries] == ["a-ann"] * 2 + ["a-ben"] * 3 + ["a-ann"]
            places = [entry.conversation_seq for entry in entries]
            assert places == sorted(set(places))
            assert {entry.ordinal for entry in entries} == {1}, "only messages are counted"
            # The chain binds the target, and what a reaction says.
            page = await client.sync(chain=ZERO_CHAIN)
            assert [entry.message_id for entry in page.entries] == [entry.message_id for entry in entries]


async def test_c082_nobody_is_given_what_was_recalled(cluster: Cluster) -> None:
    async with await cluster.device("a-cat") as cat, await cluster.device("a-dan") as dan:
        kept = (await cat.send("a-dan", "kept")).seq
        said = (await cat.send("a-dan", "a secret")).seq
        await cat.edit("a-dan", said, "another secret")
        await cat.edit("a-dan", kept, "kept, and edited")
        await cat.recall("a-dan", said)
        erased, here = BodyState.ERASED, BodyState.HERE
        states = [here, erased, erased, here, here]
        bodies = [b"kept", b"", b"", b"kept, and edited", b""]
        await entries_of(dan, 5)
        await entries_of(cat, 5)
        for entries in (
            (await cat.history("a-dan")).entries,
            (await dan.history("a-cat")).entries,
            (await cat.sync(chain=ZERO_CHAIN)).entries,
            (await dan.sync(chain=ZERO_CHAIN)).entries,
        ):
            assert [entry.body_state for entry in entries] == states
            assert [entry.body for entry in entries] == bodies
            assert all(not entry.salt for entry in entries if entry.body_state is erased)
            assert entries[1].body_hash != bytes(16), "the header stays"


async def test_c083_who_may_amend_what(cluster: Cluster) -> None:
    async with (
        await cluster.device("a-eve") as eve,
        await cluster.device("a-fay") as fay,
        await cluster.device("a-gus") as gus,
    ):
        group = Group.new()
        created = (await eve.create_group(group, ["a-fay"])).seq
        said = (await eve.send(group, "for two")).seq
        await rejected(fay.edit(group, said, "not mine"), Code.NOT_AUTHOR)
        await rejected(fay.recall(group, said), Code.NOT_AUTHOR)
        await rejected(fay.react(group, created, "+"), Code.NOT_FOUND)
        await rejected(fay.react(group, said + 1_000, "+"), Code.NOT_FOUND)
        # To a stranger, and to one who came later, it is as if it were not there.
        await rejected(gus.react(group, said, "+"), Code.NOT_FOUND)
        await eve.change_members(group, add=["a-gus"])
        for amended in (gus.react(group, said, "+"), gus.pin(group, said), gus.edit(group, said, "x")):
            await rejected(amended, Code.NOT_FOUND)
        # A pin is everybody's, also of what he was not given: else nobody could take back those of former members.
        await rejected(gus.pin(group, said, unset=True), Code.NOT_FOUND)
        await eve.pin(group, said)
        await gus.pin(group, said, unset=True)
        await rejected(gus.pin(group, said, unset=True), Code.NOT_FOUND)
        await eve.recall(group, said)
        for amended in (eve.edit(group, said, "late"), eve.recall(group, said), fay.react(group, said, "+")):
            await rejected(amended, Code.RECALLED)
        mine = (await fay.send(group, "mine")).seq
        for place in range(16):
            await gus.react(group, mine, str(place))
        await rejected(gus.react(group, mine, "one more"), Code.AMENDMENTS_TOO_MANY)
        await gus.react(group, mine, "0", unset=True)
        await gus.react(group, mine, "one more")


async def test_c084_an_amendment_is_sent_again_asked_for_and_cancelled(cluster: Cluster) -> None:
    async with await cluster.device("a-ida") as ida:
        said = (await ida.send("a-jon", "helo")).seq
        edit = ida.prepare_amendment("a-jon", said, Edit(b"hello"))
        assert (await ida.query_send("a-jon", edit.message_id, edit.known)).state is SendState.NOT_YET
        first = await (await ida.submit_amendment(edit))
        again = await (await ida.submit_amendment(edit))
        assert (again.seq, again.duplicate) == (first.seq, True)
        for act in (Edit(b"another"), Recall(), React("+")):
            await rejected(await ida.submit_amendment(replace(edit, act=act)), Code.CONFLICT)
        for asked in (ida.query_send, ida.cancel_send):
            status = await asked("a-jon", edit.message_id, edit.known)
            assert (status.state, status.seq) == (SendState.COMMITTED, first.seq)
        recall = ida.prepare_amendment("a-jon", said, Recall())
        assert (await ida.cancel_send("a-jon", recall.message_id, recall.known)).state is SendState.CANCELLED
        await rejected(await ida.submit_amendment(recall), Code.CANCELLED)
        entries = (await ida.history("a-jon")).entries
        assert [(entry.kind, entry.body) for entry in entries] == [(Kind.MESSAGE, b"helo"), (Kind.EDIT, b"hello")]


async def test_c085_amendments_and_messages_take_their_places_in_order(cluster: Cluster) -> None:
    async with await cluster.device("a-kim") as kim:
        said = (await kim.send("a-kim", "0")).seq
        tickets = []
        for place in range(1, 60):
            if place % 3:
                tickets.append(await kim.submit(kim.prepare("a-kim", str(place))))
            else:
                edit = kim.prepare_amendment("a-kim", said, Edit(str(place).encode()))
                tickets.append(await kim.submit_amendment(edit))
        places = [(await ticket).seq for ticket in tickets]
        assert places == sorted(set(places))
        page = await kim.history("a-kim")
        assert [entry.body for entry in page.entries] == [b"%d" % place for place in range(60)]
        await rejected(kim.edit("a-kim", said, bytes(65_537)), Code.MESSAGE_TOO_LARGE)


async def test_c087_an_amendment_out_of_its_range_is_malformed(cluster: Cluster) -> None:
    async with session(cluster, "a-raw") as raw:
        lane = raw.open()
        to = pb.Conversation(peer="a-raw")
        raw.ask(lane, send=pb.Send(message_id=new_message_id(), conversation=to, body=b"hi"))
        said = (await raw.answer(lane)).committed.seq
        good = pb.Amend(message_id=new_message_id(), conversation=to, target=said, react=pb.React(emoji="+"))
        bad = [
            pb.Amend(message_id=new_message_id(), conversation=to, target=said),
            pb.Amend(message_id=new_message_id(), conversation=to, recall=pb.Recall()),
            pb.Amend(message_id=bytes(15), conversation=to, target=said, recall=pb.Recall()),
            pb.Amend(message_id=new_message_id(), target=said, recall=pb.Recall()),
            *(
                pb.Amend(message_id=new_message_id(), conversation=to, target=said, react=pb.React(emoji=emoji))
                for emoji in ("", "x" * 65, "a\nb")
            ),
            pb.Amend(message_id=new_message_id(), conversation=to, target=said, edit=pb.Edit(salt=bytes(33))),
        ]
        for amend in bad:
            raw.ask(lane, amend=amend)
            assert (await raw.answer(lane)).error.code == Code.MALFORMED, amend
        for mark in (pb.Mark(conversation=to), pb.Mark(conversation=to, read_upto=0), pb.Mark(muted=True)):
            raw.ask(lane, mark=mark)
            assert (await raw.answer(lane)).error.code == Code.MALFORMED, mark
        raw.ask(lane, amend=good)
        assert (await raw.answer(lane)).HasField("committed")


async def test_c090_c091_marks_are_the_users_own_and_read_marks_only_rise(cluster: Cluster) -> None:
    async with (
        await cluster.device("k-lea") as phone,
        await cluster.device("k-lea", "laptop") as laptop,
        await cluster.device("k-max") as peer,
    ):
        for body in ("one", "two", "three"):
            await peer.send("k-lea", body)
        await peer.send("k-max", "a note")
        first, second, third = await entries_of(phone, 3)
        assert second.seq is not None
        assert first.seq is not None
        now = await phone.mark_read("k-max", second.seq)
        assert (now.conversation, now.messages, now.unread) == (Peer("k-max"), 3, 1)
        assert (now.read_upto, now.read_seq) == (second.seq, second.conversation_seq)
        # Lower, and the same again: nothing changes, and nothing is written.
        for upto in (first.seq, second.seq):
            assert await laptop.mark_read("k-max", upto) == now
        assert (await phone.mute("k-max")).muted
        assert (await phone.archive("k-max")).archived
        assert not (await phone.mute("k-max", False)).muted
        entries = await entries_of(laptop, 7)
        marks = [(entry.kind, entry.unset) for entry in entries[3:]]
        assert marks == [(Kind.READ, False), (Kind.MUTE, False), (Kind.ARCHIVE, False), (Kind.MUTE, True)]
        assert all(entry.message_id == bytes(16) and entry.ordinal == 3 for entry in entries[3:])
        assert entries[3].conversation_seq == second.conversation_seq
        assert len((await laptop.sync(chain=ZERO_CHAIN)).entries) == 7, "they are in the chain"
        # Of another conversation, of nothing, of a mark, and of a stranger.
        read = entries[3].seq
        assert read is not None
        for wrong in (read, 9_999):
            await rejected(phone.mark_read("k-max", wrong), Code.NOT_FOUND)
        await rejected(phone.mark_read("k-nobody", first.seq), Code.NOT_FOUND)
        await rejected(phone.mute("k-nobody"), Code.NOT_FOUND)
        assert third.seq is not None
        assert (await laptop.mark_read("k-max", third.seq)).unread == 0
        assert all(not entry.kind.is_mark for entry in (await peer.sync()).entries)
        assert all(not entry.kind.is_mark for entry in (await phone.history("k-max")).entries)


async def test_c092_a_list_in_pages_with_what_is_not_read(cluster: Cluster) -> None:
    async with await cluster.device("l-nia") as nia:
        counts = {f"l-{number}": number for number in range(1, 6)}
        for peer, count in counts.items():
            for place in range(count):
                await nia.send(peer, str(place))
        found: list[str] = []

        await entries_of(nia, 15)
        after, more = None, True
        while more:
            page = await nia.list_conversations(after, limit=2)
            assert page.unread == 15
            for listed in page.conversations:
                assert isinstance(listed.conversation, Peer)
                peer = listed.conversation.user
                assert (listed.messages, listed.unread, listed.read_upto) == (counts[peer], counts[peer], None)
                found.append(peer)
            after, more = page.conversations[-1].conversation, page.more
        assert sorted(found) == sorted(counts)
        newest = next(one for one in (await nia.list_conversations()).conversations if one.conversation == Peer("l-5"))
        assert newest.inbox_seq is not None
        await nia.mark_read("l-5", newest.inbox_seq)
        assert (await nia.list_conversations()).unread == 10
        async with await cluster.device("l-nobody") as nobody:
            page = await nobody.list_conversations()
            assert (page.conversations, page.more, page.unread) == ((), False, 0)
