//! Arbitrary values of the vocabulary, each within its bounds, for the laws of the wire.

use crate::command::{
    Action, AllocSize, Assignment, Command, CronOrder, DataOrder, MAX_GIVEN_UP, Observation,
    Principal,
};
use crate::cron::{CatchUp, Cron, LEAST_START_BY, MOST_KEPT, MOST_START_BY, Overlap};
use crate::disruption::{Disruption, MAX_RATE_PER, MAX_RATE_TASKS, Rate, Share};
use crate::health::{Health, HealthCheck, Probe};
use crate::indexes::IndexSet;
use crate::machine::{MAX_DRAIN_TIME, MachineAddress, MachineId, MachineInfo};
use crate::names::{
    IncarnationId, JobId, JobKey, MachineName, PortName, ReplicaId, TaskId, TaskName,
};
use crate::network::Network;
use crate::package::{
    Digest, ImageConfig, Layer, MAX_LAYER_BYTES, Package, PackageKey, PackageKind, PackageRef,
    Version,
};
use crate::peer::{
    MachineAck, MachineDelta, ShardMachine, ShardOrders, ShardReport, ShardSession, ShardStamp,
};
use crate::policy::{MAX_WEIGHT, Policy, Term};
use crate::poll::{
    AnswerStamp, BlobReport, BlobSource, DataReport, DataStatus, Fence, Holder, MachineReport,
    Percentiles, PollAnswer, PollRequest, ReportVersion, SharedData, StartTime, Target, TargetData,
    TargetDigest, TargetTask, TaskReport, TaskStatus, Usage, UsageWindow,
};
use crate::priority::{AppClass, Band, Priority};
use crate::privilege::Privilege;
use crate::reclamation::{Amounts, Number, NumberSet};
use crate::resources::Resources;
use crate::spec::{
    Constraint, ConstraintOp, JobKind, JobSpec, MAX_GANG, MAX_KEEP_DATA, MAX_TASKS, MAX_TIMEOUT,
    MIN_KEEP_DATA, MIN_TIMEOUT, MemoryLimit, Spread, TaskLabels, TaskSpec, Volume,
};
use crate::task::{FailureCause, RunEnd, Shortage};
use crate::time::Millis;
use crate::update::{
    MAX_DEADLINE, MAX_MIN_HEALTHY, OnFailure, Order, Replacement, Revision, Steer, UpdateOptions,
};
use crate::wire::read_address;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::Arc;

/// Any value that parses from a short name.
fn name<T: FromStr<Err: Debug> + Debug>() -> impl Strategy<Value = T> {
    "[a-z0-9]([a-z0-9_-]{0,19}[a-z0-9_])?".prop_map(|text| text.parse().unwrap())
}

fn line() -> impl Strategy<Value = String> {
    "[ -~äß…]{0,24}"
}

fn millis() -> impl Strategy<Value = Millis> {
    any::<u64>().prop_map(Millis)
}

fn job_key() -> impl Strategy<Value = JobKey> {
    (name(), name()).prop_map(|(user, name)| JobKey { user, name })
}

fn task_id() -> impl Strategy<Value = TaskId> {
    (any::<u64>(), 0..MAX_TASKS).prop_map(|(job, index)| TaskId { job: JobId(job), index })
}

fn incarnation() -> impl Strategy<Value = IncarnationId> {
    (task_id(), 1..=u32::MAX).prop_map(|(task, number)| IncarnationId { task, number })
}

fn master_number() -> impl Strategy<Value = u64> {
    1..=ReplicaId::MAX_NUMBER
}

fn replica() -> impl Strategy<Value = ReplicaId> {
    (1..=u64::MAX).prop_map(ReplicaId)
}

fn resources(ports: std::ops::RangeInclusive<u32>) -> impl Strategy<Value = Resources> {
    let devices = btree_map("[a-z]{1,9}", 1..=1_000_000_u64, 0..3);
    (1..=10_000_000_u64, 1_u64 << 20..=1 << 50, 0..=1_u64 << 50, ports, devices).prop_map(
        |(cpu_milli, ram_bytes, disk_bytes, ports, devices)| Resources {
            cpu_milli,
            ram_bytes,
            disk_bytes,
            ports,
            devices: devices.into_iter().map(|(k, v)| (k.into(), v)).collect(),
        },
    )
}

fn constraint() -> impl Strategy<Value = Constraint> {
    let number = || any::<i64>().prop_map(|n| vec![n.to_string()]);
    let op_and_values = prop_oneof![
        vec(line(), 1).prop_map(|v| (ConstraintOp::Equal, v)),
        vec(line(), 1).prop_map(|v| (ConstraintOp::NotEqual, v)),
        number().prop_map(|v| (ConstraintOp::Less, v)),
        number().prop_map(|v| (ConstraintOp::LessEqual, v)),
        number().prop_map(|v| (ConstraintOp::Greater, v)),
        number().prop_map(|v| (ConstraintOp::GreaterEqual, v)),
        Just((ConstraintOp::Present, vec![])),
        Just((ConstraintOp::Absent, vec![])),
        vec(line(), 1..4).prop_map(|v| (ConstraintOp::In, v)),
    ];
    ("[a-z]{1,9}", op_and_values, any::<bool>())
        .prop_map(|(attribute, (op, values), soft)| Constraint { attribute, op, values, soft })
}

/// A task's part of a specification.
fn version_name() -> impl Strategy<Value = Version> {
    "[A-Za-z0-9_][A-Za-z0-9_.-]{0,9}".prop_map(|text| text.parse().unwrap())
}

fn package_ref() -> impl Strategy<Value = PackageRef> {
    (option::of(name()), name(), version_name()).prop_map(|(user, name, version)| PackageRef {
        user,
        name,
        version,
    })
}

fn package_key() -> impl Strategy<Value = PackageKey> {
    (name(), name(), version_name()).prop_map(|(user, name, version)| PackageKey {
        user,
        name,
        version,
    })
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

pub(super) fn package() -> impl Strategy<Value = Arc<Package>> {
    let layer = (digest(), 1..=MAX_LAYER_BYTES, 0..=MAX_LAYER_BYTES)
        .prop_map(|(digest, bytes, unpacked_bytes)| Layer { digest, bytes, unpacked_bytes });
    let words = || vec("[^\0]{0,12}", 0..3);
    let image =
        (words(), words(), btree_map("[A-Z_]{1,9}", "[^\0]{0,12}", 0..3), line(), "(/[a-z]{1,5})?")
            .prop_map(|(entrypoint, cmd, env, user, workdir)| ImageConfig {
                entrypoint,
                cmd,
                env,
                user,
                workdir,
            });
    let kind = prop_oneof![
        Just(PackageKind::Image),
        Just(PackageKind::Directory),
        Just(PackageKind::Binary)
    ];
    (package_key(), kind, vec(layer, 1..4), image, "[a-z0-9_]{0,8}").prop_map(
        |(key, kind, mut layers, image, arch)| {
            let is_image = kind == PackageKind::Image;
            if !is_image {
                layers.truncate(1);
            }
            Arc::new(Package { key, kind, layers, image: is_image.then_some(image), arch })
        },
    )
}

pub(super) fn task_spec() -> impl Strategy<Value = TaskSpec> {
    let spread =
        ("[a-z]{1,9}", 1..=MAX_TASKS).prop_map(|(attribute, max)| Spread { attribute, max });
    let volume = ("(/[a-z]{1,5}){1,3}", any::<bool>())
        .prop_map(|(path, writable)| Volume { path, writable });
    (
        ("/[a-z]{1,9}", vec("[^\0]{0,12}", 0..4)),
        btree_map("[A-Z_]{1,9}", "[^\0]{0,12}", 0..3),
        resources(0..=0),
        btree_set(name(), 0..4),
        vec(constraint(), 0..3),
        vec(spread, 0..2),
        vec(volume, 0..2),
        0..=600_000_u64,
        (
            any::<bool>(),
            option::of(10..=1_000_000_u64),
            option::of(health_check()),
            option::weighted(0.3, package_ref()),
            vec(package_ref(), 0..=1),
            any::<bool>(),
            (loosened(), any::<bool>()),
        ),
    )
        .prop_map(
            |((program, args), env, limit, ports, constraints, spread, volumes, grace, more)| {
                TaskSpec {
                    command: [vec![program], args].concat(),
                    env,
                    limit,
                    memory: if more.0 { MemoryLimit::Soft } else { MemoryLimit::Hard },
                    cpu_cap_milli: more.1,
                    health: more
                        .2
                        .zip(ports.first().cloned())
                        .map(|(check, port)| of_port(check, port)),
                    ports: ports.into_iter().collect(),
                    constraints,
                    spread,
                    volumes,
                    grace_ms: Millis(grace),
                    image: more.3,
                    packages: more.4,
                    network: if more.5 { Network::Own } else { Network::Host },
                    loosen: more.6.0,
                    reclaim: more.6.1,
                }
            },
        )
}

fn health_check() -> impl Strategy<Value = HealthCheck> {
    let probe = prop_oneof![
        (name(), "/[a-z?=&]{0,9}").prop_map(|(port, path)| Probe::Http { port, path }),
        name().prop_map(|port| Probe::Tcp { port }),
    ];
    (probe, 0..=3_600_000_u64, 100..=600_000_u64, 10..=60_000_u64, 1..=1_000_u32).prop_map(
        |(probe, grace, interval, timeout, failures)| HealthCheck {
            probe,
            grace_ms: Millis(grace),
            interval_ms: Millis(interval),
            timeout_ms: Millis(timeout),
            failures,
        },
    )
}

/// The check, of a port that the task has.
fn of_port(mut check: HealthCheck, has: PortName) -> HealthCheck {
    if let Probe::Http { port, .. } | Probe::Tcp { port } = &mut check.probe {
        *port = has;
    }
    check
}

fn health() -> impl Strategy<Value = Health> {
    proptest::sample::select(
        &[Health::Unchecked, Health::Starting, Health::Healthy, Health::Unhealthy][..],
    )
}

fn priority() -> impl Strategy<Value = Priority> {
    (0..=450_u64).prop_map(|p| Priority::new(p).unwrap())
}

fn appclass() -> impl Strategy<Value = AppClass> {
    prop_oneof![Just(AppClass::LatencySensitive), Just(AppClass::Batch)]
}

fn indexes() -> impl Strategy<Value = IndexSet> {
    vec(0..MAX_TASKS, 1..6).prop_map(|all| IndexSet::new(all).expect("some, and few"))
}

fn update() -> impl Strategy<Value = Action> {
    let to = prop_oneof![
        job_spec().prop_map(|spec| Revision::Spec(Arc::new(spec))),
        (1..=u32::MAX).prop_map(Revision::Version),
        (1..=MAX_TASKS).prop_map(Revision::Tasks),
        Just(Revision::Restart),
    ];
    let order = prop_oneof![
        Just(Order::Ascending),
        Just(Order::Descending),
        any::<u64>().prop_map(Order::Random),
        vec(0..MAX_TASKS, 1..4).prop_map(Order::Listed),
    ];
    let times = (0..=MAX_MIN_HEALTHY.0, 1..=MAX_DEADLINE.0, 0..=MAX_TASKS);
    let sets = (option::of(share()), option::of(indexes()), option::of(indexes()));
    (job_key(), to, order, times, sets, any::<(bool, bool, u8)>()).prop_map(
        |(job, to, order, times, (most, canary, tasks), (pause, close, replaced))| {
            let options = UpdateOptions {
                most,
                min_healthy_ms: Millis(times.0),
                deadline_ms: Millis(times.1),
                canary,
                tasks,
                order,
                on_failure: if pause { OnFailure::Pause } else { OnFailure::RollBack },
                failures: times.2,
                close,
                replacement: match replaced % 3 {
                    0 => Replacement::ForMoves,
                    1 => Replacement::First,
                    _ => Replacement::InPlace,
                },
            };
            Action::UpdateJob { job, to, options: Box::new(options) }
        },
    )
}

fn share() -> impl Strategy<Value = Share> {
    prop_oneof![(0..=MAX_TASKS).prop_map(Share::Tasks), (0..=100_u32).prop_map(Share::Percent)]
}

fn disruption() -> impl Strategy<Value = Disruption> {
    let most = share();
    let rate = (1..=MAX_RATE_TASKS, 1..=MAX_RATE_PER.0)
        .prop_map(|(tasks, per)| Rate { tasks, per_ms: Millis(per) });
    (most, option::of(rate)).prop_map(|(most, rate)| Disruption { most, rate })
}

/// A specification that a master would take.
pub(super) fn job_spec() -> impl Strategy<Value = JobSpec> {
    (
        name(),
        proptest::sample::select(
            &[JobKind::Service, JobKind::Batch, JobKind::AllocSet, JobKind::Daemon, JobKind::Cron]
                [..],
        ),
        prop_oneof![1..=MAX_GANG, 1..=MAX_TASKS],
        priority(),
        option::of(appclass()),
        task_spec(),
        vec(job_key(), 0..3),
        (0..=1_000_000_u32, any::<bool>(), option::weighted(0.2, job_key())),
        (any::<bool>(), option::of(1..=MAX_TASKS), option::of(disruption())),
        (
            (
                btree_map("[a-z]{1,9}", line(), 0..3),
                option::of(btree_map("[a-z]{1,9}", line(), 0..3)),
            ),
            option::of(job_key()),
            caps(),
            cron(),
            option::of((MIN_KEEP_DATA.0..=MAX_KEEP_DATA.0).prop_map(Millis)),
        ),
    )
        .prop_map(
            |(name, kind, tasks, priority, appclass, task, after, bounds, at_once, more)| {
                let (retries, exclusive, alloc_set) = bounds;
                let (labels, parent, caps, cron, keep_data_ms) = more;
                let (max_failures, timeout_ms, deadline_ms) = caps;
                let (gang, concurrent, disruption) = at_once;
                let (labels, of_some) = labels;
                let of_some = of_some.map(|labels| TaskLabels {
                    tasks: IndexSet::new([0, tasks - 1]).expect("few"),
                    labels,
                });
                let gang = gang && tasks <= MAX_GANG && concurrent.is_none_or(|most| most >= tasks);
                let mut spec = JobSpec {
                    name,
                    kind,
                    tasks,
                    priority,
                    appclass,
                    task: Arc::new(task),
                    after,
                    retries,
                    exclusive,
                    gang,
                    concurrent,
                    alloc_set,
                    parent,
                    max_failures,
                    timeout_ms,
                    deadline_ms,
                    cron: Some(cron),
                    labels,
                    disruption,
                    task_labels: of_some.into_iter().collect(),
                    keep_data_ms,
                    rescue: true,
                };
                without_what_its_kind_rules_out(&mut spec);
                without_what_allocs_rule_out(&mut spec);
                spec
            },
        )
}

/// Caps of a batch job.
fn caps() -> impl Strategy<Value = (u32, Option<Millis>, Option<Millis>)> {
    let time = || option::of((MIN_TIMEOUT.0..=MAX_TIMEOUT.0).prop_map(Millis));
    (0..=MAX_TASKS, time(), time())
}

fn cron() -> impl Strategy<Value = Cron> {
    let overlap =
        proptest::sample::select(&[Overlap::Forbid, Overlap::Allow, Overlap::Replace][..]);
    let catch_up = proptest::sample::select(&[CatchUp::None, CatchUp::Last, CatchUp::All][..]);
    (
        "(@daily|[1-5]?[0-9] \\*/[1-9] \\* (1-4|feb) [0-7])",
        (overlap, catch_up),
        option::of(LEAST_START_BY.0..=MOST_START_BY.0),
        0..=MOST_KEPT,
        0..=MOST_KEPT,
    )
        .prop_map(|(schedule, (overlap, catch_up), by, keep_finished, keep_failed)| Cron {
            schedule: schedule.parse().unwrap(),
            overlap: if catch_up == CatchUp::All { Overlap::Allow } else { overlap },
            catch_up,
            start_by_ms: by.map(Millis),
            keep_finished,
            keep_failed,
        })
}

fn cron_order() -> impl Strategy<Value = CronOrder> {
    proptest::sample::select(&[CronOrder::Pause, CronOrder::Resume, CronOrder::Run][..])
}

fn without_what_its_kind_rules_out(spec: &mut JobSpec) {
    if spec.kind == JobKind::Cron {
        spec.after.clear();
    } else {
        spec.cron = None;
    }
    if spec.kind != JobKind::AllocSet {
        spec.keep_data_ms = None;
    }
    let saves = matches!(spec.kind, JobKind::Service | JobKind::Batch);
    spec.rescue &= saves && spec.alloc_set.is_some();
    if !spec.kind.completes() {
        (spec.max_failures, spec.timeout_ms, spec.deadline_ms) = (0, None, None);
    }
    if spec.kind == JobKind::Daemon {
        (spec.tasks, spec.gang, spec.concurrent) = (1, false, None);
        (spec.exclusive, spec.alloc_set) = (false, None);
        Arc::make_mut(&mut spec.task).spread.clear();
        spec.task_labels.clear();
    }
}

fn without_what_allocs_rule_out(spec: &mut JobSpec) {
    let task = Arc::make_mut(&mut spec.task);
    if spec.kind == JobKind::AllocSet {
        (spec.alloc_set, spec.appclass, spec.retries, spec.exclusive) = (None, None, 0, false);
        spec.concurrent = None;
        task.command.clear();
        task.env.clear();
        task.ports.clear();
        task.volumes.clear();
        (task.memory, task.cpu_cap_milli, task.health) = (MemoryLimit::Hard, None, None);
        (task.image, task.network) = (None, Network::Host);
        task.packages.clear();
        task.loosen.clear();
        task.reclaim = true;
    } else if spec.alloc_set.is_some() {
        (spec.gang, spec.concurrent) = (false, None);
        task.constraints.clear();
        task.spread.clear();
        task.limit.devices.clear();
    }
}

fn cause() -> impl Strategy<Value = FailureCause> {
    prop_oneof![
        any::<i32>().prop_map(|code| FailureCause::Exit { code }),
        any::<i32>().prop_map(|signal| FailureCause::Signal { signal }),
        (any::<u64>(), any::<u64>()).prop_map(|(limit_bytes, peak_bytes)| {
            FailureCause::OutOfMemory { limit_bytes, peak_bytes }
        }),
        ".{0,300}".prop_map(|why: String| FailureCause::start(&why)),
        (1..=u16::MAX).prop_map(|port| FailureCause::PortTaken { port }),
        line().prop_map(|why| FailureCause::packages(&why)),
        Just(FailureCause::Lost),
        Just(FailureCause::Fenced),
        millis().prop_map(|after| FailureCause::Timeout { after }),
        millis().prop_map(|after| FailureCause::Deadline { after }),
        Just(FailureCause::NoAddress),
        any::<[u64; 2]>().prop_map(|[limit_bytes, used_bytes]| FailureCause::DiskLimit {
            limit_bytes,
            used_bytes
        }),
        any::<[u64; 2]>().prop_map(|[limit, used]| FailureCause::FileLimit { limit, used }),
        (any::<bool>(), any::<[u64; 2]>()).prop_map(|(memory, [limit_bytes, used_bytes])| {
            let of = if memory { Shortage::Memory } else { Shortage::Disk };
            FailureCause::Short { of, limit_bytes, used_bytes }
        }),
        ".{0,300}".prop_map(|why: String| FailureCause::unhealthy(&why)),
    ]
}

fn machine_info() -> impl Strategy<Value = MachineInfo> {
    (
        resources(0..=1000),
        1..=64_000_u16,
        btree_map("[a-z]{1,9}", line(), 0..4),
        line(),
        vec(line(), 0..3),
        "[a-z.]{0,20}",
    )
        .prop_map(
            |(capacity, first_port, attributes, boot_id, missing_isolation, task_host)| {
                MachineInfo {
                    capacity,
                    first_port,
                    attributes,
                    boot_id,
                    missing_isolation,
                    task_host,
                }
            },
        )
}

fn address() -> impl Strategy<Value = String> {
    ("[a-z0-9.-]{1,20}", 1..=u16::MAX).prop_map(|(host, port)| format!("{host}:{port}"))
}

fn target_task() -> impl Strategy<Value = TargetTask> {
    let spec_and_ports = task_spec().prop_flat_map(|spec| {
        let count = spec.ports.len();
        (Just(Arc::new(spec)), vec(1..=u16::MAX, count))
    });
    (
        incarnation(),
        job_key(),
        0..100_u32,
        spec_and_ports,
        priority(),
        appclass(),
        any::<[bool; 2]>(),
        vec(package(), 3),
        option::of(shared()),
    )
        .prop_map(|of| {
            let (id, job, more, (spec, ports), priority, appclass, flags, mut packages, shared) =
                of;
            let named = usize::from(spec.image.is_some()) + spec.packages.len();
            packages.truncate(named);
            TargetTask {
                id,
                name: TaskName { job, index: id.task.index },
                tasks: (id.task.index + 1 + more).min(MAX_TASKS),
                spec,
                ports,
                priority,
                appclass,
                restart: flags[0],
                exclusive: flags[1],
                packages,
                shared,
            }
        })
}

fn shared() -> impl Strategy<Value = SharedData> {
    (incarnation(), job_key(), any::<[bool; 2]>()).prop_map(|(alloc, job, [rescue, charged])| {
        let name = TaskName { job, index: alloc.task.index };
        SharedData { alloc, name, rescue, charged }
    })
}

fn target_data() -> impl Strategy<Value = Vec<TargetData>> {
    let one = (incarnation(), any::<u64>())
        .prop_map(|(alloc, left)| TargetData { alloc, left: NonZeroU64::new(left) });
    vec(one, 0..3).prop_map(|mut data| {
        data.sort_by_key(|data| data.alloc);
        data.dedup_by_key(|data| data.alloc);
        data
    })
}

fn data_reports() -> impl Strategy<Value = Vec<DataReport>> {
    let status = prop_oneof![
        Just(DataStatus::InUse),
        any::<u64>().prop_map(|bytes| DataStatus::AtRest { bytes }),
        "[a-z ]{0,20}".prop_map(|why| DataStatus::Gone { why }),
    ];
    let one = (incarnation(), status).prop_map(|(alloc, status)| DataReport { alloc, status });
    vec(one, 0..3).prop_map(|mut data| {
        data.sort_by_key(|data| data.alloc);
        data.dedup_by_key(|data| data.alloc);
        data
    })
}

fn target() -> impl Strategy<Value = Arc<Target>> {
    let ends = option::of(vec(incarnation(), 0..3));
    (vec(target_task(), 0..3), ends, target_data()).prop_map(|(mut tasks, ends, data)| {
        tasks.sort_by_key(|task| task.id);
        tasks.dedup_by_key(|task| task.id);
        let (spare, mut ends) = (ends.is_some(), ends.unwrap_or_default());
        ends.sort();
        ends.dedup();
        Arc::new(Target { tasks, spare, ends, data })
    })
}

/// What a shard asks.
pub(super) fn poll_request() -> impl Strategy<Value = PollRequest> {
    let fence = any::<[u64; 4]>().prop_map(|[epoch, term, session, generation]| Fence {
        epoch,
        term,
        session,
        generation,
    });
    (
        name(),
        name(),
        fence,
        option::of(target()),
        version(),
        0..=60_000_u64,
        option::of(any::<[u64; 2]>()),
        any::<u64>().prop_map(TargetDigest),
        vec(source(), 0..3),
    )
        .prop_map(|(cell, machine, fence, target, seen, hold, lease, digest, sources)| {
            PollRequest {
                cell,
                machine,
                fence,
                digest,
                target,
                seen,
                hold: Millis(hold),
                lease: lease.map(|[session, at]| AnswerStamp { session, at: Millis(at) }),
                sources: {
                    let mut sources = sources;
                    sources.sort_by_key(|source| source.digest);
                    sources
                },
            }
        })
}

fn source() -> impl Strategy<Value = BlobSource> {
    let from = option::of((name(), address()));
    (digest(), from).prop_map(|(digest, from)| BlobSource {
        digest,
        from: match from {
            Some((machine, address)) => Holder::Machine { machine, address },
            None => Holder::Master,
        },
    })
}

fn blob_report() -> impl Strategy<Value = BlobReport> {
    (digest(), any::<bool>(), any::<u64>(), vec(name(), 0..3))
        .prop_map(|(digest, held, have, failed)| BlobReport { digest, held, have, failed })
}

fn version() -> impl Strategy<Value = ReportVersion> {
    any::<[u64; 2]>().prop_map(|[session, number]| ReportVersion { session, number })
}

fn usage() -> impl Strategy<Value = Usage> {
    let window = (millis(), any::<[u64; 8]>()).prop_map(|(since, [a, b, c, d, e, f, g, h])| {
        let range = |p50, p90, p99, max| Percentiles { p50, p90, p99, max };
        UsageWindow { since, cpu_milli: range(a, b, c, d), ram_bytes: range(e, f, g, h) }
    });
    (any::<[u64; 6]>(), any::<u32>(), option::of(window)).prop_map(|(n, threads, window)| {
        let [cpu_milli, ram_bytes, cache_bytes, disk_bytes, io_bytes, io_ops] = n;
        Usage { cpu_milli, ram_bytes, cache_bytes, disk_bytes, io_bytes, io_ops, threads, window }
    })
}

fn task_report() -> impl Strategy<Value = TaskReport> {
    let status = prop_oneof![
        Just(TaskStatus::Starting),
        (any::<[u64; 2]>(), line()).prop_map(|([have_bytes, bytes], trouble)| {
            TaskStatus::Fetching { have_bytes, bytes, trouble }
        }),
        (any::<u32>(), millis()).prop_map(|(pid, since)| TaskStatus::Up { pid, since }),
        millis().prop_map(|until| TaskStatus::BackOff { until }),
        Just(TaskStatus::Stopping),
        (millis(), option::of(cause())).prop_map(|(at, failure)| TaskStatus::Ended { at, failure }),
    ];
    let ports = vec(1..=u16::MAX, 0..3);
    let own = ("[ -~]{0,40}", run_end(), health(), option::of(any::<[u64; 2]>()), any::<u32>());
    (incarnation(), status, any::<u32>(), option::of(cause()), usage(), ports, own).prop_map(
        |(
            id,
            status,
            restarts,
            last_failure,
            usage,
            ports,
            (status_line, last_run, health, start, address),
        )| {
            TaskReport {
                id,
                status,
                restarts,
                last_failure,
                usage,
                ports,
                health,
                status_line,
                last_run,
                start: start.map(|[total, packages]| StartTime {
                    total: Millis(total),
                    packages: Millis(packages),
                }),
                address: read_address(address),
            }
        },
    )
}

/// How a run ended, or nothing.
fn run_end() -> impl Strategy<Value = Option<Arc<RunEnd>>> {
    let figures = any::<[u64; 2]>();
    let end =
        (any::<u32>(), option::of(millis()), millis(), option::of(cause()), figures, "[ -~]{0,40}");
    let end =
        end.prop_map(|(run, started, ended, failure, [cpu_ms, ram_peak_bytes], last_lines)| {
            Arc::new(RunEnd { run, started, ended, failure, cpu_ms, ram_peak_bytes, last_lines })
        });
    option::of(end)
}

/// What a machine answers.
pub(super) fn poll_answer() -> impl Strategy<Value = PollAnswer> {
    let tasks = vec(task_report(), 0..4).prop_map(|mut tasks| {
        tasks.sort_by_key(|task| task.id);
        tasks.dedup_by_key(|task| task.id);
        tasks
    });
    let blobs = vec(blob_report(), 0..3).prop_map(|mut blobs| {
        blobs.sort_by_key(|blob| blob.digest);
        blobs
    });
    (version(), any::<[u64; 4]>(), machine_info(), tasks, blobs, data_reports(), millis()).prop_map(
        |(version, [epoch, term, session, generation], info, tasks, blobs, data, at)| PollAnswer {
            version,
            obeyed: Fence { epoch, term, session, generation },
            report: MachineReport { info, tasks, blobs, data },
            at,
        },
    )
}

fn stamp() -> impl Strategy<Value = Option<ShardStamp>> {
    let stamp = |[process, at]: [u64; 2]| ShardStamp { process, at: Millis(at) };
    option::of(any::<[u64; 2]>().prop_map(stamp))
}

fn session() -> impl Strategy<Value = ShardSession> {
    any::<[u64; 3]>().prop_map(|[epoch, term, session]| ShardSession { epoch, term, session })
}

/// Orders to a shard.
pub(super) fn orders() -> impl Strategy<Value = ShardOrders> {
    let digest = any::<u64>().prop_map(TargetDigest);
    let machine = (name(), address(), any::<u64>(), digest, option::of(target())).prop_map(
        |(machine, address, generation, digest, target)| ShardMachine {
            machine,
            address,
            generation,
            digest,
            target,
        },
    );
    let ack = (name(), any::<u64>(), any::<u64>())
        .prop_map(|(machine, seq, generation)| MachineAck { machine, seq, generation });
    let resync = vec(name(), 0..3);
    (session(), replica(), any::<bool>(), vec(machine, 0..3), vec(ack, 0..3), resync, stamp())
        .prop_map(|(session, leader, whole, machines, acks, resync, confirmed)| ShardOrders {
            session,
            leader,
            whole,
            machines,
            acks,
            resync,
            confirmed,
        })
}

/// A shard's differences.
pub(super) fn report() -> impl Strategy<Value = ShardReport> {
    let delta = (
        name::<MachineName>(),
        1..=u64::MAX,
        any::<bool>(),
        any::<bool>(),
        any::<u64>(),
        option::of(machine_info()),
        vec(task_report(), 0..3),
        vec(incarnation(), 0..3),
        option::of(data_reports()),
    )
        .prop_map(|(machine, seq, full, reachable, obeyed, info, tasks, gone, data)| {
            MachineDelta { machine, seq, full, reachable, obeyed, info, tasks, gone, data }
        });
    let usage = vec((incarnation(), usage()), 0..3);
    (session(), replica(), vec(delta, 0..3), usage, stamp(), vec(name(), 0..3)).prop_map(
        |(session, from, deltas, usage, stamp, wanting)| ShardReport {
            session,
            from,
            deltas,
            usage,
            stamp,
            wanting,
        },
    )
}

fn observation() -> impl Strategy<Value = Observation> {
    prop_oneof![
        (any::<u32>(), machine_info())
            .prop_map(|(m, info)| Observation::MachineUp { machine: MachineId(m), info }),
        any::<u32>().prop_map(|m| Observation::MachineDown { machine: MachineId(m) }),
        (incarnation(), any::<u32>(), millis(), any::<u32>(), run_end()).prop_map(
            |(id, pid, since, restarts, run)| Observation::TaskUp { id, pid, since, restarts, run }
        ),
        (incarnation(), millis(), any::<u32>(), cause(), run_end()).prop_map(
            |(id, until, restarts, cause, run)| {
                Observation::TaskBackOff { id, until, restarts, cause, run }
            }
        ),
        (incarnation(), millis(), option::of(cause()), run_end())
            .prop_map(|(id, at, failure, run)| Observation::TaskEnded { id, at, failure, run }),
        incarnation().prop_map(|id| Observation::TaskGone { id }),
        incarnation().prop_map(|id| Observation::TaskReclaimed { id }),
        (any::<u32>(), incarnation(), any::<u64>()).prop_map(|(machine, alloc, bytes)| {
            Observation::DataAtRest { machine: MachineId(machine), alloc, bytes }
        }),
        (any::<u32>(), incarnation(), "[a-z ]{0,20}").prop_map(|(machine, alloc, why)| {
            Observation::DataGone { machine: MachineId(machine), alloc, why }
        }),
        (incarnation(), health()).prop_map(|(id, health)| Observation::TaskHealth { id, health }),
        (incarnation(), 1..u32::MAX).prop_map(|(id, address)| Observation::TaskAddress {
            id,
            address: Ipv4Addr::from_bits(address),
        }),
        (any::<bool>(), any::<[u32; 2]>()).prop_map(|(safe_mode, [silent, machines])| {
            Observation::Silence { safe_mode, silent, machines }
        }),
        (
            incarnation(),
            any::<u32>(),
            any::<u32>(),
            millis(),
            any::<u32>(),
            vec(1..=u16::MAX, 0..3)
        )
            .prop_map(|(id, machine, pid, since, restarts, ports)| {
                let machine = MachineId(machine);
                Observation::TaskAdopted { id, machine, pid, since, restarts, ports }
            }),
    ]
}

fn band() -> impl Strategy<Value = Band> {
    proptest::sample::select(&Band::ALL[..])
}

fn quota() -> impl Strategy<Value = Action> {
    let amount =
        any::<([u64; 3], u32)>().prop_map(|([cpu_milli, ram_bytes, disk_bytes], ports)| {
            let devices = [("gpu".into(), cpu_milli)].into_iter().filter(|(_, count)| *count > 0);
            Resources { cpu_milli, ram_bytes, disk_bytes, ports, devices: devices.collect() }
        });
    let times = (option::of(millis()), option::of(millis()));
    (name(), band(), amount, times, any::<bool>()).prop_map(
        |(user, band, amount, (from, until), oversell)| Action::SetQuota {
            user,
            band,
            amount,
            from,
            until,
            oversell,
        },
    )
}

fn privilege() -> impl Strategy<Value = Privilege> {
    proptest::sample::select(&Privilege::ALL[..])
}

fn loosened() -> impl Strategy<Value = BTreeSet<Privilege>> {
    let of_tasks = privilege().prop_filter("of tasks", |privilege| privilege.loosens());
    btree_set(of_tasks, 0..3)
}

fn policy() -> impl Strategy<Value = Action> {
    let term = proptest::sample::select(&Term::ALL[..]);
    let weight = term.prop_flat_map(|term| (Just(term), term.least()..=MAX_WEIGHT));
    let named = proptest::sample::select(&Policy::ALL[..]);
    prop_oneof![
        (named, btree_map_of(weight.clone(), 0..4))
            .prop_map(|(named, weights)| Action::SetPolicy { policy: Some(named), weights }),
        btree_map_of(weight, 1..4).prop_map(|weights| Action::SetPolicy { policy: None, weights }),
    ]
}

fn reclamation() -> impl Strategy<Value = Action> {
    let number = proptest::sample::select(&Number::ALL[..]);
    let number = number.prop_flat_map(|number| {
        let (least, most) = number.bounds();
        (Just(number), least..=most)
    });
    let named = proptest::sample::select(&NumberSet::ALL[..]);
    prop_oneof![
        (named, btree_map_of(number.clone(), 0..4))
            .prop_map(|(named, numbers)| Action::SetReclamation { named: Some(named), numbers }),
        btree_map_of(number, 1..4)
            .prop_map(|numbers| Action::SetReclamation { named: None, numbers }),
    ]
}

fn btree_map_of<K: Ord + Debug, V: Debug>(
    pairs: impl Strategy<Value = (K, V)>,
    count: std::ops::Range<usize>,
) -> impl Strategy<Value = BTreeMap<K, V>> {
    vec(pairs, count).prop_map(|pairs| pairs.into_iter().collect())
}

/// Any entry of the log.
pub(super) fn command() -> impl Strategy<Value = Command> {
    let assignment = (task_id(), any::<u32>(), vec(incarnation(), 0..3), any::<Option<[u64; 3]>>())
        .prop_map(|(task, machine, victims, lent)| {
            let lent = Amounts::of(lent.unwrap_or_default());
            Assignment { task, machine: MachineId(machine), victims, lent }
        });
    let action = prop_oneof![
        (replica(), any::<u64>()).prop_map(|(leader, term)| Action::Lead { leader, term }),
        job_spec().prop_map(|spec| Action::SubmitJob { spec: Arc::new(spec) }),
        (job_key(), vec(0..MAX_TASKS, 0..4)).prop_map(|(job, tasks)| Action::Kill { job, tasks }),
        (job_key(), vec(0..MAX_TASKS, 1..4)).prop_map(|(job, tasks)| Action::Rerun { job, tasks }),
        (job_key(), cron_order()).prop_map(|(job, order)| Action::OrderCron { job, order }),
        (name(), address()).prop_map(|(name, address)| Action::AddMachine {
            machine: MachineAddress { name, address }
        }),
        name().prop_map(|machine| Action::RemoveMachine { machine }),
        (master_number(), address(), option::of(master_number())).prop_map(
            |(number, address, replaces)| Action::InviteMaster { number, address, replaces }
        ),
        (master_number(), address(), any::<u64>())
            .prop_map(|(number, address, token)| Action::JoinMaster { number, address, token }),
        master_number().prop_map(|number| Action::RemoveMaster { number }),
        replica().prop_map(|master| Action::ForgetMaster { master }),
        (1..=u32::MAX).prop_map(|level| Action::RaiseLevel { level }),
        (vec(name(), 1..MAX_GIVEN_UP), option::of(name()))
            .prop_map(|(machines, answering)| Action::GiveUp { machines, answering }),
        Just(Action::Settle),
        Just(Action::Advance),
        update(),
        (job_key(), proptest::sample::select(&Steer::ALL[..]))
            .prop_map(|(job, verb)| Action::SteerUpdate { job, verb }),
        (job_key(), option::of(indexes()))
            .prop_map(|(job, tasks)| Action::StopTasks { job, tasks }),
        (job_key(), option::of(indexes()))
            .prop_map(|(job, tasks)| Action::StartTasks { job, tasks }),
        quota(),
        (name(), band()).prop_map(|(user, band)| Action::RemoveQuota { user, band }),
        (vec(band(), 1..=5), any::<bool>())
            .prop_map(|(bands, on)| Action::EnforceQuota { bands, on }),
        (job_key(), option::of(1..=MAX_TASKS), any::<[Option<u64>; 3]>()).prop_map(
            |(alloc_set, allocs, [cpu_milli, ram_bytes, disk_bytes])| {
                let size = AllocSize { cpu_milli, ram_bytes, disk_bytes };
                let nothing = size == AllocSize::default();
                let allocs = allocs.or(nothing.then_some(1));
                Action::ResizeAllocs { alloc_set, allocs, size }
            }
        ),
        data_order(),
        policy(),
        reclamation(),
        (vec(name(), 1..5), btree_set(name(), 0..4))
            .prop_map(|(machines, users)| Action::KeepMachines { machines, users }),
        (vec(name(), 1..5), "[a-z ß]{0,20}[a-z]")
            .prop_map(|(machines, reason)| Action::CloseMachines { machines, reason }),
        vec(name(), 1..5).prop_map(|machines| Action::OpenMachines { machines }),
        drain(),
        vec(name(), 1..5).prop_map(|machines| Action::UndrainMachines { machines }),
        any::<u64>().prop_map(|number| Action::EndMaintenance { number }),
        package().prop_map(|package| Action::PutPackage { package }),
        package_key().prop_map(|package| Action::RemovePackage { package }),
        (name(), privilege())
            .prop_map(|(user, privilege)| Action::GrantPrivilege { user, privilege }),
        (name(), privilege())
            .prop_map(|(user, privilege)| Action::RevokePrivilege { user, privilege }),
        vec(assignment, 0..4).prop_map(|assignments| Action::Place { assignments }),
        vec(observation(), 0..4).prop_map(|changes| Action::Observe { changes }),
    ];
    let by = prop_oneof![name().prop_map(Principal::User), replica().prop_map(Principal::Master)];
    let request = option::of("[!-~]{1,64}".prop_map(|id: String| id.into()));
    (millis(), by, request, action).prop_map(|(at, by, request, action)| Command {
        at,
        by,
        request,
        action,
    })
}

fn data_order() -> impl Strategy<Value = Action> {
    let order = proptest::sample::select(&[DataOrder::Rescue, DataOrder::Drop][..]);
    (job_key(), 0..MAX_TASKS, any::<u64>(), order).prop_map(|(job, index, number, order)| {
        let (alloc, number) = (TaskName { job, index }, NonZeroU64::new(number));
        Action::RescueData { alloc, number, order }
    })
}

fn drain() -> impl Strategy<Value = Action> {
    let within = (0..=MAX_DRAIN_TIME.0).prop_map(Millis);
    let (at_once, leaves) = (option::of(1..=1_000u32), option::of(any::<u32>()));
    (vec(name(), 1..5), "[a-z ß]{0,20}[a-z]", within, at_once, leaves).prop_map(
        |(machines, reason, within, at_once, leaves)| Action::DrainMachines {
            machines,
            reason,
            within,
            at_once,
            leaves,
        },
    )
}
