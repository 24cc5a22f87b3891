//! How the demo speaks: a moving line on a terminal, plain lines in a pipe.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Speaks to a person or to a pipe.
#[derive(Debug)]
pub(super) struct Narrator {
    /// Only on a terminal.
    moving: Option<ProgressBar>,
}

impl Narrator {
    pub(super) fn new() -> Self {
        let moving = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {wide_msg}");
            bar.set_style(style.expect("the template is well-formed"));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { moving }
    }

    /// Something is under way. Nothing in a pipe.
    pub(super) fn progress(&self, text: &str) {
        if let Some(bar) = &self.moving {
            bar.set_message(text.to_owned());
        }
    }

    /// Something is done.
    pub(super) fn line(&self, text: &str) {
        match &self.moving {
            Some(bar) => {
                bar.set_message("");
                bar.suspend(|| print(&format!("  {text}")));
            }
            None => print(&format!("  {text}")),
        }
    }

    /// The next part begins.
    pub(super) fn heading(&self, text: &str) {
        match &self.moving {
            Some(bar) => bar.suspend(|| print(text)),
            None => print(text),
        }
    }
}

impl Drop for Narrator {
    fn drop(&mut self) {
        if let Some(bar) = &self.moving {
            bar.finish_and_clear();
        }
    }
}

/// A reader that went away, as in `demo | head`, is no reason to leave a cell behind: the demo goes
/// on to its end without being heard.
fn print(text: &str) {
    writeln!(std::io::stdout().lock(), "{text}").ok();
}
