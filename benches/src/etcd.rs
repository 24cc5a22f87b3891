//! Five members of etcd on this computer, to compare with: the program `etcd` (Debian:
//! `etcd-server`), named by `ETCD` or found in the path.
//!
//! They keep their data on the disk that the cell's masters keep theirs on, with etcd's own
//! defaults, and are asked over gRPC by clients like ours. Without TLS, which is in their favour.

use crate::{Error, clock};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tonic::Request;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// Members.
const MEMBERS: usize = 5;
/// How long they may take until they answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster; ended when dropped.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Child>,
    clients: Vec<String>,
    _dir: TempDir,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutDone {}

impl Etcd {
    /// Starts five members; `None` when there is no etcd here.
    ///
    /// # Errors
    /// When they do not answer.
    pub async fn up() -> Result<Option<Self>, Error> {
        let program = std::env::var_os("ETCD").map_or_else(|| PathBuf::from("etcd"), PathBuf::from);
        if Command::new(&program).arg("--version").output().is_err() {
            return Ok(None);
        }
        let dir = tempfile::Builder::new().prefix("borg-figures-etcd-").tempdir()?;
        let mut free = Vec::new();
        for _ in 0..2 * MEMBERS {
            free.push(std::net::TcpListener::bind("127.0.0.1:0")?);
        }
        let mut urls = Vec::new();
        for listener in &free {
            urls.push(format!("http://{}", listener.local_addr()?));
        }
        drop(free);
        let (clients, peers) = urls.split_at(MEMBERS);
        let cluster: Vec<String> =
            (0..MEMBERS).map(|member| format!("e{member}={}", peers[member])).collect();
        let mut etcd = Self { members: Vec::new(), clients: clients.to_vec(), _dir: dir };
        for member in 0..MEMBERS {
            let name = format!("e{member}");
            let data = etcd._dir.path().join(&name);
            let child = Command::new(&program)
                .args(["--name", &name, "--log-level", "error"])
                .arg("--data-dir")
                .arg(data)
                .args(["--listen-client-urls", &clients[member]])
                .args(["--advertise-client-urls", &clients[member]])
                .args(["--listen-peer-urls", &peers[member]])
                .args(["--initial-advertise-peer-urls", &peers[member]])
                .args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", "new"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            etcd.members.push(child);
        }
        let began = clock::now();
        loop {
            let put = etcd.client(0)?.put(0).await;
            if put.is_ok() {
                return Ok(Some(etcd));
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("etcd does not answer: {put:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A client with a connection of its own to one of the members.
    ///
    /// # Errors
    /// Never: the address is one.
    pub fn client(&self, number: usize) -> Result<Client, Error> {
        let endpoint = Endpoint::from_shared(self.clients[number % MEMBERS].clone())?;
        Ok(Client(endpoint.tcp_nodelay(true).connect_lazy()))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            // One that has ended by itself needs no more.
            drop(member.kill());
            drop(member.wait());
        }
    }
}

/// A client of one member.
#[derive(Debug, Clone)]
pub struct Client(Channel);

impl Client {
    /// Puts a small value under the client's key.
    ///
    /// # Errors
    /// When it is not acknowledged.
    pub async fn put(&self, key: usize) -> Result<(), Error> {
        let mut grpc = tonic::client::Grpc::new(self.0.clone());
        grpc.ready().await?;
        let put =
            Put { key: format!("key-{key}").into_bytes(), value: b"0123456789abcdef".to_vec() };
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let codec = ProstCodec::<Put, PutDone>::default();
        let _done: tonic::Response<PutDone> = grpc.unary(Request::new(put), path, codec).await?;
        Ok(())
    }
}
