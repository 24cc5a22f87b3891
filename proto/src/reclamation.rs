//! What of the room that tasks hold is lent to others: the numbers of a cell, and the amounts.
//!
//! A task holds its limit. Its *reservation* is what the leader believes that it needs, from what it was
//! seen to use; the rest of its limit is *lent*: tasks that are not production may stand on it (Borg
//! paper, section 5.5). `borg_cell::reservation` estimates, `borg_cell::state` checks; here are the words.
//!
//! Invariant: the numbers of a named set never change, as entries of the log name it; a better set gets a
//! name of its own.

use crate::names::shorten;
use crate::resources::Resources;
use crate::time::Millis;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The most that [`Number::Most`] may be: what is never exceeded, whatever was set since. 400 %: our choice.
pub const MOST_PERCENT: u32 = 400;

/// Amounts of the resources that can be lent: those that are divided freely and given back at once.
/// Ports and devices are held or they are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amounts {
    /// Processor time in millicores.
    pub cpu_milli: u64,
    /// Memory in bytes.
    pub ram_bytes: u64,
    /// Disk space in bytes.
    pub disk_bytes: u64,
}

impl Amounts {
    /// Of processor time, memory and disk, in that order.
    #[must_use]
    pub const fn of([cpu_milli, ram_bytes, disk_bytes]: [u64; 3]) -> Self {
        Self { cpu_milli, ram_bytes, disk_bytes }
    }

    /// Processor time, memory and disk.
    #[must_use]
    pub const fn each(self) -> [u64; 3] {
        [self.cpu_milli, self.ram_bytes, self.disk_bytes]
    }

    /// Whether there is nothing of any.
    #[must_use]
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }

    /// The sum, stopping at the largest number.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    /// What is left after `other` is taken, at least nothing.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_sub)
    }

    /// The smaller one of each.
    #[must_use]
    pub fn least(self, other: Self) -> Self {
        self.zip(other, u64::min)
    }

    /// The larger one of each.
    #[must_use]
    pub fn largest(self, other: Self) -> Self {
        self.zip(other, u64::max)
    }

    /// Whether all of this fits into `room`.
    #[must_use]
    pub fn fits_in(self, room: Self) -> bool {
        self.minus(room).is_nothing()
    }

    /// Some hundredths of each, rounded down.
    #[must_use]
    pub fn percent(self, percent: u32) -> Self {
        Self::of(self.each().map(|amount| part(amount, percent.into(), 100)))
    }

    /// One made of each two.
    #[must_use]
    pub fn zip(self, other: Self, op: impl Fn(u64, u64) -> u64) -> Self {
        let ([a, b, c], [d, e, f]) = (self.each(), other.each());
        Self::of([op(a, d), op(b, e), op(c, f)])
    }
}

impl From<&Resources> for Amounts {
    fn from(all: &Resources) -> Self {
        Self { cpu_milli: all.cpu_milli, ram_bytes: all.ram_bytes, disk_bytes: all.disk_bytes }
    }
}

impl From<Amounts> for Resources {
    fn from(these: Amounts) -> Self {
        let Amounts { cpu_milli, ram_bytes, disk_bytes } = these;
        Self { cpu_milli, ram_bytes, disk_bytes, ..Self::default() }
    }
}

/// `amount * of / whole`, rounded down, stopping at the largest number.
fn part(amount: u64, of: u64, whole: u64) -> u64 {
    let all = u128::from(amount) * u128::from(of) / u128::from(whole);
    u64::try_from(all).unwrap_or(u64::MAX)
}

/// A number that decides how much is lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Number {
    /// See [`Numbers::hold_s`].
    Hold,
    /// See [`Numbers::decay_permille`].
    Decay,
    /// See [`Numbers::margin_percent`].
    Margin,
    /// See [`Numbers::most_percent`].
    Most,
    /// See [`Numbers::remember_h`].
    Remember,
}

impl Number {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 5] = [Self::Hold, Self::Decay, Self::Margin, Self::Most, Self::Remember];

    /// Its name for people, with its unit.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold-s",
            Self::Decay => "decay-permille",
            Self::Margin => "margin-percent",
            Self::Most => "most-percent",
            Self::Remember => "remember-h",
        }
    }

    /// What it is, in one line.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Hold => {
                "seconds from the start of a process for which its reservation is its limit"
            }
            Self::Decay => {
                "thousandths of the limit by which a reservation falls in a minute at most"
            }
            Self::Margin => "kept above what is used, in hundredths of it",
            Self::Most => {
                "what the limits of all tasks that are not prod may come to on a machine, in hundredths \
                 of its capacity"
            }
            Self::Remember => {
                "hours over which it is remembered what tasks used, to foretell what a machine needs at its worst; \
                 0: by what each uses now"
            }
        }
    }

    /// The least and the most that it may be.
    #[must_use]
    pub const fn bounds(self) -> (u32, u32) {
        match self {
            Self::Hold => (0, 86_400),
            Self::Decay => (1, 1_000),
            Self::Margin => (0, 400),
            Self::Most => (100, MOST_PERCENT),
            Self::Remember => (0, 24),
        }
    }

    /// Whether it may be so much.
    ///
    /// # Errors
    /// What is allowed.
    pub fn check(self, value: u64) -> Result<u32, String> {
        let (least, most) = self.bounds();
        let value = u32::try_from(value).ok().filter(|value| (least..=most).contains(value));
        value.ok_or_else(|| format!("is outside {least} to {most}"))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Number {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|number| number.name() == text);
        named.ok_or_else(|| {
            format!("{:?} is no number: {}", shorten(text), Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// How much is lent. The hold is the paper's (section 5.5); it names the sets of its figure 12 and gives
/// none of their numbers, so those are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// For so long after its process started a task's reservation is its limit, in seconds: what it does
    /// first says little of what it does later.
    pub hold_s: u32,
    /// A reservation falls by no more than so many thousandths of the limit in a minute.
    pub decay_permille: u32,
    /// What a reservation keeps above what is used, in hundredths of it.
    pub margin_percent: u32,
    /// What the limits of all tasks that are not production may come to on one machine, in hundredths of
    /// its capacity, whatever the reservations say: a bound that every replica can check.
    pub most_percent: u32,
    /// For so many hours it is remembered what tasks used: reservations are then what a machine needs at the worst of
    /// these hours, all its tasks together. With 0 each task's follows what it uses itself.
    pub remember_h: u32,
}

impl Numbers {
    /// What one of them is.
    #[must_use]
    pub const fn get(&self, number: Number) -> u32 {
        match number {
            Number::Hold => self.hold_s,
            Number::Decay => self.decay_permille,
            Number::Margin => self.margin_percent,
            Number::Most => self.most_percent,
            Number::Remember => self.remember_h,
        }
    }

    /// Lets one of them be something else.
    pub const fn set(&mut self, number: Number, value: u32) {
        match number {
            Number::Hold => self.hold_s = value,
            Number::Decay => self.decay_permille = value,
            Number::Margin => self.margin_percent = value,
            Number::Most => self.most_percent = value,
            Number::Remember => self.remember_h = value,
        }
    }

    /// The hold as a time.
    #[must_use]
    pub const fn hold(&self) -> Millis {
        Millis(self.hold_s as u64 * 1_000)
    }

    /// The same with each number within its bounds.
    #[must_use]
    pub fn bounded(self) -> Self {
        let mut bounded = self;
        for number in Number::ALL {
            let (least, most) = number.bounds();
            bounded.set(number, self.get(number).clamp(least, most));
        }
        bounded
    }
}

/// A named set of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum NumberSet {
    /// Nothing is lent: everything is fitted by limits.
    Off,
    /// The most careful one: what a cell does until it is told otherwise.
    #[default]
    Baseline,
    /// Between the two.
    Medium,
    /// Lends the most.
    Aggressive,
    /// Lends what nobody needs within a day, as far as the last one tells; of tasks that are not known so long what
    /// [`Self::Baseline`] does.
    Daily,
}

impl NumberSet {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Off, Self::Baseline, Self::Medium, Self::Aggressive, Self::Daily];

    /// Its name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Baseline => "baseline",
            Self::Medium => "medium",
            Self::Aggressive => "aggressive",
            Self::Daily => "daily",
        }
    }

    /// Its numbers.
    #[must_use]
    pub const fn numbers(self) -> Numbers {
        let (decay_permille, margin_percent, remember_h) = match self {
            Self::Off | Self::Baseline => (50, 25, 0),
            Self::Medium => (100, 15, 0),
            Self::Aggressive => (200, 10, 0),
            Self::Daily => (50, 25, 24),
        };
        Numbers { hold_s: 300, decay_permille, margin_percent, most_percent: 200, remember_h }
    }
}

impl fmt::Display for NumberSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for NumberSet {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|set| set.name() == text);
        named.ok_or_else(|| {
            format!("{:?} is no set: {}", shorten(text), Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// What was decided for a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reclamation {
    /// The set that was named last.
    pub named: NumberSet,
    /// Its numbers, with those in place that were set by themselves.
    pub numbers: Numbers,
}

impl Default for Reclamation {
    fn default() -> Self {
        let named = NumberSet::default();
        Self { named, numbers: named.numbers() }
    }
}

impl Reclamation {
    /// The same after another set was named, or single numbers were set.
    #[must_use]
    pub fn after(self, named: Option<NumberSet>, numbers: &BTreeMap<Number, u32>) -> Self {
        let mut new = named.map_or(self, |named| Self { named, numbers: named.numbers() });
        numbers.iter().for_each(|(number, value)| new.numbers.set(*number, *value));
        new
    }

    /// Whether anything is lent at all.
    #[must_use]
    pub fn lends(&self) -> bool {
        self.named != NumberSet::Off
    }
}

/// As `borgctl reclamation set` takes it: the name, and the numbers that are not those of the set.
impl fmt::Display for Reclamation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.named)?;
        let own = self.named.numbers();
        let other = |number: &Number| self.numbers.get(*number) != own.get(*number);
        for number in Number::ALL.into_iter().filter(other) {
            write!(f, " {number}={}", self.numbers.get(number))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_numbers_stay_until_a_set_is_named() {
        let margin = BTreeMap::from([(Number::Margin, 50)]);
        let set = Reclamation::default().after(Some(NumberSet::Medium), &margin);
        assert_eq!(set.to_string(), "medium margin-percent=50");
        let more = set.after(None, &BTreeMap::from([(Number::Hold, 60)]));
        assert_eq!(more.to_string(), "medium hold-s=60 margin-percent=50");
        assert_eq!(more.after(Some(NumberSet::Off), &BTreeMap::new()).to_string(), "off");
    }

    /// Logs name sets: other numbers would lead them to another state.
    #[test]
    fn the_numbers_of_a_named_set_stay() {
        let numbers = NumberSet::ALL.map(|set| Number::ALL.map(|n| set.numbers().get(n)));
        assert_eq!(
            numbers,
            [
                [300, 50, 25, 200, 0],
                [300, 50, 25, 200, 0],
                [300, 100, 15, 200, 0],
                [300, 200, 10, 200, 0],
                [300, 50, 25, 200, 24]
            ]
        );
    }

    #[test]
    fn what_is_no_name_or_out_of_bounds_is_told_with_what_is() {
        assert_eq!(
            "on".parse::<NumberSet>().unwrap_err(),
            "\"on\" is no set: off, baseline, medium, aggressive, daily"
        );
        assert_eq!(
            "hold".parse::<Number>().unwrap_err(),
            "\"hold\" is no number: hold-s, decay-permille, margin-percent, most-percent, remember-h"
        );
        assert_eq!(Number::Most.check(99).unwrap_err(), "is outside 100 to 400");
        assert_eq!(Number::Decay.check(u64::MAX).unwrap_err(), "is outside 1 to 1000");
        assert_eq!(Number::Hold.check(0), Ok(0));
    }

    #[test]
    fn shares_of_the_largest_amounts_do_not_wrap() {
        let huge = Amounts::of([u64::MAX, 10, 3]);
        assert_eq!(huge.percent(400).each(), [u64::MAX, 40, 12]);
        assert_eq!(huge.percent(50).each(), [u64::MAX / 2, 5, 1]);
    }
}
