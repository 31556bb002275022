//! Fill: the small disk of one store, filled to the last byte by a file of ours.

use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;

use anyhow::Context;
use futures_util::future::BoxFuture;
use rand::rngs::StdRng;
use rustix::fs::FallocateFlags;

use super::targets::{Target, pick};
use super::{Done, Nemesis, done};
use crate::cluster::{Cluster, DiskKind, Reservation, Role};

/// Name of the file that fills a disk; no file of a store is called so.
const FILLER: &str = "filler-of-jepsen";

/// A full disk.
#[derive(Debug, Default)]
pub(super) struct Fill {
    filled: Option<Reservation>,
}

impl Nemesis for Fill {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            if !matches!(cluster.config().disk, DiskKind::Tmpfs { .. }) {
                // Anything else would fill the machine.
                return Done::skipped("the stores have no small disks of their own");
            }
            let victims = match pick(cluster, rng, Target::One(Role::Store)).await {
                Ok(victims) => self.filled.insert(victims).names(),
                Err(skipped) => return skipped,
            };
            let filled = cluster.allow_end(&victims[0], true).and_then(|()| fill(&filler(cluster, &victims[0])));
            Done::of(victims, filled.map(|bytes| format!("{bytes} bytes, and the disk says ENOSPC")))
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let Some(victims) = self.filled.take() else { return done::nothing_to_undo() };
            let name = &victims.names()[0];
            let path = filler(cluster, name);
            let freed = std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()));
            let ended = !cluster.is_running(name);
            let started = if ended { cluster.start_node(name).await } else { Ok(()) };
            let _ = cluster.allow_end(name, false);
            let detail = if ended { "freed; it had ended, and was started" } else { "freed; it had run on" };
            Done::of(victims.names(), freed.and(started).map(|()| detail.to_owned()))
        })
    }
}

fn filler(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.data_dir(name).join(FILLER)
}

/// Takes all the space there is; answers how much it was, once the file system says that there is no more.
fn fill(path: &std::path::Path) -> anyhow::Result<u64> {
    let context = || format!("fill {}", path.display());
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).with_context(context)?;
    let mut length = 0;
    // Ever smaller pieces, until not one page is left.
    for piece in [16 << 20, 1 << 20, 64 << 10, 4 << 10] {
        loop {
            match rustix::fs::fallocate(&file, FallocateFlags::empty(), length, piece) {
                Ok(()) => length += piece,
                Err(rustix::io::Errno::NOSPC) => break,
                Err(error) => return Err(io::Error::from(error)).with_context(context),
            }
        }
    }
    Ok(length)
}
