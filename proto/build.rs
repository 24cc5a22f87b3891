//! Compiles the protobuf files without a system `protoc`.

use std::error::Error;
use std::path::PathBuf;

const FILES: [&str; 6] = [
    "borg/v1/spec.proto",
    "borg/v1/borgmaster.proto",
    "borg/v1/borglet.proto",
    "borg/v1/peer.proto",
    "borg/v1/log.proto",
    "borg/v1/checkpoint.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    let rpc = std::env::var_os("CARGO_FEATURE_RPC").is_some();
    tonic_prost_build::configure()
        .build_client(rpc)
        .build_server(rpc)
        .btree_map(".")
        // Sent to every other master, and kept: shared in place of copied.
        .bytes(".borg.v1.RaftEntry.data")
        .compile_fds(descriptors)?;
    Ok(())
}
