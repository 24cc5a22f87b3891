//! Long reports in several messages.

use borg_proto::peer::MachineDelta;
use borg_proto::poll::{DataStatus, TaskStatus};

/// Bytes of differences in one report, about. Ours.
const MAX_REPORT_BYTES: usize = 1 << 20;
/// What each part of a difference takes besides its texts, at most about, in bytes.
const ITEM_BYTES: usize = 96;

/// Differences in messages of about [`MAX_REPORT_BYTES`], so that heartbeats on the same connection are not
/// late and none is larger than what is read.
pub(crate) fn in_parts(deltas: Vec<MachineDelta>) -> Vec<Vec<MachineDelta>> {
    let (mut parts, mut room) = (vec![Vec::new()], MAX_REPORT_BYTES);
    for delta in deltas {
        let bytes = about_bytes(&delta);
        if bytes > room && room < MAX_REPORT_BYTES {
            parts.push(Vec::new());
            room = MAX_REPORT_BYTES;
        }
        room = room.saturating_sub(bytes);
        parts.last_mut().expect("it begins with one").push(delta);
    }
    parts
}

/// How long a difference is in a message, about, in bytes.
fn about_bytes(delta: &MachineDelta) -> usize {
    let info = delta.info.as_ref().map_or(0, |info| {
        info.attributes.iter().map(|(name, value)| name.len() + value.len() + ITEM_BYTES).sum()
    });
    let tasks = delta.tasks.iter().map(|task| {
        let text = task.last_failure.as_ref().map_or(0, |cause| cause.to_string().len());
        let ended = match &task.status {
            TaskStatus::Ended { failure: Some(cause), .. } => cause.to_string().len(),
            TaskStatus::Fetching { trouble, .. } => trouble.len(),
            TaskStatus::Ended { failure: None, .. }
            | TaskStatus::Starting
            | TaskStatus::Up { .. }
            | TaskStatus::BackOff { .. }
            | TaskStatus::Stopping => 0,
        };
        // Its end and its last words once, and its cause again.
        let run = task.last_run.as_deref().map_or(0, |run| {
            let cause = run.failure.as_ref().map_or(0, |cause| cause.to_string().len());
            cause + run.last_lines.len() + ITEM_BYTES
        });
        let window = if task.usage.window.is_some() { ITEM_BYTES } else { 0 };
        let texts = text + ended + run + task.status_line.len();
        texts + window + task.ports.len() * 4 + 2 * ITEM_BYTES
    });
    let data = delta.data.iter().flatten().map(|data| match &data.status {
        DataStatus::Gone { why } => why.len() + ITEM_BYTES,
        DataStatus::InUse | DataStatus::AtRest { .. } => ITEM_BYTES,
    });
    let (tasks, data) = (tasks.sum::<usize>(), data.sum::<usize>());
    ITEM_BYTES + info + tasks + delta.gone.len() * ITEM_BYTES + data
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_proto::poll::TaskReport;
    use borg_proto::wire::pb;
    use pb::failure_cause::Kind;
    use pb::task_report::{Ended, Status};
    use prost::Message;

    /// All that a task's report may have, each as long as it may be.
    #[test]
    fn no_difference_is_longer_than_it_is_taken_for() {
        let cause = || Some(pb::FailureCause { kind: Some(Kind::Start("x".repeat(512))) });
        let id = || Some(pb::IncarnationId { job: u64::MAX, index: 0, number: u32::MAX });
        let largest = u64::MAX;
        let range =
            pb::usage_window::Range { p50: largest, p90: largest, p99: largest, max: largest };
        let window =
            pb::UsageWindow { since_ms: largest, cpu_milli: Some(range), ram_bytes: Some(range) };
        let run = pb::RunEnd {
            run: u32::MAX,
            started_ms: Some(largest),
            ended_ms: largest,
            failure: cause(),
            cpu_ms: largest,
            ram_peak_bytes: largest,
            last_lines: "x".repeat(1024),
        };
        let report = pb::TaskReport {
            id: id(),
            status: Some(Status::Ended(Ended { at_ms: largest, failure: cause() })),
            restarts: u32::MAX,
            last_failure: cause(),
            usage: Some(pb::Usage {
                cpu_milli: largest,
                ram_bytes: largest,
                cache_bytes: largest,
                disk_bytes: largest,
                io_bytes: largest,
                io_ops: largest,
                threads: u32::MAX,
                window: Some(window),
            }),
            ports: vec![65_535; 8],
            status_line: "x".repeat(256),
            last_run: Some(run),
            start: Some(pb::task_report::StartTime { total_ms: largest, packages_ms: largest }),
            ..pb::TaskReport::default()
        };
        let bare = pb::TaskReport {
            id: id(),
            status: Some(Status::Starting(pb::task_report::Starting {})),
            ..pb::TaskReport::default()
        };
        for report in [report, bare] {
            let delta = MachineDelta {
                machine: "m-1".parse().unwrap(),
                seq: 1,
                full: true,
                reachable: true,
                obeyed: 1,
                info: None,
                tasks: vec![TaskReport::try_from(report).unwrap(); 50],
                gone: Vec::new(),
                data: None,
            };
            let (taken, is) = (about_bytes(&delta), pb::MachineDelta::from(&delta).encoded_len());
            assert!(is <= taken && taken <= 10 * is, "{is} bytes are taken for {taken}");
        }
    }
}
