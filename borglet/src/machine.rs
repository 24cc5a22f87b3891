//! What this machine is and has: capacity and facts for constraints.

use crate::config::Config;
use borg_proto::wire::MAX_ATTRIBUTE_BYTES;
use borg_proto::{MachineInfo, Resources};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Memory kept for the system and the borglet itself: at least this, in bytes. Our choice.
const LEAST_RAM_RESERVE: u64 = 256 << 20;
/// Share of memory and disk kept for the system, in hundredths. Our choice.
const RESERVE_PERCENT: u64 = 5;

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

/// Looks at the machine. Everything set in `config` wins over what is found.
pub(crate) fn look(
    config: &Config,
    missing_isolation: Vec<String>,
) -> Result<MachineInfo, MachineError> {
    let capacity = Resources {
        cpu_milli: config.cpu_milli.unwrap_or_else(processors),
        ram_bytes: config.ram_bytes.map_or_else(memory, Ok)?,
        disk_bytes: config.disk_bytes.map_or_else(|| disk(&config.dir), Ok)?,
        ports: config.ports.count(),
        devices: BTreeMap::new(),
    };
    let mut attributes = BTreeMap::from([
        ("arch".into(), std::env::consts::ARCH.into()),
        ("os".into(), std::env::consts::OS.into()),
        ("kernel".into(), read("/proc/sys/kernel/osrelease")?),
        ("hostname".into(), read("/proc/sys/kernel/hostname")?),
    ]);
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

fn processors() -> u64 {
    std::thread::available_parallelism().map_or(1, |count| u64::try_from(count.get()).unwrap_or(1))
        * 1000
}

fn memory() -> Result<u64, MachineError> {
    let text = read_whole("/proc/meminfo")?;
    let total = text.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    let total = total.unwrap_or(0).saturating_mul(1024);
    Ok(total.saturating_sub((total / 100 * RESERVE_PERCENT).max(LEAST_RAM_RESERVE)))
}

/// What is free where tasks write, less the reserve.
fn disk(dir: &Path) -> Result<u64, MachineError> {
    let stat = nix::sys::statvfs::statvfs(dir)
        .map_err(|errno| MachineError { path: dir.to_owned(), source: errno.into() })?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    Ok(bytes(stat.blocks_available()).saturating_sub(bytes(stat.blocks()) / 100 * RESERVE_PERCENT))
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
