//! Calls that reach a task on its machine: its output, and sessions with it.
//!
//! A borglet calls nobody and knows no users, so a master stands between: it says who may, finds the machine,
//! and passes messages on in both directions. Nothing is kept here but the few that are on their way; when
//! either end breaks off, so does the other. docs/adr/0021.

use super::streams::Items;
use super::{Api, find_task};
use crate::feed::View;
use borg_cell::state::{Machine, MachineState, Task};
use borg_proto::Privilege;
use borg_proto::identity::{Identity, Role};
use borg_proto::names::{IncarnationId, TaskName, UserName, shorten};
use borg_proto::rpc::{self, BorgletClient, Timeouts};
use borg_proto::slots::Slot;
use borg_proto::task::{Phase, Placement, TaskState};
use borg_proto::time::Date;
use borg_proto::wire::{MAX_SESSION_DATA_BYTES, Session, pb};
use pb::session_input::Kind as In;
use pb::task_session_input::Kind as TaskIn;
use std::error::Error;
use std::future::pending;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Sessions that pass through one master at once: ours, four machines' worth. A user may have half of those
/// that are free.
pub(crate) const SESSIONS: usize = 256;
/// Logs that are read through one master at once: ours. A user may have half of those that are free, so all tasks of
/// a job can be followed by some users at once.
pub(crate) const LOG_READERS: usize = 512;
/// Messages on their way in each direction; then whoever sends waits.
const MESSAGES: usize = 4;
/// How long a client may take to say what the session is for.
const SAY_WITHIN: Duration = Duration::from_secs(10);

/// Says who may reach into a task.
async fn check_owner(api: &Api, user: &UserName, name: &TaskName) -> Result<(), Status> {
    if *user == name.job.user || api.is_admin(user).await? {
        return Ok(());
    }
    let (job, needed) = (&name.job, Privilege::Admin);
    let why = format!("user {user} is neither the owner of {job} nor {needed}");
    Err(Status::permission_denied(why))
}

/// A client of the borglet of a machine.
fn borglet_of(api: &Api, machine: &Machine) -> Result<BorgletClient<Channel>, Status> {
    let server = Identity { cell: api.cell.clone(), role: Role::Borglet(machine.name.clone()) }
        .server_name()
        .expect("a borglet serves, so it has a server name");
    let channel = rpc::channel(&machine.address, &api.credentials, &server, Timeouts::default())
        .map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(rpc::borglet_client(channel))
}

/// What a borglet said, or that it said nothing.
fn of_machine(machine: &str, what: &str, status: Status) -> Status {
    match status.source() {
        // A status with a cause was made on this side: the machine did not speak.
        Some(_) => Status::failed_precondition(format!(
            "machine {machine}, where {what} is, does not answer: {}",
            rpc::explain(&status)
        )),
        None => status,
    }
}

pub(super) async fn read_logs(
    api: &Api,
    user: &UserName,
    request: pb::ReadLogsRequest,
) -> Result<Items<pb::LogChunk>, Status> {
    api.caught_up.check()?;
    let view = api.view();
    let (name, id) = find_task(&view, &request.task)?;
    check_owner(api, user, &name).await?;
    let task = view.state.task(id).ok_or_else(|| Status::not_found("the task is gone"))?;
    let Some((_, newest)) = task.last_place else {
        return Err(Status::failed_precondition(format!(
            "{name} was never placed: there is no log"
        )));
    };
    let number = match (request.incarnation, request.previous) {
        (0, false) => newest,
        (number, false) => number,
        // The numbers of successors that came to nothing are of nobody.
        (0, true) if newest > 1 => {
            let mut runs = view.state.runs_of(id).map(|run| run.incarnation);
            runs.find(|number| *number < newest).unwrap_or(newest - 1)
        }
        (0, true) => {
            return Err(Status::not_found(format!(
                "{name} has no previous incarnation: the present one is its first"
            )));
        }
        (_, true) => {
            return Err(Status::invalid_argument(
                "previous: is given together with incarnation, one of them is enough",
            ));
        }
    };
    if number > task.incarnations {
        return Err(Status::not_found(format!(
            "{name} has incarnations 1 to {}, not {number}",
            task.incarnations
        )));
    }
    let id = IncarnationId { task: id, number };
    let machine = machine_of(&view, &name, task, id)?;
    let slot = api.log_readers.take(user).map_err(|none| {
        Status::resource_exhausted(format!(
            "logs read through this master: {none}: end some, or ask another master"
        ))
    })?;
    let answer = borglet_of(api, machine)?
        .read_task_log(pb::ReadTaskLogRequest {
            id: Some((&id).into()),
            stream: request.stream,
            follow: request.follow,
            tail_bytes: request.tail_bytes,
            name: name.to_string(),
            since_ms: request.since_ms,
            tail_lines: request.tail_lines,
            user: user.to_string(),
        })
        .await;
    let what = format!("the output of {name}");
    let answer = answer.map_err(|status| of_machine(machine.name.as_str(), &what, status))?;
    Ok(Box::pin(pass_on(answer.into_inner(), api.stop.clone(), slot)))
}

/// Where an incarnation is or was: the last one's place is known, of earlier ones that of a run that was noted.
fn machine_of<'v>(
    view: &'v View,
    name: &TaskName,
    task: &Task,
    id: IncarnationId,
) -> Result<&'v Machine, Status> {
    let removed = |machine: &str| {
        Status::not_found(format!(
            "machine {machine}, on which {name} ran, was removed: `status {name}` has what is left"
        ))
    };
    let next = task.successor().map(|next| &next.placement);
    let next = next.filter(|placed| placed.incarnation == id.number);
    let next = next.map(|placed| (placed.machine, placed.incarnation));
    let last = task.last_place.filter(|(_, number)| *number == id.number).or(next);
    let machine = match last {
        Some((machine, _)) => {
            view.state.machine(machine).ok_or_else(|| removed("of its last run"))?
        }
        None => {
            let noted = view.state.runs_of(id.task).find(|run| run.incarnation == id.number);
            let noted = noted.map(|run| run.machine.clone());
            match (noted, task.last_place) {
                (Some(name), _) => {
                    let mut machines = view.state.machines();
                    let found = machines.find(|machine| machine.name == name);
                    found.ok_or_else(|| removed(name.as_str()))?
                }
                // Not noted any more: it may have been where the last one was.
                (None, Some((machine, _))) => {
                    view.state.machine(machine).ok_or_else(|| removed("of its last run"))?
                }
                (None, None) => return Err(removed("of that run")),
            }
        }
    };
    if machine.state == MachineState::Down {
        let machine = &machine.name;
        return Err(Status::failed_precondition(format!(
            "machine {machine} does not answer: its logs are there, and `status {name}` has what is left"
        )));
    }
    Ok(machine)
}

/// Passes a stream on until the process stops, and holds its place as long.
fn pass_on<T: Send + 'static>(
    mut messages: Streaming<T>,
    stop: CancellationToken,
    slot: Slot,
) -> impl Stream<Item = Result<T, Status>> {
    let (out, items) = mpsc::channel(MESSAGES);
    tokio::spawn(async move {
        let _slot = slot;
        loop {
            let next = tokio::select! {
                () = stop.cancelled() => return,
                () = out.closed() => return,
                next = messages.next() => next,
            };
            let Some(message) = next else { return };
            if out.send(message).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(items)
}

/// Begins a session: answers as soon as it is clear that it may be, so that few clients ask a second master
/// while the first one has begun. Of those that do the machine takes one.
pub(super) async fn open(
    api: &Api,
    user: UserName,
    mut input: Streaming<pb::SessionInput>,
) -> Result<Items<pb::SessionOutput>, Status> {
    api.caught_up.check()?;
    let first = tokio::time::timeout(SAY_WITHIN, input.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("start: nothing was said"))??;
    let Some(In::Start(start)) = first.and_then(|first| first.kind) else {
        return Err(Status::invalid_argument("kind: the first message is not a start"));
    };
    let what =
        Session::try_from(start.clone()).map_err(|error| rpc::status_of(&error.within("start")))?;
    let view = api.view();
    let (name, id) = find_task(&view, &start.task)?;
    check_owner(api, &user, &name).await.inspect_err(|_| {
        tracing::info!(%user, task = %name, what = in_words(&what), "session refused");
    })?;
    let task = view.state.task(id).ok_or_else(|| Status::not_found("the task is gone"))?;
    let placement = running(&name, task)?;
    let machine = view.state.machine(placement.machine);
    let machine = machine.ok_or_else(|| Status::not_found("its machine is gone"))?;
    let port = match &what {
        Session::Forward { port } => port_of(&view, &name, placement, port)?,
        Session::Exec { .. }
        | Session::Attach
        | Session::CopyIn { .. }
        | Session::CopyOut { .. } => 0,
    };
    let slot = api.sessions.take(&user).map_err(|none| {
        Status::resource_exhausted(format!(
            "sessions through this master: {none}: end some, ask another master, or ask later"
        ))
    })?;
    tracing::info!(%user, task = %name, machine = %machine.name, what = in_words(&what), "session begins");
    let begin = pb::TaskSessionStart {
        id: Some((&IncarnationId { task: id, number: placement.incarnation }).into()),
        name: name.to_string(),
        user: user.to_string(),
        start: Some(start),
        port: port.into(),
    };
    let (out, outputs) = mpsc::channel(MESSAGES);
    let passage = Passage {
        borglet: borglet_of(api, machine)?,
        machine: machine.name.to_string(),
        user,
        name,
        out,
        _slot: slot,
    };
    let stop = api.stop.clone();
    tokio::spawn(async move {
        let out = passage.out.clone();
        let (user, task) = (passage.user.clone(), passage.name.clone());
        tokio::select! {
            () = stop.cancelled() => {}
            () = out.closed() => {}
            () = passage.run(begin, input) => {}
        }
        tracing::info!(%user, %task, "session ends");
    });
    Ok(Box::pin(ReceiverStream::new(outputs)))
}

/// The placement of a task that runs, or why it has no process to reach.
fn running<'t>(name: &TaskName, task: &'t Task) -> Result<&'t Placement, Status> {
    let now = crate::clock::now();
    let refused = |how: String| Err(Status::failed_precondition(format!("{name} {how}")));
    match &task.state {
        TaskState::Running(placement) => match placement.phase {
            Phase::Up { .. } => Ok(placement),
            Phase::Starting => refused("is still being started".to_owned()),
            Phase::BackOff { until } => {
                let cause = task.last_failure.as_ref().map(ToString::to_string).unwrap_or_default();
                refused(format!(
                    "failed ({cause}) and is started again in {} s",
                    until.since(now).0.div_ceil(1000)
                ))
            }
        },
        TaskState::Pending { .. } => {
            let last = task.last_failure.as_ref().map(|cause| format!(", last {cause}"));
            refused(format!("waits to be placed{}", last.unwrap_or_default()))
        }
        TaskState::Dead { at, end } => {
            let ago = now.since(*at).0 / 1000;
            refused(format!("ended {ago} s ago, at {}: {end}", Date(*at)))
        }
    }
}

/// The number of a port that the task has.
fn port_of(
    view: &View,
    name: &TaskName,
    placement: &Placement,
    asked: &str,
) -> Result<u16, Status> {
    let names = view.state.job_named(&name.job);
    let names = names.map(|job| job.task_spec(name.index).ports.clone());
    let names = names.unwrap_or_default();
    let ports = || names.iter().zip(&placement.ports);
    let found = ports().find(|(name, port)| name.as_str() == asked || port.to_string() == asked);
    found.map(|(_, port)| *port).ok_or_else(|| {
        let all: Vec<String> = ports().map(|(name, port)| format!("{name}:{port}")).collect();
        Status::invalid_argument(format!(
            "forward.port: {:?} is none of the ports of {name}: [{}]",
            shorten(asked),
            all.join(", ")
        ))
    })
}

/// For the line in the log. What is not harmless to print is escaped.
fn in_words(what: &Session) -> String {
    match what {
        Session::Exec { command, .. } => format!("exec {:?}", shorten(&command.join(" "))),
        Session::Attach => "attach".to_owned(),
        Session::CopyIn { path } => format!("copy in {:?}", shorten(path)),
        Session::CopyOut { path } => format!("copy out {:?}", shorten(path)),
        Session::Forward { port } => format!("forward {:?}", shorten(port)),
    }
}

/// A session on its way through.
struct Passage {
    borglet: BorgletClient<Channel>,
    machine: String,
    user: UserName,
    name: TaskName,
    out: mpsc::Sender<Result<pb::SessionOutput, Status>>,
    _slot: Slot,
}

impl Passage {
    async fn run(mut self, begin: pb::TaskSessionStart, input: Streaming<pb::SessionInput>) {
        let (to_borglet, messages) = mpsc::channel(MESSAGES);
        let begin = pb::TaskSessionInput { kind: Some(TaskIn::Start(begin)) };
        // The receiver is right here and the channel is empty.
        drop(to_borglet.try_send(begin));
        let opened = self.borglet.open_task_session(ReceiverStream::new(messages)).await;
        let mut answers = match opened {
            Ok(answers) => answers.into_inner(),
            Err(status) => return self.fail(status).await,
        };
        let taking = take(input, to_borglet);
        tokio::pin!(taking);
        loop {
            let answer = tokio::select! {
                // The client broke off.
                () = &mut taking => return,
                answer = answers.message() => answer,
            };
            match answer {
                Ok(Some(message)) => {
                    if self.out.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(status) => return self.fail(status).await,
            }
        }
    }

    async fn fail(&self, status: Status) {
        let status = of_machine(&self.machine, self.name.to_string().as_str(), status);
        // Nobody listens any more: then nobody misses it.
        drop(self.out.send(Err(status)).await);
    }
}

/// Passes on what a client sends until it breaks off; one that has nothing more to send is waited for.
async fn take(
    mut input: Streaming<pb::SessionInput>,
    to_borglet: mpsc::Sender<pb::TaskSessionInput>,
) {
    loop {
        match input.message().await {
            Ok(Some(message)) => {
                let too_much = matches!(&message.kind,
                    Some(In::Data(data)) if data.len() > MAX_SESSION_DATA_BYTES);
                if too_much || matches!(&message.kind, Some(In::Start(_))) {
                    return;
                }
                let message = pb::TaskSessionInput { kind: Some(TaskIn::Input(message)) };
                if to_borglet.send(message).await.is_err() {
                    // The answers say why.
                    return pending().await;
                }
            }
            Ok(None) => {
                drop(to_borglet);
                return pending().await;
            }
            Err(_) => return,
        }
    }
}
