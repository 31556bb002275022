// A device in a browser, written from docs/protocol.md: no library, protobuf by hand.
//   session(way, {url, hashes, token, peer, body}) → what it saw

const concat = (...parts) => {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) { out.set(part, at); at += part.length; }
  return out;
};

const varint = (number) => {
  const out = [];
  for (let rest = BigInt(number); ; rest >>= 7n) {
    if (rest < 128n) { out.push(Number(rest)); return Uint8Array.from(out); }
    out.push(Number(rest & 127n) | 128);
  }
};

const text = (string) => new TextEncoder().encode(string);
const number = (field, value) => value ? concat(varint(field << 3), varint(value)) : new Uint8Array();
const bytes = (field, value) => concat(varint(field << 3 | 2), varint(value.length), value);

const readVarint = (buffer, at) => {
  let value = 0n;
  for (let shift = 0n; ; shift += 7n) {
    if (at >= buffer.length) return null;
    const byte = buffer[at++];
    value |= BigInt(byte & 127) << shift;
    if (byte < 128) return [value, at];
  }
};

// field number → its values: BigInt or bytes
const decode = (buffer) => {
  const fields = {};
  for (let at = 0; at < buffer.length;) {
    let tag, value;
    [tag, at] = readVarint(buffer, at);
    if ((tag & 7n) === 0n) [value, at] = readVarint(buffer, at);
    else if ((tag & 7n) === 2n) {
      let length;
      [length, at] = readVarint(buffer, at);
      value = buffer.subarray(at, at + Number(length));
      at += Number(length);
    } else throw new Error(`wire type ${tag & 7n}`);
    (fields[Number(tag >> 3n)] ??= []).push(value);
  }
  return fields;
};

// Cuts frames out of what comes.
class Frames {
  #rest = new Uint8Array();
  push(chunk) {
    this.#rest = concat(this.#rest, chunk);
    const frames = [];
    for (;;) {
      const length = readVarint(this.#rest, 0);
      if (!length || this.#rest.length < length[1] + Number(length[0])) return frames;
      const end = length[1] + Number(length[0]);
      frames.push(decode(this.#rest.subarray(length[1], end)));
      this.#rest = this.#rest.slice(end);
    }
  }
}

const framed = (message) => concat(varint(message.length), message);

// Both ways in look the same from here on: send(stream, message, end), onframe(frame, isInbox), closed.
const overWebTransport = async ({ url, hashes }, onframe) => {
  const wt = new WebTransport(url, {
    protocols: ['seriatim-1'],
    serverCertificateHashes: hashes.map((hash) => ({
      algorithm: 'sha-256',
      value: Uint8Array.from(hash.match(/../g), (pair) => parseInt(pair, 16)),
    })),
  });
  await wt.ready;
  const read = async (readable, isInbox) => {
    const frames = new Frames();
    const reader = readable.getReader();
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        for (const frame of frames.push(value)) onframe(frame, isInbox);
      }
    } catch { /* the end of the session says why */ }
  };
  (async () => {
    const inboxes = wt.incomingUnidirectionalStreams.getReader();
    try {
      for (;;) {
        const { value, done } = await inboxes.read();
        if (done) return;
        read(value, true);
      }
    } catch { /* the end of the session says why */ }
  })();
  const streams = new Map();
  return {
    protocol: wt.protocol,
    async send(stream, message, end) {
      if (!streams.has(stream)) {
        const opened = await wt.createBidirectionalStream();
        streams.set(stream, opened.writable.getWriter());
        read(opened.readable, false);
      }
      const writer = streams.get(stream);
      await writer.write(framed(message));
      if (end) await writer.close();
    },
    closed: wt.closed.then(({ closeCode }) => closeCode),
    close: () => wt.close(),
  };
};

const overWebSocket = async ({ url }, onframe) => {
  const socket = new WebSocket(url.replace('https:', 'wss:'), 'seriatim-1');
  socket.binaryType = 'arraybuffer';
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = () => reject(new Error('no WebSocket'));
  });
  const frames = new Frames();
  socket.onmessage = ({ data }) => {
    for (const frame of frames.push(new Uint8Array(data))) if (Object.keys(frame).some((field) => field >= 10)) onframe(frame, !!frame[6]);
  };
  return {
    protocol: socket.protocol,
    async send(stream, message, end) {
      socket.send(framed(concat(message, number(4, stream), number(5, end ? 1 : 0))));
    },
    closed: new Promise((resolve) => { socket.onclose = ({ code }) => resolve(code === 1000 ? 0 : code - 4000); }),
    close: () => socket.close(1000),
  };
};

const string = (value) => new TextDecoder().decode(value);

const session = async (way, options) => {
  const waiting = new Map();
  const entries = [];
  let delivered;
  const first = new Promise((resolve) => { delivered = resolve; });
  const connection = await { webtransport: overWebTransport, websocket: overWebSocket }[way](options, (frame, isInbox) => {
    if (isInbox) {
      for (const deliver of frame[14] ?? []) for (const entry of decode(deliver)[1] ?? []) entries.push(decode(entry));
      if (entries.some((entry) => string(entry[13][0]) === options.body)) delivered();
    } else {
      waiting.get(Number(frame[1]?.[0] ?? 0n))?.(frame);
    }
  });
  const ask = async (stream, id, field, body, end) => {
    const answer = new Promise((resolve) => waiting.set(id, resolve));
    await connection.send(stream, concat(number(1, id), bytes(field, body)), end);
    return Promise.race([answer, connection.closed.then((code) => ({ closed: code }))]);
  };
  const hello = await ask(0, 1, 10, concat(bytes(5, text(options.token)), bytes(6, text(way))));
  if (!hello[10]) return { protocol: connection.protocol, closed: await connection.closed };
  const welcome = decode(hello[10][0]);
  await ask(0, 2, 12, concat(number(1, 1), number(3, 100)));
  const conversation = bytes(1, text(options.peer));
  const id = crypto.getRandomValues(new Uint8Array(16));
  const send = concat(bytes(1, id), bytes(2, conversation), bytes(4, text(options.body)));
  const committed = await ask(1, 3, 16, send);
  const again = await ask(1, 4, 16, send);
  await first;
  const synced = await ask(2, 5, 19, number(1, 1), true);
  const page = decode(synced[20][0]);
  const pong = await ask(0, 6, 11, number(1, 7));
  connection.close();
  return {
    protocol: connection.protocol,
    user: string(welcome[7][0]),
    committed: Number(decode(committed[18][0])[1][0]),
    duplicate: Number(decode(again[18][0])[2]?.[0] ?? 0n),
    delivered: entries.map((entry) => string(entry[13][0])),
    synced: (page[1] ?? []).map((entry) => string(decode(entry)[13][0])),
    pong: Number(decode(pong[11][0])[1][0]),
  };
};
