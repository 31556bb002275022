//! connections: what idle devices and handshakes cost the gateway of a running playground.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use seriatim_bench::connections::{self, Load};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Connects idle devices over QUIC to the first gateway, and reads from /proc what they cost it; before that, full and
/// resumed handshakes. Exits 1 if a device was refused or lost its connection.
#[derive(Parser)]
#[command(name = "connections", version)]
struct Options {
    /// the data folder of a running playground
    #[arg(long)]
    playground: PathBuf,
    /// devices that are connected and idle at the same time
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    connections: u32,
    /// seconds for which they are watched
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    idle: u32,
    /// handshakes of each kind
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(1..))]
    handshakes: u32,
    /// one JSON object and nothing else
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    seriatim_proto::panic::abort_on_panic();
    let options = Options::parse();
    let load = Load {
        connections: options.connections as usize,
        idle: Duration::from_secs(options.idle.into()),
        handshakes: options.handshakes as usize,
    };
    // The gateway has the other core.
    let threads = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let report = runtime.block_on(connections::run(&options.playground, load))?;
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
        return Ok(());
    }
    println!("{} idle devices over QUIC, keep-alive every {} s:", report.connections, report.keep_alive_s);
    println!("  {} bytes of the gateway's memory each", report.bytes_per_connection);
    println!("  {:.1} % of a core for all", report.idle_cpu_percent);
    println!("  {:.0} of them came a second, by the clock", report.arrivals_per_s_by_the_clock);
    println!("handshakes for each second of the gateway's processor time:");
    println!(
        "  {:.0} full ({:.0} a second by the clock)",
        report.handshakes_per_s, report.handshakes_per_s_by_the_clock
    );
    println!("  {:.0} resumed", report.resumed_per_s);
    Ok(())
}
