//! The time that each row takes, the subjects side by side. On a machine that does other work as well, compare the
//! lower ends of the intervals.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, SamplingMode, Throughput};
use pgtable_benches::freehold::Freehold;
use pgtable_benches::peer::Peer;
use pgtable_benches::row::Row;
use pgtable_benches::subject::Subject;

/// Measures `row` for one subject. Each run has a table of its own, whose preparation does not count.
fn measure<S: Subject>(group: &mut BenchmarkGroup<'_, WallTime>, subject: &str, row: Row) {
    group.bench_function(subject, |bencher| {
        bencher.iter_batched_ref(|| row.prepare::<S>(), |subject| row.run(subject), BatchSize::PerIteration);
    });
}

fn main() {
    let mut criterion = Criterion::default()
        .output_directory(concat!(env!("CARGO_TARGET_TMPDIR"), "/criterion").as_ref())
        .without_plots()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for row in Row::ALL {
        let mut group = criterion.benchmark_group(row.name());
        group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(row.unit().0));
        measure::<Freehold>(&mut group, "Freehold", row);
        if row.peer_does_it_live() {
            measure::<Peer<true>>(&mut group, "aarch64-paging in use", row);
        }
        measure::<Peer<false>>(&mut group, "aarch64-paging not in use", row);
        group.finish();
    }
    criterion.final_summary();
}
