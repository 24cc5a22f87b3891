//! What is new in a machine's report, and how a follower puts it together again.
//!
//! Law: `fold(old, difference(old, new)) == new`, usage aside; usage travels by itself, or no
//! difference would ever be empty.

use borg_proto::machine::MachineInfo;
use borg_proto::names::IncarnationId;
use borg_proto::poll::{DataReport, MachineReport, TaskReport};
use std::cmp::Ordering;

/// How one report differs from an older one of the same machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// The machine's facts, when they changed.
    pub info: Option<MachineInfo>,
    /// Reports that are new or changed in more than usage.
    pub tasks: Vec<TaskReport>,
    /// Incarnations that are no longer there.
    pub gone: Vec<IncarnationId>,
    /// All that it says of data, when that changed.
    pub data: Option<Vec<DataReport>>,
}

impl Difference {
    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.info.is_none() && self.tasks.is_empty() && self.gone.is_empty() && self.data.is_none()
    }
}

/// What `new` says that `old` did not. Both list tasks in order of id.
#[must_use]
pub fn difference(old: &MachineReport, new: &MachineReport) -> Difference {
    let mut found = Difference {
        info: (old.info != new.info).then(|| new.info.clone()),
        data: (old.data != new.data).then(|| new.data.clone()),
        ..Difference::default()
    };
    let mut before = old.tasks.iter().peekable();
    let mut after = new.tasks.iter().peekable();
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return found,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(was), Some(is)) => was.id.cmp(&is.id),
        };
        match order {
            Ordering::Less => found.gone.extend(before.next().map(|was| was.id)),
            Ordering::Greater => found.tasks.extend(after.next().cloned()),
            Ordering::Equal => {
                if let (Some(was), Some(is)) = (before.next(), after.next())
                    && !same_but_for_usage(was, is)
                {
                    found.tasks.push(is.clone());
                }
            }
        }
    }
}

fn same_but_for_usage(a: &TaskReport, b: &TaskReport) -> bool {
    a.status == b.status
        && a.restarts == b.restarts
        && a.last_failure == b.last_failure
        && a.ports == b.ports
        && a.health == b.health
        && a.status_line == b.status_line
        && a.last_run == b.last_run
        && a.start == b.start
}

/// The report that `difference` was made from, usage of unchanged tasks aside.
#[must_use]
pub fn fold(old: &MachineReport, difference: &Difference) -> MachineReport {
    let info = difference.info.clone().unwrap_or_else(|| old.info.clone());
    let replaced =
        |id| difference.gone.contains(&id) || difference.tasks.iter().any(|task| task.id == id);
    let kept = old.tasks.iter().filter(|task| !replaced(task.id)).cloned();
    let mut tasks: Vec<_> = kept.chain(difference.tasks.iter().cloned()).collect();
    tasks.sort_by_key(|task| task.id);
    let data = difference.data.clone().unwrap_or_else(|| old.data.clone());
    // Who holds which blobs is told to nobody.
    MachineReport { info, tasks, blobs: Vec::new(), data }
}
