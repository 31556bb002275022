//! People: everybody's devices: what they have, when they come online, and what they write down.
//!
//! | user, by first appearance | has |
//! |---|---|
//! | every | a phone, connected from the start |
//! | every 5th | also a tablet; every other tablet comes online at the end and catches up on everything |
//! | every 7th | a phone that is offline until its user's first own message is due; it catches up by sync, then subscribes |

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use seriatim_client::{Client, Endpoint, Entry, EntryBody};
use seriatim_proto::ids::{Seq, UserId};
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinHandle;

use super::control::Control;
use super::ledger::Ledger;
use crate::record::{Received, Recorder, body_text, device_file};
use crate::script::Script;

/// Name in the gateways' certificate.
const GATEWAY_NAME: &str = "localhost";
/// A request is repeated under one id for so long. Longer than any fault here, so that no send ends unknown while
/// the one behind it goes on.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Entries that a device notes before it writes them down.
const NOTED_MAX: usize = 4_096;
/// Longest wait for a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);

/// How devices connect and where they write.
pub(crate) struct Setup {
    pub(crate) control: Arc<Control>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) folder: PathBuf,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) gateways: Vec<SocketAddr>,
    pub(crate) endpoint: Endpoint,
}

/// One user.
pub(crate) struct Person {
    pub(crate) user: UserId,
    place: usize,
    /// entries that each of his devices gets in the end
    expected: u64,
    phone: OnceCell<Device>,
}

/// A connected device.
pub(crate) struct Device {
    pub(crate) client: Client,
    name: String,
    expected: u64,
    seen: Arc<AtomicU64>,
    receiver: JoinHandle<anyhow::Result<()>>,
}

/// How a device begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// subscribes from the first entry
    Subscribe,
    /// reads what is there page by page, then subscribes
    CatchUp,
}

/// A connected device of a user.
pub(crate) async fn client(
    control: &Control,
    endpoint: &Endpoint,
    gateway: SocketAddr,
    user: &UserId,
    device: &str,
) -> anyhow::Result<Client> {
    let builder = Client::builder(gateway, GATEWAY_NAME).endpoint(endpoint).token(control.token(user)?).device(device);
    let connected = builder.request_timeout(PATIENCE).connect_timeout(CONNECT_PATIENCE).connect().await;
    connected.with_context(|| format!("failed to connect {user}/{device}"))
}

impl Person {
    /// Everybody in the script.
    pub(crate) fn all(script: &Script) -> Vec<Person> {
        let mut expected = vec![0u64; script.users.len()];
        for talk in &script.talks {
            for member in &talk.members {
                expected[*member] += talk.lines.len() as u64 + u64::from(talk.is_group());
            }
        }
        let people = script.users.iter().zip(expected).enumerate();
        people
            .map(|(place, (user, expected))| Person { user: user.clone(), place, expected, phone: OnceCell::new() })
            .collect()
    }

    /// Is his phone offline at first?
    pub(crate) fn comes_late(&self) -> bool {
        self.place % 7 == 6
    }

    /// Has he a tablet that is connected from the start?
    pub(crate) fn has_tablet(&self) -> bool {
        self.owns_tablet() && self.place % 10 == 4
    }

    /// Has he a tablet that is switched on at the end?
    pub(crate) fn has_late_tablet(&self) -> bool {
        self.owns_tablet() && self.place % 10 == 9
    }

    fn owns_tablet(&self) -> bool {
        Script::devices(self.place).contains(&"tablet")
    }

    /// Is his phone connected?
    pub(crate) fn is_online(&self) -> bool {
        self.phone.initialized()
    }

    /// His phone; connects it if it is not.
    pub(crate) async fn phone(&self, setup: &Setup) -> anyhow::Result<&Device> {
        let begin = if self.comes_late() { Begin::CatchUp } else { Begin::Subscribe };
        self.phone.get_or_try_init(|| self.connect(setup, "phone", begin, true)).await
    }

    /// His tablet, now.
    pub(crate) async fn tablet(&self, setup: &Setup) -> anyhow::Result<Device> {
        let begin = if self.has_late_tablet() { Begin::CatchUp } else { Begin::Subscribe };
        self.connect(setup, "tablet", begin, false).await
    }

    /// Gives his phone away, to be closed.
    pub(crate) fn take_phone(&mut self) -> Option<Device> {
        self.phone.take()
    }

    async fn connect(&self, setup: &Setup, name: &str, begin: Begin, counts: bool) -> anyhow::Result<Device> {
        let gateway = setup.gateways[self.place % setup.gateways.len()];
        let client = client(&setup.control, &setup.endpoint, gateway, &self.user, name).await?;
        let seen = Arc::new(AtomicU64::new(0));
        let notebook = Notebook {
            user: self.user.clone(),
            device: name.to_owned(),
            recorder: Recorder::new(setup.folder.join(device_file(self.place, name))),
            noted: Vec::new(),
            ledger: Arc::clone(&setup.ledger),
            counts,
            seen: Arc::clone(&seen),
            position: Seq::FIRST,
        };
        let receiver = tokio::spawn(receive(client.clone(), notebook, begin, setup.stop.clone()));
        Ok(Device { client, name: format!("{}/{name}", self.user), expected: self.expected, seen, receiver })
    }
}

impl Device {
    /// Has it everything?
    pub(crate) fn is_complete(&self) -> bool {
        self.seen.load(Ordering::Relaxed) >= self.expected
    }

    /// Waits until it wrote everything down, after the stop.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.receiver.await.context("a device's task ended")?.with_context(|| format!("device {}", self.name))
    }
}

/// What a device writes down.
struct Notebook {
    user: UserId,
    device: String,
    recorder: Recorder,
    /// not in the file yet: text is made of them when the cluster has nothing else to do, or when they are many
    noted: Vec<(Entry, &'static str)>,
    ledger: Arc<Ledger>,
    /// does a message count as delivered to the user when this device has it?
    counts: bool,
    seen: Arc<AtomicU64>,
    /// behind the last entry
    position: Seq,
}

/// Receives until the stop; then acknowledges what it has.
async fn receive(
    client: Client,
    mut notebook: Notebook,
    begin: Begin,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut from = Seq::FIRST;
    if begin == Begin::CatchUp {
        loop {
            let page = client.sync(Some(from), 0).await.context("failed to sync")?;
            let (upto, more) = (page.upto, page.more);
            for entry in page.entries {
                notebook.note(entry, "sync")?;
            }
            from = upto;
            if !more {
                break;
            }
        }
    }
    let mut inbox = client.subscribe(from, None);
    loop {
        tokio::select! {
            entry = inbox.next() => {
                let entry = entry.context("the subscription ended")?.context("failed to receive")?;
                notebook.note(entry, "push")?;
            }
            _ = stop.changed() => break,
        }
    }
    notebook.write()?;
    notebook.recorder.flush()?;
    if notebook.position > Seq::FIRST {
        client.ack(notebook.position).await.context("failed to ack")?;
    }
    client.close();
    Ok(())
}

impl Notebook {
    fn note(&mut self, entry: Entry, via: &'static str) -> anyhow::Result<()> {
        self.position = self.position.max(entry.seq.next());
        self.seen.fetch_add(1, Ordering::Relaxed);
        self.ledger.entries.fetch_add(1, Ordering::Relaxed);
        if self.counts {
            self.ledger.arrived(&entry.message_id);
        }
        self.noted.push((entry, via));
        if self.noted.len() >= NOTED_MAX { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> anyhow::Result<()> {
        for (entry, via) in self.noted.drain(..) {
            self.recorder.push(&Received {
                user: self.user.to_string(),
                device: self.device.clone(),
                seq: entry.seq.get(),
                prev_seq: entry.prev_seq.map_or(0, Seq::get),
                conversation: entry.conversation.id_for(&self.user).to_string(),
                conversation_seq: entry.conversation_seq.get(),
                kind: entry.kind.name().to_owned(),
                sender: entry.sender.to_string(),
                message_id: entry.message_id.to_string(),
                body: match &entry.body {
                    EntryBody::Here { body, .. } => Some(body_text(body)),
                    EntryBody::Erased | EntryBody::Trimmed | EntryBody::Unavailable => None,
                },
                via: via.to_owned(),
            })?;
        }
        Ok(())
    }
}
