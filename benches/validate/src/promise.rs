//! The promises: what each row says, where its figure comes from, how it is judged.
//!
//! Targets of cases of `mmsb bench` are its own, and come with its output; here are only those that nothing else knows.

use serde_json::Value;

use crate::figure::Better;

/// A program that is run once, and judges itself or is judged by a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `mmsb-soak`.
    Soak,
    /// `durable soak`.
    DurableSoak,
    /// `divergence`.
    Divergence,
}

impl Tool {
    /// All of them, in the order in which they are run.
    pub const ALL: [Tool; 3] = [Tool::Divergence, Tool::Soak, Tool::DurableSoak];

    /// By which figure of its output it is judged: none may be counted.
    pub fn judged_by(self) -> &'static str {
        match self {
            Tool::Soak | Tool::DurableSoak => "violations",
            Tool::Divergence => "divergences",
        }
    }

    /// Without which its verdict says nothing: figures of its output that must not be 0.
    pub fn needs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Tool::Soak => &[
                ("kills", "kills"),
                ("recoveries", "recoveries"),
                ("acknowledged", "commits"),
            ],
            Tool::DurableSoak => &[("kills", "kills")],
            Tool::Divergence => &[("records", "records"), ("replays", "replays")],
        }
    }

    /// What it tells beside that: a word for each figure of its output.
    pub fn tells(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Tool::Soak => &[
                ("kills", "kills"),
                ("armed_deaths", "deaths at named steps"),
                ("stops", "stops"),
                ("recoveries", "recoveries"),
                ("acknowledged", "commits"),
            ],
            Tool::DurableSoak => &[
                ("kills", "kills"),
                ("armed_deaths", "deaths at named steps"),
                ("stops", "stops"),
                ("takeovers", "takeovers"),
                ("rebuilds", "rebuilds"),
                ("commits", "commits"),
            ],
            Tool::Divergence => &[
                ("records", "records"),
                ("replays", "replays by 1, 2, 3, 8 threads"),
                ("checkpoints", "from checkpoints"),
                ("pages", "pages"),
            ],
        }
    }
}

/// How a case of `mmsb bench` is judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Judge {
    /// By its own target.
    Own,
    /// By one of its figures, less the bytes of the operation or not.
    Figure {
        /// Its name.
        name: &'static str,
        /// Whether the bytes of the case are taken off.
        less_bytes: bool,
        /// Which way it gets better.
        better: Better,
        /// The worst that is good enough.
        bound: f64,
    },
}

/// Where the figure of a row comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A case of `mmsb bench`.
    Case {
        /// Its name and its bytes, and writers if it has any, as in [`case_key`].
        key: String,
        /// How it is judged.
        judge: Judge,
    },
    /// A program.
    Tool(Tool),
    /// A case of `scripts/languages`: the language, the case, the figure and the most that it may be.
    Language(&'static str, &'static str, &'static str, f64),
    /// Nothing yet.
    NotBuilt,
}

/// A row of the table before anything was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Promise {
    /// Its name: the group, and what tells it from others of that.
    pub id: String,
    /// What is promised.
    pub text: String,
    /// The target, where it is not the program's that measures.
    pub target: String,
    /// What anyone runs to get this row.
    pub command: String,
    /// Where its figure comes from.
    pub source: Source,
}

/// Tells cases apart: name, bytes, writers.
pub fn case_key(row: &Value) -> Option<String> {
    let key = format!("{}/{}", row["case"].as_str()?, row["bytes"].as_u64()?);
    Some(match row["writers"].as_u64() {
        Some(writers) => format!("{key}/{writers}"),
        None => key,
    })
}

/// The classic targets: id, text, case, how it is judged, and the target in words if it is not the case's own.
const CLASSIC: [(&str, &str, &str, Judge, &str); 12] = [
    (
        "allocation",
        "allocate a page of 1 KiB (and free it)",
        "alloc_free/1024",
        at_most("p50_ns", 1000.0),
        "< 1 µs",
    ),
    (
        "allocation_fresh",
        "the same in memory that was never touched, a million times",
        "memory/1024",
        at_most("p50_ns", 1000.0),
        "< 1 µs",
    ),
    (
        "sparse_delta",
        "sparse delta: 8 words in 8 places of a page of 1 KiB",
        "sparse/64",
        Judge::Own,
        "",
    ),
    (
        "deltas_single",
        "deltas of 64 B, one writer",
        "commit/64",
        at_least("per_second", 1e6),
        ">= 1 M/s",
    ),
    (
        "deltas_multi",
        "deltas of two writers in two processes, one order",
        "two_writers/8",
        at_least("per_second", 10e6),
        ">= 10 M/s",
    ),
    (
        "page_overhead",
        "what a page of 1 KiB takes beside its bytes, everything counted",
        "memory/1024",
        Judge::Figure {
            name: "memory_bytes_per_page",
            less_bytes: true,
            better: Better::Less,
            bound: 48.0,
        },
        "<= 48 B",
    ),
    (
        "million_pages",
        "a million pages of 1 KiB, ring and tables included",
        "memory/1024",
        Judge::Own,
        "",
    ),
    (
        "checkpoint",
        "checkpoint of 1 GiB of pages beside a writer",
        "checkpoint/1073741824",
        at_least("bytes_per_second", 100e6),
        "> 100 MB/s",
    ),
    (
        "replay",
        "replay of deltas of 1 KiB from the page cache",
        "replay/1024",
        at_least("bytes_per_second", 1e9),
        "> 1 GB/s",
    ),
    (
        "provenance",
        "provenance: the 32 causes of a delta, in a log of a million that was asked before",
        "provenance/64",
        Judge::Own,
        "",
    ),
    (
        "provenance-first",
        "provenance: the 32 causes of a delta, the first question to a log of a million",
        "provenance/64",
        at_most("first_ns", 50e6),
        "< 50 ms",
    ),
    (
        "tick",
        "tick: 10,000 deltas to 10,000 pages, received in another process",
        "tick/64",
        Judge::Own,
        "",
    ),
];

const fn at_most(name: &'static str, bound: f64) -> Judge {
    Judge::Figure {
        name,
        less_bytes: false,
        better: Better::Less,
        bound,
    }
}

const fn at_least(name: &'static str, bound: f64) -> Judge {
    Judge::Figure {
        name,
        less_bytes: false,
        better: Better::More,
        bound,
    }
}

/// What each language was meant to take: language, case, figure, the most, in words.
const LANGUAGES: [(&str, &str, &str, f64, &str, &str); 6] = [
    (
        "c-header",
        "read_64",
        "times_rust",
        1.5,
        "<= 1.5 x Rust",
        "C, the header alone: read 64 B in place",
    ),
    (
        "c",
        "commit_64",
        "over_rust_ns",
        10.0,
        "<= 10 ns to Rust",
        "C, the library: commit 64 B",
    ),
    (
        "julia",
        "read_1024",
        "ns",
        1e3,
        "<= 1 µs",
        "Julia: read 1 KiB in place",
    ),
    (
        "julia",
        "commit_64",
        "ns",
        1e3,
        "<= 1 µs",
        "Julia: update_page of 64 B",
    ),
    (
        "python",
        "read_64",
        "ns",
        20e3,
        "<= 20 µs",
        "Python: read 64 B in place",
    ),
    (
        "python",
        "read_1024",
        "ns",
        20e3,
        "<= 20 µs",
        "Python: read 1 KiB in place",
    ),
];

/// What the design has and nobody has built.
const NOT_BUILT: [(&str, &str); 4] = [
    ("index", "ordered index in shared memory (BW-tree)"),
    (
        "propagation",
        "propagation along the dependency graph, by semirings",
    ),
    ("gpu", "pages in the memory of a GPU (CUDA)"),
    ("shipping", "the log shipped to other machines"),
];

/// How the tools are run.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    /// Seconds of each soak.
    pub soak: u64,
    /// Seconds that the log of the divergence is written for.
    pub divergence: u64,
}

/// All rows, the cases being what `mmsb bench --list` says.
pub fn promises(cases: &[Value], lengths: Lengths) -> Vec<Promise> {
    let mut all = Vec::new();
    let known: Vec<(String, &Value)> = cases
        .iter()
        .filter_map(|case| Some((case_key(case)?, case)))
        .collect();
    let own = |key: &str| {
        let is_own = |(_, _, of, judge, _): &(_, _, &str, Judge, _)| {
            *of == key && matches!(judge, Judge::Own)
        };
        CLASSIC.iter().any(is_own)
    };
    let bench = |case: &Value| {
        let name = case["case"].as_str().unwrap_or_default();
        format!("mmsb bench --case {name}")
    };
    for (key, case) in &known {
        // It is in the table already, further down.
        if own(key) {
            continue;
        }
        let group = if case["durable"] == true {
            "durable"
        } else {
            "bus"
        };
        let name = case["case"].as_str().unwrap_or_default().replace('_', " ");
        let what = case["what"].as_str().unwrap_or_default();
        let bytes = case["bytes"].as_u64().unwrap_or(0);
        let writers = match case["writers"].as_u64() {
            Some(1) => ", 1 writer".to_owned(),
            Some(writers) => format!(", {writers} writers"),
            None => String::new(),
        };
        all.push(Promise {
            id: format!("{group}/{key}"),
            text: format!("{name}, {}{writers}: {what}", bytes_shown(bytes)),
            target: case["target"].as_str().unwrap_or_default().to_owned(),
            command: bench(case),
            source: Source::Case {
                key: key.clone(),
                judge: Judge::Own,
            },
        });
    }
    for (name, text, key, judge, target) in CLASSIC {
        let case = known
            .iter()
            .find(|(of, _)| of == key)
            .map(|(_, case)| *case);
        let own_target = case.and_then(|case| case["target"].as_str());
        all.push(Promise {
            id: format!("classic/{name}"),
            text: text.to_owned(),
            target: match judge {
                Judge::Own => own_target.unwrap_or_default().to_owned(),
                Judge::Figure { .. } => target.to_owned(),
            },
            command: case.map(bench).unwrap_or_default(),
            source: Source::Case {
                key: key.to_owned(),
                judge,
            },
        });
    }
    let Lengths { soak, divergence } = lengths;
    for (id, text, target, command, tool) in [
        (
            "classic/divergence",
            "the same log replayed in many ways is the living bus, byte for byte",
            "0 divergences",
            format!("cargo run --release -p mmsb-tests --bin divergence -- --seconds {divergence}"),
            Tool::Divergence,
        ),
        (
            "soak/kill",
            "processes killed and stopped under load: nothing torn, lost, stuck",
            "0 violations",
            format!("scripts/soak --seconds {soak}"),
            Tool::Soak,
        ),
        (
            "soak/durable",
            "the same with a log, supervisors and reboots: nothing acknowledged lost",
            "0 violations",
            format!("scripts/soak --durable --seconds {soak}"),
            Tool::DurableSoak,
        ),
    ] {
        all.push(Promise {
            id: id.to_owned(),
            text: text.to_owned(),
            target: target.to_owned(),
            command,
            source: Source::Tool(tool),
        });
    }
    for (language, case, figure, bound, target, text) in LANGUAGES {
        all.push(Promise {
            id: format!("languages/{language}/{case}"),
            text: text.to_owned(),
            target: target.to_owned(),
            command: "scripts/languages".to_owned(),
            source: Source::Language(language, case, figure, bound),
        });
    }
    for (name, text) in NOT_BUILT {
        all.push(Promise {
            id: format!("later/{name}"),
            text: text.to_owned(),
            target: String::new(),
            command: String::new(),
            source: Source::NotBuilt,
        });
    }
    all
}

/// A size in the unit that divides it.
fn bytes_shown(bytes: u64) -> String {
    for (size, unit) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= size && bytes.is_multiple_of(size) {
            return format!("{} {unit}", bytes / size);
        }
    }
    format!("{bytes} B")
}

/// Whether `wanted`, a row or a group, speaks of the row.
pub fn is_wanted(id: &str, wanted: &str) -> bool {
    let wanted = wanted.trim_end_matches('/');
    id.strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LENGTHS: Lengths = Lengths {
        soak: 60,
        divergence: 5,
    };

    #[test]
    fn cases_become_rows_and_none_is_there_twice() {
        let cases = [
            json!({"case": "commit", "bytes": 64, "durable": false, "what": "patch", "target": "<= 32 ns"}),
            json!({"case": "synced", "bytes": 64, "writers": 8, "durable": true, "what": "w", "target": "t"}),
            json!({"case": "tick", "bytes": 64, "durable": false, "what": "t", "target": "<= 16 ms"}),
        ];
        let all = promises(&cases, LENGTHS);
        let of = |id: &str| all.iter().find(|p| p.id == id);
        assert_eq!(of("bus/commit/64").unwrap().target, "<= 32 ns");
        assert_eq!(of("bus/commit/64").unwrap().text, "commit, 64 B: patch");
        assert_eq!(
            of("durable/synced/64/8").unwrap().text,
            "synced, 64 B, 8 writers: w"
        );
        assert_eq!(of("classic/tick").unwrap().target, "<= 16 ms");
        assert!(of("bus/tick/64").is_none(), "it is a classic one");
        assert_eq!(of("classic/deltas_single").unwrap().target, ">= 1 M/s");
        assert_eq!(of("later/gpu").unwrap().source, Source::NotBuilt);
        for (at, promise) in all.iter().enumerate() {
            assert_eq!(all.iter().position(|p| p.id == promise.id), Some(at));
        }
    }

    #[test]
    fn rows_and_groups_are_asked_for() {
        assert!(is_wanted("bus/commit/64", "bus"));
        assert!(is_wanted("bus/commit/64", "bus/commit"));
        assert!(is_wanted("bus/commit/64", "bus/commit/64"));
        assert!(is_wanted("bus/commit/64", "bus/"));
        assert!(!is_wanted("bus/commit_leased/8", "bus/commit"));
        assert!(!is_wanted("bus/commit/64", "us"));
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(bytes_shown(64), "64 B");
        assert_eq!(bytes_shown(1024), "1 KiB");
        assert_eq!(bytes_shown(1 << 30), "1 GiB");
    }
}
