//! Seq: numbers of the sequence service over gRPC, side by side with Redis's `INCR` on the same machine.
//!
//! Turn by turn, as in [`crate::store`]: one logic node of ours with its three stores answers from memory, and a number
//! that is answered is below a ceiling that was fsynced on a majority; Redis fsyncs every `INCR` on its one disk
//! (`appendfsync always`). Every number of ours is kept and checked to have come once.
//!
//! # Reading order
//! [`run`] → [`ours`] ([`streams`], [`unary`]), [`redis`]; [`crate::load`].

mod ours;
mod redis;
mod streams;
mod unary;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use seriatim_proto::limits;

use crate::load::{self, Numbers, Phase};
use crate::servers;
use crate::store::median;

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// an empty folder
    pub folder: PathBuf,
    /// our program
    pub seriatim: PathBuf,
    /// `redis-server`, if it is measured
    pub redis: Option<PathBuf>,
    /// times that every system is measured
    pub turns: usize,
    /// of each measurement
    pub measured: Duration,
    /// counters, asked in turn
    pub counters: u64,
    /// most calls without an answer; less is used if that is faster
    pub in_flight_max: usize,
}

/// One turn.
#[derive(Clone, Debug, Serialize)]
pub struct Turn {
    /// which, from 1
    pub turn: usize,
    /// calls for one number each on streams, answered at full speed
    pub ours_single_per_s: f64,
    /// calls in flight that suited ours best
    pub in_flight: usize,
    /// the same, each as a gRPC call of its own
    pub ours_unary_per_s: f64,
    /// `INCR`s answered at full speed
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_incr_per_s: Option<f64>,
    /// `INCR`s in flight that suited Redis best
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_in_flight: Option<usize>,
    /// numbers at full speed, as many with each call as a call may ask for
    pub batched_numbers_per_s: f64,
    /// one number a call at half of the full speed: from when it was due to its answer, microseconds
    pub p99_us: f64,
    /// as many calls, with so many numbers each that every counter uses up a largest segment a second, microseconds
    pub p999_refill_us: f64,
    /// numbers of ours that were answered and checked
    pub numbers: u64,
}

/// What came of it: medians over the turns.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// see [`Turn`]
    pub ours_single_per_s: f64,
    /// see [`Turn`]
    pub ours_unary_per_s: f64,
    /// see [`Turn`]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_incr_per_s: Option<f64>,
    /// ours for each of Redis's: the median of the turns' ratios
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_redis: Option<f64>,
    /// see [`Turn`]
    pub batched_numbers_per_s: f64,
    /// see [`Turn`]
    pub p99_us: f64,
    /// see [`Turn`]
    pub p999_refill_us: f64,
    /// times that every system was measured
    pub turns: usize,
}

/// Measures both; says each turn to `each` when it is over.
///
/// # Errors
/// A system cannot be started or refuses a call, or a number came twice; or this process is told to stop.
pub async fn run(plan: &Plan, each: impl FnMut(&Turn)) -> anyhow::Result<Report> {
    tokio::select! {
        report = measure_all(plan, each) => report,
        error = servers::told_to_stop() => Err(error),
    }
}

async fn measure_all(plan: &Plan, mut each: impl FnMut(&Turn)) -> anyhow::Result<Report> {
    ensure!(plan.turns > 0 && plan.counters > 0, "nothing would be measured");
    ensure!(plan.in_flight_max >= load::IN_FLIGHT_LEAST, "nothing would be measured");
    let mut turns = Vec::new();
    for number in 1..=plan.turns {
        let folder = |name: &str| {
            let folder = plan.folder.join(format!("{name}-{number}"));
            std::fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
            anyhow::Ok(folder)
        };
        let mut turn = measure_ours(plan, number, &folder("ours")?).await.context("our sequence service")?;
        if let Some(program) = &plan.redis {
            let mut system = redis::Redis::start(program, &folder("redis")?, plan).await.context("Redis")?;
            let mut numbers = Numbers::default();
            let in_flight = load::calibrate(&mut system, &mut numbers, plan.in_flight_max).await.context("Redis")?;
            let times = load::run(&mut system, &mut numbers, full(plan, in_flight)).await.context("Redis")?;
            system.stop().await?;
            (turn.redis_incr_per_s, turn.redis_in_flight) = (Some(times.per_s()), Some(in_flight));
        }
        each(&turn);
        turns.push(turn);
    }
    Ok(report(&turns))
}

fn full(plan: &Plan, in_flight: usize) -> Phase {
    Phase { in_flight, rate: None, warm_up: plan.measured / 5, measured: plan.measured }
}

async fn measure_ours(plan: &Plan, turn: usize, folder: &std::path::Path) -> anyhow::Result<Turn> {
    let mut ours = ours::Ours::start(&plan.seriatim, folder, plan.counters).await?;
    let mut numbers = Numbers::default();
    let mut unary = unary::Unary::open(&mut ours).await?;
    let in_flight = load::calibrate(&mut unary, &mut numbers, plan.in_flight_max).await?;
    let alone = load::run(&mut unary, &mut numbers, full(plan, in_flight)).await?;
    drop(unary);
    let mut streams = streams::Streams::open(&mut ours).await?;
    let in_flight = load::calibrate(&mut streams, &mut numbers, plan.in_flight_max).await?;
    let single = load::run(&mut streams, &mut numbers, full(plan, in_flight)).await?;
    let half = Phase { in_flight: plan.in_flight_max, rate: Some(single.per_s() / 2.0), ..full(plan, in_flight) };
    let quiet = load::run(&mut streams, &mut numbers, half).await?;
    streams.ask_for(refilling(plan.counters, single.per_s() / 2.0));
    let refill = load::run(&mut streams, &mut numbers, half).await?;
    streams.ask_for(limits::NEXT_NUMBERS_MAX);
    let batched = load::run(&mut streams, &mut numbers, full(plan, in_flight)).await?;
    drop(streams);
    let checked = ours.given.check()?;
    ours.stop().await?;
    Ok(Turn {
        turn,
        ours_single_per_s: single.per_s(),
        in_flight,
        ours_unary_per_s: alone.per_s(),
        redis_incr_per_s: None,
        redis_in_flight: None,
        batched_numbers_per_s: batched.per_s() * f64::from(limits::NEXT_NUMBERS_MAX),
        p99_us: quiet.percentile_ms(99.0) * 1e3,
        p999_refill_us: refill.percentile_ms(99.9) * 1e3,
        numbers: checked,
    })
}

fn report(turns: &[Turn]) -> Report {
    let of = |value: fn(&Turn) -> Option<f64>| median(turns.iter().filter_map(value).collect());
    let ours = |value| of(value).unwrap_or_default();
    Report {
        ours_single_per_s: ours(|turn| Some(turn.ours_single_per_s)),
        ours_unary_per_s: ours(|turn| Some(turn.ours_unary_per_s)),
        redis_incr_per_s: of(|turn| turn.redis_incr_per_s),
        ratio_redis: of(|turn| Some(turn.ours_single_per_s / turn.redis_incr_per_s?)),
        batched_numbers_per_s: ours(|turn| Some(turn.batched_numbers_per_s)),
        p99_us: ours(|turn| Some(turn.p99_us)),
        p999_refill_us: ours(|turn| Some(turn.p999_refill_us)),
        turns: turns.len(),
    }
}

/// Numbers of a call at so many calls a second, for every counter to use up a largest segment each second. Segments are
/// sized to last ten seconds, so a counter never fetches faster but beyond the largest.
fn refilling(counters: u64, calls_per_s: f64) -> u32 {
    let numbers = counters as f64 * f64::from(limits::SEGMENT_SEQS_MAX) / calls_per_s;
    (numbers.ceil() as u32).clamp(1, limits::NEXT_NUMBERS_MAX)
}
