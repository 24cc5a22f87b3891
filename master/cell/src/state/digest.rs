//! The running hash by which replicas are compared.
//!
//! Chains over every entry and what came of it: answer and events, or the refusal. Its bytes are
//! the same in every version that gives the same results, so masters of two versions can be
//! compared too.

use super::{Applied, JobState};
use crate::codec;
use crate::event::{
    AccessChange, DataChange, Event, EventKind, PrivilegeChange, QuotaChange, TaskChange,
    UpdateChange,
};
use crate::rejection::Rejection;
use crate::store::Membership;
use borg_proto::command::Command;
use borg_proto::task::{EvictCause, FailureCause};
use borg_proto::wire::pb;
use borg_proto::{Health, MachineId, TaskId};
use prost::Message;
use xxhash_rust::xxh3::xxh3_128;

/// The hash after an entry that is no command.
pub(super) fn after_skip(before: u128, index: u64) -> u128 {
    let mut bytes = Vec::with_capacity(24);
    bytes.extend(before.to_le_bytes());
    bytes.extend(index.to_le_bytes());
    xxh3_128(&bytes)
}

/// The hash after a change of Raft's configuration.
pub(super) fn after_members(before: u128, index: u64, members: &Membership) -> u128 {
    let mut out = Out(before.to_le_bytes().to_vec());
    out.number(index);
    for ids in
        [&members.voters, &members.learners, &members.voters_outgoing, &members.learners_next]
    {
        out.number(ids.len() as u64);
        out.numbers(ids);
    }
    out.number(members.auto_leave.into());
    xxh3_128(&out.0)
}

/// The hash after a command.
pub(super) fn after(
    before: u128,
    index: u64,
    command: &Command,
    result: &Result<Applied, Rejection>,
) -> u128 {
    let mut out = Out(command.encode());
    out.number(index);
    out.0.extend(before.to_le_bytes());
    match result {
        Ok(applied) => {
            out.number(1);
            out.text(&codec::answer_bytes(&applied.answer));
            for event in &applied.events {
                out.event(event);
            }
        }
        Err(rejection) => {
            out.number(0);
            out.text(&rejection.encode());
        }
    }
    xxh3_128(&out.0)
}

/// Bytes to be hashed: numbers at full width, texts with their length, so that no two results
/// share their bytes.
struct Out(Vec<u8>);

impl Out {
    fn number(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64);
        self.0.extend(text);
    }

    fn numbers(&mut self, numbers: &[u64]) {
        numbers.iter().for_each(|number| self.number(*number));
    }

    fn cause(&mut self, cause: &FailureCause) {
        self.text(&pb::FailureCause::from(cause).encode_to_vec());
    }

    fn event(&mut self, event: &Event) {
        self.numbers(&[event.index, event.at.0]);
        match &event.kind {
            EventKind::MachineAdded(id) => self.numbers(&[1, id.0.into()]),
            EventKind::MachineChanged(id) => self.numbers(&[2, id.0.into()]),
            EventKind::MachineRemoved(id, name) => {
                self.numbers(&[3, id.0.into()]);
                self.text(name.as_str().as_bytes());
            }
            EventKind::JobSubmitted(id) => self.numbers(&[4, id.0]),
            EventKind::AllocsResized(id) => self.numbers(&[70, id.0]),
            EventKind::JobChanged { job, from, to } => {
                self.numbers(&[5, job.0, job_state(*from), job_state(*to)]);
            }
            EventKind::CronChanged(id) => self.numbers(&[280, id.0]),
            EventKind::DataChanged { alloc, machine, change } => {
                self.numbers(&[71, alloc.index.into(), machine.0.into()]);
                self.text(alloc.job.to_string().as_bytes());
                self.data(change);
            }
            EventKind::JobForgotten(id, key) => {
                self.numbers(&[6, id.0]);
                self.text(key.to_string().as_bytes());
            }
            EventKind::TaskChanged { task, change, machine } => self.task(*task, change, *machine),
            EventKind::SafeMode { on, silent, machines } => {
                self.numbers(&[20, u64::from(*on), (*silent).into(), (*machines).into()]);
            }
            EventKind::QuotaChanged(change) => self.quota(change),
            EventKind::MachineAccess(id, change) => {
                let change = match change {
                    AccessChange::Kept => 1,
                    AccessChange::Closed => 2,
                    AccessChange::Opened => 3,
                    AccessChange::Draining => 260,
                    AccessChange::Drained => 261,
                    AccessChange::Undrained => 262,
                };
                self.numbers(&[31, id.0.into(), change]);
            }
            EventKind::PolicyChanged => self.number(32),
            EventKind::ReclamationChanged => self.number(220),
            EventKind::JobUpdated { job, change } => {
                let change = match change {
                    UpdateChange::Begun => 1,
                    UpdateChange::RollsBack => 2,
                    UpdateChange::Paused => 3,
                    UpdateChange::Resumed => 4,
                    UpdateChange::CanaryGood => 5,
                    UpdateChange::Done => 6,
                    UpdateChange::RolledBack => 7,
                    UpdateChange::Closed => 8,
                };
                self.numbers(&[240, job.0, change]);
            }
            EventKind::Maintenance { number, over } => {
                self.numbers(&[263, *number, u64::from(*over)]);
            }
            EventKind::PackagePut(key) => {
                self.number(110);
                self.text(key.to_string().as_bytes());
            }
            EventKind::PrivilegeChanged { user, privilege, change } => {
                self.number(160 + u64::from(*change == PrivilegeChange::Revoked));
                self.text(user.as_str().as_bytes());
                self.number(codec::privilege_number(*privilege));
            }
            EventKind::PackageRemoved(key) => {
                self.number(111);
                self.text(key.to_string().as_bytes());
            }
            EventKind::Led { leader, term } => self.numbers(&[8, leader.0, *term]),
            EventKind::MastersChanged => self.number(9),
        }
    }

    fn data(&mut self, change: &DataChange) {
        match change {
            DataChange::Kept { until } => self.numbers(&[1, until.0]),
            DataChange::AtRest { bytes } => self.numbers(&[2, *bytes]),
            DataChange::Rescuing { run } => {
                self.number(3);
                self.text(run.to_string().as_bytes());
            }
            DataChange::NotRescued { why } => {
                self.number(4);
                self.text(why.as_bytes());
            }
            DataChange::Rescued => self.number(5),
            DataChange::Gone { why } => {
                self.number(6);
                self.text(why.as_bytes());
            }
        }
    }

    fn quota(&mut self, change: &QuotaChange) {
        let (kind, user, band) = match change {
            QuotaChange::Set { user, band } => (1, user.as_str(), band),
            QuotaChange::Removed { user, band } => (2, user.as_str(), band),
            QuotaChange::Enforced { band, on } => (3 + u64::from(*on), "", band),
        };
        self.numbers(&[30, kind, codec::band_number(*band)]);
        self.text(user.as_bytes());
    }

    fn task(&mut self, task: TaskId, change: &TaskChange, machine: Option<MachineId>) {
        let machine = machine.map_or(0, |id| u64::from(id.0) + 1);
        self.numbers(&[7, task.job.0, task.index.into(), machine]);
        match change {
            TaskChange::Released => self.number(1),
            TaskChange::Placed { machine, incarnation } => {
                self.numbers(&[2, machine.0.into(), (*incarnation).into()]);
            }
            TaskChange::Awaits => self.number(304),
            TaskChange::Prepared { machine, incarnation } => {
                self.numbers(&[300, machine.0.into(), (*incarnation).into()]);
            }
            TaskChange::Preparing { serves } => self.numbers(&[301, u64::from(*serves)]),
            // Why is words for people, which another version may put otherwise.
            TaskChange::Unprepared { .. } => self.number(302),
            TaskChange::Replaced { from, machine, incarnation } => {
                self.numbers(&[303, from.0.into(), machine.0.into(), (*incarnation).into()]);
            }
            TaskChange::Up { pid } => self.numbers(&[3, (*pid).into()]),
            TaskChange::BackOff { until, cause } => {
                self.numbers(&[4, until.0]);
                self.cause(cause);
            }
            TaskChange::Health(health) => {
                let health = match health {
                    Health::Unchecked => 0,
                    Health::Starting => 1,
                    Health::Healthy => 2,
                    Health::Unhealthy => 3,
                };
                self.numbers(&[11, health]);
            }
            TaskChange::Address(address) => self.numbers(&[80, address.to_bits().into()]),
            TaskChange::Evicted(cause) => {
                let (kind, by) = match cause {
                    EvictCause::Preempted { by } => (1, by.as_str()),
                    EvictCause::MachineDown => (2, ""),
                    EvictCause::Drained => (3, ""),
                    EvictCause::Shrunk => (4, ""),
                    EvictCause::Resized => (5, ""),
                    EvictCause::Reclaimed => (220, ""),
                    EvictCause::Updated { .. } => (240, ""),
                    EvictCause::Stopped { by } => (241, by.as_str()),
                    EvictCause::Capped { .. } => (242, ""),
                };
                self.numbers(&[5, kind]);
                self.text(by.as_bytes());
            }
            TaskChange::Failed { cause, again } => {
                self.number(6);
                self.cause(cause);
                self.numbers(&[u64::from(again.is_some()), again.map_or(0, |at| at.0)]);
            }
            TaskChange::Gone { incarnation } => self.numbers(&[10, (*incarnation).into()]),
            TaskChange::Finished => self.number(7),
            TaskChange::Updated { version } => self.numbers(&[240, (*version).into()]),
            TaskChange::Stopped { by } => {
                self.number(241);
                self.text(by.as_bytes());
            }
            TaskChange::Killed { by } => {
                self.number(8);
                self.text(by.as_bytes());
            }
            TaskChange::DependencyFailed { job } => {
                self.number(9);
                self.text(job.as_bytes());
            }
            TaskChange::ParentEnded { job } => {
                self.number(280);
                self.text(job.as_bytes());
            }
            TaskChange::Withdrawn => self.number(281),
            TaskChange::Renewed => self.number(282),
        }
    }
}

fn job_state(state: JobState) -> u64 {
    match state {
        JobState::Waiting => 1,
        JobState::Pending => 2,
        JobState::Running => 3,
        JobState::Finished => 4,
        JobState::Failed => 5,
        JobState::Killed => 6,
    }
}
