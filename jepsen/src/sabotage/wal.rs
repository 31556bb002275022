//! Wal: the newest file of a store's write-ahead log loses its end, and gets it back.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// Of the file, so much stays: enough for its beginning, too little for what was written last.
const STAYS_PERCENT: u64 = 50;
/// Where the whole file is kept meanwhile.
const SAVED: &str = "saved-by-the-harness";

/// Cuts it. The store must be gone.
pub(super) fn cut(folder: &Path) -> anyhow::Result<()> {
    let path = newest(folder)?;
    let saved = folder.with_file_name(SAVED);
    std::fs::copy(&path, &saved).with_context(|| format!("save {}", path.display()))?;
    let file = OpenOptions::new().write(true).open(&path).with_context(|| format!("open {}", path.display()))?;
    let length = file.metadata().context("measure the log")?.len();
    ensure!(length > 0, "{} is empty", path.display());
    file.set_len(length * STAYS_PERCENT / 100).context("cut the log")
}

/// Undoes it. The store must not have run meanwhile.
pub(super) fn mend(folder: &Path) -> anyhow::Result<()> {
    let path = newest(folder)?;
    std::fs::copy(folder.with_file_name(SAVED), &path).with_context(|| format!("restore {}", path.display())).map(drop)
}

/// The file that is written to: of those that are not empty the one with the highest number.
fn newest(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        if is_log && path.metadata()?.len() > 0 {
            found.push(path);
        }
    }
    found.into_iter().max().with_context(|| format!("find a log in {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_log_is_cut_and_mended() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log.db");
        std::fs::create_dir(&log).unwrap();
        for (name, text) in
            [("000007.log", "old"), ("000012.log", "0123456789"), ("000013.log", ""), ("000014.sst", "x")]
        {
            std::fs::write(log.join(name), text).unwrap();
        }
        cut(&log).unwrap();
        assert_eq!(std::fs::read_to_string(log.join("000012.log")).unwrap(), "01234");
        mend(&log).unwrap();
        assert_eq!(std::fs::read_to_string(log.join("000012.log")).unwrap(), "0123456789");
    }
}
