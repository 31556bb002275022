//! Testing: a trivial state machine, and openraft's conformance suite for any state machine over the real log store.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::StorageError;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use parking_lot::Mutex;
use seriatim_proto::codec;
use seriatim_proto::command::Outcome;
use seriatim_proto::ids::{ClusterId, Generation, GroupId, ReplicaId, StoreId};
use seriatim_proto::meta::{Directory, GroupRecord, MoveRecord, ReplicaRecord, RotRecord, StoreToken};
use seriatim_proto::store::{GroupStatus, StoreStatus};
use tempfile::TempDir;

use super::codec::SnapshotMetaRow;
use super::log_store::{LogStore, LogStores};
use super::snapshot::{BlockWriter, SnapshotBlocks, SnapshotData, SnapshotHeader, SnapshotReceiver};
use super::types::{LogId, Payload, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::fatal::FatalSignal;
use crate::rocks::log_db::test_key;

/// Keeps the batches that were applied, by index.
#[derive(Clone, Default)]
pub(crate) struct TestMachine(Arc<Mutex<TestState>>, Arc<AtomicU64>);

#[derive(Clone, Default)]
struct TestState {
    applied: Option<LogId>,
    membership: StoredMembership,
    batches: BTreeMap<u64, Bytes>,
}

impl TestMachine {
    /// All batches, in order.
    pub(crate) fn batches(&self) -> Vec<Bytes> {
        self.0.lock().batches.values().cloned().collect()
    }

    /// How often its state was taken in order to be sent.
    pub(crate) fn snapshots_taken(&self) -> u64 {
        self.1.load(Ordering::Relaxed)
    }

    fn snapshot(&self) -> Snapshot<SnapshotData> {
        let state = self.0.lock().clone();
        let meta = SnapshotMeta { last_log_id: state.applied, last_membership: state.membership };
        let applied_index = meta.last_log_id.map_or(0, |id| id.index);
        let (first, mut writer) =
            BlockWriter::new(&SnapshotHeader { group: GroupId(1), applied_index, ranges: Vec::new() });
        let mut blocks = vec![first];
        blocks.extend(writer.row(b"meta", &codec::encode(&SnapshotMetaRow::from(&meta))));
        for (index, batch) in &state.batches {
            blocks.extend(writer.row(&index.to_be_bytes(), batch));
        }
        blocks.extend(writer.finish());
        let (sender, receiver) = SnapshotBlocks::channel();
        tokio::spawn(async move {
            for block in blocks {
                if sender.send(Ok(block)).await.is_err() {
                    return;
                }
            }
        });
        Snapshot { meta, snapshot: SnapshotData::Sending(receiver) }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for TestMachine {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<SnapshotData>> {
        Ok(self.snapshot())
    }
}

impl RaftStateMachine<TypeConfig> for TestMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let state = self.0.lock();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + openraft::OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let outcomes = {
                let mut state = self.0.lock();
                state.applied = Some(entry.log_id);
                match entry.payload {
                    Payload::Blank => Vec::new(),
                    Payload::Normal(batch) => {
                        state.batches.insert(entry.log_id.index, batch.bytes);
                        vec![Outcome::Released; batch.count as usize]
                    }
                    Payload::Membership(membership) => {
                        state.membership = StoredMembership::new(Some(entry.log_id), membership);
                        Vec::new()
                    }
                }
            };
            if let Some(responder) = responder {
                responder.send(outcomes);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let received = match receive(folder.path(), snapshot).await? {
            SnapshotData::Received(received) => received,
            SnapshotData::Sending(_) => return Err(io::Error::other("receiving gives what was received")),
        };
        let mut batches = BTreeMap::new();
        received.for_each_row(|key, value| {
            if let Ok(index) = key.try_into() {
                batches.insert(u64::from_be_bytes(index), Bytes::copy_from_slice(value));
            }
            Ok(())
        })?;
        let (applied, membership) = (meta.last_log_id, meta.last_membership.clone());
        *self.0.lock() = TestState { applied, membership, batches };
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot<SnapshotData>>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        let any = self.0.lock().applied.is_some();
        Ok(any.then(|| self.snapshot()))
    }
}

/// What a receiver would have made of a snapshot that is to be sent.
pub(crate) async fn receive(folder: &std::path::Path, mut snapshot: SnapshotData) -> io::Result<SnapshotData> {
    if matches!(snapshot, SnapshotData::Received(_)) {
        return Ok(snapshot);
    }
    let mut receiver = SnapshotReceiver::create(folder, GroupId(1))?;
    while let Some(block) = snapshot.next_block().await {
        receiver.write(&block?)?;
    }
    receiver.finish()
}

/// The real log store with the state machines that a function makes.
struct Builder<F>(F);

impl<M, F> StoreBuilder<TypeConfig, LogStore, M, (LogStores, TempDir)> for Builder<F>
where
    M: RaftStateMachine<TypeConfig>,
    F: Fn(&TempDir) -> M + Send + Sync,
{
    async fn build(&self) -> Result<((LogStores, TempDir), LogStore, M), StorageError<TypeConfig>> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let logs = LogStores::open(folder.path(), &BTreeSet::new(), &FatalSignal::new()).expect("new logs open");
        let log = logs.open_replica(test_key(1, 1), None).await.expect("a new log opens");
        let machine = (self.0)(&folder);
        Ok(((logs, folder), log, machine))
    }
}

/// Runs openraft's own suite on the real log store with the state machines that `machine` makes.
pub(crate) async fn conformance<M>(machine: impl Fn(&TempDir) -> M + Send + Sync)
where
    M: RaftStateMachine<TypeConfig>,
{
    Suite::test_all(Builder(machine)).await.expect("the store conforms");
}

#[tokio::test]
async fn the_log_store_passes_the_conformance_suite() {
    conformance(|_| TestMachine::default()).await;
}

/// Group 0's word while replica 2 of group 1, on store 2, is replaced by replica 9, and replica 3 was removed.
pub(crate) fn directory_of_a_rebuild() -> Directory {
    let replica = |id, store| ReplicaRecord { id: ReplicaId(id), store: StoreId(store) };
    let group =
        GroupRecord { id: GroupId(1), slots: vec![], replicas: vec![replica(1, 1), replica(2, 2)], closed: true };
    let (joining, leaving) = (Some(replica(9, 2)), Some(replica(2, 2)));
    Directory {
        cluster: ClusterId([1; 16]),
        generation: Generation(0),
        revision: 1,
        stores: vec![],
        groups: vec![group],
        nodes: vec![],
        tenants: vec![],
        moves: vec![MoveRecord { group: GroupId(1), joining, leaving, back: false, revision: 1 }],
        draining: vec![],
        replica_next: ReplicaId(10),
        rotten: vec![RotRecord { group: GroupId(1), replica: replica(2, 2), what: String::new() }],
        domains: [].into(),
        voters: 3,
    }
}

/// What a store of that cluster says that has nothing.
pub(crate) fn store_status(store: StoreId) -> StoreStatus {
    StoreStatus {
        cluster: Some(ClusterId([1; 16])),
        store: Some(store),
        address: String::new(),
        version: String::new(),
        read_only: false,
        disk_free_bytes: 0,
        fsync_us_p50: 0,
        fsync_us_p99: 0,
        token: StoreToken([0; 16]),
        groups: vec![],
        rotten: vec![],
        damaged: false,
        domain: None,
        meta_replicas: vec![],
        unix_ms: 0,
    }
}

/// What a store says of a replica of group 1.
pub(crate) fn group_status() -> GroupStatus {
    GroupStatus {
        group: GroupId(1),
        replica: ReplicaId(1),
        role: "follower".to_owned(),
        leader: None,
        term: 1,
        last_index: 0,
        committed_index: 0,
        applied_index: 0,
        snapshot_index: 0,
        purged_index: 0,
        slots: 0,
        leases: 0,
        voters: vec![],
        settled: true,
        members: vec![],
        digest: None,
        digesting: None,
        agreeing: vec![],
    }
}
