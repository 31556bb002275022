// Inbox: what is taken, repaired, credited and ended.

import assert from "node:assert/strict";
import { it } from "node:test";

import fc from "fast-check";

import { emptyChain, type Entry, type SyncPage } from "../src/entry.js";
import { SubscriptionError, refusal } from "../src/errors.js";
import { Inbox, InboxQueue } from "../src/inbox.js";
import { MemoryCursorStore, StorageCursorStore } from "../src/cursor.js";
import { Subscription } from "../src/subscription.js";

function entry(seq: number, prevSeq: number): Entry {
  return {
    seq: BigInt(seq),
    prevSeq: BigInt(prevSeq),
    ordinal: BigInt(seq),
    conversation: { peer: "bob" },
    conversationSeq: BigInt(seq),
    kind: "message",
    sender: "bob",
    messageId: new Uint8Array(16),
    atMs: 0n,
    bodyHash: new Uint8Array(16),
    body: { state: "erased" },
    added: [],
    removed: [],
    target: 0n,
    emoji: "",
    unset: false,
    chain: undefined,
  };
}

function page(entries: Entry[], upto: number, more: boolean): SyncPage {
  return { entries, upto: BigInt(upto), more, tooLong: false, trim: 1n, tail: BigInt(upto), chain: emptyChain() };
}

function subscribed(window = 1_024) {
  const queue = new InboxQueue(window, () => {});
  const inbox = new Inbox(queue, 1n, 0n);
  assert.deepEqual(inbox.need(true, false), { do: "subscribe", from: 1n, cursor: 0n, credit: window });
  return { queue, inbox };
}

async function taken(queue: InboxQueue): Promise<number[]> {
  const seqs: number[] = [];
  while (queue.length > 0) seqs.push(Number((await queue.take())?.seq));
  return seqs;
}

it("C-067 repetitions are dropped and a gap is repaired", async () => {
  const { queue, inbox } = subscribed();
  inbox.handleEntries([entry(1, 0), entry(4, 1)]);
  inbox.handleEntries([entry(4, 1), entry(5, 4), entry(9, 8)]);
  assert.deepEqual(await taken(queue), [1, 4, 5]);
  assert.deepEqual(inbox.need(true, true), { do: "page", from: 6n });
  assert.equal(inbox.need(true, true), undefined, "asked once");
  inbox.handleEntries([entry(6, 5)]);
  inbox.handlePage(page([entry(8, 5)], 9, true));
  assert.deepEqual(inbox.need(true, true), { do: "page", from: 9n });
  inbox.handlePage(page([entry(9, 8)], 12, false));
  assert.deepEqual(await taken(queue), [8, 9]);
  assert.deepEqual(inbox.need(true, true), { do: "subscribe", from: 12n, cursor: 0n, credit: 1_024 });
});

it("C-065 a subscription that is refused for now is asked for again from the position, and not before", async () => {
  const { queue, inbox } = subscribed();
  inbox.handleEntries([entry(1, 0)]);
  for (const told of [0, 400]) {
    inbox.handleSubscribeRefused(1_000, { ...refusal("BUSY", ""), retryAfterMs: told }, true);
    const pause = inbox.dueMs - 1_000;
    assert(pause >= Math.max(told, 50) && pause <= Math.max(told, 50) * 1.5, `${pause} after ${told}`);
    inbox.handleTimeout(inbox.dueMs - 1);
    assert.equal(inbox.need(true, false), undefined, "not before");
    inbox.handleTimeout(inbox.dueMs);
    assert.deepEqual(inbox.need(true, false), { do: "subscribe", from: 2n, cursor: 0n, credit: 1_023 });
    assert.equal(inbox.dueMs, Number.POSITIVE_INFINITY);
  }
  inbox.handleSubscribeRefused(1_000, { ...refusal("BUSY", ""), retryAfterMs: 400 }, true);
  inbox.handleLost();
  assert.equal(inbox.need(true, false)?.do, "subscribe", "another connection knows nothing of it");
  inbox.handleSubscribeRefused(1_000, refusal("FORBIDDEN", ""), false);
  assert.equal(inbox.need(true, false), undefined);
  assert.deepEqual(await taken(queue), [1]);
  assert.equal(queue.takeEnd()?.refusal?.name, "FORBIDDEN");
});

it("C-067 Lagging, a stream that ends and a lost connection are repaired from the position", async () => {
  const { inbox } = subscribed();
  inbox.handleEntries([entry(1, 0)]);
  inbox.handleLagging(2n);
  assert.equal(inbox.need(true, true), undefined, "there is nothing beyond");
  inbox.handleLagging(3n);
  assert.deepEqual(inbox.need(true, true), { do: "page", from: 2n });
  inbox.handlePageRefused(0, refusal("UNAVAILABLE", ""));
  assert.deepEqual(inbox.need(true, true), { do: "page", from: 2n });
  inbox.handlePage(page([entry(2, 1)], 3, false));
  assert.equal(inbox.need(true, true)?.do, "subscribe");
  inbox.handleStreamEnd();
  assert.deepEqual(inbox.need(true, true), { do: "page", from: 3n });
  inbox.handlePage(page([], 3, false));
  inbox.need(true, true);
  inbox.handleLost();
  assert.equal(inbox.need(false, false), undefined);
  assert.deepEqual(inbox.need(true, false), { do: "subscribe", from: 3n, cursor: 0n, credit: 1_022 });
});

it("C-067 a page that is refused for good ends the subscription, and one behind the token's end does not", async () => {
  for (const name of ["FORBIDDEN", "CURSOR_AHEAD", "AUTH_FAILED"] as const) {
    const { inbox, queue } = subscribed();
    inbox.handleLagging(9n);
    inbox.need(true, true);
    inbox.handlePageRefused(0, refusal(name, ""));
    assert.equal(inbox.need(true, false), undefined);
    assert.equal(queue.takeEnd()?.refusal?.name, name);
  }
  const { inbox } = subscribed();
  inbox.handleLagging(9n);
  inbox.need(true, true);
  inbox.handlePageRefused(0, refusal("AUTH_EXPIRED", ""));
  assert.equal(inbox.need(true, false), undefined, "not on this connection, for now");
  assert.equal(inbox.dueMs, 1_000);
  inbox.handleLost();
  assert.equal(inbox.need(true, false)?.do, "subscribe");
});

it("C-067 whatever is pushed, repeated, left out or lost: every entry once and in order", async () => {
  const step = fc.oneof(
    fc.record({ push: fc.tuple(fc.nat(40), fc.integer({ min: 1, max: 6 })) }),
    fc.constant({ lost: true }),
    fc.constant({ end: true }),
    fc.record({ lagging: fc.nat(60) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.uniqueArray(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 40 }), fc.array(step, { maxLength: 30 }), async (places, steps) => {
      const seqs = places.sort((one, other) => one - other);
      const all = seqs.map((seq, at) => entry(seq, seqs[at - 1] ?? 0));
      const tail = (seqs.at(-1) ?? 0) + 1;
      const { queue, inbox } = subscribed(16);
      const got: number[] = [];
      const serve = async () => {
        for (let need = inbox.need(true, true); need !== undefined; need = inbox.need(true, true)) {
          assert(queue.length <= 16 + 5, "what waits is bounded");
          if (need.do === "page") {
            const { from } = need;
            const rest = all.filter(({ seq }) => seq >= from);
            const five = rest.slice(0, 5);
            inbox.handlePage(page(five, rest.length > 5 ? Number(five.at(-1)?.seq) + 1 : tail, rest.length > 5));
          }
          got.push(...(await taken(queue)));
        }
      };
      for (const one of steps) {
        if ("push" in one) inbox.handleEntries(all.slice(one.push[0], one.push[0] + one.push[1]));
        else if ("lost" in one) inbox.handleLost();
        else if ("end" in one) inbox.handleStreamEnd();
        else inbox.handleLagging(BigInt(one.lagging));
        got.push(...(await taken(queue)));
        await serve();
      }
      inbox.handleStreamEnd();
      await serve();
      assert.deepEqual(got, seqs);
    }),
  );
});

it("C-068 credit is given for what the reader took, and no connection brings more than the window", async () => {
  const { queue, inbox } = subscribed(8);
  inbox.handleEntries([1, 2, 3, 4, 5, 6, 7, 8].map((seq) => entry(seq, seq - 1)));
  assert.equal(inbox.need(true, true), undefined, "nothing was taken");
  inbox.handleLost();
  assert.equal(inbox.need(true, false), undefined, "there is no room");
  await queue.take();
  await queue.take();
  assert.deepEqual(inbox.need(true, false), { do: "subscribe", from: 9n, cursor: 0n, credit: 2 });
  await queue.take();
  await queue.take();
  assert.equal(inbox.need(true, false), undefined, "there is no stream to credit");
  assert.deepEqual(inbox.need(true, true), { do: "credit", entries: 2 });
});

it("C-069 trimmed entries end the subscription, once, behind what came before", async () => {
  const queue = new InboxQueue(8, () => {});
  const inbox = new Inbox(queue, 1n, 0n);
  inbox.need(true, true);
  const reader = new Subscription(() => queue, 1n, undefined, () => {});
  inbox.handleEntries([entry(1, 0)]);
  inbox.handleStreamEnd();
  inbox.need(true, true);
  inbox.handlePage({ ...page([], 9, false), tooLong: true, trim: 7n });
  assert.equal((await reader.next()).value?.seq, 1n);
  await assert.rejects(reader.next(), (error) => error instanceof SubscriptionError && error.trim === 7n);
  assert.equal((await reader.next()).done, true);
});

it("a reader that is gone ends it", async () => {
  const { queue, inbox } = subscribed();
  const waiting = queue.take();
  queue.drop();
  assert.equal(await waiting, undefined);
  assert.deepEqual(inbox.need(true, true), { do: "unsubscribe" });
  assert.equal(inbox.need(true, true), undefined);
});

it("C-072 asking for the next entry says that the one before is done", async () => {
  const store = new MemoryCursorStore(3n);
  const queue = new InboxQueue(8, () => {});
  const [begun, acked]: [bigint[], bigint[]] = [[], []];
  const begin = (from: bigint) => {
    begun.push(from);
    return queue;
  };
  const reader = new Subscription(begin, 1n, store, (cursor) => acked.push(cursor));
  for (const seq of [3, 4, 5]) queue.put(entry(seq, seq - 1));
  await reader.next();
  assert.deepEqual([begun, store.load(), acked], [[3n], 3n, []]);
  await reader.next();
  await reader.next();
  assert.deepEqual([store.load(), acked], [5n, [4n, 5n]]);
  await reader.return();
  assert.deepEqual([(await reader.next()).done, store.load()], [true, 6n]);
});

it("C-072 a stored cursor is a number or an error, never a start from nothing", () => {
  const kept = new Map<string, string>();
  const storage = { getItem: (key: string) => kept.get(key) ?? null, setItem: (key: string, value: string) => void kept.set(key, value) };
  const store = new StorageCursorStore(storage, "alice/phone");
  assert.equal(store.load(), undefined);
  store.save(2n ** 53n - 1n);
  assert.equal(new StorageCursorStore(storage, "alice/phone").load(), 2n ** 53n - 1n);
  for (const broken of ["0", "-1", "1e3", "a", "9007199254740992", "1 2"]) {
    kept.set("alice/phone", broken);
    assert.throws(() => store.load(), RangeError, broken);
  }
});
