//! Packages as the API takes and shows them.

use super::{Api, bad_name};
use crate::changes::{refusal, reply_of};
use crate::feed::View;
use borg_cell::master::Outcome;
use borg_cell::state::PackageRecord;
use borg_proto::command::Action;
use borg_proto::names::UserName;
use borg_proto::package::{PackageKey, PackageRef};
use borg_proto::rpc;
use borg_proto::wire::{Change, pb};
use prost::Message;
use std::time::Duration;
use tonic::Status;

/// Most bytes of a list in one answer. 4 MiB: our choice, some hundred of the largest packages.
const PAGE_BYTES: usize = 4 << 20;

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
    let state = api.view().state;
    state.has_package(&user, &package).map_err(|rejection| refusal(&rejection))?;
    if change.action.level() > state.level() {
        let (needs, has) = (change.action.level(), state.level());
        reply_of(Outcome::TooNew { needs, has })?;
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
    let after = (!request.after.is_empty()).then(|| request.after.parse::<PackageKey>());
    let after = after.transpose().map_err(bad_name("after"))?;
    let comes =
        |record: &&PackageRecord| after.as_ref().is_none_or(|after| record.package.key > *after);
    let info = |record: &PackageRecord| pb::PackageInfo {
        package: Some(record.package.as_ref().into()),
        digest: record.package.digest().to_string(),
        put_at_ms: record.put_at.0,
        jobs: u32::try_from(view.state.jobs_with_package(&record.package.key)).unwrap_or(u32::MAX),
    };
    let all = view.state.packages().filter(comes).filter(wanted).map(info);
    let (packages, next) = page(all, PAGE_BYTES);
    Ok(pb::ListPackagesResponse { packages, next, read: Some(super::views::read_info(view)) })
}

/// As many as fit into so many bytes, but one at least; and the last one's name when there are more.
fn page(all: impl Iterator<Item = pb::PackageInfo>, most: usize) -> (Vec<pb::PackageInfo>, String) {
    let (mut page, mut bytes) = (Vec::<pb::PackageInfo>::new(), 0);
    for info in all {
        bytes += info.encoded_len();
        if let Some(last) = page.last().filter(|_| bytes > most) {
            let next = last.package.as_ref().map(|package| package.name.clone());
            return (page, next.unwrap_or_default());
        }
        page.push(info);
    }
    (page, String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_too_long_for_one_answer_goes_on_after_its_last() {
        let info = |i: u32| pb::PackageInfo {
            package: Some(pb::Package { name: format!("ann/x:{i}"), ..pb::Package::default() }),
            digest: "d".repeat(100),
            ..pb::PackageInfo::default()
        };
        let of = |range: std::ops::Range<u32>, most| {
            let (page, next) = page(range.map(info), most);
            (page.len(), next)
        };
        assert_eq!(of(0..3, 1_000), (3, String::new()));
        assert_eq!(of(0..9, 350), (3, "ann/x:2".to_owned()));
        assert_eq!(of(3..9, 1), (1, "ann/x:3".to_owned()), "it always goes on");
        assert_eq!(of(0..0, 1), (0, String::new()));
    }
}
