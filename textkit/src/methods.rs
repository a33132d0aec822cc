//! Which methods the types of Python have: with a dot jinja2 finds them before the entries of a dict,
//! with brackets after them.

use crate::value::{problem, ListKind, Outcome, Value};

pub enum Found {
    Method(&'static str),
    /// There is one, but a template may not see it: it would change the value.
    Hidden,
    Nothing,
}

const STR: &str =
    "capitalize casefold center count encode endswith expandtabs find format format_map index \
    isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable \
    isspace istitle isupper join ljust lower lstrip maketrans partition removeprefix \
    removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines \
    startswith strip swapcase title translate upper zfill";
const DICT: &str = "copy fromkeys get items keys values";
const DICT_HIDDEN: &str = "clear pop popitem setdefault update";
const LIST: &str = "copy count index";
const LIST_HIDDEN: &str = "append clear extend insert pop remove reverse sort";
const TUPLE: &str = "count index";
const NUMBER: &str =
    "as_integer_ratio bit_count bit_length conjugate denominator from_bytes fromhex hex imag \
    is_integer numerator real to_bytes";

/// A problem for the attributes that Python has and this has not.
pub fn find(value: &Value, name: &str) -> Outcome<Found> {
    let (shown, hidden) = match value {
        Value::Str(_) | Value::Safe(_) => (STR, ""),
        Value::Map(_) => (DICT, DICT_HIDDEN),
        Value::List(list) => match list.kind {
            ListKind::List => (LIST, LIST_HIDDEN),
            ListKind::Tuple | ListKind::Range => (TUPLE, ""),
            _ => ("", ""),
        },
        Value::Int(_) | Value::Float(_) | Value::Bool(_) if has(NUMBER, name) => {
            return problem(format!("{}.{name} is not supported", value.type_name()));
        }
        Value::Macro { .. } => {
            return problem(format!("macro.{name} is not supported"));
        }
        _ => ("", ""),
    };
    if let Some(found) = shown.split(' ').find(|known| *known == name) {
        return Ok(Found::Method(found));
    }
    Ok(if has(hidden, name) { Found::Hidden } else { Found::Nothing })
}

fn has(names: &str, name: &str) -> bool {
    names.split(' ').any(|known| known == name)
}
