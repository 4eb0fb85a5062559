use super::*;

fn quote() -> Schema {
    Schema::parse("quote{price:f64,qty:u32,bids:f32[3],host:char[6],open:bool}").unwrap()
}

fn shown_as(format: Format, schema: Option<&Schema>, bytes: &[u8]) -> String {
    let mut out = Vec::new();
    print(&mut out, format, schema, 0, bytes, Style::PLAIN).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn formats_are_named_and_print_their_names() {
    for name in ["hex", "text", "raw", "fields", "f64", "u8", "bool", "char"] {
        assert_eq!(name.parse::<Format>().unwrap().to_string(), name);
    }
    let error = "double".parse::<Format>().unwrap_err();
    assert!(matches!(error, ValueError::UnknownFormat { ref name } if name == "double"));
    assert_eq!(Format::suited_to(None), Format::Hex);
    assert_eq!(Format::suited_to(Some(&quote())), Format::Fields);
    let samples = Schema::array(Scalar::I16, 4).unwrap();
    assert_eq!(Format::suited_to(Some(&samples)), Format::List(Scalar::I16));
}

#[test]
fn hex_takes_the_usual_separators() {
    let expected = [0xde, 0xad, 0xbe, 0xef];
    for text in [
        "deadbeef",
        "DE AD be ef",
        "0xdeadbeef",
        "0xde 0xAD,0xbe-ef",
        "de:ad:be:ef\n",
        "dead  beef",
    ] {
        assert_eq!(parse_hex(text).unwrap(), expected, "{text:?}");
    }
    assert_eq!(parse_hex("00 0x00").unwrap(), [0, 0]);
    assert!(parse_hex("").unwrap().is_empty());
}

#[test]
fn bad_hex_is_refused_with_its_place() {
    assert!(matches!(
        parse_hex("de xd"),
        Err(ValueError::NotHex { found: 'x', at: 3 })
    ));
    assert!(matches!(
        parse_hex("äb"),
        Err(ValueError::NotHex { found: 'ä', at: 0 })
    ));
    assert!(matches!(
        parse_hex("dea d"),
        Err(ValueError::HalfByte { digits: 3, at: 3 })
    ));
    assert!(matches!(
        parse_hex("de a"),
        Err(ValueError::HalfByte { digits: 1, at: 4 })
    ));
    // 0x inside a group is a mistake, not a new group.
    assert!(matches!(
        parse_hex("de0xad"),
        Err(ValueError::NotHex { found: 'x', at: 3 })
    ));
}

#[test]
fn content_without_fields_is_one_patch_at_the_offset() {
    let patch = |format, text| parse(format, None, 16, text).unwrap();
    assert_eq!(
        patch(Format::Hex, "0102"),
        [Patch {
            offset: 16,
            bytes: vec![1, 2]
        }]
    );
    assert_eq!(patch(Format::Text, "hi")[0].bytes, b"hi");
    assert_eq!(
        patch(Format::List(Scalar::U16), "1, 0x203")[0].bytes,
        [1, 0, 3, 2]
    );
    assert_eq!(
        patch(Format::List(Scalar::F64), "[1.5]")[0].bytes,
        1.5f64.to_le_bytes()
    );
    assert_eq!(patch(Format::List(Scalar::Char), "a,b")[0].bytes, b"a,b");
    for format in [
        Format::Hex,
        Format::Text,
        Format::List(Scalar::U8),
        Format::List(Scalar::Char),
    ] {
        assert!(
            matches!(parse(format, None, 0, ""), Err(ValueError::Empty)),
            "{format}"
        );
    }
    assert!(matches!(
        parse(Format::List(Scalar::U8), None, 0, "[ ]"),
        Err(ValueError::Empty)
    ));
    assert!(matches!(
        parse(Format::List(Scalar::U8), None, 0, "1,256"),
        Err(ValueError::Schema(SchemaError::OutOfRange { .. }))
    ));
    assert!(matches!(
        parse(Format::Fields, None, 0, "a=1"),
        Err(ValueError::NoFields)
    ));
}

#[test]
fn a_file_is_written_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, b"\0\xff\n").unwrap();
    let patches = parse(Format::Raw, None, 8, path.to_str().unwrap()).unwrap();
    assert_eq!(
        patches,
        [Patch {
            offset: 8,
            bytes: b"\0\xff\n".to_vec()
        }]
    );
    let missing = dir.path().join("missing");
    assert!(matches!(
        parse(Format::Raw, None, 0, missing.to_str().unwrap()),
        Err(ValueError::ReadFile { .. })
    ));
    // Opens, but cannot be read at address 0.
    assert!(matches!(
        read_file("/proc/self/mem".into(), 9),
        Err(ValueError::ReadFile { .. })
    ));
    // Would never end.
    assert!(matches!(
        read_file("/dev/zero".into(), 9),
        Err(ValueError::FileTooLarge { max: 9, .. })
    ));
    assert_eq!(read_file(path, 3).unwrap().len(), 3);
}

#[test]
fn assignments_become_patches_of_their_fields() {
    let text = r#" price = 101.5 , bids=[1, 2,3],host="a,\"b" , open=true "#;
    let patches = parse_fields(&quote(), text).unwrap();
    let offsets: Vec<usize> = patches.iter().map(|patch| patch.offset).collect();
    assert_eq!(offsets, [0, 12, 24, 30]);
    assert_eq!(patches[0].bytes, 101.5f64.to_le_bytes());
    assert_eq!(patches[1].bytes.len(), 12);
    assert_eq!(patches[2].bytes, b"a,\"b\0\0");
    assert_eq!(patches[3].bytes, [1]);

    let element = parse_fields(&quote(), "bids[2]=4,bids[0]=5").unwrap();
    assert_eq!(
        element[0],
        Patch {
            offset: 20,
            bytes: 4f32.to_le_bytes().to_vec()
        }
    );
    assert_eq!(element[1].offset, 12);

    let array = Schema::array(Scalar::U8, 4).unwrap();
    assert_eq!(
        parse_fields(&array, "[3]=9").unwrap(),
        [Patch {
            offset: 3,
            bytes: vec![9]
        }]
    );
    assert_eq!(parse_fields(&quote(), "host=").unwrap()[0].bytes, [0; 6]);
}

#[test]
fn bad_assignments_are_refused_with_their_place() {
    let at = |text: &str| match parse_fields(&quote(), text) {
        Err(ValueError::Syntax { at, .. }) => at,
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(at("qty"), 0);
    assert_eq!(at("qty=1,"), 6);
    assert_eq!(at("host=ä,qty"), 7);
    assert_eq!(at("host=\"abc"), 5);
    assert_eq!(at(r#"host="a\x""#), 5);
    assert_eq!(at("bids=[1,2"), 5);
    assert_eq!(at("bids=[1,2,3]x"), 12);
    assert!(matches!(
        parse_fields(&quote(), " "),
        Err(ValueError::Empty)
    ));
    assert!(matches!(
        parse_fields(&quote(), "qty=-1"),
        Err(ValueError::Schema(SchemaError::OutOfRange { .. }))
    ));
    let error = parse_fields(&quote(), "cost=1").unwrap_err().to_string();
    assert!(
        error.contains("price:f64") && error.contains("\"cost\""),
        "{error}"
    );
}

#[test]
fn bytes_are_not_written_twice() {
    for text in [
        "qty=1,qty=2",
        "bids=[1,2,3],bids[1]=4",
        "bids[1]=4,bids=[1,2,3]",
    ] {
        assert!(
            matches!(
                parse_fields(&quote(), text),
                Err(ValueError::WrittenTwice { .. })
            ),
            "{text}"
        );
    }
}

#[test]
fn patches_are_checked_against_the_page() {
    let patches = [Patch {
        offset: 4,
        bytes: vec![0; 4],
    }];
    assert!(check_fits(&patches, 8).is_ok());
    assert!(matches!(
        check_fits(&patches, 7),
        Err(ValueError::OutsidePage { end: 8, len: 7 })
    ));
    let wild = [Patch {
        offset: usize::MAX,
        bytes: vec![0],
    }];
    assert!(check_fits(&wild, 1 << 30).is_err());
}

#[test]
fn a_dump_looks_like_xxd_and_folds_repeats() {
    let mut bytes = b"MMSB page \x01\xff\n dump".to_vec();
    bytes.resize(16 * 5 + 3, 0);
    assert_eq!(
        shown_as(Format::Hex, None, &bytes),
        "00000000: 4d4d 5342 2070 6167 6520 01ff 0a20 6475  MMSB page ... du\n\
         00000010: 6d70 0000 0000 0000 0000 0000 0000 0000  mp..............\n\
         00000020: 0000 0000 0000 0000 0000 0000 0000 0000  ................\n\
         *\n\
         00000050: 0000 00                                  ...\n"
    );
    let mut out = Vec::new();
    dump(&mut out, 0x100, &[0; 48]).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap().lines().last().unwrap()[..9],
        *"00000120:"
    );
}

#[test]
fn every_format_shows_a_page() {
    assert_eq!(
        shown_as(Format::Text, None, b"a\n\x1b[2Jb\xff\0\0"),
        "a\n\\u{1b}[2Jb\u{fffd}\n"
    );
    assert_eq!(
        shown_as(Format::List(Scalar::U16), None, &[1, 0, 2, 0]),
        "[1, 2]\n"
    );
    assert_eq!(shown_as(Format::List(Scalar::U8), None, &[7]), "[7]\n");
    let error = read_list(Scalar::U32, &[0; 7]).unwrap_err();
    assert!(matches!(
        error,
        ValueError::HalfElement {
            len: 7,
            left: 3,
            ..
        }
    ));

    let schema = quote();
    let mut page = vec![0; schema.size()];
    for patch in parse_fields(&schema, r#"price=0.5,bids=[0.1,2,3],host="a\"b""#).unwrap() {
        page[patch.offset..patch.end()].copy_from_slice(&patch.bytes);
    }
    assert_eq!(
        shown_as(Format::Fields, Some(&schema), &page),
        "field  type     offset  value\n\
         price  f64           0  0.5\n\
         qty    u32           8  0\n\
         bids   f32[3]       12  [0.1, 2.0, 3.0]\n\
         host   char[6]      24  \"a\\\"b\"\n\
         open   bool         30  false\n"
    );
    let json = to_json(Format::Fields, Some(&schema), &page).unwrap();
    assert_eq!(
        json,
        serde_json::json!({"price": 0.5, "qty": 0, "bids": [0.1, 2.0, 3.0], "host": "a\"b", "open": false})
    );
    assert!(to_json(Format::Fields, Some(&schema), &page[..8]).is_err());
}

#[test]
fn json_says_what_it_has_no_number_for() {
    let bytes = [f64::NAN, f64::NEG_INFINITY, 1.0]
        .map(f64::to_le_bytes)
        .concat();
    assert_eq!(
        to_json(Format::List(Scalar::F64), None, &bytes).unwrap(),
        serde_json::json!(["NaN", "-inf", 1.0])
    );
    assert_eq!(to_json(Format::Hex, None, &[0, 0xab]).unwrap(), "00ab");
    assert_eq!(to_json(Format::Text, None, b"a\0b\0").unwrap(), "a\0b");
    let max = u64::MAX.to_le_bytes();
    assert_eq!(
        to_json(Format::List(Scalar::U64), None, &max).unwrap(),
        serde_json::json!([u64::MAX])
    );
    let array = Schema::array(Scalar::U8, 2).unwrap();
    assert_eq!(
        to_json(Format::Fields, Some(&array), &[1, 2]).unwrap(),
        serde_json::json!([1, 2])
    );
}
