//! Jobs for simulated cells: a short way to write a specification, and the plays that simulated
//! machines perform instead of programs.

use crate::dice::Dice;
use crate::usage::{self, Model};
use borg_proto::cron::{Cron, Overlap};
use borg_proto::disruption::{Disruption, Rate, Share};
use borg_proto::health::{HealthCheck, Probe};
use borg_proto::names::PortName;
use borg_proto::spec::{Constraint, ConstraintOp, Spread};
use borg_proto::{JobKey, JobKind, JobSpec, Millis, Priority, Privilege, Resources, TaskSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a simulated process does. It travels in the job's command, as a program's name would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Play {
    /// Runs on until it is told to end.
    Serve,
    /// The same, and takes no notice of SIGTERM.
    Stubborn,
    /// Ends after so many milliseconds, with this code.
    Exit {
        /// Milliseconds.
        after: u64,
        /// Exit code.
        code: i32,
    },
    /// Ends after so many milliseconds; fails this many times in a thousand while faults are
    /// allowed, else exits with 0 or, as a service, runs on.
    Flaky {
        /// Milliseconds.
        after: u64,
        /// Thousandths.
        failing: u64,
    },
    /// Runs on, and never answers its health check well.
    Sick,
    /// Runs on, and answers its health check badly so many times in a thousand while faults are allowed.
    Moody {
        /// Thousandths.
        failing: u64,
    },
    /// Runs on, and never answers its health check well on machines from that number on.
    Homely {
        /// The machine's number.
        below: u64,
    },
    /// The program does not exist.
    Missing,
}

impl Play {
    /// The command of a task that plays it.
    #[must_use]
    pub fn command(self) -> Vec<String> {
        let words: Vec<String> = match self {
            Self::Serve => vec!["serve".into()],
            Self::Stubborn => vec!["stubborn".into()],
            Self::Exit { after, code } => vec!["exit".into(), after.to_string(), code.to_string()],
            Self::Flaky { after, failing } => {
                vec!["flaky".into(), after.to_string(), failing.to_string()]
            }
            Self::Sick => vec!["sick".into()],
            Self::Moody { failing } => vec!["moody".into(), failing.to_string()],
            Self::Homely { below } => vec!["homely".into(), below.to_string()],
            Self::Missing => vec!["missing".into()],
        };
        std::iter::once("/sim/play".to_owned()).chain(words).collect()
    }

    /// Reads a command; any other program serves.
    #[must_use]
    pub fn read(argv: &[String]) -> Self {
        let words: Vec<&str> = argv.iter().map(String::as_str).collect();
        let number = |text: &str| text.parse().unwrap_or(0);
        match words.as_slice() {
            ["/sim/play", "stubborn"] => Self::Stubborn,
            ["/sim/play", "missing"] => Self::Missing,
            ["/sim/play", "sick"] => Self::Sick,
            ["/sim/play", "homely", below] => Self::Homely { below: number(below) },
            ["/sim/play", "moody", failing] => Self::Moody { failing: number(failing) },
            ["/sim/play", "exit", after, code] => {
                Self::Exit { after: number(after), code: code.parse().unwrap_or(1) }
            }
            ["/sim/play", "flaky", after, failing] => {
                Self::Flaky { after: number(after), failing: number(failing) }
            }
            _ => Self::Serve,
        }
    }
}

/// Builds a [`JobSpec`]. Begins as a service of one task of 100 millicores and 64 MiB in the
/// batch band.
#[derive(Debug, Clone)]
pub struct JobBuilder {
    spec: JobSpec,
    task: TaskSpec,
}

/// A job of this name.
///
/// # Panics
/// When it is not a name.
#[must_use]
pub fn job(name: &str) -> JobBuilder {
    let task = TaskSpec {
        command: Play::Serve.command(),
        env: BTreeMap::new(),
        limit: Resources { cpu_milli: 100, ram_bytes: 64 << 20, ..Resources::default() },
        ports: Vec::new(),
        constraints: Vec::new(),
        spread: Vec::new(),
        volumes: Vec::new(),
        grace_ms: Millis(2_000),
        memory: borg_proto::spec::MemoryLimit::Hard,
        cpu_cap_milli: None,
        health: None,
        image: None,
        packages: Vec::new(),
        network: borg_proto::Network::Host,
        loosen: BTreeSet::new(),
        reclaim: true,
    };
    let spec = JobSpec {
        name: name.parse().expect("a job's name in a test or a workload is a name"),
        kind: JobKind::Service,
        tasks: 1,
        priority: Priority::new(100).expect("100 is a priority"),
        appclass: None,
        task: Arc::new(task.clone()),
        after: Vec::new(),
        retries: 0,
        exclusive: false,
        alloc_set: None,
        gang: false,
        concurrent: None,
        parent: None,
        max_failures: 0,
        timeout_ms: None,
        deadline_ms: None,
        cron: None,
        labels: BTreeMap::new(),
        disruption: None,
        task_labels: Vec::new(),
        keep_data_ms: None,
        rescue: false,
    };
    JobBuilder { spec, task }
}

impl JobBuilder {
    /// How many tasks.
    #[must_use]
    pub fn tasks(mut self, tasks: u32) -> Self {
        self.spec.tasks = tasks;
        self
    }

    /// Never two running copies of a task.
    #[must_use]
    pub fn exclusive(mut self) -> Self {
        self.spec.exclusive = true;
        self
    }

    /// All waiting tasks are placed together, or none.
    #[must_use]
    pub fn gang(mut self) -> Self {
        self.spec.gang = true;
        self
    }

    /// At most so many tasks are placed at once.
    #[must_use]
    pub fn concurrent(mut self, most: u32) -> Self {
        self.spec.concurrent = Some(most);
        self
    }

    /// So much of it may be disturbed on purpose.
    #[must_use]
    pub fn budget(mut self, budget: Option<Disruption>) -> Self {
        self.spec.disruption = budget;
        self
    }

    /// In the production band.
    #[must_use]
    pub fn prod(self) -> Self {
        self.priority(200)
    }

    /// This priority, which is at most 450.
    ///
    /// # Panics
    /// When it is more.
    #[must_use]
    pub fn priority(mut self, priority: u16) -> Self {
        self.spec.priority = Priority::new(priority.into()).expect("at most 450");
        self
    }

    /// A batch job that may fail so many times per task.
    #[must_use]
    pub fn batch(mut self, retries: u32) -> Self {
        self.spec.kind = JobKind::Batch;
        self.spec.retries = retries;
        self
    }

    /// What its processes do.
    #[must_use]
    pub fn plays(mut self, play: Play) -> Self {
        self.task.command = play.command();
        self
    }

    /// What each task may use.
    #[must_use]
    pub fn limit(mut self, cpu_milli: u64, ram_mib: u64) -> Self {
        self.task.limit.cpu_milli = cpu_milli;
        self.task.limit.ram_bytes = ram_mib << 20;
        self
    }

    /// How much of its processor and memory limits each of its processes uses.
    #[must_use]
    pub fn uses(mut self, cpu: Model, ram: Model) -> Self {
        self.task.env.extend(uses(cpu, ram));
        self
    }

    /// Named ports.
    ///
    /// # Panics
    /// When one is not a name.
    #[must_use]
    pub fn ports(mut self, names: &[&str]) -> Self {
        let names = names.iter().map(|name| name.parse::<PortName>());
        self.task.ports = names.collect::<Result<_, _>>().expect("port names are names");
        self
    }

    /// Serves on a port, and its machine finds out within seconds whether it still does.
    ///
    /// # Panics
    /// Never: the port's name is one.
    #[must_use]
    pub fn checked(mut self) -> Self {
        if self.task.ports.is_empty() {
            self = self.ports(&["http"]);
        }
        let probe = Probe::Tcp { port: self.task.ports[0].clone() };
        self.task.health = Some(HealthCheck {
            grace_ms: Millis(5_000),
            interval_ms: Millis(1_000),
            timeout_ms: Millis(500),
            failures: 2,
            ..HealthCheck::new(probe)
        });
        self
    }

    /// Only on machines where the attribute has this value.
    #[must_use]
    pub fn only_on(mut self, attribute: &str, value: &str) -> Self {
        let (attribute, values) = (attribute.into(), vec![value.into()]);
        let constraint = Constraint { attribute, op: ConstraintOp::Equal, values, soft: false };
        self.task.constraints.push(constraint);
        self
    }

    /// At most so many tasks in one place.
    #[must_use]
    pub fn spread(mut self, attribute: &str, max: u32) -> Self {
        self.task.spread.push(Spread { attribute: attribute.into(), max });
        self
    }

    /// Starts after that job has finished.
    #[must_use]
    pub fn after(mut self, job: JobKey) -> Self {
        self.spec.after.push(job);
        self
    }

    /// A daemon instead: one task on each machine that will do.
    #[must_use]
    pub fn daemon(mut self) -> Self {
        self.spec.kind = JobKind::Daemon;
        (self.spec.tasks, self.spec.gang, self.spec.concurrent) = (1, false, None);
        (self.spec.exclusive, self.spec.alloc_set) = (false, None);
        self.task.spread.clear();
        self
    }

    /// A cron job instead, whose runs are otherwise like it.
    ///
    /// # Panics
    /// When the text is no schedule.
    #[must_use]
    pub fn cron(mut self, schedule: &str, overlap: Overlap) -> Self {
        self.spec.kind = JobKind::Cron;
        self.spec.after.clear();
        let schedule = schedule.parse().expect("schedules in tests and workloads are schedules");
        self.spec.cron = Some(Cron { overlap, ..Cron::new(schedule) });
        self
    }

    /// Ends with that job.
    #[must_use]
    pub fn child_of(mut self, parent: JobKey) -> Self {
        self.spec.parent = Some(parent);
        self
    }

    /// How long a run of a task may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Millis) -> Self {
        self.spec.timeout_ms = Some(timeout);
        self
    }

    /// How long the whole job may take.
    #[must_use]
    pub fn deadline(mut self, deadline: Millis) -> Self {
        self.spec.deadline_ms = Some(deadline);
        self
    }

    /// How many of its tasks may fail for good without ending the others.
    #[must_use]
    pub fn max_failures(mut self, most: u32) -> Self {
        self.spec.max_failures = most;
        self
    }

    /// An alloc set instead, whose tasks are allocs of the same size and run nothing.
    #[must_use]
    pub fn alloc_set(mut self) -> Self {
        self.spec.kind = JobKind::AllocSet;
        (self.spec.retries, self.spec.exclusive) = (0, false);
        self.spec.concurrent = None;
        self.task.command.clear();
        self.task.ports.clear();
        self.task.health = None;
        self
    }

    /// Of an alloc set: keeps for so long what its allocs leave behind.
    #[must_use]
    pub fn keeps_data(mut self, time: Millis) -> Self {
        self.spec.keep_data_ms = Some(time);
        self
    }

    /// Of a job in such a set: saves that.
    #[must_use]
    pub fn rescues(mut self) -> Self {
        self.spec.rescue = true;
        self
    }

    /// In the allocs of that set, where they are.
    #[must_use]
    pub fn within(mut self, alloc_set: JobKey) -> Self {
        self.spec.alloc_set = Some(alloc_set);
        (self.spec.gang, self.spec.concurrent) = (false, None);
        self.task.constraints.clear();
        self.task.spread.clear();
        self
    }

    /// Time between SIGTERM and SIGKILL.
    #[must_use]
    pub fn grace(mut self, grace: Millis) -> Self {
        self.task.grace_ms = grace;
        self
    }

    /// The specification.
    #[must_use]
    pub fn spec(self) -> JobSpec {
        JobSpec { task: Arc::new(self.task), ..self.spec }
    }
}

/// What a task's environment has to say so that its processes use so much.
#[must_use]
pub fn uses(cpu: Model, ram: Model) -> [(String, String); 2] {
    [(usage::CPU.to_owned(), cpu.write()), (usage::RAM.to_owned(), ram.write())]
}

/// A job of the random workload: sizes between a small part and more than half of a machine, so
/// that machines fill up, tasks wait, and higher priorities push out lower ones.
#[must_use]
pub fn random(dice: &mut Dice, name: &str, others: &[JobKey]) -> JobSpec {
    let mut spec = job(name)
        .tasks(u32::try_from(dice.between(1, 6)).expect("small"))
        .priority(*dice.pick(&[0, 25, 100, 110, 200, 200, 360]))
        .limit(dice.between(1, 24) * 100, dice.between(1, 24) * 64)
        .grace(Millis(dice.between(0, 3) * 1_000));
    if dice.chance(400) {
        spec = spec.ports(&["http", "admin"][..dice.index(2) + 1]);
    }
    if dice.chance(150) {
        spec = spec.only_on("rack", &format!("r{}", dice.below(3)));
    }
    if dice.chance(150) {
        spec = spec.spread("machine", u32::try_from(dice.between(1, 2)).expect("small"));
    }
    if dice.chance(250) {
        spec = spec.exclusive();
    }
    // Nothing is thrown for these: seeds that are kept go on meeting what they were kept for.
    match (spec.spec.tasks, spec.task.limit.cpu_milli / 100 % 4) {
        (2.., 0) => spec = spec.gang(),
        (most @ 2.., 1) => spec = spec.concurrent(most / 2),
        _ => {}
    }
    if dice.chance(500) {
        let play = match dice.below(10) {
            0..=5 => Play::Serve,
            6 | 7 => Play::Flaky { after: dice.between(200, 8_000), failing: 1_000 },
            8 => Play::Stubborn,
            _ => Play::Flaky { after: dice.between(5_000, 20_000), failing: 500 },
        };
        return of_kinds(in_allocs(checked(spec.plays(play)), others), others).spec();
    }
    let after = dice.between(100, 12_000);
    let play = match dice.below(10) {
        0..=4 => Play::Exit { after, code: 0 },
        5..=7 => Play::Flaky { after, failing: 300 },
        8 => Play::Exit { after, code: 3 },
        _ => Play::Missing,
    };
    let retries = u32::try_from(dice.below(4)).expect("small");
    spec = spec.batch(retries).plays(play);
    if dice.chance(250) && !others.is_empty() {
        spec = spec.after(dice.pick(others).clone());
    }
    of_kinds(in_allocs(spec, others), others).spec()
}

/// Some are daemons, some cron jobs; some end with another one, some must not take long. Nothing is thrown for
/// these.
fn of_kinds(spec: JobBuilder, others: &[JobKey]) -> JobBuilder {
    let kind = spec.spec.kind;
    let cpu = spec.task.limit.cpu_milli / 100;
    match (spec.task.limit.ram_bytes / (64 << 20) % 8, kind, others) {
        (2 | 6, JobKind::Service, _) => spec.daemon(),
        (2, JobKind::Batch, _) => {
            let overlaps = [Overlap::Forbid, Overlap::Allow, Overlap::Replace];
            let overlap = overlaps[usize::try_from(cpu % 3).expect("small")];
            spec.cron("* * * * *", overlap)
        }
        (4, JobKind::Batch, _) => spec.timeout(Millis(cpu * 500 + 1_000)).max_failures(1),
        (6, JobKind::Batch, [parent, ..]) if cpu.is_multiple_of(2) => spec.child_of(parent.clone()),
        (6, JobKind::Batch, _) => spec.deadline(Millis(cpu * 1_000 + 1_000)),
        _ => spec,
    }
}

/// Some are alloc sets instead, and some are in one: most of the names that they give are of none, and
/// the cell says so. Nothing is thrown for these either.
fn in_allocs(spec: JobBuilder, others: &[JobKey]) -> JobBuilder {
    let cpu_milli = spec.task.limit.cpu_milli;
    match (spec.task.limit.ram_bytes / (64 << 20) % 8, others) {
        (0 | 3, _) => spec.alloc_set(),
        (1 | 5, [set, ..]) => spec.priority(0).limit(cpu_milli / 3 + 1, 64).within(set.clone()),
        _ => spec,
    }
}

/// Some have a health check, which some answer badly now and then. Nothing is thrown for that.
fn checked(spec: JobBuilder) -> JobBuilder {
    match spec.task.limit.cpu_milli / 100 % 8 {
        2 => spec.checked(),
        5 => spec.checked().plays(Play::Moody { failing: 400 }),
        _ => spec,
    }
}

/// Some say how much of them may be disturbed. Nothing is thrown for that.
#[must_use]
pub fn budget_some(mut spec: JobSpec) -> JobSpec {
    let budget = |most, rate| Some(Disruption { most, rate });
    spec.disruption = match spec.task.limit.ram_bytes / (64 << 20) % 12 {
        2 => budget(Share::Tasks(1), None),
        4 => budget(Share::Tasks(0), None),
        6 => budget(Share::Percent(50), Some(Rate { tasks: 1, per_ms: Millis(3_000) })),
        _ => None,
    };
    spec
}

/// Some alloc sets keep what their allocs leave behind, and some jobs in them save it. Nothing is thrown for that.
#[must_use]
pub fn keep_some(mut spec: JobSpec) -> JobSpec {
    let cpu_milli = spec.task.limit.cpu_milli;
    if spec.kind == JobKind::AllocSet && !cpu_milli.is_multiple_of(4) {
        spec.keep_data_ms = Some(Millis(60_000 + cpu_milli * 10));
    }
    let saves = matches!(spec.kind, JobKind::Service | JobKind::Batch);
    spec.rescue = saves && spec.alloc_set.is_some() && cpu_milli.is_multiple_of(2);
    spec
}

/// Some do without some isolation. Nothing is thrown for that.
#[must_use]
pub fn loosen_some(mut spec: JobSpec) -> JobSpec {
    if spec.kind != JobKind::AllocSet && spec.task.limit.ram_bytes / (64 << 20) % 8 == 7 {
        Arc::make_mut(&mut spec.task).loosen.insert(Privilege::Listen);
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plays_survive_the_command_line() {
        for play in [
            Play::Serve,
            Play::Stubborn,
            Play::Missing,
            Play::Exit { after: 5, code: 3 },
            Play::Flaky { after: 7, failing: 300 },
            Play::Sick,
            Play::Moody { failing: 400 },
        ] {
            assert_eq!(Play::read(&play.command()), play);
        }
        assert_eq!(Play::read(&["/bin/true".into()]), Play::Serve);
    }

    #[test]
    fn every_random_job_is_within_bounds() {
        let mut dice = Dice::new(3);
        for _ in 0..1_000 {
            let spec = random(&mut dice, "job", &["ann/x".parse().unwrap()]);
            spec.check().unwrap();
            keep_some(budget_some(loosen_some(spec))).check().unwrap();
        }
    }
}
