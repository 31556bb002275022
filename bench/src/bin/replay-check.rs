//! replay-check: the verdict over one replay. Reads the source file and what the devices received, nothing else.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use seriatim_bench::check::{self, Verdict};
use seriatim_bench::script::Script;
use seriatim_bench::source::{self, Amount};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Judges a replay. Exits 0 only if nothing was lost, duplicated or reordered, and everything was acked.
#[derive(Parser)]
#[command(name = "replay-check", version)]
struct Options {
    /// the corpus file
    #[arg(long)]
    source: PathBuf,
    /// how many of its messages were replayed, or `all`
    #[arg(long, default_value = "20000")]
    messages: Amount,
    /// the folder of the records
    #[arg(long)]
    received: PathBuf,
    /// one JSON object on the last line
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    seriatim_proto::panic::abort_on_panic();
    let options = Options::parse();
    let script = Script::new(source::read(&options.source, options.messages)?)?;
    let verdict = check::check(&script, &options.received)?;
    print_verdict(&verdict)?;
    if options.json {
        print_line(&serde_json::to_string(&verdict)?)?;
    }
    // 12: a check found a violation, as in raftctl.
    Ok(if verdict.is_good() { ExitCode::SUCCESS } else { ExitCode::from(12) })
}

fn print_verdict(verdict: &Verdict) -> anyhow::Result<()> {
    let measures = &verdict.measures;
    let mut lines = vec![
        format!("sent {} · committed {} · received {}", verdict.sent, verdict.committed, verdict.received),
        format!("lost {} · duplicated {} · reordered {}", verdict.lost, verdict.duplicated, verdict.reordered),
        format!("entries on devices {} ({} devices of {} users)", verdict.entries, measures.devices, measures.users),
        format!(
            "{:.0} messages/s end to end · {:.1} s, {:.1} s of it in fault windows",
            measures.msgs_per_s, measures.elapsed_s, measures.fault_s
        ),
        format!("commit p50 {:.1} ms · p99 {:.1} ms", measures.commit_p50_ms, measures.commit_p99_ms),
        format!("delivery p50 {:.1} ms · p99 {:.1} ms", measures.deliver_p50_ms, measures.deliver_p99_ms),
    ];
    for fault in &measures.faults {
        lines.push(format!(
            "killed {} at {:.1} s: back after {} ms, felt for {} ms (longest pause between commits {} ms, slowest commit {} ms)",
            fault.node, fault.at_s, fault.restarted_after_ms, fault.window_ms, fault.longest_gap_ms, fault.slowest_commit_ms
        ));
    }
    lines.extend(verdict.findings.iter().map(|finding| format!("FOUND {finding}")));
    lines.push(if verdict.is_good() { "verdict: good" } else { "verdict: BAD" }.to_owned());
    lines.iter().try_for_each(|line| print_line(line))
}

fn print_line(line: &str) -> anyhow::Result<()> {
    use std::io::Write;
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}
