//! Fetching a page from each task of a service, found by BNS name.

use super::narrator::Narrator;
use crate::client::{Client, Kind};
use crate::exit::{Code, Failure};
use borg_proto::wire::pb;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// How long one page may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest page.
const PAGE_BYTES: u64 = 64 << 10;

/// Resolves the service and fetches a page from each of its tasks.
pub(super) async fn all(say: &Narrator, client: &mut Client, service: &str) -> Result<(), Failure> {
    let request = pb::ResolveRequest { name: service.to_owned() };
    let answer =
        client.call("resolve", Kind::Read, request, async |mut c, r| c.resolve(r).await).await?;
    if answer.endpoints.is_empty() {
        return Err(Failure::new(Code::NotFound, format!("{service} resolves to nothing")));
    }
    for endpoint in answer.endpoints {
        let address = format!("{}:{}", endpoint.host, endpoint.port);
        let page = page_of(&address).await.map_err(|error| {
            Failure::new(Code::Unavailable, format!("{} at {address}: {error}", endpoint.task))
        })?;
        let first = page.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        say.line(&format!("{} is at {address}: {}", endpoint.task, first.trim()));
    }
    Ok(())
}

/// The page; a task whose process has just started may not listen yet, so it is tried for a while.
async fn page_of(address: &str) -> std::io::Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let error = match timeout(PATIENCE, get(address)).await {
            Ok(Ok(page)) => return Ok(page),
            Ok(Err(error)) => error,
            Err(_) => std::io::ErrorKind::TimedOut.into(),
        };
        if Instant::now() >= deadline {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn get(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(PAGE_BYTES).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    match answer.split_once("\r\n\r\n") {
        Some((head, page)) if head.starts_with("HTTP/1.1 200") => Ok(page.to_owned()),
        _ => Err(std::io::Error::other("the answer is no page")),
    }
}
