//! Compiles `proto/inference.proto` to messages, the server's side of the service, and the descriptor set that
//! reflection returns.

use std::{env, error::Error, fs, path::PathBuf};

const PROTO: &str = "proto/inference.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    // Naming one file turns off the default, which watches all of them.
    println!("cargo::rerun-if-changed=build.rs");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(false).open_file(PROTO)?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo did not set OUT_DIR")?);
    fs::write(out.join("inference.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .build_client(false)
        // `Bytes`, so that raw tensors are not copied.
        .bytes(".")
        .codec_path("crate::api::grpc::codec::Codec")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
