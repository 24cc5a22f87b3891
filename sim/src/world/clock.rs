//! The clocks of a simulated computer, as the daemons use them.
//!
//! A daemon reads the wall clock once, at its start, and counts on from there by a monotonic clock,
//! which runs a little too fast or too slow (`clock` of `borg-master` and of `borglet`). So a step
//! of the wall clock moves no timer, and shows in what the next process says. Shims read the wall
//! clock for their records.

use crate::dice::Dice;
use borg_proto::Millis;
use borg_proto::poll::CLOCK_DRIFT_PERMILLE;

/// The most that a monotonic clock is wrong, in millionths. 500: what Linux lets NTP correct.
const DRIFT: u64 = 500;
/// The most that the clock of a machine is wrong, in millionths: what exclusive jobs have to bear.
const WORST: i64 = CLOCK_DRIFT_PERMILLE.cast_signed() * 1_000;

/// How far the wall clock of a computer is set wrong at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockJump {
    /// Ten years ahead.
    TenYears,
    /// A day back.
    DayBack,
    /// So many milliseconds.
    By(i32),
}

impl ClockJump {
    const fn millis(self) -> i64 {
        match self {
            Self::TenYears => 10 * 365 * 86_400_000,
            Self::DayBack => -86_400_000,
            Self::By(millis) => millis as i64,
        }
    }
}

/// The clocks of one computer, and of the daemon on it.
#[derive(Debug)]
pub(crate) struct Clock {
    /// How far the wall clock is ahead of virtual time, in milliseconds.
    ahead: i64,
    /// How much too fast the monotonic clock is, in millionths.
    pace: i64,
    /// Virtual time, and what the wall clock showed, when the daemon started.
    start: (Millis, Millis),
    /// Set since the daemon started.
    jumped: bool,
}

impl Clock {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let signed = |value: u64| i64::try_from(value).expect("small");
        let ahead = signed(dice.below(2_000));
        let pace = signed(dice.between(0, 2 * DRIFT)) - signed(DRIFT);
        Self { ahead, pace, start: (Millis(0), Millis(0)), jumped: false }
    }

    /// The clock of a machine, which may go far more wrong.
    pub(crate) fn of_machine(dice: &mut Dice) -> Self {
        let clock = Self::new(dice);
        let pace = *dice.pick(&[clock.pace, clock.pace, WORST / 2, WORST, -WORST]);
        Self { pace, ..clock }
    }

    /// What has passed since the world began, by this clock: a machine's time since boot, which no
    /// restart of a process changes.
    pub(crate) fn boot(&self, now: Millis) -> Millis {
        let passed = now.since(super::BEGIN).0;
        let wrong = i64::try_from(passed).expect("a run is short") * self.pace;
        Millis(passed.saturating_add_signed(wrong.div_euclid(1_000_000)))
    }

    /// What the wall clock shows.
    pub(crate) fn wall(&self, now: Millis) -> Millis {
        Millis(now.0.saturating_add_signed(self.ahead))
    }

    /// A daemon starts. True when the clock was set since the last one did.
    pub(crate) fn start(&mut self, now: Millis) -> bool {
        self.start = (now, self.wall(now));
        std::mem::take(&mut self.jumped)
    }

    /// What the daemon takes for the time.
    pub(crate) fn now(&self, now: Millis) -> Millis {
        let (began, wall) = self.start;
        let passed = now.since(began).0;
        let wrong = i64::try_from(passed).expect("a run is short") * self.pace;
        wall + Millis(passed.saturating_add_signed(wrong.div_euclid(1_000_000)))
    }

    /// How much time to let pass so that the daemon's clock shows so much more.
    pub(crate) fn until(&self, more: Millis) -> Millis {
        let slow = self.pace.min(0).unsigned_abs();
        let longer = if slow == 0 { 0 } else { more.0 * slow / (1_000_000 - slow) + 1 };
        Millis(more.0 + longer)
    }

    /// Somebody sets the wall clock.
    pub(crate) fn jump(&mut self, jump: ClockJump) {
        self.ahead = self.ahead.saturating_add(jump.millis());
        self.jumped = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_the_wall_clock_shows_in_the_next_process_only() {
        let mut clock = Clock { ahead: 0, pace: 0, start: (Millis(0), Millis(0)), jumped: false };
        let day = Millis(86_400_000);
        clock.start(day);
        clock.jump(ClockJump::DayBack);
        assert_eq!(clock.now(day + Millis(5)), day + Millis(5));
        assert!(clock.start(day + Millis(5)));
        assert_eq!(clock.now(day + Millis(7)), Millis(7));
        assert!(!clock.start(day + Millis(7)));
    }

    #[test]
    fn a_wrong_clock_never_goes_back_and_shows_what_was_waited_for() {
        for pace in [-WORST, -500, -499, -1, 0, 3, 500, WORST] {
            let mut clock = Clock { ahead: 0, pace, start: (Millis(0), Millis(0)), jumped: false };
            clock.start(Millis(1_000));
            let mut last = Millis(0);
            for at in 1_000..30_000 {
                let now = clock.now(Millis(at));
                assert!(now >= last);
                last = now;
                for more in [1, 2, 19, 500, 2_001] {
                    let later = clock.now(Millis(at) + clock.until(Millis(more)));
                    assert!(later >= now + Millis(more), "{pace} {at} {more}");
                }
            }
        }
    }
}
