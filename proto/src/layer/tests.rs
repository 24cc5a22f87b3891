//! Archives that somebody made to do harm, and how an honest one comes through.

use super::fixture::entry;
use super::*;
use tar::{Builder, Header};

const IMAGE: Rules = Rules { image: true, drop_lent: false };
const DIRECTORY: Rules = Rules { image: false, drop_lent: false };

fn walked(bytes: &[u8], rules: Rules) -> Result<Vec<Entry>, LayerError> {
    let mut found = Vec::new();
    let take = |entry: &Entry, _: &mut dyn Read| {
        found.push(entry.clone());
        Ok::<(), LayerError>(())
    };
    walk(bytes, rules, take).map(|_| found)
}

fn refused(bytes: &[u8], rules: Rules) -> String {
    walked(bytes, rules).expect_err("it was taken").to_string()
}

/// Adversary's table, rows 27 and 31: each is refused, with the entry's name.
#[test]
fn an_entry_that_would_leave_the_root_or_lend_rights_is_refused_by_name() {
    use EntryType as T;
    let file = |path: &str| entry(T::Regular, path, "", 0o644, b"x");
    let link = |path: &str, to: &str| entry(T::Symlink, path, to, 0o777, b"");
    let hard = |path: &str, to: &str| entry(T::Link, path, to, 0o644, b"");
    let cases = [
        (file("../../etc/x"), r#"entry "../../etc/x" escapes the package's root: it has '..'"#),
        (file("a/../../x"), r#"entry "a/../../x" escapes the package's root: it has '..'"#),
        (file("/etc/x"), r#"entry "/etc/x" escapes the package's root: it begins with '/'"#),
        (link("a", "../x"), r#"entry "a" is a link to "../x", which leaves the package's root"#),
        (
            link("a/b", "../../x"),
            r#"entry "a/b" is a link to "../../x", which leaves the package's root"#,
        ),
        (link("a", ""), r#"entry "a" is a link to a text that is not 1 to 4095 bytes of a path"#),
        (
            hard("a", "/etc/shadow"),
            r#"entry "a" is a hard link to "/etc/shadow", which escapes the package's root: it begins with '/'"#,
        ),
        (
            hard("a", "../x"),
            r#"entry "a" is a hard link to "../x", which escapes the package's root: it has '..'"#,
        ),
        (
            entry(T::Char, "dev/null", "", 0o666, b""),
            r#"entry "dev/null" is a device: a package has files, directories and links"#,
        ),
        (
            entry(T::Block, "dev/sda", "", 0o666, b""),
            r#"entry "dev/sda" is a device: a package has files, directories and links"#,
        ),
        (
            entry(T::Fifo, "pipe", "", 0o666, b""),
            r#"entry "pipe" is a pipe: a package has files, directories and links"#,
        ),
        (
            entry(T::Regular, "bin/su", "", 0o4755, b"x"),
            r#"entry "bin/su" is setuid or setgid: a package lends no rights (borgctl can drop them)"#,
        ),
        (
            entry(T::GNUSparse, "big", "", 0o644, b""),
            r#"entry "big" is a sparse file: store it as an ordinary one"#,
        ),
        (entry(T::new(b'Z'), "odd", "", 0o644, b""), r#"entry "odd" is of an unknown type 'Z'"#),
    ];
    for (bytes, why) in cases {
        for rules in [IMAGE, DIRECTORY] {
            assert_eq!(refused(&bytes, rules), why);
        }
    }
    // A name may be a link: `..` after it begins wherever that leads.
    let chain = [link("l", "."), link("x", "l/l/l/../../../etc/passwd")].concat();
    assert!(refused(&chain, DIRECTORY).contains("goes up again after a name"));
    walked(&[link("d/a", "../b/c"), link("d/e", "./../b")].concat(), DIRECTORY).unwrap();
    assert!(refused(&link("a/b", "c/../../../x"), IMAGE).contains("leaves the package's root"));
    assert_eq!(walked(&chain, IMAGE).unwrap().len(), 2, "an image's root is a root");
    // In an image, "/" is the image's own root; anywhere else it is somebody else's.
    assert_eq!(walked(&link("a", "/x"), IMAGE).unwrap().len(), 1);
    assert!(refused(&link("a", "/x"), DIRECTORY).contains("leaves the package's root"));
}

#[test]
fn names_that_are_too_long_or_too_deep_are_refused() {
    let long = |path: &str| {
        let mut name = path.as_bytes().to_vec();
        name.push(0);
        let extension = entry(EntryType::GNULongName, "././@LongLink", "", 0o644, &name);
        [extension, entry(EntryType::Regular, "x", "", 0o644, b"")].concat()
    };
    let fine = "d/".repeat(100) + "x";
    assert_eq!(walked(&long(&fine), DIRECTORY).unwrap()[0].path, Path::new(&fine));
    assert!(refused(&long(&"d/".repeat(200)), DIRECTORY).ends_with("128 directories deep"));
    assert!(refused(&long(&"n".repeat(256)), DIRECTORY).ends_with("more than 255 bytes"));
    assert!(refused(&long(&"d/".repeat(2_500)), DIRECTORY).ends_with("longer than 4095 bytes"));
    let huge = long(&"n".repeat(70_000));
    assert_eq!(
        refused(&huge, DIRECTORY),
        "the layer has more than 65536 bytes in one extension header"
    );
    let many = entry(EntryType::XGlobalHeader, "pax", "", 0o644, b"").repeat(17);
    assert_eq!(
        refused(&many, DIRECTORY),
        "the layer has more than 16 extension headers before one entry"
    );
}

#[test]
fn a_layer_that_was_cut_off_is_an_error() {
    let whole = entry(EntryType::Regular, "a", "", 0o644, &[1; 4_000]);
    for cut in [600, 1_000, 4_500] {
        let why = refused(&whole[..cut], DIRECTORY);
        assert!(why.starts_with("read the layer: "), "{cut}: {why}");
    }
}

#[test]
fn file_capabilities_count_as_setuid_and_both_can_be_dropped() {
    let words = b"44 SCHILY.xattr.security.capability=x\x01\x00\x00\x00\x00\x00\n";
    let bytes = [
        entry(EntryType::XHeader, "pax", "", 0o644, &words[..]),
        entry(EntryType::Regular, "bin/ping", "", 0o755, b"x"),
        entry(EntryType::Regular, "bin/su", "", 0o6755, b"x"),
    ]
    .concat();
    assert!(refused(&bytes, IMAGE).contains("has file capabilities"), "{}", refused(&bytes, IMAGE));
    let mut modes = Vec::new();
    let take = |entry: &Entry, _: &mut dyn Read| {
        modes.push(entry.mode);
        Ok::<(), LayerError>(())
    };
    let totals = walk(&bytes[..], Rules { drop_lent: true, ..IMAGE }, take).unwrap();
    assert_eq!((totals.dropped, modes), (2, vec![0o755, 0o755]));
}

#[test]
fn marks_are_read_in_images_alone() {
    let mark = |name| entry(EntryType::Regular, name, "", 0o644, b"");
    let bytes = [mark("a/.wh.b"), mark("a/.wh..wh..opq")].concat();
    let found = walked(&bytes, IMAGE).unwrap();
    let of = |entry: &Entry| (entry.path.display().to_string(), entry.kind.clone());
    let told: Vec<_> = found.iter().map(of).collect();
    assert_eq!(told, [("a/b".to_owned(), Kind::Gone), ("a".to_owned(), Kind::Opaque)]);
    assert!(refused(&bytes, DIRECTORY).contains("takes files away in images"));
    for bad in [".wh.", ".wh..wh.plnk", "a/.wh.b/c"] {
        assert!(refused(&mark(bad), IMAGE).contains("is no mark"), "{bad}");
    }
    // They would take away the directory itself, or the one above it.
    for bad in ["a/.wh..", "a/.wh..."] {
        let why = refused(&mark(bad), IMAGE);
        assert!(why.contains(&format!("entry {bad:?} takes away '.' or '..'")), "{why}");
    }
    // The kernel shows what lies below a whole layer in any case.
    assert!(refused(&mark(".wh..wh..opq"), IMAGE).contains("takes away all layers below"));
}

/// A machine once panicked over an owner that means "leave it as it is".
#[test]
fn an_owner_that_no_task_has_is_refused_by_name() {
    let mut header = Header::new_gnu();
    header.set_path("big").unwrap();
    header.set_size(0);
    header.set_mode(0o644);
    header.set_mtime(7);
    for (uid, gid, told) in [(65_535_u32, 65_535, ""), (65_536, 0, "owner"), (0, u32::MAX, "group")]
    {
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_cksum();
        if told.is_empty() {
            walked(header.as_bytes(), IMAGE).unwrap();
        } else {
            let why = refused(header.as_bytes(), IMAGE);
            assert!(why.contains(&format!(r#"entry "big" has {told} "#)), "{why}");
        }
    }
}

#[test]
fn what_is_no_archive_tells_none_of_its_bytes_to_a_terminal() {
    let why = refused(&b"\x1b[2J\x19".repeat(200), IMAGE);
    assert!(!why.chars().any(char::is_control), "{why:?}");
}

/// What is written is what was read, however it was written before, and always the same bytes.
#[test]
fn a_layer_written_anew_has_the_same_entries_and_one_name() {
    let mut tar = Builder::new(Vec::new());
    let long = format!("{}/file", "directory".repeat(20));
    for (path, data) in [("a/b", &b"hello"[..]), (&long, b"there"), ("empty", b"")] {
        let mut header = Header::new_ustar();
        header.set_size(data.len() as u64);
        header.set_mode(0o640);
        header.set_uid(1000);
        header.set_gid(1001);
        header.set_mtime(99);
        tar.append_data(&mut header, path, data).unwrap();
    }
    let mut bytes = tar.into_inner().unwrap();
    bytes.truncate(bytes.len() - 1024);
    bytes.extend(entry(EntryType::Symlink, "link", "a/b", 0o777, b""));
    bytes.extend(entry(EntryType::Link, "hard", "./a/b", 0o644, b""));
    bytes.extend(entry(EntryType::Regular, ".wh.gone", "", 0o644, b""));
    bytes.extend(entry(EntryType::Regular, "a/.wh..wh..opq", "", 0o644, b""));

    let rewrite = |bytes: &[u8]| {
        let mut writer = Writer::new(Vec::new());
        walk(bytes, IMAGE, |entry, data| writer.add(entry, data)).unwrap();
        writer.finish().unwrap()
    };
    let (layer, anew) = rewrite(&bytes);
    assert_eq!(walked(&anew, IMAGE).unwrap(), walked(&bytes, IMAGE).unwrap());
    assert_eq!((layer.digest, layer.bytes), (Digest::of(&anew), anew.len() as u64));
    assert_eq!(layer.unpacked_bytes, 10);
    assert_eq!(rewrite(&anew).0, layer, "writing it again changes nothing");
}
