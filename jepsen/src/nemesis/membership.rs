//! Membership: replicas and leaderships that change places because an operator said so, under everything else.
//!
//! A move is a fault that may overlap with all others: its stores are not reserved, so that each of them may be killed,
//! paused or cut off in the middle of it. Healing waits for its end, and turns it back if it does not come.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::future::BoxFuture;
use rand::RngExt;
use rand::rngs::StdRng;

use super::targets::one;
use super::{Done, Nemesis, done};
use crate::cluster::{Cluster, Role};

/// Longest wait for the end of a move, and again after it was turned back.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest time before a move is turned back, ms.
const BACK_MS_MAX: u64 = 2_000;
/// Pause between two looks at the moves.
const POLL: Duration = Duration::from_millis(250);

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// a replica goes from a store to one that has none of its group
    Move,
    /// the same, turned back on the way
    MoveBack,
    /// all replicas of a store go elsewhere
    Drain,
    /// another store of a group leads it
    Transfer,
}

#[derive(Debug)]
enum Undo {
    Nothing,
    Move { group: u32, to: String },
    Drain(String),
}

/// One change.
#[derive(Debug)]
pub(super) struct Membership {
    change: Change,
    undo: Undo,
}

impl Membership {
    pub(super) fn boxed(change: Change) -> Box<dyn Nemesis> {
        Box::new(Self { change, undo: Undo::Nothing })
    }

    async fn begin(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Done> {
        match self.change {
            Change::Move | Change::MoveBack => self.begin_move(cluster, rng).await,
            Change::Drain => {
                let stores = running(cluster);
                let Some(store) = one(rng, &stores) else { return Ok(Done::skipped("no store runs")) };
                cluster.drain(store).await?;
                self.undo = Undo::Drain(store.clone());
                Ok(Done::installed(std::slice::from_ref(store), "it gives its replicas away"))
            }
            Change::Transfer => transfer(cluster, rng).await,
        }
    }

    async fn begin_move(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Done> {
        let (voters, moving, stores) = (cluster.voters().await?, cluster.moving().await?, running(cluster));
        let mut possible = Vec::new();
        // Group 0 stays where it is.
        for (group, has) in voters.iter().filter(|(group, _)| **group > 0) {
            let still = moving.iter().all(|moving| moving.group != *group);
            let takers = stores.iter().filter(|store| still && !has.contains(*store));
            possible.extend(takers.flat_map(|to| has.iter().map(|from| (*group, from.clone(), to.clone()))));
        }
        let Some((group, from, to)) = one(rng, &possible).cloned() else {
            return Ok(Done::skipped("no replica can go anywhere now"));
        };
        let answer = cluster.move_replica(group, &from, &to).await?;
        if answer.exit != 0 {
            // Another move was faster, or who should get it does not answer.
            return Ok(Done::skipped(format!("group {group} from {from} to {to}: {}", answer.stderr.trim())));
        }
        self.undo = Undo::Move { group, to: to.clone() };
        let mut detail = format!("group {group} goes from {from} to {to}");
        if self.change == Change::MoveBack {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..BACK_MS_MAX))).await;
            cluster.cancel_move(group).await?;
            detail.push_str(", and was turned back");
        }
        Ok(Done::installed(&[from, to], detail))
    }
}

impl Nemesis for Membership {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let began = self.begin(cluster, rng).await;
            began.unwrap_or_else(|error| Done::indeterminate(&[], format!("{error:#}")))
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            match std::mem::replace(&mut self.undo, Undo::Nothing) {
                Undo::Nothing => done::nothing_to_undo(),
                Undo::Drain(store) => {
                    let undrained = cluster.undrain(&store).await.map(|()| "it takes replicas again".to_owned());
                    Done::of(&[store], undrained)
                }
                Undo::Move { group, to } => {
                    let ended = end(cluster, group, &to).await;
                    Done::of(&[to], ended)
                }
            }
        })
    }
}

async fn transfer(cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Done> {
    let (voters, leaders) = (cluster.voters().await?, cluster.leaders().await);
    let mut possible = Vec::new();
    for (group, has) in voters {
        let heirs = has.into_iter().filter(|store| cluster.is_running(store) && !cluster.is_reserved(store));
        possible.extend(heirs.filter(|store| leaders.get(&group) != Some(store)).map(|store| (group, store)));
    }
    let Some((group, heir)) = one(rng, &possible).cloned() else {
        return Ok(Done::skipped("nobody could lead a group who does not"));
    };
    // It says nothing before the other one leads.
    cluster.transfer(group, &heir).await?;
    Ok(Done::installed(&[heir], format!("leads group {group}")))
}

/// Waits for the end of a move; one that does not end is turned back.
async fn end(cluster: &Cluster, group: u32, to: &str) -> anyhow::Result<String> {
    let ended = match wait_for_end(cluster, group).await {
        Ok(after) => format!("the move ended {:.1} s after the hold", after.as_secs_f64()),
        Err(_) => {
            cluster.cancel_move(group).await?;
            let after = wait_for_end(cluster, group).await.context("a move that was turned back")?;
            format!("turned back, and ended {:.1} s later", after.as_secs_f64())
        }
    };
    let votes = cluster.voters().await?.get(&group).is_some_and(|stores| stores.contains(to));
    Ok(format!("{ended}; {to} {}", if votes { "votes" } else { "has no vote" }))
}

async fn wait_for_end(cluster: &Cluster, group: u32) -> anyhow::Result<Duration> {
    let began = Instant::now();
    loop {
        let error = match cluster.moving().await {
            Ok(moving) if moving.iter().all(|moving| moving.group != group) => return Ok(began.elapsed()),
            Ok(_) => None,
            Err(error) => Some(error),
        };
        if began.elapsed() >= PATIENCE {
            let late = format!("the move of group {group} has not ended in {PATIENCE:?}");
            return Err(error.unwrap_or_else(|| anyhow::anyhow!("it is still listed")).context(late));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn running(cluster: &Cluster) -> Vec<String> {
    let mut stores = cluster.names(Role::Store);
    stores.retain(|store| cluster.is_running(store) && !cluster.is_reserved(store));
    stores
}
