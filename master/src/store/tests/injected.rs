//! The disk says no, once, at every place where it can.
//!
//! Of what sled does inside, only the last sync is reached from here.

use super::recover;
use crate::store::fault::{Call, injected};
use crate::store::{StoreKind, found, open, quarantine};
use borg_cell::store::conformance::{checkpoint, entries, identity};
use borg_cell::store::memory::{Files, apply};
use borg_cell::store::{Batch, HardState, LogStore, Recovered, StoreError};
use std::collections::BTreeMap;
use std::path::Path;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What was acknowledged, and what the write that failed would have led to.
struct Story {
    acknowledged: Recovered,
    doubtful: Option<Recovered>,
    files: Files,
}

impl Story {
    fn write(&mut self, store: &mut dyn LogStore, batch: Batch<'_>) -> Result<(), StoreError> {
        self.write_named(store, batch, batch)
    }

    /// A checkpoint has other bytes in a file than in the model, so each has its own name for it.
    fn write_named(
        &mut self,
        store: &mut dyn LogStore,
        model: Batch<'_>,
        batch: Batch<'_>,
    ) -> Result<(), StoreError> {
        let mut next = self.acknowledged.clone();
        apply(&mut next, &model, &self.files).unwrap();
        self.doubtful = Some(next.clone());
        store.write(&batch)?;
        (self.acknowledged, self.doubtful) = (next, None);
        Ok(())
    }

    /// Saves a checkpoint and names it. Without room for it the log goes on.
    fn checkpoint(
        &mut self,
        store: &mut dyn LogStore,
        index: u64,
        compact_to: u64,
    ) -> Result<(), StoreError> {
        let made = checkpoint(index, 1, 200_000);
        let meta = match store.checkpoints().save(&made.draft()) {
            Ok(meta) => meta,
            Err(StoreError::Full { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let model = self.files.save(&made.draft());
        let compact_to = Some(compact_to);
        self.write_named(
            store,
            Batch { checkpoint: Some(&model), compact_to, ..Batch::default() },
            Batch { checkpoint: Some(&meta), compact_to, ..Batch::default() },
        )
    }
}

/// Everything that a store does in its life.
fn live(kind: StoreKind, dir: &Path, story: &mut Story) -> Result<(), StoreError> {
    let mut store = open(kind, dir, &identity())?;
    let outcome = work(&mut *store, story);
    if let Err(error) = &outcome
        && !matches!(error, StoreError::Full { .. })
    {
        let more = entries(story.acknowledged.last().index + 1, 1, 9, 10);
        let more = store.write(&Batch { entries: &more, ..Batch::default() });
        assert!(matches!(more, Err(StoreError::Failed { .. })), "goes on after {error}: {more:?}");
        assert!(store.recover().is_err(), "reads after {error}");
        let draft = checkpoint(1, 1, 10);
        assert!(store.checkpoints().save(&draft.draft()).is_err(), "saves after {error}");
    }
    outcome
}

fn work(store: &mut dyn LogStore, story: &mut Story) -> Result<(), StoreError> {
    for round in 0..12 {
        let new = entries(round * 4 + 1, 4, 1, 5_000);
        let hard_state = Some(HardState { term: 1, vote: 2, commit: round * 4 });
        story.write(store, Batch { entries: &new, hard_state, ..Batch::default() })?;
    }
    story.checkpoint(store, 20, 15)?;
    story.checkpoint(store, 40, 30)?;
    // Another master's, in two pieces, further on.
    let leaders = checkpoint(90, 2, 100_000);
    let elsewhere = scratch();
    let (meta, file) = {
        let before = injected::pause();
        let other = open(StoreKind::Redb, elsewhere.path(), &identity()).unwrap();
        let meta = other.checkpoints().save(&leaders.draft()).unwrap();
        let file = other.checkpoints().read(&meta, 0, usize::MAX).unwrap();
        drop(other);
        injected::resume(before);
        (meta, file)
    };
    let (one, two) = file.split_at(file.len() / 2);
    let files = store.checkpoints();
    let here = files.received(&meta)?;
    assert_eq!(here, 0);
    files.receive(&meta, 0, one)?;
    files.receive(&meta, one.len() as u64, two)?;
    files.finish(&meta)?;
    let model = story.files.save(&leaders.draft());
    let hard_state = Some(HardState { term: 2, vote: 0, commit: 90 });
    story.write_named(
        store,
        Batch { checkpoint: Some(&model), hard_state, ..Batch::default() },
        Batch { checkpoint: Some(&meta), hard_state, ..Batch::default() },
    )?;
    let last = entries(91, 3, 2, 100);
    story.write(store, Batch { entries: &last, ..Batch::default() })
}

fn same(found: &Recovered, model: &Recovered) -> bool {
    let state = |recovered: &Recovered| {
        recovered.checkpoint.as_ref().map(|held| (held.meta.place, held.state.clone()))
    };
    found.entries == model.entries
        && found.hard_state == model.hard_state
        && found.compacted == model.compacted
        && state(found) == state(model)
}

/// In memory where there is such a place: what is synced here is of no matter.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

fn at_every_call(kind: StoreKind, code: i32) {
    let mut hits: BTreeMap<String, u64> = BTreeMap::new();
    for n in 1.. {
        let dir = scratch();
        let mut story = Story {
            acknowledged: Recovered::empty(identity()),
            doubtful: None,
            files: Files::default(),
        };
        injected::refuse(Some((n, code)));
        let outcome = live(kind, dir.path(), &mut story);
        let hit = injected::hit();
        injected::refuse(None);
        let Some(call) = hit else {
            outcome.unwrap();
            break;
        };
        *hits.entry(format!("{call:?}")).or_default() += 1;
        if let Err(StoreError::Full { .. }) = outcome {
            assert!(code == ENOSPC && call != Call::Sync, "call {n}, {call:?}: not full");
        }
        let found = recover(kind, dir.path())
            .unwrap_or_else(|error| panic!("call {n}, {call:?}: cannot open after it: {error:?}"));
        let whole = same(&found, &story.acknowledged)
            || story.doubtful.as_ref().is_some_and(|doubtful| same(&found, doubtful));
        assert!(whole, "call {n}, {call:?}: something acknowledged is lost");
    }
    eprintln!("{kind}, error {code}: refused {hits:?}");
    assert!(hits["Sync"] > 20 && hits["Write"] > 10 && hits["Rename"] > 3, "{hits:?}");
}

#[test]
fn an_error_at_any_call_loses_nothing_and_is_the_last_call_redb() {
    at_every_call(StoreKind::Redb, EIO);
}

#[test]
fn an_error_at_any_call_loses_nothing_and_is_the_last_call_sled() {
    at_every_call(StoreKind::Sled, EIO);
}

#[test]
fn no_room_at_any_call_loses_nothing() {
    at_every_call(StoreKind::Redb, ENOSPC);
}

/// Founding a log, and moving one away: done, or not done at all.
#[test]
fn an_error_while_a_log_is_founded_or_moved_leaves_no_half_of_it() {
    let made = checkpoint(70, 4, 9_000);
    for n in 1.. {
        let dir = scratch();
        injected::refuse(Some((n, EIO)));
        let outcome = found(StoreKind::Redb, dir.path(), &identity(), &made.draft());
        let moved = outcome.and_then(|()| quarantine(dir.path()));
        let hit = injected::hit();
        injected::refuse(None);
        let (log, aside) = (dir.path().join("log"), dir.path().join("quarantine-1"));
        assert!(!(log.exists() && aside.exists()), "call {n}, {hit:?}");
        if aside.exists() {
            std::fs::rename(&aside, &log).unwrap();
        }
        if log.exists() {
            let found = recover(StoreKind::Redb, dir.path()).unwrap();
            assert!(found.checkpoint.unwrap().state == made.state, "call {n}, {hit:?}");
        }
        if hit.is_none() {
            moved.unwrap();
            assert!(n > 20, "only {n} calls");
            break;
        }
    }
}
