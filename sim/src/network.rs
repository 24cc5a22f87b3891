//! A network that delays, loses, doubles and cuts.
//!
//! Says when copies of a message arrive; carrying them is the world's. Nodes are numbers: the
//! masters first, then the machines. Clients reach every master.

use crate::dice::Dice;
use borg_proto::Millis;
use std::collections::BTreeMap;

/// How bad the network is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conditions {
    /// Least and most time on the way.
    pub latency: (u64, u64),
    /// How many of a thousand messages are lost.
    pub lost: u64,
    /// How many of a thousand arrive twice.
    pub doubled: u64,
    /// How many of a thousand are held up, for up to `held_up_for`: they are overtaken.
    pub held_up: u64,
    /// See `held_up`.
    pub held_up_for: Millis,
}

impl Conditions {
    /// A data centre on a good day.
    pub const GOOD: Self =
        Self { latency: (1, 2), lost: 0, doubled: 0, held_up: 0, held_up_for: Millis(0) };
}

/// The delays of the copies of one message: none when it is lost.
pub type Copies = [Option<Millis>; 2];

/// The network of a world.
#[derive(Debug)]
pub struct Network {
    nodes: usize,
    /// How many faults cut the way from one node to another.
    cuts: Vec<u16>,
    /// The present conditions.
    pub conditions: Conditions,
    /// Ways that are worse than the others.
    bad: BTreeMap<(usize, usize), Conditions>,
}

impl Network {
    /// A whole network.
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        let cuts = vec![0; nodes * nodes];
        Self { nodes, cuts, conditions: Conditions::GOOD, bad: BTreeMap::new() }
    }

    /// Makes one way worse than the others, or as good again.
    pub fn worsen(&mut self, from: usize, to: usize, conditions: Option<Conditions>) {
        match conditions {
            Some(conditions) => self.bad.insert((from, to), conditions),
            None => self.bad.remove(&(from, to)),
        };
    }

    /// Whether messages get from one node to the other as they should.
    #[must_use]
    pub fn is_good(&self, from: usize, to: usize) -> bool {
        self.is_open(from, to)
            && self.conditions == Conditions::GOOD
            && !self.bad.contains_key(&(from, to))
    }

    /// Nothing gets from one node to the other until it is [mended](Self::mend) as often as cut.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cuts[from * self.nodes + to] += 1;
    }

    /// Takes back one [cut](Self::cut).
    pub fn mend(&mut self, from: usize, to: usize) {
        let cuts = &mut self.cuts[from * self.nodes + to];
        *cuts = cuts.saturating_sub(1);
    }

    /// Whether messages can get from one node to the other.
    #[must_use]
    pub fn is_open(&self, from: usize, to: usize) -> bool {
        self.cuts[from * self.nodes + to] == 0
    }

    /// When a message between two nodes arrives.
    pub fn send(&self, dice: &mut Dice, from: usize, to: usize) -> Copies {
        if !self.is_open(from, to) {
            return [None, None];
        }
        let worse = if self.bad.is_empty() { None } else { self.bad.get(&(from, to)) };
        carry(worse.unwrap_or(&self.conditions), dice)
    }

    /// When a message to or from a client arrives.
    pub fn outside(&self, dice: &mut Dice) -> Copies {
        carry(&self.conditions, dice)
    }
}

fn carry(now: &Conditions, dice: &mut Dice) -> Copies {
    let roll = dice.roll();
    let part = |shift: u32| (roll >> shift) & 0x3ff;
    let scaled = |permille: u64| permille * 1_024 / 1_000;
    if part(0) < scaled(now.lost) {
        return [None, None];
    }
    let (least, most) = now.latency;
    let spread = most - least + 1;
    let mut first = least + (roll >> 40) % spread;
    if part(10) < scaled(now.held_up) {
        first += dice.below(now.held_up_for.0 + 1);
    }
    let second = (part(20) < scaled(now.doubled)).then(|| Millis(first + dice.below(20)));
    [Some(Millis(first)), second]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_holds_one_way_until_every_fault_that_made_it_is_mended() {
        let mut network = Network::new(3);
        let mut dice = Dice::new(1);
        network.cut(0, 1);
        network.cut(0, 1);
        network.mend(0, 1);
        assert_eq!(network.send(&mut dice, 0, 1), [None, None]);
        assert!(network.send(&mut dice, 1, 0)[0].is_some());
        network.mend(0, 1);
        assert!(network.send(&mut dice, 0, 1)[0].is_some());
    }

    #[test]
    fn a_bad_network_loses_and_doubles_about_as_often_as_told() {
        let mut network = Network::new(2);
        network.conditions = Conditions {
            lost: 100,
            doubled: 50,
            latency: (1, 9),
            held_up: 10,
            held_up_for: Millis(50),
        };
        let mut dice = Dice::new(2);
        let sent: Vec<_> = (0..10_000).map(|_| network.send(&mut dice, 0, 1)).collect();
        let lost = sent.iter().filter(|copies| copies[0].is_none()).count();
        let doubled = sent.iter().filter(|copies| copies[1].is_some()).count();
        assert!((850..1_150).contains(&lost) && (350..550).contains(&doubled), "{lost} {doubled}");
    }

    #[test]
    fn one_way_may_be_worse_than_the_others() {
        let mut network = Network::new(2);
        let mut dice = Dice::new(3);
        network.worsen(0, 1, Some(Conditions { lost: 1_000, ..Conditions::GOOD }));
        assert!(!network.is_good(0, 1) && network.is_open(0, 1) && network.is_good(1, 0));
        assert_eq!(network.send(&mut dice, 0, 1), [None, None]);
        assert!(network.send(&mut dice, 1, 0)[0].is_some());
        network.worsen(0, 1, None);
        assert!(network.send(&mut dice, 0, 1)[0].is_some());
    }
}
