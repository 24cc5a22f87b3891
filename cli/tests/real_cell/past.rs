//! The cell as it was: `--at` and `history`.

use crate::cell::{Cell, job};
use serde_json::Value;

/// Index and text of the note that says of which moment an answer is.
fn moment(said: &str) -> u64 {
    let (_, rest) = said.split_once("as of entry ").unwrap_or_else(|| panic!("no moment: {said}"));
    rest.split(',').next().unwrap().parse().unwrap()
}

#[test]
fn a_moment_of_the_past_is_shown_as_it_was() {
    let cell = Cell::shared();
    let name = cell.submit(&job("was-here", "batch", "true"));
    let over = cell.until(&name, |status| status["state"] == "finished");
    assert_eq!(over["state"], "finished");
    // By index: right after the entry, and from any master.
    let now = cell.borgctl(&["status", "--at", "-0s", &name]);
    let (newest, said) = (now.err.clone(), now.ok());
    assert!(said.contains("finished"), "{said}");
    let newest = moment(&newest);
    let mut seen = Vec::new();
    for index in (1..=newest).rev() {
        let run = cell.borgctl(&["-o", "json", "status", "--at", &index.to_string(), &name]);
        if run.code == 4 {
            // Before it was submitted.
            break;
        }
        assert_eq!(moment(&run.err), index);
        let status: Value = serde_json::from_str(&run.ok()).unwrap();
        let state = status["state"].as_str().unwrap().to_owned();
        if seen.last() != Some(&state) {
            seen.push(state);
        }
    }
    assert_eq!(seen, ["finished", "running", "pending"], "backwards");

    let far = (newest + 1_000_000).to_string();
    let said = cell.borgctl(&["machines", "--at", &far]);
    assert!(said.err.contains("in the future"), "{said:?}");
    assert_ne!(said.code, 0);
    let said = cell.borgctl(&["--at", "2020-01-01T00:00:00Z", "status"]).failed(3);
    assert!(said.contains("the cell did not exist"), "{said}");
    let said = cell.borgctl(&["why", "--at", "5", &format!("{name}/0")]).failed(2);
    assert!(
        said.contains(
            "only status, machines, drains, quota, privilege list, policy, reclamation, resolve"
        ),
        "{said}"
    );
    cell.borgctl(&["history"]).ok();
}
