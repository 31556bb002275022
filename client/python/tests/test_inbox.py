"""Inbox: what the reader of a subscription gets, without a network."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_bytes import an_entry

from seriatim import Code, Entry, Refusal, SubscriptionError, SubscriptionRefused, SyncPage, TooLong
from seriatim._inbox import (
    CREDIT_STEP,
    SUBSCRIBE_PAUSE,
    WINDOW,
    AskPage,
    GiveCredit,
    Inbox,
    Need,
    Subscribe,
    Subscription,
    Unsubscribe,
)

PAGE_MAX = 1_000


def entry(seq: int, prev_seq: int) -> Entry:
    return an_entry(b"", seq=seq, prev_seq=prev_seq or None, conversation_seq=seq, at_ms=seq, sender="bob")


def page(entries: list[Entry], upto: int, more: bool = False) -> SyncPage:
    return SyncPage(tuple(entries), upto, more=more, too_long=False, trim=1, tail=upto, chain=bytes(16))


def subscribed(start: int = 1) -> tuple[Inbox, Subscription]:
    reader = Subscription(start, None, lambda: None)
    inbox = Inbox(reader)
    need = inbox.need(is_connected=True, is_pushed=False)
    assert isinstance(need, Subscribe)
    assert need.start == start
    return inbox, reader


def needs(inbox: Inbox) -> list[Need]:
    found = []
    while (need := inbox.need(is_connected=True, is_pushed=True)) is not None:
        found.append(need)
    return found


def taken(reader: Subscription) -> list[int]:
    """What the reader has without waiting."""
    seqs: list[int] = []
    while len(reader):
        step = reader.__anext__()
        with pytest.raises(StopIteration) as given_:
            step.send(None)
        seqs.append(given_.value.value.seq)
    return seqs


async def test_c067_repetitions_are_dropped_and_a_gap_is_repaired() -> None:
    inbox, reader = subscribed()
    inbox.handle_entries([entry(1, 0), entry(4, 1)])
    inbox.handle_entries([entry(4, 1), entry(5, 4), entry(9, 8)])
    assert taken(reader) == [1, 4, 5]
    assert needs(inbox) == [Unsubscribe(), AskPage(6)]
    inbox.handle_page(page([entry(8, 5)], 9, more=True))
    assert needs(inbox) == [AskPage(9)]
    inbox.handle_page(page([entry(9, 8)], 12))
    assert taken(reader) == [8, 9]
    assert [type(need) for need in needs(inbox)] == [Subscribe]


async def test_c067_lagging_and_the_end_of_the_stream_are_repaired() -> None:
    inbox, reader = subscribed()
    inbox.handle_lagging(1)
    assert needs(inbox) == [], "there is nothing behind the position"
    inbox.handle_lagging(3)
    assert needs(inbox) == [Unsubscribe(), AskPage(1)]
    inbox.handle_entries([entry(1, 0)])
    assert taken(reader) == [], "the page has it too"
    inbox.handle_page(page([entry(1, 0), entry(2, 1)], 3))
    assert [type(need) for need in needs(inbox)] == [Subscribe]
    inbox.handle_stream_end()
    assert needs(inbox) == [AskPage(3)]
    inbox.handle_page_refused(Refusal.of(Code.UNAVAILABLE, "later"))
    assert needs(inbox) == [AskPage(3)], "asked again"
    assert taken(reader) == [1, 2]


async def test_c060_a_lost_connection_goes_on_from_the_position() -> None:
    inbox, _ = subscribed()
    inbox.handle_entries([entry(1, 0)])
    inbox.handle_lost()
    assert inbox.need(is_connected=False, is_pushed=False) is None
    need = inbox.need(is_connected=True, is_pushed=False)
    assert isinstance(need, Subscribe)
    assert need.start == 2


@given(st.data())
async def test_c067_whatever_comes_each_entry_comes_once_in_order(data: st.DataObject) -> None:
    """A gateway that repeats, leaves out, lags, ends streams and loses connections as it likes."""
    seqs = sorted(data.draw(st.sets(st.integers(1, 60), max_size=25)))
    every = [entry(seq, before) for seq, before in zip(seqs, [0, *seqs], strict=False)]
    tail = 61
    inbox, reader = subscribed()
    got: list[int] = []

    def fair() -> None:
        """The gateway does what it must."""
        for need in needs(inbox):
            if isinstance(need, AskPage):
                found = [one for one in every if one.end > need.start][: data.draw(st.integers(1, 5))]
                upto = found[-1].end if found and found[-1] is not every[-1] else tail
                inbox.handle_page(page(found, upto, more=upto < tail))
        got.extend(taken(reader))

    for _ in range(data.draw(st.integers(0, 8))):
        match data.draw(st.sampled_from(["push", "lag", "end", "lose", "fair"])):
            case "push":
                start = data.draw(st.integers(0, 25))
                inbox.handle_entries(every[start : start + data.draw(st.integers(0, 25))])
            case "lag":
                inbox.handle_lagging(data.draw(st.integers(1, tail)))
            case "end":
                inbox.handle_stream_end()
            case "lose":
                inbox.handle_lost()
            case "fair":
                fair()
        got.extend(taken(reader))
    for _ in range(100):
        inbox.handle_stream_end()
        fair()
    assert got == seqs


async def test_c068_credit_is_given_for_what_the_reader_took() -> None:
    inbox, reader = subscribed()
    inbox.handle_entries([entry(place, place - 1) for place in range(1, CREDIT_STEP + 1)])
    assert needs(inbox) == [], "nothing was taken"
    taken(reader)
    assert inbox.need(is_connected=True, is_pushed=False) is None, "there is no stream to credit"
    assert needs(inbox) == [GiveCredit(CREDIT_STEP)]


async def test_c068_no_page_is_asked_for_while_the_reader_is_full() -> None:
    inbox, reader = subscribed()
    inbox.handle_entries([entry(place, place - 1) for place in range(1, WINDOW + 1)])
    inbox.handle_lagging(9_000)
    assert needs(inbox) == [Unsubscribe()]
    await reader.__anext__()
    assert needs(inbox) == [AskPage(WINDOW + 1)]


@given(st.lists(st.integers(0, WINDOW), max_size=30))
async def test_c068_what_waits_is_bounded(reads: list[int]) -> None:
    """A gateway that pushes all it may, and a reader that reads so much between."""
    inbox, reader = Inbox(Subscription(1, None, lambda: None)), None
    reader = inbox.reader
    credit, place = 0, 1
    for read in reads:
        for need in needs(inbox):
            if isinstance(need, Subscribe | GiveCredit):
                credit += need.credit if isinstance(need, Subscribe) else need.entries
        inbox.handle_entries([entry(seq, seq - 1) for seq in range(place, place + credit)])
        place, credit = place + credit, 0
        assert len(reader) <= WINDOW + CREDIT_STEP
        for _ in range(min(read, len(reader))):
            await reader.__anext__()


async def test_c069_trimmed_entries_end_it_and_say_so_once() -> None:
    inbox, reader = subscribed()
    inbox.handle_entries([entry(1, 0)])
    inbox.handle_stream_end()
    assert needs(inbox) == [AskPage(2)]
    inbox.handle_page(replace(page([], 9), too_long=True, trim=7))
    assert (await anext(reader)).seq == 1
    with pytest.raises(TooLong) as ended:
        await anext(reader)
    assert ended.value.trim == 7
    with pytest.raises(StopAsyncIteration):
        await anext(reader)


async def test_a_new_subscription_ends_the_old_one() -> None:
    inbox, reader = subscribed()
    inbox.replace()
    with pytest.raises(SubscriptionRefused):
        await anext(reader)


async def test_a_reader_that_leaves_ends_it() -> None:
    inbox, reader = subscribed()
    waiting = asyncio.create_task(reader.__anext__())
    await asyncio.sleep(0)
    await reader.aclose()
    with pytest.raises(StopAsyncIteration):
        await waiting
    assert needs(inbox) == [Unsubscribe()]
    inbox.handle_entries([entry(1, 0)])
    assert len(reader) == 0


async def test_a_refused_page_that_cannot_be_had_ends_it() -> None:
    inbox, reader = subscribed()
    inbox.handle_stream_end()
    assert needs(inbox) == [AskPage(1)]
    inbox.handle_page_refused(Refusal.of(Code.CURSOR_AHEAD, "from the future"))
    with pytest.raises(SubscriptionError, match="CURSOR_AHEAD"):
        await anext(reader)


@pytest.mark.parametrize("told", [0, 400])
def test_c065_a_subscription_that_is_refused_for_now_is_asked_for_again_and_not_before(told: int) -> None:
    inbox, reader = subscribed()
    inbox.handle_entries([entry(1, 0)])
    busy = replace(Refusal.of(Code.BUSY, ""), retry=True, retry_after_ms=told)
    inbox.handle_subscribe_refused(10.0, busy, random.Random(1))
    until = inbox.poll_timeout()
    assert until is not None
    pause = max(told / 1000, SUBSCRIBE_PAUSE)
    assert pause <= until - 10.0 <= pause * 1.5
    inbox.handle_timeout(until - 0.001)
    assert inbox.need(is_connected=True, is_pushed=False) is None, "not before"
    inbox.handle_timeout(until)
    again = inbox.need(is_connected=True, is_pushed=False)
    assert isinstance(again, Subscribe)
    assert again.start == 2
    assert inbox.poll_timeout() is None
    inbox.handle_subscribe_refused(10.0, busy, random.Random(1))
    inbox.handle_lost()
    assert inbox.need(is_connected=True, is_pushed=False) == again, "another connection knows nothing of it"
    inbox.handle_subscribe_refused(10.0, Refusal.of(Code.FORBIDDEN, ""), random.Random(1))
    assert inbox.is_over
    assert taken(reader) == [1]
