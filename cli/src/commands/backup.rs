//! `backup`: save a cell's state to a file, look at one, and begin again from it.
//!
//! Saving and settling ask the cell; inspecting and restoring need no more than the file, as there
//! may be no cell any more.

use crate::client::{Client, Kind};
use crate::exit::Failure;
use crate::output::Output;
use borg_proto::wire::pb;
use clap::Subcommand;

#[cfg(feature = "daemons")]
pub(super) use file::{HistoryArgs, InspectArgs, RestoreArgs, ask_the_leader, live, load, write};

#[derive(Debug, Subcommand)]
pub(super) enum BackupCommand {
    /// Write the whole state as a checkpoint file: compressed, with checksums
    #[cfg(feature = "daemons")]
    Save {
        /// Where to; an earlier file is replaced once the new one is complete
        file: std::path::PathBuf,
        /// Take what the answering master has, also when no majority confirms that it is all
        #[arg(long)]
        stale: bool,
    },
    /// Tell what is in a backup, or in a checkpoint of a master's directory; needs no cell
    #[cfg(feature = "daemons")]
    Inspect(InspectArgs),
    /// Make the directory of one master of a cell that begins again from a backup, after all
    /// masters were lost; needs no cell
    #[cfg(feature = "daemons")]
    Restore(RestoreArgs),
    /// Write a stretch of the past to a directory: a state, the log after it, and what the leader's scheduler
    /// was told and decided; `fauxmaster verify` and `fauxmaster step` read it
    #[cfg(feature = "daemons")]
    History(HistoryArgs),
    /// In a restored cell: end at once what runs and is still unknown, instead of sparing it longer
    Settle,
}

pub(super) async fn run(
    client: impl FnOnce() -> Result<Client, Failure>,
    command: BackupCommand,
    out: Output,
) -> Result<(), Failure> {
    match command {
        #[cfg(feature = "daemons")]
        BackupCommand::Save { file, stale } => file::save(&mut client()?, &file, stale, out).await,
        #[cfg(feature = "daemons")]
        BackupCommand::Inspect(args) => file::inspect(&args, out),
        #[cfg(feature = "daemons")]
        BackupCommand::Restore(args) => file::restore(&args, out),
        #[cfg(feature = "daemons")]
        BackupCommand::History(args) => file::history(&mut client()?, &args, out).await,
        BackupCommand::Settle => settle(&mut client()?, out).await,
    }
}

async fn settle(client: &mut Client, out: Output) -> Result<(), Failure> {
    let message = pb::SettleRequest { request_id: client.request_id() };
    let answer = client
        .call("settle", Kind::Change, message, async |mut master, request| {
            master.settle(request).await
        })
        .await?;
    if out.is_json() {
        return out.json(&serde_json::json!({ "index": answer.index }), false);
    }
    out.line("nothing is spared any more that the cell does not know")
}

/// What needs the cell's own code; all but saving needs no cell.
#[cfg(feature = "daemons")]
mod file {
    use super::super::history::At;
    use crate::client::{Client, Kind};
    use crate::clock;
    use crate::exit::{Code, Failure};
    use crate::output::{Output, age};
    use borg_cell::codec::DecodeError;
    use borg_cell::state::{CellState, Window};
    use borg_cell::store::{CheckpointDraft, ReplicaIdentity, StoreError};
    use borg_master::Member;
    use borg_master::store::{self, Backup, StoreKind};
    use borg_proto::task::{Phase, TaskState};
    use borg_proto::wire::pb;
    use borg_proto::{Millis, in_full};
    use clap::Args;
    use serde::Serialize;
    use std::collections::BTreeSet;
    use std::io::Write;
    use std::path::{Path, PathBuf};

    /// Largest file that is read: 16 GiB, our choice; the state of 10,000 machines takes some MiB.
    const MOST_BYTES: u64 = 16 << 30;

    const NO_BACKUP: &str = "this is no checkpoint, or it is damaged: take another copy, or an older \
        backup. A backup is a file that borgctl backup save wrote, or one named checkpoint-* of a \
        master's directory";

    #[derive(Debug, Args)]
    pub(in super::super) struct InspectArgs {
        /// The backup, or a checkpoint file of a master's directory
        file: PathBuf,
    }

    #[derive(Debug, Args)]
    pub(in super::super) struct RestoreArgs {
        /// The backup: the same for every master
        file: PathBuf,
        /// The directory to make: the master's --dir. There must be no log in it
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Which of the masters this is
        #[arg(long, value_name = "N")]
        number: u64,
        /// All masters of the restored cell, as N=HOST:PORT,N=HOST:PORT,...: the same for every master
        // Named apart from the option of the same name that says where the cell is.
        #[arg(
            long = "masters",
            id = "masters of the restored cell",
            value_delimiter = ',',
            required = true,
            value_name = "N=HOST:PORT,..."
        )]
        masters: Vec<Member>,
        /// How long machines keep what the backup does not know, once the cell has a leader: the same
        /// for every master
        #[arg(long, default_value = "1h", value_name = "TIME", value_parser = duration)]
        spare: Millis,
        /// Which store keeps the log, as in the master's --store
        #[arg(long, default_value_t)]
        store: StoreKind,
    }

    #[derive(Debug, Args)]
    pub(in super::super) struct HistoryArgs {
        /// The directory to make; there must be none yet
        dir: PathBuf,
        /// From when: a time like 2026-11-25T20:00:00Z, one like -10m, or an entry of the log
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        from: At,
        /// Until when [default: now]
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        to: Option<At>,
    }

    fn duration(text: &str) -> Result<Millis, String> {
        let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
        let ms = u64::try_from(time.as_millis()).ok().filter(|ms| *ms <= 30 * 24 * 3_600_000);
        ms.map(Millis).ok_or_else(|| "more than 30 days".to_owned())
    }

    pub(super) async fn save(
        client: &mut Client,
        file: &Path,
        stale: bool,
        out: Output,
    ) -> Result<(), Failure> {
        let (dir, name) = place(file)?;
        if !stale {
            ask_the_leader(client).await?;
        }
        let backup = live(client, stale).await?;
        let bytes = written(dir, name, &backup)?;
        let state = &backup.state;
        if out.is_json() {
            return out.json(&serde_json::json!({ "file": file, "bytes": bytes }), false);
        }
        out.line(&format!("{}: {bytes} bytes, entry {}", file.display(), state.applied()))
    }

    /// Writes a state as `backup save` does.
    pub(in super::super) fn write(file: &Path, state: CellState) -> Result<(), Failure> {
        let (dir, name) = place(file)?;
        written(dir, name, &Backup { state, known: None }).map(|_| ())
    }

    fn written(dir: &Path, name: &str, backup: &Backup) -> Result<u64, Failure> {
        backup.save(dir, name).map_err(|error| Failure::new(Code::Internal, in_full(&error)))
    }

    /// Directory and name of a file that may be made or replaced.
    fn place(file: &Path) -> Result<(&Path, &str), Failure> {
        // The file is made beside and renamed: what is no plain file would be replaced by one.
        let there = std::fs::symlink_metadata(file);
        if there.is_ok_and(|there| !there.is_file()) {
            let what =
                format!("{} is there and no plain file: choose another name", file.display());
            return Err(Failure::new(Code::Usage, what));
        }
        let Some(name) = file.file_name().and_then(|name| name.to_str()) else {
            let what = format!("{} is no name for a file in UTF-8", file.display());
            return Err(Failure::new(Code::Usage, what));
        };
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
        Ok((dir.unwrap_or(Path::new(".")), name))
    }

    /// Of several masters, the one that leads is asked: it has recorded decisions, at least of late, and knows what tasks
    /// lend.
    pub(in super::super) async fn ask_the_leader(client: &mut Client) -> Result<(), Failure> {
        for _ in 1..client.masters() {
            let message = pb::ListHistoryRequest {};
            let answer = client
                .call("history", Kind::Read, message, async |mut master, request| {
                    master.list_history(request).await
                })
                .await?;
            if answer.read.is_some_and(|read| read.leader) {
                break;
            }
            client.pass_over();
        }
        Ok(())
    }

    /// Writes a stretch of the past: all of it, or no directory.
    pub(super) async fn history(
        client: &mut Client,
        args: &HistoryArgs,
        out: Output,
    ) -> Result<(), Failure> {
        let dir = &args.dir;
        if dir.exists() {
            let what = format!("{} is there: choose another name", dir.display());
            return Err(Failure::new(Code::AlreadyExists, what));
        }
        ask_the_leader(client).await?;
        let from = args.from.metadata();
        let to = args.to.map(At::metadata).unwrap_or_default();
        let message = pb::SaveHistoryRequest { from, to };
        let mut stream = client
            .open("history", message, async |mut master, request| {
                master.save_history(request).await
            })
            .await?;
        let beside = dir.with_extension(format!("{}.part", std::process::id()));
        std::fs::create_dir_all(&beside)?;
        let mut bytes = 0;
        let written = async {
            let mut file: Option<(String, std::fs::File)> = None;
            while let Some(chunk) = stream.message().await? {
                if file.as_ref().is_none_or(|(name, _)| *name != chunk.file) {
                    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
                    if chunk.file.is_empty() || !chunk.file.chars().all(plain) {
                        let what = format!("{:?} is no name for a file", chunk.file);
                        return Err(Failure::new(Code::Internal, what));
                    }
                    let new = std::fs::File::create_new(beside.join(&chunk.file))?;
                    file = Some((chunk.file, new));
                }
                if let Some((_, file)) = &mut file {
                    file.write_all(&chunk.data)?;
                    bytes += chunk.data.len() as u64;
                }
            }
            std::fs::rename(&beside, dir)?;
            Ok::<_, Failure>(())
        };
        if let Err(failure) = written.await {
            // What is half there is of no use, and the failure is what matters.
            drop(std::fs::remove_dir_all(&beside));
            return Err(failure);
        }
        if out.is_json() {
            return out.json(&serde_json::json!({ "dir": dir, "bytes": bytes }), false);
        }
        out.line(&format!("{}: {bytes} bytes", dir.display()))
    }

    /// The cell now. What the answering master has, if `stale`.
    pub(in super::super) async fn live(
        client: &mut Client,
        stale: bool,
    ) -> Result<Backup, Failure> {
        let message = pb::SaveCheckpointRequest { stale };
        let mut stream = client
            .open("backup", message, async |mut master, request| {
                master.save_checkpoint(request).await
            })
            .await?;
        let (mut state, mut known) = (Vec::new(), Vec::new());
        while let Some(chunk) = stream.message().await? {
            state.extend(chunk.data);
            known.extend(chunk.scheduler);
        }
        let wrong = |why: String| Failure::new(Code::Internal, why);
        let state = CellState::decode(&state).map_err(|error| wrong(error.to_string()))?;
        Ok(Backup { state, known: Backup::known_of(&known).map_err(wrong)? })
    }

    /// What is in a checkpoint file of at most so many bytes, as `backup save` or a master wrote it.
    pub(in super::super) fn load(file: &Path, most: u64) -> Result<Backup, Failure> {
        let name = file.display();
        let there = std::fs::metadata(file)
            .map_err(|error| Failure::new(Code::NotFound, format!("{name}: {error}")))?;
        let refused = |why: String| Failure::new(Code::Refused, format!("{name}: {why}"));
        if !there.is_file() {
            return Err(refused("is no plain file".into()));
        }
        if there.len() > most {
            return Err(refused(format!("{} bytes, most is {most}", there.len())));
        }
        let (state, known) = Backup::read(file).map_err(|error| match error {
            StoreError::Broken { .. } => refused(NO_BACKUP.to_owned()),
            error => refused(in_full(&error)),
        })?;
        let state = CellState::decode(&state).map_err(|error| {
            let more = match &error {
                DecodeError::NotAState | DecodeError::Newer { .. } | DecodeError::TooLarge(_) => "",
                DecodeError::Malformed(_) | DecodeError::Field(_) | DecodeError::Unsound(_) => {
                    ": take another copy, or an older backup"
                }
            };
            refused(format!("{error}{more}"))
        })?;
        let known = Backup::known_of(&known).map_err(refused)?;
        Ok(Backup { state, known })
    }

    /// What a backup holds, as `-o json` has it.
    #[derive(Debug, Serialize)]
    struct Contents {
        cell: String,
        /// Level of entries, which is the version of the format too.
        level: u32,
        index: u64,
        /// Of the newest entry.
        at_ms: u64,
        at: String,
        epoch: u64,
        /// After a restore: until when the unknown is spared.
        spare_until_ms: Option<u64>,
        masters: Vec<Entry>,
        machines: usize,
        machines_up: usize,
        jobs: usize,
        jobs_alive: usize,
        tasks: Tasks,
        /// Tasks of which it is told what they lend of their limits; unset if the scheduler's knowledge is not there.
        lend: Option<usize>,
    }

    #[derive(Debug, Serialize)]
    struct Entry {
        number: u64,
        life: u64,
        address: String,
    }

    #[derive(Debug, Default, Serialize)]
    struct Tasks {
        pending: u64,
        starting: u64,
        up: u64,
        back_off: u64,
        dead: u64,
    }

    impl Contents {
        fn of(Backup { state, known }: &Backup) -> Self {
            let mut tasks = Tasks::default();
            for (_, task) in state.jobs().flat_map(|job| state.tasks_of(job.id)) {
                *match &task.state {
                    TaskState::Pending { .. } => &mut tasks.pending,
                    TaskState::Dead { .. } => &mut tasks.dead,
                    TaskState::Running(placement) => match placement.phase {
                        Phase::Starting => &mut tasks.starting,
                        Phase::Up { .. } => &mut tasks.up,
                        Phase::BackOff { .. } => &mut tasks.back_off,
                    },
                } += 1;
            }
            let up = |machine: &&borg_cell::state::Machine| {
                machine.state == borg_cell::state::MachineState::Up
            };
            let window: Option<Window> = state.restored().and_then(|restored| restored.window);
            let entry = |(id, record): (borg_proto::ReplicaId, &borg_cell::state::MasterRecord)| {
                Entry { number: id.number(), life: id.life(), address: record.address.clone() }
            };
            Self {
                cell: state.cell().to_string(),
                level: state.level(),
                index: state.applied(),
                at_ms: state.clock().0,
                at: time(state.clock()),
                epoch: state.epoch(),
                spare_until_ms: window.map(|window| window.spare_until.0),
                masters: state.masters().map(entry).collect(),
                machines: state.machines().count(),
                machines_up: state.machines().filter(up).count(),
                jobs: state.jobs().count(),
                jobs_alive: state.jobs().filter(|job| job.is_alive()).count(),
                tasks,
                lend: known.as_ref().map(|known| known.lent.len()),
            }
        }
    }

    fn time(at: Millis) -> String {
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(at.0.min(1 << 46));
        humantime::format_rfc3339_millis(at).to_string()
    }

    pub(super) fn inspect(args: &InspectArgs, out: Output) -> Result<(), Failure> {
        let found = Contents::of(&load(&args.file, MOST_BYTES)?);
        if out.is_json() {
            return out.json(&found, false);
        }
        let masters: Vec<String> =
            found.masters.iter().map(|m| format!("{}={}", m.number, m.address)).collect();
        let tasks = &found.tasks;
        let lend = match found.lend {
            Some(tasks) => format!("{tasks} tasks, of their limits"),
            None => "not in this file".to_owned(),
        };
        let rows = [
            ["cell", &found.cell],
            ["format", &found.level.to_string()],
            ["entry", &found.index.to_string()],
            [
                "time",
                &format!("{}, {} ago", found.at, age(clock::now().0.saturating_sub(found.at_ms))),
            ],
            ["epoch", &found.epoch.to_string()],
            ["masters", &masters.join(", ")],
            ["machines", &format!("{}, {} up", found.machines, found.machines_up)],
            ["jobs", &format!("{}, {} alive", found.jobs, found.jobs_alive)],
            [
                "tasks",
                &format!(
                    "{} pending, {} starting, {} up, {} backing off, {} dead",
                    tasks.pending, tasks.starting, tasks.up, tasks.back_off, tasks.dead
                ),
            ],
            ["lend", &lend],
        ];
        out.table(["what", "value"], rows.map(|row| row.map(str::to_owned)))
    }

    pub(super) fn restore(args: &RestoreArgs, out: Output) -> Result<(), Failure> {
        let usage = |text: String| Failure::new(Code::Usage, text);
        let masters: Vec<(u64, String)> =
            args.masters.iter().map(|m| (m.replica.0, m.address.clone())).collect();
        let numbers: BTreeSet<u64> = masters.iter().map(|(number, _)| *number).collect();
        let most = borg_proto::ReplicaId::MAX_NUMBER;
        if let Some(number) = numbers.iter().find(|number| **number > most) {
            return Err(usage(format!("--masters: {number} is over {most}")));
        }
        if numbers.len() != masters.len() {
            return Err(usage("--masters: a number is there twice".into()));
        }
        let addresses: BTreeSet<&String> = masters.iter().map(|(_, address)| address).collect();
        if addresses.len() != masters.len() {
            return Err(usage("--masters: an address is there twice".into()));
        }
        if !numbers.contains(&args.number) {
            return Err(usage(format!("--number {} is none of --masters", args.number)));
        }
        if store::is_there(&args.dir) {
            let dir = args.dir.display();
            let text = format!(
                "{dir}: there is a log already. If that master is lost for good, move the directory \
                 away; if it may be whole, start it instead"
            );
            return Err(Failure::new(Code::AlreadyExists, text));
        }
        let (state, place) = load(&args.file, MOST_BYTES)?.state.refound(&masters, args.spare);
        let (epoch, cell) = (state.epoch(), state.cell().to_string());
        let replica = state.master_numbered(args.number).map_or(args.number, |id| id.0);
        let identity = ReplicaIdentity { cell: cell.clone(), replica, epoch };
        let founding = CheckpointDraft {
            place,
            membership: &state.founding_membership(),
            at: state.clock(),
            state: &state.encode(),
            log: &[],
        };
        store::found(args.store, &args.dir, &identity, &founding)
            .map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
        let (number, dir) = (args.number, args.dir.display());
        if out.is_json() {
            let digest = format!("{:032x}", state.digest());
            let made = serde_json::json!({
                "cell": cell, "master": number, "epoch": epoch, "dir": args.dir, "digest": digest,
            });
            return out.json(&made, false);
        }
        out.line(&format!(
            "{dir}: master {number} of cell {cell} in epoch {epoch}; do the same for the others, then \
             start them without --new"
        ))
    }
}
