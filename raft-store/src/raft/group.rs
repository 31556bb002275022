//! Group: the replicas that run on this store, and what the rest of the store may do with one.
//!
//! All tasks of openraft run on the groups' own runtime, so that RocksDB never blocks sockets.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use openraft::async_runtime::{Instant as _, WatchReceiver};
use openraft::errors::{ClientWriteError, ForwardToLeader, InitializeError, LinearizableReadError, RaftError};
use openraft::raft::{ClientWriteResult, Precondition};
use openraft::storage::RaftStateMachine;
use openraft::{ChangeMembers, Config, Raft, RaftMetrics, ReadPolicy, SnapshotPolicy};
use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use seriatim_mtls::Mtls;
use seriatim_proto::command::Outcome;
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{GroupId, ReplicaId, StoreId};
use seriatim_proto::limits;
use seriatim_proto::meta::Directory;
use seriatim_proto::store::{GroupStatus, StoreRefusal};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::incoming::{Incoming, Replicas};
use super::log_store::{LogOpenError, LogStores, Scrubbed};
use super::network::NetworkFactory;
use super::snapshot::SnapshotData;
use super::state_machine::StateMachine;
use super::types::{CommandBatch, LeaderId, LogId, Member, Node, Reply, TypeConfig};
use crate::config::Tuning;
use crate::fatal::FatalSignal;
use crate::identity::Identity;
use crate::log_record::ReplicaKey;
use crate::transport::{Class, Links};

/// How long a linearizable read waits for a quorum and for its applied index. All that arrive meanwhile wait for it.
const READ_DEADLINE: Duration = Duration::from_millis(limits::STORE_TIMEOUT_MS);
/// A replica that answered a heartbeat this recently is alive.
const HEARD: Duration = Duration::from_millis(3 * limits::RAFT_HEARTBEAT_MS);
/// How often a level is looked at that no event tells.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long a snapshot may take to be installed at the receiver.
const INSTALL_DEADLINE_MS: u64 = 120_000;

/// All replicas of a store.
pub(crate) struct RaftHost<M: RaftStateMachine<TypeConfig> = StateMachine> {
    logs: LogStores,
    links: Arc<Links>,
    replicas: Arc<Replicas<M>>,
    config: Arc<Config>,
    fatal: FatalSignal,
}

/// Why a replica cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// Its log, or all logs.
    #[error(transparent)]
    Log(#[from] LogOpenError),
    /// The store does not know its cluster yet.
    #[error("start a replica before the store has joined its cluster")]
    NoCluster,
    /// openraft refused what it found, or the runtime is going down.
    #[error("start {key}: {reason}")]
    Raft {
        /// which replica
        key: ReplicaKey,
        /// why
        reason: String,
    },
}

impl From<StartError> for crate::host::StartError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Log(LogOpenError::Rot { .. }) => Self::Rot(error.to_string()),
            StartError::Log(error) if error.is_rot() => Self::Damaged(error.to_string()),
            StartError::Log(LogOpenError::Read { key, source }) => {
                Self::Failed(format!("read the log of {key}: {source}"))
            }
            error => Self::Failed(error.to_string()),
        }
    }
}

impl<M> RaftHost<M>
where
    M: RaftStateMachine<TypeConfig, SnapshotData = SnapshotData>,
{
    /// Opens the logs in `folder`; of replicas that are being `removed` some may be missing. Streams to peers run on `sockets` over `mtls`, everything else on `groups`.
    pub(crate) fn open(
        folder: &Path,
        removed: &BTreeSet<ReplicaKey>,
        tuning: &Tuning,
        fatal: &FatalSignal,
        (sockets, mtls): (Handle, Mtls),
        groups: Handle,
    ) -> Result<Self, LogOpenError> {
        let replicas = Replicas {
            cluster: OnceLock::new(),
            directory: OnceLock::new(),
            running: RwLock::new(HashMap::new()),
            runtime: groups,
            snapshots: folder.join("snapshots"),
        };
        Ok(Self {
            logs: LogStores::open(folder, removed, fatal)?,
            links: Links::new(sockets, mtls),
            replicas: Arc::new(replicas),
            config: Arc::new(config(tuning)),
            fatal: fatal.clone(),
        })
    }

    /// The store belongs to its cluster from now on. Repeating it changes nothing.
    pub(crate) fn join(&self, identity: &Identity) {
        // A second call with another id cannot come: the identity is written once.
        let _ = self.replicas.cluster.set(identity.cluster);
    }

    /// From now on requests of replicas that the directory knows as removed are refused.
    pub(crate) fn follow(&self, directory: watch::Receiver<Option<Arc<Directory>>>) {
        // Called once, when the host is made.
        let _ = self.replicas.directory.set(directory);
    }

    /// Reads some of a replica's log and checks it; see [`LogStores::scrub`].
    pub(crate) async fn scrub_log(
        &self,
        group: GroupId,
        replica: ReplicaId,
        from: u64,
        bytes_max: usize,
    ) -> Result<Scrubbed, LogOpenError> {
        self.logs.scrub(ReplicaKey { group, replica }, from, bytes_max).await
    }

    /// Has the replica ever saved a vote?
    pub(crate) fn has_voted(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.logs.has_voted(ReplicaKey { group, replica })
    }

    /// Waits until all votes are on disk.
    pub(crate) async fn settle(&self) -> io::Result<()> {
        self.logs.settle().await
    }

    /// Removes the log and the vote of a replica that was removed; on disk at return. It must not run.
    pub(crate) async fn forget(&self, group: GroupId, replica: ReplicaId) -> io::Result<()> {
        let key = ReplicaKey { group, replica };
        assert!(!self.replicas.running.read().contains_key(&key), "{key} still runs");
        self.logs.forget(key).await
    }

    /// The gRPC service for other stores.
    pub(crate) fn service(&self) -> Incoming<M> {
        Incoming(Arc::clone(&self.replicas))
    }

    /// Checks a replica's log, replays what its state machine lacks, and lets it take part.
    pub(crate) async fn start(
        &self,
        group: GroupId,
        replica: ReplicaId,
        mut machine: M,
    ) -> Result<GroupHandle<M>, StartError> {
        let key = ReplicaKey { group, replica };
        let cluster = *self.replicas.cluster.get().ok_or(StartError::NoCluster)?;
        let refusal = |reason: String| StartError::Raft { key, reason };
        let (applied, _) = machine.applied_state().await.map_err(|error| refusal(error.to_string()))?;
        let log = self.logs.open_replica(key, applied.map(|id| id.index)).await?;
        let directory = self.replicas.directory.get().cloned();
        let network = NetworkFactory { cluster, key, links: Arc::clone(&self.links), directory };
        let config = Arc::clone(&self.config);
        let starting = async move { Raft::new(replica.0, config, network, log, machine).await };
        let raft = self.replicas.runtime.spawn(starting).await;
        let raft = raft.map_err(|error| refusal(error.to_string()))?.map_err(|fatal| refusal(fatal.to_string()))?;
        self.replicas.running.write().insert(key, raft.clone());
        self.replicas.runtime.spawn(tell_failure(key, raft.clone(), self.fatal.clone()));
        Ok(GroupHandle { key, raft, replicas: Arc::clone(&self.replicas), links: Arc::clone(&self.links) })
    }

    /// Median and 99th percentile of recent log fsyncs, in microseconds.
    pub(crate) fn fsync_us(&self) -> (u64, u64) {
        self.logs.stats().fsync_us()
    }

    /// Puts the log's metrics into a registry.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.logs.stats().register(registry);
    }

    /// How often peers were tried to be reached.
    #[cfg(test)]
    pub(crate) fn attempts(&self) -> u64 {
        self.links.attempts()
    }

    /// Streams to peers that are up, but for those of snapshots.
    #[cfg(test)]
    pub(crate) fn streams_up(&self) -> usize {
        self.links.up_count()
    }

    /// Stops what still runs, the links and the log writer.
    pub(crate) async fn stop(&self) {
        let running: Vec<_> = self.replicas.running.write().drain().collect();
        for (key, raft) in running {
            if raft.shutdown().await.is_err() {
                tracing::error!(%key, "a replica ended with a panic");
            }
        }
        self.links.close();
        self.logs.close().await;
    }
}

/// A replica that stops by itself stops the process: its disk failed, or something is wrong with us.
async fn tell_failure<M: RaftStateMachine<TypeConfig>>(key: ReplicaKey, raft: Raft<TypeConfig, M>, fatal: FatalSignal) {
    let mut metrics = raft.server_metrics();
    while metrics.changed().await.is_ok() {}
    let state = raft.metrics().borrow_watched().running_state.clone();
    if let Err(error) = state
        && !matches!(error, openraft::errors::Fatal::Stopped)
    {
        fatal.raise(format!("{key}: {error}"));
    }
}

/// What openraft is told (facts of the measurements: docs/decisions).
fn config(tuning: &Tuning) -> Config {
    Config {
        cluster_name: "seriatim".to_owned(),
        heartbeat_interval: limits::RAFT_HEARTBEAT_MS,
        heartbeat_min_interval: Some(limits::RAFT_HEARTBEAT_MS),
        election_timeout_min: limits::RAFT_ELECTION_MS_MIN,
        election_timeout_max: limits::RAFT_ELECTION_MS_MAX,
        enable_pre_vote: Some(true),
        // Unsafe with a state machine that replays its log.
        enable_leader_restore: Some(false),
        snapshot_policy: SnapshotPolicy::Never,
        install_snapshot_timeout: INSTALL_DEADLINE_MS,
        replication_lag_threshold: tuning.log_keep_entries,
        max_in_snapshot_log_to_keep: tuning.log_keep_entries,
        purge_batch_size: (tuning.log_keep_entries / 8).clamp(1, 1024),
        api_channel_size: Some(4096),
        notification_channel_size: Some(4096),
        api_batch_linger_ms: 0,
        ..Config::default()
    }
    .validate()
    .expect("the values above agree with each other")
}

/// Who takes part in a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Members {
    /// those of a joint membership together
    pub(crate) voters: BTreeSet<ReplicaId>,
    /// voters and learners
    pub(crate) all: BTreeSet<ReplicaId>,
    /// on their way from one set of voters to another
    pub(crate) is_joint: bool,
    /// the term of what is committed, if they are: an entry of the leader's own term makes that sure
    pub(crate) committed_in: Option<u64>,
    /// the entry that made them so
    log_id: Option<LogId>,
}

/// One running replica. Cheap to clone.
pub(crate) struct GroupHandle<M: RaftStateMachine<TypeConfig> = StateMachine> {
    key: ReplicaKey,
    raft: Raft<TypeConfig, M>,
    replicas: Arc<Replicas<M>>,
    links: Arc<Links>,
}

impl<M: RaftStateMachine<TypeConfig>> Clone for GroupHandle<M> {
    fn clone(&self) -> Self {
        Self {
            key: self.key,
            raft: self.raft.clone(),
            replicas: Arc::clone(&self.replicas),
            links: Arc::clone(&self.links),
        }
    }
}

impl<M> GroupHandle<M>
where
    M: RaftStateMachine<TypeConfig, SnapshotData = SnapshotData>,
{
    /// Which replica it is.
    pub(crate) fn replica(&self) -> ReplicaId {
        self.key.replica
    }

    /// Does the replica know nothing, not even its members?
    pub(crate) async fn is_empty(&self) -> bool {
        !self.raft.is_initialized().await.unwrap_or(true)
    }

    /// Gives an empty replica its members. Every member does the same with the same list, once.
    pub(crate) async fn initialise(&self, members: &[Member]) -> Result<(), String> {
        let nodes: BTreeMap<u64, Node> = members
            .iter()
            .map(|member| (member.replica.0, Node { store: member.store.0, address: member.address.clone() }))
            .collect();
        match self.raft.initialize(nodes).await {
            // Another member was faster, and has told us.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits for something that comes with what this replica hears from others; false if the group stops before.
    pub(crate) async fn until(&self, level: impl Fn() -> bool) -> bool {
        let mut metrics = self.raft.server_metrics();
        loop {
            if level() {
                return true;
            }
            // Looked at again now and then: what is written follows what is known.
            if let Ok(Err(_)) = tokio::time::timeout(LOOK_AGAIN, metrics.changed()).await {
                return level();
            }
        }
    }

    /// The members as this replica knows them, voters or not.
    pub(crate) fn membership(&self) -> Members {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        Members {
            is_joint: membership.membership().get_joint_config().len() > 1,
            committed_in: metrics
                .local_committed
                .filter(|committed| *membership.log_id() <= Some(*committed))
                .map(|committed| committed.leader_id.term),
            voters: membership.voter_ids().map(ReplicaId).collect(),
            all: membership.nodes().map(|(id, _)| ReplicaId(*id)).collect(),
            log_id: *membership.log_id(),
        }
    }

    /// All members, if this replica leads and the entry that made them so is committed: whatever happens, no majority
    /// forgets it.
    fn committed_members(&self) -> Vec<ReplicaId> {
        let members = self.membership();
        match (self.leadership(), members.committed_in) {
            (Some(_), Some(_)) => members.all.into_iter().collect(),
            _ => Vec::new(),
        }
    }

    /// Makes a replica a learner: it gets everything and has no vote. Conditions as for [`GroupHandle::change_voters`].
    pub(crate) async fn add_learner(&self, term: u64, seen: &Members, member: &Member) -> Result<(), String> {
        let node = Node { store: member.store.0, address: member.address.clone() };
        self.change_members(term, seen, ChangeMembers::AddNodes([(member.replica.0, node)].into()), true).await
    }

    /// Makes these the voters, by way of a joint membership; whoever is none of them is no member any more. Only if
    /// this replica leads in `term` and the members are still those that were `seen`.
    pub(crate) async fn change_voters(
        &self,
        term: u64,
        seen: &Members,
        voters: &BTreeSet<ReplicaId>,
    ) -> Result<(), String> {
        let voters: BTreeSet<u64> = voters.iter().map(|replica| replica.0).collect();
        self.change_members(term, seen, ChangeMembers::ReplaceAllVoters(voters), false).await
    }

    /// Members that have no vote are members no more, under the same conditions.
    pub(crate) async fn remove_learners(
        &self,
        term: u64,
        seen: &Members,
        learners: &BTreeSet<ReplicaId>,
    ) -> Result<(), String> {
        let learners: BTreeSet<u64> = learners.iter().map(|replica| replica.0).collect();
        self.change_members(term, seen, ChangeMembers::RemoveNodes(learners), true).await
    }

    async fn change_members(
        &self,
        term: u64,
        seen: &Members,
        change: ChangeMembers<u64, Node>,
        retain: bool,
    ) -> Result<(), String> {
        let leader = LeaderId { term, node_id: self.key.replica.0 };
        let conditions = [
            Precondition::CommittedLeaderId { committed_leader_id: leader },
            Precondition::LastMembershipLogId { last_membership_log_id: seen.log_id },
        ];
        let changed = self.raft.change_membership_if(change, retain, conditions).await;
        changed.map(drop).map_err(|error| error.to_string())
    }

    /// From now on does not stand for election, but votes; until somebody leads or the time is over, if the future is
    /// run.
    pub(crate) fn let_another_lead_first(mut self, timeout: Duration) -> impl Future<Output = ()> + Send {
        self.raft.runtime_config().elect(false);
        async move {
            // Late or not: from here on anybody may lead.
            let _ = tokio::time::timeout(timeout, self.leader_changed(Some(None))).await;
            self.raft.runtime_config().elect(true);
        }
    }

    /// Proposes a batch. `answered` is called once: out of apply, or with the reason why not.
    pub(crate) async fn propose(
        &self,
        batch: CommandBatch,
        answered: impl FnOnce(Result<Vec<Outcome>, StoreRefusal>) + Send + 'static,
    ) {
        // A group that has stopped drops the reply, which answers it.
        let _ = self.raft.client_write_ff(batch, Some(reply(answered))).await;
    }

    /// Proposes a batch that must not be appended under any other leadership than ours of `term`.
    pub(crate) async fn propose_as_leader(
        &self,
        term: u64,
        batch: CommandBatch,
        answered: impl FnOnce(Result<Vec<Outcome>, StoreRefusal>) + Send + 'static,
    ) {
        let leader = LeaderId { term, node_id: self.key.replica.0 };
        let _ = self.raft.write(batch).with_leader(leader).responder(reply(answered)).await;
    }

    /// Waits until everything that was committed before the call is applied here. Only the leader can.
    pub(crate) async fn read_index(&self) -> Result<(), StoreRefusal> {
        let late = |_| Err(refused(ErrorCode::Timeout, "no quorum answers in time"));
        tokio::time::timeout(READ_DEADLINE, self.read_index_unbounded()).await.unwrap_or_else(late)
    }

    async fn read_index_unbounded(&self) -> Result<(), StoreRefusal> {
        let linearizer = match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => linearizer,
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                return Err(not_leader(&forward));
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                return Err(refused(ErrorCode::Unavailable, "no quorum answers"));
            }
            Err(RaftError::Fatal(_)) => return Err(refused(ErrorCode::Shutdown, "the group has stopped")),
        };
        match linearizer.try_await_ready(&self.raft, Some(READ_DEADLINE)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(refused(ErrorCode::Timeout, "apply is too far behind")),
            Err(_) => Err(refused(ErrorCode::Shutdown, "the group has stopped")),
        }
    }

    /// The term that this replica leads in, if it leads and a quorum has answered it as a leader: before that, and
    /// when no quorum answered within the lease, openraft refuses proposals.
    pub(crate) fn leadership(&self) -> Option<u64> {
        let leader = self.raft.as_leader().ok()?;
        leader.last_quorum_acked().map(|_| leader.leader_id().term)
    }

    /// The store that leads, as seen here.
    pub(crate) fn leader(&self) -> Option<StoreId> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader?;
        metrics.membership_config.get_node(&leader).map(|node| StoreId(node.store))
    }

    /// Waits until another store leads than was `told`. `None` when the group has stopped.
    pub(crate) async fn leader_changed(&mut self, told: Option<Option<StoreId>>) -> Option<Option<StoreId>> {
        let mut metrics = self.raft.server_metrics();
        loop {
            // Seen before it is compared, so that no change is missed.
            drop(metrics.borrow_and_update());
            let leader = self.leader();
            if told != Some(leader) {
                return Some(leader);
            }
            metrics.changed().await.ok()?;
        }
    }

    /// Members and how far each is known to have the log; all `None` but ours if this replica does not lead.
    pub(crate) fn matched(&self) -> Vec<(Member, Option<u64>)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = |id: &u64| match &metrics.replication {
            _ if *id == self.key.replica.0 => metrics.last_log_index,
            Some(replication) => replication.get(id).copied().flatten().map(|log_id| log_id.index),
            None => None,
        };
        let member = |(id, node): (&u64, &Node)| {
            let member = Member { replica: ReplicaId(*id), store: StoreId(node.store), address: node.address.clone() };
            (member, matched(id))
        };
        metrics.membership_config.nodes().map(member).collect()
    }

    /// Has the replica answered a heartbeat lately? Only a leader knows.
    pub(crate) fn is_heard(&self, replica: ReplicaId) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let heard = metrics.heartbeat.as_ref().and_then(|heard| heard.get(&replica.0).copied().flatten());
        heard.is_some_and(|heard| heard.elapsed() < HEARD)
    }

    /// Keeps streams to all other members, so that the first vote or append of a new leader need not wait for one.
    pub(crate) fn keep_links(&self) {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        for (_, node) in metrics.membership_config.nodes().filter(|(id, _)| **id != self.key.replica.0) {
            self.links.link(&node.address, Class::Log);
            self.links.link(&node.address, Class::Control);
        }
    }

    /// Hands leadership to a replica. Whether it takes it shows in [`GroupHandle::leader`].
    pub(crate) async fn transfer(&self, to: ReplicaId) {
        self.log_stopped("transfer", self.raft.trigger().transfer_leader(to.0).await.is_err());
    }

    /// Notes what the state machine has on disk as a snapshot; openraft then purges the log up to it, but for
    /// `limits::LOG_KEEP_ENTRIES`.
    pub(crate) async fn snapshot(&self) {
        self.log_stopped("snapshot", self.raft.trigger().snapshot().await.is_err());
    }

    /// Stops the replica.
    pub(crate) async fn stop(&self) {
        self.replicas.running.write().remove(&self.key);
        self.log_stopped("stop", self.raft.shutdown().await.is_err());
    }

    /// What operators see. Slots and leases are not known here.
    pub(crate) fn status(&self) -> GroupStatus {
        // First: who reads a watched value while he holds it waits for a writer that waits for him.
        let members = self.committed_members();
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let store = |id: u64| metrics.membership_config.get_node(&id).map(|node| StoreId(node.store));
        let index = |log_id: &Option<LogId>| log_id.map_or(0, |log_id| log_id.index);
        GroupStatus {
            group: self.key.group,
            replica: self.key.replica,
            role: role(&metrics),
            leader: metrics.current_leader.and_then(store),
            term: metrics.current_term,
            last_index: metrics.last_log_index.unwrap_or(0),
            committed_index: index(&metrics.local_committed),
            applied_index: index(&metrics.last_applied),
            snapshot_index: index(&metrics.snapshot),
            purged_index: index(&metrics.purged),
            slots: 0,
            leases: 0,
            voters: metrics.membership_config.voter_ids().filter_map(store).collect(),
            settled: true,
            members,
            digest: None,
            digesting: None,
            agreeing: vec![],
        }
    }

    fn log_stopped(&self, act: &str, stopped: bool) {
        if stopped {
            tracing::debug!(key = %self.key, act, "the group has stopped");
        }
    }
}

fn role(metrics: &RaftMetrics<TypeConfig>) -> String {
    use openraft::ServerState;
    match metrics.state {
        ServerState::Leader => "leader",
        ServerState::Candidate => "candidate",
        ServerState::Follower => "follower",
        ServerState::Learner => "learner",
        ServerState::Shutdown => "stopped",
    }
    .to_owned()
}

fn reply(
    answered: impl FnOnce(Result<Vec<Outcome>, StoreRefusal>) + Send + 'static,
) -> Reply<ClientWriteResult<TypeConfig>> {
    Reply::new(move |result: Option<ClientWriteResult<TypeConfig>>| {
        answered(match result {
            Some(Ok(response)) => Ok(response.data),
            Some(Err(ClientWriteError::ForwardToLeader(forward))) => Err(not_leader(&forward)),
            Some(Err(ClientWriteError::LogEntryDiscarded(_))) => {
                Err(refused(ErrorCode::Unavailable, "leadership was lost while the entry was on its way"))
            }
            Some(Err(
                error @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)),
            )) => Err(refused(ErrorCode::Internal, &error.to_string())),
            None => Err(refused(ErrorCode::Shutdown, "the group has stopped")),
        });
    })
}

fn not_leader(forward: &ForwardToLeader<TypeConfig>) -> StoreRefusal {
    StoreRefusal::NotLeader { leader: forward.leader_node.as_ref().map(|node| StoreId(node.store)) }
}

fn refused(code: ErrorCode, message: &str) -> StoreRefusal {
    StoreRefusal::Refused(Refusal::new(code, message))
}
