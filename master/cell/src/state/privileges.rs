//! Privileges: what some users may and others may not.
//!
//! As quota they are admission: what a job loosens is checked once, when it is submitted, and a privilege
//! that is taken back ends nothing. What uses it is to be seen, and somebody has to decide to end it.
//!
//! The user `admin` holds all of them and cannot lose them, so that there is always somebody who can grant
//! some; whoever was granted `admin` holds all for as long.

use super::turn::Turn;
use super::{Answer, CellState, Job};
use crate::event::{EventKind, PrivilegeChange};
use crate::rejection::{PrivilegeRejection, Rejection};
use borg_proto::identity::ADMIN;
use borg_proto::{JobSpec, Millis, Privilege, UserName};

/// Most pairs of user and privilege. 20,000: our choice, as of quota.
pub const MAX_PRIVILEGES: usize = 20_000;

/// That a user holds a privilege.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantedPrivilege {
    /// Since when, in cell time.
    pub at: Millis,
    /// By whom it was granted.
    pub by: UserName,
}

impl CellState {
    /// Whether a user may do what a privilege allows.
    #[must_use]
    pub fn holds(&self, user: &UserName, privilege: Privilege) -> bool {
        let granted = |privilege| self.privileges.contains_key(&(user.clone(), privilege));
        user.as_str() == ADMIN || granted(privilege) || granted(Privilege::Admin)
    }

    /// Whether a user is an administrator: `admin`, or was granted to be as that.
    #[must_use]
    pub fn is_admin(&self, user: &UserName) -> bool {
        self.holds(user, Privilege::Admin)
    }

    /// What was granted to whom, by user and privilege.
    pub fn privileges(&self) -> impl Iterator<Item = (&UserName, Privilege, &GrantedPrivilege)> {
        self.privileges.iter().map(|((user, privilege), granted)| (user, *privilege, granted))
    }

    /// The live jobs whose tasks do without some isolation.
    pub fn loosened_jobs(&self) -> impl Iterator<Item = &Job> {
        let loosens =
            |job: &&Job| job.held_versions().any(|version| !version.spec.task.loosen.is_empty());
        self.jobs().filter(|job| job.is_alive()).filter(loosens)
    }
}

impl Turn<'_> {
    /// Grants a privilege. Again changes nothing.
    pub(super) fn grant_privilege(
        &mut self,
        by: &UserName,
        user: &UserName,
        privilege: Privilege,
    ) -> Result<Answer, Rejection> {
        not_of_admin(user)?;
        let key = (user.clone(), privilege);
        if self.state.privileges.contains_key(&key) {
            return Ok(Answer::None);
        }
        let there = self.state.privileges.len();
        if there >= MAX_PRIVILEGES {
            let what = "privileges of users".to_owned();
            let (there, most) = (there as u64, MAX_PRIVILEGES as u64);
            return Err(Rejection::CellFull { what, there, most });
        }
        self.state.privileges.insert(key, GrantedPrivilege { at: self.at, by: by.clone() });
        self.tell_privilege(user, privilege, PrivilegeChange::Granted);
        Ok(Answer::None)
    }

    /// Takes a privilege back.
    pub(super) fn revoke_privilege(
        &mut self,
        user: &UserName,
        privilege: Privilege,
    ) -> Result<Answer, Rejection> {
        not_of_admin(user)?;
        if self.state.privileges.remove(&(user.clone(), privilege)).is_none() {
            return Err(PrivilegeRejection::NotGranted { user: user.clone(), privilege }.into());
        }
        self.tell_privilege(user, privilege, PrivilegeChange::Revoked);
        Ok(Answer::None)
    }

    fn tell_privilege(&mut self, user: &UserName, privilege: Privilege, change: PrivilegeChange) {
        self.emit(EventKind::PrivilegeChanged { user: user.clone(), privilege, change });
    }

    /// Whether the user may submit a job that does without so much isolation.
    pub(super) fn check_privileges(
        &self,
        user: &UserName,
        spec: &JobSpec,
    ) -> Result<(), Rejection> {
        let reserved = (!spec.task.reclaim).then_some(Privilege::Reservation);
        let mut needed = spec.task.loosen.iter().copied().chain(reserved);
        match needed.find(|privilege| !self.state.holds(user, *privilege)) {
            None => Ok(()),
            Some(privilege) => {
                Err(PrivilegeRejection::NotHeld { user: user.clone(), privilege }.into())
            }
        }
    }
}

/// Whoever could take something from `admin` could lock everybody out.
fn not_of_admin(user: &UserName) -> Result<(), Rejection> {
    if user.as_str() == ADMIN { Err(PrivilegeRejection::OfAdmin.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{Cell, service, user, with_task};
    use crate::rejection::{Rejection, RejectionCode};
    use borg_proto::command::Action;
    use borg_proto::{Band, JobSpec, Privilege};

    fn grant(
        cell: &mut Cell,
        by: &str,
        who: &str,
        privilege: Privilege,
    ) -> Result<usize, Rejection> {
        let action = Action::GrantPrivilege { user: who.parse().unwrap(), privilege };
        cell.apply(user(by), action).map(|applied| applied.events.len())
    }

    fn revoke(
        cell: &mut Cell,
        by: &str,
        who: &str,
        privilege: Privilege,
    ) -> Result<usize, Rejection> {
        let action = Action::RevokePrivilege { user: who.parse().unwrap(), privilege };
        cell.apply(user(by), action).map(|applied| applied.events.len())
    }

    fn loosened(name: &str, by: &[Privilege]) -> JobSpec {
        with_task(service(name, 1, 100, 4 << 20), |task| {
            task.loosen = by.iter().copied().collect();
        })
    }

    #[test]
    fn a_job_loosens_nothing_that_its_user_does_not_hold() {
        let mut cell = Cell::new();
        let both = [Privilege::Listen, Privilege::Devices];
        let refused = cell.try_submit("ann", loosened("web", &both)).unwrap_err();
        assert_eq!(refused.code(), RejectionCode::PermissionDenied);
        assert_eq!(
            refused.to_string(),
            "task.loosen: listen needs the privilege listen, which user ann does not hold. Ask an \
             admin for: borgctl privilege grant ann listen"
        );
        grant(&mut cell, "admin", "ann", Privilege::Listen).unwrap();
        let refused = cell.try_submit("ann", loosened("web", &both)).unwrap_err().to_string();
        assert!(refused.ends_with("grant ann devices"), "{refused}");
        cell.try_submit("bob", loosened("web", &[Privilege::Listen])).unwrap_err();
        cell.submit("ann", loosened("web", &[Privilege::Listen]));
        cell.submit("admin", loosened("all", &both));
        let jobs: Vec<_> = cell.state.loosened_jobs().map(|job| job.key.to_string()).collect();
        assert_eq!(jobs, ["ann/web", "admin/all"]);
    }

    #[test]
    fn what_was_admitted_stays_when_its_privilege_is_taken_back() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 1 << 30);
        grant(&mut cell, "admin", "ann", Privilege::Listen).unwrap();
        let job = cell.submit("ann", loosened("web", &[Privilege::Listen]));
        assert_eq!(revoke(&mut cell, "admin", "ann", Privilege::Listen).unwrap(), 1);
        let id = cell.place(job, 0, machine).unwrap();
        cell.up(id);
        assert_eq!(cell.state.loosened_jobs().count(), 1);
        cell.try_submit("ann", loosened("more", &[Privilege::Listen])).unwrap_err();
        let refused = revoke(&mut cell, "admin", "ann", Privilege::Listen).unwrap_err();
        assert_eq!(refused.code(), RejectionCode::NotFound);
        assert_eq!(refused.to_string(), "user ann was not granted the privilege listen");
        cell.kill("ann", "ann/web", &[]).unwrap();
        assert_eq!(cell.state.loosened_jobs().count(), 0);
    }

    #[test]
    fn only_administrators_grant_and_whoever_was_made_one_does_as_admin() {
        let mut cell = Cell::new();
        let refused = grant(&mut cell, "ann", "ann", Privilege::Listen).unwrap_err();
        assert_eq!(refused.to_string(), "user ann may not grant a privilege: that needs admin");
        revoke(&mut cell, "ann", "bob", Privilege::Listen).unwrap_err();
        cell.submit("bob", service("web", 1, 100, 4 << 20));
        cell.kill("ann", "bob/web", &[]).unwrap_err();
        assert_eq!(grant(&mut cell, "admin", "ann", Privilege::Admin).unwrap(), 1);
        assert_eq!(grant(&mut cell, "admin", "ann", Privilege::Admin).unwrap(), 0, "held already");
        cell.kill("ann", "bob/web", &[]).unwrap();
        cell.submit("ann", loosened("own", &[Privilege::MachineIds]));
        assert_eq!(grant(&mut cell, "ann", "bob", Privilege::Listen).unwrap(), 1);
        revoke(&mut cell, "admin", "ann", Privilege::Admin).unwrap();
        grant(&mut cell, "ann", "bob", Privilege::Devices).unwrap_err();
        assert!(cell.state.holds(&"bob".parse().unwrap(), Privilege::Listen));
    }

    #[test]
    fn admin_cannot_be_shorn_of_anything() {
        let mut cell = Cell::new();
        grant(&mut cell, "admin", "eve", Privilege::Admin).unwrap();
        for refused in [
            revoke(&mut cell, "eve", "admin", Privilege::Admin),
            grant(&mut cell, "eve", "admin", Privilege::Listen),
        ] {
            assert_eq!(
                refused.unwrap_err().to_string(),
                "user: admin holds every privilege, whatever is granted or taken back"
            );
        }
    }

    #[test]
    fn monitoring_is_open_to_whoever_holds_it_until_the_band_is_enforced() {
        let mut cell = Cell::new();
        cell.apply(crate::fixture::master(), Action::RaiseLevel { level: 5 }).unwrap();
        let probe = |name: &str| JobSpec {
            priority: Band::Monitoring.default_priority(),
            ..service(name, 1, 100, 4 << 20)
        };
        let refused = cell.try_submit("ann", probe("probe")).unwrap_err().to_string();
        assert!(refused.ends_with("borgctl privilege grant ann monitoring"), "{refused}");
        grant(&mut cell, "admin", "ann", Privilege::Monitoring).unwrap();
        cell.submit("ann", probe("probe"));
        let bands = vec![Band::Monitoring];
        cell.apply(user("admin"), Action::EnforceQuota { bands, on: true }).unwrap();
        let refused = cell.try_submit("ann", probe("more")).unwrap_err();
        assert_eq!(refused.code(), RejectionCode::PermissionDenied);
    }
}
