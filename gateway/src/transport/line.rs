//! Line: what a connection says of itself to operators, asked for only when they do.

use std::net::SocketAddr;
use std::time::Duration;

use quinn::Connection;

use crate::metrics::Traffic;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Line {
    end: End,
    pub(crate) traffic: Traffic,
}

#[derive(Clone)]
enum End {
    Quic(Connection),
    Tcp(SocketAddr),
}

impl Line {
    pub(crate) fn quic(connection: &Connection, traffic: &Traffic) -> Self {
        Self { end: End::Quic(connection.clone()), traffic: traffic.clone() }
    }

    pub(crate) fn tcp(remote: SocketAddr, traffic: &Traffic) -> Self {
        Self { end: End::Tcp(remote), traffic: traffic.clone() }
    }

    /// Where the other end is now: over QUIC it may move.
    pub(crate) fn peer(&self) -> SocketAddr {
        match &self.end {
            End::Quic(connection) => connection.remote_address(),
            End::Tcp(remote) => *remote,
        }
    }

    /// Smoothed round-trip time; TCP keeps its own to itself.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        match &self.end {
            End::Quic(connection) => Some(connection.rtt()),
            End::Tcp(_) => None,
        }
    }
}
