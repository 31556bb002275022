//! Three replicas in one process, over real sockets and disks, with a trivial state machine.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use seriatim_mtls::Mtls;
use seriatim_proto::command::Outcome;
use seriatim_proto::grpc::raft_server::RaftServer;
use seriatim_proto::ids::{ClusterId, GroupId, ReplicaId, StoreId};
use seriatim_proto::limits;
use seriatim_proto::store::StoreRefusal;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};

use super::group::{GroupHandle, RaftHost};
use super::testing::TestMachine;
use super::types::{CommandBatch, Member};
use crate::config::Tuning;
use crate::fatal::FatalSignal;
use crate::identity::Identity;
use crate::transport::{Class, Envelope, Links, Request, Response};

const GROUP: GroupId = GroupId(1);
const CLUSTER: ClusterId = ClusterId([9; 16]);
const PATIENCE: Duration = Duration::from_secs(30);

/// One store, with a runtime of its own: dropping that is a kill.
struct Node {
    runtime: Runtime,
    host: Arc<RaftHost<TestMachine>>,
    handle: GroupHandle<TestMachine>,
    machine: TestMachine,
    _folder: TempDir,
}

fn identity() -> Identity {
    Identity {
        cluster: CLUSTER,
        store: StoreId(1),
        address: String::new(),
        poisoned: false,
        meta_stores: Vec::new(),
        meta_replicas: Vec::new(),
        born: Vec::new(),
    }
}

fn listen() -> (std::net::TcpListener, SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn members(addresses: &[SocketAddr]) -> Vec<Member> {
    let member = |(at, address): (usize, &SocketAddr)| Member {
        replica: ReplicaId(at as u64 + 1),
        store: StoreId(at as u64 + 1),
        address: address.to_string(),
    };
    addresses.iter().enumerate().map(member).collect()
}

fn start(replica: u64, listener: std::net::TcpListener, tuning: Tuning) -> Node {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let machine = TestMachine::default();
    let (path, copy) = (folder.path().to_owned(), machine.clone());
    let (host, handle) = runtime.block_on(async {
        let (sockets, groups) = (Handle::current(), Handle::current());
        let host =
            RaftHost::open(&path, &BTreeSet::new(), &tuning, &FatalSignal::new(), (sockets, Mtls::plaintext()), groups)
                .unwrap();
        host.join(&identity());
        let incoming = tonic::transport::server::TcpIncoming::from(TcpListener::from_std(listener).unwrap())
            .with_nodelay(Some(true));
        let service = RaftServer::new(host.service())
            .max_decoding_message_size(limits::INTERNAL_FRAME_BYTES_MAX as usize)
            .max_encoding_message_size(limits::INTERNAL_FRAME_BYTES_MAX as usize);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        let handle = host.start(GROUP, ReplicaId(replica), copy).await.unwrap();
        (host, handle)
    });
    Node { runtime, host: Arc::new(host), handle, machine, _folder: folder }
}

fn cluster(tuning: Tuning) -> Vec<Node> {
    let listeners: Vec<_> = (0..3).map(|_| listen()).collect();
    let members = members(&listeners.iter().map(|(_, address)| *address).collect::<Vec<_>>());
    let nodes: Vec<Node> =
        listeners.into_iter().zip(1..).map(|((listener, _), replica)| start(replica, listener, tuning)).collect();
    for node in &nodes {
        assert!(node.runtime.block_on(node.handle.is_empty()));
        node.runtime.block_on(node.handle.initialise(&members)).unwrap();
    }
    nodes
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn leader(nodes: &[Node]) -> usize {
    let mut leader = None;
    wait_until("a leader", || {
        leader = nodes.iter().position(|node| node.handle.leadership().is_some());
        leader.is_some()
    });
    leader.unwrap()
}

fn batch(text: &str) -> CommandBatch {
    CommandBatch { count: 2, bytes: Bytes::copy_from_slice(text.as_bytes()) }
}

fn propose(node: &Node, text: &str) -> Result<Vec<Outcome>, StoreRefusal> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    node.runtime.block_on(node.handle.propose(batch(text), move |result| sender.send(result).unwrap()));
    receiver.recv_timeout(PATIENCE).unwrap()
}

/// Proposes until it is taken: a leader that has just been elected may not lead any more.
fn insist(nodes: &[Node], text: &str) {
    wait_until("a write", || nodes.iter().any(|node| propose(node, text).is_ok()));
}

#[test]
fn what_is_answered_is_applied_in_the_same_order_everywhere() {
    let nodes = cluster(Tuning::default());
    insist(&nodes, "0000");
    let first = leader(&nodes);
    let (sender, receiver) = std::sync::mpsc::channel();
    let node = &nodes[first];
    node.runtime.block_on(async {
        for number in 1..500 {
            let sender = sender.clone();
            let answered = move |result: Result<Vec<Outcome>, StoreRefusal>| {
                sender.send(result.map(|outcomes| outcomes.len())).unwrap_or(())
            };
            node.handle.propose(batch(&format!("{number:04}")), answered).await;
        }
    });
    for _ in 1..500 {
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), Ok(2));
    }
    let expected: Vec<Bytes> = (0..500).map(|number| Bytes::from(format!("{number:04}"))).collect();
    assert_eq!(node.machine.batches(), expected);
    wait_until("all apply", || nodes.iter().all(|node| node.machine.batches() == expected));
    node.runtime.block_on(node.handle.read_index()).unwrap();
    assert!(node.host.fsync_us().0 > 0);

    // A follower names the leader; nothing happens there.
    let follower = &nodes[(first + 1) % 3];
    let refused = propose(follower, "no").unwrap_err();
    assert_eq!(refused, StoreRefusal::NotLeader { leader: Some(StoreId(first as u64 + 1)) });
    assert!(follower.runtime.block_on(follower.handle.read_index()).is_err());

    // Bound to a leadership that is not: nothing happens.
    let term = node.handle.leadership().unwrap();
    for (bound, works) in [(term, true), (term - 1, false), (term + 1, false)] {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let answered = move |result| sender.send(result).unwrap();
        node.runtime.block_on(node.handle.propose_as_leader(bound, batch("own"), answered));
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap().is_ok(), works, "term {bound}, leader of {term}");
    }
    assert_eq!(node.machine.batches().len(), 501);

    // Leadership is handed over on request, and the new leader works.
    let target = (first + 1) % 3;
    node.runtime.block_on(node.handle.transfer(ReplicaId(target as u64 + 1)));
    wait_until("the transfer", || nodes[target].handle.leadership().is_some());
    insist(&nodes, "after");
    for node in &nodes {
        node.runtime.block_on(node.host.stop());
    }
}

#[test]
fn a_killed_leader_is_replaced_and_costs_no_spin() {
    let mut nodes = cluster(Tuning::default());
    let first = leader(&nodes);
    insist(&nodes, "one");
    let killed = nodes.remove(first);
    killed.runtime.shutdown_background();
    let began = Instant::now();
    wait_until("a new leader", || nodes.iter().any(|node| node.handle.leadership().is_some()));
    let gap = began.elapsed();
    assert!(gap < Duration::from_secs(5), "took {gap:?}");
    insist(&nodes, "two");
    let second = leader(&nodes);

    // The new leader tries to reach the dead peer, with pauses.
    let before = nodes[second].host.attempts();
    let window = Duration::from_secs(2);
    std::thread::sleep(window); // the window that is measured, not a synchronisation
    let attempts = nodes[second].host.attempts() - before;
    assert!((1..100).contains(&attempts), "{attempts} attempts in {window:?}");
    for node in &nodes {
        node.runtime.block_on(node.host.stop());
    }
}

/// A new leader's first votes and appends do not wait for a stream.
/// Leaders are balanced while reads are under way: none of them waits for its deadline.
#[test]
fn reads_under_way_at_a_leader_that_goes_are_sent_on_at_once() {
    let nodes = cluster(Tuning::default());
    insist(&nodes, "first");
    for _ in 0..6 {
        let from = leader(&nodes);
        let target = (from + 1) % nodes.len();
        wait_until("the target has it all", || {
            let last = nodes[from].handle.status().last_index;
            nodes[from].handle.matched().iter().all(|(_, matched)| *matched == Some(last))
        });
        let readers: Vec<_> = (0..8)
            .map(|_| {
                let handle = nodes[from].handle.clone();
                nodes[from].runtime.spawn(async move {
                    loop {
                        if let Err(refusal) = handle.read_index().await {
                            return refusal;
                        }
                    }
                })
            })
            .collect();
        nodes[from].runtime.block_on(nodes[from].handle.transfer(ReplicaId(target as u64 + 1)));
        for reader in readers {
            let refusal = nodes[from].runtime.block_on(reader).unwrap();
            assert!(matches!(refusal, StoreRefusal::NotLeader { .. }), "{refusal:?}");
        }
        wait_until("another leader", || leader(&nodes) != from);
    }
}

#[test]
fn every_replica_keeps_streams_to_all_others() {
    let nodes = cluster(Tuning::default());
    leader(&nodes);
    for node in &nodes {
        // The members are known once the first entry is there.
        wait_until("streams to both others, for the log and for votes", || {
            node.runtime.block_on(async { node.handle.keep_links() });
            node.host.streams_up() == 4
        });
    }
    for node in &nodes {
        node.runtime.block_on(node.host.stop());
    }
}

#[test]
fn a_follower_behind_a_purged_log_gets_a_snapshot() {
    let tuning = Tuning { log_keep_entries: 10, ..Tuning::default() };
    let listeners: Vec<_> = (0..3).map(|_| listen()).collect();
    let members = members(&listeners.iter().map(|(_, address)| *address).collect::<Vec<_>>());
    let mut listeners = listeners.into_iter();
    let mut nodes: Vec<Node> = (1..3).map(|replica| start(replica, listeners.next().unwrap().0, tuning)).collect();
    for node in &nodes {
        node.runtime.block_on(node.handle.initialise(&members)).unwrap();
    }
    for number in 0..300 {
        insist(&nodes, &number.to_string());
    }
    for node in &nodes {
        wait_until("a purge", || {
            node.runtime.block_on(node.handle.snapshot());
            node.handle.status().purged_index > 250
        });
    }
    nodes.push(start(3, listeners.next().unwrap().0, tuning));
    let expected = nodes[leader(&nodes)].machine.batches();
    wait_until("the snapshot", || nodes[2].machine.batches() == expected);
    insist(&nodes, "after");
    wait_until("the log behind it", || nodes[2].machine.batches().len() == expected.len() + 1);
    for node in &nodes {
        node.runtime.block_on(node.host.stop());
    }
}

/// Each try to reach a follower that is away took the whole state anew, five times a second, and threw it away.
#[test]
fn a_follower_that_is_away_costs_one_snapshot_and_not_one_for_each_try() {
    let tuning = Tuning { log_keep_entries: 10, ..Tuning::default() };
    let listeners: Vec<_> = (0..3).map(|_| listen()).collect();
    let members = members(&listeners.iter().map(|(_, address)| *address).collect::<Vec<_>>());
    let mut listeners = listeners.into_iter();
    let mut nodes: Vec<Node> = (1..3).map(|replica| start(replica, listeners.next().unwrap().0, tuning)).collect();
    let (late, address) = listeners.next().unwrap();
    drop(late);
    for node in &nodes {
        node.runtime.block_on(node.handle.initialise(&members)).unwrap();
    }
    for number in 0..100 {
        insist(&nodes, &number.to_string());
    }
    for node in &nodes {
        wait_until("a purge", || {
            node.runtime.block_on(node.handle.snapshot());
            node.handle.status().purged_index > 50
        });
    }
    let leader = leader(&nodes);
    wait_until("a first try", || nodes[leader].machine.snapshots_taken() > 0);
    let (taken, attempts) = (nodes[leader].machine.snapshots_taken(), nodes[leader].host.attempts());
    wait_until("many tries to reach it", || nodes[leader].host.attempts() >= attempts + 30);
    assert_eq!(nodes[leader].machine.snapshots_taken(), taken, "nobody was there to whom it could be sent");

    let listener = std::net::TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    nodes.push(start(3, listener, tuning));
    let expected = nodes[leader].machine.batches();
    wait_until("the snapshot", || nodes[2].machine.batches().len() >= expected.len());
    for node in &nodes {
        node.runtime.block_on(node.host.stop());
    }
}

#[test]
fn requests_for_others_are_refused() {
    let (listener, address) = listen();
    let node = start(1, listener, Tuning::default());
    node.runtime.block_on(async {
        let links = Links::new(Handle::current(), Mtls::plaintext());
        let link = links.link(&address.to_string(), Class::Control);
        let asked = |cluster, from, to| {
            let link = Arc::clone(&link);
            async move {
                let deadline = tokio::time::Instant::now() + PATIENCE;
                let mut session = loop {
                    if let Some(session) = link.open() {
                        break session;
                    }
                    assert!(tokio::time::Instant::now() < deadline, "no link");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                };
                let vote = crate::watermark::MarkVote { term: 99, node: from, committed: false };
                let body = Request::Vote(crate::transport::Ballot { vote, last: None, transfer: false });
                let (from, to) = (ReplicaId(from), ReplicaId(to));
                let envelope = Envelope { cluster, group: GROUP, from, to, session: session.id(), body };
                assert!(session.send(&envelope).await);
                tokio::time::timeout(PATIENCE, session.receive()).await.unwrap().unwrap()
            }
        };
        assert!(matches!(asked(ClusterId([8; 16]), 2, 1).await, Response::Refused(_)));
        assert!(matches!(asked(CLUSTER, 2, 5).await, Response::Refused(_)));
        assert!(matches!(asked(CLUSTER, 1, 1).await, Response::Refused(_)));
        assert_eq!(node.handle.status().term, 0, "nothing was heard");
        assert!(matches!(asked(CLUSTER, 2, 1).await, Response::Voted { granted: true, .. }));
        links.close();
        node.host.stop().await;
    });
}
