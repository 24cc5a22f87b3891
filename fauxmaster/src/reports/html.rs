//! One page that needs nothing else: the answer in words, the pictures, the tables, and where it all comes from.
//!
//! No script, no font, no picture from elsewhere; what a browser is allowed to fetch is nothing. All text of the
//! answer is escaped: names of jobs are chosen by users.

use super::svg::{self, escaped};
use super::{text, written};
use crate::answer::{Answer, Table, Value};

/// How the page looks.
const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1a1a1a;--page:#fff;--line:#ddd;--soft:#666}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e6;--page:#181a1b;--line:#3a3a3a;--soft:#9a9a9a}}\
body{margin:0 auto;max-width:1100px;padding:1.5rem;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}\
h1{font-size:1.5rem;margin:0 0 .5rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}\
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:1rem;margin:1.5rem 0}\
figure{margin:0;border:1px solid var(--line);border-radius:6px;overflow-x:auto}svg{display:block;width:100%;min-width:30rem;height:auto}\
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}\
th,td{padding:.25rem .75rem;border-bottom:1px solid var(--line);text-align:left;white-space:nowrap}\
td.n,th.n{text-align:right}footer{margin-top:2rem;color:var(--soft);font-size:.85rem;overflow-wrap:anywhere}";

/// Most rows of a table on the page; all are in the CSV beside it.
const MOST_ROWS: usize = 500;

/// An answer as a page.
#[must_use]
pub fn html(answer: &Answer) -> String {
    let title = format!("Fauxmaster: {}", answer.question);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{0}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{0}</h1>\n",
        escaped(&title)
    );
    for sentence in &answer.summary {
        out.push_str(&format!("<p>{}</p>\n", escaped(sentence)));
    }
    if !answer.charts.is_empty() {
        out.push_str("<div class=\"charts\">\n");
        for chart in &answer.charts {
            out.push_str(&format!("<figure>\n{}</figure>\n", svg::svg(chart)));
        }
        out.push_str("</div>\n");
    }
    answer.tables.iter().for_each(|one| table(&mut out, one));
    out.push_str("</main>\n<footer>");
    for note in &answer.provenance.notes {
        out.push_str(&format!("Note: {}.<br>\n", escaped(note)));
    }
    out.push_str(&format!(
        "{}</footer>\n</body>\n</html>\n",
        escaped(&text::origin(&answer.provenance))
    ));
    out
}

fn table(out: &mut String, table: &Table) {
    let class = |n: usize| {
        let text = table.rows.iter().any(|row| matches!(row.get(n), Some(Value::Text(_))));
        if text { "" } else { " class=\"n\"" }
    };
    out.push_str(&format!(
        "<h2>{}</h2>\n<div class=\"scroll\"><table>\n<tr>",
        escaped(&table.title)
    ));
    for (n, column) in table.columns.iter().enumerate() {
        let unit =
            if column.unit.is_empty() { String::new() } else { format!(" ({})", column.unit) };
        let head = format!("{}{unit}", column.name.replace('_', " "));
        out.push_str(&format!("<th{}>{}</th>", class(n), escaped(&head)));
    }
    out.push_str("</tr>\n");
    for row in table.rows.iter().take(MOST_ROWS) {
        out.push_str("<tr>");
        for (n, cell) in row.iter().enumerate() {
            out.push_str(&format!("<td{}>{}</td>", class(n), escaped(&written(cell))));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div>\n");
    if table.rows.is_empty() {
        out.push_str("<p>Nothing.</p>\n");
    }
    if table.rows.len() > MOST_ROWS {
        let left = table.rows.len() - MOST_ROWS;
        out.push_str(&format!("<p>{left} more rows are in {}.csv.</p>\n", escaped(&table.name)));
    }
}
