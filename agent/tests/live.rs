//! Commands that go on until they are told to end: `watch`, `demo`, and the agent.

mod common;

use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use common::{Buses, Running, until};
use mmsb::{Bus, PageSpec};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

fn buses() -> (Buses, Bus) {
    let buses = Buses::new();
    buses
        .mmsb(&[
            "create",
            "b",
            "--pages",
            "a/q::price:f64,qty:u32",
            "b/raw:64",
        ])
        .exits(0);
    let bus = buses.bus("b").attach().unwrap();
    (buses, bus)
}

/// Nobody is dead, nothing is held, and the bus can be written to.
#[track_caller]
fn assert_healthy(buses: &Buses, bus: &Bus) {
    let report = buses.json(&["doctor", "b"]);
    assert_eq!(report["problems"], 0, "{report}");
    let stats = buses.json(&["stats", "b"]);
    let others: Vec<&Value> = stats["participants"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p["name"] != "test")
        .collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(stats["cursors"], json!([]));
    bus.page("b/raw").unwrap().patch(0, b"x").unwrap();
}

#[test]
fn watch_decodes_deltas_from_a_snapshot_on() {
    let (buses, bus) = buses();
    let quote = bus.page("a/q").unwrap();
    quote.patch(0, &1.5f64.to_le_bytes()).unwrap();
    for observe in [false, true] {
        let before = quote.version().unwrap();
        let mut args = vec![
            "watch", "b", "--page", "a/q", "--from", "snapshot", "--count", "3", "--json",
        ];
        if observe {
            args.push("--observe");
        }
        let mut watch = buses.start(&args);
        let image = watch.event();
        assert_eq!(
            (&image["event"], &image["page"]),
            (&json!("image"), &json!("a/q"))
        );
        assert_eq!(image["epoch"], before.epoch);
        assert_eq!(
            image["values"]["price"],
            quote
                .field("price")
                .map(|f| match f.get() {
                    Ok(mmsb::schema::Value::F64(price)) => price,
                    other => panic!("{other:?}"),
                })
                .unwrap()
        );
        let first = quote.patch(0, &101.5f64.to_le_bytes()).unwrap();
        // Another page is not watched.
        bus.page("b/raw").unwrap().patch(0, b"zz").unwrap();
        let second = quote
            .caused_by(first)
            .patch_many(&[(0, &7f64.to_le_bytes()), (8, &300u32.to_le_bytes())])
            .unwrap();
        let third = quote.write(&[0; 16]).unwrap();
        let events: Vec<Value> = (0..3).map(|_| watch.event()).collect();
        assert_eq!(events[0]["lsn"], first);
        assert_eq!(events[0]["epoch"], before.epoch + 1);
        assert_eq!(events[0]["source"], "test");
        assert_eq!(events[0]["kind"], "patch");
        assert_eq!(events[0]["values"], json!({"price": 101.5}));
        assert_eq!(events[0]["ranges"], json!([{"offset": 0, "len": 8}]));
        assert_eq!(events[1]["lsn"], second);
        assert_eq!(events[1]["cause"], first);
        assert_eq!(events[1]["values"], json!({"price": 7.0, "qty": 300}));
        assert_eq!(events[2]["lsn"], third);
        assert_eq!(events[2]["epoch"], before.epoch + 3);
        // Three deltas were asked for; it ends by itself.
        watch.end().exits(0);
    }
    assert_healthy(&buses, &bus);
}

#[test]
fn watch_follows_a_prefix_to_pages_made_later() {
    let (buses, bus) = buses();
    let mut watch = buses.start(&[
        "watch", "b", "--prefix", "a/", "--from", "snapshot", "--json",
    ]);
    assert_eq!(watch.event()["event"], "image");
    let new = bus.create_page(PageSpec::new(8).name("a/new")).unwrap();
    let created = watch.event();
    assert_eq!(
        (&created["event"], &created["page"]),
        (&json!("created"), &json!("a/new"))
    );
    new.patch(1, &[0xab, 0xcd]).unwrap();
    let mut delta = watch.event();
    // With a snapshot, the image of a new page may come first.
    while delta["event"] == "image" {
        delta = watch.event();
    }
    assert_eq!(delta["page"], "a/new");
    assert_eq!(delta["epoch"], 1);
    assert_eq!(delta["values"], json!([{"offset": 1, "hex": "abcd"}]));
    bus.destroy(new.id()).unwrap();
    assert_eq!(watch.event()["event"], "destroyed");
    watch.signal(Signal::SIGTERM);
    watch.end().exits(0);
    assert_healthy(&buses, &bus);
}

#[test]
fn watch_ends_at_ctrl_c_and_leaves_the_bus_healthy() {
    let (buses, bus) = buses();
    for args in [
        &["watch", "b", "--from", "snapshot"] as &[&str],
        &["watch", "b", "--from", "snapshot", "--observe"],
    ] {
        let mut watch = buses.start(args);
        assert!(watch.line().contains("image"));
        // More lines than the pipe holds, and nobody reads: it must end all the same.
        for i in 0..2000u32 {
            bus.page("b/raw")
                .unwrap()
                .patch(0, &i.to_le_bytes())
                .unwrap();
        }
        std::thread::sleep(Duration::from_millis(300));
        watch.signal(Signal::SIGINT);
        watch.end().exits(0);
        assert_healthy(&buses, &bus);
    }
    let said = buses.mmsb(&["watch", "b", "--seconds", "0.2"]).exits(0);
    assert_eq!(said.err, "");
}

#[test]
fn watch_says_that_the_bus_or_page_is_missing_or_was_removed() {
    let (buses, bus) = buses();
    buses.mmsb(&["watch", "none"]).fails(4);
    buses.mmsb(&["watch", "b", "--page", "none"]).fails(1);
    let mut watch = buses.start(&["watch", "b", "--from", "snapshot", "--page", "a/q"]);
    watch.line();
    drop(bus);
    buses.mmsb(&["rm", "--force", "b"]).exits(0);
    let said = watch.end().exits(4);
    assert!(said.err.contains("gone"), "{}", said.err);
}

#[test]
fn a_demo_with_kills_is_right_and_leaves_nothing() {
    let buses = Buses::new();
    let report = buses.json(&[
        "demo",
        "--seconds",
        "3",
        "--seed",
        "11",
        "--writers",
        "2",
        "--kills-per-second",
        "25",
    ]);
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(report["problems"], json!([]));
    let number = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name}"));
    assert!(number("kills") > 0, "{report}");
    assert!(number("deltas") > 1000, "{report}");
    assert!(number("acknowledged") > 100, "{report}");
    assert!(number("reads") > 100, "{report}");
    assert_eq!(number("lost") + number("torn") + number("stuck"), 0);
    assert_eq!(
        report["faults"],
        json!({"holes": 0, "duplicates": 0, "torn": 0, "foreign": 0})
    );
    assert_eq!(number("pages_compared"), 9);
    assert_eq!(report["pages_different"], json!([]));
    assert_eq!(report["seed"], 11);
    assert_eq!(report["ended_early"], false);
    let recovered = report["recoveries"]["all"].as_u64().unwrap();
    assert!(recovered > 0 && recovered <= number("kills"), "{report}");
    assert!(report["commit_latency"]["p50_ns"].as_u64().unwrap() > 0);
    assert!(report["delivery_latency"]["count"].as_u64().unwrap() > 0);
    // Then with a log: agents killed, everybody killed, the segments removed, twice.
    let durable = &report["durable"];
    assert_eq!(durable["ok"], true, "{durable}");
    assert!(durable["agents_killed"].as_u64().unwrap() >= 4);
    assert!(durable["synced_commit"]["count"].as_u64().unwrap() > 10);
    let reboots = durable["reboots"].as_array().unwrap();
    assert_eq!(reboots.len(), 2, "{durable}");
    for (i, reboot) in reboots.iter().enumerate() {
        let number = |name: &str| reboot[name].as_u64().unwrap_or_else(|| panic!("{name}"));
        assert_eq!(number("incarnation"), i as u64 + 2);
        assert!(number("fork_lsn") >= number("durable_lsn"), "{reboot}");
        assert!(number("end_lsn") >= number("fork_lsn"), "{reboot}");
        assert_eq!(reboot["synced"]["lost"], 0, "{reboot}");
        assert!(reboot["synced"]["acknowledged"].as_u64().unwrap() > 10);
        assert_eq!(reboot["rebuilt_hash"], reboot["replayed_hash"]);
        assert_eq!(reboot["rebuilt_hash"].as_str().unwrap().len(), 32);
        assert_eq!((number("pages"), number("pages_equal")), (11, 11));
        let cuts = reboot["cuts"].as_array().unwrap();
        assert!(!cuts.is_empty(), "{reboot}");
        for cut in cuts {
            assert_eq!(cut["live"], cut["log"], "{reboot}");
        }
    }
    let diff = &durable["diff"];
    assert!(
        diff["from_lsn"].as_u64() < diff["to_lsn"].as_u64(),
        "{diff}"
    );
    let shown = diff["shown"].as_array().unwrap();
    assert!(!shown.is_empty(), "{diff}");
    let lines = shown[0]["lines"].as_array().unwrap();
    let is_shown = |with: &str| lines.iter().any(|l| l.as_str().unwrap().starts_with(with));
    assert!(is_shown("- ") && is_shown("+ "), "{diff}");
    assert_eq!(buses.files(), [""; 0]);
    let log = durable["log"].as_str().unwrap();
    assert!(
        !std::path::Path::new(log).parent().unwrap().exists(),
        "{log}"
    );
}

#[test]
fn a_demo_finds_out_that_its_log_lost_something() {
    let buses = Buses::new();
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log = disk.path().join("log");
    let args = ["demo", "--seconds", "0.5", "--kills-per-second", "0"];
    let more = ["--lose-last-file", "--json", "--log", log.to_str().unwrap()];
    let said = buses.mmsb(&[args.as_slice(), &more].concat());
    assert_eq!(said.code, Some(1), "{}", said.err);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(
        (&report["ok"], &report["lost"]),
        (&json!(false), &json!(0)),
        "{report}"
    );
    let durable = &report["durable"];
    assert_eq!(durable["ok"], false, "{durable}");
    let reboots = durable["reboots"].as_array().unwrap();
    assert_eq!(reboots.len(), 2, "{report}");
    assert!(
        reboots[0]["synced"]["lost"].as_u64().unwrap() > 0,
        "{durable}"
    );
    assert!(reboots[0]["fork_lsn"].as_u64() < reboots[0]["durable_lsn"].as_u64());
    let problems = report["problems"].as_array().unwrap();
    let has = |part: &str| problems.iter().any(|p| p.as_str().unwrap().contains(part));
    assert!(
        has("Synced deltas that were acknowledged are lost"),
        "{report}"
    );
    assert!(has("was called durable"), "{report}");
    // Its own directory is gone, that of somebody else is left.
    assert_eq!(std::fs::read_dir(&log).unwrap().count(), 0);
    assert_eq!(buses.files(), [""; 0]);
}

#[test]
fn a_demo_ends_at_ctrl_c_with_its_summary() {
    let buses = Buses::new();
    let args = [
        "demo",
        "--seconds",
        "600",
        "--seed",
        "5",
        "--bus",
        "b",
        "--keep",
        "--json",
    ];
    let mut command = buses.command(&args);
    // As on a terminal, where Ctrl-C goes to the whole group.
    command.process_group(0);
    let demo = Running::new(command);
    let group = Pid::from_raw(demo.child.id() as i32);
    until("the first deltas of a writer", || {
        let Ok(observer) = buses.bus("b").observe() else {
            return false;
        };
        let page = observer.page("demo/writer/0");
        page.and_then(|page| page.version())
            .is_ok_and(|version| version.epoch > 1000)
    });
    killpg(group, Signal::SIGINT).unwrap();
    let said = demo.end().exits(0);
    let report = said.json();
    assert_eq!(
        (&report["ok"], &report["ended_early"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(report["durable"], Value::Null, "nobody waits for that");
    // Its processes are gone, and the bus is in order.
    assert!(killpg(group, None).is_err());
    let doctor = buses.json(&["doctor", "b"]);
    assert_eq!(doctor["problems"], 0, "{doctor}");
    let stats = buses.json(&["stats", "b"]);
    assert_eq!(
        (&stats["participants"], &stats["cursors"]),
        (&json!([]), &json!([]))
    );
    let page = buses.json(&["read", "b", "demo/shared", "--field", "total"]);
    assert!(page["value"].as_u64().unwrap() > 0);
    buses.mmsb(&["rm", "b"]).exits(0);
}

#[test]
fn a_demo_says_what_keeps_it_from_starting() {
    let buses = Buses::new();
    buses.mmsb(&["create", "b"]).exits(0);
    let said = buses.mmsb(&["demo", "--seconds", "1", "--bus", "b"]);
    let said = said.fails(8);
    assert!(said.contains("exists"), "{said}");
    // The bus that was there is left alone.
    buses.mmsb(&["ls", "b"]).exits(0);
    buses.mmsb(&["rm", "b"]).exits(0);
    // Nor is one taken for the bus with a log.
    buses.mmsb(&["create", "b-durable"]).exits(0);
    let said = buses.mmsb(&["demo", "--seconds", "1", "--bus", "b"]);
    assert!(said.fails(8).contains("b-durable"));
    assert_eq!(buses.mmsb(&["ls", "b"]).code, Some(4));
    buses.mmsb(&["rm", "b-durable"]).exits(0);
    // A ring too small for what the demo does: nothing is left of the attempt.
    let said = buses.mmsb(&["demo", "--seconds", "1", "--ring", "4K"]);
    assert!(said.fails(2).contains("ring"));
    assert_eq!(buses.files(), [""; 0]);
}

#[test]
fn doctor_finds_who_is_stopped_and_holds_the_ring() {
    let buses = Buses::new();
    let worker = ["demo-worker", "b", "1", "65536"];
    let args = |role: &'static str| [worker.as_slice(), &[role]].concat();
    buses.mmsb(&args("setup")).exits(0);
    let mut command = buses.command(&args("follow"));
    command.stdin(Stdio::piped());
    let mut follower = Running::new(command);
    assert_eq!(follower.event()["type"], "ready");
    follower.signal(Signal::SIGSTOP);
    let bus = buses.bus("b").attach().unwrap();
    bus.page("demo/shared").unwrap().patch(0, b"x").unwrap();
    until("the stop", || {
        let said = buses.mmsb(&["doctor", "b", "--json"]);
        let report = said.json();
        let stopped = report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|finding| {
                let message = finding["message"].as_str().unwrap();
                finding["check"] == "stopped"
                    && finding["severity"] == "problem"
                    && message.contains("gating")
            });
        assert_eq!(said.code == Some(1), stopped);
        stopped
    });
    // It is alive, so it is not repaired.
    buses.mmsb(&["doctor", "b", "--repair"]).exits(1);
    follower.signal(Signal::SIGCONT);
    until("the follower", || {
        buses.mmsb(&["doctor", "b"]).code == Some(0)
    });
    // The pipe of the parent closes.
    drop(follower.child.stdin.take());
    follower.end().exits(0);
}

#[test]
fn the_agent_recovers_the_dead_and_ends_at_sigterm() {
    let (buses, bus) = buses();
    let program = env!("CARGO_BIN_EXE_mmsb-agent");
    let agent = buses.command_of(program, &["b", "later", "--interval", "50ms"]);
    let agent = Running::new(agent);
    // Joining recovers as well, but without a line in the log.
    let is_on = |bus: &str| {
        let stats = buses.json(&["stats", bus]);
        let participants = stats["participants"].as_array().unwrap();
        participants.iter().any(|p| p["name"] == "mmsb-agent")
    };
    until("the agent", || is_on("b"));
    let mut watch = buses.start(&["watch", "b", "--from", "snapshot"]);
    watch.line();
    watch.signal(Signal::SIGKILL);
    watch.end();
    until("the recovery", || {
        buses.json(&["stats", "b"])["counters"]["recoveries"] == 1
    });
    // A bus that comes later is looked after, too.
    buses.mmsb(&["create", "later"]).exits(0);
    until("the agent on the new bus", || is_on("later"));
    std::thread::sleep(Duration::from_millis(100));
    agent.signal(Signal::SIGTERM);
    let said = agent.end().exits(0);
    assert!(
        said.err.contains("recovered dead participants"),
        "{}",
        said.err
    );
    assert!(said.err.contains("asked to end"), "{}", said.err);
    assert_healthy(&buses, &bus);
    let usage = buses.command_of(program, &[] as &[&str]);
    common::finish({
        let mut usage = usage;
        usage.spawn().unwrap()
    })
    .exits(2);
    let help = buses.command_of(program, &["--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("What it does not do"), "{help}");
}
