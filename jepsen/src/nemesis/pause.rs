//! Pause: SIGSTOP for a while: to the others a node that is neither dead nor alive, to itself a gap in time.

use futures_util::future::{BoxFuture, join_all};
use rand::rngs::StdRng;

use super::kill::failures;
use super::targets::{Target, pick};
use super::{Done, Nemesis, done};
use crate::cluster::{Cluster, Reservation};

/// Pauses whom it hits.
#[derive(Debug)]
pub(super) struct Pause {
    target: Target,
    paused: Option<Reservation>,
}

impl Pause {
    pub(super) fn boxed(target: Target) -> Box<dyn Nemesis> {
        Box::new(Self { target, paused: None })
    }
}

impl Nemesis for Pause {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let victims = match pick(cluster, rng, self.target).await {
                Ok(victims) => self.paused.insert(victims).names(),
                Err(skipped) => return skipped,
            };
            let errors = failures(join_all(victims.iter().map(|name| cluster.pause(name))).await);
            if errors.is_empty() && victims.iter().all(|name| cluster.is_paused(name)) {
                Done::installed(victims, "the kernel says stopped")
            } else {
                Done::indeterminate(victims, errors)
            }
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let Some(victims) = self.paused.take() else { return done::nothing_to_undo() };
            let names = victims.names();
            let errors = failures(join_all(names.iter().map(|name| cluster.resume(name))).await);
            if errors.is_empty() { Done::installed(names, "runs on") } else { Done::indeterminate(names, errors) }
        })
    }
}
