"""Requests: what becomes of each, in virtual time."""

from __future__ import annotations

import random

import pytest

from seriatim import Code, OutcomeUnknown, Peer, Refusal, Rejected, RequestError
from seriatim._pilot import PAUSE_MAX, PAUSE_MIN, Backoff
from seriatim._requests import Requests, Way
from seriatim.v1 import client_pb2 as pb

End = pb.ServerFrame | RequestError


class Desk:
    """A client's requests, and their ends by the number of the send."""

    def __init__(self) -> None:
        self.requests = Requests(random.Random(1))
        self.now = 100.0
        self.ends: dict[int, End] = {}

    def send(self, number: int, follows: int | None = None, to: str = "bob") -> None:
        send = pb.Send(message_id=id_of(number), follows=id_of(follows) if follows else b"")
        self._add(number, pb.ClientFrame(send=send), Peer(to))

    def amend(self, number: int, to: str = "bob") -> None:
        amend = pb.Amend(message_id=id_of(number), target=1, recall=pb.Recall())
        self._add(number, pb.ClientFrame(amend=amend), Peer(to))

    def ask(self, number: int) -> None:
        self._add(number, pb.ClientFrame(status=pb.Status()), None)

    def _add(self, number: int, frame: pb.ClientFrame, to: Peer | None) -> None:
        def settled(end: End) -> None:
            assert number not in self.ends, "ended twice"
            self.ends[number] = end

        self.requests.add(Way.LANE, frame, self.now + 10, settled, to)

    def flush(self) -> list[tuple[int, int | None]]:
        """Sends whatever is ready: request ids and the send that each follows."""
        ready = self.requests.ready()
        for request in ready:
            self.requests.sent(request.id)
        placed = ((request, getattr(request.frame, request.what)) for request in ready)
        return [(request.id, next(iter(getattr(sent, "follows", b"")), None)) for request, sent in placed]

    def say(self, id: int, **body: object) -> None:
        self.requests.handle_answer(self.now, pb.ServerFrame(request_id=id, **body))  # type: ignore[arg-type]

    def commit(self, id: int) -> None:
        self.say(id, committed=pb.Committed(seq=id))

    def refuse(self, id: int, code: int, *, retry: bool = False, unknown: bool = False, after_ms: int = 0) -> None:
        error = pb.Error(code=code, name="a name", retry=retry, unknown=unknown, retry_after_ms=after_ms)
        self.say(id, error=error)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.requests.handle_timeout(self.now)

    def end(self, number: int) -> tuple[type[End], int]:
        end = self.ends[number]
        return type(end), end.refusal.code if isinstance(end, RequestError) else 0


def id_of(number: int | None) -> bytes:
    return bytes([number or 0]) * 16


@pytest.mark.parametrize(
    ("code", "is_lost_before", "expected"),
    [
        (Code.NOT_FOUND, True, OutcomeUnknown),
        (Code.NOT_FOUND, False, Rejected),
        (Code.MESSAGE_TOO_LARGE, True, OutcomeUnknown),
        (Code.EXPIRED, True, OutcomeUnknown),
        (4711, True, OutcomeUnknown),
        (4711, False, Rejected),
        (Code.ALREADY_EXISTS, True, Rejected),
        (Code.CANCELLED, True, Rejected),
        (Code.CONFLICT, True, Rejected),
    ],
)
def test_c064_a_refusal_behind_an_unknown_attempt(code: int, is_lost_before: bool, expected: type) -> None:
    desk = Desk()
    desk.send(1)
    desk.flush()
    if is_lost_before:
        desk.requests.handle_lost()
        desk.flush()
    desk.refuse(1, code)
    assert desk.end(1) == (expected, code)


def test_c064_a_question_has_no_unknown_attempts() -> None:
    desk = Desk()
    desk.ask(1)
    desk.flush()
    desk.requests.handle_lost()
    desk.flush()
    desk.refuse(1, Code.FORBIDDEN)
    assert desk.end(1) == (Rejected, Code.FORBIDDEN)


def test_c063_the_end_of_time() -> None:
    desk = Desk()
    desk.send(1)
    desk.send(2, to="carol")
    desk.send(3, to="dave")
    desk.flush()
    desk.send(4, to="erin")
    desk.refuse(2, Code.BUSY, retry=True)
    desk.refuse(3, Code.TIMEOUT, retry=True, unknown=True)
    desk.now += 10
    desk.requests.handle_timeout(desk.now)
    assert desk.end(1) == (OutcomeUnknown, Code.TIMEOUT), "sent, and no answer"
    assert desk.end(2) == (Rejected, Code.BUSY), "its only attempt said that nothing happened"
    assert desk.end(3) == (OutcomeUnknown, Code.TIMEOUT), "its attempt did not say that"
    assert desk.end(4) == (Rejected, Code.TIMEOUT), "never sent"
    assert desk.requests.poll_timeout() is None


def test_c063_the_end_of_the_client() -> None:
    desk = Desk()
    desk.send(1)
    desk.flush()
    desk.send(2)
    desk.requests.handle_end(Refusal.of(Code.KICKED, "away"))
    assert (desk.end(1), desk.end(2)) == ((OutcomeUnknown, Code.KICKED), (Rejected, Code.KICKED))


def test_c065_a_refusal_to_be_repeated_waits_as_told() -> None:
    for code in (Code.QUOTA_EXCEEDED, 4711):
        desk = Desk()
        desk.send(1)
        desk.flush()
        desk.refuse(1, code, retry=True, after_ms=500)
        desk.wait(0.499)
        assert desk.flush() == []
        desk.wait(0.251)
        assert desk.flush() == [(1, None)], "half as long again at most"
        desk.commit(1)
        assert desk.end(1) == (pb.ServerFrame, 0)


def test_c065_pauses_grow_up_to_a_second() -> None:
    desk = Desk()
    desk.requests.add(Way.LANE, pb.ClientFrame(status=pb.Status()), desk.now + 1e6, lambda _: None)
    pauses = []
    for _ in range(12):
        desk.flush()
        desk.refuse(1, Code.BUSY, retry=True)
        due = desk.requests.poll_timeout()
        assert due is not None
        pauses.append(due - desk.now)
        desk.wait(pauses[-1])
    for place, pause in enumerate(pauses):
        longest = min(0.020 * 2**place, 1.0)
        assert longest / 2 <= pause <= longest + 1e-9


def test_c065_a_code_that_is_not_known_is_handled_by_its_flags() -> None:
    desk = Desk()
    desk.send(1)
    desk.send(2, to="carol")
    desk.flush()
    desk.refuse(1, 4711)
    desk.refuse(2, 4711, unknown=True)
    assert (desk.end(1), desk.end(2)) == ((Rejected, 4711), (OutcomeUnknown, 4711))


def test_c061_a_lost_connection_sends_everything_open_again_in_order() -> None:
    desk = Desk()
    for number in (1, 2, 3):
        desk.send(number)
    assert desk.flush() == [(1, None), (2, 1), (3, 2)]
    desk.refuse(2, Code.UNAVAILABLE, retry=True, unknown=True)
    desk.requests.handle_lost()
    assert desk.flush() == [(1, None), (3, 2)]
    desk.wait(0.050)
    assert desk.flush() == [(2, 1)]


def test_c024_sends_that_are_open_together_follow_each_other() -> None:
    desk = Desk()
    for number in (1, 2, 3):
        desk.send(number)
    desk.send(7, to="carol")
    assert desk.flush() == [(1, None), (2, 1), (3, 2), (4, None)]
    for id in (1, 2, 3):
        desk.commit(id)
    desk.send(8)
    assert desk.flush() == [(5, None)], "nothing is open in this conversation any more"


def test_c024_one_that_came_too_early_waits_for_the_one_before() -> None:
    desk = Desk()
    desk.send(1)
    desk.send(2)
    desk.flush()
    desk.refuse(1, Code.BUSY, retry=True)
    desk.refuse(2, Code.OUT_OF_ORDER, retry=True)
    desk.wait(0.050)
    assert desk.flush() == [(1, None)]
    desk.wait(5)
    assert desk.flush() == []
    desk.commit(1)
    assert desk.flush() == [(2, 1)]


def test_c066_those_behind_a_rejected_one_follow_whom_it_followed() -> None:
    desk = Desk()
    for number in (1, 2, 3):
        desk.send(number)
    desk.flush()
    desk.refuse(3, Code.OUT_OF_ORDER, retry=True)
    desk.refuse(2, Code.CONFLICT)
    assert desk.end(2) == (Rejected, Code.CONFLICT)
    assert desk.flush() == [(3, 1)]


def test_c066_a_new_one_behind_a_rejected_last_one_follows_whom_that_followed() -> None:
    desk = Desk()
    desk.send(1)
    desk.send(2)
    desk.flush()
    desk.refuse(2, Code.CONFLICT)
    desk.send(3)
    assert desk.flush() == [(3, 1)], "1 is still open: it must not be overtaken"


def test_c086_amendments_have_their_place_among_the_sends() -> None:
    desk = Desk()
    desk.send(1)
    desk.amend(2)
    desk.send(3)
    assert desk.flush() == [(1, None), (2, 1), (3, 2)]
    desk.refuse(3, Code.OUT_OF_ORDER, retry=True)
    # A rejected amendment leaves its place to the one before it.
    desk.refuse(2, Code.TOO_LATE)
    assert desk.end(2) == (Rejected, Code.TOO_LATE)
    assert desk.flush() == [(3, 1)]
    desk.amend(4)
    assert desk.flush() == [(4, 3)]
    # Behind an attempt that may have happened a refusal of it is no verdict, and the next one stays behind it.
    desk.requests.handle_lost()
    desk.flush()
    desk.commit(1)
    desk.commit(3)
    desk.send(5)
    assert desk.flush() == [(5, 4)]
    desk.refuse(5, Code.OUT_OF_ORDER, retry=True)
    desk.refuse(4, Code.RECALLED)
    assert desk.end(4) == (OutcomeUnknown, Code.RECALLED)
    assert desk.flush() == [(5, 4)]


def test_c074_an_unknown_one_keeps_its_place() -> None:
    desk = Desk()
    desk.send(1)
    desk.wait(5)
    desk.send(2)
    desk.flush()
    desk.refuse(2, Code.OUT_OF_ORDER, retry=True)
    desk.wait(5)
    assert desk.end(1) == (OutcomeUnknown, Code.TIMEOUT)
    assert desk.flush() == [(2, 1)], "1 may still come, and 2 is behind it"


def test_an_answer_to_nothing_is_ignored() -> None:
    desk = Desk()
    desk.commit(9)
    desk.send(1)
    desk.commit(1)
    assert desk.ends == {}, "not sent yet"


def test_c071_the_pause_doubles_with_a_random_part() -> None:
    backoff = Backoff(random.Random(1))
    longest = PAUSE_MIN
    for _ in range(10):
        assert longest / 2 <= backoff.next() <= longest
        longest = min(longest * 2, PAUSE_MAX)
    assert (PAUSE_MIN, longest) == (0.050, 2.0)
    backoff.reset()
    assert backoff.next() <= PAUSE_MIN

    assert len({Backoff(random.Random(seed)).next() for seed in range(20)}) > 10, "each time another"
