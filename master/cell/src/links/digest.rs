//! Names for targets, by which machines and shards know what they have already.
//!
//! Every leader gives the same name to the same target, so a new one has to say again only what
//! changed. A version that names them otherwise costs one more sending, and nothing else.

use borg_proto::JobId;
use borg_proto::TaskSpec;
use borg_proto::package::{Digest, Package};
use borg_proto::poll::{SharedData, Target, TargetData, TargetDigest, TargetTask};
use borg_proto::wire::pb;
use prost::Message;
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Comes before a task's packages. No task begins like this: its job would have the number that is given
/// to none.
const PACKAGES: [u8; 8] = u64::MAX.to_le_bytes();

/// Comes before what a machine keeps of allocs, in the same way.
const DATA: [u8; 8] = (u64::MAX - 1).to_le_bytes();
/// Comes before what a task shares with those of its alloc, in the same way.
const SHARED: [u8; 8] = (u64::MAX - 2).to_le_bytes();

/// How many versions of one job are known here at once: while an update is under way there are two.
const VERSIONS: usize = 4;

/// Digests of the jobs' specifications, which many targets share; of each job those that were met last.
#[derive(Debug, Default)]
pub(super) struct Digests {
    specs: BTreeMap<JobId, Vec<(Arc<TaskSpec>, u64)>>,
    packages: BTreeMap<JobId, Vec<Named>>,
}

/// Packages with their digests.
type Named = Vec<(Arc<Package>, Digest)>;

/// The place of what is known already, or of what was just learnt, in place of the oldest.
fn recall<T>(known: &mut Vec<T>, is: impl Fn(&T) -> bool, learn: impl FnOnce() -> T) -> usize {
    if let Some(at) = known.iter().position(is) {
        return at;
    }
    if known.len() == VERSIONS {
        known.remove(0);
    }
    known.push(learn());
    known.len() - 1
}

impl Digests {
    /// The name of a target.
    pub(super) fn of(&mut self, target: &Target) -> TargetDigest {
        // Every field: what is left out would not be sent when it changes.
        let Target { tasks, spare, ends, data } = target;
        // Numbers of fixed width and lengths before texts: no two targets have the same bytes.
        let mut bytes = Vec::with_capacity(128 * (tasks.len() + 1));
        bytes.push(u8::from(*spare));
        bytes.extend_from_slice(&(ends.len() as u64).to_le_bytes());
        for id in ends {
            put_id(&mut bytes, id.task.job, id.task.index, id.number);
        }
        for task in tasks {
            self.put(&mut bytes, task);
        }
        // Without data a target is named as it was before there was any.
        if !data.is_empty() {
            bytes.extend_from_slice(&DATA);
            bytes.extend_from_slice(&(data.len() as u64).to_le_bytes());
            for TargetData { alloc, left } in data {
                put_id(&mut bytes, alloc.task.job, alloc.task.index, alloc.number);
                bytes.extend_from_slice(&left.map_or(0, NonZeroU64::get).to_le_bytes());
            }
        }
        TargetDigest(xxh3_64(&bytes).max(1))
    }

    /// A job is no more.
    pub(super) fn forget(&mut self, job: JobId) {
        self.specs.remove(&job);
        self.packages.remove(&job);
    }

    fn put(&mut self, bytes: &mut Vec<u8>, task: &TargetTask) {
        let TargetTask {
            id,
            name,
            tasks,
            spec,
            ports,
            priority,
            appclass,
            restart,
            exclusive,
            packages,
            shared,
        } = task;
        put_id(bytes, id.task.job, id.task.index, id.number);
        for text in [name.job.user.as_str(), name.job.name.as_str()] {
            bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(&name.index.to_le_bytes());
        bytes.extend_from_slice(&tasks.to_le_bytes());
        bytes.extend_from_slice(&self.spec(id.task.job, spec).to_le_bytes());
        bytes.extend_from_slice(&(ports.len() as u64).to_le_bytes());
        for port in ports {
            bytes.extend_from_slice(&port.to_le_bytes());
        }
        bytes.extend_from_slice(&priority.get().to_le_bytes());
        bytes.extend_from_slice(&i32::from(pb::AppClass::from(*appclass)).to_le_bytes());
        bytes.extend_from_slice(&[u8::from(*restart), u8::from(*exclusive)]);
        // Without packages a target is named as it was before there were any.
        if !packages.is_empty() {
            bytes.extend_from_slice(&PACKAGES);
            bytes.extend_from_slice(&(packages.len() as u64).to_le_bytes());
            for (package, digest) in self.packages(id.task.job, packages) {
                let name = package.key.to_string();
                bytes.extend_from_slice(&(name.len() as u64).to_le_bytes());
                bytes.extend_from_slice(name.as_bytes());
                bytes.extend_from_slice(&digest.0);
            }
        }
        if let Some(SharedData { alloc, name, rescue, charged }) = shared {
            bytes.extend_from_slice(&SHARED);
            put_id(bytes, alloc.task.job, alloc.task.index, alloc.number);
            let name = name.to_string();
            bytes.extend_from_slice(&(name.len() as u64).to_le_bytes());
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(&[u8::from(*rescue), u8::from(*charged)]);
        }
    }

    /// The packages of a version never change, and all of its tasks have the same.
    fn packages(&mut self, job: JobId, packages: &[Arc<Package>]) -> &[(Arc<Package>, Digest)] {
        let same = |known: &Named| {
            known.len() == packages.len()
                && known
                    .iter()
                    .zip(packages)
                    .all(|((known, _), package)| Arc::ptr_eq(known, package))
        };
        let known = self.packages.entry(job).or_default();
        let at = recall(known, same, || {
            packages.iter().map(|package| (package.clone(), package.digest())).collect()
        });
        &known[at]
    }

    fn spec(&mut self, job: JobId, spec: &Arc<TaskSpec>) -> u64 {
        let known = self.specs.entry(job).or_default();
        let same = |(known, _): &(Arc<TaskSpec>, u64)| Arc::ptr_eq(known, spec);
        let at = recall(known, same, || {
            (spec.clone(), xxh3_64(&pb::TaskSpec::from(&**spec).encode_to_vec()))
        });
        known[at].1
    }
}

fn put_id(bytes: &mut Vec<u8>, job: JobId, index: u32, number: u32) {
    bytes.extend_from_slice(&job.0.to_le_bytes());
    bytes.extend_from_slice(&index.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_proto::package::{Layer, PackageKind};
    use borg_proto::{AppClass, IncarnationId, Priority, TaskId};

    fn task() -> TargetTask {
        let task = TaskId { job: JobId(3), index: 1 };
        TargetTask {
            id: IncarnationId { task, number: 2 },
            name: "ann/web/1".parse().unwrap(),
            tasks: 4,
            spec: Arc::new(crate::fixture::service("web", 4, 100, 1 << 20).task.as_ref().clone()),
            ports: vec![20_000, 20_001],
            priority: Priority::new(200).unwrap(),
            appclass: AppClass::LatencySensitive,
            restart: true,
            exclusive: false,
            packages: Vec::new(),
            shared: None,
        }
    }

    fn package(name: &str) -> Arc<Package> {
        let layer = Layer { digest: Digest::of(b"x"), bytes: 1, unpacked_bytes: 1 };
        let (key, kind) = (name.parse().unwrap(), PackageKind::Directory);
        let package = Package { key, kind, layers: vec![layer], image: None, arch: String::new() };
        Arc::new(package)
    }

    fn with_package() -> TargetTask {
        TargetTask { packages: vec![package("ann/a:1")], ..task() }
    }

    fn target(change: impl FnOnce(&mut TargetTask)) -> Target {
        let mut task = task();
        change(&mut task);
        Target { tasks: vec![task], ..Target::default() }
    }

    /// A difference that is not in the name would never reach the machine.
    #[test]
    fn whatever_differs_has_another_name_and_what_is_the_same_has_the_same() {
        let other = TaskId { job: JobId(3), index: 2 };
        let end = IncarnationId { task: other, number: 1 };
        let left = |number| TargetData { alloc: end, left: NonZeroU64::new(number) };
        let shared = |name: &str, rescue, charged| {
            Some(SharedData { alloc: end, name: name.parse().unwrap(), rescue, charged })
        };
        let all = [
            target(|_| {}),
            target(|task| task.id.number = 3),
            target(|task| task.id.task = other),
            target(|task| task.id.task.job = JobId(4)),
            target(|task| task.name = "ann/web/2".parse().unwrap()),
            target(|task| task.name = "an/nweb/1".parse().unwrap()),
            target(|task| task.tasks = 5),
            target(|task| Arc::make_mut(&mut task.spec).grace_ms = borg_proto::Millis(77)),
            target(|task| task.ports = vec![20_000]),
            target(|task| task.ports = Vec::new()),
            target(|task| task.priority = Priority::new(201).unwrap()),
            target(|task| task.appclass = AppClass::Batch),
            target(|task| task.restart = false),
            target(|task| task.exclusive = true),
            target(|task| task.packages = vec![package("ann/a:1")]),
            target(|task| task.packages = vec![package("ann/a:2")]),
            target(|task| task.packages = vec![package("ann/a:1"), package("ann/a:2")]),
            Target { tasks: vec![task(), with_package()], ..Target::default() },
            Target { tasks: vec![with_package(), task()], ..Target::default() },
            Target { spare: true, ..target(|_| {}) },
            Target { spare: true, ends: vec![end], ..target(|_| {}) },
            Target { tasks: vec![task(), task()], ..Target::default() },
            Target { data: vec![TargetData { alloc: end, left: None }], ..target(|_| {}) },
            Target { data: vec![left(1)], ..target(|_| {}) },
            Target { data: vec![left(2)], ..target(|_| {}) },
            target(|task| task.shared = shared("ann/room/1", false, false)),
            target(|task| task.shared = shared("ann/room/1", true, false)),
            target(|task| task.shared = shared("ann/room/1", false, true)),
            target(|task| task.shared = shared("ann/hall/1", false, true)),
            Target::default(),
        ];
        let names: Vec<u64> = all.iter().map(|target| Digests::default().of(target).0).collect();
        let different: std::collections::BTreeSet<&u64> = names.iter().collect();
        assert_eq!(different.len(), all.len());
        let mut digests = Digests::default();
        let again: Vec<u64> = all.iter().map(|target| digests.of(target).0).collect();
        assert_eq!(again, names, "another leader, which has seen other specifications before");
    }

    /// Masters of two versions give the same names, or a change of leader sends everything again.
    #[test]
    fn names_stay_what_they_are_over_versions() {
        assert_eq!(Digests::default().of(&target(|_| {})), TargetDigest(267_519_504_772_313_239));
    }
}
