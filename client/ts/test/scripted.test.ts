// A gateway that follows a script: what the SDK makes of things that a real one does rarely.

import assert from "node:assert/strict";
import { afterEach, it, mock } from "node:test";

import { create, fromBinary, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import fc from "fast-check";

import { concat } from "../src/bytes.js";
import { race, type Attempt } from "../src/dial.js";
import { FrameReader } from "../src/framing.js";
import { ClientFrameSchema, Entry_Body, Entry_Kind, ServerFrameSchema, type ClientFrame } from "../src/gen/seriatim/v1/client_pb.js";
import { Client, ConnectError, ErrorCode, RejectedError, SubscriptionError, UnknownOutcomeError, peer, type ClientOptions, type WebSocketLike } from "../src/index.js";
import { reconnectPause } from "../src/pilot.js";
import { DialError, type Wire } from "../src/wire.js";
import { check, failure, until } from "./world.js";

type Frame = MessageInitShape<typeof ServerFrameSchema>;

/** The gateway's end of one WebSocket. */
class Link implements WebSocketLike {
  binaryType = "";
  readonly protocol = "seriatim-1";
  readonly bufferedAmount = 0;
  onopen: ((event: unknown) => void) | null = null;
  onmessage: ((event: unknown) => void) | null = null;
  onerror: ((event: unknown) => void) | null = null;
  onclose: ((event: unknown) => void) | null = null;
  /** What the device said, Hello and Ping left out. */
  readonly heard: ClientFrame[] = [];
  closed: number | undefined;

  constructor(
    readonly url: string,
    private readonly gateway: Gateway,
  ) {
    setTimeout(() => this.onopen?.({}));
  }

  send(data: Uint8Array): void {
    for (const bytes of new FrameReader().push(data)) {
      const frame = fromBinary(ClientFrameSchema, bytes);
      if (frame.body.case === "ping") {
        this.gateway.pings += 1;
        if (this.gateway.alive) this.say({ requestId: frame.requestId, body: { case: "pong", value: { nonce: frame.body.value.nonce } } });
      } else if (frame.body.case === "hello") {
        this.gateway.hello(this, frame.body.value.token);
      } else {
        this.heard.push(frame);
        this.gateway.script(this, frame);
      }
    }
  }

  close(code = 1000): void {
    this.closed = code;
  }

  /** One message with these frames. */
  say(...frames: Frame[]): void {
    const bytes = frames.map((frame) => toBinary(ServerFrameSchema, create(ServerFrameSchema, frame)));
    this.raw(concat(...bytes.map((frame) => concat(length(frame.length), frame))));
  }

  raw(bytes: Uint8Array): void {
    setTimeout(() => this.onmessage?.({ data: bytes.slice().buffer }));
  }

  /** The end, by the gateway. */
  end(code: number): void {
    setTimeout(() => this.onclose?.({ code, reason: "" }));
  }
}

function length(count: number): Uint8Array {
  return count < 128 ? Uint8Array.of(count) : concat(Uint8Array.of((count & 127) | 128), length(count >> 7));
}

class Gateway {
  readonly links: Link[] = [];
  alive = true;
  pings = 0;
  requests = 256;
  expiresInMs = 0n;
  script: (link: Link, frame: ClientFrame) => void = () => {};
  hello = (link: Link, _token: string): void =>
    link.say({ body: { case: "welcome", value: { tenant: 1, user: "alice", limits: { requests: this.requests }, expiresInMs: this.expiresInMs } } });

  get link(): Link {
    return this.links.at(-1) ?? assert.fail("nobody came");
  }

  async client(options: Partial<ClientOptions> = {}): Promise<Client> {
    const webSocket = (url: string) => {
      const link = new Link(url, this);
      this.links.push(link);
      return link;
    };
    const client = await Client.connect({ addresses: "one.example:1", token: "t", device: "phone", transport: "websocket", webSocket, ...options });
    clients.push(client);
    return client;
  }
}

const clients: Client[] = [];
afterEach(() => clients.splice(0).forEach((client) => client.close()));

const committed = (frame: ClientFrame, seq: bigint): Frame => ({ requestId: frame.requestId, lane: frame.lane, body: { case: "committed", value: { seq } } });
const refused = (frame: ClientFrame, name: keyof typeof ErrorCode, more = {}): Frame => ({
  requestId: frame.requestId,
  lane: frame.lane,
  body: { case: "error", value: { code: ErrorCode[name], name, ...more } },
});
const entry = (seq: number, prevSeq: number) => ({
  seq: BigInt(seq),
  prevSeq: BigInt(prevSeq),
  conversation: { id: { case: "peer" as const, value: "bob" } },
  conversationSeq: BigInt(seq),
  kind: Entry_Kind.MESSAGE,
  sender: "bob",
  messageId: new Uint8Array(16),
  bodyHash: new Uint8Array(16),
  bodyState: Entry_Body.ERASED,
});
const deliver = (inbox: bigint, ...entries: ReturnType<typeof entry>[]): Frame => ({ inbox, body: { case: "deliver", value: { entries } } });
const subscribed = (frame: ClientFrame, subscriptionId: bigint): Frame => ({ requestId: frame.requestId, body: { case: "subscribed", value: { subscriptionId } } });

it("lanes begin with their first frames, rise, and calls end theirs", async () => {
  const gateway = new Gateway();
  gateway.script = (link, frame) => {
    if (frame.body.case === "status") link.say({ requestId: frame.requestId, lane: frame.lane, end: true, body: { case: "statusPage", value: {} } });
    else if (frame.body.case === "send") link.say(committed(frame, 1n));
    else link.say({ requestId: frame.requestId, body: { case: "acked", value: { cursor: 5n } } });
  };
  const client = await gateway.client();
  await client.status();
  await client.send(peer("bob"), "hi");
  await client.status();
  await client.send(peer("bob"), "hi");
  await client.ack(5n);
  assert.deepEqual(gateway.link.heard.map(({ body, lane, end }) => [body.case, lane, end]), [
    ["status", 1n, true],
    ["send", 2n, false],
    ["status", 3n, true],
    ["send", 2n, false],
    ["ack", 0n, false],
  ]);
});

it("C-061 what has no answer is sent again on the next connection, in the same order and with the same bytes", async () => {
  const gateway = new Gateway();
  const client = await gateway.client();
  const sends = ["one", "two", "three"].map((body) => client.send(peer("bob"), body));
  await until("all are there", () => gateway.link.heard.length === 3);
  const first = gateway.link;
  gateway.script = (link, frame) => link.say(committed(frame, BigInt(link.heard.length)));
  first.end(1006);
  assert.deepEqual((await Promise.all(sends)).map(({ seq }) => seq), [1n, 2n, 3n]);
  assert.equal(client.connections, 2);
  assert.deepEqual(gateway.link.heard.map(({ body }) => body), first.heard.map(({ body }) => body));
});

it("C-063 without an answer in time the outcome is unknown, and the same request settles it", async () => {
  const gateway = new Gateway();
  const client = await gateway.client({ requestTimeoutMs: 50 });
  const request = client.prepare(peer("bob"), "hi");
  const error = await failure(UnknownOutcomeError, client.sendRequest(request));
  assert.deepEqual([error.unknown, error.refusal.code], [true, ErrorCode.TIMEOUT]);
  const first = gateway.link;
  gateway.script = (link, frame) => link.say(committed(frame, 4n));
  // The patience of another client, so that the answer may take as long as it likes.
  assert.equal((await (await gateway.client()).sendRequest(request)).seq, 4n);
  assert.notEqual(gateway.link, first);
  assert.deepEqual(gateway.link.heard.map(({ body }) => body), first.heard.map(({ body }) => body));
});

it("C-065 an error with retry is tried again until it is answered", async () => {
  const gateway = new Gateway();
  gateway.script = (link, frame) => link.say(link.heard.length < 4 ? refused(frame, "NOT_LEADER", { retry: true }) : committed(frame, 1n));
  const client = await gateway.client();
  await client.send(peer("bob"), "hi");
  assert.equal(gateway.link.heard.length, 4);
});

it("what is under way stays below the gateway's limit, and everything is answered", async () => {
  const gateway = new Gateway();
  gateway.requests = 40;
  const open: [Link, ClientFrame][] = [];
  let most = 0;
  gateway.script = (link, frame) => {
    open.push([link, frame]);
    most = Math.max(most, open.reduce((sum, [, { body }]) => sum + (body.case === "sync" ? 32 : 1), 0));
    setTimeout(() => {
      const [link, frame] = open.shift() ?? assert.fail();
      if (frame.body.case === "sync") link.say({ requestId: frame.requestId, lane: frame.lane, end: true, body: { case: "syncPage", value: { upto: 1n, trim: 1n, tail: 1n } } });
      else link.say(committed(frame, 1n));
    });
  };
  const client = await gateway.client();
  await Promise.all([...Array.from({ length: 60 }, () => client.send(peer("bob"), "hi")), ...Array.from({ length: 4 }, () => client.sync(1n))]);
  assert(most < 40, `${most} under way`);
});

it("C-067 a gap, Lagging and the end of the inbox stream are repaired, and the reader notices nothing", async () => {
  const gateway = new Gateway();
  let subscription = 0n;
  gateway.script = (link, frame) => {
    const { body, lane, requestId } = frame;
    if (body.case === "subscribe") {
      subscription += 1n;
      const id = subscription;
      const from = Number(body.value.from);
      // Entries come before the answer too: they are of another stream.
      if (from === 1) link.say(deliver(id, entry(1, 0)), subscribed(frame, id), deliver(id, entry(5, 4), entry(6, 5)));
      if (from === 6) link.say(subscribed(frame, id), { inbox: id, body: { case: "lagging", value: { subscriptionId: id, upto: 9n } } });
      if (from === 9) link.say(subscribed(frame, id), { inbox: id, optional: true, end: true });
      if (from === 11) link.say(subscribed(frame, id), deliver(id - 1n, entry(98, 97)), deliver(id, entry(10, 8), entry(12, 10)));
    } else if (body.case === "sync") {
      const pages: Record<string, [number[], number]> = { "2": [[2, 4, 5], 6], "6": [[6, 8], 9], "9": [[10], 11] };
      const [seqs = [], upto = 0] = pages[String(body.value.from)] ?? [];
      const entries = seqs.map((seq, at) => entry(seq, seqs[at - 1] ?? 1));
      link.say({ requestId, lane, end: true, body: { case: "syncPage", value: { entries, upto: BigInt(upto), trim: 1n, tail: 20n } } });
    }
  };
  const client = await gateway.client();
  const seqs: bigint[] = [];
  for await (const { seq } of client.subscribe()) {
    seqs.push(seq);
    if (seq === 12n) break;
  }
  assert.deepEqual(seqs, [1n, 2n, 4n, 5n, 6n, 8n, 10n, 12n]);
  assert.equal(client.connections, 1);
});

it("C-065 a Subscribe that is refused for now is said again in its time, from the same position", async () => {
  const gateway = new Gateway();
  const times: number[] = [];
  gateway.script = (link, frame) => {
    if (frame.body.case !== "subscribe") return;
    assert.equal(frame.body.value.from, 1n);
    times.push(performance.now());
    const id = BigInt(times.length);
    if (times.length <= 2) link.say(refused(frame, "BUSY", { retry: true, retryAfterMs: 100 }));
    else link.say(subscribed(frame, id), deliver(id, entry(1, 0)));
  };
  const client = await gateway.client();
  const first = await client.subscribe().next();
  assert.equal(first.value?.seq, 1n);
  const [one = 0, two = 0, three = 0] = times;
  assert(two - one >= 100 && three - two >= 100, times.join(" "));
  assert.equal(client.connections, 1);
});

it("C-067 an entry that cannot be one ends the subscription: it is not left out", async () => {
  const gateway = new Gateway();
  gateway.script = (link, frame) => link.say(subscribed(frame, 1n), deliver(1n, entry(1, 0), { ...entry(2, 1), messageId: new Uint8Array(15) }));
  const client = await gateway.client();
  const error = await failure(SubscriptionError, client.subscribe().next());
  assert.equal(error.refusal?.code, ErrorCode.MALFORMED);
});

it("C-068 what waits for a reader who does not read is bounded by the credit, over any number of connections", async () => {
  const gateway = new Gateway();
  let credit = 0;
  let pushed = 0;
  gateway.script = (link, frame) => {
    if (frame.body.case === "subscribe") {
      link.say(subscribed(frame, 1n));
      credit = Number(frame.body.value.credit);
      pushed = Number(frame.body.value.from) - 1;
    } else if (frame.body.case === "credit") {
      credit += Number(frame.body.value.entries);
    }
    const entries = Array.from({ length: credit }, (_, at) => entry(pushed + at + 1, pushed + at));
    pushed += credit;
    credit = 0;
    link.say(deliver(1n, ...entries));
  };
  const client = await gateway.client();
  const inbox = client.subscribe({ window: 16 });
  await until("all credit is used", () => pushed === 16);
  for (const connections of [2, 3, 4]) {
    gateway.link.end(1006);
    await until("it is back", () => client.connections === connections);
  }
  assert.equal(pushed, 16, "not one entry more");
  for (let seq = 1n; seq <= 200n; seq += 1n) assert.equal((await inbox.next()).value?.seq, seq);
  assert(pushed <= 216, `${pushed} pushed to a reader of 200`);
});

it("C-070 after GoAway the client goes on elsewhere once everything is answered", async () => {
  const gateway = new Gateway();
  const client = await gateway.client({ addresses: ["one.example:1", "two.example:2"] });
  const first = gateway.link;
  const [slow, behind] = [client.send(peer("bob"), "under way"), undefined];
  assert.equal(behind, undefined);
  await until("it is there", () => first.heard.length === 1);
  first.say({ body: { case: "goAway", value: { drainMs: 60_000 } } });
  await new Promise((resolve) => setTimeout(resolve, 5));
  gateway.script = (link, frame) => link.say(committed(frame, 2n));
  const next = client.send(peer("carol"), "behind");
  first.say(committed(first.heard[0] ?? assert.fail(), 1n));
  assert.equal((await slow).seq, 1n);
  assert.equal((await next).seq, 2n);
  assert.equal(first.heard.length, 1, "nothing new went to the one that goes down");
  assert.deepEqual([first.closed, gateway.link.url, client.connections], [1000, "wss://two.example:2/seriatim-1", 2]);
});

it("C-070 with a single gateway the client waits for its end", async () => {
  const gateway = new Gateway();
  gateway.script = (link, frame) => link.say(committed(frame, 1n));
  const client = await gateway.client();
  gateway.link.say({ body: { case: "goAway", value: { drainMs: 10 } } });
  await client.send(peer("bob"), "still here");
  gateway.link.end(4009);
  await until("it is back", () => client.connections === 2);
});

it("C-071 a gateway that throws devices out is asked ever more rarely", async () => {
  const gateway = new Gateway();
  const client = await gateway.client();
  const began = performance.now();
  for (let times = 1; times <= 6; times += 1) {
    await until(`connection ${times}`, () => client.connections === times);
    gateway.link.end(4009);
  }
  await until("the last one", () => client.connections === 7);
  const least = [0, 1, 2, 3, 4, 5].reduce((sum, failures) => sum + reconnectPause(failures, () => 0), 0);
  assert(performance.now() - began >= least, `six pauses took ${performance.now() - began} ms`);
});

it("C-011 a refusal for good ends everything that is open", async () => {
  const gateway = new Gateway();
  const client = await gateway.client();
  const [sent, read] = [client.send(peer("bob"), "hi"), client.subscribe().next()];
  await until("it is there", () => gateway.link.heard.length === 2);
  gateway.link.end(4007);
  assert.equal((await failure(UnknownOutcomeError, sent)).refusal.code, ErrorCode.KICKED);
  assert.equal((await failure(SubscriptionError, read)).refusal?.code, ErrorCode.KICKED);
  await failure(RejectedError, client.send(peer("bob"), "more"));
  await failure(SubscriptionError, client.subscribe().next());
  assert.equal(gateway.links.length, 1);
});

it("C-012 a token that ends in a session is replaced by a fresh one", async () => {
  const gateway = new Gateway();
  const tokens: string[] = [];
  const welcome = gateway.hello;
  gateway.hello = (link, token) => {
    tokens.push(token);
    welcome(link, token);
  };
  let count = 0;
  const client = await gateway.client({ token: async () => `token ${(count += 1)}` });
  gateway.link.end(4006);
  await until("it is back", () => client.connections === 2);
  assert.deepEqual(tokens, ["token 1", "token 2"]);
});

it("a token provider that fails is asked again", async () => {
  const gateway = new Gateway();
  let count = 0;
  const token = async () => {
    count += 1;
    if (count < 3) throw new Error("no token now");
    return "t";
  };
  await gateway.client({ token });
  assert.equal(count, 3);
});

it("no gateway in time is an error with the last reason", async () => {
  const gateway = new Gateway();
  gateway.hello = (link) => link.end(4011);
  const error = await failure(ConnectError, gateway.client({ connectTimeoutMs: 200 }));
  assert.equal(error.reason, "timeout");
  assert.match(error.message, /closed with code 11/);
});

it("a device that only listens says Ping within 15 s: what it hears does not keep it alive", async () => {
  const gateway = new Gateway();
  const client = await gateway.client();
  const inbox = client.subscribe();
  const waiting = inbox.next();
  await until("it is there", () => gateway.link.heard.length === 1);
  const real = performance.now.bind(performance);
  let skewMs = 0;
  const clock = mock.method(performance, "now", () => real() + skewMs);
  try {
    for (const pings of [1, 2]) {
      skewMs += 15_000;
      gateway.link.say(subscribed(gateway.link.heard[0] ?? assert.fail(), 1n), deliver(1n, entry(1, 0)));
      await until("it says Ping", () => gateway.pings === pings);
    }
  } finally {
    clock.mock.restore();
  }
  assert.equal((await waiting).value?.seq, 1n);
  assert.equal(client.connections, 1);
});

it("a gateway that is silent is left, and one that is slow is not", async () => {
  const gateway = new Gateway();
  const client = await gateway.client();
  const sent = client.send(peer("bob"), "hi");
  // Pongs come: it is there, and takes longer than a doubt and a silence.
  await new Promise((resolve) => setTimeout(resolve, 6_500));
  assert.equal(client.connections, 1);
  gateway.script = (link, frame) => link.say(committed(frame, 1n));
  gateway.alive = false;
  assert.equal((await sent).seq, 1n);
  assert.equal(client.connections, 2);
});

it("C-004 whatever a gateway says, the client goes on with the next connection", async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 60 }), async (bytes) => {
      const gateway = new Gateway();
      const client = await gateway.client();
      const inbox = client.subscribe();
      const reader = inbox.next().catch((error: unknown) => check(error instanceof SubscriptionError, String(error)));
      await until("it is there", () => gateway.link.heard.length === 1);
      gateway.link.say(subscribed(gateway.link.heard[0] ?? assert.fail(), 1n));
      gateway.link.raw(concat(length(bytes.length), bytes));
      gateway.link.raw(bytes);
      gateway.script = (link, frame) => link.say(committed(frame, 1n));
      const { seq } = await client.send(peer("bob"), "hi").catch((error: unknown) => {
        // By chance it was an answer, or the end.
        check(error instanceof RejectedError || error instanceof UnknownOutcomeError, String(error));
        return { seq: 1n };
      });
      check(seq > 0n, "a place");
      client.close();
      await reader;
    }),
    { numRuns: 50 },
  );
});

// ---- which way in ----

const wire = (name: string, closed: string[]): Wire =>
  ({ name, close: () => closed.push(name) }) as unknown as Wire;

/** An attempt that ends after so many milliseconds; it is told to give up, and comes all the same. */
function after(ms: number, end: Wire | DialError, log: string[], name: string): Attempt {
  return () => {
    log.push(name);
    return new Promise((resolve, reject) => setTimeout(() => (end instanceof DialError ? reject(end) : resolve(end)), ms));
  };
}

it("the second way begins after its time or the first one's failure; the slower one is closed", async () => {
  const { signal } = new AbortController();
  const closed: string[] = [];
  const [one, two] = [wire("one", closed), wire("two", closed)];
  const log: string[] = [];
  assert.equal(await race(after(5, one, log, "one"), after(5, two, log, "two"), 5_000, signal), one);
  assert.deepEqual(log, ["one"], "the second one never began");
  let finish = () => {};
  const late: Attempt = () => new Promise((resolve) => (finish = () => resolve(one)));
  assert.equal(await race(late, after(1, two, log, "two"), 20, signal), two);
  finish();
  await until("the slower one is closed", () => closed.includes("one"));
  const failed = new DialError("retry", "no UDP");
  assert.equal(await race(after(1, failed, log, "one"), after(1, two, log, "two"), 60_000, signal), two);
  const final = new DialError("handshake", "a box that shows a certificate of its own");
  assert.equal(await race(after(1, final, log, "one"), after(1, two, log, "two"), 60_000, signal), two);
  await assert.rejects(race(after(1, final, log, "one"), after(1, failed, log, "two"), 60_000, signal), final);
  await assert.rejects(race(after(1, failed, log, "one"), after(1, final, log, "two"), 60_000, signal), final);
});

it("C-103 a source that fails, and one whose token is refused, is asked again", async () => {
  const gateway = new Gateway();
  gateway.expiresInMs = 1_000n;
  gateway.script = (link, frame) => {
    if (frame.body.case !== "renew") return;
    if (frame.body.value.token === "refused") link.say(refused(frame, "AUTH_FAILED"));
    else link.say({ requestId: frame.requestId, body: { case: "renewed", value: { expiresInMs: 3_600_000n } } });
  };
  const tokens = ["first", undefined, "refused", "good"];
  const token = async () => tokens.shift() ?? Promise.reject(new Error("the issuer is away"));
  const client = await gateway.client({ token });
  const shown = () => gateway.link.heard.flatMap(({ body }) => (body.case === "renew" ? [body.value.token] : []));
  await until("it is renewed", () => shown().length === 2);
  assert.deepEqual(shown(), ["refused", "good"]);
  assert.equal(client.connections, 1);
});

it("C-103 a gateway that says no end is not asked to renew", async () => {
  const gateway = new Gateway();
  gateway.script = (link, frame) => link.say(committed(frame, 1n));
  let asked = 0;
  const client = await gateway.client({ token: () => `${(asked += 1)}` });
  await client.send(peer("bob"), "hi");
  assert.equal(asked, 1);
  assert.deepEqual(gateway.link.heard.map(({ body }) => body.case), ["send"]);
});
