//! Applying entries to a large state, copying it, and writing it down.

use borg_benches::cellgen::{Grown, Size};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

/// Jobs of ten tasks in one measured mix: 35 entries.
const JOBS: u32 = 2;

fn apply(c: &mut Criterion) {
    let size = Size::of_this_run();
    let mut cell = Grown::filled(size).expect("the cell has room for its jobs");
    let mut group = c.benchmark_group(format!("state_{}_machines", size.machines));
    group.throughput(Throughput::Elements(35)); // entries
    group.bench_function("apply_mix", |b| {
        b.iter_batched(|| (), |()| cell.mix(JOBS).expect("room"), BatchSize::PerIteration);
    });
    group.throughput(Throughput::Elements(1)); // whole states
    group.bench_function("clone", |b| b.iter(|| black_box(cell.state.clone())));
    group.sample_size(10);
    group.bench_function("encode", |b| b.iter(|| black_box(cell.state.encode())));
    group.finish();
}

criterion_group!(benches, apply);
criterion_main!(benches);
