//! sequence: how many requests of the sequence service a playground answers, and how fast.
//!
//! Clients ask for numbers of random counters over QUIC, each with so many requests under way; every number is kept
//! and checked to have come once. One JSON object on stdout; exits 1 if a number came twice.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use seriatim_client::Client;
use seriatim_proto::ids::{CounterName, TenantId, UserId};
use seriatim_proto::logic::Scopes;
use seriatim_proto::playground::{FILE, Playground, PlaygroundRole};
use seriatim_proto::token::Minter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Options {
    /// data folder of a running playground
    #[arg(long)]
    playground: PathBuf,
    /// how long
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// connections
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// requests under way on each connection
    #[arg(long, default_value_t = 16)]
    in_flight: usize,
    /// counters that are asked for in turn
    #[arg(long, default_value_t = 100)]
    counters: usize,
    /// numbers of one request
    #[arg(long, default_value_t = 1)]
    count: u32,
}

/// One answer: which counter, its first number, how long it took.
type Taken = (usize, u64, Duration);

fn main() -> anyhow::Result<ExitCode> {
    seriatim_proto::panic::abort_on_panic();
    let options = Options::parse();
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(run(options))
}

async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let about: Playground = serde_json::from_slice(&std::fs::read(options.playground.join(FILE))?)?;
    let minter = Minter::from_private_pem(&std::fs::read(&about.token_private_key)?)?;
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let token = minter.mint_for(TenantId(1), &UserId::new("bench")?, now_s + 3_600, Scopes::SEQUENCE)?;
    let gateway = about.nodes.iter().find(|node| node.role == PlaygroundRole::Gateway);
    let gateway = gateway.ok_or_else(|| anyhow::anyhow!("the playground has no gateway"))?.address.parse()?;
    let names: Vec<CounterName> =
        (0..options.counters).map(|place| CounterName::new(&format!("bench-{place}"))).collect::<Result<_, _>>()?;
    let mut askers = Vec::new();
    let began = Instant::now();
    let end = began + Duration::from_secs(options.seconds);
    for place in 0..options.clients {
        let client = Client::builder(gateway, "localhost")
            .ca_pem(&std::fs::read(&about.ca_certificate)?)
            .token(token.clone())
            .device(format!("bench-{place}"))
            .connect()
            .await?;
        for lane in 0..options.in_flight {
            let (client, names, count) = (client.clone(), names.clone(), options.count);
            // Spread over the counters by a step that meets them all.
            let mut turn = place * 7_919 + lane * 104_729;
            askers.push(tokio::spawn(async move {
                let mut taken: Vec<Taken> = Vec::new();
                while Instant::now() < end {
                    turn = (turn + 1) % names.len();
                    let asked = Instant::now();
                    let numbers = client.next_numbers(&names[turn], count).await?;
                    taken.push((turn, numbers.first.get(), asked.elapsed()));
                }
                anyhow::Ok(taken)
            }));
        }
    }
    let mut all: Vec<Taken> = Vec::new();
    for asker in askers {
        all.extend(asker.await??);
    }
    let elapsed_s = began.elapsed().as_secs_f64();
    let mut times: Vec<Duration> = all.iter().map(|(_, _, took)| *took).collect();
    times.sort_unstable();
    let at_ms = |percent: usize| times.get(times.len() * percent / 100).map_or(0.0, |took| took.as_secs_f64() * 1e3);
    let (p50_ms, p99_ms) = (at_ms(50), at_ms(99));
    all.sort_unstable();
    let twice =
        all.windows(2).filter(|pair| pair[0].0 == pair[1].0 && pair[1].1 < pair[0].1 + u64::from(options.count));
    let twice = twice.count();
    let report = serde_json::json!({
        "requests": all.len(),
        "requests_per_s": all.len() as f64 / elapsed_s,
        "numbers_per_s": all.len() as f64 * f64::from(options.count) / elapsed_s,
        "p50_ms": p50_ms,
        "p99_ms": p99_ms,
        "numbers_twice": twice,
    });
    println!("{report}");
    Ok(if twice == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
