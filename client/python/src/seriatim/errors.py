"""Errors: the classes of ends that a caller must tell apart.

A request ends well, `Rejected` (it did not happen and will not) or `OutcomeUnknown` (it may have happened: only the
same message id settles it).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from seriatim.v1 import client_pb2 as pb


class Code(enum.IntEnum):
    """The codes of the page docs/protocol.md. The numbers are stable; a gateway may say one that is not here."""

    ALREADY_EXISTS = 1
    AUTH_EXPIRED = 2
    AUTH_FAILED = 3
    BACKLOGGED = 4
    BUSY = 5
    CONFLICT = 6
    CRITICAL_STREAM_CLOSED = 7
    CURSOR_AHEAD = 8
    EXPIRED = 9
    FRAME_TOO_LARGE = 10
    HELLO_TIMEOUT = 11
    INTERNAL = 12
    KICKED = 13
    MALFORMED = 14
    MEMBERS_TOO_MANY = 15
    MESSAGE_TOO_LARGE = 16
    NOT_FOUND = 17
    NOT_HOLDER = 18
    NOT_LEADER = 19
    OUT_OF_ORDER = 20
    READ_ONLY = 21
    SHUTDOWN = 22
    TIMEOUT = 23
    UNAVAILABLE = 24
    UNSUPPORTED = 25
    WRONG_CLUSTER = 26
    WRONG_GROUP = 27
    WRONG_STREAM = 28
    COUNT_TOO_LARGE = 29
    FORBIDDEN = 30
    GENERATION_EXHAUSTED = 31
    QUOTA_EXCEEDED = 32
    CANCELLED = 33
    ADDRESS_IN_USE = 34
    FOLDER_IN_USE = 35
    WRONG_STORE = 36
    RECALLED = 37
    NOT_AUTHOR = 38
    TOO_LATE = 39
    AMENDMENTS_TOO_MANY = 40


_SETTLING = frozenset((Code.ALREADY_EXISTS, Code.CANCELLED, Code.CONFLICT))


class Close(enum.IntEnum):
    """Close codes that say something about the next connection."""

    NONE = 0
    INTERNAL = 1
    PROTOCOL = 2
    FRAME_TOO_LARGE = 3
    CRITICAL_STREAM_CLOSED = 4
    AUTH_FAILED = 5
    AUTH_EXPIRED = 6
    KICKED = 7
    SHUTDOWN = 9
    BUSY = 11
    UNSUPPORTED = 12
    HELLO_TIMEOUT = 13


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a gateway, or this client in its place, says no with."""

    code: int
    """a `Code`, or a number that this client does not know"""
    name: str
    message: str = ""
    """for people only"""
    retry: bool = False
    unknown: bool = False
    retry_after_ms: int = 0

    @classmethod
    def of(cls, code: Code, message: str) -> Refusal:
        """One of this client's own."""
        return cls(code=code, name=code.name, message=message)

    @classmethod
    def from_wire(cls, error: pb.Error) -> Refusal:
        """As a gateway said it."""
        return cls(
            code=error.code,
            name=error.name or f"code {error.code}",
            message=error.message,
            retry=error.retry,
            unknown=error.unknown,
            retry_after_ms=error.retry_after_ms,
        )

    @property
    def settles(self) -> bool:
        """Is it a verdict on the message id, so that no attempt before matters any more?"""
        return self.code in _SETTLING

    def __str__(self) -> str:
        return f"{self.name}: {self.message}" if self.message else self.name


class SeriatimError(Exception):
    """Whatever this package raises by itself, besides `ValueError` for arguments out of their range."""


class ConnectError(SeriatimError):
    """Why a client did not connect, or will not connect again."""


class ConnectRefused(ConnectError):
    """The gateway refused this device; asking again would not help."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"refused by the gateway: {refusal}")
        self.refusal = refusal


class HandshakeFailed(ConnectError):
    """The gateway is not who it should be, or speaks another protocol."""


class ConnectTimeout(ConnectError):
    """No gateway answered in time."""


class RequestError(SeriatimError):
    """How a request ended, if not well: one of its two subclasses."""

    said = "failed"

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{self.said}: {refusal}")
        self.refusal = refusal


class Rejected(RequestError):
    """It did not happen, and will not."""

    said = "rejected"


class OutcomeUnknown(RequestError):
    """It may have happened: only the same message id settles it."""

    said = "unknown outcome"


class SubscriptionError(SeriatimError):
    """Why a subscription ended."""


class TooLong(SubscriptionError):
    """Entries at its position were trimmed: restart from the inbox's first kept entry."""

    def __init__(self, trim: int) -> None:
        super().__init__(f"entries from the position on were trimmed; the first kept is {trim}")
        self.trim = trim
        """seq of the first kept entry"""


class SubscriptionRefused(SubscriptionError):
    """A position from the future, another subscription of the same client, or a client that is over."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"refused: {refusal}")
        self.refusal = refusal


class ProtocolError(SeriatimError):
    """The gateway sent what the protocol does not allow."""


class FrameTooLarge(ProtocolError):
    """A length above the limit."""


class ChainError(SeriatimError):
    """What a page proves wrong."""

    def __init__(self, seq: int, what: str) -> None:
        super().__init__(f"{what} at entry {seq}")
        self.seq = seq
        """of the entry"""


class CursorStoreError(SeriatimError):
    """A cursor could not be read or kept; the cause says why."""
