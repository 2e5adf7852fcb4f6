//! Makes Rust of `proto/inference.proto`: messages and the server's side of the service, and the
//! description that reflection hands out.

use std::{env, error::Error, fs, path::PathBuf};

const PROTO: &str = "proto/inference.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    // Cargo watches only what it is told of.
    println!("cargo::rerun-if-changed=build.rs");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(false).open_file(PROTO)?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo names no OUT_DIR")?);
    fs::write(out.join("inference.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .build_client(false)
        // Raw tensors stay where they were received.
        .bytes(".")
        .codec_path("crate::api::grpc::codec::Codec")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
