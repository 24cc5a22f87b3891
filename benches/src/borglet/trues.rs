//! Many short tasks through a whole cell: one batch job of `/bin/true`, from its submit until all have finished.

use super::jobs;
use crate::figures::{load, progress};
use crate::local_cell::LocalCell;
use crate::{Error, clock};
use borg_proto::wire::pb::JobState;

/// Tasks of the job.
const TASKS: u32 = 10_000;
/// Limits of each, so small that 40 run at once on a machine of two cores: more than it can start meanwhile.
const CPU_MILLI: u64 = 50;
const RAM_BYTES: u64 = 16 << 20;
/// Name of the job.
const NAME: &str = "true";

/// Tasks a second, from the call that submits them until the cell says that all have finished.
///
/// # Errors
/// When a task fails.
pub async fn tasks_per_s(cell: &LocalCell) -> Result<f64, Error> {
    cell.settled().await?;
    let spec = jobs::batch(NAME, TASKS, vec!["/bin/true".to_owned()], CPU_MILLI, RAM_BYTES);
    let began = clock::now();
    jobs::submit(cell, spec).await?;
    let (mut most, mut told) = (0, 0);
    let job = jobs::wait_until(cell, NAME, |job| {
        most = most.max(job.running);
        if job.finished >= told + TASKS / 10 {
            told = job.finished;
            progress(&format!("load {}; {told} of {TASKS} finished, {} run", load(), job.running));
        }
        job.state() == JobState::Finished || job.state() == JobState::Failed
    });
    let job = job.await?;
    let seconds = began.elapsed().as_secs_f64();
    if job.state() != JobState::Finished {
        return Err(format!("{job:?}").into());
    }
    progress(&format!("load {}; {TASKS} tasks in {seconds:.1} s, at most {most} at once", load()));
    Ok(f64::from(TASKS) / seconds)
}
