//! What is wrong with a message, by field, and the checks that every noun shares.

use crate::names::{NameError, shorten};
use crate::priority::PriorityError;
use crate::spec::SpecError;

/// A field of a message that is missing or out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value} {why}")]
pub struct WireError {
    /// Path of the field, as in `spec.task.ports[2]`.
    pub field: String,
    /// What it was, shortened.
    pub value: String,
    /// What is allowed.
    pub why: String,
}

impl WireError {
    /// An error about one field. The value is shortened here.
    pub fn new(field: impl Into<String>, value: impl ToString, why: impl Into<String>) -> Self {
        Self { field: field.into(), value: shorten(&value.to_string()), why: why.into() }
    }

    /// The same error, seen from the message that holds this one in the field `parent`.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        let joint = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        self.field = format!("{parent}{joint}{}", self.field);
        self
    }
}

impl From<NameError> for WireError {
    fn from(error: NameError) -> Self {
        let value = format!("{:?}", error.value);
        let text = error.to_string();
        let why =
            text.strip_prefix(&format!("{} {value} ", error.what)).unwrap_or(&text).to_owned();
        // Shortened already, by the name; a second time would cut the length that it tells.
        Self { field: String::new(), value, why }
    }
}

impl From<SpecError> for WireError {
    fn from(SpecError { field, value, why }: SpecError) -> Self {
        Self { field, value, why }
    }
}

impl From<PriorityError> for WireError {
    fn from(error: PriorityError) -> Self {
        let text = error.to_string();
        let why = text.strip_prefix(&format!("priority {} ", error.0)).unwrap_or(&text);
        Self::new("", error.0, why)
    }
}

/// Says in which field a check failed.
pub(super) trait At<T> {
    /// Puts the field's path before the error's own.
    fn at(self, field: &str) -> Result<T, WireError>;
}

impl<T, E: Into<WireError>> At<T> for Result<T, E> {
    fn at(self, field: &str) -> Result<T, WireError> {
        self.map_err(|error| error.into().within(field))
    }
}

/// A message field that must be there.
pub(super) fn required<T>(field: &str, value: Option<T>) -> Result<T, WireError> {
    value.ok_or_else(|| WireError::new(field, "nothing", "is given, but it is required"))
}

/// A list of at most `most` entries.
pub(super) fn check_len(field: &str, len: usize, most: usize) -> Result<(), WireError> {
    if len <= most {
        return Ok(());
    }
    Err(WireError::new(field, format!("{len} entries"), format!("are more than {most}")))
}

/// Converts a list of at most `most` entries; an error names the entry.
pub(super) fn each<T, U, E: Into<WireError>>(
    field: &str,
    items: Vec<T>,
    most: usize,
    convert: impl Fn(T) -> Result<U, E>,
) -> Result<Vec<U>, WireError> {
    check_len(field, items.len(), most)?;
    let entry = |(i, item)| convert(item).map_err(|e| e.into().within(&format!("{field}[{i}]")));
    items.into_iter().enumerate().map(entry).collect()
}

/// A number from `least` to `most`.
pub(super) fn check_range(field: &str, value: u64, least: u64, most: u64) -> Result<(), WireError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(WireError::new(field, value, format!("is outside {least} to {most}")))
}

/// A line of text of at most `most` bytes, without control characters.
pub(super) fn check_line(field: &str, text: &str, most: usize) -> Result<(), WireError> {
    if text.len() > most {
        // Shortened here: a second time would cut the length that it tells.
        return Err(WireError {
            field: field.to_owned(),
            value: format!("{:?}", shorten(text)),
            why: format!("is longer than {most} bytes"),
        });
    }
    if text.chars().any(char::is_control) {
        return Err(WireError::new(field, format!("{text:?}"), "has a control character"));
    }
    Ok(())
}

/// A TCP port that something can listen on.
pub(super) fn port(value: u32) -> Result<u16, WireError> {
    u16::try_from(value)
        .ok()
        .filter(|&port| port > 0)
        .ok_or_else(|| WireError::new("", value, "is not a port: 1 to 65535"))
}

/// A list that is ordered by a key, each key once.
pub(super) fn check_ordered<T, K: Ord + ToString>(
    field: &str,
    items: &[T],
    key: impl Fn(&T) -> K,
) -> Result<(), WireError> {
    match items.windows(2).position(|pair| key(&pair[0]) >= key(&pair[1])) {
        None => Ok(()),
        Some(i) => Err(WireError::new(
            format!("{field}[{}]", i + 1),
            key(&items[i + 1]),
            format!("comes after {}: the list is ordered, each once", key(&items[i]).to_string()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::JobName;

    #[test]
    fn paths_nest_with_dots_and_indexes() {
        let error = WireError::new("ports[2]", 70_000, "is bad").within("task").within("spec");
        assert_eq!(error.to_string(), "spec.task.ports[2]: 70000 is bad");
        let listed = each("jobs", vec!["ok", "No"], 9, JobName::new).unwrap_err().within("x");
        assert_eq!(listed.field, "x.jobs[1]");
        assert_eq!(listed.value, "\"No\"");
        assert!(
            listed.why.starts_with("has a character that is not allowed; allowed are"),
            "{listed}"
        );
    }

    #[test]
    fn a_value_of_ten_kilobytes_is_shortened_in_its_error() {
        let error: WireError = JobName::new(&"x".repeat(10_240)).unwrap_err().into();
        assert!(error.to_string().len() < 300, "{error}");
        assert!(error.value.contains("10240 bytes"), "{error}");
    }
}
