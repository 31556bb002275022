//! End to end: direct messages from a device over QUIC to another user's device, counted and timed where they arrive.
//!
//! Two phases over the same pairs of devices: as many messages as go, then an offered load. In the second one a message
//! is timed from the moment at which it was due, so that a stall counts for every message that it holds up (the
//! "coordinated omission" of Gil Tene). Every receiver checks that each message comes once and in its sender's order.
//!
//! # Reading order
//! [`run`] → [`Pair`] → [`Phase`].

use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use seriatim_client::{
    Client, Committed, Conversation, Endpoint, Entry, EntryBody, RequestError, Subscription, Ticket,
};
use seriatim_proto::ids::{Seq, TenantId, UserId};
use seriatim_proto::playground::{FILE, Playground, PlaygroundRole};
use seriatim_proto::token::Minter;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Longest wait for a connection, an answer, or the next message at a receiver.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes at the beginning of each body: its number within the phase, and when it was due in nanoseconds.
const STAMP_BYTES: usize = 16;
/// Fewest bytes of a body.
pub const BODY_BYTES_MIN: usize = STAMP_BYTES;

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// pairs of devices, one sending to the other
    pub pairs: usize,
    /// sends of one pair that may be without an answer
    pub window: usize,
    /// bytes of a body, at least [`BODY_BYTES_MIN`]
    pub body_bytes: usize,
    /// messages of each phase before it is measured, all pairs together
    pub warm_up: usize,
    /// messages at full speed, all pairs together
    pub messages: usize,
    /// messages offered a second in the second phase, all pairs together
    pub rate: u32,
    /// how long that is measured, in seconds
    pub seconds: u32,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// messages a second that were committed and received, at full speed
    pub msgs_per_s: f64,
    /// at full speed, from the send to the receiver's device, milliseconds
    pub full_p50_ms: f64,
    /// the same
    pub full_p99_ms: f64,
    /// at the offered load, from the moment a message was due to the receiver's device, milliseconds
    pub deliver_p50_ms: f64,
    /// the same
    pub deliver_p99_ms: f64,
    /// at the offered load, until the sender had its answer, milliseconds
    pub commit_p50_ms: f64,
    /// the same
    pub commit_p99_ms: f64,
    /// messages a second that were offered
    pub offered_per_s: u32,
    /// messages of both phases with their warm-ups: each was committed and came once, in order
    pub messages: usize,
}

/// A sender's device and its receiver's.
struct Pair {
    sender: Client,
    to: Conversation,
    inbox: Subscription,
    /// keeps the subscription's connection
    _receiver: Client,
}

/// A measured load.
#[derive(Clone, Copy)]
struct Phase {
    began: Instant,
    window: usize,
    body_bytes: usize,
    /// messages of each pair
    count: usize,
    /// of these, how many come before it is measured
    warm_up: usize,
    /// between two messages of a pair, if they are offered
    every: Option<Duration>,
}

/// Times of one pair in a phase.
#[derive(Default)]
struct Times {
    /// until the answer
    commits: Vec<Duration>,
    /// until the receiver had it
    deliveries: Vec<Duration>,
    /// when the first measured one was sent, and the last one came
    first: Option<Instant>,
    last: Option<Instant>,
}

/// Runs both phases on a running playground.
///
/// # Errors
/// The playground cannot be used, a send was refused, or a message was lost, doubled or reordered.
pub async fn run(playground: &Path, load: Load) -> anyhow::Result<Report> {
    ensure!(load.body_bytes >= BODY_BYTES_MIN, "a body of {} bytes: at least {BODY_BYTES_MIN}", load.body_bytes);
    ensure!(load.pairs > 0 && load.window > 0 && load.rate > 0 && load.seconds > 0, "nothing would be sent");
    let mut pairs = connect(playground, load.pairs).await?;
    let per_pair = |messages: usize| messages.div_ceil(load.pairs);
    let phase = |messages: usize, every| Phase {
        began: Instant::now() + Duration::from_millis(100),
        window: load.window,
        body_bytes: load.body_bytes,
        count: per_pair(load.warm_up) + per_pair(messages),
        warm_up: per_pair(load.warm_up),
        every,
    };
    let full = phase(load.messages, None);
    let (full_count, full_times) = (full.count, measure(&mut pairs, full).await.context("at full speed")?);
    let every = Duration::from_secs(1).mul_f64(load.pairs as f64 / f64::from(load.rate));
    let offered = phase(load.rate as usize * load.seconds as usize, Some(every));
    let offered_count = offered.count;
    let offered_times = measure(&mut pairs, offered).await.context("at the offered load")?;

    let first = full_times.iter().filter_map(|times| times.first).min().context("nothing was measured")?;
    let last = full_times.iter().filter_map(|times| times.last).max().context("nothing was measured")?;
    let measured: usize = full_times.iter().map(|times| times.deliveries.len()).sum();
    let full_deliveries = sorted(&full_times, |times| &times.deliveries);
    let deliveries = sorted(&offered_times, |times| &times.deliveries);
    let commits = sorted(&offered_times, |times| &times.commits);
    Ok(Report {
        msgs_per_s: measured as f64 / (last - first).as_secs_f64(),
        full_p50_ms: percentile_ms(&full_deliveries, 50.0),
        full_p99_ms: percentile_ms(&full_deliveries, 99.0),
        deliver_p50_ms: percentile_ms(&deliveries, 50.0),
        deliver_p99_ms: percentile_ms(&deliveries, 99.0),
        commit_p50_ms: percentile_ms(&commits, 50.0),
        commit_p99_ms: percentile_ms(&commits, 99.0),
        offered_per_s: load.rate,
        messages: (full_count + offered_count) * load.pairs,
    })
}

async fn connect(playground: &Path, count: usize) -> anyhow::Result<Vec<Pair>> {
    let about = playground.join(FILE);
    let about = std::fs::read(&about).with_context(|| format!("failed to read {}", about.display()))?;
    let about: Playground = serde_json::from_slice(&about)?;
    let minter = Minter::from_private_pem(&std::fs::read(&about.token_private_key)?)?;
    let ends_at_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3_600;
    let gateways = about.nodes.iter().filter(|node| node.role == PlaygroundRole::Gateway);
    let gateways: Vec<std::net::SocketAddr> =
        gateways.map(|node| node.address.parse()).collect::<Result<_, _>>().context("a gateway's address")?;
    ensure!(!gateways.is_empty(), "the playground has no gateway");
    let endpoint = Endpoint::new(gateways[0], &std::fs::read(&about.ca_certificate)?)?;
    // Of this run: conversations that nobody has written to yet.
    let run = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let device = async |name: String, gateway: usize| {
        let token = minter.mint(TenantId(1), &UserId::new(&name)?, ends_at_s)?;
        let builder = Client::builder(gateways[gateway % gateways.len()], "localhost").endpoint(&endpoint);
        let builder = builder.token(token).device("phone").connect_timeout(PATIENCE).request_timeout(PATIENCE);
        builder.connect().await.with_context(|| format!("failed to connect {name}"))
    };
    let pairs = (0..count).map(async |place| {
        let receiver_name = format!("e2e-{run}-to-{place}");
        let sender = device(format!("e2e-{run}-from-{place}"), place).await?;
        let receiver = device(receiver_name.clone(), place + 1).await?;
        let inbox = receiver.subscribe(Seq::FIRST, None);
        anyhow::Ok(Pair { sender, to: Conversation::peer(&receiver_name)?, inbox, _receiver: receiver })
    });
    try_join_all(pairs).await
}

async fn measure(pairs: &mut [Pair], phase: Phase) -> anyhow::Result<Vec<Times>> {
    let count = pairs.len();
    // Offered messages of all pairs are spread evenly.
    let offset = |place: usize| phase.every.map_or(Duration::ZERO, |every| every.mul_f64(place as f64 / count as f64));
    let (tellers, paces): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
    let pacer = phase.every.map(|every| pace(phase, every, tellers)).transpose()?;
    let times = try_join_all(pairs.iter_mut().zip(paces).enumerate().map(async |(place, (pair, pace))| {
        let phase = Phase { began: phase.began + offset(place), ..phase };
        let sending = tokio::spawn(send_all(pair.sender.clone(), pair.to.clone(), phase, pace));
        let mut times = receive_all(&mut pair.inbox, phase).await?;
        (times.first, times.commits) = sending.await??;
        anyhow::Ok(times)
    }))
    .await?;
    if let Some(pacer) = pacer {
        // It has said everything: everything came.
        ensure!(pacer.join().is_ok(), "the pacer panicked");
    }
    Ok(times)
}

/// Says to each pair in turn when its next message is due, from a thread of its own: the runtime's timers are up to a
/// millisecond late by their making, a thread's sleep by a twentieth of that.
fn pace(phase: Phase, every: Duration, tellers: Vec<mpsc::UnboundedSender<()>>) -> anyhow::Result<JoinHandle<()>> {
    let began = phase.began.into_std();
    let pairs = tellers.len();
    let due = move |message: usize| began + every.mul_f64(message as f64 / pairs as f64);
    let run = move || {
        for message in 0..phase.count * pairs {
            std::thread::sleep(due(message).saturating_duration_since(std::time::Instant::now()));
            // A pair that has failed ends the measurement.
            let _ = tellers[message % pairs].send(());
        }
    };
    std::thread::Builder::new().name("pacer".to_owned()).spawn(run).context("start the pacer")
}

/// When the first measured one was sent, and how long each measured one took to be committed.
async fn send_all(
    client: Client,
    to: Conversation,
    phase: Phase,
    mut pace: mpsc::UnboundedReceiver<()>,
) -> anyhow::Result<(Option<Instant>, Vec<Duration>)> {
    let settled = async |place: usize, due: Instant, ticket: Ticket| (place, ticket.outcome().await, due.elapsed());
    let mut open = FuturesUnordered::new();
    let (mut first, mut commits) = (None, Vec::with_capacity(phase.count));
    let mut note = |(place, outcome, took): (usize, Result<Committed, RequestError>, Duration)| {
        outcome.with_context(|| format!("message {place}"))?;
        if place >= phase.warm_up {
            commits.push(took);
        }
        anyhow::Ok(())
    };
    for place in 0..phase.count {
        let due = phase.every.map(|every| phase.began + every.mul_f64(place as f64));
        loop {
            let is_full = open.len() >= phase.window;
            let is_due = async {
                match due {
                    Some(_) => pace.recv().await.context("the pacer ended early"),
                    None => {
                        tokio::time::sleep_until(phase.began).await;
                        Ok(())
                    }
                }
            };
            tokio::select! {
                biased;
                Some(done) = open.next() => note(done)?,
                said = is_due, if !is_full => break said?,
            }
        }
        let due = due.unwrap_or_else(Instant::now);
        if place == phase.warm_up {
            first = Some(due);
        }
        let body = stamped(place as u64, due - phase.began, phase.body_bytes);
        open.push(settled(place, due, client.submit(client.prepare(to.clone(), body)).await?));
    }
    while let Some(done) = open.next().await {
        note(done)?;
    }
    Ok((first, commits))
}

async fn receive_all(inbox: &mut Subscription, phase: Phase) -> anyhow::Result<Times> {
    let mut times = Times { deliveries: Vec::with_capacity(phase.count), ..Times::default() };
    for place in 0..phase.count {
        let entry = tokio::time::timeout_at(Instant::now().max(phase.began) + PATIENCE, inbox.next()).await;
        let entry = entry.with_context(|| format!("message {place} did not come"))?.context("the inbox ended")??;
        let (number, due) = read_stamp(&entry)?;
        ensure!(number == place as u64, "message {number} came in the place of {place}");
        let now = Instant::now();
        if place >= phase.warm_up {
            times.deliveries.push(now.saturating_duration_since(phase.began + due));
            times.last = Some(now);
        }
    }
    Ok(times)
}

fn stamped(number: u64, due: Duration, bytes: usize) -> Bytes {
    let mut body = BytesMut::with_capacity(bytes);
    body.put_u64(number);
    body.put_u64(u64::try_from(due.as_nanos()).unwrap_or(u64::MAX));
    body.resize(bytes, b'.');
    body.freeze()
}

/// The number within the phase, and when it was due behind the phase's beginning.
fn read_stamp(entry: &Entry) -> anyhow::Result<(u64, Duration)> {
    let EntryBody::Here { body, .. } = &entry.body else { bail!("{} came without its body", entry.seq) };
    let number = body.get(..8).and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
    let due = body.get(8..STAMP_BYTES).and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
    let (Some(number), Some(due)) = (number, due) else { bail!("{} is none of this run", entry.seq) };
    Ok((number, Duration::from_nanos(due)))
}

fn sorted(all: &[Times], of: impl Fn(&Times) -> &Vec<Duration>) -> Vec<Duration> {
    let mut times: Vec<Duration> = all.iter().flat_map(|times| of(times).iter().copied()).collect();
    times.sort_unstable();
    times
}

/// The smallest time that so many of a hundred do not exceed (nearest rank), 0 for none.
fn percentile_ms(sorted: &[Duration], percent: f64) -> f64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile_ms(&times, 50.0), 100.0);
        assert_eq!(percentile_ms(&times, 99.0), 198.0);
        assert_eq!(percentile_ms(&times[..1], 99.0), 1.0);
        assert_eq!(percentile_ms(&[], 50.0), 0.0);
    }

    #[test]
    fn a_body_says_which_it_is_and_when_it_was_due() {
        let body = stamped(7, Duration::from_micros(3), 256);
        assert_eq!(body.len(), 256);
        assert_eq!(&body[..STAMP_BYTES], [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0x0b, 0xb8]);
        assert_eq!(stamped(7, Duration::ZERO, BODY_BYTES_MIN).len(), BODY_BYTES_MIN);
    }
}
