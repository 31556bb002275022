//! Device: a connection over any of the three ways in that speaks as much of the protocol as a measurement needs, so
//! that what is measured is the gateway and the way, and no SDK.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use bytes::{Bytes, BytesMut};
use seriatim_client::raw::{Raw, RawEvent, RawTarget, RawTransport, Tuning};
use seriatim_proto::ids::{TenantId, UserId};
use seriatim_proto::playground::{FILE, Playground, PlaygroundRole};
use seriatim_proto::token::Minter;
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{self, v1};

/// Longest wait for a connection, a Welcome or an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// A device says this often that it lives.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long a device waits for a sign of the gateway; the gateway's own limit is shorter.
const IDLE: Duration = Duration::from_secs(120);

/// A playground as devices see it.
pub(crate) struct Site {
    gateway: SocketAddr,
    ca_pem: Vec<u8>,
    minter: Minter,
    ends_at_s: u64,
}

impl Site {
    /// What the playground's file says.
    pub(crate) fn read(playground: &Path) -> anyhow::Result<Self> {
        let path = playground.join(FILE);
        let about = std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
        let about: Playground = serde_json::from_slice(&about)?;
        let gateway = about.nodes.iter().find(|node| node.role == PlaygroundRole::Gateway);
        let gateway = gateway.context("the playground has no gateway")?.address.parse().context("its address")?;
        Ok(Self {
            gateway,
            ca_pem: std::fs::read(&about.ca_certificate)?,
            minter: Minter::from_private_pem(&std::fs::read(&about.token_private_key)?)?,
            ends_at_s: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 24 * 3_600,
        })
    }

    /// The gateway, as it is reached from the `nth` address of this machine; with `resumes` TLS is resumed where it can
    /// be.
    pub(crate) fn target(&self, nth: u8, resumes: bool) -> anyhow::Result<RawTarget> {
        ensure!(self.gateway.ip().is_loopback(), "use the gateway {}: only a loopback address", self.gateway);
        let local = IpAddr::V4(Ipv4Addr::new(127, 0, 1, nth));
        let tuning = Tuning { local: Some(local), keep_alive: KEEP_ALIVE, idle: IDLE, resumes };
        Ok(RawTarget::tuned(self.gateway, "localhost", &self.ca_pem, tuning)?)
    }

    /// A device of this user that was welcomed.
    pub(crate) async fn enter(&self, target: &RawTarget, way: RawTransport, user: &str) -> anyhow::Result<Device> {
        let token = self.minter.mint(TenantId(1), &UserId::new(user)?, self.ends_at_s)?;
        let raw = Raw::connect(target, way, PATIENCE).await.with_context(|| format!("failed to connect {user}"))?;
        let mut device = Device { raw, last_id: 0 };
        let control = device.open().await;
        device.ask(control, Asked::Hello(v1::Hello { token, device: "phone".to_owned(), ..Default::default() })).await;
        match device.answer().await? {
            (_, Said::Welcome(_)) => Ok(device),
            (_, other) => bail!("{user} heard {other:?} in the place of Welcome"),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Device {
    raw: Raw,
    last_id: u64,
}

impl Device {
    /// Opens a stream.
    pub(crate) async fn open(&mut self) -> u64 {
        self.raw.open().await
    }

    /// Asks on a stream; the number that the answer will have.
    pub(crate) async fn ask(&mut self, stream: u64, body: Asked) -> u64 {
        self.last_id += 1;
        let mut bytes = BytesMut::new();
        let frame = v1::ClientFrame { request_id: self.last_id, body: Some(body), ..Default::default() };
        wire::encode_frame(&frame, &mut bytes);
        self.raw.write(stream, &bytes, false).await;
        self.last_id
    }

    /// The next frame, and the number of the request that it answers.
    pub(crate) async fn answer(&mut self) -> anyhow::Result<(u64, Said)> {
        let event = tokio::time::timeout(PATIENCE, self.raw.next()).await.context("no answer")?;
        match event {
            Some(RawEvent::Frame(_, v1::ServerFrame { request_id, body: Some(body), .. })) => Ok((request_id, body)),
            other => bail!("heard {other:?} in the place of an answer"),
        }
    }

    /// What came and was not taken yet.
    pub(crate) fn heard(&mut self) -> Option<RawEvent> {
        self.raw.try_next()
    }
}

/// A message of this user to himself, under the `nth` id of a run: one command, and no inbox but his own.
pub(crate) fn message(user: &str, run: u64, nth: u64, body: Bytes) -> Asked {
    let id: Vec<u8> = run.to_be_bytes().into_iter().chain(nth.to_be_bytes()).collect();
    let conversation = v1::Conversation { id: Some(v1::conversation::Id::Peer(user.to_owned())) };
    let id = Bytes::from(id);
    Asked::Send(v1::Send {
        message_id: id.clone(),
        conversation: Some(conversation),
        salt: id,
        body,
        ..Default::default()
    })
}
