//! Versions and updates of jobs in a checkpoint, and refusals about updates as kinds, numbers and texts.

use super::outcome::Fields;
use super::parts::{by, missing, name};
use crate::rejection::UpdateRejection as U;
use crate::state::{
    FIRST_VERSION, Job, MAX_KEPT_VERSIONS, MAX_NOTE_BYTES, MAX_VERSIONS_IN_USE, OnTheWay, Update,
    UpdateState, Version,
};
use borg_proto::spec::MAX_TASKS;
use borg_proto::update::Steer;
use borg_proto::wire::{WireError, pb};
use borg_proto::{JobSpec, Millis, UserName};
use pb::checkpoint_update::State;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The kinds of these refusals.
pub(super) const KINDS: std::ops::RangeInclusive<u32> = 240..=249;

/// Most versions of a job in a checkpoint: those that are kept, those in use, and those of an update.
const MOST_VERSIONS: usize = MAX_KEPT_VERSIONS + MAX_VERSIONS_IN_USE + 4;

pub(super) fn refusal(of: &U) -> (u32, Vec<u64>, Vec<String>) {
    match of {
        U::Over { job, state } => (240, vec![], vec![job.to_string(), state.to_string()]),
        U::UnderWay { job, from, to, by, state, since, back } => (
            241,
            vec![(*from).into(), (*to).into(), since.0, (*back).into()],
            vec![job.to_string(), by.to_string(), state.clone()],
        ),
        U::VersionGone { job, version, kept } => {
            let numbers = [*version].into_iter().chain(kept.iter().copied());
            (242, numbers.map(u64::from).collect(), vec![job.to_string()])
        }
        U::NoBudget { job, tasks } => (243, vec![(*tasks).into()], vec![job.to_string()]),
        U::Gang { job } => (244, vec![], vec![job.to_string()]),
        U::ManyVersions { job, most } => (245, vec![(*most).into()], vec![job.to_string()]),
        U::IsSet { set } => (246, vec![], vec![set.to_string()]),
        U::GangParted { job } => (247, vec![], vec![job.to_string()]),
        U::NoUpdate { job, verb } => (248, vec![verb_number(*verb)], vec![job.to_string()]),
        U::NotNow { job, verb, state } => {
            (249, vec![verb_number(*verb)], vec![job.to_string(), state.clone()])
        }
    }
}

fn verb_number(verb: Steer) -> u64 {
    pb::UpdateVerb::from(verb) as u64
}

pub(super) fn read(kind: u32, from: &mut Fields) -> Result<U, WireError> {
    Ok(match kind {
        240 => U::Over { job: from.name()?, state: from.job_state()? },
        241 => U::UnderWay {
            from: from.small()?,
            to: from.small()?,
            since: Millis(from.number()?),
            back: from.number()? != 0,
            job: from.name()?,
            by: from.name()?,
            state: from.text()?,
        },
        242 => U::VersionGone { version: from.small()?, kept: from.rest()?, job: from.name()? },
        243 => U::NoBudget { job: from.name()?, tasks: from.small()? },
        244 => U::Gang { job: from.name()? },
        245 => U::ManyVersions { job: from.name()?, most: from.small()? },
        246 => U::IsSet { set: from.name()? },
        247 => U::GangParted { job: from.name()? },
        248 => U::NoUpdate { job: from.name()?, verb: read_verb(from)? },
        249 => U::NotNow { job: from.name()?, verb: read_verb(from)?, state: from.text()? },
        other => return Err(WireError::new("kind", other, "is no refusal about updates")),
    })
}

fn read_verb(from: &mut Fields) -> Result<Steer, WireError> {
    let number = from.number()?;
    let found = Steer::ALL.into_iter().find(|verb| verb_number(*verb) == number);
    found.ok_or_else(|| WireError::new("numbers", number, "is nothing to say to an update"))
}

/// Nothing for a job that was never changed: its one version follows from the rest.
pub(super) fn versions(job: &Job) -> Vec<pb::CheckpointVersion> {
    let head = job.head().number;
    if head == FIRST_VERSION {
        return Vec::new();
    }
    let write = |version: &Version| pb::CheckpointVersion {
        number: version.number,
        // The job says it already.
        spec: (version.number != head).then(|| version.spec.as_ref().into()),
        at_ms: version.at.0,
        by: version.by.to_string(),
        note: version.note.clone(),
        restart: version.restart,
        outcome: version.outcome.clone(),
    };
    job.versions().map(write).collect()
}

pub(super) fn read_versions(
    versions: Vec<pb::CheckpointVersion>,
    head: &Arc<JobSpec>,
) -> Result<Vec<Arc<Version>>, WireError> {
    if versions.len() > MOST_VERSIONS {
        return Err(WireError::new("versions", versions.len(), "are too many"));
    }
    let text = |field: &str, text: String| {
        if text.len() <= MAX_NOTE_BYTES {
            return Ok(text);
        }
        Err(WireError::new(field, text, format!("is longer than {MAX_NOTE_BYTES} bytes")))
    };
    let read = |version: pb::CheckpointVersion| {
        let spec = match version.spec {
            Some(spec) => Arc::new(JobSpec::try_from(spec).map_err(|e| e.within("spec"))?),
            None => head.clone(),
        };
        let by = name("by", UserName::new(&version.by))?;
        let bare = Version::new(version.number, spec, Millis(version.at_ms), by);
        Ok(Arc::new(Version {
            note: text("note", version.note)?,
            outcome: text("outcome", version.outcome)?,
            restart: version.restart,
            ..bare
        }))
    };
    let read = versions.into_iter().map(read).collect::<Result<Vec<_>, _>>();
    read.map_err(|e: WireError| e.within("versions"))
}

pub(super) fn update(update: &Update) -> pb::CheckpointUpdate {
    pb::CheckpointUpdate {
        from: update.from,
        to: update.to,
        by: update.by.to_string(),
        begun_ms: update.begun.0,
        options: Some((&update.options).into()),
        state: match &update.state {
            UpdateState::Rolling => None,
            UpdateState::Canary => Some(State::Canary(true)),
            UpdateState::Paused { by } => Some(State::PausedBy(by.clone())),
            UpdateState::Done => Some(State::Done(true)),
        },
        since_ms: update.since.0,
        why: update.why.clone(),
        past_canary: update.past_canary,
        reach: update.reach.iter().copied().collect(),
        place: update.place,
        moving: ranges(update.moving.indexes()),
        failed: ranges(update.failed.iter().copied()),
        trouble: update.trouble.clone(),
        blocked_until_ms: update.blocked_until.map_or(0, |until| until.0),
        blocked_since_ms: update.blocked_since.map(|since| since.0),
        passed_over: update.passed_over,
        counts_from_ms: update.counts_from.0,
        awaiting: update.awaiting.iter().map(awaiting).collect(),
    }
}

pub(super) fn read_update(from: pb::CheckpointUpdate) -> Result<Update, WireError> {
    let options = from.options.ok_or_else(|| missing("options"))?;
    Ok(Update {
        from: from.from,
        to: from.to,
        by: name("by", UserName::new(&from.by))?,
        begun: Millis(from.begun_ms),
        options: options.try_into().map_err(|e: WireError| e.within("options"))?,
        state: match from.state {
            None => UpdateState::Rolling,
            Some(State::Canary(_)) => UpdateState::Canary,
            Some(State::PausedBy(who)) => UpdateState::Paused { by: by("paused_by", who)? },
            Some(State::Done(_)) => UpdateState::Done,
        },
        since: Millis(from.since_ms),
        why: by("why", from.why)?,
        past_canary: from.past_canary,
        reach: from.reach.into_iter().collect(),
        place: from.place,
        moving: OnTheWay::untimed(read_ranges("moving", &from.moving)?),
        failed: read_ranges("failed", &from.failed)?.into_iter().collect(),
        trouble: by("trouble", from.trouble)?,
        blocked_until: (from.blocked_until_ms > 0).then_some(Millis(from.blocked_until_ms)),
        blocked_since: from.blocked_since_ms.map(Millis),
        passed_over: from.passed_over,
        counts_from: Millis(from.counts_from_ms),
        awaiting: from.awaiting.into_iter().map(read_awaiting).collect::<Result<_, _>>()?,
    })
}

fn awaiting((index, since): (&u32, &Option<Millis>)) -> pb::checkpoint_update::Awaiting {
    pb::checkpoint_update::Awaiting { index: *index, since_ms: since.map(|at| at.0) }
}

fn read_awaiting(
    from: pb::checkpoint_update::Awaiting,
) -> Result<(u32, Option<Millis>), WireError> {
    if from.index >= MAX_TASKS {
        return Err(WireError::new("awaiting", from.index, "is no index of a task"));
    }
    Ok((from.index, from.since_ms.map(Millis)))
}

fn ranges(indexes: impl Iterator<Item = u32>) -> Vec<pb::IndexRange> {
    let mut ranges: Vec<pb::IndexRange> = Vec::new();
    for index in indexes {
        match ranges.last_mut() {
            Some(last) if last.last + 1 == index => last.last = index,
            Some(_) | None => ranges.push(pb::IndexRange { first: index, last: index }),
        }
    }
    ranges
}

fn read_ranges(field: &str, ranges: &[pb::IndexRange]) -> Result<BTreeSet<u32>, WireError> {
    let mut indexes = BTreeSet::new();
    for range in ranges {
        if range.first > range.last || range.last >= MAX_TASKS {
            return Err(WireError::new(field, range.last, "is no index of a task"));
        }
        indexes.extend(range.first..=range.last);
    }
    Ok(indexes)
}
