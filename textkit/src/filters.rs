//! The filters and tests of jinja2 that chat templates use.

use std::cmp::Ordering;

use crate::ast::{Comparison, Operator};
use crate::calls::{pairs, Arguments};
use crate::json;
use crate::numbers::number_filter;
use crate::operators::{arithmetic, binary, compare, escape_html, item, iterate, join, length};
use crate::strings;
use crate::text::{Text, TextBuilder};
use crate::value::{problem, Fuel, Outcome, Value};

const FILTERS: &str =
    "abs, capitalize, count, d, default, dictsort, e, escape, first, float, indent, int, items, \
     join, last, length, list, lower, map, max, min, reject, rejectattr, replace, reverse, round, \
     safe, select, selectattr, sort, string, sum, title, tojson, trim, unique, upper";
const TESTS: &str =
    "boolean, callable, defined, divisibleby, eq, escaped, even, false, float, ge, gt, in, \
     integer, iterable, le, lower, lt, mapping, ne, none, number, odd, sameas, sequence, string, \
     true, undefined, upper";

const TESTS_OF_TWO: &str = "eq equalto == ne != lt < lessthan le <= gt > greaterthan ge >= in \
                            sameas divisibleby";

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
        "safe" => {
            arguments.finish(0)?;
            value.to_text(fuel).map(Value::Safe)
        }
        "escape" | "e" => {
            arguments.finish(0)?;
            match value {
                Value::Safe(_) => Ok(value),
                _ => escape_html(&value.to_text(fuel)?, fuel).map(Value::Safe),
            }
        }
        "replace" => replace(&value, arguments, fuel),
        "indent" | "trim" | "upper" | "lower" | "title" | "capitalize" | "string" => {
            let changed = text_filter(&value, arguments, fuel)?;
            // What was made from a string of `safe` is one too.
            Ok(if matches!(value, Value::Safe(_)) {
                Value::Safe(changed)
            } else {
                Value::Str(changed)
            })
        }
        "map" | "select" | "reject" | "selectattr" | "rejectattr" => each(&value, arguments, fuel),
        "length" | "count" => {
            arguments.finish(0)?;
            Ok(Value::Int(length(&value, fuel)? as i128))
        }
        "int" | "float" | "abs" | "round" => number_filter(&value, arguments),
        "join" => {
            let separator = match arguments.take(0, "d") {
                Some(separator) => separator.to_text(fuel)?,
                None => Text::template(""),
            };
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

fn replace(value: &Value, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    let (Some(from), Some(to)) = (arguments.take(0, "old"), arguments.take(1, "new")) else {
        return problem("replace: needs the arguments 'old' and 'new'");
    };
    let most = arguments.take_int(2, "count")?.filter(|most| *most >= 0);
    arguments.finish(3)?;
    let most = most.map_or(usize::MAX, |most| most.min(1 << 40) as usize);
    strings::replace(&value.to_text(fuel)?, &from.to_text(fuel)?, &to.to_text(fuel)?, most, fuel)
}

fn text_filter(value: &Value, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Text> {
    let name = arguments.name.clone();
    let text = value.to_text(fuel)?;
    fuel.copy(&text)?;
    match name.as_str() {
        "trim" => {
            let chars = arguments.take_text(0, "chars")?;
            arguments.finish(1)?;
            strings::strip(&text, "strip", chars.as_ref(), fuel)
        }
        "indent" if value.as_str().is_none() => {
            problem(format!("indent: got a {}; must be a str", value.type_name()))
        }
        "indent" => indent(&text, arguments, fuel),
        "string" => arguments.finish(0).map(|()| text),
        _ => {
            arguments.finish(0)?;
            let case = if name == "title" { "title filter" } else { &name };
            Ok(strings::change_case(&text, case))
        }
    }
}

/// Line breaks of every kind become plain ones.
fn indent(text: &Text, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Text> {
    let width = match arguments.take(0, "width") {
        None => " ".repeat(4),
        Some(Value::Str(text)) => text.as_str().to_string(),
        Some(other) => match other.as_int() {
            Some(width) => " ".repeat(width.clamp(0, 1000) as usize),
            None => return problem(format!("indent: width is a {}", other.type_name())),
        },
    };
    let width = Text::template(&width);
    let first = arguments.take(1, "first").is_some_and(|value| value.is_true());
    let blank = arguments.take(2, "blank").is_some_and(|value| value.is_true());
    arguments.finish(3)?;
    let mut lines = strings::lines(text.as_str(), false);
    if text.is_empty() || text.as_str().ends_with(strings::is_break) {
        lines.push(&text.as_str()[text.len()..]);
    }
    fuel.step(lines.len().saturating_mul(text.runs().len().max(1)))?;
    fuel.make(text.len().saturating_add(lines.len().saturating_mul(width.len() + 1)))?;
    let mut out = TextBuilder::default();
    for (index, line) in lines.into_iter().enumerate() {
        if index > 0 {
            out.push(&Text::template("\n"));
        }
        if (index == 0 && first) || (index > 0 && (blank || !line.is_empty())) {
            out.push(&width);
        }
        out.push(&text.part(line));
    }
    Ok(out.finish())
}

fn sequence_filter(value: &Value, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    let name = arguments.name.clone();
    match name.as_str() {
        "sum" => return sum(value, arguments, fuel),
        "unique" => return unique(value, arguments, fuel),
        "sort" | "dictsort" | "min" | "max" => return sorted(value, &mut arguments, fuel),
        "items" | "list" | "first" | "last" | "reverse" => arguments.finish(0)?,
        _ => return problem(format!("filter '{name}' is not supported; supported are {FILTERS}")),
    }
    match (name.as_str(), value) {
        ("items", Value::Undefined(_)) => Value::iterator(Vec::new()),
        ("items", _) => Value::iterator(iterate(&pairs(value, "items", fuel)?, fuel)?),
        ("list", _) => Value::list(iterate(value, fuel)?),
        ("first", Value::Iterator(items)) => {
            Ok(items.borrow_mut().pop_front().unwrap_or_else(|| Value::undefined("first")))
        }
        ("first", _) => {
            let first = iterate(value, fuel)?.into_iter().next();
            Ok(first.unwrap_or_else(|| Value::undefined("first")))
        }
        ("last", Value::Iterator(_)) => problem("last: got a generator; make it a list"),
        ("last", _) => Ok(iterate(value, fuel)?.pop().unwrap_or_else(|| Value::undefined("last"))),
        _ => {
            let mut items = iterate(value, fuel)?;
            items.reverse();
            match value {
                Value::Str(_) | Value::Safe(_) => {
                    join(&items, &Text::template(""), fuel).map(Value::Str)
                }
                Value::Iterator(_) => Value::list(items),
                _ => Value::iterator(items),
            }
        }
    }
}

fn sum(value: &Value, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    let key = arguments.take(0, "attribute").filter(|key| !matches!(key, Value::None));
    let start = arguments.take(1, "start").unwrap_or(Value::Int(0));
    arguments.finish(2)?;
    if start.as_str().is_some() {
        return problem("sum: cannot sum str");
    }
    iterate(value, fuel)?.iter().try_fold(start, |sum, item| {
        let item = key.as_ref().map_or(Ok(item.clone()), |key| path(item, key, fuel))?;
        binary(Operator::Add, &sum, &item, fuel)
    })
}

/// By its key of case and attribute, as sort and its kin take them.
fn key_of(
    item: &Value,
    attribute: Option<&Value>,
    is_case_sensitive: bool,
    fuel: &Fuel,
) -> Outcome<Value> {
    let key = attribute.map_or(Ok(item.clone()), |attribute| path(item, attribute, fuel))?;
    Ok(match key {
        Value::Str(text) if !is_case_sensitive => {
            fuel.copy(&text)?;
            Value::Str(strings::change_case(&text, "lower"))
        }
        other => other,
    })
}

fn unique(value: &Value, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    let is_case_sensitive = arguments.take(0, "case_sensitive").is_some_and(|v| v.is_true());
    let attribute = arguments.take(1, "attribute").filter(|key| !matches!(key, Value::None));
    arguments.finish(2)?;
    let mut keys: Vec<Value> = Vec::new();
    let mut kept = Vec::new();
    for item in iterate(value, fuel)? {
        let key = key_of(&item, attribute.as_ref(), is_case_sensitive, fuel)?;
        if !key.is_hashable() {
            return problem(format!("unique: has an item that is a {}", key.type_name()));
        }
        let mut is_new = true;
        for known in &keys {
            if known.equals(&key, fuel)? {
                is_new = false;
                break;
            }
        }
        if is_new {
            keys.push(key);
            kept.push(item);
        }
    }
    Value::iterator(kept)
}

struct Order {
    is_reversed: bool,
    is_case_sensitive: bool,
    attribute: Option<Value>,
}

fn order_of(arguments: &mut Arguments) -> Outcome<Order> {
    let name = arguments.name.clone();
    // sort(reverse, case_sensitive, attribute), dictsort(case_sensitive, by, reverse),
    // min and max(case_sensitive, attribute)
    let (reverse, case, attribute) = match name.as_str() {
        "sort" => (0, 1, 2),
        "dictsort" => (2, 0, usize::MAX),
        _ => (usize::MAX, 0, 1),
    };
    let mut is_set = |index: usize, name: &str| {
        index < 3 && arguments.take(index, name).is_some_and(|value| value.is_true())
    };
    let is_reversed = is_set(reverse, "reverse");
    let is_case_sensitive = is_set(case, "case_sensitive");
    let attribute = match name.as_str() {
        "dictsort" => Some(Value::Int(match arguments.take(1, "by") {
            None => 0,
            Some(by) if by.as_str() == Some("key") => 0,
            Some(by) if by.as_str() == Some("value") => 1,
            Some(_) => return problem("dictsort: 'by' must be 'key' or 'value'"),
        })),
        _ => arguments.take(attribute, "attribute").filter(|key| !matches!(key, Value::None)),
    };
    Ok(Order { is_reversed, is_case_sensitive, attribute })
}

fn sorted(value: &Value, arguments: &mut Arguments, fuel: &Fuel) -> Outcome<Value> {
    let name = arguments.name.clone();
    let order = order_of(arguments)?;
    std::mem::replace(arguments, Arguments::new(&name, Vec::new(), Vec::new())).finish(3)?;
    let items = match name.as_str() {
        "dictsort" => iterate(&pairs(value, "items", fuel)?, fuel)?,
        _ => iterate(value, fuel)?,
    };
    let mut keyed = Vec::new();
    for item in items {
        keyed.push((sort_key(&item, &order, name == "sort", fuel)?, item));
    }
    // The first of several greatest ones, as Python's max().
    let keyed = merge_sorted(keyed, order.is_reversed || name == "max", fuel)?;
    let mut items = keyed.into_iter().map(|(_, item)| item);
    match name.as_str() {
        "min" | "max" => Ok(items.next().unwrap_or_else(|| Value::undefined("an item of nothing"))),
        _ => Value::list(items.collect()),
    }
}

/// Stable. The library's sort panics where an order is none: whole numbers that are equal as floats
/// are not equal to each other, and a NaN is neither before nor after anything.
fn merge_sorted(
    mut left: Vec<(Value, Value)>,
    is_reversed: bool,
    fuel: &Fuel,
) -> Outcome<Vec<(Value, Value)>> {
    if left.len() < 2 {
        return Ok(left);
    }
    let right = left.split_off(left.len() / 2);
    let mut left = merge_sorted(left, is_reversed, fuel)?.into_iter().peekable();
    let mut right = merge_sorted(right, is_reversed, fuel)?.into_iter().peekable();
    let mut out = Vec::with_capacity(left.len() + right.len());
    while let (Some((a, _)), Some((b, _))) = (left.peek(), right.peek()) {
        let before = if is_reversed { Ordering::is_gt } else { Ordering::is_lt };
        let is_right_first = b.compare(a, fuel)?.is_some_and(before);
        out.extend(if is_right_first { right.next() } else { left.next() });
    }
    out.extend(left);
    out.extend(right);
    Ok(out)
}

/// `sort` takes several attributes with commas between them.
fn sort_key(item: &Value, order: &Order, may_be_several: bool, fuel: &Fuel) -> Outcome<Value> {
    let case = order.is_case_sensitive;
    match order.attribute.as_ref().and_then(Value::as_str) {
        Some(names) if may_be_several && names.contains(',') => {
            let keys = names
                .split(',')
                .map(|name| key_of(item, Some(&Value::text(name)), case, fuel))
                .collect::<Outcome<Vec<Value>>>()?;
            Value::list(keys)
        }
        _ => key_of(item, order.attribute.as_ref(), case, fuel),
    }
}

/// `a.b.0`: an item or an attribute, or a way of several.
fn path(value: &Value, key: &Value, fuel: &Fuel) -> Outcome<Value> {
    let Some(names) = key.as_str() else { return item(value, key, fuel) };
    names.split('.').try_fold(value.clone(), |value, name| {
        fuel.step(1)?;
        match name.parse::<i128>() {
            Ok(index) if !name.starts_with(['+', '-']) => item(&value, &Value::Int(index), fuel),
            _ => item(&value, &Value::text(name), fuel),
        }
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
            return Value::iterator(items.iter().map(value_of).collect::<Outcome<Vec<Value>>>()?);
        }
    }
    let key = if name.ends_with("attr") {
        let Some(key) = arguments.take(0, "attribute") else {
            return problem(format!("{name}: needs the name of an attribute"));
        };
        Some(key)
    } else {
        None
    };
    let callee = arguments.take(usize::from(key.is_some()), "name");
    let callee = callee.map(|value| value.to_text(fuel)).transpose()?;
    let (rest, named) = (arguments.take_rest(), arguments.take_named());
    let call = || {
        let callee = callee.as_ref().map_or("", |text| text.as_str());
        Arguments::new(callee, rest.clone(), named.clone())
    };
    let mut out = Vec::new();
    for item in items {
        fuel.step(1)?;
        if name == "map" {
            out.push(apply_filter(item, call(), fuel)?);
            continue;
        }
        let looked_at = key.as_ref().map_or(Ok(item.clone()), |key| path(&item, key, fuel))?;
        let holds = match &callee {
            Some(_) => apply_test(&looked_at, call(), fuel)?,
            None => looked_at.is_true(),
        };
        if holds != name.starts_with("reject") {
            out.push(item);
        }
    }
    Value::iterator(out)
}

pub fn apply_test(value: &Value, mut arguments: Arguments, fuel: &Fuel) -> Outcome<bool> {
    let name = arguments.name.clone();
    let other = arguments.take(0, "other");
    arguments.finish(1)?;
    if other.is_some() && !TESTS_OF_TWO.split(' ').any(|known| known == name) {
        return problem(format!("test '{name}' is not supported with an argument"));
    }
    let is_case = |text: &str, is: fn(char) -> bool, not: fn(char) -> bool| {
        text.chars().any(is) && !text.chars().any(not)
    };
    Ok(match name.as_str() {
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "none" => matches!(value, Value::None),
        "string" => value.as_str().is_some(),
        "escaped" => matches!(value, Value::Safe(_)),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
        "mapping" => matches!(value, Value::Map(_)),
        "iterable" => matches!(
            value,
            Value::Str(_)
                | Value::Safe(_)
                | Value::List(_)
                | Value::Map(_)
                | Value::Iterator(_)
                | Value::Loop(_)
                | Value::Undefined(_)
        ),
        "sequence" => match value {
            Value::List(list) => list.has_places(),
            _ => matches!(
                value,
                Value::Str(_) | Value::Safe(_) | Value::Map(_) | Value::Undefined(_)
            ),
        },
        // Python's Undefined can be called, if only for a fault.
        "callable" => matches!(
            value,
            Value::Macro { .. } | Value::Function(_) | Value::Method(_) | Value::Undefined(_)
        ),
        "upper" => is_case(value.to_text(fuel)?.as_str(), char::is_uppercase, char::is_lowercase),
        "lower" => is_case(value.to_text(fuel)?.as_str(), char::is_lowercase, char::is_uppercase),
        "odd" | "even" => {
            let rest = arithmetic(Operator::Remainder, value, &Value::Int(2))?;
            rest.equals(&Value::Int(i128::from(name == "odd")), fuel)?
        }
        _ => return two_sided_test(&name, value, other, fuel),
    })
}

fn two_sided_test(name: &str, value: &Value, other: Option<Value>, fuel: &Fuel) -> Outcome<bool> {
    let comparison = match name {
        "eq" | "equalto" | "==" => Comparison::Equal,
        "ne" | "!=" => Comparison::NotEqual,
        "lt" | "<" | "lessthan" => Comparison::Less,
        "le" | "<=" => Comparison::LessOrEqual,
        "gt" | ">" | "greaterthan" => Comparison::Greater,
        "ge" | ">=" => Comparison::GreaterOrEqual,
        "in" => Comparison::In,
        "sameas" => {
            let Some(other) = other else { return problem("sameas: needs an argument") };
            return Ok(value.type_name() == other.type_name() && value.equals(&other, fuel)?);
        }
        "divisibleby" => {
            let parts = value.as_int().zip(other.as_ref().and_then(Value::as_int));
            return match parts {
                Some((number, by)) if by != 0 => Ok(number.checked_rem(by).unwrap_or(0) == 0),
                _ => problem("divisibleby: needs two whole numbers, the second not 0"),
            };
        }
        _ => return problem(format!("test '{name}' is not supported; supported are {TESTS}")),
    };
    let Some(other) = other else { return problem(format!("{name}: needs an argument")) };
    compare(comparison, value, &other, fuel)
}
