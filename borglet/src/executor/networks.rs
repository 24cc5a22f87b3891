//! Networks of containers' own: who gets which address, and what is left of those that are over.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use super::Executor;
use crate::container::view::HOSTS;
use crate::container::{ContainerId, ContainerSpec, Shown, StartError, TaskDir};
use crate::network::{self, AddressRange, Addresses};

impl Executor {
    /// Finds out by doing whether containers can have networks of their own, and how many can at once. To be
    /// called after [`Executor::adopt`].
    ///
    /// # Errors
    /// Why there can be none although there are addresses, for people.
    pub fn try_networks(&self) -> Result<Option<AddressRange>, String> {
        let Some(range) = self.0.config.network else { return Ok(None) };
        if self.0.addresses.is_none() {
            return Err("no root or no namespaces: tasks have no networks of their own".to_owned());
        }
        // Where a task of an earlier borglet has one it was found out before.
        let address = self.addresses().filter(|all| !all.any_is_taken());
        let Some(address) = address.and_then(|mut all| all.take()) else {
            return Ok(Some(range));
        };
        let made = network::make(range, address);
        self.give_back(Some(address));
        let none = |error| format!("tasks have no networks of their own ({error})");
        made.map(drop).map_err(none)?;
        if !network::leaves_the_machine() {
            tracing::warn!(%range, "tasks with addresses of their own are reached from this machine alone: no interface forwards");
        }
        Ok(Some(range))
    }

    /// The address that a container has, if its network is its own.
    #[must_use]
    pub fn address(&self, id: &ContainerId) -> Option<Ipv4Addr> {
        self.table().get(id)?.address
    }

    pub(super) fn addresses(&self) -> Option<MutexGuard<'_, Addresses>> {
        let addresses = self.0.addresses.as_ref()?;
        Some(addresses.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives a container its address, where it asks for a network of its own, and with it what goes by that
    /// address.
    pub(super) fn give_address(
        &self,
        dir: &TaskDir,
        spec: &mut ContainerSpec,
    ) -> Result<Option<Ipv4Addr>, StartError> {
        spec.address = None;
        if !spec.own_network {
            return Ok(None);
        }
        let none = |why: String| StartError::machine("give it an address of its own", why);
        let mut addresses = self.addresses().ok_or_else(|| {
            none("this machine has no addresses for tasks (borglet --task-network)".to_owned())
        })?;
        let address = addresses
            .take()
            .ok_or_else(|| StartError::NoAddress { range: addresses.range().to_string() })?;
        drop(addresses);
        spec.address = Some(address);
        show_hosts(dir, spec, address).inspect_err(|_| self.give_back(Some(address)))?;
        Ok(Some(address))
    }

    /// The address that the network of a process has, if that is one of tasks.
    pub(super) fn address_of(&self, pid: i32) -> Option<Ipv4Addr> {
        let range = self.addresses()?.range();
        let routes = fs::read_to_string(format!("/proc/{pid}/net/fib_trie")).ok()?;
        network::own_address(&routes, range)
    }

    /// Takes an address back.
    pub(super) fn give_back(&self, address: Option<Ipv4Addr>) {
        if let (Some(address), Some(mut addresses)) = (address, self.addresses()) {
            addresses.give_back(address);
        }
    }

    /// Makes the network of a container that has an address.
    pub(super) fn make_network(&self, spec: &ContainerSpec) -> Result<Option<OwnedFd>, StartError> {
        let Some(address) = spec.address else { return Ok(None) };
        let range = self.addresses().map(|addresses| addresses.range());
        let made = range.map(|range| network::make(range, address)).transpose();
        made.map_err(|error| StartError::machine("make its network", error))
    }

    /// Notes which addresses an earlier borglet gave, and removes what is left of networks of tasks that are
    /// over; nothing while one runs that has a network of its own and no address that is known.
    pub(super) fn settle_networks(&self) {
        let table = self.table();
        let held: Vec<Ipv4Addr> = table.values().filter_map(|entry| entry.address).collect();
        let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let ours = network("thread-self");
        let unknown = table.values().filter(|entry| entry.address.is_none()).any(|entry| {
            let live = entry.live.as_ref();
            live.is_some_and(|live| network(&live.started.pid.to_string()) != ours)
        });
        drop(table);
        let Some(mut addresses) = self.addresses() else { return };
        held.into_iter().for_each(|address| addresses.hold(address));
        let range = addresses.range();
        if unknown {
            return;
        }
        if let Err(error) = network::sweep(range, |address| addresses.is_taken(address)) {
            tracing::warn!(%range, %error, "cannot look for interfaces that are left");
        }
    }
}

/// Shows a container a table of hosts by which it finds itself, where there is one to be shown.
fn show_hosts(
    dir: &TaskDir,
    spec: &mut ContainerSpec,
    address: Ipv4Addr,
) -> Result<(), StartError> {
    let there = Path::new(HOSTS).symlink_metadata().is_ok_and(|found| found.is_file());
    if !there && spec.root.is_none() {
        return Ok(());
    }
    let name = spec.id.host_name();
    let text = format!("127.0.0.1 localhost\n::1 localhost\n{address} {name}\n");
    fs::write(dir.hosts(), text).map_err(|e| StartError::machine("write its table of hosts", e))?;
    spec.packages.push(Shown { source: dir.hosts(), target: HOSTS.into() });
    Ok(())
}
