//! Laws of packages on one machine: fetches, what masters hand over, unpackings and what comes of them in any
//! order, also long after they were given up.

#[path = "../src/fixture.rs"]
mod fixture;

use borg_proto::MachineInfo;
use borg_proto::package::{Digest, Layer, Package, PackageKind};
use borg_proto::poll::{
    BlobSource, Holder, MachineReport, ReportVersion, TargetTask, TaskStatus, Usage,
};
use borg_proto::{Millis, Resources};
use borglet_supervisor::{
    Config, Effect, Input, Launch, MachineUse, Run, Supervisor, TaskUse, Trouble,
};
use fixture::{fence, poll, target_task};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const LAYERS: usize = 5;
/// A blob, and what is unpacked of it.
const BYTES: u64 = 1 << 20;

#[derive(Debug, Clone)]
enum Step {
    /// The tasks whose bits are set are wanted, and so many layers are to be had from another machine.
    Poll {
        wanted: u8,
        sources: u8,
    },
    /// A fetch ends, one that was given up as well.
    Fetch {
        pick: usize,
        end: u8,
    },
    /// A master hands a blob over.
    Push {
        layer: usize,
    },
    Unpack {
        pick: usize,
        end: u8,
    },
    Start {
        pick: usize,
    },
    Exit {
        pick: usize,
    },
    Disk {
        available: u64,
    },
    Pass {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let pick = any::<usize>();
    prop_oneof![
        4 => (any::<u8>(), any::<u8>()).prop_map(|(wanted, sources)| Step::Poll { wanted, sources }),
        4 => (pick, 0..5_u8).prop_map(|(pick, end)| Step::Fetch { pick, end }),
        2 => (0..LAYERS).prop_map(|layer| Step::Push { layer }),
        4 => (pick, 0..6_u8).prop_map(|(pick, end)| Step::Unpack { pick, end }),
        3 => pick.prop_map(|pick| Step::Start { pick }),
        2 => pick.prop_map(|pick| Step::Exit { pick }),
        2 => (0..20_u64).prop_map(|mib| Step::Disk { available: mib << 20 }),
        2 => prop_oneof![Just(0_u64), Just(900), Just(31_000)].prop_map(|ms| Step::Pass { ms }),
    ]
}

fn layer(number: usize) -> Layer {
    let digest = Digest::of(&number.to_le_bytes());
    Layer { digest, bytes: BYTES, unpacked_bytes: BYTES }
}

/// Task `index`, in an incarnation of its own for each round: what was dropped does not come back.
fn task(index: u32, round: u32) -> TargetTask {
    let mut task = target_task(1, index, false);
    task.id.number = round + 1;
    let spec = Arc::make_mut(&mut task.spec);
    spec.packages = vec!["tools:1".parse().expect("a key")];
    let first = index as usize % LAYERS;
    task.packages = vec![Arc::new(Package {
        key: "ann/tools:1".parse().expect("a key"),
        kind: PackageKind::Directory,
        layers: vec![layer(first), layer((first + 1) % LAYERS)],
        image: None,
        arch: String::new(),
    })];
    task
}

fn supervisor() -> Supervisor {
    let mut config = Config::new("lab".parse().expect("a name"), "m1".parse().expect("a name"), 7);
    (config.package_bytes, config.disk_reserve) = (6 * BYTES, 4 * BYTES);
    let info = MachineInfo {
        capacity: Resources::default(),
        first_port: 1,
        attributes: BTreeMap::new(),
        boot_id: String::new(),
        missing_isolation: Vec::new(),
        task_host: String::new(),
    };
    Supervisor::new(config, fence(1, 1, 0), Vec::new(), info)
}

/// The disk, and what is under way on it.
struct Machine {
    supervisor: Supervisor,
    now: Millis,
    token: u64,
    generation: u64,
    round: u32,
    wanted: BTreeMap<u32, TargetTask>,
    /// Blobs that may come, by the numbers of their orders.
    expected: BTreeMap<Digest, u64>,
    blobs: BTreeSet<Digest>,
    layers: BTreeSet<Digest>,
    /// Orders that are not answered, with whether the blob was dropped since.
    fetches: BTreeMap<u64, (Digest, bool)>,
    unpackings: BTreeMap<u64, Digest>,
    starting: BTreeMap<Run, Launch>,
    running: BTreeMap<Run, Launch>,
    last: (ReportVersion, MachineReport),
}

impl Machine {
    fn new() -> Self {
        let supervisor = supervisor();
        let last = supervisor.report();
        Self {
            supervisor,
            now: Millis(1_000_000),
            token: 0,
            generation: 0,
            round: 0,
            wanted: BTreeMap::new(),
            expected: BTreeMap::new(),
            blobs: BTreeSet::new(),
            layers: BTreeSet::new(),
            fetches: BTreeMap::new(),
            unpackings: BTreeMap::new(),
            starting: BTreeMap::new(),
            running: BTreeMap::new(),
            last,
        }
    }

    fn input(&mut self, input: Input) {
        for effect in self.supervisor.handle(self.now, input) {
            self.perform(effect);
        }
        let states = |report: &MachineReport| {
            let mut report = report.clone();
            report.tasks.iter_mut().for_each(|task| task.usage = Usage::default());
            report
        };
        let next = self.supervisor.report();
        if next.0 == self.last.0 {
            assert_eq!(states(&next.1), states(&self.last.1), "a change without a new version");
        }
        for blob in next.1.blobs.iter().filter(|blob| blob.held) {
            assert!(self.blobs.contains(&blob.digest), "{} is told as held", blob.digest);
        }
        self.last = next;
    }

    /// Layers that a task sees.
    fn shown(launch: &Launch) -> impl Iterator<Item = Digest> {
        launch.task.packages.iter().flat_map(|package| &package.layers).map(|layer| layer.digest)
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::ExpectBlob { digest, order, .. } => {
                self.expected.insert(digest, order);
            }
            Effect::FetchBlob { digest, order, .. } => {
                assert!(self.expected.contains_key(&digest), "{digest} is fetched for nobody");
                self.fetches.insert(order, (digest, false));
            }
            Effect::Unpack { layer: Layer { digest, .. }, order } => {
                assert!(self.blobs.contains(&digest), "{digest} is not here");
                assert!(!self.layers.contains(&digest), "{digest} is unpacked already");
                let other = self.unpackings.values().any(|other| *other == digest);
                assert!(!other, "{digest} is unpacked twice at once");
                self.unpackings.insert(order, digest);
            }
            Effect::DropBlob { digest } => {
                let unpacked = self.unpackings.values().any(|other| *other == digest);
                assert!(!unpacked, "{digest} is dropped while it is unpacked");
                let mut live = self.starting.values().chain(self.running.values());
                let used = live.any(|launch| Self::shown(launch).any(|layer| layer == digest));
                assert!(!used, "{digest} is dropped under a task");
                self.expected.remove(&digest);
                self.blobs.remove(&digest);
                self.layers.remove(&digest);
                let dropped = self.fetches.values_mut().filter(|(of, _)| *of == digest);
                dropped.for_each(|(_, dropped)| *dropped = true);
            }
            Effect::Start(launch) => {
                let missing = Self::shown(&launch).find(|digest| !self.layers.contains(digest));
                assert_eq!(missing, None, "{} starts without a layer", launch.run);
                self.starting.insert(launch.run, *launch);
            }
            Effect::MeasureData { .. }
            | Effect::DropData { .. }
            | Effect::Terminate { .. }
            | Effect::Kill { .. }
            | Effect::CapCpu { .. }
            | Effect::ShareCpu { .. }
            | Effect::RememberFence(_)
            | Effect::Remove { .. }
            | Effect::Answer { .. } => {}
            Effect::ExtendLease { .. } | Effect::Probe { .. } => panic!("nobody asked: {effect:?}"),
        }
    }

    fn poll(&mut self, wanted: u8, sources: u8) {
        for index in 0..6_u32 {
            if wanted >> index & 1 == 0 {
                self.wanted.remove(&index);
            } else if !self.wanted.contains_key(&index) {
                self.round += 1;
                self.wanted.insert(index, task(index, self.round));
            }
        }
        (self.token, self.generation) = (self.token + 1, self.generation + 1);
        let target = self.wanted.values().cloned().collect();
        let mut request = poll(fence(1, 1, self.generation), Some(target));
        let named = (0..LAYERS).filter(|layer| sources >> layer & 1 == 1);
        request.sources = named
            .map(|number| {
                let machine = format!("m{}", 2 + sources % 3);
                let (machine, address) = (machine.parse().expect("a name"), format!("{machine}:1"));
                BlobSource {
                    digest: layer(number).digest,
                    from: Holder::Machine { machine, address },
                }
            })
            .collect();
        self.input(Input::Poll { token: self.token, request });
    }

    /// A blob gets its name, if it is still wanted.
    fn arrives(&mut self, digest: Digest, order: u64) {
        self.blobs.insert(digest);
        self.input(Input::BlobCame { digest, order });
    }

    fn fetch_ends(&mut self, order: u64, end: u8) {
        let Some((digest, dropped)) = self.fetches.remove(&order) else { return };
        let here = self.blobs.contains(&digest);
        let input = match end {
            0 | 1 if dropped => Input::BlobCame { digest, order },
            0 | 1 if !here => return self.arrives(digest, order),
            2 => {
                let trouble = Trouble::Full("no space".into());
                Input::NotUnpacked { digest, order, trouble }
            }
            3 => Input::NotFetched { digest, order, why: "other bytes".into(), wrong: true },
            _ => Input::NotFetched { digest, order, why: "silent".into(), wrong: false },
        };
        self.input(input);
    }

    fn unpack_ends(&mut self, order: u64, end: u8) {
        let Some(digest) = self.unpackings.remove(&order) else { return };
        let trouble = match end {
            0 => Trouble::Bad("a device".into()),
            1 => Trouble::Damaged("it changed".into()),
            2 => Trouble::Full("no space".into()),
            _ => {
                self.layers.insert(digest);
                return self.input(Input::Unpacked { digest, order });
            }
        };
        self.input(Input::NotUnpacked { digest, order, trouble });
    }

    fn start(&mut self, run: Run) {
        let Some(launch) = self.starting.remove(&run) else { return };
        self.running.insert(run, launch);
        self.input(Input::Started { run, pid: 7, since: self.now, address: None });
    }

    fn exit(&mut self, run: Run) {
        if self.running.remove(&run).is_some() {
            self.input(Input::Exited { run, at: self.now, failure: None });
        }
    }

    fn disk(&mut self, available: u64) {
        let machine = MachineUse { disk_available: Some(available), ..MachineUse::default() };
        let of = |run: &Run| (run.id, TaskUse::default());
        let tasks = self.running.keys().map(of).collect();
        self.input(Input::Usage { machine, tasks });
    }

    fn push(&mut self, number: usize) {
        let digest = layer(number).digest;
        let Some(&order) = self.expected.get(&digest) else { return };
        if !self.blobs.contains(&digest) {
            self.arrives(digest, order);
        }
    }

    fn take(&mut self, step: Step) {
        fn picked<K: Copy, V>(of: &BTreeMap<K, V>, pick: usize) -> Option<K> {
            of.keys().nth(pick % of.len().max(1)).copied()
        }
        match step {
            Step::Poll { wanted, sources } => self.poll(wanted, sources),
            Step::Fetch { pick, end } => {
                picked(&self.fetches, pick).into_iter().for_each(|it| self.fetch_ends(it, end));
            }
            Step::Push { layer } => self.push(layer),
            Step::Unpack { pick, end } => {
                picked(&self.unpackings, pick).into_iter().for_each(|it| self.unpack_ends(it, end));
            }
            Step::Start { pick } => {
                picked(&self.starting, pick).into_iter().for_each(|run| self.start(run));
            }
            Step::Exit { pick } => {
                picked(&self.running, pick).into_iter().for_each(|run| self.exit(run));
            }
            Step::Disk { available } => self.disk(available),
            Step::Pass { ms } => {
                self.now = self.now + Millis(ms);
                self.input(Input::Tick);
            }
        }
    }

    /// Nothing fails any more, and what is not wanted ends: two new tasks, which fit, come up.
    fn settle(&mut self) {
        self.now = self.now + Millis(60_000);
        self.disk(1 << 40);
        self.poll(0, 0);
        for _ in 0..20 {
            while let Some((&order, _)) = self.fetches.first_key_value() {
                self.fetch_ends(order, 4);
            }
            while let Some((&order, _)) = self.unpackings.first_key_value() {
                self.unpack_ends(order, 9);
            }
            while let Some((&run, _)) = self.starting.first_key_value() {
                self.start(run);
            }
            for run in self.running.keys().copied().collect::<Vec<_>>() {
                if !self.wanted.values().any(|task| task.id == run.id) {
                    self.exit(run);
                }
            }
            if self.wanted.is_empty() {
                self.poll(0b11, 0);
            }
            (0..LAYERS).for_each(|number| self.push(number));
        }
        let report = self.supervisor.report().1;
        let up = report.tasks.iter().filter(|task| matches!(task.status, TaskStatus::Up { .. }));
        assert_eq!(up.count(), 2, "{report:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// What a task uses is there and stays; a layer is unpacked once at a time, and never goes meanwhile; nothing
    /// is told as held that is not; and once nothing fails any more, tasks start.
    #[test]
    fn whatever_comes_of_orders_tasks_have_their_layers(steps in prop::collection::vec(step(), 0..120)) {
        let mut machine = Machine::new();
        for step in steps {
            machine.take(step);
        }
        machine.settle();
    }
}
