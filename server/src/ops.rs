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

#[cfg(feature = "chaos")]
mod chaos {
    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
    use prometheus_client::metrics::MetricType;
    use prometheus_client::metrics::counter::ConstCounter;
    use prometheus_client::metrics::gauge::ConstGauge;

    /// How often the process came by each named point.
    #[derive(Debug)]
    pub(super) struct Hits;

    impl Collector for Hits {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
            let mut family =
                encoder.encode_descriptor("chaos_hits", "Times a named point was passed", None, MetricType::Counter)?;
            for (point, count) in seriatim_proto::chaos::hits() {
                ConstCounter::new(count).encode(family.encode_family(&[("point", point.name())])?)?;
            }
            let help = "How far the boot time is ahead of the truth, ms";
            let off = encoder.encode_descriptor("chaos_boot_off_ms", help, None, MetricType::Gauge)?;
            ConstGauge::new(seriatim_proto::chaos::boot_off_ms()).encode(off)?;
            Ok(())
        }
    }
}

/// Serves /metrics, /healthz and /readyz until the process ends; answers the address bound.
pub(crate) async fn serve(
    address: SocketAddr,
    registry: Registry,
    is_ready: impl Fn() -> bool + Send + Sync + 'static,
) -> anyhow::Result<SocketAddr> {
    #[cfg(feature = "chaos")]
    let registry = {
        let mut registry = registry;
        registry.register_collector(Box::new(chaos::Hits));
        registry
    };
    anyhow::ensure!(address.ip().is_loopback(), "serve metrics: {address} is not a loopback address");
    let listener =
        tokio::net::TcpListener::bind(address).await.with_context(|| format!("listen on {address} for metrics"))?;
    let bound = listener.local_addr().context("read the metrics address")?;
    let registry = Arc::new(registry);
    let is_ready = Arc::new(is_ready);
    let app = Router::new()
        .route("/metrics", get(move || std::future::ready(metrics(&registry))))
        .route("/healthz", get(|| std::future::ready("ok\n")))
        .route("/readyz", get(move || std::future::ready(ready(is_ready()))));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "metrics endpoint ended");
        }
    });
    Ok(bound)
}

fn ready(is_ready: bool) -> (StatusCode, &'static str) {
    if is_ready { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
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
