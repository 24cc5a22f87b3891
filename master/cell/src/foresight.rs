//! What the tasks of a machine may need within a day, by what they used at each hour of the last one.
//!
//! What is used now says little of the evening, and what one task used at most says little of many: services live by the
//! day, and those that burst rarely do so at once. So each task has a [`Profile`] of its hours. Of processor time a machine
//! needs, at its worst hour, the sum of what its tasks used on average and what they spread around that, as independent
//! ones do together: who gets less for a moment is slower for a moment. Of memory and disk, which cannot be taken back,
//! the most of each counts. Predictors of machines' peaks are of Bashir and others ("Take it to the limit", EuroSys 2021);
//! to go by hours, and by each task, so that they may come and go, is ours.
//!
//! Invariants: a reservation is at least what is used now, and at most the limit; all together are no less than what is
//! foretold of the machine, or the limits. At an hour of which a task knows nothing it counts with what is reserved for it
//! otherwise.

use crate::reservation::UNSEEN;
use borg_proto::Millis;
use borg_proto::reclamation::Amounts;

const HOUR: Millis = Millis::from_secs(3_600);
/// A look sooner after another one is no sample of processor time, so that how often somebody looks decides nothing. Ours:
/// twice the time between two looks of a leader.
const STEP: Millis = Millis::from_secs(10);
/// Standard deviations above the mean, doubled. 3.5, ours: the most of a day of looks five minutes apart is 2.8 above it.
const DOUBLE_SIGMAS: u128 = 7;
/// Kept above all of it, in hundredths. Ours: few looks tell means and deviations but roughly.
const MARGIN_PERCENT: u64 = 2;

/// What a task used in an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hour {
    /// Since cell time 0.
    number: u64,
    /// Mean and standard deviation of its processor time, in millicores.
    mean: u32,
    deviation: u32,
    /// The most of memory, and of disk.
    ram_bytes: u64,
    disk_bytes: u64,
}

impl Hour {
    /// Processor time that is rarely exceeded, by one task alone.
    fn cpu_milli(&self) -> u64 {
        u64::from(self.mean) + above(u128::from(self.deviation).pow(2))
    }
}

/// The hour that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Open {
    number: u64,
    looked_at: Millis,
    looks: u32,
    /// Sum of the processor time of all looks, and of its squares.
    sum: u64,
    squares: u128,
    ram_bytes: u64,
    disk_bytes: u64,
}

impl Open {
    fn hour(&self) -> Hour {
        let Self { number, ram_bytes, disk_bytes, .. } = *self;
        let (sum, looks) = (u128::from(self.sum), u128::from(self.looks.max(1)));
        let around = self.squares.saturating_sub(sum * sum / looks) / (looks - 1).max(1);
        let small = |amount: u128| u32::try_from(amount).unwrap_or(u32::MAX);
        let (mean, deviation) = (small(sum.div_ceil(looks)), small(around.isqrt()));
        Hour { number, mean, deviation, ram_bytes, disk_bytes }
    }
}

/// What a task used in each of its last hours, in order; those are left out in which nobody looked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    over: Vec<Hour>,
    open: Option<Open>,
}

impl Profile {
    /// A look: so much processor time is used at this moment, and so much at most of the rest. Hours that are more than
    /// `remember` ago are forgotten.
    pub fn note(&mut self, now: Millis, cpu_milli: u64, most: Amounts, remember: u32) {
        let number = now.0 / HOUR.0;
        let Amounts { ram_bytes, disk_bytes, .. } = most;
        let open = match &mut self.open {
            Some(open) if open.number >= number => open,
            other => {
                self.over.extend(other.take().map(|open| open.hour()));
                self.over.retain(|hour| hour.number + u64::from(remember) >= number);
                let (looks, sum, squares) = (0, 0, 0);
                let looked_at = Millis(0);
                let new = Open { number, looked_at, looks, sum, squares, ram_bytes, disk_bytes };
                other.insert(new)
            }
        };
        open.ram_bytes = open.ram_bytes.max(ram_bytes);
        open.disk_bytes = open.disk_bytes.max(disk_bytes);
        if open.looks > 0 && now.since(open.looked_at) < STEP {
            return;
        }
        open.looked_at = now;
        open.looks = open.looks.saturating_add(1);
        open.sum = open.sum.saturating_add(cpu_milli);
        open.squares = open.squares.saturating_add(u128::from(cpu_milli).pow(2));
    }

    fn hours(&self) -> impl Iterator<Item = Hour> + '_ {
        self.over.iter().copied().chain(self.open.as_ref().map(Open::hour))
    }
}

/// What is known of a task.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Of its last hours; none while what it uses does not count.
    pub profile: Option<&'a Profile>,
    /// What is reserved for it when it is looked at by itself, and without a profile.
    pub reserved: Amounts,
    /// What it uses at this moment, of memory and disk in the last minutes; at most its limit.
    pub now: Amounts,
    /// Its limit.
    pub limit: Amounts,
}

/// What is reserved for each of these tasks of a machine, by their last hours, as many as `remember` and the one that is
/// not over.
#[must_use]
pub fn reservations(tasks: &[Known<'_>], now: Millis, remember: u32) -> Vec<Amounts> {
    let this = now.0 / HOUR.0;
    // By how long ago the hour began.
    let mut hours = vec![Together::default(); usize::try_from(remember).unwrap_or(0) + 1];
    let mut alone = Vec::with_capacity(tasks.len());
    for task in tasks {
        let mut known = 0;
        let mut most = task.now;
        for hour in task.profile.into_iter().flat_map(Profile::hours) {
            let ago = usize::try_from(this.saturating_sub(hour.number)).unwrap_or(usize::MAX);
            let Some(together) = hours.get_mut(ago) else { continue };
            known += 1;
            let (ram, disk) = (hour.ram_bytes, hour.disk_bytes);
            most = most.largest(Amounts::of([hour.cpu_milli(), ram, disk]));
            together.cpu += i128::from(hour.mean) - i128::from(task.reserved.cpu_milli);
            together.variance += u128::from(hour.deviation).pow(2);
        }
        // Of all its hours that are not known it counts with its reservation.
        hours.iter_mut().for_each(|hour| hour.cpu += i128::from(task.reserved.cpu_milli));
        if known < hours.len() {
            most = most.largest(task.reserved);
        }
        let unseen = Amounts { cpu_milli: 0, ..UNSEEN };
        alone.push(with_margin(most).plus(unseen).least(task.limit));
    }
    let sum = |of: &dyn Fn(usize) -> u64| (0..tasks.len()).map(of).fold(0, u64::saturating_add);
    let used = sum(&|n| tasks[n].now.cpu_milli);
    let all = sum(&|n| alone[n].cpu_milli);
    let worst = hours.iter().map(Together::cpu_milli).fold(used, u64::max);
    let needed = with_margin(Amounts::of([worst, 0, 0])).cpu_milli;
    let (more, spare) = (needed.saturating_sub(used), all.saturating_sub(used));
    let part = tasks.iter().zip(alone).map(|(task, alone)| {
        let own = alone.cpu_milli.saturating_sub(task.now.cpu_milli);
        let cpu_milli = task.now.cpu_milli + share(own, more, spare);
        Amounts { cpu_milli, ..alone }
    });
    part.collect()
}

/// What tasks used together in an hour.
#[derive(Debug, Clone, Copy, Default)]
struct Together {
    /// Means, and reservations of those of which it is not known, in millicores.
    cpu: i128,
    variance: u128,
}

impl Together {
    fn cpu_milli(&self) -> u64 {
        u64::try_from(self.cpu).unwrap_or(u64::MAX).saturating_add(above(self.variance))
    }
}

/// What is kept above a mean for so much variance, rounded up.
fn above(variance: u128) -> u64 {
    let doubled = variance.saturating_mul(DOUBLE_SIGMAS.pow(2)).isqrt();
    u64::try_from(doubled.div_ceil(2)).unwrap_or(u64::MAX)
}

/// Rounded up, so that sums of parts are no less than parts of sums.
fn with_margin(amounts: Amounts) -> Amounts {
    let margin = |amount: u64| (amount / 100 + 1) * MARGIN_PERCENT;
    Amounts::of(amounts.each().map(|amount| match amount {
        0 => 0,
        _ => amount.saturating_add(margin(amount)),
    }))
}

/// `amount * of / whole`, rounded up, and the amount itself where that is not less.
fn share(amount: u64, of: u64, whole: u64) -> u64 {
    if of >= whole {
        return amount;
    }
    let part = (u128::from(amount) * u128::from(of)).div_ceil(u128::from(whole));
    u64::try_from(part).unwrap_or(amount)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const DAY: u32 = 24;
    const LIMIT: Amounts = Amounts::of([1 << 40; 3]);

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
        let (profile, reserved) = (Some(profile), Amounts::of([reserved; 3]));
        Known { profile, reserved, now: Amounts::default(), limit: LIMIT }
    }

    /// Processor time of all together, and memory without what may go unseen.
    fn of(tasks: &[Known<'_>], at_h: u64) -> [u64; 2] {
        let each = reservations(tasks, Millis(at_h * HOUR.0), DAY);
        let [cpu, ram, _] = each.into_iter().fold(Amounts::default(), Amounts::plus).each();
        [cpu, ram - tasks.len() as u64 * UNSEEN.ram_bytes]
    }

    #[test]
    fn the_worst_hour_of_the_last_day_counts_and_no_older_one() {
        let busy = profile(28, |look| if look / 12 == 3 { 1_000 } else { 100 });
        assert_eq!(of(&[known(&busy, 0)], 27), [1_022, 1_022]);
        assert_eq!(of(&[known(&busy, 0)], 28), [104, 104]);
    }

    #[test]
    fn hours_that_are_not_known_count_as_what_is_reserved_otherwise() {
        let young = profile(2, |_| 100);
        assert_eq!(of(&[known(&young, 700)], 2), [716, 716]);
        let old = profile(30, |_| 100);
        assert_eq!(of(&[known(&old, 700)], 29), [104, 104]);
        // Whoever never looked knows nothing, and whose use does not count is not known.
        assert_eq!(of(&[known(&Profile::default(), 700), known(&old, 9)], 29), [819, 820]);
        let held = Known { profile: None, ..known(&old, 700) };
        assert_eq!(of(&[held, known(&old, 9)], 29), [819, 820]);
    }

    /// Of twelve looks one is a burst to 900.
    #[test]
    fn bursts_of_many_come_at_once_less_than_those_of_one() {
        let burst = |number: u64| {
            profile(
                30,
                move |look| {
                    if (look * 7 + number * 5).is_multiple_of(12) { 900 } else { 100 }
                },
            )
        };
        let all: Vec<Profile> = (0..100).map(burst).collect();
        let known: Vec<Known<'_>> = all.iter().map(|profile| known(profile, 0)).collect();
        let (one, [cpu, ram]) = (of(&known[..1], 29)[0], of(&known, 29));
        assert!((990..1_020).contains(&one), "mean 167 and 3.5 times 231: {one}");
        assert!((25_000..26_000).contains(&cpu), "mean 16,667 and 3.5 times 2,309: {cpu}");
        assert_eq!(ram, 92_000, "memory is not pooled");
    }

    /// What one is not given for its limit, the others are not short of.
    #[test]
    fn a_limit_takes_nothing_from_others() {
        let step = |number: u64| {
            profile(30, move |look| if (look / 6 + number).is_multiple_of(2) { 200 } else { 800 })
        };
        let steady = profile(30, |_| 1_000);
        let steps: Vec<Profile> = (0..4).map(step).collect();
        let limit = Amounts::of([1_000; 3]);
        let mut all: Vec<Known<'_>> =
            steps.iter().map(|profile| Known { limit, ..known(profile, 0) }).collect();
        let (now, limit) = (Amounts::of([1_000, 0, 0]), Amounts::of([2_000; 3]));
        all.push(Known { now, limit, ..known(&steady, 0) });
        let each = reservations(&all, Millis(29 * HOUR.0), DAY);
        let cpu: Vec<u64> = each.iter().map(|of| of.cpu_milli).collect();
        assert_eq!(cpu, [1_000, 1_000, 1_000, 1_000, 1_022], "means of 500 and 3.5 times 313 each");
    }

    #[test]
    fn looks_in_between_are_no_samples() {
        let mut profile = profile(1, |_| 100);
        let before = profile.clone();
        for ms in 1..1_000 {
            profile.note(Millis(11 * 300_000 + ms), 9_000, Amounts::of([0, 90, 0]), DAY);
        }
        assert_eq!(profile, before);
    }

    proptest! {
        #[test]
        fn each_has_what_it_uses_and_no_more_than_its_limit_and_all_what_is_foretold(
            tasks in vec((vec(0..u64::MAX, 1..50), any::<[u64; 3]>(), any::<bool>()), 1..8),
            huge in any::<bool>(),
        ) {
            let most = if huge { 1 << 40 } else { 100_000 };
            let all: Vec<(Profile, bool, [Amounts; 3])> = tasks
                .iter()
                .map(|(used, others, measured)| {
                    let [limit, reserved, now] = others.map(|amount| amount % most);
                    let mut used = used.iter().cycle().map(|used| used % (limit + 1));
                    let profile = profile(30, |_| used.next().unwrap_or_default());
                    let [reserved, now] = [reserved, now].map(|amount| amount % (limit + 1));
                    (profile, *measured, [limit, reserved, now].map(|of| Amounts::of([of; 3])))
                })
                .collect();
            let known = |(profile, measured, [limit, reserved, now]): &'_ (Profile, bool, [Amounts; 3])| {
                (profile.clone(), *measured, *limit, *reserved, *now)
            };
            let kept: Vec<_> = all.iter().map(known).collect();
            let known: Vec<Known<'_>> = kept
                .iter()
                .map(|(profile, measured, limit, reserved, now)| Known {
                    profile: measured.then_some(profile), reserved: *reserved, now: *now, limit: *limit,
                })
                .collect();
            let at = Millis(30 * HOUR.0);
            let together = reservations(&known, at, DAY);
            let sum = |each: &[Amounts]| each.iter().copied().fold(Amounts::default(), Amounts::plus);
            for (one, task) in together.iter().zip(&known) {
                prop_assert!(task.now.fits_in(*one) && one.fits_in(task.limit), "{:?} {:?}", one, task);
            }
            let alone: Vec<Amounts> =
                known.iter().flat_map(|task| reservations(&[*task], at, DAY)).collect();
            let rounding = Amounts::of([known.len() as u64; 3]);
            prop_assert!(sum(&together).fits_in(sum(&alone).plus(rounding)));
            // At every hour: what was used on average, of those that are known, or their limits.
            for ago in 0..=u64::from(DAY) {
                let hour = known.iter().filter_map(|task| {
                    let found = task.profile?.hours().find(|hour| hour.number + ago == 30)?;
                    Some(u64::from(found.mean).min(task.limit.cpu_milli))
                });
                prop_assert!(hour.sum::<u64>() <= sum(&together).cpu_milli);
            }
        }
    }
}
