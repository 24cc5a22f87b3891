//! For spreadsheets: RFC 4180, a line of names and a line for each row. Where it comes from stands before, in lines
//! that begin with `#`.

use super::{text, written};
use crate::answer::{Answer, Chart, Column, Provenance, Series, Spread, Table, Value};

/// All tables of an answer, one after the other, an empty line between them.
#[must_use]
pub fn csv(answer: &Answer) -> String {
    let mut out = origin(&answer.provenance);
    for (n, one) in answer.tables.iter().enumerate() {
        if answer.tables.len() > 1 {
            let gap = if n > 0 { "\r\n" } else { "" };
            out.push_str(&format!("{gap}# {}\r\n", one.name));
        }
        out.push_str(&table(one));
    }
    out
}

/// One table as a file of its own, with where it comes from.
#[must_use]
pub fn file(one: &Table, provenance: &Provenance) -> String {
    origin(provenance) + &table(one)
}

fn origin(provenance: &Provenance) -> String {
    let told = provenance.notes.iter().map(|note| format!("Note: {note}."));
    let lines = [text::origin(provenance)].into_iter().chain(told);
    lines.map(|text| format!("# {}\r\n", written(&Value::Text(text)))).collect()
}

/// The data of a chart as a table.
#[must_use]
pub fn of_chart(chart: &Chart) -> Table {
    let (name, title, columns, rows) = match chart {
        Chart::Lines { name, title, x, y, series, .. } => {
            let columns = vec![
                Column::plain("series"),
                Column::of("x", &x.unit),
                Column::of("y", &y.unit),
                Column::of("least", &y.unit),
                Column::of("most", &y.unit),
            ];
            (name, title, columns, series.iter().flat_map(points).collect())
        }
        Chart::Heat { name, title, counts, .. } => {
            let columns = ["row_from_bottom", "column", "count"].map(Column::plain).into();
            (name, title, columns, fields(counts))
        }
        Chart::Boxes { name, title, y, boxes } => {
            let columns =
                vec![Column::plain("name"), Column::plain("sample"), Column::of("value", &y.unit)];
            (name, title, columns, boxes.iter().flat_map(samples).collect())
        }
        Chart::Bars { name, title, y, parts, bars, .. } => {
            let columns =
                vec![Column::plain("name"), Column::plain("part"), Column::of("amount", &y.unit)];
            let row = |(name, amounts): &(String, Vec<f64>)| {
                let named = name.clone();
                parts
                    .iter()
                    .zip(amounts.clone())
                    .map(move |(part, amount)| {
                        vec![named.clone().into(), part.clone().into(), exact(amount)]
                    })
                    .collect::<Vec<_>>()
            };
            (name, title, columns, bars.iter().flat_map(row).collect())
        }
    };
    Table { name: name.clone(), title: title.clone(), columns, rows }
}

fn points(series: &Series) -> impl Iterator<Item = Vec<Value>> + '_ {
    series.points.iter().map(|point| {
        let (least, most) = point
            .between
            .map_or((Value::Nothing, Value::Nothing), |(least, most)| (exact(least), exact(most)));
        vec![series.name.clone().into(), exact(point.x), exact(point.y), least, most]
    })
}

fn fields(counts: &[Vec<u64>]) -> Vec<Vec<Value>> {
    let rows = (0u64..).zip(counts);
    let field = |row: u64, of_row: &[u64]| -> Vec<Vec<Value>> {
        (0u64..)
            .zip(of_row)
            .map(|(column, count)| vec![row.into(), column.into(), (*count).into()])
            .collect()
    };
    rows.flat_map(|(row, of_row)| field(row, of_row)).collect()
}

fn samples(spread: &Spread) -> impl Iterator<Item = Vec<Value>> + '_ {
    let numbered = (0u64..).zip(&spread.samples).map(|(n, sample)| (n.into(), *sample));
    let bound = spread.bound.map(|bound| (Value::from("bound"), bound));
    numbered.chain(bound).map(|(n, value)| vec![spread.name.clone().into(), n, exact(value)])
}

/// A number of a chart with all its digits; nothing where it is none.
fn exact(number: f64) -> Value {
    if number.is_finite() { Value::Text(number.to_string()) } else { Value::Nothing }
}

/// One table.
#[must_use]
pub fn table(table: &Table) -> String {
    let mut out = String::new();
    let mut put = |cells: Vec<String>| {
        out.push_str(&cells.iter().map(|cell| field(cell)).collect::<Vec<_>>().join(","));
        out.push_str("\r\n");
    };
    put(table.columns.iter().map(Column::key).collect());
    table.rows.iter().for_each(|row| put(row.iter().map(written).collect()));
    out
}

/// Quoted where it has to be. What a spreadsheet would take for a formula gets an apostrophe before it.
fn field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '@'])
        || (text.starts_with('-') && text.parse::<f64>().is_err());
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_a_row_is_quoted_and_formulas_are_disarmed() {
        let one = Table {
            name: "t".into(),
            title: String::new(),
            columns: vec![Column::plain("name"), Column::plain("n")],
            rows: vec![
                vec!["a,\"b\"".into(), Value::Number(-1.5, 2)],
                vec!["=cmd()".into(), Value::Nothing],
            ],
        };
        assert_eq!(table(&one), "name,n\r\n\"a,\"\"b\"\"\",-1.50\r\n'=cmd(),\r\n");
    }
}
