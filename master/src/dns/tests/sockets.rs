//! Real datagrams and connections, over loopback.

use super::{question, web, with_edns};
use crate::clock;
use crate::dns::{DnsMetrics, Sockets, Source, serve};
use crate::feed::View;
use crate::freshness::Freshness;
use borg_cell::fixture::Cell;
use borg_cell::master::Status;
use borg_proto::{Millis, ReplicaId};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

/// What two large answers right after each other are beyond. Others are shorter.
const SURPLUS: u64 = 2_000;

struct Server {
    address: SocketAddr,
    cell: Cell,
    view: watch::Sender<View>,
    fresh: Freshness,
    metrics: DnsMetrics,
}

async fn server(tasks: u32) -> Server {
    let (cell, _) = web(tasks);
    let status = Status {
        replica: ReplicaId(2),
        leader: None,
        term: 1,
        last_index: 0,
        commit: 0,
        applied: 0,
        checkpoint: 0,
        digest: 0,
        digests: Vec::new(),
        heard: Vec::new(),
        in_flight: 0,
        halted: None,
        level: 0,
        write_micros: 0,
        links: None,
    };
    let (state, nothing) = (cell.state.clone(), Millis(0));
    let first = View { state, status, seen_at: nothing, heard_at: nothing, silent: Arc::default() };
    let (view, seen) = watch::channel(first);
    let sockets = Sockets::beside(TcpListener::bind("127.0.0.1:0").await.unwrap()).unwrap();
    let (address, fresh) = (sockets.address().unwrap(), Freshness::default());
    let source = Source {
        cell: "lab".parse().unwrap(),
        master: 2,
        view: seen,
        fresh: fresh.clone(),
        max_age: Millis(3_600_000),
        surplus: SURPLUS,
        seed: 1,
    };
    let metrics = DnsMetrics::new();
    tokio::spawn(serve(sockets, source, metrics.clone()));
    fresh.was_new(clock::now());
    Server { address, cell, view, fresh, metrics }
}

async fn datagram(to: SocketAddr, message: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(message, to).await.unwrap();
    let mut bytes = [0; 4_096];
    let size = socket.recv(&mut bytes).await.unwrap();
    Message::from_vec(&bytes[..size]).unwrap()
}

async fn framed(stream: &mut TcpStream, message: &[u8]) -> Option<Message> {
    stream.write_u16(message.len().try_into().unwrap()).await.ok()?;
    stream.write_all(message).await.ok()?;
    let size = stream.read_u16().await.ok()?;
    let mut bytes = vec![0; size.into()];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(Message::from_vec(&bytes).unwrap())
}

fn asked(name: &str) -> Vec<u8> {
    question(name, RecordType::A).to_vec().unwrap()
}

#[tokio::test]
async fn the_newest_state_is_answered_from_over_both_carriers() {
    let mut server = server(100).await;
    let short = datagram(server.address, &asked("web.ann.lab.borg.")).await;
    assert!(short.metadata.truncation);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..2 {
        let whole = framed(&mut stream, &asked("web.ann.lab.borg.")).await.unwrap();
        assert_eq!(whole.answers.len(), 100);
    }
    server.cell.kill("ann", "ann/web", &[7]).unwrap();
    server.view.send_modify(|view| view.state = server.cell.state.clone());
    let whole = framed(&mut stream, &asked("web.ann.lab.borg.")).await.unwrap();
    assert_eq!(whole.answers.len(), 99);
    assert_eq!((server.metrics.over_udp.get(), server.metrics.over_tcp.get()), (1, 3));
}

#[tokio::test]
async fn a_master_that_does_not_know_how_old_its_state_is_has_no_answer() {
    let mut server = server(1).await;
    server.fresh = Freshness::default();
    let known = datagram(server.address, &asked("web.ann.lab.borg.")).await;
    assert_eq!(known.metadata.response_code, ResponseCode::NoError);
    let sockets = Sockets::beside(TcpListener::bind("127.0.0.1:0").await.unwrap()).unwrap();
    let address = sockets.address().unwrap();
    let source = Source {
        cell: "lab".parse().unwrap(),
        master: 2,
        view: server.view.subscribe(),
        fresh: server.fresh.clone(),
        max_age: Millis(1_000),
        surplus: SURPLUS,
        seed: 1,
    };
    tokio::spawn(serve(sockets, source, DnsMetrics::new()));
    let unknown = datagram(address, &asked("web.ann.lab.borg.")).await;
    assert_eq!(unknown.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_noise_ends_its_own_alone() {
    let server = server(1).await;
    let mut streams = Vec::new();
    // On a slow computer the first ones are closed for their silence meanwhile.
    while server.metrics.refused_connections.get() == 0 && streams.len() < 10_000 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        if framed(&mut stream, &asked("0.web.ann.lab.borg.")).await.is_some() {
            streams.push(stream);
        }
        assert!(server.metrics.connections.get() <= 64);
    }
    assert!(streams.len() >= 64 && server.metrics.refused_connections.get() == 1);
    for noise in [&[0xff; 4][..], &[0, 3, 1, 2, 3][..]] {
        let mut stream = streams.pop().unwrap();
        stream.write_all(noise).await.unwrap();
        assert!(stream.read_u8().await.is_err(), "closed");
    }
    let last = streams.last_mut().unwrap();
    assert!(framed(last, &asked("0.web.ann.lab.borg.")).await.is_some());
}

/// The sender of a datagram may be somebody who asked for nothing.
#[tokio::test]
async fn who_asks_for_much_over_udp_is_sent_to_tcp_by_answers_no_longer_than_questions() {
    let server = server(100).await;
    let message = with_edns(question("web.ann.lab.borg.", RecordType::A), 1_232).to_vec().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (mut bytes, mut sent, mut limited) = ([0; 4_096], 0, 0);
    while limited == 0 && sent < 1 << 20 {
        socket.send_to(&message, server.address).await.unwrap();
        let size = socket.recv(&mut bytes).await.unwrap();
        sent += size;
        if size <= message.len() {
            limited += 1;
            assert!(Message::from_vec(&bytes[..size]).unwrap().metadata.truncation);
        }
    }
    assert_eq!((limited, server.metrics.limited.get()), (1, 1));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(framed(&mut stream, &message).await.unwrap().answers.len(), 100);
}
