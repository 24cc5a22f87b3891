//! Amounts as people write them, turned into whole numbers without loss.
//!
//! `0.5` becomes 500 thousandths by its decimal digits, never by floating-point arithmetic, so
//! what is written is what the cell reckons with; an amount that is finer than the cell counts is
//! an error.

use borg_proto::Millis;
use borg_proto::names::shorten;
use std::time::Duration;

/// Units of size for configuration, in bytes.
pub(crate) const SIZES: [(&str, i64); 8] = [
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Why a decimal text is not a whole number of thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inexact {
    /// It is below zero.
    Negative,
    /// It has more than three digits after the point.
    TooFine,
    /// It has too many digits before the point.
    TooLarge,
    /// It is not a number.
    NotANumber,
}

/// Thousandths of a decimal text such as `0.25`.
pub(crate) fn thousandths(text: &str) -> Result<u64, Inexact> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return Err(Inexact::NotANumber);
    }
    let fraction = fraction.trim_end_matches('0');
    if negative && whole.bytes().chain(fraction.bytes()).any(|b| b != b'0') {
        return Err(Inexact::Negative);
    }
    if fraction.len() > 3 {
        return Err(Inexact::TooFine);
    }
    let parsed: Result<u64, _> = format!("{whole}{fraction:0<3}").parse();
    parsed.map_err(|_| Inexact::TooLarge)
}

/// Bytes of a size such as `1.5GiB` or `7`; `None` when it is none, or not a whole number of bytes.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let unit = SIZES.iter().find_map(|(name, bytes)| Some((text.strip_suffix(name)?, *bytes)));
    let (number, unit) = unit.unwrap_or((text, 1));
    let scaled = u128::from(thousandths(number).ok()?) * u128::try_from(unit).ok()?;
    scaled.is_multiple_of(1_000).then(|| u64::try_from(scaled / 1_000).ok())?
}

/// A length of time as text: `90s`, `1h 30m`, `500ms`.
pub(crate) fn duration(text: &str) -> Result<Millis, String> {
    let example = "a time, as in \"500ms\", \"90s\", \"1h 30m\" or a number of seconds";
    let parsed = humantime::parse_duration(text)
        .map_err(|_| format!("{:?} is not {example}", shorten(text)))?;
    if !parsed.subsec_nanos().is_multiple_of(1_000_000) {
        return Err(format!("{:?} is finer than a millisecond", shorten(text)));
    }
    u64::try_from(parsed.as_millis())
        .map(Millis)
        .map_err(|_| format!("{:?} is not {example}", shorten(text)))
}

/// A length of time within bounds, both of which are allowed.
pub(crate) fn duration_within(text: &str, least: Millis, most: Millis) -> Result<Millis, String> {
    let time = duration(text)?;
    if (least..=most).contains(&time) {
        return Ok(time);
    }
    let told = |time: Millis| humantime::format_duration(Duration::from_millis(time.0)).to_string();
    Err(format!("{:?} is outside {} to {}", shorten(text), told(least), told(most)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_become_thousandths_without_loss_or_not_at_all() {
        assert_eq!(thousandths("0.5"), Ok(500));
        assert_eq!(thousandths("0.001"), Ok(1));
        assert_eq!(thousandths("2"), Ok(2000));
        assert_eq!(thousandths("2.000"), Ok(2000));
        assert_eq!(thousandths("-0.0"), Ok(0));
        assert_eq!(thousandths("0.0001"), Err(Inexact::TooFine));
        assert_eq!(thousandths("-1"), Err(Inexact::Negative));
        assert_eq!(thousandths("99999999999999999999"), Err(Inexact::TooLarge));
        assert_eq!(thousandths("inf"), Err(Inexact::NotANumber));
        assert_eq!(thousandths("1e3"), Err(Inexact::NotANumber));
    }

    #[test]
    fn times_have_units_and_whole_milliseconds() {
        assert_eq!(duration("1h 30m"), Ok(Millis(5_400_000)));
        assert_eq!(duration("500ms"), Ok(Millis(500)));
        assert!(duration("500us").unwrap_err().contains("finer"));
        let within = |text| duration_within(text, Millis(0), Millis(86_400_000));
        assert_eq!(within("1d"), Ok(Millis(86_400_000)));
        assert_eq!(within("999999999h").unwrap_err(), "\"999999999h\" is outside 0s to 1day");
        assert!(duration("soon").unwrap_err().contains("\"soon\" is not a time"));
    }
}
