//! How a cell chooses among machines that will do: named policies, and what each term of a machine's
//! cost weighs.
//!
//! Invariant: the numbers of a named policy never change, as entries of the log name it; a better set
//! gets a name of its own.

use crate::names::shorten;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Largest weight, either way: ten times the usual 100.
pub const MAX_WEIGHT: i16 = 1000;

/// A term of a machine's cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Term {
    /// See [`Weights::fit`].
    Fit,
    /// See [`Weights::strand`].
    Strand,
    /// See [`Weights::machine_crowd`].
    MachineCrowd,
    /// See [`Weights::rack_crowd`].
    RackCrowd,
    /// See [`Weights::power_crowd`].
    PowerCrowd,
    /// See [`Weights::mix`].
    Mix,
    /// See [`Weights::soft`].
    Soft,
}

impl Term {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 7] = [
        Self::Fit,
        Self::Strand,
        Self::MachineCrowd,
        Self::RackCrowd,
        Self::PowerCrowd,
        Self::Mix,
        Self::Soft,
    ];

    /// Its name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fit => "fit",
            Self::Strand => "strand",
            Self::MachineCrowd => "machine-crowd",
            Self::RackCrowd => "rack-crowd",
            Self::PowerCrowd => "power-crowd",
            Self::Mix => "mix",
            Self::Soft => "soft",
        }
    }

    /// What it counts, in one line.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Fit => {
                "share of the machine that stays free; below 0, emptier machines are better"
            }
            Self::Strand => {
                "how far the free shares of cpu and ram are apart, so that one is left alone"
            }
            Self::MachineCrowd => "share of the job that is on the machine already",
            Self::RackCrowd => "share of the job that is in its rack already",
            Self::PowerCrowd => "share of the job that is in its power domain already",
            Self::Mix => {
                "share of the machine's cpu that is of prod, for others, or not of prod, for prod: \
                 makes the machine better"
            }
            Self::Soft => "each soft constraint that the machine does not meet",
        }
    }

    /// The least weight that it may have; the most is [`MAX_WEIGHT`]. To want resources stranded makes no
    /// sense.
    #[must_use]
    pub const fn least(self) -> i16 {
        match self {
            Self::Strand => 0,
            Self::Fit
            | Self::MachineCrowd
            | Self::RackCrowd
            | Self::PowerCrowd
            | Self::Mix
            | Self::Soft => -MAX_WEIGHT,
        }
    }

    /// Whether it may weigh so much.
    ///
    /// # Errors
    /// What is allowed.
    pub fn check(self, weight: i64) -> Result<i16, String> {
        let (least, most) = (self.least(), MAX_WEIGHT);
        let weight = i16::try_from(weight).ok().filter(|weight| (least..=most).contains(weight));
        weight.ok_or_else(|| format!("is outside {least} to {most}"))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Term {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|term| term.name() == text);
        named.ok_or_else(|| {
            format!("{:?} is no weight: {}", shorten(text), Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// A named policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Policy {
    /// Best fit against stranding: what a cell does until it is told otherwise.
    #[default]
    Hybrid,
    /// Fill machines up, whatever is stranded.
    BestFit,
    /// Spread load over all machines.
    WorstFit,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Hybrid, Self::BestFit, Self::WorstFit];

    /// Its name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hybrid => "hybrid",
            Self::BestFit => "best-fit",
            Self::WorstFit => "worst-fit",
        }
    }

    /// Its weights.
    #[must_use]
    pub const fn weights(self) -> Weights {
        match self {
            Self::Hybrid => Weights::hybrid(),
            Self::BestFit => Weights::best_fit(),
            Self::WorstFit => Weights::worst_fit(),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Policy {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|policy| policy.name() == text);
        named.ok_or_else(|| {
            format!("{:?} is no policy: {}", shorten(text), Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// How much each term of the cost counts, in hundredths, at most [`MAX_WEIGHT`] either way. Terms
/// are shares of a machine. The defaults are ours: chosen by reasoning, to be tuned by cell
/// compaction over many instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// Best fit: the share of the machine that stays free, summed over cpu, ram, disk and devices.
    /// Below 0 it is worst fit.
    pub fit: i16,
    /// Stranding: how far the free shares of cpu and ram are apart. Disk is left out: most tasks
    /// ask for none, so its free share says nothing about what can still be used.
    pub strand: i16,
    /// Share of the job that would be on this machine already. Large, so that a service of a few
    /// tasks stands on several machines though best fit pulls them together.
    pub machine_crowd: i16,
    /// Share of the job that would be in this rack already.
    pub rack_crowd: i16,
    /// Share of the job that would be in this power domain already: where machines have the same value
    /// of the attribute `power`. 0 until it is set: each placement of a job costs time by the machines of
    /// a domain, which are many.
    pub power_crowd: i16,
    /// Mixing: the share of the machine's cpu that is given to prod, for a task that is not prod, and
    /// the other way round for one that is, makes the machine better. So prod can grow in a spike by
    /// what others can do without (Borg paper, section 3.2). In a cell of one kind it changes nothing.
    pub mix: i16,
    /// Each soft constraint that the machine does not meet.
    pub soft: i16,
}

impl Default for Weights {
    fn default() -> Self {
        Self::hybrid()
    }
}

impl Weights {
    /// The default: best fit against stranding.
    #[must_use]
    pub const fn hybrid() -> Self {
        Self {
            fit: 100,
            strand: 100,
            machine_crowd: 600,
            rack_crowd: 200,
            power_crowd: 0,
            mix: 20,
            soft: 400,
        }
    }

    /// Fill machines up, whatever is stranded.
    #[must_use]
    pub const fn best_fit() -> Self {
        Self { strand: 0, ..Self::hybrid() }
    }

    /// Spread load over all machines, as early Borg did (E-PVM: Borg paper, section 3.2).
    #[must_use]
    pub const fn worst_fit() -> Self {
        Self { fit: -100, ..Self::best_fit() }
    }

    /// The first machine that has room, in the order of ties. Only for comparison.
    #[must_use]
    pub const fn first_fit() -> Self {
        Self { fit: 0, strand: 0, machine_crowd: 0, rack_crowd: 0, power_crowd: 0, mix: 0, soft: 0 }
    }

    /// What a term weighs.
    #[must_use]
    pub const fn get(&self, term: Term) -> i16 {
        match term {
            Term::Fit => self.fit,
            Term::Strand => self.strand,
            Term::MachineCrowd => self.machine_crowd,
            Term::RackCrowd => self.rack_crowd,
            Term::PowerCrowd => self.power_crowd,
            Term::Mix => self.mix,
            Term::Soft => self.soft,
        }
    }

    /// Lets a term weigh so much.
    pub const fn set(&mut self, term: Term, weight: i16) {
        match term {
            Term::Fit => self.fit = weight,
            Term::Strand => self.strand = weight,
            Term::MachineCrowd => self.machine_crowd = weight,
            Term::RackCrowd => self.rack_crowd = weight,
            Term::PowerCrowd => self.power_crowd = weight,
            Term::Mix => self.mix = weight,
            Term::Soft => self.soft = weight,
        }
    }

    /// The same with each weight within its bounds.
    #[must_use]
    pub fn bounded(self) -> Self {
        let mut bounded = self;
        for term in Term::ALL {
            bounded.set(term, self.get(term).clamp(term.least(), MAX_WEIGHT));
        }
        bounded
    }
}

/// What was decided for a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CellPolicy {
    /// The policy that was named last.
    pub named: Policy,
    /// Its weights, with those in place that were set by themselves.
    pub weights: Weights,
}

impl CellPolicy {
    /// The same after another policy was named, or single weights were set.
    #[must_use]
    pub fn after(self, named: Option<Policy>, weights: &BTreeMap<Term, i16>) -> Self {
        let mut new = named.map_or(self, |named| Self { named, weights: named.weights() });
        weights.iter().for_each(|(term, weight)| new.weights.set(*term, *weight));
        new
    }
}

/// As `borgctl policy set` takes it: the name, and the weights that are not those of the policy.
impl fmt::Display for CellPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.named)?;
        let own = self.named.weights();
        for term in Term::ALL.into_iter().filter(|term| self.weights.get(*term) != own.get(*term)) {
            write!(f, " {term}={}", self.weights.get(term))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_weights_stay_until_a_policy_is_named() {
        let fit = BTreeMap::from([(Term::Fit, 120)]);
        let set = CellPolicy::default().after(Some(Policy::BestFit), &fit);
        assert_eq!(set.to_string(), "best-fit fit=120");
        let more = set.after(None, &BTreeMap::from([(Term::RackCrowd, -5)]));
        assert_eq!(more.to_string(), "best-fit fit=120 rack-crowd=-5");
        assert_eq!(more.after(Some(Policy::WorstFit), &BTreeMap::new()).to_string(), "worst-fit");
    }

    /// Logs name policies: other numbers would lead them to another state.
    #[test]
    fn the_numbers_of_a_named_policy_stay() {
        let numbers = Policy::ALL.map(|policy| Term::ALL.map(|term| policy.weights().get(term)));
        assert_eq!(
            numbers,
            [
                [100, 100, 600, 200, 0, 20, 400],
                [100, 0, 600, 200, 0, 20, 400],
                [-100, 0, 600, 200, 0, 20, 400]
            ]
        );
    }

    #[test]
    fn what_is_no_name_or_out_of_bounds_is_told_with_what_is() {
        assert_eq!(
            "bestfit".parse::<Policy>().unwrap_err(),
            "\"bestfit\" is no policy: hybrid, best-fit, worst-fit"
        );
        assert!(
            "Fit"
                .parse::<Term>()
                .unwrap_err()
                .contains("fit, strand, machine-crowd, rack-crowd, power-crowd, mix, soft")
        );
        assert_eq!(Term::Strand.check(-1).unwrap_err(), "is outside 0 to 1000");
        assert_eq!(Term::Fit.check(1 << 40).unwrap_err(), "is outside -1000 to 1000");
        assert_eq!(Term::Fit.check(-1000), Ok(-1000));
    }
}
