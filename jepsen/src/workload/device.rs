//! Device: one endpoint of a user, connected to one gateway at a time, that moves to another when it likes or must.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use seriatim_client::{Client, ConnectError};
use seriatim_proto::ids::UserId;
use tracing::debug;

use super::stage::Stage;

/// How long clients wait for an answer. Some give up early on purpose: their sends end unknown, and are sent again.
const PATIENCE: [Duration; 3] = [Duration::from_millis(800), Duration::from_secs(2), Duration::from_secs(5)];

/// One endpoint of a user.
pub(crate) struct Device {
    stage: Arc<Stage>,
    pub(crate) user: UserId,
    name: String,
    scopes: Option<&'static [&'static str]>,
    patience: Duration,
    gateway: usize,
    /// never moves by itself
    pinned: bool,
    client: Option<Client>,
}

impl Device {
    /// A device that connects when it is first used. How patient it is and where it begins is drawn.
    pub(crate) fn new(stage: &Arc<Stage>, user: UserId, name: &str, rng: &mut StdRng) -> Device {
        Device {
            stage: Arc::clone(stage),
            user,
            name: name.to_owned(),
            scopes: None,
            patience: PATIENCE[rng.random_range(0..PATIENCE.len())],
            gateway: rng.random_range(0..stage.site.gateways.len()),
            pinned: false,
            client: None,
        }
    }

    /// With a token for these scopes.
    pub(crate) fn with_scopes(mut self, scopes: &'static [&'static str]) -> Device {
        self.scopes = Some(scopes);
        self
    }

    /// That waits so long for each answer.
    pub(crate) fn with_patience(mut self, patience: Duration) -> Device {
        self.patience = patience;
        self
    }

    /// That stays with this gateway for good.
    pub(crate) fn at(mut self, gateway: usize) -> Device {
        self.gateway = gateway % self.stage.site.gateways.len();
        self.pinned = true;
        self
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The gateway it is with.
    pub(crate) fn gateway(&self) -> &str {
        &self.stage.site.gateways[self.gateway].0
    }

    /// The connection, made if there is none. If that fails, the device is with the next gateway afterwards.
    pub(crate) async fn client(&mut self) -> Result<Client, ConnectError> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        match self.connect().await {
            Ok(client) => Ok(client),
            Err(error) => {
                debug!(user = %self.user, gateway = self.gateway(), %error, "not connected");
                self.hop();
                Err(error)
            }
        }
    }

    /// The connection, made if there is none, with the gateway it is with and no other.
    pub(crate) async fn connect(&mut self) -> Result<Client, ConnectError> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let stage = &self.stage;
        let made = stage.connect(self.gateway, self.user.as_str(), &self.name, self.scopes, self.patience).await?;
        self.client = Some(made.clone());
        Ok(made)
    }

    /// Hangs up, and leaves for the next gateway unless it stays for good.
    pub(crate) fn hop(&mut self) {
        if !self.pinned {
            self.gateway = (self.gateway + 1) % self.stage.site.gateways.len();
        }
        self.client = None;
    }

    /// Hangs up; connects again when it is next used.
    pub(crate) fn hang_up(&mut self) {
        self.client = None;
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device({}/{} at {})", self.user, self.name, self.gateway())
    }
}
