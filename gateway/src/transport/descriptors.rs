//! Descriptors: how many TCP connections the process can hold.
//!
//! All of QUIC is one descriptor; each WebSocket takes one of its own. A process without any left accepts nobody,
//! reads no certificate and links no logic node, so TCP stops before that.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seriatim_proto::limits;
use tracing::{info, warn};

/// Descriptors that connections leave to the rest: links to logic nodes, files, the runtime, tools.
const RESERVE: u64 = 256;

/// Raises the process's limit as far as it may, and says how many TCP connections there is room for.
pub(crate) fn tcp_connections_max() -> usize {
    let before = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: before.maximum, maximum: before.maximum };
    if before != wanted
        && let Err(error) = setrlimit(Resource::Nofile, wanted)
    {
        warn!(%error, "the limit of descriptors cannot be raised");
    }
    let limit = getrlimit(Resource::Nofile).current;
    let connections_max = room(limit);
    info!(descriptors = limit, tcp_connections = connections_max, "room for TCP connections");
    connections_max
}

/// TCP connections below a limit of descriptors; `None` is no limit. A small limit is shared by halves.
fn room(limit: Option<u64>) -> usize {
    let sessions = u64::from(limits::GATEWAY_SESSIONS_MAX);
    let room = limit.map_or(sessions, |limit| limit.saturating_sub(RESERVE).max(limit / 2).min(sessions));
    usize::try_from(room).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        assert_eq!(room(Some(1_024)), 768);
        assert_eq!(room(Some(64)), 32);
        assert_eq!(room(Some(0)), 0);
        assert_eq!(room(Some(1 << 20)), limits::GATEWAY_SESSIONS_MAX as usize);
        assert_eq!(room(None), limits::GATEWAY_SESSIONS_MAX as usize);
    }

    #[test]
    fn the_limit_is_raised_as_far_as_it_may_be() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let low = Rlimit { current: Some(512), maximum };
        setrlimit(Resource::Nofile, low).unwrap();
        let connections_max = tcp_connections_max();
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
        assert_eq!(connections_max, room(maximum));
    }
}
