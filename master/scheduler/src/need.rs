//! What the tasks of one job ask of a machine, in the form that the scan reads.
//!
//! All tasks of a job are equal, so this exists once per job and everything else points to it.

use crate::machines::{CPU, DISK, FIXED_COLUMNS, Machines, PORTS, RAM, TARGET, TASKS};
use borg_cell::state::target_bytes;
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
    /// Amounts of what every machine has, by column.
    pub(crate) asks: [u64; FIXED_COLUMNS],
    /// Amounts of devices: (column, amount). Most tasks ask for none.
    pub(crate) devices: Vec<(usize, u64)>,
    pub(crate) task: Arc<TaskSpec>,
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
    Shape {
        priority: Priority,
        asks: [u64; FIXED_COLUMNS],
        devices: Vec<(usize, u64)>,
        constraints: Vec<Constraint>,
    },
}

impl Need {
    /// Reads a specification. Devices and attributes that were not asked for so far get their
    /// place in `machines`.
    pub(crate) fn new(job: JobId, spec: &JobSpec, machines: &mut Machines) -> Self {
        let asked = spec.task.asked();
        let mut asks = [0; FIXED_COLUMNS];
        asks[CPU] = asked.cpu_milli;
        asks[RAM] = asked.ram_bytes;
        asks[DISK] = asked.disk_bytes;
        asks[PORTS] = asked.ports.into();
        asks[TASKS] = 1;
        asks[TARGET] = target_bytes(&spec.task);
        let devices: Vec<_> =
            asked.devices.iter().map(|(name, amount)| (machines.device(name), *amount)).collect();
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
            ClassKey::Shape { priority: spec.priority, asks, devices: devices.clone(), constraints }
        };
        let rack = machines.domain_of(RACK);
        let (priority, tasks, task) = (spec.priority, spec.tasks, spec.task.clone());
        Self { job, priority, tasks, asks, devices, task, rack, spreads, class }
    }

    /// The amounts by column, devices last.
    pub(crate) fn amounts(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.asks.iter().copied().enumerate().chain(self.devices.iter().copied())
    }
}
