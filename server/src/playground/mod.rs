//! Playground: a whole cluster on this machine, as real processes: for trying things, for the replay, for killing.
//!
//! It makes a development CA and a signing key, picks ports once and keeps them, starts the processes, makes the
//! cluster, waits until every slot is held, and then does only what its control socket says. It restarts nobody by
//! itself. Its children hold a pipe from it and end when it does, however it ends.
//!
//! # Reading order
//! [`run`] → [`layout`] → [`node`] → [`control`].

mod card;
mod control;
mod layout;
mod node;

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use seriatim_mtls::Mtls;
use seriatim_proto::limits;
use seriatim_proto::playground::PlaygroundRole;

use crate::{admin, ops, stop};
use control::Control;
use layout::Layout;
use node::Nodes;

/// Longest wait until everything serves.
const PATIENCE: Duration = Duration::from_secs(60);

/// `seriatim playground`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PlaygroundOptions {
    /// folder of everything: data, keys, logs, control socket; used again if it is there
    #[arg(long)]
    pub(crate) data: PathBuf,
    /// stores
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=9))]
    pub(crate) stores: u32,
    /// logic nodes; 0 for stores alone
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=9))]
    pub(crate) logic: u32,
    /// gateways; they need logic nodes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=9))]
    pub(crate) gateways: u32,
    /// data groups
    #[arg(long, default_value_t = limits::GROUPS_DEFAULT)]
    pub(crate) groups: u32,
    /// free bytes of a store's file system below which it refuses writes; for this start only
    #[arg(long, default_value_t = limits::DISK_RESERVE_BYTES)]
    pub(crate) disk_reserve_bytes: u64,
    /// PEM file of the CAs whose certificates devices may show instead of a token; for this start only
    #[arg(long, value_name = "FILE")]
    pub(crate) client_ca: Option<PathBuf>,
    /// no TLS between the processes; for this start only
    #[arg(long)]
    pub(crate) insecure_plaintext: bool,
    /// end when stdin ends
    #[arg(long)]
    pub(crate) exit_with_parent: bool,
}

/// Runs a playground until it is told to stop.
pub(crate) async fn run(options: PlaygroundOptions) -> anyhow::Result<()> {
    anyhow::ensure!(
        options.logic > 0 || options.gateways == 0,
        "start gateways without a logic node: --gateways 0, or --logic 1"
    );
    let began = Instant::now();
    let stop = stop::wait(options.exit_with_parent);
    let mut layout = Layout::open(&options)?;
    let nodes = Arc::new(Nodes::new(&layout)?);
    let control = Control::bind(&layout.data, Arc::clone(&nodes))?;
    tokio::pin!(stop);
    let started = tokio::select! {
        started = start(&mut layout, &nodes) => started,
        () = &mut stop => { nodes.stop_all().await; return Ok(()) }
    };
    if let Err(error) = started {
        nodes.stop_all().await;
        return Err(error);
    }
    layout.remember_as_last();
    if std::io::stdout().is_terminal() {
        ops::print_line(&card::text(&layout, began.elapsed()))?;
    } else {
        ops::print_line(&card::ready_line(&layout)?)?;
    }
    tokio::select! {
        result = control.run() => result?,
        () = nodes.watch() => {}
        () = &mut stop => {}
    }
    nodes.stop_all().await;
    Ok(())
}

/// Stores first, then the cluster, then the rest.
async fn start(layout: &mut Layout, nodes: &Nodes) -> anyhow::Result<()> {
    nodes.start_all(PlaygroundRole::Store).await?;
    let stores = layout.addresses(PlaygroundRole::Store);
    let cluster = admin::init_cluster(nodes.mtls(), &stores, layout.file.groups).await?;
    layout.save_cluster(cluster)?;
    nodes.start_all(PlaygroundRole::Logic).await?;
    nodes.start_all(PlaygroundRole::Gateway).await?;
    if layout.addresses(PlaygroundRole::Logic).is_empty() {
        // Nobody would claim a slot.
        return Ok(());
    }
    wait_until_held(nodes.mtls(), &stores, layout.file.groups).await
}

/// Waits until every slot has a holder, as the stores have applied it.
async fn wait_until_held(mtls: &Mtls, stores: &[String], groups: u32) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Together: replicas move, so that no store may have all groups.
        let mut slots = BTreeSet::new();
        let mut last_error = None;
        for store in stores {
            match admin::slots_held(mtls, store, groups).await {
                Ok(seen) => slots.extend(seen.into_iter().filter(|(_, held)| *held).map(|(slot, _)| slot)),
                Err(error) => last_error = Some(error),
            }
        }
        let held = slots.len();
        if held == usize::from(limits::SLOTS) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let waited = format!("bring all slots under a holder: {held} of {} after {PATIENCE:?}", limits::SLOTS);
            return Err(last_error.map_or_else(
                || anyhow::anyhow!("no store refused").context(waited.clone()),
                |error| error.context(waited.clone()),
            ))
            .context("start the playground");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
