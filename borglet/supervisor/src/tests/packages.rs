//! Sentences about packages on one machine.

use super::{Bench, starts, work};
use crate::fixture::{fence, poll, target_task};
use crate::{Cached, Config, Effect, Input, Launch, MachineUse, Supervisor, TaskUse, Trouble};
use borg_proto::package::{Digest, ImageConfig, Layer, Package, PackageKind};
use borg_proto::poll::{
    BlobReport, BlobSource, Fence, Holder, PollAnswer, PollRequest, StartTime, TargetTask,
    TaskStatus, Usage,
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
    Bench::of(supervisor)
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

/// News about the newest order of a blob.
fn came(b: &mut Bench, digest: Digest) -> Vec<Effect> {
    let order = b.orders[&digest];
    b.input(Input::BlobCame { digest, order })
}

fn unpacked(b: &mut Bench, digest: Digest) -> Vec<Effect> {
    let order = b.orders[&digest];
    b.input(Input::Unpacked { digest, order })
}

fn not_unpacked(b: &mut Bench, digest: Digest, trouble: Trouble) -> Vec<Effect> {
    let order = b.orders[&digest];
    b.input(Input::NotUnpacked { digest, order, trouble })
}

fn not_fetched(b: &mut Bench, digest: Digest, why: &str, wrong: bool) -> Vec<Effect> {
    let (order, why) = (b.orders[&digest], why.to_owned());
    b.input(Input::NotFetched { digest, order, why, wrong })
}

/// Without the numbers of orders.
fn unnumbered(effects: Vec<Effect>) -> Vec<Effect> {
    let mut effects = effects;
    for effect in &mut effects {
        match effect {
            Effect::ExpectBlob { order, .. }
            | Effect::FetchBlob { order, .. }
            | Effect::Unpack { order, .. } => *order = 0,
            _ => {}
        }
    }
    effects
}

fn unpack_of(name: &str) -> Effect {
    Effect::Unpack { layer: layer(name), order: 0 }
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
    let effects = unnumbered(work(b.order(1, &[&task])));
    assert!(effects.contains(&Effect::ExpectBlob { digest, bytes: MIB, order: 0 }), "{effects:?}");
    assert!(starts(&effects).is_empty());
    assert_eq!(blobs(&b), [BlobReport { digest, held: false, have: 0, failed: vec![] }]);

    let effects = unnumbered(sources(&mut b, 1, vec![source("tools", "m2")]));
    let (machine, address) = ("m2".parse().unwrap(), "m2:1".to_owned());
    assert_eq!(effects, [Effect::FetchBlob { digest, bytes: MIB, machine, address, order: 0 }]);
    assert_eq!(sources(&mut b, 1, vec![source("tools", "m2")]), [], "once");
    b.input(Input::BlobProgress(vec![(digest, 70)]));
    let fetching = TaskStatus::Fetching { have_bytes: 70, bytes: MIB, trouble: String::new() };
    assert_eq!(b.status(task.id), Some(fetching));

    b.later(300);
    let effects = unnumbered(work(came(&mut b, digest)));
    assert_eq!(effects, [unpack_of("tools")]);
    assert!(blobs(&b)[0].held, "others may have it at once");
    b.later(100);
    let launch = launched(&unpacked(&mut b, digest));
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
    let effects = unnumbered(work(b.order(1, &[&tools(0)])));
    assert!(effects.contains(&unpack_of("tools")), "{effects:?}");
}

#[test]
fn a_machine_that_served_something_else_is_not_asked_again() {
    let mut b = bench(vec![]);
    let digest = layer("tools").digest;
    b.order(1, &[&tools(0)]);
    sources(&mut b, 1, vec![source("tools", "m2")]);
    let why = "it sent other bytes";
    not_fetched(&mut b, digest, why, true);
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
    not_fetched(&mut b, digest, why, false);
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
    not_fetched(&mut b, digest, &why, false);
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
        all.extend(came(b, digest));
        all.extend(unpacked(b, digest));
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
    let Some(TaskStatus::Ended { failure: Some(FailureCause::Packages { why }), .. }) =
        b.status(d.id)
    else {
        panic!("{:?}", b.status(d.id));
    };
    assert!(why.contains("4194304 of the 4194304 that this machine has"), "{why}");
    // Both end; what was used longest ago goes.
    b.order(4, &[]);
    b.exit(a.id, 0, None);
    b.later(1_000);
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
    came(&mut b, wanted);
    let full = || Trouble::Full("no space left".into());
    let effects = unnumbered(work(not_unpacked(&mut b, wanted, full())));
    assert_eq!(effects, [Effect::DropBlob { digest }, unpack_of("tools")]);
    let effects = work(not_unpacked(&mut b, wanted, full()));
    assert_eq!(effects, [Effect::DropBlob { digest: wanted }]);
    let Some(TaskStatus::Ended { failure: Some(failure), .. }) = b.status(task.id) else {
        panic!("{:?}", b.status(task.id));
    };
    let told = "its machine cannot hold its packages: ann/tools:1: no space left";
    assert_eq!(failure.to_string(), told, "and that is no fault of the task");
}

/// What no machine could unpack is the package's fault.
#[test]
fn a_bad_package_fails_its_task_and_a_bad_disk_its_machine() {
    let ended = |trouble| {
        let mut b = bench(vec![]);
        let digest = layer("tools").digest;
        b.order(1, &[&tools(0)]);
        came(&mut b, digest);
        not_unpacked(&mut b, digest, trouble);
        let Some(TaskStatus::Ended { failure: Some(failure), .. }) = b.status(tools(0).id) else {
            panic!("{:?}", b.status(tools(0).id));
        };
        failure
    };
    let bad = ended(Trouble::Bad("a device".into()));
    let why = "package ann/tools:1 cannot be unpacked: a device".to_owned();
    assert_eq!(bad, FailureCause::Start { why });
    let disk = ended(Trouble::Disk("Input/output error".into()));
    assert_eq!(disk, FailureCause::Packages { why: "ann/tools:1: Input/output error".into() });
}

/// A service that ran for a month has used its packages a moment ago.
#[test]
fn what_was_in_use_longest_is_not_what_was_used_longest_ago() {
    let mut b = bench(vec![]);
    let of = |index, name: &str| with(index, &[package(&format!("ann/{name}:1"), &[name])]);
    let [a, c] = [of(0, "a"), of(1, "c")];
    run(&mut b, 1, &[&a]);
    b.later(1_000);
    run(&mut b, 2, &[&a, &c]);
    b.later(1_000);
    b.order(3, &[&a]);
    b.exit(c.id, 0, None);
    b.later(1_000_000);
    b.order(4, &[]);
    b.exit(a.id, 0, None);
    let dropped = |name: &str| Effect::DropBlob { digest: layer(name).digest };
    let effects = run(&mut b, 5, &[&of(2, "d")]);
    assert!(effects.contains(&dropped("c")) && !effects.contains(&dropped("a")), "{effects:?}");
}

/// The masters refuse such packages; what one machine has of one package is spoiled by no other.
#[test]
fn a_package_that_says_something_else_of_a_layer_is_refused_and_changes_nothing() {
    let mut b = bench(vec![]);
    run(&mut b, 1, &[&tools(0)]);
    let mut other = package("bob/x:1", &["tools"]);
    other.layers[0].unpacked_bytes = 0;
    let other = with(1, &[other]);
    b.order(2, &[&tools(0), &other]);
    let Some(TaskStatus::Ended { failure: Some(FailureCause::Start { why }), .. }) =
        b.status(other.id)
    else {
        panic!("{:?}", b.status(other.id));
    };
    assert!(why.contains("layer sha256:") && why.contains("unpacks to 1048576 bytes"), "{why}");
    launched(&b.order(3, &[&tools(0), &tools(2)]));
}

#[test]
fn a_blob_that_rotted_on_the_disk_is_fetched_again() {
    let mut b = bench(vec![]);
    let digest = layer("tools").digest;
    b.order(1, &[&tools(0)]);
    came(&mut b, digest);
    let trouble = Trouble::Damaged("its bytes changed".into());
    let effects = unnumbered(work(not_unpacked(&mut b, digest, trouble)));
    let again = Effect::ExpectBlob { digest, bytes: MIB, order: 0 };
    assert_eq!(effects, [Effect::DropBlob { digest }, again]);
    assert!(!blobs(&b)[0].held);
    came(&mut b, digest);
    launched(&unpacked(&mut b, digest));
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

/// With a reserve of 4 MiB, and 10 MiB for packages.
fn short_of_disk(cached: &[&str], available: u64) -> Bench {
    let cached = cached.iter().map(|name| {
        let Layer { digest, bytes, unpacked_bytes } = layer(name);
        Cached { digest, bytes, unpacked_bytes, ready: true }
    });
    let mut config = Config::new("lab".parse().unwrap(), "m1".parse().unwrap(), 77);
    (config.package_bytes, config.disk_reserve) = (10 * MIB, 4 * MIB);
    let supervisor = Supervisor::new(config, Fence::default(), vec![], super::info())
        .with_blobs(cached.collect());
    let mut bench = Bench::of(supervisor);
    left(&mut bench, available, &[]);
    bench
}

/// So much of the disk is free, and the tasks take so much.
fn left(b: &mut Bench, available: u64, uses: &[(&TargetTask, u64)]) -> Vec<Effect> {
    b.now = b.now + Millis(1_000);
    let machine = MachineUse { disk_available: Some(available), ..MachineUse::default() };
    let of = |disk_bytes| TaskUse { usage: Usage { disk_bytes, ..Usage::default() }, files: 0 };
    let tasks = uses.iter().map(|(task, bytes)| (task.id, of(*bytes))).collect();
    work(b.input(Input::Usage { machine, tasks }))
}

#[test]
fn a_disk_under_its_reserve_costs_idle_packages_before_any_task() {
    let mut b = short_of_disk(&["one", "two"], 5 * MIB);
    let [filler, user] = [target_task(7, 1, false), with(2, &[package("ann/two:1", &["two"])])];
    b.order(1, &[&filler, &user]);
    b.start(filler.id, 0, 7);
    b.start(user.id, 0, 8);
    let effects = left(&mut b, 3 * MIB, &[(&filler, 9 * MIB)]);
    assert_eq!(effects, [Effect::DropBlob { digest: layer("one").digest }], "and no Kill");
    assert_eq!(left(&mut b, 3 * MIB, &[(&filler, 9 * MIB)]), [], "its files are on their way out");
    // That was not enough, and what is in use stays.
    let effects = left(&mut b, MIB, &[(&filler, 11 * MIB)]);
    assert_eq!(effects, [Effect::Kill { run: super::run(filler.id, 0) }]);
}

#[test]
fn no_package_is_fetched_into_the_reserve() {
    let mut b = short_of_disk(&["idle"], 5 * MIB);
    // It takes 2 MiB, and 1 is left: what is idle makes room for one.
    let effects = unnumbered(work(b.order(1, &[&tools(0)])));
    let digest = layer("tools").digest;
    let expect = Effect::ExpectBlob { digest, bytes: MIB, order: 0 };
    assert_eq!(effects[1..], [Effect::DropBlob { digest: layer("idle").digest }, expect]);
    // What it will take is spoken for already.
    let other = with(1, &[package("ann/other:1", &["other"])]);
    assert_eq!(starts(&b.order(2, &[&tools(0), &other])), []);
    let Some(TaskStatus::Ended { failure: Some(failure), .. }) = b.status(other.id) else {
        panic!("{:?}", b.status(other.id));
    };
    let told = "its packages take 2097152 bytes, and the disk of this machine has 3145728 beyond its reserve";
    assert!(failure.to_string().contains(told), "{failure}");
}

/// Its directory would be taken away under whoever fills it, and a second one begun beside the first.
#[test]
fn a_layer_that_is_being_unpacked_never_goes_and_is_unpacked_once() {
    let mut b = short_of_disk(&[], 100 * MIB);
    let digest = layer("tools").digest;
    b.order(1, &[&tools(0)]);
    assert_eq!(unnumbered(work(came(&mut b, digest))), [unpack_of("tools")]);
    b.order(2, &[]);
    assert_eq!(left(&mut b, 0, &[]), [], "nobody needs it, but somebody fills it");
    let again = tools(1);
    assert_eq!(starts(&b.order(3, &[&again])), [], "and nothing is ordered");
    assert_eq!(blobs(&b).len(), 1);
    launched(&unpacked(&mut b, digest));
}

#[test]
fn news_of_an_order_that_was_given_up_changes_nothing() {
    let mut b = bench(vec![]);
    let digest = layer("tools").digest;
    b.order(1, &[&tools(0)]);
    sources(&mut b, 1, vec![source("tools", "m2")]);
    let old = b.orders[&digest];
    let trouble = Trouble::Damaged("x".into());
    not_unpacked(&mut b, digest, trouble);
    sources(&mut b, 1, vec![source("tools", "m3")]);
    b.input(Input::NotFetched { digest, order: old, why: "m2".into(), wrong: true });
    assert_eq!(blobs(&b)[0].failed, [], "m3 is not to blame");
    assert_eq!(work(b.input(Input::BlobCame { digest, order: old })), []);
    assert!(!blobs(&b)[0].held, "that one was dropped");
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
