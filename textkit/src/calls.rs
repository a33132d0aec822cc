//! Functions of the environment, and the methods of strings and dicts that templates may call.
//! Parts of a content stay content, whatever cuts them out.

use std::cell::RefCell;
use std::rc::Rc;

use crate::clock;
use crate::operators::{check_output, contains, iterate, join};
use crate::strings;
use crate::text::Text;
use crate::value::{check_holdable, problem, Fault, Fuel, ListKind, Loop, Outcome, Value};

const MAX_RANGE: i128 = 100_000;
/// The last three are known, so that templates can ask for them, but not supported.
const FUNCTIONS: [&str; 8] =
    ["dict", "namespace", "raise_exception", "range", "strftime_now", "cycler", "joiner", "lipsum"];

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

    /// For what Python takes by place only.
    pub fn no_names(&self) -> Outcome<()> {
        match self.named.first() {
            Some((name, _)) => {
                problem(format!("{}: takes no argument by name '{name}'", self.name))
            }
            None => Ok(()),
        }
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
        "namespace" => namespace(arguments, fuel),
        "dict" => Value::map(pairs_of(arguments, fuel)?),
        _ => problem(format!("function '{name}' is not supported")),
    }
}

/// The pairs of a dict or a list of pairs, and the named arguments.
fn pairs_of(mut arguments: Arguments, fuel: &Fuel) -> Outcome<Vec<(Text, Value)>> {
    let name = arguments.name.clone();
    let mut out: Vec<(Text, Value)> = Vec::new();
    let mut add = |key: Text, value: Value| {
        fuel.step(1 + out.len() / 16)?;
        match out.iter_mut().find(|(known, _)| known.as_str() == key.as_str()) {
            Some((_, place)) => *place = value,
            None => out.push((key, value)),
        }
        Ok(())
    };
    match arguments.take(0, "") {
        Some(Value::Map(map)) => {
            map.items.iter().try_for_each(|(key, value)| add(key.clone(), value.clone()))?;
        }
        Some(other) => {
            for pair in iterate(&other, fuel)? {
                match &iterate(&pair, fuel)?[..] {
                    [Value::Str(key), value] => add(key.clone(), value.clone())?,
                    _ => {
                        return problem(format!("{name}: an item is no pair of a str and a value"))
                    }
                }
            }
        }
        None => {}
    }
    for (key, value) in arguments.take_named() {
        add(Text::template(&key), value)?;
    }
    arguments.finish(1)?;
    Ok(out)
}

/// transformers lets no template store such a name.
pub fn check_attribute_name(name: &str) -> Outcome<()> {
    if name.starts_with('_') {
        return problem(format!("a namespace cannot hold '{name}': it begins with '_'"));
    }
    Ok(())
}

fn namespace(arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    let pairs = pairs_of(arguments, fuel)?;
    let items: Vec<(String, Value)> =
        pairs.into_iter().map(|(key, value)| (key.as_str().to_string(), value)).collect();
    for (name, value) in &items {
        check_attribute_name(name)?;
        check_holdable(value)?;
    }
    Ok(Value::Namespace(Rc::new(RefCell::new(items))))
}

fn range(mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    arguments.no_names()?;
    let Some(first) = arguments.take_int(0, "start")? else {
        return problem("range: needs a number");
    };
    let second = arguments.take_int(1, "stop")?;
    let step = arguments.take_int(2, "step")?.unwrap_or(1);
    arguments.finish(3)?;
    let (begin, end) = second.map_or((0, first), |second| (first, second));
    if step == 0 {
        return problem("range: step is 0");
    }
    let distance = if step > 0 { end.saturating_sub(begin) } else { begin.saturating_sub(end) };
    let size = step.unsigned_abs() as i128;
    let count = distance.max(0) / size + i128::from(distance > 0 && distance % size != 0);
    if count > MAX_RANGE {
        return problem(format!("range: has {count} numbers; allowed are {MAX_RANGE}"));
    }
    fuel.step(count as usize)?;
    let numbers = (0..count).map(|index| Value::Int(begin + index * step)).collect();
    Value::of_kind(numbers, ListKind::Range)
}

pub fn call_method(value: &Value, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    match (value, arguments.name.as_str()) {
        (Value::Str(text), _) => strings::call(text, arguments, fuel),
        (Value::Safe(_), method) => {
            problem(format!("the method '{method}' of a string from `safe` is not supported"))
        }
        (Value::Loop(state), _) => call_loop(state, arguments, fuel),
        (Value::Map(_), "items" | "keys" | "values" | "get" | "copy") => {
            arguments.no_names()?;
            if arguments.name == "get" {
                return get(value, arguments, fuel);
            }
            if arguments.name == "copy" {
                return arguments.finish(0).map(|()| value.clone());
            }
            let name = arguments.name.clone();
            arguments.finish(0)?;
            pairs(value, &name, fuel)
        }
        (Value::List(list), "index" | "count") => {
            arguments.no_names()?;
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

/// loop.cycle() and loop.changed()
fn call_loop(state: &Loop, mut arguments: Arguments, fuel: &Fuel) -> Outcome<Value> {
    let name = arguments.name.clone();
    arguments.no_names()?;
    let values = arguments.take_rest();
    match name.as_str() {
        "cycle" if values.is_empty() => problem("loop.cycle: needs values"),
        "cycle" => Ok(values[state.index % values.len()].clone()),
        "changed" => {
            let values = Value::list(values)?;
            let last = state.seen.replace(Some(values.clone()));
            let is_same = match last {
                Some(last) => last.equals(&values, fuel)?,
                None => false,
            };
            Ok(Value::Bool(!is_same))
        }
        _ => problem(format!("loop.{name}(...) is not supported")),
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
pub fn pairs(map: &Value, which: &str, fuel: &Fuel) -> Outcome<Value> {
    let Value::Map(map) = map else {
        return problem(format!("{which}: got a {}; must be a dict", map.type_name()));
    };
    fuel.step(map.items.len())?;
    let of = |(key, value): &(Text, Value)| match which {
        "keys" => Ok(Value::Str(key.clone())),
        "values" => Ok(value.clone()),
        _ => Value::of_kind(vec![Value::Str(key.clone()), value.clone()], ListKind::Tuple),
    };
    let kind = match which {
        "keys" => ListKind::Keys,
        "values" => ListKind::Values,
        _ => ListKind::Items,
    };
    Value::of_kind(map.items.iter().map(of).collect::<Outcome<Vec<Value>>>()?, kind)
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
