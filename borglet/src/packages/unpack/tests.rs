//! Blobs that somebody made to write where they must not.

use super::*;
use borg_proto::layer::fixture::entry;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use tar::EntryType;

fn file(path: &str, data: &[u8]) -> Vec<u8> {
    entry(EntryType::Regular, path, "", 0o644, data)
}

struct Bench {
    dir: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path().join("packages")).unwrap();
        fs::write(dir.path().join("outside"), "safe").unwrap();
        Self { dir, store }
    }

    fn put(&self, entries: &[Vec<u8>], unpacked_bytes: u64) -> Layer {
        let blob = [entries.concat(), vec![0; 1_024]].concat();
        let (digest, bytes) = (Digest::of(&blob), blob.len() as u64);
        self.store.blobs().expect(digest, Some(bytes));
        let mut part = self.store.blobs().arrival(digest).unwrap().open().unwrap();
        part.add(&blob).unwrap();
        part.finish().unwrap();
        Layer { digest, bytes, unpacked_bytes }
    }

    fn refused(&self, entries: &[Vec<u8>]) -> Trouble {
        let layer = self.put(entries, 1 << 20);
        let refused = unpack(&self.store, layer, 1).expect_err("it was unpacked");
        assert!(!self.store.layer_dir(layer.digest).exists());
        let left = fs::read_dir(self.store.layers()).unwrap().count();
        assert_eq!(left, 0, "nothing half unpacked stays");
        assert_eq!(fs::read_to_string(self.dir.path().join("outside")).unwrap(), "safe");
        refused
    }
}

fn bad(why: &str) -> Trouble {
    Trouble::Bad(why.to_owned())
}

#[test]
fn a_layer_has_its_files_links_and_marks() {
    let bench = Bench::new();
    let entries = [
        entry(EntryType::Directory, "bin/", "", 0o755, b""),
        entry(EntryType::Regular, "bin/run", "", 0o750, b"#!/bin/sh\n"),
        entry(EntryType::Symlink, "bin/sh", "/usr/bin/sh", 0o777, b""),
        entry(EntryType::Link, "bin/again", "bin/run", 0o644, b""),
        file("deep/er/file", b"x"),
        file("etc/.wh.passwd", b""),
        file("deep/.wh..wh..opq", b""),
    ];
    let layer = bench.put(&entries, 11);
    unpack(&bench.store, layer, 1).unwrap();
    let root = bench.store.layer(layer.digest);
    let about = root.join("bin/run").metadata().unwrap();
    assert_eq!((about.permissions().mode() & 0o7777, about.nlink(), about.mtime()), (0o750, 2, 7));
    assert_eq!(root.join("bin/sh").read_link().unwrap(), Path::new("/usr/bin/sh"));
    assert_eq!(fs::read(root.join("deep/er/file")).unwrap(), b"x");
    let gone = root.join("etc/passwd").symlink_metadata().unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let dir = File::open(root.join("deep")).unwrap();
    let mut value = [0; 8];
    let read = rustix::fs::fgetxattr(&dir, OPAQUE[1], &mut value[..]).unwrap();
    assert_eq!(&value[..read], b"y");
    // The next borglet finds it.
    let (_, found) = Store::open(bench.dir.path().join("packages")).unwrap();
    assert!(found[0].ready && found[0].unpacked_bytes == 11);
}

#[test]
fn a_layer_that_is_there_is_never_replaced() {
    let bench = Bench::new();
    let layer = bench.put(&[file("a", b"12")], 2);
    unpack(&bench.store, layer, 1).unwrap();
    let shown = File::open(bench.store.layer(layer.digest)).unwrap();
    unpack(&bench.store, layer, 2).unwrap();
    assert_eq!(shown.metadata().unwrap().nlink(), 2, "it was taken away under its task");
    let left = fs::read_dir(bench.store.layers()).unwrap().count();
    assert_eq!(left, 1, "the second copy is gone");
}

/// The text of each entry is fine; what is wrong is what the entries before it made.
#[test]
fn nothing_is_written_through_a_link() {
    let bench = Bench::new();
    let link = |path: &str, to: &str| entry(EntryType::Symlink, path, to, 0o777, b"");
    let escapes = |entry: &str| {
        bad(&format!(
            "entry {entry:?} escapes the package's root: what is on its way there is no directory"
        ))
    };
    for up in ["/", "../../../..", "."] {
        // "../../../.." is refused by its text already.
        let entries = [link("a", up), file("a/outside", b"harm")];
        let refused = bench.refused(&entries);
        if up == "../../../.." {
            assert!(format!("{refused:?}").contains("leaves the package's root"), "{refused:?}");
        } else {
            assert_eq!(refused, escapes("a/outside"));
        }
    }
    let outside = bench.dir.path().join("outside").display().to_string();
    assert_eq!(
        bench.refused(&[link("a", &outside), file("a", b"harm")]),
        bad("entry \"a\" is there twice")
    );
    assert_eq!(
        bench.refused(&[link("a", &outside), entry(EntryType::Link, "b", "a", 0o644, b"")]),
        bad("entry \"b\" is a hard link to what is no file")
    );
    assert_eq!(
        bench.refused(&[link("d", "/"), entry(EntryType::Directory, "d/", "", 0o777, b"")]),
        escapes("d"),
    );
    assert_eq!(bench.refused(&[link("d", "/"), file("d/.wh..wh..opq", b"")]), escapes("d"),);
    assert_eq!(
        bench.refused(&[entry(EntryType::Link, "b", "none", 0o644, b"")]),
        bad("entry \"b\" is a hard link to what is not there yet")
    );
    // It is the link's target that lies beyond, not the entry itself.
    assert_eq!(
        bench.refused(&[link("d", "/"), entry(EntryType::Link, "b", "d/outside", 0o644, b"")]),
        bad("entry \"b\" is a hard link to what is beyond something that is no directory")
    );
}

/// A path of a hundred names is one entry and a hundred inodes.
#[test]
fn directories_that_are_made_on_the_way_count_too() {
    let bench = Bench::new();
    let layer = bench.put(&[file("a/b/c/d", b"x"), file("a/b/e", b"x")], 2);
    let root = tempfile::tempdir().unwrap();
    let fill = |most| {
        let blob = bench.store.blobs().open_blob(layer.digest, 0).unwrap().unwrap();
        fs::remove_dir_all(root.path()).unwrap();
        fs::create_dir(root.path()).unwrap();
        fill(blob, layer, root.path(), most)
    };
    assert_eq!(fill(5), Ok(()));
    let why = "the layer has more than 4 entries, with the directories on the way to them";
    assert_eq!(fill(4), Err(bad(why)));
}

#[test]
fn setuid_devices_and_more_bytes_than_was_said_are_refused_by_name() {
    let bench = Bench::new();
    let refused = bench.refused(&[entry(EntryType::Regular, "su", "", 0o4755, b"x")]);
    assert!(format!("{refused:?}").contains("\\\"su\\\" is setuid"), "{refused:?}");
    let refused = bench.refused(&[entry(EntryType::Char, "null", "", 0o666, b"")]);
    assert!(format!("{refused:?}").contains("\\\"null\\\" is a device"), "{refused:?}");
    let layer = bench.put(&[file("a", b"12"), file("bomb", b"3456")], 5);
    assert_eq!(
        unpack(&bench.store, layer, 1).unwrap_err(),
        bad("entry \"bomb\" is beyond the 5 bytes that the layer should have")
    );
    let layer = bench.put(&[file("a", b"12")], 5);
    assert_eq!(
        unpack(&bench.store, layer, 1).unwrap_err(),
        bad("it has 2 bytes of files, not 5 as was said")
    );
}

#[test]
fn a_blob_that_changed_on_the_disk_is_damaged_not_bad() {
    let bench = Bench::new();
    let layer = bench.put(&[file("a", b"12")], 5);
    let path = bench.store.blobs().path(layer.digest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] = b'b';
    fs::write(&path, bytes).unwrap();
    let refused = unpack(&bench.store, layer, 1).unwrap_err();
    assert!(matches!(refused, Trouble::Damaged(_)), "{refused:?}");
}

/// Needs root, for a small file system.
#[test]
fn a_disk_that_is_full_leaves_nothing_half_unpacked_and_says_so() {
    use nix::mount::{MsFlags, mount, umount};
    let bench = Bench::new();
    let layers = bench.store.layers().clone();
    let size = Some("size=64k");
    if let Err(error) = mount(Some("small"), &layers, Some("tmpfs"), MsFlags::empty(), size) {
        assert!(std::env::var_os("BORG_PRIVILEGED").is_none(), "{error}");
        return println!("skipped: a small file system needs root: {error}");
    }
    let layer = bench.put(&[file("small", b"x"), file("big", &[7; 300_000])], 1 << 20);
    let refused = unpack(&bench.store, layer, 1).unwrap_err();
    let left = fs::read_dir(&layers).unwrap().count();
    umount(&layers).unwrap();
    assert!(
        matches!(&refused, Trouble::Full(why) if why.contains("the disk is full: entry \"big\"")),
        "{refused:?}"
    );
    assert_eq!(left, 0);
}
