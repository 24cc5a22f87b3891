//! A package on its way to a master.
//!
//! One master takes all of it: what it has of a blob is asked first, so an upload that was cut off goes on
//! where it ended. When that master does not answer, another one is tried, which may have some of it too.

use super::Prepared;
use crate::client::Client;
use crate::exit::{Code, Failure};
use borg_proto::package::{BLOB_CHUNK_BYTES, Layer, Package};
use borg_proto::rpc::BorgmasterClient;
use borg_proto::wire::pb;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// How often each master is tried.
const ROUNDS: usize = 3;
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(300);
/// How long the masters may take to copy a package to a majority of them.
const PUT_WITHIN: Duration = Duration::from_secs(900);
/// How often blobs that are there are asked for while others are sent. Ten minutes: our choice; masters keep
/// them for an hour.
const ASK_FOR_EVERY: Duration = Duration::from_secs(600);
/// Pieces that wait for the connection.
const PIECES: usize = 4;

/// Sends a package's blobs and gives it its name. Says what its digest is, and how many bytes were sent.
///
/// # Errors
/// The refusal, or why no master took it.
pub async fn put(
    client: &mut Client,
    package: &Package,
    prepared: &Prepared,
) -> Result<(pb::PutPackageResponse, u64), Failure> {
    let request =
        pb::PutPackageRequest { package: Some(package.into()), request_id: client.request_id() };
    let mut sent = 0;
    let mut last = None;
    for _ in 0..client.masters() * ROUNDS {
        match put_once(client.one(), &request, prepared, &mut sent).await {
            Ok(answer) => return Ok((answer, sent)),
            Err(failure) if failure.code == Code::Unavailable => last = Some(failure),
            Err(failure) => return Err(failure.context("package put")),
        }
        client.pass_over();
        tokio::time::sleep(PAUSE).await;
    }
    let last = last.unwrap_or_else(|| Failure::new(Code::Unavailable, "there are no masters"));
    Err(last.context("package put"))
}

async fn put_once(
    mut master: BorgmasterClient<Channel>,
    request: &pb::PutPackageRequest,
    prepared: &Prepared,
    sent: &mut u64,
) -> Result<pb::PutPackageResponse, Failure> {
    let digests = prepared.layers.iter().map(|(layer, _)| layer.digest.0.to_vec()).collect();
    let all = pb::FindBlobsRequest { digests };
    let found = master.find_blobs(all.clone()).await?.into_inner();
    for ((layer, file), found) in prepared.layers.iter().zip(found.blobs) {
        if !found.held {
            let file = file.try_clone()?;
            let (mut sending, mut keeping) = (master.clone(), master.clone());
            // Asked for, a blob that no package names yet is kept for another while.
            let keep = async {
                loop {
                    tokio::time::sleep(ASK_FOR_EVERY).await;
                    drop(keeping.find_blobs(all.clone()).await);
                }
            };
            tokio::select! {
                sent = upload(&mut sending, *layer, file, found.have) => sent?,
                () = keep => {}
            }
            *sent += layer.bytes.saturating_sub(found.have);
        }
    }
    let mut message = tonic::Request::new(request.clone());
    message.set_timeout(PUT_WITHIN);
    Ok(master.put_package(message).await?.into_inner())
}

async fn upload(
    master: &mut BorgmasterClient<Channel>,
    layer: Layer,
    file: File,
    offset: u64,
) -> Result<(), Failure> {
    let (chunks, stream) = mpsc::channel(PIECES);
    let reading = tokio::task::spawn_blocking(move || send(file, layer, offset, &chunks));
    let answer = master.upload_blob(ReceiverStream::new(stream)).await;
    let read = reading.await.map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
    // Else what the master missed would be told in its place.
    read?;
    match answer {
        Ok(_) => Ok(()),
        // Somebody else sent some of it meanwhile: what is there is asked again.
        Err(status) if status.code() == tonic::Code::OutOfRange => {
            Err(Failure::new(Code::Unavailable, status.message()))
        }
        Err(status) => Err(status.into()),
    }
}

fn send(
    mut file: File,
    layer: Layer,
    offset: u64,
    chunks: &mpsc::Sender<pb::BlobChunk>,
) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    let (mut digest, mut at) = (layer.digest.0.to_vec(), offset);
    loop {
        let mut data = vec![0; BLOB_CHUNK_BYTES];
        let read = file.read(&mut data)?;
        data.truncate(read);
        let first = !digest.is_empty();
        if read == 0 && !first {
            return Ok(());
        }
        let (digest, bytes) = (std::mem::take(&mut digest), layer.bytes);
        let chunk = pb::BlobChunk { digest, offset: at, data, bytes };
        at = 0;
        // Fails when the master does not listen any more, and says why in its answer.
        if chunks.blocking_send(chunk).is_err() {
            return Ok(());
        }
    }
}
