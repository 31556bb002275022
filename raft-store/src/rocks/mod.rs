//! Rocks: the only module that names RocksDB, with `watermark.rs` beside it for what must not depend on it.

mod files;
pub(crate) mod group_rows;
pub(crate) mod log_db;
pub(crate) mod state_db;

use std::io;

/// Does RocksDB say that files are damaged or missing, and not merely that something did not work, or that another
/// version wrote them?
pub(crate) fn is_damage(error: &rocksdb::Error) -> bool {
    says_damage(error.kind(), error.as_ref())
}

fn says_damage(kind: rocksdb::ErrorKind, what: &str) -> bool {
    let what = what.to_ascii_lowercase();
    match kind {
        rocksdb::ErrorKind::Corruption => !FOREIGN.iter().any(|said| what.contains(said)),
        rocksdb::ErrorKind::IOError => what.contains(MISSING),
        _ => false,
    }
}

/// As [`is_damage`], of a read: a sector that the disk does not give back is as lost as one that comes back wrong. Of a
/// write or an fsync the same words say only that it failed.
pub(crate) fn is_damage_on_read(error: &rocksdb::Error) -> bool {
    is_damage(error) || says_unreadable(error.kind(), error.as_ref())
}

fn says_unreadable(kind: rocksdb::ErrorKind, what: &str) -> bool {
    kind == rocksdb::ErrorKind::IOError && what.to_ascii_lowercase().contains(UNREADABLE)
}

/// As [`is_damage_on_read`], of an error that may be of RocksDB.
pub(crate) fn is_damage_io(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rocksdb::Error>()).is_some_and(is_damage_on_read)
}

/// What the operating system says of a file that is not there.
const MISSING: &str = "no such file or directory";
/// What the operating system says of a sector that cannot be read (EIO).
const UNREADABLE: &str = "input/output error";
/// What RocksDB calls corruption and means a version that it does not know. A store that was put back to an older
/// RocksDB must not take its own files for rot: it does not start until the newer one is there again.
const FOREIGN: [&str; 3] = ["unsupported", "unknown tag", "newer version"];

#[cfg(test)]
mod tests {
    use rocksdb::ErrorKind;

    use super::*;

    #[test]
    fn an_unreadable_sector_is_damage_only_to_who_reads() {
        let eio = "IO error: Input/output error: While pread offset 4096 len 4096: state.db/000012.sst";
        assert!(says_unreadable(ErrorKind::IOError, eio) && !says_damage(ErrorKind::IOError, eio));
        assert!(!says_unreadable(ErrorKind::IOError, "IO error: No space left on device"));
    }

    #[test]
    fn files_of_another_version_are_no_damage() {
        let damage = |kind, what| says_damage(kind, what);
        assert!(damage(ErrorKind::Corruption, "Corruption: block checksum mismatch: stored = 1, computed = 2"));
        assert!(damage(ErrorKind::IOError, "IO error: No such file or directory: While open a file"));
        let old = "Corruption: Corrupt or unsupported format_version: 9 in state.db/000012.sst";
        assert!(!damage(ErrorKind::Corruption, old));
        assert!(!damage(ErrorKind::Corruption, "Corruption: VersionEdit: unknown tag"));
        assert!(!damage(ErrorKind::IOError, "IO error: No space left on device"));
        assert!(!damage(ErrorKind::InvalidArgument, "Invalid argument: Column families not opened"));
    }
}
