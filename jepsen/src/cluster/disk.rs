//! Disk: what a store's data lies on.

use std::path::Path;

use anyhow::{Context, ensure};

use super::network::Network;
use super::tool::must_now;
use super::{ClusterConfig, DiskKind, NodeInfo, Role};

impl DiskKind {
    /// Free bytes below which a store refuses writes; `None`: its default.
    pub(crate) fn reserve_bytes(self) -> Option<u64> {
        match self {
            DiskKind::Tmpfs { mib } => Some(u64::from(mib) * (1 << 20) / 4),
            DiskKind::Plain | DiskKind::Fuse => None,
        }
    }
}

/// Mounts what the stores' data will lie on. Mounts carry the network's prefix and go with it.
pub(crate) fn mount_all(config: &ClusterConfig, network: &Network, nodes: &[NodeInfo]) -> anyhow::Result<()> {
    for (index, node) in nodes.iter().enumerate().filter(|(_, node)| node.role == Role::Store) {
        let path = super::data_dir(&config.folder, &node.name);
        std::fs::create_dir_all(&path).with_context(|| format!("make the folder {}", path.display()))?;
        match config.disk {
            DiskKind::Plain => {}
            DiskKind::Tmpfs { mib } => mount_tmpfs(&network.namespaces()?.link(index), &path, mib)?,
            DiskKind::Fuse => anyhow::bail!("mount a file system in user space: not built yet"),
        }
    }
    Ok(())
}

fn mount_tmpfs(source: &str, path: &Path, mib: u32) -> anyhow::Result<()> {
    ensure!((64..=4096).contains(&mib), "mount a tmpfs of {mib} MiB: 64 to 4096 are possible");
    let size = format!("size={mib}m");
    must_now("mount", &["-t", "tmpfs", "-o", &size, source, &path.display().to_string()], "").map(|_| ())
}
