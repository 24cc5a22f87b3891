//! What a message from the network asks, if it asks something that can be answered.
//!
//! Only the header, one question and the sender's limits are read, and nothing that comes after them.
//! Invariant: no bytes make this panic, and what it costs does not go by what the bytes claim.

use hickory_proto::op::Query;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// Bytes of a header.
pub(super) const HEADER: usize = 12;
/// Least that every client takes over UDP: RFC 1035, section 2.3.4.
pub(super) const LEAST_UDP: u16 = 512;
/// Code of the pseudo-record with the sender's limits: RFC 6891.
const OPT: u16 = 41;

/// A message that is to be answered.
#[derive(Debug)]
pub(super) struct Asked {
    /// To be repeated in the answer.
    pub id: u16,
    /// The same.
    pub recursion_desired: bool,
    /// What it asks.
    pub question: Result<Question, Wrong>,
}

/// A question that makes sense.
#[derive(Debug)]
pub(super) struct Question {
    /// Name, type and class, the name as it was written.
    pub query: Query,
    /// What the sender said of itself, if it did.
    pub limits: Option<Limits>,
}

/// What a sender says of itself: RFC 6891.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Most bytes of an answer over UDP.
    pub payload: u16,
    /// 0 is the only version that there is.
    pub version: u8,
    /// Whether it knows signatures: to be repeated, RFC 3225.
    pub dnssec_ok: bool,
}

/// Why a message gets an answer without its question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is no message.
    Format,
    /// It wants something else than an answer.
    Operation {
        /// What, to be repeated.
        code: u8,
    },
}

/// Reads a message. `None`: it is to be passed over, as it is no question, or too short to be answered; an answer
/// to an answer could go on for ever.
pub(super) fn read(message: &[u8]) -> Option<Asked> {
    let header = message.first_chunk::<HEADER>()?;
    let [id_high, id_low, flags, _, counts @ ..] = *header;
    if flags & 0x80 != 0 {
        return None;
    }
    let code = flags >> 3 & 0x0f;
    let question = match (code, counts) {
        (0, [0, 1, 0, 0, 0, 0, 0, more @ (0 | 1)]) => question(message, more == 1),
        (0, _) => Err(Wrong::Format),
        (code, _) => Err(Wrong::Operation { code }),
    };
    let id = u16::from_be_bytes([id_high, id_low]);
    Some(Asked { id, recursion_desired: flags & 1 != 0, question })
}

fn question(message: &[u8], has_more: bool) -> Result<Question, Wrong> {
    let mut decoder = BinDecoder::new(message);
    decoder.read_slice(HEADER).map_err(|_| Wrong::Format)?;
    let query = Query::read(&mut decoder).map_err(|_| Wrong::Format)?;
    let rest = message.get(decoder.index()..).unwrap_or_default();
    let limits = if has_more { Some(limits(rest).ok_or(Wrong::Format)?) } else { None };
    Ok(Question { query, limits })
}

/// The one record that may follow: that of the root, with the limits in the places of class and time to live.
fn limits(record: &[u8]) -> Option<Limits> {
    let [
        0,
        type_high,
        type_low,
        high,
        low,
        _,
        version,
        flags,
        _,
        size_high,
        size_low,
        options @ ..,
    ] = record
    else {
        return None;
    };
    let size = u16::from_be_bytes([*size_high, *size_low]);
    let is_whole = options.len() >= usize::from(size);
    (u16::from_be_bytes([*type_high, *type_low]) == OPT && is_whole).then(|| Limits {
        payload: u16::from_be_bytes([*high, *low]).max(LEAST_UDP),
        version: *version,
        dnssec_ok: flags & 0x80 != 0,
    })
}
