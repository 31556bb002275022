// Limits: all bounds of this SDK on one screen. Those of the gateway are in docs/protocol.md; Welcome may change some.

/** The major version: ALPN, WebTransport protocol, WebSocket subprotocol and path. */
export const PROTOCOL = "seriatim-1";
/** Path of a session, over WebTransport and WebSocket. */
export const PATH = `/${PROTOCOL}`;
/** Where the gateway says which certificates browsers may take over WebTransport. */
export const HASHES_PATH = "/.well-known/seriatim-wt";
/** Minor versions that this SDK speaks. */
export const MINOR_MIN = 0;
export const MINOR_MAX = 0;

/** Bytes of a frame without its length. */
export const FRAME_BYTES_MAX = 262_144;
/** Bytes of a frame's length. */
export const LENGTH_BYTES_MAX = 5;
/** Bytes of a WebSocket message: a frame of the largest kind, and its place. */
export const SOCKET_MESSAGE_BYTES_MAX = 262_208;
/** Bytes of a message's body, unless Welcome says otherwise. */
export const MESSAGE_BYTES_MAX = 65_536;
/** Bytes of the name of a user, device or counter. */
export const NAME_BYTES_MAX = 64;
/** Seqs are below it. */
export const SEQ_END = 2n ** 53n;
/** Requests without an answer, unless Welcome says otherwise. */
export const REQUESTS_MAX = 256;
/** What Sync and History count for among them. */
export const PAGE_COST = 32;

/** Calls with a stream at the same time. */
export const CALLS_MAX = 8;
/** Bytes that wait for the network before more requests are encoded. */
export const OUT_BYTES_MAX = 256 * 1024;
/** Bytes of frames that are put into one WebSocket message, unless a single frame is larger. */
export const SOCKET_BATCH_BYTES = 32 * 1024;
/** Entries that may wait for the reader of a subscription, unless it says otherwise. */
export const WINDOW = 1_024;
/** Conversations whose tails are remembered; those not heard of for longest are forgotten first. */
export const TAILS_MAX = 65_536;

/** Milliseconds that WebTransport has before a WebSocket is tried beside it. */
export const HEAD_START_MS = 400;
/** Milliseconds until a gateway counts as not there. */
export const DIAL_MS = 3_000;
/** Milliseconds from the connection to Welcome. */
export const GREETING_MS = 9_000;
/** Milliseconds to the first session. */
export const CONNECT_TIMEOUT_MS = 10_000;
/** Milliseconds of a request, retries and reconnects included. */
export const REQUEST_TIMEOUT_MS = 30_000;
/** Milliseconds of a page for the subscription until it is asked for anew. */
export const REPAIR_TIMEOUT_MS = 30_000;
/** Shortest and longest pause before a new connection. */
export const RECONNECT_MS_MIN = 50;
export const RECONNECT_MS_MAX = 2_000;
/** Shortest and longest pause before a refused request is sent again, unless the gateway wants a longer one. */
export const RETRY_MS_MIN = 20;
export const RETRY_MS_MAX = 1_000;
/** Shortest pause before a subscription that was refused for now is asked for again. */
export const SUBSCRIBE_MS_MIN = 50;
/** Pause behind a page that was refused since the token has ended. */
export const EXPIRED_MS = 1_000;
/** Longest wait for a token before a connection. */
export const TOKEN_MS = 10_000;
/** Dials with fresh tokens that are refused as expired, before the client gives up. */
export const EXPIRED_MAX = 3;

/** Shares of what is left of a session between which it is renewed, drawn at random. */
export const RENEW_SHARE_MIN = 0.5;
export const RENEW_SHARE_MAX = 0.7;
/** Milliseconds between two Renews at least. */
export const RENEW_GAP_MS = 1_000;
/** Milliseconds of whoever makes tokens, and then of the gateway's answer. */
export const RENEW_PATIENCE_MS = 10_000;
/** Shortest and longest pause before a renewal that failed is tried again. */
export const RENEW_RETRY_MS_MIN = 500;
export const RENEW_RETRY_MS_MAX = 30_000;

/** Milliseconds after which a device that has said nothing says Ping, but for a random part. */
export const KEEP_ALIVE_MS = 15_000;
/** Milliseconds without a word from a gateway that owes an answer, until it is asked whether it is there. */
export const DOUBT_MS = 2_000;
/** Milliseconds without a word after that question, until it is not there. */
export const SILENCE_MS = 3_000;
/** Milliseconds between looks at the connection. */
export const LOOK_MS = 1_000;
/** Milliseconds until room is looked for again, where nobody says that there is some. */
export const ROOM_MS = 20;
