//! Laws of the wire: what goes out comes back the same, and no bytes do harm.

use super::{DecodeError, WireError, pb, sample};
use crate::command::{Action, Command, Principal};
use crate::names::{IncarnationId, JobId, ReplicaId, TaskId};
use crate::peer::{ShardOrders, ShardReport};
use crate::poll::{PollAnswer, PollRequest};
use crate::spec::JobSpec;
use crate::task::{FailureCause, MAX_CAUSE_BYTES};
use crate::time::Millis;
use crate::wire::Change;
use proptest::prelude::*;
use prost::Message;

/// Through bytes and back.
fn back<T, P>(value: &T) -> T
where
    P: Message + Default + for<'a> From<&'a T>,
    T: TryFrom<P, Error = WireError>,
{
    let bytes = P::from(value).encode_to_vec();
    T::try_from(P::decode(&*bytes).unwrap()).unwrap()
}

/// Reads bytes as every kind of message; whatever comes out must be as good as if built here, so
/// it survives the way out and back.
fn read_as_everything(bytes: &[u8]) {
    fn read<T, P>(bytes: &[u8])
    where
        P: Message + Default + for<'a> From<&'a T>,
        T: TryFrom<P, Error = WireError> + PartialEq + std::fmt::Debug,
    {
        let Ok(message) = P::decode(bytes) else { return };
        match T::try_from(message) {
            Ok(value) => assert_eq!(back::<T, P>(&value), value),
            Err(error) => assert!(error.to_string().len() < 2_000, "{error}"),
        }
    }
    read::<JobSpec, pb::JobSpec>(bytes);
    read::<PollRequest, pb::PollRequest>(bytes);
    read::<PollAnswer, pb::PollAnswer>(bytes);
    read::<ShardOrders, pb::ShardOrders>(bytes);
    read::<ShardReport, pb::ShardReport>(bytes);
    if let Ok(command) = Command::decode(bytes) {
        assert_eq!(Command::decode(&command.encode()).unwrap(), command);
    }
}

/// Replaces, cuts out or doubles a piece of an encoding.
fn mutate(mut bytes: Vec<u8>, changes: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
    for (index, how, value) in changes {
        if bytes.is_empty() {
            break;
        }
        let at = index.index(bytes.len());
        match how % 4 {
            0 => bytes[at] = *value,
            1 => bytes[at] ^= 1 << (value % 8),
            2 => bytes.truncate(at),
            _ => bytes.extend_from_within(at..),
        }
    }
    bytes
}

fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8, u8)>> {
    prop::collection::vec(any::<(prop::sample::Index, u8, u8)>(), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_command_survives_its_bytes(command in sample::command()) {
        let bytes = command.encode();
        prop_assert_eq!(&Command::decode(&bytes).unwrap(), &command);
        prop_assert_eq!(command.encode(), bytes);
    }

    #[test]
    fn a_job_survives_its_bytes(spec in sample::job_spec()) {
        spec.check().unwrap();
        prop_assert_eq!(back::<_, pb::JobSpec>(&spec), spec);
    }

    #[test]
    fn a_poll_survives_its_bytes(request in sample::poll_request(), answer in sample::poll_answer()) {
        prop_assert_eq!(back::<_, pb::PollRequest>(&request), request);
        prop_assert_eq!(back::<_, pb::PollAnswer>(&answer), answer);
    }

    #[test]
    fn orders_and_differences_survive_their_bytes(orders in sample::orders(), report in sample::report()) {
        prop_assert_eq!(back::<_, pb::ShardOrders>(&orders), orders);
        prop_assert_eq!(back::<_, pb::ShardReport>(&report), report);
    }

    /// Or a machine could be made to look silent by what others told it.
    #[test]
    fn no_text_makes_a_report_unreadable(
        answer in sample::poll_answer(),
        text in prop_oneof![any::<String>(), "\\PC{0,9}(a\nb\u{1b}){0,400}"],
    ) {
        let mut message = pb::PollAnswer::from(&answer);
        for task in message.report.iter_mut().flat_map(|report| &mut report.tasks) {
            task.status_line.clone_from(&text);
            if let Some(pb::task_report::Status::Fetching(fetching)) = &mut task.status {
                fetching.trouble.clone_from(&text);
            }
            if let Some(run) = &mut task.last_run {
                run.last_lines.clone_from(&text);
            }
        }
        let read = PollAnswer::try_from(message).unwrap();
        prop_assert_eq!(back::<_, pb::PollAnswer>(&read), read);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_as_everything(&bytes);
    }

    #[test]
    fn mutated_commands_never_panic(command in sample::command(), changes in changes()) {
        read_as_everything(&mutate(command.encode(), &changes));
    }

    #[test]
    fn mutated_messages_never_panic(
        spec in sample::job_spec(),
        request in sample::poll_request(),
        answer in sample::poll_answer(),
        orders in sample::orders(),
        report in sample::report(),
        changes in changes(),
    ) {
        read_as_everything(&mutate(pb::JobSpec::from(&spec).encode_to_vec(), &changes));
        read_as_everything(&mutate(pb::PollRequest::from(&request).encode_to_vec(), &changes));
        read_as_everything(&mutate(pb::PollAnswer::from(&answer).encode_to_vec(), &changes));
        read_as_everything(&mutate(pb::ShardOrders::from(&orders).encode_to_vec(), &changes));
        read_as_everything(&mutate(pb::ShardReport::from(&report).encode_to_vec(), &changes));
    }
}

fn lead() -> Command {
    Command {
        at: Millis(7),
        by: Principal::Master(ReplicaId(1)),
        request: None,
        action: Action::Lead { leader: ReplicaId(1), term: 2 },
    }
}

/// A replica that skipped an entry of a later version would differ from its peers for ever.
#[test]
fn an_action_of_a_later_version_is_told_apart_from_rubbish() {
    let bytes = pb::Command { action: None, ..(&lead()).into() }.encode_to_vec();
    assert_eq!(Command::decode(&bytes), Err(DecodeError::UnknownAction));
    // Field 99, an empty message: an action to come.
    assert_eq!(
        Command::decode(&[&*bytes, &[0x9a, 0x06, 0]].concat()),
        Err(DecodeError::UnknownAction)
    );
    let observe = pb::Observe { changes: vec![pb::Observation { kind: None }] };
    let action = Some(pb::command::Action::Observe(observe));
    let bytes = pb::Command { action, ..(&lead()).into() }.encode_to_vec();
    assert_eq!(Command::decode(&bytes), Err(DecodeError::UnknownAction));
    assert!(matches!(Command::decode(&[0xff; 9]), Err(DecodeError::Malformed(_))));
}

#[test]
fn a_field_of_a_later_version_in_a_known_action_is_refused_too() {
    let bytes = [&*lead().encode(), &[0x9a, 0x06, 0]].concat();
    assert_eq!(Command::decode(&bytes), Err(DecodeError::UnknownFields(3)));
}

#[test]
fn an_entry_that_is_too_large_is_not_even_parsed() {
    let bytes = vec![0; super::MAX_COMMAND_BYTES + 1];
    assert_eq!(Command::decode(&bytes), Err(DecodeError::TooLarge(bytes.len())));
}

fn job() -> pb::JobSpec {
    let limit = pb::Resources { cpu_milli: 100, ram_bytes: 64 << 20, ..Default::default() };
    pb::JobSpec {
        name: "web".into(),
        kind: pb::JobKind::Service.into(),
        tasks: 3,
        priority: 200,
        task: Some(pb::TaskSpec {
            command: vec!["/bin/web".into()],
            limit: Some(limit),
            ports: vec!["http".into(), "admin".into()],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The error of a submitted job after one change.
fn refused(change: impl FnOnce(&mut pb::JobSpec, &mut pb::TaskSpec)) -> WireError {
    let mut job = job();
    let mut task = job.task.take().unwrap();
    change(&mut job, &mut task);
    let spec = Some(pb::JobSpec { task: Some(task), ..job });
    Change::try_from(pb::SubmitJobRequest { spec, request_id: "r1".into(), planned: None })
        .unwrap_err()
}

#[test]
fn every_bad_field_of_a_job_is_named_by_its_path() {
    let field = |change: fn(&mut pb::JobSpec, &mut pb::TaskSpec)| refused(change).field;
    assert_eq!(field(|j, _| j.name = "a/../b".into()), "spec.name");
    assert_eq!(field(|j, _| j.kind = 0), "spec.kind");
    assert_eq!(field(|j, _| j.kind = 77), "spec.kind");
    assert_eq!(field(|j, _| j.tasks = 0), "spec.tasks");
    assert_eq!(field(|j, _| j.tasks = 1_000_000_000), "spec.tasks");
    assert_eq!(field(|j, _| j.priority = 451), "spec.priority");
    assert_eq!(field(|j, _| j.appclass = -1), "spec.appclass");
    assert_eq!(field(|j, _| j.after = vec!["ann/a".into(), "b".into()]), "spec.after[1]");
    assert_eq!(field(|j, _| j.after = vec!["ann/a".into(); 1025]), "spec.after");
    assert_eq!(field(|_, t| t.command.clear()), "spec.task.command");
    assert_eq!(field(|_, t| t.limit = None), "spec.task.limit");
    assert_eq!(
        field(|_, t| t.limit.as_mut().unwrap().cpu_milli = u64::MAX),
        "spec.task.limit.cpu_milli"
    );
    assert_eq!(field(|_, t| t.limit.as_mut().unwrap().ram_bytes = 0), "spec.task.limit.ram_bytes");
    assert_eq!(field(|_, t| t.limit.as_mut().unwrap().ports = 1), "spec.task.limit.ports");
    assert_eq!(field(|_, t| t.ports.push("No!".into())), "spec.task.ports[2]");
    assert_eq!(
        field(|_, t| t.constraints.push(pb::Constraint::default())),
        "spec.task.constraints[0].op"
    );
    assert_eq!(field(|_, t| t.grace_ms = u64::MAX), "spec.task.grace_ms");
    assert_eq!(field(|_, t| t.command = vec!["x".repeat(60_000); 20]), "spec");
    assert_eq!(field(|_, t| t.loosen = vec![3, 77]), "spec.task.loosen[1]");
    assert_eq!(
        refused(|_, t| t.loosen = vec![1]).to_string(),
        "spec.task.loosen: admin is a privilege about the cell, no isolation of a task: allowed are \
         listen, system-calls, machine-ids, devices"
    );
    assert_eq!(
        refused(|_, t| t.ports.push("No!".into())).to_string(),
        "spec.task.ports[2]: \"No!\" has a character that is not allowed; allowed are 1 to 63 of \
         a-z, 0-9, '-', '_', beginning with a letter or digit",
    );
    assert_eq!(
        refused(|j, _| j.priority = 451).to_string(),
        "spec.priority: 451 is outside 0 to 450"
    );
}

#[test]
fn a_change_needs_a_request_id() {
    let change = |id: &str| {
        Change::try_from(pb::SubmitJobRequest {
            spec: Some(job()),
            request_id: id.into(),
            planned: None,
        })
    };
    assert!(change("r1").is_ok());
    assert_eq!(change("").unwrap_err().field, "request_id");
    assert_eq!(change(&"x".repeat(65)).unwrap_err().field, "request_id");
    let add = pb::AddMachineRequest {
        name: "m".into(),
        address: "nowhere".into(),
        request_id: "r".into(),
    };
    assert_eq!(
        Change::try_from(add).unwrap_err().to_string(),
        "address: \"nowhere\" is not HOST:PORT as others reach it, with a port from 1 to 65535"
    );
}

/// One task as a shard orders it.
fn ordered() -> pb::TargetTask {
    pb::TargetTask {
        id: Some(pb::IncarnationId { job: 4, index: 1, number: 1 }),
        name: "ann/web/1".into(),
        tasks: 3,
        spec: job().task,
        ports: vec![8000, 8001],
        priority: 200,
        appclass: pb::AppClass::Batch.into(),
        restart: true,
        exclusive: true,
        packages: Vec::new(),
        shared: None,
    }
}

#[test]
fn every_bad_field_of_a_poll_is_named_by_its_path() {
    let poll = |tasks: Vec<pb::TargetTask>| {
        PollRequest::try_from(pb::PollRequest {
            cell: "lab".into(),
            machine: "m-1".into(),
            fence: Some(pb::Fence::default()),
            target: Some(pb::Target { tasks, ..Default::default() }),
            ..Default::default()
        })
    };
    let field = |change: fn(&mut pb::TargetTask)| {
        let mut task = ordered();
        change(&mut task);
        poll(vec![task]).unwrap_err().field
    };
    assert!(poll(vec![ordered()]).is_ok());
    assert_eq!(field(|t| t.ports = vec![8000, 70_000]), "target.tasks[0].ports[1]");
    assert_eq!(field(|t| t.ports = vec![8000, 0]), "target.tasks[0].ports[1]");
    assert_eq!(field(|t| t.ports = vec![8000]), "target.tasks[0].ports");
    assert_eq!(field(|t| t.id.as_mut().unwrap().number = 0), "target.tasks[0].id.number");
    assert_eq!(field(|t| t.name = "ann/web/2".into()), "target.tasks[0].name");
    assert_eq!(field(|t| t.tasks = 1), "target.tasks[0].tasks");
    assert_eq!(field(|t| t.appclass = 0), "target.tasks[0].appclass");
    assert_eq!(field(|t| t.spec.as_mut().unwrap().command.clear()), "target.tasks[0].spec.command");
    assert_eq!(poll(vec![ordered(), ordered()]).unwrap_err().field, "target.tasks[1]");
    assert_eq!(PollRequest::try_from(pb::PollRequest::default()).unwrap_err().field, "cell");
    let long = pb::PollRequest { hold_ms: u64::MAX, ..Default::default() };
    assert_eq!(PollRequest::try_from(long).unwrap_err().field, "hold_ms");
}

#[test]
fn every_bad_field_of_an_answer_is_named_by_its_path() {
    let answer = |change: fn(&mut pb::MachineInfo, &mut pb::TaskReport)| {
        let mut info = pb::MachineInfo {
            capacity: Some(pb::Resources { ports: 1000, ..Default::default() }),
            first_port: 20_000,
            ..Default::default()
        };
        let mut task = pb::TaskReport {
            id: ordered().id,
            status: Some(pb::task_report::Status::Starting(pb::task_report::Starting {})),
            ..Default::default()
        };
        change(&mut info, &mut task);
        let answer = PollAnswer::try_from(pb::PollAnswer {
            version: Some(pb::ReportVersion::default()),
            obeyed: Some(pb::Fence::default()),
            report: Some(pb::MachineReport {
                info: Some(info),
                tasks: vec![task],
                ..Default::default()
            }),
            at_ms: 7,
        });
        answer.map_or_else(|error| error.field, |_| "fine".into())
    };
    assert_eq!(answer(|_, _| {}), "fine");
    assert_eq!(answer(|i, _| i.first_port = 65_000), "report.info.capacity.ports");
    assert_eq!(answer(|i, _| i.first_port = 0), "report.info.first_port");
    assert_eq!(answer(|i, _| i.first_port = 70_000), "report.info.first_port");
    assert_eq!(answer(|i, _| i.capacity = None), "report.info.capacity");
    assert_eq!(
        answer(|i, _| i.capacity.as_mut().unwrap().ram_bytes = u64::MAX),
        "report.info.capacity.ram_bytes"
    );
    assert_eq!(answer(|i, _| i.boot_id = "\u{1b}[31m".into()), "report.info.boot_id");
    assert_eq!(
        answer(|i, _| i.attributes = [("k".into(), "v".repeat(9_999))].into()),
        "report.info.attributes.k"
    );
    assert_eq!(answer(|_, t| t.status = None), "report.tasks[0].status");
    assert_eq!(
        answer(|_, t| t.last_failure = Some(pb::FailureCause { kind: None })),
        "report.tasks[0].last_failure.kind"
    );
}

#[test]
fn the_text_of_a_cause_is_cut_and_not_refused() {
    let kind = Some(pb::failure_cause::Kind::Start("ä".repeat(10_000)));
    let FailureCause::Start { why } = pb::FailureCause { kind }.try_into().unwrap() else {
        panic!()
    };
    assert_eq!(why.len(), MAX_CAUSE_BYTES);
    assert!(
        FailureCause::try_from(pb::FailureCause {
            kind: Some(pb::failure_cause::Kind::PortTaken(65_536))
        })
        .is_err()
    );
}

#[test]
fn numbers_of_incarnations_and_replicas_begin_at_one() {
    let id = IncarnationId { task: TaskId { job: JobId(1), index: 0 }, number: 0 };
    assert_eq!(IncarnationId::try_from(pb::IncarnationId::from(&id)).unwrap_err().field, "number");
    let by = Principal::Master(ReplicaId(0));
    let error = Command::decode(&Command { by, ..lead() }.encode()).unwrap_err();
    assert_eq!(error.to_string(), "master: 0 is outside 1 to 18446744073709551615");
}
