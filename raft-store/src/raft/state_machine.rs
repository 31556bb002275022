//! State machine: openraft's door to a group's rows.
//!
//! Apply runs inline on the group runtime (facts: a hop to another thread per command collapses group commit).
//! Entries that openraft hands over together become chunks, whose rows gather in [`GroupRows`] until state.db has to
//! have them; answers go out before that, since the log has the entries.
//!
//! # Failure
//! A write or a row that fails raises the fatal signal: nothing of the chunk is answered, the process stops, and
//! the next start applies it again from the log.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use tokio::sync::oneshot;

use seriatim_proto::chaos::{self, Point, Sabotage};
use seriatim_proto::codec;
use seriatim_proto::command::{Command, Outcome};
use seriatim_proto::ids::{GroupId, LogIndex};
use seriatim_store_core::{At, Fatal};

use crate::fatal::FatalSignal;
use crate::live::GroupLive;
use crate::metrics::StoreMetrics;
use crate::raft::codec::SnapshotMetaRow;
use crate::raft::snapshot::{SnapshotBlocks, SnapshotData};
use crate::raft::types::{CommandBatch, Entry, LogId, Payload, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::rocks::group_rows::{Chunk, GroupRows};
use crate::rocks::state_db::StateDb;
use crate::scrub::DigestPace;

/// A group's rows, as openraft sees them.
pub(crate) struct StateMachine {
    group: GroupId,
    state: Arc<StateDb>,
    live: Arc<GroupLive>,
    metrics: StoreMetrics,
    fatal: FatalSignal,
    pace: Arc<DigestPace>,
    rows: Arc<GroupRows>,
    position: Position,
}

/// How far a group is applied, and who its members are there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Position {
    /// the last entry applied
    pub(crate) applied: Option<LogId>,
    /// the last membership applied
    pub(crate) membership: StoredMembership,
}

impl Position {
    fn encode(&self) -> Vec<u8> {
        codec::encode(&SnapshotMetaRow::from(&self.clone().meta()))
    }

    fn decode(bytes: &[u8]) -> io::Result<Self> {
        let broken = |error| io::Error::new(io::ErrorKind::InvalidData, format!("the position of a group: {error}"));
        let row = codec::decode::<SnapshotMetaRow>(bytes).map_err(broken)?;
        let SnapshotMeta { last_log_id, last_membership } = row.meta().map_err(broken)?;
        Ok(Self { applied: last_log_id, membership: last_membership })
    }

    fn meta(self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership }
    }

    /// A snapshot of which only the position is wanted.
    fn promise(self) -> Snapshot<SnapshotData> {
        Snapshot { meta: self.meta(), snapshot: SnapshotData::Sending(SnapshotBlocks::nothing()) }
    }

    fn index(&self) -> u64 {
        self.applied.as_ref().map_or(0, |applied| applied.index)
    }
}

type Item = (Entry, Option<ApplyResponder<TypeConfig>>);

impl StateMachine {
    /// The group as state.db has it.
    pub(crate) fn open(
        group: GroupId,
        state: Arc<StateDb>,
        live: Arc<GroupLive>,
        metrics: StoreMetrics,
        fatal: FatalSignal,
        pace: Arc<DigestPace>,
    ) -> io::Result<Self> {
        // What an earlier replica of this process left unwritten counts.
        drop(state.view(group).map_err(io::Error::other)?);
        let position = match state.position(group).map_err(io::Error::other)? {
            Some(bytes) => Position::decode(&bytes)?,
            None => Position::default(),
        };
        let rows = state.rows(group);
        Ok(Self { group, state, live, metrics, fatal, pace, rows, position })
    }

    /// Applies a chunk, then answers.
    fn apply_chunk(&mut self, items: Vec<Item>) -> Result<(), Fatal> {
        let started = Instant::now();
        chaos::hit(Point::ApplyBefore);
        let mut chunk = self.rows.chunk(&self.state)?;
        let mut events = Vec::new();
        let mut answers = Vec::with_capacity(items.len());
        let (mut commands_count, mut log_bytes) = (0u64, 0u64);
        for (entry, responder) in items {
            let outcomes = match entry.payload {
                Payload::Blank => Vec::new(),
                Payload::Membership(membership) => {
                    self.position.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Vec::new()
                }
                Payload::Normal(batch) => {
                    commands_count += u64::from(batch.count);
                    log_bytes += batch.bytes.len() as u64;
                    let at = At {
                        group: self.group,
                        term: entry.log_id.leader_id.term,
                        index: LogIndex(entry.log_id.index),
                        place: 0,
                    };
                    apply_batch(&mut chunk, at, &batch, &mut events)?
                }
            };
            log_bytes += ENTRY_OVERHEAD_BYTES;
            self.position.applied = Some(entry.log_id);
            if let Some(responder) = responder {
                answers.push((responder, outcomes));
            }
        }
        if !events.is_empty() {
            self.live.publish(&chunk, events)?;
        }
        if let Some(what) = chunk.missed() {
            self.live.set_rot(what).map_err(|error| Fatal::Storage(format!("note a hole: {error}")))?;
        }
        let (gets, hits) = chunk.counts();
        chunk.keep(self.position.encode(), log_bytes);
        chaos::hit(Point::ApplyAfter);
        for (responder, outcomes) in answers {
            responder.send(outcomes);
        }
        chaos::hit(Point::ApplyAnswered);
        let written = self.rows.spill_if_full(&self.state)?;
        self.metrics.applied_commands.inc_by(commands_count);
        self.metrics.state_gets.inc_by(gets);
        self.metrics.state_cache_hits.inc_by(hits);
        self.metrics.state_rows_written.inc_by(written as u64);
        self.metrics.apply_chunk_commands.observe(commands_count as f64);
        self.metrics.apply_seconds.observe(started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Has a digest of the rows made as they are now. Answers when apply may go on.
    async fn begin_digest(&self) {
        let (state, live, pace, fatal) =
            (Arc::clone(&self.state), Arc::clone(&self.live), Arc::clone(&self.pace), self.fatal.clone());
        let (group, index) = (self.group, self.position.index());
        live.begin_digest(index);
        let (seen_tx, seen) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let pause = |bytes| {
                let until = Instant::now() + pace.take(Instant::now(), bytes, live.is_digest_urgent());
                // In steps, so that nobody waits for this who stops.
                while live.wants_digest(index) {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return true;
                    }
                    std::thread::sleep(left.min(DIGEST_STEP));
                }
                false
            };
            // Nobody waits any more if the group stops; dropped unsent, it says the same.
            let seen = || {
                let _ = seen_tx.send(());
            };
            match state.digest(group, index, seen, pause) {
                Ok(Some(digest)) => live.set_digest(digest),
                Ok(None) => (),
                Err(error) => {
                    live.give_digest_up(index);
                    fatal.note_damage_of(format_args!("group {group} cannot read its rows"), &error);
                }
            }
        });
        let _ = seen.await;
    }

    fn stop<T>(&self, fatal: Fatal) -> io::Result<T> {
        self.fatal.raise_of(format_args!("group {} cannot apply", self.group), &fatal);
        Err(io::Error::other(fatal))
    }
}

impl Drop for StateMachine {
    /// Openraft drops it when it has applied the last entry that it will.
    fn drop(&mut self) {
        self.live.set_machine_ended();
    }
}

/// Applies the commands of an entry, in their order.
fn apply_batch(
    chunk: &mut Chunk<'_>,
    at: At,
    batch: &CommandBatch,
    events: &mut Vec<seriatim_store_core::Event>,
) -> Result<Vec<Outcome>, Fatal> {
    // The leader's door decoded it. Any verdict here would be another one than on the replicas that know its commands.
    let commands = codec::decode::<Vec<Command>>(&batch.bytes).map_err(|_| Fatal::Entry(at.index))?;
    let mut outcomes = Vec::with_capacity(commands.len());
    for (place, command) in (0u32..).zip(&commands) {
        outcomes.push(seriatim_store_core::apply(chunk, At { place, ..at }, command, events)?);
    }
    Ok(outcomes)
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = LogicalSnapshot;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.position.applied, self.position.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + openraft::OptionalSend,
    {
        let mut items = Vec::new();
        let mut bytes = 0;
        while let Some(item) = entries.next().await {
            let item = item?;
            if let Payload::Normal(batch) = &item.0.payload {
                bytes += batch.bytes.len();
            }
            // Only a leader of ours proposes one without commands (check.rs).
            let compares = matches!(&item.0.payload, Payload::Normal(batch) if batch.count == 0);
            items.push(item);
            if bytes >= CHUNK_BYTES || compares {
                bytes = 0;
                if let Err(fatal) = self.apply_chunk(std::mem::take(&mut items)) {
                    return self.stop(fatal);
                }
            }
            if compares {
                self.begin_digest().await;
            }
        }
        if !items.is_empty()
            && let Err(fatal) = self.apply_chunk(items)
        {
            return self.stop(fatal);
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<LogicalSnapshot> {
        Some(LogicalSnapshot { group: self.group, state: Arc::clone(&self.state) })
    }

    async fn get_snapshot_builder(&mut self) -> LogicalSnapshot {
        LogicalSnapshot { group: self.group, state: Arc::clone(&self.state) }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> Result<(), io::Error> {
        let SnapshotData::Received(received) = snapshot else {
            return Err(io::Error::other("only a received snapshot can be installed"));
        };
        if Some(received.header().applied_index) != meta.last_log_id.as_ref().map(|last| last.index) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the snapshot is not what its envelope says"));
        }
        tracing::info!(group = self.group.0, index = received.header().applied_index, "installing a snapshot");
        self.live.set_installing(true);
        let (state, group) = (Arc::clone(&self.state), self.group);
        let installed = tokio::task::spawn_blocking(move || state.install(group, received)).await;
        self.rows.replaced();
        let replaced = installed.map_err(io::Error::other).and_then(|installed| installed).and_then(|()| {
            let bytes = self.state.position(self.group).map_err(io::Error::other)?;
            self.position = Position::decode(&bytes.ok_or_else(|| io::Error::other("a snapshot without a position"))?)?;
            self.live.reload(&self.state.reader()).map_err(io::Error::other)
        });
        self.live.set_installing(false);
        if let Err(error) = &replaced {
            self.fatal.raise(format!("group {} cannot install a snapshot: {error}", self.group));
        } else {
            self.metrics.snapshots_installed.inc();
        }
        replaced
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<SnapshotData>>, io::Error> {
        if !self.live.started() {
            // What openraft takes for a snapshot at start it may purge up to: only what is flushed.
            let position = self.state.flushed_position(self.group).map_err(io::Error::other)?;
            return position.map(|bytes| Position::decode(&bytes).map(Position::promise)).transpose();
        }
        let applied_index = |bytes: &[u8]| Position::decode(bytes).map(|position| position.index());
        let Some((position, blocks)) = self.state.send_snapshot(self.group, applied_index).await? else {
            return Ok(None);
        };
        self.metrics.snapshots_built.inc();
        Ok(Some(Snapshot { meta: Position::decode(&position)?.meta(), snapshot: SnapshotData::Sending(blocks) }))
    }
}

/// "Everything up to here is flushed": all that openraft needs in order to purge. Costs one get; the rows are
/// read only when a follower needs them.
pub(crate) struct LogicalSnapshot {
    group: GroupId,
    state: Arc<StateDb>,
}

impl LogicalSnapshot {
    /// What is applied, though a crash would take it away: for [`Sabotage::PurgeTooFar`].
    fn applied(&self) -> io::Result<Option<Vec<u8>>> {
        // Whoever looks has what was applied before.
        drop(self.state.view(self.group).map_err(io::Error::other)?);
        self.state.position(self.group).map_err(io::Error::other)
    }
}

impl RaftSnapshotBuilder<TypeConfig> for LogicalSnapshot {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot<SnapshotData>, io::Error> {
        let position = match chaos::sabotaged(Sabotage::PurgeTooFar) {
            true => self.applied(),
            false => self.state.flushed_position(self.group).map_err(io::Error::other),
        };
        let position = match position? {
            Some(bytes) => Position::decode(&bytes)?,
            None => Position::default(),
        };
        Ok(position.promise())
    }
}

/// Longest sleep of a digest between two looks whether it is still wanted.
const DIGEST_STEP: Duration = Duration::from_millis(50);
/// Bytes of commands at which a chunk is written.
const CHUNK_BYTES: usize = 1 << 20;
/// What an entry costs in the log beside its commands.
const ENTRY_OVERHEAD_BYTES: u64 = 64;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use seriatim_proto::ids::NodeId;

    use super::*;
    use crate::config::Tuning;

    #[test]
    fn an_entry_that_does_not_decode_is_no_verdict_and_nothing_of_its_chunk_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDb::open(folder.path(), &Tuning::default()).unwrap();
        let group = GroupId(1);
        let rows = state.rows(group);
        let at = At { group, term: 1, index: LogIndex(7), place: 0 };
        let known = codec::encode_bytes(&vec![Command::OpenLease { node: NodeId(1) }]);
        // The same entry, with a command of another variant than this program knows.
        let mut newer = known.to_vec();
        newer[2] = 0x7f;
        let apply = |bytes: Bytes| {
            let mut chunk = rows.chunk(&state).unwrap();
            apply_batch(&mut chunk, at, &CommandBatch { count: 1, bytes }, &mut Vec::new())
                .map(|_| chunk.keep(vec![1], 1))
        };
        apply(known).unwrap();
        assert_eq!(apply(Bytes::from(newer)), Err(Fatal::Entry(LogIndex(7))));
        assert!(matches!(rows.chunk(&state), Err(Fatal::Storage(_))), "the group stands still until a restart");
    }
}
