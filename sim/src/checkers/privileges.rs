//! I25, of tasks: what is admitted without some isolation is of a user who holds the privileges for it.
//!
//! Goes through what was granted by itself; shares nothing with what the cell asks.

use borg_cell::event::{Event, EventKind};
use borg_cell::state::CellState;
use borg_proto::Privilege;
use borg_proto::identity::ADMIN;

/// Looks at jobs that were accepted by entries that led to `state`. Where privileges changed in the same
/// breath nothing is known of the moment of each.
///
/// # Errors
/// Who was admitted without the privilege.
pub fn admitted(events: &[Event], state: &CellState) -> Result<(), String> {
    if events.iter().any(|event| matches!(event.kind, EventKind::PrivilegeChanged { .. })) {
        return Ok(());
    }
    for event in events {
        let EventKind::JobSubmitted(id) = event.kind else { continue };
        let Some(job) = state.job(id).filter(|job| job.owner().as_str() != ADMIN) else { continue };
        for wanted in &job.spec.task.loosen {
            let does = |held: Privilege| held == *wanted || held == Privilege::Admin;
            let mut granted = state.privileges();
            if !granted.any(|(user, held, _)| user == job.owner() && does(held)) {
                let key = &job.key;
                return Err(format!("{key} loosens {wanted}, which its user does not hold"));
            }
        }
    }
    Ok(())
}
