//! Threads with a runtime of their own, and which threads give way.
//!
//! The driver, the lifeline and the scheduler give way to nobody. Threads that serve users, and the one
//! that polls machines, do: after the loss of a master thousands of machines are connected to anew, and
//! their handshakes must not hold up the election. This orders the threads of one master; how masters
//! on one computer stand to each other is for whoever starts them.
//!
//! Invariant: a thread has the niceness of the one that starts it, so what gives way to nobody is
//! started by the main thread.

use rustix::process::{getpid, getpriority_process, setpriority_process};
use std::future::Future;
use tokio::runtime::{Builder, EnterGuard, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How much nicer a thread that gives way is than the process: it gets a third of a crowded processor.
const NICE: i32 = 5;

/// Lets the threads that keep the cell alive go before the calling one when there are not processors for
/// all. It does not add up when it is called twice.
pub(crate) fn give_way() {
    let nice = getpriority_process(Some(getpid()))
        .and_then(|of_process| setpriority_process(None, of_process + NICE));
    if let Err(error) = nice {
        tracing::debug!(%error, "this thread does not give way");
    }
}

/// A thread with a runtime; it ends, with all of its tasks, when this goes.
#[derive(Debug)]
pub(crate) struct RuntimeThread {
    runtime: Handle,
    _ends: DropGuard,
}

impl RuntimeThread {
    /// Starts the thread, which does `first` before anything else.
    ///
    /// # Errors
    /// When the system gives no thread or no epoll.
    pub(crate) fn start(
        name: &str,
        first: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            first();
            runtime.block_on(ended.cancelled());
        })?;
        Ok(Self { runtime: handle, _ends: guard })
    }

    /// Runs a task on it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.spawn(task));
    }

    /// The way onto it.
    pub(crate) fn handle(&self) -> Handle {
        self.runtime.clone()
    }

    /// What is spawned while the guard lives, runs on it.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }
}
