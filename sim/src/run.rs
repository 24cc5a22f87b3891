//! One seed from beginning to end, and many of them.
//!
//! A run is a storm of faults over a busy cell, then calm, then the check that everything settled. One
//! cell in ten then loses all of its masters, goes on from a backup of the storm, and settles again.

use crate::checkers::quiescence::{Aspect, Unsettled};
use crate::checkers::{Invariant, Violation};
use crate::journal::Sink;
use crate::marks::{Mark, Marks};
use crate::world::{BEGIN, Setup, Weather, World};
use borg_proto::Millis;
use borg_proto::command::LEVEL;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// How long the storm is, unless told otherwise.
pub const STORM: Millis = Millis(60_000);
/// How long a cell that is restored from a backup keeps what the backup does not know: a little longer than
/// it hears its machines out.
const SPARE: Millis = Millis(50_000);
/// How long it must stay settled: nothing more than what is on its way happens.
const STAYS: Millis = Millis(2_500);
/// How long an entry may take from the leader to the others when nothing fails: some round trips.
const ON_ITS_WAY: Millis = Millis(100);
/// Of so many seeds one has the decisions of its busiest scheduler taken again: each pass costs as much as it did.
const DECIDED_AGAIN_EVERY: u64 = 4;
/// Stack of a run's thread: a world is deep in debug builds.
const STACK_BYTES: usize = 8 << 20;

/// What a run is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many machines; `None` lets the seed decide.
    pub machines: Option<usize>,
    /// How long the storm is.
    pub storm: Millis,
}

impl Default for Plan {
    fn default() -> Self {
        Self { machines: None, storm: STORM }
    }
}

impl Plan {
    /// The command line that repeats a run.
    #[must_use]
    pub fn command(&self, seed: u64) -> String {
        let mut text = format!("cellsim --seed {seed}");
        if let Some(machines) = self.machines {
            text += &format!(" --borglets {machines}");
        }
        if self.storm != STORM {
            text += &format!(" --for {}", self.storm.0.div_ceil(1_000));
        }
        text
    }

    /// The world of a seed: small cells, a larger one now and then.
    #[must_use]
    pub fn setup(&self, seed: u64) -> Setup {
        let small = |modulus: u64| usize::try_from(seed % modulus).expect("small");
        let machines =
            self.machines.unwrap_or_else(|| if seed % 50 == 49 { 50 } else { 4 + small(6) });
        let checkpoint_every = [30, 120, 1_000][small(3)];
        Setup {
            machines,
            machine_down_after: Millis([1_500, 3_000, 5_000, 5_000][small(4)]),
            scheduler_lag: [2, 2, 40, 2, 300][small(5)],
            two_schedulers: seed % 7 == 2,
            checkpoint_every,
            weather: Weather::Stormy,
            clients: 2 + small(3),
            wire: seed % 8 == 3,
            quotas: seed % 3 == 1,
            choices: seed % 3 == 2,
            drains: seed % 5 < 2,
            level: if seed % 9 == 4 { 1 } else { LEVEL },
            ..Setup::new(seed)
        }
    }
}

/// How a run went.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The hash over everything that happened.
    pub digest: u128,
    /// The first thing that did not hold.
    pub violation: Option<Violation>,
    /// Rare branches.
    pub marks: Marks,
    /// How much time passed in the world.
    pub simulated: Millis,
    /// How many things happened.
    pub events: u64,
    /// Entries of the log.
    pub entries: u64,
    /// How long after the storm each aspect had settled for good, as far as it did.
    pub settled: BTreeMap<Aspect, Millis>,
    /// The last lines of the record, when something did not hold.
    pub lines: Vec<String>,
}

impl Report {
    /// How long it took until everything had settled, if it did.
    #[must_use]
    pub fn settled_after(&self) -> Option<Millis> {
        Aspect::ALL
            .iter()
            .map(|aspect| self.settled.get(aspect).copied())
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .max()
    }
}

/// Runs one seed. A panic is not caught: see [`many`].
#[must_use]
pub fn one(seed: u64, plan: &Plan, trace: Option<Sink>) -> Report {
    let mut world = World::new(plan.setup(seed));
    if let Some(sink) = trace {
        world.journal_mut().trace(sink);
        world.introduce();
    }
    let step = Millis(500);
    let mut left = plan.storm;
    let mut backup = None;
    while left > Millis(0) && world.violations().is_empty() {
        world.run_for(step.min(left));
        left = left - step;
        if seed % 10 == 6 && backup.is_none() && left <= Millis(plan.storm.0 / 2) {
            backup = Some(world.state().clone());
        }
        if world.somebody_waits_for_room() {
            world.hit(Mark::WaitedForRoom);
        }
    }
    world.calm_down();
    let settled = settle(&mut world);
    if let Some(backup) = backup.filter(|_| world.violations().is_empty()) {
        world.restore(&backup, SPARE);
        settle(&mut world);
    }
    Report {
        seed,
        digest: world.journal().digest(),
        violation: world.violations().first().cloned(),
        marks: world.marks().clone(),
        simulated: world.now().since(BEGIN),
        events: world.journal().events(),
        entries: world.state().applied(),
        settled,
        lines: world.journal().lines().map(str::to_owned).collect(),
    }
}

/// Waits until everything has settled, each aspect within its bound. When each did last.
fn settle(world: &mut World) -> BTreeMap<Aspect, Millis> {
    let calm = world.now();
    let mut settled = BTreeMap::new();
    loop {
        world.run_for(Millis(250));
        if !world.violations().is_empty() {
            return settled;
        }
        let since = world.now().since(calm);
        let unsettled = unsettled(world).or_else(|| {
            world.run_for(STAYS);
            unsettled(world)
        });
        // What comes before it in the order of looking is well.
        let well = |aspect: &Aspect| unsettled.as_ref().is_none_or(|why| *aspect < why.aspect);
        for aspect in Aspect::ALL {
            if !well(&aspect) {
                settled.remove(&aspect);
            } else {
                settled.entry(aspect).or_insert(since);
            }
        }
        let Some(why) = unsettled else { break };
        if since > why.aspect.bound() {
            let what = format!("{:?} not settled {since} after the last fault: {why}", why.aspect);
            world.check(Invariant::Settles, Err(what));
        }
    }
    look_at_the_end(world);
    settled
}

/// Why the world has not settled. At any one moment an entry may be on its way from the leader to the others;
/// one that does not arrive within [`ON_ITS_WAY`] is late.
fn unsettled(world: &mut World) -> Option<Unsettled> {
    let until = world.now() + ON_ITS_WAY;
    loop {
        let unsettled = world.unsettled();
        let others_behind = unsettled.as_ref().is_some_and(|why| why.aspect == Aspect::Replicas);
        if !others_behind || world.now() >= until {
            return unsettled;
        }
        world.run_for(Millis(10));
    }
}

/// What must be so when everything has settled.
fn look_at_the_end(world: &mut World) {
    // A change may be on its way at any one moment, not for a whole poll.
    let mut misread = world.misread();
    for _ in 0..20 {
        if misread.is_some() {
            world.run_for(Millis(100));
            misread = world.misread();
        }
    }
    let found = |what: Option<String>| what.map_or(Ok(()), Err);
    world.check(Invariant::DeltaSound, found(misread));
    world.check(Invariant::SameState, found(world.not_replayed()));
    if world.setup.seed.is_multiple_of(DECIDED_AGAIN_EVERY) {
        world.check(Invariant::SameDecisions, found(world.decided_otherwise()));
    }
    world.check_histories();
    let late = found(world.late_drains());
    world.check(Invariant::Disruption, late);
    let audit = world.state().audit();
    let sound = if audit.is_empty() { Ok(()) } else { Err(format!("{audit:?}")) };
    world.check(Invariant::Audit, sound);
}

/// Runs many seeds on some threads. `done` hears of each as it ends, in any order.
///
/// # Panics
/// When a thread cannot be started.
pub fn many(
    seeds: std::ops::Range<u64>,
    jobs: usize,
    plan: &Plan,
    done: impl Fn(&Report) + Sync,
) -> Vec<Report> {
    let next = AtomicU64::new(seeds.start);
    let reports = Mutex::new(Vec::new());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let report = caught(seed, plan);
            done(&report);
            reports.lock().expect("nobody panics while holding it").push(report);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            thread.spawn_scoped(scope, work).expect("threads can be started");
        }
    });
    let mut reports = reports.into_inner().expect("nobody panicked while holding it");
    reports.sort_by_key(|report: &Report| report.seed);
    reports
}

/// A run whose panic is a violation like any other, where panics unwind.
fn caught(seed: u64, plan: &Plan) -> Report {
    let _running = Running::begin(seed, plan);
    std::panic::catch_unwind(|| one(seed, plan, None)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        let violation =
            Violation { invariant: Invariant::NoPanic, at: Millis(0), what: text.to_owned() };
        Report {
            seed,
            digest: 0,
            violation: Some(violation),
            marks: Marks::default(),
            simulated: Millis(0),
            events: 0,
            entries: 0,
            settled: BTreeMap::new(),
            lines: Vec::new(),
        }
    })
}

thread_local! {
    static RUNNING: std::cell::RefCell<Option<String>> = const { std::cell::RefCell::new(None) };
}

/// While it lives, a panic of this thread can be told with the command that repeats it.
#[derive(Debug)]
pub struct Running(());

impl Running {
    /// This thread runs a seed from now on.
    #[must_use]
    pub fn begin(seed: u64, plan: &Plan) -> Self {
        RUNNING.set(Some(plan.command(seed)));
        Self(())
    }

    /// The command that repeats what this thread runs.
    #[must_use]
    pub fn command() -> Option<String> {
        RUNNING.with_borrow(Clone::clone)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.set(None);
    }
}
