//! The leader and its link shards: what machines are told, and what becomes of what they say.
//!
//! One master alone leads a cell; the test plays its shard.

#![expect(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod five;

use borg_cell::fixture::{batch, info, service};
use borg_cell::master::{Config, Input, Outcome};
use borg_cell::rejection::Rejection;
use borg_cell::state::{Answer, MachineState};
use borg_proto::command::{Action, Assignment, Command, Principal};
use borg_proto::machine::MachineAddress;
use borg_proto::peer::{MachineDelta, ShardOrders, ShardReport, ShardSession, ShardStamp};
use borg_proto::poll::{REPLACE_AFTER, TaskReport, TaskStatus, Usage};
use borg_proto::task::{FailureCause, Phase, Placement};
use borg_proto::wire::pb;
use borg_proto::{
    IncarnationId, JobId, MachineId, MachineName, Millis, ReplicaId, TaskId, TaskState,
};
use five::Five;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;

const GIB: u64 = 1 << 30;

/// A report of the shard that says that it lives.
fn report(session: ShardSession) -> ShardReport {
    let (deltas, usage, wanting) = (Vec::new(), Vec::new(), Vec::new());
    ShardReport { session, from: ReplicaId(1), deltas, usage, stamp: None, wanting }
}

/// A leader with machines, and the shard that the test plays.
struct Rig {
    five: Five,
    /// What the shard said last of each machine.
    said: BTreeMap<MachineName, MachineDelta>,
    requests: u32,
    silent: bool,
}

impl Rig {
    fn new(machines: u32) -> Self {
        Self::with(machines, |_| {})
    }

    fn with(machines: u32, change: fn(&mut Config)) -> Self {
        let mut five = Five::with(1, 1, change);
        five.elect();
        let mut rig = Self { five, said: BTreeMap::new(), requests: 0, silent: false };
        for number in 0..machines {
            let name: MachineName = name(number);
            let machine = MachineAddress { address: format!("{name}:7000"), name };
            let answer = rig.change("admin", Action::AddMachine { machine });
            assert_eq!(answer, Answer::Machine(MachineId(number)));
        }
        rig.run(100);
        for number in 0..machines {
            rig.full(number, &[]);
        }
        rig.run(100);
        rig
    }

    /// The leader's process dies, and the next one's clock shows this.
    fn restart_at(&mut self, now: Millis) {
        self.five.crash(1);
        self.five.now = now;
        self.five.start(1);
        self.five.elect();
        self.five.run(100);
        self.said.clear();
    }

    fn change(&mut self, who: &str, action: Action) -> Answer {
        self.try_change(who, action).unwrap()
    }

    fn try_change(&mut self, who: &str, action: Action) -> Result<Answer, Rejection> {
        self.requests += 1;
        let token = self.five.propose(1, who, format!("r{}", self.requests), action);
        match &self.five.answers[&token] {
            Outcome::Accepted { answer, .. } => Ok(answer.clone()),
            Outcome::Refused { rejection, .. } => Err(rejection.clone()),
            other => panic!("{other:?}"),
        }
    }

    fn try_place(&mut self, job: JobId, index: u32, machine: u32) -> Result<(), Rejection> {
        let task = TaskId { job, index };
        let assignment = Assignment::new(task, MachineId(machine));
        let at = self.five.now + Millis(1);
        let action = Action::Place { assignments: vec![assignment] };
        let by = Principal::Master(ReplicaId(1));
        let mut state = self.five.master(1).state().clone();
        let command = Command { at, by, request: None, action };
        match state.apply(state.applied() + 1, &command).unwrap().answer {
            Answer::Placed { mut results } => results.remove(0).map(drop),
            other => panic!("{other:?}"),
        }
    }

    /// Time passes; the shard says that it lives.
    fn run(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(100) {
            self.five.run(100);
            if !self.silent {
                self.report(Vec::new());
            }
        }
    }

    fn orders(&self) -> &[ShardOrders] {
        &self.five.orders[&1]
    }

    fn session(&self) -> ShardSession {
        self.orders().last().unwrap().session
    }

    /// The newest orders of a machine: its generation and target, which may have been sent before.
    fn target(&self, number: u32) -> (u64, Vec<IncarnationId>) {
        let orders = self.orders().iter().rev().flat_map(|orders| &orders.machines);
        let mut orders = orders.filter(|machine| machine.machine == name(number));
        let newest = orders.next().unwrap();
        let mut same = std::iter::once(newest).chain(orders).filter(|m| m.digest == newest.digest);
        let target = same.find_map(|machine| machine.target.clone()).unwrap();
        (newest.generation, target.tasks.iter().map(|task| task.id).collect())
    }

    fn report(&mut self, deltas: Vec<MachineDelta>) {
        let session = self.session();
        self.report_in(session, deltas);
    }

    fn report_in(&mut self, session: ShardSession, deltas: Vec<MachineDelta>) {
        self.five.input(1, vec![Input::Report(ShardReport { deltas, ..report(session) })]);
    }

    /// The machine says everything, having obeyed its newest orders.
    fn full(&mut self, number: u32, tasks: &[(IncarnationId, TaskStatus)]) {
        let delta = self.full_delta(number, tasks);
        self.report(vec![delta]);
    }

    fn full_delta(&mut self, number: u32, tasks: &[(IncarnationId, TaskStatus)]) -> MachineDelta {
        let (obeyed, _) = self.target(number);
        let seq = self.said.get(&name(number)).map_or(0, |said| said.seq) + 1;
        let delta = MachineDelta {
            machine: name(number),
            seq,
            full: true,
            reachable: true,
            obeyed,
            info: Some(info(4_000, 8 * GIB, &[])),
            tasks: tasks.iter().map(|(id, status)| task(*id, status.clone())).collect(),
            gone: Vec::new(),
            data: None,
        };
        self.said.insert(name(number), delta.clone());
        delta
    }

    fn silence(&mut self, number: u32) {
        let seq = self.said[&name(number)].seq + 1;
        let delta = MachineDelta {
            seq,
            full: false,
            reachable: false,
            info: None,
            tasks: Vec::new(),
            ..self.said[&name(number)].clone()
        };
        self.said.insert(name(number), delta.clone());
        self.report(vec![delta]);
    }

    fn submit(&mut self, tasks: u32) -> JobId {
        let spec = Arc::new(service("web", tasks, 100, GIB / 8));
        let Answer::Job { id, .. } = self.change("ann", Action::SubmitJob { spec }) else {
            panic!()
        };
        id
    }

    fn place(&mut self, job: JobId, index: u32, machine: u32) -> IncarnationId {
        let task = TaskId { job, index };
        let assignment = Assignment::new(task, MachineId(machine));
        self.five.input(1, vec![Input::Decisions(vec![assignment])]);
        IncarnationId { task, number: self.placement(task).incarnation }
    }

    fn placement(&self, task: TaskId) -> Placement {
        match &self.five.master(1).state().task(task).unwrap().state {
            TaskState::Running(placement) => placement.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn pending(&self, task: TaskId) -> bool {
        self.five.master(1).state().pending().any(|pending| pending == task)
    }

    fn machine(&self, number: u32) -> MachineState {
        self.five.master(1).state().machine(MachineId(number)).unwrap().state
    }

    fn applied(&self) -> u64 {
        self.five.master(1).state().applied()
    }
}

fn name(number: u32) -> MachineName {
    format!("m-{number}").parse().unwrap()
}

fn task(id: IncarnationId, status: TaskStatus) -> TaskReport {
    let usage = Usage { cpu_milli: 7, ram_bytes: 9, ..Usage::default() };
    TaskReport {
        id,
        status,
        restarts: 0,
        last_failure: None,
        usage,
        ports: Vec::new(),
        health: borg_proto::Health::Unchecked,
        status_line: String::new(),
        last_run: None,
        start: None,
        address: None,
    }
}

fn up(pid: u32) -> TaskStatus {
    TaskStatus::Up { pid, since: Millis(5) }
}

#[test]
fn a_machine_that_answers_is_up_and_an_idle_cell_writes_nothing() {
    let mut rig = Rig::new(3);
    assert_eq!(rig.machine(0), MachineState::Up);
    let applied = rig.applied();
    rig.run(5_000);
    rig.full(0, &[]);
    rig.run(100);
    assert_eq!(rig.applied(), applied);
}

#[test]
fn a_placed_task_goes_out_at_once_and_its_life_comes_back() {
    let mut rig = Rig::new(2);
    let job = rig.submit(1);
    let (generation, _) = rig.target(0);
    let id = rig.place(job, 0, 0);
    assert_eq!(rig.target(0), (generation + 1, vec![id]), "in the same turn");
    rig.full(0, &[(id, TaskStatus::Starting)]);
    assert_eq!(rig.placement(id.task).phase, Phase::Starting);
    rig.full(0, &[(id, up(42))]);
    assert_eq!(rig.placement(id.task).phase, Phase::Up { pid: 42, since: Millis(5) });
    assert_eq!(rig.target(0).0, generation + 1, "that changes no target");
    assert_eq!(
        rig.five.master(1).usage(id),
        Some(Usage { cpu_milli: 7, ram_bytes: 9, ..Usage::default() })
    );
    let at = rig.five.now;
    rig.full(0, &[(id, TaskStatus::Ended { at, failure: Some(FailureCause::Exit { code: 1 }) })]);
    assert!(rig.pending(id.task));
    assert_eq!(rig.target(0), (generation + 2, vec![]));
    assert_eq!(rig.five.master(1).usage(id), None);
}

/// I10, I11: each difference counts once, in order; a gap asks for everything.
#[test]
fn differences_fold_once_and_in_order() {
    let mut rig = Rig::new(1);
    let job = rig.submit(1);
    let id = rig.place(job, 0, 0);
    rig.full(0, &[(id, TaskStatus::Starting)]);
    let full = rig.said[&name(0)].clone();
    let delta = |seq: u64, pid: u32| MachineDelta {
        seq,
        full: false,
        info: None,
        tasks: vec![task(id, up(pid))],
        ..full.clone()
    };
    rig.report(vec![delta(full.seq + 1, 1)]);
    assert_eq!(rig.placement(id.task).phase, Phase::Up { pid: 1, since: Millis(5) });
    // The same again, and an older one late.
    let applied = rig.applied();
    rig.report(vec![delta(full.seq + 1, 9), delta(full.seq, 8), full.clone()]);
    assert_eq!(rig.applied(), applied);
    let acks = rig.orders().last().unwrap().acks.clone();
    assert_eq!((acks.len(), &acks[0].machine, acks[0].seq), (1, &name(0), full.seq + 1));
    assert_eq!(acks[0].generation, rig.target(0).0);
    // One is missing.
    rig.report(vec![delta(full.seq + 3, 3)]);
    assert_eq!(rig.orders().last().unwrap().resync, [name(0)]);
    assert_eq!(rig.applied(), applied);
    // What comes after it counts for nothing until a full report.
    rig.report(vec![delta(full.seq + 4, 4)]);
    assert_eq!(rig.applied(), applied);
    rig.report(vec![MachineDelta {
        seq: full.seq + 5,
        tasks: vec![task(id, up(5))],
        ..full.clone()
    }]);
    assert_eq!(rig.placement(id.task).phase, Phase::Up { pid: 5, since: Millis(5) });
}

#[test]
fn reports_of_an_older_division_say_nothing() {
    let mut rig = Rig::new(1);
    let job = rig.submit(1);
    let id = rig.place(job, 0, 0);
    let delta = rig.full_delta(0, &[(id, up(1))]);
    let now = rig.session();
    for old in [
        ShardSession { session: now.session - 1, ..now },
        ShardSession { term: now.term - 1, ..now },
        ShardSession { epoch: now.epoch - 1, ..now },
        ShardSession::default(),
    ] {
        rig.report_in(old, vec![delta.clone()]);
        assert_eq!(rig.placement(id.task).phase, Phase::Starting, "{old:?}");
    }
    rig.report(vec![delta]);
    assert_ne!(rig.placement(id.task).phase, Phase::Starting);
}

/// A report from before the machine had its orders lacks the task, too, and means nothing.
#[test]
fn a_task_is_lost_only_when_a_machine_that_had_its_orders_lacks_it() {
    let mut rig = Rig::new(1);
    let job = rig.submit(1);
    let old = rig.full_delta(0, &[]);
    let id = rig.place(job, 0, 0);
    rig.report(vec![old]);
    rig.run(300);
    assert!(!rig.pending(id.task));
    rig.full(0, &[]);
    assert!(rig.pending(id.task));
    let task = rig.five.master(1).state().task(id.task).unwrap();
    assert_eq!(task.last_failure, Some(FailureCause::Lost));
}

#[test]
fn incarnations_that_the_cell_does_not_know_need_no_entry() {
    let mut rig = Rig::new(1);
    let ghost = IncarnationId { task: TaskId { job: JobId(77), index: 0 }, number: 3 };
    let applied = rig.applied();
    rig.full(0, &[(ghost, up(1))]);
    rig.run(500);
    assert_eq!(rig.applied(), applied);
    assert_eq!(rig.target(0).1, []);
}

#[test]
fn a_machine_is_down_after_ten_silent_seconds_and_its_tasks_wait_again() {
    let mut rig = Rig::new(2);
    let job = rig.submit(1);
    let id = rig.place(job, 0, 0);
    rig.full(0, &[(id, up(1))]);
    rig.silence(0);
    rig.run(9_700);
    assert_eq!(rig.machine(0), MachineState::Up);
    rig.run(600);
    assert_eq!(rig.machine(0), MachineState::Down);
    assert!(rig.pending(id.task));
    let applied = rig.applied();
    rig.run(20_000);
    assert_eq!(rig.applied(), applied, "said once");
    let again = rig.place(job, 0, 1);
    // It comes back, with the task that was replaced: it is up, and told to run nothing.
    rig.full(0, &[(id, up(1))]);
    assert_eq!(rig.machine(0), MachineState::Up);
    assert_eq!(rig.target(0).1, []);
    assert_eq!(rig.placement(again.task).machine, MachineId(1));
}

#[test]
fn a_word_from_the_machine_ends_its_silence() {
    let mut rig = Rig::new(1);
    for _ in 0..4 {
        rig.silence(0);
        rig.run(6_000);
        rig.full(0, &[]);
    }
    assert_eq!(rig.machine(0), MachineState::Up);
}

/// The leader's own blindness must not move a cell.
#[test]
fn machines_of_a_shard_that_is_silent_itself_are_not_down() {
    let mut rig = Rig::new(1);
    rig.silence(0);
    rig.silent = true;
    rig.run(60_000);
    assert_eq!(rig.machine(0), MachineState::Up);
    assert_eq!(rig.five.master(1).silent_for(MachineId(0), rig.five.now), None);
}

/// I19.
#[test]
fn when_a_third_of_the_cell_falls_silent_nothing_is_down() {
    let mut rig = Rig::new(12);
    for number in 0..4 {
        rig.silence(number);
    }
    rig.run(30_000);
    assert!((0..12).all(|number| rig.machine(number) == MachineState::Up));
    let status = rig.five.master(1).status().links.unwrap();
    assert!(status.safe_mode);
    assert_eq!((status.silent, status.answering), (4, 8));
    rig.full(0, &[]);
    rig.run(5_000);
    assert!(
        (0..12).all(|number| rig.machine(number) == MachineState::Up),
        "they may come back too"
    );
    assert!(!rig.five.master(1).status().links.unwrap().safe_mode);
    rig.run(6_000);
    assert_eq!(rig.machine(1), MachineState::Down, "the three others go when they do not");
    assert_eq!(rig.machine(0), MachineState::Up);
}

/// I19.
#[test]
fn only_so_many_machines_a_minute_are_taken_for_down() {
    let mut rig = Rig::with(12, |config| config.links.downs_per_minute = 2);
    for number in 0..3 {
        rig.silence(number);
    }
    let down = |rig: &Rig| (0..12).filter(|n| rig.machine(*n) == MachineState::Down).count();
    rig.run(11_000);
    assert_eq!(down(&rig), 2);
    rig.run(58_000);
    assert_eq!(down(&rig), 2);
    rig.run(2_000);
    assert_eq!(down(&rig), 3);
}

#[test]
fn orders_are_repeated_until_the_shard_takes_them_and_the_machine_obeys() {
    let mut rig = Rig::new(1);
    let job = rig.submit(1);
    rig.place(job, 0, 0);
    let before = rig.orders().len();
    rig.run(2_000); // the machine still says that it obeyed the generation before
    let repeated = rig.orders()[before..].iter().filter(|o| !o.machines.is_empty()).count();
    assert!((2..=4).contains(&repeated), "{repeated} times");
    // The shard forgot everything: it gets a new division, again and again until it speaks.
    let session = rig.session();
    rig.silent = true;
    let before = rig.orders().len();
    rig.run(4_000);
    let new: Vec<_> = rig.orders()[before..].iter().filter(|o| o.session > session).collect();
    assert!(
        new.len() >= 5 && new.iter().all(|o| o.whole && o.machines.len() == 1),
        "{}",
        new.len()
    );
    assert!(new.iter().all(|o| o.session == new[0].session), "one division, repeated");
}

#[test]
fn a_removed_machine_leaves_its_shard_and_a_moved_one_is_told() {
    let mut rig = Rig::new(2);
    let machine = MachineAddress { name: name(0), address: "elsewhere:7000".into() };
    let (generation, _) = rig.target(0);
    rig.change("admin", Action::AddMachine { machine });
    assert_eq!(rig.target(0).0, generation + 1);
    assert_eq!(rig.orders().last().unwrap().machines[0].address, "elsewhere:7000");
    let session = rig.session();
    rig.change("admin", Action::RemoveMachine { machine: name(1) });
    let last = rig.orders().last().unwrap();
    assert!(last.whole && last.session > session);
    assert_eq!(last.machines.iter().map(|m| m.machine.clone()).collect::<Vec<_>>(), [name(0)]);
}

/// Decisions are answered task by task.
#[test]
fn the_scheduler_hears_what_became_of_each_decision() {
    let mut rig = Rig::new(1);
    let job = rig.submit(2);
    let assign = |index, machine| Assignment::new(TaskId { job, index }, MachineId(machine));
    rig.five.record = true;
    rig.five.input(1, vec![Input::Decisions(vec![assign(0, 0), assign(1, 9)])]);
    let told = rig.five.history.lines().find(|line| line.contains("Decided")).unwrap();
    assert!(told.contains("Ok(IncarnationId") && told.contains("Err(MachineGone"), "{told}");
    let mut follower = Five::new(1);
    follower.elect();
    let idle = follower.up().into_iter().find(|id| !follower.master(*id).is_leader()).unwrap();
    follower.record = true;
    follower.input(idle, vec![Input::Decisions(vec![assign(0, 0)])]);
    assert!(follower.history.contains("Undecided"));
}

/// The cell's time never goes back, but goes on: else no back-off would end for ten years.
#[test]
fn a_leader_whose_clock_was_years_ahead_holds_up_no_back_off_of_the_next() {
    let years = Millis::from_secs(10 * 365 * 86_400);
    let mut rig = Rig::new(1);
    rig.restart_at(rig.five.now + years);
    rig.full(0, &[]);
    let job = rig.submit(1);
    let id = rig.place(job, 0, 0);
    rig.restart_at(rig.five.now - years);
    let failure = Some(FailureCause::Exit { code: 1 });
    rig.full(0, &[(id, TaskStatus::Ended { at: rig.five.now, failure })]);
    assert!(rig.pending(id.task));
    rig.run(1_200);
    let TaskState::Pending { not_before, .. } =
        rig.five.master(1).state().task(id.task).unwrap().state
    else {
        panic!("it waits")
    };
    let time = rig.five.master(1).cell_time(rig.five.now);
    assert!(not_before <= time && time.since(not_before) < Millis(500), "{not_before}, {time}");
    assert_eq!(rig.place(job, 0, 0).number, 2);
}

/// A new leader names targets and sends only those that a shard does not have; if they are too much for one
/// message, they come in several.
#[test]
fn orders_that_are_too_large_for_one_message_come_in_several() {
    let mut rig = Rig::new(3);
    let mut wordy = service("wordy", 48, 1, 4 << 20);
    let text = "x".repeat(60 << 10);
    Arc::make_mut(&mut wordy.task).env =
        (0..16).map(|n| (format!("TEXT_{n}"), text.clone())).collect();
    let spec = Arc::new(wordy);
    let Answer::Job { id, .. } = rig.change("ann", Action::SubmitJob { spec }) else { panic!() };
    for index in 0..48 {
        rig.place(id, index, index % 3);
    }
    rig.five.orders.clear();
    rig.restart_at(rig.five.now);
    let session = rig.session();
    let sent = |rig: &Rig| -> Vec<ShardOrders> {
        rig.orders().iter().filter(|orders| orders.session == session).cloned().collect()
    };
    let whole = sent(&rig);
    assert!(whole.iter().all(|orders| orders.whole && orders.machines.len() == 3));
    assert!(whole[0].machines.iter().all(|machine| machine.target.is_none()));
    let wanting = (0..3).map(name).collect();
    rig.five.input(1, vec![Input::Report(ShardReport { wanting, ..report(session) })]);
    let sent = sent(&rig).split_off(whole.len());
    let machines =
        |o: &ShardOrders| -> Vec<_> { o.machines.iter().map(|m| m.machine.clone()).collect() };
    for number in 0..3 {
        let orders = &sent[usize::try_from(number).unwrap()];
        assert_eq!((orders.whole, machines(orders)), (false, vec![name(number)]));
        assert_eq!(rig.target(number).1.len(), 16);
    }
    for orders in &sent {
        let bytes = pb::ShardOrders::from(orders).encoded_len();
        assert!(bytes < 32 << 20, "{bytes}");
    }
}

/// The line between the leader and a shard is bad: it begins anew all the time. What was seen of a
/// machine's silence counts all the same (and what nobody saw does not).
#[test]
fn the_silence_of_a_machine_counts_on_when_its_shard_begins_anew() {
    let mut rig = Rig::new(2);
    rig.silence(0);
    for _ in 0..2 {
        rig.run(3_000);
        rig.silent = true;
        rig.run(2_000);
        rig.silent = false;
        rig.said.clear();
        rig.full(1, &[]);
        rig.said.insert(name(0), MachineDelta { seq: 0, ..rig.said[&name(1)].clone() });
        rig.said.get_mut(&name(0)).unwrap().machine = name(0);
        rig.silence(0);
    }
    assert_eq!(rig.machine(0), MachineState::Up);
    rig.run(1_500);
    assert_eq!(rig.machine(0), MachineState::Down);
}

fn give_up(machines: &[u32]) -> Action {
    Action::GiveUp { machines: machines.iter().map(|n| name(*n)).collect(), answering: None }
}

/// I19: an operator may move what the leader may not, and only that.
#[test]
fn in_safe_mode_only_an_operator_gives_silent_machines_up() {
    let mut rig = Rig::new(12);
    for number in 0..6 {
        rig.silence(number);
    }
    rig.run(30_000);
    let safe = rig.five.master(1).state().safe_mode().unwrap();
    assert_eq!((safe.silent, safe.machines), (6, 12));
    let refused = rig.try_change("admin", give_up(&[0, 7])).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "machine m-7 answers: only machines that are silent can be given up"
    );
    let refused = rig.try_change("ann", give_up(&[0])).unwrap_err();
    assert_eq!(refused.to_string(), "user ann may not give up machines: that needs admin");
    rig.change("admin", give_up(&[0, 1]));
    rig.run(5_000);
    let down: Vec<u32> =
        (0..12).filter(|number| rig.machine(*number) == MachineState::Down).collect();
    assert_eq!(down, [0, 1], "the others stay where they are");
    assert!(rig.five.master(1).state().safe_mode().is_some());
}

/// I19: safe mode is in the log, so the next leader is in it from its first moment on.
#[test]
fn safe_mode_and_the_rate_hold_over_a_change_of_the_leader() {
    let mut rig = Rig::with(12, |config| config.links.downs_per_minute = 2);
    for number in 0..2 {
        rig.silence(number);
    }
    rig.run(11_000);
    let down = |rig: &Rig| (0..12).filter(|n| rig.machine(*n) == MachineState::Down).count();
    assert_eq!(down(&rig), 2);
    rig.restart_at(rig.five.now + Millis(1_000));
    for number in 2..12 {
        rig.full(number, &[]);
    }
    rig.silence(2);
    rig.run(30_000);
    assert_eq!(down(&rig), 2, "the last leader used up what there is for this minute");
    rig.run(30_000);
    assert_eq!(down(&rig), 3);
    for number in 3..8 {
        rig.silence(number);
    }
    rig.run(2_000);
    assert!(rig.five.master(1).state().safe_mode().is_some());
    rig.restart_at(rig.five.now + Millis(1_000));
    for number in 3..12 {
        rig.full(number, &[]);
        rig.silence(number);
    }
    rig.run(60_000);
    assert_eq!(down(&rig), 3);
}

#[test]
fn machines_with_the_most_important_tasks_are_given_up_first() {
    let mut rig = Rig::with(12, |config| config.links.downs_per_minute = 1);
    let spec = Arc::new(batch("low", 1, 100, GIB / 8));
    let Answer::Job { id: low, .. } = rig.change("ann", Action::SubmitJob { spec }) else {
        panic!()
    };
    let prod = rig.submit(1);
    rig.place(low, 0, 1);
    rig.place(prod, 0, 2);
    for number in 0..3 {
        rig.silence(number);
        rig.run(200);
    }
    let downs = |rig: &Rig| [0, 1, 2].map(|n| rig.machine(n) == MachineState::Down);
    rig.run(10_500);
    assert_eq!(downs(&rig), [false, false, true]);
    rig.run(60_000);
    assert_eq!(downs(&rig), [false, true, true]);
    rig.run(60_000);
    assert_eq!(downs(&rig), [true, true, true]);
}

/// I7: the leader places an exclusive task again when its machine says that it is gone, or had to
/// have ended it by itself.
#[test]
fn an_exclusive_task_is_free_when_its_last_incarnation_surely_runs_no_more() {
    let mut rig = Rig::new(2);
    let mut spec = service("db", 1, 100, GIB / 8);
    spec.exclusive = true;
    let Answer::Job { id: job, .. } = rig.change("ann", Action::SubmitJob { spec: Arc::new(spec) })
    else {
        panic!()
    };
    let lingers =
        |rig: &Rig, id: IncarnationId| rig.five.master(1).state().task(id.task).unwrap().lingers;
    let first = rig.place(job, 0, 0);
    rig.full(0, &[(first, up(1))]);
    rig.silence(0);
    rig.run(10_500);
    assert!(rig.pending(first.task) && lingers(&rig, first));
    let refused = rig.try_place(job, 0, 1).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!(
            "task {} is exclusive, and its last incarnation may still run on machine number 0",
            first.task
        )
    );
    // Back in time, and the old copy is still being stopped.
    rig.full(0, &[(first, TaskStatus::Stopping)]);
    rig.run(60_000);
    assert!(lingers(&rig, first), "it says that it is there");
    rig.full(0, &[]);
    rig.run(300);
    assert!(!lingers(&rig, first));

    let second = rig.place(job, 0, 1);
    rig.full(1, &[(second, up(2))]);
    rig.silence(1);
    rig.run(REPLACE_AFTER.0 - 500);
    assert!(lingers(&rig, second));
    rig.run(1_000);
    assert!(!lingers(&rig, second), "its machine has ended it by now");
    assert_eq!(rig.place(job, 0, 0).number, 3);
}

/// I7: what a shard may pass on was confirmed by a majority after it was reported.
#[test]
fn a_stamp_of_a_shard_is_confirmed_by_a_majority_and_given_back() {
    let mut rig = Rig::new(1);
    let stamp = ShardStamp { process: 5, at: Millis(77) };
    let session = rig.session();
    let report = ShardReport { stamp: Some(stamp), ..report(session) };
    rig.five.input(1, vec![Input::Report(report)]);
    rig.run(500);
    let told: Vec<_> = rig.orders().iter().filter_map(|orders| orders.confirmed).collect();
    assert_eq!(told, [stamp]);
}
