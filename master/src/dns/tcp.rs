//! Questions over connections: a length of two bytes, then the message, any number of them one after another.
//!
//! Invariant: there are at most [`CONNECTIONS`], each of an address at most [`OF_ONE`], and whoever says nothing,
//! or takes nothing, has none for longer than [`PATIENCE`].

use super::{Carrier, DnsMetrics, LONGEST_QUESTION, Shared};
use borg_proto::rpc::{Place, Places};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Connections at once. 256: our choice; with their answers 16 MiB at the most.
const CONNECTIONS: usize = 256;
/// Those of one address, so that one does not take all. Our choice.
const OF_ONE: usize = 64;
/// How long a message may take, from its first byte or from the one before it on; and an answer. 5 s: our choice,
/// within what RFC 7766 asks for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after the system gave no connection, as when all files are in use. Ours.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection that is counted, until it is dropped.
#[derive(Debug)]
struct Counted {
    _place: Place,
    metrics: DnsMetrics,
}

impl Counted {
    fn new(place: Place, metrics: DnsMetrics) -> Self {
        metrics.connections.inc();
        Self { _place: place, metrics }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

/// Serves connections for ever.
pub(super) async fn connections(listener: TcpListener, shared: &Shared, metrics: &DnsMetrics) {
    let places = Places::new(CONNECTIONS, OF_ONE);
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection for names was not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // What finds no place is closed at once, and its client asks another master.
        let Some(place) = places.take(from.ip()) else {
            metrics.refused_connections.inc();
            continue;
        };
        let (shared, metrics) = (shared.clone(), metrics.clone());
        tokio::spawn(async move {
            let _counted = Counted::new(place, metrics.clone());
            converse(stream, &shared, &metrics).await;
        });
    }
}

/// Until the client goes, says nothing for too long, or says what is no question.
async fn converse(mut stream: TcpStream, shared: &Shared, metrics: &DnsMetrics) {
    drop(stream.set_nodelay(true));
    let mut message = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, read(&mut stream, &mut message)).await {
            Ok(Some(())) => {}
            Ok(None) | Err(_) => return,
        }
        metrics.over_tcp.inc();
        let answer = shared.desk().answer(&message, Carrier::Tcp);
        let Some(answer) = answer else { return };
        let Ok(length) = u16::try_from(answer.bytes.len()) else { return };
        let framed = [&length.to_be_bytes(), answer.bytes.as_slice()].concat();
        match tokio::time::timeout(PATIENCE, stream.write_all(&framed)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

async fn read(stream: &mut TcpStream, message: &mut Vec<u8>) -> Option<()> {
    let length = usize::from(stream.read_u16().await.ok()?);
    if length > LONGEST_QUESTION {
        return None;
    }
    message.resize(length, 0);
    stream.read_exact(message).await.ok()?;
    Some(())
}
