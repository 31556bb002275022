//! Config: the shape of a cluster under test.

use std::path::PathBuf;

/// What to start, and where.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// how many stores
    pub stores: u32,
    /// how many stores the cluster is made of, all if there are not so many; the others join at once
    pub founders: u32,
    /// how many logic nodes
    pub logic: u32,
    /// how many gateways
    pub gateways: u32,
    /// data groups
    pub groups: u32,
    /// folder of everything: data, keys, logs
    pub folder: PathBuf,
    /// folder with the binaries `seriatim` and `raftctl`
    pub bin: PathBuf,
    /// name of the binary that all nodes run
    pub program: String,
    /// folder with a binary of the same name, of another version, that nodes run for a while
    pub other: Option<PathBuf>,
    /// what its environment has besides the harness's own
    pub env: Vec<(String, String)>,
    /// how nodes reach each other
    pub network: NetworkMode,
    /// what they speak there
    pub links: Links,
    /// of everything that is drawn by lot
    pub seed: u64,
    /// every node with another CLOCK_MONOTONIC and CLOCK_BOOTTIME
    pub monotonic_offsets: bool,
    /// what the stores' data lies on
    pub disk: DiskKind,
    /// nodes start under libfaketime, if it is installed, so that clock faults can bend their wall clock
    pub bendable_clocks: bool,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            stores: 5,
            founders: 3,
            logic: 3,
            gateways: 2,
            groups: seriatim_proto::limits::GROUPS_DEFAULT,
            folder: PathBuf::from("jepsen-cluster"),
            bin: PathBuf::from("."),
            program: "seriatim".to_owned(),
            other: None,
            env: Vec::new(),
            network: NetworkMode::Auto,
            links: Links::Mtls,
            seed: 1,
            monotonic_offsets: true,
            disk: DiskKind::Plain,
            bendable_clocks: false,
        }
    }
}

impl ClusterConfig {
    /// The binary of the other version.
    pub(crate) fn other_program(&self) -> Option<PathBuf> {
        self.other.as_ref().map(|folder| folder.join(&self.program))
    }
}

/// What nodes speak with each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Links {
    /// TLS, and both sides show a certificate
    #[default]
    Mtls,
    /// no TLS
    Plaintext,
}

impl Links {
    /// All, with their names for people.
    pub const NAMED: [(&str, Links); 2] = [("mtls", Self::Mtls), ("plaintext", Self::Plaintext)];
}

/// How nodes should reach each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum NetworkMode {
    /// each node in a network namespace of its own, on one bridge; fails where these cannot be made
    Namespaces,
    /// the same on a switch of our own, which can also delay, double, reorder and spoil packets
    Switch,
    /// ports of 127.0.0.1: no fault of the network can be injected
    Loopback,
    /// namespaces where they can be made, else loopback
    #[default]
    Auto,
}

/// How nodes do reach each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NetworkKind {
    /// each in its own namespace, on one bridge
    Namespaces,
    /// each in its own namespace, on a switch of our own
    Switch,
    /// ports of 127.0.0.1
    Loopback,
}

impl std::fmt::Display for NetworkKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            NetworkKind::Namespaces => "namespaces",
            NetworkKind::Switch => "switch",
            NetworkKind::Loopback => "loopback",
        })
    }
}

/// What a store's data folder lies on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DiskKind {
    /// the machine's own file system
    #[default]
    Plain,
    /// a tmpfs of so many MiB for each store: it can be filled, and fsync costs nothing
    Tmpfs {
        /// its size
        mib: u32,
    },
    /// a file system in user space over the machine's own, which can fail, stall, and lose what was not fsynced
    Fuse,
}
