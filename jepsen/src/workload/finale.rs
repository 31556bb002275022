//! Finale: after everything is healed, shows that the cluster serves, and reads everything once more from everywhere.
//!
//! ```text
//!  fresh sends into every conversation, through every gateway
//!  ┌▶ every conversation read ─▶ every inbox has what it is owed ─▶ every inbox and conversation read from every gateway
//!  └──── something was written meanwhile (a late attempt of long ago) ◀──┘ else: written down as the last word
//! ```
//! An attempt of unknown outcome may still land while the last reads are under way; then an inbox read before it and a
//! conversation read behind it would differ without anybody's fault. So the reads count only if nothing moved.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use seriatim_client::{Conversation, Entry};
use seriatim_proto::ids::{ConversationId, Seq, UserId};
use tracing::debug;

use super::device::Device;
use super::owed;
use super::pages::Pages;
use super::reader;
use super::seen::{Place, seen};
use super::sender::{Attempt, Sender};
use super::stage::Stage;
use super::{amend, changes, peeks, register, seq};
use crate::history::{ConversationRead, Seen};

/// Requests of the finale that are under way at the same time.
const ASKING: usize = 8;
/// Reads of everything, until nothing moved meanwhile.
const ROUNDS_MAX: u32 = 4;
/// How long one request of the finale waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at something that is not there yet.
const LOOK: Duration = Duration::from_millis(100);

/// A conversation as one of its members names it, and the member.
type Named = (UserId, Conversation);

/// Plays it; each step may take `patience`.
pub(crate) async fn play(stage: &Arc<Stage>, patience: Duration) -> anyhow::Result<()> {
    fresh_sends(stage, patience).await;
    amend::finale(stage, patience).await;
    let mut last = Last::default();
    for round in 1..=ROUNDS_MAX {
        let tails = tails(stage, patience).await;
        everything_arrived(stage, &tails, patience).await;
        last = read_everything(stage, patience).await;
        let rests = last.agrees_with(&tails) && !moved(stage, &tails, patience).await;
        if rests || round == ROUNDS_MAX {
            changes::write_down(stage, &tails);
            peeks::judge(stage, &tails);
        }
        if rests {
            debug!(round, "nothing moved meanwhile");
            break;
        }
        if round == ROUNDS_MAX {
            stage.find("L1: conversations still grew when nobody had written for long".to_owned());
        }
    }
    last.inboxes.iter().flatten().for_each(|page| stage.notebook.seen(page));
    last.conversations.iter().for_each(|read| stage.notebook.conversation(read));
    registers(stage, patience).await;
    Ok(())
}

/// Into every conversation, through every gateway.
async fn fresh_sends(stage: &Arc<Stage>, patience: Duration) {
    let until = Instant::now() + patience;
    let gateways = stage.site.gateways.len();
    let conversations = stage.cast.conversations().into_iter().enumerate();
    let sends = conversations.flat_map(|(place, named)| {
        (0..gateways).map(move |gateway| (place * gateways + gateway, gateway, named.clone()))
    });
    stream::iter(sends)
        .for_each_concurrent(ASKING, |(place, gateway, named)| fresh_send(stage, place, gateway, named, until))
        .await;
}

async fn fresh_send(stage: &Arc<Stage>, place: usize, gateway: usize, (user, to): Named, until: Instant) {
    let key = to.id_for(&user);
    let mut sender = Sender::new(stage, "fresh", place, user.clone(), to).with_patience(PATIENCE).at(gateway);
    let mut draft = None;
    let mut came_to = Attempt::Unsent;
    while Instant::now() < until {
        if draft.is_none() {
            draft = sender.draft().await;
        }
        let Some(draft) = &draft else { continue };
        came_to = sender.attempt(draft).await;
        if let Attempt::Committed(_) = came_to {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
    let (gateway, _) = &stage.site.gateways[gateway];
    stage.find(format!(
        "L2: a fresh message of {user} into {key} through {gateway} was not acked in time although everything is \
         healed; the last attempt came to {came_to:?}"
    ));
}

/// Every conversation, as a member who never leaves reads it now.
async fn tails(stage: &Arc<Stage>, patience: Duration) -> BTreeMap<ConversationId, Vec<Entry>> {
    let until = Instant::now() + patience;
    let reads = stage.cast.conversations().into_iter().enumerate().map(|(place, (user, to))| async move {
        let mut device = finale_device(stage, &user, place);
        let entries = asked(until, &mut device, async |client| reader::fetch(&client, &to, 1, 0).await).await;
        let key = to.id_for(&user);
        if entries.is_none() {
            stage.find(format!("L2: {key} could not be read by {user} in time although everything is healed"));
        }
        (key, entries.map_or_else(Vec::new, |fetched| fetched.entries))
    });
    stream::iter(reads).buffer_unordered(ASKING).collect().await
}

/// Waits until every inbox has what it is owed.
async fn everything_arrived(stage: &Arc<Stage>, tails: &BTreeMap<ConversationId, Vec<Entry>>, patience: Duration) {
    let until = Instant::now() + patience;
    let mut owed: BTreeMap<UserId, BTreeMap<ConversationId, u64>> = BTreeMap::new();
    for (conversation, entries) in tails {
        let Some(last) = entries.last().map(|entry| entry.conversation_seq.get()) else { continue };
        for (user, last) in owed::stays(conversation, entries).last_owed(last) {
            owed.entry(user).or_default().insert(conversation.clone(), last);
        }
    }
    let users = stream::iter(owed.into_iter().enumerate());
    users.for_each_concurrent(ASKING, |(place, (user, owed))| arrived(stage, place, user, owed, until)).await;
}

/// Waits for one inbox.
async fn arrived(
    stage: &Arc<Stage>,
    place: usize,
    user: UserId,
    mut owed: BTreeMap<ConversationId, u64>,
    until: Instant,
) {
    let mut device = finale_device(stage, &user, place);
    let mut from = Seq::FIRST;
    loop {
        let page = asked(until, &mut device, async |client| client.sync(Some(from), 0).await.ok()).await;
        if let Some(page) = page {
            for entry in &page.entries {
                let conversation = entry.conversation.id_for(&user);
                if owed.get(&conversation).is_some_and(|last| *last <= entry.conversation_seq.get()) {
                    owed.remove(&conversation);
                }
            }
            from = page.upto;
            if owed.is_empty() {
                return;
            }
            if page.more {
                continue;
            }
        }
        if Instant::now() >= until {
            for (conversation, last) in owed {
                stage.find(format!(
                    "L5: {conversation} up to {last} did not reach the inbox of {user} in time although everything is \
                     healed"
                ));
            }
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The last word: what everybody was given, from everywhere.
#[derive(Debug, Default)]
struct Last {
    inboxes: Vec<Vec<Seen>>,
    conversations: Vec<ConversationRead>,
}

impl Last {
    /// Did all readers of a conversation see as much as the one before them?
    fn agrees_with(&self, tails: &BTreeMap<ConversationId, Vec<Entry>>) -> bool {
        let last = |entries: &Vec<Entry>| entries.last().map(|entry| entry.conversation_seq.get());
        let tails: BTreeMap<String, Option<u64>> =
            tails.iter().map(|(key, entries)| (key.to_string(), last(entries))).collect();
        self.conversations.iter().all(|read| {
            let seen = read.entries.last().map(|entry| entry.conversation_seq);
            tails.get(&read.conversation).is_none_or(|tail| *tail == seen)
        })
    }
}

/// Every inbox and every conversation, from every gateway.
async fn read_everything(stage: &Arc<Stage>, patience: Duration) -> Last {
    let until = Instant::now() + patience;
    let gateways = 0..stage.site.gateways.len();
    let users = stage.cast.everybody().into_iter();
    let inboxes = users.flat_map(|user| gateways.clone().map(move |gateway| (user.clone(), gateway)));
    let inboxes = stream::iter(inboxes.map(|(user, gateway)| read_inbox(stage, user, gateway, until)));
    let inboxes = inboxes.buffer_unordered(ASKING).filter_map(std::future::ready).collect().await;
    let until = Instant::now() + patience;
    let conversations = stage.cast.conversations().into_iter();
    let conversations = conversations.flat_map(|(user, to)| {
        let key = to.id_for(&user);
        gateways.clone().map(move |gateway| (key.clone(), gateway))
    });
    let conversations = stream::iter(conversations.map(|(key, gateway)| read_conversation(stage, key, gateway, until)));
    let conversations = conversations.buffer_unordered(ASKING).filter_map(std::future::ready).collect().await;
    Last { inboxes, conversations }
}

async fn read_inbox(stage: &Arc<Stage>, user: UserId, gateway: usize, until: Instant) -> Option<Vec<Seen>> {
    let process = stage.process().number();
    let mut device = finale_device(stage, &user, gateway);
    while Instant::now() < until {
        let Ok(client) = device.connect().await else { continue };
        // Pages of a reading that broke off are not the last word.
        let mut pages = Vec::new();
        match (Pages { stage, client: &client, device: &device, process }).read_last(|page| pages.push(page)).await {
            Ok(_) => return Some(pages),
            Err(error) => debug!(%user, %error, "inbox not read"),
        }
        tokio::time::sleep(LOOK).await;
    }
    stage.find(format!("L2: the inbox of {user} could not be read through {} in time", device.gateway()));
    None
}

async fn read_conversation(
    stage: &Arc<Stage>,
    key: ConversationId,
    gateway: usize,
    until: Instant,
) -> Option<ConversationRead> {
    let readers = stage.cast.readers(&key);
    // Another member at every gateway.
    let user = readers[gateway % readers.len()].clone();
    let to = match &key {
        ConversationId::Direct(..) => Conversation::Peer(key.peer_of(&user).unwrap_or(&user).clone()),
        ConversationId::Group(group) => Conversation::Group(*group),
    };
    let process = stage.process();
    let mut device = finale_device(stage, &user, gateway);
    let call = stage.clock.now();
    let place = reader::Place { user: &user, conversation: &to };
    let read =
        asked(until, &mut device, async |client| reader::read(stage, &process, &client, place, 1, 0).await).await;
    let Some(entries) = read else {
        stage.find(format!("L2: {key} could not be read by {user} through {} in time", device.gateway()));
        return None;
    };
    Some(ConversationRead {
        conversation: key.to_string(),
        user: user.to_string(),
        gateway: device.gateway().to_owned(),
        call,
        ret: stage.clock.now(),
        entries: entries.iter().map(|entry| seen(entry, &user, Place::History)).collect(),
    })
}

/// Was anything written since?
async fn moved(stage: &Arc<Stage>, tails: &BTreeMap<ConversationId, Vec<Entry>>, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    let looks = stage.cast.conversations().into_iter().enumerate().map(|(place, (user, to))| async move {
        let mut device = finale_device(stage, &user, place);
        let behind = tails.get(&to.id_for(&user)).and_then(|entries| entries.last());
        let from = behind.map_or(1, |last| last.conversation_seq.next().get());
        let fetched = asked(until, &mut device, async |client| reader::fetch(&client, &to, from, 0).await).await;
        fetched.is_some_and(|fetched| !fetched.entries.is_empty())
    });
    stream::iter(looks).buffer_unordered(ASKING).any(std::future::ready).await
}

/// Where counters and cursors stand, from every gateway.
async fn registers(stage: &Arc<Stage>, patience: Duration) {
    let until = Instant::now() + patience;
    for gateway in 0..stage.site.gateways.len() {
        let process = stage.process();
        let user = UserId::new("counting-last").expect("a short plain text is a name");
        let mut device = finale_device(stage, &user, gateway).with_scopes(seq::SCOPES);
        for counter in &stage.cast.counters {
            let ask = async |client| seq::current(stage, &process, &client, counter).await.then_some(());
            if asked(until, &mut device, ask).await.is_none() {
                stage.find(format!("L2: counter {counter} was not answered through {} in time", device.gateway()));
            }
        }
        for user in &stage.cast.registers {
            let mut device = finale_device(stage, user, gateway);
            let mut seen = false;
            while !seen && Instant::now() < until {
                seen = register::look(stage, &mut device, process.number()).await;
            }
            if !seen {
                stage.find(format!("L2: the cursors of {user} were not answered through {} in time", device.gateway()));
            }
        }
    }
}

fn finale_device(stage: &Arc<Stage>, user: &UserId, gateway: usize) -> Device {
    let mut rng = stage.rng("finale", gateway);
    Device::new(stage, user.clone(), "finale", &mut rng).with_patience(PATIENCE).at(gateway)
}

/// Asks again until there is an answer, or the time is over.
async fn asked<T>(
    until: Instant,
    device: &mut Device,
    ask: impl AsyncFn(seriatim_client::Client) -> Option<T>,
) -> Option<T> {
    loop {
        if let Ok(client) = device.connect().await
            && let Some(answer) = ask(client).await
        {
            return Some(answer);
        }
        if Instant::now() >= until {
            return None;
        }
        tokio::time::sleep(LOOK).await;
    }
}
