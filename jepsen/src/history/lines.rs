//! Lines: files of records, one JSON object a line, written by many tasks and read once.
//!
//! # Failure
//! A harness that dies leaves at most one torn last line behind what was flushed; [`read_lines`] names it and refuses,
//! for half a history could hide a violation as well as make one up.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

const BUFFER_BYTES: usize = 256 << 10;

/// A file of records that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The file.
    #[error("read {}", path.display())]
    File {
        /// which
        path: PathBuf,
        /// why
        #[source]
        source: io::Error,
    },
    /// A line that is no record.
    #[error("read the record in {}, line {line}", path.display())]
    Record {
        /// in which file
        path: PathBuf,
        /// which line, from 1
        line: u64,
        /// why
        #[source]
        source: serde_json::Error,
    },
}

/// Writes records as lines. Shared by all clients of a run.
#[derive(Debug)]
pub struct HistoryWriter {
    file: Mutex<BufWriter<File>>,
}

impl HistoryWriter {
    /// A new file; one that exists is somebody's run and stays as it is.
    ///
    /// # Errors
    /// The file exists or cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::create_new(path)?;
        Ok(Self { file: Mutex::new(BufWriter::with_capacity(BUFFER_BYTES, file)) })
    }

    /// One record, whole, whoever else writes.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(&self, record: &impl Serialize) -> io::Result<()> {
        // Serialised outside of the lock: the clients must not wait for each other.
        let mut line = serde_json::to_vec(record).map_err(io::Error::other)?;
        line.push(b'\n');
        self.file.lock().write_all(&line)
    }

    /// Everything written so far is on disk.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn sync(&self) -> io::Result<()> {
        let mut file = self.file.lock();
        file.flush()?;
        file.get_ref().sync_all()
    }
}

/// Hands each record to `take` with its line, from 1. Empty lines are skipped.
///
/// # Errors
/// The file cannot be read, or a line is no record; the error names both.
pub fn for_each_line<T: DeserializeOwned>(path: &Path, mut take: impl FnMut(u64, T)) -> Result<(), LineError> {
    let failed = |source| LineError::File { path: path.to_owned(), source };
    let mut file = BufReader::with_capacity(BUFFER_BYTES, File::open(path).map_err(failed)?);
    let mut text = Vec::new();
    for line in 1u64.. {
        text.clear();
        if file.read_until(b'\n', &mut text).map_err(failed)? == 0 {
            break;
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let record = serde_json::from_slice(&text).map_err(|source| LineError::Record {
            path: path.to_owned(),
            line,
            source,
        })?;
        take(line, record);
    }
    Ok(())
}

/// All records of a file.
///
/// # Errors
/// As for [`for_each_line`].
pub fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, LineError> {
    let mut records = Vec::new();
    for_each_line(path, |_, record| records.push(record))?;
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Ended, Function, Item, Op};

    fn op(seq: u64) -> Op {
        let items = Some(vec![Item { seq, id: "a".to_owned() }]);
        Op { seq: Some(seq), items, ..Op::new(3, "direct:a:b", Function::Append, (10, 20), Ended::Ok) }
    }

    #[test]
    fn records_of_many_threads_come_back_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let writer = HistoryWriter::create(&path).unwrap();
        std::thread::scope(|scope| {
            for part in 0..4 {
                let writer = &writer;
                scope.spawn(move || (0..500).for_each(|place| writer.write(&op(part * 500 + place)).unwrap()));
            }
        });
        writer.sync().unwrap();
        let mut read: Vec<Op> = read_lines(&path).unwrap();
        read.sort_by_key(|op| op.seq);
        assert_eq!(read, (0..2_000).map(op).collect::<Vec<_>>());
        assert!(HistoryWriter::create(&path).is_err(), "a run is never overwritten");
    }

    #[test]
    fn a_torn_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let mut bytes = serde_json::to_vec(&op(1)).unwrap();
        bytes.extend_from_slice(b"\n\n{\"proc\":1,\"ke");
        std::fs::write(&path, bytes).unwrap();
        let error = read_lines::<Op>(&path).unwrap_err();
        assert!(matches!(&error, LineError::Record { line: 3, .. }), "{error}");
        assert!(error.to_string().contains("history.jsonl, line 3"), "{error}");
    }

    #[test]
    fn the_format_is_the_shared_one() {
        let text = serde_json::to_string(&op(5)).unwrap();
        let wanted = r#"{"proc":3,"key":"direct:a:b","f":"append","call":10,"ret":20,"type":"ok","seq":5,"items":[{"seq":5,"id":"a"}]}"#;
        assert_eq!(text, wanted);
    }
}
