//! What the leader believes of a machine is something that the machine has said, whole, and what
//! it believes next was said later (I10, I11).
//!
//! So no difference is folded twice, left out, or put upon another report than its own.

use borg_proto::MachineId;
use borg_proto::poll::{MachineReport, ReportVersion, TaskReport};
use std::collections::{BTreeMap, VecDeque};

/// Reports of a machine that are remembered: more than are ever on their way.
const KEPT: usize = 400;

/// What each machine has said lately, and what of it a leader believed last.
#[derive(Debug)]
pub struct Views {
    said: Vec<Said>,
    /// By leader's term and machine.
    believed: BTreeMap<(u64, MachineId), u64>,
}

#[derive(Debug, Default)]
struct Said {
    /// The number of the oldest that is remembered.
    first: u64,
    /// Of the newest.
    version: ReportVersion,
    reports: VecDeque<MachineReport>,
}

impl Views {
    pub(crate) fn new(machines: usize) -> Self {
        Self { said: (0..machines).map(|_| Said::default()).collect(), believed: BTreeMap::new() }
    }

    /// Leaders are counted anew, in a new epoch of the cell.
    pub(crate) fn restored(&mut self) {
        self.believed.clear();
    }

    /// A machine answers with this report. One version is one report.
    pub fn said(&mut self, machine: usize, version: ReportVersion, report: &MachineReport) {
        let said = &mut self.said[machine];
        if said.version == version {
            return;
        }
        said.version = version;
        said.reports.push_back(report.clone());
        if said.reports.len() > KEPT {
            said.reports.pop_front();
            said.first += 1;
        }
    }

    /// The leader of a term believes this of a machine.
    ///
    /// # Errors
    /// When the machine never said it, or the leader believed something newer before.
    pub fn believed(
        &mut self,
        term: u64,
        id: MachineId,
        machine: usize,
        view: &MachineReport,
    ) -> Result<(), String> {
        let said = &self.said[machine];
        let before = self.believed.get(&(term, id)).copied().unwrap_or(0);
        let from = usize::try_from(before.saturating_sub(said.first)).expect("few are remembered");
        // A machine may say the same again later: the oldest that fits is the one that is meant.
        let found = said.reports.iter().skip(from).position(|report| same(report, view));
        let Some(found) = found else {
            let older = said.reports.iter().take(from).any(|report| same(report, view));
            let why = if older { "believed something newer before" } else { "never said that" };
            let who = if older { "the leader" } else { "the machine" };
            return Err(format!(
                "of m{machine} the leader of term {term} believes {view:?}, but {who} {why}"
            ));
        };
        let number = said.first + u64::try_from(from + found).expect("few");
        if term > self.believed.last_key_value().map_or(0, |((newest, _), _)| *newest) {
            self.believed.retain(|(old, _), _| old + 8 > term);
        }
        self.believed.insert((term, id), number);
        Ok(())
    }
}

/// Whether two reports say the same but for usage, which is told in summaries, and status lines, which are as
/// soft.
fn same(one: &MachineReport, other: &MachineReport) -> bool {
    let said = |task: &'_ TaskReport| {
        let TaskReport {
            id,
            status,
            restarts,
            last_failure,
            usage: _,
            ports,
            health,
            status_line: _,
            last_run,
            start,
            address,
        } = task;
        let own = (*health, last_run.clone(), *start, *address);
        (*id, status.clone(), *restarts, last_failure.clone(), ports.clone(), own)
    };
    let same_task = |(one, other)| said(one) == said(other);
    one.tasks.len() == other.tasks.len()
        && one.tasks.iter().zip(&other.tasks).all(same_task)
        && one.info == other.info
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_proto::poll::{TaskStatus, Usage};
    use borg_proto::{IncarnationId, JobId, MachineInfo, Resources, TaskId};

    fn report(tasks: &[u32]) -> MachineReport {
        let info = MachineInfo {
            capacity: Resources::default(),
            first_port: 0,
            attributes: BTreeMap::new(),
            boot_id: "boot".into(),
            missing_isolation: Vec::new(),
            task_host: "host".into(),
        };
        let task = |number: &u32| TaskReport {
            id: IncarnationId { task: TaskId { job: JobId(1), index: 0 }, number: *number },
            status: TaskStatus::Starting,
            restarts: 0,
            last_failure: None,
            usage: Usage { cpu_milli: u64::from(*number), ..Usage::default() },
            health: borg_proto::Health::Unchecked,
            ports: Vec::new(),
            status_line: String::new(),
            last_run: None,
            start: None,
            address: None,
        };
        let tasks = tasks.iter().map(task).collect();
        MachineReport { info, tasks, blobs: Vec::new(), data: Vec::new() }
    }

    const M: MachineId = MachineId(0);

    #[test]
    fn a_view_that_was_never_said_and_one_that_goes_back_are_noticed() {
        let mut views = Views::new(1);
        for (number, tasks) in (1..).zip([&[][..], &[1], &[1, 2], &[2]]) {
            views.said(0, ReportVersion { session: 1, number }, &report(tasks));
        }
        views.believed(3, M, 0, &report(&[1])).unwrap();
        views.believed(3, M, 0, &report(&[2])).unwrap();
        let torn = views.believed(3, M, 0, &report(&[3])).unwrap_err();
        assert!(torn.contains("never said"), "{torn}");
        let back = views.believed(3, M, 0, &report(&[1])).unwrap_err();
        assert!(back.contains("newer before"), "{back}");
        views.believed(4, M, 0, &report(&[1])).unwrap();
    }

    #[test]
    fn usage_alone_is_no_other_report() {
        let mut views = Views::new(1);
        let mut said = report(&[1]);
        views.said(0, ReportVersion { session: 1, number: 1 }, &said);
        said.tasks[0].usage.cpu_milli = 99;
        views.believed(1, M, 0, &said).unwrap();
    }
}
