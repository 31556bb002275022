//! Config: what a store is told at start. Read once in `main`, never looked up elsewhere.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use seriatim_mtls::Mtls;
use seriatim_proto::chaos::{self, Limit};
use seriatim_proto::limits;

/// One store process.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Where everything is kept. One process at a time; one store for ever.
    pub data_dir: PathBuf,
    /// Where the gRPC services listen. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// `host:port` under which others reach this store; `None`: the bound address.
    pub advertise: Option<String>,
    /// For development: traffic between our own processes without TLS.
    pub insecure_plaintext: bool,
    /// Certificate for other nodes. Either this or plaintext must be wanted.
    pub mtls: Option<Mtls>,
    /// Free bytes of the file system below which writes are refused.
    pub disk_reserve_bytes: u64,
    /// Bytes a second that are read in the background to find damage, half by the scrub and half to compare replicas; 0: only what is asked for is read, at the
    /// default's pace.
    pub scrub_bytes_per_s: u64,
    /// What this store fails together with, such as a rack or a zone; `None`: it fails alone.
    pub domain: Option<String>,
}

/// Bounds that are no part of any promise. Tests make these small.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// Bytes of a memtable of state.db; bounds what a restart replays.
    pub memtable_bytes: usize,
    /// Block cache of state.db.
    pub block_cache_bytes: usize,
    /// Log bytes of all groups after which state.db is flushed and logs are purged.
    pub flush_log_bytes: u64,
    /// Log entries of a group that stay after a purge.
    pub log_keep_entries: u64,
    /// Threads that run all groups: half of the cores, at most 4, since the log writer and the sockets need the rest.
    pub group_threads: usize,
    /// Time between the beginnings of two scrubs, and of two comparisons of a group's replicas.
    pub scrub_period: Duration,
    /// Time between the beginnings of two looks at what a group's tenants do not keep.
    pub retention_period: Duration,
}

impl StoreConfig {
    /// A store with the defaults for everything but its place.
    pub fn new(data_dir: PathBuf, listen: SocketAddr) -> Self {
        Self {
            data_dir,
            listen,
            advertise: None,
            insecure_plaintext: false,
            mtls: None,
            disk_reserve_bytes: limits::DISK_RESERVE_BYTES,
            scrub_bytes_per_s: limits::SCRUB_BYTES_PER_S,
            domain: None,
        }
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            memtable_bytes: 64 << 20,
            block_cache_bytes: 64 << 20,
            // A test build can be told to purge early (`seriatim_proto::chaos`).
            flush_log_bytes: chaos::limit(Limit::Flush).unwrap_or(limits::FLUSH_LOG_BYTES),
            log_keep_entries: chaos::limit(Limit::Keep).unwrap_or(limits::LOG_KEEP_ENTRIES),
            scrub_period: Duration::from_secs(limits::SCRUB_PERIOD_S),
            retention_period: Duration::from_secs(limits::RETENTION_PERIOD_S),
            group_threads: std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, 4)),
        }
    }
}
