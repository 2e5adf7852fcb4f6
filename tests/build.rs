//! Makes the client's side of gRPC from the supervisor's own description of it.

use std::error::Error;

const DIRECTORY: &str = "../crates/supervisor/proto";
const PROTO: &str = "../crates/supervisor/proto/inference.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    println!("cargo::rerun-if-changed=build.rs");
    let description = protox::compile([PROTO], [DIRECTORY])?;
    tonic_prost_build::configure().build_server(false).bytes(".").compile_fds(description)?;
    Ok(())
}
