//! Host: one store: its identity, and the replicas of groups that live here.
//!
//! ```text
//! Adopt / start ──▶ identity ──▶ replica of group 0 ──▶ directory ──▶ bear or start the replicas it names (meta.rs)
//! ```
//! # Invariants
//! I15: a replica is listed in the identity before it is initialised. It is born only by a directory that was read
//! linearizably, under an open record or for a move; whatever else is not listed is never started.
//! I6: what a rotten replica left here goes only once the group has committed, without it, that its successor is a
//! member.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};

use seriatim_proto::chaos::{self, Point};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{GroupId, ReplicaId, StoreId};
use seriatim_proto::limits;
use seriatim_proto::meta::{Directory, RotRecord, StoreToken};
use seriatim_proto::store::{GroupStatus, RottenStatus, StoreRefusal, StoreStatus};

use crate::admission::Budget;
use crate::config::Tuning;
use crate::disk::DiskGuard;
use crate::fatal::FatalSignal;
use crate::identity::{BornReplica, DataFolder, Identity, IdentityError, Stage};
use crate::live::{Events, GroupLive, HoleNote};
use crate::meta;
use crate::metrics::StoreMetrics;
use crate::moves;
use crate::raft::group::RaftHost;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::Member;
use crate::remote::Remote;
use crate::replica::{Replica, Shared};
use crate::rocks::state_db::StateDb;
use crate::scrub::{DigestPace, Pace};
use crate::skew;
use seriatim_store_core::Fatal;
use seriatim_store_core::plan::preferred_leaders;

/// Everything that lives in one store process.
pub(crate) struct Host {
    data_dir: PathBuf,
    identity: RwLock<Option<Arc<Identity>>>,
    token: StoreToken,
    address: String,
    raft: RaftHost,
    state: Arc<StateDb>,
    disk: Arc<DiskGuard>,
    events: Events,
    metrics: StoreMetrics,
    fatal: FatalSignal,
    tuning: Tuning,
    /// Runs all group tasks.
    groups: tokio::runtime::Handle,
    remote: Remote,
    node_budget: Budget,
    replicas: RwLock<BTreeMap<GroupId, Arc<Replica>>>,
    starting: Mutex<BTreeSet<GroupId>>,
    /// Replicas that are not started because they are not what was promised, and why.
    rotten: Mutex<BTreeMap<(GroupId, ReplicaId), String>>,
    /// Replicas that run and turned out not to be what was promised, and why: they vote until group 0 has another made.
    suspected: Mutex<BTreeMap<(GroupId, ReplicaId), String>>,
    /// Replicas that should be here and are not: group 0 is asked whether they still should.
    doubted: Mutex<BTreeSet<(GroupId, ReplicaId)>>,
    stopping: AtomicBool,
    /// Other stores show another time.
    clock_doubted: AtomicBool,
    /// of all digests
    pace: Arc<DigestPace>,
    /// of the scrub, which no number of digests holds up
    scrub_pace: Pace,
    scrubs: bool,
    domain: Option<String>,
    /// The last: its lock goes when nothing here writes into the folder any more.
    folder: Mutex<DataFolder>,
}

/// What a host is made of.
pub(crate) struct Parts {
    pub(crate) folder: DataFolder,
    pub(crate) address: String,
    pub(crate) raft: RaftHost,
    pub(crate) state: Arc<StateDb>,
    pub(crate) disk: Arc<DiskGuard>,
    pub(crate) metrics: StoreMetrics,
    pub(crate) fatal: FatalSignal,
    pub(crate) tuning: Tuning,
    pub(crate) groups: tokio::runtime::Handle,
    pub(crate) remote: Remote,
    /// what this store fails together with
    pub(crate) domain: Option<String>,
    /// 0: nothing is read that is not asked for
    pub(crate) scrub_bytes_per_s: u64,
    /// why everything was set aside at this start, if it was
    pub(crate) rot: Option<String>,
}

/// A replica that should be running here.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// of which group
    pub(crate) group: GroupId,
    /// ours
    pub(crate) replica: ReplicaId,
    /// all of the record, ours included
    pub(crate) members: Vec<Member>,
    /// the record takes no births any more
    pub(crate) closed: bool,
    /// it is on its way in: it is born empty whatever the record says, and the leader tells it everything
    pub(crate) joining: bool,
    /// by a directory that was read linearizably, or by `cluster init` itself: what this store has applied of group 0
    /// may be old, and name what was removed since
    pub(crate) is_confirmed: bool,
}

impl Host {
    /// Nothing runs yet.
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let identity = parts.folder.identity().cloned().map(Arc::new);
        let token = parts.folder.token();
        let events = Events::new();
        parts.raft.follow(events.directory());
        let before = || parts.rot.clone().unwrap_or_else(|| FOUND_BEFORE.to_owned());
        let born = identity.iter().flat_map(|identity| &identity.born);
        let rotten = born.filter(|born| born.stage == Stage::Rotten);
        let rotten: BTreeMap<_, _> = rotten.map(|born| ((born.group, born.replica), before())).collect();
        if parts.rot.is_some() {
            // This start set the databases aside, and found all of them.
            parts.metrics.rot_found.inc_by(rotten.len() as u64);
        }
        Arc::new(Self {
            token,
            data_dir: parts.folder.path().to_owned(),
            folder: Mutex::new(parts.folder),
            identity: RwLock::new(identity),
            address: parts.address,
            raft: parts.raft,
            state: parts.state,
            disk: parts.disk,
            events,
            metrics: parts.metrics,
            fatal: parts.fatal,
            tuning: parts.tuning,
            groups: parts.groups,
            remote: parts.remote,
            node_budget: Budget::new(limits::PROPOSAL_BYTES_NODE_MAX),
            replicas: RwLock::default(),
            starting: Mutex::default(),
            rotten: Mutex::new(rotten),
            suspected: Mutex::default(),
            doubted: Mutex::default(),
            stopping: AtomicBool::new(false),
            clock_doubted: AtomicBool::new(false),
            pace: Arc::new(DigestPace::half_of(parts.scrub_bytes_per_s)),
            scrub_pace: Pace::half_of(parts.scrub_bytes_per_s),
            scrubs: parts.scrub_bytes_per_s > 0,
            domain: parts.domain,
        })
    }

    /// Calls to other stores.
    pub(crate) fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Takes an identity and starts the replica of group 0. Repeating it changes nothing.
    pub(crate) async fn adopt(self: &Arc<Self>, identity: Identity) -> Result<(), IdentityError> {
        let host = Arc::clone(self);
        let adopted = tokio::task::spawn_blocking(move || {
            let mut folder = host.folder.lock();
            folder.adopt(identity)?;
            *host.identity.write() = folder.identity().cloned().map(Arc::new);
            Ok(())
        });
        adopted.await.expect("adopting does not panic")?;
        self.start_meta().await;
        Ok(())
    }

    /// The store belongs to its cluster; starts the replica of group 0 that the identity names, if it names one.
    pub(crate) async fn start_meta(self: &Arc<Self>) {
        let Some(identity) = self.identity() else { return };
        self.raft.join(&identity);
        let Some(replica) = identity.meta_replica() else { return };
        let address = |store: StoreId| {
            let record = identity.meta_stores.iter().find(|record| record.id == store);
            record.map(|record| record.address.clone()).unwrap_or_default()
        };
        let members = identity
            .meta_replicas
            .iter()
            .map(|record| Member { replica: record.id, store: record.store, address: address(record.store) })
            .collect();
        self.want(Wanted { group: GroupId::META, replica, members, closed: false, joining: false, is_confirmed: true })
            .await;
    }

    /// Bears or starts a replica, once. Answers when it runs or is known not to.
    pub(crate) async fn want(self: &Arc<Self>, wanted: Wanted) {
        let (group, id) = (wanted.group, wanted.replica);
        // A newer one than an old directory names; an older one goes first.
        let runs = || self.replicas.read().get(&group).is_some_and(|running| running.id() >= id);
        // What a crash left parts of is on its way out, though an old directory may name it.
        let is_dead = || {
            let born = self.identity().and_then(|identity| identity.born(group, id));
            born.is_some_and(|born| born.is_dead())
        };
        if runs() || is_dead() || !self.take_turn(group, || runs() || is_dead()).await {
            return;
        }
        let host = Arc::clone(self);
        let started = self.groups.spawn(async move { host.start_replica(wanted).await }).await;
        match started {
            Ok(Ok(replica)) => {
                self.replicas.write().insert(group, replica);
            }
            Ok(Err(StartError::Rot(what))) => {
                if self.note_rot(group, id, &what).await {
                    self.list_rot(group, id, &what);
                }
            }
            Ok(Err(StartError::Damaged(what))) => self.fatal.raise_rot(format!("group {group} cannot start: {what}")),
            Ok(Err(StartError::NotBorn)) => {
                if self.doubted.lock().insert((group, id)) {
                    let host = Arc::clone(self);
                    self.groups.spawn(host.settle_doubt(group, id));
                }
            }
            Ok(Err(StartError::Failed(what))) => self.fatal.raise(format!("group {group} cannot start: {what}")),
            // The runtime is going down.
            Err(_) => (),
        }
        self.starting.lock().remove(&group);
    }

    /// One start or removal of a group at a time; false if there is nothing to do any more.
    async fn take_turn(&self, group: GroupId, is_done: impl Fn() -> bool) -> bool {
        while !self.starting.lock().insert(group) {
            tokio::time::sleep(TURN).await;
        }
        if is_done() {
            self.starting.lock().remove(&group);
            return false;
        }
        true
    }

    /// False if it cannot be noted, and the store stops.
    async fn note_rot(self: &Arc<Self>, group: GroupId, replica: ReplicaId, what: &str) -> bool {
        let (group_id, replica_id) = (group.0, replica.0);
        tracing::error!(
            group = group_id,
            replica = replica_id,
            what,
            "ALARM: rot: the replica is not started and does not vote"
        );
        if !self.suspected.lock().contains_key(&(group, replica)) {
            self.metrics.rot_found.inc();
        }
        // Whatever becomes of its files: it never runs again.
        if let Err(error) = self.note(move |folder| folder.note_rotten(group, replica)).await {
            self.fatal.raise(format!("group {group} cannot note that replica {replica} is rotten: {error}"));
            return false;
        }
        true
    }

    /// Says that a rotten replica does not run here: others go by that (moves.rs).
    fn list_rot(&self, group: GroupId, replica: ReplicaId, what: &str) {
        self.suspected.lock().remove(&(group, replica));
        self.rotten.lock().insert((group, replica), what.to_owned());
        chaos::hit(Point::ReplicaRotten);
    }

    /// How fast the scrub reads.
    pub(crate) fn scrub_pace(&self) -> &Pace {
        &self.scrub_pace
    }

    /// What this store fails together with.
    pub(crate) fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    /// Is everything read now and then, to find damage?
    pub(crate) fn scrubs(&self) -> bool {
        self.scrubs
    }

    /// A replica that runs turns out to be rotten. Its vote and what it appends are good, and its group may need them:
    /// group 0 is told (rot.rs), and says when it is replaced.
    pub(crate) fn suspect(&self, group: GroupId, replica: ReplicaId, what: &str) {
        if self.suspected.lock().insert((group, replica), what.to_owned()).is_none() {
            self.metrics.rot_found.inc();
            tracing::error!(
                group = group.0,
                replica = replica.0,
                what,
                "ALARM: rot: the replica goes on until it is replaced"
            );
        }
    }

    /// Stops a rotten replica that is being replaced here.
    pub(crate) async fn heed_rot(self: &Arc<Self>, rot: &RotRecord) {
        let (group, replica) = (rot.group, rot.replica.id);
        let is_known = || {
            let born = self.identity().and_then(|identity| identity.born(group, replica));
            born.is_none_or(|born| born.is_dead())
        };
        if is_known() || !self.take_turn(group, is_known).await {
            return;
        }
        if self.note_rot(group, replica, &rot.what).await {
            self.stop_one(group, replica).await;
            self.list_rot(group, replica, &rot.what);
        }
        self.starting.lock().remove(&group);
    }

    /// Replicas here that are not what was promised and run all the same.
    pub(crate) fn suspected(&self) -> Vec<RottenStatus> {
        let suspected = self.suspected.lock();
        let status = |((group, replica), what): (&(GroupId, ReplicaId), &String)| RottenStatus {
            group: *group,
            replica: *replica,
            what: what.clone(),
        };
        suspected.iter().map(status).collect()
    }

    /// Stops a replica of ours, if it runs. It gives its leadership away first.
    async fn stop_one(&self, group: GroupId, replica: ReplicaId) {
        let running = {
            let mut replicas = self.replicas.write();
            let ours = replicas.get(&group).is_some_and(|running| running.id() == replica);
            if ours { replicas.remove(&group) } else { None }
        };
        let Some(running) = running else { return };
        let known = self.events.directory().borrow().clone();
        running.transfer_away(known.as_deref()).await;
        let deadline = Instant::now() + TRANSFER_TIMEOUT;
        while Instant::now() < deadline && running.leadership().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        running.stop().await;
        // Openraft goes on applying what it had committed.
        running.live.until_machine_ended().await;
    }

    /// Takes a replica out of service for ever, with its log and its vote. Its rows stay until another one is born, or
    /// group 0 has let go of it.
    async fn retire(self: &Arc<Self>, group: GroupId, replica: ReplicaId) -> Result<(), String> {
        self.stop_one(group, replica).await;
        self.note(move |folder| folder.note_rotten(group, replica)).await.map_err(|error| error.to_string())?;
        self.raft.forget(group, replica).await.map_err(|error| error.to_string())?;
        chaos::hit(Point::ReplicaRetired);
        Ok(())
    }

    /// Replicas here that are rotten and not replaced yet.
    pub(crate) fn rotten(&self) -> Vec<RottenStatus> {
        let rotten = self.rotten.lock();
        let status = |((group, replica), what): (&(GroupId, ReplicaId), &String)| RottenStatus {
            group: *group,
            replica: *replica,
            what: what.clone(),
        };
        rotten.iter().map(status).collect()
    }

    /// Where everything is kept.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Bears a replica, or finds that it is rot or was removed: by what group 0 says now.
    fn settle_doubt(self: Arc<Self>, group: GroupId, replica: ReplicaId) -> BoxFuture<'static, ()> {
        // Boxed, because what it calls may call it again.
        Box::pin(async move {
            loop {
                let known = self.events.directory().borrow().clone();
                if let Some(known) = known
                    && let Ok(directory) = self.remote.read_directory(&known).await
                {
                    self.events.learn(directory.clone());
                    let record = directory.groups.iter().find(|record| record.id == group);
                    let wanted = self.identity().zip(record);
                    let wanted = wanted.and_then(|(identity, record)| meta::wanted(&directory, record, identity.store));
                    let Some(wanted) = wanted.filter(|wanted| wanted.replica == replica) else { break };
                    self.note_missing(&directory, group).await;
                    if self.may_replace(&directory, group, replica).await {
                        self.want(Wanted { is_confirmed: true, ..wanted }).await;
                        break;
                    }
                }
                tokio::time::sleep(DOUBT_RETRY).await;
            }
            self.doubted.lock().remove(&(group, replica));
        })
    }

    /// A replica that is rebuilt here and of which this folder knows nothing, not even that it was born, is as rotten as
    /// any: a folder from before its birth was put back.
    async fn note_missing(self: &Arc<Self>, directory: &Directory, group: GroupId) {
        let Some(identity) = self.identity() else { return };
        let rebuilt = directory.moves.iter().filter(|moved| moved.group == group && moved.is_rebuild());
        let ours = rebuilt.filter_map(|moved| moved.leaving).filter(|leaving| leaving.store == identity.store);
        for leaving in ours.filter(|leaving| identity.born(group, leaving.id).is_none()) {
            if self.note_rot(group, leaving.id, NOTHING_HERE).await {
                self.list_rot(group, leaving.id, NOTHING_HERE);
            }
        }
    }

    /// May the birth of a replica take away what another one of its group left here? Only once the group needs that no
    /// more: the entry that made the new one a member was committed while the old one did not run, so a majority of the
    /// others has everything that the old one ever acknowledged.
    async fn may_replace(&self, directory: &Directory, group: GroupId, replica: ReplicaId) -> bool {
        let Some(identity) = self.identity() else { return false };
        // In a damaged database nothing new begins: it is set aside as soon as all can do without it (rot.rs).
        if self.fatal.damage().is_some() {
            return false;
        }
        let others = identity.born.iter().filter(|born| born.group == group && born.replica != replica);
        let goes = |born: &BornReplica| born.stage == Stage::Removed || directory.is_removed(group, born.replica);
        others.into_iter().all(goes) || moves::is_member(&self.remote, directory, group, replica).await
    }

    /// Removes a replica that the directory does not know any more, with everything of it, if it ever lived here.
    pub(crate) async fn remove(self: &Arc<Self>, group: GroupId, replica: ReplicaId) {
        if !self.take_turn(group, || false).await {
            return;
        }
        let host = Arc::clone(self);
        match self.groups.spawn(async move { host.remove_replica(group, replica).await }).await {
            Ok(Ok(())) => {
                if let Err(error) = HoleNote::of(&self.data_dir, group, replica).remove() {
                    // Nobody has this id again.
                    tracing::warn!(group = group.0, replica = replica.0, %error, "a note of a replica stays");
                }
                let was_suspected = self.suspected.lock().remove(&(group, replica)).is_some();
                if self.rotten.lock().remove(&(group, replica)).is_some() || was_suspected {
                    self.metrics.rebuilt.inc();
                    tracing::info!(
                        group = group.0,
                        replica = replica.0,
                        "ALARM over: another took the rotten replica's place"
                    );
                }
                tracing::info!(group = group.0, replica = replica.0, "a replica that moved away is removed from here");
            }
            // The log writer has ended: the next start goes on.
            Ok(Err(what)) if self.stopping.load(Ordering::Acquire) => {
                tracing::info!(group = group.0, what, "a replica is removed at the next start");
            }
            Ok(Err(what)) => self.fatal.raise(format!("group {group}: replica {replica} cannot be removed: {what}")),
            // The runtime is going down.
            Err(_) => (),
        }
        self.starting.lock().remove(&group);
    }

    async fn remove_replica(self: &Arc<Self>, group: GroupId, replica: ReplicaId) -> Result<(), String> {
        self.stop_one(group, replica).await;
        // First of all, so that what a crash leaves never runs: some of its log may be gone, and none of its vote.
        if !self.note(move |folder| folder.note_removing(group, replica)).await.map_err(|error| error.to_string())? {
            return Ok(());
        }
        self.raft.forget(group, replica).await.map_err(|error| error.to_string())?;
        // The rows may be those of the one that took its place.
        if !self.identity().is_some_and(|identity| identity.has_other(group, replica)) {
            self.clean(group).await?;
        }
        self.note(move |folder| folder.note_removed(group, replica)).await.map_err(|error| error.to_string())
    }

    /// Removes what an earlier replica of the group may have left in state.db.
    async fn clean(&self, group: GroupId) -> Result<(), String> {
        let state = Arc::clone(&self.state);
        let cleaned = tokio::task::spawn_blocking(move || state.remove_group(group)).await;
        cleaned.map_err(|error| error.to_string())?.map_err(|fatal| fatal.to_string())
    }

    async fn start_replica(self: &Arc<Self>, wanted: Wanted) -> Result<Arc<Replica>, StartError> {
        let Wanted { group, replica, members, closed, joining, is_confirmed } = wanted;
        let failed = |error: &dyn std::error::Error| StartError::Failed(error.to_string());
        let identity = self.identity().ok_or_else(|| StartError::Failed("no identity".into()))?;
        let born = identity.born(group, replica);
        if born.is_none() {
            if !is_confirmed {
                return Err(StartError::NotBorn);
            }
            if closed && !joining {
                return Err(StartError::Rot("no log under a closed record".into()));
            }
            // A rotten one whose place this one takes: its rows are where ours will be.
            for other in identity.born.iter().filter(|other| other.group == group) {
                self.retire(group, other.replica).await.map_err(StartError::Failed)?;
            }
            self.clean(group).await.map_err(StartError::Failed)?;
            self.note(move |folder| folder.note_born(group, replica)).await.map_err(|error| failed(&error))?;
            chaos::hit(Point::ReplicaBorn);
        }
        let unread = |fatal: Fatal| match fatal {
            Fatal::Corrupt(_) => StartError::Damaged(fatal.to_string()),
            Fatal::Broken { .. } | Fatal::Storage(_) | Fatal::Entry(_) => StartError::Failed(fatal.to_string()),
        };
        let rows = self.state.view(group).map_err(unread)?;
        let live = GroupLive::load(group, &rows, self.events.clone());
        drop(rows);
        let live = Arc::new(live.map_err(unread)?);
        live.note_holes(HoleNote::of(&self.data_dir, group, replica)).map_err(|error| failed(&error))?;
        let machine = StateMachine::open(
            group,
            Arc::clone(&self.state),
            Arc::clone(&live),
            self.metrics.clone(),
            self.fatal.clone(),
            Arc::clone(&self.pace),
        )
        .map_err(|error| failed(&error))?;
        let handle = self.raft.start(group, replica, machine).await?;
        live.set_started();
        let was_initialised = born.is_some_and(|born| born.is_initialised());
        let is_empty = handle.is_empty().await;
        if is_empty && was_initialised {
            handle.stop().await;
            return Err(StartError::Rot("an initialised replica has no log".into()));
        }
        if is_empty && joining {
            // It votes only once this is noted (moves.rs).
            let replica_runs = Replica::start(self.shared(), group, handle.clone(), live, &self.groups);
            let host = Arc::clone(self);
            self.groups.spawn(async move {
                if handle.until(|| host.raft.has_voted(group, replica)).await {
                    // Without its vote it would be rot at the next start.
                    if host.raft.settle().await.is_err() {
                        return; // The store stops.
                    }
                    let noted = host.note(move |folder| folder.note_initialised(group, replica)).await;
                    if let Err(error) = noted {
                        host.fatal.raise(format!("group {group} cannot note that it began: {error}"));
                    }
                }
            });
            return Ok(replica_runs);
        }
        if is_empty {
            // Everybody knows the members from here on, so that any of them can lead. Only standing for election is
            // left to the store that should lead, for a moment. (The lowest replica id cannot win: the first entry
            // carries the id of its replica, so its log sorts below the others'. It gets its groups by balance.rs.)
            let directory = self.events.directory().borrow().clone();
            let groups = directory.iter().flat_map(|directory| &directory.groups).cloned().collect::<Vec<_>>();
            // Group 0 is born before there is a directory: its first store leads.
            let first = || members.iter().map(|member| member.store).min();
            let preferred = preferred_leaders(&groups).get(&group).copied().or_else(first);
            if preferred != Some(identity.store) {
                self.groups.spawn(handle.clone().let_another_lead_first(FIRST_LEADER_TIMEOUT));
            }
            handle.initialise(&members).await.map_err(|error| StartError::Failed(error.to_string()))?;
        }
        if !was_initialised {
            chaos::hit(Point::ReplicaInitialised);
            self.note(move |folder| folder.note_initialised(group, replica)).await.map_err(|error| failed(&error))?;
        }
        Ok(Replica::start(self.shared(), group, handle, live, &self.groups))
    }

    /// What tells the data folder from one that was wiped.
    pub(crate) fn token(&self) -> StoreToken {
        self.token
    }

    async fn note<T: Send + 'static>(
        self: &Arc<Self>,
        write: impl FnOnce(&mut DataFolder) -> Result<T, IdentityError> + Send + 'static,
    ) -> Result<T, IdentityError> {
        let host = Arc::clone(self);
        let noted = tokio::task::spawn_blocking(move || {
            let mut folder = host.folder.lock();
            let written = write(&mut folder)?;
            *host.identity.write() = folder.identity().cloned().map(Arc::new);
            Ok(written)
        });
        noted.await.expect("noting does not panic")
    }

    /// Waits until this store has applied that groups `1..=groups` are closed.
    pub(crate) async fn wait_closed(&self, groups: u32, deadline: Instant) -> Result<(), Refusal> {
        let mut directory = self.events.directory();
        let closed = directory.wait_for(|directory| {
            directory.as_ref().is_some_and(|directory| {
                (1..=groups).all(|id| directory.groups.iter().any(|record| record.id == GroupId(id) && record.closed))
            })
        });
        match tokio::time::timeout_at(deadline.into(), closed).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Refusal::later(ErrorCode::Unavailable, "the groups are made but do not all run yet: repeat", 500)),
        }
    }

    /// The replica that serves a group here.
    pub(crate) fn serving(&self, group: GroupId) -> Result<Arc<Replica>, StoreRefusal> {
        if let Some(replica) = self.replicas.read().get(&group) {
            return Ok(Arc::clone(replica));
        }
        if self.identity.read().is_none() {
            let refusal = Refusal::later(ErrorCode::Unavailable, "this store belongs to no cluster yet", 500);
            return Err(StoreRefusal::Refused(refusal));
        }
        Err(StoreRefusal::NotLeader { leader: None })
    }

    /// All replicas that run here.
    pub(crate) fn replicas(&self) -> Vec<Arc<Replica>> {
        self.replicas.read().values().cloned().collect()
    }

    /// Who this store is.
    pub(crate) fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.read().clone()
    }

    /// Where others reach this store.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The disk's guard.
    pub(crate) fn disk(&self) -> &DiskGuard {
        &self.disk
    }

    /// Events of all groups.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &StoreMetrics {
        &self.metrics
    }

    /// The bounds.
    pub(crate) fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// The rows of all groups.
    pub(crate) fn state(&self) -> &Arc<StateDb> {
        &self.state
    }

    /// Where the process is told to stop.
    pub(crate) fn fatal(&self) -> &FatalSignal {
        &self.fatal
    }

    /// Raft's side.
    pub(crate) fn raft(&self) -> &RaftHost {
        &self.raft
    }

    /// The runtime of all group tasks.
    pub(crate) fn groups(&self) -> &tokio::runtime::Handle {
        &self.groups
    }

    /// Runs a read that may block on a thread of the groups' runtime.
    pub(crate) async fn spawn_read<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        self.groups.spawn_blocking(read).await.ok()
    }

    /// A refusal goes out.
    pub(crate) fn count_refused(&self, refusal: &StoreRefusal) {
        self.metrics.refused(match refusal {
            StoreRefusal::NotLeader { .. } => ErrorCode::NotLeader,
            StoreRefusal::Refused(refusal) => refusal.code,
        });
    }

    /// Does a majority of stores show another time than this machine's?
    pub(crate) fn clock_is_doubted(&self) -> bool {
        self.clock_doubted.load(Ordering::Relaxed)
    }

    /// They do, or not any more.
    pub(crate) fn doubt_clock(&self, doubted: bool) {
        self.clock_doubted.store(doubted, Ordering::Relaxed);
        self.metrics.clock_doubted.set(i64::from(doubted));
    }

    /// What operators see.
    pub(crate) fn status(&self) -> StoreStatus {
        let identity = self.identity();
        let (fsync_us_p50, fsync_us_p99) = self.raft.fsync_us();
        StoreStatus {
            cluster: identity.as_ref().map(|identity| identity.cluster),
            store: identity.as_ref().map(|identity| identity.store),
            address: self.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            read_only: self.disk.read_only(),
            disk_free_bytes: self.disk.free_bytes(),
            fsync_us_p50,
            fsync_us_p99,
            token: self.token,
            groups: self.replicas().iter().map(|replica| self.group_status(identity.as_deref(), replica)).collect(),
            rotten: self.rotten(),
            damaged: self.fatal.damage().is_some(),
            domain: self.domain.clone(),
            meta_replicas: identity.map(|identity| identity.meta_replicas.clone()).unwrap_or_default(),
            unix_ms: skew::unix_ms(),
        }
    }

    fn group_status(&self, identity: Option<&Identity>, replica: &Replica) -> GroupStatus {
        let born = identity.and_then(|identity| identity.born(replica.group, replica.id()));
        GroupStatus { settled: born.is_some_and(|born| born.is_initialised()), ..replica.status() }
    }

    /// Gives leaderships away, then stops all replicas. What is applied is flushed, so that the next start replays
    /// nothing.
    pub(crate) async fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let replicas = self.replicas();
        let known = self.events.directory().borrow().clone();
        for replica in &replicas {
            replica.transfer_away(known.as_deref()).await;
        }
        let deadline = Instant::now() + TRANSFER_TIMEOUT;
        while Instant::now() < deadline && replicas.iter().any(|replica| replica.leadership().is_some()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for replica in &replicas {
            replica.stop().await;
        }
        self.raft.stop().await;
        let state = Arc::clone(&self.state);
        match tokio::task::spawn_blocking(move || state.flush()).await {
            Ok(Ok(())) => (),
            // The log has everything: only the next start takes longer.
            failed => tracing::warn!(?failed, "state.db was not flushed at the end"),
        }
    }

    fn shared(&self) -> Shared {
        Shared {
            store: self.identity().map_or(StoreId(0), |identity| identity.store),
            state: Arc::clone(&self.state),
            metrics: self.metrics.clone(),
            fatal: self.fatal.clone(),
            node_budget: self.node_budget.clone(),
            events: self.events.clone(),
        }
    }
}

/// Why a replica does not run.
#[derive(Debug)]
pub(crate) enum StartError {
    /// Its log is not what was promised: it stays down, the others go on.
    Rot(String),
    /// A database that all replicas here share is damaged: the next start sets it aside.
    Damaged(String),
    /// It is not here, and whether it should be born is for group 0 to say.
    NotBorn,
    /// The process cannot go on.
    Failed(String),
}

/// Time for the store that should lead a new group to take the lead: it stands after an election timeout.
const FIRST_LEADER_TIMEOUT: Duration = Duration::from_millis(2 * limits::RAFT_ELECTION_MS_MAX);
/// How often somebody looks whether another start or removal of the group is over.
const TURN: Duration = Duration::from_millis(20);
/// Pause before group 0 is asked again about a replica that is not here.
const DOUBT_RETRY: Duration = Duration::from_millis(500);
/// Said of a replica that should be here.
const NOTHING_HERE: &str = "nothing of it is in the data folder";
/// Said of a replica whose rot an earlier run of the process has found.
const FOUND_BEFORE: &str = "found rotten before the store's last start";
/// Time for leaderships to be taken over when a store stops.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3);
