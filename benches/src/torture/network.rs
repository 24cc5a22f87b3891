//! A network of its own for each master, whose links can be cut one way.
//!
//! Each master is in a network namespace with one address; they and the clients hang on one bridge.
//! A direction is cut by dropping what arrives: no reset, no ICMP, as a broken switch does it.
//!
//! Invariant: namespaces are the run's own; they end with it (`apart`).

use super::apart::run;
use crate::Error;

/// The bridge.
const BRIDGE: &str = "borg0";

/// A place in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where the clients are.
    Clients,
    /// The master with this place in the list.
    Master(usize),
}

impl Place {
    fn address(self) -> String {
        match self {
            Self::Clients => "10.77.0.254".to_owned(),
            Self::Master(i) => format!("10.77.0.{}", i + 1),
        }
    }
}

/// The network of some masters.
#[derive(Debug)]
pub struct Network {
    masters: usize,
}

impl Network {
    /// Makes it.
    ///
    /// # Errors
    /// What the system refused.
    pub fn make(masters: usize) -> Result<Self, Error> {
        ip(&format!("link add {BRIDGE} type bridge"))?;
        ip(&format!("addr add {}/24 dev {BRIDGE}", Place::Clients.address()))?;
        ip(&format!("link set {BRIDGE} up"))?;
        for i in 0..masters {
            let (space, outer) = (space(i), format!("veth{i}"));
            ip(&format!("netns add {space}"))?;
            ip(&format!("link add {outer} type veth peer name eth0 netns {space}"))?;
            ip(&format!("link set {outer} master {BRIDGE} up"))?;
            let address = Place::Master(i).address();
            ip(&format!("-n {space} addr add {address}/24 dev eth0"))?;
            ip(&format!("-n {space} link set eth0 up"))?;
            ip(&format!("-n {space} link set lo up"))?;
        }
        Ok(Self { masters })
    }

    /// Address of a master, with this port.
    #[must_use]
    pub fn address(&self, master: usize, port: u16) -> String {
        format!("{}:{port}", Place::Master(master).address())
    }

    /// The command that runs another in a master's place.
    #[must_use]
    pub fn command(&self, master: usize) -> Vec<String> {
        ["ip", "netns", "exec", &space(master)].map(str::to_owned).into()
    }

    /// From now on nothing that one sends arrives at the other.
    ///
    /// # Errors
    /// What the system refused.
    pub fn cut(&self, from: Place, to: Place) -> Result<(), Error> {
        tables(to, &["-A", "INPUT", "-s", &from.address(), "-j", "DROP"])
    }

    /// Everything arrives again.
    ///
    /// # Errors
    /// What the system refused.
    pub fn heal(&self) -> Result<(), Error> {
        for place in (0..self.masters).map(Place::Master).chain([Place::Clients]) {
            tables(place, &["-F", "INPUT"])?;
        }
        Ok(())
    }
}

fn space(master: usize) -> String {
    format!("master-{}", master + 1)
}

fn ip(args: &str) -> Result<(), Error> {
    let args: Vec<&str> = args.split(' ').collect();
    run("ip", &args).map(drop)
}

fn tables(at: Place, args: &[&str]) -> Result<(), Error> {
    // Waits for its lock, whose file is this run's own.
    match at {
        Place::Clients => run("iptables-legacy", &[&["-w"], args].concat()).map(drop),
        Place::Master(i) => {
            let space = space(i);
            let program = ["netns", "exec", space.as_str(), "iptables-legacy", "-w"];
            run("ip", &[&program, args].concat()).map(drop)
        }
    }
}
