//! Probing the health of tasks, as the supervisor asks.
//!
//! A task may answer anything, or nothing: an answer is bounded in time and size, and no redirect is
//! followed, so that a task cannot make its machine ask somebody else. Only this machine is asked, or the task's own
//! address.
//! A command runs in the task's container, with its rights and within its limits.

mod command;

use crate::container::ContainerId;
use crate::executor::Executor;
use borg_proto::names::shorten;
use borglet_supervisor::{ProbeAt, ProbeFailure};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Most bytes of an answer that are read: 1 MiB, our choice. Its first line is what counts.
const MOST_ANSWER: usize = 1 << 20;
/// Longest first line of an answer, in bytes: our choice.
const MOST_LINE: usize = 4 << 10;
/// Bytes read at once.
const PIECE: usize = 16 << 10;

/// Tries once. `host` is the task's address if it has one of its own; else it shares the machine's network, whose
/// loopback reaches whoever listens on all addresses or on it.
///
/// # Errors
/// What was wrong.
pub(crate) async fn probe(
    at: ProbeAt,
    host: Option<Ipv4Addr>,
    (executor, container): (Executor, ContainerId),
    within: Duration,
) -> Result<(), ProbeFailure> {
    let host = host.unwrap_or(Ipv4Addr::LOCALHOST);
    match at {
        ProbeAt::Command(argv) => command::run(executor, container, argv, within).await,
        ProbeAt::Tcp { port } => in_time(connect(host, port), within).await.map(drop),
        ProbeAt::Http { port, path } => in_time(http(host, port, &path), within).await,
    }
}

async fn in_time<T>(
    tried: impl Future<Output = Result<T, ProbeFailure>>,
    within: Duration,
) -> Result<T, ProbeFailure> {
    let late = |_| Err(format!("no answer within {} ms", within.as_millis()).into());
    timeout(within, tried).await.unwrap_or_else(late)
}

async fn connect(host: Ipv4Addr, port: u16) -> Result<TcpStream, ProbeFailure> {
    let failed = |error| format!("connect to port {port}: {error}").into();
    TcpStream::connect(SocketAddr::from((host, port))).await.map_err(failed)
}

async fn http(host: Ipv4Addr, port: u16, path: &str) -> Result<(), ProbeFailure> {
    let mut stream = connect(host, port).await?;
    let ask = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nUser-Agent: borglet\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    );
    let failed = |what| move |error: std::io::Error| ProbeFailure::from(format!("{what}: {error}"));
    stream.write_all(ask.as_bytes()).await.map_err(failed("ask"))?;
    let (mut line, mut read, mut piece) = (Vec::new(), 0, vec![0; PIECE]);
    // The whole answer is read: whoever hangs in the middle of it does not work.
    loop {
        let got = match stream.read(&mut piece).await {
            // A server may well break off what it was told to close.
            Err(_) if line.contains(&b'\n') => 0,
            got => got.map_err(failed("read the answer"))?,
        };
        if got == 0 || read >= MOST_ANSWER {
            break;
        }
        read += got;
        let room = MOST_LINE.saturating_sub(line.len());
        line.extend_from_slice(&piece[..got.min(room)]);
    }
    let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
    judge(&String::from_utf8_lossy(&line[..end]))
}

/// Whether the first line of an answer tells of success: 200 to 399.
fn judge(line: &str) -> Result<(), ProbeFailure> {
    let line = line.trim_end();
    let code = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split_whitespace().nth(1));
    match code.and_then(|code| code.parse::<u16>().ok()) {
        Some(200..=399) => Ok(()),
        Some(code) => Err(format!("HTTP {code}").into()),
        None if line.is_empty() => Err("an empty answer".into()),
        None => Err(ProbeFailure {
            why: "no answer in HTTP".to_owned(),
            wrote: format!("{:?}", shorten(line)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const LONG: Duration = Duration::from_secs(20);

    /// A server that says `answer` to one caller and closes, or holds the line open.
    async fn server(answer: Vec<u8>, holds: bool) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let length = stream.read(&mut asked).await.unwrap();
            drop(stream.write_all(&answer).await);
            if holds {
                drop(stream.read(&mut [0]).await);
            }
            String::from_utf8_lossy(&asked[..length]).into_owned()
        });
        (port, served)
    }

    async fn asked(answer: &[u8], holds: bool, within: Duration) -> Result<(), ProbeFailure> {
        let (port, served) = server(answer.to_vec(), holds).await;
        let found = in_time(http(Ipv4Addr::LOCALHOST, port, "/ok?a=1"), within).await;
        let request = served.await.unwrap();
        assert!(request.starts_with("GET /ok?a=1 HTTP/1.1\r\nHost: "), "{request}");
        found
    }

    #[tokio::test]
    async fn an_answer_in_the_200s_and_300s_is_well_and_any_other_is_told() {
        assert_eq!(
            asked(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false, LONG).await,
            Ok(())
        );
        assert_eq!(asked(b"HTTP/1.0 204\n\n", false, LONG).await, Ok(()));
        let away = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n";
        assert_eq!(asked(away, false, LONG).await, Ok(()), "and is not followed");
        for (answer, why, wrote) in [
            (&b"HTTP/1.1 500 Oops\r\n\r\n"[..], "HTTP 500", ""),
            (b"HTTP/1.1 404 Not Found\r\n\r\n", "HTTP 404", ""),
            (b"", "an empty answer", ""),
            (b"SSH-2.0-x\r\n", "no answer in HTTP", "\"SSH-2.0-x\""),
            (b"HTTP/1.1 999999999999 x\r\n", "no answer in HTTP", "\"HTTP/1.1 999999999999 x\""),
            (b"\xff\xfe\n", "no answer in HTTP", "\"\u{fffd}\u{fffd}\""),
        ] {
            let failure = ProbeFailure { why: why.to_owned(), wrote: wrote.to_owned() };
            assert_eq!(asked(answer, false, LONG).await, Err(failure));
        }
    }

    #[tokio::test]
    async fn who_does_not_answer_in_time_or_without_end_holds_nobody_up() {
        let soon = Duration::from_millis(50);
        let told = Err("no answer within 50 ms".into());
        assert_eq!(asked(b"", true, soon).await, told);
        assert_eq!(asked(b"HTTP/1.1 200 OK\r\n\r\nhalf", true, soon).await, told);
        let endless = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 3 << 20]].concat();
        assert_eq!(asked(&endless, true, LONG).await, Ok(()), "enough was read");
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_is_told_as_such() {
        let free = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap().port()
        };
        let told = in_time(connect(Ipv4Addr::LOCALHOST, free), LONG).await.unwrap_err().why;
        assert!(told.starts_with(&format!("connect to port {free}: ")), "{told}");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        in_time(connect(Ipv4Addr::LOCALHOST, port), LONG).await.unwrap();
    }
}
