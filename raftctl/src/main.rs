//! raftctl: the operator's CLI. stdout is data, stderr is everything else.
//!
//! It asks stores over gRPC (their own view, linearizable and stale reads), gateways at their doors for operators, and
//! gateways over the public protocol, as a device would. `--playground` (or the last one started) answers where everything is.
//!
//! # Reading order
//! [`cli`] → [`target`] → [`failure`] → [`commands`].
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod conformance;
mod control;
mod device;
mod failure;
mod link;
mod operator;
mod output;
mod store;
mod survey;
mod target;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    seriatim_proto::panic::abort_on_panic();
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let format = cli.globals.output;
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failure::Failure::internal(format!("start the runtime: {error}")))
        .and_then(|runtime| runtime.block_on(commands::run(cli)));
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print(format);
            failure.exit.into()
        }
    }
}

/// Help goes to stdout as it is; a command line that is none is an error like any other.
fn misused(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        error.exit();
    }
    if cli::wants_json(std::env::args_os().skip(1)) {
        let text = error.to_string();
        let message = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
        failure::Failure::usage(message).hint("raftctl --help").print(cli::Format::Json);
        return failure::Exit::Usage.into();
    }
    error.exit()
}
