//! cgroups with one tree for all controllers.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{CPU_PERIOD_US, CgroupDriver, CgroupError, CgroupLayout, Limits, SHIMS, Usage};
use super::{files, quota_us, task_weight, weight};

/// The controllers we use.
const WANTED: [&str; 4] = ["cpu", "io", "memory", "pids"];
/// Weight of the group of all shims: they carry the tasks' output. Ten processors' worth; they use next
/// to nothing.
const SHIMS_WEIGHT: u64 = 5_000;

/// Held while it is found out how much memory all tasks together are to keep.
static KEPT: Mutex<()> = Mutex::new(());

/// Where the tree is mounted and what our group is called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct V2 {
    /// Our group's name at the top.
    pub name: String,
    /// Mount point of the tree.
    pub mount: PathBuf,
}

impl V2 {
    fn top(&self) -> PathBuf {
        self.mount.join(&self.name)
    }

    pub(super) fn group(&self, name: &str) -> PathBuf {
        self.top().join(name)
    }

    /// Below a root of threads a new group is of the type `domain invalid`.
    fn holds_processes(&self) -> Result<(), CgroupError> {
        let path = self.top().join("cgroup.type");
        let kind = files::text(&path)?;
        if kind.trim() == "domain" {
            return Ok(());
        }
        let why = format!("it is {}: the group above is a root of threads", kind.trim());
        let source = io::Error::new(io::ErrorKind::Unsupported, why);
        Err(CgroupError { action: "use", path, source })
    }

    fn put_limits(&self, name: &str, limits: &Limits) -> Result<(), CgroupError> {
        let group = self.group(name);
        self.set_cpu_share(name, limits.cpu_milli)?;
        self.set_cpu_cap(name, limits.cpu_cap_milli)?;
        let hard = if limits.soft { "max".to_owned() } else { limits.ram_bytes.to_string() };
        files::put_if_there(&group.join("memory.max"), hard)?;
        self.keep(name, if limits.soft { limits.ram_bytes } else { 0 })?;
        for file in ["io.weight", "io.bfq.weight"] {
            files::put_if_there(&group.join(file), limits.io_weight)?;
        }
        files::put_if_there(&group.join("memory.swap.max"), 0)?;
        files::put_if_there(&group.join("pids.max"), limits.pids_max)
    }

    /// Says how much of a task's memory stays with it when the machine runs short.
    ///
    /// The kernel keeps no more for the groups below than it keeps for ours: that has what they have together
    /// (Documentation/admin-guide/cgroup-v2.rst, "memory.low").
    fn keep(&self, name: &str, bytes: u64) -> Result<(), CgroupError> {
        let low = self.group(name).join("memory.low");
        // None where the controller is missing.
        if files::number(&low).unwrap_or(0) == bytes {
            return Ok(());
        }
        files::put_if_there(&low, bytes)?;
        let _one_at_a_time = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |name: &String| files::number(&self.group(name).join("memory.low")).unwrap_or(0);
        let all = self.list()?.iter().map(of).fold(0, u64::saturating_add);
        files::put_if_there(&self.top().join("memory.low"), all)
    }

    /// Whether tasks' groups have the controller.
    fn has(&self, controller: &str) -> bool {
        let passed_down = files::text(&self.top().join("cgroup.subtree_control"));
        passed_down.is_ok_and(|list| list.split_whitespace().any(|word| word == controller))
    }
}

/// Whether `group` may be asked to pass controllers down.
///
/// In a container the root of the tree is a group like any other, and while processes sit in it
/// the kernel refuses some controllers and takes others, which turns it into a root of threads
/// below which no task could start. The true root, which has no type, may hold processes.
fn may_pass_down(group: &Path) -> bool {
    !group.join("cgroup.type").exists() || files::pids(group).is_ok_and(|pids| pids.is_empty())
}

/// Asks `group` to pass each wanted controller down that it has and does not pass yet. One at a
/// time, since one refused controller would refuse all.
fn pass_down(group: &Path) {
    if !may_pass_down(group) {
        return; // shows in `missing`
    }
    let words = |file| files::text(&group.join(file)).unwrap_or_default();
    let (there, passed) = (words("cgroup.controllers"), words("cgroup.subtree_control"));
    let holds = |list: &str, wanted: &str| list.split_whitespace().any(|word| word == wanted);
    for wanted in WANTED {
        if holds(&there, wanted) && !holds(&passed, wanted) {
            // A refusal shows in `missing`.
            drop(files::put(&group.join("cgroup.subtree_control"), format!("+{wanted}")));
        }
    }
}

impl CgroupDriver for V2 {
    fn layout(&self) -> CgroupLayout {
        CgroupLayout::V2
    }

    fn prepare(&self) -> Result<(), CgroupError> {
        pass_down(&self.mount);
        files::make_dir(&self.top())?;
        if let Err(error) = self.holds_processes() {
            // Harmless where it stays: it is empty, and has no limits.
            drop(fs::remove_dir(self.top()));
            return Err(error);
        }
        pass_down(&self.top());
        if self.has("cpu") {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            let all = u64::try_from(processors).unwrap_or(1) * 1000;
            files::put_if_there(&self.top().join("cpu.weight"), weight(all))?;
        }
        files::make_dir(&self.group(SHIMS))?;
        files::put_if_there(&self.group(SHIMS).join("cpu.weight"), SHIMS_WEIGHT)
    }

    fn missing(&self) -> Vec<String> {
        let words = [
            ("cpu", "cpu limits are not enforced"),
            ("io", "reads and writes of disks are not measured"),
            ("memory", "memory limits are not enforced"),
            ("pids", "the number of processes is not limited"),
        ];
        let why = if may_pass_down(&self.mount) {
            String::new()
        } else {
            format!(" (kept back by processes in {} itself)", self.mount.display())
        };
        let absent = words.into_iter().filter(|(controller, _)| !self.has(controller));
        absent.map(|(controller, so)| format!("no {controller} controller{why}: {so}")).collect()
    }

    fn create(&self, name: &str, limits: &Limits) -> Result<(), CgroupError> {
        files::make_dir(&self.group(name))?;
        // The kernel then kills the whole task, never a part of it.
        files::put_if_there(&self.group(name).join("memory.oom.group"), 1)?;
        self.put_limits(name, limits)
    }

    /// A memory limit below what cannot be given back is refused, as v1 does it: here the kernel
    /// would take it and kill the task.
    fn set_limits(&self, name: &str, limits: &Limits) -> Result<(), CgroupError> {
        if !limits.soft && self.usage(name)?.working_set_bytes > limits.ram_bytes {
            let path = self.group(name).join("memory.max");
            let source = io::Error::from(io::ErrorKind::ResourceBusy);
            return Err(CgroupError { action: "lower", path, source });
        }
        self.put_limits(name, limits)
    }

    fn set_cpu_share(&self, name: &str, cpu_milli: u64) -> Result<(), CgroupError> {
        files::put_if_there(&self.group(name).join("cpu.weight"), task_weight(cpu_milli))
    }

    fn set_cpu_cap(&self, name: &str, cap_milli: Option<u64>) -> Result<(), CgroupError> {
        let max = cap_milli.map_or("max".to_owned(), |cap| quota_us(cap).to_string());
        let line = format!("{max} {CPU_PERIOD_US}");
        files::put_if_there(&self.group(name).join("cpu.max"), line)
    }

    fn cpu_us(&self, name: &str) -> Result<u64, CgroupError> {
        files::keyed(&self.group(name).join("cpu.stat"), "usage_usec")
    }

    fn birthplace(&self, name: &str) -> Result<Option<OwnedFd>, CgroupError> {
        let path = self.group(name);
        let dir =
            fs::File::open(&path).map_err(|source| CgroupError { action: "open", path, source })?;
        Ok(Some(dir.into()))
    }

    fn enter(&self, _name: &str) -> Result<(), CgroupError> {
        Ok(()) // born there
    }

    fn join(&self, name: &str, pid: i32) -> Result<(), CgroupError> {
        files::put(&self.group(name).join("cgroup.procs"), pid)
    }

    fn processes(&self, name: &str) -> Result<Vec<i32>, CgroupError> {
        files::pids(&self.group(name))
    }

    fn usage(&self, name: &str) -> Result<Usage, CgroupError> {
        let group = self.group(name);
        let cpu_ms = self.cpu_us(name)? / 1000;
        let (io_bytes, io_ops) = files::io_stat(&group.join("io.stat"))?;
        let threads = files::number(&group.join("pids.current")).unwrap_or(0);
        let threads = u32::try_from(threads).unwrap_or(u32::MAX);
        if !group.join("memory.current").exists() {
            return Ok(Usage { cpu_ms, io_bytes, io_ops, threads, ..Usage::default() });
        }
        let memory_bytes = files::number(&group.join("memory.current"))?;
        let idle = files::keyed(&group.join("memory.stat"), "inactive_file")?;
        Ok(Usage {
            cpu_ms,
            memory_bytes,
            working_set_bytes: memory_bytes.saturating_sub(idle),
            // Kernels before 5.19 keep no peak; then now is all that is known.
            memory_peak_bytes: files::number(&group.join("memory.peak")).unwrap_or(memory_bytes),
            io_bytes,
            io_ops,
            threads,
        })
    }

    fn totals(&self, name: &str) -> Result<(u64, u64), CgroupError> {
        let cpu_ms = self.cpu_us(name)? / 1000;
        // Kernels before 5.19 keep no peak; and there may be no such controller.
        let group = self.group(name);
        let peak = files::number(&group.join("memory.peak"))
            .or_else(|_| files::number(&group.join("memory.current")));
        Ok((cpu_ms, peak.unwrap_or(0)))
    }

    fn oom_kills(&self, name: &str) -> Result<u64, CgroupError> {
        let events = self.group(name).join("memory.events");
        if events.exists() { files::keyed(&events, "oom_kill") } else { Ok(0) }
    }

    fn oom_notice(&self, _name: &str) -> Result<Option<OwnedFd>, CgroupError> {
        Ok(None) // memory.oom.group
    }

    fn kill_all(&self, name: &str) -> Result<(), CgroupError> {
        files::kill_v2(&self.group(name))
    }

    fn remove(&self, name: &str) -> Result<(), CgroupError> {
        self.keep(name, 0)?;
        files::remove_dir(&self.group(name))
    }

    fn list(&self) -> Result<Vec<String>, CgroupError> {
        files::groups_below(&self.top())
    }

    fn retire(&self) -> Result<(), CgroupError> {
        files::remove_dir(&self.group(SHIMS))?;
        files::remove_dir(&self.top())
    }
}
