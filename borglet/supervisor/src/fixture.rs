//! Tasks and polls for tests.

use borg_proto::poll::{Fence, PollRequest, ReportVersion, Target, TargetDigest, TargetTask};
use borg_proto::spec::TaskSpec;
use borg_proto::{AppClass, IncarnationId, JobId, Millis, Priority, Resources, TaskId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Task `index` of ten of job `ann/web`, in its first incarnation.
pub(crate) fn target_task(job: u64, index: u32, restart: bool) -> TargetTask {
    let spec = TaskSpec {
        command: vec!["/bin/true".into()],
        env: BTreeMap::new(),
        limit: Resources { cpu_milli: 100, ram_bytes: 1 << 20, ..Resources::default() },
        ports: Vec::new(),
        constraints: Vec::new(),
        spread: Vec::new(),
        volumes: Vec::new(),
        grace_ms: Millis(5_000),
        memory: borg_proto::spec::MemoryLimit::Hard,
        cpu_cap_milli: None,
        health: None,
        image: None,
        packages: Vec::new(),
        network: borg_proto::Network::Host,
        loosen: BTreeSet::new(),
        reclaim: true,
    };
    TargetTask {
        id: IncarnationId { task: TaskId { job: JobId(job), index }, number: 1 },
        name: format!("ann/web/{index}").parse().expect("a name"),
        tasks: 10,
        spec: Arc::new(spec),
        ports: Vec::new(),
        priority: Priority::new(100).expect("in range"),
        appclass: AppClass::Batch,
        restart,
        exclusive: false,
        packages: Vec::new(),
        shared: None,
    }
}

/// A fence of epoch 1.
pub(crate) fn fence(term: u64, session: u64, generation: u64) -> Fence {
    Fence { epoch: 1, term, session, generation }
}

/// A poll of machine `m1` in cell `lab` that is answered at once.
pub(crate) fn poll(fence: Fence, target: Option<Vec<TargetTask>>) -> PollRequest {
    PollRequest {
        cell: "lab".parse().expect("a name"),
        machine: "m1".parse().expect("a name"),
        fence,
        digest: TargetDigest::default(),
        target: target.map(|tasks| Arc::new(Target { tasks, ..Target::default() })),
        seen: ReportVersion::default(),
        hold: Millis(0),
        lease: None,
        sources: Vec::new(),
    }
}
