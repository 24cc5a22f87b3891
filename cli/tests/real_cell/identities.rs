//! Who may do what: certificates of the wrong cell, of nobody, and of somebody else.

use crate::cell::{Cell, borgctl, issue, job, request, run};
use borg_proto::identity::any_master_name;
use borg_proto::poll::Fence;
use borg_proto::rpc::{
    self, CA_FILE, Credentials, Timeouts, borglet_client, borgmaster_client, channel, peer_client,
};
use borg_proto::wire::pb;
use std::fs;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

#[track_caller]
fn denied(answer: Result<impl std::fmt::Debug, Status>, part: &str) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert!(status.message().contains(part), "{status:?}");
}

/// Nobody is let in, and why not is said. In TLS 1.3 a client has done its part before the server
/// looks at its certificate, so that now and then the connection is gone before the reason is read.
async fn refused_at_the_door(channel: Channel, why: &str) {
    let mut last = String::new();
    for _ in 0..50 {
        let mut client = borgmaster_client(channel.clone());
        let refused = client.list_jobs(pb::ListJobsRequest::default()).await.unwrap_err();
        last = rpc::explain(&refused);
        if last.contains(why) {
            return;
        }
    }
    panic!("{last} instead of {why}");
}

fn polls(cell: &Cell) -> pb::PollRequest {
    let fence = Fence { epoch: 9, term: 99, session: 9, generation: 9 };
    pb::PollRequest {
        cell: cell.name.clone(),
        machine: "m-1".into(),
        fence: Some((&fence).into()),
        target: Some(pb::Target::default()),
        seen: None,
        hold_ms: 0,
        lease: None,
        digest: 0,
        sources: Vec::new(),
    }
}

#[tokio::test]
async fn credentials_of_another_ca_or_another_cell_open_nothing() {
    let cell = Cell::shared();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let address = &cell.record().masters[0].address;
    // Another CA, made for a cell of the same name; and one of another cell.
    for name in [cell.name.as_str(), "other"] {
        let ca = path(&format!("ca-{name}"));
        run(borgctl().args(["cert", "init", name, "--ca"]).arg(&ca), "").ok();
        issue(&ca, "user", "admin", &path(name));
        let said =
            run(borgctl().args(["status", "--master", address, "--creds"]).arg(path(name)), "")
                .failed(6);
        assert!(said.contains("not of our cell's CA"), "{said}");
        // Even a client that does not look whom it talks to is not let in.
        let credentials = Credentials::load(&path(name)).unwrap();
        let trusting = Credentials {
            ca_pem: fs::read_to_string(cell.layout().ca().join(CA_FILE)).unwrap(),
            ..credentials
        };
        refused_at_the_door(cell.channel(0, &trusting), "refuses our certificate").await;
    }
    // Within a cell's directory the cell's name is compared before anything is sent.
    let other = path("other");
    let said = cell.borgctl(&["status", "--creds", other.to_str().unwrap()]).failed(6);
    assert!(said.contains("are of cell other, not e2e-"), "{said}");
    // Signed by the cell's own CA, but naming another cell.
    let ca = path("our-ca");
    fs::create_dir(&ca).unwrap();
    for file in fs::read_dir(cell.layout().ca()).unwrap().flatten() {
        fs::copy(file.path(), ca.join(file.file_name())).unwrap();
    }
    fs::write(ca.join("cell"), "other").unwrap();
    issue(&ca, "user", "admin", &path("named-other"));
    let credentials = Credentials::load(&path("named-other")).unwrap();
    let mut client = cell.client(0, &credentials);
    let refused = client.list_jobs(pb::ListJobsRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    assert!(refused.message().contains("certificate for cell other"), "{refused:?}");
}

#[tokio::test]
async fn without_a_client_certificate_no_server_of_the_cell_answers() {
    let cell = Cell::shared();
    let record = cell.record();
    let ca = fs::read_to_string(cell.layout().ca().join(CA_FILE)).unwrap();
    let masters = any_master_name(&record.cell);
    let borglet = format!("m-1.borglet.{}.borg", record.cell);
    for (address, name) in
        [(&record.masters[0].address, masters), (&record.borglets[0].address, borglet)]
    {
        let tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ca)).domain_name(name);
        let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
        let channel = endpoint.tls_config(tls).unwrap().connect_lazy();
        let why = "the server wants a client certificate and got none";
        refused_at_the_door(channel.clone(), why).await;
        borglet_client(channel).poll(polls(cell)).await.unwrap_err();
    }
}

#[tokio::test]
async fn each_role_may_only_make_its_own_calls() {
    let cell = Cell::shared();
    let user = cell.credentials("user", "admin");
    let borglet = cell.credentials("borglet", "m-9");
    let master = cell.credentials("master", "1");
    // A machine and a master are no users.
    for (credentials, role) in [(&borglet, "borglet"), (&master, "master")] {
        let mut client = cell.client(0, credentials);
        denied(client.submit_job(request(job("never", "batch", "true"))).await, role);
        denied(client.list_jobs(pb::ListJobsRequest::default()).await, role);
        denied(client.watch(pb::WatchRequest::default()).await, role);
    }
    // Users and borglets do not talk to borglets, not even the cell's own.
    for credentials in [&user, &borglet] {
        let mut client = borglet_client(cell.borglet_channel(0, credentials));
        denied(client.poll(polls(cell)).await, "may not call Poll");
    }
    // Nor as masters among masters.
    let stranger = cell.credentials("master", "9");
    for credentials in [&user, &borglet, &stranger] {
        let mut client = peer_client(cell.channel(0, credentials));
        let messages = tokio_stream::iter([pb::PeerMessage { from: 1, to: 1, body: None }]);
        denied(client.deliver(messages).await, "not one of the masters");
        denied(client.hello(pb::HelloRequest {}).await, "not one of the masters");
        let proposals = tokio_stream::iter([pb::Proposals::default()]);
        denied(client.propose(proposals).await, "not one of the masters");
    }
    // A master speaks for itself alone.
    let mut client = peer_client(cell.channel(1, &master));
    let messages = tokio_stream::iter([pb::PeerMessage { from: 3, to: 2, body: None }]);
    denied(client.deliver(messages).await, "came from master 1");
}

#[tokio::test]
async fn users_kill_and_read_only_their_own_jobs_and_only_admin_changes_machines() {
    let cell = Cell::shared();
    let (ann, bob) = (cell.credentials("user", "ann"), cell.credentials("user", "bob"));
    let mut anns = cell.client(1, &ann);
    let mut bobs = cell.client(2, &bob);
    anns.submit_job(request(job("own", "service", "echo secret; exec sleep 1000"))).await.unwrap();
    cell.until_up("ann/own", 1);
    let kill =
        |id: &str| pb::KillRequest { job: "ann/own".into(), tasks: vec![], request_id: id.into() };
    denied(bobs.kill(kill("a")).await, "ann/own");
    let logs = pb::ReadLogsRequest {
        task: "ann/own/0".into(),
        stream: pb::LogStream::Stdout.into(),
        ..Default::default()
    };
    denied(bobs.read_logs(logs.clone()).await, "neither the owner");
    denied(bobs.save_checkpoint(pb::SaveCheckpointRequest::default()).await, "needs admin");
    // Everybody sees what runs.
    bobs.get_job(pb::GetJobRequest { job: "ann/own".into() }).await.unwrap();
    let add = pb::AddMachineRequest {
        name: "m-9".into(),
        address: "127.0.0.1:1".into(),
        request_id: "b".into(),
    };
    denied(bobs.add_machine(add).await, "admin");
    let remove = pb::RemoveMachineRequest { name: "m-1".into(), request_id: "c".into() };
    denied(bobs.remove_machine(remove).await, "admin");
    assert_eq!(cell.json(&["machines"]).as_array().unwrap().len(), 2);
    // As a program: one's own name is not needed, another's does not help.
    let creds = cell.credentials_dir("user", "bob");
    let said = cell.borgctl(&["kill", "ann/own", "--creds", creds.to_str().unwrap()]).failed(6);
    assert!(said.contains("ann/own"), "{said}");
    let killed = anns.kill(kill("a")).await.unwrap().into_inner();
    assert_eq!(killed.killed, 1);
}

#[tokio::test]
async fn a_master_that_is_another_than_meant_is_not_talked_to() {
    let cell = Cell::shared();
    let admin = cell.credentials("user", "admin");
    let address = &cell.record().masters[0].address;
    let name = format!("master-2.{}.borg", cell.name);
    let channel = channel(address, &admin, &name, Timeouts::default()).unwrap();
    let refused =
        borgmaster_client(channel).list_jobs(pb::ListJobsRequest::default()).await.unwrap_err();
    let why = rpc::explain(&refused);
    assert!(why.contains("carries another name"), "{why}");
}
