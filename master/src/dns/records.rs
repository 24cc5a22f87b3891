//! The zone of a cell, and its records as they are on the wire.
//!
//! Invariant: what is made of names of the cell is a name of DNS: parts are labels, and all of them together are
//! shorter than a name may be, but for what the protocol could not ask for either.

use borg_cell::bns::dns::{self, Data};
use borg_proto::names::CellName;
use hickory_proto::ProtoError;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HINFO, NS, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record};
use std::net::IpAddr;

/// The last label of all names.
const TOP: &str = "borg";
/// Seconds for which others may keep an answer, and that there is none. 1: our choice. A task that became
/// unhealthy is asked to end two seconds after its machine said so, and is called no longer by then; 0 would have
/// every connection of a client ask anew.
pub(super) const TTL: u32 = 1;
/// Seconds between two looks of a secondary server, and until it gives up: there are none, as any master answers.
const REFRESH: i32 = 1;

/// The zone that is answered for: `CELL.borg`.
#[derive(Debug, Clone)]
pub(super) struct Zone {
    name: Name,
    cell: String,
    /// The first server, for whoever wants one: this master.
    server: Name,
}

/// What a name is below the zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Below {
    /// It is not in the zone.
    Outside,
    /// No name of the cell is written like that.
    Unreadable,
    /// Its labels, lower case.
    Labels(Vec<String>),
}

impl Zone {
    /// That of a cell, at the master with this number.
    pub(super) fn new(cell: &CellName, master: u64) -> Self {
        let name = Name::from_labels([cell.as_str().as_bytes(), TOP.as_bytes()])
            .expect("the name of a cell is a label");
        let server = name.prepend_label(format!("master-{master}")).expect("a short label");
        Self { name, cell: cell.to_string(), server }
    }

    /// Where a name is.
    pub(super) fn below(&self, name: &Name) -> Below {
        let labels: Vec<&[u8]> = name.iter().collect();
        let [labels @ .., cell, top] = labels.as_slice() else { return Below::Outside };
        if !top.eq_ignore_ascii_case(TOP.as_bytes())
            || !cell.eq_ignore_ascii_case(self.cell.as_bytes())
        {
            return Below::Outside;
        }
        let lower = |label: &&[u8]| Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase());
        let labels: Option<Vec<String>> = labels.iter().map(lower).collect();
        labels.map_or(Below::Unreadable, Below::Labels)
    }

    /// The record of authority that goes with an answer without records, at a place in the log.
    pub(super) fn authority(&self, index: u64) -> Record {
        Record::from_rdata(self.name.clone(), TTL, RData::SOA(self.soa(index)))
    }

    /// One record of an answer to `asked`; `None` when its name would be too long.
    pub(super) fn record(&self, asked: &Name, record: &dns::Record) -> Option<Record> {
        let data = match &record.data {
            Data::Address(IpAddr::V4(address)) => RData::A(A(*address)),
            Data::Address(IpAddr::V6(address)) => RData::AAAA(AAAA(*address)),
            Data::Alias(of) => RData::CNAME(CNAME(self.named(asked, of).ok()?)),
            // All are equal to callers: which comes first is the rotation's.
            Data::Service(port, host) => {
                RData::SRV(SRV::new(0, 0, *port, self.named(asked, host).ok()?))
            }
            Data::Text(text) => RData::TXT(TXT::new(text.clone())),
            Data::Server(host) => RData::NS(NS(self.named(asked, host).ok()?)),
            Data::Zone(index) => RData::SOA(self.soa(*index)),
            Data::Minimal => RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new())),
        };
        Some(Record::from_rdata(self.named(asked, &record.of).ok()?, TTL, data))
    }

    fn soa(&self, index: u64) -> SOA {
        // Goes round, as the protocol has it: RFC 1982.
        let serial = u32::try_from(index & u64::from(u32::MAX)).unwrap_or(0);
        let mailbox = self.name.prepend_label("hostmaster").unwrap_or_else(|_| self.name.clone());
        SOA::new(self.server.clone(), mailbox, serial, REFRESH, REFRESH, REFRESH, TTL)
    }

    fn named(&self, asked: &Name, name: &dns::Name) -> Result<Name, ProtoError> {
        match name {
            dns::Name::Asked => Ok(asked.clone()),
            dns::Name::Task(job, index) => {
                let index = index.to_string();
                let labels = [&index, job.name.as_str(), job.user.as_str(), &self.cell, TOP];
                Name::from_labels(labels.map(str::as_bytes))
            }
            dns::Name::Master(label) => self.name.prepend_label(label.as_str()),
            dns::Name::Host(host) => {
                let mut name = Name::from_ascii(host)?;
                name.set_fqdn(true);
                Ok(name)
            }
        }
    }
}
