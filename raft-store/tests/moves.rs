//! Stores join, replicas move, stores drain and leave, while writes go on.

mod common;

use std::time::{Duration, Instant};

use common::{Cluster, DEADLINE, Holder, Node, TENANT, admin, any_port, direct, start, status};
use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::command::{Command, Outcome};
use seriatim_proto::hash;
use seriatim_proto::ids::{Chain, ConversationId, GroupId, ReplicaId, Seq, StoreId};
use seriatim_proto::meta::{Directory, MetaCommand, MetaOutcome, MetaRefusal, StoreToken};
use seriatim_proto::store::{Read, ReadOutcome, StoredMessage};
use seriatim_store::Tuning;

const GROUPS: u32 = 4;
/// Moves copy and catch up; each waits for the one before.
const PATIENCE: Duration = Duration::from_secs(120);

/// Logs so short that who joins needs a snapshot.
fn short_logs() -> Tuning {
    Tuning { flush_log_bytes: 64 << 10, log_keep_entries: 10, ..Tuning::default() }
}

async fn meta(cluster: &Cluster, command: MetaCommand) -> MetaOutcome {
    match cluster.propose(GroupId::META, &[Command::Meta(command)]).await.remove(0) {
        Outcome::Meta(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

async fn directory(cluster: &Cluster) -> Directory {
    match cluster.read(GroupId::META, Read::Directory).await {
        ReadOutcome::Directory(Some(directory)) => directory,
        other => panic!("{other:?}"),
    }
}

/// Starts one more store and takes it into the cluster, as `raftctl node join` does.
async fn join(cluster: &mut Cluster) -> StoreId {
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
fn load(directory: &Directory) -> Vec<(StoreId, usize)> {
    let of = |store: StoreId| {
        let groups = directory.groups.iter().filter(|group| group.id != GroupId::META);
        groups.filter(|group| group.replicas.iter().any(|replica| replica.store == store)).count()
    };
    directory.stores.iter().map(|store| (store.id, of(store.id))).collect()
}

async fn wait_for(cluster: &Cluster, what: &str, mut level: impl FnMut(&Directory) -> bool) -> Directory {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let directory = directory(cluster).await;
        if level(&directory) {
            return directory;
        }
        assert!(Instant::now() < deadline, "not in time: {what}; {:?} {:?}", load(&directory), directory.moves);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until each store runs exactly the replicas that the directory names for it, and no leftover of another.
async fn wait_settled(cluster: &Cluster) {
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
struct Writer {
    conversation: ConversationId,
    holder: Holder,
    written: u64,
}

impl Writer {
    async fn new(cluster: &Cluster) -> Writer {
        let conversation = direct("alice", "bob");
        let slot = hash::conversation_slot(TENANT, &conversation);
        let holder = Holder::claim(cluster, slot, GROUPS).await;
        Writer { conversation, holder, written: 0 }
    }

    async fn write(&mut self, cluster: &Cluster, count: u64) {
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
    async fn check(&self, cluster: &Cluster) {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_store_gets_its_share_and_gives_it_back_while_writes_go_on() {
    let mut cluster = Cluster::start(3, GROUPS, short_logs()).await;
    let mut writer = Writer::new(&cluster).await;
    writer.write(&cluster, 400).await;

    let fourth = join(&mut cluster).await;
    let balanced =
        |directory: &Directory| directory.moves.is_empty() && load(directory).iter().all(|(_, groups)| *groups == 3);
    let deadline = Instant::now() + PATIENCE;
    while !balanced(&directory(&cluster).await) {
        writer.write(&cluster, 5).await;
        let seen = directory(&cluster).await;
        assert!(Instant::now() < deadline, "not in time: {:?} {:?}", load(&seen), seen.moves);
    }
    wait_settled(&cluster).await;
    writer.check(&cluster).await;

    // The new replicas count: each store can go, and the group goes on.
    for nth in 0..4 {
        cluster.kill(nth);
        writer.write(&cluster, 3).await;
        cluster.restart(nth).await;
    }
    wait_settled(&cluster).await;
    writer.check(&cluster).await;

    assert_eq!(
        meta(&cluster, MetaCommand::RemoveStore { store: fourth }).await,
        MetaOutcome::Refused(MetaRefusal::NotEmpty)
    );
    meta(&cluster, MetaCommand::SetDraining { store: fourth, draining: true }).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let directory = directory(&cluster).await;
        if directory.moves.is_empty() && load(&directory).contains(&(fourth, 0)) {
            break;
        }
        writer.write(&cluster, 5).await;
        assert!(Instant::now() < deadline, "not in time: {:?} {:?}", load(&directory), directory.moves);
    }
    wait_settled(&cluster).await;
    assert_eq!(meta(&cluster, MetaCommand::RemoveStore { store: fourth }).await, MetaOutcome::StoreRemoved);
    cluster.kill(3);
    writer.write(&cluster, 10).await;
    writer.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_survives_the_death_of_whoever_takes_part_in_it() {
    let mut cluster = Cluster::start(3, GROUPS, short_logs()).await;
    let mut writer = Writer::new(&cluster).await;
    writer.write(&cluster, 200).await;
    let group = writer.holder.group;
    join(&mut cluster).await;

    // Each in turn dies while something moves: the one that joins, the group's leader, group 0's leader.
    for round in 0..6 {
        let moving = wait_for(&cluster, "something moves, or all is balanced", |directory| {
            !directory.moves.is_empty() || load(directory).iter().all(|(_, groups)| *groups == 3)
        })
        .await;
        if moving.moves.is_empty() {
            break;
        }
        let victim = match round % 3 {
            0 => 3,
            1 => cluster.leader(moving.moves[0].group).await,
            _ => cluster.leader(GroupId::META).await,
        };
        cluster.kill(victim);
        writer.write(&cluster, 3).await;
        cluster.restart(victim).await;
    }
    wait_for(&cluster, "all is balanced", |directory| {
        directory.moves.is_empty() && load(directory).iter().all(|(_, groups)| *groups == 3)
    })
    .await;
    wait_settled(&cluster).await;
    writer.write(&cluster, 20).await;
    writer.check(&cluster).await;
    let stores = directory(&cluster).await.groups.iter().find(|record| record.id == group).unwrap().replicas.len();
    assert_eq!(stores, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_can_be_turned_at_any_time_and_nothing_is_lost() {
    let mut cluster = Cluster::start(3, GROUPS, short_logs()).await;
    let mut writer = Writer::new(&cluster).await;
    writer.write(&cluster, 200).await;
    let group = writer.holder.group;
    let fourth = join(&mut cluster).await;
    let of_group = |directory: &Directory| directory.moves.iter().find(|moved| moved.group == group).cloned();
    let mut turned = 0;
    for pause_ms in [0, 5, 20, 50, 100, 150, 200, 300] {
        let directory = wait_for(&cluster, "the group rests", |directory| of_group(directory).is_none()).await;
        let record = directory.groups.iter().find(|record| record.id == group).unwrap();
        let lives = record.replicas.iter().any(|replica| replica.store == fourth);
        let leader = cluster.leader(group).await as u64 + 1;
        // The leader itself leaves; and back to a store that has none, the new store leaves.
        let empty = (1..=3).map(StoreId).find(|store| !record.replicas.iter().any(|replica| replica.store == *store));
        let (from, to) =
            if lives { (fourth, empty.expect("four stores, three replicas")) } else { (StoreId(leader), fourth) };
        let begin = MetaCommand::BeginMove { group, from: Some(from), to: Some(to) };
        // The planner may have been quicker.
        let MetaOutcome::Moving(moved) = meta(&cluster, begin.clone()).await else { continue };
        writer.write(&cluster, 2).await;
        // Each time another stage of it.
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        let cancel = MetaCommand::CancelMove { moved };
        if let MetaOutcome::Moving(back) = meta(&cluster, cancel.clone()).await {
            turned += 1;
            assert!(back.back);
            // A person who is not sure that it took effect.
            let again = meta(&cluster, MetaCommand::CancelMove { moved: back.clone() }).await;
            assert!(matches!(again, MetaOutcome::NothingMoves) || again == MetaOutcome::Moving(back), "{again:?}");
            writer.write(&cluster, 2).await;
            if pause_ms % 3 == 0 {
                meta(&cluster, begin).await;
            }
        }
    }
    assert!(turned >= 3, "{turned}");
    wait_for(&cluster, "all is balanced", |directory| {
        directory.moves.is_empty() && load(directory).iter().all(|(_, groups)| *groups == 3)
    })
    .await;
    wait_settled(&cluster).await;
    writer.write(&cluster, 20).await;
    // Whatever is a member votes: each store can go.
    for nth in 0..4 {
        cluster.kill(nth);
        writer.write(&cluster, 2).await;
        cluster.restart(nth).await;
    }
    writer.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_store_that_was_wiped_cannot_take_its_place_again() {
    let mut cluster = Cluster::start(3, 1, short_logs()).await;
    let stores: Vec<String> = cluster.nodes.iter().map(|node| node.address.to_string()).collect();
    let init = AdminRequest::InitCluster { stores: stores.clone(), groups: 1 };
    assert!(matches!(admin(&stores[0], &init).await, AdminResponse::Initialised { .. }), "a repeat changes nothing");
    cluster.kill(2);
    let address = cluster.nodes[2].address;
    let empty = tempfile::tempdir().unwrap();
    let deadline = Instant::now() + DEADLINE;
    let wiped = loop {
        match start(empty.path().to_owned(), address, 1 << 20, cluster.tuning).await {
            Ok(server) => break server,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let AdminResponse::Refused(refusal) = admin(&stores[0], &init).await else { panic!("it took its place") };
    assert!(refusal.message.contains("was wiped"), "{refusal:?}");
    assert_eq!(status(&stores[2]).await.cluster, None);
    drop(wiped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_moved_away_is_gone_and_does_not_come_back_with_its_store() {
    let mut cluster = Cluster::start(3, GROUPS, short_logs()).await;
    let mut writer = Writer::new(&cluster).await;
    writer.write(&cluster, 100).await;
    let group = writer.holder.group;
    let fourth = join(&mut cluster).await;
    // Whatever the planner does meanwhile: this group's replica goes from store 1 to the new one.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let directory = directory(&cluster).await;
        let record = directory.groups.iter().find(|record| record.id == group).unwrap();
        let lives = |store: StoreId| record.replicas.iter().any(|replica| replica.store == store);
        if lives(fourth) && directory.moves.is_empty() {
            break;
        }
        if !directory.moves.iter().any(|moved| moved.group == group) && !lives(fourth) {
            meta(&cluster, MetaCommand::BeginMove { group, from: Some(StoreId(1)), to: Some(fourth) }).await;
        }
        assert!(Instant::now() < deadline, "not in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let record = directory(&cluster).await.groups.into_iter().find(|record| record.id == group).unwrap();
    let left = (0..3).find(|nth| !record.replicas.iter().any(|replica| replica.store == StoreId(*nth as u64 + 1)));
    let left = left.expect("one of the first three has it no more");
    let deadline = Instant::now() + DEADLINE;
    while cluster.group(left, group).await.is_some() {
        assert!(Instant::now() < deadline, "the old replica still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.kill(left);
    cluster.restart(left).await;
    wait_settled(&cluster).await;
    assert!(cluster.group(left, group).await.is_none());
    writer.write(&cluster, 10).await;
    writer.check(&cluster).await;

    // A folder that was wiped is another store, and is not taken for the one that was.
    let address = cluster.nodes[3].address;
    cluster.kill(3);
    let empty = tempfile::tempdir().unwrap();
    let deadline = Instant::now() + DEADLINE;
    let wiped = loop {
        match start(empty.path().to_owned(), address, 1 << 20, cluster.tuning).await {
            Ok(server) => break server,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let token = status(&address.to_string()).await.token;
    let refused = meta(&cluster, MetaCommand::AddStore { address: address.to_string(), token }).await;
    assert_eq!(refused, MetaOutcome::Refused(MetaRefusal::AddressTaken));
    drop(wiped);
}
