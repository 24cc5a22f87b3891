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
use crate::state::{CellState, DOWNS_REMEMBERED, Machine, MachineState};
use borg_proto::command::Observation;
use borg_proto::{MachineId, Millis, Priority};
use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};

const MINUTE: Millis = DOWNS_REMEMBERED;
/// How long a machine that was taken for down counts as lost. 1 hour: our choice; a slow loss of
/// the cell is one too, and what is broken for longer is an operator's everyday.
const COUNTS_FOR: Millis = Millis::from_secs(3_600);
/// A change of safe mode is proposed again after this time.
const SAY_AGAIN: Millis = Millis::from_secs(1);

/// How a machine counts towards the silent share of the cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Up, and nothing was heard of it in this session.
    Unheard,
    /// Up and answering.
    Answering,
    /// Up and silent.
    Silent,
    /// Taken for down by a leader, at that moment by this leader's clock.
    Lost(Millis),
    /// New, or given up by an operator.
    Other,
}

impl Standing {
    /// Whether a leader took the machine for down, rather than an operator.
    fn is_lost(machine: &Machine) -> bool {
        machine.state == MachineState::Down && !machine.given_up
    }

    /// Of a machine that is not up, by the state: `now` is the leader's clock.
    #[must_use]
    pub fn of_down(machine: &Machine, state: &CellState, now: Millis) -> Self {
        if !Self::is_lost(machine) {
            return Self::Other;
        }
        let age = state.clock().since(machine.since);
        Self::Lost(Millis(now.0.saturating_sub(age.0)))
    }
}

/// Machines by how they stand.
#[derive(Debug, Default)]
pub struct Silence {
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
    #[must_use]
    pub fn new(state: &CellState, now: Millis) -> Self {
        let ages = state.downs().map(|at| state.clock().since(at));
        let downs = ages.map(|age| Millis(now.0.saturating_sub(age.0))).collect();
        Self { downs, safe_mode: state.safe_mode().is_some(), ..Self::default() }
    }

    /// Counts a machine that stands like that from now on, or no longer.
    pub fn count(&mut self, id: MachineId, standing: Standing, comes: bool) {
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
    pub fn update(
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

    /// Which of these silent machines are taken for down now: as many as the rate allows, the most urgent first.
    /// Those that are half way there already have their place before others that are due.
    pub fn give_up(
        &mut self,
        config: &Config,
        now: Millis,
        silent: impl IntoIterator<Item = Quiet>,
    ) -> Vec<MachineId> {
        let room = self.allowance(config);
        if room == 0 {
            return Vec::new();
        }
        let soon = Millis(config.machine_down_after.0 / 2);
        let mut coming: Vec<Quiet> =
            silent.into_iter().filter(|quiet| quiet.silent_for >= soon).collect();
        coming.sort_by_key(|quiet| Reverse((quiet.top_priority, quiet.silent_for)));
        coming.truncate(room);
        coming.retain(|quiet| quiet.silent_for >= config.machine_down_after);
        self.downs.extend(coming.iter().map(|_| now));
        coming.into_iter().map(|quiet| quiet.machine).collect()
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

    /// Machines that are up and should answer, and those lost lately.
    fn all(&self) -> usize {
        self.answering + self.unheard + self.silent.len() + self.lost.len()
    }

    /// Machines that are silent.
    #[must_use]
    pub fn silent(&self) -> &BTreeSet<MachineId> {
        &self.silent
    }

    pub(super) fn answering(&self) -> usize {
        self.answering
    }

    /// Whether nobody is given up, as too much is silent.
    #[must_use]
    pub fn safe_mode(&self) -> bool {
        self.safe_mode
    }
}

/// A silent machine, as it counts for who is given up first: whoever has a task of the highest priority, then who is
/// silent for the longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quiet {
    /// Which.
    pub machine: MachineId,
    /// The highest priority of a task there.
    pub top_priority: Option<Priority>,
    /// For how long nothing was heard of it.
    pub silent_for: Millis,
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
        let quiet = |id| Quiet {
            machine: MachineId(id),
            top_priority: None,
            silent_for: Config::default().machine_down_after,
        };
        let gone = silence.give_up(&Config::default(), Millis(1_000), (0..50).map(quiet));
        assert_eq!(gone.len(), 50);
        assert_eq!(moves(&mut silence, 2_000), 9);
        assert_eq!(moves(&mut silence, 60_999), 9);
        assert_eq!(moves(&mut silence, 61_000), 59);
    }

    /// Who matters most goes first, and keeps the place while it is not due yet.
    #[test]
    fn the_most_urgent_are_given_up_first() {
        let config = Config { downs_per_minute: 2, ..Config::default() };
        let quiet = |id, priority: u64, silent_ms| Quiet {
            machine: MachineId(id),
            top_priority: Some(Priority::new(priority).unwrap()),
            silent_for: Millis(silent_ms),
        };
        let all = [quiet(1, 100, 60_000), quiet(2, 200, 10_000), quiet(3, 200, 20_000)];
        let mut silence = cell_of(10, 3);
        assert_eq!(silence.give_up(&config, Millis(0), all), [MachineId(3), MachineId(2)]);
        assert_eq!(silence.give_up(&config, Millis(1), all), [], "two a minute");
        let mut silence = cell_of(10, 3);
        let early = [quiet(1, 100, 60_000), quiet(2, 200, 9_999), quiet(3, 200, 4_999)];
        assert_eq!(silence.give_up(&config, Millis(0), early), [MachineId(1)]);
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
