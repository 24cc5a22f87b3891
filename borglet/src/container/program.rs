//! The last steps of a process before it becomes the task's program.
//!
//! Runs in the child that the shim (or the container's init) made, with the container's view of
//! the machine, and never returns on success. Every step that fails is named in the error, which
//! the caller passes back through a pipe. The program starts only once the shim said go, that is
//! after its pid is on record.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use borg_proto::package::elf_arch;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd;

use borg_proto::Privilege;

use super::fence::Fence;
use super::syscalls::Filter;
use super::users::Users;
use super::{ContainerSpec, StartError, User, Workdir};
use crate::sys;

/// Where programs are looked up unless the task's environment says otherwise.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Name of the file in a task's own directory that holds its status line.
pub(crate) const STATUS_FILE: &str = ".borg-status";

/// Most files a task may have open. Ours: enough for a server, far below what a machine has.
const OPEN_FILES_MAX: u64 = 16_384;

/// The ends of the pipes of one starting program.
#[derive(Debug)]
pub(crate) struct Pipes {
    /// Becomes its stdin.
    pub(crate) null: File,
    /// Becomes its stdout.
    pub(crate) stdout: OwnedFd,
    /// Becomes its stderr.
    pub(crate) stderr: OwnedFd,
    /// One byte on it means go; its end means that the shim is gone.
    pub(crate) go: File,
}

/// What a program is started with, beside its pipes.
#[derive(Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) spec: &'a ContainerSpec,
    /// Whom it runs as, by the ids that the task sees.
    pub(crate) user: Option<User>,
    /// The task's own directory.
    pub(crate) work: PathBuf,
    pub(crate) users: Users,
    /// Whether this process may give capabilities up.
    pub(crate) drop_capabilities: bool,
    pub(crate) fence: Option<Fence>,
    /// Whether system calls are filtered.
    pub(crate) filter: bool,
}

/// Becomes the program of `setting`, or ends.
///
/// `notes` carries `ready` to the shim, then what went wrong; a successful execute closes it.
/// `die_with` is the process whose death must be ours, where no init sees to that.
pub(crate) fn become_program(
    setting: &Setting<'_>,
    pipes: Pipes,
    mut notes: File,
    die_with: Option<i32>,
) -> ! {
    let error = match prepare(setting, pipes, &mut notes, die_with) {
        Ok(path) => execute(setting.spec, &setting.work, &path, die_with.is_none()),
        Err(error) => error,
    };
    error.tell(&mut notes);
    sys::exit_now(1)
}

/// Everything up to the go. Gives the directories to look the program up in.
fn prepare(
    setting: &Setting<'_>,
    pipes: Pipes,
    notes: &mut File,
    die_with: Option<i32>,
) -> Result<String, StartError> {
    let spec = setting.spec;
    let step = |name: &'static str| move |e: Errno| StartError::machine(name, e);
    let Pipes { null, stdout, stderr, mut go } = pipes;
    unistd::setsid().map_err(step("start a session"))?;
    unistd::dup2_stdin(&null).map_err(step("connect stdin"))?;
    unistd::dup2_stdout(&stdout).map_err(step("connect stdout"))?;
    unistd::dup2_stderr(&stderr).map_err(step("connect stderr"))?;
    drop((null, stdout, stderr));
    // A path of the task's may lead through /proc to what is still open here.
    sys::close_all_but(&[notes.as_fd(), go.as_fd()]);
    confine(setting)?;
    if let Some(shim) = die_with {
        sys::die_with_parent().map_err(|e| StartError::machine("bind to the shim", e))?;
        if unistd::getppid().as_raw() != shim {
            return Err(StartError::machine("bind to the shim", "it is gone"));
        }
    }
    let answer = notes.write_all(b"ready\n").and_then(|()| go.read_exact(&mut [0]));
    answer.map_err(|e| StartError::machine("wait for the shim", e))?;
    sys::reset_signals();
    Ok(path_of(spec))
}

/// The directories to look programs up in.
pub(crate) fn path_of(spec: &ContainerSpec) -> String {
    let given = spec.env.iter().find(|(name, _)| name == "PATH");
    given.map_or_else(|| DEFAULT_PATH.to_owned(), |(_, path)| path.clone())
}

/// Gives up all that a task must not have: files without end, ids, capabilities, writing, listening, system calls. From
/// here on this process is as the task is.
pub(crate) fn confine(setting: &Setting<'_>) -> Result<(), StartError> {
    let Setting { spec, users, .. } = setting;
    let step = |name: &'static str| move |e: io::Error| StartError::machine(name, e);
    limit_resources().map_err(|e| StartError::machine("limit resources", e))?;
    users.become_one(setting.user, setting.drop_capabilities).map_err(step("change user"))?;
    umask(Mode::from_bits_truncate(0o022));
    go_to(workdir(spec, &setting.work))?;
    nix::sys::prctl::set_no_new_privs()
        .map_err(|e| StartError::machine("forbid new privileges", e))?;
    if let Some(fence) = &setting.fence {
        fence.close().map_err(|e| StartError::machine("set up Landlock", e))?;
    }
    if setting.filter {
        // With the machine's ids its own directory is a place of the machine's too.
        let shares = *users == Users::Machine || spec.binds.iter().any(|bind| bind.writable);
        let filter = match (spec.loosen.contains(&Privilege::SystemCalls), shares) {
            (true, shares) => Filter::wide(shares),
            (false, true) => Filter::sharing(),
            (false, false) => Filter::usual(),
        };
        filter.install().map_err(step("filter system calls"))?;
    }
    Ok(())
}

fn workdir<'a>(spec: &'a ContainerSpec, work: &'a Path) -> &'a Path {
    match &spec.workdir {
        Workdir::Private => work,
        Workdir::Path(path) => path,
    }
}

/// By no link of /proc, which could lead out of what the task may see.
fn go_to(dir: &Path) -> Result<(), StartError> {
    let there =
        sys::open_by_names(&c_string(&dir.to_string_lossy()), OFlag::O_PATH | OFlag::O_DIRECTORY);
    let gone = there.and_then(|there| Ok(unistd::fchdir(&there)?));
    gone.map_err(|error| {
        let cause = match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            Errno::ELOOP => "a link on the way leads through /proc, or round".to_owned(),
            errno => errno.desc().to_owned(),
        };
        StartError::BadWorkdir { path: dir.to_owned(), cause }
    })
}

fn limit_resources() -> Result<(), Errno> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let hard = hard.min(OPEN_FILES_MAX);
    setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)
}

/// Tries each place where the program may be, as a shell would.
pub(crate) fn execute(spec: &ContainerSpec, work: &Path, path: &str, own_tmp: bool) -> StartError {
    let program = &spec.argv[0];
    let argv: Vec<CString> = spec.argv.iter().map(|word| c_string(word)).collect();
    let env = environment(spec, work);
    let mut refused = None;
    for candidate in candidates(program, path) {
        let file = c_string(&candidate.to_string_lossy());
        let Err(errno) = unistd::execve(&file, &argv, &env);
        let there = candidate.exists();
        if there || !matches!(errno, Errno::ENOENT | Errno::ENOTDIR) {
            let cause = match errno {
                Errno::E2BIG => too_long(&argv, &env),
                errno => cause_of(errno, there, &candidate),
            };
            refused.get_or_insert(StartError::NotExecutable {
                path: candidate.display().to_string(),
                cause,
            });
        }
    }
    refused.unwrap_or_else(|| StartError::ProgramNotFound {
        program: program.clone(),
        hint: hint(program, path, own_tmp),
    })
}

fn hint(program: &str, path: &str, own_tmp: bool) -> String {
    if !program.contains('/') {
        format!(" (PATH is {path})")
    } else if own_tmp && program.starts_with("/tmp/") {
        " (tasks have a /tmp of their own)".to_owned()
    } else {
        String::new()
    }
}

fn candidates(program: &str, path: &str) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![PathBuf::from(program)];
    }
    path.split(':').filter(|dir| !dir.is_empty()).map(|dir| Path::new(dir).join(program)).collect()
}

fn cause_of(errno: Errno, there: bool, path: &Path) -> String {
    match errno {
        Errno::ENOENT if there => "its interpreter or loader is not found".to_owned(),
        Errno::EACCES if path.is_dir() => "it is a directory".to_owned(),
        Errno::ENOEXEC => {
            let mut head = [0; 20];
            let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
            let this = std::env::consts::ARCH;
            match read.ok().and_then(|()| elf_arch(&head)) {
                Some(arch) if arch != this => format!(
                    "it is a program for {arch}, this machine is {this}: build it for {this}, or ask for \
                     machines with arch = {arch}"
                ),
                Some(_) | None => format!(
                    "it is no program that {this} machines run, and its first line does not begin with #!"
                ),
            }
        }
        other => other.desc().to_owned(),
    }
}

/// The kernel's bound, by its size and by the longest word (execve(2)).
fn too_long(argv: &[CString], env: &[CString]) -> String {
    let bytes =
        |words: &[CString]| words.iter().map(|word| word.as_bytes_with_nul().len()).sum::<usize>();
    let longest = argv.iter().chain(env).map(|word| word.as_bytes().len()).max().unwrap_or(0);
    format!(
        "the kernel does not take {} bytes of arguments and {} of environment, the longest word with \
         {longest}: 128 KiB a word, 2 MiB in all at most",
        bytes(argv),
        bytes(env)
    )
}

/// PATH, HOME and PWD, then what the specification gives; the last of one name wins.
fn environment(spec: &ContainerSpec, work: &Path) -> Vec<CString> {
    let mut words = vec![
        ("PATH", DEFAULT_PATH.to_owned()),
        ("HOME", work.to_string_lossy().into_owned()),
        ("PWD", workdir(spec, work).to_string_lossy().into_owned()),
    ];
    if spec.status_file {
        words.push(("BORG_STATUS_FILE", work.join(STATUS_FILE).to_string_lossy().into_owned()));
    }
    if let Some(address) = spec.address {
        words.push(("BORG_ADDRESS", address.to_string()));
    }
    for (name, value) in &spec.env {
        words.retain(|(earlier, _)| earlier != name);
        words.push((name, value.clone()));
    }
    words.iter().map(|(name, value)| c_string(&format!("{name}={value}"))).collect()
}

fn c_string(text: &str) -> CString {
    CString::new(text).expect("validated words hold no zero byte")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ContainerSpec {
        ContainerSpec::new("a".parse().unwrap(), vec!["true".into()])
    }

    #[test]
    fn the_environment_holds_only_what_is_given_and_three_defaults() {
        let mut spec = spec();
        spec.env = vec![("PORT".into(), "80".into()), ("HOME".into(), "/h".into())];
        let env = environment(&spec, Path::new("/w"));
        let words: Vec<_> = env.iter().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(
            words,
            [format!("PATH={DEFAULT_PATH}").as_str(), "PWD=/w", "PORT=80", "HOME=/h"]
        );
    }

    #[test]
    fn a_program_with_a_slash_is_not_looked_up() {
        assert_eq!(candidates("./x", "/bin:/usr/bin"), [PathBuf::from("./x")]);
        assert_eq!(candidates("x", "/bin::/b"), [PathBuf::from("/bin/x"), PathBuf::from("/b/x")]);
    }
}
