//! Door: linearizable reads, lease renewals and lease expiry of one group. One task owns them.
//!
//! ```text
//! reads, renewals ──▶ queue ──▶ one ReadIndex for all that wait ──▶ rows / notes ──▶ answers
//! tick 50 ms ──▶ leadership changed? forget notes : leases out of time? ──▶ ExpireLease under this leadership
//! ```
//! What arrives during a ReadIndex waits for the next: an answer reflects everything committed before it was asked.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use seriatim_proto::chaos::{self, Point};
use seriatim_proto::command::Command;
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::LeaseId;
use seriatim_proto::limits;
use seriatim_proto::store::{Read, ReadOutcome, Renewal, StoreRefusal, StoreResponse};

use crate::boot_time;
use crate::leases::{self, LeaseNotes};
use crate::replica::Replica;

/// What waits at a group's door.
pub(crate) enum Visitor {
    /// Reads of one request, and the place of its answer in the connection's queue.
    Read {
        /// of the request
        id: u64,
        /// what
        reads: Vec<Read>,
        /// where the answer goes
        answer: mpsc::OwnedPermit<StoreResponse>,
    },
    /// One lease's renewal.
    Renew {
        /// which
        lease: LeaseId,
        /// where the answer goes
        answer: oneshot::Sender<Renewal>,
    },
}

/// The task behind a group's door. Ends when all senders are gone.
pub(crate) struct Door {
    replica: Arc<Replica>,
    queue: mpsc::Receiver<Visitor>,
    notes: LeaseNotes,
    /// The leadership that the notes belong to.
    term: Option<u64>,
    /// An expiry is proposed and not answered.
    expiring: Arc<AtomicBool>,
}

type Round = Pin<Box<dyn Future<Output = Result<(), StoreRefusal>> + Send>>;

impl Door {
    /// Not running yet.
    pub(crate) fn new(replica: Arc<Replica>, queue: mpsc::Receiver<Visitor>) -> Self {
        Self { replica, queue, notes: LeaseNotes::new(), term: None, expiring: Arc::default() }
    }

    /// Serves until the queue is closed.
    pub(crate) async fn run(mut self) {
        let mut tick = tokio::time::interval(leases::TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waiting = Vec::new();
        let mut round: Option<Round> = None;
        loop {
            tokio::select! {
                biased;
                result = async { round.as_mut().expect("guarded").await }, if round.is_some() => {
                    round = None;
                    if result.is_ok() {
                        chaos::hit(Point::ReadConfirmed);
                    }
                    self.finish(std::mem::take(&mut waiting), result).await;
                }
                _ = tick.tick() => self.tick().await,
                count = self.queue.recv_many(&mut waiting, ROUND_VISITORS), if round.is_none() => {
                    if count == 0 {
                        return;
                    }
                    round = Some(self.begin());
                }
            }
        }
    }

    fn begin(&self) -> Round {
        self.replica.metrics.read_index_rounds.inc();
        let replica = Arc::clone(&self.replica);
        Box::pin(async move { replica.read_index().await })
    }

    async fn finish(&mut self, waiting: Vec<Visitor>, result: Result<(), StoreRefusal>) {
        let mut reads = Vec::new();
        for visitor in waiting {
            match visitor {
                Visitor::Read { id, reads: asked, answer } => reads.push((id, asked, answer)),
                Visitor::Renew { lease, answer } => {
                    // The asker may have gone.
                    let _ = answer.send(match &result {
                        Ok(()) => self.renew(lease),
                        Err(StoreRefusal::NotLeader { leader }) => Renewal::NotLeader { leader: *leader },
                        Err(StoreRefusal::Refused(_)) => Renewal::Unavailable,
                    });
                }
            }
        }
        if reads.is_empty() {
            return;
        }
        if let Err(refusal) = result {
            for (id, _, answer) in reads {
                self.replica.answer_refused(&refusal);
                answer.send(StoreResponse::Reads { id, result: Err(refusal.clone()) });
            }
            return;
        }
        let rows: u64 = reads.iter().flat_map(|(_, asked, _)| asked).map(weight).sum();
        let replica = Arc::clone(&self.replica);
        let serve = move || {
            for (id, asked, answer) in reads {
                let result = replica.read_now(&asked);
                answer.send(StoreResponse::Reads { id, result });
            }
        };
        if rows <= INLINE_ROWS {
            serve();
        } else if tokio::task::spawn_blocking(serve).await.is_err() {
            tracing::error!(group = self.replica.group.0, "a read ended without an answer");
        }
    }

    /// After a ReadIndex: the lease exists and is not marked, or it is gone.
    fn renew(&mut self, lease: LeaseId) -> Renewal {
        if !self.replica.live.has_lease(lease) || !self.notes.renew(boot_time::now_ms(), lease) {
            return Renewal::Gone;
        }
        self.replica.metrics.lease_renewals.inc();
        chaos::hit(Point::LeaseRenewed);
        Renewal::Renewed
    }

    async fn tick(&mut self) {
        let term = self.replica.leadership();
        if term != self.term {
            self.term = term;
            self.notes = LeaseNotes::new();
        }
        let Some(term) = term else { return };
        let now = boot_time::now_ms();
        let expired = self.notes.tick(now, &self.replica.live.leases());
        self.replica.set_doubtful_lease(self.notes.has_doubtful(now));
        if expired.is_empty() || self.expiring.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::info!(group = self.replica.group.0, count = expired.len(), "leases ran out");
        chaos::hit(Point::LeaseExpire);
        let commands = expired.iter().map(|lease| Command::ExpireLease { lease: *lease }).collect::<Vec<_>>();
        self.replica.metrics.lease_expiries.inc_by(expired.len() as u64);
        let expiring = Arc::clone(&self.expiring);
        self.replica.propose_as_leader(term, &commands, move |_| expiring.store(false, Ordering::Release)).await;
    }
}

/// Answers reads of one group from its rows, all at one moment.
pub(crate) fn serve_reads(replica: &Replica, asked: &[Read]) -> Result<Vec<ReadOutcome>, StoreRefusal> {
    let fatal = |fatal| {
        replica.fatal.raise_of(format_args!("group {} cannot read", replica.group), &fatal);
        StoreRefusal::Refused(Refusal::new(ErrorCode::Internal, "the store cannot read"))
    };
    let view = replica.state.view(replica.group).map_err(fatal)?;
    let mut outcomes = Vec::with_capacity(asked.len());
    let mut bytes = 0;
    for read in asked {
        let outcome = seriatim_store_core::read(&view, replica.group, read).map_err(fatal)?;
        if let ReadOutcome::Messages(messages) = &outcome {
            bytes += messages.iter().map(|message| message.body.len()).sum::<usize>();
        }
        if bytes > READ_BYTES_MAX {
            return Err(StoreRefusal::Refused(Refusal::new(ErrorCode::FrameTooLarge, "the answer would be too long")));
        }
        outcomes.push(outcome);
    }
    replica.metrics.reads.inc_by(asked.len() as u64);
    Ok(outcomes)
}

/// About how many rows a read touches.
pub(crate) fn weight(read: &Read) -> u64 {
    match read {
        Read::Holder(_) | Read::Namespace(_) | Read::Dedupe { .. } | Read::Last { .. } | Read::Cursors { .. } => 1,
        Read::Conversation { .. } => 16,
        Read::Holders | Read::Directory => 4_096,
        Read::Pending { limit, .. } | Read::Messages { limit, .. } | Read::Inbox { limit, .. } => {
            u64::from((*limit).min(limits::READ_ROWS_MAX))
        }
        Read::MessagesAt { seqs, .. } => seqs.len() as u64,
        Read::Amendments { .. } => u64::from(limits::READ_ROWS_MAX),
        Read::List { limit, .. } => 2 * u64::from((*limit).min(limits::READ_ROWS_MAX)),
        Read::Pins { .. } => u64::from(limits::PINS_MAX),
    }
}

/// Visitors of one ReadIndex.
const ROUND_VISITORS: usize = 1_024;
/// Rows that are read on the group runtime itself; more go to a thread of their own.
const INLINE_ROWS: u64 = 512;
/// Bytes of bodies in one answer: with everything else it fits an internal frame.
const READ_BYTES_MAX: usize = 8 << 20;
