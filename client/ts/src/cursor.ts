// Cursor: where a device keeps its place in the inbox over restarts.

import { checkSeq } from "./entry.js";

/** Keeps one number: the first seq that the device does not have. */
export interface CursorStore {
  /** What was saved last, `undefined` for nothing. */
  load(): Promise<bigint | undefined> | bigint | undefined;
  /** Replaces it; when it returns, or its promise ends, the number survives a crash. */
  save(cursor: bigint): Promise<void> | void;
}

/** Forgets with the process: for tests, and for devices that keep nothing. */
export class MemoryCursorStore implements CursorStore {
  constructor(private cursor?: bigint) {}
  load(): bigint | undefined {
    return this.cursor;
  }
  save(cursor: bigint): void {
    this.cursor = cursor;
  }
}

/** The two functions of the browser's `Storage`. */
export interface TextStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

/** In a `Storage`, such as the browser's `localStorage`. One key per user and device. */
export class StorageCursorStore implements CursorStore {
  constructor(
    private readonly storage: TextStorage,
    private readonly key: string,
  ) {}
  load(): bigint | undefined {
    return cursorFromText(this.storage.getItem(this.key) ?? undefined);
  }
  save(cursor: bigint): void {
    this.storage.setItem(this.key, cursor.toString());
  }
}

/** @throws RangeError if the text is something else than a cursor: starting anew would repeat everything */
export function cursorFromText(text: string | undefined): bigint | undefined {
  if (text === undefined || text.trim() === "") return undefined;
  if (!/^\d{1,16}$/.test(text.trim())) throw new RangeError("the stored cursor is not a number");
  return checkSeq("the stored cursor", BigInt(text.trim()), 1n);
}
