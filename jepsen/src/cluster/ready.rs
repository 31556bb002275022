//! Ready: does the cluster serve: every group led, every slot held, and messages committed?

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use seriatim_client::{Client, Conversation};
use seriatim_proto::limits;

use super::{Cluster, TokenClaims};

/// Users that the probe writes to: enough to meet every group.
const PROBES: u32 = 12;
/// Longest probe.
const PROBE_PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(250);

impl Cluster {
    /// Waits until every group has a leader, every slot a holder, and sends through every gateway are committed.
    pub async fn wait_until_serving(&self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let Err(error) = self.look().await else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(error.context(format!("wait for a cluster that serves: not after {patience:?}")));
            }
            tracing::debug!(error = format!("{error:#}"), "does not serve yet");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn look(&self) -> anyhow::Result<()> {
        self.stores_are_healthy().await?;
        let held: u32 = self.slot_holders().await.values().sum();
        ensure!(held == u32::from(limits::SLOTS), "{held} of {} slots are held", limits::SLOTS);
        futures_util::future::try_join_all(self.gateways().into_iter().map(|(name, address)| async move {
            let probed = tokio::time::timeout(PROBE_PATIENCE, self.probe(address)).await;
            match probed {
                Ok(probed) => probed.with_context(|| format!("send through {name}")),
                Err(_) => bail!("send through {name}: no end in {PROBE_PATIENCE:?}"),
            }
        }))
        .await
        .map(|_| ())
    }

    async fn probe(&self, gateway: std::net::SocketAddr) -> anyhow::Result<()> {
        let client = Client::builder(gateway, self.server_name())
            .ca_pem(&self.ca_pem())
            .token(self.token_for(&TokenClaims::of("probe")))
            .device("probe")
            .connect_timeout(PROBE_PATIENCE)
            .request_timeout(PROBE_PATIENCE)
            .connect()
            .await
            .context("connect")?;
        let sends = (0..PROBES).map(|number| {
            let client = &client;
            async move {
                let peer = Conversation::peer(&format!("probe-{number}")).context("name a peer")?;
                client.send(peer, "probe").await.context("send")
            }
        });
        let sent = futures_util::future::try_join_all(sends).await;
        client.close();
        sent.map(|_| ())
    }
}
