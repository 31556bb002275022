//! Damage: a file of a stopped store is changed behind its back, or all of them are gone.
//!
//! A store must notice and refuse; what came of it is recorded. Healing puts the saved files back, but only for a
//! store that did not run with the damage: one that ran has promised things since, and would forget them.
//!
//! What the store finds rotten is rebuilt by its cluster, one replica after another. A group of three stands one rotten
//! replica, and damage may lie unseen until it is read: so one store of a run is frail, and no files but its are
//! damaged. At its end a run waits until all is rebuilt. Other faults would keep a rebuild from its end, so no kind of
//! this family is in the set `all`.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use futures_util::future::BoxFuture;
use rand::RngExt;
use rand::rngs::StdRng;

use super::targets::{Target, one, pick};
use super::{Done, Nemesis, done};
use crate::cluster::{Cluster, Reservation, must};

/// Longest range that is zeroed.
const ZERO_BYTES_MAX: u64 = 64 << 10;
/// Files of a database that hold nothing that a store needs, by how their names begin.
const HARMLESS: [&str; 4] = ["LOCK", "LOG", "OPTIONS", "IDENTITY"];

/// Where a store keeps the databases that it found rotten.
const ASIDE: &str = "rotten";

/// What is done to the files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Harm {
    /// one bit of one file
    FlipBit,
    /// the end of one file
    Truncate,
    /// a range of one file
    Zero,
    /// all files
    LoseDisk,
}

/// A damaged store.
#[derive(Debug)]
pub(super) struct Damage {
    harm: Harm,
    damaged: Option<Damaged>,
}

#[derive(Debug)]
struct Damaged {
    victims: Reservation,
    saved: PathBuf,
    ran: bool,
}

impl Damage {
    pub(super) fn boxed(harm: Harm) -> Box<dyn Nemesis> {
        Box::new(Self { harm, damaged: None })
    }
}

impl Nemesis for Damage {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let victims = match pick(cluster, rng, Target::Frail).await {
                Ok(victims) => victims,
                Err(skipped) => return skipped,
            };
            let names = victims.names().to_vec();
            let saved = cluster.config().folder.join("saved").join(&names[0]);
            let damaged = self.damaged.insert(Damaged { victims, saved, ran: false });
            let harmed = harm(cluster, rng, self.harm, &names[0], &damaged.saved).await;
            let what = match harmed {
                Ok(what) => what,
                Err(error) => return Done::indeterminate(&names, format!("{error:#}")),
            };
            // A refusal to start is what should come of it, so it is no end that nobody ordered.
            let _ = cluster.allow_end(&names[0], true);
            let came_of_it = match cluster.start_node(&names[0]).await {
                Ok(()) => "it started".to_owned(),
                // The last line of its log is the reason; those before it are of its life before.
                Err(error) => format!("it refused: {}", error.to_string().lines().last().unwrap_or_default()),
            };
            damaged.ran = cluster.is_running(&names[0]);
            Done::installed(&names, format!("{what}; {came_of_it}"))
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let Some(damaged) = self.damaged.take() else { return done::nothing_to_undo() };
            let names = damaged.victims.names();
            let healed = heal(cluster, self.harm, &names[0], &damaged).await;
            // Damage that is found later ends it once more, so that its next start sets the databases aside.
            let _ = cluster.allow_end(&names[0], damaged.ran && self.harm != Harm::LoseDisk);
            Done::of(names, healed)
        })
    }
}

async fn harm(cluster: &Cluster, rng: &mut StdRng, harm: Harm, name: &str, saved: &Path) -> anyhow::Result<String> {
    cluster.kill(name).await?;
    let data = cluster.data_dir(name);
    let _ = std::fs::remove_dir_all(saved);
    std::fs::create_dir_all(saved).with_context(|| format!("make the folder {}", saved.display()))?;
    must("cp", &["-a".into(), data.join("."), saved.to_owned()]).await.context("save the store's files")?;
    if harm == Harm::LoseDisk {
        empty(&data)?;
        return Ok("all files are gone".to_owned());
    }
    let files = files(&data)?;
    let path = one(rng, &files).context("find a file to damage: there is none")?;
    let shown = path.strip_prefix(&data).unwrap_or(path).display();
    let file = OpenOptions::new().read(true).write(true).open(path).with_context(|| format!("open {shown}"))?;
    let what = change(&file, rng, harm).with_context(|| format!("damage {shown}"))?;
    Ok(format!("{what} of {shown}"))
}

/// Changes a file that is not empty, so that it is not what it was.
fn change(file: &File, rng: &mut StdRng, harm: Harm) -> anyhow::Result<String> {
    let length = file.metadata()?.len();
    let at = rng.random_range(0..length);
    let what = match harm {
        Harm::FlipBit => {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at)?;
            let bit = rng.random_range(0..8_u32);
            file.write_all_at(&[byte[0] ^ (1 << bit)], at)?;
            format!("bit {bit} of byte {at}")
        }
        Harm::Truncate => {
            file.set_len(at)?;
            format!("all from byte {at} on")
        }
        Harm::Zero | Harm::LoseDisk => {
            let count = rng.random_range(1..=ZERO_BYTES_MAX).min(length - at);
            let mut before = vec![0; usize::try_from(count)?];
            file.read_exact_at(&mut before, at)?;
            ensure!(before.iter().any(|byte| *byte != 0), "zero bytes {at} to {}: they are zero already", at + count);
            file.write_all_at(&vec![0; before.len()], at)?;
            format!("bytes {at} to {}", at + count)
        }
    };
    file.sync_all()?;
    Ok(what)
}

async fn heal(cluster: &Cluster, harm: Harm, name: &str, damaged: &Damaged) -> anyhow::Result<String> {
    if damaged.ran && harm != Harm::LoseDisk {
        ensure!(
            cluster.is_running(name),
            "{name} ran with the damage and then ended: its files are not put back, for it would forget what it promised"
        );
        return Ok("it runs on with the damage".to_owned());
    }
    // A store without files knows no cluster and promised nothing.
    if cluster.is_running(name) {
        cluster.stop(name).await?;
    }
    let data = cluster.data_dir(name);
    empty(&data)?;
    must("cp", &["-a".into(), damaged.saved.join("."), data]).await.context("put the store's files back")?;
    std::fs::remove_dir_all(&damaged.saved).context("remove the saved files")?;
    cluster.start_node(name).await?;
    Ok("its files are back, and it started".to_owned())
}

/// Removes everything in a folder, but not the folder: it may be a mount.
fn empty(folder: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// All files worth damaging, by name.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type()?.is_dir() {
                // What was set aside is nobody's any more.
                if name != ASIDE {
                    folders.push(entry.path());
                }
            } else if entry.metadata()?.len() > 0 && !is_harmless(&folder, &name.to_string_lossy()) {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn is_harmless(folder: &Path, name: &str) -> bool {
    let in_database = folder.extension().is_some_and(|extension| extension == "db");
    in_database && HARMLESS.iter().any(|harmless| name.starts_with(harmless))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_harm_changes_the_file() {
        for (seed, harm) in
            (0..30).flat_map(|seed| [Harm::FlipBit, Harm::Truncate, Harm::Zero].map(|harm| (seed, harm)))
        {
            let file = tempfile::tempfile().unwrap();
            let before: Vec<u8> = (1..=200).collect();
            file.write_all_at(&before, 0).unwrap();
            let what = change(&file, &mut StdRng::seed_from_u64(seed), harm).unwrap();
            let mut after = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut after, 0).unwrap();
            assert_ne!(before, after, "seed {seed}: {what}");
        }
    }

    #[test]
    fn logs_locks_and_empty_files_are_not_worth_damaging() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        std::fs::create_dir(folder.path().join("log.db")).unwrap();
        for harmless in ["LOCK", "LOG", "LOG.old.1", "IDENTITY", "OPTIONS-000007"] {
            write(&format!("log.db/{harmless}"), b"x");
        }
        write("empty", b"");
        write("IDENTITY", b"x");
        write("watermark", b"x");
        write("log.db/000004.log", b"x");
        std::fs::create_dir_all(folder.path().join("rotten/1/log.db")).unwrap();
        write("rotten/1/log.db/000004.log", b"x");
        let names = ["IDENTITY", "log.db/000004.log", "watermark"].map(|name| folder.path().join(name));
        assert_eq!(files(folder.path()).unwrap(), names);
    }
}
