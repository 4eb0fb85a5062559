//! The durable soak, short: a seed is printed, and repeats a run. `scripts/soak --durable --seconds N` runs it for longer.

use std::path::Path;
use std::time::Duration;

use mmsb_tests::durable::soak::{self, Plan};
use mmsb_tests::{seed, watchdog};

#[test]
fn nothing_acknowledged_is_lost_and_the_log_gives_the_same_pages() {
    let _watchdog = watchdog::start("durable soak", Duration::from_secs(300));
    let plan = Plan {
        seconds: 15.0,
        seed: seed::seed("durable soak"),
        disk: Path::new(env!("CARGO_TARGET_TMPDIR")).to_owned(),
        exe: env!("CARGO_BIN_EXE_durable").into(),
    };
    let report = soak::run(&plan);
    println!("{report:#?}");
    assert!(report.bad.is_empty(), "{:?}", report.bad);
    // What the shortest run does for certain.
    assert!(report.synced > 0 && report.checks >= 3, "{report:?}");
    assert!(
        report.writers_killed + report.supervisors_killed > 0,
        "{report:?}"
    );
}
