// Framing: cuts frames out of the bytes of a stream, however they come. The length is checked before anything is kept.

import { create, fromBinary, toBinary, type MessageInitShape } from "@bufbuild/protobuf";

import { concat } from "./bytes.js";
import { ProtocolError } from "./errors.js";
import { ClientFrameSchema, ServerFrameSchema, type ClientFrame, type ServerFrame } from "./gen/seriatim/v1/client_pb.js";
import { FRAME_BYTES_MAX, LENGTH_BYTES_MAX } from "./limits.js";

/** What a device says in a frame, to be made into one. */
export type Asked = NonNullable<MessageInitShape<typeof ClientFrameSchema>["body"]>;
/** What a gateway says in a frame, if this SDK knows it. */
export type Said = Exclude<ServerFrame["body"], { case: undefined }>;

/** Reads one stream. After an error it must not be used again. */
export class FrameReader {
  // Of the length: what is read so far.
  #length = 0;
  #lengthBytes = 0;
  // Of the frame: its bytes, as far as they are there.
  #frame: Uint8Array<ArrayBuffer> | undefined;
  #filled = 0;

  /** The frames that end in this piece, without their lengths. */
  push(piece: Uint8Array): Uint8Array<ArrayBuffer>[] {
    const frames: Uint8Array<ArrayBuffer>[] = [];
    let at = 0;
    while (at < piece.length || (this.#frame !== undefined && this.#filled === this.#frame.length)) {
      if (this.#frame === undefined) {
        this.#readLength(piece[at] ?? 0);
        at += 1;
        continue;
      }
      const part = piece.subarray(at, at + this.#frame.length - this.#filled);
      this.#frame.set(part, this.#filled);
      this.#filled += part.length;
      at += part.length;
      if (this.#filled === this.#frame.length) {
        frames.push(this.#frame);
        this.#frame = undefined;
        this.#filled = 0;
      }
    }
    return frames;
  }

  /** Is there a frame of which not everything came? */
  get inside(): boolean {
    return this.#frame !== undefined || this.#lengthBytes > 0;
  }

  #readLength(byte: number): void {
    // Not by shifts: five bytes have 35 bits.
    this.#length += (byte & 0x7f) * 2 ** (7 * this.#lengthBytes);
    this.#lengthBytes += 1;
    if (byte >= 0x80) {
      if (this.#lengthBytes === LENGTH_BYTES_MAX) throw new ProtocolError("MALFORMED", "a length of more than five bytes");
      return;
    }
    if (this.#length > FRAME_BYTES_MAX) {
      throw new ProtocolError("FRAME_TOO_LARGE", `a frame of ${this.#length} bytes, at most ${FRAME_BYTES_MAX} are allowed`);
    }
    this.#frame = new Uint8Array(this.#length);
    this.#length = 0;
    this.#lengthBytes = 0;
  }
}

/** A frame of a gateway. */
export function decodeServerFrame(bytes: Uint8Array): ServerFrame {
  try {
    return fromBinary(ServerFrameSchema, bytes);
  } catch (error) {
    throw new ProtocolError("MALFORMED", `bytes that are no frame: ${error instanceof Error ? error.message : ""}`);
  }
}

/** A frame of a device. */
export function clientFrame(init: MessageInitShape<typeof ClientFrameSchema>): ClientFrame {
  return create(ClientFrameSchema, init);
}

/** A frame with its length. */
export function encodeFrame(frame: ClientFrame): Uint8Array<ArrayBuffer> {
  const bytes = toBinary(ClientFrameSchema, frame);
  return concat(leb128(bytes.length), bytes);
}

function leb128(value: number): Uint8Array {
  const bytes: number[] = [];
  for (let rest = value; ; rest >>>= 7) {
    if (rest < 0x80) {
      bytes.push(rest);
      return Uint8Array.from(bytes);
    }
    bytes.push((rest & 0x7f) | 0x80);
  }
}
