//! What a scheduler was told and decided, played again: on the log, and by way of the bytes that a master
//! keeps of it, it gives the same decisions.
//!
//! Remembers what is on disks, since masters compact their logs, and what each scheduler of a living process
//! took in.

use crate::World;
use crate::world::scheduling::Letter;
use borg_cell::master::Master;
use borg_cell::state::CellState;
use borg_cell::store::{LogEntry, Membership};
use borg_proto::command::Assignment;
use borg_proto::{MachineId, Millis};
use borg_scheduler::Scheduler;
use borg_scheduler::recording::wire::{End, Writer, encode, read};
use borg_scheduler::recording::{Begin, Decided, Player, Recorded, Stop};
use std::collections::{BTreeMap, BTreeSet};

/// How many entries are remembered.
const KEPT: usize = 50_000;

/// The log as disks had it.
#[derive(Debug, Default)]
pub struct Decisions {
    /// By index, of the highest term: of an entry that was agreed on, no other is ever written later.
    entries: BTreeMap<u64, LogEntry>,
}

impl Decisions {
    /// A disk has taken these.
    pub fn written(&mut self, entries: &[LogEntry]) {
        for entry in entries {
            let known = self.entries.get(&entry.index);
            if known.is_none_or(|known| known.term < entry.term) {
                self.entries.insert(entry.index, entry.clone());
            }
            if self.entries.len() > KEPT {
                self.entries.pop_first();
            }
        }
    }
}

/// What one scheduler of a process was told since it began, and decided.
#[derive(Debug)]
pub struct Recording {
    state: CellState,
    members: Membership,
    silent: BTreeSet<MachineId>,
    records: Vec<Recorded>,
}

impl Recording {
    /// A scheduler begins with the state of its master.
    pub(crate) fn begin(scheduler: &Scheduler, master: &Master) -> Self {
        let state = master.state().clone();
        let begin = Begin::of(scheduler, state.applied());
        Self {
            state,
            members: master.membership().clone(),
            silent: BTreeSet::new(),
            records: vec![Recorded::Begin(Box::new(begin))],
        }
    }

    /// It takes over what a letter says, in the order in which it does so.
    pub(crate) fn heeds(&mut self, silent: &BTreeSet<MachineId>, letter: &Letter) {
        if self.silent != *silent {
            self.silent.clone_from(silent);
            self.records.push(Recorded::Silent { machines: silent.iter().copied().collect() });
        }
        if let Some(state) = &letter.state {
            let index = state.applied();
            let afresh = Recorded::Afresh { index };
            self.records.push(if letter.afresh { afresh } else { Recorded::Follow { index } });
        }
        if letter.lent_afresh || letter.leads == Some(false) {
            self.records.push(Recorded::LendNothing);
        }
        if !letter.lent.is_empty() {
            let news = letter.lent.iter().map(|(id, lent)| (*id, *lent)).collect();
            self.records.push(Recorded::Lend { news });
        }
        if !letter.reconsider.is_empty() {
            self.records.push(Recorded::Refused { tasks: letter.reconsider.clone() });
        }
    }

    /// It made a pass.
    pub(crate) fn decides(&mut self, now: Millis, max: usize, placed: &[Assignment]) {
        let decided = Decided::Placed(placed.to_vec());
        let max = u64::try_from(max).unwrap_or(u64::MAX);
        self.records.push(Recorded::Pass { now, max, decided });
    }

    /// How many passes decided anything.
    fn decisive(&self) -> usize {
        let decides = |one: &&Recorded| matches!(one, Recorded::Pass { decided: Decided::Placed(placed), .. } if !placed.is_empty());
        self.records.iter().filter(decides).count()
    }

    fn played(&self, log: &Decisions) -> Result<Player, String> {
        let (records, end) = read(&self.bytes()).map_err(|error| error.to_string())?;
        if records != self.records || end != End::Finished {
            return Err(format!("its bytes give something else, and end so: {end:?}"));
        }
        let mut player = Player::new(self.state.clone(), self.members.clone());
        for recorded in &records {
            let mut entry = |index: u64| log.entries.get(&index).cloned();
            match player.play(recorded, &mut entry) {
                Ok(()) => {}
                // A write that was torn and finished later was seen by nobody.
                Err(Stop::NoEntry { .. }) => break,
                Err(stop) => return Err(stop.to_string()),
            }
        }
        Ok(player)
    }

    fn bytes(&self) -> Vec<u8> {
        let (mut writer, mut bytes) = Writer::begin();
        for records in self.records.chunks(8) {
            let mut frame = Vec::new();
            records.iter().for_each(|recorded| encode(&mut frame, recorded));
            bytes.extend(writer.frame(&frame));
        }
        bytes.extend(writer.finish());
        bytes
    }
}

impl World {
    /// The first decision that the busiest of the living masters' schedulers takes otherwise when it is told again what it
    /// was told.
    #[must_use]
    pub fn decided_otherwise(&self) -> Option<String> {
        let recording = self.busiest()?;
        recording.played(&self.checks.decisions).err()
    }

    /// Passes and decisions of that scheduler that can be taken again.
    #[must_use]
    pub fn decided_again(&self) -> Option<(u64, u64)> {
        let player = self.busiest()?.played(&self.checks.decisions).ok()?;
        Some((player.passes(), player.decisions()))
    }

    fn busiest(&self) -> Option<&Recording> {
        let living = self.replicas.iter().filter_map(|replica| replica.process.as_ref());
        living.flat_map(|process| &process.recordings).max_by_key(|one| one.decisive())
    }
}
