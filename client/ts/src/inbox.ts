// Inbox: the subscription of a client: exactly once, in order, over everything that may happen between.
//
// An entry is taken if it joins on: `prev_seq < position <= seq`. One below the position was taken before; one that
// does not join on, Lagging, the end of the stream and a new connection are repaired alike: by sync from the
// position, then a new subscription from there. The queue to the reader is bounded by the credit that the gateway gets.

import { ErrorCode, refusal, SubscriptionError, type Refusal } from "./errors.js";
import type { Entry, SyncPage } from "./entry.js";
import { EXPIRED_MS, SUBSCRIBE_MS_MIN } from "./limits.js";

/** What the pilot must do for the subscription. */
export type Need =
  | { readonly do: "page"; readonly from: bigint }
  | { readonly do: "subscribe"; readonly from: bigint; readonly cursor: bigint; readonly credit: number }
  | { readonly do: "credit"; readonly entries: number }
  | { readonly do: "unsubscribe" };

/** Between the pilot, which puts entries in, and the reader, who takes them out. */
export class InboxQueue {
  #entries: Entry[] = [];
  #first = 0;
  #ended: SubscriptionError | undefined;
  #readers: ((entry: Entry | undefined) => void)[] = [];
  /** Taken by the reader and not yet given back as credit. */
  taken = 0;
  /** The reader is gone. */
  dropped = false;

  constructor(
    /** Entries that may wait. */
    readonly window: number,
    /** The pilot should look again: there is room, or the reader is gone. */
    readonly wake: () => void,
  ) {}

  get length(): number {
    return this.#entries.length - this.#first;
  }

  /** Taken entries after which the gateway gets new credit. */
  get step(): number {
    return Math.max(1, Math.floor(this.window / 4));
  }

  put(entry: Entry): void {
    if (this.dropped) return;
    const reader = this.#readers.shift();
    if (reader === undefined) {
      this.#entries.push(entry);
    } else {
      this.#count();
      reader(entry);
    }
  }

  end(error: SubscriptionError): void {
    this.#ended ??= error;
    for (const reader of this.#readers.splice(0)) reader(undefined);
  }

  /** The next entry; `undefined` when there will be none: {@link ended} says why. */
  take(): Promise<Entry | undefined> {
    const entry = this.#entries[this.#first];
    if (entry === undefined) {
      if (this.#ended !== undefined || this.dropped) return Promise.resolve(undefined);
      return new Promise((resolve) => this.#readers.push(resolve));
    }
    this.#first += 1;
    if (this.#first === this.#entries.length || this.#first >= 256) {
      this.#entries.splice(0, this.#first);
      this.#first = 0;
    }
    this.#count();
    return Promise.resolve(entry);
  }

  /** Why it ended, said once. */
  takeEnd(): SubscriptionError | undefined {
    if (this.dropped) return undefined;
    this.dropped = true;
    return this.#ended;
  }

  drop(): void {
    this.dropped = true;
    this.#entries = [];
    this.#first = 0;
    for (const reader of this.#readers.splice(0)) reader(undefined);
    this.wake();
  }

  #count(): void {
    this.taken += 1;
    if (this.taken % this.step === 0) this.wake();
  }
}

/** The pilot's side of a subscription. */
export class Inbox {
  // fresh: not subscribed on this connection. paused: nor taken yet. live. behind: pages are missing. asked: for one. over.
  #state: "fresh" | "paused" | "live" | "behind" | "asked" | "over" = "fresh";
  /** When {@link handleTimeout} must be called. */
  dueMs = Number.POSITIVE_INFINITY;

  constructor(
    readonly queue: InboxQueue,
    /** First seq that was not given to the reader. */
    private position: bigint,
    private readonly cursor: bigint,
  ) {}

  /** Another subscription takes this one's place. */
  replace(): void {
    this.end(refusal("KICKED", "another subscription began"));
  }

  /** There will be nothing more. */
  end(why: Refusal): void {
    this.#turn("over");
    this.queue.end(SubscriptionError.refused(why));
  }

  /** A connection is gone: subscribe on the next one from the position. */
  handleLost(): void {
    if (this.#state === "live" || this.#state === "paused") this.#turn("fresh");
  }

  /** The gateway refused to subscribe on this connection, for now (`retry`) or for good. */
  handleSubscribeRefused(nowMs: number, why: Refusal, retry: boolean): void {
    if (!retry) return this.end(why);
    if (this.#state !== "live") return;
    this.#state = "paused";
    // Never earlier than told, and not all devices at once.
    this.dueMs = nowMs + Math.max(why.retryAfterMs, SUBSCRIBE_MS_MIN) * (1 + Math.random() / 2);
  }

  handleTimeout(nowMs: number): void {
    if (this.#state === "paused" && this.dueMs <= nowMs) this.#turn("fresh");
  }

  /** Pushed entries. */
  handleEntries(entries: readonly Entry[]): void {
    if (this.#state !== "live") return;
    for (const entry of entries) {
      if (entry.seq < this.position) continue;
      if (entry.prevSeq >= this.position) return this.#fallBehind();
      this.#take(entry);
    }
  }

  /** The gateway stopped pushing, and the inbox reaches to `upto`. */
  handleLagging(upto: bigint): void {
    if (upto > this.position) this.#fallBehind();
  }

  /** The inbox stream ended without the connection. */
  handleStreamEnd(): void {
    this.#fallBehind();
  }

  /** A page that was needed. */
  handlePage(page: SyncPage): void {
    if (this.#state === "over") return;
    if (page.tooLong) {
      this.#state = "over";
      return this.queue.end(SubscriptionError.tooLong(page.trim));
    }
    for (const entry of page.entries) if (entry.seq >= this.position) this.#take(entry);
    if (page.upto > this.position) this.position = page.upto;
    this.#state = page.more ? "behind" : "fresh";
  }

  /** The page was refused. */
  handlePageRefused(nowMs: number, why: Refusal): void {
    if (this.#state === "over") return;
    const final: number[] = [ErrorCode.CURSOR_AHEAD, ErrorCode.AUTH_FAILED, ErrorCode.FORBIDDEN];
    if (final.includes(why.code)) return this.end(why);
    this.#state = "behind";
    if (why.code !== ErrorCode.AUTH_EXPIRED) return;
    // The session is about to end too, and the next one begins with a fresh token.
    this.#state = "paused";
    this.dueMs = nowMs + EXPIRED_MS;
  }

  /** What to do now. `connected`: on a session. `pushed`: its stream is there, so that credit can be given. */
  need(connected: boolean, pushed: boolean): Need | undefined {
    const { queue } = this;
    if (this.#state !== "over" && queue.dropped) {
      this.#turn("over");
      return { do: "unsubscribe" };
    }
    const room = queue.window - queue.length;
    // Never more than the window, over any number of connections.
    if (this.#state === "fresh" && connected && room >= queue.step) {
      this.#state = "live";
      queue.taken = 0;
      return { do: "subscribe", from: this.position, cursor: this.cursor, credit: room };
    }
    if (this.#state === "live" && pushed && queue.taken >= queue.step) {
      const entries = queue.taken;
      queue.taken = 0;
      return { do: "credit", entries };
    }
    if (this.#state === "behind" && room >= queue.step) {
      this.#state = "asked";
      return { do: "page", from: this.position };
    }
    return undefined;
  }

  get isLive(): boolean {
    return this.#state === "live";
  }

  /** Whatever was waited for. */
  #turn(state: "fresh" | "over"): void {
    this.#state = state;
    this.dueMs = Number.POSITIVE_INFINITY;
  }

  #take(entry: Entry): void {
    this.position = entry.seq + 1n;
    this.queue.put(entry);
  }

  #fallBehind(): void {
    if (this.#state === "live") this.#state = "behind";
  }
}

