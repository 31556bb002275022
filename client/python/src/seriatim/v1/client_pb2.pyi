from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ClientFrame(_message.Message):
    __slots__ = ("request_id", "traceparent", "optional", "lane", "end", "hello", "ping", "subscribe", "unsubscribe", "ack", "credit", "send", "query_send", "cancel_send", "sync", "create_group", "change_members", "history", "status", "next", "current", "amend", "mark", "list", "renew")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    UNSUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    SEND_FIELD_NUMBER: _ClassVar[int]
    QUERY_SEND_FIELD_NUMBER: _ClassVar[int]
    CANCEL_SEND_FIELD_NUMBER: _ClassVar[int]
    SYNC_FIELD_NUMBER: _ClassVar[int]
    CREATE_GROUP_FIELD_NUMBER: _ClassVar[int]
    CHANGE_MEMBERS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    AMEND_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    RENEW_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    traceparent: str
    optional: bool
    lane: int
    end: bool
    hello: Hello
    ping: Ping
    subscribe: Subscribe
    unsubscribe: Unsubscribe
    ack: Ack
    credit: Credit
    send: Send
    query_send: QuerySend
    cancel_send: CancelSend
    sync: Sync
    create_group: CreateGroup
    change_members: ChangeMembers
    history: History
    status: Status
    next: Next
    current: Current
    amend: Amend
    mark: Mark
    list: List
    renew: Renew
    def __init__(self, request_id: _Optional[int] = ..., traceparent: _Optional[str] = ..., optional: bool = ..., lane: _Optional[int] = ..., end: bool = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., subscribe: _Optional[_Union[Subscribe, _Mapping]] = ..., unsubscribe: _Optional[_Union[Unsubscribe, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., credit: _Optional[_Union[Credit, _Mapping]] = ..., send: _Optional[_Union[Send, _Mapping]] = ..., query_send: _Optional[_Union[QuerySend, _Mapping]] = ..., cancel_send: _Optional[_Union[CancelSend, _Mapping]] = ..., sync: _Optional[_Union[Sync, _Mapping]] = ..., create_group: _Optional[_Union[CreateGroup, _Mapping]] = ..., change_members: _Optional[_Union[ChangeMembers, _Mapping]] = ..., history: _Optional[_Union[History, _Mapping]] = ..., status: _Optional[_Union[Status, _Mapping]] = ..., next: _Optional[_Union[Next, _Mapping]] = ..., current: _Optional[_Union[Current, _Mapping]] = ..., amend: _Optional[_Union[Amend, _Mapping]] = ..., mark: _Optional[_Union[Mark, _Mapping]] = ..., list: _Optional[_Union[List, _Mapping]] = ..., renew: _Optional[_Union[Renew, _Mapping]] = ...) -> None: ...

class ServerFrame(_message.Message):
    __slots__ = ("request_id", "traceparent", "optional", "lane", "end", "inbox", "welcome", "pong", "subscribed", "stream_header", "deliver", "lagging", "acked", "go_away", "committed", "send_status", "sync_page", "history_page", "status_page", "error", "numbers", "current_number", "marked", "list_page", "renewed")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    INBOX_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIBED_FIELD_NUMBER: _ClassVar[int]
    STREAM_HEADER_FIELD_NUMBER: _ClassVar[int]
    DELIVER_FIELD_NUMBER: _ClassVar[int]
    LAGGING_FIELD_NUMBER: _ClassVar[int]
    ACKED_FIELD_NUMBER: _ClassVar[int]
    GO_AWAY_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    SEND_STATUS_FIELD_NUMBER: _ClassVar[int]
    SYNC_PAGE_FIELD_NUMBER: _ClassVar[int]
    HISTORY_PAGE_FIELD_NUMBER: _ClassVar[int]
    STATUS_PAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    CURRENT_NUMBER_FIELD_NUMBER: _ClassVar[int]
    MARKED_FIELD_NUMBER: _ClassVar[int]
    LIST_PAGE_FIELD_NUMBER: _ClassVar[int]
    RENEWED_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    traceparent: str
    optional: bool
    lane: int
    end: bool
    inbox: int
    welcome: Welcome
    pong: Pong
    subscribed: Subscribed
    stream_header: StreamHeader
    deliver: Deliver
    lagging: Lagging
    acked: Acked
    go_away: GoAway
    committed: Committed
    send_status: SendStatus
    sync_page: SyncPage
    history_page: HistoryPage
    status_page: StatusPage
    error: Error
    numbers: Numbers
    current_number: CurrentNumber
    marked: Marked
    list_page: ListPage
    renewed: Renewed
    def __init__(self, request_id: _Optional[int] = ..., traceparent: _Optional[str] = ..., optional: bool = ..., lane: _Optional[int] = ..., end: bool = ..., inbox: _Optional[int] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ..., subscribed: _Optional[_Union[Subscribed, _Mapping]] = ..., stream_header: _Optional[_Union[StreamHeader, _Mapping]] = ..., deliver: _Optional[_Union[Deliver, _Mapping]] = ..., lagging: _Optional[_Union[Lagging, _Mapping]] = ..., acked: _Optional[_Union[Acked, _Mapping]] = ..., go_away: _Optional[_Union[GoAway, _Mapping]] = ..., committed: _Optional[_Union[Committed, _Mapping]] = ..., send_status: _Optional[_Union[SendStatus, _Mapping]] = ..., sync_page: _Optional[_Union[SyncPage, _Mapping]] = ..., history_page: _Optional[_Union[HistoryPage, _Mapping]] = ..., status_page: _Optional[_Union[StatusPage, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., numbers: _Optional[_Union[Numbers, _Mapping]] = ..., current_number: _Optional[_Union[CurrentNumber, _Mapping]] = ..., marked: _Optional[_Union[Marked, _Mapping]] = ..., list_page: _Optional[_Union[ListPage, _Mapping]] = ..., renewed: _Optional[_Union[Renewed, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("min_minor", "max_minor", "features", "client", "token", "device")
    MIN_MINOR_FIELD_NUMBER: _ClassVar[int]
    MAX_MINOR_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    min_minor: int
    max_minor: int
    features: _containers.RepeatedScalarFieldContainer[str]
    client: ClientInfo
    token: str
    device: str
    def __init__(self, min_minor: _Optional[int] = ..., max_minor: _Optional[int] = ..., features: _Optional[_Iterable[str]] = ..., client: _Optional[_Union[ClientInfo, _Mapping]] = ..., token: _Optional[str] = ..., device: _Optional[str] = ...) -> None: ...

class ClientInfo(_message.Message):
    __slots__ = ("name", "version", "platform")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    platform: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., platform: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("minor", "features", "session_id", "server_time_ms", "limits", "tenant", "user", "generation", "expires_in_ms")
    MINOR_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_MS_FIELD_NUMBER: _ClassVar[int]
    minor: int
    features: _containers.RepeatedScalarFieldContainer[str]
    session_id: int
    server_time_ms: int
    limits: Limits
    tenant: int
    user: str
    generation: int
    expires_in_ms: int
    def __init__(self, minor: _Optional[int] = ..., features: _Optional[_Iterable[str]] = ..., session_id: _Optional[int] = ..., server_time_ms: _Optional[int] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., tenant: _Optional[int] = ..., user: _Optional[str] = ..., generation: _Optional[int] = ..., expires_in_ms: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("frame_bytes", "message_bytes", "requests", "lanes", "sync_entries", "idle_timeout_ms")
    FRAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    SYNC_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    frame_bytes: int
    message_bytes: int
    requests: int
    lanes: int
    sync_entries: int
    idle_timeout_ms: int
    def __init__(self, frame_bytes: _Optional[int] = ..., message_bytes: _Optional[int] = ..., requests: _Optional[int] = ..., lanes: _Optional[int] = ..., sync_entries: _Optional[int] = ..., idle_timeout_ms: _Optional[int] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    def __init__(self, nonce: _Optional[int] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    def __init__(self, nonce: _Optional[int] = ...) -> None: ...

class Subscribe(_message.Message):
    __slots__ = ("cursor", "credit")
    FROM_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    cursor: int
    credit: int
    def __init__(self, cursor: _Optional[int] = ..., credit: _Optional[int] = ..., **kwargs) -> None: ...

class Subscribed(_message.Message):
    __slots__ = ("subscription_id",)
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    subscription_id: int
    def __init__(self, subscription_id: _Optional[int] = ...) -> None: ...

class Unsubscribe(_message.Message):
    __slots__ = ("subscription_id",)
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    subscription_id: int
    def __init__(self, subscription_id: _Optional[int] = ...) -> None: ...

class Credit(_message.Message):
    __slots__ = ("subscription_id", "entries")
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    subscription_id: int
    entries: int
    def __init__(self, subscription_id: _Optional[int] = ..., entries: _Optional[int] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("cursor",)
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    cursor: int
    def __init__(self, cursor: _Optional[int] = ...) -> None: ...

class Acked(_message.Message):
    __slots__ = ("cursor",)
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    cursor: int
    def __init__(self, cursor: _Optional[int] = ...) -> None: ...

class Renew(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...

class Renewed(_message.Message):
    __slots__ = ("expires_in_ms",)
    EXPIRES_IN_MS_FIELD_NUMBER: _ClassVar[int]
    expires_in_ms: int
    def __init__(self, expires_in_ms: _Optional[int] = ...) -> None: ...

class GoAway(_message.Message):
    __slots__ = ("drain_ms",)
    DRAIN_MS_FIELD_NUMBER: _ClassVar[int]
    drain_ms: int
    def __init__(self, drain_ms: _Optional[int] = ...) -> None: ...

class Conversation(_message.Message):
    __slots__ = ("peer", "group")
    PEER_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    peer: str
    group: bytes
    def __init__(self, peer: _Optional[str] = ..., group: _Optional[bytes] = ...) -> None: ...

class Send(_message.Message):
    __slots__ = ("message_id", "conversation", "salt", "body", "known", "follows")
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    FOLLOWS_FIELD_NUMBER: _ClassVar[int]
    message_id: bytes
    conversation: Conversation
    salt: bytes
    body: bytes
    known: int
    follows: bytes
    def __init__(self, message_id: _Optional[bytes] = ..., conversation: _Optional[_Union[Conversation, _Mapping]] = ..., salt: _Optional[bytes] = ..., body: _Optional[bytes] = ..., known: _Optional[int] = ..., follows: _Optional[bytes] = ...) -> None: ...

class Committed(_message.Message):
    __slots__ = ("seq", "duplicate")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    seq: int
    duplicate: bool
    def __init__(self, seq: _Optional[int] = ..., duplicate: bool = ...) -> None: ...

class QuerySend(_message.Message):
    __slots__ = ("message_id", "conversation", "known")
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    message_id: bytes
    conversation: Conversation
    known: int
    def __init__(self, message_id: _Optional[bytes] = ..., conversation: _Optional[_Union[Conversation, _Mapping]] = ..., known: _Optional[int] = ...) -> None: ...

class CancelSend(_message.Message):
    __slots__ = ("message_id", "conversation", "known")
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    message_id: bytes
    conversation: Conversation
    known: int
    def __init__(self, message_id: _Optional[bytes] = ..., conversation: _Optional[_Union[Conversation, _Mapping]] = ..., known: _Optional[int] = ...) -> None: ...

class SendStatus(_message.Message):
    __slots__ = ("state", "seq")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[SendStatus.State]
        STATE_COMMITTED: _ClassVar[SendStatus.State]
        STATE_CANCELLED: _ClassVar[SendStatus.State]
        STATE_EXPIRED: _ClassVar[SendStatus.State]
        STATE_NOT_YET: _ClassVar[SendStatus.State]
    STATE_UNSPECIFIED: SendStatus.State
    STATE_COMMITTED: SendStatus.State
    STATE_CANCELLED: SendStatus.State
    STATE_EXPIRED: SendStatus.State
    STATE_NOT_YET: SendStatus.State
    STATE_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    state: SendStatus.State
    seq: int
    def __init__(self, state: _Optional[_Union[SendStatus.State, str]] = ..., seq: _Optional[int] = ...) -> None: ...

class CreateGroup(_message.Message):
    __slots__ = ("message_id", "group", "members")
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    message_id: bytes
    group: bytes
    members: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, message_id: _Optional[bytes] = ..., group: _Optional[bytes] = ..., members: _Optional[_Iterable[str]] = ...) -> None: ...

class ChangeMembers(_message.Message):
    __slots__ = ("message_id", "conversation", "add", "remove", "known")
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    ADD_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    message_id: bytes
    conversation: Conversation
    add: _containers.RepeatedScalarFieldContainer[str]
    remove: _containers.RepeatedScalarFieldContainer[str]
    known: int
    def __init__(self, message_id: _Optional[bytes] = ..., conversation: _Optional[_Union[Conversation, _Mapping]] = ..., add: _Optional[_Iterable[str]] = ..., remove: _Optional[_Iterable[str]] = ..., known: _Optional[int] = ...) -> None: ...

class Amend(_message.Message):
    __slots__ = ("message_id", "conversation", "target", "known", "follows", "edit", "recall", "react", "pin")
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    FOLLOWS_FIELD_NUMBER: _ClassVar[int]
    EDIT_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    REACT_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    message_id: bytes
    conversation: Conversation
    target: int
    known: int
    follows: bytes
    edit: Edit
    recall: Recall
    react: React
    pin: Pin
    def __init__(self, message_id: _Optional[bytes] = ..., conversation: _Optional[_Union[Conversation, _Mapping]] = ..., target: _Optional[int] = ..., known: _Optional[int] = ..., follows: _Optional[bytes] = ..., edit: _Optional[_Union[Edit, _Mapping]] = ..., recall: _Optional[_Union[Recall, _Mapping]] = ..., react: _Optional[_Union[React, _Mapping]] = ..., pin: _Optional[_Union[Pin, _Mapping]] = ...) -> None: ...

class Edit(_message.Message):
    __slots__ = ("salt", "body")
    SALT_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    salt: bytes
    body: bytes
    def __init__(self, salt: _Optional[bytes] = ..., body: _Optional[bytes] = ...) -> None: ...

class Recall(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class React(_message.Message):
    __slots__ = ("emoji", "unset")
    EMOJI_FIELD_NUMBER: _ClassVar[int]
    UNSET_FIELD_NUMBER: _ClassVar[int]
    emoji: str
    unset: bool
    def __init__(self, emoji: _Optional[str] = ..., unset: bool = ...) -> None: ...

class Pin(_message.Message):
    __slots__ = ("unset",)
    UNSET_FIELD_NUMBER: _ClassVar[int]
    unset: bool
    def __init__(self, unset: bool = ...) -> None: ...

class Mark(_message.Message):
    __slots__ = ("conversation", "read_upto", "muted", "archived")
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    READ_UPTO_FIELD_NUMBER: _ClassVar[int]
    MUTED_FIELD_NUMBER: _ClassVar[int]
    ARCHIVED_FIELD_NUMBER: _ClassVar[int]
    conversation: Conversation
    read_upto: int
    muted: bool
    archived: bool
    def __init__(self, conversation: _Optional[_Union[Conversation, _Mapping]] = ..., read_upto: _Optional[int] = ..., muted: bool = ..., archived: bool = ...) -> None: ...

class Marked(_message.Message):
    __slots__ = ("now",)
    NOW_FIELD_NUMBER: _ClassVar[int]
    now: Listed
    def __init__(self, now: _Optional[_Union[Listed, _Mapping]] = ...) -> None: ...

class Listed(_message.Message):
    __slots__ = ("conversation", "last", "inbox_seq", "messages", "unread", "read_upto", "read_seq", "muted", "archived")
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    INBOX_SEQ_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    UNREAD_FIELD_NUMBER: _ClassVar[int]
    READ_UPTO_FIELD_NUMBER: _ClassVar[int]
    READ_SEQ_FIELD_NUMBER: _ClassVar[int]
    MUTED_FIELD_NUMBER: _ClassVar[int]
    ARCHIVED_FIELD_NUMBER: _ClassVar[int]
    conversation: Conversation
    last: int
    inbox_seq: int
    messages: int
    unread: int
    read_upto: int
    read_seq: int
    muted: bool
    archived: bool
    def __init__(self, conversation: _Optional[_Union[Conversation, _Mapping]] = ..., last: _Optional[int] = ..., inbox_seq: _Optional[int] = ..., messages: _Optional[int] = ..., unread: _Optional[int] = ..., read_upto: _Optional[int] = ..., read_seq: _Optional[int] = ..., muted: bool = ..., archived: bool = ...) -> None: ...

class Next(_message.Message):
    __slots__ = ("counter", "count")
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    counter: str
    count: int
    def __init__(self, counter: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Numbers(_message.Message):
    __slots__ = ("first", "count")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class Current(_message.Message):
    __slots__ = ("counter",)
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    counter: str
    def __init__(self, counter: _Optional[str] = ...) -> None: ...

class CurrentNumber(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class Sync(_message.Message):
    __slots__ = ("limit",)
    FROM_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ..., **kwargs) -> None: ...

class SyncPage(_message.Message):
    __slots__ = ("entries", "upto", "more", "too_long", "trim", "chain", "tail")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    UPTO_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    TOO_LONG_FIELD_NUMBER: _ClassVar[int]
    TRIM_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    upto: int
    more: bool
    too_long: bool
    trim: int
    chain: bytes
    tail: int
    def __init__(self, entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., upto: _Optional[int] = ..., more: bool = ..., too_long: bool = ..., trim: _Optional[int] = ..., chain: _Optional[bytes] = ..., tail: _Optional[int] = ...) -> None: ...

class History(_message.Message):
    __slots__ = ("conversation", "limit")
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    conversation: Conversation
    limit: int
    def __init__(self, conversation: _Optional[_Union[Conversation, _Mapping]] = ..., limit: _Optional[int] = ..., **kwargs) -> None: ...

class HistoryPage(_message.Message):
    __slots__ = ("entries", "upto", "more")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    UPTO_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    upto: int
    more: bool
    def __init__(self, entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., upto: _Optional[int] = ..., more: bool = ...) -> None: ...

class List(_message.Message):
    __slots__ = ("after", "limit")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    after: Conversation
    limit: int
    def __init__(self, after: _Optional[_Union[Conversation, _Mapping]] = ..., limit: _Optional[int] = ...) -> None: ...

class ListPage(_message.Message):
    __slots__ = ("list", "more", "unread")
    LIST_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    UNREAD_FIELD_NUMBER: _ClassVar[int]
    list: _containers.RepeatedCompositeFieldContainer[Listed]
    more: bool
    unread: int
    def __init__(self, list: _Optional[_Iterable[_Union[Listed, _Mapping]]] = ..., more: bool = ..., unread: _Optional[int] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusPage(_message.Message):
    __slots__ = ("trim", "tail", "ceiling", "ordinal", "chain", "devices")
    TRIM_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    CEILING_FIELD_NUMBER: _ClassVar[int]
    ORDINAL_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    trim: int
    tail: int
    ceiling: int
    ordinal: int
    chain: bytes
    devices: _containers.RepeatedCompositeFieldContainer[DeviceCursor]
    def __init__(self, trim: _Optional[int] = ..., tail: _Optional[int] = ..., ceiling: _Optional[int] = ..., ordinal: _Optional[int] = ..., chain: _Optional[bytes] = ..., devices: _Optional[_Iterable[_Union[DeviceCursor, _Mapping]]] = ...) -> None: ...

class DeviceCursor(_message.Message):
    __slots__ = ("device", "cursor")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    device: str
    cursor: int
    def __init__(self, device: _Optional[str] = ..., cursor: _Optional[int] = ...) -> None: ...

class StreamHeader(_message.Message):
    __slots__ = ("subscription_id", "user")
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    subscription_id: int
    user: str
    def __init__(self, subscription_id: _Optional[int] = ..., user: _Optional[str] = ..., **kwargs) -> None: ...

class Deliver(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    def __init__(self, entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ...) -> None: ...

class Lagging(_message.Message):
    __slots__ = ("subscription_id", "upto")
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    UPTO_FIELD_NUMBER: _ClassVar[int]
    subscription_id: int
    upto: int
    def __init__(self, subscription_id: _Optional[int] = ..., upto: _Optional[int] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("seq", "prev_seq", "ordinal", "conversation", "conversation_seq", "kind", "sender", "message_id", "at_ms", "body_hash", "body_state", "salt", "body", "added", "removed", "chain", "target", "emoji", "unset")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Entry.Kind]
        KIND_MESSAGE: _ClassVar[Entry.Kind]
        KIND_CREATE: _ClassVar[Entry.Kind]
        KIND_MEMBERS: _ClassVar[Entry.Kind]
        KIND_EDIT: _ClassVar[Entry.Kind]
        KIND_RECALL: _ClassVar[Entry.Kind]
        KIND_REACTION: _ClassVar[Entry.Kind]
        KIND_PIN: _ClassVar[Entry.Kind]
        KIND_READ: _ClassVar[Entry.Kind]
        KIND_MUTE: _ClassVar[Entry.Kind]
        KIND_ARCHIVE: _ClassVar[Entry.Kind]
    KIND_UNSPECIFIED: Entry.Kind
    KIND_MESSAGE: Entry.Kind
    KIND_CREATE: Entry.Kind
    KIND_MEMBERS: Entry.Kind
    KIND_EDIT: Entry.Kind
    KIND_RECALL: Entry.Kind
    KIND_REACTION: Entry.Kind
    KIND_PIN: Entry.Kind
    KIND_READ: Entry.Kind
    KIND_MUTE: Entry.Kind
    KIND_ARCHIVE: Entry.Kind
    class Body(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        BODY_UNSPECIFIED: _ClassVar[Entry.Body]
        BODY_HERE: _ClassVar[Entry.Body]
        BODY_ERASED: _ClassVar[Entry.Body]
        BODY_TRIMMED: _ClassVar[Entry.Body]
        BODY_UNAVAILABLE: _ClassVar[Entry.Body]
    BODY_UNSPECIFIED: Entry.Body
    BODY_HERE: Entry.Body
    BODY_ERASED: Entry.Body
    BODY_TRIMMED: Entry.Body
    BODY_UNAVAILABLE: Entry.Body
    SEQ_FIELD_NUMBER: _ClassVar[int]
    PREV_SEQ_FIELD_NUMBER: _ClassVar[int]
    ORDINAL_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_SEQ_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    BODY_HASH_FIELD_NUMBER: _ClassVar[int]
    BODY_STATE_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    EMOJI_FIELD_NUMBER: _ClassVar[int]
    UNSET_FIELD_NUMBER: _ClassVar[int]
    seq: int
    prev_seq: int
    ordinal: int
    conversation: Conversation
    conversation_seq: int
    kind: Entry.Kind
    sender: str
    message_id: bytes
    at_ms: int
    body_hash: bytes
    body_state: Entry.Body
    salt: bytes
    body: bytes
    added: _containers.RepeatedScalarFieldContainer[str]
    removed: _containers.RepeatedScalarFieldContainer[str]
    chain: bytes
    target: int
    emoji: str
    unset: bool
    def __init__(self, seq: _Optional[int] = ..., prev_seq: _Optional[int] = ..., ordinal: _Optional[int] = ..., conversation: _Optional[_Union[Conversation, _Mapping]] = ..., conversation_seq: _Optional[int] = ..., kind: _Optional[_Union[Entry.Kind, str]] = ..., sender: _Optional[str] = ..., message_id: _Optional[bytes] = ..., at_ms: _Optional[int] = ..., body_hash: _Optional[bytes] = ..., body_state: _Optional[_Union[Entry.Body, str]] = ..., salt: _Optional[bytes] = ..., body: _Optional[bytes] = ..., added: _Optional[_Iterable[str]] = ..., removed: _Optional[_Iterable[str]] = ..., chain: _Optional[bytes] = ..., target: _Optional[int] = ..., emoji: _Optional[str] = ..., unset: bool = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "name", "message", "retry_after_ms", "retry", "unknown")
    CODE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    code: int
    name: str
    message: str
    retry_after_ms: int
    retry: bool
    unknown: bool
    def __init__(self, code: _Optional[int] = ..., name: _Optional[str] = ..., message: _Optional[str] = ..., retry_after_ms: _Optional[int] = ..., retry: bool = ..., unknown: bool = ...) -> None: ...
