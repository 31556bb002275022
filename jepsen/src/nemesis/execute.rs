//! Execute: carries a schedule out: several faults at a time, each injected, held, healed and recorded.
//!
//! # Failure
//! An injection or healing that does not end is given up after a while and recorded as indeterminate. When the time
//! is up, everything is healed before [`run_schedule`] returns. Dropped halfway, it leaves the faults where they are;
//! shutting the cluster down ends them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{Catalogue, Done, Planned, Schedule};
use crate::cluster::Cluster;
use crate::history::{Act, Fault};

/// Most faults at a time.
const FAULTS_MAX: usize = 3;
/// Longest injection or healing: longer than the longest start, stop or rolling restart.
const PATIENCE: Duration = Duration::from_secs(150);

/// Injects and heals until `until`, then heals all. Times of the records are ns since `origin`. Kinds that this
/// cluster does not allow are left out ([`Catalogue::possible`] says which and why).
pub async fn run_schedule(
    cluster: &Cluster,
    mut schedule: Schedule,
    origin: Instant,
    until: Instant,
    record: impl Fn(Fault) + Send + Sync,
) {
    let (possible, impossible) = Catalogue::possible(schedule.kinds(), cluster);
    for (kind, why) in impossible {
        tracing::warn!(kind, why, "left out");
    }
    schedule.retain(|kind| possible.contains(&kind));
    let run = Run { cluster, origin, until, record: &record, next: AtomicU64::new(1) };
    let mut running = FuturesUnordered::new();
    let mut due = Instant::now();
    while let Some(step) = schedule.next() {
        due += step.after;
        let time = tokio::time::sleep_until(due.min(until).into());
        tokio::pin!(time);
        loop {
            tokio::select! {
                () = &mut time => break,
                Some(()) = running.next() => {}
            }
        }
        if Instant::now() >= until {
            break;
        }
        for planned in step.faults {
            if running.len() < FAULTS_MAX {
                running.push(run.fault(planned));
            } else {
                schedule.put_back(&planned);
            }
        }
        if schedule.is_apart() {
            while running.next().await.is_some() {}
            due = Instant::now();
        }
    }
    while running.next().await.is_some() {}
}

struct Run<'a> {
    cluster: &'a Cluster,
    origin: Instant,
    until: Instant,
    record: &'a (dyn Fn(Fault) + Send + Sync),
    next: AtomicU64,
}

impl<'a> Run<'a> {
    fn fault(&'a self, planned: Planned) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let kind = planned.kind.name;
            let mut rng = StdRng::seed_from_u64(planned.seed);
            let mut nemesis = (planned.kind.make)();
            self.note(number, kind, Act::Inject, nemesis.inject(self.cluster, &mut rng)).await;
            tokio::time::sleep_until((Instant::now() + planned.hold).min(self.until).into()).await;
            self.note(number, kind, Act::Heal, nemesis.heal(self.cluster)).await;
        })
    }

    async fn note(&self, number: u64, kind: &'static str, act: Act, doing: BoxFuture<'_, Done>) {
        let began = self.nanos();
        let done = tokio::time::timeout(PATIENCE, doing).await;
        let done = done.unwrap_or_else(|_| Done::indeterminate(&[], format!("no end in {PATIENCE:?}")));
        let Done { effect, targets, detail } = done;
        tracing::info!(number, kind, ?act, ?effect, ?targets, detail, "fault");
        let kind = kind.to_owned();
        (self.record)(Fault { number, kind, act, began, ended: self.nanos(), targets, effect, detail });
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).expect("no run lasts five hundred years")
    }
}
