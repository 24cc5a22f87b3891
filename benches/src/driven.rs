//! A cell in this process, its real state driven by real commands, and its real scheduler beside it.
//!
//! Every change goes through [`CellState::apply`], every decision comes from
//! [`Scheduler::pass`](borg_scheduler::Scheduler::pass); nothing here places anything. [`Timed`] adds
//! up the processor time that the scheduler took, so that setting up and applying are not counted.
//!
//! Invariant: `running` is what the state says runs.

use crate::{Error, clock};
use borg_cell::event::{Event, EventKind, TaskChange};
use borg_cell::fixture::{master, user};
use borg_cell::state::{Answer, CellState};
use borg_proto::command::{Action, Assignment, Command, LEVEL, Observation, Principal};
use borg_proto::identity::ADMIN;
use borg_proto::machine::MachineAddress;
use borg_proto::{
    Band, CellName, IncarnationId, JobId, JobKey, JobSpec, MachineId, MachineInfo, Millis,
    Resources, TaskId, UserName,
};
use borg_scheduler::{Config, Scheduler};
use borg_sim::dice::Dice;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most decisions of one pass, as in a Borgmaster.
pub const DECISIONS: usize = 512;

/// A placed task.
#[derive(Debug, Clone, Copy)]
struct Placed {
    id: IncarnationId,
    cpu_milli: u64,
}

/// Processor time that applying took, in milliseconds, by what the entries were about.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Applying {
    /// Submitting jobs.
    pub submit_ms: f64,
    /// Placing tasks.
    pub place_ms: f64,
    /// Seeing tasks up.
    pub up_ms: f64,
    /// Seeing tasks end, and killing jobs.
    pub end_ms: f64,
}

impl Applying {
    /// All of it.
    #[must_use]
    pub fn total_ms(&self) -> f64 {
        self.submit_ms + self.place_ms + self.up_ms + self.end_ms
    }

    /// Counts the time that an entry took.
    fn add(&mut self, action: &Action, ms: f64) {
        match action {
            Action::SubmitJob { .. } => self.submit_ms += ms,
            Action::Place { .. } => self.place_ms += ms,
            Action::Kill { .. } => self.end_ms += ms,
            Action::Observe { changes } => match changes.first() {
                Some(Observation::TaskUp { .. }) => self.up_ms += ms,
                Some(Observation::TaskEnded { .. }) => self.end_ms += ms,
                _ => {}
            },
            _ => {}
        }
    }
}

/// A cell that is driven by commands of our own.
#[derive(Debug, Clone)]
pub struct Driven {
    /// The state.
    pub state: CellState,
    /// What applying took so far.
    pub applying: Applying,
    /// Events that no scheduler was told yet.
    news: Vec<Event>,
    at: Millis,
    running: Vec<Placed>,
    place_of: BTreeMap<TaskId, usize>,
    cpu_placed: u64,
    /// Incarnations that were placed and not seen to run yet.
    starting: Vec<IncarnationId>,
    /// Owners who may use the monitoring band.
    watchers: BTreeSet<UserName>,
}

impl Driven {
    /// A cell with these machines, all up.
    ///
    /// # Errors
    /// When the state refuses one.
    pub fn with_machines(machines: &[MachineInfo]) -> Result<Self, Error> {
        let mut cell = Self {
            state: CellState::found(CellName::new("driven")?, &[], LEVEL),
            applying: Applying::default(),
            news: Vec::new(),
            at: Millis(1_000_000),
            running: Vec::new(),
            place_of: BTreeMap::new(),
            cpu_placed: 0,
            starting: Vec::new(),
            watchers: BTreeSet::new(),
        };
        let mut up = Vec::with_capacity(machines.len());
        for (number, info) in (0..).zip(machines) {
            let name = format!("m-{number}").parse()?;
            let machine = MachineAddress { name, address: "m:1".into() };
            cell.apply(user(ADMIN), Action::AddMachine { machine })?;
            up.push(Observation::MachineUp { machine: MachineId(number), info: info.clone() });
        }
        cell.apply(master(), Action::Observe { changes: up })?;
        Ok(cell)
    }

    /// Cell time of the next command.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.at
    }

    /// Lets time pass.
    pub fn wait(&mut self, ms: u64) {
        self.at = self.at + Millis(ms);
    }

    /// Processor time of all placed tasks, in thousandths of a core.
    #[must_use]
    pub fn cpu_placed(&self) -> u64 {
        self.cpu_placed
    }

    /// Processor time of all machines, in thousandths of a core.
    #[must_use]
    pub fn cpu_capacity(&self) -> u64 {
        self.state.machines().filter_map(|m| Some(m.info.as_ref()?.capacity.cpu_milli)).sum()
    }

    /// How many tasks are placed.
    #[must_use]
    pub fn placed(&self) -> usize {
        self.running.len()
    }

    /// Submits a job. An owner who comes with monitoring gets the right to it first.
    ///
    /// # Errors
    /// When the state refuses it.
    pub fn submit(&mut self, owner: &UserName, spec: Arc<JobSpec>) -> Result<JobId, Error> {
        if spec.priority.band() == Band::Monitoring && self.watchers.insert(owner.clone()) {
            let right = Action::SetQuota {
                user: owner.clone(),
                band: Band::Monitoring,
                amount: Resources { cpu_milli: 1, ..Resources::default() },
                from: None,
                until: None,
                oversell: true,
            };
            self.apply(user(ADMIN), right)?;
        }
        match self.apply(Principal::User(owner.clone()), Action::SubmitJob { spec })? {
            Answer::Job { id, .. } => Ok(id),
            other => Err(format!("a submit was answered with {other:?}").into()),
        }
    }

    /// Applies decisions of the scheduler in one entry.
    ///
    /// # Errors
    /// When the state refuses the entry or any of them: with nothing in between, scheduler and state
    /// have to agree.
    pub fn place(&mut self, assignments: Vec<Assignment>) -> Result<(), Error> {
        if assignments.is_empty() {
            return Ok(());
        }
        match self.apply(master(), Action::Place { assignments })? {
            Answer::Placed { results } => {
                for result in results {
                    self.starting.push(result?);
                }
                Ok(())
            }
            other => Err(format!("a placement was answered with {other:?}").into()),
        }
    }

    /// All that was placed since the last call is seen to run.
    ///
    /// # Errors
    /// When the state refuses the entry.
    pub fn start_placed(&mut self) -> Result<(), Error> {
        let since = self.at;
        let up = |id| Observation::TaskUp { id, pid: 100, since, restarts: 0, run: None };
        let changes: Vec<_> = self.starting.drain(..).map(up).collect();
        self.observe(changes)
    }

    /// These incarnations exit with 0.
    ///
    /// # Errors
    /// When the state refuses the entry.
    pub fn end(&mut self, ids: &[IncarnationId]) -> Result<(), Error> {
        let at = self.at;
        let ended =
            |id: &IncarnationId| Observation::TaskEnded { id: *id, at, failure: None, run: None };
        self.observe(ids.iter().map(ended).collect())
    }

    /// Kills a job.
    ///
    /// # Errors
    /// When the state refuses.
    pub fn kill(&mut self, key: JobKey) -> Result<(), Error> {
        let owner = Principal::User(key.user.clone());
        self.apply(owner, Action::Kill { job: key, tasks: Vec::new() })?;
        Ok(())
    }

    /// Kills every task that is pending; what runs stays. Gives how many there were.
    ///
    /// # Errors
    /// When the state refuses.
    pub fn kill_pending(&mut self) -> Result<usize, Error> {
        let mut by_job = BTreeMap::<JobId, Vec<u32>>::new();
        for task in self.state.pending() {
            by_job.entry(task.job).or_default().push(task.index);
        }
        let count = by_job.values().map(Vec::len).sum();
        for (job, tasks) in by_job {
            let Some(key) = self.state.job(job).map(|job| job.key.clone()) else { continue };
            let owner = Principal::User(key.user.clone());
            self.apply(owner, Action::Kill { job: key, tasks })?;
        }
        Ok(count)
    }

    /// One of the placed tasks, by chance.
    #[must_use]
    pub fn any_placed(&self, dice: &mut Dice) -> Option<IncarnationId> {
        (!self.running.is_empty()).then(|| dice.pick(&self.running).id)
    }

    /// The incarnations of a job that are placed, by index.
    pub fn placed_of(&self, job: JobId) -> impl Iterator<Item = IncarnationId> + '_ {
        let all = TaskId { job, index: 0 }..=TaskId { job, index: u32::MAX };
        self.place_of.range(all).map(|(_, at)| self.running[*at].id)
    }

    fn observe(&mut self, changes: Vec<Observation>) -> Result<(), Error> {
        if !changes.is_empty() {
            self.apply(master(), Action::Observe { changes })?;
        }
        Ok(())
    }

    fn apply(&mut self, by: Principal, action: Action) -> Result<Answer, Error> {
        let command = Command { at: self.at, by, request: None, action };
        let began = clock::processor_ms()?;
        let applied = self.state.apply(self.state.applied() + 1, &command)?;
        self.applying.add(&command.action, clock::processor_ms()? - began);
        for event in &applied.events {
            self.fold(event);
        }
        self.news.extend(applied.events);
        Ok(applied.answer)
    }

    fn fold(&mut self, event: &Event) {
        let EventKind::TaskChanged { task, change, .. } = &event.kind else { return };
        match change {
            TaskChange::Placed { incarnation, .. } | TaskChange::Replaced { incarnation, .. } => {
                let id = IncarnationId { task: *task, number: *incarnation };
                if let Some(at) = self.place_of.get(task) {
                    self.running[*at].id = id;
                    return;
                }
                let cpu_milli =
                    self.state.job(task.job).map_or(0, |job| job.spec.task.limit.cpu_milli);
                self.place_of.insert(*task, self.running.len());
                self.running.push(Placed { id, cpu_milli });
                self.cpu_placed += cpu_milli;
            }
            TaskChange::Evicted(_)
            | TaskChange::Failed { .. }
            | TaskChange::Finished
            | TaskChange::Killed { .. }
            | TaskChange::ParentEnded { .. }
            | TaskChange::Withdrawn
            | TaskChange::DependencyFailed { .. } => {
                let Some(at) = self.place_of.remove(task) else { return };
                self.cpu_placed -= self.running.swap_remove(at).cpu_milli;
                if let Some(moved) = self.running.get(at) {
                    self.place_of.insert(moved.id.task, at);
                }
            }
            TaskChange::Released
            | TaskChange::Stopped { .. }
            | TaskChange::Updated { .. }
            | TaskChange::Renewed
            | TaskChange::Awaits
            | TaskChange::Prepared { .. }
            | TaskChange::Preparing { .. }
            | TaskChange::Unprepared { .. }
            | TaskChange::Up { .. }
            | TaskChange::BackOff { .. }
            | TaskChange::Health(_)
            | TaskChange::Address(_)
            | TaskChange::Gone { .. } => {}
        }
    }
}

/// A scheduler whose time is taken: processor time of this process, in milliseconds, so the figure
/// does not depend on who else is on the computer.
#[derive(Debug, Clone)]
pub struct Timed {
    /// The scheduler.
    pub scheduler: Scheduler,
    /// Spent in passes so far.
    pub pass_ms: f64,
    /// Spent in following committed changes so far.
    pub follow_ms: f64,
    /// Decisions so far.
    pub decided: u64,
    /// Incarnations that these pushed out.
    pub pushed_out: u64,
    /// Whether it lets go of the state while that is changed, as one does who is alone with it; a
    /// Borgmaster's scheduler keeps it, on a thread of its own.
    pub alone: bool,
}

impl Timed {
    /// A scheduler that knows all of the cell.
    #[must_use]
    pub fn new(cell: &mut Driven, config: Config) -> Self {
        cell.news.clear();
        let scheduler = Scheduler::new(&cell.state, config);
        Self {
            scheduler,
            pass_ms: 0.0,
            follow_ms: 0.0,
            decided: 0,
            pushed_out: 0,
            alone: false,
        }
    }

    /// Forgets times and counts.
    pub fn reset(&mut self) {
        (self.pass_ms, self.follow_ms, self.decided, self.pushed_out) = (0.0, 0.0, 0, 0);
    }

    /// Spent in all so far, in milliseconds.
    #[must_use]
    pub fn total_ms(&self) -> f64 {
        self.pass_ms + self.follow_ms
    }

    /// Tells the scheduler what was committed since it was told last.
    ///
    /// # Errors
    /// When the kernel does not tell the time.
    pub fn follow(&mut self, cell: &mut Driven) -> Result<(), Error> {
        let state = cell.state.clone();
        let began = clock::processor_ms()?;
        self.scheduler.follow(state, &cell.news);
        self.follow_ms += clock::processor_ms()? - began;
        cell.news.clear();
        Ok(())
    }

    /// One pass; the decisions are not applied yet.
    ///
    /// # Errors
    /// When the kernel does not tell the time.
    pub fn pass(&mut self, cell: &Driven, most: usize) -> Result<Vec<Assignment>, Error> {
        let began = clock::processor_ms()?;
        let decisions = self.scheduler.pass(cell.now(), most);
        self.pass_ms += clock::processor_ms()? - began;
        self.decided += u64::try_from(decisions.len())?;
        self.pushed_out += decisions.iter().map(|d| d.victims.len() as u64).sum::<u64>();
        Ok(decisions)
    }

    /// Passes of [`DECISIONS`] decisions, each applied and followed, until one decides nothing, as a
    /// Borgmaster does. What was placed is seen to run.
    ///
    /// # Errors
    /// When state and scheduler disagree.
    pub fn settle(&mut self, cell: &mut Driven) -> Result<(), Error> {
        self.follow(cell)?;
        loop {
            let decisions = self.pass(cell, DECISIONS)?;
            if self.alone {
                self.scheduler.let_go();
            }
            if decisions.is_empty() {
                return Ok(());
            }
            cell.place(decisions)?;
            cell.start_placed()?;
            self.follow(cell)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_cell::fixture::{batch, info, service};

    #[test]
    fn what_runs_is_what_the_state_says_over_evictions_and_ends() {
        let mut cell = Driven::with_machines(&[info(4_000, 8 << 30, &[])]).unwrap();
        let mut timed = Timed::new(&mut cell, Config::default());
        let ann: UserName = "ann".parse().unwrap();
        cell.submit(&ann, Arc::new(batch("low", 4, 1_000, 1 << 30))).unwrap();
        timed.settle(&mut cell).unwrap();
        assert_eq!((cell.placed(), cell.cpu_placed(), cell.cpu_capacity()), (4, 4_000, 4_000));
        let high = cell.submit(&ann, Arc::new(service("high", 1, 2_000, 1 << 30))).unwrap();
        timed.settle(&mut cell).unwrap();
        assert_eq!((cell.placed(), cell.cpu_placed(), timed.pushed_out), (3, 4_000, 2));
        assert_eq!(cell.state.audit(), []);
        cell.kill(cell.state.job(high).unwrap().key.clone()).unwrap();
        let one = cell.any_placed(&mut Dice::new(1)).unwrap();
        cell.end(&[one]).unwrap();
        timed.settle(&mut cell).unwrap();
        assert_eq!((cell.placed(), cell.cpu_placed(), cell.kill_pending().unwrap()), (3, 3_000, 0));
        assert_eq!(timed.decided, 4 + 1 + 2);
    }
}
