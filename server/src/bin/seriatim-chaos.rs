//! The test build of `seriatim`: the same program with the named points and the sabotage switches of
//! `seriatim_proto::chaos` armed by `SERIATIM_CHAOS`. Never shipped.
#![forbid(unsafe_code)]

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    seriatim_server::main()
}
