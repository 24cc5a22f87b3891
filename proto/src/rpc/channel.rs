//! Connections: addresses, deadlines, keep-alive and the largest messages.
//!
//! Without pings a client of a master that lost its power hangs for many minutes, as TCP itself
//! gives up so late; with Nagle's algorithm on, small answers wait 40 ms. Both were measured.

use super::tls::{Credentials, client_tls, server_tls};
use super::{
    Borglet, BorgletClient, BorgletServer, Borgmaster, BorgmasterClient, BorgmasterServer, Peer,
    PeerClient, PeerServer,
};
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

/// Largest message that a master may send, to a peer, a borglet or a client: 64 MiB, our choice.
/// Fits the targets of a busy machine and the list of 100,000 tasks.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Largest request of a client: 4 MiB, our choice, four times the largest job.
pub const MAX_REQUEST_BYTES: usize = 4 << 20;
/// Largest answer of a borglet to a poll: 4 MiB, our choice. Machines are trusted less than
/// masters, and protobuf in memory is many times its size on the wire.
pub const MAX_POLL_ANSWER_BYTES: usize = 4 << 20;

/// Time between pings of a client: so a dead master is noticed in about a second.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Time between pings of a server, which only has to find clients that are long gone.
const SERVER_PING_INTERVAL: Duration = Duration::from_secs(10);
/// Time between TCP's own probes.
const TCP_KEEPALIVE: Duration = Duration::from_secs(5);
/// Calls that one connection may have open at a server: our choice.
const MAX_STREAMS: u32 = 1024;

/// How long a client waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the TCP connection and the TLS handshake.
    pub connect: Duration,
    /// For the answer to a ping, before the connection counts as dead; `None` for no pings, where calls
    /// with deadlines follow each other anyway.
    pub ping: Option<Duration>,
    /// For a whole call; `None` for connections that carry long polls or streams.
    pub call: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(2), ping: Some(Duration::from_secs(2)), call: None }
    }
}

/// A connection that cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Not `HOST:PORT`.
    #[error("{address:?} is not HOST:PORT")]
    Address {
        /// What was given.
        address: String,
        /// What the parser says.
        source: tonic::transport::Error,
    },
    /// The credentials or the server's name do not make a TLS client.
    #[error("cannot speak TLS with {server_name:?}")]
    Tls {
        /// The name that the server's certificate should carry.
        server_name: String,
        /// What TLS says.
        source: tonic::transport::Error,
    },
}

/// A connection to the server at `address` (`HOST:PORT`) whose certificate carries `server_name`.
/// Made at the first call and again after it broke. To be called inside a tokio runtime.
///
/// # Errors
/// When the address or the name cannot be used at all; a server that is away is an error of the
/// call.
pub fn channel(
    address: &str,
    credentials: &Credentials,
    server_name: &str,
    timeouts: Timeouts,
) -> Result<Channel, ChannelError> {
    let endpoint = Endpoint::from_shared(format!("https://{address}"))
        .map_err(|source| ChannelError::Address { address: address.to_owned(), source })?
        .tls_config(client_tls(credentials, server_name).timeout(timeouts.connect))
        .map_err(|source| ChannelError::Tls { server_name: server_name.to_owned(), source })?
        .connect_timeout(timeouts.connect)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(TCP_KEEPALIVE));
    let endpoint = match timeouts.ping {
        Some(limit) => endpoint
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(limit)
            .keep_alive_while_idle(true),
        None => endpoint,
    };
    Ok(match timeouts.call {
        Some(limit) => endpoint.timeout(limit).connect_lazy(),
        None => endpoint.connect_lazy(),
    })
}

/// A server with the cell's TLS and keep-alive; services are added to it.
///
/// # Errors
/// When TLS does not take the credentials.
pub fn server(credentials: &Credentials) -> Result<Server, tonic::transport::Error> {
    let server = Server::builder()
        .http2_keepalive_interval(Some(SERVER_PING_INTERVAL))
        .http2_keepalive_timeout(Some(SERVER_PING_INTERVAL))
        .max_concurrent_streams(MAX_STREAMS);
    server.tls_config(server_tls(credentials))
}

/// The connections of a listener, for `serve_with_incoming`, without Nagle's algorithm.
#[must_use]
pub fn serve_incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(TCP_KEEPALIVE))
}

/// A client of the API.
#[must_use]
pub fn borgmaster_client(channel: Channel) -> BorgmasterClient<Channel> {
    BorgmasterClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_REQUEST_BYTES)
}

/// The API, with its bounds.
pub fn borgmaster_server<S: Borgmaster>(service: S) -> BorgmasterServer<S> {
    BorgmasterServer::new(service)
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// A client of another master.
#[must_use]
pub fn peer_client(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// What a master answers to its peers, with its bounds.
pub fn peer_server<S: Peer>(service: S) -> PeerServer<S> {
    PeerServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// A client of a borglet.
#[must_use]
pub fn borglet_client(channel: Channel) -> BorgletClient<Channel> {
    BorgletClient::new(channel)
        .max_decoding_message_size(MAX_POLL_ANSWER_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// A borglet's service, with its bounds.
pub fn borglet_server<S: Borglet>(service: S) -> BorgletServer<S> {
    BorgletServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_POLL_ANSWER_BYTES)
}
