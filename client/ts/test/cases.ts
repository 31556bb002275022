// Cases: numbered as in docs/conformance.md; each runs on every platform and way in that there is.

import { concat, randomBytes, utf8 } from "../src/bytes.js";
import {
  Client,
  ConnectError,
  ErrorCode,
  MemoryCursorStore,
  RejectedError,
  SubscriptionError,
  emptyChain,
  newMessageId,
  peer,
  group as groupOf,
  textOf,
  verifyPage,
  type Conversation,
  type Entry,
  type RequestError,
  type SubscribeOptions,
  type Transport,
} from "../src/index.js";
import { PATIENCE_MS, check, failure, same, until, type Platform, type TokenOptions, type World } from "./world.js";

/** What a case is given, and closes behind itself. */
class Scene {
  readonly #open: Client[] = [];
  constructor(
    readonly world: World,
    readonly platform: Platform,
    private readonly name: string,
  ) {}

  /** A user of this case alone. */
  user(name: string): string {
    return `${this.world.prefix}-${this.name}-${name}`;
  }

  peer(name: string): Conversation {
    return peer(this.user(name));
  }

  /** A connected device of a user. */
  async device(name: string, device = "phone", options: { token?: TokenOptions; addresses?: readonly string[] } = {}): Promise<Client> {
    const token = () => this.world.token(this.user(name), options.token);
    return this.connect({ token, device, addresses: options.addresses ?? [this.world.gateways[0] ?? ""] });
  }

  async connect(options: { token: string | (() => string | Promise<string>); device: string; addresses?: readonly string[]; transport?: Transport }): Promise<Client> {
    const { transport, gateways } = this.world;
    const client = await Client.connect({
      addresses: [gateways[0] ?? ""],
      transport,
      connectTimeoutMs: PATIENCE_MS,
      requestTimeoutMs: PATIENCE_MS,
      ...this.platform,
      ...options,
    });
    this.#open.push(client);
    return client;
  }

  close(): void {
    for (const client of this.#open) client.close();
  }
}

/** The next entries of a subscription; it goes on. */
async function take(subscription: AsyncIterator<Entry>, count: number): Promise<Entry[]> {
  const entries: Entry[] = [];
  while (entries.length < count) {
    const { value, done } = await subscription.next();
    check(done !== true, `the subscription ended after ${entries.length} of ${count} entries`);
    entries.push(value as Entry);
  }
  return entries;
}

async function read(client: Client, count: number, options: SubscribeOptions = {}): Promise<Entry[]> {
  const subscription = client.subscribe(options);
  const entries = await take(subscription, count);
  await subscription.return();
  return entries;
}

const texts = (entries: readonly Entry[]) => entries.map(textOf);
const numbered = (count: number, word = "text") => Array.from({ length: count }, (_, at) => `${word} ${at}`);

/** Each names its predecessor, from a first one on. */
function checkJoined(entries: readonly Entry[], first = 0n): void {
  let last = first;
  for (const { seq, prevSeq } of entries) {
    check(prevSeq === last && seq > last, `entry ${seq} joins ${prevSeq}, not ${last}`);
    last = seq;
  }
}

async function refused(promise: Promise<unknown>, name: keyof typeof ErrorCode): Promise<RequestError> {
  const error = await failure(RejectedError, promise);
  same(error.refusal.code, ErrorCode[name], `refused with ${error.refusal.name}`);
  return error;
}

/** Sends one after another, without waiting for the ends in between; then waits for all. */
async function pipeline(client: Client, to: Conversation, bodies: readonly string[], between?: (at: number) => Promise<void> | void): Promise<bigint[]> {
  const tickets = [];
  for (const [at, body] of bodies.entries()) {
    tickets.push(await client.submit(client.prepare(to, body)));
    await between?.(at);
  }
  const committed = await Promise.all(tickets.map((ticket) => ticket.outcome()));
  return committed.map(({ seq }) => seq);
}

const rising = (seqs: readonly bigint[]) => seqs.every((seq, at) => at === 0 || seq > (seqs[at - 1] ?? 0n));

type Case = (scene: Scene) => Promise<void>;

export const CASES: Readonly<Record<string, Case>> = {
  "C-010 a good token is welcome": async (scene) => {
    const alice = await scene.device("alice");
    same(alice.identity?.tenant, 1, "the tenant");
    same(alice.identity?.user, scene.user("alice"), "the user");
    same(alice.transport, scene.world.transport, "the way in");
    same(alice.connections, 1, "connections");
  },

  "C-011 a token that is none, or somebody else's, is refused for good": async (scene) => {
    let asked = 0;
    const { world } = scene;
    for (const bad of [() => "nonsense", () => world.forge(scene.user("alice"))]) {
      const token = () => {
        asked += 1;
        return bad();
      };
      const error = await failure(ConnectError, scene.connect({ token, device: "phone" }));
      same([error.reason, error.refusal?.code], ["refused", ErrorCode.AUTH_FAILED], "the error");
    }
    same(asked, 2, "times that a token was asked for");
  },

  "C-012 an expired token is replaced by a fresh one": async (scene) => {
    const { world } = scene;
    const expired = await world.token(scene.user("alice"), { seconds: -10 });
    let asked = 0;
    const token = () => {
      asked += 1;
      return asked === 1 ? expired : world.token(scene.user("alice"));
    };
    const alice = await scene.connect({ token, device: "phone" });
    same([asked, alice.identity?.user], [2, scene.user("alice")], "tokens asked for, and the user");
    const error = await failure(ConnectError, scene.connect({ token: expired, device: "phone" }));
    same([error.reason, error.refusal?.code], ["refused", ErrorCode.AUTH_EXPIRED], "a token that never changes");
  },

  "C-100 a session is renewed by itself and outlives its first tokens": async (scene) => {
    const { world } = scene;
    let asked = 0;
    const token = () => {
      asked += 1;
      return world.token(scene.user("alice"), { seconds: 4 });
    };
    const begun = performance.now();
    const alice = await scene.connect({ token, device: "phone" });
    // Beyond the ends of the first two tokens.
    await until("three tokens were asked for, and two are over", async () => {
      await alice.send(scene.peer("bob"), "still here");
      return asked >= 3 && performance.now() - begun > 9_000;
    });
    same(alice.connections, 1, "connections");
  },

  "C-020 a send is committed at a place, and the next one behind it": async (scene) => {
    const alice = await scene.device("alice");
    const first = await alice.send(scene.peer("bob"), "one");
    const second = await alice.send(scene.peer("bob"), "two");
    check(first.seq > 0n && second.seq > first.seq, `places ${first.seq} and ${second.seq}`);
    same([first.duplicate, second.duplicate], [false, false], "duplicates");
  },

  "C-021 the same message again is a duplicate": async (scene) => {
    const alice = await scene.device("alice");
    const request = alice.prepare(scene.peer("bob"), "once");
    const first = await alice.sendRequest(request);
    same(await alice.sendRequest(request), { seq: first.seq, duplicate: true }, "again");
  },

  "C-022 another body under the same id is a conflict": async (scene) => {
    const alice = await scene.device("alice");
    const request = alice.prepare(scene.peer("bob"), "one body");
    await alice.sendRequest(request);
    await refused(alice.sendRequest({ ...request, body: utf8("another") }), "CONFLICT");
  },

  "C-023 a body of the limit is committed, and one byte more rejected": async (scene) => {
    const alice = await scene.device("alice");
    const bob = await scene.device("bob");
    await alice.send(scene.peer("bob"), new Uint8Array(65_536).fill(7));
    await refused(alice.send(scene.peer("bob"), new Uint8Array(65_537)), "MESSAGE_TOO_LARGE");
    await alice.send(scene.peer("bob"), "after");
    const [large, after] = await read(bob, 2);
    check(large?.body.state === "here" && large.body.bytes.length === 65_536 && large.body.bytes.every((byte) => byte === 7), "the large body");
    same(after && textOf(after), "after", "the next one");
  },

  "C-024 pipelined sends keep their order": async (scene) => {
    const alice = await scene.device("alice");
    const bodies = numbered(300);
    check(rising(await pipeline(alice, scene.peer("bob"), bodies)), "places in the order of the sends");
    const bob = await scene.device("bob");
    same(texts(await read(bob, bodies.length)), bodies, "bob's inbox");
  },

  "C-026 a send can be asked for": async (scene) => {
    const alice = await scene.device("alice");
    const request = alice.prepare(scene.peer("bob"), "asked for");
    same(await alice.querySend(request.to, request.messageId), { state: "notYet" }, "before");
    const { seq } = await alice.sendRequest(request);
    same(await alice.querySend(request.to, request.messageId), { state: "committed", seq }, "after");
  },

  "C-027 a cancelled send never happens, and what follows it may go": async (scene) => {
    const alice = await scene.device("alice");
    const request = alice.prepare(scene.peer("bob"), "cancelled");
    await alice.send(request.to, "so that the conversation exists");
    same(await alice.cancelSend(request.to, request.messageId, request.known), { state: "cancelled" }, "the verdict");
    await refused(alice.sendRequest(request), "CANCELLED");
    same(await alice.querySend(request.to, request.messageId, request.known), { state: "cancelled" }, "asked for");
    await alice.sendRequest({ ...alice.prepare(request.to, "behind it"), follows: request.messageId });
  },

  "C-028 a committed message cannot be cancelled": async (scene) => {
    const alice = await scene.device("alice");
    const request = alice.prepare(scene.peer("bob"), "faster");
    const { seq } = await alice.sendRequest(request);
    same(await alice.cancelSend(request.to, request.messageId, request.known), { state: "committed", seq }, "the verdict");
  },

  "C-030 C-031 C-032 C-033 groups": async (scene) => {
    const [alice, bob, carol] = [await scene.device("alice"), await scene.device("bob"), await scene.device("carol")];
    const id = randomBytes(16);
    const messageId = newMessageId();
    const created = await alice.createGroup(id, [scene.user("bob")], messageId);
    same(await alice.createGroup(id, [scene.user("bob")], messageId), { seq: created.seq, duplicate: true }, "again");
    const inbox = bob.subscribe();
    const [birth] = await take(inbox, 1);
    same([birth?.kind, birth?.sender, birth?.added], ["create", scene.user("alice"), [scene.user("bob")]], "the group's entry: the members besides the sender");
    await alice.send(groupOf(id), "to all");
    same(texts(await take(inbox, 1)), ["to all"], "bob's inbox");
    await until("alice's own inbox has it", async () => texts((await alice.sync(1n)).entries).at(-1) === "to all");
    // Whether it exists or not is nobody's business.
    await refused(carol.send(groupOf(id), "from outside"), "NOT_FOUND");
    await refused(carol.send(groupOf(randomBytes(16)), "to nothing"), "NOT_FOUND");
    await refused(carol.history(groupOf(id), 0n), "NOT_FOUND");
    same((await carol.sync(0n)).entries, [], "a stranger's inbox");
    await alice.changeMembers(id, { add: [scene.user("carol")], remove: [scene.user("bob")] });
    const [change] = await take(inbox, 1);
    same([change?.kind, change?.added, change?.removed], ["members", [scene.user("carol")], [scene.user("bob")]], "the change's entry");
    await refused(bob.send(groupOf(id), "from a former member"), "NOT_FOUND");
    await carol.send(groupOf(id), "from a new member");
    await until("alice has it", async () => texts((await alice.sync(1n)).entries).at(-1) === "from a new member");
  },

  "C-040 C-041 C-045 subscriptions": async (scene) => {
    const [alice, bob, tablet] = [await scene.device("alice"), await scene.device("bob"), await scene.device("bob", "tablet")];
    const [one, other] = [bob.subscribe(), tablet.subscribe()];
    const bodies = numbered(60);
    await pipeline(alice, scene.peer("bob"), bodies.slice(0, 30));
    await bob.send(scene.peer("alice"), "bob's own");
    await pipeline(alice, scene.peer("bob"), bodies.slice(30));
    const entries = await take(one, 61);
    checkJoined(entries);
    same(texts(entries).filter((text) => text !== "bob's own"), bodies, "every entry once and in order");
    same((await take(other, 61)).map(({ seq }) => seq), entries.map(({ seq }) => seq), "another device of the user");
    check(texts(entries).includes("bob's own"), "what the user sent himself");
    const middle = entries[20]?.seq ?? 0n;
    const rest = await read(tablet, 41, { from: middle });
    same(rest.map(({ seq }) => seq), entries.slice(20).map(({ seq }) => seq), "from the middle");
    // A new subscription of a client has ended its one before, and says so once.
    const ended = await failure(SubscriptionError, other.next());
    same(ended.refusal?.code, ErrorCode.KICKED, "the old subscription");
    same((await other.next()).done, true, "and then");
  },

  "C-044 a position in the future is refused, and the session goes on": async (scene) => {
    const alice = await scene.device("alice");
    await alice.send(scene.peer("alice"), "a note");
    const error = await failure(SubscriptionError, alice.subscribe({ from: 1_000_000n }).next());
    same(error.refusal?.code, ErrorCode.CURSOR_AHEAD, "the subscription");
    await refused(alice.sync(1_000_000n), "CURSOR_AHEAD");
    same([texts(await read(alice, 1)), alice.connections], [["a note"], 1], "the session");
  },

  "C-046 a cursor is durable, a device's own, and never goes back": async (scene) => {
    const [phone, tablet] = [await scene.device("alice"), await scene.device("alice", "tablet")];
    const { length } = numbered(5);
    await pipeline(phone, scene.peer("alice"), numbered(length));
    const entries = await read(phone, length);
    const end = (entries.at(-1)?.seq ?? 0n) + 1n;
    check((await phone.ack(end)) >= end, "the durable cursor");
    check((await phone.ack(2n)) >= end, "it does not go back");
    await tablet.ack(2n);
    const { devices } = await tablet.status();
    same([...devices].sort(), [["phone", end], ["tablet", 2n]], "the cursors");
  },

  "C-047 C-048 C-049 pages, chain, history and status": async (scene) => {
    const alice = await scene.device("alice");
    const bodies = numbered(25);
    await pipeline(alice, scene.peer("alice"), bodies);
    await read(alice, bodies.length);
    const entries: Entry[] = [];
    let [from, chain, more] = [0n, emptyChain(), true];
    while (more) {
      const page = await alice.sync(from, 10);
      check(page.entries.length <= 10 && page.upto > from && !page.tooLong, `a page of ${page.entries.length} up to ${page.upto}`);
      chain = verifyPage(scene.user("alice"), page, chain);
      same(chain, page.chain, "the chain of the page");
      entries.push(...page.entries);
      ({ upto: from, more } = page);
    }
    same(texts(entries), bodies, "all pages");
    checkJoined(entries);
    const status = await alice.status();
    same([status.tail, status.ordinal, status.chain], [from, BigInt(bodies.length), chain], "the status");
    const first = await alice.history(scene.peer("alice"), 0n, 10);
    const rest = await alice.history(scene.peer("alice"), first.upto);
    same([first.more, rest.more, texts([...first.entries, ...rest.entries])], [true, false, bodies], "the history");
    check(rising([...first.entries, ...rest.entries].map(({ conversationSeq }) => conversationSeq)), "the history's order");
    // What was read is known, so that a new message is not taken for an old one.
    const other = await scene.device("alice", "tablet");
    same(other.prepare(scene.peer("alice"), "").known, 0n, "what a new device knows");
    await other.history(scene.peer("alice"), 0n);
    same(other.prepare(scene.peer("alice"), "").known, rest.upto, "what it knows after reading");
    const third = await scene.device("alice", "watch");
    await third.listConversations();
    same(third.prepare(scene.peer("alice"), "").known, rest.upto, "what it knows after its list");
    // A page from beyond the end says nothing of it.
    const fourth = await scene.device("alice", "clock");
    await fourth.history(scene.peer("alice"), rest.upto + 100n);
    same(fourth.prepare(scene.peer("alice"), "").known, 0n, "what it knows after a page of nothing");
  },

  "C-080 C-081 C-082 C-085 amendments come to everybody, and what was recalled to nobody": async (scene) => {
    const [alice, bob] = [await scene.device("alice"), await scene.device("bob")];
    const [toBob, toAlice] = [scene.peer("bob"), scene.peer("alice")];
    const kept = (await alice.send(toBob, "kept")).seq;
    const { seq } = await alice.send(toBob, "a secret");
    const tickets = [
      await alice.submitAmendment(alice.prepareAmendment(toBob, seq, { edit: utf8("another secret"), salt: randomBytes(16) })),
      await alice.submit(alice.prepare(toBob, "between")),
      await alice.submitAmendment(alice.prepareAmendment(toBob, kept, { edit: utf8("kept, and edited"), salt: randomBytes(16) })),
    ];
    check(rising([seq, ...(await Promise.all(tickets.map((ticket) => ticket.outcome()))).map(({ seq }) => seq)]), "their places");
    await bob.react(toAlice, seq, "\u{1f44d}");
    await bob.react(toAlice, seq, "\u{1f44d}", false);
    await bob.pin(toAlice, seq);
    await alice.recall(toBob, seq);
    const kinds = ["message", "message", "edit", "message", "edit", "reaction", "reaction", "pin", "recall"];
    const bodies = ["kept", undefined, undefined, "between", "kept, and edited", "", "", "", ""];
    for (const [device, other] of [[alice, toBob], [bob, toAlice]] as const) {
      const pushed = await read(device, kinds.length);
      same(pushed.map(({ kind }) => kind), kinds, "the kinds");
      same(pushed.map(({ target }) => target), [0n, 0n, seq, 0n, kept, seq, seq, seq, seq], "the targets");
      same(pushed.slice(5, 8).map(({ emoji, unset }) => [emoji, unset]), [["\u{1f44d}", false], ["\u{1f44d}", true], ["", false]], "what was set");
      same(pushed.map(({ ordinal }) => ordinal), [1n, 2n, 2n, 3n, 3n, 3n, 3n, 3n, 3n], "only messages are counted");
      const page = await device.sync(0n);
      verifyPage(device === alice ? scene.user("alice") : scene.user("bob"), page);
      for (const entries of [page.entries, (await device.history(other, 0n)).entries]) {
        same(texts(entries), bodies, "the bodies");
        same([entries[1]?.body.state, entries[2]?.body.state], ["erased", "erased"], "what was recalled");
      }
    }
  },

  "C-083 C-084 who may amend what, and how often": async (scene) => {
    const [alice, bob, carol] = [await scene.device("alice"), await scene.device("bob"), await scene.device("carol")];
    const id = randomBytes(16);
    const group = groupOf(id);
    const created = await alice.createGroup(id, [scene.user("bob")]);
    const { seq } = await alice.send(group, "for two");
    await refused(bob.edit(group, seq, "not mine"), "NOT_AUTHOR");
    await refused(bob.recall(group, seq), "NOT_AUTHOR");
    await refused(bob.react(group, created.seq, "+"), "NOT_FOUND");
    await refused(carol.react(group, seq, "+"), "NOT_FOUND");
    await alice.changeMembers(id, { add: [scene.user("carol")] });
    await refused(carol.pin(group, seq), "NOT_FOUND");
    await alice.pin(group, seq);
    await carol.pin(group, seq, false);
    await refused(carol.pin(group, seq, false), "NOT_FOUND");
    const edit = alice.prepareAmendment(group, seq, { edit: utf8("for both"), salt: randomBytes(16) });
    const first = await (await alice.submitAmendment(edit)).outcome();
    same(await (await alice.submitAmendment(edit)).outcome(), { seq: first.seq, duplicate: true }, "again");
    await refused((await alice.submitAmendment({ ...edit, act: { recall: true } })).outcome(), "CONFLICT");
    same(await alice.querySend(edit.to, edit.messageId, edit.known), { state: "committed", seq: first.seq }, "asked for");
    const cancelled = alice.prepareAmendment(group, seq, { pin: true });
    same(await alice.cancelSend(cancelled.to, cancelled.messageId, cancelled.known), { state: "cancelled" }, "the verdict");
    await refused((await alice.submitAmendment(cancelled)).outcome(), "CANCELLED");
    for (let at = 0; at < 16; at += 1) await bob.react(group, seq, String(at));
    await refused(bob.react(group, seq, "one more"), "AMENDMENTS_TOO_MANY");
    await alice.recall(group, seq);
    await refused(alice.edit(group, seq, "late"), "RECALLED");
    await refused(bob.react(group, seq, "late"), "RECALLED");
    await refused(alice.edit(group, seq, new Uint8Array(65_537)), "MESSAGE_TOO_LARGE");
  },

  "C-090 C-091 C-092 marks and the list": async (scene) => {
    const [phone, tablet, bob] = [await scene.device("alice"), await scene.device("alice", "tablet"), await scene.device("bob")];
    const [toAlice, ofBob] = [scene.peer("alice"), scene.peer("bob")];
    for (const text of numbered(3)) await bob.send(toAlice, text);
    const inbox = tablet.subscribe();
    const [one, two] = await take(inbox, 3);
    const [first, second] = [one?.seq ?? 0n, two?.seq ?? 0n];
    const now = await phone.markRead(ofBob, second);
    same([now.conversation, now.messages, now.unread, now.readUpto, now.readSeq], [ofBob, 3n, 1n, second, two?.conversationSeq], "the list's row");
    for (const upto of [first, second]) same(await tablet.markRead(ofBob, upto), now, "a lower one changes nothing");
    check((await phone.mute(ofBob)).muted && (await phone.archive(ofBob)).archived && !(await phone.mute(ofBob, false)).muted, "mute and archive");
    const marks = await take(inbox, 4);
    same(marks.map(({ kind, unset }) => [kind, unset]), [["read", false], ["mute", false], ["archive", false], ["mute", true]], "the user's other device");
    verifyPage(scene.user("alice"), await tablet.sync(0n));
    await refused(phone.markRead(ofBob, marks[0]?.seq ?? 0n), "NOT_FOUND");
    await refused(phone.markRead(ofBob, 9_999n), "NOT_FOUND");
    await refused(phone.mute(scene.peer("carol")), "NOT_FOUND");
    check((await bob.sync(0n)).entries.every(({ kind }) => kind === "message"), "nobody else's inbox");
    await phone.send(toAlice, "a note");
    await until("the note is listed", async () => (await phone.listConversations()).conversations.length === 2);
    const page = await phone.listConversations(undefined, 1);
    const rest = await phone.listConversations(page.conversations[0]?.conversation, 1);
    same([page.more, rest.more, page.unread], [true, false, 2n], "pages");
    const rows = [...page.conversations, ...rest.conversations].map(({ conversation, unread, archived }) => [conversation, unread, archived] as const);
    same(rows.find(([conversation]) => "peer" in conversation && conversation.peer === scene.user("bob")), [ofBob, 1n, true], "bob's row");
    same(rows.find(([conversation]) => "peer" in conversation && conversation.peer === scene.user("alice")), [toAlice, 1n, false], "the notes' row");
  },

  "C-050 C-051 C-052 numbers": async (scene) => {
    const tokens = { token: { scopes: ["sequence"] } };
    const [one, other] = [await scene.device("counter", "one", tokens), await scene.device("counter", "other", tokens)];
    const counter = scene.user("orders");
    const runs = await Promise.all(Array.from({ length: 20 }, (_, at) => (at % 2 === 0 ? one : other).nextNumbers(counter, 1 + at)));
    const given = runs.flatMap(({ first, count }) => Array.from({ length: count }, (_, at) => first + BigInt(at)));
    same(new Set(given).size, 210, "numbers given once");
    check((await one.currentNumber(counter)) > given.reduce((most, number) => (number > most ? number : most)), "current is above all of them");
    await refused(one.nextNumbers(counter, 65_537), "COUNT_TOO_LARGE");
    await refused((await scene.device("alice")).nextNumbers(counter), "FORBIDDEN");
  },

  "C-060 C-061 a gateway killed in mid-stream: every entry once and in order": async (scene) => {
    const [alice, bob] = [await scene.device("alice"), await scene.device("bob")];
    const bodies = numbered(400);
    const inbox = bob.subscribe();
    let started: Promise<void> | undefined;
    const sent = pipeline(alice, scene.peer("bob"), bodies, async (at) => {
      if (at !== 250) return;
      // However fast it is: what comes behind this is sent to a gateway that is dead.
      await scene.world.kill("gateway-1");
      started = scene.world.start("gateway-1");
    });
    const entries = await take(inbox, bodies.length);
    same(texts(entries), bodies, "every entry once and in order");
    checkJoined(entries);
    check(rising(await sent), "committed in the order of the sends");
    await started;
    const { ordinal } = await bob.status();
    same(ordinal, BigInt(bodies.length), "messages in the inbox: none is doubled");
    check(bob.connections >= 2 && alice.connections >= 2, "both came back");
  },

  "C-062 with several addresses the client goes on at another gateway": async (scene) => {
    const { gateways } = scene.world;
    const [alice, bob] = [await scene.device("alice", "phone", { addresses: gateways }), await scene.device("bob", "phone", { addresses: gateways })];
    const inbox = bob.subscribe();
    await alice.send(scene.peer("bob"), "before");
    same(texts(await take(inbox, 1)), ["before"], "before");
    await scene.world.kill("gateway-1");
    try {
      // Whoever asks nothing notices by the next Ping only.
      const [, status] = await Promise.all([alice.send(scene.peer("bob"), "behind"), bob.status()]);
      check(status.tail > 0n, "an answer of another gateway");
      same(texts(await take(inbox, 1)), ["behind"], "behind");
    } finally {
      await scene.world.start("gateway-1");
    }
  },

  "C-068 a slow reader gets everything, and holds back the gateway": async (scene) => {
    const [alice, bob] = [await scene.device("alice"), await scene.device("bob")];
    const bodies = numbered(200);
    const inbox = bob.subscribe({ window: 8 });
    await pipeline(alice, scene.peer("bob"), bodies);
    same(texts(await take(inbox, bodies.length)), bodies, "every entry once and in order");
  },

  "C-072 a device that starts again from its stored cursor": async (scene) => {
    const alice = await scene.device("alice");
    const bodies = numbered(10);
    await pipeline(alice, scene.peer("bob"), bodies);
    const store = new MemoryCursorStore();
    const first = await scene.device("bob");
    const inbox = first.subscribe({ store });
    const entries = await take(inbox, 4);
    first.close();
    same(store.load(), (entries[2]?.seq ?? 0n) + 1n, "asking for the fourth said that the third is done");
    const second = await scene.device("bob");
    const rest = second.subscribe({ store });
    same(texts(await take(rest, 7)), bodies.slice(3), "what was not done, and nothing twice");
    await until("the cursor is at the gateway", async () => (await second.status()).devices.get("phone") === store.load());
  },

  "the fastest way in is taken, and a WebSocket where nothing answers over UDP": async (scene) => {
    const token = await scene.world.token(scene.user("alice"));
    const fastest = await scene.connect({ token, device: "phone", transport: "fastest" });
    await fastest.send(scene.peer("bob"), "over whatever was first");
    if (typeof WebTransport === "undefined") return same(fastest.transport, "websocket", "the way in");
    const real = globalThis.WebTransport;
    const never = new Promise(() => {});
    globalThis.WebTransport = class {
      ready = never;
      closed = never;
      close() {}
    } as unknown as typeof WebTransport;
    try {
      const blocked = await scene.connect({ token, device: "tablet", transport: "fastest" });
      same(blocked.transport, "websocket", "the way in where UDP is blocked");
    } finally {
      globalThis.WebTransport = real;
    }
  },

  "C-023 a request that fits no frame is rejected, and the session goes on": async (scene) => {
    const alice = await scene.device("alice");
    const many = Array.from({ length: 6_000 }, (_, at) => `member ${at}`.padEnd(64, "x"));
    await refused(alice.createGroup(randomBytes(16), many), "FRAME_TOO_LARGE");
    await alice.send(scene.peer("bob"), concat(utf8("after")));
    same(alice.connections, 1, "connections");
  },
};

/** Runs one case; what it opened is closed behind it. */
export async function run(name: string, world: World, platform: Platform): Promise<void> {
  const found = CASES[name];
  check(found !== undefined, `no case ${name}`);
  const scene = new Scene(world, platform, `c${Object.keys(CASES).indexOf(name)}`);
  try {
    await found(scene);
  } finally {
    scene.close();
  }
}
