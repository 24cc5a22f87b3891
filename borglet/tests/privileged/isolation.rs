//! What a task sees of its machine, and what it may do to it.

use std::os::unix::fs::{PermissionsExt, symlink};

use borglet::container::{Bind, Prefix, User};
use borglet::isolation::IsolationWanted;

use super::machine::{Machine, exited, id, shell, visible_dir};

#[test]
fn whether_images_run_is_tried_and_told_and_nothing_of_the_trial_is_left() {
    let bare = Machine::with(IsolationWanted::NONE);
    assert!(!bare.executor.isolation().images);
    bare.close();
    let Some(machine) = Machine::full() else { return };
    let isolation = machine.executor.isolation();
    let told = isolation.missing.iter().any(|why| why.contains("no task that brings an image"));
    assert_eq!(isolation.images, !told, "{:?}", isolation.missing);
    assert!(!machine.config.dir.join(".trial").exists());
    machine.close();
}

#[test]
fn a_task_sees_only_its_own_processes() {
    let Some(machine) = Machine::full() else { return };
    let (record, said) = machine.run(shell("a", "cd /proc; echo $$; echo [0-9]*; hostname"));
    assert_eq!(record.outcome, exited(0));
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[0], "2", "pid 1 is the init");
    assert!(lines[1].split(' ').count() <= 3, "processes: {}", lines[1]);
    assert_eq!(lines[2], "a");
    machine.close();
}

/// Whoever could write the memory of pid 1 could forge how the task ended.
#[test]
fn a_task_cannot_reach_the_memory_of_its_init() {
    let Some(machine) = Machine::full() else { return };
    // The task's own memory can be opened, so that the refusal is about pid 1.
    let script =
        "exec 3<>/proc/self/mem && echo own; (exec 4<>/proc/1/mem) 2>/dev/null || echo refused";
    let (_, said) = machine.run(shell("a", script));
    assert_eq!(said, "own\nrefused\n");
    machine.close();
}

#[test]
fn the_root_is_read_only_and_tmp_is_private() {
    let Some(machine) = Machine::full() else { return };
    let marker = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    let script = "for d in / /etc /usr /var /sys/fs/cgroup /proc/sys/kernel; do \
        touch $d/borg-was-here 2>/dev/null && echo wrote $d; done; \
        touch /tmp/a && echo tmp; touch $HOME/b && echo home; touch /dev/shm/c && echo shm; \
        cd /tmp; echo *; echo x > /proc/sys/kernel/domainname 2>/dev/null && echo sysctl; \
        cat /dev/null && echo null; ls /dev/vda /dev/sda 2>/dev/null; pwd";
    let (_, said) = machine.run(shell("a", script));
    let names = said.lines().nth(3).unwrap();
    assert!(!names.contains(marker.path().file_name().unwrap().to_str().unwrap()), "{names}");
    let rest: Vec<_> = said.lines().filter(|line| *line != names).collect();
    assert_eq!(rest, ["tmp", "home", "shm", "null", "/tmp"]);
    assert!(!std::path::Path::new("/tmp/a").exists());
    machine.close();
}

#[test]
fn the_borglets_own_files_and_other_tasks_are_hidden() {
    let Some(machine) = Machine::full() else { return };
    machine.run(shell("other", "echo secret > $HOME/secret"));
    let secret = machine.config.dir.join("tasks/other/work/secret");
    assert!(secret.exists());
    let script = format!("cat {}; ls {}", secret.display(), machine.config.dir.display());
    let (record, said) = machine.run(shell("a", &script));
    assert_eq!((record.outcome, said.as_str()), (exited(0), "tasks\n"));
    machine.close();
}

#[test]
fn a_bind_shows_a_path_where_it_is_on_the_host_and_is_writable_only_if_said() {
    let Some(machine) = Machine::full() else { return };
    let shared = tempfile::tempdir().unwrap();
    let path = shared.path().join("dir");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("in"), "hello").unwrap();
    let script = format!("cd {}; cat in; echo out > out; echo $?", path.display());
    let mut spec = shell("a", &script);
    spec.binds = vec![Bind { path: path.clone(), writable: true, within: None }];
    let mut read_only = shell("b", &script);
    read_only.binds = vec![Bind { path: path.clone(), writable: false, within: None }];
    // Kernels before 6.3 do not map ids on tmpfs.
    let refused = Machine::full().unwrap();
    if let Err(error) = refused.executor.start(spec.clone()) {
        assert!(error.to_string().contains("ids of its own"), "{error}");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
    } else {
        refused.wait(&id("a"));
    }
    refused.close();
    drop(std::fs::remove_file(path.join("out")));
    assert_eq!(machine.run(spec).1, "hello0\n");
    assert_eq!(std::fs::read_to_string(path.join("out")).unwrap(), "out\n");
    assert_eq!(machine.run(read_only).1, "hello2\n");
    machine.close();
}

#[test]
fn root_in_a_container_keeps_few_capabilities_and_gains_none() {
    let Some(machine) = Machine::full() else { return };
    let script = "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status | tr -d '\\t'; \
        mount -t tmpfs x /mnt 2>/dev/null || echo no mount; \
        cat /proc/1/environ 2>/dev/null || echo no peeking";
    let (_, said) = machine.run(shell("a", script));
    let few = "00000000000004fb";
    let expected = format!("CapEff:{few}\nCapBnd:{few}\nNoNewPrivs:1\nno mount\n");
    assert!(said.starts_with(&expected), "{said}");
    machine.close();
}

#[test]
fn a_task_of_another_user_owns_its_directory_and_has_no_capabilities() {
    let Some(machine) = Machine::full() else { return };
    let script =
        "id -u; id -G; grep CapEff /proc/self/status | tr -d '\\t'; touch $HOME/a && echo ok";
    let mut spec = shell("a", script);
    spec.user = Some(User { uid: 65534, gid: 65534 });
    assert_eq!(machine.run(spec).1, "65534\n65534\nCapEff:0000000000000000\nok\n");
    machine.close();
}

/// A task of another job swaps a directory for a link after the volume was found to be allowed.
#[test]
fn a_volume_that_became_a_link_after_its_check_is_not_followed() {
    let Some(machine) = Machine::full() else { return };
    let shared = tempfile::tempdir().unwrap();
    let prefix = Prefix { path: shared.path().into(), real: shared.path().into() };
    std::fs::create_dir(shared.path().join("real")).unwrap();
    symlink("/etc", shared.path().join("swapped")).unwrap();
    symlink("/proc/self/root/etc", shared.path().join("magic")).unwrap();
    symlink("real", shared.path().join("inside")).unwrap();
    for (name, below) in [("a", "swapped"), ("b", "swapped/ssl"), ("c", "magic"), ("d", "inside")] {
        let mut spec = shell(name, "echo started");
        let path = shared.path().join(below);
        spec.binds = vec![Bind { path, writable: true, within: Some(prefix.clone()) }];
        let refused = machine.executor.start(spec).unwrap_err().to_string();
        assert!(refused.contains("Too many levels of symbolic links"), "{refused}");
    }
    machine.close();
}

#[test]
fn a_volume_below_a_linked_prefix_is_seen_under_the_path_that_was_asked_for() {
    let Some(root) = visible_dir() else { return };
    let Some(machine) = Machine::full() else { return };
    std::fs::create_dir_all(root.path().join("data/a")).unwrap();
    std::fs::write(root.path().join("data/a/file"), "hello").unwrap();
    let alias = tempfile::tempdir().unwrap().path().join("alias");
    for (name, link) in [("a", root.path().join("alias")), ("b", alias)] {
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(root.path().join("data"), &link).unwrap();
        let prefix = Prefix { path: link.clone(), real: root.path().join("data") };
        let (dir, file) = (link.join("a"), link.join("a/file"));
        let script = format!(
            "cat {}; grep -o 'nosuid,nodev' /proc/self/mounts | sort -u; grep -c '/a/file ' \
             /proc/self/mounts",
            file.display()
        );
        let mut spec = shell(name, &script);
        let bind = |path| Bind { path, writable: false, within: Some(prefix.clone()) };
        spec.binds = vec![bind(file), bind(dir)];
        assert_eq!(machine.run(spec).1, "hellonosuid,nodev\n1\n");
    }
    machine.close();
}

#[test]
fn hidden_directories_are_empty_but_for_what_is_shown_below_them() {
    let Some(machine) = Machine::hiding() else { return };
    let cell = machine.config.hidden[0].clone();
    for dir in ["ca", "shared"] {
        std::fs::create_dir_all(cell.join(dir)).unwrap();
        std::fs::write(cell.join(dir).join("file"), dir).unwrap();
    }
    let script = format!("cd {}; ls; ls shared; touch x 2>/dev/null || echo no", cell.display());
    let mut spec = shell("a", &script);
    spec.binds = vec![Bind { path: cell.join("shared"), writable: true, within: None }];
    let mut around = shell("b", &script);
    let outer = Bind { path: cell.parent().unwrap().into(), writable: false, within: None };
    around.binds = vec![outer, spec.binds[0].clone()];
    assert_eq!(machine.run(around).1, "machine\nshared\nfile\nno\n");
    // The machine's own directory lies in there too, and the task's in that.
    assert_eq!(machine.run(spec).1, "machine\nshared\nfile\nno\n");
    machine.close();
}

#[test]
fn sockets_in_run_are_out_of_reach_and_names_are_looked_up_as_on_the_host() {
    let Some(machine) = Machine::full() else { return };
    let host = tempfile::tempdir_in("/run").unwrap();
    let script = format!(
        "test -e {} || echo gone; touch /run/x && echo mine; cat /etc/resolv.conf",
        host.path().display()
    );
    let names = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert_eq!(machine.run(shell("a", &script)).1, format!("gone\nmine\n{names}"));
    assert!(!std::path::Path::new("/run/x").exists());
    let mut asked = shell("b", &format!("test -e {} && echo there", host.path().display()));
    asked.binds = vec![Bind { path: "/run".into(), writable: false, within: None }];
    assert_eq!(machine.run(asked).1, "there\n");
    machine.close();
}
