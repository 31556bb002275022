//! Options: everything that a run is told, as it stands in its `run.json`: enough to do it again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cluster::{Build, DiskKind, Links, NetworkMode};
use crate::nemesis::{Catalogue, Kind};
use crate::workload::{WorkloadKind, WorkloadOptions};

/// Longest run.
const TIME_S_MAX: u64 = 24 * 3_600;
/// Most nodes of one role: all run on this machine.
const NODES_MAX: u32 = 15;
/// Fewest stores: a group has three voters.
const STORES_MIN: u32 = 3;

/// A run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunOptions {
    /// name of the workload
    pub workload: String,
    /// faults: kinds or families, `all`, `none`
    pub nemesis: Vec<String>,
    /// how long clients work, s
    pub time_s: u64,
    /// of everything that is drawn by lot
    pub seed: u64,
    /// operations a second, over all clients
    pub rate: u32,
    /// pairs, counters; half as many groups and registers
    pub keys: u32,
    /// users that chat
    pub users: u32,
    /// stores
    pub stores: u32,
    /// stores that the cluster is made of; the others join it, and take their share of the replicas
    #[serde(default = "all")]
    pub founders: u32,
    /// logic nodes
    pub logic: u32,
    /// gateways
    pub gateways: u32,
    /// data groups
    pub groups: u32,
    /// `auto`, `namespaces`, `switch`, `loopback`
    pub network: String,
    /// what nodes speak with each other: `mtls`, `plaintext`
    #[serde(default = "plaintext")]
    pub links: String,
    /// what the stores' data lies on: `plain`, `fuse`, or `tmpfs:<MiB>`
    pub disk: String,
    /// which build of the product: `product`, `chaos`, `chaos-low`
    #[serde(default = "product")]
    pub build: String,
    /// one fault at a time, and who leads is watched: to measure recoveries
    #[serde(default)]
    pub apart: bool,
    /// folder of another version of the build, beside which it must work
    #[serde(default)]
    pub other: Option<PathBuf>,
}

impl Default for RunOptions {
    fn default() -> Self {
        let workload = WorkloadOptions::default();
        Self {
            workload: workload.kind.name().to_owned(),
            nemesis: vec!["all".to_owned()],
            time_s: 180,
            seed: workload.seed,
            rate: workload.rate,
            keys: workload.keys,
            users: workload.users,
            stores: 5,
            founders: 3,
            logic: 3,
            gateways: 2,
            groups: seriatim_proto::limits::GROUPS_DEFAULT,
            network: "auto".to_owned(),
            links: "mtls".to_owned(),
            disk: "plain".to_owned(),
            build: product(),
            apart: false,
            other: None,
        }
    }
}

/// What runs were made with before there was a choice.
fn all() -> u32 {
    NODES_MAX
}

/// The same.
fn plaintext() -> String {
    "plaintext".to_owned()
}

/// The same.
fn product() -> String {
    Build::Product.name().to_owned()
}

/// Options that were understood.
#[derive(Debug)]
pub struct Plan {
    /// what clients do
    pub workload: WorkloadOptions,
    /// what hurts
    pub kinds: Vec<&'static Kind>,
    /// what would not meet this workload
    pub left_out: Vec<&'static Kind>,
    /// how nodes reach each other
    pub network: NetworkMode,
    /// what they speak there
    pub links: Links,
    /// what the stores' data lies on
    pub disk: DiskKind,
    /// which build of the product
    pub build: Build,
}

/// Pretenders talk to the stores: nothing of theirs passes through a gateway, and no packet would meet such a fault.
fn kind_is_met(kind: &Kind, workload: WorkloadKind) -> bool {
    workload != WorkloadKind::Lease || !kind.hurts_devices_only()
}

impl RunOptions {
    /// Refuses what cannot be run, in a sentence for people, before anything is started.
    pub fn plan(&self, bin: &Path) -> Result<Plan, String> {
        let kind: WorkloadKind = self.workload.parse()?;
        let Self { seed, rate, keys, users, .. } = *self;
        let workload = WorkloadOptions { kind, seed, rate, keys, users };
        workload.check()?;
        let names: Vec<&str> = self.nemesis.iter().map(String::as_str).collect();
        let selected = Catalogue::select(&names)?;
        let (kinds, left_out) = selected.into_iter().partition(|kind| kind_is_met(kind, workload.kind));
        let ranges = [
            ("--time", self.time_s, 1, TIME_S_MAX),
            ("--stores", self.stores.into(), STORES_MIN.into(), NODES_MAX.into()),
            ("--founders", self.founders.into(), STORES_MIN.into(), NODES_MAX.into()),
            ("--logic", self.logic.into(), 1, NODES_MAX.into()),
            ("--gateways", self.gateways.into(), 1, NODES_MAX.into()),
            ("--groups", self.groups.into(), 1, seriatim_proto::limits::GROUPS_MAX.into()),
        ];
        for (name, value, min, max) in ranges {
            if value < min || value > max {
                return Err(format!("{name} {value}: must be between {min} and {max}"));
            }
        }
        let build = build(&self.build)?;
        for program in [build.program(), "raftctl"] {
            if !bin.join(program).is_file() {
                return Err(format!(
                    "there is no {program} in {}: build it, or name its folder by --bin",
                    bin.display()
                ));
            }
        }
        if let Some(folder) = self.other.as_ref().filter(|folder| !folder.join(build.program()).is_file()) {
            return Err(format!("--other {}: there is no {} in it", folder.display(), build.program()));
        }
        Ok(Plan {
            workload,
            kinds,
            left_out,
            network: network(&self.network)?,
            links: links(&self.links)?,
            disk: disk(&self.disk)?,
            build,
        })
    }

    /// How long clients work.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs(self.time_s)
    }

    /// How long before the clients' end the last fault is healed, so that the recovery is seen.
    pub(crate) fn settle_time(&self) -> Duration {
        const SETTLE_MAX: Duration = Duration::from_secs(10);
        SETTLE_MAX.min(self.time() / 4)
    }

    /// Fewer acked operations than this prove nothing.
    pub(crate) fn acked_min(&self) -> u64 {
        // A cluster that serves does many times as much, even the slowest workload, whose acks take a second each.
        (5 * self.time_s).max(100)
    }
}

fn network(text: &str) -> Result<NetworkMode, String> {
    match text {
        "auto" => Ok(NetworkMode::Auto),
        "namespaces" => Ok(NetworkMode::Namespaces),
        "switch" => Ok(NetworkMode::Switch),
        "loopback" => Ok(NetworkMode::Loopback),
        other => Err(format!("--network {other}: must be auto, namespaces, switch or loopback")),
    }
}

fn links(text: &str) -> Result<Links, String> {
    let found = Links::NAMED.into_iter().find(|(name, _)| *name == text);
    found.map(|(_, links)| links).ok_or_else(|| format!("--links {text}: must be mtls or plaintext"))
}

fn disk(text: &str) -> Result<DiskKind, String> {
    let tmpfs = text.strip_prefix("tmpfs:").and_then(|mib| mib.parse().ok()).filter(|mib| *mib > 0);
    match (text, tmpfs) {
        ("plain", _) => Ok(DiskKind::Plain),
        ("fuse", _) => Ok(DiskKind::Fuse),
        (_, Some(mib)) => Ok(DiskKind::Tmpfs { mib }),
        (other, None) => Err(format!("--disk {other}: must be plain, fuse, or tmpfs:<MiB>")),
    }
}

fn build(text: &str) -> Result<Build, String> {
    Build::parse(text).ok_or_else(|| format!("--build {text}: must be product, chaos or chaos-low"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bin() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for program in ["seriatim", "raftctl"] {
            std::fs::write(folder.path().join(program), "").unwrap();
        }
        folder
    }

    #[test]
    fn the_defaults_are_a_plan() {
        let bin = bin();
        let plan = RunOptions::default().plan(bin.path()).unwrap();
        assert_eq!(plan.workload, WorkloadOptions::default());
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_the_flag_that_is_wrong() {
        let (bin, good) = (bin(), RunOptions::default());
        for (bad, said) in [
            (RunOptions { workload: "bank".to_owned(), ..good.clone() }, "bank"),
            (RunOptions { nemesis: vec!["earthquake".to_owned()], ..good.clone() }, "earthquake"),
            (RunOptions { time_s: 0, ..good.clone() }, "--time"),
            (RunOptions { stores: 2, ..good.clone() }, "--stores"),
            (RunOptions { founders: 2, ..good.clone() }, "--founders"),
            (RunOptions { gateways: 0, ..good.clone() }, "--gateways"),
            (RunOptions { groups: 0, ..good.clone() }, "--groups"),
            (RunOptions { rate: 0, ..good.clone() }, "--rate"),
            (RunOptions { network: "carrier-pigeon".to_owned(), ..good.clone() }, "--network"),
            (RunOptions { links: "string".to_owned(), ..good.clone() }, "--links"),
            (RunOptions { disk: "tmpfs:0".to_owned(), ..good.clone() }, "--disk"),
            (RunOptions { build: "debug".to_owned(), ..good.clone() }, "--build"),
            (RunOptions { build: "chaos".to_owned(), ..good.clone() }, "seriatim-chaos"),
            (RunOptions { other: Some(PathBuf::from("/nowhere")), ..good.clone() }, "--other"),
        ] {
            let refusal = bad.plan(bin.path()).unwrap_err();
            assert!(refusal.contains(said), "{refusal}");
        }
        let empty = tempfile::tempdir().unwrap();
        assert!(good.plan(empty.path()).unwrap_err().contains("seriatim"));
    }

    #[test]
    fn faults_that_a_workload_cannot_meet_are_left_out() {
        let bin = tempfile::tempdir().unwrap();
        for program in ["seriatim", "raftctl"] {
            std::fs::write(bin.path().join(program), "").unwrap();
        }
        let plan = |workload: &str| {
            let nemesis = ["loss-clients", "cut-clients", "kill"].map(str::to_owned).to_vec();
            let options = RunOptions { workload: workload.to_owned(), nemesis, ..RunOptions::default() };
            let plan = options.plan(bin.path()).unwrap();
            (plan.kinds.len(), plan.left_out.iter().map(|kind| kind.name).collect::<Vec<_>>())
        };
        let (mixed, left_out) = plan("mix");
        assert_eq!(left_out, Vec::<&str>::new());
        assert_eq!(plan("lease"), (mixed - 2, vec!["loss-clients", "cut-clients"]));
    }

    #[test]
    fn options_are_read_back_from_a_runs_file() {
        let options = RunOptions { seed: u64::MAX, disk: "tmpfs:64".to_owned(), ..RunOptions::default() };
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<RunOptions>(&text).unwrap(), options);
        let old = text.replace(r#","build":"product""#, "");
        assert_ne!(old, text);
        assert_eq!(serde_json::from_str::<RunOptions>(&old).unwrap(), options, "of a run before there was a choice");
        let old = text.replace(r#""links":"mtls","#, "");
        assert_ne!(old, text);
        assert_eq!(serde_json::from_str::<RunOptions>(&old).unwrap().links, "plaintext");
    }
}
