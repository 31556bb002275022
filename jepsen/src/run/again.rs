//! Again: an earlier run's folder judged once more, from what the run left, with nothing of it forgotten.
//!
//! The files of clients are judged anew; what only the run itself saw (nodes that ended, `raftctl user verify`, findings
//! of clients) stands in `run.json`, and weighs as it did. `verdict.json` and `report.html` are written again.

use std::path::Path;

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::act::Acted;
use super::{RunOptions, folder, judge};
use crate::check::{self, CheckOptions, Verdict};
use crate::history::RUN_FILE;
use crate::report;

/// In `run.json`: nodes that ended although nobody ended them.
pub(super) const ENDED: &str = "ended_by_themselves";
/// In `run.json`: what `raftctl user verify` said.
pub(super) const VERIFY: &str = "verify";
/// In `run.json`: what must not be, and no file shows.
pub(super) const FINDINGS: &str = "findings";
/// In `run.json`: kinds of fault that the cluster could have done to it.
pub(super) const FAULTS: &str = "faults";
/// In `run.json`: why the harness broke, if it did.
pub(super) const BROKEN: &str = "broken";

/// Judges a run's folder again, and writes its verdict and its report again.
///
/// # Errors
/// Files that are missing, unreadable, or not what they should be: then nothing is judged.
pub fn check_again(folder: &Path) -> anyhow::Result<Verdict> {
    let about = about(&folder.join(RUN_FILE))?;
    let options: Option<RunOptions> = part(&about, "options")?;
    let acked_min = options.map_or_else(|| CheckOptions::default().acked_min, |options| options.acked_min());
    let mut verdict = check::check_run(folder, &CheckOptions { acked_min, ..CheckOptions::default() })?;
    let acted = Acted {
        own_ends: part(&about, ENDED)?.unwrap_or_default(),
        verification: part(&about, VERIFY)?.unwrap_or_default(),
        findings: part(&about, FINDINGS)?.unwrap_or_default(),
        ..Acted::default()
    };
    let faults: Vec<String> = part(&about, FAULTS)?.unwrap_or_default();
    judge(&acted, !faults.is_empty(), &mut verdict);
    if let Some(why) = part::<String>(&about, BROKEN)? {
        verdict.invalidate(format!("the harness broke before the run's end: {why}"));
    }
    folder::keep_verdict(folder, &verdict)?;
    report::write_report(folder, &verdict).context("write the report")?;
    Ok(verdict)
}

/// What the run says of itself; nothing if it says nothing.
fn about(path: &Path) -> anyhow::Result<Value> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
}

fn part<T: DeserializeOwned>(about: &Value, name: &str) -> anyhow::Result<Option<T>> {
    let Some(value) = about.get(name) else { return Ok(None) };
    serde_json::from_value(value.clone()).map(Some).with_context(|| format!("read `{name}` of {RUN_FILE}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::{Outcome, selftest};

    fn judged(about: &Value) -> Verdict {
        let folder = tempfile::tempdir().unwrap();
        selftest::write_sample(folder.path(), 1, None).unwrap();
        std::fs::write(folder.path().join(RUN_FILE), about.to_string()).unwrap();
        let verdict = check_again(folder.path()).unwrap();
        let kept = std::fs::read(folder.path().join("verdict.json")).unwrap();
        assert_eq!(serde_json::from_slice::<Verdict>(&kept).unwrap(), verdict);
        let page = std::fs::read_to_string(folder.path().join(report::REPORT_FILE)).unwrap();
        assert!(page.contains(&format!("<title>{}", verdict.outcome.word())), "the report is of this verdict");
        verdict
    }

    #[test]
    fn what_only_the_run_saw_is_not_forgotten() {
        assert_eq!(judged(&json!({})).outcome, Outcome::Ok);
        let end = json!([{"node": "store-1", "status": "signal: 6", "allowed": false, "log": ""}]);
        let unproved = json!({"proved": 3, "findings": [], "unproved": ["u1: unread"]});
        let found = json!({"proved": 3, "findings": ["u1: a hole"], "unproved": []});
        for (about, outcome) in [
            (json!({ENDED: end}), Outcome::Invalid),
            (json!({VERIFY: unproved}), Outcome::Invalid),
            (json!({FAULTS: ["kill-store"]}), Outcome::Invalid),
            (json!({BROKEN: "no disk"}), Outcome::Invalid),
            (json!({VERIFY: found}), Outcome::Violation),
            (json!({FINDINGS: ["L1: it does not serve"]}), Outcome::Violation),
        ] {
            assert_eq!(judged(&about).outcome, outcome, "{about}");
        }
    }

    #[test]
    fn a_run_that_says_nonsense_of_itself_is_not_judged() {
        let folder = tempfile::tempdir().unwrap();
        selftest::write_sample(folder.path(), 1, None).unwrap();
        std::fs::write(folder.path().join(RUN_FILE), json!({VERIFY: 7}).to_string()).unwrap();
        assert!(format!("{:#}", check_again(folder.path()).unwrap_err()).contains(VERIFY));
    }
}
