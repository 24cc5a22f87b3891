//! What goes on by itself on the machine: usage is measured, old logs and parts of blobs go.

use crate::clock;
use crate::container::ContainerId;
use crate::packages::Packages;
use crate::tasks::{Tasks, blocking};
use crate::usage::Sampler;
use borg_proto::blobs::Dropped;
use borg_proto::{IncarnationId, in_full};
use borglet_supervisor::Input;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often usage is measured.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// How often what is old is looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Most runs whose logs are kept; the oldest go first. Our choice.
const KEEP_LOGS: usize = 1_000;

/// Works until `stop`.
pub(crate) async fn run(
    tasks: Tasks,
    packages: Packages,
    mut sampler: Sampler,
    keep_logs: Duration,
    stop: CancellationToken,
) {
    let (mut sample, mut sweep) = (interval(SAMPLE_EVERY), interval(SWEEP_EVERY));
    sample.set_missed_tick_behavior(MissedTickBehavior::Delay);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Containers in which something ran and whose status lines were not told yet: another chance comes each second.
    let mut unsaid = BTreeMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = sample.tick() => {
                packages.tell_progress();
                let work = tasks.clone();
                let sampling = move || {
                    let (input, ran) = sampler.sample(&work);
                    unsaid.extend(ran);
                    (input, status_lines(&work, &unsaid), sampler, unsaid)
                };
                let (input, lines, back, saying) = blocking(sampling).await;
                (sampler, unsaid) = (back, saying);
                if lines.is_empty() || tasks.tell_if_room(Input::StatusLines(lines)) {
                    unsaid.clear();
                }
                // The next one says it all again.
                tasks.tell_if_room(input);
            }
            _ = sweep.tick() => {
                let (work, blobs) = (tasks.clone(), packages.store().blobs().clone());
                blocking(move || {
                    remove_old_logs(&work, keep_logs);
                    let swept = blobs.drop_old_parts().and_then(Dropped::remove);
                    if let Err(error) = swept {
                        tracing::warn!(%error, "old parts of blobs not removed");
                    }
                })
                .await;
            }
        }
    }
}

/// What tasks say of themselves, of those in which something ran: nobody else can have said anything new.
fn status_lines(
    tasks: &Tasks,
    ran: &BTreeMap<IncarnationId, ContainerId>,
) -> Vec<(IncarnationId, String)> {
    ran.iter().map(|(id, container)| (*id, tasks.executor().status_line(container))).collect()
}

fn remove_old_logs(tasks: &Tasks, keep_logs: Duration) {
    let mut kept = match tasks.executor().kept_logs() {
        Ok(kept) => kept,
        Err(error) => return tracing::warn!(error = in_full(&error), "cannot list logs"),
    };
    kept.sort_by_key(|(_, changed)| *changed);
    let too_many = kept.len().saturating_sub(KEEP_LOGS);
    let oldest =
        clock::now().0.saturating_sub(u64::try_from(keep_logs.as_millis()).unwrap_or(u64::MAX));
    for (place, (container, changed)) in kept.iter().enumerate() {
        if place >= too_many && *changed >= oldest {
            break;
        }
        if let Err(error) = tasks.executor().remove_logs(container) {
            tracing::warn!(%container, error = in_full(&error), "logs not removed");
        }
    }
}
