//! Connections: what an idle device costs a gateway in memory and processor, and what a handshake costs.
//!
//! The gateway is one process of a running playground; what it takes is read from `/proc`. Devices are connections of
//! this process that say Hello and then nothing; QUIC keeps them alive. Each loopback address stands for a few thousand
//! devices, so that the gateway's limits per address stay as they are.
//!
//! # Reading order
//! [`run`] → `handshakes` → `idle_devices`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use seriatim_client::raw::{RawTarget, RawTransport};
use tokio::time::Instant;

use crate::device::{Device, KEEP_ALIVE, Site};
use crate::gateway::Gateway;

/// Handshakes at the same time: fewer than what has the gateway ask for proof of address.
const AT_ONCE: usize = 64;
/// Devices of one address: below the half of a gateway's limit per address, from which on it asks for proof.
const ADDRESS_DEVICES: usize = 4_000;

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// devices that are connected and idle at the same time
    pub connections: usize,
    /// how long they are watched
    pub idle: Duration,
    /// handshakes of each kind
    pub handshakes: usize,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// devices that were connected and idle at the same time
    pub connections: usize,
    /// resident memory of the gateway for each of them
    pub bytes_per_connection: u64,
    /// processor time of the gateway while all were idle, in percent of a core
    pub idle_cpu_percent: f64,
    /// full handshakes, each with its Hello and Welcome, for each second of the gateway's processor time
    pub handshakes_per_s: f64,
    /// the same, where the device had a ticket
    pub resumed_per_s: f64,
    /// full handshakes a second by the clock, with the devices on the same cores
    pub handshakes_per_s_by_the_clock: f64,
    /// devices that connected and said Hello a second by the clock, while there were more and more
    pub arrivals_per_s_by_the_clock: f64,
    /// how often each device says that it lives, in seconds
    pub keep_alive_s: u64,
}

/// Runs everything on a running playground.
///
/// # Errors
/// The playground cannot be used, or a device was refused or lost its connection.
pub async fn run(playground: &Path, load: Load) -> anyhow::Result<Report> {
    ensure!(load.connections > 0 && load.handshakes > 0 && !load.idle.is_zero(), "nothing would be measured");
    let site = Site::read(playground)?;
    let gateway = Gateway::of(playground).await?;
    // What the first ones leave behind, buffers and tables, is no part of what others cost.
    handshakes(&site, &gateway, load.handshakes.min(500), false).await.context("warm up")?;
    let full = handshakes(&site, &gateway, load.handshakes, false).await.context("full handshakes")?;
    let resumed = handshakes(&site, &gateway, load.handshakes, true).await.context("resumed handshakes")?;

    let before = gateway.memory_bytes()?;
    let began = Instant::now();
    let mut devices = idle_devices(&site, load.connections).await?;
    let arrived = began.elapsed();
    let memory = gateway.memory_bytes()?.saturating_sub(before);
    let (cpu, began) = (gateway.cpu()?, Instant::now());
    tokio::time::sleep(load.idle).await;
    let idle_cpu = (gateway.cpu()? - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    // Who was not kept alive is no idle device but a dead one.
    for (place, device) in devices.iter_mut().enumerate() {
        if let Some(event) = device.heard() {
            bail!("device {place} of {} heard {event:?} while it was idle", load.connections);
        }
    }
    Ok(Report {
        connections: devices.len(),
        bytes_per_connection: memory / devices.len() as u64,
        idle_cpu_percent: idle_cpu * 100.0,
        handshakes_per_s: load.handshakes as f64 / full.cpu.as_secs_f64(),
        resumed_per_s: load.handshakes as f64 / resumed.cpu.as_secs_f64(),
        handshakes_per_s_by_the_clock: load.handshakes as f64 / full.clock.as_secs_f64(),
        arrivals_per_s_by_the_clock: load.connections as f64 / arrived.as_secs_f64(),
        keep_alive_s: KEEP_ALIVE.as_secs(),
    })
}

/// What some handshakes took.
struct Took {
    /// the gateway's processor time
    cpu: Duration,
    clock: Duration,
}

/// Devices that go once they are welcomed.
async fn handshakes(site: &Site, gateway: &Gateway, count: usize, resumes: bool) -> anyhow::Result<Took> {
    let target = site.target(1, resumes)?;
    if resumes {
        // The tickets come with the first one's Welcome; those who use one up get others.
        drop(site.enter(&target, RawTransport::Quic, "handshake").await?);
    }
    let (cpu, began) = (gateway.cpu()?, Instant::now());
    let arrivals = (0..count).map(|_| site.enter(&target, RawTransport::Quic, "handshake"));
    let mut devices = stream::iter(arrivals).buffer_unordered(AT_ONCE);
    while let Some(device) = devices.next().await {
        drop(device?);
    }
    Ok(Took { cpu: gateway.cpu()? - cpu, clock: began.elapsed() })
}

/// So many devices, each of another user.
async fn idle_devices(site: &Site, count: usize) -> anyhow::Result<Vec<Device>> {
    let addresses = count.div_ceil(ADDRESS_DEVICES);
    let targets = (0..addresses).map(|nth| site.target(u8::try_from(nth + 1)?, false));
    let targets: Vec<RawTarget> = targets.collect::<anyhow::Result<_>>()?;
    let names: Vec<String> = (0..count).map(|place| format!("idle-{place}")).collect();
    let arrivals = names
        .iter()
        .enumerate()
        .map(|(place, name)| site.enter(&targets[place / ADDRESS_DEVICES], RawTransport::Quic, name));
    stream::iter(arrivals).buffer_unordered(AT_ONCE).try_collect().await
}
