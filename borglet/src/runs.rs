//! A run of a task as a container: its id, its specification, how its end reads.
//!
//! Invariant: a container's id says which run it is, so that the next borglet knows it from the
//! directory alone.

use crate::clock;
use crate::container::{
    Bind, ContainerId, ContainerSpec, ExitRecord, ImageRoot, Outcome, Shown, StartError, Started,
    Workdir,
};
use crate::lease::Lease;
use borg_proto::package::{Digest, SHOWN_IN};
use borg_proto::spec::MemoryLimit;
use borg_proto::task::Shortage;
use borg_proto::{FailureCause, IncarnationId, JobId, Millis, TaskId, TaskName};
use borglet_supervisor::shares::{rank, weight};
use borglet_supervisor::{Launch, Run, ShownPackage};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// SIGTERM to SIGKILL for a container of which no note was kept.
const USUAL_GRACE: Millis = Millis(5_000);
/// Begins the word of a note that counts failures.
const FAILURES: &str = "failures=";
/// Most processes and threads of a task. Our choice.
const PROCESSES: u32 = 1024;

/// `USER.JOB.INDEX.JOBNUMBER.INCARNATION.RUN`: people find a task by it, and the next borglet the
/// run. Names have no dots.
pub(crate) fn container_id(name: &TaskName, run: Run) -> Result<ContainerId, String> {
    let TaskName { job, index } = name;
    let IncarnationId { task, number } = run.id;
    let id = format!("{}.{}.{index}.{}.{number}.{}", job.user, job.name, task.job.0, run.number);
    id.parse().map_err(|error: crate::container::InvalidSpec| error.to_string())
}

/// Which run a container is; `None` when it is not one of a task.
pub(crate) fn run_of(container: &ContainerId) -> Option<Run> {
    let parts: Vec<&str> = container.as_str().split('.').collect();
    let [_user, _job, index, job, number, run] = parts.as_slice() else { return None };
    let task = TaskId { job: JobId(job.parse().ok()?), index: index.parse().ok()? };
    let id = IncarnationId { task, number: number.parse().ok()? };
    Some(Run { id, number: run.parse().ok()? })
}

/// The name of the task that a container belongs to; `None` when it is not one of a task.
pub(crate) fn name_of(container: &ContainerId) -> Option<TaskName> {
    let mut parts = container.as_str().split('.');
    let (user, job, index) = (parts.next()?, parts.next()?, parts.next()?);
    format!("{user}/{job}/{index}").parse().ok()
}

/// Those of an incarnation, by the number of their run.
pub(crate) fn runs_of(
    name: &TaskName,
    id: IncarnationId,
    all: impl Iterator<Item = ContainerId>,
) -> BTreeMap<u32, ContainerId> {
    let Ok(wanted) = container_id(name, Run { id, number: 0 }) else { return BTreeMap::new() };
    let ours = all.filter(|container| slot(container.as_str()) == slot(wanted.as_str()));
    ours.filter_map(|container| Some((run_of(&container)?.number, container))).collect()
}

/// A container's id without its run.
fn slot(container: &str) -> &str {
    container.rsplit_once('.').map_or(container, |(slot, _)| slot)
}

/// 10 to 500: disks know no limits of tasks, so only the rank counts.
fn io_weight(launch: &Launch) -> u16 {
    u16::try_from(rank(launch.appclass, launch.priority) / 2).unwrap_or(100).max(10)
}

/// What the executor is asked for; `binds` are its volumes.
pub(crate) fn container_spec(
    launch: &Launch,
    binds: Vec<Bind>,
    lease_file: PathBuf,
    layer_dir: impl Fn(Digest) -> PathBuf,
) -> Result<ContainerSpec, String> {
    let id = container_id(&launch.name, launch.run)?;
    let mut spec = ContainerSpec::new(id, launch.argv.clone());
    spec.env = launch.env.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    spec.status_file = true;
    spec.cpu_milli = weight(launch.limit.cpu_milli, launch.appclass, launch.priority);
    spec.cpu_cap_milli = launch.cpu_cap_milli;
    spec.ram_bytes = launch.limit.ram_bytes;
    spec.soft_memory = launch.memory == MemoryLimit::Soft;
    // Others may stand on memory that prod holds: then they go, whoever asked for it last.
    spec.gives_way = !launch.priority.is_prod();
    spec.io_weight = io_weight(launch);
    spec.pids_max = PROCESSES;
    spec.binds = binds;
    spec.own_network = launch.task.spec.network.is_own();
    // On an address of its own every port is free.
    spec.ports = (!spec.own_network).then(|| launch.ports.clone());
    spec.loosen = launch.loosen.clone();
    if let Some(root) = &launch.root {
        spec.workdir = Workdir::Path(root.workdir.clone().into());
        spec.root = Some(ImageRoot {
            image: root.image.clone(),
            layers: root.layers.iter().map(|digest| layer_dir(*digest)).collect(),
            user: root.user.clone(),
        });
    }
    let shown = |package: &ShownPackage| Shown {
        source: layer_dir(package.layer),
        target: format!("{SHOWN_IN}/{}", package.name).into(),
    };
    spec.packages = launch.packages.iter().map(shown).collect();
    spec.lease = launch
        .ends_by
        .map(|until| Lease { until_boot_ms: clock::boot_time_of(until), file: lease_file });
    let numbers = launch.ports.iter().map(|port| u64::from(*port));
    let of_root = launch.root.iter().flat_map(|root| &root.layers);
    let layers = of_root.chain(launch.packages.iter().map(|package| &package.layer));
    let words = std::iter::once(launch.grace.0).chain(numbers).map(|n| n.to_string());
    let mut note: Vec<_> = words.chain(layers.map(ToString::to_string)).collect();
    note.push(format!("{FAILURES}{}", launch.failures));
    spec.note = note.join(" ");
    Ok(spec)
}

/// What was noted at a container's start, for the next borglet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    /// SIGTERM to SIGKILL.
    pub(crate) grace: Millis,
    pub(crate) ports: Vec<u16>,
    pub(crate) layers: Vec<Digest>,
    /// Failures in a row before this run.
    pub(crate) failures: u32,
}

impl Note {
    /// Words that say nothing are passed over: they may be a newer borglet's.
    pub(crate) fn read(note: &str) -> Self {
        let mut words = note.split(' ');
        let grace = words.next().and_then(|word| word.parse().ok()).map_or(USUAL_GRACE, Millis);
        let (ports, layers, mut others) = (words.clone(), words.clone(), words);
        let failures = others.find_map(|word| word.strip_prefix(FAILURES)?.parse().ok());
        Self {
            grace,
            ports: ports.filter_map(|word| word.parse().ok()).collect(),
            layers: layers.filter_map(|word| word.parse().ok()).collect(),
            failures: failures.unwrap_or(0),
        }
    }
}

/// Why a run failed; `None` when it exited with 0.
pub(crate) fn failure(record: &ExitRecord) -> Option<FailureCause> {
    match &record.outcome {
        Outcome::Exited { code: 0 } => None,
        Outcome::Exited { code } => Some(FailureCause::Exit { code: *code }),
        Outcome::Signalled { signal } => Some(FailureCause::Signal { signal: *signal }),
        Outcome::OutOfMemory { limit_bytes, peak_bytes } => {
            Some(FailureCause::OutOfMemory { limit_bytes: *limit_bytes, peak_bytes: *peak_bytes })
        }
        Outcome::MachineShort { limit_bytes, peak_bytes } => Some(FailureCause::Short {
            of: Shortage::Memory,
            limit_bytes: *limit_bytes,
            used_bytes: *peak_bytes,
        }),
        Outcome::Fenced | Outcome::NotStarted(StartError::Fenced) => Some(FailureCause::Fenced),
        Outcome::NotStarted(StartError::NoAddress { .. }) => Some(FailureCause::NoAddress),
        Outcome::NotStarted(error) => Some(FailureCause::start(&error.to_string())),
        Outcome::Lost { .. } => Some(FailureCause::Lost),
    }
}

/// Process id of the task's first process on the machine.
pub(crate) fn pid(started: &Started) -> u32 {
    u32::try_from(started.pid).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_tells_what_is_known_and_words_of_others_change_nothing() {
        let layer = Digest::of(b"layer");
        let (ports, layers) = (vec![80, 81], vec![layer]);
        let read = Note { grace: Millis(7), ports, layers, failures: 3 };
        assert_eq!(Note::read(&format!("7 80 81 {layer} failures=3 news=x")), read);
        let none = Note { grace: USUAL_GRACE, ports: vec![], layers: vec![], failures: 0 };
        assert_eq!(Note::read(""), none);
    }

    #[test]
    fn a_container_says_which_run_of_which_task_it_is() {
        let id = IncarnationId { task: TaskId { job: JobId(12), index: 3 }, number: 4 };
        let run = Run { id, number: 5 };
        let container = container_id(&"ann/web-1/3".parse().unwrap(), run).unwrap();
        assert_eq!(container.as_str(), "ann.web-1.3.12.4.5");
        assert_eq!(run_of(&container), Some(run));
        assert_eq!(slot(container.as_str()), "ann.web-1.3.12.4");
        assert_eq!(name_of(&container).unwrap().to_string(), "ann/web-1/3");
        for strange in ["a.b.3.12.4", "a.b.x.12.4.5", "a"] {
            assert_eq!(run_of(&strange.parse().unwrap()), None);
        }
        // The longest names still fit.
        let long = "x".repeat(63);
        let id = IncarnationId {
            task: TaskId { job: JobId(u64::MAX), index: u32::MAX },
            number: u32::MAX,
        };
        let name = format!("{long}/{long}/{}", u32::MAX).parse().unwrap();
        container_id(&name, Run { id, number: u32::MAX }).unwrap();
    }
}
