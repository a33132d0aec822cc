//! Runs a program. Scopes are jinja2's: a loop and a macro have their own, an `if` has not.

use std::cell::RefCell;
use std::rc::Rc;

use crate::ast::{
    Call, Comparison, Expr, ExprKind, ForLoop, Node, NodeKind, Operator, Program, Target,
};
use crate::calls::{call_function, call_method, check_attribute_name, Arguments};
use crate::filters::{apply_filter, apply_test};
use crate::operators;
use crate::text::{Text, TextBuilder};
use crate::value::{check_holdable, problem, Fault, Fuel, ListKind, Loop, Outcome, Value};

const MAX_DEPTH: usize = 600;
const MAX_MACRO_DEPTH: usize = 100;

type Frame = Vec<(Rc<str>, Value)>;

enum Flow {
    Next,
    Break,
    Continue,
}

pub struct Interpreter<'a> {
    program: &'a Program,
    /// The first has the variables of the caller, the second what the template sets at its top.
    frames: Vec<Frame>,
    pub fuel: Fuel,
    depth: usize,
    macro_depth: usize,
}

pub fn run(program: &Program, variables: Vec<(String, Value)>) -> Outcome<Text> {
    let globals = variables.into_iter().map(|(name, value)| (Rc::from(name), value)).collect();
    let mut interpreter = Interpreter {
        program,
        frames: vec![globals, Frame::new()],
        fuel: Fuel::new(),
        depth: 0,
        macro_depth: 0,
    };
    let mut out = TextBuilder::default();
    interpreter.body(&program.body, &mut out)?;
    Ok(out.finish())
}

fn at<T>(line: usize, outcome: Outcome<T>) -> Outcome<T> {
    outcome.map_err(|fault| match fault {
        Fault::Problem { line: None, text } => Fault::Problem { line: Some(line), text },
        other => other,
    })
}

impl Interpreter<'_> {
    fn body(&mut self, nodes: &[Node], out: &mut TextBuilder) -> Outcome<Flow> {
        self.enter()?;
        for node in nodes {
            match at(node.line, self.node(node, out))? {
                Flow::Next => {}
                flow => {
                    self.depth -= 1;
                    return Ok(flow);
                }
            }
        }
        self.depth -= 1;
        Ok(Flow::Next)
    }

    fn enter(&mut self) -> Outcome<()> {
        self.fuel.step(1)?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return problem(format!("recursion deeper than the {MAX_DEPTH} levels allowed"));
        }
        Ok(())
    }

    fn node(&mut self, node: &Node, out: &mut TextBuilder) -> Outcome<Flow> {
        self.fuel.step(1)?;
        match &node.kind {
            NodeKind::Text(text) => self.write(&Text::template(text), out)?,
            NodeKind::Print(value) => {
                let text = self.value(value)?.to_text(&self.fuel)?;
                self.write(&text, out)?;
            }
            NodeKind::Set { target, value } => {
                let value = self.value(value)?;
                self.assign(target, value)?;
            }
            NodeKind::SetBlock { target, filters, body } => {
                let value = self.captured(body, filters)?;
                self.assign(target, value)?;
            }
            NodeKind::FilterBlock { filters, body } => {
                let text = self.captured(body, filters)?.to_text(&self.fuel)?;
                self.write(&text, out)?;
            }
            NodeKind::If { branches, otherwise } => {
                for (condition, body) in branches {
                    if self.value(condition)?.is_true() {
                        return self.body(body, out);
                    }
                }
                return self.body(otherwise, out);
            }
            NodeKind::For(node) => return self.for_loop(node, out),
            NodeKind::With { values, body } => {
                let mut frame = Frame::new();
                for (name, value) in values {
                    frame.push((Rc::from(&**name), self.value(value)?));
                }
                return self.framed(frame, body, out);
            }
            NodeKind::Macro(index) => {
                let name = Rc::from(&*self.program.macros[*index].name);
                self.define(name, Value::Macro { index: *index, scopes: self.frames.len() })?;
            }
            NodeKind::Block(body) => return self.framed(Frame::new(), body, out),
            NodeKind::Break => return Ok(Flow::Break),
            NodeKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn write(&mut self, text: &Text, out: &mut TextBuilder) -> Outcome<()> {
        self.fuel.copy(text)?;
        out.push(text);
        operators::check_output(out.len())
    }

    /// A body with names of its own.
    fn framed(&mut self, frame: Frame, body: &[Node], out: &mut TextBuilder) -> Outcome<Flow> {
        self.frames.push(frame);
        let flow = self.body(body, out);
        self.frames.pop();
        flow
    }

    fn captured(&mut self, body: &[Node], filters: &[Call]) -> Outcome<Value> {
        let mut inner = TextBuilder::default();
        self.framed(Frame::new(), body, &mut inner)?;
        let mut value = Value::Str(inner.finish());
        for filter in filters {
            value = self.filter(value, filter)?;
        }
        Ok(value)
    }

    fn define(&mut self, name: Rc<str>, value: Value) -> Outcome<()> {
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        self.fuel.search(&name, frame.len())?;
        match frame.iter_mut().find(|(known, _)| *known == name) {
            Some((_, place)) => *place = value,
            None => frame.push((name, value)),
        }
        Ok(())
    }

    fn assign(&mut self, target: &Target, value: Value) -> Outcome<()> {
        match target {
            Target::Name(name) => self.define(Rc::from(&**name), value),
            Target::Attribute(name, key) => {
                let Value::Namespace(items) = self.lookup(name)? else {
                    return problem(format!("cannot set '{name}.{key}': '{name}' is no namespace"));
                };
                check_holdable(&value)?;
                check_attribute_name(key)?;
                self.fuel.search(key, items.borrow().len())?;
                set_attribute(&items, key, value);
                Ok(())
            }
            Target::Several(targets) => {
                let values = self.unpacked(&value, targets.len())?;
                targets
                    .iter()
                    .zip(values)
                    .try_for_each(|(target, value)| self.assign(target, value))
            }
        }
    }

    fn unpacked(&self, value: &Value, count: usize) -> Outcome<Vec<Value>> {
        let values = operators::iterate(value, &self.fuel)?;
        if values.len() != count {
            return problem(format!("unpacks {} values into {count} names", values.len()));
        }
        Ok(values)
    }

    fn for_loop(&mut self, node: &ForLoop, out: &mut TextBuilder) -> Outcome<Flow> {
        let items = self.value(&node.items)?;
        let mut items = operators::iterate(&items, &self.fuel)?;
        if let Some(condition) = &node.condition {
            let mut kept = Vec::new();
            for item in items {
                self.frames.push(Frame::new());
                self.assign(&node.target, item.clone())?;
                let is_kept = self.value(condition)?.is_true();
                self.frames.pop();
                if is_kept {
                    kept.push(item);
                }
            }
            items = kept;
        }
        let items = Rc::new(items);
        let seen = Rc::default();
        // jinja2 takes the `else` branch unless a whole item was gone through.
        let mut is_done = false;
        for (index, item) in items.iter().enumerate() {
            let state = Loop { items: items.clone(), index, seen: Rc::clone(&seen) };
            self.frames.push(vec![(Rc::from("loop"), Value::Loop(Rc::new(state)))]);
            self.assign(&node.target, item.clone())?;
            let flow = self.body(&node.body, out)?;
            self.frames.pop();
            match flow {
                Flow::Break => break,
                Flow::Continue => {}
                Flow::Next => is_done = true,
            }
        }
        if is_done {
            return Ok(Flow::Next);
        }
        self.framed(Frame::new(), &node.otherwise, out)
    }

    fn lookup(&self, name: &str) -> Outcome<Value> {
        for frame in self.frames.iter().rev() {
            self.fuel.search(name, frame.len())?;
            if let Some((_, value)) = frame.iter().find(|(known, _)| &**known == name) {
                return Ok(value.clone());
            }
        }
        let function = crate::calls::function_named(name).map(Value::Function);
        Ok(function.unwrap_or_else(|| Value::undefined(name)))
    }

    fn named(&self, name: &str) -> Outcome<Value> {
        let found = self.lookup(name)?;
        let is_macros_own = matches!(name, "caller" | "kwargs" | "varargs");
        let is_lacked = name == "self" || (self.macro_depth > 0 && is_macros_own);
        if is_lacked && found.is_undefined() {
            return problem(format!("'{name}' is not supported"));
        }
        Ok(found)
    }

    fn value(&mut self, expr: &Expr) -> Outcome<Value> {
        self.enter()?;
        let value = at(expr.line, self.value_of(expr));
        self.depth -= 1;
        value
    }

    fn value_of(&mut self, expr: &Expr) -> Outcome<Value> {
        match &expr.kind {
            ExprKind::Text(text) => {
                self.fuel.make(text.len())?;
                Ok(Value::text(text))
            }
            ExprKind::Int(value) => Ok(Value::Int(*value)),
            ExprKind::Float(value) => Ok(Value::Float(*value)),
            ExprKind::Bool(value) => Ok(Value::Bool(*value)),
            ExprKind::None => Ok(Value::None),
            ExprKind::Name(name) => self.named(name),
            ExprKind::List(items) => Value::list(self.values(items)?),
            ExprKind::Tuple(items) => Value::of_kind(self.values(items)?, ListKind::Tuple),
            ExprKind::Map(items) => self.map(items),
            ExprKind::Attribute(value, name) => {
                let value = self.value(value)?;
                operators::attribute(&value, name, &self.fuel)
            }
            ExprKind::Item(value, index) => {
                let (value, index) = (self.value(value)?, self.value(index)?);
                operators::item(&value, &index, &self.fuel)
            }
            ExprKind::Slice(value, bounds) => self.slice(value, bounds),
            ExprKind::Function(call) => self.function(call),
            ExprKind::Method(value, call) => self.method(value, call),
            ExprKind::Filter(value, filter) => {
                let value = self.value(value)?;
                self.filter(value, filter)
            }
            ExprKind::Test { value, test, is_negated } => {
                let value = self.value(value)?;
                Ok(Value::Bool(self.test(&value, test)? != *is_negated))
            }
            _ => self.operation(expr),
        }
    }

    fn operation(&mut self, expr: &Expr) -> Outcome<Value> {
        match &expr.kind {
            ExprKind::Not(value) => Ok(Value::Bool(!self.value(value)?.is_true())),
            ExprKind::Negative(value) => operators::signed(&self.value(value)?, true),
            ExprKind::Positive(value) => operators::signed(&self.value(value)?, false),
            ExprKind::And(left, right) => {
                let left = self.value(left)?;
                if left.is_true() {
                    self.value(right)
                } else {
                    Ok(left)
                }
            }
            ExprKind::Or(left, right) => {
                let left = self.value(left)?;
                if left.is_true() {
                    Ok(left)
                } else {
                    self.value(right)
                }
            }
            ExprKind::Binary(operator, left, right) => self.binary(*operator, left, right),
            ExprKind::Compare(first, rest) => self.compare(first, rest),
            ExprKind::Choice { condition, then, otherwise } => {
                if self.value(condition)?.is_true() {
                    return self.value(then);
                }
                match otherwise {
                    Some(otherwise) => self.value(otherwise),
                    None => Ok(Value::undefined("an if without else")),
                }
            }
            _ => problem("has an expression that is not supported"),
        }
    }

    fn values(&mut self, exprs: &[Expr]) -> Outcome<Vec<Value>> {
        exprs.iter().map(|expr| self.value(expr)).collect()
    }

    fn map(&mut self, items: &[(Expr, Expr)]) -> Outcome<Value> {
        let mut out: Vec<(Text, Value)> = Vec::new();
        for (key, value) in items {
            let (key, value) = (self.value(key)?, self.value(value)?);
            let Value::Str(key) = key else {
                return problem(format!(
                    "a dict has a key that is {}; allowed is str",
                    key.type_name()
                ));
            };
            self.fuel.search(key.as_str(), out.len())?;
            match out.iter_mut().find(|(known, _)| known.as_str() == key.as_str()) {
                Some((_, place)) => *place = value,
                None => out.push((key, value)),
            }
        }
        Value::map(out)
    }

    fn slice(&mut self, value: &Expr, bounds: &[Option<Expr>; 3]) -> Outcome<Value> {
        let value = self.value(value)?;
        let mut numbers = [None; 3];
        for (number, bound) in numbers.iter_mut().zip(bounds) {
            let Some(bound) = bound else { continue };
            *number = match self.value(bound)? {
                Value::None => None,
                other => match other.as_int() {
                    Some(index) => Some(index),
                    None => return problem(format!("slices with a {}", other.type_name())),
                },
            };
        }
        operators::slice(&value, numbers, &self.fuel)
    }

    fn binary(&mut self, operator: Operator, left: &Expr, right: &Expr) -> Outcome<Value> {
        let (left, right) = (self.value(left)?, self.value(right)?);
        operators::binary(operator, &left, &right, &self.fuel)
    }

    fn compare(&mut self, first: &Expr, rest: &[(Comparison, Expr)]) -> Outcome<Value> {
        let mut left = self.value(first)?;
        for (comparison, right) in rest {
            let right = self.value(right)?;
            if !operators::compare(*comparison, &left, &right, &self.fuel)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn arguments(&mut self, call: &Call) -> Outcome<Arguments> {
        let positional = self.values(&call.arguments)?;
        let mut named = Vec::new();
        for (name, value) in &call.named {
            named.push((name.to_string(), self.value(value)?));
        }
        Ok(Arguments::new(&call.name, positional, named))
    }

    fn function(&mut self, call: &Call) -> Outcome<Value> {
        let function = self.named(&call.name)?;
        self.call(&function, call)
    }

    fn call(&mut self, function: &Value, call: &Call) -> Outcome<Value> {
        let mut arguments = self.arguments(call)?;
        match function {
            Value::Macro { index, scopes } => {
                at(call.line, self.call_macro(*index, *scopes, arguments))
            }
            Value::Function(name) => call_function(name, arguments, &self.fuel),
            Value::Method(method) => {
                arguments.name = method.name.to_string();
                at(call.line, call_method(&method.of, arguments, &self.fuel))
            }
            Value::Undefined(_) => problem(format!("function '{}' is not known here", call.name)),
            other => problem(format!("'{}' is a {}, not a function", call.name, other.type_name())),
        }
    }

    /// A macro sees the first `scopes` scopes: those that it was defined in.
    fn call_macro(&mut self, index: usize, scopes: usize, arguments: Arguments) -> Outcome<Value> {
        self.macro_depth += 1;
        if self.macro_depth > MAX_MACRO_DEPTH {
            return problem(format!("recursion deeper than the {MAX_MACRO_DEPTH} macros allowed"));
        }
        let program = self.program;
        let definition = &program.macros[index];
        // What the caller's loops set is out of a macro's sight.
        let scopes = scopes.min(self.frames.len());
        let hidden = self.frames.split_off(scopes);
        self.frames.push(Frame::new());
        let mut out = TextBuilder::default();
        let outcome = self
            .bind_parameters(&definition.parameters, arguments)
            .and_then(|()| self.body(&definition.body, &mut out));
        self.frames.truncate(scopes);
        self.frames.extend(hidden);
        self.macro_depth -= 1;
        outcome?;
        Ok(Value::Str(out.finish()))
    }

    fn bind_parameters(
        &mut self,
        parameters: &[(crate::ast::Name, Option<Expr>)],
        mut arguments: Arguments,
    ) -> Outcome<()> {
        for (index, (name, default)) in parameters.iter().enumerate() {
            let value = match (arguments.take(index, name), default) {
                (Some(value), _) => value,
                (None, Some(default)) => self.value(default)?,
                (None, None) => Value::undefined(name),
            };
            self.define(Rc::from(&**name), value)?;
        }
        arguments.finish(parameters.len())
    }

    fn method(&mut self, value: &Expr, call: &Call) -> Outcome<Value> {
        let value = self.value(value)?;
        if let Value::Namespace(_) | Value::Map(_) = &value {
            let function = operators::attribute(&value, &call.name, &self.fuel)?;
            return self.call(&function, call);
        }
        let arguments = self.arguments(call)?;
        at(call.line, call_method(&value, arguments, &self.fuel))
    }

    fn filter(&mut self, value: Value, filter: &Call) -> Outcome<Value> {
        let arguments = self.arguments(filter)?;
        at(filter.line, apply_filter(value, arguments, &self.fuel))
    }

    fn test(&mut self, value: &Value, test: &Call) -> Outcome<bool> {
        let arguments = self.arguments(test)?;
        apply_test(value, arguments, &self.fuel)
    }
}

pub fn set_attribute(items: &RefCell<Vec<(String, Value)>>, key: &str, value: Value) {
    let mut items = items.borrow_mut();
    match items.iter_mut().find(|(known, _)| known == key) {
        Some((_, place)) => *place = value,
        None => items.push((key.to_string(), value)),
    }
}
