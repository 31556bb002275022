//! Rocks: the only module that names RocksDB, with `watermark.rs` beside it for what must not depend on it.

pub(crate) mod group_rows;
pub(crate) mod log_db;
pub(crate) mod state_db;

use std::io;

/// Does RocksDB say that files are damaged or missing, and not merely that something did not work?
pub(crate) fn is_damage(error: &rocksdb::Error) -> bool {
    let missing = || error.kind() == rocksdb::ErrorKind::IOError && error.to_string().contains(MISSING);
    error.kind() == rocksdb::ErrorKind::Corruption || missing()
}

/// As [`is_damage`], of an error that may be of RocksDB.
pub(crate) fn is_damage_io(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rocksdb::Error>()).is_some_and(is_damage)
}

/// What the operating system says of a file that is not there.
const MISSING: &str = "No such file or directory";
