//! Takes all recorded decisions again with the production code, and compares.

use super::History;
use crate::Error;
use crate::answer::{Answer, Column, Provenance, Table, Value};
use borg_cell::store::EntryKind;
use borg_proto::command::{Action, Assignment, Command};
use borg_proto::{MachineId, TaskId};
use borg_scheduler::recording::wire::End;
use borg_scheduler::recording::{Decided, Player, Recorded, Stop};
use std::collections::BTreeMap;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Of each recording.
    pub recordings: Vec<OfRecording>,
    /// Decisions that are in the log.
    pub in_log: u64,
    /// How many of these were compared.
    pub of_log: u64,
    /// The first decision that is another now, if there is one.
    pub difference: Option<String>,
}

/// What came of one recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfRecording {
    /// Its name.
    pub name: String,
    /// Passes that were compared.
    pub passes: u64,
    /// Decisions that were compared.
    pub decisions: u64,
    /// Records that could not be played: after a gap, or beyond the end of the log.
    pub left_out: u64,
    /// How the recording ends.
    pub end: End,
}

impl Verified {
    /// Whether anything was compared, of the log's decisions if it has any, and nothing differs.
    #[must_use]
    pub fn is_identical(&self) -> bool {
        let compared = match self.in_log {
            0 => self.recordings.iter().any(|one| one.passes > 0),
            _ => self.of_log > 0,
        };
        self.difference.is_none() && compared
    }
}

/// Plays everything that was recorded in a history.
///
/// # Errors
/// When an entry of the log cannot be used, or a recording goes back.
pub fn verify(history: &History, tell: impl Fn(&str)) -> Result<Verified, Error> {
    let born = Player::new(history.start.clone(), history.members.clone());
    let mut player = born.clone();
    let mut in_log = in_log(history);
    let mut verified = Verified {
        recordings: Vec::new(),
        in_log: in_log.values().sum(),
        of_log: 0,
        difference: None,
    };
    for recording in &history.recordings {
        tell(&format!("{}: {} records", recording.name, recording.records.len()));
        // Another leader may have begun a little before the one before it had heard of all.
        if let Some(Recorded::Begin(begin)) = recording.records.first()
            && begin.index < player.state().applied()
        {
            player = born.clone();
        }
        let before = (player.passes(), player.decisions(), player.left_out());
        let (mut beyond, mut compared) = (0, 0);
        for (at, recorded) in recording.records.iter().enumerate() {
            match player.play(recorded, &mut |index| history.entry(index).cloned()) {
                Ok(()) => {
                    let new = player.decisions() - before.1 - compared;
                    compared += new;
                    if let Recorded::Pass { decided: Decided::Placed(placed), .. } = recorded
                        && new > 0
                    {
                        verified.of_log +=
                            placed.iter().map(|one| take(&mut in_log, one)).sum::<u64>();
                    }
                }
                Err(Stop::NoEntry { .. }) => {
                    beyond = (recording.records.len() - at) as u64;
                    break;
                }
                Err(Stop::Differs(difference)) => {
                    verified.difference = Some(format!("{}: {difference}", recording.name));
                    break;
                }
                Err(stop) => return Err(format!("{}: {stop}", recording.name).into()),
            }
        }
        verified.recordings.push(OfRecording {
            name: recording.name.clone(),
            passes: player.passes() - before.0,
            decisions: player.decisions() - before.1,
            left_out: player.left_out() - before.2 + beyond,
            end: recording.end.clone(),
        });
        if verified.difference.is_some() {
            break;
        }
    }
    Ok(verified)
}

/// How often which task was put on which machine.
type Decisions = BTreeMap<(TaskId, MachineId), u64>;

/// The decisions of schedulers that are in the log.
fn in_log(history: &History) -> Decisions {
    let mut found = Decisions::new();
    for entry in history.entries.iter().filter(|entry| entry.kind == EntryKind::Normal) {
        // What it cannot read replay tells of.
        let action = Command::decode(&entry.data).map(|one| one.action);
        let Ok(Action::Place { assignments }) = action else { continue };
        for one in assignments {
            *found.entry((one.task, one.machine)).or_default() += 1;
        }
    }
    found
}

/// One of the log's decisions was compared, if it is there still.
fn take(in_log: &mut Decisions, one: &Assignment) -> u64 {
    let Some(left) = in_log.get_mut(&(one.task, one.machine)).filter(|left| **left > 0) else {
        return 0;
    };
    *left -= 1;
    1
}

/// The same as an answer.
#[must_use]
pub fn answer(verified: &Verified, provenance: Provenance) -> Answer {
    let sum = |of: fn(&OfRecording) -> u64| verified.recordings.iter().map(of).sum::<u64>();
    let (passes, decisions) = (sum(|one| one.passes), sum(|one| one.decisions));
    let summary = match &verified.difference {
        Some(difference) => format!("DIFFERENT: {difference}."),
        None if !verified.is_identical() => {
            "Nothing was compared: no decisions were recorded in this time. Ask the master that led then.".to_owned()
        }
        None => {
            let mut rest = String::new();
            if let missing @ 1.. = verified.in_log - verified.of_log {
                rest = format!(
                    " {missing} were not compared: they were decided while nothing was recorded, by a master that was not \
                     asked, or where a recording is cut off."
                );
            }
            let torn = |one: &OfRecording| matches!(one.end, End::Torn { .. }) || one.left_out > 0;
            let whole = rest.is_empty() && !verified.recordings.iter().any(torn);
            let all = if whole { "Identical" } else { "Identical as far as it was recorded" };
            format!(
                "{all}: {passes} passes with {decisions} decisions were taken again; of the {} in the log {} were among them.{rest}",
                verified.in_log, verified.of_log
            )
        }
    };
    let row = |one: &OfRecording| {
        let end = match one.end {
            End::Finished => "finished".to_owned(),
            End::Open => "after a whole frame".to_owned(),
            End::Torn { at } => format!("cut off or damaged at byte {at}"),
        };
        let counts = [one.passes, one.decisions, one.left_out].map(Value::Count);
        std::iter::once(Value::Text(one.name.clone())).chain(counts).chain([end.into()]).collect()
    };
    Answer {
        question: "verify".to_owned(),
        provenance,
        summary: vec![summary],
        tables: vec![Table {
            name: "recordings".to_owned(),
            title: "What was recorded, and taken again".to_owned(),
            columns: ["recording", "passes", "decisions", "left_out", "ends"]
                .map(Column::plain)
                .into(),
            rows: verified.recordings.iter().map(row).collect(),
        }],
        charts: Vec::new(),
    }
}
