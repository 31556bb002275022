// Pilot: keeps a connection, brings requests out and answers in, repairs the subscription.
//
//   waiting ─ pause over ─▶ dialing ─ Welcome ─▶ up ─ connection lost ─▶ waiting …
//                               └─ refused for good ─▶ dead: everything open ends

import { ConnectError, ProtocolError, refusal, type Refusal } from "./errors.js";
import { conversationKey, entryFromWire, syncPageFromWire, type Conversation, type Identity } from "./entry.js";
import { clientFrame, type Asked, type Said } from "./framing.js";
import type { Welcome } from "./gen/seriatim/v1/client_pb.js";
import type { Inbox } from "./inbox.js";
import {
  DOUBT_MS,
  EXPIRED_MAX,
  KEEP_ALIVE_MS,
  LOOK_MS,
  MESSAGE_BYTES_MAX,
  RECONNECT_MS_MAX,
  RECONNECT_MS_MIN,
  REPAIR_TIMEOUT_MS,
  REQUESTS_MAX,
  ROOM_MS,
  SILENCE_MS,
  TAILS_MAX,
} from "./limits.js";
import { dial, type DialOptions } from "./dial.js";
import { Renewal } from "./renewal.js";
import { refusalFromWire, Requests, type NewRequest, type Outcome } from "./requests.js";
import { DialError, endError, FrameTooLarge, type Wire, type WireEvents } from "./wire.js";

/** Milliseconds of a clock that only rises. */
export function nowMs(): number {
  return performance.now();
}

/** The pause before the connection that follows `failures` failed ones, in milliseconds. `random` gives [0, 1). */
export function reconnectPause(failures: number, random: () => number): number {
  return Math.min(RECONNECT_MS_MIN * 2 ** failures, RECONNECT_MS_MAX) * (0.5 + random() / 2);
}

type Link =
  | { readonly state: "waiting"; readonly untilMs: number }
  | { readonly state: "dialing" }
  | { readonly state: "up"; readonly wire: Wire }
  | { readonly state: "dead"; readonly why: Refusal };

/** An inbox stream whose subscription is not known yet. */
type Early = { readonly said: Said } | "end";

export class Pilot {
  readonly #options: DialOptions;
  readonly #requests = new Requests();
  readonly #renewal: Renewal;
  /** The Renew without an answer. */
  #renewing: number | undefined;
  readonly #firstUntilMs: number;
  #first: { resolve: () => void; reject: (error: ConnectError) => void } | undefined;
  #link: Link = { state: "waiting", untilMs: 0 };
  #attempt = 0;
  #failures = 0;
  /** When the connection that there is, or was, said Welcome. */
  #upMs: number | undefined;
  #expired = 0;
  #connections = 0;
  #identity: Identity | undefined;
  #inbox: Inbox | undefined;
  /** The Subscribe without an answer. */
  #subscribing: number | undefined;
  #subscription: bigint | undefined;
  #early = new Map<bigint, Early[]>();
  /** Why the connection ends, as the gateway said it. */
  #why: Refusal | undefined;
  /** The gateway goes down, and there is another one. */
  #leaving = false;
  #heardMs = 0;
  #saidMs = 0;
  /** When the gateway began to owe an answer. */
  #owesMs = 0;
  #askedMs: number | undefined;
  #lookedMs = 0;
  #keepAliveMs = KEEP_ALIVE_MS;
  /** Tails of conversations as far as this client has seen, those heard of last behind. */
  readonly #tails = new Map<string, bigint>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #timerMs = Number.POSITIVE_INFINITY;
  #pumping = false;
  messageBytesMax = MESSAGE_BYTES_MAX;
  #requestsMax = REQUESTS_MAX;

  /** Flies until {@link close}. `connected` ends with the first session, or with why there is none. */
  static start(options: DialOptions, connectTimeoutMs: number): { pilot: Pilot; connected: Promise<void> } {
    const pilot = new Pilot(options, connectTimeoutMs);
    const connected = new Promise<void>((resolve, reject) => (pilot.#first = { resolve, reject }));
    pilot.wake();
    return { pilot, connected };
  }

  private constructor(options: DialOptions, connectTimeoutMs: number) {
    this.#options = options;
    this.#renewal = new Renewal(options, () => this.wake());
    this.#firstUntilMs = nowMs() + connectTimeoutMs;
  }

  get identity(): Identity | undefined {
    return this.#identity;
  }

  get connections(): number {
    return this.#connections;
  }

  get transport(): Wire["transport"] | undefined {
    return this.#link.state === "up" ? this.#link.wire.transport : undefined;
  }

  ask(request: NewRequest): void {
    this.#requests.add(request);
    if (this.#link.state === "dead") this.#requests.handleEnd(this.#link.why);
    else this.wake();
  }

  subscribe(inbox: Inbox): void {
    this.#inbox?.replace();
    this.#inbox = inbox;
    if (this.#link.state === "dead") inbox.end(this.#link.why);
    else this.wake();
  }

  /** Entries of conversations were seen. */
  saw(conversation: Conversation, seq: bigint): void {
    const key = conversationKey(conversation);
    const known = this.#tails.get(key) ?? 0n;
    this.#tails.delete(key);
    this.#tails.set(key, seq >= known ? seq + 1n : known);
    for (const oldest of this.#tails.keys()) {
      if (this.#tails.size <= TAILS_MAX) break;
      this.#tails.delete(oldest);
    }
  }

  /** The conversation's tail as far as this client has seen, 0 for none. */
  known(conversation: Conversation): bigint {
    return this.#tails.get(conversationKey(conversation)) ?? 0n;
  }

  close(): void {
    if (this.#link.state === "dead") return;
    const why = refusal("SHUTDOWN", "the client is closed");
    this.#end(why);
    this.#first?.reject(new ConnectError("timeout", why.message));
    this.#first = undefined;
  }

  /** Looks at everything once, soon: what happens until then is one round. */
  wake(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    queueMicrotask(() => {
      this.#pumping = false;
      this.#pump();
    });
  }

  #pump(): void {
    if (this.#link.state === "dead") return;
    const now = nowMs();
    this.#requests.handleTimeout(now);
    if (this.#link.state === "waiting" && this.#link.untilMs <= now) this.#dial();
    if (this.#link.state === "up") this.#look(now, this.#link.wire);
    if (this.#link.state === "up") this.#renew(now, this.#link.wire);
    this.#serveInbox(now);
    if (this.#link.state === "up") this.#send(now, this.#link.wire);
    this.#arm(now);
  }

  /** A timer that goes off too early costs less than one that is set anew for every request. */
  #arm(now: number): void {
    let untilMs = Math.min(this.#requests.dueMs, this.#renewal.dueMs, this.#inbox?.dueMs ?? Number.POSITIVE_INFINITY);
    if (this.#link.state === "waiting") untilMs = Math.min(untilMs, this.#link.untilMs);
    if (this.#link.state === "up") untilMs = Math.min(untilMs, now + (this.#requests.hasReady ? ROOM_MS : LOOK_MS));
    if (this.#timer !== undefined && this.#timerMs <= untilMs) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (untilMs === Number.POSITIVE_INFINITY) return;
    this.#timerMs = untilMs;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.wake();
    }, Math.max(0, Math.ceil(untilMs - now)));
  }

  /** Nothing will be answered any more. */
  #end(why: Refusal): void {
    const link = this.#link;
    this.#link = { state: "dead", why };
    this.#renewal.stop();
    clearTimeout(this.#timer);
    if (link.state === "up") link.wire.close();
    this.#requests.handleEnd(why);
    this.#inbox?.end(why);
  }

  // ---- the link ----

  #dial(): void {
    this.#link = { state: "dialing" };
    const attempt = this.#attempt;
    this.#attempt += 1;
    const welcome = (wire: Wire, welcome: Welcome) => {
      if (this.#link.state === "dialing") this.#handleWelcome(wire, welcome);
      else wire.close();
    };
    dial(this.#options, attempt, welcome).catch((error: unknown) => {
      if (this.#link.state !== "dialing") return;
      this.#handleDialError(error instanceof DialError ? error : new DialError("retry", String(error)));
      this.wake();
    });
  }

  #handleWelcome(wire: Wire, { tenant, user, generation, limits, expiresInMs }: Welcome): void {
    this.#identity = { tenant, user, generation };
    this.messageBytesMax = limits?.messageBytes || MESSAGE_BYTES_MAX;
    this.#requestsMax = limits?.requests || REQUESTS_MAX;
    this.#connections += 1;
    this.#upMs = nowMs();
    this.#expired = 0;
    this.#subscribing = undefined;
    this.#subscription = undefined;
    this.#early.clear();
    this.#why = undefined;
    this.#leaving = false;
    this.#heardMs = this.#saidMs = this.#lookedMs = nowMs();
    this.#askedMs = undefined;
    this.#renewing = undefined;
    this.#renewal.begin(nowMs(), Number(expiresInMs));
    this.#link = { state: "up", wire };
    wire.events = this.#events(wire);
    this.#first?.resolve();
    this.#first = undefined;
    this.wake();
  }

  #handleDialError(error: DialError): void {
    switch (error.kind) {
      case "refused":
        return this.#die(ConnectError.refused(error.refusal ?? refusal("AUTH_FAILED", error.message)));
      case "expired":
        this.#expired += 1;
        if (this.#options.tokenFixed || this.#expired >= EXPIRED_MAX) return this.#die(ConnectError.refused(error.refusal ?? refusal("AUTH_EXPIRED", error.message)));
        break;
      case "handshake":
      case "setup":
        return this.#die(new ConnectError(error.kind, error.message));
      case "retry":
        break;
    }
    if (this.#first !== undefined && nowMs() >= this.#firstUntilMs) {
      return this.#die(new ConnectError("timeout", `no answer from the gateway: ${error.message}`));
    }
    this.#wait();
  }

  #lose(end: DialError): void {
    // A fresh token may do; one that never changes fails at the dial.
    if (end.kind !== "retry" && end.kind !== "expired") return this.#handleDialError(end);
    this.#link = { state: "dialing" };
    this.#renewal.stop();
    this.#requests.handleLost();
    this.#inbox?.handleLost();
    this.#wait();
  }

  /**
   * A connection that was up for as long as the longest pause begins the pauses anew: a gateway that lets a device in and
   * throws it out is not asked without end.
   */
  #wait(): void {
    if (this.#upMs !== undefined && nowMs() - this.#upMs >= RECONNECT_MS_MAX) this.#failures = 0;
    this.#upMs = undefined;
    this.#link = { state: "waiting", untilMs: nowMs() + reconnectPause(this.#failures, Math.random) };
    this.#failures += 1;
  }

  #die(error: ConnectError): void {
    this.#end(error.refusal ?? refusal("UNAVAILABLE", error.message));
    this.#first?.reject(error);
    this.#first = undefined;
  }

  /** Says Ping where that is due, and tells a gateway that is gone from one that has nothing to say. */
  #look(now: number, wire: Wire): void {
    if (this.#askedMs !== undefined && this.#heardMs >= this.#askedMs) this.#askedMs = undefined;
    // Whoever slept himself heard nothing: what came meanwhile is read behind this look.
    if (this.#askedMs !== undefined && now - this.#lookedMs >= SILENCE_MS) this.#askedMs = now;
    this.#lookedMs = now;
    if (this.#askedMs !== undefined && now - this.#askedMs >= SILENCE_MS) {
      wire.close();
      return this.#lose(new DialError("retry", "the gateway is silent"));
    }
    const doubt = this.#requests.sentCost > 0 && now - Math.max(this.#heardMs, this.#owesMs) >= DOUBT_MS;
    if (this.#askedMs === undefined && (doubt || now - this.#saidMs >= this.#keepAliveMs)) {
      this.#put(wire, this.#requests.newId(), { case: "ping", value: { nonce: 0n } });
      this.#askedMs = now;
      this.#keepAliveMs = KEEP_ALIVE_MS * (0.8 + Math.random() * 0.2);
    }
  }

  /** Shows a fresh token when it is time. */
  #renew(now: number, wire: Wire): void {
    const token = this.#renewal.poll(now);
    if (token === undefined) return;
    this.#renewing = this.#requests.newId();
    this.#put(wire, this.#renewing, { case: "renew", value: { token } });
  }

  // ---- what comes in ----

  #events(wire: Wire): WireEvents {
    const heard = (handle: () => void) => {
      this.#heardMs = nowMs();
      handle();
      this.wake();
    };
    return {
      said: (requestId, said) => heard(() => this.#handleSaid(Number(requestId), said)),
      callBroken: (requestId) => heard(() => this.#requests.handleBroken(nowMs(), Number(requestId))),
      inbox: (id, said) => heard(() => this.#handleInbox(id, { said })),
      inboxEnd: (id) => heard(() => this.#handleInbox(id, "end")),
      room: () => this.wake(),
      closed: (end) => {
        if (this.#link.state !== "up" || this.#link.wire !== wire) return;
        this.#lose(endError(end, this.#why));
        this.wake();
      },
    };
  }

  #handleSaid(id: number, said: Said): void {
    if (id === 0) {
      // What the gateway goes down for, or why the connection ends; its close code counts.
      if (said.case === "error") this.#why = refusalFromWire(said.value);
      if (said.case === "goAway") this.#leaving = this.#options.origins.length > 1;
    } else if (id === this.#renewing) {
      this.#renewing = undefined;
      this.#renewal.handleAnswer(nowMs(), said);
    } else if (id === this.#subscribing) {
      this.#subscribing = undefined;
      if (said.case === "subscribed") this.#handleSubscribed(said.value.subscriptionId);
      else if (said.case === "error") this.#inbox?.handleSubscribeRefused(nowMs(), refusalFromWire(said.value), said.value.retry);
    } else {
      this.#requests.handleAnswer(nowMs(), id, said);
    }
  }

  #handleSubscribed(id: bigint): void {
    this.#subscription = id;
    const early = this.#early.get(id) ?? [];
    this.#early.clear();
    for (const one of early) this.#handleInbox(id, one);
  }

  /** Streams of other subscriptions than the last one may still bring something: it is not wanted. */
  #handleInbox(id: bigint, what: Early): void {
    const inbox = this.#inbox;
    if (this.#subscribing !== undefined) {
      const early = this.#early.get(id) ?? [];
      early.push(what);
      this.#early.set(id, early);
    } else if (id === this.#subscription && inbox !== undefined) {
      if (what === "end") inbox.handleStreamEnd();
      else this.#handleInboxFrame(inbox, what.said);
    }
  }

  #handleInboxFrame(inbox: Inbox, said: Said): void {
    switch (said.case) {
      case "deliver":
        this.#checked(inbox, () => {
          const entries = said.value.entries.map(entryFromWire);
          for (const entry of entries) this.saw(entry.conversation, entry.conversationSeq);
          inbox.handleEntries(entries);
        });
        break;
      case "lagging":
        inbox.handleLagging(said.value.upto);
        break;
      case "error":
        inbox.end(refusalFromWire(said.value));
        break;
      default:
        break;
    }
  }

  #handlePage(inbox: Inbox, outcome: Outcome): void {
    if (inbox !== this.#inbox) return;
    if ("error" in outcome) return inbox.handlePageRefused(nowMs(), outcome.error.refusal);
    const { said } = outcome;
    this.#checked(inbox, () => {
      if (said.case !== "syncPage") throw new ProtocolError("MALFORMED", "another answer than a page");
      const page = syncPageFromWire(said.value);
      for (const entry of page.entries) this.saw(entry.conversation, entry.conversationSeq);
      inbox.handlePage(page);
    });
  }

  /** An entry that cannot be one ends the subscription: leaving it out would be a gap. */
  #checked(inbox: Inbox, take: () => void): void {
    try {
      take();
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      inbox.end(refusal("MALFORMED", error.message));
    }
  }

  // ---- what goes out ----

  #serveInbox(now: number): void {
    const inbox = this.#inbox;
    const wire = this.#link.state === "up" ? this.#link.wire : undefined;
    if (inbox === undefined) return;
    inbox.handleTimeout(now);
    for (;;) {
      // Behind or over: what the stream would still bring is not wanted.
      if (wire !== undefined && !inbox.isLive && this.#subscription !== undefined) {
        const unsubscribe = { subscriptionId: this.#subscription };
        this.#subscription = undefined;
        this.#put(wire, 0, { case: "unsubscribe", value: unsubscribe });
      }
      const need = inbox.need(wire !== undefined && !this.#leaving, this.#subscription !== undefined);
      if (need === undefined) return;
      switch (need.do) {
        case "page": {
          const body: Asked = { case: "sync", value: { from: need.from, limit: 0 } };
          const answer = (outcome: Outcome) => this.#handlePage(inbox, outcome);
          this.#requests.add({ way: "call", body, deadlineMs: now + REPAIR_TIMEOUT_MS, answer });
          break;
        }
        case "subscribe": {
          const { from, cursor, credit } = need;
          this.#subscribing = this.#requests.newId();
          const value = { from, cursor, credit: BigInt(credit) };
          if (wire !== undefined) this.#put(wire, this.#subscribing, { case: "subscribe", value });
          break;
        }
        case "credit": {
          const value = { subscriptionId: this.#subscription ?? 0n, entries: BigInt(need.entries) };
          if (wire !== undefined) this.#put(wire, 0, { case: "credit", value });
          break;
        }
        case "unsubscribe":
          break;
      }
    }
  }

  #send(now: number, wire: Wire): void {
    if (this.#leaving) {
      // What is under way is answered here; everything else goes to another gateway.
      if (this.#requests.sentCost > 0) return wire.flush();
      wire.close();
      this.#lose(new DialError("retry", "the gateway goes down"));
      this.#link = { state: "waiting", untilMs: now };
      return this.wake();
    }
    const full = new Set<string>();
    for (const { id, way, frame } of [...this.#requests.ready()]) {
      // Below the limit, so that the gateway always reads on.
      const { sentCost } = this.#requests;
      if (sentCost > 0 && sentCost + this.#requests.cost(frame) >= this.#requestsMax) break;
      if (full.has(way)) continue;
      try {
        if (!wire.put(way, frame)) {
          full.add(way);
          continue;
        }
        if (sentCost === 0) this.#owesMs = now;
        this.#requests.sent(id);
        this.#saidMs = now;
      } catch (error) {
        const text = error instanceof Error ? error.message : String(error);
        this.#requests.handleUnsendable(id, refusal(error instanceof FrameTooLarge ? "FRAME_TOO_LARGE" : "MALFORMED", text));
      }
    }
    wire.flush();
  }

  #put(wire: Wire, id: number, body: Asked): void {
    wire.put("control", clientFrame({ requestId: BigInt(id), body }));
    this.#saidMs = nowMs();
  }
}

