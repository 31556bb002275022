//! Server: starts a logic node, serves until told to stop, and gives its slots back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use seriatim_logic_core::Quotas;
use seriatim_mtls::{Door, Mtls, Unclear};
use seriatim_proto::grpc::logic_server::LogicServer as LogicGrpc;
use seriatim_proto::grpc::peer_server::PeerServer as PeerGrpc;
use seriatim_proto::grpc::sequence::sequence_service_server::SequenceServiceServer as SequenceGrpc;
use seriatim_proto::limits;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

use crate::brain::{Brain, INPUT_QUEUE};
use crate::config::LogicConfig;
use crate::metrics::Metrics;
use crate::sequence::{self, SequenceDoor};
use crate::service::Doors;
use crate::store_client::StoreClient;

/// Why a logic node does not start.
#[derive(Debug, thiserror::Error)]
pub enum LogicStartError {
    /// With TLS or without: one must be said.
    #[error(transparent)]
    Unclear(#[from] Unclear),
    /// It must know at least one store.
    #[error("no store is named")]
    NoStores,
    /// The address is taken, or not ours.
    #[error("listen on {address}")]
    Listen {
        /// which
        address: SocketAddr,
        /// why
        #[source]
        source: std::io::Error,
    },
}

/// Why a logic node stopped other than by request.
#[derive(Debug, thiserror::Error)]
pub enum LogicRunError {
    /// The gRPC server failed.
    #[error("serve gRPC")]
    Serve(#[source] tonic::transport::Error),
    /// The node's task ended.
    #[error("the node's task ended unexpectedly")]
    Ended,
}

/// A running logic node.
#[derive(Debug)]
pub struct LogicServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    /// No new streams; those that there are end by themselves.
    finish: watch::Sender<bool>,
    close: watch::Sender<bool>,
    brain: tokio::task::JoinHandle<()>,
    serve: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

/// What is said at the end has this long to go out.
const FAREWELL: Duration = Duration::from_millis(1_500);

/// Services behind a logic node's port.
const DOORS: [Door; 3] = [Door::Logic, Door::Peer, Door::Sequence];

impl LogicServer {
    /// Binds, connects to the stores and serves. The node opens itself as soon as a store answers.
    pub async fn start(config: LogicConfig, registry: &mut Registry) -> Result<LogicServer, LogicStartError> {
        let mtls = Mtls::chosen(config.mtls.clone(), config.insecure_plaintext)?;
        if config.stores.is_empty() {
            return Err(LogicStartError::NoStores);
        }
        let listen = |source| LogicStartError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let metrics = Metrics::register(registry);
        let (door, inputs) = mpsc::channel(INPUT_QUEUE);
        let stores = StoreClient::new(door.clone(), metrics.clone(), mtls.clone());
        let (standing, standing_seen) = watch::channel(None);
        let (stop, stopped) = watch::channel(false);
        let (finish, mut finishing) = watch::channel(false);
        let (close, closed) = watch::channel(false);
        let advertise = config.advertise.clone().unwrap_or_else(|| address.to_string());
        let quotas = Arc::new(Mutex::new(Quotas::new(&config.limits)));
        let brain = Brain::new(stores.clone(), (door.clone(), inputs), metrics, advertise, standing, quotas.clone());
        let doors = Doors {
            brain: door,
            standing: standing_seen,
            stores: stores.clone(),
            verifier: config.verifier.clone(),
            client_ca: config.client_ca.clone(),
            next_stream: Arc::new(AtomicU64::new(1)),
            quotas,
        };
        stores.connect(config.stores.iter().cloned());
        let frame_max = limits::INTERNAL_FRAME_BYTES_MAX as usize;
        let logic =
            LogicGrpc::new(doors.clone()).max_decoding_message_size(frame_max).max_encoding_message_size(frame_max);
        let sequence = SequenceGrpc::new(SequenceDoor::start(doors.clone(), stopped.clone()))
            .max_decoding_message_size(sequence::MESSAGE_BYTES_MAX);
        let peer = PeerGrpc::new(doors).max_decoding_message_size(frame_max).max_encoding_message_size(frame_max);
        let serve = Server::builder()
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20)
            .http2_keepalive_interval(Some(Duration::from_secs(1)))
            .http2_keepalive_timeout(Some(Duration::from_secs(3)))
            .add_service(InterceptedService::new(logic, mtls.guard(Door::Logic)))
            .add_service(InterceptedService::new(peer, mtls.guard(Door::Peer)))
            .add_service(InterceptedService::new(sequence, mtls.guard(Door::Sequence)))
            .serve_with_incoming_shutdown(seriatim_mtls::incoming(listener, &DOORS, closed, mtls), async move {
                let _ = finishing.wait_for(|finishing| *finishing).await;
            });
        Ok(LogicServer {
            address,
            stop,
            finish,
            close,
            brain: tokio::spawn(brain.run(stopped)),
            serve: tokio::spawn(serve),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then gives its slots back, within seconds.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send) -> Result<(), LogicRunError> {
        tokio::select! {
            () = shutdown => {}
            _ = &mut self.brain => return Err(LogicRunError::Ended),
            served = &mut self.serve => {
                return served.map_err(|_| LogicRunError::Ended)?.map_err(LogicRunError::Serve);
            }
        }
        self.stop.send_replace(true);
        let ended = tokio::time::timeout(Duration::from_secs(5), &mut self.brain).await;
        // Streams have ended with the brain, or are about to: who reads them is to hear why.
        self.finish.send_replace(true);
        let _ = tokio::time::timeout(FAREWELL, &mut self.serve).await;
        self.close.send_replace(true);
        self.serve.abort();
        if ended.is_err() {
            tracing::warn!("the node's task did not stop in time");
        }
        Ok(())
    }
}
