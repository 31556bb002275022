//! Nemesis: things that hurt a cluster, each with an honest outcome, and a schedule that mixes them from a seed.
//!
//! # Reading order
//! [`Catalogue`] → [`Nemesis`] → [`Schedule`] → [`run_schedule`].

mod catalogue;
mod schedule;

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use rand::rngs::StdRng;

use crate::cluster::Cluster;
use crate::history::Effect;

pub use catalogue::{Catalogue, Kind};
pub use schedule::{Schedule, run_schedule};

/// What came of an injection or a healing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Done {
    /// did it take effect?
    pub effect: Effect,
    /// names of nodes
    pub targets: Vec<String>,
    /// for people
    pub detail: String,
}

/// One fault: injected once, healed once.
pub trait Nemesis: Send {
    /// Its kind, as in [`Catalogue`].
    fn kind(&self) -> &'static str;

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

/// Ns since the run began.
pub(crate) fn nanos_since(origin: Instant) -> u64 {
    u64::try_from(origin.elapsed().as_nanos()).expect("no run lasts five hundred years")
}
