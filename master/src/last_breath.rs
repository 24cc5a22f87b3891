//! What a process that was killed still holds: the kernel gives it back after all of the process's memory
//! and sockets, and whoever starts it again at once must not fail for that.

use crate::clock;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;

/// How long a killed process may hold its lock and its address. It took more than half a second with 5 GiB
/// of memory, or with 2,000 connections on a busy computer. Ours.
pub(crate) const LAST_BREATH: Duration = Duration::from_secs(3);
/// Time between two looks at it.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// Listens at `address`. Waits for `patience` when a process has it.
///
/// # Errors
/// When it has it still, or the address is not this computer's.
pub(crate) async fn bind(address: SocketAddr, patience: Duration) -> io::Result<TcpListener> {
    let waited = clock::stopwatch();
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == ErrorKind::AddrInUse && waited.elapsed() < patience => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(%address, ?patience, "a process has this address: waiting for it");
                }
                tokio::time::sleep(LOOK).await;
            }
            bound => return bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_given_back_soon_is_waited_for_and_one_that_is_not_is_told() {
        let held = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = held.local_addr().unwrap();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            drop(held);
        });
        let held = bind(address, Duration::from_secs(30)).await.unwrap();
        let error = bind(address, Duration::from_millis(200)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        drop(held);
        // Of a range for documents, which no computer has: nothing to wait for.
        let nowhere = "203.0.113.1:1".parse().unwrap();
        let error = bind(nowhere, Duration::from_secs(86_400)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    }
}
