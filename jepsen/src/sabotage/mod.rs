//! Sabotage: known bugs, brought back one by one in a test build, which the harness must catch.
//!
//! A harness that never caught a planted bug proves nothing. Each switch of [`Sabotage`] has a short scenario of its
//! own: the clients and the faults that can bring it to light. It is played twice from the same seed:
//! ```text
//!  seriatim-chaos, bug planted ──▶ scenario ──▶ checkers, raftctl user verify, own ends ──▶ a rule must be broken
//!  seriatim-chaos, no bug      ──▶ scenario ──▶ the same                                ──▶ nothing may be found
//! ```
//! Only both together count: what is found without the bug too, was not found because of it. Bugs with the same scenario
//! share its control.
//!
//! # Reading order
//! [`SabotageOptions`] → [`run`] → [`Scenario`] → `trial` → `hurt` → [`Report`].

mod hurt;
mod report;
mod scenario;
mod sighting;
mod trial;
mod wal;

use std::path::PathBuf;
use std::time::Instant;

use seriatim_proto::chaos::Sabotage;

use crate::cluster::CHAOS_PROGRAM;

pub use report::{Line, Report};
pub use scenario::Scenario;
pub use sighting::Sighting;

/// What to plant, and where.
#[derive(Clone, Debug)]
pub struct SabotageOptions {
    /// which bugs
    pub only: Vec<Sabotage>,
    /// of everything that is drawn by lot
    pub seed: u64,
    /// play each scenario without its bug too
    pub controls: bool,
    /// folder of all runs
    pub root: PathBuf,
    /// folder with `seriatim-chaos` and `raftctl`
    pub bin: PathBuf,
}

impl SabotageOptions {
    /// Refuses what cannot be run, in a sentence for people, before anything is started.
    pub fn check(&self) -> Result<(), String> {
        for program in [CHAOS_PROGRAM, "raftctl"] {
            if !self.bin.join(program).is_file() {
                let folder = self.bin.display();
                return Err(format!(
                    "there is no {program} in {folder}: build it (`cargo build --release --workspace --features seriatim/chaos --bin seriatim-chaos`), or name its folder by --bin"
                ));
            }
        }
        Ok(())
    }
}

/// Bugs by their names; all if none is named.
pub fn parse(names: &[String]) -> Result<Vec<Sabotage>, String> {
    if names.is_empty() {
        return Ok(Sabotage::ALL.to_vec());
    }
    let known = || Sabotage::ALL.iter().map(|known| known.name()).collect::<Vec<_>>().join(", ");
    let named = names.iter();
    named
        .map(|name| Sabotage::parse(name).ok_or_else(|| format!("`{name}` is no sabotage; there are {}", known())))
        .collect()
}

/// Plants one bug after another. `say` is told of each when it is done.
pub async fn run(options: &SabotageOptions, mut say: impl FnMut(&Line)) -> Report {
    let mut report = Report::default();
    for sabotage in &options.only {
        let line = tokio::select! {
            line = one(options, *sabotage, &report.lines) => line,
            _ = crate::run::interrupted() => break,
        };
        say(&line);
        report.lines.push(line);
    }
    report
}

async fn one(options: &SabotageOptions, sabotage: Sabotage, before: &[Line]) -> Line {
    let began = Instant::now();
    let scenario = Scenario::of(sabotage);
    let planted = trial::play(options, &scenario, true).await;
    let planted_s = began.elapsed().as_secs_f64();
    let began = Instant::now();
    // The same clients, faults and seed without a bug are the same, whichever bug is left out.
    let played =
        before.iter().find(|line| line.control.is_some() && Scenario::of(line.sabotage).is_played_like(&scenario));
    // What was not found needs no control.
    let (control, control_of) = match (planted.is_caught() && options.controls, played) {
        (false, _) => (None, None),
        (true, Some(line)) => (line.control.clone(), Some(line.sabotage)),
        (true, None) => (Some(trial::play(options, &scenario, false).await), None),
    };
    let control_s = began.elapsed().as_secs_f64();
    Line { sabotage, about: scenario.about, planted, planted_s, control, control_s, control_of }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bugs_are_named_and_nonsense_is_refused() {
        assert_eq!(parse(&[]).unwrap().len(), 12);
        assert_eq!(parse(&["no-fsync".to_owned()]).unwrap(), [Sabotage::NoFsync]);
        assert!(parse(&["no-fsnyc".to_owned()]).unwrap_err().contains("no-fsync"));
    }

    #[test]
    fn nothing_starts_without_the_test_build() {
        let bin = tempfile::tempdir().unwrap();
        let options = SabotageOptions {
            only: parse(&[]).unwrap(),
            seed: 1,
            controls: true,
            root: bin.path().to_owned(),
            bin: bin.path().to_owned(),
        };
        assert!(options.check().unwrap_err().contains(CHAOS_PROGRAM));
    }
}
