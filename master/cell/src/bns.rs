//! BNS: from the name of a job or a task to the hosts and ports where it serves.
//!
//! Reads the state only, so any replica answers. Which ports a task has was decided when it was
//! placed; whether it is up is what its machine last said (Borg paper, section 2.6).

use crate::state::{CellState, Job, Machine};
use borg_proto::names::{NameError, PortName};
use borg_proto::task::Phase;
use borg_proto::{JobKey, TaskName};

/// One port of one placed task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The task.
    pub task: TaskName,
    /// The port's name in the specification.
    pub port_name: PortName,
    /// Host on which the task listens.
    pub host: String,
    /// Port number.
    pub port: u16,
    /// Whether the task's process runs.
    pub up: bool,
}

/// A name that does not resolve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BnsError {
    /// It is not USER/JOB or USER/JOB/INDEX.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no such job.
    #[error("there is no job {0}")]
    NoSuchJob(JobKey),
    /// The job has no such task.
    #[error("there is no task {0}")]
    NoSuchTask(TaskName),
}

impl CellState {
    /// Endpoints of the placed tasks of `user/job`, or of the task `user/job/index`, by index.
    /// Empty when none is placed or the tasks have no ports.
    ///
    /// # Errors
    /// When the text is no name, or names nothing.
    pub fn resolve(&self, name: &str) -> Result<Vec<Endpoint>, BnsError> {
        if name.split('/').count() < 3 {
            let key: JobKey = name.parse()?;
            let job = self.job_named(&key).ok_or(BnsError::NoSuchJob(key))?;
            return Ok((0..job.spec.tasks).flat_map(|index| self.endpoints(job, index)).collect());
        }
        let task: TaskName = name.parse()?;
        let job = self.job_named(&task.job).ok_or_else(|| BnsError::NoSuchJob(task.job.clone()))?;
        if job.task(task.index).is_none() {
            return Err(BnsError::NoSuchTask(task));
        }
        Ok(self.endpoints(job, task.index))
    }

    fn endpoints(&self, job: &Job, index: u32) -> Vec<Endpoint> {
        let Some(placement) = job.task(index).and_then(|task| task.placement()) else {
            return Vec::new();
        };
        let host = self.machine(placement.machine).and_then(Machine::task_host).unwrap_or_default();
        let names = job.spec.task.ports.iter();
        names
            .zip(&placement.ports)
            .map(|(port_name, port)| Endpoint {
                task: TaskName { job: job.key.clone(), index },
                port_name: port_name.clone(),
                host: host.to_owned(),
                port: *port,
                up: matches!(placement.phase, Phase::Up { .. }),
            })
            .collect()
    }
}
