use std::collections::HashSet;

use mmsb::schema::Value;

use super::*;

/// What a path names in a filled page.
pub(super) fn value(schema: &Schema, page: &[u8], path: &str) -> Value {
    let field = schema
        .select(path)
        .unwrap_or_else(|| panic!("no field {path}"));
    schema.read_value(&field, page).unwrap()
}

/// `text` cut at every character, and with every character replaced by one that matters to some parser.
pub(super) fn mangled(text: &str) -> impl Iterator<Item = String> {
    let cuts = text.char_indices().map(|(at, _)| text[..at].to_owned());
    let replaced = text.char_indices().flat_map(move |(at, c)| {
        let after = at + c.len_utf8();
        [' ', '\n', '(', ')', ':', '/', '=', '-', '9', 'é', '\0']
            .map(|with| format!("{}{with}{}", &text[..at], &text[after..]))
    });
    cuts.chain(replaced)
}

fn number_at(schema: &Schema, page: &[u8], path: &str) -> u64 {
    match value(schema, page, path) {
        Value::U64(number) => number,
        other => panic!("{path} is {other:?}"),
    }
}

#[test]
fn every_source_samples_this_machine() {
    let mut names = HashSet::new();
    for mut source in all() {
        let (name, schema) = (source.name(), source.schema());
        assert!(names.insert(name) && name.starts_with("proc/"), "{name}");
        assert_eq!(schema.field("samples").unwrap().offset, 0);
        assert_eq!(
            schema.field("checksum").unwrap().offset as usize,
            CHECKSUM.start
        );
        assert_eq!(Schema::decode(&schema.encode()).unwrap(), schema);

        // What was in the buffer before must not show.
        let mut page = vec![0xaa; schema.size()];
        for samples in 1..=3 {
            source.sample(&mut page).unwrap();
            assert!(is_sealed(&page), "{name}");
            assert_eq!(number_at(&schema, &page, "samples"), samples, "{name}");
        }
        assert_eq!(source.schema(), schema, "{name}");
        let number = |path: &str| number_at(&schema, &page, path);
        match name {
            "proc/cpu" => {
                assert!(number("cpus") >= 1 && number("ticks_per_second") >= 1);
                assert!(number("user_total") + number("system_total") + number("idle_total") > 0);
            }
            "proc/memory" => {
                assert!(number("mem_total") > 1 << 20);
                assert!(number("mem_free") <= number("mem_total"));
            }
            "proc/disks" => assert!(number("rows") <= 16),
            "proc/network" => assert!(number("rows") <= 16),
            "proc/sched" => {
                assert!(number("threads") >= 1);
                let uptime = value(&schema, &page, "uptime_s");
                assert!(
                    matches!(uptime, Value::F64(seconds) if seconds > 0.0),
                    "{uptime:?}"
                );
            }
            "proc/processes" => {
                let rows = number("rows");
                assert!((1..=32).contains(&rows));
                for row in 0..rows {
                    assert!(number(&format!("pid[{row}]")) > 0);
                }
                let states = value(&schema, &page, "states").to_string();
                assert_eq!(states.len() as u64, rows, "{states}");
            }
            other => panic!("{other} is not checked"),
        }
    }
}

#[test]
fn a_buffer_of_another_size_is_refused_and_left_alone() {
    for mut source in all() {
        let expected = source.schema().size();
        for found in [0, 8, expected - 1, expected + 1] {
            let mut out = vec![7; found];
            let error = source.sample(&mut out).unwrap_err();
            assert!(
                matches!(error, SourceError::WrongSize { expected: e, found: f, .. } if (e, f) == (expected, found)),
                "{error}"
            );
            assert!(out.iter().all(|&byte| byte == 7));
        }
    }
}

#[test]
fn a_page_with_any_changed_bit_is_not_sealed() {
    let mut page: Vec<u8> = (0..64).collect();
    assert!(!is_sealed(&page));
    seal(&mut page);
    assert!(is_sealed(&page));
    for bit in 0..page.len() * 8 {
        page[bit / 8] ^= 1 << (bit % 8);
        assert!(!is_sealed(&page), "bit {bit}");
        page[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(is_sealed(&page));
}

#[test]
fn pages_never_filled_or_too_small_are_not_sealed() {
    for len in [0, 8, 15, 16, 256] {
        assert!(!is_sealed(&vec![0; len]), "{len}");
    }
    let mut small = [1; 15];
    seal(&mut small);
    assert_eq!(small, [1; 15]);
}

#[test]
fn a_page_torn_between_two_samples_is_not_sealed() {
    let mut source = Processes::new();
    let mut old = vec![0; source.schema().size()];
    let mut new = old.clone();
    source.sample(&mut old).unwrap();
    source.sample(&mut new).unwrap();
    // Every cut that leaves the new counter above old bytes that differ.
    let last = (0..new.len()).rfind(|&i| old[i] != new[i]).unwrap();
    for cut in 1..=last {
        let torn = [&new[..cut], &old[cut..]].concat();
        assert!(!is_sealed(&torn), "cut at {cut}");
    }
}

#[test]
fn a_source_that_fills_a_field_it_lacks_says_so() {
    let mut page = Page::new(
        "test",
        record("test").field("x", Scalar::F64).text("t", 4).build(),
    );
    let mut out = vec![0; page.schema.size()];
    type Fill = fn(&mut Filler<'_>) -> Result<(), SourceError>;
    let wrong: [Fill; 4] = [
        |filler| filler.number("y", 1),
        |filler| filler.number("x", 1),
        |filler| filler.float("t", 1.0),
        |filler| filler.text("x", "a"),
    ];
    for fill in wrong {
        assert!(matches!(
            page.fill(&mut out, fill),
            Err(SourceError::NoField { .. })
        ));
    }
    page.fill(&mut out, |filler| filler.text("t", "a\0bcdef"))
        .unwrap();
    assert_eq!(value(&page.schema, &out, "t").to_string(), "a bc");
}
