//! Court: a node of the harness, registered like any logic node: its lease in group 0, the scopes over which its
//! pretenders quarrel, and all other slots that are its to hold, so that real nodes need not pass them on for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::RngExt;
use seriatim_proto::command::{Command, Outcome};
use seriatim_proto::hash;
use seriatim_proto::ids::{ConversationId, ConversationKey, GroupId, LeaseId, NodeId, SlotId, TenantId};
use seriatim_proto::limits;
use seriatim_proto::meta::{Directory, MetaCommand, MetaOutcome, NodeKind};
use seriatim_proto::store::{Read, ReadOutcome};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::scope::Scope;
use crate::workload::site::TENANT;
use crate::workload::stage::Stage;
use crate::workload::stores::Stores;

/// Where the node says that it can be reached: nobody is there.
const ADDRESS: &str = "127.0.0.1:9";
/// Between two looks at slots that are to be taken.
const LOOK: Duration = Duration::from_millis(150);
/// Claims of one entry.
const CLAIMS_MAX: usize = 256;
/// Tries until a conversation of a wanted slot is found: one in some is.
const TRIES_MAX: usize = 100_000;

/// One registration of the harness's node.
#[derive(Debug)]
pub(super) struct Court {
    pub(super) stores: Arc<Stores>,
    pub(super) node: NodeId,
    pub(super) scopes: Vec<Arc<Scope>>,
    lease: LeaseId,
    /// slots that pretenders quarrel over
    disputed: BTreeSet<SlotId>,
    /// leases under which all other slots are held
    steward: Mutex<BTreeMap<GroupId, LeaseId>>,
    over: watch::Sender<bool>,
}

/// Renews a lease until it is dropped, or the lease is gone.
#[derive(Debug)]
pub(super) struct Renewing {
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Renewing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Renewing {
    pub(super) fn begin(stores: &Arc<Stores>, group: GroupId, lease: LeaseId) -> Renewing {
        let stores = Arc::clone(stores);
        let task = tokio::spawn(async move {
            while stores.renew(group, lease).await != Ok(false) {
                tokio::time::sleep(Duration::from_millis(limits::LEASE_RENEW_MS)).await;
            }
        });
        Renewing { task }
    }

    /// Is the lease gone?
    pub(super) fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

impl Court {
    /// Registers, and draws scopes; `None`: not now.
    pub(super) async fn open(stage: &Stage, stores: &Arc<Stores>, season: usize) -> Option<Court> {
        let open = MetaCommand::OpenNode { kind: NodeKind::Logic, address: ADDRESS.to_owned() };
        let outcome = stores.propose_one(GroupId::META, &Command::Meta(open)).await.ok()?;
        let Outcome::Meta(MetaOutcome::Opened(record)) = outcome else { return None };
        let directory = directory(stores).await?;
        let nodes = logic_nodes(&directory);
        let mut rng = stage.rng("lease", season);
        let mut scopes: Vec<Arc<Scope>> = Vec::new();
        let mut disputed = BTreeSet::new();
        for _ in 0..TRIES_MAX {
            if scopes.len() == stage.options.keys as usize {
                break;
            }
            let key = ConversationKey(rng.random());
            let conversation = ConversationId::Group(key);
            let slot = hash::conversation_slot(TenantId(TENANT), &conversation);
            let group = group_of(&directory, slot);
            let first = hash::ranking(slot, &nodes).first().copied();
            // One scope a slot: a claim of one would fence the other.
            if let Some(group) = group.filter(|_| first == Some(record.id) && disputed.insert(slot)) {
                let name = format!("scope-{season}-{:02}", scopes.len());
                scopes.push(Arc::new(Scope::new(&name, slot, group, conversation)));
            }
        }
        let (over, _) = watch::channel(false);
        let (stores, steward) = (Arc::clone(stores), Mutex::default());
        Some(Court { stores, node: record.id, scopes, lease: record.lease, disputed, steward, over })
    }

    /// Is it time to go?
    pub(super) fn is_over(&self, stage: &Stage) -> bool {
        stage.is_over() || *self.over.borrow()
    }

    /// Holds what is the node's to hold, until the run is over or the node's lease is lost.
    pub(super) async fn govern(&self, stage: &Stage) {
        let registered = Renewing::begin(&self.stores, GroupId::META, self.lease);
        let mut renewing: BTreeMap<GroupId, Renewing> = BTreeMap::new();
        while !registered.is_over() && stage.rest(LOOK).await {
            let Some(directory) = directory(&self.stores).await else { continue };
            let nodes = logic_nodes(&directory);
            for group in directory.groups.iter().map(|group| group.id).filter(|group| *group != GroupId::META) {
                if renewing.get(&group).is_none_or(Renewing::is_over) {
                    let Some(lease) = self.open_lease(group).await else { continue };
                    self.steward.lock().insert(group, lease);
                    renewing.insert(group, Renewing::begin(&self.stores, group, lease));
                }
                self.claim_share(group, &nodes).await;
            }
        }
        self.over.send_replace(true);
    }

    async fn claim_share(&self, group: GroupId, nodes: &[NodeId]) {
        let Some(lease) = self.steward.lock().get(&group).copied() else { return };
        let Ok(outcomes) = self.stores.read(group, &[Read::Holders]).await else { return };
        let Some(ReadOutcome::Holders(rows)) = outcomes.into_iter().next() else { return };
        let mine = |slot: SlotId| hash::ranking(slot, nodes).first() == Some(&self.node);
        let free =
            rows.iter().filter(|row| row.holder.is_none() && !self.disputed.contains(&row.slot) && mine(row.slot));
        let claims: Vec<Command> = free.map(|row| Command::Claim { slot: row.slot, lease, seen: row.epoch }).collect();
        for some in claims.chunks(CLAIMS_MAX) {
            // Whoever was faster has them; what was not answered is looked at again.
            let _ = self.stores.propose(group, some).await;
        }
    }

    /// A new lease of a group.
    pub(super) async fn open_lease(&self, group: GroupId) -> Option<LeaseId> {
        match self.stores.propose_one(group, &Command::OpenLease { node: self.node }).await {
            Ok(Outcome::Leased(lease)) => Some(lease),
            // One that was opened unseen ends by itself.
            _ => None,
        }
    }

    /// Gives everything back, as far as stores answer; the rest ends with the leases.
    pub(super) async fn close(&self) {
        let steward = std::mem::take(&mut *self.steward.lock());
        let mut closing = JoinSet::new();
        for (group, lease) in steward.into_iter().chain([(GroupId::META, self.lease)]) {
            let stores = Arc::clone(&self.stores);
            closing.spawn(async move {
                let deadline = Instant::now() + Duration::from_millis(limits::LEASE_GRANT_MS);
                while stores.propose_one(group, &Command::CloseLease { lease }).await.is_err()
                    && Instant::now() < deadline
                {
                    tokio::time::sleep(super::PAUSE).await;
                }
            });
        }
        while closing.join_next().await.is_some() {}
    }
}

async fn directory(stores: &Stores) -> Option<Directory> {
    let outcomes = stores.read(GroupId::META, &[Read::Directory]).await.ok()?;
    match outcomes.into_iter().next() {
        Some(ReadOutcome::Directory(directory)) => directory,
        _ => None,
    }
}

fn logic_nodes(directory: &Directory) -> Vec<NodeId> {
    directory.nodes.iter().filter(|node| node.kind == NodeKind::Logic).map(|node| node.id).collect()
}

fn group_of(directory: &Directory, slot: SlotId) -> Option<GroupId> {
    let owns = |group: &&seriatim_proto::meta::GroupRecord| group.slots.iter().any(|range| range.contains(slot));
    directory.groups.iter().find(owns).map(|group| group.id)
}
