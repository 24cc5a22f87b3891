//! Packages: what a task brings along to its machine (Borg paper, sections 2.3 and 3.2).
//!
//! A package has a name and a version, and never changes: a version stands for the same layers for
//! as long as it is there. A layer is a tar file that is named by the SHA-256 of its bytes, its
//! [`Digest`]; masters and borglets keep layers as blobs, files of that name. What is in a layer, and
//! what may not be, is in [`crate::layer`].
//!
//! Invariant: a [`Package`] says everything that a machine has to know to show it to a task.

use crate::names::{NameError, UserName, shorten};
use crate::spec::{MAX_LIST, MAX_TEXT_BYTES, SpecError, refuse};
use crate::wire::pb;
use prost::Message;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Longest version of a package in bytes: that of a tag (OCI distribution specification 1.1).
pub const MAX_VERSION_BYTES: usize = 128;
/// Most layers of a package: 127 is the most that Docker makes, and overlayfs takes some hundred.
pub const MAX_LAYERS: usize = 128;
/// Largest layer, stored and unpacked, in bytes: 16 GiB, our choice; it must fit on a machine.
pub const MAX_LAYER_BYTES: u64 = 16 << 30;
/// Largest encoded [`Package`] in bytes. 16 KiB: our choice; its layers and an image's configuration
/// are in the state of the cell, and for each task in what its machine is told to run.
pub const MAX_PACKAGE_BYTES: usize = 16 << 10;
/// Most packages of a task beside its image. 16: our choice.
pub const MAX_TASK_PACKAGES: usize = 16;
/// Where a task sees its packages: each in a directory of the package's name.
pub const SHOWN_IN: &str = "/run/packages";
/// Most bytes of a blob in one message of a stream. 256 KiB: our choice, far below what a message may be.
pub const BLOB_CHUNK_BYTES: usize = 256 << 10;

/// The architecture that a program is for, as machines name theirs, from the first 20 bytes of its file
/// (System V ABI, "ELF Header"); `None` when they do not say, as those of a script do not, or it is one that no
/// borglet runs on.
#[must_use]
pub fn elf_arch(head: &[u8]) -> Option<&'static str> {
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let field: [u8; 2] = head.get(18..20)?.try_into().ok()?;
    let little = head.get(5) == Some(&1);
    match if little { u16::from_le_bytes(field) } else { u16::from_be_bytes(field) } {
        0x03 => Some("x86"),
        0x15 => Some("powerpc64"),
        0x16 => Some("s390x"),
        0x28 => Some("arm"),
        0x3e => Some("x86_64"),
        0xb7 => Some("aarch64"),
        0xf3 => Some("riscv64"),
        _other => None,
    }
}

/// SHA-256 of a blob: its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// A text or some bytes that are no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not sha256: and 64 hexadecimal digits")]
pub struct DigestError(String);

impl Digest {
    /// That of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The 64 hexadecimal digits: a file's name.
    #[must_use]
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("writing to a String does not fail");
            hex
        })
    }

    /// The first 12 of its digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }

    /// Reads the 64 digits of [`Self::hex`].
    ///
    /// # Errors
    /// When they are others, or capital letters: a digest has one name.
    pub fn from_hex(hex: &str) -> Result<Self, DigestError> {
        let wrong = || DigestError(shorten(hex));
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _other => Err(wrong()),
        };
        let digits = hex.as_bytes();
        if digits.len() != 64 {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.short())
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text.strip_prefix("sha256:").ok_or_else(|| DigestError(shorten(text)))?;
        Self::from_hex(hex)
    }
}

impl TryFrom<&[u8]> for Digest {
    type Error = DigestError;
    fn try_from(bytes: &[u8]) -> Result<Self, DigestError> {
        bytes.try_into().map(Self).map_err(|_| DigestError(format!("{} bytes", bytes.len())))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Finds the digest of a blob that comes piece by piece.
#[derive(Debug, Clone, Default)]
pub struct Hasher(sha2::Sha256);

impl Hasher {
    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all pieces.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// Version of a package: 1 to 128 letters, digits, `.`, `_` and `-`, beginning with none of `.` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(std::sync::Arc<str>);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Version {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let why = if text.is_empty() {
            "is empty"
        } else if text.len() > MAX_VERSION_BYTES {
            "is too long: at most 128 bytes"
        } else if !text.bytes().all(fine) || text.starts_with(['.', '-']) {
            "is not letters, digits, '.', '_', '-', beginning with a letter, digit or '_'"
        } else {
            return Ok(Self(text.into()));
        };
        Err(NameError { what: "package version", value: shorten(text), why })
    }
}

/// A package of a cell: `USER/NAME:VERSION`. Only that user and `admin` put and remove it; everybody may
/// use it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackageKey {
    /// Whose it is.
    pub user: UserName,
    /// Its name among that user's.
    pub name: crate::names::PackageName,
    /// Which of its versions.
    pub version: Version,
}

impl fmt::Display for PackageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.user, self.name, self.version)
    }
}

impl FromStr for PackageKey {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let named: PackageRef = text.parse()?;
        let why = "is not USER/NAME:VERSION";
        let user = named.user.ok_or(NameError { what: "package", value: shorten(text), why })?;
        Ok(Self { user, name: named.name, version: named.version })
    }
}

impl Serialize for PackageKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// A package as people write it: `USER/NAME:VERSION`, or `NAME:VERSION` for one's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackageRef {
    /// Whose it is; `None`: of the owner of the job that names it, or of whoever asks.
    pub user: Option<UserName>,
    /// Its name.
    pub name: crate::names::PackageName,
    /// Which version.
    pub version: Version,
}

impl PackageRef {
    /// The package that is meant by `owner`.
    #[must_use]
    pub fn of(&self, owner: &UserName) -> PackageKey {
        PackageKey {
            user: self.user.as_ref().unwrap_or(owner).clone(),
            name: self.name.clone(),
            version: self.version.clone(),
        }
    }
}

impl fmt::Display for PackageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}/")?;
        }
        write!(f, "{}:{}", self.name, self.version)
    }
}

impl FromStr for PackageRef {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let why = "is not NAME:VERSION or USER/NAME:VERSION";
        let (name, version) = text.split_once(':').ok_or_else(|| NameError {
            what: "package",
            value: shorten(text),
            why,
        })?;
        let (user, name) = match name.split_once('/') {
            Some((user, name)) => (Some(user.parse()?), name),
            None => (None, name),
        };
        Ok(Self { user, name: name.parse()?, version: version.parse()? })
    }
}

impl Serialize for PackageRef {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PackageRef {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a package is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageKind {
    /// The root of a task's files, with what to run in it.
    Image,
    /// A directory.
    Directory,
    /// One program that needs nothing else: a directory with a single file.
    Binary,
}

impl fmt::Display for PackageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "image",
            Self::Directory => "directory",
            Self::Binary => "binary",
        })
    }
}

/// One layer of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Layer {
    /// Names its blob.
    pub digest: Digest,
    /// Size of the blob, 1 to [`MAX_LAYER_BYTES`].
    pub bytes: u64,
    /// Size of the files in it.
    pub unpacked_bytes: u64,
}

/// What an image says of how it is run (OCI image specification 1.1, "Image Configuration").
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ImageConfig {
    /// What is run, before `cmd`.
    pub entrypoint: Vec<String>,
    /// Arguments of the entrypoint; the program with its arguments when there is none.
    pub cmd: Vec<String>,
    /// The environment. A job's own goes over it.
    pub env: BTreeMap<String, String>,
    /// `USER`, `USER:GROUP`, as names or numbers; empty for root.
    pub user: String,
    /// Where it starts; empty for `/`.
    pub workdir: String,
}

impl ImageConfig {
    /// Entrypoint and arguments; empty when the image says nothing.
    #[must_use]
    pub fn command(&self) -> Vec<String> {
        self.entrypoint.iter().chain(&self.cmd).cloned().collect()
    }
}

/// A package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Package {
    /// Its name and version.
    pub key: PackageKey,
    /// What it is.
    pub kind: PackageKind,
    /// Its layers, the lowest first. One, unless it is an image.
    pub layers: Vec<Layer>,
    /// Set for an image.
    pub image: Option<ImageConfig>,
    /// The architecture that its programs are for, as machines name theirs (`x86_64`); empty for any.
    pub arch: String,
}

impl Package {
    /// Names its content, whatever it is called: two packages that hold the same have the same.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let content = pb::Package { name: String::new(), ..self.into() };
        Digest::of(&content.encode_to_vec())
    }

    /// Sizes of all of its blobs together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes).sum()
    }

    /// Sizes of all files in it together.
    #[must_use]
    pub fn unpacked_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.unpacked_bytes).sum()
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// The first field that is out of bounds, with what is allowed.
    pub fn check(&self) -> Result<(), SpecError> {
        let most = if self.kind == PackageKind::Image { MAX_LAYERS } else { 1 };
        if self.layers.is_empty() || self.layers.len() > most {
            let why = format!("are not 1 to {most}, as a package of kind {} has", self.kind);
            return refuse("layers", format!("{} layers", self.layers.len()), why);
        }
        for (i, layer) in self.layers.iter().enumerate() {
            for (field, bytes, least) in
                [("bytes", layer.bytes, 1), ("unpacked_bytes", layer.unpacked_bytes, 0)]
            {
                if !(least..=MAX_LAYER_BYTES).contains(&bytes) {
                    let why = format!("is outside {least} to {MAX_LAYER_BYTES}");
                    return refuse(&format!("layers[{i}].{field}"), bytes, why);
                }
            }
        }
        if self.arch.len() > crate::names::MAX_NAME_BYTES || self.arch.chars().any(char::is_control)
        {
            return refuse("arch", &self.arch, "is not the name of an architecture");
        }
        match (&self.image, self.kind) {
            (Some(image), PackageKind::Image) => image.check()?,
            (None, PackageKind::Directory | PackageKind::Binary) => {}
            (Some(_), PackageKind::Directory | PackageKind::Binary) => {
                return refuse("image", "given", "belongs to packages of kind image alone");
            }
            (None, PackageKind::Image) => {
                return refuse("image", "nothing", "is given, but an image says how it is run");
            }
        }
        let bytes = pb::Package::from(self).encoded_len();
        if bytes > MAX_PACKAGE_BYTES {
            let why = format!("is larger than a package's description may be, {MAX_PACKAGE_BYTES}");
            return refuse("package", format!("{bytes} bytes"), why);
        }
        Ok(())
    }
}

impl ImageConfig {
    fn check(&self) -> Result<(), SpecError> {
        for (field, words) in [("entrypoint", &self.entrypoint), ("cmd", &self.cmd)] {
            if words.len() > MAX_LIST {
                let many = format!("{} words", words.len());
                return refuse(
                    &format!("image.{field}"),
                    many,
                    format!("are more than {MAX_LIST}"),
                );
            }
            for word in words {
                check_text(&format!("image.{field}"), word)?;
            }
        }
        if self.env.len() > MAX_LIST {
            let many = format!("{} entries", self.env.len());
            return refuse("image.env", many, format!("are more than {MAX_LIST}"));
        }
        for (key, value) in &self.env {
            if key.is_empty() || key.contains('=') {
                let why = "is not a usable name: empty, or with '='";
                return refuse("image.env", format!("{key:?}"), why);
            }
            check_text("image.env", key)?;
            check_text(&format!("image.env.{}", shorten(key)), value)?;
        }
        check_text("image.user", &self.user)?;
        check_text("image.workdir", &self.workdir)?;
        if !self.workdir.is_empty() && !self.workdir.starts_with('/') {
            return refuse("image.workdir", &self.workdir, "is not an absolute path");
        }
        Ok(())
    }
}

fn check_text(field: &str, text: &str) -> Result<(), SpecError> {
    if text.len() > MAX_TEXT_BYTES {
        return refuse(field, text, format!("is longer than {MAX_TEXT_BYTES} bytes"));
    }
    if text.contains('\0') {
        return refuse(field, format!("{text:?}"), "contains a zero byte");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_says_what_machine_it_is_for() {
        let header = |order: u8, machine: [u8; 2]| {
            let mut head = b"\x7fELF\x02".to_vec();
            head.push(order);
            head.resize(18, 0);
            head.extend(machine);
            head
        };
        assert_eq!(elf_arch(&header(1, [0xb7, 0])), Some("aarch64"));
        assert_eq!(elf_arch(&header(2, [0, 0x16])), Some("s390x"));
        assert_eq!(elf_arch(&header(1, [0xff, 0xff])), None);
        assert_eq!(elf_arch(&header(1, [0xb7, 0])[..19]), None, "cut off");
        assert_eq!(elf_arch(b"#!/bin/sh\necho and so on"), None);
    }

    #[test]
    fn packages_are_named_with_or_without_their_user() {
        let ann: UserName = "ann".parse().unwrap();
        let own: PackageRef = "web:1.2_x-Y".parse().unwrap();
        assert_eq!(own.of(&ann).to_string(), "ann/web:1.2_x-Y");
        let others: PackageRef = "bob/web:1".parse().unwrap();
        assert_eq!(others.of(&ann).to_string(), "bob/web:1");
        assert!("web:1".parse::<PackageKey>().is_err());
        for bad in ["web", "web:", ":1", "a/b/c:1", "web:.1", "web:a/b", "Web:1", "web:1:2"] {
            assert!(bad.parse::<PackageRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_digest_has_one_name() {
        let digest = Digest::of(b"abc");
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((digest.to_string().as_str(), text.parse()), (text, Ok(digest)));
        assert!(text.to_uppercase().parse::<Digest>().is_err());
        assert!("sha256:ba".parse::<Digest>().is_err());
        assert!(Digest::try_from(&[0_u8; 31][..]).is_err());
    }

    #[test]
    fn the_digest_of_a_package_is_of_its_content_alone() {
        let layer = Layer { digest: Digest::of(b"x"), bytes: 1024, unpacked_bytes: 1 };
        let package = Package {
            key: "ann/web:1".parse().unwrap(),
            kind: PackageKind::Directory,
            layers: vec![layer],
            image: None,
            arch: String::new(),
        };
        package.check().unwrap();
        let renamed = Package { key: "bob/x:2".parse().unwrap(), ..package.clone() };
        assert_eq!(renamed.digest(), package.digest());
        let binary = Package { kind: PackageKind::Binary, ..package.clone() };
        assert_ne!(binary.digest(), package.digest());
        let two = Package { layers: vec![layer, layer], ..package.clone() };
        assert_eq!(
            two.check().unwrap_err().to_string(),
            "layers: 2 layers are not 1 to 1, as a package of kind directory has"
        );
        let none = Package { layers: vec![Layer { bytes: 0, ..layer }], ..package };
        assert_eq!(
            none.check().unwrap_err().to_string(),
            "layers[0].bytes: 0 is outside 1 to 17179869184"
        );
    }
}
