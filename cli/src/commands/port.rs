//! `port`: a port here that leads to a task's port.

use super::inspect::get_job;
use super::names;
use crate::client::Client;
use crate::exit::{Code, Failure};
use crate::output::{Output, note};
use crate::session::{Ended, Said, Sender, Session};
use borg_proto::names::shorten;
use borg_proto::text::{MAX_LAST_LINES_BYTES, last_lines};
use borg_proto::wire::pb;
use clap::Args;
use pb::session_input::Kind as In;
use pb::session_start::{Attach, Forward, What};
use serde::Serialize;
use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;

/// Connections carried at once: fewer than a machine allows a user. More wait to be accepted.
const CONNECTIONS: usize = 24;
/// Pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// The same complaint is told so often at the most.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// Bytes carried in one message.
const PIECE: usize = 32 << 10;

#[derive(Debug, Args)]
pub(super) struct PortArgs {
    /// Name or number of the task's port, after the port to listen on here if that is to be another: 8080:http
    #[arg(value_name = "[LOCAL:]PORT")]
    port: String,
    /// JOB/INDEX or USER/JOB/INDEX
    task: String,
}

/// Where it listens, as it is printed.
#[derive(Debug, Serialize)]
struct Listening {
    address: SocketAddr,
    task: String,
    port: String,
}

/// Listens here until interrupted.
pub(super) async fn port(client: &mut Client, args: PortArgs, out: Output) -> Result<(), Failure> {
    let task = names::task(&args.task, client.user())?;
    let (local, remote) = split(&args.port)?;
    let name = task.to_string();
    // Says now what would be said to the first connection otherwise, and touches nothing.
    drop(
        client.session(format!("forward to {name}"), name.clone(), What::Attach(Attach {})).await?,
    );
    let number = number_of(client, &task, &remote).await?;
    let local = local.unwrap_or(number);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, local)).await.map_err(|error| {
        Failure::new(
            Code::Usage,
            format!("port {local} here: {error}; name another, as in 8080:{remote}"),
        )
    })?;
    let address = listener.local_addr()?;
    if out.is_json() {
        out.json(&Listening { address, task: name.clone(), port: remote.clone() }, true)?;
    } else {
        out.line(&format!("{address} leads to {name} {remote}"))?;
    }
    // What is carried at once shares this thread.
    LocalSet::new().run_until(accept(client, listener, name, remote)).await
}

async fn accept(
    client: &Client,
    listener: TcpListener,
    name: String,
    remote: String,
) -> Result<(), Failure> {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let complaints = Rc::new(Complaints::default());
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // The connection, or a file for it, is gone: the next one may do.
            Err(error) => {
                complaints.tell(&format!("error: accept: {error}"));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (mut client, name, remote) = (client.clone(), name.clone(), remote.clone());
        let complaints = Rc::clone(&complaints);
        spawn_local(async move {
            let what = What::Forward(Forward { port: remote.clone() });
            let session = client.session(format!("forward to {name} {remote}"), name, what).await;
            let carried = match session {
                Ok(session) => carry(session, stream).await,
                Err(failure) => Err(failure),
            };
            if let Err(failure) = carried {
                complaints.tell(&format!("error: {failure}"));
            }
            drop(permit);
        });
    }
}

/// What goes wrong with connections: the same is told now and then only, whoever connects how often.
#[derive(Debug, Default)]
struct Complaints(RefCell<Option<Complaint>>);

#[derive(Debug)]
struct Complaint {
    text: String,
    told_at: Instant,
    /// How often it was not told since.
    more: u64,
}

impl Complaints {
    fn tell(&self, text: &str) {
        if let Some(line) = self.line(text, Instant::now()) {
            note(&line);
        }
    }

    fn line(&self, text: &str, now: Instant) -> Option<String> {
        let mut last = self.0.borrow_mut();
        let mut more = 0;
        if let Some(last) = last.as_mut().filter(|last| last.text == text) {
            if now < last.told_at + TOLD_EVERY {
                last.more += 1;
                return None;
            }
            more = last.more;
        }
        *last = Some(Complaint { text: text.to_owned(), told_at: now, more: 0 });
        Some(if more == 0 { text.to_owned() } else { format!("{text} (and {more} times before)") })
    }
}

/// The port here, if it is named, and the task's.
fn split(text: &str) -> Result<(Option<u16>, String), Failure> {
    let wrong = || {
        let shown = shorten(text);
        Failure::new(
            Code::Usage,
            format!("{shown:?} is not PORT or LOCAL:PORT, as in http or 8080:http"),
        )
    };
    let (local, remote) = match text.split_once(':') {
        None => (None, text),
        Some((local, remote)) => (Some(local.parse().map_err(|_| wrong())?), remote),
    };
    if remote.is_empty() || remote.contains(':') {
        Err(wrong())
    } else {
        Ok((local, remote.to_owned()))
    }
}

/// The number of a task's port.
async fn number_of(
    client: &mut Client,
    task: &borg_proto::TaskName,
    wanted: &str,
) -> Result<u16, Failure> {
    let answer = get_job(client, &format!("forward to {task}"), &task.job).await?;
    let found = answer.tasks.into_iter().find(|info| info.index == task.index);
    let ports = found.map(|info| info.ports).unwrap_or_default();
    let port = ports.iter().find(|port| port.name == wanted || port.port.to_string() == wanted);
    let number = port.and_then(|port| u16::try_from(port.port).ok());
    number.ok_or_else(|| {
        let all: Vec<String> =
            ports.iter().map(|port| format!("{}:{}", port.name, port.port)).collect();
        let wanted = shorten(wanted);
        let all = all.join(", ");
        Failure::new(Code::NotFound, format!("{task} has no port {wanted:?}; it has [{all}]"))
    })
}

async fn carry(mut session: Session, stream: tokio::net::TcpStream) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let (from, mut to) = stream.into_split();
    let sending = tokio::spawn(send(from, session.sender()));
    let received = receive(&mut session, &mut to).await;
    sending.abort();
    received
}

/// From here to the task.
async fn send(mut from: OwnedReadHalf, to: Sender) {
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer).await {
            Ok(length @ 1..) => {
                if !to.send(In::Data(buffer[..length].to_vec())).await {
                    return;
                }
            }
            Ok(0) | Err(_) => {
                to.send(In::End(true)).await;
                return;
            }
        }
    }
}

/// From the task to here.
async fn receive(session: &mut Session, to: &mut OwnedWriteHalf) -> Result<(), Failure> {
    let mut told = Vec::new();
    loop {
        match session.next().await? {
            // Whoever connected is gone: nothing to complain of.
            Said::Stdout(data) => {
                if to.write_all(&data).await.is_err() {
                    return Ok(());
                }
            }
            Said::StdoutEnd => {
                if to.shutdown().await.is_err() {
                    return Ok(());
                }
            }
            Said::Stderr(data) => {
                told.extend(data);
                told.truncate(MAX_LAST_LINES_BYTES);
            }
            Said::Ended(Ended::Code(0) | Ended::Signal(_)) => return Ok(()),
            Said::Ended(Ended::Code(_)) => {
                return Err(Failure::new(Code::Refused, last_lines(&told, MAX_LAST_LINES_BYTES)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_here_may_be_left_out() {
        assert_eq!(split("http").unwrap(), (None, "http".into()));
        assert_eq!(split("8080:http").unwrap(), (Some(8080), "http".into()));
        assert_eq!(split("0:20001").unwrap(), (Some(0), "20001".into()));
        for bad in ["", ":http", "x:http", "70000:http", "1:2:3", "8080:"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_same_complaint_is_told_now_and_then_only() {
        let (complaints, began) = (Complaints::default(), Instant::now());
        let tell = |text: &str, s| complaints.line(text, began + Duration::from_secs(s));
        assert_eq!(tell("refused", 0), Some("refused".into()));
        for s in 1..10 {
            assert_eq!(tell("refused", s), None);
        }
        assert_eq!(tell("refused", 10), Some("refused (and 9 times before)".into()));
        assert_eq!(tell("gone", 11), Some("gone".into()), "another one at once");
    }
}
