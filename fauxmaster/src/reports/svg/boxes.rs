//! The spread of samples side by side: from the least to the most, a box over the middle half.

use super::bars::{name_under, stand};
use super::drawing::{Drawing, colour};
use super::scale::Scale;
use crate::answer::{Axis, Spread};
use crate::spread::percentile;

pub(super) fn draw(title: &str, y: &Axis, boxes: &[Spread]) -> Drawing {
    let mut out = Drawing::new(title);
    let values = boxes.iter().flat_map(|one| known(one).into_iter().chain(one.bound));
    let Some(scale) = Scale::over(values) else {
        out.nothing();
        return out;
    };
    let bounded = boxes.iter().any(|one| one.bound.is_some());
    let dashed = if bounded { "; dashed: lower bound" } else { "" };
    out.remark(&format!("box: middle half; thick line: 90th percentile{dashed}"));
    out.side(scale, y);
    for (n, one) in boxes.iter().enumerate() {
        let (middle, half) = stand(&out, n, boxes.len());
        name_under(&mut out, n, boxes.len(), middle, &one.name);
        spread(&mut out, scale, (middle, half), one, n);
        if let Some(bound) = one.bound.filter(|bound| bound.is_finite()) {
            let at = out.y(scale, bound);
            let how = "stroke=\"#d55e00\" stroke-width=\"2\" stroke-dasharray=\"5 3\"";
            out.line((middle - half * 1.4, at), (middle + half * 1.4, at), how);
        }
    }
    out
}

/// The samples that are numbers.
fn known(spread: &Spread) -> Vec<f64> {
    spread.samples.iter().copied().filter(|sample| sample.is_finite()).collect()
}

fn spread(out: &mut Drawing, scale: Scale, (middle, half): (f64, f64), one: &Spread, n: usize) {
    let samples = known(one);
    if samples.is_empty() {
        return;
    }
    let value = |percent| percentile(&samples, percent);
    let [least, low, mid, high, p90, most] =
        [0, 25, 50, 75, 90, 100].map(|percent| out.y(scale, value(percent)));
    out.line((middle, least), (middle, most), "class=\"ink\"");
    let told = format!(
        "{}: least {}, median {}, 90th percentile {}, most {}, of {}",
        one.name,
        value(0),
        value(50),
        value(90),
        value(100),
        samples.len()
    );
    let how = format!("fill=\"{}\" class=\"ink\"", colour(n));
    out.rect((middle - half, high), (half * 2.0, (low - high).max(1.0)), &how, &told);
    for (at, width) in [(mid, 1), (p90, 3)] {
        let how = format!("class=\"ink\" stroke-width=\"{width}\"");
        out.line((middle - half, at), (middle + half, at), &how);
    }
}
