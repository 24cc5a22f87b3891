//! A whole cell on virtual time: masters, link shards, borglets, machines, clients, network, disks.
//!
//! Runs the deciding crates themselves; what the daemons' shells do (carry out effects in order,
//! bring inputs) is done here on an [`Agenda`] with faults from [`Dice`]. Everything that happens
//! is checked by `checkers` as it happens.
//!
//! Invariant: the same [`Setup`] gives the same run, byte for byte.

mod api;
mod choices;
mod client;
mod clock;
mod data;
mod drains;
mod events;
mod fault;
mod machine;
mod masters;
mod processes;
mod quorum;
mod quota;
mod reach;
mod replica;
mod restore;
pub(crate) mod scheduling;
mod shard;
mod storm;
mod words;

pub use api::{Builder, Submitted};
pub use client::Asked;
pub use clock::ClockJump;
pub use fault::Fault;
pub use storm::Weather;

use crate::agenda::Agenda;
use crate::checkers::{Checks, Invariant, Violation};
use crate::dice::Dice;
use crate::journal::Journal;
use crate::marks::{Mark, Marks};
use crate::network::{Copies, Network};
use borg_cell::master::CheckpointWork;
use borg_cell::state::CellState;
use borg_linkshard::PollFailure;
use borg_proto::command::{Assignment, LEVEL};
use borg_proto::peer::{ShardOrders, ShardReport};
use borg_proto::poll::{PollAnswer, PollRequest};
use borg_proto::wire::pb;
use borg_proto::{FailureCause, IncarnationId, JobId, Millis, ReplicaId};
use borglet_supervisor::Run;
use client::Clients;
use machine::Host;
use quorum::Quorum;
use replica::Replica;
use storm::Faults;

/// When every world begins: an ordinary Unix time, so that nothing can mistake 0 for a moment.
pub const BEGIN: Millis = Millis(1_700_000_000_000);

/// Everything that a run depends on.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where chance comes from.
    pub seed: u64,
    /// How many masters.
    pub masters: usize,
    /// How many machines.
    pub machines: usize,
    /// Which faults come by themselves.
    pub weather: Weather,
    /// How many clients submit and kill jobs by themselves.
    pub clients: usize,
    /// Entries between two checkpoints: few, so that checkpoints are installed in short runs.
    pub checkpoint_every: u64,
    /// Silence after which a machine is down.
    pub machine_down_after: Millis,
    /// How long a scheduler may take to read news, and again to decide, in milliseconds.
    pub scheduler_lag: u64,
    /// Whether each master has a second scheduler beside its own, with another policy.
    pub two_schedulers: bool,
    /// Whether messages between masters and to borglets are encoded and decoded on their way.
    pub wire: bool,
    /// The level of entries that the masters understand at first; each understands all when it starts
    /// again after half of the storm.
    pub level: u32,
    /// Whether an operator changes quota, and where it is enforced, at random.
    pub quotas: bool,
    /// Processor time in millicores and memory in bytes of the machines, in turn;
    /// 4 cores and 4 GiB where none is given.
    pub shapes: Vec<(u64, u64)>,
    /// Whether an operator keeps, closes and opens machines and changes the scheduling policy at random.
    pub choices: bool,
    /// Whether an operator drains machines and racks and takes them back at random.
    pub drains: bool,
}

impl Setup {
    /// Five masters, ten machines, no faults, no clients.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            masters: 5,
            machines: 10,
            weather: Weather::Calm,
            clients: 0,
            checkpoint_every: 200,
            machine_down_after: Millis(5_000),
            scheduler_lag: 2,
            two_schedulers: false,
            wire: false,
            level: LEVEL,
            quotas: false,
            choices: false,
            shapes: Vec::new(),
            drains: false,
        }
    }
}

/// Something that happens at a moment.
#[derive(Debug)]
pub(crate) enum Happening {
    MasterTick { replica: usize, life: u32 },
    MasterTurn { replica: usize, life: u32 },
    Persisted { replica: usize, life: u32 },
    Stops { replica: usize, life: u32, led: bool },
    FileWork { replica: usize, life: u32, work: Box<CheckpointWork> },
    SchedulerWakes { replica: usize, life: u32 },
    SchedulerDecided { replica: usize, life: u32, decisions: Vec<Assignment> },
    ShardTurn { replica: usize, life: u32 },
    ShardWakes { replica: usize, life: u32 },
    DigestsCompared { replica: usize, life: u32 },
    Peer { from: usize, to: usize, message: PeerMessage },
    Poll { asked: Box<Asking> },
    Polled { asked: PollId, result: Box<Result<PollAnswer, PollFailure>> },
    BorgletWakes { machine: usize, life: u32 },
    ProcessThere { machine: usize, boot: u32, run: Run },
    ProcessOver { machine: usize, boot: u32, run: Run, failure: Option<FailureCause> },
    LeaseOver { machine: usize, boot: u32, run: Run },
    UsageMeasured { machine: usize, life: u32 },
    DataMeasured { machine: usize, life: u32, alloc: IncarnationId },
    Probed { machine: usize, life: u32, run: Run, well: bool },
    ClientWakes { client: usize },
    CallArrives { call: Box<client::Call>, to: usize },
    CallAnswered { client: usize, attempt: u64, reply: Box<client::Reply> },
    NextFault,
    QuotaChanges,
    ChoiceChanges,
    DrainChanges,
    Restart { master: usize },
    RestartBorglet { machine: usize },
    Ends(Fault),
}

/// What masters say to each other.
#[derive(Debug, Clone)]
pub(crate) enum PeerMessage {
    Raft(Box<pb::RaftMessage>),
    Orders(Box<ShardOrders>),
    Report(Box<ShardReport>),
    Digest {
        replica: ReplicaId,
        index: u64,
        digest: u128,
    },
    /// How fast its disk is, in microseconds, and what entries it understands.
    Fitness {
        replica: ReplicaId,
        write_micros: u64,
        level: u32,
    },
    Ask(pb::CheckpointAsk),
    Piece(pb::CheckpointPiece),
}

/// Names one poll.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PollId {
    pub(crate) replica: usize,
    pub(crate) life: u32,
    pub(crate) machine: usize,
    pub(crate) ticket: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Asking {
    pub(crate) id: PollId,
    /// The borglet's process when it was sent: a connection does not outlive it.
    pub(crate) to_life: u32,
    pub(crate) request: PollRequest,
}

/// A cell and everything around it.
#[derive(Debug)]
pub struct World {
    pub(crate) setup: Setup,
    pub(crate) agenda: Agenda<Happening>,
    pub(crate) dice: Dice,
    pub(crate) network: Network,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) machines: Vec<Host>,
    pub(crate) clients: Clients,
    pub(crate) faults: Faults,
    pub(crate) checks: Checks,
    pub(crate) quorum: Quorum,
    pub(crate) marks: Marks,
    pub(crate) journal: Journal,
    /// The furthest state that any replica has shown.
    pub(crate) newest: CellState,
    /// In a cell that was restored: until when nothing unknown may be ended.
    pub(crate) spared_until: Option<Millis>,
}

/// The number of something as the vocabulary writes it.
pub(crate) fn number(index: usize) -> u64 {
    u64::try_from(index).expect("an index fits into 64 bits")
}

/// The masters are numbered from 1.
pub(crate) fn replica_id(index: usize) -> ReplicaId {
    ReplicaId(number(index) + 1)
}

/// The place of a master in the lists of the world.
pub(crate) fn index_of(replica: ReplicaId) -> usize {
    usize::try_from(replica.number() - 1).expect("masters are few")
}

impl World {
    /// A cell whose masters and borglets all start now, empty.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let mut dice = Dice::new(setup.seed);
        let cell: borg_proto::CellName = "sim".parse().expect("a name");
        let mut world = Self {
            agenda: Agenda::new(BEGIN),
            network: Network::new(setup.masters + setup.machines),
            replicas: (0..setup.masters).map(|index| Replica::new(&mut dice, index)).collect(),
            machines: (0..setup.machines)
                .map(|index| {
                    let shape = setup.shapes.iter().cycle().nth(index).copied();
                    Host::new(&mut dice, index, shape.unwrap_or(machine::SHAPE))
                })
                .collect(),
            clients: Clients::new(setup.clients, setup.masters),
            faults: Faults::new(&setup.weather, &mut dice),
            checks: Checks::new(setup.masters, setup.machines),
            quorum: Quorum::new(setup.masters),
            marks: Marks::default(),
            journal: Journal::new(BEGIN),
            newest: CellState::new(cell),
            spared_until: None,
            dice,
            setup,
        };
        for replica in 0..world.setup.masters {
            world.start_master(replica);
        }
        for machine in 0..world.setup.machines {
            world.start_borglet(machine);
        }
        world.begin_clients();
        world.begin_quota();
        world.begin_choices();
        world.begin_drains();
        if world.setup.weather != Weather::Calm {
            world.agenda.after(Millis(2_000), Happening::NextFault);
        }
        world
    }

    /// The present moment.
    #[must_use]
    pub const fn now(&self) -> Millis {
        self.agenda.now()
    }

    /// Lets this much time pass, or less when a check fails.
    pub fn run_for(&mut self, time: Millis) {
        let end = self.now() + time;
        while self.checks.violations().is_empty()
            && let Some(happening) = self.agenda.next(end)
        {
            self.happen(happening);
            self.look_at_copies();
            self.look_at_leader();
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::MasterTick { replica, life } => self.master_tick(replica, life),
            Happening::MasterTurn { replica, life } => self.master_turn(replica, life),
            Happening::Persisted { replica, life } => self.persisted(replica, life),
            Happening::Stops { replica, life, led } => self.stops(replica, life, led),
            Happening::FileWork { replica, life, work } => self.file_work(replica, life, *work),
            Happening::SchedulerWakes { replica, life } => self.scheduler_wakes(replica, life),
            Happening::SchedulerDecided { replica, life, decisions } => {
                self.scheduler_decided(replica, life, decisions);
            }
            Happening::ShardTurn { replica, life } => self.shard_turn(replica, life),
            Happening::ShardWakes { replica, life } => self.shard_wakes(replica, life),
            Happening::DigestsCompared { replica, life } => self.compare_digests(replica, life),
            Happening::Peer { from, to, message } => self.peer_message(from, to, message),
            Happening::Poll { asked } => self.polled(*asked),
            Happening::Polled { asked, result } => self.poll_answered(asked, *result),
            Happening::BorgletWakes { machine, life } => self.borglet_wakes(machine, life),
            Happening::ProcessThere { machine, boot, run } => {
                self.process_there(machine, boot, run)
            }
            Happening::ProcessOver { machine, boot, run, failure } => {
                self.process_over(machine, boot, run, failure);
            }
            Happening::LeaseOver { machine, boot, run } => self.lease_over(machine, boot, run),
            Happening::UsageMeasured { machine, life } => self.usage_measured(machine, life),
            Happening::DataMeasured { machine, life, alloc } => {
                self.data_measured(machine, life, alloc)
            }
            Happening::Probed { machine, life, run, well } => {
                self.probe_answered(machine, life, run, well);
            }
            Happening::ClientWakes { client } => self.client_wakes(client),
            Happening::CallArrives { call, to } => self.call_arrives(*call, to),
            Happening::CallAnswered { client, attempt, reply } => {
                self.call_answered(client, attempt, *reply);
            }
            Happening::NextFault => self.next_fault(),
            Happening::QuotaChanges => self.quota_changes(),
            Happening::ChoiceChanges => self.choice_changes(),
            Happening::DrainChanges => self.drain_changes(),
            Happening::Restart { master } => self.start_if_down(master),
            Happening::RestartBorglet { machine } => self.start_borglet_if_down(machine),
            Happening::Ends(fault) => self.end_fault(fault),
        }
    }

    /// Schedules the copies of a message that get through.
    pub(crate) fn carry(
        &mut self,
        copies: Copies,
        message: impl Fn() -> Happening,
        first: Happening,
    ) {
        if let Some(delay) = copies[1] {
            self.agenda.after(delay, message());
        }
        if let Some(delay) = copies[0] {
            self.agenda.after(delay, first);
        }
    }

    pub(crate) fn hit(&mut self, mark: Mark) {
        self.marks.hit(mark);
    }

    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        self.journal.say(self.agenda.now(), line);
    }

    pub(crate) fn note(&mut self, facts: &[u64]) {
        self.journal.note(self.agenda.now(), facts);
    }

    /// Takes the result of a check.
    pub(crate) fn check(&mut self, invariant: Invariant, result: Result<(), String>) {
        if let Err(what) = result {
            let at = self.agenda.now().since(BEGIN);
            self.say(|| format!("VIOLATED {invariant}: {what}"));
            self.checks.report(Violation { invariant, at, what });
        }
    }

    /// Looks for an order that explains everything that clients were told, and counts effects.
    pub fn check_histories(&mut self) {
        let result = self.checks.history.all_linearizable();
        self.check(Invariant::Linearizable, result);
        let unknown = self.checks.history.unknown_submissions();
        let made = |job: &&JobId| self.checks.ticks.made(**job);
        let accepted = self.checks.durability.accepted().filter(|job| !made(job));
        let result = self.checks.requests.one_effect_each(accepted, unknown);
        self.check(Invariant::OnceOnly, result);
    }

    /// What was violated so far; a run stops at the first.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        self.checks.violations()
    }

    /// How often each rare branch was reached.
    #[must_use]
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The record of the run.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The record of the run, to be traced.
    pub fn journal_mut(&mut self) -> &mut Journal {
        &mut self.journal
    }
}
