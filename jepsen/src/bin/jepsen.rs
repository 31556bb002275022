//! `jepsen`: the harness's command line.
fn main() {}
