//! Makes the network namespace of a task, with the pair of interfaces that joins it to the machine's.
//!
//! A thread of its own enters a new namespace, makes the pair from in there and is gone; what holds the
//! namespace is an open file, and from then on the task's processes. So whatever goes wrong, closing that file
//! removes all.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;

use nix::net::if_::{if_nameindex, if_nametoindex};
use nix::sched::{CloneFlags, unshare};

use super::AddressRange;
use super::netlink::{Netlink, Request};

/// Begins the name of the machine's end of a pair; the address follows in hexadecimal.
const OURS: &str = "borg";
/// What a task's end is called.
const THEIRS: &str = "eth0";
/// Settings of a new namespace, before it has an interface but `lo`: ports below 1024 are as good as
/// others, as the address is the task's; and its interface needs no addresses that nobody gave.
const INSIDE: [(&str, &str); 2] = [
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"),
];
/// Settings of the machine's end: packets go on from it to other interfaces; they must come from the task's
/// address, as the way back to any other is not through here; and IPv6 is not spoken, which would be a way
/// around.
const OUTSIDE: [(&str, &str, &str); 3] =
    [("ipv4", "forwarding", "1"), ("ipv4", "rp_filter", "1"), ("ipv6", "disable_ipv6", "1")];

/// A task's network could not be made, and nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub(crate) struct NetworkError {
    /// What was being done.
    step: String,
    /// What the kernel said.
    source: io::Error,
}

fn at(step: &str) -> impl FnOnce(io::Error) -> NetworkError {
    let step = step.to_owned();
    move |source| NetworkError { step, source }
}

/// Makes the network of a task with an address of the range. The namespace lasts until the file is closed and
/// the last process in it has ended.
pub(crate) fn make(range: AddressRange, address: Ipv4Addr) -> Result<OwnedFd, NetworkError> {
    let host: OwnedFd =
        File::open("/proc/thread-self/ns/net").map_err(at("open our network"))?.into();
    let gateway = range.gateway();
    let name = name_of(address);
    let inside = {
        let name = name.clone();
        move || make_inside(&host, &name, address, gateway)
    };
    let maker = thread::Builder::new().name("borglet-network".into()).spawn(inside);
    let maker = maker.map_err(at("make a thread"))?;
    let panicked = || at("make a network namespace")(io::Error::other("a panic"));
    let namespace = maker.join().map_err(|_| panicked())??;
    let index = index_of(&name).map_err(at("find the pair"))?;
    for (family, setting, value) in OUTSIDE {
        let path = format!("/proc/sys/net/{family}/conf/{name}/{setting}");
        set(&path, value)?;
    }
    let netlink = Netlink::open().map_err(at("open netlink"))?;
    netlink.ask(Request::address(index, gateway)).map_err(at("give the pair its address"))?;
    netlink.ask(Request::up(index)).map_err(at("set the pair going"))?;
    netlink.ask(Request::route_to(address, index)).map_err(at("make the route to the task"))?;
    Ok(namespace)
}

/// The thread's life.
fn make_inside(
    host: &OwnedFd,
    name: &str,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
) -> Result<OwnedFd, NetworkError> {
    let entered = unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
    entered.map_err(at("make a network namespace"))?;
    let namespace = File::open("/proc/thread-self/ns/net");
    let namespace = namespace.map_err(at("open the network namespace"))?;
    for (path, value) in INSIDE {
        set(path, value)?;
    }
    let netlink = Netlink::open().map_err(at("open netlink"))?;
    netlink.ask(Request::loopback_up()).map_err(at("set the loopback going"))?;
    let pair = || Request::pair(THEIRS, name, host);
    let made = netlink.ask(pair()).or_else(|error| match error.kind() {
        // Of a task that is over: the kernel takes its time, or somebody else held its namespace open.
        io::ErrorKind::AlreadyExists => remove_in(host, name).and_then(|()| netlink.ask(pair())),
        _other => Err(error),
    });
    made.map_err(at("make a pair of interfaces"))?;
    let index = index_of(THEIRS).map_err(at("find the pair"))?;
    netlink.ask(Request::address(index, address)).map_err(at("give the task its address"))?;
    netlink.ask(Request::route_all(gateway, index)).map_err(at("make the task's route"))?;
    Ok(namespace.into())
}

/// Removes an interface of another namespace, for a thread that may go there and has to come back.
fn remove_in(host: &OwnedFd, name: &str) -> io::Result<()> {
    let back = File::open("/proc/thread-self/ns/net")?;
    nix::sched::setns(host, CloneFlags::CLONE_NEWNET)?;
    let removed = remove(name);
    nix::sched::setns(back, CloneFlags::CLONE_NEWNET)?;
    removed
}

fn remove(name: &str) -> io::Result<()> {
    // Gone by itself meanwhile.
    let Ok(index) = index_of(name) else { return Ok(()) };
    match Netlink::open()?.ask(Request::remove(index)) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(()),
        removed => removed,
    }
}

/// Removes what is left of the networks of tasks that are over: interfaces of the range whose address nobody has
/// by `is_taken`. None is there unless something other than a task holds its namespace open.
pub(crate) fn sweep(range: AddressRange, is_taken: impl Fn(Ipv4Addr) -> bool) -> io::Result<()> {
    for interface in &if_nameindex()? {
        let name = interface.name().to_string_lossy();
        let stray =
            address_in(&name).filter(|address| range.holds(*address) && !is_taken(*address));
        if let Some(address) = stray {
            tracing::warn!(interface = %name, %address, "left by a task that is over: removed");
            remove(&name)?;
        }
    }
    Ok(())
}

/// Whether tasks' packets may go on beyond the machine, and answers come back: some interface that is neither
/// ours nor the loopback passes on what comes in.
pub(crate) fn leaves_the_machine() -> bool {
    let Ok(interfaces) = if_nameindex() else { return false };
    let passes_on = |name: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/forwarding");
        fs::read_to_string(path).is_ok_and(|set| set.trim() == "1")
    };
    interfaces.iter().any(|interface| {
        let name = interface.name().to_string_lossy();
        name != "lo" && address_in(&name).is_none() && passes_on(&name)
    })
}

/// Whether the machine is told to take packets under any address that it has a route to, whatever its interfaces
/// say each by itself.
pub(crate) fn loosely_filtered() -> bool {
    let all = fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter");
    all.is_ok_and(|set| set.trim() == "2")
}

/// Sets the loopback of this thread's network namespace going: a new one has it, and it is down.
///
/// # Errors
/// Without the right to.
pub fn loopback_up() -> io::Result<()> {
    Netlink::open()?.ask(Request::loopback_up())
}

/// The machine's end of the pair of a task.
fn name_of(address: Ipv4Addr) -> String {
    format!("{OURS}{:08x}", address.to_bits())
}

/// The address of the task whose pair an interface is the machine's end of.
fn address_in(name: &str) -> Option<Ipv4Addr> {
    let digits = name.strip_prefix(OURS).filter(|digits| digits.len() == 8)?;
    let address = u32::from_str_radix(digits, 16).ok().map(Ipv4Addr::from_bits)?;
    (name_of(address) == name).then_some(address)
}

fn index_of(name: &str) -> io::Result<u32> {
    Ok(if_nametoindex(name)?)
}

/// Sets a setting of the network namespace of this thread; those that the kernel does not have are no need.
fn set(path: &str, value: &str) -> Result<(), NetworkError> {
    if !Path::new(path).exists() && path.contains("/ipv6/") {
        return Ok(());
    }
    fs::write(path, value).map_err(at(&format!("set {path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_interface_tells_whose_address_it_is_for() {
        let address = Ipv4Addr::new(10, 88, 3, 5);
        assert_eq!(name_of(address), "borg0a580305");
        assert_eq!(address_in("borg0a580305"), Some(address));
        for strange in
            ["borg", "borg0a58030", "borg0A580305", "borg+a580305", "eth0", "xborg0a580305"]
        {
            assert_eq!(address_in(strange), None, "{strange}");
        }
        assert!(name_of(Ipv4Addr::BROADCAST).len() <= 15, "as long as an interface's name may be");
    }
}
