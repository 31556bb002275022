// Requests: what was asked and not yet answered, and what to do with each refusal. Time is an argument, in milliseconds.
//
// A request keeps its frame and is sent again as it is, after a lost connection and after a refusal that allows it.
// Sends of one conversation that are under way at the same time name their predecessor (`follows`), so that a retry
// of one cannot be overtaken by the next.
//
//   ready ─▶ sent ─▶ answered
//     ▲       │ refused, may be repeated ─▶ paused until … ─▶ ready
//     │       │ OUT_OF_ORDER ─▶ parked until the predecessor is settled ─▶ ready
//     └───────┴ connection lost                     time over ─▶ rejected or unknown

import { equal } from "./bytes.js";
import { conversationKey, type Conversation } from "./entry.js";
import { ErrorCode, RejectedError, UnknownOutcomeError, refusal, settles, type Refusal, type RequestError } from "./errors.js";
import { clientFrame, type Asked, type Said } from "./framing.js";
import type { ClientFrame, Error as WireError } from "./gen/seriatim/v1/client_pb.js";
import { PAGE_COST, RETRY_MS_MAX, RETRY_MS_MIN } from "./limits.js";

/** The stream that a request goes on. */
export type Way = "control" | "lane" | "call";

/** How a request ended. */
export type Outcome = { readonly said: Said } | { readonly error: RequestError };

/** A send's place among the others. */
export interface SendPlace {
  readonly conversation: Conversation;
  readonly messageId: Uint8Array;
}

export interface NewRequest {
  readonly way: Way;
  readonly body: Asked;
  readonly place?: SendPlace;
  readonly deadlineMs: number;
  readonly answer: (outcome: Outcome) => void;
}

interface Request extends NewRequest {
  readonly id: number;
  /** Of a send: its conversation. */
  readonly key: string | undefined;
  readonly frame: ClientFrame;
  state: "ready" | "sent" | "paused" | "parked";
  /** When to look at it again. */
  dueMs: number;
  attempts: number;
  /** An attempt may have happened. */
  uncertain: boolean;
  refusal: Refusal | undefined;
}

/** Does it matter whether an attempt of it happened? */
function writes(frame: ClientFrame): boolean {
  return ["send", "amend", "cancelSend", "createGroup", "changeMembers", "next"].includes(frame.body.case ?? "");
}

/** What has a place among the sends of its conversation. */
function sendOf({ body }: ClientFrame): { messageId: Uint8Array; follows: Uint8Array } | undefined {
  return body.case === "send" || body.case === "amend" ? body.value : undefined;
}

/** A refusal as the gateway says it. */
export function refusalFromWire(error: WireError): Refusal {
  const { code, name, message, retryAfterMs } = error;
  return { code, name: name === "" ? `code ${code}` : name, message, retryAfterMs };
}

export class Requests {
  readonly #requests = new Map<number, Request>();
  /** By conversation: the last send that is under way. */
  readonly #lastSends = new Map<string, Uint8Array>();
  readonly #random: () => number;
  #idLast = 0;
  #sentCost = 0;
  #dueMs = Number.POSITIVE_INFINITY;

  /** `random` gives numbers in [0, 1). */
  constructor(random: () => number = Math.random) {
    this.#random = random;
  }

  /** An id for a frame that is no request of this list. */
  newId(): number {
    this.#idLast += 1;
    return this.#idLast;
  }

  add(request: NewRequest): void {
    const id = this.newId();
    const frame = clientFrame({ requestId: BigInt(id), body: request.body });
    const { place } = request;
    const key = place && conversationKey(place.conversation);
    const send = sendOf(frame);
    if (place !== undefined && key !== undefined && send !== undefined) {
      const last = this.#lastSends.get(key);
      this.#lastSends.set(key, place.messageId);
      if (last !== undefined && send.follows.length === 0 && !equal(last, place.messageId)) send.follows = last;
    }
    const { deadlineMs } = request;
    this.#requests.set(id, { ...request, id, key, frame, state: "ready", dueMs: deadlineMs, attempts: 0, uncertain: false, refusal: undefined });
    this.#dueMs = Math.min(this.#dueMs, deadlineMs);
  }

  /** The ready requests, oldest first. */
  *ready(): Generator<{ readonly id: number; readonly way: Way; readonly frame: ClientFrame }> {
    for (const request of this.#requests.values()) if (request.state === "ready") yield request;
  }

  get hasReady(): boolean {
    return !this.ready().next().done;
  }

  /** What the requests under way count for at the gateway's limit. */
  get sentCost(): number {
    return this.#sentCost;
  }

  /** What one more would count for. */
  cost(frame: ClientFrame): number {
    return ["sync", "history", "list"].includes(frame.body.case ?? "") ? PAGE_COST : 1;
  }

  sent(id: number): void {
    const request = this.#requests.get(id);
    if (request === undefined) return;
    request.attempts += 1;
    this.#turn(request, "sent");
  }

  /** The connection is gone: what was sent may have happened, and is sent again. */
  handleLost(): void {
    for (const request of this.#requests.values()) {
      if (request.state !== "sent") continue;
      request.uncertain = true;
      this.#turn(request, "ready");
    }
  }

  /** An answer of the gateway. */
  handleAnswer(nowMs: number, id: number, said: Said): void {
    const request = this.#requests.get(id);
    if (request === undefined || request.state !== "sent") return;
    if (said.case !== "error") return this.#settle(request, { said });
    const error = said.value;
    const why = refusalFromWire(error);
    if (error.code === ErrorCode.OUT_OF_ORDER && this.#followsOpen(request)) return this.#turn(request, "parked");
    if (error.retry) return this.#pause(nowMs, request, why, error.unknown);
    const before = request.uncertain && writes(request.frame) && !settles(error.code);
    this.#settle(request, { error: error.unknown || before ? new UnknownOutcomeError(why) : new RejectedError(why) });
  }

  /** The stream of a call broke without an answer. */
  handleBroken(nowMs: number, id: number): void {
    const request = this.#requests.get(id);
    if (request?.state === "sent") this.#pause(nowMs, request, refusal("UNAVAILABLE", "the stream broke"), true);
  }

  /** It can never be sent. */
  handleUnsendable(id: number, why: Refusal): void {
    const request = this.#requests.get(id);
    if (request !== undefined) this.#settle(request, { error: new RejectedError(why) });
  }

  /** When {@link handleTimeout} must be called; perhaps too early, never too late. */
  get dueMs(): number {
    return this.#dueMs;
  }

  handleTimeout(nowMs: number): void {
    if (nowMs < this.#dueMs) return;
    this.#dueMs = Number.POSITIVE_INFINITY;
    for (const request of [...this.#requests.values()]) {
      if (request.dueMs > nowMs) {
        this.#dueMs = Math.min(this.#dueMs, request.dueMs);
      } else if (request.deadlineMs <= nowMs) {
        this.#settle(request, { error: this.#timeOver(request) });
      } else {
        this.#turn(request, "ready");
        this.#setDue(request, request.deadlineMs);
      }
    }
  }

  /** This client will never be connected again. */
  handleEnd(why: Refusal): void {
    for (const request of [...this.#requests.values()]) {
      const happened = request.uncertain || request.state === "sent";
      this.#settle(request, { error: happened ? new UnknownOutcomeError(why) : new RejectedError(why) });
    }
  }

  // ---- steps ----

  #turn(request: Request, state: Request["state"]): void {
    const cost = this.cost(request.frame);
    if (request.state === "sent") this.#sentCost -= cost;
    if (state === "sent") this.#sentCost += cost;
    request.state = state;
  }

  #timeOver(request: Request): RequestError {
    const late = refusal("TIMEOUT", "no answer in time");
    if (request.uncertain || request.state === "sent") return new UnknownOutcomeError(late);
    // Never sent, or every attempt was refused: the last refusal says more than the clock.
    return new RejectedError(request.refusal ?? late);
  }

  /** Is the send that this one follows still open here? */
  #followsOpen(request: Request): boolean {
    const send = sendOf(request.frame);
    return send !== undefined && this.#isOpen(request.key, send.follows);
  }

  #isOpen(key: string | undefined, messageId: Uint8Array): boolean {
    for (const other of this.#requests.values()) {
      if (other.place !== undefined && other.key === key && equal(other.place.messageId, messageId)) return true;
    }
    return false;
  }

  #pause(nowMs: number, request: Request, why: Refusal, uncertain: boolean): void {
    const doubled = Math.min(RETRY_MS_MIN * 2 ** Math.max(0, request.attempts - 1), RETRY_MS_MAX);
    // Later, never earlier than told, and not all at once.
    const pauseMs = Math.max(doubled * (0.5 + this.#random() / 2), why.retryAfterMs * (1 + this.#random() / 2));
    request.uncertain ||= uncertain;
    request.refusal = why;
    this.#turn(request, "paused");
    this.#setDue(request, Math.min(nowMs + pauseMs, request.deadlineMs));
  }

  #setDue(request: Request, dueMs: number): void {
    request.dueMs = dueMs;
    this.#dueMs = Math.min(this.#dueMs, dueMs);
  }

  #settle(request: Request, outcome: Outcome): void {
    this.#turn(request, "paused");
    this.#requests.delete(request.id);
    this.#settlePlace(request, outcome);
    request.answer(outcome);
  }

  /**
   * A send is over here: those behind it go on. If it was rejected, they follow whom it followed, and so will new ones;
   * if nobody knows, they stay behind it, for it may still happen.
   */
  #settlePlace({ key, place, frame }: Request, outcome: Outcome): void {
    const send = sendOf(frame);
    if (key === undefined || place === undefined || send === undefined) return;
    const { follows } = send;
    const rejected = "error" in outcome && !outcome.error.unknown;
    const last = this.#lastSends.get(key);
    if (last !== undefined && equal(last, place.messageId)) {
      if ("error" in outcome && this.#isOpen(key, follows)) this.#lastSends.set(key, follows);
      else this.#lastSends.delete(key);
    }
    for (const other of this.#requests.values()) {
      const behind = other.key === key ? sendOf(other.frame) : undefined;
      if (behind === undefined || !equal(behind.follows, place.messageId)) continue;
      if (other.state === "parked") this.#turn(other, "ready");
      if (rejected) behind.follows = follows;
    }
  }
}
