//! Register: a device's cursor as a register: one client writes rising values, others read.
//!
//! The cursor may not pass the inbox's tail, so the writer also writes messages to himself.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use seriatim_client::Conversation;
use seriatim_proto::ids::{Seq, UserId};
use tracing::debug;

use super::device::Device;
use super::ended;
use super::inbox;
use super::notebook::unanswered;
use super::sender::Sender;
use super::stage::Stage;
use crate::history::{Ended, Function, Op};

/// How long the writer waits: cursors are written once a second, those of a slot together.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks: a register is written about once a second.
const PAUSE_MS: std::ops::Range<u64> = 20..200;
/// Name of the device whose cursor it is.
const DEVICE: &str = "register";

fn key(user: &UserId) -> String {
    format!("{user}/{DEVICE}")
}

/// The one who writes, until the run is over.
pub(crate) async fn write(stage: Arc<Stage>, place: usize, user: UserId) {
    let mut rng = stage.rng("register", place);
    let mut device = Device::new(&stage, user.clone(), DEVICE, &mut rng).with_patience(PATIENCE);
    let mut notes = Sender::new(&stage, "note", place, user.clone(), Conversation::Peer(user.clone()));
    let mut process = stage.process();
    let (mut written, mut tail) = (0u64, 0u64);
    while stage.turn().await {
        let Ok(client) = device.client().await else { continue };
        if written + 1 >= tail {
            // Something must be there before it can be acknowledged.
            notes.act(true).await;
            if let Ok(status) = client.status().await {
                tail = status.tail.map_or(0, Seq::get);
            }
            continue;
        }
        // Never again below what was tried: an open write may still happen.
        written = (written + rng.random_range(1..4)).min(tail);
        let Some(cursor) = Seq::new(written) else { continue };
        let call = stage.clock.now();
        let result = client.ack(cursor).await;
        let interval = (call, stage.clock.now());
        let ended = ended::of_write(&result);
        let op = Op::new(process.number(), &key(&user), Function::Write, interval, ended);
        stage.notebook.op(&Op { seq: Some(written), ..op });
        if let Ok(answered) = &result
            && answered.get() != written
        {
            stage.find(format!("I11: the cursor of {} was set to {written}, and answered as {answered}", key(&user)));
        }
        if ended == Ended::Info {
            process.renew();
        }
        if ended != Ended::Ok && rng.random_bool(0.5) || rng.random_ratio(1, 50) {
            device.hop();
        }
    }
}

/// One who reads, until the run is over.
pub(crate) async fn read(stage: Arc<Stage>, place: usize, user: UserId) {
    let mut rng = stage.rng("look", place);
    let mut device = Device::new(&stage, user, "reader", &mut rng);
    let process = stage.process();
    while stage.rest(Duration::from_millis(rng.random_range(PAUSE_MS))).await && stage.turn().await {
        if !look(&stage, &mut device, process.number()).await && rng.random_bool(0.5) || rng.random_ratio(1, 50) {
            device.hop();
        }
    }
}

/// Reads the register once. False: there was no answer.
pub(crate) async fn look(stage: &Stage, device: &mut Device, process: u64) -> bool {
    let Ok(client) = device.client().await else { return false };
    let key = key(&device.user);
    let call = stage.clock.now();
    let result = inbox::look(&client, DEVICE).await;
    let interval = (call, stage.clock.now());
    let op = match &result {
        Ok(cursor) => Op { seq: Some(*cursor), ..Op::new(process, &key, Function::Read, interval, Ended::Ok) },
        Err(error) => {
            debug!(%error, %key, "cursor not read");
            unanswered(process, &key, Function::Read, interval)
        }
    };
    stage.notebook.op(&op);
    result.is_ok()
}
