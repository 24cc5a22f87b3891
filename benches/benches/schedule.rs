//! One scheduling pass over a large cell: a whole cell's tasks from scratch, and one small job that
//! arrives in a cell that is running.

use borg_benches::cellgen::{Grown, Size};
use borg_proto::Millis;
use borg_scheduler::{Config, Scheduler};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

/// Later than any task has to wait for.
const NOW: Millis = Millis(1_000_000_000);
const SMALL_JOB: u32 = 10;

fn pass(c: &mut Criterion) {
    let size = Size::of_this_run();
    let mut group = c.benchmark_group(format!("pass_{}_machines", size.machines));
    group.sample_size(10);

    let mut empty = Grown::empty(size.machines).expect("machines without jobs");
    for _ in 0..size.jobs {
        empty.submit(100).expect("an acceptable job");
    }
    group.throughput(Throughput::Elements(100 * u64::from(size.jobs))); // tasks placed
    group.bench_function("from_scratch", |b| {
        b.iter_batched(
            || Scheduler::new(&empty.state, Config::default()),
            |mut scheduler| black_box(scheduler.pass(NOW, usize::MAX).len()),
            BatchSize::PerIteration,
        );
    });

    let mut full = Grown::filled(size).expect("the cell has room for its jobs");
    full.submit(SMALL_JOB).expect("an acceptable job");
    group.throughput(Throughput::Elements(u64::from(SMALL_JOB))); // tasks placed
    group.bench_function("small_job_in_a_running_cell", |b| {
        b.iter_batched(
            || Scheduler::new(&full.state, Config::default()),
            |mut scheduler| black_box(scheduler.pass(NOW, usize::MAX).len()),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, pass);
criterion_main!(benches);
