//! transports: QUIC, WebTransport and WebSocket side by side, at the gateway of a running playground.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::Parser;
use seriatim_bench::transports::{self, Load};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sends messages over each of the three ways in, in turns, and prints the medians of each way. Exits 1 if a message was
/// refused.
#[derive(Parser)]
#[command(name = "transports", version)]
struct Options {
    /// the data folder of a running playground
    #[arg(long)]
    playground: PathBuf,
    /// turns of each way
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    turns: u16,
    /// messages of a turn
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    messages: u32,
    /// sends of one device that may be without an answer
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    window: u16,
    /// bytes of a body
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    body: u32,
    /// one JSON object and nothing else
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    seriatim_proto::panic::abort_on_panic();
    let options = Options::parse();
    let load = Load {
        turns: options.turns.into(),
        messages: options.messages as usize,
        window: options.window.into(),
        body_bytes: options.body as usize,
    };
    // The cluster runs on the same cores: the devices take half of them.
    let threads = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let ways = runtime.block_on(transports::run(&options.playground, load))?;
    if options.json {
        println!("{}", serde_json::to_string(&ways)?);
        return Ok(());
    }
    println!("medians of {} turns; messages of {} bytes to oneself, committed:", options.turns, options.body);
    for (name, way) in &ways {
        println!(
            "{name:>12}: {:>6.0} messages/s, {:>5.1} µs of the gateway each; alone p50 {:.2} ms, p99 {:.2} ms; Welcome after \
             {:.1} ms",
            way.msgs_per_s, way.gateway_cpu_us, way.alone_p50_ms, way.alone_p99_ms, way.connect_ms
        );
    }
    Ok(())
}
