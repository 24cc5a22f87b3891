//! Calls to a cell: any master takes any call, so one that does not answer is passed over.
//!
//! A call goes to one master after another, starting somewhere at random, until one answers or
//! the time is up. Changes carry a request id that stays the same over all tries, so trying again
//! never does a thing twice.
//!
//! Invariant: a refusal is an answer and ends the tries; only silence is tried again, and a master
//! that has too much to do and says when to ask again.

use crate::commands::history::At;
use crate::exit::{Code, Failure};
use crate::target::Target;
use borg_proto::Millis;
use borg_proto::UserName;
use borg_proto::identity::any_master_name;
use borg_proto::rpc::{self, BorgmasterClient, Timeouts, borgmaster_client, channel};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// Time that the first master gets for one try; each further one gets twice as long, up to
/// [`LONGEST_TRY`]. Our choice: more than a master takes that waits for others which hang, so that one
/// that hangs itself costs less than a second, and a busy cell is not asked everything twice for ever.
const FIRST_TRY: Duration = Duration::from_millis(750);
/// Longest time that one master gets: three elections.
const LONGEST_TRY: Duration = Duration::from_secs(3);
/// Pause after all masters have been tried in vain.
const PAUSE: Duration = Duration::from_millis(100);

/// Longest pause, before dice, of a call that masters had no room for: our choice.
const LONGEST_PAUSE: Millis = Millis(5_000);
/// Metadata of a read that must not be older than the moment of asking.
const CONSISTENT: &str = "borg-consistent";
/// Metadata of a read of the past.
const AT: &str = "borg-at";

/// Whether a call may change the cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It reads.
    Read,
    /// It changes something, with a request id.
    Change,
}

/// A cell's masters as one.
#[derive(Debug, Clone)]
pub struct Client {
    masters: Vec<(String, BorgmasterClient<Channel>)>,
    /// The master to try first: the one that answered last.
    first: usize,
    timeout: Duration,
    user: UserName,
    at: Option<At>,
    consistent: bool,
    /// Begins the request ids of what this client changes.
    request: String,
    /// Whether somebody chose it, and so may repeat what was done under it.
    repeats: bool,
    /// How many request ids it gave.
    changes: Arc<AtomicU32>,
}

impl Client {
    /// A client; connects at the first call. To be made inside a tokio runtime.
    ///
    /// # Errors
    /// When an address is none.
    pub fn new(target: &Target) -> Result<Self, Failure> {
        let name = any_master_name(&target.credentials.identity.cell);
        let masters = target.masters.iter().map(|address| {
            let channel = channel(address, &target.credentials, &name, Timeouts::default())
                .map_err(|error| Failure::new(Code::Usage, error.to_string()))?;
            Ok((address.clone(), borgmaster_client(channel)))
        });
        let masters = masters.collect::<Result<Vec<_>, Failure>>()?;
        let first = usize::try_from(random() % masters.len() as u64).unwrap_or(0);
        Ok(Self {
            masters,
            first,
            timeout: target.timeout,
            user: target.user.clone(),
            at: target.at,
            consistent: target.consistent,
            repeats: target.request_id.is_some(),
            request: target.request_id.clone().unwrap_or_else(request_id),
            changes: Arc::default(),
        })
    }

    /// Who we are.
    #[must_use]
    pub fn user(&self) -> &UserName {
        &self.user
    }

    /// The moment that reads show, if it is not now.
    #[must_use]
    pub fn at(&self) -> Option<At> {
        self.at
    }

    /// How many masters there are.
    #[must_use]
    pub fn masters(&self) -> usize {
        self.masters.len()
    }

    /// The request id of the next change. What begins with the same `--request-id` and changes the same
    /// things in the same order has the same ones, and is done once.
    #[must_use]
    pub fn request_id(&self) -> String {
        // Apart from those with a number of their own.
        format!("{}.{}", self.request, self.changes.fetch_add(1, Ordering::Relaxed))
    }

    /// The request id of a change that has a number of its own.
    #[must_use]
    pub fn request_id_of(&self, number: u32) -> String {
        format!("{}-{number}", self.request)
    }

    /// Whether what is asked may have been done before, under the same `--request-id`.
    #[must_use]
    pub fn repeats(&self) -> bool {
        self.repeats
    }

    /// How long one call may take in all.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Makes one call with one answer. `what` names it in errors, as in `submit`.
    ///
    /// # Errors
    /// The refusal, or `Unavailable` when no master answered in time.
    pub async fn call<M: Clone, T>(
        &mut self,
        what: &str,
        kind: Kind,
        message: M,
        make: impl AsyncFn(BorgmasterClient<Channel>, Request<M>) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + self.timeout;
        let mut silent = BTreeMap::new();
        let mut back_off = BackOff::default();
        let mut patience = FIRST_TRY;
        loop {
            for _ in 0..self.masters.len() {
                let (address, client) = &self.masters[self.first];
                let left = deadline.saturating_duration_since(Instant::now()).min(patience);
                if left.is_zero() {
                    break;
                }
                let mut request = Request::new(message.clone());
                request.set_timeout(left);
                if let Some(at) = self.at {
                    let at = at.metadata().parse().expect("words and digits are ASCII");
                    request.metadata_mut().insert(AT, at);
                }
                if self.consistent {
                    request.metadata_mut().insert(CONSISTENT, "1".parse().expect("a digit"));
                }
                let failure = match tokio::time::timeout(left, make(client.clone(), request)).await
                {
                    Ok(Ok(answer)) => return Ok(answer.into_inner()),
                    Ok(Err(status)) => {
                        if let Some(asked) = rpc::retry_after(&status) {
                            if back_off.wait(asked, deadline).await {
                                continue;
                            }
                            // This master did nothing, but one that was silent may have.
                            if !silent.is_empty() {
                                return Err(self.given_up(what, kind, &silent));
                            }
                        }
                        Failure::from(status)
                    }
                    Err(_) => Failure::new(Code::Unavailable, "no answer in time"),
                };
                if failure.code != Code::Unavailable {
                    return Err(failure.context(what));
                }
                patience = LONGEST_TRY.min(patience * 2);
                silent.insert(address.clone(), failure.text);
                self.first = (self.first + 1) % self.masters.len();
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(self.given_up(what, kind, &silent));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Opens a stream of answers; one that ends is the caller's to open again. The time allowed is
    /// for the first answer only.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn open<M: Clone, T>(
        &mut self,
        what: &str,
        message: M,
        make: impl AsyncFn(BorgmasterClient<Channel>, Request<M>) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        // A stream has no deadline of its own: one set on the request would end it.
        let make = async |client, request: Request<M>| {
            make(client, Request::new(request.into_inner())).await
        };
        self.call(what, Kind::Read, message, make).await
    }

    /// The master to try first, alone: for calls that belong together.
    #[must_use]
    pub fn one(&self) -> BorgmasterClient<Channel> {
        self.masters[self.first].1.clone()
    }

    /// Makes the next call begin at another master.
    pub fn pass_over(&mut self) {
        self.first = (self.first + 1) % self.masters.len();
    }

    fn given_up(&self, what: &str, kind: Kind, silent: &BTreeMap<String, String>) -> Failure {
        let time = humantime::format_duration(self.timeout);
        let known = match kind {
            Kind::Read => String::new(),
            Kind::Change => format!(
                "; it may or may not have been done: said again with --request-id {}, it is done once",
                self.request
            ),
        };
        let masters = self.masters.len();
        let mut text =
            format!("{what}: none of {masters} masters could answer within {time}{known}");
        for (address, why) in silent {
            text.push_str(&format!("\n  {address}: {why}"));
        }
        Failure::new(Code::Unavailable, text)
    }
}

/// How often masters had too much to do for this call.
#[derive(Debug, Default)]
struct BackOff {
    times: u32,
}

impl BackOff {
    /// Waits as long as was asked for, twice as long each time more, and up to half as much again,
    /// so that those who were turned away together do not come back together. False when the
    /// deadline is sooner.
    async fn wait(&mut self, asked: Millis, deadline: Instant) -> bool {
        let pause = self.pause(asked, random());
        if Instant::now() + pause >= deadline {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }

    fn pause(&mut self, asked: Millis, dice: u64) -> Duration {
        let asked = asked.0.clamp(1, LONGEST_PAUSE.0);
        let pause = asked.saturating_mul(1 << self.times.min(16)).min(LONGEST_PAUSE.0);
        self.times += 1;
        Duration::from_millis(pause + dice % (pause / 2 + 1))
    }
}

/// A new request id: 128 random bits.
#[must_use]
pub fn request_id() -> String {
    format!("{:016x}{:016x}", random(), random())
}

/// Random bits from the system, by way of the seed that the standard library asks it for.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_turned_away_again_stays_away_for_longer() {
        let mut back_off = BackOff::default();
        let mut pause = |dice| back_off.pause(Millis(100), dice).as_millis();
        assert_eq!([pause(0), pause(0), pause(0)], [100, 200, 400]);
        assert_eq!(pause(400), 1_200, "half as much again at the most");
        assert_eq!([pause(0), pause(0), pause(0)], [1_600, 3_200, 5_000]);
    }
}
