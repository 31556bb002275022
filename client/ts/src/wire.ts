// Wire: one connection, whatever carries it. No retries, no order, no state of requests.

import { ErrorCode, refusal, type ErrorName, type Refusal } from "./errors.js";
import type { Said } from "./framing.js";
import type { ClientFrame } from "./gen/seriatim/v1/client_pb.js";
import type { Way } from "./requests.js";

/** Why a connection is over. */
export interface End {
  /** The close code, if the other side gave one; 0 is an end without an error. */
  readonly code: number | undefined;
  readonly reason: string;
}

/** What comes in. */
export interface WireEvents {
  /** On the control stream, a lane or a call. */
  said(requestId: bigint, said: Said): void;
  /** The stream of a call ended without an answer. */
  callBroken(requestId: bigint): void;
  /** On an inbox stream. */
  inbox(subscriptionId: bigint, said: Said): void;
  /** An inbox stream ended. */
  inboxEnd(subscriptionId: bigint): void;
  /** There is room again after {@link Wire.put} had none. */
  room(): void;
  /** The last event. */
  closed(end: End): void;
}

/** A connection. */
export interface Wire {
  readonly transport: "webtransport" | "websocket";
  /** Who is told what comes in. May be changed while nothing is awaited. */
  events: WireEvents;
  /**
   * Puts a frame on the right stream; `false` if there is no room now.
   * @throws FrameTooLarge
   */
  put(way: Way, frame: ClientFrame): boolean;
  /** Sends what was put. */
  flush(): void;
  /** Ends it without an error. No event comes behind it. */
  close(): void;
}

/** A frame above the limit: it was not put. */
export class FrameTooLarge extends Error {
  constructor(readonly bytes: number) {
    super(`a frame of ${bytes} bytes`);
  }
}

/** Why a dial failed. */
export class DialError extends Error {
  constructor(
    /** `retry`: perhaps it works later. `expired`: the token's time is over. Otherwise it will not work. */
    readonly kind: "retry" | "expired" | "refused" | "handshake" | "setup",
    message: string,
    readonly refusal?: Refusal,
  ) {
    super(message);
  }
}

/** What an end says about the next connection: codes of which the table says that it would be refused again. */
const FINAL: ReadonlyMap<number, ErrorName> = new Map([
  [2, "MALFORMED"],
  [3, "FRAME_TOO_LARGE"],
  [5, "AUTH_FAILED"],
  [7, "KICKED"],
  [12, "UNSUPPORTED"],
]);
const EXPIRED = 6;

/** `said`: why the connection ends, as the gateway said it before the end, if it did. */
export function endError(end: End, said?: Refusal): DialError {
  const text = said?.message || end.reason;
  const code = end.code ?? closeCodeOf(said);
  if (code === EXPIRED) return new DialError("expired", text, refusal("AUTH_EXPIRED", text));
  const final = code === undefined ? undefined : FINAL.get(code);
  if (final !== undefined) return new DialError("refused", text, refusal(final, text));
  return new DialError("retry", `closed${code === undefined ? "" : ` with code ${code}`}${text === "" ? "" : `: ${text}`}`);
}

/** Some browsers lose the close code of a session that ends early: the Error before it says the same. */
function closeCodeOf(said: Refusal | undefined): number | undefined {
  switch (said?.code) {
    case ErrorCode.AUTH_FAILED:
      return 5;
    case ErrorCode.AUTH_EXPIRED:
      return EXPIRED;
    case ErrorCode.KICKED:
      return 7;
    case ErrorCode.UNSUPPORTED:
      return 12;
    default:
      return undefined;
  }
}
