//! Functions of the environment, and the methods of strings and dicts that templates may call.
//! Parts of a content stay content, whatever cuts them out.

use std::cell::RefCell;
use std::rc::Rc;

use crate::clock;
use crate::operators::{check_output, contains, iterate, join};
use crate::strings;
use crate::text::Text;
use crate::value::{check_holdable, problem, Fault, Fuel, Outcome, Value};

const MAX_RANGE: i128 = 100_000;
const FUNCTIONS: [&str; 5] = ["dict", "namespace", "raise_exception", "range", "strftime_now"];

/// The arguments of one call, taken out one by one.
pub struct Arguments {
    pub name: String,
    positional: Vec<Option<Value>>,
    named: Vec<(String, Value)>,
}

impl Arguments {
    pub fn new(name: &str, positional: Vec<Value>, named: Vec<(String, Value)>) -> Self {
        let positional = positional.into_iter().map(Some).collect();
        Arguments { name: name.to_string(), positional, named }
    }

    /// The argument at `index`, or called `name`.
    pub fn take(&mut self, index: usize, name: &str) -> Option<Value> {
        if let Some(value) = self.positional.get_mut(index).and_then(Option::take) {
            return Some(value);
        }
        let at = self.named.iter().position(|(known, _)| known == name)?;
        Some(self.named.remove(at).1)
    }

    pub fn take_text(&mut self, index: usize, name: &str) -> Outcome<Option<Text>> {
        match self.take(index, name) {
            None | Some(Value::None) => Ok(None),
            Some(Value::Str(text)) => Ok(Some(text)),
            Some(other) => self.wrong(name, "str", &other),
        }
    }

    pub fn take_int(&mut self, index: usize, name: &str) -> Outcome<Option<i128>> {
        match self.take(index, name) {
            None | Some(Value::None) => Ok(None),
            Some(other) => match other.as_int() {
                Some(number) => Ok(Some(number)),
                None => self.wrong(name, "int", &other),
            },
        }
    }

    pub fn need_text(&mut self, index: usize, name: &str) -> Outcome<Text> {
        match self.take_text(index, name)? {
            Some(text) => Ok(text),
            None => problem(format!("{}: needs the argument '{name}'", self.name)),
        }
    }

    fn wrong<T>(&self, name: &str, wanted: &str, got: &Value) -> Outcome<T> {
        let call = &self.name;
        problem(format!("{call}: '{name}' is a {}; must be {wanted}", got.type_name()))
    }

    /// What is left of the positional ones, as far as none was taken.
    pub fn take_rest(&mut self) -> Vec<Value> {
        self.positional.iter_mut().filter_map(Option::take).collect()
    }

    pub fn take_named(&mut self) -> Vec<(String, Value)> {
        std::mem::take(&mut self.named)
    }

    /// Nothing may be left.
    pub fn finish(self, most: usize) -> Outcome<()> {
        if let Some((name, _)) = self.named.first() {
            return problem(format!("{}: the argument '{name}' is not supported", self.name));
        }
        if self.positional.iter().any(Option::is_some) {
            let got = self.positional.len();
            return problem(format!("{}: got {got} arguments; takes at most {most}", self.name));
        }
        Ok(())
    }
}

pub fn function_named(name: &str) -> Option<&'static str> {
    FUNCTIONS.into_iter().find(|known| *known == name)
}

pub fn call_function(name: &str, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    match name {
        "raise_exception" => {
            let message = arguments.take(0, "message").unwrap_or(Value::None).to_text(fuel)?;
            Err(Fault::Refusal(message.as_str().to_string()))
        }
        "strftime_now" => {
            let format = arguments.need_text(0, "format")?;
            arguments.finish(1)?;
            clock::format(format.as_str()).map(|text| Value::text(&text))
        }
        "range" => range(arguments, fuel),
        "namespace" => namespace(arguments),
        _ => {
            let items = arguments.take_named();
            arguments.finish(0)?;
            Value::map(
                items.into_iter().map(|(key, value)| (Text::template(&key), value)).collect(),
            )
        }
    }
}

fn namespace(mut arguments: Arguments) -> Outcome<Value> {
    let mut items = Vec::new();
    if let Some(Value::Map(map)) = arguments.take(0, "") {
        items
            .extend(map.items.iter().map(|(key, value)| (key.as_str().to_string(), value.clone())));
    }
    items.extend(arguments.take_named());
    arguments.finish(1)?;
    items.iter().try_for_each(|(_, value)| check_holdable(value))?;
    Ok(Value::Namespace(Rc::new(RefCell::new(items))))
}

fn range(mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    let first = arguments.take_int(0, "start")?.unwrap_or(0);
    let second = arguments.take_int(1, "stop")?;
    let step = arguments.take_int(2, "step")?.unwrap_or(1);
    arguments.finish(3)?;
    let (begin, end) = second.map_or((0, first), |second| (first, second));
    if step == 0 {
        return problem("range: step is 0");
    }
    let distance = if step > 0 { end.saturating_sub(begin) } else { begin.saturating_sub(end) };
    let count = (distance.max(0) + step.abs() - 1) / step.abs();
    if count > MAX_RANGE {
        return problem(format!("range: has {count} numbers; allowed are {MAX_RANGE}"));
    }
    fuel.step(count as usize)?;
    Value::list((0..count).map(|index| Value::Int(begin + index * step)).collect())
}

pub fn call_method(value: &Value, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    match (value, arguments.name.as_str()) {
        (Value::Str(text), _) => strings::call(text, arguments, fuel),
        (Value::Map(map), "items" | "keys" | "values" | "get") => {
            fuel.step(map.items.len())?;
            if arguments.name == "get" {
                return get(value, arguments, fuel);
            }
            let name = arguments.name.clone();
            arguments.finish(0)?;
            pairs(value, &name)
        }
        (Value::List(list), "index" | "count") => {
            let wanted = arguments.take(0, "value").unwrap_or(Value::None);
            let is_count = arguments.name == "count";
            arguments.finish(1)?;
            let mut found = Vec::new();
            for (index, item) in list.items.iter().enumerate() {
                if item.equals(&wanted, fuel)? {
                    found.push(index as i128);
                }
            }
            if is_count {
                return Ok(Value::Int(found.len() as i128));
            }
            found.first().map_or_else(
                || problem("index: the list has no such item"),
                |at| Ok(Value::Int(*at)),
            )
        }
        (Value::Undefined(name), method) => {
            problem(format!("'{name}' is not defined, and has no method '{method}'"))
        }
        (_, method) => problem(format!("{}.{method}(...) is not supported", value.type_name())),
    }
}

fn get(map: &Value, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    let key = arguments.take(0, "key").unwrap_or(Value::None);
    let default = arguments.take(1, "default").unwrap_or(Value::None);
    arguments.finish(2)?;
    let Value::Map(items) = map else { return Ok(default) };
    if !contains(map, &key, fuel)? {
        return Ok(default);
    }
    Ok(key.as_str().and_then(|key| items.get(key)).cloned().unwrap_or(default))
}

/// items(), keys() and values() of a dict.
pub fn pairs(map: &Value, which: &str) -> Outcome<Value> {
    let Value::Map(map) = map else {
        return problem(format!("{which}: got a {}; must be a dict", map.type_name()));
    };
    let of = |(key, value): &(Text, Value)| match which {
        "keys" => Ok(Value::Str(key.clone())),
        "values" => Ok(value.clone()),
        _ => Value::sequence(vec![Value::Str(key.clone()), value.clone()], true),
    };
    Value::list(map.items.iter().map(of).collect::<Outcome<Vec<Value>>>()?)
}

/// str.join()
pub fn join_all(separator: &Text, items: &Value, fuel: &Fuel) -> Outcome<Value> {
    let items = iterate(items, fuel)?;
    if let Some(other) = items.iter().find(|item| item.as_str().is_none()) {
        return problem(format!("join: has an item that is a {}; must be str", other.type_name()));
    }
    let text = join(&items, separator, fuel)?;
    check_output(text.len())?;
    Ok(Value::Str(text))
}
