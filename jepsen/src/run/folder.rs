//! Folder: where a run leaves everything, and `run.json`, which says what it was.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde_json::{Map, Value, json};

use super::{Keep, RunOptions};
use crate::check::{VERDICT_FILE, Verdict};
use crate::history::{CONVERSATION_FILE, HISTORY_FILE, INBOX_FILE, RUN_FILE};

/// Where the cluster's own files are, within a run's folder.
const CLUSTER: &str = "cluster";
/// Within the cluster's folder: what its nodes said.
const LOGS: &str = "logs";

/// A run's folder.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    about: Map<String, Value>,
}

impl RunFolder {
    /// Makes a new one below `root`.
    pub(crate) fn make(root: &Path, options: &RunOptions) -> anyhow::Result<RunFolder> {
        let began = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
        let name = format!("{}-{}-{}", stamp(began), options.workload, options.seed);
        let path = root.join(&name);
        std::fs::create_dir_all(root).with_context(|| format!("failed to make {}", root.display()))?;
        std::fs::create_dir(&path).with_context(|| format!("failed to make {}", path.display()))?;
        let path = path.canonicalize().with_context(|| format!("failed to open {}", path.display()))?;
        let mut folder = RunFolder { path, about: Map::new() };
        folder.note("run", json!(name));
        folder.note("seed", json!(options.seed));
        folder.note("options", serde_json::to_value(options).context("failed to write the options down")?);
        folder.save()?;
        Ok(folder)
    }

    /// Options of an earlier run.
    pub(crate) fn options_of(run: &Path) -> anyhow::Result<RunOptions> {
        let path = run.join(RUN_FILE);
        let text = std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
        let about: Value = serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", path.display()))?;
        let options = about.get("options").with_context(|| format!("{} has no options", path.display()))?;
        serde_json::from_value(options.clone()).with_context(|| format!("{} has other options", path.display()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The cluster's folder.
    pub(crate) fn cluster(&self) -> PathBuf {
        self.path.join(CLUSTER)
    }

    /// Something to know about the run; on disk with the next [`RunFolder::save`].
    pub(crate) fn note(&mut self, name: &str, value: Value) {
        self.about.insert(name.to_owned(), value);
    }

    /// Brings what is known to disk.
    pub(crate) fn save(&self) -> anyhow::Result<()> {
        write(&self.path, RUN_FILE, &Value::Object(self.about.clone()))
    }

    /// Keeps what the checkers said.
    pub(crate) fn keep_verdict(&self, verdict: &Verdict) -> anyhow::Result<()> {
        keep_verdict(&self.path, verdict)
    }

    /// Removes what nobody needs of a good run.
    pub(crate) fn thin_out(&self, keep: Keep) -> anyhow::Result<()> {
        if keep < Keep::Everything {
            self.drop_data()?;
        }
        if keep < Keep::Histories {
            for name in [HISTORY_FILE, INBOX_FILE, CONVERSATION_FILE] {
                let path = self.path.join(name);
                std::fs::remove_file(&path).with_context(|| format!("failed to remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Removes the nodes' data; logs stay.
    fn drop_data(&self) -> anyhow::Result<()> {
        let cluster = self.cluster();
        for entry in std::fs::read_dir(&cluster).with_context(|| format!("failed to read {}", cluster.display()))? {
            let entry = entry?;
            if entry.file_name() != LOGS && entry.file_type()?.is_dir() {
                let path = entry.path();
                std::fs::remove_dir_all(&path).with_context(|| format!("failed to remove {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// Keeps what the checkers said in a run's folder.
pub(crate) fn keep_verdict(folder: &Path, verdict: &Verdict) -> anyhow::Result<()> {
    write(folder, VERDICT_FILE, &serde_json::to_value(verdict).context("failed to write the verdict down")?)
}

fn write(folder: &Path, name: &str, value: &Value) -> anyhow::Result<()> {
    let path = folder.join(name);
    let text = serde_json::to_string_pretty(value).context("failed to make JSON")?;
    std::fs::write(&path, text + "\n").with_context(|| format!("failed to write {}", path.display()))
}

/// `20261126T040705Z`, from Unix seconds.
fn stamp(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Year, month and day, from days since 1970.
fn date(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        (days, year) = (days - length, year + 1);
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        (days, month) = (days - length, month + 1);
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_utc() {
        assert_eq!(stamp(0), "19700101T000000Z");
        assert_eq!(stamp(951_782_400), "20000229T000000Z");
        assert_eq!(stamp(1_798_761_599), "20261231T235959Z");
    }

    #[test]
    fn a_run_can_be_read_back() {
        let root = tempfile::tempdir().unwrap();
        let options = RunOptions { seed: 42, ..RunOptions::default() };
        let folder = RunFolder::make(root.path(), &options).unwrap();
        assert!(folder.path().to_str().unwrap().ends_with("-mix-42"));
        assert_eq!(RunFolder::options_of(folder.path()).unwrap(), options);
        assert!(RunFolder::options_of(root.path()).is_err());
    }

    #[test]
    fn a_good_run_keeps_its_logs_and_what_it_was_told_to_keep() {
        let root = tempfile::tempdir().unwrap();
        let folder = RunFolder::make(root.path(), &RunOptions::default()).unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["cluster/store-1", "cluster/logs"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        let files = ["cluster/store-1/log", "cluster/logs/store-1.log", HISTORY_FILE, INBOX_FILE, CONVERSATION_FILE];
        for name in files {
            std::fs::write(path(name), "").unwrap();
        }
        let left = || files.into_iter().filter(|name| path(name).exists()).count();
        folder.thin_out(Keep::Everything).unwrap();
        assert_eq!(left(), 5);
        folder.thin_out(Keep::Histories).unwrap();
        assert!(!path("cluster/store-1").exists());
        assert_eq!(left(), 4);
        folder.thin_out(Keep::Verdict).unwrap();
        assert_eq!(left(), 1);
        assert!(path("cluster/logs/store-1.log").exists() && path(RUN_FILE).exists());
    }
}
