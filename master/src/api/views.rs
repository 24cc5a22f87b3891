//! State as the API shows it.

mod kinds;

use crate::clock;
use crate::config::Member;
use crate::feed::View;
use crate::said::AllSaid;
use crate::store::Kept;
use borg_cell::bns::{BnsError, Endpoint};
use borg_cell::rejection::amounts;
use borg_cell::state::runs::{RunOver, TaskRun};
use borg_cell::state::{
    CellState, Job, JobState, Machine, MachineState, Standing, Task, Update, UpdateState,
};
use borg_proto::names::TaskId;
use borg_proto::policy::{MAX_WEIGHT, Term};
use borg_proto::reclamation::Number;
use borg_proto::spec::Constraint;
use borg_proto::task::{Phase, Placement, TaskEnd, TaskState};
use borg_proto::wire::pb;
use borg_proto::{Health, IncarnationId, MachineId, Millis, ReplicaId};
use borg_scheduler::Explanation;
use std::collections::BTreeMap;
use tonic::Status;

/// How new a view is.
pub(crate) fn read_info(view: &View) -> pb::ReadInfo {
    pb::ReadInfo {
        index: view.state.applied(),
        age_ms: clock::now().since(view.heard_at).0,
        replica: view.status.replica.0,
        at_ms: view.state.clock().0,
        leader: view.status.leader == Some(view.status.replica),
    }
}

pub(super) fn kept_checkpoint(kept: &Kept) -> pb::KeptCheckpoint {
    pb::KeptCheckpoint {
        index: kept.meta.place.index,
        term: kept.meta.place.term,
        at_ms: kept.meta.at.0,
        bytes: kept.meta.file_bytes,
        unbroken: kept.unbroken,
    }
}

pub(super) fn job_state(state: JobState) -> pb::JobState {
    match state {
        JobState::Waiting => pb::JobState::Waiting,
        JobState::Pending => pb::JobState::Pending,
        JobState::Running => pb::JobState::Running,
        JobState::Finished => pb::JobState::Finished,
        JobState::Failed => pb::JobState::Failed,
        JobState::Killed => pb::JobState::Killed,
    }
}

pub(super) fn job_summary(state: &CellState, job: &Job) -> pb::JobSummary {
    let kind = pb::JobKind::from(job.spec.kind);
    pb::JobSummary {
        job: job.key.to_string(),
        job_id: job.id.0,
        kind: kind.into(),
        priority: job.priority().get().into(),
        state: job_state(job.state()).into(),
        tasks: if job.spec.kind.stands() { job.size() } else { job.spec.tasks },
        pending: job.counts.pending,
        running: job.counts.running,
        // An alloc is there as soon as it is placed.
        up: if job.is_alloc_set() { job.counts.running } else { job.counts.up },
        finished: job.counts.finished,
        failed: job.counts.failed,
        killed: job.counts.killed,
        submitted_at_ms: job.submitted_at.0,
        ended_at_ms: job.ended_at().map_or(0, |at| at.0),
        note: job_note(state, job),
        version: job.head().number,
        update: job.update().map(|update| super::updates::info(state, job, update)),
        labels: job.spec.labels.clone(),
        stopped: if job.waits_for.is_empty() { job.counts.held } else { 0 },
        parent: job.spec.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        cron: kinds::cron_info(job),
        rescues: rescues(state, job),
    }
}

/// The alloc whose data it saves, of a run that was made for that.
fn rescues(state: &CellState, job: &Job) -> String {
    let kept = job.rescues().and_then(|number| state.kept_data(number));
    kept.map(|kept| kept.name().to_string()).unwrap_or_default()
}

/// A job with what only those ask for who ask for one.
pub(super) fn whole_job(state: &CellState, job: &Job) -> pb::JobSummary {
    let mut summary = job_summary(state, job);
    if let Some(cron) = &mut summary.cron {
        cron.history = kinds::history(state, job);
    }
    summary
}

/// Whether it is a daemon's, and without a machine: then there is nothing to show.
pub(super) fn is_withdrawn(task: &Task) -> bool {
    matches!(&task.state, TaskState::Dead { end: TaskEnd::Withdrawn, .. })
}

/// Why a job waits, how it ended, or what keeps one of its tasks from running.
fn job_note(state: &CellState, job: &Job) -> String {
    /// Looking at more tasks than this would make lists of large jobs slow.
    const LOOKED_AT: usize = 1_000;
    let note = job.note(state);
    if let Some(update) = job.update().filter(|_| note.is_empty()) {
        let note = update_note(state, job, update);
        if !note.is_empty() {
            return note;
        }
    }
    if !note.is_empty() || job.counts.up == job.size() {
        return note;
    }
    let troubled = state.tasks_of(job.id).take(LOOKED_AT).find_map(|(id, task)| {
        let waits = match &task.state {
            TaskState::Pending { .. } => true,
            TaskState::Running(placement) => matches!(placement.phase, Phase::BackOff { .. }),
            TaskState::Dead { .. } => false,
        };
        let cause = task.last_failure.as_ref().filter(|_| waits)?;
        Some(format!("task {}: {cause}", id.index))
    });
    troubled.unwrap_or_default()
}

/// How far an update is that somebody should know of; nothing of one that is done.
fn update_note(state: &CellState, job: &Job, update: &Update) -> String {
    if update.state == UpdateState::Done {
        return String::new();
    }
    let (from, to) = (update.from, update.to);
    let way = if update.goes_back() {
        format!("goes back ({})", update.why)
    } else {
        format!("goes from version {from} to {to}")
    };
    let waits = job.waits_for_update(update, state.clock());
    if waits.is_empty() { way } else { format!("{way}: {waits}") }
}

/// A run that is over; its last lines only for those who may read its output.
pub(super) fn task_run(run: &TaskRun, with_lines: bool) -> pb::TaskRun {
    let (end, cause) = match &run.over {
        RunOver::Finished => ("finished", String::new()),
        RunOver::Failed(cause) => ("failed", cause.to_string()),
        RunOver::Evicted(cause) => ("evicted", cause.to_string()),
    };
    let mut told: Option<pb::RunEnd> = run.told.as_deref().map(Into::into);
    if let (Some(told), false) = (&mut told, with_lines) {
        told.last_lines.clear();
    }
    pb::TaskRun {
        incarnation: run.incarnation,
        machine: run.machine.to_string(),
        placed_ms: run.placed.0,
        at_ms: run.at.0,
        end: end.to_owned(),
        cause,
        told,
    }
}

/// A job's specification as somebody may see it: the environment, where people keep secrets, is for
/// its owner and administrators alone.
pub(super) fn spec_for(job: &Job, may_see: bool) -> pb::JobSpec {
    let mut spec = pb::JobSpec::from(job.spec.as_ref());
    if let (Some(task), false) = (&mut spec.task, may_see) {
        task.env.clear();
    }
    spec
}

pub(super) fn task_info(
    view: &View,
    said: &AllSaid,
    job: &Job,
    id: TaskId,
    task: &Task,
) -> pb::TaskInfo {
    let mut info = pb::TaskInfo {
        index: id.index,
        // That of its successor, if it has one, is another.
        incarnation: task.last_place.map_or(0, |(_, incarnation)| incarnation),
        failures: task.failures,
        version: task.version,
        stopped: task.is_stopped(),
        labels: owned(&job.spec.labels_of(id.index)),
        ..pb::TaskInfo::default()
    };
    if let Some((machine, _)) = task.last_place {
        info.machine = view.state.machine(machine).map_or_else(String::new, |m| m.name.to_string());
    }
    let phase = match &task.state {
        TaskState::Pending { since, not_before } => {
            info.since_ms = since.0;
            info.note = pending_note(view, job, task, *not_before);
            info.not_before_ms = not_before.0;
            // A daemon's task has its machine before it is there.
            let home = task.pinned.and_then(|home| view.state.machine(home));
            info.machine = home.map(|home| home.name.to_string()).unwrap_or_default();
            pb::TaskPhase::Pending
        }
        TaskState::Running(placement) if job.is_alloc_set() => {
            info.since_ms = placement.placed_at.0;
            info.note = contents(&view.state, job, id);
            pb::TaskPhase::Held
        }
        TaskState::Running(placement) => fill_running(said, job, id, task, placement, &mut info),
        TaskState::Dead { at, end } => {
            info.since_ms = ended(view, id, task, *at).0;
            info.note = match end {
                TaskEnd::Finished => String::new(),
                TaskEnd::Failed { .. }
                | TaskEnd::Killed { .. }
                | TaskEnd::ParentEnded { .. }
                | TaskEnd::Withdrawn
                | TaskEnd::DependencyFailed { .. } => end.to_string(),
            };
            match end {
                TaskEnd::Finished => pb::TaskPhase::Finished,
                TaskEnd::Failed { .. } | TaskEnd::DependencyFailed { .. } => pb::TaskPhase::Failed,
                TaskEnd::Killed { .. } | TaskEnd::ParentEnded { .. } | TaskEnd::Withdrawn => {
                    pb::TaskPhase::Killed
                }
            }
        }
    };
    if info.note.is_empty() && view.state.leaves(id) {
        let waits = view.state.stays_for(id, view.state.clock());
        info.note = format!("its machine is drained; it stays for now: {waits}");
    }
    if info.note.is_empty()
        && let Some(next) = task.successor()
        && let Some(machine) = view.state.machine(next.placement.machine)
    {
        info.note = format!("its replacement starts on {}", machine.name);
    }
    info.phase = phase.into();
    info
}

fn owned(labels: &BTreeMap<&str, &str>) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// When a task that is over ended: as its machine said it, or when the cell heard of it.
fn ended(view: &View, id: TaskId, task: &Task, heard: Millis) -> Millis {
    let last = view.state.runs_of(id).next();
    let newest = task.last_place.map(|(_, incarnation)| incarnation);
    let last = last.filter(|run| Some(run.incarnation) == newest && run.at == heard);
    let told = last.and_then(|run| run.told.as_ref());
    // Clocks of machines go their own ways; nothing ended later than it was heard of.
    told.map_or(heard, |told| told.ended.min(heard))
}

/// How large an alloc is and what is in it, in words.
fn contents(state: &CellState, set: &Job, alloc: TaskId) -> String {
    let limit = &set.spec.task.limit;
    let inside = state.belonging_in(alloc).filter(|(_, task)| task.placement().is_some());
    let names = inside
        .filter_map(|(id, _)| state.job(id.job).map(|job| format!("{}/{}", job.key, id.index)));
    let names: Vec<String> = names.collect();
    if names.is_empty() {
        return format!("{}, empty", amounts(limit));
    }
    let free = limit.minus(&state.used_in_alloc(alloc));
    format!("{}, free {}, holds {}", amounts(limit), amounts(&free), names.join(", "))
}

fn fill_running(
    said: &AllSaid,
    job: &Job,
    id: TaskId,
    task: &Task,
    placement: &Placement,
    info: &mut pb::TaskInfo,
) -> pb::TaskPhase {
    info.restarts = placement.restarts;
    info.since_ms = placement.placed_at.0;
    let names = job.task_spec(id.index).ports.iter();
    info.ports = names
        .zip(&placement.ports)
        .map(|(name, port)| pb::Port { name: name.to_string(), port: (*port).into() })
        .collect();
    info.address = placement.address.map(|address| address.to_string()).unwrap_or_default();
    info.health = pb::Health::from(job.health(id.index, placement)).into();
    let incarnation = IncarnationId { task: id, number: placement.incarnation };
    let said = said.get(&incarnation);
    if let Some(said) = said {
        info.status_line.clone_from(&said.status_line);
        info.reserved = said.reserved.map(Into::into);
    }
    if let Some(usage) = said.and_then(|said| said.usage.as_ref()) {
        info.cpu_milli = usage.cpu_milli;
        info.ram_bytes = usage.ram_bytes;
        info.usage = Some(usage.into());
    }
    let phase = match placement.phase {
        Phase::Starting => pb::TaskPhase::Starting,
        Phase::Up { pid, since } => {
            info.pid = pid;
            info.since_ms = since.0;
            info.note = match job.health(id.index, placement) {
                Health::Unchecked | Health::Healthy => String::new(),
                Health::Starting => "not healthy yet".into(),
                Health::Unhealthy => "unhealthy".into(),
            };
            pb::TaskPhase::Running
        }
        Phase::BackOff { until } => {
            info.not_before_ms = until.0;
            info.note = task.last_failure.as_ref().map(ToString::to_string).unwrap_or_default();
            pb::TaskPhase::BackOff
        }
    };
    let note = said.map(|said| &said.note).filter(|note| !note.is_empty());
    if let Some(note) = note.filter(|_| brings_packages(job)) {
        info.note.clone_from(note);
    }
    phase
}

/// Whether it matters to people how far its packages are.
pub(super) fn brings_packages(job: &Job) -> bool {
    let mut held = job.held_versions().map(|version| &version.spec.task);
    held.any(|task| task.image.is_some() || !task.packages.is_empty())
}

fn pending_note(view: &View, job: &Job, task: &Task, not_before: Millis) -> String {
    let waiting = job.note(&view.state);
    if !waiting.is_empty() {
        return waiting;
    }
    if task.is_stopped() {
        return format!("stopped: borgctl start {}", job.key);
    }
    if task.lingers {
        return "exclusive: waits until its last incarnation has surely ended".to_owned();
    }
    if let Some(most) = job.spec.concurrent.filter(|most| job.counts.running >= *most) {
        return format!("{most} of the job's tasks run, which is its cap");
    }
    let last = match (&task.last_failure, &task.last_evict) {
        (Some(cause), _) => cause.to_string(),
        (None, Some(cause)) => cause.to_string(),
        (None, None) => return String::new(),
    };
    let wait = not_before.since(clock::now());
    if wait == Millis(0) {
        last
    } else {
        format!("{last}; next try in {} s", wait.0.div_ceil(1000))
    }
}

pub(super) fn why(view: &View, id: TaskId, explanation: Explanation) -> pb::WhyResponse {
    let phase = view
        .state
        .job(id.job)
        .zip(view.state.task(id))
        .map_or(0, |(job, task)| task_info(view, &AllSaid::new(), job, id, task).phase);
    let rejections = explanation.rejections.iter().map(|rejected| pb::Rejection {
        reason: rejected.reason.to_string(),
        machines: rejected.machines,
    });
    let machine = |id: MachineId| {
        let found = view.state.machine(id);
        found.map_or_else(|| format!("machine {}", id.0), |machine| machine.name.to_string())
    };
    let task = |id: TaskId| {
        let found = view.state.job(id.job);
        found.map_or_else(|| id.to_string(), |job| format!("{}/{}", job.key, id.index))
    };
    let advice = explanation.advice.iter().map(|advice| pb::Advice {
        changes: advice.changes.iter().map(ToString::to_string).collect(),
        machine: machine(advice.machine),
    });
    let standings = explanation.standings.iter().map(|standing| pb::Standing {
        machine: machine(standing.machine),
        cost: standing.cost,
        terms: standing
            .terms
            .iter()
            .map(|(name, cost)| pb::standing::Term { name: (*name).to_owned(), cost: *cost })
            .collect(),
    });
    let count = |tasks: usize| u64::try_from(tasks).unwrap_or(u64::MAX);
    let next = explanation.ahead.next.and_then(|job| view.state.job(job));
    pb::WhyResponse {
        phase,
        rejections: rejections.collect(),
        machines: explanation.machines,
        feasible: explanation.feasible,
        advice: advice.collect(),
        higher: count(explanation.ahead.higher),
        equal: count(explanation.ahead.equal),
        next: next.map(|job| job.key.to_string()).unwrap_or_default(),
        victims: explanation.victims.iter().map(|victim| task(victim.task)).collect(),
        standings: standings.collect(),
        pushed_out: explanation.pushed_out.iter().copied().map(task).collect(),
        quota: view
            .state
            .job(id.job)
            .map(|job| quota_position(&view.state, job))
            .unwrap_or_default(),
        summary: explanation.summary,
        read: Some(read_info(view)),
    }
}

/// How a job's user stands with quota in its band, in words.
fn quota_position(state: &CellState, job: &Job) -> String {
    let (user, band) = (job.owner(), job.priority().band());
    let used = amounts(&state.used_quota(user, band).amount());
    let mut grants = state.quota_of(user, band).iter();
    let granted = grants.find(|grant| grant.in_force(state.clock()));
    let granted = granted.map(|grant| format!(" of {}", amounts(&grant.amount)));
    let open = if state.enforces_quota(band) { "" } else { ", which needs no quota" };
    format!("{user} uses {used}{} in {band}{open}", granted.unwrap_or_default())
}

pub(super) fn machine(machine: &Machine, shard: Option<ReplicaId>) -> pb::Machine {
    let state = match machine.state {
        MachineState::New => pb::MachineState::New,
        MachineState::Up => pb::MachineState::Up,
        MachineState::Down => pb::MachineState::Down,
    };
    pb::Machine {
        name: machine.name.to_string(),
        address: machine.address.to_string(),
        state: state.into(),
        since_ms: machine.since.0,
        info: machine.info.as_deref().map(Into::into),
        used: Some((&machine.used).into()),
        tasks: u32::try_from(machine.tasks.len()).unwrap_or(u32::MAX),
        shard: shard.map_or(0, |replica| replica.0),
        silent_ms: 0,
        kept_for: machine.kept_for_names(),
        closed: machine.closed.as_deref().map(|closed| pb::ClosedMachine {
            since_ms: closed.since.0,
            by: closed.by.to_string(),
            reason: closed.reason.clone(),
        }),
        drain: machine.drain.as_deref().map(super::drains::drain),
    }
}

pub(super) fn safe_mode(state: &CellState) -> Option<pb::SafeMode> {
    state.safe_mode().map(|safe| pb::SafeMode {
        since_ms: safe.since.0,
        silent: safe.silent,
        machines: safe.machines,
    })
}

pub(super) fn master(member: &Member, answer: Result<pb::HelloResponse, Status>) -> pb::Master {
    let base = pb::Master {
        replica: member.replica.number(),
        life: member.replica.life(),
        address: member.address.clone(),
        ..pb::Master::default()
    };
    match answer {
        // Its number answers in another life, in which it is listed by itself.
        Ok(hello) if hello.replica != member.replica.0 => base,
        Ok(hello) => pb::Master {
            leader: hello.leader == member.replica.0,
            reachable: true,
            term: hello.term,
            applied_index: hello.applied_index,
            digest: hello.digest,
            digest_index: hello.digest_index,
            machines_polled: hello.machines_polled,
            pid: hello.pid,
            note: hello.note,
            epoch: hello.epoch,
            ..base
        },
        Err(status) => pb::Master { note: borg_proto::rpc::explain(&status), ..base },
    }
}

/// Says where each master stands by the cell's table; adds those that nothing was heard of yet.
pub(super) fn stand(masters: &mut Vec<pb::Master>, state: &CellState) {
    for (id, record) in state.masters() {
        let found = masters
            .iter_mut()
            .find(|master| (master.replica, master.life) == (id.number(), id.life()));
        let (standing, note) = match record.standing {
            Standing::Invited { .. } => {
                ("invited", "nothing was heard of it yet: start its process")
            }
            Standing::Joining { replaces: Some(old) } if old.number() == id.number() => {
                ("joining", "lost its log and takes everything from the others")
            }
            Standing::Joining { .. } => ("joining", "takes the state and does not vote yet"),
            Standing::Voting => ("voting", ""),
            Standing::Leaving => ("leaving", ""),
        };
        let master = match found {
            Some(master) => master,
            None => {
                masters.push(pb::Master {
                    replica: id.number(),
                    life: id.life(),
                    address: record.address.clone(),
                    ..pb::Master::default()
                });
                masters.last_mut().expect("it has just been added")
            }
        };
        standing.clone_into(&mut master.standing);
        if master.note.is_empty() {
            note.clone_into(&mut master.note);
        }
    }
    masters.sort_by_key(|master| (master.replica, master.life));
}

pub(super) fn endpoint(endpoint: Endpoint) -> pb::Endpoint {
    pb::Endpoint {
        task: endpoint.task.to_string(),
        port_name: endpoint.port_name.to_string(),
        host: endpoint.host,
        port: endpoint.port.into(),
        up: endpoint.up,
        health: pb::Health::from(endpoint.health).into(),
    }
}

pub(super) fn bns_status(error: BnsError) -> Status {
    match error {
        BnsError::Name(_) => Status::invalid_argument(format!("name: {error}")),
        BnsError::NoSuchJob(_) | BnsError::NoSuchTask(_) => Status::not_found(error.to_string()),
    }
}

pub(super) fn policy(view: &View) -> pb::GetPolicyResponse {
    let set = view.state.policy();
    let policy = set.unwrap_or_default();
    let weight = |term: Term| pb::PolicyWeight {
        name: term.to_string(),
        weight: policy.weights.get(term).into(),
        of_policy: policy.named.weights().get(term).into(),
        least: term.least().into(),
        most: MAX_WEIGHT.into(),
        meaning: term.meaning().to_owned(),
    };
    pb::GetPolicyResponse {
        policy: policy.named.to_string(),
        weights: Term::ALL.into_iter().map(weight).collect(),
        is_set: set.is_some(),
        read: Some(read_info(view)),
    }
}

pub(super) fn reclamation(view: &View) -> pb::GetReclamationResponse {
    let reclaims = view.state.reclaims();
    let number = |number: Number| {
        let (least, most) = number.bounds();
        pb::ReclamationNumber {
            name: number.to_string(),
            value: reclaims.numbers.get(number),
            of_set: reclaims.named.numbers().get(number),
            least,
            most,
            meaning: number.meaning().to_owned(),
        }
    };
    pb::GetReclamationResponse {
        named: reclaims.named.to_string(),
        numbers: Number::ALL.into_iter().map(number).collect(),
        is_set: view.state.reclamation().is_some(),
        read: Some(read_info(view)),
    }
}

/// How many machines could run a task of the job were they empty: none that are closed, or kept for
/// others.
pub(super) fn fitting_machines(state: &CellState, job: &Job) -> u32 {
    let spec = &job.spec;
    let asked = spec.asked();
    let fits = |machine: &&Machine| {
        machine.info.as_ref().is_some_and(|info| {
            let hard = |c: &&Constraint| !c.soft;
            machine.admits(job.owner()).is_ok()
                && asked.fits_in(&info.capacity)
                && spec.task.constraints.iter().filter(hard).all(|c| c.holds(&info.attributes))
        })
    };
    u32::try_from(state.machines().filter(fits).count()).unwrap_or(u32::MAX)
}
