//! Curves over one axis, with the spread over seeds as a band behind each.

use super::drawing::{Drawing, colour, dash};
use super::scale::Scale;
use crate::answer::{Axis, Point, Series};

pub(super) fn draw(title: &str, (x, y): (&Axis, &Axis), series: &[Series]) -> Drawing {
    let mut out = Drawing::new(title);
    let points = || series.iter().flat_map(known);
    let heights = |point: Point| {
        let (low, high) = point.between.unwrap_or((point.y, point.y));
        [point.y, low, high]
    };
    let (Some(across), Some(up)) =
        (Scale::over(points().map(|point| point.x)), Scale::over(points().flat_map(heights)))
    else {
        out.nothing();
        return out;
    };
    let names: Vec<&str> = series.iter().map(|one| one.name.as_str()).collect();
    out.legend(&names);
    out.side(up, y);
    out.bottom(across, x);
    for (n, one) in series.iter().enumerate() {
        band(&mut out, n, one, (across, up));
        curve(&mut out, n, one, (across, up));
    }
    out
}

/// The points that are numbers.
fn known(series: &Series) -> impl Iterator<Item = Point> + '_ {
    let spread = |between: &(f64, f64)| between.0.is_finite() && between.1.is_finite();
    let finite = |point: &&Point| point.x.is_finite() && point.y.is_finite();
    series
        .points
        .iter()
        .filter(finite)
        .map(move |point| Point { between: point.between.filter(spread), ..*point })
}

/// From the least to the most over seeds.
fn band(out: &mut Drawing, n: usize, series: &Series, (across, up): (Scale, Scale)) {
    let place = |(x, y): (f64, f64)| format!("{:.1},{:.1}", out.x(across, x), out.y(up, y));
    let spread: Vec<(f64, (f64, f64))> =
        known(series).filter_map(|point| Some((point.x, point.between?))).collect();
    if let [(x, (low, high))] = spread[..] {
        let (x, low, high) = (out.x(across, x), out.y(up, low), out.y(up, high));
        let how = format!("stroke=\"{}\" stroke-opacity=\"0.4\" stroke-width=\"6\"", colour(n));
        return out.line((x, low), (x, high), &how);
    }
    let above = spread.iter().map(|(x, (_, high))| place((*x, *high)));
    let below = spread.iter().rev().map(|(x, (low, _))| place((*x, *low)));
    let outline: Vec<String> = above.chain(below).collect();
    if !outline.is_empty() {
        out.put(format_args!(
            "<polygon points=\"{}\" fill=\"{}\" fill-opacity=\"0.18\"/>",
            outline.join(" "),
            colour(n)
        ));
    }
}

fn curve(out: &mut Drawing, n: usize, series: &Series, (across, up): (Scale, Scale)) {
    let path: Vec<(f64, f64)> =
        known(series).map(|point| (out.x(across, point.x), out.y(up, point.y))).collect();
    if let [(x, y)] = path[..] {
        return out.put(format_args!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{}\"/>",
            colour(n)
        ));
    }
    let path: Vec<String> = path.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    if !path.is_empty() {
        out.put(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\" {}/>",
            path.join(" "),
            colour(n),
            dash(n)
        ));
    }
}
