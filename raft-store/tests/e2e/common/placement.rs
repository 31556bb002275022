//! Stores that join, replicas that move or are rebuilt, and a writer that goes on meanwhile.

use std::time::{Duration, Instant};

use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::command::{Command, Outcome};
use seriatim_proto::hash;
use seriatim_proto::ids::{Chain, ConversationId, GroupId, ReplicaId, Seq, StoreId};
use seriatim_proto::meta::{Directory, MetaCommand, MetaOutcome, StoreToken};
use seriatim_proto::store::{Read, ReadOutcome, StoredMessage};
use seriatim_store::Tuning;

use super::{Cluster, Holder, Node, TENANT, admin, any_port, direct, start, status};

/// Moves copy and catch up; each waits for the one before.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Logs so short that who joins needs a snapshot.
pub fn short_logs() -> Tuning {
    Tuning { flush_log_bytes: 64 << 10, log_keep_entries: 10, ..Tuning::default() }
}

pub async fn meta(cluster: &Cluster, command: MetaCommand) -> MetaOutcome {
    match cluster.propose(GroupId::META, &[Command::Meta(command)]).await.remove(0) {
        Outcome::Meta(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

pub async fn directory(cluster: &Cluster) -> Directory {
    match cluster.read(GroupId::META, Read::Directory).await {
        ReadOutcome::Directory(Some(directory)) => directory,
        other => panic!("{other:?}"),
    }
}

/// Starts one more store and takes it into the cluster, as `raftctl node join` does.
pub async fn join(cluster: &mut Cluster) -> StoreId {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server =
        start(folder.path().to_owned(), any_port(), 1 << 20, cluster.tuning).await.expect("an empty store starts");
    let address = server.address();
    cluster.nodes.push(Node { folder, address, reserve_bytes: 1 << 20, server: Some(server) });
    let known = directory(cluster).await;
    let token = status(&address.to_string()).await.token;
    let added = meta(cluster, MetaCommand::AddStore { address: address.to_string(), token }).await;
    let MetaOutcome::StoreAdded(record) = added else { panic!("{added:?}") };
    let mut stores = known.stores.clone();
    stores.push(record.clone());
    let replicas = known.groups[0].replicas.clone();
    let cluster = known.cluster;
    let (wiped, replica) = (StoreToken([0; 16]), ReplicaId(0));
    let adopt = |token| {
        let (stores, replicas) = (stores.clone(), replicas.clone());
        AdminRequest::Adopt { cluster, store: record.id, replica, token, stores, replicas }
    };
    // A late request that was meant for the folder that was here before.
    assert!(matches!(admin(&address.to_string(), &adopt(wiped)).await, AdminResponse::Refused(_)));
    assert_eq!(status(&address.to_string()).await.cluster, None);
    let adopt = adopt(token);
    assert_eq!(admin(&address.to_string(), &adopt).await, AdminResponse::Adopted);
    record.id
}

/// How many data groups have a replica on each store, by the directory.
pub fn load(directory: &Directory) -> Vec<(StoreId, usize)> {
    let of = |store: StoreId| {
        let groups = directory.groups.iter().filter(|group| group.id != GroupId::META);
        groups.filter(|group| group.replicas.iter().any(|replica| replica.store == store)).count()
    };
    directory.stores.iter().map(|store| (store.id, of(store.id))).collect()
}

pub async fn wait_for(cluster: &Cluster, what: &str, mut level: impl FnMut(&Directory) -> bool) -> Directory {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let directory = directory(cluster).await;
        if level(&directory) {
            return directory;
        }
        let (moves, rotten) = (&directory.moves, &directory.rotten);
        assert!(Instant::now() < deadline, "not in time: {what}; {:?} {moves:?} {rotten:?}", load(&directory));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until each store runs exactly the replicas that the directory names for it, and no leftover of another.
pub async fn wait_settled(cluster: &Cluster) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let directory = directory(cluster).await;
        let mut wrong = Vec::new();
        for node in cluster.nodes.iter().filter(|node| node.server.is_some()) {
            let status = status(&node.address.to_string()).await;
            let mut runs: Vec<_> = status.groups.iter().map(|group| (group.group, group.replica)).collect();
            let named = directory.groups.iter().flat_map(|group| {
                let ours = group.replicas.iter().filter(|replica| Some(replica.store) == status.store);
                ours.map(|replica| (group.id, replica.id))
            });
            let mut named: Vec<_> = named.collect();
            runs.sort_unstable();
            named.sort_unstable();
            if runs != named {
                wrong.push((status.store, runs, named));
            }
        }
        if wrong.is_empty() && directory.moves.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "not in time: {wrong:?} {:?}", directory.moves);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Appends to a conversation until it is told to stop; how many were acked.
pub struct Writer {
    conversation: ConversationId,
    pub holder: Holder,
    pub written: u64,
}

impl Writer {
    pub async fn new(cluster: &Cluster, groups: u32) -> Writer {
        let conversation = direct("alice", "bob");
        let slot = hash::conversation_slot(TENANT, &conversation);
        let holder = Holder::claim(cluster, slot, groups).await;
        Writer { conversation, holder, written: 0 }
    }

    pub async fn write(&mut self, cluster: &Cluster, count: u64) {
        for _ in 0..count {
            self.written += 1;
            let command = self.holder.message(&self.conversation, "alice", self.written, &[b'x'; 1_000]);
            // A repeat of what was applied but not answered is `Passed`.
            let outcomes = cluster.propose(self.holder.group, &[command]).await;
            assert!(
                matches!(
                    outcomes[0],
                    Outcome::Appended(_) | Outcome::Rejected(seriatim_proto::command::Reject::Passed)
                ),
                "{outcomes:?}"
            );
        }
    }

    /// Everything that was acked is there, once, in order, linked.
    pub async fn check(&self, cluster: &Cluster) {
        let mut all: Vec<StoredMessage> = Vec::new();
        let mut from = Seq::FIRST;
        loop {
            let read = Read::Messages {
                tenant: TENANT,
                conversation: self.conversation.clone(),
                from,
                limit: 1_000,
                bytes_max: 1 << 20,
            };
            let ReadOutcome::Messages(part) = cluster.read(self.holder.group, read).await else { panic!("messages") };
            let Some(last) = part.last() else { break };
            from = last.entry.seq.next();
            all.extend(part);
        }
        assert_eq!(all.len() as u64, self.written);
        let mut chain = Chain::default();
        for message in &all {
            assert_eq!(message.link_from(chain), message.chain);
            chain = message.chain;
        }
    }
}
