//! `packcheck DIR`: checks `placements.csv` (and `order.csv`) of a directory against its `nodes.csv` and `tasks.csv`.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool speaks to its user"
)]

use std::path::Path;
use std::process::ExitCode;

/// Violations that are printed; of more, how many there are.
const MOST_PRINTED: usize = 100;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(folder), None) = (args.next(), args.next()) else {
        eprintln!(
            "usage: packcheck DIR, with nodes.csv, tasks.csv, placements.csv and perhaps order.csv in it"
        );
        return ExitCode::from(2);
    };
    match packcheck::check_folder(Path::new(&folder)) {
        Err(error) => {
            eprintln!("packcheck: {error}");
            ExitCode::from(2)
        }
        Ok(found) => {
            for violation in found.violations.iter().take(MOST_PRINTED) {
                println!("{violation}");
            }
            let more = found.violations.len().saturating_sub(MOST_PRINTED);
            if more > 0 {
                println!("and {more} more");
            }
            println!("{}", found.summary());
            if found.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}
