//! Fewer tasks: the last slots of a job end and leave it.
//!
//! Invariant: no number of an incarnation is given twice, also when the job grows again later.

use super::super::turn::Turn;
use borg_proto::task::TaskEnd;
use borg_proto::{JobId, TaskId, UserName};

impl Turn<'_> {
    /// Ends the slots from `tasks` on and takes them out of a job.
    pub(super) fn drop_slots(&mut self, id: JobId, tasks: u32, by: &UserName) {
        let there = self.state.job(id).map_or(0, |job| job.spec.tasks);
        let end = TaskEnd::Killed { by: by.to_string() };
        let gone: Vec<TaskId> = (tasks..there).map(|index| TaskId { job: id, index }).collect();
        for task in &gone {
            if self.state.task(*task).is_some_and(|task| !task.is_dead()) {
                self.end_task(*task, end.clone());
            }
            self.state.runs.forget_task(*task);
        }
        if gone.is_empty() {
            return;
        }
        self.amend(id, |job| {
            for task in gone.iter().rev() {
                let Some(slot) = job.tasks.pop_back() else { break };
                debug_assert!(slot.is_dead(), "{task} was ended before it goes");
                job.counts.forget(&slot.state);
                job.retired = job.retired.max(slot.incarnations);
            }
            job.recount_versions();
        });
        self.state.live_slots -= u64::from(there - tasks);
    }
}
