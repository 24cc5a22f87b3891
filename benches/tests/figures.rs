//! Whether the figures of the masters can be measured at all, on the smallest cell.

use std::process::Command;

#[test]
#[ignore = "takes a minute and a cell of its own; needs BORGCTL, the program"]
fn the_figures_of_the_masters_come_one_a_line() {
    let program = env!("CARGO_BIN_EXE_figures-master");
    let run = Command::new(program).env("BORG_FIGURES", "quick").output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let text = String::from_utf8(run.stdout).unwrap();
    for name in ["acked_per_s", "failover_p99_ms", "failover_big_p99_ms", "restart_ms"] {
        assert!(text.lines().any(|line| line.starts_with(&format!("master.{name} "))), "{text}");
    }
}
