//! What every [`LogStore`] must do, as tests that each implementation runs on itself.
//!
//! Holds memory, the simulated disk and the real stores to one meaning of a batch, including what
//! is still there after the store is dropped and opened again. Leaves lost writes, rot and power
//! cuts to those who can cause them.
//!
//! Use: for each of [`CASES`], make a new disk and call the case with a function that opens that
//! disk. A case panics with the reason when the store does not conform.

use std::sync::Arc;

use super::memory::{Files, apply};
use super::{
    Batch, Checkpoint, CheckpointDraft, CheckpointMeta, EntryKind, HardState, LogEntry, LogStore,
    Membership, Position, Recovered, ReplicaIdentity, StoreError,
};
use borg_proto::Millis;

/// Opens one and the same disk every time, as the given replica.
pub type Open<'a> = dyn FnMut(&ReplicaIdentity) -> Result<Box<dyn LogStore>, StoreError> + 'a;

/// One test: its name, and what to call with a new disk.
pub type Case = (&'static str, fn(&mut Open<'_>));

/// The whole suite.
pub const CASES: &[Case] = &[
    ("a new store is empty", a_new_store_is_empty),
    ("appended entries are recovered", appended_entries_are_recovered),
    ("a conflicting suffix is overwritten", a_conflicting_suffix_is_overwritten),
    ("a vote alone is recovered", a_vote_alone_is_recovered),
    ("an empty batch changes nothing", an_empty_batch_changes_nothing),
    ("a checkpoint and the tail after it are recovered", a_checkpoint_and_its_tail_are_recovered),
    ("compacted entries are gone and their place is known", compacted_entries_are_gone),
    ("a checkpoint of a leader replaces the log", a_checkpoint_of_a_leader_replaces_the_log),
    ("big entries and a big checkpoint are recovered", big_values_are_recovered),
    ("a thousand batches are recovered", a_thousand_batches_are_recovered),
    ("random batches mean the same as in memory", random_batches_mean_the_same_as_in_memory),
    ("a refused batch leaves the store usable", a_refused_batch_leaves_the_store_usable),
    ("a checkpoint that was not saved is refused", an_unsaved_checkpoint_is_refused),
    ("a file travels in pieces", a_file_travels_in_pieces),
    ("a file that is not the one offered is refused", a_wrong_file_is_refused),
    ("another replica is refused", another_replica_is_refused),
    ("a second opener is refused", a_second_opener_is_refused),
];

/// The replica that every case opens its disk as.
pub fn identity() -> ReplicaIdentity {
    ReplicaIdentity { cell: "conformance".into(), replica: 3, epoch: 1 }
}

/// `count` entries from `first` on, of one term, each of `bytes` bytes that depend on its place.
pub fn entries(first: u64, count: u64, term: u64, bytes: usize) -> Vec<LogEntry> {
    (first..first + count)
        .map(|index| {
            let kind = match index % 5 {
                0 => EntryKind::ConfChangeV2,
                1 => EntryKind::ConfChange,
                2.. => EntryKind::Normal,
            };
            let salt = index.wrapping_mul(31).wrapping_add(term).to_le_bytes()[0];
            let data = (0..=u8::MAX).cycle().take(bytes).map(|byte| byte ^ salt).collect();
            LogEntry { index, term, kind, data }
        })
        .collect()
}

/// What a checkpoint of `bytes` bytes at a place is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The last entry that it covers.
    pub place: Position,
    /// Raft's configuration there.
    pub membership: Membership,
    /// The state.
    pub state: Arc<[u8]>,
}

impl Made {
    /// As a store saves it.
    #[must_use]
    pub fn draft(&self) -> CheckpointDraft<'_> {
        CheckpointDraft {
            place: self.place,
            membership: &self.membership,
            at: Millis(self.place.index * 1_000),
            state: &self.state,
            log: &[],
        }
    }
}

/// A checkpoint of `bytes` bytes at `index`.
pub fn checkpoint(index: u64, term: u64, bytes: usize) -> Made {
    let salt = index.to_le_bytes()[0];
    Made {
        place: Position { index, term },
        membership: Membership {
            voters: vec![1, 2, 3],
            learners: vec![4],
            voters_outgoing: vec![1, 2, 5],
            learners_next: vec![5],
            auto_leave: true,
        },
        state: Arc::from((0..bytes).map(|at| at.to_le_bytes()[0] ^ salt).collect::<Vec<_>>()),
    }
}

/// A store under test beside the model of what it must hold.
struct Pair<'a, 'b> {
    open: &'a mut Open<'b>,
    store: Option<Box<dyn LogStore>>,
    model: Recovered,
    model_files: Files,
}

impl<'a, 'b> Pair<'a, 'b> {
    fn new(open: &'a mut Open<'b>) -> Self {
        let (model, model_files) = (Recovered::empty(identity()), Files::default());
        let mut pair = Self { open, store: None, model, model_files };
        pair.reopen();
        pair
    }

    fn store(&mut self) -> &mut dyn LogStore {
        self.store.as_mut().expect("open between calls").as_mut()
    }

    #[track_caller]
    fn write(&mut self, batch: Batch<'_>) {
        apply(&mut self.model, &batch, &self.model_files).expect("the case writes a valid batch");
        self.store().write(&batch).expect("a valid batch is written");
    }

    /// Saves a checkpoint and names it in `batch`.
    #[track_caller]
    fn write_at(&mut self, made: &Made, batch: Batch<'_>) {
        let meta = self.model_files.save(&made.draft());
        let batch = Batch { checkpoint: Some(&meta), ..batch };
        apply(&mut self.model, &batch, &self.model_files).expect("the case writes a valid batch");
        let meta = self.save(made);
        let batch = Batch { checkpoint: Some(&meta), ..batch };
        self.store().write(&batch).expect("a valid batch is written");
    }

    #[track_caller]
    fn save(&mut self, made: &Made) -> CheckpointMeta {
        let meta = self.store().checkpoints().save(&made.draft()).expect("there is room");
        assert_eq!((meta.place, &meta.membership), (made.place, &made.membership));
        assert_eq!(meta.at, made.draft().at);
        meta
    }

    #[track_caller]
    fn append(&mut self, entries: &[LogEntry]) {
        self.write(Batch { entries, ..Batch::default() });
    }

    /// The batch is refused, and is refused by the model as well.
    #[track_caller]
    fn refused(&mut self, batch: Batch<'_>) {
        let ours = apply(&mut self.model, &batch, &self.model_files);
        assert!(matches!(ours, Err(StoreError::Invalid(_))), "the model takes {batch:?}");
        let refusal = self.store().write(&batch);
        assert!(matches!(refusal, Err(StoreError::Invalid(_))), "{refusal:?} for {batch:?}");
    }

    /// What is open holds the model, and so does the disk after it is opened again.
    #[track_caller]
    fn check(&mut self) {
        let open = self.store().recover().expect("an open store is read");
        same(&open, &self.model);
        self.reopen();
    }

    #[track_caller]
    fn reopen(&mut self) {
        self.store = None;
        let mut store = (self.open)(&identity()).expect("a sound disk opens");
        same(&store.recover().expect("a sound disk is read"), &self.model);
        self.store = Some(store);
    }
}

/// Compares part by part, so that a failure does not print megabytes.
#[track_caller]
fn same(found: &Recovered, wanted: &Recovered) {
    assert_eq!(found.identity, wanted.identity);
    assert_eq!(found.hard_state, wanted.hard_state);
    assert_eq!(found.compacted, wanted.compacted);
    let places = |recovered: &Recovered| {
        recovered.entries.iter().map(|e| (e.index, e.term)).collect::<Vec<_>>()
    };
    assert_eq!(places(found), places(wanted));
    for (found, wanted) in found.entries.iter().zip(&wanted.entries) {
        assert!(found == wanted, "entry {} differs", wanted.index);
    }
    // Files may have other bytes than in memory; what they hold is the same.
    let held = |recovered: &Recovered| {
        let of = |made: &Checkpoint| (made.meta.place, made.meta.membership.clone(), made.meta.at);
        recovered.checkpoint.as_ref().map(of)
    };
    assert_eq!(held(found), held(wanted));
    let state = |recovered: &Recovered| recovered.checkpoint.as_ref().map(|c| c.state.clone());
    assert!(state(found) == state(wanted), "the state in the checkpoint differs");
}

fn a_new_store_is_empty(open: &mut Open<'_>) {
    let mut pair = Pair::new(open);
    pair.check();
    pair.check();
}

fn appended_entries_are_recovered(open: &mut Open<'_>) {
    let mut pair = Pair::new(open);
    pair.append(&entries(1, 1, 1, 100));
    pair.append(&entries(2, 20, 1, 1000));
    pair.check();
    pair.append(&entries(22, 3, 2, 0));
    pair.check();
}

fn a_conflicting_suffix_is_overwritten(open: &mut Open<'_>) {
    let mut pair = Pair::new(open);
    pair.append(&entries(1, 20, 1, 500));
    pair.append(&entries(11, 2, 2, 300));
    pair.check();
    pair.append(&entries(1, 5, 3, 10));
    pair.check();
    pair.append(&entries(6, 1, 3, 10));
    pair.check();
}

fn a_vote_alone_is_recovered(open: &mut Open<'_>) {
    let mut pair = Pair::new(open);
    let vote = |term, vote| Batch {
        hard_state: Some(HardState { term, vote, commit: 0 }),
        ..Batch::default()
    };
    pair.write(vote(1, 2));
    pair.write(vote(7, 0));
    pair.check();
    pair.write(vote(7, 5));
    pair.check();
}

fn an_empty_batch_changes_nothing(open: &mut Open<'_>) {
    let mut pair = Pair::new(open);
    pair.append(&entries(1, 2, 1, 10));
    pair.write(Batch::default());
    pair.check();
}

fn a_checkpoint_and_its_tail_are_recovered(open: &mut Open<'_>) {
    let mut pair = Pair::new(open);
    pair.append(&entries(1, 30, 1, 200));
    let first = checkpoint(10, 1, 5000);
    pair.write_at(&first, Batch::default());
    pair.check();
    let second = checkpoint(25, 1, 0);
    pair.write_at(&second, Batch { compact_to: Some(10), ..Batch::default() });
    pair.check();
    pair.append(&entries(31, 2, 2, 200));
    let third = checkpoint(32, 2, 70);
    pair.write_at(&third, Batch { compact_to: Some(32), ..Batch::default() });
    pair.check();
    pair.append(&entries(33, 2, 2, 200));
    pair.check();
}

fn compacted_entries_are_gone(open: &mut Open<'_>) {
    let mut pair = Pair::new(open);
    pair.append(&entries(1, 10, 1, 200));
    pair.append(&entries(11, 10, 4, 200));
    let made = checkpoint(15, 4, 10);
    pair.write_at(&made, Batch { compact_to: Some(12), ..Batch::default() });
    assert_eq!(pair.model.compacted, Position { index: 12, term: 4 });
    pair.check();
    pair.write(Batch { compact_to: Some(5), ..Batch::default() });
    pair.write(Batch { compact_to: Some(15), ..Batch::default() });
    pair.check();
    let all = entries(21, 5, 4, 10);
    let made = checkpoint(25, 4, 10);
    let settled = Batch { entries: &all, compact_to: Some(20), ..Batch::default() };
    pair.write_at(&checkpoint(20, 4, 10), settled);
    pair.write_at(&made, Batch { compact_to: Some(25), ..Batch::default() });
    pair.check();
}

fn a_checkpoint_of_a_leader_replaces_the_log(open: &mut Open<'_>) {
    let mut pair = Pair::new(open);
    pair.append(&entries(1, 10, 1, 200));
    let ahead = checkpoint(100, 3, 900);
    let commit = HardState { term: 3, vote: 0, commit: 100 };
    pair.write_at(&ahead, Batch { hard_state: Some(commit), ..Batch::default() });
    pair.check();
    pair.append(&entries(101, 10, 3, 200));
    // Within our log, but of another term than our entry: ours never was the leader's.
    let within = checkpoint(105, 4, 900);
    let after = entries(106, 2, 4, 50);
    pair.write_at(&within, Batch { entries: &after, ..Batch::default() });
    assert_eq!(pair.model.last(), Position { index: 107, term: 4 });
    pair.check();
}

fn big_values_are_recovered(open: &mut Open<'_>) {
    let mut pair = Pair::new(open);
    pair.append(&entries(1, 3, 1, 1 << 20));
    pair.check();
    pair.append(&entries(2, 1, 2, (1 << 16) + 1));
    let made = checkpoint(2, 2, 3 << 20);
    pair.write_at(&made, Batch::default());
    pair.check();
    pair.write(Batch { compact_to: Some(1), ..Batch::default() });
    pair.check();
}

fn a_thousand_batches_are_recovered(open: &mut Open<'_>) {
    let mut pair = Pair::new(open);
    for index in 1..=1000 {
        let one = entries(index, 1, 1 + index / 100, 64);
        let hard_state = HardState { term: 11, vote: 3, commit: index - 1 };
        pair.write(Batch { entries: &one, hard_state: Some(hard_state), ..Batch::default() });
    }
    pair.check();
}

/// Draws batches from a fixed sequence of numbers, among them refused ones, and opens again now
/// and then.
fn random_batches_mean_the_same_as_in_memory(open: &mut Open<'_>) {
    let mut pair = Pair::new(open);
    let mut state = 0x5eed_u64;
    let mut draw = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below.max(1)
    };
    for _ in 0..300 {
        let was = pair.model.clone();
        let mut term = was.hard_state.term + draw(2);
        term = term.max(was.last().term).max(1);
        let first = was.hard_state.commit.max(was.compacted.index) + 1;
        let span = was.last().index + 2 - first.min(was.last().index + 1);
        let new =
            entries(first + draw(span), draw(6), term, usize::try_from(draw(300)).unwrap_or(0));
        let made = (draw(10) == 0).then(|| match was.entries.get(usize::from(draw(4) != 0)) {
            Some(entry) => checkpoint(entry.index, entry.term, 100),
            None => checkpoint(was.last().index + 7, term, 100),
        });
        let compact = was.checkpoint.as_ref().filter(|_| draw(6) == 0).map(|c| c.meta.place.index);
        let end = new.last().map_or(was.last().index, |entry| entry.index);
        let commit = first - 1 + draw(2 + end.saturating_sub(first));
        let vote = if term == was.hard_state.term { was.hard_state.vote } else { draw(4) };
        let batch = Batch {
            checkpoint: None,
            entries: &new,
            compact_to: compact,
            hard_state: (draw(3) != 0).then_some(HardState { term, vote, commit }),
        };
        let meta = made.as_ref().map(|made| pair.model_files.save(&made.draft()));
        let in_memory = Batch { checkpoint: meta.as_ref(), ..batch };
        let fits = apply(&mut was.clone(), &in_memory, &pair.model_files).is_ok();
        match made {
            Some(made) if fits => pair.write_at(&made, batch),
            None if fits => pair.write(batch),
            Some(made) => {
                let meta = pair.save(&made);
                let refused = pair.store().write(&Batch { checkpoint: Some(&meta), ..batch });
                assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
            }
            None => pair.refused(batch),
        }
        if draw(40) == 0 {
            pair.check();
        }
    }
    pair.check();
}

fn a_refused_batch_leaves_the_store_usable(open: &mut Open<'_>) {
    let mut pair = Pair::new(open);
    let committed = entries(1, 5, 2, 100);
    pair.write(Batch {
        entries: &committed,
        hard_state: Some(HardState { term: 2, vote: 1, commit: 3 }),
        ..Batch::default()
    });
    let gap = entries(7, 1, 2, 10);
    pair.refused(Batch { entries: &gap, ..Batch::default() });
    let mut skipping = entries(6, 3, 2, 10);
    skipping.remove(1);
    pair.refused(Batch { entries: &skipping, ..Batch::default() });
    let over_committed = entries(3, 1, 2, 10);
    pair.refused(Batch { entries: &over_committed, ..Batch::default() });
    pair.refused(Batch { compact_to: Some(2), ..Batch::default() });
    let promise = |term, vote, commit| Batch {
        hard_state: Some(HardState { term, vote, commit }),
        ..Batch::default()
    };
    pair.refused(promise(1, 1, 3));
    pair.refused(promise(2, 2, 3));
    pair.refused(promise(2, 1, 6));
    pair.check();
    pair.append(&entries(6, 1, 2, 10));
    pair.check();
}

fn an_unsaved_checkpoint_is_refused(open: &mut Open<'_>) {
    let mut pair = Pair::new(open);
    pair.append(&entries(1, 5, 1, 100));
    let meta = Files::default().save(&checkpoint(3, 1, 100).draft());
    pair.refused(Batch { checkpoint: Some(&meta), ..Batch::default() });
    pair.check();
}

/// From this store to itself, as if it had forgotten the file; begun again in the middle.
fn a_file_travels_in_pieces(open: &mut Open<'_>) {
    let mut pair = Pair::new(open);
    pair.append(&entries(1, 5, 1, 100));
    let made = checkpoint(4, 1, 300_000);
    let meta = pair.save(&made);
    let files = pair.store().checkpoints();
    let whole = files.read(&meta, 0, usize::MAX).expect("it has just been saved");
    assert_eq!(whole.len() as u64, meta.file_bytes);
    assert_eq!(files.read(&meta, meta.file_bytes, 10).expect("at the end"), []);
    assert_eq!(files.received(&meta).expect("asked for"), 0);
    let (one, rest) = whole.split_at(whole.len() / 3);
    files.receive(&meta, 0, one).expect("the first piece");
    let again = files.receive(&meta, 0, one);
    assert!(matches!(again, Err(StoreError::Invalid(_))), "{again:?}");
    drop(files);
    pair.reopen();
    let files = pair.store().checkpoints();
    // How much of it outlived the process is the disk's business; from there it goes on.
    let here = usize::try_from(files.received(&meta).expect("asked for")).expect("small");
    assert!(here <= one.len());
    let missing = [&one[here..], rest].concat();
    for (at, piece) in missing.chunks(70_000).enumerate() {
        files.receive(&meta, (here + at * 70_000) as u64, piece).expect("the next piece");
    }
    assert!(files.finish(&meta).expect("it is whole") == *made.state);
    pair.model_files.save(&made.draft());
    let in_memory = pair.model_files.save(&made.draft());
    let named = Batch { checkpoint: Some(&in_memory), ..Batch::default() };
    apply(&mut pair.model, &named, &pair.model_files).expect("valid");
    pair.store().write(&Batch { checkpoint: Some(&meta), ..Batch::default() }).expect("valid");
    drop(files);
    pair.check();
}

fn a_wrong_file_is_refused(open: &mut Open<'_>) {
    let mut pair = Pair::new(open);
    let meta = pair.save(&checkpoint(4, 1, 20_000));
    let files = pair.store().checkpoints();
    let mut file = files.read(&meta, 0, usize::MAX).expect("it has just been saved");
    let offered = CheckpointMeta { place: Position { index: 9, term: 1 }, ..meta };
    files.received(&offered).expect("asked for");
    let middle = file.len() / 2;
    file[middle] ^= 1;
    files.receive(&offered, 0, &file).expect("nobody looks inside yet");
    let refused = files.finish(&offered);
    assert!(matches!(refused, Err(StoreError::Broken { .. })), "{refused:?}");
    assert_eq!(files.received(&offered).expect("asked for"), 0, "it was forgotten");
    let absent = files.read(&offered, 0, 10);
    assert!(matches!(absent, Err(StoreError::Gone { index: 9 })), "{absent:?}");
}

fn another_replica_is_refused(open: &mut Open<'_>) {
    drop(open(&identity()).expect("a new disk opens"));
    let others = [
        ReplicaIdentity { replica: 4, ..identity() },
        ReplicaIdentity { cell: "other".into(), ..identity() },
        ReplicaIdentity { epoch: 2, ..identity() },
    ];
    for other in others {
        match open(&other).map(drop) {
            Err(StoreError::WrongIdentity { found, expected }) => {
                assert_eq!((found, expected), (identity(), other));
            }
            unexpected => panic!("{other} got {unexpected:?}"),
        }
    }
    drop(open(&identity()).expect("the owner still opens it"));
}

fn a_second_opener_is_refused(open: &mut Open<'_>) {
    let first = open(&identity()).expect("a new disk opens");
    let second = open(&identity()).map(drop);
    assert!(matches!(second, Err(StoreError::InUse { .. })), "{second:?}");
    drop(first);
    drop(open(&identity()).expect("free again"));
}
