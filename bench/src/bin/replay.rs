//! replay: the chat corpus through a running playground, then the checker's verdict, as a process of its own.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context;
use clap::Parser;
use seriatim_bench::replay;
use seriatim_bench::script::Script;
use seriatim_bench::source::{self, Amount};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Replays real conversations and lets the checker judge what arrived. Exits as the checker does.
#[derive(Parser)]
#[command(name = "replay", version)]
struct Options {
    /// the data folder of a running playground
    #[arg(long)]
    playground: PathBuf,
    /// the corpus file
    #[arg(long)]
    source: PathBuf,
    /// folder for what the devices received; emptied first
    #[arg(long)]
    records: PathBuf,
    /// how many messages, or `all`
    #[arg(long, default_value = "20000")]
    messages: Amount,
    /// messages offered a second, instead of as many as it takes
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// leave the kills out
    #[arg(long)]
    no_faults: bool,
    /// conversations that run side by side
    #[arg(long, default_value_t = 128)]
    window: usize,
    /// one JSON object on the last line
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    seriatim_proto::panic::abort_on_panic();
    let options = Options::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("SERIATIM_LOG").unwrap_or_default())
        .with_writer(std::io::stderr)
        .init();
    let script = Script::new(source::read(&options.source, options.messages)?)?;
    let plan = replay::Options {
        playground: options.playground,
        records: options.records.clone(),
        rate: options.rate,
        faults: !options.no_faults,
        window: options.window,
    };
    // The cluster runs on the same cores: the devices take half of them.
    let threads = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let down = runtime.block_on(replay::run(script, &plan))?;
    let judged = judge(&options.source, options.messages, &options.records, options.json)?;
    if down.is_empty() {
        return Ok(judged);
    }
    let logs = plan.playground.join("logs");
    eprintln!("not a good run: {} ended without being told to; see {}", down.join(", "), logs.display());
    Ok(ExitCode::FAILURE)
}

/// The checker beside this program: it knows nothing of this process.
fn judge(
    source: &std::path::Path,
    messages: Amount,
    records: &std::path::Path,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe()?.with_file_name("replay-check");
    let mut command = Command::new(&program);
    command.arg("--source").arg(source).args(["--messages", &messages.to_string()]).arg("--received").arg(records);
    if json {
        command.arg("--json");
    }
    let status = command.status().with_context(|| format!("failed to start {}", program.display()))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
