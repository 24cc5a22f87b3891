//! What a name below the cell's zone stands for.
//!
//! `INDEX.JOB.USER`, `JOB.USER`, either of them behind `_PORT._tcp`, `master-N`, or the zone itself. A name
//! that only leads to such names exists too, with nothing of its own. Which records there are is `dns`'s.
//!
//! Invariant: no two of these can be taken for each other, as names of users and jobs begin with a letter or
//! digit, and how many labels there are says the rest.

use crate::state::{CellState, Job};
use borg_proto::names::{PortName, ReplicaId};
use borg_proto::{JobKey, UserName};

/// The label below which the ports of a name are: RFC 2782.
const PROTOCOL: &str = "_tcp";
/// What the names of masters begin with.
const MASTER: &str = "master-";

/// A name that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named<'a> {
    /// The zone itself.
    Zone,
    /// A master.
    Master(ReplicaId),
    /// Only names below it mean something.
    Between,
    /// A job or one of its tasks.
    Tasks(Tasks<'a>),
    /// One port of them. Of tasks of different versions it may be at different places.
    Port(Tasks<'a>, &'a PortName),
}

/// A job, or one of its tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tasks<'a> {
    /// The job.
    pub job: &'a Job,
    /// Which of its tasks; `None` for all.
    pub index: Option<u32>,
}

/// What the labels of a name, lower case and without those of the zone, stand for; `None` when there is no
/// such name.
pub(super) fn named<'a>(state: &'a CellState, labels: &[&str]) -> Option<Named<'a>> {
    let (user, rest) = match labels {
        [] => return Some(Named::Zone),
        [rest @ .., user] => (*user, rest),
    };
    let (job, rest) = match rest {
        [] => return master(state, user).or_else(|| has_jobs(state, user)),
        [rest @ .., job] => (*job, rest),
    };
    let key = JobKey { user: user.parse().ok()?, name: job.parse().ok()? };
    let job = state.job_named(&key)?;
    let (index, rest) = match rest {
        [rest @ .., index] if *index != PROTOCOL => (Some(task(job, index)?), rest),
        rest => (None, rest),
    };
    let tasks = Tasks { job, index };
    match rest {
        [] => Some(Named::Tasks(tasks)),
        [PROTOCOL] => Some(Named::Between),
        [port, PROTOCOL] => {
            let port = port.strip_prefix('_')?;
            let specs = job.versions().rev().map(|version| &version.spec.task);
            let port = specs.flat_map(|task| &task.ports).find(|name| name.as_str() == port)?;
            Some(Named::Port(tasks, port))
        }
        _ => None,
    }
}

/// One way to write a number, so that a task has one name.
fn task(job: &Job, label: &str) -> Option<u32> {
    let index = label.parse().ok().filter(|index: &u32| index.to_string() == label)?;
    job.task(index).map(|_| index)
}

fn master<'a>(state: &CellState, label: &str) -> Option<Named<'a>> {
    let number = label.strip_prefix(MASTER)?;
    let found = state.masters().find(|(id, _)| id.number().to_string() == number);
    found.map(|(id, _)| Named::Master(id))
}

/// The label of a master.
pub(super) fn of_master(id: ReplicaId) -> String {
    format!("{MASTER}{}", id.number())
}

fn has_jobs<'a>(state: &CellState, user: &str) -> Option<Named<'a>> {
    let user: UserName = user.parse().ok()?;
    state.has_jobs(&user).then_some(Named::Between)
}
