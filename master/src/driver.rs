//! The thread that owns the Borgmaster's deciding half and its disk.
//!
//! Feeds it everything that arrived as one turn and carries out the effects in the order given:
//! that order (persist, then promise, then answer) is the protocol. Nobody else touches the state;
//! readers get cheap copies through [`View`].

use crate::checkpoints::CheckpointThreads;
use crate::clock;
use crate::config::Member;
use crate::feed::{Feed, View};
use crate::inbox::Inbox;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::scheduling::Mailbox;
use borg_cell::admission::Window;
use borg_cell::event::{Event, EventKind, TaskChange};
use borg_cell::master::{Effect, Input, Master, Outcome};
use borg_cell::state::{CellState, Standing};
use borg_cell::store::{LogStore, StoreError};
use borg_proto::command::Command;
use borg_proto::names::ReplicaId;
use borg_proto::peer::ShardOrders;
use borg_proto::task::EvictCause;
use borg_proto::wire::pb;
use borg_proto::{MachineId, Millis};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// Most calls that were taken from the inbox and have no answer yet. Ours: enough for a group on its way
/// and one that did not wait for it, and few enough that whoever comes next waits for a fraction of a
/// second.
const IN_FLIGHT: usize = 1_024;

/// Time between two looks at silent machines, for those who ask.
const SILENT_EVERY: Millis = Millis(500);

/// Something for the driver.
pub(crate) enum Turn {
    /// As it is.
    Input(Input),
    /// A change, and where its outcome goes.
    Propose {
        /// What.
        command: Command,
        /// When to give up.
        deadline: Millis,
        /// Where the outcome goes.
        reply: Reply,
    },
    /// Ask how far the log was decided at this moment: an index to wait for, or `None` when no
    /// majority confirms it in time.
    Read {
        /// When to give up.
        deadline: Millis,
        /// Where the word goes.
        reply: oneshot::Sender<Option<u64>>,
    },
    /// The disk failed at work on a checkpoint.
    Failed(StoreError),
    /// A look at what is in no state and no view.
    Look(Box<dyn FnOnce(&Master) + Send>),
}

/// Where the outcome of a change goes.
#[derive(Debug)]
pub(crate) enum Reply {
    /// To the one that waits for it.
    Here(oneshot::Sender<Outcome>),
    /// To the master that passed it on, under the name that it has there.
    Passed {
        /// The name.
        token: u64,
        /// The way; has room for what the other master's users may have under way.
        to: mpsc::Sender<(u64, Outcome)>,
    },
}

impl Reply {
    /// Whether nobody waits any more.
    fn is_closed(&self) -> bool {
        match self {
            Self::Here(reply) => reply.is_closed(),
            Self::Passed { to, .. } => to.is_closed(),
        }
    }

    fn send(self, outcome: Outcome) {
        let lost = match self {
            Self::Here(reply) => reply.send(outcome).is_err(),
            Self::Passed { token, to } => to.try_send((token, outcome)).is_err(),
        };
        if lost {
            tracing::debug!("nobody waits for this outcome any more, or too many wait to be sent");
        }
    }
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Input(_) => "Input",
            Self::Propose { .. } => "Propose",
            Self::Read { .. } => "Read",
            Self::Failed(_) => "Failed",
            Self::Look(_) => "Look",
        })
    }
}

/// Why the driver stopped by itself. The process must end.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The log could not be written: what is on disk is unknown.
    #[error("the log failed; this replica stops so that it never promises what it may lose")]
    Store(#[source] StoreError),
    /// The deciding half must not go on.
    #[error("{0}")]
    Halted(String),
}

/// Everything that effects are carried out with.
pub(crate) struct Driver {
    /// The deciding half.
    pub master: Master,
    /// The log.
    pub store: Box<dyn LogStore>,
    /// Who works on checkpoint files.
    pub checkpoints: CheckpointThreads,
    /// The other masters.
    pub peers: Peers,
    /// This replica.
    pub own: ReplicaId,
    /// This replica's link shard. Orders are dropped when it is full: the leader repeats them.
    pub shard: mpsc::Sender<ShardOrders>,
    /// The scheduler.
    pub scheduler: Arc<Mailbox>,
    /// Who follows the events.
    pub feed: Arc<Feed>,
    /// Where readers look.
    pub view: watch::Sender<View>,
    /// Counters.
    pub metrics: Metrics,
    /// Machines that are silent, and when that was looked at.
    pub silent: Arc<Vec<pb::SilentMachine>>,
    /// See `silent`.
    pub silent_at: Millis,
    /// Those of which the scheduler knows that they are silent.
    pub avoided: BTreeSet<MachineId>,
    /// How long the writes of the last turn took, in microseconds.
    pub wrote: Vec<u64>,
}

/// The cell's table of masters, those that nothing was heard of yet left out.
pub(crate) fn members_of(state: &CellState) -> Vec<Member> {
    let there = state.masters().filter(|(_, record)| match record.standing {
        Standing::Invited { .. } => false,
        Standing::Joining { .. } | Standing::Voting | Standing::Leaving => true,
    });
    there.map(|(replica, record)| Member { replica, address: record.address.clone() }).collect()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a duration is positive, and one of 500,000 years fits"
)]
fn micros(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("own", &self.own).finish_non_exhaustive()
    }
}

/// Calls that wait for their outcome.
#[derive(Debug, Default)]
struct Waiting {
    next_token: u64,
    proposals: BTreeMap<u64, Reply>,
    reads: BTreeMap<u64, oneshot::Sender<Option<u64>>>,
}

impl Driver {
    /// Runs until the inbox is closed.
    ///
    /// # Errors
    /// When the log fails or the deciding half halts.
    pub(crate) fn run(mut self, inbox: &Inbox) -> Result<(), DriverError> {
        let mut waiting = Waiting::default();
        let mut window = Window::new(IN_FLIGHT);
        let mut turn = Vec::new();
        let mut heard_at = clock::now();
        let mut placing = false;
        while inbox
            .take(window.room(clock::now(), waiting.proposals.len(), waiting.calls()), &mut turn)
        {
            let now = clock::now();
            if self.heard_from_leader(&turn) {
                heard_at = now;
            }
            let mut inputs = Vec::with_capacity(turn.len());
            inputs.extend(self.wrote.drain(..).map(|micros| Input::Wrote { micros }));
            let changes = waiting.proposals.len();
            for item in turn.drain(..) {
                match item {
                    Turn::Failed(error) => return Err(DriverError::Store(error)),
                    item => inputs.extend(waiting.input(item, &self.master)),
                }
            }
            if waiting.proposals.len() > changes {
                window.begin(now);
            }
            let effects = self.master.handle(now, inputs);
            window.turn(clock::now().since(now), waiting.calls());
            let changed = effects.iter().any(|effect| {
                matches!(effect, Effect::Applied { .. } | Effect::LeaderChanged { .. })
            });
            for effect in effects {
                self.perform(now, effect, &mut waiting)?;
            }
            let may_place = self.master.may_place(now);
            if may_place != placing {
                placing = may_place;
                self.scheduler.lead(placing);
            }
            if changed || now.since(self.view.borrow().seen_at) > Millis(200) {
                self.show(now, heard_at);
            }
        }
        Ok(())
    }

    fn heard_from_leader(&self, turn: &[Turn]) -> bool {
        let leader = self.master.leader();
        leader == Some(self.own)
            || turn.iter().any(|item| match item {
                Turn::Input(Input::Raft(message)) => leader == Some(ReplicaId(message.from)),
                Turn::Input(_)
                | Turn::Propose { .. }
                | Turn::Read { .. }
                | Turn::Failed(_)
                | Turn::Look(_) => false,
            })
    }

    fn perform(
        &mut self,
        now: Millis,
        effect: Effect,
        waiting: &mut Waiting,
    ) -> Result<(), DriverError> {
        match effect {
            Effect::Persist(batch) => {
                let began = clock::stopwatch();
                self.store.write(&batch.as_batch()).map_err(DriverError::Store)?;
                self.metrics.log_writes.inc();
                let seconds = began.seconds();
                self.metrics.log_write_seconds.observe(seconds);
                // To remove what is old takes longer, and says nothing of the disk.
                if !batch.entries.is_empty() || batch.hard_state.is_some() {
                    self.wrote.push(micros(seconds));
                }
            }
            Effect::Send { to, message } => {
                self.send(to, pb::peer_message::Body::Raft(message));
            }
            Effect::Checkpoint(work) => self.checkpoints.take(work),
            Effect::Hurry { index } => self.checkpoints.hurry(index),
            Effect::Ask { to, ask } => self.send(to, pb::peer_message::Body::Ask(ask)),
            Effect::Piece { to, piece } => self.send(to, pb::peer_message::Body::Piece(piece)),
            Effect::Orders { to, orders } if to == self.own => {
                if self.shard.try_send(orders).is_err() {
                    self.metrics.dropped_messages.inc();
                }
            }
            Effect::Orders { to, orders } => {
                self.send(to, pb::peer_message::Body::Orders((&orders).into()));
            }
            Effect::Answer { token, outcome } => {
                self.metrics.proposals.inc();
                if matches!(outcome, Outcome::Refused { .. }) {
                    self.metrics.refusals.inc();
                }
                if let Some(reply) = waiting.proposals.remove(&token) {
                    reply.send(outcome);
                }
            }
            Effect::Applied { state, events, reset } => {
                let ahead = self.master.cell_time(now).since(now);
                self.scheduler.follow(state.clone(), &events, reset, ahead);
                let taken = |event: &&Event| {
                    matches!(
                        &event.kind,
                        EventKind::TaskChanged {
                            change: TaskChange::Evicted(EvictCause::Reclaimed),
                            ..
                        }
                    )
                };
                self.metrics.reclaimed_tasks.inc_by(events.iter().filter(taken).count() as u64);
                let masters =
                    events.iter().any(|event| matches!(event.kind, EventKind::MastersChanged));
                if masters || reset {
                    self.peers.follow(&members_of(&state), state.master_lives());
                }
                // Before the answers of this turn: whoever is told of a change can read it.
                self.view.send_modify(|view| view.state = state.clone());
                self.metrics.count_updates(&events);
                self.feed.publish(state, events, reset);
            }
            Effect::LeaderChanged { leader, term } => {
                let leader_text = leader.map_or_else(|| "nobody".to_owned(), |id| id.to_string());
                tracing::info!(leader = leader_text, term, "leader changed");
                self.metrics.leading.set(i64::from(leader == Some(self.own)));
                self.metrics.term.set(i64::try_from(term).unwrap_or(i64::MAX));
            }
            Effect::ReadReady { token, index } => waiting.answer_read(token, Some(index)),
            Effect::ReadFailed { token } => waiting.answer_read(token, None),
            Effect::Decided { results } => {
                let refused = results.into_iter().filter_map(|(task, result)| match result {
                    Ok(_) => None,
                    Err(rejection) => {
                        tracing::debug!(%task, %rejection, "placement refused");
                        Some(task)
                    }
                });
                self.scheduler.reconsider(refused.collect());
            }
            Effect::Undecided { tasks } => self.scheduler.reconsider(tasks),
            Effect::Lent { afresh, news } => self.scheduler.lend(afresh, news),
            Effect::Diverged { replica, index } => {
                tracing::error!(%replica, index, "state differs from this replica's: one of the two is wrong");
            }
            Effect::Halt { why } => return Err(DriverError::Halted(why)),
        }
        Ok(())
    }

    fn send(&self, to: ReplicaId, body: pb::peer_message::Body) {
        self.peers.send(pb::PeerMessage { from: self.own.0, to: to.0, body: Some(body) });
    }

    fn show(&mut self, now: Millis, heard_at: Millis) {
        if now.since(self.silent_at) >= SILENT_EVERY {
            self.silent_at = now;
            crate::reserved::show(&self.master, &self.metrics);
            let silent = self.master.silent(now);
            self.silent = Arc::new(crate::peer_service::silent(self.master.state(), &silent));
            let silent: BTreeSet<_> = silent.into_iter().map(|(id, _)| id).collect();
            if silent != self.avoided {
                self.scheduler.avoid(silent.clone());
                self.avoided = silent;
            }
        }
        let status = self.master.status();
        self.metrics.applied_index.set(i64::try_from(status.applied).unwrap_or(i64::MAX));
        let silent = status.links.as_ref().map_or(0, |links| links.silent);
        self.metrics.silent_machines.set(i64::try_from(silent).unwrap_or(i64::MAX));
        let safe_mode = self.master.state().safe_mode().is_some();
        self.metrics.safe_mode.set(i64::from(safe_mode));
        self.view.send_replace(View {
            state: self.master.state().clone(),
            status,
            seen_at: now,
            heard_at,
            silent: self.silent.clone(),
        });
    }
}

impl Waiting {
    fn calls(&self) -> usize {
        self.proposals.len() + self.reads.len()
    }

    fn input(&mut self, item: Turn, master: &Master) -> Option<Input> {
        self.next_token += 1;
        let token = self.next_token;
        Some(match item {
            Turn::Look(look) => {
                look(master);
                return None;
            }
            Turn::Input(input) => input,
            Turn::Failed(_) => return None,
            // Nobody waits for it any more, and it was not begun: to do it now would help nobody.
            Turn::Propose { reply, .. } if reply.is_closed() => return None,
            Turn::Propose { command, deadline, reply } => {
                self.proposals.insert(token, reply);
                Input::Propose { token, command, deadline }
            }
            Turn::Read { deadline, reply } => {
                self.reads.insert(token, reply);
                Input::ReadIndex { token, deadline }
            }
        })
    }

    fn answer_read(&mut self, token: u64, index: Option<u64>) {
        if let Some(reply) = self.reads.remove(&token)
            && reply.send(index).is_err()
        {
            tracing::debug!("the reader went away");
        }
    }
}
