//! A drawing that grows: what all charts have in common. Its area, its colours, the text around it.

use super::scale::Scale;
use crate::answer::Axis;
use std::fmt::Write;

/// Width of a drawing, in units that scale.
pub(super) const WIDTH: f64 = 720.0;
/// Height of its area.
pub(super) const TALL: f64 = 250.0;
/// What is left at the sides.
pub(super) const LEFT: f64 = 76.0;
pub(super) const RIGHT: f64 = 28.0;
/// What is left over the area for the title, and under it for numbers and the name of the axis.
const TITLE: f64 = 32.0;
const BOTTOM: f64 = 54.0;
/// Height of a line of the legend.
const LEGEND_LINE: f64 = 20.0;
/// Colours of series, in order; more begin again.
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c"];
/// Dashes by how often the colours began again.
const DASHES: [&str; 4] = ["none", "6 3", "2 3", "9 3 2 3"];
/// Longest text in a legend; longer ones are cut.
const LONGEST: usize = 40;
/// Width of a letter, about.
pub(super) const LETTER: f64 = 7.0;

/// A drawing.
pub(super) struct Drawing {
    body: String,
    title: String,
    /// Where the area begins and ends, from the top.
    pub(super) top: f64,
    pub(super) base: f64,
    /// Where it begins from the left.
    pub(super) left: f64,
}

impl Drawing {
    pub(super) fn new(title: &str) -> Self {
        let top = TITLE + 12.0;
        let mut drawing = Self {
            body: String::new(),
            title: title.to_owned(),
            top,
            base: top + TALL,
            left: LEFT,
        };
        drawing.text((16.0, 22.0), "title", &cut(title, 70));
        drawing
    }

    pub(super) fn put(&mut self, element: std::fmt::Arguments<'_>) {
        self.body.write_fmt(element).expect("a string takes all that is written to it");
        self.body.push('\n');
    }

    pub(super) fn text(&mut self, at: (f64, f64), class: &str, text: &str) {
        let text = escaped(text);
        self.put(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" class=\"{class}\">{text}</text>",
            at.0, at.1
        ));
    }

    pub(super) fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), how: &str) {
        self.put(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" {how}/>"
        ));
    }

    /// A rectangle that says what it is when it is pointed at.
    pub(super) fn rect(
        &mut self,
        (x, y): (f64, f64),
        (wide, tall): (f64, f64),
        how: &str,
        told: &str,
    ) {
        self.put(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" {how}><title>{}</title></rect>",
            wide.max(0.0),
            tall.max(0.0),
            escaped(told)
        ));
    }

    /// Names with their colours under the title, over as many lines as they need. Comes before anything is placed.
    pub(super) fn legend(&mut self, names: &[&str]) {
        let mut at = (self.left, TITLE + 12.0);
        for (n, name) in names.iter().enumerate() {
            let name = cut(name, LONGEST);
            let wide = 34.0 + LETTER * letters(&name);
            if at.0 + wide > WIDTH && at.0 > self.left {
                at = (self.left, at.1 + LEGEND_LINE);
            }
            self.line(
                (at.0, at.1 - 4.0),
                (at.0 + 16.0, at.1 - 4.0),
                &format!("stroke=\"{}\" stroke-width=\"8\" {}", colour(n), dash(n)),
            );
            self.text((at.0 + 21.0, at.1), "small", &name);
            at.0 += wide;
        }
        if !names.is_empty() {
            self.top = at.1 + 14.0;
            self.base = self.top + TALL;
        }
    }

    /// A sentence under the title.
    pub(super) fn remark(&mut self, text: &str) {
        self.text((self.left, TITLE + 12.0), "small", text);
        self.top = TITLE + 26.0;
        self.base = self.top + TALL;
    }

    pub(super) fn x(&self, scale: Scale, value: f64) -> f64 {
        self.left + scale.part(value) * self.wide()
    }

    pub(super) fn y(&self, scale: Scale, value: f64) -> f64 {
        self.base - scale.part(value) * (self.base - self.top)
    }

    /// Width of the area.
    pub(super) fn wide(&self) -> f64 {
        WIDTH - self.left - RIGHT
    }

    /// Lines across with numbers at the side, and what they are of.
    pub(super) fn side(&mut self, scale: Scale, axis: &Axis) {
        for tick in scale.ticks() {
            let y = self.y(scale, tick);
            self.line((self.left, y), (WIDTH - RIGHT, y), "class=\"grid\"");
            self.text((self.left - 6.0, y + 4.0), "small end", &scale.told(tick));
        }
        let middle = f64::midpoint(self.top, self.base);
        let label = escaped(&cut(&labelled(axis), 36));
        self.put(format_args!(
            "<text transform=\"translate(16 {middle:.1}) rotate(-90)\" class=\"small mid\">{label}</text>"
        ));
    }

    /// Numbers along the bottom, and what they are of.
    pub(super) fn bottom(&mut self, scale: Scale, axis: &Axis) {
        for tick in scale.ticks() {
            let x = self.x(scale, tick);
            self.line((x, self.base), (x, self.base + 4.0), "class=\"grid\"");
            self.text((x, self.base + 18.0), "small mid", &scale.told(tick));
        }
        let middle = self.left + self.wide() / 2.0;
        let label = cut(&labelled(axis), fits(self.wide()));
        self.text((middle, self.base + 40.0), "small mid", &label);
    }

    pub(super) fn nothing(&mut self) {
        self.base = self.top + 80.0;
        self.text((WIDTH / 2.0, self.top + 50.0), "small mid", "nothing to show");
    }

    pub(super) fn finish(self) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{}\">\n<style>\
             svg{{background:#fff;font-family:system-ui,sans-serif;fill:#1a1a1a}}.title{{font-size:15px;font-weight:600}}\
             .small{{font-size:12px}}.mid{{text-anchor:middle}}.end{{text-anchor:end}}.grid{{stroke:#8886;stroke-width:1}}\
             .ink{{stroke:#1a1a1a}}\
             @media(prefers-color-scheme:dark){{svg{{background:#181a1b;fill:#e6e6e6}}.ink{{stroke:#e6e6e6}}}}\
             </style>\n{}</svg>\n",
            self.base + BOTTOM,
            escaped(&self.title),
            self.body
        )
    }
}

/// Colour of the n-th series.
pub(super) fn colour(n: usize) -> &'static str {
    COLOURS[n % COLOURS.len()]
}

/// Dashes of the n-th series: with more series than colours, what tells two of one colour apart.
pub(super) fn dash(n: usize) -> String {
    format!("stroke-dasharray=\"{}\"", DASHES[n / COLOURS.len() % DASHES.len()])
}

/// How many, as a width.
#[expect(clippy::cast_precision_loss, reason = "some letters")]
pub(super) fn letters(text: &str) -> f64 {
    text.chars().count() as f64
}

/// How many letters there is room for.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a small positive number"
)]
pub(super) fn fits(wide: f64) -> usize {
    (wide / LETTER) as usize
}

/// So many letters of a text at most.
pub(super) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.max(2) - 1).chain(['…']).collect()
}

fn labelled(axis: &Axis) -> String {
    if axis.unit.is_empty() {
        axis.label.clone()
    } else {
        format!("{} ({})", axis.label, axis.unit)
    }
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
            // The last two are not allowed in XML at all.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
