//! Masters come and go: one that lost its log repairs itself, a new one takes a dead one's place, and
//! one that is stopped hands its office over first.

use crate::cell::{BORGCTL, Cell, Killed, job, now, within};
use borgctl::local::Process;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Ended when dropped.
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().unwrap();
    }
}

fn masters(cell: &Cell) -> Vec<Value> {
    cell.json(&["masters"]).as_array().unwrap().clone()
}

fn numbered(cell: &Cell, number: u64) -> Option<Value> {
    masters(cell).into_iter().rfind(|master| master["replica"] == number)
}

/// All masters vote and answer, and have applied the same.
fn all_agree(cell: &Cell, count: usize) -> bool {
    let all = masters(cell);
    let newest = all.iter().map(|master| master["applied_index"].as_u64()).max().flatten();
    all.len() == count
        && all.iter().all(|master| {
            master["standing"] == "voting"
                && master["reachable"] == true
                && master["applied_index"].as_u64() == newest
        })
}

#[test]
fn a_master_whose_log_was_damaged_or_lost_repairs_itself() {
    let cell = Cell::up(5, 1);
    let web = cell.submit(&job("web", "service", "exec sleep 1000"));
    let pids = cell.until_up(&web, 1);
    let leader = cell.leader();
    let damaged = (leader + 1) % 5;
    let emptied = (leader + 2) % 5;
    let daemons = cell.record().masters;
    let victims = [Killed::of(&daemons[damaged]), Killed::of(&daemons[emptied])];
    cell.kill(&victims);
    let data = |at: usize| cell.dir().join("data").join(&daemons[at].name);
    let log = data(damaged).join("log/log.redb");
    let mut bytes = fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[..middle].fill(0x55);
    fs::write(&log, bytes).unwrap();
    fs::remove_dir_all(data(emptied).join("log")).unwrap();
    cell.submit(&job("meanwhile", "batch", "true"));
    let began = now();
    cell.start_again(&victims);
    within("both vote again", || all_agree(&cell, 5));
    assert!(began.elapsed() < Duration::from_secs(10), "took {:?}", began.elapsed());
    for at in [damaged, emptied] {
        let number = at as u64 + 1;
        let master = numbered(&cell, number).unwrap();
        assert!(master["life"].as_u64().unwrap() > 0, "it is another replica now: {master}");
    }
    assert!(data(damaged).join("quarantine-1").exists(), "what was broken is kept for a look");
    let said = fs::read_to_string(cell.layout().log(&daemons[damaged].name)).unwrap();
    assert!(said.contains("cannot prove that it has what it acknowledged"), "{said}");
    assert_eq!(cell.until_up(&web, 1), pids, "no task noticed");
    // The machine's shard may have died with its master, and the next one looks when it can.
    cell.until("meanwhile", |job| job["state"] == "finished");
}

#[test]
fn a_dead_master_is_replaced_by_a_new_one_and_the_cell_bears_the_next_loss() {
    let cell = Cell::up(3, 0);
    cell.submit(&job("before", "batch", "true"));
    let dead = (cell.leader() + 1) % 3;
    let victim = [Killed::of(&cell.record().masters[dead])];
    cell.kill(&victim);
    let address = "127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap();
    let free = std::net::TcpListener::bind(address).unwrap().local_addr().unwrap();
    let new = format!("9={free}");
    let number = (dead + 1).to_string();
    // One that is not there cannot be replaced, and nothing changes twice at a time.
    let refused = cell.borgctl(&["masters", "replace", "7", &new]).failed(4);
    assert!(refused.contains("there is no master 7"), "{refused}");
    cell.borgctl(&["masters", "replace", &number, &new]).ok();
    let refused = cell.borgctl(&["masters", "add", "8=127.0.0.1:1"]).failed(3);
    assert!(refused.contains("changing already"), "{refused}");
    let creds = cell.credentials_dir("master", "9");
    let known: Vec<String> = cell
        .record()
        .masters
        .iter()
        .enumerate()
        .map(|(at, master)| format!("{}={}", at + 1, master.address))
        .collect();
    let log = fs::File::create(cell.dir().join("log/master-9.log")).unwrap();
    let process = Command::new(BORGCTL)
        .args(["borgmaster", "--listen", &free.to_string(), "--creds"])
        .arg(&creds)
        .args(["--masters", &format!("{},{new}", known.join(",")), "--dir"])
        .arg(cell.dir().join("data/master-9"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let _process = Ended(process);
    within("the new master votes in the place of the dead one", || all_agree(&cell, 3));
    assert!(numbered(&cell, dead as u64 + 1).is_none(), "the dead one is forgotten");
    // Three again, so one more may go.
    let next = (dead + 1) % 3;
    cell.kill(&[Killed::of(&cell.record().masters[next])]);
    cell.submit(&job("after", "batch", "true"));
}

#[test]
fn an_operator_cannot_take_the_majority_away_by_accident() {
    let cell = Cell::up(3, 0);
    cell.submit(&job("before", "batch", "true"));
    let leader = cell.leader();
    let victim = [Killed::of(&cell.record().masters[(leader + 1) % 3])];
    cell.kill(&victim);
    std::thread::sleep(Duration::from_millis(1_500));
    let alive = ((leader + 2) % 3 + 1).to_string();
    let refused = cell.borgctl(&["masters", "remove", &alive]).failed(3);
    assert!(refused.contains("1 of the 2 masters left would answer, a majority is 2"), "{refused}");
    cell.start_again(&victim);
    within("it is back", || all_agree(&cell, 3));
    cell.borgctl(&["masters", "remove", &alive, "--wait"]).ok();
    let gone = (leader as u64 + 2) % 3 + 1;
    within("all others have forgotten it", || numbered(&cell, gone).is_none());
    // Whoever was taken out finds out, and ends.
    let removed = cell.record().masters[(leader + 2) % 3].process.unwrap();
    within("its process ends", || !removed.is_running());
}

#[test]
fn a_leader_that_is_stopped_hands_over_before_it_ends() {
    let cell = Cell::up(3, 0);
    cell.submit(&job("before", "batch", "true"));
    let leader = cell.leader();
    let victim = Killed::of(&cell.record().masters[leader]);
    victim.process.signal(Signal::SIGTERM).unwrap();
    within("it ends", || !Process::is_running(&victim.process));
    let said = fs::read_to_string(cell.layout().log(&victim.name)).unwrap();
    assert!(said.contains("handing over the office of leader"), "{said}");
    assert!(said.contains("another master leads"), "{said}");
    let began = now();
    cell.submit(&job("after", "batch", "true"));
    assert!(began.elapsed() < Duration::from_millis(900), "took {:?}", began.elapsed());
    cell.start_again(&[victim]);
}
