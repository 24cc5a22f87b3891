//! A cell in this process: its real state, driven by real commands on virtual time.
//!
//! Every change goes through [`CellState::apply`]; nothing here places anything. Whoever decides takes the news
//! and gives back decisions.
//!
//! Invariant: `running` is what the state says runs.

use crate::Error;
use borg_cell::event::{Event, EventKind, TaskChange};
use borg_cell::fixture::{master, user};
use borg_cell::rejection::Rejection;
use borg_cell::state::{Answer, CellState, MachineState};
use borg_proto::command::{Action, Assignment, Command, LEVEL, Observation, Principal};
use borg_proto::identity::ADMIN;
use borg_proto::machine::MachineAddress;
use borg_proto::{
    Band, CellName, Health, IncarnationId, JobId, JobKey, JobSpec, MachineId, MachineInfo, Millis,
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

/// What came of the decisions of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided {
    /// How many the state took.
    pub taken: u64,
    /// How many it refused.
    pub refused: u64,
}

/// A cell that is driven by commands of our own.
#[derive(Debug, Clone)]
pub struct Driven {
    /// The state.
    pub state: CellState,
    /// Events that no scheduler was told yet.
    news: Vec<Event>,
    /// Whose decisions the state refused since.
    refused: Vec<TaskId>,
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
    /// A cell with these machines, all up, called `m-0` and so on.
    ///
    /// # Errors
    /// When the state refuses one.
    pub fn with_machines(machines: &[MachineInfo]) -> Result<Self, Error> {
        Self::with_named((0..).map(|number| format!("m-{number}")).zip(machines))
    }

    /// A cell with these machines, all up. One whose name no cell takes is called after its place, as `m-7`.
    ///
    /// # Errors
    /// When the state refuses one.
    pub fn with_named<'a>(
        machines: impl Iterator<Item = (String, &'a MachineInfo)>,
    ) -> Result<Self, Error> {
        let mut cell = Self {
            state: CellState::found(CellName::new("driven")?, &[], LEVEL),
            news: Vec::new(),
            refused: Vec::new(),
            at: Millis(1_000_000),
            running: Vec::new(),
            place_of: BTreeMap::new(),
            cpu_placed: 0,
            starting: Vec::new(),
            watchers: BTreeSet::new(),
        };
        let mut infos = Vec::new();
        for (number, (name, info)) in machines.enumerate() {
            let name = name.parse().or_else(|_| format!("m-{number}").parse())?;
            let machine = MachineAddress { name, address: "m:1".into() };
            cell.apply(user(ADMIN), Action::AddMachine { machine })?;
            infos.push(info);
        }
        let up = |(number, info): (u32, &&MachineInfo)| Observation::MachineUp {
            machine: MachineId(number),
            info: MachineInfo::clone(info),
        };
        let changes = (0..).zip(&infos).map(up).collect();
        cell.apply(master(), Action::Observe { changes })?;
        // A cell drops what a machine says that is out of bounds, and so would take it for down.
        let down = cell.state.machines().find(|machine| machine.state != MachineState::Up);
        if let Some(refused) = down {
            let info = usize::try_from(refused.id.0).ok().and_then(|number| infos.get(number));
            let Resources { cpu_milli, ram_bytes, .. } =
                info.map(|info| info.capacity.clone()).unwrap_or_default();
            let number = u64::from(refused.id.0) + 1;
            let why = format!(
                "machine {number} of the list: a cell takes no machine of {cpu_milli} millicores and {ram_bytes} bytes \
                 of memory with these attributes"
            );
            return Err(why.into());
        }
        Ok(cell)
    }

    /// A cell with these machines whose work stands where the production scheduler put it, as far as it fits.
    ///
    /// # Errors
    /// When the state refuses a machine or a job, or state and scheduler disagree.
    pub fn filled<'a>(
        machines: impl Iterator<Item = (String, &'a MachineInfo)>,
        jobs: Vec<(UserName, Arc<JobSpec>)>,
    ) -> Result<Self, Error> {
        let mut cell = Self::with_named(machines)?;
        for (owner, spec) in jobs {
            cell.submit(&owner, spec)?;
        }
        let mut scheduler = Scheduler::new(&cell.state, Config::default());
        drop(cell.take_news());
        cell.settle(&mut scheduler)?;
        Ok(cell)
    }

    /// A cell that is there already, at its own time: to carry on from here in a copy.
    #[must_use]
    pub fn of_state(state: CellState) -> Self {
        let mut cell = Self {
            news: Vec::new(),
            refused: Vec::new(),
            at: state.clock(),
            running: Vec::new(),
            place_of: BTreeMap::new(),
            cpu_placed: 0,
            starting: Vec::new(),
            watchers: BTreeSet::new(),
            state,
        };
        let jobs: Vec<_> =
            cell.state.jobs().map(|job| (job.id, job.spec.task.limit.cpu_milli)).collect();
        for (job, cpu_milli) in jobs {
            for (task, id) in
                cell.state.tasks_of(job).filter_map(|(id, task)| Some((id, task.running(id)?)))
            {
                cell.place_of.insert(task, cell.running.len());
                cell.running.push(Placed { id, cpu_milli });
                cell.cpu_placed += cpu_milli;
            }
        }
        cell
    }

    /// Cell time of the next command.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.at
    }

    /// Who leads: what the master does by itself is by this one.
    #[must_use]
    pub fn leader(&self) -> Principal {
        self.state.leader().map_or_else(master, |(leader, _)| Principal::Master(leader))
    }

    /// What happened since this was asked last: what a scheduler has to follow.
    pub fn take_news(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.news)
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
    /// When the state refuses the entry or any of them: with nothing in between and nothing lent, scheduler and state
    /// have to agree.
    pub fn place(&mut self, assignments: Vec<Assignment>) -> Result<(), Error> {
        match self.place_what_fits(assignments)?.into_iter().next() {
            None => Ok(()),
            Some((_, why)) => Err(why.into()),
        }
    }

    /// The same; gives those that the state refuses, with why. It counts bytes where the scheduler counts coarser amounts:
    /// it may spare a victim on whose room a later decision of the same entry counted, when lent room was nearly enough.
    ///
    /// # Errors
    /// When the state refuses the entry.
    fn place_what_fits(
        &mut self,
        assignments: Vec<Assignment>,
    ) -> Result<Vec<(TaskId, Rejection)>, Error> {
        if assignments.is_empty() {
            return Ok(Vec::new());
        }
        let tasks: Vec<TaskId> = assignments.iter().map(|one| one.task).collect();
        match self.apply(self.leader(), Action::Place { assignments })? {
            Answer::Placed { results } => {
                let mut refused = Vec::new();
                for (task, result) in tasks.into_iter().zip(results) {
                    match result {
                        Ok(id) => self.starting.push(id),
                        Err(why) => refused.push((task, why)),
                    }
                }
                Ok(refused)
            }
            other => Err(format!("a placement was answered with {other:?}").into()),
        }
    }

    /// Passes until one decides nothing, each applied and followed, as a Borgmaster makes them. What is placed is seen
    /// to run. Gives how many decisions the state took.
    ///
    /// # Errors
    /// When the state refuses an entry.
    pub fn settle(&mut self, scheduler: &mut Scheduler) -> Result<u64, Error> {
        let mut taken = 0;
        self.tell(scheduler);
        while let Some(decided) = self.decide(scheduler)? {
            taken += decided.taken;
            self.start_placed()?;
            self.tell(scheduler);
        }
        Ok(taken)
    }

    /// One pass of at most [`DECISIONS`] decisions, applied in one entry, of which the scheduler has to be
    /// [told](Self::tell) before the next. None when it decides nothing. There is an end to it: whoever is refused again
    /// and again is not decided about for a while.
    ///
    /// # Errors
    /// When the state refuses the entry.
    pub fn decide(&mut self, scheduler: &mut Scheduler) -> Result<Option<Decided>, Error> {
        let decisions = scheduler.pass(self.at, DECISIONS);
        if decisions.is_empty() {
            return Ok(None);
        }
        scheduler.let_go();
        let all = decisions.len();
        let refused = self.place_what_fits(decisions)?;
        self.refused.extend(refused.iter().map(|(task, _)| *task));
        Ok(Some(Decided {
            taken: u64::try_from(all - refused.len())?,
            refused: u64::try_from(refused.len())?,
        }))
    }

    /// Tells a scheduler what happened since one was told last, and what came to nothing. Gives what happened.
    pub fn tell(&mut self, scheduler: &mut Scheduler) -> Vec<Event> {
        let news = self.take_news();
        scheduler.follow(self.state.clone(), &news);
        self.refused.drain(..).for_each(|task| scheduler.refused(task));
        news
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

    /// All that was placed since the last call is seen to run, and is healthy.
    ///
    /// # Errors
    /// When the state refuses the entry.
    pub fn serve_placed(&mut self) -> Result<(), Error> {
        let placed = self.starting.clone();
        self.start_placed()?;
        let healthy = |id| Observation::TaskHealth { id, health: Health::Healthy };
        self.observe(placed.into_iter().map(healthy).collect())
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

    /// Placed since the last call, and not seen to run: whoever asks sees them start.
    pub(crate) fn take_placed(&mut self) -> Vec<IncarnationId> {
        std::mem::take(&mut self.starting)
    }

    /// One entry with what was seen of machines and tasks.
    ///
    /// # Errors
    /// When the state refuses the entry.
    pub(crate) fn observe(&mut self, changes: Vec<Observation>) -> Result<(), Error> {
        if !changes.is_empty() {
            self.apply(self.leader(), Action::Observe { changes })?;
        }
        Ok(())
    }

    /// What is due by now happens, as when a Borgmaster's time goes on.
    ///
    /// # Errors
    /// When the state refuses the entry.
    pub(crate) fn ring(&mut self) -> Result<(), Error> {
        if self.state.next_alarm().is_some_and(|at| at <= self.at) {
            self.apply(self.leader(), Action::Advance)?;
        }
        Ok(())
    }

    /// Has an entry applied, whoever it is by.
    ///
    /// # Errors
    /// Why the state refuses it.
    pub fn apply(&mut self, by: Principal, action: Action) -> Result<Answer, Rejection> {
        let command = Command { at: self.at, by, request: None, action };
        let applied = self.state.apply(self.state.applied() + 1, &command)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use borg_cell::fixture::info;
    use borg_sim::job;

    fn cell(cpu_milli: u64) -> Driven {
        let mut cell = Driven::with_machines(&[info(cpu_milli, 64 << 30, &[])]).unwrap();
        let spec = job("web").tasks(8).limit(1_000, 4).spec();
        cell.submit(&"ann".parse().unwrap(), Arc::new(spec)).unwrap();
        cell
    }

    /// A scheduler that is wrong about a machine, as none should be, keeps nobody busy for ever.
    #[test]
    fn decisions_that_are_refused_again_and_again_come_to_an_end() {
        let (mut cell, larger) = (cell(4_000), cell(8_000));
        let mut scheduler = Scheduler::new(&larger.state, Config::default());
        drop(cell.take_news());
        assert_eq!(cell.settle(&mut scheduler).unwrap(), 4);
        assert_eq!(cell.state.pending_len(), 4);
        assert_eq!(cell.settle(&mut scheduler).unwrap(), 0);
        assert_eq!(scheduler.next_wakeup(cell.now()), Some(cell.now() + Millis(1_000)));
        cell.wait(1_000);
        let decided = cell.decide(&mut scheduler).unwrap();
        assert_eq!(decided, Some(Decided { taken: 0, refused: 4 }));
        assert!(cell.decide(&mut scheduler).unwrap().is_none(), "not told yet");
        cell.tell(&mut scheduler);
        assert_eq!(scheduler.next_wakeup(cell.now()), Some(cell.now() + Millis(2_000)));
    }
}
