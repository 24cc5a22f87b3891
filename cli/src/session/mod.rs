//! Sessions with a task, as a client sees them: messages out, messages in, and how it ended.
//!
//! Input and output are carried by two tasks that do not wait for each other, or a command that writes much
//! before it reads would stop for ever.

mod terminal;

pub(crate) use terminal::{Raw, watch_window, window};

use crate::client::{Client, request_id};
use crate::exit::{Code, Failure, Success};
use borg_proto::rpc::BorgmasterClient;
use borg_proto::wire::{MAX_SESSION_DATA_BYTES, pb};
use pb::session_input::Kind as In;
use pb::session_output::Kind as Out;
use pb::session_start::What;
use std::io::{self, Read, Write};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

/// Messages on their way out; then whoever sends waits.
const MESSAGES: usize = 4;

/// A session that a master has accepted.
#[derive(Debug)]
pub(crate) struct Session {
    /// Names it in errors.
    what: String,
    sender: Sender,
    answers: Streaming<pb::SessionOutput>,
}

/// The way into a session. When all are gone the session has no more input.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    messages: mpsc::Sender<pb::SessionInput>,
    /// Bytes of data that may be sent. Closed when the session is over.
    room: Arc<Semaphore>,
}

impl Sender {
    /// Sends a message; false when the session is over. Data waits until what was sent before it is read;
    /// nothing else does, so that a signal comes through to a program that does not read.
    pub(crate) async fn send(&self, kind: In) -> bool {
        if let In::Data(data) = &kind {
            let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
            match self.room.acquire_many(bytes).await {
                Ok(room) => room.forget(),
                Err(_) => return false,
            }
        }
        self.messages.send(pb::SessionInput { kind: Some(kind) }).await.is_ok()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.sender.room.close();
    }
}

/// What a session says.
#[derive(Debug)]
pub(crate) enum Said {
    /// To standard output.
    Stdout(Vec<u8>),
    /// Nothing more comes to standard output.
    StdoutEnd,
    /// To standard error.
    Stderr(Vec<u8>),
    /// It is over.
    Ended(Ended),
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Ended {
    /// The exit code as shells have it: 128 and the signal's number when that ended it.
    pub(crate) fn success(self) -> Success {
        let code = match self {
            Self::Code(code) => u8::try_from(code).unwrap_or(u8::MAX),
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        };
        Success::Exit(code)
    }
}

impl Client {
    /// Asks for a session with a task. `what` names it in errors.
    ///
    /// # Errors
    /// The refusal, as far as the master itself can say; the rest comes with the first message.
    pub(crate) async fn session(
        &mut self,
        what: String,
        task: String,
        errand: What,
    ) -> Result<Session, Failure> {
        // What does something is not done twice when a master does not answer and the next one is asked.
        let once = match errand {
            What::Exec(_) | What::CopyIn(_) => request_id(),
            What::Attach(_) | What::CopyOut(_) | What::Forward(_) => String::new(),
        };
        let start = pb::SessionStart { task, once, what: Some(errand), counts_input: true };
        let make = async |mut master: BorgmasterClient<Channel>,
                          request: Request<pb::SessionStart>| {
            let (sender, messages) = mpsc::channel(MESSAGES);
            let start = pb::SessionInput { kind: Some(In::Start(request.into_inner())) };
            // The receiver is right here and the channel is empty.
            drop(sender.try_send(start));
            let answers = master.open_session(ReceiverStream::new(messages)).await?;
            Ok(answers.map(|answers| (sender, answers)))
        };
        let (messages, answers) = self.open(&what, start, make).await?;
        let sender = Sender { messages, room: Arc::new(Semaphore::new(0)) };
        let mut session = Session { what, sender, answers };
        // It has begun when it says so, or says why not.
        match session.message().await? {
            Some(Out::Started(started)) => {
                // A borglet of an earlier version does not count.
                let window = match started.input_window {
                    0 => Semaphore::MAX_PERMITS,
                    window => window as usize,
                };
                session.sender.room.add_permits(window);
                Ok(session)
            }
            Some(_) | None => {
                Err(Failure::new(Code::Internal, "it did not begin").context(&session.what))
            }
        }
    }
}

impl Session {
    pub(crate) fn sender(&self) -> Sender {
        self.sender.clone()
    }

    async fn message(&mut self) -> Result<Option<Out>, Failure> {
        let message = self.answers.message().await;
        let message = message.map_err(|status| Failure::from(status).context(&self.what))?;
        Ok(message.and_then(|message| message.kind))
    }

    /// What it says next.
    ///
    /// # Errors
    /// When it breaks off.
    pub(crate) async fn next(&mut self) -> Result<Said, Failure> {
        loop {
            match self.message().await? {
                Some(Out::Started(_)) => {}
                Some(Out::InputTaken(bytes)) => {
                    let most = Semaphore::MAX_PERMITS - self.sender.room.available_permits();
                    self.sender.room.add_permits(most.min(bytes as usize));
                }
                Some(Out::Stdout(data)) => return Ok(Said::Stdout(data)),
                Some(Out::StdoutEnd(_)) => return Ok(Said::StdoutEnd),
                Some(Out::Stderr(data)) => return Ok(Said::Stderr(data)),
                Some(Out::Ended(ended)) => {
                    use pb::session_output::ended::How;
                    return Ok(Said::Ended(match ended.how {
                        Some(How::Code(code)) => Ended::Code(code),
                        Some(How::Signal(signal)) => Ended::Signal(signal),
                        None => Ended::Signal(9),
                    }));
                }
                None => {
                    let broken = Failure::new(Code::Unavailable, "the connection broke");
                    return Err(broken.context(&self.what));
                }
            }
        }
    }

    /// Prints what it says until it is over.
    ///
    /// # Errors
    /// When it breaks off, or nobody reads what is printed.
    pub(crate) async fn print(mut self) -> Result<Ended, Failure> {
        loop {
            match self.next().await? {
                Said::Stdout(data) => {
                    let mut out = io::stdout().lock();
                    out.write_all(&data)?;
                    out.flush()?;
                }
                Said::StdoutEnd => {}
                Said::Stderr(data) => io::stderr().lock().write_all(&data)?,
                Said::Ended(ended) => return Ok(ended),
            }
        }
    }
}

/// Reads something that blocks on a thread of its own, which nobody waits for: standard input may never end.
/// The end of the channel is the end of the input.
pub(crate) fn read_aside(
    mut from: impl Read + Send + 'static,
) -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (pieces, read) = mpsc::channel(MESSAGES);
    std::thread::Builder::new().name("input".into()).spawn(move || {
        let mut buffer = vec![0; MAX_SESSION_DATA_BYTES / 2];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    if pieces.blocking_send(buffer[..length].to_vec()).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    })?;
    Ok(read)
}

/// Sends pieces into a session, then that there are no more.
pub(crate) async fn feed(mut pieces: mpsc::Receiver<Vec<u8>>, to: Sender) {
    while let Some(piece) = pieces.recv().await {
        if !to.send(In::Data(piece)).await {
            return;
        }
    }
    to.send(In::End(true)).await;
}
