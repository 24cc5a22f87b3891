//! The same specification as JSON: one job, or a list of jobs.
//!
//! Stricter than most readers: a field that is unknown or there twice is an error, because a
//! quiet choice between two values is how the wrong one gets run.

use super::{ConfigError, Evaluated, did_you_mean};
use borg_proto::JobSpec;
use borg_proto::names::shorten;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeSet;
use std::fmt;

/// Parses a text.
pub(super) fn parse(file: &str, text: &str) -> Result<Evaluated, ConfigError> {
    let blame = |error: &serde_json::Error| {
        ConfigError::at(file, text, error.line(), error.column().max(1), explain(error))
    };
    serde_json::from_str::<NoDuplicates>(text).map_err(|error| blame(&error))?;
    let many = text.trim_start().starts_with('[');
    let jobs: Vec<JobSpec> = if many {
        serde_json::from_str(text).map_err(|error| blame(&error))?
    } else {
        vec![serde_json::from_str(text).map_err(|error| blame(&error))?]
    };
    if jobs.is_empty() {
        return Err(ConfigError::whole(file, "has no job"));
    }
    for (i, job) in jobs.iter().enumerate() {
        let prefix = if many { format!("[{i}].") } else { String::new() };
        job.check().map_err(|error| ConfigError::whole(file, format!("{prefix}{error}")))?;
    }
    Ok(Evaluated { jobs, printed: Vec::new() })
}

/// serde's text without its own place, and with the field that was probably meant.
fn explain(error: &serde_json::Error) -> String {
    let whole = error.to_string();
    let text = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(text, _)| text);
    let mut quoted = text.split('`').skip(1).step_by(2);
    let guess = if text.starts_with("unknown field") || text.starts_with("unknown variant") {
        quoted.next().and_then(|wrong| did_you_mean(wrong, quoted))
    } else {
        None
    };
    let mut shown: String = text.chars().take(400).collect();
    if let Some(guess) = guess {
        shown.push_str(&format!("; did you mean `{guess}`?"));
    }
    shown
}

/// Any JSON value in which no object has a field twice.
struct NoDuplicates;

impl<'de> Deserialize<'de> for NoDuplicates {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Walk)
    }
}

struct Walk;

impl<'de> Visitor<'de> for Walk {
    type Value = NoDuplicates;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<NoDuplicates, E> {
        Ok(NoDuplicates)
    }
    fn visit_i64<E>(self, _: i64) -> Result<NoDuplicates, E> {
        Ok(NoDuplicates)
    }
    fn visit_u64<E>(self, _: u64) -> Result<NoDuplicates, E> {
        Ok(NoDuplicates)
    }
    fn visit_f64<E>(self, _: f64) -> Result<NoDuplicates, E> {
        Ok(NoDuplicates)
    }
    fn visit_str<E>(self, _: &str) -> Result<NoDuplicates, E> {
        Ok(NoDuplicates)
    }
    fn visit_unit<E>(self) -> Result<NoDuplicates, E> {
        Ok(NoDuplicates)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<NoDuplicates, A::Error> {
        while items.next_element::<NoDuplicates>()?.is_some() {}
        Ok(NoDuplicates)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<NoDuplicates, A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = fields.next_key::<String>()? {
            if seen.contains(&key) {
                return Err(A::Error::custom(format!("field `{}` is there twice", shorten(&key))));
            }
            seen.insert(key);
            fields.next_value::<NoDuplicates>()?;
        }
        Ok(NoDuplicates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"name":"web","kind":"service","task":{"command":["/bin/true"],"limit":{"cpu_milli":100,"ram_bytes":10485760}}}"#;

    fn error(text: &str) -> String {
        parse("job.json", text).unwrap_err().to_string()
    }

    #[test]
    fn one_job_or_a_list_of_jobs_is_accepted() {
        assert_eq!(parse("job.json", GOOD).unwrap().jobs.len(), 1);
        assert_eq!(parse("job.json", &format!("[{GOOD},{GOOD}]")).unwrap().jobs.len(), 2);
        assert_eq!(error("[]"), "job.json: has no job");
    }

    #[test]
    fn bad_json_is_refused_with_line_column_and_reason() {
        assert!(error("{\n  \"name\": ").starts_with("job.json:2:10: EOF while parsing"));
        assert!(error(&GOOD.replace("\"kind\"", "\"kin\"")).contains("unknown field `kin`"));
        assert!(error(&GOOD.replace("\"kind\"", "\"kin\"")).ends_with("did you mean `kind`?"));
        assert!(error(&GOOD.replace("100", "0.5")).contains("floating point `0.5`, expected u64"));
        assert!(error(&GOOD.replace("100", "-1")).contains("integer `-1`, expected u64"));
        assert!(error(&GOOD.replace("100", "\"lots\"")).contains("string \"lots\", expected u64"));
        assert!(error(&GOOD.replace("100", "1e99")).contains("expected u64"));
        assert_eq!(
            error(&GOOD.replace("100", "0")),
            "job.json: task.limit.cpu_milli: 0 is outside 1 to 10000000"
        );
        assert!(
            error(&GOOD.replace("\"web\"", "\"a/b\"")).contains("job name \"a/b\" has a character")
        );
        assert!(
            error(&GOOD.replace("\"web\"", &format!("\"{}\"", "x".repeat(10_240)))).len() < 300
        );
        assert!(error(&"[".repeat(100_000)).contains("recursion limit"));
        assert!(error("[1").starts_with("job.json:1:2: EOF"));
        assert!(error(&format!("{GOOD}x")).contains("trailing characters"));
    }

    #[test]
    fn a_field_that_is_there_twice_is_refused_even_in_an_environment() {
        assert!(
            error(&GOOD.replace("{\"name\"", "{\"name\":\"a\",\"name\""))
                .contains("field `name` is there twice")
        );
        let env = GOOD.replace("\"command\"", "\"env\":{\"A\":\"1\",\"A\":\"2\"},\"command\"");
        assert!(
            error(&env).starts_with("job.json:1:")
                && error(&env).contains("field `A` is there twice")
        );
    }
}
