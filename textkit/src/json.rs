//! The `tojson` filter as transformers defines it: Python's json.dumps(ensure_ascii=False), which
//! writes ", " and ": " and escapes no HTML.

use std::io::{self, Write};

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

const MAX_INDENT: usize = 16;

struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

pub fn to_json(value: &Value, indent: Option<usize>, kwargs: Kwargs) -> Result<Value, Error> {
    let indent = indent.or(kwargs.get("indent")?);
    // Templates pass it to be sure; it is the only way we write.
    let _: Option<bool> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;
    let mut bytes = Vec::new();
    match indent {
        Some(width) if width > MAX_INDENT => {
            let detail = format!("tojson: indent is {width}; allowed are 0 to {MAX_INDENT}");
            return Err(Error::new(ErrorKind::InvalidOperation, detail));
        }
        Some(width) => {
            let blanks = " ".repeat(width);
            let formatter = PrettyFormatter::with_indent(blanks.as_bytes());
            write(value, &mut Serializer::with_formatter(&mut bytes, formatter))?;
        }
        None => write(value, &mut Serializer::with_formatter(&mut bytes, PythonFormatter))?,
    }
    let text = String::from_utf8(bytes).map_err(|e| fault(e.to_string()))?;
    Ok(Value::from(text))
}

fn write<W: Write, F: Formatter>(value: &Value, out: &mut Serializer<W, F>) -> Result<(), Error> {
    value.serialize(out).map_err(|e| fault(e.to_string()))
}

fn fault(text: String) -> Error {
    Error::new(ErrorKind::BadSerialization, format!("tojson: {text}"))
}
