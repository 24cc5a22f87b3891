//! The terminal at this end of a session.

use super::Sender;
use crate::exit::{Code, Failure};
use borg_proto::wire::pb;
use pb::session_input::Kind as In;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io;
use tokio::signal::unix::{SignalKind, signal};

/// The terminal passes each key on as it is pressed. Put back as it was when this is dropped.
#[derive(Debug)]
pub(crate) struct Raw(Termios);

impl Raw {
    /// # Errors
    /// When standard input is no terminal.
    pub(crate) fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone.
        tcsetattr(io::stdin(), OptionalActions::Drain, &self.0).ok();
    }
}

/// How large the terminal is.
///
/// # Errors
/// When standard input is no terminal.
pub(crate) fn window() -> Result<pb::WindowSize, Failure> {
    let size = tcgetwinsize(io::stdin()).map_err(|_| {
        Failure::new(Code::Usage, "-t: standard input is no terminal; leave -t out for a pipe")
    })?;
    Ok(pb::WindowSize { rows: size.ws_row.into(), columns: size.ws_col.into() })
}

/// Tells a session whenever the terminal gets another size.
pub(crate) async fn watch_window(to: Sender) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    while changes.recv().await.is_some() {
        let Ok(size) = window() else { return };
        if !to.send(In::Window(size)).await {
            return;
        }
    }
}
