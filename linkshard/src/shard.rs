//! The deciding half of a link shard.
//!
//! Takes the leader's orders, the borglets' answers and the time; returns which borglets to ask
//! and what to tell the leader. The leader's orders are absolute for the machines they name, so a
//! lost or doubled message costs a delay and nothing else.
//!
//! Invariants: at most one poll per machine counts. A newer one supersedes it, and an answer with
//! an older ticket is dropped. A lease that goes to a borglet is of an answer that came before a
//! moment at which a majority of the masters followed the leader, and of which the leader knows
//! that the machine answers (docs/adr/0009).

use crate::diff::{Difference, difference};
use crate::parts::in_parts;
use crate::spread::{Push, Spread};
use borg_proto::names::{CellName, IncarnationId, MachineName, ReplicaId};
use borg_proto::package::Digest;
use borg_proto::peer::{
    MachineAck, MachineDelta, ShardMachine, ShardOrders, ShardReport, ShardSession, ShardStamp,
};
use borg_proto::poll::{
    AnswerStamp, Fence, MachineReport, PollAnswer, PollRefusal, PollRequest, ReportVersion, Target,
    TargetDigest, Usage,
};
use borg_proto::time::Millis;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How a shard paces itself. All values are ours: the paper gives "every few seconds".
#[derive(Debug, Clone)]
pub struct Config {
    /// The cell.
    pub cell: CellName,
    /// The replica that the shard is part of.
    pub replica: ReplicaId,
    /// How long a borglet may hold its answer while nothing changes, so that a change is known at
    /// once and an idle machine costs one exchange a second.
    pub hold: Millis,
    /// Most polls out at once. With more machines than this, answers are not held and machines
    /// are asked in turn, each at most every `hold`.
    pub polls_out: usize,
    /// Most of them to machines that have not answered since they were last unreachable: each opens a
    /// connection, and when thousands are opened at once all take longer than anybody waits.
    pub openings_out: usize,
    /// Least time between two polls of a machine, so that a machine whose tasks flap cannot take
    /// the shard for itself.
    pub gap: Millis,
    /// How long an answer may take beyond the time it may be held.
    pub patience: Millis,
    /// Wait after a poll that failed.
    pub retry: Millis,
    /// Polls missed in a row before the leader is told that the machine is silent.
    pub missed: u32,
    /// Longest silence towards the leader; an empty report says that the shard lives.
    pub heartbeat: Millis,
    /// A difference that the leader has not acknowledged for this long is sent again, in full.
    pub resend: Millis,
    /// Time between two usage summaries.
    pub usage_every: Millis,
    /// Differs for each start of the process, so that nobody takes another one's clock for ours.
    pub process: u64,
}

impl Config {
    /// The pace of a shard in production.
    #[must_use]
    pub fn new(cell: CellName, replica: ReplicaId) -> Self {
        Self {
            cell,
            replica,
            hold: Millis(1_000),
            polls_out: 2_000,
            openings_out: 128,
            gap: Millis(10),
            patience: Millis(1_000),
            retry: Millis(500),
            missed: 3,
            heartbeat: Millis(250),
            resend: Millis(500),
            usage_every: Millis(5_000),
            process: 0,
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// The leader spoke.
    Orders(ShardOrders),
    /// A borglet answered.
    Answered {
        /// Which machine.
        machine: MachineName,
        /// The poll that it answers.
        ticket: u64,
        /// Its full state.
        answer: PollAnswer,
    },
    /// A poll came to nothing.
    Failed {
        /// Which machine.
        machine: MachineName,
        /// The poll that failed.
        ticket: u64,
        /// How.
        failure: PollFailure,
    },
    /// A blob was handed to a borglet, or could not be.
    Pushed {
        /// Which machine.
        machine: MachineName,
        /// Which blob.
        digest: Digest,
        /// Whether the machine has it.
        done: bool,
    },
}

/// How a poll came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PollFailure {
    /// No answer: no connection, a deadline, or somebody else at that address.
    Unreachable(String),
    /// The borglet answered, with a refusal.
    Refused(PollRefusal),
}

/// Something to be done.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Ask a borglet. An earlier poll of the same machine no longer matters and may be dropped.
    Poll {
        /// Which machine.
        machine: MachineName,
        /// Names this poll.
        ticket: u64,
        /// `host:port` of its borglet.
        address: String,
        /// What to say.
        request: PollRequest,
        /// Give up after this long.
        patience: Millis,
        /// Over a new connection: so many polls in a row were missed that the old one may be dead and not
        /// know. A single late answer is worth more than another handshake.
        afresh: bool,
    },
    /// Hand a blob of the master's to a borglet, which asked for it. Answered by [`Input::Pushed`].
    Push {
        /// Which machine.
        machine: MachineName,
        /// `host:port` of its borglet.
        address: String,
        /// Which blob.
        digest: Digest,
        /// From where on.
        offset: u64,
    },
    /// The machine is no longer this shard's: its connection may be closed.
    Forget(MachineName),
    /// Tell the leader.
    Report {
        /// The leader.
        to: ReplicaId,
        /// What changed.
        report: ShardReport,
    },
}

/// One of the shard's machines.
#[derive(Debug)]
struct Polled {
    address: String,
    /// 0: it was not ordered in this session yet, or its target is still to come.
    generation: u64,
    target: Arc<Target>,
    /// Names the target.
    digest: TargetDigest,
    /// Names the one that the borglet has, as far as is known.
    has: TargetDigest,
    /// The order that the borglet last said it had obeyed, if of this session.
    obeyed: Fence,
    seen: ReportVersion,
    /// What the leader has been told, last usage included.
    told: Option<MachineReport>,
    told_obeyed: u64,
    told_usage: BTreeMap<IncarnationId, Usage>,
    reachable: bool,
    /// Whether it has answered since the last poll that it missed, so that there is a connection.
    open: bool,
    missed: u32,
    seq: u64,
    acked: u64,
    /// When the newest difference was sent.
    sent_at: Millis,
    /// The difference that said that it answers, of which the leader must know before a lease goes
    /// out.
    reachable_seq: u64,
    /// Whether it is told to run exclusive tasks.
    exclusive: bool,
    /// An answer that waits to be confirmed, and when it came.
    answered: Option<(Millis, AnswerStamp)>,
    /// The newest answer that is confirmed.
    lease: Option<AnswerStamp>,
    /// The next difference must stand alone.
    full: bool,
    out: Option<Out>,
    due: Millis,
}

#[derive(Debug)]
struct Out {
    ticket: u64,
    give_up_at: Millis,
    opening: bool,
}

impl Polled {
    fn new(address: String, now: Millis) -> Self {
        Self {
            exclusive: false,
            reachable_seq: 0,
            answered: None,
            lease: None,
            address,
            generation: 0,
            target: Arc::default(),
            digest: TargetDigest::default(),
            has: TargetDigest::default(),
            obeyed: Fence::default(),
            seen: ReportVersion::default(),
            told: None,
            told_obeyed: 0,
            told_usage: BTreeMap::new(),
            reachable: true,
            open: false,
            missed: 0,
            seq: 0,
            acked: 0,
            sent_at: now,
            full: true,
            out: None,
            due: now,
        }
    }
}

/// The deciding half of a link shard.
#[derive(Debug)]
pub struct Shard {
    config: Config,
    session: ShardSession,
    leader: Option<ReplicaId>,
    machines: BTreeMap<MachineName, Polled>,
    /// Machines without a poll out and with a connection, by when they are due.
    due: BTreeSet<(Millis, MachineName)>,
    /// The same of those to which a connection has to be opened.
    due_opening: BTreeSet<(Millis, MachineName)>,
    /// Polls out, by when they are given up.
    out: BTreeSet<(Millis, MachineName)>,
    /// How many of them open a connection.
    openings: usize,
    /// Machines with exclusive tasks.
    exclusive: BTreeSet<MachineName>,
    /// Who gets which blob from whom.
    spread: Spread,
    /// Machines whose target the leader named and did not send: to be asked for.
    wanting: Vec<MachineName>,
    /// The newest of our own moments after which a majority followed the leader.
    confirmed: Millis,
    next_ticket: u64,
    last_report: Millis,
    next_usage: Millis,
    next_audit: Millis,
}

impl Shard {
    /// A shard without orders: it polls nobody.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            session: ShardSession::default(),
            leader: None,
            machines: BTreeMap::new(),
            due: BTreeSet::new(),
            due_opening: BTreeSet::new(),
            out: BTreeSet::new(),
            openings: 0,
            exclusive: BTreeSet::new(),
            spread: Spread::default(),
            wanting: Vec::new(),
            confirmed: Millis(0),
            next_ticket: 1,
            last_report: Millis(0),
            next_usage: Millis(0),
            next_audit: Millis(0),
        }
    }

    /// How many machines it has been given.
    #[must_use]
    pub fn machines(&self) -> usize {
        self.machines.len()
    }

    /// Takes everything that happened since the last call, returns what to do about it.
    pub fn handle(&mut self, now: Millis, inputs: impl IntoIterator<Item = Input>) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut deltas = Vec::new();
        for input in inputs {
            match input {
                Input::Tick => {}
                Input::Orders(orders) => self.take_orders(now, orders, &mut effects, &mut deltas),
                Input::Answered { machine, ticket, answer } => {
                    self.take_answer(now, &machine, ticket, answer, &mut deltas);
                }
                Input::Failed { machine, ticket, failure } => {
                    self.take_failure(now, &machine, ticket, &failure, &mut deltas);
                }
                Input::Pushed { machine, digest, done } => {
                    self.spread.pushed(now, &machine, digest, done);
                }
            }
        }
        self.give_up(now, &mut deltas);
        self.repeat_unacknowledged(now, &mut deltas);
        self.spread_blobs(now, &mut effects);
        self.send_polls(now, &mut effects);
        self.send_report(now, deltas, &mut effects);
        effects
    }

    /// Machines whose sources changed are told at once.
    fn spread_blobs(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let (pushes, changed) = self.spread.decide(now);
        effects.extend(pushes.into_iter().map(|push| {
            let Push { machine, address, digest, offset } = push;
            Effect::Push { machine, address, digest, offset }
        }));
        for machine in changed {
            self.hurry(now, &machine);
        }
    }

    fn take_orders(
        &mut self,
        now: Millis,
        orders: ShardOrders,
        effects: &mut Vec<Effect>,
        deltas: &mut Vec<MachineDelta>,
    ) {
        if orders.session < self.session {
            return;
        }
        if orders.session > self.session {
            if !orders.whole {
                return; // the leader repeats the whole division until it hears from this session
            }
            self.begin(now, orders.session, orders.leader);
            // Their numbers are of the session that is over.
            deltas.clear();
        }
        if orders.whole {
            let named: BTreeSet<_> = orders.machines.iter().map(|m| m.machine.clone()).collect();
            let lost = self.machines.keys().filter(|name| !named.contains(*name));
            for machine in lost.cloned().collect::<Vec<_>>() {
                self.forget(&machine);
                effects.push(Effect::Forget(machine));
            }
        }
        for order in orders.machines {
            self.take_order(now, order, deltas);
        }
        for MachineAck { machine, seq, generation } in orders.acks {
            // Orders may be lost or still to come: what followed from the report is not known here then, and
            // an exclusive task could be let live that the leader has just given up.
            if let Some(polled) = self.machines.get_mut(&machine)
                && polled.generation >= generation
            {
                polled.acked = polled.acked.max(seq.min(polled.seq));
            }
        }
        for machine in orders.resync {
            if let Some(polled) = self.machines.get_mut(&machine) {
                polled.full = true;
                polled.seen = ReportVersion::default();
                self.hurry(now, &machine);
            }
        }
        if let Some(stamp) = orders.confirmed.filter(|stamp| stamp.process == self.config.process) {
            self.confirmed = self.confirmed.max(stamp.at);
        }
        self.extend_leases(now);
    }

    /// Answers that came before a moment that is confirmed now are good for a lease.
    fn extend_leases(&mut self, now: Millis) {
        let mut first = Vec::new();
        for machine in &self.exclusive {
            let Some(polled) = self.machines.get_mut(machine) else { continue };
            let known = polled.acked >= polled.reachable_seq;
            let confirmed = self.confirmed;
            let sure = |(at, _): &mut (Millis, AnswerStamp)| known && *at <= confirmed;
            if let Some((_, stamp)) = polled.answered.take_if(sure)
                && polled.lease.replace(stamp).is_none()
            {
                // Its exclusive tasks wait for this.
                first.push(machine.clone());
            }
        }
        for machine in first {
            self.hurry(now, &machine);
        }
    }

    /// A new division: what was told to the last leader counts for nothing now.
    fn begin(&mut self, now: Millis, session: ShardSession, leader: ReplicaId) {
        self.session = session;
        self.leader = Some(leader);
        self.last_report = Millis(0);
        self.next_usage = now + self.config.usage_every;
        self.due.clear();
        self.due_opening.clear();
        self.out.clear();
        self.openings = 0;
        self.exclusive.clear();
        self.wanting.clear();
        self.confirmed = Millis(0);
        for (name, polled) in &mut self.machines {
            let old = std::mem::replace(polled, Polled::new(String::new(), now));
            // Whoever leads: that it answers or does not, and what it was told.
            let Polled { address, open, missed, target, digest, has, .. } = old;
            *polled = Polled { open, missed, target, digest, has, ..Polled::new(address, now) };
            let due = if open { &mut self.due } else { &mut self.due_opening };
            due.insert((now, name.clone()));
        }
    }

    fn forget(&mut self, machine: &MachineName) {
        self.take_back(machine);
        self.spread.lose(machine);
        if let Some(polled) = self.machines.remove(machine) {
            self.due.remove(&(polled.due, machine.clone()));
            self.due_opening.remove(&(polled.due, machine.clone()));
            self.exclusive.remove(machine);
        }
    }

    /// Takes the poll that is out, if there is one, off the books.
    fn take_back(&mut self, machine: &MachineName) {
        let Some(out) = self.machines.get_mut(machine).and_then(|polled| polled.out.take()) else {
            return;
        };
        self.out.remove(&(out.give_up_at, machine.clone()));
        self.openings -= usize::from(out.opening);
    }

    fn take_order(&mut self, now: Millis, order: ShardMachine, deltas: &mut Vec<MachineDelta>) {
        let name = order.machine;
        let polled = match self.machines.entry(name.clone()) {
            Entry::Occupied(polled) => polled.into_mut(),
            Entry::Vacant(free) => {
                self.due_opening.insert((now, name.clone()));
                free.insert(Polled::new(order.address.clone(), now))
            }
        };
        let moved = polled.address != order.address;
        if order.generation <= polled.generation && !moved {
            return;
        }
        let known = order.digest.is_known_as(polled.digest).then(|| polled.target.clone());
        let Some(target) = order.target.or(known) else {
            self.wanting.push(name);
            return;
        };
        if polled.generation == 0 && polled.missed >= self.config.missed && polled.reachable {
            deltas.push(tell_silence(now, &name, polled));
        }
        polled.exclusive = target.tasks.iter().any(|task| task.exclusive);
        if polled.exclusive {
            self.exclusive.insert(name.clone());
        } else {
            self.exclusive.remove(&name);
            (polled.answered, polled.lease) = (None, None);
        }
        polled.open &= !moved;
        polled.address = order.address;
        polled.generation = order.generation;
        polled.target = target;
        polled.digest = order.digest;
        self.hurry(now, &name);
    }

    /// Polls the machine at once, in place of the poll that is out.
    fn hurry(&mut self, now: Millis, machine: &MachineName) {
        self.take_back(machine);
        self.schedule(machine, now);
    }

    fn schedule(&mut self, machine: &MachineName, at: Millis) {
        let Some(polled) = self.machines.get_mut(machine) else { return };
        self.due.remove(&(polled.due, machine.clone()));
        self.due_opening.remove(&(polled.due, machine.clone()));
        polled.due = at;
        let due = if polled.open { &mut self.due } else { &mut self.due_opening };
        due.insert((at, machine.clone()));
    }

    /// Takes the poll back from the machine when `ticket` is the one that counts.
    fn returned(&mut self, machine: &MachineName, ticket: u64) -> Option<&mut Polled> {
        self.machines.get(machine)?.out.as_ref().filter(|out| out.ticket == ticket)?;
        self.take_back(machine);
        self.machines.get_mut(machine)
    }

    fn take_answer(
        &mut self,
        now: Millis,
        machine: &MachineName,
        ticket: u64,
        mut answer: PollAnswer,
        deltas: &mut Vec<MachineDelta>,
    ) {
        let (session, gap, stamp) = (self.session, self.config.gap, answer.stamp());
        let pause = if self.holds() { gap } else { self.config.hold };
        let Some(polled) = self.returned(machine, ticket) else { return };
        let moved_on = polled.seen != answer.version;
        polled.open = true;
        polled.missed = 0;
        if polled.exclusive && polled.answered.is_none() {
            polled.answered = Some((now, stamp));
        }
        polled.seen = answer.version;
        polled.obeyed = answer.obeyed;
        let obeyed = obeyed_generation(session, answer.obeyed);
        if obeyed > 0 && obeyed == polled.generation {
            polled.has = polled.digest;
        }
        let blobs = std::mem::take(&mut answer.report.blobs);
        deltas.extend(tell(now, machine, polled, answer.report, obeyed));
        if let Some(polled) = self.machines.get(machine) {
            self.spread.report(now, machine, &polled.address, &blobs);
        }
        self.schedule(machine, now + if moved_on { gap } else { pause });
    }

    fn take_failure(
        &mut self,
        now: Millis,
        machine: &MachineName,
        ticket: u64,
        failure: &PollFailure,
        deltas: &mut Vec<MachineDelta>,
    ) {
        let (missed, retry) = (self.config.missed, self.config.retry);
        let Some(polled) = self.returned(machine, ticket) else { return };
        let wait = match failure {
            PollFailure::Refused(PollRefusal::TargetMissing { .. }) => {
                // The next poll carries it.
                (polled.obeyed, polled.has) = (Fence::default(), TargetDigest::default());
                Millis(0)
            }
            // Somebody newer gives the orders there: this shard is the one out of date.
            PollFailure::Refused(PollRefusal::Stale { .. }) => retry,
            PollFailure::Refused(PollRefusal::Cell { .. } | PollRefusal::Machine { .. })
            | PollFailure::Unreachable(_) => {
                polled.seen = ReportVersion::default();
                (polled.obeyed, polled.has) = (Fence::default(), TargetDigest::default());
                polled.open = false;
                polled.missed = polled.missed.saturating_add(1);
                if polled.missed >= missed {
                    self.spread.lose(machine);
                }
                let Some(polled) = self.machines.get_mut(machine) else { return };
                if polled.missed >= missed && polled.reachable {
                    deltas.push(tell_silence(now, machine, polled));
                }
                retry
            }
        };
        self.schedule(machine, now + wait);
    }

    /// Polls that nobody answered for in time count as failed.
    fn give_up(&mut self, now: Millis, deltas: &mut Vec<MachineDelta>) {
        while let Some((at, machine)) = self.out.first().cloned()
            && at <= now
        {
            let ticket = self.machines.get(&machine).and_then(|m| m.out.as_ref()).map(|o| o.ticket);
            let Some(ticket) = ticket else {
                self.out.remove(&(at, machine));
                continue;
            };
            let failure = PollFailure::Unreachable("no answer in time".into());
            self.take_failure(now, &machine, ticket, &failure, deltas);
        }
    }

    /// Whether there are few enough machines for every answer to be held.
    fn holds(&self) -> bool {
        self.machines.len() <= self.config.polls_out
    }

    /// The machine whose turn it is. Connections are opened first: they are few, and would else wait for as
    /// long as there is always somebody to ask again.
    fn next_to_poll(&mut self, now: Millis) -> Option<MachineName> {
        let is_due =
            |due: &BTreeSet<(Millis, MachineName)>| due.first().is_some_and(|(at, _)| *at <= now);
        let due = if self.openings < self.config.openings_out && is_due(&self.due_opening) {
            &mut self.due_opening
        } else {
            Some(&mut self.due).filter(|due| is_due(due))?
        };
        due.pop_first().map(|(_, machine)| machine)
    }

    fn send_polls(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let hold = if self.holds() { self.config.hold } else { Millis(0) };
        while self.out.len() < self.config.polls_out
            && let Some(machine) = self.next_to_poll(now)
        {
            let Some(polled) = self.machines.get_mut(&machine) else { continue };
            if polled.generation == 0 {
                continue; // kept over from the last division, not ordered in this one yet
            }
            let fence = Fence {
                epoch: self.session.epoch,
                term: self.session.term,
                session: self.session.session,
                generation: polled.generation,
            };
            let has_it = polled.obeyed == fence || polled.digest.is_known_as(polled.has);
            let give_up_at = now + hold + self.config.patience;
            let opening = !polled.open;
            self.openings += usize::from(opening);
            polled.out = Some(Out { ticket: self.next_ticket, give_up_at, opening });
            self.out.insert((give_up_at, machine.clone()));
            effects.push(Effect::Poll {
                ticket: self.next_ticket,
                address: polled.address.clone(),
                request: PollRequest {
                    cell: self.config.cell.clone(),
                    machine: machine.clone(),
                    fence,
                    digest: polled.digest,
                    target: (!has_it).then(|| polled.target.clone()),
                    seen: polled.seen,
                    hold,
                    lease: polled.lease.filter(|_| polled.exclusive),
                    sources: self.spread.sources(&machine),
                },
                patience: hold + self.config.patience,
                afresh: polled.missed > 0 && polled.missed.is_multiple_of(self.config.missed),
                machine,
            });
            self.next_ticket += 1;
        }
    }

    /// A difference may be lost on the way; the full report that follows makes up for it.
    fn repeat_unacknowledged(&mut self, now: Millis, deltas: &mut Vec<MachineDelta>) {
        if now < self.next_audit {
            return;
        }
        self.next_audit = now + self.config.resend;
        for (name, polled) in &mut self.machines {
            let late = polled.seq > polled.acked && now.since(polled.sent_at) >= self.config.resend;
            if !late {
                continue;
            }
            if !polled.reachable {
                deltas.push(tell_silence(now, name, polled));
            } else if let Some(report) = polled.told.clone() {
                polled.full = true;
                let obeyed = polled.told_obeyed;
                deltas.extend(tell(now, name, polled, report, obeyed));
            }
        }
    }

    fn send_report(&mut self, now: Millis, deltas: Vec<MachineDelta>, effects: &mut Vec<Effect>) {
        let Some(leader) = self.leader else { return };
        let usage = if now >= self.next_usage {
            self.next_usage = now + self.config.usage_every;
            self.machines.values_mut().flat_map(usage_news).collect()
        } else {
            Vec::new()
        };
        let silent_for = now.since(self.last_report);
        let wanting = std::mem::take(&mut self.wanting);
        let nothing = deltas.is_empty() && usage.is_empty() && wanting.is_empty();
        if nothing && silent_for < self.config.heartbeat {
            return;
        }
        self.last_report = now;
        let stamp = ShardStamp { process: self.config.process, at: now };
        let stamp = (!self.exclusive.is_empty()).then_some(stamp);
        let (session, from) = (self.session, self.config.replica);
        let mut parts = in_parts(deltas).into_iter();
        let deltas = parts.next().unwrap_or_default();
        let first = ShardReport { session, from, deltas, usage, stamp, wanting };
        effects.push(Effect::Report { to: leader, report: first });
        for deltas in parts {
            let (usage, wanting) = (Vec::new(), Vec::new());
            let report = ShardReport { session, from, deltas, usage, stamp, wanting };
            effects.push(Effect::Report { to: leader, report });
        }
    }

    /// The next moment at which something is due without any input.
    #[must_use]
    pub fn next_due(&self) -> Option<Millis> {
        self.leader?;
        let due = self.due.first().map(|(at, _)| *at);
        let may_open = self.openings < self.config.openings_out;
        let opening = self.due_opening.first().map(|(at, _)| *at).filter(|_| may_open);
        let out = self.out.first().map(|(at, _)| *at);
        let heartbeat = Some(self.last_report + self.config.heartbeat);
        [due, opening, out, heartbeat, self.spread.next_due()].into_iter().flatten().min()
    }
}

fn obeyed_generation(session: ShardSession, obeyed: Fence) -> u64 {
    let same = (obeyed.epoch, obeyed.term, obeyed.session)
        == (session.epoch, session.term, session.session);
    if same { obeyed.generation } else { 0 }
}

/// What the leader has to hear of a report, if anything. Remembers that it was told.
fn tell(
    now: Millis,
    machine: &MachineName,
    polled: &mut Polled,
    report: MachineReport,
    obeyed: u64,
) -> Option<MachineDelta> {
    let returned = !std::mem::replace(&mut polled.reachable, true);
    let first = polled.told.is_none();
    let full = std::mem::take(&mut polled.full) || returned;
    let delta = match &polled.told {
        Some(told) if !full => {
            let news = difference(told, &report);
            if news.is_empty() && obeyed == polled.told_obeyed {
                polled.told = Some(report);
                return None;
            }
            let Difference { info, tasks, gone, data } = news;
            MachineDelta { info, tasks, gone, data, full: false, ..empty(machine) }
        }
        Some(_) | None => MachineDelta {
            info: Some(report.info.clone()),
            tasks: report.tasks.clone(),
            data: Some(report.data.clone()),
            full: true,
            ..empty(machine)
        },
    };
    polled.seq += 1;
    polled.sent_at = now;
    if returned || first {
        polled.reachable_seq = polled.seq;
    }
    polled.told_obeyed = obeyed;
    polled.told = Some(report);
    Some(MachineDelta { seq: polled.seq, obeyed, reachable: true, ..delta })
}

fn tell_silence(now: Millis, machine: &MachineName, polled: &mut Polled) -> MachineDelta {
    polled.reachable = false;
    polled.seq += 1;
    polled.sent_at = now;
    MachineDelta { seq: polled.seq, ..empty(machine) }
}

fn empty(machine: &MachineName) -> MachineDelta {
    MachineDelta {
        machine: machine.clone(),
        seq: 0,
        full: false,
        reachable: false,
        obeyed: 0,
        info: None,
        tasks: Vec::new(),
        gone: Vec::new(),
        data: None,
    }
}

/// Change in processor use below which nothing is said, in millicores: a twentieth of a core. Ours.
const CPU_EPSILON: u64 = 50;
/// Change in memory, page cache or disk below which nothing is said, in bytes. Ours.
const BYTES_EPSILON: u64 = 4 << 20;

/// Usage that moved beyond the epsilon since it was last told.
fn usage_news(polled: &mut Polled) -> Vec<(IncarnationId, Usage)> {
    let Some(told) = &polled.told else { return Vec::new() };
    let mut news = Vec::new();
    for task in &told.tasks {
        let is = &task.usage;
        let was = polled.told_usage.get(&task.id);
        if was.map_or(*is != Usage::default(), |was| has_moved(was, is)) {
            news.push((task.id, task.usage));
        }
    }
    polled.told_usage.extend(news.iter().copied());
    polled.told_usage.retain(|id, _| told.tasks.iter().any(|task| task.id == *id));
    news
}

/// Whether usage is another one, beyond the epsilon.
fn has_moved(was: &Usage, is: &Usage) -> bool {
    let bytes = [
        (is.ram_bytes, was.ram_bytes),
        (is.cache_bytes, was.cache_bytes),
        (is.disk_bytes, was.disk_bytes),
        (is.io_bytes, was.io_bytes),
    ];
    is.cpu_milli.abs_diff(was.cpu_milli) >= CPU_EPSILON
        || bytes.into_iter().any(|(is, was)| is.abs_diff(was) >= BYTES_EPSILON)
        || is.window != was.window
}
