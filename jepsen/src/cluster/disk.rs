//! Disk: what a store's data lies on, and how a disk that can fail is told to.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};

use super::bad_disk::{BadDisk, Mood};
use super::network::Network;
use super::tool::must_now;
use super::{Cluster, ClusterConfig, DiskKind, NodeInfo, Role};

impl DiskKind {
    /// Free bytes below which a store refuses writes; `None`: its default.
    pub(crate) fn reserve_bytes(self) -> Option<u64> {
        match self {
            DiskKind::Tmpfs { mib } => Some(u64::from(mib) * (1 << 20) / 4),
            DiskKind::Plain | DiskKind::Fuse => None,
        }
    }
}

impl Cluster {
    /// How a store's disk behaves from now on.
    pub fn set_disk(&self, name: &str, mood: Mood) -> anyhow::Result<()> {
        self.disk(name)?.set(mood);
        Ok(())
    }

    /// How often the store has felt how its disk behaves now.
    pub fn disk_felt(&self, name: &str) -> anyhow::Result<u64> {
        Ok(self.disk(name)?.felt())
    }

    /// Takes from a store's disk what was not fsynced; the store must be gone. Answers how many bytes that were.
    pub async fn cut_power(&self, name: &str) -> anyhow::Result<u64> {
        ensure!(!self.is_running(name), "cut the power of {name}: it runs");
        let disk = Arc::clone(self.disk(name)?);
        tokio::task::spawn_blocking(move || disk.cut()).await.context("cut the power")?
    }

    fn disk(&self, name: &str) -> anyhow::Result<&Arc<BadDisk>> {
        let found = self.inner.disks.get(self.index(name)?).and_then(Option::as_ref);
        found.with_context(|| format!("{name} has no disk that can fail"))
    }

    /// All disks are well.
    pub(super) fn heal_disks(&self) {
        self.inner.disks.iter().flatten().for_each(|disk| disk.set(Mood::Well));
    }
}

/// Mounts what the stores' data will lie on; answers the disks that can fail, by node. Mounts carry the network's
/// prefix and go with it.
pub(crate) fn mount_all(
    config: &ClusterConfig,
    network: &Network,
    nodes: &[NodeInfo],
) -> anyhow::Result<Vec<Option<Arc<BadDisk>>>> {
    let mut disks = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        disks.push(None);
        if node.role != Role::Store {
            continue;
        }
        let path = super::data_dir(&config.folder, &node.name);
        make_folder(&path)?;
        match config.disk {
            DiskKind::Plain => {}
            DiskKind::Tmpfs { mib } => mount_tmpfs(&network.namespaces()?.link(index), &path, mib)?,
            DiskKind::Fuse => {
                let backing = config.folder.join("backing").join(&node.name);
                make_folder(&backing)?;
                let disk = BadDisk::mount(network.namespaces()?.link(index), backing, path)?;
                disks[index] = Some(Arc::new(disk));
            }
        }
    }
    Ok(disks)
}

fn make_folder(path: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("make the folder {}", path.display()))
}

fn mount_tmpfs(source: &str, path: &Path, mib: u32) -> anyhow::Result<()> {
    ensure!((64..=4096).contains(&mib), "mount a tmpfs of {mib} MiB: 64 to 4096 are possible");
    let size = format!("size={mib}m");
    must_now("mount", &["-t", "tmpfs", "-o", &size, source, &path.display().to_string()], "").map(|_| ())
}
