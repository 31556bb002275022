//! Server: one store process from its start to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::service::interceptor::InterceptedService;

use seriatim_mtls::{Door, Mtls, Unclear};
use seriatim_proto::grpc::admin_server::AdminServer;
use seriatim_proto::grpc::raft_server::RaftServer;
use seriatim_proto::grpc::store_server::StoreServer as GrpcStoreServer;
use seriatim_proto::ids::GroupId;
use seriatim_proto::limits;
use seriatim_proto::store::{Read, ReadOutcome};

use crate::admin::AdminService;
use crate::check;
use crate::clock;
use crate::config::{StoreConfig, Tuning};
use crate::disk::DiskGuard;
use crate::fatal::FatalSignal;
use crate::host::{Host, Parts};
use crate::identity::{DataFolder, IdentityError};
use crate::meta;
use crate::metrics::StoreMetrics;
use crate::moves;
use crate::raft::group::RaftHost;
use crate::raft::log_store::LogOpenError;
use crate::remote::Remote;
use crate::retention;
use crate::rocks::state_db::{StateDb, StateDbError};
use crate::rot;
use crate::scrub;
use crate::service::StoreService;

/// Why a store does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreStartError {
    /// With TLS or without: one must be said.
    #[error(transparent)]
    Unclear(#[from] Unclear),
    /// The port is taken, or the address is not ours.
    #[error("listen on {address}")]
    Listen {
        /// the configured address
        address: SocketAddr,
        /// why
        #[source]
        source: std::io::Error,
    },
    /// The data folder is in use, damaged or somebody else's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A database cannot be opened, or a thread not started.
    #[error("open the store's data")]
    Open(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Something failed while the groups were opened.
    #[error("open the groups: {reason}")]
    Groups {
        /// what
        reason: String,
    },
}

/// Why a running store ended by itself. The process must end too: nothing here is retried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreRunError {
    /// A write, an fsync or a row failed.
    #[error("the store must stop: {reason}")]
    Fatal {
        /// what failed
        reason: String,
    },
    /// The gRPC server ended.
    #[error("serve gRPC: {reason}")]
    Serve {
        /// why
        reason: String,
    },
}

/// A running store.
pub struct StoreServer {
    address: SocketAddr,
    host: Arc<Host>,
    fatal: FatalSignal,
    closed: watch::Sender<bool>,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
    tasks: Vec<JoinHandle<()>>,
    /// `None` only while it is dropped.
    groups: Option<tokio::runtime::Runtime>,
}

impl std::fmt::Debug for StoreServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl StoreServer {
    /// Binds, opens the data, replays, and serves.
    pub async fn start(config: StoreConfig, registry: &mut Registry) -> Result<Self, StoreStartError> {
        Self::start_tuned(config, Tuning::default(), registry).await
    }

    /// As [`StoreServer::start`], with bounds of one's own.
    pub async fn start_tuned(
        config: StoreConfig,
        tuning: Tuning,
        registry: &mut Registry,
    ) -> Result<Self, StoreStartError> {
        let mtls = Mtls::chosen(config.mtls.clone(), config.insecure_plaintext)?;
        let listen = |source| StoreStartError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let advertised = config.advertise.clone().unwrap_or_else(|| address.to_string());
        let groups = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(tuning.group_threads.max(1))
            .thread_name("groups")
            .enable_all()
            .build()
            .map_err(open)?;
        let metrics = StoreMetrics::new(registry);
        let remote = Remote::new(mtls.clone());
        let fatal = FatalSignal::of(config.data_dir.clone());
        let sockets = tokio::runtime::Handle::current();
        let opened = {
            let (fatal, groups, advertised) = (fatal.clone(), groups.handle().clone(), advertised.clone());
            let mtls = mtls.clone();
            tokio::task::spawn_blocking(move || {
                let mut folder = DataFolder::open(&config.data_dir)?;
                folder.check_address(&advertised)?;
                let disk = DiskGuard::new(config.data_dir.clone(), config.disk_reserve_bytes).map_err(open)?;
                let databases = |folder: &DataFolder| {
                    let state = StateDb::open(folder.path(), &tuning).map_err(Unopened::of_state)?;
                    let raft = RaftHost::open(
                        folder.path(),
                        &folder.dead(),
                        &tuning,
                        &fatal,
                        (sockets.clone(), mtls.clone()),
                        groups.clone(),
                    );
                    Ok((Arc::new(state), raft.map_err(Unopened::of_log)?))
                };
                let noted = rot::noted(folder.path()).map_err(open)?;
                let opened = match &noted {
                    Some(what) if sockets.block_on(rot::all_can_spare_at_start(&remote, &folder, what)) => {
                        Err(Unopened::Rot(what.clone()))
                    }
                    _ => databases(&folder),
                };
                let (rot, opened) = match opened {
                    Err(Unopened::Rot(what)) => {
                        rot::set_aside(&mut folder, &what)?;
                        (Some(what), databases(&folder))
                    }
                    opened => {
                        // It goes on as it is, and asks again (rot.rs).
                        noted.into_iter().for_each(|what| fatal.note_damage(what));
                        (None, opened)
                    }
                };
                let (state, raft) = opened.map_err(Unopened::into_error)?;
                Ok::<_, StoreStartError>(Parts {
                    rot,
                    scrub_bytes_per_s: config.scrub_bytes_per_s,
                    domain: config.domain,
                    folder,
                    address: advertised,
                    raft,
                    state,
                    disk: Arc::new(disk),
                    metrics,
                    fatal,
                    tuning,
                    groups,
                    remote,
                })
            })
        };
        let parts = match opened.await.map_err(open).and_then(|opened| opened) {
            Ok(parts) => parts,
            Err(error) => {
                // A runtime that is dropped here would block this one, which is not allowed.
                groups.shutdown_background();
                return Err(error);
            }
        };
        parts.raft.register(registry);
        let host = Host::new(parts);
        let (closed, closing) = watch::channel(false);
        let serving = tokio::spawn(serve(Arc::clone(&host), listener, closing, mtls));
        let mut server = Self { address, host, fatal, closed, serving, tasks: Vec::new(), groups: Some(groups) };
        server.open_groups().await?;
        // They touch RocksDB, so they run where the groups run.
        let groups = server.host.groups().clone();
        server.tasks.push(groups.spawn(meta::follow_directory(Arc::clone(&server.host))));
        server.tasks.push(groups.spawn(meta::tend(Arc::clone(&server.host))));
        server.tasks.push(groups.spawn(moves::plan(Arc::clone(&server.host))));
        server.tasks.push(groups.spawn(scrub::run(Arc::clone(&server.host))));
        server.tasks.push(groups.spawn(check::run(Arc::clone(&server.host))));
        server.tasks.push(groups.spawn(clock::watch(Arc::clone(&server.host))));
        server.tasks.push(groups.spawn(retention::run(Arc::clone(&server.host))));
        server.tasks.push(groups.spawn(moves::tell_domain(Arc::clone(&server.host))));
        server.tasks.push(groups.spawn(rot::report(Arc::clone(&server.host))));
        server.tasks.push(groups.spawn(moves::learn_directory(Arc::clone(&server.host))));
        Ok(server)
    }

    /// What runs here.
    #[cfg(test)]
    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs until `shutdown`, then gives leaderships away and stops. An error is fatal for the process.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send) -> Result<(), StoreRunError> {
        let fatal = self.fatal.clone();
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            reason = fatal.raised() => Err(StoreRunError::Fatal { reason: reason.to_string() }),
            served = &mut self.serving => Err(StoreRunError::Serve {
                reason: match served {
                    Ok(Ok(())) => "the server ended".to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                },
            }),
        };
        if ended.is_ok() {
            self.host.stop().await;
            // What failed while stopping is fatal all the same.
            if let Some(reason) = self.fatal.reason() {
                return Err(StoreRunError::Fatal { reason: reason.to_string() });
            }
        }
        ended
    }

    /// All groups that this store had when it stopped, concurrently: each replays its log.
    async fn open_groups(&self) -> Result<(), StoreStartError> {
        let directory = seriatim_store_core::read(&self.host.state().reader(), GroupId::META, &Read::Directory);
        let named = async {
            match directory {
                Ok(ReadOutcome::Directory(Some(directory))) => meta::start_named(&self.host, &directory).await,
                Ok(_) => (),
                Err(fatal) => self.fatal.raise_of(format_args!("the directory cannot be read"), &fatal),
            }
        };
        tokio::join!(self.host.start_meta(), named);
        match self.fatal.reason() {
            Some(reason) => Err(StoreStartError::Groups { reason: reason.to_string() }),
            None => Ok(()),
        }
    }
}

impl Drop for StoreServer {
    fn drop(&mut self) {
        self.closed.send_replace(true);
        self.tasks.iter().for_each(JoinHandle::abort);
        if let Some(groups) = self.groups.take() {
            // Waited for, in a thread because a runtime must not block in another one: a process that ends while these
            // threads are still in RocksDB is aborted by what C++ destroys at exit. Each ends at its next await.
            let stopping = std::thread::spawn(move || groups.shutdown_timeout(GROUPS_STOP));
            // A panic in the thread has been reported by its own hook.
            let _ = stopping.join();
        }
    }
}

/// Services behind a store's port.
const DOORS: [Door; 3] = [Door::Store, Door::Raft, Door::Admin];

async fn serve(
    host: Arc<Host>,
    listener: TcpListener,
    closing: watch::Receiver<bool>,
    mtls: Mtls,
) -> Result<(), tonic::transport::Error> {
    let frame_bytes = limits::INTERNAL_FRAME_BYTES_MAX as usize;
    let raft = host.raft().service();
    tonic::transport::Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES)
        .http2_keepalive_interval(Some(Duration::from_secs(2)))
        .add_service(InterceptedService::new(
            GrpcStoreServer::new(StoreService::new(Arc::clone(&host)))
                .max_decoding_message_size(frame_bytes)
                .max_encoding_message_size(frame_bytes),
            mtls.guard(Door::Store),
        ))
        .add_service(InterceptedService::new(
            RaftServer::new(raft).max_decoding_message_size(frame_bytes).max_encoding_message_size(frame_bytes),
            mtls.guard(Door::Raft),
        ))
        .add_service(InterceptedService::new(AdminServer::new(AdminService::new(host)), mtls.guard(Door::Admin)))
        .serve_with_incoming(seriatim_mtls::incoming(listener, &DOORS, closing, mtls))
        .await
}

/// Why the databases of a folder do not open.
enum Unopened {
    /// they are damaged
    Rot(String),
    /// anything else
    Failed(StoreStartError),
}

impl Unopened {
    fn of_state(error: StateDbError) -> Self {
        if error.is_rot() { Self::Rot(chain(&error)) } else { Self::Failed(open(error)) }
    }

    fn of_log(error: LogOpenError) -> Self {
        if error.is_rot() { Self::Rot(chain(&error)) } else { Self::Failed(open(error)) }
    }

    fn into_error(self) -> StoreStartError {
        match self {
            Self::Rot(reason) => StoreStartError::Groups { reason },
            Self::Failed(error) => error,
        }
    }
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}

fn open(error: impl std::error::Error + Send + Sync + 'static) -> StoreStartError {
    StoreStartError::Open(Box::new(error))
}

/// How long a store that ends waits for what its groups are just doing: a write, a flush.
const GROUPS_STOP: Duration = Duration::from_secs(5);
/// HTTP/2 window of one stream: a batch or two.
const WINDOW_BYTES: u32 = 4 << 20;
