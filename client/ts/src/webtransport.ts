// WebTransport: the streams of the protocol are streams of the session.

import { concat, fromHex } from "./bytes.js";
import { decodeServerFrame, encodeFrame, FrameReader } from "./framing.js";
import type { ClientFrame, ServerFrame } from "./gen/seriatim/v1/client_pb.js";
import { CALLS_MAX, FRAME_BYTES_MAX, HASHES_PATH, OUT_BYTES_MAX, PROTOCOL } from "./limits.js";
import type { Way } from "./requests.js";
import { DialError, FrameTooLarge, type End, type Wire, type WireEvents } from "./wire.js";

/** What the gateway says about the certificates that it shows browsers. */
interface Published {
  readonly port: number;
  readonly path: string;
  readonly algorithm: string;
  readonly hashes: readonly string[];
}

/** Longest wait from the end of the control stream to the reason of the session's end, in milliseconds. */
const REASON_MS = 1_000;

/** Remembers what gateways publish, until a connection fails. */
export class Hashes {
  readonly #published = new Map<string, Published>();

  async of(origin: string, signal: AbortSignal): Promise<Published> {
    const known = this.#published.get(origin);
    if (known !== undefined) return known;
    const answer = await fetch(`${origin}${HASHES_PATH}`, { signal, cache: "no-store", credentials: "omit" });
    if (!answer.ok) throw new DialError("retry", `${origin}${HASHES_PATH}: ${answer.status}`);
    const published = (await answer.json()) as Published;
    this.#published.set(origin, published);
    return published;
  }

  forget(origin: string): void {
    this.#published.delete(origin);
  }
}

/** Connects, without a word of the protocol yet. `origin`: https://HOST:PORT. */
export async function connectWebTransport(hashes: Hashes, origin: string, signal: AbortSignal): Promise<Wire> {
  if (typeof WebTransport === "undefined") throw new DialError("setup", "this platform has no WebTransport");
  let transport: WebTransport | undefined;
  try {
    const published = await hashes.of(origin, signal);
    const url = new URL(published.path, origin);
    url.port = String(published.port);
    const options: WebTransportOptions & { protocols: string[] } = { protocols: [PROTOCOL] };
    if (published.hashes.length > 0) {
      const { algorithm } = published;
      options.serverCertificateHashes = published.hashes.map((hash) => ({ algorithm, value: fromHex(hash) }));
    }
    signal.throwIfAborted();
    transport = new WebTransport(url, options);
    const given = aborted(signal);
    transport.closed.catch(() => {});
    await Promise.race([transport.ready, given]);
    const { protocol } = transport as { protocol?: string };
    if (protocol !== undefined && protocol !== "" && protocol !== PROTOCOL) throw new Error(`${origin} speaks ${protocol}`);
    return new Session(transport);
  } catch (error) {
    hashes.forget(origin);
    try {
      transport?.close();
    } catch {
      // It never was open.
    }
    if (error instanceof DialError) throw error;
    throw new DialError("retry", `${origin}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => signal.addEventListener("abort", () => reject(new DialError("retry", "given up")), { once: true }));
}

const nobody: WireEvents = { said() {}, callBroken() {}, inbox() {}, inboxEnd() {}, room() {}, closed() {} };

/** What is written to one stream: in order, from before it is open. */
class Out {
  #pieces: Uint8Array[] = [];
  /** Bytes that the network has not taken. */
  bytes = 0;

  constructor(
    private readonly writer: Promise<WritableStreamDefaultWriter>,
    private readonly taken: () => void,
  ) {
    // The end of the session says why.
    writer.catch(() => {});
  }

  put(piece: Uint8Array): void {
    this.#pieces.push(piece);
    this.bytes += piece.length;
  }

  flush(end: boolean): void {
    const pieces = this.#pieces.splice(0);
    if (pieces.length === 0) return;
    const bytes = concat(...pieces);
    const written = this.writer.then(async (writer) => {
      const write = writer.write(bytes);
      if (end) await writer.close();
      await write;
    });
    written.catch(() => {}).finally(() => {
      this.bytes -= bytes.length;
      this.taken();
    });
  }
}

class Session implements Wire {
  readonly transport = "webtransport";
  events: WireEvents = nobody;
  readonly #transport: WebTransport;
  readonly #control: Out;
  #lane: Out | undefined;
  #calls = 0;
  #over = false;

  constructor(transport: WebTransport) {
    this.#transport = transport;
    const end = (info: { closeCode?: number; reason?: string }) => this.#closed({ code: info.closeCode, reason: info.reason ?? "" });
    transport.closed.then(end, (error: unknown) => end({ reason: error instanceof Error ? error.message : String(error) }));
    // The first one is the control stream.
    this.#control = this.#open("the control stream", (frame) => this.#say(frame));
    void this.#readInboxes();
  }

  put(way: Way, frame: ClientFrame): boolean {
    if (way === "lane" && (this.#lane?.bytes ?? 0) >= OUT_BYTES_MAX) return false;
    if (way === "call" && this.#calls >= CALLS_MAX) return false;
    const bytes = encodeFrame(frame);
    if (bytes.length > FRAME_BYTES_MAX) throw new FrameTooLarge(bytes.length);
    switch (way) {
      case "control":
        this.#control.put(bytes);
        break;
      case "lane":
        this.#lane ??= this.#open("the lane", (answer) => this.#say(answer));
        this.#lane.put(bytes);
        break;
      case "call":
        this.#call(frame.requestId, bytes);
        break;
    }
    return true;
  }

  flush(): void {
    this.#control.flush(false);
    this.#lane?.flush(false);
  }

  close(): void {
    this.#over = true;
    this.events = nobody;
    try {
      this.#transport.close({ closeCode: 0, reason: "" });
    } catch {
      // It is closed already.
    }
  }

  /** Opens a stream that must last as long as the session. */
  #open(what: string, take: (frame: ServerFrame) => void): Out {
    const opened = this.#transport.createBidirectionalStream();
    opened.then(async ({ readable }) => {
      await this.#read(readable, take);
      // The session's end, which follows, says why.
      setTimeout(() => this.#giveUp(`the gateway ended ${what}`), REASON_MS);
    }, () => {});
    return new Out(opened.then(({ writable }) => writable.getWriter()), () => this.events.room());
  }

  /** One question on a stream of its own. */
  #call(requestId: bigint, bytes: Uint8Array): void {
    this.#calls += 1;
    const opened = this.#transport.createBidirectionalStream();
    const out = new Out(opened.then(({ writable }) => writable.getWriter()), () => {});
    out.put(bytes);
    out.flush(true);
    let answered = false;
    const take = (frame: ServerFrame) => {
      answered ||= frame.body.case !== undefined;
      this.#say(frame);
    };
    const over = () => {
      this.#calls -= 1;
      if (!answered) this.events.callBroken(requestId);
      this.events.room();
    };
    opened.then(({ readable }) => this.#read(readable, take)).then(over, over);
  }

  async #readInboxes(): Promise<void> {
    const streams = this.#transport.incomingUnidirectionalStreams.getReader();
    try {
      for (;;) {
        const { value, done } = await streams.read();
        if (done) return;
        void this.#readInbox(value as ReadableStream<Uint8Array>);
      }
    } catch {
      // The end of the session says why.
    }
  }

  async #readInbox(stream: ReadableStream<Uint8Array>): Promise<void> {
    let subscriptionId: bigint | undefined;
    await this.#read(stream, ({ body }) => {
      if (subscriptionId === undefined) {
        if (body.case !== "streamHeader") throw new Error("an inbox stream without a header");
        subscriptionId = body.value.subscriptionId;
      }
      if (body.case !== undefined) this.events.inbox(subscriptionId, body);
    });
    if (subscriptionId !== undefined) this.events.inboxEnd(subscriptionId);
  }

  /** Reads a stream to its end, however that comes. */
  async #read(stream: ReadableStream<Uint8Array>, take: (frame: ServerFrame) => void): Promise<void> {
    const frames = new FrameReader();
    const reader = stream.getReader();
    for (;;) {
      let piece: Uint8Array;
      try {
        const { value, done } = await reader.read();
        if (done) return;
        piece = value;
      } catch {
        return;
      }
      try {
        for (const bytes of frames.push(piece)) take(decodeServerFrame(bytes));
      } catch (error) {
        return this.#giveUp(error instanceof Error ? error.message : String(error));
      }
    }
  }

  #say({ requestId, body }: ServerFrame): void {
    if (body.case !== undefined) this.events.said(requestId, body);
  }

  #giveUp(reason: string): void {
    if (this.#over) return;
    const { events } = this;
    this.close();
    events.closed({ code: undefined, reason });
  }

  #closed(end: End): void {
    if (this.#over) return;
    this.#over = true;
    const { events } = this;
    this.events = nobody;
    events.closed(end);
  }
}
