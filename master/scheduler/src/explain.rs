//! Why a task is where it is, or is not anywhere: numbers, and one sentence for people.
//!
//! Counts what `filter` finds on every machine, all reasons of each, so nothing said here can
//! differ from what decides.

use crate::advice::Advice;
use crate::class::Class;
use crate::machines::Machines;
use crate::queue::NEVER;
use crate::reasons::{Misses, Reason, Rejected, dimension, unmet};
use crate::rooms::{ABSENT, DISK, FIXED_COLUMNS, RAM, TARGET, TASKS, amount, is_scored};
use crate::score::Weights;
use crate::standing::Standing;
use crate::victims::{self, Freed};
use borg_cell::state::{CellState, Job, Task};
use borg_proto::resources::Dimension;
use borg_proto::{IncarnationId, JobId, Millis, TaskId, TaskState};
use std::collections::BTreeMap;

/// Answer to "why".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Explanation {
    /// One sentence.
    pub summary: String,
    /// How many machines the cell has; 0 for a task that is not pending. For one in an alloc 1 while its
    /// alloc has room for it, else 0.
    pub machines: u32,
    /// How many of them could take the task now, pushing out others where that is allowed.
    pub feasible: u32,
    /// Why the others could not, most frequent first.
    pub rejections: Vec<Rejected>,
    /// The smallest changes with which it would be placed, each tried; of a pending task that no
    /// machine can take, and of no gang, which is placed whole.
    pub advice: Vec<Advice>,
    /// Who goes before it, of a pending task.
    pub ahead: Ahead,
    /// Whom it would push out were it placed now, of a pending task that fits nowhere otherwise.
    pub victims: Vec<IncarnationId>,
    /// What its machine and the next best cost, were a running task to be placed now; its own first.
    pub standings: Vec<Standing>,
    /// Tasks that were last pushed out for it.
    pub pushed_out: Vec<TaskId>,
    /// When it may be placed at the earliest, if that is not now. `u64::MAX`: when the jobs are
    /// finished that it waits for.
    pub not_before: Option<Millis>,
    /// Whether it waits for others of its gang, to be ready or to fit at once, whatever fits by itself.
    pub all_or_none: bool,
}

/// Who goes before a pending task.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ahead {
    /// Tasks of higher priority that are ready and may fit.
    pub higher: usize,
    /// Tasks of the same priority that are ready and may fit. They and it take turns by user.
    pub equal: usize,
    /// The job whose turn it is.
    pub next: Option<JobId>,
}

/// What all machines together say to one task.
pub(crate) struct Counted {
    pub(crate) machines: u32,
    pub(crate) feasible: u32,
    pub(crate) rejections: Vec<Rejected>,
}

/// Who counts as gone when machines are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preempting {
    /// Nobody.
    None,
    /// Whoever may be pushed out, as disruption budgets allow.
    WithinBudgets,
    /// The same whatever budgets say.
    Overdue,
}

impl Preempting {
    /// What counts for a task that waits.
    pub(crate) fn of(task: &Task, now: Millis) -> Self {
        if task.is_overdue(now) { Self::Overdue } else { Self::WithinBudgets }
    }
}

/// Asks every machine about one task of a class, with or without pushing out others.
/// `avoid` are the machines that the task keeps away from.
pub(crate) fn count(
    class: &mut Class,
    machines: &Machines,
    weights: &Weights,
    preempting: Preempting,
    avoid: &[usize],
) -> Counted {
    class.learn_all(machines, weights);
    let mut tally = Tally::default();
    let (mut known, mut feasible) = (0, 0);
    for row in machines.known() {
        known += 1;
        let freed = match preempting {
            Preempting::None => Freed::nothing(machines, row),
            Preempting::WithinBudgets => Freed::all(machines, &class.need, row, false),
            Preempting::Overdue => Freed::all(machines, &class.need, row, true),
        };
        let misses = class.misses(machines, row, &freed, avoid);
        if misses.none() {
            feasible += 1;
        } else {
            tally.add(class, machines, row, &freed, misses, preempting);
        }
    }
    Counted { machines: known, feasible, rejections: tally.rejections(machines) }
}

/// Reasons while they are being counted: shortages by column, so that their extremes can grow.
#[derive(Default)]
struct Tally {
    plain: BTreeMap<Reason, u32>,
    short: BTreeMap<usize, Shortage>,
}

#[derive(Default)]
struct Shortage {
    machines: u32,
    asks: u64,
    room: u64,
    capacity: u64,
}

impl Tally {
    fn add(
        &mut self,
        class: &Class,
        machines: &Machines,
        row: usize,
        freed: &Freed<'_>,
        misses: Misses,
        preempting: Preempting,
    ) {
        if misses.has(Misses::NOT_UP) {
            *self.plain.entry(Reason::NotUp).or_default() += 1;
        }
        if misses.has(Misses::CLOSED) {
            *self.plain.entry(Reason::Closed).or_default() += 1;
        }
        if misses.has(Misses::KEPT) {
            *self.plain.entry(Reason::Kept).or_default() += 1;
        }
        if misses.has(Misses::CRASHED) {
            *self.plain.entry(Reason::Crashed).or_default() += 1;
        }
        if misses.has(Misses::CONSTRAINT) {
            for constraint in unmet(machines, &class.need, row) {
                *self.plain.entry(Reason::Constraint(constraint.clone())).or_default() += 1;
            }
        }
        if misses.has(Misses::SPREAD) {
            for (attribute, max) in class.crowded(machines, row) {
                let reason = Reason::Spread { attribute: attribute.to_owned(), max };
                *self.plain.entry(reason).or_default() += 1;
            }
        }
        if !misses.has(Misses::ROOM) {
            return;
        }
        let regardless = || Freed::all(machines, &class.need, row, true);
        if preempting == Preempting::WithinBudgets
            && regardless().fits(machines, &class.need)
            && let Some(budget) = victims::spared(machines, &class.need, row)
        {
            *self.plain.entry(Reason::Budget { job: budget.job.clone() }).or_default() += 1;
            return;
        }
        for (column, ask) in &class.need.asks {
            if *column == ABSENT {
                self.add_absent(class, machines);
                continue;
            }
            let room = freed.left(machines, *column, class.need.kind());
            // Of devices in all there can be enough and yet none that is enough by itself: that is
            // what is told.
            if *ask <= room || (is_scored(*column) && *column >= FIXED_COLUMNS) {
                continue;
            }
            let short = self.short.entry(*column).or_default();
            short.machines += 1;
            short.asks = match *column {
                // What is beyond the bits of a scan is told as it was asked.
                RAM => class.need.task.limit.ram_bytes,
                DISK => class.need.task.limit.disk_bytes,
                other => amount(other, *ask),
            };
            short.room = short.room.max(amount(*column, room));
            short.capacity =
                short.capacity.max(amount(*column, machines.rooms.capacity(*column, row)));
        }
    }

    /// Devices that no machine of the cell has.
    fn add_absent(&mut self, class: &Class, machines: &Machines) {
        let asked = class.need.task.asked();
        for (name, asks) in asked.devices.iter().filter(|(name, _)| machines.is_absent(name)) {
            let dimension = Dimension::Device(name.clone());
            let reason = Reason::Short { dimension, asks: *asks, room: 0, capacity: 0 };
            *self.plain.entry(reason).or_default() += 1;
        }
    }

    fn rejections(self, machines: &Machines) -> Vec<Rejected> {
        let short = self.short.into_iter().map(|(column, s)| {
            let Shortage { asks, room, capacity, .. } = s;
            let reason = match column {
                TASKS => Reason::TooManyTasks { most: capacity },
                TARGET => Reason::TargetFull { asks, room, most: capacity },
                other => {
                    Reason::Short { dimension: dimension(machines, other), asks, room, capacity }
                }
            };
            Rejected { reason, machines: s.machines }
        });
        let plain = self.plain.into_iter().map(|(reason, machines)| Rejected { reason, machines });
        let mut all: Vec<Rejected> = plain.chain(short).collect();
        all.sort_by(|a, b| b.machines.cmp(&a.machines).then_with(|| a.reason.cmp(&b.reason)));
        all
    }
}

/// "0 of 3 machines fit: 3 lack memory (asks 1 TiB, largest has 24 GiB)".
pub(crate) fn sentence(machines: u32, feasible: u32, rejections: &[Rejected]) -> String {
    if machines == 0 {
        return "the cell has no machines".into();
    }
    let not_up = rejections.iter().find(|r| r.reason == Reason::NotUp).map_or(0, |r| r.machines);
    if not_up == machines {
        return format!("none of the {machines} machines is up");
    }
    let noun = if machines == 1 { "machine fits" } else { "machines fit" };
    let mut text = format!("{feasible} of {machines} {noun}");
    for (i, rejected) in rejections.iter().enumerate() {
        text += if i == 0 { ": " } else { ", " };
        text += &rejected.to_string();
    }
    text
}

/// What keeps a task waiting beside the room that it asks for.
pub(crate) struct HeldUp {
    /// Why its gang is not placed.
    pub(crate) gang: Option<String>,
    /// The job's cap, when it is reached.
    pub(crate) full: Option<u32>,
    /// Why it may not be placed yet, if it may not.
    pub(crate) not_yet: String,
}

/// Explains a pending task for which `counted` was found; `assumed` names the machine that is
/// already decided for it, `lingers` the one where its last incarnation may still run.
#[expect(clippy::too_many_arguments, reason = "all that there is to say of one task")]
pub(crate) fn pending(
    state: &CellState,
    job: &Job,
    task: &Task,
    now: Millis,
    not_before: Millis,
    counted: Counted,
    assumed: Option<String>,
    lingers: Option<String>,
    held_up: &HeldUp,
) -> Explanation {
    let Counted { machines, feasible, rejections } = counted;
    let fits = sentence(machines, feasible, &rejections);
    let summary = if task.is_stopped() {
        stopped(job)
    } else if not_before == NEVER {
        waits(state, job)
    } else if let Some(machine) = lingers {
        self::lingers(&machine)
    } else if let Some(machine) = assumed {
        format!("goes to {machine} as soon as the decision is committed")
    } else if let Some(cap) = held_up.full {
        format!("{cap} of the job's tasks run, which is its cap")
    } else if not_before > now {
        held_up.not_yet.clone() + &fits
    } else if let Some(gang) = &held_up.gang {
        gang.clone()
    } else if feasible > 0 {
        format!("waits for its turn; {fits}")
    } else {
        fits
    };
    let not_before = (not_before > now).then_some(not_before);
    let all_or_none = held_up.gang.is_some();
    let told = Explanation { summary, machines, feasible, rejections, ..Explanation::default() };
    Explanation { not_before, all_or_none, ..told }
}

/// "waits for ann/first to finish".
pub(crate) fn waits(state: &CellState, job: &Job) -> String {
    let waits = job.waits_for.iter().filter_map(|id| state.job(*id));
    let waits: Vec<String> = waits.map(|job| job.key.to_string()).collect();
    format!("waits for {} to finish", waits.join(", "))
}

/// What is said of a task that somebody has to start.
pub(crate) fn stopped(job: &Job) -> String {
    format!("is stopped until somebody starts it: borgctl start {}", job.key)
}

/// What is said of an exclusive task whose last incarnation may still run.
pub(crate) fn lingers(machine: &str) -> String {
    format!(
        "is exclusive, and its last incarnation may still run on {machine}: waits until that has \
         surely ended"
    )
}

/// "in back-off for another 4 s after exit code 1; ", or nothing when it may be placed now.
pub(crate) fn back_off(task: &Task, not_before: Millis, now: Millis) -> String {
    if not_before <= now {
        return String::new();
    }
    let seconds = not_before.since(now).0.div_ceil(1000);
    let last =
        task.last_failure.as_ref().map(|cause| format!(" after {cause}")).unwrap_or_default();
    format!("in back-off for another {seconds} s{last}; ")
}

/// Explains a task of a job over which the scheduler panicked. Looks at no machine, as that may have
/// been what it panicked at.
pub(crate) fn set_aside(state: &CellState, id: TaskId, task: &Task, said: &str) -> Explanation {
    let told = settled(state, id, Some(task));
    match &task.state {
        TaskState::Running(_) | TaskState::Dead { .. } => told,
        TaskState::Pending { .. } => Explanation {
            summary: format!(
                "is set aside: the scheduler failed over its job ({said}), and leaves it out until the \
                 job is submitted anew or the master restarts"
            ),
            ..told
        },
    }
}

/// Explains a task that is not pending.
pub(crate) fn settled(state: &CellState, id: TaskId, task: Option<&Task>) -> Explanation {
    let summary = match task.map(|task| &task.state) {
        None => format!("the cell has no task {id}"),
        Some(TaskState::Running(placement)) => {
            let machine = state.machine(placement.machine).map_or_else(
                || format!("machine {}", placement.machine.0),
                |machine| machine.name.to_string(),
            );
            format!("placed on {machine} as incarnation {}", placement.incarnation)
        }
        Some(TaskState::Dead { end, .. }) => format!("over: {end}"),
        Some(TaskState::Pending { .. }) => "pending".into(),
    };
    Explanation { summary, ..Explanation::default() }
}
