//! A listener for plain HTTP to whoever comes: it has few places, and nobody keeps one without saying anything.

use super::places::{Place, Places};
use axum::serve::Listener;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};

/// Connections at once. 256: our choice; scrapers are few.
pub const GUESTS: usize = 256;
/// Those of one address, so that one does not take all. Our choice.
pub const GUESTS_OF_ONE: usize = 64;
/// How long a connection may be without a byte in either direction. 30 s: our choice, more than scrapers wait
/// between two looks with default settings.
const SILENCE: Duration = Duration::from_secs(30);
/// Pause after the system gave no connection, as when all files are in use. Ours.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens for guests. One who finds no place is sent away at once.
pub struct Guests {
    listener: TcpListener,
    places: Places,
    silence: Duration,
    sent_away: Box<dyn Fn() + Send>,
}

impl Guests {
    /// Those who come to a listener; `sent_away` is told of each who is.
    #[must_use]
    pub fn new(listener: TcpListener, sent_away: impl Fn() + Send + 'static) -> Self {
        let (places, sent_away) = (Places::new(GUESTS, GUESTS_OF_ONE), Box::new(sent_away));
        Self { listener, places, silence: SILENCE, sent_away }
    }
}

impl fmt::Debug for Guests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guests").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Listener for Guests {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        loop {
            let Ok((stream, from)) = self.listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let Some(place) = self.places.take(from.ip()) else {
                (self.sent_away)();
                continue;
            };
            let ends = Box::pin(tokio::time::sleep(self.silence));
            return (Guest { stream, silence: self.silence, ends, _place: place }, from);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// The connection of a guest. It fails when nothing passes for too long.
#[derive(Debug)]
pub struct Guest {
    stream: TcpStream,
    silence: Duration,
    ends: Pin<Box<Sleep>>,
    _place: Place,
}

impl Guest {
    /// What came of an attempt: a byte puts off the end, none for too long is it.
    fn passed<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.ends.as_mut().reset(Instant::now() + self.silence);
            return result;
        }
        match self.ends.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.passed(cx, read)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.passed(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Serves one page; gives its address.
    async fn serve(most: usize, silence: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let places = Places::new(most, most);
        let guests = Guests { places, silence, ..Guests::new(listener, || ()) };
        let address = guests.local_addr().expect("bound");
        let routes = Router::new().route("/", get(async || "hello"));
        tokio::spawn(async move { axum::serve(guests, routes).await });
        address
    }

    async fn ask(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let mut text = String::new();
        let asked =
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        if asked.is_ok() {
            // Who is sent away may find the connection reset.
            drop(stream.read_to_string(&mut text).await);
        }
        text
    }

    #[tokio::test]
    async fn who_says_half_a_request_loses_the_place_to_the_next() {
        let address = serve(2, Duration::from_millis(300)).await;
        assert!(ask(address).await.ends_with("hello"));
        let mut slow = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).await.expect("it listens");
            stream.write_all(b"GET / HT").await.expect("it reads");
            slow.push(stream);
        }
        tokio::time::timeout(Duration::from_secs(20), async {
            while ask(address).await.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("the slow ones are gone");
        for mut stream in slow {
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest).await);
        }
    }

    #[tokio::test]
    async fn who_finds_no_place_is_sent_away_at_once() {
        let address = serve(1, Duration::from_secs(600)).await;
        let mut first = TcpStream::connect(address).await.expect("it listens");
        first.write_all(b"GET / HT").await.expect("it reads");
        assert_eq!(ask(address).await, "");
    }
}
