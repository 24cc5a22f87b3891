//! The replicated state of a cell: machines, jobs and tasks, and the one way they change.
//!
//! [`CellState::apply`] takes committed entries in order; everything else only reads. The nouns
//! have a file each (`machines`, `jobs`, `tasks`), as have the rules of accepting and ending jobs
//! (`lives`), of jobs that hang together (`parents`), of daemons (`daemons`) and cron jobs (`crons`), of what
//! takes too long (`run_out`) or runs again (`rerun`), of placing (`placement`), of taking in what machines report (`observe`), of going on
//! from a backup (`restored`), of quota (`quota`), of who may use machines (`access`), of emptying them (`drains`, `maintenance`), of starting a task elsewhere before it leaves (`moves`, `successors`), of what allocs leave behind there (`kept`, `rescues`), of packages (`packages`), of what users may (`privileges`), of how the scheduler chooses (`policy`), of what is lent (`reclamation`), of what stays known of runs (`runs`) and of repeated requests (`requests`); `turn` leads each command to its rule. `audit` says
//! what must always hold. Soft state (usage, poll health) is not here.
//!
//! Invariants: the same entries give the same state, byte for byte, on every replica: no clock,
//! randomness, float or hash order is read. A clone shares everything and costs next to nothing.

#![deny(clippy::float_arithmetic)]

mod access;
mod alarms;
pub mod allocs;
pub mod audit;
mod crons;
pub mod daemons;
mod digest;
pub mod disruption;
mod drains;
mod gang;
mod jobs;
mod kept;
pub mod lives;
mod machines;
mod maintenance;
mod masters;
mod moves;
pub mod observe;
pub mod packages;
mod parents;
mod placement;
mod policy;
pub mod privileges;
pub mod quota;
mod reclamation;
pub mod requests;
mod rerun;
mod rescues;
mod restored;
mod run_out;
pub mod runs;
mod stops;
mod successors;
mod tasks;
mod turn;
pub mod updates;
mod versions;

pub use access::Closed;
pub use alarms::{Due, MAX_ALARMS};
pub use audit::Violation;
pub use crons::{CronState, Fate, MAX_TICK_TEXT, Tick};
pub use disruption::Blocked;
pub use drains::{Drain, Staying};
pub use jobs::{Job, JobEnd, JobState, TaskCounts};
pub use kept::{Kept, MAX_KEPT_OF_A_SET, MAX_KEPT_ON_A_MACHINE};
pub use machines::{MAX_TARGET_BYTES, MAX_TASKS_ON_A_MACHINE, Machine, MachineState, target_bytes};
pub use maintenance::{MAX_MAINTENANCES, Maintenance};
pub use masters::{MAX_MASTERS, MasterRecord, Standing};
pub use moves::OVERDUE;
pub use packages::{PackageRecord, PackagesMark};
pub use privileges::GrantedPrivilege;
pub use rescues::{MAX_WHY_BYTES, RESCUE_AGAIN};
pub use restored::{HEAR_OUT, Restored, Stranger, Window};
pub use successors::{MAX_VAIN, READY_WITHIN, Successor, VAIN_REST, Vain};
pub use tasks::{CRASH_COOL_DOWN, Crash, MAX_CRASHES, Task};
pub(crate) use updates::OnTheWay;
pub use updates::{Progress, Update, UpdateState};
pub use versions::{
    FIRST_VERSION, MAX_KEPT_VERSIONS, MAX_NOTE_BYTES, MAX_VERSIONS_IN_USE, Version,
};

use crate::event::{Event, EventKind};
use crate::rejection::Rejection;
use crate::store::{Membership, Position};
use borg_proto::command::{Command, RequestId};
use borg_proto::names::JobName;
use borg_proto::policy::CellPolicy;
use borg_proto::reclamation::Reclamation;
use borg_proto::{
    CellName, IncarnationId, JobId, JobKey, MachineId, MachineName, Millis, Privilege, ReplicaId,
    TaskId, UserName,
};
use imbl::{OrdMap, OrdSet, Vector};
use std::ops::Bound;
use std::sync::Arc;
use turn::Turn;

/// The state of a cell after some log index. Clones share everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellState {
    pub(crate) cell: CellName,
    pub(crate) epoch: u64,
    pub(crate) applied: u64,
    pub(crate) digest: u128,
    /// The latest time that any entry carried.
    pub(crate) clock: Millis,
    /// Who leads, and its term.
    pub(crate) leader: Option<(ReplicaId, u64)>,
    /// The level of entries that may be proposed, see [`borg_proto::command::LEVEL`].
    pub(crate) level: u32,
    pub(crate) masters: OrdMap<ReplicaId, MasterRecord>,
    /// Lives given to masters so far.
    pub(crate) master_lives: u64,
    /// Set when the cell goes on from a backup.
    pub(crate) restored: Option<Restored>,
    pub(crate) next_machine: u32,
    pub(crate) next_job: u64,
    pub(crate) machines: OrdMap<MachineId, Arc<Machine>>,
    pub(crate) jobs: OrdMap<JobId, Arc<Job>>,
    /// Set while so much of the cell is silent that nothing moves.
    pub(crate) safe_mode: Option<SafeMode>,
    /// When machines were taken for down by a leader within [`DOWNS_REMEMBERED`], in cell time.
    pub(crate) downs: Vector<Millis>,
    /// Who may ask for how much.
    pub(crate) quotas: quota::Quotas,
    /// How the scheduler chooses; `None` while nobody said anything.
    pub(crate) policy: Option<CellPolicy>,
    /// How much is lent of what tasks hold; `None` while nobody said anything.
    pub(crate) reclamation: Option<Reclamation>,
    /// How runs of tasks ended.
    pub(crate) runs: runs::Runs,
    /// What tasks may bring along.
    pub(crate) packages: packages::Packages,
    /// What users may that others may not.
    pub(crate) privileges: OrdMap<(UserName, Privilege), GrantedPrivilege>,
    /// Machines that are drained one after the other, by number.
    pub(crate) maintenances: OrdMap<u64, Arc<Maintenance>>,
    /// The number of the last of them.
    pub(crate) last_maintenance: u64,
    /// Tasks that were pushed out over a disruption budget, as a deadline had come.
    pub(crate) forced: u64,
    /// What allocs left behind on machines, by number.
    pub(crate) kept: OrdMap<u64, Arc<Kept>>,
    /// The number of the last of it.
    pub(crate) last_kept: u64,
    /// What clients asked for lately, and what came of it.
    pub(crate) requests: requests::Requests,
    // Indexes: follow from the above, and are rebuilt from it when a checkpoint is read.
    pub(crate) machine_names: OrdMap<MachineName, MachineId>,
    pub(crate) job_keys: OrdMap<JobKey, JobId>,
    pub(crate) pending: OrdSet<TaskId>,
    /// What is to happen when.
    pub(crate) alarms: alarms::Alarms,
    /// Tasks whose last incarnation may still run, see [`Task::lingers`].
    pub(crate) lingering: OrdSet<TaskId>,
    /// Machines that are drained.
    pub(crate) draining: OrdSet<MachineId>,
    /// Dead jobs, the first to be forgotten first.
    pub(crate) dead_jobs: OrdSet<(Millis, JobId)>,
    /// Daemons that are alive.
    pub(crate) daemons: OrdSet<JobId>,
    /// What allocs left behind on each machine that has any.
    pub(crate) kept_by_machine: OrdMap<MachineId, OrdSet<u64>>,
    /// Slots of jobs that are alive.
    pub(crate) live_slots: u64,
    /// Slots of dead jobs.
    pub(crate) dead_slots: u64,
}

/// Where the log of a new cell begins: with a checkpoint of the state that its masters agreed on by
/// being started with the same list.
pub const FOUNDING: Position = Position { index: 1, term: 1 };

/// How long it is remembered that a leader took a machine for down: the rate limit is by the minute.
pub const DOWNS_REMEMBERED: Millis = Millis::from_secs(60);

/// The level of entries from which on downs and crashes are noted.
pub const NOTES_LEVEL: u32 = 2;

/// Why nothing moves: much of the cell was silent at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SafeMode {
    /// Since when, in cell time.
    pub since: Millis,
    /// How many machines were silent as it began.
    pub silent: u32,
    /// Of how many that should have answered.
    pub machines: u32,
}

/// What an accepted entry did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// What changed, in order. Empty when nothing did, as for a repeated request.
    pub events: Vec<Event>,
    /// What the asker is told.
    pub answer: Answer,
}

/// What the asker of a change is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// That it happened.
    None,
    /// The job was accepted.
    Job {
        /// Its number.
        id: JobId,
        /// Its name.
        key: JobKey,
    },
    /// Tasks were killed, stopped or started.
    Killed {
        /// How many were not before.
        tasks: u32,
    },
    /// The job has this version in force.
    Version(u32),
    /// Tasks wait to be placed again.
    Rerun {
        /// How many.
        tasks: u32,
    },
    /// The machine was added or changed.
    Machine(MachineId),
    /// The master was invited, joins or leaves.
    Master(ReplicaId),
    /// What came of each assignment, in order.
    Placed {
        /// The new incarnation, or why not.
        results: Vec<Result<IncarnationId, Rejection>>,
    },
}

impl CellState {
    /// An empty cell.
    #[must_use]
    pub fn new(cell: CellName) -> Self {
        Self {
            cell,
            epoch: 1,
            applied: 0,
            digest: 0,
            clock: Millis(0),
            leader: None,
            level: 1,
            masters: OrdMap::new(),
            master_lives: 0,
            restored: None,
            next_machine: 0,
            next_job: 1,
            machines: OrdMap::new(),
            jobs: OrdMap::new(),
            safe_mode: None,
            downs: Vector::new(),
            quotas: quota::Quotas::default(),
            policy: None,
            reclamation: None,
            runs: runs::Runs::default(),
            packages: packages::Packages::default(),
            privileges: OrdMap::new(),
            maintenances: OrdMap::new(),
            last_maintenance: 0,
            forced: 0,
            kept: OrdMap::new(),
            last_kept: 0,
            requests: requests::Requests::default(),
            machine_names: OrdMap::new(),
            job_keys: OrdMap::new(),
            pending: OrdSet::new(),
            alarms: alarms::Alarms::default(),
            lingering: OrdSet::new(),
            draining: OrdSet::new(),
            dead_jobs: OrdSet::new(),
            daemons: OrdSet::new(),
            kept_by_machine: OrdMap::new(),
            live_slots: 0,
            dead_slots: 0,
        }
    }

    /// What the masters of a new cell begin from: the same bytes for each of them.
    #[must_use]
    pub fn found(cell: CellName, masters: &[(ReplicaId, String)], level: u32) -> Self {
        let mut state = Self::new(cell);
        state.applied = FOUNDING.index;
        state.level = level;
        state.appoint(masters);
        state
    }

    /// Raft's configuration in which the masters of a new cell, or of a restored one, vote.
    #[must_use]
    pub fn founding_membership(&self) -> Membership {
        let voters = self.masters.keys().map(|id| id.0).collect();
        Membership { voters, ..Membership::default() }
    }

    fn appoint(&mut self, masters: &[(ReplicaId, String)]) {
        let record = |address: &String| MasterRecord {
            address: address.clone(),
            standing: Standing::Voting,
            token: 0,
        };
        self.masters = masters.iter().map(|(id, address)| (*id, record(address))).collect();
        let last = self.masters.keys().map(|id| id.life()).max().unwrap_or(0);
        self.master_lives = self.master_lives.max(last);
    }

    /// Applies one committed entry. The same entry on the same state gives the same result on
    /// every replica. A rejection is an ordinary outcome and still uses up the entry.
    ///
    /// # Errors
    /// When the state does not allow the change; nothing but index, digest, clock and the memory
    /// of requests has changed then.
    ///
    /// # Panics
    /// When `index` was applied before: the caller has lost its place in the log.
    pub fn apply(&mut self, index: u64, command: &Command) -> Result<Applied, Rejection> {
        self.advance(index);
        self.clock = self.clock.max(command.at);
        let result = Turn::new(self).once(command);
        self.digest = digest::after(self.digest, index, command, &result);
        result
    }

    /// Uses up an entry that made `members` Raft's configuration.
    ///
    /// # Panics
    /// When `index` was applied before.
    pub fn change_members(&mut self, index: u64, members: &Membership) -> Vec<Event> {
        self.advance(index);
        self.digest = digest::after_members(self.digest, index, members);
        if !self.follow_members(members) {
            return Vec::new();
        }
        vec![Event { index, at: self.clock, kind: EventKind::MastersChanged }]
    }

    /// Uses up an entry of the log that is no command: the empty entry of a new leader.
    ///
    /// # Panics
    /// When `index` was applied before.
    pub fn skip(&mut self, index: u64) {
        self.advance(index);
        self.digest = digest::after_skip(self.digest, index);
    }

    fn advance(&mut self, index: u64) {
        assert!(
            index > self.applied,
            "entry {index} after {}: entries apply in order, once",
            self.applied
        );
        self.applied = index;
    }

    /// Index of the last entry that was applied or skipped.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Grows when the cell is restored from a backup; 1 in a cell that never was.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The level of entries that may be proposed.
    #[must_use]
    pub fn level(&self) -> u32 {
        self.level
    }

    /// Hash over all entries so far and what came of each. Equal on replicas that applied the
    /// same entries; differs as soon as one of them came to another result.
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.digest
    }

    /// The latest time of any entry: cell time. Entries that carry less are taken to be as late; a
    /// leader sees to it that its entries go on from here, see
    /// [`Master::cell_time`](crate::master::Master::cell_time).
    #[must_use]
    pub fn clock(&self) -> Millis {
        self.clock
    }

    /// Who led last, and in which term, by the log.
    #[must_use]
    pub fn leader(&self) -> Option<(ReplicaId, u64)> {
        self.leader
    }

    /// Set while so much of the cell is silent that nothing moves until an operator says so, or the
    /// machines return.
    #[must_use]
    pub fn safe_mode(&self) -> Option<SafeMode> {
        self.safe_mode
    }

    /// Whether downs and crashes are noted: since the level of entries at which all masters do, so
    /// that older logs lead to the states that they always led to.
    #[must_use]
    pub fn keeps_notes(&self) -> bool {
        self.level >= NOTES_LEVEL
    }

    /// When machines were taken for down within the last minute, operators' words aside, in cell
    /// time: a new leader goes on counting from these.
    pub fn downs(&self) -> impl Iterator<Item = Millis> {
        self.downs.iter().copied()
    }

    /// Incarnations of exclusive tasks that may still run although their task is not placed, or was taken
    /// out of its job: where, and which.
    pub fn lingering(&self) -> impl Iterator<Item = (MachineId, IncarnationId)> {
        self.lingering.iter().filter_map(|id| self.job(id.job)?.lingering(id.index))
    }

    /// The cell's name.
    #[must_use]
    pub fn cell(&self) -> &CellName {
        &self.cell
    }

    /// Whether it is remembered what came of a user's request.
    #[must_use]
    pub fn remembers(&self, user: &UserName, request: &RequestId) -> bool {
        self.requests.get(user, request).is_some()
    }

    /// A machine by number.
    #[must_use]
    pub fn machine(&self, id: MachineId) -> Option<&Machine> {
        self.machines.get(&id).map(AsRef::as_ref)
    }

    /// A machine by name.
    #[must_use]
    pub fn machine_named(&self, name: &MachineName) -> Option<&Machine> {
        self.machine(*self.machine_names.get(name)?)
    }

    /// All machines, by number.
    pub fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.machines.values().map(AsRef::as_ref)
    }

    /// How many machines there are.
    #[must_use]
    pub fn machines_len(&self) -> usize {
        self.machines.len()
    }

    /// The numbers of the machines from a bound on, in order.
    pub fn machines_after(&self, from: Bound<MachineId>) -> impl Iterator<Item = MachineId> {
        self.machines.range((from, Bound::Unbounded)).map(|(id, _)| *id)
    }

    /// A job by number.
    #[must_use]
    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id).map(AsRef::as_ref)
    }

    /// The job of that name: the live one, or else the last one that is remembered.
    #[must_use]
    pub fn job_named(&self, key: &JobKey) -> Option<&Job> {
        self.job(*self.job_keys.get(key)?)
    }

    /// A job by number, to be kept beside the state: as long as the cell has this very one, nothing of the job
    /// and its tasks has changed.
    #[must_use]
    pub fn shared_job(&self, id: JobId) -> Option<&Arc<Job>> {
        self.jobs.get(&id)
    }

    /// Whether a user has jobs, dead ones that are remembered among them.
    #[must_use]
    pub fn has_jobs(&self, user: &UserName) -> bool {
        let first = JobName::new("0").expect("a digit is a name, and none comes before it");
        let mut from = self.job_keys.range(JobKey { user: user.clone(), name: first }..);
        from.next().is_some_and(|(key, _)| key.user == *user)
    }

    /// All jobs, by number.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().map(AsRef::as_ref)
    }

    /// A task.
    #[must_use]
    pub fn task(&self, id: TaskId) -> Option<&Task> {
        self.job(id.job)?.task(id.index)
    }

    /// The tasks of a job, by index; none when there is no such job.
    pub fn tasks_of(&self, job: JobId) -> impl Iterator<Item = (TaskId, &Task)> {
        let tasks = self.job(job).map(|job| job.tasks.iter()).into_iter().flatten();
        tasks.zip(0..).map(move |(task, index)| (TaskId { job, index }, task.as_ref()))
    }

    /// Tasks that wait to be placed, those that may not be placed yet included, by number.
    pub fn pending(&self) -> impl Iterator<Item = TaskId> {
        self.pending.iter().copied()
    }

    /// How many tasks wait to be placed.
    #[must_use]
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{Cell, master, user};
    use borg_proto::ReplicaId;
    use borg_proto::command::Action;

    #[test]
    fn terms_never_go_back_and_only_masters_lead() {
        let mut cell = Cell::new();
        let lead = |leader, term| Action::Lead { leader: ReplicaId(leader), term };
        cell.apply(master(), lead(2, 7)).unwrap();
        assert_eq!(cell.state.leader(), Some((ReplicaId(2), 7)));
        assert_eq!(
            cell.apply(master(), lead(3, 6)).unwrap_err().to_string(),
            "term 6 is over, now is 7"
        );
        let refused = cell.apply(user("admin"), lead(3, 8)).unwrap_err();
        assert_eq!(refused.to_string(), "user admin may not lead: that is for the cell's leader");
    }

    #[test]
    fn cell_time_never_goes_back() {
        let mut cell = Cell::new();
        let before = cell.now;
        let job = cell.submit("ann", crate::fixture::batch("a", 1, 1, 4 << 20));
        cell.now = borg_proto::Millis(5);
        cell.kill("ann", "ann/a", &[]).unwrap();
        assert_eq!(cell.state.job(job).unwrap().ended_at(), Some(before));
    }

    #[test]
    fn a_refusal_uses_up_its_entry_and_shows_in_the_digest() {
        let mut cell = Cell::new();
        let digest = cell.state.digest();
        cell.kill("ann", "ann/web", &[]).unwrap_err();
        assert_eq!(cell.state.applied(), 1);
        assert_ne!(cell.state.digest(), digest);
        cell.state.skip(9);
        assert_eq!(cell.state.applied(), 9);
    }

    #[test]
    #[should_panic(expected = "entry 1 after 1: entries apply in order, once")]
    fn an_entry_is_never_applied_twice() {
        let mut cell = Cell::new();
        cell.state.skip(1);
        cell.state.skip(1);
    }
}
