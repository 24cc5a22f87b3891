//! Which minutes of UTC are ticks: the five fields of cron, and arithmetic on the Gregorian calendar.
//!
//! Fields, names, ranges, steps and the rule for days are those of Vixie cron (crontab(5)): when both
//! day fields are restricted, a day needs to meet one of them. Time zones are left out: a day of 23 or
//! 25 hours has ticks that are not there, or are there twice.
//!
//! Invariant: some day within any 41 years meets the fields; else there is no [`Schedule`].

use crate::names::shorten;
use crate::time::Millis;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const MINUTE_MS: u64 = 60_000;
const MINUTES_A_DAY: u64 = 24 * 60;
/// How many days are looked at for a tick: 41 years, as a leap day is the same weekday again after 40 around
/// 2100.
const MOST_DAYS: u64 = 41 * 366;
/// Longest text of a schedule in bytes: our choice.
const MAX_TEXT: usize = 256;
/// The last moment for which ticks are looked for, the year 9999: what is later is never.
const LAST_DAY: u64 = 2_932_896;

/// A set of minutes of UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Schedule {
    /// As it was written.
    text: String,
    /// Bit N: the minute, hour, day of the month, month or weekday N, Sunday 0.
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether either day field begins with a star: then a day must meet both.
    both: bool,
}

/// A text that is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {why}")]
pub struct ScheduleError {
    /// From 1.
    pub at: usize,
    /// What is wrong, and what is allowed.
    pub why: String,
}

/// One of the five fields.
struct Field {
    name: &'static str,
    least: u64,
    most: u64,
    /// Names for values from `least` on.
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", least: 0, most: 59, names: &[] },
    Field { name: "hour", least: 0, most: 23, names: &[] },
    Field { name: "day of the month", least: 1, most: 31, names: &[] },
    Field {
        name: "month",
        least: 1,
        most: 12,
        names: &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
    },
    // 7 is Sunday too.
    Field {
        name: "weekday",
        least: 0,
        most: 7,
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    },
];

const SHORT: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

fn wrong<T>(at: usize, why: impl Into<String>) -> Result<T, ScheduleError> {
    Err(ScheduleError { at: at + 1, why: why.into() })
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        if text.len() > MAX_TEXT {
            return wrong(MAX_TEXT, format!("the schedule is longer than {MAX_TEXT} bytes"));
        }
        if let Some(at) = text.find(|c: char| !c.is_ascii() || c.is_ascii_control()) {
            return wrong(at, "only letters, digits and signs, with spaces between the fields");
        }
        let trimmed = text.trim();
        if trimmed.starts_with('@') {
            let Some((_, long)) = SHORT.iter().find(|(short, _)| *short == trimmed) else {
                let known: Vec<&str> = SHORT.iter().map(|(short, _)| *short).collect();
                let why =
                    format!("{} is unknown: there are {}", shorten(trimmed), known.join(", "));
                return wrong(text.find('@').unwrap_or(0), why);
            };
            return Ok(Self { text: text.to_owned(), ..long.parse()? });
        }
        let words = words(text);
        if let Some((at, word)) = words.first().filter(|(_, word)| word.contains('=')) {
            let why = format!("{}: schedules are in UTC, time zones are not known", shorten(word));
            return wrong(*at, why);
        }
        let Ok(fields) = <[(usize, &str); 5]>::try_from(words.as_slice()) else {
            let many = words.len();
            let seconds = if many == 6 { "; nothing fires more than once a minute" } else { "" };
            let at = words.get(5).map_or(text.len(), |(at, _)| *at);
            let why = format!(
                "five fields are needed, minute hour day month weekday, and there are {many}{seconds}"
            );
            return wrong(at, why);
        };
        let mut sets = [0; 5];
        for ((set, (at, word)), field) in sets.iter_mut().zip(fields).zip(&FIELDS) {
            *set = field.read(at, word)?;
        }
        let [minutes, hours, days, months, weekdays] = sets;
        let weekdays = (weekdays | weekdays >> 7) & 0x7f;
        let both = fields[2].1.starts_with('*') || fields[4].1.starts_with('*');
        let found = Self { text: text.to_owned(), minutes, hours, days, months, weekdays, both };
        if !found.ever() {
            let why = "never: none of these months has such a day";
            return wrong(fields[2].0, why);
        }
        Ok(found)
    }
}

/// The words of a text with where each begins.
fn words(text: &str) -> Vec<(usize, &str)> {
    let start = |word: &str| word.as_ptr() as usize - text.as_ptr() as usize;
    text.split_ascii_whitespace().map(|word| (start(word), word)).collect()
}

impl Field {
    /// `*`, `A`, `A-B`, each with `/STEP` or not, with commas between.
    fn read(&self, at: usize, word: &str) -> Result<u64, ScheduleError> {
        let mut set = 0;
        let mut begin = at;
        for item in word.split(',') {
            set |= self.item(begin, item)?;
            begin += item.len() + 1;
        }
        Ok(set)
    }

    fn item(&self, at: usize, item: &str) -> Result<u64, ScheduleError> {
        let (range, step) = match item.split_once('/') {
            None => (item, None),
            Some((range, step)) => (range, Some((at + range.len() + 1, step))),
        };
        let (from, to) = if range == "*" {
            (self.least, self.most - u64::from(self.most == 7))
        } else if let Some((first, last)) = range.split_once('-') {
            let (from, to) = (self.value(at, first)?, self.value(at + first.len() + 1, last)?);
            // As in FRI-SUN.
            let to = if self.most == 7 && to == 0 && from > 0 { 7 } else { to };
            if from > to {
                return wrong(at, format!("{} {from} to {to} goes backwards", self.name));
            }
            (from, to)
        } else {
            let from = self.value(at, range)?;
            (from, if step.is_some() { self.most - u64::from(self.most == 7) } else { from })
        };
        let step = match step {
            None => 1,
            Some((at, step)) => match number(step) {
                Some(step) if (1..=self.most).contains(&step) => step,
                Some(_) | None => {
                    let why = format!("step {} is not 1 to {}", shorten(step), self.most);
                    return wrong(at, why);
                }
            },
        };
        let mut set = 0;
        let mut value = from;
        while value <= to {
            set |= 1 << value;
            value += step;
        }
        Ok(set)
    }

    fn value(&self, at: usize, word: &str) -> Result<u64, ScheduleError> {
        let lower = word.to_ascii_lowercase();
        let named = self.names.iter().position(|name| **name == lower);
        if let Some(place) = named {
            return Ok(self.least + place as u64);
        }
        if word.is_empty() {
            return wrong(at, format!("there is no {} here", self.name));
        }
        let Some(value) = number(word) else {
            let or = if self.names.is_empty() { "" } else { " or a name of three letters" };
            return wrong(at, format!("{} {} is not a number{or}", self.name, shorten(word)));
        };
        if !(self.least..=self.most).contains(&value) {
            let (name, least, most) = (self.name, self.least, self.most);
            return wrong(at, format!("{name} {value} is outside {least} to {most}"));
        }
        Ok(value)
    }
}

fn number(word: &str) -> Option<u64> {
    let digits = (1..=4).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit());
    if digits { word.parse().ok() } else { None }
}

impl Schedule {
    /// The first tick after a moment; `None` after the year 9999.
    #[must_use]
    pub fn after(&self, moment: Millis) -> Option<Millis> {
        let minute = moment.0 / MINUTE_MS + 1;
        let (day, minute) = (minute / MINUTES_A_DAY, minute % MINUTES_A_DAY);
        if day > LAST_DAY {
            return None;
        }
        let later = self.in_day(minute, MINUTES_A_DAY - 1, true).filter(|_| self.has_day(day));
        let found = later.map(|minute| (day, minute)).or_else(|| {
            let last = (day + MOST_DAYS).min(LAST_DAY);
            let day = (day + 1..=last).find(|day| self.has_day(*day))?;
            Some((day, self.in_day(0, MINUTES_A_DAY - 1, true)?))
        });
        found.map(|(day, minute)| Millis((day * MINUTES_A_DAY + minute) * MINUTE_MS))
    }

    /// The last tick at a moment or before; `None` when there is none since 1970.
    #[must_use]
    pub fn until(&self, moment: Millis) -> Option<Millis> {
        let minute = moment.0 / MINUTE_MS;
        let (day, minute) = (minute / MINUTES_A_DAY, minute % MINUTES_A_DAY);
        if day > LAST_DAY {
            return None;
        }
        let earlier = self.in_day(0, minute, false).filter(|_| self.has_day(day));
        let found = earlier.map(|minute| (day, minute)).or_else(|| {
            let first = day.saturating_sub(MOST_DAYS);
            let day = (first..day).rev().find(|day| self.has_day(*day))?;
            Some((day, self.in_day(0, MINUTES_A_DAY - 1, false)?))
        });
        found.map(|(day, minute)| Millis((day * MINUTES_A_DAY + minute) * MINUTE_MS))
    }

    /// The first or last tick between two minutes of a day that has ticks.
    fn in_day(&self, from: u64, to: u64, first: bool) -> Option<u64> {
        let is = |minute: &u64| {
            self.hours >> (minute / 60) & 1 == 1 && self.minutes >> (minute % 60) & 1 == 1
        };
        if first { (from..=to).find(is) } else { (from..=to).rev().find(is) }
    }

    fn has_day(&self, day: u64) -> bool {
        let (month, of_month) = month_and_day(day);
        // 1970 began on a Thursday.
        let weekday = (day + 4) % 7;
        let (by_month, by_week) =
            (self.days >> of_month & 1 == 1, self.weekdays >> weekday & 1 == 1);
        let meets = if self.both { by_month && by_week } else { by_month || by_week };
        self.months >> month & 1 == 1 && meets
    }

    /// Whether any month of it has any day of it. By weekday alone every month does.
    fn ever(&self) -> bool {
        const LONGEST: [u64; 13] = [0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let of_month = |month: usize| self.days & ((1 << (LONGEST[month] + 1)) - 1) != 0;
        let mut months = (1..=12).filter(|month| self.months >> month & 1 == 1);
        months.any(|month| !self.both || of_month(month))
    }
}

/// Month and day of the month of a day since 1970. As in [`crate::time::Date`].
fn month_and_day(days: u64) -> (u64, u64) {
    let day = (days + 719_468) % 146_097;
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    ((month + 2) % 12 + 1, day - (153 * month + 2) / 5 + 1)
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Schedule {
    type Error = ScheduleError;
    fn try_from(text: String) -> Result<Self, ScheduleError> {
        text.parse()
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> Self {
        schedule.text
    }
}

#[cfg(test)]
mod tests;
