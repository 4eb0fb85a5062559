//! The `mmsb` command as scripts see it: output, JSON shapes, exit codes, errors.

mod common;

use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use common::{Buses, finish, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const PAGES: [&str; 4] = [
    "nyse/ibm::quote{price:f64,qty:u32,bids:f64[4],host:char[8]}",
    "nyse/msft:64",
    "arm:64x8:f64[8]",
    "blob:4K",
];

/// A bus called `b` with the pages above.
fn buses() -> Buses {
    let buses = Buses::new();
    let mut args = vec!["create", "b", "--size", "64M", "--ring", "64K", "--pages"];
    args.extend(PAGES);
    buses.mmsb(&args).exits(0);
    buses
}

#[test]
fn create_makes_the_bus_and_its_pages_as_asked() {
    let buses = Buses::new();
    let made = buses.json(&[
        "create",
        "big",
        "--size",
        "128M",
        "--ring",
        "100K",
        "--pages-max",
        "1K",
        "--participants-max",
        "7",
        "--mode",
        "0640",
        "--pages",
        "a:1K",
    ]);
    assert_eq!(made["bus"]["name"], "big");
    assert_eq!(made["bus"]["ring_bytes"], 128 << 10);
    assert_eq!(made["bus"]["pages_max"], 1024);
    assert_eq!(made["bus"]["participants_max"], 7);
    assert_eq!(made["bus"]["mode"], 0o640);
    assert_eq!(made["bus"]["ctl_mode"], 0o600);
    assert_eq!(made["pages"][0]["name"], "a");
    assert_eq!(made["pages"][0]["size"], 1024);

    assert!(buses.mmsb(&["create", "big"]).fails(8).contains("exists"));
    // The bus stays, and only what is missing is made.
    buses
        .mmsb(&["create", "big", "--if-missing", "--pages", "a:1K", "c:8"])
        .exits(0);
    let names: Vec<Value> = buses.json(&["ls", "big"]).as_array().unwrap().to_vec();
    assert_eq!(names.len(), 2);
    // A page of that name and another size is not the page asked for.
    buses
        .mmsb(&["create", "big", "--if-missing", "--pages", "a:2K"])
        .fails(2);
}

#[test]
fn create_leaves_nothing_behind_if_a_page_cannot_be_made() {
    let buses = Buses::new();
    let args = [
        "create",
        "b",
        "--pages-max",
        "2",
        "--pages",
        "a:8",
        "b:8",
        "c:8",
        "d:8",
    ];
    let said = buses.mmsb(&args).fails(6);
    assert!(
        said.contains("page c") && said.contains("pages_max"),
        "{said}"
    );
    assert_eq!(buses.files(), [""; 0]);
    buses.mmsb(&["create", "b", "--pages", "a"]).fails(2);
    buses.mmsb(&["create", "b", "--pages", "a::f65"]).fails(2);
    buses.mmsb(&["create", "a/b"]).fails(2);
    assert_eq!(buses.files(), [""; 0]);
}

#[test]
fn ls_lists_buses_and_pages() {
    let buses = buses();
    let list = buses.json(&["ls"]);
    assert_eq!(list[0]["name"], "b");
    assert_eq!(
        (&list[0]["state"], &list[0]["pages"]),
        (&json!("ok"), &json!(4))
    );
    let pages = buses.json(&["ls", "b"]);
    let names: Vec<&str> = pages
        .as_array()
        .unwrap()
        .iter()
        .map(|page| page["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["arm", "blob", "nyse/ibm", "nyse/msft"]);
    assert_eq!(pages[0]["versions"], 8);
    assert_eq!(pages[0]["schema"], "f64[8]");
    assert_eq!(pages[1]["schema"], Value::Null);
    assert_eq!(
        buses.json(&["ls", "b", "nyse/"]).as_array().unwrap().len(),
        2
    );
    // A page without a name is listed only with all.
    let bus = buses.bus("b").attach().unwrap();
    bus.create_page(mmsb::PageSpec::new(8)).unwrap();
    assert_eq!(buses.json(&["ls", "b"]).as_array().unwrap().len(), 4);
    assert_eq!(
        buses.json(&["ls", "b", "--all"]).as_array().unwrap().len(),
        5
    );
    let table = buses.mmsb(&["ls", "b"]).exits(0).out;
    assert!(table.starts_with("page"), "{table}");
    assert!(table.contains("quote{price:f64"), "{table}");
    let empty = Buses::new();
    assert!(empty.mmsb(&["ls"]).exits(0).out.contains("no buses"));
    assert_eq!(empty.json(&["ls"]), json!([]));
}

#[test]
fn ls_lists_a_bus_that_cannot_be_looked_at_with_the_reason() {
    let buses = buses();
    std::fs::write(buses.path().join("mmsb.bad.pages"), [7u8; 8192]).unwrap();
    let list = buses.json(&["ls"]);
    assert_eq!(list[0]["name"], "b");
    assert_eq!(list[1]["name"], "bad");
    assert_eq!(list[1]["state"], "corrupt");
    assert!(buses.mmsb(&["ls", "bad"]).fails(7).contains("magic"));
    // Half a bus has no pages to look at.
    let said = buses.mmsb(&["ls"]).exits(0).out;
    assert!(said.contains("magic"), "{said}");
}

#[test]
fn info_says_everything_about_a_bus_and_a_page() {
    let buses = buses();
    let info = buses.json(&["info", "b"]);
    assert_eq!(info["pages"], 4);
    assert_eq!(info["bus"]["ring_slots"], 1024);
    assert!(info["bus"]["pages_blocks_bytes"].as_u64().unwrap() > 0);
    assert!(info["bus"]["ctl_blocks_bytes"].as_u64().unwrap() > 0);
    assert_eq!(info["bus"]["id"].as_str().unwrap().len(), 32);
    let classes = info["classes"].as_array().unwrap();
    assert!(classes.iter().any(|class| class["payload"] == 4096));
    let text = buses.mmsb(&["info", "b"]).exits(0).out;
    assert!(text.contains("stays in its class"), "{text}");
    assert!(text.contains("st_blocks"), "{text}");

    let page = buses.json(&["info", "b", "nyse/ibm"]);
    assert_eq!(page["size"], 56);
    assert_eq!(page["fields"][2]["name"], "bids");
    assert_eq!(page["fields"][2]["offset"], 16);
    assert_eq!(page["fields"][2]["count"], 4);
    assert_eq!(page["epoch"], 0);
    let text = buses.mmsb(&["info", "b", "nyse/ibm"]).exits(0).out;
    assert!(text.contains("epoch 0") && text.contains("bids"), "{text}");
    buses.mmsb(&["info", "b", "nyse/none"]).fails(1);
}

#[test]
fn fields_are_written_as_one_delta_and_read_back() {
    let buses = buses();
    let wrote = buses.json(&[
        "write",
        "b",
        "nyse/ibm",
        "price=101.5,bids[2]=7,host=\"a,b\"",
    ]);
    assert_eq!((&wrote["ranges"], &wrote["bytes"]), (&json!(3), &json!(24)));
    let read = buses.json(&["read", "b", "nyse/ibm"]);
    assert_eq!(read["epoch"], 1);
    assert_eq!(read["lsn"], wrote["lsn"]);
    assert_eq!(read["format"], "fields");
    assert_eq!(
        read["value"],
        json!({"price": 101.5, "qty": 0, "bids": [0.0, 0.0, 7.0, 0.0], "host": "a,b"})
    );
    buses
        .mmsb(&["write", "b", "nyse/ibm", "--field", "qty", "300"])
        .exits(0);
    let read = buses.json(&["read", "b", "nyse/ibm", "--field", "qty"]);
    assert_eq!((&read["value"], &read["epoch"]), (&json!(300), &json!(2)));
    let said = buses
        .mmsb(&["read", "b", "nyse/ibm", "--field", "bids[2]"])
        .exits(0);
    assert_eq!(said.out, "7.0\n");
    let said = buses.mmsb(&["write", "b", "nyse/ibm", "size=1"]).fails(2);
    assert!(
        said.contains("no field") && said.contains("price"),
        "{said}"
    );
    let said = buses.mmsb(&["write", "b", "nyse/ibm", "qty=-1"]).fails(2);
    assert!(said.contains("qty"), "{said}");
    // Nothing of a refused write is there.
    assert_eq!(buses.json(&["read", "b", "nyse/ibm"])["epoch"], 2);
}

#[test]
fn every_format_is_written_and_read() {
    let buses = buses();
    let (dir, page) = (buses.path().join("raw.bin"), "blob");
    let write = |args: &[&str]| {
        let mut all = vec!["write", "b", page];
        all.extend(args);
        buses.mmsb(&all).exits(0);
    };
    let read = |args: &[&str]| {
        let mut all = vec!["read", "b", page];
        all.extend(args);
        buses.json(&all)["value"].clone()
    };
    write(&["--as", "hex", "--offset", "16", "de ad be:ef"]);
    assert_eq!(
        read(&["--offset", "15", "--len", "6"]),
        json!("00deadbeef00")
    );
    write(&["--as", "text", "hello"]);
    assert_eq!(read(&["--as", "text", "--len", "10"]), json!("hello"));
    write(&["--as", "i16", "-1,2,-3"]);
    assert_eq!(read(&["--as", "i16", "--len", "6"]), json!([-1, 2, -3]));
    std::fs::write(&dir, [1, 2, 3, 4, 5]).unwrap();
    write(&[
        "--as",
        "raw",
        "--offset",
        "100",
        "--from",
        dir.to_str().unwrap(),
    ]);
    assert_eq!(
        read(&["--as", "u8", "--offset", "100", "--len", "5"]),
        json!([1, 2, 3, 4, 5])
    );
    buses
        .mmsb_with(
            &["write", "b", page, "--as", "raw", "--from", "-"],
            b"\xff\0\xfe",
        )
        .exits(0);
    let said = buses
        .mmsb(&["read", "b", page, "--as", "raw", "--len", "3"])
        .exits(0);
    assert_eq!(said.out, "\u{fffd}\0\u{fffd}");
    buses
        .mmsb_with(&["write", "b", "arm", "--from", "-"], b"1.5, 2.5\n")
        .exits(0);
    let read = buses.json(&["read", "b", "arm", "--len", "16"]);
    assert_eq!(
        (&read["value"], &read["format"]),
        (&json!([1.5, 2.5]), &json!("f64"))
    );
    let dump = buses.mmsb(&["read", "b", page, "--len", "32"]).exits(0).out;
    assert!(dump.starts_with("00000000: "), "{dump}");
    // Past the end, half an element, a text that is none.
    buses
        .mmsb(&[
            "write", "b", page, "--as", "hex", "--offset", "4095", "0000",
        ])
        .fails(2);
    buses
        .mmsb(&["read", "b", page, "--offset", "4K", "--len", "1"])
        .fails(2);
    buses
        .mmsb(&["read", "b", page, "--as", "f64", "--len", "7"])
        .fails(2);
    buses
        .mmsb(&["write", "b", page, "--as", "float", "1"])
        .fails(2);
    buses
        .mmsb(&["write", "b", page, "--as", "raw", "--from", "/nonexistent"])
        .fails(1);
}

#[test]
fn codes_and_errors_are_as_documented() {
    let buses = buses();
    let said = buses.mmsb(&["read", "none", "page"]).fails(4);
    assert!(said.contains("mmsb create none"), "{said}");
    let error = buses
        .mmsb(&["read", "none", "page", "--json"])
        .error_json(4);
    assert_eq!(error["error"]["name"], "no_bus");
    let said = buses.mmsb(&["read", "b", "none"]).fails(1);
    assert!(said.contains("mmsb ls"), "{said}");
    for args in [
        &["read", "b"] as &[&str],
        &["frobnicate"],
        &["create", "x", "--size", "much"],
        &["create", "x", "--ring", "1"],
        &["demo", "--writers", "0"],
        &["demo", "--kills-per-second", "-1"],
        &[],
    ] {
        let said = buses.mmsb(args).fails(2);
        assert!(!said.trim_end().ends_with(':'), "{said}");
    }
    buses.mmsb(&["read", "b", "--json"]).error_json(2);
    let said = buses.mmsb(&["ls", "--dir", "/nonexistent"]).fails(1);
    assert!(said.contains("directory"), "{said}");
}

#[test]
fn a_refused_segment_is_a_permission_error() {
    let buses = buses();
    let mut command = buses.command(&["read", "b", "blob"]);
    if nix::unistd::geteuid().is_root() {
        // Root reads everything; somebody else may not. The program must be theirs to run.
        let copy = tempfile::Builder::new()
            .prefix("mmsb-cli-")
            .tempdir_in("/tmp")
            .unwrap();
        let program = copy.path().join("mmsb");
        std::fs::copy(env!("CARGO_BIN_EXE_mmsb"), &program).unwrap();
        for path in [copy.path(), buses.path()] {
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(path, open).unwrap();
        }
        command = buses.command_of(program.to_str().unwrap(), &["read", "b", "blob"]);
        command.uid(65534).gid(65534);
        // A child that another test is just making may still have the copy open for writing.
        let child = loop {
            match command.spawn() {
                Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                spawned => break spawned.unwrap(),
            }
        };
        let said = finish(child).fails(3);
        assert!(said.contains("permission denied"), "{said}");
        // Who may read the pages, but not the control segment, is an observer.
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(buses.path().join("mmsb.b.pages"), readable).unwrap();
        for (args, code) in [
            (["read", "b", "blob"].as_slice(), 0),
            (&["info", "b"], 0),
            (&["ls", "b"], 0),
            (&["stats", "b"], 3),
            (&["write", "b", "blob", "00"], 3),
        ] {
            let mut command = buses.command_of(program.to_str().unwrap(), args);
            command.uid(65534).gid(65534);
            finish(command.spawn().unwrap()).exits(code);
        }
    } else {
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o000);
        std::fs::set_permissions(buses.path().join("mmsb.b.pages"), closed).unwrap();
        finish(command.spawn().unwrap()).fails(3);
    }
}

#[test]
fn a_full_ring_is_busy_and_names_who_holds_it() {
    let buses = Buses::new();
    buses
        .mmsb(&["create", "b", "--ring", "4K", "--pages", "p:256"])
        .exits(0);
    let bus = buses.bus("b").source("sleeper").attach().unwrap();
    let held = bus.subscribe().gating(true).build().unwrap();
    let content = "00".repeat(256);
    let args = [
        "write",
        "b",
        "p",
        "--as",
        "hex",
        "--timeout",
        "50ms",
        &content,
    ];
    // 64 slots of the ring, 5 for each write.
    let full = (0..40)
        .map(|_| buses.mmsb(&args))
        .find(|said| said.code != Some(0))
        .expect("a ring of 4 KiB must get full");
    let said = full.fails(5);
    assert!(
        said.contains("sleeper") && said.contains("mmsb stats"),
        "{said}"
    );
    let stats = buses.json(&["stats", "b"]);
    assert_eq!(stats["cursors"][0]["gating"], true);
    assert!(stats["cursors"][0]["lag"].as_u64().unwrap() > 40);
    drop(held);
    buses.mmsb(&args).exits(0);
}

#[test]
fn stats_count_what_was_done() {
    let buses = buses();
    buses
        .mmsb(&["write", "b", "blob", "--as", "hex", "0011"])
        .exits(0);
    let bus = buses.bus("b").attach().unwrap();
    bus.page("blob").unwrap().patch(0, b"abc").unwrap();
    let stats = buses.json(&["stats", "b"]);
    assert_eq!(stats["bus"]["name"], "b");
    assert_eq!(stats["counters"]["recoveries"], 0);
    assert_eq!(stats["participants"][0]["name"], "test");
    assert_eq!(stats["participants"][0]["alive"], true);
    assert_eq!(stats["participants"][0]["deltas"], 1);
    assert_eq!(stats["participants"][0]["bytes"], 3);
    assert!(stats["deltas"].as_u64().unwrap() >= 2);
    let text = buses.mmsb(&["stats", "b"]).exits(0).out;
    assert!(text.contains("test") && text.contains("alive"), "{text}");
    buses.mmsb(&["stats", "none"]).fails(4);
}

#[test]
fn rm_refuses_while_somebody_is_attached() {
    let buses = buses();
    buses.mmsb(&["create", "idle"]).exits(0);
    let bus = buses.bus("b").source("feed").attach().unwrap();
    let said = buses.mmsb(&["rm", "b", "idle"]).exits(5);
    assert!(
        said.err.contains("feed") && said.err.contains("--force"),
        "{}",
        said.err
    );
    // The other one went all the same.
    assert_eq!(buses.files(), ["mmsb.b.ctl", "mmsb.b.pages"]);
    assert_eq!(buses.json(&["rm", "b", "--force"])["removed"], json!(["b"]));
    assert_eq!(buses.files(), [""; 0]);
    // This process maps segments that were removed, which is what doctor looks for.
    let said = buses.mmsb(&["doctor", "--json"]).exits(1);
    let deleted = finding(&said.json(), "deleted");
    assert_eq!(deleted["severity"], "problem");
    let pid = format!("pid {}", std::process::id());
    assert!(
        deleted["message"].as_str().unwrap().contains(&pid),
        "{deleted}"
    );
    drop(bus);
    buses.mmsb(&["doctor"]).exits(0);
    buses.mmsb(&["rm", "b"]).fails(4);
    // A damaged bus goes only by force.
    buses.mmsb(&["create", "bad"]).exits(0);
    let path = buses.path().join("mmsb.bad.pages");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..8].fill(0);
    std::fs::write(&path, bytes).unwrap();
    assert!(buses.mmsb(&["rm", "bad"]).fails(7).contains("--force"));
    buses.mmsb(&["rm", "-f", "bad"]).exits(0);
    assert_eq!(buses.files(), [""; 0]);
}

/// The first finding of a check.
fn finding(report: &Value, check: &str) -> Value {
    let found = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|finding| finding["check"] == check);
    found
        .unwrap_or_else(|| panic!("no {check}: {report}"))
        .clone()
}

#[test]
fn doctor_finds_the_dead_and_repairs_them() {
    let buses = buses();
    let report = buses.json(&["doctor"]);
    assert_eq!(
        (&report["problems"], &report["buses"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(finding(&report, "tmpfs")["bus"], Value::Null);
    let mut watch = buses.start(&["watch", "b", "--from", "snapshot", "--json"]);
    watch.event();
    // Stopped, it holds nothing; that is no problem yet.
    watch.signal(Signal::SIGSTOP);
    until("the stop", || {
        let report = buses.json(&["doctor", "b"]);
        report["warnings"] == 1 && finding(&report, "stopped")["bus"] == "b"
    });
    watch.signal(Signal::SIGKILL);
    assert_eq!(watch.end().code, None);
    // Looking changes nothing: the second look sees the same.
    for _ in 0..2 {
        let said = buses.mmsb(&["doctor", "--json"]).exits(1);
        let dead = finding(&said.json(), "dead");
        assert_eq!(dead["severity"], "problem");
        assert!(dead["message"].as_str().unwrap().contains("is dead"));
    }
    let report = buses.json(&["doctor", "--repair"]);
    assert_eq!(
        (&report["repaired"], &report["problems"]),
        (&json!(1), &json!(0))
    );
    let stats = buses.json(&["stats", "b"]);
    assert_eq!(stats["counters"]["recoveries"], 1);
    assert_eq!(stats["participants"], json!([]));
    buses.mmsb(&["doctor", "none"]).fails(4);
}

/// A word of a segment, as docs/layout.md has it.
fn word(file: &std::fs::File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at).unwrap();
    u64::from_le_bytes(bytes)
}

#[test]
fn doctor_gives_up_a_corrupt_commit_of_the_dead_only_when_told_to() {
    let buses = buses();
    let mut watch = buses.start(&["watch", "b", "--from", "snapshot", "--json"]);
    watch.event();
    let stats = buses.json(&["stats", "b"]);
    let dead = stats["participants"][0].clone();
    watch.signal(Signal::SIGKILL);
    watch.end();
    // As if it had died inside a commit: its bytes are made here, because the next to join would finish them.
    let open = |suffix: &str| {
        let path = buses.path().join(format!("mmsb.b.{suffix}"));
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).open(path).unwrap()
    };
    let (pages, ctl) = (open("pages"), open("ctl"));
    let (index, generation) = (
        dead["index"].as_u64().unwrap(),
        dead["generation"].as_u64().unwrap(),
    );
    let (ring, arena_entry) = (word(&pages, 128), word(&pages, 96));
    let lsn = stats["floor_lsn"].as_u64().unwrap();
    let slots = stats["ring_bytes"].as_u64().unwrap() / 64;
    // The first record of the ring stands, made by the dead, and says nonsense.
    let slot = ring + lsn % slots * 64;
    let stamp = word(&pages, slot);
    assert_eq!(stamp & 7, 2, "a READY record");
    let by_dead = stamp & !(0xffff << 3) | (index << 6 | generation & 0x3f) << 3;
    pages.write_all_at(&by_dead.to_le_bytes(), slot).unwrap();
    pages.write_all_at(&[0xff; 56], slot + 8).unwrap();
    // It holds page 0, half written.
    let life = (generation as u32) << 11 | (index as u32 + 1);
    ctl.write_all_at(&life.to_le_bytes(), word(&ctl, 96))
        .unwrap();
    let participant = word(&ctl, 80) + index * 512;
    ctl.write_all_at(&lsn.to_le_bytes(), participant + 128)
        .unwrap();
    let block = (word(&pages, arena_entry) & ((1 << 36) - 1)) * 32;
    let seq = word(&pages, block);
    assert_eq!(seq & 1, 0);
    pages.write_all_at(&(seq | 1).to_le_bytes(), block).unwrap();

    let report = buses.mmsb(&["doctor", "b", "--json"]).exits(1).json();
    let wreck = finding(&report, "wreck");
    let said = wreck["message"].as_str().unwrap();
    assert!(said.contains(&format!("LSN {lsn} ")), "{said}");
    assert!(said.contains("page 0.1 (half written)"), "{said}");
    // An ordinary repair loses nothing.
    let report = buses.mmsb(&["doctor", "b", "--repair", "--json"]).exits(1);
    finding(&report.json(), "repair");
    assert!(buses.bus("b").attach().is_err());
    buses.mmsb(&["doctor", "--abandon"]).exits(2);
    let observer = buses.bus("b").observe().unwrap();
    let mut log = observer.follow().unwrap();
    let report = buses.json(&["doctor", "b", "--abandon"]);
    assert_eq!(report["problems"], 0, "{report}");
    let gave_up = finding(&report, "wreck");
    assert_eq!(gave_up["severity"], "repaired");
    assert!(
        gave_up["message"]
            .as_str()
            .unwrap()
            .contains(said.split_once("LSN").unwrap().1)
    );
    let stats = buses.json(&["stats", "b"]);
    assert_eq!(stats["counters"]["abandoned"], 1);
    // The log says so, and what the page holds now.
    let mut marks = Vec::new();
    while let Ok(Some(event)) = log.try_next() {
        if let mmsb::Event::Delta(delta) = event {
            marks.push(String::from_utf8_lossy(&delta.mark).into_owned());
        }
    }
    let told = format!("mmsb: abandoned LSN {lsn} of ");
    assert!(
        marks.iter().any(|mark| mark.starts_with(&told)),
        "{marks:?}"
    );
    let bus = buses.bus("b").attach().unwrap();
    let page = bus.page_by_id("0.1".parse().unwrap()).unwrap();
    page.patch(0, b"x").unwrap();
    assert_eq!(buses.json(&["doctor", "b"])["problems"], 0);
}

#[test]
fn doctor_finds_leftovers_and_removes_them() {
    let buses = Buses::new();
    for (bus, half) in [("one", "pages"), ("two", "ctl")] {
        buses.mmsb(&["create", bus]).exits(0);
        std::fs::remove_file(buses.path().join(format!("mmsb.{bus}.{half}"))).unwrap();
    }
    assert_eq!(buses.files(), ["mmsb.one.ctl", "mmsb.two.pages"]);
    let said = buses.mmsb(&["doctor", "--json"]).exits(1).json();
    assert_eq!(said["problems"], 2);
    assert!(buses.mmsb(&["doctor"]).exits(1).out.contains("PROBLEM"));
    let report = buses.json(&["doctor", "--repair"]);
    assert_eq!(
        (&report["repaired"], &report["problems"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(buses.files(), [""; 0]);
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    let buses = buses();
    for args in [
        &["ls", "b"] as &[&str],
        &["read", "b", "blob"],
        &["completions", "bash"],
        &["--help"],
        &["stats", "b", "--json"],
    ] {
        let mut child = buses.command(args).stdout(Stdio::piped()).spawn().unwrap();
        // Closed before anything can be written.
        drop(child.stdout.take());
        let mut err = child.stderr.take().unwrap();
        let status = common::wait(&mut child);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut err, &mut text).unwrap();
        assert_eq!((status.code(), text.as_str()), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn completions_and_manual_pages_are_complete() {
    let buses = Buses::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = buses.mmsb(&["completions", shell]).exits(0).out;
        assert!(
            script.contains("doctor") && script.contains("repair"),
            "{shell}"
        );
    }
    buses.mmsb(&["completions", "csh"]).fails(2);
    let target = buses.path().join("man");
    let files = buses.json(&["man", target.to_str().unwrap()]);
    // One for each command that is shown, and one for all of them.
    let command = <mmsb_agent::cli::Cli as clap::CommandFactory>::command();
    fn shown(command: &clap::Command) -> usize {
        let subs = command.get_subcommands().filter(|sub| !sub.is_hide_set());
        1 + subs.map(shown).sum::<usize>()
    }
    let pages = files["files"].as_array().unwrap().len();
    assert_eq!(pages, shown(&command));
    assert!(target.join("mmsb-log-dump.1").exists());
    let page = std::fs::read_to_string(target.join("mmsb-watch.1")).unwrap();
    assert!(page.contains("prefix") && page.starts_with(".ie"), "{page}");
    assert!(target.join("mmsb.1").exists() && !target.join("mmsb-demo-worker.1").exists());
}

#[test]
fn help_goes_to_standard_output() {
    let buses = Buses::new();
    let help = buses.mmsb(&["--help"]).exits(0).out;
    assert!(
        help.contains("Exit codes") && !help.contains("demo-worker"),
        "{help}"
    );
    for sub in [
        "create",
        "ls",
        "info",
        "read",
        "write",
        "watch",
        "stats",
        "doctor",
        "rm",
        "demo",
        "completions",
        "man",
    ] {
        let help = buses.mmsb(&[sub, "--help"]).exits(0).out;
        assert!(help.contains("Examples:"), "{help}");
    }
    assert!(buses.mmsb(&["--version"]).exits(0).out.starts_with("mmsb "));
}
