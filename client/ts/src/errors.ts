// Errors: the classes of ends that a caller must tell apart.

/** The codes of docs/protocol.md. A gateway may send others: handle those by the class of the error alone. */
export const ErrorCode = {
  ALREADY_EXISTS: 1,
  AUTH_EXPIRED: 2,
  AUTH_FAILED: 3,
  BACKLOGGED: 4,
  BUSY: 5,
  CONFLICT: 6,
  CRITICAL_STREAM_CLOSED: 7,
  CURSOR_AHEAD: 8,
  EXPIRED: 9,
  FRAME_TOO_LARGE: 10,
  HELLO_TIMEOUT: 11,
  INTERNAL: 12,
  KICKED: 13,
  MALFORMED: 14,
  MEMBERS_TOO_MANY: 15,
  MESSAGE_TOO_LARGE: 16,
  NOT_FOUND: 17,
  NOT_HOLDER: 18,
  NOT_LEADER: 19,
  OUT_OF_ORDER: 20,
  READ_ONLY: 21,
  SHUTDOWN: 22,
  TIMEOUT: 23,
  UNAVAILABLE: 24,
  UNSUPPORTED: 25,
  WRONG_CLUSTER: 26,
  WRONG_GROUP: 27,
  WRONG_STREAM: 28,
  COUNT_TOO_LARGE: 29,
  FORBIDDEN: 30,
  GENERATION_EXHAUSTED: 31,
  QUOTA_EXCEEDED: 32,
  CANCELLED: 33,
  ADDRESS_IN_USE: 34,
  FOLDER_IN_USE: 35,
  WRONG_STORE: 36,
  RECALLED: 37,
  NOT_AUTHOR: 38,
  TOO_LATE: 39,
  AMENDMENTS_TOO_MANY: 40,
} as const;

/** Name of a known code. */
export type ErrorName = keyof typeof ErrorCode;

/** Why something was refused. */
export interface Refusal {
  /** See {@link ErrorCode}; others may come. */
  readonly code: number;
  /** The code's name. */
  readonly name: string;
  /** For people only. */
  readonly message: string;
  /** Not before this many milliseconds, where it may be sent again. */
  readonly retryAfterMs: number;
}

/** A refusal of our own. */
export function refusal(name: ErrorName, message: string): Refusal {
  return { code: ErrorCode[name], name, message, retryAfterMs: 0 };
}

/** Is it a verdict on the message id itself, whatever became of earlier attempts? */
export function settles(code: number): boolean {
  return code === ErrorCode.ALREADY_EXISTS || code === ErrorCode.CANCELLED || code === ErrorCode.CONFLICT;
}

function sentence(refusal: Refusal): string {
  return refusal.message === "" ? refusal.name : `${refusal.name}: ${refusal.message}`;
}

/** Why a client did not connect, or will not connect again. */
export class ConnectError extends Error {
  override readonly name = "ConnectError";
  constructor(
    /**
     * `refused`: by the gateway, asking again would not help. `handshake`: the gateway is not who it should be.
     * `timeout`: no gateway answered in time. `setup`: this platform lacks something.
     */
    readonly reason: "refused" | "handshake" | "timeout" | "setup",
    message: string,
    /** What the gateway said, if it refused. */
    readonly refusal?: Refusal,
  ) {
    super(message);
  }
  static refused(refusal: Refusal): ConnectError {
    return new ConnectError("refused", `refused by the gateway: ${sentence(refusal)}`, refusal);
  }
}

/** How a request ended, if not well: {@link RejectedError} or {@link UnknownOutcomeError}. */
export abstract class RequestError extends Error {
  /** May it have happened? */
  abstract readonly unknown: boolean;
  protected constructor(
    message: string,
    /** What the gateway, or this SDK, said. */
    readonly refusal: Refusal,
  ) {
    super(message);
  }
}

/** It did not happen, and will not. */
export class RejectedError extends RequestError {
  override readonly name = "RejectedError";
  readonly unknown = false;
  constructor(refusal: Refusal) {
    super(`rejected: ${sentence(refusal)}`, refusal);
  }
}

/** It may have happened: only the same message id settles it. */
export class UnknownOutcomeError extends RequestError {
  override readonly name = "UnknownOutcomeError";
  readonly unknown = true;
  constructor(refusal: Refusal) {
    super(`unknown outcome: ${sentence(refusal)}`, refusal);
  }
}

/** Why a subscription ended. */
export class SubscriptionError extends Error {
  override readonly name = "SubscriptionError";
  constructor(
    message: string,
    /** The first seq kept, if entries at the position were trimmed: restart from it. */
    readonly trim?: bigint,
    /** What the gateway said, if it refused: a position from the future, or a dead client. */
    readonly refusal?: Refusal,
  ) {
    super(message);
  }
  static tooLong(trim: bigint): SubscriptionError {
    return new SubscriptionError(`entries from the position on were trimmed; the first kept is ${trim}`, trim);
  }
  static refused(refusal: Refusal): SubscriptionError {
    return new SubscriptionError(`refused: ${sentence(refusal)}`, undefined, refusal);
  }
}

/** What a page proves wrong. */
export class ChainError extends Error {
  override readonly name = "ChainError";
  constructor(
    /**
     * `predecessor`: the entry names another one than the page shows. `broken`: its link does not follow from its
     * predecessor's. `body`: its body does not match its hash.
     */
    readonly reason: "predecessor" | "broken" | "body",
    /** Which entry. */
    readonly seq: bigint,
  ) {
    super(`entry ${seq}: ${{ predecessor: "another predecessor", broken: "the chain breaks", body: "a changed body" }[reason]}`);
  }
}

/** The other side breaks the protocol. */
export class ProtocolError extends Error {
  override readonly name = "ProtocolError";
  constructor(
    readonly code: "FRAME_TOO_LARGE" | "MALFORMED",
    message: string,
  ) {
    super(message);
  }
}
