//! Ops: what operators' tools read from a process: /metrics, /healthz, and the lines on stdout.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;

/// Content type of OpenMetrics text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves /metrics and /healthz until the process ends; answers the address bound.
pub(crate) async fn serve(address: SocketAddr, registry: Registry) -> anyhow::Result<SocketAddr> {
    anyhow::ensure!(address.ip().is_loopback(), "serve metrics: {address} is not a loopback address");
    let listener =
        tokio::net::TcpListener::bind(address).await.with_context(|| format!("listen on {address} for metrics"))?;
    let bound = listener.local_addr().context("read the metrics address")?;
    let registry = Arc::new(registry);
    let app = Router::new()
        .route("/metrics", get(move || std::future::ready(metrics(&registry))))
        .route("/healthz", get(|| std::future::ready("ok\n")));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "metrics endpoint ended");
        }
    });
    Ok(bound)
}

fn metrics(registry: &Registry) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// One line for programs.
pub(crate) fn print_line(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("write to stdout")
}
