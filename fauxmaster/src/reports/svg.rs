//! Pictures: a chart as a drawing of its own (SVG), with its colours and its text in it.
//!
//! Colours are those of Okabe and Ito, which the colour-blind can tell apart; light or dark follows whoever looks.
//! Numbers have one digit after the point at most, so that the same chart is the same bytes everywhere.

use crate::answer::{Axis, Chart, Point, Series, Spread};
use std::fmt::Write;

/// Size of a drawing, in units that scale.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
/// What is left around the area in which things are drawn.
const LEFT: f64 = 72.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 56.0;
/// Colours of series, in order; more begin again.
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c"];
/// Longest text at an axis or in a legend; longer ones are cut.
const LONGEST: usize = 24;
/// Most bars or boxes whose names are written; of more, every so many.
const MOST_NAMES: usize = 12;

/// A chart as a drawing.
#[must_use]
pub fn svg(chart: &Chart) -> String {
    let mut out = Drawing::default();
    match chart {
        Chart::Lines { title, x, y, series, .. } => lines(&mut out, title, (x, y), series),
        Chart::Heat { title, x, y, counts, .. } => heat(&mut out, title, (x, y), counts),
        Chart::Boxes { title, y, boxes, .. } => draw_boxes(&mut out, title, y, boxes),
        Chart::Bars { title, y, parts, bars, stacked, .. } => {
            draw_bars(&mut out, title, y, (parts, bars), *stacked);
        }
    }
    out.finish()
}

/// Name of a chart: of its file.
#[must_use]
pub fn name(chart: &Chart) -> &str {
    match chart {
        Chart::Lines { name, .. }
        | Chart::Heat { name, .. }
        | Chart::Boxes { name, .. }
        | Chart::Bars { name, .. } => name,
    }
}

/// A drawing that grows.
#[derive(Default)]
struct Drawing {
    body: String,
}

impl Drawing {
    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        self.body.write_fmt(element).expect("a string takes all that is written to it");
        self.body.push('\n');
    }

    fn text(&mut self, at: (f64, f64), class: &str, text: &str) {
        let text = escaped(&cut(text, 90));
        self.put(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" class=\"{class}\">{text}</text>",
            at.0, at.1
        ));
    }

    fn title(&mut self, title: &str) {
        self.text((LEFT, 20.0), "title", title);
    }

    /// Names with their colours under the title.
    fn legend(&mut self, names: impl Iterator<Item = String>) {
        let mut x = LEFT;
        for (n, name) in names.enumerate() {
            let name = cut(&name, LONGEST);
            #[expect(clippy::cast_precision_loss, reason = "some letters")]
            let wide = 26.0 + 7.0 * name.chars().count() as f64;
            if x + wide > WIDTH {
                self.text((x, 42.0), "small", "…");
                return;
            }
            self.put(format_args!(
                "<rect x=\"{x:.1}\" y=\"33\" width=\"10\" height=\"10\" fill=\"{}\"/>",
                colour(n)
            ));
            self.text((x + 14.0, 42.0), "small", &name);
            x += wide;
        }
    }

    /// Lines across with numbers at the side, and what they are of.
    fn side(&mut self, scale: Scale, axis: &Axis) {
        for tick in scale.ticks() {
            let y = scale.y(tick);
            self.put(format_args!(
                "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" class=\"grid\"/>",
                WIDTH - RIGHT
            ));
            self.text((LEFT - 6.0, y + 4.0), "small end", &number(tick, scale.step()));
        }
        let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
        let label = escaped(&cut(&labelled(axis), 44));
        self.put(format_args!(
            "<text transform=\"translate(14 {middle:.1}) rotate(-90)\" class=\"small mid\">{label}</text>"
        ));
    }

    /// Numbers along the bottom, and what they are of.
    fn bottom(&mut self, scale: Scale, axis: &Axis) {
        for tick in scale.ticks() {
            let text = number(tick, scale.step());
            self.text((scale.x(tick), HEIGHT - BOTTOM + 18.0), "small mid", &text);
        }
        self.text(
            (f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 14.0),
            "small mid",
            &labelled(axis),
        );
    }

    fn nothing(&mut self) {
        self.text((WIDTH / 2.0, HEIGHT / 2.0), "small mid", "nothing to show");
    }

    fn finish(self) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n<style>\
             svg{{background:#fff;font-family:system-ui,sans-serif;fill:#1a1a1a}}.title{{font-size:15px;font-weight:600}}\
             .small{{font-size:12px}}.mid{{text-anchor:middle}}.end{{text-anchor:end}}.grid{{stroke:#8884;stroke-width:1}}\
             .ink{{stroke:#1a1a1a}}\
             @media(prefers-color-scheme:dark){{svg{{background:#181a1b;fill:#e6e6e6}}.ink{{stroke:#e6e6e6}}}}\
             </style>\n{}</svg>\n",
            self.body
        )
    }
}

/// From amounts to places, with round numbers at its ends.
#[derive(Clone, Copy)]
struct Scale {
    least: f64,
    most: f64,
}

impl Scale {
    /// Over all of these, 0 included where it is near.
    fn over(values: impl Iterator<Item = f64>) -> Option<Self> {
        let found = values.filter(|value| value.is_finite()).fold(None, |so_far, value| {
            let (least, most) = so_far.unwrap_or((value, value));
            Some((f64::min(least, value), f64::max(most, value)))
        });
        let (mut least, mut most): (f64, f64) = found?;
        if least > 0.0 && least < most * 0.6 {
            least = 0.0;
        }
        if most - least < f64::EPSILON * most.abs().max(1.0) {
            least = f64::min(least, 0.0);
            most = if most > least { most } else { least + 1.0 };
        }
        let step = round_step((most - least) / 5.0);
        Some(Self { least: (least / step).floor() * step, most: (most / step).ceil() * step })
    }

    fn step(self) -> f64 {
        round_step((self.most - self.least) / 5.0)
    }

    fn ticks(self) -> impl Iterator<Item = f64> {
        let step = self.step();
        (0..=10)
            .map(move |n| self.least + f64::from(n) * step)
            .filter(move |at| *at <= self.most + step / 2.0)
    }

    fn part(self, value: f64) -> f64 {
        ((value - self.least) / (self.most - self.least)).clamp(0.0, 1.0)
    }

    fn x(self, value: f64) -> f64 {
        LEFT + self.part(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.part(value) * (HEIGHT - TOP - BOTTOM)
    }
}

/// 1, 2 or 5 times a power of ten, at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.abs().max(1e-12).log10().floor());
    [1.0, 2.0, 5.0]
        .map(|times| times * power)
        .into_iter()
        .find(|one| *one >= step)
        .unwrap_or(10.0 * power)
}

/// As short as the step between two of them allows.
fn number(value: f64, step: f64) -> String {
    let value = if value.abs() < step / 1e6 { 0.0 } else { value };
    for (unit, name) in [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")] {
        if value.abs() >= unit {
            let by = if name == "k" { 1e3 } else { unit };
            let digits = usize::from(step / by < 1.0) + usize::from(step / by < 0.1);
            return format!("{:.digits$}{name}", value / by);
        }
    }
    let digits =
        if step >= 1.0 { 0 } else { 1 + usize::from(step < 0.1) + usize::from(step < 0.01) };
    format!("{value:.digits$}")
}

fn labelled(axis: &Axis) -> String {
    if axis.unit.is_empty() {
        axis.label.clone()
    } else {
        format!("{} ({})", axis.label, axis.unit)
    }
}

fn colour(n: usize) -> &'static str {
    COLOURS[n % COLOURS.len()]
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// Text that means nothing but itself in SVG and HTML.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn lines(out: &mut Drawing, title: &str, (x, y): (&Axis, &Axis), series: &[Series]) {
    out.title(title);
    let points = || series.iter().flat_map(|one| &one.points);
    let heights = |point: &Point| {
        let (low, high) = point.between.unwrap_or((point.y, point.y));
        [point.y, low, high]
    };
    let (Some(across), Some(up)) =
        (Scale::over(points().map(|point| point.x)), Scale::over(points().flat_map(heights)))
    else {
        return out.nothing();
    };
    out.legend(series.iter().map(|one| one.name.clone()));
    out.side(up, y);
    out.bottom(across, x);
    let place = |x: f64, y: f64| format!("{:.1},{:.1}", across.x(x), up.y(y));
    for (n, one) in series.iter().enumerate() {
        let known: Vec<&Point> =
            one.points.iter().filter(|point| point.x.is_finite() && point.y.is_finite()).collect();
        let spread = known.iter().filter_map(|point| Some((point.x, point.between?)));
        let above = spread.clone().map(|(x, (_, high))| place(x, high));
        let below = spread.rev().map(|(x, (low, _))| place(x, low));
        let outline: Vec<String> = above.chain(below).collect();
        if outline.len() > 2 {
            out.put(format_args!(
                "<polygon points=\"{}\" fill=\"{}\" fill-opacity=\"0.18\"/>",
                outline.join(" "),
                colour(n)
            ));
        }
        if let [only] = known.as_slice() {
            out.put(format_args!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{}\"/>",
                across.x(only.x),
                up.y(only.y),
                colour(n)
            ));
            continue;
        }
        let path: Vec<String> = known.iter().map(|point| place(point.x, point.y)).collect();
        out.put(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\"/>",
            path.join(" "),
            colour(n)
        ));
    }
}

fn heat(out: &mut Drawing, title: &str, (x, y): (&Axis, &Axis), counts: &[Vec<u64>]) {
    out.title(title);
    let most = counts.iter().flatten().copied().max().unwrap_or(0);
    if most == 0 {
        return out.nothing();
    }
    let whole = Scale { least: 0.0, most: 100.0 };
    out.side(whole, y);
    out.bottom(whole, x);
    #[expect(clippy::cast_precision_loss, reason = "a grid of some fields")]
    for (row, counts_of_row) in counts.iter().enumerate() {
        let tall = (HEIGHT - TOP - BOTTOM) / counts.len() as f64;
        let wide = (WIDTH - LEFT - RIGHT) / counts_of_row.len().max(1) as f64;
        for (column, count) in counts_of_row.iter().enumerate().filter(|(_, count)| **count > 0) {
            // Counts differ by powers of ten: a field with one machine must be seen beside one with thousands.
            let shade = 0.15 + 0.85 * ((*count as f64).ln_1p() / (most as f64).ln_1p());
            out.put(format_args!(
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\" fill-opacity=\"{shade:.2}\"><title>{count}</title></rect>",
                LEFT + column as f64 * wide,
                HEIGHT - BOTTOM - (row + 1) as f64 * tall,
                wide - 0.5,
                tall - 0.5,
                colour(0)
            ));
        }
    }
    out.text((WIDTH - RIGHT, 42.0), "small end", &format!("darkest: {most} machines"));
}

fn draw_boxes(out: &mut Drawing, title: &str, y: &Axis, boxes: &[Spread]) {
    out.title(title);
    let values = boxes.iter().flat_map(|one| one.samples.iter().copied().chain(one.bound));
    let Some(scale) = Scale::over(values) else { return out.nothing() };
    out.side(scale, y);
    for (n, one) in boxes.iter().enumerate() {
        let (middle, half) = stand(n, boxes.len());
        name_under(out, n, boxes.len(), middle, &one.name);
        let at = |percent: usize| scale.y(crate::spread::percentile(&one.samples, percent));
        if !one.samples.is_empty() {
            out.put(format_args!(
                "<line x1=\"{middle:.1}\" x2=\"{middle:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" class=\"ink\"/>",
                at(0),
                at(100)
            ));
            let (top, bottom) = (at(75), at(25));
            out.put(format_args!(
                "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\" class=\"ink\"/>",
                middle - half,
                half * 2.0,
                (bottom - top).max(1.0),
                colour(n)
            ));
            for (percent, width) in [(50, "1"), (90, "3")] {
                out.put(format_args!(
                    "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" class=\"ink\" stroke-width=\"{width}\"/>",
                    middle - half,
                    middle + half,
                    y = at(percent)
                ));
            }
        }
        if let Some(bound) = one.bound {
            out.put(format_args!(
                "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#d55e00\" stroke-width=\"2\" stroke-dasharray=\"5 3\"/>",
                middle - half * 1.4,
                middle + half * 1.4,
                y = scale.y(bound)
            ));
        }
    }
    out.text(
        (WIDTH - RIGHT, 42.0),
        "small end",
        "thick line: 90th percentile; dashed: lower bound",
    );
}

fn draw_bars(
    out: &mut Drawing,
    title: &str,
    y: &Axis,
    (parts, bars): (&[String], &[(String, Vec<f64>)]),
    stacked: bool,
) {
    out.title(title);
    let tops = bars.iter().flat_map(|(_, amounts)| {
        let sum = amounts.iter().filter(|one| one.is_finite()).sum();
        if stacked { vec![sum] } else { amounts.clone() }
    });
    let Some(scale) = Scale::over(tops.chain([0.0])).filter(|_| !bars.is_empty()) else {
        return out.nothing();
    };
    out.legend(parts.iter().filter(|part| !part.is_empty()).cloned());
    out.side(scale, y);
    for (n, (name, amounts)) in bars.iter().enumerate() {
        let (middle, half) = stand(n, bars.len());
        name_under(out, n, bars.len(), middle, name);
        let mut base = 0.0;
        #[expect(clippy::cast_precision_loss, reason = "some parts")]
        let wide = if stacked { half * 2.0 } else { half * 2.0 / amounts.len().max(1) as f64 };
        for (part, amount) in amounts.iter().enumerate().filter(|(_, amount)| amount.is_finite()) {
            #[expect(clippy::cast_precision_loss, reason = "some parts")]
            let left = middle - half + if stacked { 0.0 } else { part as f64 * wide };
            let (low, high) = (scale.y(base), scale.y(base + amount));
            out.put(format_args!(
                "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
                low.min(high),
                wide.max(0.5),
                (low - high).abs(),
                colour(part)
            ));
            base += if stacked { *amount } else { 0.0 };
        }
    }
}

/// Where the n-th of so many stands, and half of its width.
#[expect(clippy::cast_precision_loss, reason = "some bars")]
fn stand(n: usize, of: usize) -> (f64, f64) {
    let room = (WIDTH - LEFT - RIGHT) / of.max(1) as f64;
    (LEFT + room * (n as f64 + 0.5), (room * 0.3).min(40.0))
}

fn name_under(out: &mut Drawing, n: usize, of: usize, middle: f64, name: &str) {
    let every = of.div_ceil(MOST_NAMES);
    if n.is_multiple_of(every) {
        let shown = of.div_ceil(every).max(1);
        // A letter is some 7 units wide.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a small positive number"
        )]
        let most = ((WIDTH - LEFT - RIGHT) / shown as f64 / 7.0) as usize;
        out.text((middle, HEIGHT - BOTTOM + 18.0), "small mid", &cut(name, most.clamp(2, LONGEST)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(label: &str) -> Axis {
        Axis { label: label.into(), unit: String::new() }
    }

    fn lines_of(points: &[(f64, f64)]) -> String {
        let point = |(x, y): &(f64, f64)| Point { x: *x, y: *y, between: Some((*y, *y)) };
        let series =
            vec![Series { name: "<script>".into(), points: points.iter().map(point).collect() }];
        svg(&Chart::Lines {
            name: "n".into(),
            title: "t & t".into(),
            x: axis("x"),
            y: axis("y"),
            series,
        })
    }

    /// Nothing, one point, equal ones, tiny and huge ones, and those that are no numbers.
    #[test]
    fn whatever_is_drawn_has_only_numbers_in_it_and_no_text_means_anything() {
        for points in [
            &[][..],
            &[(1.0, 1.0)],
            &[(0.0, 0.0), (0.0, 0.0)],
            &[(1e-9, 1e15), (1e15, -3.0)],
            &[(f64::NAN, 1.0), (2.0, f64::INFINITY), (3.0, 4.0)],
        ] {
            let drawn = lines_of(points);
            assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
            assert!(!drawn.contains("<script>") && drawn.contains("t &amp; t"), "{drawn}");
            assert_eq!(drawn, lines_of(points));
        }
        assert!(lines_of(&[]).contains("nothing to show"));
    }

    #[test]
    fn ticks_are_round_and_few() {
        for (least, most) in [(0.0, 7.0), (0.0, 1_234.0), (-3.0, 0.02), (999.0, 1_000.0)] {
            let scale = Scale::over([least, most].into_iter()).unwrap();
            let ticks: Vec<f64> = scale.ticks().collect();
            assert!((3..=11).contains(&ticks.len()), "{ticks:?}");
            assert!(scale.least <= least && scale.most >= most, "{least} {most}");
        }
        assert_eq!(
            [number(12_500.0, 500.0), number(0.25, 0.05), number(-0.0, 1.0)],
            ["12.5k", "0.25", "0"]
        );
    }
}
