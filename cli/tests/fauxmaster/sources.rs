//! Checkpoints and traces that are not what they should be, and traces as people ask about them.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test, and the panic says where")]

use super::{JOB, answer, fauxmaster, refusal};
use std::fs;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// As in `docs/formats.md`: what is before the body of a sealed block, and where its parts are.
const HEADER: usize = 24;
const FORMAT: usize = 8;
const CHECK: usize = 12;
/// In the front of a checkpoint, after index, term and time.
const STATE_BYTES: usize = HEADER + 24;
/// Bytes of a whole block.
const BLOCK: u32 = 262_144;

/// A good checkpoint, in a folder of its own.
fn checkpoint() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cell");
    let made_up = ["--synthetic", "borg-like", "--machines", "10"];
    let save = ["replay", "--hours", "1", "--save", file.to_str().unwrap()];
    answer(&[&save[..], &made_up].concat(), "");
    let bytes = fs::read(&file).unwrap();
    (folder, file, bytes)
}

/// Asks about it, and wants a report and another checkpoint: refused, and nothing is written.
fn refused(folder: &Path, file: &Path, code: i32) -> String {
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (page, saved, file) = (path("page.html"), path("saved"), file.to_str().unwrap());
    let asked = ["--checkpoint", file, "--report", &page];
    let questions = [&["show"][..], &["compact"], &["replay", "--save", &saved]];
    let mut said = String::new();
    for question in questions {
        let output = fauxmaster(&[question, &asked[..]].concat(), "");
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        said = String::from_utf8(output.stderr).unwrap();
    }
    assert_eq!(names(), before, "nothing was written");
    said
}

/// Puts the checksums of the front right after it was changed; gives the one that blocks go on from.
fn reseal(bytes: &mut [u8]) -> u64 {
    let check = xxh3_64(&bytes[..CHECK]).to_le_bytes();
    bytes[CHECK..CHECK + 4].copy_from_slice(&check[..4]);
    let length = u64::from_le_bytes(bytes[16..HEADER].try_into().unwrap());
    let end = HEADER + usize::try_from(length).unwrap();
    let sum = xxh3_64(&bytes[..end]);
    bytes[end..end + 8].copy_from_slice(&sum.to_le_bytes());
    sum
}

#[test]
fn a_checkpoint_that_is_cut_off_or_rotten_is_refused_and_nothing_is_written() {
    let (folder, file, whole) = checkpoint();
    for length in [0, 7, HEADER, STATE_BYTES, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        let said = refused(folder.path(), &file, 3);
        assert!(said.contains("this is no checkpoint, or it is damaged"), "{length}: {said}");
    }
    for at in [0, FORMAT, CHECK, 16, STATE_BYTES, whole.len() / 2, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        fs::write(&file, &flipped).unwrap();
        let said = refused(folder.path(), &file, 3);
        assert!(said.contains("this is no checkpoint, or it is damaged"), "{at}: {said}");
    }
    let said = refused(folder.path(), &folder.path().join("nowhere"), 4);
    assert!(said.contains("nowhere"), "{said}");
    let said = refused(folder.path(), folder.path(), 3);
    assert!(said.contains("is no plain file"), "{said}");
}

#[test]
fn a_checkpoint_of_a_newer_version_says_which_versions_are_read() {
    let (folder, file, mut bytes) = checkpoint();
    bytes[FORMAT] = 99;
    reseal(&mut bytes);
    fs::write(&file, &bytes).unwrap();
    let said = refused(folder.path(), &file, 3);
    assert!(said.contains("99") && said.contains("format"), "{said}");
}

/// Zeros as one LZ4 block: a zero, and itself again and again, 255 times smaller.
fn packed_zeros() -> Vec<u8> {
    // What is copied is counted from 4 + 15 on; the last five bytes are never copied.
    let copied = BLOCK - 1 - 5 - 19;
    let mut block = vec![0x1f, 0, 1, 0];
    block.extend(vec![255; usize::try_from(copied / 255).unwrap()]);
    block.push(u8::try_from(copied % 255).unwrap());
    block.extend([0x50, 0, 0, 0, 0, 0]);
    block
}

#[test]
fn a_checkpoint_that_unpacks_without_end_is_refused_before_it_takes_memory() {
    let (folder, file, whole) = checkpoint();
    // It says itself how long it gets: longer than such a file can, and as long as it can.
    let mut claims = whole.clone();
    claims[STATE_BYTES..STATE_BYTES + 8].copy_from_slice(&(1u64 << 62).to_le_bytes());
    reseal(&mut claims);
    fs::write(&file, &claims).unwrap();
    assert!(refused(folder.path(), &file, 3).contains("damaged"));
    for (says, blocks, why) in [(300, 300, "BORGCELL"), (1, 300, "damaged")] {
        let length = u64::from_le_bytes(whole[16..HEADER].try_into().unwrap());
        let mut bomb = whole[..HEADER + usize::try_from(length).unwrap() + 8].to_vec();
        let bytes = u64::from(BLOCK) * says;
        bomb[STATE_BYTES..STATE_BYTES + 8].copy_from_slice(&bytes.to_le_bytes());
        let mut sum = reseal(&mut bomb);
        let zeros = packed_zeros();
        for _ in 0..blocks {
            let stored = u32::try_from(zeros.len()).unwrap();
            let block = [&stored.to_le_bytes()[..], &BLOCK.to_le_bytes(), &zeros].concat();
            sum = xxh3_64(&[&sum.to_le_bytes()[..], &block].concat());
            bomb.extend(block);
            bomb.extend(sum.to_le_bytes());
        }
        let end = [0; 8];
        sum = xxh3_64(&[&sum.to_le_bytes()[..], &end].concat());
        bomb.extend(end);
        bomb.extend(sum.to_le_bytes());
        fs::write(&file, &bomb).unwrap();
        let said = refused(folder.path(), &file, 3);
        assert!(said.contains(why), "{says} of {blocks}: {said}");
    }
}

const NODES: &str = "sn,cpu_milli,memory_mib,gpu,model\nn0,32000,262144,0,\nn1,64000,262144,8,T4\n";
const PODS: &str = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,creation_time,deletion_time\n\
                    a,6000,1024,1,460,0,7200\nb,1000,1024,0,0,3600,90000\nc,1000,1024,0,0,4000,8000\n\
                    d,65000,1024,0,0,4000,8000\n";

fn openb(pods: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("openb_node_list_all_node.csv"), NODES).unwrap();
    fs::write(folder.path().join("openb_pod_list_default.csv"), pods).unwrap();
    let source = format!("openb:{}", folder.path().display());
    (folder, source)
}

#[test]
fn a_trace_is_replayed_until_its_end_and_asked_about_at_a_moment() {
    let (_folder, trace) = openb(PODS);
    let once = answer(&["replay", "--trace", &trace, "-o", "json"], "");
    assert_eq!(once, answer(&["replay", "--trace", &trace, "-o", "json"], ""));
    let told: serde_json::Value = serde_json::from_str(&once).unwrap();
    assert_eq!(told["tables"]["counts"][3]["times"], 3, "all that fit ended: {told}");
    let note = "1 tasks asked for more than any machine has: they stay pending";
    assert!(told["provenance"]["notes"].as_array().unwrap().contains(&note.into()), "{told}");
    assert_eq!(told["provenance"]["parameters"]["startup_ms"], "0", "{told}");
    let jobs = |at: &[&str]| {
        let shown = answer(&[&["show", "--trace", &trace, "-o", "json"][..], at].concat(), "");
        let told: serde_json::Value = serde_json::from_str(&shown).unwrap();
        told["summary"][0].as_str().unwrap().to_owned()
    };
    assert!(
        jobs(&["--moment", "0"]).contains("1 tasks are placed, 0 are pending"),
        "{}",
        jobs(&[])
    );
    assert!(jobs(&[]).contains("3 tasks are placed, 1 are pending"), "{}", jobs(&[]));
    let fits = answer(&["fit", "-", "--trace", &trace, "--moment", "20"], JOB);
    assert!(fits.contains("tasks fit") && fits.contains("Note: "), "{fits}");
    let compact = ["compact", "--trace", &trace, "--moment", "1", "--seeds", "2", "--threads"];
    let on = |threads: &str| answer(&[&compact[..], &[threads]].concat(), "");
    assert_eq!(on("1"), on("8"));
    let csv = answer(&["show", "--trace", &trace, "-o", "csv"], "");
    assert!(csv.contains("# Note: "), "{csv}");
}

#[test]
fn bad_rows_are_refused_with_their_place_or_skipped_and_told() {
    let (_folder, trace) = openb(&PODS.replace("c,1000", "c,x"));
    let said = refusal(&["replay", "--trace", &trace], "");
    let why = "openb_pod_list_default.csv:4: column cpu_milli: \"x\" is not thousandths of a core";
    assert!(said.contains(why), "{said}");
    let told = answer(&["replay", "--trace", &trace, "--skip-bad"], "");
    assert!(told.contains("Note: 1 rows skipped: column cpu_milli is not"), "{told}");
    assert!(told.contains(why), "{told}");
}

#[test]
fn what_cannot_be_asked_of_a_trace_is_refused() {
    let (folder, trace) = openb(PODS);
    let refused = |args: &[&str]| refusal(&[&["replay"], args].concat(), "");
    assert!(refused(&["--trace", "nothing:x"]).contains("google2011, google2011-jobs, google2019"));
    assert!(refused(&["--trace", "openb"]).contains("KIND:PATH is expected"));
    assert!(refused(&["--trace", "openb:"]).contains("a path is expected"));
    assert!(refused(&["--trace", &trace, "--losses", "3"]).contains("leave it out"));
    assert!(refused(&["--trace", &trace, "--batch", "150"]).contains("leave it out"));
    assert!(refused(&["--trace", &trace, "--trace-machines", "3"]).contains("leave it out"));
    assert!(refused(&["--trace", &trace, "--moment", "26"]).contains("the trace is over after"));
    assert!(refused(&["--trace", &trace, "--synthetic", "borg-like"]).contains("cannot be used"));
    assert!(refused(&["--skip-bad"]).contains("--trace"));
    let missing = format!("swf:{}", folder.path().join("log.swf").display());
    let said = refused(&["--trace", &missing]);
    assert!(said.contains("log.swf: cannot be read: No such file"), "{said}");
}
