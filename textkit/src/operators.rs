//! What operators, dots and brackets mean: Python's rules.

use std::cmp::Ordering;

use crate::ast::{Comparison, Operator};
use crate::methods;
use crate::text::{Text, TextBuilder};
use crate::value::{problem, Fuel, ListKind, Loop, Outcome, Value};

const MAX_OUTPUT_BYTES: usize = 16 << 20;
const MAX_ITEMS: usize = 1 << 20;

pub fn check_output(bytes: usize) -> Outcome<()> {
    if bytes > MAX_OUTPUT_BYTES {
        return problem(format!("writes more than the {MAX_OUTPUT_BYTES} bytes allowed"));
    }
    Ok(())
}

/// What a loop goes through.
pub fn iterate(value: &Value, fuel: &Fuel) -> Outcome<Vec<Value>> {
    let items: Vec<Value> = match value {
        Value::Undefined(_) => Vec::new(),
        Value::List(list) => list.items.clone(),
        Value::Map(map) => map.items.iter().map(|(key, _)| Value::Str(key.clone())).collect(),
        Value::Str(text) | Value::Safe(text) => return characters(text, fuel),
        Value::Iterator(items) => items.take().into(),
        other => return problem(format!("a {} cannot be looped over", other.type_name())),
    };
    fuel.step(items.len())?;
    Ok(items)
}

fn characters(text: &Text, fuel: &Fuel) -> Outcome<Vec<Value>> {
    fuel.step(text.len().saturating_mul(text.runs().len().max(1)))?;
    let whole = text.as_str();
    Ok(whole.char_indices().map(|(at, c)| Value::Str(text.slice(at, at + c.len_utf8()))).collect())
}

/// `value.name`: what jinja2 finds as an attribute first and then as an item.
pub fn attribute(value: &Value, name: &str, fuel: &Fuel) -> Outcome<Value> {
    match value {
        Value::Undefined(missing) => {
            problem(format!("'{missing}' is not defined, and has no '{name}'"))
        }
        Value::Namespace(items) => {
            let items = items.borrow();
            fuel.search(name, items.len())?;
            let found = items.iter().find(|(key, _)| key == name);
            Ok(found.map_or_else(|| Value::undefined(name), |(_, value)| value.clone()))
        }
        Value::Loop(state) => loop_attribute(state, name),
        _ => match (methods::find(value, name)?, value) {
            (methods::Found::Method(name), _) => Ok(value.method(name)),
            (methods::Found::Nothing, Value::Map(_)) => Ok(entry(value, name, fuel)?),
            _ => Ok(Value::undefined(name)),
        },
    }
}

/// What a dict has under `key`.
fn entry(map: &Value, key: &str, fuel: &Fuel) -> Outcome<Value> {
    let Value::Map(map) = map else { return Ok(Value::undefined(key)) };
    fuel.search(key, map.items.len())?;
    Ok(map.get(key).cloned().unwrap_or_else(|| Value::undefined(key)))
}

fn loop_attribute(state: &Loop, name: &str) -> Outcome<Value> {
    let (index, length) = (state.index, state.items.len());
    let number = |value: usize| Ok(Value::Int(value as i128));
    let neighbour = |at: Option<usize>| {
        let found = at.and_then(|at| state.items.get(at)).cloned();
        Ok(found.unwrap_or_else(|| Value::undefined("a neighbour of a loop's item")))
    };
    match name {
        "index" => number(index + 1),
        "index0" => number(index),
        "revindex" => number(length - index),
        "revindex0" => number(length - index - 1),
        "length" => number(length),
        "first" => Ok(Value::Bool(index == 0)),
        "last" => Ok(Value::Bool(index + 1 == length)),
        "previtem" => neighbour(index.checked_sub(1)),
        "nextitem" => neighbour(Some(index + 1)),
        // Only recursive loops are deeper, which are not supported.
        "depth" => number(1),
        "depth0" => number(0),
        _ => Ok(Value::undefined(name)),
    }
}

/// `value[index]`: what jinja2 finds as an item first and then as an attribute.
pub fn item(value: &Value, index: &Value, fuel: &Fuel) -> Outcome<Value> {
    match (value, index) {
        (Value::Map(_), Value::Str(name)) => {
            let found = entry(value, name.as_str(), fuel)?;
            if found.is_undefined() {
                return attribute(value, name.as_str(), fuel);
            }
            Ok(found)
        }
        (_, Value::Str(name)) => attribute(value, name.as_str(), fuel),
        (Value::Undefined(missing), _) => {
            problem(format!("'{missing}' is not defined, and has no items"))
        }
        (Value::Safe(_), _) => problem("an item of a string from `safe` is not supported"),
        (Value::List(_) | Value::Str(_), _) => match index.as_int() {
            Some(number) => nth(value, number, fuel),
            None => Ok(Value::undefined("an item")),
        },
        _ => Ok(Value::undefined("an item")),
    }
}

fn nth(value: &Value, number: i128, fuel: &Fuel) -> Outcome<Value> {
    if matches!(value, Value::List(list) if !list.has_places()) {
        return Ok(Value::undefined("an item"));
    }
    let length = length(value, fuel)? as i128;
    let at = if number < 0 { number.saturating_add(length) } else { number };
    if !(0..length).contains(&at) {
        return Ok(Value::undefined("an item beyond the end"));
    }
    let at = at as usize;
    Ok(match value {
        Value::List(list) => list.items[at].clone(),
        Value::Str(text) => {
            let found = text.as_str().char_indices().nth(at);
            found.map_or(Value::None, |(at, c)| Value::Str(text.slice(at, at + c.len_utf8())))
        }
        _ => Value::None,
    })
}

/// Python's len().
pub fn length(value: &Value, fuel: &Fuel) -> Outcome<usize> {
    match value {
        Value::Undefined(_) => Ok(0),
        Value::Str(text) | Value::Safe(text) => {
            fuel.read(text)?;
            Ok(text.as_str().chars().count())
        }
        Value::List(list) => Ok(list.items.len()),
        Value::Map(map) => Ok(map.items.len()),
        other => problem(format!("a {} has no length", other.type_name())),
    }
}

/// `value[begin:end:step]`
pub fn slice(value: &Value, bounds: [Option<i128>; 3], fuel: &Fuel) -> Outcome<Value> {
    let step = bounds[2].unwrap_or(1);
    if step == 0 {
        return problem("slices with step 0");
    }
    let is_sliced = match value {
        Value::List(list) => list.has_places(),
        other => matches!(other, Value::Str(_)),
    };
    if !is_sliced {
        return problem(format!("a {} cannot be sliced", value.type_name()));
    }
    let count = length(value, fuel)? as i128;
    let (low, high) = if step > 0 { (0, count) } else { (-1, count - 1) };
    let place = |bound: Option<i128>, default: i128| {
        bound.map_or(default, |at| {
            if at < 0 { at.saturating_add(count) } else { at }.clamp(low, high)
        })
    };
    let (begin, end) = if step > 0 {
        (place(bounds[0], low), place(bounds[1], high))
    } else {
        (place(bounds[0], high), place(bounds[1], low))
    };
    if let (Value::Str(text), 1) = (value, step) {
        return Ok(Value::Str(character_slice(text, begin, end.max(begin))));
    }
    let characters = match value {
        Value::Str(text) => characters(text, fuel)?,
        _ => Vec::new(),
    };
    let items = match value {
        Value::List(list) => &list.items,
        _ => &characters,
    };
    let mut kept = Vec::new();
    let mut at = begin;
    while (step > 0 && at < end) || (step < 0 && at > end) {
        kept.push(items[at as usize].clone());
        at = at.saturating_add(step);
    }
    fuel.step(kept.len())?;
    match value {
        Value::List(list) => Value::of_kind(kept, list.kind),
        _ => join(&kept, &Text::template(""), fuel).map(Value::Str),
    }
}

fn character_slice(text: &Text, begin: i128, end: i128) -> Text {
    let whole = text.as_str();
    let byte_of =
        |count: i128| whole.char_indices().nth(count as usize).map_or(whole.len(), |(at, _)| at);
    text.slice(byte_of(begin), byte_of(end))
}

pub fn join(items: &[Value], separator: &Text, fuel: &Fuel) -> Outcome<Text> {
    let mut out = TextBuilder::default();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            fuel.copy(separator)?;
            out.push(separator);
        }
        let text = item.to_text(fuel)?;
        fuel.copy(&text)?;
        out.push(&text);
        check_output(out.len())?;
    }
    Ok(out.finish())
}

/// `-value` or `+value`
pub fn signed(value: &Value, is_negative: bool) -> Outcome<Value> {
    match (value, value.as_int()) {
        (Value::Float(number), _) => Ok(Value::Float(if is_negative { -number } else { *number })),
        (_, Some(number)) if !is_negative => Ok(Value::Int(number)),
        (_, Some(number)) => number
            .checked_neg()
            .map_or_else(|| problem("a number of more than 128 bits"), |n| Ok(Value::Int(n))),
        _ => problem(format!("a {} has no sign", value.type_name())),
    }
}

pub fn compare(kind: Comparison, left: &Value, right: &Value, fuel: &Fuel) -> Outcome<bool> {
    Ok(match kind {
        Comparison::Equal => left.equals(right, fuel)?,
        Comparison::NotEqual => !left.equals(right, fuel)?,
        Comparison::Less => left.compare(right, fuel)?.is_some_and(Ordering::is_lt),
        Comparison::LessOrEqual => left.compare(right, fuel)?.is_some_and(Ordering::is_le),
        Comparison::Greater => left.compare(right, fuel)?.is_some_and(Ordering::is_gt),
        Comparison::GreaterOrEqual => left.compare(right, fuel)?.is_some_and(Ordering::is_ge),
        Comparison::In => contains(right, left, fuel)?,
        Comparison::NotIn => !contains(right, left, fuel)?,
    })
}

pub fn contains(container: &Value, value: &Value, fuel: &Fuel) -> Outcome<bool> {
    match container {
        Value::Str(text) | Value::Safe(text) => match value.as_str() {
            Some(part) => {
                fuel.read(text)?;
                Ok(text.as_str().contains(part))
            }
            None => problem(format!(
                "'in <string>' requires string as left operand, not {}",
                value.type_name()
            )),
        },
        Value::Map(_) if !value.is_hashable() => {
            problem(format!("a {} cannot be the key of a dict", value.type_name()))
        }
        Value::Map(map) => {
            fuel.search(value.as_str().unwrap_or(""), map.items.len())?;
            Ok(value.as_str().is_some_and(|key| map.get(key).is_some()))
        }
        Value::List(list) => holds(&list.items, value, fuel),
        Value::Iterator(_) => holds(&iterate(container, fuel)?, value, fuel),
        Value::Undefined(_) => Ok(false),
        other => problem(format!("a {} holds nothing to look for", other.type_name())),
    }
}

fn holds(items: &[Value], value: &Value, fuel: &Fuel) -> Outcome<bool> {
    for item in items {
        if item.equals(value, fuel)? {
            return Ok(true);
        }
    }
    Ok(false)
}

pub fn binary(operator: Operator, left: &Value, right: &Value, fuel: &Fuel) -> Outcome<Value> {
    match (operator, left, right) {
        (Operator::Concatenate, ..) => {
            concatenate(&left.to_text(fuel)?, &right.to_text(fuel)?, fuel)
        }
        (Operator::Add, Value::Str(a), Value::Str(b)) => concatenate(a, b, fuel),
        (Operator::Add, Value::Safe(a) | Value::Str(a), Value::Safe(b) | Value::Str(b)) => {
            // A string from `safe` makes the other one HTML.
            let (a, b) = (escaped(left, a, fuel)?, escaped(right, b, fuel)?);
            concatenate(&a, &b, fuel).map(|text| match text {
                Value::Str(text) => Value::Safe(text),
                other => other,
            })
        }
        (Operator::Add, Value::List(a), Value::List(b)) if are_joined(a.kind, b.kind) => {
            fuel.step(a.items.len() + b.items.len())?;
            let items = a.items.iter().chain(&b.items).cloned().collect();
            Value::of_kind(items, a.kind)
        }
        (Operator::Multiply, Value::Str(text), times)
        | (Operator::Multiply, times, Value::Str(text))
            if times.as_int().is_some() =>
        {
            repeat(text, times.as_int().unwrap_or(0), fuel)
        }
        (Operator::Multiply, Value::List(list), times)
        | (Operator::Multiply, times, Value::List(list))
            if times.as_int().is_some() && are_joined(list.kind, list.kind) =>
        {
            let times = times.as_int().unwrap_or(0).clamp(0, MAX_ITEMS as i128) as usize;
            fuel.step(list.items.len().saturating_mul(times))?;
            let count = list.items.len() * times;
            let items = list.items.iter().cycle().take(count).cloned().collect();
            Value::of_kind(items, list.kind)
        }
        _ => arithmetic(operator, left, right),
    }
}

/// As HTML, unless `value`, whose text it is, is from `safe`.
fn escaped(value: &Value, text: &Text, fuel: &Fuel) -> Outcome<Text> {
    match value {
        Value::Safe(_) => Ok(text.clone()),
        _ => escape_html(text, fuel),
    }
}

pub fn escape_html(text: &Text, fuel: &Fuel) -> Outcome<Text> {
    fuel.make(text.len().saturating_mul(5))?;
    Ok(text.map_chars(|c, out| match c {
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '\'' => out.push_str("&#39;"),
        '"' => out.push_str("&#34;"),
        c => out.push(c),
    }))
}

fn are_joined(a: ListKind, b: ListKind) -> bool {
    a == b && matches!(a, ListKind::List | ListKind::Tuple)
}

fn concatenate(left: &Text, right: &Text, fuel: &Fuel) -> Outcome<Value> {
    fuel.make(left.len() + right.len())?;
    fuel.step((left.runs().len() + right.runs().len()) / 16)?;
    let mut out = TextBuilder::default();
    out.push(left);
    out.push(right);
    Ok(Value::Str(out.finish()))
}

fn repeat(text: &Text, times: i128, fuel: &Fuel) -> Outcome<Value> {
    let times = times.clamp(0, 1 << 40) as usize;
    let size = text.len().saturating_mul(times);
    fuel.make(size)?;
    fuel.step(times.saturating_mul(text.runs().len()) / 16)?;
    let mut out = TextBuilder::default();
    (0..if size == 0 { 0 } else { times }).for_each(|_| out.push(text));
    Ok(Value::Str(out.finish()))
}

pub fn arithmetic(operator: Operator, left: &Value, right: &Value) -> Outcome<Value> {
    let sign = sign_of(operator);
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        if operator != Operator::Divide && !(operator == Operator::Power && b < 0) {
            let number = match operator {
                Operator::Add => a.checked_add(b),
                Operator::Subtract => a.checked_sub(b),
                Operator::Multiply => a.checked_mul(b),
                Operator::Power => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
                Operator::FloorDivide => a.checked_div_euclid(b).map(|q| floor_quotient(a, b, q)),
                _ => a.checked_rem_euclid(b).map(|r| if b < 0 && r != 0 { r + b } else { r }),
            };
            return number.map_or_else(
                || problem(format!("{a} {sign} {b} has no value")),
                |n| Ok(Value::Int(n)),
            );
        }
    }
    let Some((a, b)) = left.as_float().zip(right.as_float()) else {
        return problem(format!(
            "unsupported operand types for {sign}: '{}' and '{}'",
            left.type_name(),
            right.type_name()
        ));
    };
    if b == 0.0
        && matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Remainder)
    {
        return problem("division by zero");
    }
    Ok(Value::Float(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
        Operator::Power if a == 0.0 && b < 0.0 => return problem("division by zero"),
        Operator::Power => match a.powf(b) {
            power if power.is_finite() || !a.is_finite() || !b.is_finite() => power,
            _ => return problem(format!("{a} ** {b} has no value")),
        },
        Operator::FloorDivide => floored(a, b).0,
        _ => floored(a, b).1,
    }))
}

/// Python's quotient and remainder: the remainder has the sign of `b`.
fn floored(a: f64, b: f64) -> (f64, f64) {
    let mut rest = a % b;
    let mut quotient = (a - rest) / b;
    if rest == 0.0 {
        rest = 0.0_f64.copysign(b);
    } else if (rest < 0.0) != (b < 0.0) {
        rest += b;
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return (0.0_f64.copysign(a / b), rest);
    }
    let floor = quotient.floor();
    (if quotient - floor > 0.5 { floor + 1.0 } else { floor }, rest)
}

/// Rounds down, where div_euclid keeps the remainder positive.
fn floor_quotient(a: i128, b: i128, quotient: i128) -> i128 {
    if b < 0 && a.rem_euclid(b) != 0 {
        quotient - 1
    } else {
        quotient
    }
}

fn sign_of(operator: Operator) -> &'static str {
    match operator {
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::FloorDivide => "//",
        Operator::Remainder => "%",
        Operator::Power => "**",
        Operator::Concatenate => "~",
    }
}
