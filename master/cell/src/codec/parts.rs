//! Machines, jobs and tasks as they stand in a checkpoint.
//!
//! Bounds of single fields are checked here, with the names of the fields; what the parts say
//! about each other is left to the audit.

use super::kept;
use super::kinds;
use super::{drains, updates};
use crate::state::lives::{DEAD_SLOTS_KEPT, MAX_LIVE_SLOTS};
use crate::state::{
    Closed, Crash, FIRST_VERSION, Job, JobEnd, MAX_CRASHES, Machine, MachineState, MasterRecord,
    Restored, Standing, Successor, Task, Vain, Version, Window,
};
use borg_proto::disruption::MAX_RATE_TASKS;
use borg_proto::names::NameError;
use borg_proto::policy::{CellPolicy, Term};
use borg_proto::reclamation::{Number, Reclamation};
use borg_proto::spec::{MAX_PORTS, MAX_TASKS};
use borg_proto::task::{
    DeviceShare, EvictCause, FailureCause, Phase, Placement, TaskEnd, TaskState,
};
use borg_proto::wire::{
    WireError, check_reason, pb, read_address, read_health, read_users, write_address,
};
use borg_proto::{
    JobId, JobSpec, MachineId, MachineInfo, MachineName, Millis, ReplicaId, UserName,
};
use imbl::{OrdMap, Vector};
use pb::checkpoint_task as wire;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Longest name of whoever killed or preempted a task, in bytes: our own texts are far shorter.
const MAX_BY_BYTES: usize = 256;

pub(super) fn missing(field: &str) -> WireError {
    WireError::new(field, "nothing", "is given, but it is required")
}

pub(super) fn name<T>(field: &str, parsed: Result<T, NameError>) -> Result<T, WireError> {
    parsed.map_err(|error| WireError::from(error).within(field))
}

pub(super) fn by(field: &str, text: String) -> Result<String, WireError> {
    if text.len() <= MAX_BY_BYTES {
        return Ok(text);
    }
    Err(WireError::new(field, text, format!("is longer than {MAX_BY_BYTES} bytes")))
}

fn port(value: u32) -> Result<u16, WireError> {
    u16::try_from(value).map_err(|_| WireError::new("ports", value, "is no port"))
}

pub(super) fn machine(machine: &Machine) -> pb::CheckpointMachine {
    pb::CheckpointMachine {
        id: machine.id.0,
        name: machine.name.to_string(),
        address: machine.address.to_string(),
        state: match machine.state {
            MachineState::New => 1,
            MachineState::Up => 2,
            MachineState::Down => 3,
        },
        since_ms: machine.since.0,
        info: machine.info.as_deref().map(Into::into),
        next_port: machine.next_port.into(),
        given_up: machine.given_up,
        kept_for: machine.kept_for_names(),
        closed: machine.closed.as_deref().map(|closed| pb::CheckpointClosed {
            since_ms: closed.since.0,
            by: closed.by.to_string(),
            reason: closed.reason.clone(),
        }),
        drain: machine.drain.as_deref().map(drains::write),
    }
}

pub(super) fn read_machine(machine: pb::CheckpointMachine) -> Result<Machine, WireError> {
    let state = match machine.state {
        1 => MachineState::New,
        2 => MachineState::Up,
        3 => MachineState::Down,
        other => return Err(WireError::new("state", other, "is no state of a machine")),
    };
    let info = machine.info.map(MachineInfo::try_from).transpose().map_err(|e| e.within("info"))?;
    let id = MachineId(machine.id);
    let since = Millis(machine.since_ms);
    let bare = Machine::new(
        id,
        name("name", MachineName::new(&machine.name))?,
        machine.address.into(),
        since,
    );
    let (next_port, given_up) = (port(machine.next_port)?, machine.given_up);
    let users = read_users(machine.kept_for).map_err(|e| e.within("kept_for"))?;
    let kept_for = (!users.is_empty()).then(|| Arc::new(users));
    let closed = machine.closed.map(read_closed).transpose().map_err(|e| e.within("closed"))?;
    let closed = closed.map(Arc::new);
    let drain = machine.drain.map(drains::read_drain).transpose().map_err(|e| e.within("drain"))?;
    let (info, drain) = (info.map(Arc::new), drain.map(Arc::new));
    Ok(Machine { state, info, next_port, given_up, kept_for, closed, drain, ..bare })
}

fn read_closed(closed: pb::CheckpointClosed) -> Result<Closed, WireError> {
    check_reason(&closed.reason)?;
    let (since, by) = (Millis(closed.since_ms), name("by", UserName::new(&closed.by))?);
    Ok(Closed { since, by, reason: closed.reason })
}

pub(super) fn policy(policy: CellPolicy) -> pb::CheckpointPolicy {
    let weight = |term: Term| (term.to_string(), policy.weights.get(term).into());
    pb::CheckpointPolicy {
        named: policy.named.to_string(),
        weights: Term::ALL.into_iter().map(weight).collect(),
    }
}

pub(super) fn read_policy(policy: &pb::CheckpointPolicy) -> Result<CellPolicy, WireError> {
    let named = borg_proto::wire::read_policy(&policy.named).map_err(|e| e.within("named"))?;
    let weights =
        borg_proto::wire::read_weights(&policy.weights).map_err(|e| e.within("weights"))?;
    Ok(CellPolicy::default().after(Some(named), &weights))
}

pub(super) fn reclamation(of: Reclamation) -> pb::CheckpointReclamation {
    let own = of.named.numbers();
    // Masters below that level read no such number; the name says it, unless it was set by itself.
    let said = |n: &Number| *n != Number::Remember || of.numbers.get(*n) != own.get(*n);
    let numbers = Number::ALL.into_iter().filter(said);
    pb::CheckpointReclamation {
        named: of.named.to_string(),
        numbers: numbers.map(|n| (n.to_string(), of.numbers.get(n))).collect(),
    }
}

pub(super) fn read_reclamation(of: &pb::CheckpointReclamation) -> Result<Reclamation, WireError> {
    let named = borg_proto::wire::read_number_set(&of.named).map_err(|e| e.within("named"))?;
    let numbers = borg_proto::wire::read_numbers(&of.numbers).map_err(|e| e.within("numbers"))?;
    Ok(Reclamation::default().after(Some(named), &numbers))
}

pub(super) fn job(job: &Job) -> pb::CheckpointJob {
    pb::CheckpointJob {
        id: job.id.0,
        user: job.key.user.to_string(),
        spec: Some(job.spec.as_ref().into()),
        submitted_at_ms: job.submitted_at.0,
        ended_at_ms: job.ended_at().map(|at| at.0),
        waits_for: job.waits_for.iter().map(|id| id.0).collect(),
        stopped: job.stopped.as_ref().map(|end| dead(Millis(0), end)),
        rerun_at_ms: job.rerun_at.map(|at| at.0),
        cron: job.cron.as_deref().map(kinds::cron),
        tasks: runs(&job.tasks),
        versions: updates::versions(job),
        update: job.update().map(updates::update),
        retired: job.retired,
        dropped: job.dropped.iter().map(dropped).collect(),
        disrupted_ms: job.disrupted.iter().map(|at| at.0).collect(),
        saver: job.saver.as_deref().map(Into::into),
        rescues: job.rescues.unwrap_or(0),
    }
}

fn dropped((index, (machine, incarnation)): (&u32, &(MachineId, u32))) -> pb::CheckpointDropped {
    pb::CheckpointDropped { index: *index, machine: machine.0, incarnation: *incarnation }
}

fn read_dropped(of: &[pb::CheckpointDropped]) -> Result<OrdMap<u32, (MachineId, u32)>, WireError> {
    if of.len() > MAX_TASKS as usize {
        let why = format!("are more than {MAX_TASKS}");
        return Err(WireError::new("dropped", format!("{} slots", of.len()), why));
    }
    Ok(of.iter().map(|d| (d.index, (MachineId(d.machine), d.incarnation))).collect())
}

/// Equal neighbours as one entry: most slots of a large job are alike.
fn runs(tasks: &Vector<Arc<Task>>) -> Vec<pb::CheckpointTask> {
    let mut runs: Vec<(&Arc<Task>, u32)> = Vec::new();
    for task in tasks {
        match runs.last_mut() {
            Some((last, alike)) if *last == task => *alike += 1,
            Some(_) | None => runs.push((task, 1)),
        }
    }
    let write = |(of, alike): (&Arc<Task>, u32)| pb::CheckpointTask {
        alike: if alike == 1 { 0 } else { alike },
        ..task(of)
    };
    runs.into_iter().map(write).collect()
}

/// `slots` counts the slots of all jobs read so far, so that a few bytes cannot ask for more
/// memory than a cell may have.
pub(super) fn read_job(job: pb::CheckpointJob, slots: &mut u64) -> Result<Job, WireError> {
    let spec = JobSpec::try_from(job.spec.ok_or_else(|| missing("spec"))?)
        .map_err(|e| e.within("spec"))?;
    let mut tasks = Vector::new();
    for (i, entry) in job.tasks.into_iter().enumerate() {
        let alike = entry.alike.max(1);
        *slots += u64::from(alike);
        if tasks.len() as u64 + u64::from(alike) > MAX_TASKS.into()
            || *slots > MAX_LIVE_SLOTS + DEAD_SLOTS_KEPT
        {
            return Err(WireError::new("tasks", alike, "slots more are too many"));
        }
        let task = Arc::new(read_task(entry).map_err(|e| e.within(&format!("tasks[{i}]")))?);
        tasks.extend((0..alike).map(|_| task.clone()));
    }
    let waits_for: BTreeSet<JobId> = job.waits_for.into_iter().map(JobId).collect();
    let user = name("user", UserName::new(&job.user))?;
    let bare = Job::new(
        JobId(job.id),
        &user,
        Arc::new(JobSpec { tasks: 0, cron: None, ..spec.clone() }),
        waits_for,
        Millis(job.submitted_at_ms),
    );
    let spec = Arc::new(spec);
    let mut versions = updates::read_versions(job.versions, &spec)?;
    if versions.is_empty() {
        let (number, at) = (FIRST_VERSION, bare.submitted_at);
        versions.push(Arc::new(Version::new(number, spec.clone(), at, user.clone())));
    }
    for task in &tasks {
        if !versions.iter().any(|version| version.number == task.version) {
            return Err(WireError::new("tasks.version", task.version, "is not kept"));
        }
    }
    let disrupted = disrupted(&job.disrupted_ms)?;
    let update = job.update.map(updates::read_update).transpose();
    let update = update.map_err(|e| e.within("update"))?.map(Arc::new);
    let retired = job.retired;
    let dropped = read_dropped(&job.dropped)?;
    let mut job_read = Job { spec, tasks, versions, update, retired, dropped, disrupted, ..bare };
    job_read.recount_versions();
    job_read.saver = kept::read_saver(job.saver)?;
    job_read.rescues = Some(job.rescues).filter(|number| *number > 0);
    job_read.rerun_at = job.rerun_at_ms.map(Millis);
    let stopped = job.stopped.map(read_end).transpose();
    job_read.stopped = stopped.map_err(|e| e.within("stopped"))?;
    let cron = job.cron.map(kinds::read_cron).transpose().map_err(|e| e.within("cron"))?;
    job_read.cron = cron.map(Arc::new);
    let end: JobEnd = job_read.verdict();
    job_read.ended = job.ended_at_ms.map(|at| (Millis(at), end));
    Ok(job_read)
}

fn disrupted(times: &[u64]) -> Result<Vector<Millis>, WireError> {
    if times.len() > MAX_RATE_TASKS as usize {
        let why = format!("are more than {MAX_RATE_TASKS}");
        return Err(WireError::new("disrupted_ms", format!("{} times", times.len()), why));
    }
    Ok(times.iter().map(|at| Millis(*at)).collect())
}

fn task(task: &Task) -> pb::CheckpointTask {
    pb::CheckpointTask {
        state: Some(state(&task.state)),
        incarnations: task.incarnations,
        failures: task.failures,
        streak: task.streak,
        last_failure: task.last_failure.as_ref().map(Into::into),
        last_evict: task
            .last_evict
            .as_ref()
            .map(|cause| wire::Evict { cause: Some(write_evict(cause)) }),
        last_place: task
            .last_place
            .map(|(machine, incarnation)| wire::Place { machine: machine.0, incarnation }),
        crashes: task
            .crashes
            .iter()
            .map(|crash| wire::Crash { machine: crash.machine.0, at_ms: crash.at.0 })
            .collect(),
        lingers: task.lingers,
        pinned: task.pinned.map(|machine| machine.0),
        version: if task.version == FIRST_VERSION { 0 } else { task.version },
        stopped: task.stopped,
        successor: task.successor().map(|successor| wire::Successor {
            placement: Some(running(&successor.placement)),
            version: successor.version,
        }),
        vain: task.vain.tries,
        vain_until_ms: task.vain.until.0,
        alike: 0,
    }
}

fn read_task(task: pb::CheckpointTask) -> Result<Task, WireError> {
    let state = read_state(task.state.ok_or_else(|| missing("state"))?)?;
    let last_failure = task.last_failure.map(FailureCause::try_from).transpose();
    let last_evict =
        task.last_evict.map(|e| read_evict(e.cause.ok_or_else(|| missing("last_evict"))?));
    let successor = task.successor.map(read_successor).transpose();
    Ok(Task {
        state,
        incarnations: task.incarnations,
        failures: task.failures,
        streak: task.streak,
        last_failure: last_failure.map_err(|e| e.within("last_failure"))?,
        last_evict: last_evict.transpose()?,
        last_place: task.last_place.map(|place| (MachineId(place.machine), place.incarnation)),
        crashes: crashes(&task.crashes)?,
        lingers: task.lingers,
        pinned: task.pinned.map(MachineId),
        version: if task.version == 0 { FIRST_VERSION } else { task.version },
        stopped: task.stopped,
        successor: successor.map_err(|e| e.within("successor"))?,
        vain: Vain { tries: task.vain, until: Millis(task.vain_until_ms) },
    })
}

fn read_successor(from: wire::Successor) -> Result<Box<Successor>, WireError> {
    let placement = from.placement.ok_or_else(|| missing("placement"))?;
    Ok(Box::new(Successor { placement: read_running(placement)?, version: from.version }))
}

fn crashes(crashes: &[wire::Crash]) -> Result<Vec<Crash>, WireError> {
    if crashes.len() > MAX_CRASHES {
        let why = format!("are more than {MAX_CRASHES}");
        return Err(WireError::new("crashes", crashes.len(), why));
    }
    let read = |c: &wire::Crash| Crash { machine: MachineId(c.machine), at: Millis(c.at_ms) };
    Ok(crashes.iter().map(read).collect())
}

fn state(state: &TaskState) -> wire::State {
    match state {
        TaskState::Pending { since, not_before } => {
            wire::State::Pending(wire::Pending { since_ms: since.0, not_before_ms: not_before.0 })
        }
        TaskState::Running(placement) => wire::State::Running(running(placement)),
        TaskState::Dead { at, end } => wire::State::Dead(dead(*at, end)),
    }
}

fn running(placement: &Placement) -> wire::Running {
    wire::Running {
        machine: placement.machine.0,
        incarnation: placement.incarnation,
        placed_at_ms: placement.placed_at.0,
        ports: placement.ports.iter().copied().map(Into::into).collect(),
        devices: placement.devices.iter().map(device_share).collect(),
        restarts: placement.restarts,
        health: pb::Health::from(placement.health).into(),
        address: write_address(placement.address),
        serves_since_ms: placement.serves_since.map(|at| at.0),
        phase: match placement.phase {
            Phase::Starting => None,
            Phase::Up { pid, since } => {
                Some(wire::running::Phase::Up(wire::Up { pid, since_ms: since.0 }))
            }
            Phase::BackOff { until } => Some(wire::running::Phase::BackOffUntilMs(until.0)),
        },
    }
}

fn dead(at: Millis, end: &TaskEnd) -> wire::Dead {
    use wire::dead::End;
    let (end, why) = match end {
        TaskEnd::Finished => (End::Finished(true), ""),
        TaskEnd::Failed { cause } => (End::Failed(cause.into()), ""),
        TaskEnd::Killed { by } => (End::KilledBy(by.clone()), ""),
        TaskEnd::DependencyFailed { job, why } => {
            (End::DependencyFailed(job.clone()), why.as_str())
        }
        TaskEnd::ParentEnded { job } => (End::ParentEnded(job.clone()), ""),
        TaskEnd::Withdrawn => (End::Withdrawn(true), ""),
    };
    wire::Dead { at_ms: at.0, end: Some(end), why: why.to_owned() }
}

fn read_end(dead: wire::Dead) -> Result<TaskEnd, WireError> {
    use wire::dead::End;
    Ok(match dead.end.ok_or_else(|| missing("end"))? {
        End::Finished(_) => TaskEnd::Finished,
        End::Failed(cause) => {
            TaskEnd::Failed { cause: cause.try_into().map_err(|e: WireError| e.within("failed"))? }
        }
        End::KilledBy(who) => TaskEnd::Killed { by: by("killed_by", who)? },
        End::DependencyFailed(job) => TaskEnd::DependencyFailed {
            job: by("dependency_failed", job)?,
            why: by("why", dead.why)?,
        },
        End::ParentEnded(job) => TaskEnd::ParentEnded { job: by("parent_ended", job)? },
        End::Withdrawn(_) => TaskEnd::Withdrawn,
    })
}

fn device_share(share: &DeviceShare) -> wire::DeviceShare {
    wire::DeviceShare {
        name: share.name.to_string(),
        number: share.number.into(),
        milli: share.milli.into(),
    }
}

fn read_device_shares(shares: Vec<wire::DeviceShare>) -> Result<Vec<DeviceShare>, WireError> {
    let small = |field: &str, value: u32| {
        u16::try_from(value).map_err(|_| WireError::new(field, value, "is more than 65535"))
    };
    let read = |share: wire::DeviceShare| {
        let (number, milli) = (small("number", share.number)?, small("milli", share.milli)?);
        Ok(DeviceShare { name: share.name.into(), number, milli })
    };
    shares.into_iter().map(read).collect()
}

fn read_state(state: wire::State) -> Result<TaskState, WireError> {
    Ok(match state {
        wire::State::Pending(pending) => TaskState::Pending {
            since: Millis(pending.since_ms),
            not_before: Millis(pending.not_before_ms),
        },
        wire::State::Running(running) => TaskState::Running(read_running(running)?),
        wire::State::Dead(dead) => TaskState::Dead { at: Millis(dead.at_ms), end: read_end(dead)? },
    })
}

fn read_running(running: wire::Running) -> Result<Placement, WireError> {
    if running.ports.len() > MAX_PORTS {
        return Err(WireError::new("ports", running.ports.len(), "are too many"));
    }
    Ok(Placement {
        machine: MachineId(running.machine),
        incarnation: running.incarnation,
        placed_at: Millis(running.placed_at_ms),
        ports: running.ports.into_iter().map(port).collect::<Result<_, _>>()?,
        devices: read_device_shares(running.devices)?,
        phase: match running.phase {
            None => Phase::Starting,
            Some(wire::running::Phase::Up(up)) => {
                Phase::Up { pid: up.pid, since: Millis(up.since_ms) }
            }
            Some(wire::running::Phase::BackOffUntilMs(until)) => {
                Phase::BackOff { until: Millis(until) }
            }
        },
        restarts: running.restarts,
        health: read_health("health", running.health)?,
        address: read_address(running.address),
        serves_since: running.serves_since_ms.map(Millis),
    })
}

pub(super) fn write_evict(cause: &EvictCause) -> wire::evict::Cause {
    match cause {
        EvictCause::Preempted { by } => wire::evict::Cause::PreemptedBy(by.clone()),
        EvictCause::MachineDown => wire::evict::Cause::MachineDown(true),
        EvictCause::Drained => wire::evict::Cause::Drained(true),
        EvictCause::Shrunk => wire::evict::Cause::Shrunk(true),
        EvictCause::Resized => wire::evict::Cause::Resized(true),
        EvictCause::Reclaimed => wire::evict::Cause::Reclaimed(true),
        EvictCause::Updated { version } => wire::evict::Cause::Updated(*version),
        EvictCause::Stopped { by } => wire::evict::Cause::StoppedBy(by.clone()),
        EvictCause::Capped { most } => wire::evict::Cause::Capped(*most),
    }
}

pub(super) fn read_evict(cause: wire::evict::Cause) -> Result<EvictCause, WireError> {
    Ok(match cause {
        wire::evict::Cause::PreemptedBy(who) => {
            EvictCause::Preempted { by: by("preempted_by", who)? }
        }
        wire::evict::Cause::MachineDown(_) => EvictCause::MachineDown,
        wire::evict::Cause::Drained(_) => EvictCause::Drained,
        wire::evict::Cause::Shrunk(_) => EvictCause::Shrunk,
        wire::evict::Cause::Resized(_) => EvictCause::Resized,
        wire::evict::Cause::Reclaimed(_) => EvictCause::Reclaimed,
        wire::evict::Cause::Updated(version) => EvictCause::Updated { version },
        wire::evict::Cause::StoppedBy(who) => EvictCause::Stopped { by: by("stopped_by", who)? },
        wire::evict::Cause::Capped(most) => EvictCause::Capped { most },
    })
}

pub(super) fn master((id, record): (ReplicaId, &MasterRecord)) -> pb::CheckpointMaster {
    let (standing, replaces) = match record.standing {
        Standing::Invited { replaces } => (1, replaces),
        Standing::Joining { replaces } => (2, replaces),
        Standing::Voting => (3, None),
        Standing::Leaving => (4, None),
    };
    pb::CheckpointMaster {
        replica: id.0,
        address: record.address.clone(),
        standing,
        replaces: replaces.map_or(0, |id| id.0),
        token: record.token,
    }
}

pub(super) fn read_master(
    from: pb::CheckpointMaster,
) -> Result<(ReplicaId, MasterRecord), WireError> {
    if from.replica == 0 {
        return Err(WireError::new("replica", 0, "is no master"));
    }
    let replaces = Some(from.replaces).filter(|id| *id != 0).map(ReplicaId);
    let standing = match from.standing {
        1 => Standing::Invited { replaces },
        2 => Standing::Joining { replaces },
        3 => Standing::Voting,
        4 => Standing::Leaving,
        other => return Err(WireError::new("standing", other, "is nowhere a master stands")),
    };
    let record = MasterRecord { address: from.address, standing, token: from.token };
    Ok((ReplicaId(from.replica), record))
}

pub(super) fn restored(of: &Restored) -> pb::CheckpointRestored {
    pb::CheckpointRestored {
        spare_ms: of.spare.0,
        window: of.window.map(|window| pb::checkpoint_restored::Window {
            spare_until_ms: window.spare_until.0,
            place_after_ms: window.place_after.0,
        }),
        incarnations: of.incarnations,
    }
}

pub(super) fn read_restored(of: &pb::CheckpointRestored) -> Restored {
    Restored {
        spare: Millis(of.spare_ms),
        window: of.window.as_ref().map(|window| Window {
            spare_until: Millis(window.spare_until_ms),
            place_after: Millis(window.place_after_ms),
        }),
        incarnations: of.incarnations,
    }
}
