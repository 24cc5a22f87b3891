//! Other runtimes of containers, where they are installed: what the start and end of `/bin/true` costs with them.
//!
//! The bundle is as like a task's container as a runtime can make it: namespaces pid, mount, ipc, uts, cgroup and
//! user, the machine's network, limits of memory, processes and shares, no capability, no new privileges, the
//! host's programs read-only, /proc, /dev, /tmp and /run of its own. It has no filter of system calls and no
//! Landlock, which tasks have.

use crate::{Error, clock};
use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::wait;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Containers of one sample.
const STARTS: u32 = 50;
/// Where a container finds `/bin/true` and what it needs.
const PROGRAMS: [&str; 4] = ["bin", "lib", "lib64", "usr"];
/// The ids that root and others of the container have on the machine: nobody's.
const IDS: [(u32, u32); 1] = [(1_000_000, 65_536)];

/// Runs containers one after another in a mount table of its own. crun refuses cgroups of the mixed layout, so it
/// does not see the v2 tree and uses the controllers, as a borglet does; runc needs no help.
const LOOP: &str = r#"set -e
if [ "$1" = crun ] && [ ! -e /sys/fs/cgroup/cgroup.procs ] && [ -d /sys/fs/cgroup/unified ]; then
  mount --make-rprivate /; umount -l /sys/fs/cgroup/unified
fi
n=0; while [ "$n" -lt "$4" ]; do "$1" --root "$2" run --bundle "$3" "borg-figures-$$-$n"; n=$((n + 1)); done"#;

/// What one start and end took, in milliseconds; means of one sample.
#[derive(Debug, Clone, Copy)]
pub struct RuntimeCost {
    /// Of processor, of all processes that took part.
    pub cpu_ms: f64,
    /// On the clock.
    pub wall_ms: f64,
}

/// A runtime with a bundle to run.
#[derive(Debug)]
pub struct Runtime {
    name: &'static str,
    dir: TempDir,
}

impl Runtime {
    /// The runtime of this name, or `None` where it is not installed.
    ///
    /// # Errors
    /// When the bundle cannot be made.
    pub fn find(name: &'static str) -> Result<Option<Self>, Error> {
        let asked = Command::new(name).arg("--version").stdout(Stdio::null()).status();
        if !asked.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let dir = tempfile::Builder::new().prefix("borg-figures-bundle-").tempdir()?;
        // To be passed through by the container's users.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let mounts = make_root(&dir.path().join("rootfs"))?;
        fs::write(dir.path().join("config.json"), config(mounts).to_string())?;
        Ok(Some(Self { name, dir }))
    }

    /// Runs containers one after another, and waits for all that they leave.
    ///
    /// # Errors
    /// When one fails.
    pub fn sample(&self) -> Result<RuntimeCost, Error> {
        // What loses its parent becomes our child, so that it is counted too.
        set_child_subreaper(true)?;
        let (cpu, began) = (clock::children_ms()?, clock::now());
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", LOOP, "sh", self.name])
            .args([self.dir.path().join("state"), self.dir.path().to_owned()])
            .arg(STARTS.to_string())
            .stdin(Stdio::null())
            .output()?;
        let wall_ms = clock::milliseconds(began.elapsed()) / f64::from(STARTS);
        while wait() != Err(Errno::ECHILD) {}
        set_child_subreaper(false)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{}: {}: {said}", self.name, output.status).into());
        }
        Ok(RuntimeCost { cpu_ms: (clock::children_ms()? - cpu) / f64::from(STARTS), wall_ms })
    }
}

/// Makes the root that the container sees, and says what is to be mounted there.
fn make_root(root: &Path) -> Result<Vec<Value>, Error> {
    for name in ["proc", "dev", "tmp", "run"] {
        fs::create_dir_all(root.join(name))?;
    }
    let mut mounts = Vec::new();
    for name in PROGRAMS {
        let host = Path::new("/").join(name);
        if let Ok(target) = fs::read_link(&host) {
            symlink(target, root.join(name))?;
        } else if host.is_dir() {
            fs::create_dir(root.join(name))?;
            let options = ["rbind", "ro", "nosuid", "nodev"];
            mounts.push(
                json!({"destination": host, "type": "bind", "source": host, "options": options}),
            );
        }
    }
    Ok(mounts)
}

fn config(programs: Vec<Value>) -> Value {
    let mount = |at: &str, kind: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": kind, "options": options});
    let mut mounts = programs;
    mounts.extend([
        mount("/proc", "proc", &[]),
        mount("/dev", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        ),
        mount("/tmp", "tmpfs", &["nosuid", "nodev", "mode=1777"]),
        mount("/run", "tmpfs", &["nosuid", "nodev", "noexec", "mode=755"]),
    ]);
    let ids = IDS.map(|(host, size)| json!({"containerID": 0, "hostID": host, "size": size}));
    let namespaces =
        ["pid", "mount", "ipc", "uts", "cgroup", "user"].map(|kind| json!({"type": kind}));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {"bounding": [], "effective": [], "permitted": []},
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "true",
        "mounts": mounts,
        "linux": {
            "uidMappings": ids,
            "gidMappings": ids,
            "namespaces": namespaces,
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"],
            "resources": {"cpu": {"shares": 100}, "memory": {"limit": 16 << 20}, "pids": {"limit": 512}},
        },
    })
}
