//! Time to build a Maglev table, by slots and backends.

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{BenchmarkId, Criterion};
use lb_userspace::maglev::build;

fn backends(count: u16, weight: impl Fn(u16) -> u32) -> Vec<(SocketAddr, u32)> {
    (0..count).map(|i| (SocketAddr::from(([10, 0, (i >> 8) as u8, i as u8], 80)), weight(i))).collect()
}

fn tables(c: &mut Criterion) {
    let mut group = c.benchmark_group("maglev");
    group.sample_size(20);
    for (slots, count) in [(16_381, 100), (65_537, 100), (65_537, 600), (655_373, 1000)] {
        let equal = backends(count, |_| 1);
        group.bench_function(BenchmarkId::new("equal", format!("{slots}/{count}")), |b| {
            b.iter(|| build(black_box(&equal), slots));
        });
        let weighted = backends(count, |i| u32::from(i) % 1000 + 1);
        group.bench_function(BenchmarkId::new("weighted", format!("{slots}/{count}")), |b| {
            b.iter(|| build(black_box(&weighted), slots));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    tables(&mut criterion);
    criterion.final_summary();
}
