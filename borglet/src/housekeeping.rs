//! What goes on by itself on the machine: usage is measured, old logs go.

use crate::clock;
use crate::tasks::{Tasks, blocking};
use crate::usage::Sampler;
use borg_proto::in_full;
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
pub(crate) async fn run(tasks: Tasks, mut sampler: Sampler, stop: CancellationToken) {
    let (mut sample, mut sweep) = (interval(SAMPLE_EVERY), interval(SWEEP_EVERY));
    sample.set_missed_tick_behavior(MissedTickBehavior::Delay);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = sample.tick() => {
                let work = tasks.clone();
                let sampling = move || {
                    let input = sampler.sample(&work);
                    (input, sampler)
                };
                let (input, back) = blocking(sampling).await;
                sampler = back;
                tasks.tell_if_room(input);
            }
            _ = sweep.tick() => {
                let work = tasks.clone();
                blocking(move || remove_old_logs(&work)).await;
            }
        }
    }
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
