//! What a borglet is told at its start.

use crate::network::AddressRange;
use borg_proto::names::shorten;
use borg_proto::spec::{MAX_BYTES, MAX_CPU_MILLI};
use borg_proto::wire::MAX_ATTRIBUTE_BYTES;
use borglet_supervisor::volumes::AllowedVolume;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The agent of one machine. It only listens: masters of its cell poll it, tell it what to run
/// and learn what runs.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// A file in TOML with these options, without their dashes; those given here as well win.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address to serve masters on; port 0 takes a free one.
    #[arg(long)]
    pub listen: SocketAddr,
    /// Directory of this borglet: its tasks, their logs, and the newest order it obeyed.
    #[arg(long)]
    pub dir: PathBuf,
    /// Directory with ca.pem, cert.pem and key.pem; the certificate names the cell and the machine.
    #[arg(long)]
    pub creds: PathBuf,
    /// Address for /metrics and /healthz, in plain HTTP; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub metrics_listen: SocketAddr,
    /// Processor time that tasks may use, in thousandths of a core [default: all of it].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MAX_CPU_MILLI))]
    pub cpu_milli: Option<u64>,
    /// Memory that tasks may use, in bytes [default: all but a reserve].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MAX_BYTES))]
    pub ram_bytes: Option<u64>,
    /// Disk space that tasks may use, in bytes [default: the size of the disk of --dir, less 5 % and the space for
    /// packages, whatever is on it].
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=MAX_BYTES))]
    pub disk_bytes: Option<u64>,
    /// Disk space for packages, in MiB: their blobs, and what is unpacked of them; half of the disk at most. What
    /// no task uses stays as long as it fits and the disk has room to spare.
    #[arg(long, default_value_t = 32_768, value_parser = clap::value_parser!(u64).range(16..=1_073_741_824))]
    pub package_mib: u64,
    /// Ports that the cell may hand out to tasks here, as FIRST-LAST.
    #[arg(long, default_value = "20000-29999")]
    pub ports: PortRange,
    /// A fact about the machine for constraints, as KEY=VALUE; may be repeated.
    #[arg(long = "attribute", value_name = "KEY=VALUE")]
    pub attributes: Vec<Attribute>,
    /// A directory below which tasks may see the machine's files, as PREFIX or PREFIX:ro; may be
    /// repeated.
    #[arg(long = "volume", value_name = "PREFIX[:ro]", value_parser = AllowedVolume::parse)]
    pub volumes: Vec<AllowedVolume>,
    /// A directory that tasks must not see into, beside --dir and --creds; may be repeated. A volume
    /// inside of it can be allowed by its own --volume. Needs namespaces.
    #[arg(long, value_name = "DIR")]
    pub hide: Vec<PathBuf>,
    /// Host on which tasks listen, as others reach it [default: the host of --listen].
    #[arg(long)]
    pub task_host: Option<String>,
    /// Addresses for tasks with a network of their own, as in 10.88.3.0/24: /16 to /30, for this machine alone
    /// [default: there are no such tasks here].
    #[arg(long, value_name = "RANGE")]
    pub task_network: Option<AddressRange>,
    /// Whether tasks are isolated as well as the machine can, or not at all.
    #[arg(long, value_enum, default_value_t)]
    pub isolation: Isolation,
    /// How long the output of a run that is over is kept, as in 90m, 24h or 7d. The newest 1,000 runs at most.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = keep_time)]
    pub keep_logs: Duration,
    /// File for the log [default: standard error].
    #[arg(long)]
    pub log_file: Option<PathBuf>,
}

/// Shortest and longest time for which output is kept: ours; it is looked through once a minute.
const KEEP_TIMES: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(366 * 24 * 3600)];

fn keep_time(text: &str) -> Result<Duration, String> {
    let wrong = |why: String| format!("{why}; allowed is 1m to 366d, as in 90m or 7d");
    let time = humantime::parse_duration(text).map_err(|error| wrong(error.to_string()))?;
    if (KEEP_TIMES[0]..=KEEP_TIMES[1]).contains(&time) {
        return Ok(time);
    }
    Err(wrong(format!("{} is out of bounds", humantime::format_duration(time))))
}

/// How tasks are isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Isolation {
    /// As well as this machine and user can; what is missing is reported.
    #[default]
    Auto,
    /// Plain processes.
    None,
}

/// A range of ports, both ends in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The first, at least 1.
    pub first: u16,
    /// The last, at least `first`.
    pub last: u16,
}

impl PortRange {
    /// How many ports.
    #[must_use]
    pub fn count(self) -> u32 {
        u32::from(self.last - self.first) + 1
    }
}

impl FromStr for PortRange {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let range = text.split_once('-').and_then(|(first, last)| {
            Some(Self { first: first.parse().ok()?, last: last.parse().ok()? })
        });
        range
            .filter(|range| range.first > 0 && range.first <= range.last)
            .ok_or_else(|| format!("{text:?} is not FIRST-LAST with 1 <= FIRST <= LAST <= 65535"))
    }
}

/// A fact about the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

impl FromStr for Attribute {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value))
                if !key.is_empty()
                    && key.len().max(value.len()) <= MAX_ATTRIBUTE_BYTES
                    && !text.chars().any(char::is_control) =>
            {
                Ok(Self { key: key.into(), value: value.into() })
            }
            _ => Err(format!(
                "{:?} is not KEY=VALUE of at most {MAX_ATTRIBUTE_BYTES} bytes each",
                shorten(text)
            )),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        config: Config,
    }

    pub(crate) fn parse(more: &[&str]) -> Result<Config, clap::Error> {
        let least = ["borglet", "--listen", "127.0.0.1:0", "--dir", "d", "--creds", "c"];
        Line::try_parse_from(least.iter().chain(more)).map(|line| line.config)
    }

    #[test]
    fn the_command_line_has_defaults_for_everything_but_three() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.ports.count(), 10_000);
        assert!(config.metrics_listen.ip().is_loopback());
        assert_eq!(config.isolation, Isolation::Auto);
    }

    #[test]
    fn senseless_values_are_refused_with_what_is_allowed() {
        for bad in [
            "--ports=9-5",
            "--ports=0-5",
            "--ports=1-65536",
            "--attribute=x",
            "--volume=data",
            "--cpu-milli=-1",
            "--keep-logs=1s",
            "--keep-logs=367d",
            "--keep-logs=long",
            "--task-network=10.88.3.1/24",
        ] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
        let config = parse(&["--ports=5-5", "--attribute=rack=r1", "--volume=/data:ro"]).unwrap();
        assert_eq!(config.ports.count(), 1);
        assert_eq!(config.attributes, [Attribute { key: "rack".into(), value: "r1".into() }]);
        assert!(!config.volumes[0].writable);
    }
}
