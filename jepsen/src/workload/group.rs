//! Group: makes the groups, and lets members come and go while others write.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use seriatim_proto::ids::{MessageId, UserId};
use tracing::debug;

use super::cast::GroupCast;
use super::device::Device;
use super::stage::Stage;
use super::{changes, ended};
use crate::history::Ended;

/// How long the groups may take to come into being, before anything is hurt.
const CREATE_PATIENCE: Duration = Duration::from_secs(60);
/// Between two changes of one group.
const PAUSE_MS: std::ops::Range<u64> = 300..3_000;

/// Makes a group of all its members. Must be done before they write.
pub(crate) async fn create(stage: &Arc<Stage>, place: usize) -> anyhow::Result<()> {
    let group = &stage.cast.groups[place];
    let mut rng = stage.rng("create", place);
    let id = MessageId(rng.random());
    let mut device = Device::new(stage, group.stayers[0].clone(), &format!("maker-{place}"), &mut rng);
    let members: Vec<UserId> = group.stayers[1..].iter().chain(&group.comers).cloned().collect();
    let process = stage.process().number();
    // The first attempt may be the one that does it, whichever is answered.
    let call = stage.clock.now();
    let until = Instant::now() + CREATE_PATIENCE;
    loop {
        let failure = match device.client().await {
            Ok(client) => match client.create_group_as(id, group.key, &members).await {
                Ok(committed) => {
                    let (sender, interval) = (device.user, (call, stage.clock.now()));
                    let seq = Some(committed.seq.get());
                    stage.changes.lock().push(changes::Change { group: group.key, sender, process, interval, seq });
                    return Ok(());
                }
                Err(error) => anyhow::Error::from(error),
            },
            Err(error) => anyhow::Error::from(error),
        };
        if Instant::now() >= until {
            return Err(failure).with_context(|| format!("failed to create group {}", group.key));
        }
        debug!(error = %failure, "group not created yet");
        device.hop();
    }
}

/// Changes the members of a group, until the run is over.
///
/// These become operations of the history in the end: see [`changes`].
pub(crate) async fn change(stage: Arc<Stage>, place: usize) {
    let mut rng = stage.rng("change", place);
    let group = stage.cast.groups[place].clone();
    let mut process = stage.process();
    let mut devices: Vec<Device> = group
        .stayers
        .iter()
        .chain(&group.comers)
        .map(|user| Device::new(&stage, user.clone(), &format!("changer-{place}"), &mut rng))
        .collect();
    while stage.rest(Duration::from_millis(rng.random_range(PAUSE_MS))).await && stage.turn().await {
        let act = Change::draw(&mut rng, &group);
        let device = &mut devices[act.by];
        let Ok(client) = device.client().await else { continue };
        let call = stage.clock.now();
        let result = client.change_members(group.key, &act.add, &act.remove).await;
        let seq = result.as_ref().ok().map(|committed| committed.seq.get());
        if ended::of_write(&result) != Ended::Fail {
            let (sender, interval) = (device.user.clone(), (call, stage.clock.now()));
            let change = changes::Change { group: group.key, sender, process: process.number(), interval, seq };
            stage.changes.lock().push(change);
        }
        if let Err(error) = result {
            debug!(%error, group = %group.key, "members not changed");
            process.renew();
            device.hop();
        }
    }
}

/// One change.
#[derive(Debug)]
struct Change {
    /// place among those who stay, then those who come and go
    by: usize,
    add: Vec<UserId>,
    remove: Vec<UserId>,
}

impl Change {
    /// Somebody comes, somebody goes, both, or somebody leaves by himself. Whether he is in, nobody looks: who is in
    /// cannot join, who is out cannot leave, and the product must cope with both.
    fn draw(rng: &mut StdRng, group: &GroupCast) -> Change {
        let by = rng.random_range(0..group.stayers.len());
        let some = |rng: &mut StdRng| -> Vec<UserId> {
            let count = rng.random_range(1..=group.comers.len());
            group.comers.sample(rng, count).cloned().collect()
        };
        match rng.random_range(0..10) {
            0..4 => Change { by, add: some(rng), remove: Vec::new() },
            4..7 => Change { by, add: Vec::new(), remove: some(rng) },
            7..9 => {
                let (add, remove) = (some(rng), some(rng));
                let remove = remove.into_iter().filter(|user| !add.contains(user)).collect();
                Change { by, add, remove }
            }
            _ => {
                let leaver = rng.random_range(0..group.comers.len());
                Change { by: group.stayers.len() + leaver, add: Vec::new(), remove: vec![group.comers[leaver].clone()] }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cast::Cast;
    use super::super::options::WorkloadOptions;
    use super::*;

    #[test]
    fn only_those_who_come_and_go_are_changed() {
        let cast = Cast::new(&WorkloadOptions::default());
        let mut rng: StdRng = rand::SeedableRng::seed_from_u64(3);
        for group in &cast.groups {
            for _ in 0..200 {
                let change = Change::draw(&mut rng, group);
                assert!(change.add.len() + change.remove.len() > 0);
                assert!(change.add.iter().chain(&change.remove).all(|user| group.comers.contains(user)));
                assert!(change.add.iter().all(|user| !change.remove.contains(user)));
                assert!(change.by < group.stayers.len() + group.comers.len());
            }
        }
    }
}
