//! What the tasks of a machine may need together within a day, by what they used at each hour of the last one.
//!
//! What is used now says little of the evening, and what one task used at most says little of many: services live by the
//! day, and those that burst rarely do so at once. So each task has a [`Profile`] of its hours, and a machine needs, at
//! its worst hour, the sum of what its tasks used on average and what they spread around that, as independent ones do
//! together. Of memory, which cannot be taken back, the most of each counts. Predictors of machines' peaks are of Bashir
//! and others ("Take it to the limit", EuroSys 2021); to go by hours, and by each task, so that they may come and go, is
//! ours.
//!
//! Invariant: what is foretold of several is no more than the sum of what is foretold of each, and no less than what they
//! use now. At an hour of which a task knows nothing it counts with what is reserved for it otherwise.

use borg_proto::Millis;
use borg_proto::reclamation::Amounts;

const HOUR: Millis = Millis::from_secs(3_600);
/// Standard deviations above the mean, doubled. 3.5, ours: the most of a day of looks five minutes apart is 2.8 above it.
const DOUBLE_SIGMAS: u128 = 7;
/// Kept above all of it, in hundredths. Ours: few looks tell means and deviations but roughly.
const MARGIN_PERCENT: u32 = 2;

/// What a task used in an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hour {
    /// Since cell time 0.
    number: u64,
    looks: u32,
    /// Sum of the processor time of all looks, in millicores, and of its squares.
    cpu_sum: u64,
    cpu_squares: u128,
    /// The most of memory, and of disk.
    ram_bytes: u64,
    disk_bytes: u64,
}

impl Hour {
    const fn new(number: u64) -> Self {
        Self { number, looks: 0, cpu_sum: 0, cpu_squares: 0, ram_bytes: 0, disk_bytes: 0 }
    }

    /// Mean processor time in millicores, rounded up, and the variance around it.
    fn cpu(&self) -> (u64, u128) {
        let (sum, looks) = (u128::from(self.cpu_sum), u128::from(self.looks.max(1)));
        let around = self.cpu_squares.saturating_sub(sum * sum / looks);
        (self.cpu_sum.div_ceil(u64::from(self.looks.max(1))), around / (looks - 1).max(1))
    }
}

/// What a task used in each of its last hours, in order; those are left out in which nobody looked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile(Vec<Hour>);

impl Profile {
    /// A look: so much processor time is used at this moment, and so much at most of the rest. Hours that are more than
    /// `remember` ago are forgotten.
    pub fn note(&mut self, now: Millis, cpu_milli: u64, most: Amounts, remember: u32) {
        let number = now.0 / HOUR.0;
        self.0.retain(|hour| hour.number + u64::from(remember) >= number);
        if self.0.last().is_none_or(|hour| hour.number < number) {
            self.0.push(Hour::new(number));
        }
        let Some(hour) = self.0.last_mut() else { return };
        hour.looks = hour.looks.saturating_add(1);
        hour.cpu_sum = hour.cpu_sum.saturating_add(cpu_milli);
        hour.cpu_squares = hour.cpu_squares.saturating_add(u128::from(cpu_milli).pow(2));
        hour.ram_bytes = hour.ram_bytes.max(most.ram_bytes);
        hour.disk_bytes = hour.disk_bytes.max(most.disk_bytes);
    }

    fn at(&self, number: u64) -> Option<&Hour> {
        let found = self.0.binary_search_by_key(&number, |hour| hour.number).ok()?;
        self.0.get(found)
    }
}

/// What is known of a task.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Of its last hours.
    pub profile: &'a Profile,
    /// What is reserved for it when it is looked at by itself, and without a profile.
    pub reserved: Amounts,
    /// What it uses at this moment.
    pub now: Amounts,
}

/// What these tasks may need together, by their last hours, as many as `remember` and the one that is not over.
#[must_use]
pub fn foretold(tasks: &[Known<'_>], now: Millis, remember: u32) -> Amounts {
    let this = now.0 / HOUR.0;
    // Of hours before cell time 0, which made-up cells have, nothing is known either.
    let hours = (0..=u64::from(remember)).map(|ago| this.checked_sub(ago));
    let worst = hours.map(|hour| together(tasks, hour)).fold(Amounts::default(), Amounts::largest);
    let used = tasks.iter().map(|task| task.now).fold(Amounts::default(), Amounts::plus);
    let needed = worst.largest(used);
    needed.plus(needed.percent(MARGIN_PERCENT))
}

/// What is reserved for each of these tasks, for all together no more than [`foretold`] of them.
#[must_use]
pub fn reservations(tasks: &[Known<'_>], now: Millis, remember: u32) -> Vec<Amounts> {
    let together = foretold(tasks, now, remember);
    let alone: Vec<Amounts> = tasks.iter().map(|task| foretold(&[*task], now, remember)).collect();
    let all = alone.iter().copied().fold(Amounts::default(), Amounts::plus);
    let part = alone.iter().map(|alone| {
        let ([alone, together], all) = ([*alone, together].map(Amounts::each), all.each());
        Amounts::of([0, 1, 2].map(|n| share(alone[n], together[n], all[n])))
    });
    part.collect()
}

/// `amount * of / whole`, rounded down, and the amount itself where that is not less.
fn share(amount: u64, of: u64, whole: u64) -> u64 {
    if of >= whole {
        return amount;
    }
    let part = u128::from(amount) * u128::from(of) / u128::from(whole);
    u64::try_from(part).unwrap_or(amount)
}

fn together(tasks: &[Known<'_>], hour: Option<u64>) -> Amounts {
    let (mut sum, mut variance) = (Amounts::default(), 0_u128);
    for task in tasks {
        let Some(hour) = hour.and_then(|hour| task.profile.at(hour)) else {
            sum = sum.plus(task.reserved);
            continue;
        };
        let (mean, around) = hour.cpu();
        sum = sum.plus(Amounts::of([mean, hour.ram_bytes, hour.disk_bytes]));
        variance = variance.saturating_add(around);
    }
    let spread = variance.saturating_mul(DOUBLE_SIGMAS.pow(2)).isqrt() / 2;
    let spread = u64::try_from(spread).unwrap_or(u64::MAX);
    sum.plus(Amounts { cpu_milli: spread, ..Amounts::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const DAY: u32 = 24;

    /// A look each five minutes for some hours, beginning at cell time 0.
    fn profile(hours: u64, mut used: impl FnMut(u64) -> u64) -> Profile {
        let mut profile = Profile::default();
        for look in 0..hours * 12 {
            let used = used(look);
            profile.note(Millis(look * 300_000), used, Amounts::of([0, used, 0]), DAY);
        }
        profile
    }

    fn known(profile: &Profile, reserved: u64) -> Known<'_> {
        Known { profile, reserved: Amounts::of([reserved; 3]), now: Amounts::default() }
    }

    fn of(tasks: &[Known<'_>], at_h: u64) -> [u64; 2] {
        let [cpu, ram, _] = foretold(tasks, Millis(at_h * HOUR.0), DAY).each();
        [cpu, ram]
    }

    #[test]
    fn the_worst_hour_of_the_last_day_counts_and_no_older_one() {
        let busy = profile(28, |look| if look / 12 == 3 { 1_000 } else { 100 });
        assert_eq!(of(&[known(&busy, 0)], 27), [1_020, 1_020]);
        assert_eq!(of(&[known(&busy, 0)], 28), [102, 102]);
    }

    #[test]
    fn hours_that_are_not_known_count_as_what_is_reserved_otherwise() {
        let young = profile(2, |_| 100);
        assert_eq!(of(&[known(&young, 700)], 2), [714, 714]);
        let old = profile(30, |_| 100);
        assert_eq!(of(&[known(&old, 700)], 29), [102, 102]);
        // Whoever never looked knows nothing.
        assert_eq!(of(&[known(&Profile::default(), 700), known(&old, 9)], 29), [816, 816]);
    }

    /// Of twelve looks one is a burst to 900.
    #[test]
    fn bursts_of_many_come_at_once_less_than_those_of_one() {
        let burst = |number: u64| {
            profile(
                30,
                move |look| if (look * 7 + number * 5).is_multiple_of(12) { 900 } else { 100 },
            )
        };
        let all: Vec<Profile> = (0..100).map(burst).collect();
        let known: Vec<Known<'_>> = all.iter().map(|profile| known(profile, 0)).collect();
        let (one, [cpu, ram]) = (of(&known[..1], 29)[0], of(&known, 29));
        assert!((970..1_000).contains(&one), "mean 167 and 3.5 times 231: {one}");
        assert!((25_000..26_000).contains(&cpu), "mean 16,667 and 3.5 times 2,309: {cpu}");
        assert_eq!(ram, 91_800, "memory is not pooled");
        let each = reservations(&known, Millis(29 * HOUR.0), DAY);
        let sum = each.iter().copied().fold(Amounts::default(), Amounts::plus);
        assert!(sum.cpu_milli <= cpu && sum.cpu_milli + 100 > cpu, "{sum:?}");
    }

    proptest! {
        #[test]
        fn together_is_never_more_than_each_by_itself_nor_less_than_what_is_used(
            used in vec(vec(0..u64::MAX, 1..50), 1..8),
            reserved in 0..u64::MAX,
            now in 0..u64::MAX,
            huge in any::<bool>(),
        ) {
            let least = if huge { 1 << 60 } else { 100_000 };
            let all: Vec<Profile> = used
                .iter()
                .map(|used| {
                    let mut used = used.iter().cycle().map(|used| used % least);
                    profile(30, |_| used.next().unwrap_or_default())
                })
                .collect();
            let (reserved, now) = (Amounts::of([reserved % least; 3]), Amounts::of([now % least; 3]));
            let known: Vec<Known<'_>> =
                all.iter().map(|profile| Known { profile, reserved, now }).collect();
            let at = Millis(30 * HOUR.0);
            let together = foretold(&known, at, DAY);
            let each = reservations(&known, at, DAY);
            let sum = each.iter().copied().fold(Amounts::default(), Amounts::plus);
            prop_assert!(sum.fits_in(together), "{:?} {:?}", sum, together);
            for task in &known {
                prop_assert!(task.now.fits_in(together));
            }
        }
    }
}
