//! The filters and tests of jinja2 that chat templates use.

use crate::ast::Comparison;
use crate::calls::{pairs, Arguments};
use crate::json;
use crate::operators::{attribute, compare, contains, iterate, join, length};
use crate::strings;
use crate::text::{is_space, Text};
use crate::value::{problem, Fuel, Outcome, Value};

const FILTERS: &str =
    "abs, capitalize, count, d, default, dictsort, first, float, indent, int, items, \
                       join, last, length, list, lower, lstrip, map, max, min, reject, rejectattr, \
                       replace, reverse, round, rstrip, select, selectattr, sort, string, sum, \
                       title, tojson, trim, unique, upper";
const TESTS: &str = "boolean, callable, defined, divisibleby, eq, even, false, float, ge, gt, in, \
                     integer, iterable, le, lower, lt, mapping, ne, none, number, odd, sameas, \
                     sequence, string, true, undefined, upper";

pub fn apply_filter(value: Value, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    let name = arguments.name.clone();
    match name.as_str() {
        "default" | "d" => {
            let other = arguments.take(0, "default_value").unwrap_or_else(|| Value::text(""));
            let also_false = arguments.take(1, "boolean").is_some_and(|value| value.is_true());
            arguments.finish(2)?;
            let is_missing = value.is_undefined() || (also_false && !value.is_true());
            Ok(if is_missing { other } else { value })
        }
        "tojson" => json::to_json(&value, arguments, fuel),
        "trim" | "lstrip" | "rstrip" | "upper" | "lower" | "title" | "capitalize" | "replace"
        | "string" | "indent" => text_filter(&value.to_text(fuel)?, arguments, fuel),
        "map" | "select" | "reject" | "selectattr" | "rejectattr" => each(&value, arguments, fuel),
        "length" | "count" => {
            arguments.finish(0)?;
            Ok(Value::Int(length(&value, fuel)? as i128))
        }
        "int" | "float" | "abs" | "round" => number_filter(&value, arguments),
        "join" => {
            let separator = arguments.take_text(0, "d")?.unwrap_or_else(|| Text::template(""));
            let key = arguments.take(1, "attribute");
            arguments.finish(2)?;
            let mut items = iterate(&value, fuel)?;
            if let Some(key) = key {
                items = items.iter().map(|item| path(item, &key, fuel)).collect::<Outcome<_>>()?;
            }
            join(&items, &separator, fuel).map(Value::Str)
        }
        _ => sequence_filter(&value, arguments, fuel),
    }
}

fn text_filter(text: &Text, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    let name = arguments.name.clone();
    fuel.make(text.len())?;
    match name.as_str() {
        "trim" | "lstrip" | "rstrip" => {
            let chars = arguments.take_text(0, "chars")?;
            arguments.finish(1)?;
            let which = if name == "trim" { "strip" } else { &name };
            Ok(Value::Str(strings::strip(text, which, chars.as_ref())))
        }
        "replace" => {
            let (from, to) = (arguments.need_text(0, "old")?, arguments.need_text(1, "new")?);
            let most = arguments.take_int(2, "count")?;
            arguments.finish(3)?;
            strings::replace(text, &from, &to, most.map_or(usize::MAX, |n| n.max(0) as usize), fuel)
        }
        "indent" => indent(text, arguments, fuel),
        "string" => {
            arguments.finish(0)?;
            Ok(Value::Str(text.clone()))
        }
        _ => {
            arguments.finish(0)?;
            Ok(Value::Str(strings::change_case(text, &name)))
        }
    }
}

fn indent(text: &Text, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    let width = match arguments.take(0, "width") {
        None => " ".repeat(4),
        Some(Value::Str(text)) => text.as_str().to_string(),
        Some(other) => " ".repeat(other.as_int().unwrap_or(4).clamp(0, 1000) as usize),
    };
    let first = arguments.take(1, "first").is_some_and(|value| value.is_true());
    let blank = arguments.take(2, "blank").is_some_and(|value| value.is_true());
    arguments.finish(3)?;
    let lines = text.as_str().matches('\n').count() + 1;
    fuel.make(text.len().saturating_add(lines.saturating_mul(width.len())))?;
    let (mut is_line_start, mut is_first) = (true, true);
    let mut chars = text.as_str().chars().peekable();
    let out = text.map_chars(|c, out| {
        chars.next();
        let wanted = is_line_start && (!is_first || first) && (c != '\n' || blank);
        if wanted {
            out.push_str(&width);
        }
        out.push(c);
        is_line_start = c == '\n';
        is_first = is_first && c != '\n';
    });
    Ok(Value::Str(out))
}

fn number_filter(value: &Value, mut arguments: Arguments) -> Outcome<Value> {
    let name = arguments.name.clone();
    let given = arguments.take(0, "default");
    match name.as_str() {
        "int" => {
            arguments.finish(1)?;
            let parsed = value.as_str().and_then(|text| {
                let text = text.trim_matches(is_space);
                text.parse::<i128>().ok().or_else(|| text.parse::<f64>().ok().map(|n| n as i128))
            });
            let number = value.as_int().or(parsed).or(value.as_float().map(|n| n as i128));
            Ok(number.map_or(given.unwrap_or(Value::Int(0)), Value::Int))
        }
        "float" => {
            arguments.finish(1)?;
            let parsed = value.as_str().and_then(|text| text.trim_matches(is_space).parse().ok());
            let number = value.as_float().or(parsed);
            Ok(number.map_or(given.unwrap_or(Value::Float(0.0)), Value::Float))
        }
        "round" => {
            let digits = given.as_ref().and_then(Value::as_int).unwrap_or(0).clamp(-15, 15) as i32;
            arguments.finish(1)?;
            let Some(number) = value.as_float() else {
                return problem(format!("round: got a {}; must be a number", value.type_name()));
            };
            let scale = 10_f64.powi(digits);
            Ok(Value::Float((number * scale).round_ties_even() / scale))
        }
        _ => match value {
            Value::Float(number) => Ok(Value::Float(number.abs())),
            _ => match value.as_int() {
                Some(number) => Ok(Value::Int(number.abs())),
                None => problem(format!("abs: got a {}; must be a number", value.type_name())),
            },
        },
    }
}

fn sequence_filter(value: &Value, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    let name = arguments.name.clone();
    match name.as_str() {
        "items" if value.is_undefined() => Value::list(Vec::new()),
        "items" => pairs(value, "items"),
        "list" => Value::list(iterate(value, fuel)?),
        "first" => Ok(iterate(value, fuel)?
            .into_iter()
            .next()
            .unwrap_or_else(|| Value::undefined("first"))),
        "last" => Ok(iterate(value, fuel)?.pop().unwrap_or_else(|| Value::undefined("last"))),
        "reverse" => {
            let mut items = iterate(value, fuel)?;
            items.reverse();
            match value {
                Value::Str(_) => join(&items, &Text::template(""), fuel).map(Value::Str),
                _ => Value::list(items),
            }
        }
        "unique" => {
            let mut kept: Vec<Value> = Vec::new();
            for item in iterate(value, fuel)? {
                let list = Value::list(kept.clone())?;
                if !contains(&list, &item, fuel)? {
                    kept.push(item);
                }
            }
            Value::list(kept)
        }
        "sum" => {
            let start = Value::Int(0);
            iterate(value, fuel)?.iter().try_fold(start, |sum, item| {
                crate::operators::binary(crate::ast::Operator::Add, &sum, item, fuel)
            })
        }
        "sort" | "dictsort" | "min" | "max" => sorted(value, &mut arguments, fuel),
        // jinja2's `safe` and `escape` make every string that is joined to theirs HTML.
        _ => problem(format!("filter '{name}' is not supported; supported are {FILTERS}")),
    }
}

fn sorted(value: &Value, arguments: &mut Arguments, fuel: &Fuel) -> Outcome<Value> {
    let name = arguments.name.clone();
    let is_reversed = match name.as_str() {
        "sort" => arguments.take(0, "reverse").is_some_and(|value| value.is_true()),
        _ => false,
    };
    let key = arguments.take(2, "attribute");
    let items = match name.as_str() {
        "dictsort" => iterate(&pairs(value, "items")?, fuel)?,
        _ => iterate(value, fuel)?,
    };
    let mut keyed = Vec::new();
    for item in items {
        let by = match (&key, name.as_str()) {
            (Some(key), _) => path(&item, key, fuel)?,
            (None, "dictsort") => path(&item, &Value::Int(0), fuel)?,
            _ => item.clone(),
        };
        keyed.push((folded(by), item));
    }
    fuel.step(keyed.len() * 16)?;
    let mut fault = None;
    keyed.sort_by(|(a, _), (b, _)| {
        let order = a.compare(b).unwrap_or_else(|found| {
            fault = Some(found);
            std::cmp::Ordering::Equal
        });
        if is_reversed {
            order.reverse()
        } else {
            order
        }
    });
    if let Some(fault) = fault {
        return Err(fault);
    }
    let mut items: Vec<Value> = keyed.into_iter().map(|(_, item)| item).collect();
    let at = |item: Option<Value>| item.unwrap_or_else(|| Value::undefined("an item of nothing"));
    match name.as_str() {
        "min" => Ok(at(items.into_iter().next())),
        "max" => Ok(at(items.pop())),
        _ => Value::list(items),
    }
}

/// jinja2 sorts without regard to case.
fn folded(value: Value) -> Value {
    match value {
        Value::Str(text) => Value::Str(strings::change_case(&text, "lower")),
        other => other,
    }
}

/// `a.b.0`: an attribute, an item, or a way of several.
fn path(value: &Value, key: &Value, fuel: &Fuel) -> Outcome<Value> {
    let Some(names) = key.as_str() else { return crate::operators::item(value, key, fuel) };
    names.split('.').try_fold(value.clone(), |value, name| match name.parse::<i128>() {
        Ok(index) => crate::operators::item(&value, &Value::Int(index), fuel),
        Err(_) => attribute(&value, name, fuel),
    })
}

/// map, select, reject and their kin for attributes.
fn each(value: &Value, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    let name = arguments.name.clone();
    // jinja2 takes None for nothing here.
    let items = if value.is_true() { iterate(value, fuel)? } else { Vec::new() };
    if name == "map" {
        if let Some(key) = arguments.take(usize::MAX, "attribute") {
            let other = arguments.take(usize::MAX, "default");
            arguments.finish(0)?;
            let value_of = |item: &Value| {
                let found = path(item, &key, fuel)?;
                Ok(if found.is_undefined() { other.clone().unwrap_or(found) } else { found })
            };
            return Value::list(items.iter().map(value_of).collect::<Outcome<Vec<Value>>>()?);
        }
    }
    let key = if name.ends_with("attr") { arguments.take(0, "attribute") } else { None };
    let callee = arguments.take(usize::from(key.is_some()), "name");
    let callee = callee.map(|value| value.to_text(fuel)).transpose()?;
    let (rest, named) = (arguments.take_rest(), arguments.take_named());
    let call = |default: &str| {
        let callee = callee.as_ref().map_or(default, |text| text.as_str());
        Arguments::new(callee, rest.clone(), named.clone())
    };
    let mut out = Vec::new();
    for item in items {
        fuel.step(1)?;
        if name == "map" {
            out.push(apply_filter(item, call(""), fuel)?);
            continue;
        }
        let looked_at = key.as_ref().map_or(Ok(item.clone()), |key| path(&item, key, fuel))?;
        let holds = apply_test(&looked_at, call("true_value"), fuel)?;
        if holds != name.starts_with("reject") {
            out.push(item);
        }
    }
    Value::list(out)
}

pub fn apply_test(value: &Value, mut arguments: Arguments, fuel: &Fuel) -> Outcome<bool> {
    let name = arguments.name.clone();
    let other = arguments.take(0, "other");
    arguments.finish(1)?;
    let is_case = |text: &str, is: fn(char) -> bool, not: fn(char) -> bool| {
        text.chars().any(is) && !text.chars().any(not)
    };
    Ok(match name.as_str() {
        "true_value" => value.is_true(),
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "none" => matches!(value, Value::None),
        "string" => matches!(value, Value::Str(_)),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
        "mapping" => matches!(value, Value::Map(_)),
        "sequence" | "iterable" => {
            matches!(value, Value::Str(_) | Value::List(_) | Value::Map(_) | Value::Undefined(_))
        }
        "callable" => matches!(value, Value::Macro(_) | Value::Function(_)),
        "upper" => {
            value.as_str().is_some_and(|t| is_case(t, char::is_uppercase, char::is_lowercase))
        }
        "lower" => {
            value.as_str().is_some_and(|t| is_case(t, char::is_lowercase, char::is_uppercase))
        }
        "odd" | "even" => match value.as_int() {
            Some(number) => (number.rem_euclid(2) == 1) == (name == "odd"),
            None => return problem(format!("{name}: got a {}; must be an int", value.type_name())),
        },
        _ => return two_sided_test(&name, value, other, fuel),
    })
}

fn two_sided_test(name: &str, value: &Value, other: Option<Value>, fuel: &Fuel) -> Outcome<bool> {
    let comparison = match name {
        "eq" | "equalto" | "==" | "sameas" => Comparison::Equal,
        "ne" | "!=" => Comparison::NotEqual,
        "lt" | "<" | "lessthan" => Comparison::Less,
        "le" | "<=" => Comparison::LessOrEqual,
        "gt" | ">" | "greaterthan" => Comparison::Greater,
        "ge" | ">=" => Comparison::GreaterOrEqual,
        "in" => Comparison::In,
        "divisibleby" => {
            let parts = value.as_int().zip(other.as_ref().and_then(Value::as_int));
            return match parts {
                Some((number, by)) if by != 0 => Ok(number % by == 0),
                _ => problem("divisibleby: needs two whole numbers, the second not 0"),
            };
        }
        _ => return problem(format!("test '{name}' is not supported; supported are {TESTS}")),
    };
    let Some(other) = other else { return problem(format!("{name}: needs an argument")) };
    compare(comparison, value, &other, fuel)
}
