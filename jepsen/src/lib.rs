//! Jepsen: a harness that hurts a real cluster and tells the truth about what it then did.
//!
//! ```text
//!  workload (clients over QUIC) ──▶ history.jsonl, inbox.jsonl, conversation.jsonl ──┐
//!  nemesis  (kills, pauses, cuts, full disks) ──▶ nemesis.jsonl ─────────────────────┼──▶ check ──▶ verdict, report.html
//!  cluster  (real processes, each in its own network namespace) ──▶ logs ────────────┘
//! ```
//! It drives the product through the public protocol (`client`) and the operator's CLI (`raftctl`) only, and knows
//! nothing else of it.
//!
//! # Reading order
//! [`history`] → [`check`] → [`cluster`] → [`nemesis`] → [`workload`] → [`run`] → [`report`] → [`sabotage`].
#![forbid(unsafe_code)]

pub mod check;
pub mod cluster;
pub mod history;
pub mod nemesis;
pub mod report;
pub mod run;
pub mod sabotage;
pub mod workload;
