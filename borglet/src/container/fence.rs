//! Landlock: what a task may write, where it may listen and whom it may talk to, held by the kernel
//! beside the mount table.
//!
//! The mount table shows the machine's files read-only; this says the same once more, so that a
//! mistake in one of the two opens nothing. Alone it says on which TCP ports a task of the machine's
//! network may listen (the cell hands ports out), and keeps it from abstract sockets of the machine's
//! daemons, which no mount hides. Kernels that know less enforce less; `isolation` says what is missing.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope,
};

/// The version of the kernel's interface that the rules are written for (Linux 6.12).
const KNOWN: ABI = ABI::V6;

/// Where tasks may write beside their own directories.
const WRITABLE: [&str; 5] = ["/tmp", "/run", "/var/run", "/dev", "/proc"];

/// What a task may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fence {
    /// Directories and files that it may write, beside those that every task may. None: no rules for
    /// files, which lie in the task's own image.
    pub(crate) writable: Option<Vec<PathBuf>>,
    /// TCP ports on which it may listen, beside those that the kernel picks. None: any.
    pub(crate) ports: Option<Vec<u16>>,
}

impl Fence {
    /// Puts this process, and all that it makes, behind it. `no_new_privs` must be set.
    pub(crate) fn close(&self) -> Result<(), RulesetError> {
        let mut rules = Ruleset::default().scope(Scope::AbstractUnixSocket)?;
        if self.writable.is_some() {
            rules = rules.handle_access(AccessFs::from_all(KNOWN))?;
        }
        if self.ports.is_some() {
            rules = rules.handle_access(AccessNet::BindTcp)?;
        }
        let mut rules = rules.create()?;
        if let Some(own) = &self.writable {
            // Devices are in /dev alone, which has none that stores anything, or what a privilege shows.
            let reads = AccessFs::from_read(KNOWN) | AccessFs::IoctlDev;
            rules = beneath(rules, Path::new("/"), reads)?;
            let usual = WRITABLE.iter().map(Path::new);
            for path in usual.chain(own.iter().map(PathBuf::as_path)) {
                rules = beneath(rules, path, AccessFs::from_all(KNOWN))?;
            }
        }
        for port in self.ports.iter().flatten().copied().chain([0]) {
            if self.ports.is_some() {
                rules = rules.add_rule(NetPort::new(port, AccessNet::BindTcp))?;
            }
        }
        rules.restrict_self()?;
        Ok(())
    }
}

/// Allows `access` in `path`, if that is there.
fn beneath(
    rules: landlock::RulesetCreated,
    path: &Path,
    access: landlock::BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, RulesetError> {
    let Ok(at) = PathFd::new(path) else { return Ok(rules) };
    // Of a file only what files have.
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(KNOWN) };
    rules.add_rule(PathBeneath::new(at, access))
}
