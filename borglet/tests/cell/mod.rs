//! A cell's CA, a borglet process, and a master that polls it, for tests.

use borg_proto::identity::Identity;
use borg_proto::poll::{
    AnswerStamp, Fence, PollAnswer, PollRequest, ReportVersion, Target, TargetDigest, TargetTask,
    TaskReport, TaskStatus,
};
use borg_proto::rpc::{self, BorgletClient, Credentials, Timeouts};
use borg_proto::spec::TaskSpec;
use borg_proto::wire::pb;
use borg_proto::{
    AppClass, IncarnationId, JobId, MachineName, Millis, Priority, Resources, TaskId,
};
use borglet::{ADDRESSES_FILE, Addresses};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// The CA of cell `lab`.
pub(crate) struct Cell {
    dir: TempDir,
    ca: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Cell {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = params.self_signed(&key).unwrap().pem();
        Self { dir: tempfile::tempdir().unwrap(), ca, issuer: Issuer::new(params, key) }
    }

    /// A directory of credentials for an identity.
    pub(crate) fn credentials(&self, identity: &str) -> PathBuf {
        let dir = self.dir.path().join(identity.replace(['/', ':'], "_"));
        let named: Identity = identity.parse().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(named.server_name().into_iter().collect::<Vec<_>>()).unwrap();
        params.subject_alt_names.push(SanType::URI(identity.try_into().unwrap()));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        fs::create_dir_all(&dir).unwrap();
        for (file, text) in [
            (rpc::CA_FILE, &self.ca),
            (rpc::CERT_FILE, &cert),
            (rpc::KEY_FILE, &key.serialize_pem()),
        ] {
            fs::write(dir.join(file), text).unwrap();
        }
        dir
    }
}

/// The borglet of machine `m1`, its own process. Everything is taken down at the end.
pub(crate) struct Daemon {
    home: TempDir,
    creds: PathBuf,
    more: Vec<String>,
    binary: PathBuf,
    child: Child,
    addresses: Addresses,
}

impl Daemon {
    pub(crate) fn start(cell: &Cell, more: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let creds = cell.credentials("borg://lab/borglet/m1");
        let more: Vec<String> = more.iter().map(ToString::to_string).collect();
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_borglet"));
        let (child, addresses) = launch(&binary, &home.path().join("d"), &creds, &more);
        Self { home, creds, more, binary, child, addresses }
    }

    pub(crate) fn dir(&self) -> &'static Path {
        Box::leak(self.home.path().join("d").into_boxed_path())
    }

    /// Processor time of the borglet so far, in hundredths of a second: fields 14 and 15 of
    /// proc_pid_stat(5).
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = text[text.rfind(')').unwrap() + 1..].split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Kill -9.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM)
    }

    pub(crate) fn signal(&mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
        self.child.wait().unwrap()
    }

    pub(crate) fn restart(&mut self) {
        (self.child, self.addresses) = launch(&self.binary, self.dir(), &self.creds, &self.more);
    }

    /// As an upgrade does it: from now on another file is the borglet, and the old one is gone.
    pub(crate) fn upgrade(&mut self) {
        let next = self.home.path().join(format!("borglet-{}", self.child.id()));
        fs::copy(&self.binary, &next).unwrap();
        if self.binary.starts_with(self.home.path()) {
            fs::remove_file(&self.binary).unwrap();
        }
        self.binary = next;
    }

    /// Another borglet on the same directory: whether it ended well, and what it said.
    pub(crate) fn second(&self, creds: &Path) -> (bool, String) {
        let done =
            command(&self.binary, self.dir(), creds, &[]).stderr(Stdio::piped()).output().unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
    }

    pub(crate) fn master(&self, cell: &Cell, role: &str) -> Master {
        self.master_named(cell, &format!("borg://lab/{role}"))
    }

    pub(crate) fn master_named(&self, cell: &Cell, identity: &str) -> Master {
        let credentials = Credentials::load(&cell.credentials(identity)).unwrap();
        let address = self.addresses.listen.to_string();
        let channel =
            rpc::channel(&address, &credentials, "m1.borglet.lab.borg", Timeouts::default())
                .unwrap();
        Master {
            client: rpc::borglet_client(channel.clone()),
            channel,
            machine: "m1".parse().unwrap(),
            lease: None,
            answered: None,
        }
    }

    /// The whole answer to a plain HTTP GET.
    pub(crate) async fn get(&self, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.addresses.metrics).await.unwrap();
        let ask = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        let dir = self.dir();
        let ended = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(borglet::destroy(dir))
        });
        let ended = ended.join().unwrap();
        assert!(ended.is_ok() || std::thread::panicking(), "{ended:?}");
    }
}

fn command(binary: &Path, dir: &Path, creds: &Path, more: &[String]) -> Command {
    let mut command = Command::new(binary);
    command
        .args(["--listen", "127.0.0.1:0", "--cpu-milli", "1500", "--dir"])
        .arg(dir)
        .arg("--creds")
        .arg(creds);
    command.args(more).stdin(Stdio::null());
    command
}

fn launch(binary: &Path, dir: &Path, creds: &Path, more: &[String]) -> (Child, Addresses) {
    let mut child = command(binary, dir, creds, more).spawn().unwrap();
    for _ in 0..200 {
        let text = fs::read(dir.join(ADDRESSES_FILE)).unwrap_or_default();
        match serde_json::from_slice::<Addresses>(&text) {
            Ok(addresses) if addresses.pid == child.id() => return (child, addresses),
            Ok(_) | Err(_) => {}
        }
        assert!(child.try_wait().unwrap().is_none(), "the borglet ended");
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the borglet does not come up");
}

/// Whoever polls machine `m1`.
pub(crate) struct Master {
    pub(crate) channel: Channel,
    client: BorgletClient<Channel>,
    pub(crate) machine: MachineName,
    /// What goes out with each poll.
    pub(crate) lease: Option<AnswerStamp>,
    /// Of the last answer.
    pub(crate) answered: Option<AnswerStamp>,
}

impl Master {
    /// An exchange that is answered at once.
    pub(crate) async fn poll(
        &mut self,
        fence: Fence,
        tasks: Option<&[&TargetTask]>,
    ) -> Result<PollAnswer, Status> {
        self.ask(fence, tasks, ReportVersion::default(), Millis(0)).await
    }

    /// An exchange that waits for news.
    pub(crate) async fn held(
        &mut self,
        fence: Fence,
        seen: ReportVersion,
    ) -> Result<PollAnswer, Status> {
        self.ask(fence, None, seen, Millis(15_000)).await
    }

    async fn ask(
        &mut self,
        fence: Fence,
        tasks: Option<&[&TargetTask]>,
        seen: ReportVersion,
        hold: Millis,
    ) -> Result<PollAnswer, Status> {
        let target = tasks.map(|tasks| {
            Arc::new(Target {
                tasks: tasks.iter().copied().cloned().collect(),
                ..Target::default()
            })
        });
        let (cell, machine) = ("lab".parse().unwrap(), self.machine.clone());
        let lease = self.lease;
        let (digest, sources) = (TargetDigest::default(), Vec::new());
        let request =
            PollRequest { cell, machine, fence, digest, target, seen, hold, lease, sources };
        let answer = self.client.poll(pb::PollRequest::from(&request)).await?;
        let answer = PollAnswer::try_from(answer.into_inner()).unwrap();
        self.answered = Some(answer.stamp());
        Ok(answer)
    }

    /// The tasks of the first report in which `done` holds.
    pub(crate) async fn until(
        &mut self,
        fence: Fence,
        done: impl Fn(&[TaskReport]) -> bool,
    ) -> Vec<TaskReport> {
        let mut seen = ReportVersion::default();
        let looking = async {
            loop {
                let answer = self.held(fence, seen).await.unwrap();
                if done(&answer.report.tasks) {
                    return answer.report.tasks;
                }
                seen = answer.version;
            }
        };
        tokio::time::timeout(PATIENCE, looking).await.expect("it never comes")
    }

    pub(crate) async fn open_log(
        &mut self,
        task: &TargetTask,
        stream: pb::LogStream,
        follow: bool,
        tail_bytes: u64,
    ) -> Result<Streaming<pb::LogChunk>, Status> {
        let name = task.name.to_string();
        let id = Some((&task.id).into());
        let request = pb::ReadTaskLogRequest {
            id,
            stream: stream.into(),
            follow,
            tail_bytes,
            name,
            ..pb::ReadTaskLogRequest::default()
        };
        Ok(self.client.read_task_log(request).await?.into_inner())
    }

    /// The whole standard output.
    pub(crate) async fn log(&mut self, task: &TargetTask, follow: bool) -> Result<String, Status> {
        let stream = self.open_log(task, pb::LogStream::Stdout, follow, 0).await?;
        Ok(whole(stream).await)
    }

    /// The last bytes of standard output.
    pub(crate) async fn tail(&mut self, task: &TargetTask, bytes: u64) -> Result<String, Status> {
        let stream = self.open_log(task, pb::LogStream::Stdout, false, bytes).await?;
        Ok(whole(stream).await)
    }
}

async fn whole(mut stream: Streaming<pb::LogChunk>) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        while let Some(chunk) = stream.message().await.unwrap() {
            bytes.extend(chunk.data);
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the log does not end");
    String::from_utf8(bytes).unwrap()
}

pub(crate) fn fence(session: u64, generation: u64) -> Fence {
    Fence { epoch: 1, term: 1, session, generation }
}

pub(crate) fn pid(task: &TaskReport) -> Option<u32> {
    match task.status {
        TaskStatus::Up { pid, .. } => Some(pid),
        TaskStatus::Fetching { .. }
        | TaskStatus::Starting
        | TaskStatus::BackOff { .. }
        | TaskStatus::Stopping
        | TaskStatus::Ended { .. } => None,
    }
}

/// A batch task of one that runs a shell script.
pub(crate) fn shell(job: u64, index: u32, script: &str) -> TargetTask {
    let spec = TaskSpec {
        command: ["/bin/sh", "-c", script].map(String::from).to_vec(),
        env: BTreeMap::new(),
        limit: Resources { cpu_milli: 100, ram_bytes: 64 << 20, ..Resources::default() },
        ports: Vec::new(),
        constraints: Vec::new(),
        spread: Vec::new(),
        volumes: Vec::new(),
        grace_ms: Millis(1_000),
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
        name: format!("ann/job/{index}").parse().unwrap(),
        tasks: index + 1,
        spec: Arc::new(spec),
        ports: Vec::new(),
        priority: Priority::new(100).unwrap(),
        appclass: AppClass::Batch,
        restart: false,
        exclusive: false,
        shared: None,
        packages: Vec::new(),
    }
}

pub(crate) fn change(task: &mut TargetTask, how: impl FnOnce(&mut TaskSpec)) {
    how(Arc::make_mut(&mut task.spec));
}

/// Waits until something holds.
pub(crate) async fn within(time: Duration, holds: impl Fn() -> bool) {
    let looking = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(time, looking).await.expect("it never holds");
}
