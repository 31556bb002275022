//! Deliver: ranges of conversations enter inboxes; and the source's own record of how far that went.
//!
//! ```text
//! conversation   … a ─── b ─── c ─── d        delivery (a, d] carries what the member was owed: b c d
//! inbox          last = a: writes b c d       last = c: skips b c, writes d       last < a: Jump{last}
//! ```
//! A repeat is skipped, a hole is answered with the place to go back to: so the source may forget and repeat.
//!
//! # Invariants
//! I8, I9: see `inbox.rs`. Acceptance is per member and conversation.

use seriatim_proto::command::{DeliveredRecord, Delivery, DeliveryOutcome, EntryRef, Outcome, Reject};
use seriatim_proto::guard::{self, Guard};
use seriatim_proto::ids::{ConversationId, Owner, Seq};
use seriatim_proto::limits;

use crate::append::record_is_valid;
use crate::apply::{Held, No};
use crate::inbox::Inbox;
use crate::input;
use crate::key::{Item, Key};
use crate::row::Row;
use crate::view::{Fatal, Rows, View};

/// Takes deliveries, each with an outcome of its own.
pub(crate) fn deliver(view: &mut impl View, held: Held, deliveries: &[Delivery]) -> Result<Outcome, No> {
    if !deliveries.iter().all(|delivery| is_valid(held, delivery)) {
        return Err(Reject::Malformed.into());
    }
    let outcomes = deliveries.iter().map(|delivery| take(view, held, delivery));
    Ok(Outcome::Delivered(outcomes.collect::<Result<_, Fatal>>()?))
}

fn is_valid(held: Held, delivery: &Delivery) -> bool {
    let Delivery { tenant, user, conversation, after, upto, entries, place } = delivery;
    // In a direct conversation the id says who is owed anything; of groups the source knows.
    let is_owed = match conversation {
        ConversationId::Direct(a, b) => user == a || user == b,
        ConversationId::Group(_) => true,
    };
    let rising = entries.windows(2).all(|pair| pair[0].seq < pair[1].seq);
    let inside = entries.first().is_none_or(|entry| Some(entry.seq) > *after)
        && entries.last().is_none_or(|entry| entry.seq <= *upto)
        && *after <= Some(*upto);
    input::inbox_is_in(held.slot, *tenant, user)
        && input::conversation_is_valid(conversation)
        && is_owed
        && input::seq_is_valid(*upto)
        && input::place_is_valid(*place)
        && entries.len() <= limits::DELIVERY_ENTRIES_MAX as usize
        && entries.iter().all(|entry| input::user_is_valid(&entry.sender))
        && rising
        && inside
}

fn take(view: &mut impl View, held: Held, delivery: &Delivery) -> Result<DeliveryOutcome, Fatal> {
    let Delivery { tenant, user, conversation, after, upto, entries, place } = delivery;
    let mut inbox = Inbox::load(view, held.slot, *tenant, user, conversation)?;
    let last = inbox.last();
    let accepted = *after <= last;
    let had = |entry: &EntryRef| Some(entry.seq) <= last && !guard::is_out(Guard::DeliveryRepeat);
    let new: &[EntryRef] = if accepted { &entries[entries.partition_point(had)..] } else { &[] };
    let (first, segment) = match inbox.row.allot(held, *place, new.len() as u64) {
        Ok((first, segment)) => (Some(first), segment),
        Err(_) if new.is_empty() => (None, None),
        Err(_) => return Ok(DeliveryOutcome::SeqRefused),
    };
    let mut written = Vec::with_capacity(new.len());
    let mut seq: Option<Seq> = first;
    for entry in new {
        let at = seq.expect("new entries were allotted seqs");
        written.push(inbox.enter(view, at, entry));
        seq = Some(at.next());
    }
    if !new.is_empty() || segment.is_some() {
        inbox.save_row(view);
    }
    if !accepted {
        return Ok(DeliveryOutcome::Jump { last, segment });
    }
    if last < Some(*upto) {
        inbox.raise_last(*upto);
        inbox.save_last(view);
    }
    let last = inbox.last().expect("an accepted range leaves a last entry");
    Ok(DeliveryOutcome::Accepted { last, written, segment })
}

/// Writes delivery cursors; a conversation that is delivered completely leaves the pending table.
pub(crate) fn delivered(view: &mut impl View, held: Held, records: &[DeliveredRecord]) -> Result<Outcome, No> {
    let mut writes = Vec::with_capacity(records.len());
    for DeliveredRecord { tenant, conversation, record } in records {
        if !input::conversation_is_in(held.slot, *tenant, conversation) {
            return Err(Reject::Malformed.into());
        }
        let found = view.conversation_row(held.slot, *tenant, conversation)?;
        let Some(mut row) = found.filter(|row| record_is_valid(record, row.namespace.last_seq)) else {
            return Err(Reject::Malformed.into());
        };
        row.delivered = record.clone();
        writes.push((*tenant, conversation, row));
    }
    for (tenant, conversation, mut row) in writes {
        let last = row.namespace.last_seq;
        let complete = row.delivered.all == last && row.delivered.behind.iter().all(|(_, position)| *position == last);
        if complete && row.pending {
            row.pending = false;
            view.delete(Key::pending(held.slot, tenant, conversation.clone()));
        }
        let item = Item::Namespace(Owner::Conversation(conversation.clone()));
        view.put(Key::tenant(held.slot, tenant, item), Row::Conversation(row));
    }
    Ok(Outcome::Recorded)
}
