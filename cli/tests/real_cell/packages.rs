//! Packages through the whole cell: put, spread, shown to tasks, images as the root of a task.

use crate::cell::{Cell, Killed, Run, is_isolated, job, note, run, within};
use borg_proto::package::{Digest, ImageConfig, Package, PackageRef};
use borg_proto::wire::pb;
use borgctl::packages;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Five machines and three masters, which the tests of this file share.
fn shared() -> &'static Cell {
    static SHARED: OnceLock<Cell> = OnceLock::new();
    SHARED.get_or_init(|| Cell::up(3, 5))
}

/// A directory of its own for a test.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn put(cell: &Cell, path: &Path, name: &str) -> Run {
    cell.borgctl(&["package", "put", path.to_str().unwrap(), name])
}

/// Puts an image that says something else of how it is run than was looked at.
fn put_unchecked(cell: &Cell, path: &Path, name: &str, change: impl FnOnce(&mut ImageConfig)) {
    let mut prepared = packages::prepare(path, false).unwrap();
    change(prepared.image.as_mut().unwrap());
    let package = Package {
        key: name.parse::<PackageRef>().unwrap().of(&"admin".parse().unwrap()),
        kind: prepared.kind,
        layers: prepared.layers.iter().map(|(layer, _)| *layer).collect(),
        image: prepared.image.clone(),
        arch: prepared.arch.clone(),
    };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut client = borgctl::client::Client::new(&cell.target()).unwrap();
        packages::put(&mut client, &package, &prepared).await.unwrap();
    });
}

/// A program that needs nothing of the machine it runs on: prints what it sees, and lives if told to.
fn static_program(dir: &Path) -> PathBuf {
    let source = r#"
        fn main() {
            let user = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let uid = user.lines().find(|line| line.starts_with("Uid:")).unwrap_or("").to_owned();
            println!("args {:?}", std::env::args().skip(1).collect::<Vec<_>>());
            println!("env {:?} {:?}", std::env::var("FROM_IMAGE"), std::env::var("FROM_JOB"));
            println!("cwd {:?}", std::env::current_dir().unwrap());
            println!("uid {}", uid.split_whitespace().nth(1).unwrap_or("?"));
            let mut names: Vec<_> = std::fs::read_dir("/").unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            println!("root {names:?}");
            println!("low {:?} high {:?} gone {}", std::fs::read_to_string("/data/low"),
                std::fs::read_to_string("/data/high"), !std::path::Path::new("/data/gone").exists());
            println!("write {:?}", std::fs::write("/data/new", "x").is_ok());
            if std::env::args().any(|word| word == "stay") {
                loop { std::thread::sleep(std::time::Duration::from_secs(1)); }
            }
        }
    "#;
    let (from, to) = (dir.join("probe.rs"), dir.join("probe"));
    fs::write(&from, source).unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["-C", "target-feature=+crt-static", "-O", "-o"]).arg(&to).arg(&from);
    run(&mut command, "").ok();
    to
}

/// Compiled once for all tests.
fn probe() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| static_program(&scratch().keep()))
}

/// A tar file of some entries: a path that ends with `/` is a directory.
fn tar_of(entries: &[(&str, &[u8], u32, u64)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, data, mode, owner) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_uid(*owner);
        header.set_gid(*owner);
        header.set_mtime(1_000_000);
        header.set_size(data.len() as u64);
        let kind =
            if path.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular };
        header.set_entry_type(kind);
        tar.append_data(&mut header, path, *data).unwrap();
    }
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// An image in the making.
struct Image {
    layers: Vec<Vec<u8>>,
    config: Value,
    arch: &'static str,
}

impl Image {
    /// Two layers: the upper one takes away and adds.
    fn new(config: Value) -> Self {
        let program = fs::read(probe()).unwrap();
        let passwd = b"root:x:0:0::/:/bin/sh\nweb:x:4711:4712::/srv:/bin/false\n";
        let low = tar_of(&[
            ("bin/", b"", 0o755, 0),
            ("bin/probe", &program, 0o755, 0),
            ("etc/", b"", 0o755, 0),
            ("etc/passwd", passwd, 0o644, 0),
            ("srv/", b"", 0o755, 4711),
            ("data/", b"", 0o777, 4711),
            ("data/low", b"low", 0o644, 0),
            ("data/gone", b"gone", 0o644, 0),
        ]);
        let high = tar_of(&[
            ("data/", b"", 0o777, 4711),
            ("data/high", b"high", 0o644, 0),
            ("data/.wh.gone", b"", 0o644, 0),
        ]);
        Self { layers: vec![low, high], config, arch: "amd64" }
    }

    fn config(&self) -> Vec<u8> {
        let diff_ids: Vec<String> =
            self.layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let config = json!({
            "architecture": self.arch, "os": "linux", "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        config.to_string().into_bytes()
    }

    /// As an OCI layout with compressed layers.
    fn layout(&self, dir: &Path) {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let blob = |bytes: Vec<u8>, kind: &str| {
            let digest = Digest::of(&bytes);
            fs::write(blobs.join(digest.hex()), &bytes).unwrap();
            json!({ "mediaType": kind, "digest": digest.to_string(), "size": bytes.len() })
        };
        let layer =
            |layer: &Vec<u8>| blob(gzip(layer), "application/vnd.oci.image.layer.v1.tar+gzip");
        let manifest = json!({
            "schemaVersion": 2,
            "config": blob(self.config(), "application/vnd.oci.image.config.v1+json"),
            "layers": self.layers.iter().map(layer).collect::<Vec<_>>(),
        });
        let manifest =
            blob(manifest.to_string().into_bytes(), "application/vnd.oci.image.manifest.v1+json");
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(dir.join("index.json"), index.to_string()).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }

    /// As `docker save` of old writes it.
    fn saved(&self, path: &Path) {
        let names: Vec<String> =
            (0..self.layers.len()).map(|number| format!("{number}/layer.tar")).collect();
        let manifest = json!([{ "Config": "c.json", "RepoTags": ["x:1"], "Layers": names }]);
        let (manifest, config) = (manifest.to_string().into_bytes(), self.config());
        let mut files: Vec<(&str, &[u8], u32, u64)> =
            vec![("manifest.json", &manifest, 0o644, 0), ("c.json", &config, 0o644, 0)];
        for (name, layer) in names.iter().zip(&self.layers) {
            files.push((name, layer, 0o644, 0));
        }
        fs::write(path, tar_of(&files)).unwrap();
    }
}

/// A job that runs an image, with no command of its own.
fn image_job(name: &str, image: &str) -> Value {
    json!({
        "name": name, "kind": "batch",
        "task": {
            "image": image,
            "env": { "FROM_JOB": "job" },
            "limit": { "cpu_milli": 50, "ram_bytes": 64 << 20 },
        },
    })
}

fn logs(cell: &Cell, job: &str) -> String {
    cell.borgctl(&["logs", &format!("{job}/0")]).ok()
}

#[test]
fn a_directory_is_shown_to_each_task_and_spreads_from_machine_to_machine() {
    let cell = shared();
    if !is_isolated(cell) {
        return;
    }
    let dir = scratch();
    let tools = dir.path().join("tools");
    fs::create_dir_all(tools.join("bin")).unwrap();
    fs::write(tools.join("bin/hello"), "#!/bin/sh\necho hello from $0\n").unwrap();
    fs::set_permissions(tools.join("bin/hello"), PermissionsExt::from_mode(0o700)).unwrap();
    symlink("bin/hello", tools.join("link")).unwrap();
    let noise: Vec<u8> =
        (0..4_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
    fs::write(tools.join("noise"), &noise).unwrap();
    let said = put(cell, &tools, "tools:1").ok();
    assert!(said.contains("admin/tools:1") && said.contains("sha256:"), "{said}");
    // The same again is fine, and sends nothing.
    assert!(put(cell, &tools, "tools:1").ok().contains(", 0 sent"));

    // It is there, and cannot be written to.
    let script = "\"$BORG_PACKAGE_TOOLS\"/link; touch $BORG_PACKAGE_TOOLS/x && exit 7; exit 0";
    let mut work = job("tools", "batch", script);
    work["tasks"] = json!(5);
    work["task"]["packages"] = json!(["tools:1"]);
    work["task"]["spread"] = json!([{ "attribute": "machine", "max": 1 }]);
    let work = cell.submit(&work);
    let over = cell.until(&work, |status| status["state"] == "finished");
    for task in over["task_list"].as_array().unwrap() {
        let said = cell.borgctl(&["logs", &format!("{work}/{}", task["index"])]).ok();
        assert!(said.contains("hello from /run/packages/tools/link"), "{said}");
    }
    // Each shard's master sent one copy at the most, and machines the others.
    let metric = |name: &str| {
        let daemons = cell.record();
        let all = daemons.borglets.iter().map(|daemon| metric_of(cell, &daemon.name, name));
        all.sum::<f64>()
    };
    let bytes = 4_000_000.0;
    assert!(metric("borglet_blob_in_bytes_total") >= 5.0 * bytes);
    assert!(metric("borglet_blob_out_bytes_total") >= 2.0 * bytes, "machines served each other");

    let shown = cell.json(&["package", "show", "tools:1"]);
    assert_eq!((&shown[0]["kind"], &shown[0]["jobs"]), (&json!("directory"), &json!(0)));
    cell.borgctl(&["package", "remove", "tools:1"]).ok();
    cell.borgctl(&["package", "show", "tools:1"]).failed(4);
}

/// A figure of one borglet's metrics.
fn metric_of(cell: &Cell, borglet: &str, name: &str) -> f64 {
    let addresses = fs::read_to_string(cell.layout().data(borglet).join("addresses.json"));
    let addresses: Value = serde_json::from_str(&addresses.unwrap()).unwrap();
    let text = http_get(addresses["metrics"].as_str().unwrap(), "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.map_or(0.0, |figure| figure.trim().parse().unwrap())
}

fn http_get(address: &str, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn an_image_is_the_root_of_its_task_and_says_what_runs() {
    let cell = shared();
    if !is_isolated(cell) {
        return;
    }
    let dir = scratch();
    let image = Image::new(json!({
        "Entrypoint": ["/bin/probe", "entry"], "Cmd": ["cmd"], "User": "web", "WorkingDir": "/srv",
        "Env": ["FROM_IMAGE=image", "FROM_JOB=image"],
    }));
    image.layout(dir.path());
    put(cell, dir.path(), "web:1").ok();
    let web = cell.submit(&image_job("web", "web:1"));
    cell.until(&web, |status| status["state"] == "finished");
    let said = logs(cell, &web);
    for line in [
        r#"args ["entry", "cmd"]"#,
        r#"env Ok("image") Ok("job")"#,
        r#"cwd "/srv""#,
        "uid 4711",
        r#"low Ok("low") high Ok("high") gone true"#,
        "write true",
    ] {
        assert!(said.contains(line), "{line} is not in\n{said}");
    }
    assert!(!said.contains("\"usr\""), "nothing of the machine's own is there: {said}");

    // A command takes the place of both, and what a task wrote is not there for the next one.
    let mut other = image_job("other", "web:1");
    other["task"]["command"] = json!(["probe", "own"]);
    other["task"]["env"]["PATH"] = json!("/bin");
    let other = cell.submit(&other);
    cell.until(&other, |status| status["state"] == "finished");
    assert!(logs(cell, &other).contains(r#"args ["own"]"#));

    // The same image as docker save writes it is the same package.
    let saved = dir.path().join("saved.tar");
    image.saved(&saved);
    assert!(put(cell, &saved, "web:1").ok().contains(", 0 sent"));
    cell.borgctl(&["package", "put", probe().to_str().unwrap(), "web:1"]).failed(5);
}

#[test]
fn a_running_task_says_how_long_its_packages_took_and_holds_them() {
    let cell = shared();
    if !is_isolated(cell) {
        return;
    }
    put(cell, probe(), "probe:1").ok();
    let mut stays = job("stays", "service", "exec $BORG_PACKAGE_PROBE/probe stay");
    stays["task"]["packages"] = json!(["probe:1"]);
    let stays = cell.submit(&stays);
    cell.until_up(&stays, 1);
    let status = cell.until(&stays, |status| note(status).starts_with("started in "));
    assert!(note(&status).contains(" ms, of which packages "), "{status}");
    let why = cell.borgctl(&["why", &format!("{stays}/0")]).ok();
    assert!(why.contains("of which packages"), "{why}");
    let refused = cell.borgctl(&["package", "remove", "probe:1"]).failed(3);
    assert!(refused.contains("package admin/probe:1 is in use by job admin/stays"), "{refused}");
    cell.borgctl(&["kill", &stays]).ok();
    within("the package is free", || cell.borgctl(&["package", "remove", "probe:1"]).code == 0);
}

#[test]
fn what_a_job_or_an_image_lacks_is_said_by_name() {
    let cell = shared();
    if !is_isolated(cell) {
        return;
    }
    let submit = |job: &Value| cell.borgctl_with(&["submit", "-"], &job.to_string());
    let refused = submit(&image_job("none", "none:1")).failed(3);
    assert!(refused.contains("task.image: there is no package admin/none:1"), "{refused}");

    let dir = scratch();
    Image::new(json!({})).layout(&dir.path().join("silent"));
    let silent = put(cell, &dir.path().join("silent"), "silent:1");
    assert!(silent.err.contains("has neither entrypoint nor command"), "{silent:?}");
    silent.ok();
    let refused = submit(&image_job("silent", "silent:1")).failed(3);
    assert!(refused.contains("has neither entrypoint nor command"), "{refused}");

    let fails = |name: &str, image: &Image, why: &str| {
        let (layout, package) = (dir.path().join(name), format!("{name}:1"));
        image.layout(&layout);
        put(cell, &layout, &package).ok();
        let job = cell.submit(&image_job(name, &package));
        let over = cell.until(&job, |status| status["state"] == "failed");
        assert!(note(&over).contains(why), "{why} is not in {over}");
    };
    // What no task could start is not taken; should it be there all the same, its task says why.
    let run = |user: &str| json!({ "Entrypoint": ["/bin/probe"], "User": user });
    let layout = dir.path().join("stranger");
    Image::new(run("nobody-here")).layout(&layout);
    let refused = put(cell, &layout, "stranger:1").failed(3);
    let why = "user \"nobody-here\" is not in its /etc/passwd";
    assert!(refused.contains("config.User") && refused.contains(why), "{refused}");
    let known = dir.path().join("known");
    Image::new(run("web")).layout(&known);
    put_unchecked(cell, &known, "stranger:1", |image| image.user = "nobody-here".into());
    let job = cell.submit(&image_job("stranger", "stranger:1"));
    let over = cell.until(&job, |status| status["state"] == "failed");
    assert!(note(&over).contains(why), "{over}");
    let run = json!({ "Entrypoint": ["/bin/probe"], "WorkingDir": "/etc/passwd" });
    fails("workdir", &Image::new(run), "working directory /etc/passwd");
    let arm = Image { arch: "arm64", ..Image::new(json!({ "Entrypoint": ["/bin/probe"] })) };
    fails("arm", &arm, "package admin/arm:1 is for aarch64, this machine is x86_64");
}

/// Nothing is sent of an image that is not what it says, nor of one that would harm.
#[test]
fn damaged_and_harmful_images_are_refused_before_anything_is_sent() {
    let cell = Cell::shared();
    let dir = scratch();
    let damaged = |name: &str, harm: fn(&Path)| {
        let layout = dir.path().join(name);
        Image::new(json!({ "Entrypoint": ["/bin/probe"] })).layout(&layout);
        harm(&layout);
        put(cell, &layout, &format!("{name}:1")).failed(3)
    };
    /// The file of the first layer.
    fn first_layer(layout: &Path) -> PathBuf {
        let sizes = fs::read_dir(layout.join("blobs/sha256")).unwrap().map(|entry| {
            let entry = entry.unwrap();
            (entry.metadata().unwrap().len(), entry.path())
        });
        sizes.max().unwrap().1
    }
    let said = damaged("flipped", |layout| {
        let path = first_layer(layout);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    });
    assert!(said.contains("has another digest"), "{said}");
    let said = damaged("cut", |layout| {
        let file = File::options().write(true).open(first_layer(layout)).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    });
    assert!(said.contains("it was cut off"), "{said}");
    let said = damaged("lacking", |layout| fs::remove_file(first_layer(layout)).unwrap());
    assert!(said.contains("is not in the image"), "{said}");

    let harmful = |name: &str, layer: Vec<u8>| {
        let layout = dir.path().join(name);
        let image = Image { layers: vec![layer], ..Image::new(json!({ "Cmd": ["/x"] })) };
        image.layout(&layout);
        put(cell, &layout, &format!("{name}:1")).failed(3)
    };
    let said = harmful("setuid", tar_of(&[("bin/su", b"x", 0o4755, 0)]));
    assert!(said.contains("\"bin/su\" is setuid or setgid"), "{said}");
    let mut proc = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    header.set_uid(0);
    header.set_gid(0);
    proc.append_link(&mut header, "proc", "/etc").unwrap();
    let said = harmful("proc", proc.into_inner().unwrap());
    assert!(said.contains("\"proc\" is a symlink"), "{said}");
    let mut tmp = tar::Builder::new(Vec::new());
    tmp.append_link(&mut header, "tmp", "/etc").unwrap();
    let said = harmful("tmp", tmp.into_inner().unwrap());
    assert!(said.contains("/tmp is a symlink: it must be a directory"), "{said}");
    let said = harmful("bomb", tar_of(&[("zeros", &vec![0; 64 << 20], 0o644, 0)]));
    assert!(said.contains("more than 200 times its size"), "{said}");
    let listed = cell.json(&["package", "list"]);
    assert_eq!(listed, json!([]), "nothing was put");
}

/// An upload that was cut off goes on where it ended, and a package outlives the master that took it.
#[test]
fn a_cut_upload_goes_on_and_a_restarted_master_has_the_package() {
    let cell = Cell::up(3, 1);
    let dir = scratch();
    let big = dir.path().join("big");
    fs::create_dir(&big).unwrap();
    let noise: Vec<u8> =
        (0..3_000_000_u32).map(|n| n.wrapping_mul(2_246_822_519).to_le_bytes()[3]).collect();
    fs::write(big.join("noise"), noise).unwrap();
    // As it will be sent: the same files always make the same blob.
    put(&cell, &big, "first:1").ok();
    let digest = cell.json(&["package", "show", "first:1"]);
    let digest: Digest =
        digest[0]["content"]["layers"][0]["digest"].as_str().unwrap().parse().unwrap();
    let master = |number: usize| cell.layout().data(&cell.record().masters[number].name);
    let blob = |number: usize| master(number).join("blobs").join(digest.hex());
    within("all masters have the blob", || (0..3).all(|number| blob(number).exists()));
    let bytes = fs::read(blob(0)).unwrap();
    assert_eq!(Digest::of(&bytes), digest);

    // A new cell has nothing of it; half of it is uploaded, and the connection breaks.
    let other = Cell::up(1, 0);
    let half = bytes.len() / 2;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut client = other.admin(0);
        let find = pb::FindBlobsRequest { digests: vec![digest.0.to_vec()] };
        let chunk = |offset: usize, data: &[u8]| pb::BlobChunk {
            digest: digest.0.to_vec(),
            offset: offset as u64,
            data: data.to_vec(),
            bytes: bytes.len() as u64,
        };
        let (chunks, stream) = tokio::sync::mpsc::channel(1);
        let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
        let mut uploader = client.clone();
        let upload = tokio::spawn(async move { uploader.upload_blob(stream).await });
        for (number, piece) in bytes[..half].chunks(100_000).enumerate() {
            let offset = if number == 0 { 0 } else { number * 100_000 };
            chunks.send(chunk(offset, piece)).await.unwrap();
        }
        loop {
            let found = client.find_blobs(find.clone()).await.unwrap().into_inner();
            if found.blobs[0].have == half as u64 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        upload.abort();
        // What does not go on where it ended is refused.
        loop {
            let refused =
                client.upload_blob(tokio_stream::iter([chunk(5, b"x")])).await.unwrap_err();
            if refused.code() != tonic::Code::Unavailable {
                assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let found = client.find_blobs(find).await.unwrap().into_inner();
        assert_eq!(found.blobs[0].have, half as u64);
    });
    let said = put(&other, &big, "big:1").ok();
    let rest = (bytes.len() - half) as f64 / f64::from(1 << 20);
    assert!(
        said.contains(&format!("{rest:.1}M sent")),
        "{rest:.1} of {} MiB: {said}",
        bytes.len() >> 20
    );

    // A master that lost its blobs gets them from the others.
    let killed = [Killed::of(&cell.record().masters[1])];
    cell.kill(&killed);
    fs::remove_dir_all(master(1).join("blobs")).unwrap();
    cell.start_again(&killed);
    within("the master has the blob again", || blob(1).exists());
    assert_eq!(fs::read(blob(1)).unwrap(), bytes);
}
