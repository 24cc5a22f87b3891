//! For people at a terminal: sentences, tables in columns, and in the last line where it all comes from.

use super::written;
use crate::answer::{Answer, Provenance, Table, Value};
use std::fmt::Write;

/// An answer as text.
#[must_use]
pub fn text(answer: &Answer) -> String {
    let mut out = String::new();
    for sentence in &answer.summary {
        line(&mut out, sentence);
    }
    for one in &answer.tables {
        line(&mut out, "");
        line(&mut out, &one.title);
        table(&mut out, one);
    }
    line(&mut out, "");
    for note in &answer.provenance.notes {
        line(&mut out, &format!("Note: {note}."));
    }
    line(&mut out, &origin(&answer.provenance));
    out
}

/// Where an answer comes from, in one line; notes are told apart from it.
#[must_use]
pub fn origin(provenance: &Provenance) -> String {
    let Provenance { version, source, digest, seeds, parameters, notes: _ } = provenance;
    let mut text = format!("fauxmaster {version}; {source}, {digest}");
    let follow = seeds.windows(2).all(|pair| pair[0].checked_add(1) == Some(pair[1]));
    match seeds.as_slice() {
        [] => {}
        [one] => append(&mut text, format_args!("; seed {one}")),
        [first, .., last] if follow => append(&mut text, format_args!("; seeds {first} to {last}")),
        all => {
            let all: Vec<String> = all.iter().map(u64::to_string).collect();
            append(&mut text, format_args!("; seeds {}", all.join(" ")));
        }
    }
    for (name, value) in parameters {
        append(&mut text, format_args!("; {name} {value}"));
    }
    text
}

/// Columns wide enough for what is in them, numbers to the right.
fn table(out: &mut String, table: &Table) {
    let head = |n: usize| {
        let column = &table.columns[n];
        let unit =
            if column.unit.is_empty() { String::new() } else { format!(" ({})", column.unit) };
        format!("{}{unit}", column.name.replace('_', " ").to_uppercase())
    };
    let rows: Vec<Vec<String>> =
        table.rows.iter().map(|row| row.iter().map(written).collect()).collect();
    let widths: Vec<usize> = (0..table.columns.len())
        .map(|n| {
            let cells = rows.iter().filter_map(|row| row.get(n)).map(|text| text.chars().count());
            cells.chain([head(n).chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let numeric = |n: usize| {
        table.rows.iter().all(|row| !matches!(row.get(n), Some(Value::Text(_))))
            && !table.rows.is_empty()
    };
    let mut put = |cells: Vec<String>| {
        let mut text = String::new();
        for (n, cell) in cells.iter().enumerate() {
            let gap = " ".repeat(widths[n].saturating_sub(cell.chars().count()));
            let (before, after) = if numeric(n) { (gap.as_str(), "") } else { ("", gap.as_str()) };
            append(&mut text, format_args!("{before}{cell}{after}  "));
        }
        line(out, text.trim_end());
    };
    put((0..table.columns.len()).map(head).collect());
    rows.into_iter().for_each(put);
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn append(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes all that is written to it");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Column;

    #[test]
    fn numbers_are_to_the_right_names_to_the_left_and_the_origin_comes_last() {
        let answer = Answer {
            question: "compact".into(),
            provenance: Provenance {
                version: "1".into(),
                source: "made up".into(),
                digest: "00ff".into(),
                seeds: vec![1, 2, 3],
                parameters: vec![("policy".into(), "hybrid".into())],
                notes: vec!["1 rows skipped".into()],
            },
            summary: vec!["It fits.".into()],
            tables: vec![Table {
                name: "t".into(),
                title: "By shape".into(),
                columns: vec![Column::plain("shape"), Column::of("cpu_asked", "millicores")],
                rows: vec![
                    vec!["large\n one".into(), Value::Count(7)],
                    vec!["s".into(), Value::Number(1_234.5, 1)],
                ],
            }],
            charts: Vec::new(),
        };
        assert_eq!(
            text(&answer),
            "It fits.\n\nBy shape\nSHAPE       CPU ASKED (millicores)\nlarge  one                       7\n\
             s                           1234.5\n\nNote: 1 rows skipped.\nfauxmaster 1; made up, 00ff; seeds 1 to 3; policy hybrid\n"
        );
    }
}
