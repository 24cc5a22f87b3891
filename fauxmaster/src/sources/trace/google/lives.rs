//! Lives of tasks, put together from what happened to each: when it came, and how long it was placed in all.
//!
//! Tasks of a job that came within a minute of one another and ask for the same are one job here. Memory is 16 bytes
//! a task, so that the 25 million of a public month fit.

use super::super::super::rows::Record;
use super::super::super::table::TableError;
use super::super::super::workload::Runs;
use super::super::draft::{Asked, Draft, room};
use crate::Error;
use borg_proto::Millis;
use borg_proto::spec::MAX_TASKS;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tasks that come in this time are taken for one submit. A minute: ours.
const TOGETHER: Millis = Millis::from_secs(60);
/// Among how many submits of a job one is looked for. 64: ours.
const OPEN: usize = 64;
/// Most tasks of a trace. 60 million, 1 GB: our choice.
const MOST_TASKS: usize = 60_000_000;
/// Times of tasks are in hundredths of a second, so that 497 days fit into 32 bits.
const HUNDREDTH_MS: u64 = 10;

/// What happens to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Submit,
    Schedule,
    End,
    Update,
    Nothing,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Unknown,
    Pending,
    Placed,
    Over,
}

#[derive(Debug, Clone, Copy, Default)]
struct Task {
    /// Its place in [`Job::waves`].
    wave: u32,
    /// Hundredths of a second at which it was placed last.
    since: u32,
    /// Hundredths of a second for which it was placed before.
    ran: u32,
    phase: Phase,
}

/// Tasks of a job that came together and ask for the same.
#[derive(Debug)]
struct Wave {
    at: Millis,
    asked: Asked,
}

#[derive(Debug, Default)]
struct Job {
    user: Arc<str>,
    waves: Vec<Wave>,
    tasks: Vec<Task>,
}

/// Lives of all tasks.
#[derive(Debug, Default)]
pub(super) struct Lives {
    jobs: BTreeMap<u64, Job>,
    users: BTreeMap<Arc<str>, ()>,
    tasks: usize,
    updates: u64,
    again: u64,
    last: Millis,
}

/// A task: its job and its index.
pub(super) type Instance = (u64, usize);

impl Lives {
    /// Which task a row is of; its job belongs to `user`.
    pub(super) fn instance(
        &mut self,
        row: &Record<'_>,
        [job, index]: [usize; 2],
        user: &str,
    ) -> Result<Instance, TableError> {
        let expected = || format!("an index under {MAX_TASKS}");
        let number: u64 = row.value(job, "a number of a job")?;
        let at: usize = row.value(index, expected())?;
        if u32::try_from(at).map_or(true, |at| at >= MAX_TASKS) {
            return Err(row.field_error(index, expected()));
        }
        if !self.jobs.contains_key(&number) {
            room(row, job, self.jobs.len())?;
        }
        let job = self.jobs.entry(number).or_default();
        if job.user.is_empty() && !user.is_empty() {
            job.user = match self.users.get_key_value(user) {
                Some((known, ())) => Arc::clone(known),
                None => {
                    let user = Arc::<str>::from(user);
                    self.users.insert(Arc::clone(&user), ());
                    user
                }
            };
        }
        let more = (at + 1).saturating_sub(job.tasks.len());
        if self.tasks + more > MOST_TASKS {
            return Err(row.field_error(index, format!("one of at most {MOST_TASKS} tasks in all")));
        }
        if more > 0 {
            self.tasks += more;
            job.tasks.resize(at + 1, Task::default());
        }
        Ok((number, at))
    }

    /// Something happens to a task; `asked` says what it asks for.
    pub(super) fn take(
        &mut self,
        row: &Record<'_>,
        event: usize,
        (number, index): Instance,
        at: Millis,
        change: Change,
        asked: impl FnOnce() -> Result<Asked, TableError>,
    ) -> Result<(), TableError> {
        let now = u32::try_from(at.0 / HUNDREDTH_MS)
            .map_err(|_| row.field_error(0, "a time in the first 497 days"))?;
        let job = self.jobs.entry(number).or_default();
        let Some(task) = job.tasks.get(index).copied() else { return Ok(()) };
        self.last = self.last.max(at);
        let next = match (change, task.phase) {
            (Change::Submit, Phase::Over) => {
                self.again += 1;
                Task { phase: Phase::Pending, ..task }
            }
            // One that is placed and was never submitted was there before the trace began.
            (Change::Submit | Change::Schedule, Phase::Unknown) => {
                let wave = job.wave(at, asked()?);
                let phase = if change == Change::Submit { Phase::Pending } else { Phase::Placed };
                Task { wave, phase, since: now, ran: 0 }
            }
            (Change::Schedule, Phase::Pending | Phase::Over) => {
                Task { phase: Phase::Placed, since: now, ..task }
            }
            (Change::End, Phase::Placed) => {
                // At least so long that it counts as one that ran.
                let ran = task.ran.saturating_add((now - task.since).max(1));
                Task { phase: Phase::Over, ran, ..task }
            }
            (Change::End, Phase::Pending) => Task { phase: Phase::Over, ..task },
            (Change::Update, _) => {
                self.updates += 1;
                task
            }
            (Change::Nothing, _) => task,
            (Change::Submit, Phase::Pending | Phase::Placed) => {
                return Err(row.field_error(event, "the submit of a task that is new or over"));
            }
            (Change::Schedule, Phase::Placed) => {
                return Err(row.field_error(event, "no placement of a task that is placed"));
            }
            (Change::End, Phase::Unknown | Phase::Over) => {
                return Err(row.field_error(event, "no end of a task that is not there"));
            }
        };
        job.tasks[index] = next;
        Ok(())
    }

    /// All of it as jobs.
    pub(super) fn finish(self, mut draft: Draft) -> Result<Draft, Error> {
        draft.lasts(self.last);
        draft.tell(
            "resubmits not repeated: each task runs once, for as long as it ran in all",
            self.again,
        );
        draft.tell("changes of what a task asks for left out: each keeps the first", self.updates);
        let mut never = 0;
        for (number, job) in self.jobs {
            let owner = draft.user(&job.user)?;
            let mut lives: Vec<Vec<Task>> = vec![Vec::new(); job.waves.len()];
            for task in job.tasks {
                match task.phase {
                    Phase::Unknown => {}
                    Phase::Pending | Phase::Over if task.ran == 0 => never += 1,
                    Phase::Pending | Phase::Placed | Phase::Over => {
                        lives[usize::try_from(task.wave)?].push(task);
                    }
                }
            }
            for (n, (wave, tasks)) in job.waves.iter().zip(lives).enumerate() {
                let count = u32::try_from(tasks.len())?;
                if count > 0 {
                    let (name, owner) = (format!("g{number}-{n}"), owner.clone());
                    draft.job(wave.at, owner, name, &wave.asked, count, false, runs(&tasks))?;
                }
            }
        }
        draft.tell("tasks left out, as they were never placed", never);
        Ok(draft)
    }
}

impl Job {
    /// Where tasks are that come now and ask for this.
    fn wave(&mut self, at: Millis, asked: Asked) -> u32 {
        let open = |wave: &Wave| at.since(wave.at) <= TOGETHER;
        let last = self.waves.iter().enumerate().rev().take(OPEN).take_while(|wave| open(wave.1));
        let found = last.into_iter().find(|(_, wave)| wave.asked == asked).map(|(place, _)| place);
        let place = found.unwrap_or_else(|| {
            self.waves.push(Wave { at, asked });
            self.waves.len() - 1
        });
        u32::try_from(place).expect("a job has at most 100,000 tasks, and no more waves")
    }
}

/// Those that ended first; those that were placed at the end of the trace do not end.
fn runs(tasks: &[Task]) -> Runs {
    let over = tasks.iter().filter(|task| task.phase != Phase::Placed);
    let times: Vec<Millis> = over.map(|task| Millis(u64::from(task.ran) * HUNDREDTH_MS)).collect();
    match times.first() {
        None => Runs::Forever,
        Some(first) if times.len() == tasks.len() && times.iter().all(|time| time == first) => {
            Runs::Each(*first)
        }
        Some(_) => Runs::ByIndex(times.into()),
    }
}
