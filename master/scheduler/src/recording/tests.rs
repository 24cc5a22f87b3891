//! A recorded scheduler, played again.

use super::wire::{End, HEAD_BYTES, ReadError, Writer, encode, read};
use super::*;
use borg_cell::fixture::{self, batch, service};
use borg_cell::store::{EntryKind, LogEntry, Membership};
use borg_proto::command::Action;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

/// A cell, its scheduler, and what was recorded of it.
struct Live {
    cell: fixture::Cell,
    scheduler: Scheduler,
    records: Vec<Recorded>,
    told: usize,
}

impl Live {
    fn new() -> Self {
        let cell = fixture::Cell::new();
        let scheduler = Scheduler::new(&cell.state, Config::default());
        let begin = Begin::of(&scheduler, cell.state.applied());
        let told = cell.log.len();
        Self { cell, scheduler, records: vec![Recorded::Begin(Box::new(begin))], told }
    }

    /// The scheduler hears of all that happened.
    fn follow(&mut self) {
        let mut state = self.before();
        let mut events = Vec::new();
        for command in &self.cell.log[self.told..] {
            let applied = state.apply(state.applied() + 1, command);
            events.extend(applied.map(|applied| applied.events).unwrap_or_default());
        }
        self.told = self.cell.log.len();
        self.scheduler.follow(self.cell.state.clone(), &events);
        self.records.push(Recorded::Follow { index: self.cell.state.applied() });
    }

    /// The state that the scheduler was told last.
    fn before(&self) -> CellState {
        let mut state = CellState::new(self.cell.state.cell().clone());
        for command in &self.cell.log[..self.told] {
            drop(state.apply(state.applied() + 1, command));
        }
        state
    }

    /// A pass, of which the cell takes over what it may.
    fn pass(&mut self, max: usize) {
        let now = self.cell.state.clock();
        let placed = self.scheduler.pass(now, max);
        let decided = Decided::Placed(placed.clone());
        self.records.push(Recorded::Pass { now, max: max as u64, decided });
        if !placed.is_empty() {
            drop(self.cell.apply(fixture::master(), Action::Place { assignments: placed }));
        }
    }

    /// It begins again, as when the recording goes on in another file.
    fn begin_again(&mut self) {
        self.follow();
        let index = self.cell.state.applied();
        self.records.push(Recorded::Begin(Box::new(Begin::of(&self.scheduler, index))));
        self.scheduler.start_afresh(&self.cell.state);
    }

    fn entry(&self, index: u64) -> Option<LogEntry> {
        let at = usize::try_from(index).ok()?.checked_sub(1)?;
        let data = self.cell.log.get(at)?.encode().into();
        Some(LogEntry { index, term: 1, kind: EntryKind::Normal, data })
    }

    fn played(&self, records: &[Recorded]) -> Result<Player, Stop> {
        let born = CellState::new(self.cell.state.cell().clone());
        let mut player = Player::new(born, Membership::default());
        for recorded in records {
            player.play(recorded, &mut |index| self.entry(index))?;
        }
        Ok(player)
    }
}

/// A cell of a few machines in which jobs come, push out others, and end.
fn busy() -> Live {
    let mut live = Live::new();
    for number in 0..4 {
        live.cell.machine(&format!("m-{number}"), 4_000, 1 << 30);
    }
    live.follow();
    for round in 0..6u32 {
        let user = ["ann", "bob"][usize::from(round % 2 == 0)];
        live.cell.submit(user, batch(&format!("b-{round}"), 5, 700, 4 * MIB));
        live.cell.submit("cyd", service(&format!("s-{round}"), 2, 900, 4 * MIB));
        live.follow();
        live.pass(4);
        live.follow();
        live.pass(100);
        live.follow();
        live.cell.wait(1_000);
    }
    live
}

fn bytes_of(records: &[Recorded]) -> Vec<u8> {
    let (mut writer, mut bytes) = Writer::begin();
    for recorded in records {
        let mut frame = Vec::new();
        encode(&mut frame, recorded);
        bytes.extend(writer.frame(&frame));
    }
    bytes.extend(writer.finish());
    bytes
}

fn pass_of(records: &mut [Recorded]) -> &mut Vec<Assignment> {
    let of = |recorded| match recorded {
        &mut Recorded::Pass { decided: Decided::Placed(ref mut placed), .. }
            if placed.len() > 1 =>
        {
            Some(placed)
        }
        _ => None,
    };
    records.iter_mut().find_map(of).unwrap()
}

#[test]
fn a_recording_played_on_the_log_gives_the_same_decisions() {
    let live = busy();
    let player = live.played(&live.records).unwrap();
    assert_eq!((player.passes(), player.left_out()), (12, 0));
    assert!(player.decisions() > 20, "{}", player.decisions());
    assert_eq!(player.state().encode(), live.before().encode());
}

#[test]
fn a_scheduler_that_begins_again_can_be_played_from_there() {
    let mut live = busy();
    live.scheduler.avoid([MachineId(1)].into());
    live.records.push(Recorded::Silent { machines: vec![MachineId(1)] });
    live.begin_again();
    live.cell.submit("ann", batch("late", 9, 100, 4 * MIB));
    live.follow();
    live.pass(100);
    live.played(&live.records).unwrap();
    let last = live.records.iter().rposition(|one| matches!(one, Recorded::Begin(_))).unwrap();
    let player = live.played(&live.records[last..]).unwrap();
    assert_eq!((player.passes(), player.left_out()), (1, 0));
    // What the scheduler knew beside the state counts: without it the decisions are others.
    let mut forgetful = live.records[last..].to_vec();
    let Recorded::Begin(begin) = &mut forgetful[0] else { panic!("it is a beginning") };
    begin.silent.clear();
    assert!(matches!(live.played(&forgetful), Err(Stop::Differs(_))));
}

#[test]
fn the_first_decision_that_differs_is_told_and_nothing_after_it() {
    let live = busy();
    let mut records = live.records.clone();
    let placed = pass_of(&mut records);
    placed[1].machine = MachineId(99);
    let Err(Stop::Differs(difference)) = live.played(&records) else { panic!("it differs") };
    assert_eq!((difference.pass, difference.at), (1, 1));
    assert_eq!(difference.then.as_ref().unwrap().machine, MachineId(99));
    let text = difference.to_string();
    assert!(text.starts_with("pass 1 at entry "), "{text}");
    assert!(text.contains("to machine 99 with 0 victims, now "), "{text}");
}

#[test]
fn a_log_that_is_too_short_and_a_gap_are_said() {
    let live = busy();
    let mut short =
        Player::new(CellState::new(live.cell.state.cell().clone()), Membership::default());
    let stopped = live.records.iter().find_map(|recorded| {
        short.play(recorded, &mut |index| live.entry(index).filter(|_| index < 5)).err()
    });
    assert_eq!(
        stopped.unwrap().to_string(),
        "the log ends before entry 5, which the scheduler had followed"
    );
    let mut records = live.records.clone();
    records.insert(3, Recorded::Gap);
    let player = live.played(&records).unwrap();
    assert_eq!((player.passes(), player.left_out()), (0, records.len() as u64 - 3));
}

#[test]
fn bytes_give_back_what_was_recorded_and_damage_ends_what_is_believed() {
    let live = busy();
    let bytes = bytes_of(&live.records);
    assert_eq!(read(&bytes), Ok((live.records.clone(), End::Finished)));
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        match read(&damaged) {
            Ok((records, End::Torn { at: torn })) => {
                assert!(at >= torn && torn >= HEAD_BYTES);
                assert!(live.records.starts_with(&records));
            }
            Ok((_, end)) => panic!("byte {at} of {}: {end:?}", bytes.len()),
            Err(error) => assert!(at < HEAD_BYTES, "{error}"),
        }
        match read(&bytes[..at]) {
            Ok((_, End::Finished)) => panic!("cut to {at}"),
            Ok((records, End::Open | End::Torn { .. })) => {
                assert!(live.records.starts_with(&records));
            }
            Err(error) => assert_eq!((error, at < HEAD_BYTES), (ReadError::NotARecording, true)),
        }
    }
    let more = [&bytes[..], b"x"].concat();
    assert!(matches!(read(&more), Ok((_, End::Torn { .. }))));
}

#[test]
fn a_newer_format_is_named_as_such() {
    let (_, mut head) = Writer::begin();
    head[8] = 2;
    let check = xxhash_rust::xxh3::xxh3_64(&head[..12]).to_le_bytes();
    head[12..].copy_from_slice(&check[..4]);
    assert_eq!(read(&head), Err(ReadError::Newer { found: 2 }));
}

/// The format is on disks from its first release on: its bytes do not change.
#[test]
fn the_bytes_of_a_recording_stay_what_they_are() {
    let task = TaskId { job: JobId(300), index: 2 };
    let id = IncarnationId { task, number: 1 };
    let lent = Amounts { cpu_milli: 200, ram_bytes: 0, disk_bytes: 1 };
    let mut bytes = Vec::new();
    for recorded in [
        Recorded::Follow { index: 7 },
        Recorded::Silent { machines: vec![MachineId(3)] },
        Recorded::LendNothing,
        Recorded::Lend { news: vec![(id, lent)] },
        Recorded::Refused { tasks: vec![task] },
        Recorded::Pass {
            now: Millis(128),
            max: 1,
            decided: Decided::Placed(vec![Assignment {
                victims: vec![id],
                ..Assignment::new(task, MachineId(5))
            }]),
        },
        Recorded::Gap,
    ] {
        encode(&mut bytes, &recorded);
    }
    let expected: &[u8] = &[
        2, 7, 4, 1, 3, 5, 6, 1, 0xac, 2, 2, 1, 0xc8, 1, 0, 1, 7, 1, 0xac, 2, 2, 8, 0x80, 1, 1, 1,
        0xac, 2, 2, 5, 1, 0xac, 2, 2, 1, 0, 0, 0, 10,
    ];
    assert_eq!(bytes, expected);
}

proptest! {
    #[test]
    fn no_bytes_make_reading_panic(frame in prop::collection::vec(any::<u8>(), 1..200)) {
        let (mut writer, mut bytes) = Writer::begin();
        bytes.extend(writer.frame(&frame));
        let (records, end) = read(&bytes).unwrap();
        // What is read is written as it was.
        if end == End::Open {
            let mut again = Vec::new();
            records.iter().for_each(|recorded| encode(&mut again, recorded));
            prop_assert!(again == frame || records.iter().any(|one| matches!(one, Recorded::Begin(_))));
        }
    }
}
