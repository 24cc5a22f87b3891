//! What goes on by itself on the machine: usage is measured, old logs go.

use crate::container::ContainerId;
use crate::packages::Packages;
use crate::tasks::{Tasks, blocking};
use crate::{clock, clock::Stopwatch};
use borg_proto::poll::Usage;
use borg_proto::{IncarnationId, in_full};
use borglet_supervisor::Input;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often usage is measured.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// How often old logs are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// How long the logs of a run that is over are kept, in milliseconds. Our choice: a day.
const KEEP_LOGS_MS: u64 = 24 * 3600 * 1000;
/// Most runs whose logs are kept; the oldest go first. Our choice.
const KEEP_LOGS: usize = 1_000;

/// Works until `stop`.
pub(crate) async fn run(tasks: Tasks, packages: Packages, stop: CancellationToken) {
    let (mut sample, mut sweep) = (interval(SAMPLE_EVERY), interval(SWEEP_EVERY));
    sample.set_missed_tick_behavior(MissedTickBehavior::Delay);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = Samples::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = sample.tick() => {
                packages.tell_progress();
                let work = tasks.clone();
                let (usages, now) = blocking(move || measure(&work, &before)).await;
                before = now;
                if !usages.is_empty() {
                    tasks.tell_if_room(Input::Usage(usages));
                }
            }
            _ = sweep.tick() => {
                let work = tasks.clone();
                blocking(move || remove_old_logs(&work)).await;
            }
        }
    }
}

/// Processor time of each container in milliseconds, and since when that is known.
type Samples = BTreeMap<ContainerId, (u64, Stopwatch)>;

fn measure(tasks: &Tasks, before: &Samples) -> (Vec<(IncarnationId, Usage)>, Samples) {
    let (mut usages, mut samples) = (Vec::new(), Samples::new());
    for (id, container) in tasks.running() {
        // It may be ending just now.
        let Ok(usage) = tasks.executor().usage(&container) else { continue };
        let cpu_milli = before.get(&container).map_or(0, |(cpu_ms, since)| {
            let passed_ms = since.millis().max(1);
            usage.cpu_ms.saturating_sub(*cpu_ms).saturating_mul(1000) / passed_ms
        });
        usages.push((id, Usage { cpu_milli, ram_bytes: usage.working_set_bytes }));
        samples.insert(container, (usage.cpu_ms, clock::stopwatch()));
    }
    (usages, samples)
}

fn remove_old_logs(tasks: &Tasks) {
    let mut kept = match tasks.executor().kept_logs() {
        Ok(kept) => kept,
        Err(error) => return tracing::warn!(error = in_full(&error), "cannot list logs"),
    };
    kept.sort_by_key(|(_, changed)| *changed);
    let too_many = kept.len().saturating_sub(KEEP_LOGS);
    let oldest = clock::now().0.saturating_sub(KEEP_LOGS_MS);
    for (place, (container, changed)) in kept.iter().enumerate() {
        if place >= too_many && *changed >= oldest {
            break;
        }
        if let Err(error) = tasks.executor().remove_logs(container) {
            tracing::warn!(%container, error = in_full(&error), "logs not removed");
        }
    }
}
