//! What can be done to a cell: the entries of its log.
//!
//! A command carries everything that applying it needs, times and ids included, so that the same
//! log gives the same state everywhere. A command's number on the wire is never reused.

use crate::health::Health;
use crate::indexes::IndexSet;
use crate::machine::{MachineAddress, MachineId, MachineInfo};
use crate::names::{IncarnationId, JobKey, MachineName, ReplicaId, TaskId, TaskName, UserName};
use crate::package::{Package, PackageKey};
use crate::policy::{Policy, Term};
use crate::priority::Band;
use crate::privilege::Privilege;
use crate::reclamation::{Amounts, Number, NumberSet};
use crate::resources::Resources;
use crate::spec::JobSpec;
use crate::task::{FailureCause, RunEnd};
use crate::time::Millis;
use crate::update::{Revision, Steer, UpdateOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::num::NonZeroU64;
use std::sync::Arc;

/// Chosen by the client, so that a repeated call is recognised: any text of 1 to 64 bytes.
pub type RequestId = Arc<str>;

/// Most machines that one [`Action::GiveUp`] may name. 200: our choice; their tasks move in one
/// entry, which holds up all others.
pub const MAX_GIVEN_UP: usize = 200;

/// Who asks for a change, in the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// A person or program, by certificate.
    User(UserName),
    /// The cell's own leader.
    Master(ReplicaId),
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The leader's clock when it proposed the entry.
    pub at: Millis,
    /// Who asks.
    pub by: Principal,
    /// Set on changes from clients: the same id twice is done once.
    pub request: Option<RequestId>,
    /// What to do.
    pub action: Action,
}

/// Another size for the allocs of a set; what is `None` stays as it is, whoever changes it at the same
/// time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AllocSize {
    /// Processor time in millicores.
    pub cpu_milli: Option<u64>,
    /// Memory in bytes.
    pub ram_bytes: Option<u64>,
    /// Disk space in bytes.
    pub disk_bytes: Option<u64>,
}

impl AllocSize {
    /// The limit of an alloc that had this one.
    #[must_use]
    pub fn of(self, limit: &Resources) -> Resources {
        Resources {
            cpu_milli: self.cpu_milli.unwrap_or(limit.cpu_milli),
            ram_bytes: self.ram_bytes.unwrap_or(limit.ram_bytes),
            disk_bytes: self.disk_bytes.unwrap_or(limit.disk_bytes),
            ..limit.clone()
        }
    }
}

/// What becomes of data that an alloc left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DataOrder {
    /// A run of the log saver is made now.
    Rescue,
    /// It is given up.
    Drop,
}

/// What a cron job is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CronOrder {
    /// Ticks come to nothing until it is resumed.
    Pause,
    /// Ticks from now on count again.
    Resume,
    /// A run begins now, tick or not, as if it were one; paused or not.
    Run,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A replica leads from here on. First entry of every term.
    Lead {
        /// Who.
        leader: ReplicaId,
        /// The Raft term.
        term: u64,
    },
    /// Accept a job.
    SubmitJob {
        /// What to run.
        spec: Arc<JobSpec>,
    },
    /// End a job, or some of its tasks.
    Kill {
        /// Which job.
        job: JobKey,
        /// Which tasks; empty means the whole job.
        tasks: Vec<u32>,
    },
    /// Run dead tasks of a batch job again; a job that is over comes alive with just these.
    Rerun {
        /// Which job.
        job: JobKey,
        /// Which tasks; at least one.
        tasks: Vec<u32>,
    },
    /// Change what a cron job does at its ticks, or make a run of it now.
    OrderCron {
        /// Which.
        job: JobKey,
        /// What.
        order: CronOrder,
    },
    /// Add a machine, or change where its borglet listens.
    AddMachine {
        /// Name and address.
        machine: MachineAddress,
    },
    /// Take a machine out of the cell. Its tasks go back to pending.
    RemoveMachine {
        /// Which.
        machine: MachineName,
    },
    /// Let a master join: a process that presents the number's certificate and has no log.
    InviteMaster {
        /// Its number, which no master has.
        number: u64,
        /// `HOST:PORT`, as the others will reach it.
        address: String,
        /// The number of the master whose place it takes.
        replaces: Option<u64>,
    },
    /// Become a master: asked by a process that has no log, of an invited number or of one that
    /// was a master and lost its log.
    JoinMaster {
        /// Its number.
        number: u64,
        /// `HOST:PORT`, as the others reach it.
        address: String,
        /// Chosen by the process: asking again with the same one changes nothing.
        token: u64,
    },
    /// Take a master out, or take an invitation back.
    RemoveMaster {
        /// Its number.
        number: u64,
    },
    /// A master on its way out is out.
    ForgetMaster {
        /// Which life of it.
        master: ReplicaId,
    },
    /// From here on entries of this level may be proposed: every master understands them.
    RaiseLevel {
        /// The level.
        level: u32,
    },
    /// Take machines for down because an operator says so, whatever the rate limit and safe mode
    /// say.
    GiveUp {
        /// Which: 1 to [`MAX_GIVEN_UP`].
        machines: Vec<MachineName>,
        /// One of them that answered as the leader proposed the entry: then it is refused.
        answering: Option<MachineName>,
    },
    /// A cell that was restored from a backup spares nothing any more that it does not know.
    Settle,
    /// Give a user quota in a band for a time. For that time it takes the place of what the user
    /// had there.
    SetQuota {
        /// Whose.
        user: UserName,
        /// In which band; not the free one.
        band: Band,
        /// How much the limits of all the user's live tasks in the band may come to.
        amount: Resources,
        /// From when on, in cell time; `None`, or a time that is over, means from now on.
        from: Option<Millis>,
        /// From when on no longer; `None` means for ever.
        until: Option<Millis>,
        /// Whether more prod quota may be sold by this than the cell has.
        oversell: bool,
    },
    /// Take all quota of a user in a band back, that of later times included.
    RemoveQuota {
        /// Whose.
        user: UserName,
        /// In which band.
        band: Band,
    },
    /// From here on jobs in these bands need quota, or no longer.
    EnforceQuota {
        /// Which: at least one; never the free one.
        bands: Vec<Band>,
        /// Whether they need it.
        on: bool,
    },
    /// Change the size of an alloc set: of each of its allocs, or how many there are. What runs in
    /// an alloc stays in it; an alloc that its machine has no room for any more moves with all of
    /// its tasks.
    ResizeAllocs {
        /// Which.
        alloc_set: JobKey,
        /// How many allocs from here on, no fewer than before; `None`: as many as there are.
        allocs: Option<u32>,
        /// How large each is from here on.
        size: AllocSize,
    },
    /// Decide what becomes of data that an alloc left behind.
    RescueData {
        /// The alloc.
        alloc: TaskName,
        /// Which of what it left behind, by number; `None`: all.
        number: Option<NonZeroU64>,
        /// What becomes of it.
        order: DataOrder,
    },
    /// Choose another scheduling policy, or single weights of it. What runs does not move.
    SetPolicy {
        /// Which; `None` leaves the one that was named last.
        policy: Option<Policy>,
        /// Weights in place of the policy's own.
        weights: BTreeMap<Term, i16>,
    },
    /// Choose how much is lent of the room that tasks hold, or single numbers of it. What runs does not move.
    SetReclamation {
        /// Which set; `None` leaves the one that was named last.
        named: Option<NumberSet>,
        /// Numbers in place of the set's own.
        numbers: BTreeMap<Number, u32>,
    },
    /// From here on only tasks of some users are placed on machines, or everybody's. What runs stays.
    KeepMachines {
        /// Which: 1 to [`MAX_ACCESS_MACHINES`](crate::machine::MAX_ACCESS_MACHINES).
        machines: Vec<MachineName>,
        /// Whose, at most [`MAX_KEPT_FOR`](crate::machine::MAX_KEPT_FOR); none means everybody's.
        users: BTreeSet<UserName>,
    },
    /// From here on no task is placed on machines. What runs stays.
    CloseMachines {
        /// Which.
        machines: Vec<MachineName>,
        /// Why, for people.
        reason: String,
    },
    /// Tasks are placed on machines again.
    OpenMachines {
        /// Which.
        machines: Vec<MachineName>,
    },
    /// From here on no task is placed on machines, and what runs there leaves as the disruption budgets of
    /// the jobs allow; at the deadline it goes whatever they say.
    DrainMachines {
        /// Which: 1 to [`MAX_DRAIN_MACHINES`](crate::machine::MAX_DRAIN_MACHINES).
        machines: Vec<MachineName>,
        /// Why, for people.
        reason: String,
        /// How long each machine may take to become empty, at most
        /// [`MAX_DRAIN_TIME`](crate::machine::MAX_DRAIN_TIME).
        within: Millis,
        /// Set for one machine after the other: so many are out of service at most, at least 1. Each comes back
        /// when it is undrained, or answers after it restarted.
        at_once: Option<u32>,
        /// How many machines an operator knows to be left that take tasks; else the entry is refused when
        /// that is none, or they have too little room.
        leaves: Option<u32>,
    },
    /// Machines are drained no more: tasks are placed on them again.
    UndrainMachines {
        /// Which.
        machines: Vec<MachineName>,
    },
    /// A maintenance of one machine after the other ends: no more machines are drained for it, and those that
    /// are come back.
    EndMaintenance {
        /// Its number.
        number: u64,
    },
    /// Give a name and a version to blobs that the masters hold.
    PutPackage {
        /// The package.
        package: Arc<Package>,
    },
    /// Forget a package. Its blobs go later, unless others have them too.
    RemovePackage {
        /// Which.
        package: PackageKey,
    },
    /// Let a user do what one privilege allows.
    GrantPrivilege {
        /// Who.
        user: UserName,
        /// Which.
        privilege: Privilege,
    },
    /// Take a privilege back from a user. What was admitted with it stays.
    RevokePrivilege {
        /// From whom.
        user: UserName,
        /// Which.
        privilege: Privilege,
    },
    /// A job becomes something else, its tasks one after another.
    UpdateJob {
        /// Which.
        job: JobKey,
        /// What it becomes.
        to: Revision,
        /// How.
        options: Box<UpdateOptions>,
    },
    /// Somebody decides how an update goes on.
    SteerUpdate {
        /// Of which job.
        job: JobKey,
        /// What is to become of it.
        verb: Steer,
    },
    /// Takes tasks of a job off their machines until they are started again. The job stays, with its name
    /// and its quota.
    StopTasks {
        /// Of which job.
        job: JobKey,
        /// Which; `None`: all.
        tasks: Option<IndexSet>,
    },
    /// Lets tasks that were stopped be placed again.
    StartTasks {
        /// Of which job.
        job: JobKey,
        /// Which; `None`: all.
        tasks: Option<IndexSet>,
    },
    /// What was to happen by now happens: see [`SERVICES_SINCE`]. Proposed by the leader when that time has come.
    Advance,
    /// Decisions of a scheduler. Each is accepted or refused by itself.
    Place {
        /// In the order decided.
        assignments: Vec<Assignment>,
    },
    /// What link shards saw. Each change is taken or ignored by itself.
    Observe {
        /// In the order seen.
        changes: Vec<Observation>,
    },
}

/// The newest level of entries that this build understands. Grows by one with every release that
/// adds an action, a kind of observation or a field to entries; a cell works on the level that all of
/// its masters understand.
pub const LEVEL: u32 = 7;

/// The level of entries that tells how runs ended came with.
pub const RUN_ENDS_SINCE: u32 = 5;

/// The level of entries from which on the state notes since when tasks serve, has budgets of disruption
/// and does by itself what was to happen at a time.
pub const SERVICES_SINCE: u32 = 6;

/// The level of entries from which on a cell may remember what tasks used
/// ([`crate::reclamation::Numbers::remember_h`]).
pub const REMEMBERS_SINCE: u32 = 7;

impl Action {
    /// The level of entries that this action came with.
    #[must_use]
    pub fn level(&self) -> u32 {
        match self {
            Self::Lead { .. }
            | Self::Kill { .. }
            | Self::AddMachine { .. }
            | Self::RemoveMachine { .. } => 1,
            Self::Place { assignments } => {
                assignments.iter().map(Assignment::level).max().unwrap_or(1)
            }
            Self::SubmitJob { spec } => spec.level(),
            Self::Observe { changes } => changes.iter().map(Observation::level).max().unwrap_or(1),
            Self::InviteMaster { .. }
            | Self::JoinMaster { .. }
            | Self::RemoveMaster { .. }
            | Self::ForgetMaster { .. }
            | Self::GiveUp { .. }
            | Self::Settle
            | Self::RaiseLevel { .. } => 2,
            Self::SetQuota { .. } | Self::RemoveQuota { .. } | Self::EnforceQuota { .. } => 3,
            Self::SetReclamation { named, numbers } => {
                let remembers =
                    *named == Some(NumberSet::Daily) || numbers.contains_key(&Number::Remember);
                if remembers { REMEMBERS_SINCE } else { SERVICES_SINCE }
            }
            Self::GrantPrivilege { privilege: Privilege::Reservation, .. }
            | Self::RevokePrivilege { privilege: Privilege::Reservation, .. } => SERVICES_SINCE,
            Self::PutPackage { .. }
            | Self::RemovePackage { .. }
            | Self::GrantPrivilege { .. }
            | Self::RevokePrivilege { .. } => 5,
            Self::ResizeAllocs { .. } => 4,
            Self::UpdateJob { .. }
            | Self::SteerUpdate { .. }
            | Self::StopTasks { .. }
            | Self::StartTasks { .. }
            | Self::DrainMachines { .. }
            | Self::UndrainMachines { .. }
            | Self::EndMaintenance { .. }
            | Self::Rerun { .. }
            | Self::OrderCron { .. }
            | Self::RescueData { .. }
            | Self::Advance => SERVICES_SINCE,
            Self::SetPolicy { .. }
            | Self::KeepMachines { .. }
            | Self::CloseMachines { .. }
            | Self::OpenMachines { .. } => 4,
        }
    }
}

impl Observation {
    /// The level of entries that this kind of observation came with.
    #[must_use]
    pub fn level(&self) -> u32 {
        match self {
            Self::TaskUp { run: Some(_), .. }
            | Self::TaskBackOff { run: Some(_), .. }
            | Self::TaskEnded { run: Some(_), .. } => RUN_ENDS_SINCE,
            Self::MachineUp { .. } | Self::MachineDown { .. } | Self::TaskUp { .. } => 1,
            Self::TaskBackOff { cause, .. } => cause.level(),
            Self::TaskEnded { failure, .. } => failure.as_ref().map_or(1, FailureCause::level),
            Self::TaskHealth { .. } | Self::TaskAddress { .. } => 5,
            Self::TaskReclaimed { .. } | Self::DataAtRest { .. } | Self::DataGone { .. } => {
                SERVICES_SINCE
            }
            Self::TaskGone { .. } | Self::Silence { .. } | Self::TaskAdopted { .. } => 2,
        }
    }
}

/// One decision of a scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The pending task.
    pub task: TaskId,
    /// Where to.
    pub machine: MachineId,
    /// Incarnations on that machine that must go first.
    pub victims: Vec<IncarnationId>,
    /// What the tasks that stay on the machine hold and do not need, as the leader believed when it decided.
    /// Nothing when the decision stands on free room alone, and always in cells below [`SERVICES_SINCE`].
    pub lent: Amounts,
}

impl Assignment {
    /// A task for free room of a machine, with nobody to go.
    #[must_use]
    pub fn new(task: TaskId, machine: MachineId) -> Self {
        Self { task, machine, victims: Vec::new(), lent: Amounts::default() }
    }

    fn level(&self) -> u32 {
        if self.lent.is_nothing() { 1 } else { SERVICES_SINCE }
    }
}

/// One thing that a link shard saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// The machine answered, with these facts.
    MachineUp {
        /// Which.
        machine: MachineId,
        /// What it said of itself.
        info: MachineInfo,
    },
    /// The machine has not answered for too long: its tasks go back to pending.
    MachineDown {
        /// Which.
        machine: MachineId,
    },
    /// The incarnation's process runs.
    TaskUp {
        /// Which incarnation.
        id: IncarnationId,
        /// Process id on the machine.
        pid: u32,
        /// When it started, by the machine's clock.
        since: Millis,
        /// How often it was started again by the machine.
        restarts: u32,
        /// What the machine tells of the run before, when the cell has not heard that it failed; only in cells of
        /// level 5.
        run: Option<Arc<RunEnd>>,
    },
    /// The incarnation failed and the machine will start it again.
    TaskBackOff {
        /// Which incarnation.
        id: IncarnationId,
        /// When it will be started again.
        until: Millis,
        /// How often it was started again by the machine.
        restarts: u32,
        /// What happened.
        cause: FailureCause,
        /// What the machine tells of the run; only in cells of level 5.
        run: Option<Arc<RunEnd>>,
    },
    /// The incarnation is over on its machine.
    TaskEnded {
        /// Which incarnation.
        id: IncarnationId,
        /// When, by the machine's clock.
        at: Millis,
        /// `None` when it exited with 0.
        failure: Option<FailureCause>,
        /// What the machine tells of the run, when it knows; only in cells of level 5.
        run: Option<Arc<RunEnd>>,
    },
    /// The incarnation of an exclusive task, which was taken off its machine, surely runs no more
    /// and never will.
    TaskGone {
        /// Which incarnation.
        id: IncarnationId,
    },
    /// So much of the cell is silent that nothing moves until an operator says so, or no longer.
    Silence {
        /// Whether nothing moves.
        safe_mode: bool,
        /// How many machines were silent.
        silent: u32,
        /// Of how many that should answer.
        machines: u32,
    },
    /// By its health check the incarnation is otherwise than before.
    TaskHealth {
        /// Which incarnation.
        id: IncarnationId,
        /// How it is.
        health: Health,
    },
    /// The incarnation's process has this address of its own.
    TaskAddress {
        /// Which incarnation.
        id: IncarnationId,
        /// Its address.
        address: Ipv4Addr,
    },
    /// The incarnation stands on room that was lent, and whoever holds it needs it for too long already: it
    /// goes back to pending. Never of prod.
    TaskReclaimed {
        /// Which incarnation.
        id: IncarnationId,
    },
    /// No task uses any more what an alloc left behind on a machine.
    DataAtRest {
        /// Where.
        machine: MachineId,
        /// Which incarnation of the alloc.
        alloc: IncarnationId,
        /// What it takes on the disk.
        bytes: u64,
    },
    /// What an alloc left behind on a machine is not there, and never comes back.
    DataGone {
        /// Where.
        machine: MachineId,
        /// Which incarnation of the alloc.
        alloc: IncarnationId,
        /// Why, for people.
        why: String,
    },
    /// In a cell that was restored from a backup: an incarnation runs that was placed after the
    /// backup was taken. It is its task's placement from here on.
    TaskAdopted {
        /// Which incarnation.
        id: IncarnationId,
        /// Where it runs.
        machine: MachineId,
        /// Process id on the machine.
        pid: u32,
        /// When it started, by the machine's clock.
        since: Millis,
        /// How often it was started again by the machine.
        restarts: u32,
        /// Its ports, in the order of its specification.
        ports: Vec<u16>,
    },
}
