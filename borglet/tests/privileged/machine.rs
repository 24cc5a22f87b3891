//! A machine for one test: an executor with a directory and cgroups of its own, which must be
//! empty at the end.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use borglet::cgroup::CgroupLayout;
use borglet::container::{ContainerId, ContainerSpec, ExitRecord, Outcome, Started};
use borglet::executor::{Executor, ExecutorConfig};
use borglet::isolation::IsolationWanted;
use borglet::logs::Stream;
use tempfile::TempDir;

/// Long enough for a busy machine, short enough to fail in.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

static NEXT: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Machine {
    pub(crate) executor: Executor,
    pub(crate) config: ExecutorConfig,
    runtime: tokio::runtime::Runtime,
    _dir: TempDir,
}

/// Says why a test cannot run here, or fails it where it must.
pub(crate) fn skip(why: &str) {
    assert!(std::env::var_os("BORG_PRIVILEGED").is_none(), "may not skip: {why}");
    eprintln!("skipped: {why}");
}

impl Machine {
    /// Full isolation, or `None` with the reason printed.
    pub(crate) fn full() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            skip("not root");
            return None;
        }
        let machine = Self::with(IsolationWanted::FULL);
        let isolation = machine.executor.isolation();
        if isolation.cgroups == CgroupLayout::None || !isolation.namespaces {
            skip(&isolation.missing.join("; "));
            return None;
        }
        Some(machine)
    }

    pub(crate) fn with(isolation: IsolationWanted) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::at(dir, PathBuf::from(env!("CARGO_BIN_EXE_borglet")), isolation)
    }

    /// As [`Self::full`], hiding the directory around its own.
    pub(crate) fn hiding() -> Option<Self> {
        let full = Self::full()?;
        let Some(dir) = visible_dir() else {
            full.close();
            return None;
        };
        let mut config = full.config.clone();
        full.close();
        config.dir = dir.path().join("machine");
        config.hidden = vec![dir.path().to_owned()];
        let executor = Executor::open(config.clone()).unwrap();
        Some(Self::of(executor, config, dir))
    }

    pub(crate) fn at(dir: TempDir, shim: PathBuf, isolation: IsolationWanted) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("borg-test-{}-{number}", std::process::id());
        let mut config = ExecutorConfig::new(dir.path().join("machine"), name);
        config.shim = shim;
        config.isolation = isolation;
        let executor = Executor::open(config.clone()).unwrap();
        Self::of(executor, config, dir)
    }

    /// A machine whose executor is open already.
    pub(crate) fn of(executor: Executor, config: ExecutorConfig, dir: TempDir) -> Self {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        Self { executor, config, runtime, _dir: dir }
    }

    /// The executor ends and another takes over, which `adopts`; what runs goes on.
    pub(crate) fn replaced(mut self, adopts: impl FnOnce(&Executor)) -> Self {
        // Of one and the same directory there is one executor at a time.
        let elsewhere = tempfile::tempdir().unwrap();
        let other = ExecutorConfig { dir: elsewhere.path().to_owned(), ..self.config.clone() };
        self.executor = Executor::open(other).unwrap();
        self.executor = Executor::open(self.config.clone()).unwrap();
        adopts(&self.executor);
        self
    }

    pub(crate) fn start(&self, spec: ContainerSpec) -> Started {
        self.executor.start(spec).unwrap()
    }

    pub(crate) fn wait(&self, id: &ContainerId) -> ExitRecord {
        let ended = async { tokio::time::timeout(PATIENCE, self.executor.wait(id)).await };
        self.runtime.block_on(ended).expect("the container did not end").unwrap()
    }

    /// Runs a shell script to its end: its record and its output.
    pub(crate) fn run(&self, spec: ContainerSpec) -> (ExitRecord, String) {
        let id = spec.id.clone();
        self.start(spec);
        let record = self.wait(&id);
        (record, self.stdout(&id))
    }

    pub(crate) fn stdout(&self, id: &ContainerId) -> String {
        let chunk = self.executor.read_log(id, Stream::Stdout, 0, 1 << 20).unwrap();
        String::from_utf8(chunk.data).unwrap()
    }

    /// Waits until the container has said `word`.
    pub(crate) fn until_said(&self, id: &ContainerId, word: &str) {
        assert!(within(PATIENCE, || self.stdout(id).contains(word)), "never said {word}");
    }

    /// Cleans up what has ended and checks that nothing is left of it.
    pub(crate) fn close(self) {
        for id in self.executor.ids() {
            self.executor.cleanup(&id).unwrap();
            self.executor.remove_logs(&id).unwrap();
        }
        assert_eq!(self.groups(), Vec::<PathBuf>::new());
        let tasks = self.config.dir.join("tasks");
        assert_eq!(std::fs::read_dir(tasks).unwrap().count(), 0, "directories left");
        self.executor.retire().unwrap();
    }

    /// Directories of tasks' cgroups of this machine, in every hierarchy.
    pub(crate) fn groups(&self) -> Vec<PathBuf> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let cgroup_mounts = mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let at = fields.next()?;
            fields.next()?.starts_with("cgroup").then(|| Path::new(at))
        });
        let ours = cgroup_mounts.map(|mount| mount.join(&self.config.cgroup_name));
        let below = ours.filter_map(|group| std::fs::read_dir(group).ok()).flatten().flatten();
        let dirs = below.filter(|entry| entry.path().is_dir()).map(|entry| entry.path());
        dirs.filter(|path| !path.ends_with("_shims")).collect()
    }
}

impl Drop for Machine {
    /// A failed test must not leave its tasks running.
    fn drop(&mut self) {
        for id in self.executor.ids() {
            if self.executor.kill(&id).is_ok() && std::thread::panicking() {
                within(Duration::from_secs(5), || self.executor.cleanup(&id).is_ok());
            }
        }
        if std::thread::panicking() {
            drop(self.executor.retire());
        }
    }
}

/// A directory that tasks see, unlike those below /tmp; none where the root is read-only, as in
/// the guest of `user_mode_linux`.
pub(crate) fn visible_dir() -> Option<TempDir> {
    tempfile::tempdir_in("/var").inspect_err(|error| eprintln!("skipped: /var: {error}")).ok()
}

pub(crate) fn id(name: &str) -> ContainerId {
    name.parse().unwrap()
}

/// A container that runs `script` in a shell.
pub(crate) fn shell(name: &str, script: &str) -> ContainerSpec {
    ContainerSpec::new(id(name), vec!["/bin/sh".into(), "-c".into(), script.into()])
}

pub(crate) fn exited(code: i32) -> Outcome {
    Outcome::Exited { code }
}

/// Asks again and again until `happened` or the time is over.
pub(crate) fn within(limit: Duration, mut happened: impl FnMut() -> bool) -> bool {
    for _ in 0..limit.as_millis() / 10 {
        if happened() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    happened()
}

/// Pids of all processes of the machine that have `word` among their arguments.
pub(crate) fn processes_with(word: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|arg| arg == word.as_bytes())
    })
    .collect()
}
