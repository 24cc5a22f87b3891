//! BNS in the words of DNS: which records a name under `CELL.borg` has.
//!
//! An address here is a promise that it works, so jobs and tasks have addresses and ports of what is in
//! service only: up, and healthy if that is checked. Text tells of the others. How records look on the wire,
//! how many fit, and how old a state may be is the shell's.
//!
//! Invariant: what an answer costs goes by how much it may hold and not by how large the job is, but for the
//! first one after the job has changed.

mod rotation;
#[cfg(test)]
mod tests;
mod text;

use self::rotation::Rotations;
use super::labels::{Named, named, of_master};
use super::{Host, Place};
use crate::state::{CellState, Job, Standing};
use borg_proto::JobKey;
use borg_proto::names::{PortName, ReplicaId};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Tasks that are looked at for one answer: many may share a machine, and so an address, or have no such port. Of
/// larger jobs the next answer shows others. A thousand, 0.1 ms: our choice.
const MOST_LOOKED_AT: usize = 1_000;

/// What is asked of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Addresses of four bytes.
    A,
    /// Addresses of sixteen bytes.
    Aaaa,
    /// Hosts with ports: RFC 2782.
    Srv,
    /// What is known of it, for people.
    Txt,
    /// Who answers for the zone.
    Ns,
    /// The zone.
    Soa,
    /// Anything: RFC 8482 lets us say that we would rather not.
    Any,
    /// Something that no name here has.
    Other,
}

/// One of the cell's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// The one that was asked for, as it was written.
    Asked,
    /// A task's.
    Task(JobKey, u32),
    /// A master's label below the zone.
    Master(String),
    /// A host that others give an address to.
    Host(String),
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// An address.
    Address(IpAddr),
    /// Another name has the addresses.
    Alias(Name),
    /// A port of a host.
    Service(u16, Name),
    /// Text, in pieces of at most 255 bytes.
    Text(Vec<String>),
    /// Who answers for the zone.
    Server(Name),
    /// The zone, as it is at this place in the log.
    Zone(u64),
    /// That not everything is told: RFC 8482.
    Minimal,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub of: Name,
    /// What it says.
    pub data: Data,
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// Whether there is such a name.
    pub exists: bool,
    /// The records asked for, at most as many as wanted.
    pub answers: Vec<Record>,
    /// Whether there are more of them.
    pub more: bool,
    /// Addresses of the names in the answers, as far as they are known here.
    pub additional: Vec<Record>,
}

/// Answers from a state, which is to be kept new.
#[derive(Debug)]
pub struct Names {
    state: CellState,
    rotations: Rotations,
}

impl Names {
    /// Answers from this state.
    #[must_use]
    pub fn new(state: CellState) -> Self {
        Self { state, rotations: Rotations::default() }
    }

    /// From here on answers are as of this state.
    pub fn follow(&mut self, state: CellState) {
        self.state = state;
    }

    /// Up to which entry of the log the state is.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.state.applied()
    }

    /// What a name has. `labels` are those before the zone's, lower case; `most` is how many records are
    /// wanted at the most.
    pub fn answer(&mut self, labels: &[&str], wanted: Wanted, most: usize) -> Reply {
        let (state, rotations) = (&self.state, &mut self.rotations);
        let Some(found) = named(state, labels) else { return Reply::default() };
        let mut reply = Reply { exists: true, ..Reply::default() };
        if wanted == Wanted::Any {
            reply.say(Data::Minimal);
            return reply;
        }
        match found {
            Named::Between => {}
            Named::Zone => zone(state, wanted, &mut reply),
            Named::Master(id) => {
                if let Some((host, _)) = state.master(id).and_then(|m| m.address.rsplit_once(':')) {
                    reply.point_at(Host::of(host), wanted);
                }
            }
            Named::Tasks(tasks) => match wanted {
                Wanted::Txt => reply.say(Data::Text(match tasks.index {
                    Some(index) => text::of_task(state, tasks.job, index),
                    None => text::of_job(
                        tasks.job,
                        rotations.of(state, tasks.job).map_or(0, |found| found.len()),
                    ),
                })),
                Wanted::Srv => {
                    let order = rotations.order(state, tasks, wanted);
                    services(state, (tasks.job, None), order, most, &mut reply);
                }
                Wanted::A | Wanted::Aaaa => {
                    let order = rotations.order(state, tasks, wanted);
                    addresses(state, tasks.job, order, (wanted, most), &mut reply);
                }
                Wanted::Ns | Wanted::Soa | Wanted::Any | Wanted::Other => {}
            },
            Named::Port(tasks, port) if wanted == Wanted::Srv => {
                let order = rotations.order(state, tasks, wanted);
                services(state, (tasks.job, Some(port)), order, most, &mut reply);
            }
            Named::Port(..) => {}
        }
        reply
    }
}

/// The addresses of tasks in service. A name may have many of them, but is another name for one host at the
/// most: when none of the tasks has an address of any kind, for that of the first that has a host. With an address of
/// one kind and an alias for the other, whoever remembers the alias would lose the address (RFC 2181, section 10.1).
fn addresses(
    state: &CellState,
    job: &Job,
    order: impl Iterator<Item = u32>,
    (wanted, most): (Wanted, usize),
    reply: &mut Reply,
) {
    let (mut seen, mut alias, mut has_address) = (BTreeSet::new(), None, false);
    for index in order.take(MOST_LOOKED_AT) {
        let Some(place) = serving(state, job, index) else { continue };
        has_address |= matches!(place.host, Host::Address(_));
        match place.host {
            Host::Address(address) if is_wanted(address, wanted) => {
                if !seen.insert(address) {
                    continue;
                }
                if reply.answers.len() == most {
                    reply.more = true;
                    return;
                }
                reply.say(Data::Address(address));
            }
            Host::Address(_) | Host::Name("") => {}
            Host::Name(name) => alias = alias.or(Some(name)),
        }
    }
    if let Some(name) = alias.filter(|_| !has_address) {
        reply.say(Data::Alias(Name::Host(name.to_owned())));
    }
}

/// Hosts and ports of tasks in service, of one port or of all. The host is the task's own name, so that one
/// with a network of its own is found; where the machine goes by a name it is that one.
fn services(
    state: &CellState,
    (job, only): (&Job, Option<&PortName>),
    order: impl Iterator<Item = u32>,
    most: usize,
    reply: &mut Reply,
) {
    for index in order.take(MOST_LOOKED_AT) {
        let Some(place) = serving(state, job, index) else { continue };
        let target = match place.host {
            Host::Address(_) => Name::Task(job.key.clone(), index),
            Host::Name("") => continue,
            Host::Name(name) => Name::Host(name.to_owned()),
        };
        let before = reply.answers.len();
        let ports = job.task_spec(index).ports.iter().zip(place.ports);
        for (_, port) in ports.filter(|(name, _)| only.is_none_or(|only| only == *name)) {
            if reply.answers.len() == most {
                reply.more = true;
                return;
            }
            reply.say(Data::Service(*port, target.clone()));
        }
        if let Host::Address(address) = place.host
            && reply.answers.len() > before
        {
            reply.additional.push(Record { of: target, data: Data::Address(address) });
        }
    }
}

impl Reply {
    fn say(&mut self, data: Data) {
        self.answers.push(Record { of: Name::Asked, data });
    }

    /// The asked name is this host.
    fn point_at(&mut self, host: Host<'_>, wanted: Wanted) {
        match (wanted, host) {
            (Wanted::A | Wanted::Aaaa, Host::Address(address)) if is_wanted(address, wanted) => {
                self.say(Data::Address(address));
            }
            (_, Host::Address(_) | Host::Name("")) => {}
            // Another name for it in every regard.
            (_, Host::Name(name)) => self.say(Data::Alias(Name::Host(name.to_owned()))),
        }
    }
}

fn is_wanted(address: IpAddr, wanted: Wanted) -> bool {
    match address {
        IpAddr::V4(_) => wanted == Wanted::A,
        IpAddr::V6(_) => wanted == Wanted::Aaaa,
    }
}

/// A task that callers may be sent to.
fn serving<'a>(state: &'a CellState, job: &'a Job, index: u32) -> Option<Place<'a>> {
    state.place(job, index).filter(|place| place.up)
}

fn zone(state: &CellState, wanted: Wanted, reply: &mut Reply) {
    match wanted {
        Wanted::Soa => reply.say(Data::Zone(state.applied())),
        Wanted::Ns => {
            for (id, host) in servers(state) {
                match host {
                    Host::Address(address) => {
                        let master = Name::Master(of_master(id));
                        reply.say(Data::Server(master.clone()));
                        reply.additional.push(Record { of: master, data: Data::Address(address) });
                    }
                    Host::Name(name) => reply.say(Data::Server(Name::Host(name.to_owned()))),
                }
            }
        }
        Wanted::A | Wanted::Aaaa | Wanted::Srv | Wanted::Txt | Wanted::Any | Wanted::Other => {}
    }
}

/// The masters that answer, with their hosts.
fn servers(state: &CellState) -> impl Iterator<Item = (ReplicaId, Host<'_>)> {
    let voting = state.masters().filter(|(_, record)| match record.standing {
        Standing::Voting => true,
        Standing::Invited { .. } | Standing::Joining { .. } | Standing::Leaving => false,
    });
    voting.filter_map(|(id, record)| Some((id, Host::of(record.address.rsplit_once(':')?.0))))
}
