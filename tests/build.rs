//! Generates the gRPC client from the supervisor's proto file.

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
