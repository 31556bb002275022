// World: what a case needs of the world around a device. Cases know neither Node nor browsers.

import type { ClientOptions } from "../src/index.js";

/** What a token says. */
export interface TokenOptions {
  /** Until its end; negative: it ended so long ago. */
  readonly seconds?: number;
  readonly scopes?: readonly string[];
  readonly tenant?: number;
}

/** Plain data and functions, so that a browser can be given one. */
export interface World {
  /** Of all users of this run: runs on one cluster do not meet. */
  readonly prefix: string;
  /** Addresses of gateway-1, gateway-2, … */
  readonly gateways: readonly string[];
  readonly transport: "webtransport" | "websocket";
  token(user: string, options?: TokenOptions): Promise<string>;
  /** A token that somebody else signed. */
  forge(user: string): Promise<string>;
  kill(node: string): Promise<void>;
  start(node: string): Promise<void>;
}

/** What else `Client.connect` must be told here. */
export type Platform = Pick<ClientOptions, "webSocket">;

/** Longest wait for anything, in milliseconds: machines may be slow. */
export const PATIENCE_MS = 60_000;

/** @throws Error that says what is wrong */
export function check(truth: boolean, what: string): asserts truth {
  if (!truth) throw new Error(what);
}

function plain(value: unknown): string {
  return JSON.stringify(value, (_, part: unknown) => (typeof part === "bigint" ? `${part}n` : part instanceof Uint8Array ? [...part].join(" ") : part)) ?? "undefined";
}

/** @throws Error that shows both */
export function same(is: unknown, should: unknown, what: string): void {
  check(plain(is) === plain(should), `${what}: is ${plain(is)}, should be ${plain(should)}`);
}

/** The error that a promise ends with. */
export async function failure<E extends Error>(type: abstract new (...args: never[]) => E, promise: Promise<unknown>): Promise<E> {
  const error = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  if (error instanceof type) return error;
  throw error instanceof Error ? error : new Error(`it should fail, and did not: ${type.name}`);
}

/** Waits on a condition, with a deadline. */
export async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!(await condition())) {
    check(performance.now() < deadline, `waited too long until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
