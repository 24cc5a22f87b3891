//! `exec` and `attach`: a command in a task's container, and the task itself.

use super::names;
use crate::client::Client;
use crate::exit::{Failure, Success};
use crate::session::{self, Raw, Sender, feed, read_aside, watch_window};
use borg_proto::wire::pb;
use clap::Args;
use pb::session_input::Kind as In;
use pb::session_start::{Attach, Exec, What};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// Pass standard input on
    #[arg(short, long)]
    input: bool,
    /// Give the command a terminal, as a shell wants it; with --input
    #[arg(short, long, requires = "input")]
    terminal: bool,
    /// JOB/INDEX or USER/JOB/INDEX
    task: String,
    /// The command and its arguments
    #[arg(last = true, required = true, num_args = 1.., value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// JOB/INDEX or USER/JOB/INDEX
    task: String,
    /// Keep signals to oneself: Ctrl-C leaves the task as it is
    #[arg(long)]
    no_signals: bool,
}

/// Runs a command in a task's container; its exit code is ours.
pub(super) async fn exec(client: &mut Client, args: ExecArgs) -> Result<Success, Failure> {
    let task = names::task(&args.task, client.user())?.to_string();
    let window = args.terminal.then(session::window).transpose()?;
    let term = std::env::var("TERM").ok().filter(|term| !term.is_empty());
    let what = What::Exec(Exec {
        command: args.command,
        input: args.input,
        terminal: args.terminal,
        window,
        term: if args.terminal { term.unwrap_or_else(|| "dumb".into()) } else { String::new() },
    });
    let session = client.session(format!("exec in {task}"), task, what).await?;
    let raw = args.terminal.then(Raw::enter).transpose()?;
    if args.input {
        tokio::spawn(feed(read_aside(std::io::stdin())?, session.sender()));
    }
    let sender = session.sender();
    let left = async move {
        if args.terminal {
            // Ctrl-C is a key like others, and goes to the command.
            tokio::spawn(watch_window(sender));
            return told_to_end().await;
        }
        pass_signals(sender).await;
        INTERRUPTED
    };
    let ended = tokio::select! {
        ended = session.print() => ended,
        code = left => return Ok(Success::Exit(code)),
    };
    drop(raw);
    ended.map(session::Ended::success)
}

/// Follows a running task from now on until it ends; its exit code is ours.
pub(super) async fn attach(client: &mut Client, args: AttachArgs) -> Result<Success, Failure> {
    let task = names::task(&args.task, client.user())?.to_string();
    let what = What::Attach(Attach {});
    let session = client.session(format!("attach to {task}"), task, what).await?;
    if args.no_signals {
        return session.print().await.map(session::Ended::success);
    }
    let signals = pass_signals(session.sender());
    tokio::select! {
        ended = session.print() => ended.map(session::Ended::success),
        () = signals => Ok(Success::Exit(INTERRUPTED)),
    }
}

/// Exit code of who was interrupted, as shells have it.
const INTERRUPTED: u8 = 130;
/// The same of who lost the terminal, and of who was told to end.
const HUNG_UP: u8 = 129;
const TERMINATED: u8 = 143;
/// Interrupts after which we leave, whatever the command does about them.
const PATIENCE: u32 = 3;

/// Waits for a signal that ends us; the exit code is the one that shells have for it. Not to be ended by it gives
/// the person's terminal back as it was.
async fn told_to_end() -> u8 {
    let kinds = [SignalKind::hangup(), SignalKind::terminate()];
    let [Ok(mut hangup), Ok(mut terminate)] = kinds.map(signal) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = hangup.recv() => HUNG_UP,
        _ = terminate.recv() => TERMINATED,
    }
}

/// Passes signals on to what runs at the other end. Returns after the third interrupt.
async fn pass_signals(to: Sender) {
    let kinds = [SignalKind::hangup(), SignalKind::quit(), SignalKind::terminate()];
    let [Ok(mut hangup), Ok(mut quit), Ok(mut terminate)] = kinds.map(signal) else {
        return std::future::pending().await;
    };
    let Ok(mut interrupt) = signal(SignalKind::interrupt()) else {
        return std::future::pending().await;
    };
    let mut interrupts = 0;
    loop {
        let kind = tokio::select! {
            _ = interrupt.recv() => {
                interrupts += 1;
                if interrupts == PATIENCE {
                    return;
                }
                SignalKind::interrupt()
            }
            _ = hangup.recv() => SignalKind::hangup(),
            _ = quit.recv() => SignalKind::quit(),
            _ = terminate.recv() => SignalKind::terminate(),
        };
        let number = u32::try_from(kind.as_raw_value()).unwrap_or(0);
        if !to.send(In::Signal(number)).await {
            return std::future::pending().await;
        }
    }
}
