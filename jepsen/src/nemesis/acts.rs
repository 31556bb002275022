//! Acts: what operators do on purpose: graceful restarts, one by one or all in a row, and a gateway that flaps.

use std::time::Duration;

use anyhow::Context;
use futures_util::future::BoxFuture;
use rand::rngs::StdRng;

use super::targets::{Target, pick};
use super::{Done, Nemesis, done};
use crate::cluster::{Cluster, Reservation, Role};

/// Kills and starts of a storm.
const STORM_ROUNDS: u32 = 4;
/// Longest wait between two stores of a rolling restart.
const ROLL_PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two looks at the groups.
const POLL: Duration = Duration::from_millis(200);

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Act {
    /// SIGTERM and start, of one
    Restart(Role),
    /// SIGTERM and start of every store, one after another
    RollingRestart,
    /// SIGKILL and start of one gateway, several times
    GatewayStorm,
}

/// An act; over when it is injected.
#[derive(Debug)]
pub(super) struct Acting {
    act: Act,
    // Held until it heals, so that a half-done act is completed by nobody else.
    victims: Option<Reservation>,
}

impl Acting {
    pub(super) fn boxed(act: Act) -> Box<dyn Nemesis> {
        Box::new(Self { act, victims: None })
    }
}

impl Nemesis for Acting {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let target = match self.act {
                Act::Restart(role) => Target::One(role),
                Act::RollingRestart => Target::AllStores,
                Act::GatewayStorm => Target::One(Role::Gateway),
            };
            let names = match pick(cluster, rng, target).await {
                Ok(victims) => self.victims.insert(victims).names(),
                Err(skipped) => return skipped,
            };
            let acted = match self.act {
                Act::Restart(_) => {
                    restart(cluster, &names[0]).await.map(|()| "stopped in order and started".to_owned())
                }
                Act::RollingRestart => roll(cluster, names).await,
                Act::GatewayStorm => storm(cluster, &names[0]).await,
            };
            Done::of(names, acted)
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let Some(victims) = self.victims.take() else { return done::nothing_to_undo() };
            super::kill::start_again(cluster, victims.names()).await
        })
    }
}

async fn restart(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let before = cluster.pid(name);
    cluster.stop(name).await?;
    cluster.start_node(name).await?;
    anyhow::ensure!(cluster.pid(name) != before, "restart {name}: it is still the same process");
    Ok(())
}

/// The next store only when every group is led again, as a careful operator would.
async fn roll(cluster: &Cluster, names: &[String]) -> anyhow::Result<String> {
    for name in names {
        restart(cluster, name).await?;
        all_led(cluster).await.with_context(|| format!("wait after the restart of {name}"))?;
    }
    Ok(format!("{} stores restarted, one after another", names.len()))
}

/// Waits until every group is led.
pub(super) async fn all_led(cluster: &Cluster) -> anyhow::Result<()> {
    let groups = cluster.config().groups as usize + 1;
    let led = async {
        while cluster.leaders().await.len() < groups {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(ROLL_PATIENCE, led).await.context("not every group is led")
}

async fn storm(cluster: &Cluster, name: &str) -> anyhow::Result<String> {
    for _ in 0..STORM_ROUNDS {
        cluster.kill(name).await?;
        cluster.start_node(name).await?;
    }
    Ok(format!("killed and started {STORM_ROUNDS} times"))
}
