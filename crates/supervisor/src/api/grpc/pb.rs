//! Rust types generated from `proto/inference.proto`.

#![expect(
    clippy::doc_markdown,
    clippy::enum_variant_names,
    clippy::too_many_lines,
    unreachable_pub,
    reason = "generated"
)]

tonic::include_proto!("inference");
