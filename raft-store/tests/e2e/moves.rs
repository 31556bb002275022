//! Stores join, replicas move, stores drain and leave, while writes go on.

use std::time::{Duration, Instant};

use crate::common::placement::{PATIENCE, Writer, directory, join, load, meta, short_logs, wait_for, wait_settled};
use crate::common::{Cluster, DEADLINE, admin, start, status};
use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::ids::{GroupId, StoreId};
use seriatim_proto::meta::{Directory, MetaCommand, MetaOutcome, MetaRefusal};

const GROUPS: u32 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_store_gets_its_share_and_gives_it_back_while_writes_go_on() {
    let mut cluster = Cluster::start(3, GROUPS, short_logs()).await;
    let mut writer = Writer::new(&cluster, GROUPS).await;
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
    let mut writer = Writer::new(&cluster, GROUPS).await;
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
    let mut writer = Writer::new(&cluster, GROUPS).await;
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
    let init = AdminRequest::InitCluster { stores: stores.clone(), groups: 1, voters: None };
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
    let mut writer = Writer::new(&cluster, GROUPS).await;
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
