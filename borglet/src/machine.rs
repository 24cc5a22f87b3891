//! What this machine is and has: capacity and facts for constraints.

use crate::config::Config;
use crate::network::AddressRange;
use borg_proto::machine::{IMAGES, NO_IMAGES, RESERVE_PERCENT};
use borg_proto::resources::{TASK_ADDRESS, WHOLE_DEVICE};
use borg_proto::wire::MAX_ATTRIBUTE_BYTES;
use borg_proto::{MachineInfo, Resources};
use nix::sys::statvfs::{Statvfs, statvfs};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Memory kept for the system and the borglet itself: at least this, in bytes. Our choice.
const LEAST_RAM_RESERVE: u64 = 256 << 20;
/// Packages get this part of what the reserve leaves of the disk at most. Half: our choice.
const PACKAGE_PART: u64 = 2;

const MEMINFO: &str = "/proc/meminfo";

/// A fact about the machine could not be found out.
#[derive(Debug, thiserror::Error)]
#[error("read {}", .path.display())]
pub struct MachineError {
    /// The file.
    pub path: PathBuf,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// Looks at the machine. Everything set in `config` wins over what is found. `held` is disk, in bytes, that tasks
/// which run here already were promised: a machine that offered less would lose them. `addresses` are those that
/// tasks can have, `runs_images` says whether they can run images.
pub(crate) fn look(
    config: &Config,
    missing_isolation: Vec<String>,
    held: u64,
    addresses: Option<AddressRange>,
    runs_images: bool,
) -> Result<MachineInfo, MachineError> {
    let tasks = || disk_shares(config).map(|shares| shares.tasks.max(held));
    let capacity = Resources {
        cpu_milli: config.cpu_milli.unwrap_or_else(processors),
        ram_bytes: config.ram_bytes.map_or_else(memory, Ok)?,
        disk_bytes: config.disk_bytes.map_or_else(tasks, Ok)?,
        ports: config.ports.count(),
        devices: addresses
            .map(|range| (TASK_ADDRESS.into(), u64::from(range.tasks()) * WHOLE_DEVICE))
            .into_iter()
            .collect(),
    };
    let mut attributes = BTreeMap::from([
        ("arch".into(), std::env::consts::ARCH.into()),
        ("os".into(), std::env::consts::OS.into()),
        ("kernel".into(), read("/proc/sys/kernel/osrelease")?),
        ("hostname".into(), read("/proc/sys/kernel/hostname")?),
    ]);
    attributes.extend(found(&config.dir));
    attributes.extend(addresses.map(|range| ("task_network".into(), range.to_string())));
    if !runs_images {
        attributes.insert(IMAGES.to_owned(), NO_IMAGES.to_owned());
    }
    attributes.extend(config.attributes.iter().map(|fact| (fact.key.clone(), fact.value.clone())));
    Ok(MachineInfo {
        capacity,
        first_port: config.ports.first,
        attributes,
        boot_id: read("/proc/sys/kernel/random/boot_id")?,
        missing_isolation: missing_isolation.iter().map(|text| shortened(text)).collect(),
        task_host: match &config.task_host {
            Some(host) => host.clone(),
            // "All addresses" is no address to connect to.
            None if config.listen.ip().is_unspecified() => read("/proc/sys/kernel/hostname")?,
            None => config.listen.ip().to_string(),
        },
    })
}

/// What the machine is made of, as far as the kernel tells: facts that stay the same while it is up, so
/// that they are no news.
fn found(dir: &Path) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::from([("cpus".to_owned(), (processors() / 1000).to_string())]);
    let mut fact = |name: &str, value: Option<String>| {
        facts.extend(value.map(|value| (name.to_owned(), shortened(&value))));
    };
    fact("memory_mib", memory_total().ok().map(|bytes| (bytes >> 20).to_string()));
    let model = read_whole("/proc/cpuinfo").ok();
    fact("cpu_model", model.as_deref().and_then(cpu_model).map(str::to_owned));
    fact("numa_nodes", numa_nodes().map(|nodes| nodes.to_string()));
    fact("disk", disk_kind(dir).map(str::to_owned));
    facts
}

fn cpu_model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, model)| model.trim())
}

fn numa_nodes() -> Option<usize> {
    let nodes = fs::read_dir("/sys/devices/system/node").ok()?.filter_map(Result::ok);
    let is_node = |name: &str| {
        name.strip_prefix("node").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
    };
    Some(nodes.filter(|entry| entry.file_name().to_str().is_some_and(is_node)).count())
}

/// `ssd` or `rotational`, of the disk where tasks write; `None` where there is no disk below, as on
/// tmpfs. A partition has no queue of its own, its disk has.
fn disk_kind(dir: &Path) -> Option<&'static str> {
    let device = fs::metadata(dir).ok()?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let at = PathBuf::from(format!("/sys/dev/block/{major}:{minor}")).canonicalize().ok()?;
    let queues = [at.join("queue"), at.parent()?.join("queue")];
    let told = queues.iter().find_map(|queue| fs::read_to_string(queue.join("rotational")).ok())?;
    Some(if told.trim() == "1" { "rotational" } else { "ssd" })
}

fn processors() -> u64 {
    std::thread::available_parallelism().map_or(1, |count| u64::try_from(count.get()).unwrap_or(1))
        * 1000
}

/// Memory that tasks may have: all but the reserve.
fn memory() -> Result<u64, MachineError> {
    Ok(memory_total()?.saturating_sub(memory_reserve()?))
}

/// Memory that tasks must leave to the system.
pub(crate) fn memory_reserve() -> Result<u64, MachineError> {
    Ok((memory_total()? / 100 * RESERVE_PERCENT).max(LEAST_RAM_RESERVE))
}

fn memory_total() -> Result<u64, MachineError> {
    Ok(meminfo(&read_whole(MEMINFO)?, "MemTotal:").unwrap_or(0))
}

/// Memory that could be had without swapping, in bytes; `None` where the kernel does not tell.
pub(crate) fn memory_available() -> Option<u64> {
    meminfo(&read_whole(MEMINFO).ok()?, "MemAvailable:")
}

/// A figure of /proc/meminfo in bytes.
fn meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib.saturating_mul(1024))
}

/// Who gets how much of the disk where tasks write, in bytes. Of its size and not of what is free, so that nothing
/// of it moves with what tasks, packages or logs take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskShares {
    /// Kept for the system.
    pub(crate) reserve: u64,
    /// Most that packages may take.
    pub(crate) packages: u64,
    /// What tasks may be promised.
    tasks: u64,
}

impl DiskShares {
    fn of(size: u64, packages: u64) -> Self {
        let reserve = size / 100 * RESERVE_PERCENT;
        let packages = packages.min((size - reserve) / PACKAGE_PART);
        Self { reserve, packages, tasks: size - reserve - packages }
    }
}

/// How the disk is shared out.
pub(crate) fn disk_shares(config: &Config) -> Result<DiskShares, MachineError> {
    let stat = statvfs_of(&config.dir)?;
    let size = stat.blocks().saturating_mul(stat.fragment_size());
    Ok(DiskShares::of(size, config.package_mib.saturating_mul(1 << 20)))
}

fn disk_free(dir: &Path) -> Result<u64, MachineError> {
    let stat = statvfs_of(dir)?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// What is free where tasks write, the reserve included.
pub(crate) fn disk_available(dir: &Path) -> Option<u64> {
    disk_free(dir).ok()
}

fn statvfs_of(dir: &Path) -> Result<Statvfs, MachineError> {
    let failed = |errno: nix::Error| MachineError { path: dir.to_owned(), source: errno.into() };
    statvfs(dir).map_err(failed)
}

/// What all processors did since the machine started, in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Processors {
    count: u64,
    all: u64,
    idle: u64,
}

/// What they did until now; `None` where the kernel does not tell.
pub(crate) fn processors_used() -> Option<Processors> {
    Processors::parse(&read_whole("/proc/stat").ok()?)
}

impl Processors {
    fn parse(text: &str) -> Option<Self> {
        let sum = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let is_one = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
        let count = u64::try_from(text.lines().filter(is_one).count()).ok()?;
        // user nice system idle iowait irq softirq steal; what guests use is in user already.
        let ticks: Vec<u64> =
            sum.split_whitespace().take(8).map_while(|n| n.parse().ok()).collect();
        let idle = ticks.get(3)? + ticks.get(4)?;
        Some(Self { count: count.max(1), all: ticks.iter().sum(), idle })
    }

    /// All there was since `before`, and how much of it was idle, in millicores.
    pub(crate) fn since(&self, before: &Self) -> (u64, u64) {
        let (all, passed) = (self.count * 1000, self.all.saturating_sub(before.all).max(1));
        let idle = self.idle.saturating_sub(before.idle).min(passed);
        (all, idle.saturating_mul(all) / passed)
    }
}

fn read(path: &str) -> Result<String, MachineError> {
    read_whole(path).map(|text| shortened(text.trim()))
}

fn read_whole(path: &str) -> Result<String, MachineError> {
    fs::read_to_string(path).map_err(|source| MachineError { path: path.into(), source })
}

/// One line, not longer than the wire form allows.
fn shortened(text: &str) -> String {
    let mut end = text.len().min(MAX_ATTRIBUTE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_the_kernel_are_read_by_their_names() {
        let text = "MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    500 kB\n";
        assert_eq!(meminfo(text, "MemAvailable:"), Some(512_000));
        assert_eq!(meminfo("MemAvailable: x kB", "MemAvailable:"), None);
        assert!(memory_available().unwrap() > 0);
    }

    #[test]
    fn what_the_machine_is_made_of_is_found_out_and_stays_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let facts = found(dir.path());
        assert!(facts["cpus"].parse::<u64>().unwrap() > 0, "{facts:?}");
        assert!(facts["memory_mib"].parse::<u64>().unwrap() > 0, "{facts:?}");
        assert_eq!(found(dir.path()), facts);
        assert_eq!(cpu_model("processor : 0\nmodel name\t: A B\n"), Some("A B"));
        assert_eq!(disk_kind(Path::new("/proc")), None);
    }

    #[test]
    fn what_is_written_makes_the_machine_no_smaller() {
        let dir = tempfile::tempdir().unwrap();
        let config = crate::config::tests::parse(&[]).unwrap();
        let config = Config { dir: dir.path().to_owned(), ..config };
        let before = look(&config, Vec::new(), 0, None, true).unwrap();
        let file = fs::File::create(dir.path().join("written")).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 256 << 20).unwrap();
        assert_eq!(look(&config, Vec::new(), 0, None, true).unwrap(), before);
        let held = before.capacity.disk_bytes + 1;
        assert_eq!(look(&config, Vec::new(), held, None, true).unwrap().capacity.disk_bytes, held);
        let told = Config { disk_bytes: Some(7), ..config };
        assert_eq!(look(&told, Vec::new(), held, None, true).unwrap().capacity.disk_bytes, 7);
    }

    #[test]
    fn system_packages_and_tasks_share_the_disk() {
        let shares = |reserve, packages, tasks| DiskShares { reserve, packages, tasks };
        assert_eq!(DiskShares::of(1_000, 100), shares(50, 100, 850));
        assert_eq!(DiskShares::of(1_000, u64::MAX), shares(50, 475, 475));
        assert_eq!(DiskShares::of(0, 9), shares(0, 0, 0));
    }

    #[test]
    fn half_idle_processors_are_half_idle() {
        let at = |idle| format!("cpu  100 0 50 {idle} 0 0 0 0 7 7\ncpu0 1 1\ncpu1 1 1\nintr 5\n");
        let before = Processors::parse(&at(1_000)).unwrap();
        let mut now = Processors::parse(&at(1_100)).unwrap();
        now.all += 100;
        assert_eq!(now.since(&before), (2_000, 1_000));
        assert_eq!(Processors::parse("cpu a\n"), None);
    }
}
