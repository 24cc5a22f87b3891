//! One life of a shim: leave the borglet, make the task, tell, watch, record.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd;

use super::birth::Newborn;
use super::watch::{Ended, Watch};
use super::{NAMESPACES, ShimSpec, complain};
use crate::cgroup::CgroupDriver;
use crate::container::program::Pipes;
use crate::container::{ExitRecord, Outcome, Record, StartError, Started, TaskDir};
use crate::logs::{LogWriter, Stream};
use crate::{procfs, sys};

/// Runs one task from start to end on record, in a process made for it. `lock` is the record with the
/// lock on it, `report` the pipe to the borglet, `network` the task's own, if it has one.
pub(super) fn run(dir: &TaskDir, mut lock: File, mut report: File, network: Option<OwnedFd>) {
    super::complain_in(dir);
    let spec = match leave_the_nursery(&mut lock) {
        Ok(spec) => spec,
        Err(error) => {
            return complain(format_args!("cannot begin in {}: {error}", dir.root.display()));
        }
    };
    let groups = spec.cgroups.clone().map(super::Hierarchies::driver);
    // The start may have waited for others; what is over must not begin.
    let mut lease = spec.container.lease.clone();
    let over = lease.as_mut().is_some_and(|lease| lease.left(sys::boot_time_ms()) == 0);
    let begun =
        if over { Err(StartError::Fenced) } else { begin(dir, &spec, groups.as_deref(), network) };
    let record = match begun {
        Err(error) => {
            // First on disk: the borglet may die before it hears.
            keep(dir, &not_started(&spec, &error));
            tell(&mut report, &Err(error));
            return;
        }
        Ok((started, watch)) => {
            tell(&mut report, &Ok(started.clone()));
            drop(report);
            ended(&spec, started, &watch.until_the_end())
        }
    };
    keep(dir, &record);
    drop(lock);
}

/// Becomes a process of nobody.
fn leave_the_nursery(spec: &mut File) -> io::Result<ShimSpec> {
    unistd::setsid()?;
    nix::sys::prctl::set_name(c"borglet-shim")?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    nix::sys::prctl::set_child_subreaper(true)?;
    let mut bytes = Vec::new();
    spec.rewind()?;
    spec.read_to_end(&mut bytes)?;
    let asked = Record::parse(&bytes).asked;
    asked.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "what is asked makes no sense"))
}

fn begin<'a>(
    dir: &TaskDir,
    spec: &'a ShimSpec,
    groups: Option<&'a dyn CgroupDriver>,
    network: Option<OwnedFd>,
) -> Result<(Started, Watch<'a>), StartError> {
    let trouble = |step: &'static str| move |e: io::Error| StartError::machine(step, e);
    let pipe = || unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| trouble("make a pipe")(e.into()));
    let (stdout, stdout_in) = pipe()?;
    let (stderr, stderr_in) = pipe()?;
    let (notes, notes_in) = pipe()?;
    let (go_out, go) = pipe()?;
    let (endings, endings_in) = pipe()?;
    let (ids, ids_in) = pipe()?;
    let container = &spec.container;
    let log = |stream| LogWriter::new(&dir.log(), stream, container.logs);
    let name = container.id.as_str();
    let group_trouble = |e: crate::cgroup::CgroupError| StartError::machine("cgroup", e.in_full());
    let home = groups.map(|groups| groups.birthplace(name)).transpose().map_err(group_trouble)?;
    let oom = groups.map(|groups| groups.oom_notice(name)).transpose().map_err(group_trouble)?;
    let null = File::open("/dev/null").map_err(trouble("open /dev/null"))?;

    let namespaces =
        if spec.namespaces { NAMESPACES | spec.users.around() } else { CloneFlags::empty() };
    let shim_pid = unistd::getpid().as_raw();
    let child = sys::clone_process(namespaces.bits(), home.flatten().as_ref())
        .map_err(trouble("make the container's first process"))?;
    let Some(child) = child else {
        let (go, ids) = (File::from(go_out), File::from(ids));
        drop((notes, ids_in));
        let pipes = Pipes { null, stdout: stdout_in, stderr: stderr_in, go };
        let notes = File::from(notes_in);
        Newborn { spec, dir, pipes, notes, ids, endings: endings_in, shim_pid, network }.live()
    };
    // The network too: it is to go with the last process in it.
    drop((stdout_in, stderr_in, notes_in, go_out, endings_in, ids, network));
    if namespaces.contains(CloneFlags::CLONE_NEWUSER) {
        let given = spec.users.map(Path::new("/proc"), child.pid);
        // One that failed already has said why.
        let given = given.and_then(|()| File::from(ids_in).write_all(b"i"));
        sys::never_mind(given);
    }

    let init_pid = spec.namespaces.then_some(child.pid);
    let watch = Watch::new(
        child,
        spec,
        groups,
        [(stdout, log(Stream::Stdout)), (stderr, log(Stream::Stderr))],
        endings,
        oom.flatten(),
    );
    let watch = watch.map_err(trouble("watch the task"))?;
    let mut notes = BufReader::new(File::from(notes));
    let launched = await_ready(&mut notes)
        .and_then(|()| record_start(dir, spec, init_pid, watch.child_pid()))
        .and_then(|started| {
            File::from(go).write_all(b"g").map_err(trouble("say go"))?;
            await_execution(&mut notes)?;
            Ok(started)
        });
    match launched {
        Ok(started) => Ok((started, watch)),
        Err(error) => {
            let ended = watch.give_up();
            let starved = ended.out_of_memory && !error.is_fault_of_task();
            Err(if starved {
                let limit = container.ram_bytes;
                StartError::machine("start", format!("a limit of {limit} bytes is too little"))
            } else {
                error
            })
        }
    }
}

/// The task's first process is complete but for its program.
fn await_ready(notes: &mut impl BufRead) -> Result<(), StartError> {
    let mut line = String::new();
    notes.read_line(&mut line).map_err(|e| StartError::machine("hear of the task", e))?;
    match line.as_str() {
        "ready\n" => Ok(()),
        line => Err(told(line)),
    }
}

/// The end of the notes without a word is a successful execute.
fn await_execution(notes: &mut impl Read) -> Result<(), StartError> {
    let mut line = String::new();
    notes.read_to_string(&mut line).map_err(|e| StartError::machine("hear of the task", e))?;
    if line.is_empty() { Ok(()) } else { Err(told(&line)) }
}

fn told(line: &str) -> StartError {
    serde_json::from_str(line)
        .unwrap_or_else(|_| StartError::machine("start", "the first process died"))
}

/// Puts the pids on record before the program runs.
fn record_start(
    dir: &TaskDir,
    spec: &ShimSpec,
    init_pid: Option<i32>,
    child: i32,
) -> Result<Started, StartError> {
    let trouble = |e: io::Error| StartError::machine("record the start", e);
    let no_child = || trouble(io::Error::new(io::ErrorKind::NotFound, "init has no child"));
    let pid = match init_pid {
        Some(init) => procfs::children(init).first().copied().ok_or_else(no_child)?,
        None => child,
    };
    let shim_pid = unistd::getpid().as_raw();
    let started = Started {
        pid,
        start_ticks: procfs::stat(pid).map_err(trouble)?.start_ticks,
        shim_pid,
        shim_start_ticks: procfs::stat(shim_pid).map_err(trouble)?.start_ticks,
        init_pid,
        started_at_ms: sys::wall_clock_ms(),
        boot_id: procfs::boot_id(),
        address: spec.container.address,
    };
    dir.add_started(&started).map_err(trouble)?;
    Ok(started)
}

fn ended(spec: &ShimSpec, started: Started, ended: &Ended) -> ExitRecord {
    let (cpu_ms, memory_peak_bytes) = ended.totals;
    let outcome = match ended.ending {
        _ if ended.out_of_memory => Outcome::OutOfMemory {
            limit_bytes: spec.container.ram_bytes,
            peak_bytes: memory_peak_bytes,
        },
        _ if ended.fenced => Outcome::Fenced,
        sys::Ending::Code(code) => Outcome::Exited { code },
        sys::Ending::Signal(signal) => Outcome::Signalled { signal },
    };
    ExitRecord {
        id: spec.container.id.clone(),
        outcome,
        started: Some(started),
        ended_at_ms: sys::wall_clock_ms(),
        cpu_ms,
        memory_peak_bytes,
    }
}

fn not_started(spec: &ShimSpec, error: &StartError) -> ExitRecord {
    ExitRecord {
        id: spec.container.id.clone(),
        outcome: Outcome::NotStarted(error.clone()),
        started: None,
        ended_at_ms: sys::wall_clock_ms(),
        cpu_ms: 0,
        memory_peak_bytes: 0,
    }
}

/// Not synced, as each sync waits for whatever all tasks wrote meanwhile: most records are told to the masters
/// and removed before they would be on the disk. The borglet syncs those that stay.
fn keep(dir: &TaskDir, record: &ExitRecord) {
    if let Err(error) = dir.add_ended(record, false) {
        complain(format_args!("the exit record is lost: {error}: {record:?}"));
    }
}

/// Answers the borglet. It may be gone; then the files speak for us.
fn tell(report: &mut File, answer: &Result<Started, StartError>) {
    drop(serde_json::to_writer(report, answer));
}
