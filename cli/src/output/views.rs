//! The JSON form of answers. Field names are a promise to scripts: they are added to, never
//! changed. Times are milliseconds since the Unix epoch, sizes bytes, processors thousandths.

use super::cron::Cron;
use super::drains::MachineDrain;
use super::usage::{Usage, health};
use borg_proto::ReplicaId;
use borg_proto::wire::pb;
use serde::Serialize;
use std::collections::BTreeMap;

/// What was read, with how new it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Read<T> {
    /// What was read.
    #[serde(flatten)]
    pub value: T,
    /// How new it was.
    pub read: Freshness,
}

/// How new an answer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.ReadInfo, documented there")]
pub struct Freshness {
    pub index: u64,
    pub age_ms: u64,
    pub master: u64,
    pub leader: bool,
}

impl<T> Read<T> {
    /// One answer.
    #[must_use]
    pub fn of(read: Option<pb::ReadInfo>, value: T) -> Self {
        let read = read.unwrap_or_default();
        let (index, age_ms) = (read.index, read.age_ms);
        let read = Freshness { index, age_ms, master: read.replica, leader: read.leader };
        Self { value, read }
    }

    /// The items of a list, which has no other place for it.
    #[must_use]
    pub fn each(read: Option<pb::ReadInfo>, items: Vec<T>) -> Vec<Self> {
        items.into_iter().map(|item| Self::of(read, item)).collect()
    }
}

/// A job in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.JobSummary, documented there")]
pub struct Job {
    pub job: String,
    pub job_id: u64,
    pub kind: &'static str,
    pub state: &'static str,
    pub priority: u32,
    pub tasks: u32,
    pub pending: u32,
    pub running: u32,
    pub up: u32,
    pub finished: u32,
    pub failed: u32,
    pub killed: u32,
    pub submitted_at_ms: u64,
    pub ended_at_ms: Option<u64>,
    pub note: String,
    pub version: u32,
    pub stopped: u32,
    pub labels: BTreeMap<String, String>,
    pub parent: Option<String>,
    pub cron: Option<Cron>,
    pub rescues: Option<String>,
}

impl From<pb::JobSummary> for Job {
    fn from(job: pb::JobSummary) -> Self {
        Self {
            kind: match job.kind() {
                pb::JobKind::Service => "service",
                pb::JobKind::Batch => "batch",
                pb::JobKind::AllocSet => "alloc_set",
                pb::JobKind::Daemon => "daemon",
                pb::JobKind::Cron => "cron",
                pb::JobKind::Unspecified => "unknown",
            },
            state: job_state(job.state()),
            job: job.job,
            job_id: job.job_id,
            priority: job.priority,
            tasks: job.tasks,
            pending: job.pending,
            running: job.running,
            up: job.up,
            finished: job.finished,
            failed: job.failed,
            killed: job.killed,
            submitted_at_ms: job.submitted_at_ms,
            ended_at_ms: Some(job.ended_at_ms).filter(|&at| at > 0),
            note: job.note,
            version: job.version,
            stopped: job.stopped,
            labels: job.labels,
            parent: Some(job.parent).filter(|parent| !parent.is_empty()),
            cron: job.cron.map(Cron::from),
            rescues: Some(job.rescues).filter(|alloc| !alloc.is_empty()),
        }
    }
}

/// How far a job is, in a word.
pub(super) fn job_state(state: pb::JobState) -> &'static str {
    match state {
        pb::JobState::Waiting => "waiting",
        pb::JobState::Pending => "pending",
        pb::JobState::Running => "running",
        pb::JobState::Finished => "finished",
        pb::JobState::Failed => "failed",
        pb::JobState::Killed => "killed",
        pb::JobState::Unspecified => "unknown",
    }
}

impl Job {
    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, "finished" | "failed" | "killed")
    }
}

/// A task of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.TaskInfo, documented there")]
pub struct Task {
    pub index: u32,
    pub phase: &'static str,
    pub since_ms: u64,
    pub machine: Option<String>,
    pub incarnation: u32,
    pub pid: Option<u32>,
    pub ports: BTreeMap<String, u32>,
    pub failures: u32,
    pub restarts: u32,
    pub note: String,
    pub cpu_milli: u64,
    pub ram_bytes: u64,
    pub health: Option<&'static str>,
    pub usage: Option<Usage>,
    pub status_line: String,
    pub address: Option<String>,
    pub reserved: Option<Amounts>,
    pub version: u32,
    pub stopped: bool,
    pub labels: BTreeMap<String, String>,
}

/// A run of a task that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of borg.v1.TaskRun and RunEnd, documented there"
)]
pub struct TaskRun {
    pub incarnation: u32,
    pub machine: String,
    pub placed_ms: u64,
    pub at_ms: u64,
    pub end: String,
    pub cause: String,
    pub told: Option<RunEnd>,
}

impl TaskRun {
    /// When it ended: as its machine said it, or when the cell heard of it. Nothing ended later than that.
    #[must_use]
    pub fn over_ms(&self) -> u64 {
        self.told.as_ref().map_or(self.at_ms, |told| told.ended_ms.min(self.at_ms))
    }
}

/// What the machine told of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.RunEnd, documented there")]
pub struct RunEnd {
    pub run: u32,
    pub started_ms: Option<u64>,
    pub ended_ms: u64,
    pub cpu_ms: u64,
    pub ram_peak_bytes: u64,
    pub last_lines: String,
}

impl From<pb::TaskRun> for TaskRun {
    fn from(run: pb::TaskRun) -> Self {
        let told = run.told.map(|told| RunEnd {
            run: told.run,
            started_ms: told.started_ms,
            ended_ms: told.ended_ms,
            cpu_ms: told.cpu_ms,
            ram_peak_bytes: told.ram_peak_bytes,
            last_lines: told.last_lines,
        });
        Self {
            incarnation: run.incarnation,
            machine: run.machine,
            placed_ms: run.placed_ms,
            at_ms: run.at_ms,
            end: run.end,
            cause: run.cause,
            told,
        }
    }
}

/// A task with how its last runs ended, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskDetail {
    /// The job.
    pub job: String,
    /// The task.
    #[serde(flatten)]
    pub task: Task,
    /// Its runs.
    pub runs: Vec<TaskRun>,
}

/// Why a task is where it is, with how its last runs ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WhyWithRuns {
    /// The answer to why.
    #[serde(flatten)]
    pub why: Why,
    /// Its runs, the newest first.
    pub runs: Vec<TaskRun>,
}

/// A phase as a word.
#[must_use]
pub fn phase(phase: pb::TaskPhase) -> &'static str {
    match phase {
        pb::TaskPhase::Pending => "pending",
        pb::TaskPhase::Starting => "starting",
        pb::TaskPhase::Running => "running",
        pb::TaskPhase::BackOff => "back-off",
        pb::TaskPhase::Finished => "finished",
        pb::TaskPhase::Failed => "failed",
        pb::TaskPhase::Killed => "killed",
        pb::TaskPhase::Held => "held",
        pb::TaskPhase::Unspecified => "unknown",
    }
}

impl From<pb::TaskInfo> for Task {
    fn from(task: pb::TaskInfo) -> Self {
        Self {
            index: task.index,
            phase: phase(task.phase()),
            health: health(task.health()),
            usage: task.usage.map(Into::into),
            reserved: task.reserved.map(Into::into),
            since_ms: task.since_ms,
            machine: Some(task.machine).filter(|name| !name.is_empty()),
            incarnation: task.incarnation,
            pid: Some(task.pid).filter(|&pid| pid > 0),
            ports: task.ports.into_iter().map(|port| (port.name, port.port)).collect(),
            failures: task.failures,
            restarts: task.restarts,
            note: task.note,
            cpu_milli: task.cpu_milli,
            ram_bytes: task.ram_bytes,
            status_line: task.status_line,
            address: Some(task.address).filter(|address| !address.is_empty()),
            version: task.version,
            stopped: task.stopped,
            labels: task.labels,
        }
    }
}

/// A job with its tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobDetail {
    /// The job.
    #[serde(flatten)]
    pub job: Job,
    /// The privileges by which its tasks do without some isolation.
    pub loosened: Vec<String>,
    /// Its tasks, by index.
    pub task_list: Vec<Task>,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.Machine, documented there")]
pub struct Machine {
    pub name: String,
    pub address: String,
    pub state: &'static str,
    pub since_ms: u64,
    pub tasks: u32,
    pub used: Amount,
    pub capacity: Amount,
    pub attributes: BTreeMap<String, String>,
    pub missing_isolation: Vec<String>,
    pub shard: Option<u64>,
    pub silent_ms: u64,
    pub kept_for: Vec<String>,
    pub closed: Option<Closed>,
    pub drain: Option<MachineDrain>,
}

/// Why a machine takes no tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.ClosedMachine, documented there")]
pub struct Closed {
    pub since_ms: u64,
    pub by: String,
    pub reason: String,
}

/// An amount of resources.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.Resources, documented there")]
pub struct Amount {
    pub cpu_milli: u64,
    pub ram_bytes: u64,
    pub disk_bytes: u64,
    pub ports: u32,
    pub devices: BTreeMap<String, u64>,
}

impl From<pb::Resources> for Amount {
    fn from(from: pb::Resources) -> Self {
        Self {
            cpu_milli: from.cpu_milli,
            ram_bytes: from.ram_bytes,
            disk_bytes: from.disk_bytes,
            ports: from.ports,
            devices: from.devices,
        }
    }
}

impl From<pb::Machine> for Machine {
    fn from(machine: pb::Machine) -> Self {
        let state = match machine.state() {
            pb::MachineState::New => "new",
            pb::MachineState::Up => "up",
            pb::MachineState::Down => "down",
            pb::MachineState::Unspecified => "unknown",
        };
        let info = machine.info.unwrap_or_default();
        Self {
            name: machine.name,
            address: machine.address,
            state,
            since_ms: machine.since_ms,
            tasks: machine.tasks,
            used: machine.used.unwrap_or_default().into(),
            capacity: info.capacity.unwrap_or_default().into(),
            attributes: info.attributes,
            missing_isolation: info.missing_isolation,
            shard: Some(machine.shard).filter(|&shard| shard > 0),
            silent_ms: machine.silent_ms,
            kept_for: machine.kept_for,
            closed: machine.closed.map(|closed| Closed {
                since_ms: closed.since_ms,
                by: closed.by,
                reason: closed.reason,
            }),
            drain: machine.drain.map(Into::into),
        }
    }
}

/// A master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.Master, documented there")]
pub struct Master {
    pub replica: u64,
    pub address: String,
    pub leader: bool,
    pub reachable: bool,
    pub term: u64,
    pub applied_index: u64,
    pub digest: String,
    pub digest_index: u64,
    pub machines_polled: u64,
    pub pid: u32,
    pub note: String,
    pub life: u64,
    pub standing: String,
    pub epoch: u64,
}

impl Master {
    /// What people call it: its number, and its life unless it is the first.
    #[must_use]
    pub fn name(&self) -> String {
        ReplicaId::of_life(self.replica, self.life).to_string()
    }
}

impl From<pb::Master> for Master {
    fn from(from: pb::Master) -> Self {
        Self {
            replica: from.replica,
            address: from.address,
            leader: from.leader,
            reachable: from.reachable,
            term: from.term,
            applied_index: from.applied_index,
            digest: from.digest,
            digest_index: from.digest_index,
            machines_polled: from.machines_polled,
            pid: from.pid,
            note: from.note,
            life: from.life,
            standing: from.standing,
            epoch: from.epoch,
        }
    }
}

/// Where a task listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.Endpoint, documented there")]
pub struct Endpoint {
    pub task: String,
    pub port_name: String,
    pub host: String,
    pub port: u32,
    pub up: bool,
    pub health: Option<&'static str>,
}

impl From<pb::Endpoint> for Endpoint {
    fn from(from: pb::Endpoint) -> Self {
        Self {
            health: health(from.health()),
            task: from.task,
            port_name: from.port_name,
            host: from.host,
            port: from.port,
            up: from.up,
        }
    }
}

/// Why a task is where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.WhyResponse, documented there")]
pub struct Why {
    pub task: String,
    pub phase: &'static str,
    pub summary: String,
    pub machines: u32,
    pub feasible: u32,
    pub rejections: Vec<Rejection>,
    pub advice: Vec<Advice>,
    pub higher: u64,
    pub equal: u64,
    pub next: String,
    pub victims: Vec<String>,
    pub standings: Vec<Standing>,
    pub pushed_out: Vec<String>,
    pub quota: String,
}

/// Changes that together let a task be placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.Advice, documented there")]
pub struct Advice {
    pub changes: Vec<String>,
    pub machine: String,
}

/// What a machine would cost a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.Standing, documented there")]
pub struct Standing {
    pub machine: String,
    pub cost: i64,
    pub terms: BTreeMap<String, i64>,
}

/// How many machines were rejected for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.Rejection, documented there")]
pub struct Rejection {
    pub reason: String,
    pub machines: u32,
}

impl Why {
    /// The answer about a task.
    #[must_use]
    pub fn new(task: String, from: pb::WhyResponse) -> Self {
        let rejections = from.rejections.iter();
        Self {
            task,
            phase: phase(from.phase()),
            rejections: rejections
                .map(|r| Rejection { reason: r.reason.clone(), machines: r.machines })
                .collect(),
            advice: from
                .advice
                .into_iter()
                .map(|advice| Advice { changes: advice.changes, machine: advice.machine })
                .collect(),
            standings: from.standings.into_iter().map(Standing::from).collect(),
            higher: from.higher,
            equal: from.equal,
            next: from.next,
            victims: from.victims,
            pushed_out: from.pushed_out,
            quota: from.quota,
            summary: from.summary,
            machines: from.machines,
            feasible: from.feasible,
        }
    }
}

impl From<pb::Standing> for Standing {
    fn from(from: pb::Standing) -> Self {
        let terms = from.terms.into_iter().map(|term| (term.name, term.cost)).collect();
        Self { machine: from.machine, cost: from.cost, terms }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.Event, documented there")]
pub struct Event {
    pub index: u64,
    pub at_ms: u64,
    pub kind: String,
    pub subject: String,
    pub detail: String,
}

impl From<pb::Event> for Event {
    fn from(from: pb::Event) -> Self {
        Self {
            index: from.index,
            at_ms: from.at_ms,
            kind: from.kind,
            subject: from.subject,
            detail: from.detail,
        }
    }
}

/// A job that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of borg.v1.SubmitJobResponse, documented there"
)]
pub struct Submitted {
    pub job: String,
    pub job_id: u64,
    pub index: u64,
    pub fitting_machines: u32,
}

/// Quota of one user in one band, and what is used of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.Quota, documented there")]
pub struct Quota {
    pub user: String,
    pub band: &'static str,
    /// Whether jobs in the band need quota.
    pub enforced: bool,
    pub used: Amount,
    pub grants: Vec<Grant>,
}

/// What was given for a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.QuotaPeriod, documented there")]
pub struct Grant {
    pub amount: Amount,
    pub from_ms: u64,
    pub until_ms: Option<u64>,
    pub oversold: bool,
    /// Whether it counts now.
    pub in_force: bool,
}

/// A band as a word.
#[must_use]
pub fn band(band: pb::Band) -> &'static str {
    match band {
        pb::Band::Free => "free",
        pb::Band::Batch => "batch",
        pb::Band::Mid => "mid",
        pb::Band::Production => "production",
        pb::Band::Monitoring => "monitoring",
        pb::Band::Unspecified => "unknown",
    }
}

impl Quota {
    /// One of a list that was read when the cell had the time `now`.
    #[must_use]
    pub fn new(from: pb::Quota, enforced: &[pb::Band], now: u64) -> Self {
        let grant = |period: pb::QuotaPeriod| Grant {
            amount: period.amount.unwrap_or_default().into(),
            from_ms: period.from_ms,
            until_ms: period.until_ms,
            oversold: period.oversold,
            in_force: period.from_ms <= now && period.until_ms.is_none_or(|until| now < until),
        };
        Self {
            band: band(from.band()),
            enforced: enforced.contains(&from.band()),
            user: from.user,
            used: from.used.unwrap_or_default().into(),
            grants: from.periods.into_iter().map(grant).collect(),
        }
    }
}

/// What would become of the jobs of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.PlanResponse, documented there")]
pub struct Plan {
    pub jobs: Vec<JobPlan>,
    pub token: Option<String>,
    pub looked_at: u32,
    pub most: u32,
}

/// What would become of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.JobPlan, documented there")]
pub struct JobPlan {
    pub job: String,
    /// `new`, `none` or `differs`.
    pub change: &'static str,
    pub fields: Vec<FieldChange>,
    pub more_fields: u32,
    pub refusal: Option<String>,
    pub band: &'static str,
    pub needs_quota: bool,
    pub used: Amount,
    pub after: Amount,
    pub granted: Option<Amount>,
    pub tasks: u32,
    pub placed: u32,
    pub places: Vec<Place>,
    pub more_machines: u32,
    pub pending: u32,
    pub why: String,
    pub rejections: Vec<Rejection>,
    pub not_looked_at: u32,
    pub victims: Vec<String>,
    pub more_victims: u32,
    pub victims_by_band: BTreeMap<&'static str, u32>,
    pub restarts: u32,
}

/// A field of a live job that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.FieldChange, documented there")]
pub struct FieldChange {
    pub field: String,
    pub old: Option<String>,
    pub new: Option<String>,
}

/// How many tasks of a job go to a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.PlannedPlace, documented there")]
pub struct Place {
    pub machine: String,
    pub tasks: u32,
}

impl Plan {
    /// The first job that submit would refuse. One that is live and just so needs no submit.
    #[must_use]
    pub fn refused(&self) -> Option<&JobPlan> {
        self.jobs.iter().find(|job| job.change != "none" && job.refusal.is_some())
    }

    /// Whether to submit it would change the cell.
    #[must_use]
    pub fn changes(&self) -> bool {
        self.jobs.iter().any(|job| job.change != "none")
    }
}

impl From<pb::PlanResponse> for Plan {
    fn from(from: pb::PlanResponse) -> Self {
        Self {
            jobs: from.jobs.into_iter().map(JobPlan::from).collect(),
            token: Some(from.token).filter(|token| !token.is_empty()),
            looked_at: from.looked_at,
            most: from.most,
        }
    }
}

impl From<pb::JobPlan> for JobPlan {
    fn from(from: pb::JobPlan) -> Self {
        let field = |field: pb::FieldChange| FieldChange {
            field: field.field,
            old: field.old,
            new: field.new,
        };
        let place = |place: pb::PlannedPlace| Place { machine: place.machine, tasks: place.tasks };
        let rejection = |r: pb::Rejection| Rejection { reason: r.reason, machines: r.machines };
        let victims = from.victims_by_band.iter();
        Self {
            change: match from.change() {
                pb::PlannedChange::New => "new",
                pb::PlannedChange::None => "none",
                pb::PlannedChange::Differs => "differs",
                pb::PlannedChange::Unspecified => "unknown",
            },
            band: band(from.band()),
            victims_by_band: victims.map(|some| (band(some.band()), some.tasks)).collect(),
            job: from.job,
            fields: from.fields.into_iter().map(field).collect(),
            more_fields: from.more_fields,
            refusal: from.refusal.map(|refusal| refusal.why),
            needs_quota: from.needs_quota,
            used: from.used.unwrap_or_default().into(),
            after: from.after.unwrap_or_default().into(),
            granted: from.granted.map(Amount::from),
            tasks: from.tasks,
            placed: from.placed,
            places: from.places.into_iter().map(place).collect(),
            more_machines: from.more_machines,
            pending: from.pending,
            why: from.why,
            rejections: from.rejections.into_iter().map(rejection).collect(),
            not_looked_at: from.not_looked_at,
            victims: from.victims,
            more_victims: from.more_victims,
            restarts: from.restarts,
        }
    }
}

/// How the scheduler chooses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of borg.v1.GetPolicyResponse, documented there"
)]
pub struct Policy {
    pub policy: String,
    pub weights: Vec<PolicyWeight>,
    pub is_set: bool,
}

/// What a term of a machine's cost weighs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.PolicyWeight, documented there")]
pub struct PolicyWeight {
    pub name: String,
    pub weight: i32,
    pub of_policy: i32,
    pub least: i32,
    pub most: i32,
    pub meaning: String,
}

impl From<pb::GetPolicyResponse> for Policy {
    fn from(from: pb::GetPolicyResponse) -> Self {
        let weight = |weight: pb::PolicyWeight| PolicyWeight {
            name: weight.name,
            weight: weight.weight,
            of_policy: weight.of_policy,
            least: weight.least,
            most: weight.most,
            meaning: weight.meaning,
        };
        Self {
            policy: from.policy,
            weights: from.weights.into_iter().map(weight).collect(),
            is_set: from.is_set,
        }
    }
}

/// Amounts of what can be lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.Amounts, documented there")]
pub struct Amounts {
    pub cpu_milli: u64,
    pub ram_bytes: u64,
    pub disk_bytes: u64,
}

impl From<pb::Amounts> for Amounts {
    fn from(from: pb::Amounts) -> Self {
        let pb::Amounts { cpu_milli, ram_bytes, disk_bytes } = from;
        Self { cpu_milli, ram_bytes, disk_bytes }
    }
}

/// How much is lent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of borg.v1.GetReclamationResponse, documented there"
)]
pub struct Reclamation {
    pub named: String,
    pub numbers: Vec<ReclamationNumber>,
    pub is_set: bool,
}

/// A number that decides how much is lent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of borg.v1.ReclamationNumber, documented there"
)]
pub struct ReclamationNumber {
    pub name: String,
    pub value: u32,
    pub of_set: u32,
    pub least: u32,
    pub most: u32,
    pub meaning: String,
}

impl From<pb::GetReclamationResponse> for Reclamation {
    fn from(from: pb::GetReclamationResponse) -> Self {
        let number = |number: pb::ReclamationNumber| ReclamationNumber {
            name: number.name,
            value: number.value,
            of_set: number.of_set,
            least: number.least,
            most: number.most,
            meaning: number.meaning,
        };
        Self {
            named: from.named,
            numbers: from.numbers.into_iter().map(number).collect(),
            is_set: from.is_set,
        }
    }
}

/// What the tasks of machines may use, need and use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of borg.v1.ListReservationsResponse, documented there"
)]
pub struct Reservations {
    pub cell: MachineReservations,
    pub machines: Vec<MachineReservations>,
}

/// Of one machine, or of all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of borg.v1.MachineReservations, documented there"
)]
pub struct MachineReservations {
    pub machine: String,
    pub capacity: Amounts,
    pub prod_limits: Amounts,
    pub other_limits: Amounts,
    pub prod_reserved: Amounts,
    pub other_reserved: Amounts,
    pub prod_used: Amounts,
    pub other_used: Amounts,
    pub reclaimed: Amounts,
    pub unknown: u32,
}

impl From<pb::MachineReservations> for MachineReservations {
    fn from(from: pb::MachineReservations) -> Self {
        let amounts = |of: Option<pb::Amounts>| of.unwrap_or_default().into();
        Self {
            machine: from.machine,
            capacity: amounts(from.capacity),
            prod_limits: amounts(from.prod_limits),
            other_limits: amounts(from.other_limits),
            prod_reserved: amounts(from.prod_reserved),
            other_reserved: amounts(from.other_reserved),
            prod_used: amounts(from.prod_used),
            other_used: amounts(from.other_used),
            reclaimed: amounts(from.reclaimed),
            unknown: from.unknown,
        }
    }
}

impl From<pb::ListReservationsResponse> for Reservations {
    fn from(from: pb::ListReservationsResponse) -> Self {
        Self {
            cell: from.cell.unwrap_or_default().into(),
            machines: from.machines.into_iter().map(Into::into).collect(),
        }
    }
}
