//! Layout: which nodes there are, and with what words each is started.

use std::path::Path;

use anyhow::{Context, ensure};

use super::build::{BOOT_VARIABLE, CHAOS_PROGRAM};
use super::keys::Keys;
use super::network::Network;
use super::process::Spec;
use super::{ClusterConfig, NodeInfo, Role};

/// Between the monotonic clocks of two nodes: a prime, so that no two differ by a round number.
const OFFSET_STEP_S: u64 = 7_919;
/// Where Debian's package `faketime` puts it.
const LIBFAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Roles and numbers of all nodes: stores, logic nodes, gateways.
fn roles(config: &ClusterConfig) -> impl Iterator<Item = (Role, u32)> {
    let counts = [(Role::Store, config.stores), (Role::Logic, config.logic), (Role::Gateway, config.gateways)];
    counts.into_iter().flat_map(|(role, count)| (1..=count).map(move |number| (role, number)))
}

/// `s1`, `l2`, `g1`: a link's name has fifteen bytes only.
pub(crate) fn short_names(config: &ClusterConfig) -> Vec<String> {
    roles(config).map(|(role, number)| format!("{}{number}", &role.name()[..1])).collect()
}

/// All nodes, where the network puts them.
pub(crate) fn nodes(config: &ClusterConfig, network: &Network) -> Vec<NodeInfo> {
    let named = roles(config).enumerate().map(|(index, (role, number))| {
        let (address, metrics) = network.addresses(index);
        NodeInfo { name: format!("{}-{number}", role.name()), role, address, metrics }
    });
    named.collect()
}

/// Refuses what cannot be started, before anything is.
pub(crate) fn check(config: &ClusterConfig) -> anyhow::Result<()> {
    for (count, what) in [(config.stores, "stores"), (config.logic, "logic nodes"), (config.gateways, "gateways")] {
        ensure!((1..=9).contains(&count), "start a cluster of {count} {what}: 1 to 9 are possible");
    }
    for program in [config.program.as_str(), "raftctl"] {
        let path = config.bin.join(program);
        ensure!(path.is_file(), "start a cluster: there is no binary {}", path.display());
    }
    if let Some(path) = config.other_program() {
        ensure!(path.is_file(), "start a cluster: there is no binary {}", path.display());
    }
    ensure!(
        !config.bendable_clocks || Path::new(LIBFAKETIME).is_file(),
        "start a cluster with clocks that can be bent: {LIBFAKETIME} is missing (package faketime)"
    );
    Ok(())
}

/// Can clocks be bent on this machine?
pub fn clocks_can_be_bent() -> bool {
    Path::new(LIBFAKETIME).is_file()
}

/// With what words a node is started.
pub(crate) fn spec(config: &ClusterConfig, network: &Network, keys: &Keys, nodes: &[NodeInfo], index: usize) -> Spec {
    let node = &nodes[index];
    let mut wrapper: Vec<String> = Vec::new();
    if let Some(file) = network.namespace_file(index) {
        wrapper.extend(["nsenter".to_owned(), format!("--net={}", file.display())]);
    }
    if config.monotonic_offsets {
        // The same at every start: a node's clock does not change when its process does.
        let seconds = (OFFSET_STEP_S * (1 + index as u64) + config.seed % OFFSET_STEP_S).to_string();
        wrapper.extend(["unshare", "-T", "--monotonic", &seconds, "--boottime", &seconds].map(str::to_owned));
    }
    if config.bendable_clocks {
        let file = super::clock_file(&config.folder, &node.name);
        // The monotonic clock must stay true: with it faked, the runtime's timers hang.
        wrapper.extend([
            "env".to_owned(),
            format!("LD_PRELOAD={LIBFAKETIME}"),
            format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
            "FAKETIME_CACHE_DURATION=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        ]);
    }
    if config.program == CHAOS_PROGRAM {
        let file = super::boot_file(&config.folder, &node.name);
        wrapper.extend(["env".to_owned(), format!("{BOOT_VARIABLE}={}", file.display())]);
    }
    let mut arguments = vec![node.role.name().to_owned()];
    let mut flag = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
    let addresses = |role: Role| -> String {
        let listed = nodes.iter().filter(|node| node.role == role).map(|node| node.address.to_string());
        listed.collect::<Vec<_>>().join(",")
    };
    // All processes share this machine: each takes its part of the cores.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    flag("threads", (cores / nodes.len()).max(1).to_string());
    flag("listen", node.address.to_string());
    flag("metrics", node.metrics.to_string());
    match node.role {
        Role::Store => {
            flag("data-dir", super::data_dir(&config.folder, &node.name).display().to_string());
            if let Some(bytes) = config.disk.reserve_bytes() {
                flag("disk-reserve-bytes", bytes.to_string());
            }
        }
        Role::Logic => {
            flag("stores", addresses(Role::Store));
            flag("token-public-key", keys.token_public.display().to_string());
        }
        Role::Gateway => {
            flag("logic", addresses(Role::Logic));
            flag("certificate-chain", keys.gateway.display().to_string());
            flag("private-key", keys.gateway_key.display().to_string());
            flag("token-public-key", keys.token_public.display().to_string());
        }
    }
    match keys.links_of(&node.name) {
        Some(files) => {
            let mut flag =
                |name: &str, path: &Path| arguments.extend([format!("--{name}"), path.display().to_string()]);
            flag("tls-ca", &files.ca);
            flag("tls-cert", &files.certificate);
            flag("tls-key", &files.key);
        }
        None => arguments.push("--insecure-plaintext".to_owned()),
    }
    arguments.push("--exit-with-parent".to_owned());
    let (program, log) = (config.bin.join(&config.program), super::log_path(&config.folder, &node.name));
    Spec { name: node.name.clone(), wrapper, program, arguments, env: config.env.clone(), log }
}

/// Makes the folders of a run.
pub(crate) fn make_folders(config: &ClusterConfig) -> anyhow::Result<()> {
    for folder in ["logs", "clocks"] {
        let path = config.folder.join(folder);
        std::fs::create_dir_all(&path).with_context(|| format!("make the folder {}", path.display()))?;
    }
    for (role, number) in roles(config).filter(|_| config.bendable_clocks) {
        let path = super::clock_file(&config.folder, &format!("{}-{number}", role.name()));
        std::fs::write(&path, super::TRUE_CLOCK).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
