//! Membership: which stores have which groups, and the verbs that change it, as an operator would type them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use super::Cluster;
use super::raftctl::{RaftctlAnswer, done, items, number};

/// Longest that `raftctl` may take for one of these: who leads group 0 may have to be elected first.
const TIMEOUT: &str = "10s";
/// The next move is begun within this, if there is one: the store that leads group 0 plans once a second.
const REST: Duration = Duration::from_secs(3);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(250);

/// A replica that is on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moving {
    /// whose
    pub group: u32,
    /// name of the store that gets one
    pub joining: Option<String>,
    /// name of the store that loses its
    pub leaving: Option<String>,
    /// was it turned back?
    pub back: bool,
}

impl Cluster {
    /// The stores that vote in each group, as its leader says; groups without one are left out.
    pub async fn voters(&self) -> anyhow::Result<BTreeMap<u32, BTreeSet<String>>> {
        let json = self.raftctl(&["raft", "groups", "--timeout", "3s"]).await?;
        Ok(voters(&json, &self.stores_by_id().await))
    }

    /// All replicas that are on their way.
    pub async fn moving(&self) -> anyhow::Result<Vec<Moving>> {
        let json = self.raftctl(&["raft", "moves", "--timeout", TIMEOUT]).await?;
        Ok(moving(&json, &self.stores_by_id().await))
    }

    /// Waits until nobody has said for [`REST`] that a replica is rotten: those that were have been rebuilt. A store that
    /// ends so that its next start sets its databases aside is started.
    pub async fn wait_until_sound(&self, patience: Duration) -> anyhow::Result<()> {
        let (deadline, mut sound_since) = (Instant::now() + patience, Instant::now());
        loop {
            for node in self.nodes().iter().filter(|node| !self.is_running(&node.name)) {
                // One that does not start is what the alarms are about.
                let _ = self.start_node(&node.name).await;
            }
            let alarms = self.raftctl(&["alarm", "ls", "--timeout", TIMEOUT]).await;
            let left = alarms.map(|json| items(&json).map(Value::to_string).collect::<Vec<_>>());
            match &left {
                Ok(left) if left.is_empty() && sound_since.elapsed() >= REST => return Ok(()),
                Ok(left) if left.is_empty() => {}
                _ => sound_since = Instant::now(),
            }
            if Instant::now() >= deadline {
                bail!("wait until all replicas are sound: after {patience:?} there are still {:?}", left?);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until no replica is on its way, for [`REST`].
    pub async fn wait_until_nothing_moves(&self, patience: Duration) -> anyhow::Result<()> {
        let (deadline, mut still_since) = (Instant::now() + patience, Instant::now());
        loop {
            let moving = self.moving().await;
            match &moving {
                Ok(moving) if moving.is_empty() && still_since.elapsed() >= REST => return Ok(()),
                Ok(moving) if moving.is_empty() => {}
                _ => still_since = Instant::now(),
            }
            if Instant::now() >= deadline {
                let left = moving.context("look at the moves")?;
                bail!("wait until nothing moves: after {patience:?} there are still {left:?}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Has a replica of a group moved; it is on its way then.
    pub async fn move_replica(&self, group: u32, from: &str, to: &str) -> anyhow::Result<RaftctlAnswer> {
        let (from, to) = (self.store_id(from).await?, self.store_id(to).await?);
        self.raftctl_answer(&["raft", "move", &group.to_string(), "--from", &from, "--to", &to, "--timeout", TIMEOUT])
            .await
    }

    /// Turns a move back.
    pub async fn cancel_move(&self, group: u32) -> anyhow::Result<()> {
        let answer = self.raftctl_answer(&["raft", "cancel-move", &group.to_string(), "--timeout", TIMEOUT]).await?;
        done("raft cancel-move", &answer)
    }

    /// Has all replicas of a store move away, as far as there is room elsewhere.
    pub async fn drain(&self, store: &str) -> anyhow::Result<()> {
        let id = self.store_id(store).await?;
        done("node drain", &self.raftctl_answer(&["node", "drain", &id, "--timeout", TIMEOUT]).await?)
    }

    /// Takes that back.
    pub async fn undrain(&self, store: &str) -> anyhow::Result<()> {
        let id = self.store_id(store).await?;
        done("node undrain", &self.raftctl_answer(&["node", "undrain", &id, "--timeout", TIMEOUT]).await?)
    }

    /// Makes a store the leader of a group of which it has a replica.
    pub async fn transfer(&self, group: u32, to: &str) -> anyhow::Result<()> {
        let id = self.store_id(to).await?;
        let answer =
            self.raftctl_answer(&["raft", "transfer", &group.to_string(), "--to", &id, "--timeout", TIMEOUT]).await?;
        done("raft transfer", &answer)
    }

    async fn store_id(&self, name: &str) -> anyhow::Result<String> {
        let known = self.stores_by_id().await;
        let found = known.iter().find(|(_, known)| *known == name);
        found.map(|(id, _)| id.to_string()).with_context(|| format!("find the id of {name}"))
    }
}

/// Of each group, what the leader of the newest term says.
fn voters(json: &Value, names: &BTreeMap<u64, String>) -> BTreeMap<u32, BTreeSet<String>> {
    let mut newest: BTreeMap<u32, (u64, BTreeSet<String>)> = BTreeMap::new();
    for item in items(json).filter(|item| item.get("role").and_then(Value::as_str) == Some("leader")) {
        let (Some(group), Some(term)) = (number(item, "group"), number(item, "term")) else { continue };
        let ids = item.get("voters").and_then(Value::as_array).into_iter().flatten();
        let ids = ids.filter_map(|id| id.as_str()?.parse::<u64>().ok());
        let stores = ids.filter_map(|id| names.get(&id).cloned()).collect();
        let Ok(group) = u32::try_from(group) else { continue };
        if newest.get(&group).is_none_or(|(known, _)| *known < term) {
            newest.insert(group, (term, stores));
        }
    }
    newest.into_iter().map(|(group, (_, stores))| (group, stores)).collect()
}

fn moving(json: &Value, names: &BTreeMap<u64, String>) -> Vec<Moving> {
    let place = |item: &Value, side: &str| names.get(&number(item.get(side)?, "store")?).cloned();
    let found = items(json).filter_map(|item| {
        Some(Moving {
            group: u32::try_from(number(item, "group")?).ok()?,
            joining: place(item, "joining"),
            leaving: place(item, "leaving"),
            back: item.get("turnedBack")?.as_bool()?,
        })
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names() -> BTreeMap<u64, String> {
        (1..=4).map(|id| (id, format!("store-{id}"))).collect()
    }

    #[test]
    fn the_voters_are_those_of_the_newest_leader() {
        let item =
            |term: &str, voters: [&str; 3]| json!({"group": 2, "role": "leader", "term": term, "voters": voters});
        let old = item("9", ["1", "2", "3"]);
        let new = item("10", ["1", "2", "4"]);
        let follower = json!({"group": 2, "role": "follower", "term": "11", "voters": ["1"]});
        for items in [[old.clone(), new.clone(), follower.clone()], [follower, new, old]] {
            let expected = ["store-1", "store-2", "store-4"].map(str::to_owned).into();
            assert_eq!(voters(&json!({ "items": items }), &names()), BTreeMap::from([(2, expected)]));
        }
    }

    #[test]
    fn a_move_may_have_one_side_only() {
        let json = json!({"items": [
            {"group": 3, "joining": {"replica": "9", "store": "4"}, "leaving": null, "turnedBack": false},
            {"group": 1, "joining": null, "leaving": {"replica": "2", "store": "1"}, "turnedBack": true},
        ]});
        let expected = [
            Moving { group: 3, joining: Some("store-4".to_owned()), leaving: None, back: false },
            Moving { group: 1, joining: None, leaving: Some("store-1".to_owned()), back: true },
        ];
        assert_eq!(moving(&json, &names()), expected);
    }
}
