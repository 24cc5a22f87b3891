//! The program as people call it.

use std::process::Command;

#[test]
fn cellsim_prints_the_same_digest_twice() {
    let run = || {
        let args = ["--seed", "0x2a", "--for", "5"];
        Command::new(env!("CARGO_BIN_EXE_cellsim")).args(args).output().unwrap()
    };
    let [first, second] = [run(), run()];
    assert!(first.status.success(), "{first:?}");
    let text = String::from_utf8_lossy(&first.stdout);
    assert!(text.starts_with("seed 42 digest "), "{text}");
    assert_eq!(first.stdout, second.stdout);
}
