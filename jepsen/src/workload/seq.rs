//! Seq: clients of the sequence service: `Next` and `Current` on a few counters.

use std::sync::Arc;

use rand::RngExt;
use seriatim_client::Client;
use seriatim_proto::ids::{CounterName, UserId};
use tracing::debug;

use super::device::Device;
use super::ended;
use super::notebook::unanswered;
use super::process::Process;
use super::stage::Stage;
use crate::history::{Ended, Function, Op};

/// What a token of these clients allows.
pub(crate) const SCOPES: &[&str] = &["sequence"];
/// Most numbers of one `Next`.
const COUNT_MAX: u32 = 4;

/// One client, until the run is over.
pub(crate) async fn run(stage: Arc<Stage>, place: usize) {
    let mut rng = stage.rng("seq", place);
    let user = UserId::new(&format!("counting-{place}")).expect("a short plain text is a name");
    let mut device = Device::new(&stage, user, "counter", &mut rng).with_scopes(SCOPES);
    // A run of numbers is as many operations side by side, each of a process of its own.
    let mut processes: Vec<Process> = (0..COUNT_MAX).map(|_| stage.process()).collect();
    while stage.turn().await {
        let Ok(client) = device.client().await else { continue };
        let counter = &stage.cast.counters[rng.random_range(0..stage.cast.counters.len())];
        let answered = match rng.random_range(0..100) {
            0..12 => current(&stage, &processes[0], &client, counter).await,
            12..20 => next(&stage, &mut processes, &client, counter, rng.random_range(2..=COUNT_MAX)).await,
            _ => next(&stage, &mut processes, &client, counter, 1).await,
        };
        if !answered && rng.random_bool(0.5) || rng.random_ratio(1, 200) {
            device.hop();
        }
    }
}

/// Asks where a counter stands. False: there was no answer.
pub(crate) async fn current(stage: &Stage, process: &Process, client: &Client, counter: &CounterName) -> bool {
    let call = stage.clock.now();
    let result = client.current_number(counter).await;
    let interval = (call, stage.clock.now());
    let number = process.number();
    let op = match &result {
        Ok(seq) => {
            let op = Op::new(number, counter.as_str(), Function::Maxseq, interval, Ended::Ok);
            Op { seq: Some(seq.get()), ..op }
        }
        Err(error) => {
            debug!(%error, %counter, "current not answered");
            unanswered(number, counter.as_str(), Function::Maxseq, interval)
        }
    };
    stage.notebook.op(&op);
    result.is_ok()
}

/// Takes numbers. False: there was no answer.
async fn next(stage: &Stage, processes: &mut [Process], client: &Client, counter: &CounterName, count: u32) -> bool {
    let call = stage.clock.now();
    let result = client.next_numbers(counter, count).await;
    let interval = (call, stage.clock.now());
    let ended = ended::of_write(&result);
    let first = result.as_ref().ok().map(|numbers| numbers.first.get());
    for (place, process) in (0u64..).zip(processes.iter_mut().take(count as usize)) {
        let op = Op::new(process.number(), counter.as_str(), Function::Next, interval, ended);
        stage.notebook.op(&Op { seq: first.map(|first| first + place), ..op });
        if ended == Ended::Info {
            process.renew();
        }
    }
    result.is_ok()
}
