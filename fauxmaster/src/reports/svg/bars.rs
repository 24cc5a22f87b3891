//! Amounts side by side or on top of one another. Where names are too long to stand under their bars, the bars lie.

use super::drawing::{Drawing, LETTER, WIDTH, colour, cut, fits, letters};
use super::scale::Scale;
use crate::answer::Axis;

/// Most boxes or bars that stand and have their names written; of more, every so many.
const MOST_NAMES: usize = 12;
/// Longest name beside a bar that lies; longer ones are cut.
const LONGEST: usize = 44;
/// Height of a bar that lies, and the room around it.
const LYING: f64 = 24.0;
/// Most bars that lie; more would make a picture that nobody looks at, and are in the table.
const MOST_LYING: usize = 60;

/// Names and amounts, a part each.
pub(super) type Bars<'a> = (&'a [String], &'a [(String, Vec<f64>)]);

pub(super) fn draw(title: &str, y: &Axis, (parts, bars): Bars<'_>, stacked: bool) -> Drawing {
    let mut out = Drawing::new(title);
    let tops = bars.iter().flat_map(|(_, amounts)| {
        let known = amounts.iter().copied().filter(|amount| amount.is_finite());
        if stacked { vec![known.sum()] } else { known.collect() }
    });
    let Some(scale) = Scale::over(tops.chain([0.0])).filter(|_| !bars.is_empty()) else {
        out.nothing();
        return out;
    };
    let names: Vec<&str> =
        parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    out.legend(&names);
    let longest = bars.iter().map(|(name, _)| letters(name)).fold(0.0, f64::max);
    let room = 2.0 * stand(&out, 0, bars.len()).0 - 2.0 * out.left;
    if longest * LETTER > room && (bars.len() <= MOST_LYING || longest > 12.0) {
        lie(&mut out, scale, y, (parts, bars), stacked);
    } else {
        upright(&mut out, scale, y, (parts, bars), stacked);
    }
    out
}

fn upright(out: &mut Drawing, scale: Scale, y: &Axis, (parts, bars): Bars<'_>, stacked: bool) {
    out.side(scale, y);
    for (n, (name, amounts)) in bars.iter().enumerate() {
        let (middle, half) = stand(out, n, bars.len());
        name_under(out, n, bars.len(), middle, name);
        for piece in pieces(amounts, stacked) {
            let told = piece.told(name, parts);
            let (low, high) = (out.y(scale, piece.from), out.y(scale, piece.to));
            let at = (middle - half + piece.aside * half * 2.0, low.min(high));
            let size = ((half * 2.0 * piece.share).max(0.5), (low - high).abs());
            out.rect(at, size, &piece.how(), &told);
        }
    }
}

fn lie(out: &mut Drawing, scale: Scale, axis: &Axis, (parts, bars): Bars<'_>, stacked: bool) {
    let shown = &bars[..bars.len().min(MOST_LYING)];
    let longest = shown.iter().map(|(name, _)| letters(&cut(name, LONGEST))).fold(0.0, f64::max);
    out.left = (longest * LETTER + 24.0).min(WIDTH * 0.5);
    #[expect(clippy::cast_precision_loss, reason = "some bars")]
    let tall = shown.len() as f64 * LYING + 8.0;
    out.base = out.top + tall;
    out.bottom(scale, axis);
    let zero = out.x(scale, 0.0);
    out.line((zero, out.top), (zero, out.base), "class=\"grid\"");
    let mut top = out.top + 4.0;
    for (name, amounts) in shown {
        out.text((out.left - 8.0, top + LYING / 2.0 + 4.0), "small end", &cut(name, LONGEST));
        for piece in pieces(amounts, stacked) {
            let told = piece.told(name, parts);
            let (from, to) = (out.x(scale, piece.from), out.x(scale, piece.to));
            let tall = LYING - 6.0;
            let at = (from.min(to), top + 3.0 + piece.aside * tall);
            out.rect(at, ((from - to).abs(), tall * piece.share), &piece.how(), &told);
        }
        top += LYING;
    }
    if shown.len() < bars.len() {
        let left = bars.len() - shown.len();
        out.text((16.0, out.base + 40.0), "small", &format!("{left} more are not drawn"));
    }
}

/// A part of a bar: from where to where, and which share of its thickness, from where on.
struct Piece {
    part: usize,
    from: f64,
    to: f64,
    aside: f64,
    share: f64,
}

impl Piece {
    fn how(&self) -> String {
        format!("fill=\"{}\"", colour(self.part))
    }

    fn told(&self, name: &str, parts: &[String]) -> String {
        let part = parts.get(self.part).map_or("", String::as_str);
        let gap = if part.is_empty() { "" } else { ", " };
        format!("{name}{gap}{part}: {}", rounded(self.to - self.from))
    }
}

/// Without the noise of sums.
fn rounded(amount: f64) -> f64 {
    if amount.abs() < 1e9 { (amount * 1e6).round() / 1e6 } else { amount }
}

#[expect(clippy::cast_precision_loss, reason = "some parts")]
fn pieces(amounts: &[f64], stacked: bool) -> Vec<Piece> {
    let share = if stacked { 1.0 } else { 1.0 / amounts.len().max(1) as f64 };
    let mut below = 0.0;
    let known = amounts.iter().enumerate().filter(|(_, amount)| amount.is_finite());
    known
        .map(|(part, amount)| {
            let (from, aside) = if stacked { (below, 0.0) } else { (0.0, part as f64 * share) };
            below += amount;
            Piece { part, from, to: from + amount, aside, share }
        })
        .collect()
}

/// Where the middle of the n-th of so many stands, and half of its width.
#[expect(clippy::cast_precision_loss, reason = "some bars")]
pub(super) fn stand(out: &Drawing, n: usize, of: usize) -> (f64, f64) {
    let room = out.wide() / of.max(1) as f64;
    (out.left + room * (n as f64 + 0.5), (room * 0.3).min(40.0))
}

/// The name under the n-th of so many, as far as there is room.
pub(super) fn name_under(out: &mut Drawing, n: usize, of: usize, middle: f64, name: &str) {
    let every = of.div_ceil(MOST_NAMES);
    if !n.is_multiple_of(every) {
        return;
    }
    #[expect(clippy::cast_precision_loss, reason = "some bars")]
    let most = fits(out.wide() / of.div_ceil(every) as f64);
    let below = out.base + 18.0;
    out.text((middle, below), "small mid", &cut(name, most));
}
