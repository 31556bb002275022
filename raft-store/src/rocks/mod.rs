//! Rocks: the only module that names RocksDB, with `watermark.rs` beside it for what must not depend on it.

pub(crate) mod group_rows;
pub(crate) mod log_db;
pub(crate) mod state_db;
