//! Clients that change a cell all the time and write down what they were told.
//!
//! Each is a user of its own with one change under way: it submits jobs and kills its oldest, at
//! any master, again and again under the same request id until it is told that the change is done.
//!
//! Invariant: a change has an entry in the books before its first call, and an acknowledgement only
//! after an answer.

use super::books::Books;
use super::cell::{Cell, Client};
use super::reached::Reached;
use crate::{Error, clock};
use borg_proto::identity::ADMIN;
use borg_proto::wire::pb;
use borg_sim::dice::Dice;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

/// Live jobs of one client; it kills its oldest beyond that.
const LIVE: usize = 60;
/// Longest time for one try at one master.
const TRY: Duration = Duration::from_secs(1);
/// How much longer than that a call may take before it counts as hanging: ours, for a busy computer.
const HANGS: Duration = Duration::from_secs(4);
/// Rest between two reads of one reader.
const READ_REST: Duration = Duration::from_millis(15);
/// Pause after a master that could not.
const PAUSE: Duration = Duration::from_millis(5);

/// Clients at work.
#[derive(Debug)]
pub struct Clients {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    slowest_ms: Arc<AtomicU64>,
    gaps: Gaps,
}

/// Times without an acknowledgement.
#[derive(Debug, Clone)]
struct Gaps(Arc<Mutex<(Instant, Duration)>>);

impl Gaps {
    fn new() -> Self {
        Self(Arc::new(Mutex::new((clock::now(), Duration::ZERO))))
    }

    fn acknowledged(&self) {
        let mut gap = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::now();
        gap.1 = gap.1.max(now.duration_since(gap.0));
        gap.0 = now;
    }

    /// The longest since the last call, the one that goes on now too.
    fn longest(&self) -> Duration {
        self.acknowledged();
        let mut gap = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut gap.1)
    }
}

fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How the clients go about it.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How many there are.
    pub clients: u64,
    /// Rest between two changes of one client.
    pub rest: Duration,
    /// Name of their first, so that two sets of clients in one cell differ.
    pub prefix: char,
    /// Bytes that each submitted job carries for nothing.
    pub ballast: usize,
}

impl Clients {
    /// Starts them.
    ///
    /// # Errors
    /// When their certificates cannot be made.
    pub fn start(cell: &Cell, books: &Books, seed: u64, pace: Pace) -> Result<Self, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let slowest_ms = Arc::new(AtomicU64::new(0));
        let gaps = Gaps::new();
        let mut tasks = Vec::new();
        for n in 1..=pace.clients {
            let user = format!("{}{n}", pace.prefix);
            cell.issue("user", &user)?;
            let one = One {
                masters: cell.clients_of(&user)?,
                user,
                books: books.clone(),
                dice: Dice::new(seed.wrapping_add(n)),
                stop: stop.clone(),
                slowest_ms: slowest_ms.clone(),
                gaps: gaps.clone(),
                rest: pace.rest,
                ballast: pace.ballast,
            };
            tasks.push(cell.runtime.spawn(one.work()));
        }
        Ok(Self { stop, tasks, slowest_ms, gaps })
    }

    /// Longest time from the first call of a change to its acknowledgement, in milliseconds.
    #[must_use]
    pub fn slowest_ms(&self) -> u64 {
        self.slowest_ms.load(Ordering::Relaxed)
    }

    /// Longest time without an acknowledgement to any of them since the last call of this, in
    /// milliseconds.
    #[must_use]
    pub fn longest_gap_ms(&self) -> f64 {
        clock::milliseconds(self.gaps.longest())
    }

    /// Lets each finish what is under way, and waits for that.
    pub fn finish(self, cell: &Cell) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            // Ended by the runtime or by a panic of its own, which its books would show.
            cell.runtime.block_on(task).ok();
        }
    }
}

struct One {
    masters: Vec<Client>,
    user: String,
    books: Books,
    dice: Dice,
    stop: Arc<AtomicBool>,
    slowest_ms: Arc<AtomicU64>,
    gaps: Gaps,
    rest: Duration,
    ballast: usize,
}

/// A change to be made, however often it has to be asked for.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there are few at a time")]
enum Change {
    Submit(pb::SubmitJobRequest),
    Kill(pb::KillRequest),
}

impl Change {
    /// Asks one master for it; gives its place in the log, and the id of a submitted job.
    async fn ask(&self, mut client: Client) -> Result<(u64, u64), Status> {
        match self.clone() {
            Self::Submit(request) => {
                let mut request = Request::new(request);
                request.set_timeout(TRY);
                let answer = client.submit_job(request).await?.into_inner();
                Ok((answer.index, answer.job_id))
            }
            Self::Kill(request) => {
                let mut request = Request::new(request);
                request.set_timeout(TRY);
                Ok((client.kill(request).await?.into_inner().index, 0))
            }
        }
    }
}

impl One {
    async fn work(mut self) {
        let mut live = VecDeque::new();
        for number in 1_u64.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if live.len() < LIVE {
                let name = format!("j-{number}");
                let job = format!("{}/{name}", self.user);
                self.books.asks(&job);
                let mut request = submission(&name);
                if let Some(task) = request.spec.as_mut().and_then(|spec| spec.task.as_mut())
                    && self.ballast > 0
                {
                    task.command.push("x".repeat(self.ballast));
                }
                let submit = Change::Submit(request);
                let Some((index, id)) = self.until_done(&job, submit).await else { return };
                self.books.lives(&job, id, index);
                live.push_back(job);
            } else if let Some(job) = live.pop_front() {
                self.books.kills(&job);
                let kill = pb::KillRequest {
                    request_id: format!("kill-{number}"),
                    job: job.clone(),
                    ..pb::KillRequest::default()
                };
                let kill = Change::Kill(kill);
                let Some((index, _)) = self.until_done(&job, kill).await else { return };
                self.books.died(&job, index);
            }
            tokio::time::sleep(self.rest).await;
        }
    }

    /// Tries masters until one has done it; `None` when that can never be.
    async fn until_done(&mut self, job: &str, change: Change) -> Option<(u64, u64)> {
        let began = clock::now();
        loop {
            let master = self.dice.index(self.masters.len());
            let call = change.ask(self.masters[master].clone());
            let number = master + 1;
            match tokio::time::timeout(TRY + HANGS, call).await {
                Ok(Ok(answer)) => {
                    self.slowest_ms.fetch_max(whole_ms(began.elapsed()), Ordering::Relaxed);
                    self.gaps.acknowledged();
                    return Some(answer);
                }
                Ok(Err(status)) if may_be_tried_again(&status) => {}
                Ok(Err(status)) => {
                    self.books.wrong(format!("{job} at master {number}: {status}"));
                    return None;
                }
                Err(_) => {
                    let longest = TRY + HANGS;
                    self.books.wrong(format!("{job}: master {number} hung for {longest:?}"));
                    return None;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Whether a change that failed like this may or may not be done.
fn may_be_tried_again(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Aborted
        | Code::ResourceExhausted => true,
        // A transport that broke within an answer.
        Code::Internal => status.message().contains("h2"),
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

impl Clients {
    /// Ends them at once, whatever is under way.
    pub fn abort(self, cell: &Cell) {
        for task in self.tasks {
            task.abort();
            // An aborted task says so; that is what was asked for.
            cell.runtime.block_on(task).ok();
        }
    }
}

/// Clients that read all the time, at any master and through read index, and hold each answer
/// against the books.
#[derive(Debug)]
pub struct Readers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    answers: Arc<AtomicU64>,
    refusals: Arc<AtomicU64>,
}

impl Readers {
    /// Starts `count` of them.
    ///
    /// # Errors
    /// When the certificate cannot be used.
    pub fn start(cell: &Cell, books: &Books, seed: u64, count: u64) -> Result<Self, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let (answers, refusals) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for n in 1..=count {
            let masters = cell.clients_of(ADMIN)?;
            let (books, mut dice) = (books.clone(), Dice::new(seed.wrapping_add(n)));
            let (stop, answers, refusals) = (stop.clone(), answers.clone(), refusals.clone());
            tasks.push(cell.runtime.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let master = dice.index(masters.len());
                    let expected = books.expected();
                    let listed = read(masters[master].clone(), true, TRY).await;
                    match listed {
                        Ok((_, listed)) => {
                            answers.fetch_add(1, Ordering::Relaxed);
                            let who = format!("a consistent read at master {}", master + 1);
                            if let Err(wrong) = books.check(&who, &expected, &listed) {
                                books.wrong(wrong);
                                return;
                            }
                        }
                        Err(_) => {
                            refusals.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    tokio::time::sleep(READ_REST).await;
                }
            }));
        }
        Ok(Self { stop, tasks, answers, refusals })
    }

    /// Ends them, and counts how often they were answered.
    pub fn finish(self, cell: &Cell, reached: &mut Reached) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            cell.runtime.block_on(task).ok();
        }
        reached.many("consistent reads", self.answers.load(Ordering::Relaxed));
        reached.many("reads without an answer", self.refusals.load(Ordering::Relaxed));
    }
}

/// The live jobs of all users with their ids, and the index of the state that they were read from.
///
/// # Errors
/// What the master answers, or that it does not.
pub async fn read(
    mut client: Client,
    consistent: bool,
    limit: Duration,
) -> Result<(u64, BTreeMap<String, u64>), Status> {
    let mut request = Request::new(pb::ListJobsRequest::default());
    if consistent {
        request.metadata_mut().insert("borg-consistent", MetadataValue::from_static("1"));
    }
    let call = tokio::time::timeout(limit, client.list_jobs(request));
    let answer = call.await.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner();
    let index = answer.read.unwrap_or_default().index;
    Ok((index, answer.jobs.into_iter().map(|job| (job.job, job.job_id)).collect()))
}

/// A job that waits for a machine with 1 TiB: the change is what counts.
#[must_use]
pub fn submission(name: &str) -> pb::SubmitJobRequest {
    crate::submit::submission(name, 1 << 40)
}
