//! Which cgroups this machine has, from its mount table.
//!
//! Only looks; whether they can be written is found out by `CgroupDriver::prepare`.

use std::path::PathBuf;

use super::{Hierarchies, V1, V2};

/// Finds the hierarchies in the text of `/proc/self/mounts`, for a group of ours called `name`.
///
/// v2 wherever it carries the controllers; a v2 tree beside v1 controllers is the mixed layout.
pub fn detect(mounts: &str, name: &str) -> Option<Hierarchies> {
    let mut v1 = V1 { name: name.to_owned(), ..V1::default() };
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(at), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let at = PathBuf::from(at);
        match kind {
            "cgroup2" => v1.unified = v1.unified.or(Some(at)),
            "cgroup" => {
                let has = |controller| options.split(',').any(|option| option == controller);
                for (slot, controller) in [
                    (&mut v1.cpu, "cpu"),
                    (&mut v1.cpuacct, "cpuacct"),
                    (&mut v1.blkio, "blkio"),
                    (&mut v1.memory, "memory"),
                    (&mut v1.pids, "pids"),
                ] {
                    if has(controller) && slot.is_none() {
                        *slot = Some(at.clone());
                    }
                }
            }
            _other_file_systems => {}
        }
    }
    let any_v1 = v1.cpu.is_some() || v1.memory.is_some() || v1.pids.is_some();
    match v1.unified {
        _ if any_v1 => Some(Hierarchies::V1(v1)),
        Some(mount) => Some(Hierarchies::V2(V2 { name: v1.name, mount })),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: &str = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n";
    const MEMORY: &str = "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n";
    const UNIFIED: &str = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";

    #[test]
    fn v1_with_a_v2_tree_beside_it_is_mixed() {
        let found = detect(&[CPU, MEMORY, UNIFIED].concat(), "borg").unwrap();
        assert_eq!(
            found,
            Hierarchies::V1(V1 {
                name: "borg".into(),
                cpu: Some("/sys/fs/cgroup/cpu,cpuacct".into()),
                cpuacct: Some("/sys/fs/cgroup/cpu,cpuacct".into()),
                memory: Some("/sys/fs/cgroup/memory".into()),
                pids: None,
                blkio: None,
                unified: Some("/sys/fs/cgroup/unified".into()),
            })
        );
    }

    #[test]
    fn a_v2_tree_alone_is_v2_and_nothing_is_nothing() {
        let tree = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";
        let v2 = V2 { name: "borg".into(), mount: "/sys/fs/cgroup".into() };
        assert_eq!(detect(tree, "borg"), Some(Hierarchies::V2(v2)));
        assert_eq!(detect("proc /proc proc rw 0 0\n", "borg"), None);
    }
}
