//! Proof that the simulation is not empty: rare branches, counted.
//!
//! Every branch of fault and recovery that a run is meant to reach has a mark here. A set of seeds
//! that never reached one of them has failed, however green it looks.

use std::fmt;

macro_rules! marks {
    ($($(#[$doc:meta])* $mark:ident = $text:literal,)*) => {
        /// A rare branch.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mark { $($(#[$doc])* $mark,)* }

        impl Mark {
            /// All of them, in the order of the list.
            pub const ALL: &'static [Self] = &[$(Self::$mark,)*];

            /// What happened, in words.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$mark => $text,)* }
            }
        }
    };
}

marks! {
    /// The leader changed after the first one.
    LeaderReplaced = "another leader took over",
    /// A leader that was told to stop let another one lead first.
    HandedOver = "a stopped leader handed over",
    /// All masters of a cell understood the next level of entries.
    LevelRaised = "the level of entries was raised",
    /// A task answered its health check badly as often as makes it unhealthy.
    Unhealthy = "a task turned unhealthy",
    /// A client's change was on its way in the leader that died.
    LeaderDiedWithProposal = "leader crashed while a proposal was in flight",
    /// A client asked again with the same request id and got the first answer.
    RequestRepeated = "request repeated, same answer",
    /// A leader that others had left found out.
    LeaderSteppedDown = "a leader lost its office while alive",
    /// A majority that was well and had no leader for a while got one.
    ElectedInTime = "well majority without a leader elected one in time",
    /// A client never learned what came of what it asked.
    ClientGaveUp = "client gave up without an answer",
    /// A change had an unknown outcome.
    OutcomeUnknown = "outcome of a change unknown",
    /// A client asked a replica that does not lead.
    AskedFollower = "client sent to the leader by a follower",
    /// A linearizable read succeeded.
    ReadConfirmed = "read confirmed by a majority",
    /// A linearizable read was refused by a replica that could not confirm it.
    ReadFailed = "read failed without a majority",
    /// A replica caught up by a checkpoint.
    SnapshotInstalled = "checkpoint of a leader installed",
    /// A master died during a write, and the write was lost.
    UnsyncedWriteLost = "crash lost a write before its sync",
    /// A master died during a write that became durable all the same.
    UnsyncedWriteKept = "crash after a write was durable, before its effects",
    /// A master died in the middle of a write, and the part that was there was taken back.
    TornWriteTakenBack = "torn write taken back when the disk was opened",
    /// A master died when a write was there in full but for the watermark.
    TornWriteFinished = "torn write finished when the disk was opened",
    /// A master found that its disk had rotten, and stayed out.
    RotFound = "rotten disk found, its master does not vote",
    /// A master's disk was lost.
    DiskLost = "disk of a master lost",
    /// A master without a log became one again, in another life.
    MasterJoins = "master without a log joined in another life",
    /// A machine obeyed another leader, or session, whose target it had already.
    TargetKept = "a target was obeyed by its name alone",
    /// A newcomer needs the checkpoint that is being saved, and the disk is told to hurry.
    CheckpointWanted = "a checkpoint was asked to be saved in a hurry",
    /// What a checkpoint covers was forgotten in more than one step.
    CompactedInSteps = "log compacted a step at a time",
    /// An operator took a master out and let its number join again.
    MasterTakenOut = "master taken out, and invited again",
    /// A master stopped because its disk was full.
    DiskFull = "full disk stopped a master",
    /// A checkpoint was put off because its disk was full.
    CheckpointPutOff = "full disk put off a checkpoint",
    /// A checkpoint of another master was rotten, or there was no room for it.
    TransferUseless = "received checkpoint was of no use",
    /// A write took half a second and more on a disk that gets slower and slower.
    DiskVerySlow = "write on a disk that grew slow",
    /// Some masters lost their power at one moment.
    PowerCut = "power cut of several masters",
    /// A master died between two effects of one turn.
    CrashInTurn = "crash between two effects of one turn",
    /// A sync failed and its master stopped.
    SyncFailed = "failed sync stopped a master",
    /// All masters were down at once.
    AllMastersDown = "all masters down at once",
    /// A restored cell took over a task that was placed after its backup.
    Adopted = "a restored cell adopted a task",
    /// All masters lost their disks and began anew from a backup.
    Restored = "the cell went on from a backup",
    /// A master stood still and went on.
    MasterPaused = "a master paused and went on",
    /// Masters could not reach each other, and could again.
    MastersParted = "masters partitioned and healed",
    /// Any of the ways between masters were cut, and mended.
    EdgesCut = "a set of ways between masters cut and mended",
    /// A one-way cut.
    OneWayCut = "one-way cut and healed",
    /// The leader missed a difference and asked for a full report.
    DeltaGap = "leader asked for a full report after a gap",
    /// A shard sent a full report later than its first.
    FullReportAgain = "shard repeated an unacknowledged difference in full",
    /// The machines were divided again within a term.
    DividedAgain = "machines divided again over the shards",
    /// A borglet refused an older order.
    StaleOrderRefused = "borglet refused a stale order",
    /// A borglet was asked to obey what it does not have.
    TargetMissing = "borglet asked for a missing target",
    /// An exclusive task ended with its lease.
    ExclusiveFenced = "exclusive task ended with its lease",
    /// The same, while no borglet was there: its shim alone did it.
    ExclusiveFencedAlone = "exclusive task ended with its lease, its borglet dead",
    /// An exclusive task was set free after its last incarnation was surely over.
    ExclusiveFreed = "exclusive task free to be placed again",
    /// A task was started elsewhere before it left its machine.
    Prepared = "successor started",
    /// A successor took over.
    Replaced = "successor took over",
    /// A successor came to nothing, or was needed no more.
    Unprepared = "successor given up",
    /// Two schedulers of a master decided for the same task at once.
    DecidedTwice = "two schedulers decided for one task",
    /// A gang was placed as a whole.
    GangPlaced = "gang placed together",
    /// Decisions of a gang were refused as one of them was.
    GangRefused = "gang refused as one of its tasks was",
    /// As many tasks of a job were placed as it lets run at once, and more waited.
    CapReached = "job placed up to its cap",
    /// A task went elsewhere than where it had failed.
    CrashAvoided = "task kept away from where it failed",
    /// Too much of the cell was silent.
    SafeMode = "safe mode began",
    /// And was no longer.
    SafeModeOver = "safe mode ended",
    /// An operator gave a machine up.
    MachineGivenUp = "machine given up by an operator",
    /// A machine was silent for long enough.
    MachineDown = "machine marked down",
    /// A machine marked down answered again.
    MachineBack = "machine marked down came back",
    /// A machine came back while its old tasks ran on.
    StaleCopyKilled = "stale copy killed after its machine came back",
    /// A borglet found its tasks running after its own restart.
    BorgletAdopted = "borglet restarted and adopted running tasks",
    /// A borglet found that a task had ended while it was away.
    AdoptedEnded = "borglet found a task that ended without it",
    /// A borglet died between two effects.
    BorgletCrashInTurn = "borglet crashed between two effects",
    /// A machine started anew.
    MachineRebooted = "machine rebooted",
    /// A machine came back smaller and gave up tasks.
    MachineShrunk = "machine came back with less room",
    /// A task was placed on a machine whose limits are then more than it has.
    PlacedOnLent = "task placed on lent room",
    /// A task was placed in an alloc.
    PlacedInAlloc = "task placed in an alloc",
    /// An alloc had to leave its machine because it became larger.
    AllocOutgrewMachine = "alloc outgrew its machine",
    /// The allocs of a set became larger or smaller.
    AllocsResized = "allocs resized",
    /// An update began.
    UpdateBegun = "update of a job begun",
    /// All tasks of an update have served for long enough.
    UpdateDone = "update of a job done",
    /// An update was bad or somebody thought so: its tasks go back.
    UpdateRollsBack = "update rolls back",
    /// And have.
    UpdateRolledBack = "update rolled back",
    /// A canary was good.
    CanaryGood = "canary of an update good",
    /// A machine was taken out of the cell.
    MachineRemoved = "machine removed and added again",
    /// The state refused a scheduler's decision.
    PlacementRefused = "placement refused by the state",
    /// A scheduler's decisions were lost with its leader.
    PlacementUndecided = "decisions dropped, or lost with their leader",
    /// A task pushed out another.
    Preempted = "task preempted",
    /// A batch task failed and was tried again.
    TaskRetried = "failed task placed again",
    /// A batch job failed for good.
    JobFailed = "job failed",
    /// A service was started again by its machine.
    LocalRestart = "service restarted by its machine",
    /// A task found its port taken.
    PortTaken = "port taken on the machine",
    /// An alloc left data behind.
    DataKept = "alloc left data behind",
    /// What an alloc left behind was saved.
    DataRescued = "data of an alloc rescued",
    /// A machine removed a directory of an alloc.
    DataDropped = "directory of an alloc removed by its machine",
    /// A program could not be started.
    StartFailed = "program could not be started",
    /// A task had to be killed with signal 9.
    KilledHard = "task ignored SIGTERM and was killed",
    /// A job began after the jobs that it waited for.
    Released = "job released after the jobs before it",
    /// A job's predecessor failed.
    DependencyFailed = "job given up after the one before it failed",
    /// A daemon's task was placed on its machine.
    DaemonPlaced = "daemon's task placed on its machine",
    /// A daemon's machine left, or was none any more.
    DaemonWithdrawn = "daemon's task withdrawn with its machine",
    /// A slot that was dead, or new, waits: of a daemon, or of a job that runs again.
    Renewed = "dead task came alive again",
    /// A cron job made a run at its tick.
    CronRun = "cron job made a run",
    /// A tick came to nothing: nobody led, or the run before it was not over.
    CronOverlap = "tick passed over without a run",
    /// A job ended with its parent.
    ParentEnded = "job ended with its parent",
    /// A run took too long.
    RanOut = "run of a task took too long",
    /// A job took too long.
    Deadline = "job was not over by its deadline",
    /// A job asked for more than its user's quota, or there was none.
    QuotaRefused = "job refused for want of quota",
    /// A job would have done without isolation, and its user did not hold the privilege.
    PrivilegeRefused = "job refused for want of a privilege",
    /// An operator would have sold more prod quota than the cell has.
    OversoldRefused = "prod quota beyond the machines refused",
    /// A decision was for a machine that had been closed, or kept for others, since.
    AccessRefused = "decision refused as its machine was closed or kept meanwhile",
    /// A machine became empty, and tasks had left it for other ones.
    DrainMoved = "tasks moved off a drained machine",
    /// A machine became empty by its deadline alone.
    DrainForced = "tasks pushed out at the deadline of a drain",
    /// A machine was lost while it was drained.
    DrainLost = "a machine was lost while it was drained",
    /// A decision came to nothing because of a disruption budget.
    BudgetRefused = "decision refused by a disruption budget",
    /// Machines had been drained one after the other.
    MaintenanceOver = "a maintenance of one machine after the other was over",
    /// A task waited because no machine had room.
    WaitedForRoom = "task waited for room",
    /// A borglet stood still and went on.
    BorgletPaused = "a borglet paused and went on",
    /// A master started with another wall clock than before.
    MasterClockSet = "master started after its wall clock was set",
    /// A borglet started with another wall clock than before.
    MachineClockSet = "borglet started after its wall clock was set",
    /// One way through the network was bad.
    LossyLink = "one way lost, doubled and delayed messages",
    /// The network lost messages.
    LossyNetwork = "network lost, doubled and delayed messages",
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// How often each mark was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks(Vec<u64>);

impl Default for Marks {
    fn default() -> Self {
        Self(vec![0; Mark::ALL.len()])
    }
}

impl Marks {
    /// The branch was reached.
    pub fn hit(&mut self, mark: Mark) {
        self.0[mark as usize] += 1;
    }

    /// How often the branch was reached.
    #[must_use]
    pub fn count(&self, mark: Mark) -> u64 {
        self.0[mark as usize]
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine += theirs;
        }
    }

    /// Marks that were never reached.
    pub fn missing(&self) -> impl Iterator<Item = Mark> {
        Mark::ALL.iter().copied().filter(|mark| self.count(*mark) == 0)
    }
}
