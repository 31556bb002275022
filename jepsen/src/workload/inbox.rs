//! Inbox: a device that follows its user's inbox: subscribes, syncs, acknowledges, vanishes, comes back elsewhere.
//!
//! ```text
//!  dial ─▶ (catch up by pages) ─▶ subscribe from its place, or from before it ─▶ listen, ack ─▶ vanish ─▶ elsewhere …
//!       └▶ only pages, again and again ─────────────────────────────────────────────────────────▶
//! ```
//! Everything that it is given is written down, with the gateway it came through.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt, OptionFuture};
use rand::RngExt;
use rand::rngs::StdRng;
use seriatim_client::{Client, RequestError, Subscription, SubscriptionError};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::ids::{Seq, UserId};
use tokio::time::Instant;
use tracing::debug;

use super::device::Device;
use super::pages::Pages;
use super::process::Process;
use super::seen::{Place, seen};
use super::stage::Stage;
use crate::history::Seen;

/// A device listens for so long before it vanishes.
const LIFE_MS: std::ops::Range<u64> = 1_000..15_000;
/// Between two acks or looks at the cursor.
const ACK_MS: std::ops::Range<u64> = 200..3_000;
/// Between two pages of a device that never subscribes.
const POLL_MS: std::ops::Range<u64> = 50..1_000;
/// How far before its place a device may begin again.
const BACK_MAX: u64 = 300;
/// How long a device waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a vanished device may stay away.
const AWAY_MS: std::ops::Range<u64> = 0..2_000;

/// A device of a user.
struct Follower {
    stage: Arc<Stage>,
    device: Device,
    process: Process,
    /// acks of its own while it listens
    acking: Process,
    rng: StdRng,
    /// first seq that it does not have
    position: Seq,
    session: u64,
}

/// An ack or a look that is under way.
type Asking = BoxFuture<'static, (u64, Option<Seq>, Result<u64, RequestError>)>;

/// One device, until the run is over.
pub(crate) async fn run(stage: Arc<Stage>, place: usize, user: UserId, name: &'static str) {
    let mut rng = stage.rng("inbox", place);
    let device = Device::new(&stage, user, name, &mut rng).with_patience(PATIENCE);
    let (process, acking) = (stage.process(), stage.process());
    let mut follower =
        Follower { stage: Arc::clone(&stage), device, process, acking, rng, position: Seq::FIRST, session: 0 };
    while !stage.is_over() {
        follower.live().await;
    }
}

impl Follower {
    /// From a dial to the next.
    async fn live(&mut self) {
        let client = match self.device.connect().await {
            Ok(client) => client,
            Err(error) => {
                debug!(device = ?self.device, %error, "not connected");
                return self.device.hop();
            }
        };
        let until = Instant::now() + Duration::from_millis(self.rng.random_range(LIFE_MS));
        match self.rng.random_range(0..10) {
            0..5 => self.listen(&client, self.position, until).await,
            5..7 => {
                let back = self.rng.random_range(0..BACK_MAX);
                let from = Seq::new(self.position.get().saturating_sub(back).max(1)).unwrap_or(Seq::FIRST);
                self.listen(&client, from, until).await;
            }
            7..9 => {
                if self.catch_up(&client).await {
                    self.listen(&client, self.position, until).await;
                }
            }
            _ => {
                while Instant::now() < until && self.catch_up(&client).await {
                    let pause = Duration::from_millis(self.rng.random_range(POLL_MS));
                    if !self.stage.rest(pause).await {
                        break;
                    }
                }
            }
        }
        drop(client);
        if self.rng.random_bool(0.5) {
            self.device.hop()
        } else {
            self.device.hang_up()
        }
        let away = Duration::from_millis(self.rng.random_range(AWAY_MS));
        self.stage.rest(away).await;
    }

    /// Reads pages to the end. False: a page did not come.
    async fn catch_up(&mut self, client: &Client) -> bool {
        let pages = Pages { stage: &self.stage, client, device: &self.device, process: self.process.number() };
        let outcome = pages.read(self.position, |page| self.stage.notebook.seen(&page)).await;
        match outcome {
            Ok(read) => {
                self.position = self.position.max(read.upto);
                true
            }
            Err(error) => {
                debug!(device = ?self.device, %error, "page not read");
                self.refused(&error.refusal().code);
                false
            }
        }
    }

    /// Subscribes, and acknowledges now and then, until it vanishes.
    async fn listen(&mut self, client: &Client, from: Seq, until: Instant) {
        self.session += 1;
        let mut subscription = client.subscribe(from, None);
        let mut asking: OptionFuture<Asking> = None.into();
        let mut ask_at = self.next_ask();
        let over = {
            let stage = Arc::clone(&self.stage);
            async move { stage.over().await }
        };
        tokio::pin!(over);
        loop {
            tokio::select! {
                given = subscription.next() => if !self.take(given, from) { break },
                Some((call, wanted, result)) = &mut asking => {
                    asking = None.into();
                    ask_at = self.next_ask();
                    self.note_cursor(call, wanted, &result);
                }
                () = tokio::time::sleep_until(ask_at), if ask_at < until => {
                    asking = Some(self.ask(client)).into();
                    // Not before the answer: one operation at a time.
                    ask_at = until;
                }
                () = tokio::time::sleep_until(until) => break,
                () = &mut over => break,
            }
        }
        if let Some((call, wanted, result)) = asking.await {
            self.note_cursor(call, wanted, &result);
        }
        self.drain(subscription, from);
    }

    /// What had come before it vanished was given.
    fn drain(&mut self, mut subscription: Subscription, from: Seq) {
        while let Some(given) = subscription.next().now_or_never() {
            if !self.take(given, from) {
                break;
            }
        }
    }

    /// Writes down what the subscription yielded. False: it is over.
    fn take(&mut self, given: Option<Result<seriatim_client::Entry, SubscriptionError>>, from: Seq) -> bool {
        let entry = match given {
            Some(Ok(entry)) => entry,
            Some(Err(SubscriptionError::Refused(refusal))) => {
                self.refused(&refusal.code);
                return false;
            }
            Some(Err(error @ SubscriptionError::TooLong { .. })) => {
                debug!(device = ?self.device, %error, "subscription ended");
                return false;
            }
            None => return false,
        };
        self.stage.notebook.seen(&Seen::Push {
            proc: self.process.number(),
            user: self.device.user.to_string(),
            device: self.device.name().to_owned(),
            session: self.session,
            from: from.get(),
            at: self.stage.clock.now(),
            entry: seen(&entry, &self.device.user, Place::Inbox),
        });
        self.position = self.position.max(entry.seq.next());
        true
    }

    /// A device that only goes where it was led is never ahead of its inbox.
    fn refused(&self, code: &ErrorCode) {
        if *code == ErrorCode::CursorAhead {
            let (user, name, at) = (&self.device.user, self.device.name(), self.position);
            self.stage.find(format!("I12: {user}/{name} was led to {at}, and then told that this is the future"));
        }
    }

    /// Acknowledges what it has, or looks where its cursor is.
    fn ask(&mut self, client: &Client) -> Asking {
        let (client, clock) = (client.clone(), self.stage.clock);
        let call = clock.now();
        let name = self.device.name().to_owned();
        if self.position == Seq::FIRST || self.rng.random_ratio(1, 4) {
            return async move { (call, None, look(&client, &name).await) }.boxed();
        }
        let wanted = self.position;
        async move { (call, Some(wanted), client.ack(wanted).await.map(Seq::get)) }.boxed()
    }

    fn note_cursor(&mut self, call: u64, wanted: Option<Seq>, result: &Result<u64, RequestError>) {
        if let Err(error) = result {
            self.refused(&error.refusal().code);
        }
        self.stage.notebook.seen(&Seen::Cursor {
            proc: self.acking.number(),
            user: self.device.user.to_string(),
            device: self.device.name().to_owned(),
            call,
            ret: self.stage.clock.now(),
            wanted: wanted.map(Seq::get),
            answered: result.as_ref().ok().copied(),
        });
        if result.as_ref().is_err_and(RequestError::is_unknown) {
            self.acking.renew();
        }
    }

    fn next_ask(&mut self) -> Instant {
        Instant::now() + Duration::from_millis(self.rng.random_range(ACK_MS))
    }
}

/// The durable cursor of a device; 0 if it has none.
pub(crate) async fn look(client: &Client, device: &str) -> Result<u64, RequestError> {
    let status = client.status().await?;
    let cursor = status.devices.iter().find(|(name, _)| name.as_str() == device);
    Ok(cursor.map_or(0, |(_, cursor)| cursor.get()))
}
