//! Partition: flows cut on the bridge, whole or by chance, and seen to be cut by their counters.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use rand::RngExt;
use rand::rngs::StdRng;

use super::shape::{Names, Shape};
use super::{Done, Nemesis, done, targets};
use crate::cluster::{Cluster, Cut, Role};

/// Longest wait for the first packet that meets a cut: heartbeats and renewals come several times a second.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two looks at the counters.
const POLL: Duration = Duration::from_millis(20);
/// Of lost packets: enough to hurt, too little to cut.
const LOSS_PERCENT: std::ops::RangeInclusive<u8> = 5..=30;

/// A partition, or loss.
#[derive(Debug)]
pub(super) struct Partition {
    shape: Shape,
    lossy: bool,
    cut: Option<(Cut, Vec<String>)>,
}

impl Partition {
    /// Every packet of the shape's flows is dropped.
    pub(super) fn boxed(shape: Shape) -> Box<dyn Nemesis> {
        Box::new(Self { shape, lossy: false, cut: None })
    }

    /// Some packets of the shape's flows are dropped.
    pub(super) fn loss(shape: Shape) -> Box<dyn Nemesis> {
        Box::new(Self { shape, lossy: true, cut: None })
    }

    async fn lie(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Done {
        let leader = match self.shape {
            Shape::Leader => targets::leader(cluster).await.ok(),
            _ => None,
        };
        let names = Names {
            stores: cluster.names(Role::Store),
            logic: cluster.names(Role::Logic),
            gateways: cluster.names(Role::Gateway),
        };
        let lie = match self.shape.draw(&names, leader, rng) {
            Ok(lie) => lie,
            Err(why) => return Done::skipped(why),
        };
        let percent = if self.lossy { rng.random_range(LOSS_PERCENT) } else { 100 };
        // A table is loaded whole or not at all.
        let cut = match cluster.cut(&lie.flows, percent).await {
            Ok(cut) => cut,
            Err(error) => return Done::skipped(format!("{error:#}")),
        };
        let dropped = first_packet(cluster, &cut).await;
        self.cut = Some((cut, lie.targets.clone()));
        let lost = if self.lossy { format!(", {percent} % lost") } else { String::new() };
        match dropped {
            true => Done::installed(&lie.targets, lie.detail + &lost),
            false => Done::indeterminate(&lie.targets, format!("{}{lost}: no packet met it", lie.detail)),
        }
    }
}

impl Nemesis for Partition {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(self.lie(cluster, rng))
    }

    fn heal<'a>(&'a mut self, cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let Some((cut, targets)) = self.cut.take() else { return done::nothing_to_undo() };
            let mended = cluster.mend(cut).await.map(|dropped| format!("{dropped} packets were dropped"));
            Done::of(&targets, mended)
        })
    }
}

/// Does a packet meet the cut, within the patience?
async fn first_packet(cluster: &Cluster, cut: &Cut) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if cluster.packets_dropped(cut).await.is_ok_and(|dropped| dropped > 0) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
}
