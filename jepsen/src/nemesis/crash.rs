//! Crash: a node that crashes by itself at a named point of the test build (`seriatim_proto::chaos`).
//!
//! It is stopped in order and started again with one point armed. Where the point is passed, it kills itself: no
//! signal from outside ever meets these few instructions. When it heals, it is started without.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::future::BoxFuture;
use rand::RngExt;
use rand::rngs::StdRng;
use seriatim_proto::chaos::Point;

use super::targets::{Target, one, pick};
use super::{Done, Nemesis, done};
use crate::cluster::{CHAOS_VARIABLE, Cluster, Reservation, Role};

/// Longest wait until the node comes by.
const PATIENCE: Duration = Duration::from_secs(8);
/// A store that is away for so long is behind a short log, and is sent a snapshot.
const PAST_LOG: Duration = Duration::from_secs(4);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(20);
/// A point that is passed all the time kills at one of so many times at most.
const ONE_IN_MAX: f64 = 1_000.0;

/// When a node comes by a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Passing {
    /// all the time, under load
    Often,
    /// so seldom that the first time must do
    Seldom,
    /// when it comes back behind the end of the log
    Behind,
}

/// A node that is to crash.
#[derive(Debug, Default)]
pub(super) struct Crash {
    armed: Option<Reservation>,
}

impl Nemesis for Crash {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let point = *one(rng, Point::ALL).expect("there are points");
            let Some((role, passing)) = place(point) else {
                return Done::skipped(format!("{} is passed by new clusters only", point.name()));
            };
            // The first passing, or any of the next hundreds.
            let often = ONE_IN_MAX.powf(rng.random::<f64>()).round() as u64;
            let one_in = if passing == Passing::Often { often } else { 1 };
            let names = match pick(cluster, rng, Target::One(role)).await {
                Ok(victims) => self.armed.insert(victims).names(),
                Err(skipped) => return skipped,
            };
            Done::of(names, crash(cluster, &names[0], (point, passing), one_in).await)
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let Some(victims) = self.armed.take() else { return done::nothing_to_undo() };
            Done::of(victims.names(), disarm(cluster, &victims.names()[0]).await)
        })
    }
}

async fn crash(
    cluster: &Cluster,
    name: &str,
    (point, passing): (Point, Passing),
    one_in: u64,
) -> anyhow::Result<String> {
    let told = cluster.config().env.iter().find(|(variable, _)| variable == CHAOS_VARIABLE);
    let told = told.map_or("", |(_, told)| told.as_str());
    let armed = format!("{told};{}=kill@1/{one_in}", point.name());
    cluster.stop(name).await?;
    if passing == Passing::Behind {
        tokio::time::sleep(PAST_LOG).await;
    }
    cluster.allow_end(name, true)?;
    let began = Instant::now();
    // It may come by before it is ready.
    let started = cluster.start_node_with(name, &[(CHAOS_VARIABLE.to_owned(), armed)]).await;
    while cluster.is_running(name) && began.elapsed() < PATIENCE {
        tokio::time::sleep(POLL).await;
    }
    if cluster.is_running(name) {
        started?;
        bail!("armed with {} at one of {one_in}, and not passed in {PATIENCE:?}", point.name());
    }
    cluster.allow_end(name, false)?;
    let end = cluster.ended_by_themselves().into_iter().rfind(|end| end.node == name);
    let end = end.with_context(|| format!("{name} is gone, and nobody saw it end"))?;
    let said = format!("chaos: killed at {}", point.name());
    if !end.log.contains(&said) {
        cluster.blame_end(name)?;
        bail!("armed with {}, it ended otherwise ({}): {}", point.name(), end.status, end.log);
    }
    Ok(format!("crashed at {} (one of {one_in}) after {:?}", point.name(), began.elapsed()))
}

/// Whatever became of it, it runs and is not armed.
async fn disarm(cluster: &Cluster, name: &str) -> anyhow::Result<String> {
    let was_armed = cluster.is_running(name);
    if was_armed {
        cluster.stop(name).await?;
        cluster.allow_end(name, false)?;
    }
    cluster.start_node(name).await?;
    ensure!(cluster.is_running(name), "{name} is gone again");
    Ok(if was_armed { "it had not crashed; started again without" } else { "started again" }.to_owned())
}

/// Who comes by a point, and when; `None`: only a replica that is born, or rotten.
fn place(point: Point) -> Option<(Role, Passing)> {
    use Passing::{Behind, Often, Seldom};
    use Point::*;
    match point {
        LogWriteBefore | LogWriteAfter | MarkWriteBefore | MarkWriteAfter | ApplyBefore | ApplyAfter
        | ApplyAnswered | AppendSend | AppendReceive | AppendAnswer | HeartbeatReceive | ProposeBefore
        | ProposeAnswered | ReadConfirmed | LeaseRenewed => Some((Role::Store, Often)),
        LogTruncate | LogPurge | VoteWriteBefore | VoteWriteBetween | VoteWriteAfter | SpillBefore | SpillAfter
        | FlushBefore | FlushAfter | SnapshotBuild | SnapshotSend | VoteReceive | TransferReceive | LeaseExpire => {
            Some((Role::Store, Seldom))
        }
        SnapshotReceive | SnapshotReceived | SnapshotIntent | SnapshotReplace | SnapshotInstalled => {
            Some((Role::Store, Behind))
        }
        ReplicaBorn | ReplicaInitialised | ReplicaRotten | ReplicaRetired | StoreSetAside => None,
        CommandsSend | CommandsOutcome | RenewSend | DeliverSend | DeliverReceive | DeliverAnswered | Push
        | CallReply => Some((Role::Logic, Often)),
        ClaimSend | ClaimApplied => Some((Role::Logic, Seldom)),
        GatewayHello | GatewayCall | GatewayReply | GatewayPush => Some((Role::Gateway, Often)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_but_those_of_a_birth_and_of_rot_can_be_crashed_at() {
        let placed = Point::ALL.iter().filter(|point| place(**point).is_some()).count();
        assert_eq!(placed, Point::ALL.len() - 5);
    }
}
