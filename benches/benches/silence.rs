//! A turn of the leader of a large cell: while all is well, while half of it is silent, and when
//! that half comes back at once.

use borg_benches::cellgen::Size;
use borg_benches::silent::Cell;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

fn silence(c: &mut Criterion) {
    let size = Size::of_this_run();
    let mut group = c.benchmark_group(format!("silence_{}_machines", size.machines));
    let mut cell = Cell::led(size).expect("a cell that is led");
    group.bench_function("turn_all_answer", |b| b.iter(|| cell.turn(Vec::new())));
    let half = size.machines / 2;
    let inputs = cell.silence(0..half);
    cell.turn(inputs);
    group.bench_function("turn_half_silent", |b| b.iter(|| cell.turn(Vec::new())));
    group.sample_size(10);
    group.bench_function("half_comes_back", |b| {
        b.iter_batched(
            || (),
            |()| {
                // Their reports are made in the measured time too: the shards' part of it.
                let inputs = cell.answers(0..half);
                cell.turn(inputs);
                let inputs = cell.silence(0..half);
                cell.turn(inputs);
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, silence);
criterion_main!(benches);
