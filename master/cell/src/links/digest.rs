//! Names for targets, by which machines and shards know what they have already.
//!
//! Every leader gives the same name to the same target, so a new one has to say again only what
//! changed. A version that names them otherwise costs one more sending, and nothing else.

use borg_proto::JobId;
use borg_proto::TaskSpec;
use borg_proto::poll::{Target, TargetDigest, TargetTask};
use borg_proto::wire::pb;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Digests of the jobs' specifications, which many targets share.
#[derive(Debug, Default)]
pub(super) struct Digests {
    specs: BTreeMap<JobId, (Arc<TaskSpec>, u64)>,
}

impl Digests {
    /// The name of a target.
    pub(super) fn of(&mut self, target: &Target) -> TargetDigest {
        // Numbers of fixed width and lengths before texts: no two targets have the same bytes.
        let mut bytes = Vec::with_capacity(128 * (target.tasks.len() + 1));
        bytes.push(u8::from(target.spare));
        bytes.extend((target.ends.len() as u64).to_le_bytes());
        for id in &target.ends {
            put_id(&mut bytes, id.task.job, id.task.index, id.number);
        }
        for task in &target.tasks {
            self.put(&mut bytes, task);
        }
        TargetDigest(xxh3_64(&bytes).max(1))
    }

    /// A job is no more.
    pub(super) fn forget(&mut self, job: JobId) {
        self.specs.remove(&job);
    }

    fn put(&mut self, bytes: &mut Vec<u8>, task: &TargetTask) {
        // Every field: what is left out would not be sent when it changes.
        let TargetTask { id, name, tasks, spec, ports, priority, appclass, restart, exclusive } =
            task;
        put_id(bytes, id.task.job, id.task.index, id.number);
        for text in [name.job.user.as_str(), name.job.name.as_str()] {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes.extend(name.index.to_le_bytes());
        bytes.extend(tasks.to_le_bytes());
        bytes.extend(self.spec(id.task.job, spec).to_le_bytes());
        bytes.extend((ports.len() as u64).to_le_bytes());
        bytes.extend(ports.iter().flat_map(|port| port.to_le_bytes()));
        bytes.extend(priority.get().to_le_bytes());
        bytes.extend(i32::from(pb::AppClass::from(*appclass)).to_le_bytes());
        bytes.extend([u8::from(*restart), u8::from(*exclusive)]);
    }

    fn spec(&mut self, job: JobId, spec: &Arc<TaskSpec>) -> u64 {
        match self.specs.get(&job) {
            Some((known, digest)) if Arc::ptr_eq(known, spec) => *digest,
            Some(_) | None => {
                let digest = xxh3_64(&pb::TaskSpec::from(&**spec).encode_to_vec());
                self.specs.insert(job, (spec.clone(), digest));
                digest
            }
        }
    }
}

fn put_id(bytes: &mut Vec<u8>, job: JobId, index: u32, number: u32) {
    bytes.extend(job.0.to_le_bytes());
    bytes.extend(index.to_le_bytes());
    bytes.extend(number.to_le_bytes());
}
