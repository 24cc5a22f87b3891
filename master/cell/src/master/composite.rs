//! Replica and links as one.
//!
//! Decides the order inside a turn: inputs first, then the leader's own proposals, then agreement,
//! then what follows from what was applied.

use super::{Config, Effect, Input, Outcome, Status};
use crate::links::{Links, Reserved, Seen};
use crate::replica::{Fate, Origin, Out, RecoverError, Replica};
use crate::state::{Answer, CellState};
use crate::store::{Membership, Position, Recovered};
use borg_proto::command::{Action, Assignment, Principal, SERVICES_SINCE};
use borg_proto::poll::{MachineReport, TaskReport, Usage};
use borg_proto::reclamation::Amounts;
use borg_proto::{IncarnationId, MachineId, Millis, ReplicaId, TaskId};
use std::collections::BTreeMap;

/// Most decisions in one entry, so that one entry does not hold up the others.
const MAX_PLACED: usize = 1_000;

/// A whole Borgmaster, without its hands.
#[derive(Debug)]
pub struct Master {
    config: Config,
    replica: Replica,
    /// While this replica leads and has applied its first entry.
    links: Option<Links>,
    /// Names the leader's own questions to the majority.
    own_reads: u64,
    /// Until when no more alarms are answered: others are on their way, or could not be.
    alarms_rest: Millis,
    halt_told: bool,
}

/// Tokens from here on name the leader's own reads; see [`Input::ReadIndex`].
const OWN_READS: u64 = 1 << 63;
/// How long the leader waits for one answer to alarms before it gives another. Ours: far longer than
/// agreement takes.
const ALARMS_REST: Millis = Millis(1_000);
/// How long such a question may take.
const OWN_READ_TIMEOUT: Millis = Millis(1_000);

impl Master {
    /// A Borgmaster as of what its store gave back.
    ///
    /// # Errors
    /// When `recovered` does not go with `config`, or is not enough to go on from.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the log is moved in; a caller needs it no more"
    )]
    pub fn new(config: Config, recovered: Recovered) -> Result<Self, RecoverError> {
        let replica = Replica::new(config.clone(), &recovered)?;
        Ok(Self {
            config,
            replica,
            links: None,
            own_reads: OWN_READS,
            alarms_rest: Millis(0),
            halt_told: false,
        })
    }

    /// Takes all inputs of one turn, returns what to do, in order. `now` is in Unix milliseconds
    /// and never goes back.
    pub fn handle(&mut self, now: Millis, inputs: impl IntoIterator<Item = Input>) -> Vec<Effect> {
        let mut out = Out::default();
        for input in inputs {
            if self.replica.halted().is_some() {
                refuse(input, &mut out.after);
            } else {
                self.take(now, input, &mut out);
            }
        }
        if self.replica.halted().is_none() {
            self.observe(now, &mut out);
            self.answer_alarms(now, &mut out);
            self.replica.advance(now, &mut out);
        }
        self.finish(now, out)
    }

    /// The state as of the last entry applied.
    #[must_use]
    pub fn state(&self) -> &CellState {
        self.replica.state()
    }

    /// Who leads, as far as known.
    #[must_use]
    pub fn leader(&self) -> Option<ReplicaId> {
        self.replica.leader()
    }

    /// Who votes and who listens, as far as this replica has applied it.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        self.replica.membership()
    }

    /// Where its log ends.
    #[must_use]
    pub fn last_log(&self) -> Position {
        self.replica.last_log()
    }

    /// The Raft term.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.replica.term()
    }

    /// The cell's time now, which entries carry and back-offs end by: never behind what any entry
    /// carried so far, and as fast as this replica's clock. It is ahead of `now` by an amount that
    /// only grows.
    #[must_use]
    pub fn cell_time(&self, now: Millis) -> Millis {
        self.replica.cell_time(now)
    }

    /// Whether this replica takes changes.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.replica.leads()
    }

    /// Whether decisions of this replica's scheduler can come to something now. Before it leads by the
    /// log they cannot, nor while a cell that was restored from a backup hears its machines out: a
    /// scheduler that went on regardless would make the same ones over and over.
    #[must_use]
    pub fn may_place(&self, now: Millis) -> bool {
        let (own, state) = (Some((self.config.replica, self.term())), self.state());
        self.is_leader() && state.leader() == own && self.cell_time(now) >= state.place_after()
    }

    /// What an incarnation last said that it uses. Only the leader knows.
    #[must_use]
    pub fn usage(&self, id: IncarnationId) -> Option<Usage> {
        self.links.as_ref()?.usage(id)
    }

    /// What is reserved for an incarnation, as far as anything is known of it. Only the leader knows.
    #[must_use]
    pub fn reserved(&self, id: IncarnationId) -> Option<Amounts> {
        let machine = self.state().placed_as(id)?.0.machine;
        self.links.as_ref()?.reserved(machine, id)
    }

    /// What is believed of each machine's tasks, by number. Only the leader knows.
    #[must_use]
    pub fn reservations(&self) -> Option<BTreeMap<MachineId, Reserved>> {
        let links = self.links.as_ref()?;
        Some(links.reservations().map(|(id, reserved)| (id, *reserved)).collect())
    }

    /// What an incarnation that is placed last said of itself; `None` when that is nothing. Only the leader knows.
    #[must_use]
    pub fn status_line(&self, id: IncarnationId) -> Option<String> {
        let machine = self.state().placed_as(id)?.0.machine;
        self.links.as_ref()?.status_line(machine, id)
    }

    /// What a machine last said of an incarnation that is placed there. Only the leader knows.
    #[must_use]
    pub fn told_of(&self, id: IncarnationId) -> Option<&TaskReport> {
        let machine = self.state().placed_as(id)?.0.machine;
        self.links.as_ref()?.told_of(machine, id)
    }

    /// The replica whose link shard polls a machine. Only the leader knows.
    #[must_use]
    pub fn shard_of(&self, machine: MachineId) -> Option<ReplicaId> {
        self.links.as_ref()?.shard_of(machine)
    }

    /// What a machine last said of itself, as far as the whole of it is known. Only the leader
    /// knows.
    #[must_use]
    pub fn report_of(&self, machine: MachineId) -> Option<MachineReport> {
        self.links.as_ref()?.report_of(machine)
    }

    /// For how long a machine is silent, if it is. Only the leader knows.
    #[must_use]
    pub fn silent_for(&self, machine: MachineId, now: Millis) -> Option<Millis> {
        self.links.as_ref()?.silent_for(machine, now)
    }

    /// All machines that should answer and do not, with how long. Only the leader knows.
    #[must_use]
    pub fn silent(&self, now: Millis) -> Vec<(MachineId, Millis)> {
        self.links.as_ref().map(|links| links.silent(now)).unwrap_or_default()
    }

    /// At most `most` agreed entries after index `after`, for a look at the past; `None` if this
    /// replica does not hold them in memory any more.
    #[must_use]
    pub fn log_after(&self, after: u64, most: usize) -> Option<Vec<crate::store::LogEntry>> {
        self.replica.log_after(after, most)
    }

    /// What this replica knows of itself.
    #[must_use]
    pub fn status(&self) -> Status {
        let replica = &self.replica;
        Status {
            replica: self.config.replica,
            leader: replica.leader(),
            term: replica.term(),
            last_index: replica.last_index(),
            commit: replica.commit(),
            applied: replica.state().applied(),
            checkpoint: replica.checkpoint_index(),
            digest: replica.state().digest(),
            digests: replica.digests(),
            heard: replica.heard().keys().copied().collect(),
            in_flight: replica.in_flight(),
            halted: replica.halted().map(str::to_owned),
            level: self.config.level,
            write_micros: replica.write_micros(),
            links: self.links.as_ref().map(Links::status),
        }
    }

    fn take(&mut self, now: Millis, input: Input, out: &mut Out) {
        match input {
            Input::Tick => self.replica.tick(now, out),
            Input::Raft(message) => self.replica.step(now, message, out),
            Input::Report(report) => {
                if let Some(links) = &mut self.links {
                    links.fold(now, report);
                }
            }
            Input::Propose { token, mut command, deadline } => {
                self.look_who_answers(&mut command.action);
                let what = (command.by, command.request, command.action);
                let origin = Origin::Client { token };
                if let Err((_, outcome)) = self.replica.propose(now, what, Some(deadline), origin) {
                    out.after.push(Effect::Answer { token, outcome });
                }
            }
            Input::Decisions(assignments) => self.place(now, assignments, out),
            Input::ReadIndex { token, deadline } => self.replica.read(token, deadline, out),
            Input::Wrote { micros } => self.replica.office().wrote(micros),
            Input::Retire => {
                self.replica.hand_over(now, "this master is stopped");
            }
            Input::Peer { replica, write_micros, level } => {
                self.replica.office().heard(replica, write_micros, level);
            }
            Input::Ask { from, ask } => self.replica.asked(now, from, &ask, out),
            Input::Piece { from, piece } => self.replica.piece(now, from, piece, out),
            Input::Checkpoint(news) => self.replica.checkpoint_news(now, news, out),
            Input::PeerDigest { replica, index, digest } => {
                self.replica.peer_digest(replica, index, digest, out);
            }
        }
    }

    /// Notes in the entry whether a machine answers that is to be given up: no operator means that,
    /// and only the leader knows.
    fn look_who_answers(&self, action: &mut Action) {
        if let (Some(links), Action::GiveUp { machines, answering }) = (&self.links, action) {
            *answering = machines.iter().find(|machine| links.answers(machine)).cloned();
        }
    }

    fn place(&mut self, now: Millis, mut assignments: Vec<Assignment>, out: &mut Out) {
        while !assignments.is_empty() {
            let rest = assignments.split_off(assignments.len().min(MAX_PLACED));
            let tasks: Vec<TaskId> = assignments.iter().map(|assignment| assignment.task).collect();
            if self.links.is_none() {
                out.after.push(Effect::Undecided { tasks });
            } else {
                self.place_batch(now, assignments, tasks, out);
            }
            assignments = rest;
        }
    }

    fn observe(&mut self, now: Millis, out: &mut Out) {
        let Some(links) = &mut self.links else { return };
        links.judge_strangers(now, self.replica.cell_time(now), self.replica.state());
        links.tick(now, self.replica.state(), self.replica.heard());
        links.reckon(now, self.replica.cell_time(now), self.replica.state());
        if links.asks(now, self.own_reads + 1) {
            self.own_reads += 1;
            self.replica.read(self.own_reads, now + OWN_READ_TIMEOUT, out);
        }
        let seen = links.observe(now, self.replica.state());
        if !seen.is_empty() {
            self.observe_batch(now, seen, out);
        }
    }

    /// Lets happen what was to happen by now.
    fn answer_alarms(&mut self, now: Millis, out: &mut Out) {
        let (state, time) = (self.replica.state(), self.replica.cell_time(now));
        let due = state.next_alarm().is_some_and(|at| at <= time);
        let able = self.links.is_some() && state.level() >= SERVICES_SINCE;
        if !due || !able || now < self.alarms_rest {
            return;
        }
        self.alarms_rest = now + ALARMS_REST;
        if let Err((origin, outcome)) = self.propose_own(now, Action::Advance, Origin::Alarms) {
            give_up(origin, &outcome, out);
        }
    }

    /// Proposes decisions as one entry; as two if no entry may hold them all.
    fn place_batch(
        &mut self,
        now: Millis,
        mut assignments: Vec<Assignment>,
        mut tasks: Vec<TaskId>,
        out: &mut Out,
    ) {
        let action = Action::Place { assignments: assignments.clone() };
        let origin = Origin::Scheduler { tasks: tasks.clone() };
        let Err((origin, outcome)) = self.propose_own(now, action, origin) else { return };
        if is_unwritable(&outcome) && tasks.len() > 1 {
            let half = tasks.len() / 2;
            let (others, other_tasks) = (assignments.split_off(half), tasks.split_off(half));
            self.place_batch(now, assignments, tasks, out);
            self.place_batch(now, others, other_tasks, out);
        } else {
            give_up(origin, &outcome, out);
        }
    }

    /// Proposes what machines said as one entry; as two if no entry may hold it all.
    fn observe_batch(&mut self, now: Millis, mut seen: Vec<Seen>, out: &mut Out) {
        let changes = seen.iter().flat_map(|(_, changes)| changes.iter().cloned()).collect();
        let origin = Origin::Links { machines: seen.iter().map(|(machine, _)| *machine).collect() };
        let proposed = self.propose_own(now, Action::Observe { changes }, origin);
        let Err((origin, outcome)) = proposed else { return };
        if is_unwritable(&outcome) && seen.len() > 1 {
            let others = seen.split_off(seen.len() / 2);
            self.observe_batch(now, seen, out);
            self.observe_batch(now, others, out);
        } else {
            give_up(origin, &outcome, out);
        }
    }

    fn propose_own(
        &mut self,
        now: Millis,
        action: Action,
        origin: Origin,
    ) -> Result<(), (Origin, Outcome)> {
        let by = Principal::Master(self.config.replica);
        self.replica.propose(now, (by, None, action), None, origin)
    }

    /// What follows from what was applied.
    fn finish(&mut self, now: Millis, mut out: Out) -> Vec<Effect> {
        let mut effects = std::mem::take(&mut out.effects);
        effects.extend(self.replica.leader_changed());
        if !self.replica.leads() || self.replica.halted().is_some() {
            self.links = None;
        }
        if out.led && self.replica.leads() {
            let config = self.config.links.clone();
            let (state, heard) = (self.replica.state(), self.replica.heard());
            self.links = Some(Links::new(
                config,
                self.config.replica,
                self.replica.term(),
                state,
                heard,
                now,
            ));
            effects.push(Effect::Lent { afresh: true, news: Vec::new() });
        } else if let Some(links) = &mut self.links {
            links.follow(self.replica.state(), &out.events, now);
        }
        if out.moved {
            let (state, events) = (self.replica.state().clone(), std::mem::take(&mut out.events));
            effects.push(Effect::Applied { state, events, reset: out.reset });
        }
        for (origin, fate) in out.settled {
            effects.extend(self.settle(origin, fate));
        }
        let links = &mut self.links;
        out.after.retain(|effect| !own_read(links.as_mut(), effect));
        if let Some(links) = &mut self.links {
            effects.extend(links.orders(now));
            let news = links.lent_news();
            effects.extend((!news.is_empty()).then_some(Effect::Lent { afresh: false, news }));
        }
        effects.extend(out.after);
        if let Some(why) = self.replica.halted().filter(|_| !self.halt_told) {
            self.halt_told = true;
            effects.push(Effect::Halt { why: why.to_owned() });
        }
        effects
    }

    fn settle(&mut self, origin: Origin, fate: Fate) -> Option<Effect> {
        match origin {
            Origin::Leader => None,
            Origin::Alarms => {
                if !matches!(fate, Fate::Unknown) {
                    self.alarms_rest = Millis(0);
                }
                None
            }
            Origin::Client { token } => {
                let outcome = match fate {
                    Fate::Applied { index, result: Ok(answer) } => {
                        Outcome::Accepted { index, answer }
                    }
                    Fate::Applied { index, result: Err(rejection) } => {
                        Outcome::Refused { index, rejection }
                    }
                    Fate::Unknown | Fate::Unwritable => Outcome::Unavailable,
                };
                Some(Effect::Answer { token, outcome })
            }
            Origin::Scheduler { tasks } => Some(match fate {
                Fate::Applied { result: Ok(Answer::Placed { results }), .. } => {
                    Effect::Decided { results: tasks.into_iter().zip(results).collect() }
                }
                Fate::Applied { result: Err(rejection), .. } => Effect::Decided {
                    results: tasks.into_iter().map(|task| (task, Err(rejection.clone()))).collect(),
                },
                Fate::Applied { result: Ok(_), .. } | Fate::Unknown | Fate::Unwritable => {
                    Effect::Undecided { tasks }
                }
            }),
            Origin::Links { machines } => {
                if let Some(links) = &mut self.links {
                    // What no entry may hold is not said again until the machine says otherwise.
                    links.settled(&machines, !matches!(fate, Fate::Unknown));
                }
                None
            }
        }
    }
}

/// Takes the answer to a question of the leader's own; false when it is somebody else's.
fn own_read(links: Option<&mut Links>, effect: &Effect) -> bool {
    let (token, confirmed) = match effect {
        Effect::ReadReady { token, .. } => (*token, true),
        Effect::ReadFailed { token } => (*token, false),
        Effect::Persist(_)
        | Effect::Send { .. }
        | Effect::Orders { .. }
        | Effect::Answer { .. }
        | Effect::Applied { .. }
        | Effect::LeaderChanged { .. }
        | Effect::Decided { .. }
        | Effect::Undecided { .. }
        | Effect::Lent { .. }
        | Effect::Diverged { .. }
        | Effect::Checkpoint(_)
        | Effect::Hurry { .. }
        | Effect::Ask { .. }
        | Effect::Piece { .. }
        | Effect::Halt { .. } => return false,
    };
    if token < OWN_READS {
        return false;
    }
    if let Some(links) = links {
        links.asked(token, confirmed);
    }
    true
}

/// Whether it will never be otherwise for the same command.
fn is_unwritable(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::TooLarge { .. } | Outcome::Malformed { .. } => true,
        Outcome::Accepted { .. }
        | Outcome::Refused { .. }
        | Outcome::NotLeader { .. }
        | Outcome::Unavailable
        | Outcome::Unsafe { .. }
        | Outcome::TooNew { .. }
        | Outcome::Overloaded => false,
    }
}

/// A proposal of the leader's own that was not taken.
fn give_up(origin: Origin, outcome: &Outcome, out: &mut Out) {
    if is_unwritable(outcome) {
        tracing::error!(?origin, ?outcome, "no entry may hold this: dropped");
        out.settled.push((origin, Fate::Unwritable));
    } else {
        out.settled.push((origin, Fate::Unknown));
    }
}

/// What a halted replica says: nothing is done any more.
fn refuse(input: Input, effects: &mut Vec<Effect>) {
    match input {
        Input::Propose { token, .. } => {
            effects.push(Effect::Answer { token, outcome: Outcome::NotLeader { leader: None } });
        }
        Input::Decisions(assignments) => {
            let tasks = assignments.into_iter().map(|assignment| assignment.task).collect();
            effects.push(Effect::Undecided { tasks });
        }
        Input::ReadIndex { token, .. } => effects.push(Effect::ReadFailed { token }),
        Input::Tick
        | Input::Raft(_)
        | Input::Report(_)
        | Input::Wrote { .. }
        | Input::Retire
        | Input::Peer { .. }
        | Input::Ask { .. }
        | Input::Piece { .. }
        | Input::Checkpoint(_)
        | Input::PeerDigest { .. } => {}
    }
}
