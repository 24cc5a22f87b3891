//! The real stores: the shared suite, then what only files can suffer.
//!
//! Power cuts and lost syncs need another kernel or a block device, and are not here: killing a
//! process or copying its files keeps what the page cache holds.

use std::fs;
use std::path::{Path, PathBuf};

use borg_cell::store::conformance::{CASES, Made, checkpoint, entries, identity};
use borg_cell::store::memory::{Files, apply};
use borg_cell::store::{Batch, HardState, LogStore, Recovered, StoreError};

use super::{StoreKind, open};

mod golden;
mod injected;
mod past;

/// Damages tried per store; each opens a copy of the directory once or twice.
const DAMAGES: u64 = 60;

fn conforms(kind: StoreKind) {
    for (_name, case) in CASES {
        let dir = tempfile::tempdir().unwrap();
        case(&mut |identity| open(kind, dir.path(), identity));
    }
}

#[test]
fn redb_conforms() {
    conforms(StoreKind::Redb);
}

#[test]
fn sled_conforms() {
    conforms(StoreKind::Sled);
}

/// A store beside the model of what it must hold.
struct Pair {
    store: Box<dyn LogStore>,
    model: Recovered,
    model_files: Files,
}

impl Pair {
    fn open(kind: StoreKind, dir: &Path) -> Self {
        let store = open(kind, dir, &identity()).unwrap();
        Self { store, model: Recovered::empty(identity()), model_files: Files::default() }
    }

    fn write(&mut self, batch: Batch<'_>) {
        apply(&mut self.model, &batch, &self.model_files).unwrap();
        self.store.write(&batch).unwrap();
    }

    fn write_at(&mut self, made: &Made, batch: Batch<'_>) {
        let meta = self.model_files.save(&made.draft());
        let batch = Batch { checkpoint: Some(&meta), ..batch };
        apply(&mut self.model, &batch, &self.model_files).unwrap();
        let meta = self.store.checkpoints().save(&made.draft()).unwrap();
        self.store.write(&Batch { checkpoint: Some(&meta), ..batch }).unwrap();
    }
}

/// A log with all there is in one: entries of two terms, big ones, a vote, two checkpoints,
/// compaction. `between` is called before the last write.
fn written(kind: StoreKind, dir: &Path, between: impl FnOnce()) -> Recovered {
    let mut pair = Pair::open(kind, dir);
    let hard_state = |term, commit| Some(HardState { term, vote: 2, commit });
    let made = entries(1, 40, 1, 700);
    pair.write(Batch { entries: &made, hard_state: hard_state(1, 30), ..Batch::default() });
    let older = checkpoint(10, 1, 3000);
    pair.write_at(&older, Batch { compact_to: Some(8), ..Batch::default() });
    let made = entries(35, 10, 2, 900);
    pair.write(Batch { entries: &made, hard_state: hard_state(2, 36), ..Batch::default() });
    pair.write_at(&checkpoint(20, 1, 3000), Batch::default());
    let big = entries(45, 1, 2, 200_000);
    pair.write(Batch { entries: &big, ..Batch::default() });
    between();
    let last = entries(46, 2, 2, 100);
    pair.write(Batch { entries: &last, hard_state: hard_state(2, 46), ..Batch::default() });
    pair.model
}

fn recover(kind: StoreKind, dir: &Path) -> Result<Recovered, StoreError> {
    open(kind, dir, &identity())?.recover()
}

fn copy_tree(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for child in fs::read_dir(from).unwrap() {
            let child = child.unwrap();
            copy_tree(&child.path(), &to.join(child.file_name()));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for child in fs::read_dir(dir).unwrap() {
        let path = child.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Numbers that repeat: splitmix64.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }

    fn place(&mut self, bytes: &[u8]) -> usize {
        usize::try_from(self.below(bytes.len() as u64)).unwrap()
    }
}

/// Damages one file of the log and says how.
fn damage(dir: &Path, draw: &mut Draw) -> String {
    let files = files(&dir.join("log"));
    // The engine's file is one of many but holds the log: half of all damage goes there.
    let engine = files.iter().find(|path| path.ends_with("log.redb") || path.ends_with("db"));
    let path = match draw.below(2) {
        0 => engine.unwrap().clone(),
        _ => files[usize::try_from(draw.below(files.len() as u64)).unwrap()].clone(),
    };
    let mut bytes = fs::read(&path).unwrap();
    let what = match draw.below(5) {
        0 | 1 if !bytes.is_empty() => {
            // Half of the flips near the end of what was written, where the newest records are.
            let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
            let at = match draw.below(2) {
                0 => used - draw.place(&bytes[..used.min(4096)]),
                _ => draw.place(&bytes),
            };
            bytes[at] ^= 1 << draw.below(8);
            format!("flip a bit of byte {at}")
        }
        2 if !bytes.is_empty() => {
            let at = draw.place(&bytes);
            let end = bytes.len().min(at + 512);
            bytes[at..end].fill(0);
            format!("zero {at}..{end}")
        }
        3 => {
            let length = draw.place(&bytes);
            bytes.truncate(length);
            format!("cut to {length}")
        }
        _ => {
            fs::remove_file(&path).unwrap();
            return format!("remove {}", path.display());
        }
    };
    fs::write(&path, bytes).unwrap();
    format!("{what} of {}", path.display())
}

/// Whatever is done to one file: an error, or everything is still there, also after the next
/// write. Never less, and no panic gets out.
fn damage_is_noticed_or_harmless(kind: StoreKind) {
    let dir = tempfile::tempdir().unwrap();
    let intact = dir.path().join("intact");
    let mut model = written(kind, &intact, || {});
    let next = entries(48, 1, 2, 500);
    let next = Batch { entries: &next, ..Batch::default() };
    let (mut noticed, mut harmless) = (0, 0);
    for seed in 0..DAMAGES {
        let copy = dir.path().join(format!("{seed}"));
        copy_tree(&intact, &copy);
        let what = format!("seed {seed}: {}", damage(&copy, &mut Draw(seed)));
        let after = match open(kind, &copy, &identity()) {
            Ok(mut store) => {
                let found = store.recover().unwrap();
                // The older checkpoint may stand in for the newer one: the log still follows it.
                let index = found.checkpoint.as_ref().map(|checkpoint| checkpoint.meta.place.index);
                assert!(index == Some(20) || index == Some(10), "{what}: {index:?}");
                let whole = Recovered { checkpoint: model.checkpoint.clone(), ..found };
                assert!(whole == model, "{what}: something is lost");
                let written = store.write(&next);
                drop(store);
                written.and_then(|()| recover(kind, &copy))
            }
            Err(error) => Err(error),
        };
        match after {
            Ok(found) => {
                let kept = model.clone();
                apply(&mut model, &next, &Files::default()).unwrap();
                assert!(found.entries == model.entries, "{what}: something is lost later");
                model = kept;
                harmless += 1;
            }
            Err(StoreError::Broken { .. } | StoreError::Failed { .. }) => noticed += 1,
            Err(other) => panic!("{what}: {other}"),
        }
        fs::remove_dir_all(&copy).unwrap();
    }
    eprintln!("{kind}: {noticed} noticed, {harmless} harmless");
    assert!(noticed > DAMAGES / 4, "the damage hits nothing: {noticed}");
}

#[test]
fn damage_to_redb_is_noticed_or_harmless() {
    damage_is_noticed_or_harmless(StoreKind::Redb);
}

#[test]
fn damage_to_sled_is_noticed_or_harmless() {
    damage_is_noticed_or_harmless(StoreKind::Sled);
}

/// What an engine does by itself when the newest part of its file is rotten: it opens the state
/// before. Only the watermark knows better.
#[test]
fn an_engine_without_its_last_write_is_broken() {
    for kind in [StoreKind::Redb, StoreKind::Sled] {
        let dir = tempfile::tempdir().unwrap();
        let (data, older) = (dir.path().join("data"), dir.path().join("older"));
        written(kind, &data, || copy_tree(&data, &older));
        let engine = |dir: &Path| dir.join("log").join(kind.file_name());
        for file in files(&data.join("log")) {
            if file.starts_with(engine(&data)) {
                fs::remove_file(file).unwrap();
            }
        }
        copy_tree(&engine(&older), &engine(&data));
        match recover(kind, &data) {
            Err(StoreError::Broken { at: 46, .. }) => {}
            other => panic!("{kind}: {other:?}"),
        }
    }
}

/// A crash after the engine's sync and before the watermark's: the write may count, since nobody
/// was told that it did or did not. The slot being written may be torn.
#[test]
fn a_write_ahead_of_the_watermark_is_finished() {
    for kind in [StoreKind::Redb, StoreKind::Sled] {
        for torn in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let (data, older) = (dir.path().join("data"), dir.path().join("older"));
            let model = written(kind, &data, || copy_tree(&data, &older));
            let mark = |dir: &Path| dir.join("log/watermark");
            let mut bytes = fs::read(mark(&older)).unwrap();
            if torn {
                // The last write is number 6 and goes to the first slot.
                bytes[100..200].fill(0xff);
            }
            fs::write(mark(&data), bytes).unwrap();
            assert_eq!(recover(kind, &data).unwrap().entries, model.entries);
            assert_eq!(recover(kind, &data).unwrap().hard_state, model.hard_state);
        }
    }
}

/// The engine lost its last write and the watermark of that write is gone too: what is left fits
/// together, but for the slot that no crash leaves like this.
#[test]
fn half_a_watermark_does_not_vouch_for_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (data, older) = (dir.path().join("data"), dir.path().join("older"));
    written(StoreKind::Redb, &data, || copy_tree(&data, &older));
    fs::copy(older.join("log/log.redb"), data.join("log/log.redb")).unwrap();
    let path = data.join("log/watermark");
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1; // The newer slot.
    fs::write(&path, bytes).unwrap();
    let found = open(StoreKind::Redb, &data, &identity()).map(drop);
    assert!(matches!(found, Err(StoreError::Broken { .. })), "{found:?}");
}

/// Else the half that is left would do until the next write, and then not.
#[test]
fn a_watermark_that_was_cut_is_noticed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    written(StoreKind::Redb, dir.path(), || {});
    let path = dir.path().join("log/watermark");
    let bytes = fs::read(&path).unwrap();
    for length in [0, 100, 4_096, 5_000, 8_191] {
        fs::write(&path, &bytes[..length]).unwrap();
        let found = recover(StoreKind::Redb, dir.path());
        assert!(matches!(found, Err(StoreError::Broken { .. })), "cut to {length}: {found:?}");
    }
}

#[test]
fn a_rotten_checkpoint_falls_back_to_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let model = written(StoreKind::Redb, dir.path(), || {});
    let log = dir.path().join("log");
    let checkpoints = || {
        files(&log)
            .into_iter()
            .filter(|path| path.to_string_lossy().contains("checkpoint-"))
            .collect::<Vec<_>>()
    };
    let [older, newer] = checkpoints().try_into().unwrap();
    fs::write(&newer, []).unwrap();
    for _ in 0..2 {
        let found = recover(StoreKind::Redb, dir.path()).unwrap();
        assert_eq!(found.checkpoint.map(|checkpoint| checkpoint.meta.place.index), Some(10));
        assert_eq!(found.entries, model.entries);
    }
    fs::write(&older, []).unwrap();
    let found = recover(StoreKind::Redb, dir.path());
    assert!(matches!(found, Err(StoreError::Broken { at: 20, .. })), "{found:?}");
}

/// sled removes the old snapshot before anybody can sync the name of the new one, so that a power cut may
/// leave an empty one.
#[test]
fn sled_opens_without_its_snapshot_and_nothing_is_missing() {
    for damage in [&b""[..], b"rot that is long enough to be looked at"] {
        let dir = tempfile::tempdir().unwrap();
        let model = written(StoreKind::Sled, dir.path(), || {});
        drop(recover(StoreKind::Sled, dir.path()).unwrap());
        let is_snapshot = |path: &&PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap."))
        };
        let all = files(dir.path());
        let snapshots: Vec<_> = all.iter().filter(is_snapshot).collect();
        assert!(!snapshots.is_empty());
        for path in snapshots {
            fs::write(path, damage).unwrap();
        }
        let found = recover(StoreKind::Sled, dir.path()).unwrap();
        assert_eq!((found.entries, found.hard_state), (model.entries, model.hard_state));
    }
}

/// A master whose log is broken repairs itself; one whose log merely failed to open ends, at every start.
#[test]
fn rot_in_the_configuration_file_of_sled_is_damage_and_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let intact = dir.path().join("intact");
    let model = written(StoreKind::Sled, &intact, || {});
    let mut broken = 0;
    for at in 0.. {
        let copy = dir.path().join(format!("{at}"));
        copy_tree(&intact, &copy);
        let path = files(&copy).into_iter().find(|path| path.ends_with("log.sled/conf")).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let Some(byte) = bytes.get_mut(at) else { break };
        *byte ^= 1;
        fs::write(&path, bytes).unwrap();
        match recover(StoreKind::Sled, &copy) {
            Ok(found) => assert_eq!(found.entries, model.entries, "byte {at}"),
            Err(StoreError::Broken { .. }) => broken += 1,
            Err(other) => panic!("byte {at}: {other:?}"),
        }
        fs::remove_dir_all(&copy).unwrap();
    }
    assert!(broken > 0);
}

#[test]
fn a_newer_format_is_named_and_rot_in_the_format_is_not_taken_for_one() {
    let dir = tempfile::tempdir().unwrap();
    written(StoreKind::Redb, dir.path(), || {});
    let path = dir.path().join("log/identity");
    let mut bytes = fs::read(&path).unwrap();
    bytes[8..12].copy_from_slice(&7_u32.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let found = recover(StoreKind::Redb, dir.path());
    assert!(matches!(found, Err(StoreError::Broken { .. })), "{found:?}");
    let check = super::record::header_check(&bytes[..12]);
    bytes[12..16].copy_from_slice(&check.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let found = recover(StoreKind::Redb, dir.path());
    assert!(matches!(found, Err(StoreError::Version { found: 7, .. })), "{found:?}");
}

#[test]
fn a_log_of_the_other_engine_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    written(StoreKind::Redb, dir.path(), || {});
    let found = recover(StoreKind::Sled, dir.path());
    assert!(matches!(found, Err(StoreError::OtherStore { .. })), "{found:?}");
}

/// The process died while it made the log: nothing was ever acknowledged from there.
#[test]
fn a_log_that_was_never_finished_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("creating")).unwrap();
    fs::write(dir.path().join("creating/log.redb"), [0; 100]).unwrap();
    let found = recover(StoreKind::Redb, dir.path()).unwrap();
    assert_eq!(found, Recovered::empty(identity()));
    assert!(!dir.path().join("creating").exists());
}

/// Records of another replica's log do not fit, even where the directory says they do.
#[test]
fn the_files_of_another_replica_do_not_fit_under_our_identity() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    written(StoreKind::Redb, &theirs, || {});
    let other = borg_cell::store::ReplicaIdentity { replica: 9, ..identity() };
    drop(open(StoreKind::Redb, &ours, &other).unwrap());
    for name in ["log.redb", "watermark"] {
        fs::copy(theirs.join("log").join(name), ours.join("log").join(name)).unwrap();
    }
    let found = open(StoreKind::Redb, &ours, &other).map(drop);
    assert!(matches!(found, Err(StoreError::Broken { .. })), "{found:?}");
}
