//! Nemesis: things that hurt a cluster, each with an honest outcome, and a schedule that mixes them from a seed.
//!
//! ```text
//!  Catalogue ──kinds──▶ Schedule (seed) ──steps──▶ run_schedule ──▶ inject … hold … heal ──▶ Fault records
//! ```
//! A fault is *installed* only when it was seen to take effect: the process is gone, the kernel says `T`, a cut's
//! counter moved, a disk said no. It is *skipped* when the machine or the moment did not allow it, and nothing was
//! done. Everything else is *indeterminate*. A run that counts on a fault counts installed ones only.
//!
//! # Reading order
//! [`Catalogue`] → [`Nemesis`] → [`Schedule`] → [`run_schedule`] → the families.

mod acts;
mod boot;
mod catalogue;
mod certificate;
mod clock;
mod crash;
mod damage;
mod disk;
mod done;
mod execute;
mod fill;
mod kill;
mod lease;
mod link;
mod membership;
mod packet;
mod partition;
mod pause;
mod schedule;
mod shape;
mod targets;
mod version;

use std::time::Duration;

use futures_util::future::BoxFuture;
use rand::rngs::StdRng;

use crate::cluster::Cluster;

pub(crate) use catalogue::BOOT_BEYOND;
pub use catalogue::{Catalogue, Kind, Needs};
pub use done::Done;
pub use execute::run_schedule;
pub use schedule::{Planned, Schedule, Step};

/// One fault: injected once, healed once.
pub trait Nemesis: Send {
    /// Hurts.
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done>;

    /// Undoes it. Called once after every injection, whatever that came to.
    fn heal<'a>(&'a mut self, cluster: &'a Cluster) -> BoxFuture<'a, Done>;
}

/// How long a fault of a kind lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hold {
    /// at least
    pub min: Duration,
    /// at most
    pub max: Duration,
}

impl Hold {
    /// Between so many milliseconds.
    pub const fn ms(min: u64, max: u64) -> Self {
        Self { min: Duration::from_millis(min), max: Duration::from_millis(max) }
    }
}
