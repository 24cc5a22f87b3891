//! Questions over connections: a length of two bytes, then the message, any number of them one after another.
//!
//! Invariant: there are at most [`CONNECTIONS`], each of an address at most [`OF_ONE`], and whoever says nothing,
//! or takes nothing, has none for longer than [`PATIENCE`].

use super::{Carrier, DnsMetrics, LONGEST_QUESTION, Shared};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
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

/// Who has how many connections.
type Open = Arc<Mutex<BTreeMap<IpAddr, usize>>>;

/// A connection's place, until it is dropped.
#[derive(Debug)]
struct Place {
    open: Open,
    of: IpAddr,
    metrics: DnsMetrics,
}

impl Place {
    fn take(open: &Open, of: IpAddr, metrics: &DnsMetrics) -> Option<Self> {
        let mut places = open.lock().unwrap_or_else(PoisonError::into_inner);
        let own = places.get(&of).copied().unwrap_or(0);
        if own >= OF_ONE || places.values().sum::<usize>() >= CONNECTIONS {
            metrics.refused_connections.inc();
            return None;
        }
        places.insert(of, own + 1);
        metrics.connections.inc();
        Some(Self { open: open.clone(), of, metrics: metrics.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match places.get_mut(&self.of) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(places.remove(&self.of)),
        }
        self.metrics.connections.dec();
    }
}

/// Serves connections for ever.
pub(super) async fn connections(listener: TcpListener, shared: &Shared, metrics: &DnsMetrics) {
    let open = Open::default();
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
        let Some(place) = Place::take(&open, from.ip(), metrics) else { continue };
        let (shared, metrics) = (shared.clone(), metrics.clone());
        tokio::spawn(async move {
            let _place = place;
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
