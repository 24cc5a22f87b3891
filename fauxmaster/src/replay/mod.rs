//! A stretch of a cell's life in virtual time: work arrives, starts, ends and is pushed out, machines are lost and
//! come back.
//!
//! Everything is decided by the production state machine and scheduler; here is the agenda of what happens when,
//! and [`books`] has what is counted. Time jumps from one moment at which something happens to the next. A task
//! is up some time after it was placed, and ends when it has run for its time; pushed out, it begins anew.
//!
//! Leaves to others: where work comes from (`sources::workload`), what is made of the counts
//! (`questions::replay`).
//!
//! Invariants: a replay is a function of workload and settings. One that was stopped at a moment and goes on, or
//! a copy of it, is where it would be without the stop.

pub mod books;
pub mod reclaim;

use crate::Error;
use crate::driven::Driven;
use crate::sources::workload::{Runs, Workload};
use books::Books;
use borg_cell::event::{Event, EventKind, TaskChange};
use borg_cell::fixture::user;
use borg_cell::rejection::Rejection;
use borg_proto::command::{Action, Observation};
use borg_proto::identity::ADMIN;
use borg_proto::reclamation::NumberSet;
use borg_proto::{Band, IncarnationId, JobId, JobSpec, MachineId, Millis, TaskId};
use borg_scheduler::{Config, Scheduler};
use reclaim::{Found, Reclaim, Reclaiming};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most observations of one entry, as in a Borgmaster.
const CHANGES: usize = 1_000;

/// How long a Borgmaster gathers what it is told, unless said otherwise. 100 ms: ours; a commit takes some of it.
const GATHER: Millis = Millis(100);

/// Settings of a replay.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// From placed to up. 25 s is the median in the Borg paper (section 3.2).
    pub startup: Millis,
    /// For how long a Borgmaster gathers what machines tell of their tasks before it makes an entry of it: a start or
    /// an end is seen at the next multiple of this.
    pub gather: Millis,
    /// Time between two looks at how full the cell is. Tasks that wait are tried anew then too.
    pub every: Millis,
    /// What tasks use, and what is lent of their limits; `None`: that is not looked at.
    pub reclaim: Option<Reclaim>,
    /// What makes a machine the best, and all else that the scheduler is told.
    pub config: Config,
}

impl Settings {
    /// With the scheduler as it is unless told otherwise.
    #[must_use]
    pub fn new(startup: Millis, every: Millis) -> Self {
        Self { startup, gather: GATHER, every, reclaim: None, config: Config::default() }
    }
}

/// A cell in the middle of a replay. A copy goes on by itself.
#[derive(Debug, Clone)]
pub struct Replay {
    workload: Arc<Workload>,
    settings: Settings,
    cell: Driven,
    scheduler: Scheduler,
    /// Cell time at which the workload begins.
    begin: Millis,
    arrived: usize,
    jobs: BTreeMap<JobId, Known>,
    agenda: BTreeMap<Millis, Moment>,
    next_look: Millis,
    reclaiming: Option<Reclaiming>,
    /// How many steps of the plan of what is lent are done.
    planned: usize,
    /// What happened so far.
    pub books: Books,
}

/// What is known of a job that arrived.
#[derive(Debug, Clone)]
struct Known {
    band: Band,
    runs: Runs,
}

/// What happens at one time.
#[derive(Debug, Clone, Default)]
struct Moment {
    up: Vec<IncarnationId>,
    over: Vec<IncarnationId>,
    lost: Vec<usize>,
    back: Vec<usize>,
}

impl Replay {
    /// At the beginning of a workload: its machines are up, and nothing runs.
    ///
    /// # Errors
    /// When the state refuses a machine.
    pub fn new(workload: Arc<Workload>, settings: Settings) -> Result<Self, Error> {
        for (what, time) in [("two looks", settings.every), ("two entries", settings.gather)] {
            if time == Millis(0) {
                return Err(
                    format!("time between {what}: 0 ms; it has to be more than nothing").into()
                );
            }
        }
        let machines = workload.machines.iter().map(|(name, info)| (name.clone(), info));
        let mut cell = Driven::with_named(machines)?;
        drop(cell.take_news());
        let mut agenda = BTreeMap::<Millis, Moment>::new();
        for loss in &workload.losses {
            agenda.entry(loss.at).or_default().lost.push(loss.machine);
            agenda.entry(loss.back).or_default().back.push(loss.machine);
        }
        Ok(Self {
            scheduler: Scheduler::new(&cell.state, settings.config),
            begin: cell.now(),
            workload,
            settings,
            cell,
            arrived: 0,
            jobs: BTreeMap::new(),
            agenda,
            next_look: Millis(0),
            reclaiming: settings.reclaim.map(|reclaim| Reclaiming::new(reclaim.load)),
            planned: 0,
            books: Books::default(),
        })
    }

    /// The state of the cell as it is now.
    #[must_use]
    pub fn state(&self) -> &borg_cell::state::CellState {
        &self.cell.state
    }

    /// The scheduler, as it is now.
    #[must_use]
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Lets everything happen that does so before a time, counted from the beginning.
    ///
    /// # Errors
    /// When state and scheduler disagree.
    pub fn run_until(&mut self, end: Millis) -> Result<(), Error> {
        while let Some(at) = self.next().filter(|at| *at < end) {
            self.step(at)?;
        }
        Ok(())
    }

    /// When something happens next.
    fn next(&self) -> Option<Millis> {
        let arrival = self.workload.arrivals.get(self.arrived).map(|arrival| arrival.at);
        let moment = self.agenda.first_key_value().map(|(at, _)| *at);
        let alarm = self.cell.state.next_alarm().map(|at| at.since(self.begin));
        let used = self.reclaiming.as_ref().map(|reclaiming| reclaiming.next);
        let planned = self.planned().map(|(at, _)| at);
        [arrival, moment, alarm, used, planned, Some(self.next_look)].into_iter().flatten().min()
    }

    /// The next step of the plan of what is lent.
    fn planned(&self) -> Option<(Millis, NumberSet)> {
        self.settings.reclaim?.plan.get(self.planned).copied()
    }

    fn step(&mut self, at: Millis) -> Result<(), Error> {
        self.cell.wait((self.begin + at).since(self.cell.now()).0);
        self.books.advance(at);
        self.scheduler.let_go();
        self.cell.ring()?;
        if let Some((_, named)) = self.planned().filter(|(from, _)| *from <= at) {
            self.planned += 1;
            let action = Action::SetReclamation { named: Some(named), numbers: BTreeMap::new() };
            self.cell.apply(user(ADMIN), action)?;
        }
        self.arrive(at)?;
        if let Some(moment) = self.agenda.remove(&at) {
            self.see(moment)?;
        }
        self.settle(at)?;
        if let Some(reclaiming) = self.reclaiming.as_mut().filter(|one| one.next <= at) {
            let found = reclaiming.look(at, self.cell.now(), &self.cell.state);
            self.reclaim(at, found)?;
        }
        if at == self.next_look {
            self.next_look = at + self.settings.every;
            self.books.look(&self.cell.state);
        }
        Ok(())
    }

    /// Tells the scheduler what is lent, and the cell who has to go.
    fn reclaim(&mut self, at: Millis, found: Found) -> Result<(), Error> {
        self.books.lent.push(found.lent);
        match found.news {
            Some(news) => self.scheduler.lend(&news),
            None => self.scheduler.lend_nothing(),
        }
        self.scheduler.let_go();
        for part in found.changes.chunks(CHANGES) {
            self.cell.observe(part.to_vec())?;
        }
        self.settle(at)
    }

    /// Submits what arrives by now.
    fn arrive(&mut self, at: Millis) -> Result<(), Error> {
        let workload = Arc::clone(&self.workload);
        let due = workload.arrivals[self.arrived..].iter().take_while(|arrival| arrival.at <= at);
        for arrival in due {
            let spec = named(&arrival.spec, &arrival.name)?;
            let (band, tasks) = (spec.priority.band(), spec.tasks);
            self.arrived += 1;
            let id = match self.cell.submit(&arrival.owner, spec) {
                Ok(id) => id,
                Err(error) => {
                    // What a cell refuses, as it would refuse its user, goes no further than him.
                    let why = error
                        .downcast::<Rejection>()
                        .map_err(|error| format!("job {} at {} ms: {error}", arrival.name, at.0))?;
                    self.books.refused(&why);
                    continue;
                }
            };
            self.jobs.insert(id, Known { band, runs: arrival.runs.clone() });
            self.books.submitted(id, tasks);
        }
        Ok(())
    }

    /// What machines and tasks do at one time, in as few entries as a Borgmaster makes of it.
    fn see(&mut self, moment: Moment) -> Result<(), Error> {
        let now = self.cell.now();
        let mut changes = Vec::new();
        for machine in moment.lost {
            let machine = number(machine)?;
            changes.push(Observation::MachineDown { machine });
            self.reclaiming.iter_mut().for_each(|one| one.removed(machine));
        }
        for machine in moment.back {
            let info = self.workload.machines[machine].1.clone();
            changes.push(Observation::MachineUp { machine: number(machine)?, info });
        }
        // Whoever was pushed out meanwhile is another incarnation by now.
        let still = |id: &IncarnationId| {
            let task = self.cell.state.task(id.task);
            task.and_then(|task| task.running(id.task)) == Some(*id)
        };
        let over = moment.over.into_iter().filter(still);
        changes.extend(over.map(|id| Observation::TaskEnded {
            id,
            at: now,
            failure: None,
            run: None,
        }));
        let up = moment.up.into_iter().filter(still);
        changes.extend(up.map(|id| Observation::TaskUp {
            id,
            pid: 100,
            since: now,
            restarts: 0,
            run: None,
        }));
        for part in changes.chunks(CHANGES) {
            self.cell.observe(part.to_vec())?;
        }
        Ok(())
    }

    /// Passes until one decides nothing, each applied and followed. None when nothing changed and nobody waits.
    fn settle(&mut self, at: Millis) -> Result<(), Error> {
        self.follow(at);
        while self.cell.state.pending_len() > 0 {
            self.books.counts.passes += 1;
            let Some(decided) = self.cell.decide(&mut self.scheduler)? else { break };
            self.books.counts.refused += decided.refused;
            let placed = self.cell.take_placed();
            self.seen(at + self.settings.startup).up.extend(placed);
            self.follow(at);
        }
        Ok(())
    }

    fn follow(&mut self, at: Millis) {
        let news = self.cell.tell(&mut self.scheduler);
        news.iter().for_each(|event| self.note(event, at));
    }

    /// The moment at which it is seen what a task does at a time.
    fn seen(&mut self, at: Millis) -> &mut Moment {
        let gather = self.settings.gather.0;
        self.agenda.entry(Millis(at.0.next_multiple_of(gather))).or_default()
    }

    fn note(&mut self, event: &Event, at: Millis) {
        let (task, change) = match &event.kind {
            EventKind::TaskChanged { task, change, .. } => (task, change),
            EventKind::JobForgotten(job, _) => {
                self.jobs.remove(job);
                return;
            }
            _ => return,
        };
        let Some(known) = self.jobs.get(&task.job) else { return };
        let (band, run) = (known.band, known.runs.of(task.index));
        if let TaskChange::Up { .. } = change
            && let Some((run, id)) = run.zip(self.running(*task))
        {
            self.seen(at + run).over.push(id);
        }
        self.books.note(*task, band, change);
    }

    fn running(&self, task: TaskId) -> Option<IncarnationId> {
        self.cell.state.task(task)?.running(task)
    }
}

/// A job under another name.
fn named(spec: &Arc<JobSpec>, name: &str) -> Result<Arc<JobSpec>, Error> {
    if spec.name.as_str() == name {
        return Ok(Arc::clone(spec));
    }
    Ok(Arc::new(JobSpec { name: name.parse()?, ..JobSpec::clone(spec) }))
}

fn number(machine: usize) -> Result<MachineId, Error> {
    Ok(MachineId(u32::try_from(machine)?))
}

#[cfg(test)]
mod tests;
