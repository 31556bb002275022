//! Vacuity: a run that tried too little proves nothing, however green.

use std::path::Path;

use super::inbox::InboxEnd;
use super::log::LogEnd;
use super::verdict::{FaultCounts, Verdict};
use super::{CheckOptions, Rule};
use crate::history::{Act, Effect, Fault, LineError, NEMESIS_FILE, for_each_line};

/// Names that are spelled out in a reason.
const NAMES_MAX: usize = 3;

/// Counts the faults of a run.
pub(crate) fn count_faults(folder: &Path, verdict: &mut Verdict) -> Result<(), LineError> {
    let path = folder.join(NEMESIS_FILE);
    if !path.exists() {
        return Ok(());
    }
    for_each_line(&path, |_, fault: Fault| {
        if fault.act == Act::Inject {
            let counts: &mut FaultCounts = verdict.faults.entry(fault.kind).or_default();
            match fault.effect {
                Effect::Installed => counts.installed += 1,
                Effect::Skipped => counts.skipped += 1,
                Effect::Indeterminate => counts.indeterminate += 1,
            }
        }
    })
}

/// Adds the reasons to doubt a run.
pub(crate) fn check(
    verdict: &mut Verdict,
    logs: &[(String, LogEnd)],
    inbox: Option<&InboxEnd>,
    unknown_registers: &[String],
    options: &CheckOptions,
) {
    let mut reasons = Vec::new();
    if verdict.acked < options.acked_min {
        reasons.push(format!("{} operations were acked, fewer than {}", verdict.acked, options.acked_min));
    }
    for (kind, counts) in &verdict.faults {
        if counts.installed == 0 {
            reasons.push(format!("fault {kind} never took effect"));
        }
    }
    if !unknown_registers.is_empty() {
        reasons.push(format!("{}: the search over {} was cut off", Rule::V6, names(unknown_registers)));
    }
    if options.finals_wanted && verdict.keys.contains_key("lease") && verdict.fenced_writes == 0 {
        reasons.push("nobody wrote under a fence that was over".to_owned());
    }
    if options.finals_wanted {
        let unread: Vec<String> =
            logs.iter().filter(|(_, end)| end.acked && !end.read_in_full).map(|(key, _)| key.clone()).collect();
        if !unread.is_empty() {
            reasons.push(format!("no read of all of {} after the last append", names(&unread)));
        }
        if let Some(inbox) = inbox {
            check_inbox(inbox, &mut reasons);
        }
    }
    verdict.vacuous.extend(reasons);
}

fn check_inbox(inbox: &InboxEnd, reasons: &mut Vec<String>) {
    if !inbox.unsynced.is_empty() {
        reasons.push(format!("no whole final sync of {}", names(&inbox.unsynced)));
    }
    if !inbox.unread.is_empty() {
        reasons.push(format!("no final reading of {} by a member who may see all of it", names(&inbox.unread)));
    }
    if inbox.bodies_missing > 0 {
        reasons.push(format!("the final sync lacks {} bodies", inbox.bodies_missing));
    }
}

/// A few of them, and how many more.
fn names(all: &[String]) -> String {
    let shown = all.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>().join(", ");
    if all.len() > NAMES_MAX { format!("{shown} and {} others", all.len() - NAMES_MAX) } else { shown }
}
