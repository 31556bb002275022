//! Run: the whole of a replay: connect, talk, kill, catch up, measure.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use seriatim_client::Endpoint;
use tokio::sync::watch;

use super::control::Control;
use super::ledger::Ledger;
use super::measure::{self, Kill};
use super::pace::Pace;
use super::people::{self, Device, Person, Setup};
use super::talk::{PIPELINE, Stage};
use super::{faults, progress};
use crate::record::{self, Measures, Recorder};
use crate::script::Script;

/// Devices that connect at the same time.
const CONNECTING: usize = 32;
/// How long devices may stand still at the end before the run is judged as it is.
const STILL: Duration = Duration::from_secs(30);

/// Longest wait for the last kill's restart when everything is said.
const FAULTS_PATIENCE: Duration = Duration::from_secs(90);

/// How a replay goes.
#[derive(Debug, Clone)]
pub struct Options {
    /// the playground's data folder
    pub playground: PathBuf,
    /// where the records go; emptied first
    pub records: PathBuf,
    /// messages offered a second; `None`: as fast as it goes
    pub rate: Option<u32>,
    /// with kills?
    pub faults: bool,
    /// conversations that run side by side
    pub window: usize,
}

/// Replays the script and leaves the records behind. Says nothing about whether it went well: that is the checker's;
/// only which processes do not run at the end, though every one that was killed was started again. A cluster that has
/// lost a store may be faster than a whole one.
pub async fn run(script: Script, options: &Options) -> anyhow::Result<Vec<String>> {
    let script = Arc::new(script);
    let messages = script.message_count() as u64;
    let control = Arc::new(Control::open(&options.playground)?);
    let gateways: Vec<_> = control.gateways().iter().map(|address| address.parse()).collect::<Result<_, _>>()?;
    ensure!(!gateways.is_empty(), "the playground has no gateway");
    let ca = std::fs::read(&control.about.ca_certificate).context("failed to read the CA certificate")?;
    let endpoint = Endpoint::new(gateways[0], &ca)?;
    not_replayed_yet(&script, &control, &endpoint, gateways[0]).await?;
    let folder = fresh(&options.records)?;
    let (stop, stopped) = watch::channel(false);
    let ledger = Arc::new(Ledger::new(&script));
    let stage = Arc::new(Stage {
        people: Person::all(&script),
        setup: Setup {
            control: Arc::clone(&control),
            ledger: Arc::clone(&ledger),
            folder: folder.join(record::RECEIVED),
            stop: stopped,
            endpoint,
            gateways,
        },
        script: Arc::clone(&script),
        ledger: Arc::clone(&ledger),
        pace: Pace::new(options.rate),
        sends: Mutex::new(Recorder::new(folder.join(record::SENDS))),
    });

    let began = Instant::now();
    let mut tablets = connect(&stage).await?;
    eprintln!(
        "{} users, {} conversations, {messages} messages; devices connected in {:.1} s",
        script.users.len(),
        script.talks.len(),
        began.elapsed().as_secs_f64()
    );
    let shown = tokio::spawn(progress::show(Arc::clone(&ledger), messages));
    let kills =
        options.faults.then(|| tokio::spawn(faults::inject(Arc::clone(&control), Arc::clone(&ledger), messages)));
    let refused = talk(&stage, options.window).await;
    let kills = match kills {
        // If talks ended early or deliveries do not come, the second kill may never become due.
        Some(kills) if refused.is_empty() => {
            let done = tokio::time::timeout(FAULTS_PATIENCE, kills).await.context("the kills did not come in time")?;
            done.context("the faults' task ended")??
        }
        Some(kills) => {
            kills.abort();
            Vec::new()
        }
        None => Vec::new(),
    };
    tablets.extend(late_tablets(&stage).await?);
    everything_arrived(&stage, &tablets).await;
    shown.abort();
    progress::end();
    for reason in refused.iter().take(5) {
        eprintln!("{reason}");
    }
    finish(stage, tablets, &stop, &kills, &folder).await?;
    control.down().await
}

/// Message ids and conversations come from the source, so a second replay would repeat the first one's: the first
/// user of the script tells, before anything is written.
async fn not_replayed_yet(
    script: &Script,
    control: &Control,
    endpoint: &Endpoint,
    gateway: SocketAddr,
) -> anyhow::Result<()> {
    let Some(user) = script.users.first() else { return Ok(()) };
    let client = people::client(control, endpoint, gateway, user, "phone").await?;
    let page = client.sync(None, 1).await.with_context(|| format!("failed to read the inbox of {user}"))?;
    client.close();
    ensure!(
        page.entries.is_empty(),
        "{user} has messages here already: a replay needs a playground that nothing was replayed into; \
         start a fresh one with `seriatim playground`, or `./scripts/run`"
    );
    Ok(())
}

/// An empty folder for the records.
fn fresh(folder: &std::path::Path) -> anyhow::Result<PathBuf> {
    let received = folder.join(record::RECEIVED);
    if received.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("failed to empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(&received).with_context(|| format!("failed to make {}", received.display()))?;
    Ok(folder.to_owned())
}

/// Everybody who is online from the start.
async fn connect(stage: &Stage) -> anyhow::Result<Vec<Device>> {
    let phones = stage.people.iter().filter(|person| !person.comes_late());
    stream::iter(phones)
        .map(|person| async { person.phone(&stage.setup).await.map(|_| ()) })
        .buffer_unordered(CONNECTING)
        .try_collect::<Vec<()>>()
        .await?;
    let tablets = stage.people.iter().filter(|person| person.has_tablet());
    stream::iter(tablets).map(|person| person.tablet(&stage.setup)).buffer_unordered(CONNECTING).try_collect().await
}

/// The tablets that were off all the time.
async fn late_tablets(stage: &Stage) -> anyhow::Result<Vec<Device>> {
    let tablets = stage.people.iter().filter(|person| person.has_late_tablet());
    stream::iter(tablets).map(|person| person.tablet(&stage.setup)).buffer_unordered(CONNECTING).try_collect().await
}

/// All talks; the reasons of those that ended early. Those with the most turns come first, since turns of a talk wait
/// for each other: begun late, a long talk would run alone at the end.
async fn talk(stage: &Arc<Stage>, window: usize) -> Vec<String> {
    let mut order: Vec<usize> = (0..stage.script.talks.len()).collect();
    order.sort_by_cached_key(|talk| Reverse(stage.script.talks[*talk].turns(PIPELINE)));
    let talks = stream::iter(order).map(|talk| {
        let stage = Arc::clone(stage);
        async move {
            let spoken = tokio::spawn(async move { stage.speak(talk).await }).await;
            spoken.context("a talk's task ended").and_then(|result| result).err().map(|error| format!("{error:#}"))
        }
    });
    talks.buffer_unordered(window.max(1)).filter_map(std::future::ready).collect().await
}

/// Waits until every device has everything, or nothing has moved for long.
async fn everything_arrived(stage: &Stage, tablets: &[Device]) {
    let (mut last, mut last_at) = (0, Instant::now());
    loop {
        let mut phones = true;
        for person in &stage.people {
            phones &= match person.phone(&stage.setup).await {
                Ok(phone) => phone.is_complete(),
                Err(_) => false,
            };
        }
        if phones && tablets.iter().all(Device::is_complete) {
            return;
        }
        let entries = stage.ledger.entries.load(Ordering::Relaxed);
        if entries != last {
            (last, last_at) = (entries, Instant::now());
        } else if last_at.elapsed() > STILL {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Stops all devices and writes the measurements.
async fn finish(
    stage: Arc<Stage>,
    tablets: Vec<Device>,
    stop: &watch::Sender<bool>,
    kills: &[Kill],
    folder: &std::path::Path,
) -> anyhow::Result<()> {
    stop.send_replace(true);
    let Ok(mut stage) = Arc::try_unwrap(stage) else { anyhow::bail!("a talk still runs") };
    let phones: Vec<Device> = stage.people.iter_mut().filter_map(Person::take_phone).collect();
    let devices = (phones.len() + tablets.len()) as u64;
    let users = phones.len() as u64;
    for device in phones.into_iter().chain(tablets) {
        if let Err(error) = device.close().await {
            eprintln!("{error:#}");
        }
    }
    stage.sends.lock().flush()?;
    let measures = Measures { devices, users, ..measure::measure(&stage.ledger.times(), kills) };
    let path = folder.join(record::MEASURES);
    std::fs::write(&path, serde_json::to_vec(&measures)?).with_context(|| format!("failed to write {}", path.display()))
}
