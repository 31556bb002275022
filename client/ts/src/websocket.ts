// A WebSocket: every frame says which stream it belongs to. Lane 0 is the control stream; lanes of one's own rise.

import { concat } from "./bytes.js";
import { clientFrame, decodeServerFrame, encodeFrame, FrameReader } from "./framing.js";
import type { ClientFrame, ServerFrame } from "./gen/seriatim/v1/client_pb.js";
import { CALLS_MAX, FRAME_BYTES_MAX, OUT_BYTES_MAX, PATH, PROTOCOL, SOCKET_BATCH_BYTES, SOCKET_MESSAGE_BYTES_MAX } from "./limits.js";
import type { Way } from "./requests.js";
import { DialError, FrameTooLarge, type End, type Wire, type WireEvents } from "./wire.js";

/** What this SDK needs of a WebSocket: the browser's is one, and so is that of the package `ws`. */
export interface WebSocketLike {
  binaryType: string;
  readonly protocol: string;
  readonly bufferedAmount: number;
  // `any`: the platforms have events of their own.
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  send(data: Uint8Array<ArrayBuffer>): void;
  close(code?: number, reason?: string): void;
}

/** Opens a WebSocket. */
export type WebSocketFactory = (url: string, protocol: string) => WebSocketLike;

/** Codes of Node's errors that say that the gateway is not who it should be. */
const HANDSHAKE = /^(ERR_TLS_|CERT_|UNABLE_TO_|DEPTH_ZERO_SELF_SIGNED|SELF_SIGNED)/;

/** Connects, without a word of the protocol yet. `origin`: https://HOST:PORT. */
export function connectWebSocket(factory: WebSocketFactory, origin: string, signal: AbortSignal): Promise<Wire> {
  return new Promise((resolve, reject) => {
    const socket = factory(`${origin.replace(/^http/, "ws")}${PATH}`, PROTOCOL);
    socket.binaryType = "arraybuffer";
    let failure: string | undefined;
    const abort = () => {
      reject(new DialError("retry", `${origin} was given up`));
      detach(socket);
      socket.close();
    };
    signal.addEventListener("abort", abort, { once: true });
    socket.onerror = (event: { message?: string; error?: { code?: string } }) => {
      failure = event.message;
      const code = event.error?.code ?? "";
      // After this the promise is settled, and the end changes nothing.
      if (HANDSHAKE.test(code)) reject(new DialError("handshake", `${origin}: ${failure ?? code}`));
    };
    socket.onclose = (event: { code: number; reason: string }) => {
      signal.removeEventListener("abort", abort);
      reject(new DialError("retry", `${origin}: ${failure ?? `closed with ${event.code} ${event.reason}`}`));
    };
    socket.onopen = () => {
      signal.removeEventListener("abort", abort);
      if (socket.protocol === PROTOCOL) return resolve(new Socket(socket));
      reject(new DialError("retry", `${origin} speaks ${socket.protocol || "another protocol"}`));
      detach(socket);
      socket.close();
    };
  });
}

function detach(socket: WebSocketLike): void {
  socket.onopen = socket.onmessage = socket.onclose = null;
  // An error that nobody listens to ends a Node process.
  socket.onerror = () => {};
}

const nobody: WireEvents = { said() {}, callBroken() {}, inbox() {}, inboxEnd() {}, room() {}, closed() {} };

class Socket implements Wire {
  readonly transport = "websocket";
  events: WireEvents = nobody;
  readonly #socket: WebSocketLike;
  #out: Uint8Array[] = [];
  #outBytes = 0;
  #laneLast = 0n;
  /** The lane of everything that goes on one. */
  #lane: bigint | undefined;
  /** Open calls: their lanes and requests. */
  readonly #calls = new Map<bigint, bigint>();

  constructor(socket: WebSocketLike) {
    this.#socket = socket;
    socket.onmessage = (event: { data: unknown }) => this.#read(event.data);
    socket.onerror = () => {};
    socket.onclose = (event: { code: number; reason: string }) => this.#closed({ code: closeCode(event.code), reason: event.reason });
  }

  put(way: Way, frame: ClientFrame): boolean {
    if (way === "lane" && this.#outBytes + this.#socket.bufferedAmount >= OUT_BYTES_MAX) return false;
    if (way === "call" && this.#calls.size >= CALLS_MAX) return false;
    const lane = this.#laneOf(way);
    const bytes = encodeFrame(clientFrame({ requestId: frame.requestId, body: frame.body, lane, end: way === "call" }));
    // With its length and its place: a few bytes stricter than the gateway is.
    if (bytes.length > FRAME_BYTES_MAX) throw new FrameTooLarge(bytes.length);
    if (way === "call") this.#calls.set(lane, frame.requestId);
    if (this.#outBytes + bytes.length > SOCKET_BATCH_BYTES) this.flush();
    this.#out.push(bytes);
    this.#outBytes += bytes.length;
    return true;
  }

  flush(): void {
    if (this.#out.length === 0) return;
    this.#socket.send(concat(...this.#out));
    this.#out = [];
    this.#outBytes = 0;
  }

  close(): void {
    this.flush();
    detach(this.#socket);
    this.#socket.close(1000);
    this.events = nobody;
  }

  /** New numbers rise, in the order of their first frames. */
  #laneOf(way: Way): bigint {
    if (way === "control") return 0n;
    if (way === "lane" && this.#lane !== undefined) return this.#lane;
    this.#laneLast += 1n;
    if (way === "lane") this.#lane = this.#laneLast;
    return this.#laneLast;
  }

  #read(data: unknown): void {
    try {
      if (!(data instanceof ArrayBuffer)) throw new Error("a message that is not binary");
      if (data.byteLength === 0 || data.byteLength > SOCKET_MESSAGE_BYTES_MAX) throw new Error(`a message of ${data.byteLength} bytes`);
      const reader = new FrameReader();
      const frames = reader.push(new Uint8Array(data));
      if (reader.inside) throw new Error("a message that ends inside a frame");
      for (const bytes of frames) this.#take(decodeServerFrame(bytes));
    } catch (error) {
      this.#giveUp(error instanceof Error ? error.message : String(error));
    }
  }

  #take({ requestId, body, lane, end, inbox }: ServerFrame): void {
    if (inbox > 0n) {
      if (body.case !== undefined) this.events.inbox(inbox, body);
      if (end) this.events.inboxEnd(inbox);
      return;
    }
    const call = this.#calls.get(lane);
    if (call !== undefined && (end || body.case !== undefined)) this.#calls.delete(lane);
    if (body.case !== undefined) this.events.said(requestId, body);
    else if (call !== undefined && end) this.events.callBroken(call);
    if (call !== undefined) this.events.room();
    if (end && (lane === 0n || lane === this.#lane)) throw new Error(`the gateway ended lane ${lane}`);
  }

  #giveUp(reason: string): void {
    const { events } = this;
    this.close();
    events.closed({ code: undefined, reason });
  }

  #closed(end: End): void {
    const { events } = this;
    this.events = nobody;
    events.closed(end);
  }
}

/** Close codes are 4000 and the code; an end without an error is 1000. */
function closeCode(code: number): number | undefined {
  if (code === 1000) return 0;
  return code >= 4000 && code < 5000 ? code - 4000 : undefined;
}
