//! Rule: what a checker holds a run against, each with its sentence and the invariant that it serves.
//!
//! The letters are those of the project's list of rules: S messages, V visibility, F fences, A access. A rule that is
//! named like an invariant checks that invariant as it stands.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One rule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Rule {
    /// a seq names one message, a number is given once
    S1,
    /// an id has one seq
    S2,
    /// real-time order
    S3,
    /// acked is kept
    S4,
    /// shown was sent before
    S5,
    /// failed is invisible
    S6,
    /// what was complete stays as it was
    V1,
    /// two devices see one timeline
    V2,
    /// push and sync agree
    V3,
    /// the max sequence is linearizable
    V4,
    /// a register is linearizable
    V6,
    /// grants rise and never overlap
    F1,
    /// commits are fenced by the newest epoch, and only by it
    F2,
    /// no missing link
    I5,
    /// one order per conversation
    I8,
    /// every member, once
    I9,
    /// nothing appears late
    I10,
    /// cursors never go back
    I11,
    /// complete means complete
    I12,
    /// replicas are the same
    I13,
    /// bodies come back as they were sent
    B1,
    /// nobody is shown what is not his
    A1,
    /// what must be refused is refused
    A2,
}

impl Rule {
    /// All rules, in the order of the documentation.
    pub const ALL: [Self; 23] = [
        Self::S1,
        Self::S2,
        Self::S3,
        Self::S4,
        Self::S5,
        Self::S6,
        Self::V1,
        Self::V2,
        Self::V3,
        Self::V4,
        Self::V6,
        Self::F1,
        Self::F2,
        Self::I5,
        Self::I8,
        Self::I9,
        Self::I10,
        Self::I11,
        Self::I12,
        Self::I13,
        Self::B1,
        Self::A1,
        Self::A2,
    ];

    /// The invariant of `docs/invariants.md` that it serves.
    pub fn invariant(self) -> &'static str {
        match self {
            Self::S1 => "I1",
            Self::S2 | Self::S5 | Self::S6 => "I7",
            Self::S3 | Self::V4 => "I2",
            Self::S4 | Self::B1 => "I6",
            Self::V1 | Self::I10 => "I10",
            Self::V2 | Self::I8 => "I8",
            Self::V3 | Self::I12 => "I12",
            Self::I13 => "I13",
            Self::V6 | Self::I11 => "I11",
            Self::F1 | Self::F2 => "I3",
            Self::I5 => "I5",
            Self::I9 => "I9",
            Self::A1 | Self::A2 => "I14",
        }
    }

    /// What must hold.
    pub fn claim(self) -> &'static str {
        match self {
            Self::S1 => "A seq names one message, and a number is given out once.",
            Self::S2 => "A message id has one seq, whatever the retries.",
            Self::S3 => "What completed before another began has the smaller seq.",
            Self::S4 => "What was acked is in every later read that covers it, and in the final one.",
            Self::S5 => "What is shown was sent, and not after it was shown.",
            Self::S6 => "What failed for sure is never seen.",
            Self::V1 => "What a read gave as complete stays exactly as it was.",
            Self::V2 => "All devices of a user are given one timeline.",
            Self::V3 => "A push stream gives all from where it began, in order, without a gap.",
            Self::V4 => "A max sequence is above all answered before, and not above what is asked for later.",
            Self::V6 => "A register reads as if its operations had happened one after another.",
            Self::F1 => "Grants of a scope rise and never overlap; its epochs never fall.",
            Self::F2 => {
                "A commit is accepted only under the newest epoch, inside its range and above the last; and refused only under an older one."
            }
            Self::I5 => "prev_seq and ordinal have no missing link.",
            Self::I8 => "Members see a conversation in one order, and every inbox agrees with it.",
            Self::I9 => "A message reaches the inbox of every member at commit exactly once, and nobody else's.",
            Self::I10 => "After a page with upto = N nothing below N appears.",
            Self::I11 => "Cursors never go back.",
            Self::I12 => "A page never claims to be complete when a part is missing.",
            Self::I13 => "Replicas of a group have the same rows at the same entry.",
            Self::B1 => "A body comes back as it was sent.",
            Self::A1 => "A user is shown only what is his.",
            Self::A2 => "What must be refused is refused.",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
