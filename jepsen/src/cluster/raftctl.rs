//! Raftctl: what the operators' tool says about the cluster: the harness asks nobody else.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{Cluster, NodeInfo, Role, tool};

/// Longest run; a hung tool is a finding.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait of the tool for one answer, when only a glance is wanted.
const GLANCE: &str = "1500ms";
/// It answered, and what it answered is that something is not well.
const UNHEALTHY: i32 = 10;

/// What `raftctl` said.
#[derive(Clone, PartialEq, Debug)]
pub struct RaftctlAnswer {
    /// exit code
    pub exit: i32,
    /// what it printed on stdout, `Null` if that was no JSON
    pub json: Value,
    /// what it printed on stderr
    pub stderr: String,
}

/// What a replica has of its group's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogBounds {
    /// its newest entry
    pub last: u64,
    /// what it has purged, inclusive
    pub purged: u64,
}

/// Who leads a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Leadership {
    /// name of the store
    pub(crate) store: String,
    /// since which election
    pub(crate) term: u64,
}

impl Cluster {
    /// Runs `raftctl -o json` against all stores; an error unless it exits 0 or 10 (unhealthy, which has data too).
    pub async fn raftctl(&self, args: &[&str]) -> anyhow::Result<Value> {
        let answer = self.raftctl_answer(args).await?;
        done(&args.join(" "), &answer)?;
        Ok(answer.json)
    }

    /// Runs `raftctl -o json` against all stores, whatever it exits with.
    pub async fn raftctl_answer(&self, args: &[&str]) -> anyhow::Result<RaftctlAnswer> {
        self.raftctl_answer_within(args, PATIENCE).await
    }

    /// The same, of something that takes its time.
    pub(crate) async fn raftctl_answer_within(
        &self,
        args: &[&str],
        patience: Duration,
    ) -> anyhow::Result<RaftctlAnswer> {
        self.raftctl_at(&self.store_addresses(), args, patience).await
    }

    fn store_addresses(&self) -> Vec<String> {
        let stores = self.nodes().iter().filter(|node| node.role == Role::Store);
        stores.map(|node| node.address.to_string()).collect()
    }

    async fn raftctl_at(&self, stores: &[String], args: &[&str], patience: Duration) -> anyhow::Result<RaftctlAnswer> {
        let keys = &self.inner.keys;
        let first_gateway = self.gateways().first().map(|(_, address)| address.to_string());
        let mut words: Vec<String> = args.iter().map(|word| (*word).to_owned()).collect();
        let mut flag = |name: &str, value: String| words.extend([format!("--{name}"), value]);
        flag("output", "json".to_owned());
        flag("endpoints", stores.join(","));
        flag("gateway", first_gateway.unwrap_or_default());
        flag("ca", keys.ca.display().to_string());
        flag("dev-key", keys.token_key.display().to_string());
        words.extend(keys.operator_words());
        let program = self.config().bin.join("raftctl");
        let ran = tool::run(&program, &words, patience).await?;
        let json = serde_json::from_str(&ran.stdout).unwrap_or(Value::Null);
        Ok(RaftctlAnswer { exit: ran.exit, json, stderr: ran.stderr })
    }

    /// Which store leads each group, as far as stores answer at once.
    pub async fn leaders(&self) -> BTreeMap<u32, String> {
        self.leaderships().await.into_iter().map(|(group, leadership)| (group, leadership.store)).collect()
    }

    /// The same, with the terms.
    pub(crate) async fn leaderships(&self) -> BTreeMap<u32, Leadership> {
        match self.raftctl(&["raft", "groups", "--timeout", GLANCE]).await {
            Ok(json) => leaders(&json, &self.stores_by_id().await),
            Err(_) => BTreeMap::new(),
        }
    }

    /// Where the log of each replica ends and begins, by group and store, as far as stores answer at once.
    pub async fn logs(&self) -> BTreeMap<(u32, String), LogBounds> {
        match self.raftctl(&["raft", "groups", "--timeout", GLANCE]).await {
            Ok(json) => logs(&json, &self.stores_by_id().await),
            Err(_) => BTreeMap::new(),
        }
    }

    /// Names of stores by the ids that the cluster gave them. These never change, so they are asked for once.
    pub(super) async fn stores_by_id(&self) -> BTreeMap<u64, String> {
        if let Some(known) = self.inner.stores_by_id.get() {
            return known.clone();
        }
        let listed = self.raftctl(&["cluster", "status", "--timeout", GLANCE]).await;
        let found = listed.map(|json| stores_by_id(&json, self.nodes())).unwrap_or_default();
        if found.len() == self.names(Role::Store).len() {
            // Whoever was first: both found the same.
            let _ = self.inner.stores_by_id.set(found.clone());
        }
        found
    }

    /// Makes the cluster of the first stores, and has the others join: they take their share while clients work.
    pub(crate) async fn initialise(&self) -> anyhow::Result<()> {
        let (groups, stores) = (self.config().groups.to_string(), self.store_addresses());
        let founders = stores.len().min(self.config().founders.max(1) as usize);
        let (founders, joiners) = stores.split_at(founders);
        let mut orders = vec![vec!["cluster", "init", "--groups", &groups]];
        orders.extend(joiners.iter().map(|store| vec!["node", "join", store]));
        for order in orders {
            let words = [order.as_slice(), &["--timeout", "30s"]].concat();
            let answer = self.raftctl_at(founders, &words, PATIENCE).await?;
            done(&order.join(" "), &answer)?;
        }
        Ok(())
    }

    /// Does every group have a leader that answers, and every store a cluster?
    pub(crate) async fn stores_are_healthy(&self) -> anyhow::Result<()> {
        let answer = self.raftctl_answer(&["cluster", "status", "--timeout", "3s"]).await?;
        ensure!(answer.exit == 0, "cluster status: exit code {}: {}", answer.exit, answer.stderr.trim());
        Ok(())
    }
}

/// It did what it was told, or answered that something is not well.
pub(super) fn done(what: &str, answer: &RaftctlAnswer) -> anyhow::Result<()> {
    let done = answer.exit == 0 || answer.exit == UNHEALTHY;
    ensure!(done, "run raftctl {what}: exit code {}: {}", answer.exit, answer.stderr.trim());
    Ok(())
}

pub(super) fn items(json: &Value) -> impl Iterator<Item = &Value> {
    json.get("items").and_then(Value::as_array).into_iter().flatten()
}

/// Numbers of 64 bits are strings in raftctl's JSON.
pub(super) fn number(item: &Value, name: &str) -> Option<u64> {
    let value = item.get(name)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn stores_by_id(json: &Value, nodes: &[NodeInfo]) -> BTreeMap<u64, String> {
    let named = items(json).filter_map(|item| {
        let endpoint = item.get("endpoint")?.as_str()?;
        let node = nodes.iter().find(|node| node.address.to_string() == endpoint)?;
        Some((number(item, "store")?, node.name.clone()))
    });
    named.collect()
}

/// Of each group, the replica of the highest term that says it leads: an old leader may not know yet.
fn leaders(json: &Value, names: &BTreeMap<u64, String>) -> BTreeMap<u32, Leadership> {
    let mut newest: BTreeMap<u32, Leadership> = BTreeMap::new();
    for item in items(json).filter(|item| item.get("role").and_then(Value::as_str) == Some("leader")) {
        let read = || -> anyhow::Result<(u32, u64, String)> {
            let group = u32::try_from(number(item, "group").context("group")?)?;
            let store = number(item, "store").context("store")?;
            Ok((group, number(item, "term").context("term")?, names.get(&store).context("its name")?.clone()))
        };
        let Ok((group, term, name)) = read() else { continue };
        if newest.get(&group).is_none_or(|known| known.term < term) {
            newest.insert(group, Leadership { store: name, term });
        }
    }
    newest
}

fn logs(json: &Value, names: &BTreeMap<u64, String>) -> BTreeMap<(u32, String), LogBounds> {
    let found = items(json).filter_map(|item| {
        let group = u32::try_from(number(item, "group")?).ok()?;
        let name = names.get(&number(item, "store")?)?.clone();
        let bounds = LogBounds { last: number(item, "lastIndex")?, purged: number(item, "purgedIndex")? };
        Some(((group, name), bounds))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_leader_of_the_newest_term_counts() {
        let names = BTreeMap::from([(1, "store-1".to_owned()), (2, "store-2".to_owned())]);
        let item = |store: &str, term: &str| json!({"group": 3, "store": store, "role": "leader", "term": term});
        for items in [[item("1", "9"), item("2", "10")], [item("2", "10"), item("1", "9")]] {
            let found = leaders(&json!({ "items": items }), &names);
            assert_eq!(found, BTreeMap::from([(3, Leadership { store: "store-2".to_owned(), term: 10 })]));
        }
    }

    #[test]
    fn a_follower_or_an_unknown_store_leads_nothing() {
        let names = BTreeMap::from([(1, "store-1".to_owned())]);
        let json = json!({"items": [
            {"group": 1, "store": "1", "role": "follower", "term": "4"},
            {"group": 2, "store": "7", "role": "leader", "term": "4"},
        ]});
        assert_eq!(leaders(&json, &names), BTreeMap::new());
    }

    #[test]
    fn logs_of_stores_that_answered_are_known() {
        let names = BTreeMap::from([(1, "store-1".to_owned()), (2, "store-2".to_owned())]);
        let json = json!({"items": [
            {"group": 1, "store": "1", "role": "leader", "lastIndex": "90", "purgedIndex": "40"},
            {"group": 1, "store": "2", "role": "unreachable"},
        ]});
        let expected = BTreeMap::from([((1, "store-1".to_owned()), LogBounds { last: 90, purged: 40 })]);
        assert_eq!(logs(&json, &names), expected);
    }
}
