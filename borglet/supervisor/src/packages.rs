//! The blobs that tasks of this machine need: which are here, which are to be fetched, which may go.
//!
//! A blob is wanted from the moment at which a task that needs it is ordered. It comes from another
//! machine, as the masters say, or a master hands it over; then it is unpacked, once for all tasks. What no
//! task uses stays for later ones and for other machines, until its room is needed: then the least
//! recently used goes first.
//!
//! Invariants: what a task uses, or waits for, never goes, and neither does a layer while it is unpacked. All blobs
//! and what was unpacked of them take no more than the machine gives them. A machine that served something else
//! under a blob's name is not asked for it again. Each order has a number, and news of an older one than what it
//! is about changes nothing.

use crate::spare::Spare;
use crate::turn::{Effect, Trouble};
use borg_proto::names::MachineName;
use borg_proto::package::{Digest, Layer, Package};
use borg_proto::poll::{BlobReport, BlobSource, Holder};
use borg_proto::task::MAX_CAUSE_BYTES;
use borg_proto::text::one_line;
use borg_proto::wire::MAX_BLOBS;
use borg_proto::{FailureCause, Millis, TaskName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Blobs fetched at a time. 4: our choice; they share one network and one disk.
const FETCHES: usize = 4;
/// Layers unpacked at a time. 2: our choice; the disk is slower than the network (Borg paper, section 3.2).
const UNPACKS: usize = 2;
/// A machine from which a blob could not be had is not asked for it for so long. Our choice.
const ASK_AGAIN: Millis = Millis(30_000);
/// Most machines that are remembered as such for one blob. 64, as a report takes.
const MAX_FAILED: usize = 64;

/// A blob that an earlier process of the borglet left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cached {
    /// Which.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// What its files take; 0 while it is not unpacked.
    pub unpacked_bytes: u64,
    /// Whether it is unpacked.
    pub ready: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// It is to come: from a machine that is asked now, by the order of this number, or one is still to be named.
    Wanted {
        from: Option<(MachineName, u64)>,
    },
    Held,
    /// By the order of this number.
    Unpacking(u64),
    Ready,
}

#[derive(Debug)]
struct Blob {
    layer: Layer,
    state: State,
    /// The number of the order with which it was expected: all that is older is about another one.
    since: u64,
    used_at: Millis,
    have: u64,
    /// Until when who is not asked.
    failed: BTreeMap<MachineName, Millis>,
    trouble: String,
}

impl Blob {
    fn is_held(&self) -> bool {
        !matches!(self.state, State::Wanted { .. })
    }

    /// Why it is not here yet. Whoever was asked for it may have had its say in that.
    fn tell(&mut self, why: &str) {
        self.trouble = one_line(why.as_bytes(), MAX_CAUSE_BYTES);
    }

    /// Whether it may go when no task needs it.
    fn may_go(&self) -> bool {
        !matches!(self.state, State::Unpacking(_))
    }

    fn takes(&self) -> u64 {
        self.layer.bytes.saturating_add(self.layer.unpacked_bytes)
    }

    /// What of that is on the disk, as far as is known.
    fn on_disk(&self) -> u64 {
        match self.state {
            State::Wanted { .. } => self.have,
            State::Held | State::Unpacking(_) => self.layer.bytes,
            State::Ready => self.takes(),
        }
    }
}

/// All blobs of the machine.
#[derive(Debug)]
pub(crate) struct Packages {
    /// Most bytes that blobs and what was unpacked of them may take.
    room: u64,
    spare: Spare,
    blobs: BTreeMap<Digest, Blob>,
    sources: BTreeMap<Digest, Holder>,
    /// Of the last order.
    number: u64,
    /// Grows with what is reported of blobs.
    changes: u64,
}

/// Why a task cannot have its packages, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// On this machine: another one may do.
    Machine(String),
    /// On none.
    Package(String),
}

impl From<Unfit> for FailureCause {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Machine(why) => Self::packages(&why),
            Unfit::Package(why) => Self::start(&why),
        }
    }
}

/// How far the packages of a task are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    Ready,
    Fetching { have_bytes: u64, bytes: u64, trouble: String },
}

impl Packages {
    /// With `room` bytes for blobs, on a disk of which `reserve` bytes must stay free.
    pub(crate) fn new(room: u64, reserve: u64) -> Self {
        let (blobs, sources) = (BTreeMap::new(), BTreeMap::new());
        Self { room, spare: Spare::new(reserve), blobs, sources, number: 0, changes: 0 }
    }

    /// Grows whenever the report is another one, but for how far blobs are.
    pub(crate) const fn changes(&self) -> u64 {
        self.changes
    }

    pub(crate) fn adopt(&mut self, cached: Vec<Cached>) {
        let blob = |cached: Cached| {
            let Cached { digest, bytes, unpacked_bytes, ready } = cached;
            let state = if ready { State::Ready } else { State::Held };
            let layer = Layer { digest, bytes, unpacked_bytes };
            (digest, Blob::new(layer, state, 0, Millis(0)))
        };
        self.blobs.extend(cached.into_iter().map(blob));
    }

    /// A task needs these. What is not here is wanted from now on, in place of what nobody uses.
    ///
    /// # Errors
    /// When there can be no room for them, or a package says something of a layer that is not so.
    pub(crate) fn want(
        &mut self,
        now: Millis,
        packages: &[Arc<Package>],
        in_use: &BTreeSet<Digest>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Unfit> {
        let needed: BTreeMap<Digest, Layer> =
            layers(packages).map(|layer| (layer.digest, *layer)).collect();
        for (digest, layer) in &needed {
            let Some(blob) = self.blobs.get_mut(digest) else { continue };
            // Of what was found on the disk it is not known before what it unpacks to.
            if blob.state == State::Held && blob.layer.unpacked_bytes == 0 {
                blob.layer.unpacked_bytes = layer.unpacked_bytes;
            }
            if blob.layer != *layer {
                let Layer { bytes, unpacked_bytes, .. } = blob.layer;
                return Err(Unfit::Package(format!(
                    "layer {digest} of its packages has {bytes} bytes and unpacks to {unpacked_bytes} bytes, not \
                     {} and {}",
                    layer.bytes, layer.unpacked_bytes
                )));
            }
            blob.used_at = now;
        }
        let new: Vec<Layer> = needed
            .values()
            .filter(|layer| !self.blobs.contains_key(&layer.digest))
            .copied()
            .collect();
        let bytes = new.iter().fold(0_u64, |sum, layer| {
            sum.saturating_add(layer.bytes).saturating_add(layer.unpacked_bytes)
        });
        let keep = |digest: &Digest| in_use.contains(digest) || needed.contains_key(digest);
        self.make_room(now, bytes, keep, effects).map_err(Unfit::Machine)?;
        for layer in new {
            self.expect(layer, now, effects);
        }
        Ok(())
    }

    /// From now on a blob may come.
    fn expect(&mut self, layer: Layer, used_at: Millis, effects: &mut Vec<Effect>) -> &mut Blob {
        let (digest, bytes, order) = (layer.digest, layer.bytes, self.next_order());
        self.changes += 1;
        effects.push(Effect::ExpectBlob { digest, bytes, order });
        let blob = Blob::new(layer, State::Wanted { from: None }, order, used_at);
        self.blobs.entry(digest).insert_entry(blob).into_mut()
    }

    fn next_order(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// What may go, the least recently used first.
    fn idle(&self, keep: impl Fn(&Digest) -> bool) -> Vec<(Digest, &Blob)> {
        let may_go = |(digest, blob): &(&Digest, &Blob)| !keep(digest) && blob.may_go();
        let idle = self.blobs.iter().filter(may_go).map(|(digest, blob)| (*digest, blob));
        let mut idle: Vec<_> = idle.collect();
        idle.sort_by_key(|(digest, blob)| (blob.used_at, *digest));
        idle
    }

    /// Makes room for so many bytes more, of what packages may take and of what the disk has.
    fn make_room(
        &mut self,
        now: Millis,
        bytes: u64,
        keep: impl Fn(&Digest) -> bool,
        effects: &mut Vec<Effect>,
    ) -> Result<(), String> {
        let sum = |amounts: &mut dyn Iterator<Item = u64>| amounts.fold(0, u64::saturating_add);
        let idle: BTreeMap<Digest, (u64, u64)> = self
            .idle(&keep)
            .into_iter()
            .map(|(digest, blob)| (digest, (blob.takes(), blob.on_disk())))
            .collect();
        let mut taken = sum(&mut self.blobs.values().map(Blob::takes));
        let in_use = taken.saturating_sub(sum(&mut idle.values().map(|(takes, _)| *takes)));
        if in_use.saturating_add(bytes) > self.room {
            return Err(format!(
                "its packages take {bytes} bytes, and {in_use} of the {} that this machine has for packages are \
                 in use",
                self.room
            ));
        }
        // What others wait for takes room of the disk as well, as soon as it is here.
        let waited_for = self.blobs.iter().filter(|(digest, _)| !idle.contains_key(digest));
        let to_come =
            sum(&mut waited_for.map(|(_, blob)| blob.takes().saturating_sub(blob.on_disk())));
        let needs = if bytes == 0 { 0 } else { to_come.saturating_add(bytes) };
        let could_go = sum(&mut idle.values().map(|(_, on_disk)| *on_disk));
        if let Some(left) = self.spare.left().filter(|left| needs > left.saturating_add(could_go)) {
            return Err(format!(
                "its packages take {bytes} bytes, and the disk of this machine has {left} beyond its reserve and \
                 what others fetch"
            ));
        }
        let oldest_first: Vec<Digest> =
            self.idle(&keep).into_iter().map(|(digest, _)| digest).collect();
        for digest in oldest_first {
            let fits = self.spare.left().is_none_or(|left| needs <= left);
            if fits && taken.saturating_add(bytes) <= self.room {
                break;
            }
            taken = taken.saturating_sub(idle.get(&digest).map_or(0, |(takes, _)| *takes));
            self.drop_blob(now, digest, effects);
        }
        Ok(())
    }

    fn drop_blob(&mut self, now: Millis, digest: Digest, effects: &mut Vec<Effect>) {
        let blob = self.blobs.remove(&digest);
        self.spare.dropped(now, blob.map_or(0, |blob| blob.on_disk()));
        self.changes += 1;
        self.sources.remove(&digest);
        effects.push(Effect::DropBlob { digest });
    }

    /// Takes how much of the disk is free, and says how much its reserve lacks.
    pub(crate) fn disk_left(&mut self, now: Millis, available: u64) -> u64 {
        self.spare.measured(now, available);
        self.spare.short()
    }

    /// Drops what nobody uses for a reserve that lacks something, and says how much it lacks then.
    pub(crate) fn give_back(
        &mut self,
        now: Millis,
        in_use: &BTreeSet<Digest>,
        effects: &mut Vec<Effect>,
    ) -> u64 {
        let idle = self.idle(|digest| in_use.contains(digest)).into_iter();
        let idle = idle.filter(|(_, blob)| blob.on_disk() > 0).map(|(digest, _)| digest);
        for digest in idle.collect::<Vec<_>>() {
            if self.spare.short() == 0 {
                break;
            }
            self.drop_blob(now, digest, effects);
        }
        self.spare.short()
    }

    /// A task is no more that used these.
    pub(crate) fn used_until(&mut self, now: Millis, layers: &[Digest]) {
        for digest in layers {
            if let Some(blob) = self.blobs.get_mut(digest) {
                blob.used_at = now;
            }
        }
    }

    /// Where blobs are to be had, as the masters say.
    pub(crate) fn take_sources(&mut self, sources: &[BlobSource]) {
        self.sources = sources.iter().map(|source| (source.digest, source.from.clone())).collect();
    }

    /// Fetches and unpacks what tasks wait for, as many at a time as go well together. What came only in
    /// part and nobody waits for any more is given up.
    pub(crate) fn go_on(
        &mut self,
        now: Millis,
        waited_for: &BTreeSet<Digest>,
        effects: &mut Vec<Effect>,
    ) {
        let unwanted = self.blobs.iter().filter(|(digest, blob)| {
            !waited_for.contains(digest) && blob.state == State::Wanted { from: None }
        });
        for digest in unwanted.map(|(digest, _)| *digest).collect::<Vec<_>>() {
            self.drop_blob(now, digest, effects);
        }
        let count = |wanted: fn(&State) -> bool, blobs: &BTreeMap<Digest, Blob>| {
            blobs.values().filter(|blob| wanted(&blob.state)).count()
        };
        let mut fetches = count(|s| matches!(s, State::Wanted { from: Some(_) }), &self.blobs);
        let mut unpacks = count(|s| matches!(s, State::Unpacking(_)), &self.blobs);
        for digest in waited_for {
            let Some(blob) = self.blobs.get_mut(digest) else { continue };
            let order = self.number + 1;
            match &blob.state {
                State::Wanted { from: None } if fetches < FETCHES => {
                    let Some(Holder::Machine { machine, address }) = self.sources.get(digest)
                    else {
                        continue;
                    };
                    if blob.failed.contains_key(machine) {
                        continue;
                    }
                    fetches += 1;
                    self.number = order;
                    blob.state = State::Wanted { from: Some((machine.clone(), order)) };
                    effects.push(Effect::FetchBlob {
                        digest: *digest,
                        bytes: blob.layer.bytes,
                        machine: machine.clone(),
                        address: address.clone(),
                        order,
                    });
                }
                State::Held if unpacks < UNPACKS => {
                    unpacks += 1;
                    self.number = order;
                    blob.state = State::Unpacking(order);
                    effects.push(Effect::Unpack { layer: blob.layer, order });
                }
                State::Wanted { .. } | State::Held | State::Unpacking(_) | State::Ready => {}
            }
        }
    }

    /// The blob that an order is about, unless it was dropped since.
    fn ordered(&mut self, digest: Digest, order: u64) -> Option<&mut Blob> {
        self.blobs.get_mut(&digest).filter(|blob| order >= blob.since)
    }

    /// A blob is here, whoever it came from.
    pub(crate) fn came(&mut self, digest: Digest, order: u64) {
        let Some(blob) = self.ordered(digest, order).filter(|blob| !blob.is_held()) else { return };
        blob.state = State::Held;
        blob.have = blob.layer.bytes;
        blob.failed.clear();
        blob.trouble.clear();
        self.sources.remove(&digest);
        self.changes += 1;
    }

    /// Whoever could not serve a blob a while ago may be asked again.
    pub(crate) fn expire(&mut self, now: Millis) {
        for blob in self.blobs.values_mut().filter(|blob| !blob.failed.is_empty()) {
            let before = blob.failed.len();
            blob.failed.retain(|_, until| *until > now);
            self.changes += u64::from(blob.failed.len() != before);
        }
    }

    /// A machine did not serve it. `wrong`: what it served is something else.
    pub(crate) fn not_fetched(
        &mut self,
        now: Millis,
        (digest, order): (Digest, u64),
        why: String,
        wrong: bool,
    ) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        let State::Wanted { from } = &mut blob.state else { return };
        let Some((machine, _)) = from.take_if(|(_, asked)| *asked == order) else { return };
        while blob.failed.len() >= MAX_FAILED {
            blob.failed.pop_first();
        }
        let until = if wrong { Millis(u64::MAX) } else { now + ASK_AGAIN };
        blob.failed.insert(machine, until);
        blob.tell(&why);
        self.sources.remove(&digest);
        self.changes += 1;
    }

    pub(crate) fn progressed(&mut self, have: &[(Digest, u64)]) {
        for (digest, have) in have {
            if let Some(blob) = self.blobs.get_mut(digest).filter(|blob| !blob.is_held()) {
                blob.have = *have;
            }
        }
    }

    pub(crate) fn unpacked(&mut self, digest: Digest, order: u64) {
        let unpacking = |blob: &&mut Blob| blob.state == State::Unpacking(order);
        if let Some(blob) = self.blobs.get_mut(&digest).filter(unpacking) {
            blob.state = State::Ready;
        }
    }

    /// A layer cannot be kept or unpacked. `None` when it is tried again, else why whoever waits for it waits in
    /// vain.
    pub(crate) fn not_unpacked(
        &mut self,
        now: Millis,
        (digest, order): (Digest, u64),
        trouble: Trouble,
        in_use: &BTreeSet<Digest>,
        effects: &mut Vec<Effect>,
    ) -> Option<Unfit> {
        let blob = self.ordered(digest, order)?;
        match &mut blob.state {
            State::Wanted { from } => drop(from.take_if(|(_, asked)| *asked == order)),
            State::Unpacking(number) if *number == order => blob.state = State::Held,
            // It came from elsewhere meanwhile.
            State::Held | State::Unpacking(_) | State::Ready => return None,
        }
        let layer = blob.layer;
        let why = match trouble {
            Trouble::Damaged(why) => {
                // The blob on this disk is no longer what it was: it is fetched anew.
                self.drop_blob(now, digest, effects);
                self.expect(layer, now, effects).tell(&why);
                return None;
            }
            Trouble::Full(_) if self.drop_idle(now, in_use, effects) => return None,
            Trouble::Full(why) | Trouble::Disk(why) => Unfit::Machine(why),
            Trouble::Bad(why) => Unfit::Package(why),
        };
        self.drop_blob(now, digest, effects);
        Some(why)
    }

    /// Drops all that nobody uses, as the disk is full. Whether there was anything.
    fn drop_idle(
        &mut self,
        now: Millis,
        in_use: &BTreeSet<Digest>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let idle = self.idle(|digest| in_use.contains(digest)).into_iter();
        let idle: Vec<Digest> = idle.map(|(digest, _)| digest).collect();
        for digest in &idle {
            self.drop_blob(now, *digest, effects);
        }
        !idle.is_empty()
    }

    /// How far the packages of a task are.
    pub(crate) fn progress(&self, packages: &[Arc<Package>]) -> Progress {
        let (mut have_bytes, mut bytes, mut ready) = (0_u64, 0_u64, true);
        let mut trouble = String::new();
        for layer in layers(packages) {
            bytes = bytes.saturating_add(layer.bytes);
            let Some(blob) = self.blobs.get(&layer.digest) else {
                ready = false;
                continue;
            };
            let have = if blob.is_held() { layer.bytes } else { blob.have };
            have_bytes = have_bytes.saturating_add(have);
            ready &= blob.state == State::Ready;
            if trouble.is_empty() {
                trouble.clone_from(&blob.trouble);
            }
        }
        if ready { Progress::Ready } else { Progress::Fetching { have_bytes, bytes, trouble } }
    }

    /// What the masters are told: what is wanted first, then what was used last, in order.
    pub(crate) fn report(&self) -> Vec<BlobReport> {
        let mut told: Vec<_> = self.blobs.iter().collect();
        if told.len() > MAX_BLOBS {
            told.sort_by_key(|(_, blob)| (blob.is_held(), std::cmp::Reverse(blob.used_at)));
            told.truncate(MAX_BLOBS);
            told.sort_by_key(|(digest, _)| **digest);
        }
        let of = |(digest, blob): (&Digest, &Blob)| BlobReport {
            digest: *digest,
            held: blob.is_held(),
            have: if blob.is_held() { 0 } else { blob.have },
            failed: blob.failed.keys().cloned().collect(),
        };
        told.into_iter().map(of).collect()
    }
}

impl Blob {
    fn new(layer: Layer, state: State, since: u64, used_at: Millis) -> Self {
        let (failed, trouble) = (BTreeMap::new(), String::new());
        Self { layer, state, since, used_at, have: 0, failed, trouble }
    }
}

/// The layers of packages.
pub(crate) fn layers(packages: &[Arc<Package>]) -> impl Iterator<Item = &Layer> {
    packages.iter().flat_map(|package| &package.layers)
}

/// The package that a layer is of, for people.
pub(crate) fn name_of(packages: &[Arc<Package>], digest: Digest, task: &TaskName) -> String {
    let holds = |package: &&Arc<Package>| package.layers.iter().any(|l| l.digest == digest);
    let found = packages.iter().find(holds);
    found.map_or_else(|| format!("a package of {task}"), |package| package.key.to_string())
}
