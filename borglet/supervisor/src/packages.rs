//! The blobs that tasks of this machine need: which are here, which are to be fetched, which may go.
//!
//! A blob is wanted from the moment at which a task that needs it is ordered. It comes from another
//! machine, as the masters say, or a master hands it over; then it is unpacked, once for all tasks. What no
//! task uses stays for later ones and for other machines, until its room is needed: then the least
//! recently used goes first.
//!
//! Invariants: what a task uses, or waits for, never goes. All blobs and what was unpacked of them take no
//! more than the machine gives them. A machine that served something else under a blob's name is not asked
//! for it again.

use crate::turn::{Effect, Trouble};
use borg_proto::names::MachineName;
use borg_proto::package::{Digest, Layer, Package};
use borg_proto::poll::{BlobReport, BlobSource, Holder};
use borg_proto::task::MAX_CAUSE_BYTES;
use borg_proto::text::one_line;
use borg_proto::wire::MAX_BLOBS;
use borg_proto::{Millis, TaskName};
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
    /// It is to come: from a machine that is asked now, or one is still to be named.
    Wanted {
        from: Option<MachineName>,
    },
    Held,
    Unpacking,
    Ready,
}

#[derive(Debug)]
struct Blob {
    layer: Layer,
    state: State,
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

    fn takes(&self) -> u64 {
        self.layer.bytes.saturating_add(self.layer.unpacked_bytes)
    }
}

/// All blobs of the machine.
#[derive(Debug)]
pub(crate) struct Packages {
    /// Most bytes that blobs and what was unpacked of them may take.
    room: u64,
    blobs: BTreeMap<Digest, Blob>,
    sources: BTreeMap<Digest, Holder>,
}

/// How far the packages of a task are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    Ready,
    Fetching { have_bytes: u64, bytes: u64, trouble: String },
}

impl Packages {
    pub(crate) fn new(room: u64) -> Self {
        Self { room, blobs: BTreeMap::new(), sources: BTreeMap::new() }
    }

    pub(crate) fn adopt(&mut self, cached: Vec<Cached>) {
        let blob = |cached: Cached| {
            let Cached { digest, bytes, unpacked_bytes, ready } = cached;
            let state = if ready { State::Ready } else { State::Held };
            let layer = Layer { digest, bytes, unpacked_bytes };
            (digest, Blob::new(layer, state, Millis(0)))
        };
        self.blobs.extend(cached.into_iter().map(blob));
    }

    /// A task needs these. What is not here is wanted from now on, in place of what nobody uses.
    ///
    /// # Errors
    /// A sentence for people when there can be no room for them.
    pub(crate) fn want(
        &mut self,
        now: Millis,
        packages: &[Arc<Package>],
        in_use: &BTreeSet<Digest>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), String> {
        let needed: BTreeMap<Digest, Layer> =
            layers(packages).map(|layer| (layer.digest, *layer)).collect();
        for (digest, layer) in &needed {
            if let Some(blob) = self.blobs.get_mut(digest) {
                (blob.used_at, blob.layer) = (now, *layer);
            }
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
        self.make_room(bytes, keep, effects)?;
        for layer in new {
            let state = State::Wanted { from: None };
            self.blobs.insert(layer.digest, Blob::new(layer, state, now));
            effects.push(Effect::ExpectBlob { digest: layer.digest, bytes: layer.bytes });
        }
        Ok(())
    }

    fn make_room(
        &mut self,
        bytes: u64,
        keep: impl Fn(&Digest) -> bool,
        effects: &mut Vec<Effect>,
    ) -> Result<(), String> {
        let takes = |blobs: &BTreeMap<Digest, Blob>| {
            blobs.values().fold(0_u64, |sum, blob| sum.saturating_add(blob.takes()))
        };
        let mut taken = takes(&self.blobs);
        let mut idle: Vec<_> = self.blobs.iter().filter(|(digest, _)| !keep(digest)).collect();
        idle.sort_by_key(|(digest, blob)| (blob.used_at, **digest));
        let idle: Vec<(Digest, u64)> =
            idle.into_iter().map(|(digest, blob)| (*digest, blob.takes())).collect();
        let freed = idle.iter().fold(0_u64, |sum, (_, takes)| sum.saturating_add(*takes));
        let least = taken.saturating_sub(freed).saturating_add(bytes);
        if least > self.room {
            return Err(format!(
                "its packages take {bytes} bytes, and {} of the {} that this machine has for packages are \
                 in use",
                taken.saturating_sub(freed),
                self.room
            ));
        }
        for (digest, takes) in idle {
            if taken.saturating_add(bytes) <= self.room {
                break;
            }
            taken = taken.saturating_sub(takes);
            self.drop_blob(digest, effects);
        }
        Ok(())
    }

    fn drop_blob(&mut self, digest: Digest, effects: &mut Vec<Effect>) {
        self.blobs.remove(&digest);
        self.sources.remove(&digest);
        effects.push(Effect::DropBlob { digest });
    }

    /// Where blobs are to be had, as the masters say.
    pub(crate) fn take_sources(&mut self, sources: &[BlobSource]) {
        self.sources = sources.iter().map(|source| (source.digest, source.from.clone())).collect();
    }

    /// Fetches and unpacks what tasks wait for, as many at a time as go well together. What came only in
    /// part and nobody waits for any more is given up.
    pub(crate) fn go_on(&mut self, waited_for: &BTreeSet<Digest>, effects: &mut Vec<Effect>) {
        let unwanted = self.blobs.iter().filter(|(digest, blob)| {
            !waited_for.contains(digest) && blob.state == State::Wanted { from: None }
        });
        for digest in unwanted.map(|(digest, _)| *digest).collect::<Vec<_>>() {
            self.drop_blob(digest, effects);
        }
        let count = |wanted: fn(&State) -> bool, blobs: &BTreeMap<Digest, Blob>| {
            blobs.values().filter(|blob| wanted(&blob.state)).count()
        };
        let mut fetches = count(|s| matches!(s, State::Wanted { from: Some(_) }), &self.blobs);
        let mut unpacks = count(|s| *s == State::Unpacking, &self.blobs);
        for digest in waited_for {
            let Some(blob) = self.blobs.get_mut(digest) else { continue };
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
                    blob.state = State::Wanted { from: Some(machine.clone()) };
                    effects.push(Effect::FetchBlob {
                        digest: *digest,
                        bytes: blob.layer.bytes,
                        machine: machine.clone(),
                        address: address.clone(),
                    });
                }
                State::Held if unpacks < UNPACKS => {
                    unpacks += 1;
                    blob.state = State::Unpacking;
                    effects.push(Effect::Unpack { layer: blob.layer });
                }
                State::Wanted { .. } | State::Held | State::Unpacking | State::Ready => {}
            }
        }
    }

    /// A blob is here, whoever it came from. Whether that is news.
    pub(crate) fn came(&mut self, digest: Digest) -> bool {
        self.sources.remove(&digest);
        let Some(blob) = self.blobs.get_mut(&digest) else { return false };
        let news = !blob.is_held();
        if news {
            blob.state = State::Held;
            blob.have = blob.layer.bytes;
            blob.failed.clear();
            blob.trouble.clear();
        }
        news
    }

    /// Whoever could not serve a blob a while ago may be asked again.
    pub(crate) fn expire(&mut self, now: Millis) {
        for blob in self.blobs.values_mut().filter(|blob| !blob.failed.is_empty()) {
            blob.failed.retain(|_, until| *until > now);
        }
    }

    /// A machine did not serve it. `wrong`: what it served is something else.
    pub(crate) fn not_fetched(&mut self, now: Millis, digest: Digest, why: String, wrong: bool) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        let State::Wanted { from } = &mut blob.state else { return };
        if let Some(machine) = from.take() {
            while blob.failed.len() >= MAX_FAILED {
                blob.failed.pop_first();
            }
            let until = if wrong { Millis(u64::MAX) } else { now + ASK_AGAIN };
            blob.failed.insert(machine, until);
        }
        blob.tell(&why);
        self.sources.remove(&digest);
    }

    pub(crate) fn progressed(&mut self, have: &[(Digest, u64)]) {
        for (digest, have) in have {
            if let Some(blob) = self.blobs.get_mut(digest).filter(|blob| !blob.is_held()) {
                blob.have = *have;
            }
        }
    }

    pub(crate) fn unpacked(&mut self, digest: Digest) {
        if let Some(blob) = self.blobs.get_mut(&digest) {
            blob.state = State::Ready;
        }
    }

    /// A layer cannot be used. `None` when it is tried again, else why whoever waits for it waits in vain.
    pub(crate) fn not_unpacked(
        &mut self,
        digest: Digest,
        trouble: Trouble,
        in_use: &BTreeSet<Digest>,
        effects: &mut Vec<Effect>,
    ) -> Option<String> {
        let why = match trouble {
            Trouble::Damaged(why) => {
                // The blob on this disk is no longer what it was: it is fetched anew.
                let mut blob = self.blobs.remove(&digest)?;
                effects.push(Effect::DropBlob { digest });
                (blob.state, blob.have) = (State::Wanted { from: None }, 0);
                blob.tell(&why);
                effects.push(Effect::ExpectBlob { digest, bytes: blob.layer.bytes });
                self.blobs.insert(digest, blob);
                return None;
            }
            Trouble::Full(why) => {
                if self.drop_idle(in_use, effects) {
                    let blob = self.blobs.get_mut(&digest)?;
                    let held = blob.is_held();
                    blob.state = if held { State::Held } else { State::Wanted { from: None } };
                    return None;
                }
                why
            }
            Trouble::Bad(why) => why,
        };
        self.drop_blob(digest, effects);
        Some(why)
    }

    /// Drops all that nobody uses, as the disk is full. Whether there was anything.
    fn drop_idle(&mut self, in_use: &BTreeSet<Digest>, effects: &mut Vec<Effect>) -> bool {
        let idle: Vec<Digest> =
            self.blobs.keys().filter(|digest| !in_use.contains(digest)).copied().collect();
        for digest in &idle {
            self.drop_blob(*digest, effects);
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
    fn new(layer: Layer, state: State, used_at: Millis) -> Self {
        let (failed, trouble) = (BTreeMap::new(), String::new());
        Self { layer, state, used_at, have: 0, failed, trouble }
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
