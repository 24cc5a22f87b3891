//! How many fall into each field of a grid: the more, the stronger its colour.

use super::drawing::{Drawing, colour};
use super::scale::Scale;
use crate::answer::Axis;

pub(super) fn draw(title: &str, (x, y): (&Axis, &Axis), counts: &[Vec<u64>]) -> Drawing {
    let mut out = Drawing::new(title);
    let most = counts.iter().flatten().copied().max().unwrap_or(0);
    if most == 0 {
        out.nothing();
        return out;
    }
    out.remark(&format!("the stronger the colour the more; strongest: {most}"));
    out.side(Scale::PERCENT, y);
    out.bottom(Scale::PERCENT, x);
    for (row, of_row) in counts.iter().enumerate() {
        for (column, count) in of_row.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (from, to) = (edge(column, of_row.len()), edge(column + 1, of_row.len()));
            let (low, high) = (edge(row, counts.len()), edge(row + 1, counts.len()));
            let at = (out.x(Scale::PERCENT, from), out.y(Scale::PERCENT, high));
            let size =
                (out.x(Scale::PERCENT, to) - at.0 - 0.5, out.y(Scale::PERCENT, low) - at.1 - 0.5);
            let how = format!("fill=\"{}\" fill-opacity=\"{:.2}\"", colour(0), shade(*count, most));
            let told = format!("{count}: {from:.0} to {to:.0} %, {low:.0} to {high:.0} %");
            out.rect(at, size, &how, &told);
        }
    }
    out
}

/// Where the n-th of so many fields begins, in percent.
#[expect(clippy::cast_precision_loss, reason = "some fields")]
fn edge(n: usize, of: usize) -> f64 {
    n as f64 / of as f64 * 100.0
}

/// Counts differ by powers of ten: a field with one must be seen beside one with thousands.
#[expect(clippy::cast_precision_loss, reason = "a shade")]
fn shade(count: u64, most: u64) -> f64 {
    0.15 + 0.85 * ((count as f64).ln_1p() / (most as f64).ln_1p())
}
