//! Sentences about packages on one machine.

use super::{Bench, starts, work};
use crate::fixture::{fence, poll, target_task};
use crate::{Cached, Config, Effect, Input, Launch, Supervisor, Trouble};
use borg_proto::package::{Digest, ImageConfig, Layer, Package, PackageKind};
use borg_proto::poll::{
    BlobReport, BlobSource, Fence, Holder, PollAnswer, PollRequest, StartTime, TargetTask,
    TaskStatus,
};
use borg_proto::wire::pb;
use borg_proto::{FailureCause, MachineInfo, Millis};
use std::collections::BTreeMap;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

fn layer(name: &str) -> Layer {
    Layer { digest: Digest::of(name.as_bytes()), bytes: MIB, unpacked_bytes: MIB }
}

fn package(key: &str, layers: &[&str]) -> Package {
    Package {
        key: key.parse().unwrap(),
        kind: PackageKind::Directory,
        layers: layers.iter().map(|name| layer(name)).collect(),
        image: None,
        arch: String::new(),
    }
}

/// Task `index` with packages, each of one layer of its own name.
fn with(index: u32, packages: &[Package]) -> TargetTask {
    let mut task = target_task(1, index, false);
    let spec = Arc::make_mut(&mut task.spec);
    spec.packages = packages.iter().map(|p| p.key.to_string().parse().unwrap()).collect();
    task.packages = packages.iter().cloned().map(Arc::new).collect();
    task
}

fn tools(index: u32) -> TargetTask {
    with(index, &[package("ann/tools:1", &["tools"])])
}

/// A machine of 4 MiB for packages, which is two of one MiB with what is unpacked of them.
fn bench(cached: Vec<Cached>) -> Bench {
    let mut config = Config::new("lab".parse().unwrap(), "m1".parse().unwrap(), 77);
    config.package_bytes = 4 * MIB;
    let attributes = BTreeMap::from([("arch".to_owned(), "x86_64".to_owned())]);
    let info = MachineInfo { attributes, ..super::info() };
    let supervisor = Supervisor::new(config, Fence::default(), vec![], info).with_blobs(cached);
    Bench { supervisor, now: Millis(1_000_000), token: 0 }
}

fn source(name: &str, machine: &str) -> BlobSource {
    let (machine, address) = (machine.parse().unwrap(), format!("{machine}:1"));
    BlobSource { digest: layer(name).digest, from: Holder::Machine { machine, address } }
}

/// The same target, with sources.
fn sources(b: &mut Bench, generation: u64, sources: Vec<BlobSource>) -> Vec<Effect> {
    let seen = b.supervisor.report().0;
    let request = PollRequest { sources, seen, ..poll(fence(1, 1, generation), None) };
    work(b.poll(request))
}

fn blobs(b: &Bench) -> Vec<BlobReport> {
    b.supervisor.report().1.blobs
}

fn launched(effects: &[Effect]) -> Launch {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::Start(launch) => Some(launch.as_ref().clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("nothing starts: {effects:?}"))
}

#[test]
fn a_task_starts_once_its_packages_are_fetched_and_unpacked_and_says_how_long_that_took() {
    let mut b = bench(vec![]);
    let task = tools(0);
    let digest = layer("tools").digest;
    let effects = work(b.order(1, &[&task]));
    assert!(effects.contains(&Effect::ExpectBlob { digest, bytes: MIB }), "{effects:?}");
    assert!(starts(&effects).is_empty());
    assert_eq!(blobs(&b), [BlobReport { digest, held: false, have: 0, failed: vec![] }]);

    let effects = sources(&mut b, 1, vec![source("tools", "m2")]);
    let (machine, address) = ("m2".parse().unwrap(), "m2:1".to_owned());
    assert_eq!(effects, [Effect::FetchBlob { digest, bytes: MIB, machine, address }]);
    assert_eq!(sources(&mut b, 1, vec![source("tools", "m2")]), [], "once");
    b.input(Input::BlobProgress(vec![(digest, 70)]));
    let fetching = TaskStatus::Fetching { have_bytes: 70, bytes: MIB, trouble: String::new() };
    assert_eq!(b.status(task.id), Some(fetching));

    b.later(300);
    let effects = work(b.input(Input::BlobCame { digest }));
    assert_eq!(effects, [Effect::Unpack { layer: layer("tools") }]);
    assert!(blobs(&b)[0].held, "others may have it at once");
    b.later(100);
    let launch = launched(&b.input(Input::Unpacked { digest }));
    assert_eq!(launch.packages[0].layer, digest);
    assert_eq!(launch.env["BORG_PACKAGE_TOOLS"], "/run/packages/tools");
    b.later(12);
    b.start(task.id, 0, 7);
    let start = b.supervisor.report().1.tasks[0].start;
    assert_eq!(start, Some(StartTime { total: Millis(412), packages: Millis(400) }));
    assert_eq!(start.unwrap().to_string(), "started in 412 ms, of which packages 400 ms");
}

#[test]
fn what_is_here_already_is_used_at_once() {
    let Layer { digest, bytes, unpacked_bytes } = layer("tools");
    let mut b = bench(vec![Cached { digest, bytes, unpacked_bytes, ready: true }]);
    launched(&b.order(1, &[&tools(0), &tools(1)]));
    let mut b = bench(vec![Cached { digest, bytes, unpacked_bytes: 0, ready: false }]);
    let effects = work(b.order(1, &[&tools(0)]));
    assert!(effects.contains(&Effect::Unpack { layer: layer("tools") }), "{effects:?}");
}

#[test]
fn a_machine_that_served_something_else_is_not_asked_again() {
    let mut b = bench(vec![]);
    let digest = layer("tools").digest;
    b.order(1, &[&tools(0)]);
    sources(&mut b, 1, vec![source("tools", "m2")]);
    let why = "it sent other bytes".to_owned();
    b.input(Input::NotFetched { digest, why: why.clone(), wrong: true });
    assert_eq!(blobs(&b)[0].failed, ["m2".parse().unwrap()]);
    assert_eq!(sources(&mut b, 1, vec![source("tools", "m2")]), []);
    let Some(TaskStatus::Fetching { trouble, .. }) = b.status(tools(0).id) else {
        panic!("{:?}", b.status(tools(0).id));
    };
    assert_eq!(trouble, why);
    b.later(1_000_000);
    assert_eq!(sources(&mut b, 1, vec![source("tools", "m2")]), [], "ever");
    assert_eq!(sources(&mut b, 1, vec![source("tools", "m3")]).len(), 1);
    // One that was only out of reach is, after a while.
    b.input(Input::NotFetched { digest, why, wrong: false });
    assert_eq!(sources(&mut b, 1, vec![source("tools", "m3")]), []);
    assert_eq!(work(b.later(30_000)).len(), 1);
}

/// Or its own masters would take this machine for one that talks nonsense, and give it up.
#[test]
fn what_another_machine_answers_makes_no_report_unreadable() {
    let mut b = bench(vec![]);
    let digest = layer("tools").digest;
    b.order(1, &[&tools(0)]);
    sources(&mut b, 1, vec![source("tools", "m2")]);
    let why = format!("from machine m2: \u{1b}[2J{}", "a\nb".repeat(400));
    b.input(Input::NotFetched { digest, why, wrong: false });
    let (version, report) = b.supervisor.report();
    let answer = PollAnswer { version, obeyed: fence(1, 1, 1), report, at: b.now };
    let read = PollAnswer::try_from(pb::PollAnswer::from(&answer)).unwrap();
    assert_eq!(read, answer);
    let Some(TaskStatus::Fetching { trouble, .. }) = b.status(tools(0).id) else {
        panic!("{:?}", b.status(tools(0).id));
    };
    assert_eq!(trouble, "from machine m2: \\u{1b}[2Ja");
}

#[test]
fn what_nobody_waits_for_any_more_is_given_up() {
    let mut b = bench(vec![]);
    let task = tools(0);
    b.order(1, &[&task]);
    let effects = work(b.order(2, &[]));
    assert!(effects.contains(&Effect::Remove { id: task.id }), "{effects:?}");
    assert!(effects.contains(&Effect::DropBlob { digest: layer("tools").digest }), "{effects:?}");
    assert_eq!(blobs(&b), []);
}

/// Makes a task of one package run.
fn run(b: &mut Bench, generation: u64, tasks: &[&TargetTask]) -> Vec<Effect> {
    let mut all = work(b.order(generation, tasks));
    for digest in blobs(b).iter().filter(|blob| !blob.held).map(|blob| blob.digest) {
        all.extend(b.input(Input::BlobCame { digest }));
        all.extend(b.input(Input::Unpacked { digest }));
    }
    for run in starts(&all) {
        b.start(run.id, run.number, 7);
    }
    all
}

#[test]
fn the_least_recently_used_goes_first_and_never_what_a_task_uses() {
    let mut b = bench(vec![]);
    let of = |index, name: &str| with(index, &[package(&format!("ann/{name}:1"), &[name])]);
    let [a, c, d] = [of(0, "a"), of(1, "c"), of(2, "d")];
    let dropped = |name: &str| Effect::DropBlob { digest: layer(name).digest };
    run(&mut b, 1, &[&a]);
    b.later(1_000);
    run(&mut b, 2, &[&a, &c]);
    // There is no room for a third, as both are in use.
    run(&mut b, 3, &[&a, &c, &d]);
    let Some(TaskStatus::Ended { failure: Some(FailureCause::Start { why }), .. }) = b.status(d.id)
    else {
        panic!("{:?}", b.status(d.id));
    };
    assert!(why.contains("4194304 of the 4194304 that this machine has"), "{why}");
    // Both end; the older one goes.
    b.order(4, &[]);
    b.exit(a.id, 0, None);
    b.exit(c.id, 0, None);
    let again = TargetTask { id: of(3, "d").id, ..of(3, "d") };
    let effects = run(&mut b, 5, &[&again]);
    assert!(effects.contains(&dropped("a")) && !effects.contains(&dropped("c")), "{effects:?}");
    assert_eq!(starts(&effects).len(), 1);
}

#[test]
fn a_full_disk_costs_what_is_idle_and_then_the_start() {
    let Layer { digest, bytes, unpacked_bytes } = layer("idle");
    let mut b = bench(vec![Cached { digest, bytes, unpacked_bytes, ready: true }]);
    let task = tools(0);
    let wanted = layer("tools").digest;
    b.order(1, &[&task]);
    b.input(Input::BlobCame { digest: wanted });
    let full = || Trouble::Full("no space left".into());
    let effects = work(b.input(Input::NotUnpacked { digest: wanted, trouble: full() }));
    assert_eq!(effects, [Effect::DropBlob { digest }, Effect::Unpack { layer: layer("tools") }]);
    let effects = work(b.input(Input::NotUnpacked { digest: wanted, trouble: full() }));
    assert_eq!(effects, [Effect::DropBlob { digest: wanted }]);
    let Some(TaskStatus::Ended { failure: Some(failure), .. }) = b.status(task.id) else {
        panic!("{:?}", b.status(task.id));
    };
    let told = "cannot start: package ann/tools:1 cannot be unpacked: no space left";
    assert_eq!(failure.to_string(), told);
}

#[test]
fn a_blob_that_rotted_on_the_disk_is_fetched_again() {
    let mut b = bench(vec![]);
    let digest = layer("tools").digest;
    b.order(1, &[&tools(0)]);
    b.input(Input::BlobCame { digest });
    let trouble = Trouble::Damaged("its bytes changed".into());
    let effects = work(b.input(Input::NotUnpacked { digest, trouble }));
    assert_eq!(effects, [Effect::DropBlob { digest }, Effect::ExpectBlob { digest, bytes: MIB }]);
    assert!(!blobs(&b)[0].held);
    b.input(Input::BlobCame { digest });
    launched(&b.input(Input::Unpacked { digest }));
}

#[test]
fn a_package_for_another_architecture_is_refused_by_name() {
    let mut b = bench(vec![]);
    let arm = Package { arch: "aarch64".into(), ..package("ann/arm:1", &["arm"]) };
    let task = with(0, &[arm]);
    assert!(starts(&b.order(1, &[&task])).is_empty());
    let Some(TaskStatus::Ended { failure: Some(failure), .. }) = b.status(task.id) else {
        panic!("{:?}", b.status(task.id));
    };
    let told = "cannot start: package ann/arm:1 is for aarch64, this machine is x86_64";
    assert_eq!(failure.to_string(), told);
}

/// As with `docker run --entrypoint`: a command takes the place of both.
#[test]
fn an_image_says_what_runs_and_where_unless_the_job_does() {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let config = ImageConfig {
        entrypoint: words(&["/bin/serve"]),
        cmd: words(&["--port", "%port.x%"]),
        env: BTreeMap::from([("A".into(), "image".into()), ("B".into(), "image".into())]),
        user: "web".into(),
        workdir: "/srv".into(),
    };
    let image = Package {
        kind: PackageKind::Image,
        image: Some(config),
        ..package("ann/web:1", &["low", "high"])
    };
    let task = |command: &[&str]| {
        let mut task = target_task(1, 0, false);
        let spec = Arc::make_mut(&mut task.spec);
        spec.image = Some("web:1".parse().unwrap());
        spec.command = words(command);
        spec.env = BTreeMap::from([("A".into(), "job".into())]);
        task.packages = vec![Arc::new(image.clone())];
        task
    };
    let launch = |command| launched(&run(&mut bench(vec![]), 1, &[&task(command)]));
    let own = launch(&[]);
    assert_eq!(own.argv, ["/bin/serve", "--port", "%port.x%"], "meant as it is");
    assert_eq!((own.env["A"].as_str(), own.env["B"].as_str()), ("job", "image"));
    let root = own.root.unwrap();
    assert_eq!((root.user.as_str(), root.workdir.as_str()), ("web", "/srv"));
    assert_eq!(root.layers, [layer("low").digest, layer("high").digest]);
    assert_eq!(launch(&["/bin/other", "%task%"]).argv, ["/bin/other", "0"]);
}
