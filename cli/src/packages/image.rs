//! OCI image layouts and `docker save` archives (OCI image specification 1.1; Docker image specification
//! 1.2).
//!
//! Everything in an image is named by its digest, and nothing is believed before it has that. A part that
//! is named otherwise, as in old archives of Docker, is held against the image's own list of what its
//! layers are.

use super::layers::{Counted, Rewritten, decompressed, is_compressed, rewrite};
use super::root::Root;
use super::{PackageError, Prepared, arch_of, fill};
use borg_proto::layer::Rules;
use borg_proto::layer::raw::{self, TarError};
use borg_proto::names::shorten;
use borg_proto::package::{Digest, ImageConfig, MAX_LAYERS, PackageKind};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Largest description of an image in bytes: 4 MiB, as much as registries take (OCI distribution
/// specification 1.1, "Pushing Manifests").
const MAX_JSON_BYTES: u64 = 4 << 20;
/// Most files of an archive. 10,000: our choice; an image has some for each layer.
const MAX_FILES: usize = 10_000;
/// Most indexes in each other.
const MAX_NESTED: u32 = 3;

#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Clone, Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, arch_of(&self.architecture))
    }
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// An entry of Docker's `manifest.json`.
#[derive(Debug, Deserialize)]
struct Saved {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    config: Option<Run>,
    #[serde(default)]
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Run {
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
    #[serde(default)]
    working_dir: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

fn wrong(what: impl Into<String>, why: impl Into<String>) -> PackageError {
    PackageError::Image { what: what.into(), why: why.into() }
}

/// The files of an image, in a directory or an archive.
enum Files {
    Directory(PathBuf),
    Archive { path: PathBuf, file: File, parts: BTreeMap<String, Part> },
}

#[derive(Debug, Clone)]
enum Part {
    File { offset: u64, bytes: u64 },
    Link(String),
}

/// A file, and how many bytes it has.
type Opened<'a> = (Box<dyn Read + 'a>, u64);

impl Files {
    /// A file; `None` when it is not there.
    fn open(&self, name: &str) -> Result<Option<Opened<'_>>, PackageError> {
        match self {
            Self::Directory(dir) => {
                let path = dir.join(name);
                let failed = |source| PackageError::Read { path: path.clone(), source };
                let file = match File::open(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    file => file.map_err(failed)?,
                };
                let bytes = file.metadata().map_err(failed)?.len();
                Ok(Some((Box::new(file), bytes)))
            }
            Self::Archive { path, file, parts } => {
                let mut part = parts.get(name);
                if let Some(Part::Link(target)) = part {
                    part = parts.get(target);
                }
                let Some(Part::File { offset, bytes }) = part else { return Ok(None) };
                let failed = |source| PackageError::Read { path: path.clone(), source };
                let mut file = file;
                file.seek(SeekFrom::Start(*offset)).map_err(failed)?;
                Ok(Some((Box::new(file.take(*bytes)), *bytes)))
            }
        }
    }

    fn text(&self, name: &str) -> Result<Option<Vec<u8>>, PackageError> {
        let Some((file, bytes)) = self.open(name)? else { return Ok(None) };
        if bytes > MAX_JSON_BYTES {
            let why = format!("has {bytes} bytes, more than {MAX_JSON_BYTES}");
            return Err(wrong(name, why));
        }
        let mut text = Vec::new();
        let failed = |source| PackageError::Read { path: name.into(), source };
        file.take(MAX_JSON_BYTES).read_to_end(&mut text).map_err(failed)?;
        Ok(Some(text))
    }

    /// A description, which has the digest that it is named by.
    fn described(&self, of: &Descriptor) -> Result<Vec<u8>, PackageError> {
        let (digest, name) = blob_name(of)?;
        let text = self.text(&name)?.ok_or_else(|| wrong(&of.digest, "is not in the image"))?;
        let found = Digest::of(&text);
        if found != digest {
            return Err(wrong(&of.digest, format!("has another digest, {found}: get it again")));
        }
        Ok(text)
    }
}

fn blob_name(of: &Descriptor) -> Result<(Digest, String), PackageError> {
    let digest: Digest = of
        .digest
        .parse()
        .map_err(|_| wrong(&of.digest, "is no SHA-256 digest, the only kind that is taken"))?;
    Ok((digest, format!("blobs/sha256/{}", digest.hex())))
}

fn parse<T: for<'de> Deserialize<'de>>(what: &str, text: &[u8]) -> Result<T, PackageError> {
    serde_json::from_slice(text).map_err(|error| wrong(what, format!("makes no sense: {error}")))
}

pub(super) fn of_layout(dir: &Path, drop_setuid: bool) -> Result<Prepared, PackageError> {
    read(&Files::Directory(dir.to_owned()), drop_setuid)
}

pub(super) fn of_archive(
    path: &Path,
    file: File,
    drop_setuid: bool,
) -> Result<Prepared, PackageError> {
    let failed = |source| PackageError::Read { path: path.to_owned(), source };
    let mut file = file;
    let mut head = [0; 4];
    let length = fill(&mut file, &mut head).map_err(failed)?;
    file.rewind().map_err(failed)?;
    if is_compressed(&head[..length]) {
        // Its parts are read in an order of their own.
        let bytes = file.metadata().map_err(failed)?.len();
        let mut plain = tempfile::tempfile().map_err(PackageError::Temporary)?;
        io::copy(&mut decompressed(file, bytes).map_err(failed)?, &mut plain).map_err(failed)?;
        plain.rewind().map_err(failed)?;
        file = plain;
    }
    let parts = list(&mut file).map_err(failed)?;
    read(&Files::Archive { path: path.to_owned(), file, parts }, drop_setuid)
}

/// Where the files of an archive are in it.
fn list(file: &mut File) -> io::Result<BTreeMap<String, Part>> {
    let mut parts = BTreeMap::new();
    let listed = raw::each(io::BufReader::new(file), |entry, _| {
        if parts.len() >= MAX_FILES {
            return Err(TarError::TooMuch { what: "files", most: MAX_FILES as u64 });
        }
        if let Some(why) = entry.unusable() {
            return Err(io::Error::other(format!("{:?} {why}", entry.shown())).into());
        }
        let name = String::from_utf8_lossy(&entry.path()).into_owned();
        let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
        let kind = entry.header.entry_type();
        if kind.is_file() {
            parts.insert(name, Part::File { offset: entry.offset, bytes: entry.bytes });
        } else if let Some(link) = entry.link().filter(|_| kind.is_symlink() || kind.is_hard_link())
        {
            let from = if kind.is_symlink() { Path::new(&name).parent() } else { None };
            let link = from.unwrap_or(Path::new("")).join(OsStr::from_bytes(&link));
            parts.insert(name, Part::Link(plain(&link)));
        }
        Ok(())
    });
    match listed {
        Ok(()) => Ok(parts),
        Err(TarError::Read(error)) => Err(error),
        Err(error @ TarError::TooMuch { .. }) => Err(io::Error::other(error)),
    }
}

/// A path of an archive without `..`, by its text alone: it names nothing on this machine.
fn plain(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(parts.pop()),
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            std::path::Component::CurDir
            | std::path::Component::RootDir
            | std::path::Component::Prefix(_) => {}
        }
    }
    parts.join("/")
}

fn read(files: &Files, drop_setuid: bool) -> Result<Prepared, PackageError> {
    if let Some(index) = files.text("index.json")? {
        let manifest = choose(files, parse("index.json", &index)?, MAX_NESTED)?;
        let config = files.described(&manifest.config)?;
        let parts = manifest.layers.iter().map(|layer| {
            let (digest, name) = blob_name(layer)?;
            Ok((name, Some((digest, layer.size))))
        });
        let parts = parts.collect::<Result<Vec<_>, PackageError>>()?;
        return assemble(files, &config, &parts, drop_setuid);
    }
    let Some(saved) = files.text("manifest.json")? else {
        return Err(wrong(
            "archive",
            "has neither index.json nor manifest.json: make it with docker save, or as an OCI layout",
        ));
    };
    let saved: Vec<Saved> = parse("manifest.json", &saved)?;
    let [image] = saved.as_slice() else {
        let why = format!("names {} images: save one at a time", saved.len());
        return Err(wrong("manifest.json", why));
    };
    let config = files.text(&image.config)?;
    let config = config.ok_or_else(|| wrong(&image.config, "is not in the archive"))?;
    let parts: Vec<_> = image.layers.iter().map(|name| (name.clone(), None)).collect();
    assemble(files, &config, &parts, drop_setuid)
}

/// The manifest of an index that is for machines like this one, or the only one.
fn choose(files: &Files, index: Index, nested: u32) -> Result<Manifest, PackageError> {
    let one = &one_of(&index.manifests)?;
    let text = files.described(one)?;
    if one.media_type.contains("index") || one.media_type.contains("manifest.list") {
        if nested == 0 {
            return Err(wrong("index.json", "has indexes in indexes without end"));
        }
        return choose(files, parse(&one.digest, &text)?, nested - 1);
    }
    parse(&one.digest, &text)
}

/// The one that is for machines like this one, or else the only one that is for any.
fn one_of(all: &[Descriptor]) -> Result<Descriptor, PackageError> {
    if let [one] = all {
        return Ok(one.clone());
    }
    let named = |one: &Descriptor| one.platform.as_ref().map(Platform::to_string);
    let own = format!("linux/{}", std::env::consts::ARCH);
    let first = all.iter().find(|one| named(one).as_ref() == Some(&own));
    // Attestations are for an unknown one.
    let some: Vec<&Descriptor> =
        all.iter().filter(|one| named(one).is_none_or(|p| p != "unknown/unknown")).collect();
    if let Some(one) = first.or_else(|| some.first().copied().filter(|_| some.len() == 1)) {
        return Ok(one.clone());
    }
    let names: Vec<String> = some
        .iter()
        .map(|one| named(one).unwrap_or_else(|| "one that is not told".into()))
        .collect();
    Err(wrong(
        "index.json",
        format!(
            "has {} images, of which none is known to be for {own}: [{}]; save the one that is meant by itself",
            some.len(),
            shorten(&names.join(", "))
        ),
    ))
}

/// A file of the image, and its digest and size when something says what they are.
type LayerPart = (String, Option<(Digest, u64)>);

fn assemble(
    files: &Files,
    config: &[u8],
    parts: &[LayerPart],
    drop_setuid: bool,
) -> Result<Prepared, PackageError> {
    let config: Config = parse("config", config)?;
    if !config.os.is_empty() && config.os != "linux" {
        return Err(wrong("config", format!("is for {}, machines run linux", config.os)));
    }
    if parts.len() > MAX_LAYERS || parts.is_empty() {
        let why = format!("has {} layers, 1 to {MAX_LAYERS} are taken", parts.len());
        return Err(wrong("manifest", why));
    }
    let diff_ids = config.rootfs.diff_ids.clone();
    if diff_ids.len() != parts.len() {
        let why = format!("lists {} layers, the manifest {}", diff_ids.len(), parts.len());
        return Err(wrong("config", why));
    }
    let (mut layers, mut dropped, mut root) = (Vec::new(), 0, Root::default());
    for ((name, known), diff_id) in parts.iter().zip(&diff_ids) {
        let rewritten = layer(files, name, *known, diff_id, drop_setuid, &mut root)?;
        dropped += rewritten.dropped;
        layers.push((rewritten.layer, rewritten.file));
    }
    let arch = arch_of(&config.architecture);
    let image = run(config.config.unwrap_or_default())?;
    if let Some(why) = root.refusal(&image.user) {
        return Err(wrong("root", why));
    }
    let image = Some(image);
    Ok(Prepared { kind: PackageKind::Image, layers, image, arch, dropped })
}

fn layer(
    files: &Files,
    name: &str,
    known: Option<(Digest, u64)>,
    diff_id: &str,
    drop_setuid: bool,
    root: &mut Root,
) -> Result<Rewritten, PackageError> {
    let (file, bytes) =
        files.open(name)?.ok_or_else(|| wrong(name, "is not in the image: a layer is missing"))?;
    if let Some((_, size)) = known.filter(|(_, size)| *size != bytes) {
        let why = format!("has {bytes} bytes, it should have {size}: it was cut off, get it again");
        return Err(wrong(name, why));
    }
    let what = format!("layer {name}");
    let failed = |source| PackageError::Read { path: name.into(), source };
    let mut stored = Counted::new(file);
    let rules = Rules { image: true, drop_lent: drop_setuid };
    let tar = decompressed(&mut stored, bytes).map_err(failed)?;
    let rewritten = rewrite(&what, tar, rules, root);
    // What is wrong with other bytes than the right ones says nothing of the image.
    if let Some((digest, _)) = known {
        let (found, _) = stored.finish().map_err(failed)?;
        if found != digest {
            let why = format!("has another digest, {found}: get the image again");
            return Err(wrong(digest.to_string(), why));
        }
    }
    let rewritten = rewritten?;
    if rewritten.was.to_string() != diff_id {
        let why = format!(
            "unpacks to {}, the image says {diff_id}: it is damaged or cut off, get the image again",
            rewritten.was
        );
        return Err(wrong(name, why));
    }
    Ok(rewritten)
}

fn run(config: Run) -> Result<ImageConfig, PackageError> {
    let mut env = BTreeMap::new();
    for word in config.env.unwrap_or_default() {
        let Some((key, value)) = word.split_once('=') else {
            return Err(wrong("config.Env", format!("{word:?} is not NAME=VALUE")));
        };
        env.insert(key.to_owned(), value.to_owned());
    }
    Ok(ImageConfig {
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
        env,
        user: config.user.unwrap_or_default(),
        workdir: config.working_dir.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(platforms: &[Option<(&str, &str)>]) -> Result<usize, String> {
        let of = |(i, platform): (usize, &Option<(&str, &str)>)| Descriptor {
            media_type: String::new(),
            digest: String::new(),
            size: i as u64,
            platform: platform.map(|(os, architecture)| Platform {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
            }),
        };
        let all: Vec<Descriptor> = platforms.iter().enumerate().map(of).collect();
        let one = one_of(&all).map_err(|error| error.to_string())?;
        Ok(usize::try_from(one.size).unwrap())
    }

    #[test]
    fn the_image_for_this_machine_is_taken_or_the_only_one_and_no_other() {
        let own = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let attestation = Some(("unknown", "unknown"));
        assert_eq!(chosen(&[None]), Ok(0));
        assert_eq!(chosen(&[attestation, Some(("linux", "s390x")), Some(("linux", own))]), Ok(2));
        assert_eq!(
            chosen(&[Some(("linux", "s390x")), attestation]),
            Ok(0),
            "it may be put anywhere"
        );
        let told = chosen(&[None, None]).unwrap_err();
        assert!(told.contains("has 2 images") && told.contains("not told"), "{told}");
        let told = chosen(&[Some(("linux", "s390x")), Some(("windows", own))]).unwrap_err();
        assert!(told.contains("[linux/s390x, windows/"), "{told}");
    }
}
