//! The filters of numbers: Python's int(), float() and round().

use crate::calls::Arguments;
use crate::unicode::is_space;
use crate::value::{problem, Outcome, Value};

pub fn number_filter(value: &Value, arguments: Arguments) -> Outcome<Value> {
    if value.is_undefined() {
        return problem(format!("{}: the value is not defined", arguments.name));
    }
    match arguments.name.as_str() {
        "int" => int(value, arguments),
        "float" => float(value, arguments),
        "round" => round(value, arguments),
        _ => {
            arguments.finish(0)?;
            match (value, value.as_int().map(i128::checked_abs)) {
                (Value::Float(number), _) => Ok(Value::Float(number.abs())),
                (_, Some(Some(number))) => Ok(Value::Int(number)),
                _ => problem(format!("abs: got a {}; must be a number", value.type_name())),
            }
        }
    }
}

fn int(value: &Value, mut arguments: Arguments) -> Outcome<Value> {
    let default = arguments.take(0, "default").unwrap_or(Value::Int(0));
    let base = arguments.take_int(1, "base")?.unwrap_or(10);
    arguments.finish(2)?;
    if let Value::Float(number) = value {
        return match whole(*number) {
            Some(number) => Ok(Value::Int(number)),
            None if number.is_nan() => Ok(default),
            None => problem(format!("int: {number} is no number of at most 128 bits")),
        };
    }
    if let Some(number) = value.as_int() {
        return Ok(Value::Int(number));
    }
    let Some(text) = value.as_str() else { return Ok(default) };
    let number = int_of(text, base).or_else(|| float_of(text).and_then(whole));
    Ok(number.map_or(default, Value::Int))
}

fn whole(number: f64) -> Option<i128> {
    (number.abs() < 1e38).then_some(number as i128)
}

/// Python's int() of a text, with a prefix that names the base.
fn int_of(text: &str, base: i128) -> Option<i128> {
    let text = text.trim_matches(is_space);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let prefixed = match base {
        2 => digits.strip_prefix("0b").or(digits.strip_prefix("0B")),
        8 => digits.strip_prefix("0o").or(digits.strip_prefix("0O")),
        16 => digits.strip_prefix("0x").or(digits.strip_prefix("0X")),
        _ => None,
    };
    let digits = without_underscores(prefixed.unwrap_or(digits))?;
    if digits.starts_with(['+', '-']) || !(2..=36).contains(&base) {
        return None;
    }
    let number = i128::from_str_radix(&digits, base as u32).ok()?;
    Some(if text.starts_with('-') { -number } else { number })
}

/// Single ones between two characters are allowed.
fn without_underscores(digits: &str) -> Option<String> {
    let is_wrong = digits.starts_with('_') || digits.ends_with('_') || digits.contains("__");
    (!is_wrong).then(|| digits.replace('_', ""))
}

fn float(value: &Value, mut arguments: Arguments) -> Outcome<Value> {
    let default = arguments.take(0, "default").unwrap_or(Value::Float(0.0));
    arguments.finish(1)?;
    let number = value.as_float().or_else(|| value.as_str().and_then(float_of));
    Ok(number.map_or(default, Value::Float))
}

fn float_of(text: &str) -> Option<f64> {
    without_underscores(text.trim_matches(is_space))?.parse().ok()
}

fn round(value: &Value, mut arguments: Arguments) -> Outcome<Value> {
    let digits = arguments.take_int(0, "precision")?.unwrap_or(0);
    let method = arguments.take_text(1, "method")?;
    arguments.finish(2)?;
    let (Some(number), true) = (value.as_float(), (-300..=300).contains(&digits)) else {
        return problem(format!("round: got a {} and {digits} digits", value.type_name()));
    };
    let digits = digits as i32;
    let scale = 10_f64.powi(digits);
    match method.as_ref().map_or("common", |text| text.as_str()) {
        "ceil" => Ok(Value::Float((number * scale).ceil() / scale)),
        "floor" => Ok(Value::Float((number * scale).floor() / scale)),
        "common" => match value.as_int() {
            Some(number) => round_int(number, digits),
            None => Ok(Value::Float(round_float(number, digits))),
        },
        _ => problem("round: method must be 'common', 'ceil' or 'floor'"),
    }
}

/// Halves go to the even neighbour.
fn round_int(number: i128, digits: i32) -> Outcome<Value> {
    if digits >= 0 {
        return Ok(Value::Int(number));
    }
    let Some(unit) = 10_i128.checked_pow(digits.unsigned_abs()) else { return Ok(Value::Int(0)) };
    let (low, rest) = (number.div_euclid(unit), number.rem_euclid(unit));
    let is_up = rest > unit - rest || (rest == unit - rest && low % 2 != 0);
    match (low + i128::from(is_up)).checked_mul(unit) {
        Some(number) => Ok(Value::Int(number)),
        None => problem("round: a number of more than 128 bits"),
    }
}

/// By the exact decimal digits of the number, as Python does.
fn round_float(number: f64, digits: i32) -> f64 {
    if !number.is_finite() {
        return number;
    }
    if digits < 0 {
        let unit = 10_f64.powi(-digits);
        return (number / unit).round_ties_even() * unit;
    }
    format!("{number:.*}", digits as usize).parse().unwrap_or(number)
}
