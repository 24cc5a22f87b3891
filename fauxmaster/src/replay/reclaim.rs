//! Use of what limits promise, and what is lent of it, while a cell is replayed.
//!
//! What tasks use is made up by models; everything else is production code: the leader's reservations ([`Lending`],
//! which says what the scheduler may lend and who has to give lent room back), and the borglet's choice of who ends when
//! a machine has no memory left ([`victims`]).
//!
//! Processor time that machines do not have is divided as the kernel does by the weights that a borglet sets
//! ([`shares`]); what is not got is counted, and slows nobody down: a task ends after its time all the same.
//!
//! Invariant: what a task uses follows from its job, its index and the time alone, so that two cells that differ in what
//! is lent see the same use.

use borg_cell::links::lending::{Lending, Reserved, Told};
use borg_cell::state::{CellState, Job, Machine, MachineState};
use borg_proto::command::Observation;
use borg_proto::poll::Usage;
use borg_proto::reclamation::{Amounts, NumberSet};
use borg_proto::task::{Phase, Shortage};
use borg_proto::{
    Band, FailureCause, IncarnationId, JobKind, MachineId, Millis, Resources, TaskId,
};
use borg_sim::dice::mix;
use borg_sim::usage::{Model, used};
use borglet_supervisor::Run;
use borglet_supervisor::room::{Holder, victims};
use borglet_supervisor::shares;
use std::collections::BTreeMap;

/// Time between two looks at what everybody uses: the window over which borglets sum it up, so each look has news.
pub const LOOK: Millis = Millis::from_secs(300);
const DAY: Millis = Millis::from_secs(86_400);
/// A whole, in thousandths.
const WHOLE: u64 = 1_000;

/// What tasks use, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Services rise and fall with the day, each at its own hours, batch jobs come in bursts; what a task uses of its
    /// memory is thrown once, and one batch task in ten grows into its limit in a day. The numbers are ours: see
    /// `docs/capacity-planning.md`.
    Mixed,
    /// Everybody always uses so many thousandths of both.
    Constant(u64),
}

impl Load {
    /// As a parameter of an answer.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Mixed => "mixed".to_owned(),
            Self::Constant(share) => format!("constant {share}"),
        }
    }

    /// Models of processor time and memory, and how much later than others it lives.
    fn models(self, kind: JobKind, number: u64) -> (Model, Model, Millis) {
        if let Self::Constant(share) = self {
            let model = Model::Constant { share };
            return (model, model, Millis(0));
        }
        let memory = Model::Constant { share: 300 + mix(number ^ 1) % 600 };
        match kind {
            JobKind::Batch | JobKind::Cron => {
                let cpu =
                    Model::Bursty { base: 200 + mix(number ^ 2) % 500, peak: WHOLE, chance: 50 };
                let grows = Model::Diurnal { low: 300, high: WHOLE, period: DAY };
                let memory = if mix(number ^ 3).is_multiple_of(10) { grows } else { memory };
                (cpu, memory, Millis(mix(number ^ 4) % DAY.0))
            }
            JobKind::Service | JobKind::Daemon | JobKind::AllocSet => {
                let low = 50 + mix(number ^ 2) % 200;
                let cpu = Model::Diurnal { low, high: 3 * low, period: DAY };
                // Most people are up at the same hours.
                (cpu, memory, Millis(mix(number ^ 4) % (DAY.0 / 4)))
            }
        }
    }

    fn of(self, job: &Job, id: IncarnationId, at: Millis) -> Usage {
        let number = mix(id.task.job.0) ^ mix(u64::from(id.task.index) << 32);
        self.usage(job.spec.kind, &job.task_spec(id.task.index).limit, number, at)
    }

    /// What a task of a kind uses at a time, as its machine measures it; `number` tells tasks apart.
    #[must_use]
    pub fn usage(self, kind: JobKind, limit: &Resources, number: u64, at: Millis) -> Usage {
        let (cpu, ram, later) = self.models(kind, number);
        used(cpu, ram, limit, number, at + later)
    }
}

/// What is lent when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reclaim {
    /// What tasks use.
    pub load: Load,
    /// From when on reservations follow which numbers, in order; nothing is lent before the first.
    pub plan: &'static [(Millis, NumberSet)],
}

const WEEK_MS: u64 = 7 * 86_400_000;

impl Reclaim {
    /// A week each of baseline, aggressive, medium and again baseline, as in the Borg paper (section 5.5, figure 12).
    pub const FOUR_WEEKS: &'static [(Millis, NumberSet)] = &[
        (Millis(0), NumberSet::Baseline),
        (Millis(WEEK_MS), NumberSet::Aggressive),
        (Millis(2 * WEEK_MS), NumberSet::Medium),
        (Millis(3 * WEEK_MS), NumberSet::Baseline),
    ];

    /// The same all the time.
    #[must_use]
    pub const fn always(set: NumberSet) -> &'static [(Millis, NumberSet)] {
        match set {
            NumberSet::Off => &[(Millis(0), NumberSet::Off)],
            NumberSet::Baseline => &[(Millis(0), NumberSet::Baseline)],
            NumberSet::Medium => &[(Millis(0), NumberSet::Medium)],
            NumberSet::Aggressive => &[(Millis(0), NumberSet::Aggressive)],
            NumberSet::Daily => &[(Millis(0), NumberSet::Daily)],
        }
    }
}

/// A look at what is used, reserved and lent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lent {
    /// When.
    pub at: Millis,
    /// Of all machines together, as the leader believes.
    pub sums: Reserved,
    /// Processor time that tasks wanted at this moment and did not get, by band as in [`Band::ALL`], in millicores.
    pub short_milli: [u64; Band::ALL.len()],
}

/// What is lent, and what came of it.
#[derive(Debug, Clone)]
pub(super) struct Reclaiming {
    pub(super) load: Load,
    lending: Lending,
    pub(super) next: Millis,
}

/// What a look leads to.
pub(super) struct Found {
    /// What tasks lend by now; `None` when nothing is lent at all.
    pub(super) news: Option<Vec<(IncarnationId, Amounts)>>,
    /// Tasks that have to go, and why.
    pub(super) changes: Vec<Observation>,
    pub(super) lent: Lent,
}

impl Reclaiming {
    pub(super) fn new(load: Load) -> Self {
        Self { load, lending: Lending::default(), next: LOOK }
    }

    /// Looks at all machines: `at` counts from the beginning, `time` is cell time.
    pub(super) fn look(&mut self, at: Millis, time: Millis, state: &CellState) -> Found {
        self.next = at + LOOK;
        let load = self.load;
        let usage = |(id, job)| (id, load.of(job, id, at));
        let mut changes = Vec::new();
        let mut lent = Lent { at, ..Lent::default() };
        for machine in state.machines().filter(|machine| machine.state == MachineState::Up) {
            let used: BTreeMap<IncarnationId, Usage> = running(machine, state).map(usage).collect();
            short(machine, state, &used, &mut lent.short_milli);
            let ended = no_memory(machine, state, &used);
            let told = |_: &Machine, id: IncarnationId| told(state, id, used.get(&id));
            let goes = self.lending.look_at(machine, (time, time), state, &told);
            // Who ends anyway is not asked to go as well.
            let goes =
                goes.filter(|id| state.lends() && !ended.iter().any(|one| one.run.id == *id));
            changes.extend(ended.into_iter().map(|one| out_of_memory(one, time)));
            changes.extend(goes.map(|id| Observation::TaskReclaimed { id }));
        }
        let sums = self.lending.reservations().map(|(_, sums)| *sums);
        lent.sums = sums.fold(Reserved::default(), Reserved::plus);
        let news = self.lending.take_news();
        if state.lends() {
            return Found { news: Some(news), changes, lent };
        }
        // Nobody was told of what is believed now: when something is lent again, all of it is news.
        self.lending = Lending::default();
        Found { news: None, changes, lent }
    }

    /// A machine is gone.
    pub(super) fn removed(&mut self, machine: MachineId) {
        self.lending.removed(machine);
    }
}

/// What runs on a machine.
fn running<'a>(
    machine: &'a Machine,
    state: &'a CellState,
) -> impl Iterator<Item = (IncarnationId, &'a Job)> {
    machine.tasks.iter().filter_map(|task| {
        let job = state.job(task.job).filter(|job| !job.is_alloc_set())?;
        let found = job.task(task.index)?;
        let up = matches!(found.placement()?.phase, Phase::Up { .. });
        Some((found.running(*task).filter(|_| up)?, job))
    })
}

fn told(state: &CellState, id: IncarnationId, used: Option<&Usage>) -> Told {
    let placement = state.task(id.task).and_then(|task| task.placement());
    let up = placement.and_then(|placement| match placement.phase {
        Phase::Up { since, .. } => Some((since, placement.restarts)),
        Phase::Starting | Phase::BackOff { .. } => None,
    });
    Told::of(up, used)
}

/// Adds what tasks of each band want of the processors and do not get.
fn short(
    machine: &Machine,
    state: &CellState,
    used: &BTreeMap<IncarnationId, Usage>,
    by_band: &mut [u64; Band::ALL.len()],
) {
    let capacity = machine.info.as_ref().map_or(0, |info| info.capacity.cpu_milli);
    if used.values().map(|usage| usage.cpu_milli).sum::<u64>() <= capacity {
        return;
    }
    let limit = |task: TaskId| {
        let job = state.job(task.job)?;
        Some((job.task_spec(task.index).limit.cpu_milli, job.stands_as_prod(task.index)))
    };
    let limits = |prod: bool| {
        let those = used.keys().filter_map(|id| limit(id.task)).filter(|(_, of)| *of == prod);
        those.map(|(limit, _)| limit).sum()
    };
    let share = shares::share(capacity, limits(true), limits(false));
    let eater = |(id, usage): (&IncarnationId, &Usage)| {
        let ((limit, prod), job) = (limit(id.task)?, state.job(id.task.job)?);
        let spec = job.spec_of(id.task.index);
        let promised = if prod { limit } else { limit.saturating_mul(share) / WHOLE };
        let weight = shares::weight(promised, spec.effective_appclass(), spec.priority);
        Some(Eater { band: spec.priority.band(), wants: usage.cpu_milli, weight })
    };
    for (band, short) in divided(capacity, used.iter().filter_map(eater).collect()) {
        let at = Band::ALL.iter().position(|one| *one == band);
        at.into_iter().for_each(|at| by_band[at] += short);
    }
}

/// A task that wants processor time.
#[derive(Debug, Clone, Copy)]
struct Eater {
    band: Band,
    wants: u64,
    weight: u64,
}

/// What each does not get when processors are divided by weight, and what one does not want is for the others.
fn divided(capacity: u64, mut eaters: Vec<Eater>) -> Vec<(Band, u64)> {
    // Who wants the least for its weight is served first: its part is never less than that.
    let by_need = |a: &Eater, b: &Eater| {
        let cross = |one: &Eater, other: &Eater| u128::from(one.wants) * u128::from(other.weight);
        cross(a, b).cmp(&cross(b, a))
    };
    eaters.sort_by(by_need);
    let (mut left, mut weights) = (capacity, eaters.iter().map(|one| u128::from(one.weight)).sum());
    let serve = |one: Eater| {
        let part = u128::from(left) * u128::from(one.weight) / u128::max(weights, 1);
        let got = one.wants.min(u64::try_from(part).unwrap_or(u64::MAX));
        left -= got;
        weights -= u128::from(one.weight);
        (one.band, one.wants - got)
    };
    eaters.into_iter().map(serve).collect()
}

/// Who ends as the machine has less memory than its tasks use.
fn no_memory(
    machine: &Machine,
    state: &CellState,
    used: &BTreeMap<IncarnationId, Usage>,
) -> Vec<Holder> {
    let capacity = machine.info.as_ref().map_or(0, |info| info.capacity.ram_bytes);
    let wanted: u64 = used.values().map(|usage| usage.ram_bytes).sum();
    let over = wanted.saturating_sub(capacity);
    if over == 0 {
        return Vec::new();
    }
    let holder = |(id, usage): (&IncarnationId, &Usage)| {
        let job = state.job(id.task.job)?;
        let spec = job.spec_of(id.task.index);
        Some(Holder {
            run: Run { id: *id, number: 0 },
            priority: spec.priority,
            limit: job.task_spec(id.task.index).limit.ram_bytes,
            used: usage.ram_bytes,
        })
    };
    let holders: Vec<Holder> = used.iter().filter_map(holder).collect();
    victims(&holders, over)
}

fn out_of_memory(one: Holder, at: Millis) -> Observation {
    let (limit_bytes, used_bytes) = (one.limit, one.used);
    let failure = Some(FailureCause::Short { of: Shortage::Memory, limit_bytes, used_bytes });
    Observation::TaskEnded { id: one.run.id, at, failure, run: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_divided_by_weight_and_what_is_left_over_goes_to_the_others() {
        let eater = |band, wants, weight| Eater { band, wants, weight };
        let all = vec![
            eater(Band::Free, 1_000, 20),
            eater(Band::Production, 2_000, 2_000),
            eater(Band::Batch, 1_000, 60),
        ];
        let short = divided(2_800, all.clone());
        assert_eq!(short, [(Band::Production, 0), (Band::Batch, 400), (Band::Free, 800)]);
        assert_eq!(divided(4_000, all).iter().map(|(_, short)| short).sum::<u64>(), 0);
        assert_eq!(divided(0, vec![eater(Band::Free, 5, 1)]), [(Band::Free, 5)]);
    }
}
