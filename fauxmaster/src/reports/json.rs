//! For programs: one document, a table as a list of objects by the names of its columns.

use super::written;
use crate::answer::{Answer, Table, Value};
use serde_json::{Map, Number, Value as Json, json};

/// An answer as JSON, over several lines.
#[must_use]
pub fn json(answer: &Answer) -> String {
    let tables: Map<String, Json> =
        answer.tables.iter().map(|one| (one.name.clone(), rows(one))).collect();
    let parameters: Map<String, Json> = answer
        .provenance
        .parameters
        .iter()
        .map(|(name, value)| (name.clone(), Json::String(value.clone())))
        .collect();
    let document = json!({
        "question": answer.question,
        "summary": answer.summary,
        "tables": tables,
        "provenance": {
            "version": answer.provenance.version,
            "source": answer.provenance.source,
            "digest": answer.provenance.digest,
            "seeds": answer.provenance.seeds,
            "parameters": parameters,
            "notes": answer.provenance.notes,
        },
    });
    format!("{document:#}\n")
}

fn rows(table: &Table) -> Json {
    let row = |row: &Vec<Value>| {
        let fields = table.columns.iter().zip(row);
        Json::Object(fields.map(|(column, cell)| (column.key(), value(cell))).collect())
    };
    Json::Array(table.rows.iter().map(row).collect())
}

/// A number keeps the digits that it is told with.
fn value(cell: &Value) -> Json {
    match cell {
        Value::Text(text) => Json::String(text.clone()),
        Value::Count(count) => Json::from(*count),
        Value::Number(..) => {
            let number = written(cell).parse().ok().and_then(Number::from_f64);
            number.map_or(Json::Null, Json::Number)
        }
        Value::Nothing => Json::Null,
    }
}
