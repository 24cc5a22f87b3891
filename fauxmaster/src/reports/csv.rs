//! For spreadsheets: RFC 4180, a line of names and a line for each row. Where it comes from stands before, in lines
//! that begin with `#`.

use super::{text, written};
use crate::answer::{Answer, Table};

/// All tables of an answer, one after the other, an empty line between them.
#[must_use]
pub fn csv(answer: &Answer) -> String {
    let mut out = format!("# {}\r\n", text::origin(&answer.provenance));
    for (n, one) in answer.tables.iter().enumerate() {
        if answer.tables.len() > 1 {
            let gap = if n > 0 { "\r\n" } else { "" };
            out.push_str(&format!("{gap}# {}\r\n", one.name));
        }
        out.push_str(&table(one));
    }
    out
}

/// One table.
#[must_use]
pub fn table(table: &Table) -> String {
    let mut out = String::new();
    let mut put = |cells: Vec<String>| {
        out.push_str(&cells.iter().map(|cell| field(cell)).collect::<Vec<_>>().join(","));
        out.push_str("\r\n");
    };
    put(table.columns.iter().map(|column| column.name.clone()).collect());
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
    use crate::answer::{Column, Value};

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
