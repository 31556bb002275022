//! Targets: whom a fault hits, drawn from those that it may hit now.
//!
//! A node that another fault works on is left alone. Faults of one kind of node at a time leave a majority of the
//! stores, one logic node and one gateway unhurt; only the faults that say so take all. A fault that may hit nobody
//! now waits a little for those before it to heal.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::Done;
use crate::cluster::{Cluster, Reservation, Role};

/// Longest wait for somebody who may be hurt.
const PATIENCE: Duration = Duration::from_secs(4);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(400);

/// Whom a fault hits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    /// one of a role
    One(Role),
    /// as many stores as may fail at once
    MinorityOfStores,
    /// every store
    AllStores,
    /// every node
    Everybody,
    /// the one store of this run whose files may be damaged
    Frail,
    /// the store that leads most groups
    Leader,
    /// the logic node that holds most slots
    Holder,
}

/// Draws and reserves, or says why nobody can be hurt.
pub(super) async fn pick(cluster: &Cluster, rng: &mut StdRng, target: Target) -> Result<Reservation, Done> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match pick_now(cluster, rng, target).await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(POLL).await,
            picked => return picked,
        }
    }
}

async fn pick_now(cluster: &Cluster, rng: &mut StdRng, target: Target) -> Result<Reservation, Done> {
    let names = match target {
        Target::One(role) => draw(cluster, rng, role, 1)?,
        Target::MinorityOfStores => draw(cluster, rng, Role::Store, minority(cluster))?,
        Target::AllStores => cluster.names(Role::Store),
        Target::Everybody => cluster.nodes().iter().map(|node| node.name.clone()).collect(),
        Target::Frail => {
            let stores = cluster.names(Role::Store);
            let frail = one(rng, &stores).map(|drawn| cluster.frail(drawn).to_owned());
            within_budget(cluster, Role::Store, frail.into_iter().collect())?
        }
        Target::Leader => within_budget(cluster, Role::Store, vec![leader(cluster).await?])?,
        Target::Holder => within_budget(cluster, Role::Logic, vec![holder(cluster).await?])?,
    };
    if let Some(name) = names.iter().find(|name| !cluster.is_running(name)) {
        return Err(Done::skipped(format!("{name} does not run")));
    }
    cluster.reserve(&names).ok_or_else(|| Done::skipped(format!("another fault works on one of {}", names.join(", "))))
}

/// Most stores that may fail while a majority is well; none of one or two.
pub(super) fn minority(cluster: &Cluster) -> usize {
    cluster.names(Role::Store).len().saturating_sub(1) / 2
}

/// The store that leads most groups; of several the first by name.
pub(super) async fn leader(cluster: &Cluster) -> Result<String, Done> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for store in cluster.leaders().await.into_values() {
        *counts.entry(store).or_default() += 1;
    }
    most(counts).ok_or_else(|| Done::skipped("no store says that it leads"))
}

async fn holder(cluster: &Cluster) -> Result<String, Done> {
    most(cluster.slot_holders().await).ok_or_else(|| Done::skipped("no logic node says what it holds"))
}

fn most<N: Ord>(counts: BTreeMap<String, N>) -> Option<String> {
    // `max_by` takes the last of equals, so the first by name comes last.
    counts.into_iter().rev().max_by(|a, b| a.1.cmp(&b.1)).map(|(name, _)| name)
}

fn draw(cluster: &Cluster, rng: &mut StdRng, role: Role, count: usize) -> Result<Vec<String>, Done> {
    let mut free = cluster.names(role);
    free.retain(|name| cluster.is_running(name) && !cluster.is_reserved(name));
    free.shuffle(rng);
    free.truncate(count);
    within_budget(cluster, role, free)
}

fn within_budget(cluster: &Cluster, role: Role, names: Vec<String>) -> Result<Vec<String>, Done> {
    let all = cluster.names(role);
    let hurt = all.iter().filter(|name| cluster.is_reserved(name)).count();
    let most = match role {
        Role::Store => minority(cluster),
        Role::Logic | Role::Gateway => all.len() - 1,
    };
    // A cluster of one of a role has nobody to spare, and its one is hurt all the same.
    if names.is_empty() || hurt + names.len() > most.max(1) {
        return Err(Done::skipped(format!("{hurt} of {} {} nodes are hurt already", all.len(), role.name())));
    }
    Ok(names)
}

/// One of several.
pub(super) fn one<'a, T>(rng: &mut StdRng, items: &'a [T]) -> Option<&'a T> {
    items.choose(rng)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equals_the_first_by_name_is_taken() {
        let counts = [("store-3", 2), ("store-1", 2), ("store-2", 1)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(most(BTreeMap::from(counts)), Some("store-1".to_owned()));
        assert_eq!(most(BTreeMap::<String, usize>::new()), None);
    }
}
