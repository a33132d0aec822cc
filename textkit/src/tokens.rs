//! The tokens of one tag, taken one by one.

use std::sync::Arc;

use crate::ast::{Expr, ExprKind, Name, Target};
use crate::lexer::{LexResult, Token};

const MAX_TARGET_NESTING: usize = 20;

pub struct Tokens {
    tokens: std::iter::Peekable<std::vec::IntoIter<(Token, usize)>>,
    pub line: usize,
    pub depth: usize,
    pub chain: usize,
}

impl Tokens {
    pub fn new(tokens: Vec<(Token, usize)>, line: usize) -> Self {
        Tokens { tokens: tokens.into_iter().peekable(), line, depth: 0, chain: 0 }
    }

    pub fn fault<T>(&self, text: impl Into<String>) -> LexResult<T> {
        Err((self.line, text.into()))
    }

    pub fn next(&mut self) -> Option<Token> {
        let (token, line) = self.tokens.next()?;
        self.line = line;
        Some(token)
    }

    pub fn peek(&mut self) -> Option<&Token> {
        self.tokens.peek().map(|(token, _)| token)
    }

    pub fn expr(&self, kind: ExprKind) -> Expr {
        Expr { line: self.line, kind }
    }

    pub fn finish(mut self) -> LexResult<()> {
        match self.next() {
            None => Ok(()),
            Some(token) => self.fault(format!("unexpected {}", shown(&token))),
        }
    }

    pub fn take_sign(&mut self, sign: &str) -> bool {
        let is_it = matches!(self.peek(), Some(Token::Sign(found)) if *found == sign);
        if is_it {
            self.next();
        }
        is_it
    }

    pub fn take_name(&mut self, name: &str) -> bool {
        let is_it = matches!(self.peek(), Some(Token::Name(found)) if found == name);
        if is_it {
            self.next();
        }
        is_it
    }

    pub fn expect_sign(&mut self, sign: &str) -> LexResult<()> {
        if self.take_sign(sign) {
            return Ok(());
        }
        let found = self.peek().map_or("the end of the tag".to_string(), shown);
        self.fault(format!("unexpected {found}; '{sign}' must stand there"))
    }

    pub fn expect_name(&mut self, name: &str) -> LexResult<()> {
        if self.take_name(name) {
            return Ok(());
        }
        let found = self.peek().map_or("the end of the tag".to_string(), shown);
        self.fault(format!("unexpected {found}; '{name}' must stand there"))
    }

    pub fn name(&mut self) -> LexResult<Name> {
        match self.next() {
            Some(Token::Name(name)) => Ok(Arc::from(name)),
            Some(token) => {
                self.fault(format!("unexpected {}; a name must stand there", shown(&token)))
            }
            None => self.fault("a tag ends where a name must stand"),
        }
    }

    pub fn skip_name(&mut self) {
        if matches!(self.peek(), Some(Token::Name(_))) {
            self.next();
        }
    }

    /// A name that may get a value.
    pub fn new_name(&mut self) -> LexResult<Name> {
        let name = self.name()?;
        match &*name {
            "in" | "true" | "True" | "false" | "False" | "none" | "None" => {
                self.fault(format!("cannot set '{name}'"))
            }
            _ => Ok(name),
        }
    }

    /// `a`, `a, b`, `(a, b)`, `a, (b, c)`; and `a.b` if the template sets it.
    pub fn target(&mut self, may_be_attribute: bool) -> LexResult<Target> {
        let first = self.one_target(may_be_attribute)?;
        if !matches!(self.peek(), Some(Token::Sign(","))) {
            return Ok(first);
        }
        let mut targets = vec![first];
        while self.take_sign(",") {
            targets.push(self.one_target(may_be_attribute)?);
        }
        Ok(Target::Several(targets))
    }

    fn one_target(&mut self, may_be_attribute: bool) -> LexResult<Target> {
        if self.take_sign("(") {
            self.depth += 1;
            if self.depth > MAX_TARGET_NESTING {
                return self.fault("nests names too deeply");
            }
            let target = self.target(may_be_attribute)?;
            self.depth -= 1;
            self.expect_sign(")")?;
            return Ok(target);
        }
        let name = self.new_name()?;
        if may_be_attribute && self.take_sign(".") {
            return Ok(Target::Attribute(name, self.name()?));
        }
        Ok(Target::Name(name))
    }
}

pub fn shown(token: &Token) -> String {
    match token {
        Token::Name(name) => format!("'{name}'"),
        Token::Text(_) => "a string".to_string(),
        Token::Int(value) => format!("'{value}'"),
        Token::Float(value) => format!("'{value}'"),
        Token::Sign(sign) => format!("'{sign}'"),
    }
}
