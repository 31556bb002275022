//! Compiles the `.proto` files with protox: no system protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let internal = protox::compile(["proto/internal.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(internal)?;
    let client = protox::compile(["proto/seriatim/v1/client.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").build_client(false).build_server(false).compile_fds(client)?;
    let sequence = protox::compile(["proto/seriatim/sequence/v1/sequence.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(sequence)?;
    Ok(())
}
