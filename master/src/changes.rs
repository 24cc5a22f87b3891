//! The way of a change: to this replica's driver when it leads, else to the leader.
//!
//! A change may be tried several times under one request id; the state does it once.

use crate::clock;
use crate::driver::{self, Turn};
use crate::feed::View;
use crate::inbox::{self, Inbox};
use crate::peers::Peers;
use crate::planning::{Planner, check_level};
use borg_cell::admission::{Shares, Shed};
use borg_cell::master::Outcome;
use borg_cell::rejection::{Rejection, RejectionCode};
use borg_cell::state::Answer;
use borg_proto::Millis;
use borg_proto::command::{Command, Principal};
use borg_proto::names::{ReplicaId, UserName};
use borg_proto::rpc;
use borg_proto::wire::{Change, pb};
use pb::proposal_outcome::Outcome as Told;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tonic::{Code, Status};

/// How long a change may take when its caller sets no deadline.
const PATIENCE: Millis = Millis(10_000);
/// Longest wait of a follower for a change that the leader has made.
const CATCH_UP: Duration = Duration::from_millis(500);
/// Longest wait for a leader that a change was passed on to.
const ANSWER: Duration = Duration::from_secs(2);
/// Wait before the next try when nobody leads.
const RETRY: Millis = Millis(20);

/// What became of an accepted change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Done {
    /// Its place in the log.
    pub index: u64,
    /// What the asker is told.
    pub answer: Option<pb::accepted::Answer>,
}

/// Takes changes to where they are made.
#[derive(Debug, Clone)]
pub(crate) struct Changes {
    /// This replica's driver.
    pub driver: Inbox,
    /// What each user has under way by way of this replica.
    pub door: Door,
    /// The other masters.
    pub peers: Peers,
    /// Who leads.
    pub view: watch::Receiver<View>,
    /// This replica.
    pub own: ReplicaId,
    /// Whether plans still hold.
    pub planner: Arc<Planner>,
}

impl Changes {
    /// Makes a change on behalf of a user, wherever the leader is; if it was planned, only as long as the
    /// plan holds.
    ///
    /// # Errors
    /// The state's refusal, or UNAVAILABLE when no majority was found in time: the change may or
    /// may not be done then, and asking again with the same request id is safe.
    pub(crate) async fn make(
        &self,
        by: UserName,
        change: Change,
        planned: Option<pb::PlannedJob>,
        timeout: Option<Duration>,
    ) -> Result<Done, Status> {
        if planned.is_some() {
            check_level(&self.view.borrow().state)?;
        }
        let Change { action, request } = change;
        let user = by.clone();
        let by = Principal::User(by);
        let command = Command { at: Millis(0), by, request: Some(request), action };
        let bytes = command.encode();
        let _place = self.door.enter(&user, bytes.len()).map_err(|shed| self.driver.shed(&shed))?;
        let patience =
            timeout.and_then(|t| u64::try_from(t.as_millis()).ok()).map_or(PATIENCE, Millis);
        let deadline = clock::now() + patience.min(PATIENCE);
        // Why a try before may have done it, if one may. To be turned away then is no answer: it
        // would say that nothing was done.
        let mut perhaps = None;
        loop {
            let refused =
                match self.try_once(&user, &command, &bytes, planned.as_ref(), deadline).await {
                    Ok(done) => {
                        self.catch_up(done.index).await;
                        return Ok(done);
                    }
                    Err(status) => status,
                };
            let wait = match rpc::retry_after(&refused) {
                None if refused.code() == Code::Unavailable => {
                    perhaps = Some(refused);
                    RETRY
                }
                Some(wait) if perhaps.is_some() => wait,
                Some(_) | None => return Err(refused),
            };
            if let Some(unknown) = &perhaps
                && clock::now() + wait + RETRY >= deadline
            {
                return Err(unknown.clone());
            }
            tokio::time::sleep(Duration::from_millis(wait.0)).await;
        }
    }

    /// Waits a moment until this replica has the change too, so that whoever was told of it can
    /// read it here. Late is no failure: the change is made.
    async fn catch_up(&self, index: u64) {
        let mut seen = self.view.clone();
        let applied = seen.wait_for(|view| view.state.applied() >= index);
        drop(tokio::time::timeout(CATCH_UP, applied).await);
    }

    async fn try_once(
        &self,
        user: &UserName,
        command: &Command,
        bytes: &[u8],
        planned: Option<&pb::PlannedJob>,
        deadline: Millis,
    ) -> Result<Done, Status> {
        let leader = self.view.borrow().status.leader;
        match leader {
            Some(leader) if leader == self.own => {
                if let Some(planned) = planned {
                    self.planner.check(command, planned).await?;
                }
                let outcome = self.make_here(user, bytes.len(), command.clone(), deadline).await?;
                reply_of(outcome)
            }
            Some(leader) => self.pass_on(leader, bytes, planned, deadline).await,
            None => Err(no_quorum("no leader is elected")),
        }
    }

    /// Makes a user's change of so many bytes on this replica only.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when too much waits, UNAVAILABLE when the driver has stopped.
    pub(crate) async fn make_here(
        &self,
        user: &UserName,
        bytes: usize,
        command: Command,
        deadline: Millis,
    ) -> Result<Outcome, Status> {
        let (reply, outcome) = oneshot::channel();
        let turn = Turn::Propose { command, deadline, reply: driver::Reply::Here(reply) };
        self.driver.ask(user, bytes, turn)?;
        outcome.await.map_err(|_| unanswered())
    }

    async fn pass_on(
        &self,
        leader: ReplicaId,
        command: &[u8],
        planned: Option<&pb::PlannedJob>,
        deadline: Millis,
    ) -> Result<Done, Status> {
        let silent = || no_quorum(&format!("master {leader} does not answer for the leader"));
        let planned = planned.cloned();
        let Some(outcome) = self.peers.pass_on(leader, command.to_vec(), planned, deadline) else {
            return Err(no_quorum(&format!("master {leader} leads and is not known here yet")));
        };
        let patience = Duration::from_millis(deadline.since(clock::now()).0).min(ANSWER);
        let mut seen = self.view.clone();
        tokio::select! {
            outcome = outcome => outcome.map_or_else(|_| Err(silent()), done_of),
            () = tokio::time::sleep(patience) => Err(silent()),
            // A leader that lost its power breaks no stream. Its successor can be asked at once.
            _ = seen.wait_for(|view| view.status.leader != Some(leader)) => Err(silent()),
        }
    }
}

/// What the leader said of a change that was passed on to it.
fn done_of(outcome: pb::ProposalOutcome) -> Result<Done, Status> {
    match outcome.outcome {
        Some(Told::Accepted(accepted)) => {
            Ok(Done { index: outcome.index, answer: accepted.answer })
        }
        Some(Told::Refused(refused)) => Err(match refused.retry_after_ms {
            Some(wait) => rpc::overloaded(&refused.why, Millis(wait)),
            None => Status::new(Code::from_i32(refused.code), refused.why),
        }),
        None => Err(Status::internal("the leader gave an empty answer")),
    }
}

/// What a follower is told of a change that it passed on.
pub(crate) fn outcome_of(token: u64, done: Result<Done, Status>) -> pb::ProposalOutcome {
    match done {
        Ok(done) => pb::ProposalOutcome {
            token,
            index: done.index,
            outcome: Some(Told::Accepted(pb::Accepted { answer: done.answer })),
        },
        Err(status) => pb::ProposalOutcome {
            token,
            index: 0,
            outcome: Some(Told::Refused(pb::Refused {
                code: status.code().into(),
                why: status.message().to_owned(),
                retry_after_ms: rpc::retry_after(&status).map(|wait| wait.0),
            })),
        },
    }
}

/// Counts what each user has under way by way of this replica, so that one user's calls do not
/// fill the way to the leader for all others.
#[derive(Debug, Clone)]
pub(crate) struct Door(Arc<Mutex<Shares>>);

/// A call under way.
#[derive(Debug)]
pub(crate) struct Place {
    door: Door,
    user: UserName,
    bytes: usize,
}

impl Door {
    /// Nothing is under way; so many calls may be.
    #[must_use]
    pub(crate) fn new(calls: usize) -> Self {
        Self(Arc::new(Mutex::new(Shares::new(inbox::room(calls)))))
    }

    /// Lets a user's call of so many bytes in, for as long as its place is held.
    ///
    /// # Errors
    /// When there is no room for it.
    pub(crate) fn enter(&self, user: &UserName, bytes: usize) -> Result<Place, Shed> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shares.admit(clock::now(), user, bytes)?;
        Ok(Place { door: self.clone(), user: user.clone(), bytes })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shares = self.door.0.lock().unwrap_or_else(PoisonError::into_inner);
        shares.leave(clock::now(), &self.user, self.bytes);
    }
}

/// The driver let a question go.
pub(crate) fn unanswered() -> Status {
    Status::unavailable("this master is stopping, or has far too much to do: ask again")
}

fn no_quorum(why: &str) -> Status {
    Status::unavailable(format!(
        "{why}: no majority of the masters agreed in time; the change may or may not be done, and \
         asking again with the same request id is safe"
    ))
}

/// The outcome as the asker's answer or refusal.
///
/// # Errors
/// Everything but acceptance.
pub(crate) fn reply_of(outcome: Outcome) -> Result<Done, Status> {
    match outcome {
        Outcome::Accepted { index, answer } => {
            Ok(Done { index, answer: Some(wire_answer(&answer)) })
        }
        Outcome::Refused { rejection, .. } => Err(refusal(&rejection)),
        Outcome::NotLeader { .. } => Err(no_quorum("the leader has just changed")),
        Outcome::Unavailable => Err(no_quorum("the deadline passed or the leader changed")),
        Outcome::Overloaded => Err(rpc::overloaded(
            "the masters have too many changes waiting; nothing was done: ask again in a second",
            Millis(1_000),
        )),
        Outcome::Unsafe { why } => Err(Status::failed_precondition(why)),
        Outcome::TooNew { needs, has } => Err(Status::failed_precondition(format!(
            "not every master understands this yet: the cell works on level {has}, this needs level \
             {needs}. It rises by itself when all masters run a version that has it: borgctl masters"
        ))),
        Outcome::Malformed { why } => Err(Status::invalid_argument(why)),
        Outcome::TooLarge { bytes, limit } => Err(Status::resource_exhausted(format!(
            "the change has {bytes} bytes, most is {limit}"
        ))),
    }
}

fn wire_answer(answer: &Answer) -> pb::accepted::Answer {
    use pb::accepted::Answer as Wire;
    match answer {
        Answer::Job { id, .. } => Wire::Job(id.0),
        Answer::Killed { tasks } => Wire::Killed(*tasks),
        Answer::Version(number) => Wire::Version(*number),
        Answer::Machine(id) => Wire::Machine(id.0),
        Answer::Master(id) => Wire::Master(id.0),
        Answer::None | Answer::Placed { .. } => Wire::Done(true),
    }
}

/// The state's refusal as the asker gets it.
pub(crate) fn refusal(rejection: &Rejection) -> Status {
    let code = match rejection.code() {
        RejectionCode::InvalidArgument => Code::InvalidArgument,
        RejectionCode::AlreadyExists => Code::AlreadyExists,
        RejectionCode::NotFound => Code::NotFound,
        RejectionCode::PermissionDenied => Code::PermissionDenied,
        RejectionCode::FailedPrecondition => Code::FailedPrecondition,
        RejectionCode::ResourceExhausted => Code::ResourceExhausted,
    };
    Status::new(code, rejection.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_a_change_is_the_same_for_whoever_passed_it_on() {
        let done = Done { index: 7, answer: Some(pb::accepted::Answer::Job(3)) };
        let told = outcome_of(5, Ok(done.clone()));
        assert_eq!(told.token, 5);
        assert_eq!(done_of(told).unwrap(), done);
        let refused = done_of(outcome_of(5, Err(Status::not_found("no job x")))).unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::NotFound, "no job x"));
        assert_eq!(rpc::retry_after(&refused), None, "final");
        let shed = rpc::overloaded("too much waits", Millis(300));
        let shed = done_of(outcome_of(5, Err(shed))).unwrap_err();
        assert_eq!((shed.code(), shed.message()), (Code::ResourceExhausted, "too much waits"));
        assert_eq!(rpc::retry_after(&shed), Some(Millis(300)));
        assert_eq!(done_of(pb::ProposalOutcome::default()).unwrap_err().code(), Code::Internal);
    }
}
