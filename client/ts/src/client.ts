// Client: the handle of a device: what it can ask.

import type { MessageInitShape } from "@bufbuild/protobuf";

import { newMessageId, randomBytes, utf8 } from "./bytes.js";
import type { CursorStore } from "./cursor.js";
import type { DialOptions, Transport } from "./dial.js";
import {
  checkId,
  checkName,
  checkSeq,
  conversationToWire,
  historyPageFromWire,
  listPageFromWire,
  markedFromWire,
  numbersFromWire,
  sendStatusFromWire,
  seqFromWire,
  statusPageFromWire,
  syncPageFromWire,
  type Committed,
  type Conversation,
  type HistoryPage,
  type Identity,
  type Listed,
  type ListPage,
  type Numbers,
  type SendStatus,
  type StatusPage,
  type SyncPage,
} from "./entry.js";
import { ProtocolError, refusal, RejectedError, UnknownOutcomeError } from "./errors.js";
import type { Asked, Said } from "./framing.js";
import type { AmendSchema } from "./gen/seriatim/v1/client_pb.js";
import { Inbox, InboxQueue } from "./inbox.js";
import { CONNECT_TIMEOUT_MS, REQUEST_TIMEOUT_MS, REQUESTS_MAX, WINDOW } from "./limits.js";
import { nowMs, Pilot } from "./pilot.js";
import type { Outcome, SendPlace, Way } from "./requests.js";
import { Subscription } from "./subscription.js";
import type { WebSocketFactory } from "./websocket.js";
import { Hashes } from "./webtransport.js";

/** What a client must be told before it connects. */
export interface ClientOptions {
  /** Gateways, as `HOST:PORT` or `https://HOST:PORT`: the next one is tried when one does not answer. */
  addresses: string | readonly string[];
  /**
   * A signed token, or who gives one: before every connection, and in good time before the session's own ends, to renew
   * it. May be left out where a client certificate says who it is.
   */
  token?: string | (() => string | Promise<string>);
  /** The name of this endpoint of the user; has its own cursor. */
  device: string;
  /** Unless given, WebTransport raced by a WebSocket; a WebSocket alone where there is no WebTransport. */
  transport?: Transport;
  /** Opens a WebSocket; unless given, the platform does. */
  webSocket?: WebSocketFactory;
  /** Milliseconds to the first session, 10,000 unless given; later connections are tried for ever. */
  connectTimeoutMs?: number;
  /** Milliseconds of a request, retries and reconnects included; 30,000 unless given. */
  requestTimeoutMs?: number;
}

/** A message to send. The same value may be sent again after an unknown outcome: it stays the same message. */
export interface SendRequest {
  /** 16 bytes: the key against repetitions, a UUIDv7. */
  readonly messageId: Uint8Array;
  readonly to: Conversation;
  /** Of the body's hash, at most 32 bytes. */
  readonly salt: Uint8Array;
  /** Opaque, at most 64 KiB. */
  readonly body: Uint8Array;
  /** A message of this sender that must be settled before; by itself, the client names its last open send. */
  readonly follows?: Uint8Array;
  /** The conversation's tail known before the first attempt, 0 for none; see {@link Client.prepare}. */
  readonly known: bigint;
}

/** What may be done about an earlier message: see {@link Client.amend}. */
export type Act =
  /** Another body for a message of one's own. The salt, at most 32 bytes, is of its hash. */
  | { readonly edit: Uint8Array; readonly salt: Uint8Array }
  /** The end of a message of one's own: its body and those of its edits are erased, for everybody and for good. */
  | { readonly recall: true }
  /** A reaction of this user, 1 to 64 bytes; `unset` takes it back. */
  | { readonly react: string; readonly unset?: boolean }
  /** A pin for all members; false takes it away, whoever pinned. */
  | { readonly pin: boolean };

/** An amendment to send: an entry about an earlier message. The same value may be sent again after an unknown outcome. */
export interface AmendRequest {
  /** 16 bytes: the key against repetitions, a UUIDv7; {@link Client.querySend} and {@link Client.cancelSend} know it. */
  readonly messageId: Uint8Array;
  readonly to: Conversation;
  /** The message's `conversationSeq`. */
  readonly target: bigint;
  readonly act: Act;
  /** As in {@link SendRequest}. */
  readonly follows?: Uint8Array;
  /** As in {@link SendRequest}; see {@link Client.prepareAmendment}. */
  readonly known: bigint;
}

/** A send or an amendment that is under way. */
export interface Ticket {
  /** Waits for its end. @throws RequestError */
  outcome(): Promise<Committed>;
}

/** What a subscription may be told. */
export interface SubscribeOptions {
  /** The first seq wanted; 1, everything, unless given. */
  from?: bigint;
  /** Where the device keeps its place: what is stored counts, and `from` only where nothing is. */
  store?: CursorStore;
  /** What this device has acknowledged, if it knows. */
  cursor?: bigint;
  /** Entries that may wait for the reader; 1,024 unless given. */
  window?: number;
}

type Mark =
  | { readonly case: "readUpto"; readonly value: bigint }
  | { readonly case: "muted" | "archived"; readonly value: boolean };

type Answer<Case extends Said["case"]> = Extract<Said, { case: Case }>["value"];

/** A device of a user. Its connection is kept, and made again when it drops, until {@link Client.close}. */
export class Client {
  readonly #pilot: Pilot;
  readonly #requestTimeoutMs: number;
  // Requests that may still be opened, and those who wait for that.
  #permits = REQUESTS_MAX;
  readonly #waiting: (() => void)[] = [];
  #acking = false;
  #ackNext: bigint | undefined;

  private constructor(pilot: Pilot, requestTimeoutMs: number) {
    this.#pilot = pilot;
    this.#requestTimeoutMs = requestTimeoutMs;
  }

  /**
   * Connects. From then on the client reconnects by itself.
   * @throws ConnectError
   * @throws RangeError for a name or an address that cannot be one
   */
  static async connect(options: ClientOptions): Promise<Client> {
    const { token } = options;
    const addresses = typeof options.addresses === "string" ? [options.addresses] : options.addresses;
    if (addresses.length === 0) throw new RangeError("a client needs an address");
    const platform = typeof WebSocket === "undefined" ? undefined : (url: string, protocol: string) => new WebSocket(url, protocol);
    const dial: DialOptions = {
      origins: addresses.map(originOf),
      transport: options.transport ?? "fastest",
      webSocket: options.webSocket ?? platform,
      hashes: new Hashes(),
      token: typeof token === "function" ? token : () => token ?? "",
      tokenFixed: typeof token !== "function",
      device: checkName("a device", options.device),
    };
    const { pilot, connected } = Pilot.start(dial, options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS);
    await connected;
    return new Client(pilot, options.requestTimeoutMs ?? REQUEST_TIMEOUT_MS);
  }

  /** Who the gateway takes this client for. */
  get identity(): Identity | undefined {
    return this.#pilot.identity;
  }

  /** Connections made so far: 1 and one for each reconnect. */
  get connections(): number {
    return this.#pilot.connections;
  }

  /** What carries the connection, `undefined` while there is none. */
  get transport(): "webtransport" | "websocket" | undefined {
    return this.#pilot.transport;
  }

  /** A new message that names what this client has seen of the conversation: all that is needed to send it again later. */
  prepare(to: Conversation, body: string | Uint8Array): SendRequest {
    const bytes = typeof body === "string" ? utf8(body) : body;
    return { messageId: newMessageId(), to, salt: randomBytes(16), body: bytes, known: this.#pilot.known(to) };
  }

  /** Sends a new message, retrying under one message id. @throws RequestError */
  async send(to: Conversation, body: string | Uint8Array): Promise<Committed> {
    return this.sendRequest(this.prepare(to, body));
  }

  /** Sends a message, retrying under its message id. @throws RequestError */
  async sendRequest(request: SendRequest): Promise<Committed> {
    return (await this.submit(request)).outcome();
  }

  /**
   * Puts a message on its way and does not wait for its end. Messages submitted one after another to the same
   * conversation take their places in this order. Waits while too many requests are open.
   * @throws RejectedError if the body is too large
   * @throws RangeError for a field out of its range
   */
  async submit(request: SendRequest): Promise<Ticket> {
    const { messageId, to, salt, body, follows, known } = request;
    this.#checkBody(salt, body);
    const send = {
      messageId: checkId("a message", messageId),
      conversation: conversationToWire(to),
      salt,
      body,
      known: checkSeq("known", known, 0n),
      follows: follows === undefined ? new Uint8Array() : checkId("a message", follows),
    };
    return this.#submit({ case: "send", value: send }, { conversation: to, messageId });
  }

  /** A new amendment that names what this client has seen of the conversation: all that is needed to send it again later. */
  prepareAmendment(to: Conversation, target: bigint, act: Act): AmendRequest {
    return { messageId: newMessageId(), to, target, act, known: this.#pilot.known(to) };
  }

  /**
   * Puts an amendment on its way, in the order of the messages and amendments submitted to the conversation. Its end is
   * `NOT_FOUND` if the target is no message that this user was given, `NOT_AUTHOR` if another one wrote what is to be
   * edited or recalled, `RECALLED`, `TOO_LATE` beyond the tenant's time for it, and `AMENDMENTS_TOO_MANY`.
   * @throws RejectedError if the body is too large
   * @throws RangeError for a field out of its range
   */
  async submitAmendment(request: AmendRequest): Promise<Ticket> {
    const { messageId, to, target, act, follows, known } = request;
    if ("edit" in act) this.#checkBody(act.salt, act.edit);
    const amend = {
      messageId: checkId("a message", messageId),
      conversation: conversationToWire(to),
      target: checkSeq("a target", target, 1n),
      known: checkSeq("known", known, 0n),
      follows: follows === undefined ? new Uint8Array() : checkId("a message", follows),
      act: actToWire(act),
    };
    return this.#submit({ case: "amend", value: amend }, { conversation: to, messageId });
  }

  /** Sends a new amendment, retrying under one message id; refused as {@link submitAmendment} says. @throws RequestError */
  async amend(to: Conversation, target: bigint, act: Act): Promise<Committed> {
    return (await this.submitAmendment(this.prepareAmendment(to, target, act))).outcome();
  }

  /** Gives a message of this user's own another body. The last edit in the conversation's order holds. @throws RequestError */
  async edit(to: Conversation, target: bigint, body: string | Uint8Array): Promise<Committed> {
    return this.amend(to, target, { edit: typeof body === "string" ? utf8(body) : body, salt: randomBytes(16) });
  }

  /** Recalls a message of this user's own: its body and those of its edits are erased for good. @throws RequestError */
  async recall(to: Conversation, target: bigint): Promise<Committed> {
    return this.amend(to, target, { recall: true });
  }

  /** Sets a reaction of this user, or takes it back. Again, it changes nothing. @throws RequestError */
  async react(to: Conversation, target: bigint, emoji: string, set = true): Promise<Committed> {
    return this.amend(to, target, { react: emoji, unset: !set });
  }

  /** Pins a message for all members, or unpins it. @throws RequestError */
  async pin(to: Conversation, target: bigint, set = true): Promise<Committed> {
    return this.amend(to, target, { pin: set });
  }

  /**
   * Says for all devices of the user that everything of a conversation up to this entry of the inbox is read. A mark
   * only rises: a lower one changes nothing. Messages of one's own count as unread until they are marked, too. Rejected
   * with `NOT_FOUND` if the conversation brought no such entry.
   * @throws RequestError
   */
  async markRead(conversation: Conversation, upto: bigint): Promise<Listed> {
    return this.#mark(conversation, { case: "readUpto", value: checkSeq("a read mark", upto, 1n) });
  }

  /** Says for all devices of the user whether he wants to be disturbed by a conversation. @throws RequestError */
  async mute(conversation: Conversation, on = true): Promise<Listed> {
    return this.#mark(conversation, { case: "muted", value: on });
  }

  /** Says for all devices of the user whether he wants to see a conversation. @throws RequestError */
  async archive(conversation: Conversation, on = true): Promise<Listed> {
    return this.#mark(conversation, { case: "archived", value: on });
  }

  /** A page of the user's conversations behind `after`, with what is not read; `limit` 0 takes the gateway's. @throws RequestError */
  async listConversations(after?: Conversation, limit = 0): Promise<ListPage> {
    const place = after === undefined ? {} : { after: conversationToWire(after) };
    const value = { ...place, limit: checkUint32("a limit", limit) };
    const page = from(listPageFromWire, await this.#ask("call", { case: "list", value }, "listPage"));
    for (const { conversation, last } of page.conversations) this.#pilot.saw(conversation, last);
    return page;
  }

  /**
   * Creates a group of this user and `members`. Under a message id of one's own it may be called again after an
   * unknown outcome.
   * @throws RequestError
   */
  async createGroup(group: Uint8Array, members: readonly string[], messageId: Uint8Array = newMessageId()): Promise<Committed> {
    const value = { messageId: checkId("a message", messageId), group: checkId("a group", group), members: users(members) };
    return this.#sawCommitted({ group }, committedFrom(await this.#ask("lane", { case: "createGroup", value }, "committed")));
  }

  /**
   * Adds and removes members of a group. Under a message id of one's own it may be called again after an unknown
   * outcome, with the same `known`: the group's tail that was known before the first attempt, as
   * {@link Client.prepare} has it.
   * @throws RequestError
   */
  async changeMembers(
    group: Uint8Array,
    change: { add?: readonly string[]; remove?: readonly string[] },
    messageId: Uint8Array = newMessageId(),
    known: bigint = this.#pilot.known({ group }),
  ): Promise<Committed> {
    const value = {
      messageId: checkId("a message", messageId),
      conversation: conversationToWire({ group }),
      add: users(change.add ?? []),
      remove: users(change.remove ?? []),
      known: checkSeq("known", known, 0n),
    };
    return this.#sawCommitted({ group }, committedFrom(await this.#ask("lane", { case: "changeMembers", value }, "committed")));
  }

  /** What became of a send. @throws RequestError */
  async querySend(to: Conversation, messageId: Uint8Array, known = 0n): Promise<SendStatus> {
    const value = { messageId: checkId("a message", messageId), conversation: conversationToWire(to), known: checkSeq("known", known, 0n) };
    return from(sendStatusFromWire, await this.#ask("lane", { case: "querySend", value }, "sendStatus"));
  }

  /**
   * Settles a send: if its message is not in the conversation, it never will be, and every attempt of it is refused
   * with `CANCELLED`. `known` is what the send said ({@link SendRequest.known}). Answers what is true from now on:
   * `committed` if the message was faster, `cancelled`, or `expired` if it is too long ago to be known. May be asked
   * again.
   * @throws RequestError
   */
  async cancelSend(to: Conversation, messageId: Uint8Array, known = 0n): Promise<SendStatus> {
    const value = { messageId: checkId("a message", messageId), conversation: conversationToWire(to), known: checkSeq("known", known, 0n) };
    return from(sendStatusFromWire, await this.#ask("lane", { case: "cancelSend", value }, "sendStatus"));
  }

  /** A page of the inbox from a position on, 0 from the first kept entry; `limit` 0 takes the gateway's. @throws RequestError */
  async sync(first: bigint, limit = 0): Promise<SyncPage> {
    const value = { from: checkSeq("from", first, 0n), limit: checkUint32("a limit", limit) };
    return this.#seen(from(syncPageFromWire, await this.#ask("call", { case: "sync", value }, "syncPage")));
  }

  /** A page of a conversation from a place on, 0 from its first kept entry. @throws RequestError */
  async history(conversation: Conversation, first: bigint, limit = 0): Promise<HistoryPage> {
    const value = { conversation: conversationToWire(conversation), from: checkSeq("from", first, 0n), limit: checkUint32("a limit", limit) };
    const page = from(historyPageFromWire, await this.#ask("call", { case: "history", value }, "historyPage"));
    // From its start, the end of a page is a place of the conversation, also if nothing of it is kept.
    if (page.entries.length > 0 || first === 0n) this.#pilot.saw(conversation, page.upto - 1n);
    return page;
  }

  /** Where the inbox and its devices stand. @throws RequestError */
  async status(): Promise<StatusPage> {
    return from(statusPageFromWire, await this.#ask("call", { case: "status", value: {} }, "statusPage"));
  }

  /**
   * Takes `count` numbers of a counter of the tenant: nobody else gets them, ever. The token needs the scope
   * `sequence`. Repeated until answered: numbers may be skipped, none is given twice.
   * @throws RequestError
   */
  async nextNumbers(counter: string, count = 1): Promise<Numbers> {
    const value = { counter: checkName("a counter", counter), count: checkUint32("a count", count) };
    return from(numbersFromWire, await this.#ask("lane", { case: "next", value }, "numbers"));
  }

  /**
   * Where a counter stands: every number that was answered before this call is below, none that is asked for after it
   * returned is. The token needs the scope `sequence`.
   * @throws RequestError
   */
  async currentNumber(counter: string): Promise<bigint> {
    const value = { counter: checkName("a counter", counter) };
    const { number } = await this.#ask("lane", { case: "current", value }, "currentNumber");
    return from((value) => seqFromWire("number", value), number);
  }

  /** Says that everything below `cursor` is stored on this device; answers the durable cursor. @throws RequestError */
  async ack(cursor: bigint): Promise<bigint> {
    const value = { cursor: checkSeq("a cursor", cursor, 1n) };
    const acked = await this.#ask("control", { case: "ack", value }, "acked");
    return from((value) => seqFromWire("cursor", value), acked.cursor);
  }

  /** The inbox's entries, each exactly once, in order. A client has one subscription: a new one ends the one before. */
  subscribe(options: SubscribeOptions = {}): Subscription {
    const { store, cursor = 0n, window = WINDOW } = options;
    const position = checkSeq("from", options.from ?? 1n, 1n);
    checkSeq("a cursor", cursor, 0n);
    if (!Number.isInteger(window) || window < 1) throw new RangeError(`a window is a whole number of entries, not ${window}`);
    const begin = (from: bigint) => {
      const queue = new InboxQueue(window, () => this.#pilot.wake());
      this.#pilot.subscribe(new Inbox(queue, from, cursor));
      return queue;
    };
    return new Subscription(begin, position, store, (cursor) => this.#ackSoon(cursor));
  }

  /** Ends the connection; open requests end as rejected or unknown. */
  close(): void {
    this.#pilot.close();
  }

  /** What was read tells how far its conversations reach. */
  #sawCommitted(conversation: Conversation, committed: Committed): Committed {
    this.#pilot.saw(conversation, committed.seq);
    return committed;
  }

  #seen(page: SyncPage): SyncPage {
    for (const { conversation, conversationSeq } of page.entries) this.#pilot.saw(conversation, conversationSeq);
    return page;
  }

  /** One Ack at a time, and then only the last one that was wanted meanwhile. */
  #ackSoon(cursor: bigint): void {
    this.#ackNext = cursor;
    if (this.#acking) return;
    this.#acking = true;
    const next = (): void => {
      const cursor = this.#ackNext;
      this.#ackNext = undefined;
      if (cursor === undefined) this.#acking = false;
      // The cursor is stored here: a later Ack, or the next start, says it again.
      else this.ack(cursor).then(next, next);
    };
    next();
  }

  async #submit(body: Asked, place: SendPlace): Promise<Ticket> {
    const { said } = await this.#open("lane", body, place);
    const outcome = said.then((said) => {
      const committed = committedFrom(expect(said, "committed"));
      this.#pilot.saw(place.conversation, committed.seq);
      return committed;
    });
    // A caller that never asks for the end does not want to know.
    outcome.catch(() => {});
    return { outcome: () => outcome };
  }

  async #mark(conversation: Conversation, what: Mark): Promise<Listed> {
    const value = { conversation: conversationToWire(conversation), what };
    const { now } = await this.#ask("lane", { case: "mark", value }, "marked");
    return from(markedFromWire, now);
  }

  #checkBody(salt: Uint8Array, body: Uint8Array): void {
    const most = this.#pilot.messageBytesMax;
    if (body.length > most) throw new RejectedError(refusal("MESSAGE_TOO_LARGE", `a body of ${body.length} bytes, at most ${most} are allowed`));
    if (salt.length > 32) throw new RangeError(`a salt has at most 32 bytes, not ${salt.length}`);
  }

  async #ask<Case extends Said["case"]>(way: Way, body: Asked, answer: Case): Promise<Answer<Case>> {
    const { said } = await this.#open(way, body);
    return expect(await said, answer);
  }

  /** Two ends: that it is on its way, and its answer. */
  async #open(way: Way, body: Asked, place?: SendPlace): Promise<{ said: Promise<Said> }> {
    if (this.#permits > 0 && this.#waiting.length === 0) this.#permits -= 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    const deadlineMs = nowMs() + this.#requestTimeoutMs;
    const said = new Promise<Said>((resolve, reject) => {
      const answer = (outcome: Outcome) => {
        // The permit goes to whoever has waited longest.
        const next = this.#waiting.shift();
        if (next === undefined) this.#permits += 1;
        else next();
        if ("said" in outcome) resolve(outcome.said);
        else reject(outcome.error);
      };
      this.#pilot.ask(place === undefined ? { way, body, deadlineMs, answer } : { way, body, place, deadlineMs, answer });
    });
    // Whoever opened it asks for its answer in time, or never.
    said.catch(() => {});
    return { said };
  }
}

function originOf(address: string): string {
  const url = new URL(address.includes("://") ? address : `https://${address}`);
  if (url.protocol !== "https:") throw new RangeError(`an address is HOST:PORT or https://HOST:PORT, not ${address}`);
  return url.origin;
}

function actToWire(act: Act): NonNullable<MessageInitShape<typeof AmendSchema>["act"]> {
  if ("edit" in act) return { case: "edit", value: { salt: act.salt, body: act.edit } };
  if ("recall" in act) return { case: "recall", value: {} };
  if ("pin" in act) return { case: "pin", value: { unset: !act.pin } };
  return { case: "react", value: { emoji: checkName("a reaction", act.react), unset: act.unset === true } };
}

function users(names: readonly string[]): string[] {
  return names.map((name) => checkName("a user", name));
}

function checkUint32(what: string, value: number): number {
  if (!Number.isInteger(value) || value < 0 || value > 0xffff_ffff) throw new RangeError(`${what} is a whole number below 2^32, not ${value}`);
  return value;
}

function committedFrom({ seq, duplicate }: { seq: bigint; duplicate: boolean }): Committed {
  return { seq: from((value) => seqFromWire("seq", value), seq), duplicate };
}

function expect<Case extends Said["case"]>(said: Said, answer: Case): Answer<Case> {
  if (said.case === answer) return said.value as Answer<Case>;
  throw new UnknownOutcomeError(refusal("INTERNAL", `the gateway answered with ${said.case} instead of ${answer}`));
}

/** A field out of its range says nothing about what happened. */
function from<Wire, Value>(check: (wire: Wire) => Value, wire: Wire): Value {
  try {
    return check(wire);
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
    throw new UnknownOutcomeError(refusal("INTERNAL", `the gateway sent ${error.message}`));
  }
}
