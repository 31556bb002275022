"""The Python SDK: a device of a user, over the public protocol `seriatim-1` only (docs/protocol.md).

A `Client` keeps one connection and makes it again when it drops. What it was asked stays asked: every request is
repeated, under the same message id, until it is answered or its time is over. So a send has one of three ends:
committed, `Rejected`, or `OutcomeUnknown`; after an unknown one, the same `SendRequest` may be sent again.

A `Subscription` yields the inbox's entries, each exactly once and in order, over gaps, slow readers and reconnects.

Reading order: `connect` → `client` → `_pilot` → `_requests` → `_inbox` → `_wire`.
"""

from seriatim._inbox import Subscription
from seriatim._pilot import TokenProvider
from seriatim._wire import ClientCertificate
from seriatim.client import Client, Connecting, Ticket, connect
from seriatim.cursors import CursorStore, FileCursorStore, MemoryCursorStore
from seriatim.entry import (
    ZERO_CHAIN,
    Act,
    AmendRequest,
    BodyState,
    Committed,
    Conversation,
    Edit,
    Entry,
    Group,
    HistoryPage,
    Identity,
    Kind,
    Listed,
    ListPage,
    Numbers,
    Peer,
    Pin,
    React,
    Recall,
    SendRequest,
    SendState,
    SendStatus,
    StatusPage,
    SyncPage,
    new_message_id,
)
from seriatim.errors import (
    ChainError,
    Code,
    ConnectError,
    ConnectRefused,
    ConnectTimeout,
    CursorStoreError,
    HandshakeFailed,
    OutcomeUnknown,
    ProtocolError,
    Refusal,
    Rejected,
    RequestError,
    SeriatimError,
    SubscriptionError,
    SubscriptionRefused,
    TooLong,
)
from seriatim.verify import body_hash, verify_page

__all__ = [
    "ZERO_CHAIN",
    "Act",
    "AmendRequest",
    "BodyState",
    "ChainError",
    "Client",
    "ClientCertificate",
    "Code",
    "Committed",
    "ConnectError",
    "ConnectRefused",
    "ConnectTimeout",
    "Connecting",
    "Conversation",
    "CursorStore",
    "CursorStoreError",
    "Edit",
    "Entry",
    "FileCursorStore",
    "Group",
    "HandshakeFailed",
    "HistoryPage",
    "Identity",
    "Kind",
    "ListPage",
    "Listed",
    "MemoryCursorStore",
    "Numbers",
    "OutcomeUnknown",
    "Peer",
    "Pin",
    "ProtocolError",
    "React",
    "Recall",
    "Refusal",
    "Rejected",
    "RequestError",
    "SendRequest",
    "SendState",
    "SendStatus",
    "SeriatimError",
    "StatusPage",
    "Subscription",
    "SubscriptionError",
    "SubscriptionRefused",
    "SyncPage",
    "Ticket",
    "TokenProvider",
    "TooLong",
    "body_hash",
    "connect",
    "new_message_id",
    "verify_page",
]
