//! The protobuf forms of the vocabulary, and the checked way from one to the other.

#[allow(missing_docs, reason = "generated from the documented .proto files")]
#[allow(clippy::all, clippy::pedantic, reason = "generated")]
#[allow(unused_qualifications, unreachable_pub, missing_debug_implementations, reason = "generated")]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/borg.v1.rs"));
}
