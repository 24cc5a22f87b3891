//! The processes of a simulated machine: they start, play their part, end by themselves or by a
//! signal, and tell the borglet if there is one.

use super::machine::run_end;
use super::replica::FENCE_AFTER;
use super::{Happening, World, number};
use crate::checkers::Invariant;
use crate::jobs::Play;
use crate::marks::Mark;
use borg_cell::state::Stranger;
use borg_proto::poll::TargetTask;
use borg_proto::{FailureCause, JobKind, Millis};
use borglet_supervisor::{Input, Launch, Run};

/// How long before its end the notice of a lease may come: a sixth of it.
const NOTICE: Millis = Millis(FENCE_AFTER.0 / 6);
/// SIGKILL and SIGTERM.
pub(crate) const KILL: i32 = 9;
pub(crate) const TERM: i32 = 15;

/// What a machine has of one incarnation.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) run: Run,
    pub(crate) play: Play,
    pub(crate) grace: Millis,
    pub(crate) ports: Vec<u16>,
    /// What it was started for; forgotten when the machine restarts.
    pub(crate) task: Option<TargetTask>,
    /// How often in a row it failed before.
    pub(crate) failures: u32,
    /// How often in a row it answered its health check badly.
    pub(crate) bad_answers: u32,
    /// Of an exclusive run: when it ends, unless the machine's lease is longer.
    pub(crate) ends_by: Option<Millis>,
    pub(crate) state: ContainerState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ContainerState {
    Starting,
    Running { pid: u32, since: Millis },
    Ended { since: Millis, at: Millis, failure: Option<FailureCause> },
}

/// How far two tellings of one moment may be apart.
const ROUNDING: Millis = Millis(5);

impl World {
    pub(crate) fn launch(&mut self, index: usize, launch: Launch) {
        let run = launch.run;
        let result = self.checks.copies.starts(run, index);
        self.check(Invariant::SingleCopy, result);
        self.note(&[
            25,
            number(index),
            run.id.task.job.0,
            u64::from(run.id.number),
            u64::from(run.number),
        ]);
        self.say(|| format!("m{index} starts {} {run}", launch.name));
        let ends_by = launch.ends_by.map(|by| self.boot_time_of(index, by));
        let host = &mut self.machines[index];
        let taken = launch.ports.iter().find(|port| {
            host.processes.iter().any(|(id, container)| {
                *id != run.id
                    && !matches!(container.state, ContainerState::Ended { .. })
                    && container.ports.contains(port)
            })
        });
        let play = Play::read(&launch.argv);
        if let Some(port) = taken.copied() {
            self.hit(Mark::PortTaken);
            let cause = FailureCause::PortTaken { port };
            return self.tell_borglet_later(index, run, cause);
        }
        if play == Play::Missing {
            self.hit(Mark::StartFailed);
            let cause = FailureCause::start("/sim/play: no such program");
            return self.tell_borglet_later(index, run, cause);
        }
        if let Some(shared) = &launch.shared
            && let Err(cause) = self.share_data(index, shared)
        {
            return self.tell_borglet_later(index, run, cause);
        }
        let rescues = launch.shared.as_ref().is_some_and(|shared| shared.rescue);
        let play = if rescues { self.rescue_play() } else { play };
        let host = &mut self.machines[index];
        let (boot, state) = (host.boot, ContainerState::Starting);
        let (grace, ports, task) = (launch.grace, launch.ports, Some(launch.task));
        let failures = launch.failures;
        let container =
            Container { run, play, grace, ports, task, failures, bad_answers: 0, ends_by, state };
        host.processes.insert(run.id, container);
        if ends_by.is_some() {
            self.checks.copies.is_exclusive(run.id.task);
        }
        let delay = Millis(self.dice.between(3, 60));
        self.agenda.after(delay, Happening::ProcessThere { machine: index, boot, run });
    }

    /// A start that came to nothing: the answer comes like any other, a moment later.
    fn tell_borglet_later(&mut self, index: usize, run: Run, cause: FailureCause) {
        let boot = self.machines[index].boot;
        self.machines[index].processes.remove(&run.id);
        let failure = Some(cause);
        self.agenda.after(Millis(2), Happening::ProcessOver { machine: index, boot, run, failure });
    }

    fn container(&mut self, index: usize, boot: u32, run: Run) -> Option<&mut Container> {
        let host = &mut self.machines[index];
        host.processes
            .get_mut(&run.id)
            .filter(|container| container.run == run && host.boot == boot)
    }

    pub(crate) fn process_there(&mut self, index: usize, boot: u32, run: Run) {
        let since = self.machine_wall(index);
        let pid = self.machines[index].next_pid + 1;
        let (booted, lease) = (self.boot_time(index), self.machines[index].lease);
        let Some(container) = self.container(index, boot, run) else { return };
        if container.state != ContainerState::Starting {
            return;
        }
        if container.ends_by.is_some_and(|by| by.max(lease) <= booted) {
            // As the shim does, which looks before it begins.
            return self.tell_borglet_later(index, run, FailureCause::Fenced);
        }
        container.state = ContainerState::Running { pid, since };
        self.machines[index].next_pid = pid;
        self.act(index, run);
        self.tell_borglet(index, Input::Started { run, pid, since, address: None });
    }

    /// Decides how a new process goes on.
    pub(crate) fn act(&mut self, index: usize, run: Run) {
        let boot = self.machines[index].boot;
        let calm = self.faults.is_over();
        let Some(container) = self.container(index, boot, run) else { return };
        let play = container.play;
        if let ContainerState::Running { pid, .. } = container.state {
            let result = self.checks.copies.runs(run.id, index, pid);
            self.check(Invariant::Exclusive, result);
            self.watch_lease(index, boot, run);
        }
        let end = match play {
            Play::Serve
            | Play::Stubborn
            | Play::Sick
            | Play::Moody { .. }
            | Play::Homely { .. }
            | Play::Missing => None,
            Play::Exit { after, code } => Some((after, code)),
            Play::Flaky { after, failing } if !calm && self.dice.chance(failing) => {
                Some((after, 1))
            }
            // A flaky service that is well runs on; only batch tasks are done some time.
            Play::Flaky { failing: 500.., .. } => None,
            Play::Flaky { after, .. } => Some((after, 0)),
        };
        if let Some((after, code)) = end {
            let failure = (code != 0).then_some(FailureCause::Exit { code });
            self.agenda.after(
                Millis(after),
                Happening::ProcessOver { machine: index, boot, run, failure },
            );
        }
    }

    pub(crate) fn process_over(
        &mut self,
        index: usize,
        boot: u32,
        run: Run,
        failure: Option<FailureCause>,
    ) {
        let at = self.machine_wall(index);
        if self.machines[index].boot != boot {
            return;
        }
        let Some(container) = self.container(index, boot, run) else {
            // Never came to be.
            if let Some(cause) = failure.filter(|cause| {
                matches!(
                    cause,
                    FailureCause::PortTaken { .. }
                        | FailureCause::Start { .. }
                        | FailureCause::NoAddress
                        | FailureCause::Fenced
                )
            }) {
                self.tell_borglet(index, Input::StartFailed { run, cause });
            }
            return;
        };
        let ContainerState::Running { since, .. } = container.state else { return };
        container.state = ContainerState::Ended { since, at, failure: failure.clone() };
        self.checks.copies.stopped(run.id, index);
        self.note(&[26, number(index), run.id.task.job.0, u64::from(run.id.number)]);
        if self.journal.is_read() {
            let name = self.name_of(run.id.task);
            self.say(|| match &failure {
                None => format!("m{index}: {name} {run} ends well"),
                Some(failure) => format!("m{index}: {name} {run} ends: {failure}"),
            });
        }
        let end = run_end(run, since, at, failure.clone());
        self.tell_borglet(index, Input::RunEnded { id: run.id, end });
        self.tell_borglet(index, Input::Exited { run, at, failure });
    }

    /// A borglet probes a run: the answer comes a moment later, if the machine still has the process.
    pub(crate) fn probe(&mut self, index: usize, run: Run) {
        let (boot, calm) = (self.machines[index].boot, self.faults.is_over());
        let life = self.machines[index].life;
        let Some(container) = self.container(index, boot, run) else { return };
        let well = match container.play {
            Play::Sick => false,
            Play::Homely { below } => (index as u64) < below,
            Play::Moody { failing } => calm || !self.dice.chance(failing),
            Play::Serve
            | Play::Stubborn
            | Play::Exit { .. }
            | Play::Flaky { .. }
            | Play::Missing => true,
        };
        let delay = Millis(self.dice.between(1, 40));
        self.agenda.after(delay, Happening::Probed { machine: index, life, run, well });
    }

    pub(crate) fn probe_answered(&mut self, index: usize, life: u32, run: Run, well: bool) {
        let boot = self.machines[index].boot;
        if self.machines[index].life != life {
            return;
        }
        let Some(container) = self.container(index, boot, run) else { return };
        container.bad_answers = if well { 0 } else { container.bad_answers + 1 };
        if container.bad_answers == 2 {
            self.hit(Mark::Unhealthy);
        }
        let result = if well { Ok(()) } else { Err("503".into()) };
        self.tell_borglet(index, Input::ProbeBegun { run });
        self.tell_borglet(index, Input::Probed { run, result });
    }

    /// Looks at an exclusive run again when its lease is over, as far as is known now. It takes the
    /// shim up to a moment to do something about it.
    fn watch_lease(&mut self, index: usize, boot: u32, run: Run) {
        let (now, lease) = (self.boot_time(index), self.machines[index].lease);
        let Some(container) = self.container(index, boot, run) else { return };
        let Some(by) = container.ends_by else { return };
        let left = by.max(lease).since(now);
        let left = self.machines[index].clock.until(left);
        self.agenda.after(left, Happening::LeaseOver { machine: index, boot, run });
    }

    pub(crate) fn lease_over(&mut self, index: usize, boot: u32, run: Run) {
        let (now, lease) = (self.boot_time(index), self.machines[index].lease);
        let Some(container) = self.container(index, boot, run) else { return };
        let runs = matches!(container.state, ContainerState::Running { .. });
        if !runs || container.ends_by.is_none() {
            return;
        }
        if container.ends_by.is_some_and(|by| by.max(lease) > now) {
            return self.watch_lease(index, boot, run);
        }
        self.hit(Mark::ExclusiveFenced);
        if !self.machines[index].has_borglet() {
            self.hit(Mark::ExclusiveFencedAlone);
        }
        self.say(|| format!("m{index}: the lease of {run} is over"));
        let (delay, failure) = (self.dice.between(1, 300), Some(FailureCause::Fenced));
        self.agenda
            .after(Millis(delay), Happening::ProcessOver { machine: index, boot, run, failure });
    }

    pub(crate) fn signal(&mut self, index: usize, run: Run, signal: i32) {
        // Whoever ends a task must not have the newest word of the cell against it.
        let machine =
            self.newest.machine_named(&self.machines[index].name).map(|machine| machine.id);
        let placed = self.newest.task(run.id.task).and_then(|task| task.placement());
        let wanted = self.is_wanted(run.id, index);
        let elsewhere = placed.is_some_and(|p| Some(p.machine) != machine);
        // An exclusive one is asked to end shortly before its lease is over.
        let now = self.boot_time(index);
        let host = &self.machines[index];
        let fenced = host.processes.get(&run.id).is_some_and(|container| {
            // Milliseconds of one clock are rounded when they are told by another.
            let over = |by: Millis| by.max(host.lease) <= now + NOTICE + ROUNDING;
            container.ends_by.is_some_and(over)
        });
        let unhealthy =
            host.processes.get(&run.id).is_some_and(|container| container.bad_answers > 1);
        // When a machine is out of memory some have to go, of prod none.
        let of_prod = |container: &Container| {
            container.task.as_ref().is_none_or(|task| task.priority.is_prod())
        };
        let makes_room =
            host.is_short && host.processes.get(&run.id).is_some_and(|one| !of_prod(one));
        let result = if wanted && !fenced && !unhealthy && !makes_room {
            Err(format!("m{index} ends {run}, which the cell wants there"))
        } else {
            Ok(())
        };
        self.check(Invariant::TasksSurvive, result);
        let spared = self.spared_until.is_some_and(|until| self.now() < until);
        // A daemon's slot may belong to another machine than in the time that is lost.
        let is_away = self.newest.job(run.id.task.job).is_some_and(|job| {
            job.spec.kind == JobKind::Daemon && job.home(run.id.task.index) != machine
        });
        let spared = spared && !is_away;
        if spared && !wanted && !fenced && self.newest.stranger(run.id) != Stranger::Over {
            let what = format!("m{index} ends {run}, of which a restored cell knows nothing bad");
            self.check(Invariant::Restore, Err(what));
        }
        if elsewhere {
            self.hit(Mark::StaleCopyKilled);
        }
        self.note(&[27, number(index), run.id.task.job.0, u64::from(run.id.number)]);
        if self.journal.is_read() {
            let (name, why) = (self.name_of(run.id.task), self.why_not_wanted(run.id));
            let signal = if signal == KILL { "SIGKILL" } else { "SIGTERM" };
            self.say(|| format!("m{index}: {signal} to {name} {run}: by the newest state {why}"));
        }
        let boot = self.machines[index].boot;
        let Some(container) = self.container(index, boot, run) else { return };
        if container.play == Play::Stubborn && signal == TERM {
            return;
        }
        let delay =
            if signal == KILL { self.dice.between(1, 20) } else { self.dice.between(1, 1_500) };
        let failure = Some(FailureCause::Signal { signal });
        self.agenda
            .after(Millis(delay), Happening::ProcessOver { machine: index, boot, run, failure });
    }
}
