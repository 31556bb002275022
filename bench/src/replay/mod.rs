//! Replay: everybody's devices, everybody's messages, and two kills on the way.
//!
//! Each message is sent by its real sender, in the real order of its conversation: the next turn begins when the one
//! before it is committed; messages of one turn are pipelined, each naming the one that it follows. Many conversations
//! run side by side, longest first, so that the end is not one long conversation alone.
//!
//! # Reading order
//! `run` → `people` → `talk` → `ledger` → `faults` → `measure`.

mod control;
mod faults;
mod ledger;
mod measure;
mod pace;
mod people;
mod progress;
mod run;
mod talk;

pub use run::{Options, run};
