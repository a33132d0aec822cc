//! What the parser makes of a template. Lines count from 1.

use std::sync::Arc;

pub type Name = Arc<str>;

pub struct Node {
    pub line: usize,
    pub kind: NodeKind,
}

pub enum NodeKind {
    Text(String),
    Print(Expr),
    Set {
        target: Target,
        value: Expr,
    },
    /// `{% set name %}...{% endset %}`, with filters.
    SetBlock {
        target: Target,
        filters: Vec<Call>,
        body: Vec<Node>,
    },
    If {
        branches: Vec<(Expr, Vec<Node>)>,
        otherwise: Vec<Node>,
    },
    For(Box<ForLoop>),
    /// `{% with a = 1, b = 2 %}`
    With {
        values: Vec<(Name, Expr)>,
        body: Vec<Node>,
    },
    /// Index into Program::macros.
    Macro(usize),
    FilterBlock {
        filters: Vec<Call>,
        body: Vec<Node>,
    },
    /// A body that is rendered as it stands, with names of its own: `{% generation %}`.
    Block(Vec<Node>),
    Break,
    Continue,
}

pub enum Target {
    Name(Name),
    Attribute(Name, Name),
    Several(Vec<Target>),
}

pub struct ForLoop {
    pub target: Target,
    pub items: Expr,
    pub condition: Option<Expr>,
    pub body: Vec<Node>,
    pub otherwise: Vec<Node>,
}

pub struct Macro {
    pub name: Name,
    pub parameters: Vec<(Name, Option<Expr>)>,
    pub body: Vec<Node>,
}

pub struct Program {
    pub body: Vec<Node>,
    pub macros: Vec<Macro>,
}

pub struct Expr {
    pub line: usize,
    pub kind: ExprKind,
}

/// A filter, a test or the arguments of a function.
pub struct Call {
    pub line: usize,
    pub name: Name,
    pub arguments: Vec<Expr>,
    pub named: Vec<(Name, Expr)>,
}

pub enum ExprKind {
    Text(String),
    Int(i128),
    Float(f64),
    Bool(bool),
    None,
    Name(Name),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Map(Vec<(Expr, Expr)>),
    Attribute(Box<Expr>, Name),
    Item(Box<Expr>, Box<Expr>),
    Slice(Box<Expr>, Box<[Option<Expr>; 3]>),
    /// `name(...)`
    Function(Call),
    /// `value.name(...)`
    Method(Box<Expr>, Call),
    Filter(Box<Expr>, Call),
    Test {
        value: Box<Expr>,
        test: Call,
        is_negated: bool,
    },
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Binary(Operator, Box<Expr>, Box<Expr>),
    /// `a < b <= c`
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    /// `then if condition else otherwise`
    Choice {
        condition: Box<Expr>,
        then: Box<Expr>,
        otherwise: Option<Box<Expr>>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
    Concatenate,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}
