//! Prints JSON for programs: one document for people to look at, or one line per value for a stream.

use std::io::{self, Write};

use serde_json::Value;

/// How a value is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Indented, over several lines.
    Pretty,
    /// One line without spaces, so that a reader can split a stream at newlines.
    Line,
}

/// Writes `value` and a newline.
///
/// # Errors
///
/// What writing to `out` gave, such as a broken pipe.
pub fn print(out: &mut dyn Write, value: &Value, layout: Layout) -> io::Result<()> {
    // Serialising a `Value` fails only where writing does, and the conversion keeps that error's kind.
    match layout {
        Layout::Pretty => serde_json::to_writer_pretty(&mut *out, value)?,
        Layout::Line => serde_json::to_writer(&mut *out, value)?,
    }
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn printed(value: &Value, layout: Layout) -> String {
        let mut out = Vec::new();
        print(&mut out, value, layout).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_is_one_line_even_with_newlines_in_it() {
        let value = json!({"name": "a\nb", "lsn": u64::MAX});
        assert_eq!(
            printed(&value, Layout::Line),
            "{\"lsn\":18446744073709551615,\"name\":\"a\\nb\"}\n"
        );
        assert_eq!(printed(&json!([1]), Layout::Pretty), "[\n  1\n]\n");
    }

    #[test]
    fn a_closed_pipe_is_reported_as_one() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = print(&mut Closed, &json!([1, 2]), Layout::Line).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
