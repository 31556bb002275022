// Renewal: asks for a fresh token before the session's own ends, and shows it to the gateway.
//
//   off ◀─ no end said, a token that never changes ─ begin ─▶ waiting ─▶ asking ─▶ shown ─ Renewed ─▶ waiting …
//                                                               ▲ a pause ──┴─ failed ─┴─ refused, no answer
//
// Nothing is given up before the session's end: then the client comes again, with a token that it asks for anew.

import { ErrorCode } from "./errors.js";
import type { Said } from "./framing.js";
import { RENEW_GAP_MS, RENEW_PATIENCE_MS, RENEW_RETRY_MS_MAX, RENEW_RETRY_MS_MIN, RENEW_SHARE_MAX, RENEW_SHARE_MIN } from "./limits.js";
import { refusalFromWire } from "./requests.js";

export interface RenewalOptions {
  readonly token: () => string | Promise<string>;
  readonly tokenFixed: boolean;
}

type State = "off" | "waiting" | "asking" | "shown";

export class Renewal {
  #state: State = "off";
  /** When this state has lasted long enough. */
  #untilMs = Number.POSITIVE_INFINITY;
  #failures = 0;
  /** Tokens of sources that were given up come too late. */
  #round = 0;
  #token: string | undefined;

  /** `ready`: a token came, or could not. */
  constructor(
    private readonly options: RenewalOptions,
    private readonly ready: () => void,
    private readonly random: () => number = Math.random,
  ) {}

  /** A session began, or was renewed, that lives for so long; 0: its gateway does not say. */
  begin(nowMs: number, expiresInMs: number): void {
    this.stop();
    this.#failures = 0;
    if (expiresInMs === 0 || this.options.tokenFixed) return;
    const share = RENEW_SHARE_MIN + this.random() * (RENEW_SHARE_MAX - RENEW_SHARE_MIN);
    // A source may give the same token again: then it is asked no more often than the gateway takes it.
    this.#become("waiting", nowMs + Math.max(RENEW_GAP_MS, expiresInMs * share));
  }

  /** The connection is gone. */
  stop(): void {
    this.#become("off", Number.POSITIVE_INFINITY);
  }

  /** When to call {@link poll} again. */
  get dueMs(): number {
    return this.#untilMs;
  }

  /** A token to show now. */
  poll(nowMs: number): string | undefined {
    const token = this.#token;
    if (this.#state === "asking" && token !== undefined) {
      this.#become("shown", nowMs + RENEW_PATIENCE_MS);
      return token;
    }
    if (nowMs < this.#untilMs) return undefined;
    if (this.#state === "waiting") this.#ask(nowMs);
    else if (this.#state !== "off") this.#fail(nowMs, 0);
    return undefined;
  }

  /** What the gateway says to the token. */
  handleAnswer(nowMs: number, said: Said): void {
    if (said.case === "renewed") return this.begin(nowMs, Number(said.value.expiresInMs));
    if (said.case !== "error") return;
    const { code, retryAfterMs } = refusalFromWire(said.value);
    if (code === ErrorCode.UNSUPPORTED) this.stop();
    else this.#fail(nowMs, retryAfterMs);
  }

  #ask(nowMs: number): void {
    this.#become("asking", nowMs + RENEW_PATIENCE_MS);
    const round = this.#round;
    const settled = (act: () => void) => {
      if (round !== this.#round) return;
      act();
      this.ready();
    };
    // A source that throws at once fails like one that does later.
    void Promise.resolve()
      .then(() => this.options.token())
      .then(
        (token) => settled(() => (this.#token = token)),
        () => settled(() => (this.#untilMs = nowMs)),
      );
  }

  #fail(nowMs: number, atLeastMs: number): void {
    const pause = Math.min(RENEW_RETRY_MS_MIN * 2 ** this.#failures, RENEW_RETRY_MS_MAX) * (0.5 + this.random() / 2);
    this.#failures += 1;
    this.#become("waiting", nowMs + Math.max(pause, atLeastMs));
  }

  #become(state: State, untilMs: number): void {
    this.#state = state;
    this.#untilMs = untilMs;
    this.#token = undefined;
    this.#round += 1;
  }
}
