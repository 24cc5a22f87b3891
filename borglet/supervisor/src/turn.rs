//! What goes into one turn of the supervisor, and what comes out.

use crate::volumes::AllowedVolume;
use borg_proto::names::PackageName;
use borg_proto::package::{Digest, Layer};
use borg_proto::poll::{
    FENCE_AFTER, Fence, PollAnswer, PollRefusal, PollRequest, SharedData, TargetTask, Usage,
};
use borg_proto::spec::{MemoryLimit, Volume};
use borg_proto::task::RunEnd;
use borg_proto::{
    AppClass, CellName, FailureCause, IncarnationId, MachineName, Millis, Priority, Privilege,
    Resources, TaskName,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// What a supervisor is told when it is made.
#[derive(Debug, Clone)]
pub struct Config {
    /// Orders of other cells are refused.
    pub cell: CellName,
    /// Orders for other machines are refused.
    pub machine: MachineName,
    /// Differs for each start of the borglet: names its reports.
    pub session: u64,
    /// How many failures in a row a service is started again after, before the cell is told that
    /// it ended.
    pub local_restarts: u32,
    /// Directories of the machine that tasks may ask to see.
    pub volumes: Vec<AllowedVolume>,
    /// How long exclusive tasks live without news. Must go with what the masters wait; production
    /// has [`FENCE_AFTER`](borg_proto::poll::FENCE_AFTER) everywhere.
    pub fence_after: Millis,
    /// Memory of the machine that tasks must leave, in bytes: when less is there, some of them go.
    pub memory_reserve: u64,
    /// The same of its disk.
    pub disk_reserve: u64,
    /// Longest time that an answer is held, whatever the shard asks.
    pub max_hold: Millis,
    /// Most answers held at once. When one more comes, the oldest is given at once.
    pub max_held: usize,
    /// Most bytes that blobs and what was unpacked of them may take on the disk.
    pub package_bytes: u64,
}

impl Config {
    /// The usual limits: 5 restarts, no reserve, answers held for 30 s at most, 16 at once, no volumes, 32 GiB of packages. Our
    /// choice; the 16 leave room for every master of a cell and its successor.
    #[must_use]
    pub const fn new(cell: CellName, machine: MachineName, session: u64) -> Self {
        Self {
            cell,
            machine,
            session,
            local_restarts: 5,
            volumes: Vec::new(),
            fence_after: FENCE_AFTER,
            memory_reserve: 0,
            disk_reserve: 0,
            max_hold: Millis(30_000),
            max_held: 16,
            package_bytes: 32 << 30,
        }
    }
}

/// One start of an incarnation on its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// Which incarnation.
    pub id: IncarnationId,
    /// 0 for the first start, then how often it was started again.
    pub number: u32,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} run {}", self.id, self.number)
    }
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// A link shard polls. `token` names the answer; the shell picks it, each once.
    Poll {
        /// Names the answer.
        token: u64,
        /// What was asked.
        request: PollRequest,
    },
    /// A run's process is there.
    Started {
        /// Which run.
        run: Run,
        /// Process id on the machine.
        pid: u32,
        /// When it started.
        since: Millis,
        /// The address of its own that it has, if its network is its own.
        address: Option<Ipv4Addr>,
    },
    /// A run could not be started, and nothing is left of it.
    StartFailed {
        /// Which run.
        run: Run,
        /// Why.
        cause: FailureCause,
    },
    /// A run ended, with all of its processes.
    Exited {
        /// Which run.
        run: Run,
        /// When.
        at: Millis,
        /// `None` when it exited with 0.
        failure: Option<FailureCause>,
    },
    /// A blob is here, in full: it was fetched, or a master handed it over.
    BlobCame {
        /// Which.
        digest: Digest,
        /// The number of the order with which it was expected or fetched.
        order: u64,
    },
    /// A blob could not be fetched from the machine that was named.
    NotFetched {
        /// Which.
        digest: Digest,
        /// The number of the order.
        order: u64,
        /// Why, for people.
        why: String,
        /// Whether that machine served something else under its name.
        wrong: bool,
    },
    /// A layer is unpacked, and may be shown to tasks.
    Unpacked {
        /// Which.
        digest: Digest,
        /// The number of the order.
        order: u64,
    },
    /// A layer could not be stored or unpacked, and nothing of it is left.
    NotUnpacked {
        /// Which.
        digest: Digest,
        /// The number of the order with which it was expected, fetched or unpacked.
        order: u64,
        /// Why.
        trouble: Trouble,
    },
    /// How many bytes of blobs are there that are on their way. Unknown ones are ignored.
    BlobProgress(Vec<(Digest, u64)>),
    /// What is to be told of how a run ended. Comes before its `Exited` or `StartFailed`.
    RunEnded {
        /// Which incarnation.
        id: IncarnationId,
        /// How the run ended.
        end: Arc<RunEnd>,
    },
    /// How large a directory of an alloc is, which was asked for; `None`: it is not there.
    DataMeasured {
        /// Whose.
        alloc: IncarnationId,
        /// What it takes on the disk.
        bytes: Option<u64>,
    },
    /// What the machine and its tasks use, once a second. Unknown tasks are ignored.
    Usage {
        /// The machine.
        machine: MachineUse,
        /// Its tasks, as far as they could be measured.
        tasks: Vec<(IncarnationId, TaskUse)>,
    },
    /// A probe that was ordered is made from now on.
    ProbeBegun {
        /// Which run is probed.
        run: Run,
    },
    /// What a probe came to.
    Probed {
        /// Which run was probed.
        run: Run,
        /// What was wrong.
        result: Result<(), ProbeFailure>,
    },
    /// What tasks say of themselves, harmless to print. Unknown ones are ignored.
    StatusLines(Vec<(IncarnationId, String)>),
    /// Time passed; due at [`crate::Supervisor::next_wakeup`].
    Tick,
}

/// Why a layer cannot be used, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The blob on the disk is not what it was: it has to be fetched again.
    Damaged(String),
    /// The disk is full.
    Full(String),
    /// The disk, or the kernel, did not do what another machine's may do.
    Disk(String),
    /// It has something in it that it must not have.
    Bad(String),
}

/// What was wrong when a probe failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFailure {
    /// What it came to, for everybody.
    pub why: String,
    /// The beginning of what the task itself said, for those who may read its output.
    pub wrote: String,
}

impl<T: Into<String>> From<T> for ProbeFailure {
    fn from(why: T) -> Self {
        Self { why: why.into(), wrote: String::new() }
    }
}

/// Something to be done. Effects of one turn are carried out in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "an answer, the largest, is what most effects are")]
pub enum Effect {
    /// To be durable before any later effect is begun; when that fails the borglet must stop.
    /// `generation` need not be kept.
    RememberFence(Fence),
    /// From now on exclusive runs may live until this moment, by the clock of `handle`; those that
    /// run are told, whether or not this process lives on. When that fails they end in time.
    ExtendLease {
        /// Until when. Never earlier than the last one.
        until: Millis,
    },
    /// Room is kept for a blob: a master may hand it over from now on.
    ExpectBlob {
        /// Which.
        digest: Digest,
        /// Its size.
        bytes: u64,
        /// Numbers the order: what comes of it has this number, or a later one about the same blob.
        order: u64,
    },
    /// Get the rest of a blob from another machine. Answered by `BlobCame`, `NotFetched` or `NotUnpacked`.
    FetchBlob {
        /// Which.
        digest: Digest,
        /// Its size.
        bytes: u64,
        /// From whom, as its certificate must say.
        machine: MachineName,
        /// `host:port` of its borglet.
        address: String,
        /// Numbers the order.
        order: u64,
    },
    /// Unpack a blob that is here. Answered by `Unpacked` or `NotUnpacked`.
    Unpack {
        /// Which, and how large it may become.
        layer: Layer,
        /// Numbers the order.
        order: u64,
    },
    /// Remove a blob, or what there is of it, and what was unpacked of it. No task uses it, and it is not being
    /// unpacked.
    DropBlob {
        /// Which.
        digest: Digest,
    },
    /// Find out what a directory of an alloc takes on the disk. No task uses it. Answered by `DataMeasured`.
    MeasureData {
        /// Whose.
        alloc: IncarnationId,
    },
    /// Remove a directory of an alloc. No task uses it, nor will any.
    DropData {
        /// Whose.
        alloc: IncarnationId,
    },
    /// Start a container; what is left of an earlier run of the incarnation goes first, except
    /// its logs. Answered by `Started` or `StartFailed`.
    Start(Box<Launch>),
    /// Ask a run to end: SIGTERM.
    Terminate {
        /// Which run.
        run: Run,
    },
    /// End a run with all of its processes: SIGKILL. May come again when nothing happens.
    Kill {
        /// Which run.
        run: Run,
    },
    /// From now on a run gets so much processor time at most.
    CapCpu {
        /// Which run.
        run: Run,
        /// In millicores; `None`: what is idle.
        cap_milli: Option<u64>,
    },
    /// From now on a run weighs so much when all want processors.
    ShareCpu {
        /// Which run.
        run: Run,
        /// What it is promised beside the others, in millicores.
        cpu_milli: u64,
        /// How it shares.
        appclass: AppClass,
        /// How important it is.
        priority: Priority,
    },
    /// Find out whether a run works. Answered by [`Input::ProbeBegun`], unless the run ends before its turn comes,
    /// and by [`Input::Probed`], if at all.
    Probe {
        /// Which run.
        run: Run,
        /// What to try.
        probe: ProbeAt,
        /// How long that may take.
        timeout: Millis,
    },
    /// Forget an incarnation of which nothing runs. Its logs are kept for a while.
    Remove {
        /// Which incarnation.
        id: IncarnationId,
    },
    /// Answer a poll.
    Answer {
        /// The poll's token.
        token: u64,
        /// The answer.
        result: Result<PollAnswer, PollRefusal>,
    },
}

/// What a machine uses, as far as it can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MachineUse {
    /// Memory that could be had without swapping, in bytes.
    pub memory_available: Option<u64>,
    /// Room on the disk where tasks write, in bytes.
    pub disk_available: Option<u64>,
    /// Processor time of the machine in millicores.
    pub cpu_milli: Option<u64>,
    /// How much of it nobody used over the last interval.
    pub cpu_idle_milli: Option<u64>,
}

/// What a task uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskUse {
    /// As it is reported; without a window.
    pub usage: Usage,
    /// Files and directories of its own.
    pub files: u64,
}

/// What to try to find out whether a task works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeAt {
    /// `GET` of a path.
    Http {
        /// Port of the task's host.
        port: u16,
        /// Begins with a slash.
        path: String,
    },
    /// A connection.
    Tcp {
        /// Port of the task's host.
        port: u16,
    },
    /// A program in the task's container.
    Command(Vec<String>),
}

/// Everything that a container needs to know, with nothing left to be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Which start of which incarnation.
    pub run: Run,
    /// The task's name.
    pub name: TaskName,
    /// What the target says of it: to be handed back in [`Adopted`].
    pub task: TargetTask,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The environment, beside `HOME` and `PATH` which the machine sets unless they are here.
    pub env: BTreeMap<String, String>,
    /// The most that it may use.
    pub limit: Resources,
    /// What its memory limit means.
    pub memory: MemoryLimit,
    /// Hard cap on its processor time, in millicores.
    pub cpu_cap_milli: Option<u64>,
    /// Ports that must be free on the machine before it starts: to be handed back in [`Adopted`].
    pub ports: Vec<u16>,
    /// Directories that it sees; all allowed.
    pub volumes: Vec<Volume>,
    /// The directory that it shares: made if it is not there, unless it is to be saved. Told as `BORG_ALLOC_DIR`.
    pub shared: Option<SharedData>,
    /// How the machine shares itself.
    pub appclass: AppClass,
    /// Order in which a machine gives up room.
    pub priority: Priority,
    /// Time between SIGTERM and SIGKILL: to be handed back in [`Adopted`].
    pub grace: Millis,
    /// For an exclusive run: when it ends at the latest, unless [`Effect::ExtendLease`] says later.
    /// It must not begin after that.
    pub ends_by: Option<Millis>,
    /// What of its isolation it does without.
    pub loosen: BTreeSet<Privilege>,
    /// The image that it runs in; `None`: it sees the machine's own files.
    pub root: Option<Root>,
    /// Packages that it sees.
    pub packages: Vec<ShownPackage>,
    /// How often in a row it failed before this run: to be handed back in [`Adopted`] or [`NextRun`].
    pub failures: u32,
}

/// The root of a task's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The image, for people.
    pub image: String,
    /// Its layers, the lowest first. All are unpacked.
    pub layers: Vec<Digest>,
    /// `USER`, `USER:GROUP`, as the image names them; empty for root.
    pub user: String,
    /// Where it starts.
    pub workdir: String,
}

/// A package that a task sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownPackage {
    /// Under which name.
    pub name: PackageName,
    /// Its layer, which is unpacked.
    pub layer: Digest,
}

/// A container that an earlier borglet process left on the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// Which run.
    pub run: Run,
    /// When it started.
    pub since: Millis,
    /// As in its [`Launch`].
    pub grace: Millis,
    /// As in its [`Launch`]; none when that is not known any more.
    pub ports: Vec<u16>,
    /// The address of its own that it has, if its network is its own and that is known.
    pub address: Option<Ipv4Addr>,
    /// As in its [`Launch`]: it goes on by that until a master says otherwise. `None` when that is not known
    /// any more, or the machine restarted since.
    pub task: Option<TargetTask>,
    /// Layers that it uses.
    pub layers: Vec<Digest>,
    /// Whether it still runs.
    pub state: AdoptedState,
    /// Of one that is over: what is to be told of it.
    pub end: Option<Arc<RunEnd>>,
    /// As in its [`Launch`]; 0 when that is not known any more.
    pub failures: u32,
}

/// With which run an incarnation goes on of which there were runs, and nothing but their output is left: the
/// earlier borglet process died between two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NextRun {
    /// The number of that run.
    pub number: u32,
    /// As in the [`Launch`] of that run, if it was known already.
    pub failures: u32,
}

/// How an adopted container was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdoptedState {
    /// It runs; its end will be told as [`Input::Exited`].
    Running {
        /// Process id on the machine.
        pid: u32,
    },
    /// It is over.
    Ended {
        /// When.
        at: Millis,
        /// `None` when it exited with 0.
        failure: Option<FailureCause>,
    },
}

/// How many incarnations are in which state, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Waiting for packages.
    pub fetching: usize,
    /// Being set up.
    pub starting: usize,
    /// With a process.
    pub up: usize,
    /// Waiting to be started again.
    pub back_off: usize,
    /// Being stopped.
    pub stopping: usize,
    /// Over, kept for the report.
    pub ended: usize,
}
