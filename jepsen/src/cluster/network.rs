//! Network: where nodes listen, in namespaces or on loopback ports.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;

use anyhow::{Context, bail};

use super::namespaces::{self, Namespaces};
use super::switch::Switch;
use super::{NetworkKind, NetworkMode};

/// Port of every node in its own namespace.
const NODE_PORT: u16 = 7400;
/// Port of /metrics there.
const METRICS_PORT: u16 = 7401;
/// Loopback ports come from here: below what the kernel gives to outgoing connections, so that a killed node finds
/// its port free when it comes back.
const PORTS: std::ops::Range<u16> = 10_000..20_000;

/// The network of a cluster.
#[derive(Debug)]
pub(crate) enum Network {
    /// each node in a namespace of its own
    Namespaces(Namespaces),
    /// addresses and metrics addresses of all nodes
    Loopback(Vec<(SocketAddr, SocketAddr)>),
}

impl Network {
    /// Makes the network for nodes of these short names; what a switch draws by lot comes from the seed.
    pub(crate) fn make(mode: NetworkMode, seed: u64, short_names: Vec<String>) -> anyhow::Result<Network> {
        namespaces::sweep();
        let count = short_names.len();
        match mode {
            NetworkMode::Loopback => Network::loopback(count),
            NetworkMode::Namespaces => Ok(Network::Namespaces(Namespaces::bridged(short_names)?)),
            NetworkMode::Switch => Ok(Network::Namespaces(Namespaces::switched(short_names, seed)?)),
            NetworkMode::Auto => match Namespaces::bridged(short_names) {
                Ok(made) => Ok(Network::Namespaces(made)),
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "no namespaces here: loopback, without network faults"
                    );
                    Network::loopback(count)
                }
            },
        }
    }

    fn loopback(count: usize) -> anyhow::Result<Network> {
        let mut ports = Ports::new();
        let pairs = (0..count).map(|_| Ok((ports.next()?, ports.next()?)));
        Ok(Network::Loopback(pairs.collect::<anyhow::Result<_>>()?))
    }

    /// Which it became.
    pub(crate) fn kind(&self) -> NetworkKind {
        match self {
            Network::Namespaces(made) if made.switch().is_some() => NetworkKind::Switch,
            Network::Namespaces(_) => NetworkKind::Namespaces,
            Network::Loopback(_) => NetworkKind::Loopback,
        }
    }

    /// Where a node listens, and where it serves /metrics inside its namespace.
    pub(crate) fn addresses(&self, index: usize) -> (SocketAddr, SocketAddr) {
        match self {
            Network::Namespaces(made) => (
                SocketAddr::from((made.node_address(index), NODE_PORT)),
                SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT)),
            ),
            Network::Loopback(pairs) => pairs[index],
        }
    }

    /// File of a node's namespace, if it has one.
    pub(crate) fn namespace_file(&self, index: usize) -> Option<PathBuf> {
        match self {
            Network::Namespaces(made) => Some(made.file(index)),
            Network::Loopback(_) => None,
        }
    }

    /// The namespaces, where faults of the network can be made.
    pub(crate) fn namespaces(&self) -> anyhow::Result<&Namespaces> {
        match self {
            Network::Namespaces(made) => Ok(made),
            Network::Loopback(_) => bail!("the nodes share the loopback: no fault of the network can be made"),
        }
    }

    /// The switch, where packets can be delayed and spoiled.
    pub(crate) fn switch(&self) -> anyhow::Result<&Switch> {
        self.namespaces()?.switch().context("the nodes are on a bridge, which can only drop packets")
    }
}

/// Free loopback ports, each once, TCP and UDP alike.
struct Ports {
    next: u16,
    left: u16,
}

impl Ports {
    fn new() -> Self {
        let count = u32::from(PORTS.end - PORTS.start);
        // Several harnesses of one machine start at different places.
        let spread = u16::try_from(std::process::id().wrapping_mul(89) % count).expect("below a u16 range's length");
        Self { next: PORTS.start + spread, left: PORTS.end - PORTS.start }
    }

    fn next(&mut self) -> anyhow::Result<SocketAddr> {
        while self.left > 0 {
            self.left -= 1;
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.next);
            self.next = if self.next + 1 == PORTS.end { PORTS.start } else { self.next + 1 };
            if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
                return Ok(address);
            }
        }
        None.context("find a free loopback port")
    }
}
