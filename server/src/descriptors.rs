//! Descriptors: how many files and sockets a process may hold, and holds.
//!
//! Many systems start a process with 1,024 and let it take more. A store holds one for each file of its databases and
//! each connection, a gateway one for each WebSocket; a process without any left can neither write nor answer.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Below this a store may be short of them some day: a thousand files of 64 MiB, and room for connections.
const AMPLE: u64 = 4_096;

/// Raises the process's limit as far as it may, says what it is, and has `/metrics` say so.
pub(crate) fn raise(registry: &mut Registry) {
    let before = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: before.maximum, maximum: before.maximum };
    if before != wanted
        && let Err(error) = setrlimit(Resource::Nofile, wanted)
    {
        warn!(%error, "the limit of descriptors cannot be raised");
    }
    match limit() {
        Some(descriptors) if descriptors < AMPLE => {
            warn!(descriptors, ample = AMPLE, "few descriptors: raise the hard limit (LimitNOFILE, ulimit -Hn)");
        }
        descriptors => info!(descriptors, "room for files and sockets"),
    }
    registry.register_collector(Box::new(Descriptors));
}

/// `None`: there is none.
fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// How many the process holds; `None` where the system does not say.
fn open() -> Option<u64> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    // One is the folder itself.
    Some(entries.count().saturating_sub(1) as u64)
}

/// Reads both when somebody asks.
#[derive(Debug)]
struct Descriptors;

impl Collector for Descriptors {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let unit = None::<&Unit>;
        if let Some(open) = open() {
            let gauge =
                encoder.encode_descriptor("process_open_fds", "Files and sockets held", unit, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(open).unwrap_or(i64::MAX)).encode(gauge)?;
        }
        let help = "Files and sockets that may be held";
        let gauge = encoder.encode_descriptor("process_max_fds", help, unit, MetricType::Gauge)?;
        ConstGauge::new(limit().and_then(|limit| i64::try_from(limit).ok()).unwrap_or(i64::MAX)).encode(gauge)
    }
}
