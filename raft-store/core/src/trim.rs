//! Trim: the oldest entries of a conversation or an inbox are given up, with everything that is only about them.
//!
//! ```text
//! conversation  ▒▒▒▒▒▒▒▒ trim ───────────── slowest cursor ─── tail      trim never passes what is not delivered
//! inbox         ▒▒▒▒ trim ─────────────────────────────────── tail      nor the tail
//! ```
//! The leader finds what is due (`retention.rs`'s [`due`]) and proposes; apply compares seqs, never times. With a
//! message go its dedupe row, its edits' list, its reactions and its pin; tombstones of cancelled sends go by their
//! place. A send whose rows may have gone is `Expired`: no message comes twice, however late it is tried once more.
//!
//! # Invariants
//! I4: `trim` only grows, and never passes the tail. I7: a message's dedupe row goes with it, not before. I9: what a
//! target slot may still ask for is kept.

use seriatim_proto::command::{Command, Outcome, Reject};
use seriatim_proto::ids::{ConversationId, Namespace, Owner, Seq, SlotId, TenantId};
use seriatim_proto::limits;
use seriatim_proto::store::StoredMessage;

use crate::apply::{At, No};
use crate::fence;
use crate::input;
use crate::key::{Item, Key, Scan, Scope};
use crate::membership;
use crate::namespace::checked;
use crate::row::{ConversationRow, DedupeRow, NamespaceRow, Row};
use crate::view::{Fatal, Reader, Rows, View};

/// What is kept of a tenant's conversations and inboxes. Nothing is given up by what is `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Keep {
    /// entries from this time on, in Unix ms
    pub since_ms: Option<u64>,
    /// the newest messages of a conversation, and what stands between them
    pub conversation_messages: Option<u64>,
    /// the newest messages of an inbox, and what stands between them
    pub inbox_messages: Option<u64>,
}

/// What a look at a conversation or an inbox comes to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Due {
    /// What is to be given up now.
    pub trim: Option<Command>,
    /// There may be more behind it than one command gives up.
    pub more: bool,
    /// Something is due, but not delivered everywhere.
    pub held: bool,
}

/// Gives up entries before `upto`.
pub(crate) fn trim(view: &mut impl View, at: At, namespace: &Namespace, upto: Seq) -> Result<Outcome, No> {
    let Some(slot) = input::slot_of(namespace).filter(|_| input::seq_is_valid(upto)) else {
        return Err(Reject::Malformed.into());
    };
    if matches!(namespace.owner, Owner::Counter(_)) {
        return Err(Reject::Malformed.into());
    }
    if fence::owned_slot(view, at, slot)?.is_none() {
        return Err(Reject::WrongGroup(slot).into());
    }
    let key = Key::namespace(slot, namespace.clone());
    match (&namespace.owner, view.get(&key)?) {
        (_, None) => Ok(Outcome::Trimmed { trim: Seq::FIRST, entries: 0 }),
        (Owner::Inbox(user), Some(Row::Namespace(row))) => {
            let row = checked(&key, row)?;
            let scan = Scan::Inbox { slot, tenant: namespace.tenant, user: user.clone(), from: row.trim };
            let passed = pass(view, scan, &row, upto.min(row.tail))?;
            passed.rows.into_iter().for_each(|(key, _)| view.delete(key));
            let trim = passed.trim;
            if trim > row.trim {
                view.put(key, Row::Namespace(NamespaceRow { trim, ..row }));
            }
            Ok(Outcome::Trimmed { trim, entries: passed.entries })
        }
        (Owner::Conversation(conversation), Some(Row::Conversation(row))) => {
            checked(&key, row.namespace)?;
            Ok(trim_conversation(view, (slot, namespace.tenant, conversation), key, row, upto)?)
        }
        (_, Some(_)) => Err(Fatal::broken(&key, "a row of another kind").into()),
    }
}

/// Entries at the start of a sequence, and where it begins once they are gone.
struct Passed {
    rows: Vec<(Key, Row)>,
    entries: u32,
    trim: Seq,
}

/// The entries below `end`, as many as one command gives up.
fn pass(view: &mut impl View, scan: Scan, row: &NamespaceRow, end: Seq) -> Result<Passed, Fatal> {
    let most = limits::TRIM_ENTRIES_MAX as usize;
    let mut passed = Passed { rows: Vec::new(), entries: 0, trim: row.trim };
    let (mut before, mut is_over) = (None, false);
    while !is_over && passed.rows.len() < most {
        let from = passed.rows.last().map_or(row.trim, |_| passed.trim);
        // In steps: what is not given up is not read, but for a few.
        let step = STEP.min(most - passed.rows.len());
        let found = view.scan(&starting(&scan, from), step)?;
        is_over = found.len() < step;
        for (key, found) in found {
            let (seq, prev_seq) = match &found {
                Row::Inbox(entry) => (entry.seq, entry.prev_seq),
                Row::Message(message) => (message.entry.seq, message.prev_seq),
                _ => return Err(Fatal::broken(&key, "a row of another kind")),
            };
            let joins = match before {
                None => prev_seq.is_none_or(|prev| prev < row.trim),
                Some(_) => prev_seq == before,
            };
            if !joins {
                view.miss("entries are gone that were not given up");
            }
            if seq >= end {
                is_over = true;
                break;
            }
            before = Some(seq);
            passed.trim = seq.next();
            passed.rows.push((key, found));
        }
    }
    if is_over {
        passed.trim = passed.trim.max(end);
    }
    passed.entries = u32::try_from(passed.rows.len()).expect("at most TRIM_ENTRIES_MAX");
    Ok(passed)
}

/// The same range from another seq on.
fn starting(scan: &Scan, from: Seq) -> Scan {
    match scan.clone() {
        Scan::Inbox { slot, tenant, user, .. } => Scan::Inbox { slot, tenant, user, from },
        Scan::Messages { slot, tenant, conversation, .. } => Scan::Messages { slot, tenant, conversation, from },
        other => other,
    }
}

fn trim_conversation(
    view: &mut impl View,
    place: Place<'_>,
    key: Key,
    mut row: ConversationRow,
    upto: Seq,
) -> Result<Outcome, Fatal> {
    let (slot, tenant, conversation) = place;
    let end = upto.min(kept_from(&row));
    let scan = Scan::Messages { slot, tenant, conversation: conversation.clone(), from: row.namespace.trim };
    let passed = pass(view, scan, &row.namespace, end)?;
    let mut rows_left = limits::TRIM_ROWS_MAX as usize;
    // What is more than one command deletes stays, and its message with it: the next one goes on there.
    let mut trim = delete_tombstones(view, place, passed.trim, &mut rows_left)?;
    let mut entries = 0;
    for (of, found) in passed.rows {
        let Row::Message(message) = found else { unreachable!("pass has looked") };
        let seq = message.entry.seq;
        if seq >= trim {
            break;
        }
        if !delete_reactions(view, place, seq, &mut rows_left)? {
            trim = seq;
            break;
        }
        delete_with(view, place, &message)?;
        view.delete(of);
        entries += 1;
    }
    if trim > row.namespace.trim {
        row.namespace.trim = trim;
        view.put(key, Row::Conversation(row));
    }
    Ok(Outcome::Trimmed { trim, entries })
}

/// The first entry that some target slot may still be owed, or the tail.
fn kept_from(row: &ConversationRow) -> Seq {
    if row.pending { membership::slowest(&row.delivered).map_or(Seq::FIRST, Seq::next) } else { row.namespace.tail }
}

type Place<'a> = (SlotId, TenantId, &'a ConversationId);

/// False if there are more than this command may delete: the next one goes on.
fn delete_reactions(
    view: &mut impl View,
    (slot, tenant, conversation): Place<'_>,
    target: Seq,
    rows_left: &mut usize,
) -> Result<bool, Fatal> {
    let scan = Scan::Reactions { slot, tenant, conversation: conversation.clone(), target, user: None };
    let found = view.scan(&scan, *rows_left + 1)?;
    let fits = found.len() <= *rows_left;
    for (key, _) in found.into_iter().take(*rows_left) {
        view.delete(key);
        *rows_left -= 1;
    }
    Ok(fits)
}

/// What is only about this message.
fn delete_with(
    view: &mut impl View,
    (slot, tenant, conversation): Place<'_>,
    message: &StoredMessage,
) -> Result<(), Fatal> {
    let (seq, sender, id) = (message.entry.seq, &message.entry.sender, message.entry.message_id);
    let key = |item| Key::tenant(slot, tenant, item);
    // Of this message and of no other.
    if let Some(DedupeRow::Committed { seq: of, .. }) = view.dedupe_row(slot, tenant, conversation, sender, id)?
        && of == seq
    {
        view.delete(key(Item::Dedupe(conversation.clone(), sender.clone(), id)));
    }
    for item in [Item::Amended(conversation.clone(), seq), Item::Pin(conversation.clone(), seq)] {
        let key = key(item);
        if view.get(&key)?.is_some() {
            view.delete(key);
        }
    }
    Ok(())
}

/// Attempts of sends that were cancelled before `trim` are `Expired` from now on, without the row. The first place whose
/// tombstones are not all gone, if they are more than one command deletes, or `trim`.
fn delete_tombstones(
    view: &mut impl View,
    (slot, tenant, conversation): Place<'_>,
    trim: Seq,
    rows_left: &mut usize,
) -> Result<Seq, Fatal> {
    let scan = Scan::Tombstones { slot, tenant, conversation: conversation.clone() };
    for (key, _) in view.scan(&scan, *rows_left + 1)? {
        let Scope::Tenant(_, Item::Tombstone(_, place, sender, id)) = &key.scope else {
            unreachable!("a scan returns what it contains");
        };
        if *place >= trim {
            break;
        }
        if *rows_left == 0 {
            return Ok(*place);
        }
        *rows_left -= 1;
        view.delete(Key::tenant(slot, tenant, Item::Dedupe(conversation.clone(), sender.clone(), *id)));
        view.delete(key);
    }
    Ok(trim)
}

/// What is to be given up of a conversation or an inbox, as its row and its oldest entries say.
///
/// # Errors
/// [`Fatal`] if a row is of another kind than its key says.
pub fn due(
    view: &impl Reader,
    slot: SlotId,
    tenant: TenantId,
    owner: &Owner,
    row: &Row,
    keep: &Keep,
) -> Result<Due, Fatal> {
    let (row, scan, messages, end) = match (owner, row) {
        (Owner::Inbox(user), Row::Namespace(row)) => {
            let scan = Scan::Inbox { slot, tenant, user: user.clone(), from: row.trim };
            (row, scan, keep.inbox_messages, row.tail)
        }
        (Owner::Conversation(conversation), Row::Conversation(row)) => {
            let from = row.namespace.trim;
            let scan = Scan::Messages { slot, tenant, conversation: conversation.clone(), from };
            (&row.namespace, scan, keep.conversation_messages, kept_from(row))
        }
        _ => return Ok(Due::default()),
    };
    let is_due = |ordinal: u64, at_ms: u64| {
        keep.since_ms.is_some_and(|since| at_ms < since)
            || messages.is_some_and(|messages| ordinal + messages <= row.ordinal)
    };
    let counts = messages.is_some_and(|messages| row.ordinal > messages);
    if row.trim == row.tail || (keep.since_ms.is_none() && !counts) {
        return Ok(Due::default());
    }
    // Most have nothing to give up: their oldest entry says so.
    let (mut last, mut more) = (None, false);
    for limit in [1, limits::TRIM_ENTRIES_MAX as usize] {
        let found = view.scan(&scan, limit)?;
        let full;
        (last, full) = last_due(&found, is_due)?;
        if last.is_none() {
            return Ok(Due::default());
        }
        more = full || found.len() == limit && last == found.last().and_then(|(key, _)| seq_of(key));
    }
    let wanted = last.map_or(row.trim, Seq::next);
    let upto = wanted.min(end);
    let trim = (upto > row.trim).then(|| Command::Trim { namespace: Namespace { tenant, owner: owner.clone() }, upto });
    Ok(Due { more: more && trim.is_some() && upto == wanted, held: upto < wanted, trim })
}

/// The last of the entries up to which all are due, and whether those are as many bytes as one command gives up.
fn last_due(found: &[(Key, Row)], is_due: impl Fn(u64, u64) -> bool) -> Result<(Option<Seq>, bool), Fatal> {
    let (mut last, mut bytes) = (None, 0);
    for (key, row) in found {
        let (seq, ordinal, at_ms, body) = match row {
            Row::Inbox(entry) => (entry.seq, entry.ordinal, entry.entry.at_ms, 0),
            Row::Message(message) => (message.entry.seq, message.ordinal, message.entry.at_ms, message.body.len()),
            _ => return Err(Fatal::broken(key, "a row of another kind")),
        };
        if bytes >= limits::TRIM_BYTES_MAX as usize {
            return Ok((last, true));
        }
        if !is_due(ordinal, at_ms) {
            break;
        }
        bytes += body;
        last = Some(seq);
    }
    Ok((last, false))
}

fn seq_of(key: &Key) -> Option<Seq> {
    match &key.scope {
        Scope::Tenant(_, Item::Inbox(_, seq) | Item::Message(_, seq)) => Some(*seq),
        _ => None,
    }
}

/// Entries that are read at once where it is not known how many will be given up.
const STEP: usize = 16;
