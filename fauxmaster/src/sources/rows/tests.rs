use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;

const SHAPE: Shape = Shape::named(&["id", "cpu|cpus", "note?"]);

fn packed(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// What is read of these bytes: ids with their numbers.
fn read(bytes: &[u8], shape: &Shape, skip: bool) -> Result<(Vec<String>, Reading), TableError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.csv");
    std::fs::write(&file, bytes).unwrap();
    let mut reading = Reading::new(skip);
    let mut found = Vec::new();
    reading.table(&file, shape, |row| {
        let cpu: u64 = row.value(1, "a whole number")?;
        found.push(format!("{}={cpu}{}", row.text(0), row.text(2)));
        Ok(())
    })?;
    Ok((found, reading))
}

fn refused(bytes: &[u8], shape: &Shape) -> String {
    let error = read(bytes, shape, false).unwrap_err().to_string();
    error.split_once("t.csv").map_or(error.clone(), |(_, rest)| rest.to_owned())
}

#[test]
fn columns_are_found_by_name_or_by_place_whatever_the_ends_of_lines() {
    let text = b"\xef\xbb\xbfcpus,\"id\",note\r\n1,a,x\r\n\r\n2,\"b,c\",\"\"\r\n";
    let (found, reading) = read(text, &SHAPE, false).unwrap();
    assert_eq!((found, reading.rows), (vec!["a=1x".to_owned(), "b,c=2".to_owned()], 2));
    assert_eq!(read(b"id,cpu\na,1", &SHAPE, false).unwrap().0, ["a=1"]);
    let placed = Shape::placed(&["id", "cpu", "note"]);
    assert_eq!(read(b"a,1,x\n", &placed, false).unwrap().0, ["a=1x"]);
    let spaces = Shape { separator: Separator::Spaces, comment: Some(';'), ..placed };
    assert_eq!(read(b"; head\n  a  1\tx \n", &spaces, false).unwrap().0, ["a=1x"]);
}

#[test]
fn a_packed_table_is_the_same_table() {
    let text = b"id,cpu\na,1\nb,2\n";
    let (plain, packed_too) =
        (read(text, &SHAPE, false).unwrap(), read(&packed(text), &SHAPE, false).unwrap());
    assert_eq!(plain.0, packed_too.0);
    assert_eq!(plain.1.digest(), packed_too.1.digest());
    let mut two = packed(b"id,cpu\na,1\n");
    two.extend(packed(b"b,2\n"));
    assert_eq!(read(&two, &SHAPE, false).unwrap().0, plain.0, "several packed parts in a row");
    assert_ne!(read(b"id,cpu\na,1\nb,3\n", &SHAPE, false).unwrap().1.digest(), plain.1.digest());
}

#[test]
fn errors_say_where_and_what_was_expected() {
    let placed = Shape::placed(&["id", "cpu"]);
    assert_eq!(refused(b"id,cpu\na,x\n", &SHAPE), ":2: column cpu: \"x\" is not a whole number");
    assert_eq!(
        refused(b"id,cpu\na\n", &SHAPE),
        ":2: column number of fields: \"1\" is not 2, as many as there are columns"
    );
    assert_eq!(
        refused(b"a,1,2\n", &placed),
        ":1: column number of fields: \"3\" is not 2, as many as there are columns"
    );
    assert_eq!(refused(b"id,ram\n", &SHAPE), ":1: no column cpu; there are id, ram");
    assert_eq!(refused(b"id,cpu\n\xff,1\n", &SHAPE), ":2: byte 1 of the line is not UTF-8");
    assert_eq!(
        refused(b"", &SHAPE),
        ": is empty; a line with the names of the columns is expected"
    );
    let long = [b"id,cpu\n".to_vec(), vec![b'a'; LONGEST + 1]].concat();
    assert_eq!(
        refused(&long, &SHAPE),
        ":2: the line has more than 1048576 bytes: this is no table"
    );
    let wide = format!("id,cpu\na,{}\n", "é".repeat(100));
    assert!(refused(wide.as_bytes(), &SHAPE).contains("éé..\" is not"));
}

#[test]
fn bad_rows_are_counted_by_what_is_wrong_when_they_are_skipped() {
    let (found, reading) = read(b"id,cpu\na,x\nb,2\nc,y\n\xff,1\nd\n", &SHAPE, true).unwrap();
    assert_eq!((found, reading.skipped.rows()), (vec!["b=2".to_owned()], 4));
    let told: Vec<_> = reading
        .skipped
        .told()
        .iter()
        .map(|line| line.split_once("; the first: ").unwrap().0.to_owned())
        .collect();
    assert_eq!(
        told,
        [
            "2 rows skipped: column cpu is not a whole number",
            "1 rows skipped: column number of fields is not 2, as many as there are columns",
            "1 rows skipped: not UTF-8",
        ]
    );
}

#[test]
fn packed_data_that_ends_early_or_grows_without_end_is_refused_whether_rows_are_skipped_or_not() {
    let rows: String = (0..5_000).map(|n| format!("m{n},{}\n", n * 7_919 % 10_007)).collect();
    let whole = packed(format!("id,cpu\n{rows}").as_bytes());
    for at in [whole.len() / 2, whole.len() - 4, 15] {
        let error = read(&whole[..at], &SHAPE, true).unwrap_err();
        assert!(error.to_string().contains("ends too early or is damaged after line"), "{error}");
    }
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x55;
    let error = read(&flipped, &SHAPE, true).unwrap_err();
    assert!(error.to_string().contains("damaged after line"), "{error}");
    let bomb = packed(&b"a,1\n".repeat((17 << 20) / 4));
    let placed = Shape::placed(&["id", "cpu"]);
    let error = read(&bomb, &placed, true).unwrap_err().to_string();
    assert!(error.contains("bytes of packed data became") && error.contains("most is"), "{error}");
    let line = packed(&vec![b'a'; 64 << 20]);
    assert!(read(&line, &SHAPE, true).unwrap_err().to_string().contains("this is no table"));
}

#[test]
fn a_table_is_one_file_or_a_folder_of_parts_in_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let missing = parts(at, "jobs").unwrap_err().to_string();
    assert!(missing.contains("neither jobs.csv nor jobs.csv.gz"), "{missing}");
    std::fs::create_dir(at.join("jobs")).unwrap();
    for name in ["part-1.csv.gz", "part-0.csv", "SHA256SUM"] {
        std::fs::write(at.join("jobs").join(name), "").unwrap();
    }
    let names: Vec<_> = parts(at, "jobs").unwrap();
    let names: Vec<_> = names.iter().map(|path| path.file_name().unwrap()).collect();
    assert_eq!(names, ["part-0.csv", "part-1.csv.gz"]);
    std::fs::write(at.join("jobs.csv"), "").unwrap();
    assert_eq!(parts(at, "jobs").unwrap(), [at.join("jobs.csv")]);
    assert!(parts(&at.join("jobs.csv"), "jobs").is_err(), "a file is no folder");
    let error = Reading::new(true).table(at, &SHAPE, |_| Ok(())).unwrap_err();
    assert!(error.to_string().ends_with("is a folder; a file is expected"), "{error}");
}
