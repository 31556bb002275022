//! Files: how many of its files a database holds open.
//!
//! RocksDB holds all of them unless told otherwise, which is the fastest: no file is looked up, none opened anew. A
//! process without a descriptor left cannot write any more, and a store that cannot write stops.

use rustix::process::{Resource, getrlimit};

/// With so many descriptors a store holds all its files: ten thousands of them are terabytes.
const AMPLE: u64 = 65_536;
/// Fewer than this RocksDB does not work with.
const FILES_MIN: u64 = 20;
/// Of the descriptors of a process each of its databases may take this part; the rest is for connections.
const PART: u64 = 4;

/// `max_open_files` of a database in a process of this one's limit.
pub(crate) fn most() -> i32 {
    most_of(getrlimit(Resource::Nofile).current)
}

/// -1: all.
fn most_of(descriptors: Option<u64>) -> i32 {
    match descriptors.filter(|descriptors| *descriptors < AMPLE) {
        None => -1,
        Some(descriptors) => i32::try_from((descriptors / PART).max(FILES_MIN)).expect("it is below AMPLE"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_leave_descriptors_to_connections_unless_there_are_plenty() {
        assert_eq!(most_of(Some(1_024)), 256);
        assert_eq!(most_of(Some(AMPLE - 1)), 16_383);
        assert_eq!(most_of(Some(32)), 20);
        assert_eq!((most_of(Some(AMPLE)), most_of(None)), (-1, -1));
    }
}
