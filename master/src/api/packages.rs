//! Packages as the API takes and shows them.

use super::{Api, bad_name};
use crate::feed::View;
use borg_cell::state::PackageRecord;
use borg_proto::command::Action;
use borg_proto::names::UserName;
use borg_proto::package::{PackageKey, PackageRef};
use borg_proto::rpc;
use borg_proto::wire::{Change, pb};
use std::time::Duration;
use tonic::Status;

/// Puts a package, once a majority of the masters has its blobs.
pub(super) async fn put(
    api: &Api,
    user: UserName,
    request: pb::PutPackageRequest,
    timeout: Option<Duration>,
) -> Result<pb::PutPackageResponse, Status> {
    let change = Change::try_from(request).map_err(|error| rpc::status_of(&error))?;
    let Action::PutPackage { package } = &change.action else {
        return Err(Status::internal("another change was made of the request"));
    };
    let package = package.clone();
    // What would be refused anyway costs no copying.
    if let Some(there) = api.view().state.package(&package.key)
        && there.package != package
    {
        let (key, there) = (&package.key, there.package.digest());
        return Err(Status::already_exists(format!(
            "package {key} exists with another content, {there}: a version never changes, give this one \
             another version"
        )));
    }
    api.blobs.have_kept(&package.layers).await?;
    let done = api.changes.make(user, change, None, timeout).await?;
    Ok(pb::PutPackageResponse { index: done.index, digest: package.digest().to_string() })
}

/// The package that a user means.
pub(super) fn meant(user: &UserName, text: &str) -> Result<PackageKey, Status> {
    let named: PackageRef = text.parse().map_err(bad_name("package"))?;
    Ok(named.of(user))
}

pub(super) fn list(
    view: &View,
    user: &UserName,
    request: &pb::ListPackagesRequest,
) -> Result<pb::ListPackagesResponse, Status> {
    // All versions, or one of them.
    let (name, version) = match request.package.split_once(':') {
        Some((name, _)) => (name, Some(meant(user, &request.package)?)),
        None => (request.package.as_str(), None),
    };
    let own = format!("{user}/{name}");
    let name = if name.contains('/') { name } else { own.as_str() };
    let wanted = |record: &&PackageRecord| {
        let key = &record.package.key;
        (request.user.is_empty() || key.user.as_str() == request.user)
            && (request.package.is_empty() || format!("{}/{}", key.user, key.name) == name)
            && version.as_ref().is_none_or(|version| version == key)
    };
    let info = |record: &PackageRecord| pb::PackageInfo {
        package: Some(record.package.as_ref().into()),
        digest: record.package.digest().to_string(),
        put_at_ms: record.put_at.0,
        jobs: u32::try_from(view.state.jobs_with_package(&record.package.key)).unwrap_or(u32::MAX),
    };
    Ok(pb::ListPackagesResponse {
        packages: view.state.packages().filter(wanted).map(info).collect(),
        read: Some(super::views::read_info(view)),
    })
}
