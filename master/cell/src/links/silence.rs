//! How many machines may be taken for down now, which first, and when none.
//!
//! A cell that seems to lose much of itself at once has more likely lost its own network; to place
//! its tasks elsewhere would turn a fault of the masters into an outage of the jobs (Borg paper,
//! section 4: placing the tasks of unreachable machines is rate-limited, as the master cannot tell
//! a failure from a partition). So the rate falls with the share that is lost, and above a share
//! nothing moves until an operator says so.
//!
//! Invariants: never more than [`Config::downs_per_minute`] machines in any minute, over changes of
//! the leader too: the last minute is read from the state. A machine that was not heard of in this
//! term counts as lost when the share is measured, and never as silent.

use super::Config;
use super::view::{Link, Standing};
use crate::state::{CellState, DOWNS_REMEMBERED};
use borg_proto::command::Observation;
use borg_proto::{MachineId, Millis};
use std::collections::{BTreeSet, VecDeque};

const MINUTE: Millis = DOWNS_REMEMBERED;
/// How long a machine that was taken for down counts as lost. 1 hour: our choice; a slow loss of
/// the cell is one too, and what is broken for longer is an operator's everyday.
const COUNTS_FOR: Millis = Millis::from_secs(3_600);
/// A change of safe mode is proposed again after this time.
const SAY_AGAIN: Millis = Millis::from_secs(1);

/// Machines by how they stand.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// Up, and not heard of in this term or session.
    unheard: usize,
    /// Up and answering.
    answering: usize,
    /// Up and silent.
    silent: BTreeSet<MachineId>,
    /// Taken for down by a leader within [`COUNTS_FOR`], by when.
    lost: BTreeSet<(Millis, MachineId)>,
    /// When machines were taken for down within the last minute.
    downs: VecDeque<Millis>,
    safe_mode: bool,
    /// When safe mode ended: those that are back a moment later than the others must not be given up for it.
    calm_since: Option<Millis>,
    said_at: Option<Millis>,
}

impl Silence {
    /// As a new leader begins: what happened in the last minute is known from the state.
    pub(super) fn new(state: &CellState, now: Millis) -> Self {
        let ages = state.downs().map(|at| state.clock().since(at));
        let downs = ages.map(|age| Millis(now.0.saturating_sub(age.0))).collect();
        Self { downs, safe_mode: state.safe_mode().is_some(), ..Self::default() }
    }

    /// Counts a machine that stands like that from now on, or no longer.
    pub(super) fn count(&mut self, id: MachineId, standing: Standing, comes: bool) {
        let step = |n: &mut usize| *n = if comes { *n + 1 } else { *n - 1 };
        match standing {
            Standing::Other => {}
            Standing::Unheard => step(&mut self.unheard),
            Standing::Answering => step(&mut self.answering),
            Standing::Silent => {
                if comes {
                    self.silent.insert(id);
                } else {
                    self.silent.remove(&id);
                }
            }
            Standing::Lost(at) => {
                if comes {
                    self.lost.insert((at, id));
                } else {
                    self.lost.remove(&(at, id));
                }
            }
        }
    }

    /// Lets time pass; gives the change of safe mode that the log should know.
    pub(super) fn update(
        &mut self,
        config: &Config,
        now: Millis,
        state: &CellState,
    ) -> Option<Observation> {
        while self.downs.front().is_some_and(|at| now.since(*at) >= MINUTE) {
            self.downs.pop_front();
        }
        while self.lost.first().is_some_and(|(at, _)| now.since(*at) >= COUNTS_FOR) {
            self.lost.pop_first();
        }
        let (silent, all) = (self.silent.len() + self.lost.len(), self.all());
        let over =
            |lost: usize, percent: usize| lost > config.safe_least && lost * 100 > all * percent;
        // Into it by what is seen only; out of it when what is not seen is little too.
        let safe = if self.safe_mode {
            over(silent + self.unheard, config.calm_percent)
        } else {
            over(silent, config.safe_percent)
        };
        if safe != self.safe_mode {
            tracing::warn!(
                silent = self.silent.len(),
                given_up_lately = self.lost.len(),
                unheard = self.unheard,
                machines = all,
                limit_percent = config.safe_percent,
                "{}",
                if safe {
                    "safe mode: too much of the cell is silent, so no machine is given up. \
                     Look for a fault of the network first; then `borgctl machines give-up`"
                } else {
                    "safe mode is over: machines that stay silent are given up again in a while"
                }
            );
            self.safe_mode = safe;
            self.calm_since = (!safe).then_some(now);
            self.said_at = None;
        }
        self.calm_since = self.calm_since.filter(|at| now.since(*at) < config.machine_down_after);
        let agreed = state.safe_mode().is_some() == self.safe_mode;
        let said = self.said_at.is_some_and(|at| now.since(at) < SAY_AGAIN);
        if agreed || said {
            return None;
        }
        self.said_at = Some(now);
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Some(Observation::Silence {
            safe_mode: safe,
            silent: number(self.silent.len()),
            machines: number(all),
        })
    }

    /// How many machines may be taken for down now.
    pub(super) fn allowance(&self, config: &Config) -> usize {
        if self.safe_mode || self.calm_since.is_some() {
            return 0;
        }
        self.rate(config).saturating_sub(self.downs.len())
    }

    /// How many machines may be taken for down in a minute, at the present share of lost ones: all
    /// that are allowed at none, nothing at `safe_percent`, and in between in proportion, but one.
    fn rate(&self, config: &Config) -> usize {
        let most = config.downs_per_minute as usize;
        let lost = self.silent.len() + self.lost.len() + self.unheard;
        if lost <= config.safe_least {
            return most;
        }
        let limit = self.all() * config.safe_percent;
        let Some(room) = limit.checked_sub(lost * 100) else { return 0 };
        (most * room / limit.max(1)).max(1)
    }

    /// One machine was taken for down.
    pub(super) fn took(&mut self, now: Millis) {
        self.downs.push_back(now);
    }

    /// Machines that are up and should answer, and those lost lately.
    fn all(&self) -> usize {
        self.answering + self.unheard + self.silent.len() + self.lost.len()
    }

    pub(super) fn silent(&self) -> &BTreeSet<MachineId> {
        &self.silent
    }

    pub(super) fn answering(&self) -> usize {
        self.answering
    }

    pub(super) fn safe_mode(&self) -> bool {
        self.safe_mode
    }
}

/// The order in which silent machines are given up: those with the tasks of the highest priority
/// first, then those that are silent for the longest.
pub(super) fn urgency(link: &Link, now: Millis) -> impl Ord + use<> {
    (link.top_priority(), link.silent_for(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Cell, master};
    use crate::state::NOTES_LEVEL;
    use borg_proto::command::Action;

    /// So many machines, of which the first are silent.
    fn cell_of(all: u32, silent: u32) -> Silence {
        let mut silence = Silence::default();
        for id in 0..all {
            let standing = if id < silent { Standing::Silent } else { Standing::Answering };
            silence.count(MachineId(id), standing, true);
        }
        silence
    }

    fn empty() -> CellState {
        Cell::new().state
    }

    fn moves(silence: &mut Silence, now: u64) -> usize {
        silence.update(&Config::default(), Millis(now), &empty());
        silence.allowance(&Config::default())
    }

    #[test]
    fn the_rate_falls_as_the_silent_share_grows() {
        let rate = |silent| moves(&mut cell_of(10_000, silent), 0);
        assert_eq!([3, 50, 500, 1_000, 2_000, 2_999].map(rate), [60, 59, 50, 40, 20, 1]);
        assert_eq!(rate(3_001), 0, "and above the limit nothing moves");
    }

    #[test]
    fn no_more_machines_in_any_minute_than_allowed() {
        let mut silence = cell_of(10_000, 50);
        assert_eq!(moves(&mut silence, 0), 59);
        for _ in 0..50 {
            silence.took(Millis(1_000));
        }
        assert_eq!(moves(&mut silence, 2_000), 9);
        assert_eq!(moves(&mut silence, 60_999), 9);
        assert_eq!(moves(&mut silence, 61_000), 59);
    }

    #[test]
    fn a_new_leader_knows_what_the_last_one_gave_up() {
        let mut cell = Cell::new();
        cell.apply(master(), Action::RaiseLevel { level: NOTES_LEVEL }).unwrap();
        for number in 0..20 {
            let id = cell.machine(&format!("m-{number}"), 1_000, 1 << 30);
            if number < 5 {
                let changes = vec![Observation::MachineDown { machine: id }];
                cell.apply(master(), Action::Observe { changes }).unwrap();
            }
        }
        cell.wait(30_000);
        cell.apply(master(), Action::Observe { changes: vec![] }).unwrap();
        let silence = Silence::new(&cell.state, Millis(7));
        assert_eq!(silence.downs.len(), 5);
    }

    #[test]
    fn safe_mode_ends_when_most_machines_are_back_and_not_at_the_brink() {
        let mut silence = cell_of(100, 31);
        assert_eq!(moves(&mut silence, 0), 0);
        let back = |silence: &mut Silence, id| {
            silence.count(MachineId(id), Standing::Silent, false);
            silence.count(MachineId(id), Standing::Answering, true);
        };
        for id in 0..5 {
            back(&mut silence, id);
        }
        assert_eq!(moves(&mut silence, 1), 0, "26 are silent");
        back(&mut silence, 5);
        assert_eq!(moves(&mut silence, 2), 0, "25 are, which may be on their way back too");
        assert!(!silence.safe_mode());
        let later = 2 + Config::default().machine_down_after.0;
        assert_eq!(moves(&mut silence, later - 1), 0);
        assert_eq!(moves(&mut silence, later), 10, "they are not");
    }

    #[test]
    fn a_tiny_cell_may_lose_all_of_its_machines() {
        assert_eq!(moves(&mut cell_of(3, 3), 0), 60);
        assert_eq!(moves(&mut cell_of(12, 4), 0), 0);
    }

    #[test]
    fn a_leader_that_sees_little_of_its_cell_gives_nothing_up() {
        let mut silence = cell_of(10, 1);
        for id in 10..20 {
            silence.count(MachineId(id), Standing::Unheard, true);
        }
        assert_eq!(moves(&mut silence, 0), 0);
        assert!(!silence.safe_mode(), "blind, not safe mode: nobody is called at night");
    }
}
