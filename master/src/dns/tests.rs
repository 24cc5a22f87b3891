//! Messages in, messages out; and once over real sockets.

mod sockets;

use super::answer::{MOST_UDP, over_tcp};
use super::*;
use borg_cell::fixture::{Cell, info, service, with_task};
use borg_cell::state::CellState;
use borg_proto::JobId;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use proptest::prelude::*;

/// Ann's `web` of so many tasks, each on a machine of its own, in the cell `lab`.
fn web(tasks: u32) -> (Cell, JobId) {
    let mut cell = Cell::new();
    let spec = with_task(service("web", tasks, 100, 4 << 20), |task| {
        task.ports = vec!["http".parse().unwrap()];
    });
    let job = cell.submit("ann", spec);
    for index in 0..tasks {
        let mut info = info(1_000, 1 << 30, &[]);
        info.task_host = format!("10.0.{}.{}", index / 250, index % 250 + 1);
        let machine = cell.machine_with(&format!("m-{index}"), info);
        let id = cell.place(job, index, machine).unwrap();
        cell.up(id);
    }
    (cell, job)
}

struct Asker {
    names: Names,
    zone: Zone,
    standing: Standing,
}

impl Asker {
    fn of(state: CellState) -> Self {
        let zone = Zone::new(state.cell(), 2);
        Self { names: Names::new(state), zone, standing: Standing::Fresh }
    }

    fn bytes(&mut self, message: &[u8], carrier: Carrier) -> Option<Vec<u8>> {
        let made = answer(&mut self.names, &self.zone, self.standing, message, carrier)?;
        Some(made.bytes)
    }

    fn ask(&mut self, message: &Message, carrier: Carrier) -> Message {
        let bytes = self.bytes(&message.to_vec().unwrap(), carrier).unwrap();
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.metadata.id, message.metadata.id);
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        answer
    }

    fn udp(&mut self, name: &str, kind: RecordType) -> Message {
        self.ask(&question(name, kind), Carrier::Udp)
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_edns(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

fn shown(answer: &Message) -> Vec<String> {
    answer.answers.iter().map(ToString::to_string).collect()
}

#[test]
fn a_task_and_a_job_are_found_by_name_in_the_case_in_which_they_were_asked_for() {
    let mut asker = Asker::of(web(2).0.state);
    let found = asker.udp("1.WeB.anN.LAB.bOrg.", RecordType::A);
    assert_eq!(shown(&found), ["1.WeB.anN.LAB.bOrg. 1 IN A 10.0.0.2"]);
    assert!(found.metadata.authoritative && found.metadata.recursion_desired);
    assert!(!found.metadata.recursion_available);
    assert_eq!(found.queries[0].name().to_ascii(), "1.WeB.anN.LAB.bOrg.");
    let found = asker.udp("_http._tcp.web.ann.lab.borg.", RecordType::SRV);
    assert_eq!((found.answers.len(), found.additionals.len()), (2, 2));
    let RData::SRV(service) = &found.answers[0].data else { panic!("{found}") };
    let address = asker.udp(&service.target.to_ascii(), RecordType::A);
    assert_eq!(address.answers[0].data, found.additionals[0].data);
    let found = asker.udp("0.web.ann.lab.borg.", RecordType::TXT);
    assert!(shown(&found)[0].contains("state=running"), "{found}");
}

#[test]
fn what_is_not_there_is_told_apart_from_what_has_no_such_record() {
    let mut asker = Asker::of(web(1).0.state);
    let none = asker.udp("no.ann.lab.borg.", RecordType::A);
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
    let RData::SOA(soa) = &none.authorities[0].data else { panic!("{none}") };
    assert_eq!((none.authorities[0].ttl, soa.minimum), (1, 1), "how long it may be kept");
    let empty = asker.udp("0.web.ann.lab.borg.", RecordType::AAAA);
    assert_eq!(empty.metadata.response_code, ResponseCode::NoError);
    assert_eq!((empty.answers.len(), empty.authorities.len()), (0, 1));
    let zone = asker.udp("lab.borg.", RecordType::SOA);
    assert_eq!((zone.answers.len(), zone.authorities.len()), (1, 0));
}

#[test]
fn what_is_not_for_this_server_is_refused() {
    let mut asker = Asker::of(web(1).0.state);
    for (name, kind) in [
        ("web.ann.other.borg.", RecordType::A),
        ("web.ann.lab.borg.example.", RecordType::A),
        ("borg.", RecordType::NS),
        (".", RecordType::NS),
        ("lab.borg.", RecordType::AXFR),
    ] {
        let refused = asker.udp(name, kind);
        assert_eq!(refused.metadata.response_code, ResponseCode::Refused, "{name}");
        assert!(!refused.metadata.authoritative && refused.answers.is_empty());
    }
    let mut chaos = question("web.ann.lab.borg.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(asker.ask(&chaos, Carrier::Udp).metadata.response_code, ResponseCode::Refused);
    let any = asker.udp("web.ann.lab.borg.", RecordType::ANY);
    assert_eq!(any.answers.len(), 1);
    let update = Message::new(7, MessageType::Query, OpCode::Update);
    assert_eq!(asker.ask(&update, Carrier::Udp).metadata.response_code, ResponseCode::NotImp);
}

#[test]
fn from_a_state_that_may_be_too_old_there_is_no_answer_and_it_says_why() {
    let mut asker = Asker::of(web(1).0.state);
    asker.standing = Standing::Stale(Some(Millis(6_000)));
    let asked = with_edns(question("0.web.ann.lab.borg.", RecordType::A), 1_232);
    let failed = asker.ask(&asked, Carrier::Udp);
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    assert!(failed.answers.is_empty() && failed.authorities.is_empty());
    let bytes = asker.bytes(&asked.to_vec().unwrap(), Carrier::Udp).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(text.contains("confirmed this one's state for 6000 ms"), "{text}");
    let refused = asker.udp("other.", RecordType::A);
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused, "that does not grow old");
    asker.standing = Standing::Stale(None);
    let failed = asker.udp("0.web.ann.lab.borg.", RecordType::A);
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn what_does_not_fit_sends_to_tcp_where_it_is_whole() {
    let mut asker = Asker::of(web(300).0.state);
    let name = "web.ann.lab.borg.";
    let short = asker.udp(name, RecordType::A);
    assert!(short.metadata.truncation && short.answers.len() > 20, "{}", short.answers.len());
    for (payload, most) in [(100, 512), (600, 600), (4_096, MOST_UDP), (u16::MAX, MOST_UDP)] {
        let asked = with_edns(question(name, RecordType::A), payload).to_vec().unwrap();
        let bytes = asker.bytes(&asked, Carrier::Udp).unwrap();
        assert!(
            bytes.len() <= most.into() && bytes.len() + 16 > most.into(),
            "{payload}: {}",
            bytes.len()
        );
        let answer = Message::from_vec(&bytes).unwrap();
        assert!(answer.metadata.truncation && answer.edns.is_some());
    }
    for kind in [RecordType::A, RecordType::SRV] {
        let whole = asker.ask(&with_edns(question(name, kind), 1_232), Carrier::Tcp);
        assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 300));
    }
    let one = asker.udp("299.web.ann.lab.borg.", RecordType::SRV);
    assert!(!one.metadata.truncation);
}

/// Each is asked for by somebody else's order.
#[test]
fn of_a_job_that_fits_nowhere_each_answer_begins_with_another_task() {
    let mut asker = Asker::of(web(3).0.state);
    let mut first = || shown(&asker.udp("web.ann.lab.borg.", RecordType::A))[0].clone();
    let firsts: std::collections::BTreeSet<_> = (0..3).map(|_| first()).collect();
    assert_eq!(firsts.len(), 3);
}

#[test]
fn addresses_beside_an_answer_are_left_out_before_it_is_cut() {
    // So many that the services fit and the addresses do not.
    let mut asker = Asker::of(web(10).0.state);
    let answer = asker.udp("web.ann.lab.borg.", RecordType::SRV);
    assert_eq!((answer.metadata.truncation, answer.answers.len()), (false, 10));
    assert!(answer.additionals.is_empty());
}

fn raw(questions: u16, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![0, 9, 1, 0];
    message.extend(questions.to_be_bytes());
    message.extend([0; 6]);
    message.extend(rest);
    message
}

#[test]
fn malformed_messages_get_a_short_refusal_or_nothing() {
    let mut asker = Asker::of(web(1).0.state);
    let tail = [0, 0, 1, 0, 1];
    let label = |bytes: u8| [&[bytes][..], &vec![b'a'; bytes.into()]].concat();
    let long_name: Vec<u8> = (0..5).flat_map(|_| label(59)).collect();
    assert_eq!(long_name.len(), 300);
    let bad: [(&str, Vec<u8>); 8] = [
        ("a name of 300 bytes", raw(1, &[long_name, tail.to_vec()].concat())),
        ("a label of 64 bytes", raw(1, &[label(64), tail.to_vec()].concat())),
        ("a name that points at itself", raw(1, &[0xc0, 12, 0, 1, 0, 1])),
        ("two that point at each other", raw(1, &[0xc0, 14, 0xc0, 12, 0, 1, 0, 1])),
        ("a name that points behind the end", raw(1, &[0xff, 0xff, 0, 1, 0, 1])),
        ("no question", raw(0, &[])),
        ("65535 questions", raw(u16::MAX, &tail)),
        ("a question that ends early", raw(1, &[3, b'w', b'e'])),
    ];
    for (what, message) in bad {
        let answer = asker.bytes(&message, Carrier::Udp).unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::FormErr, "{what}");
        assert_eq!((answer.metadata.id, answer.queries.len()), (9, 0), "{what}");
    }
    let mut answered = question("lab.borg.", RecordType::A);
    answered.metadata.message_type = MessageType::Response;
    assert_eq!(
        asker.bytes(&answered.to_vec().unwrap(), Carrier::Udp),
        None,
        "no answer to an answer"
    );
    assert_eq!(asker.bytes(&[0; 11], Carrier::Udp), None);
    let mut newer = with_edns(question("lab.borg.", RecordType::A), 1_232);
    newer.edns.as_mut().unwrap().set_version(1);
    let code = asker.ask(&newer, Carrier::Udp).metadata.response_code;
    assert_eq!(u16::from(code), u16::from(ResponseCode::BADVERS));
}

/// What a real question becomes on a bad line.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        Just("web.ann.lab.borg."),
        Just("0.web.ann.lab.borg."),
        Just("_http._tcp.web.ann.lab.borg."),
        Just("lab.borg."),
    ];
    let kind = prop_oneof![
        Just(RecordType::A),
        Just(RecordType::SRV),
        Just(RecordType::TXT),
        Just(RecordType::ANY)
    ];
    let damage = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (name, kind, any::<Option<u16>>(), damage, any::<prop::sample::Index>(), any::<bool>())
        .prop_map(|(name, kind, payload, damage, end, cut)| {
            let message = question(name, kind);
            let message = match payload {
                Some(payload) => with_edns(message, payload),
                None => message,
            };
            let mut bytes = message.to_vec().unwrap();
            for (place, byte) in damage {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if cut {
                bytes.truncate(end.index(bytes.len()));
            }
            bytes
        })
}

thread_local! {
    static LARGE: std::cell::RefCell<Asker> = std::cell::RefCell::new(Asker::of(web(100).0.state));
}

fn is_sound(message: &[u8]) -> Result<(), TestCaseError> {
    LARGE.with_borrow_mut(|asker| {
        for (carrier, most) in [(Carrier::Udp, usize::from(MOST_UDP)), (Carrier::Tcp, 65_535)] {
            let Some(bytes) = asker.bytes(message, carrier) else { continue };
            prop_assert!(bytes.len() <= most);
            prop_assert_eq!(&bytes[..2], &message[..2]);
            prop_assert!(Message::from_vec(&bytes).is_ok());
        }
        if let Some(short) = over_tcp(message) {
            prop_assert!(short.bytes.len() <= message.len() && short.truncated);
        }
        Ok(())
    })
}

proptest! {
    #[test]
    fn no_bytes_end_the_server_or_get_more_than_fits(message in proptest::collection::vec(any::<u8>(), 0..600)) {
        is_sound(&message)?;
    }

    #[test]
    fn no_damaged_question_does_either(message in damaged()) {
        is_sound(&message)?;
    }

    /// A header of a question, and anything behind it.
    #[test]
    fn nor_does_anything_behind_a_good_header(
        rest in proptest::collection::vec(any::<u8>(), 0..300), more in 0_u8..2,
    ) {
        let mut message = raw(1, &rest);
        message[11] = more;
        is_sound(&message)?;
    }
}
