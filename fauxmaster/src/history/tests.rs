use super::difference::between;
use super::stepper::{Breakpoint, Stepper};
use super::verify::verify;
use super::*;
use borg_cell::fixture::{self, batch, master, service};
use borg_cell::store::EntryKind;
use borg_proto::command::{Action, Command, Observation};
use borg_proto::names::TaskName;
use borg_scheduler::recording::{Begin, Decided};
use borg_scheduler::{Config, Scheduler};

const GIB: u64 = 1 << 30;

/// A small cell's life with its scheduler recorded: batch fills it, production pushes some out, a machine is lost.
fn lived() -> History {
    let mut cell = fixture::Cell::new();
    let start = cell.state.clone();
    let mut scheduler = Scheduler::new(&cell.state, Config::default());
    let begin = Begin::of(&scheduler, cell.state.applied());
    let mut records = vec![Recorded::Begin(Box::new(begin))];
    let mut told = 0;
    let mut decide = |cell: &mut fixture::Cell| {
        loop {
            scheduler.follow(cell.state.clone(), &cell.events[told..]);
            told = cell.events.len();
            records.push(Recorded::Follow { index: cell.state.applied() });
            let now = cell.state.clock();
            let placed = scheduler.pass(now, 10);
            let decided = Decided::Placed(placed.clone());
            records.push(Recorded::Pass { now, max: 10, decided });
            if placed.is_empty() {
                break;
            }
            cell.apply(master(), Action::Place { assignments: placed }).unwrap();
        }
    };
    let machines = [1, 2, 3].map(|n| cell.machine(&format!("m-{n}"), 4_000, 8 * GIB));
    cell.submit("ann", batch("fill", 12, 1_000, GIB));
    decide(&mut cell);
    cell.wait(60_000);
    cell.submit("bob", service("web", 2, 2_000, GIB));
    decide(&mut cell);
    cell.wait(60_000);
    cell.observe(Observation::MachineDown { machine: machines[0] });
    decide(&mut cell);
    let entry = |(index, command): (u64, &Command)| LogEntry {
        index,
        term: 1,
        kind: EntryKind::Normal,
        data: command.encode().into(),
    };
    History {
        start,
        members: Membership::default(),
        entries: (1..).zip(&cell.log).map(entry).collect(),
        recordings: vec![Recording { name: "recording-1".into(), records, end: End::Open }],
    }
}

#[test]
fn what_was_recorded_is_decided_again_and_another_decision_is_told() {
    let history = lived();
    let verified = verify(&history, |_| {}).unwrap();
    assert!(verified.is_identical(), "{verified:?}");
    let one = &verified.recordings[0];
    assert!(one.decisions >= 14 && one.passes > 4 && one.left_out == 0, "{one:?}");
    assert_eq!(
        (verified.in_log, verified.of_log),
        (one.decisions, one.decisions),
        "all were compared"
    );
    // The same once more is no more of the log.
    let mut twice = history.clone();
    twice.recordings.push(twice.recordings[0].clone());
    let verified = verify(&twice, |_| {}).unwrap();
    assert_eq!((verified.in_log, verified.of_log), (one.decisions, one.decisions));
    // A log that says who was pushed out otherwise than the recording does.
    let mut other = history.clone();
    let pushes = other.entries.iter_mut().find_map(|entry| {
        let mut command = Command::decode(&entry.data).unwrap();
        let Action::Place { assignments } = &mut command.action else { return None };
        assignments.iter_mut().find(|one| !one.victims.is_empty())?.victims.pop();
        Some((entry, command))
    });
    let (entry, command) = pushes.expect("production pushed somebody out");
    entry.data = command.encode().into();
    let verified = verify(&other, |_| {});
    let told = verified.is_err()
        || verified.is_ok_and(|verified| verified.not_in_log > 0 || verified.difference.is_some());
    assert!(told, "the decision of the log is another one");
    // With nothing of the log recorded, nothing was compared.
    let mut none = history.clone();
    none.recordings[0].records.retain(|one| match one {
        Recorded::Pass { decided: Decided::Placed(placed), .. } => placed.is_empty(),
        _ => true,
    });
    assert!(!verify(&none, |_| {}).unwrap().is_identical());

    let mut altered = history.clone();
    let decisive = altered.recordings[0].records.iter_mut().find_map(|one| match one {
        Recorded::Pass { decided: Decided::Placed(placed), .. } if placed.len() > 1 => Some(placed),
        _ => None,
    });
    decisive.unwrap().swap(0, 1);
    let verified = verify(&altered, |_| {}).unwrap();
    assert!(!verified.is_identical());
    assert!(verified.difference.unwrap().contains("decision 0: then"), "told where");

    let mut none = history.clone();
    none.recordings.clear();
    assert!(!verify(&none, |_| {}).unwrap().is_identical(), "nothing was compared");
    // A recording that was cut off in the middle: the rest is not passed over in silence.
    let mut cut = history.clone();
    let half = cut.recordings[0].records.len() / 2;
    cut.recordings[0].records.truncate(half);
    let verified = verify(&cut, |_| {}).unwrap();
    assert!(verified.is_identical() && verified.recordings[0].decisions < verified.in_log);
    let mut short = history;
    short.entries.truncate(8);
    let verified = verify(&short, |_| {}).unwrap();
    assert!(verified.recordings[0].left_out > 0 && verified.difference.is_none(), "{verified:?}");
}

/// A frame that is there and wrong is damage; one that is cut off is the end.
#[test]
fn a_damaged_recording_is_refused_and_one_that_was_cut_off_is_not() {
    use borg_scheduler::recording::wire::{Writer, encode};
    let (mut writer, mut bytes) = Writer::begin();
    let head = bytes.len();
    for recorded in &lived().recordings[0].records {
        let mut frame = Vec::new();
        encode(&mut frame, recorded);
        bytes.extend(writer.frame(&frame));
    }
    let cut = Recording::of("r", &bytes[..bytes.len() - 3]).unwrap();
    assert!(matches!(cut.end, End::Torn { .. }) && !cut.records.is_empty());
    bytes[head + 6] ^= 1;
    let refused = Recording::of("r", &bytes).unwrap_err().to_string();
    assert_eq!(refused, format!("r: damaged at byte {head}: save the history again"));
}

#[test]
fn wherever_it_stands_the_state_is_that_of_then() {
    let history = lived();
    let mut states = vec![history.start.encode()];
    let mut happened = vec![Vec::new()];
    let mut stepper = Stepper::new(&history);
    while stepper.step().unwrap() {
        states.push(stepper.state().encode());
        happened.push(stepper.happened().to_vec());
    }
    assert_eq!(stepper.index(), history.last());
    for index in [history.last(), 3, 9, 0, 7] {
        stepper.go(Moment::Index(index)).unwrap();
        assert_eq!(stepper.state().encode(), states[usize::try_from(index).unwrap()]);
        assert_eq!(stepper.happened(), happened[usize::try_from(index).unwrap()], "{index}");
        let state = history.state_at(Moment::Index(index)).unwrap();
        assert_eq!(state.encode(), states[usize::try_from(index).unwrap()]);
    }
    let early = history.index(Moment::Time(Millis(1))).unwrap_err().to_string();
    assert_eq!(early, "time 1 ms: the cell did not exist yet");
    let late = Moment::Time(Millis(u64::MAX));
    assert_eq!(history.index(late).unwrap(), history.last());
    let refused = history.index(Moment::Index(99)).unwrap_err().to_string();
    assert!(refused.starts_with("entry 99: the history has entries 0 to"), "{refused}");
}

#[test]
fn it_stops_at_what_it_is_told_to_and_says_why_and_what_changed() {
    let history = lived();
    let mut stepper = Stepper::new(&history);
    let breakpoint = |text: &str| [Breakpoint::parse(text).unwrap()];
    assert_eq!(stepper.until(&breakpoint("evicted=ann/fill")).unwrap(), None);
    let first = stepper.happened().iter().find(|told| told.kind == "task.evicted").unwrap();
    let task: TaskName = first.subject.parse().unwrap();
    let before = Moment::Index(stepper.index() - 1);
    let changed = between(&history.state_at(before).unwrap(), stepper.state());
    let of_it = changed.iter().find(|one| one.name == task.to_string()).unwrap();
    assert!(of_it.then.contains("on m-") && of_it.now.starts_with("pending"), "{of_it:?}");
    let (why, real) = stepper.why(&task).unwrap();
    assert!(real, "it was recorded what the scheduler knew");
    assert!(!why.summary.is_empty());
    assert_eq!(stepper.until(&breakpoint("machine.down=m-1")).unwrap(), None);
    let instead = stepper.until(&breakpoint("job.kiled")).unwrap().unwrap();
    assert!(instead.contains("task.placed") && !instead.contains("machine.down"), "{instead:?}");
    assert_eq!(stepper.index(), history.last());
    assert!(stepper.why(&"ann/none/0".parse().unwrap()).is_err());
    assert!(stepper.why(&"ann/fill/99".parse().unwrap()).is_err());
    for wrong in ["", "=ann", "What?"] {
        assert!(Breakpoint::parse(wrong).unwrap_err().to_string().contains("no kind of event"));
    }
}

#[test]
fn what_operators_changed_is_a_difference_too() {
    let mut cell = fixture::Cell::new();
    let before = cell.state.clone();
    let admin = fixture::user(borg_proto::identity::ADMIN);
    let quota = Action::SetQuota {
        user: "ann".parse().unwrap(),
        band: borg_proto::Band::Production,
        amount: borg_proto::Resources { cpu_milli: 1_000, ..Default::default() },
        from: None,
        until: None,
        oversell: true,
    };
    let named = Some(borg_proto::reclamation::NumberSet::Off);
    let reclamation = Action::SetReclamation { named, numbers: Default::default() };
    let privilege = Action::GrantPrivilege {
        user: "ann".parse().unwrap(),
        privilege: borg_proto::Privilege::Admin,
    };
    for action in [quota, reclamation, privilege] {
        cell.apply(admin.clone(), action).unwrap();
    }
    let found = between(&before, &cell.state);
    let names: Vec<(&str, &str)> = found.iter().map(|one| (one.what, one.name.as_str())).collect();
    let expected =
        [("setting", "reclamation"), ("quota", "ann production"), ("privilege", "ann admin")];
    assert_eq!(names, expected, "{found:?}");
    assert!(found.iter().all(|one| one.then.is_empty() && !one.now.is_empty()), "{found:?}");
}
