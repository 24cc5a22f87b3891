//! What may be disturbed on purpose: one budget of each job for updates, drains, preemption and reclamation.
//!
//! A task is down while it is alive and does not serve, whatever the reason: it waits, starts, is in
//! back-off, is not healthy. One more may be taken down while no more than the budget allows are down then,
//! and not more often than its rate. What is down already may be moved at no cost. What happens by itself
//! (a lost machine, a crash, a machine that shrank) is not asked for here, and counts as down.
//!
//! Leaves to each that disturbs what it does while it may not. Source: Borg paper, sections 2.3 and 4.

use super::turn::Turn;
use super::{CellState, Job, Task};
use borg_proto::command::SERVICES_SINCE;
use borg_proto::disruption::{Disruption, MAX_RATE_PER, MAX_RATE_TASKS};
use borg_proto::task::{Phase, Placement, TaskState};
use borg_proto::time::Date;
use borg_proto::{JobId, JobKey, Millis, TaskId};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Why a task may not be disturbed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocked {
    /// As many as may be are down already.
    Down {
        /// Of which job.
        job: JobKey,
        /// How many of its tasks are down.
        down: u32,
        /// How many may be.
        most: u32,
    },
    /// As many as may be were disturbed lately.
    Rate {
        /// Of which job.
        job: JobKey,
        /// How many tasks may be disturbed...
        tasks: u32,
        /// ...within this time.
        per: Millis,
        /// When the next may be, in cell time.
        until: Millis,
    },
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down { job, most: 0, .. } => write!(
                f,
                "the disruption budget of {job} is 0, which lets none of its tasks go while it serves"
            ),
            Self::Down { job, down: 1, most } => {
                write!(f, "1 task of {job} is down, its disruption budget is {most}")
            }
            Self::Down { job, down, most } => {
                write!(f, "{down} tasks of {job} are down, its disruption budget is {most}")
            }
            Self::Rate { job, tasks, per, until } => write!(
                f,
                "the disruption budget of {job} is {tasks} tasks in {} s, used up until {}",
                per.0 / 1_000,
                Date(*until)
            ),
        }
    }
}

impl Job {
    /// Whether callers may be sent to a task that is placed so. An alloc serves while it is held.
    #[must_use]
    pub fn serves(&self, index: u32, placement: &Placement) -> bool {
        let up = matches!(placement.phase, Phase::Up { .. });
        self.is_alloc_set() || (up && self.health(index, placement).serves())
    }

    /// How many of its tasks are down: alive, and not serving. Nobody waits for those that are stopped, nor
    /// for those that its own cap holds back.
    #[must_use]
    pub fn down(&self) -> u32 {
        let wanted = self.counts.alive() - self.counts.held;
        let wanted = self.spec.concurrent.map_or(wanted, |most| wanted.min(most));
        wanted.saturating_sub(self.counts.serving)
    }

    /// Whether one more of its tasks, which serves, may be taken down at a moment of cell time.
    ///
    /// # Errors
    /// What is in the way.
    pub fn may_lose_one(&self, at: Millis) -> Result<(), Blocked> {
        self.may_lose(1, at)
    }

    /// Whether so many more of its tasks, which serve, may be taken down together at a moment of cell time.
    ///
    /// # Errors
    /// What is in the way.
    pub fn may_lose(&self, more: u32, at: Millis) -> Result<(), Blocked> {
        let Some(Disruption { most, rate }) = self.spec.effective_disruption() else {
            return Ok(());
        };
        let (job, down, most) = (|| self.key.clone(), self.down(), most.of(self.size()));
        if more > 0 && down.saturating_add(more) > most {
            return Err(Blocked::Down { job: job(), down, most });
        }
        let Some(rate) = rate else { return Ok(()) };
        // The one that the last of them has to keep its distance from: it may be one of themselves.
        let last = (self.disrupted.len() + more as usize).checked_sub(1);
        let first = last.and_then(|last| last.checked_sub(rate.tasks as usize));
        let first =
            first.filter(|_| more > 0).map(|n| self.disrupted.get(n).copied().unwrap_or(at));
        match first.map(|first| first + rate.per_ms).filter(|until| *until > at) {
            None => Ok(()),
            Some(until) => {
                Err(Blocked::Rate { job: job(), tasks: rate.tasks, per: rate.per_ms, until })
            }
        }
    }
}

impl CellState {
    /// Whether nothing is moved by the cell's own choice at a moment of cell time: in safe mode, and in a cell
    /// that was just restored, which could not place again what it takes down.
    pub(super) fn holds_still(&self, at: Millis) -> bool {
        self.safe_mode.is_some() || at < self.place_after()
    }

    /// Whether the cell may take a task off its machine on purpose at a moment of cell time. Always when
    /// that costs nothing, because it does not serve.
    ///
    /// # Errors
    /// What is in the way.
    pub fn may_disrupt(&self, task: TaskId, at: Millis) -> Result<(), Blocked> {
        let Some(job) = self.job(task.job) else { return Ok(()) };
        let serves = job.task(task.index).and_then(Task::placement);
        match serves.and_then(|placement| placement.serves_since) {
            None => Ok(()),
            Some(_) => job.may_lose_one(at),
        }
    }
}

impl Job {
    /// How many more of its tasks, which serve, may be taken down together at a moment of cell time, up to
    /// `most`; `None` when the job has no budget.
    #[must_use]
    pub fn may_still_lose(&self, most: u32, at: Millis) -> Option<u32> {
        self.spec.effective_disruption()?;
        Some((1..=most).take_while(|more| self.may_lose(*more, at).is_ok()).last().unwrap_or(0))
    }
}

impl CellState {
    /// Whether the cell may take several tasks off their machines together at a moment of cell time.
    ///
    /// # Errors
    /// The first of those that serve which it may not, and what is in the way.
    pub fn may_disrupt_all(
        &self,
        tasks: impl IntoIterator<Item = TaskId>,
        at: Millis,
    ) -> Result<(), (TaskId, Blocked)> {
        let mut going: BTreeMap<JobId, u32> = BTreeMap::new();
        for task in tasks {
            let placed = self.task(task).and_then(Task::placement);
            let serves = placed.is_some_and(|placement| placement.serves_since.is_some());
            let Some(job) = self.job(task.job).filter(|_| serves) else { continue };
            let more = going.entry(task.job).or_default();
            *more += 1;
            job.may_lose(*more, at).map_err(|blocked| (task, blocked))?;
        }
        Ok(())
    }
}

impl Turn<'_> {
    /// Notes, for the rate of its job's budget, that a task is about to be disturbed on purpose.
    pub(super) fn note_disruption(&mut self, task: TaskId) {
        let Some(job) = self.state.job(task.job) else { return };
        let rated = job.spec.effective_disruption().is_some_and(|budget| budget.rate.is_some());
        let serves = job.task(task.index).and_then(Task::placement);
        let serves = serves.is_some_and(|placement| placement.serves_since.is_some());
        if !rated || !serves {
            return;
        }
        let at = self.at;
        let noted = &mut self.job_mut(task.job).disrupted;
        noted.push_back(at);
        // As many as any rate may count, as long: an update may bring another one.
        let old = |first: &Millis| at.since(*first) >= MAX_RATE_PER;
        while noted.len() > MAX_RATE_TASKS as usize || noted.front().is_some_and(old) {
            noted.pop_front();
        }
    }

    /// Notes since when a task serves that is about to be placed so.
    pub(super) fn note_serving(&self, id: TaskId, placement: &mut Placement) {
        let serves = self.state.job(id.job).is_some_and(|job| job.serves(id.index, placement));
        let since = placement.serves_since.unwrap_or(self.at);
        let noted = serves && self.state.level >= SERVICES_SINCE;
        placement.serves_since = noted.then_some(since);
    }

    /// From this entry on it is noted since when tasks serve.
    pub(super) fn begin_noting_service(&mut self) {
        let ids: Vec<_> = self.state.jobs.keys().copied().collect();
        for id in ids {
            // An update may have waited for it.
            self.stir(id);
            let at = self.at;
            let job = self.job_mut(id);
            let serve = |(task, index): (&Arc<Task>, u32)| {
                let placed = task.placement().filter(|placement| job.serves(index, placement));
                placed.and_then(|_| usize::try_from(index).ok())
            };
            let serving: Vec<usize> = job.tasks.iter().zip(0..).filter_map(serve).collect();
            for index in serving {
                if let Some(task) = job.tasks.get_mut(index)
                    && let TaskState::Running(placement) = &mut Arc::make_mut(task).state
                    && placement.serves_since.is_none()
                {
                    placement.serves_since = Some(at);
                    job.counts.serving += 1;
                }
            }
            job.time_update();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{Cell, batch, master, service, user, with_task};
    use crate::state::CellState;
    use borg_proto::command::{Action, Observation};
    use borg_proto::disruption::{Disruption, Rate, Share};
    use borg_proto::health::{HealthCheck, Probe};
    use borg_proto::update::Revision;
    use borg_proto::{Health, IncarnationId, JobId, JobSpec, Millis, TaskId};

    const MIB: u64 = 1 << 20;

    fn serving() -> Cell {
        let mut cell = Cell::new();
        cell.apply(master(), Action::RaiseLevel { level: 6 }).unwrap();
        cell
    }

    fn job(cell: &mut Cell, spec: JobSpec) -> (JobId, Vec<IncarnationId>) {
        let machine = cell.machine("m-1", 10_000, 1 << 30);
        let tasks = spec.tasks;
        let job = cell.submit("ann", spec);
        let ids = (0..tasks).map(|index| cell.place(job, index, machine).unwrap()).collect();
        (job, ids)
    }

    fn blocked(cell: &Cell, job: JobId, index: u32) -> String {
        let refused = cell.state.may_disrupt(TaskId { job, index }, cell.now);
        refused.err().map(|why| why.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_task_that_serves_may_be_taken_down_while_the_budget_allows_one_more() {
        let mut cell = serving();
        let (job, ids) = job(&mut cell, service("web", 3, 100, 4 * MIB));
        assert_eq!(blocked(&cell, job, 0), "", "it does not serve yet");
        for id in &ids {
            cell.up(*id);
        }
        assert_eq!(cell.state.job(job).unwrap().down(), 0);
        assert_eq!(blocked(&cell, job, 0), "");
        cell.ended(ids[2], None);
        let why = "1 task of ann/web is down, its disruption budget is 1";
        assert_eq!(blocked(&cell, job, 0), why);
        assert_eq!(blocked(&cell, job, 2), "", "it is down already");
        assert_eq!(cell.state.audit(), []);
    }

    #[test]
    fn a_checked_task_serves_from_when_it_is_healthy_and_no_longer_when_it_is_not() {
        let mut cell = serving();
        let spec = with_task(service("web", 1, 100, 4 * MIB), |task| {
            task.ports = vec!["http".parse().unwrap()];
            task.health = Some(HealthCheck::new(Probe::Tcp { port: task.ports[0].clone() }));
        });
        let (job, ids) = job(&mut cell, spec);
        let since = |cell: &Cell| {
            let task = cell.state.task(TaskId { job, index: 0 }).unwrap();
            task.placement().unwrap().serves_since
        };
        cell.up(ids[0]);
        assert_eq!(since(&cell), None);
        let said = |health| Observation::TaskHealth { id: ids[0], health };
        cell.observe(said(Health::Healthy));
        let first = since(&cell);
        assert!(first.is_some());
        assert_eq!(CellState::decode(&cell.state.encode()).unwrap(), cell.state);
        cell.observe(said(Health::Unhealthy));
        assert_eq!((since(&cell), cell.state.job(job).unwrap().down()), (None, 1));
        cell.now = cell.now + Millis(5_000);
        cell.observe(said(Health::Healthy));
        assert!(since(&cell) > first);
        assert_eq!(cell.state.audit(), []);
    }

    #[test]
    fn a_rate_is_kept_over_the_time_that_it_counts() {
        let mut cell = serving();
        let mut spec = batch("low", 4, 1_000, 4 * MIB);
        let rate = Rate { tasks: 2, per_ms: Millis(60_000) };
        spec.disruption = Some(Disruption { most: Share::Percent(100), rate: Some(rate) });
        let (job, ids) = job(&mut cell, spec);
        for id in &ids {
            cell.up(*id);
        }
        let machine = cell.state.machines().next().unwrap().id;
        let high = cell.submit("bob", service("high", 2, 7_000, 4 * MIB));
        cell.place_over(high, 0, machine, vec![ids[0]]).unwrap();
        assert_eq!(blocked(&cell, job, 2), "");
        let more = with_task(service("more", 1, 1_000, 4 * MIB), |_| ());
        let more = cell.submit("bob", more);
        let started = cell.now;
        cell.place_over(more, 0, machine, vec![ids[1]]).unwrap();
        assert!(blocked(&cell, job, 2).contains("2 tasks in 60 s, used up until"));
        assert_eq!(CellState::decode(&cell.state.encode()).unwrap(), cell.state);
        cell.now = started + Millis(120_000);
        assert_eq!(blocked(&cell, job, 2), "");
    }

    #[test]
    fn another_rate_counts_what_was_disturbed_under_the_one_before() {
        let mut cell = serving();
        let mut spec = batch("low", 6, 1_000, 4 * MIB);
        let rated = |tasks, per_s| {
            let rate = Some(Rate { tasks, per_ms: Millis::from_secs(per_s) });
            Some(Disruption { most: Share::Percent(100), rate })
        };
        spec.disruption = rated(2, 60);
        let (job, ids) = job(&mut cell, spec.clone());
        ids.iter().for_each(|id| drop(cell.up(*id)));
        let machine = cell.state.machines().next().unwrap().id;
        let more = cell.submit("bob", service("more", 1, 6_000, 4 * MIB));
        cell.place_over(more, 0, machine, vec![ids[0], ids[1]]).unwrap();
        cell.wait(60_000);
        let most = cell.submit("bob", service("most", 1, 2_000, 4 * MIB));
        cell.place_over(most, 0, machine, vec![ids[2], ids[3]]).unwrap();
        assert_eq!(cell.state.job(job).unwrap().down(), 4);
        let next = JobSpec { disruption: rated(5, 600), ..spec };
        let (to, key) = (Revision::Spec(std::sync::Arc::new(next)), "ann/low".parse().unwrap());
        let update = Action::UpdateJob { job: key, to, options: Box::default() };
        cell.apply(user("ann"), update).unwrap();
        let left = cell.state.job(job).unwrap().may_still_lose(2, cell.now);
        assert_eq!(left, Some(1), "four of the five are used up");
        assert_eq!(CellState::decode(&cell.state.encode()).unwrap(), cell.state);
    }

    #[test]
    fn raising_the_level_finds_what_serves_already() {
        let mut cell = Cell::new();
        let (job, ids) = job(&mut cell, service("web", 2, 100, 4 * MIB));
        cell.up(ids[0]);
        assert_eq!(cell.state.job(job).unwrap().counts.serving, 0);
        cell.apply(master(), Action::RaiseLevel { level: 6 }).unwrap();
        assert_eq!(cell.state.job(job).unwrap().counts.serving, 1);
        assert_eq!(cell.state.audit(), []);
    }
}
