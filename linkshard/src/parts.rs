//! Long reports in several messages.

use borg_proto::peer::MachineDelta;
use borg_proto::poll::TaskStatus;

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
        text + ended + task.ports.len() * 4 + ITEM_BYTES
    });
    ITEM_BYTES + info + tasks.sum::<usize>() + delta.gone.len() * ITEM_BYTES
}
