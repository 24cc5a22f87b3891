//! What simulated processes use of what they may: models in whole numbers, the same for the same seed.
//!
//! A model travels in the task's environment, as a play does in its command. A task that names none uses
//! next to nothing, in amounts that are thrown.
//!
//! Invariant: what a process uses at a moment follows from its model, its limit, its number and the moment
//! alone; it is never above the limit.

use crate::dice::mix;
use borg_proto::poll::{Percentiles, USAGE_WINDOW, Usage, UsageWindow};
use borg_proto::{IncarnationId, Millis, Resources, TaskSpec};

/// The variables of a task's environment that name its models.
pub(crate) const CPU: &str = "SIM_USES_CPU";
pub(crate) const RAM: &str = "SIM_USES_RAM";
/// The largest share of a limit.
const WHOLE: u64 = 1_000;
/// How long a burst is, or the time between two.
const BURST: Millis = Millis::from_secs(60);
/// Looks at a window when it is over.
const SAMPLES: u64 = 20;

/// How much of its limit a process uses, in thousandths of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// Always the same.
    Constant {
        /// How much.
        share: u64,
    },
    /// Rises and falls evenly, once in a period.
    Diurnal {
        /// At the least.
        low: u64,
        /// At the most.
        high: u64,
        /// From low to low.
        period: Millis,
    },
    /// A minute of much now and then, each process at its own times.
    Bursty {
        /// Usually.
        base: u64,
        /// In a burst.
        peak: u64,
        /// How many of 1,000 minutes are bursts.
        chance: u64,
    },
}

impl Model {
    pub(crate) fn write(self) -> String {
        match self {
            Self::Constant { share } => format!("constant {share}"),
            Self::Diurnal { low, high, period } => format!("diurnal {low} {high} {}", period.0),
            Self::Bursty { base, peak, chance } => format!("bursty {base} {peak} {chance}"),
        }
    }

    /// Reads what [`Self::write`] wrote.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let number = |text: &str| text.parse::<u64>().ok();
        match words.as_slice() {
            ["constant", share] => Some(Self::Constant { share: number(share)? }),
            ["diurnal", low, high, period] => Some(Self::Diurnal {
                low: number(low)?,
                high: number(high)?,
                period: Millis(number(period)?),
            }),
            ["bursty", base, peak, chance] => Some(Self::Bursty {
                base: number(base)?,
                peak: number(peak)?,
                chance: number(chance)?,
            }),
            _ => None,
        }
    }

    /// The share of its limit that a process uses at a moment; `number` tells processes apart.
    #[must_use]
    pub fn share(self, number: u64, at: Millis) -> u64 {
        let share = match self {
            Self::Constant { share } => share,
            Self::Diurnal { low, high, period } => {
                let (period, at) = (period.0.max(2), at.0 % period.0.max(2));
                let half = period / 2;
                let way = if at < half { at } else { period - at };
                low + high.saturating_sub(low) * way.min(half) / half
            }
            Self::Bursty { base, peak, chance } => {
                let minute = at.0 / BURST.0;
                let thrown = mix(number ^ mix(minute)) % WHOLE;
                if thrown < chance { peak } else { base }
            }
        };
        share.min(WHOLE)
    }
}

/// What a process of a task uses at a moment, if its task names models.
pub(crate) fn of(task: &TaskSpec, id: IncarnationId, at: Millis) -> Option<Usage> {
    let model = |name| task.env.get(name).and_then(|text| Model::read(text));
    let (cpu, ram) = (model(CPU)?, model(RAM)?);
    let number = mix(id.task.job.0) ^ mix(u64::from(id.task.index) << 32);
    Some(used(cpu, ram, &task.limit, number, at))
}

/// What a process with these models of processor time and memory uses at a moment, as its machine measures it: now,
/// and over the last window that is whole.
#[must_use]
pub fn used(cpu: Model, ram: Model, limit: &Resources, number: u64, at: Millis) -> Usage {
    let (cpu_limit, ram_limit) = (limit.cpu_milli, limit.ram_bytes);
    let uses = |model: Model, limit: u64, at| part(limit, model.share(number, at));
    let begin = Millis(at.0 / USAGE_WINDOW.0 * USAGE_WINDOW.0).since(USAGE_WINDOW);
    let over = |model: Model, limit| {
        let step = USAGE_WINDOW.0 / SAMPLES;
        let looks = (0..SAMPLES).map(|look| uses(model, limit, begin + Millis(look * step)));
        percentiles(looks.collect())
    };
    let window = UsageWindow {
        since: begin,
        cpu_milli: over(cpu, cpu_limit),
        ram_bytes: over(ram, ram_limit),
    };
    Usage {
        cpu_milli: uses(cpu, cpu_limit, at),
        ram_bytes: uses(ram, ram_limit, at),
        window: Some(window),
        ..Usage::default()
    }
}

/// So many thousandths of an amount.
fn part(amount: u64, share: u64) -> u64 {
    amount / WHOLE * share + amount % WHOLE * share / WHOLE
}

fn percentiles(mut samples: Vec<u64>) -> Percentiles {
    samples.sort_unstable();
    let at = |percent: usize| samples[(samples.len() * percent).div_ceil(100).max(1) - 1];
    Percentiles { p50: at(50), p90: at(90), p99: at(99), max: at(100) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODELS: [Model; 3] = [
        Model::Constant { share: 300 },
        Model::Diurnal { low: 200, high: 600, period: Millis(86_400_000) },
        Model::Bursty { base: 100, peak: 900, chance: 50 },
    ];

    #[test]
    fn a_model_survives_its_text_and_nothing_else_is_one() {
        for model in MODELS {
            assert_eq!(Model::read(&model.write()), Some(model));
        }
        assert_eq!(["", "constant", "constant x", "flat 3"].map(Model::read), [None; 4]);
    }

    /// Less than a core has thousandths too.
    #[test]
    fn a_share_of_a_small_limit_is_not_nothing() {
        assert_eq!([part(500, 300), part(1_900, 500), part(u64::MAX, WHOLE)], [150, 950, u64::MAX]);
        let limit = Resources { cpu_milli: 500, ram_bytes: 64 << 20, ..Resources::default() };
        let usage = used(MODELS[0], MODELS[0], &limit, 7, Millis(1_000_000));
        assert_eq!((usage.cpu_milli, usage.ram_bytes), (150, (64 << 20) * 3 / 10));
        assert_eq!(usage.window.unwrap().cpu_milli.p90, 150);
    }

    #[test]
    fn shares_stay_within_the_model_and_the_limit() {
        let minutes = || (0..5_000).map(|minute| Millis(minute * 60_000));
        let seen = |model: Model| {
            let all: Vec<u64> = minutes().map(|at| model.share(7, at)).collect();
            (*all.iter().min().unwrap(), *all.iter().max().unwrap())
        };
        assert_eq!(seen(MODELS[0]), (300, 300));
        assert_eq!(seen(MODELS[1]), (200, 600));
        assert_eq!(seen(MODELS[2]), (100, 900));
        assert_eq!(seen(Model::Constant { share: 5_000 }), (1_000, 1_000));
        let bursts = minutes().filter(|at| MODELS[2].share(7, *at) == 900).count();
        assert!((200..300).contains(&bursts), "{bursts} of 5000 minutes");
        let together = minutes().filter(|at| MODELS[2].share(8, *at) == MODELS[2].share(7, *at));
        assert!(together.count() < 5_000, "processes burst at their own times");
    }
}
