//! What takes too long: single runs of a batch job's tasks, and the whole job.
//!
//! The cell ends them, by its own time, when an entry is applied at or after the moment; the machine hears of it
//! as of any task that is to go, SIGTERM first, and needs no clock of its own for it. A run is counted from when
//! its task was placed, so what it takes to fetch its packages is a part of it. One that runs out has failed,
//! and is tried again as often as its job allows.
//!
//! Invariant: `run_out` of a job has the placed tasks of a job with a time-out, and no others.

use super::Job;
use super::runs::RunOver;
use super::turn::Turn;
use borg_proto::task::{FailureCause, Placement, TaskEnd};
use borg_proto::{JobId, Millis, TaskId};

/// Most runs of one job that one entry ends for running out. 1,000: our choice; the rest follow in the next.
const MOST_AT_ONCE: usize = 1_000;

impl Job {
    /// Until when a placed task may run, if that is bounded.
    pub(crate) fn runs_until(&self, placement: &Placement) -> Option<Millis> {
        self.spec.timeout_ms.map(|timeout| placement.placed_at + timeout)
    }

    /// When it has to be over as a whole.
    #[must_use]
    pub fn deadline(&self) -> Option<Millis> {
        let own = !self.spec.kind.stands();
        self.spec.deadline_ms.filter(|_| own).map(|deadline| self.began() + deadline)
    }

    /// When the next of its runs has run out, or it has.
    pub(super) fn timeout_due(&self) -> Option<Millis> {
        let run = self.run_out.get_min().map(|(until, _)| *until);
        run.into_iter().chain(self.deadline()).min()
    }
}

impl Turn<'_> {
    /// Another time-out counts for what is placed too.
    pub(super) fn recount_run_out(&mut self, id: JobId) {
        let job = self.job_mut(id);
        let placed = job.tasks.iter().zip(0..);
        let until =
            placed.filter_map(|(task, index)| Some((job.runs_until(task.placement()?)?, index)));
        job.run_out = until.collect();
    }

    /// Ends what has run out of a job.
    pub(super) fn run_out(&mut self, id: JobId) {
        let at = self.at;
        let Some(job) = self.state.job(id).filter(|job| job.is_alive()) else { return };
        if let (Some(until), Some(after)) = (job.deadline(), job.spec.deadline_ms)
            && until <= at
        {
            self.end_whole(id, &TaskEnd::Failed { cause: FailureCause::Deadline { after } });
            return;
        }
        let Some(after) = job.spec.timeout_ms else { return };
        // Each end stirs its job again; what is left is for the next entry, as the alarm stays due.
        if self.timed_out.contains(&id) {
            return;
        }
        let retries = job.spec.retries;
        let over = job.run_out.iter().take_while(|(until, _)| *until <= at).take(MOST_AT_ONCE);
        let over: Vec<TaskId> = over.map(|(_, index)| TaskId { job: id, index: *index }).collect();
        if !over.is_empty() {
            self.timed_out.insert(id);
        }
        for task in over {
            // The end of one may have ended the others.
            if self.state.task(task).is_some_and(|task| task.placement().is_some()) {
                let cause = FailureCause::Timeout { after };
                self.note_run(task, RunOver::Failed(cause.clone()), None);
                self.task_failed(task, cause, false, Some(retries));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::MOST_AT_ONCE;
    use crate::fixture::{Cell, batch, master, with_task};
    use crate::state::JobState;
    use borg_proto::command::{Action, Assignment};
    use borg_proto::{FailureCause, JobId, JobSpec, Millis, TaskId, TaskSpec, TaskState};

    const MIB: u64 = 1 << 20;

    fn timed() -> JobSpec {
        JobSpec { timeout_ms: Some(Millis(10_000)), retries: 1, ..batch("crunch", 2, 100, 4 * MIB) }
    }

    fn tiny(task: &mut TaskSpec) {
        task.limit.cpu_milli = 1;
    }

    fn note(cell: &Cell, job: JobId) -> String {
        cell.state.job(job).unwrap().note(&cell.state)
    }

    #[test]
    fn a_run_that_takes_too_long_has_failed_and_is_tried_again() {
        let mut cell = Cell::at_level(6);
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let job = cell.submit("ann", timed());
        let first = cell.place(job, 0, machine).unwrap();
        assert_eq!(cell.state.next_alarm(), Some(cell.now + Millis(10_000)));
        cell.wait(9_999);
        cell.advance();
        assert!(cell.state.task(first.task).unwrap().placement().is_some());
        cell.wait(1);
        cell.advance();
        assert!(matches!(cell.state.task(first.task).unwrap().state, TaskState::Pending { .. }));
        assert_eq!(cell.state.machine(machine).unwrap().tasks.len(), 0, "its machine kills it");
        cell.wait(10_000);
        cell.place(job, 0, machine).unwrap();
        cell.wait(10_000);
        cell.advance();
        assert_eq!(note(&cell, job), "task 0 failed: timeout after 10000 ms");
        assert_eq!(cell.state.next_alarm(), None);
    }

    /// An entry that ends very many would hold up the others.
    #[test]
    fn so_many_run_out_in_one_entry_and_the_rest_in_the_next() {
        let mut cell = Cell::at_level(6);
        let tasks = u32::try_from(MOST_AT_ONCE + 200).unwrap();
        let machines = ["m-1", "m-2"].map(|name| cell.machine(name, 1000, 1 << 40));
        let job = cell.submit("ann", JobSpec { tasks, ..with_task(timed(), tiny) });
        let place = |index: u32| {
            Assignment::new(TaskId { job, index }, machines[usize::from(index >= 600)])
        };
        let assignments = (0..tasks).map(place).collect();
        cell.apply(master(), Action::Place { assignments }).unwrap();
        let running = |cell: &Cell| cell.state.job(job).unwrap().counts.running;
        assert_eq!(running(&cell), tasks);
        cell.wait(10_000);
        cell.advance();
        assert_eq!(running(&cell), 200);
        assert!(cell.state.next_alarm().is_some_and(|at| at <= cell.now), "the next entry is due");
        cell.advance();
        assert_eq!(running(&cell), 0);
        assert_eq!(cell.state.next_alarm(), None);
    }

    #[test]
    fn a_run_that_ends_in_time_sets_no_alarm_any_more() {
        let mut cell = Cell::at_level(6);
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let job = cell.submit("ann", timed());
        for index in [0, 1] {
            let id = cell.place(job, index, machine).unwrap();
            cell.ended(id, None);
        }
        assert_eq!(cell.state.job(job).unwrap().state(), JobState::Finished);
        assert_eq!(cell.state.next_alarm(), None);
    }

    #[test]
    fn a_job_that_is_not_over_by_its_deadline_fails_with_what_runs_and_what_waits() {
        let mut cell = Cell::at_level(6);
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let spec =
            JobSpec { deadline_ms: Some(Millis(60_000)), ..batch("crunch", 3, 100, 4 * MIB) };
        let job = cell.submit("ann", spec);
        let done = cell.place(job, 0, machine).unwrap();
        cell.ended(done, None);
        cell.place(job, 1, machine).unwrap();
        cell.wait(60_000);
        cell.advance();
        let found = cell.state.job(job).unwrap();
        assert_eq!((found.state(), found.counts.failed), (JobState::Failed, 2));
        assert_eq!(note(&cell, job), "task 1 failed: its job was not over after 60000 ms");
    }

    #[test]
    fn some_tasks_may_fail_for_good_and_the_others_go_on() {
        let mut cell = Cell::at_level(6);
        let machine = cell.machine("m-1", 1000, 64 * MIB);
        let job =
            cell.submit("ann", JobSpec { max_failures: 1, ..batch("array", 4, 100, 4 * MIB) });
        let mut fail = |index| {
            let id = cell.place(job, index, machine).unwrap();
            cell.ended(id, Some(FailureCause::Exit { code: 1 }));
            cell.state.job(job).unwrap().counts
        };
        assert_eq!((fail(1).alive(), fail(3).alive()), (3, 0));
        let task = TaskId { job, index: 0 };
        let TaskState::Dead { end, .. } = &cell.state.task(task).unwrap().state else { panic!() };
        assert_eq!(end.to_string(), "killed by the failure of task 3");
        assert_eq!(note(&cell, job), "task 1 failed: exit code 1");
    }
}
