//! JSON in and out. `tojson` is what transformers defines: Python's json.dumps(ensure_ascii=False),
//! which writes ", " and ": " and escapes no HTML.

use crate::calls::Arguments;
use crate::operators::check_output;
use crate::text::{Origin, Text, TextBuilder, TEMPLATE};
use crate::value::{float_text, problem, Fuel, ListKind, Map, Outcome, Value};

const MAX_INDENT: i128 = 16;

/// A value whose every string is from `origin`.
pub fn from_json(json: &serde_json::Value, origin: Origin) -> Outcome<Value> {
    Ok(match json {
        serde_json::Value::Null => Value::None,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Value::Int(i128::from(value)),
            (None, Some(value)) => Value::Int(i128::from(value)),
            _ => Value::Float(number.as_f64().unwrap_or(0.0)),
        },
        serde_json::Value::String(text) => Value::Str(Text::new(text, origin)),
        serde_json::Value::Array(items) => {
            Value::list(items.iter().map(|item| from_json(item, origin)).collect::<Outcome<_>>()?)?
        }
        serde_json::Value::Object(items) => {
            let pair = |(key, value): (&String, &serde_json::Value)| {
                Ok((Text::new(key, origin), from_json(value, origin)?))
            };
            Value::map(items.iter().map(pair).collect::<Outcome<_>>()?)?
        }
    })
}

struct Style {
    /// Blanks per level; none: all on one line.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    ascii: bool,
    sorts_keys: bool,
}

pub fn to_json(value: &Value, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    let ascii = arguments.take(0, "ensure_ascii").is_some_and(|value| value.is_true());
    let indent = match arguments.take(1, "indent") {
        None | Some(Value::None) => None,
        Some(Value::Str(text)) => Some(text.as_str().to_string()),
        Some(other) => match other.as_int() {
            Some(width) if width <= MAX_INDENT => Some(" ".repeat(width.max(0) as usize)),
            _ => return problem(format!("tojson: indent is not a number in [0, {MAX_INDENT}]")),
        },
    };
    let separators = arguments.take(2, "separators");
    let sorts_keys = arguments.take(3, "sort_keys").is_some_and(|value| value.is_true());
    arguments.finish(4)?;
    let (item_separator, key_separator) = match separators {
        None | Some(Value::None) if indent.is_some() => (",".to_string(), ": ".to_string()),
        None | Some(Value::None) => (", ".to_string(), ": ".to_string()),
        Some(separators) => pair_of(&separators)?,
    };
    let style = Style { indent, item_separator, key_separator, ascii, sorts_keys };
    let mut out = TextBuilder::default();
    write(value, &style, 0, TEMPLATE, &mut out, fuel)?;
    fuel.make(out.len())?;
    Ok(Value::Str(out.finish()))
}

fn pair_of(separators: &Value) -> Outcome<(String, String)> {
    if let Value::List(list) = separators {
        if let [Value::Str(item), Value::Str(key)] = &list.items[..] {
            return Ok((item.as_str().to_string(), key.as_str().to_string()));
        }
    }
    problem("tojson: separators is no pair of str")
}

/// What stands between strings belongs to whom the strings beside it belong.
fn write(
    value: &Value,
    style: &Style,
    level: usize,
    origin: Origin,
    out: &mut TextBuilder,
    fuel: &Fuel,
) -> Outcome<()> {
    fuel.step(1)?;
    match value {
        Value::None => out.push_str("null", origin),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }, origin),
        Value::Int(value) => out.push_str(&value.to_string(), origin),
        Value::Float(value) => out.push_str(&json_float(*value), origin),
        Value::Str(text) | Value::Safe(text) => {
            fuel.make(text.len())?;
            out.push_str(&quoted(text.as_str(), style.ascii), own(text, origin));
            check_output(out.len())?;
        }
        Value::List(list) if !matches!(list.kind, ListKind::List | ListKind::Tuple) => {
            return problem(format!(
                "Object of type {} is not JSON serializable",
                value.type_name()
            ));
        }
        Value::List(list) if list.items.is_empty() => out.push_str("[]", origin),
        Value::List(list) => {
            let inner = list.items.iter().find_map(origin_of).unwrap_or(origin);
            out.push_str("[", inner);
            for (index, item) in list.items.iter().enumerate() {
                separate(style, level + 1, index > 0, inner, out, fuel)?;
                write(item, style, level + 1, inner, out, fuel)?;
            }
            end_level(style, level, inner, out);
            out.push_str("]", inner);
        }
        Value::Map(map) if map.items.is_empty() => out.push_str("{}", origin),
        Value::Map(map) => return write_map(map, style, level, origin, out, fuel),
        other => {
            return problem(format!(
                "Object of type {} is not JSON serializable",
                other.type_name()
            ))
        }
    }
    Ok(())
}

fn write_map(
    map: &Map,
    style: &Style,
    level: usize,
    origin: Origin,
    out: &mut TextBuilder,
    fuel: &Fuel,
) -> Outcome<()> {
    let mut items: Vec<&(Text, Value)> = map.items.iter().collect();
    if style.sorts_keys {
        items.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
    }
    let inner = items.first().map_or(origin, |(key, _)| own(key, origin));
    out.push_str("{", inner);
    for (index, (key, value)) in items.into_iter().enumerate() {
        separate(style, level + 1, index > 0, inner, out, fuel)?;
        fuel.make(key.len() + style.key_separator.len())?;
        out.push_str(&quoted(key.as_str(), style.ascii), own(key, inner));
        out.push_str(&style.key_separator, inner);
        write(value, style, level + 1, inner, out, fuel)?;
    }
    end_level(style, level, inner, out);
    out.push_str("}", inner);
    Ok(())
}

fn separate(
    style: &Style,
    level: usize,
    is_later: bool,
    origin: Origin,
    out: &mut TextBuilder,
    fuel: &Fuel,
) -> Outcome<()> {
    check_output(out.len())?;
    if is_later {
        fuel.make(style.item_separator.len())?;
        out.push_str(&style.item_separator, origin);
    }
    if let Some(indent) = &style.indent {
        fuel.make(indent.len() * level + 1)?;
        out.push_str(&format!("\n{}", indent.repeat(level)), origin);
    }
    Ok(())
}

fn end_level(style: &Style, level: usize, origin: Origin, out: &mut TextBuilder) {
    if let Some(indent) = &style.indent {
        out.push_str(&format!("\n{}", indent.repeat(level)), origin);
    }
}

fn own(text: &Text, otherwise: Origin) -> Origin {
    if text.first_origin() == TEMPLATE {
        otherwise
    } else {
        text.first_origin()
    }
}

/// Of the first string in it, if that is not the template's.
fn origin_of(value: &Value) -> Option<Origin> {
    let text = match value {
        Value::Str(text) => Some(text),
        Value::Map(map) => map.items.first().map(|(key, _)| key),
        Value::List(list) => return list.items.first().and_then(origin_of),
        _ => None,
    };
    text.map(Text::first_origin).filter(|origin| *origin != TEMPLATE)
}

fn json_float(value: f64) -> String {
    match float_text(value).as_str() {
        "nan" => "NaN".to_string(),
        "inf" => "Infinity".to_string(),
        "-inf" => "-Infinity".to_string(),
        text => text.to_string(),
    }
}

fn quoted(text: &str, ascii: bool) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c if ascii && (c == '\x7f' || !c.is_ascii()) => {
                let mut units = [0; 2];
                c.encode_utf16(&mut units)
                    .iter()
                    .for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
