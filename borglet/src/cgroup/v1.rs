//! cgroups with one hierarchy per controller, with or without a v2 tree beside them.
//!
//! Limits and figures come from the controllers; tracking and killing from the v2 tree where there
//! is one, since it is born into and killed atomically, else from the controllers' lists.
//! The cpuset hierarchy is not joined: it would have to be filled in first and limits nothing here.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::{Deserialize, Serialize};

use super::{CPU_PERIOD_US, CgroupDriver, CgroupError, CgroupLayout, Limits, SHIMS, Usage};
use super::{USUAL_IO_WEIGHT, files, quota_us, shares};

/// Where each v1 hierarchy is mounted, as far as it is, and what our group is called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct V1 {
    /// Our group's name at the top of each.
    pub name: String,
    /// Controller `cpu`.
    pub cpu: Option<PathBuf>,
    /// Controller `cpuacct`, often at the same place as `cpu`.
    pub cpuacct: Option<PathBuf>,
    /// Controller `memory`.
    pub memory: Option<PathBuf>,
    /// Controller `pids`.
    pub pids: Option<PathBuf>,
    /// Controller `blkio`; shims of older versions know none.
    #[serde(default)]
    pub blkio: Option<PathBuf>,
    /// The v2 tree of the mixed layout.
    pub unified: Option<PathBuf>,
}

impl V1 {
    fn group(&self, mount: &Path, name: &str) -> PathBuf {
        mount.join(&self.name).join(name)
    }

    /// Each v1 hierarchy in use, once. cpuacct is used only where no v2 tree counts the time.
    fn controllers(&self) -> Vec<&PathBuf> {
        let cpuacct = self.cpuacct.as_ref().filter(|_| self.unified.is_none());
        let mut mounts: Vec<&PathBuf> = [
            self.cpu.as_ref(),
            cpuacct,
            self.blkio.as_ref(),
            self.memory.as_ref(),
            self.pids.as_ref(),
        ]
        .into_iter()
        .flatten()
        .collect();
        mounts.dedup();
        mounts
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &PathBuf> {
        self.controllers().into_iter().chain(&self.unified)
    }

    /// The hierarchy whose list of processes is the truth.
    fn tracking(&self) -> Option<&PathBuf> {
        self.unified.as_ref().or_else(|| self.controllers().pop())
    }

    /// Writes what a group has not got when it is made.
    fn put_first_limits(&self, name: &str, limits: &Limits) -> Result<(), CgroupError> {
        self.set_cpu_share(name, limits.cpu_milli)?;
        if limits.cpu_cap_milli.is_some() {
            self.set_cpu_cap(name, limits.cpu_cap_milli)?;
        }
        if let Some(mount) = &self.memory {
            let group = self.group(mount, name);
            if limits.soft {
                let soft = group.join("memory.soft_limit_in_bytes");
                files::put_if_there(&soft, limits.ram_bytes)?;
            } else {
                files::put(&group.join("memory.limit_in_bytes"), limits.ram_bytes)?;
                files::put_if_there(&group.join("memory.memsw.limit_in_bytes"), limits.ram_bytes)?;
            }
        }
        if limits.io_weight != USUAL_IO_WEIGHT {
            self.put_io_weight(name, limits.io_weight)?;
        }
        self.put_pids_max(name, limits.pids_max)
    }

    fn put_io_weight(&self, name: &str, weight: u16) -> Result<(), CgroupError> {
        let Some(mount) = &self.blkio else { return Ok(()) };
        for file in ["blkio.weight", "blkio.bfq.weight"] {
            files::put_if_there(&self.group(mount, name).join(file), weight)?;
        }
        Ok(())
    }

    fn put_pids_max(&self, name: &str, most: u32) -> Result<(), CgroupError> {
        let Some(mount) = &self.pids else { return Ok(()) };
        files::put(&self.group(mount, name).join("pids.max"), most)
    }

    fn put_memory_limits(&self, group: &Path, limits: &Limits) -> Result<(), CgroupError> {
        // Memory with swap may never be limited below memory alone: lift it first.
        files::put_if_there(&group.join("memory.memsw.limit_in_bytes"), -1)?;
        let limit = i128::from(limits.ram_bytes);
        let (hard, soft) = if limits.soft { (-1, limit) } else { (limit, -1) };
        files::put(&group.join("memory.limit_in_bytes"), hard)?;
        files::put_if_there(&group.join("memory.soft_limit_in_bytes"), soft)?;
        files::put_if_there(&group.join("memory.memsw.limit_in_bytes"), hard)
    }
}

impl CgroupDriver for V1 {
    fn layout(&self) -> CgroupLayout {
        if self.unified.is_some() { CgroupLayout::Mixed } else { CgroupLayout::V1 }
    }

    fn prepare(&self) -> Result<(), CgroupError> {
        for mount in self.all() {
            files::make_dir(&mount.join(&self.name))?;
        }
        if let Some(mount) = &self.cpu {
            // Together our tasks weigh as much as the machine has processors, not as one group.
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            let weight = shares(u64::try_from(processors).unwrap_or(1) * 1000);
            files::put(&mount.join(&self.name).join("cpu.shares"), weight)?;
        }
        if let Some(mount) = &self.memory {
            // Always 1 on new kernels; on old ones a task's own groups would escape its limit.
            let hierarchy = mount.join(&self.name).join("memory.use_hierarchy");
            if files::number(&hierarchy).is_ok_and(|on| on == 0) {
                files::put(&hierarchy, 1)?;
            }
        }
        self.unified.as_ref().map_or(Ok(()), |mount| files::make_dir(&self.group(mount, SHIMS)))
    }

    fn missing(&self) -> Vec<String> {
        let absent = [
            (&self.cpu, "no cpu cgroup: cpu limits are not enforced"),
            (&self.blkio, "no blkio cgroup: reads and writes of disks are not measured"),
            (&self.memory, "no memory cgroup: memory limits are not enforced"),
            (&self.pids, "no pids cgroup: the number of processes is not limited"),
        ];
        let words = absent.into_iter().filter(|(mount, _)| mount.is_none());
        words.map(|(_, words)| words.to_owned()).collect()
    }

    fn create(&self, name: &str, limits: &Limits) -> Result<(), CgroupError> {
        for mount in self.all() {
            files::make_dir(&self.group(mount, name))?;
        }
        self.put_first_limits(name, limits)
    }

    fn set_limits(&self, name: &str, limits: &Limits) -> Result<(), CgroupError> {
        self.set_cpu_share(name, limits.cpu_milli)?;
        self.set_cpu_cap(name, limits.cpu_cap_milli)?;
        if let Some(mount) = &self.memory {
            self.put_memory_limits(&self.group(mount, name), limits)?;
        }
        self.put_io_weight(name, limits.io_weight)?;
        self.put_pids_max(name, limits.pids_max)
    }

    fn set_cpu_share(&self, name: &str, cpu_milli: u64) -> Result<(), CgroupError> {
        let Some(mount) = &self.cpu else { return Ok(()) };
        files::put(&self.group(mount, name).join("cpu.shares"), shares(cpu_milli))
    }

    fn set_cpu_cap(&self, name: &str, cap_milli: Option<u64>) -> Result<(), CgroupError> {
        let Some(mount) = &self.cpu else { return Ok(()) };
        let group = self.group(mount, name);
        let Some(cap) = cap_milli else {
            return files::put_if_there(&group.join("cpu.cfs_quota_us"), -1);
        };
        files::put(&group.join("cpu.cfs_period_us"), CPU_PERIOD_US)?;
        files::put(&group.join("cpu.cfs_quota_us"), quota_us(cap))
    }

    fn cpu_us(&self, name: &str) -> Result<u64, CgroupError> {
        if let Some(mount) = &self.unified {
            return files::keyed(&self.group(mount, name).join("cpu.stat"), "usage_usec");
        }
        let Some(mount) = &self.cpuacct else { return Ok(0) };
        Ok(files::number(&self.group(mount, name).join("cpuacct.usage"))? / 1000)
    }

    fn birthplace(&self, name: &str) -> Result<Option<OwnedFd>, CgroupError> {
        let Some(mount) = &self.unified else { return Ok(None) };
        let path = self.group(mount, name);
        let dir =
            fs::File::open(&path).map_err(|source| CgroupError { action: "open", path, source })?;
        Ok(Some(dir.into()))
    }

    fn enter(&self, name: &str) -> Result<(), CgroupError> {
        for mount in self.controllers() {
            files::put(&self.group(mount, name).join("tasks"), 0)?;
        }
        Ok(())
    }

    fn join(&self, name: &str, pid: i32) -> Result<(), CgroupError> {
        for mount in self.all() {
            files::put(&self.group(mount, name).join("cgroup.procs"), pid)?;
        }
        Ok(())
    }

    fn processes(&self, name: &str) -> Result<Vec<i32>, CgroupError> {
        self.tracking().map_or(Ok(Vec::new()), |mount| files::pids(&self.group(mount, name)))
    }

    fn usage(&self, name: &str) -> Result<Usage, CgroupError> {
        let mut usage = Usage { cpu_ms: self.cpu_us(name)? / 1000, ..Usage::default() };
        if let Some(mount) = &self.memory {
            let group = self.group(mount, name);
            usage.memory_bytes = files::number(&group.join("memory.usage_in_bytes"))?;
            usage.memory_peak_bytes = files::number(&group.join("memory.max_usage_in_bytes"))?;
            let idle = files::keyed(&group.join("memory.stat"), "total_inactive_file")?;
            usage.working_set_bytes = usage.memory_bytes.saturating_sub(idle);
        }
        if let Some(mount) = &self.pids {
            let threads = files::number(&self.group(mount, name).join("pids.current"))?;
            usage.threads = u32::try_from(threads).unwrap_or(u32::MAX);
        }
        if let Some(mount) = &self.blkio {
            let group = self.group(mount, name);
            let total = |file| files::blkio_total(&group.join(file));
            usage.io_bytes = total("blkio.throttle.io_service_bytes")?;
            usage.io_ops = total("blkio.throttle.io_serviced")?;
        }
        Ok(usage)
    }

    fn totals(&self, name: &str) -> Result<(u64, u64), CgroupError> {
        let peak = self.memory.as_ref().map_or(Ok(0), |mount| {
            files::number(&self.group(mount, name).join("memory.max_usage_in_bytes"))
        })?;
        Ok((self.cpu_us(name)? / 1000, peak))
    }

    fn oom_kills(&self, name: &str) -> Result<u64, CgroupError> {
        let Some(mount) = &self.memory else { return Ok(0) };
        files::keyed(&self.group(mount, name).join("memory.oom_control"), "oom_kill")
    }

    /// v1 kills one process of the group and lets the others be, so somebody must watch.
    fn oom_notice(&self, name: &str) -> Result<Option<OwnedFd>, CgroupError> {
        let Some(mount) = &self.memory else { return Ok(None) };
        let group = self.group(mount, name);
        let watched = group.join("memory.oom_control");
        let failed =
            |source: io::Error| CgroupError { action: "watch", path: watched.clone(), source };
        let control = fs::File::open(&watched).map_err(failed)?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_flags(flags).map_err(|e| failed(e.into()))?;
        let event = OwnedFd::from(event);
        let request = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
        files::put(&group.join("cgroup.event_control"), request)?;
        Ok(Some(event))
    }

    fn kill_all(&self, name: &str) -> Result<(), CgroupError> {
        if let Some(mount) = &self.unified {
            return files::kill_v2(&self.group(mount, name));
        }
        if let Some(mount) = &self.pids {
            // No births while we kill one by one.
            files::put_if_there(&self.group(mount, name).join("pids.max"), 0)?;
        }
        self.tracking().map_or(Ok(()), |mount| files::kill_one_by_one(&self.group(mount, name)))
    }

    fn remove(&self, name: &str) -> Result<(), CgroupError> {
        self.all().try_for_each(|mount| files::remove_dir(&self.group(mount, name)))
    }

    fn list(&self) -> Result<Vec<String>, CgroupError> {
        let mut names = Vec::new();
        for mount in self.all() {
            names.extend(files::groups_below(&mount.join(&self.name))?);
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn retire(&self) -> Result<(), CgroupError> {
        if let Some(mount) = &self.unified {
            files::remove_dir(&self.group(mount, SHIMS))?;
        }
        self.all().try_for_each(|mount| files::remove_dir(&mount.join(&self.name)))
    }
}
