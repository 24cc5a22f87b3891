//! What the tasks of one job ask of a machine, in the form that the scan reads.
//!
//! All tasks of one version of a job are equal, so this exists once per version that tasks have, and
//! everything else points to it.

use crate::access::Group;
use crate::machines::Machines;
use crate::rooms::{
    ABSENT, CPU, DISK, FIXED_COLUMNS, IDLE, Kind, LARGEST, PORTS, RAM, TARGET, TASKS, asked,
};
use borg_cell::state::target_bytes;
use borg_proto::machine::{IMAGES, NO_IMAGES};
use borg_proto::reclamation::Amounts;
use borg_proto::resources::WHOLE_DEVICE;
use borg_proto::spec::{Constraint, ConstraintOp};
use borg_proto::{JobId, JobKind, JobSpec, Priority, TaskSpec};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// The tasks of a job that are of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cohort {
    pub(crate) job: JobId,
    pub(crate) version: u32,
}

impl Cohort {
    /// All that a job may have.
    pub(crate) fn all_of(job: JobId) -> RangeInclusive<Self> {
        Self { job, version: 0 }..=Self { job, version: u32::MAX }
    }
}

/// What a task asks for, and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) job: JobId,
    /// Of the job's tasks those that ask for this.
    pub(crate) cohort: Cohort,
    pub(crate) priority: Priority,
    /// Whether they stand as prod does, which their own version says.
    prod: bool,
    /// How many tasks the job has.
    pub(crate) tasks: u32,
    /// Grains of each column of which it asks for any: (column, grains), devices last.
    pub(crate) asks: Vec<(usize, i32)>,
    pub(crate) task: Arc<TaskSpec>,
    /// Numbers of its hard constraints among the [`crate::filters`].
    pub(crate) hard: Vec<usize>,
    /// Numbers of its soft constraints.
    pub(crate) soft: Vec<usize>,
    /// Whose tasks they are, as far as machines are kept for some.
    pub(crate) group: Group,
    /// The attributes that name where machines fail together, as far as the score looks: rack and power
    /// domain.
    pub(crate) scored: [usize; 2],
    /// Where the job limits its crowding; empty for a job of one task, which cannot crowd.
    pub(crate) spreads: Vec<SpreadLimit>,
    /// The alloc set in whose allocs the tasks run: then only ports are asked of the machine, and
    /// there is no choice of machines.
    pub(crate) alloc_set: Option<JobId>,
    /// Whether each task belongs to a machine, of a daemon or of a run that saves data: then there is no choice
    /// either.
    pub(crate) pinned: bool,
    /// Whether the tasks are allocs, which take whoever is in them along.
    pub(crate) is_alloc: bool,
    /// Which tasks get the same answers.
    pub(crate) class: ClassKey,
    /// Whether its waiting tasks are placed together or not at all.
    pub(crate) gang: bool,
    /// How many of its tasks may be placed at once, if not all.
    pub(crate) cap: Option<u32>,
}

/// A spread limit of the specification, with the number of its attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpreadLimit {
    /// `None` for the attribute `machine`: the machine itself.
    pub(crate) domain: Option<usize>,
    pub(crate) attribute: String,
    pub(crate) max: u32,
}

/// The attribute that stands for the machine itself in a spread limit.
const MACHINE: &str = "machine";
/// The attributes that the score spreads a job over, beside machines.
const SCORED: [&str; 2] = ["rack", "power"];

/// Tasks with equal keys get equal answers from every machine.
///
/// Where a job's other tasks are matters to the score and to spread limits, so a job of several
/// tasks is a class of its own for each of its versions; jobs of one task share a class by shape.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ClassKey {
    Job(Cohort),
    /// No class: a job that nothing can be decided for, whatever machines there are.
    Held(Cohort),
    Shape(Arc<SingleShape>),
}

/// What tells jobs of one task apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SingleShape {
    priority: Priority,
    asks: Vec<(usize, i32)>,
    constraints: Vec<Constraint>,
    group: Group,
}

/// What a machine has to be for a task that brings an image.
fn runs_images() -> Constraint {
    let (attribute, values) = (IMAGES.to_owned(), vec![NO_IMAGES.to_owned()]);
    Constraint { attribute, op: ConstraintOp::NotEqual, values, soft: false }
}

/// Whether that is the constraint: nobody wrote it into a specification.
pub(crate) fn is_of_images(constraint: &Constraint) -> bool {
    *constraint == runs_images()
}

impl Need {
    /// Reads a specification of a user of `group`. Devices and attributes that were not asked for so
    /// far get their place in `machines`. `alloc_set` is the one that the job is in.
    pub(crate) fn new(
        cohort: Cohort,
        group: Group,
        spec: &JobSpec,
        alloc_set: Option<JobId>,
        machines: &mut Machines,
    ) -> Self {
        let wants = spec.asked();
        let fixed: [u64; FIXED_COLUMNS] = [
            wants.cpu_milli,
            wants.ram_bytes,
            wants.disk_bytes,
            wants.ports.into(),
            1,
            target_bytes(spec),
            u64::from(wants.devices.keys().any(|name| machines.device(name).is_none())),
        ];
        // In all, and of single devices: whole ones that are idle, or enough of one.
        let devices: Vec<_> = wants
            .devices
            .iter()
            .filter_map(|(name, amount)| Some((machines.device(name)?, amount)))
            .flat_map(|(first, amount)| {
                let part = if *amount < WHOLE_DEVICE { LARGEST } else { IDLE };
                let whole = amount.next_multiple_of(WHOLE_DEVICE);
                [(first, *amount), (first + part, if part == IDLE { whole } else { *amount })]
            })
            .collect();
        let asks: Vec<(usize, i32)> = [CPU, RAM, DISK, PORTS, TASKS, TARGET, ABSENT]
            .map(|column| (column, fixed[column]))
            .into_iter()
            .chain(devices)
            .filter(|(_, amount)| *amount > 0)
            .map(|(column, amount)| (column, asked(column, amount)))
            .collect();
        let mut task = spec.task.clone();
        if task.image.is_some() {
            Arc::make_mut(&mut task).constraints.push(runs_images());
        }
        let spreads =
            spec.task.spread.iter().filter(|_| spec.tasks > 1).map(|spread| SpreadLimit {
                domain: (spread.attribute != MACHINE)
                    .then(|| machines.domain_of(&spread.attribute)),
                attribute: spread.attribute.clone(),
                max: spread.max,
            });
        let spreads = spreads.collect();
        let pinned = spec.kind == JobKind::Daemon;
        let class = if spec.tasks > 1 || pinned {
            ClassKey::Job(cohort)
        } else {
            let constraints = task.constraints.clone();
            let (priority, asks) = (spec.priority, asks.clone());
            let shape = SingleShape { priority, asks, constraints, group };
            ClassKey::Shape(Arc::new(shape))
        };
        let scored = SCORED.map(|attribute| machines.domain_of(attribute));
        let mut filters = |soft: bool| -> Vec<usize> {
            let wanted = task.constraints.iter().filter(|c| c.soft == soft);
            wanted.map(|constraint| machines.filter(constraint)).collect()
        };
        let is_alloc = spec.kind == JobKind::AllocSet;
        let (hard, soft) = (filters(false), filters(true));
        let (priority, tasks) = (spec.priority, spec.tasks);
        let (gang, cap) = (spec.gang && tasks > 1, spec.concurrent.filter(|cap| *cap < tasks));
        Self {
            job: cohort.job,
            cohort,
            priority,
            prod: priority.is_prod(),
            tasks,
            asks,
            task,
            hard,
            soft,
            group,
            scored,
            spreads,
            alloc_set,
            pinned,
            is_alloc,
            class,
            gang,
            cap,
        }
    }

    /// The same of tasks that belong to a machine, whatever the kind of their job.
    pub(crate) fn pinned(self) -> Self {
        Self { pinned: true, class: ClassKey::Job(self.cohort), ..self }
    }

    /// Which of the two kinds of work it is that machines mix.
    pub(crate) fn kind(&self) -> Kind {
        if self.prod { Kind::Prod } else { Kind::Rest }
    }

    /// The same of a version that is of prod, or not, as its job may have become the other since. No other job's
    /// tasks get its answers then.
    pub(crate) fn of_version(mut self, prod: bool) -> Self {
        if self.prod != prod {
            (self.prod, self.class) = (prod, ClassKey::Job(self.cohort));
        }
        self
    }

    /// What may be lent of one of its tasks of which so much is not needed: no more than what it holds.
    pub(crate) fn lends(&self, unneeded: Amounts) -> Amounts {
        if self.alloc_set.is_some() || self.is_alloc {
            return Amounts::default();
        }
        unneeded.least(Amounts::from(&self.task.limit))
    }

    /// Whether it asks for any device.
    pub(crate) fn has_devices(&self) -> bool {
        self.asks.last().is_some_and(|(column, _)| *column >= FIXED_COLUMNS)
    }
}
