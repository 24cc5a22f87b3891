//! From the path of a volume that a task asks for to what is mounted for it.
//!
//! Leaves the allowing by text to the supervisor, and the mounting to the shim. Invariant: where
//! an allowed prefix leads is found out once, before any task can be at work in it; from there on
//! no link is followed, neither here nor by the shim. So a task that may write in a directory
//! cannot make it lead anywhere else for another one, however it times that.

use crate::container::{Bind, Prefix};
use borg_proto::names::shorten;
use borg_proto::spec::Volume;
use borglet_supervisor::volumes::{self, AllowedVolume};
use std::path::{Path, PathBuf};

/// What tasks of this machine may see of its files.
#[derive(Debug)]
pub(crate) struct Volumes {
    allowed: Vec<AllowedVolume>,
    /// Where each of them led when the borglet started.
    real: Vec<PathBuf>,
    hidden: Vec<PathBuf>,
}

impl Volumes {
    /// Finds out where the allowed prefixes lead. `hidden` are real paths of directories that no
    /// volume may show.
    pub(crate) fn new(allowed: Vec<AllowedVolume>, hidden: Vec<PathBuf>) -> Self {
        let real = allowed.iter().map(|rule| real(Path::new(&rule.prefix))).collect();
        Self { allowed, real, hidden }
    }

    /// What to mount for a volume.
    ///
    /// # Errors
    /// A sentence for people when it is not allowed, or is not there.
    pub(crate) fn bind(&self, volume: &Volume) -> Result<Bind, String> {
        let rule = volumes::check(&self.allowed, volume)?;
        let rules = self.allowed.iter().zip(&self.real);
        let real = rules.filter(|(one, _)| *one == rule).map(|(_, real)| real).next_back();
        let real = real.expect("the rule is one of ours").clone();
        let path = PathBuf::from(&volume.path);
        let within = Prefix { path: rule.prefix.clone().into(), real: real.clone() };
        let bind = Bind { path, writable: volume.writable, within: Some(within) };
        let source = bind.source();
        let refuse = |why: &str| Err(format!("volume {:?} {why}", shorten(&volume.path)));
        match source.canonicalize() {
            Err(error) => return refuse(&error.to_string()),
            Ok(found) if found != source => {
                return refuse(&format!("leads through a symbolic link below {}", real.display()));
            }
            Ok(_) => {}
        }
        for hidden in &self.hidden {
            // The shim covers it where it lies; whoever may write around it could move it.
            if volume.writable && *hidden != source && hidden.starts_with(&source) {
                return refuse("is to be writable and holds a directory that is hidden from tasks");
            }
            // Unless the operator allowed a part of it by name.
            let by_name = real != *hidden && real.starts_with(hidden);
            if source.starts_with(hidden) && !by_name {
                return refuse("is hidden from tasks");
            }
        }
        Ok(bind)
    }
}

/// Where a path leads, or the path itself as long as it is not there.
pub(crate) fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn ask(volumes: &Volumes, path: &Path) -> Result<PathBuf, String> {
        let path = path.to_str().unwrap().to_owned();
        volumes.bind(&Volume { path, writable: true }).map(|bind| bind.within.unwrap().real)
    }

    #[test]
    fn a_prefix_may_be_a_link_but_nothing_below_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("data/a")).unwrap();
        symlink("data", root.join("alias")).unwrap();
        symlink("a", root.join("data/b")).unwrap();
        let rule = AllowedVolume::parse(root.join("alias").to_str().unwrap()).unwrap();
        let volumes = Volumes::new(vec![rule], Vec::new());
        // Too late: what the prefix led to at the start is what counts.
        fs::remove_file(root.join("alias")).unwrap();
        symlink("/etc", root.join("alias")).unwrap();
        assert_eq!(ask(&volumes, &root.join("alias/a")).unwrap(), root.join("data"));
        let refused = ask(&volumes, &root.join("alias/b")).unwrap_err();
        assert!(refused.contains("leads through a symbolic link"), "{refused}");
        assert!(ask(&volumes, &root.join("alias/none")).unwrap_err().contains("No such file"));
    }

    #[test]
    fn no_volume_shows_what_is_hidden_unless_a_part_of_it_is_allowed_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for sub in ["cell/ca", "cell/shared/x", "other"] {
            fs::create_dir_all(root.join(sub)).unwrap();
        }
        let rule = |path: &Path| AllowedVolume::parse(path.to_str().unwrap()).unwrap();
        let rules = vec![rule(&root), rule(&root.join("cell/shared"))];
        let volumes = Volumes::new(rules, vec![root.join("cell")]);
        for good in ["other", "cell/shared", "cell/shared/x"] {
            ask(&volumes, &root.join(good)).unwrap();
        }
        let around = Volume { path: root.to_str().unwrap().to_owned(), writable: false };
        volumes.bind(&around).unwrap();
        for bad in ["", "cell", "cell/ca"] {
            let refused = ask(&volumes, &root.join(bad)).unwrap_err();
            assert!(refused.contains("hidden from tasks"), "{refused}");
        }
    }
}
