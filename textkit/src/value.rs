//! Values of a template, with the meaning that Python gives them.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::operators::check_output;
use crate::text::{Origin, Text, TextBuilder, TEMPLATE};
use crate::unicode::is_printable;

/// Lists in lists and the like; bounds every recursion over a value.
const MAX_NESTING: u32 = 100;
const MAX_STEPS: u64 = 2_000_000;
const MAX_BYTES: usize = 16 << 20;
/// Bytes of all strings that are made on the way to the output.
const MAX_MADE_BYTES: usize = 256 << 20;

/// Why a template stops; the line is filled in where it is known.
#[derive(Debug)]
pub enum Fault {
    /// What the template said to raise_exception.
    Refusal(String),
    Problem {
        line: Option<usize>,
        text: String,
    },
}

pub type Outcome<T> = Result<T, Fault>;

pub fn problem<T>(text: impl Into<String>) -> Outcome<T> {
    Err(Fault::Problem { line: None, text: text.into() })
}

/// What a rendering may still use up.
pub struct Fuel {
    steps: Cell<u64>,
    bytes: Cell<usize>,
}

impl Fuel {
    pub fn new() -> Self {
        Fuel { steps: Cell::new(MAX_STEPS), bytes: Cell::new(MAX_MADE_BYTES) }
    }

    pub fn step(&self, count: usize) -> Outcome<()> {
        match self.steps.get().checked_sub(count as u64) {
            Some(left) => {
                self.steps.set(left);
                Ok(())
            }
            None => {
                problem(format!("takes more than the {MAX_STEPS} steps allowed; does a loop end?"))
            }
        }
    }

    /// For looking through a string, or at a part of it.
    pub fn read(&self, text: &Text) -> Outcome<()> {
        self.step(text.len() / 64 + text.runs().len() / 16)
    }

    /// For a copy of a string.
    pub fn copy(&self, text: &Text) -> Outcome<()> {
        self.make(text.len())?;
        self.step(text.runs().len() / 16)
    }

    /// For looking for `name` among `count` others.
    pub fn search(&self, name: &str, count: usize) -> Outcome<()> {
        self.step(count / 16 + name.len() / 64)
    }

    /// For a string of `size` bytes that is about to be made.
    pub fn make(&self, size: usize) -> Outcome<()> {
        match self.bytes.get().checked_sub(size) {
            Some(left) if size <= MAX_BYTES => {
                self.bytes.set(left);
                Ok(())
            }
            _ => problem(format!("writes more than the {MAX_BYTES} bytes allowed")),
        }
    }
}

/// Python's kinds of sequences; the last three are what a dict's methods give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ListKind {
    List,
    Tuple,
    Range,
    Keys,
    Values,
    Items,
}

pub struct List {
    pub items: Vec<Value>,
    pub kind: ListKind,
    depth: u32,
}

impl List {
    fn kind_has_order(&self) -> bool {
        matches!(self.kind, ListKind::List | ListKind::Tuple)
    }

    /// Whether brackets find items in it.
    pub fn has_places(&self) -> bool {
        matches!(self.kind, ListKind::List | ListKind::Tuple | ListKind::Range)
    }
}

pub struct Map {
    pub items: Vec<(Text, Value)>,
    depth: u32,
}

impl Map {
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.items.iter().find(|(name, _)| name.as_str() == key).map(|(_, value)| value)
    }
}

/// What `loop` is in a loop's body.
pub struct Loop {
    pub items: Rc<Vec<Value>>,
    pub index: usize,
    /// What loop.changed() saw last.
    pub seen: Rc<RefCell<Option<Value>>>,
}

/// `value.name` where that is a method that is not called there.
pub struct Method {
    pub of: Value,
    pub name: &'static str,
}

#[derive(Clone)]
pub enum Value {
    /// With the name that was looked for.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
    /// What the filter `safe` gives.
    Safe(Text),
    List(Rc<List>),
    Map(Rc<Map>),
    Namespace(Rc<RefCell<Vec<(String, Value)>>>),
    Loop(Rc<Loop>),
    /// What filters such as `map` give: true, without a length, and empty after one loop over it.
    Iterator(Rc<RefCell<VecDeque<Value>>>),
    /// Index into the template's macros, and how many scopes it sees.
    Macro {
        index: usize,
        scopes: usize,
    },
    /// A function of ours, by name.
    Function(&'static str),
    Method(Rc<Method>),
}

impl Value {
    pub fn undefined(name: &str) -> Value {
        Value::Undefined(Rc::from(name))
    }

    pub fn text(text: &str) -> Value {
        Value::Str(Text::template(text))
    }

    pub fn list(items: Vec<Value>) -> Outcome<Value> {
        Value::of_kind(items, ListKind::List)
    }

    pub fn of_kind(items: Vec<Value>, kind: ListKind) -> Outcome<Value> {
        let depth = nesting(items.iter())?;
        Ok(Value::List(Rc::new(List { items, kind, depth })))
    }

    pub fn iterator(items: Vec<Value>) -> Outcome<Value> {
        nesting(items.iter())?;
        Ok(Value::Iterator(Rc::new(RefCell::new(items.into()))))
    }

    pub fn method(&self, name: &'static str) -> Value {
        Value::Method(Rc::new(Method { of: self.clone(), name }))
    }

    /// Of two equal keys the last one counts, at the place of the first.
    pub fn map(items: Vec<(Text, Value)>) -> Outcome<Value> {
        let depth = nesting(items.iter().map(|(_, value)| value))?;
        Ok(Value::Map(Rc::new(Map { items, depth })))
    }

    pub fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    pub fn is_hashable(&self) -> bool {
        match self {
            Value::List(list) => list.kind != ListKind::List,
            other => !matches!(other, Value::Map(_)),
        }
    }

    /// Python's name of the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::Safe(_) => "Markup",
            Value::List(list) => match list.kind {
                ListKind::List => "list",
                ListKind::Tuple => "tuple",
                ListKind::Range => "range",
                ListKind::Keys => "dict_keys",
                ListKind::Values => "dict_values",
                ListKind::Items => "dict_items",
            },
            Value::Map(_) => "dict",
            Value::Namespace(_) => "namespace",
            Value::Loop(_) => "loop",
            Value::Iterator(_) => "generator",
            Value::Macro { .. } => "macro",
            Value::Function(_) => "function",
            Value::Method(_) => "method",
        }
    }

    pub fn is_true(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Str(text) | Value::Safe(text) => !text.is_empty(),
            Value::List(list) => !list.items.is_empty(),
            Value::Map(map) => !map.items.is_empty(),
            _ => true,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) | Value::Safe(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// Whole numbers, and what Python takes for one.
    pub fn as_int(&self) -> Option<i128> {
        match self {
            Value::Int(value) => Some(*value),
            Value::Bool(value) => Some(i128::from(*value)),
            _ => None,
        }
    }

    pub fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(value) => Some(*value),
            _ => self.as_int().map(|value| value as f64),
        }
    }

    /// Python's `==`.
    pub fn equals(&self, other: &Value, fuel: &Fuel) -> Outcome<bool> {
        fuel.step(1)?;
        Ok(match (self, other) {
            (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
            (Value::Str(text) | Value::Safe(text), _) => {
                if other.as_str().map(str::len) != Some(text.len()) {
                    return Ok(false);
                }
                fuel.read(text)?;
                self.as_str() == other.as_str()
            }
            (Value::List(a), Value::List(b)) => {
                if a.kind != b.kind || a.items.len() != b.items.len() {
                    return Ok(false);
                }
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.equals(b, fuel)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Map(a), Value::Map(b)) => return maps_equal(a, b, fuel),
            (Value::Macro { index: a, .. }, Value::Macro { index: b, .. }) => a == b,
            (Value::Function(a), Value::Function(b)) => a == b,
            (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
            (Value::Iterator(a), Value::Iterator(b)) => Rc::ptr_eq(a, b),
            (Value::Method(a), Value::Method(b)) => a.name == b.name && a.of.equals(&b.of, fuel)?,
            _ => match (self.as_int(), other.as_int()) {
                (Some(a), Some(b)) => a == b,
                _ => self.as_float().is_some() && self.as_float() == other.as_float(),
            },
        })
    }

    /// Python's `<` and its kin: none of them holds for a NaN; a problem for what has no order.
    pub fn compare(&self, other: &Value, fuel: &Fuel) -> Outcome<Option<Ordering>> {
        fuel.step(1)?;
        if let (Some(a), Some(b)) = (self.as_str(), other.as_str()) {
            fuel.step(a.len().min(b.len()) / 64)?;
            return Ok(Some(a.cmp(b)));
        }
        if let (Some(a), Some(b)) = (self.as_int(), other.as_int()) {
            return Ok(Some(a.cmp(&b)));
        }
        if let Some((a, b)) = self.as_float().zip(other.as_float()) {
            return Ok(a.partial_cmp(&b));
        }
        match (self, other) {
            (Value::List(a), Value::List(b)) if a.kind == b.kind && a.kind_has_order() => {
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.equals(b, fuel)? {
                        return a.compare(b, fuel);
                    }
                }
                Ok(Some(a.items.len().cmp(&b.items.len())))
            }
            _ => problem(format!("cannot order {} and {}", self.type_name(), other.type_name())),
        }
    }

    /// Python's str().
    pub fn to_text(&self, fuel: &Fuel) -> Outcome<Text> {
        match self {
            Value::Str(text) | Value::Safe(text) => Ok(text.clone()),
            Value::Undefined(_) => Ok(Text::template("")),
            _ => {
                let mut out = TextBuilder::default();
                self.write_repr(&mut out, TEMPLATE, fuel)?;
                fuel.make(out.len())?;
                Ok(out.finish())
            }
        }
    }

    /// Python's repr(). What stands between strings belongs to whom they belong.
    fn write_repr(&self, out: &mut TextBuilder, origin: Origin, fuel: &Fuel) -> Outcome<()> {
        fuel.step(1)?;
        fuel.make(out.len().min(64))?;
        match self {
            Value::None => out.push_str("None", origin),
            Value::Bool(value) => out.push_str(if *value { "True" } else { "False" }, origin),
            Value::Int(value) => out.push_str(&value.to_string(), origin),
            Value::Float(value) => out.push_str(&float_text(*value), origin),
            Value::Str(text) | Value::Safe(text) => {
                fuel.make(text.len())?;
                let own = text.first_origin();
                let own = if own == TEMPLATE { origin } else { own };
                let is_safe = matches!(self, Value::Safe(_));
                out.push_str(if is_safe { "Markup(" } else { "" }, own);
                out.push_str(&quoted(text.as_str()), own);
                out.push_str(if is_safe { ")" } else { "" }, own);
                check_output(out.len())?;
            }
            Value::Loop(state) => {
                let text = format!("<LoopContext {}/{}>", state.index + 1, state.items.len());
                out.push_str(&text, origin);
            }
            Value::List(list) => {
                let (open, close) = match list.kind {
                    ListKind::List => ("[", "]"),
                    ListKind::Tuple => ("(", ")"),
                    ListKind::Keys => ("dict_keys([", "])"),
                    ListKind::Values => ("dict_values([", "])"),
                    ListKind::Items => ("dict_items([", "])"),
                    ListKind::Range => return problem("cannot print a range; make it a list"),
                };
                out.push_str(open, origin);
                for (index, item) in list.items.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" }, origin);
                    item.write_repr(out, origin, fuel)?;
                }
                let is_alone = list.kind == ListKind::Tuple && list.items.len() == 1;
                out.push_str(if is_alone { "," } else { "" }, origin);
                out.push_str(close, origin);
            }
            Value::Map(map) => {
                let own = map.items.first().map_or(origin, |(key, _)| key.first_origin());
                out.push_str("{", own);
                for (index, (key, value)) in map.items.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" }, own);
                    Value::Str(key.clone()).write_repr(out, own, fuel)?;
                    out.push_str(": ", own);
                    value.write_repr(out, own, fuel)?;
                }
                out.push_str("}", own);
            }
            Value::Undefined(_) => out.push_str("Undefined", origin),
            _ => return problem(format!("cannot print a {}", self.type_name())),
        }
        Ok(())
    }
}

fn nesting<'a>(values: impl Iterator<Item = &'a Value>) -> Outcome<u32> {
    let mut depth = 0;
    for value in values {
        check_holdable(value)?;
        depth = depth.max(match value {
            Value::List(list) => list.depth,
            Value::Map(map) => map.depth,
            _ => 0,
        });
    }
    if depth >= MAX_NESTING {
        return problem(format!("nests values deeper than the {MAX_NESTING} levels allowed"));
    }
    Ok(depth + 1)
}

/// A namespace in a namespace could build a chain without end, or a ring.
pub fn check_holdable(value: &Value) -> Outcome<()> {
    match value {
        Value::Namespace(_) | Value::Loop(_) | Value::Iterator(_) | Value::Method(_) => problem(
            format!("puts a {} into another value, which is not supported", value.type_name()),
        ),
        _ => Ok(()),
    }
}

fn maps_equal(a: &Map, b: &Map, fuel: &Fuel) -> Outcome<bool> {
    if a.items.len() != b.items.len() {
        return Ok(false);
    }
    for (key, value) in &a.items {
        fuel.search(key.as_str(), b.items.len())?;
        match b.get(key.as_str()) {
            Some(other) if value.equals(other, fuel)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// repr() of a string: double quotes only where single ones stand in it and no double ones.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => out.push_str(&match c as u32 {
                code @ 0..=0xff => format!("\\x{code:02x}"),
                code @ 0x100..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push(quote);
    out
}

/// repr() of a float: the shortest digits, with an exponent below 1e-4 and from 1e16.
pub fn float_text(value: f64) -> String {
    if value.is_nan() || value.is_infinite() {
        return if value.is_nan() {
            "nan"
        } else if value > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_string();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{value}");
    if plain.contains('.') {
        plain
    } else {
        plain + ".0"
    }
}
