//! Version: nodes that run another version of the product for a while, beside those that run this one, and on the same
//! files: an upgrade that stops halfway, and one that is taken back.

use futures_util::future::BoxFuture;
use rand::rngs::StdRng;

use super::acts::all_led;
use super::kill::failures;
use super::targets::{Target, pick};
use super::{Done, Nemesis, done};
use crate::cluster::{Cluster, Reservation, Role};

/// One node, or all of them one by one.
#[derive(Debug)]
pub(super) struct Version {
    target: Target,
    changed: Option<Reservation>,
}

impl Version {
    pub(super) fn boxed(target: Target) -> Box<dyn Nemesis> {
        Box::new(Self { target, changed: None })
    }
}

impl Nemesis for Version {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let names = match pick(cluster, rng, self.target).await {
                Ok(victims) => self.changed.insert(victims).names(),
                Err(skipped) => return skipped,
            };
            match change(cluster, names, To::Other).await {
                Ok(()) => Done::installed(names, "the other version runs"),
                Err(errors) => Done::indeterminate(names, errors),
            }
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let Some(victims) = self.changed.take() else { return done::nothing_to_undo() };
            match change(cluster, victims.names(), To::Own).await {
                Ok(()) => Done::installed(victims.names(), "the run's own version runs again"),
                Err(errors) => Done::indeterminate(victims.names(), errors),
            }
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum To {
    Other,
    Own,
}

/// Stores first, as an operator would; the next store only when every group is led again. Whatever goes wrong with one
/// of them, all that can run do in the end; the error is all that went wrong.
async fn change(cluster: &Cluster, names: &[String], to: To) -> Result<(), String> {
    let stores = cluster.names(Role::Store);
    let mut results = Vec::new();
    for name in names {
        if cluster.is_running(name) {
            // One that does not stop in order is killed.
            results.push(cluster.stop(name).await);
        }
        results.push(match to {
            To::Other => cluster.start_node_as_other(name).await,
            To::Own => cluster.start_node(name).await,
        });
        if names.len() > 1 && stores.contains(name) {
            results.push(all_led(cluster).await);
        }
    }
    let errors = failures(results);
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
