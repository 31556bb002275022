//! Store: durable appends with three replicas, side by side with JetStream and etcd on the same machine.
//!
//! Turn by turn: a system starts in an empty folder, finds the number of appends in flight that suits it best, is
//! measured at full speed and at half of it, and stops before the next one starts. So each has the machine to itself, and
//! a slow minute of the machine hits all alike. Numbers are medians of the turns; ratios are medians of the turns' ratios.
//!
//! # Reading order
//! [`run`] → [`ours`], [`jetstream`], [`etcd`]; [`crate::load`], [`crate::servers`].

mod etcd;
mod jetstream;
mod ours;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use rand::Rng as _;
use serde::Serialize;

use crate::load::{self, Numbers, Phase, System, Times};
use crate::servers::{self, Used};

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// an empty folder, whose file system is measured too
    pub folder: PathBuf,
    /// our program
    pub seriatim: PathBuf,
    /// `nats-server`, if it is measured
    pub nats_server: Option<PathBuf>,
    /// `etcd`, if it is measured
    pub etcd: Option<PathBuf>,
    /// times that every system is measured
    pub turns: usize,
    /// of each measurement
    pub measured: Duration,
    /// bytes of a body
    pub body_bytes: usize,
    /// conversations, subjects, or prefixes of keys
    pub namespaces: u64,
    /// our data groups
    pub groups: u32,
    /// JetStream's streams: each is a Raft group
    pub streams: usize,
    /// most appends without an answer; less is used if that is faster
    pub in_flight_max: usize,
}

impl Plan {
    fn bodies(&self) -> Bodies {
        Bodies::new(self.body_bytes)
    }
}

/// Bodies that do not compress, without a copy of each.
#[derive(Clone, Debug)]
pub(crate) struct Bodies {
    noise: Bytes,
    bytes: usize,
}

impl Bodies {
    fn new(bytes: usize) -> Self {
        let mut noise = vec![0; NOISE_BYTES + bytes];
        rand::rng().fill_bytes(&mut noise);
        Self { noise: noise.into(), bytes }
    }

    fn of(&self, number: u64) -> Bytes {
        let from = (number.wrapping_mul(2_654_435_761) % NOISE_BYTES as u64) as usize;
        self.noise.slice(from..from + self.bytes)
    }
}

/// One system in one turn.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// `ours`, `jetstream` or `etcd`
    pub system: &'static str,
    /// which turn, from 1
    pub turn: usize,
    /// appends in flight that suited it best
    pub in_flight: usize,
    /// at full speed
    pub acked_per_s: f64,
    /// at full speed, until the answer
    pub full_p50_ms: f64,
    /// the same
    pub full_p99_ms: f64,
    /// at half of that, offered evenly: from when an append was due to its answer
    pub p50_ms: f64,
    /// the same
    pub p99_ms: f64,
    /// processor time of the three servers for each append at full speed
    pub cpu_us_per_append: f64,
    /// bytes that one of the servers gave to the disk for each append at full speed
    pub device_bytes_per_append: f64,
    /// ours: rows that a store's apply spilled to RocksDB for each append; those written again meanwhile count once
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_per_append: Option<f64>,
    /// ours: bytes of the log for each append
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_bytes_per_append: Option<f64>,
    /// the disk just before: the median of small appends with fdatasync
    pub fsync_ms: f64,
}

/// What came of it: medians over the turns.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// at full speed
    pub ours_acked_per_s: f64,
    /// at full speed
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jetstream_acked_per_s: Option<f64>,
    /// at full speed
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_acked_per_s: Option<f64>,
    /// ours for each of JetStream's
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_jetstream: Option<f64>,
    /// ours for each of etcd's
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_etcd: Option<f64>,
    /// ours at half load
    pub p50_ms: f64,
    /// ours at half load
    pub p99_ms: f64,
    /// JetStream at half of its load
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jetstream_p99_ms: Option<f64>,
    /// etcd at half of its load
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_p99_ms: Option<f64>,
    /// ours, see [`Measured`]
    pub rows_per_append: f64,
    /// ours, see [`Measured`]
    pub log_bytes_per_append: f64,
    /// ours, see [`Measured`]
    pub device_bytes_per_append: f64,
    /// ours, see [`Measured`]
    pub cpu_us_per_append: f64,
    /// of all turns
    pub fsync_ms: f64,
    /// times that every system was measured
    pub turns: usize,
}

/// Measures all systems; says each measurement to `each` when it is there.
///
/// # Errors
/// A system cannot be started or refuses an append; or this process is told to stop.
pub async fn run(plan: &Plan, each: impl FnMut(&Measured)) -> anyhow::Result<Report> {
    tokio::select! {
        report = measure_all(plan, each) => report,
        error = servers::told_to_stop() => Err(error),
    }
}

async fn measure_all(plan: &Plan, mut each: impl FnMut(&Measured)) -> anyhow::Result<Report> {
    ensure!(plan.turns > 0 && plan.body_bytes > 0 && plan.namespaces > 0, "nothing would be measured");
    ensure!(
        plan.groups > 0 && plan.streams > 0 && plan.in_flight_max >= load::IN_FLIGHT_LEAST,
        "nothing would be measured"
    );
    let mut all = Vec::new();
    for turn in 1..=plan.turns {
        let folder = |name: &str| {
            let folder = plan.folder.join(format!("{name}-{turn}"));
            std::fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
            anyhow::Ok(folder)
        };
        // Who comes first changes with the turns.
        for place in 0..3 {
            let measured = match (place + turn) % 3 {
                0 => Some(measure_ours(plan, turn, &folder("ours")?).await.context("our stores")?),
                1 => match &plan.nats_server {
                    Some(program) => {
                        Some(measure_jetstream(plan, turn, program, &folder("jetstream")?).await.context("JetStream")?)
                    }
                    None => None,
                },
                _ => match &plan.etcd {
                    Some(program) => Some(measure_etcd(plan, turn, program, &folder("etcd")?).await.context("etcd")?),
                    None => None,
                },
            };
            if let Some(measured) = measured {
                each(&measured);
                all.push(measured);
            }
        }
    }
    Ok(report(&all, plan.turns))
}

async fn measure_ours(plan: &Plan, turn: usize, folder: &Path) -> anyhow::Result<Measured> {
    let fsync_ms = fsync_ms(folder)?;
    let mut system = ours::Ours::start(&plan.seriatim, folder, plan).await?;
    let pids = system.pids();
    let mut numbers = Numbers::default();
    let in_flight = load::calibrate(&mut system, &mut numbers, plan.in_flight_max).await?;
    let calibrated = numbers.count();
    let rows = system.counter("seriatim_store_state_rows_written_total").await?;
    let bytes = system.counter("seriatim_store_proposals_bytes_total").await?;
    let mut measured = measure("ours", turn, &mut system, &mut numbers, plan, in_flight, &pids).await?;
    let appends = numbers.count() - calibrated;
    let rows = system.counter("seriatim_store_state_rows_written_total").await? - rows;
    let bytes = system.counter("seriatim_store_proposals_bytes_total").await? - bytes;
    measured.rows_per_append = Some(rows / appends as f64 / pids.len() as f64);
    measured.log_bytes_per_append = Some(bytes / appends as f64);
    measured.fsync_ms = fsync_ms;
    system.stop().await?;
    clear(folder)?;
    Ok(measured)
}

async fn measure_jetstream(plan: &Plan, turn: usize, program: &Path, folder: &Path) -> anyhow::Result<Measured> {
    let fsync_ms = fsync_ms(folder)?;
    let mut system = jetstream::JetStream::start(program, folder, plan).await?;
    let pids = system.pids();
    let mut numbers = Numbers::default();
    let in_flight = load::calibrate(&mut system, &mut numbers, plan.in_flight_max).await?;
    let mut measured = measure("jetstream", turn, &mut system, &mut numbers, plan, in_flight, &pids).await?;
    measured.fsync_ms = fsync_ms;
    system.stop().await?;
    clear(folder)?;
    Ok(measured)
}

async fn measure_etcd(plan: &Plan, turn: usize, program: &Path, folder: &Path) -> anyhow::Result<Measured> {
    let fsync_ms = fsync_ms(folder)?;
    let mut system = etcd::Etcd::start(program, folder, plan).await?;
    let pids = system.pids();
    let mut numbers = Numbers::default();
    let in_flight = load::calibrate(&mut system, &mut numbers, plan.in_flight_max).await?;
    let mut measured = measure("etcd", turn, &mut system, &mut numbers, plan, in_flight, &pids).await?;
    measured.fsync_ms = fsync_ms;
    system.stop().await?;
    clear(folder)?;
    Ok(measured)
}

async fn measure(
    name: &'static str,
    turn: usize,
    system: &mut impl System,
    numbers: &mut Numbers,
    plan: &Plan,
    in_flight: usize,
    pids: &[u32],
) -> anyhow::Result<Measured> {
    let (warm_up, measured) = (plan.measured / 5, plan.measured);
    let (before, numbered) = (Used::by(pids)?, numbers.count());
    let full = load::run(system, numbers, Phase { in_flight, rate: None, warm_up, measured }).await?;
    let (used, appends) = (Used::by(pids)?.since(before), (numbers.count() - numbered) as f64);
    ensure!(full.acked > 0, "nothing was acked");
    let rate = Some(full.per_s() / 2.0);
    let half: Times =
        load::run(system, numbers, Phase { in_flight: plan.in_flight_max, rate, warm_up, measured }).await?;
    Ok(Measured {
        system: name,
        turn,
        in_flight,
        acked_per_s: full.per_s(),
        full_p50_ms: full.percentile_ms(50.0),
        full_p99_ms: full.percentile_ms(99.0),
        p50_ms: half.percentile_ms(50.0),
        p99_ms: half.percentile_ms(99.0),
        cpu_us_per_append: used.cpu.as_secs_f64() * 1e6 / appends,
        device_bytes_per_append: used.written_bytes as f64 / appends / pids.len() as f64,
        rows_per_append: None,
        log_bytes_per_append: None,
        fsync_ms: 0.0,
    })
}

fn report(all: &[Measured], turns: usize) -> Report {
    let of = |system: &str, value: fn(&Measured) -> f64| {
        let values: Vec<f64> = all.iter().filter(|measured| measured.system == system).map(value).collect();
        median(values)
    };
    let ratio = |peer: &str| {
        let pairs = (1..=turns).filter_map(|turn| {
            let of = |system: &str| all.iter().find(|measured| measured.system == system && measured.turn == turn);
            Some(of("ours")?.acked_per_s / of(peer)?.acked_per_s)
        });
        median(pairs.collect())
    };
    let ours = |value| of("ours", value).unwrap_or_default();
    Report {
        ours_acked_per_s: ours(|measured| measured.acked_per_s),
        jetstream_acked_per_s: of("jetstream", |measured| measured.acked_per_s),
        etcd_acked_per_s: of("etcd", |measured| measured.acked_per_s),
        ratio_jetstream: ratio("jetstream"),
        ratio_etcd: ratio("etcd"),
        p50_ms: ours(|measured| measured.p50_ms),
        p99_ms: ours(|measured| measured.p99_ms),
        jetstream_p99_ms: of("jetstream", |measured| measured.p99_ms),
        etcd_p99_ms: of("etcd", |measured| measured.p99_ms),
        rows_per_append: ours(|measured| measured.rows_per_append.unwrap_or_default()),
        log_bytes_per_append: ours(|measured| measured.log_bytes_per_append.unwrap_or_default()),
        device_bytes_per_append: ours(|measured| measured.device_bytes_per_append),
        cpu_us_per_append: ours(|measured| measured.cpu_us_per_append),
        fsync_ms: median(all.iter().map(|measured| measured.fsync_ms).collect()).unwrap_or_default(),
        turns,
    }
}

/// The middle one, or the lower of the two; `None` of none.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// The disk of this minute: the median time of small appends to a file with fdatasync.
fn fsync_ms(folder: &Path) -> anyhow::Result<f64> {
    let path = folder.join("fsync");
    let mut file = std::fs::File::create(&path).with_context(|| format!("failed to make {}", path.display()))?;
    let mut times = Vec::with_capacity(FSYNCS);
    for _ in 0..FSYNCS {
        file.write_all(&[7; 4_096])?;
        let began = Instant::now();
        file.sync_data()?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    std::fs::remove_file(&path)?;
    median(times).context("no time")
}

/// Gives the space of a turn back, but for the logs.
fn clear(folder: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            std::fs::remove_dir_all(&path).with_context(|| format!("failed to remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Bodies begin anywhere in so many random bytes.
const NOISE_BYTES: usize = 1 << 20;
/// Looks at the disk.
const FSYNCS: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(system: &'static str, turn: usize, acked_per_s: f64) -> Measured {
        Measured {
            system,
            turn,
            in_flight: 64,
            acked_per_s,
            full_p50_ms: 0.0,
            full_p99_ms: 0.0,
            p50_ms: turn as f64,
            p99_ms: 0.0,
            cpu_us_per_append: 0.0,
            device_bytes_per_append: 0.0,
            rows_per_append: None,
            log_bytes_per_append: None,
            fsync_ms: 0.0,
        }
    }

    #[test]
    fn a_ratio_is_the_median_of_the_turns_and_not_that_of_medians() {
        let ours = [100.0, 40.0, 90.0].into_iter().zip(1..).map(|(per_s, turn)| measured("ours", turn, per_s));
        let etcd = [10.0, 2.0, 30.0].into_iter().zip(1..).map(|(per_s, turn)| measured("etcd", turn, per_s));
        let all: Vec<_> = ours.chain(etcd).collect();
        let report = report(&all, 3);
        assert_eq!((report.ours_acked_per_s, report.etcd_acked_per_s), (90.0, Some(10.0)));
        assert_eq!((report.ratio_etcd, report.p50_ms), (Some(10.0), 2.0));
        assert_eq!((report.jetstream_acked_per_s, report.ratio_jetstream), (None, None));
    }

    #[test]
    fn a_median_of_none_is_none() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0]), Some(1.0));
    }

    #[test]
    fn bodies_have_their_length_and_differ() {
        let bodies = Bodies::new(256);
        assert!((0..1_000).all(|number| bodies.of(number).len() == 256));
        assert_ne!(bodies.of(1), bodies.of(2));
    }
}
