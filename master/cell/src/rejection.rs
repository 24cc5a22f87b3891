//! Why the cell refused a change: data inside the protocol, with the values a person needs.
//!
//! A rejection is an ordinary outcome of an entry, the same on every replica. It travels between
//! masters as bytes, so that a follower can pass the leader's refusal on to its client.

mod allocs;
mod drains;
mod figures;
mod kinds;
mod packages;
mod privileges;
mod updates;

pub use allocs::AllocRejection;
pub use drains::DrainRejection;
pub use figures::{Amount, Figures, Oversold, Shortage, amounts, quota_name};
pub use kinds::KindRejection;
pub use packages::PackageRejection;
pub use privileges::PrivilegeRejection;
pub use updates::UpdateRejection;

use crate::state::{JobState, MachineState};
use borg_proto::resources::{Dimension, TASK_ADDRESS};
use borg_proto::spec::SpecError;
use borg_proto::time::Date;
use borg_proto::{
    Band, IncarnationId, JobKey, MachineId, MachineName, Millis, Priority, ReplicaId, TaskId,
    UserName,
};
use std::sync::Arc;

/// What kind of refusal it is; the names are gRPC's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectionCode {
    /// The request can never be accepted.
    InvalidArgument,
    /// The name is taken.
    AlreadyExists,
    /// The named thing is not there.
    NotFound,
    /// The asker may not do this.
    PermissionDenied,
    /// The cell is not in a state for it now.
    FailedPrecondition,
    /// No room.
    ResourceExhausted,
}

/// Why the cell refused a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the text on each variant says what it means and names its fields")]
pub enum Rejection {
    #[error("{0}")]
    Spec(SpecError),
    #[error("request id has {bytes} bytes, allowed are 1 to 64")]
    RequestId { bytes: u32 },
    #[error("request id {request:?} was used for another change before: choose a new one")]
    RequestReused { request: Arc<str> },
    #[error("address {address:?} is not 1 to 255 bytes of HOST:PORT")]
    Address { address: String },
    #[error("job {job} cannot start after itself")]
    AfterItself { job: JobKey },
    #[error("job {job} is a service and never finishes: nothing can start after it")]
    AfterService { job: JobKey },

    #[error("job {job} exists and is {state}: borgctl update FILE changes it")]
    JobAlive { job: JobKey, state: JobState },

    #[error("there is no job {job}")]
    NoSuchJob { job: JobKey },
    #[error("job {job} has tasks 0 to {last}, not {index}")]
    NoSuchTask { job: JobKey, index: u32, last: u32 },
    #[error("there is no machine {machine}")]
    NoSuchMachine { machine: MachineName },
    #[error("there is no job {job} to start after")]
    AfterUnknown { job: JobKey },
    #[error("task {task} is not there any more")]
    TaskGone { task: TaskId },
    #[error("machine number {} is not there any more", machine.0)]
    MachineGone { machine: MachineId },

    #[error("user {user} is neither the owner of {job} nor admin")]
    NotOwner { user: UserName, job: JobKey },
    #[error("{who} may not {what}: that needs admin")]
    NeedsAdmin { who: String, what: String },
    #[error("a master may not {what}: that needs a user")]
    NeedsUser { what: String },
    #[error("user {user} may not {what}: that is for the cell's leader")]
    NeedsLeader { user: UserName, what: String },

    #[error("job {job}, which it starts after, is {state}")]
    AfterEnded { job: JobKey, state: JobState },
    #[error("task {task} is not pending")]
    NotPending { task: TaskId },
    #[error("task {task} waits for other jobs")]
    Waiting { task: TaskId },
    #[error(
        "task {task} is exclusive, and its last incarnation may still run on machine number {}",
        machine.0
    )]
    Lingers { task: TaskId, machine: MachineId },
    #[error("{there} tasks of the job are placed, and it lets {most} run at once")]
    AtCap { there: u32, most: u32 },
    #[error("the job is a gang, all or none, and task {task} waits too")]
    GangParted { task: TaskId },
    #[error("the job is a gang, all or none, and task {task} was refused: {why}")]
    Gang { task: TaskId, why: String },
    #[error("machine {machine} answers: only machines that are silent can be given up")]
    MachineAnswers { machine: MachineName },
    #[error("task {task} is not placed before {not_before}, now is {now}")]
    TooEarly { task: TaskId, not_before: Millis, now: Millis },
    #[error(
        "the cell was restored from a backup and finds out first what runs: nothing is placed before \
         {until}, now is {now}"
    )]
    HearingOut { until: Millis, now: Millis },
    #[error("machine {machine} is {state}")]
    MachineNotUp { machine: MachineName, state: MachineState },
    #[error("machine {machine} is closed to new tasks: {reason}")]
    MachineClosed { machine: MachineName, reason: String },
    #[error("machine {machine} is kept for other users than {user}")]
    MachineKept { machine: MachineName, user: UserName },
    #[error("machine {machine} does not meet: {constraint}")]
    Constraint { machine: MachineName, constraint: String },
    #[error("{there} tasks of the job are on {attribute} {value:?} already, most is {most}")]
    Crowded { attribute: String, value: String, there: u32, most: u32 },
    #[error("priority {priority} may not preempt {victim} of priority {victims}")]
    MayNotPreempt { priority: Priority, victim: IncarnationId, victims: Priority },
    #[error("term {term} is over, now is {now}")]
    StaleTerm { term: u64, now: u64 },

    #[error("there is no master {number}: borgctl masters add {number}=HOST:PORT lets it join")]
    NoSuchMaster { number: u64 },
    #[error("master {number} is there already")]
    MasterExists { number: u64 },
    #[error("address: {address} is that of master {number}")]
    AddressTaken { number: u64, address: String },
    #[error(
        "the masters are changing already, master {master} is on its way in or out: wait for it, or \
         take it back with borgctl masters remove {}",
        master.number()
    )]
    MastersChanging { master: ReplicaId },
    #[error("master {number} is the last one: a cell without masters cannot be repaired")]
    LastMaster { number: u64 },

    #[error("{}", .0.none())]
    NoQuota(Box<Shortage>),
    #[error("{}", .0.too_small())]
    QuotaTooSmall(Box<Shortage>),
    #[error("{0}")]
    Oversold(Box<Oversold>),
    #[error(
        "quota from {} until {} is for no time, now is {}", Date(*from), Date(*until), Date(*now)
    )]
    QuotaOver { from: Millis, until: Millis, now: Millis },
    #[error("band free needs no quota: everybody has endless quota there")]
    FreeBand,
    #[error("user {user} has no quota in band {band}")]
    NoSuchQuota { user: UserName, band: Band },

    #[error("{}", room(&format!("machine {machine}"), short, *free, *asked))]
    NoRoom { machine: MachineName, short: Dimension, free: u64, asked: u64 },
    #[error("machine {machine} has {there} tasks, most is {most}")]
    TooManyTasks { machine: MachineName, there: u32, most: u32 },
    #[error(
        "machine {machine} is told {there} bytes of tasks, this one is {asked} more, most is {most}"
    )]
    TargetFull { machine: MachineName, there: u64, asked: u64, most: u64 },
    #[error("the cell has {there} {what}, most is {most}")]
    CellFull { what: String, there: u64, most: u64 },
    #[error("{0}")]
    Alloc(Box<AllocRejection>),
    #[error("{0}")]
    Kind(Box<KindRejection>),
    #[error("{0}")]
    Package(Box<PackageRejection>),
    #[error("{0}")]
    Privilege(Box<PrivilegeRejection>),
    #[error("{0}")]
    Update(Box<UpdateRejection>),
    #[error("{0}")]
    Drain(Box<DrainRejection>),
}

impl From<AllocRejection> for Rejection {
    fn from(refused: AllocRejection) -> Self {
        Self::Alloc(Box::new(refused))
    }
}

impl From<DrainRejection> for Rejection {
    fn from(refused: DrainRejection) -> Self {
        Self::Drain(Box::new(refused))
    }
}

impl From<KindRejection> for Rejection {
    fn from(refused: KindRejection) -> Self {
        Self::Kind(Box::new(refused))
    }
}

impl From<PackageRejection> for Rejection {
    fn from(refused: PackageRejection) -> Self {
        Self::Package(Box::new(refused))
    }
}

impl From<PrivilegeRejection> for Rejection {
    fn from(refused: PrivilegeRejection) -> Self {
        Self::Privilege(Box::new(refused))
    }
}

impl From<UpdateRejection> for Rejection {
    fn from(refused: UpdateRejection) -> Self {
        Self::Update(Box::new(refused))
    }
}

/// What is free of a dimension somewhere, against what a task asks.
fn room(place: &str, short: &Dimension, free: u64, asked: u64) -> String {
    let (free, asked) = (in_units(short, free, false), in_units(short, asked, true));
    format!("{place} has {free} {} free, task asks {asked}", noun(short))
}

/// An amount of a dimension in the unit in which people are told; parts of it count as none, or as
/// whole ones.
fn in_units(of: &Dimension, amount: u64, up: bool) -> String {
    let (unit, scale) = match of {
        Dimension::Cpu => (" m", 1),
        Dimension::Ram | Dimension::Disk => (" MiB", 1 << 20),
        Dimension::Ports => ("", 1),
        Dimension::Device(_) => ("/1000", 1),
    };
    let count = if up { amount.div_ceil(scale) } else { amount / scale };
    format!("{count}{unit}")
}

fn noun(of: &Dimension) -> String {
    match of {
        Dimension::Cpu => "CPU".to_owned(),
        Dimension::Ram => "memory".to_owned(),
        Dimension::Disk => "disk".to_owned(),
        Dimension::Ports => "ports".to_owned(),
        Dimension::Device(name) if **name == *TASK_ADDRESS => "of addresses for tasks".into(),
        Dimension::Device(name) => format!("of device {name}"),
    }
}

impl Rejection {
    /// What kind of refusal it is.
    #[must_use]
    pub fn code(&self) -> RejectionCode {
        match self {
            Self::Spec(_)
            | Self::RequestId { .. }
            | Self::RequestReused { .. }
            | Self::Address { .. }
            | Self::AfterItself { .. }
            | Self::QuotaOver { .. }
            | Self::FreeBand
            | Self::AfterService { .. } => RejectionCode::InvalidArgument,
            Self::JobAlive { .. } | Self::MasterExists { .. } | Self::AddressTaken { .. } => {
                RejectionCode::AlreadyExists
            }
            Self::NoSuchJob { .. }
            | Self::NoSuchTask { .. }
            | Self::NoSuchMachine { .. }
            | Self::AfterUnknown { .. }
            | Self::NoSuchMaster { .. }
            | Self::NoSuchQuota { .. }
            | Self::TaskGone { .. }
            | Self::MachineGone { .. } => RejectionCode::NotFound,
            Self::NotOwner { .. }
            | Self::NeedsAdmin { .. }
            | Self::NeedsUser { .. }
            | Self::NoQuota(_)
            | Self::NeedsLeader { .. } => RejectionCode::PermissionDenied,
            Self::AfterEnded { .. }
            | Self::NotPending { .. }
            | Self::Waiting { .. }
            | Self::Lingers { .. }
            | Self::AtCap { .. }
            | Self::GangParted { .. }
            | Self::Gang { .. }
            | Self::MachineAnswers { .. }
            | Self::TooEarly { .. }
            | Self::HearingOut { .. }
            | Self::MachineNotUp { .. }
            | Self::MachineClosed { .. }
            | Self::MachineKept { .. }
            | Self::Constraint { .. }
            | Self::Crowded { .. }
            | Self::MayNotPreempt { .. }
            | Self::MastersChanging { .. }
            | Self::LastMaster { .. }
            | Self::Oversold(_)
            | Self::StaleTerm { .. } => RejectionCode::FailedPrecondition,
            Self::NoRoom { .. }
            | Self::TooManyTasks { .. }
            | Self::TargetFull { .. }
            | Self::QuotaTooSmall(_)
            | Self::CellFull { .. } => RejectionCode::ResourceExhausted,
            Self::Alloc(refused) => refused.code(),
            Self::Kind(refused) => refused.code(),
            Self::Package(refused) => refused.code(),
            Self::Privilege(refused) => refused.code(),
            Self::Update(refused) => refused.code(),
            Self::Drain(refused) => refused.code(),
        }
    }
}
