//! The subcommands around the log, on logs that the library made.

mod common;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::{TimestampNanosecondType, UInt32Type, UInt64Type};
use common::{Buses, Said, until};
use mmsb::schema::Schema;
use mmsb::supervisor::{CheckpointPolicy, SupervisorConfig};
use mmsb::tlog::WriterConfig;
use mmsb::{Bus, PageInfo, PageSpec};
use nix::sys::signal::Signal;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

/// A directory of buses and one of a log.
struct Recorded {
    buses: Buses,
    disk: tempfile::TempDir,
}

impl Recorded {
    fn new() -> Recorded {
        Recorded {
            buses: Buses::new(),
            disk: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
        }
    }

    fn dir(&self) -> &Path {
        self.disk.path()
    }

    fn log(&self) -> String {
        self.dir().display().to_string()
    }

    fn open(&self) -> Bus {
        let config = SupervisorConfig {
            checkpoint: CheckpointPolicy {
                interval: None,
                log_bytes: None,
                keep: 100,
                ..CheckpointPolicy::default()
            },
            writer: WriterConfig {
                segment_bytes: 1 << 20,
                ..WriterConfig::default()
            },
            ..SupervisorConfig::new(self.dir())
        };
        self.buses
            .bus("b")
            .ring_bytes(1 << 16)
            .supervise(config)
            .open_or_create()
            .unwrap()
    }

    /// `mmsb ARGS --log DIR`
    fn mmsb(&self, args: &[&str]) -> Said {
        let log = self.log();
        self.buses.mmsb(&[args, &["--log", &log]].concat())
    }

    /// The same, which must succeed and print one JSON document.
    fn json(&self, args: &[&str]) -> Value {
        self.mmsb(&[args, &["--json"]].concat()).exits(0).json()
    }

    /// The same, which must succeed and print JSON lines.
    fn lines(&self, args: &[&str]) -> Vec<Value> {
        lines(&self.mmsb(&[args, &["--json"]].concat()).exits(0).out)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.buses.path().join(name)
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn sync(bus: &Bus) {
    let end = bus.published_lsn().unwrap();
    bus.wait_durable(end - 1, Duration::from_secs(20)).unwrap();
}

/// LSNs of deltas that the tests ask about.
struct Lsns {
    price: u64,
    alarm: u64,
    before_second: u64,
}

/// All kinds of deltas.
fn work(bus: &Bus) -> Lsns {
    let schema = Schema::parse("quote{price:f64,qty:u32}").unwrap();
    let quote = bus
        .create_page(
            PageSpec::with_schema(&schema)
                .name("nyse/ibm")
                .meta("unit", "USD"),
        )
        .unwrap();
    quote.field("price").unwrap().set_text("1.0").unwrap();
    let plain = bus.create_page(PageSpec::new(300).name("plain")).unwrap();
    plain.patch(7, &[1; 100]).unwrap();
    plain.patch_many(&[(0, &[1, 2]), (200, &[3; 50])]).unwrap();
    plain.write_masked(10, &[1, 0, 1], &[9, 9, 8]).unwrap();
    let cell = bus
        .create_page(PageSpec::new(64).versions(8).name("cell"))
        .unwrap();
    for n in 0..5 {
        cell.write(&[n; 64]).unwrap();
    }
    let big = bus.create_page(PageSpec::new(200_000).name("big")).unwrap();
    let mut loan = big.loan().unwrap();
    for (i, byte) in loan.iter_mut().enumerate() {
        *byte = i as u8;
    }
    loan.publish().unwrap();
    big.patch(1 << 16, b"patched").unwrap();
    let gone = bus.create_page(PageSpec::new(8).name("gone")).unwrap();
    gone.patch(0, b"bye").unwrap();
    let gone = gone.id();
    bus.destroy(gone).unwrap();
    let before_second = bus.published_lsn().unwrap() - 1;
    let unnamed = bus.create_page(PageSpec::new(40)).unwrap();
    bus.transaction(|tx| {
        tx.patch(&unnamed, 0, &[4; 8])?;
        tx.patch(&plain, 0, &[5; 8])
    })
    .unwrap();
    let mut batch = bus.batch();
    for n in 0..10u8 {
        batch.patch(&unnamed, 8, if n % 2 == 0 { b"even" } else { b"odd!" });
    }
    batch.mark(b"here").commit().unwrap();
    bus.rename(unnamed.id(), "named").unwrap();
    let price = quote.field("price").unwrap().set_text("2.5").unwrap();
    let alarm = bus.create_page(PageSpec::new(8).name("alarm")).unwrap();
    let alarm = alarm.caused_by(price).patch(0, b"high").unwrap();
    Lsns {
        price,
        alarm,
        before_second,
    }
}

/// Name, size, versions, epoch and content of every page.
fn contents(bus: &Bus) -> Vec<(String, u32, u32, u64, Vec<u8>)> {
    let mut all: Vec<_> = bus
        .all_pages()
        .unwrap()
        .into_iter()
        .map(|info: PageInfo| {
            let bytes = bus.page_by_id(info.id).unwrap().to_vec().unwrap();
            (info.cold.name, info.size, info.versions, info.epoch, bytes)
        })
        .collect();
    all.sort();
    all
}

/// A byte in the middle of the first file of the log is another one. Returns the file.
fn damage(dir: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "tlog"))
        .collect();
    files.sort();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&files[0])
        .unwrap();
    // In the body of the second block.
    let at = 4096 + 4096 + 80;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x55], at).unwrap();
    files.remove(0)
}

#[test]
fn list_shows_files_and_checkpoints() {
    let recorded = Recorded::new();
    let bus = recorded.open();
    work(&bus);
    bus.supervisor().unwrap().checkpoint().unwrap();
    let end = bus.durable_lsn();
    drop(bus);
    let list = recorded.json(&["log", "list"]);
    assert_eq!(list["bus"], "b");
    assert_eq!(list["incarnation"], 1);
    assert_eq!(list["sealed"], true);
    assert!(list["end_lsn"].as_u64().unwrap() >= end);
    let files = list["files"].as_array().unwrap();
    assert!(files.iter().all(|f| f["compressed"] == false));
    assert_eq!(files.last().unwrap()["end_lsn"], list["end_lsn"]);
    assert_eq!(list["checkpoints"].as_array().unwrap().len(), 1);
    // The same through an operand: a path, and a bus below $MMSB_LOGS.
    let said = recorded
        .buses
        .mmsb(&["log", "list", &recorded.log()])
        .exits(0);
    assert!(said.out.contains("log of bus b") && said.out.contains(".ckpt"));
    let (parent, name) = (recorded.dir().parent().unwrap(), recorded.dir().file_name());
    let mut command = recorded
        .buses
        .command(&["log", "list", name.unwrap().to_str().unwrap()]);
    let said = common::finish(command.env("MMSB_LOGS", parent).spawn().unwrap());
    assert!(said.exits(0).out.contains("log of bus b"));
}

#[test]
fn info_says_how_the_log_is() {
    let recorded = Recorded::new();
    let bus = recorded.open();
    work(&bus);
    bus.supervisor().unwrap().checkpoint().unwrap();
    sync(&bus);
    let info = recorded.buses.json(&["info", "b"]);
    assert_eq!(info["log"]["state"], "running");
    assert_eq!(info["log"]["lag"], 0);
    assert_eq!(
        info["log"]["log_id"],
        recorded.json(&["log", "list"])["log_id"]
    );
    let text = recorded.buses.mmsb(&["info", "b"]).exits(0).out;
    assert!(text.contains("running; durable up to LSN"), "{text}");
    assert!(text.contains("checkpoint at LSN"), "{text}");
    drop(bus);
    assert_eq!(
        recorded.buses.json(&["info", "b"])["log"]["state"],
        "closed"
    );
    recorded.buses.bus("v").create().unwrap();
    assert_eq!(recorded.buses.json(&["info", "v"])["log"]["state"], "none");
}

#[test]
fn what_is_no_log_is_said_in_a_line() {
    let recorded = Recorded::new();
    let said = recorded.mmsb(&["log", "list"]).fails(1);
    assert!(said.contains("no log"), "{said}");
    for command in [
        &["log", "stat"][..],
        &["diff", "1", "2"],
        &["history", "p"],
        &["provenance", "1"],
        &["verify"],
        &["repair"],
        &["replay", "--into", "x"],
    ] {
        assert!(recorded.mmsb(command).fails(1).contains("no log"));
        let missing = recorded
            .buses
            .mmsb(&[command, &["--log", "/no/such/directory"]].concat())
            .fails(1);
        assert!(missing.contains("/no/such/directory"), "{missing}");
    }
    recorded.buses.mmsb(&["log", "dump"]).fails(2);
    let said = recorded.buses.mmsb(&["log", "dump", "nobody"]).fails(1);
    assert!(said.contains("--log"), "{said}");
}

#[test]
fn a_log_of_a_newer_version_is_refused() {
    let recorded = Recorded::new();
    drop(recorded.open());
    let file = std::fs::read_dir(recorded.dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "tlog"))
        .unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[8] = 9;
    let crc = crc32c(&bytes[..4092]);
    bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    for command in [&["log", "dump"][..], &["log", "list"], &["diff", "1", "2"]] {
        let said = recorded.mmsb(command).fails(7);
        assert!(said.contains("newer MMSB"), "{said}");
    }
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[test]
fn dump_gives_every_record_and_filters() {
    let recorded = Recorded::new();
    let bus = recorded.open();
    let lsns = work(&bus);
    sync(&bus);
    let all = recorded.lines(&["log", "dump"]);
    assert!(
        all.windows(2)
            .all(|w| w[0]["lsn"].as_u64() < w[1]["lsn"].as_u64())
    );
    let of = |args: &[&str]| recorded.lines(&[&["log", "dump"], args].concat());
    let price = all.iter().find(|r| r["lsn"] == lsns.price).unwrap();
    assert_eq!(price["page"], "nyse/ibm");
    assert_eq!(price["source"], "test");
    assert_eq!(price["values"]["price"], 2.5);
    assert_eq!(price["ranges"][0]["hex"], "0000000000000440");
    let alarm = all.iter().find(|r| r["lsn"] == lsns.alarm).unwrap();
    assert_eq!(alarm["cause"], lsns.price);

    let creates = of(&["--kind", "create"]);
    assert_eq!(creates.len(), 7);
    assert_eq!(creates[0]["size"], 16);
    assert_eq!(creates[0]["meta"]["unit"], "USD");
    let swaps = of(&["--kind", "swap"]);
    assert!(!swaps.is_empty());
    assert_eq!(swaps[0]["ranges"][0]["len"], 200_000);
    assert_eq!(of(&["--kind", "mark"])[0]["text"], "here");
    let ibm = of(&["--prefix", "nyse/"]);
    assert_eq!(ibm.len(), 3);
    assert_eq!(of(&["--page", "nyse/ibm"]), ibm);
    assert_eq!(of(&["--page", "gone"]).len(), 3);
    assert!(of(&["--source", "nobody"]).is_empty());
    assert_eq!(of(&["--limit", "4"]), all[..4]);
    let late = of(&["--from", &lsns.before_second.to_string()]);
    let split = all
        .iter()
        .position(|r| r["lsn"].as_u64() >= Some(lsns.before_second))
        .unwrap();
    assert_eq!(late, all[split..]);
    let early = of(&["--to", &(lsns.before_second - 1).to_string()]);
    assert_eq!(early, all[..split]);
    // By time: all, none, and none.
    assert_eq!(of(&["--from", "-1h", "--to", "now"]), all);
    assert!(of(&["--from", "now"]).is_empty());
    assert!(of(&["--to", "1999-12-31T23:59:59Z"]).is_empty());
    recorded.mmsb(&["log", "dump", "--from", "soon"]).fails(2);
    let text = recorded.mmsb(&["log", "dump"]).exits(0).out;
    assert_eq!(text.lines().count(), all.len() + 1);
    assert!(text.contains("price=2.5"), "{text}");
}

#[test]
fn tail_shows_the_last_records_and_follows() {
    let recorded = Recorded::new();
    let bus = recorded.open();
    let lsns = work(&bus);
    sync(&bus);
    let last = recorded.lines(&["log", "tail", "-n", "3"]);
    assert_eq!(last.len(), 3);
    assert_eq!(last[2]["lsn"], lsns.alarm);
    let log = recorded.log();
    let mut tail = recorded
        .buses
        .start(&["log", "tail", &log, "-f", "-n", "1", "--json"]);
    assert_eq!(tail.event()["lsn"], lsns.alarm);
    let page = bus.page("alarm").unwrap();
    // Beyond the end of a file too.
    for n in 0..40u64 {
        let big = bus.page("big").unwrap();
        let mut loan = big.loan().unwrap();
        loan.fill(n as u8);
        loan.publish().unwrap();
        let lsn = page.patch(0, &n.to_le_bytes()).unwrap();
        sync(&bus);
        assert_eq!(tail.event()["kind"], "swap");
        assert_eq!(tail.event()["lsn"], lsn);
    }
    assert!(
        recorded.json(&["log", "list"])["files"]
            .as_array()
            .unwrap()
            .len()
            > 2
    );
    tail.signal(Signal::SIGINT);
    tail.end().exits(0);
}

#[test]
fn stat_counts_by_page_source_and_kind() {
    let recorded = Recorded::new();
    let bus = recorded.open();
    work(&bus);
    sync(&bus);
    drop(bus);
    // Another incarnation.
    Bus::unlink_in(recorded.buses.path(), "b").unwrap();
    let bus = recorded.open();
    bus.page("plain").unwrap().patch(0, b"x").unwrap();
    sync(&bus);
    let stat = recorded.json(&["log", "stat"]);
    let all = recorded.lines(&["log", "dump"]);
    assert_eq!(stat["records"], all.len());
    assert_eq!(stat["incarnation"], 2);
    let forks = stat["forks"].as_array().unwrap();
    assert_eq!(forks.len(), 1, "{forks:?}");
    assert_eq!(forks[0]["incarnation"], 2);
    assert_eq!(forks[0]["lsn"], bus.log_status().fork_lsn);
    assert_eq!(stat["transactions"], 1);
    let kinds = stat["kinds"].as_array().unwrap();
    let sum: u64 = kinds.iter().map(|k| k["records"].as_u64().unwrap()).sum();
    assert_eq!(sum, all.len() as u64);
    let cell = stat["pages"].as_array().unwrap().iter();
    let cell = cell.clone().find(|p| p["name"] == "cell").unwrap();
    assert_eq!(cell["records"], 6);
    assert_eq!(cell["bytes"], 5 * 64);
    assert_eq!(cell["bytes_per_delta"], 64.0);
    let text = recorded.mmsb(&["log", "stat", "--top", "2"]).exits(0).out;
    assert!(
        text.contains("incarnation 2") && text.contains("more pages"),
        "{text}"
    );
}

#[test]
fn exports_have_a_row_for_every_record() {
    let recorded = Recorded::new();
    let bus = recorded.open();
    let lsns = work(&bus);
    sync(&bus);
    let all = recorded.lines(&["log", "dump"]);
    let export = |format: &str, name: &str| {
        let file = recorded.file(name);
        let path = file.display().to_string();
        let said = recorded.json(&["log", "export", "--format", format, "-o", &path]);
        assert_eq!(said["rows"], all.len());
        file
    };
    let jsonl = std::fs::read_to_string(export("jsonl", "e.jsonl")).unwrap();
    assert_eq!(lines(&jsonl), all);

    let csv = std::fs::read_to_string(export("csv", "e.csv")).unwrap();
    let rows: Vec<&str> = csv.split_terminator("\r\n").collect();
    assert_eq!(rows.len(), all.len() + 1);
    assert!(rows[0].starts_with("lsn,time,kind,page_index"));
    let price = rows
        .iter()
        .find(|r| r.starts_with(&format!("{},", lsns.price)))
        .unwrap();
    assert!(price.ends_with(",0,0,8,0000000000000440"), "{price}");

    let file = std::fs::File::open(export("parquet", "e.parquet")).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let reader = reader.build().unwrap();
    let mut rows = 0;
    for batch in reader {
        let batch = batch.unwrap();
        let column = |name: &str| batch.column_by_name(name).unwrap();
        let lsn = column("lsn").as_primitive::<UInt64Type>();
        let time = column("time").as_primitive::<TimestampNanosecondType>();
        let kind = column("kind").as_string::<i32>();
        let page = column("page").as_string::<i32>();
        let offsets = column("offsets").as_list::<i32>();
        let payload = column("payload").as_binary::<i32>();
        for i in 0..batch.num_rows() {
            let record = &all[rows];
            assert_eq!(lsn.value(i), record["lsn"]);
            assert_eq!(time.value(i) as u64, record["time_ns"]);
            assert_eq!(kind.value(i), record["kind"]);
            assert_eq!(page.value(i), record["page"]);
            if let Some(ranges) = record["ranges"].as_array() {
                let hex: String = ranges.iter().map(|r| r["hex"].as_str().unwrap()).collect();
                let bytes: String = payload
                    .value(i)
                    .iter()
                    .map(|b| format!("{b:02x}"))
                    .collect();
                assert_eq!(bytes, hex);
                let list = offsets.value(i);
                let list = list.as_primitive::<UInt32Type>();
                assert_eq!(list.len(), ranges.len());
            }
            rows += 1;
        }
    }
    assert_eq!(rows, all.len());
    let left = recorded.buses.files();
    assert!(left.iter().all(|f| !f.ends_with(".part")), "{left:?}");
    // To standard output, and to where nobody can write.
    let piped = recorded
        .mmsb(&["log", "export", "--format", "jsonl", "-o", "-"])
        .exits(0);
    assert_eq!(lines(&piped.out), all);
    recorded
        .mmsb(&["log", "export", "--format", "csv", "-o", "/no/such/e.csv"])
        .fails(1);
}

#[test]
fn diff_says_which_pages_came_went_and_changed() {
    let recorded = Recorded::new();
    let bus = recorded.open();
    let lsns = work(&bus);
    sync(&bus);
    let diff = recorded.json(&["diff", &lsns.before_second.to_string(), "end"]);
    let pages = diff["pages"].as_array().unwrap();
    let page = |name: &str| pages.iter().find(|p| p["page"] == name).unwrap();
    assert_eq!(page("named")["change"], "created");
    assert_eq!(page("plain")["change"], "changed");
    assert_eq!(page("nyse/ibm")["values"][0]["old"]["price"], 1.0);
    assert_eq!(page("nyse/ibm")["values"][0]["new"]["price"], 2.5);
    assert!(pages.iter().all(|p| p["page"] != "cell"));
    let text = recorded
        .mmsb(&["diff", "start", "end", "--prefix", "nyse/"])
        .exits(0)
        .out;
    assert!(
        text.contains("1 pages differ") && text.contains("price=2.5"),
        "{text}"
    );
    // Backwards they go.
    let back = recorded.json(&["diff", "end", &lsns.before_second.to_string()]);
    let named = back["pages"].as_array().unwrap().iter();
    let named = named.clone().find(|p| p["page"] == "named").unwrap();
    assert_eq!(named["change"], "destroyed");
    let same = recorded.json(&["diff", "-1ms", "now"]);
    assert_eq!(same["pages"].as_array().unwrap().len(), 0);
    let said = recorded.mmsb(&["diff", "1", "999999999"]).fails(1);
    assert!(said.contains("not in the log yet"), "{said}");
}

#[test]
fn history_and_provenance_tell_who_and_why() {
    let recorded = Recorded::new();
    let bus = recorded.open();
    let lsns = work(&bus);
    sync(&bus);
    let history = recorded.json(&["history", "nyse/ibm"]);
    let changes = history["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 3);
    assert_eq!(changes[0]["kind"], "create");
    assert_eq!(changes[2]["lsn"], lsns.price);
    assert_eq!(changes[2]["source"], "test");
    assert_eq!(changes[2]["epoch"], 2);
    assert_eq!(changes[2]["ranges"][0]["old_values"]["price"], 1.0);
    assert_eq!(changes[2]["ranges"][0]["new_values"]["price"], 2.5);
    let qty = recorded.json(&["history", "nyse/ibm", "--field", "qty"]);
    assert_eq!(qty["changes"].as_array().unwrap().len(), 1);
    let part = recorded.json(&["history", "plain", "--range", "200..201"]);
    let part = part["changes"].as_array().unwrap();
    assert_eq!((part.len(), &part[1]["kind"]), (2, &Value::from("ranges")));
    let gone = recorded.json(&["history", "gone"]);
    let kinds: Vec<&Value> = gone["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["kind"])
        .collect();
    assert_eq!(kinds, ["create", "patch", "destroy"]);
    let text = recorded.mmsb(&["history", "nyse/ibm"]).exits(0).out;
    assert!(text.contains("price=1.0 -> price=2.5"), "{text}");
    let said = recorded.mmsb(&["history", "nobody"]).fails(1);
    assert!(said.contains("no page was called"), "{said}");

    let of_page = recorded.json(&["provenance", "alarm"]);
    let chain = of_page["chain"].as_array().unwrap();
    assert_eq!(chain.len(), 2);
    assert_eq!(chain[0]["lsn"], lsns.alarm);
    assert_eq!(chain[1]["page"], "nyse/ibm");
    assert_eq!(of_page["end"], "outside");
    assert_eq!(
        recorded.json(&["provenance", &lsns.alarm.to_string()]),
        of_page
    );
    let text = recorded.mmsb(&["provenance", "alarm"]).exits(0).out;
    assert!(text.contains("came from outside"), "{text}");
    recorded.mmsb(&["provenance", "1"]).fails(1);
}

#[test]
fn a_checkpoint_is_written_beside_a_supervisor_and_without_one() {
    let recorded = Recorded::new();
    let bus = recorded.open();
    work(&bus);
    let info = recorded.json(&["checkpoint", "b"]);
    assert_eq!(info["pages"], 6);
    let before = contents(&bus);
    bus.page("plain").unwrap().patch(0, b"later").unwrap();
    sync(&bus);
    drop(bus);
    recorded.mmsb(&["checkpoint", "b"]).exits(0);
    let list = recorded.json(&["log", "list"]);
    assert_eq!(list["checkpoints"].as_array().unwrap().len(), 2);
    let verified = recorded.json(&["verify", "b"]);
    assert_eq!(verified["good"], true, "{verified:#}");
    assert_eq!(verified["live"]["equal"], 6);
    let checks = verified["replay"]["checkpoints"].as_array().unwrap();
    assert!(
        checks
            .iter()
            .all(|c| c["compared"] == true && c["pages"] == 6)
    );
    // It is one to begin with.
    Bus::unlink_in(recorded.buses.path(), "b").unwrap();
    let bus = recorded.open();
    assert_eq!(contents(&bus).len(), before.len());

    let other = recorded.buses.bus("other").create().unwrap();
    let said = recorded.mmsb(&["checkpoint", "other"]).fails(1);
    assert!(said.contains("has no log"), "{said}");
    recorded.mmsb(&["checkpoint", "nobody"]).fails(4);
    drop(other);
}

#[test]
fn verify_finds_damage_and_repair_cuts_it_off() {
    let recorded = Recorded::new();
    let bus = recorded.open();
    let id = bus.create_page(PageSpec::new(4096).name("p")).unwrap().id();
    for n in 0..50u8 {
        bus.page_by_id(id).unwrap().write(&[n; 4096]).unwrap();
        sync(&bus);
    }
    let said = recorded.mmsb(&["repair"]).exits(0);
    assert!(said.out.contains("not damaged"));
    assert_eq!(recorded.json(&["verify", "b"])["good"], true);
    drop(bus);
    assert!(
        recorded
            .mmsb(&["verify"])
            .exits(0)
            .out
            .contains("as it should be")
    );

    let file = damage(recorded.dir());
    let name = file.file_name().unwrap().to_str().unwrap();
    let said = recorded.mmsb(&["verify"]).exits(1);
    assert!(
        said.out.contains("wrong:") && said.out.contains(name),
        "{}",
        said.out
    );
    let report = recorded.mmsb(&["verify", "--json"]).exits(1).json();
    assert_eq!(report["good"], false);
    assert_eq!(
        report["problems"].as_array().unwrap().len(),
        1,
        "{report:#}"
    );
    let said = recorded.mmsb(&["log", "dump"]).fails(7);
    assert!(said.contains("mmsb repair"), "{said}");

    // It only tells, unless it is told to.
    let before = std::fs::read(&file).unwrap();
    let said = recorded.mmsb(&["repair"]).exits(1);
    assert!(
        said.out.contains("lost by a cut") && said.out.contains("--yes"),
        "{}",
        said.out
    );
    let told = recorded.mmsb(&["repair", "--json"]).exits(1).json();
    assert_eq!(told["damaged"], true);
    assert_eq!(told["repaired"], false);
    assert_eq!(std::fs::read(&file).unwrap(), before);
    let done = recorded.json(&["repair", "--yes"]);
    assert_eq!(done["repaired"], true);
    assert_eq!(done["end_lsn"], told["lsn"]);
    assert!(!done["kept_aside"].as_array().unwrap().is_empty());
    assert_eq!(recorded.json(&["verify"])["good"], true);
    assert_eq!(recorded.json(&["repair"])["damaged"], false);
    // The bus comes back with what is left.
    Bus::unlink_in(recorded.buses.path(), "b").unwrap();
    let bus = recorded.open();
    assert!(bus.page("p").is_ok() || done["end_lsn"].as_u64().unwrap() < 2000);
}

#[test]
fn behind_a_new_checkpoint_damage_in_an_old_file_costs_history_only() {
    let recorded = Recorded::new();
    let bus = recorded.open();
    let big = bus.create_page(PageSpec::new(300_000).name("big")).unwrap();
    for n in 0..20u8 {
        let mut loan = big.loan().unwrap();
        loan.fill(n);
        loan.publish().unwrap();
        sync(&bus);
    }
    assert!(
        recorded.json(&["log", "list"])["files"]
            .as_array()
            .unwrap()
            .len()
            > 2
    );
    damage(recorded.dir());
    recorded.mmsb(&["verify"]).exits(1);
    let lsn = recorded.json(&["checkpoint", "b"])["end_lsn"].clone();
    big.patch(0, b"behind it").unwrap();
    sync(&bus);
    let before = contents(&bus);
    drop(bus);
    Bus::unlink_in(recorded.buses.path(), "b").unwrap();
    let bus = recorded.open();
    assert_eq!(contents(&bus), before);
    recorded.mmsb(&["diff", &lsn.to_string(), "end"]).exits(0);
}

#[test]
fn a_copy_of_the_directory_is_a_backup() {
    let recorded = Recorded::new();
    let bus = recorded.open();
    work(&bus);
    recorded.mmsb(&["checkpoint", "b"]).exits(0);
    bus.page("plain").unwrap().patch(0, b"behind it").unwrap();
    sync(&bus);
    let backup = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for wanted in ["ckpt", "tlog"] {
        for entry in std::fs::read_dir(recorded.dir()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == wanted) {
                std::fs::copy(&path, backup.path().join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    let before = contents(&bus);
    drop(bus);
    let backup = Recorded {
        buses: Buses::new(),
        disk: backup,
    };
    assert_eq!(backup.json(&["verify"])["good"], true);
    let bus = backup.open();
    assert_eq!(contents(&bus), before);
}

#[test]
fn a_repair_beside_a_supervisor_is_refused() {
    let recorded = Recorded::new();
    let bus = recorded.open();
    work(&bus);
    sync(&bus);
    // Blocks enough that the damage lies ahead of what is durable.
    for n in 0..20u8 {
        bus.page("plain").unwrap().patch(0, &[n]).unwrap();
        sync(&bus);
    }
    damage(recorded.dir());
    let said = recorded.mmsb(&["repair", "--yes"]).fails(5);
    assert!(said.contains("held by another supervisor"), "{said}");
}

#[test]
fn replay_at_full_speed_makes_the_same_pages() {
    let recorded = Recorded::new();
    let bus = recorded.open();
    work(&bus);
    sync(&bus);
    let played = recorded.json(&["replay", "--into", "copy", "--speed", "max"]);
    assert_eq!(played["pages_created"], 7);
    assert_eq!(played["pages_destroyed"], 1);
    assert_eq!(played["skipped"], 0);
    let copy = recorded.buses.bus("copy").attach().unwrap();
    assert_eq!(contents(&copy), contents(&bus));
    let info = copy.page("nyse/ibm").unwrap().info().unwrap();
    assert_eq!(info.cold.meta, [("unit".to_owned(), "USD".to_owned())]);
    // Once more into the same bus: pages are adopted.
    let again = recorded.json(&["replay", "--into", "copy"]);
    assert!(again["pages_adopted"].as_u64().unwrap() >= 5);
    let bytes = |bus: &Bus, name: &str| bus.page(name).unwrap().to_vec().unwrap();
    for name in ["nyse/ibm", "plain", "cell", "big", "alarm"] {
        assert_eq!(bytes(&copy, name), bytes(&bus, name), "{name}");
    }
    // Into itself it would never end.
    recorded.mmsb(&["replay", "--into", "b"]).fails(2);
    // A page of the same name and another size stands in the way.
    let other = recorded.buses.bus("other").create().unwrap();
    other.create_page(PageSpec::new(5).name("plain")).unwrap();
    let said = recorded.mmsb(&["replay", "--into", "other"]).fails(8);
    assert!(said.contains("plain"), "{said}");
}

#[test]
fn replay_keeps_sources_groups_and_causes() {
    let recorded = Recorded::new();
    let bus = recorded.open();
    work(&bus);
    let feed = bus.another("feed").unwrap();
    feed.page("plain")
        .unwrap()
        .patch(0, b"by the feed")
        .unwrap();
    sync(&bus);
    let second = Recorded::new();
    let target = second.open();
    // The recording of one bus goes into another one, whose log is then compared.
    let log = recorded.log();
    second
        .buses
        .mmsb(&["replay", "--log", &log, "--into", "b"])
        .exits(0);
    sync(&target);
    let told = |recorded: &Recorded| -> Vec<Value> {
        let all = recorded.lines(&["log", "dump"]);
        let all: Vec<&Value> = all.iter().filter(|r| r["kind"] != "source").collect();
        let mut group = 0;
        let mut end = Value::Null;
        all.iter()
            .map(|r| {
                if r["group_end"] != end {
                    end = r["group_end"].clone();
                    group += 1;
                }
                let caused = all.iter().position(|c| c["lsn"] == r["cause"]);
                serde_json::json!({
                    "page": r["page"], "source": r["source"], "ranges": r["ranges"],
                    "transaction": r["transaction"], "group": group, "caused_by": caused,
                })
            })
            .collect()
    };
    // Masked deltas come back as ranges of the same bytes, and all else as it was.
    assert_eq!(told(&second), told(&recorded));
}

#[test]
fn replay_takes_ranges_prefixes_and_sources() {
    let recorded = Recorded::new();
    let bus = recorded.open();
    let lsns = work(&bus);
    let feed = bus.another("feed").unwrap();
    feed.page("plain")
        .unwrap()
        .patch(0, b"by the feed")
        .unwrap();
    sync(&bus);
    // From the middle: the pages are as they were there, then as they are.
    let from = lsns.before_second.to_string();
    recorded
        .mmsb(&["replay", "--into", "half", "--from", &from])
        .exits(0);
    let half = recorded.buses.bus("half").attach().unwrap();
    let bytes = |bus: &Bus| -> Vec<(String, Vec<u8>)> {
        contents(bus).into_iter().map(|p| (p.0, p.4)).collect()
    };
    assert_eq!(bytes(&half), bytes(&bus));
    // Up to the middle.
    recorded
        .mmsb(&["replay", "--into", "first", "--to", &from])
        .exits(0);
    let first = recorded.buses.bus("first").attach().unwrap();
    let ibm = first.page("nyse/ibm").unwrap();
    assert_eq!(&ibm.to_vec().unwrap()[..8], 1.0f64.to_le_bytes());
    assert!(first.page("named").is_err());
    // One prefix.
    recorded
        .mmsb(&["replay", "--into", "nyse", "--prefix", "nyse/"])
        .exits(0);
    let nyse = recorded.buses.bus("nyse").attach().unwrap();
    assert_eq!(contents(&nyse).len(), 1);
    // One source: what others did ahead of its deltas is there, what they do later is not.
    let played = recorded.json(&["replay", "--into", "feed", "--source", "feed"]);
    assert_eq!(played["records"], 1);
    let fed = recorded.buses.bus("feed").attach().unwrap();
    assert_eq!(
        fed.page("plain").unwrap().to_vec().unwrap(),
        bus.page("plain").unwrap().to_vec().unwrap()
    );
    // Nothing.
    let nothing = recorded.json(&["replay", "--into", "b2", "--from", "end"]);
    assert_eq!(nothing["records"], 0);
}

#[test]
fn a_log_that_does_not_reach_back_is_played_from_its_checkpoint() {
    let recorded = Recorded::new();
    let bus = recorded
        .buses
        .bus("b")
        .ring_bytes(1 << 16)
        .create()
        .unwrap();
    for n in 0..2000u64 {
        let page = bus
            .open_or_create_page(PageSpec::new(8).name("old"))
            .unwrap();
        page.set(&n).unwrap();
    }
    drop(bus);
    let bus = recorded.open();
    until("a checkpoint", || bus.log_status().checkpoint_lsn > 0);
    bus.create_page(PageSpec::new(8).name("new")).unwrap();
    bus.page("old").unwrap().patch(4, b"late").unwrap();
    sync(&bus);
    let played = recorded.json(&["replay", "--into", "copy"]);
    assert_eq!(played["skipped"], 0);
    let copy = recorded.buses.bus("copy").attach().unwrap();
    for name in ["old", "new"] {
        let bytes = |bus: &Bus| bus.page(name).unwrap().to_vec().unwrap();
        assert_eq!(bytes(&copy), bytes(&bus), "{name}");
    }
    assert_eq!(recorded.json(&["verify", "b"])["good"], true);
    let said = recorded.mmsb(&["diff", "100", "end"]).fails(1);
    assert!(said.contains("mmsb log list"), "{said}");
}

#[test]
fn a_state_becomes_a_bus() {
    let recorded = Recorded::new();
    let bus = recorded.open();
    let lsns = work(&bus);
    sync(&bus);
    let at = lsns.before_second.to_string();
    let made = recorded.json(&["replay", "--state-at", &at, "--into", "then"]);
    assert_eq!(made["pages"], 4);
    let then = recorded.buses.bus("then").attach().unwrap();
    assert!(then.page("named").is_err());
    let info = then.page("cell").unwrap().info().unwrap();
    assert_eq!(info, bus.page("cell").unwrap().info().unwrap());
    recorded
        .mmsb(&["replay", "--at", "end", "--into", "now"])
        .exits(0);
    let now = recorded.buses.bus("now").attach().unwrap();
    assert_eq!(contents(&now), contents(&bus));
    recorded
        .mmsb(&["replay", "--state-at", "end", "--into", "now"])
        .fails(8);
    recorded
        .mmsb(&["replay", "--state-at", "end", "--into", "x", "--from", "1"])
        .fails(2);
}

#[test]
fn the_recorded_pace_is_kept() {
    let recorded = Recorded::new();
    let bus = recorded.open();
    let page = bus.create_page(PageSpec::new(8).name("p")).unwrap();
    for n in 0..11u64 {
        page.set(&n).unwrap();
        std::thread::sleep(Duration::from_millis(32));
    }
    sync(&bus);
    let begin = Instant::now();
    let played = recorded.json(&["replay", "--into", "slow", "--speed", "1"]);
    assert!(begin.elapsed() >= Duration::from_millis(300), "{played}");
    assert!(played["recorded_seconds"].as_f64().unwrap() >= 0.3);
    assert!(played["seconds"].as_f64().unwrap() >= 0.3);
    let slow = recorded.buses.bus("slow").attach().unwrap();
    assert_eq!(slow.page("p").unwrap().read::<u64>().unwrap(), 10);
    recorded
        .mmsb(&["replay", "--into", "slow", "--speed", "0"])
        .fails(2);
    // A signal ends it, in good order.
    let log = recorded.log();
    let slowest = recorded.buses.start(&[
        "replay", "--log", &log, "--into", "slowest", "--speed", "0.001", "--json",
    ]);
    until("the bus", || recorded.buses.bus("slowest").attach().is_ok());
    slowest.signal(Signal::SIGTERM);
    let said = slowest.end().exits(0).json();
    assert_eq!(said["stopped"], true);
}
