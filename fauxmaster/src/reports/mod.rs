//! How answers look. Each module is one form; equal answers give equal bytes in all of them.

pub mod csv;
pub mod html;
pub mod json;
pub mod svg;
pub mod text;
pub mod write;

use crate::answer::Value;

/// A value as it is written in text and CSV.
#[must_use]
pub fn written(value: &Value) -> String {
    match value {
        Value::Text(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        Value::Count(count) => count.to_string(),
        Value::Number(number, digits) => format!("{number:.*}", usize::from(*digits)),
        Value::Nothing => String::new(),
    }
}
