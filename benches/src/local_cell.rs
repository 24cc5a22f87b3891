//! A real cell on this computer: five masters and some borglets as processes, over loopback.
//!
//! `borgctl` starts and ends it (named by `BORGCTL`, else the one beside this program); its masters
//! are asked over gRPC as any client asks them. Masters can be killed and started again with the
//! arguments that they ran with.
//!
//! Invariant: signals go only to processes that `cell.json` records, recognised by id and start
//! time, and `cell.json` always names the processes that run, so that `borgctl cell down` finds them.

use crate::figures::progress;
use crate::{Error, clock};
use borg_proto::identity::{ADMIN, any_master_name};
use borg_proto::rpc::{BorgmasterClient, Credentials, Timeouts, borgmaster_client, channel};
use borg_proto::wire::pb;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;
use tonic::transport::Channel;

/// What `borgctl cell up` calls a cell.
const NAME: &str = "local";
/// Masters of the cell.
pub const MASTERS: usize = 5;
/// Machines of the cell.
pub const BORGLETS: usize = 3;
/// How long masters may take to agree after one was started: ours, for a loaded computer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause after a kill: its sockets are gone.
const AFTER_A_KILL: Duration = Duration::from_millis(500);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A client of one master.
pub type Client = BorgmasterClient<Channel>;

/// A local cell; taken down when dropped, if not before.
#[derive(Debug)]
pub struct LocalCell {
    dir: TempDir,
    borgctl: PathBuf,
    record: Value,
    clients: Vec<Client>,
    credentials: Option<Credentials>,
    simulated: OnceLock<String>,
    is_up: bool,
}

impl LocalCell {
    /// Starts a cell and waits until every machine is up. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// When `borgctl` is not there or the cell does not start.
    pub fn up() -> Result<Self, Error> {
        Self::of(BORGLETS)
    }

    /// The same with so many borglets.
    ///
    /// # Errors
    /// As [`LocalCell::up`].
    pub fn of(borglets: usize) -> Result<Self, Error> {
        Self::isolated(borglets, "auto")
    }

    /// The same with tasks isolated as `borgctl cell up --isolation` takes it.
    ///
    /// # Errors
    /// As [`LocalCell::up`].
    pub fn isolated(borglets: usize, isolation: &str) -> Result<Self, Error> {
        let borgctl = match std::env::var_os("BORGCTL") {
            Some(path) => PathBuf::from(path),
            None => std::env::current_exe()?.with_file_name("borgctl"),
        };
        let dir = tempfile::Builder::new().prefix("borg-figures-").tempdir()?;
        let (masters, borglets) = (MASTERS.to_string(), borglets.to_string());
        let up = ["up", "--masters", &masters, "--borglets", &borglets, "--isolation", isolation];
        run(&borgctl, dir.path(), &up)?;
        let mut cell = Self {
            dir,
            borgctl,
            record: Value::Null,
            clients: Vec::new(),
            credentials: None,
            simulated: OnceLock::new(),
            is_up: true,
        };
        cell.record = read_json(&cell.file("cell.json"))?;
        let client: Value = read_json(&cell.file("client.json"))?;
        let creds = client["creds"].as_str().ok_or("client.json names no credentials")?;
        let credentials = Credentials::load(&cell.dir.path().join(creds))?;
        cell.credentials = Some(credentials);
        for master in 0..MASTERS {
            let client = cell.connect(master)?;
            cell.clients.push(client);
        }
        Ok(cell)
    }

    /// A client with a connection of its own to a master.
    ///
    /// # Errors
    /// When its address is none.
    pub fn connect(&self, master: usize) -> Result<Client, Error> {
        let credentials = self.credentials.as_ref().ok_or("the cell is not up yet")?;
        let name = any_master_name(&credentials.identity.cell);
        let address = self.text(master % MASTERS, "address")?;
        let channel = channel(&address, credentials, &name, Timeouts::default())?;
        Ok(borgmaster_client(channel))
    }

    /// The program that started it.
    #[must_use]
    pub fn borgctl(&self) -> &Path {
        &self.borgctl
    }

    /// Where the cell's CA is.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.file("ca")
    }

    /// Where a master shows its metrics.
    ///
    /// # Errors
    /// When `cell.json` does not say.
    pub fn metrics(&self, master: usize) -> Result<String, Error> {
        self.text(master, "metrics")
    }

    /// Where a master answers DNS.
    ///
    /// # Errors
    /// When `cell.json` does not say.
    pub fn dns(&self, master: usize) -> Result<String, Error> {
        self.text(master, "dns")
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        NAME
    }

    /// The process of a master.
    ///
    /// # Errors
    /// When `cell.json` records none.
    pub fn pid(&self, master: usize) -> Result<i32, Error> {
        let pid = self.record["masters"][master]["process"]["pid"].as_u64();
        Ok(i32::try_from(pid.ok_or("cell.json records no process")?)?)
    }

    /// The process of a borglet.
    ///
    /// # Errors
    /// When `cell.json` records none.
    pub fn borglet_pid(&self, number: usize) -> Result<i32, Error> {
        let pid = self.record["borglets"][number]["process"]["pid"].as_u64();
        Ok(i32::try_from(pid.ok_or("cell.json records no process")?)?)
    }

    /// The first of the simulated machines, with the address that all of them have.
    ///
    /// # Errors
    /// When none was added.
    pub fn first_machine(&self) -> Result<(String, String), Error> {
        let address = self.simulated.get().ok_or("no simulated machine was added")?;
        Ok((crate::machines::name(0), address.clone()))
    }

    /// Remembers where the simulated machines listen.
    pub fn machines_are_at(&self, address: &str) {
        // The first address stays: machines are added once.
        drop(self.simulated.set(address.to_owned()));
    }

    /// Takes it down: no process, mount or cgroup of it stays.
    ///
    /// # Errors
    /// When something stays.
    pub fn down(mut self) -> Result<(), Error> {
        self.is_up = false;
        run(&self.borgctl, self.dir.path(), &["down"])
    }

    /// A client of the master with this place in the list.
    #[must_use]
    pub fn client(&self, master: usize) -> Client {
        self.clients[master % MASTERS].clone()
    }

    /// The user that the clients are.
    #[must_use]
    pub fn user(&self) -> &'static str {
        ADMIN
    }

    /// One of its machines, as it was added.
    ///
    /// # Errors
    /// When `cell.json` does not name it.
    pub fn machine(&self, number: usize) -> Result<(String, String), Error> {
        let borglet = &self.record["borglets"][number];
        let text = |key: &str| borglet[key].as_str().map(str::to_owned);
        text("name").zip(text("address")).ok_or_else(|| "cell.json names no such machine".into())
    }

    /// Waits until all masters answer, agree on a leader and have applied what it has; gives the
    /// leader's place in the list.
    ///
    /// # Errors
    /// When that takes longer than a minute.
    pub async fn settled(&self) -> Result<usize, Error> {
        let began = clock::now();
        loop {
            let seen = match self.masters().await {
                Ok(masters) => masters,
                Err(_) if began.elapsed() < PATIENCE => Vec::new(),
                Err(status) => return Err(status.into()),
            };
            if let Some(leader) = agreed_leader(&seen) {
                return Ok(leader);
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("the masters do not agree: {seen:?}").into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn masters(&self) -> Result<Vec<pb::Master>, tonic::Status> {
        let mut last = tonic::Status::unavailable("no master was asked");
        for client in &self.clients {
            match client.clone().list_masters(pb::ListMastersRequest {}).await {
                Ok(answer) => return Ok(answer.into_inner().masters),
                Err(status) => last = status,
            }
        }
        Err(last)
    }

    /// Prepares the death of a master: finds out how to start it again.
    ///
    /// # Errors
    /// When it is not the process that `cell.json` records.
    pub fn arguments(&self, master: usize) -> Result<Doomed, Error> {
        let process = &self.record["masters"][master]["process"];
        let number = |key: &str| process[key].as_u64().ok_or("cell.json records no process");
        let pid = i32::try_from(number("pid")?)?;
        if start_ticks(pid)? != number("start_ticks")? {
            return Err(format!("process {pid} is not the master that was started").into());
        }
        let line = fs::read(format!("/proc/{pid}/cmdline"))?;
        let args = line.split(|byte| *byte == 0).map(|arg| OsStr::from_bytes(arg).to_owned());
        let mut args: Vec<OsString> = args.collect();
        args.pop(); // behind the last zero
        Ok(Doomed { master, pid, args })
    }

    /// Starts all masters again, one after another, with these arguments besides.
    ///
    /// # Errors
    /// When one does not come back.
    pub async fn start_all_with(&mut self, more: &[&str]) -> Result<(), Error> {
        for master in 0..MASTERS {
            self.settled().await?;
            let mut doomed = self.arguments(master)?;
            doomed.kill()?;
            doomed.args.extend(more.iter().map(OsString::from));
            tokio::time::sleep(AFTER_A_KILL).await;
            self.start_again(doomed)?;
        }
        self.settled().await?;
        Ok(())
    }

    /// Takes the log of a killed master away.
    ///
    /// # Errors
    /// When the directory is not there.
    pub fn forget_log(&self, master: usize) -> Result<(), Error> {
        let log = self.file("data").join(self.text(master, "name")?).join("log");
        fs::remove_dir_all(&log).map_err(|error| format!("{}: {error}", log.display()).into())
    }

    /// Starts a killed master again, with the same arguments on the same directory.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn start_again(&mut self, dead: Doomed) -> Result<(), Error> {
        let (name, args) = dead.args.split_first().ok_or("a process without a name")?;
        let path = self.file("log").join(self.text(dead.master, "name")?).with_extension("log");
        let log = OpenOptions::new().append(true).open(path)?;
        let mut child = Command::new(&self.borgctl)
            .arg0(name)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .current_dir("/")
            .spawn()?;
        let pid = child.id();
        let process = json!({"pid": pid, "start_ticks": start_ticks(i32::try_from(pid)?)?});
        // Reaped when it ends: it is our child, and `borgctl` waits until it is gone.
        std::thread::spawn(move || child.wait());
        self.record["masters"][dead.master]["process"] = process;
        let partial = self.file("cell.json.new");
        fs::write(&partial, serde_json::to_vec_pretty(&self.record)?)?;
        fs::rename(partial, self.file("cell.json"))?;
        Ok(())
    }

    /// The directory of a daemon's own, by its name.
    #[must_use]
    pub fn data(&self, daemon: &str) -> PathBuf {
        self.file("data").join(daemon)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, master: usize, key: &str) -> Result<String, Error> {
        let text = self.record["masters"][master][key].as_str();
        text.map(str::to_owned).ok_or_else(|| format!("cell.json has no {key} of a master").into())
    }
}

impl Drop for LocalCell {
    fn drop(&mut self) {
        if self.is_up
            && let Err(error) = run(&self.borgctl, self.dir.path(), &["down"])
        {
            progress(&format!("the cell could not be taken down: {error}"));
        }
    }
}

/// A master whose end is prepared.
#[derive(Debug)]
pub struct Doomed {
    master: usize,
    pid: i32,
    args: Vec<OsString>,
}

impl Doomed {
    /// Ends it as a crash would.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn kill(&self) -> Result<(), Error> {
        Ok(kill(Pid::from_raw(self.pid), Signal::SIGKILL)?)
    }
}

fn agreed_leader(masters: &[pb::Master]) -> Option<usize> {
    let leader = masters.iter().position(|master| master.leader && master.reachable)?;
    let has_all = |master: &pb::Master| {
        let (own, last) = (master.applied_index, masters[leader].applied_index);
        master.reachable && master.term == masters[leader].term && own >= last
    };
    (masters.len() == MASTERS && masters.iter().all(has_all)).then_some(leader)
}

/// Field 22 of `/proc/PID/stat`: when it started, in clock ticks since boot.
fn start_ticks(pid: i32) -> Result<u64, Error> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may contain anything; the fields after it are plain.
    let (_, rest) = text.rsplit_once(") ").ok_or("/proc/PID/stat is not as documented")?;
    Ok(rest.split_ascii_whitespace().nth(19).ok_or("/proc/PID/stat is too short")?.parse()?)
}

fn read_json(path: &Path) -> Result<Value, Error> {
    let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

fn run(borgctl: &Path, dir: &Path, args: &[&str]) -> Result<(), Error> {
    let output = Command::new(borgctl)
        .args(["cell", args[0], "--dir"])
        .arg(dir)
        .args(&args[1..])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", borgctl.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("borgctl cell {}: {}: {said}", args[0], output.status).into())
}
