//! Kill: SIGKILL, and a restart when it heals: at once if it is held for no time, late otherwise.

use futures_util::future::{BoxFuture, join_all};
use rand::rngs::StdRng;

use super::targets::{Target, pick};
use super::{Done, Nemesis, done};
use crate::cluster::{Cluster, Reservation};

/// Kills whom it hits, all at once.
#[derive(Debug)]
pub(super) struct Kill {
    target: Target,
    killed: Option<Reservation>,
}

impl Kill {
    pub(super) fn boxed(target: Target) -> Box<dyn Nemesis> {
        Box::new(Self { target, killed: None })
    }
}

impl Nemesis for Kill {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let victims = match pick(cluster, rng, self.target).await {
                Ok(victims) => self.killed.insert(victims).names(),
                Err(skipped) => return skipped,
            };
            let errors = failures(join_all(victims.iter().map(|name| cluster.kill(name))).await);
            match victims.iter().find(|name| cluster.is_running(name)) {
                None if errors.is_empty() => Done::installed(victims, "the processes are gone"),
                None => Done::indeterminate(victims, errors),
                Some(name) => Done::indeterminate(victims, format!("{name} still runs; {errors}")),
            }
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let Some(victims) = self.killed.take() else { return done::nothing_to_undo() };
            start_again(cluster, victims.names()).await
        })
    }
}

/// Starts those that do not run; returns when they are ready.
pub(super) async fn start_again(cluster: &Cluster, names: &[String]) -> Done {
    let down = names.iter().filter(|name| !cluster.is_running(name));
    let errors = failures(join_all(down.map(|name| cluster.start_node(name))).await);
    if errors.is_empty() { Done::installed(names, "ready again") } else { Done::indeterminate(names, errors) }
}

/// What went wrong, joined.
pub(super) fn failures(results: Vec<anyhow::Result<()>>) -> String {
    let errors = results.into_iter().filter_map(Result::err).map(|error| format!("{error:#}"));
    errors.collect::<Vec<_>>().join("; ")
}
