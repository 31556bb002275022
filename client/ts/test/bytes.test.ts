// Bytes: the vectors and tables of docs/protocol.md, and decoders held against anything.

import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { it } from "node:test";
import { fileURLToPath } from "node:url";

import { create, fromBinary, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import fc from "fast-check";

import { concat, fromHex, hex, utf8 } from "../src/bytes.js";
import { bodyHash, bodyMatches, headerBytes, link, verifyPage } from "../src/chain.js";
import { emptyChain, entryFromWire, type Entry, type SyncPage } from "../src/entry.js";
import { ChainError, ErrorCode, ProtocolError } from "../src/errors.js";
import { clientFrame, decodeServerFrame, encodeFrame, FrameReader } from "../src/framing.js";
import { AmendSchema, ClientFrameSchema, Entry_Body, Entry_Kind, EntrySchema, ServerFrameSchema } from "../src/gen/seriatim/v1/client_pb.js";
import { FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, NAME_BYTES_MAX, PAGE_COST, REQUESTS_MAX } from "../src/limits.js";

// From build/test: the repository's page, not a copy of it.
const PAGE = readFileSync(fileURLToPath(new URL("../../../../docs/protocol.md", import.meta.url)), "utf8");

/** The rows of all tables behind a heading and under these column names, cells without backticks. */
function table(heading: string, ...columns: string[]): string[][] {
  const section = PAGE.split(`\n## ${heading}\n`)[1]?.split("\n## ")[0] ?? "";
  const tables = section.split(`| ${columns.join(" | ")} |\n`).slice(1);
  const rows = tables.flatMap((text) => {
    const lines = [...text.split("\n").slice(1), ""];
    return lines.slice(0, lines.findIndex((line) => !line.startsWith("|")));
  });
  assert(rows.length > 0, `a table in ${heading}`);
  return rows.map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim().replaceAll("`", "")));
}

const vectors = new Map(table("Vectors", "frame", "bytes").map(([name = "", bytes = ""]) => [name, fromHex(bytes.replaceAll(" ", ""))]));
const chains = new Map(table("Vectors", "value", "bytes").map(([name = "", bytes = ""]) => [name, fromHex(bytes.replaceAll(" ", ""))]));

const messageId = fromHex("000102030405060708090a0b0c0d0e0f");
const salt = fromHex("01020304");

type Device = MessageInitShape<typeof ClientFrameSchema>;
type Gateway = MessageInitShape<typeof ServerFrameSchema>;
type Act = NonNullable<MessageInitShape<typeof AmendSchema>["act"]>;

/** Of 9, by the id and in the conversation of the page. */
function amend(act: Act): Device {
  return { requestId: 10n, body: { case: "amend", value: { messageId, conversation: { id: { case: "peer", value: "bob" } }, target: 9n, act } } };
}

const DEVICE: Record<string, Device> = {
  "Hello, request 1": { requestId: 1n, body: { case: "hello", value: { token: "abc", device: "phone" } } },
  "Ping, request 7, nonce 3": { requestId: 7n, body: { case: "ping", value: { nonce: 3n } } },
  "Subscribe from 1, credit 100, request 2": { requestId: 2n, body: { case: "subscribe", value: { from: 1n, credit: 100n } } },
  "Ack of everything below 300, request 3": { requestId: 3n, body: { case: "ack", value: { cursor: 300n } } },
  'Send "hi" to bob, request 4': {
    requestId: 4n,
    body: { case: "send", value: { messageId, conversation: { id: { case: "peer", value: "bob" } }, salt, body: utf8("hi") } },
  },
  'Amend: edit 9 to "ho", request 10': amend({ case: "edit", value: { salt, body: utf8("ho") } }),
  "Amend: recall 9, request 10": amend({ case: "recall", value: {} }),
  "Amend: react to 9 with +, request 10": amend({ case: "react", value: { emoji: "+" } }),
  "Amend: unpin 9, request 10": amend({ case: "pin", value: { unset: true } }),
  "Mark: bob's read up to 300, request 11": {
    requestId: 11n,
    body: { case: "mark", value: { conversation: { id: { case: "peer", value: "bob" } }, what: { case: "readUpto", value: 300n } } },
  },
  "Renew by the token, request 13": { requestId: 13n, body: { case: "renew", value: { token: "abc" } } },
  "List, request 12": { requestId: 12n, body: { case: "list", value: {} } },
  "Sync from 1, request 5": { requestId: 5n, body: { case: "sync", value: { from: 1n } } },
  "Status, request 6": { requestId: 6n, body: { case: "status", value: {} } },
  "Next 10 of orders, request 8": { requestId: 8n, body: { case: "next", value: { counter: "orders", count: 10 } } },
  "Current of orders, request 9": { requestId: 9n, body: { case: "current", value: { counter: "orders" } } },
  "on a WebSocket: Ping, request 7, nonce 3, control stream": { requestId: 7n, body: { case: "ping", value: { nonce: 3n } } },
  "on a WebSocket: Status, request 6, lane 2, the device's last frame": { requestId: 6n, lane: 2n, end: true, body: { case: "status", value: {} } },
  "on a WebSocket: the device ends lane 1": { optional: true, lane: 1n, end: true },
};
const GATEWAY: Record<string, Gateway> = {
  "Numbers 41 to 50, request 8": { requestId: 8n, body: { case: "numbers", value: { first: 41n, count: 10 } } },
  "CurrentNumber 51, request 9": { requestId: 9n, body: { case: "currentNumber", value: { number: 51n } } },
  "Renewed for an hour, request 13": { requestId: 13n, body: { case: "renewed", value: { expiresInMs: 3_600_000n } } },
  "Committed at 9, request 4": { requestId: 4n, body: { case: "committed", value: { seq: 9n } } },
  "Error CONFLICT, request 4": { requestId: 4n, body: { case: "error", value: { code: ErrorCode.CONFLICT, name: "CONFLICT" } } },
  "Lagging, subscription 1, tail 41": { body: { case: "lagging", value: { subscriptionId: 1n, upto: 41n } } },
  "on a WebSocket: Committed at 9, request 4, lane 1": { requestId: 4n, lane: 1n, body: { case: "committed", value: { seq: 9n } } },
  "on a WebSocket: Lagging, subscription 1, tail 41, its inbox stream": { inbox: 1n, body: { case: "lagging", value: { subscriptionId: 1n, upto: 41n } } },
  "on a WebSocket: the inbox stream of subscription 1 ends": { optional: true, end: true, inbox: 1n },
};

/** The only frame of these bytes. */
function frameIn(bytes: Uint8Array): Uint8Array {
  const reader = new FrameReader();
  const [frame, ...more] = reader.push(bytes);
  assert(frame !== undefined && more.length === 0 && !reader.inside);
  return frame;
}

it("C-001 every vector is encoded to its bytes, and decoded from them", () => {
  assert.deepEqual([...vectors.keys()].sort(), [...Object.keys(DEVICE), ...Object.keys(GATEWAY)].sort());
  for (const [name, init] of Object.entries(DEVICE)) {
    const bytes = vectors.get(name) ?? assert.fail(name);
    // On a WebSocket the page's program writes the place behind the body; protobuf's order of fields is free.
    if (!("lane" in init)) assert.equal(hex(encodeFrame(clientFrame(init))), hex(bytes), name);
    else assert.equal(encodeFrame(clientFrame(init)).length, bytes.length, name);
    assert.deepEqual(fromBinary(ClientFrameSchema, frameIn(bytes)), clientFrame(init), name);
  }
  for (const [name, init] of Object.entries(GATEWAY)) {
    const bytes = vectors.get(name) ?? assert.fail(name);
    assert.deepEqual(decodeServerFrame(frameIn(bytes)), create(ServerFrameSchema, init), name);
  }
});

const first: Entry = entryFromWire(
  create(EntrySchema, {
    seq: 1n,
    ordinal: 1n,
    conversation: { id: { case: "peer", value: "bob" } },
    conversationSeq: 9n,
    kind: Entry_Kind.MESSAGE,
    sender: "alice",
    messageId,
    atMs: 1000n,
    bodyHash: bodyHash(salt, utf8("hi")),
    bodyState: Entry_Body.HERE,
    salt,
    body: utf8("hi"),
  }),
);

it("C-002 body hash, header and chain of the vector", () => {
  assert.equal(hex(first.bodyHash), hex(chains.get("body hash") ?? assert.fail()));
  const header = headerBytes("alice", first);
  assert.equal(hex(header), hex(chains.get("header") ?? assert.fail()));
  assert.equal(hex(link(emptyChain(), 0n, 1n, header)), hex(chains.get("chain") ?? assert.fail()));
});

const reaction: Entry = {
  ...first,
  seq: 2n,
  prevSeq: 1n,
  conversationSeq: 10n,
  kind: "reaction",
  target: 9n,
  emoji: "+",
  bodyHash: bodyHash(new Uint8Array(), concat(Uint8Array.of(1), utf8("+"))),
  body: { state: "here", salt: new Uint8Array(), bytes: new Uint8Array() },
};

it("C-002 C-081 body hash, header and chain of the reaction", () => {
  assert.equal(hex(reaction.bodyHash), hex(chains.get("body hash of the reaction") ?? assert.fail()));
  assert(bodyMatches(reaction));
  const header = headerBytes("alice", reaction);
  assert.equal(hex(header), hex(chains.get("header of the reaction") ?? assert.fail()));
  assert.equal(hex(link(chains.get("chain") ?? assert.fail(), 1n, 2n, header)), hex(chains.get("chain of the reaction") ?? assert.fail()));
});

it("C-006 C-081 a changed amendment or mark breaks the chain", () => {
  const [one, other] = [headerBytes("alice", first), headerBytes("alice", reaction)];
  const chain = link(link(emptyChain(), 0n, 1n, one), 1n, 2n, other);
  const paged = (change: Partial<Entry>): SyncPage => ({ entries: [first, { ...reaction, ...change }], upto: 3n, more: false, tooLong: false, trim: 1n, tail: 3n, chain });
  assert.equal(hex(verifyPage("alice", paged({}))), hex(chain));
  for (const change of [{ target: 8n }, { emoji: "-" }, { emoji: "" }, { unset: true }, { kind: "pin" }, { kind: "edit" }] as Partial<Entry>[]) {
    assert.throws(() => verifyPage("alice", paged(change)), ChainError, JSON.stringify(change, (_, value: unknown) => (typeof value === "bigint" ? String(value) : value)));
  }
  for (const kind of ["mute", "archive"] as const) {
    const mark: Entry = { ...first, kind, bodyHash: bodyHash(new Uint8Array(), new Uint8Array()), body: reaction.body };
    assert(bodyMatches(mark));
    assert.notEqual(hex(headerBytes("alice", mark)), hex(headerBytes("alice", { ...mark, unset: true })));
  }
});

it("C-002 the smaller of two names is that with the smaller bytes, as UTF-16 would not have it", () => {
  // U+FF61 is below U+1F600 in UTF-8, and above its surrogates in UTF-16.
  const header = (user: string, peer: string) => hex(headerBytes(user, { ...first, conversation: { peer } }));
  assert.equal(header("\u{1f600}", "\uff61"), header("\uff61", "\u{1f600}"));
  assert(header("\u{1f600}", "\uff61").startsWith(`010003${hex(utf8("\uff61"))}04${hex(utf8("\u{1f600}"))}`));
});

/** Five entries of alice's inbox, each with its chain. */
function page(): SyncPage {
  const entries: Entry[] = [];
  let chain = emptyChain();
  for (const at of [1n, 2n, 3n, 4n, 5n]) {
    const [seq, prevSeq] = [at * 2n, at === 1n ? 0n : at * 2n - 2n];
    const body = utf8(`text ${at}`);
    const entry = { ...first, seq, prevSeq, ordinal: at, conversationSeq: at, bodyHash: bodyHash(salt, body), body: { state: "here" as const, salt, bytes: body } };
    chain = link(chain, prevSeq, seq, headerBytes("alice", entry));
    entries.push({ ...entry, chain });
  }
  return { entries, upto: 11n, more: false, tooLong: false, trim: 1n, tail: 11n, chain };
}

it("C-006 a changed body, a left-out entry, a changed header and a changed order break the chain", () => {
  const whole = page();
  assert.equal(hex(verifyPage("alice", whole)), hex(whole.chain));
  assert.equal(hex(verifyPage("alice", { ...whole, entries: whole.entries.slice(2) }, whole.entries[1]?.chain)), hex(whole.chain), "from the middle");
  const broken = (change: (entries: Entry[]) => void): string => {
    const { entries, ...rest } = page();
    const changed = [...entries];
    change(changed);
    try {
      verifyPage("alice", { ...rest, entries: changed });
    } catch (error) {
      if (error instanceof ChainError) return `${error.reason} ${error.seq}`;
      throw error;
    }
    return "no error";
  };
  const at = (entries: Entry[], index: number) => entries[index] ?? assert.fail();
  assert.equal(broken((entries) => (entries[2] = { ...at(entries, 2), body: { state: "here", salt, bytes: utf8("other") } })), "body 6");
  assert.equal(broken((entries) => (entries[2] = { ...at(entries, 2), sender: "carol" })), "broken 6");
  assert.equal(broken((entries) => (entries[2] = { ...at(entries, 2), kind: "members" })), "broken 6");
  assert.equal(broken((entries) => entries.splice(2, 1)), "predecessor 8");
  assert.equal(broken((entries) => entries.splice(0, 1)), "broken 4");
  assert.equal(broken((entries) => entries.pop()), "broken 8");
  assert.equal(broken((entries) => ([entries[1], entries[2]] = [at(entries, 2), at(entries, 1)])), "predecessor 6");
});

it("C-003 the same frames come out, however the bytes are cut", () => {
  const frames = fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 20 });
  fc.assert(
    fc.property(frames, fc.array(fc.integer({ min: 1, max: 97 }), { minLength: 1, maxLength: 30 }), (frames, cuts) => {
      const length = (frame: Uint8Array) => (frame.length < 128 ? [frame.length] : [(frame.length & 127) | 128, frame.length >> 7]);
      const bytes = concat(...frames.flatMap((frame) => [Uint8Array.from(length(frame)), frame]));
      const reader = new FrameReader();
      const read: Uint8Array[] = [];
      for (let [at, turn] = [0, 0]; at < bytes.length; turn += 1) {
        const size = cuts[turn % cuts.length] ?? 1;
        read.push(...reader.push(bytes.subarray(at, at + size)));
        at += size;
      }
      assert(!reader.inside);
      assert.deepEqual(read.map(hex), frames.map(hex));
    }),
  );
});

it("C-004 a length above the limit and one of more than five bytes are refused before anything is read", () => {
  const code = (bytes: number[]) => {
    try {
      new FrameReader().push(Uint8Array.from(bytes));
    } catch (error) {
      return error instanceof ProtocolError ? error.code : String(error);
    }
    return "no error";
  };
  assert.equal(code([0x80, 0x80, 0x10]), "no error", "262,144");
  assert.equal(code([0x81, 0x80, 0x10]), "FRAME_TOO_LARGE", "262,145");
  assert.equal(code([0xff, 0xff, 0xff, 0xff, 0x7f]), "FRAME_TOO_LARGE");
  assert.equal(code([0x80, 0x80, 0x80, 0x80, 0x80, 0x00]), "MALFORMED");
  assert.throws(() => decodeServerFrame(Uint8Array.of(0xff)), ProtocolError);
});

it("C-004 bytes of any kind give frames or a protocol error, and nothing else", () => {
  const only = (act: () => unknown) => {
    try {
      act();
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
    }
  };
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      only(() => decodeServerFrame(bytes));
      only(() => new FrameReader().push(bytes).forEach(decodeServerFrame));
      only(() => {
        const { body } = decodeServerFrame(concat(Uint8Array.of(0x72, bytes.length & 0x7f), bytes));
        if (body.case === "deliver") body.value.entries.forEach(entryFromWire);
      });
    }),
    { numRuns: 2_000 },
  );
});

it("C-005 fields and bodies that are not known are passed over, and what comes behind is read", () => {
  // Field 99 with a text, field 1,000 as the body of a frame of tomorrow.
  const unknown = concat(Uint8Array.of(0x08, 0x07, 0x9a, 0x06, 0x02, 0x68, 0x69, 0xc2, 0x3e, 0x01, 0x00));
  const known = toBinary(ServerFrameSchema, create(ServerFrameSchema, GATEWAY["Committed at 9, request 4"]));
  const frames = new FrameReader().push(concat(Uint8Array.of(unknown.length), unknown, Uint8Array.of(known.length), known)).map(decodeServerFrame);
  assert.deepEqual(frames.map(({ requestId, body }) => [requestId, body.case]), [[7n, undefined], [4n, "committed"]]);
});

it("the codes are those of the page", () => {
  const rows = table("Errors", "code", "name", "retry", "this attempt", "close", "meaning");
  assert.deepEqual(Object.fromEntries(rows.map(([code, name]) => [name, Number(code)])), ErrorCode);
});

const conformance = fileURLToPath(new URL("../../../../docs/conformance.md", import.meta.url));
const skip = existsSync(conformance) ? false : "no docs/conformance.md here";
it("every case of conformance that judges an SDK has a test here, and every number here is one of its cases", { skip }, () => {
  const cases = [...readFileSync(conformance, "utf8").matchAll(/^\| (C-\d{3}) \| (\w+) \|/gm)].map(([, number = "", judges = ""]) => ({ number, judges }));
  const folder = fileURLToPath(new URL("../../test/", import.meta.url));
  const tests = readdirSync(folder).map((name) => readFileSync(`${folder}${name}`, "utf8"));
  const here = new Set(tests.flatMap((text) => text.match(/C-\d{3}/g) ?? []));
  assert.deepEqual(cases.filter(({ number, judges }) => judges !== "gateway" && !here.has(number)), []);
  assert.deepEqual([...here].filter((number) => !cases.some((one) => one.number === number)), []);
});

it("the limits are those of the page", () => {
  const limits = new Map(table("Limits", "limit", "value").map(([limit, value]) => [limit, Number(value)]));
  assert.equal(limits.get("frame"), FRAME_BYTES_MAX);
  assert.equal(limits.get("body of a message"), MESSAGE_BYTES_MAX);
  assert.equal(limits.get("name of a user, device or counter"), NAME_BYTES_MAX);
  assert.equal(limits.get("requests without an answer"), REQUESTS_MAX);
  assert.match(PAGE, new RegExp(`Sync, History and List count for ${PAGE_COST}\\.`));
});
