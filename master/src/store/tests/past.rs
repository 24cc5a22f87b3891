//! Checkpoints kept, logs founded from one, logs moved out of the way.

use super::{Pair, copy_tree, files, recover};
use crate::store::{Keep, Opened, StoreKind, found, open, open_keeping, quarantine};
use borg_cell::store::conformance::{checkpoint, entries, identity};
use borg_cell::store::{Batch, CheckpointDraft, HardState, LogEntry, Position, StoreError};
use std::fs;

const KINDS: [StoreKind; 2] = [StoreKind::Redb, StoreKind::Sled];

/// Ten entries, a checkpoint of them that takes them along, and so on.
fn rounds(opened: &mut Opened, rounds: std::ops::Range<u64>) {
    for round in rounds {
        let new = entries(round * 10 + 1, 10, 1, 3_000);
        opened.log.write(&Batch { entries: &new, ..Batch::default() }).unwrap();
        let made = checkpoint(round * 10 + 10, 1, 50_000);
        let draft = CheckpointDraft { log: &new, ..made.draft() };
        let meta = opened.log.checkpoints().save(&draft).unwrap();
        let compact_to = Some(meta.place.index);
        let batch = Batch { checkpoint: Some(&meta), compact_to, ..Batch::default() };
        opened.log.write(&batch).unwrap();
    }
}

fn log(opened: &Opened, after: u64) -> Vec<LogEntry> {
    let mut seen = Vec::new();
    let visit = &mut |entry| {
        seen.push(entry);
        true
    };
    opened.history.log(after, visit).unwrap();
    seen
}

#[test]
fn every_entry_since_the_oldest_checkpoint_is_there_also_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let keep = Keep { count: 5, ..Keep::default() };
    let reopen = || open_keeping(StoreKind::Redb, dir.path(), &identity(), keep).unwrap();
    let mut opened = reopen();
    rounds(&mut opened, 0..30);
    for again in [false, true] {
        if again {
            drop(opened);
            opened = reopen();
        }
        let kept = opened.history.checkpoints();
        assert_eq!(kept.len(), 5, "{kept:?}");
        assert_eq!(kept[0].meta.place.index, 10);
        assert!(kept[1..].iter().all(|kept| kept.unbroken), "{kept:?}");
        assert!(log(&opened, 10) == entries(11, 290, 1, 3_000));
        assert!(log(&opened, 144) == entries(145, 156, 1, 3_000));
        for kept in &kept {
            let made = checkpoint(kept.meta.place.index, 1, 50_000);
            assert!(opened.history.state(&kept.meta).unwrap() == made.state);
            assert_eq!(kept.meta.at, made.draft().at);
        }
    }
    // Less is kept from now on.
    drop(opened);
    let keep = Keep { count: 2, bytes: 0, ..keep };
    let mut opened = open_keeping(StoreKind::Redb, dir.path(), &identity(), keep).unwrap();
    let before = opened.history.checkpoints()[0].meta.clone();
    rounds(&mut opened, 30..32);
    assert_eq!(opened.history.checkpoints().len(), 3, "two that the head names, and the newest");
    let gone = opened.history.state(&before);
    assert!(matches!(gone, Err(StoreError::Gone { index: 10 })), "{gone:?}");
    let gone = opened.log.checkpoints().read(&before, 0, 10);
    assert!(matches!(gone, Err(StoreError::Gone { index: 10 })), "{gone:?}");
    let files = files(&dir.path().join("log"));
    assert!(files.len() < 10, "files of the past are still there: {files:?}");
}

#[test]
fn a_leaders_checkpoint_leaves_a_gap_that_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened =
        open_keeping(StoreKind::Redb, dir.path(), &identity(), Keep::default()).unwrap();
    rounds(&mut opened, 0..2);
    let leaders = checkpoint(100, 3, 900);
    let meta = opened.log.checkpoints().save(&leaders.draft()).unwrap();
    let commit = Some(HardState { term: 3, vote: 0, commit: 100 });
    let batch = Batch { checkpoint: Some(&meta), hard_state: commit, ..Batch::default() };
    opened.log.write(&batch).unwrap();
    rounds(&mut opened, 10..11);
    let kept = opened.history.checkpoints();
    let kept: Vec<_> = kept.iter().map(|kept| (kept.meta.place.index, kept.unbroken)).collect();
    assert_eq!(kept, [(10, false), (20, true), (100, false), (110, true)]);
    assert_eq!(log(&opened, 10).len(), 10);
    assert_eq!(log(&opened, 100).len(), 10);
}

#[test]
fn a_rotten_piece_of_the_past_is_an_error_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened =
        open_keeping(StoreKind::Redb, dir.path(), &identity(), Keep::default()).unwrap();
    rounds(&mut opened, 0..4);
    let path = files(&dir.path().join("log"))
        .into_iter()
        .find(|path| path.to_string_lossy().contains("segment-00000000000000000011"))
        .unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut seen = 0;
    let visit = &mut |_| {
        seen += 1;
        true
    };
    let refused = opened.history.log(5, visit);
    assert!(matches!(refused, Err(StoreError::Broken { at: 11, .. })), "{refused:?}");
    assert_eq!(seen, 5, "nothing of the rotten piece was shown");
    rounds(&mut opened, 4..5);
}

#[test]
fn checkpoints_are_saved_and_sent_while_the_log_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = Pair::open(StoreKind::Redb, dir.path());
    let files = pair.store.checkpoints();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (files, over) = (&files, &over);
        scope.spawn(move || {
            for index in 1..40 {
                let meta = files.save(&checkpoint(index, 1, 5_000).draft()).unwrap();
                let whole = files.read(&meta, 0, usize::MAX).unwrap();
                assert_eq!(whole.len() as u64, meta.file_bytes);
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let mut next = 1;
        while !over.load(std::sync::atomic::Ordering::Relaxed) {
            let one = entries(next, 1, 1, 100);
            pair.store.write(&Batch { entries: &one, ..Batch::default() }).unwrap();
            next += 1;
        }
    });
}

/// A reader that is in the middle of a file gets to its end.
#[test]
fn a_file_that_is_being_sent_outlives_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let keep = Keep { count: 2, age: borg_proto::Millis(0), bytes: 0 };
    let mut opened = open_keeping(StoreKind::Redb, dir.path(), &identity(), keep).unwrap();
    rounds(&mut opened, 0..1);
    let meta = opened.history.checkpoints()[0].meta.clone();
    let sender = opened.log.checkpoints();
    let first = sender.read(&meta, 0, 100).unwrap();
    for round in 1..6 {
        rounds(&mut opened, round..round + 1);
        sender.read(&meta, 100, 100).unwrap();
    }
    assert!(opened.history.checkpoints().iter().all(|kept| kept.meta != meta), "it was removed");
    let rest = sender.read(&meta, 100, usize::MAX).unwrap();
    assert_eq!((first.len() + rest.len()) as u64, meta.file_bytes);
    rounds(&mut opened, 6..8);
    let gone = sender.read(&meta, 0, 10);
    assert!(matches!(gone, Err(StoreError::Gone { index: 10 })), "{gone:?}");
}

#[test]
fn what_a_dead_process_left_behind_is_cleared_away() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut opened =
        open_keeping(StoreKind::Redb, dir.path(), &identity(), Keep::default()).unwrap();
    rounds(&mut opened, 0..1);
    drop(opened);
    fs::write(log.join("saving-checkpoint.tmp"), [1; 100]).unwrap();
    let old_part = log.join("incoming-00000000000000000005-00000000000000aa");
    let new_part = log.join("incoming-00000000000000000500-00000000000000aa");
    fs::write(&old_part, [1; 100]).unwrap();
    fs::write(&new_part, [1; 100]).unwrap();
    let mut opened =
        open_keeping(StoreKind::Redb, dir.path(), &identity(), Keep::default()).unwrap();
    assert!(!log.join("saving-checkpoint.tmp").exists());
    rounds(&mut opened, 1..2);
    assert!(!old_part.exists(), "this replica has passed it");
    assert!(new_part.exists(), "it may still be asked for the rest");
}

#[test]
fn a_log_is_founded_from_a_checkpoint_once() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let made = checkpoint(70, 4, 9_000);
        found(kind, dir.path(), &identity(), &made.draft()).unwrap();
        let found_one = recover(kind, dir.path()).unwrap();
        assert_eq!(found_one.compacted, Position { index: 70, term: 4 });
        assert_eq!(found_one.hard_state, HardState { term: 4, vote: 0, commit: 70 });
        let held = found_one.checkpoint.unwrap();
        assert!(held.state == made.state && held.meta.membership == made.membership);
        let again = found(kind, dir.path(), &identity(), &made.draft());
        assert!(matches!(again, Err(StoreError::Invalid(_))), "{again:?}");
        let mut store = open(kind, dir.path(), &identity()).unwrap();
        let next = entries(71, 3, 5, 100);
        store.write(&Batch { entries: &next, ..Batch::default() }).unwrap();
        drop(store);
        assert_eq!(recover(kind, dir.path()).unwrap().entries, next);
    }
}

#[test]
fn a_log_moves_out_of_the_way_whole_and_three_such_stay() {
    let dir = tempfile::tempdir().unwrap();
    let none = quarantine(dir.path());
    assert!(matches!(none, Err(StoreError::Broken { .. })), "{none:?}");
    for round in 1..=5_u64 {
        let mut pair = Pair::open(StoreKind::Redb, dir.path());
        let one = entries(1, round, 1, 10);
        pair.write(Batch { entries: &one, ..Batch::default() });
        let open = quarantine(dir.path());
        assert!(matches!(open, Err(StoreError::InUse { .. })), "{open:?}");
        drop(pair);
        let moved = quarantine(dir.path()).unwrap();
        assert_eq!(moved, dir.path().join(format!("quarantine-{round}")));
        assert!(!crate::store::is_there(dir.path()));
    }
    let back = tempfile::tempdir().unwrap();
    copy_tree(&dir.path().join("quarantine-5"), &back.path().join("log"));
    assert_eq!(recover(StoreKind::Redb, back.path()).unwrap().entries.len(), 5);
    let left = |number| dir.path().join(format!("quarantine-{number}")).exists();
    assert_eq!([1, 2, 3, 4, 5].map(left), [false, false, true, true, true]);
}
