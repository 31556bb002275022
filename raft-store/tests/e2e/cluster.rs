//! A cluster of three stores does what a cluster promises, on real sockets and disks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::{Client, Cluster, DEADLINE, Holder, TENANT, admin, any_port, direct, start, wait_until};
use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::command::{Command, HolderOp, Outcome, Reject};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::hash;
use seriatim_proto::ids::{ClusterId, ConversationId, GroupId, NodeId, Seq, SlotId};
use seriatim_proto::limits;
use seriatim_proto::meta::{MetaCommand, MetaOutcome, NodeKind};
use seriatim_proto::store::{Freshness, Read, ReadOutcome, Renewal, StoreEvent, StoreRefusal, StoredMessage};
use seriatim_store::{IdentityError, StoreStartError, Tuning};

const GROUPS: u32 = 2;

fn conversation() -> (ConversationId, SlotId) {
    let conversation = direct("alice", "bob");
    let slot = hash::conversation_slot(TENANT, &conversation);
    (conversation, slot)
}

fn appended(outcomes: &[Outcome]) -> Vec<Seq> {
    let seq = |outcome: &Outcome| match outcome {
        Outcome::Appended(appended) => appended.seq,
        other => panic!("{other:?}"),
    };
    outcomes.iter().map(seq).collect()
}

async fn messages(cluster: &Cluster, group: GroupId, conversation: &ConversationId) -> Vec<StoredMessage> {
    let mut all = Vec::new();
    let mut from = Seq::FIRST;
    loop {
        let read = Read::Messages {
            tenant: TENANT,
            conversation: conversation.clone(),
            from,
            limit: 1_000,
            bytes_max: 1 << 20,
        };
        let ReadOutcome::Messages(part) = cluster.read(group, read).await else { panic!("messages") };
        let Some(last) = part.last() else { return all };
        from = last.entry.seq.next();
        all.extend(part);
    }
}

fn refused(refusal: StoreRefusal) -> ErrorCode {
    match refusal {
        StoreRefusal::Refused(refusal) => refusal.code,
        StoreRefusal::NotLeader { .. } => ErrorCode::NotLeader,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acked_is_read_back_and_survives_a_leader_and_a_restart_of_all() {
    let mut cluster = Cluster::start(3, GROUPS, Tuning::default()).await;
    let (conversation, slot) = conversation();
    let mut holder = Holder::claim(&cluster, slot, GROUPS).await;
    let group = holder.group;

    let commands: Vec<_> = (0..10).map(|id| holder.message(&conversation, "alice", id, b"hello")).collect();
    let first = appended(&cluster.propose(group, &commands).await);
    assert!(first.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(messages(&cluster, group, &conversation).await.len(), 10);
    // The same commands again change nothing.
    let again = cluster.propose(group, &commands).await;
    assert!(again.iter().all(|outcome| *outcome == Outcome::Rejected(Reject::Passed)), "{again:?}");

    let leader = cluster.leader(group).await;
    cluster.stop(leader).await;
    let more = holder.message(&conversation, "bob", 100, b"still there");
    appended(&cluster.propose(group, &[more]).await);
    assert_eq!(messages(&cluster, group, &conversation).await.len(), 11);

    // Nothing is flushed by a kill: the log has it.
    (0..3).for_each(|nth| cluster.kill(nth));
    for nth in 0..3 {
        cluster.restart(nth).await;
    }
    let back = messages(&cluster, group, &conversation).await;
    assert_eq!(back.iter().take(10).map(|message| message.entry.seq).collect::<Vec<_>>(), first);
    assert_eq!(back.len(), 11);
    let mut chain = seriatim_proto::ids::Chain::default();
    for message in &back {
        assert_eq!(message.link_from(chain), message.chain);
        chain = message.chain;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced() {
    let mut cluster = Cluster::start(3, GROUPS, Tuning::default()).await;
    let (conversation, slot) = conversation();
    let mut holder = Holder::claim(&cluster, slot, GROUPS).await;
    let leader = cluster.leader(holder.group).await;
    cluster.kill(leader);
    let began = Instant::now();
    let command = holder.message(&conversation, "alice", 1, b"hello");
    let outcomes = cluster.propose(holder.group, &[command]).await;
    appended(&outcomes);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    cluster.restart(leader).await;
    let want = messages(&cluster, holder.group, &conversation).await;
    assert_eq!(want.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_was_away_longer_than_the_log_catches_up_by_snapshot() {
    let tuning = Tuning { flush_log_bytes: 64 << 10, log_keep_entries: 10, ..Tuning::default() };
    let mut cluster = Cluster::start(3, GROUPS, tuning).await;
    let (conversation, slot) = conversation();
    let mut holder = Holder::claim(&cluster, slot, GROUPS).await;
    let group = holder.group;
    let away = (cluster.leader(group).await + 1) % 3;
    let reached = cluster.group(away, group).await.unwrap().last_index;
    cluster.kill(away);

    let mut id = 0;
    let deadline = Instant::now() + DEADLINE;
    // Until all who stayed have purged what the follower would need.
    loop {
        for _ in 0..20 {
            let commands: Vec<_> = (0..5)
                .map(|_| {
                    id += 1;
                    holder.message(&conversation, "alice", id, &[b'x'; 1_000])
                })
                .collect();
            appended(&cluster.propose(group, &commands).await);
        }
        let mut purged = Vec::new();
        for nth in (0..3).filter(|nth| *nth != away) {
            purged.push(cluster.group(nth, group).await.unwrap().purged_index);
        }
        if purged.iter().all(|purged| *purged > reached + 1) {
            break;
        }
        assert!(Instant::now() < deadline, "nothing is purged: {purged:?}, the follower has {reached}");
    }
    let want = messages(&cluster, group, &conversation).await;
    assert_eq!(want.len() as u64, id);

    cluster.restart(away).await;
    let leader = cluster.leader(group).await;
    let goal = cluster.group(leader, group).await.unwrap().applied_index;
    let cluster = &cluster;
    wait_until("the follower has caught up", || async move {
        cluster.group(away, group).await.is_some_and(|status| status.applied_index >= goal)
    })
    .await;
    // The follower's own rows say the same, and go on after the snapshot.
    let client = cluster.client(away).await;
    let read = Read::Messages {
        tenant: TENANT,
        conversation: conversation.clone(),
        from: Seq::FIRST,
        limit: 4_096,
        bytes_max: 8 << 20,
    };
    let stale = client.read(group, Freshness::Stale, vec![read.clone()]).await.unwrap();
    assert_eq!(stale, [ReadOutcome::Messages(want)]);
    let command = holder.message(&conversation, "bob", 1_000_000, b"after");
    appended(&cluster.propose(group, &[command]).await);
    let client = &client;
    let (read, id) = (&read, id);
    wait_until("the follower applies again", || async move {
        match &client.read(group, Freshness::Stale, vec![read.clone()]).await.unwrap()[..] {
            [ReadOutcome::Messages(messages)] => messages.len() as u64 == id + 1,
            _ => false,
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lives_with_renewals_and_expires_without() {
    let cluster = Cluster::start(3, GROUPS, Tuning::default()).await;
    let (conversation, slot) = conversation();
    let mut holder = Holder::claim(&cluster, slot, GROUPS).await;
    let group = holder.group;
    let watcher = cluster.client(cluster.leader(group).await).await;
    watcher.watch().await;

    let until = Instant::now() + Duration::from_millis(2 * limits::LEASE_GRANT_MS);
    while Instant::now() < until {
        assert_eq!(cluster.renew(group, holder.lease).await, Renewal::Renewed);
        tokio::time::sleep(Duration::from_millis(limits::LEASE_RENEW_MS)).await;
    }
    let command = holder.message(&conversation, "alice", 1, b"hello");
    appended(&cluster.propose(group, &[command]).await);

    // From here on nobody renews.
    let began = Instant::now();
    wait_until("the slot is free", || async {
        matches!(cluster.read(group, Read::Holder(slot)).await, ReadOutcome::Holder(row) if row.holder.is_none())
    })
    .await;
    assert!(began.elapsed() >= Duration::from_millis(limits::LEASE_HOLD_MS), "{:?}", began.elapsed());
    assert_eq!(cluster.renew(group, holder.lease).await, Renewal::Gone);
    let seen = holder.epoch;
    let other = cluster.propose(group, &[Command::OpenLease { node: NodeId(2) }]).await;
    let [Outcome::Leased(lease)] = other[..] else { panic!("{other:?}") };
    let claimed = cluster.propose(group, &[Command::Claim { slot, lease, seen }]).await;
    assert_eq!(claimed, [Outcome::Claimed { epoch: seen.next() }]);
    let late = holder.message(&conversation, "alice", 2, b"too late");
    let fenced = cluster.propose(group, &[late]).await;
    assert_eq!(fenced, [Outcome::Rejected(Reject::Fenced { current: seen.next() })]);

    // The watcher heard of the holder, of the free slot, and of the new holder.
    let mut events = watcher.events.lock().await;
    let mut heard = Vec::new();
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while heard.last() != Some(&Some(NodeId(2))) {
        let event = tokio::time::timeout_at(deadline, events.recv()).await.expect("events in time").unwrap();
        if let StoreEvent::Holders { group: of, rows } = event
            && of == group
        {
            heard.extend(rows.iter().filter(|row| row.slot == slot).map(|row| row.holder));
        }
    }
    heard.dedup();
    assert_eq!(heard, [Some(NodeId(1)), None, Some(NodeId(2))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_registered_as_long_as_its_lease_is_renewed() {
    let cluster = Cluster::start(3, GROUPS, Tuning::default()).await;
    let open = Command::Meta(MetaCommand::OpenNode { kind: NodeKind::Logic, address: "127.0.0.1:1".into() });
    let outcomes = cluster.propose(GroupId::META, &[open]).await;
    let [Outcome::Meta(MetaOutcome::Opened(node))] = &outcomes[..] else { panic!("{outcomes:?}") };
    let nodes = || async {
        match cluster.read(GroupId::META, Read::Directory).await {
            ReadOutcome::Directory(Some(directory)) => directory.nodes,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(nodes().await, std::slice::from_ref(node));
    wait_until("the node is gone", || async { nodes().await.is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_with_their_codes() {
    let cluster = Cluster::start(1, GROUPS, Tuning::default()).await;
    let group = GroupId(1);
    cluster.leader(group).await;
    let client = cluster.client(0).await;
    let malformed = |result: Result<_, StoreRefusal>| refused(result.unwrap_err());
    let garbage = bytes::Bytes::from_static(b"\xFFgarbage");
    assert_eq!(malformed(client.propose_raw(group, 1, garbage).await), ErrorCode::Malformed);
    assert_eq!(malformed(client.propose(group, &[]).await), ErrorCode::Malformed);
    let own = Command::Own { generation: Default::default(), slots: vec![] };
    assert_eq!(malformed(client.propose(group, &[own]).await), ErrorCode::Malformed);
    let long = bytes::Bytes::from(vec![0; limits::ENTRY_BYTES_MAX as usize + 1]);
    assert_eq!(malformed(client.propose_raw(group, 1, long).await), ErrorCode::FrameTooLarge);
    let open = [Command::OpenLease { node: NodeId(1) }];
    assert_eq!(malformed(client.propose(GroupId(99), &open).await), ErrorCode::NotLeader);
    let error = Client::connect(&cluster.addresses()[0], Some(ClusterId([9; 16]))).await.err().unwrap();
    assert_eq!(error.code, ErrorCode::WrongCluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_whose_clock_is_far_off_dates_nothing_far_from_the_leaders() {
    let cluster = Cluster::start(1, GROUPS, Tuning::default()).await;
    let (conversation, slot) = conversation();
    let mut holder = Holder::claim(&cluster, slot, GROUPS).await;
    let group = holder.group;
    let mut at = |at_ms| {
        let mut command = holder.message(&conversation, "alice", at_ms, b"hello");
        let Command::Held { op: HolderOp::Append(append), .. } = &mut command else { panic!() };
        append.at_ms = at_ms;
        command
    };
    let now_ms = || u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let began_ms = now_ms();
    let year_ms = 365 * 86_400_000;
    // The one behind is raised to the one before it, as ever.
    let times = [began_ms - year_ms, began_ms - 1, began_ms + year_ms, began_ms];
    let outcomes = cluster.propose(group, &times.map(&mut at)).await;
    let appended: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Appended(appended) => appended.entry.as_ref().unwrap().at_ms,
            other => panic!("{other:?}"),
        })
        .collect();
    let skew = limits::CLOCK_SKEW_MS_MAX;
    let raised = began_ms - skew..=now_ms() - skew;
    assert!(raised.contains(&appended[0]), "{appended:?} in {raised:?}");
    assert_eq!(appended[1], began_ms - 1);
    let lowered = began_ms + skew..=now_ms() + skew;
    assert!(lowered.contains(&appended[2]), "{appended:?} in {lowered:?}");
    assert_eq!(appended[3], appended[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nearly_full_disk_refuses_writes_and_serves_reads() {
    let mut cluster = Cluster::start(1, GROUPS, Tuning::default()).await;
    let (conversation, slot) = conversation();
    let mut holder = Holder::claim(&cluster, slot, GROUPS).await;
    let command = holder.message(&conversation, "alice", 1, b"hello");
    appended(&cluster.propose(holder.group, &[command]).await);
    cluster.stop(0).await;
    cluster.nodes[0].reserve_bytes = u64::MAX / 2;
    cluster.restart(0).await;
    cluster.leader(holder.group).await;
    let client = cluster.client(0).await;
    let command = holder.message(&conversation, "alice", 2, b"no room");
    let refusal = client.propose(holder.group, std::slice::from_ref(&command)).await.unwrap_err();
    assert_eq!(refused(refusal), ErrorCode::ReadOnly);
    assert_eq!(messages(&cluster, holder.group, &conversation).await.len(), 1);
    assert!(cluster.status(0).await.read_only);
    // With room again, what was refused is taken. The lease may be gone by then; that is a verdict too.
    cluster.stop(0).await;
    cluster.nodes[0].reserve_bytes = 1 << 20;
    cluster.restart(0).await;
    cluster.leader(holder.group).await;
    assert!(cluster.client(0).await.propose(holder.group, &[command]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_and_folders_of_others_are_refused() {
    let one = Cluster::start(1, GROUPS, Tuning::default()).await;
    let mut other = Cluster::start(1, GROUPS, Tuning::default()).await;
    // A store that has a cluster joins no other.
    let stores = vec![one.addresses()[0].clone(), other.addresses()[0].clone()];
    let request = AdminRequest::InitCluster { stores, groups: GROUPS, voters: None };
    match admin(&one.addresses()[0], &request).await {
        AdminResponse::Refused(refusal) => assert_eq!(refusal.code, ErrorCode::WrongCluster),
        answer => panic!("{answer:?}"),
    }
    // Repeating the init of the same stores changes nothing.
    assert_eq!(one.init(GROUPS).await.unwrap(), one.id.unwrap());
    // A folder in use, a port in use, another address.
    let folder = other.nodes[0].folder.path().to_owned();
    let in_use = start(folder.clone(), any_port(), 1, Tuning::default()).await.unwrap_err();
    assert!(matches!(in_use, StoreStartError::Identity(IdentityError::Locked { .. })), "{in_use:?}");
    let empty = tempfile::tempdir().unwrap();
    let taken = start(empty.path().to_owned(), other.nodes[0].address, 1, Tuning::default()).await.unwrap_err();
    assert!(matches!(taken, StoreStartError::Listen { .. }), "{taken:?}");
    other.stop(0).await;
    wait_until("the folder is let go", || async {
        let moved = start(folder.clone(), any_port(), 1, Tuning::default()).await.unwrap_err();
        matches!(moved, StoreStartError::Identity(IdentityError::Address { .. }))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_a_cluster_serves_admin_only() {
    let cluster = Cluster::bare(1, Tuning::default()).await;
    assert_eq!(cluster.status(0).await.cluster, None);
    let client = cluster.client(0).await;
    assert_eq!(client.welcome.cluster, None);
    let refusal = client.propose(GroupId(1), &[Command::OpenLease { node: NodeId(1) }]).await.unwrap_err();
    assert_eq!(refused(refusal), ErrorCode::Unavailable);
    let refusal = Client::connect(&cluster.addresses()[0], Some(ClusterId([9; 16]))).await.err().unwrap();
    assert_eq!(refusal.code, ErrorCode::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_end_up_spread_over_the_stores() {
    let cluster = Cluster::start(3, 5, Tuning::default()).await;
    let cluster = &cluster;
    wait_until("each store leads two of six groups", || async move {
        let mut led = Vec::new();
        for nth in 0..3 {
            let status = cluster.status(nth).await;
            led.push(status.groups.iter().filter(|group| group.role == "leader").count());
        }
        led == [2, 2, 2]
    })
    .await;
}

/// A leader that gives its leadership away serves nobody until another one is elected: it must not go to a store that
/// had everything a moment ago and is dead now.
#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_not_given_to_a_store_that_died_a_moment_ago() {
    let mut cluster = Cluster::start(3, GROUPS, Tuning::default()).await;
    let (group, preferred) = (GroupId(1), 1);
    {
        let cluster = &cluster;
        wait_until("the preferred store leads", || async move { cluster.leader(group).await == preferred }).await;
    }
    cluster.kill(preferred);
    let leader = cluster.leader(group).await;
    assert_ne!(leader, preferred);
    cluster.restart(preferred).await;
    let last = cluster.group(leader, group).await.unwrap().last_index;
    {
        let cluster = &cluster;
        wait_until("the preferred store has the whole log", || async move {
            cluster.group(preferred, group).await.is_some_and(|status| status.committed_index >= last)
        })
        .await;
    }
    cluster.kill(preferred);
    let term = cluster.group(cluster.leader(group).await, group).await.unwrap().term;
    // Two rounds of balancing, each of which would give it away.
    let until = Instant::now() + Duration::from_secs(9);
    while Instant::now() < until {
        cluster.propose(group, &[Command::OpenLease { node: NodeId(1) }]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(cluster.group(cluster.leader(group).await, group).await.unwrap().term, term, "nobody was elected anew");
}

/// `cargo test --release -p seriatim-store --test cluster throughput -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: prints appends per second of three stores in this process"]
async fn throughput() {
    const BATCHES_IN_FLIGHT: usize = 4;
    const SECONDS: u64 = 5;
    for batch in [1usize, 10, 100] {
        let cluster = Cluster::start(3, 4, Tuning::default()).await;
        // Leaders are balanced once; a lane must not lose its leader while it measures.
        wait_until("leaders are spread", || async {
            let mut led = Vec::new();
            for nth in 0..3 {
                let groups = cluster.status(nth).await.groups;
                led.push(groups.iter().filter(|group| group.role == "leader").count());
            }
            led.iter().all(|led| *led <= 2)
        })
        .await;
        let mut lanes = Vec::new();
        for group in 1..=4 {
            let slot = SlotId((group - 1) * (limits::SLOTS / 4) + 1);
            let (one, conversation) = (0u32..)
                .map(|n| (n, direct(&format!("user-{n}"), "zed")))
                .find(|(_, conversation)| {
                    let at = hash::conversation_slot(TENANT, conversation);
                    slot.0 <= at.0 && at.0 < slot.0 + limits::SLOTS / 4 - 1
                })
                .unwrap();
            let slot = hash::conversation_slot(TENANT, &conversation);
            lanes.push((format!("user-{one}"), conversation, Holder::claim(&cluster, slot, 4).await));
        }
        let began = Instant::now();
        let mut tasks = Vec::new();
        for (sender, conversation, mut holder) in lanes {
            let client = cluster.client(cluster.leader(holder.group).await).await;
            tasks.push(tokio::spawn(async move {
                let mut done = 0u64;
                let mut id = 0;
                let mut flying = std::collections::VecDeque::new();
                while began.elapsed() < Duration::from_secs(SECONDS) {
                    let commands: Vec<_> = (0..batch)
                        .map(|_| {
                            id += 1;
                            holder.message(&conversation, &sender, id, &[b'x'; 100])
                        })
                        .collect();
                    flying.push_back(client.propose_later(holder.group, &commands).await);
                    if flying.len() == BATCHES_IN_FLIGHT {
                        match flying.pop_front().unwrap().await {
                            Ok(outcomes) => done += appended(&outcomes).len() as u64,
                            // Leadership was balanced away: this lane ends.
                            Err(_) => break,
                        }
                    }
                }
                (done, began.elapsed())
            }));
        }
        let mut rate = 0.0;
        for task in tasks {
            let (done, took) = task.await.unwrap();
            rate += done as f64 / took.as_secs_f64();
        }
        println!("batch {batch}: {rate:.0} appends/s");
    }
}
