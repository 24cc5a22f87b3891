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
    /// Whether it was looked at since it is over.
    looked: bool,
}

/// Who gets what from whom, among the machines of one shard.
#[derive(Debug, Default)]
pub(crate) struct Spread {
    machines: BTreeMap<MachineName, Machine>,
    holders: BTreeMap<Digest, BTreeSet<MachineName>>,
    /// Wanted, and without a source. None of the sets is empty.
    waiting: BTreeMap<Digest, BTreeSet<MachineName>>,
    /// Blobs of which something changed that may give a source to who waits: the others are not looked at.
    look: BTreeSet<Digest>,
    /// Blobs that the master could hand over, had it room for more at a time.
    held_up: BTreeSet<Digest>,
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
            self.look.insert(*digest);
        }
        for blob in before.iter().filter(|blob| !blob.held) {
            let still = blobs.iter().any(|is| is.digest == blob.digest && !is.held);
            if !still {
                self.waits_no_longer(name, blob.digest);
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
            return self.wait(name.clone(), blob.digest);
        };
        if given.have != blob.have {
            (given.have, given.moved_at) = (blob.have, now);
        }
        if matches!(&given.from, Source::Machine(source) if blob.failed.contains(source)) {
            self.take_back(name, blob.digest);
            self.wait(name.clone(), blob.digest);
        }
    }

    fn wait(&mut self, name: MachineName, digest: Digest) {
        self.waiting.entry(digest).or_default().insert(name);
        self.look.insert(digest);
    }

    fn waits_no_longer(&mut self, name: &MachineName, digest: Digest) {
        let Some(waiting) = self.waiting.get_mut(&digest) else { return };
        waiting.remove(name);
        if waiting.is_empty() {
            self.waiting.remove(&digest);
        }
    }

    /// A machine does not answer, or is another shard's.
    pub(crate) fn lose(&mut self, name: &MachineName) {
        let Some(machine) = self.machines.get_mut(name) else { return };
        for blob in std::mem::take(&mut machine.blobs) {
            if blob.held {
                self.no_longer_holds(name, blob.digest);
            } else {
                self.waits_no_longer(name, blob.digest);
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
            self.look.insert(digest);
        }
        let served = self.given.iter().filter(|((_, of), given)| {
            *of == digest && given.from == Source::Machine(name.clone())
        });
        let served: Vec<MachineName> = served.map(|((child, _), _)| child.clone()).collect();
        for child in served {
            self.take_back(&child, digest);
            self.wait(child, digest);
        }
    }

    fn take_back(&mut self, name: &MachineName, digest: Digest) {
        let Some(given) = self.given.remove(&(name.clone(), digest)) else { return };
        self.changed.insert(name.clone());
        if self.pushes.get(&digest) == Some(name) {
            self.end_push(digest);
        }
        if let Source::Machine(source) = given.from
            && let Some(machine) = self.machines.get_mut(&source)
        {
            machine.serves = machine.serves.saturating_sub(1);
            // It may serve others now, with all that it holds.
            let holds = |digest: &&Digest| {
                self.holders.get(digest).is_some_and(|holders| holders.contains(&source))
            };
            self.look.extend(self.waiting.keys().filter(holds));
        }
    }

    fn end_push(&mut self, digest: Digest) {
        self.pushes.remove(&digest);
        self.look.insert(digest);
        self.look.append(&mut self.held_up);
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
        self.end_push(digest);
        let failures = self.waits.get(&digest).map_or(0, |wait| wait.failures).saturating_add(1);
        let wait = Millis(FIRST_WAIT.0 << (failures - 1).min(16)).min(LONGEST_WAIT);
        self.waits.insert(digest, Wait { until: now + wait, failures, looked: false });
        if self.given.contains_key(&(name.clone(), digest)) {
            self.take_back(name, digest);
            self.wait(name.clone(), digest);
        }
    }

    /// Gives sources to those that wait for one. Says what is to be handed over, and whose sources changed.
    pub(crate) fn decide(&mut self, now: Millis) -> (Vec<Push>, BTreeSet<MachineName>) {
        self.take_back_what_stands_still(now);
        self.look_at_what_is_due(now);
        let mut pushes = Vec::new();
        for digest in std::mem::take(&mut self.look) {
            let Some(waiting) = self.waiting.remove(&digest) else { continue };
            let mut holders = self.least_busy_first(digest);
            let (mut left, mut waiting) = (BTreeSet::new(), waiting.into_iter());
            for name in waiting.by_ref() {
                match self.best_holder(&name, digest, &holders) {
                    Best::Holder(source) => {
                        let serves = self.serves(&source);
                        holders.remove(&(serves, source.clone()));
                        holders.insert((serves + 1, source.clone()));
                        if let Some(machine) = self.machines.get_mut(&source) {
                            machine.serves = serves + 1;
                        }
                        self.give(now, name, digest, Source::Machine(source));
                    }
                    Best::AllBusy => {
                        left.insert(name);
                        break;
                    }
                    Best::Busy => drop(left.insert(name)),
                    Best::Nobody if self.may_push(now, digest) => {
                        let Some(machine) = self.machines.get(&name) else { continue };
                        let offset = have(&machine.blobs, digest);
                        let (address, machine) = (machine.address.clone(), name.clone());
                        pushes.push(Push { machine, address, digest, offset });
                        self.pushes.insert(digest, name.clone());
                        self.give(now, name, digest, Source::Push);
                    }
                    Best::Nobody => {
                        if self.pushes.len() >= PUSHES && !self.pushes.contains_key(&digest) {
                            self.held_up.insert(digest);
                        }
                        left.insert(name);
                        // Nobody holds it: the next has no better luck.
                        if holders.is_empty() {
                            break;
                        }
                    }
                }
            }
            left.extend(waiting);
            if !left.is_empty() {
                self.waiting.insert(digest, left);
            }
        }
        (pushes, std::mem::take(&mut self.changed))
    }

    /// Blobs that could not be handed over are tried again after a while, for as long as somebody waits.
    fn look_at_what_is_due(&mut self, now: Millis) {
        let (waiting, given) = (&self.waiting, &self.pushes);
        self.waits.retain(|digest, wait| {
            wait.until > now || waiting.contains_key(digest) || given.contains_key(digest)
        });
        for (digest, wait) in &mut self.waits {
            if wait.until <= now && !std::mem::replace(&mut wait.looked, true) {
                self.look.insert(*digest);
            }
        }
    }

    fn may_push(&self, now: Millis, digest: Digest) -> bool {
        let waits = self.waits.get(&digest).is_some_and(|wait| wait.until > now);
        !waits && !self.pushes.contains_key(&digest) && self.pushes.len() < PUSHES
    }

    fn serves(&self, name: &MachineName) -> usize {
        self.machines.get(name).map_or(0, |machine| machine.serves)
    }

    /// Who holds a blob, with how many others each serves.
    fn least_busy_first(&self, digest: Digest) -> BTreeSet<(usize, MachineName)> {
        let holders = self.holders.get(&digest).into_iter().flatten();
        holders.map(|name| (self.serves(name), name.clone())).collect()
    }

    /// The machine from which another can get a blob that these hold.
    fn best_holder(
        &self,
        name: &MachineName,
        digest: Digest,
        holders: &BTreeSet<(usize, MachineName)>,
    ) -> Best {
        let blobs = self.machines.get(name).map_or(&[][..], |machine| &machine.blobs);
        let Some(blob) = blobs.iter().find(|blob| blob.digest == digest) else {
            return Best::Nobody;
        };
        let usable =
            |(_, holder): &&(usize, MachineName)| holder != name && !blob.failed.contains(holder);
        match holders.iter().find(usable) {
            None => Best::Nobody,
            Some((serves, best)) if *serves < CHILDREN => Best::Holder(best.clone()),
            Some(_) if blob.failed.is_empty() => Best::AllBusy,
            Some(_) => Best::Busy,
        }
    }

    fn give(&mut self, now: Millis, name: MachineName, digest: Digest, from: Source) {
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
            self.wait(name, digest);
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
        let awaited = self
            .waits
            .iter()
            .filter(|(digest, wait)| !wait.looked && self.waiting.contains_key(digest));
        awaited.map(|(_, wait)| wait.until).min()
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
                let failed = self.failed.get(&push.machine).map_or(&[][..], Vec::as_slice);
                let could = self.has.iter().find(|holder| !failed.contains(holder));
                assert_eq!(could, None, "it could serve {}", push.machine);
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

    /// 2,000 machines wait for 20 blobs, and a shard decides a hundred times a second.
    #[test]
    fn what_did_not_change_is_not_looked_at_again() {
        let mut spread = Spread::default();
        let digests: Vec<Digest> = (0..20).map(|number| Digest([number; 32])).collect();
        let all = |held: &[Digest]| -> Vec<BlobReport> {
            let blob = |digest: &Digest| BlobReport {
                digest: *digest,
                held: held.contains(digest),
                have: 0,
                failed: Vec::new(),
            };
            digests.iter().map(blob).collect()
        };
        let now = Millis(1_000);
        for number in 0..2_000 {
            spread.report(now, &name(number), "a:1", &all(&[]));
        }
        let (pushes, _) = spread.decide(now);
        assert_eq!(pushes.len(), PUSHES);
        assert_eq!((spread.look.len(), spread.held_up.len()), (0, 20 - PUSHES));
        assert_eq!(spread.decide(now).0, []);
        // One that came frees the room for the next, and only these two are looked at.
        let (first, digest) = (pushes[0].machine.clone(), pushes[0].digest);
        spread.pushed(now, &first, digest, true);
        assert_eq!(spread.look, BTreeSet::new(), "it shows in the next report");
        spread.report(now, &first, "a:1", &all(&[digest]));
        let (pushes, changed) = spread.decide(now);
        assert_eq!((pushes.len(), changed.len()), (1, 1 + CHILDREN));
        assert_eq!(spread.look, BTreeSet::new());
        // What was due once and is held up by others is waited for, not asked for again and again.
        spread.pushed(now, &pushes[0].machine, pushes[0].digest, false);
        let due = spread.next_due().unwrap();
        assert_eq!(due, now + FIRST_WAIT);
        spread.decide(due);
        assert!(spread.next_due().is_none_or(|next| next > due), "{:?}", spread.next_due());
        // Nobody waits any more: nothing is kept of it.
        for number in 0..2_000 {
            spread.lose(&name(number));
        }
        spread.decide(due + LONGEST_WAIT);
        assert!(spread.waits.is_empty() && spread.waiting.is_empty() && spread.pushes.is_empty());
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
        }
    }
}
