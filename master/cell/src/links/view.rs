//! One machine as the leader sees it: what it should run, what it said, and what differs.
//!
//! Invariant: every difference is applied once and in order (session, sequence); what was missed
//! makes the view stale until a full report.

use super::digest::Digests;
use super::silence::Standing;
use crate::state::observe::failures_within;
use crate::state::{CellState, Job, Machine, MachineState, Stranger, Version};
use borg_proto::command::{Observation, RUN_ENDS_SINCE};
use borg_proto::machine::MachineInfo;
use borg_proto::names::TaskName;
use borg_proto::peer::MachineDelta;
use borg_proto::poll::{
    DataReport, DataStatus, MachineReport, SharedData, Target, TargetData, TargetDigest,
    TargetTask, TaskReport, TaskStatus,
};
use borg_proto::task::{FailureCause, Phase, Placement};
use borg_proto::{
    Health, IncarnationId, JobKind, MachineId, MachineName, Millis, Priority, ReplicaId, TaskId,
};
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

/// The level of entries that [`Observation::TaskAdopted`] came with.
const ADOPTED_SINCE: u32 = 2;

/// What a difference did to the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Folded {
    News,
    /// It was folded before.
    Known,
    /// Something before it is missing: a full report is needed.
    Gap,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) name: MachineName,
    pub(super) address: Arc<str>,
    pub(super) shard: ReplicaId,
    /// Grows with every change of the target or the address.
    pub(super) generation: u64,
    pub(super) target: Arc<Target>,
    /// Names the target.
    pub(super) digest: TargetDigest,
    /// What the target takes in a message, see [`crate::state::target_bytes`].
    pub(super) target_bytes: u64,
    /// When its orders were last sent.
    pub(super) sent_at: Millis,
    /// The generation that was last sent with its target in this session, and when.
    pub(super) carried: Option<(u64, Millis)>,
    id: MachineId,
    /// The generation that first listed each incarnation of the target.
    listed: BTreeMap<IncarnationId, u64>,
    seen: Seen,
    /// How many incarnations it has without being told of them. Counted while such are spared.
    pub(super) strangers: usize,
    given_up: bool,
    /// How the state has it, and whether it answers.
    standing: Standing,
    /// How the state has it.
    place: Place,
    /// How long it was seen to be silent before the present session, since it last answered. What
    /// passed between two sessions does not count: nobody looked.
    silent_before: Millis,
    /// The latest moment, by this leader's clock, from which its exclusive tasks may count that they
    /// heard of the masters; `None` while it answers. docs/adr/0009.
    alone_since: Option<Millis>,
    on_its_way: Option<Vec<Observation>>,
    /// What was applied last and changed nothing, so that it is not said for ever.
    in_vain: Vec<Observation>,
}

/// How the state has a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Up,
    Lost(Millis),
    Other,
}

impl Place {
    fn of(machine: &Machine, state: &CellState, now: Millis) -> Self {
        if machine.state == MachineState::Up {
            Self::Up
        } else {
            match Standing::of_down(machine, state, now) {
                Standing::Lost(at) => Self::Lost(at),
                _ => Self::Other,
            }
        }
    }
}

/// What the machine said in the present session.
#[derive(Debug, Default)]
struct Seen {
    seq: u64,
    /// Whether a full report and all differences since are folded.
    whole: bool,
    reachable: bool,
    silent_since: Option<Millis>,
    obeyed: u64,
    info: Option<MachineInfo>,
    tasks: BTreeMap<IncarnationId, TaskReport>,
    data: Vec<DataReport>,
}

impl Link {
    /// A machine of which nothing was heard. Belongs to no shard yet.
    pub(super) fn new(
        machine: &Machine,
        state: &CellState,
        now: Millis,
        spare: bool,
        digests: &mut Digests,
    ) -> Self {
        let target = wanted(machine, state, spare, |_| false);
        Self {
            name: machine.name.clone(),
            address: machine.address.clone(),
            shard: ReplicaId(0),
            generation: 1,
            listed: target.tasks.iter().map(|task| (task.id, 1)).collect(),
            digest: digests.of(&target),
            target: Arc::new(target),
            target_bytes: machine.target_bytes,
            sent_at: Millis(0),
            carried: None,
            id: machine.id,
            seen: Seen::default(),
            strangers: 0,
            given_up: false,
            standing: Standing::Other,
            place: Place::of(machine, state, now),
            silent_before: Millis(0),
            alone_since: Some(now),
            on_its_way: None,
            in_vain: Vec::new(),
        }
    }

    /// A new session: whatever was said before counts for nothing.
    /// How long it was silent counts on, as soon as the session sees it silent again.
    pub(super) fn begin(&mut self, now: Millis) {
        if let Some(since) = self.seen.silent_since {
            self.silent_before = self.silent_before + now.since(since);
        }
        // The last session's shard may have passed on what it heard of this leader until now.
        self.alone_since.get_or_insert(now);
        self.seen = Seen::default();
        self.carried = None;
        self.strangers = 0;
        self.given_up = false;
    }

    /// How it stood when it was counted last, and how it stands now.
    pub(super) fn restand(&mut self) -> (Standing, Standing) {
        let now = match self.place {
            Place::Lost(at) => Standing::Lost(at),
            Place::Other => Standing::Other,
            Place::Up if self.seen.reachable => Standing::Answering,
            Place::Up if self.seen.silent_since.is_some() => Standing::Silent,
            Place::Up => Standing::Unheard,
        };
        (std::mem::replace(&mut self.standing, now), now)
    }

    /// How it was counted last.
    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    /// The state of its tasks changed: what changed nothing before may do so now.
    pub(super) fn try_again(&mut self) {
        self.in_vain.clear();
    }

    /// Whether its tasks are those that the state has there.
    pub(super) fn is_on_target(&self, state: &CellState) -> bool {
        let machine = state.machine(self.id);
        let had = |id: &IncarnationId| self.listed.contains_key(id);
        machine.is_some_and(|machine| {
            wanted(machine, state, self.target.spare, had).tasks == self.target.tasks
        })
    }

    /// Compares the orders with the state. When they changed, the incarnations that are no longer
    /// listed.
    pub(super) fn retarget(
        &mut self,
        machine: &Machine,
        state: &CellState,
        now: Millis,
        spare: bool,
        digests: &mut Digests,
    ) -> Option<Vec<IncarnationId>> {
        self.try_again();
        let place = Place::of(machine, state, now);
        if std::mem::discriminant(&place) != std::mem::discriminant(&self.place) {
            self.place = place;
        }
        self.renew_target(machine, state, spare, digests)
    }

    /// The same, when nothing of the state changed that concerns this machine.
    pub(super) fn renew_target(
        &mut self,
        machine: &Machine,
        state: &CellState,
        spare: bool,
        digests: &mut Digests,
    ) -> Option<Vec<IncarnationId>> {
        let had =
            |id: &IncarnationId| self.seen.tasks.contains_key(id) || self.listed.contains_key(id);
        let mut target = wanted(machine, state, spare, had);
        if spare {
            let over = |id: &IncarnationId| state.stranger(*id) == Stranger::Over;
            target.ends = strangers(&self.seen, &target).filter(over).collect();
            self.strangers = strangers(&self.seen, &target).count();
        }
        if target == *self.target && machine.address == self.address {
            return None;
        }
        self.generation += 1;
        let before = std::mem::take(&mut self.listed);
        let generation =
            |task: &TargetTask| before.get(&task.id).copied().unwrap_or(self.generation);
        self.listed = target.tasks.iter().map(|task| (task.id, generation(task))).collect();
        self.digest = digests.of(&target);
        self.target = Arc::new(target);
        self.target_bytes = machine.target_bytes;
        self.address = machine.address.clone();
        Some(before.into_keys().filter(|id| !self.listed.contains_key(id)).collect())
    }

    pub(super) fn fold(&mut self, now: Millis, delta: MachineDelta) -> Folded {
        let seen = &mut self.seen;
        if delta.seq <= seen.seq {
            return Folded::Known;
        }
        if !delta.reachable {
            // Says nothing else, so nothing before it can be missing; what follows is full.
            seen.seq = delta.seq;
            seen.reachable = false;
            seen.whole = false;
            seen.silent_since.get_or_insert(now);
            self.alone_since.get_or_insert(now);
            return Folded::News;
        }
        if delta.full {
            seen.tasks.clear();
            seen.data.clear();
            seen.whole = true;
        } else if !seen.whole || delta.seq != seen.seq + 1 {
            seen.whole = false;
            return Folded::Gap;
        }
        seen.seq = delta.seq;
        seen.reachable = true;
        seen.silent_since = None;
        self.silent_before = Millis(0);
        self.alone_since = None;
        seen.obeyed = delta.obeyed;
        if delta.info.is_some() {
            seen.info = delta.info;
        }
        if let Some(data) = delta.data {
            seen.data = data;
        }
        for id in &delta.gone {
            seen.tasks.remove(id);
        }
        seen.tasks.extend(delta.tasks.into_iter().map(|task| (task.id, task)));
        if self.target.spare {
            self.strangers = strangers(&self.seen, &self.target).count();
        }
        self.given_up = false;
        self.try_again();
        Folded::News
    }

    /// What the machine said that the state does not say. Remembers it as on its way.
    pub(super) fn differences(
        &mut self,
        now: Millis,
        machine: &Machine,
        state: &CellState,
    ) -> Vec<Observation> {
        let found = self.compare(now, machine, state);
        if found.is_empty() {
            return found;
        }
        if found == self.in_vain {
            tracing::debug!(machine = %self.name, "the state takes no notice of {found:?}");
            return Vec::new();
        }
        self.on_its_way = Some(found.clone());
        found
    }

    fn compare(&self, now: Millis, machine: &Machine, state: &CellState) -> Vec<Observation> {
        let seen = &self.seen;
        if !seen.reachable {
            let down = self.given_up && machine.state == MachineState::Up;
            return if down {
                vec![Observation::MachineDown { machine: self.id }]
            } else {
                Vec::new()
            };
        }
        if !seen.whole {
            return Vec::new();
        }
        let mut found = Vec::new();
        if let Some(info) = &seen.info
            && (machine.state != MachineState::Up || machine.info.as_deref() != Some(info))
        {
            found.push(Observation::MachineUp { machine: self.id, info: info.clone() });
        }
        for Told { id, version, placed, .. } in told(machine, state) {
            match seen.tasks.get(&id) {
                Some(report) => {
                    found.extend(difference(placed, report, state.level()));
                    found.extend(verdict(version, placed, report));
                    found.extend(address(version, placed, report));
                }
                None if self.is_without(id, state) => {
                    found.push(Observation::TaskEnded {
                        id,
                        at: now,
                        failure: Some(FailureCause::Lost),
                        run: None,
                    });
                }
                None => {}
            }
        }
        found.extend(data_news(self.id, &seen.data, state));
        if self.target.spare && state.level() >= ADOPTED_SINCE {
            found.extend(self.newer(state));
        }
        found
    }

    /// Whether the machine has lost an incarnation that is not in its report: it was told of it, or knew
    /// of it before the cell was restored.
    fn is_without(&self, id: IncarnationId, state: &CellState) -> bool {
        match self.listed.get(&id) {
            Some(listed) => *listed <= self.seen.obeyed,
            None => self.target.spare && state.is_of_before(id),
        }
    }

    /// What runs here since after the backup that the cell was restored from, and fills its slot.
    fn newer(&self, state: &CellState) -> impl Iterator<Item = Observation> {
        let found = strangers(&self.seen, &self.target)
            .filter(|id| state.stranger(*id) == Stranger::Newer)
            .filter_map(|id| self.seen.tasks.get(&id));
        found.filter_map(|report| match report.status {
            TaskStatus::Up { pid, since } => Some(Observation::TaskAdopted {
                id: report.id,
                machine: self.id,
                pid,
                since,
                restarts: report.restarts,
                ports: report.ports.clone(),
            }),
            TaskStatus::Starting
            | TaskStatus::Fetching { .. }
            | TaskStatus::Stopping
            | TaskStatus::BackOff { .. }
            | TaskStatus::Ended { .. } => None,
        })
    }

    /// How many incarnations are spared that the state has no place for.
    pub(super) fn spared(&self) -> usize {
        if self.target.spare {
            self.strangers - self.target.ends.len().min(self.strangers)
        } else {
            0
        }
    }

    pub(super) fn settled(&mut self, applied: bool) {
        let sent = self.on_its_way.take();
        self.in_vain = sent.filter(|_| applied).unwrap_or_default();
    }

    pub(super) fn on_its_way(&self) -> bool {
        self.on_its_way.is_some()
    }

    pub(super) fn seq(&self) -> u64 {
        self.seen.seq
    }

    pub(super) fn answers(&self) -> bool {
        self.seen.reachable
    }

    /// What an incarnation said of itself, if anything.
    pub(super) fn status_line(&self, id: IncarnationId) -> Option<&str> {
        let line = self.seen.tasks.get(&id).map(|task| task.status_line.as_str());
        line.filter(|line| !line.is_empty())
    }

    /// What the machine said of an incarnation.
    pub(super) fn told_of(&self, id: IncarnationId) -> Option<&TaskReport> {
        self.seen.tasks.get(&id)
    }

    /// What the machine said of itself, differences folded in; `None` while something is missing.
    pub(super) fn report(&self) -> Option<MachineReport> {
        let seen = &self.seen;
        let info = seen.info.clone().filter(|_| seen.whole && seen.reachable)?;
        let tasks = seen.tasks.values().cloned().collect();
        // Who has which blobs is the shards' business.
        Some(MachineReport { info, tasks, blobs: Vec::new(), data: seen.data.clone() })
    }

    /// How long it was seen to be silent since it last answered; 0 when it is not silent now.
    pub(super) fn silent_for(&self, now: Millis) -> Millis {
        let Some(since) = self.seen.silent_since else { return Millis(0) };
        self.silent_before + now.since(since)
    }

    /// The highest priority of the tasks that it should run.
    pub(super) fn top_priority(&self) -> Option<Priority> {
        self.target.tasks.iter().map(|task| task.priority).max()
    }

    /// Whether an incarnation that it should not run any more surely runs no more there: it said
    /// so, having obeyed its newest orders, or it was alone for long enough to have ended it.
    pub(super) fn surely_gone(&self, id: IncarnationId, now: Millis, alone: Millis) -> bool {
        let seen = &self.seen;
        let said = seen.whole
            && seen.reachable
            && seen.obeyed >= self.generation
            && !self.listed.contains_key(&id)
            && !seen.tasks.contains_key(&id);
        said || self.alone_since.is_some_and(|since| now.since(since) >= alone)
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up
    }

    pub(super) fn give_up(&mut self) {
        self.given_up = true;
    }

    /// That it was given up came to nothing: it is up for decision again.
    pub(super) fn keep(&mut self) {
        self.given_up = false;
        self.try_again();
    }

    /// Whether the newest orders may not have arrived. A silent machine obeys none; its shard has
    /// them, or gets them when it answers again.
    pub(super) fn overdue(&self) -> bool {
        let unheard = self.seen.seq == 0;
        unheard || (self.seen.reachable && self.seen.obeyed < self.generation)
    }

    /// Whether a shard that lacks the target should be sent it: not while it may be on its way.
    pub(super) fn is_worth_sending(&self, now: Millis, repeat: Millis) -> bool {
        self.carried.is_none_or(|(generation, at)| {
            generation != self.generation || now.since(at) >= repeat + repeat
        })
    }

    pub(super) fn targets(&self, id: IncarnationId) -> bool {
        self.listed.contains_key(&id)
    }

    pub(super) fn incarnations(&self) -> impl Iterator<Item = IncarnationId> {
        self.listed.keys().copied()
    }
}

/// What a machine has without being told to.
fn strangers<'a>(seen: &'a Seen, target: &'a Target) -> impl Iterator<Item = IncarnationId> + 'a {
    let told = |id: &IncarnationId| target.tasks.binary_search_by_key(id, |task| task.id).is_ok();
    seen.tasks.keys().filter(move |id| !told(id)).copied()
}

/// What a report says of a placed incarnation that the state does not say.
fn difference(placed: &Placement, report: &TaskReport, level: u32) -> Option<Observation> {
    let (id, restarts) = (report.id, report.restarts);
    let run = report.last_run.clone().filter(|_| level >= RUN_ENDS_SINCE);
    let restarted = placed.restarts != restarts;
    match &report.status {
        TaskStatus::Starting | TaskStatus::Fetching { .. } | TaskStatus::Stopping => None,
        TaskStatus::Up { pid, since } => {
            let known = placed.phase == Phase::Up { pid: *pid, since: *since };
            // The run before it, when it failed while nobody listened.
            let unheard = restarts > failures_within(placed);
            let run = run.filter(|end| unheard && end.run.checked_add(1) == Some(restarts));
            (restarted || !known).then_some(Observation::TaskUp {
                id,
                pid: *pid,
                since: *since,
                restarts,
                run,
            })
        }
        TaskStatus::BackOff { until } => {
            let known = placed.phase == Phase::BackOff { until: *until };
            let cause = report.last_failure.as_ref().unwrap_or(&FailureCause::Lost);
            let cause = cause.at_level(level);
            (restarted || !known).then_some(Observation::TaskBackOff {
                id,
                until: *until,
                restarts,
                cause,
                run,
            })
        }
        TaskStatus::Ended { at, failure } => {
            let failure = failure.as_ref().map(|cause| cause.at_level(level));
            Some(Observation::TaskEnded { id, at: *at, failure, run })
        }
    }
}

/// What a report says of a task's health that the state does not say. That it is still starting goes
/// without saying.
fn verdict(version: &Version, placed: &Placement, report: &TaskReport) -> Option<Observation> {
    let said = report.health;
    let told = matches!(said, Health::Healthy | Health::Unhealthy);
    let up = matches!(report.status, TaskStatus::Up { .. });
    let checked = version.spec.task.health.is_some();
    (told && up && checked && placed.health != said)
        .then_some(Observation::TaskHealth { id: report.id, health: said })
}

/// The address of a task's process, when the state does not say it, or says it of another process.
fn address(version: &Version, placed: &Placement, report: &TaskReport) -> Option<Observation> {
    let TaskStatus::Up { pid, since } = report.status else { return None };
    let same = placed.phase == Phase::Up { pid, since } && placed.restarts == report.restarts;
    let own = version.spec.task.network.is_own();
    let address = report.address.filter(|_| own)?;
    (!same || placed.address != Some(address))
        .then_some(Observation::TaskAddress { id: report.id, address })
}

/// What a machine is told to run of a task, as such or as its successor.
struct Told<'a> {
    id: IncarnationId,
    job: &'a Job,
    version: &'a Version,
    placed: &'a Placement,
}

/// All that a machine is told to run, by incarnation. Allocs run nothing.
fn told<'a>(machine: &'a Machine, state: &'a CellState) -> Vec<Told<'a>> {
    let runs = |task: TaskId| state.job(task.job).filter(|job| !job.is_alloc_set());
    let tasks = machine.tasks.iter().filter_map(|task| {
        let (job, placed) = (runs(*task)?, state.task(*task)?.placement()?);
        Some((*task, job, job.version_of(task.index), placed))
    });
    let successors = state.successors_on(machine).filter_map(|(task, successor)| {
        let job = runs(task)?;
        Some((task, job, job.version(successor.version)?, &successor.placement))
    });
    let here = tasks.chain(successors).filter(|(.., placed)| placed.machine == machine.id);
    let mut all: Vec<Told<'a>> = here
        .map(|(task, job, version, placed)| Told {
            id: IncarnationId { task, number: placed.incarnation },
            job,
            version,
            placed,
        })
        .collect();
    if !machine.successors.is_empty() {
        all.sort_by_key(|told| told.id);
    }
    all
}

/// What a machine should run, and whether it keeps what it has beside that (`spare`). A restored cell
/// starts nothing that was placed before: it may have ended since, or run elsewhere as a newer
/// incarnation. So while unknown ones are spared a machine is told only of those that it `had`.
fn wanted(
    machine: &Machine,
    state: &CellState,
    spare: bool,
    had: impl Fn(&IncarnationId) -> bool,
) -> Target {
    let mut tasks = Vec::with_capacity(machine.told());
    for Told { id, job, version, placed } in told(machine, state) {
        let index = id.task.index;
        if spare && state.is_of_before(id) && !had(&id) {
            continue;
        }
        tasks.push(TargetTask {
            id,
            name: TaskName { job: job.key.clone(), index },
            // How many a daemon has changes all the time, and no machine's orders should with it.
            tasks: if job.spec.kind.stands() { index + 1 } else { job.spec.tasks },
            spec: version.spec.task.clone(),
            ports: placed.ports.clone(),
            priority: job.spec_of(id.task.index).priority,
            appclass: job.spec.effective_appclass(),
            restart: matches!(job.spec.kind, JobKind::Service | JobKind::Daemon),
            exclusive: job.spec.exclusive,
            packages: state.packages_of(job, version),
            shared: shared(job, index, state),
        });
    }
    Target { tasks, spare, data: kept(machine, state), ..Target::default() }
}

/// Directories of allocs that a machine keeps: of those that are there, and of those that left.
fn kept(machine: &Machine, state: &CellState) -> Vec<TargetData> {
    let there = state.sharing_on(machine.id).map(|alloc| TargetData { alloc, left: None });
    let left = state
        .kept_on(machine.id)
        .map(|kept| TargetData { alloc: kept.alloc, left: NonZeroU64::new(kept.number) });
    let mut all: Vec<TargetData> = there.chain(left).collect();
    all.sort_by_key(|data| data.alloc);
    all
}

/// The directory that a placed task shares with others.
fn shared(job: &Job, index: u32, state: &CellState) -> Option<SharedData> {
    if let Some(kept) = job.rescues().and_then(|number| state.kept_data(number)) {
        return Some(SharedData {
            alloc: kept.alloc,
            name: kept.name(),
            rescue: true,
            charged: false,
        });
    }
    let set = state.alloc_set_of(job).filter(|set| set.spec.keep_data_ms.is_some())?;
    let alloc = TaskId { job: set.id, index };
    let name = TaskName { job: set.key.clone(), index };
    let alloc = state.task(alloc)?.running(alloc)?;
    // Of a log saver everybody wrote what is there but itself.
    Some(SharedData { alloc, name, rescue: false, charged: !job.spec.rescue })
}

/// What a machine says of data that the state does not say.
fn data_news<'a>(
    machine: MachineId,
    said: &'a [DataReport],
    state: &'a CellState,
) -> impl Iterator<Item = Observation> + 'a {
    said.iter().filter_map(move |report| {
        let alloc = report.alloc;
        let kept = state.kept_on(machine).find(|kept| kept.alloc == alloc)?;
        match &report.status {
            DataStatus::AtRest { bytes } if kept.bytes.is_none() => {
                Some(Observation::DataAtRest { machine, alloc, bytes: *bytes })
            }
            DataStatus::Gone { why } => {
                Some(Observation::DataGone { machine, alloc, why: why.clone() })
            }
            DataStatus::InUse | DataStatus::AtRest { .. } => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Cell, batch, info, master, service};
    use borg_proto::command::Action;
    use borg_proto::poll::Usage;
    use borg_proto::task::RunEnd;
    use borg_proto::{Health, JobId, TaskId};

    const MIB: u64 = 1 << 20;

    fn report(id: IncarnationId) -> TaskReport {
        TaskReport {
            id,
            status: TaskStatus::Up { pid: 7, since: Millis(3) },
            restarts: 0,
            last_failure: None,
            usage: Usage::default(),
            ports: Vec::new(),
            health: Health::Unchecked,
            status_line: String::new(),
            last_run: None,
            start: None,
            address: None,
        }
    }

    #[test]
    fn an_address_is_told_once_for_each_process_and_only_of_a_network_of_its_own() {
        let mut cell = Cell::new();
        let mut with_range = info(1000, 64 * MIB, &[]);
        with_range.capacity.devices = [(borg_proto::resources::TASK_ADDRESS.into(), 2_000)].into();
        let machine = cell.machine_with("m-1", with_range);
        let own = crate::fixture::with_task(service("own", 1, 100, 4 * MIB), |task| {
            task.network = borg_proto::Network::Own;
        });
        let [own, usual] = [own, service("usual", 1, 100, 4 * MIB)].map(|spec| {
            let job = cell.submit("ann", spec);
            cell.place(job, 0, machine).unwrap()
        });
        let said = |id| TaskReport { address: Some([10, 88, 3, 2].into()), ..report(id) };
        let told = |cell: &Cell, report: TaskReport| {
            let (placed, version) = cell.state.placed_as(report.id).unwrap();
            address(version, placed, &report)
        };
        let told_now = told(&cell, said(own));
        let expected = Observation::TaskAddress { id: own, address: [10, 88, 3, 2].into() };
        assert_eq!(told_now, Some(expected.clone()));
        assert_eq!(told(&cell, said(usual)), None);
        cell.observe(Observation::TaskUp {
            id: own,
            pid: 7,
            since: Millis(3),
            restarts: 0,
            run: None,
        });
        cell.observe(expected.clone());
        assert_eq!(told(&cell, said(own)), None);
        let again = TaskReport { restarts: 1, ..said(own) };
        assert_eq!(told(&cell, again), Some(expected), "another process may have the same");
        assert_eq!(told(&cell, report(own)), None, "nothing is known of its address");
    }

    #[test]
    fn the_end_of_a_run_that_nobody_heard_of_comes_with_the_next_one_and_only_once() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let web = cell.submit("ann", service("web", 1, 100, 4 * MIB));
        let id = cell.place(web, 0, machine).unwrap();
        cell.up(id);
        let end = |run| {
            let failure = Some(FailureCause::Exit { code: 3 });
            let (cpu_ms, ram_peak_bytes, last_lines) = (0, 0, String::new());
            let (started, ended) = (None, Millis(2));
            Some(Arc::new(RunEnd {
                run,
                started,
                ended,
                failure,
                cpu_ms,
                ram_peak_bytes,
                last_lines,
            }))
        };
        let said = |restarts, last_run| TaskReport { restarts, last_run, ..report(id) };
        let carried = |cell: &Cell, report: &TaskReport, level| {
            let placed = cell.state.task(id.task).unwrap().placement().unwrap();
            match difference(placed, report, level) {
                Some(Observation::TaskUp { run, .. }) => run,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(carried(&cell, &said(1, end(0)), 5), end(0));
        assert_eq!(carried(&cell, &said(1, end(0)), 4), None, "older masters cannot read it");
        assert_eq!(carried(&cell, &said(2, end(0)), 5), None, "it is of an earlier one");
        let (cause, run) = (FailureCause::Exit { code: 3 }, end(0));
        let until = cell.now;
        cell.observe(Observation::TaskBackOff { id, until, restarts: 0, cause, run });
        assert_eq!(carried(&cell, &said(1, end(0)), 5), None, "that is known");
    }

    /// The cell goes on from what it is now as from a backup, and is led.
    fn restore(cell: &mut Cell) {
        cell.state = cell.state.clone().refound(&[(1, "a:1".into())], Millis(60_000)).0;
        let leader = cell.state.masters().next().unwrap().0;
        cell.apply(master(), Action::Lead { leader, term: 5 }).unwrap();
    }

    /// Two are placed by the backup; one of them ended after it.
    #[test]
    fn a_restored_cell_starts_nothing_again_that_its_machine_does_not_have() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let web = cell.submit("ann", service("web", 2, 100, 4 * MIB));
        let [runs, ended] = [0, 1].map(|task| cell.place(web, task, machine).unwrap());
        restore(&mut cell);
        let (state, digests) = (&cell.state, &mut Digests::default());
        let machine = state.machine(machine).unwrap();
        let listed = |link: &Link| -> Vec<IncarnationId> {
            link.target.tasks.iter().map(|task| task.id).collect()
        };
        let mut link = Link::new(machine, state, cell.now, true, digests);
        assert_eq!(listed(&link), []);
        let said = MachineDelta {
            machine: machine.name.clone(),
            seq: 1,
            full: true,
            reachable: true,
            obeyed: 1,
            info: machine.info.as_deref().cloned(),
            tasks: vec![report(runs)],
            gone: Vec::new(),
            data: None,
        };
        link.fold(cell.now, said);
        assert!(link.renew_target(machine, state, true, digests).is_some());
        assert_eq!((listed(&link), &link.target.ends), (vec![runs], &Vec::new()));
        let found = link.compare(cell.now, machine, state);
        let (at, failure) = (cell.now, Some(FailureCause::Lost));
        assert!(
            found.contains(&Observation::TaskEnded { id: ended, at, failure, run: None }),
            "{found:?}"
        );
        // A new session has not heard of it yet, and it is still the machine's.
        link.begin(cell.now);
        assert!(link.renew_target(machine, state, true, digests).is_none());
        assert_eq!(listed(&link), [runs]);
        // Who was never heard of is told everything when the time is up.
        let mut unheard = Link::new(machine, state, cell.now, true, digests);
        assert!(unheard.renew_target(machine, state, false, digests).is_some());
        assert_eq!(listed(&unheard), [runs, ended]);
    }

    /// A machine of a cell that was restored from a backup has four incarnations that the backup
    /// does not have there: one of a slot that waits, one that was replaced, one of a job that is
    /// dead, and one of a job that came later.
    #[test]
    fn a_restored_cell_adopts_what_it_can_ends_what_is_over_and_spares_the_rest() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let web = cell.submit("ann", service("web", 2, 100, 4 * MIB));
        let replaced = cell.place(web, 0, machine).unwrap();
        cell.ended(replaced, None);
        let dead = cell.submit("ann", batch("dead", 1, 100, 4 * MIB));
        let over = cell.place(dead, 0, machine).unwrap();
        cell.kill("ann", "ann/dead", &[]).unwrap();
        let newer = IncarnationId { task: TaskId { job: web, index: 1 }, number: 1 };
        let unknown = IncarnationId { task: TaskId { job: JobId(7), index: 0 }, number: 1 };

        restore(&mut cell);
        let state = &cell.state;
        let machine = state.machine(machine).unwrap();
        let digests = &mut Digests::default();
        let mut link = Link::new(machine, state, cell.now, true, digests);
        assert!(link.target.spare && link.target.tasks.is_empty());
        let mut all = [newer, replaced, over, unknown];
        all.sort();
        let said = MachineDelta {
            machine: machine.name.clone(),
            seq: 1,
            full: true,
            reachable: true,
            obeyed: 1,
            info: Some(info(1000, 64 * MIB, &[])),
            tasks: all.map(report).to_vec(),
            gone: Vec::new(),
            data: None,
        };
        link.fold(cell.now, said);
        assert_eq!((link.strangers, link.spared()), (4, 4));

        let found = link.compare(cell.now, machine, state);
        let adopted: Vec<_> = found
            .iter()
            .filter_map(|change| match change {
                Observation::TaskAdopted { id, machine: at, pid, .. } => Some((*id, *at, *pid)),
                Observation::MachineUp { .. }
                | Observation::MachineDown { .. }
                | Observation::TaskUp { .. }
                | Observation::TaskBackOff { .. }
                | Observation::TaskEnded { .. }
                | Observation::TaskGone { .. }
                | Observation::TaskReclaimed { .. }
                | Observation::DataAtRest { .. }
                | Observation::DataGone { .. }
                | Observation::TaskHealth { .. }
                | Observation::TaskAddress { .. }
                | Observation::Silence { .. } => None,
            })
            .collect();
        assert_eq!(adopted, [(newer, machine.id, 7)]);

        assert!(link.renew_target(machine, state, true, digests).is_some());
        assert_eq!(link.target.ends, [replaced, over]);
        assert_eq!((link.generation, link.spared()), (2, 2));
        assert!(link.renew_target(machine, state, true, digests).is_none(), "nothing new to tell");

        // The window is over: the target alone counts again.
        assert!(link.renew_target(machine, state, false, digests).is_some());
        assert_eq!((link.target.spare, link.target.ends.len(), link.spared()), (false, 0, 0));
        assert!(link.compare(cell.now, machine, state).is_empty());
    }
}
