//! Truth: an inbox that only grows, and what honest logic nodes say of it.

use arbitrary::Unstructured;
use bytes::Bytes;
use seriatim_proto::command::{EntryRef, Kind, Listed};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{BodyHash, Chain, ConversationId, MessageId, Seq, UserId};
use seriatim_proto::logic::{Body, Call, PushEntry, Reply, SendState, SyncEntry, SyncPage};
use seriatim_proto::store::InboxEntry;

/// Entries of a page or of one push.
pub(super) const BATCH_MAX: usize = 6;
/// Bytes of a body.
pub(super) const BODY_MAX: usize = 6 << 10;
/// Entries of the inbox.
const ENTRIES_MAX: usize = 200;

/// The user of the session.
pub(super) fn me() -> UserId {
    UserId::new("alice").expect("a name")
}

pub(super) fn peer() -> UserId {
    UserId::new("bob").expect("a name")
}

/// The entries that there are: seq, and bytes of the body.
#[derive(Default)]
pub(super) struct Truth {
    entries: Vec<(u64, usize)>,
}

impl Truth {
    pub(super) fn grow(&mut self, u: &mut Unstructured<'_>) {
        let choice = byte(u);
        for _ in 0..=choice % 8 {
            if self.entries.len() < ENTRIES_MAX {
                let skipped = u64::from(choice / 64);
                let body = usize::from(byte(u)) * BODY_MAX / 255;
                self.entries.push((self.tail().get() + skipped, body));
            }
        }
    }

    /// First seq behind the last entry.
    pub(super) fn tail(&self) -> Seq {
        seq(self.entries.last().map_or(1, |(last, _)| last + 1))
    }

    /// The first entry from a place on: its seq and the one before it, 0 for none.
    pub(super) fn first_from(&self, position: u64) -> Option<(u64, u64)> {
        let place = self.entries.partition_point(|(seq, _)| *seq < position);
        let (found, _) = self.entries.get(place)?;
        Some((*found, place.checked_sub(1).map_or(0, |before| self.entries[before].0)))
    }

    /// A place of the inbox.
    pub(super) fn from(&self, choice: u8) -> u64 {
        usize::from(choice).checked_rem(self.entries.len()).map_or(1, |place| self.entries[place].0)
    }

    /// Some entries, one behind another: others are lost, and these may come again.
    pub(super) fn pushed(&self, u: &mut Unstructured<'_>) -> Vec<PushEntry> {
        let choice = byte(u);
        // Most often the newest.
        let count = usize::from(choice % 4) + 1;
        let first = match choice & 0x80 {
            0 => self.entries.len().saturating_sub(count),
            _ => usize::from(byte(u)).checked_rem(self.entries.len()).unwrap_or_default(),
        };
        (first..self.entries.len().min(first + count)).map(|place| self.entry(place)).collect()
    }

    fn entry(&self, place: usize) -> PushEntry {
        let (number, body) = self.entries[place];
        let entry = EntryRef {
            seq: seq(number),
            kind: Kind::Message,
            sender: peer(),
            message_id: MessageId([7; 16]),
            body_hash: BodyHash([0; 16]),
            at_ms: 5,
        };
        PushEntry {
            seq: seq(number),
            prev_seq: place.checked_sub(1).map(|before| seq(self.entries[before].0)),
            ordinal: place as u64 + 1,
            conversation: ConversationId::direct(me(), peer()),
            entry,
            salt: Bytes::new(),
            body: Bytes::from(vec![b'x'; body]),
        }
    }

    /// What a logic node says; `calm`: and nothing is in its way.
    pub(super) fn answer(&self, u: &mut Unstructured<'_>, call: &Call, calm: bool) -> Result<Reply, Refusal> {
        let odd = if calm { 0xff } else { byte(u) };
        match call {
            Call::Send { .. } | Call::CreateGroup { .. } | Call::ChangeMembers { .. } | Call::Amend { .. } => {
                Ok(Reply::Committed { seq: seq(3), duplicate: false })
            }
            Call::QuerySend { .. } | Call::CancelSend { .. } => Ok(Reply::SendStatus(SendState::Cancelled)),
            Call::Ack { cursor } => Ok(Reply::Acked(*cursor)),
            Call::Sync { from, limit } => self.page(*from, *limit, odd),
            Call::History { .. } => Ok(Reply::History { entries: Vec::new(), upto: seq(9), more: false }),
            Call::Status => Ok(Reply::Status { inbox: None, devices: Vec::new() }),
            Call::Next { count, .. } => Ok(Reply::Numbers { first: seq(8), count: *count }),
            Call::Current { .. } => Ok(Reply::Current(seq(8))),
            Call::Mark { conversation, .. } => Ok(Reply::Marked(listed(conversation.clone()))),
            Call::List { .. } => {
                let list = vec![listed(ConversationId::direct(me(), peer()))];
                Ok(Reply::List { list, more: false, unread: 1 })
            }
        }
    }

    fn page(&self, from: Option<Seq>, limit: u32, odd: u8) -> Result<Reply, Refusal> {
        let from = from.unwrap_or(Seq::FIRST);
        if from > self.tail() {
            return Err(Refusal::new(ErrorCode::CursorAhead, "from the future"));
        }
        let first = self.entries.partition_point(|(number, _)| *number < from.get());
        let limit = (limit as usize).min(BATCH_MAX);
        let end = self.entries.len().min(first + limit);
        let entries = (first..end).map(|place| self.synced(place, odd)).collect();
        let upto = if end == self.entries.len() { self.tail() } else { seq(self.entries[end].0) };
        Ok(Reply::Sync(SyncPage {
            entries,
            upto,
            more: upto < self.tail(),
            too_long: odd == 0,
            trim: Seq::FIRST,
            tail: self.tail(),
            chain: Chain([3; 16]),
        }))
    }

    fn synced(&self, place: usize, odd: u8) -> SyncEntry {
        let push = self.entry(place);
        let body = match odd {
            1..16 => Body::Unavailable,
            16 => Body::Erased,
            17 => Body::Trimmed,
            _ => Body::Here { salt: push.salt, body: push.body },
        };
        SyncEntry {
            entry: InboxEntry {
                seq: push.seq,
                prev_seq: push.prev_seq,
                ordinal: push.ordinal,
                chain: Chain([3; 16]),
                conversation: push.conversation,
                entry: push.entry,
                messages: 1,
            },
            body,
        }
    }
}

fn listed(conversation: ConversationId) -> Listed {
    let (last, inbox_seq) = (seq(2), Some(seq(2)));
    Listed { conversation, last, inbox_seq, messages: 1, read: None, muted: false, archived: false }
}

fn seq(number: u64) -> Seq {
    Seq::new(number).expect("a small one")
}

fn byte(u: &mut Unstructured<'_>) -> u8 {
    u.arbitrary().unwrap_or_default()
}
