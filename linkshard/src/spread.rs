//! Which machine gets a blob from whom.
//!
//! Machines report which blobs they want and hold; here each that wants one is given a source. The first
//! gets it from the master that this shard is part of, the others from machines that hold it already, each
//! of which gives it to a few at a time: a tree that grows by itself (Borg paper, section 3.2). Machines of
//! other shards are not known here, so a blob leaves the masters once for each shard.
//!
//! Invariants: nobody is given more than [`CHILDREN`] others at a time to serve, and of a blob one copy at
//! a time leaves the master. Whoever did not serve somebody is not named to it again while it says so. All
//! of it follows from what machines report, so nothing is lost with a shard.

use borg_proto::names::MachineName;
use borg_proto::package::Digest;
use borg_proto::poll::{BlobReport, BlobSource, Holder};
use borg_proto::time::Millis;
use std::collections::{BTreeMap, BTreeSet};

/// Most machines that get blobs from one other at a time. 4: our choice; after n rounds 5^n machines hold
/// it, and a machine still has most of its network to itself.
pub(crate) const CHILDREN: usize = 4;
/// Most blobs that leave the master at a time. 4: our choice.
const PUSHES: usize = 4;
/// First wait after a blob could not be handed over; doubles with each failure in a row. Our choice.
const FIRST_WAIT: Millis = Millis(500);
/// Longest such wait. Our choice.
const LONGEST_WAIT: Millis = Millis(30_000);
/// A source that brought nothing for so long is taken back. 60 s: our choice; whoever is served gives up
/// much sooner and says so, unless it is gone itself.
const NO_PROGRESS: Millis = Millis(60_000);
/// What was handed over shows in the machine's report after this time at the latest. Our choice.
const SHOWS_WITHIN: Millis = Millis(5_000);

/// A blob that is to be handed to a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Push {
    pub(crate) machine: MachineName,
    pub(crate) address: String,
    pub(crate) digest: Digest,
    /// From where on.
    pub(crate) offset: u64,
}

/// What one machine said last.
#[derive(Debug, Default)]
struct Machine {
    address: String,
    blobs: Vec<BlobReport>,
    /// How many others it serves.
    serves: usize,
}

#[derive(Debug)]
struct Given {
    from: Source,
    have: u64,
    /// When it was given, or brought something last.
    moved_at: Millis,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Machine(MachineName),
    /// It is being handed over.
    Push,
    /// It was handed over, which shows in the next report.
    Pushed,
}

/// How often in a row a blob could not be handed over, and when it is tried again.
#[derive(Debug, Clone, Copy)]
struct Wait {
    until: Millis,
    failures: u32,
}

/// Who gets what from whom, among the machines of one shard.
#[derive(Debug, Default)]
pub(crate) struct Spread {
    machines: BTreeMap<MachineName, Machine>,
    holders: BTreeMap<Digest, BTreeSet<MachineName>>,
    /// Wanted, and without a source.
    waiting: BTreeSet<(Digest, MachineName)>,
    given: BTreeMap<(MachineName, Digest), Given>,
    /// To whom a blob is handed over, until that machine says that it holds it.
    pushes: BTreeMap<Digest, MachineName>,
    waits: BTreeMap<Digest, Wait>,
    /// Machines of which the sources changed since they were last looked at.
    changed: BTreeSet<MachineName>,
}

impl Spread {
    /// A machine said what it wants and holds.
    pub(crate) fn report(
        &mut self,
        now: Millis,
        name: &MachineName,
        address: &str,
        blobs: &[BlobReport],
    ) {
        if blobs.is_empty() && !self.machines.contains_key(name) {
            return;
        }
        let machine = self.machines.entry(name.clone()).or_default();
        if machine.blobs == blobs && machine.address == address {
            return;
        }
        address.clone_into(&mut machine.address);
        let before = std::mem::replace(&mut machine.blobs, blobs.to_vec());
        let held = |blobs: &[BlobReport]| -> BTreeSet<Digest> {
            blobs.iter().filter(|blob| blob.held).map(|blob| blob.digest).collect()
        };
        let (was, is) = (held(&before), held(blobs));
        for digest in was.difference(&is) {
            self.no_longer_holds(name, *digest);
        }
        for digest in is.difference(&was) {
            self.holders.entry(*digest).or_default().insert(name.clone());
        }
        for blob in before.iter().filter(|blob| !blob.held) {
            let still = blobs.iter().any(|is| is.digest == blob.digest && !is.held);
            if !still {
                self.waiting.remove(&(blob.digest, name.clone()));
                self.take_back(name, blob.digest);
            }
        }
        for blob in blobs.iter().filter(|blob| !blob.held) {
            self.wants(now, name, blob);
        }
    }

    fn wants(&mut self, now: Millis, name: &MachineName, blob: &BlobReport) {
        let key = (name.clone(), blob.digest);
        let Some(given) = self.given.get_mut(&key) else {
            self.waiting.insert((blob.digest, name.clone()));
            return;
        };
        if given.have != blob.have {
            (given.have, given.moved_at) = (blob.have, now);
        }
        if matches!(&given.from, Source::Machine(source) if blob.failed.contains(source)) {
            self.take_back(name, blob.digest);
            self.waiting.insert((blob.digest, name.clone()));
        }
    }

    /// A machine does not answer, or is another shard's.
    pub(crate) fn lose(&mut self, name: &MachineName) {
        let Some(machine) = self.machines.get_mut(name) else { return };
        for blob in std::mem::take(&mut machine.blobs) {
            if blob.held {
                self.no_longer_holds(name, blob.digest);
            } else {
                self.waiting.remove(&(blob.digest, name.clone()));
                self.take_back(name, blob.digest);
            }
        }
        self.machines.remove(name);
        self.changed.remove(name);
    }

    /// Whoever got a blob from a machine needs another source.
    fn no_longer_holds(&mut self, name: &MachineName, digest: Digest) {
        if let Some(holders) = self.holders.get_mut(&digest) {
            holders.remove(name);
            if holders.is_empty() {
                self.holders.remove(&digest);
            }
        }
        let served = self.given.iter().filter(|((_, of), given)| {
            *of == digest && given.from == Source::Machine(name.clone())
        });
        let served: Vec<MachineName> = served.map(|((child, _), _)| child.clone()).collect();
        for child in served {
            self.take_back(&child, digest);
            self.waiting.insert((digest, child));
        }
    }

    fn take_back(&mut self, name: &MachineName, digest: Digest) {
        let Some(given) = self.given.remove(&(name.clone(), digest)) else { return };
        self.changed.insert(name.clone());
        if self.pushes.get(&digest) == Some(name) {
            self.pushes.remove(&digest);
        }
        if let Source::Machine(source) = given.from
            && let Some(machine) = self.machines.get_mut(&source)
        {
            machine.serves = machine.serves.saturating_sub(1);
        }
    }

    /// What was handed over is there, or could not be handed over.
    pub(crate) fn pushed(&mut self, now: Millis, name: &MachineName, digest: Digest, done: bool) {
        if self.pushes.get(&digest) != Some(name) {
            return;
        }
        if done {
            // The next may have it from this machine, as soon as that says that it holds it.
            self.waits.remove(&digest);
            if let Some(given) = self.given.get_mut(&(name.clone(), digest)) {
                (given.from, given.moved_at) = (Source::Pushed, now);
            }
            return;
        }
        self.pushes.remove(&digest);
        let failures = self.waits.get(&digest).map_or(0, |wait| wait.failures).saturating_add(1);
        let wait = Millis(FIRST_WAIT.0 << (failures - 1).min(16)).min(LONGEST_WAIT);
        self.waits.insert(digest, Wait { until: now + wait, failures });
        if self.given.contains_key(&(name.clone(), digest)) {
            self.take_back(name, digest);
            self.waiting.insert((digest, name.clone()));
        }
    }

    /// Gives sources to those that wait for one. Says what is to be handed over, and whose sources changed.
    pub(crate) fn decide(&mut self, now: Millis) -> (Vec<Push>, BTreeSet<MachineName>) {
        self.take_back_what_stands_still(now);
        let mut pushes = Vec::new();
        let waiting: Vec<_> = self.waiting.iter().cloned().collect();
        let mut full = None;
        for (digest, name) in waiting {
            // Ordered by blob: whoever waits for the same one waits too.
            if full == Some(digest) {
                continue;
            }
            match self.best_holder(&name, digest) {
                Best::Holder(source) => {
                    if let Some(machine) = self.machines.get_mut(&source) {
                        machine.serves += 1;
                    }
                    self.give(now, name, digest, Source::Machine(source));
                }
                Best::AllBusy => full = Some(digest),
                Best::Busy => {}
                Best::Nobody if self.may_push(now, digest) => {
                    let Some(machine) = self.machines.get(&name) else { continue };
                    let offset = have(&machine.blobs, digest);
                    let (address, machine) = (machine.address.clone(), name.clone());
                    pushes.push(Push { machine, address, digest, offset });
                    self.pushes.insert(digest, name.clone());
                    self.give(now, name, digest, Source::Push);
                }
                Best::Nobody => {}
            }
        }
        (pushes, std::mem::take(&mut self.changed))
    }

    fn may_push(&self, now: Millis, digest: Digest) -> bool {
        let waits = self.waits.get(&digest).is_some_and(|wait| wait.until > now);
        !waits && !self.pushes.contains_key(&digest) && self.pushes.len() < PUSHES
    }

    /// The machine from which another can get a blob.
    fn best_holder(&self, name: &MachineName, digest: Digest) -> Best {
        let (Some(holders), Some(machine)) = (self.holders.get(&digest), self.machines.get(name))
        else {
            return Best::Nobody;
        };
        let Some(blob) = machine.blobs.iter().find(|blob| blob.digest == digest) else {
            return Best::Nobody;
        };
        let usable =
            holders.iter().filter(|holder| *holder != name && !blob.failed.contains(holder));
        let serves = |holder: &&MachineName| self.machines.get(*holder).map_or(0, |m| m.serves);
        match usable.min_by_key(serves) {
            None => Best::Nobody,
            Some(best) if serves(&best) < CHILDREN => Best::Holder(best.clone()),
            Some(_) if blob.failed.is_empty() => Best::AllBusy,
            Some(_) => Best::Busy,
        }
    }

    fn give(&mut self, now: Millis, name: MachineName, digest: Digest, from: Source) {
        self.waiting.remove(&(digest, name.clone()));
        self.changed.insert(name.clone());
        let have = self.machines.get(&name).map_or(0, |machine| have(&machine.blobs, digest));
        self.given.insert((name, digest), Given { from, have, moved_at: now });
    }

    fn take_back_what_stands_still(&mut self, now: Millis) {
        let stuck = self.given.iter().filter(|(_, given)| match given.from {
            Source::Machine(_) => now.since(given.moved_at) >= NO_PROGRESS,
            Source::Pushed => now.since(given.moved_at) >= SHOWS_WITHIN,
            // Whoever hands it over says how it went.
            Source::Push => false,
        });
        let stuck: Vec<_> = stuck.map(|(key, _)| key.clone()).collect();
        for (name, digest) in stuck {
            self.take_back(&name, digest);
            self.waiting.insert((digest, name));
        }
    }

    /// Where a machine gets what it wants, in order.
    pub(crate) fn sources(&self, name: &MachineName) -> Vec<BlobSource> {
        let Some(machine) = self.machines.get(name) else { return Vec::new() };
        let wanted = machine.blobs.iter().filter(|blob| !blob.held);
        let source = |blob: &BlobReport| {
            let from = match &self.given.get(&(name.clone(), blob.digest))?.from {
                Source::Machine(source) => Holder::Machine {
                    machine: source.clone(),
                    address: self.machines.get(source)?.address.clone(),
                },
                Source::Push | Source::Pushed => Holder::Master,
            };
            Some(BlobSource { digest: blob.digest, from })
        };
        wanted.filter_map(source).collect()
    }

    /// When time alone changes something.
    pub(crate) fn next_due(&self) -> Option<Millis> {
        if self.waiting.is_empty() {
            return None;
        }
        self.waits.values().map(|wait| wait.until).min()
    }
}

/// From whom a machine can get a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Best {
    /// From this one, now.
    Holder(MachineName),
    /// From one of those that could serve it, later: they are busy. Others may serve the next that waits.
    Busy,
    /// The same, and these are all that hold it: whoever waits for the blob waits too.
    AllBusy,
    /// From no machine at any time.
    Nobody,
}

fn have(blobs: &[BlobReport], digest: Digest) -> u64 {
    blobs.iter().find(|blob| blob.digest == digest).map_or(0, |blob| blob.have)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOB: Digest = Digest([7; 32]);

    fn name(number: usize) -> MachineName {
        MachineName::new(&format!("m-{number}")).unwrap()
    }

    fn wanted(failed: &[MachineName]) -> BlobReport {
        BlobReport { digest: BLOB, held: false, have: 0, failed: failed.to_vec() }
    }

    fn held() -> BlobReport {
        BlobReport { digest: BLOB, held: true, have: 0, failed: Vec::new() }
    }

    /// What becomes of a transfer: it arrives, fails, or takes another round.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fate {
        Arrives,
        Fails,
        Lasts,
    }

    /// Machines that all want one blob, in rounds.
    struct World {
        spread: Spread,
        now: Millis,
        failed: BTreeMap<MachineName, Vec<MachineName>>,
        has: BTreeSet<MachineName>,
        machines: usize,
        rounds: usize,
        left_masters: usize,
    }

    impl World {
        fn new(machines: usize) -> Self {
            let mut world = Self {
                spread: Spread::default(),
                now: Millis(1_000),
                failed: BTreeMap::new(),
                has: BTreeSet::new(),
                machines,
                rounds: 0,
                left_masters: 0,
            };
            (0..machines).for_each(|number| world.tell(&name(number)));
            world
        }

        fn tell(&mut self, machine: &MachineName) {
            let failed = self.failed.get(machine).cloned().unwrap_or_default();
            let blob = if self.has.contains(machine) { held() } else { wanted(&failed) };
            self.spread.report(self.now, machine, "10.0.0.1:1", &[blob]);
        }

        fn round(&mut self, mut fate: impl FnMut() -> Fate) {
            self.rounds += 1;
            self.now = self.now + Millis(1_000);
            let (pushes, _) = self.spread.decide(self.now);
            assert!(pushes.len() <= 1, "one copy at a time leaves the master: {pushes:?}");
            self.check();
            for push in pushes {
                self.left_masters += 1;
                let arrives = fate() != Fate::Fails;
                if arrives {
                    self.has.insert(push.machine.clone());
                }
                self.spread.pushed(self.now, &push.machine, BLOB, arrives);
                self.tell(&push.machine);
            }
            for machine in (0..self.machines).map(name) {
                for source in self.spread.sources(&machine) {
                    let Holder::Machine { machine: from, .. } = source.from else { continue };
                    assert!(self.has.contains(&from), "{from} is named and does not hold it");
                    match fate() {
                        Fate::Arrives => drop(self.has.insert(machine.clone())),
                        Fate::Fails => self.failed.entry(machine.clone()).or_default().push(from),
                        Fate::Lasts => {}
                    }
                    self.tell(&machine);
                }
            }
        }

        fn check(&self) {
            let mut serves: BTreeMap<&MachineName, usize> = BTreeMap::new();
            for given in self.spread.given.values() {
                if let Source::Machine(source) = &given.from {
                    *serves.entry(source).or_default() += 1;
                }
            }
            for (name, machine) in &self.spread.machines {
                let counted = serves.get(name).copied().unwrap_or(0);
                assert_eq!(machine.serves, counted, "{name}");
                assert!(counted <= CHILDREN, "{name} serves {counted}");
            }
        }
    }

    /// 2,000 machines is what a shard of a cell of 10,000 has: the master sends one copy in 2,000, and the
    /// tree is as deep as five to the power of its depth says.
    #[test]
    fn one_copy_leaves_the_master_and_five_times_as_many_hold_it_after_each_round() {
        let mut world = World::new(2_000);
        while world.has.len() < 2_000 {
            world.round(|| Fate::Arrives);
            assert!(world.rounds < 20);
        }
        assert_eq!(world.left_masters, 1);
        // 5^4 < 2,000 < 5^5, and one round to hand it to the first.
        assert!(world.rounds <= 6, "{} rounds", world.rounds);
        assert!(world.spread.given.is_empty() && world.spread.waiting.is_empty());
    }

    /// Between the end of a push and the report that shows it, nobody else is handed the blob.
    #[test]
    fn what_was_handed_over_is_waited_for_before_it_leaves_again() {
        let mut world = World::new(2);
        let (pushes, _) = world.spread.decide(world.now);
        world.spread.pushed(world.now, &pushes[0].machine, BLOB, true);
        assert_eq!(world.spread.decide(world.now).0, []);
        world.has.insert(pushes[0].machine.clone());
        world.tell(&pushes[0].machine);
        world.spread.decide(world.now);
        let from = world.spread.sources(&name(1))[0].from.clone();
        assert!(matches!(from, Holder::Machine { machine, .. } if machine == pushes[0].machine));
        // One that forgot it again is served anew.
        let mut world = World::new(2);
        let (pushes, _) = world.spread.decide(world.now);
        world.spread.pushed(world.now, &pushes[0].machine, BLOB, true);
        assert_eq!(world.spread.decide(world.now + SHOWS_WITHIN).0.len(), 1);
    }

    /// A machine that one holder failed waits for the others while these are busy: that costs the master no
    /// copy.
    #[test]
    fn whoever_is_barred_from_one_holder_waits_for_the_others_that_are_busy() {
        let mut world = World::new(6);
        world.has.insert(name(0));
        world.tell(&name(0));
        world.spread.decide(world.now);
        assert_eq!(world.spread.machines[&name(0)].serves, CHILDREN);
        world.failed.insert(name(5), vec![name(9)]);
        world.tell(&name(5));
        let (pushes, _) = world.spread.decide(world.now);
        assert_eq!(pushes, [], "the holder is only busy");
        world.has.insert(name(1));
        world.tell(&name(1));
        world.spread.decide(world.now);
        assert_eq!(world.spread.sources(&name(5)).len(), 1, "one that can serve it is there");
        world.check();
    }

    #[test]
    fn whoever_loses_its_source_gets_another_one() {
        let mut world = World::new(3);
        world.round(|| Fate::Arrives);
        let first = world.has.first().cloned().unwrap();
        world.spread.lose(&first);
        let (pushes, changed) = world.spread.decide(world.now + Millis(10));
        assert_eq!(pushes.len(), 1, "nobody holds it any more");
        assert!(changed.contains(&pushes[0].machine));
        world.check();
    }

    #[test]
    fn a_blob_that_cannot_be_handed_over_is_tried_again_later_each_time() {
        let mut spread = Spread::default();
        let mut now = Millis(0);
        spread.report(now, &name(1), "a:1", &[wanted(&[])]);
        let mut waits = Vec::new();
        for _ in 0..9 {
            let from = now;
            while spread.decide(now).0.is_empty() {
                now = spread.next_due().unwrap();
            }
            waits.push(now.since(from).0);
            spread.pushed(now, &name(1), BLOB, false);
        }
        assert_eq!(waits, [0, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
    }

    proptest! {
        /// Whatever fails, everybody gets it in the end, nobody serves too many, and what leaves the
        /// masters is what nobody else could serve.
        #[test]
        fn everybody_gets_it_though_transfers_fail_and_machines_vanish(
            machines in 2_usize..60,
            fates in proptest::collection::vec(0_u8..10, 1..200),
            lost in proptest::collection::vec(0_usize..60, 0..4),
        ) {
            let mut world = World::new(machines);
            let mut at = 0;
            let mut losses = lost.into_iter();
            while world.has.len() < machines {
                let mut fate = || {
                    at += 1;
                    match fates.get(at) {
                        Some(0) => Fate::Fails,
                        Some(1..=3) => Fate::Lasts,
                        Some(_) | None => Fate::Arrives,
                    }
                };
                world.round(&mut fate);
                if let Some(number) = losses.next().filter(|number| *number < machines) {
                    // It comes back with nothing.
                    world.spread.lose(&name(number));
                    world.has.remove(&name(number));
                    world.failed.remove(&name(number));
                    world.tell(&name(number));
                }
                world.check();
                prop_assert!(world.rounds < 400, "{} of {machines} have it", world.has.len());
            }
            prop_assert!(world.left_masters <= 1 + fates.len().min(at) + 4);
        }
    }
}
