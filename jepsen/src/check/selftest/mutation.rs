//! Mutation: one wrong that a system could do, put into a valid story, and the rules that should find it.

use rand::rngs::StdRng;

use super::story::Story;
use super::{wrong_bare, wrong_inbox, wrong_log};
use crate::check::Rule;

/// Puts the wrong in; `false` if this story offers no place for it.
type Apply = fn(&mut Story, &mut StdRng) -> bool;

/// One kind of wrong.
pub(crate) struct Mutation {
    pub(crate) name: &'static str,
    /// one of them must be broken by it
    pub(crate) rules: &'static [Rule],
    pub(crate) apply: Apply,
}

const fn mutation(name: &'static str, rules: &'static [Rule], apply: Apply) -> Mutation {
    Mutation { name, rules, apply }
}

/// All that are tried.
pub(crate) const ALL: &[Mutation] = &[
    // conversations
    mutation("an acked message is lost", &[Rule::S4], wrong_log::lose_acked),
    mutation("a seq is given to two messages", &[Rule::S1], wrong_log::double_seq),
    mutation("a retry gets a second seq", &[Rule::S2], wrong_log::second_seq),
    mutation("a read misses the newest", &[Rule::S4, Rule::V1], wrong_log::stale_read),
    mutation("a read swaps two entries", &[Rule::I8], wrong_log::swap_entries),
    mutation("a read has a hole", &[Rule::S4, Rule::V1], wrong_log::hole),
    mutation("a read shows what nobody sent", &[Rule::S5], wrong_log::phantom),
    mutation("a message is shown before it was sent", &[Rule::S5], wrong_log::shown_too_early),
    mutation("a message that failed is shown", &[Rule::S6], wrong_log::failed_is_shown),
    mutation("a later message gets a lower seq", &[Rule::S3], wrong_log::late_below),
    mutation("a read gives less than it was asked from", &[Rule::I12], wrong_log::below_from),
    mutation("a maxseq of a conversation is too low", &[Rule::V4], wrong_log::max_too_low),
    mutation("a maxseq of a conversation is too high", &[Rule::V4], wrong_log::max_too_high),
    // inboxes
    mutation("a page has a hole", &[Rule::I5], wrong_inbox::page_hole),
    mutation("a page ends too early", &[Rule::I12], wrong_inbox::page_short),
    mutation("an entry appears below an upto", &[Rule::I10], wrong_inbox::late_entry),
    mutation("an inbox lacks an entry", &[Rule::I9], wrong_inbox::undelivered),
    mutation("an inbox has an entry twice", &[Rule::I9], wrong_inbox::delivered_twice),
    mutation("a stranger is given an entry", &[Rule::A1], wrong_inbox::stranger),
    mutation("a reader sees beyond his stay", &[Rule::A1], wrong_inbox::foreign_reading),
    mutation("an inbox has a conversation out of order", &[Rule::I8], wrong_inbox::out_of_order),
    mutation("two devices are given different entries", &[Rule::V2], wrong_inbox::two_truths),
    mutation("a push does not name its predecessor", &[Rule::V3], wrong_inbox::push_unlinked),
    mutation("a push is left out", &[Rule::V3], wrong_inbox::push_left_out),
    mutation("a push comes twice", &[Rule::V3], wrong_inbox::push_twice),
    mutation("an ordinal is skipped", &[Rule::I5, Rule::V2], wrong_inbox::ordinal),
    mutation("a chain does not verify", &[Rule::I5], wrong_inbox::chain),
    mutation("a tail falls", &[Rule::V1], wrong_inbox::tail_falls),
    mutation("a page claims to be the last and is not", &[Rule::I12], wrong_inbox::false_end),
    mutation("a cursor goes back", &[Rule::I11], wrong_inbox::cursor_back),
    mutation("a cursor runs ahead", &[Rule::I11], wrong_inbox::cursor_ahead),
    mutation("a body was changed", &[Rule::B1], wrong_inbox::body_changed),
    mutation("a body does not match its hash", &[Rule::B1], wrong_inbox::body_unmatched),
    mutation("a final reading lacks an entry", &[Rule::S4], wrong_inbox::reading_hole),
    mutation("a stranger is let in", &[Rule::A2], wrong_inbox::let_in),
    // counters, registers, leases
    mutation("a number is given twice", &[Rule::S1], wrong_bare::number_twice),
    mutation("a later number is lower", &[Rule::S3], wrong_bare::number_late),
    mutation("a maxseq of a counter is too low", &[Rule::V4], wrong_bare::max_too_low),
    mutation("a maxseq of a counter is too high", &[Rule::V4], wrong_bare::max_too_high),
    mutation("a register is read stale", &[Rule::V6], wrong_bare::stale_register),
    mutation("a cas finds what was not there", &[Rule::V6], wrong_bare::false_cas),
    mutation("two grants overlap", &[Rule::F1], wrong_bare::overlap),
    mutation("an epoch falls", &[Rule::F1], wrong_bare::epoch_falls),
    mutation("a fenced commit is accepted", &[Rule::F2], wrong_bare::fenced_accepted),
    mutation("a commit beyond its range is accepted", &[Rule::F2], wrong_bare::beyond_range),
    mutation("a commit of the newest epoch is refused", &[Rule::F2], wrong_bare::newest_refused),
];
