//! A machine joins a cell with what `machine add` wrote for it.

use crate::cell::{BORGCTL, Cell, job, within};
use crate::masters::Ended;
use std::fs;
use std::process::{Command, Stdio};

#[tokio::test]
async fn a_machine_joins_with_what_was_written_for_it() {
    let cell = Cell::up(1, 0);
    let new = cell.dir().join("new-machine");
    let address = "127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap();
    let free = std::net::TcpListener::bind(address).unwrap().local_addr().unwrap();
    let ca = cell.layout().ca();
    let add = |address: &str| {
        let words = ["machine", "add", "m-9", address, "--ca", ca.to_str().unwrap(), "--dir"];
        cell.borgctl(&[&words[..], &[new.to_str().unwrap()]].concat())
    };
    assert!(add("nowhere").failed(2).contains("not HOST:PORT"));
    assert!(!new.exists(), "nothing half done");
    let said = add(&free.to_string()).ok();
    assert!(said.contains("m-9 added") && said.contains("systemctl enable"), "{said}");
    let unit = fs::read_to_string(new.join("borglet.service")).unwrap();
    assert!(unit.contains("KillMode=process"), "{unit}");
    assert!(add(&free.to_string()).failed(5).contains("exists"));

    // As the unit would, but for the directories of a machine.
    let toml = new.join("borglet.toml");
    let process = Command::new(BORGCTL)
        .args(["borglet", "--config"])
        .arg(&toml)
        .args(["--listen", &free.to_string(), "--metrics-listen", "127.0.0.1:0", "--creds"])
        .arg(new.join("creds"))
        .arg("--dir")
        .arg(cell.dir().join("data/m-9"))
        .args(["--attribute", "rack=r9"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(cell.dir().join("log/m-9.log")).unwrap())
        .spawn()
        .unwrap();
    let borglet = Ended(process);
    within("the machine is up", || {
        cell.json(&["machines"]).to_string().contains("\"rack\":\"r9\"")
    });
    cell.submit(&job("there", "batch", "true"));
    cell.until("there", |status| status["state"] == "finished");
    drop(borglet);
    borglet::destroy(&cell.dir().join("data/m-9")).await.unwrap();
}
