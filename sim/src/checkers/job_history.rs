//! What clients asked of each job name and were told, as histories that must be linearizable (I3).
//!
//! One history per name, since no answer about one name depends on another one's state but for the
//! refusals that name it, which are taken as they come. The model is the contract of the cell as a
//! user knows it, not its code: a name is taken while its job lives, numbers of jobs grow, a killed
//! job is dead for good.
//!
//! Jobs also end by themselves. So the model knows, of each job, which tasks may still live; of a
//! service, which never ends by itself, these are exactly the tasks that do.

use super::linearizability::{Model, Operation, Verdict, search};
use borg_cell::rejection::Rejection;
use borg_cell::state::{Answer, CellState};
use borg_proto::command::Action;
use borg_proto::{JobId, JobKey, JobKind, JobSpec};
use std::collections::BTreeMap;

/// Situations looked at for one name at most. Ours: a second or so; ordinary runs need hundreds.
const MOST: usize = 200_000;
/// Most tasks of a simulated job: one bit each.
const MOST_TASKS: u32 = 128;

/// Tasks of a job, a bit each.
type Tasks = u128;
/// What stands for a job that lasts until it is ended as a whole, however many tasks it has.
const STANDING: Tasks = Tasks::MAX;

/// What an operation asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobAsked {
    /// A job of this name.
    Submit {
        /// Its tasks.
        tasks: Tasks,
        /// Whether they can end by themselves.
        may_end: bool,
    },
    /// To end these tasks, or all.
    Kill(Option<Tasks>),
    /// To run these tasks again.
    Rerun(Tasks),
    /// What there is.
    Read,
}

/// What the asker was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobTold {
    /// The job was accepted under this number.
    Accepted(JobId),
    /// Refused because a job of that name lives.
    Lives,
    /// So many tasks were ended.
    Killed(u32),
    /// Tasks run again.
    Reran,
    /// There is no job of that name.
    NoJob,
    /// Refused for another reason; a submission, so no job of that name was alive.
    Refused,
    /// The number of the job and its tasks that live.
    Seen(Option<(JobId, Tasks)>),
}

/// A name, as far as clients can know it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Numbers up to this are used up: the job's that last had the name.
    above: u64,
    /// The job, if there is one: its number as far as known, and its tasks that may live.
    job: Option<(Option<JobId>, Tasks, bool)>,
}

impl Name {
    /// The number of the present job is learned.
    fn pin(&mut self, id: JobId) -> Option<()> {
        let (known, ..) = self.job.as_mut()?;
        let fits = known.map_or(id.0 > self.above, |known| known == id);
        *known = Some(id);
        fits.then_some(())
    }
}

/// The contract of one name.
#[derive(Debug)]
pub struct OneName;

impl Model for OneName {
    type Asked = JobAsked;
    type Told = JobTold;
    type State = Name;

    fn step(&self, state: &Name, asked: &JobAsked, told: Option<&JobTold>) -> Option<Name> {
        let mut next = state.clone();
        let alive = state.job.map_or(0, |(_, alive, _)| alive);
        let may_end = state.job.is_none_or(|(_, _, may_end)| may_end);
        let count = |tasks: Tasks| tasks.count_ones();
        match (asked, told) {
            (JobAsked::Submit { tasks, may_end: ends }, None | Some(JobTold::Accepted(_))) => {
                if alive != 0 && !may_end {
                    return None;
                }
                if let Some((Some(last), ..)) = state.job {
                    next.above = last.0;
                }
                next.job = Some((None, *tasks, *ends));
                if let Some(JobTold::Accepted(id)) = told {
                    next.pin(*id)?;
                }
                Some(next)
            }
            (JobAsked::Submit { .. }, Some(JobTold::Lives)) => (alive != 0).then_some(next),
            (JobAsked::Submit { .. }, Some(JobTold::Refused)) => {
                if let Some((_, tasks, true)) = &mut next.job {
                    *tasks = 0;
                }
                (alive == 0 || may_end).then_some(next)
            }
            (JobAsked::Kill(which), None | Some(JobTold::Killed(_))) => {
                let (_, tasks, _) = next.job.as_mut()?;
                let standing = alive == STANDING;
                let hit = which.map_or(alive, |which| if standing { 0 } else { which & alive });
                *tasks &= !hit;
                let Some(JobTold::Killed(ended)) = told else { return Some(next) };
                let fits = if standing {
                    true
                } else if may_end {
                    *ended <= count(hit)
                } else {
                    *ended == count(hit)
                };
                fits.then_some(next)
            }
            (JobAsked::Rerun(which), None | Some(JobTold::Reran)) => {
                let (_, tasks, may_end) = next.job.as_mut()?;
                // Only of jobs that end by themselves.
                *tasks |= which;
                may_end.then_some(next)
            }
            (JobAsked::Kill(_) | JobAsked::Rerun(_), Some(JobTold::NoJob)) => {
                state.job.is_none().then_some(next)
            }
            (JobAsked::Kill(_) | JobAsked::Rerun(_), Some(JobTold::Refused)) => Some(next),
            (JobAsked::Read, Some(JobTold::Seen(None))) => state.job.is_none().then_some(next),
            (JobAsked::Read, Some(JobTold::Seen(Some((id, seen))))) => {
                next.pin(*id)?;
                let (_, tasks, _) = next.job.as_mut()?;
                *tasks = *seen;
                let fits = if may_end { seen & !alive == 0 } else { *seen == alive };
                fits.then_some(next)
            }
            (JobAsked::Read, None) => Some(next),
            (
                JobAsked::Submit { .. },
                Some(JobTold::Killed(_) | JobTold::Reran | JobTold::NoJob | JobTold::Seen(_)),
            )
            | (
                JobAsked::Kill(_),
                Some(JobTold::Accepted(_) | JobTold::Lives | JobTold::Reran | JobTold::Seen(_)),
            )
            | (
                JobAsked::Rerun(_),
                Some(JobTold::Accepted(_) | JobTold::Lives | JobTold::Killed(_) | JobTold::Seen(_)),
            )
            | (
                JobAsked::Read,
                Some(
                    JobTold::Accepted(_)
                    | JobTold::Lives
                    | JobTold::Killed(_)
                    | JobTold::Reran
                    | JobTold::NoJob
                    | JobTold::Refused,
                ),
            ) => None,
        }
    }
}

/// Client and number of the wish: one operation, however often it is asked.
pub type Asker = (usize, u64);

/// The histories of a run.
#[derive(Debug, Default)]
pub struct JobHistory {
    names: BTreeMap<JobKey, Vec<Operation<JobAsked, JobTold>>>,
    /// Where the operations of unknown outcome stand.
    open: BTreeMap<Asker, (JobKey, usize)>,
    moments: u64,
}

impl JobHistory {
    fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    /// A client asks for something for the first time.
    pub fn asked(&mut self, who: Asker, key: JobKey, what: JobAsked) {
        let asked = self.moment();
        let history = self.names.entry(key.clone()).or_default();
        history.push(Operation { asked, told: None, what });
        self.open.insert(who, (key, history.len() - 1));
    }

    /// A client is told the outcome for the first time; later words change nothing.
    pub fn told(&mut self, who: Asker, what: JobTold) {
        let moment = self.moment();
        let Some((key, place)) = self.open.remove(&who) else { return };
        let history = self.names.get_mut(&key).expect("it was asked under this name");
        history[place].told = Some((moment, what));
    }

    /// How many submissions nobody knows the outcome of.
    #[must_use]
    pub fn unknown_submissions(&self) -> usize {
        let submits = |(key, place): &&(JobKey, usize)| {
            matches!(self.names[key][*place].what, JobAsked::Submit { .. })
        };
        self.open.values().filter(submits).count()
    }

    /// Looks at all histories.
    ///
    /// # Errors
    /// The first that no order explains, or of which it could not be found out.
    pub fn all_linearizable(&self) -> Result<(), String> {
        for (key, history) in &self.names {
            match search(&OneName, Name::default(), history, MOST) {
                Verdict::Linearizable => {}
                Verdict::Impossible(at) => return Err(story(key, history, at)),
                Verdict::GaveUp => {
                    let many = history.len();
                    return Err(format!(
                        "{key}: {many} operations, no order found in {MOST} tries"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// What led to the operation that no order gets past.
fn story(key: &JobKey, history: &[Operation<JobAsked, JobTold>], at: usize) -> String {
    let from = at.saturating_sub(8);
    let line = |(place, operation): (usize, &Operation<JobAsked, JobTold>)| {
        let told = operation.told.as_ref();
        let told = told.map_or("never told".into(), |(at, told)| format!("told at {at}: {told:?}"));
        let here = if place == at { " <- no order gets past this" } else { "" };
        format!("\n    asked at {}: {:?}, {told}{here}", operation.asked, operation.what)
    };
    let lines: Vec<_> =
        history.iter().enumerate().skip(from).take(at - from + 4).map(line).collect();
    format!("{key}: no order of these explains what clients were told:{}", lines.concat())
}

fn bits(tasks: u32) -> Tasks {
    assert!(tasks <= MOST_TASKS, "simulated jobs have at most {MOST_TASKS} tasks");
    if tasks == MOST_TASKS { Tasks::MAX } else { (1 << tasks) - 1 }
}

/// A submission of this job.
#[must_use]
pub fn submission(spec: &JobSpec) -> JobAsked {
    // A job that waits for others ends when one of them fails, and with it the jobs in an alloc set.
    // A child ends with its parent.
    let waits = !spec.after.is_empty() || spec.alloc_set.is_some() || spec.parent.is_some();
    let may_end = spec.kind == JobKind::Batch || waits;
    let tasks = if spec.kind.stands() { STANDING } else { bits(spec.tasks) };
    JobAsked::Submit { tasks, may_end }
}

/// What a change asks of a job name, if it is about one.
#[must_use]
pub fn asked(action: &Action, by: &borg_proto::UserName) -> Option<(JobKey, JobAsked)> {
    match action {
        Action::SubmitJob { spec } => Some((spec.key(by), submission(spec))),
        Action::Kill { job, tasks } if tasks.is_empty() => {
            Some((job.clone(), JobAsked::Kill(None)))
        }
        Action::Kill { job, tasks } => {
            let tasks = tasks.iter().fold(0, |all, index| all | 1 << (index % MOST_TASKS));
            Some((job.clone(), JobAsked::Kill(Some(tasks))))
        }
        Action::Rerun { job, tasks } => {
            let tasks = tasks.iter().fold(0, |all, index| all | 1 << (index % MOST_TASKS));
            Some((job.clone(), JobAsked::Rerun(tasks)))
        }
        Action::AddMachine { .. }
        | Action::OrderCron { .. }
        | Action::RescueData { .. }
        | Action::RemoveMachine { .. }
        | Action::GiveUp { .. }
        | Action::InviteMaster { .. }
        | Action::JoinMaster { .. }
        | Action::RemoveMaster { .. }
        | Action::ForgetMaster { .. }
        | Action::RaiseLevel { .. }
        | Action::SetQuota { .. }
        | Action::RemoveQuota { .. }
        | Action::EnforceQuota { .. }
        | Action::ResizeAllocs { .. }
        | Action::SetPolicy { .. }
        | Action::SetReclamation { .. }
        | Action::KeepMachines { .. }
        | Action::CloseMachines { .. }
        | Action::OpenMachines { .. }
        | Action::DrainMachines { .. }
        | Action::UndrainMachines { .. }
        | Action::EndMaintenance { .. }
        | Action::PutPackage { .. }
        | Action::RemovePackage { .. }
        | Action::GrantPrivilege { .. }
        | Action::RevokePrivilege { .. }
        | Action::Settle
        | Action::Advance
        // They leave the tasks alive, and as many as there were.
        | Action::UpdateJob { .. }
        | Action::SteerUpdate { .. }
        | Action::StopTasks { .. }
        | Action::StartTasks { .. }
        | Action::Lead { .. }
        | Action::Place { .. }
        | Action::Observe { .. } => None,
    }
}

/// An outcome, as the history keeps it.
#[must_use]
pub fn told(result: &Result<Answer, Rejection>) -> JobTold {
    match result {
        Ok(Answer::Job { id, .. }) => JobTold::Accepted(*id),
        Ok(Answer::Killed { tasks }) => JobTold::Killed(*tasks),
        Ok(Answer::Rerun { .. }) => JobTold::Reran,
        Err(Rejection::JobAlive { .. }) => JobTold::Lives,
        Err(Rejection::NoSuchJob { .. }) => JobTold::NoJob,
        Ok(
            Answer::None
            | Answer::Version(_)
            | Answer::Machine(_)
            | Answer::Master(_)
            | Answer::Placed { .. },
        )
        | Err(_) => JobTold::Refused,
    }
}

/// What a read of a name sees in a state.
#[must_use]
pub fn seen(state: &CellState, key: &JobKey) -> Option<(JobId, Tasks)> {
    let job = state.job_named(key)?;
    if job.spec.kind.stands() {
        return Some((job.id, if job.is_alive() { STANDING } else { 0 }));
    }
    let alive = state.tasks_of(job.id).filter(|(_, task)| !task.is_dead());
    Some((job.id, alive.fold(0, |all, (id, _)| all | 1 << (id.index % MOST_TASKS))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(tasks: u32) -> JobAsked {
        JobAsked::Submit { tasks: bits(tasks), may_end: false }
    }

    fn batch(tasks: u32) -> JobAsked {
        JobAsked::Submit { tasks: bits(tasks), may_end: true }
    }

    /// Operations one after the other; `None` for one whose outcome nobody knows.
    fn row(steps: &[(JobAsked, Option<JobTold>)]) -> bool {
        let mut history = JobHistory::default();
        let key: JobKey = "ann/web".parse().unwrap();
        for (number, (asked, told)) in (0..).zip(steps) {
            history.asked((0, number), key.clone(), asked.clone());
            if let Some(told) = told {
                history.told((0, number), told.clone());
            }
        }
        history.all_linearizable().is_ok()
    }

    const KILL: JobAsked = JobAsked::Kill(None);
    const READ: JobAsked = JobAsked::Read;

    fn accepted(id: u64) -> Option<JobTold> {
        Some(JobTold::Accepted(JobId(id)))
    }

    fn killed(tasks: u32) -> Option<JobTold> {
        Some(JobTold::Killed(tasks))
    }

    fn sees(id: u64, tasks: Tasks) -> Option<JobTold> {
        Some(JobTold::Seen(Some((JobId(id), tasks))))
    }

    #[test]
    fn an_ordinary_life_is_explained() {
        assert!(row(&[
            (READ, Some(JobTold::Seen(None))),
            (KILL, Some(JobTold::NoJob)),
            (service(3), accepted(4)),
            (service(3), Some(JobTold::Lives)),
            (JobAsked::Kill(Some(1)), killed(1)),
            (JobAsked::Kill(Some(1)), killed(0)),
            (READ, sees(4, 0b110)),
            (KILL, killed(2)),
            (READ, sees(4, 0)),
            (batch(2), accepted(9)),
            (READ, sees(9, 0b10)),
            (KILL, killed(0)),
            (service(1), accepted(11)),
        ]));
    }

    #[test]
    fn a_lost_job_is_found() {
        assert!(!row(&[(service(1), accepted(1)), (READ, Some(JobTold::Seen(None)))]));
        assert!(!row(&[(service(1), accepted(1)), (KILL, Some(JobTold::NoJob))]));
        assert!(!row(&[(service(1), accepted(1)), (service(1), accepted(2))]));
    }

    #[test]
    fn a_killed_job_that_lives_is_found() {
        let first = (service(2), accepted(1));
        assert!(!row(&[first.clone(), (KILL, killed(2)), (READ, sees(1, 0b11))]));
        assert!(!row(&[first.clone(), (KILL, killed(2)), (KILL, killed(2))]));
        assert!(!row(&[first, (KILL, killed(2)), (service(1), Some(JobTold::Lives))]));
        let ended = (READ, sees(1, 0b01));
        assert!(!row(&[(batch(2), accepted(1)), ended, (READ, sees(1, 0b11))]));
    }

    #[test]
    fn a_read_of_the_past_is_found() {
        assert!(!row(&[
            (service(1), accepted(1)),
            (KILL, killed(1)),
            (service(1), accepted(5)),
            (READ, sees(1, 0)),
        ]));
    }

    #[test]
    fn a_number_given_twice_or_going_back_is_found() {
        let dead = |id| [(service(1), accepted(id)), (KILL, killed(1))];
        assert!(!row(&[dead(5), dead(5)].concat()));
        assert!(!row(&[dead(5), dead(4)].concat()));
    }

    #[test]
    fn what_nobody_was_told_may_have_happened_or_not_but_not_twice() {
        let lost = (service(1), None);
        assert!(row(&[lost.clone(), (READ, Some(JobTold::Seen(None)))]));
        assert!(row(&[lost.clone(), (READ, sees(3, 1)), (KILL, killed(1))]));
        let again = [(READ, sees(3, 1)), (KILL, killed(1)), (READ, sees(4, 1))];
        assert!(!row(&[&[lost.clone()][..], &again].concat()));
        assert!(row(&[&[lost.clone(), lost][..], &again].concat()));
    }

    #[test]
    fn a_submission_refused_for_another_reason_says_that_no_such_job_was_alive() {
        assert!(!row(&[(service(1), accepted(1)), (service(1), Some(JobTold::Refused))]));
        assert!(row(&[(batch(1), accepted(1)), (service(1), Some(JobTold::Refused))]));
    }
}
