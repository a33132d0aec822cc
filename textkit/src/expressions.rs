//! The expressions in a tag: jinja2's grammar and precedence.

use std::sync::Arc;

use crate::ast::{Call, Comparison, Expr, ExprKind, Name, Operator};
use crate::lexer::{LexResult, Token};
use crate::parser::is_keyword;
use crate::tokens::{shown, Tokens};

const MAX_NESTING: usize = 100;
const MAX_ARGUMENTS: usize = 255;
/// Operators in a row: the tree is as deep as they are many.
const MAX_CHAIN: usize = 400;

impl Tokens {
    /// `(a, b=1)` of a macro.
    pub fn parameters(&mut self) -> LexResult<Vec<(Name, Option<Expr>)>> {
        let mut parameters = Vec::new();
        self.expect_sign("(")?;
        while !self.take_sign(")") {
            let name = self.new_name()?;
            let default = if self.take_sign("=") { Some(self.expression()?) } else { None };
            parameters.push((name, default));
            self.check_arguments(parameters.len())?;
            if !self.take_sign(",") {
                self.expect_sign(")")?;
                break;
            }
        }
        Ok(parameters)
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> LexResult<T>) -> LexResult<T> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return self.fault(format!("nests expressions deeper than the {MAX_NESTING} allowed"));
        }
        let out = parse(self);
        self.depth -= 1;
        out
    }

    fn link(&mut self) -> LexResult<()> {
        self.chain += 1;
        if self.chain > MAX_CHAIN {
            return self
                .fault(format!("has more than the {MAX_CHAIN} operators allowed in one tag"));
        }
        Ok(())
    }

    fn check_arguments(&self, count: usize) -> LexResult<()> {
        if count > MAX_ARGUMENTS {
            return self.fault(format!("has more than the {MAX_ARGUMENTS} arguments allowed"));
        }
        Ok(())
    }

    /// An expression, or several with commas: a tuple.
    pub fn expression_or_tuple(&mut self) -> LexResult<Expr> {
        let first = self.expression()?;
        if !matches!(self.peek(), Some(Token::Sign(","))) {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.take_sign(",") {
            if matches!(self.peek(), None | Some(Token::Sign(")"))) {
                break;
            }
            items.push(self.expression()?);
        }
        Ok(self.expr(ExprKind::Tuple(items)))
    }

    pub fn expression(&mut self) -> LexResult<Expr> {
        self.nested(|tokens| {
            let mut value = tokens.or()?;
            while tokens.take_name("if") {
                tokens.link()?;
                let condition = Box::new(tokens.or()?);
                let otherwise = if tokens.take_name("else") {
                    Some(Box::new(tokens.expression()?))
                } else {
                    None
                };
                let then = Box::new(value);
                value = tokens.expr(ExprKind::Choice { condition, then, otherwise });
            }
            Ok(value)
        })
    }

    /// In `for x in a if b` the `if` belongs to the loop; jinja2 allows none in `{% if %}` either.
    pub fn expression_without_choice(&mut self) -> LexResult<Expr> {
        self.nested(|tokens| {
            let first = tokens.or()?;
            if !matches!(tokens.peek(), Some(Token::Sign(","))) {
                return Ok(first);
            }
            let mut items = vec![first];
            while tokens.take_sign(",") {
                items.push(tokens.or()?);
            }
            Ok(tokens.expr(ExprKind::Tuple(items)))
        })
    }

    fn or(&mut self) -> LexResult<Expr> {
        let mut left = self.and()?;
        while self.take_name("or") {
            self.link()?;
            let right = self.and()?;
            left = self.expr(ExprKind::Or(Box::new(left), Box::new(right)));
        }
        Ok(left)
    }

    fn and(&mut self) -> LexResult<Expr> {
        let mut left = self.not()?;
        while self.take_name("and") {
            self.link()?;
            let right = self.not()?;
            left = self.expr(ExprKind::And(Box::new(left), Box::new(right)));
        }
        Ok(left)
    }

    fn not(&mut self) -> LexResult<Expr> {
        if self.take_name("not") {
            let value = self.nested(Tokens::not)?;
            return Ok(self.expr(ExprKind::Not(Box::new(value))));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> LexResult<Expr> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        while let Some(comparison) = self.take_comparison()? {
            self.link()?;
            rest.push((comparison, self.sum()?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        Ok(self.expr(ExprKind::Compare(Box::new(first), rest)))
    }

    fn take_comparison(&mut self) -> LexResult<Option<Comparison>> {
        const SIGNS: [(&str, Comparison); 6] = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<", Comparison::Less),
            ("<=", Comparison::LessOrEqual),
            (">", Comparison::Greater),
            (">=", Comparison::GreaterOrEqual),
        ];
        for (sign, comparison) in SIGNS {
            if self.take_sign(sign) {
                return Ok(Some(comparison));
            }
        }
        if self.take_name("in") {
            return Ok(Some(Comparison::In));
        }
        if self.take_name("not") {
            self.expect_name("in")?;
            return Ok(Some(Comparison::NotIn));
        }
        Ok(None)
    }

    fn binary(
        &mut self,
        signs: &[(&str, Operator)],
        operand: fn(&mut Self) -> LexResult<Expr>,
    ) -> LexResult<Expr> {
        let mut left = operand(self)?;
        while let Some((_, operator)) = signs.iter().find(|(sign, _)| self.take_sign(sign)) {
            self.link()?;
            let line = self.line;
            let right = operand(self)?;
            let kind = ExprKind::Binary(*operator, Box::new(left), Box::new(right));
            left = Expr { line, kind };
        }
        Ok(left)
    }

    fn sum(&mut self) -> LexResult<Expr> {
        self.binary(&[("+", Operator::Add), ("-", Operator::Subtract)], Tokens::concatenation)
    }

    fn concatenation(&mut self) -> LexResult<Expr> {
        self.binary(&[("~", Operator::Concatenate)], Tokens::product)
    }

    fn product(&mut self) -> LexResult<Expr> {
        let signs = [
            ("*", Operator::Multiply),
            ("//", Operator::FloorDivide),
            ("/", Operator::Divide),
            ("%", Operator::Remainder),
        ];
        self.binary(&signs, Tokens::power)
    }

    /// From left to right, unlike in Python.
    fn power(&mut self) -> LexResult<Expr> {
        self.binary(&[("**", Operator::Power)], Tokens::unary)
    }

    fn unary(&mut self) -> LexResult<Expr> {
        let value = self.unary_without_filters()?;
        self.filters_and_tests(value)
    }

    fn unary_without_filters(&mut self) -> LexResult<Expr> {
        if self.take_sign("-") {
            let value = self.nested(Tokens::unary_without_filters)?;
            return Ok(self.expr(ExprKind::Negative(Box::new(value))));
        }
        if self.take_sign("+") {
            let value = self.nested(Tokens::unary_without_filters)?;
            return Ok(self.expr(ExprKind::Positive(Box::new(value))));
        }
        let value = self.primary()?;
        self.postfix(value)
    }

    fn primary(&mut self) -> LexResult<Expr> {
        let Some(token) = self.next() else {
            return self.fault("a tag ends where a value must stand");
        };
        let kind = match token {
            Token::Text(mut text) => {
                while let Some(Token::Text(_)) = self.peek() {
                    if let Some(Token::Text(more)) = self.next() {
                        text.push_str(&more);
                    }
                }
                ExprKind::Text(text)
            }
            Token::Int(value) => ExprKind::Int(value),
            Token::Float(value) => ExprKind::Float(value),
            Token::Name(name) => return self.named_value(name),
            Token::Sign("(") => return self.brackets(),
            Token::Sign("[") => ExprKind::List(self.items("]")?),
            Token::Sign("{") => self.map()?,
            token => {
                return self
                    .fault(format!("unexpected {}; a value must stand there", shown(&token)))
            }
        };
        Ok(self.expr(kind))
    }

    fn named_value(&mut self, name: String) -> LexResult<Expr> {
        let kind = match name.as_str() {
            "true" | "True" => ExprKind::Bool(true),
            "false" | "False" => ExprKind::Bool(false),
            "none" | "None" => ExprKind::None,
            word if is_keyword(word) => {
                return self.fault(format!("unexpected '{word}'; a value must stand there"))
            }
            _ => ExprKind::Name(Arc::from(name)),
        };
        Ok(self.expr(kind))
    }

    fn brackets(&mut self) -> LexResult<Expr> {
        if self.take_sign(")") {
            return Ok(self.expr(ExprKind::Tuple(Vec::new())));
        }
        let value = self.expression_or_tuple()?;
        self.expect_sign(")")?;
        Ok(value)
    }

    fn items(&mut self, close: &str) -> LexResult<Vec<Expr>> {
        let mut items = Vec::new();
        while !self.take_sign(close) {
            items.push(self.expression()?);
            if !self.take_sign(",") {
                self.expect_sign(close)?;
                break;
            }
        }
        Ok(items)
    }

    fn map(&mut self) -> LexResult<ExprKind> {
        let mut items = Vec::new();
        while !self.take_sign("}") {
            let key = self.expression()?;
            self.expect_sign(":")?;
            items.push((key, self.expression()?));
            if !self.take_sign(",") {
                self.expect_sign("}")?;
                break;
            }
        }
        Ok(ExprKind::Map(items))
    }

    /// `.name`, `[...]`, `(...)`
    fn postfix(&mut self, mut value: Expr) -> LexResult<Expr> {
        loop {
            if self.take_sign(".") {
                self.link()?;
                value = self.attribute(value)?;
            } else if self.take_sign("[") {
                self.link()?;
                value = self.subscript(value)?;
            } else if self.take_sign("(") {
                self.link()?;
                value = self.call_of(value)?;
            } else {
                return Ok(value);
            }
        }
    }

    fn attribute(&mut self, value: Expr) -> LexResult<Expr> {
        let value = Box::new(value);
        if let Some(Token::Int(index)) = self.peek().cloned() {
            self.next();
            let index = Box::new(self.expr(ExprKind::Int(index)));
            return Ok(self.expr(ExprKind::Item(value, index)));
        }
        let name = self.name()?;
        if self.take_sign("(") {
            let call = self.arguments(name)?;
            return Ok(self.expr(ExprKind::Method(value, call)));
        }
        Ok(self.expr(ExprKind::Attribute(value, name)))
    }

    fn subscript(&mut self, value: Expr) -> LexResult<Expr> {
        let value = Box::new(value);
        let mut parts = [None, None, None];
        let mut count = 0;
        loop {
            if !matches!(self.peek(), Some(Token::Sign(":" | "]"))) {
                parts[count] = Some(self.expression()?);
            }
            if count < 2 && self.take_sign(":") {
                count += 1;
                continue;
            }
            self.expect_sign("]")?;
            break;
        }
        if count > 0 {
            return Ok(self.expr(ExprKind::Slice(value, Box::new(parts))));
        }
        let [Some(index), ..] = parts else { return self.fault("'[]' has no index") };
        Ok(self.expr(ExprKind::Item(value, Box::new(index))))
    }

    fn call_of(&mut self, value: Expr) -> LexResult<Expr> {
        match value.kind {
            ExprKind::Name(name) => {
                let call = self.arguments(name)?;
                Ok(self.expr(ExprKind::Function(call)))
            }
            _ => self.fault("the result of an expression is called, which is not supported"),
        }
    }

    /// After the opening bracket, up to the closing one.
    fn arguments(&mut self, name: Name) -> LexResult<Call> {
        let mut call = Call { line: self.line, name, arguments: Vec::new(), named: Vec::new() };
        while !self.take_sign(")") {
            if matches!(self.peek(), Some(Token::Sign("*" | "**"))) {
                return self.fault("arguments with '*' are not supported");
            }
            let value = self.expression()?;
            match value.kind {
                ExprKind::Name(key) if self.take_sign("=") => {
                    call.named.push((key, self.expression()?));
                }
                _ => call.arguments.push(value),
            }
            self.check_arguments(call.arguments.len() + call.named.len())?;
            if !self.take_sign(",") {
                self.expect_sign(")")?;
                break;
            }
        }
        Ok(call)
    }

    fn filters_and_tests(&mut self, mut value: Expr) -> LexResult<Expr> {
        loop {
            if self.take_sign("|") {
                self.link()?;
                let filter = self.filter()?;
                let line = filter.line;
                value = Expr { line, kind: ExprKind::Filter(Box::new(value), filter) };
            } else if self.take_name("is") {
                self.link()?;
                let is_negated = self.take_name("not");
                let test = self.test()?;
                let value_box = Box::new(value);
                value = self.expr(ExprKind::Test { value: value_box, test, is_negated });
            } else {
                return Ok(value);
            }
        }
    }

    pub fn filter(&mut self) -> LexResult<Call> {
        let name = self.name()?;
        if self.take_sign("(") {
            return self.arguments(name);
        }
        Ok(Call { line: self.line, name, arguments: Vec::new(), named: Vec::new() })
    }

    fn test(&mut self) -> LexResult<Call> {
        let name = self.name()?;
        if self.take_sign("(") {
            return self.arguments(name);
        }
        let mut call = Call { line: self.line, name, arguments: Vec::new(), named: Vec::new() };
        let has_argument = match self.peek() {
            Some(Token::Name(word)) if word == "is" => {
                return self.fault("tests stand in a chain; put the first into brackets");
            }
            Some(Token::Name(word)) => !matches!(word.as_str(), "and" | "else" | "or"),
            Some(Token::Text(_) | Token::Int(_) | Token::Float(_)) => true,
            Some(Token::Sign(sign)) => matches!(*sign, "[" | "{"),
            None => false,
        };
        if has_argument {
            let value = self.primary()?;
            call.arguments.push(self.postfix(value)?);
        }
        Ok(call)
    }
}
