//! From amounts to places in a drawing, and how amounts are written at its sides.

/// Amounts beyond this are drawn at the edge: their differences would be no numbers.
const FARTHEST: f64 = 1e100;
/// The least difference that is drawn, and the least part of what differs.
const NEAREST: f64 = 1e-12;
const EQUAL: f64 = 1e-4;
/// Into how many steps an axis is parted, about.
const STEPS: f64 = 5.0;

/// An axis with round numbers at its ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pub(super) least: f64,
    pub(super) most: f64,
    step: f64,
}

impl Scale {
    /// Percent of a whole.
    pub(super) const PERCENT: Self = Self { least: 0.0, most: 100.0, step: 20.0 };

    /// Over all of these, 0 included where it is near. `None` where none is a number.
    pub(super) fn over(values: impl Iterator<Item = f64>) -> Option<Self> {
        let numbers = values.filter(|value| !value.is_nan());
        let (least, most) = numbers.fold(None, |so_far, value| {
            let value = value.clamp(-FARTHEST, FARTHEST);
            let (least, most) = so_far.unwrap_or((value, value));
            Some((f64::min(least, value), f64::max(most, value)))
        })?;
        let least = if least > 0.0 && least < most * 0.6 { 0.0 } else { least };
        let (least, most) = apart(least, most);
        let step = round_step((most - least) / STEPS);
        // Sums of parts of a whole are a little off it.
        let (below, above) = ((least / step + 1e-9).floor(), (most / step - 1e-9).ceil());
        Some(Self { least: below * step, most: above * step, step })
    }

    /// Where numbers are written.
    pub(super) fn ticks(self) -> impl Iterator<Item = f64> {
        (0..=10)
            .map(move |n| self.least + f64::from(n) * self.step)
            .filter(move |at| *at <= self.most + self.step / 2.0)
    }

    /// How far along the axis a value is, from 0 to 1.
    pub(super) fn part(self, value: f64) -> f64 {
        // The ends of an axis lie a little beyond what is on it.
        let value = value.clamp(-10.0 * FARTHEST, 10.0 * FARTHEST);
        ((value - self.least) / (self.most - self.least)).clamp(0.0, 1.0)
    }

    /// A tick in as few letters as tell it from the next one; all of an axis have the same unit.
    pub(super) fn told(self, tick: f64) -> String {
        let far = self.least.abs().max(self.most.abs());
        if tick.abs() < self.step / 1e6 {
            return "0".to_owned();
        }
        if far >= 1e15 || self.step < 1e-4 && far < 1.0 {
            let digits = digits_of(self.step / 10f64.powf(far.log10().floor()));
            return short(&format!("{tick:.digits$e}"));
        }
        let (by, name) = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")]
            .into_iter()
            .find(|(unit, _)| far >= *unit)
            .map_or((1.0, ""), |(unit, name)| (if name == "k" { 1e3 } else { unit }, name));
        let digits = digits_of(self.step / by);
        format!("{:.digits$}{name}", tick / by)
    }
}

/// Values that are next to equal stand in the middle of something that can be told.
fn apart(least: f64, most: f64) -> (f64, f64) {
    let far = least.abs().max(most.abs());
    if far == 0.0 {
        return (0.0, 1.0);
    }
    if most - least < (far * EQUAL).max(NEAREST) {
        let by = (far / 2.0).max(NEAREST);
        return (least - by, most + by);
    }
    (least, most)
}

/// `2.0e-6` as `2e-6`.
fn short(text: &str) -> String {
    let (number, power) = text.split_once('e').unwrap_or((text, "0"));
    format!("{}e{power}", number.trim_end_matches('0').trim_end_matches('.'))
}

/// Digits after the point that tell multiples of a step apart.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 9")]
fn digits_of(step: f64) -> usize {
    // A step of 0.2 has a logarithm a little over -1 only with luck.
    (-(step.log10() + 1e-9).floor()).clamp(0.0, 9.0) as usize
}

/// 1, 2 or 5 times a power of ten, at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let times = [1.0, 2.0, 5.0].into_iter().find(|times| times * power >= step * (1.0 - 1e-9));
    times.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(least: f64, most: f64) -> (Scale, Vec<String>) {
        let scale = Scale::over([least, most].into_iter()).unwrap();
        (scale, scale.ticks().map(|tick| scale.told(tick)).collect())
    }

    /// Far from, near to and around 0, huge, tiny, equal.
    #[test]
    fn ticks_are_few_and_each_is_told_from_the_next() {
        let mut ends = vec![(0.0, 7.0), (-1.0, 9.1), (999.0, 1_000.0), (0.0, 0.0), (5.0, 5.0)];
        ends.extend([(-3.0, 0.02), (f64::MIN, f64::MAX), (1e-300, 1e-299), (1e9, 1e9 + 1.0)]);
        ends.extend((-12..18).flat_map(|power| {
            let by = 10f64.powi(power);
            [(0.0, by), (0.0, 3.3 * by), (-by, by), (-7.7 * by, -by), (0.97 * by, by)]
        }));
        for (least, most) in ends {
            let (scale, told) = ticks(least, most);
            assert!((3..=11).contains(&told.len()), "{least} {most}: {told:?}");
            assert!(told.windows(2).all(|pair| pair[0] != pair[1]), "{least} {most}: {told:?}");
            assert!(told.iter().all(|one| one.len() <= 12), "{least} {most}: {told:?}");
            let wide = scale.most - scale.least;
            let over = wide * 1e-6;
            assert!(wide.is_finite() && scale.part(least) >= 0.0 && scale.part(most) <= 1.0);
            assert!(scale.least <= least.max(-FARTHEST) + over, "{least} {most}: {scale:?}");
            assert!(scale.most >= most.min(FARTHEST) - over, "{least} {most}: {scale:?}");
        }
    }

    #[test]
    fn numbers_are_round_and_of_one_unit() {
        assert_eq!(ticks(-1.0, 9.1).1, ["-5", "0", "5", "10"]);
        assert_eq!(ticks(0.0, 12_500.0).1, ["0", "5k", "10k", "15k"]);
        assert_eq!(ticks(0.0, 0.9).1, ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(ticks(0.0, 2.4e-6).1, ["0", "5e-7", "1e-6", "1.5e-6", "2e-6", "2.5e-6"]);
        assert!(Scale::over([f64::NAN].into_iter()).is_none());
    }
}
