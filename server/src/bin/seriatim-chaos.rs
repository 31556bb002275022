//! The test build of `seriatim`: the same program with the named points and the sabotage switches of
//! `seriatim_proto::chaos` armed by `SERIATIM_CHAOS`. Never shipped.
#![forbid(unsafe_code)]

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Only here: no build of the other binary obeys it.
    if let Err(what) = seriatim_proto::chaos::arm(&std::env::var("SERIATIM_CHAOS").unwrap_or_default()) {
        eprintln!("failed to understand SERIATIM_CHAOS: {what}");
        return ExitCode::FAILURE;
    }
    let bent = std::env::var_os("SERIATIM_CHAOS_BOOT");
    if let Some(Err(what)) = bent.map(|file| seriatim_proto::chaos::bend_boot_time(file.into())) {
        eprintln!("failed to bend the boot time: {what}");
        return ExitCode::FAILURE;
    }
    seriatim_server::main()
}
