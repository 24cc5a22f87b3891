//! What is to happen at a time: alarms of jobs, machines and kept data.
//!
//! Nothing in a deciding crate wakes by itself. What waits for a time is a fact of its noun; the leader
//! proposes [`Action::Advance`](borg_proto::command::Action::Advance) when the earliest of those times has
//! come, and what follows is decided here, when that entry is applied. So it happens once, in the order of
//! the log, whoever leads. What a noun does when its time has come is with the noun.
//!
//! Invariant: alarms follow from jobs, machines and kept data; each of these has at most one.

use super::turn::Turn;
use super::{Answer, CellState, Job};
use borg_proto::{JobId, MachineId, Millis};
use imbl::{OrdMap, OrdSet};

/// Most alarms that one entry answers, so that it does not hold up the others. 1,000: our choice, as many
/// as decisions of a scheduler in one entry.
pub const MAX_ALARMS: usize = 1_000;

/// Whose alarm it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Due {
    /// Something of a job.
    Job(JobId),
    /// Something of a machine.
    Machine(MachineId),
    /// Something of what an alloc left behind.
    Kept(u64),
}

/// All alarms, in cell time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Alarms {
    times: OrdSet<(Millis, Due)>,
    of: OrdMap<Due, Millis>,
}

impl Alarms {
    fn set(&mut self, whose: Due, at: Option<Millis>) {
        let before = match at {
            Some(at) => self.of.insert(whose, at),
            None => self.of.remove(&whose),
        };
        if let Some(before) = before {
            self.times.remove(&(before, whose));
        }
        if let Some(at) = at {
            self.times.insert((at, whose));
        }
    }
}

impl CellState {
    /// The earliest time at which something is to happen, in cell time.
    #[must_use]
    pub fn next_alarm(&self) -> Option<Millis> {
        self.alarms.times.get_min().map(|(at, _)| *at)
    }

    fn due(&self, whose: Due) -> Option<Millis> {
        match whose {
            Due::Job(id) => self.job(id).and_then(|job| self.job_due(job)),
            Due::Machine(id) => self.machine(id).and_then(|machine| self.drain_due(machine)),
            Due::Kept(number) => self.kept_data(number).map(super::Kept::due),
        }
    }

    /// When something is to happen to a job, if anything is.
    fn job_due(&self, job: &Job) -> Option<Millis> {
        if !job.is_alive() {
            return None;
        }
        // Deadlines of updates wait while nothing moves.
        let update = job.update_due().filter(|_| self.safe_mode.is_none());
        let update = update.map(|due| due.max(self.place_after()));
        let successor = job.successor_due().filter(|_| self.safe_mode.is_none());
        [update, successor, job.timeout_due(), job.cron_due()].into_iter().flatten().min()
    }

    /// Makes all alarms anew from what they follow from.
    pub(super) fn wind_alarms(&mut self) {
        let jobs = self.jobs.keys().map(|id| Due::Job(*id));
        let machines = self.machines.keys().map(|id| Due::Machine(*id));
        let kept = self.kept.keys().map(|number| Due::Kept(*number));
        let all: Vec<Due> = jobs.chain(machines).chain(kept).collect();
        self.alarms = Alarms::default();
        for whose in all {
            let at = self.due(whose);
            self.alarms.set(whose, at);
        }
    }
}

impl Turn<'_> {
    /// Does what was to happen by now, at most [`MAX_ALARMS`] of it.
    pub(super) fn advance(&mut self) -> Answer {
        let at = self.at;
        let due = self.state.alarms.times.iter().take_while(|(time, _)| *time <= at);
        let due: Vec<Due> = due.take(MAX_ALARMS).map(|(_, whose)| *whose).collect();
        for whose in due {
            match whose {
                Due::Job(id) => self.stir(id),
                Due::Machine(id) => self.machine_alarm(id),
                Due::Kept(number) => self.kept_alarm(number),
            }
        }
        Answer::None
    }

    /// The time has come for something of a machine.
    fn machine_alarm(&mut self, id: MachineId) {
        self.end_drain(id);
        self.set_alarm(Due::Machine(id));
    }

    /// To be called whenever something has changed from which an alarm follows.
    pub(super) fn set_alarm(&mut self, whose: Due) {
        let at = self.state.due(whose);
        self.state.alarms.set(whose, at);
    }
}
