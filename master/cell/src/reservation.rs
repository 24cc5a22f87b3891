//! What a task needs of what it may use, by what it was seen to use.
//!
//! An [`Estimate`] is of one process. Its reservation is the limit at first and for a while after the start
//! (the hold), then falls slowly towards use and a margin, and rises at once when more is used (Borg paper,
//! section 5.5). `links::reservations` has one for each task and says when to look; `state::placement`
//! trusts the sum only within bounds of its own.
//!
//! A new leader knows what is used and not what was reserved before. It reckons from the start of the
//! process as if the use had always been what it is now: the lowest that the allowed fall can have led
//! to. Otherwise every failover would take the lent room back for the time that a fall takes.
//!
//! Invariants: a reservation is never above the limit, and never below what is used with its margin, or the
//! limit if that is less; it falls no faster than the numbers of the cell allow. Without knowledge it is the
//! limit.

use borg_proto::Millis;
use borg_proto::poll::Usage;
use borg_proto::reclamation::{Amounts, Numbers};

/// A reservation falls in steps of this length, so that how often somebody looks decides nothing. 10 s: our
/// choice, twice as long as shards say nothing new of use.
const STEP: Millis = Millis::from_secs(10);
/// Steps in a minute, in which a fall is measured.
const STEPS_A_MINUTE: u64 = 6;
/// Kept above use whatever the margin is: what may be used more without that the leader hears of it (the
/// epsilons of `borg_linkshard`), of processor time, memory and disk.
pub(crate) const UNSEEN: Amounts =
    Amounts { cpu_milli: 50, ram_bytes: 4 << 20, disk_bytes: 4 << 20 };

/// What of its use counts for a reservation: `None` when nothing was measured yet. Processor time that nine
/// tenths of the seconds of the last five minutes stayed below, or what is used now if that is more: who gets
/// less for a moment is slower for a moment. Of memory the most of those minutes: who gets less of it dies.
/// Page cache can be given back at once and does not count.
#[must_use]
pub fn counted(usage: &Usage) -> Option<Amounts> {
    if *usage == Usage::default() {
        return None;
    }
    let window = usage.window.unwrap_or_default();
    Some(Amounts {
        cpu_milli: usage.cpu_milli.max(window.cpu_milli.p90),
        ram_bytes: usage.ram_bytes.max(window.ram_bytes.max),
        disk_bytes: usage.disk_bytes,
    })
}

/// What is believed of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// When the process started, in cell time as far as known.
    started: Millis,
    /// Up to when it fell.
    at: Millis,
    /// Whether it was ever known what the process uses, after the hold.
    known: bool,
    reserved: Amounts,
}

impl Estimate {
    /// Of a process that started then: its limit.
    #[must_use]
    pub fn new(limit: Amounts, started: Millis, numbers: &Numbers) -> Self {
        Self { started, at: started + numbers.hold(), known: false, reserved: limit }
    }

    /// What is reserved for it.
    #[must_use]
    pub fn reserved(&self) -> Amounts {
        self.reserved
    }

    /// When the process started.
    #[must_use]
    pub fn started(&self) -> Millis {
        self.started
    }

    /// Looks again: it uses so much, as far as anybody knows. Answers the reservation.
    pub fn look(
        &mut self,
        limit: Amounts,
        used: Option<Amounts>,
        now: Millis,
        numbers: &Numbers,
    ) -> Amounts {
        let held = self.started + numbers.hold();
        let Some(used) = used.filter(|_| self.is_past_hold(now, numbers)) else {
            self.reserved = limit;
            if self.known || now < held {
                self.at = now.max(held);
            }
            return limit;
        };
        self.known = true;
        let steps = now.since(self.at).0 / STEP.0;
        self.at = self.at + Millis(steps * STEP.0);
        let least = needed(used, numbers).least(limit);
        let fallen = self.reserved.minus(fall(limit, steps, numbers));
        self.reserved = fallen.largest(least).least(limit);
        self.reserved
    }

    /// Whether it has run for so long that what it uses counts.
    #[must_use]
    pub fn is_past_hold(&self, now: Millis, numbers: &Numbers) -> bool {
        now >= self.started + numbers.hold()
    }

    /// Whether it uses more than what its reservation leaves as a margin: then somebody should look at once.
    #[must_use]
    pub fn is_outgrown(&self, limit: Amounts, used: Amounts, numbers: &Numbers) -> bool {
        !needed(used, numbers).least(limit).fits_in(self.reserved)
    }
}

/// Use with its margin.
fn needed(used: Amounts, numbers: &Numbers) -> Amounts {
    used.plus(used.percent(numbers.margin_percent)).plus(UNSEEN)
}

/// How much a reservation falls in so many steps at most, rounded up: what is small falls too.
fn fall(limit: Amounts, steps: u64, numbers: &Numbers) -> Amounts {
    let part = u128::from(numbers.decay_permille) * u128::from(steps);
    let whole = u128::from(1_000 * STEPS_A_MINUTE);
    Amounts::of(limit.each().map(|limit| {
        let fall = u128::from(limit).saturating_mul(part).div_ceil(whole);
        u64::try_from(fall).unwrap_or(u64::MAX)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_proto::reclamation::NumberSet;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;
    const LIMIT: Amounts = Amounts::of([1_000, 1_000 * MIB, 0]);

    fn baseline() -> Numbers {
        NumberSet::Baseline.numbers()
    }

    fn cpu(estimate: &mut Estimate, used: u64, at_s: u64) -> u64 {
        let used = Amounts::of([used, 100 * MIB, 0]);
        estimate.look(LIMIT, Some(used), Millis::from_secs(at_s), &baseline()).cpu_milli
    }

    #[test]
    fn a_reservation_is_held_at_the_limit_then_falls_slowly_to_use_and_its_margin() {
        let mut estimate = Estimate::new(LIMIT, Millis::from_secs(1_000), &baseline());
        assert_eq!(cpu(&mut estimate, 100, 1_010), 1_000);
        assert_eq!(cpu(&mut estimate, 100, 1_299), 1_000, "300 s are not over");
        assert_eq!(cpu(&mut estimate, 100, 1_300), 1_000);
        assert_eq!(cpu(&mut estimate, 100, 1_309), 1_000, "a step is 10 s");
        assert_eq!(cpu(&mut estimate, 100, 1_360), 950, "a twentieth of the limit a minute");
        assert_eq!(cpu(&mut estimate, 100, 1_420), 900);
        assert_eq!(cpu(&mut estimate, 100, 9_999), 175, "use, a quarter and what may go unseen");
    }

    #[test]
    fn it_rises_at_once_and_never_above_the_limit() {
        let mut estimate = Estimate::new(LIMIT, Millis(0), &baseline());
        assert_eq!(cpu(&mut estimate, 100, 9_000), 175);
        let more = |used| estimate.is_outgrown(LIMIT, Amounts::of([used, 0, 0]), &baseline());
        assert_eq!([100, 101, 5_000].map(more), [false, true, true]);
        assert_eq!(cpu(&mut estimate, 500, 9_001), 675);
        assert_eq!(cpu(&mut estimate, 5_000, 9_002), 1_000);
        assert!(!estimate.is_outgrown(LIMIT, Amounts::of([5_000, 0, 0]), &baseline()));
        assert_eq!(cpu(&mut estimate, 100, 9_062), 950, "and falls as slowly as ever");
    }

    #[test]
    fn of_what_nothing_is_known_the_limit_is_reserved() {
        let mut estimate = Estimate::new(LIMIT, Millis(0), &baseline());
        assert_eq!(cpu(&mut estimate, 100, 9_000), 175);
        let at = Millis::from_secs(9_001);
        assert_eq!(estimate.look(LIMIT, None, at, &baseline()), LIMIT);
        assert_eq!(cpu(&mut estimate, 100, 9_061), 950, "the fall begins anew");
        assert_eq!(counted(&Usage::default()), None);
    }

    /// A failover must take nothing back that was lent for long, nor lend more than the allowed fall.
    #[test]
    fn a_new_leader_reckons_from_the_start_of_the_process() {
        let mut long = Estimate::new(LIMIT, Millis(0), &baseline());
        assert_eq!(cpu(&mut long, 100, 86_400), 175);
        let mut short = Estimate::new(LIMIT, Millis(0), &baseline());
        assert_eq!(cpu(&mut short, 100, 300 + 120), 900, "two minutes after the hold");
        let mut fresh = Estimate::new(LIMIT, Millis::from_secs(86_300), &baseline());
        assert_eq!(cpu(&mut fresh, 100, 86_400), 1_000);
    }

    #[test]
    fn other_numbers_count_from_the_next_look() {
        let mut estimate = Estimate::new(LIMIT, Millis(0), &baseline());
        assert_eq!(cpu(&mut estimate, 100, 9_000), 175);
        let used = Some(Amounts::of([100, 100 * MIB, 0]));
        let longer = Numbers { hold_s: 10_000, ..baseline() };
        assert_eq!(estimate.look(LIMIT, used, Millis::from_secs(9_010), &longer), LIMIT);
        let aggressive = NumberSet::Aggressive.numbers();
        let fallen = estimate.look(LIMIT, used, Millis::from_secs(10_120), &aggressive);
        assert_eq!(fallen.cpu_milli, 600, "two minutes from where it was held");
    }

    proptest! {
        /// Whatever is used and whenever somebody looks.
        #[test]
        fn a_reservation_stays_between_need_and_limit_and_falls_no_faster_than_allowed(
            limit in any::<[u64; 3]>(),
            looks in vec((0..100_000_u64, any::<Option<[u64; 3]>>()), 1..30),
            hold_s in 0..400_u32,
            decay_permille in 1..=1_000_u32,
            margin_percent in 0..=400_u32,
        ) {
            let numbers = Numbers { hold_s, decay_permille, margin_percent, most_percent: 100, remember_h: 0 };
            let limit = Amounts::of(limit);
            let mut estimate = Estimate::new(limit, Millis(0), &numbers);
            let (mut now, mut steps, mut known) = (Millis(0), 0, false);
            for (wait, used) in looks {
                let before = estimate.reserved();
                now = now + Millis(wait);
                let used = used.map(Amounts::of);
                let reserved = estimate.look(limit, used, now, &numbers);
                prop_assert!(reserved.fits_in(limit));
                let least = used.map_or(limit, |used| needed(used, &numbers).least(limit));
                prop_assert!(least.fits_in(reserved));
                let over = now.since(numbers.hold()).0 / STEP.0;
                let allowed = fall(limit, over.saturating_sub(steps) + 1, &numbers);
                prop_assert!(before.minus(allowed).least(limit).fits_in(reserved));
                // Until use is known the fall is counted from the end of the hold.
                known |= used.is_some() && now >= numbers.hold();
                steps = if known { over } else { 0 };
            }
        }

        /// What is believed depends on how often anybody looked by what is rounded alone.
        #[test]
        fn looking_more_often_changes_next_to_nothing(
            used in 0..1_000_u64,
            mut looks in vec(0..1_000_u64, 0..40),
        ) {
            looks.sort_unstable();
            let (mut often, mut once) = [0; 2].map(|_| Estimate::new(LIMIT, Millis(0), &baseline())).into();
            for at in &looks {
                cpu(&mut often, used, *at);
            }
            let (often, once) = (cpu(&mut often, used, 1_000), cpu(&mut once, used, 1_000));
            prop_assert!(often <= once && once - often <= looks.len() as u64, "{often} {once}");
        }
    }
}
