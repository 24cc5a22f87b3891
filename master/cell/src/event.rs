//! What changed: the one stream that everything which follows a cell folds.
//!
//! `apply` gives the events of each entry in order. Events name things by number; whoever shows
//! them to people asks [`describe`], with the state right after the last of them.

use crate::rejection::amounts;
use crate::state::{
    CellState, Drain, Job, JobState, Machine, MachineState, PackageRecord, Standing,
};
use borg_proto::package::{Package, PackageKey};
use borg_proto::task::{EvictCause, FailureCause};
use borg_proto::time::Date;
use borg_proto::{
    Band, Health, JobId, JobKey, MachineId, MachineName, Millis, Privilege, ReplicaId, TaskId,
    TaskName, UserName,
};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Log index of the entry that caused it. Entries may cause any number of events.
    pub index: u64,
    /// Cell time of the entry; never goes back.
    pub at: Millis,
    /// What changed.
    pub kind: EventKind,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// A machine was added.
    MachineAdded(MachineId),
    /// A machine's address, state or facts changed.
    MachineChanged(MachineId),
    /// A machine was removed; its tasks were evicted by events before this one.
    MachineRemoved(MachineId, MachineName),
    /// A job was accepted.
    JobSubmitted(JobId),
    /// The allocs of an alloc set have another size, or there are more of them.
    AllocsResized(JobId),
    /// A job is in another state.
    JobChanged {
        /// Which.
        job: JobId,
        /// It was.
        from: JobState,
        /// It is.
        to: JobState,
    },
    /// A cron job was paused or resumed, or something became of a tick of it.
    CronChanged(JobId),
    /// Something happened to what an alloc left behind.
    DataChanged {
        /// The alloc.
        alloc: TaskName,
        /// Where the data is.
        machine: MachineId,
        /// What.
        change: DataChange,
    },
    /// A dead job left the state: replaced under its name, or old.
    JobForgotten(JobId, JobKey),
    /// Something happened to a task.
    TaskChanged {
        /// Which.
        task: TaskId,
        /// What.
        change: TaskChange,
        /// The machine whose room or tasks this changed, or on which it happened.
        machine: Option<MachineId>,
    },
    /// So much of the cell is silent that nothing moves, or no longer.
    SafeMode {
        /// Whether nothing moves.
        on: bool,
        /// How many machines were silent.
        silent: u32,
        /// Of how many that should answer.
        machines: u32,
    },
    /// A replica leads from here on.
    Led {
        /// Who.
        leader: ReplicaId,
        /// Its Raft term.
        term: u64,
    },
    /// Somebody's quota changed, or where it is enforced.
    QuotaChanged(QuotaChange),
    /// An update of a job began, or is further. What its tasks are told and ask for may be otherwise from
    /// here on.
    JobUpdated {
        /// Which job.
        job: JobId,
        /// What happened.
        change: UpdateChange,
    },
    /// Whose tasks may be placed on a machine changed.
    MachineAccess(MachineId, AccessChange),
    /// Machines are drained one after the other from here on, or no longer.
    Maintenance {
        /// Its number.
        number: u64,
        /// Whether it is over.
        over: bool,
    },
    /// How the scheduler chooses changed.
    PolicyChanged,
    /// How much is lent of what tasks hold changed.
    ReclamationChanged,
    /// A package was put.
    PackagePut(PackageKey),
    /// A package was removed.
    PackageRemoved(PackageKey),
    /// A user may do something from here on, or no longer.
    PrivilegeChanged {
        /// Who.
        user: UserName,
        /// What.
        privilege: Privilege,
        /// Which of the two.
        change: PrivilegeChange,
    },
    /// A master was invited, joined, was taken out, or is on its way.
    MastersChanged,
}

/// What happened to what an alloc left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataChange {
    /// It is kept from here on.
    Kept {
        /// Until when.
        until: Millis,
    },
    /// No task uses it any more.
    AtRest {
        /// What it takes on the disk.
        bytes: u64,
    },
    /// A run that saves it was made.
    Rescuing {
        /// That job.
        run: JobKey,
    },
    /// No run saves it now.
    NotRescued {
        /// Why.
        why: String,
    },
    /// It was saved, and is kept no longer.
    Rescued,
    /// It was not saved, and is kept no longer.
    Gone {
        /// Why.
        why: String,
    },
}

/// What became of a privilege.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrivilegeChange {
    /// It was granted.
    Granted,
    /// It was taken back.
    Revoked,
}

/// What happened to an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateChange {
    /// It began: another version is in force.
    Begun,
    /// It takes its tasks back: another version is in force that says what the one before said.
    RollsBack,
    /// No more tasks go for now.
    Paused,
    /// They go again.
    Resumed,
    /// The canary is good, and somebody has to say whether the others may follow.
    CanaryGood,
    /// Every task is as it should be.
    Done,
    /// Every task is again as it was.
    RolledBack,
    /// It cannot be undone any more.
    Closed,
}

impl UpdateChange {
    /// Whether what tasks are told and ask for may be otherwise than before, and how many there are.
    #[must_use]
    pub const fn is_of_specification(self) -> bool {
        match self {
            Self::Begun | Self::RollsBack | Self::Resumed => true,
            Self::Paused | Self::CanaryGood | Self::Done | Self::RolledBack | Self::Closed => false,
        }
    }
}

/// What changed of whose tasks may be placed on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessChange {
    /// It is kept for others than before, or for everybody.
    Kept,
    /// It takes no tasks, or does so for another reason.
    Closed,
    /// It takes tasks again.
    Opened,
    /// It takes no tasks, and those on it leave; or does so for another reason or until another time.
    Draining,
    /// Nothing is left on it.
    Drained,
    /// It is drained no more.
    Undrained,
}

/// What changed of quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuotaChange {
    /// A user was given quota.
    Set {
        /// Who.
        user: UserName,
        /// In which band.
        band: Band,
    },
    /// A user's quota was taken back.
    Removed {
        /// Whose.
        user: UserName,
        /// In which band.
        band: Band,
    },
    /// Jobs in a band need quota from here on, or no longer.
    Enforced {
        /// Which band.
        band: Band,
        /// Whether they need it.
        on: bool,
    },
}

/// What happened to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskChange {
    /// All jobs that it had to wait for have finished: it may be placed.
    Released,
    /// It was placed.
    Placed {
        /// Where.
        machine: MachineId,
        /// As what.
        incarnation: u32,
    },
    /// It is to be replaced: a place for its successor is looked for.
    Awaits,
    /// A successor of it was placed, to take its place.
    Prepared {
        /// Where.
        machine: MachineId,
        /// As what.
        incarnation: u32,
    },
    /// Its successor is further: up, healthy, reachable, or no longer so.
    Preparing {
        /// Whether it serves by now.
        serves: bool,
    },
    /// Its successor is gone; it goes on where it is.
    Unprepared {
        /// Why.
        why: String,
    },
    /// Its successor took its place, and what was ends.
    Replaced {
        /// Where it was.
        from: MachineId,
        /// Where it is.
        machine: MachineId,
        /// As what.
        incarnation: u32,
    },
    /// Its process runs.
    Up {
        /// Process id on the machine.
        pid: u32,
    },
    /// It failed, and its machine starts it again.
    BackOff {
        /// When.
        until: Millis,
        /// What happened.
        cause: FailureCause,
    },
    /// By its health check it is otherwise than before.
    Health(Health),
    /// Its process has this address of its own.
    Address(Ipv4Addr),
    /// It went back to pending by no fault of its own.
    Evicted(EvictCause),
    /// Exclusive: what it was evicted as surely runs no more, so it may be placed again.
    Gone {
        /// The incarnation.
        incarnation: u32,
    },
    /// Its incarnation failed.
    Failed {
        /// What happened.
        cause: FailureCause,
        /// When it may be placed again; `None` when it is dead.
        again: Option<Millis>,
    },
    /// It exited with 0 and is done.
    Finished,
    /// It is held back until somebody starts it.
    Stopped {
        /// Who said so.
        by: String,
    },
    /// It has another version of its job: in place, or for when it is placed next.
    Updated {
        /// Which.
        version: u32,
    },
    /// It is dead because somebody asked for it.
    Killed {
        /// Who.
        by: String,
    },
    /// It is dead because a job that it had to wait for did not finish.
    DependencyFailed {
        /// That job.
        job: String,
    },
    /// It ended because the job that its job is a child of did.
    ParentEnded {
        /// That job.
        job: String,
    },
    /// Of a daemon: its machine is none any more on which it runs.
    Withdrawn,
    /// It waits to be placed anew: it is run again, or is a daemon's on a machine that has come.
    Renewed,
}

/// Kind, subject and detail of events that followed each other, for people and for Watch: as in
/// `task.up`, `ann/web/0`, `on m-1`. `state` is that right after the last.
///
/// What the last events took out of the state has its name from those events: however many entries
/// a master applies at once, a job's events are told under its name.
#[must_use]
pub fn describe(events: &[Event], state: &CellState) -> Vec<(String, String, String)> {
    let mut gone = Gone::default();
    for event in events {
        match &event.kind {
            EventKind::JobForgotten(id, key) => drop(gone.jobs.insert(*id, key.clone())),
            EventKind::MachineRemoved(id, name) => drop(gone.machines.insert(*id, name.clone())),
            EventKind::MachineAdded(_)
            | EventKind::MachineChanged(_)
            | EventKind::JobSubmitted(_)
            | EventKind::CronChanged(_)
            | EventKind::AllocsResized(_)
            | EventKind::JobChanged { .. }
            | EventKind::TaskChanged { .. }
            | EventKind::DataChanged { .. }
            | EventKind::MastersChanged
            | EventKind::SafeMode { .. }
            | EventKind::QuotaChanged(_)
            | EventKind::JobUpdated { .. }
            | EventKind::MachineAccess(..)
            | EventKind::PolicyChanged
            | EventKind::ReclamationChanged
            | EventKind::Maintenance { .. }
            | EventKind::PackagePut(_)
            | EventKind::PackageRemoved(_)
            | EventKind::PrivilegeChanged { .. }
            | EventKind::Led { .. } => {}
        }
    }
    let names = Names { state, gone: &gone };
    events.iter().map(|event| event.tell(&names)).collect()
}

/// Names of what left the state.
#[derive(Debug, Default)]
struct Gone {
    jobs: BTreeMap<JobId, JobKey>,
    machines: BTreeMap<MachineId, MachineName>,
}

struct Names<'a> {
    state: &'a CellState,
    gone: &'a Gone,
}

impl Event {
    /// The same of one event.
    #[must_use]
    pub fn describe(&self, state: &CellState) -> (String, String, String) {
        self.tell(&Names { state, gone: &Gone::default() })
    }

    fn tell(&self, names: &Names<'_>) -> (String, String, String) {
        let state = names.state;
        let (kind, subject, detail) = match &self.kind {
            EventKind::MachineAdded(id) => {
                ("machine.added", machine_name(names, *id), machine_address(state, *id))
            }
            EventKind::MachineChanged(id) => {
                let kind = match state.machine(*id).map(|machine| machine.state) {
                    Some(MachineState::Up) => "machine.up",
                    Some(MachineState::Down) => "machine.down",
                    Some(MachineState::New) | None => "machine.changed",
                };
                (kind, machine_name(names, *id), machine_address(state, *id))
            }
            EventKind::MachineRemoved(_, name) => {
                ("machine.removed", name.to_string(), String::new())
            }
            EventKind::JobSubmitted(id) => {
                let tasks = state.job(*id).map_or(0, Job::size);
                ("job.submitted", job_name(names, *id), format!("{tasks} tasks"))
            }
            EventKind::AllocsResized(id) => {
                let size = |job: &Job| {
                    format!("{} allocs of {}", job.spec.tasks, amounts(&job.spec.task.limit))
                };
                let size = state.job(*id).map(size).unwrap_or_default();
                ("allocs.resized", job_name(names, *id), size)
            }
            EventKind::JobChanged { job, to, .. } => {
                // Later events of the same entry may have brought it further.
                let now = state.job(*job).filter(|job| job.state() == *to);
                (
                    job_kind(*to),
                    job_name(names, *job),
                    now.map_or_else(String::new, |job| job.note(state)),
                )
            }
            EventKind::CronChanged(id) => {
                let detail = state.job(*id).map(Job::told_of_ticks).unwrap_or_default();
                ("cron.changed", job_name(names, *id), detail)
            }
            EventKind::DataChanged { alloc, machine, change } => {
                let (kind, detail) = describe_data(change);
                let place = machine_name(names, *machine);
                let detail = if detail.is_empty() { detail } else { format!("; {detail}") };
                (kind, alloc.to_string(), format!("on {place}{detail}"))
            }
            EventKind::JobForgotten(_, key) => ("job.forgotten", key.to_string(), String::new()),
            EventKind::TaskChanged { task, change, machine } => {
                let place = machine.map(|id| machine_name(names, id)).unwrap_or_default();
                let (kind, detail) = describe_task(change, &place);
                (kind, task_name(names, *task), detail)
            }
            EventKind::MastersChanged => {
                let all = state.masters().map(|(id, record)| match record.standing {
                    Standing::Voting => id.to_string(),
                    Standing::Invited { .. } => format!("{id} (invited)"),
                    Standing::Joining { .. } => format!("{id} (joining)"),
                    Standing::Leaving => format!("{id} (leaving)"),
                });
                ("masters.changed", "masters".to_owned(), all.collect::<Vec<_>>().join(", "))
            }
            EventKind::SafeMode { on, silent, machines } => {
                let (kind, what) = if *on {
                    ("cell.safe-mode", "nothing moves until an operator says so")
                } else {
                    (
                        "cell.safe-mode-over",
                        "machines that stay silent are given up again in a while",
                    )
                };
                let detail = format!("{silent} of {machines} machines are silent: {what}");
                (kind, state.cell().to_string(), detail)
            }
            EventKind::MachineAccess(id, change) => {
                let (kind, detail) = describe_access(*change, state.machine(*id));
                (kind, machine_name(names, *id), detail)
            }
            EventKind::PolicyChanged => {
                let policy = state.policy().unwrap_or_default();
                ("policy.set", state.cell().to_string(), policy.to_string())
            }
            EventKind::ReclamationChanged => {
                ("reclamation.set", state.cell().to_string(), state.reclaims().to_string())
            }
            EventKind::PackagePut(key) => {
                let told = |record: &PackageRecord| {
                    let Package { kind, layers, .. } = record.package.as_ref();
                    let (layers, bytes) = (layers.len(), record.package.bytes());
                    format!("{kind} of {layers} layers, {bytes} bytes, {}", record.package.digest())
                };
                ("package.put", key.to_string(), state.package(key).map(told).unwrap_or_default())
            }
            EventKind::Maintenance { number, over } => {
                let kind = if *over { "maintenance.over" } else { "maintenance.begun" };
                let found = state.maintenances().find(|found| found.number == *number);
                let told = found.map(|found| {
                    format!(
                        "by {}, {} machines at a time: {}",
                        found.by, found.at_once, found.reason
                    )
                });
                (kind, format!("maintenance {number}"), told.unwrap_or_default())
            }
            EventKind::PackageRemoved(key) => ("package.removed", key.to_string(), String::new()),
            EventKind::QuotaChanged(change) => describe_quota(change, state),
            EventKind::JobUpdated { job, change } => {
                let (kind, detail) = describe_update(*change, state.job(*job));
                (kind, job_name(names, *job), detail)
            }
            EventKind::PrivilegeChanged { user, privilege, change } => {
                let kind = match change {
                    PrivilegeChange::Granted => "privilege.granted",
                    PrivilegeChange::Revoked => "privilege.revoked",
                };
                (kind, user.to_string(), privilege.to_string())
            }
            EventKind::Led { leader, term } => {
                ("master.leads", format!("master {leader}"), format!("term {term}"))
            }
        };
        (kind.to_owned(), subject, detail)
    }
}

fn describe_update(change: UpdateChange, job: Option<&Job>) -> (&'static str, String) {
    let kind = match change {
        UpdateChange::Begun => "job.update",
        UpdateChange::RollsBack => "job.update-rolls-back",
        UpdateChange::Paused => "job.update-paused",
        UpdateChange::Resumed => "job.update-resumed",
        UpdateChange::CanaryGood => "job.update-canary-good",
        UpdateChange::Done => "job.update-done",
        UpdateChange::RolledBack => "job.update-rolled-back",
        UpdateChange::Closed => "job.update-closed",
    };
    let Some(job) = job else { return (kind, String::new()) };
    let detail = match job.update() {
        Some(update) if update.goes_back() => {
            format!("from version {} to {}: {}", update.from, update.to, update.why)
        }
        Some(update) => {
            format!("from version {} to {}{}", update.from, update.to, what_changed(job))
        }
        // It was closed in the entry in which it was done.
        None => format!("version {}{}", job.head().number, what_changed(job)),
    };
    (kind, detail)
}

/// What the newest version of a job changed, as far as that fits a line.
fn what_changed(job: &Job) -> String {
    const TOLD: usize = 3;
    let head = job.head();
    if !head.note.is_empty() {
        return format!(": {}", head.note);
    }
    let before = job.versions().rfind(|version| version.number < head.number);
    let fields = before.map(|before| before.spec.differences(&head.spec)).unwrap_or_default();
    let more = fields.len().saturating_sub(TOLD);
    let told: Vec<String> = fields.into_iter().take(TOLD).map(|found| found.field).collect();
    match (told.is_empty(), more) {
        (true, _) => String::new(),
        (false, 0) => format!(": {}", told.join(", ")),
        (false, more) => format!(": {} and {more} more", told.join(", ")),
    }
}

fn describe_data(change: &DataChange) -> (&'static str, String) {
    match change {
        DataChange::Kept { until } => ("data.kept", format!("until {}", Date(*until))),
        DataChange::AtRest { bytes } => ("data.at-rest", format!("{bytes} bytes")),
        DataChange::Rescuing { run } => ("data.rescuing", format!("by {run}")),
        DataChange::NotRescued { why } => ("data.not-rescued", why.clone()),
        DataChange::Rescued => ("data.rescued", String::new()),
        DataChange::Gone { why } => ("data.gone", why.clone()),
    }
}

fn describe_access(change: AccessChange, machine: Option<&Machine>) -> (&'static str, String) {
    match change {
        AccessChange::Kept => {
            let users = machine.and_then(|machine| machine.kept_for.as_ref());
            let users =
                users.map(|users| users.iter().map(ToString::to_string).collect::<Vec<_>>());
            let users = users.map_or_else(|| "everybody".to_owned(), |users| users.join(", "));
            ("machine.kept", format!("for {users}"))
        }
        AccessChange::Closed => {
            let closed = machine.and_then(|machine| machine.closed.as_ref());
            let reason = closed.map(|closed| format!("by {}: {}", closed.by, closed.reason));
            ("machine.closed", reason.unwrap_or_default())
        }
        AccessChange::Opened => ("machine.opened", String::new()),
        AccessChange::Draining => {
            let drain = machine.and_then(|machine| machine.drain.as_ref());
            let told = |drain: &Arc<Drain>| {
                format!("by {}, until {}: {}", drain.by, Date(drain.deadline), drain.reason)
            };
            ("machine.draining", drain.map(told).unwrap_or_default())
        }
        AccessChange::Drained => {
            let drain = machine.and_then(|machine| machine.drain.as_ref());
            let told = |drain: &Arc<Drain>| match drain.forced {
                0 => format!("{} tasks moved", drain.moved),
                forced => {
                    format!("{} tasks moved, {forced} pushed out at the deadline", drain.moved)
                }
            };
            ("machine.drained", drain.map(told).unwrap_or_default())
        }
        AccessChange::Undrained => ("machine.undrained", String::new()),
    }
}

fn describe_quota(change: &QuotaChange, state: &CellState) -> (&'static str, String, String) {
    match change {
        QuotaChange::Set { user, band } => {
            let grants = state.quota_of(user, *band).iter().map(ToString::to_string);
            let detail = grants.collect::<Vec<_>>().join("; ");
            ("quota.set", format!("{user} {band}"), detail)
        }
        QuotaChange::Removed { user, band } => {
            ("quota.removed", format!("{user} {band}"), String::new())
        }
        QuotaChange::Enforced { band, on: true } => {
            ("quota.enforced", band.to_string(), "jobs in this band need quota".to_owned())
        }
        QuotaChange::Enforced { band, on: false } => {
            ("quota.opened", band.to_string(), "jobs in this band need no quota".to_owned())
        }
    }
}

fn job_kind(to: JobState) -> &'static str {
    match to {
        JobState::Waiting => "job.waiting",
        JobState::Pending => "job.pending",
        JobState::Running => "job.running",
        JobState::Finished => "job.finished",
        JobState::Failed => "job.failed",
        JobState::Killed => "job.killed",
    }
}

fn describe_task(change: &TaskChange, place: &str) -> (&'static str, String) {
    match change {
        TaskChange::Released => ("task.released", String::new()),
        TaskChange::Stopped { by } => ("task.stopped", format!("by {by}")),
        TaskChange::Updated { version } => ("task.updated", format!("to version {version}")),
        TaskChange::Placed { incarnation, .. } => {
            ("task.placed", format!("on {place} as incarnation {incarnation}"))
        }
        TaskChange::Awaits => ("task.awaits", "room for its replacement".to_owned()),
        TaskChange::Prepared { incarnation, .. } => (
            "task.prepared",
            format!("its replacement starts on {place} as incarnation {incarnation}"),
        ),
        TaskChange::Preparing { serves } => {
            let does = if *serves { "serves" } else { "does not serve yet" };
            ("task.preparing", format!("its replacement on {place} {does}"))
        }
        TaskChange::Unprepared { why } => {
            ("task.unprepared", format!("its replacement on {place} is gone: {why}"))
        }
        TaskChange::Replaced { incarnation, .. } => {
            ("task.replaced", format!("by incarnation {incarnation} on {place}"))
        }
        TaskChange::Up { pid } => ("task.up", format!("on {place} with pid {pid}")),
        TaskChange::BackOff { cause, .. } => ("task.backoff", format!("on {place}: {cause}")),
        TaskChange::Health(health) => ("task.health", format!("{health} on {place}")),
        TaskChange::Address(address) => ("task.address", format!("{address} on {place}")),
        TaskChange::Evicted(cause) => ("task.evicted", format!("from {place}: {cause}")),
        TaskChange::Gone { incarnation } => {
            ("task.gone", format!("incarnation {incarnation} no longer runs on {place}"))
        }
        TaskChange::Failed { cause, again: Some(_) } => {
            ("task.failed", format!("on {place}: {cause}; will be placed again"))
        }
        TaskChange::Failed { cause, again: None } => {
            ("task.failed", format!("on {place}: {cause}; given up"))
        }
        TaskChange::Finished => ("task.finished", format!("on {place}")),
        TaskChange::Killed { by } => ("task.killed", format!("by {by}")),
        TaskChange::DependencyFailed { job } => {
            ("task.failed", format!("job {job} did not finish"))
        }
        TaskChange::ParentEnded { job } => ("task.killed", format!("parent {job} ended")),
        TaskChange::Withdrawn if place.is_empty() => ("task.withdrawn", String::new()),
        TaskChange::Withdrawn => ("task.withdrawn", format!("from {place}")),
        TaskChange::Renewed => ("task.renewed", String::new()),
    }
}

fn machine_name(names: &Names<'_>, id: MachineId) -> String {
    let known = names.state.machine(id).map(|machine| &machine.name);
    let known = known.or_else(|| names.gone.machines.get(&id));
    known.map_or_else(|| format!("machine {}", id.0), ToString::to_string)
}

fn machine_address(state: &CellState, id: MachineId) -> String {
    state
        .machine(id)
        .map_or_else(String::new, |machine: &Machine| format!("at {}", machine.address))
}

fn job_name(names: &Names<'_>, id: JobId) -> String {
    let known = names.state.job(id).map(|job| &job.key).or_else(|| names.gone.jobs.get(&id));
    known.map_or_else(|| format!("job {}", id.0), ToString::to_string)
}

fn task_name(names: &Names<'_>, id: TaskId) -> String {
    format!("{}/{}", job_name(names, id.job), id.index)
}
