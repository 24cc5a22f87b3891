//! Names that people use, and the numbers that the cell uses for the same things.
//!
//! A name is short, lower case and safe in a path, a URL, a DNS label and a log line, because it
//! ends up in all of them.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name, in bytes: one DNS label (RFC 1035, section 2.3.4).
pub const MAX_NAME_BYTES: usize = 63;

/// A text that is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {value:?} {why}; allowed are 1 to 63 of a-z, 0-9, '-', '_', beginning with a letter or digit"
)]
pub struct NameError {
    /// Which kind of name was expected, as in "job name".
    pub what: &'static str,
    /// The offending text, shortened.
    pub value: String,
    /// What is wrong with it.
    pub why: &'static str,
}

fn check_name(what: &'static str, text: &str) -> Result<(), NameError> {
    let refuse = |why| Err(NameError { what, value: shorten(text), why });
    if text.is_empty() {
        return refuse("is empty");
    }
    if text.len() > MAX_NAME_BYTES {
        return refuse("is too long");
    }
    if !text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_')) {
        return refuse("has a character that is not allowed");
    }
    if !text.as_bytes()[0].is_ascii_alphanumeric() {
        return refuse("begins with a character that is not allowed there");
    }
    // A DNS label may not (RFC 1035, section 2.3.1), and TLS refuses to connect to such a name.
    if text.ends_with('-') {
        return refuse("ends with '-'");
    }
    Ok(())
}

/// Shortens text that came from outside so that it fits an error message.
#[must_use]
pub fn shorten(text: &str) -> String {
    const SHOWN: usize = 40;
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    let head: String = text.chars().take(SHOWN).collect();
    format!("{head}… ({} bytes)", text.len())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks and wraps a text.
            ///
            /// # Errors
            /// When the text is empty, too long, or has characters outside the allowed ones.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check_name($what, text)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type! {
    /// Name of a cell: a set of machines run as one.
    CellName, "cell name"
}
name_type! {
    /// Name of a person or program that owns jobs; comes from the client's certificate.
    UserName, "user name"
}
name_type! {
    /// Name of a job, unique per user.
    JobName, "job name"
}
name_type! {
    /// Name of a machine, unique in the cell.
    MachineName, "machine name"
}
name_type! {
    /// Name of a port of a task, as in `http`.
    PortName, "port name"
}

name_type! {
    /// Name of a package, unique per user and version.
    PackageName, "package name"
}

/// A job as people name it: `user/job`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobKey {
    /// Who owns it.
    pub user: UserName,
    /// Its name among that user's jobs.
    pub name: JobName,
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.user, self.name)
    }
}

impl FromStr for JobKey {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some((user, name)) = text.split_once('/') else {
            return Err(NameError { what: "job", value: shorten(text), why: "is not USER/JOB" });
        };
        Ok(Self { user: user.parse()?, name: name.parse()? })
    }
}

impl Serialize for JobKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A task as people name it: `user/job/index`. It names the slot, not one of its incarnations.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskName {
    /// The job it belongs to.
    pub job: JobKey,
    /// Which of the job's slots, from 0.
    pub index: u32,
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.job, self.index)
    }
}

impl FromStr for TaskName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let refuse =
            || NameError { what: "task", value: shorten(text), why: "is not USER/JOB/INDEX" };
        let (job, index) = text.rsplit_once('/').ok_or_else(refuse)?;
        Ok(Self { job: job.parse()?, index: index.parse().map_err(|_| refuse())? })
    }
}

/// One of the masters, as in the Raft log. The low 16 bits are its number, from 1, which people use
/// and its certificate names. The rest counts lives: a master that lost its log comes back under
/// its number in another life, so that nothing which it has forgotten counts. Never reused in a
/// cell's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplicaId(pub u64);

impl ReplicaId {
    /// Largest number of a master.
    pub const MAX_NUMBER: u64 = 0xffff;

    /// The master of a number, from 1 to [`Self::MAX_NUMBER`], in one of its lives.
    #[must_use]
    pub const fn of_life(number: u64, life: u64) -> Self {
        Self(life << 16 | (number & Self::MAX_NUMBER))
    }

    /// What people call it.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0 & Self::MAX_NUMBER
    }

    /// 0 for a master from the first day of the cell, else a number that no other master has.
    #[must_use]
    pub const fn life(self) -> u64 {
        self.0 >> 16
    }
}

/// As in `3`, or `3.1` in a later life.
impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.life() {
            0 => write!(f, "{}", self.number()),
            life => write!(f, "{}.{life}", self.number()),
        }
    }
}

/// Number of a job, given by the cell when the job is accepted, never reused. A job that is
/// submitted again under the same name after it died has another number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub u64);

/// A task's slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    /// The job's number.
    pub job: JobId,
    /// Which of the job's slots, from 0.
    pub index: u32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.job.0, self.index)
    }
}

/// One placement of a task. The number grows with every placement of the slot, so that orders
/// and reports about an older placement can be told apart from the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IncarnationId {
    /// The slot.
    pub task: TaskId,
    /// 1 for the first placement.
    pub number: u32,
}

impl fmt::Display for IncarnationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.task, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_escape_a_path_or_a_label_are_refused() {
        for bad in ["", "a/b", "..", "é", "A", "-a", "a-", "a.b", "a b", &"x".repeat(10_240)] {
            let refused = JobName::new(bad).unwrap_err();
            assert!(refused.to_string().len() < 300, "{refused}");
        }
        assert_eq!(JobName::new("web-1_a").unwrap().as_str(), "web-1_a");
    }

    #[test]
    fn task_names_survive_text_and_back() {
        let name: TaskName = "ann/web/12".parse().unwrap();
        assert_eq!(name.to_string(), "ann/web/12");
        assert!("ann/web".parse::<TaskName>().is_err());
        assert!("ann/web/-1".parse::<TaskName>().is_err());
        assert!("ann".parse::<JobKey>().is_err());
    }
}
