//! Store core: the replicated state machine as a pure function.
//!
//! [`apply()`] turns a command and the rows of a group into an outcome and new rows; [`read()`] answers from the
//! rows. No clock, no I/O, no randomness, no hash order: two replicas that apply the same entries have the same
//! rows. Bytes of keys and rows are the shell's (`raft-store/src/keys.rs`); here they are typed.
//!
//! # Invariants
//! I1–I5, I7–I9 and I11 are kept here and asserted after each write; see `docs/invariants.md`.
//!
//! # Failure
//! A [`Outcome::Rejected`](seriatim_proto::command::Outcome) is a verdict, replicated and replied. A [`Fatal`] is
//! none: rows are broken or the disk is, and the process must stop without a reply.
//!
//! # Reading order
//! [`key`] → [`row`] → [`view`] → [`mod@apply`] → one file per noun → [`mod@read`].
#![forbid(unsafe_code)]

pub mod apply;
pub mod key;
pub mod plan;
pub mod read;
pub mod row;
pub mod view;

mod amend;
mod append;
mod cancel;
mod claim;
mod cursor;
mod deliver;
mod fence;
mod inbox;
mod input;
mod lease;
mod mark;
mod membership;
mod meta;
mod namespace;
mod placement;
mod trim;

#[cfg(test)]
mod tests;

pub use apply::{At, Event, apply};
pub use key::{GroupItem, Item, Key, Scan, Scope, SlotItem};
pub use placement::voters_wanted;
pub use read::{holder_rows, read};
pub use row::Row;
pub use trim::{Due, Keep, due};
pub use view::{Fatal, MemoryView, Reader, View};
