//! Sender: one user who writes into one conversation, from one device at a time.
//!
//! Each message is one draft: id, salt, body and `known` stay the same however often it is sent. After an unknown
//! outcome the sender does what people's devices do: sends again, at once or much later, here or through another
//! gateway; asks; cancels; or never comes back.
//!
//! ```text
//!  draft ─▶ attempt ─▶ ok ──▶ now and then again under the same id: must give the same seq
//!             │ unknown         or another body under it: must be refused
//!             ├─▶ again (new process) ─▶ …
//!             ├─▶ cancel, query: the verdict ends the same operation
//!             └─▶ left open; perhaps again later
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;
use seriatim_client::{Client, Conversation, RequestError, SendRequest, SendStatus};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::ids::{MessageId, UserId};

use super::device::Device;
use super::ended;
use super::process::Process;
use super::reader;
use super::seen::body_text;
use super::stage::Stage;
use crate::history::{Ended, Function, Op, Seen};

/// Attempts of one draft in a row.
const ATTEMPTS_MAX: u32 = 4;
/// Drafts that are remembered, to be sent again.
const REMEMBERED_MAX: usize = 16;

/// What one attempt came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Attempt {
    /// in the conversation at this seq
    Committed(u64),
    /// it did not happen
    Refused(ErrorCode),
    /// nobody knows
    Unknown,
    /// there was no connection to send it on
    Unsent,
}

/// What to do if an attempt ends unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doubt {
    /// send it again
    Again,
    /// ask what became of it
    Query,
    /// cancel it
    Cancel,
    /// leave it open
    Leave,
}

impl Doubt {
    fn draw(rng: &mut StdRng) -> Doubt {
        match rng.random_range(0..100) {
            0..60 => Doubt::Again,
            60..70 => Doubt::Query,
            70..85 => Doubt::Cancel,
            _ => Doubt::Leave,
        }
    }
}

/// A user who writes into a conversation.
#[derive(Debug)]
pub(crate) struct Sender {
    stage: Arc<Stage>,
    pub(crate) device: Device,
    process: Process,
    rng: StdRng,
    to: Conversation,
    key: String,
    /// in the conversation
    committed: VecDeque<SendRequest>,
    /// of unknown outcome
    open: VecDeque<SendRequest>,
    /// last seq that this sender was told
    last_seq: u64,
}

impl Sender {
    /// A sender with a device of its own; `place` tells it from others of its role.
    pub(crate) fn new(stage: &Arc<Stage>, role: &str, place: usize, user: UserId, to: Conversation) -> Sender {
        let mut rng = stage.rng(role, place);
        let key = to.id_for(&user).to_string();
        let device = Device::new(stage, user, &format!("{role}-{place}"), &mut rng);
        Sender {
            stage: Arc::clone(stage),
            device,
            process: stage.process(),
            rng,
            to,
            key,
            committed: VecDeque::new(),
            open: VecDeque::new(),
            last_seq: 0,
        }
    }

    /// That waits so long for each answer.
    pub(crate) fn with_patience(mut self, patience: Duration) -> Sender {
        self.device = self.device.with_patience(patience);
        self
    }

    /// That stays with this gateway for good.
    pub(crate) fn at(mut self, gateway: usize) -> Sender {
        self.device = self.device.at(gateway);
        self
    }

    /// One act, drawn by lot. `reads`: may this user read all of the conversation?
    pub(crate) async fn act(&mut self, reads: bool) {
        match self.rng.random_range(0..1_000) {
            0..40 => self.repeat_committed().await,
            40..50 => self.contradict().await,
            50..80 => self.repeat_open().await,
            80..180 if reads => self.read().await,
            180..184 => self.device.hop(),
            _ => {
                if let Some(draft) = self.draft().await {
                    self.send(draft).await;
                }
            }
        }
    }

    /// A new message.
    pub(crate) async fn draft(&mut self) -> Option<SendRequest> {
        let client = self.device.client().await.ok()?;
        let message_id = MessageId(self.rng.random());
        let salt: [u8; 16] = self.rng.random();
        let body = body_text(&self.device.user, &self.to, &message_id);
        let salt = Bytes::copy_from_slice(&salt);
        Some(SendRequest { message_id, salt, ..client.prepare(self.to.clone(), body) })
    }

    /// Sends until the end is known, or somebody loses interest.
    async fn send(&mut self, draft: SendRequest) {
        for attempt in 1..=ATTEMPTS_MAX {
            let doubt = if attempt == ATTEMPTS_MAX { Doubt::Leave } else { Doubt::draw(&mut self.rng) };
            match self.attempt_or(&draft, doubt).await {
                Attempt::Committed(_) => return remember(&mut self.committed, draft),
                Attempt::Refused(_) | Attempt::Unsent => return self.perhaps_hop(),
                Attempt::Unknown => {
                    self.perhaps_hop();
                    if doubt == Doubt::Leave || self.stage.is_over() {
                        return remember(&mut self.open, draft);
                    }
                }
            }
        }
    }

    /// One attempt, whose unknown end is left open.
    pub(crate) async fn attempt(&mut self, draft: &SendRequest) -> Attempt {
        self.attempt_or(draft, Doubt::Leave).await
    }

    async fn attempt_or(&mut self, draft: &SendRequest, doubt: Doubt) -> Attempt {
        let Ok(client) = self.device.client().await else { return Attempt::Unsent };
        let call = self.stage.clock.now();
        let mut cancelled = false;
        let attempt = match client.send_request(draft.clone()).await {
            Ok(committed) => Attempt::Committed(committed.seq.get()),
            Err(RequestError::Rejected(refusal)) => Attempt::Refused(refusal.code),
            Err(RequestError::Unknown(_)) => match doubt {
                Doubt::Again | Doubt::Leave => Attempt::Unknown,
                Doubt::Query => settled(client.query_send(&self.to, draft.message_id, draft.known).await),
                Doubt::Cancel => {
                    let settled = settled(client.cancel_send(&self.to, draft.message_id, draft.known).await);
                    cancelled = settled == Attempt::Refused(ErrorCode::Cancelled);
                    settled
                }
            },
        };
        self.note(draft, call, attempt);
        if cancelled {
            self.defy(&client, draft).await;
        }
        attempt
    }

    /// A cancelled message, sent all the same: must be refused for good.
    async fn defy(&mut self, client: &Client, draft: &SendRequest) {
        let call = self.stage.clock.now();
        let result = client.send_request(draft.clone()).await;
        if let Ok(committed) = &result {
            self.note(draft, call, Attempt::Committed(committed.seq.get()));
        }
        self.deny("a message that was cancelled", result.err());
    }

    /// Another body under an id that is taken: must be refused.
    async fn contradict(&mut self) {
        let Some(draft) = self.committed.back().cloned() else { return };
        let Ok(client) = self.device.client().await else { return };
        let forged = SendRequest { body: Bytes::from_static(b"another body under a used id"), ..draft };
        let result = client.send_request(forged).await;
        self.deny("another body under a used id", result.err());
    }

    fn deny(&self, what: &str, error: Option<RequestError>) {
        let code = error.as_ref().map(ended::refused_for_good);
        // No answer says nothing about whether it would be refused.
        if code == Some(None) {
            return;
        }
        self.stage.notebook.seen(&Seen::Denied {
            proc: self.process.number(),
            what: what.to_owned(),
            at: self.stage.clock.now(),
            refused: code.is_some(),
            code: code.flatten().map_or_else(|| "OK".to_owned(), |code| code.to_string()),
        });
    }

    /// Sends a committed message again: it stays where it is.
    async fn repeat_committed(&mut self) {
        if self.committed.is_empty() {
            return;
        }
        let draft = self.committed[self.rng.random_range(0..self.committed.len())].clone();
        self.perhaps_hop();
        self.attempt(&draft).await;
    }

    /// Sends a message again whose end is unknown since long.
    async fn repeat_open(&mut self) {
        let Some(draft) = self.open.pop_front() else { return };
        self.perhaps_hop();
        self.send(draft).await;
    }

    /// Reads a piece of the conversation, rarely all of it.
    async fn read(&mut self) {
        let Ok(client) = self.device.client().await else { return };
        let back = self.rng.random_range(0..200);
        let (from, limit) = match self.rng.random_range(0..50) {
            0 => (1, 0),
            1..25 => (self.last_seq.saturating_sub(back).max(1), 0),
            _ => (self.last_seq.saturating_sub(back).max(1), self.rng.random_range(1..50)),
        };
        let place = reader::Place { user: &self.device.user, conversation: &self.to };
        let read = reader::read(&self.stage, &self.process, &client, place, from, limit).await;
        match read.and_then(|entries| entries.last().map(|last| last.conversation_seq.get())) {
            Some(seq) => self.last_seq = self.last_seq.max(seq),
            None => self.perhaps_hop(),
        }
    }

    fn perhaps_hop(&mut self) {
        if self.rng.random_bool(0.5) {
            self.device.hop();
        }
    }

    /// One operation for the history.
    fn note(&mut self, draft: &SendRequest, call: u64, attempt: Attempt) {
        let (ended, seq) = match attempt {
            Attempt::Committed(seq) => (Ended::Ok, Some(seq)),
            Attempt::Refused(_) => (Ended::Fail, None),
            Attempt::Unknown => (Ended::Info, None),
            Attempt::Unsent => return,
        };
        self.last_seq = self.last_seq.max(seq.unwrap_or(0));
        let interval = (call, self.stage.clock.now());
        let op = Op::new(self.process.number(), &self.key, Function::Append, interval, ended);
        self.stage.notebook.op(&Op { id: Some(draft.message_id.to_string()), seq, ..op });
        if ended == Ended::Info {
            self.process.renew();
        }
    }
}

/// The verdict of a query or of a cancel on all attempts so far.
fn settled(status: Result<SendStatus, RequestError>) -> Attempt {
    match status {
        Ok(SendStatus::Committed(seq)) => Attempt::Committed(seq.get()),
        Ok(SendStatus::Cancelled) => Attempt::Refused(ErrorCode::Cancelled),
        Ok(SendStatus::Expired) => Attempt::Refused(ErrorCode::Expired),
        // The question may be refused for itself; it says nothing of the message.
        Ok(SendStatus::NotYet) | Err(_) => Attempt::Unknown,
    }
}

fn remember(drafts: &mut VecDeque<SendRequest>, draft: SendRequest) {
    if drafts.len() >= REMEMBERED_MAX {
        drafts.pop_front();
    }
    drafts.push_back(draft);
}

#[cfg(test)]
mod tests {
    use seriatim_proto::error::Refusal;
    use seriatim_proto::ids::Seq;

    use super::*;

    #[test]
    fn only_a_verdict_settles_an_unknown_send() {
        let refused = Err(RequestError::Rejected(Refusal::new(ErrorCode::NotFound, "not yours")));
        assert_eq!(settled(refused), Attempt::Unknown);
        assert_eq!(settled(Ok(SendStatus::NotYet)), Attempt::Unknown);
        assert_eq!(settled(Ok(SendStatus::Committed(Seq::FIRST))), Attempt::Committed(1));
        assert_eq!(settled(Ok(SendStatus::Cancelled)), Attempt::Refused(ErrorCode::Cancelled));
        assert_eq!(settled(Ok(SendStatus::Expired)), Attempt::Refused(ErrorCode::Expired));
    }

    #[test]
    fn every_way_out_of_doubt_is_taken() {
        let mut rng: StdRng = rand::SeedableRng::seed_from_u64(1);
        let drawn: Vec<Doubt> = (0..200).map(|_| Doubt::draw(&mut rng)).collect();
        for doubt in [Doubt::Again, Doubt::Query, Doubt::Cancel, Doubt::Leave] {
            assert!(drawn.contains(&doubt), "{doubt:?}");
        }
    }
}
