//! One simulated machine: its processes, what its borglet keeps on disk, and the borglet.
//!
//! Processes live and die by themselves, as under shims: the death of the borglet touches none of
//! them, a reboot ends all. The fence is the only thing that the borglet itself must not lose.

use super::clock::Clock;
use super::processes::{Container, ContainerState, KILL, TERM};
use super::replica::FENCE_AFTER;
use super::{Asking, Happening, PollId, World, number};
use crate::checkers::Invariant;
use crate::dice::Dice;
use crate::marks::Mark;
use crate::usage;
use borg_linkshard::PollFailure;
use borg_proto::poll::{Fence, PollAnswer, Usage};
use borg_proto::task::RunEnd;
use borg_proto::{FailureCause, IncarnationId, MachineInfo, MachineName, Millis, Resources};
use borglet_supervisor::{
    Adopted, AdoptedState, Config, Effect, Input, MachineUse, NextRun, Run, Supervisor, TaskUse,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How often a borglet measures usage.
const MEASURE: Millis = Millis(5_000);

/// Processor time in millicores and memory in bytes of a machine of which nothing else is said.
pub(crate) const SHAPE: (u64, u64) = (4_000, 4 << 30);

/// A machine.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: MachineName,
    pub(crate) info: MachineInfo,
    /// What it has when all of it works.
    full: Resources,
    pub(crate) clock: Clock,
    /// On its disk: until when exclusive processes may live, by its time since boot.
    pub(crate) lease: Millis,
    /// Counts its boots.
    pub(crate) boot: u32,
    /// On its disk.
    fence: Fence,
    pub(crate) processes: BTreeMap<IncarnationId, Container>,
    /// Directories of allocs on its disk, and what they take.
    pub(crate) data: BTreeMap<IncarnationId, u64>,
    /// Runs that an earlier borglet did not live to see begin.
    never_began: BTreeMap<IncarnationId, NextRun>,
    pub(crate) next_pid: u32,
    /// Counts its borglet's processes.
    pub(crate) life: u32,
    borglet: Option<Borglet>,
    /// The borglet dies after so many more effects.
    pub(crate) dies_after: Option<u32>,
    /// The borglet stands still.
    pub(crate) paused: bool,
    /// Its processes used more memory than it has as that was last measured.
    pub(crate) is_short: bool,
}

#[derive(Debug)]
struct Borglet {
    /// What arrived while it stood still.
    backlog: Vec<Input>,
    supervisor: Supervisor,
    held: BTreeMap<u64, PollId>,
    next_token: u64,
    wakes_at: Option<Millis>,
}

/// The address under which a machine's borglet is known to the cell.
pub(crate) fn address(index: usize) -> String {
    format!("machine-{index}:7000")
}

/// The machine at an address.
pub(crate) fn host_at(address: &str) -> usize {
    let text = address.trim_start_matches("machine-").trim_end_matches(":7000");
    text.parse().expect("the world made this address")
}

impl Host {
    pub(crate) fn new(dice: &mut Dice, index: usize, (cpu_milli, ram_bytes): (u64, u64)) -> Self {
        let attributes = BTreeMap::from([
            ("arch".to_owned(), "x86_64".to_owned()),
            ("rack".to_owned(), format!("r{}", index % 3)),
        ]);
        let capacity = Resources {
            cpu_milli,
            ram_bytes,
            disk_bytes: 100 << 30,
            ports: 20,
            devices: BTreeMap::new(),
        };
        let info = MachineInfo {
            capacity,
            first_port: 20_000,
            attributes,
            boot_id: format!("boot-{index}-1"),
            missing_isolation: Vec::new(),
            task_host: format!("10.0.0.{index}"),
        };
        Self {
            name: format!("m{index}").parse().expect("a name"),
            full: info.capacity.clone(),
            info,
            clock: Clock::of_machine(dice),
            lease: Millis(0),
            boot: 1,
            fence: Fence::default(),
            processes: BTreeMap::new(),
            data: BTreeMap::new(),
            never_began: BTreeMap::new(),
            next_pid: 100,
            life: 0,
            borglet: None,
            dies_after: None,
            paused: false,
            is_short: false,
        }
    }

    pub(crate) fn has_borglet(&self) -> bool {
        self.borglet.is_some()
    }

    /// Incarnations with a process, and its id.
    pub(crate) fn running(&self) -> impl Iterator<Item = (IncarnationId, u32)> {
        self.processes.iter().filter_map(|(id, container)| match container.state {
            ContainerState::Running { pid, .. } => Some((*id, pid)),
            ContainerState::Starting | ContainerState::Ended { .. } => None,
        })
    }

    /// What the borglet says of itself, while it runs.
    pub(crate) fn supervisor(&self) -> Option<&Supervisor> {
        self.borglet.as_ref().map(|borglet| &borglet.supervisor)
    }

    fn adoptable(&self) -> Vec<Adopted> {
        let adopt = |container: &Container| {
            let (since, state) = match &container.state {
                ContainerState::Starting => return None,
                ContainerState::Running { pid, since } => {
                    (*since, AdoptedState::Running { pid: *pid })
                }
                ContainerState::Ended { since, at, failure } => {
                    (*since, AdoptedState::Ended { at: *at, failure: failure.clone() })
                }
            };
            let end = match &container.state {
                ContainerState::Starting | ContainerState::Running { .. } => None,
                ContainerState::Ended { since, at, failure } => {
                    Some(run_end(container.run, *since, *at, failure.clone()))
                }
            };
            Some(Adopted {
                layers: Vec::new(),
                run: container.run,
                since,
                grace: container.grace,
                ports: container.ports.clone(),
                address: None,
                task: container.task.clone(),
                state,
                end,
                failures: container.failures,
            })
        };
        self.processes.values().filter_map(adopt).collect()
    }
}

/// What a machine tells of a run that is over.
pub(super) fn run_end(
    run: Run,
    since: Millis,
    at: Millis,
    failure: Option<FailureCause>,
) -> Arc<RunEnd> {
    let last_lines = failure.as_ref().map(|cause| format!("{run}: {cause}")).unwrap_or_default();
    let (cpu_ms, ram_peak_bytes) = (at.since(since).0, 1 << 20);
    Arc::new(RunEnd {
        run: run.number,
        started: Some(since),
        ended: at,
        failure,
        cpu_ms,
        ram_peak_bytes,
        last_lines,
    })
}

impl World {
    /// A machine's time since boot.
    pub(crate) fn boot_time(&self, machine: usize) -> Millis {
        self.machines[machine].clock.boot(self.now())
    }

    /// A moment by the clock of a machine's borglet as time since boot.
    pub(crate) fn boot_time_of(&self, machine: usize, at: Millis) -> Millis {
        let left = at.since(self.machine_clock(machine));
        self.boot_time(machine) + left
    }

    pub(crate) fn machine_clock(&self, machine: usize) -> Millis {
        self.machines[machine].clock.now(self.now())
    }

    /// What a machine's wall clock shows, which is what shims write into their records.
    pub(crate) fn machine_wall(&self, machine: usize) -> Millis {
        self.machines[machine].clock.wall(self.now())
    }

    pub(crate) fn start_borglet(&mut self, index: usize) {
        let (session, now) = (self.dice.roll(), self.now());
        let host = &mut self.machines[index];
        let mut config = Config::new(self.newest.cell().clone(), host.name.clone(), session);
        config.fence_after = FENCE_AFTER;
        let adopted = host.adoptable();
        let running = adopted.iter().any(|one| matches!(one.state, AdoptedState::Running { .. }));
        let ended = adopted.iter().any(|one| matches!(one.state, AdoptedState::Ended { .. }));
        let supervisor = Supervisor::new(config, host.fence, adopted, host.info.clone())
            .with_runs(host.never_began.clone())
            .with_data(host.data.keys().copied().collect());
        host.life += 1;
        host.dies_after = None;
        host.paused = false;
        let (backlog, held) = (Vec::new(), BTreeMap::new());
        host.borglet = Some(Borglet { backlog, supervisor, held, next_token: 1, wakes_at: None });
        let life = host.life;
        if host.clock.start(now) {
            self.hit(Mark::MachineClockSet);
        }
        if running {
            self.hit(Mark::BorgletAdopted);
        }
        if ended {
            self.hit(Mark::AdoptedEnded);
        }
        self.note(&[20, number(index)]);
        self.say(|| format!("borglet of m{index} starts"));
        self.agenda.after(MEASURE, Happening::UsageMeasured { machine: index, life });
        self.plan_borglet(index);
    }

    /// Ends a borglet as signal 9 does. Tasks run on; starts that are under way are finished or
    /// given up by themselves.
    pub(crate) fn crash_borglet(&mut self, index: usize) {
        let Some(borglet) = self.machines[index].borglet.take() else { return };
        // Whoever waits for an answer mostly hears at once that the connection broke.
        for asked in borglet.held.into_values() {
            if self.dice.chance(800) {
                let broken = PollFailure::Unreachable("connection reset".into());
                self.send_answer(asked, Err(broken));
            }
        }
        let (clock, booted) = (self.machine_wall(index), self.boot_time(index));
        let host = &mut self.machines[index];
        let lease = host.lease;
        // A start that was under way is finished by itself, or leaves a record without a process,
        // or nothing but the number of the run.
        let mut came_up = Vec::new();
        let dice = &mut self.dice;
        let (mut next_pid, never_began) = (host.next_pid, &mut host.never_began);
        host.processes.retain(|_, container| {
            if container.state != ContainerState::Starting {
                return true;
            }
            let over = container.ends_by.is_some_and(|by| by.max(lease) <= booted);
            if !over && dice.chance(500) {
                next_pid += 1;
                container.state = ContainerState::Running { pid: next_pid, since: clock };
                came_up.push(container.run);
                return true;
            }
            let failure = Some(FailureCause::Lost);
            container.state = ContainerState::Ended { since: clock, at: clock, failure };
            if dice.chance(500) {
                return true;
            }
            let next = NextRun { number: container.run.number, failures: container.failures };
            never_began.insert(container.run.id, next);
            false
        });
        host.next_pid = next_pid;
        for run in came_up {
            self.act(index, run);
        }
        self.note(&[21, number(index)]);
        self.say(|| format!("borglet of m{index} dies"));
    }

    /// Everything on the machine ends; what is left on its disk says nothing of how.
    pub(crate) fn reboot(&mut self, index: usize, shrink: bool) {
        self.crash_borglet(index);
        let clock = self.machine_wall(index);
        let host = &mut self.machines[index];
        host.boot += 1;
        host.lease = Millis(0);
        host.info.boot_id = format!("boot-{index}-{}", host.boot);
        let full = host.full.clone();
        let half = (full.cpu_milli / 2, full.ram_bytes / 2);
        host.info.capacity =
            if shrink { Resources { cpu_milli: half.0, ram_bytes: half.1, ..full } } else { full };
        let mut ended = Vec::new();
        for (id, container) in &mut host.processes {
            container.task = None;
            if let ContainerState::Running { since, .. } = container.state {
                let failure = Some(FailureCause::Lost);
                container.state = ContainerState::Ended { since, at: clock, failure };
                ended.push(*id);
            }
        }
        host.processes.retain(|_, container| container.state != ContainerState::Starting);
        for id in ended {
            self.checks.copies.stopped(id, index);
        }
        self.hit(Mark::MachineRebooted);
        self.note(&[22, number(index), u64::from(shrink)]);
        self.say(|| format!("m{index} reboots"));
    }

    /// A poll reaches a machine.
    pub(crate) fn polled(&mut self, asked: Asking) {
        let machine = asked.id.machine;
        self.note(&[23, number(machine), asked.request.fence.term, asked.request.fence.generation]);
        let host = &mut self.machines[machine];
        let Some(borglet) = host.borglet.as_mut().filter(|_| host.life == asked.to_life) else {
            let refused = PollFailure::Unreachable("connection refused".into());
            return self.send_answer(asked.id, Err(refused));
        };
        let token = borglet.next_token;
        borglet.next_token += 1;
        borglet.held.insert(token, asked.id);
        let (before, fence) = (borglet.supervisor.obeyed(), asked.request.fence);
        let named = asked.request.target.is_none() && before.session != fence.session;
        self.tell_borglet(machine, Input::Poll { token, request: asked.request });
        let obeyed = self.machines[machine].borglet.as_ref().map(|b| b.supervisor.obeyed());
        if named && obeyed == Some(fence) {
            self.hit(Mark::TargetKept);
        }
    }

    pub(crate) fn tell_borglet(&mut self, index: usize, input: Input) {
        let now = self.machine_clock(index);
        let host = &mut self.machines[index];
        let life = host.life;
        let Some(borglet) = &mut host.borglet else { return };
        if host.paused {
            return borglet.backlog.push(input);
        }
        let effects = borglet.supervisor.handle(now, input);
        let obeyed = borglet.supervisor.obeyed();
        for effect in effects {
            let host = &mut self.machines[index];
            if host.dies_after == Some(0) {
                self.hit(Mark::BorgletCrashInTurn);
                self.crash_borglet(index);
                return self.restart_borglet_later(index);
            }
            if let Some(left) = &mut host.dies_after {
                *left -= 1;
            }
            self.do_on_machine(index, effect);
        }
        self.obeyed(index, life, obeyed);
        // Death right after the last word: the cell hears of orders obeyed, the next poll finds a
        // borglet that has none.
        if self.machines[index].dies_after == Some(0) && self.dice.chance(500) {
            self.hit(Mark::BorgletCrashInTurn);
            self.crash_borglet(index);
            return self.restart_borglet_later(index);
        }
        self.plan_borglet(index);
    }

    /// A borglet that stood still goes on with what arrived meanwhile.
    pub(crate) fn resume_borglet(&mut self, index: usize) {
        self.machines[index].paused = false;
        self.hit(Mark::BorgletPaused);
        let life = self.machines[index].life;
        let backlog = self.machines[index].borglet.as_mut().map(|b| std::mem::take(&mut b.backlog));
        for input in backlog.into_iter().flatten() {
            if self.machines[index].life == life {
                self.tell_borglet(index, input);
            }
        }
        self.plan_borglet(index);
    }

    fn obeyed(&mut self, index: usize, life: u32, fence: Fence) {
        let result = self.checks.fencing.obeys(index, life, fence);
        self.check(Invariant::Fencing, result);
    }

    fn do_on_machine(&mut self, index: usize, effect: Effect) {
        match effect {
            Effect::RememberFence(fence) => {
                let life = self.machines[index].life;
                self.machines[index].fence = fence;
                self.obeyed(index, life, fence);
            }
            Effect::ExtendLease { until } => {
                let until = self.boot_time_of(index, until);
                let host = &mut self.machines[index];
                host.lease = host.lease.max(until);
            }
            Effect::ExpectBlob { .. }
            | Effect::FetchBlob { .. }
            | Effect::Unpack { .. }
            | Effect::DropBlob { .. } => unreachable!("no simulated job names packages"),
            Effect::MeasureData { alloc } => self.measure_data(index, alloc),
            Effect::DropData { alloc } => self.drop_data(index, alloc),
            Effect::Start(launch) => self.launch(index, *launch),
            Effect::Terminate { run } => self.signal(index, run, TERM),
            Effect::Kill { run } => {
                self.hit(Mark::KilledHard);
                self.signal(index, run, KILL);
            }
            Effect::Probe { run, .. } => self.probe(index, run),
            // No machine tells how busy it is.
            Effect::CapCpu { .. } | Effect::ShareCpu { .. } => {}
            Effect::Remove { id } => {
                self.note(&[24, number(index), id.task.job.0, u64::from(id.number)]);
                let host = &mut self.machines[index];
                let alive = host
                    .processes
                    .get(&id)
                    .is_some_and(|c| matches!(c.state, ContainerState::Running { .. }));
                let result =
                    if alive { Err(format!("m{index} forgets {id}, which runs")) } else { Ok(()) };
                host.processes.remove(&id);
                self.check(Invariant::NoOrphan, result);
            }
            Effect::Answer { token, result } => {
                let Some(borglet) = &mut self.machines[index].borglet else { return };
                let Some(asked) = borglet.held.remove(&token) else {
                    return self.check(
                        Invariant::Fencing,
                        Err(format!("m{index} answers poll {token} twice")),
                    );
                };
                if let Ok(answer) = &result {
                    self.checks.views.said(index, answer.version, &answer.report);
                }
                self.send_answer(asked, result.map_err(PollFailure::Refused));
            }
        }
    }

    fn send_answer(&mut self, asked: PollId, result: Result<PollAnswer, PollFailure>) {
        let result = if self.setup.wire { over_the_wire(result) } else { result };
        let from = self.setup.masters + asked.machine;
        let copies = self.network.send(&mut self.dice, from, asked.replica);
        if let Some(delay) = copies[0] {
            self.agenda.after(delay, Happening::Polled { asked, result: Box::new(result) });
        }
    }

    pub(crate) fn usage_measured(&mut self, index: usize, life: u32) {
        let host = &self.machines[index];
        if host.life != life || host.borglet.is_none() {
            return;
        }
        let now = self.now();
        let modelled = |id: IncarnationId| {
            let task = host.processes.get(&id)?.task.as_ref()?;
            usage::of(&task.spec, id, now)
        };
        let ids: Vec<_> = host.running().map(|(id, _)| (id, modelled(id))).collect();
        let mut usages = Vec::with_capacity(ids.len());
        for (id, modelled) in ids {
            let mut thrown = || Usage {
                cpu_milli: self.dice.below(200),
                ram_bytes: self.dice.below(64 << 20),
                ..Usage::default()
            };
            let usage = modelled.unwrap_or_else(&mut thrown);
            usages.push((id, TaskUse { usage, files: 0 }));
        }
        self.agenda.after(MEASURE, Happening::UsageMeasured { machine: index, life });
        let used: u64 = usages.iter().map(|(_, task)| task.usage.ram_bytes).sum();
        let host = &mut self.machines[index];
        host.is_short = used > host.info.capacity.ram_bytes;
        // It is short when its tasks use more than it has, of memory alone.
        let machine = MachineUse { memory_available: Some(u64::MAX), ..MachineUse::default() };
        self.tell_borglet(index, Input::Usage { machine, tasks: usages });
    }

    pub(crate) fn borglet_wakes(&mut self, index: usize, life: u32) {
        let now = self.machine_clock(index);
        let host = &mut self.machines[index];
        let Some(borglet) = host.borglet.as_mut().filter(|_| host.life == life) else { return };
        if borglet.wakes_at.is_none_or(|at| at > now) {
            return;
        }
        borglet.wakes_at = None;
        if host.paused {
            return;
        }
        if borglet.supervisor.next_wakeup().is_some_and(|due| due <= now) {
            self.tell_borglet(index, Input::Tick);
        } else {
            self.plan_borglet(index);
        }
    }

    fn plan_borglet(&mut self, index: usize) {
        let now = self.machine_clock(index);
        let host = &mut self.machines[index];
        let life = host.life;
        let Some(borglet) = &mut host.borglet else { return };
        let Some(due) = borglet.supervisor.next_wakeup() else { return };
        let due = due.max(now);
        if borglet.wakes_at.is_none_or(|at| due < at) {
            borglet.wakes_at = Some(due);
            let delay = host.clock.until(due.since(now));
            self.agenda.after(delay, Happening::BorgletWakes { machine: index, life });
        }
    }
}

/// The answer as the shard reads it.
fn over_the_wire(result: Result<PollAnswer, PollFailure>) -> Result<PollAnswer, PollFailure> {
    use borg_proto::wire::pb;
    result.map(|answer| {
        PollAnswer::try_from(pb::PollAnswer::from(&answer)).expect("an answer survives the wire")
    })
}
