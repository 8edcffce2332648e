//! The scanners beside the decoders of redis-protocol, on the same bytes.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use keyward::resp::{Args, ReplyScan, ReplyScanner, RequestLimits, RequestScanner, Scan};
use redis_protocol::resp2::decode::{decode_bytes, decode_range};
use std::hint::black_box;
use std::time::Duration;

const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$8\r\nuser:100\r\n";

fn requests(c: &mut Criterion) {
    for (name, input) in [("get", GET.to_vec()), ("pipeline_16", GET.repeat(16))] {
        let mut group = c.benchmark_group(format!("request_{name}"));
        group.throughput(Throughput::Bytes(input.len() as u64));
        let mut scanner = RequestScanner::new(RequestLimits::AUTHENTICATED);
        group.bench_function("scanner", |b| {
            b.iter(|| {
                let mut window = black_box(&input[..]);
                while let Ok(Scan::Request { len, argc }) = scanner.scan(window) {
                    black_box(argc);
                    window = window.get(len..).unwrap_or_default();
                }
                window.len()
            });
        });
        group.bench_function("scanner_and_two_arguments", |b| {
            b.iter(|| {
                let mut window = black_box(&input[..]);
                while let Ok(Scan::Request { len, argc }) = scanner.scan(window) {
                    let args = Args::new(window, argc);
                    black_box((args.get(0), args.get(1)));
                    window = window.get(len..).unwrap_or_default();
                }
                window.len()
            });
        });
        decoders(&mut group, &input);
        group.finish();
    }
}

fn replies(c: &mut Criterion) {
    let inputs = [
        ("ok", b"+OK\r\n".to_vec()),
        ("value", b"$8\r\nuser:100\r\n".to_vec()),
        (
            "array_1000",
            [b"*1000\r\n", &b"$8\r\nuser:100\r\n".repeat(1000)[..]].concat(),
        ),
    ];
    for (name, input) in inputs {
        let mut group = c.benchmark_group(format!("reply_{name}"));
        group.throughput(Throughput::Bytes(input.len() as u64));
        let mut scanner = ReplyScanner::new();
        group.bench_function("scanner", |b| {
            b.iter(|| {
                let found = scanner.scan(black_box(&input));
                assert!(matches!(found, Ok(ReplyScan::Piece { last: true, .. })));
                scanner.kind()
            });
        });
        decoders(&mut group, &input);
        group.finish();
    }
}

fn decoders(group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>, input: &[u8]) {
    group.bench_function("decode_range", |b| {
        b.iter(|| {
            let mut window = black_box(input);
            while let Ok(Some((frame, len))) = decode_range(window) {
                black_box(frame);
                window = window.get(len..).unwrap_or_default();
            }
            window.len()
        });
    });
    let input = Bytes::copy_from_slice(input);
    group.bench_function("decode_bytes", |b| {
        b.iter(|| {
            let mut window = black_box(input.clone());
            while let Ok(Some((frame, len))) = decode_bytes(&window) {
                black_box(frame);
                window = window.slice(len..);
            }
            window.len()
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = requests, replies
}
criterion_main!(benches);
