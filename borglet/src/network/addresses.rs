//! Which addresses a machine has for tasks, and who has them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use borg_proto::spec::MAX_DEVICES;

/// Largest and smallest range, by the length of its prefix. /16 holds more tasks than a machine does, /30 one.
const PREFIXES: std::ops::RangeInclusive<u8> = 16..=30;
/// Addresses of a range that no task gets: its own, the machine's, and the last, which means all.
const NOT_FOR_TASKS: u32 = 3;

/// A range of IPv4 addresses for the tasks of a machine, as in `10.88.3.0/24`. The machine itself has the
/// first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    base: u32,
    prefix: u8,
}

impl AddressRange {
    /// The machine's own address in the range: where the tasks' packets go first.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base + 1)
    }

    /// How many tasks it is for: each of its addresses but three, and no more than a machine may have of
    /// anything that is counted.
    #[must_use]
    pub fn tasks(self) -> u32 {
        let most = u32::try_from(MAX_DEVICES).unwrap_or(u32::MAX);
        self.addresses().min(most)
    }

    /// Whether an address is one for tasks.
    #[must_use]
    pub fn holds(self, address: Ipv4Addr) -> bool {
        let first = self.base + 2;
        (first..first + self.addresses()).contains(&address.to_bits())
    }

    fn addresses(self) -> u32 {
        (1_u32 << (32 - self.prefix)) - NOT_FOR_TASKS
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.base), self.prefix)
    }
}

impl FromStr for AddressRange {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: String| {
            format!(
                "{why}; allowed is a range of /16 to /30 by its first address, as in 10.88.3.0/24"
            )
        };
        let parts = text.split_once('/');
        let parts = parts.and_then(|(base, prefix)| {
            Some((base.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?))
        });
        let Some((base, prefix)) = parts else {
            return Err(wrong(format!("{text:?} is no range of IPv4 addresses")));
        };
        if !PREFIXES.contains(&prefix) {
            return Err(wrong(format!("/{prefix} is too large or too small")));
        }
        let within = u32::MAX >> prefix;
        if base.to_bits() & within != 0 {
            let first = Ipv4Addr::from_bits(base.to_bits() & !within);
            return Err(wrong(format!("{base} is in the range that begins with {first}")));
        }
        if base.is_loopback()
            || base.is_multicast()
            || base.octets()[0] == 0
            || base.octets()[0] > 239
        {
            return Err(wrong(format!("{base} is not for hosts")));
        }
        Ok(Self { base: base.to_bits(), prefix })
    }
}

/// The address of the range that a network has as its own, from its table of routes as the kernel shows it
/// (`/proc/PID/net/fib_trie`): an address, and below it that it is local.
pub(crate) fn own_address(routes: &str, range: AddressRange) -> Option<Ipv4Addr> {
    let mut lines = routes.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        let address = line.strip_prefix("|-- ").and_then(|text| text.parse().ok());
        let local = lines.peek().is_some_and(|next| next.ends_with("host LOCAL"));
        if let Some(address) = address.filter(|address| local && range.holds(*address)) {
            return Some(address);
        }
    }
    None
}

/// The addresses that are taken.
#[derive(Debug)]
pub(crate) struct Addresses {
    range: AddressRange,
    taken: BTreeSet<Ipv4Addr>,
    /// Where the next search begins, as the number of an address.
    next: u32,
}

impl Addresses {
    pub(crate) fn new(range: AddressRange) -> Self {
        Self { range, taken: BTreeSet::new(), next: 0 }
    }

    pub(crate) fn range(&self) -> AddressRange {
        self.range
    }

    /// One that is free, beginning after the last that was taken: callers of a task that is over find nobody
    /// for as long as there are others. `None` when all are taken.
    pub(crate) fn take(&mut self) -> Option<Ipv4Addr> {
        let all = self.range.addresses();
        let found = (0..all).map(|ahead| (self.next + ahead) % all).find_map(|number| {
            let address = Ipv4Addr::from_bits(self.range.base + 2 + number);
            (!self.taken.contains(&address)).then_some((number, address))
        });
        let (number, address) = found?;
        self.next = (number + 1) % all;
        self.taken.insert(address);
        Some(address)
    }

    /// Notes that a task has one since an earlier borglet, perhaps out of another range.
    pub(crate) fn hold(&mut self, address: Ipv4Addr) {
        self.taken.insert(address);
    }

    /// Takes one back.
    pub(crate) fn give_back(&mut self, address: Ipv4Addr) {
        self.taken.remove(&address);
    }

    pub(crate) fn any_is_taken(&self) -> bool {
        !self.taken.is_empty()
    }

    pub(crate) fn is_taken(&self, address: Ipv4Addr) -> bool {
        self.taken.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    #[test]
    fn the_address_of_a_network_is_found_in_its_routes() {
        let routes = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.88.3.0\n        /24 link UNICAST\n     \
                      |-- 10.88.3.1\n        /32 host LOCAL\n     |-- 10.88.3.9\n        /32 host LOCAL\n";
        assert_eq!(own_address(routes, range("10.88.3.0/24")), Some(Ipv4Addr::new(10, 88, 3, 9)));
        assert_eq!(own_address(routes, range("10.88.4.0/24")), None);
    }

    #[test]
    fn a_range_is_for_all_of_its_addresses_but_three() {
        let small = range("10.88.3.0/24");
        assert_eq!(small.gateway(), Ipv4Addr::new(10, 88, 3, 1));
        assert_eq!((small.tasks(), small.to_string().as_str()), (253, "10.88.3.0/24"));
        for (last, holds) in [(0, false), (1, false), (2, true), (254, true), (255, false)] {
            assert_eq!(small.holds(Ipv4Addr::new(10, 88, 3, last)), holds, "{last}");
        }
        assert_eq!(range("172.20.0.0/16").tasks(), 1_000, "as many as a machine may say");
        assert_eq!(range("10.0.0.4/30").tasks(), 1);
    }

    #[test]
    fn what_is_no_range_for_tasks_is_refused_with_what_is() {
        for (text, why) in [
            ("10.88.3.0", "\"10.88.3.0\" is no range of IPv4 addresses"),
            ("fd00::/64", "\"fd00::/64\" is no range of IPv4 addresses"),
            ("10.88.3.0/31", "/31 is too large or too small"),
            ("10.0.0.0/8", "/8 is too large or too small"),
            ("10.88.3.7/24", "10.88.3.7 is in the range that begins with 10.88.3.0"),
            ("127.0.1.0/24", "127.0.1.0 is not for hosts"),
            ("224.0.1.0/24", "224.0.1.0 is not for hosts"),
            ("0.0.1.0/24", "0.0.1.0 is not for hosts"),
        ] {
            let told = text.parse::<AddressRange>().unwrap_err();
            assert!(
                told.starts_with(&format!("{why}; allowed is a range of /16 to /30")),
                "{told}"
            );
        }
    }

    #[test]
    fn an_address_that_came_back_is_given_last() {
        let mut addresses = Addresses::new(range("10.0.0.0/29"));
        let first = addresses.take().unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 0, 0, 2));
        addresses.give_back(first);
        let more: Vec<u8> = (0..5).map(|_| addresses.take().unwrap().octets()[3]).collect();
        assert_eq!(more, [3, 4, 5, 6, 2]);
        assert_eq!(addresses.take(), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Take,
        GiveBack(usize),
        Hold(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Take),
            2 => any::<usize>().prop_map(Step::GiveBack),
            1 => any::<u8>().prop_map(Step::Hold),
        ]
    }

    proptest! {
        /// However it is taken, held and given back: no address twice, each of the range, and none is
        /// refused while one is free.
        #[test]
        fn no_two_tasks_have_one_address(steps in proptest::collection::vec(step(), 0..80)) {
            let small = range("10.0.0.0/28");
            let mut addresses = Addresses::new(small);
            let mut held: Vec<Ipv4Addr> = Vec::new();
            for step in steps {
                match step {
                    Step::Take => match addresses.take() {
                        Some(address) => {
                            prop_assert!(small.holds(address));
                            prop_assert!(!held.contains(&address));
                            held.push(address);
                        }
                        None => {
                            let ours = held.iter().filter(|address| small.holds(**address)).count();
                            prop_assert_eq!(ours, 13);
                        }
                    },
                    Step::GiveBack(which) if !held.is_empty() => {
                        let address = held.swap_remove(which % held.len());
                        addresses.give_back(address);
                    }
                    Step::Hold(last) => {
                        let address = Ipv4Addr::new(10, 0, 0, last);
                        addresses.hold(address);
                        if !held.contains(&address) {
                            held.push(address);
                        }
                    }
                    Step::GiveBack(_) => {}
                }
                prop_assert!(held.iter().all(|address| addresses.is_taken(*address)));
            }
        }
    }
}
