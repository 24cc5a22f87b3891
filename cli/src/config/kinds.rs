//! What `job` says of its kind: schedules, parents, caps.

use super::constructors::key;
use super::fields::{FieldError, Fields};
use super::session::Session;
use borg_proto::cron::{CatchUp, Cron, KEPT, MOST_KEPT, MOST_START_BY, Overlap, Schedule};
use borg_proto::spec::{MAX_TASKS, MAX_TIMEOUT};
use borg_proto::{JobKey, JobKind, Millis};

/// The fields of `job` that are read here.
pub(super) const KIND: [&str; 11] = [
    "parent",
    "max_failures",
    "timeout",
    "deadline",
    "schedule",
    "overlap",
    "catch_up",
    "start_by",
    "keep_finished",
    "keep_failed",
    "time_zone",
];

/// The caps of a batch job: how many of its tasks may fail for good, how long a run and the whole may take.
pub(super) struct Caps {
    pub(super) max_failures: u32,
    pub(super) timeout_ms: Option<Millis>,
    pub(super) deadline_ms: Option<Millis>,
}

pub(super) fn kind(fields: &mut Fields<'_>) -> Result<JobKind, FieldError> {
    let kinds = [
        ("batch", JobKind::Batch),
        ("service", JobKind::Service),
        ("daemon", JobKind::Daemon),
        ("cron", JobKind::Cron),
    ];
    fields.word("kind", &kinds)?.ok_or_else(|| {
        fields.missing(
            "kind",
            "kind = \"batch\" (runs to its end), \"service\" (runs until killed), \"daemon\" (one task on \
             each machine) or \"cron\" (makes a batch job at each tick)",
        )
    })
}

/// The job with which it ends.
pub(super) fn parent(
    session: &Session,
    fields: &mut Fields<'_>,
) -> Result<Option<JobKey>, FieldError> {
    let Some(text) = fields.text("parent")? else { return Ok(None) };
    key(session, &text).map(Some).map_err(|why| fields.error("parent", why))
}

pub(super) fn caps(fields: &mut Fields<'_>) -> Result<Caps, FieldError> {
    Ok(Caps {
        max_failures: fields.whole("max_failures", 0, MAX_TASKS)?.unwrap_or(0),
        timeout_ms: fields.time("timeout", MAX_TIMEOUT)?,
        deadline_ms: fields.time("deadline", MAX_TIMEOUT)?,
    })
}

pub(super) fn cron(kind: JobKind, fields: &mut Fields<'_>) -> Result<Option<Cron>, FieldError> {
    if kind != JobKind::Cron {
        // Those before them are of every job.
        return match KIND[4..].iter().find(|name| fields.has(name)) {
            Some(name) => Err(fields.error(name, "is for jobs of kind \"cron\"")),
            None => Ok(None),
        };
    }
    let text = fields.text("schedule")?;
    let text = text.ok_or_else(|| fields.missing("schedule", "schedule = \"*/5 * * * *\""))?;
    let schedule: Schedule = text.parse().map_err(|why| fields.error("schedule", why))?;
    if let Some(zone) = fields.text("time_zone")?.filter(|zone| zone != "UTC") {
        let why = format!("{zone:?} is not known: schedules are in UTC");
        return Err(fields.error("time_zone", why));
    }
    let overlaps =
        [("forbid", Overlap::Forbid), ("allow", Overlap::Allow), ("replace", Overlap::Replace)];
    let catch_ups = [("none", CatchUp::None), ("last", CatchUp::Last), ("all", CatchUp::All)];
    Ok(Some(Cron {
        schedule,
        overlap: fields.word("overlap", &overlaps)?.unwrap_or_default(),
        catch_up: fields.word("catch_up", &catch_ups)?.unwrap_or_default(),
        start_by_ms: fields.time("start_by", MOST_START_BY)?,
        keep_finished: fields.whole("keep_finished", 0, MOST_KEPT)?.unwrap_or(KEPT),
        keep_failed: fields.whole("keep_failed", 0, MOST_KEPT)?.unwrap_or(KEPT),
    }))
}
