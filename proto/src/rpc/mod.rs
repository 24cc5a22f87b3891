//! gRPC between the parts of a cell: services, mutual TLS, and who is calling.
//!
//! Every connection is TLS with a certificate of the cell's CA on both ends (`tls`); `caller`
//! reads who that is, `channel` has the settings that keep a connection to a dead machine from
//! hanging, `pace` one to whoever sends a blob too slowly, `places` and `guests` those who need no certificate from taking all, `status` turns errors into gRPC codes and back into sentences for people. What a
//! caller may do beyond its role is left to the services.
//!
//! Invariant: no request is answered before its caller's certificate was checked against the
//! cell's CA, and sizes are bounded before anything is parsed.

mod caller;
mod channel;
mod exposition;
#[cfg(feature = "guests")]
mod guests;
mod pace;
mod places;
mod status;
mod tls;

pub use crate::wire::pb::{
    borglet_client::BorgletClient, borglet_server::Borglet, borglet_server::BorgletServer,
    borgmaster_client::BorgmasterClient, borgmaster_server::Borgmaster,
    borgmaster_server::BorgmasterServer, peer_client::PeerClient, peer_server::Peer,
    peer_server::PeerServer,
};
pub use caller::{peer_identity, require_master, require_user};
pub use channel::{
    ChannelError, MAX_MESSAGE_BYTES, MAX_POLL_ANSWER_BYTES, MAX_REQUEST_BYTES, Timeouts,
    borglet_client, borglet_server, borgmaster_client, borgmaster_server, channel, peer_client,
    peer_server, serve_incoming, server,
};
pub use exposition::{METRICS_CONTENT_TYPE, prometheus_text};
#[cfg(feature = "guests")]
pub use guests::{GUESTS, GUESTS_OF_ONE, Guest, Guests};
pub use pace::{Pace, Paced};
pub use places::{Place, Places};
pub use status::{explain, overloaded, refusal_of, retry_after, status_of, status_of_refusal};
pub use tls::{
    CA_FILE, CERT_FILE, Credentials, CredentialsError, KEY_FILE, client_tls, server_tls,
};

/// The services and messages, described: for reflection, so that `grpcurl` works.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
