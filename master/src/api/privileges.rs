//! Privileges as the API shows them: who holds which, and what uses them.

use crate::feed::View;
use borg_cell::state::GrantedPrivilege;
use borg_proto::names::UserName;
use borg_proto::wire::pb;
use borg_proto::{JobKey, Privilege};
use std::collections::{BTreeMap, BTreeSet};
use tonic::Status;

/// Most jobs that are named for one user and privilege. 100: our choice; that there are more is told.
const JOBS_NAMED: usize = 100;

/// Whose privileges a call is about; `None` means everybody's.
///
/// # Errors
/// When somebody asks for another's without being an administrator.
pub(super) fn asked_for(
    user: &UserName,
    is_admin: bool,
    request: &pb::ListPrivilegesRequest,
) -> Result<Option<UserName>, Status> {
    if request.user.is_empty() {
        return Ok((!is_admin).then(|| user.clone()));
    }
    let whose: UserName = request.user.parse().map_err(super::bad_name("user"))?;
    if is_admin || whose == *user {
        return Ok(Some(whose));
    }
    let needed = Privilege::Admin;
    let why = format!("user {user} may not list the privileges of {whose}: that needs {needed}");
    Err(Status::permission_denied(why))
}

/// What is known of one user and privilege.
#[derive(Default)]
struct Entry<'v> {
    granted: Option<&'v GrantedPrivilege>,
    jobs: Vec<&'v JobKey>,
}

/// Everybody's, or one user's: what was granted, and what live jobs use whether it still is or not.
pub(super) fn list(view: &View, whose: Option<&UserName>) -> pb::ListPrivilegesResponse {
    let state = &view.state;
    let wanted = |user: &UserName| whose.is_none_or(|whose| whose == user);
    let mut entries: BTreeMap<(&UserName, Privilege), Entry<'_>> = BTreeMap::new();
    for (user, privilege, granted) in state.privileges().filter(|(user, ..)| wanted(user)) {
        entries.entry((user, privilege)).or_default().granted = Some(granted);
    }
    for job in state.loosened_jobs().filter(|job| wanted(job.owner())) {
        let loosened: BTreeSet<&Privilege> =
            job.held_versions().flat_map(|version| &version.spec.task.loosen).collect();
        for privilege in loosened {
            entries.entry((job.owner(), *privilege)).or_default().jobs.push(&job.key);
        }
    }
    pb::ListPrivilegesResponse {
        privileges: entries.into_iter().map(shown).collect(),
        read: Some(super::views::read_info(view)),
    }
}

fn shown(((user, privilege), entry): ((&UserName, Privilege), Entry<'_>)) -> pb::UserPrivilege {
    let Entry { granted, mut jobs } = entry;
    let jobs_in_all = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
    jobs.sort();
    pb::UserPrivilege {
        user: user.to_string(),
        privilege: pb::Privilege::from(privilege).into(),
        granted_at_ms: granted.map(|granted| granted.at.0),
        by: granted.map(|granted| granted.by.to_string()).unwrap_or_default(),
        jobs: jobs.into_iter().take(JOBS_NAMED).map(ToString::to_string).collect(),
        jobs_in_all,
    }
}
