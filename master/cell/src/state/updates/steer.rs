//! What an owner may say to an update, and how tasks go back.
//!
//! Going back is an update to a version that says again what the one before said. Nothing can be in its
//! way: until an update is closed what it would take to go back is paid for and kept.

use super::super::turn::Turn;
use super::super::versions::noted;
use super::super::{Answer, Job};
use super::begin::Prepared;
use super::{Update, UpdateState};
use crate::event::{EventKind, UpdateChange};
use crate::rejection::{Rejection, UpdateRejection};
use borg_proto::disruption::{Disruption, Share};
use borg_proto::update::{Steer, UpdateOptions};
use borg_proto::{JobId, JobKey, JobSpec, UserName};
use imbl::OrdSet;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Turn<'_> {
    /// Does what somebody says to an update.
    pub(in crate::state) fn steer_update(
        &mut self,
        user: &UserName,
        key: &JobKey,
        verb: Steer,
    ) -> Result<Answer, Rejection> {
        let job = self.updatable(user, key)?;
        let id = job.id;
        let Some(update) = job.update().cloned() else {
            return Err(UpdateRejection::NoUpdate { job: key.clone(), verb }.into());
        };
        let allowed = match verb {
            Steer::Pause => matches!(update.state, UpdateState::Rolling | UpdateState::Canary),
            Steer::Resume => {
                matches!(update.state, UpdateState::Paused { .. } | UpdateState::Canary)
            }
            Steer::Undo => !update.goes_back(),
            Steer::Close => update.state == UpdateState::Done,
        };
        if !allowed {
            let state = if update.goes_back() {
                format!("{}, on its way back", update.state)
            } else {
                update.state.to_string()
            };
            return Err(UpdateRejection::NotNow { job: key.clone(), verb, state }.into());
        }
        match verb {
            Steer::Pause => {
                self.set_update_state(id, UpdateState::Paused { by: user.to_string() });
                self.tell_update(id, UpdateChange::Paused);
            }
            Steer::Resume => self.resume_update(id, &update),
            Steer::Undo => self.take_back(id, &format!("undone by {user}"), user),
            Steer::Close => self.close_update(id),
        }
        Ok(Answer::None)
    }

    fn resume_update(&mut self, id: JobId, update: &Update) {
        let at = self.at;
        let past = update.past_canary || update.state == UpdateState::Canary;
        let resumed = Update {
            past_canary: past,
            place: if past == update.past_canary { update.place } else { 0 },
            state: UpdateState::Rolling,
            since: at,
            // What was seen is known to whoever goes on.
            failed: OrdSet::new(),
            trouble: String::new(),
            blocked_since: None,
            ..update.clone()
        };
        self.job_mut(id).update = Some(Arc::new(resumed));
        self.tell_update(id, UpdateChange::Resumed);
        self.sweep_update(id, false);
        self.stir(id);
    }

    pub(super) fn set_update_state(&mut self, id: JobId, state: UpdateState) {
        let at = self.at;
        if matches!(state, UpdateState::Paused { .. }) {
            self.drop_successors_of(id, "the update is paused");
        }
        if let Some(update) = &mut self.job_mut(id).update {
            let update = Arc::make_mut(update);
            if state != UpdateState::Rolling {
                update.await_no_more();
            }
            (update.state, update.since) = (state, at);
        }
        self.stir(id);
    }

    pub(super) fn tell_update(&mut self, job: JobId, change: UpdateChange) {
        self.emit(EventKind::JobUpdated { job, change });
    }

    /// It is good: what it came from is not kept for it any longer.
    pub(super) fn close_update(&mut self, id: JobId) {
        self.tell_update(id, UpdateChange::Closed);
        self.amend(id, |job| job.update = None);
        self.stir(id);
    }

    /// The tasks that an update has reached go back to what they were.
    pub(super) fn take_back(&mut self, id: JobId, why: &str, by: &UserName) {
        let Some(job) = self.state.jobs.get(&id).cloned() else { return };
        let Some(update) = job.update.clone() else { return };
        let Some(before) = job.version(update.from).cloned() else { return };
        let why = noted(why);
        self.job_mut(id).note_outcome(update.to, &why);
        let options = UpdateOptions {
            canary: None,
            tasks: None,
            close: true,
            most: update.options.most,
            min_healthy_ms: update.options.min_healthy_ms,
            deadline_ms: update.options.deadline_ms,
            order: update.options.order.clone(),
            on_failure: update.options.on_failure,
            failures: update.options.failures,
            replacement: update.options.replacement,
        };
        let spec = with_budget(&job.spec, self.spec_to_go_back_to(&job, &before.spec));
        let note = format!("back to version {}", update.from);
        let (by, restart) = (by.clone(), false);
        let reach = BTreeSet::from([update.from, update.to]);
        self.install(Prepared { job: id, spec, by, note, restart, options, reach, why });
        self.sweep_update(id, false);
    }

    /// What was, with as many tasks as there are when there is no room for more again.
    fn spec_to_go_back_to(&self, job: &Job, before: &Arc<JobSpec>) -> Arc<JobSpec> {
        let there = job.spec.tasks;
        if before.kind.stands() || before.tasks <= there {
            return before.clone();
        }
        let more = before.tasks - there;
        let owner = job.owner();
        let grown = JobSpec { tasks: more, ..before.as_ref().clone() };
        let quota = self.check_quota(owner, grown.priority, &grown.charged(), more);
        let may = self.check_slots(more).is_ok() && quota.is_ok();
        let same = JobSpec { tasks: there, ..grown };
        if may || same.check().is_err() { before.clone() } else { Arc::new(same) }
    }
}

/// What was, with a budget that lets tasks go back if it had none: as many as what is in force lets, or one.
fn with_budget(now: &JobSpec, before: Arc<JobSpec>) -> Arc<JobSpec> {
    let none = |spec: &JobSpec| {
        spec.effective_disruption().is_some_and(|budget| budget.most.of(before.tasks) == 0)
    };
    if !none(&before) {
        return before;
    }
    let one = Some(Disruption { most: Share::Tasks(1), rate: None });
    let disruption = if none(now) { one } else { now.disruption };
    Arc::new(JobSpec { disruption, ..before.as_ref().clone() })
}

impl Job {
    /// Says what came of a version.
    pub(in crate::state) fn note_outcome(&mut self, number: u32, outcome: &str) {
        let found = self.versions.iter_mut().find(|version| version.number == number);
        if let Some(version) = found {
            Arc::make_mut(version).outcome = outcome.to_owned();
        }
    }
}
