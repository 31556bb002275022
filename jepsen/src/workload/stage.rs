//! Stage: what all clients of a run share.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use seriatim_client::{Client, ConnectError};
use tokio::sync::watch;

use super::cast::Cast;
use super::changes::Change;
use super::clock::Clock;
use super::notebook::Notebook;
use super::options::WorkloadOptions;
use super::pace::Pace;
use super::peeks::Peek;
use super::process::{Process, Processes};
use super::site::Site;

/// Shared by all clients.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) options: WorkloadOptions,
    pub(crate) cast: Cast,
    pub(crate) site: Site,
    pub(crate) clock: Clock,
    pub(crate) notebook: Notebook,
    pub(crate) pace: Pace,
    pub(crate) processes: Arc<Processes>,
    pub(crate) changes: Mutex<Vec<Change>>,
    pub(crate) peeks: Mutex<Vec<Peek>>,
    pub(crate) findings: Mutex<Vec<String>>,
    pub(crate) stop: watch::Receiver<bool>,
}

/// Findings that are kept.
const FINDINGS_MAX: usize = 1_000;
/// How long one dial may take.
pub(crate) const CONNECT_PATIENCE: Duration = Duration::from_secs(3);

impl Stage {
    /// A new client process.
    pub(crate) fn process(&self) -> Process {
        self.processes.begin()
    }

    /// Chance of one client: the same in every run of the seed.
    pub(crate) fn rng(&self, role: &str, place: usize) -> StdRng {
        let mut seed = [0u8; 32];
        seed[..8].copy_from_slice(&self.options.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&(place as u64).to_le_bytes());
        for (byte, letter) in seed[16..].iter_mut().zip(role.bytes()) {
            *byte = letter;
        }
        StdRng::from_seed(seed)
    }

    /// Something that must not be, and that no file of the run shows.
    pub(crate) fn find(&self, finding: String) {
        tracing::warn!(%finding, "found");
        let mut findings = self.findings.lock();
        if findings.len() < FINDINGS_MAX {
            findings.push(finding);
        }
    }

    /// Waits for the next turn of anybody; false: the run is over.
    pub(crate) async fn turn(&self) -> bool {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stopped| *stopped) => false,
            () = self.pace.turn() => true,
        }
    }

    /// Waits so long; false: the run is over.
    pub(crate) async fn rest(&self, pause: Duration) -> bool {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stopped| *stopped) => false,
            () = tokio::time::sleep(pause) => true,
        }
    }

    /// Is the run over?
    pub(crate) fn is_over(&self) -> bool {
        *self.stop.borrow()
    }

    /// Ends when the run is over.
    pub(crate) async fn over(&self) {
        let mut stop = self.stop.clone();
        // A sender that is gone has stopped too.
        let _ = stop.wait_for(|stopped| *stopped).await;
    }

    /// Connects an honest device to one gateway.
    pub(crate) async fn connect(
        &self,
        gateway: usize,
        user: &str,
        device: &str,
        scopes: Option<&'static [&'static str]>,
        patience: Duration,
    ) -> Result<Client, ConnectError> {
        let (_, address) = &self.site.gateways[gateway % self.site.gateways.len()];
        let (site, name) = (self.site.clone(), user.to_owned());
        let builder = Client::builder(*address, &self.site.server_name)
            .endpoint(&self.site.endpoint)
            .token_provider(move || site.token(&name, scopes))
            .device(device);
        builder.connect_timeout(CONNECT_PATIENCE).request_timeout(patience).connect().await
    }
}
