// Requests, with time as an argument.

import assert from "node:assert/strict";
import { it } from "node:test";

import { create } from "@bufbuild/protobuf";

import { peer } from "../src/entry.js";
import { ErrorCode, type ErrorName } from "../src/errors.js";
import { ErrorSchema } from "../src/gen/seriatim/v1/client_pb.js";
import { reconnectPause } from "../src/pilot.js";
import { Requests, type Outcome } from "../src/requests.js";

const id = (number: number) => new Uint8Array(16).fill(number);

class Desk {
  readonly requests = new Requests(() => 0.999);
  nowMs = 0;
  readonly #ends = new Map<number, string>();

  /** A send to bob; its number is its message id. */
  send(number: number, follows = new Uint8Array(), to = "bob"): void {
    const value = { messageId: id(number), conversation: { id: { case: "peer" as const, value: to } }, follows };
    const place = { conversation: peer(to), messageId: id(number) };
    this.requests.add({ way: "lane", body: { case: "send", value }, place, deadlineMs: this.nowMs + 1_000, answer: (outcome) => this.#end(number, outcome) });
  }

  /** An amendment in the conversation with bob. */
  amend(number: number): void {
    const value = { messageId: id(number), conversation: { id: { case: "peer" as const, value: "bob" } }, target: 1n, act: { case: "recall" as const, value: {} } };
    const place = { conversation: peer("bob"), messageId: id(number) };
    this.requests.add({ way: "lane", body: { case: "amend", value }, place, deadlineMs: this.nowMs + 1_000, answer: (outcome) => this.#end(number, outcome) });
  }

  query(number: number): void {
    const value = { messageId: id(number) };
    this.requests.add({ way: "lane", body: { case: "querySend", value }, deadlineMs: this.nowMs + 1_000, answer: (outcome) => this.#end(number, outcome) });
  }

  /** Sends what is ready; message id and whom it follows, 0 for nobody. */
  flush(): string {
    const sent = [...this.requests.ready()].map(({ id, frame }) => {
      this.requests.sent(id);
      const { body } = frame;
      const placed = body.case === "send" || body.case === "amend";
      this.ids.set(placed || body.case === "querySend" ? (body.value.messageId[0] ?? 0) : 0, id);
      return placed ? `${body.value.messageId[0]}>${body.value.follows[0] ?? 0}` : body.case;
    });
    return sent.join(" ");
  }

  readonly ids = new Map<number, number>();

  commit(number: number): void {
    this.requests.handleAnswer(this.nowMs, this.ids.get(number) ?? 0, { case: "committed", value: { $typeName: "seriatim.v1.Committed", seq: BigInt(number), duplicate: false } });
  }

  refuse(number: number, name: ErrorName | number, { retry = false, unknown = false, retryAfterMs = 0 } = {}): void {
    const code = typeof name === "number" ? name : ErrorCode[name];
    const value = create(ErrorSchema, { code, name: String(name), retry, unknown, retryAfterMs });
    this.requests.handleAnswer(this.nowMs, this.ids.get(number) ?? 0, { case: "error", value });
  }

  pass(ms: number): void {
    this.nowMs += ms;
    this.requests.handleTimeout(this.nowMs);
  }

  end(number: number): string {
    return this.#ends.get(number) ?? "open";
  }

  #end(number: number, outcome: Outcome): void {
    assert.equal(this.end(number), "open", "it ends once");
    this.#ends.set(number, "said" in outcome ? outcome.said.case : `${outcome.error.unknown ? "unknown" : "rejected"} ${outcome.error.refusal.name}`);
  }
}

it("C-024 sends of one conversation name the one before while it is open", () => {
  const desk = new Desk();
  desk.send(1);
  desk.send(2);
  desk.send(9, new Uint8Array(), "carol");
  desk.send(3, id(7));
  assert.equal(desk.flush(), "1>0 2>1 9>0 3>7");
  for (const number of [1, 2, 3]) desk.commit(number);
  desk.send(4);
  assert.equal(desk.flush(), "4>0");
});

it("C-061 after a lost connection the same frames are sent again, in the same order", () => {
  const desk = new Desk();
  for (const number of [1, 2, 3]) desk.send(number);
  assert.equal(desk.flush(), "1>0 2>1 3>2");
  desk.commit(1);
  desk.requests.handleLost();
  assert.equal(desk.requests.sentCost, 0);
  assert.equal(desk.flush(), "2>1 3>2");
  assert.equal(desk.requests.sentCost, 2);
});

it("C-063 time over: unknown after an attempt without a verdict, rejected if nothing happened", () => {
  const desk = new Desk();
  desk.send(1);
  desk.flush();
  desk.send(2, id(9), "carol");
  desk.send(3, id(9), "dora");
  desk.pass(999);
  assert.deepEqual([desk.end(1), desk.end(2)], ["open", "open"]);
  desk.pass(1);
  assert.deepEqual([desk.end(1), desk.end(2)], ["unknown TIMEOUT", "rejected TIMEOUT"]);
  const busy = new Desk();
  busy.send(1);
  busy.flush();
  busy.refuse(1, "BUSY", { retry: true, retryAfterMs: 5_000 });
  busy.pass(1_000);
  assert.equal(busy.end(1), "rejected BUSY");
  const perhaps = new Desk();
  perhaps.send(1);
  perhaps.flush();
  perhaps.refuse(1, "TIMEOUT", { retry: true, unknown: true, retryAfterMs: 5_000 });
  perhaps.pass(1_000);
  assert.equal(perhaps.end(1), "unknown TIMEOUT");
});

it("C-063 a client that ends says for each request whether it may have happened", () => {
  const desk = new Desk();
  desk.send(1);
  desk.flush();
  desk.send(2);
  desk.requests.handleEnd({ code: ErrorCode.KICKED, name: "KICKED", message: "", retryAfterMs: 0 });
  assert.deepEqual([desk.end(1), desk.end(2)], ["unknown KICKED", "rejected KICKED"]);
});

it("C-064 after an unknown attempt only a verdict on the id settles it", () => {
  for (const name of Object.keys(ErrorCode) as ErrorName[]) {
    const desk = new Desk();
    desk.send(1);
    desk.query(2);
    desk.flush();
    desk.requests.handleLost();
    desk.flush();
    desk.refuse(1, name);
    desk.refuse(2, name);
    const settled = ["ALREADY_EXISTS", "CANCELLED", "CONFLICT"].includes(name);
    assert.equal(desk.end(1), `${settled ? "rejected" : "unknown"} ${name}`);
    assert.equal(desk.end(2), `rejected ${name}`, "a question changes nothing");
  }
});

it("C-065 what may be retried is, not before it is told; codes that nobody knows too", () => {
  const desk = new Desk();
  desk.send(1);
  desk.flush();
  desk.refuse(1, 4_711, { retry: true, retryAfterMs: 200 });
  desk.pass(199);
  assert.equal(desk.flush(), "");
  desk.pass(101);
  assert.equal(desk.flush(), "1>0");
  desk.refuse(1, 4_711, { unknown: true });
  assert.equal(desk.end(1), "unknown 4711");
  desk.send(2);
  desk.flush();
  desk.refuse(2, 4_711);
  assert.equal(desk.end(2), "rejected 4711");
});

it("C-066 those behind a rejected message follow the one that it followed, new ones too", () => {
  const desk = new Desk();
  for (const number of [1, 2, 3]) desk.send(number);
  desk.flush();
  desk.refuse(1, "BACKLOGGED", { retry: true });
  desk.refuse(3, "OUT_OF_ORDER", { retry: true });
  desk.refuse(2, "CONFLICT");
  assert.equal(desk.end(2), "rejected CONFLICT");
  assert.equal(desk.flush(), "3>1", "parked until its predecessor was settled");
  desk.refuse(3, "CONFLICT");
  desk.send(4);
  assert.equal(desk.flush(), "4>1");
  desk.refuse(4, "OUT_OF_ORDER", { retry: true });
  desk.pass(500);
  assert.equal(desk.flush(), "1>0", "parked behind the first one");
  desk.commit(1);
  assert.equal(desk.flush(), "4>1");
});

it("C-074 those behind an unknown message stay behind it", () => {
  const desk = new Desk();
  for (const number of [1, 2, 3]) desk.send(number);
  assert.equal(desk.flush(), "1>0 2>1 3>2");
  desk.refuse(3, "OUT_OF_ORDER", { retry: true });
  desk.requests.handleLost();
  assert.equal(desk.flush(), "1>0 2>1");
  desk.refuse(2, "NOT_FOUND");
  assert.equal(desk.end(2), "unknown NOT_FOUND", "its first attempt may have happened");
  assert.equal(desk.flush(), "3>2");
});

it("C-086 amendments have their place among the messages", () => {
  const desk = new Desk();
  desk.send(1);
  desk.amend(2);
  desk.send(3);
  assert.equal(desk.flush(), "1>0 2>1 3>2");
  desk.refuse(3, "OUT_OF_ORDER", { retry: true });
  desk.refuse(2, "TOO_LATE");
  assert.equal(desk.end(2), "rejected TOO_LATE");
  assert.equal(desk.flush(), "3>1");
  desk.amend(4);
  assert.equal(desk.flush(), "4>3");
  desk.requests.handleLost();
  desk.flush();
  for (const number of [1, 3]) desk.commit(number);
  desk.send(5);
  assert.equal(desk.flush(), "5>4");
  desk.refuse(5, "OUT_OF_ORDER", { retry: true });
  desk.refuse(4, "RECALLED");
  assert.equal(desk.end(4), "unknown RECALLED");
  assert.equal(desk.flush(), "5>4");
});

it("C-071 the pause doubles from 50 ms to 2 s, with a random part", () => {
  const pauses = (random: number) => [0, 1, 2, 3, 4, 5, 6, 7, 50].map((failures) => reconnectPause(failures, () => random));
  assert.deepEqual(pauses(1), [50, 100, 200, 400, 800, 1_600, 2_000, 2_000, 2_000]);
  assert.deepEqual(pauses(0), [25, 50, 100, 200, 400, 800, 1_000, 1_000, 1_000]);
});
