//! What follows when machines are gone at once: nobody tells the cell, it has to find out.
//!
//! The leader's own rule says when a silent machine is taken for down ([`Silence`]), the production state machine takes
//! its tasks from it, and the production scheduler finds them other places. Nobody's work ends meanwhile. The leader is
//! taken to know how all machines stand when it happens, and to look once a second.
//!
//! Invariant: an outage is a function of the cell and the machines that are lost.

use crate::Error;
use crate::driven::Driven;
use borg_cell::event::{Event, EventKind, TaskChange};
use borg_cell::links::Config as Rules;
use borg_cell::links::silence::{Quiet, Silence, Standing};
use borg_cell::state::{CellState, MachineState};
use borg_proto::command::Observation;
use borg_proto::task::EvictCause;
use borg_proto::{Band, Health, IncarnationId, MachineId, Millis, Resources, TaskId};
use borg_scheduler::Scheduler;
use std::collections::{BTreeMap, BTreeSet};

/// How often the leader looks who is silent.
const TICK: Millis = Millis::from_secs(1);

/// What happened to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hit {
    pub band: Band,
    /// Whether its machine is gone; else it was pushed out to make room.
    pub lost: bool,
    /// Since when it is down, from the loss on.
    pub since: Millis,
    /// When it was placed again for good.
    pub placed: Option<Millis>,
    /// When it was up again for good.
    pub up: Option<Millis>,
}

/// How much machines that are up have, and have given out by limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub machines: u64,
    pub capacity: Resources,
    pub limits: Resources,
}

/// What came of it.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    /// Tasks that were down at some time.
    pub hits: BTreeMap<TaskId, Hit>,
    /// Tasks that were over with their machine, as those of daemons are.
    pub over: u64,
    /// How many machines were lost.
    pub machines: u64,
    /// When the last of them was taken for down, if all were.
    pub given_up: Option<Millis>,
    /// Machines that are silent in the end, and are not given up.
    pub silent: u64,
    /// Whether the cell went into safe mode, and gives up nobody.
    pub safe_mode: bool,
    pub before: Room,
    pub after: Room,
    /// How many wait in the end of those that were hit, by what most machines lack for them.
    pub waiting: Vec<(String, u64)>,
}

/// A cell before machines are lost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before<'a> {
    pub state: &'a CellState,
    pub scheduler: &'a Scheduler,
    /// Machines that do not answer already.
    pub silent: &'a BTreeSet<MachineId>,
}

/// A cell in which machines were lost.
pub(super) struct Outage {
    cell: Driven,
    scheduler: Scheduler,
    rules: Rules,
    silence: Silence,
    begin: Millis,
    startup: Millis,
    silent: BTreeSet<MachineId>,
    /// Those that did not answer before, and are not given up.
    mute: BTreeSet<MachineId>,
    ups: BTreeMap<Millis, Vec<IncarnationId>>,
    next_tick: Millis,
    outcome: Outcome,
}

impl Outage {
    /// Loses machines of a cell, and looks at what follows for so long.
    pub(super) fn live(
        before: Before<'_>,
        lost: &BTreeSet<MachineId>,
        startup: Millis,
        within: Millis,
    ) -> Result<Outcome, Error> {
        let mut outage = Self::new(before, lost, startup);
        let until = outage.begin + within;
        outage.decide()?;
        while let Some(at) = outage.next().filter(|at| *at <= until) {
            outage.step(at)?;
        }
        let mut outcome = outage.outcome;
        outcome.after = room(&outage.cell.state);
        // A daemon's task is over with its machine: it needs no other place.
        let over = |task: &TaskId| {
            outage.cell.state.task(*task).is_none_or(borg_cell::state::Task::is_dead)
        };
        let all = outcome.hits.len();
        outcome.hits.retain(|task, _| !over(task));
        outcome.over = (all - outcome.hits.len()) as u64;
        outcome.silent = outage.silent.len() as u64;
        outcome.safe_mode = outage.silence.safe_mode();
        let waits = outcome.hits.iter().filter(|(_, hit)| hit.placed.is_none());
        let pending = waits.map(|(task, _)| *task).filter(|task| {
            // Whoever is on a silent machine waits for it to be given up first.
            outage.cell.state.task(*task).is_some_and(|task| task.placement().is_none())
        });
        outcome.waiting =
            super::super::show::reasons(&outage.scheduler, pending, outage.cell.now());
        Ok(outcome)
    }

    fn new(before: Before<'_>, lost: &BTreeSet<MachineId>, startup: Millis) -> Self {
        let Before { state, scheduler, silent: mute } = before;
        let (mut scheduler, mute) = (scheduler.clone(), mute - lost);
        let cell = Driven::of_state(state.clone());
        let begin = cell.now();
        let mut silence = Silence::new(state, begin);
        let up = |machine: &&borg_cell::state::Machine| machine.state == MachineState::Up;
        let silent: BTreeSet<MachineId> =
            state.machines().filter(up).map(|one| one.id).filter(|id| lost.contains(id)).collect();
        for machine in state.machines() {
            let standing = if silent.contains(&machine.id) || mute.contains(&machine.id) {
                Standing::Silent
            } else if machine.state == MachineState::Up {
                Standing::Answering
            } else {
                // What was lost lately counts towards safe mode too.
                Standing::of_down(machine, state, begin)
            };
            silence.count(machine.id, standing, true);
        }
        scheduler.avoid(&silent | &mute);
        let mut hits = BTreeMap::new();
        let machines = silent.iter().filter_map(|id| state.machine(*id));
        for task in machines.flat_map(|machine| machine.tasks.iter()) {
            if let Some(band) = band(state, *task) {
                let hit = Hit { band, lost: true, since: Millis(0), placed: None, up: None };
                hits.insert(*task, hit);
            }
        }
        let outcome = Outcome {
            hits,
            over: 0,
            machines: silent.len() as u64,
            given_up: silent.is_empty().then_some(Millis(0)),
            silent: 0,
            safe_mode: false,
            before: room(state),
            after: Room::default(),
            waiting: Vec::new(),
        };
        Self {
            cell,
            scheduler,
            rules: Rules::default(),
            silence,
            begin,
            startup,
            silent,
            mute,
            ups: BTreeMap::new(),
            next_tick: begin + TICK,
            outcome,
        }
    }

    /// When something happens next, in cell time.
    fn next(&self) -> Option<Millis> {
        // In safe mode nothing changes until somebody does something.
        let looks = !self.silence.safe_mode() && !self.silent.is_empty();
        let lingers = self.cell.state.lingering().next().is_some();
        let tick = (looks || lingers).then_some(self.next_tick);
        let up = self.ups.first_key_value().map(|(at, _)| *at);
        let alarm = self.cell.state.next_alarm();
        let now = self.cell.now();
        let wakes = self.scheduler.next_wakeup(now);
        [tick, up, alarm, wakes].into_iter().flatten().min().map(|at| at.max(now + Millis(1)))
    }

    fn step(&mut self, at: Millis) -> Result<(), Error> {
        self.cell.wait(at.since(self.cell.now()).0);
        self.cell.ring()?;
        if at >= self.next_tick {
            self.next_tick = at + TICK;
            self.look()?;
        }
        if let Some(ids) = self.ups.remove(&at) {
            self.come_up(ids)?;
        }
        self.decide()
    }

    /// The leader looks who is silent, and for how long.
    fn look(&mut self) -> Result<(), Error> {
        let now = self.cell.now();
        let silent_for = now.since(self.begin);
        let mut seen = Vec::from_iter(self.silence.update(&self.rules, now, &self.cell.state));
        let quiet: Vec<Quiet> = self
            .silent
            .iter()
            .map(|id| Quiet { machine: *id, top_priority: self.top_priority(*id), silent_for })
            .collect();
        for machine in self.silence.give_up(&self.rules, now, quiet) {
            self.silence.count(machine, Standing::Silent, false);
            self.silence.count(machine, Standing::Lost(now), true);
            self.silent.remove(&machine);
            seen.push(Observation::MachineDown { machine });
        }
        // Whoever runs alone is placed again when nothing of it can run there any more.
        if silent_for >= self.rules.replace_after {
            seen.extend(self.cell.state.lingering().map(|(_, id)| Observation::TaskGone { id }));
        }
        self.cell.observe(seen)?;
        self.scheduler.avoid(&self.silent | &self.mute);
        if self.silent.is_empty() && self.outcome.given_up.is_none() {
            self.outcome.given_up = Some(silent_for);
        }
        Ok(())
    }

    fn top_priority(&self, machine: MachineId) -> Option<borg_proto::Priority> {
        let state = &self.cell.state;
        let tasks = state.machine(machine)?.tasks.iter();
        tasks.filter_map(|task| Some(state.job(task.job)?.spec_of(task.index).priority)).max()
    }

    fn come_up(&mut self, ids: Vec<IncarnationId>) -> Result<(), Error> {
        let (now, since) = (self.cell.now(), self.cell.now().since(self.begin));
        let state = &self.cell.state;
        let still = |id: &IncarnationId| {
            state.task(id.task).and_then(|task| task.running(id.task)) == Some(*id)
        };
        let ids: Vec<IncarnationId> = ids.into_iter().filter(still).collect();
        for id in &ids {
            if let Some(hit) = self.outcome.hits.get_mut(&id.task) {
                hit.up = Some(since);
            }
        }
        let up = |id| Observation::TaskUp { id, pid: 100, since: now, restarts: 0, run: None };
        self.cell.observe(ids.iter().copied().map(up).collect())?;
        let healthy = |id| Observation::TaskHealth { id, health: Health::Healthy };
        self.cell.observe(ids.into_iter().map(healthy).collect())
    }

    /// All that is decided at this moment.
    fn decide(&mut self) -> Result<(), Error> {
        self.follow();
        while self.cell.decide(&mut self.scheduler)?.is_some() {
            let placed = self.cell.take_placed();
            let up = self.cell.now() + self.startup;
            self.ups.entry(up).or_default().extend(placed);
            self.follow();
        }
        Ok(())
    }

    fn follow(&mut self) {
        let news = self.cell.tell(&mut self.scheduler);
        news.iter().for_each(|event| self.note(event));
    }

    fn note(&mut self, event: &Event) {
        let EventKind::TaskChanged { task, change, .. } = &event.kind else { return };
        let since = self.cell.now().since(self.begin);
        match change {
            TaskChange::Placed { .. } => {
                if let Some(hit) = self.outcome.hits.get_mut(task) {
                    hit.placed = Some(since);
                }
            }
            TaskChange::Evicted(EvictCause::MachineDown) => {}
            TaskChange::Evicted(_) => {
                let Some(band) = band(&self.cell.state, *task) else { return };
                let new = Hit { band, lost: false, since, placed: None, up: None };
                let hit = self.outcome.hits.entry(*task).or_insert(new);
                (hit.placed, hit.up) = (None, None);
            }
            _ => {}
        }
    }
}

fn band(state: &CellState, task: TaskId) -> Option<Band> {
    Some(state.job(task.job)?.spec_of(task.index).priority.band())
}

/// What machines that the cell takes for up have.
fn room(state: &CellState) -> Room {
    let mut room = Room::default();
    for machine in state.machines().filter(|machine| machine.state == MachineState::Up) {
        let Some(info) = &machine.info else { continue };
        room.machines += 1;
        room.capacity.cpu_milli += info.capacity.cpu_milli;
        room.capacity.ram_bytes += info.capacity.ram_bytes;
        room.limits.cpu_milli += machine.used.cpu_milli;
        room.limits.ram_bytes += machine.used.ram_bytes;
    }
    room
}
