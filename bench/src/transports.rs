//! Transports: the three ways into a gateway side by side, in turns within one run, so that all meet the same minute.
//!
//! Devices send to themselves, which is one command and no inbox but their own: the cluster behind costs the same for
//! each way, and what differs is the way.
//!
//! # Reading order
//! [`run`] → `turn`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use serde::Serialize;
use seriatim_client::raw::RawTransport;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use tokio::time::Instant;

use crate::device::{Device, Site, message};
use crate::gateway::Gateway;

/// Devices of a turn, each of another user: enough that no user's rate comes near his limit.
const DEVICES: usize = 64;
/// Messages that one by one, by a single device, show the time of one.
const ALONE: usize = 200;
const WAYS: [(RawTransport, &str); 3] = [
    (RawTransport::Quic, "quic"),
    (RawTransport::WebTransport, "webtransport"),
    (RawTransport::WebSocket, "websocket"),
];

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// turns of each way
    pub turns: usize,
    /// messages of a turn, all devices together
    pub messages: usize,
    /// messages of a device that may be without an answer
    pub window: usize,
    /// bytes of a body
    pub body_bytes: usize,
}

/// Medians over the turns of one way.
#[derive(Clone, Debug, Serialize)]
pub struct Way {
    /// messages a second that were committed, at full speed
    pub msgs_per_s: f64,
    /// the gateway's processor time for each, microseconds
    pub gateway_cpu_us: f64,
    /// from one device's send to its answer, with nobody else there, milliseconds
    pub alone_p50_ms: f64,
    /// the same
    pub alone_p99_ms: f64,
    /// from nothing to Welcome, milliseconds
    pub connect_ms: f64,
}

/// Runs all turns on a running playground.
///
/// # Errors
/// The playground cannot be used, or a message was refused.
pub async fn run(playground: &Path, load: Load) -> anyhow::Result<BTreeMap<&'static str, Way>> {
    ensure!(load.turns > 0 && load.messages > 0 && load.window > 0, "nothing would be sent");
    let site = Site::read(playground)?;
    let gateway = Gateway::of(playground).await?;
    let started = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
    let mut turns: BTreeMap<&'static str, Vec<Way>> = BTreeMap::new();
    // The first round finds cold caches, and is not counted.
    for round in 0..=load.turns {
        for (place, (way, name)) in WAYS.into_iter().enumerate() {
            let run = started + (round * WAYS.len() + place) as u64;
            let turned = turn(&site, &gateway, load, way, run).await.with_context(|| format!("over {name}"))?;
            if round > 0 {
                turns.entry(name).or_default().push(turned);
            }
        }
    }
    Ok(turns.into_iter().map(|(name, turns)| (name, medians(&turns))).collect())
}

async fn turn(site: &Site, gateway: &Gateway, load: Load, way: RawTransport, run: u64) -> anyhow::Result<Way> {
    let target = site.target(1, false)?;
    let began = Instant::now();
    let mut first = site.enter(&target, way, &user(0)).await?;
    let connect_ms = began.elapsed().as_secs_f64() * 1e3;
    let alone = send(&mut first, &user(0), run, 0..ALONE, 1, load.body_bytes).await.context("alone")?;

    let mut devices = vec![first];
    for nth in 1..DEVICES {
        devices.push(site.enter(&target, way, &user(nth)).await?);
    }
    let each = load.messages.div_ceil(DEVICES);
    let (cpu, began) = (gateway.cpu()?, Instant::now());
    let sending = devices.iter_mut().enumerate().map(async |(nth, device)| {
        let from = ALONE + nth * each;
        send(device, &user(nth), run, from..from + each, load.window, load.body_bytes).await
    });
    try_join_all(sending).await?;
    let (took, cpu) = (began.elapsed(), gateway.cpu()? - cpu);
    let count = (each * DEVICES) as f64;
    Ok(Way {
        msgs_per_s: count / took.as_secs_f64(),
        gateway_cpu_us: cpu.as_secs_f64() * 1e6 / count,
        alone_p50_ms: percentile_ms(&alone, 50),
        alone_p99_ms: percentile_ms(&alone, 99),
        connect_ms,
    })
}

fn user(nth: usize) -> String {
    format!("transport-{nth}")
}

/// Sends these, and waits until all are committed; how long each took, sorted.
async fn send(
    device: &mut Device,
    user: &str,
    run: u64,
    places: std::ops::Range<usize>,
    window: usize,
    body_bytes: usize,
) -> anyhow::Result<Vec<Duration>> {
    let lane = device.open().await;
    let body = Bytes::from(vec![b'.'; body_bytes]);
    let (mut open, mut took) = (BTreeMap::new(), Vec::with_capacity(places.len()));
    let mut places = places.peekable();
    while places.peek().is_some() || !open.is_empty() {
        if open.len() < window
            && let Some(place) = places.next()
        {
            let sent = Instant::now();
            open.insert(device.ask(lane, message(user, run, place as u64, body.clone())).await, sent);
            continue;
        }
        match device.answer().await? {
            (id, Said::Committed(committed)) => {
                ensure!(!committed.duplicate, "a message of this run was there already");
                took.push(open.remove(&id).with_context(|| format!("an answer to nothing, {id}"))?.elapsed());
            }
            (_, other) => bail!("heard {other:?} in the place of Committed"),
        }
    }
    took.sort_unstable();
    Ok(took)
}

fn medians(turns: &[Way]) -> Way {
    let median = |of: fn(&Way) -> f64| {
        let mut values: Vec<f64> = turns.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Way {
        msgs_per_s: median(|way| way.msgs_per_s),
        gateway_cpu_us: median(|way| way.gateway_cpu_us),
        alone_p50_ms: median(|way| way.alone_p50_ms),
        alone_p99_ms: median(|way| way.alone_p99_ms),
        connect_ms: median(|way| way.connect_ms),
    }
}

/// Of times that are sorted: the smallest that so many of a hundred do not exceed (nearest rank).
fn percentile_ms(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_each_figure_by_itself() {
        let way = |msgs_per_s, connect_ms| Way {
            msgs_per_s,
            gateway_cpu_us: 1.0,
            alone_p50_ms: 2.0,
            alone_p99_ms: 3.0,
            connect_ms,
        };
        let median = medians(&[way(30.0, 1.0), way(10.0, 3.0), way(20.0, 2.0)]);
        assert_eq!((median.msgs_per_s, median.connect_ms, median.alone_p99_ms), (20.0, 2.0, 3.0));
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!((percentile_ms(&times, 50), percentile_ms(&times, 99)), (100.0, 198.0));
        assert_eq!((percentile_ms(&times[..1], 99), percentile_ms(&[], 99)), (1.0, 0.0));
    }
}
