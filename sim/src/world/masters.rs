//! Masters that come and go: those that lost their log, and those that an operator takes out.
//!
//! What the daemon does by itself is done here too: a process without a log asks to join, in
//! another life, until it is told under which name.

use super::client::{ADMIN_CLIENT, Clients};
use super::replica::Process;
use super::{Asked, BEGIN, Happening, World, number};
use crate::marks::Mark;
use borg_cell::master::Input;
use borg_cell::state::Standing;
use borg_proto::command::{Action, LEVEL};
use borg_proto::{Millis, ReplicaId};

/// How long a master that is told to stop may take.
const STOPPING: Millis = Millis(300);
/// Masters that start after this are of the new version.
const UPGRADING: Millis = Millis(BEGIN.0 + 25_000);
/// The level of entries with which masters can join.
const JOINS_LEVEL: u32 = 2;

impl World {
    /// How many masters vote, and how many of these have lost their log.
    fn voters(&self) -> (usize, usize) {
        let votes = self.newest.masters().filter(|(_, record)| record.standing == Standing::Voting);
        let votes: Vec<ReplicaId> = votes.map(|(id, _)| id).collect();
        let lost = |id: &&ReplicaId| {
            self.replicas
                .iter()
                .all(|replica| replica.id != **id || replica.joining || replica.disk.is_broken())
        };
        (votes.len(), votes.iter().filter(lost).count())
    }

    /// Whether one more master may lose its log: of what a majority has kept, a majority is left,
    /// and no operator is about to make the majority smaller.
    pub(crate) fn may_lose_log(&self, index: usize) -> bool {
        let (voters, lost) = self.voters();
        let replica = &self.replicas[index];
        // Between two configurations both need a majority of theirs.
        // Who votes in the new one is known to the state before the old one counts no more.
        let mut running = self.replicas.iter().filter_map(|replica| replica.process.as_deref());
        let joint = |process: &Process| !process.master.membership().voters_outgoing.is_empty();
        let between = self.newest.masters_changing().is_some() || running.any(joint);
        self.newest.level() >= JOINS_LEVEL
            && !between
            && !replica.joining
            && !replica.disk.is_broken()
            && (lost + 1) * 2 < voters
            && !self.clients.changes_masters()
    }

    /// Whether an operator may take a master out now.
    pub(crate) fn may_take_out(&self) -> bool {
        let whole = (self.setup.masters, 0);
        self.newest.level() >= JOINS_LEVEL
            && self.voters() == whole
            && self.newest.masters_changing().is_none()
            && !self.clients.changes_masters()
    }

    /// A master is told to stop: a leader lets another one lead first.
    pub(crate) fn stop_master(&mut self, index: usize) {
        let (life, led) = (self.replicas[index].life, self.replicas[index].leads());
        self.tell_master(index, Input::Retire);
        self.agenda.after(STOPPING, Happening::Stops { replica: index, life, led });
    }

    pub(crate) fn stops(&mut self, index: usize, life: u32, led: bool) {
        if self.replicas[index].alive(life).is_none() {
            return;
        }
        if led && !self.replicas[index].leads() {
            self.hit(Mark::HandedOver);
        }
        self.crash_master(index);
        self.restart_later(index);
    }

    /// Whether a master that starts now is still of the version that the cell was founded with.
    pub(crate) fn is_old_version(&self) -> bool {
        self.now() < UPGRADING && !self.faults.is_over()
    }

    /// A master of an old version is started again in the new one.
    pub(crate) fn upgrade(&mut self, index: usize) {
        let process = self.replicas[index].process.as_ref();
        if process.is_some_and(|process| process.master.status().level < LEVEL) {
            self.crash_master(index);
        }
    }

    /// A master whose disk has lost the log asks to be one again.
    pub(crate) fn join_anew(&mut self, index: usize) {
        if std::mem::replace(&mut self.replicas[index].joining, true) {
            return;
        }
        self.replicas[index].disk.wipe();
        let token = self.dice.roll();
        let (number, address) = (number(index) + 1, address(index));
        let client = self.clients.joiner(index);
        self.wish(client, Asked::Change(Action::JoinMaster { number, address, token }));
    }

    /// It is told under which name.
    pub(crate) fn joins(&mut self, index: usize, id: ReplicaId) {
        if !self.replicas[index].joining {
            return;
        }
        self.hit(Mark::MasterJoins);
        self.say(|| format!("master {} joins as {id}", index + 1));
        self.checks.log.begins_anew(index);
        let replica = &mut self.replicas[index];
        replica.id = id;
        replica.joining = false;
        self.start_if_down(index);
    }

    /// The operator takes a master out, and lets its number join again on an empty disk.
    pub(crate) fn take_out(&mut self, index: usize) {
        let (number, address) = (number(index) + 1, address(index));
        self.wish(ADMIN_CLIENT, Asked::Change(Action::RemoveMaster { number }));
        let invite = Action::InviteMaster { number, address, replaces: None };
        self.wish(ADMIN_CLIENT, Asked::Change(invite));
    }

    /// The operator was told that a number may join: its machine is set up anew.
    pub(crate) fn invited(&mut self, id: ReplicaId) {
        self.hit(Mark::MasterTakenOut);
        let index = super::index_of(id);
        self.crash_master(index);
        self.join_anew(index);
    }
}

/// Where the other masters reach one.
pub(crate) fn address(index: usize) -> String {
    format!("master-{}:1", index + 1)
}

impl Clients {
    /// Whether the operator is changing the masters.
    fn changes_masters(&self) -> bool {
        self.list[ADMIN_CLIENT].wants(|action| {
            matches!(action, Action::RemoveMaster { .. } | Action::InviteMaster { .. })
        })
    }
}
