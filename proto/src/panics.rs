//! What a panic does to the process: it ends it, but for work that is guarded.
//!
//! A dead task inside a live daemon is worse than a restart, so release builds of the daemons end on the
//! first panic of any thread ([`end_the_process`]). What may go wrong for a single job, and can be
//! begun again without it, runs [`guarded`].
//!
//! Invariant: a panic of a thread that is not in guarded work never unwinds in a release build.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Longest text of a panic that is kept, in characters: it is shown to people and sent to them.
const MAX_WORDS: usize = 300;

thread_local! {
    /// Whether this thread is in guarded work.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// From now on a panic ends the process as soon as it is told, unless its thread is in [`guarded`] work.
/// Debug builds go on unwinding, so that their tests see what panicked.
///
/// Wraps the hook of this moment: whoever sets one later calls this again.
pub fn end_the_process() {
    if !cfg!(debug_assertions) {
        end_on_panic();
    }
}

fn end_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        // A thread that is losing its locals has left its work.
        if !GUARDED.try_with(Cell::get).unwrap_or(false) {
            std::process::abort();
        }
    }));
}

/// While it lives, the thread is in guarded work.
struct Guard {
    before: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        GUARDED.set(self.before);
    }
}

/// Does `work`, and survives its panic. What `work` was changing may be half changed then: the caller
/// must throw it away.
///
/// # Errors
/// What the panic said.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let _guard = Guard { before: GUARDED.replace(true) };
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
        words.unwrap_or("no message").chars().take(MAX_WORDS).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    const SIGABRT: i32 = 6;

    #[test]
    fn guarded_work_tells_what_its_panic_said() {
        assert_eq!(guarded(|| 7), Ok(7));
        assert_eq!(guarded(|| panic!("an odd {}", "row")), Err::<(), _>("an odd row".to_owned()));
        assert_eq!(
            guarded(|| panic!("{}", "x".repeat(9_999))).map_err(|w: String| w.len()),
            Err::<(), _>(MAX_WORDS)
        );
    }

    /// Runs one of the tests below in a process of its own.
    fn alone(test: &str) -> ExitStatus {
        let program = std::env::current_exe().unwrap();
        let name = format!("panics::tests::{test}");
        let args = ["--exact", &name, "--ignored", "--test-threads", "1"];
        Command::new(program).args(args).output().unwrap().status
    }

    #[test]
    fn only_a_panic_in_guarded_work_does_not_end_the_process() {
        assert!(alone("process_with_a_panic_in_guarded_work").success());
        for deadly in
            ["process_with_a_panic_in_a_thread", "process_with_a_panic_after_guarded_work"]
        {
            assert_eq!(alone(deadly).signal(), Some(SIGABRT), "{deadly}");
        }
    }

    fn panic_in_a_thread() {
        drop(std::thread::Builder::new().spawn(|| panic!("unseen")).unwrap().join());
    }

    #[test]
    #[ignore = "run by another test, in a process of its own"]
    fn process_with_a_panic_in_guarded_work() {
        end_on_panic();
        assert!(guarded(|| guarded::<()>(|| panic!("within"))).unwrap().is_err());
        assert!(guarded::<()>(|| panic!("still")).is_err());
    }

    #[test]
    #[ignore = "run by another test, in a process of its own"]
    fn process_with_a_panic_in_a_thread() {
        end_on_panic();
        assert!(guarded(panic_in_a_thread).is_ok(), "the thread is not in this one's work");
    }

    #[test]
    #[ignore = "run by another test, in a process of its own"]
    fn process_with_a_panic_after_guarded_work() {
        end_on_panic();
        assert!(guarded::<()>(|| panic!("seen")).is_err());
        drop(catch_unwind(|| panic!("not guarded")));
    }
}
