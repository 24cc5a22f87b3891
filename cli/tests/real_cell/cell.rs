//! Cells for tests: the `borgctl` program starts them and takes them down, as it does for people.
//!
//! Most tests share one cell, as starting one costs more than most tests. Whatever becomes of this
//! process, a small process beside it takes its cells down: it waits for a pipe that only closes
//! when the cell's owner lets go of it or dies.

use borg_proto::JobSpec;
use borg_proto::identity::{Identity, any_master_name};
use borg_proto::rpc::{BorgmasterClient, Credentials, Timeouts, borgmaster_client, channel};
use borg_proto::wire::pb;
use borgctl::client::request_id;
use borgctl::local::{Daemon, Layout, LocalCell, Process};
use borgctl::target::Target;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tonic::transport::Channel;

/// The program under test.
pub(crate) const BORGCTL: &str = env!("CARGO_BIN_EXE_borgctl");
/// How long the cell may take for anything that a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// The time, for measuring and for giving up.
#[expect(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// What a run of `borgctl` said.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// What it printed, when it went well.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// What it complained of, when it failed with this exit code.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        self.err
    }
}

/// Runs a command with a text as its input.
pub(crate) fn run(command: &mut Command, input: &str) -> Run {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let done = std::thread::scope(|scope| {
        // Beside the reading: a command may answer before it has read all. One that fails early does not
        // read its input.
        scope.spawn(move || stdin.write_all(input.as_bytes()).ok());
        child.wait_with_output().unwrap()
    });
    Run {
        code: done.status.code().unwrap_or(-1),
        out: String::from_utf8(done.stdout).unwrap(),
        err: String::from_utf8(done.stderr).unwrap(),
    }
}

/// `borgctl` without a cell.
pub(crate) fn borgctl() -> Command {
    // Whatever hangs is a failure, not a test run without an end.
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "60", BORGCTL]);
    command.env_remove("BORG_CELL_DIR").env("HOME", "/nonexistent").env_remove("XDG_STATE_HOME");
    command
}

/// A cell on this computer.
#[derive(Debug)]
pub(crate) struct Cell {
    /// Made for this cell alone; the cell is in `cell` below it.
    temporary: PathBuf,
    pub(crate) name: String,
    keeper: Child,
}

impl Cell {
    /// Starts a cell.
    pub(crate) fn up(masters: u32, borglets: u32) -> Self {
        static CELLS: AtomicU32 = AtomicU32::new(0);
        let number = CELLS.fetch_add(1, Ordering::Relaxed);
        let name = format!("e2e-{}-{number}", std::process::id());
        let temporary =
            tempfile::Builder::new().prefix(&format!("borg-{name}-")).tempdir().unwrap();
        let temporary = temporary.keep();
        let keeper = "read _; \"$0\" cell down --dir \"$1/cell\"; rm -rf \"$1\"";
        let keeper = Command::new("sh")
            .args(["-c", keeper, BORGCTL])
            .arg(&temporary)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let cell = Self { temporary, name, keeper };
        let up = [
            "cell",
            "up",
            "--masters",
            &masters.to_string(),
            "--borglets",
            &borglets.to_string(),
            "--name",
            &cell.name,
        ]
        .map(str::to_owned);
        cell.borgctl(&up).ok();
        cell
    }

    /// The cell that most tests use: three masters, two machines.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Cell> = OnceLock::new();
        SHARED.get_or_init(|| Self::up(3, 2))
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.temporary.join("cell")
    }

    pub(crate) fn layout(&self) -> Layout {
        Layout::new(&self.dir().canonicalize().unwrap())
    }

    /// What is remembered of it.
    pub(crate) fn record(&self) -> LocalCell {
        LocalCell::load(&self.dir()).unwrap()
    }

    /// Runs `borgctl` against this cell.
    pub(crate) fn borgctl(&self, args: &[impl AsRef<str>]) -> Run {
        self.borgctl_with(args, "")
    }

    /// The same with an input.
    pub(crate) fn borgctl_with(&self, args: &[impl AsRef<str>], input: &str) -> Run {
        let args = args.iter().map(AsRef::as_ref);
        run(borgctl().env("BORG_CELL_DIR", self.dir()).args(args), input)
    }

    /// The answer of a command as JSON.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let out = self.borgctl(&[&["-o", "json"], args].concat()).ok();
        serde_json::from_str(&out).unwrap()
    }

    /// `status JOB` as JSON.
    #[track_caller]
    pub(crate) fn status(&self, job: &str) -> Value {
        self.json(&["status", job])
    }

    /// Submits a job as `admin`; returns its name.
    #[track_caller]
    pub(crate) fn submit(&self, job: &Value) -> String {
        self.borgctl_with(&["submit", "-"], &job.to_string()).ok().trim().to_owned()
    }

    /// Looks at a job until `done` says so.
    #[track_caller]
    pub(crate) fn until(&self, job: &str, done: impl Fn(&Value) -> bool) -> Value {
        let began = now();
        loop {
            let status = self.status(job);
            if done(&status) {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "{job} is still {status:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a job has so many processes, and returns their ids by task.
    #[track_caller]
    pub(crate) fn until_up(&self, job: &str, tasks: u64) -> Vec<u64> {
        let status = self.until(job, |status| status["up"] == tasks);
        pids(&status)
    }

    /// Credentials of somebody in this cell: `user ann`, `borglet m-9`, ...
    pub(crate) fn credentials(&self, role: &str, name: &str) -> Credentials {
        Credentials::load(&self.credentials_dir(role, name)).unwrap()
    }

    /// The same as a directory.
    pub(crate) fn credentials_dir(&self, role: &str, name: &str) -> PathBuf {
        let dir = self.temporary.join(format!("{role}-{name}"));
        issue(&self.layout().ca(), role, name, &dir);
        dir
    }

    /// A client of one master, by its place in the list.
    pub(crate) fn client(&self, master: usize, credentials: &Credentials) -> Client {
        borgmaster_client(self.channel(master, credentials))
    }

    /// A client of a master as `admin`.
    pub(crate) fn admin(&self, master: usize) -> Client {
        self.client(master, &Credentials::load(&self.layout().user("admin")).unwrap())
    }

    /// What the library of `borgctl` has to know to be its admin.
    pub(crate) fn target(&self) -> Target {
        Target {
            masters: self.record().masters.iter().map(|m| m.address.clone()).collect(),
            credentials: Credentials::load(&self.layout().user("admin")).unwrap(),
            user: "admin".parse().unwrap(),
            timeout: PATIENCE,
            at: None,
            consistent: false,
            request_id: None,
        }
    }

    /// A connection to one master.
    pub(crate) fn channel(&self, master: usize, credentials: &Credentials) -> Channel {
        let name = any_master_name(&self.name.parse().unwrap());
        let address = &self.record().masters[master].address;
        channel(address, credentials, &name, Timeouts::default()).unwrap()
    }

    /// A connection to a borglet.
    pub(crate) fn borglet_channel(&self, borglet: usize, credentials: &Credentials) -> Channel {
        let daemon = &self.record().borglets[borglet];
        let identity: Identity =
            format!("borg://{}/borglet/{}", self.name, daemon.name).parse().unwrap();
        let name = identity.server_name().unwrap();
        channel(&daemon.address, credentials, &name, Timeouts::default()).unwrap()
    }

    /// Place in the list of the master that leads.
    pub(crate) fn leader(&self) -> usize {
        let began = now();
        loop {
            let masters = self.json(&["masters"]);
            let masters = masters.as_array().unwrap();
            let leads = |m: &Value| m["leader"] == true && m["reachable"] == true;
            if let Some(leader) = masters.iter().position(leads) {
                return leader;
            }
            assert!(began.elapsed() < PATIENCE, "nobody leads: {masters:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills processes of the cell with signal 9.
    pub(crate) fn kill(&self, victims: &[Killed]) {
        for victim in victims {
            victim.process.signal(Signal::SIGKILL).unwrap();
        }
        let began = now();
        while victims.iter().any(|victim| victim.process.is_running()) {
            assert!(began.elapsed() < PATIENCE, "signal 9 was not enough");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts killed processes again with the arguments that they had, and writes their new ids
    /// down where `cell down` looks for them.
    pub(crate) fn start_again(&self, victims: &[Killed]) {
        for victim in victims {
            let log = File::options().append(true).open(self.layout().log(&victim.name)).unwrap();
            let mut command = Command::new(BORGCTL);
            command.arg0(&victim.args[0]).args(&victim.args[1..]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            let mut child = command.current_dir("/").process_group(0).spawn().unwrap();
            let process = Process::find(child.id());
            std::thread::spawn(move || child.wait());
            let mut record = self.record();
            let daemons = record.masters.iter_mut().chain(&mut record.borglets);
            for daemon in daemons.filter(|daemon| daemon.name == victim.name) {
                daemon.process = process;
            }
            fs::write(self.layout().record(), serde_json::to_vec(&record).unwrap()).unwrap();
        }
    }

    /// Takes the cell down now, and expects that to go well.
    pub(crate) fn down(&self) {
        self.borgctl(&["cell", "down"]).ok();
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        self.keeper.wait().unwrap();
    }
}

/// A client of one master.
pub(crate) type Client = BorgmasterClient<Channel>;

/// A daemon to be killed and started again.
#[derive(Debug)]
pub(crate) struct Killed {
    pub(crate) name: String,
    pub(crate) process: Process,
    /// Its own name first.
    pub(crate) args: Vec<String>,
}

impl Killed {
    /// A daemon that runs now.
    pub(crate) fn of(daemon: &Daemon) -> Self {
        let process = daemon.process.unwrap();
        let line = fs::read_to_string(format!("/proc/{}/cmdline", process.pid)).unwrap();
        let args = line.split_terminator('\0').map(str::to_owned).collect();
        Self { name: daemon.name.clone(), process, args }
    }
}

/// Has `borgctl` issue a certificate.
pub(crate) fn issue(ca: &Path, role: &str, name: &str, dir: &Path) {
    run(borgctl().args(["cert", "issue", role, name, "--ca"]).arg(ca).arg("--dir").arg(dir), "")
        .ok();
}

/// A job of shell scripts.
pub(crate) fn job(name: &str, kind: &str, script: &str) -> Value {
    json!({
        "name": name, "kind": kind,
        "task": {
            "command": ["sh", "-c", script],
            "limit": { "cpu_milli": 50, "ram_bytes": 64 << 20 },
            "grace_ms": 500,
        },
    })
}

/// The same, ready for a call.
pub(crate) fn request(job: Value) -> pb::SubmitJobRequest {
    let spec: JobSpec = serde_json::from_value(job).unwrap();
    pb::SubmitJobRequest { spec: Some((&spec).into()), request_id: request_id(), planned: None }
}

/// Process ids of a job's tasks that have one.
pub(crate) fn pids(status: &Value) -> Vec<u64> {
    let tasks = status["task_list"].as_array().unwrap();
    tasks.iter().filter_map(|task| task["pid"].as_u64()).collect()
}

/// The note of a job's first task.
pub(crate) fn note(status: &Value) -> &str {
    status["task_list"][0]["note"].as_str().unwrap()
}

/// Waits for something outside of the cell.
#[track_caller]
pub(crate) fn within(what: &str, done: impl Fn() -> bool) {
    let began = now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes whose command line has a text in it.
pub(crate) fn processes_with(text: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) || pid == own {
            continue;
        }
        let mut line = Vec::new();
        if File::open(entry.path().join("cmdline"))
            .and_then(|mut f| f.read_to_end(&mut line))
            .is_err()
        {
            continue; // it has just ended
        }
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) {
            found.push(format!("{pid}: {line}"));
        }
    }
    found
}

/// Says why a test does nothing here; on a machine that has all it needs, that is a failure.
#[expect(clippy::print_stdout, reason = "`./ci test` shows lines that begin with `skip`")]
pub(crate) fn skipped(why: &str) {
    assert!(std::env::var_os("BORG_PRIVILEGED").is_none(), "{why}");
    println!("skipped: {why}");
}

/// Whether tests that need root and cgroups can run here; says so when not.
pub(crate) fn is_isolated(cell: &Cell) -> bool {
    let machines = cell.json(&["machines"]);
    let missing = &machines[0]["missing_isolation"];
    let none = missing.as_array().unwrap().is_empty();
    if !none {
        skipped(&format!("tasks are not isolated here: {missing}"));
    }
    none
}
