//! Python's methods of str.

use crate::calls::{join_all, Arguments};
use crate::operators;
use crate::text::{Text, TextBuilder};
use crate::unicode::{is_decimal, is_digit, is_space, to_title};
use crate::value::{problem, Fuel, ListKind, Outcome, Value};

const METHODS: &str = "capitalize, count, endswith, find, index, isalnum, isalpha, isascii, \
                       isdecimal, isdigit, islower, isnumeric, isspace, isupper, join, lower, \
                       lstrip, partition, removeprefix, removesuffix, replace, rfind, rindex, \
                       rpartition, rsplit, rstrip, split, splitlines, startswith, strip, title, \
                       upper";

pub fn call(text: &Text, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    fuel.read(text)?;
    fuel.copy(text)?;
    let name = arguments.name.clone();
    if !name.ends_with("split") && name != "splitlines" {
        arguments.no_names()?;
    }
    match name.as_str() {
        "strip" | "lstrip" | "rstrip" => {
            let chars = arguments.take_text(0, "chars")?;
            arguments.finish(1)?;
            strip(text, &name, chars.as_ref(), fuel).map(Value::Str)
        }
        "split" | "rsplit" => {
            let separator = arguments.take_text(0, "sep")?;
            let most = arguments.take_int(1, "maxsplit")?.filter(|most| *most >= 0);
            arguments.finish(2)?;
            let most = most.map_or(usize::MAX, |most| most.min(1 << 40) as usize);
            split(text, separator.as_ref(), most, name == "rsplit", fuel)
        }
        "splitlines" => {
            let keeps_ends = arguments.take(0, "keepends").is_some_and(|value| value.is_true());
            arguments.finish(1)?;
            pieces(text, lines(text.as_str(), keeps_ends), fuel)
        }
        "startswith" | "endswith" => begins(text, arguments, name == "startswith", fuel),
        "replace" => {
            let (from, to) = (arguments.need_text(0, "old")?, arguments.need_text(1, "new")?);
            let most = arguments.take_int(2, "count")?.filter(|most| *most >= 0);
            arguments.finish(3)?;
            replace(text, &from, &to, most.map_or(usize::MAX, |most| most as usize), fuel)
        }
        "join" => {
            let items = arguments.take(0, "iterable").unwrap_or(Value::None);
            arguments.finish(1)?;
            join_all(text, &items, fuel)
        }
        "removeprefix" | "removesuffix" => {
            let part = arguments.need_text(0, "part")?;
            arguments.finish(1)?;
            let whole = text.as_str();
            let rest = match name.as_str() {
                "removeprefix" => whole.strip_prefix(part.as_str()),
                _ => whole.strip_suffix(part.as_str()),
            };
            Ok(Value::Str(text.part(rest.unwrap_or(whole))))
        }
        "find" | "rfind" | "index" | "rindex" | "count" => search(text, arguments, fuel),
        "partition" | "rpartition" => partition(text, arguments, fuel),
        _ => without_arguments(text, arguments),
    }
}

fn without_arguments(text: &Text, arguments: Arguments) -> Outcome<Value> {
    let name = arguments.name.clone();
    let whole = text.as_str();
    let all = |is: fn(char) -> bool| Ok(Value::Bool(!whole.is_empty() && whole.chars().all(is)));
    let is_cased = whole.chars().any(|c| c.is_uppercase() || c.is_lowercase());
    let value = match name.as_str() {
        "upper" | "lower" | "title" | "capitalize" => Ok(Value::Str(change_case(text, &name))),
        "isdigit" => all(is_digit),
        "isdecimal" => all(is_decimal),
        "isnumeric" => all(char::is_numeric),
        "isascii" => Ok(Value::Bool(whole.is_ascii())),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isspace" => all(is_space),
        "isupper" => Ok(Value::Bool(is_cased && !whole.chars().any(char::is_lowercase))),
        "islower" => Ok(Value::Bool(is_cased && !whole.chars().any(char::is_uppercase))),
        _ => {
            return problem(format!("str.{name}(...) is not supported; supported are {METHODS}"));
        }
    };
    arguments.finish(0)?;
    value
}

/// `name`: strip, lstrip or rstrip. Without `chars` white space goes.
pub fn strip(text: &Text, name: &str, chars: Option<&Text>, fuel: &Fuel) -> Outcome<Text> {
    let chars_size = chars.map_or(0, |chars| chars.len());
    fuel.step(text.len().saturating_mul(chars_size / 16) / 64)?;
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.as_str().contains(c));
    let mut rest = text.as_str();
    if name != "rstrip" {
        rest = rest.trim_start_matches(goes);
    }
    if name != "lstrip" {
        rest = rest.trim_end_matches(goes);
    }
    Ok(text.part(rest))
}

pub fn change_case(text: &Text, name: &str) -> Text {
    // What most texts are, at the speed of a copy: a hostile template may ask for a gigabyte of it.
    if text.as_str().is_ascii() && (name == "upper" || name == "lower") {
        let change = if name == "upper" { str::to_ascii_uppercase } else { str::to_ascii_lowercase };
        return text.map_pieces(change);
    }
    if name == "upper" {
        return text.map_chars(|c, out| out.extend(c.to_uppercase()));
    }
    // Of the whole, because a sigma at the end of a word has a small letter of its own.
    let lowered = text.as_str().to_lowercase();
    let mut at = 0;
    let mut is_first = name != "lower";
    text.map_chars(|c, out| {
        let begin = at;
        at += c.to_lowercase().map(char::len_utf8).sum::<usize>();
        if is_first {
            to_title(c, out);
        } else {
            out.push_str(&lowered[begin..at]);
        }
        is_first = match name {
            "title" => !c.is_uppercase() && !c.is_lowercase(),
            // The filter of jinja2: a word begins after one of these.
            "title filter" => is_space(c) || "-({[<".contains(c),
            _ => false,
        };
    })
}

fn pieces(text: &Text, parts: Vec<&str>, fuel: &Fuel) -> Outcome<Value> {
    fuel.step(parts.len().saturating_mul(text.runs().len().max(1)))?;
    Value::list(parts.into_iter().map(|part| Value::Str(text.part(part))).collect())
}

fn split(
    text: &Text,
    separator: Option<&Text>,
    most: usize,
    from_end: bool,
    fuel: &Fuel,
) -> Outcome<Value> {
    let whole = text.as_str();
    let parts: Vec<&str> = match separator {
        None => split_at_space(whole, most, from_end),
        Some(separator) if separator.is_empty() => return problem("split: empty separator"),
        Some(separator) if from_end => {
            let mut parts: Vec<&str> =
                whole.rsplitn(most.saturating_add(1), separator.as_str()).collect();
            parts.reverse();
            parts
        }
        Some(separator) => whole.splitn(most.saturating_add(1), separator.as_str()).collect(),
    };
    pieces(text, parts, fuel)
}

/// Runs of white space part the words. Where the limit is reached the rest keeps what white space
/// its other end has.
fn split_at_space(whole: &str, most: usize, from_end: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let without = |rest| -> &str {
        if from_end {
            str::trim_end_matches(rest, is_space)
        } else {
            str::trim_start_matches(rest, is_space)
        }
    };
    let mut rest = without(whole);
    while !rest.is_empty() {
        let cut = if from_end { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = cut.filter(|_| parts.len() < most) else {
            parts.push(rest);
            break;
        };
        let next = at + rest[at..].chars().next().map_or(1, char::len_utf8);
        parts.push(if from_end { &rest[next..] } else { &rest[..at] });
        rest = without(if from_end { &rest[..at] } else { &rest[next..] });
    }
    if from_end {
        parts.reverse();
    }
    parts
}

/// What str.splitlines() takes for the end of a line.
pub fn is_break(c: char) -> bool {
    matches!(
        c,
        '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

pub fn lines(text: &str, keeps_ends: bool) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_break) {
        let size = if rest[at..].starts_with("\r\n") {
            2
        } else {
            rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        out.push(&rest[..at + if keeps_ends { size } else { 0 }]);
        rest = &rest[at + size..];
    }
    if !rest.is_empty() {
        out.push(rest);
    }
    out
}

/// The part between the arguments at `index` and after it, and where it begins, in characters;
/// nothing where that is beyond the end.
fn window(
    text: &Text,
    arguments: &mut Arguments,
    index: usize,
    fuel: &Fuel,
) -> Outcome<Option<(Text, i128)>> {
    let (start, end) = (arguments.take_int(index, "start")?, arguments.take_int(index + 1, "end")?);
    if start.is_none() && end.is_none() {
        return Ok(Some((text.clone(), 0)));
    }
    let value = Value::Str(text.clone());
    let count = operators::length(&value, fuel)? as i128;
    let start = start.unwrap_or(0);
    let begin = if start < 0 { start.saturating_add(count).max(0) } else { start };
    match operators::slice(&value, [Some(begin), end, None], fuel)? {
        Value::Str(part) if begin <= count => Ok(Some((part, begin))),
        _ => Ok(None),
    }
}

fn begins(text: &Text, mut arguments: Arguments, at_start: bool, fuel: &Fuel) -> Outcome<Value> {
    let wanted = arguments.take(0, "prefix").unwrap_or(Value::None);
    let window = window(text, &mut arguments, 1, fuel)?;
    arguments.finish(3)?;
    let Some((text, _)) = window else { return Ok(Value::Bool(false)) };
    let fits = |part: &str| {
        let whole = text.as_str();
        if at_start {
            whole.starts_with(part)
        } else {
            whole.ends_with(part)
        }
    };
    match &wanted {
        Value::Str(part) => Ok(Value::Bool(fits(part.as_str()))),
        Value::List(list) if list.kind == ListKind::Tuple => {
            fuel.step(list.items.len().saturating_mul(1 + text.len() / 64))?;
            Ok(Value::Bool(list.items.iter().filter_map(Value::as_str).any(fits)))
        }
        other => problem(format!(
            "startswith: got a {}; must be str or a tuple of str",
            other.type_name()
        )),
    }
}

pub fn replace(text: &Text, from: &Text, to: &Text, most: usize, fuel: &Fuel) -> Outcome<Value> {
    let whole = text.as_str();
    let hits: Vec<usize> =
        whole.match_indices(from.as_str()).map(|(at, _)| at).take(most).collect();
    fuel.step(hits.len().saturating_mul(text.runs().len().max(1)))?;
    fuel.make(text.len().saturating_add(hits.len().saturating_mul(to.len())))?;
    let mut out = TextBuilder::default();
    let mut begin = 0;
    for at in hits {
        if at > begin {
            out.push(&text.slice(begin, at));
        }
        out.push(to);
        begin = at + from.len();
    }
    out.push(&text.slice(begin, whole.len()));
    Ok(Value::Str(out.finish()))
}

fn search(text: &Text, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    let part = arguments.need_text(0, "sub")?;
    let name = arguments.name.clone();
    let window = window(text, &mut arguments, 1, fuel)?;
    arguments.finish(3)?;
    let (text, begin) = window.unwrap_or((Text::template(""), 0));
    let (whole, part) = (text.as_str(), part.as_str());
    if name == "count" {
        let count =
            if part.is_empty() { whole.chars().count() + 1 } else { whole.matches(part).count() };
        return Ok(Value::Int(count as i128));
    }
    let place = if name.starts_with('r') { whole.rfind(part) } else { whole.find(part) };
    match place {
        Some(at) => Ok(Value::Int(begin + whole[..at].chars().count() as i128)),
        None if name.ends_with("find") => Ok(Value::Int(-1)),
        None => problem(format!("{name}: the text is not there")),
    }
}

fn partition(text: &Text, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    let part = arguments.need_text(0, "sep")?;
    let name = arguments.name.clone();
    arguments.finish(1)?;
    let (whole, part) = (text.as_str(), part.as_str());
    if part.is_empty() {
        return problem(format!("{name}: empty separator"));
    }
    let place = if name.starts_with('r') { whole.rfind(part) } else { whole.find(part) };
    let end = whole.len();
    let cuts = match place {
        Some(at) => [(0, at), (at, at + part.len()), (at + part.len(), end)],
        None if name == "partition" => [(0, end), (end, end), (end, end)],
        None => [(0, 0), (0, 0), (0, end)],
    };
    fuel.step(text.runs().len())?;
    let parts = cuts.map(|(begin, end)| Value::Str(text.slice(begin, end)));
    Value::of_kind(parts.to_vec(), ListKind::Tuple)
}
