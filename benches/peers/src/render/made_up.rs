//! Results that nobody measured: made up, for tests of reports.

use crate::results::{Case, FORMAT, Job, Kind, Machine, Results, Round, Version, Who};

/// Three systems that do not exist, MMSB twice, and one floor.
pub fn results() -> Results {
    let contender = |name: &str, system: &str, kind, label: &str| Who {
        name: name.into(),
        system: system.into(),
        kind,
        label: label.into(),
        config: format!("Made up for tests: {label}."),
    };
    let mut results = Results {
        format: FORMAT,
        date: "2001-02-03T04:05:06Z".into(),
        command: "scripts/made-up".into(),
        commit: "0000000".into(),
        quick: false,
        rounds: 3,
        machine: Machine {
            cpu: "Made-up processor".into(),
            cores: 2,
            cpus_used: [0, 1],
            kernel: "Linux 0.0".into(),
            memory_bytes: 3 << 30,
            line_one_way_ns: [60.0, 70.0, 200.0],
            ..Machine::default()
        },
        versions: vec![Version {
            system: "A".into(),
            version: "1.0".into(),
        }],
        contenders: vec![
            contender("floor/line", "machine", Kind::Floor, "bare line"),
            contender("mmsb/ring", "MMSB", Kind::Mmsb, "MMSB, ring"),
            contender("mmsb/cell", "MMSB", Kind::Mmsb, "MMSB, cell"),
            contender("a/offer", "A", Kind::Peer, "A, offer"),
            contender("b/queue", "B", Kind::Peer, "B, queue"),
            contender("c/store", "C", Kind::Peer, "C"),
        ],
        cases: Vec::new(),
    };
    for bytes in [64, 1024] {
        let more = bytes as f64 - 64.0;
        for (name, ns) in [
            ("b/queue", 250.0),
            ("floor/line", 70.0),
            ("mmsb/ring", 110.0),
            ("a/offer", 80.0),
            ("mmsb/cell", 100.0),
        ] {
            let mut case = times(Job::OneWay, bytes, name, ns + more);
            case.cdf = (1..=50)
                .map(|at| (ns + f64::from(at), f64::from(at) / 50.0))
                .collect();
            results.cases.push(case);
        }
        results.cases.push(skipped(
            Job::OneWay,
            bytes,
            "c/store",
            "it has no notification",
        ));
    }
    for (name, ns) in [("floor/line", 1.5), ("mmsb/cell", 6.0), ("b/queue", 3.0)] {
        results.cases.push(times(Job::UpdateAlone, 64, name, ns));
    }
    for (name, per_second) in [("floor/line", 2e8), ("mmsb/ring", 5e7), ("a/offer", 7e7)] {
        results
            .cases
            .push(rates(Job::Throughput, None, name, per_second));
    }
    for (name, reads, writes) in [
        ("mmsb/ring", 8e6, 1e6),
        ("mmsb/cell", 6e6, 1e7),
        ("b/queue", 3e6, 2e7),
    ] {
        let round = Round {
            reads_per_second: Some(reads),
            writes_per_second: Some(writes),
            ..Round::default()
        };
        results
            .cases
            .push(case(Job::Contended, 64, name, vec![round]));
    }
    for (threads, scale) in [(1, 1.0), (8, 3.0)] {
        for (name, per_second) in [("floor/line", 1e4), ("mmsb/ring", 9e3), ("c/store", 7e3)] {
            let case = rates(Job::Synced, Some(threads), name, per_second * scale);
            results.cases.push(case);
        }
    }
    for (name, ns, never) in [
        ("mmsb/cell", Some(4e6), 0),
        ("a/offer", None, 3),
        ("b/queue", Some(5e9), 0),
    ] {
        let round = Round {
            p50_ns: ns,
            max_ns: ns,
            never: Some(never),
            note: Some("killed while it wrote".into()),
            ..Round::default()
        };
        results
            .cases
            .push(case(Job::Recovery, 64, name, vec![round]));
    }
    results
}

/// Gives a contender other median times in a job's 64 bytes, one for each round.
pub fn set(results: &mut Results, job: Job, name: &str, p50_ns: &[f64]) {
    let rounds = p50_ns.iter().map(|ns| Round {
        p50_ns: Some(*ns),
        ..Round::default()
    });
    let mut cases = results.cases.iter_mut();
    let case = cases.find(|case| case.job == job && case.bytes == 64 && case.contender == name);
    case.expect("a case that is made up").rounds = rounds.collect();
}

fn times(job: Job, bytes: usize, name: &str, ns: f64) -> Case {
    let round = |off: f64| Round {
        p50_ns: Some(ns + off),
        p99_ns: Some(ns * 2.0),
        ..Round::default()
    };
    case(job, bytes, name, vec![round(-0.25), round(0.0), round(0.5)])
}

fn rates(job: Job, threads: Option<usize>, name: &str, per_second: f64) -> Case {
    let round = |factor: f64| Round {
        per_second: Some(per_second * factor),
        p50_ns: Some(1e9 / per_second),
        ..Round::default()
    };
    Case {
        threads,
        ..case(job, 64, name, vec![round(0.99), round(1.0), round(1.02)])
    }
}

fn case(job: Job, bytes: usize, name: &str, rounds: Vec<Round>) -> Case {
    Case {
        job,
        bytes,
        threads: None,
        contender: name.into(),
        rounds,
        cdf: Vec::new(),
        skipped: None,
    }
}

fn skipped(job: Job, bytes: usize, name: &str, why: &str) -> Case {
    Case {
        skipped: Some(why.into()),
        ..case(job, bytes, name, Vec::new())
    }
}
