//! `libmmsb/include/mmsb.h` is what this crate says: generated anew, it is the file that is committed.
//!
//! `MMSB_UPDATE=1 cargo test -p libmmsb-c --test header` writes it.

use cbindgen::{Builder, Config, DocumentationStyle, EnumConfig, Language, LineEndingStyle, Style};

const INTRO: &str = "\
/*
 * MMSB, the Memory-Mapped State Bus: the C ABI of libmmsb. Generated from libmmsb/capi: do not edit.
 *
 *     cc program.c $(pkg-config --cflags --libs mmsb)
 *
 * Every function returns a status: MMSB_OK (0), MMSB_NOTHING (1) or a negative number; mmsb_last_error() then says in
 * words what is wrong and what to do. Results come through pointers, and are not touched by a call that fails; but a
 * buffer of bytes may be, and the size needed is told with MMSB_TOO_SMALL.
 *
 * Handles are numbers in structs. A handle that is null, closed, of another kind or another thread's is an error, never a
 * crash. A bus and everything that came from it belongs to the thread that uses it first, until that thread ends; open
 * one for each thread with mmsb_bus_another, or pass MMSB_SERIALISED and let the threads take turns. What a call may be
 * made by is said at each function; none may be made by a signal handler. mmsb_bus_close closes everything that came from
 * the bus. There are no settings of the process as a whole: two libraries in one program can't get in each other's way.
 *
 * Structs that begin with struct_size: set it to sizeof, and the rest of options to 0 (or use MMSB_..._INIT); a library of
 * another version then knows what the program knows. Text is UTF-8 with a NUL at its end. Times are in nanoseconds.
 *
 * After fork the child may not use buses of the parent, nor what came from them (MMSB_FORKED): it opens its own.
 */

#ifndef MMSB_H
#define MMSB_H";

const MACROS: &str = "
/** Options as they are by default: mmsb_bus_options o = MMSB_BUS_OPTIONS_INIT; o.source = \"feed\"; */
#ifdef __cplusplus
#define MMSB_BUS_OPTIONS_INIT mmsb_detail::bus_options()
#define MMSB_INIT(type) mmsb_detail::sized<type>()
namespace mmsb_detail {
template <typename T> inline T sized() {
  T value = T();
  value.struct_size = static_cast<uint32_t>(sizeof(T));
  return value;
}
inline mmsb_bus_options bus_options() {
  mmsb_bus_options options = sized<mmsb_bus_options>();
  options.abi = MMSB_ABI_VERSION;
  return options;
}
} // namespace mmsb_detail
#else
#define MMSB_BUS_OPTIONS_INIT {.struct_size = sizeof(mmsb_bus_options), .abi = MMSB_ABI_VERSION}
/** Any other struct that begins with its size: mmsb_event event = MMSB_INIT(mmsb_event); */
#define MMSB_INIT(type) ((type){.struct_size = sizeof(type)})
#endif
#define MMSB_PAGE_OPTIONS_INIT MMSB_INIT(mmsb_page_options)
#define MMSB_SUBSCRIBE_OPTIONS_INIT MMSB_INIT(mmsb_subscribe_options)

#endif /* MMSB_H */
";

fn generate() -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    let config = Config {
        language: Language::C,
        cpp_compat: true,
        style: Style::Both,
        // With the guard, which is to be around the macros at the end too.
        header: Some(INTRO.to_owned()),
        trailer: Some(MACROS.to_owned()),
        no_includes: true,
        sys_includes: vec!["stddef.h".to_owned(), "stdint.h".to_owned()],
        usize_is_size_t: true,
        line_endings: LineEndingStyle::LF,
        documentation_style: DocumentationStyle::Doxy,
        line_length: 120,
        enumeration: EnumConfig::default(),
        ..Config::default()
    };
    let mut builder = Builder::new().with_config(config);
    // In the order in which somebody reads them.
    for file in [
        "args",
        "status",
        "info",
        "attach",
        "about",
        "list",
        "page",
        "field",
        "many",
        "loan",
        "subscribe",
        "durable",
        "history",
    ] {
        builder = builder.with_src(format!("{root}/src/{file}.rs"));
    }
    let mut text = Vec::new();
    builder
        .generate()
        .expect("the sources parse")
        .write(&mut text);
    String::from_utf8(text).expect("UTF-8")
}

#[test]
fn the_committed_header_is_the_generated_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../include/mmsb.h");
    let generated = generate();
    if std::env::var_os("MMSB_UPDATE").is_some() {
        std::fs::write(path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    if committed != generated {
        let line = committed
            .lines()
            .zip(generated.lines())
            .position(|(a, b)| a != b);
        let at = line.unwrap_or_else(|| committed.lines().count().min(generated.lines().count()));
        panic!(
            "include/mmsb.h is not what libmmsb/capi says, from line {} on: {:?} is to be {:?}; write it with \
             MMSB_UPDATE=1 cargo test -p libmmsb-c --test header",
            at + 1,
            committed.lines().nth(at),
            generated.lines().nth(at)
        );
    }
}
