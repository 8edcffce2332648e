//! Cost of one decision: finding the command, and asking whether the user may run it.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use keyward::acl::{Resolved, resolve, rule};
use keyward::resp::Args;

/// Name of the case, first and second word of the request.
type Words<'a> = (&'a str, &'a [u8], Option<&'a [u8]>);

fn lookups(c: &mut Criterion) {
    let mut group = c.benchmark_group("resolve");
    let cases: [Words<'_>; 6] = [
        ("get", b"GET", Some(b"key")),
        ("zrevrangebyscore", b"ZREVRANGEBYSCORE", Some(b"key")),
        ("config|get", b"CONFIG", Some(b"GET")),
        ("client|setinfo", b"client", Some(b"setinfo")),
        ("unknown", b"NOSUCHCOMMAND", None),
        ("too long", &[b'a'; 4096], None),
    ];
    for (name, first, second) in cases {
        group.bench_function(name, |b| b.iter(|| resolve(black_box(first), black_box(second))));
    }
    group.finish();
}

fn checks(c: &mut Criterion) {
    let mut group = c.benchmark_group("resolve and check");
    let requests: [(&str, &[u8], u32); 3] = [
        ("get", b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n", 2),
        ("flushall", b"*1\r\n$8\r\nFLUSHALL\r\n", 1),
        (
            "copy with db",
            b"*5\r\n$4\r\nCOPY\r\n$1\r\na\r\n$1\r\nb\r\n$2\r\nDB\r\n$1\r\n1\r\n",
            5,
        ),
    ];
    for preset in ["safe", "strict"] {
        let Ok(user) = rule::parse_user("bench", &[preset]) else {
            continue;
        };
        for (name, bytes, argc) in requests {
            group.bench_function(format!("{preset}: {name}"), |b| {
                b.iter(|| {
                    let args = Args::new(black_box(bytes), argc);
                    match resolve(args.get(0).unwrap_or_default(), args.get(1)) {
                        Resolved::Command(command) => user.check(command, args, true).is_ok(),
                        Resolved::Container(_) | Resolved::Unknown => false,
                    }
                });
            });
        }
    }
    group.finish();
}

/// A user whose keys are limited: what the patterns cost.
fn keys(c: &mut Criterion) {
    let mut group = c.benchmark_group("keys");
    let mset: Vec<u8> = [
        b"*21\r\n$4\r\nMSET\r\n".to_vec(),
        b"$7\r\napp:key\r\n$1\r\nv\r\n".repeat(10),
    ]
    .concat();
    let requests: [(&str, &[u8], u32); 4] = [
        ("get", b"*2\r\n$3\r\nGET\r\n$7\r\napp:key\r\n", 2),
        ("set", b"*3\r\n$3\r\nSET\r\n$7\r\napp:key\r\n$1\r\nv\r\n", 3),
        ("mset of ten", &mset, 21),
        (
            "zunionstore",
            b"*5\r\n$11\r\nZUNIONSTORE\r\n$5\r\napp:d\r\n$1\r\n2\r\n$5\r\napp:a\r\n$5\r\napp:b\r\n",
            5,
        ),
    ];
    let users: [(&str, Vec<String>); 4] = [
        ("all keys", vec!["~*".to_owned()]),
        ("one pattern", vec!["~app:*".to_owned()]),
        (
            "ten patterns",
            (0..9)
                .map(|n| format!("~team{n}:*"))
                .chain(["~app:*".to_owned()])
                .collect(),
        ),
        (
            "a selector",
            vec!["~own:*".to_owned(), "(~app:* +@all)".to_owned()],
        ),
    ];
    for (who, rules) in users {
        let words: Vec<&str> = ["on", "+@all"]
            .into_iter()
            .chain(rules.iter().flat_map(|rule| rule.split(' ')))
            .collect();
        let Ok(user) = rule::parse_user("bench", &words) else {
            continue;
        };
        for (name, bytes, argc) in requests {
            group.bench_function(format!("{who}: {name}"), |b| {
                b.iter(|| {
                    let args = Args::new(black_box(bytes), argc);
                    match resolve(args.get(0).unwrap_or_default(), args.get(1)) {
                        Resolved::Command(command) => user.check(command, args, true).is_ok(),
                        Resolved::Container(_) | Resolved::Unknown => false,
                    }
                });
            });
        }
    }
    group.finish();
}

fn parsing(c: &mut Criterion) {
    c.bench_function("parse the preset safe", |b| {
        b.iter(|| rule::parse_user(black_box("u"), &["safe"]))
    });
}

criterion_group!(benches, lookups, checks, keys, parsing);
criterion_main!(benches);
