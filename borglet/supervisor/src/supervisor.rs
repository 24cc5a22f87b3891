//! The supervisor: fencing, the comparison of target and actual, and the answers it holds back.

use crate::data::Data;
use crate::fairness::Fairness;
use crate::launch::launch;
use crate::packages::{Cached, Packages, Progress, Unfit, name_of};
use crate::task::{KILL_AGAIN, Phase, Stop, Task};
use crate::turn::{Adopted, Config, Counts, Effect, Input, NextRun, ProbeFailure, Run, Trouble};
use borg_proto::package::Digest;
use borg_proto::poll::{
    AnswerStamp, Fence, MachineReport, PollAnswer, PollRefusal, PollRequest, ReportVersion,
    StartTime, Target, TargetDigest, TargetTask, TaskReport, TaskStatus,
};
use borg_proto::{FailureCause, IncarnationId, MachineInfo, Millis};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;

/// An exclusive task is started only when it may run for this part of its lease at least. A third,
/// 10 s: our choice; no start takes longer.
const LEAST_PART: u64 = 3;

/// Decides for one machine.
#[derive(Debug)]
pub struct Supervisor {
    pub(crate) config: Config,
    pub(crate) info: MachineInfo,
    /// The newest order obeyed.
    obeyed: Fence,
    /// Whether this process has had a target at all.
    has_target: bool,
    /// Names it.
    digest: TargetDigest,
    pub(crate) tasks: BTreeMap<IncarnationId, Task>,
    pub(crate) packages: Packages,
    pub(crate) data: Data,
    /// With which runs what is wanted begins, if there were runs before.
    next_runs: BTreeMap<IncarnationId, NextRun>,
    pub(crate) fairness: Fairness,
    /// Until when exclusive tasks may run, if the masters were heard of at all; docs/adr/0009.
    lease: Option<Millis>,
    /// Grows when any status changes.
    pub(crate) number: u64,
    /// Whether it goes on with what was adopted.
    resumed: bool,
    /// Answers held back, oldest first.
    held: VecDeque<Held>,
}

/// A poll whose answer waits for news.
#[derive(Debug)]
struct Held {
    token: u64,
    fence: Fence,
    until: Millis,
}

impl Supervisor {
    /// Starts from what an earlier process left: the fence it remembered and its containers.
    #[must_use]
    pub fn new(
        config: Config,
        remembered: Fence,
        adopted: Vec<Adopted>,
        info: MachineInfo,
    ) -> Self {
        let tasks = adopted.into_iter().map(|found| (found.run.id, Task::adopted(found))).collect();
        let obeyed = Fence { generation: 0, ..remembered };
        let packages = Packages::new(config.package_bytes, config.disk_reserve);
        Self {
            config,
            packages,
            data: Data::default(),
            info,
            obeyed,
            has_target: false,
            digest: TargetDigest::default(),
            tasks,
            next_runs: BTreeMap::new(),
            fairness: Fairness::default(),
            lease: None,
            number: 1,
            resumed: false,
            held: VecDeque::new(),
        }
    }

    /// The same with incarnations of which only the numbers of their runs are known.
    #[must_use]
    pub fn with_runs(mut self, next: BTreeMap<IncarnationId, NextRun>) -> Self {
        self.next_runs = next;
        self
    }

    /// The same with blobs that the earlier process left.
    #[must_use]
    pub fn with_blobs(mut self, cached: Vec<Cached>) -> Self {
        self.packages.adopt(cached);
        self
    }

    /// The same with directories of allocs that the earlier process left.
    #[must_use]
    pub fn with_data(mut self, found: Vec<IncarnationId>) -> Self {
        self.data.adopt(found);
        self
    }

    /// Takes one input at moment `now` and returns what is to be done, in order.
    pub fn handle(&mut self, now: Millis, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.resume(now);
        let (before, blobs) = (self.number, self.packages.changes());
        self.packages.expire(now);
        match input {
            Input::Poll { token, request } => self.poll(now, token, request, &mut effects),
            Input::Started { run, pid, since, address } => {
                self.started(now, run, (pid, since, address), &mut effects);
            }
            Input::StartFailed { run, cause } => self.start_failed(now, run, cause, &mut effects),
            Input::Exited { run, at, failure } => self.exited(now, run, at, failure, &mut effects),
            Input::BlobCame { digest, order } => self.packages.came(digest, order),
            Input::NotFetched { digest, order, why, wrong } => {
                self.packages.not_fetched(now, (digest, order), why, wrong);
            }
            Input::Unpacked { digest, order } => self.packages.unpacked(digest, order),
            Input::NotUnpacked { digest, order, trouble } => {
                self.not_unpacked(now, (digest, order), trouble, &mut effects);
            }
            Input::BlobProgress(have) => self.packages.progressed(&have),
            Input::DataMeasured { alloc, bytes } => {
                let told = self.data.report();
                self.data.measured(alloc, bytes);
                self.number += u64::from(told != self.data.report());
            }
            Input::Usage { machine, tasks } => self.measured(now, &machine, tasks, &mut effects),
            Input::ProbeBegun { run } => {
                if let Some(task) = live(&mut self.tasks, run) {
                    task.probe_begun(now);
                }
            }
            Input::Probed { run, result } => self.probed(now, run, result, &mut effects),
            Input::RunEnded { id, end } => {
                if let Some(task) = self.tasks.get_mut(&id) {
                    task.told = Some(end);
                }
            }
            Input::StatusLines(lines) => {
                for (id, line) in lines {
                    if let Some(task) = self.tasks.get_mut(&id).filter(|task| task.is_live()) {
                        task.status_line = line;
                    }
                }
            }
            Input::Tick => {}
        }
        self.do_what_is_due(now, &mut effects);
        self.bring_packages(now, &mut effects);
        self.give_notice(now, &mut effects);
        self.settle_data(&mut effects);
        self.number += u64::from(self.packages.changes() != blobs);
        self.answer_held(now, self.number != before, &mut effects);
        effects
    }

    /// Goes on with what was adopted, once.
    fn resume(&mut self, now: Millis) {
        if std::mem::replace(&mut self.resumed, true) {
            return;
        }
        for task in self.tasks.values_mut() {
            task.resume(now, &self.config);
        }
        self.number += 1;
    }

    /// When the next `Tick` is due; `None` while only other inputs can change anything.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Millis> {
        let tasks = self.tasks.values().filter_map(Task::due);
        let (lease, whole) = (self.lease, self.config.fence_after);
        let notices = self.tasks.values().filter_map(|task| task.notice(lease?, whole));
        tasks.chain(notices).chain(self.held.iter().map(|held| held.until)).min()
    }

    /// The present report.
    #[must_use]
    pub fn report(&self) -> (ReportVersion, MachineReport) {
        let tasks = self.tasks.values().map(|task| task.report(&self.packages)).collect();
        let blobs = self.packages.report();
        let (info, data) = (self.info.clone(), self.data.report());
        (self.version(), MachineReport { info, tasks, blobs, data })
    }

    /// How far an incarnation is; `None` when the machine has nothing of it.
    #[must_use]
    pub fn status(&self, id: IncarnationId) -> Option<TaskStatus> {
        self.tasks.get(&id).map(|task| task.status(&self.packages))
    }

    /// How long the start of a run took that is up.
    #[must_use]
    pub fn start_time(&self, run: Run) -> Option<StartTime> {
        self.tasks.get(&run.id).filter(|task| task.run == run)?.start
    }

    /// The machine, as it is reported.
    #[must_use]
    pub const fn info(&self) -> &MachineInfo {
        &self.info
    }

    /// What it has, and what the target says of that; `None` where no target has it.
    pub fn tasks(&self) -> impl Iterator<Item = (TaskReport, Option<&TargetTask>)> {
        self.tasks.values().map(|task| (task.report(&self.packages), task.want.as_ref()))
    }

    /// The newest order obeyed.
    #[must_use]
    pub const fn obeyed(&self) -> Fence {
        self.obeyed
    }

    /// How many incarnations are in which state.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for task in self.tasks.values() {
            *match task.phase {
                Phase::Fetching => &mut counts.fetching,
                Phase::AwaitsLease | Phase::Starting => &mut counts.starting,
                Phase::Up { .. } => &mut counts.up,
                Phase::BackOff { .. } => &mut counts.back_off,
                Phase::Stopping(_) => &mut counts.stopping,
                Phase::Ended { .. } => &mut counts.ended,
            } += 1;
        }
        counts
    }

    const fn version(&self) -> ReportVersion {
        ReportVersion { session: self.config.session, number: self.number }
    }

    fn answer(&self, now: Millis) -> PollAnswer {
        let (version, report) = self.report();
        PollAnswer { version, obeyed: self.obeyed, report, at: now }
    }

    fn poll(&mut self, now: Millis, token: u64, request: PollRequest, effects: &mut Vec<Effect>) {
        if let Err(refusal) = self.admit(&request) {
            effects.push(Effect::Answer { token, result: Err(refusal) });
            return;
        }
        let (old, new) = (self.obeyed, request.fence);
        if session(old) != session(new) {
            effects.push(Effect::RememberFence(new));
        }
        if request.seen.session == self.config.session {
            for task in self.tasks.values_mut() {
                task.is_heard(now, request.seen.number);
            }
        }
        let extended = self.extend_lease(now, request.lease);
        self.packages.take_sources(&request.sources);
        if new != old || !self.has_target {
            self.obeyed = new;
            self.has_target = true;
            if let Some(target) = request.target.as_deref() {
                self.digest = request.digest;
                self.obey(now, target, effects);
            }
        }
        if let Some(until) = extended
            && self.tasks.values().any(Task::is_exclusive)
        {
            effects.push(Effect::ExtendLease { until });
            self.launch_leased(now, effects);
        }
        // Whoever asked before a newer session took over has nothing to wait for, and neither has
        // whoever has not seen the present report.
        for held in &mut self.held {
            if session(held.fence) < session(new) {
                held.until = now;
            }
        }
        let hold = if request.seen == self.version() { request.hold } else { Millis(0) };
        let until = now + hold.min(self.config.max_hold);
        self.held.push_back(Held { token, fence: new, until });
        let too_many = self.held.len().saturating_sub(self.config.max_held.max(1));
        for oldest in self.held.iter_mut().take(too_many) {
            oldest.until = now;
        }
    }

    /// Takes an answer of this process that the masters are known to have heard: exclusive tasks may
    /// run for [`Config::fence_after`] from the moment at which it was given. A poll that was long on its
    /// way therefore extends nothing.
    fn extend_lease(&mut self, now: Millis, heard: Option<AnswerStamp>) -> Option<Millis> {
        let ours = |stamp: &AnswerStamp| stamp.session == self.config.session && stamp.at <= now;
        let until = heard.filter(ours)?.at + self.config.fence_after;
        let later = self.lease.is_none_or(|lease| until > lease);
        later.then(|| *self.lease.insert(until))
    }

    /// The lease, when it has not run out.
    fn leased(&self, now: Millis) -> Option<Millis> {
        let least = Millis(self.config.fence_after.0 / LEAST_PART);
        self.lease.filter(|lease| *lease > now + least)
    }

    /// Starts the exclusive tasks that waited for the masters.
    fn launch_leased(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let waits =
            |(id, task): (&IncarnationId, &Task)| (task.phase == Phase::AwaitsLease).then_some(*id);
        let waiting: Vec<_> = self.tasks.iter().filter_map(waits).collect();
        for id in waiting {
            self.launch(now, id, effects);
        }
    }

    fn admit(&self, request: &PollRequest) -> Result<(), PollRefusal> {
        let asked = request.fence;
        if request.cell != self.config.cell {
            return Err(PollRefusal::Cell {
                asked: request.cell.clone(),
                mine: self.config.cell.clone(),
            });
        }
        if request.machine != self.config.machine {
            let mine = self.config.machine.clone();
            return Err(PollRefusal::Machine { asked: request.machine.clone(), mine });
        }
        if asked < self.obeyed {
            return Err(PollRefusal::Stale { asked, obeyed: self.obeyed });
        }
        // Generations of two sessions have nothing to do with each other, so the whole fence counts.
        let has_it = asked == self.obeyed || request.digest.is_known_as(self.digest);
        if request.target.is_none() && !(self.has_target && has_it) {
            return Err(PollRefusal::TargetMissing { asked });
        }
        Ok(())
    }

    /// Makes the target what this machine works towards: what is not in it ends first, unless it is
    /// spared.
    fn obey(&mut self, now: Millis, target: &Target, effects: &mut Vec<Effect>) {
        let wanted: BTreeMap<IncarnationId, &TargetTask> =
            target.tasks.iter().map(|task| (task.id, task)).collect();
        self.data.obey(target);
        let ends = |id: &IncarnationId| !target.spare || target.ends.binary_search(id).is_ok();
        let unwanted: Vec<_> =
            self.tasks.keys().filter(|id| !wanted.contains_key(id) && ends(id)).copied().collect();
        for id in unwanted {
            self.stop(now, id, effects);
        }
        for (id, want) in wanted {
            if let Some(task) = self.tasks.get_mut(&id) {
                let before = task.report(&self.packages);
                task.confirm(want, now, &self.config);
                self.number += u64::from(before != task.report(&self.packages));
                continue;
            }
            let next = self.next_runs.remove(&id).unwrap_or_default();
            self.tasks.insert(id, Task::wanted(want, next));
            self.number += 1;
            self.launch(now, id, effects);
        }
    }

    /// Layers that some task uses or waits for.
    pub(crate) fn used_layers(&self) -> BTreeSet<Digest> {
        let used = |task: &&Task| !matches!(task.phase, Phase::Ended { .. });
        self.tasks.values().filter(used).flat_map(|task| task.layers.iter().copied()).collect()
    }

    /// Fetches and unpacks what tasks wait for, and starts those that have everything.
    fn bring_packages(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let fetching = |task: &&Task| task.phase == Phase::Fetching;
        let waited_for =
            self.tasks.values().filter(fetching).flat_map(|task| task.layers.iter().copied());
        let waited_for: BTreeSet<Digest> = waited_for.collect();
        self.packages.go_on(now, &waited_for, effects);
        if waited_for.is_empty() {
            return;
        }
        let is_packed = |task: &Task| {
            let needed = task.want.as_ref().map(|want| self.packages.progress(&want.packages));
            task.phase == Phase::Fetching && needed == Some(Progress::Ready)
        };
        let packed = self.tasks.iter().filter(|(_, task)| is_packed(task)).map(|(id, _)| *id);
        for id in packed.collect::<Vec<_>>() {
            self.number += 1;
            self.launch(now, id, effects);
        }
    }

    /// Whoever waits for a layer that cannot be used is over: the cell decides where to try next.
    fn not_unpacked(
        &mut self,
        now: Millis,
        (digest, order): (Digest, u64),
        trouble: Trouble,
        effects: &mut Vec<Effect>,
    ) {
        let in_use = self.used_layers();
        let about = (digest, order);
        let Some(why) = self.packages.not_unpacked(now, about, trouble, &in_use, effects) else {
            return;
        };
        for task in self.tasks.values_mut() {
            let Some(want) = task.want.as_ref().filter(|_| task.phase == Phase::Fetching) else {
                continue;
            };
            if task.layers.contains(&digest) {
                let package = name_of(&want.packages, digest, &want.name);
                let why = match &why {
                    Unfit::Machine(why) => Unfit::Machine(format!("{package}: {why}")),
                    Unfit::Package(why) => {
                        Unfit::Package(format!("package {package} cannot be unpacked: {why}"))
                    }
                };
                task.cannot_start(now, why.into());
                self.number += 1;
            }
        }
    }

    /// Whether all packages of a task are here. When not, they are on their way, or it is over.
    fn is_packed(&mut self, now: Millis, id: IncarnationId, effects: &mut Vec<Effect>) -> bool {
        let packages =
            self.tasks.get(&id).and_then(|task| Some(task.want.as_ref()?.packages.clone()));
        let Some(packages) = packages.filter(|packages| !packages.is_empty()) else { return true };
        let in_use = self.used_layers();
        let Some(task) = self.tasks.get_mut(&id) else { return false };
        let arch = self.info.attributes.get("arch").map_or("", String::as_str);
        let fits = |wanted: &str| wanted.is_empty() || arch.is_empty() || wanted == arch;
        let wrong = packages.iter().find(|package| !fits(&package.arch));
        let wanted = match wrong {
            Some(package) => Err(Unfit::Package(format!(
                "package {} is for {}, this machine is {arch}",
                package.key, package.arch
            ))),
            None => self.packages.want(now, &packages, &in_use, effects),
        };
        match wanted {
            Err(why) => task.cannot_start(now, why.into()),
            Ok(()) if self.packages.progress(&packages) == Progress::Ready => {
                task.packed(now);
                return true;
            }
            Ok(()) => task.phase = Phase::Fetching,
        }
        false
    }

    fn launch(&mut self, now: Millis, id: IncarnationId, effects: &mut Vec<Effect>) {
        if let Some(task) = self.tasks.get_mut(&id) {
            task.ordered(now);
        }
        if !self.is_packed(now, id, effects) {
            return;
        }
        let lease = self.leased(now);
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let Some(want) = &task.want else { return };
        if want.exclusive && lease.is_none() {
            task.phase = Phase::AwaitsLease;
            return;
        }
        task.phase = Phase::Starting;
        match launch(&self.config, task.run, want, lease, task.failures()) {
            Ok(launch) => effects.push(Effect::Start(Box::new(launch))),
            Err(why) => task.cannot_start(now, FailureCause::start(&why)),
        }
    }

    fn stop(&mut self, now: Millis, id: IncarnationId, effects: &mut Vec<Effect>) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.want = None;
        match task.phase {
            Phase::Stopping(_) => {}
            Phase::Starting => {
                task.phase = Phase::Stopping(Stop::AwaitsStart);
                self.number += 1;
            }
            Phase::Up { .. } => {
                effects.push(Effect::Terminate { run: task.run });
                task.phase = Phase::Stopping(Stop::Asked { kill_at: now + task.grace });
                self.number += 1;
            }
            Phase::Fetching | Phase::AwaitsLease | Phase::BackOff { .. } | Phase::Ended { .. } => {
                self.forget(now, id, effects);
            }
        }
    }

    fn forget(&mut self, now: Millis, id: IncarnationId, effects: &mut Vec<Effect>) {
        if let Some(task) = self.tasks.remove(&id) {
            self.packages.used_until(now, &task.layers);
        }
        self.number += 1;
        effects.push(Effect::Remove { id });
    }

    fn started(
        &mut self,
        now: Millis,
        run: Run,
        (pid, since, address): (u32, Millis, Option<Ipv4Addr>),
        effects: &mut Vec<Effect>,
    ) {
        let Some(task) = live(&mut self.tasks, run) else { return };
        match task.phase {
            Phase::Starting => task.came_up(now, pid, since, address),
            Phase::Stopping(Stop::AwaitsStart) => {
                effects.push(Effect::Terminate { run });
                task.phase = Phase::Stopping(Stop::Asked { kill_at: now + task.grace });
                // Still "stopping" to everyone outside.
                return;
            }
            Phase::Stopping(Stop::Asked { .. })
            | Phase::Up { .. }
            | Phase::Fetching
            | Phase::AwaitsLease
            | Phase::BackOff { .. }
            | Phase::Ended { .. } => {
                return;
            }
        }
        self.number += 1;
    }

    fn start_failed(
        &mut self,
        now: Millis,
        run: Run,
        cause: FailureCause,
        effects: &mut Vec<Effect>,
    ) {
        let Some(task) = live(&mut self.tasks, run) else { return };
        if task.want.is_none() {
            self.forget(now, run.id, effects);
            return;
        }
        task.last_run = task.told.take();
        task.cannot_start(now, cause);
        self.number += 1;
    }

    fn exited(
        &mut self,
        now: Millis,
        run: Run,
        at: Millis,
        failure: Option<FailureCause>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(task) = live(&mut self.tasks, run) else { return };
        if matches!(task.phase, Phase::Stopping(_)) && task.want.is_none() {
            self.forget(now, run.id, effects);
            return;
        }
        task.last_run = task.told.take();
        task.settle(now, at, failure, &self.config);
        self.number += 1;
    }

    fn probed(
        &mut self,
        now: Millis,
        run: Run,
        result: Result<(), ProbeFailure>,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(task) = live(&mut self.tasks, run)
            && task.probed(now, result, effects)
        {
            self.number += 1;
            task.is_told_in(self.number);
        }
    }

    fn do_what_is_due(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let due = |(id, task): (&IncarnationId, &Task)| {
            task.due().is_some_and(|at| at <= now).then_some(*id)
        };
        let ids: Vec<_> = self.tasks.iter().filter_map(due).collect();
        for id in ids {
            let Some(task) = self.tasks.get_mut(&id) else { continue };
            match &mut task.phase {
                Phase::BackOff { .. } => {
                    task.start_again();
                    self.number += 1;
                    self.launch(now, id, effects);
                }
                Phase::Stopping(Stop::Asked { kill_at }) => {
                    *kill_at = now + KILL_AGAIN;
                    effects.push(Effect::Kill { run: task.run });
                }
                Phase::Up { .. } => {
                    if task.do_what_is_due(now, effects) {
                        self.number += 1;
                        task.is_told_in(self.number);
                    }
                }
                Phase::Stopping(Stop::AwaitsStart)
                | Phase::Fetching
                | Phase::AwaitsLease
                | Phase::Starting
                | Phase::Ended { .. } => {}
            }
        }
    }

    /// Asks exclusive tasks to end, before they are ended at the end of the lease.
    fn give_notice(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let Some(lease) = self.lease else { return };
        for task in self.tasks.values_mut() {
            if task.notice(lease, self.config.fence_after).is_some_and(|at| at <= now) {
                task.fence();
                effects.push(Effect::Terminate { run: task.run });
            }
        }
    }

    fn answer_held(&mut self, now: Millis, news: bool, effects: &mut Vec<Effect>) {
        if !news && self.held.iter().all(|held| held.until > now) {
            return;
        }
        let answer = self.answer(now);
        self.held.retain(|held| {
            if held.until > now && !news {
                return true;
            }
            effects.push(Effect::Answer { token: held.token, result: Ok(answer.clone()) });
            false
        });
    }
}

/// The part of a fence that names a session: what is remembered on disk.
fn session(fence: Fence) -> (u64, u64, u64) {
    (fence.epoch, fence.term, fence.session)
}

/// The task whose present run this is, if that run may still have processes.
fn live(tasks: &mut BTreeMap<IncarnationId, Task>, run: Run) -> Option<&mut Task> {
    tasks.get_mut(&run.id).filter(|task| task.run == run && task.is_live())
}
