// Entry: what the protocol says, in checked types.

import { hex, textFrom, utf8 } from "./bytes.js";
import { ProtocolError } from "./errors.js";
import {
  Entry_Body,
  Entry_Kind,
  SendStatus_State,
  type Conversation as WireConversation,
  type Entry as WireEntry,
  type HistoryPage as WireHistoryPage,
  type Listed as WireListed,
  type ListPage as WireListPage,
  type Numbers as WireNumbers,
  type SendStatus as WireSendStatus,
  type StatusPage as WireStatusPage,
  type SyncPage as WireSyncPage,
} from "./gen/seriatim/v1/client_pb.js";
import { NAME_BYTES_MAX, SEQ_END } from "./limits.js";

/** A conversation as its member names it: the direct one with a user (one's own name: notes to oneself), or a group. */
export type Conversation = { readonly peer: string } | { readonly group: Uint8Array };

/** The direct conversation with a user. @throws RangeError unless the name has 1 to 64 bytes without control characters */
export function peer(name: string): Conversation {
  return { peer: checkName("a user", name) };
}

/** A group. @throws RangeError unless the id has 16 bytes */
export function group(id: Uint8Array): Conversation {
  return { group: checkId("a group", id) };
}

/** Who the gateway takes this client for. */
export interface Identity {
  readonly tenant: number;
  readonly user: string;
  /** Raised when the cluster was restored from a backup: older positions may then lie in the future. */
  readonly generation: number;
}

/** A message, an amendment, a group or a change of members is durable. */
export interface Committed {
  /** Place in the conversation. */
  readonly seq: bigint;
  /** An earlier attempt had done it. */
  readonly duplicate: boolean;
}

/** What became of a send. */
export type SendStatus =
  /** In the conversation. */
  | { readonly state: "committed"; readonly seq: bigint }
  /** It will never be: cancelled, or too old to be known. */
  | { readonly state: "cancelled" | "expired" }
  /** No verdict: an attempt may still be under way. */
  | { readonly state: "notYet" };

/** A run of numbers of a counter. */
export interface Numbers {
  readonly first: bigint;
  readonly count: number;
}

/** A body, or why it is not there. */
export type EntryBody =
  | { readonly state: "here"; readonly salt: Uint8Array; readonly bytes: Uint8Array }
  /** `unavailable`: no answer from where it lies, ask again by history. */
  | { readonly state: "erased" | "trimmed" | "unavailable" };

/** An entry of the inbox, or of a conversation ({@link HistoryPage}: then `seq` is 0). */
export interface Entry {
  /** Place in the inbox. */
  readonly seq: bigint;
  /** The entry before it in the inbox, 0 for none. */
  readonly prevSeq: bigint;
  /** Messages of the inbox up to and with it. */
  readonly ordinal: bigint;
  readonly conversation: Conversation;
  /** Place in the conversation. */
  readonly conversationSeq: bigint;
  /**
   * `edit`, `recall`, `reaction` and `pin` are about an earlier message, the `target`. `read`, `mute` and `archive` are
   * marks of the user's own, in no other inbox: `read` says that everything up to `conversationSeq` is.
   */
  readonly kind: "message" | "create" | "members" | "edit" | "recall" | "reaction" | "pin" | "read" | "mute" | "archive";
  readonly sender: string;
  /** 16 bytes: the sender's key against repetitions. */
  readonly messageId: Uint8Array;
  /** Unix milliseconds, never below the predecessor's in its conversation. */
  readonly atMs: bigint;
  /** 16 bytes of hash over salt and body. */
  readonly bodyHash: Uint8Array;
  readonly body: EntryBody;
  /** Who joined. */
  readonly added: readonly string[];
  /** Who left. */
  readonly removed: readonly string[];
  /** Of an amendment: `conversationSeq` of the message that it is about; else 0. */
  readonly target: bigint;
  /** Of a reaction; else empty. */
  readonly emoji: string;
  /** A reaction, a pin, a mute or an archive was taken back. */
  readonly unset: boolean;
  /** The inbox's chain up to and with it; only in a {@link SyncPage}. */
  readonly chain: Uint8Array | undefined;
}

/** A page of the inbox. */
export interface SyncPage {
  /** Rising by seq. */
  readonly entries: readonly Entry[];
  /** Nothing below it is missing: the next `from`. */
  readonly upto: bigint;
  readonly more: boolean;
  /** Entries from `from` on were trimmed. */
  readonly tooLong: boolean;
  /** First kept. */
  readonly trim: bigint;
  /** The inbox's tail when it was read. */
  readonly tail: bigint;
  /** 16 bytes: the chain at the last entry below `upto`, zeros before the first. */
  readonly chain: Uint8Array;
}

/** A page of a conversation. */
export interface HistoryPage {
  /** Rising by `conversationSeq`. */
  readonly entries: readonly Entry[];
  /** The next `from`. */
  readonly upto: bigint;
  readonly more: boolean;
}

/** A conversation in the user's list. */
export interface Listed {
  readonly conversation: Conversation;
  /** Everything up to this place of the conversation is in the inbox. */
  readonly last: bigint;
  /** The newest entry that it brought into the inbox, 0 for none. */
  readonly inboxSeq: bigint;
  /** Of it in the inbox. */
  readonly messages: bigint;
  /** How many of them are not read. */
  readonly unread: bigint;
  /** The read mark: the entry's place in the inbox, 0 for none. */
  readonly readUpto: bigint;
  /** The read mark: the entry's place in the conversation, 0 for none. */
  readonly readSeq: bigint;
  /** The user does not want to be disturbed by it. */
  readonly muted: boolean;
  /** The user does not want to see it. */
  readonly archived: boolean;
}

/** A page of the user's conversations. */
export interface ListPage {
  /** In an order of the server's own. */
  readonly conversations: readonly Listed[];
  /** There is more behind the last one. */
  readonly more: boolean;
  /** Messages that are not read, of all conversations. */
  readonly unread: bigint;
}

/** Where the inbox and its devices stand. All seqs are 0 while nothing ever arrived. */
export interface StatusPage {
  /** First kept. */
  readonly trim: bigint;
  /** First unassigned. */
  readonly tail: bigint;
  /** End of everything reserved. */
  readonly ceiling: bigint;
  /** Messages so far. */
  readonly ordinal: bigint;
  /** 16 bytes: the chain at the last entry. */
  readonly chain: Uint8Array;
  /** All devices with a cursor. */
  readonly devices: ReadonlyMap<string, bigint>;
}

/** The body as text, `undefined` where there is none. */
export function textOf(entry: Entry): string | undefined {
  return entry.body.state === "here" ? textFrom(entry.body.bytes) : undefined;
}

/** Sixteen zero bytes: the chain before the first entry. */
export function emptyChain(): Uint8Array {
  return new Uint8Array(16);
}

/** One text per conversation, to be found again by. */
export function conversationKey(conversation: Conversation): string {
  return "peer" in conversation ? `peer ${conversation.peer}` : `group ${hex(conversation.group)}`;
}

export function conversationToWire(conversation: Conversation) {
  return "peer" in conversation
    ? { id: { case: "peer" as const, value: checkName("a user", conversation.peer) } }
    : { id: { case: "group" as const, value: checkId("a group", conversation.group) } };
}

/** @throws RangeError */
export function checkName(what: string, name: string): string {
  const bytes = utf8(name).length;
  if (bytes < 1 || bytes > NAME_BYTES_MAX) throw new RangeError(`the name of ${what} has 1 to ${NAME_BYTES_MAX} bytes, not ${bytes}`);
  if (/\p{Cc}/u.test(name)) throw new RangeError(`the name of ${what} has no control characters`);
  return name;
}

/** @throws RangeError */
export function checkId(what: string, id: Uint8Array): Uint8Array {
  if (id.length !== 16) throw new RangeError(`the id of ${what} has 16 bytes, not ${id.length}`);
  return id;
}

/** A seq, or 0 where that is allowed. @throws RangeError */
export function checkSeq(what: string, value: bigint, least: 0n | 1n): bigint {
  if (value < least || value >= SEQ_END) throw new RangeError(`${what} is at least ${least} and below 2^53, not ${value}`);
  return value;
}

// ---- from the wire: a field out of its range is a broken gateway ----

function broken(what: string): ProtocolError {
  return new ProtocolError("MALFORMED", `an entry or page with a malformed ${what}`);
}

function checked<T>(what: string, check: () => T): T {
  try {
    return check();
  } catch {
    throw broken(what);
  }
}

const seq = (what: string, value: bigint) => checked(what, () => checkSeq(what, value, 1n));
const seqOrNone = (what: string, value: bigint) => checked(what, () => checkSeq(what, value, 0n));
const name = (what: string, value: string) => checked(what, () => checkName(what, value));
const sixteen = (what: string, value: Uint8Array) => checked(what, () => checkId(what, value));
const chainOrEmpty = (value: Uint8Array) => (value.length === 0 ? emptyChain() : sixteen("chain", value));

function conversationFromWire(conversation: WireConversation | undefined): Conversation {
  switch (conversation?.id.case) {
    case "peer":
      return { peer: name("conversation", conversation.id.value) };
    case "group":
      return { group: sixteen("conversation", conversation.id.value) };
    default:
      throw broken("conversation");
  }
}

function kindFromWire(kind: Entry_Kind): Entry["kind"] {
  switch (kind) {
    case Entry_Kind.MESSAGE:
      return "message";
    case Entry_Kind.CREATE:
      return "create";
    case Entry_Kind.MEMBERS:
      return "members";
    case Entry_Kind.EDIT:
      return "edit";
    case Entry_Kind.RECALL:
      return "recall";
    case Entry_Kind.REACTION:
      return "reaction";
    case Entry_Kind.PIN:
      return "pin";
    case Entry_Kind.READ:
      return "read";
    case Entry_Kind.MUTE:
      return "mute";
    case Entry_Kind.ARCHIVE:
      return "archive";
    default:
      throw broken("kind");
  }
}

function bodyFromWire(entry: WireEntry): EntryBody {
  switch (entry.bodyState) {
    case Entry_Body.HERE:
      return { state: "here", salt: entry.salt, bytes: entry.body };
    case Entry_Body.ERASED:
      return { state: "erased" };
    case Entry_Body.TRIMMED:
      return { state: "trimmed" };
    case Entry_Body.UNAVAILABLE:
      return { state: "unavailable" };
    default:
      throw broken("body state");
  }
}

/** Is it about an earlier message? */
export function isAmendment({ kind }: Pick<Entry, "kind">): boolean {
  return kind === "edit" || kind === "recall" || kind === "reaction" || kind === "pin";
}

export function entryFromWire(entry: WireEntry): Entry {
  const kind = kindFromWire(entry.kind);
  return {
    seq: seqOrNone("seq", entry.seq),
    prevSeq: seqOrNone("prev_seq", entry.prevSeq),
    ordinal: entry.ordinal,
    conversation: conversationFromWire(entry.conversation),
    conversationSeq: seq("conversation_seq", entry.conversationSeq),
    kind,
    sender: name("sender", entry.sender),
    messageId: sixteen("message_id", entry.messageId),
    atMs: entry.atMs,
    bodyHash: sixteen("body_hash", entry.bodyHash),
    body: bodyFromWire(entry),
    added: entry.added.map((user) => name("member", user)),
    removed: entry.removed.map((user) => name("member", user)),
    target: isAmendment({ kind }) ? seq("target", entry.target) : 0n,
    emoji: entry.emoji === "" ? "" : name("emoji", entry.emoji),
    unset: entry.unset,
    chain: entry.chain.length === 0 ? undefined : sixteen("chain", entry.chain),
  };
}

export function syncPageFromWire(page: WireSyncPage): SyncPage {
  return {
    entries: page.entries.map(entryFromWire),
    upto: seq("upto", page.upto),
    more: page.more,
    tooLong: page.tooLong,
    trim: seq("trim", page.trim),
    tail: seq("tail", page.tail),
    chain: chainOrEmpty(page.chain),
  };
}

export function historyPageFromWire(page: WireHistoryPage): HistoryPage {
  return { entries: page.entries.map(entryFromWire), upto: seq("upto", page.upto), more: page.more };
}

export function listedFromWire(listed: WireListed): Listed {
  return {
    conversation: conversationFromWire(listed.conversation),
    last: seq("last", listed.last),
    inboxSeq: seqOrNone("inbox_seq", listed.inboxSeq),
    messages: listed.messages,
    unread: listed.unread,
    readUpto: seqOrNone("read_upto", listed.readUpto),
    readSeq: seqOrNone("read_seq", listed.readSeq),
    muted: listed.muted,
    archived: listed.archived,
  };
}

export function markedFromWire(now: WireListed | undefined): Listed {
  if (now === undefined) throw broken("conversation");
  return listedFromWire(now);
}

export function listPageFromWire(page: WireListPage): ListPage {
  return { conversations: page.list.map(listedFromWire), more: page.more, unread: page.unread };
}

export function statusPageFromWire(page: WireStatusPage): StatusPage {
  return {
    trim: seqOrNone("trim", page.trim),
    tail: seqOrNone("tail", page.tail),
    ceiling: seqOrNone("ceiling", page.ceiling),
    ordinal: page.ordinal,
    chain: chainOrEmpty(page.chain),
    devices: new Map(page.devices.map(({ device, cursor }) => [name("device", device), seq("cursor", cursor)])),
  };
}

export function sendStatusFromWire(status: WireSendStatus): SendStatus {
  switch (status.state) {
    case SendStatus_State.COMMITTED:
      return { state: "committed", seq: seq("seq", status.seq) };
    case SendStatus_State.CANCELLED:
      return { state: "cancelled" };
    case SendStatus_State.EXPIRED:
      return { state: "expired" };
    case SendStatus_State.NOT_YET:
      return { state: "notYet" };
    default:
      throw broken("state");
  }
}

export function numbersFromWire(numbers: WireNumbers): Numbers {
  seq("count", numbers.first + BigInt(numbers.count));
  return { first: seq("first", numbers.first), count: numbers.count };
}

export { seq as seqFromWire };
