//! Workload: clients of the product, drawn from a seed, that write down everything they ask and see.
//!
//! They know nothing of faults. Whatever the SDK says of an outcome is written down as it is: done, surely not done, or
//! unknown; unknown sends are sent again under the same id.
//! ```text
//!  prepare ─▶ begin ─▶ … faults … ─▶ stop ─▶ … healed … ─▶ finale ─▶ finish
//!  groups     clients                          fresh sends, everything read once more
//! ```
//!
//! # Reading order
//! [`WorkloadOptions`] → [`Workload`] → `cast` → `stage` → `sender`, `inbox` → `finale`.

mod amend;
mod authz;
mod cast;
mod changes;
mod chat;
mod clock;
mod device;
mod ended;
mod finale;
mod group;
mod inbox;
mod lease;
mod notebook;
mod options;
mod owed;
mod pace;
mod pages;
mod peeks;
mod process;
mod reader;
mod register;
mod seen;
mod sender;
mod seq;
mod site;
mod stage;
mod stores;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

use cast::Cast;
use notebook::Notebook;
use pace::Pace;
use stage::Stage;

pub use clock::Clock;
pub use options::{KEYS_MAX, RATE_MAX, USERS_MAX, USERS_MIN, WorkloadKind, WorkloadOptions};
pub use site::{Mint, Site};

/// Groups that are made at the same time.
const CREATING: usize = 8;
/// How long clients may take to end what they do when they are told to stop: their longest requests, twice.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// Clients of the sequence service per counter.
const COUNTING_PER_COUNTER: usize = 1;
/// Intruders.
const INTRUDERS: usize = 2;

/// A workload that is under way.
#[derive(Debug)]
pub struct Workload {
    stage: Arc<Stage>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

impl Workload {
    /// Draws everybody, and makes the run's files in the folder.
    pub fn new(options: WorkloadOptions, site: Site, clock: Clock, folder: &Path) -> anyhow::Result<Workload> {
        options.check().map_err(anyhow::Error::msg)?;
        let (stop, stopped) = watch::channel(false);
        let stage = Arc::new(Stage {
            cast: Cast::new(&options),
            pace: Pace::new(options.rate),
            notebook: Notebook::create(folder)?,
            processes: Arc::default(),
            changes: Mutex::default(),
            peeks: Mutex::default(),
            findings: Mutex::default(),
            stop: stopped,
            options,
            site,
            clock,
        });
        Ok(Workload { stage, stop, clients: JoinSet::new() })
    }

    /// Makes the groups. Nothing should be hurt meanwhile.
    pub async fn prepare(&self) -> anyhow::Result<()> {
        let groups = 0..self.stage.cast.groups.len();
        let made = stream::iter(groups.map(|place| group::create(&self.stage, place)));
        made.buffer_unordered(CREATING).try_collect::<Vec<()>>().await.map(drop)
    }

    /// Sets all clients going.
    pub fn begin(&mut self) {
        let stage = Arc::clone(&self.stage);
        let cast = &stage.cast;
        for (place, (one, other)) in cast.pairs.iter().enumerate() {
            self.spawn(chat::pair(Arc::clone(&stage), 2 * place, one.clone(), other.clone()));
            self.spawn(chat::pair(Arc::clone(&stage), 2 * place + 1, other.clone(), one.clone()));
        }
        for (place, group) in cast.groups.iter().enumerate() {
            for (number, user) in group.stayers.iter().take(2).enumerate() {
                self.spawn(chat::stayer(Arc::clone(&stage), 3 * place + number, user.clone(), group.key));
            }
            if let Some(user) = group.comers.first() {
                self.spawn(chat::comer(Arc::clone(&stage), 3 * place + 2, user.clone(), group.key));
            }
            self.spawn(group::change(Arc::clone(&stage), place));
        }
        for place in 0..cast.counters.len() * COUNTING_PER_COUNTER {
            self.spawn(seq::run(Arc::clone(&stage), place));
        }
        if stage.options.kind.plays(WorkloadKind::Inbox) {
            for (place, user) in cast.users.iter().enumerate() {
                self.spawn(inbox::run(Arc::clone(&stage), 2 * place, user.clone(), "phone"));
                if place % 3 == 0 {
                    self.spawn(inbox::run(Arc::clone(&stage), 2 * place + 1, user.clone(), "tablet"));
                }
            }
        }
        for (place, user) in cast.registers.iter().enumerate() {
            self.spawn(register::write(Arc::clone(&stage), place, user.clone()));
            self.spawn(register::read(Arc::clone(&stage), 2 * place, user.clone()));
            self.spawn(register::read(Arc::clone(&stage), 2 * place + 1, user.clone()));
        }
        for place in 0..cast.amending.len() {
            self.spawn(amend::run(Arc::clone(&stage), place));
        }
        if stage.options.kind.plays(WorkloadKind::Lease) {
            self.spawn(lease::run(Arc::clone(&stage)));
        }
        if stage.options.kind.plays(WorkloadKind::Authz) {
            for place in 0..INTRUDERS {
                self.spawn(authz::run(Arc::clone(&stage), place));
            }
        }
    }

    /// Stops all clients; returns when each has ended its last operation.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        let ended = async { while self.clients.join_next().await.is_some() {} };
        tokio::time::timeout(STOP_PATIENCE, ended).await.context("stop the clients: they do not come to an end")
    }

    /// After everything is healed: shows that the cluster serves, and reads everything once more from everywhere.
    pub async fn finale(&self, patience: Duration) -> anyhow::Result<()> {
        finale::play(&self.stage, patience).await
    }

    /// Everything is on disk. What clients found by themselves, such as a send that is never answered.
    pub fn finish(self) -> anyhow::Result<Vec<String>> {
        self.stage.notebook.finish()?;
        Ok(std::mem::take(&mut *self.stage.findings.lock()))
    }

    /// Operations so far: `ok`, `fail`, `info`.
    pub fn counts(&self) -> [u64; 3] {
        self.stage.notebook.counts()
    }

    /// Everybody whose inbox may hold something.
    pub fn users(&self) -> Vec<String> {
        let inboxes = !(self.stage.cast.pairs.is_empty() && self.stage.cast.groups.is_empty());
        let users = self.stage.cast.users.iter().filter(|_| inboxes);
        let amending = self.stage.cast.amending.iter().flat_map(|(author, reader)| [author, reader]);
        users.chain(&self.stage.cast.registers).chain(amending).map(ToString::to_string).collect()
    }

    fn spawn(&mut self, client: impl Future<Output = ()> + Send + 'static) {
        self.clients.spawn(client);
    }
}
