//! Copies there and back, and streams that mean harm.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use borg_archive::{ArchiveError, Bounds, pack, unpack};
use std::fs;
use std::io::Read;
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
    // Nor one that leads out by way of another link.
    let bytes = stream(&[(Symlink, "t/l", "."), (Symlink, "t/x", "l/l/../../../outside/secret")]);
    fs::write(outside.join("secret"), "").unwrap();
    let summary = unpack(bytes.as_slice(), &to, &Bounds::default()).unwrap();
    assert_eq!(summary.left_out, ["t/x: a link out of what is copied"]);
    assert!(fs::symlink_metadata(to.join("t/x")).is_err());
    // A link in place of a file is replaced, not written through.
    fs::write(outside.join("kept"), "old").unwrap();
    symlink(outside.join("kept"), to.join("f")).unwrap();
    unpack(stream(&[(Regular, "f", "new")]).as_slice(), &to, &Bounds::default()).unwrap();
    assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "old");
}

#[test]
fn what_cannot_be_copied_is_left_out_in_a_tree_and_an_error_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let pipe = tree.join("pi\nerror: pe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut stream = Vec::new();
    let summary = pack(&tree, &mut stream, &Bounds::default()).unwrap();
    let [told] = summary.left_out.as_slice() else { panic!("{:?}", summary.left_out) };
    assert!(told.ends_with("pi\\u{a}error: pe: neither file, directory nor link"), "{told}");
    let refused = pack(&pipe, Vec::new(), &Bounds::default()).unwrap_err();
    assert!(refused.to_string().ends_with(": neither file, directory nor link"), "{refused}");
}

/// As `cp` does that is not told to keep rights. The umask is the process's, so it is another one's.
#[test]
fn what_is_made_has_the_rights_that_the_umask_leaves() {
    const HERE: &str = "BORG_TEST_UNPACK_HERE";
    use EntryType::{Directory, Regular};
    if let Some(to) = std::env::var_os(HERE) {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o027));
        let bytes = stream(&[(Directory, "d", ""), (Regular, "d/f", "x"), (Regular, "n/f", "x")]);
        unpack(bytes.as_slice(), Path::new(&to), &Bounds::default()).unwrap();
        return;
    }
    let to = tempfile::tempdir().unwrap();
    let name = "what_is_made_has_the_rights_that_the_umask_leaves";
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    let ran = again.args([name, "--exact"]).env(HERE, to.path()).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    for made in ["d", "d/f", "n", "n/f"] {
        let mode = fs::metadata(to.path().join(made)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o750, "{made}");
    }
}

#[test]
fn a_name_without_end_is_refused_before_it_is_in_memory() {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(8 << 30);
    header.set_cksum();
    let endless = header.as_bytes().chain(std::io::repeat(b'x'));
    let to = tempfile::tempdir().unwrap();
    let refused = unpack(endless, to.path(), &Bounds::default()).unwrap_err();
    assert_eq!(refused.to_string(), "it has more than 65536 bytes in one extension header");
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
