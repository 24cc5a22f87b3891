//! What must hold, checked while it happens.
//!
//! One file per noun; each remembers what it has seen and says what contradicts it. They share no
//! code with what they check: they look at effects, disks, processes and the furthest state.

pub mod copies;
pub mod crashes;
pub mod decisions;
pub mod disruption;
pub mod downs;
pub mod durability;
pub mod election;
pub mod equality;
pub mod fencing;
pub mod job_history;
pub mod kinds;
pub mod lent;
pub mod lifecycle;
pub mod linearizability;
pub mod log;
pub mod privileges;
pub mod quiescence;
pub mod quota;
pub mod requests;
pub mod views;

use borg_cell::state::{CellState, MachineState};
use borg_proto::{MachineId, Millis};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A thing that must always hold. The numbers that are missing between the printed ones belong to
/// parts of the cell that are not there yet (isolation).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invariant {
    /// At most one leader in a term.
    OneLeader,
    /// Logs agree, leaders have what was agreed, nobody takes back a promise.
    OneLog,
    /// What was acknowledged is durable on a majority and in every later leader's state.
    Durable,
    /// What clients are told of jobs could have happened one after the other.
    Linearizable,
    /// A request has one effect and one answer however often it is asked.
    OnceOnly,
    /// Equal states after equal entries.
    SameState,
    /// What a scheduler was told, played again on the log, gives its decisions again.
    SameDecisions,
    /// An incarnation belongs to one machine and runs there once at most.
    SingleCopy,
    /// An exclusive task never runs twice, whatever is cut off.
    Exclusive,
    /// So many machines a minute are given up at most, and none in safe mode.
    DownRate,
    /// A task does not go back where it failed while there are others to try.
    CrashPairs,
    /// All waiting tasks of a gang are placed by one entry, or none.
    Gangs,
    /// No machine obeys an order older than one that it has obeyed.
    Fencing,
    /// When nothing fails, exactly what is placed runs.
    NoOrphan,
    /// The leader's folded view of a machine is what the machine said.
    DeltaSound,
    /// No task that is wanted where it runs is ended, whatever fails around it.
    TasksSurvive,
    /// No job loses more tasks on purpose than its budget says, and drains end by their deadlines.
    Disruption,
    /// What is admitted in an enforced band is within its user's quota.
    Quota,
    /// What is admitted without some isolation is of a user who holds the privileges for it.
    Privileges,
    /// One run per tick of a cron job, a daemon on each machine that will do, no child without its parent.
    Kinds,
    /// What is lent harms no prod.
    Lent,
    /// What allocs left behind stays until it is saved or its time is over, and is saved by one at a time when nobody
    /// uses it.
    KeptData,
    /// The state's own audit: room, ports, counts, indexes.
    Audit,
    /// A majority that is well and connected has a leader within two seconds.
    Elects,
    /// When nothing fails, everything settles within a bounded time.
    Settles,
    /// A cell that goes on from a backup ends nothing before it has heard its machines out, but what it
    /// knows to be over.
    Restore,
    /// Tasks change along legal edges, incarnations grow, events never go back.
    LegalLife,
    /// The deciding crates do not panic.
    NoPanic,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OneLeader => "I1 one leader per term",
            Self::OneLog => "I1 one log",
            Self::Durable => "I2 acknowledged means durable",
            Self::Linearizable => "I3 linearizable answers",
            Self::OnceOnly => "I4 one effect per request",
            Self::SameState => "I5 replica equality",
            Self::SameDecisions => "same decisions",
            Self::SingleCopy => "I6 single copy",
            Self::Exclusive => "I7 exclusive tasks never twice",
            Self::DownRate => "I19 rate of machines given up",
            Self::CrashPairs => "I20 crash pairings",
            Self::Gangs => "gangs all or none",
            Self::Fencing => "I8 fencing",
            Self::NoOrphan => "I9 no orphan, no ghost",
            Self::DeltaSound => "I10 delta soundness",
            Self::TasksSurvive => "I13 tasks survive",
            Self::Disruption => "I18 disruption budgets",
            Self::Quota => "I14 quota",
            Self::Privileges => "I25 privileges",
            Self::Kinds => "kinds of jobs",
            Self::KeptData => "I33 kept data",
            Self::Lent => "I15 what is lent harms no prod",
            Self::Audit => "I15 audit of the state",
            Self::Elects => "I21 elections",
            Self::Settles => "I21 liveness",
            Self::Restore => "I29 restore",
            Self::LegalLife => "I22 legal task lives",
            Self::NoPanic => "no panic",
        })
    }
}

/// Something that did not hold.
#[derive(Debug, Clone)]
pub struct Violation {
    /// What should have held.
    pub invariant: Invariant,
    /// When, since the beginning of the run.
    pub at: Millis,
    /// What was found.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} violated at {}: {}", self.invariant, self.at, self.what)
    }
}

/// States between two audits in cells of more than [`SMALL`] machines.
const AUDIT_EVERY: u64 = 16;
/// Cells up to this size are audited after every change.
const SMALL: usize = 10;

/// All checkers of a run.
#[derive(Debug)]
pub struct Checks {
    pub(crate) election: election::Election,
    pub(crate) durability: durability::Durability,
    pub(crate) equality: equality::Equality,
    pub(crate) requests: requests::Requests,
    pub(crate) copies: copies::Copies,
    pub(crate) downs: downs::Downs,
    pub(crate) fencing: fencing::Fencing,
    pub(crate) history: job_history::JobHistory,
    pub(crate) ticks: kinds::Ticks,
    pub(crate) lifecycle: lifecycle::Lifecycle,
    pub(crate) disruptions: disruption::Disruptions,
    pub(crate) log: log::Log,
    pub(crate) decisions: decisions::Decisions,
    pub(crate) views: views::Views,
    /// Machines that are down, for the mark of their return.
    pub(crate) down_machines: BTreeSet<MachineId>,
    /// When it last changed whose tasks a machine takes.
    pub(crate) access_changed: BTreeMap<MachineId, Millis>,
    states: u64,
    violations: Vec<Violation>,
}

impl Checks {
    pub(crate) fn new(masters: usize, machines: usize) -> Self {
        Self {
            election: election::Election::default(),
            durability: durability::Durability::default(),
            equality: equality::Equality::default(),
            requests: requests::Requests::default(),
            copies: copies::Copies::default(),
            downs: downs::Downs::default(),
            fencing: fencing::Fencing::new(machines),
            history: job_history::JobHistory::default(),
            ticks: kinds::Ticks::default(),
            lifecycle: lifecycle::Lifecycle::default(),
            disruptions: disruption::Disruptions::default(),
            log: log::Log::new(masters),
            decisions: decisions::Decisions::default(),
            views: views::Views::new(machines),
            down_machines: BTreeSet::new(),
            access_changed: BTreeMap::new(),
            states: 0,
            violations: Vec::new(),
        }
    }

    /// The masters begin anew from a state that the cell once had. What machines do goes on, and so does
    /// what is checked of it; what was said of the cell since that state counts no more.
    pub(crate) fn restored(&mut self, masters: usize, state: &CellState) {
        self.election = election::Election::default();
        self.durability = durability::Durability::default();
        self.equality = equality::Equality::default();
        self.requests = requests::Requests::default();
        self.history = job_history::JobHistory::default();
        self.downs = downs::Downs::default();
        self.lifecycle = lifecycle::Lifecycle::restored(state);
        self.disruptions = disruption::Disruptions::restored(state);
        self.log = log::Log::new(masters);
        self.decisions = decisions::Decisions::default();
        self.views.restored();
        let down = state.machines().filter(|machine| machine.state == MachineState::Down);
        self.down_machines = down.map(|machine| machine.id).collect();
    }

    pub(crate) fn report(&mut self, violation: Violation) {
        self.violations.push(violation);
    }

    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(crate) fn is_time_to_audit(&mut self, machines: usize) -> bool {
        self.states += 1;
        machines <= SMALL || self.states.is_multiple_of(AUDIT_EVERY)
    }
}
