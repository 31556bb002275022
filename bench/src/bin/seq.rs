//! seq: numbers of the sequence service over gRPC, beside Redis's INCR.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::Parser;
use seriatim_bench::seq::{self, Plan, Report, Turn};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Asks one logic node, with three stores behind it, for numbers over gRPC, and Redis (appendfsync always) for as many by
/// INCR, turn by turn. Exits 1 if a number came twice.
#[derive(Parser)]
#[command(name = "seq", version)]
struct Options {
    /// an empty folder on the disk to be measured
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,
    /// our program, with raftctl beside it; without it, the one beside this one
    #[arg(long, value_name = "FILE", overrides_with = "seriatim")]
    seriatim: Option<PathBuf>,
    /// redis-server; without it, Redis is not measured
    #[arg(long, value_name = "FILE", overrides_with = "redis")]
    redis: Option<PathBuf>,
    /// times that every system is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    turns: u16,
    /// seconds of each measurement
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// counters, asked in turn
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=2_048))]
    counters: u32,
    /// most calls without an answer; less is used if that is faster
    #[arg(long, default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(64..=16_384))]
    in_flight: u32,
    /// the last line is one JSON object; each turn is one on a line before
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    seriatim_proto::panic::abort_on_panic();
    let options = Options::parse();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let seriatim = match options.seriatim {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("seriatim"),
    };
    ensure!(seriatim.is_file(), "there is no {}: build it, or name it with --seriatim", seriatim.display());
    let plan = Plan {
        folder: options.data,
        seriatim,
        redis: options.redis,
        turns: options.turns.into(),
        measured: Duration::from_secs(options.seconds),
        counters: options.counters.into(),
        in_flight_max: options.in_flight as usize,
    };
    // The servers run on the same cores: the client takes half of them.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads((cores / 2).max(1)).enable_all().build()?;
    let mut lines = Vec::new();
    let report = runtime.block_on(seq::run(&plan, |turn| {
        if options.json {
            lines.push(serde_json::to_string(turn));
        }
        say(turn);
    }))?;
    if options.json {
        for line in lines {
            println!("{}", line?);
        }
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

fn say(turn: &Turn) {
    let redis = turn.redis_incr_per_s.map_or(String::new(), |per_s| format!(", Redis {per_s:.0} INCR/s"));
    eprintln!(
        "turn {}: {:.0} calls/s on streams ({} in flight), {:.0} alone{redis}; at half of it p99 {:.0} µs, while segments refill p99.9 {:.0} µs; \
         {:.0} numbers/s in large calls; {} numbers, none twice",
        turn.turn,
        turn.ours_single_per_s,
        turn.in_flight,
        turn.ours_unary_per_s,
        turn.p99_us,
        turn.p999_refill_us,
        turn.batched_numbers_per_s,
        turn.numbers,
    );
}

fn print(report: &Report) {
    println!("ours    {:>10.0} calls/s for one number each, on streams", report.ours_single_per_s);
    println!("        {:>10.0} calls/s for one number each, each a gRPC call of its own", report.ours_unary_per_s);
    println!("        {:>10.0} numbers/s, as many with each call as it may ask for", report.batched_numbers_per_s);
    println!(
        "        p99 {:.0} µs at half load; p99.9 {:.0} µs while segments refill",
        report.p99_us, report.p999_refill_us
    );
    if let (Some(per_s), Some(ratio)) = (report.redis_incr_per_s, report.ratio_redis) {
        println!("Redis   {per_s:>10.0} INCR/s, appendfsync always: ours does {ratio:.2} times as many");
    }
}
