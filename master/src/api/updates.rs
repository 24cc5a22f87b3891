//! Updates and versions of jobs, as the API shows them.

use super::find_job;
use super::views::read_info;
use crate::changes::refusal;
use crate::feed::View;
use borg_cell::state::updates::{Effect, UpdatePlan};
use borg_cell::state::{CellState, Job, Update, UpdateState, Version};
use borg_proto::Millis;
use borg_proto::difference::Difference;
use borg_proto::wire::pb;

/// Most fields that are told by name. 32, as in a plan.
const MAX_TOLD: usize = 32;

fn fields(differences: &[Difference]) -> (Vec<pb::FieldChange>, u32) {
    let field = |difference: &Difference| pb::FieldChange {
        field: difference.field.clone(),
        old: difference.old.clone(),
        new: difference.new.clone(),
    };
    let more = differences.len().saturating_sub(MAX_TOLD);
    let told = differences.iter().take(MAX_TOLD).map(field).collect();
    (told, u32::try_from(more).unwrap_or(u32::MAX))
}

/// What an update would do, or why it would be refused.
pub(super) fn plan(
    view: &View,
    planned: Result<UpdatePlan, borg_cell::rejection::Rejection>,
) -> pb::PlanUpdateResponse {
    let read = Some(read_info(view));
    let plan = match planned {
        Ok(plan) => plan,
        Err(refused) => {
            let status = refusal(&refused);
            let (code, why) = (status.code().into(), status.message().to_owned());
            let refusal = Some(pb::PlannedRefusal { code, why });
            return pb::PlanUpdateResponse { refusal, read, ..pb::PlanUpdateResponse::default() };
        }
    };
    let (fields, more_fields) = fields(&plan.differences);
    pb::PlanUpdateResponse {
        refusal: None,
        effects: effects(&plan.effects),
        fields,
        more_fields,
        at_once: plan.at_once,
        from_version: plan.from,
        version: plan.to,
        read,
    }
}

/// Neighbours of which the same becomes are told together.
fn effects(all: &[Effect]) -> Vec<pb::plan_update_response::Effect> {
    let mut told: Vec<(&Effect, pb::IndexRange)> = Vec::new();
    for (effect, index) in all.iter().zip(0..) {
        match told.last_mut() {
            Some((last, range)) if *last == effect => range.last = index,
            Some(_) | None => told.push((effect, pb::IndexRange { first: index, last: index })),
        }
    }
    let shown = |(effect, tasks): (&Effect, pb::IndexRange)| {
        let (kind, why) = match effect {
            Effect::None => (pb::UpdateEffect::None, String::new()),
            Effect::InPlace => (pb::UpdateEffect::InPlace, String::new()),
            Effect::Start => (pb::UpdateEffect::Start, String::new()),
            Effect::New => (pb::UpdateEffect::New, String::new()),
            Effect::Over => (pb::UpdateEffect::Over, String::new()),
            Effect::Restart(why) => (pb::UpdateEffect::Restart, why.clone()),
            Effect::Move(why) => (pb::UpdateEffect::Move, why.clone()),
            Effect::End => (pb::UpdateEffect::End, String::new()),
        };
        pb::plan_update_response::Effect { tasks: Some(tasks), effect: kind.into(), why }
    };
    told.into_iter().map(shown).collect()
}

/// How far the update of a job is.
///
/// # Errors
/// When there is no such job.
pub(super) fn update(
    view: &View,
    name: &str,
    now: u64,
) -> Result<pb::GetUpdateResponse, tonic::Status> {
    let job = find_job(view, name)?;
    Ok(pb::GetUpdateResponse {
        job: job.key.to_string(),
        update: job.update().map(|update| info(&view.state, job, update)),
        head: Some(version(job, job.head(), None)),
        read: Some(read_info(view)),
        now_ms: now,
    })
}

pub(super) fn state_of(update: &Update) -> pb::UpdateState {
    match update.state {
        UpdateState::Done => pb::UpdateState::Done,
        UpdateState::Paused { .. } => pb::UpdateState::Paused,
        UpdateState::Canary => pb::UpdateState::Canary,
        UpdateState::Rolling if update.goes_back() => pb::UpdateState::RollingBack,
        UpdateState::Rolling => pb::UpdateState::Rolling,
    }
}

pub(super) fn info(state: &CellState, job: &Job, update: &Update) -> pb::UpdateInfo {
    let progress = job.progress(update);
    pb::UpdateInfo {
        from_version: update.from,
        to_version: update.to,
        state: state_of(update).into(),
        since_ms: update.since.0,
        by: update.by.to_string(),
        begun_ms: update.begun.0,
        done: progress.done,
        moving: progress.moving,
        left: progress.left,
        waiting_for: job.waits_for_update(update, now(state)),
        failed: update.failures(),
        why: update.why.clone(),
        options: Some((&update.options).into()),
    }
}

/// Cell time goes on between entries.
fn now(state: &CellState) -> Millis {
    state.clock().max(crate::clock::now())
}

fn version(job: &Job, version: &Version, before: Option<&Version>) -> pb::VersionInfo {
    let differences = before.map(|before| before.spec.differences(&version.spec));
    let (fields, more_fields) = fields(&differences.unwrap_or_default());
    pb::VersionInfo {
        version: version.number,
        at_ms: version.at.0,
        by: version.by.to_string(),
        note: version.note.clone(),
        outcome: version.outcome.clone(),
        tasks: job.slots_by_version().get(&version.number).copied().unwrap_or(0),
        fields,
        more_fields,
    }
}

/// The versions of a job that are kept.
///
/// # Errors
/// When there is no such job.
pub(super) fn versions(
    view: &View,
    name: &str,
    now: u64,
) -> Result<pb::ListVersionsResponse, tonic::Status> {
    let job = find_job(view, name)?;
    let kept: Vec<&Version> = job.versions().collect();
    let befores = std::iter::once(None).chain(kept.iter().copied().map(Some));
    let told = kept.iter().zip(befores).map(|(this, before)| version(job, this, before));
    let mut versions: Vec<pb::VersionInfo> = told.collect();
    versions.reverse();
    Ok(pb::ListVersionsResponse {
        job: job.key.to_string(),
        versions,
        read: Some(read_info(view)),
        now_ms: now,
    })
}
