//! Whose tasks may be placed on a machine: everybody's, those of some users for whom it is kept, or
//! nobody's while it is closed.
//!
//! About placing alone: what runs stays, and users for whom machines are kept may go elsewhere too.
//! What is asked for is done for all machines that are named, or for none.

use super::turn::Turn;
use super::{Answer, Machine};
use crate::event::{AccessChange, EventKind};
use crate::rejection::Rejection;
use borg_proto::{MachineId, MachineName, Millis, UserName};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Why no task is placed on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Since when.
    pub since: Millis,
    /// Who closed it.
    pub by: UserName,
    /// Why, for people.
    pub reason: String,
}

impl Machine {
    /// Whether tasks of a user may be placed on it, as far as that is for others to say.
    ///
    /// # Errors
    /// When it is closed or drained, or kept for others.
    pub fn admits(&self, user: &UserName) -> Result<(), Rejection> {
        self.admits_beside_drain(user)?;
        let Some(drain) = &self.drain else { return Ok(()) };
        let (machine, reason) = (self.name.clone(), format!("drained: {}", drain.reason));
        Err(Rejection::MachineClosed { machine, reason })
    }

    /// The same of tasks that may be there while it is drained.
    ///
    /// # Errors
    /// When it is closed, or kept for others.
    pub fn admits_beside_drain(&self, user: &UserName) -> Result<(), Rejection> {
        if let Some(closed) = &self.closed {
            let (machine, reason) = (self.name.clone(), closed.reason.clone());
            return Err(Rejection::MachineClosed { machine, reason });
        }
        if self.is_kept_from(user) {
            return Err(Rejection::MachineKept { machine: self.name.clone(), user: user.clone() });
        }
        Ok(())
    }

    /// The names of the users for whom it is kept; none when it is for everybody.
    #[must_use]
    pub fn kept_for_names(&self) -> Vec<String> {
        self.kept_for.iter().flat_map(|users| users.iter()).map(ToString::to_string).collect()
    }

    /// Whether it is kept for others than this user.
    #[must_use]
    pub fn is_kept_from(&self, user: &UserName) -> bool {
        self.kept_for.as_ref().is_some_and(|users| !users.contains(user))
    }
}

impl Turn<'_> {
    /// Keeps machines for some users; for everybody when none are named.
    pub(super) fn keep_machines(
        &mut self,
        machines: &[MachineName],
        users: &BTreeSet<UserName>,
    ) -> Result<Answer, Rejection> {
        let kept_for = (!users.is_empty()).then(|| Arc::new(users.clone()));
        for id in self.named(machines)? {
            if self.machine_mut(id).kept_for != kept_for {
                self.machine_mut(id).kept_for.clone_from(&kept_for);
                self.emit(EventKind::MachineAccess(id, AccessChange::Kept));
                self.clear_successors(id, "its machine is kept for others");
                self.fit_daemons(id);
            }
        }
        Ok(Answer::None)
    }

    /// Places no more tasks on machines. One that is closed already gets the new reason.
    pub(super) fn close_machines(
        &mut self,
        by: &UserName,
        machines: &[MachineName],
        reason: &str,
    ) -> Result<Answer, Rejection> {
        let at = self.at;
        for id in self.named(machines)? {
            let machine = self.machine_mut(id);
            let since = machine.closed.as_ref().map_or(at, |closed| closed.since);
            let closed = Closed { since, by: by.clone(), reason: reason.to_owned() };
            if machine.closed.as_deref() != Some(&closed) {
                machine.closed = Some(Arc::new(closed));
                self.emit(EventKind::MachineAccess(id, AccessChange::Closed));
                self.clear_successors(id, "its machine is closed");
            }
        }
        Ok(Answer::None)
    }

    /// Places tasks on machines again.
    pub(super) fn open_machines(&mut self, machines: &[MachineName]) -> Result<Answer, Rejection> {
        for id in self.named(machines)? {
            if self.machine_mut(id).closed.take().is_some() {
                self.emit(EventKind::MachineAccess(id, AccessChange::Opened));
                self.fit_daemons(id);
            }
        }
        Ok(Answer::None)
    }

    /// Machines by name, each of which must be there.
    pub(super) fn named(&self, machines: &[MachineName]) -> Result<Vec<MachineId>, Rejection> {
        let number = |name: &MachineName| {
            let id = self.state.machine_names.get(name).copied();
            id.ok_or_else(|| Rejection::NoSuchMachine { machine: name.clone() })
        };
        machines.iter().map(number).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{Cell, service, user};
    use crate::rejection::Rejection;
    use borg_proto::UserName;
    use borg_proto::command::Action;

    fn keep(cell: &mut Cell, machines: &[&str], users: &[&str]) -> Result<usize, Rejection> {
        let machines = machines.iter().map(|name| name.parse().unwrap()).collect();
        let users = users.iter().map(|name| name.parse().unwrap()).collect();
        let done = cell.apply(user("admin"), Action::KeepMachines { machines, users });
        done.map(|applied| applied.events.len())
    }

    fn close(cell: &mut Cell, machine: &str, reason: &str) -> Result<usize, Rejection> {
        let (machines, reason) = (vec![machine.parse().unwrap()], reason.to_owned());
        let done = cell.apply(user("admin"), Action::CloseMachines { machines, reason });
        done.map(|applied| applied.events.len())
    }

    #[test]
    fn a_machine_takes_no_tasks_of_others_than_those_it_is_kept_for() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 1 << 30);
        let (ann, bob) = (
            cell.submit("ann", service("web", 2, 100, 4 << 20)),
            cell.submit("bob", service("web", 2, 100, 4 << 20)),
        );
        cell.place(bob, 0, machine).unwrap();
        assert_eq!(keep(&mut cell, &["m-1"], &["ann"]).unwrap(), 1);
        assert_eq!(keep(&mut cell, &["m-1"], &["ann"]).unwrap(), 0, "as it is already");
        cell.place(ann, 0, machine).unwrap();
        let refused = cell.place(bob, 1, machine).unwrap_err();
        assert_eq!(refused.to_string(), "machine m-1 is kept for other users than bob");
        assert_eq!(cell.state.job(bob).unwrap().counts.running, 1, "what runs stays");
        keep(&mut cell, &["m-1"], &[]).unwrap();
        cell.place(bob, 1, machine).unwrap();
    }

    #[test]
    fn a_closed_machine_takes_nobodys_tasks_and_says_why() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 1 << 30);
        let job = cell.submit("ann", service("web", 2, 100, 4 << 20));
        cell.place(job, 0, machine).unwrap();
        assert_eq!(close(&mut cell, "m-1", "bad disk").unwrap(), 1);
        let since = cell.now;
        cell.wait(7);
        assert_eq!(close(&mut cell, "m-1", "new disk").unwrap(), 1);
        assert_eq!(close(&mut cell, "m-1", "new disk").unwrap(), 0);
        let closed = cell.state.machine(machine).unwrap().closed.clone().unwrap();
        assert_eq!((closed.since, closed.by.as_str()), (since, "admin"));
        let refused = cell.place(job, 1, machine).unwrap_err();
        assert_eq!(refused.to_string(), "machine m-1 is closed to new tasks: new disk");
        assert_eq!(cell.state.job(job).unwrap().counts.running, 1);
        let open = || Action::OpenMachines { machines: vec!["m-1".parse().unwrap()] };
        assert_eq!(cell.apply(user("admin"), open()).unwrap().events.len(), 1);
        assert_eq!(cell.apply(user("admin"), open()).unwrap().events.len(), 0);
        cell.place(job, 1, machine).unwrap();
    }

    #[test]
    fn only_admin_says_who_may_use_machines_and_all_of_them_must_be_there() {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 1000, 1 << 30);
        let refused = keep(&mut cell, &["m-1", "m-9"], &["ann"]).unwrap_err();
        assert_eq!(refused.to_string(), "there is no machine m-9");
        assert_eq!(cell.state.machine(machine).unwrap().kept_for, None, "all or none");
        let machines = || vec!["m-1".parse().unwrap()];
        let users = [UserName::new("ann").unwrap()].into();
        let actions = [
            (Action::KeepMachines { machines: machines(), users }, "keep machines"),
            (Action::CloseMachines { machines: machines(), reason: "x".into() }, "close machines"),
            (Action::OpenMachines { machines: machines() }, "open machines"),
        ];
        for (action, what) in actions {
            let refused = cell.apply(user("ann"), action).unwrap_err().to_string();
            assert_eq!(refused, format!("user ann may not {what}: that needs admin"));
        }
    }
}
