//! What is asked of a container, and whether the question makes sense.
//!
//! Plain data that is written to a container's record and read by the shim. Invariant: a [`ContainerId`] is
//! always a safe file name, so it may be joined to any path and used as a cgroup's name.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use borg_proto::Privilege;
use borg_proto::spec::MIN_RAM_BYTES;
use serde::{Deserialize, Serialize};

use super::root::{ImageRoot, Shown};
use crate::lease::Lease;

/// Longest host name that is of use; the kernel takes one byte more.
const HOST_NAME_MAX: usize = 63;
/// Longest id in bytes. Ours: leaves room for prefixes within the 255 bytes of a file name.
const ID_MAX: usize = 200;

/// Name of one container, unique on its machine for ever: say `user.job.index.incarnation`.
///
/// Letters, digits, `.`, `_` and `-`, starting with a letter or digit, at most 200 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

/// The words of a container's specification do not make sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum InvalidSpec {
    /// Not a safe file name.
    #[error("container id {0:?} is not 1 to 200 letters, digits, dots, dashes and underscores")]
    Id(String),
    /// Nothing to execute.
    #[error("no program given")]
    NoProgram,
    /// A string that the kernel cannot take.
    #[error("{0} contains a zero byte")]
    ZeroByte(String),
    /// An environment variable without a usable name.
    #[error("environment variable name {0:?} is empty or contains '='")]
    EnvName(String),
    /// A path that depends on where the borglet stands.
    #[error("path {} is not absolute", .0.display())]
    RelativePath(PathBuf),
    /// A limit that no process could live under.
    #[error("limit {name} is {value}, at least {least} is needed")]
    TooSmall {
        /// Which limit.
        name: String,
        /// What was asked.
        value: u64,
        /// The least that works.
        least: u64,
    },
}

impl ContainerId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What its container is called as a host: its beginning.
    pub(crate) fn host_name(&self) -> &str {
        &self.0[..self.0.len().min(HOST_NAME_MAX)]
    }
}

impl TryFrom<String> for ContainerId {
    type Error = InvalidSpec;

    fn try_from(text: String) -> Result<Self, InvalidSpec> {
        let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let starts_well = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if starts_well && text.len() <= ID_MAX && text.bytes().all(safe) {
            Ok(Self(text))
        } else {
            Err(InvalidSpec::Id(text.chars().take(80).collect()))
        }
    }
}

impl FromStr for ContainerId {
    type Err = InvalidSpec;

    fn from_str(text: &str) -> Result<Self, InvalidSpec> {
        Self::try_from(text.to_owned())
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the program starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Workdir {
    /// The task's own writable directory, which is also its HOME.
    #[default]
    Private,
    /// An existing directory of the host, read-only unless a bind makes it writable.
    Path(PathBuf),
}

/// A path of the host shown to the task at the same place, even under a path that is hidden
/// (such as `/tmp`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Absolute path of a file or directory.
    pub path: PathBuf,
    /// Whether the task may write there.
    pub writable: bool,
    /// The directory that was allowed and holds it; none when only the path itself was. Below it
    /// no symbolic link is followed, and none at all where it is none.
    #[serde(default)]
    pub within: Option<Prefix>,
}

impl Bind {
    /// Its path in two: what may be reached through links, and the rest, which may not.
    pub(crate) fn parts(&self) -> (&Path, &Path) {
        let prefix = self.within.as_ref().map_or(Path::new("/"), |within| &within.path);
        self.path.strip_prefix(prefix).map_or((&self.path, Path::new("")), |rest| (prefix, rest))
    }

    /// Where it is on the host once all links that may be followed are.
    pub(crate) fn source(&self) -> PathBuf {
        let (prefix, rest) = self.parts();
        let real = self.within.as_ref().map_or(prefix, |within| &within.real);
        // Joined to nothing it would end with a slash, as no file may.
        if rest.as_os_str().is_empty() { real.to_owned() } else { real.join(rest) }
    }
}

/// Beginning of a path that is trusted not to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefix {
    /// As it is written in the path, perhaps with symbolic links.
    pub path: PathBuf,
    /// What it led to when it was allowed.
    pub real: PathBuf,
}

/// Whom the program runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id; supplementary groups are none.
    pub gid: u32,
}

/// How much output is kept, for each of stdout and stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// Bytes after which a new file is begun.
    pub file_bytes: u64,
    /// Files kept; the oldest goes first.
    pub files: u32,
    /// Bytes a second beyond which output is dropped and counted; four seconds' worth may come at once.
    #[serde(default = "usual_rate")]
    pub bytes_per_s: u64,
}

/// 4 MiB: ours. What tasks of a machine write at this rate its disk can take.
fn usual_rate() -> u64 {
    4 << 20
}

impl Default for LogLimits {
    /// 4 files of 8 MiB, 4 MiB a second: ours.
    fn default() -> Self {
        Self { file_bytes: 8 << 20, files: 4, bytes_per_s: usual_rate() }
    }
}

/// Everything needed to start one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its name.
    pub id: ContainerId,
    /// The program and its arguments. Without a slash the program is looked up in the task's PATH.
    pub argv: Vec<String>,
    /// The environment, beside PATH, HOME and PWD which are set unless given here. Nothing is
    /// inherited.
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub workdir: Workdir,
    /// Share of the processors under contention, in thousandths of a processor.
    pub cpu_milli: u64,
    /// Hard cap on processor use in thousandths of a processor; none lets it use what is idle.
    pub cpu_cap_milli: Option<u64>,
    /// Limit on memory in bytes; beyond it the whole task is killed, at once unless the limit is soft.
    pub ram_bytes: u64,
    /// Whether it may use more while the machine has it.
    #[serde(default)]
    pub soft_memory: bool,
    /// Whether the kernel ends it before others that do not, should the machine's memory end before the borglet sees it.
    #[serde(default)]
    pub gives_way: bool,
    /// Share of disks under contention, 1 to 1000.
    #[serde(default = "usual_io_weight")]
    pub io_weight: u16,
    /// Most processes and threads at once.
    pub pids_max: u32,
    /// Paths of the host to show or make writable. None by default.
    pub binds: Vec<Bind>,
    /// TCP ports on which it may listen, beside those that the kernel picks, where Landlock is there.
    /// None lets it listen on any.
    #[serde(default)]
    pub ports: Option<Vec<u16>>,
    /// Whom to run as, by the ids that the task sees. None is root where the task has ids of its own
    /// or the borglet is root, and the borglet's user where it is not. Needs root.
    pub user: Option<User>,
    /// Bounds of its logs.
    pub logs: LogLimits,
    /// Set when it must not run on without news: when it ends at the latest.
    #[serde(default)]
    pub lease: Option<Lease>,
    /// Whether it is told of a file in its own directory, by `BORG_STATUS_FILE`, to write a line about itself to.
    #[serde(default)]
    pub status_file: bool,
    /// The image whose files are its root; none: the machine's own, read-only. Needs root.
    #[serde(default)]
    pub root: Option<ImageRoot>,
    /// Directories of the machine that it sees under other paths, read-only.
    #[serde(default)]
    pub packages: Vec<Shown>,
    /// Whether it has a network of its own, and an address that the executor picks.
    #[serde(default)]
    pub own_network: bool,
    /// That address; whoever asks for a container leaves it to the executor.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// What of its isolation it does without.
    #[serde(default)]
    pub loosen: BTreeSet<Privilege>,
    /// Words of the caller's own, handed back when the container is adopted.
    #[serde(default)]
    pub note: String,
    /// More of them, as bytes.
    #[serde(default, with = "hexadecimal")]
    pub words: Vec<u8>,
}

/// Bytes as text, two digits each: a list of numbers would be twice as long.
mod hexadecimal {
    use std::fmt::Write;

    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            write!(text, "{byte:02x}").map_err(serde::ser::Error::custom)?;
        }
        to.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = || D::Error::custom("not pairs of hexadecimal digits");
        let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|n| u8::try_from(n).ok());
        let pair = |pair: &[u8]| match pair {
            [high, low] => Some(digit(high)? * 16 + digit(low)?),
            _half => None,
        };
        text.as_bytes().chunks(2).map(|bytes| pair(bytes).ok_or_else(wrong)).collect()
    }
}

/// What a group has that nobody gave a weight.
const fn usual_io_weight() -> u16 {
    100
}

impl ContainerSpec {
    /// A container that runs `argv` with 100 millicores, 256 MiB and 512 processes.
    pub fn new(id: ContainerId, argv: Vec<String>) -> Self {
        Self {
            id,
            argv,
            env: Vec::new(),
            workdir: Workdir::default(),
            cpu_milli: 100,
            cpu_cap_milli: None,
            ram_bytes: 256 << 20,
            soft_memory: false,
            gives_way: false,
            io_weight: usual_io_weight(),
            pids_max: 512,
            binds: Vec::new(),
            ports: None,
            user: None,
            logs: LogLimits::default(),
            lease: None,
            status_file: false,
            root: None,
            packages: Vec::new(),
            own_network: false,
            address: None,
            loosen: BTreeSet::new(),
            note: String::new(),
            words: Vec::new(),
        }
    }

    /// Checks everything that can be known without looking at the machine.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        if self.argv.first().is_none_or(String::is_empty) {
            return Err(InvalidSpec::NoProgram);
        }
        if let Some(word) = self.argv.iter().find(|word| word.contains('\0')) {
            return Err(InvalidSpec::ZeroByte(format!("argument {word:?}")));
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains('=') {
                return Err(InvalidSpec::EnvName(name.clone()));
            }
            if name.contains('\0') || value.contains('\0') {
                return Err(InvalidSpec::ZeroByte(format!("environment variable {name:?}")));
            }
        }
        let workdir = match &self.workdir {
            Workdir::Private => None,
            Workdir::Path(path) => Some(path),
        };
        let binds = self.binds.iter().flat_map(|bind| {
            let within = bind.within.iter().flat_map(|prefix| [&prefix.path, &prefix.real]);
            [&bind.path].into_iter().chain(within)
        });
        let layers = self.root.iter().flat_map(|root| &root.layers);
        let shown = self.packages.iter().flat_map(|shown| [&shown.source, &shown.target]);
        for path in binds.chain(workdir).chain(layers).chain(shown) {
            if !path.is_absolute() {
                return Err(InvalidSpec::RelativePath(path.clone()));
            }
            if path.as_os_str().as_encoded_bytes().contains(&0) {
                return Err(InvalidSpec::ZeroByte(format!("path {}", path.display())));
            }
        }
        self.validate_limits()
    }

    /// The least values are ours: below them the kernel kills the task before its first
    /// instruction, which would read like a fault of the program.
    fn validate_limits(&self) -> Result<(), InvalidSpec> {
        let least = [
            ("cpu_milli", self.cpu_milli, 1),
            ("cpu_cap_milli", self.cpu_cap_milli.unwrap_or(u64::MAX), 10),
            ("ram_bytes", self.ram_bytes, MIN_RAM_BYTES),
            ("io_weight", u64::from(self.io_weight), 1),
            ("pids_max", u64::from(self.pids_max), 2),
            ("logs.file_bytes", self.logs.file_bytes, 1024),
            ("logs.files", u64::from(self.logs.files), 1),
            ("logs.bytes_per_s", self.logs.bytes_per_s, 1024),
        ];
        match least.into_iter().find(|(_, value, least)| value < least) {
            None => Ok(()),
            Some((name, value, least)) => {
                Err(InvalidSpec::TooSmall { name: name.to_owned(), value, least })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_leave_its_directory_is_refused() {
        for bad in ["", ".", "..", "../x", "a/b", "-x", "_shims", "a b", "ü", "a\0"] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad:?} was accepted");
        }
        assert!("x".repeat(201).parse::<ContainerId>().is_err());
        assert_eq!("ana.web.0.3".parse::<ContainerId>().unwrap().as_str(), "ana.web.0.3");
    }

    #[test]
    fn an_id_is_checked_when_it_is_read_from_a_file_too() {
        assert!(serde_json::from_str::<ContainerId>("\"../../etc\"").is_err());
    }

    #[test]
    fn a_specification_that_cannot_work_is_refused_with_the_reason() {
        let good = ContainerSpec::new("a".parse().unwrap(), vec!["true".into()]);
        assert_eq!(good.validate(), Ok(()));
        let with = |change: fn(&mut ContainerSpec)| {
            let mut spec = good.clone();
            change(&mut spec);
            spec.validate().unwrap_err().to_string()
        };
        assert_eq!(with(|s| s.argv.clear()), "no program given");
        assert!(with(|s| s.argv[0] = "a\0b".into()).contains("zero byte"));
        assert!(with(|s| s.env.push(("A=B".into(), String::new()))).contains("\"A=B\""));
        assert!(with(|s| s.workdir = Workdir::Path("x".into())).contains("not absolute"));
        assert!(with(|s| s.ram_bytes = 5).contains("ram_bytes is 5"));
    }
}
