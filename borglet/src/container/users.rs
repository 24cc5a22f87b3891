//! Whose ids the processes of a task have.
//!
//! Best a range of the machine's ids that nothing else has: root in there is nobody out here, and
//! two tasks are strangers to each other (user_namespaces(7)). All other namespaces of a container
//! belong to the machine's root, so that a task has no power over its own mounts, host name or network
//! either.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};

use super::User;
use crate::sys;

/// How many ids a task has.
pub(crate) const IDS: u32 = 65_536;
/// The first id that tasks are given: above those of people, and of systemd's containers
/// (`0x7000_0000`). Ours.
pub(crate) const FIRST: u32 = 0x7000_0000;
/// How many tasks have a range of their own at once; ids end below the last two, which mean nobody.
pub(crate) const RANGES: u32 = (u32::MAX - 1 - FIRST) / IDS;

/// What root keeps inside a container, as a mask by capability number (linux/capability.h):
/// CHOWN 0, `DAC_OVERRIDE` 1, FOWNER 3, FSETID 4, KILL 5, SETGID 6, SETUID 7,
/// `NET_BIND_SERVICE` 10. Nothing that reaches devices, mounts, other tasks or the kernel.
const KEPT_CAPABILITIES: u64 = 0b100_1111_1011;

/// The ranges that are given out.
#[derive(Debug, Default)]
pub(crate) struct Ranges(BTreeSet<u32>);

impl Ranges {
    /// The first id of the lowest range that is free; `None` when none is.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let mut all = (0..RANGES).map(|number| FIRST + number * IDS);
        all.find(|first| self.0.insert(*first))
    }

    /// Notes that `users` were given theirs by an earlier borglet.
    pub(crate) fn hold(&mut self, users: Users) {
        if let Users::Range { first } = users {
            self.0.insert(first);
        }
    }

    /// Takes a range back.
    pub(crate) fn give_back(&mut self, users: Users) {
        if let Users::Range { first } = users {
            self.0.remove(&first);
        }
    }
}

/// Whose ids a task's processes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Users {
    /// The machine's: root in the task is root of the machine, with few capabilities.
    Machine,
    /// A range of its own: 0 in the task is `first` of the machine, and so on for [`IDS`].
    Range {
        /// The machine's id for the task's root.
        first: u32,
    },
    /// That of the borglet alone, who is not root. The namespace is the whole container's.
    Own {
        /// The borglet's user.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

impl Users {
    /// The borglet's own user.
    pub(crate) fn own() -> Self {
        Self::Own { uid: Uid::effective().as_raw(), gid: Gid::effective().as_raw() }
    }

    /// Those of a running task, by what the kernel says of its process: a range, or the machine's.
    pub(crate) fn of(pid: i32) -> Self {
        let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap_or_default();
        let numbers: Vec<u32> = map.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        match numbers.as_slice() {
            [0, first, IDS] => Self::Range { first: *first },
            _ => Self::Machine,
        }
    }

    /// The user namespace that the container as a whole is made in.
    pub(crate) fn around(self) -> CloneFlags {
        match self {
            Self::Own { .. } => CloneFlags::CLONE_NEWUSER,
            Self::Machine | Self::Range { .. } => CloneFlags::empty(),
        }
    }

    /// The user namespace that the task's first process is made in.
    pub(crate) fn inside(self) -> CloneFlags {
        match self {
            Self::Range { .. } => CloneFlags::CLONE_NEWUSER,
            Self::Machine | Self::Own { .. } => CloneFlags::empty(),
        }
    }

    /// The machine's ids of a user in the task.
    pub(crate) fn on_machine(self, user: Option<User>) -> User {
        let within = user.unwrap_or(User { uid: 0, gid: 0 });
        match self {
            Self::Machine => within,
            Self::Range { first } => User {
                uid: first.saturating_add(within.uid),
                gid: first.saturating_add(within.gid),
            },
            Self::Own { uid, gid } => User { uid, gid },
        }
    }

    /// Gives process `pid`, which is in a new user namespace, its ids. `proc` is where /proc shows it
    /// by that number.
    pub(crate) fn map(self, proc: &Path, pid: i32) -> io::Result<()> {
        let dir = proc.join(pid.to_string());
        let line = |first: u32, inside: u32, count: u32| format!("{inside} {first} {count}");
        match self {
            Self::Machine => Ok(()),
            Self::Range { first } => {
                let ids = line(first, 0, IDS);
                fs::write(dir.join("gid_map"), &ids)?;
                fs::write(dir.join("uid_map"), &ids)
            }
            Self::Own { uid, gid } => {
                // Without the right to change its groups, which could be a way around some.
                fs::write(dir.join("setgroups"), "deny")?;
                fs::write(dir.join("gid_map"), line(gid, gid, 1))?;
                fs::write(dir.join("uid_map"), line(uid, uid, 1))
            }
        }
    }

    /// Becomes `user` of the task, with the capabilities that a task may have.
    pub(crate) fn become_one(self, user: Option<User>, may_drop: bool) -> io::Result<()> {
        if matches!(self, Self::Range { .. }) {
            // Of an id that is nobody's here: to root first, so that the kernel takes root's rights
            // away from whoever is not.
            setgroups(&[])?;
            set_ids(User { uid: 0, gid: 0 })?;
        }
        if may_drop {
            let kept = if matches!(self, Self::Own { .. }) { 0 } else { KEPT_CAPABILITIES };
            sys::keep_capabilities(kept)?;
        }
        let Some(user) = user else { return Ok(()) };
        if matches!(self, Self::Machine) {
            setgroups(&[])?;
        }
        set_ids(user)
    }
}

fn set_ids(user: User) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    setresgid(gid, gid, gid)?;
    Ok(setresuid(uid, uid, uid)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_range_ends_before_the_ids_that_mean_nobody() {
        let last = FIRST + (RANGES - 1) * IDS;
        assert!(last.checked_add(IDS - 1).is_some_and(|id| id < u32::MAX - 1));
        let root = Users::Range { first: last }.on_machine(None);
        assert_eq!((root.uid, root.gid), (last, last));
        let user = Users::Range { first: FIRST }.on_machine(Some(User { uid: 1000, gid: 7 }));
        assert_eq!((user.uid, user.gid), (FIRST + 1000, FIRST + 7));
    }
}
