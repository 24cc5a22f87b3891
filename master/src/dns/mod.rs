//! Names of the cell over DNS, at every master: UDP and TCP on one port.
//!
//! `question` reads what comes, `answer` makes what goes, `records` is the zone; which names there are is decided
//! in `borg_cell::bns::dns`. All of it is on one thread, which takes the newest view of this replica and asks
//! nobody: a flood costs the names and not the cell. A state that may be too old is not answered from.
//!
//! Invariant: whatever comes, its cost is bounded, it is counted, and the process stays.

mod answer;
mod metrics;
mod question;
mod records;
mod surplus;
mod tcp;
#[cfg(test)]
mod tests;

pub(crate) use self::metrics::DnsMetrics;
pub(crate) use self::surplus::BYTES_PER_SECOND as SURPLUS;

use self::answer::{Answer, Carrier, Standing, answer, over_tcp};
use self::records::Zone;
use self::surplus::Surplus;
use crate::clock;
use crate::feed::View;
use crate::freshness::Freshness;
use borg_cell::bns::dns::Names;
use borg_proto::names::CellName;
use borg_proto::{Millis, panics};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;

/// Longest question that is read: one name, and what a client may say of itself. Ours.
const LONGEST_QUESTION: usize = 4_096;
/// Questions over UDP that are answered before connections have their turn. Ours.
const IN_A_ROW: usize = 64;

/// Both sockets of one address.
#[derive(Debug)]
pub(crate) struct Sockets {
    udp: std::net::UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Takes the datagrams of the address where `tcp` listens.
    ///
    /// # Errors
    /// When somebody else has them.
    pub(crate) fn beside(tcp: TcpListener) -> io::Result<Self> {
        let udp = std::net::UdpSocket::bind(tcp.local_addr()?)?;
        udp.set_nonblocking(true)?;
        Ok(Self { udp, tcp })
    }

    /// Where they are.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// What answers are made from.
#[derive(Debug)]
pub(crate) struct Source {
    /// The cell, whose zone it is.
    pub cell: CellName,
    /// The number of this master.
    pub master: u64,
    /// The newest state.
    pub view: watch::Receiver<View>,
    /// How old it may be.
    pub fresh: Freshness,
    /// From which age on there is no answer.
    pub max_age: Millis,
    /// Bytes a second that an address may be sent over UDP beyond what came from it: [`SURPLUS`].
    pub surplus: u64,
    /// A number that nobody can guess.
    pub seed: u64,
}

/// One who answers.
#[derive(Debug)]
struct Desk {
    names: Names,
    zone: Zone,
    view: watch::Receiver<View>,
    fresh: Freshness,
    max_age: Millis,
    surplus: Surplus,
    metrics: DnsMetrics,
}

/// The one desk, which all connections of the thread share.
#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<Desk>>);

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desk {
    fn new(source: Source, metrics: DnsMetrics) -> Self {
        let Source { cell, master, mut view, fresh, max_age, surplus, seed } = source;
        let state = view.borrow_and_update().state.clone();
        Self {
            names: Names::new(state),
            zone: Zone::new(&cell, master),
            view,
            fresh,
            max_age,
            surplus: Surplus::new(seed, surplus),
            metrics,
        }
    }

    /// What to answer to a message, if anything.
    fn answer(&mut self, message: &[u8], carrier: Carrier) -> Option<Answer> {
        // Before the state, which may become newer meanwhile and never older.
        let now = clock::now();
        let standing = match self.fresh.age(now) {
            Some(age) if age <= self.max_age => Standing::Fresh,
            age => Standing::Stale(age),
        };
        if self.view.has_changed().unwrap_or(false) {
            self.names.follow(self.view.borrow_and_update().state.clone());
        }
        let (names, zone) = (&mut self.names, &self.zone);
        let made = panics::guarded(|| answer(names, zone, standing, message, carrier));
        let made = made.unwrap_or_else(|why| {
            tracing::error!(why, "a question over DNS could not be answered");
            // What was changed may be half changed.
            self.names = Names::new(self.view.borrow().state.clone());
            None
        });
        self.metrics.answered(made.as_ref().map(|answer| (answer.code, answer.truncated)));
        made
    }

    /// The same for a datagram: nobody is sent much more than came under its address.
    fn answer_datagram(&mut self, message: &[u8], from: IpAddr) -> Option<Answer> {
        self.metrics.over_udp.inc();
        let answer = self.answer(message, Carrier::Udp)?;
        let surplus = answer.bytes.len().saturating_sub(message.len());
        if surplus == 0 || self.surplus.take(clock::now(), from, surplus) {
            return Some(answer);
        }
        self.metrics.limited.inc();
        over_tcp(message)
    }
}

/// Serves until its thread ends. To be run on a thread of its own.
pub(crate) async fn serve(sockets: Sockets, source: Source, metrics: DnsMetrics) {
    let shared = Shared(Arc::new(Mutex::new(Desk::new(source, metrics.clone()))));
    // With the runtime of this thread, whoever bound them.
    let udp = UdpSocket::from_std(sockets.udp);
    let tcp = sockets.tcp.into_std().and_then(TcpListener::from_std);
    match udp.and_then(|udp| Ok((udp, tcp?))) {
        Ok((udp, tcp)) => {
            tokio::join!(datagrams(&udp, &shared), tcp::connections(tcp, &shared, &metrics));
        }
        Err(error) => tracing::error!(%error, "names are not served over DNS"),
    }
}

async fn datagrams(udp: &UdpSocket, shared: &Shared) {
    let mut message = vec![0; LONGEST_QUESTION];
    loop {
        if let Err(error) = udp.readable().await {
            return tracing::error!(%error, "names are no longer served over UDP");
        }
        answer_some(udp, &mut shared.desk(), &mut message);
        tokio::task::yield_now().await;
    }
}

fn answer_some(udp: &UdpSocket, desk: &mut Desk, message: &mut [u8]) {
    for _ in 0..IN_A_ROW {
        let (bytes, from) = match udp.try_recv_from(message) {
            Ok(came) => came,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // As when a client that was answered is gone.
            Err(_) => continue,
        };
        let Some(answer) = desk.answer_datagram(&message[..bytes], from.ip()) else { continue };
        if udp.try_send_to(&answer.bytes, from).is_err() {
            desk.metrics.unsent.inc();
        }
    }
}
