//! Answers and refusals as bytes: they travel from the leader to the master that was asked, and
//! are kept with the requests that they answered.
//!
//! A refusal is its kind and the values of its fields in order. Kinds are never reused.

use super::DecodeError;
use super::allocs;
use super::drains;
use super::kinds;
use super::packages;
use super::parts::missing;
use super::privileges;
use super::quota;
use super::updates;
use crate::rejection::{Figures, Oversold, Rejection, Shortage};
use crate::state::{Answer, JobState, MachineState};
use borg_proto::names::NameError;
use borg_proto::resources::Dimension;
use borg_proto::spec::SpecError;
use borg_proto::wire::{WireError, pb};
use borg_proto::{IncarnationId, JobId, MachineId, Millis, Priority, ReplicaId, TaskId};
use pb::change_answer as wire;
use pb::checkpoint_request::Outcome;
use prost::Message;
use std::str::FromStr;

impl Answer {
    /// The answer as bytes, for another master.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        answer_bytes(self)
    }

    /// An answer from bytes.
    ///
    /// # Errors
    /// When the bytes are no answer.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(read_answer(pb::ChangeAnswer::decode(bytes)?)?)
    }
}

impl Rejection {
    /// The refusal as bytes, for another master.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        refusal(self).encode_to_vec()
    }

    /// A refusal from bytes.
    ///
    /// # Errors
    /// When the bytes are no refusal that this version knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(read_refusal(pb::ChangeRefusal::decode(bytes)?)?)
    }
}

pub(crate) fn answer_bytes(of: &Answer) -> Vec<u8> {
    answer(of).encode_to_vec()
}

pub(super) fn to_wire(outcome: &Result<Answer, Rejection>) -> Outcome {
    match outcome {
        Ok(accepted) => Outcome::Accepted(answer(accepted)),
        Err(refused) => Outcome::Refused(refusal(refused)),
    }
}

pub(super) fn from_wire(outcome: Outcome) -> Result<Result<Answer, Rejection>, WireError> {
    Ok(match outcome {
        Outcome::Accepted(accepted) => Ok(read_answer(accepted)?),
        Outcome::Refused(refused) => Err(read_refusal(refused)?),
    })
}

fn answer(answer: &Answer) -> pb::ChangeAnswer {
    let kind = match answer {
        Answer::None => wire::Kind::None(true),
        Answer::Job { id, key } => wire::Kind::Job(wire::Job { id: id.0, key: key.to_string() }),
        Answer::Killed { tasks } => wire::Kind::Killed(*tasks),
        Answer::Version(number) => wire::Kind::Version(*number),
        Answer::Rerun { tasks } => wire::Kind::Rerun(*tasks),
        Answer::Machine(id) => wire::Kind::Machine(id.0),
        Answer::Master(id) => wire::Kind::Master(id.0),
        Answer::Placed { results } => {
            let result = |one: &Result<IncarnationId, Rejection>| wire::PlaceResult {
                outcome: Some(match one {
                    Ok(id) => wire::place_result::Outcome::Placed(id.into()),
                    Err(refused) => wire::place_result::Outcome::Refused(refusal(refused)),
                }),
            };
            wire::Kind::Placed(wire::Placed { results: results.iter().map(result).collect() })
        }
    };
    pb::ChangeAnswer { kind: Some(kind) }
}

fn read_answer(answer: pb::ChangeAnswer) -> Result<Answer, WireError> {
    Ok(match answer.kind.ok_or_else(|| missing("kind"))? {
        wire::Kind::None(_) => Answer::None,
        wire::Kind::Job(job) => {
            let key = job.key.parse().map_err(|e: NameError| WireError::from(e).within("key"))?;
            Answer::Job { id: JobId(job.id), key }
        }
        wire::Kind::Killed(tasks) => Answer::Killed { tasks },
        wire::Kind::Version(number) => Answer::Version(number),
        wire::Kind::Rerun(tasks) => Answer::Rerun { tasks },
        wire::Kind::Machine(id) => Answer::Machine(MachineId(id)),
        wire::Kind::Master(id) => Answer::Master(ReplicaId(id)),
        wire::Kind::Placed(placed) => {
            let result = |one: wire::PlaceResult| match one
                .outcome
                .ok_or_else(|| missing("outcome"))?
            {
                wire::place_result::Outcome::Placed(id) => Ok(Ok(id.try_into()?)),
                wire::place_result::Outcome::Refused(refused) => Ok(Err(read_refusal(refused)?)),
            };
            let results: Result<_, WireError> = placed.results.into_iter().map(result).collect();
            Answer::Placed { results: results? }
        }
    })
}

fn refusal(rejection: &Rejection) -> pb::ChangeRefusal {
    use Rejection as R;
    let (kind, numbers, texts) = match rejection {
        R::Spec(e) => (1, vec![], vec![e.field.clone(), e.value.clone(), e.why.clone()]),
        R::RequestId { bytes } => (2, vec![(*bytes).into()], vec![]),
        R::RequestReused { request } => (3, vec![], vec![request.to_string()]),
        R::Address { address } => (4, vec![], vec![address.clone()]),
        R::AfterItself { job } => (5, vec![], vec![job.to_string()]),
        R::AfterService { job } => (6, vec![], vec![job.to_string()]),
        R::JobAlive { job, state } => (7, vec![], vec![job.to_string(), state.to_string()]),
        R::NoSuchJob { job } => (8, vec![], vec![job.to_string()]),
        R::NoSuchTask { job, index, last } => {
            (9, vec![(*index).into(), (*last).into()], vec![job.to_string()])
        }
        R::NoSuchMachine { machine } => (10, vec![], vec![machine.to_string()]),
        R::AfterUnknown { job } => (11, vec![], vec![job.to_string()]),
        R::TaskGone { task } => (12, task_numbers(*task), vec![]),
        R::MachineGone { machine } => (13, vec![machine.0.into()], vec![]),
        R::NotOwner { user, job } => (14, vec![], vec![user.to_string(), job.to_string()]),
        R::NeedsAdmin { who, what } => (15, vec![], vec![who.clone(), what.clone()]),
        R::NeedsUser { what } => (16, vec![], vec![what.clone()]),
        R::NeedsLeader { user, what } => (17, vec![], vec![user.to_string(), what.clone()]),
        R::AfterEnded { job, state } => (18, vec![], vec![job.to_string(), state.to_string()]),
        R::NotPending { task } => (19, task_numbers(*task), vec![]),
        R::Waiting { task } => (20, task_numbers(*task), vec![]),
        R::TooEarly { task, not_before, now } => {
            let mut numbers = task_numbers(*task);
            numbers.extend([not_before.0, now.0]);
            (21, numbers, vec![])
        }
        R::MachineNotUp { machine, state } => {
            (22, vec![], vec![machine.to_string(), state.to_string()])
        }
        R::Constraint { machine, constraint } => {
            (23, vec![], vec![machine.to_string(), constraint.clone()])
        }
        R::Crowded { attribute, value, there, most } => {
            (24, vec![(*there).into(), (*most).into()], vec![attribute.clone(), value.clone()])
        }
        R::MayNotPreempt { priority, victim, victims } => {
            let mut numbers =
                vec![priority.get().into(), victims.get().into(), victim.number.into()];
            numbers.extend(task_numbers(victim.task));
            (25, numbers, vec![])
        }
        R::StaleTerm { term, now } => (26, vec![*term, *now], vec![]),
        R::NoRoom { machine, short, free, asked } => {
            let (dimension, device) = quota::dimension_number(short);
            (27, vec![dimension, *free, *asked], vec![machine.to_string(), device.to_owned()])
        }
        R::CellFull { what, there, most } => (28, vec![*there, *most], vec![what.clone()]),
        R::TooManyTasks { machine, there, most } => {
            (29, vec![(*there).into(), (*most).into()], vec![machine.to_string()])
        }
        R::TargetFull { machine, there, asked, most } => {
            (30, vec![*there, *asked, *most], vec![machine.to_string()])
        }
        R::NoSuchMaster { number } => (41, vec![*number], vec![]),
        R::MasterExists { number } => (42, vec![*number], vec![]),
        R::MastersChanging { master } => (43, vec![master.0], vec![]),
        R::LastMaster { number } => (44, vec![*number], vec![]),
        R::AddressTaken { number, address } => (45, vec![*number], vec![address.clone()]),
        R::Lingers { task, machine } => {
            let mut numbers = task_numbers(*task);
            numbers.push(machine.0.into());
            (51, numbers, vec![])
        }
        R::AtCap { there, most } => (80, vec![(*there).into(), (*most).into()], vec![]),
        R::GangParted { task } => (81, task_numbers(*task), vec![]),
        R::Gang { task, why } => (82, task_numbers(*task), vec![why.clone()]),
        R::MachineAnswers { machine } => (52, vec![], vec![machine.to_string()]),
        R::HearingOut { until, now } => (55, vec![until.0, now.0], vec![]),
        R::NoQuota(shortage) => with_kind(60, quota::shortage(shortage)),
        R::QuotaTooSmall(shortage) => with_kind(61, quota::shortage(shortage)),
        R::Oversold(oversold) => with_kind(62, quota::oversold(oversold)),
        R::QuotaOver { from, until, now } => (63, vec![from.0, until.0, now.0], vec![]),
        R::FreeBand => (64, vec![], vec![]),
        R::NoSuchQuota { user, band } => {
            (65, vec![quota::band_number(*band)], vec![user.to_string()])
        }
        R::Alloc(refused) => allocs::refusal(refused),
        R::Kind(refused) => kinds::refusal(refused),
        R::Package(refused) => packages::refusal(refused),
        R::Privilege(refused) => privileges::refusal(refused),
        R::Update(refused) => updates::refusal(refused),
        R::Drain(refused) => drains::refusal(refused),
        R::MachineClosed { machine, reason } => {
            (66, vec![], vec![machine.to_string(), reason.clone()])
        }
        R::MachineKept { machine, user } => {
            (67, vec![], vec![machine.to_string(), user.to_string()])
        }
    };
    pb::ChangeRefusal { kind, numbers, texts }
}

fn with_kind(kind: u32, (numbers, texts): (Vec<u64>, Vec<String>)) -> (u32, Vec<u64>, Vec<String>) {
    (kind, numbers, texts)
}

fn task_numbers(task: TaskId) -> Vec<u64> {
    vec![task.job.0, task.index.into()]
}

fn read_refusal(refusal: pb::ChangeRefusal) -> Result<Rejection, WireError> {
    use Rejection as R;
    let mut from =
        Fields { numbers: refusal.numbers.into_iter(), texts: refusal.texts.into_iter() };
    let rejection = match refusal.kind {
        1 => R::Spec(SpecError { field: from.text()?, value: from.text()?, why: from.text()? }),
        2 => R::RequestId { bytes: from.small()? },
        3 => R::RequestReused { request: from.text()?.into() },
        4 => R::Address { address: from.text()? },
        5 => R::AfterItself { job: from.name()? },
        6 => R::AfterService { job: from.name()? },
        7 => R::JobAlive { job: from.name()?, state: from.job_state()? },
        8 => R::NoSuchJob { job: from.name()? },
        9 => R::NoSuchTask { index: from.small()?, last: from.small()?, job: from.name()? },
        10 => R::NoSuchMachine { machine: from.name()? },
        11 => R::AfterUnknown { job: from.name()? },
        12 => R::TaskGone { task: from.task()? },
        13 => R::MachineGone { machine: MachineId(from.small()?) },
        14 => R::NotOwner { user: from.name()?, job: from.name()? },
        15 => R::NeedsAdmin { who: from.text()?, what: from.text()? },
        16 => R::NeedsUser { what: from.text()? },
        17 => R::NeedsLeader { user: from.name()?, what: from.text()? },
        18 => R::AfterEnded { job: from.name()?, state: from.job_state()? },
        19 => R::NotPending { task: from.task()? },
        20 => R::Waiting { task: from.task()? },
        21 => {
            let task = from.task()?;
            R::TooEarly { task, not_before: Millis(from.number()?), now: Millis(from.number()?) }
        }
        22 => R::MachineNotUp { machine: from.name()?, state: from.machine_state()? },
        23 => R::Constraint { machine: from.name()?, constraint: from.text()? },
        24 => R::Crowded {
            there: from.small()?,
            most: from.small()?,
            attribute: from.text()?,
            value: from.text()?,
        },
        25 => {
            let (priority, victims, number) = (from.priority()?, from.priority()?, from.small()?);
            R::MayNotPreempt {
                priority,
                victim: IncarnationId { task: from.task()?, number },
                victims,
            }
        }
        26 => R::StaleTerm { term: from.number()?, now: from.number()? },
        27 => {
            let (dimension, free, asked) = (from.number()?, from.number()?, from.number()?);
            let (machine, device) = (from.name()?, from.text()?);
            R::NoRoom { machine, short: read_dimension(dimension, &device)?, free, asked }
        }
        28 => R::CellFull { there: from.number()?, most: from.number()?, what: from.text()? },
        29 => R::TooManyTasks { there: from.small()?, most: from.small()?, machine: from.name()? },
        30 => R::TargetFull {
            there: from.number()?,
            asked: from.number()?,
            most: from.number()?,
            machine: from.name()?,
        },
        41 => R::NoSuchMaster { number: from.number()? },
        42 => R::MasterExists { number: from.number()? },
        43 => R::MastersChanging { master: ReplicaId(from.number()?) },
        44 => R::LastMaster { number: from.number()? },
        45 => R::AddressTaken { number: from.number()?, address: from.text()? },
        51 => R::Lingers { task: from.task()?, machine: MachineId(from.small()?) },
        80 => R::AtCap { there: from.small()?, most: from.small()? },
        81 => R::GangParted { task: from.task()? },
        82 => R::Gang { task: from.task()?, why: from.text()? },
        52 => R::MachineAnswers { machine: from.name()? },
        55 => R::HearingOut { until: Millis(from.number()?), now: Millis(from.number()?) },
        60 => R::NoQuota(Box::new(from.shortage()?)),
        61 => R::QuotaTooSmall(Box::new(from.shortage()?)),
        62 => {
            R::Oversold(Box::new(Oversold { at: Millis(from.number()?), figures: from.figures()? }))
        }
        63 => R::QuotaOver {
            from: Millis(from.number()?),
            until: Millis(from.number()?),
            now: Millis(from.number()?),
        },
        64 => R::FreeBand,
        65 => R::NoSuchQuota { user: from.name()?, band: quota::read_band(from.number()?)? },
        kind if allocs::KINDS.contains(&kind) => allocs::read(kind, &mut from)?.into(),
        kind if kinds::KINDS.contains(&kind) => kinds::read(kind, &mut from)?.into(),
        kind if packages::KINDS.contains(&kind) => packages::read(kind, &mut from)?.into(),
        kind if privileges::KINDS.contains(&kind) => privileges::read(kind, &mut from)?.into(),
        kind if updates::KINDS.contains(&kind) => updates::read(kind, &mut from)?.into(),
        kind if drains::KINDS.contains(&kind) => drains::read(kind, &mut from)?.into(),
        66 => R::MachineClosed { machine: from.name()?, reason: from.text()? },
        67 => R::MachineKept { machine: from.name()?, user: from.name()? },
        other => {
            return Err(WireError::new("kind", other, "is no refusal that this version knows"));
        }
    };
    from.end()?;
    Ok(rejection)
}

fn read_dimension(number: u64, device: &str) -> Result<Dimension, WireError> {
    Ok(match number {
        1 => Dimension::Cpu,
        2 => Dimension::Ram,
        3 => Dimension::Disk,
        4 => Dimension::Ports,
        5 => Dimension::Device(device.into()),
        other => return Err(WireError::new("numbers", other, "is no dimension")),
    })
}

pub(super) fn job_state(text: &str) -> Result<JobState, WireError> {
    let all = [
        JobState::Waiting,
        JobState::Pending,
        JobState::Running,
        JobState::Finished,
        JobState::Failed,
        JobState::Killed,
    ];
    let found = all.into_iter().find(|state| state.to_string() == text);
    found.ok_or_else(|| WireError::new("texts", text, "is no state of a job"))
}

/// The values of a refusal, taken one after the other.
pub(super) struct Fields {
    numbers: std::vec::IntoIter<u64>,
    texts: std::vec::IntoIter<String>,
}

impl Fields {
    pub(super) fn number(&mut self) -> Result<u64, WireError> {
        self.numbers.next().ok_or_else(|| missing("numbers"))
    }

    pub(super) fn small(&mut self) -> Result<u32, WireError> {
        let number = self.number()?;
        u32::try_from(number).map_err(|_| WireError::new("numbers", number, "is too large"))
    }

    pub(super) fn text(&mut self) -> Result<String, WireError> {
        self.texts.next().ok_or_else(|| missing("texts"))
    }

    pub(super) fn name<T: FromStr<Err = NameError>>(&mut self) -> Result<T, WireError> {
        self.text()?.parse().map_err(|e| WireError::from(e).within("texts"))
    }

    pub(super) fn task(&mut self) -> Result<TaskId, WireError> {
        Ok(TaskId { job: JobId(self.number()?), index: self.small()? })
    }

    pub(super) fn priority(&mut self) -> Result<Priority, WireError> {
        Priority::new(self.number()?).map_err(|e| WireError::from(e).within("numbers"))
    }

    /// All numbers that are left, as small ones.
    pub(super) fn rest(&mut self) -> Result<Vec<u32>, WireError> {
        let mut rest = Vec::new();
        while self.numbers.len() > 0 {
            rest.push(self.small()?);
        }
        Ok(rest)
    }

    pub(super) fn job_state(&mut self) -> Result<JobState, WireError> {
        job_state(&self.text()?)
    }

    fn machine_state(&mut self) -> Result<MachineState, WireError> {
        let text = self.text()?;
        let all = [MachineState::New, MachineState::Up, MachineState::Down];
        let found = all.into_iter().find(|state| state.to_string() == text);
        found.ok_or_else(|| WireError::new("texts", text, "is no state of a machine"))
    }

    fn shortage(&mut self) -> Result<Shortage, WireError> {
        Ok(Shortage {
            user: self.name()?,
            band: quota::read_band(self.number()?)?,
            ends: self.time()?,
            begins: self.time()?,
            figures: self.figures()?,
        })
    }

    /// A dimension: its number, and the name of the device that it is if any.
    pub(super) fn dimension(&mut self) -> Result<Dimension, WireError> {
        let (number, device) = (self.number()?, self.text()?);
        read_dimension(number, &device)
    }

    fn time(&mut self) -> Result<Option<Millis>, WireError> {
        let (there, at) = (self.number()?, self.number()?);
        Ok((there > 0).then_some(Millis(at)))
    }

    fn figures(&mut self) -> Result<Vec<Figures>, WireError> {
        // No more than there are values for: the number before them asks for no memory.
        (0..self.number()?).map(|_| self.figure()).collect()
    }

    fn figure(&mut self) -> Result<Figures, WireError> {
        Ok(Figures {
            dimension: self.dimension()?,
            asked: self.number()?,
            used: self.number()?,
            most: self.number()?,
        })
    }

    fn end(mut self) -> Result<(), WireError> {
        match (self.numbers.next(), self.texts.next()) {
            (None, None) => Ok(()),
            (number, text) => {
                Err(WireError::new("", format!("{number:?} {text:?}"), "is too much"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rejection::{
        AllocRejection, DrainRejection, KindRejection, PackageRejection, PrivilegeRejection,
        UpdateRejection,
    };
    use crate::state::Blocked;
    use borg_proto::update::Steer;
    use borg_proto::{Band, JobKind, Privilege};

    fn figures() -> Vec<Figures> {
        let of = |dimension| Figures { dimension, asked: 1, used: u64::MAX, most: 0 };
        vec![of(Dimension::Cpu), of(Dimension::Device("gpu".into())), of(Dimension::Ports)]
    }

    fn shortage(ends: Option<Millis>, begins: Option<Millis>) -> Shortage {
        let (user, band) = ("ann".parse().unwrap(), Band::Monitoring);
        Shortage { user, band, ends, begins, figures: figures() }
    }

    fn all() -> Vec<Rejection> {
        use Rejection as R;
        let (job, user) = ("ann/web".parse().unwrap(), "ann".parse().unwrap());
        let job = || -> borg_proto::JobKey { Clone::clone(&job) };
        let machine = || -> borg_proto::MachineName { "m-3".parse().unwrap() };
        let task = TaskId { job: JobId(7), index: 2 };
        let text = || "text".to_owned();
        let (state, priority) = (JobState::Running, Priority::new(120).unwrap());
        let victim = IncarnationId { task, number: 3 };
        let no_room = |short| R::NoRoom { machine: machine(), short, free: 1, asked: 2 };
        vec![
            R::Spec(SpecError { field: text(), value: text(), why: text() }),
            R::RequestId { bytes: 65 },
            R::RequestReused { request: "r".into() },
            R::Address { address: text() },
            R::AfterItself { job: job() },
            R::AfterService { job: job() },
            R::JobAlive { job: job(), state },
            R::NoSuchJob { job: job() },
            R::NoSuchTask { job: job(), index: 3, last: 2 },
            R::NoSuchMachine { machine: machine() },
            R::AfterUnknown { job: job() },
            R::TaskGone { task },
            R::MachineGone { machine: MachineId(4) },
            R::NotOwner { user: Clone::clone(&user), job: job() },
            R::NeedsAdmin { who: text(), what: text() },
            R::NeedsUser { what: text() },
            R::NeedsLeader { user, what: text() },
            R::AfterEnded { job: job(), state },
            R::NotPending { task },
            R::Waiting { task },
            R::TooEarly { task, not_before: Millis(9), now: Millis(8) },
            R::MachineNotUp { machine: machine(), state: MachineState::Down },
            R::Constraint { machine: machine(), constraint: text() },
            R::Crowded { attribute: text(), value: text(), there: 1, most: 1 },
            R::MayNotPreempt { priority, victim, victims: priority },
            R::StaleTerm { term: 1, now: 2 },
            no_room(Dimension::Cpu),
            no_room(Dimension::Ram),
            no_room(Dimension::Disk),
            no_room(Dimension::Ports),
            no_room(Dimension::Device("gpu".into())),
            R::CellFull { what: text(), there: 1, most: 1 },
            R::TooManyTasks { machine: machine(), there: 2, most: 1 },
            R::TargetFull { machine: machine(), there: 3, asked: 2, most: 1 },
            R::NoSuchMaster { number: 6 },
            R::MasterExists { number: 6 },
            R::AddressTaken { number: 6, address: "m6:1".into() },
            R::MastersChanging { master: ReplicaId::of_life(3, 1) },
            R::LastMaster { number: 1 },
            R::HearingOut { until: Millis(2), now: Millis(1) },
            R::Lingers { task, machine: MachineId(4) },
            R::AtCap { there: 2, most: 2 },
            R::GangParted { task },
            R::Gang { task, why: text() },
            R::MachineAnswers { machine: machine() },
            R::NoQuota(Box::new(shortage(None, Some(Millis(5))))),
            R::QuotaTooSmall(Box::new(shortage(Some(Millis(0)), None))),
            R::Oversold(Box::new(Oversold { at: Millis(7), figures: figures() })),
            R::QuotaOver { from: Millis(3), until: Millis(2), now: Millis(1) },
            R::FreeBand,
            R::NoSuchQuota { user: "ann".parse().unwrap(), band: Band::Mid },
            R::MachineClosed { machine: machine(), reason: text() },
            R::MachineKept { machine: machine(), user: "ann".parse().unwrap() },
        ]
        .into_iter()
        .chain(of_allocs().into_iter().map(R::from))
        .chain(of_kinds().into_iter().map(R::from))
        .chain(of_packages().into_iter().map(R::from))
        .chain(of_privileges().into_iter().map(R::from))
        .chain(of_updates().into_iter().map(R::from))
        .chain(of_drains().into_iter().map(R::from))
        .collect()
    }

    fn of_drains() -> Vec<DrainRejection> {
        use DrainRejection as D;
        let task = TaskId { job: JobId(3), index: 7 };
        let job = || "ann/web".parse().unwrap();
        let until = Millis(9);
        let rate = Blocked::Rate { job: job(), tasks: 2, per: Millis(60_000), until };
        vec![
            D::Budget { task, blocked: Blocked::Down { job: job(), down: 2, most: 1 } },
            D::Budget { task, blocked: rate },
            D::SafeMode { task },
            D::TooLittleLeft { left: 1, of: 4, short: None },
            D::TooLittleLeft { left: 1, of: 4, short: Some((1, 2, Dimension::Ram)) },
            D::OtherLeft { left: 0, of: 4, known: 2 },
            D::NoSuchMaintenance { number: 7 },
            D::HasSuccessor { task },
            D::Preparing { task, job: job(), most: 2 },
            D::SameMachine { task, machine: "m-1".parse().expect("a name") },
        ]
    }

    fn of_updates() -> Vec<UpdateRejection> {
        use UpdateRejection as U;
        let job = || -> borg_proto::JobKey { "ann/web".parse().unwrap() };
        let (by, since) = ("ann".parse().unwrap(), Millis(7));
        let state = || "rolling".to_owned();
        vec![
            U::Over { job: job(), state: JobState::Killed },
            U::UnderWay { job: job(), from: 1, to: 2, by, state: state(), since, back: true },
            U::VersionGone { job: job(), version: 1, kept: vec![4, 5] },
            U::NoBudget { job: job(), tasks: 3 },
            U::Gang { job: job() },
            U::ManyVersions { job: job(), most: 8 },
            U::IsSet { set: job() },
            U::GangParted { job: job() },
            U::NoUpdate { job: job(), verb: Steer::Undo },
            U::NotNow { job: job(), verb: Steer::Close, state: state() },
        ]
    }

    fn of_kinds() -> Vec<KindRejection> {
        use KindRejection as K;
        let job = || -> borg_proto::JobKey { "ann/web".parse().unwrap() };
        let machine = || "m-3".parse().unwrap();
        let task = TaskId { job: JobId(7), index: 2 };
        vec![
            K::NoParent { parent: job() },
            K::ParentOver { parent: job(), state: JobState::Killed },
            K::ParentOfOthers { parent: job(), user: "bob".parse().unwrap() },
            K::OwnParent { job: job() },
            K::AfterStanding { job: job(), kind: JobKind::Cron },
            K::NoTasks { job: job() },
            K::Pinned { task, home: machine(), machine: "m-4".parse().unwrap() },
            K::RerunKind { job: job(), kind: JobKind::Service },
            K::NeverBegan { job: job() },
            K::TaskAlive { job: job(), index: 7 },
            K::NotCron { job: job(), kind: JobKind::Batch },
            K::CronOver { job: job(), state: JobState::Finished },
            K::RunAlive { run: job() },
            K::ManyRuns { job: job(), most: 20 },
            K::NoName { made: u64::MAX },
            K::AfterParent { job: job(), first: job() },
            K::IsCron { job: job() },
        ]
    }

    fn of_privileges() -> Vec<PrivilegeRejection> {
        use PrivilegeRejection as P;
        let user = || "ann".parse().unwrap();
        vec![
            P::NotHeld { user: user(), privilege: Privilege::MachineIds },
            P::NotGranted { user: user(), privilege: Privilege::Admin },
            P::OfAdmin,
        ]
    }

    fn of_packages() -> Vec<PackageRejection> {
        use PackageRejection as P;
        let package = || -> borg_proto::package::PackageKey { "ann/tools:1.2".parse().unwrap() };
        let there = borg_proto::package::Digest::of(b"x");
        vec![
            P::Unknown { package: package() },
            P::NotThere { field: "task.image".into(), package: package() },
            P::Exists { package: package(), there },
            P::InUse { package: package(), job: "ann/web".parse().unwrap() },
            P::OfOthers { package: package(), user: "bob".parse().unwrap() },
            P::NotAnImage { package: package(), kind: borg_proto::package::PackageKind::Binary },
            P::IsAnImage { field: "task.packages[0]".into(), package: package() },
            P::NoEntrypoint { package: package() },
        ]
    }

    fn of_allocs() -> Vec<AllocRejection> {
        use AllocRejection as A;
        let set = || -> borg_proto::JobKey { "ann/room".parse().unwrap() };
        let alloc = || borg_proto::TaskName { job: set(), index: 3 };
        let priority = Priority::new(120).unwrap();
        let gpu = || Dimension::Device("gpu".into());
        vec![
            A::NoSuchSet { set: set() },
            A::NotASet { job: set() },
            A::OfOthers { set: set(), user: "bob".parse().unwrap() },
            A::AboveSet { set: set(), priority, sets: Priority::new(100).unwrap() },
            A::SetFull { set: set(), most: 64 },
            A::AfterSet { set: set() },
            A::InUse { set: set(), job: "ann/web".parse().unwrap() },
            A::Beyond { set: set(), allocs: 4, index: 7 },
            A::NotPlaced { alloc: alloc() },
            A::Elsewhere { alloc: alloc(), machine: "m-3".parse().unwrap() },
            A::NoRoom { alloc: alloc(), short: gpu(), free: 1, asked: 2 },
            A::TooSmall { alloc: alloc(), short: Dimension::Ram, size: 1, used: 2 },
            A::TooLarge { set: set() },
            A::Fewer { set: set(), there: 4, asked: 3 },
            A::KeepsNothing { set: set() },
            A::TwoSavers { set: set(), job: "ann/saver".parse().unwrap() },
            A::NothingKept { alloc: alloc() },
            A::NoSaver { set: set() },
            A::RunOfData { job: "ann/saver-rescue-1".parse().unwrap() },
        ]
    }

    #[test]
    fn every_refusal_survives_its_bytes() {
        for rejection in all() {
            assert_eq!(Rejection::decode(&rejection.encode()).unwrap(), rejection);
        }
        let kinds: std::collections::BTreeSet<u32> =
            all().iter().map(|r| refusal(r).kind).collect();
        assert_eq!(
            kinds,
            (1..=30)
                .chain(41..=45)
                .chain(51..=52)
                .chain([55])
                .chain(60..=67)
                .chain(80..=82)
                .chain(allocs::KINDS)
                .chain(kinds::KINDS)
                .chain(packages::KINDS)
                .chain(privileges::KINDS)
                .chain(updates::KINDS)
                .chain(drains::KINDS)
                .collect(),
            "each kind has its own number, and its sample here"
        );
    }

    #[test]
    fn every_answer_survives_its_bytes() {
        let id = IncarnationId { task: TaskId { job: JobId(7), index: 2 }, number: 3 };
        let results = all().into_iter().map(Err).chain([Ok(id)]).collect();
        for answer in [
            Answer::None,
            Answer::Job { id: JobId(0), key: "ann/web".parse().unwrap() },
            Answer::Killed { tasks: 0 },
            Answer::Version(2),
            Answer::Rerun { tasks: 3 },
            Answer::Machine(MachineId(0)),
            Answer::Master(ReplicaId::of_life(3, 1)),
            Answer::Placed { results },
        ] {
            assert_eq!(Answer::decode(&answer.encode()).unwrap(), answer);
        }
    }

    #[test]
    fn refusals_with_too_few_or_too_many_values_are_errors() {
        for bad in [
            pb::ChangeRefusal { kind: 26, numbers: vec![1], texts: vec![] },
            pb::ChangeRefusal { kind: 26, numbers: vec![1, 2, 3], texts: vec![] },
            pb::ChangeRefusal { kind: 99, numbers: vec![], texts: vec![] },
        ] {
            assert!(Rejection::decode(&bad.encode_to_vec()).is_err());
        }
    }
}
