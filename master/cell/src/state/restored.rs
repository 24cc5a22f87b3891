//! A cell that goes on from a backup: what the state does not know of, because it happened after
//! the backup was taken, and what becomes of it.
//!
//! Machines go on running what they were told last. Until the window that opens with the first
//! leader is over, what the state does not know is spared; what it can make sense of becomes the
//! placement of its task again. Whatever the state gives a number to from now on, jobs and
//! incarnations, gets one that nothing of before can have. Leaves what a machine reports to
//! `links`.
//!
//! Invariants: of two incarnations of a slot the one of the higher number is right, whoever heard of
//! it first; it was placed when the other one was given up. What the state knows to be over is
//! spared by nothing.

use super::placement::Told;
use super::turn::Turn;
use super::{Answer, CellState, Job, MachineState};
use crate::event::TaskChange;
use crate::store::Position;
use borg_proto::Network;
use borg_proto::command::SERVICES_SINCE;
use borg_proto::poll::REPLACE_AFTER;
use borg_proto::task::{DeviceShare, EvictCause, Phase, Placement, TaskState};
use borg_proto::{Health, IncarnationId, JobKind, MachineId, Millis, ReplicaId, TaskId};
use std::collections::BTreeSet;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// How long after the first leader no task is placed, so that the machines are heard first. As long as
/// it takes until exclusive tasks have surely ended on machines that hear of no master; four times the
/// silence after which a machine is down.
pub const HEAR_OUT: Millis = REPLACE_AFTER;
/// How many incarnations of one slot may have been placed after the backup. 1,000: our choice; with
/// the longest back-off that is more than three days of a task that fails at once.
const INCARNATIONS: u32 = 1_000;
/// How many jobs may have been submitted after the backup. Our choice: more than any cell takes.
const JOBS: u64 = 1 << 32;
/// How many lives of masters may have begun after the backup. Our choice.
const LIVES: u64 = 1_000;
/// The largest that leaves room for one each: a life has 48 bits of its master's id.
const LAST_LIFE: u64 = (1 << 48) - 1 - ReplicaId::MAX_NUMBER;

/// What a cell remembers of being restored from a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// How long the unknown is spared, from the first leader on.
    pub spare: Millis,
    /// Begins with the first leader.
    pub window: Option<Window>,
    /// Incarnations up to this number were placed before the cell was restored.
    pub incarnations: u32,
}

/// Until when a restored cell treads softly, in cell time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Until then machines keep what the cell does not know.
    pub spare_until: Millis,
    /// Before that nothing is placed.
    pub place_after: Millis,
}

/// What the state makes of an incarnation that a machine has without having been told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stranger {
    /// It was placed after the backup, on a slot that is still to be filled: it fills it.
    Newer,
    /// Nothing is known of it.
    Unknown,
    /// It is known to be over, or replaced.
    Over,
}

/// An incarnation that a machine reports, as in
/// [`Observation::TaskAdopted`](borg_proto::command::Observation::TaskAdopted).
pub(super) struct Found<'a> {
    pub(super) id: IncarnationId,
    pub(super) machine: MachineId,
    pub(super) up: Phase,
    pub(super) restarts: u32,
    pub(super) ports: &'a [u16],
}

impl CellState {
    /// What the masters of a cell begin from that goes on from a backup, the same bytes for each of
    /// them: a new epoch, so that nothing from before can give orders, and masters in new lives, so
    /// that none from before has a say. The unknown is spared for so long after the first leader.
    #[must_use]
    pub fn refound(mut self, masters: &[(u64, String)], spare: Millis) -> (Self, Position) {
        let term = self.leader.map_or(0, |(_, term)| term).saturating_add(1);
        self.epoch = self.epoch.saturating_add(1);
        self.applied = self.applied.saturating_add(1);
        self.leader = None;
        // What a restored cell remembers came with this level.
        self.level = self.level.max(2);
        let lives = self.master_lives.saturating_add(LIVES + 1).min(LAST_LIFE);
        let lives = (lives..).zip(masters);
        let masters: Vec<_> = lives
            .map(|(life, (number, address))| (ReplicaId::of_life(*number, life), address.clone()))
            .collect();
        self.appoint(&masters);
        self.next_job = self.next_job.saturating_add(JOBS);
        let before = self.restored.map_or(0, |restored| restored.incarnations);
        let slots = self.jobs.values().flat_map(|job| job.tasks.iter());
        let retired = self.jobs.values().map(|job| job.retired).max().unwrap_or(0);
        let last = slots.map(|task| task.incarnations).max().unwrap_or(0).max(before).max(retired);
        let incarnations = last.saturating_add(INCARNATIONS);
        self.restored = Some(Restored { spare, window: None, incarnations });
        // Without a window nothing moves, and no deadline comes.
        self.wind_alarms();
        // Over everything, so that masters which were not given the same are told apart.
        self.digest = xxh3_128(&self.encode());
        let place = Position { index: self.applied, term };
        (self, place)
    }

    /// What the cell remembers of being restored, if it was.
    #[must_use]
    pub fn restored(&self) -> Option<&Restored> {
        self.restored.as_ref()
    }

    /// Whether machines keep what the state does not know, at that cell time.
    #[must_use]
    pub fn spares(&self, now: Millis) -> bool {
        self.restored
            .is_some_and(|restored| restored.window.is_none_or(|window| now < window.spare_until))
    }

    /// The cell time before which nothing is placed; 0 but in a cell that was just restored.
    #[must_use]
    pub fn place_after(&self) -> Millis {
        match self.restored.map(|restored| restored.window) {
            Some(Some(window)) => window.place_after,
            Some(None) => Millis(u64::MAX),
            None => Millis(0),
        }
    }

    /// Whether an incarnation was placed before the cell was restored from a backup.
    #[must_use]
    pub fn is_of_before(&self, id: IncarnationId) -> bool {
        self.restored.is_some_and(|restored| id.number <= restored.incarnations)
    }

    /// What to make of an incarnation that runs without being placed.
    #[must_use]
    pub fn stranger(&self, id: IncarnationId) -> Stranger {
        let (Some(job), Some(task)) = (self.job(id.task.job), self.task(id.task)) else {
            return Stranger::Unknown;
        };
        let last_of_before = self.restored.map_or(0, |restored| restored.incarnations);
        if task.is_dead() || id.number <= task.incarnations {
            Stranger::Over
        } else if id.number > last_of_before || !job.waits_for.is_empty() {
            Stranger::Unknown
        } else {
            Stranger::Newer
        }
    }

    /// The number of a slot's next incarnation; `None` when there is none left.
    pub(super) fn next_incarnation(&self, job: &Job, task: &super::Task) -> Option<u32> {
        let before = self.restored.map_or(0, |restored| restored.incarnations);
        task.incarnations.max(before).max(job.retired).checked_add(1)
    }
}

impl Turn<'_> {
    /// The first leader of a restored cell: the window opens.
    pub(super) fn open_window(&mut self) {
        let at = self.at;
        if let Some(restored) = &mut self.state.restored
            && restored.window.is_none()
        {
            let spare_until = Millis(at.0.saturating_add(restored.spare.0));
            let place_after = Millis(at.0.saturating_add(HEAR_OUT.0));
            restored.window = Some(Window { spare_until, place_after });
            self.reset_drains();
            self.stir_updates();
        }
    }

    /// An operator knows enough: the window ends. Changes nothing when it is over, or there is none.
    pub(super) fn settle_restored(&mut self) -> Answer {
        let at = self.at;
        if let Some(window) = self.state.restored.as_mut().and_then(|r| r.window.as_mut()) {
            window.spare_until = window.spare_until.min(at);
        }
        Answer::None
    }

    /// An incarnation that was placed after the backup runs: it is its task's placement, if there is
    /// still room for it where it is.
    pub(super) fn adopt(&mut self, found: &Found<'_>) {
        let (id, machine) = (found.id, found.machine);
        if !self.state.spares(self.at) || self.state.stranger(id) != Stranger::Newer {
            return;
        }
        if !self.can_stay(found) {
            return self.await_end(found);
        }
        self.drop_successor(id.task, "a newer incarnation is found");
        if self.state.task(id.task).is_some_and(|task| task.placement().is_some()) {
            let by = format!("its own incarnation {}, placed after the backup", id.number);
            self.evict(id.task, &EvictCause::Preempted { by });
        }
        let placement = Placement {
            machine,
            incarnation: id.number,
            placed_at: self.at,
            ports: found.ports.to_vec(),
            devices: self.devices_found(found),
            phase: Phase::Starting,
            restarts: found.restarts,
            health: Health::Unchecked,
            address: None,
            serves_since: None,
        };
        let placed = TaskChange::Placed { machine, incarnation: id.number };
        self.change_task(id.task, TaskState::Running(placement.clone()), placed, |task| {
            task.incarnations = id.number;
            task.last_place = Some((machine, id.number));
            // It was placed when the one before it surely was gone, and after it was started again.
            task.lingers = false;
            task.stopped = false;
        });
        if let Phase::Up { pid, .. } = found.up {
            let up = Placement { phase: found.up, ..placement };
            self.change_task(id.task, TaskState::Running(up), TaskChange::Up { pid }, |_| ());
        }
    }

    /// There is no room any more for what runs. An exclusive task is not placed elsewhere before that has
    /// ended; a task of another job may run twice until it has.
    fn await_end(&mut self, found: &Found<'_>) {
        let (id, machine) = (found.id, found.machine);
        let exclusive = self.state.job(id.task.job).is_some_and(|job| job.spec.exclusive);
        let pending = self
            .state
            .task(id.task)
            .is_some_and(|task| matches!(task.state, TaskState::Pending { .. }));
        let known = self.state.machine(machine).is_some();
        if !exclusive || !pending || !known || self.state.level < SERVICES_SINCE {
            return;
        }
        let job = self.job_mut(id.task.job);
        let slot = usize::try_from(id.task.index).ok().and_then(|index| job.tasks.get_mut(index));
        let task = Arc::make_mut(slot.expect("the task was just found there"));
        task.incarnations = id.number;
        task.last_place = Some((machine, id.number));
        task.lingers = true;
        self.state.lingering.insert(id.task);
        self.note_emptiness(machine);
    }

    /// The devices that count as its own. Machines do not say which those are, so they are picked
    /// as for a new task; none when others were given out since.
    fn devices_found(&self, found: &Found<'_>) -> Vec<DeviceShare> {
        let (Some(job), Some(machine)) =
            (self.state.job(found.id.task.job), self.state.machine(found.machine))
        else {
            return Vec::new();
        };
        let info = machine.info.as_ref();
        let asked = job.spec_of(found.id.task.index).asked();
        info.and_then(|info| machine.devices.pick(&info.capacity, &asked)).unwrap_or_default()
    }

    /// Whether the machine has room and ports for it, an older incarnation of the slot gone.
    fn can_stay(&self, found: &Found<'_>) -> bool {
        let task: TaskId = found.id.task;
        let (Some(job), Some(machine)) =
            (self.state.job(task.job), self.state.machine(found.machine))
        else {
            return false;
        };
        let older = self.state.task(task).and_then(super::Task::placement);
        let older = older.filter(|placement| placement.machine == found.machine);
        let version = job.version_of(task.index);
        let asked = version.spec.asked();
        let free = self.state.most_room_on(machine, version.is_prod());
        let (mut free, mut there) = (free, Told::of(machine));
        if older.is_some() {
            free = free.plus(&asked);
            there.leaves(version);
        }
        let range = machine.port_range();
        let mine =
            |port: &u16| older.is_some_and(|placement| placement.machine_ports().contains(port));
        let distinct: BTreeSet<u16> = found.ports.iter().copied().collect();
        let ports = match version.spec.task.network {
            Network::Own => found.ports == version.spec.task.own_ports(),
            Network::Host => {
                let free = |port: &u16| !machine.ports.contains(port) || mine(port);
                distinct.len() == found.ports.len()
                    && found.ports.len() == version.spec.task.ports.len()
                    && found
                        .ports
                        .iter()
                        .all(|port| range.contains(&u32::from(*port)) && free(port))
            }
        };
        // A daemon's slot may have been another machine's since.
        let at_home = job.spec.kind != JobKind::Daemon || job.home(task.index) == Some(machine.id);
        machine.state == MachineState::Up
            && at_home
            && asked.fits_in(&free)
            && self.state.check_alloc(job, task.index, machine).is_ok()
            && there.check(version, machine).is_ok()
            && ports
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Cell, batch, master, service, user, with_task};
    use borg_proto::JobId;
    use borg_proto::command::{Action, Observation};

    const MIB: u64 = 1 << 20;
    const HOUR: Millis = Millis::from_secs(3_600);

    /// A cell with two machines, and a service of two tasks whose first is up on the first machine.
    fn cell() -> (Cell, JobId, [MachineId; 2]) {
        let mut cell = Cell::new();
        let machines = ["m-1", "m-2"].map(|name| cell.machine(name, 1000, 64 * MIB));
        let spec = with_task(service("web", 2, 100, 4 * MIB), |task| {
            task.ports = vec!["http".parse().unwrap()];
        });
        let job = cell.submit("ann", spec);
        let first = cell.place(job, 0, machines[0]).unwrap();
        cell.up(first);
        (cell, job, machines)
    }

    fn refound(cell: &Cell) -> CellState {
        let masters = [1, 2, 3].map(|number| (number, format!("host-{number}:1")));
        cell.state.clone().refound(&masters, HOUR).0
    }

    /// The cell goes on from a backup, and has a leader.
    fn restore(cell: &mut Cell, backup: CellState) {
        cell.state = backup;
        let leader = cell.state.masters().next().unwrap().0;
        cell.apply(master(), Action::Lead { leader, term: 9 }).unwrap();
    }

    fn adopted(id: IncarnationId, machine: MachineId, ports: &[u16]) -> Observation {
        let ports = ports.to_vec();
        Observation::TaskAdopted { id, machine, pid: 77, since: Millis(5), restarts: 2, ports }
    }

    fn ports(cell: &Cell, task: TaskId) -> Vec<u16> {
        cell.state.task(task).unwrap().placement().unwrap().ports.clone()
    }

    #[test]
    fn a_restored_cell_has_another_epoch_other_masters_and_the_same_jobs() {
        let (cell, job, _) = cell();
        let restored = refound(&cell);
        assert_eq!((restored.epoch(), restored.applied()), (2, cell.state.applied() + 1));
        assert_eq!(restored.audit(), []);
        assert_eq!(restored.job(job).unwrap(), cell.state.job(job).unwrap());
        let lives: BTreeSet<u64> = restored.masters().map(|(id, _)| id.life()).collect();
        assert_eq!(lives.len(), 3);
        assert!(lives.iter().all(|life| *life > cell.state.master_lives + LIVES));
        let back = CellState::decode(&restored.encode()).unwrap();
        assert_eq!(back, restored);
    }

    /// Masters that were given other lists, or other times, must not pass for replicas of each other.
    #[test]
    fn masters_restored_from_different_things_have_different_digests() {
        let (cell, ..) = cell();
        let with = |address: &str, spare| {
            cell.state.clone().refound(&[(1, address.to_owned())], spare).0.digest()
        };
        assert_eq!(with("a:1", HOUR), with("a:1", HOUR));
        assert_ne!(with("a:1", HOUR), with("b:1", HOUR));
        assert_ne!(with("a:1", HOUR), with("a:1", Millis(1)));
    }

    #[test]
    fn nothing_is_placed_before_the_machines_were_heard_out() {
        let (mut cell, job, machines) = cell();
        let backup = refound(&cell);
        assert_eq!(backup.place_after(), Millis(u64::MAX), "no leader, no window");
        restore(&mut cell, backup);
        let refused = cell.place(job, 1, machines[1]).unwrap_err().to_string();
        assert_eq!(
            refused,
            "the cell was restored from a backup and finds out first what runs: nothing is placed \
             before 1040000 ms, now is 1000000 ms"
        );
        cell.wait(HEAR_OUT.0);
        let placed = cell.place(job, 1, machines[1]).unwrap();
        assert_eq!(placed.number, 1 + INCARNATIONS + 1, "no incarnation of before has it");
        let new = cell.submit("ann", batch("new", 1, 100, 4 * MIB));
        assert!(new.0 > JOBS);
    }

    #[test]
    fn what_was_placed_after_the_backup_is_adopted_with_its_ports() {
        let (mut cell, job, machines) = cell();
        let backup = refound(&cell);
        let second = cell.place(job, 1, machines[1]).unwrap();
        let its = ports(&cell, second.task);
        restore(&mut cell, backup);
        assert_eq!(cell.state.stranger(second), Stranger::Newer);
        let events = cell.observe(adopted(second, machines[1], &its));
        assert_eq!(events.len(), 2, "as placed, and as up: {events:?}");
        let placement = cell.state.task(second.task).unwrap().placement().unwrap();
        assert_eq!((placement.machine, placement.incarnation), (machines[1], 1));
        assert_eq!((placement.restarts, &placement.ports), (2, &its));
        assert_eq!(placement.phase, Phase::Up { pid: 77, since: Millis(5) });
        assert_eq!(cell.state.job(job).unwrap().counts.up, 2);
        assert!(cell.observe(adopted(second, machines[1], &its)).is_empty(), "once is enough");
    }

    /// By the backup task 0 is on the first machine; it was given up there and placed on the second.
    #[test]
    fn the_newer_of_two_incarnations_is_right_and_the_older_one_ends() {
        let (mut cell, job, machines) = cell();
        let backup = refound(&cell);
        let older = IncarnationId { task: TaskId { job, index: 0 }, number: 1 };
        cell.observe(Observation::MachineDown { machine: machines[0] });
        let newer = cell.place(job, 0, machines[1]).unwrap();
        let its = ports(&cell, newer.task);
        restore(&mut cell, backup);
        cell.observe(adopted(newer, machines[1], &its));
        assert_eq!(cell.state.task(newer.task).unwrap().running(newer.task), Some(newer));
        assert!(cell.state.machine(machines[0]).unwrap().tasks.is_empty());
        assert_eq!(cell.state.stranger(older), Stranger::Over);
        assert!(cell.observe(adopted(older, machines[0], &its)).is_empty());
    }

    /// It was placed after the backup on a machine that has no room for it any more.
    #[test]
    fn an_exclusive_task_waits_for_the_end_of_what_cannot_stay() {
        let (mut cell, _, machines) = cell();
        cell.apply(master(), Action::RaiseLevel { level: SERVICES_SINCE }).unwrap();
        let mut alone = service("alone", 1, 900, 4 * MIB);
        alone.exclusive = true;
        let alone = cell.submit("ann", alone);
        let backup = refound(&cell);
        let newer = cell.place(alone, 0, machines[1]).unwrap();
        restore(&mut cell, backup);
        let small = crate::fixture::info(500, 64 * MIB, &[]);
        cell.observe(Observation::MachineUp { machine: machines[1], info: small });
        cell.observe(adopted(newer, machines[1], &[]));
        assert_eq!(cell.state.audit(), []);
        assert_eq!(cell.state.stranger(newer), Stranger::Over, "it may be ended");
        cell.wait(HEAR_OUT.0);
        cell.observe(Observation::MachineUp {
            machine: machines[0],
            info: crate::fixture::info(4_000, 64 * MIB, &[]),
        });
        let refused = cell.place(alone, 0, machines[0]).unwrap_err().to_string();
        assert!(refused.contains("may still run"), "{refused}");
        cell.observe(Observation::TaskGone { id: newer });
        cell.place(alone, 0, machines[0]).unwrap();
        assert_eq!(cell.state.audit(), []);
    }

    #[test]
    fn what_was_killed_or_has_no_place_is_not_adopted() {
        let (mut cell, job, machines) = cell();
        let backup = refound(&cell);
        let second = cell.place(job, 1, machines[1]).unwrap();
        let its = ports(&cell, second.task);
        let later = cell.submit("bob", batch("later", 1, 100, 4 * MIB));
        let later = IncarnationId { task: TaskId { job: later, index: 0 }, number: 1 };
        restore(&mut cell, backup);
        assert_eq!(cell.state.stranger(later), Stranger::Unknown);
        let taken = ports(&cell, TaskId { job, index: 0 });
        let odd = [
            (machines[0], &taken[..]),
            (machines[1], &[][..]),
            (machines[1], &[1][..]),
            (MachineId(9), &its[..]),
        ];
        for (machine, ports) in odd {
            assert!(cell.observe(adopted(second, machine, ports)).is_empty());
        }
        cell.kill("ann", "ann/web", &[1]).unwrap();
        assert_eq!(cell.state.stranger(second), Stranger::Over);
        assert!(cell.observe(adopted(second, machines[1], &its)).is_empty());
    }

    #[test]
    fn the_window_ends_by_itself_or_by_word_of_the_admin() {
        let (mut cell, job, machines) = cell();
        let backup = refound(&cell);
        let second = cell.place(job, 1, machines[1]).unwrap();
        let its = ports(&cell, second.task);
        restore(&mut cell, backup.clone());
        assert!(cell.state.spares(cell.now + Millis(HOUR.0 - 1)));
        assert!(!cell.state.spares(cell.now + HOUR));
        let refused = cell.apply(user("ann"), Action::Settle).unwrap_err().to_string();
        assert_eq!(refused, "user ann may not end what a restored cell spares: that needs admin");
        cell.apply(user("admin"), Action::Settle).unwrap();
        assert!(!cell.state.spares(cell.now));
        assert!(cell.observe(adopted(second, machines[1], &its)).is_empty());
        cell.wait(HEAR_OUT.0);
        cell.place(job, 1, machines[1]).unwrap();
        // Another leader opens no other window.
        cell.apply(master(), Action::Lead { leader: ReplicaId(1), term: 10 }).unwrap();
        assert!(!cell.state.spares(cell.now));
    }

    #[test]
    fn a_cell_that_was_restored_can_be_restored_again() {
        let (mut cell, job, machines) = cell();
        let backup = refound(&cell);
        restore(&mut cell, backup);
        cell.wait(HEAR_OUT.0);
        let placed = cell.place(job, 1, machines[1]).unwrap();
        let again = refound(&cell);
        assert_eq!((again.epoch(), again.restored().unwrap().window), (3, None));
        assert!(again.restored().unwrap().incarnations > placed.number);
        assert_eq!(again.audit(), []);
    }
}
