//! Laws of one machine under any order of events: a model of the machine carries effects out, and
//! polls of several sessions, exits, failed starts, nonsense and restarts of the borglet come in
//! any order.

#[path = "../src/fixture.rs"]
mod fixture;

use borg_proto::health::{HealthCheck, Probe};
use borg_proto::poll::{
    AnswerStamp, Fence, MachineReport, PollRefusal, ReportVersion, TargetTask, TaskStatus, Usage,
};
use borg_proto::spec::MemoryLimit;
use borg_proto::{AppClass, FailureCause, IncarnationId, MachineInfo, Millis, Resources};
use borglet_supervisor::{
    Adopted, AdoptedState, Config, Effect, Input, Launch, MachineUse, NextRun, Run, Supervisor,
    TaskUse,
};
use fixture::{fence, poll, target_task};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Clone)]
enum Step {
    Poll {
        term: u64,
        session: u64,
        generation: u64,
        with_target: bool,
        hold: u64,
        /// How long ago the answer was given that the masters are known to have heard, if there is one.
        heard: Option<u64>,
    },
    Start {
        pick: usize,
        works: bool,
    },
    Exit {
        pick: usize,
        failure: Option<FailureCause>,
    },
    Measure {
        ram_bytes: u64,
        available: u64,
        disk_bytes: u64,
        files: u64,
        idle_milli: u64,
        /// How often in a row.
        samples: u8,
    },
    Answer {
        pick: usize,
        well: bool,
    },
    Nonsense {
        index: u32,
        number: u32,
        kind: u8,
    },
    Pass {
        ms: u64,
    },
    /// `began`: of the starts under way, those whose bits are set; `words`: whether what was started is known.
    Crash {
        began: u8,
        words: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let failure = prop_oneof![
        Just(None),
        Just(Some(FailureCause::Exit { code: 1 })),
        Just(Some(FailureCause::Lost))
    ];
    prop_oneof![
        4 => (0..3_u64, 0..3_u64, 0..5_u64, any::<bool>(), 0..3_u64, proptest::option::of(0..40_000_u64))
            .prop_map(|(term, session, generation, with_target, hold, heard)| {
                Step::Poll { term, session, generation, with_target, hold: hold * 1_000, heard }
            }),
        4 => (any::<usize>(), prop::bool::weighted(0.9)).prop_map(|(pick, works)| Step::Start { pick, works }),
        3 => (any::<usize>(), failure).prop_map(|(pick, failure)| Step::Exit { pick, failure }),
        2 => (0..3_u64 << 20, 0..20_u64 << 20, 0..3_u64 << 20, 0..110_000_u64, prop_oneof![Just((0, 1)), Just((0, 6)), Just((1_000, 1))])
            .prop_map(|(ram_bytes, available, disk_bytes, files, (idle_milli, samples))| {
                Step::Measure { ram_bytes, available, disk_bytes, files, idle_milli, samples }
            }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(pick, well)| Step::Answer { pick, well }),
        1 => (0..6_u32, 0..3_u32, 0..5_u8).prop_map(|(index, number, kind)| Step::Nonsense { index, number, kind }),
        3 => prop_oneof![Just(0_u64), Just(700), Just(6_000), Just(90_000)].prop_map(|ms| Step::Pass { ms }),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(began, words)| Step::Crash { began, words }),
    ]
}

/// The target that a fence names: always the same one. Odd indexes are services, those that three
/// divides have a health check, 4 is exclusive, 2 has limited disk, and 1 a limit of memory that others may cross.
fn target_of(fence: Fence) -> Vec<TargetTask> {
    let bits =
        (fence.term * 7 + fence.session * 3 + fence.generation * 5).wrapping_mul(0x9e37) >> 3;
    (0..6)
        .filter(|index| bits >> index & 1 == 1)
        .map(|index| {
            let mut task = target_task(1, index, index % 2 == 1);
            task.exclusive = index == 4;
            if index == 2 {
                Arc::make_mut(&mut task.spec).limit.disk_bytes = 2 << 20;
            }
            if index == 1 {
                Arc::make_mut(&mut task.spec).memory = MemoryLimit::Soft;
                task.appclass = AppClass::LatencySensitive;
            }
            if index % 3 == 0 {
                let spec = Arc::make_mut(&mut task.spec);
                spec.ports = vec!["http".parse().expect("a name")];
                let check = HealthCheck::new(Probe::Tcp { port: spec.ports[0].clone() });
                spec.health = Some(HealthCheck { failures: 1, grace_ms: Millis(5_000), ..check });
                task.ports = vec![80];
            }
            task
        })
        .collect()
}

fn info() -> MachineInfo {
    MachineInfo {
        capacity: Resources { ram_bytes: 4 << 20, ..Resources::default() },
        first_port: 1,
        attributes: BTreeMap::new(),
        boot_id: String::new(),
        missing_isolation: Vec::new(),
        task_host: String::new(),
    }
}

fn supervisor(session: u64, remembered: Fence, adopted: Vec<Adopted>) -> Supervisor {
    let mut config =
        Config::new("lab".parse().expect("a name"), "m1".parse().expect("a name"), session);
    config.max_held = 3;
    (config.memory_reserve, config.disk_reserve) = (10 << 20, 1 << 20);
    Supervisor::new(config, remembered, adopted, info())
}

/// What the machine itself has: survives the supervisor.
struct Machine {
    supervisor: Supervisor,
    session: u64,
    /// When this process of the borglet began.
    born: Millis,
    now: Millis,
    token: u64,
    remembered: Fence,
    lease: Option<Millis>,
    starting: BTreeSet<Run>,
    running: BTreeSet<Run>,
    /// What the runs were started for.
    launches: BTreeMap<Run, Launch>,
    /// The newest run of each incarnation of which there was a process, or a record.
    newest: BTreeMap<IncarnationId, u32>,
    /// Asked to end or killed; may still run.
    asked: BTreeSet<Run>,
    ended: BTreeMap<Run, Option<FailureCause>>,
    unanswered: BTreeSet<u64>,
    probed: BTreeSet<Run>,
    /// Those of them that wait for their turn.
    to_begin: BTreeSet<Run>,
    last: (ReportVersion, MachineReport),
    /// What was done at all.
    marks: BTreeSet<&'static str>,
}

/// All that a machine may have to do here.
const MARKS: [&str; 10] = [
    "cap",
    "extend lease",
    "kill",
    "lift cap",
    "probe",
    "remember",
    "remove",
    "share",
    "start under a lease",
    "terminate",
];

impl Machine {
    fn new() -> Self {
        let supervisor = supervisor(1, Fence::default(), Vec::new());
        let last = supervisor.report();
        Self {
            supervisor,
            session: 1,
            born: Millis(1_000_000),
            now: Millis(1_000_000),
            token: 0,
            remembered: Fence::default(),
            lease: None,
            starting: BTreeSet::new(),
            running: BTreeSet::new(),
            launches: BTreeMap::new(),
            newest: BTreeMap::new(),
            asked: BTreeSet::new(),
            ended: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            probed: BTreeSet::new(),
            to_begin: BTreeSet::new(),
            last,
            marks: BTreeSet::new(),
        }
    }

    fn input(&mut self, input: Input) -> Vec<Effect> {
        let effects = self.supervisor.handle(self.now, input);
        for effect in &effects {
            self.perform(effect);
        }
        self.check_version();
        assert!(
            self.supervisor.next_wakeup().is_none_or(|due| due > self.now),
            "due work was left undone"
        );
        effects
    }

    fn perform(&mut self, effect: &Effect) {
        self.marks.extend(mark(effect));
        match effect {
            Effect::RememberFence(fence) => self.remembered = *fence,
            Effect::ExtendLease { until } => {
                assert!(self.lease <= Some(*until), "a lease that shrinks");
                self.lease = Some(*until);
            }
            Effect::Start(launch) => {
                let run = launch.run;
                let live = self.starting.iter().chain(&self.running);
                assert!(live.clone().all(|other| other.id != run.id), "two copies of {run}");
                let newest = self.newest.get(&run.id).is_some_and(|newest| *newest >= run.number);
                assert!(!newest, "the output of {run} was there already");
                if launch.task.exclusive {
                    let ends_by = launch.ends_by.expect("an exclusive task ends by itself");
                    assert!(ends_by > self.now, "{run} begins when it must be over");
                }
                self.ended.retain(|other, _| other.id != run.id);
                self.starting.insert(run);
                self.launches.insert(run, launch.as_ref().clone());
            }
            Effect::Terminate { run } | Effect::Kill { run } => {
                assert!(self.running.contains(run), "{run} does not run");
                self.asked.insert(*run);
            }
            Effect::CapCpu { run, .. } | Effect::ShareCpu { run, .. } => {
                assert!(self.running.contains(run), "{run} does not run");
            }
            Effect::Probe { run, .. } => {
                assert!(self.running.contains(run), "{run} does not run");
                self.probed.insert(*run);
                self.to_begin.insert(*run);
            }
            Effect::MeasureData { .. } | Effect::DropData { .. } => {
                panic!("no task here shares anything: {effect:?}")
            }
            Effect::ExpectBlob { .. }
            | Effect::FetchBlob { .. }
            | Effect::Unpack { .. }
            | Effect::DropBlob { .. } => panic!("no task here names packages: {effect:?}"),
            Effect::Remove { id } => {
                let live = self.starting.iter().chain(&self.running);
                assert!(live.clone().all(|run| run.id != *id), "{id} is forgotten while it runs");
                self.ended.retain(|run, _| run.id != *id);
                // No target of a cell has it again.
                self.newest.remove(id);
            }
            Effect::Answer { token, result } => {
                assert!(self.unanswered.remove(token), "poll {token} is answered twice");
                if let Ok(answer) = result {
                    assert_eq!(
                        (answer.version, &answer.report),
                        (self.supervisor.report().0, &self.supervisor.report().1)
                    );
                }
            }
        }
    }

    /// A report has a new version exactly when its states changed.
    fn check_version(&mut self) {
        let states = |report: &MachineReport| {
            let mut report = report.clone();
            report.tasks.iter_mut().for_each(|task| task.usage = Usage::default());
            report
        };
        let next = self.supervisor.report();
        assert!(next.0 >= self.last.0, "versions go back");
        if next.0 == self.last.0 {
            assert_eq!(states(&next.1), states(&self.last.1), "a change without a new version");
        }
        self.last = next;
    }

    fn poll(
        &mut self,
        asked: Fence,
        with_target: bool,
        hold: u64,
        heard: Option<u64>,
    ) -> Vec<Effect> {
        self.token += 1;
        self.unanswered.insert(self.token);
        let mut request = poll(asked, with_target.then(|| target_of(asked)));
        request.hold = Millis(hold);
        let at = |ago: u64| Millis(self.now.0.saturating_sub(ago)).max(self.born);
        request.lease = heard.map(|ago| AnswerStamp { session: self.session, at: at(ago) });
        request.seen = self.supervisor.report().0;
        self.input(Input::Poll { token: self.token, request })
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Poll { term, session, generation, with_target, hold, heard } => {
                let asked = fence(term, session, generation);
                let (before, obeyed) = (self.supervisor.report(), self.supervisor.obeyed());
                let effects = self.poll(asked, with_target, hold, heard);
                if asked < obeyed {
                    let refusal = PollRefusal::Stale { asked, obeyed };
                    assert_eq!(
                        effects,
                        [Effect::Answer { token: self.token, result: Err(refusal) }]
                    );
                    assert_eq!(
                        (before, obeyed),
                        (self.supervisor.report(), self.supervisor.obeyed())
                    );
                }
            }
            Step::Start { pick, works } => {
                let Some(&run) = self.starting.iter().nth(pick % self.starting.len().max(1)) else {
                    return;
                };
                self.starting.remove(&run);
                self.newest.insert(run.id, run.number);
                if works {
                    self.running.insert(run);
                    self.input(Input::Started { run, pid: 1, since: self.now, address: None });
                } else {
                    self.input(Input::StartFailed {
                        run,
                        cause: FailureCause::PortTaken { port: 1 },
                    });
                }
            }
            Step::Exit { pick, failure } => {
                let Some(&run) = self.running.iter().nth(pick % self.running.len().max(1)) else {
                    return;
                };
                self.exit(run, failure);
            }
            Step::Measure { ram_bytes, available, disk_bytes, files, idle_milli, samples } => {
                // The service takes the processors, so batch has none.
                let cpu = |run: &Run| if run.id.task.index == 1 { 2_000 } else { 0 };
                let of = |run: &Run| {
                    let cpu_milli = cpu(run);
                    let usage = Usage { ram_bytes, disk_bytes, cpu_milli, ..Usage::default() };
                    (run.id, TaskUse { usage, files })
                };
                let tasks: Vec<_> = self.running.iter().map(of).collect();
                let machine = MachineUse {
                    memory_available: Some(available),
                    disk_available: Some(available),
                    cpu_milli: Some(2_000),
                    cpu_idle_milli: Some(idle_milli),
                };
                for _ in 0..samples {
                    self.input(Input::Usage { machine, tasks: tasks.clone() });
                }
            }
            Step::Answer { pick, well } => {
                let Some(&run) = self.probed.iter().nth(pick % self.probed.len().max(1)) else {
                    return;
                };
                self.answer(run, well);
            }
            Step::Nonsense { index, number, kind } => {
                let run = Run { id: target_task(1, index, false).id, number: number + 1_000 };
                let (at, failure) = (Millis(u64::MAX), Some(FailureCause::Lost));
                self.input(match kind {
                    0 => Input::Started { run, pid: 0, since: at, address: None },
                    1 => Input::StartFailed { run, cause: FailureCause::Lost },
                    2 => Input::Exited { run, at, failure },
                    3 => Input::Probed { run, result: Err("no".into()) },
                    _ => Input::Usage {
                        machine: MachineUse::default(),
                        tasks: vec![(
                            run.id,
                            TaskUse {
                                usage: Usage {
                                    cpu_milli: u64::MAX,
                                    ram_bytes: u64::MAX,
                                    disk_bytes: u64::MAX,
                                    ..Usage::default()
                                },
                                files: u64::MAX,
                            },
                        )],
                    },
                });
            }
            Step::Pass { ms } => {
                self.now = self.now + Millis(ms);
                self.input(Input::Tick);
            }
            Step::Crash { began, words } => self.crash(began, words),
        }
    }

    fn answer(&mut self, run: Run, well: bool) {
        self.probed.remove(&run);
        if self.to_begin.remove(&run) {
            self.input(Input::ProbeBegun { run });
        }
        let result = if well { Ok(()) } else { Err("no".into()) };
        self.input(Input::Probed { run, result });
    }

    fn exit(&mut self, run: Run, failure: Option<FailureCause>) {
        self.running.remove(&run);
        self.ended.insert(run, failure.clone());
        self.input(Input::Exited { run, at: self.now, failure });
    }

    /// Kill -9: a start under way is either there or not there at all; polls break off.
    fn crash(&mut self, began: u8, words: bool) {
        let mut next = BTreeMap::new();
        for (place, run) in std::mem::take(&mut self.starting).into_iter().enumerate() {
            if began >> (place % 8) & 1 == 1 {
                self.running.insert(run);
                self.newest.insert(run.id, run.number);
            } else {
                let failures = self.launches[&run].failures;
                next.insert(run.id, NextRun { number: run.number, failures });
            }
        }
        for (id, newest) in &self.newest {
            // Between two runs there may be nothing but output.
            next.entry(*id).or_insert(NextRun { number: newest + 1, failures: 0 });
        }
        self.unanswered.clear();
        let launches = &self.launches;
        let found = |run: Run, state| Adopted {
            layers: Vec::new(),
            run,
            since: Millis(1_000_000),
            grace: Millis(1_000),
            ports: Vec::new(),
            task: launches.get(&run).filter(|_| words).map(|launch| launch.task.clone()),
            address: None,

            end: None,
            state,
            failures: launches.get(&run).map_or(0, |launch| launch.failures),
        };
        let running = self.running.iter().map(|run| found(*run, AdoptedState::Running { pid: 1 }));
        let ended = self.ended.iter().map(|(run, failure)| {
            found(*run, AdoptedState::Ended { at: self.now, failure: failure.clone() })
        });
        let adopted = running.chain(ended).collect();
        self.session += 1;
        self.born = self.now;
        self.supervisor = supervisor(self.session, self.remembered, adopted).with_runs(next);
        self.last = self.supervisor.report();
        for effect in self.input(Input::Tick) {
            let goes_on = words && matches!(effect, Effect::Start(_) | Effect::Probe { .. });
            assert!(goes_on, "silence does {effect:?}");
        }
    }

    /// Nothing fails any more and what is asked to end does.
    fn settle(&mut self, last: Fence) {
        let wanted: BTreeSet<IncarnationId> = target_of(last).iter().map(|task| task.id).collect();
        for round in 0..20 {
            self.poll(last, round == 0, 0, Some(0));
            while let Some(run) = self.starting.pop_first() {
                self.running.insert(run);
                self.newest.insert(run.id, run.number);
                self.input(Input::Started { run, pid: 1, since: self.now, address: None });
            }
            while let Some(run) = self.probed.pop_first() {
                self.answer(run, true);
            }
            for run in self.running.clone() {
                if self.asked.contains(&run) {
                    self.exit(run, Some(FailureCause::Signal { signal: 15 }));
                }
            }
            self.now = self.now + Millis(60_000);
            self.input(Input::Tick);
        }
        let report = self.supervisor.report().1;
        assert_eq!(report.tasks.iter().map(|task| task.id).collect::<BTreeSet<_>>(), wanted);
        let up = report
            .tasks
            .iter()
            .filter(|task| matches!(task.status, TaskStatus::Up { .. }))
            .map(|task| task.id);
        assert_eq!(up.collect::<BTreeSet<_>>(), self.running.iter().map(|run| run.id).collect());
        for task in &report.tasks {
            assert!(
                matches!(task.status, TaskStatus::Up { .. } | TaskStatus::Ended { .. }),
                "{task:?} is neither up nor over"
            );
        }
        assert!(self.unanswered.is_empty(), "polls without an answer");
    }
}

/// What an effect shows to have been reached.
fn mark(effect: &Effect) -> Option<&'static str> {
    Some(match effect {
        Effect::RememberFence(_) => "remember",
        Effect::ExtendLease { .. } => "extend lease",
        Effect::Start(launch) if launch.task.exclusive => "start under a lease",
        Effect::Terminate { .. } => "terminate",
        Effect::Kill { .. } => "kill",
        Effect::CapCpu { cap_milli: Some(_), .. } => "cap",
        Effect::CapCpu { cap_milli: None, .. } => "lift cap",
        Effect::ShareCpu { .. } => "share",
        Effect::Probe { .. } => "probe",
        Effect::Remove { .. } => "remove",
        Effect::Start(_)
        | Effect::Answer { .. }
        | Effect::MeasureData { .. }
        | Effect::DropData { .. }
        | Effect::ExpectBlob { .. }
        | Effect::FetchBlob { .. }
        | Effect::Unpack { .. }
        | Effect::DropBlob { .. } => return None,
    })
}

/// At most one copy of anything, no start twice, stale orders change nothing, every poll is
/// answered once; and once events cease, what runs is what the last order names.
#[test]
fn whatever_happens_the_machine_ends_up_with_its_target() {
    let config =
        ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    let reached = RefCell::new(BTreeSet::new());
    let run = TestRunner::new(config).run(&prop::collection::vec(step(), 0..120), |steps| {
        let mut machine = Machine::new();
        for step in steps {
            machine.take(step);
        }
        machine.settle(fence(9, 9, 9));
        reached.borrow_mut().extend(machine.marks);
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(
        reached.into_inner(),
        BTreeSet::from(MARKS),
        "what was never tried is not known to hold"
    );
}
