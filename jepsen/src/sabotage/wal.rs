//! Wal: the newest file of a store's write-ahead log loses its end, and the store gets all of its files back.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// Of the file, so much stays: enough for its beginning, too little for what was written last.
const STAYS_PERCENT: u64 = 50;
/// What the name of the folder ends with where a store's files are kept meanwhile.
const SAVED: &str = "saved-by-the-harness";

/// Saves a store's files, and cuts its log. The store must be gone.
pub(super) fn cut(data: &Path) -> anyhow::Result<()> {
    let saved = data.with_added_extension(SAVED);
    copy(data, &saved).with_context(|| format!("save {}", data.display()))?;
    let path = newest(&data.join("log.db"))?;
    let file = OpenOptions::new().write(true).open(&path).with_context(|| format!("open {}", path.display()))?;
    let length = file.metadata().context("measure the log")?.len();
    ensure!(length > 0, "{} is empty", path.display());
    file.set_len(length * STAYS_PERCENT / 100).context("cut the log")
}

/// Undoes it. The store must be gone, and must have told nobody anything meanwhile: it forgets what it did.
pub(super) fn mend(data: &Path) -> anyhow::Result<()> {
    std::fs::remove_dir_all(data).with_context(|| format!("remove {}", data.display()))?;
    std::fs::rename(data.with_added_extension(SAVED), data).with_context(|| format!("restore {}", data.display()))
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
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
    fn the_newest_log_is_cut_and_all_files_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("store-1");
        let log = data.join("log.db");
        std::fs::create_dir_all(&log).unwrap();
        for (name, text) in
            [("000007.log", "old"), ("000012.log", "0123456789"), ("000013.log", ""), ("000014.sst", "x")]
        {
            std::fs::write(log.join(name), text).unwrap();
        }
        std::fs::write(data.join("watermark"), "promised").unwrap();
        cut(&data).unwrap();
        assert_eq!(std::fs::read_to_string(log.join("000012.log")).unwrap(), "01234");
        // As a store does that runs.
        std::fs::write(log.join("000015.log"), "new").unwrap();
        std::fs::write(data.join("watermark"), "lowered").unwrap();
        mend(&data).unwrap();
        assert_eq!(std::fs::read_to_string(log.join("000012.log")).unwrap(), "0123456789");
        assert_eq!(std::fs::read_to_string(data.join("watermark")).unwrap(), "promised");
        assert!(!log.join("000015.log").exists());
    }
}
