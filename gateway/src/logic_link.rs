//! Logic links: one gRPC stream to every logic node, made again when it drops.
//!
//! Which nodes there are comes from the configuration and from the nodes' own tables. A dead peer that does not
//! close its socket is noticed by HTTP/2 pings. All frames of a packet are handled under one lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seriatim_gateway_core::LinkId;
use seriatim_mtls::Mtls;
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::chaos::{self, Point};
use seriatim_proto::codec;
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::logic_client::LogicClient;
use seriatim_proto::limits;
use seriatim_proto::logic::GatewayResponse;
use tokio::task::{AbortHandle, JoinSet};
use tonic::transport::Endpoint;
use tonic::{Status, Streaming};
use tracing::{Instrument, info, info_span, warn};

use crate::hub::Hub;
use crate::outbox::Packets;

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("connect")]
    Connect(#[source] tonic::transport::Error),
    #[error("open the channel: {}", .0.message())]
    Open(Status),
    #[error("no welcome in time")]
    WelcomeTimeout,
    #[error("no welcome")]
    NoWelcome,
    #[error("refused: {0}")]
    Refused(seriatim_proto::error::Refusal),
    #[error("read a frame")]
    Frame(#[source] codec::CodecError),
    #[error("the stream broke: {}", .0.message())]
    Broken(Status),
    #[error("closed by the node")]
    Closed,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const WELCOME_TIMEOUT: Duration = Duration::from_secs(3);
/// A node that answers no ping for this long is dead.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_millis(1_500);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);
const WINDOW_BYTES: u32 = 8 << 20;

/// Keeps links to all nodes that the configuration or the tables name; ends only by abort.
pub(crate) async fn keep_links(hub: Arc<Hub>, seeds: Vec<String>, mtls: Mtls) {
    let mut nodes = hub.nodes();
    let mut links: JoinSet<String> = JoinSet::new();
    let mut running: HashMap<String, AbortHandle> = HashMap::new();
    loop {
        let listed = nodes.borrow_and_update().clone();
        for address in seeds.iter().chain(&listed) {
            if !running.contains_key(address) {
                let span = info_span!("logic_link", node = %address);
                let task =
                    keep_link(hub.clone(), address.clone(), seeds.contains(address), mtls.clone()).instrument(span);
                running.insert(address.clone(), links.spawn(task));
            }
        }
        tokio::select! {
            changed = nodes.changed() => if changed.is_err() { return },
            Some(ended) = links.join_next() => {
                if let Ok(address) = ended {
                    running.remove(&address);
                } else {
                    running.retain(|_, task| !task.is_finished());
                }
            }
        }
    }
}

/// Keeps one link, until its node is named no more.
async fn keep_link(hub: Arc<Hub>, address: String, seed: bool, mtls: Mtls) -> String {
    let mut pause = PAUSE_MIN;
    let mut told = false;
    loop {
        let began = Instant::now();
        let Err(error) = run_link(&hub, &address, &mtls).await;
        if began.elapsed() > PAUSE_MAX {
            (pause, told) = (PAUSE_MIN, false);
        }
        // Once per outage: the node may be away for long.
        if !std::mem::replace(&mut told, true) {
            let cause = match &error {
                LinkError::Connect(cause) => Some(seriatim_mtls::dial::why(cause)),
                error => std::error::Error::source(error).map(ToString::to_string),
            };
            warn!(%error, cause, "link lost");
        }
        if !seed && !hub.nodes().borrow().contains(&address) {
            return address;
        }
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn run_link(hub: &Hub, address: &str, mtls: &Mtls) -> Result<std::convert::Infallible, LinkError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(LinkError::Connect)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    let channel = mtls.connect(&endpoint, NodeRole::Logic).await.map_err(LinkError::Connect)?;
    let bytes_max = limits::INTERNAL_FRAME_BYTES_MAX as usize;
    let mut client =
        LogicClient::new(channel).max_decoding_message_size(bytes_max).max_encoding_message_size(bytes_max);
    let (link, outbox) = hub.begin_link();
    let _ended = EndLink { hub, link };
    let open = client.channel(Packets(outbox));
    let open = tokio::time::timeout(WELCOME_TIMEOUT, open).await.map_err(|_| LinkError::WelcomeTimeout)?;
    let mut stream = open.map_err(LinkError::Open)?.into_inner();
    let first = tokio::time::timeout(WELCOME_TIMEOUT, read(&mut stream)).await;
    let mut frames = first.map_err(|_| LinkError::WelcomeTimeout)??.into_iter();
    let Some(GatewayResponse::Welcome { result }) = frames.next() else { return Err(LinkError::NoWelcome) };
    let welcome = result.map_err(LinkError::Refused)?;
    let now = Instant::now();
    hub.with_router(|router| router.handle_link_up(now, link, &welcome)).map_err(LinkError::Refused)?;
    hub.metrics.links.inc();
    let _counted = CountDown(hub);
    info!(node = %welcome.node, "link up");
    let mut frames: Vec<_> = frames.collect();
    loop {
        let now = Instant::now();
        if !frames.is_empty() {
            hub.with_router(|router| {
                for frame in frames.drain(..) {
                    match &frame {
                        GatewayResponse::Push { .. } => chaos::hit(Point::GatewayPush),
                        GatewayResponse::Reply { .. } => chaos::hit(Point::GatewayReply),
                        _ => {}
                    }
                    router.handle_response(now, link, frame);
                }
            });
        }
        frames = read(&mut stream).await?;
    }
}

async fn read(stream: &mut Streaming<Packet>) -> Result<Vec<GatewayResponse>, LinkError> {
    let packet = stream.message().await.map_err(LinkError::Broken)?.ok_or(LinkError::Closed)?;
    packet.frames.iter().map(|frame| codec::decode(frame).map_err(LinkError::Frame)).collect()
}

/// Ends the link however its task ends.
struct EndLink<'a> {
    hub: &'a Hub,
    link: LinkId,
}

impl Drop for EndLink<'_> {
    fn drop(&mut self) {
        self.hub.end_link(self.link);
    }
}

struct CountDown<'a>(&'a Hub);

impl Drop for CountDown<'_> {
    fn drop(&mut self) {
        self.0.metrics.links.dec();
    }
}
