//! Reads: what any logic node answers by linearizable reads, never from memory: sync, history, status, `QuerySend`.
//!
//! # Invariants
//! I10, I12: `upto` is what one read of the inbox covered; a body that nobody answers for is `Unavailable`, and the
//! entry still counts. I14: history shows only entries inside the caller's stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::hash;
use seriatim_proto::ids::{Chain, ConversationId, GroupId, MessageId, Namespace, Seq, SlotId, TenantId, UserId};
use seriatim_proto::limits;
use seriatim_proto::logic::{Body, Call, HistoryEntry, Identity, Reply, SendState, SyncEntry, SyncPage};
use seriatim_proto::store::{InboxEntry, Read, ReadOutcome, StoredMessage};
use tokio::time::Instant;

use crate::store_client::StoreClient;

/// Answers one call of a session.
pub(crate) async fn answer(stores: &Arc<StoreClient>, who: &Identity, call: Call) -> Result<Reply, Refusal> {
    match call {
        Call::Sync { from, limit } => sync(stores, who, from, limit).await,
        Call::History { conversation, from, limit } => history(stores, who, conversation, from, limit).await,
        Call::Status => status(stores, who).await,
        Call::List { after, limit } => list(stores, who, after, limit).await,
        Call::QuerySend { conversation, message_id, known } => {
            query(stores, who, conversation, message_id, known).await
        }
        Call::Send { .. }
        | Call::CancelSend { .. }
        | Call::CreateGroup { .. }
        | Call::ChangeMembers { .. }
        | Call::Amend { .. }
        | Call::Mark { .. }
        | Call::Ack { .. }
        | Call::Next { .. }
        | Call::Current { .. } => Err(Refusal::new(ErrorCode::Internal, "a holder's call came to the reader")),
    }
}

fn group_of(stores: &StoreClient, slot: SlotId) -> Result<GroupId, Refusal> {
    let unknown = || Refusal::later(ErrorCode::Unavailable, "no group is known for the slot", 100);
    stores.topology.group_of(slot).ok_or_else(unknown)
}

fn odd() -> Refusal {
    Refusal::new(ErrorCode::Internal, "a read was answered with something else")
}

async fn read_one(stores: &StoreClient, slot: SlotId, read: Read) -> Result<ReadOutcome, Refusal> {
    let outcomes = stores.read(group_of(stores, slot)?, vec![read]).await?;
    outcomes.into_iter().next().ok_or_else(odd)
}

async fn sync(stores: &Arc<StoreClient>, who: &Identity, from: Option<Seq>, limit: u32) -> Result<Reply, Refusal> {
    stores.metrics.syncs.inc();
    let limit = if limit == 0 { limits::SYNC_ENTRIES_MAX } else { limit.min(limits::SYNC_ENTRIES_MAX) };
    let slot = hash::inbox_slot(who.tenant, &who.user);
    let read = Read::Inbox { tenant: who.tenant, user: who.user.clone(), from, limit };
    let ReadOutcome::Inbox { state, entries } = read_one(stores, slot, read).await? else { return Err(odd()) };
    let Some(state) = state else {
        if from.is_some_and(|from| from > Seq::FIRST) {
            return Err(ahead());
        }
        let (upto, trim) = (Seq::FIRST, Seq::FIRST);
        let page = SyncPage {
            entries: Vec::new(),
            upto,
            more: false,
            too_long: false,
            trim,
            tail: trim,
            chain: Chain::default(),
        };
        return Ok(Reply::Sync(page));
    };
    if from.is_some_and(|from| from > state.tail) {
        return Err(ahead());
    }
    // Whoever has nothing begins with what is kept.
    let too_long = from.is_some_and(|from| Seq::FIRST < from && from < state.trim);
    let whole = entries.len() < limit as usize;
    let count = entries.len();
    let mut given = Vec::with_capacity(count);
    let mut bytes = 0;
    let until = Instant::now() + BODIES_PATIENCE;
    for chunk in entries.chunks(BODIES_MAX) {
        let time = given.is_empty() || Instant::now() < until;
        if time && bytes < limits::SYNC_BYTES_MAX as usize {
            given.extend(with_bodies(stores, who.tenant, chunk.to_vec(), until, &mut bytes).await);
        }
    }
    let entries = given;
    let cut = entries.len() < count;
    let more = cut || !whole;
    let last = entries.last().map(|entry| (entry.entry.seq, entry.entry.chain));
    let upto = if more { last.map_or_else(|| from.unwrap_or(state.trim), |(seq, _)| seq.next()) } else { state.tail };
    let chain = match last {
        Some((_, chain)) => chain,
        None => state.chain,
    };
    let more = more && upto < state.tail;
    Ok(Reply::Sync(SyncPage { entries, upto, more, too_long, trim: state.trim, tail: state.tail, chain }))
}

fn ahead() -> Refusal {
    Refusal::new(ErrorCode::CursorAhead, "a cursor from the future: it lies above the inbox's tail")
}

/// Fetches bodies from their conversations, one multi-get per group, and cuts the page where it gets too large. What
/// is not there at `until` is `Unavailable`.
async fn with_bodies(
    stores: &Arc<StoreClient>,
    tenant: TenantId,
    entries: Vec<InboxEntry>,
    until: Instant,
    bytes: &mut usize,
) -> Vec<SyncEntry> {
    let mut wanted: BTreeMap<GroupId, BTreeMap<ConversationId, Vec<Seq>>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| !entry.entry.kind.is_mark()) {
        if let Some(group) = stores.topology.group_of(hash::conversation_slot(tenant, &entry.conversation)) {
            wanted.entry(group).or_default().entry(entry.conversation.clone()).or_default().push(entry.entry.seq);
        }
    }
    let fetches = wanted.into_iter().map(|(group, conversations)| async move {
        let mut found: Vec<(ConversationId, Vec<StoredMessage>)> = Vec::new();
        let reads = conversations
            .iter()
            .map(|(conversation, seqs)| Read::MessagesAt {
                tenant,
                conversation: conversation.clone(),
                seqs: seqs.clone(),
            })
            .collect();
        if let Ok(Ok(outcomes)) = tokio::time::timeout_at(until, stores.read(group, reads)).await {
            for (conversation, outcome) in conversations.into_keys().zip(outcomes) {
                if let ReadOutcome::Messages(messages) = outcome {
                    found.push((conversation, messages));
                }
            }
        }
        found
    });
    let mut bodies: BTreeMap<(ConversationId, Seq), StoredMessage> = BTreeMap::new();
    let mut answered = BTreeSet::new();
    for (conversation, messages) in futures_util::future::join_all(fetches).await.into_iter().flatten() {
        answered.insert(conversation.clone());
        for message in messages {
            bodies.insert((conversation.clone(), message.entry.seq), message);
        }
    }
    let absent = absent(stores, tenant, &entries, &answered, &bodies, until).await;
    let mut page = Vec::with_capacity(entries.len());
    for entry in entries {
        let body = match bodies.remove(&(entry.conversation.clone(), entry.entry.seq)) {
            Some(message) if message.erased => {
                stores.metrics.bodies_erased.inc();
                Body::Erased
            }
            Some(message) => Body::Here { salt: message.salt, body: message.body },
            // A mark comes from no conversation, and says what it says in its header.
            None if entry.entry.kind.is_mark() => Body::Here { salt: Bytes::new(), body: Bytes::new() },
            None => match absent.get(&entry.conversation) {
                Some(trim) if entry.entry.seq < *trim => Body::Trimmed,
                Some(_) => {
                    stores.metrics.bodies_absent.inc();
                    tracing::error!(seq = entry.entry.seq.get(), "ALARM: a body that must be there is not");
                    Body::Unavailable
                }
                None => Body::Unavailable,
            },
        };
        *bytes += ENTRY_BYTES + if let Body::Here { body, .. } = &body { body.len() } else { 0 };
        page.push(SyncEntry { entry, body });
        if *bytes >= limits::SYNC_BYTES_MAX as usize {
            break;
        }
    }
    page
}

/// The first kept entries of conversations that answered without all bodies that were asked for. Read behind the bodies,
/// and trims only rise: what was not there and lies at or above it was not trimmed.
async fn absent(
    stores: &Arc<StoreClient>,
    tenant: TenantId,
    entries: &[InboxEntry],
    answered: &BTreeSet<ConversationId>,
    bodies: &BTreeMap<(ConversationId, Seq), StoredMessage>,
    until: Instant,
) -> BTreeMap<ConversationId, Seq> {
    let lacks = |entry: &&InboxEntry| {
        !entry.entry.kind.is_mark()
            && answered.contains(&entry.conversation)
            && !bodies.contains_key(&(entry.conversation.clone(), entry.entry.seq))
    };
    let lacking: BTreeSet<_> = entries.iter().filter(lacks).map(|entry| entry.conversation.clone()).collect();
    let mut wanted: BTreeMap<GroupId, Vec<ConversationId>> = BTreeMap::new();
    for conversation in lacking {
        if let Some(group) = stores.topology.group_of(hash::conversation_slot(tenant, &conversation)) {
            wanted.entry(group).or_default().push(conversation);
        }
    }
    let asked = wanted.into_iter().map(|(group, conversations)| async move {
        let read =
            |conversation: &ConversationId| Read::Namespace(Namespace::conversation(tenant, conversation.clone()));
        let reads = conversations.iter().map(read).collect();
        let outcomes = match tokio::time::timeout_at(until, stores.read(group, reads)).await {
            Ok(Ok(outcomes)) => outcomes,
            _ => Vec::new(),
        };
        let trim = |(conversation, outcome)| match outcome {
            ReadOutcome::Namespace(row) => Some((conversation, row.map_or(Seq::FIRST, |row| row.trim))),
            _ => None,
        };
        conversations.into_iter().zip(outcomes).filter_map(trim).collect::<Vec<_>>()
    });
    futures_util::future::join_all(asked).await.into_iter().flatten().collect()
}

/// A page of what the caller was a member for. Stays and messages are read at one moment: between two reads he could
/// leave, and be shown what was said afterwards, or join, and miss the entry that lets him in.
async fn history(
    stores: &Arc<StoreClient>,
    who: &Identity,
    conversation: ConversationId,
    from: Option<Seq>,
    limit: u32,
) -> Result<Reply, Refusal> {
    let limit = if limit == 0 { limits::SYNC_ENTRIES_MAX } else { limit.min(limits::SYNC_ENTRIES_MAX) };
    let tenant = who.tenant;
    let group = group_of(stores, hash::conversation_slot(tenant, &conversation))?;
    let first = from.unwrap_or(Seq::FIRST);
    let bytes_max = limits::SYNC_BYTES_MAX;
    let reads = vec![
        Read::Conversation { tenant, conversation: conversation.clone() },
        Read::Messages { tenant, conversation, from: first, limit, bytes_max },
    ];
    let (state, messages) = match <[ReadOutcome; 2]>::try_from(stores.read(group, reads).await?) {
        Ok([ReadOutcome::Conversation(Some(state)), ReadOutcome::Messages(messages)])
            if state.stays.iter().any(|stay| stay.user == who.user) =>
        {
            (state, messages)
        }
        // "No such thing" and "not yours" look the same.
        Ok([ReadOutcome::Conversation(_), _]) => {
            return Err(Refusal::new(ErrorCode::NotFound, "no such conversation, or not yours"));
        }
        _ => return Err(odd()),
    };
    let from = from.unwrap_or(state.namespace.trim);
    let upto = messages.last().map_or(from, |message| message.entry.seq.next());
    let inside = |seq: Seq| {
        state
            .stays
            .iter()
            .any(|stay| stay.user == who.user && stay.joined <= seq && stay.left.is_none_or(|left| seq <= left))
    };
    let more = upto < state.namespace.tail && !messages.is_empty();
    let entries = messages
        .into_iter()
        .filter(|message| inside(message.entry.seq))
        .map(|message| HistoryEntry { message })
        .collect();
    Ok(Reply::History { entries, upto, more })
}

async fn status(stores: &Arc<StoreClient>, who: &Identity) -> Result<Reply, Refusal> {
    let group = group_of(stores, hash::inbox_slot(who.tenant, &who.user))?;
    let reads = vec![
        Read::Namespace(Namespace::inbox(who.tenant, who.user.clone())),
        Read::Cursors { tenant: who.tenant, user: who.user.clone() },
    ];
    match <[ReadOutcome; 2]>::try_from(stores.read(group, reads).await?) {
        Ok([ReadOutcome::Namespace(inbox), ReadOutcome::Cursors(devices)]) => Ok(Reply::Status { inbox, devices }),
        _ => Err(odd()),
    }
}

/// The user's conversations, and how much of them is not read: read at one moment.
async fn list(
    stores: &Arc<StoreClient>,
    who: &Identity,
    after: Option<ConversationId>,
    limit: u32,
) -> Result<Reply, Refusal> {
    let limit = if limit == 0 { limits::LIST_ROWS_MAX } else { limit.min(limits::LIST_ROWS_MAX) };
    let (tenant, user) = (who.tenant, who.user.clone());
    let read = Read::List { tenant, user, after, limit: limit + 1 };
    let slot = hash::inbox_slot(who.tenant, &who.user);
    let ReadOutcome::List { state, read, mut list } = read_one(stores, slot, read).await? else { return Err(odd()) };
    let more = list.len() > limit as usize;
    list.truncate(limit as usize);
    let messages = state.map_or(0, |state| state.ordinal);
    Ok(Reply::List { list, more, unread: messages.saturating_sub(read) })
}

async fn query(
    stores: &Arc<StoreClient>,
    who: &Identity,
    conversation: ConversationId,
    message_id: MessageId,
    known: Option<Seq>,
) -> Result<Reply, Refusal> {
    let slot = hash::conversation_slot(who.tenant, &conversation);
    let (tenant, sender): (TenantId, UserId) = (who.tenant, who.user.clone());
    let reads = vec![
        Read::Dedupe { tenant, conversation: conversation.clone(), sender, message_id },
        Read::Namespace(Namespace::conversation(tenant, conversation)),
    ];
    let state = match <[ReadOutcome; 2]>::try_from(stores.read(group_of(stores, slot)?, reads).await?) {
        Ok([ReadOutcome::Dedupe(Some(seq)), _]) => SendState::Committed(seq),
        Ok([ReadOutcome::Cancelled, _]) => SendState::Cancelled,
        Ok([ReadOutcome::Dedupe(None), ReadOutcome::Namespace(row)]) => {
            let trim = row.map_or(Seq::FIRST, |row| row.trim);
            if known.unwrap_or(Seq::FIRST) < trim { SendState::Expired } else { SendState::NotYet }
        }
        _ => return Err(odd()),
    };
    Ok(Reply::SendStatus(state))
}

/// Entries whose bodies are read in one go: even with the longest bodies the answer fits a frame.
const BODIES_MAX: usize = 100;
/// How long a page waits for bodies of groups that do not answer: the gateway waits twice as long for the page.
const BODIES_PATIENCE: Duration = Duration::from_millis(limits::REQUEST_TIMEOUT_MS / 2);
/// What an entry takes in a page besides its body.
const ENTRY_BYTES: usize = 320;
