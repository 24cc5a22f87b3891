//! Takes all recorded decisions again with the production code, and compares.

use super::History;
use crate::Error;
use crate::answer::{Answer, Column, Provenance, Table, Value};
use borg_cell::store::EntryKind;
use borg_proto::TaskId;
use borg_proto::command::{Action, Assignment, Command};
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
    /// Decisions that were compared and are not in the log as they were recorded: never committed, or of another log.
    pub not_in_log: u64,
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
        in_log: in_log.values().map(|of_task| of_task.len() as u64).sum(),
        of_log: 0,
        not_in_log: 0,
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
                        let there = placed.iter().filter(|one| take(&mut in_log, one)).count();
                        verified.of_log += there as u64;
                        verified.not_in_log += (placed.len() - there) as u64;
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

/// Decisions by task, in the order of the log.
type Decisions = BTreeMap<TaskId, Vec<Assignment>>;

/// The decisions of schedulers that are in the log.
fn in_log(history: &History) -> Decisions {
    let mut found = Decisions::new();
    for entry in history.entries.iter().filter(|entry| entry.kind == EntryKind::Normal) {
        // What it cannot read replay tells of.
        let action = Command::decode(&entry.data).map(|one| one.action);
        let Ok(Action::Place { assignments }) = action else { continue };
        for one in assignments {
            found.entry(one.task).or_default().push(one);
        }
    }
    found
}

/// Takes one of the log's decisions that is the same in all, victims and what it counted on included, if there is one.
fn take(in_log: &mut Decisions, one: &Assignment) -> bool {
    let Some(of_task) = in_log.get_mut(&one.task) else { return false };
    let same = of_task.iter().position(|other| other == one);
    same.map(|at| of_task.remove(at)).is_some()
}

fn log_table(verified: &Verified) -> Table {
    let Verified { in_log, of_log, not_in_log, .. } = *verified;
    let rows = [
        ("in the log", in_log),
        ("of these compared", of_log),
        ("recorded and not in the log", not_in_log),
    ];
    Table {
        name: "decisions".to_owned(),
        title: "Decisions".to_owned(),
        columns: ["decisions", "count"].map(Column::plain).into(),
        rows: rows.map(|(what, count)| vec![what.into(), Value::Count(count)]).into(),
    }
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
            if verified.not_in_log > 0 {
                rest = format!(
                    " {} decisions are not in the log as they were recorded: they were never committed, or this is the \
                     recording of another log.",
                    verified.not_in_log
                );
            }
            if let missing @ 1.. = verified.in_log - verified.of_log {
                rest += &format!(
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
        tables: vec![
            log_table(verified),
            Table {
                name: "recordings".to_owned(),
                title: "What was recorded, and taken again".to_owned(),
                columns: ["recording", "passes", "decisions", "left_out", "ends"]
                    .map(Column::plain)
                    .into(),
                rows: verified.recordings.iter().map(row).collect(),
            },
        ],
        charts: Vec::new(),
    }
}
