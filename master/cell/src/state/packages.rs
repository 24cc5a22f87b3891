//! Packages: which there are, and which jobs need them.
//!
//! Here is what a package is called and what it consists of. Its blobs, which may be large, are files of
//! the masters and machines; which of them has which is not in the state.
//!
//! Invariants: what a package's version stands for never changes while it is there; the packages that a
//! live job names are there; all packages say the same of a layer.

use super::turn::Turn;
use super::{Answer, CellState, Job, Version};
use crate::event::EventKind;
use crate::rejection::{PackageRejection, Rejection};
use borg_proto::package::{Digest, Layer, Package, PackageKey, PackageKind};
use borg_proto::spec::SpecError;
use borg_proto::{JobId, JobSpec, Millis, UserName};
use imbl::{OrdMap, OrdSet};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most packages of a cell, each version counted. 10,000: our choice; bounds what their descriptions take.
pub const MAX_PACKAGES: usize = 10_000;
/// What of them one user may have. 2,000: our choice, a fifth.
pub const MAX_PACKAGES_OF_USER: usize = 2_000;

/// A package of the cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageRecord {
    /// What it is.
    pub package: Arc<Package>,
    /// When it was put, in cell time.
    pub put_at: Millis,
}

/// The packages of a cell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Packages {
    pub(crate) all: OrdMap<PackageKey, PackageRecord>,
    /// Live jobs that name each. An index.
    pub(crate) users: OrdMap<PackageKey, OrdSet<JobId>>,
}

/// The packages of a cell at some moment. Equal marks are of the same packages; others may be, as after a
/// checkpoint was loaded. Costs nothing to make and compare.
#[derive(Debug, Clone, Default)]
pub struct PackagesMark(OrdMap<PackageKey, PackageRecord>);

impl PartialEq for PackagesMark {
    fn eq(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

impl Eq for PackagesMark {}

impl CellState {
    /// A package.
    #[must_use]
    pub fn package(&self, key: &PackageKey) -> Option<&PackageRecord> {
        self.packages.all.get(key)
    }

    /// All packages, by name.
    pub fn packages(&self) -> impl Iterator<Item = &PackageRecord> {
        self.packages.all.values()
    }

    /// How many live jobs name a package.
    #[must_use]
    pub fn jobs_with_package(&self, key: &PackageKey) -> usize {
        self.packages.users.get(key).map_or(0, OrdSet::len)
    }

    /// Which packages there are, to find out cheaply whether there are others later.
    #[must_use]
    pub fn packages_mark(&self) -> PackagesMark {
        PackagesMark(self.packages.all.clone())
    }

    /// Blobs of all packages, each once, with their sizes.
    #[must_use]
    pub fn blobs(&self) -> BTreeMap<Digest, u64> {
        let layers = self.packages().flat_map(|record| &record.package.layers);
        layers.map(|layer| (layer.digest, layer.bytes)).collect()
    }

    /// The packages of a task of a live job: the image first, if it has one, then the others as its
    /// version names them.
    #[must_use]
    pub fn packages_of(&self, job: &Job, version: &Version) -> Vec<Arc<Package>> {
        let of = |key: PackageKey| self.package(&key).map(|record| record.package.clone());
        named(&version.spec, job.owner()).filter_map(of).collect()
    }

    /// Whether this very package is there, if a user may put it.
    ///
    /// # Errors
    /// Why it would be refused.
    pub fn has_package(&self, user: &UserName, package: &Package) -> Result<bool, Rejection> {
        package.check().map_err(Rejection::Spec)?;
        self.check_package_owner(user, &package.key)?;
        if let Some(there) = self.package(&package.key) {
            if *there.package == *package {
                return Ok(true);
            }
            let (package, there) = (package.key.clone(), there.package.digest());
            return Err(PackageRejection::Exists { package, there }.into());
        }
        let full = |what: &str, there: usize, most: usize| Rejection::CellFull {
            what: what.to_owned(),
            there: there as u64,
            most: most as u64,
        };
        let all = self.packages.all.len();
        if all >= MAX_PACKAGES {
            return Err(full("packages", all, MAX_PACKAGES));
        }
        let owner = &package.key.user;
        let own = self.packages.all.keys().filter(|key| key.user == *owner).count();
        if own >= MAX_PACKAGES_OF_USER {
            return Err(full(&format!("packages of {owner}"), own, MAX_PACKAGES_OF_USER));
        }
        self.check_layers(package).map(|()| false)
    }

    /// Everybody may use a package; its name is its owner's.
    fn check_package_owner(&self, user: &UserName, package: &PackageKey) -> Result<(), Rejection> {
        if *user == package.user || self.is_admin(user) {
            return Ok(());
        }
        let (user, package) = (user.clone(), package.clone());
        Err(PackageRejection::OfOthers { package, user }.into())
    }

    /// A layer is what other packages say it is: on machines they share it.
    fn check_layers(&self, package: &Package) -> Result<(), Rejection> {
        let new: BTreeMap<Digest, (usize, &Layer)> = package
            .layers
            .iter()
            .enumerate()
            .map(|(i, layer)| (layer.digest, (i, layer)))
            .collect();
        for there in self.packages() {
            for layer in &there.package.layers {
                let Some((i, new)) = new.get(&layer.digest).filter(|(_, new)| *new != layer) else {
                    continue;
                };
                return Err(Rejection::Spec(SpecError {
                    field: format!("package.layers[{i}]"),
                    value: format!("{} bytes, {} unpacked", new.bytes, new.unpacked_bytes),
                    why: format!(
                        "is not what package {} says of layer {}: {} bytes, {} unpacked",
                        there.package.key, layer.digest, layer.bytes, layer.unpacked_bytes
                    ),
                }));
            }
        }
        Ok(())
    }
}

/// The packages that a job of `owner` names, with the image first.
pub(crate) fn named<'a>(
    spec: &'a JobSpec,
    owner: &'a UserName,
) -> impl Iterator<Item = PackageKey> + 'a {
    spec.task.image.iter().chain(&spec.task.packages).map(|package| package.of(owner))
}

impl Turn<'_> {
    /// Gives a name to blobs. The same again changes nothing.
    pub(super) fn put_package(
        &mut self,
        user: &UserName,
        package: &Arc<Package>,
    ) -> Result<Answer, Rejection> {
        if self.state.has_package(user, package)? {
            return Ok(Answer::None);
        }
        let record = PackageRecord { package: package.clone(), put_at: self.at };
        self.state.packages.all.insert(package.key.clone(), record);
        self.emit(EventKind::PackagePut(package.key.clone()));
        Ok(Answer::None)
    }

    /// Forgets a package that no live job names.
    pub(super) fn remove_package(
        &mut self,
        user: &UserName,
        package: &PackageKey,
    ) -> Result<Answer, Rejection> {
        self.state.check_package_owner(user, package)?;
        if self.state.package(package).is_none() {
            return Err(PackageRejection::Unknown { package: package.clone() }.into());
        }
        let first = self.state.packages.users.get(package).and_then(|jobs| jobs.get_min());
        if let Some(job) = first.and_then(|id| self.state.job(*id)) {
            let (package, job) = (package.clone(), job.key.clone());
            return Err(PackageRejection::InUse { package, job }.into());
        }
        self.state.packages.all.remove(package);
        self.emit(EventKind::PackageRemoved(package.clone()));
        Ok(Answer::None)
    }

    /// Whether what a new job names is there, and is what it is taken for.
    pub(super) fn check_packages(&self, user: &UserName, spec: &JobSpec) -> Result<(), Rejection> {
        let task = &spec.task;
        let find = |field: &str, key: PackageKey| match self.state.package(&key) {
            Some(record) => Ok(&record.package),
            None => Err(PackageRejection::NotThere { field: field.to_owned(), package: key }),
        };
        if let Some(image) = &task.image {
            let package = find("task.image", image.of(user))?;
            let key = || package.key.clone();
            let Some(config) = &package.image else {
                let (package, kind) = (key(), package.kind);
                return Err(PackageRejection::NotAnImage { package, kind }.into());
            };
            if task.command.is_empty() && config.command().first().is_none_or(String::is_empty) {
                return Err(PackageRejection::NoEntrypoint { package: key() }.into());
            }
        }
        for (i, package) in task.packages.iter().enumerate() {
            let field = format!("task.packages[{i}]");
            let package = find(&field, package.of(user))?;
            if package.kind == PackageKind::Image {
                let package = package.key.clone();
                return Err(PackageRejection::IsAnImage { field, package }.into());
            }
        }
        Ok(())
    }

    /// A job that names packages begins.
    pub(super) fn use_packages(&mut self, job: &Job) {
        for key in needed(job) {
            self.state.packages.users.entry(key).or_default().insert(job.id);
        }
    }

    /// A job is over: it holds its packages no longer.
    pub(super) fn release_packages(&mut self, id: JobId) {
        let Some(job) = self.state.jobs.get(&id).cloned() else { return };
        for key in needed(&job) {
            let users = &mut self.state.packages.users;
            if let Some(jobs) = users.get_mut(&key) {
                jobs.remove(&id);
                if jobs.is_empty() {
                    users.remove(&key);
                }
            }
        }
    }
}

/// The packages of all versions that a job's tasks may need.
pub(super) fn needed(job: &Job) -> BTreeSet<PackageKey> {
    job.held_versions().flat_map(|version| named(&version.spec, job.owner())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Cell, service, user};
    use borg_proto::command::Action;
    use borg_proto::package::ImageConfig;

    fn package(name: &str, kind: PackageKind) -> Package {
        let layer = Layer { digest: Digest::of(name.as_bytes()), bytes: 2_048, unpacked_bytes: 9 };
        let image = (kind == PackageKind::Image).then(ImageConfig::default);
        let key = name.parse().unwrap();
        Package { key, kind, layers: vec![layer], image, arch: String::new() }
    }

    fn put(cell: &mut Cell, by: &str, package: Package) -> Result<(), String> {
        let action = Action::PutPackage { package: Arc::new(package) };
        cell.apply(user(by), action).map(drop).map_err(|refused| refused.to_string())
    }

    fn remove(cell: &mut Cell, by: &str, package: &str) -> Result<(), String> {
        let action = Action::RemovePackage { package: package.parse().unwrap() };
        cell.apply(user(by), action).map(drop).map_err(|refused| refused.to_string())
    }

    fn with(image: Option<&str>, packages: &[&str], command: &[&str]) -> JobSpec {
        let mut spec = service("web", 1, 100, 4 << 20);
        let task = Arc::make_mut(&mut spec.task);
        task.image = image.map(|image| image.parse().unwrap());
        task.packages = packages.iter().map(|package| package.parse().unwrap()).collect();
        task.command = command.iter().map(|&word| word.to_owned()).collect();
        spec
    }

    #[test]
    fn a_version_never_changes_and_the_same_again_is_fine() {
        let mut cell = Cell::new();
        let tools = package("ann/tools:1", PackageKind::Directory);
        put(&mut cell, "ann", tools.clone()).unwrap();
        put(&mut cell, "ann", tools.clone()).unwrap();
        let other = Package { layers: package("x/y:1", PackageKind::Binary).layers, ..tools };
        let refused = put(&mut cell, "ann", other).unwrap_err();
        assert!(
            refused.starts_with("package ann/tools:1 exists with another content, sha256:"),
            "{refused}"
        );
        assert!(refused.ends_with("give this one another version"), "{refused}");
        assert_eq!(
            put(&mut cell, "bob", package("ann/tools:2", PackageKind::Directory)).unwrap_err(),
            "package ann/tools:2 is not bob's: only ann and admin may put or remove it"
        );
        put(&mut cell, "admin", package("ann/tools:2", PackageKind::Directory)).unwrap();
        assert_eq!(cell.state.packages().count(), 2);
        assert_eq!(cell.state.audit(), []);
    }

    /// Else a stranger's package could make the starts of others fail, or claim their machines' room.
    #[test]
    fn no_package_says_something_else_of_a_layer_than_those_that_have_it() {
        let mut cell = Cell::new();
        let tools = package("ann/tools:1", PackageKind::Directory);
        put(&mut cell, "ann", tools.clone()).unwrap();
        let mut same = Package { key: "bob/tools:1".parse().unwrap(), ..tools };
        put(&mut cell, "bob", same.clone()).unwrap();
        same.key = "bob/tools:2".parse().unwrap();
        same.layers[0].unpacked_bytes = 0;
        let refused = put(&mut cell, "bob", same).unwrap_err();
        assert!(
            refused.starts_with(
                "package.layers[0]: 2048 bytes, 0 unpacked is not what package ann/tools:1 says of layer"
            ),
            "{refused}"
        );
    }

    #[test]
    fn what_a_job_names_must_be_there_and_be_what_it_is_taken_for() {
        let mut cell = Cell::new();
        put(&mut cell, "ann", package("ann/tools:1", PackageKind::Directory)).unwrap();
        put(&mut cell, "ann", package("ann/base:1", PackageKind::Image)).unwrap();
        let mut refused = |spec| cell.try_submit("ann", spec).unwrap_err().to_string();
        assert_eq!(
            refused(with(Some("base:2"), &[], &["/x"])),
            "task.image: there is no package ann/base:2: put it first, borgctl package put"
        );
        assert_eq!(
            refused(with(None, &["tools:1", "bob/x:1"], &["/x"])),
            "task.packages[1]: there is no package bob/x:1: put it first, borgctl package put"
        );
        assert_eq!(
            refused(with(Some("tools:1"), &[], &["/x"])),
            "task.image: package ann/tools:1 is of kind directory, no image: name it in task.packages"
        );
        assert_eq!(
            refused(with(None, &["base:1"], &["/x"])),
            "task.packages[0]: package ann/base:1 is an image: name it in task.image"
        );
        assert_eq!(
            refused(with(Some("base:1"), &[], &[])),
            "task.command: [] is empty, and image ann/base:1 has neither entrypoint nor command: name \
             the program to run"
        );
        assert_eq!(
            refused(with(None, &[], &[])),
            "task.command: [] is empty: name the program to run"
        );
        cell.try_submit("bob", with(Some("ann/base:1"), &["ann/tools:1"], &["/x"])).unwrap();
        assert_eq!(cell.state.audit(), []);
    }

    #[test]
    fn a_package_stays_for_as_long_as_a_live_job_names_it() {
        let mut cell = Cell::new();
        put(&mut cell, "ann", package("ann/tools:1", PackageKind::Directory)).unwrap();
        cell.submit("bob", with(None, &["ann/tools:1"], &["/x"]));
        assert_eq!(
            remove(&mut cell, "ann", "ann/tools:1").unwrap_err(),
            "package ann/tools:1 is in use by job bob/web: kill that first"
        );
        assert_eq!(CellState::decode(&cell.state.encode()).unwrap(), cell.state);
        cell.kill("bob", "bob/web", &[]).unwrap();
        assert!(remove(&mut cell, "bob", "ann/tools:1").unwrap_err().contains("is not bob's"));
        remove(&mut cell, "ann", "ann/tools:1").unwrap();
        assert_eq!(
            remove(&mut cell, "ann", "ann/tools:1").unwrap_err(),
            "there is no package ann/tools:1"
        );
        assert_eq!(cell.state.audit(), []);
        assert_eq!(CellState::decode(&cell.state.encode()).unwrap(), cell.state);
    }

    #[test]
    fn a_checkpoint_without_a_package_that_a_live_job_names_is_damaged() {
        let mut cell = Cell::new();
        put(&mut cell, "ann", package("ann/tools:1", PackageKind::Directory)).unwrap();
        cell.submit("ann", with(None, &["tools:1"], &["/x"]));
        cell.state.packages.all = OrdMap::new();
        let damaged = CellState::decode(&cell.state.encode()).unwrap_err().to_string();
        assert!(
            damaged.contains("job ann/web names package ann/tools:1, which is not there"),
            "{damaged}"
        );
    }
}
