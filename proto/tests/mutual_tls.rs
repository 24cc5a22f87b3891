//! Who gets through: real TLS over real sockets on loopback, with certificates made here.
//!
//! What is shown to people when somebody does not get through is part of each test, since the
//! texts of the TLS library below are not ours.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use borg_proto::identity::Identity;
use borg_proto::names::CellName;
use borg_proto::rpc::{self, Credentials, CredentialsError, Peer, Timeouts};
use borg_proto::wire::pb;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::{Code, Request, Response, Status, Streaming};

/// A CA by the same subject name as every other one here, so that only its key tells it apart.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn ca() -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "cell CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Ca { issuer: Issuer::new(params, key), pem }
}

impl Ca {
    /// Certificate and key with these URIs and this DNS name.
    fn issue(&self, uris: &[&str], dns: Option<&str>, valid: bool) -> (String, String) {
        let mut params = CertificateParams::default();
        let uri = |uri: &&str| SanType::URI((*uri).try_into().unwrap());
        params.subject_alt_names = uris.iter().map(uri).collect();
        params.subject_alt_names.extend(dns.map(|name| SanType::DnsName(name.try_into().unwrap())));
        if !valid {
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn credentials(&self, identity: &str) -> Credentials {
        let dns = identity.parse::<Identity>().unwrap().server_name();
        let (cert, key) = self.issue(&[identity], dns.as_deref(), true);
        Credentials::from_pem(self.pem.clone(), cert, key).unwrap()
    }
}

/// Says who called.
struct Greeter {
    cell: CellName,
}

#[tonic::async_trait]
impl Peer for Greeter {
    async fn plan(&self, _: Request<pb::PassedPlan>) -> Result<Response<pb::PlanResponse>, Status> {
        Err(Status::unimplemented("plan"))
    }

    async fn look_at_reservations(
        &self,
        _: Request<pb::LookAtReservationsRequest>,
    ) -> Result<Response<pb::ListReservationsResponse>, Status> {
        Err(Status::unimplemented("look at reservations"))
    }

    async fn look_at_tasks(
        &self,
        _: Request<pb::LookAtTasksRequest>,
    ) -> Result<Response<pb::LookAtTasksResponse>, Status> {
        Err(Status::unimplemented("look at tasks"))
    }

    async fn hello(
        &self,
        request: Request<pb::HelloRequest>,
    ) -> Result<Response<pb::HelloResponse>, Status> {
        let identity = rpc::peer_identity(&request, &self.cell)?;
        let replica = rpc::require_master(&identity, "Hello")?.0;
        Ok(Response::new(pb::HelloResponse {
            replica,
            note: identity.to_string(),
            ..Default::default()
        }))
    }
    async fn deliver(
        &self,
        _: Request<Streaming<pb::PeerMessage>>,
    ) -> Result<Response<pb::DeliverResponse>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }
    type FetchBlobStream = Streaming<pb::BlobChunk>;

    async fn fetch_blob(
        &self,
        _: Request<pb::FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }
    async fn keep_blobs(
        &self,
        _: Request<pb::KeepBlobsRequest>,
    ) -> Result<Response<pb::KeepBlobsResponse>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }
    type ProposeStream = Streaming<pb::Outcomes>;

    async fn propose(
        &self,
        _: Request<Streaming<pb::Proposals>>,
    ) -> Result<Response<Self::ProposeStream>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }
    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinResponse>, Status> {
        // Holds the answer as long as the caller waits.
        drop(request);
        tokio::time::sleep(Duration::from_secs(60)).await;
        Err(Status::unavailable("too late"))
    }
}

const MASTER_1: &str = "borg://lab/master/1";
const MASTER_1_DNS: &str = "master-1.lab.borg";

/// A server of master 1 of the cell `lab`.
async fn serve(ca: &Ca) -> SocketAddr {
    serve_as(&ca.credentials(MASTER_1)).await
}

async fn serve_as(credentials: &Credentials) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = rpc::peer_server(Greeter { cell: "lab".parse().unwrap() });
    let router = rpc::server(credentials).unwrap().add_service(service);
    tokio::spawn(router.serve_with_incoming(rpc::serve_incoming(listener)));
    address
}

async fn hello(address: SocketAddr, client: &Credentials, name: &str) -> Result<String, Status> {
    let channel = rpc::channel(&address.to_string(), client, name, Timeouts::default()).unwrap();
    let answer = rpc::peer_client(channel).hello(pb::HelloRequest {}).await?;
    Ok(answer.into_inner().note)
}

async fn refused(address: SocketAddr, client: &Credentials, name: &str) -> (Code, String) {
    let status = hello(address, client, name).await.unwrap_err();
    (status.code(), rpc::explain(&status))
}

#[tokio::test]
async fn a_master_of_the_cell_is_known_by_its_certificate() {
    let ca = ca();
    let address = serve(&ca).await;
    let note = hello(address, &ca.credentials("borg://lab/master/2"), MASTER_1_DNS).await.unwrap();
    assert_eq!(note, "borg://lab/master/2");
}

#[tokio::test]
async fn a_borglet_or_a_user_is_not_taken_for_a_master() {
    let ca = ca();
    let address = serve(&ca).await;
    let (code, text) =
        refused(address, &ca.credentials("borg://lab/borglet/m-1"), MASTER_1_DNS).await;
    assert_eq!(code, Code::PermissionDenied);
    assert_eq!(text, "role borglet may not call Hello (borg://lab/borglet/m-1)");
    let (code, _) = refused(address, &ca.credentials("borg://lab/user/admin"), MASTER_1_DNS).await;
    assert_eq!(code, Code::PermissionDenied);
}

#[tokio::test]
async fn a_client_without_a_certificate_is_told_that_one_is_wanted() {
    let ca = ca();
    let address = serve(&ca).await;
    // Not through `rpc`, which cannot be without a certificate.
    let tls = tonic::transport::ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(&ca.pem))
        .domain_name(MASTER_1_DNS);
    let endpoint = tonic::transport::Endpoint::from_shared(format!("https://{address}")).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect_lazy();
    let status = rpc::peer_client(channel).hello(pb::HelloRequest {}).await.unwrap_err();
    assert_eq!(rpc::explain(&status), "the server wants a client certificate and got none");
}

#[tokio::test]
async fn a_server_of_another_ca_of_the_same_name_is_not_trusted() {
    let (ours, theirs) = (ca(), ca());
    let address = serve(&theirs).await;
    let (code, text) =
        refused(address, &ours.credentials("borg://lab/master/2"), MASTER_1_DNS).await;
    assert_eq!(code, Code::Unavailable);
    assert_eq!(
        text,
        "the server's certificate is not of our cell's CA: wrong cell, or wrong credentials directory"
    );
}

/// The client trusts the server here; only the server can refuse.
#[tokio::test]
async fn a_client_of_another_ca_of_the_same_name_is_refused_by_the_server() {
    let (ours, theirs) = (ca(), ca());
    let address = serve(&ours).await;
    let mut client = theirs.credentials("borg://lab/master/2");
    client.ca_pem.clone_from(&ours.pem);
    let (_, text) = refused(address, &client, MASTER_1_DNS).await;
    assert_eq!(text, "the server refuses our certificate: it is not of the server's CA");
}

#[tokio::test]
async fn a_certificate_for_another_cell_is_refused_by_both_names() {
    let ca = ca();
    let address = serve(&ca).await;
    let (code, text) =
        refused(address, &ca.credentials("borg://prod/master/2"), MASTER_1_DNS).await;
    assert_eq!(code, Code::Unauthenticated);
    assert_eq!(text, "certificate for cell prod, this is cell lab");
}

#[tokio::test]
async fn a_server_by_another_name_is_not_talked_to() {
    let ca = ca();
    let address = serve(&ca).await;
    let (_, text) =
        refused(address, &ca.credentials("borg://lab/master/2"), "master-3.lab.borg").await;
    assert_eq!(
        text,
        "the server there is another one than meant: its certificate carries another name"
    );
}

#[tokio::test]
async fn expired_certificates_are_named_on_either_side() {
    let ca = ca();
    let expired = |identity, dns| {
        let (cert, key) = ca.issue(&[identity], dns, false);
        Credentials::from_pem(ca.pem.clone(), cert, key).unwrap()
    };
    let address = serve_as(&expired(MASTER_1, Some(MASTER_1_DNS))).await;
    let (_, text) = refused(address, &ca.credentials("borg://lab/master/2"), MASTER_1_DNS).await;
    assert_eq!(text, "the server's certificate has expired");
    let address = serve(&ca).await;
    let (_, text) = refused(address, &expired("borg://lab/master/2", None), MASTER_1_DNS).await;
    assert_eq!(text, "the server refuses our certificate: it has expired");
}

#[tokio::test]
async fn a_port_where_nothing_listens_is_said_to_be_so() {
    let ca = ca();
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (code, text) = refused(address, &ca.credentials("borg://lab/master/2"), MASTER_1_DNS).await;
    assert_eq!(code, Code::Unavailable);
    assert_eq!(text, "connection refused: nothing listens there");
}

/// A listener that accepts into its backlog and never answers: a stopped process, a dead disk.
#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let ca = ca();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let timeouts = Timeouts { connect: Duration::from_millis(200), ..Timeouts::default() };
    let client = ca.credentials("borg://lab/master/2");
    let address = listener.local_addr().unwrap().to_string();
    let channel = rpc::channel(&address, &client, MASTER_1_DNS, timeouts).unwrap();
    let status = rpc::peer_client(channel).hello(pb::HelloRequest {}).await.unwrap_err();
    assert_eq!(rpc::explain(&status), "no answer before the deadline", "{status:?}");
}

#[tokio::test]
async fn a_call_has_a_deadline() {
    let ca = ca();
    let address = serve(&ca).await.to_string();
    let timeouts = Timeouts { call: Some(Duration::from_millis(300)), ..Timeouts::default() };
    let client = ca.credentials("borg://lab/master/2");
    let channel = rpc::channel(&address, &client, MASTER_1_DNS, timeouts).unwrap();
    let status = rpc::peer_client(channel).join(pb::JoinRequest::default()).await.unwrap_err();
    assert_eq!(rpc::explain(&status), "no answer before the deadline", "{status:?}");
}

/// A connection that goes silent without being closed, as when a machine loses its power: a relay
/// between the two stops carrying bytes. Only pings can find that.
#[tokio::test]
async fn a_connection_that_falls_silent_is_noticed_by_pings() {
    let ca = ca();
    let server = serve(&ca).await;
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = relay.local_addr().unwrap().to_string();
    let carrying = tokio::spawn(async move {
        let (mut from, _) = relay.accept().await.unwrap();
        let mut to = tokio::net::TcpStream::connect(server).await.unwrap();
        let until = tokio::time::sleep(Duration::from_millis(500));
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
            () = until => {}
        }
        (from, to) // open, and nobody reads
    });
    let timeouts = Timeouts { ping: Some(Duration::from_millis(500)), ..Timeouts::default() };
    let channel =
        rpc::channel(&address, &ca.credentials("borg://lab/master/2"), MASTER_1_DNS, timeouts)
            .unwrap();
    let mut client = rpc::peer_client(channel);
    let call = client.join(pb::JoinRequest::default());
    let answer = tokio::time::timeout(Duration::from_secs(4), call).await;
    let status = answer.expect("the call ends long before its answer would come").unwrap_err();
    assert_eq!(rpc::explain(&status), "no answer before the deadline", "{status:?}");
    drop(carrying.await.unwrap());
}

#[tokio::test]
async fn a_broken_connection_is_made_again_by_the_next_call() {
    let ca = ca();
    let credentials = ca.credentials(MASTER_1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = ca.credentials("borg://lab/master/2");
    let channel =
        rpc::channel(&address.to_string(), &client, MASTER_1_DNS, Timeouts::default()).unwrap();
    drop(listener);
    assert!(rpc::peer_client(channel.clone()).hello(pb::HelloRequest {}).await.is_err());
    let listener = TcpListener::bind(address).await.unwrap();
    let service = rpc::peer_server(Greeter { cell: "lab".parse().unwrap() });
    let router = rpc::server(&credentials).unwrap().add_service(service);
    tokio::spawn(router.serve_with_incoming(rpc::serve_incoming(listener)));
    rpc::peer_client(channel).hello(pb::HelloRequest {}).await.unwrap();
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_before_it_is_parsed() {
    let ca = ca();
    let address = serve(&ca).await.to_string();
    let client = ca.credentials("borg://lab/master/2");
    let channel = rpc::channel(&address, &client, MASTER_1_DNS, Timeouts::default()).unwrap();
    let address = "a".repeat(rpc::MAX_MESSAGE_BYTES + 1);
    // A client that bounds nothing itself.
    let mut client = rpc::PeerClient::new(channel).max_encoding_message_size(usize::MAX);
    let status = client.join(pb::JoinRequest { address, token: 1 }).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
}

#[test]
fn credentials_that_cannot_be_used_name_the_file_and_what_to_do() {
    let ca = ca();
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let error = || Credentials::load(dir.path()).unwrap_err();
    let (cert, key) = ca.issue(&[MASTER_1], None, true);

    assert!(error().to_string().contains("ca.pem"), "{}", error());
    put(rpc::CA_FILE, "not a certificate");
    put(rpc::CERT_FILE, &cert);
    put(rpc::KEY_FILE, &key);
    assert!(
        matches!(error(), CredentialsError::NotPem { wanted: "certificate", .. }),
        "{}",
        error()
    );
    put(rpc::CA_FILE, &ca.pem);
    assert_eq!(Credentials::load(dir.path()).unwrap().identity.to_string(), MASTER_1);

    put(rpc::KEY_FILE, &cert);
    assert!(
        matches!(error(), CredentialsError::NotPem { wanted: "private key", .. }),
        "{}",
        error()
    );
    put(rpc::KEY_FILE, &KeyPair::generate().unwrap().serialize_pem());
    assert!(matches!(error(), CredentialsError::Mismatch { .. }), "{}", error());
    put(rpc::KEY_FILE, &key);

    for (uris, wanted) in [
        (vec![], "no borg:// name"),
        (vec![MASTER_1, "borg://lab/user/admin"], "2 borg:// names"),
        (vec!["borg://lab/king/1"], "is not borg://CELL/master/N"),
    ] {
        let (cert, _) = ca.issue(&uris, None, true);
        put(rpc::CERT_FILE, &cert);
        assert!(error().to_string().contains(wanted), "{}", error());
    }
}

/// Names may hold characters that host names should not: each must still make a server name.
#[tokio::test]
async fn every_kind_of_machine_name_can_be_connected_to() {
    let ca = ca();
    for name in ["a", "9", "a_b", "a-b", "a--b", "m_", &"x".repeat(63)] {
        let identity = format!("borg://lab/borglet/{name}");
        let address = serve_as(&ca.credentials(&identity)).await;
        let server_name = identity.parse::<Identity>().unwrap().server_name().unwrap();
        let answer = hello(address, &ca.credentials("borg://lab/master/2"), &server_name).await;
        assert!(answer.is_ok(), "{name}: {answer:?}");
    }
}

#[test]
fn keys_are_never_printed() {
    let printed = format!("{:?}", ca().credentials(MASTER_1));
    assert!(!printed.contains("PRIVATE"), "{printed}");
}

#[test]
fn the_descriptors_hold_all_three_services() {
    let text = String::from_utf8_lossy(rpc::FILE_DESCRIPTOR_SET);
    for service in ["Borgmaster", "Borglet", "Peer"] {
        assert!(text.contains(service), "{service}");
    }
}
