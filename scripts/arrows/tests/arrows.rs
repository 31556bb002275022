//! The arrow check.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Arrows between our crates in the product (`from`, allowed `to`).
const ALLOWED: &[(&str, &[&str])] = &[
    ("raftctl", &["seriatim-client", "seriatim-mtls", "seriatim-proto"]),
    ("seriatim", &["seriatim-gateway", "seriatim-logic", "seriatim-mtls", "seriatim-proto", "seriatim-store"]),
    ("seriatim-arrows", &[]),
    ("seriatim-bench", &["seriatim-client", "seriatim-proto"]),
    ("seriatim-client", &["seriatim-proto"]),
    // The fuzz targets drive cores and decoders; what lies behind an engine they read as files.
    ("seriatim-fuzz", &["seriatim-gateway-core", "seriatim-proto", "seriatim-store-core"]),
    ("seriatim-gateway", &["seriatim-gateway-core", "seriatim-mtls", "seriatim-proto"]),
    ("seriatim-gateway-core", &["seriatim-proto"]),
    // mtls: pretenders show stores a logic node's certificate.
    ("seriatim-jepsen", &["seriatim-client", "seriatim-mtls", "seriatim-proto"]),
    ("seriatim-logic", &["seriatim-logic-core", "seriatim-mtls", "seriatim-proto"]),
    ("seriatim-logic-core", &["seriatim-proto"]),
    // The model check drives one core against the other, as logic's own tests do.
    ("seriatim-model", &["seriatim-logic-core", "seriatim-proto", "seriatim-store-core"]),
    // Beside proto and not in it: it needs a runtime. All of our processes speak with each other through it.
    ("seriatim-mtls", &["seriatim-proto"]),
    ("seriatim-proto", &[]),
    ("seriatim-store", &["seriatim-mtls", "seriatim-proto", "seriatim-store-core"]),
    ("seriatim-store-core", &["seriatim-proto"]),
];

/// Arrows that only tests use: a room's core is driven against another's, or the whole through the SDK.
const ALLOWED_IN_TESTS: &[(&str, &[&str])] = &[
    ("seriatim", &["seriatim-client"]),
    ("seriatim-gateway", &["seriatim-client"]),
    ("seriatim-logic-core", &["seriatim-store-core"]),
];

/// What no core may reach, however indirectly.
const BANNED_IN_CORES: &[&str] =
    &["tokio", "openraft", "rocksdb", "librocksdb-sys", "quinn", "quinn-proto", "tonic", "mio", "socket2", "rand"];

/// Where a library may be named: `(library, folder or file under which, relative to the workspace)`.
const ONE_ROOM: &[(&str, &[&str])] = &[
    ("openraft::", &["raft-store/src/raft"]),
    ("rocksdb::", &["raft-store/src/rocks"]),
    ("quinn::", &["gateway/src", "client/src"]),
];

/// Of this platform: a fresh machine has fetched nothing for the others.
fn metadata() -> Value {
    let version = Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform", host])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn items(value: &Value) -> &Vec<Value> {
    value.as_array().expect("an array")
}

fn allowed(table: &[(&'static str, &[&'static str])], from: &str) -> BTreeSet<&'static str> {
    table.iter().find(|(name, _)| *name == from).map(|(_, to)| to.iter().copied().collect()).unwrap_or_default()
}

#[test]
fn no_new_arrow_between_our_crates() {
    let metadata = metadata();
    let members: BTreeSet<&str> = items(&metadata["workspace_members"]).iter().map(text).collect();
    let ours: BTreeMap<&str, &Value> = items(&metadata["packages"])
        .iter()
        .filter(|package| members.contains(text(&package["id"])))
        .map(|package| (text(&package["name"]), package))
        .collect();
    let known: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        ours.keys().copied().collect::<BTreeSet<_>>(),
        known,
        "a crate came or went: list it here with a reason"
    );
    for (from, package) in &ours {
        for dependency in items(&package["dependencies"]) {
            let to = text(&dependency["name"]);
            if !ours.contains_key(to) {
                continue;
            }
            let in_tests = dependency["kind"].as_str() == Some("dev");
            let fine = allowed(ALLOWED, from).contains(to) || in_tests && allowed(ALLOWED_IN_TESTS, from).contains(to);
            assert!(fine, "new arrow {from} → {to}");
        }
    }
}

#[test]
fn cores_reach_no_runtime_and_no_engine() {
    let metadata = metadata();
    let names: BTreeMap<&str, &str> =
        items(&metadata["packages"]).iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
    let graph: BTreeMap<&str, Vec<&str>> = items(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| {
            let normal = items(&node["deps"])
                .iter()
                .filter(|dep| items(&dep["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()))
                .map(|dep| text(&dep["pkg"]));
            (text(&node["id"]), normal.collect())
        })
        .collect();
    for core in names.iter().filter(|(_, name)| name.starts_with("seriatim-") && name.ends_with("-core")) {
        let mut reached = BTreeSet::new();
        let mut open = vec![*core.0];
        while let Some(id) = open.pop() {
            for to in &graph[id] {
                // The whole workspace is resolved at once, so `proto` shows its optional stubs here; their features are
                // checked below.
                let optional_stub =
                    names[id] == "seriatim-proto" && ["tonic", "tonic-prost", "jsonwebtoken"].contains(&names[to]);
                if !optional_stub && reached.insert(*to) {
                    open.push(to);
                }
            }
        }
        for id in reached {
            assert!(!BANNED_IN_CORES.contains(&names[id]), "{} reaches {}", core.1, names[id]);
        }
    }
    for package in items(&metadata["packages"]) {
        if text(&package["name"]).ends_with("-core") {
            for dependency in
                items(&package["dependencies"]).iter().filter(|dep| text(&dep["name"]) == "seriatim-proto")
            {
                assert!(items(&dependency["features"]).is_empty(), "a core takes proto without its stubs");
            }
        }
    }
}

#[test]
fn an_engine_is_named_in_one_room() {
    let root = std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the crate is"))
        .join("../..");
    let mut open = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder is readable") {
            let path = entry.expect("an entry is readable").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" && name != "arrows" {
                    open.push(path);
                }
            } else if name.ends_with(".rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 20, "the walk found the workspace");
    for file in files {
        let relative = file.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
        let source = std::fs::read_to_string(&file).expect("a source is readable");
        for (library, rooms) in ONE_ROOM {
            let is_test = relative.contains("/tests/");
            let named = source.lines().any(|line| {
                let code = line.split("//").next().unwrap_or_default();
                code.match_indices(library).any(|(at, _)| {
                    // `seriatim_openraft::` or `my_quinn::` is another word.
                    !code[..at].chars().next_back().is_some_and(|before| before.is_alphanumeric() || before == '_')
                })
            });
            assert!(
                !named || is_test || rooms.iter().any(|room| relative.starts_with(room)),
                "{relative} names {library}"
            );
        }
    }
}
