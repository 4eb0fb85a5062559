use proptest::prelude::*;

use super::encoding::HEADER_BYTES;
use super::*;

fn quote() -> Schema {
    Schema::record("quote")
        .field("price", Scalar::F64)
        .field("qty", Scalar::U32)
        .array_field("bids", Scalar::F64, 3)
        .text("host", 5)
        .field("open", Scalar::Bool)
        .build()
        .unwrap()
}

#[test]
fn a_record_is_laid_out_like_repr_c() {
    #[repr(C)]
    struct Quote {
        price: f64,
        qty: u32,
        bids: [f64; 3],
        host: [u8; 5],
        open: bool,
    }
    let schema = quote();
    assert_eq!(schema.size(), size_of::<Quote>());
    let offsets: Vec<usize> = schema.fields().iter().map(|f| f.offset as usize).collect();
    let expected = [
        std::mem::offset_of!(Quote, price),
        std::mem::offset_of!(Quote, qty),
        std::mem::offset_of!(Quote, bids),
        std::mem::offset_of!(Quote, host),
        std::mem::offset_of!(Quote, open),
    ];
    assert_eq!(offsets, expected);
}

#[test]
fn the_encoding_and_its_hash_are_these_bytes() {
    let schema = Schema::record("q").field("a", Scalar::U16).build().unwrap();
    let bytes = b"MSCH\x01\0\x02\0\x02\0\0\0\x01\0\0\0\0\0\x01\0q\
                  \0\0\0\0\x01\0\0\0\x03\0\x01\0a";
    assert_eq!(schema.encode(), bytes);
    assert_eq!(schema.hash(), fnv1a64(bytes));
    // The published test vectors of FNV-1a 64.
    assert_eq!(fnv1a64(b""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(fnv1a64(b"a"), 0xaf63_dc4c_8601_ec8c);
    assert_eq!(fnv1a64(b"foobar"), 0x8594_4171_f739_67e8);
}

#[test]
fn scalar_codes_and_names_lead_back() {
    for (i, scalar) in Scalar::ALL.into_iter().enumerate() {
        assert_eq!(scalar.code() as usize, i + 1);
        assert_eq!(Scalar::try_from(scalar.code()), Ok(scalar));
        assert_eq!(scalar.name().parse(), Ok(scalar));
    }
    assert_eq!(
        Scalar::try_from(0),
        Err(SchemaError::UnknownScalar { code: 0 })
    );
    assert!(Scalar::try_from(13).is_err());
    assert!("double".parse::<Scalar>().is_err());
}

#[test]
fn the_text_form_parses_and_prints() {
    for text in [
        "f64[128]",
        "u8",
        "price:f64,qty:u32,bids:f64[10],host:char[16]",
        "quote{price:f64,qty:u32@16,@32}",
        "a:u8,b:u64@1,@9",
        "b:u32@4,a:u32@0",
        "größe:i16",
    ] {
        let schema = Schema::parse(text).unwrap();
        assert_eq!(schema.to_string(), text);
    }
    let spaced = Schema::parse(" q { a : u8 , b : u16 [ 4 ] @ 2 , @ 16 } ").unwrap();
    assert_eq!(spaced.to_string(), "q{a:u8,b:u16[4],@16}");
    assert_eq!(spaced.size(), 16);
    assert_eq!(Schema::parse("{a:u8}"), Schema::parse("a:u8"));
}

#[test]
fn bad_text_is_refused_with_its_place() {
    let at = |text: &str| match Schema::parse(text) {
        Err(SchemaError::Syntax { at, .. }) => at,
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(at(""), 0);
    assert_eq!(at("f64[128"), 7);
    assert_eq!(at("f64[]"), 4);
    assert_eq!(at("f64[4294967296]"), 4);
    assert_eq!(at("ä:u8,"), 5);
    assert_eq!(at("a:u8 b:u8"), 5);
    assert_eq!(at("a:,b:u8"), 2);
    assert_eq!(at("q{a:u8"), 6);
    assert_eq!(at("a:u8}"), 4);
    assert_eq!(at("f64[2],u8"), 6);
    assert_eq!(at("q{@4}"), 2);
    assert_eq!(at("a:u8,@4,b:u8"), 7);
    assert!(matches!(
        Schema::parse("double"),
        Err(SchemaError::UnknownScalarName { .. })
    ));
    assert!(matches!(
        Schema::parse("a:u8[0]"),
        Err(SchemaError::Empty { .. })
    ));
    assert!(matches!(
        Schema::parse("f64[0]"),
        Err(SchemaError::Empty { .. })
    ));
    let many = "a:u8,".repeat(FIELDS_MAX + 1);
    assert_eq!(
        Schema::parse(&many),
        Err(SchemaError::TooManyFields {
            found: FIELDS_MAX + 1
        })
    );
}

#[test]
fn the_builder_refuses_what_is_no_record() {
    let record = || Schema::record("r").field("a", Scalar::U32);
    assert_eq!(
        record().field_at("b", Scalar::U16, 2, 2).build(),
        Err(SchemaError::Overlap {
            first: "a".into(),
            second: "b".into()
        })
    );
    assert!(record().field_at("b", Scalar::U16, 2, 4).build().is_ok());
    assert_eq!(
        record().field("a", Scalar::U8).build(),
        Err(SchemaError::DuplicateName { name: "a".into() })
    );
    assert!(matches!(
        record().size(3).build(),
        Err(SchemaError::OutsideRecord {
            end: 4,
            size: 3,
            ..
        })
    ));
    assert!(matches!(
        record().field("b c", Scalar::U8).build(),
        Err(SchemaError::BadName { .. })
    ));
    assert!(matches!(
        record().field("", Scalar::U8).build(),
        Err(SchemaError::BadName { .. })
    ));
    let long = "n".repeat(NAME_BYTES_MAX + 1);
    assert!(matches!(
        Schema::record(&long).build(),
        Err(SchemaError::BadName { .. })
    ));
    assert!(matches!(
        Schema::record("r").padding(8).build(),
        Err(SchemaError::Empty { .. })
    ));
    for huge in [
        record().padding(1 << 30).build(),
        record().array_field("b", Scalar::U64, u32::MAX).build(),
        record()
            .array_field("b", Scalar::U64, u32::MAX)
            .field("c", Scalar::U8)
            .build(),
        record().field_at("b", Scalar::U8, 1, u32::MAX).build(),
        Schema::array(Scalar::U64, (1 << 27) + 1),
        Schema::array(Scalar::U8, u32::MAX),
    ] {
        assert!(
            matches!(huge, Err(SchemaError::TooLarge { .. })),
            "{huge:?}"
        );
    }
    assert_eq!(Schema::array(Scalar::U64, 1 << 27).unwrap().size(), 1 << 30);
}

#[test]
fn padding_moves_the_next_field_and_the_end() {
    let schema = Schema::record("")
        .field("a", Scalar::U8)
        .padding(6)
        .field("b", Scalar::U16)
        .padding(3)
        .build()
        .unwrap();
    assert_eq!(schema.field("b").unwrap().offset, 8);
    assert_eq!(schema.size(), 14);
    assert_eq!(schema.to_string(), "a:u8,b:u16@8,@14");
}

#[test]
fn decode_names_what_is_wrong() {
    let good = quote().encode();
    let patched = |at: usize, with: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        Schema::decode(&bytes)
    };
    assert!(matches!(
        patched(0, b"X"),
        Err(SchemaError::BadMagic { .. })
    ));
    assert_eq!(
        patched(4, &[9, 0]),
        Err(SchemaError::UnsupportedVersion {
            expected: 1,
            found: 9
        })
    );
    assert!(matches!(
        patched(6, &[3]),
        Err(SchemaError::Corrupt { offset: 6, .. })
    ));
    assert!(matches!(
        patched(8, &[1, 0, 0, 0]),
        Err(SchemaError::OutsideRecord { .. })
    ));
    assert!(matches!(
        patched(8, &[0xff; 4]),
        Err(SchemaError::TooLarge { .. })
    ));
    assert!(matches!(
        patched(12, &[0xff; 4]),
        Err(SchemaError::TooManyFields { .. })
    ));
    // As many fields as allowed, and no bytes to hold them.
    assert!(matches!(
        patched(12, &[0, 16]),
        Err(SchemaError::Truncated { .. })
    ));
    assert!(matches!(
        patched(16, &[1]),
        Err(SchemaError::Corrupt { offset: 16, .. })
    ));
    let first_field = HEADER_BYTES + "quote".len();
    assert!(matches!(
        patched(first_field, &[0xff; 4]),
        Err(SchemaError::OutsideRecord { .. })
    ));
    assert!(matches!(
        patched(first_field + 4, &[0; 4]),
        Err(SchemaError::Empty { .. })
    ));
    assert!(matches!(
        patched(first_field + 4, &[2]),
        Err(SchemaError::Overlap { .. })
    ));
    assert!(matches!(
        patched(first_field + 8, &[99]),
        Err(SchemaError::UnknownScalar { code: 99 })
    ));
    assert!(matches!(
        patched(first_field + 12, &[0xff]),
        Err(SchemaError::Corrupt { .. })
    ));
    for end in 0..good.len() {
        assert!(
            matches!(
                Schema::decode(&good[..end]),
                Err(SchemaError::Truncated { .. })
            ),
            "cut at {end}"
        );
    }
    let mut longer = good.clone();
    longer.push(0);
    assert!(matches!(
        Schema::decode(&longer),
        Err(SchemaError::Corrupt { .. })
    ));
}

fn round_trip(scalar: Scalar, text: &str) -> String {
    let count = text.split(',').count() as u32;
    let schema = Schema::array(scalar, count).unwrap();
    let field = schema.select("").unwrap();
    let bytes = schema.write_value(&field, text).unwrap();
    schema.read_value(&field, &bytes).unwrap().to_string()
}

#[test]
fn values_go_through_bytes_and_back() {
    assert_eq!(round_trip(Scalar::U8, "255"), "255");
    assert_eq!(round_trip(Scalar::I8, "-128"), "-128");
    assert_eq!(round_trip(Scalar::U16, "0xffff"), "65535");
    assert_eq!(round_trip(Scalar::I16, "-0x8000"), "-32768");
    assert_eq!(round_trip(Scalar::U32, "1_000_000"), "1000000");
    assert_eq!(round_trip(Scalar::I32, " +7 "), "7");
    assert_eq!(
        round_trip(Scalar::U64, "18446744073709551615"),
        "18446744073709551615"
    );
    assert_eq!(
        round_trip(Scalar::I64, "-9223372036854775808"),
        "-9223372036854775808"
    );
    assert_eq!(round_trip(Scalar::F32, "0.1"), "0.1");
    assert_eq!(round_trip(Scalar::F64, "[1, 2.5,-inf]"), "[1.0, 2.5, -inf]");
    assert_eq!(round_trip(Scalar::F64, "NaN"), "NaN");
    assert_eq!(round_trip(Scalar::Bool, "true,0"), "[true, false]");

    let schema = quote();
    let host = schema.field("host").unwrap();
    assert_eq!(schema.write_value(host, "añb").unwrap(), b"a\xc3\xb1b\0");
    let mut page = vec![0; schema.size()];
    page[40..45].copy_from_slice(b"ab\0cd");
    assert_eq!(schema.read_value(host, &page), Ok(Value::Text("ab".into())));
    page[40..45].copy_from_slice(b"abcd\xff");
    assert_eq!(
        schema.read_value(host, &page),
        Ok(Value::Text("abcd\u{fffd}".into()))
    );
}

#[test]
fn values_that_do_not_fit_are_refused() {
    let schema = quote();
    let write = |name: &str, text: &str| schema.write_value(schema.field(name).unwrap(), text);
    for text in [
        "-1",
        "4294967296",
        "0x1_0000_0000",
        "99999999999999999999999999999999999999999999",
    ] {
        assert!(
            matches!(write("qty", text), Err(SchemaError::OutOfRange { .. })),
            "{text}"
        );
    }
    for text in ["", "1.5", "0x", "_1", "--1", "12a"] {
        assert!(
            matches!(write("qty", text), Err(SchemaError::BadValue { .. })),
            "{text:?}"
        );
    }
    assert!(matches!(
        write("price", "1e400"),
        Err(SchemaError::OutOfRange { .. })
    ));
    assert!(matches!(
        write("price", "cheap"),
        Err(SchemaError::BadValue { .. })
    ));
    assert!(matches!(
        write("open", "yes"),
        Err(SchemaError::BadValue { .. })
    ));
    assert!(matches!(
        write("bids", "[1,2,3"),
        Err(SchemaError::BadValue { .. })
    ));
    assert!(matches!(
        write("bids", "1,2"),
        Err(SchemaError::WrongCount {
            expected: 3,
            found: 2,
            ..
        })
    ));
    assert!(matches!(
        write("host", "sixsix"),
        Err(SchemaError::TextTooLong {
            max: 5,
            found: 6,
            ..
        })
    ));
    assert!(matches!(
        write("host", "a\0b"),
        Err(SchemaError::BadValue { .. })
    ));
    let short = Schema::array(Scalar::F32, 1).unwrap();
    let whole = short.select("").unwrap();
    assert!(matches!(
        short.write_value(&whole, "1e39"),
        Err(SchemaError::OutOfRange { .. })
    ));
}

#[test]
fn a_page_shorter_than_a_field_is_refused() {
    let schema = quote();
    let bids = schema.field("bids").unwrap();
    assert!(schema.read_value(bids, &[0; 40]).is_ok());
    assert_eq!(
        schema.read_value(bids, &[0; 39]),
        Err(SchemaError::PageTooSmall {
            name: "bids".into(),
            end: 40,
            len: 39
        })
    );
    let wild = Field {
        name: "wild".into(),
        offset: u32::MAX,
        scalar: Scalar::U64,
        count: u32::MAX,
    };
    assert!(schema.read_value(&wild, &[0; 64]).is_err());
    assert!(matches!(
        schema.write_value(&wild, "1"),
        Err(SchemaError::TooLarge { .. })
    ));
}

#[test]
fn select_finds_fields_and_elements() {
    let schema = quote();
    let second = schema.select("bids[2]").unwrap();
    assert_eq!(
        (second.offset, second.count, second.name.as_str()),
        (32, 1, "bids[2]")
    );
    assert_eq!(schema.select("price").as_ref(), schema.field("price"));
    for path in [
        "bids[3]", "bids[-1]", "bids[+1]", "bids[]", "bids[1", "none", "", "[0]", "bids[1]x",
    ] {
        assert_eq!(schema.select(path), None, "{path}");
    }
    let array = Schema::array(Scalar::U16, 4).unwrap();
    assert_eq!(array.select("[3]").unwrap().offset, 6);
    assert_eq!(array.select("[4]"), None);
    assert_eq!(array.select("x"), None);
}

fn any_scalar() -> impl Strategy<Value = Scalar> {
    (0..Scalar::ALL.len()).prop_map(|i| Scalar::ALL[i])
}

fn any_schema() -> impl Strategy<Value = Schema> {
    let array = (any_scalar(), 1u32..1000).prop_map(|(s, n)| Schema::array(s, n).unwrap());
    let field = (
        "[a-zß.]{0,6}",
        any_scalar(),
        1u32..9,
        0u32..20,
        any::<bool>(),
    );
    let record = ("[a-z]{0,8}", prop::collection::vec(field, 1..20), 0u32..40).prop_map(
        |(name, fields, tail)| {
            let mut builder = Schema::record(&name);
            let mut end = 0u32;
            for (i, (name, scalar, count, gap, placed)) in fields.into_iter().enumerate() {
                // The number makes the name unique.
                let name = format!("{name}{i}");
                builder = if placed {
                    builder.field_at(&name, scalar, count, end + gap)
                } else {
                    builder.padding(gap).array_field(&name, scalar, count)
                };
                end = builder.clone().build().unwrap().fields()[i].end() as u32;
            }
            builder.padding(tail).build().unwrap()
        },
    );
    prop_oneof![array, record]
}

proptest! {
    #[test]
    fn schemas_survive_encoding_and_printing(schema in any_schema()) {
        prop_assert_eq!(&Schema::decode(&schema.encode()).unwrap(), &schema);
        prop_assert_eq!(&Schema::parse(&schema.to_string()).unwrap(), &schema);
    }

    #[test]
    fn what_decodes_from_any_bytes_has_only_that_encoding(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        header in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if header {
            // Past the magic and version, where random bytes seldom get.
            bytes.splice(0..0, *b"MSCH\x01\0");
        }
        if let Ok(schema) = Schema::decode(&bytes) {
            prop_assert_eq!(schema.encode(), bytes);
        }
    }

    #[test]
    fn mutated_encodings_never_give_an_invalid_schema(
        schema in any_schema(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        page in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut bytes = schema.encode();
        for (index, byte) in edits {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(decoded) = Schema::decode(&bytes) {
            prop_assert_eq!(&decoded.encode(), &bytes);
            prop_assert_eq!(&Schema::parse(&decoded.to_string()).unwrap(), &decoded);
            for field in decoded.fields() {
                prop_assert!(field.end() <= decoded.size() as u64);
                let value = decoded.read_value(field, &page);
                prop_assert_eq!(value.is_ok(), field.end() <= page.len() as u64);
            }
        }
    }

    #[test]
    fn any_text_parses_to_what_prints_back_or_fails(text in "[a-b:,@{}\\[\\] 0-9uf\\PC]{0,40}") {
        if let Ok(schema) = Schema::parse(&text) {
            prop_assert_eq!(Schema::parse(&schema.to_string()).unwrap(), schema);
        }
    }

    #[test]
    fn printed_values_write_the_same_bytes(
        scalar in any_scalar(),
        bytes in prop::collection::vec(any::<u8>(), 8..64),
    ) {
        let count = (bytes.len() / scalar.size()) as u32;
        let schema = Schema::array(scalar, count).unwrap();
        let field = schema.select("").unwrap();
        let value = schema.read_value(&field, &bytes).unwrap();
        let text = value.to_string();
        match schema.write_value(&field, &text) {
            // NaNs differ in bits and flags in values, so what is compared is what they print.
            Ok(written) => {
                prop_assert_eq!(schema.read_value(&field, &written).unwrap().to_string(), text);
            }
            // U+FFFD is longer than the byte that it stands for.
            Err(error) => {
                prop_assert_eq!(scalar, Scalar::Char);
                let too_long = matches!(error, SchemaError::TextTooLong { .. });
                prop_assert!(too_long);
            }
        }
    }
}
