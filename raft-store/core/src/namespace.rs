//! Namespace: seqs are reserved as segments, taken by entries, and never given out twice.
//!
//! ```text
//! trim ────────── tail ──────────── ceiling
//! entries          │ reserved       │ free
//!            base ─┘ under the current epoch nothing below may be taken
//! ```
//!
//! # Invariants
//! I1, I2: a seq is taken once, and taken seqs rise: `tail` passes each. I4: `trim <= tail <= ceiling`, and the
//! ceiling only grows. I5: `last_seq`, `ordinal` and `chain` move with each entry.

use std::collections::BTreeSet;

use seriatim_proto::chaos::{self, Sabotage};
use seriatim_proto::command::{Outcome, Place, Reject, Segment, Want};
use seriatim_proto::guard::{self, Guard};
use seriatim_proto::ids::{Chain, Epoch, Owner, Seq};
use seriatim_proto::limits;

use crate::apply::{Held, No};
use crate::input;
use crate::key::Key;
use crate::row::{ConversationRow, NamespaceRow, Row};
use crate::view::{Fatal, Reader, View};

/// Why seqs are not given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TakeError {
    /// Another epoch's, taken already, or not reserved.
    Refused,
    /// The generation ends here.
    Exhausted,
}

impl From<TakeError> for No {
    fn from(error: TakeError) -> No {
        match error {
            TakeError::Refused => Reject::SeqRefused.into(),
            TakeError::Exhausted => Reject::GenerationExhausted.into(),
        }
    }
}

impl NamespaceRow {
    /// Nothing reserved, nothing in it.
    pub(crate) const NEW: NamespaceRow = NamespaceRow {
        trim: Seq::FIRST,
        tail: Seq::FIRST,
        base: Seq::FIRST,
        ceiling: Seq::FIRST,
        epoch: Epoch::NONE,
        last_seq: None,
        ordinal: 0,
        chain: Chain([0; 16]),
    };

    /// Reserves `seqs` more.
    pub(crate) fn reserve(&mut self, held: Held, seqs: u64) -> Result<Segment, TakeError> {
        self.raise(held, seqs).map(|(lo, hi)| Segment { epoch: held.epoch, lo, hi })
    }

    /// Finds room for `count` entries (at least one): the first one's seq, and the segment that an open place
    /// asked for. Only reserves; [`NamespaceRow::enter`] takes.
    pub(crate) fn allot(&mut self, held: Held, place: Place, count: u64) -> Result<(Seq, Option<Segment>), TakeError> {
        match place {
            Place::At(seq) => {
                let end = seq.get().saturating_add(count);
                let fits =
                    self.epoch == held.epoch && self.base <= seq && self.tail <= seq && end <= self.ceiling.get();
                if fits { Ok((seq, None)) } else { Err(TakeError::Refused) }
            }
            Place::Open { segment } => {
                let (first, hi) = self.raise(held, count + u64::from(segment))?;
                let lo = first.plus(count);
                Ok((first, (segment > 0).then_some(Segment { epoch: held.epoch, lo, hi })))
            }
        }
    }

    /// Takes a seq for an entry.
    pub(crate) fn enter(&mut self, seq: Seq, counted: bool, chain: Chain) {
        assert!(self.base <= seq && self.tail <= seq && seq < self.ceiling, "I1, I4: {seq:?} is not free");
        self.tail = seq.next();
        self.last_seq = Some(seq);
        self.ordinal += u64::from(counted);
        self.chain = chain;
        self.assert_order();
    }

    /// Raises the ceiling; the first time under an epoch, everything older is closed.
    fn raise(&mut self, held: Held, seqs: u64) -> Result<(Seq, Seq), TakeError> {
        assert!(self.epoch <= held.epoch, "I3: reserved under {:?}, which the slot never had", self.epoch);
        let before = self.ceiling;
        let lo = self.ceiling.max(held.generation.first_seq());
        let hi = lo.get().checked_add(seqs).filter(|hi| *hi <= held.generation.end_seq().get());
        let hi = hi.and_then(Seq::new).ok_or(TakeError::Exhausted)?;
        if self.epoch < held.epoch {
            self.epoch = held.epoch;
            self.base = lo;
        }
        self.ceiling = hi;
        assert!(before <= self.ceiling, "I4: the ceiling only grows");
        self.assert_order();
        Ok((lo, hi))
    }

    fn assert_order(&self) {
        assert!(self.is_ordered(), "I4: {self:?}");
    }

    /// I4, for a single row.
    pub(crate) fn is_ordered(&self) -> bool {
        self.trim <= self.tail && self.tail <= self.ceiling && self.base <= self.ceiling
    }
}

/// Checks I4 of a row that was read.
pub(crate) fn checked(key: &Key, row: NamespaceRow) -> Result<NamespaceRow, Fatal> {
    if row.is_ordered() { Ok(row) } else { Err(Fatal::broken(key, "trim <= tail <= ceiling is violated")) }
}

impl ConversationRow {
    /// Without entries.
    pub(crate) fn new() -> ConversationRow {
        ConversationRow {
            namespace: NamespaceRow::NEW,
            first_seq: None,
            at_ms: 0,
            members_here: 0,
            members_elsewhere: 0,
            pending: false,
            delivered: seriatim_proto::command::DeliveryRecord::default(),
        }
    }
}

/// Reserves one segment per want, all or none.
pub(crate) fn reserve(view: &mut impl View, held: Held, wants: &[Want]) -> Result<Outcome, No> {
    let count_is_valid = (1..=limits::RESERVE_NAMESPACES_MAX as usize).contains(&wants.len());
    let distinct: BTreeSet<_> = wants.iter().map(|want| &want.namespace).collect();
    if !count_is_valid || distinct.len() != wants.len() || !wants.iter().all(|want| want_is_valid(held, want)) {
        return Err(Reject::Malformed.into());
    }
    let mut writes = Vec::with_capacity(wants.len());
    let mut segments = Vec::with_capacity(wants.len());
    for want in wants {
        let key = Key::namespace(held.slot, want.namespace.clone());
        let mut row = namespace_or_new(view, &key, &want.namespace.owner)?;
        let namespace = match &mut row {
            Row::Conversation(row) => &mut row.namespace,
            Row::Namespace(row) => row,
            _ => unreachable!("namespace_or_new returns nothing else"),
        };
        *namespace = checked(&key, *namespace)?;
        segments.push(namespace.reserve(held, u64::from(want.seqs))?);
        let forgotten = chaos::sabotaged(Sabotage::SegmentReused) || guard::is_out(Guard::CeilingStored);
        if forgotten && matches!(want.namespace.owner, Owner::Counter(_)) {
            continue;
        }
        writes.push((key, row));
    }
    for (key, row) in writes {
        view.put(key, row);
    }
    Ok(Outcome::Reserved(segments))
}

fn want_is_valid(held: Held, want: &Want) -> bool {
    (1..=limits::SEGMENT_SEQS_MAX).contains(&want.seqs) && input::slot_of(&want.namespace) == Some(held.slot)
}

fn namespace_or_new(view: &impl Reader, key: &Key, owner: &Owner) -> Result<Row, Fatal> {
    let is_conversation = matches!(owner, Owner::Conversation(_));
    match view.get(key)? {
        Some(row @ Row::Conversation(_)) if is_conversation => Ok(row),
        Some(row @ Row::Namespace(_)) if !is_conversation => Ok(row),
        Some(_) => Err(Fatal::broken(key, "a row of another kind")),
        None if is_conversation => Ok(Row::Conversation(ConversationRow::new())),
        None => Ok(Row::Namespace(NamespaceRow::NEW)),
    }
}
