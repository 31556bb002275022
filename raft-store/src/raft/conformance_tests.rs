//! openraft's conformance suite on the store as it is: log.db and state.db.
//!
//! The suite knows neither our rule that a snapshot is what is flushed, nor that only a received snapshot is
//! installed: the wrapper here flushes after each apply, and receives before each install.

use std::io;
use std::sync::Arc;

use futures_util::Stream;
use openraft::storage::{EntryResponder, RaftStateMachine};
use prometheus_client::registry::Registry;
use seriatim_proto::ids::GroupId;
use tempfile::TempDir;

use super::snapshot::SnapshotData;
use super::state_machine::{LogicalSnapshot, StateMachine};
use super::testing::{conformance, receive};
use super::types::{LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::config::Tuning;
use crate::fatal::FatalSignal;
use crate::live::{Events, GroupLive};
use crate::metrics::StoreMetrics;
use crate::rocks::state_db::StateDb;
use crate::scrub::DigestPace;

struct Flushing {
    machine: StateMachine,
    state: Arc<StateDb>,
}

impl Flushing {
    fn open(folder: &TempDir) -> Self {
        let group = GroupId(1);
        let state = Arc::new(StateDb::open(folder.path(), &Tuning::default()).unwrap());
        let live = Arc::new(GroupLive::load(group, &state.reader(), Events::new()).unwrap());
        live.set_started();
        let metrics = StoreMetrics::new(&mut Registry::default());
        let machine = StateMachine::open(
            group,
            Arc::clone(&state),
            live,
            metrics,
            FatalSignal::new(),
            Arc::new(DigestPace::half_of(0)),
        )
        .unwrap();
        Self { machine, state }
    }
}

impl RaftStateMachine<TypeConfig> for Flushing {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = LogicalSnapshot;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.machine.applied_state().await
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + openraft::OptionalSend,
    {
        self.machine.apply(entries).await?;
        self.state.flush().map_err(io::Error::other)
    }

    async fn get_snapshot_builder(&mut self) -> LogicalSnapshot {
        self.machine.get_snapshot_builder().await
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let received = receive(folder.path(), snapshot).await?;
        self.machine.install_snapshot(meta, received).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot<SnapshotData>>> {
        self.machine.get_current_snapshot().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_passes_the_conformance_suite() {
    conformance(Flushing::open).await;
}
