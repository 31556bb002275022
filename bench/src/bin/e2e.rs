//! e2e: how many direct messages a running playground takes from device to device, and how fast.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::Parser;
use seriatim_bench::e2e::{self, BODY_BYTES_MIN, Load};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sends direct messages over QUIC, at full speed and then at an offered load, and times them where they arrive. Exits 1
/// if one was lost, doubled or reordered.
#[derive(Parser)]
#[command(name = "e2e", version)]
struct Options {
    /// the data folder of a running playground
    #[arg(long)]
    playground: PathBuf,
    /// pairs of devices
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    pairs: u16,
    /// sends of one pair that may be without an answer
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    window: u16,
    /// bytes of a body
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(BODY_BYTES_MIN as i64..=65_536))]
    body: u32,
    /// messages before each measurement
    #[arg(long, default_value_t = 4_000)]
    warm_up: u32,
    /// messages at full speed
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u32).range(1..))]
    messages: u32,
    /// messages a second offered in the second phase
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// seconds of it
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// one JSON object and nothing else
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    seriatim_proto::panic::abort_on_panic();
    let options = Options::parse();
    let load = Load {
        pairs: options.pairs.into(),
        window: options.window.into(),
        body_bytes: options.body as usize,
        warm_up: options.warm_up as usize,
        messages: options.messages as usize,
        rate: options.rate,
        seconds: options.seconds,
    };
    // The cluster runs on the same cores: the devices take half of them.
    let threads = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let report = runtime.block_on(e2e::run(&options.playground, load))?;
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
        return Ok(());
    }
    println!("full speed:   {:.0} messages/s committed and received", report.msgs_per_s);
    println!(
        "              p50 {:.1} ms, p99 {:.1} ms to the receiver's device",
        report.full_p50_ms, report.full_p99_ms
    );
    println!(
        "{:>6}/s:     p50 {:.1} ms, p99 {:.1} ms to the receiver's device",
        report.offered_per_s, report.deliver_p50_ms, report.deliver_p99_ms
    );
    println!(
        "              p50 {:.1} ms, p99 {:.1} ms until the sender had its answer",
        report.commit_p50_ms, report.commit_p99_ms
    );
    println!("{} messages: each came once, in order", report.messages);
    Ok(())
}
