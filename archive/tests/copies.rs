//! Copies there and back, and streams that mean harm.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use borg_archive::{ArchiveError, Bounds, pack, unpack};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use tar::{Builder, EntryType, Header};

fn packed(path: &Path) -> Vec<u8> {
    let mut stream = Vec::new();
    pack(path, &mut stream, &Bounds::default()).unwrap();
    stream
}

/// A stream of entries (kind, name, link's target or content) that no honest packer makes.
fn stream(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut out = Builder::new(Vec::new());
    for (kind, name, rest) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o6755);
        // As it is: the library refuses to write such names.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        let data = if matches!(kind, EntryType::Symlink | EntryType::Link) {
            header.as_old_mut().linkname[..rest.len()].copy_from_slice(rest.as_bytes());
            ""
        } else {
            rest
        };
        header.set_size(data.len() as u64);
        header.set_cksum();
        out.append(&header, data.as_bytes()).unwrap();
    }
    out.into_inner().unwrap()
}

#[test]
fn a_tree_arrives_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/file"), "x".repeat(100_000)).unwrap();
    fs::write(tree.join("run"), "#!/bin/sh").unwrap();
    fs::set_permissions(tree.join("run"), fs::Permissions::from_mode(0o4755)).unwrap();
    symlink("a/b/file", tree.join("link")).unwrap();
    symlink("/etc/passwd", tree.join("out")).unwrap();
    let to = dir.path().join("to");
    fs::create_dir(&to).unwrap();
    let summary = unpack(packed(&tree).as_slice(), &to, &Bounds::default()).unwrap();
    assert_eq!(summary.bytes, 100_009);
    assert_eq!(fs::read(to.join("tree/link")).unwrap().len(), 100_000);
    let mode = fs::metadata(to.join("tree/run")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755, "no set-user-id");
    assert!(fs::symlink_metadata(to.join("tree/out")).is_err(), "a link out is left out");
    // Under another name, and over what is there.
    unpack(packed(&tree).as_slice(), &to.join("other"), &Bounds::default()).unwrap();
    unpack(packed(&tree.join("run")).as_slice(), &to.join("other/link"), &Bounds::default())
        .unwrap();
    assert_eq!(fs::read_to_string(to.join("other/link")).unwrap(), "#!/bin/sh");
    assert_eq!(
        fs::read(to.join("other/a/b/file")).unwrap().len(),
        100_000,
        "the link was replaced"
    );
}

#[test]
fn a_stream_that_would_leave_the_directory_is_refused_by_name() {
    use EntryType::{Char, Directory, Fifo, Link, Regular, Symlink};
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let to = dir.path().join("to");
    fs::create_dir(&to).unwrap();
    // Put there by somebody else, as a task could.
    symlink(&outside, to.join("trap")).unwrap();
    let up = |kind| stream(&[(kind, "../outside/x", "y")]);
    let cases = [
        (up(Regular), "leaves the directory"),
        (up(Directory), "leaves the directory"),
        (stream(&[(Regular, "/etc/borg-test", "y")]), "leaves the directory"),
        (stream(&[(Regular, "trap/x", "y")]), "lies below a symbolic link"),
        (stream(&[(Directory, "trap/x", "")]), "lies below a symbolic link"),
        (
            stream(&[(Directory, "trap", ""), (Regular, "trap/x", "y")]),
            "lies below a symbolic link",
        ),
        (
            stream(&[(Symlink, "t/in", "d"), (Directory, "t/d", ""), (Regular, "t/in/x", "")]),
            "lies below",
        ),
        (stream(&[(Link, "t/hard", "../outside/x")]), "is a hard link"),
        (stream(&[(Char, "t/null", "")]), "is a device"),
        (stream(&[(Fifo, "t/pipe", "")]), "is a named pipe"),
    ];
    for (bytes, why) in cases {
        let refused = unpack(bytes.as_slice(), &to, &Bounds::default()).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused} but not {why}");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    // A link out is not made, so that what comes after it lands in a directory of its name.
    let bytes = stream(&[(Symlink, "t/out", "../../outside"), (Regular, "t/out/x", "y")]);
    unpack(bytes.as_slice(), &to, &Bounds::default()).unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    // A link in place of a file is replaced, not written through.
    fs::write(outside.join("kept"), "old").unwrap();
    symlink(outside.join("kept"), to.join("f")).unwrap();
    unpack(stream(&[(Regular, "f", "new")]).as_slice(), &to, &Bounds::default()).unwrap();
    assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "old");
}

#[test]
fn too_much_and_broken_streams_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "x".repeat(1000)).unwrap();
    let small = Bounds { bytes: 999, entries: 10 };
    let much = pack(&dir.path().join("f"), Vec::new(), &small).unwrap_err();
    assert!(matches!(much, ArchiveError::TooMuch { what: "bytes", most: 999 }));
    let bytes = packed(&dir.path().join("f"));
    let to = dir.path().join("to");
    fs::create_dir(&to).unwrap();
    assert!(matches!(unpack(bytes.as_slice(), &to, &small), Err(ArchiveError::TooMuch { .. })));
    let cut = unpack(&bytes[..700], &to, &Bounds::default()).unwrap_err();
    assert!(matches!(cut, ArchiveError::Stream(_)), "{cut}");
    assert!(
        unpack(
            &b"no archive at all, but long enough to be one".repeat(20)[..],
            &to,
            &Bounds::default()
        )
        .is_err()
    );
    let few = Bounds { entries: 1, ..Bounds::default() };
    assert!(matches!(
        pack(dir.path(), Vec::new(), &few),
        Err(ArchiveError::TooMuch { what: "entries", .. })
    ));
    assert!(matches!(
        pack(&dir.path().join("none"), Vec::new(), &few),
        Err(ArchiveError::Source { .. })
    ));
}
