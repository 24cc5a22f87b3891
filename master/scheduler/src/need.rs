//! What the tasks of one job ask of a machine, in the form that the scan reads.
//!
//! All tasks of a job are equal, so this exists once per job and everything else points to it.

use crate::access::Group;
use crate::machines::Machines;
use crate::rooms::{CPU, DISK, FIXED_COLUMNS, IDLE, LARGEST, PORTS, RAM, TARGET, TASKS, asked};
use borg_cell::state::target_bytes;
use borg_proto::resources::WHOLE_DEVICE;
use borg_proto::spec::Constraint;
use borg_proto::{JobId, JobSpec, Priority, TaskSpec};
use std::sync::Arc;

/// What a task asks for, and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) job: JobId,
    pub(crate) priority: Priority,
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
    /// The attribute that names where machines fail together, as far as the score looks.
    pub(crate) rack: usize,
    /// Where the job limits its crowding; empty for a job of one task, which cannot crowd.
    pub(crate) spreads: Vec<SpreadLimit>,
    /// Which tasks get the same answers.
    pub(crate) class: ClassKey,
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
/// The attribute that the score spreads a job over, beside machines.
const RACK: &str = "rack";

/// Tasks with equal keys get equal answers from every machine.
///
/// Where a job's other tasks are matters to the score and to spread limits, so a job of several
/// tasks is a class of its own; jobs of one task share a class by shape.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ClassKey {
    Job(JobId),
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

impl Need {
    /// Reads a specification of a user of `group`. Devices and attributes that were not asked for so far get their
    /// place in `machines`.
    pub(crate) fn new(job: JobId, group: Group, spec: &JobSpec, machines: &mut Machines) -> Self {
        let wants = spec.task.asked();
        let fixed: [u64; FIXED_COLUMNS] = [
            wants.cpu_milli,
            wants.ram_bytes,
            wants.disk_bytes,
            wants.ports.into(),
            1,
            target_bytes(&spec.task),
        ];
        // In all, and of single devices: whole ones that are idle, or enough of one.
        let devices: Vec<_> = wants
            .devices
            .iter()
            .flat_map(|(name, amount)| {
                let first = machines.device(name);
                let part = if *amount < WHOLE_DEVICE { LARGEST } else { IDLE };
                let whole = amount.next_multiple_of(WHOLE_DEVICE);
                [(first, *amount), (first + part, if part == IDLE { whole } else { *amount })]
            })
            .collect();
        let asks: Vec<(usize, i32)> = [CPU, RAM, DISK, PORTS, TASKS, TARGET]
            .map(|column| (column, fixed[column]))
            .into_iter()
            .chain(devices)
            .filter(|(_, amount)| *amount > 0)
            .map(|(column, amount)| (column, asked(column, amount)))
            .collect();
        let spreads =
            spec.task.spread.iter().filter(|_| spec.tasks > 1).map(|spread| SpreadLimit {
                domain: (spread.attribute != MACHINE)
                    .then(|| machines.domain_of(&spread.attribute)),
                attribute: spread.attribute.clone(),
                max: spread.max,
            });
        let spreads = spreads.collect();
        let class = if spec.tasks > 1 {
            ClassKey::Job(job)
        } else {
            let constraints = spec.task.constraints.clone();
            let (priority, asks) = (spec.priority, asks.clone());
            let shape = SingleShape { priority, asks, constraints, group };
            ClassKey::Shape(Arc::new(shape))
        };
        let rack = machines.domain_of(RACK);
        let mut filters = |soft: bool| -> Vec<usize> {
            let wanted = spec.task.constraints.iter().filter(|c| c.soft == soft);
            wanted.map(|constraint| machines.filter(constraint)).collect()
        };
        let (hard, soft) = (filters(false), filters(true));
        let (priority, tasks, task) = (spec.priority, spec.tasks, spec.task.clone());
        Self { job, priority, tasks, asks, task, hard, soft, group, rack, spreads, class }
    }
    /// Whether it asks for any device.
    pub(crate) fn has_devices(&self) -> bool {
        self.asks.last().is_some_and(|(column, _)| *column >= FIXED_COLUMNS)
    }
}
