//! Sessions of people with tasks: from a master's stream to a process in the container, and back.
//!
//! `executor` puts the process inside and `shim::enter` holds it; here its input, output and signals are
//! carried, its end is told, and who has how many sessions is bounded. Who may have one is the master's to
//! say; here every session leaves a line in the log with the user's name.
//!
//! Invariant: a session holds no more than its messages on their way, whatever the ends do: who does not read
//! makes the other end wait. When the stream, the task or the errand ends, so do the other two. What a client
//! means to do once is begun once (`once`).

mod once;

use crate::clock;
use crate::container::{ContainerId, Outcome};
use crate::driver::Core;
use crate::executor::{ActError, Entered, Errand, Signal, Stdio};
use crate::logs::Stream as Output;
use crate::shim::enter::Word;
use crate::sys;
use crate::tasks::{Tasks, blocking};
use borg_proto::names::shorten;
use borg_proto::poll::TaskStatus;
use borg_proto::rpc;
use borg_proto::slots::{Slot, Slots};
use borg_proto::wire::{MAX_SESSION_DATA_BYTES, Session, Window, WireError, pb};
use borg_proto::{IncarnationId, MachineName, ReplicaId, TaskName, UserName, in_full};
use once::Begun;
use pb::session_input::Kind as In;
use pb::session_output::Kind as Out;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{
    AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines, ReadHalf, SimplexStream, Take,
    WriteHalf,
};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf, pipe};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Sessions on one machine at once: ours. A forwarded connection is one. A user may have half of those that are
/// free.
const SESSIONS: usize = 64;
/// Messages that wait for a slow reader; then whoever writes waits.
const MESSAGES: usize = 4;
/// Bytes of input that wait for a program that does not read: ours. Signals do not wait behind them.
const INPUT_WINDOW: u32 = 256 << 10;
/// Bytes of output in one message.
const PIECE: usize = 32 << 10;
/// How long a client may take to say what the session is for.
const SAY_WITHIN: Duration = Duration::from_secs(10);
/// How long a process may take to arrive in its container.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);
/// How long what a session made may take to be gone once it was told to. Longer than the watcher tries.
const END_WITHIN: Duration = Duration::from_secs(8);
/// How long a client may take for the last output of what is over. 5 minutes: ours, for a person who reads it page
/// by page.
const GOODBYE_WITHIN: Duration = Duration::from_secs(300);
/// How often the output of an attached task is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Longest line on a control socket, and of all of them together: a refusal carries a path at most.
const WORDS_BYTES: u64 = 64 << 10;
/// The signal of what the kernel killed.
const KILLED: i32 = 9;

type Outputs = mpsc::Sender<Result<pb::SessionOutput, Status>>;

/// The sessions of a machine. Clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    machine: MachineName,
    slots: Slots,
    begun: Begun,
}

/// What a session is about.
#[derive(Debug)]
struct Asked {
    id: IncarnationId,
    name: TaskName,
    user: UserName,
    what: Session,
    port: u16,
    /// What it is begun under once, if that matters.
    once: String,
    /// Whether the client counts what was taken of its input.
    counts_input: bool,
}

impl TryFrom<pb::TaskSessionStart> for Asked {
    type Error = WireError;
    fn try_from(start: pb::TaskSessionStart) -> Result<Self, WireError> {
        let missing =
            |field: &str| WireError::new(field, "nothing", "is given, but it is required");
        let asked = start.start.ok_or_else(|| missing("start"))?;
        let once = asked.once.clone();
        let counts_input = asked.counts_input;
        let what = Session::try_from(asked);
        let within = |field: &'static str| move |error: WireError| error.within(field);
        let named = |field| move |error| within(field)(WireError::from(error));
        let id = IncarnationId::try_from(start.id.ok_or_else(|| missing("id"))?);
        Ok(Self {
            id: id.map_err(within("id"))?,
            name: start.name.parse().map_err(named("name"))?,
            user: start.user.parse().map_err(named("user"))?,
            what: what.map_err(within("start"))?,
            port: u16::try_from(start.port)
                .map_err(|_| WireError::new("port", start.port, "is no port"))?,
            once,
            counts_input,
        })
    }
}

impl Sessions {
    pub(crate) fn new(machine: MachineName) -> Self {
        Self { machine, slots: Slots::new(SESSIONS), begun: Begun::default() }
    }

    /// Begins a session. What is wrong with it is said at once; the answer is its output.
    pub(crate) async fn open(
        &self,
        master: ReplicaId,
        core: &Core,
        tasks: &Tasks,
        mut input: Streaming<pb::TaskSessionInput>,
    ) -> Result<ReceiverStream<Result<pb::SessionOutput, Status>>, Status> {
        let first = tokio::time::timeout(SAY_WITHIN, input.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("start: nothing was said"))??;
        let Some(pb::task_session_input::Kind::Start(start)) = first.and_then(|first| first.kind)
        else {
            return Err(Status::invalid_argument("kind: the first message is not a start"));
        };
        let asked = Asked::try_from(start).map_err(|error| rpc::status_of(&error))?;
        let slot = self.slots.take(&asked.user).map_err(|none| {
            let machine = &self.machine;
            Status::resource_exhausted(format!("sessions on machine {machine}: {none}: end some"))
        })?;
        let Some(container) = tasks.running_container(asked.id) else {
            return Err(not_running(&asked, core.status(asked.id).await.as_ref()));
        };
        if !self.begun.begin(&asked.user, &asked.once) {
            return Err(Status::already_exists(
                "it was begun already, by way of a master that did not answer: it is not begun again, and \
                 ended when that one was given up",
            ));
        }
        let (out, outputs) = mpsc::channel(MESSAGES);
        let audit = Audit::begin(&asked, master);
        let begun = pb::session_output::Started {
            machine: self.machine.to_string(),
            incarnation: asked.id.number,
            input_window: if asked.counts_input { INPUT_WINDOW } else { 0 },
        };
        let counts_input = asked.counts_input;
        let tasks = tasks.clone();
        let carrier = Carrier { container, tasks, out, input, counts_input, _slot: slot };
        let Some(errand) = errand(&asked) else {
            send(&carrier.out, Out::Started(begun)).await;
            tokio::spawn(async move { audit.end(carrier.attach().await) });
            return Ok(ReceiverStream::new(outputs));
        };
        let (entered, words) = carrier.enter(errand, &asked.what).await.inspect_err(|status| {
            tracing::info!(why = status.message(), "session refused");
        })?;
        send(&carrier.out, Out::Started(begun)).await;
        tokio::spawn(async move { audit.end(carrier.carry(entered, words).await) });
        Ok(ReceiverStream::new(outputs))
    }
}

fn errand(asked: &Asked) -> Option<Errand> {
    Some(match &asked.what {
        Session::Attach => return None,
        Session::Exec { command, terminal, .. } => Errand::Run {
            argv: command.clone(),
            terminal: terminal.as_ref().map(|terminal| terminal.kind.clone()),
        },
        Session::CopyIn { path } => Errand::CopyIn { path: path.into(), used_bytes: 0 },
        Session::CopyOut { path } => Errand::CopyOut { path: path.into() },
        Session::Forward { .. } => Errand::Connect { port: asked.port },
    })
}

fn not_running(asked: &Asked, status: Option<&TaskStatus>) -> Status {
    let Asked { name, id, .. } = asked;
    let how = match status {
        None => "is not on this machine any more".to_owned(),
        Some(TaskStatus::Fetching { .. }) => "waits for its packages".to_owned(),
        Some(TaskStatus::Starting) => "is still being started".to_owned(),
        Some(TaskStatus::Up { .. }) => "has ended just now".to_owned(),
        Some(TaskStatus::Stopping) => "is being stopped".to_owned(),
        Some(TaskStatus::BackOff { until }) => {
            format!("failed and is started again in {} ms", until.since(clock::now()).0)
        }
        Some(TaskStatus::Ended { at, failure }) => {
            let ago = clock::now().since(*at).0 / 1000;
            let how = failure.as_ref().map_or("exit code 0".to_owned(), ToString::to_string);
            format!("ended {ago} s ago: {how}")
        }
    };
    Status::failed_precondition(format!("{name} incarnation {} {how}", id.number))
}

/// The lines in the log that say who did what where.
#[derive(Debug)]
struct Audit {
    since: clock::Stopwatch,
    task: TaskName,
    user: UserName,
}

impl Audit {
    fn begin(asked: &Asked, master: ReplicaId) -> Self {
        let what = match &asked.what {
            Session::Exec { command, .. } => format!("exec {:?}", shorten(&command.join(" "))),
            Session::Attach => "attach".to_owned(),
            Session::CopyIn { path } => format!("copy in {:?}", shorten(path)),
            Session::CopyOut { path } => format!("copy out {:?}", shorten(path)),
            Session::Forward { .. } => format!("forward {}", asked.port),
        };
        tracing::info!(user = %asked.user, task = %asked.name, incarnation = asked.id.number,
            %master, what, "session begins");
        Self { since: clock::stopwatch(), task: asked.name.clone(), user: asked.user.clone() }
    }

    fn end(self, how: End) {
        tracing::info!(user = %self.user, task = %self.task, ms = self.since.millis(), ?how,
            "session ends");
    }
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Whoever had it went away.
    Left,
}

impl From<End> for pb::session_output::Ended {
    fn from(end: End) -> Self {
        use pb::session_output::ended::How;
        let how = match end {
            End::Code(code) => How::Code(code),
            End::Signal(signal) => How::Signal(signal),
            End::Left => How::Signal(KILLED),
        };
        Self { how: Some(how) }
    }
}

/// Sends a message; when nobody listens any more that is noticed elsewhere.
async fn send(out: &Outputs, kind: Out) -> bool {
    out.send(Ok(pb::SessionOutput { kind: Some(kind) })).await.is_ok()
}

/// What a control socket says.
type Words = Lines<BufReader<Take<OwnedReadHalf>>>;

/// A session's process, and the ways to it.
struct Ways {
    control: OwnedWriteHalf,
    sink: Sink,
    /// To be written to standard output and standard error.
    sources: [Option<Source>; 2],
}

/// Where a session's input goes.
enum Sink {
    Nowhere,
    Pipe(pipe::Sender),
    Terminal(Arc<AsyncFd<OwnedFd>>),
}

/// Where a session's output comes from.
enum Source {
    Pipe(pipe::Receiver),
    Terminal(Arc<AsyncFd<OwnedFd>>),
}

/// Carries one session.
struct Carrier {
    container: ContainerId,
    tasks: Tasks,
    out: Outputs,
    input: Streaming<pb::TaskSessionInput>,
    counts_input: bool,
    _slot: Slot,
}

impl Carrier {
    /// Puts the errand's process into the container and waits until it is under way.
    async fn enter(&self, errand: Errand, what: &Session) -> Result<(Ways, Words), Status> {
        let input = match what {
            Session::Exec { input, .. } => *input,
            Session::CopyIn { .. } | Session::Forward { .. } => true,
            Session::CopyOut { .. } | Session::Attach => false,
        };
        let (executor, container) = (self.tasks.executor().clone(), self.container.clone());
        let entered = blocking(move || executor.enter(&container, &errand, input)).await;
        let entered = entered.map_err(|error| act_status(&error))?;
        let failed = |error: io::Error| Status::internal(format!("carry the session: {error}"));
        let (ways, control) = ways(entered).map_err(failed)?;
        if let (Session::Exec { terminal: Some(terminal), .. }, Sink::Terminal(fd)) =
            (what, &ways.sink)
        {
            resize(fd, terminal.window);
        }
        let mut words = BufReader::new(control.take(WORDS_BYTES)).lines();
        match tokio::time::timeout(BEGIN_WITHIN, next_word(&mut words)).await {
            Ok(Some(Word::Begun)) => Ok((ways, words)),
            Ok(Some(Word::Refused(error))) if error.is_fault_of_task() => {
                Err(Status::invalid_argument(format!("command: {error}")))
            }
            Ok(Some(Word::Refused(error))) => Err(Status::failed_precondition(error.to_string())),
            Ok(Some(Word::Exited(_) | Word::Signalled(_)) | None) => {
                Err(Status::failed_precondition("the task ended, or has no room for a process"))
            }
            Err(_) => Err(Status::unavailable("the session's process did not begin in time")),
        }
    }

    /// Carries input, output and signals until the end, and tells it.
    async fn carry(mut self, ways: Ways, mut words: Words) -> End {
        let Ways { mut control, sink, sources } = ways;
        let mut pumps = JoinSet::new();
        let [stdout, stderr] = sources;
        if let Some(source) = stdout {
            let out = self.out.clone();
            pumps.spawn(async move {
                pump(source, &out, Out::Stdout).await;
                send(&out, Out::StdoutEnd(true)).await;
            });
        }
        if let Some(source) = stderr {
            let out = self.out.clone();
            pumps.spawn(async move { pump(source, &out, Out::Stderr).await });
        }
        let ended = async {
            // Only where the task has no process table of its own does its end not end the session.
            match self.tasks.executor().wait(&self.container).await {
                Ok(_) | Err(_) => {}
            }
        };
        let terminal = sink.terminal();
        let acks = self.counts_input.then_some(&self.out);
        // By way of a bounded buffer, so that signals do not wait behind what nobody reads.
        let (held, hold) = tokio::io::simplex(INPUT_WINDOW as usize);
        let said = tokio::select! {
            word = next_word(&mut words) => Some(word),
            () = self.out.closed() => None,
            () = take_input(&mut self.input, hold, terminal.as_deref(), &mut control) => None,
            () = pour(held, sink, acks) => None,
            () = ended => Some(None),
        };
        // This kills whatever is left.
        drop(control);
        let word = match said {
            Some(Some(word)) => Some(word),
            Some(None) | None => {
                let last = tokio::time::timeout(END_WITHIN, next_word(&mut words)).await;
                last.unwrap_or_else(|_| {
                    tracing::error!(container = %self.container, "a session's processes do not end");
                    None
                })
            }
        };
        if said_goodbye(&self.out, pumps).await {
            let end = match word {
                Some(Word::Exited(code)) => End::Code(code),
                Some(Word::Signalled(signal)) => End::Signal(signal),
                // The kernel ended it with its task.
                Some(Word::Begun | Word::Refused(_)) | None => End::Signal(KILLED),
            };
            if send(&self.out, Out::Ended(end.into())).await {
                return end;
            }
        }
        End::Left
    }

    /// Follows the output of the task's present run, and passes signals to its first process.
    async fn attach(mut self) -> End {
        let mut places = [(Output::Stdout, 0), (Output::Stderr, 0)];
        for (output, offset) in &mut places {
            let end = self.tasks.read_log(self.container.clone(), *output, u64::MAX, 0).await;
            *offset = end.map_or(0, |chunk| chunk.end);
        }
        let executor = self.tasks.executor().clone();
        let container = self.container.clone();
        let ended = async move { executor.wait(&container).await };
        tokio::pin!(ended);
        let mut record = None;
        let mut deaf = false;
        loop {
            for (output, offset) in &mut places {
                if !self.send_new(*output, offset).await {
                    return End::Left;
                }
            }
            if let Some(end) = record {
                let told = send(&self.out, Out::Ended(pb::session_output::Ended::from(end))).await;
                return if told { end } else { End::Left };
            }
            tokio::select! {
                done = &mut ended => record = Some(done.map_or(End::Signal(KILLED), |record| end_of(&record.outcome))),
                () = self.out.closed() => return End::Left,
                message = self.input.message(), if !deaf => match message {
                    Ok(Some(message)) => self.signal_task(&message),
                    Ok(None) => deaf = true,
                    Err(_) => return End::Left,
                },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Sends what a stream has that is new; false when nobody listens.
    async fn send_new(&self, output: Output, offset: &mut u64) -> bool {
        loop {
            let chunk = self.tasks.read_log(self.container.clone(), output, *offset, PIECE).await;
            let Ok(chunk) = chunk else { return true };
            *offset = chunk.next_offset;
            if chunk.data.is_empty() {
                return true;
            }
            let kind = match output {
                Output::Stdout => Out::Stdout(chunk.data),
                Output::Stderr => Out::Stderr(chunk.data),
            };
            if !send(&self.out, kind).await {
                return false;
            }
        }
    }

    fn signal_task(&self, message: &pb::TaskSessionInput) {
        let Some(In::Signal(number)) = kind_of(message) else { return };
        let signal = i32::try_from(*number).ok().and_then(|number| Signal::try_from(number).ok());
        if let Some(signal) = signal
            && let Err(error) = self.tasks.executor().signal(&self.container, signal)
        {
            tracing::info!(container = %self.container, error = in_full(&error), "no signal");
        }
    }
}

fn kind_of(message: &pb::TaskSessionInput) -> Option<&In> {
    match &message.kind {
        Some(pb::task_session_input::Kind::Input(input)) => input.kind.as_ref(),
        Some(pb::task_session_input::Kind::Start(_)) | None => None,
    }
}

fn end_of(outcome: &Outcome) -> End {
    match outcome {
        Outcome::Exited { code } => End::Code(*code),
        Outcome::Signalled { signal } => End::Signal(*signal),
        Outcome::OutOfMemory { .. }
        | Outcome::MachineShort { .. }
        | Outcome::Fenced
        | Outcome::NotStarted(_)
        | Outcome::Lost { .. } => End::Signal(KILLED),
    }
}

fn act_status(error: &ActError) -> Status {
    match error {
        ActError::Unknown(_) | ActError::Ended(_) => {
            Status::failed_precondition("the task has ended")
        }
        ActError::Running(_) | ActError::Failed { .. } => Status::internal(in_full(error)),
    }
}

/// The next word of a session; `None` when it is gone without one.
async fn next_word(words: &mut Words) -> Option<Word> {
    let line = words.next_line().await.ok().flatten()?;
    serde_json::from_str(&line).ok()
}

fn ways(entered: Entered) -> io::Result<(Ways, OwnedReadHalf)> {
    entered.control.set_nonblocking(true)?;
    let (words, control) = tokio::net::UnixStream::from_std(entered.control)?.into_split();
    let (sink, sources) = match entered.stdio {
        Stdio::Pipes { stdin, stdout, stderr } => {
            let sink = match stdin {
                Some(stdin) => Sink::Pipe(pipe::Sender::from_owned_fd(stdin)?),
                None => Sink::Nowhere,
            };
            let source =
                |fd| pipe::Receiver::from_owned_fd(fd).map(|pipe| Some(Source::Pipe(pipe)));
            (sink, [source(stdout)?, source(stderr)?])
        }
        Stdio::Terminal(fd) => {
            let fd = Arc::new(sys::watch_both(fd)?);
            (Sink::Terminal(Arc::clone(&fd)), [Some(Source::Terminal(fd)), None])
        }
    };
    Ok((Ways { control, sink, sources }, words))
}

/// Takes what the client sends, until it breaks off. A client that has nothing more to send is waited for.
async fn take_input(
    input: &mut Streaming<pb::TaskSessionInput>,
    mut hold: WriteHalf<SimplexStream>,
    terminal: Option<&AsyncFd<OwnedFd>>,
    control: &mut OwnedWriteHalf,
) {
    loop {
        let message = match input.message().await {
            Ok(Some(message)) => message,
            Ok(None) => {
                sys::never_mind(hold.shutdown().await);
                return std::future::pending().await;
            }
            Err(_) => return,
        };
        match kind_of(&message) {
            Some(In::Data(data)) if data.len() <= MAX_SESSION_DATA_BYTES => {
                // Who counts has room here; others wait, and what they send after it too.
                sys::never_mind(hold.write_all(data).await);
            }
            Some(In::Data(_)) => return,
            Some(In::End(_)) => sys::never_mind(hold.shutdown().await),
            Some(In::Window(size)) => {
                if let (Some(fd), Ok(window)) = (terminal, Window::try_from(*size)) {
                    resize(fd, window);
                }
            }
            Some(In::Signal(number)) => {
                let byte = u8::try_from(*number).ok().filter(|number| (1..=64).contains(number));
                if let Some(byte) = byte {
                    sys::never_mind(control.write_all(&[byte]).await);
                }
            }
            Some(In::Start(_)) | None => {}
        }
    }
}

/// Pours what the client sent into what reads it, as fast as that does; then waits for ever.
async fn pour(mut held: ReadHalf<SimplexStream>, mut sink: Sink, acks: Option<&Outputs>) {
    let mut buffer = vec![0; PIECE];
    while let Ok(length @ 1..) = held.read(&mut buffer).await {
        // A program that closed its input, or is over, wants no more of it.
        sys::never_mind(sink.write(&buffer[..length]).await);
        if let Some(acks) = acks {
            send(acks, Out::InputTaken(u32::try_from(length).unwrap_or(u32::MAX))).await;
        }
    }
    close(&mut sink).await;
    std::future::pending().await
}

/// The client has no more input.
async fn close(sink: &mut Sink) {
    match sink {
        // What a person types for it.
        Sink::Terminal(_) => sys::never_mind(sink.write(b"\x04").await),
        Sink::Pipe(_) | Sink::Nowhere => *sink = Sink::Nowhere,
    }
}

fn resize(fd: &AsyncFd<OwnedFd>, window: Window) {
    sys::never_mind(sys::set_window(fd.get_ref(), window.rows, window.columns));
}

impl Sink {
    fn terminal(&self) -> Option<Arc<AsyncFd<OwnedFd>>> {
        match self {
            Self::Terminal(fd) => Some(Arc::clone(fd)),
            Self::Pipe(_) | Self::Nowhere => None,
        }
    }

    async fn write(&mut self, mut data: &[u8]) -> io::Result<()> {
        match self {
            Self::Nowhere => Ok(()),
            Self::Pipe(pipe) => pipe.write_all(data).await,
            Self::Terminal(fd) => {
                while !data.is_empty() {
                    let mut ready = fd.writable().await?;
                    let written = ready.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), data)?));
                    if let Ok(written) = written {
                        data = &data[written?..];
                    }
                }
                Ok(())
            }
        }
    }
}

impl Source {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => pipe.read(buffer).await,
            Self::Terminal(fd) => loop {
                let mut ready = fd.readable().await?;
                let read = ready.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), buffer)?));
                match read {
                    // Nobody has the terminal open any more.
                    Ok(Err(error)) if error.raw_os_error() == Some(nix::libc::EIO) => return Ok(0),
                    Ok(read) => return read,
                    Err(_not_ready) => {}
                }
            },
        }
    }
}

/// Sends what comes from a source, until its end or that of whoever listens.
async fn pump(mut source: Source, out: &Outputs, wrap: fn(Vec<u8>) -> Out) {
    let mut buffer = vec![0; PIECE];
    while let Ok(length @ 1..) = source.read(&mut buffer).await {
        if !send(out, wrap(buffer[..length].to_vec())).await {
            return;
        }
    }
}

/// Waits until all output is sent; false when nobody listens any more, or takes too long for it.
async fn said_goodbye(out: &Outputs, mut pumps: JoinSet<()>) -> bool {
    tokio::select! {
        () = out.closed() => false,
        () = tokio::time::sleep(GOODBYE_WITHIN) => false,
        () = async { while pumps.join_next().await.is_some() {} } => true,
    }
}
