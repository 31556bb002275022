//! Card: what a playground says when it is up: to people what to type next, to programs one JSON line.

use std::time::Duration;

use anyhow::Context;
use seriatim_proto::playground::PlaygroundRole;

use super::layout::Layout;

/// A dozen lines for a terminal.
pub(crate) fn text(layout: &Layout, took: Duration) -> String {
    let mut lines =
        vec![format!("Seriatim playground, up in {:.1} s. Data: {}", took.as_secs_f64(), layout.data.display())];
    for node in &layout.file.nodes {
        let what = match node.role {
            PlaygroundRole::Store | PlaygroundRole::Logic => "gRPC",
            PlaygroundRole::Gateway => "QUIC, ALPN seriatim-1",
        };
        lines.push(format!("  {:<10} {:<16} {what} · http://{}/metrics", node.name, node.address, node.metrics));
    }
    lines.push(format!("  CA certificate {}", layout.file.ca_certificate));
    lines.push("Try, in another terminal:".to_owned());
    lines.push("  raftctl cluster status".to_owned());
    lines.push("  raftctl user tail bob -f".to_owned());
    lines.push("  raftctl send --as alice --to bob hello".to_owned());
    lines.push("  raftctl playground kill store-2".to_owned());
    lines.push("Ctrl-C stops everything; the data stays.".to_owned());
    lines.join("\n")
}

/// The ready line of a playground.
pub(crate) fn ready_line(layout: &Layout) -> anyhow::Result<String> {
    serde_json::to_string(&serde_json::json!({
        "ready": true,
        "role": "playground",
        "data": layout.data,
        "pid": std::process::id(),
        "nodes": layout.file.nodes,
    }))
    .context("write the ready line")
}
