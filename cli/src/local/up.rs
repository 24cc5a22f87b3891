//! Starting a local cell.

use super::{Daemon, Layout, LocalCell, LocalError, Process, system};
use crate::ca::CellCa;
use crate::target::{CLIENT_FILE, ClientFile};
use borg_proto::identity::{ADMIN, Role};
use borg_proto::names::{CellName, MachineName, ReplicaId};
use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Most masters of a local cell.
const MOST_MASTERS: u32 = 9;
/// Most borglets of a local cell.
const MOST_BORGLETS: u32 = 100;
/// Where the daemons listen: below the range that Linux uses by default for outgoing connections (32768
/// and up), one of which could take the port of a daemon that is not there for a moment.
const DAEMON_PORTS: Range<u16> = 10_000..FIRST_PORT;
/// Ports that each machine of a local cell may hand out to tasks.
const PORTS_PER_MACHINE: u16 = 100;
/// Where those ports begin to be looked for, below that range too.
const FIRST_PORT: u16 = 20_000;
const LAST_PORT: u16 = 32_000;

/// What kind of cell to start.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The cell's directory; made when missing.
    pub dir: PathBuf,
    /// Its name.
    pub cell: CellName,
    /// How many masters: 1 to 9.
    pub masters: u32,
    /// How many borglets: 0 to 100.
    pub borglets: u32,
    /// Directories that tasks may see, beside the cell's own `shared`; written as the borglet's
    /// `--volume` takes them.
    pub volumes: Vec<String>,
    /// Which store keeps the masters' logs, as the master's `--store` takes it.
    pub store: String,
    /// How tasks are isolated, as the borglet's `--isolation` takes it.
    pub isolation: String,
    /// Start what does not run of the cell that is in the directory, instead of a new cell.
    pub again: bool,
}

/// Starts the processes that do not run and returns as soon as they do; they may not be ready yet.
///
/// # Errors
/// When the directory holds a cell already, or the system refuses something. What was started by
/// then is in `cell.json`, so that `down` finds it.
pub fn up(plan: &Plan) -> Result<LocalCell, LocalError> {
    check("--masters", plan.masters, 1, MOST_MASTERS)?;
    check("--borglets", plan.borglets, 0, MOST_BORGLETS)?;
    fs::create_dir_all(&plan.dir).map_err(system(format!("make {}", plan.dir.display())))?;
    let dir = plan.dir.canonicalize().map_err(system(format!("find {}", plan.dir.display())))?;
    let layout = Layout::new(&dir);
    let _held = layout.hold()?;
    let mut cell = if plan.again {
        LocalCell::load(&dir)?
    } else {
        claim(&layout)?;
        let cell = lay_out(plan)?;
        cell.save(&layout)?;
        make_certificates(&layout, &cell)?;
        cell
    };
    for sub in ["log", "data", "shared"] {
        let path = dir.join(sub);
        fs::create_dir_all(&path).map_err(system(format!("make {}", path.display())))?;
    }
    cell.save(&layout)?;
    start_masters(&layout, plan, &mut cell)?;
    start_borglets(&layout, &mut cell)?;
    write_client_config(&layout, &cell)?;
    Ok(cell)
}

/// Makes the directory ours: it must be empty, and only one of several at once gets it. Whatever
/// `down` finds in it later is the cell's.
fn claim(layout: &Layout) -> Result<(), LocalError> {
    let dir = layout.dir();
    match File::create_new(layout.record()) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(LocalError::Exists(dir.to_owned()));
        }
        Err(error) => return Err(system(format!("write to {}", dir.display()))(error)),
    }
    let entries = fs::read_dir(dir).map_err(system(format!("read {}", dir.display())))?.count();
    if entries == 1 {
        return Ok(());
    }
    drop(fs::remove_file(layout.record()));
    Err(LocalError::NotEmpty(dir.to_owned()))
}

fn check(what: &'static str, count: u32, least: u32, most: u32) -> Result<(), LocalError> {
    if (least..=most).contains(&count) {
        return Ok(());
    }
    Err(LocalError::Count { what, count, least, most })
}

/// Names and addresses. The ports are free now; a daemon that finds its port taken says so.
fn lay_out(plan: &Plan) -> Result<LocalCell, LocalError> {
    let count = usize::try_from(plan.masters + plan.borglets).expect("at most 109");
    let masters = usize::try_from(plan.masters).expect("at most 9");
    let mut addresses = free_addresses(2 * count + masters)?;
    let mut for_dns = addresses.split_off(2 * count).into_iter();
    let mut addresses = addresses.into_iter();
    let mut daemon = |name: String| Daemon {
        name,
        address: addresses.next().expect("two for each daemon"),
        metrics: addresses.next().expect("two for each daemon"),
        dns: None,
        ports: None,
        ram_bytes: None,
        process: None,
    };
    let masters = (1..=plan.masters)
        .map(|n| Daemon { dns: for_dns.next(), ..daemon(format!("master-{n}")) })
        .collect();
    let machines = (1..=plan.borglets).zip(port_ranges(plan.borglets));
    let borglets = machines
        .map(|(n, ports)| Daemon { ports: Some(ports), ..daemon(format!("m-{n}")) })
        .collect();
    Ok(LocalCell {
        cell: plan.cell.clone(),
        store: plan.store.clone(),
        isolation: plan.isolation.clone(),
        volumes: plan.volumes.clone(),
        masters,
        borglets,
    })
}

/// Addresses on loopback that nobody has, neither for connections nor for datagrams. Cells that start at the same moment look from different
/// places on, so that they seldom find the same ones.
fn free_addresses(count: usize) -> Result<Vec<String>, LocalError> {
    let ports = DAEMON_PORTS;
    let span = u64::from(ports.end - ports.start);
    // What the standard library seeds its hash maps with differs from process to process.
    let random = RandomState::new().build_hasher().finish();
    let offset = u16::try_from(random % span).expect("less than the number of ports");
    let why = format!("fewer than {count} are free from {} to {}", ports.start, ports.end - 1);
    let too_few = || system("find free ports")(std::io::Error::new(ErrorKind::AddrInUse, why));
    if count > ports.len() {
        return Err(too_few());
    }
    // Held until all are found.
    let mut held = Vec::with_capacity(count);
    let mut addresses = Vec::with_capacity(count);
    for port in (ports.start + offset..ports.end).chain(ports.start..ports.start + offset) {
        let both = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .and_then(|tcp| Ok((tcp, UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?)));
        match both {
            Ok(both) => {
                held.push(both);
                addresses.push(format!("{}:{port}", Ipv4Addr::LOCALHOST));
                if addresses.len() == count {
                    return Ok(addresses);
                }
            }
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => return Err(system("find free ports")(error)),
        }
    }
    Err(too_few())
}

fn make_certificates(layout: &Layout, cell: &LocalCell) -> Result<(), LocalError> {
    let ca = CellCa::create(&layout.ca(), cell.cell.clone())?;
    let issue = |role, dir: PathBuf| ca.issue(role, &dir).map(drop);
    for (replica, master) in (1..).zip(&cell.masters) {
        issue(Role::Master(ReplicaId(replica)), layout.credentials(&master.name))?;
    }
    for borglet in &cell.borglets {
        let machine = MachineName::new(&borglet.name).expect("m-N is a name");
        issue(Role::Borglet(machine), layout.credentials(&borglet.name))?;
    }
    issue(Role::User(ADMIN.parse().expect("admin is a name")), layout.user(ADMIN))?;
    Ok(())
}

fn start_masters(layout: &Layout, plan: &Plan, cell: &mut LocalCell) -> Result<(), LocalError> {
    let members: Vec<String> = (1..)
        .zip(&cell.masters)
        .map(|(n, master): (u64, _)| format!("{n}={}", master.address))
        .collect();
    for i in 0..cell.masters.len() {
        let master = &cell.masters[i];
        if master.is_running() {
            continue;
        }
        let mut more = vec![("--masters", members.join(",")), ("--store", cell.store.clone())];
        more.extend(master.dns.iter().map(|address| ("--dns", address.clone())));
        let mut args = arguments(layout, master, &more);
        if !plan.again {
            args.push("--new".into());
        }
        let process = Process::spawn("borgmaster", args, &layout.log(&master.name))?;
        cell.masters[i].process = Some(process);
        cell.save(layout)?;
    }
    Ok(())
}

fn start_borglets(layout: &Layout, cell: &mut LocalCell) -> Result<(), LocalError> {
    let ram_bytes = ram_share(cell.borglets.len());
    // What BORGCTL names in job files; the examples run it.
    let program = std::env::current_exe().map_err(system("find this program"))?;
    for i in 0..cell.borglets.len() {
        let borglet = &mut cell.borglets[i];
        if borglet.is_running() {
            continue;
        }
        borglet.ram_bytes = borglet.ram_bytes.or(ram_bytes);
        let mut more = vec![
            ("--attribute", format!("rack=r{}", i % 2 + 1)),
            // Every key of the cell lies there: those of its CA, its admin and its other daemons.
            ("--hide", layout.dir().display().to_string()),
            ("--volume", layout.shared().display().to_string()),
            ("--volume", format!("{}:ro", program.display())),
            ("--isolation", cell.isolation.clone()),
        ];
        more.extend(borglet.ports.map(|(first, last)| ("--ports", format!("{first}-{last}"))));
        more.extend(borglet.ram_bytes.map(|ram| ("--ram-bytes", ram.to_string())));
        more.extend(cell.volumes.iter().map(|volume| ("--volume", volume.clone())));
        let args = arguments(layout, borglet, &more);
        let process = Process::spawn("borglet", args, &layout.log(&borglet.name))?;
        cell.borglets[i].process = Some(process);
        cell.save(layout)?;
    }
    Ok(())
}

fn arguments(layout: &Layout, daemon: &Daemon, more: &[(&str, String)]) -> Vec<OsString> {
    let path = |path: PathBuf| path.into_os_string();
    let mut args = vec![
        "--dir".into(),
        path(layout.data(&daemon.name)),
        "--creds".into(),
        path(layout.credentials(&daemon.name)),
        "--listen".into(),
        daemon.address.clone().into(),
        "--metrics-listen".into(),
        daemon.metrics.clone().into(),
    ];
    for (flag, value) in more {
        args.push((*flag).into());
        args.push(value.into());
    }
    args
}

/// A range of ports for each machine, all machines being on one host. Ranges whose first port is
/// in use are passed over, as another local cell may have them. A port that is taken after all is
/// found out at the task's start, and another one is tried.
fn port_ranges(machines: u32) -> Vec<(u16, u16)> {
    let free =
        |first: &u16| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, *first))).is_ok();
    let machines = usize::try_from(machines).expect("at most 100");
    let starts = (FIRST_PORT..LAST_PORT).step_by(PORTS_PER_MACHINE.into());
    let mut ranges: Vec<_> = starts
        .filter(free)
        .take(machines)
        .map(|first| (first, first + PORTS_PER_MACHINE - 1))
        .collect();
    ranges.resize(machines, (FIRST_PORT, LAST_PORT));
    ranges
}

/// What each of several machines on this computer may give to tasks, in bytes: three quarters of
/// what is available now, divided among them. Processors are not divided, as tasks of a local cell
/// are mostly idle: each machine offers all of them.
fn ram_share(machines: usize) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024 / 4 * 3 / u64::try_from(machines.max(1)).unwrap_or(u64::MAX))
}

/// What `borgctl` reads to find the cell.
fn write_client_config(layout: &Layout, cell: &LocalCell) -> Result<(), LocalError> {
    let file = ClientFile {
        cell: cell.cell.clone(),
        masters: cell.masters.iter().map(|master| master.address.clone()).collect(),
        creds: Path::new("users").join(ADMIN),
    };
    file.write(layout.dir()).map_err(system(format!("write {CLIENT_FILE}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn free_addresses_are_below_the_range_of_outgoing_connections_and_nobody_has_them() {
        let taken = free_addresses(1).unwrap().remove(0);
        let _held = TcpListener::bind(&taken).unwrap();
        let found: BTreeSet<String> = free_addresses(218).unwrap().into_iter().collect();
        assert_eq!(found.len(), 218);
        assert!(!found.contains(&taken));
        for address in &found {
            let address: SocketAddr = address.parse().unwrap();
            assert!(address.ip().is_loopback() && DAEMON_PORTS.contains(&address.port()));
        }
        let error = free_addresses(DAEMON_PORTS.len() + 1).unwrap_err();
        let why = std::error::Error::source(&error).unwrap().to_string();
        assert!(why.contains("from 10000 to 19999"), "{why}");
    }
}
