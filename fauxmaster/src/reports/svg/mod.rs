//! Pictures: a chart as a drawing of its own (SVG), with its colours and its text in it.
//!
//! Colours are those of Okabe and Ito, which the colour-blind can tell apart; light or dark follows whoever looks.
//! Places have one digit after the point, so that the same chart is the same bytes everywhere.

mod bars;
mod boxes;
mod drawing;
mod heat;
mod lines;
mod scale;

pub use drawing::escaped;

use super::text;
use crate::answer::{Chart, Provenance};

/// A chart as a drawing.
#[must_use]
pub fn svg(chart: &Chart) -> String {
    let drawing = match chart {
        Chart::Lines { title, x, y, series, .. } => lines::draw(title, (x, y), series),
        Chart::Heat { title, x, y, counts, .. } => heat::draw(title, (x, y), counts),
        Chart::Boxes { title, y, boxes, .. } => boxes::draw(title, y, boxes),
        Chart::Bars { title, y, parts, bars, stacked, .. } => {
            bars::draw(title, y, (parts, bars), *stacked)
        }
    };
    drawing.finish()
}

/// A chart as a file of its own, with where it comes from.
#[must_use]
pub fn file(chart: &Chart, provenance: &Provenance) -> String {
    let origin = escaped(&text::origin(provenance));
    svg(chart).replacen("\n", &format!("\n<desc>{origin}</desc>\n"), 1)
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

#[cfg(test)]
mod tests;
