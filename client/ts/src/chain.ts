// Chain: proves from a page alone that nothing is missing, changed or out of order in it.
//
//   body hash = H(salt's length, salt, body)      chain = H(chain before, prev_seq, seq, header)
//
// H is the first 16 bytes of BLAKE3; numbers in it have 8 bytes, big endian.

import { blake3 } from "@noble/hashes/blake3.js";

import { compare, concat, equal, utf8 } from "./bytes.js";
import { emptyChain, isAmendment, type Conversation, type Entry, type SyncPage } from "./entry.js";
import { ChainError } from "./errors.js";

function hash(...parts: Uint8Array[]): Uint8Array {
  return blake3(concat(...parts), { dkLen: 16 });
}

function eight(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value);
  return bytes;
}

// In postcard's format: integers as LEB128, texts as length and UTF-8.
function postcard(value: bigint | string): Uint8Array {
  if (typeof value === "string") {
    const text = utf8(value);
    return concat(postcard(BigInt(text.length)), text);
  }
  const bytes: number[] = [];
  for (let rest = value; ; rest >>= 7n) {
    if (rest < 0x80n) return Uint8Array.from([...bytes, Number(rest)]);
    bytes.push(Number(rest & 0x7fn) | 0x80);
  }
}

/** 16 bytes of hash over a salt and a body. */
export function bodyHash(salt: Uint8Array, body: Uint8Array): Uint8Array {
  return hash(eight(BigInt(salt.length)), salt, body);
}

function conversationBytes(user: string, conversation: Conversation): Uint8Array {
  if ("group" in conversation) return concat(Uint8Array.of(1), conversation.group);
  const smaller = compare(utf8(user), utf8(conversation.peer)) <= 0;
  const [one, other] = smaller ? [user, conversation.peer] : [conversation.peer, user];
  return concat(Uint8Array.of(0), postcard(one), postcard(other));
}

const KINDS = { message: 0, create: 1, members: 2, edit: 3, recall: 4, reaction: 5, pin: 6, read: 7, mute: 8, archive: 9 } as const;

function kindBytes(entry: Entry): Uint8Array {
  const kind = Uint8Array.of(KINDS[entry.kind]);
  if (isAmendment(entry)) return concat(kind, postcard(entry.target));
  return entry.kind === "mute" || entry.kind === "archive" ? concat(kind, setByte(entry)) : kind;
}

function setByte({ unset }: Entry): Uint8Array {
  return Uint8Array.of(unset ? 0 : 1);
}

/** What the chain of `user`'s inbox binds of an entry, besides its place. */
export function headerBytes(user: string, entry: Entry): Uint8Array {
  return concat(
    Uint8Array.of(1),
    conversationBytes(user, entry.conversation),
    postcard(entry.conversationSeq),
    kindBytes(entry),
    postcard(entry.sender),
    entry.messageId,
    entry.bodyHash,
    postcard(entry.atMs),
  );
}

/** The chain at an entry, from the chain before it. */
export function link(before: Uint8Array, prevSeq: bigint, seq: bigint, header: Uint8Array): Uint8Array {
  return hash(before, eight(prevSeq), eight(seq), header);
}

/** Does the body match its hash; of a reaction and of a pin, what they say? `true` where there is none to check. */
export function bodyMatches(entry: Entry): boolean {
  if (entry.body.state !== "here") return true;
  const none = new Uint8Array();
  switch (entry.kind) {
    case "create":
    case "members":
      return true;
    case "reaction":
      return entry.emoji !== "" && equal(bodyHash(none, concat(setByte(entry), utf8(entry.emoji))), entry.bodyHash);
    case "pin":
      return equal(bodyHash(none, setByte(entry)), entry.bodyHash);
    default:
      return equal(bodyHash(entry.body.salt, entry.body.bytes), entry.bodyHash);
  }
}

/**
 * Recomputes the links of a page of `user`'s inbox from `previous`, the chain at the last entry before it (16 zero
 * bytes before the first). Returns the chain at the page's last entry, for the next page.
 *
 * @throws ChainError if something is missing, changed or out of order
 */
export function verifyPage(user: string, page: SyncPage, previous: Uint8Array = emptyChain()): Uint8Array {
  let chain = previous;
  let last: bigint | undefined;
  for (const entry of page.entries) {
    if (last !== undefined && entry.prevSeq !== last) throw new ChainError("predecessor", entry.seq);
    chain = link(chain, entry.prevSeq, entry.seq, headerBytes(user, entry));
    if (entry.chain !== undefined && !equal(entry.chain, chain)) throw new ChainError("broken", entry.seq);
    if (!bodyMatches(entry)) throw new ChainError("body", entry.seq);
    last = entry.seq;
  }
  if (last !== undefined && !equal(page.chain, chain)) throw new ChainError("broken", last);
  return chain;
}
