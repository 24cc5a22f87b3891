//! Reading the fields of a constructor's call: names, types and bounds, with errors that say
//! which field, what it was and what is allowed.
//!
//! Each reader takes its field out, so that what is left over at the end is unknown.

use super::did_you_mean;
use super::units::{self, Inexact};
use borg_proto::Millis;
use borg_proto::names::shorten;
use borg_proto::spec::{MAX_BYTES, MAX_CPU_MILLI, MAX_LIST, MIN_CPU_MILLI};
use starlark::collections::SmallMap;
use starlark::values::dict::DictRef;
use starlark::values::float::StarlarkFloat;
use starlark::values::list_or_tuple::UnpackListOrTuple;
use starlark::values::{UnpackValue, Value, ValueLike};
use std::collections::BTreeMap;

/// A field that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(super) struct FieldError {
    /// The name to look for in the source of the call, when there is one.
    pub(super) field: Option<String>,
    /// What to say.
    pub(super) text: String,
}

impl From<FieldError> for starlark::Error {
    fn from(error: FieldError) -> Self {
        Self::new_other(error)
    }
}

/// The fields given in one call of a constructor.
pub(super) struct Fields<'v> {
    constructor: &'static str,
    given: SmallMap<String, Value<'v>>,
}

impl<'v> Fields<'v> {
    /// Takes a call apart. Positional values belong to the first `positional` of `known`.
    pub(super) fn new(
        constructor: &'static str,
        known: &[&'static str],
        positional: usize,
        args: Vec<Value<'v>>,
        named: SmallMap<String, Value<'v>>,
    ) -> Result<Self, FieldError> {
        let refuse =
            |field: Option<&str>, text| Err(FieldError { field: field.map(str::to_owned), text });
        if args.len() > positional {
            let text = match positional {
                0 => format!(
                    "{constructor}: fields are named, as in {constructor}({} = ...)",
                    known[0]
                ),
                most => format!(
                    "{constructor}: {} values without a name, at most {most} go",
                    args.len()
                ),
            };
            return refuse(None, text);
        }
        let mut given = SmallMap::new();
        for (name, value) in known.iter().zip(args) {
            given.insert((*name).to_owned(), value);
        }
        for (name, value) in named {
            if !known.contains(&name.as_str()) {
                let shown = shorten(&name);
                let hint = match did_you_mean(&name, known.iter().copied()) {
                    Some(guess) => format!("did you mean {guess}?"),
                    None => format!("it has {}", known.join(", ")),
                };
                return refuse(Some(&name), format!("{constructor} has no field {shown}; {hint}"));
            }
            if given.contains_key(&name) {
                return refuse(Some(&name), format!("{constructor}.{name} is given twice"));
            }
            given.insert(name, value);
        }
        given.retain(|_, value| !value.is_none());
        Ok(Self { constructor, given })
    }

    /// Whether the field was given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The field's value, which no later call sees.
    pub(super) fn take(&mut self, name: &str) -> Option<Value<'v>> {
        self.given.shift_remove(name)
    }

    /// Gives a taken value back.
    pub(super) fn put(&mut self, name: &str, value: Value<'v>) {
        self.given.insert(name.to_owned(), value);
    }

    /// An error at a field.
    pub(super) fn error(&self, name: &str, why: impl std::fmt::Display) -> FieldError {
        FieldError {
            field: Some(name.to_owned()),
            text: format!("{}.{name}: {why}", self.constructor),
        }
    }

    /// The error for a field that must be given.
    pub(super) fn missing(&self, name: &str, example: &str) -> FieldError {
        FieldError {
            field: None,
            text: format!("{} needs {name}, as in {example}", self.constructor),
        }
    }

    /// A text.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, FieldError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let text = as_text(value).map_err(|why| self.error(name, why))?;
        Ok(Some(text))
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, name: &str) -> Result<Vec<String>, FieldError> {
        let items = self.items(name)?;
        let texts = items
            .into_iter()
            .enumerate()
            .map(|(i, item)| as_text(item).map_err(|why| self.error(name, format!("[{i}] {why}"))));
        texts.collect()
    }

    /// The members of a list or tuple, at most [`MAX_LIST`].
    pub(super) fn items(&mut self, name: &str) -> Result<Vec<Value<'v>>, FieldError> {
        let Some(value) = self.take(name) else { return Ok(Vec::new()) };
        let list = UnpackListOrTuple::<Value<'v>>::unpack_value(value).ok().flatten();
        let Some(list) = list else {
            return Err(self.error(name, format!("{} is not a list, as in [...]", show(value))));
        };
        if list.items.len() > MAX_LIST {
            return Err(
                self.error(name, format!("{} entries are more than {MAX_LIST}", list.items.len()))
            );
        }
        Ok(list.items)
    }

    /// A dict of texts.
    pub(super) fn pairs(&mut self, name: &str) -> Result<BTreeMap<String, String>, FieldError> {
        let mut pairs = BTreeMap::new();
        for (key, value) in self.entries(name)? {
            let text = as_text(value)
                .map_err(|why| self.error(name, format!("{} {why}", shorten(&key))))?;
            pairs.insert(key, text);
        }
        Ok(pairs)
    }

    /// A dict with texts as keys, at most [`MAX_LIST`] entries.
    pub(super) fn entries(&mut self, name: &str) -> Result<Vec<(String, Value<'v>)>, FieldError> {
        let Some(value) = self.take(name) else { return Ok(Vec::new()) };
        let Some(dict) = DictRef::from_value(value) else {
            return Err(self.error(
                name,
                format!("{} is not a dict, as in {{\"key\": \"value\"}}", show(value)),
            ));
        };
        let entries: Vec<_> = dict.iter().collect();
        if entries.len() > MAX_LIST {
            return Err(
                self.error(name, format!("{} entries are more than {MAX_LIST}", entries.len()))
            );
        }
        let keyed = entries.into_iter().map(|(key, value)| {
            as_text(key)
                .map(|key| (key, value))
                .map_err(|why| self.error(name, format!("key {why}")))
        });
        keyed.collect()
    }

    /// True or false.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool, FieldError> {
        let Some(value) = self.take(name) else { return Ok(false) };
        value
            .unpack_bool()
            .ok_or_else(|| self.error(name, format!("{} is not True or False", show(value))))
    }

    /// A whole number within bounds.
    pub(super) fn whole(
        &mut self,
        name: &str,
        least: u32,
        most: u32,
    ) -> Result<Option<u32>, FieldError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let Some(number) = as_whole(value) else {
            return Err(self.error(name, format!("{} is not a whole number", show(value))));
        };
        let fits = u32::try_from(number).ok().filter(|n| (least..=most).contains(n));
        fits.map(Some).ok_or_else(|| {
            self.error(name, format!("{} is outside {least} to {most}", show(value)))
        })
    }

    /// An amount of processors in cores; the result in thousandths.
    pub(super) fn cores(&mut self, name: &str) -> Result<Option<u64>, FieldError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let most = MAX_CPU_MILLI / 1000;
        let outside =
            || self.error(name, format!("{} is outside 0.001 to {most} cores", show(value)));
        match thousandths(value) {
            Ok(milli) if (MIN_CPU_MILLI..=MAX_CPU_MILLI).contains(&milli) => Ok(Some(milli)),
            Ok(_) | Err(Inexact::Negative | Inexact::TooLarge) => Err(outside()),
            Err(Inexact::TooFine) => Err(self.error(
                name,
                format!("{} cores: the smallest amount and step is 0.001", show(value)),
            )),
            Err(Inexact::NotANumber) => {
                Err(self
                    .error(name, format!("{} is not a number of cores, as in 0.5", show(value))))
            }
        }
    }

    /// A size in bytes.
    pub(super) fn bytes(&mut self, name: &str, least: u64) -> Result<Option<u64>, FieldError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let Some(number) = as_whole(value) else {
            return Err(self.error(
                name,
                format!("{} is not a whole number of bytes, as in 100*MiB", show(value)),
            ));
        };
        let fits = u64::try_from(number).ok().filter(|n| (least..=MAX_BYTES).contains(n));
        fits.map(Some).ok_or_else(|| {
            let least = if least == 0 { "0" } else { "4*MiB" };
            self.error(name, format!("{} bytes are outside {least} to 1024*TiB", show(value)))
        })
    }

    /// A length of time: text with a unit, or a number of seconds.
    pub(super) fn time(&mut self, name: &str, most: Millis) -> Result<Option<Millis>, FieldError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let time = match value.unpack_str() {
            Some(text) => units::duration(text).map_err(|why| self.error(name, why))?,
            None => Millis(thousandths(value).map_err(|_| {
                self.error(
                    name,
                    format!("{} is not a time, as in \"10s\" or a number of seconds", show(value)),
                )
            })?),
        };
        if time > most {
            return Err(
                self.error(name, format!("{} is more than {} s", show(value), most.0 / 1000))
            );
        }
        Ok(Some(time))
    }
}

/// A value for an error message: short, whatever it is.
pub(super) fn show(value: Value<'_>) -> String {
    match value.get_type() {
        "string" | "int" | "float" | "bool" => shorten(&value.to_repr()),
        "list" => "a list".into(),
        "dict" => "a dict".into(),
        "function" => "a function (was it called, with parentheses?)".into(),
        other => format!("a value of type {other}"),
    }
}

fn as_text(value: Value<'_>) -> Result<String, String> {
    match value.unpack_str() {
        Some(text) => Ok(text.to_owned()),
        None if matches!(value.get_type(), "int" | "float") => {
            Err(format!("{} is a number, not a text: put it in quotes", show(value)))
        }
        None => Err(format!("{} is not a text", show(value))),
    }
}

/// A number's decimal digits: what a person would write, without an exponent.
fn digits(value: Value<'_>) -> Option<String> {
    match value.get_type() {
        "int" => Some(value.to_repr()),
        "float" => value.downcast_ref::<StarlarkFloat>().map(|float| float.0.to_string()),
        _ => None,
    }
}

fn as_whole(value: Value<'_>) -> Option<i128> {
    digits(value)?.parse().ok().or_else(|| {
        // A whole number of more than 128 bits is still a whole number: out of every range.
        (value.get_type() == "int").then_some(i128::MAX)
    })
}

/// A number's thousandths, exactly.
pub(super) fn thousandths(value: Value<'_>) -> Result<u64, Inexact> {
    digits(value).map_or(Err(Inexact::NotANumber), |text| units::thousandths(&text))
}
