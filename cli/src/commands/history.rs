//! `--at` and `history`: the cell as it was.

use crate::client::{Client, Kind};
use crate::clock;
use crate::exit::{Code, Failure};
use crate::output::{Output, age, note, size};
use borg_proto::names::ReplicaId;
use borg_proto::wire::pb;
use serde::Serialize;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

/// A moment of the past, as `--at` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Right after an entry of the log.
    Index(u64),
    /// A time, in milliseconds since 1970.
    Time(u64),
    /// So many milliseconds ago.
    Ago(u64),
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if let Ok(index) = text.parse() {
            return match index {
                0 => Err("the first entry is 1".into()),
                _ => Ok(Self::Index(index)),
            };
        }
        if let Some(ago) = text.strip_prefix('-') {
            return match humantime::parse_duration(ago) {
                Ok(ago) => Ok(Self::Ago(ms(ago))),
                Err(error) => Err(format!("not a length of time like -10m: {error}")),
            };
        }
        let time = humantime::parse_rfc3339_weak(text)
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        time.map(|time| Self::Time(ms(time))).ok_or_else(|| {
            "neither a time like 2026-11-25T20:00:00Z, nor one like -10m, nor an index".into()
        })
    }
}

impl At {
    /// As the metadata `borg-at` has it.
    #[must_use]
    pub fn metadata(self) -> String {
        match self {
            Self::Index(index) => format!("index:{index}"),
            Self::Time(ms) => format!("time:{ms}"),
            Self::Ago(ms) => format!("ago:{ms}"),
        }
    }
}

/// A time, in milliseconds since 1970, as people write it.
pub(super) fn time(ms: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(ms);
    humantime::format_rfc3339_millis(time).to_string()
}

/// Age from which on an answer is called old: ours, longer than the longest election.
const STALE_MS: u64 = 1_000;

/// Says of which moment an answer is, if it was asked for one, or if it is old; to people also when
/// it is not the leader's. The JSON forms carry it in themselves.
pub(super) fn say_when(client: &Client, out: Output, read: Option<&pb::ReadInfo>) {
    let Some(read) = read else { return };
    if client.at().is_some() {
        note(&format!(
            "as of entry {}, {} (from master {})",
            read.index,
            time(read.at_ms),
            ReplicaId(read.replica)
        ));
    } else if !out.is_json()
        && let Some(text) = how_old(read, out.is_terminal())
    {
        note(&text);
    }
}

/// How old an answer is, when that is worth a line.
fn how_old(read: &pb::ReadInfo, to_a_person: bool) -> Option<String> {
    let pb::ReadInfo { index, age_ms, leader, .. } = read;
    let replica = ReplicaId(read.replica);
    if *age_ms >= STALE_MS {
        let age = age(*age_ms);
        return Some(format!(
            "master {replica} has not heard of a leader for {age}: this is as of entry {index} \
             (--consistent waits for a majority)"
        ));
    }
    (to_a_person && !leader)
        .then(|| format!("from master {replica}, as of entry {index}, {age_ms} ms old"))
}

/// A kept checkpoint, as it is printed.
#[derive(Debug, Serialize)]
struct Row {
    index: u64,
    term: u64,
    at_ms: u64,
    bytes: u64,
    unbroken: bool,
}

/// `borgctl history`.
pub(super) async fn history(client: &mut Client, out: Output) -> Result<(), Failure> {
    let message = pb::ListHistoryRequest {};
    let answer = client
        .call("history", Kind::Read, message, async |mut master, request| {
            master.list_history(request).await
        })
        .await?;
    let read = answer
        .read
        .ok_or_else(|| Failure::new(Code::Internal, "history: the master did not say who it is"))?;
    let rows = answer.checkpoints.into_iter().map(|kept| Row {
        index: kept.index,
        term: kept.term,
        at_ms: kept.at_ms,
        bytes: kept.bytes,
        unbroken: kept.unbroken,
    });
    if out.is_json() {
        return out.json(&rows.collect::<Vec<_>>(), false);
    }
    let now = clock::now().0;
    let rows = rows.map(|row| {
        let known = row.at_ms > 0;
        [
            row.index.to_string(),
            if known { time(row.at_ms) } else { "-".into() },
            if known { age(now.saturating_sub(row.at_ms)) } else { "-".into() },
            size(row.bytes),
            if row.unbroken { "yes" } else { "no" }.to_owned(),
        ]
    });
    out.table(["index", "time", "age", "size", "log before"], rows)?;
    let replica = ReplicaId(read.replica);
    note(&format!("checkpoints of master {replica}; the newest entry is {}", read.index));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_answer_is_told_to_everybody_and_a_followers_to_people() {
        let read = |age_ms, leader| pb::ReadInfo { index: 7, age_ms, replica: 2, leader, at_ms: 0 };
        assert_eq!(how_old(&read(900, true), true), None);
        assert_eq!(how_old(&read(900, false), false), None);
        let follower = how_old(&read(40, false), true).unwrap();
        assert_eq!(follower, "from master 2, as of entry 7, 40 ms old");
        let old = how_old(&read(65_000, false), false).unwrap();
        assert!(old.contains("for 1m5s: this is as of entry 7"), "{old}");
    }

    #[test]
    fn a_moment_is_an_index_a_time_or_a_while_ago() {
        let at = |text: &str| text.parse::<At>().map(At::metadata);
        assert_eq!(at("1234").unwrap(), "index:1234");
        assert_eq!(at("-10m").unwrap(), "ago:600000");
        assert_eq!(at("1970-01-01T00:01:00Z").unwrap(), "time:60000");
        assert_eq!(at("1970-01-01 00:01:00.5").unwrap(), "time:60500");
        assert_eq!(at("0").unwrap_err(), "the first entry is 1");
        assert!(at("-ten").unwrap_err().starts_with("not a length of time"));
        assert!(at("yesterday").unwrap_err().starts_with("neither a time"));
    }
}
