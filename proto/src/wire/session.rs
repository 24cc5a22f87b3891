//! What a session with a task is for, and what goes into it.

use super::error::{At, WireError, check_len, check_range, required};
use super::pb;
use pb::session_start::What;

/// Most words of a command.
pub const MAX_COMMAND_WORDS: usize = 256;
/// Most bytes of a command's words together: 64 KiB, our choice, what a person could type and more.
pub const MAX_COMMAND_WORD_BYTES: usize = 64 << 10;
/// Longest path of a copy, in bytes: the kernel's own bound.
pub const MAX_PATH_BYTES: usize = 4096;
/// Most bytes of data in one message of a session.
pub const MAX_SESSION_DATA_BYTES: usize = 64 << 10;
/// Longest name by which a session is begun once.
const MAX_ONCE_BYTES: u64 = 64;
/// Longest name of a kind of terminal.
const MAX_TERM_BYTES: usize = 64;

/// What a session is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// Run a command in the task's container.
    Exec {
        /// The program and its arguments: at least one word, none with a zero byte.
        command: Vec<String>,
        /// Whether data will come for its standard input.
        input: bool,
        /// Its terminal, if it has one.
        terminal: Option<Terminal>,
    },
    /// Follow its output until it ends, and pass signals on.
    Attach,
    /// Unpack data in a directory of the container.
    CopyIn {
        /// Where.
        path: String,
    },
    /// Pack a file or directory of the container.
    CopyOut {
        /// Which.
        path: String,
    },
    /// Connect to one of its ports.
    Forward {
        /// Name or number.
        port: String,
    },
}

/// A session's terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminal {
    /// Its kind, as in TERM.
    pub kind: String,
    /// Its size at the beginning.
    pub window: Window,
}

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

impl TryFrom<pb::WindowSize> for Window {
    type Error = WireError;
    fn try_from(size: pb::WindowSize) -> Result<Self, WireError> {
        let narrow = |field: &str, value: u32| {
            u16::try_from(value).map_err(|_| WireError::new(field, value, "is more than 65535"))
        };
        Ok(Self { rows: narrow("rows", size.rows)?, columns: narrow("columns", size.columns)? })
    }
}

impl TryFrom<pb::SessionStart> for Session {
    type Error = WireError;
    fn try_from(start: pb::SessionStart) -> Result<Self, WireError> {
        check_range("once", start.once.len() as u64, 0, MAX_ONCE_BYTES)?;
        Ok(match required("what", start.what)? {
            What::Exec(exec) => {
                check_command(&exec.command).at("exec.command")?;
                let terminal = exec.terminal.then(|| {
                    check_term(&exec.term)?;
                    let window = required("window", exec.window)?.try_into().at("window")?;
                    Ok(Terminal { kind: exec.term, window })
                });
                let terminal = terminal.transpose().map_err(|e: WireError| e.within("exec"))?;
                Self::Exec { command: exec.command, input: exec.input, terminal }
            }
            What::Attach(_) => Self::Attach,
            What::CopyIn(copy) => Self::CopyIn { path: path(copy.path).at("copy_in.path")? },
            What::CopyOut(copy) => Self::CopyOut { path: path(copy.path).at("copy_out.path")? },
            What::Forward(forward) => {
                check_range("forward.port", forward.port.len() as u64, 1, 64)?;
                Self::Forward { port: forward.port }
            }
        })
    }
}

fn check_command(command: &[String]) -> Result<(), WireError> {
    check_len("", command.len(), MAX_COMMAND_WORDS)?;
    if command.first().is_none_or(String::is_empty) {
        return Err(WireError::new("", "nothing", "is given: name a program"));
    }
    let bytes: usize = command.iter().map(String::len).sum();
    if bytes > MAX_COMMAND_WORD_BYTES {
        let why = format!("are more than {MAX_COMMAND_WORD_BYTES}");
        return Err(WireError::new("", format!("{bytes} bytes"), why));
    }
    match command.iter().position(|word| word.contains('\0')) {
        Some(i) => Err(WireError::new(format!("[{i}]"), "a word", "has a zero byte")),
        None => Ok(()),
    }
}

fn check_term(term: &str) -> Result<(), WireError> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+');
    if (1..=MAX_TERM_BYTES).contains(&term.len()) && term.bytes().all(fine) {
        return Ok(());
    }
    let why = format!("is not 1 to {MAX_TERM_BYTES} letters, digits and -_.+");
    Err(WireError::new("term", format!("{term:?}"), why))
}

fn path(path: String) -> Result<String, WireError> {
    if path.is_empty() {
        return Err(WireError::new("", "nothing", "is given: name a path"));
    }
    if path.len() > MAX_PATH_BYTES {
        let why = format!("are more than {MAX_PATH_BYTES}");
        return Err(WireError::new("", format!("{} bytes", path.len()), why));
    }
    if path.contains('\0') {
        return Err(WireError::new("", "a path", "has a zero byte"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(change: impl FnOnce(&mut pb::session_start::Exec)) -> Result<Session, String> {
        let mut exec = pb::session_start::Exec {
            command: vec!["ls".into()],
            terminal: true,
            term: "xterm".into(),
            window: Some(pb::WindowSize { rows: 24, columns: 80 }),
            ..Default::default()
        };
        change(&mut exec);
        let start =
            pb::SessionStart { what: Some(What::Exec(exec)), ..pb::SessionStart::default() };
        Session::try_from(start).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_session_asks_for_is_bounded_and_bad_fields_are_named() {
        assert!(matches!(exec(|_| {}), Ok(Session::Exec { .. })));
        let field = |change: fn(&mut pb::session_start::Exec)| {
            exec(change).unwrap_err().split(": ").next().unwrap().to_owned()
        };
        assert_eq!(field(|e| e.command.clear()), "exec.command");
        assert_eq!(field(|e| e.command = vec!["x".into(); 257]), "exec.command");
        assert_eq!(field(|e| e.command = vec!["x".repeat(65_537)]), "exec.command");
        assert_eq!(field(|e| e.command.push("a\0b".into())), "exec.command[1]");
        assert_eq!(field(|e| e.term = "x=y".into()), "exec.term");
        assert_eq!(field(|e| e.window = None), "exec.window");
        assert_eq!(
            field(|e| e.window = Some(pb::WindowSize { rows: 70_000, columns: 1 })),
            "exec.window.rows"
        );
        let copy = |path: &str| {
            let copy = pb::session_start::CopyOut { path: path.into() };
            let start =
                pb::SessionStart { what: Some(What::CopyOut(copy)), ..pb::SessionStart::default() };
            Session::try_from(start).is_ok()
        };
        assert!(copy("/tmp") && !copy("") && !copy("a\0") && !copy(&"x".repeat(4097)));
        assert!(Session::try_from(pb::SessionStart::default()).is_err());
    }
}
