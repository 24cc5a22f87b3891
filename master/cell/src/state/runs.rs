//! How runs of tasks ended: what stays readable when their machine is gone.
//!
//! Noted are runs that finished, failed or were pushed out; a kill says all that there is to say of itself in
//! the task's state. Failures matter most and alone carry what the run wrote last, so they have a share of
//! their own that nothing else takes from them.
//!
//! Invariant: there are at most [`RUNS_OF_A_TASK`] of a task, [`RUNS_OF_A_JOB`] of a job, and
//! [`RUNS_KEPT`] of failures and of all others each: some 20 MiB of a cell at the very most, however many
//! tasks it has. Of a task or job the oldest goes first that is no failure, else the oldest, and the newest stays;
//! of the cell, the oldest of the user who has the most, so that nobody's failures push out those of somebody
//! who has fewer.

use super::CellState;
use super::turn::Turn;
use borg_proto::command::RUN_ENDS_SINCE;
use borg_proto::task::{EvictCause, FailureCause, Placement, RunEnd};
use borg_proto::wire::pb;
use borg_proto::{JobId, MachineName, Millis, TaskId, UserName};
use imbl::{OrdMap, OrdSet};
use std::sync::Arc;

/// Most runs kept of a task: ours.
pub const RUNS_OF_A_TASK: usize = 5;
/// Most runs kept of a job, so that one that fails a thousand times leaves room for the others: ours.
pub const RUNS_OF_A_JOB: usize = 200;
/// Most failed runs kept of the cell, and most others: ours, 20,000 times 1 KiB of last lines.
pub const RUNS_KEPT: usize = 20_000;

/// A run of a task that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRun {
    /// Whose.
    pub task: TaskId,
    /// Of which incarnation.
    pub incarnation: u32,
    /// Where it was; the machine may have been removed since.
    pub machine: MachineName,
    /// When the incarnation was placed there, in cell time.
    pub placed: Millis,
    /// When the cell heard of the end, in cell time.
    pub at: Millis,
    /// How it ended, for the cell.
    pub over: RunOver,
    /// What the machine told of it, if it did.
    pub told: Option<Arc<RunEnd>>,
}

/// How a run ended, for the cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunOver {
    /// It exited with 0, as it should.
    Finished,
    /// It failed.
    Failed(FailureCause),
    /// It was pushed out.
    Evicted(EvictCause),
}

impl TaskRun {
    fn is_failure(&self) -> bool {
        matches!(self.over, RunOver::Failed(_))
    }
}

/// The runs that are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    /// How many were ever noted: the number of the last.
    pub(crate) noted: u64,
    /// By number.
    runs: OrdMap<u64, Arc<TaskRun>>,
    failures: Share,
    others: Share,
    by_job: OrdMap<JobId, OfJob>,
}

/// The runs of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OfJob {
    owner: UserName,
    /// Number, and index of the task, by number: few enough to be looked through.
    runs: Vec<(u64, u32)>,
}

impl OfJob {
    /// The numbers of one task's, in order.
    fn of_task(&self, index: u32) -> impl DoubleEndedIterator<Item = u64> {
        self.runs.iter().filter(move |(_, other)| *other == index).map(|(number, _)| *number)
    }
}

/// The numbers of failures, or of other runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Share {
    count: usize,
    of_users: OrdMap<UserName, OrdSet<u64>>,
    /// How many each user has.
    sizes: OrdSet<(usize, UserName)>,
}

impl Share {
    /// Adds a number that is larger than all others. Gives one that is too much then, and is not there any more: the
    /// oldest of whoever has the most, of the last by name when there are several.
    fn add(&mut self, owner: &UserName, number: u64) -> Option<u64> {
        let numbers = self.of_users.entry(owner.clone()).or_default();
        let before = numbers.len();
        numbers.insert(number);
        let most = self.sizes.get_max().map(|(size, user)| (*size, user));
        // Mostly it is the same user's, and nobody has more or fewer than before.
        if before > 0 && self.count == RUNS_KEPT && most < Some((before + 1, owner)) {
            return numbers.remove_min();
        }
        self.resized(owner, before, before + 1);
        let (_, most) = self.sizes.get_max().filter(|_| self.count > RUNS_KEPT)?;
        let (most, oldest) = (most.clone(), self.of_users.get(most)?.get_min().copied()?);
        self.remove(&most, oldest);
        Some(oldest)
    }

    fn remove(&mut self, owner: &UserName, number: u64) {
        let Some(numbers) = self.of_users.get_mut(owner) else { return };
        let before = numbers.len();
        numbers.remove(&number);
        let now = numbers.len();
        if now == 0 {
            self.of_users.remove(owner);
        }
        self.resized(owner, before, now);
    }

    fn resized(&mut self, owner: &UserName, before: usize, now: usize) {
        self.count = self.count + now - before;
        self.sizes.remove(&(before, owner.clone()));
        if now > 0 {
            self.sizes.insert((now, owner.clone()));
        }
    }
}

impl Runs {
    fn note(&mut self, owner: &UserName, run: TaskRun) {
        self.noted += 1;
        self.add(self.noted, owner, run);
    }

    /// Adds a run of a job of `owner` with its number, which is larger than all before it, and lets go what is
    /// too much.
    pub(crate) fn add(&mut self, number: u64, owner: &UserName, run: TaskRun) {
        let (task, failure) = (run.task, run.is_failure());
        self.runs.insert(number, Arc::new(run));
        let none = || OfJob { owner: owner.clone(), runs: Vec::new() };
        self.by_job.entry(task.job).or_insert_with(none).runs.push((number, task.index));
        // The share of the cell is looked at last: there may be room in it by then.
        if let Some(number) = self.too_much_of(task) {
            self.drop_run(number);
        }
        if let Some(number) = self.share(failure).add(owner, number) {
            self.unlink(number);
        }
    }

    /// What goes when there is one too many of a task, or of its job. Never both: what a task lets go, its job has
    /// to let go no more.
    fn too_much_of(&self, task: TaskId) -> Option<u64> {
        let of_job = self.by_job.get(&task.job)?;
        if of_job.of_task(task.index).nth(RUNS_OF_A_TASK).is_some() {
            return self.least_worth(of_job.of_task(task.index));
        }
        let all = of_job.runs.iter().map(|(number, _)| *number);
        if of_job.runs.len() > RUNS_OF_A_JOB { self.least_worth(all) } else { None }
    }

    /// The numbers of a task's runs, in order.
    fn of_task(&self, task: TaskId) -> impl DoubleEndedIterator<Item = u64> {
        let of_job = self.by_job.get(&task.job).into_iter();
        of_job.flat_map(move |of_job| of_job.of_task(task.index))
    }

    /// The oldest that is no failure, else the oldest; but never the newest.
    fn least_worth(&self, numbers: impl Iterator<Item = u64>) -> Option<u64> {
        let mut numbers = numbers.peekable();
        let oldest = numbers.next()?;
        numbers.peek()?;
        let mut older = Some(oldest);
        while let Some(number) = older {
            if self.runs.get(&number).is_some_and(|run| !run.is_failure()) {
                return Some(number);
            }
            older = numbers.next().filter(|_| numbers.peek().is_some());
        }
        Some(oldest)
    }

    fn share(&mut self, failure: bool) -> &mut Share {
        if failure { &mut self.failures } else { &mut self.others }
    }

    fn drop_run(&mut self, number: u64) {
        if let Some((owner, failure)) = self.unlink(number) {
            self.share(failure).remove(&owner, number);
        }
    }

    /// Lets go of a run that its share does not count any more; gives whose it was, and whether it was a failure.
    fn unlink(&mut self, number: u64) -> Option<(UserName, bool)> {
        let run = self.runs.remove(&number)?;
        let of_job = self.by_job.get_mut(&run.task.job)?;
        of_job.runs.retain(|(other, _)| *other != number);
        let owner = of_job.owner.clone();
        if of_job.runs.is_empty() {
            self.by_job.remove(&run.task.job);
        }
        Some((owner, run.is_failure()))
    }

    /// Lets go of all that is kept of a job.
    pub(super) fn forget(&mut self, job: JobId) {
        let runs = self.by_job.get(&job).map(|of_job| of_job.runs.clone());
        for (number, _) in runs.unwrap_or_default() {
            self.drop_run(number);
        }
    }

    /// Lets go of all that is kept of a task.
    pub(super) fn forget_task(&mut self, task: TaskId) {
        for number in self.of_task(task).collect::<Vec<_>>() {
            self.drop_run(number);
        }
    }

    /// All, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &TaskRun)> {
        self.runs.iter().map(|(number, run)| (*number, run.as_ref()))
    }
}

impl CellState {
    /// How the last runs of a task ended that are still known, the newest first.
    pub fn runs_of(&self, task: TaskId) -> impl Iterator<Item = &TaskRun> {
        let numbers = self.runs.of_task(task).rev();
        numbers.filter_map(|number| self.runs.runs.get(&number).map(Arc::as_ref))
    }

    /// What is wrong with the runs that are kept, in words.
    pub(super) fn audit_runs(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut rebuilt = Runs { noted: self.runs.noted, ..Runs::default() };
        for (number, run) in self.runs.iter() {
            if number == 0 || number > self.runs.noted {
                wrong.push(format!("run {number} of {}", self.runs.noted));
            }
            if self.task(run.task).is_none_or(|task| run.incarnation > task.incarnations) {
                wrong.push(format!("run {number} of {} incarnation {}", run.task, run.incarnation));
            }
            match self.job(run.task.job) {
                Some(job) => rebuilt.add(number, job.owner(), run.clone()),
                None => {
                    wrong.push(format!("run {number} of {}, a job that is not there", run.task))
                }
            }
        }
        if self.level < RUN_ENDS_SINCE && self.runs.noted > 0 {
            wrong.push(format!("{} runs on level {}", self.runs.noted, self.level));
        }
        if rebuilt != self.runs {
            wrong.push("indexes or bounds do not fit the runs".to_owned());
        }
        wrong
    }
}

impl Turn<'_> {
    /// Notes how a run of the present incarnation of a task ended, while its placement is still there.
    pub(super) fn note_run(&mut self, id: TaskId, over: RunOver, told: Option<&RunEnd>) {
        let Some(placement) = self.state.task(id).and_then(super::Task::placement) else { return };
        self.note_run_of(id, &placement.clone(), over, told);
    }

    /// The same of an incarnation that is placed so.
    pub(super) fn note_run_of(
        &mut self,
        id: TaskId,
        placement: &Placement,
        over: RunOver,
        told: Option<&RunEnd>,
    ) {
        if self.state.level < RUN_ENDS_SINCE {
            return;
        }
        let Some(machine) = self.state.machine(placement.machine) else { return };
        let Some(job) = self.state.job(id.job) else { return };
        let owner = job.owner().clone();
        let run = TaskRun {
            task: id,
            incarnation: placement.incarnation,
            machine: machine.name.clone(),
            placed: placement.placed_at,
            at: self.at,
            // Only failures leave words behind.
            told: told.map(|end| storable(end, matches!(over, RunOver::Failed(_)))),
            over,
        };
        self.state.runs.note(&owner, run);
    }
}

/// As it can be written to a checkpoint.
fn storable(end: &RunEnd, failed: bool) -> Arc<RunEnd> {
    let bare = RunEnd { failure: None, last_lines: String::new(), ..end.clone() };
    let whole = RunEnd::try_from(pb::RunEnd::from(end)).ok().filter(|_| failed);
    Arc::new(whole.unwrap_or(bare))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(job: u64, index: u32, failed: bool) -> TaskRun {
        TaskRun {
            task: TaskId { job: JobId(job), index },
            incarnation: 1,
            machine: "m-1".parse().unwrap(),
            placed: Millis(1),
            at: Millis(2),
            over: if failed { RunOver::Failed(FailureCause::Lost) } else { RunOver::Finished },
            told: None,
        }
    }

    fn user(name: &str) -> UserName {
        UserName::new(name).unwrap()
    }

    #[test]
    fn the_oldest_of_a_task_and_of_a_job_go_first() {
        let mut runs = Runs::default();
        for _ in 0..RUNS_OF_A_TASK + 2 {
            runs.note(&user("ann"), run(1, 0, true));
        }
        let numbers: Vec<u64> = runs.iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, [3, 4, 5, 6, 7]);
        for index in 0..2 * u32::try_from(RUNS_OF_A_JOB).unwrap() {
            runs.note(&user("ann"), run(2, index, true));
        }
        assert_eq!(runs.by_job[&JobId(2)].runs.len(), RUNS_OF_A_JOB);
        assert_eq!(runs.by_job[&JobId(1)].runs.len(), RUNS_OF_A_TASK, "another job loses nothing");
        runs.forget(JobId(2));
        assert_eq!(runs.iter().count(), RUNS_OF_A_TASK);
        assert_eq!(runs.by_job.len(), 1);
    }

    /// Five drains, and the crash before them is still explained.
    #[test]
    fn drains_push_out_each_other_and_no_failure_of_the_task() {
        let mut runs = Runs::default();
        runs.note(&user("ann"), run(1, 0, true));
        for _ in 0..9 {
            runs.note(&user("ann"), run(1, 0, false));
        }
        let numbers: Vec<u64> = runs.iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, [1, 7, 8, 9, 10]);
        for _ in 0..4 {
            runs.note(&user("ann"), run(1, 0, true));
        }
        assert_eq!(runs.iter().filter(|(_, run)| run.is_failure()).count(), RUNS_OF_A_TASK);
        runs.note(&user("ann"), run(1, 0, false));
        let numbers: Vec<u64> = runs.iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, [11, 12, 13, 14, 15], "the newest is always there");
    }

    /// What its task lets go makes room in its job as well.
    #[test]
    fn one_run_more_costs_one() {
        let mut runs = Runs::default();
        let all = u32::try_from(RUNS_OF_A_JOB).unwrap();
        for number in 0..all {
            runs.note(&user("ann"), run(1, number / 5, true));
        }
        runs.note(&user("ann"), run(1, all / 5 - 1, true));
        assert_eq!(runs.iter().count(), RUNS_OF_A_JOB);
    }

    #[test]
    fn runs_that_finish_push_out_no_failure() {
        let mut runs = Runs::default();
        runs.note(&user("ann"), run(1, 0, true));
        for job in 0..=RUNS_KEPT as u64 {
            runs.note(&user("ann"), run(2 + job, 0, false));
        }
        assert_eq!((runs.failures.count, runs.others.count), (1, RUNS_KEPT));
        assert_eq!(runs.runs.len(), RUNS_KEPT + 1);
    }

    /// However many jobs of one user fail, and whoever failed first.
    #[test]
    fn a_user_whose_jobs_fail_a_lot_pushes_out_nobody_elses_failures() {
        let mut runs = Runs::default();
        let [ann, bob] = ["ann", "bob"].map(user);
        runs.note(&ann, run(1, 0, true));
        runs.note(&ann, run(1, 1, true));
        for job in 0..RUNS_KEPT as u64 + 10 {
            runs.note(&bob, run(2 + job, 0, true));
        }
        assert_eq!(runs.failures.of_users[&ann].len(), 2);
        assert_eq!(runs.failures.of_users[&bob].len(), RUNS_KEPT - 2);
        assert_eq!(runs.failures.count, RUNS_KEPT);
        let oldest_of_bob = runs.failures.of_users[&bob].get_min().copied();
        assert_eq!(oldest_of_bob, Some(15), "the twelve that came first went");
        // The share of a user whose jobs are forgotten is free.
        runs.forget(JobId(1));
        assert!(!runs.failures.of_users.contains_key(&ann));
        assert_eq!(runs.failures.count, RUNS_KEPT - 2);
    }

    /// What stays is what its machine told, in cells that know of it, for as long as the job is known.
    #[test]
    fn a_run_is_noted_with_what_its_machine_told() {
        use crate::fixture::{Cell, batch};
        use borg_proto::command::Observation;
        for (level, kept) in [(RUN_ENDS_SINCE - 1, 0), (RUN_ENDS_SINCE, 2)] {
            let mut cell = Cell::new();
            cell.state.level = level;
            let machine = cell.machine("m-1", 1000, 64 << 20);
            let mut spec = batch("crash", 1, 100, 4 << 20);
            spec.retries = 1;
            let job = cell.submit("ann", spec);
            for failure in [Some(FailureCause::Exit { code: 3 }), None] {
                cell.wait(10_000);
                let id = cell.place(job, 0, machine).unwrap();
                let end = RunEnd {
                    run: 0,
                    started: Some(cell.now),
                    ended: cell.now,
                    failure: failure.clone(),
                    cpu_ms: 5,
                    ram_peak_bytes: 7,
                    last_lines: "no such table\u{1b}[2J".to_owned(),
                };
                let run = Some(Arc::new(end));
                cell.observe(Observation::TaskEnded { id, at: cell.now, failure, run });
            }
            let runs: Vec<TaskRun> =
                cell.state.runs_of(TaskId { job, index: 0 }).cloned().collect();
            assert_eq!(runs.len(), kept);
            assert_eq!(cell.state.audit(), []);
            let bytes = cell.state.encode();
            assert_eq!(CellState::decode(&bytes).unwrap(), cell.state);
            let [finished, failed] = runs.as_slice() else { continue };
            assert_eq!((&finished.over, finished.incarnation), (&RunOver::Finished, 2));
            assert_eq!(failed.over, RunOver::Failed(FailureCause::Exit { code: 3 }));
            let told = |run: &TaskRun| run.told.as_ref().unwrap().last_lines.clone();
            assert_eq!(told(finished), "", "only failures leave words");
            assert_eq!(told(failed), "no such table\\u{1b}[2J", "and harmless ones");
        }
    }
}
