//! Limits: every bound of the product on one screen, and the proofs that they agree.
//!
//! Sizes in bytes (`_BYTES`), durations in milliseconds (`_MS`), counts of items otherwise.

/// Hash buckets of namespaces. Fixed for the life of a cluster.
pub const SLOTS: u16 = 4096;
/// Slot values from here on name a group's own rows, never a slot.
pub const SYSTEM_SLOT_FIRST: u16 = 0xFF00;
/// Data groups of a new cluster unless told otherwise.
pub const GROUPS_DEFAULT: u32 = 4;
/// Most data groups of a cluster: group 0 and these have their own rows under `SYSTEM_SLOT_FIRST + group`.
pub const GROUPS_MAX: u32 = 255;
/// Voters of a group.
pub const VOTERS: usize = 3;

/// Bits below the generation in every number that must not repeat.
pub const GENERATION_SHIFT: u32 = 44;
/// Exclusive end of every seq: JavaScript's integers end here.
pub const SEQ_END: u64 = 1 << 53;

/// Longest body of a message.
pub const MESSAGE_BYTES_MAX: u32 = 64 << 10;
/// Longest salt of a body hash.
pub const SALT_BYTES_MAX: u32 = 32;
/// Longest user, device or counter name.
pub const NAME_BYTES_MAX: u32 = 64;
/// Longest frame of the client protocol, header included. Checked before anything is allocated.
pub const FRAME_BYTES_MAX: u32 = 256 << 10;
/// Room that a frame keeps for everything but the body.
pub const FRAME_HEADER_BYTES: u32 = 4 << 10;
/// Longest token.
pub const TOKEN_BYTES_MAX: u32 = 8 << 10;
/// A token may be used this many seconds before its `nbf`: the issuer's clock may be ahead of ours.
pub const TOKEN_EARLY_S_MAX: u64 = 60;
/// The last second of the year 9999, since 1970: a token that ends later counts as one that ends then.
pub const TOKEN_END_S_MAX: u64 = 253_402_300_799;
/// Most certificates that a device shows: its own and those of its CA's CAs.
pub const CERTIFICATES_MAX: u32 = 4;
/// Most bytes of them together.
pub const CERTIFICATE_BYTES_MAX: u32 = 16 << 10;
/// Seconds before its end from which on a certificate of ours is to be renewed.
pub const CERTIFICATE_ENDING_S: u32 = 14 * 24 * 3_600;
/// Most handshakes of other nodes under way at one port, and of these from one address: the port is not for the world.
pub const NODE_HANDSHAKES_MAX: u32 = 1_024;
/// See [`NODE_HANDSHAKES_MAX`].
pub const NODE_HANDSHAKES_ADDRESS_MAX: u32 = 128;
/// Longest of them.
pub const NODE_HANDSHAKE_MS_MAX: u64 = 5_000;
/// From one look at a node's certificate files to the next.
pub const NODE_CERTIFICATE_LOOK_MS: u64 = 5_000;
/// Most CAs whose client certificates are taken.
pub const CLIENT_CAS_MAX: u32 = 16;
/// Longest file with their certificates.
pub const CLIENT_CA_BYTES_MAX: u32 = 256 << 10;
/// Most keys that tokens are verified with.
pub const TOKEN_KEYS_MAX: u32 = 64;
/// Longest file or answer with such keys.
pub const TOKEN_KEYS_BYTES_MAX: u32 = 256 << 10;
/// Longest message between our own processes.
pub const INTERNAL_FRAME_BYTES_MAX: u32 = 16 << 20;
/// Most bytes of one Raft entry.
pub const ENTRY_BYTES_MAX: u32 = 4 << 20;
/// Most commands of one Raft entry.
pub const ENTRY_COMMANDS_MAX: u32 = 4096;
/// Most bytes of the entries that one `AppendEntries` carries.
pub const APPEND_BYTES_MAX: u32 = 4 << 20;

/// Most seqs that one segment reserves.
pub const SEGMENT_SEQS_MAX: u32 = 1 << 20;
/// Seqs of a namespace's first segment.
pub const SEGMENT_SEQS_MIN: u32 = 16;
/// Most namespaces of one `Reserve` command.
pub const RESERVE_NAMESPACES_MAX: u32 = 1_024;
/// Most numbers of one `Next` of the sequence service.
pub const NEXT_NUMBERS_MAX: u32 = 1 << 16;
/// Counters that the holder of one slot keeps in memory. Full, it forgets those that nobody waits for.
pub const SLOT_COUNTERS_MAX: u32 = 2_048;
/// Requests of the sequence service that a logic node takes of one tenant in a second, unless told otherwise.
pub const SEQUENCE_REQUESTS_PER_S: u32 = 100_000;
/// Sends, changes of groups and cancels, likewise.
pub const TENANT_WRITES_PER_S: u32 = 100_000;
/// Bytes of bodies, likewise.
pub const TENANT_BYTES_PER_S: u32 = 256 << 20;
/// Syncs, histories, queries and acks, likewise.
pub const TENANT_READS_PER_S: u32 = 200_000;
/// Sends, changes of groups and cancels that a logic node takes of one user in a second, unless told otherwise.
pub const USER_WRITES_PER_S: u32 = 1_000;
/// Syncs, histories, queries and acks, likewise.
pub const USER_READS_PER_S: u32 = 2_000;
/// Most tenants with limits of their own: all are in the directory, which every node has.
pub const TENANTS_LIMITED_MAX: u32 = 1_024;

/// Age in seconds up to which a message may be edited, unless told otherwise.
pub const EDIT_WINDOW_S: u32 = 86_400;
/// Age in seconds up to which a message may be recalled, unless told otherwise.
pub const RECALL_WINDOW_S: u32 = 86_400;
/// Least age in seconds that a tenant's retention may be: attempts of sends that are older are `Expired`.
pub const RETENTION_S_MIN: u32 = 60;
/// Fewest messages that a tenant's retention may keep of a conversation or an inbox.
pub const RETENTION_MESSAGES_MIN: u32 = 100;
/// Entries that one command gives up: their rows are read and deleted between two other commands.
pub const TRIM_ENTRIES_MAX: u32 = 64;
/// Rows that one command gives up with its entries, such as reactions.
pub const TRIM_ROWS_MAX: u32 = 1_024;
/// Bytes of bodies that one command gives up, but for the last.
pub const TRIM_BYTES_MAX: u32 = 1 << 20;
/// Entries a second that a leader has given up, of all its groups.
pub const RETENTION_ENTRIES_PER_S: u32 = 5_000;
/// Conversations and inboxes a second whose age a leader looks at, of all its groups.
pub const RETENTION_NAMESPACES_PER_S: u32 = 5_000;
/// Seconds between the beginnings of two looks at all conversations and inboxes of a group.
pub const RETENTION_PERIOD_S: u64 = 300;
/// Most edits of a message: a recall erases them all in one command.
pub const EDITS_MAX: u32 = 64;
/// Most reactions of one member to one message.
pub const REACTIONS_MAX: u32 = 16;
/// Most pinned messages of a conversation.
pub const PINS_MAX: u32 = 128;
/// Most marks of one command.
pub const MARKS_MAX: u32 = 1_024;

/// Most members of a group conversation.
pub const MEMBERS_MAX: u32 = 100_000;
/// Members above which a group switches to pointers.
pub const POINTER_MEMBERS: u32 = 500;
/// Most members that pointer-less delivery serves: until pointer mode exists, a group may not grow further.
pub const INLINE_MEMBERS_MAX: u32 = POINTER_MEMBERS;
/// Most slots that a conversation's delivery record names as behind.
pub const DELIVERY_SLOTS_BEHIND_MAX: u32 = 64;
/// Undelivered entries of a conversation above which its holder answers `Backlogged`.
pub const UNDELIVERED_MAX: u64 = 10_000;
/// Most entries of one delivery range.
pub const DELIVERY_ENTRIES_MAX: u32 = 256;
/// Most devices of a user.
pub const DEVICES_MAX: u32 = 64;

/// Most entries of one sync answer.
pub const SYNC_ENTRIES_MAX: u32 = 1_000;
/// Bytes of bodies and headers at which a sync answer is cut; the gateway cuts further where a frame would overflow.
pub const SYNC_BYTES_MAX: u32 = 128 << 10;
/// Most conversations of one answer of a user's list.
pub const LIST_ROWS_MAX: u32 = 500;
/// Most rows that one read of the store scans.
pub const READ_ROWS_MAX: u32 = 4_096;

/// Requests of one session in flight before the gateway stops reading.
pub const SESSION_REQUESTS_MAX: u32 = 256;
/// Send lanes of one session.
pub const SESSION_LANES_MAX: u32 = 16;
/// Pushed bytes waiting for one session; above it the push stops and the device pulls.
pub const SESSION_PUSH_BYTES_MAX: u32 = 1 << 20;
/// Sessions of one gateway.
pub const GATEWAY_SESSIONS_MAX: u32 = 50_000;

/// The store forgets a lease this long after it last noted a renewal.
pub const LEASE_GRANT_MS: u64 = 2_000;
/// The holder stops this long before it sent the last renewal that was answered.
pub const LEASE_HOLD_MS: u64 = 1_600;
/// Period of renewals.
pub const LEASE_RENEW_MS: u64 = 400;
/// What two clocks may drift apart in one lease.
pub const CLOCK_DRIFT_MS_MAX: u64 = 200;
/// Steps between the choices of rendezvous hashing: the k-th claims after `k` of them.
pub const CLAIM_STEP_MS: u64 = 200;
/// How far a holder's wall clock may run before the store leader's.
pub const CLOCK_SKEW_MS_MAX: u64 = 60_000;

/// Raft: heartbeat period.
pub const RAFT_HEARTBEAT_MS: u64 = 150;
/// Raft: shortest election timeout.
pub const RAFT_ELECTION_MS_MIN: u64 = 500;
/// Raft: longest election timeout, and the leader lease: it counts twice in a fail-over.
pub const RAFT_ELECTION_MS_MAX: u64 = 700;

/// Bytes of commands proposed and not yet answered, per group. Full means `Busy`.
pub const PROPOSAL_BYTES_GROUP_MAX: u64 = 32 << 20;
/// Bytes of commands proposed and not yet answered, per store.
pub const PROPOSAL_BYTES_NODE_MAX: u64 = 128 << 20;
/// Entries of one group that a logic node keeps in flight; commands gather meanwhile.
pub const PROPOSALS_IN_FLIGHT_MAX: u32 = 4;
/// Commands of one slot sent and not yet answered.
pub const SLOT_IN_FLIGHT_MAX: u32 = 1_024;
/// Operations that wait at one slot's holder. Full means `Busy`.
pub const SLOT_QUEUE_MAX: u32 = 8_192;
/// Voters of a group that `cluster init` is told nothing about, if there are as many stores.
pub const VOTERS_DEFAULT: u32 = 3;
/// Most voters of a group.
pub const VOTERS_MAX: u32 = 5;
/// Most stores that `cluster init` takes.
pub const INIT_STORES_MAX: u32 = 64;
/// Bytes of what a store fails together with.
pub const DOMAIN_BYTES_MAX: u32 = 64;
/// Bytes a second that a store reads to find damage, and for digests of rows.
pub const SCRUB_BYTES_PER_S: u64 = 4 << 20;
/// So many times faster are digests made while a rotten replica waits for them to be rebuilt.
pub const DIGEST_URGENCY: u64 = 16;
/// Seconds between the beginnings of two scrubs of everything, and of two comparisons of a group's replicas.
pub const SCRUB_PERIOD_S: u64 = 6 * 3_600;
/// Seconds that a comparison waits for the digests of all replicas.
pub const COMPARE_PATIENCE_S: u64 = 3_600;
/// Bytes of what a store says is wrong with a replica.
pub const ROT_REASON_BYTES_MAX: u32 = 300;
/// Free bytes of the data folder's file system below which writes are refused.
pub const DISK_RESERVE_BYTES: u64 = 64 << 20;

/// Log entries of a group that stay after a purge for followers that lag.
pub const LOG_KEEP_ENTRIES: u64 = 10_000;
/// Log bytes of a store after which state.db is flushed so that the log can be purged.
pub const FLUSH_LOG_BYTES: u64 = 256 << 20;

/// Time a request may take at the gateway before its outcome counts as unknown.
pub const REQUEST_TIMEOUT_MS: u64 = 10_000;
/// Until a logic node takes a store's silence for a lost answer, and sends the same again under the same `n`.
pub const STORE_TIMEOUT_MS: u64 = 3_000;
/// Time a peer has for its handshake and Hello.
pub const HELLO_TIMEOUT_MS: u64 = 10_000;
/// Time between two Renews of a session, in milliseconds: each is verified here and at every logic node it uses.
pub const RENEW_PAUSE_MS: u64 = 1_000;
/// QUIC idle timeout.
pub const IDLE_TIMEOUT_MS: u64 = 45_000;
/// Time from the first byte of a WebSocket's message to its last.
pub const SOCKET_MESSAGE_TIMEOUT_MS: u64 = 120_000;
/// A gateway's watch that is silent for this long is treated as if every epoch had changed.
pub const WATCH_SILENCE_MS: u64 = 3_000;

const _: () = assert!(MESSAGE_BYTES_MAX + FRAME_HEADER_BYTES <= FRAME_BYTES_MAX); // one message always fits a frame
const _: () = assert!(TOKEN_BYTES_MAX + FRAME_HEADER_BYTES <= FRAME_BYTES_MAX); // a Hello always fits a frame
const _: () = assert!(SYNC_BYTES_MAX + MESSAGE_BYTES_MAX + FRAME_HEADER_BYTES <= FRAME_BYTES_MAX); // a sync may overshoot by one body
const _: () = assert!(MESSAGE_BYTES_MAX + FRAME_HEADER_BYTES <= ENTRY_BYTES_MAX); // one command always fits an entry
const _: () = assert!(ENTRY_BYTES_MAX + FRAME_HEADER_BYTES <= INTERNAL_FRAME_BYTES_MAX); // one entry always fits a frame
const _: () = assert!(APPEND_BYTES_MAX + ENTRY_BYTES_MAX <= INTERNAL_FRAME_BYTES_MAX); // an append may overshoot by one entry
const _: () = assert!(2 * STORE_TIMEOUT_MS < REQUEST_TIMEOUT_MS); // one lost answer of a store costs no request
const _: () = assert!(SOCKET_MESSAGE_TIMEOUT_MS > IDLE_TIMEOUT_MS); // bytes keep a message alive longer than silence would
const _: () = assert!(LEASE_HOLD_MS + CLOCK_DRIFT_MS_MAX < LEASE_GRANT_MS); // the holder stops first
const _: () = assert!(3 * LEASE_RENEW_MS < LEASE_HOLD_MS); // two lost renewals cost nothing
const _: () = assert!(RAFT_HEARTBEAT_MS * 3 <= RAFT_ELECTION_MS_MIN); // two lost heartbeats cost nothing
const _: () = assert!(SLOTS < SYSTEM_SLOT_FIRST);
const _: () = assert!(GROUPS_MAX as u64 + SYSTEM_SLOT_FIRST as u64 <= u16::MAX as u64); // every group has a system slot
const _: () = assert!(SEQ_END.is_power_of_two() && (1 << GENERATION_SHIFT) < SEQ_END);
const _: () = assert!(SEGMENT_SEQS_MIN <= SEGMENT_SEQS_MAX);
const _: () = assert!(NEXT_NUMBERS_MAX <= SEGMENT_SEQS_MAX); // one Next always fits a segment
const _: () = assert!(INLINE_MEMBERS_MAX <= MEMBERS_MAX);
const _: () = assert!(PROPOSAL_BYTES_GROUP_MAX <= PROPOSAL_BYTES_NODE_MAX);
const _: () = assert!(PROPOSAL_BYTES_GROUP_MAX >= ENTRY_BYTES_MAX as u64);
