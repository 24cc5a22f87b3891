//! `package put`, `list`, `show` and `remove`.

use crate::client::{Client, Kind};
use crate::exit::{Code, Failure};
use crate::output::{Output, note, size};
use crate::packages;
use borg_proto::package::{Package, PackageRef};
use borg_proto::wire::pb;
use clap::Subcommand;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum PackageCommand {
    /// Give a directory, a program or an image to the cell, under a name and a version
    Put {
        /// A directory, an executable file, an OCI image layout, or an archive of docker save
        path: PathBuf,
        /// NAME:VERSION, or USER/NAME:VERSION as admin
        name: PackageRef,
        /// Take files that are setuid, setgid or have capabilities, without these rights
        #[arg(long)]
        drop_setuid: bool,
    },
    /// List packages
    List {
        /// Only this user's
        #[arg(long)]
        user: Option<String>,
    },
    /// Show one package, or all versions of one
    Show {
        /// NAME:VERSION, or NAME; of somebody else with USER/ before it
        name: String,
    },
    /// Remove a package that no live job names
    Remove {
        /// NAME:VERSION, or USER/NAME:VERSION as admin
        name: PackageRef,
    },
}

/// A package as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    package: String,
    kind: String,
    digest: String,
    bytes: u64,
    unpacked_bytes: u64,
    arch: String,
    put_at_ms: u64,
    jobs: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Package>,
}

pub(super) async fn run(
    client: &mut Client,
    command: PackageCommand,
    out: Output,
) -> Result<(), Failure> {
    match command {
        PackageCommand::Put { path, name, drop_setuid } => {
            put(client, path, &name, drop_setuid, out).await
        }
        PackageCommand::List { user } => {
            let user = user.unwrap_or_default();
            let message = pb::ListPackagesRequest { user, ..pb::ListPackagesRequest::default() };
            show(&ask(client, message).await?, false, out)
        }
        PackageCommand::Show { name } => {
            let message = pb::ListPackagesRequest {
                package: name.clone(),
                ..pb::ListPackagesRequest::default()
            };
            let found = ask(client, message).await?;
            if found.is_empty() {
                return Err(Failure::new(Code::NotFound, format!("there is no package {name}")));
            }
            show(&found, true, out)
        }
        PackageCommand::Remove { name } => remove(client, &name, out).await,
    }
}

async fn put(
    client: &mut Client,
    path: PathBuf,
    name: &PackageRef,
    drop_setuid: bool,
    out: Output,
) -> Result<(), Failure> {
    let work = move || packages::prepare(&path, drop_setuid);
    let prepared = tokio::task::spawn_blocking(work).await;
    let prepared = prepared.map_err(|error| Failure::new(Code::Internal, error.to_string()))??;
    let package = Package {
        key: name.of(client.user()),
        kind: prepared.kind,
        layers: prepared.layers.iter().map(|(layer, _)| *layer).collect(),
        image: prepared.image.clone(),
        arch: prepared.arch.clone(),
    };
    package.check().map_err(|error| Failure::new(Code::Refused, error.to_string()))?;
    if prepared.dropped > 0 {
        note(&format!("{} files lost setuid, setgid or capabilities", prepared.dropped));
    }
    if package.image.as_ref().is_some_and(|image| image.command().is_empty()) {
        note(
            "the image has neither entrypoint nor command: jobs that run it have to name one, task.command",
        );
    }
    let (answer, sent) = packages::put(client, &package, &prepared).await?;
    if out.is_json() {
        let shown = Shown {
            package: package.key.to_string(),
            kind: package.kind.to_string(),
            digest: answer.digest,
            bytes: package.bytes(),
            unpacked_bytes: package.unpacked_bytes(),
            arch: package.arch.clone(),
            put_at_ms: 0,
            jobs: 0,
            content: Some(package),
        };
        return out.json(&shown, false);
    }
    let (kind, bytes) = (package.kind, size(package.bytes()));
    out.line(&format!("{}  {kind} of {bytes}, {} sent  {}", package.key, size(sent), answer.digest))
}

async fn ask(
    client: &mut Client,
    mut message: pb::ListPackagesRequest,
) -> Result<Vec<pb::PackageInfo>, Failure> {
    let mut packages = Vec::new();
    loop {
        let answer = client
            .call("package list", Kind::Read, message.clone(), async |mut client, request| {
                client.list_packages(request).await
            })
            .await?;
        packages.extend(answer.packages);
        if answer.next.is_empty() {
            return Ok(packages);
        }
        message.after = answer.next;
    }
}

fn show(found: &[pb::PackageInfo], whole: bool, out: Output) -> Result<(), Failure> {
    let shown = found.iter().map(|info| read(info, whole)).collect::<Result<Vec<_>, _>>()?;
    if out.is_json() {
        return out.json(&shown, false);
    }
    let row = |package: &Shown| {
        let any = if package.arch.is_empty() { "-" } else { &package.arch };
        [
            package.package.clone(),
            package.kind.clone(),
            size(package.bytes),
            size(package.unpacked_bytes),
            any.to_owned(),
            package.jobs.to_string(),
            package.digest.chars().take(19).collect(),
        ]
    };
    let head = ["package", "kind", "size", "unpacked", "arch", "jobs", "digest"];
    out.table(head, shown.iter().map(row))?;
    for content in shown.iter().filter_map(|package| package.content.as_ref()).filter(|_| whole) {
        for (i, layer) in content.layers.iter().enumerate() {
            out.line(&format!("layer {i}: {}  {}", layer.digest, size(layer.bytes)))?;
        }
        if let Some(image) = &content.image {
            out.line(&format!("command: {:?}", image.command()))?;
            let or =
                |text: &str, other: &str| if text.is_empty() { other } else { text }.to_owned();
            out.line(&format!("user: {}", or(&image.user, "root")))?;
            out.line(&format!("working directory: {}", or(&image.workdir, "/")))?;
        }
    }
    Ok(())
}

fn read(info: &pb::PackageInfo, whole: bool) -> Result<Shown, Failure> {
    let odd = |why: String| Failure::new(Code::Internal, format!("the master said: {why}"));
    let package = info.package.clone().ok_or_else(|| odd("no package".to_owned()))?;
    let package = Package::try_from(package).map_err(|error| odd(error.to_string()))?;
    Ok(Shown {
        package: package.key.to_string(),
        kind: package.kind.to_string(),
        digest: info.digest.clone(),
        bytes: package.bytes(),
        unpacked_bytes: package.unpacked_bytes(),
        arch: package.arch.clone(),
        put_at_ms: info.put_at_ms,
        jobs: info.jobs,
        content: whole.then_some(package),
    })
}

async fn remove(client: &mut Client, name: &PackageRef, out: Output) -> Result<(), Failure> {
    let package = name.of(client.user()).to_string();
    let message =
        pb::RemovePackageRequest { package: package.clone(), request_id: client.request_id() };
    client
        .call("package remove", Kind::Change, message, async |mut client, request| {
            client.remove_package(request).await
        })
        .await?;
    if out.is_json() {
        return out.json(&serde_json::json!({ "package": package, "removed": true }), false);
    }
    out.line(&format!("removed {package}"))
}
