//! Faults: half-way, SIGKILL for one logic node and for the store that leads most groups; both come back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use seriatim_proto::playground::{ControlRequest, NodeState, PlaygroundRole};

use super::control::Control;
use super::ledger::Ledger;
use super::measure::Kill;

/// How long a killed process stays down.
const DOWN: Duration = Duration::from_secs(2);
/// How often the ledger is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// When the first kill comes, in parts of all messages.
const FIRST: f64 = 0.40;
/// When the second comes, once the first process is back.
const SECOND: f64 = 0.60;

/// Kills and restarts; returns what it did.
pub(crate) async fn inject(control: Arc<Control>, ledger: Arc<Ledger>, messages: u64) -> anyhow::Result<Vec<Kill>> {
    let mut kills = Vec::new();
    for (part, role) in [(FIRST, PlaygroundRole::Logic), (SECOND, PlaygroundRole::Store)] {
        let wanted = (messages as f64 * part) as u64;
        while ledger.delivered.load(Ordering::Relaxed) < wanted {
            tokio::time::sleep(LOOK).await;
        }
        let node = choose(&control, role).await?;
        let at_us = ledger.now_us();
        control.ask(&ControlRequest::Kill { node: node.clone() }).await?;
        tokio::time::sleep(DOWN).await;
        control.ask(&ControlRequest::Start { node: node.clone() }).await?;
        kills.push(Kill { node, at_us, back_us: ledger.now_us() });
    }
    Ok(kills)
}

/// The store that leads most groups; any logic node.
async fn choose(control: &Control, role: PlaygroundRole) -> anyhow::Result<String> {
    let answer = control.ask(&ControlRequest::Status).await?;
    let leads = |node: &NodeState| node.leads.as_ref().map_or(0, Vec::len);
    let running = answer.nodes.iter().filter(|node| node.role == role && node.pid.is_some());
    running.max_by_key(|node| leads(node)).map(|node| node.name.clone()).context("nobody to kill")
}
