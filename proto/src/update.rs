//! Updates: how the tasks of a job go from one version of its specification to the next.
//!
//! What an update does, and when it is good or bad, is the state's to say; here is what may be asked for.

use crate::disruption::Share;
use crate::indexes::IndexSet;
use crate::spec::{JobSpec, MAX_TASKS, SpecError, check_range, refuse};
use crate::time::Millis;
use std::fmt;
use std::sync::Arc;

/// How long a task must serve for it to count as good, when nobody says. 10 s: our choice, three
/// probes of a health check with default settings.
pub const DEFAULT_MIN_HEALTHY: Millis = Millis(10_000);
/// Longest time that may be asked for. A day: our choice.
pub const MAX_MIN_HEALTHY: Millis = Millis(86_400_000);
/// How long a task may take from being placed until it serves, when nobody says. 10 minutes: our choice,
/// as Kubernetes has it.
pub const DEFAULT_DEADLINE: Millis = Millis(600_000);
/// Longest deadline that may be asked for. A week: our choice.
pub const MAX_DEADLINE: Millis = Millis(7 * 86_400_000);
/// Most indexes of an order that is given as a list. 1,000: our choice; the others follow by index.
pub const MAX_ORDER: usize = 1_000;

/// What a job is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revision {
    /// This.
    Spec(Arc<JobSpec>),
    /// What it was in a version that is kept.
    Version(u32),
    /// The same, with so many tasks.
    Tasks(u32),
    /// The same, each task started anew.
    Restart,
}

/// Which tasks go first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Order {
    /// By index.
    #[default]
    Ascending,
    /// By index, the last first.
    Descending,
    /// In an order that follows from this number.
    Random(u64),
    /// These first, as they stand here; then the others by index.
    Listed(Vec<u32>),
}

/// What becomes of an update of which too many tasks turned out bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// The tasks go back to what they were.
    #[default]
    RollBack,
    /// It waits for somebody to say what to do.
    Pause,
}

/// Whether a task that has to start anew is started elsewhere first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replacement {
    /// Only one that cannot stay where it is. The others start anew on their machine, where their data is.
    #[default]
    ForMoves,
    /// Each of them, where there is room: nobody is down for the update.
    First,
    /// None: each is taken down, and started where it is, or elsewhere.
    InPlace,
}

/// How an update is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateOptions {
    /// How many tasks are on their way at once, at most; `None`: as many as the job's disruption
    /// budget allows, which always holds too.
    pub most: Option<Share>,
    /// How long a task must serve before the next one goes.
    pub min_healthy_ms: Millis,
    /// How long a task may take from being placed until it serves.
    pub deadline_ms: Millis,
    /// The tasks that go first, and alone until somebody says to go on.
    pub canary: Option<IndexSet>,
    /// The only tasks that go; `None`: all.
    pub tasks: Option<IndexSet>,
    /// Which go first.
    pub order: Order,
    /// What happens when it is bad.
    pub on_failure: OnFailure,
    /// How many tasks may fail without it being bad.
    pub failures: u32,
    /// Whether it cannot be undone any more as soon as it is done.
    pub close: bool,
    /// Which tasks are started elsewhere before they are taken down.
    pub replacement: Replacement,
}

impl Default for UpdateOptions {
    fn default() -> Self {
        Self {
            most: None,
            min_healthy_ms: DEFAULT_MIN_HEALTHY,
            deadline_ms: DEFAULT_DEADLINE,
            canary: None,
            tasks: None,
            order: Order::Ascending,
            on_failure: OnFailure::RollBack,
            failures: 0,
            close: false,
            replacement: Replacement::ForMoves,
        }
    }
}

impl UpdateOptions {
    /// Checks every bound, for a job of so many tasks.
    ///
    /// # Errors
    /// The first field that is out of bounds, with what is allowed.
    pub fn check(&self, tasks: u32) -> Result<(), SpecError> {
        if let Some(most) = self.most {
            most.check("most")?;
            if most.is_none() {
                return refuse("most", most, "lets no task go: at least 1 at a time");
            }
        }
        check_range("min_healthy_ms", self.min_healthy_ms.0, 0, MAX_MIN_HEALTHY.0)?;
        check_range("deadline_ms", self.deadline_ms.0, 1, MAX_DEADLINE.0)?;
        check_range("failures", self.failures.into(), 0, MAX_TASKS.into())?;
        within("tasks", self.tasks.as_ref(), tasks)?;
        within("canary", self.canary.as_ref(), tasks)?;
        if let (Some(canary), Some(all)) = (&self.canary, &self.tasks)
            && let Some(index) = canary.iter().find(|index| !all.contains(*index))
        {
            let why = format!("has task {index}, which is not among the tasks to update, {all}");
            return refuse("canary", canary, why);
        }
        let Order::Listed(order) = &self.order else { return Ok(()) };
        if order.len() > MAX_ORDER {
            return refuse("order", format!("{} indexes", order.len()), "are more than 1000");
        }
        let mut seen = std::collections::BTreeSet::new();
        match order.iter().find(|index| **index >= tasks || !seen.insert(**index)) {
            None => Ok(()),
            Some(index) if *index >= tasks => refuse("order", index, no_such(tasks)),
            Some(index) => refuse("order", index, "is there twice"),
        }
    }
}

fn no_such(tasks: u32) -> String {
    format!("is no task of the job: it has 0 to {}", tasks.saturating_sub(1))
}

/// Whether a job of so many tasks has all of these.
///
/// # Errors
/// With the first that it has not.
pub fn within(field: &str, set: Option<&IndexSet>, tasks: u32) -> Result<(), SpecError> {
    match set.map(IndexSet::last).filter(|last| *last >= tasks) {
        None => Ok(()),
        Some(last) => refuse(field, last, no_such(tasks)),
    }
}

/// What an owner may say to an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Steer {
    /// No more tasks go for now.
    Pause,
    /// They go again; also beyond the canary.
    Resume,
    /// The tasks go back to what they were.
    Undo,
    /// It is good: it cannot be undone any more.
    Close,
}

impl Steer {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pause, Self::Resume, Self::Undo, Self::Close];
}

impl fmt::Display for Steer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Undo => "undo",
            Self::Close => "close",
        })
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ascending => f.write_str("ascending"),
            Self::Descending => f.write_str("descending"),
            Self::Random(_) => f.write_str("random"),
            Self::Listed(order) => write!(f, "{} listed tasks first", order.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut UpdateOptions)) -> String {
        let mut options = UpdateOptions::default();
        change(&mut options);
        options.check(10).unwrap_err().to_string()
    }

    #[test]
    fn bounds_are_named_by_field() {
        UpdateOptions::default().check(1).unwrap();
        assert_eq!(
            refused(|o| o.most = Some(Share::Tasks(0))),
            "most: 0 lets no task go: at least 1 at a time"
        );
        assert_eq!(
            refused(|o| o.canary = "8-12".parse().ok()),
            "canary: 12 is no task of the job: it has 0 to 9"
        );
        assert_eq!(
            refused(|o| {
                o.tasks = "0-4".parse().ok();
                o.canary = "4-5".parse().ok();
            }),
            "canary: 4-5 has task 5, which is not among the tasks to update, 0-4"
        );
        assert_eq!(refused(|o| o.order = Order::Listed(vec![3, 1, 3])), "order: 3 is there twice");
        assert_eq!(
            refused(|o| o.deadline_ms = Millis(0)),
            "deadline_ms: 0 is outside 1 to 604800000"
        );
    }
}
