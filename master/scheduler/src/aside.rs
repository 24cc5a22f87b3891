//! Jobs over which the scheduler panicked: set aside, so that one bad job costs nobody else anything.
//!
//! The scheduler notes here whose turn it is whenever what it does depends on one job. When it panics,
//! that one is to blame, and the scheduler begins again from the committed state without it. What was
//! decided and is not committed is forgotten by that; the state refuses what is decided twice.
//!
//! Leaves to the shell: which calls to guard, and telling people.
//!
//! Invariant: a job that is set aside is in no queue and is asked for nothing until it is gone.

use crate::Scheduler;
use borg_proto::JobId;
use borg_proto::panics::guarded;
use std::collections::BTreeMap;

/// A job over which the scheduler panicked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Which.
    pub job: JobId,
    /// Its name, if the cell has it.
    pub name: String,
    /// What the panic said.
    pub said: String,
}

impl Scheduler {
    /// Does something with this scheduler. A panic over one job sets that one aside, until the cell
    /// forgets it or this scheduler goes, and begins again without it.
    ///
    /// # Errors
    /// The jobs that were set aside; `work` is not repeated.
    ///
    /// # Panics
    /// When `work` did, or beginning again, and no job is to blame or one that was set aside already.
    pub fn survive<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> Result<T, Vec<SetAside>> {
        let mut said = match guarded(|| work(self)) {
            Ok(done) => return Ok(done),
            Err(said) => said,
        };
        let mut blamed = Vec::new();
        loop {
            let Some(job) = self.aside.blame(&said) else {
                panic!("the scheduler panicked, and leaving out a job does not help: {said}")
            };
            let name = self
                .state
                .job(job)
                .map_or_else(|| format!("job {}", job.0), |job| job.key.to_string());
            blamed.push(SetAside { job, name, said });
            let state = self.state.clone();
            match guarded(|| self.start_afresh(&state)) {
                Ok(()) => return Err(blamed),
                Err(again) => said = again,
            }
        }
    }
}

impl Scheduler {
    /// Jobs that are set aside, with what the panic said.
    pub(crate) fn set_aside(&self) -> Vec<(JobId, String)> {
        self.aside.jobs.iter().map(|(job, said)| (*job, said.clone())).collect()
    }

    /// Sets jobs aside over which another scheduler panicked; in force when this one begins again.
    pub(crate) fn leave_out(&mut self, jobs: &[(JobId, String)]) {
        self.aside.jobs.extend(jobs.iter().cloned());
    }
}

/// Who had the turn before.
#[derive(Debug)]
pub(crate) struct Turn(Option<JobId>);

/// Who is set aside, and who has the turn.
#[derive(Debug, Clone, Default)]
pub(crate) struct Aside {
    /// With what the panic said.
    jobs: BTreeMap<JobId, String>,
    turn: Option<JobId>,
    #[cfg(any(test, feature = "trap"))]
    trap: Option<(JobId, Trap)>,
}

/// When a scheduler panics over a job: to test what becomes of the others.
#[cfg(any(test, feature = "trap"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trap {
    /// As it decides where one of its tasks goes.
    Deciding,
    /// As it hears news of one of its tasks.
    News,
    /// As it is asked why one of its tasks is where it is.
    Asked,
    /// Whatever it has to do with one of its tasks, even when the job is set aside.
    Always,
}

impl Aside {
    /// What is done from here on is about this job, until [`Self::done`] gives the turn back to the one
    /// who had it before.
    #[must_use]
    pub(crate) fn decides(&mut self, job: JobId) -> Turn {
        let before = Turn(self.turn.replace(job));
        #[cfg(any(test, feature = "trap"))]
        self.spring(job, Trap::Deciding);
        before
    }

    /// As [`Self::decides`], for news of the job's tasks.
    #[must_use]
    pub(crate) fn hears(&mut self, job: JobId) -> Turn {
        let before = Turn(self.turn.replace(job));
        #[cfg(any(test, feature = "trap"))]
        self.spring(job, Trap::News);
        before
    }

    /// Somebody asks about this job.
    pub(crate) fn asked(&self, job: JobId) -> Option<&str> {
        #[cfg(any(test, feature = "trap"))]
        self.spring(job, Trap::Asked);
        self.why(job)
    }

    /// What was about one job is done.
    pub(crate) fn done(&mut self, before: Turn) {
        self.turn = before.0;
    }

    /// Sets the job aside that had the turn as the scheduler panicked. `None` when nobody had it, or it
    /// was set aside before: then leaving it out does not help.
    pub(crate) fn blame(&mut self, said: &str) -> Option<JobId> {
        let job = self.turn.take().filter(|job| !self.jobs.contains_key(job))?;
        self.jobs.insert(job, said.to_owned());
        Some(job)
    }

    /// What the panic said over which a job was set aside.
    pub(crate) fn why(&self, job: JobId) -> Option<&str> {
        self.jobs.get(&job).map(String::as_str)
    }

    /// How many jobs are set aside.
    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Keeps only jobs that the cell still has.
    pub(crate) fn retain(&mut self, has: impl Fn(JobId) -> bool) {
        self.jobs.retain(|job, _| has(*job));
    }

    /// A job is gone for good.
    pub(crate) fn forget(&mut self, job: JobId) {
        self.jobs.remove(&job);
    }
}

#[cfg(any(test, feature = "trap"))]
impl Aside {
    pub(crate) fn set(&mut self, job: JobId, trap: Trap) {
        self.trap = Some((job, trap));
    }

    fn spring(&self, job: JobId, doing: Trap) {
        let set = self.trap.filter(|(trapped, _)| *trapped == job).map(|(_, trap)| trap);
        let known = self.jobs.contains_key(&job);
        if set == Some(Trap::Always) || (set == Some(doing) && !known) {
            panic!("the trap for job {} closed", job.0);
        }
    }
}
