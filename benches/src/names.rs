//! Names over DNS at a real cell: how many questions one core answers, and how soon a change is seen.
//!
//! Invariant: what is measured is what a client gets: datagrams over loopback, and of changes the time at every
//! master, from the moment at which the machine's probe had its answer.

mod changes;
mod rate;

pub use changes::{ChangeTimes, changes};
pub use rate::{Rate, rate};

use crate::Error;
use crate::local_cell::{Client, LocalCell};
use borg_proto::wire::pb;
use std::net::UdpSocket;
use std::time::Duration;

/// The job's name and that of its port.
const JOB: &str = "named";
const PORT: &str = "http";
/// Type numbers of addresses and of the internet: RFC 1035.
const ADDRESS_OF_INTERNET: [u8; 4] = [0, 1, 0, 1];
/// Longest wait for a datagram.
const WAIT: Duration = Duration::from_millis(200);

/// A question for addresses, under a number of its own.
fn question(id: u16, labels: &[&str]) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in labels {
        message.push(u8::try_from(label.len()).unwrap_or(0));
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(ADDRESS_OF_INTERNET);
    message
}

/// How many records an answer has; `None` when it is a refusal or a failure.
fn answers(message: &[u8]) -> Option<u16> {
    let [_, _, _, flags, _, _, high, low, ..] = *message else { return None };
    (flags & 0x0f == 0).then(|| u16::from_be_bytes([high, low]))
}

/// A socket that speaks to one master alone.
fn connected(cell: &LocalCell, master: usize) -> Result<UdpSocket, Error> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(WAIT))?;
    socket.connect(cell.dns(master)?)?;
    Ok(socket)
}

/// Submits a service whose processes do nothing; with a check the measurement itself answers.
async fn submit(mut client: Client, tasks: u32, is_checked: bool) -> Result<(), Error> {
    let probe = pb::health_check::Probe::Http(pb::health_check::Http {
        port: PORT.to_owned(),
        path: "/".to_owned(),
    });
    let health = pb::HealthCheck {
        probe: Some(probe),
        grace_ms: 3_600_000,
        interval_ms: 100,
        timeout_ms: 5_000,
        failures: 1,
    };
    let limit = pb::Resources { cpu_milli: 10, ram_bytes: 16 << 20, ..pb::Resources::default() };
    let task = pb::TaskSpec {
        command: ["/bin/sleep", "100000"].map(str::to_owned).into(),
        limit: Some(limit),
        grace_ms: 100,
        ports: vec![PORT.to_owned()],
        health: is_checked.then_some(health),
        ..pb::TaskSpec::default()
    };
    let spec = pb::JobSpec {
        name: JOB.to_owned(),
        kind: pb::JobKind::Service.into(),
        tasks,
        priority: 200,
        task: Some(task),
        ..pb::JobSpec::default()
    };
    let request_id = format!("{JOB}-{is_checked}");
    client.submit_job(pb::SubmitJobRequest { spec: Some(spec), request_id, planned: None }).await?;
    Ok(())
}
