// Subscription: the reader's side of the inbox: each entry exactly once, in order.

import type { CursorStore } from "./cursor.js";
import type { Entry } from "./entry.js";
import type { InboxQueue } from "./inbox.js";

/** Begins a subscription at a position; the reader's queue. */
export type Begin = (from: bigint) => InboxQueue;

/**
 * The inbox's entries from a position on. A new subscription of the same client ends this one.
 *
 * With a {@link CursorStore}, asking for the next entry says that the one before is done: its place is saved, and
 * acknowledged to the gateway. A device that starts again gets the entry that it was at, and nothing before it.
 */
export class Subscription implements AsyncIterableIterator<Entry> {
  #queue: InboxQueue | undefined;
  /** The place behind the last entry that was given out. */
  #done: bigint | undefined;
  #over = false;

  constructor(
    private readonly begin: Begin,
    private readonly from: bigint,
    private readonly store: CursorStore | undefined,
    private readonly ack: (cursor: bigint) => void,
  ) {
    // Without a store nothing is to be waited for: entries may come before anybody reads.
    if (store === undefined) this.#queue = begin(from);
  }

  /**
   * The next entry.
   * @throws SubscriptionError, once, when there will be no more
   */
  async next(): Promise<IteratorResult<Entry, undefined>> {
    if (this.store !== undefined) {
      await this.#save(this.store);
      this.#queue ??= this.#over ? undefined : this.begin((await this.store.load()) ?? this.from);
    }
    if (this.#queue === undefined) return { done: true, value: undefined };
    const entry = await this.#queue.take();
    if (entry !== undefined) {
      this.#done = entry.seq + 1n;
      return { done: false, value: entry };
    }
    const error = this.#queue.takeEnd();
    if (error !== undefined) throw error;
    return { done: true, value: undefined };
  }

  /** Ends it; `break` in a `for await` does. The last entry given out counts as done only if it was asked beyond. */
  async return(): Promise<IteratorResult<Entry, undefined>> {
    this.#over = true;
    this.#queue?.drop();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async #save(store: CursorStore): Promise<void> {
    const cursor = this.#done;
    if (cursor === undefined) return;
    this.#done = undefined;
    await store.save(cursor);
    this.ack(cursor);
  }
}
