//! What owners of long-running services and operators wait for.

pub mod drains;
pub mod lost;
pub mod reclaimed;
pub mod updates;

use crate::local_cell::LocalCell;
use crate::{Error, clock};
use borg_proto::wire::pb;
use std::time::Duration;

/// How long a job may take until all of it serves.
const PATIENCE: Duration = Duration::from_secs(300);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// Waits until so many tasks of a job run, and are healthy if that is checked.
async fn all_serve(cell: &LocalCell, job: &str, tasks: u32) -> Result<(), Error> {
    let began = clock::now();
    let mut client = cell.client(cell.settled().await?);
    loop {
        let answer = client.get_job(pb::GetJobRequest { job: job.to_owned() }).await?.into_inner();
        let serves = |task: &&pb::TaskInfo| {
            let well = matches!(task.health(), pb::Health::Healthy | pb::Health::Unspecified);
            task.phase() == pb::TaskPhase::Running && well
        };
        let serving = answer.tasks.iter().filter(serves).count();
        if u32::try_from(serving)? == tasks {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("{serving} of {tasks} tasks of {job} serve").into());
        }
        tokio::time::sleep(LOOK).await;
    }
}
