// Dial: one attempt at one gateway, to Welcome or a reason why not.

import { create } from "@bufbuild/protobuf";

import type { Refusal } from "./errors.js";
import { clientFrame } from "./framing.js";
import { HelloSchema, type Welcome } from "./gen/seriatim/v1/client_pb.js";
import { DIAL_MS, GREETING_MS, HEAD_START_MS, MINOR_MAX, MINOR_MIN, TOKEN_MS } from "./limits.js";
import { refusalFromWire } from "./requests.js";
import { connectWebSocket, type WebSocketFactory } from "./websocket.js";
import { connectWebTransport, type Hashes } from "./webtransport.js";
import { DialError, endError, type Wire } from "./wire.js";

/** What carries a client's connections. */
export type Transport =
  /** WebTransport, and a WebSocket beside it if that fails or takes longer than 400 ms: whichever connects first. */
  | "fastest"
  | "webtransport"
  | "websocket";

export interface DialOptions {
  /** https://HOST:PORT, tried in turn. */
  readonly origins: readonly string[];
  readonly transport: Transport;
  readonly webSocket: WebSocketFactory | undefined;
  readonly hashes: Hashes;
  readonly token: () => string | Promise<string>;
  /** The token never changes: an expired one is the end. */
  readonly tokenFixed: boolean;
  readonly device: string;
}

/** Connects and says Hello. `welcome` is called before anything that comes behind Welcome. */
export async function dial(options: DialOptions, attempt: number, welcome: (wire: Wire, welcome: Welcome) => void): Promise<void> {
  const origin = options.origins[attempt % options.origins.length] ?? "";
  // Before the connection: a gateway does not wait long for Hello.
  const token = await within(TOKEN_MS, "the token provider gives nothing", (signal) => Promise.race([options.token(), aborted(signal)]));
  const wire = await within(DIAL_MS, `${origin} does not answer`, (signal) => connect(options, origin, signal));
  await within(GREETING_MS, `${origin} does not say Welcome`, (signal) => greet(wire, options.device, token, welcome, signal));
}

/** Settles when nobody waits any more. */
function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => signal.addEventListener("abort", () => reject(new Error("too late")), { once: true }));
}

async function within<T>(ms: number, late: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), ms);
  try {
    return await work(controller.signal);
  } catch (error) {
    throw controller.signal.aborted ? new DialError("retry", late) : error;
  } finally {
    clearTimeout(timer);
  }
}

function connect(options: DialOptions, origin: string, signal: AbortSignal): Promise<Wire> {
  const { webSocket } = options;
  const overTransport = (signal: AbortSignal) => connectWebTransport(options.hashes, origin, signal);
  const overSocket = (signal: AbortSignal) =>
    webSocket === undefined
      ? Promise.reject(new DialError("setup", "this platform has no WebSocket, and none was given"))
      : connectWebSocket(webSocket, origin, signal);
  switch (options.transport) {
    case "webtransport":
      return overTransport(signal);
    case "websocket":
      return overSocket(signal);
    case "fastest":
      return typeof WebTransport === "undefined" ? overSocket(signal) : race(overTransport, overSocket, HEAD_START_MS, signal);
  }
}

/** A way to connect. */
export type Attempt = (signal: AbortSignal) => Promise<Wire>;

/**
 * The first one with its head start, the second one as soon as the first one fails or takes longer. The slower one is
 * given up, and closed if it comes all the same. What is final on one way only must not end a client that gets through
 * on the other; if both fail, what is final is told.
 */
export function race(first: Attempt, second: Attempt, headStartMs: number, signal: AbortSignal): Promise<Wire> {
  return new Promise((resolve, reject) => {
    const loser = new AbortController();
    const errors: unknown[] = [];
    let won = false;
    let started: Promise<void> | undefined;
    const run = (attempt: Attempt): Promise<void> =>
      attempt(loser.signal).then(
        (wire) => {
          if (won) return wire.close();
          won = true;
          clearTimeout(timer);
          resolve(wire);
          loser.abort();
        },
        (error: unknown) => {
          errors.push(error);
          if (won) return;
          startSecond();
          if (errors.length === 2) reject(errors.find((error) => !(error instanceof DialError && error.kind === "retry")) ?? error);
        },
      );
    const startSecond = () => {
      clearTimeout(timer);
      started ??= run(second);
    };
    const timer = setTimeout(startSecond, headStartMs);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      won = true;
      loser.abort();
      reject(new DialError("retry", "given up"));
    });
    void run(first);
  });
}

function greet(
  wire: Wire,
  device: string,
  token: string,
  welcome: (wire: Wire, welcome: Welcome) => void,
  signal: AbortSignal,
): Promise<void> {
  return new Promise((resolve, reject) => {
    let why: Refusal | undefined;
    signal.addEventListener("abort", () => {
      wire.close();
      reject(new DialError("retry", "no Welcome"));
    });
    wire.events = {
      said(_, said) {
        if (said.case === "welcome") {
          resolve();
          welcome(wire, said.value);
        } else if (said.case === "error") {
          // The end follows, and counts.
          why = refusalFromWire(said.value);
        }
      },
      callBroken() {},
      inbox() {},
      inboxEnd() {},
      room() {},
      closed: (end) => reject(endError(end, why)),
    };
    const client = { name: "seriatim-typescript", version: "0.1.0", platform: platform() };
    const hello = create(HelloSchema, { minMinor: MINOR_MIN, maxMinor: MINOR_MAX, client, token, device });
    wire.put("control", clientFrame({ body: { case: "hello", value: hello } }));
    wire.flush();
  });
}

function platform(): string {
  return typeof navigator === "undefined" ? "" : (navigator.userAgent ?? "").slice(0, 128);
}

