//! Model: every interleaving of the two cores, within bounds, by the checker `stateright`.
//!
//! The code that is checked is the code that ships: `apply` and `read` of `raft-store/core`, `SlotHolder` of
//! `logic/core`. Around them this crate puts what a cluster puts around them, as bad as it may be: messages that are
//! lost, late, doubled and overtaken, nodes that crash or are paused beyond their lease, a Raft whose leader changes.
//! What is modelled and what is not, the bounds and the numbers of states: `docs/model.md`.
//!
//! ```text
//!   clients ──Issue──▶ node 0: holder ──Propose──▶ ┌──────────┐ ──commit──▶ rows (the real apply)
//!                      node 1: holder ──Read─────▶ │  wires   │
//!                         ▲   │                    │ ≤ 4, any │
//!                         │   └──Deliver─────────▶ │  order   │
//!                         └────────────────────────└──────────┘
//! ```
//!
//! # Invariants
//! I1–I5 and I7–I9 after each step ([`Broken`]). A panic of a core's own assertion counts as well.
//!
//! # Reading order
//! [`scene`] (who does what) → `state` → `action` (what may happen next) → `step` (what it does) → `verify`.
#![forbid(unsafe_code)]

pub mod scene;

mod action;
mod broken;
mod model;
mod reached;
mod shared;
mod state;
mod step;
mod verify;

pub use action::Action;
pub use broken::Broken;
pub use model::{Check, I2_NUMBERS, Report};
pub use reached::{Reached, Situation};
pub use scene::{Bounds, Scene};
pub use state::State;
