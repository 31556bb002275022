//! Amend: what an amendment may do to an earlier message, and what it writes besides being an entry.
//!
//! ```text
//! the message is there, a message, and the sender's own or one that he was owed?  else NotFound, but to unpin it
//!   ▼ edit, recall: his own?                                                      else NotAuthor
//!   ▼ not recalled?                                                               else Recalled
//!   ▼ edit, recall: young enough?                                                 else TooLate
//!   ▼ room for one more?                                                          else AmendmentsTooMany
//! ```
//! The order of the conversation decides between amendments: the last edit holds, and nothing comes behind a recall.
//! Setting what is set, and unsetting what is not, is an entry that changes nothing.
//!
//! A pin is the conversation's: every member unpins it, also of a message that he was not owed. Otherwise the pins of
//! messages of which no member is left who was owed them would take the room of all others for ever.
//!
//! Ages are differences of two times that are in the log, `at_ms` of both entries: apply reads no clock, and replicas
//! agree (decision 0009).
//!
//! # Invariants
//! I5: a recall erases salt and body and nothing else of an entry, so that every chain still proves itself.
//! I14: who was not owed the message learns nothing of it, but that it was pinned, by unpinning it.

use seriatim_proto::command::{Act, Append, Content, Kind, Reject};
use seriatim_proto::ids::Seq;
use seriatim_proto::limits;
use seriatim_proto::store::StoredMessage;

use crate::apply::No;
use crate::key::{Item, Key, Scan};
use crate::membership::{self, Place};
use crate::row::{AmendedRow, Row};
use crate::view::{Reader, Rows, View};

/// What an entry writes once it has its seq.
#[derive(Debug)]
pub(crate) enum Amended {
    /// The entry is no amendment, or sets what is set: the entry that set it first counts.
    Nothing,
    /// One more edit.
    Edit(Key, AmendedRow),
    /// The end of the message.
    Recall {
        of: Key,
        row: AmendedRow,
        /// the message and its edits, without their bodies
        erased: Vec<(Key, StoredMessage)>,
        /// edits that the message names and that are not there
        missing: usize,
        pin: Key,
    },
    /// A reaction or a pin.
    Set { of: Key, row: fn(Seq) -> Row },
    /// Its end.
    Unset { of: Key },
}

/// May the sender do this? Membership is checked before.
pub(crate) fn plan(view: &impl Reader, place: Place<'_>, append: &Append, at_ms: u64) -> Result<Amended, No> {
    let Content::Amend { target, act } = &append.content else { return Ok(Amended::Nothing) };
    let target = *target;
    let key = |item| Key::tenant(place.slot, place.tenant, item);
    let conversation = place.conversation;
    let found = view.message_row(place.slot, place.tenant, conversation, target)?;
    let message = found.filter(|message| message.entry.kind == Kind::Message).ok_or(Reject::NotFound)?;
    let is_own = message.entry.sender == append.sender;
    let pin = key(Item::Pin(conversation.clone(), target));
    if !is_own && !membership::was_owed(view, place, &append.sender, target)? {
        let unpins = *act == Act::Pin { set: false } && view.get(&pin)?.is_some();
        return if unpins { Ok(Amended::Unset { of: pin }) } else { Err(Reject::NotFound.into()) };
    }
    let within_s = match act {
        Act::Edit { within_s, .. } | Act::Recall { within_s } => Some(*within_s),
        Act::React { .. } | Act::Pin { .. } => None,
    };
    if within_s.is_some() && !is_own {
        return Err(Reject::NotAuthor.into());
    }
    let row = view.amended_row(place.slot, place.tenant, conversation, target)?.unwrap_or_default();
    if row.recalled.is_some() {
        return Err(Reject::Recalled.into());
    }
    let age_ms = at_ms.saturating_sub(message.entry.at_ms);
    if within_s.is_some_and(|within_s| within_s < u32::MAX && age_ms > u64::from(within_s) * 1_000) {
        return Err(Reject::TooLate.into());
    }
    let of = key(Item::Amended(conversation.clone(), target));
    match act {
        Act::Edit { .. } => {
            check_room(row.edits.len(), limits::EDITS_MAX)?;
            Ok(Amended::Edit(of, row))
        }
        Act::Recall { .. } => {
            let (mut erased, mut missing) = (Vec::with_capacity(1 + row.edits.len()), 0);
            erased.push((key(Item::Message(conversation.clone(), target)), erase(message)));
            for edit in &row.edits {
                match view.message_row(place.slot, place.tenant, conversation, *edit)? {
                    Some(message) => {
                        erased.push((key(Item::Message(conversation.clone(), *edit)), erase(message)));
                    }
                    None => missing += 1,
                }
            }
            Ok(Amended::Recall { of, row, erased, missing, pin })
        }
        Act::React { emoji, set } => {
            let of = key(Item::Reaction(conversation.clone(), target, append.sender.clone(), emoji.clone()));
            let (slot, tenant, user) = (place.slot, place.tenant, Some(append.sender.clone()));
            let scan = Scan::Reactions { slot, tenant, conversation: conversation.clone(), target, user };
            flag(view, of, Row::Reaction, *set, (&scan, limits::REACTIONS_MAX))
        }
        Act::Pin { set } => {
            let scan = Scan::Pins { slot: place.slot, tenant: place.tenant, conversation: conversation.clone() };
            flag(view, pin, Row::Pin, *set, (&scan, limits::PINS_MAX))
        }
    }
}

impl Amended {
    /// Writes it; `seq` is the amendment's own place.
    pub(crate) fn write(self, view: &mut impl View, seq: Seq) {
        match self {
            Amended::Nothing => {}
            Amended::Edit(of, mut row) => {
                assert!(row.edits.last() < Some(&seq) && row.recalled.is_none(), "edits rise, and end with a recall");
                row.edits.push(seq);
                view.put(of, Row::Amended(row));
            }
            Amended::Recall { of, mut row, erased, missing, pin } => {
                if missing > 0 {
                    view.miss("an edit is not where its message says");
                }
                row.recalled = Some(seq);
                view.put(of, Row::Amended(row));
                view.delete(pin);
                for (key, message) in erased {
                    view.put(key, Row::Message(message));
                }
            }
            Amended::Set { of, row } => view.put(of, row(seq)),
            Amended::Unset { of } => view.delete(of),
        }
    }
}

/// A row that is there or not, one of at most so many in a range.
fn flag(
    view: &impl Reader,
    of: Key,
    row: fn(Seq) -> Row,
    set: bool,
    (range, most): (&Scan, u32),
) -> Result<Amended, No> {
    match (set, view.get(&of)?.is_some()) {
        (true, false) => {
            check_room(view.scan(range, most as usize)?.len(), most)?;
            Ok(Amended::Set { of, row })
        }
        (false, true) => Ok(Amended::Unset { of }),
        (true, true) | (false, false) => Ok(Amended::Nothing),
    }
}

/// The header stays: what inboxes refer to, and what chains bind.
fn erase(message: StoredMessage) -> StoredMessage {
    StoredMessage { salt: bytes::Bytes::new(), body: bytes::Bytes::new(), erased: true, ..message }
}

fn check_room(count: usize, most: u32) -> Result<(), No> {
    if count < most as usize { Ok(()) } else { Err(Reject::AmendmentsTooMany.into()) }
}
