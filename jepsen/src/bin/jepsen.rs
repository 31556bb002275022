//! jepsen: the command line of the harness.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use seriatim_jepsen::check::selftest::selftest;
use seriatim_jepsen::check::{CheckOptions, EXIT_BROKEN, EXIT_INVALID, EXIT_VIOLATION, Outcome, check_history};
use seriatim_jepsen::nemesis::Catalogue;
use seriatim_jepsen::report::Recoveries;
use seriatim_jepsen::run::{self, Keep, Places, RunOptions, RunOutcome};
use seriatim_jepsen::sabotage::{self, SabotageOptions};
use seriatim_jepsen::workload::WorkloadKind;

/// Exit code of a command line that cannot be carried out; nothing was started.
const EXIT_USAGE: u8 = 2;
/// Seeds of a selftest.
const SELFTEST_SEEDS: u64 = 100;

/// Hurts a real Seriatim cluster, and tells the truth about what it then did.
///
/// Exits 0 if all was well, 12 on a violation, 11 if the run proves too little, 70 if the harness broke, 2 if it was
/// told nonsense.
#[derive(Parser)]
#[command(name = "jepsen", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// one run: start a cluster, hurt it under load, heal it, judge what clients saw
    Run {
        #[command(flatten)]
        shape: Shape,
        #[command(flatten)]
        output: Output,
        /// of everything that is drawn by lot; a new one unless given
        #[arg(long)]
        seed: Option<u64>,
    },
    /// the same options and the same seed as an earlier run
    Repeat {
        /// its folder
        run: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// runs of new seeds, one after another, until something breaks or the time is over
    Hunt {
        /// for how long
        #[arg(long, default_value_t = 1.0)]
        hours: f64,
        #[command(flatten)]
        shape: Shape,
        #[command(flatten)]
        output: Output,
        /// the first seed; the following ones count up
        #[arg(long)]
        seed: Option<u64>,
    },
    /// judges a run's folder again and writes its report again, or judges a bare history, ours or somebody else's
    Check {
        /// folder or file
        path: PathBuf,
        /// the verdict as JSON
        #[arg(long)]
        json: bool,
    },
    /// plants known bugs in a test build, one by one: each must be caught
    Sabotage {
        /// names of bugs, comma-separated; all unless given
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// of everything that is drawn by lot
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// do not play each scenario once more without its bug
        #[arg(long)]
        no_controls: bool,
        #[command(flatten)]
        output: Output,
    },
    /// how long clusters took to come back, by kind of fault, over good runs with --apart; and whether they kept to the
    /// bounds that are promised
    Recovery {
        /// their folders
        #[arg(required = true)]
        runs: Vec<PathBuf>,
        /// one JSON object on the last line
        #[arg(long)]
        json: bool,
    },
    /// workloads and faults
    List,
    /// checks the checkers: valid histories must be accepted, mutated ones refused
    Selftest {
        /// how many seeds
        #[arg(long, default_value_t = SELFTEST_SEEDS)]
        seeds: u64,
    },
}

/// What to run.
#[derive(Args)]
struct Shape {
    /// what clients do: see `list`
    #[arg(long, default_value = "mix")]
    workload: String,
    /// what hurts: kinds or families, comma-separated; `all`, `none`: see `list`
    #[arg(long, default_value = "all", value_delimiter = ',')]
    nemesis: Vec<String>,
    /// how long clients work, s
    #[arg(long, default_value_t = 180)]
    time: u64,
    /// operations a second, over all clients
    #[arg(long, default_value_t = 800)]
    rate: u32,
    /// pairs that chat, and counters; half as many groups and registers
    #[arg(long, default_value_t = 16)]
    keys: u32,
    /// users that chat
    #[arg(long, default_value_t = 24)]
    users: u32,
    /// stores
    #[arg(long, default_value_t = 5)]
    stores: u32,
    /// stores that the cluster is made of; the others join it, and take their share of the replicas
    #[arg(long, default_value_t = 3)]
    founders: u32,
    /// logic nodes
    #[arg(long, default_value_t = 3)]
    logic: u32,
    /// gateways
    #[arg(long, default_value_t = 2)]
    gateways: u32,
    /// data groups
    #[arg(long, default_value_t = 4)]
    groups: u32,
    /// auto, namespaces, switch, loopback
    #[arg(long, default_value = "auto")]
    network: String,
    /// what nodes speak with each other: mtls, plaintext
    #[arg(long, default_value = "mtls")]
    links: String,
    /// what the stores' data lies on: plain, fuse, tmpfs:MIB
    #[arg(long, default_value = "plain")]
    disk: String,
    /// product; chaos: the test build; chaos-low: the same with short logs, so that snapshots are installed
    #[arg(long, default_value = "product")]
    build: String,
    /// one fault at a time, and who leads is watched: for `recovery`
    #[arg(long)]
    apart: bool,
    /// folder with another version of the same build, which nodes run for a while
    #[arg(long, value_name = "FOLDER")]
    other: Option<PathBuf>,
}

/// Where to, and how it is said.
#[derive(Args)]
struct Output {
    /// one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// keep the nodes' data of good runs too, and the histories of a hunt's
    #[arg(long)]
    keep: bool,
    /// folder of all runs
    #[arg(long, default_value = "jepsen/store")]
    store: PathBuf,
    /// folder with seriatim and raftctl; that of this program unless given
    #[arg(long, env = "SERIATIM_BIN")]
    bin: Option<PathBuf>,
}

fn main() -> ExitCode {
    seriatim_proto::panic::abort_on_panic();
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("SERIATIM_LOG").unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .init();
    match command(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(EXIT_BROKEN)
        }
    }
}

fn command(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Run { shape, output, seed } => once(&shape.options(seed), &output),
        Command::Repeat { run, output } => match run::options_of(&run) {
            Ok(options) => once(&options, &output),
            Err(error) => Ok(refuse(&format!("{error:#}"))),
        },
        Command::Hunt { hours, shape, output, seed } => hunt(hours, &shape.options(seed), &output),
        Command::Check { path, json } => check(&path, json),
        Command::Sabotage { only, seed, no_controls, output } => sabotages(&only, seed, !no_controls, &output),
        Command::Recovery { runs, json } => Ok(recovery(&runs, json)),
        Command::List => {
            list();
            Ok(0)
        }
        Command::Selftest { seeds } => Ok(check_the_checkers(seeds)),
    }
}

impl Shape {
    fn options(&self, seed: Option<u64>) -> RunOptions {
        RunOptions {
            workload: self.workload.clone(),
            nemesis: self.nemesis.clone(),
            time_s: self.time,
            // Short enough to be typed again.
            seed: seed.unwrap_or_else(|| rand::random_range(1..1_000_000_000)),
            rate: self.rate,
            keys: self.keys,
            users: self.users,
            stores: self.stores,
            founders: self.founders,
            logic: self.logic,
            gateways: self.gateways,
            groups: self.groups,
            network: self.network.clone(),
            links: self.links.clone(),
            disk: self.disk.clone(),
            build: self.build.clone(),
            apart: self.apart,
            other: self.other.clone(),
        }
    }
}

impl Output {
    fn places(&self, keep: Keep) -> anyhow::Result<Places> {
        let bin = match &self.bin {
            Some(bin) => bin.clone(),
            None => {
                let own = std::env::current_exe().context("find this program")?;
                own.parent().map_or_else(PathBuf::new, Path::to_owned)
            }
        };
        let keep = if self.keep { Keep::Everything } else { keep };
        Ok(Places { root: self.store.clone(), bin, keep })
    }
}

fn refuse(why: &str) -> u8 {
    eprintln!("error: {why}");
    EXIT_USAGE
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().build().context("start the runtime")
}

fn once(options: &RunOptions, output: &Output) -> anyhow::Result<u8> {
    let places = output.places(Keep::Histories)?;
    let plan = match options.plan(&places.bin) {
        Ok(plan) => plan,
        Err(why) => return Ok(refuse(&why)),
    };
    eprintln!("{} for {} s, seed {}, faults: {:?}", options.workload, options.time_s, options.seed, plan.kinds);
    let outcome = runtime()?.block_on(run::run(options, &plan, &places));
    say(&outcome, output.json);
    Ok(outcome.verdict.exit_code())
}

fn say(outcome: &RunOutcome, json: bool) {
    eprint!("{}", outcome.text);
    eprintln!("  {}", outcome.run.join("report.html").display());
    if json {
        println!("{}", outcome.json());
    }
}

fn hunt(hours: f64, first: &RunOptions, output: &Output) -> anyhow::Result<u8> {
    if !(hours > 0.0 && hours <= 24.0 * 30.0) {
        return Ok(refuse(&format!("--hours {hours}: must be above 0, and at most 720")));
    }
    // Histories of a night fill a disk.
    let places = output.places(Keep::Verdict)?;
    let until = Instant::now() + Duration::from_secs_f64(hours * 3_600.0);
    let runtime = runtime()?;
    let mut options = first.clone();
    let (mut good, mut proving_little) = (0, 0);
    loop {
        let plan = match options.plan(&places.bin) {
            Ok(plan) => plan,
            Err(why) => return Ok(refuse(&why)),
        };
        let outcome = runtime.block_on(run::run(&options, &plan, &places));
        eprintln!("seed {}: {}", options.seed, outcome.text.lines().next().unwrap_or_default());
        good += u64::from(outcome.verdict == Outcome::Ok);
        proving_little += u64::from(outcome.verdict == Outcome::Invalid);
        let broke = matches!(outcome.verdict, Outcome::Violation | Outcome::Broken);
        if broke || Instant::now() >= until {
            say(&outcome, output.json);
            eprintln!("{good} runs were good, {proving_little} proved too little");
            // A hunt whose last run was good is no better than the others.
            let doubtful = !broke && proving_little > 0;
            return Ok(if doubtful { EXIT_INVALID } else { outcome.verdict.exit_code() });
        }
        options.seed = options.seed.wrapping_add(1);
    }
}

fn check(path: &Path, json: bool) -> anyhow::Result<u8> {
    let verdict = match std::fs::metadata(path) {
        Ok(about) if about.is_dir() => run::check_again(path)?,
        Ok(_) => check_history(path, &CheckOptions { finals_wanted: false, ..CheckOptions::default() })?,
        Err(error) => return Ok(refuse(&format!("{}: {error}", path.display()))),
    };
    eprint!("{}", RunOutcome::of(&verdict, path).text);
    if json {
        println!("{}", serde_json::to_string(&verdict).context("failed to make JSON of the verdict")?);
    }
    Ok(verdict.outcome.exit_code())
}

/// 12 if a bound was missed, 11 if there was too little to say.
fn recovery(runs: &[PathBuf], json: bool) -> u8 {
    let seen = match Recoveries::read(runs) {
        Ok(seen) => seen,
        Err(error) => return refuse(&format!("{error:#}")),
    };
    eprint!("{}", seen.text());
    if json {
        println!("{}", seen.json());
    }
    let judged = seen.judged();
    match judged.iter().any(|judged| judged.met == Some(false)) {
        true => EXIT_VIOLATION,
        false if judged.is_empty() || judged.iter().any(|judged| judged.met.is_none()) => EXIT_INVALID,
        false => 0,
    }
}

fn sabotages(only: &[String], seed: u64, controls: bool, output: &Output) -> anyhow::Result<u8> {
    let places = output.places(Keep::Histories)?;
    let only = match sabotage::parse(only) {
        Ok(only) => only,
        Err(why) => return Ok(refuse(&why)),
    };
    let total = only.len();
    let options = SabotageOptions { only, seed, controls, root: places.root, bin: places.bin };
    if let Err(why) = options.check() {
        return Ok(refuse(&why));
    }
    let report = runtime()?.block_on(sabotage::run(&options, |line| eprintln!("{line}")));
    eprintln!("caught {} of {total}", report.caught());
    if output.json {
        println!("{}", report.json(total));
    }
    Ok(if report.caught() == total {
        0
    } else if report.is_broken() {
        EXIT_BROKEN
    } else {
        EXIT_VIOLATION
    })
}

fn list() {
    println!("workloads");
    for kind in WorkloadKind::ALL {
        println!("  {:<26} {}", kind.name(), kind.about());
    }
    println!("faults (those with * are in `all`)");
    for kind in Catalogue::kinds() {
        let mark = if kind.in_all { '*' } else { ' ' };
        println!("{mark} {:<26} {} [{}]", kind.name, kind.about, kind.family);
    }
}

fn check_the_checkers(seeds: u64) -> u8 {
    let report = selftest(0..seeds);
    println!("valid histories: {} of {} accepted", report.accepted, report.valid);
    for mutation in &report.mutations {
        println!("{:<32} {} of {} caught", mutation.name, mutation.caught, mutation.applied);
    }
    for failure in &report.failures {
        println!("FAILED {failure}");
    }
    // What the checkers say of runs is worth nothing then.
    if report.is_good() { 0 } else { EXIT_BROKEN }
}
