//! Server: what the `seriatim` binary does: one program, three roles, and a playground that runs them all.
//!
//! Each role reads its configuration once, here; makes its checked config; starts; prints one ready line on stdout;
//! and runs until SIGTERM or SIGINT. Logs go to stderr.
//!
//! # Failure
//! A role that cannot start says why on stderr and exits 1. A role that cannot go on (a failed fsync) does the same.
#![forbid(unsafe_code)]

mod admin;
mod client_ca;
mod config;
mod descriptors;
mod ops;
mod playground;
mod role;
mod stop;
mod token_keys;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use seriatim_mtls::{Mtls, Own};
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::error::ErrorCode;
use seriatim_store::StoreStartError;

/// The ordered message store under a messenger.
#[derive(Parser)]
#[command(name = "seriatim", version)]
struct Cli {
    /// threads that serve sockets; unless given, one per core
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// a store: replicas of Raft groups over RocksDB
    Store(config::StoreOptions),
    /// a logic node: the message service
    Logic(config::LogicOptions),
    /// a gateway: the QUIC door for devices
    Gateway(config::GatewayOptions),
    /// a whole cluster on this machine, as real processes on loopback ports
    Playground(playground::PlaygroundOptions),
    /// make a cluster of running stores
    Init(InitOptions),
}

/// `seriatim init`
#[derive(clap::Args)]
struct InitOptions {
    /// addresses of all stores, host:port
    #[arg(long, value_delimiter = ',', required = true)]
    stores: Vec<String>,
    /// data groups
    #[arg(long, default_value_t = seriatim_proto::limits::GROUPS_DEFAULT)]
    groups: u32,
    /// PEM file of the CAs of the nodes
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<std::path::PathBuf>,
    /// PEM file of an operator's certificate, `raftctl cert issue --role admin`
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<std::path::PathBuf>,
    /// PEM file of its private key
    #[arg(long, value_name = "FILE")]
    tls_key: Option<std::path::PathBuf>,
    /// development only: the stores speak no TLS
    #[arg(long)]
    insecure_plaintext: bool,
}

impl InitOptions {
    fn mtls(&self) -> anyhow::Result<Mtls> {
        let tls = config::Tls { ca: self.tls_ca.clone(), cert: self.tls_cert.clone(), key: self.tls_key.clone() };
        let own = Own { role: NodeRole::Admin, hosts: Vec::new() };
        let mtls = tls.files()?.map(|files| Mtls::once(&files, own)).transpose()?;
        Ok(Mtls::chosen(mtls, self.insecure_plaintext)?)
    }
}

/// Runs the program that the command line names, to its end.
pub fn main() -> ExitCode {
    seriatim_proto::panic::abort_on_panic();
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("SERIATIM_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,openraft=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cli.threads.map_or(cores, usize::from))
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(cli.command)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = code_of(&error).map_or_else(String::new, |code| format!("{code}: "));
            tracing::error!("{code}failed to {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The code of what every operator meets at a start.
fn code_of(error: &anyhow::Error) -> Option<ErrorCode> {
    error.chain().find_map(|cause| {
        if let Some(StoreStartError::Identity(identity)) = cause.downcast_ref() {
            return Some(identity.code());
        }
        let io = cause.downcast_ref::<std::io::Error>()?;
        (io.kind() == std::io::ErrorKind::AddrInUse).then_some(ErrorCode::AddressInUse)
    })
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Store(options) => role::run_store(options).await,
        Command::Logic(options) => role::run_logic(options).await,
        Command::Gateway(options) => role::run_gateway(options).await,
        Command::Playground(options) => playground::run(options).await,
        Command::Init(options) => {
            let cluster = admin::init_cluster(&options.mtls()?, &options.stores, options.groups).await?;
            ops::print_line(&serde_json::json!({"initialised": true, "cluster": cluster.to_string()}).to_string())
        }
    }
}
