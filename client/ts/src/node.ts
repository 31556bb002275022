// Node: what this SDK needs there and browsers have, or must not have: a WebSocket of the package `ws` that can be
// told whom to trust, and a file for the cursor.

import { open, readFile, rename } from "node:fs/promises";
import { dirname } from "node:path";

import { WebSocket } from "ws";

import { Client, type ClientOptions } from "./client.js";
import { cursorFromText, type CursorStore } from "./cursor.js";
import { DIAL_MS, SOCKET_MESSAGE_BYTES_MAX } from "./limits.js";
import type { WebSocketFactory, WebSocketLike } from "./websocket.js";

/** Whom to trust, and what to show. */
export interface Trust {
  /** The CA of the gateway's certificate, as PEM; those that Node knows unless given. */
  ca?: string | Uint8Array;
  /** The name that the certificate must be for; the address's host unless given. */
  serverName?: string;
  /** A certificate of the device, to show instead of a token: PEM, its own first, then its issuers without the CA. */
  cert?: string | Uint8Array;
  /** Its private key, as PEM. */
  key?: string | Uint8Array;
}

function pem(text: string | Uint8Array): string | Buffer {
  return typeof text === "string" ? text : Buffer.from(text);
}

/** Opens WebSockets by the package `ws`. */
export function nodeWebSocket({ ca, serverName, cert, key }: Trust = {}): WebSocketFactory {
  return (url, protocol): WebSocketLike =>
    new WebSocket(url, protocol, {
      minVersion: "TLSv1.3",
      perMessageDeflate: false,
      maxPayload: SOCKET_MESSAGE_BYTES_MAX,
      handshakeTimeout: DIAL_MS,
      ...(ca === undefined ? {} : { ca: pem(ca) }),
      ...(cert === undefined ? {} : { cert: pem(cert) }),
      ...(key === undefined ? {} : { key: pem(key) }),
      ...(serverName === undefined ? {} : { servername: serverName }),
    });
}

/** Connects over a WebSocket. @throws ConnectError */
export function connect({ ca, serverName, cert, key, ...options }: ClientOptions & Trust): Promise<Client> {
  const trust: Trust = {
    ...(ca === undefined ? {} : { ca }),
    ...(serverName === undefined ? {} : { serverName }),
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
  };
  return Client.connect({ transport: "websocket", webSocket: nodeWebSocket(trust), ...options });
}

/** In a file, which is replaced as a whole: after a crash it has the old number or the new one. */
export class FileCursorStore implements CursorStore {
  constructor(private readonly path: string) {}

  async load(): Promise<bigint | undefined> {
    try {
      return cursorFromText(await readFile(this.path, "utf8"));
    } catch (error) {
      if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
      throw error;
    }
  }

  async save(cursor: bigint): Promise<void> {
    const written = `${this.path}.new`;
    const file = await open(written, "w");
    try {
      await file.writeFile(`${cursor}\n`);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(written, this.path);
    // The new name is durable with its folder.
    const folder = await open(dirname(this.path), "r");
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  }
}
