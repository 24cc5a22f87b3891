//! Directories of every format, which must load for ever.
//!
//! `tests/golden/ENGINE-FORMAT.lz4` is a data directory; all of them hold the same log. When a format
//! is added, `UPDATE_EXPECT=1` makes the files that are missing.

use super::{Pair, files, recover};
use crate::store::record::{Block, Reader};
use crate::store::{Keep, StoreKind, open_keeping};
use borg_cell::store::conformance::{checkpoint, entries, identity};
use borg_cell::store::{Batch, CheckpointDraft, HardState, Position};
use std::fs;
use std::path::{Path, PathBuf};

const KINDS: [StoreKind; 2] = [StoreKind::Redb, StoreKind::Sled];

/// The log that all golden directories hold.
fn write(kind: StoreKind, dir: &Path) {
    let mut pair = Pair::open(kind, dir);
    let hard_state = |term, commit| Some(HardState { term, vote: 2, commit });
    let made = entries(1, 40, 1, 70);
    pair.write(Batch { entries: &made, hard_state: hard_state(1, 30), ..Batch::default() });
    pair.write_at(&checkpoint(10, 1, 3_000), Batch { compact_to: Some(8), ..Batch::default() });
    let made = entries(35, 10, 2, 90);
    pair.write(Batch { entries: &made, hard_state: hard_state(2, 36), ..Batch::default() });
    let newer = checkpoint(20, 1, 3_000);
    let between = entries(11, 10, 1, 70);
    let draft = CheckpointDraft { log: &between, ..newer.draft() };
    let meta = pair.store.checkpoints().save(&draft).unwrap();
    pair.store.write(&Batch { checkpoint: Some(&meta), ..Batch::default() }).unwrap();
    let last = entries(45, 3, 2, 60_000);
    let batch = Batch { entries: &last, hard_state: hard_state(2, 46), ..Batch::default() };
    pair.store.write(&batch).unwrap();
}

fn path(kind: StoreKind, format: u32) -> PathBuf {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    golden.join(format!("{kind}-{format}.lz4"))
}

/// An archive is LZ4 over: length of the path, path, length of the content, content, and so on.
fn pack(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for file in files(dir) {
        let name = file.strip_prefix(dir).unwrap().to_str().unwrap().as_bytes().to_vec();
        for part in [name, fs::read(&file).unwrap()] {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&part);
        }
    }
    lz4_flex::block::compress_prepend_size(&bytes)
}

fn unpack(packed: &[u8], dir: &Path) {
    let bytes = lz4_flex::block::decompress_size_prepended(packed).unwrap();
    let mut rest = Reader(&bytes);
    while !rest.0.is_empty() {
        let mut part = || {
            let length = usize::try_from(rest.u64().unwrap()).unwrap();
            rest.take(length).unwrap().to_vec()
        };
        let path = dir.join(String::from_utf8(part()).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, part()).unwrap();
    }
}

/// Each format of each engine, in a directory of its own.
fn each(check: impl Fn(StoreKind, u32, &Path)) {
    let newest = Block::Head.format();
    for (kind, format) in KINDS.iter().flat_map(|kind| (1..=newest).map(|format| (*kind, format))) {
        let path = path(kind, format);
        if format == newest && !path.exists() && std::env::var_os("UPDATE_EXPECT").is_some() {
            let dir = tempfile::tempdir().unwrap();
            write(kind, dir.path());
            fs::write(&path, pack(dir.path())).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let packed = fs::read(&path).unwrap_or_else(|_| panic!("{} is missing", path.display()));
        unpack(&packed, dir.path());
        check(kind, format, dir.path());
    }
}

#[test]
fn a_directory_of_every_format_is_read_in_full() {
    each(|kind, format, dir| {
        let found = recover(kind, dir).unwrap_or_else(|error| panic!("{kind}-{format}: {error}"));
        assert_eq!(found.hard_state, HardState { term: 2, vote: 2, commit: 46 });
        assert_eq!(found.compacted, Position { index: 8, term: 1 });
        let wanted = [entries(9, 26, 1, 70), entries(35, 10, 2, 90), entries(45, 3, 2, 60_000)];
        assert!(found.entries == wanted.concat(), "{kind}-{format}");
        let newest = found.checkpoint.unwrap();
        let made = checkpoint(20, 1, 3_000);
        assert!(newest.state == made.state && newest.meta.membership == made.membership);
        assert_eq!(newest.meta.place, made.place);
    });
}

#[test]
fn a_directory_of_every_format_is_written_on_and_its_checkpoints_travel() {
    each(|kind, format, dir| {
        let mut opened = open_keeping(kind, dir, &identity(), Keep::default()).unwrap();
        let newest = opened.log.recover().unwrap().checkpoint.unwrap();
        let kept = opened.history.checkpoints();
        let kept: Vec<_> = kept.iter().map(|kept| (kept.meta.place.index, kept.unbroken)).collect();
        assert_eq!(kept, [(10, false), (20, format > 1)], "{kind}-{format}");
        let whole = opened.log.checkpoints().read(&newest.meta, 0, usize::MAX).unwrap();
        let to = tempfile::tempdir().unwrap();
        let mut other = Pair::open(kind, to.path());
        let receiver = other.store.checkpoints();
        assert_eq!(receiver.received(&newest.meta).unwrap(), 0);
        receiver.receive(&newest.meta, 0, &whole).unwrap();
        assert!(receiver.finish(&newest.meta).unwrap() == *newest.state);
        let batch = Batch { checkpoint: Some(&newest.meta), ..Batch::default() };
        other.store.write(&batch).unwrap();
        drop((other, receiver));
        assert!(recover(kind, to.path()).unwrap().checkpoint.unwrap() == newest);
        // The log goes on in the newest format.
        let next = entries(48, 10, 2, 100);
        opened.log.write(&Batch { entries: &next, ..Batch::default() }).unwrap();
        let meta = opened.log.checkpoints().save(&checkpoint(50, 2, 100).draft()).unwrap();
        opened.log.write(&Batch { checkpoint: Some(&meta), ..Batch::default() }).unwrap();
        drop(opened);
        let found = recover(kind, dir).unwrap();
        assert_eq!(found.entries.last(), next.last());
        assert_eq!(found.checkpoint.unwrap().meta.place.index, 50);
    });
}
