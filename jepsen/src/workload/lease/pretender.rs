//! Pretender: one who claims a scope's slot, writes, and writes on when the slot is somebody else's.
//!
//! A command whose outcome is unknown is sent again as it is, under its `n`, until there is one; what became of it
//! meanwhile is read. So hardly any operation stays open.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;
use seriatim_proto::command::{Append, Command, Content, HolderOp, Outcome, Place, Reject, Want};
use seriatim_proto::ids::{Epoch, Fence, LeaseId, MessageId, Seq, TenantId, UserId};
use seriatim_proto::store::{Read, ReadOutcome};

use super::PAUSE;
use super::court::{Court, Renewing};
use super::scope::{Scope, Sight, granted};
use crate::history::{Ended, Function, Op};
use crate::workload::process::Process;
use crate::workload::site::TENANT;
use crate::workload::stage::Stage;

/// Seqs of one reservation.
const SEGMENT: u32 = 40;
/// Writes before a pretender stops to renew.
const WRITES: std::ops::RangeInclusive<u32> = 5..=60;
/// Writes of one who knows that he is fenced.
const STALE_WRITES: std::ops::RangeInclusive<u32> = 10..=30;
/// Pause of one who sleeps between two writes: others are to take the slot meanwhile.
const DOZE: Duration = Duration::from_millis(50);
/// How long a command is sent again and again for its outcome.
const PATIENCE: Duration = Duration::from_secs(10);

struct Pretender {
    stage: Arc<Stage>,
    court: Arc<Court>,
    scope: Arc<Scope>,
    process: Process,
    rng: StdRng,
}

/// A claim, and what it was granted.
struct Reign {
    lease: LeaseId,
    epoch: Epoch,
    /// of the next command
    n: u64,
    /// not yet written: from here
    next: Seq,
    /// to here
    end: Seq,
}

/// What became of a command of a holder.
enum Became {
    Done(Outcome),
    Fenced,
    /// applied before; what came of it must be read
    Passed,
    /// nobody knows
    Lost,
}

/// One pretender, until the run or the season is over.
pub(super) async fn run(stage: Arc<Stage>, court: Arc<Court>, scope: Arc<Scope>, place: usize) {
    let (process, rng) = (stage.process(), stage.rng("pretender", place));
    let mut pretender = Pretender { stage, court, scope, process, rng };
    while !pretender.is_over() {
        let Some(lease) = pretender.court.open_lease(pretender.scope.group).await else {
            pretender.pause().await;
            continue;
        };
        let renewing = Renewing::begin(&pretender.court.stores, pretender.scope.group, lease);
        if let Some(reign) = pretender.claim(lease, &renewing).await {
            pretender.reign(reign, renewing).await;
        }
        // Only a try: a lease that nobody renews ends by itself.
        let _ = pretender.court.stores.propose_one(pretender.scope.group, &Command::CloseLease { lease }).await;
    }
}

impl Pretender {
    fn is_over(&self) -> bool {
        self.court.is_over(&self.stage)
    }

    async fn pause(&self) {
        self.stage.rest(PAUSE).await;
    }

    /// Waits until the slot is free and takes it; `None`: the lease is gone, or it is over.
    async fn claim(&mut self, lease: LeaseId, renewing: &Renewing) -> Option<Reign> {
        while !self.is_over() && !renewing.is_over() {
            let Some(sight) = self.look().await else {
                self.pause().await;
                continue;
            };
            if sight.row.lease == Some(lease) && sight.row.holder.is_some() {
                // An earlier claim, whose answer was lost, perhaps.
                let (epoch, end) = (sight.row.epoch, sight.ceiling);
                return Some(Reign { lease, epoch, n: 0, next: end, end });
            }
            if sight.row.holder.is_some() {
                self.pause().await;
                continue;
            }
            let claim = Command::Claim { slot: self.scope.slot, lease, seen: sight.row.epoch };
            // Whatever the answer is: who holds the slot is looked at.
            let _ = self.court.stores.propose_one(self.scope.group, &claim).await;
        }
        None
    }

    async fn look(&self) -> Option<Sight> {
        self.scope.look(&self.stage, &self.court.stores).await
    }

    /// Writes in order, then as one who sleeps and knows nothing, then as one who has been fenced.
    async fn reign(&mut self, mut reign: Reign, renewing: Renewing) {
        let writes = self.rng.random_range(WRITES);
        for _ in 0..writes {
            if !self.stage.turn().await || self.is_over() {
                return;
            }
            if self.write(&mut reign).await.is_none() {
                return;
            }
        }
        drop(renewing);
        if self.rng.random_ratio(1, 4) {
            // The store forgets it at once.
            let close = Command::CloseLease { lease: reign.lease };
            let _ = self.court.stores.propose_one(self.scope.group, &close).await;
        }
        while !self.scope.is_over(reign.epoch) {
            if !self.stage.rest(DOZE).await || self.is_over() || self.write(&mut reign).await.is_none() {
                return;
            }
        }
        for _ in 0..self.rng.random_range(STALE_WRITES) {
            if !self.stage.turn().await || self.is_over() || self.write(&mut reign).await.is_none() {
                return;
            }
        }
    }

    /// One write, after a reservation if there is nothing left; `None`: it makes no sense to go on.
    async fn write(&mut self, reign: &mut Reign) -> Option<()> {
        // One who has been fenced asks for more now and then as well.
        let is_stale = self.scope.is_over(reign.epoch);
        if reign.next == reign.end || is_stale && self.rng.random_ratio(1, 8) {
            self.reserve(reign).await?;
            if reign.next == reign.end {
                // Refused: it has nothing that it could write at, and says a number that was never its own.
                reign.end = reign.next.next();
            }
        }
        self.commit(reign).await
    }

    async fn reserve(&mut self, reign: &mut Reign) -> Option<()> {
        let call = self.stage.clock.now();
        let wants = vec![Want { namespace: self.scope.namespace(), seqs: SEGMENT }];
        let (became, doubted) = self.insist(reign, HolderOp::Reserve { wants }).await;
        let segment = match became {
            Became::Done(Outcome::Reserved(segments)) => {
                let segment = segments.first()?;
                Some((segment.lo, segment.hi))
            }
            Became::Done(other) => return self.unexpected("a reservation", &other),
            Became::Fenced if !doubted => None,
            Became::Fenced | Became::Passed => match self.look().await {
                // Nobody but this one reserves under this epoch.
                Some(sight) if sight.reserved == Some(reign.epoch) && sight.ceiling > reign.end => {
                    Some((Seq::new(sight.ceiling.get() - u64::from(SEGMENT))?, sight.ceiling))
                }
                Some(sight) if sight.reserved == Some(reign.epoch) => None,
                _ => return self.lost(Function::Lease, call, reign),
            },
            Became::Lost => return self.lost(Function::Lease, call, reign),
        };
        let (ended, interval) =
            (if segment.is_some() { Ended::Ok } else { Ended::Fail }, (call, self.stage.clock.now()));
        let op = Op::new(self.process.number(), &self.scope.key, Function::Lease, interval, ended);
        match segment {
            Some((lo, hi)) => {
                self.scope.saw(reign.epoch, call);
                self.stage.notebook.op(&granted(op, reign.epoch, lo, hi));
                (reign.next, reign.end) = (lo, hi);
            }
            None => self.stage.notebook.op(&Op { epoch: Some(reign.epoch.0), ..op }),
        }
        Some(())
    }

    async fn commit(&mut self, reign: &mut Reign) -> Option<()> {
        let (seq, message_id) = (reign.next, MessageId(self.rng.random()));
        let call = self.stage.clock.now();
        let (mut became, mut doubted) = self.insist(reign, self.append(seq, message_id, false)).await;
        if matches!(became, Became::Done(Outcome::Rejected(Reject::NotFound))) {
            // The conversation is not there yet: this entry makes it.
            (became, doubted) = self.insist(reign, self.append(seq, message_id, true)).await;
        }
        let is_there = match became {
            Became::Done(Outcome::Appended(appended)) if appended.seq == seq && !appended.duplicate => true,
            // The other one made it in the meantime: nothing was written.
            Became::Done(Outcome::Rejected(Reject::AlreadyExists)) => return Some(()),
            Became::Done(other) => return self.unexpected("a commit", &other),
            Became::Fenced if !doubted => false,
            Became::Fenced | Became::Passed => match self.is_there(seq, message_id).await {
                Some(is_there) => is_there,
                None => return self.lost(Function::Commit, call, reign),
            },
            Became::Lost => return self.lost(Function::Commit, call, reign),
        };
        let interval = (call, self.stage.clock.now());
        if is_there {
            self.scope.saw(reign.epoch, call);
            reign.next = seq.next();
        }
        // A refusal is judged by the epoch that fenced it, so that one must be written down too.
        let deadline = Instant::now() + PATIENCE;
        while !is_there && !self.scope.is_over(reign.epoch) {
            if Instant::now() >= deadline {
                return None;
            }
            if self.look().await.is_none() {
                tokio::time::sleep(PAUSE).await;
            }
        }
        let op = Op::new(self.process.number(), &self.scope.key, Function::Commit, interval, Ended::Ok);
        self.stage.notebook.op(&Op { seq: Some(seq.get()), epoch: Some(reign.epoch.0), reject: Some(!is_there), ..op });
        Some(())
    }

    fn append(&self, seq: Seq, message_id: MessageId, creates: bool) -> HolderOp {
        let text = format!("{}|{}", self.scope.key, seq.get());
        let content = if creates {
            Content::Create { members: Vec::new() }
        } else {
            Content::Message { salt: Bytes::from_static(b"salt"), body: Bytes::from(text) }
        };
        HolderOp::Append(Append {
            tenant: TenantId(TENANT),
            conversation: self.scope.conversation.clone(),
            sender: UserId::new("pretender").expect("a short plain text is a name"),
            message_id,
            known: None,
            follows: None,
            content,
            place: Place::At(seq),
            at_ms: 0,
            local: Vec::new(),
            delivered: None,
        })
    }

    /// Is the entry at this place the one of this id? Asked when no more of it can come.
    async fn is_there(&self, seq: Seq, message_id: MessageId) -> Option<bool> {
        let (tenant, conversation) = (TenantId(TENANT), self.scope.conversation.clone());
        let reads = [Read::MessagesAt { tenant, conversation, seqs: vec![seq] }];
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(outcomes) = self.court.stores.read(self.scope.group, &reads).await
                && let Some(ReadOutcome::Messages(messages)) = outcomes.first()
            {
                return Some(messages.iter().any(|message| message.entry.message_id == message_id));
            }
            if Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Sends it until it has an outcome. Also: was one try without an answer?
    async fn insist(&self, reign: &mut Reign, op: HolderOp) -> (Became, bool) {
        let fence = Fence { slot: self.scope.slot, epoch: reign.epoch, n: reign.n };
        let command = Command::Held { fence, op };
        let (deadline, mut doubted) = (Instant::now() + PATIENCE, false);
        loop {
            match self.court.stores.propose_one(self.scope.group, &command).await {
                Ok(Outcome::Rejected(Reject::Fenced { .. })) => return (Became::Fenced, doubted),
                Ok(Outcome::Rejected(Reject::Passed)) if doubted => {
                    reign.n += 1;
                    return (Became::Passed, doubted);
                }
                Ok(outcome) => {
                    let consumed = !matches!(&outcome, Outcome::Rejected(reject) if !reject.consumes_n());
                    reign.n += u64::from(consumed);
                    return (Became::Done(outcome), doubted);
                }
                Err(doubt) => doubted |= doubt == crate::workload::stores::Doubt::Unknown,
            }
            if Instant::now() >= deadline {
                return (Became::Lost, doubted);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// It stays open for ever.
    fn lost(&mut self, f: Function, call: u64, reign: &Reign) -> Option<()> {
        let interval = (call, self.stage.clock.now());
        let op = Op::new(self.process.number(), &self.scope.key, f, interval, Ended::Info);
        let seq = (f == Function::Commit).then(|| reign.next.get());
        self.stage.notebook.op(&Op { seq, epoch: Some(reign.epoch.0), ..op });
        self.process.renew();
        None
    }

    fn unexpected(&self, what: &str, outcome: &Outcome) -> Option<()> {
        self.stage.find(format!("F2: {what} in {} came to {outcome:?}", self.scope.key));
        None
    }
}
