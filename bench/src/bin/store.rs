//! store: durable appends a second of three stores, beside JetStream and etcd.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::Parser;
use seriatim_bench::store::{self, Measured, Plan, Report};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Appends messages to three stores of ours, as a logic node does, and the same bytes to JetStream (three replicas in
/// files) and etcd, turn by turn. Each answer means durable as the system understands it: ours and etcd's are fsynced
/// on a majority, JetStream's are not.
#[derive(Parser)]
#[command(name = "store", version)]
struct Options {
    /// an empty folder on the disk to be measured
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,
    /// our program; without it, the one beside this one
    #[arg(long, value_name = "FILE", overrides_with = "seriatim")]
    seriatim: Option<PathBuf>,
    /// nats-server; without it, JetStream is not measured
    #[arg(long, value_name = "FILE", overrides_with = "nats_server")]
    nats_server: Option<PathBuf>,
    /// etcd; without it, etcd is not measured
    #[arg(long, value_name = "FILE", overrides_with = "etcd")]
    etcd: Option<PathBuf>,
    /// times that every system is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    turns: u16,
    /// seconds of each measurement; there are two of each system and turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// bytes of a body
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    body: u32,
    /// conversations, subjects, or prefixes of keys
    #[arg(long, default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    namespaces: u32,
    /// our data groups; without it, one for each core
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    groups: Option<u32>,
    /// streams of JetStream, each a Raft group of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    streams: u16,
    /// most appends without an answer; less is used if that is faster
    #[arg(long, default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(64..=65_536))]
    in_flight: u32,
    /// the last line is one JSON object; each measurement is one on a line before
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
        nats_server: options.nats_server,
        etcd: options.etcd,
        turns: options.turns.into(),
        measured: Duration::from_secs(options.seconds),
        body_bytes: options.body as usize,
        namespaces: options.namespaces.into(),
        groups: options.groups.unwrap_or(u32::try_from(cores)?),
        streams: options.streams.into(),
        in_flight_max: options.in_flight as usize,
    };
    // The servers run on the same cores: the client takes half of them.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads((cores / 2).max(1)).enable_all().build()?;
    let mut lines = Vec::new();
    let report = runtime.block_on(store::run(&plan, |measured| {
        if options.json {
            lines.push(serde_json::to_string(measured));
        }
        say(measured);
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

fn say(measured: &Measured) {
    eprintln!(
        "turn {} {:<9} {:>7.0} appends/s ({} in flight); at half of it p50 {:.2} ms, p99 {:.2} ms; \
         {:.1} µs of processor and {:.0} bytes to each disk for an append; fsync {:.2} ms",
        measured.turn,
        measured.system,
        measured.acked_per_s,
        measured.in_flight,
        measured.p50_ms,
        measured.p99_ms,
        measured.cpu_us_per_append,
        measured.device_bytes_per_append,
        measured.fsync_ms,
    );
}

fn print(report: &Report) {
    println!("ours        {:>8.0} appends/s, fsynced on a majority", report.ours_acked_per_s);
    println!("            p50 {:.2} ms, p99 {:.2} ms at half of that", report.p50_ms, report.p99_ms);
    println!(
        "            {:.2} rows and {:.0} bytes of log for an append; {:.0} bytes to each disk",
        report.rows_per_append, report.log_bytes_per_append, report.device_bytes_per_append
    );
    let peers = [
        ("jetstream", "not fsynced", report.jetstream_acked_per_s, report.ratio_jetstream),
        ("etcd", "fsynced on a majority", report.etcd_acked_per_s, report.ratio_etcd),
    ];
    for (name, how, per_s, ratio) in peers {
        if let (Some(per_s), Some(ratio)) = (per_s, ratio) {
            println!("{name:<11} {per_s:>8.0} appends/s, {how}: ours does {ratio:.1} times as many");
        }
    }
}
