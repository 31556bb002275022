// The TypeScript SDK: a device of a user, over the public protocol seriatim-1 only (docs/protocol.md).
//
// A Client keeps one connection and makes it again when it drops. What it was asked stays asked: every request is
// repeated, under the same message id, until it is answered or its time is over. So a send has one of three ends:
// committed, RejectedError, or UnknownOutcomeError; after an unknown one, the same SendRequest may be sent again.
//
// A Subscription yields the inbox's entries, each exactly once and in order, over gaps, slow readers and reconnects.
//
// Reading order: client → pilot → requests → inbox → wire → websocket or webtransport.

export { newMessageId } from "./bytes.js";
export { bodyHash, bodyMatches, verifyPage } from "./chain.js";
export { Client, type Act, type AmendRequest, type ClientOptions, type SendRequest, type SubscribeOptions, type Ticket } from "./client.js";
export { MemoryCursorStore, StorageCursorStore, type CursorStore, type TextStorage } from "./cursor.js";
export type { Transport } from "./dial.js";
export {
  emptyChain,
  group,
  peer,
  textOf,
  type Committed,
  type Conversation,
  type Entry,
  type EntryBody,
  type HistoryPage,
  type Identity,
  type Listed,
  type ListPage,
  type Numbers,
  type SendStatus,
  type StatusPage,
  type SyncPage,
} from "./entry.js";
export {
  ChainError,
  ConnectError,
  ErrorCode,
  RejectedError,
  RequestError,
  SubscriptionError,
  UnknownOutcomeError,
  type Refusal,
} from "./errors.js";
export { Subscription } from "./subscription.js";
export type { WebSocketFactory, WebSocketLike } from "./websocket.js";
