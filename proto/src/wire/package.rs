//! Packages, and who has their blobs.

use super::error::{At, WireError, check_len, each, required};
use super::machine::check_address;
use super::pb;
use super::spec::known;
use crate::command::Action;
use crate::package::{Digest, DigestError, ImageConfig, Layer, MAX_LAYERS, Package, PackageKind};
use crate::poll::{BlobReport, BlobSource, Holder};
use std::sync::Arc;

/// Most blobs that a machine tells of, or is told where to get, at once. 1,024: our choice; a machine with
/// more of them gives only some to others.
pub const MAX_BLOBS: usize = 1_024;
/// Most machines in one report of where a blob could not be had. 64: our choice.
const MAX_FAILED: usize = 64;

impl From<DigestError> for WireError {
    fn from(error: DigestError) -> Self {
        Self::new("", error, "is no digest")
    }
}

fn digest(bytes: &[u8]) -> Result<Digest, WireError> {
    Digest::try_from(bytes).at("digest")
}

impl From<PackageKind> for pb::PackageKind {
    fn from(kind: PackageKind) -> Self {
        match kind {
            PackageKind::Image => Self::Image,
            PackageKind::Directory => Self::Directory,
            PackageKind::Binary => Self::Binary,
        }
    }
}

fn kind(value: i32) -> Result<PackageKind, WireError> {
    Ok(match known("kind", value)? {
        pb::PackageKind::Image => PackageKind::Image,
        pb::PackageKind::Directory => PackageKind::Directory,
        pb::PackageKind::Binary => PackageKind::Binary,
        pb::PackageKind::Unspecified => {
            let why = "is given: image, directory or binary";
            return Err(WireError::new("kind", "nothing", why));
        }
    })
}

impl From<&Layer> for pb::PackageLayer {
    fn from(layer: &Layer) -> Self {
        Self {
            digest: layer.digest.0.to_vec(),
            bytes: layer.bytes,
            unpacked_bytes: layer.unpacked_bytes,
        }
    }
}

impl TryFrom<pb::PackageLayer> for Layer {
    type Error = WireError;
    fn try_from(layer: pb::PackageLayer) -> Result<Self, WireError> {
        Ok(Self {
            digest: digest(&layer.digest)?,
            bytes: layer.bytes,
            unpacked_bytes: layer.unpacked_bytes,
        })
    }
}

impl From<&Package> for pb::Package {
    fn from(package: &Package) -> Self {
        Self {
            name: package.key.to_string(),
            kind: pb::PackageKind::from(package.kind).into(),
            layers: package.layers.iter().map(Into::into).collect(),
            image: package.image.as_ref().map(|image| pb::ImageConfig {
                entrypoint: image.entrypoint.clone(),
                cmd: image.cmd.clone(),
                env: image.env.clone(),
                user: image.user.clone(),
                workdir: image.workdir.clone(),
            }),
            arch: package.arch.clone(),
        }
    }
}

impl TryFrom<pb::Package> for Package {
    type Error = WireError;
    fn try_from(package: pb::Package) -> Result<Self, WireError> {
        let image = package.image.map(|image| ImageConfig {
            entrypoint: image.entrypoint,
            cmd: image.cmd,
            env: image.env,
            user: image.user,
            workdir: image.workdir,
        });
        let package = Self {
            key: package.name.parse().at("name")?,
            kind: kind(package.kind)?,
            layers: each("layers", package.layers, MAX_LAYERS, Layer::try_from)?,
            image,
            arch: package.arch,
        };
        package.check()?;
        Ok(package)
    }
}

/// What a client asks for, or an entry holds.
pub(super) fn put(package: Option<pb::Package>) -> Result<Action, WireError> {
    let package = Arc::new(required("package", package)?.try_into().at("package")?);
    Ok(Action::PutPackage { package })
}

impl From<&BlobSource> for pb::BlobSource {
    fn from(source: &BlobSource) -> Self {
        let (machine, address) = match &source.from {
            Holder::Machine { machine, address } => (machine.to_string(), address.clone()),
            Holder::Master => (String::new(), String::new()),
        };
        Self { digest: source.digest.0.to_vec(), machine, address }
    }
}

impl TryFrom<pb::BlobSource> for BlobSource {
    type Error = WireError;
    fn try_from(source: pb::BlobSource) -> Result<Self, WireError> {
        let from = if source.machine.is_empty() {
            Holder::Master
        } else {
            check_address("address", &source.address)?;
            Holder::Machine {
                machine: source.machine.parse().at("machine")?,
                address: source.address,
            }
        };
        Ok(Self { digest: digest(&source.digest)?, from })
    }
}

impl From<&BlobReport> for pb::BlobReport {
    fn from(report: &BlobReport) -> Self {
        Self {
            digest: report.digest.0.to_vec(),
            held: report.held,
            have: report.have,
            failed: report.failed.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<pb::BlobReport> for BlobReport {
    type Error = WireError;
    fn try_from(report: pb::BlobReport) -> Result<Self, WireError> {
        check_len("failed", report.failed.len(), MAX_FAILED)?;
        Ok(Self {
            digest: digest(&report.digest)?,
            held: report.held,
            have: report.have,
            failed: each("failed", report.failed, MAX_FAILED, |machine| machine.parse())?,
        })
    }
}
