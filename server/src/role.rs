//! Role: a store, a logic node or a gateway from start to end: start, ready line, serve, stop.

use std::net::SocketAddr;

use anyhow::Context;
use prometheus_client::registry::Registry;
use seriatim_gateway::GatewayServer;
use seriatim_logic::LogicServer;
use seriatim_store::StoreServer;

use crate::config::{Common, GatewayOptions, LogicOptions, StoreOptions};
use crate::{descriptors, ops, stop};

/// Runs a store until it is told to stop.
pub(crate) async fn run_store(options: StoreOptions) -> anyhow::Result<()> {
    let common = options.common.clone();
    let mut registry = registry();
    let server = StoreServer::start(options.checked(&mut registry)?, &mut registry).await.context("start the store")?;
    ready("store", (server.address(), None), &common, (registry, || true)).await?;
    server.run(stop::wait(common.exit_with_parent)).await.context("go on as a store")
}

/// Runs a logic node until it is told to stop.
pub(crate) async fn run_logic(options: LogicOptions) -> anyhow::Result<()> {
    let common = options.common.clone();
    let mut registry = registry();
    let server = LogicServer::start(options.checked(&mut registry).await?, &mut registry)
        .await
        .context("start the logic node")?;
    ready("logic", (server.address(), None), &common, (registry, || true)).await?;
    server.run(stop::wait(common.exit_with_parent)).await.context("go on as a logic node")
}

/// Runs a gateway until it is told to stop.
pub(crate) async fn run_gateway(options: GatewayOptions) -> anyhow::Result<()> {
    let common = options.common.clone();
    let mut registry = registry();
    let server = GatewayServer::start(options.checked(&mut registry).await?, &mut registry)
        .await
        .context("start the gateway")?;
    ready("gateway", (server.address(), server.operators()), &common, (registry, server.readiness())).await?;
    server.run(stop::wait(common.exit_with_parent)).await.context("go on as a gateway")
}

/// Of this process, with what every role says.
fn registry() -> Registry {
    let mut registry = Registry::with_prefix("seriatim");
    descriptors::raise(&mut registry);
    registry
}

/// Serves the operators' endpoints and prints the ready line: from here on the role can be used.
async fn ready(
    role: &str,
    (address, operators): (SocketAddr, Option<SocketAddr>),
    common: &Common,
    (registry, is_ready): (Registry, impl Fn() -> bool + Send + Sync + 'static),
) -> anyhow::Result<()> {
    let metrics = ops::serve(common.metrics, registry, is_ready).await?;
    let mut line = serde_json::json!({
        "ready": true,
        "role": role,
        "address": address.to_string(),
        "metrics": metrics.to_string(),
        "pid": std::process::id(),
    });
    if let Some(operators) = operators {
        line["operators"] = operators.to_string().into();
    }
    ops::print_line(&line.to_string())
}
