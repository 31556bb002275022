//! Logic core: the holder of one slot, its segment allocator, deliveries and placement, as pure state machines.
//!
//! No I/O, no clock, no task. A shell feeds [`SlotHolder::handle`] with events and a [`Clock`], and carries out
//! what [`SlotHolder::poll`] returns. Everything that is safe because of apply (fences, seqs, dedupe, ranges) is only
//! *used* here; what this crate adds is order, batching and resumption.
//!
//! ```text
//!  Send ──▶ conversation queue ──▶ pipeline (n, bytes kept) ──▶ Propose ──▶ Outcome ──▶ Reply
//!                                                                             │
//!          Deliver to other slots ◀── recent entries / re-read log ◀──────────┘
//!  Deliver from other slots ──▶ inbox segment ──▶ pipeline ──▶ Outcome ──▶ Push, answer to the source
//! ```
//!
//! # Reading order
//! [`event`] → [`holder`] → `pipeline` → [`allocator`] → `conversation` → `append` → `delivery` → `inbox` → `counter` → [`placement`].
#![forbid(unsafe_code)]

pub mod allocator;
mod append;
mod cancel;
mod conversation;
mod counter;
mod delivery;
pub mod event;
pub mod holder;
mod inbox;
mod incoming;
mod mark;
mod pipeline;
pub mod placement;
mod quota;
mod settle;

pub use event::{Cancel, Clock, Effect, Event, RequestId, Send, SessionKey, SourceId};
pub use holder::{HolderLimits, SlotHolder};
pub use placement::Placement;
pub use quota::{Ask, Over, Quotas};
