//! The lifeline, a thread for what keeps the cell alive: Raft messages, reports, orders and ticks.
//!
//! Thousands of users' calls can keep the threads that serve the API busy for longer than an
//! election takes, and a heartbeat that has to pass through three tasks there waits three times.
//! So the streams between the masters, their connections included, have a runtime of their own.
//! Who connects under this master's own name, as only the other masters do, is served here;
//! who takes any master, as users do, is served where the API is. Leaves to TLS and the services who
//! may call what: under which name somebody connects gives him no right.
//!
//! Invariant: nothing that users send is decoded on this thread.

use crate::threads::RuntimeThread;
use borg_proto::rpc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;

/// New connections that wait to be served; more wait in the kernel.
const CONNECTIONS: usize = 64;
/// How long a client may take for its first word: as long as the handshake that it begins.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// Pause between two looks at a first word that came in pieces.
const PIECES: Duration = Duration::from_millis(5);
/// Longest first word that is looked at. It carries the name near its beginning.
const MOST: usize = 4_096;

/// New connections, sorted by whom they are to be served by.
#[derive(Debug)]
pub(crate) struct Connections {
    /// Of the other masters, for the lifeline.
    pub masters: mpsc::Receiver<std::io::Result<TcpStream>>,
    /// Of everybody else, bound to no runtime yet.
    pub others: mpsc::Receiver<std::io::Result<std::net::TcpStream>>,
}

impl Connections {
    /// Takes the connections of a listener, on the lifeline. `name` is this master's own.
    ///
    /// # Errors
    /// When the listener cannot be moved there.
    pub(crate) fn of(
        lifeline: &RuntimeThread,
        listener: TcpListener,
        name: String,
    ) -> std::io::Result<Self> {
        let listener = listener.into_std()?;
        let listener = {
            let _inside = lifeline.enter();
            TcpListener::from_std(listener)?
        };
        let (to_masters, masters) = mpsc::channel(CONNECTIONS);
        let (to_others, others) = mpsc::channel(CONNECTIONS);
        lifeline.spawn(async move {
            let mut incoming = rpc::serve_incoming(listener);
            while let Some(connection) = incoming.next().await {
                let connection = match connection {
                    Ok(connection) => connection,
                    Err(error) => {
                        tracing::debug!(%error, "a connection was not taken");
                        continue;
                    }
                };
                let (to_masters, to_others, name) =
                    (to_masters.clone(), to_others.clone(), name.clone());
                tokio::spawn(async move {
                    // Whoever serves them has stopped when a queue is closed.
                    if asks_for(&connection, name.as_bytes()).await {
                        drop(to_masters.send(Ok(connection)).await);
                    } else {
                        drop(to_others.send(connection.into_std()).await);
                    }
                });
            }
        });
        Ok(Self { masters, others })
    }
}

/// Whether the first word of a client (TLS: ClientHello) has a server's name in it.
async fn asks_for(connection: &TcpStream, name: &[u8]) -> bool {
    let look = async {
        let mut word = vec![0; MOST];
        loop {
            let Ok(seen) = connection.peek(&mut word).await else { return false };
            if word[..seen].windows(name.len()).any(|part| part == name) {
                return true;
            }
            if seen == 0 || is_whole(&word[..seen]) {
                return false;
            }
            tokio::time::sleep(PIECES).await;
        }
    };
    tokio::time::timeout(FIRST_WORD, look).await.unwrap_or(false)
}

/// Whether a TLS record is there to its end, as far as it is looked at, or something else than TLS.
fn is_whole(seen: &[u8]) -> bool {
    /// A handshake's record.
    const HANDSHAKE: u8 = 22;
    let length = match seen {
        [] => return false,
        [first, ..] if *first != HANDSHAKE => return true,
        [_, _, _, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
        _ => return false,
    };
    seen.len() >= (5 + length).min(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    fn hello(name: &str) -> Vec<u8> {
        let text = format!("random{name}random");
        let length = u16::try_from(text.len()).unwrap().to_be_bytes();
        [&[22, 3, 1], &length[..], text.as_bytes()].concat()
    }

    #[tokio::test]
    async fn a_connection_goes_where_the_name_in_its_first_word_belongs() {
        let lifeline = RuntimeThread::start("lifeline", || ()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut sorted =
            Connections::of(&lifeline, listener, "master-1.lab.borg".to_owned()).unwrap();
        let mut user = TcpStream::connect(address).await.unwrap();
        user.write_all(&hello("master.lab.borg")).await.unwrap();
        assert!(sorted.others.recv().await.unwrap().is_ok());
        let mut master = TcpStream::connect(address).await.unwrap();
        let word = hello("master-1.lab.borg");
        let (first, rest) = word.split_at(20);
        master.write_all(first).await.unwrap();
        tokio::time::sleep(PIECES * 4).await;
        assert!(sorted.masters.try_recv().is_err(), "not decided before it is all there");
        master.write_all(rest).await.unwrap();
        assert!(sorted.masters.recv().await.unwrap().is_ok());
        let mut odd = TcpStream::connect(address).await.unwrap();
        odd.write_all(b"GET / HTTP/1.1").await.unwrap();
        assert!(sorted.others.recv().await.unwrap().is_ok());
    }
}
