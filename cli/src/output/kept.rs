//! What allocs left behind, as programs read it.

use borg_proto::wire::pb;
use serde::Serialize;

/// All that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.ListKeptDataResponse")]
pub struct KeptList {
    pub now_ms: u64,
    pub kept: Vec<KeptData>,
}

/// What an alloc left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.KeptData, documented there")]
pub struct KeptData {
    pub number: u64,
    pub alloc: String,
    pub incarnation: u32,
    pub machine: String,
    pub since_ms: u64,
    pub until_ms: u64,
    pub bytes: Option<u64>,
    pub run: Option<String>,
    pub note: String,
}

impl From<pb::ListKeptDataResponse> for KeptList {
    fn from(list: pb::ListKeptDataResponse) -> Self {
        Self { now_ms: list.now_ms, kept: list.kept.into_iter().map(KeptData::from).collect() }
    }
}

impl From<pb::KeptData> for KeptData {
    fn from(kept: pb::KeptData) -> Self {
        Self {
            number: kept.number,
            alloc: kept.alloc,
            incarnation: kept.incarnation,
            machine: kept.machine,
            since_ms: kept.since_ms,
            until_ms: kept.until_ms,
            bytes: kept.bytes,
            run: Some(kept.run).filter(|run| !run.is_empty()),
            note: kept.note,
        }
    }
}
