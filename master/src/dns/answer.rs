//! From a question to the bytes of its answer.
//!
//! Which names there are and what they have is `borg_cell::bns::dns`'s; here is what the protocol wants beside
//! that: codes, the zone, sizes. Invariant: over UDP an answer is never longer than its sender takes, nor than
//! [`MOST_UDP`].

use super::question::{Asked, LEAST_UDP, Limits, Question, Wrong, read};
use super::records::{Below, Zone};
use borg_cell::bns::dns::{Names, Reply, Wanted};
use borg_proto::Millis;
use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

/// Longest answer over UDP, whatever the sender takes: what passes every network in one piece (DNS flag day 2020).
pub(super) const MOST_UDP: u16 = 1_232;
/// Longest answer over TCP, as its length has two bytes.
const MOST_TCP: u16 = u16::MAX;
/// Bytes of the pseudo-record with our limits.
const OPT_BYTES: u16 = 11;
/// Fewest bytes of a record: that of an address, its name shortened to a pointer.
const LEAST_RECORD: usize = 16;
/// Number of the option with an explanation: RFC 8914.
const EXPLANATION: u16 = 15;
/// The server has no answer yet, or none any more: RFC 8914, section 4.15.
const NOT_READY: u16 = 14;

/// Where in a message the flags are, and the one that says that something was left out: RFC 1035, section 4.1.1.
const FLAGS: usize = 2;
const TRUNCATED: u8 = 0x02;

/// What carries the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    /// One datagram.
    Udp,
    /// A connection.
    Tcp,
}

/// An answer, with what is counted of it.
#[derive(Debug)]
pub(super) struct Answer {
    /// To be sent.
    pub bytes: Vec<u8>,
    /// How it went.
    pub code: ResponseCode,
    /// Whether there is more than fitted.
    pub truncated: bool,
}

/// How old the state is, as far as that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// New enough.
    Fresh,
    /// It may be this old, or nothing is known of it.
    Stale(Option<Millis>),
}

/// Answers a message; `None` when it is to be passed over.
pub(super) fn answer(
    names: &mut Names,
    zone: &Zone,
    standing: Standing,
    message: &[u8],
    carrier: Carrier,
) -> Option<Answer> {
    let asked = read(message)?;
    let mut reply = Message::response(asked.id, OpCode::Query);
    reply.metadata.recursion_desired = asked.recursion_desired;
    match &asked.question {
        Err(Wrong::Format) => reply.metadata.response_code = ResponseCode::FormErr,
        Err(Wrong::Operation { code }) => {
            reply.metadata.op_code = OpCode::from_u8(*code);
            reply.metadata.response_code = ResponseCode::NotImp;
        }
        Ok(question) => fill(&mut reply, names, zone, standing, question, carrier),
    }
    encode(reply, most(&asked, carrier))
}

/// The same question without an answer: whoever asked has to ask over TCP. As long as the question at the most,
/// as long as that has one name.
pub(super) fn over_tcp(message: &[u8]) -> Option<Answer> {
    let asked = read(message)?;
    let question = asked.question.ok()?;
    let mut reply = Message::response(asked.id, OpCode::Query);
    reply.metadata.recursion_desired = asked.recursion_desired;
    reply.metadata.truncation = true;
    reply.add_query(question.query);
    if let Some(limits) = question.limits {
        reply.set_edns(edns(limits));
    }
    encode(reply, LEAST_UDP)
}

fn most(asked: &Asked, carrier: Carrier) -> u16 {
    match (carrier, &asked.question) {
        (Carrier::Tcp, _) => MOST_TCP,
        (Carrier::Udp, Ok(Question { limits: Some(limits), .. })) => limits.payload.min(MOST_UDP),
        (Carrier::Udp, _) => LEAST_UDP,
    }
}

fn edns(limits: Limits) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(MOST_UDP);
    edns.set_dnssec_ok(limits.dnssec_ok);
    edns
}

fn fill(
    reply: &mut Message,
    names: &mut Names,
    zone: &Zone,
    standing: Standing,
    question: &Question,
    carrier: Carrier,
) {
    let query = &question.query;
    reply.add_query(query.clone());
    if let Some(limits) = question.limits {
        reply.set_edns(edns(limits));
        if limits.version > 0 {
            reply.metadata.response_code = ResponseCode::BADVERS;
            return;
        }
    }
    let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    let below = zone.below(query.name());
    if below == Below::Outside || query.query_class() != DNSClass::IN || transfer {
        reply.metadata.response_code = ResponseCode::Refused;
        return;
    }
    if let Standing::Stale(age) = standing {
        reply.metadata.response_code = ResponseCode::ServFail;
        explain(reply, age);
        return;
    }
    let bytes = match carrier {
        Carrier::Udp => MOST_UDP,
        Carrier::Tcp => MOST_TCP,
    };
    let most = usize::from(bytes) / LEAST_RECORD;
    let found = match &below {
        Below::Labels(labels) => {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            names.answer(&labels, wanted(query.query_type()), most)
        }
        Below::Unreadable | Below::Outside => Reply::default(),
    };
    reply.metadata.authoritative = true;
    reply.metadata.truncation = found.more && carrier == Carrier::Udp;
    if !found.exists {
        reply.metadata.response_code = ResponseCode::NXDomain;
    }
    if found.answers.is_empty() {
        reply.add_authority(zone.authority(names.applied()));
    }
    let record = |record| zone.record(query.name(), record);
    reply.answers.extend(found.answers.iter().filter_map(record));
    reply.additionals.extend(found.additional.iter().filter_map(record));
}

fn explain(reply: &mut Message, age: Option<Millis>) {
    let Some(edns) = reply.edns.as_mut() else { return };
    let why = match age {
        Some(Millis(ms)) => {
            format!("no majority of the masters confirmed this one's state for {ms} ms")
        }
        None => "this master has just started and does not know the cell's state yet".to_owned(),
    };
    let data = [&NOT_READY.to_be_bytes(), why.as_bytes()].concat();
    edns.options_mut().insert(EdnsOption::Unknown(EXPLANATION, data));
}

const fn wanted(kind: RecordType) -> Wanted {
    match kind {
        RecordType::A => Wanted::A,
        RecordType::AAAA => Wanted::Aaaa,
        RecordType::SRV => Wanted::Srv,
        RecordType::TXT => Wanted::Txt,
        RecordType::NS => Wanted::Ns,
        RecordType::SOA => Wanted::Soa,
        RecordType::ANY => Wanted::Any,
        _ => Wanted::Other,
    }
}

/// At most so many bytes. What does not fit is left out, addresses beside the answer first; when some of the
/// answer does not, it says so.
fn encode(mut reply: Message, most: u16) -> Option<Answer> {
    let code = reply.metadata.response_code;
    let mut truncated = std::mem::take(&mut reply.metadata.truncation);
    let mut bytes = encoded(&reply, most)?;
    if is_cut(&bytes) {
        reply.additionals.clear();
        let edns = reply.edns.take();
        // Our limits are told in any case.
        let room = most - edns.as_ref().map_or(0, |_| OPT_BYTES);
        let kept = answers_in(&encoded(&reply, room)?);
        // Over TCP there is no other way to ask: the next answer begins with other tasks.
        truncated |= kept < reply.answers.len() && most < MOST_TCP;
        reply.answers.truncate(kept);
        reply.edns = edns;
        bytes = encoded(&reply, most)?;
    }
    let flags = bytes.get_mut(FLAGS)?;
    *flags = if truncated { *flags | TRUNCATED } else { *flags & !TRUNCATED };
    Some(Answer { bytes, code, truncated })
}

fn encoded(message: &Message, most: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(LEAST_UDP.into());
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(most);
    message.emit(&mut encoder).ok()?;
    Some(bytes)
}

/// Whether the encoder left something out.
fn is_cut(bytes: &[u8]) -> bool {
    bytes.get(FLAGS).is_some_and(|flags| flags & TRUNCATED != 0)
}

/// How many answers a message says that it has.
fn answers_in(bytes: &[u8]) -> usize {
    match *bytes {
        [_, _, _, _, _, _, high, low, ..] => u16::from_be_bytes([high, low]).into(),
        _ => 0,
    }
}
