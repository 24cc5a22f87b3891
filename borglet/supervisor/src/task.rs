//! One incarnation on the machine: its phases, and how it goes on when a run ends.

use crate::health::{Checkup, Due, probe_of};
use crate::packages::{Packages, Progress, layers};
use crate::turn::{Adopted, AdoptedState, Config, Effect, NextRun, ProbeFailure, Run, TaskUse};
use crate::window::Window;
use borg_proto::package::Digest;
use borg_proto::poll::{SharedData, StartTime, TargetTask, TaskReport, TaskStatus, Usage};
use borg_proto::task::RunEnd;
use borg_proto::text::{MAX_LAST_LINES_BYTES, last_lines};
use borg_proto::{FailureCause, Health, Millis};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// A kill that had no effect is repeated after this time. Our choice.
pub(crate) const KILL_AGAIN: Millis = Millis(5_000);
/// First wait before a service is started again; doubles with each failure in a row. Our choice.
const FIRST_BACK_OFF: Millis = Millis(1_000);
/// Longest such wait. Our choice.
const LONGEST_BACK_OFF: Millis = Millis(60_000);
/// Up for so long, earlier failures no longer count as "in a row". Our choice.
const STEADY_AFTER: Millis = Millis(60_000);

/// How long a task is left after the masters heard that it is unhealthy, before it is asked to end: so long it
/// may still be called. 2 s: our choice, a second for the masters to agree, which takes a few milliseconds when
/// they are well, and a second for which an answer of DNS may be kept.
const LEAVES_FOR: Millis = Millis(2_000);
/// How long at the most, when no master hears of it: an unhealthy task must not stay so because a network is
/// broken. Our choice.
const LEAVES_UNHEARD: Millis = Millis(5_000);

/// Longest time before the end of the lease at which an exclusive task is asked to end, so that it
/// can end well: its grace, but at most this part of the lease. A sixth, 5 s: our choice.
const NOTICE_PART: u64 = 6;

/// How far an incarnation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its packages are on their way.
    Fetching,
    /// It is exclusive, and is started as soon as the masters are known to follow its leader.
    AwaitsLease,
    /// A start was ordered.
    Starting,
    /// Its process runs.
    Up { pid: u32, since: Millis },
    /// It is started again at `until`.
    BackOff { until: Millis },
    /// The target no longer has it, and something of it is still there.
    Stopping(Stop),
    /// Over.
    Ended { at: Millis, failure: Option<FailureCause> },
}

/// How far the stopping of a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Its start is under way: it is terminated once it is there.
    AwaitsStart,
    /// It was asked to end, and is killed at `kill_at`: again and again until it is gone.
    Asked { kill_at: Millis },
}

/// The machine ends a run by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Doom {
    cause: FailureCause,
    /// What its probe wrote: others than those who may read the task's output never see it.
    wrote: String,
    step: Step,
}

/// How far that is. Before it is killed without a question any end of it is this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Its callers go elsewhere, as soon as they know; then it is asked to end.
    Leaving {
        /// When it is asked at the latest.
        until: Millis,
        /// Which report says that it is unhealthy, until the masters are known to have that.
        told_in: Option<u64>,
    },
    /// It was asked to end; when it is killed, or killed again.
    Asked { kill_at: Millis },
    /// It was killed; when it is killed again.
    Killed { again_at: Millis },
}

impl Step {
    const fn due(self) -> Millis {
        match self {
            Self::Leaving { until, .. } => until,
            Self::Asked { kill_at } => kill_at,
            Self::Killed { again_at } => again_at,
        }
    }
}

/// One incarnation.
#[derive(Debug)]
pub(crate) struct Task {
    /// What the target says; `None` once the target no longer has it, or before the first target
    /// after a restart of the borglet.
    pub(crate) want: Option<TargetTask>,
    pub(crate) phase: Phase,
    /// The present or last run.
    pub(crate) run: Run,
    pub(crate) grace: Millis,
    pub(crate) usage: Usage,
    /// Files and directories of its own.
    pub(crate) files: u64,
    /// Whether an earlier process of the borglet may have capped it.
    pub(crate) cap_unknown: bool,
    /// Which run was last told what it weighs, and how many thousandths of its limit that is.
    pub(crate) share: Option<(u32, u64)>,
    /// Whether an earlier process of the borglet may have told it.
    pub(crate) share_unknown: bool,
    window: Window,
    checkup: Checkup,
    /// Whether it was adopted, and nothing was made of how it was found yet.
    fresh: bool,
    /// Why this machine ends the present run, once it does.
    doom: Option<Doom>,
    /// What it says of itself.
    pub(crate) status_line: String,
    /// How the last run ended that did, as far as that is known.
    pub(crate) last_run: Option<Arc<RunEnd>>,
    /// What is to be told of a run once its end is: two reports of one version must not differ in it.
    pub(crate) told: Option<Arc<RunEnd>>,
    /// It is exclusive and was asked to end, as the masters were not heard of for too long.
    fenced: bool,
    /// As ordered, or as found.
    ports: Vec<u16>,
    /// Of the present process, if it has one of its own.
    address: Option<Ipv4Addr>,
    last_failure: Option<FailureCause>,
    /// Failures since it last was up for [`STEADY_AFTER`].
    failures_in_row: u32,
    /// When the last run started, if it did.
    up_since: Option<Millis>,
    /// When the present run was ordered, and when its packages were there.
    ordered_at: Option<Millis>,
    packed_at: Option<Millis>,
    pub(crate) start: Option<StartTime>,
    /// Layers that it uses or waits for.
    pub(crate) layers: Vec<Digest>,
    /// The directory that it shares.
    pub(crate) shared: Option<SharedData>,
    /// Whether it may share one that is not known: it was found, and not what it was started for.
    pub(crate) shares_unknown: bool,
}

impl Task {
    /// A task of the target of which nothing is there yet.
    pub(crate) fn wanted(task: &TargetTask, next: NextRun) -> Self {
        Self {
            want: Some(task.clone()),
            phase: Phase::Starting,
            run: Run { id: task.id, number: next.number },
            grace: task.spec.grace_ms,
            usage: Usage::default(),
            files: 0,
            cap_unknown: false,
            share: None,
            share_unknown: false,
            window: Window::default(),
            checkup: Checkup::default(),
            fresh: false,
            doom: None,
            status_line: String::new(),
            last_run: None,
            told: None,
            fenced: false,
            ports: task.ports.clone(),
            address: None,
            last_failure: None,
            failures_in_row: next.failures,
            up_since: None,
            ordered_at: None,
            packed_at: None,
            start: None,
            layers: layers(&task.packages).map(|layer| layer.digest).collect(),
            shared: task.shared.clone(),
            shares_unknown: false,
        }
    }

    /// What an earlier borglet process left. Whether it is still wanted is not known yet; until a master
    /// says so it goes on as it was told, unless it is exclusive: of those only masters know.
    pub(crate) fn adopted(found: Adopted) -> Self {
        let (phase, last_failure) = match found.state {
            AdoptedState::Running { pid } => (Phase::Up { pid, since: found.since }, None),
            AdoptedState::Ended { at, failure } => {
                (Phase::Ended { at, failure: failure.clone() }, failure)
            }
        };
        let shared = found.task.as_ref().and_then(|task| task.shared.clone());
        let shares_unknown = found.task.is_none();
        Self {
            want: found.task.filter(|task| !task.exclusive),
            phase,
            run: found.run,
            grace: found.grace,
            usage: Usage::default(),
            files: 0,
            cap_unknown: true,
            share: None,
            share_unknown: true,
            window: Window::default(),
            checkup: Checkup::default(),
            fresh: true,
            doom: None,
            status_line: String::new(),
            last_run: found.end,
            told: None,
            fenced: false,
            ports: found.ports,
            address: found.address,
            last_failure,
            failures_in_row: found.failures,
            up_since: Some(found.since),
            ordered_at: None,
            packed_at: None,
            start: None,
            layers: found.layers,
            shared,
            shares_unknown,
        }
    }

    /// How often in a row it failed.
    pub(crate) const fn failures(&self) -> u32 {
        self.failures_in_row
    }

    /// How it is by its health check.
    pub(crate) const fn health(&self) -> Health {
        self.checkup.verdict()
    }

    /// Takes what it uses now.
    pub(crate) fn measured(&mut self, now: Millis, of: TaskUse) {
        let window = self.window.add(now, &of.usage);
        self.usage = Usage { window, ..of.usage };
        self.files = of.files;
    }

    /// Whether the machine is ending it by itself. One whose callers are only leaving is not ended yet, and may
    /// have to be at once for another reason.
    pub(crate) const fn is_doomed(&self) -> bool {
        match &self.doom {
            Some(doom) => !matches!(doom.step, Step::Leaving { .. }),
            None => false,
        }
    }

    /// What it is now is told in this report.
    pub(crate) fn is_told_in(&mut self, number: u64) {
        if let Some(Doom { step: Step::Leaving { told_in: Some(told_in), .. }, .. }) =
            &mut self.doom
        {
            *told_in = number.min(*told_in);
        }
    }

    /// The masters have this report, or a later one.
    pub(crate) fn is_heard(&mut self, now: Millis, number: u64) {
        if let Some(Doom { step: Step::Leaving { until, told_in }, .. }) = &mut self.doom
            && told_in.is_some_and(|told_in| told_in <= number)
        {
            *told_in = None;
            *until = (*until).min(now + LEAVES_FOR);
        }
    }

    /// Kills a run that is up, with the cause that its end will have.
    pub(crate) fn end_now(&mut self, now: Millis, cause: FailureCause, effects: &mut Vec<Effect>) {
        if self.is_doomed() || !matches!(self.phase, Phase::Up { .. }) {
            return;
        }
        let step = Step::Killed { again_at: now + KILL_AGAIN };
        self.doom = Some(Doom { cause, wrote: String::new(), step });
        effects.push(Effect::Kill { run: self.run });
    }

    /// One that was asked to end has no more time for it than this machine has.
    pub(crate) fn hurry(&mut self, now: Millis) {
        if let Phase::Stopping(Stop::Asked { kill_at }) = &mut self.phase {
            *kill_at = (*kill_at).min(now + KILL_AGAIN);
        }
    }

    /// A probe begins, which may have waited for others.
    pub(crate) fn probe_begun(&mut self, now: Millis) {
        if let Some(check) = self.want.as_ref().and_then(|want| want.spec.health.as_ref()) {
            self.checkup.begun(now, check);
        }
    }

    /// Takes what a probe came to; whether its health is another one now.
    pub(crate) fn probed(
        &mut self,
        now: Millis,
        result: Result<(), ProbeFailure>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Phase::Up { since, .. } = self.phase else { return false };
        let Some(check) = self.want.as_ref().and_then(|want| want.spec.health.as_ref()) else {
            return false;
        };
        let changed = self.checkup.answered(now, since, check, result.is_ok());
        if let (true, Health::Unhealthy, Err(failure)) = (changed, self.checkup.verdict(), result)
            && !self.is_doomed()
        {
            let ProbeFailure { why, wrote } = failure;
            let cause = FailureCause::unhealthy(&format!("{}: {why}", check.probe));
            // Who has no ports is called by nobody.
            let step = if self.ports.is_empty() {
                effects.push(Effect::Terminate { run: self.run });
                Step::Asked { kill_at: now + self.grace }
            } else {
                Step::Leaving { until: now + LEAVES_UNHEARD, told_in: Some(u64::MAX) }
            };
            self.doom = Some(Doom { cause, wrote, step });
        }
        changed
    }

    /// Does what is due of a run that is up; whether its health is another one then.
    pub(crate) fn do_what_is_due(&mut self, now: Millis, effects: &mut Vec<Effect>) -> bool {
        let run = self.run;
        if let Some(doom) = self.doom.as_mut().filter(|doom| doom.step.due() <= now) {
            let again_at = now + KILL_AGAIN;
            let (effect, step) = match doom.step {
                Step::Leaving { .. } => {
                    (Effect::Terminate { run }, Step::Asked { kill_at: now + self.grace })
                }
                Step::Asked { .. } => (Effect::Kill { run }, Step::Asked { kill_at: again_at }),
                Step::Killed { .. } => (Effect::Kill { run }, Step::Killed { again_at }),
            };
            doom.step = step;
            effects.push(effect);
        }
        let Some(want) = &self.want else { return false };
        let Some(check) = &want.spec.health else { return false };
        match self.checkup.at(now) {
            Due::Nothing => false,
            Due::Unanswered => {
                let why = format!("no answer within {} ms", check.timeout_ms.0);
                self.probed(now, Err(why.into()), effects)
            }
            Due::Probe => {
                let timeout = check.timeout_ms;
                // Ports are handed out for every name, or the task would not have started.
                effects.extend(probe_of(want).map(|probe| Effect::Probe { run, probe, timeout }));
                false
            }
        }
    }

    /// Whether the present run may have processes, so that its end is still to be told.
    pub(crate) const fn is_live(&self) -> bool {
        match self.phase {
            Phase::Starting | Phase::Up { .. } | Phase::Stopping(_) => true,
            Phase::Fetching | Phase::AwaitsLease | Phase::BackOff { .. } | Phase::Ended { .. } => {
                false
            }
        }
    }

    /// Whether it must end when the masters are not heard of.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.want.as_ref().is_some_and(|want| want.exclusive)
    }

    /// When an exclusive task is asked to end, for a lease that ends then and is this long as a
    /// whole.
    pub(crate) fn notice(&self, lease: Millis, whole: Millis) -> Option<Millis> {
        let runs = matches!(self.phase, Phase::Up { .. });
        let at = Millis(lease.0.saturating_sub(self.grace.min(Millis(whole.0 / NOTICE_PART)).0));
        (runs && self.is_exclusive() && !self.fenced).then_some(at)
    }

    /// It was asked to end because of that.
    pub(crate) fn fence(&mut self) {
        self.fenced = true;
    }

    /// The target has it.
    pub(crate) fn confirm(&mut self, task: &TargetTask, now: Millis, config: &Config) {
        self.grace = task.spec.grace_ms;
        self.ports.clone_from(&task.ports);
        self.want = Some(task.clone());
        self.layers = layers(&task.packages).map(|layer| layer.digest).collect();
        // What runs goes on using the directory that it was started with, whatever the target says by now.
        if self.shares_unknown || !self.is_live() {
            self.shared.clone_from(&task.shared);
        }
        self.shares_unknown = false;
        self.resume(now, config);
    }

    /// What it is to be is known: the first time after an adoption, an end that was found is settled, and
    /// what runs is probed.
    pub(crate) fn resume(&mut self, now: Millis, config: &Config) {
        if self.want.is_none() || !std::mem::take(&mut self.fresh) {
            return;
        }
        match &self.phase {
            Phase::Ended { at, failure } => {
                let (at, failure) = (*at, failure.clone());
                self.settle(now, at, failure, config);
            }
            Phase::Up { .. } => self.begin_checkup(now),
            Phase::AwaitsLease
            | Phase::Fetching
            | Phase::Starting
            | Phase::BackOff { .. }
            | Phase::Stopping(_) => {}
        }
    }

    /// A run ended: a service waits to be started again unless it failed too often; everything
    /// else is over.
    pub(crate) fn settle(
        &mut self,
        now: Millis,
        at: Millis,
        failure: Option<FailureCause>,
        config: &Config,
    ) {
        (self.usage, self.files) = (Usage::default(), 0);
        (self.window, self.checkup) = (Window::default(), Checkup::default());
        self.status_line.clear();
        let failure = match (self.doom.take(), failure) {
            // It was over before the kill reached it.
            (Some(Doom { step: Step::Killed { .. }, .. }), None) => None,
            (Some(doom), _) => {
                self.add_last_words(&doom.wrote);
                Some(doom.cause)
            }
            (None, failure) => failure,
        };
        // What the masters did not know of for so long may have been placed elsewhere: they decide.
        let failure = if self.fenced { Some(FailureCause::Fenced) } else { failure };
        // Here there is no room for it either: they decide as well.
        let moves = matches!(failure, Some(FailureCause::Fenced | FailureCause::Short { .. }));
        if moves || !self.want.as_ref().is_some_and(|task| task.restart) {
            self.last_failure.clone_from(&failure);
            self.phase = Phase::Ended { at, failure };
            return;
        }
        // A service that ends has failed, whatever its code.
        let cause = failure.unwrap_or(FailureCause::Exit { code: 0 });
        self.last_failure = Some(cause.clone());
        if self.up_since.is_some_and(|since| at.since(since) >= STEADY_AFTER) {
            self.failures_in_row = 0;
        }
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        self.phase = if self.failures_in_row > config.local_restarts {
            Phase::Ended { at, failure: Some(cause) }
        } else {
            Phase::BackOff { until: now + back_off(self.failures_in_row) }
        };
    }

    /// Beside the last lines of the run that has just ended.
    fn add_last_words(&mut self, wrote: &str) {
        let Some(end) = self.last_run.as_mut().filter(|_| !wrote.is_empty()) else { return };
        let end = Arc::make_mut(end);
        let words = format!("{}\nhealth check: {wrote}", end.last_lines);
        end.last_lines = last_lines(words.trim_start().as_bytes(), MAX_LAST_LINES_BYTES);
    }

    /// It cannot be started: over at once, so that the cell can decide where to try next.
    pub(crate) fn cannot_start(&mut self, now: Millis, cause: FailureCause) {
        self.last_failure = Some(cause.clone());
        self.phase = Phase::Ended { at: now, failure: Some(cause) };
    }

    /// The next run begins.
    pub(crate) fn start_again(&mut self) {
        self.run.number = self.run.number.saturating_add(1);
        self.up_since = None;
        (self.ordered_at, self.packed_at) = (None, None);
        self.phase = Phase::Starting;
    }

    /// A start is ordered, or was before and goes on.
    pub(crate) fn ordered(&mut self, now: Millis) {
        self.shared = self.want.as_ref().and_then(|want| want.shared.clone());
        self.ordered_at.get_or_insert(now);
    }

    /// Its packages are there.
    pub(crate) fn packed(&mut self, now: Millis) {
        self.packed_at.get_or_insert(now);
    }

    /// The process is there.
    pub(crate) fn came_up(
        &mut self,
        now: Millis,
        pid: u32,
        since: Millis,
        address: Option<Ipv4Addr>,
    ) {
        self.address = address;
        self.start = self.ordered_at.map(|at| StartTime {
            total: now.since(at),
            packages: self.packed_at.map_or(Millis(0), |packed| packed.since(at)),
        });
        self.up_since = Some(since);
        self.phase = Phase::Up { pid, since };
        self.begin_checkup(now);
    }

    fn begin_checkup(&mut self, now: Millis) {
        let check = self.want.as_ref().and_then(|want| want.spec.health.as_ref());
        self.checkup = Checkup::of_new_process(now, check);
    }

    /// When time alone changes it.
    pub(crate) fn due(&self) -> Option<Millis> {
        match self.phase {
            Phase::Up { .. } => {
                let step = self.doom.as_ref().map(|doom| doom.step.due());
                [step, self.checkup.due()].into_iter().flatten().min()
            }
            Phase::BackOff { until } => Some(until),
            Phase::Stopping(Stop::Asked { kill_at }) => Some(kill_at),
            Phase::Stopping(Stop::AwaitsStart)
            | Phase::Fetching
            | Phase::AwaitsLease
            | Phase::Starting
            | Phase::Ended { .. } => None,
        }
    }

    /// How far it is.
    pub(crate) fn status(&self, packages: &Packages) -> TaskStatus {
        match &self.phase {
            Phase::Fetching => self.fetching(packages),
            Phase::AwaitsLease | Phase::Starting => TaskStatus::Starting,
            Phase::Up { pid, since } => TaskStatus::Up { pid: *pid, since: *since },
            Phase::BackOff { until } => TaskStatus::BackOff { until: *until },
            Phase::Stopping(_) => TaskStatus::Stopping,
            Phase::Ended { at, failure } => TaskStatus::Ended { at: *at, failure: failure.clone() },
        }
    }

    /// What the machine says of it.
    pub(crate) fn report(&self, packages: &Packages) -> TaskReport {
        TaskReport {
            id: self.run.id,
            status: self.status(packages),
            restarts: self.run.number,
            last_failure: self.last_failure.clone(),
            usage: self.usage,
            ports: self.ports.clone(),
            health: self.health(),
            status_line: self.status_line.clone(),
            last_run: self.last_run.clone(),
            start: self.start.filter(|_| matches!(self.phase, Phase::Up { .. })),
            address: self.address.filter(|_| matches!(self.phase, Phase::Up { .. })),
        }
    }

    fn fetching(&self, packages: &Packages) -> TaskStatus {
        let needed = self.want.as_ref().map_or(&[][..], |want| &want.packages);
        match packages.progress(needed) {
            Progress::Fetching { have_bytes, bytes, trouble } => {
                TaskStatus::Fetching { have_bytes, bytes, trouble }
            }
            Progress::Ready => TaskStatus::Starting,
        }
    }
}

/// The wait after so many failures in a row.
fn back_off(failures_in_row: u32) -> Millis {
    let doublings = failures_in_row.saturating_sub(1).min(16);
    Millis(FIRST_BACK_OFF.0 << doublings).min(LONGEST_BACK_OFF)
}
