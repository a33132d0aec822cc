//! Tags and text become a program. What jinja2 knows and this does not is an error that names it.

use crate::ast::{Call, ForLoop, Macro, Name, Node, NodeKind, Program, Target};
use crate::lexer::{cut, Chunk, LexResult};
use crate::tokens::Tokens;

const MAX_NESTING: usize = 60;
const SUPPORTED_TAGS: &str = "break, continue, filter, for, generation, if, macro, raw, set, with";

pub fn parse(source: &str) -> LexResult<Program> {
    let mut parser = Parser {
        chunks: cut(source)?.into_iter().peekable(),
        macros: Vec::new(),
        depth: 0,
        loops: 0,
    };
    let (body, _) = parser.body(&[], 1)?;
    Ok(Program { body, macros: parser.macros })
}

struct Parser {
    chunks: std::iter::Peekable<std::vec::IntoIter<Chunk>>,
    macros: Vec<Macro>,
    depth: usize,
    loops: usize,
}

/// The tag that ended a body.
struct End {
    name: String,
    tokens: Tokens,
}

impl Parser {
    /// Up to a tag of `ends`, or to the end of the template if there are none.
    fn body(&mut self, ends: &[&str], begin_line: usize) -> LexResult<(Vec<Node>, Option<End>)> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return Err((begin_line, format!("nests tags deeper than the {MAX_NESTING} allowed")));
        }
        let mut nodes = Vec::new();
        while let Some(chunk) = self.chunks.next() {
            let (line, kind) = match chunk {
                Chunk::Text(text) => (0, NodeKind::Text(text)),
                Chunk::Print { line, tokens } => {
                    let mut tokens = Tokens::new(tokens, line);
                    let value = tokens.expression_or_tuple()?;
                    tokens.finish()?;
                    (line, NodeKind::Print(value))
                }
                Chunk::Tag { line, tokens } => {
                    let mut tokens = Tokens::new(tokens, line);
                    let name = tokens.name()?.to_string();
                    if ends.contains(&name.as_str()) {
                        self.depth -= 1;
                        return Ok((nodes, Some(End { name, tokens })));
                    }
                    (line, self.tag(&name, tokens, line)?)
                }
            };
            nodes.push(Node { line, kind });
        }
        if let Some(end) = ends.last() {
            return Err((begin_line, format!("a tag has no end '{{% {end} %}}'")));
        }
        self.depth -= 1;
        Ok((nodes, None))
    }

    /// A body whose end tag says nothing more.
    fn simple_body(&mut self, end: &str, line: usize) -> LexResult<Vec<Node>> {
        let (nodes, tag) = self.body(&[end], line)?;
        if let Some(mut tag) = tag {
            // `{% endmacro name %}`, `{% endblock name %}`
            tag.tokens.skip_name();
            tag.tokens.finish()?;
        }
        Ok(nodes)
    }

    fn tag(&mut self, name: &str, tokens: Tokens, line: usize) -> LexResult<NodeKind> {
        match name {
            "if" => self.if_tag(tokens, line),
            "for" => self.for_tag(tokens, line),
            "set" => self.set_tag(tokens, line),
            "macro" => self.macro_tag(tokens, line),
            "filter" => self.filter_tag(tokens, line),
            "with" => self.with_tag(tokens, line),
            "generation" => {
                tokens.finish()?;
                Ok(NodeKind::Block(self.simple_body("endgeneration", line)?))
            }
            "break" | "continue" if self.loops == 0 => {
                Err((line, format!("'{name}' stands outside of a loop")))
            }
            "break" => tokens.finish().map(|()| NodeKind::Break),
            "continue" => tokens.finish().map(|()| NodeKind::Continue),
            _ => Err((
                line,
                format!("tag '{name}' is not supported here; supported are {SUPPORTED_TAGS}"),
            )),
        }
    }

    fn if_tag(&mut self, mut tokens: Tokens, line: usize) -> LexResult<NodeKind> {
        let mut branches = Vec::new();
        let mut condition = tokens.expression_without_choice()?;
        tokens.finish()?;
        loop {
            let (body, end) = self.body(&["elif", "else", "endif"], line)?;
            branches.push((condition, body));
            let Some(mut end) = end else { break };
            match end.name.as_str() {
                "elif" => {
                    condition = end.tokens.expression_without_choice()?;
                    end.tokens.finish()?;
                }
                "else" => {
                    end.tokens.finish()?;
                    let otherwise = self.simple_body("endif", line)?;
                    return Ok(NodeKind::If { branches, otherwise });
                }
                _ => {
                    end.tokens.finish()?;
                    break;
                }
            }
        }
        Ok(NodeKind::If { branches, otherwise: Vec::new() })
    }

    fn for_tag(&mut self, mut tokens: Tokens, line: usize) -> LexResult<NodeKind> {
        let target = tokens.target(false)?;
        if has_name(&target, "loop") {
            return Err((line, "'loop' cannot be the name of a loop's item".to_string()));
        }
        tokens.expect_name("in")?;
        let items = tokens.expression_without_choice()?;
        let condition = if tokens.take_name("if") { Some(tokens.expression()?) } else { None };
        if tokens.take_name("recursive") {
            return Err((line, "a 'recursive' loop is not supported".to_string()));
        }
        tokens.finish()?;
        self.loops += 1;
        let (body, end) = self.body(&["else", "endfor"], line)?;
        self.loops -= 1;
        let mut otherwise = Vec::new();
        if let Some(end) = end {
            end.tokens.finish()?;
            if end.name == "else" {
                otherwise = self.simple_body("endfor", line)?;
            }
        }
        let node = ForLoop { target, items, condition, body, otherwise };
        Ok(NodeKind::For(Box::new(node)))
    }

    fn set_tag(&mut self, mut tokens: Tokens, line: usize) -> LexResult<NodeKind> {
        let target = tokens.target(true)?;
        if tokens.take_sign("=") {
            let value = tokens.expression_or_tuple()?;
            tokens.finish()?;
            return Ok(NodeKind::Set { target, value });
        }
        let filters = self.filters(&mut tokens)?;
        tokens.finish()?;
        if matches!(target, Target::Several(_)) {
            return Err((line, "a block is set to several names; allowed is one".to_string()));
        }
        let body = self.simple_body("endset", line)?;
        Ok(NodeKind::SetBlock { target, filters, body })
    }

    /// `| a | b(1)`
    fn filters(&mut self, tokens: &mut Tokens) -> LexResult<Vec<Call>> {
        let mut filters = Vec::new();
        while tokens.take_sign("|") {
            filters.push(tokens.filter()?);
        }
        Ok(filters)
    }

    fn with_tag(&mut self, mut tokens: Tokens, line: usize) -> LexResult<NodeKind> {
        let mut values = Vec::new();
        while tokens.peek().is_some() {
            if !values.is_empty() {
                tokens.expect_sign(",")?;
            }
            let name = tokens.new_name()?;
            tokens.expect_sign("=")?;
            values.push((name, tokens.expression()?));
        }
        let body = self.simple_body("endwith", line)?;
        Ok(NodeKind::With { values, body })
    }

    fn filter_tag(&mut self, mut tokens: Tokens, line: usize) -> LexResult<NodeKind> {
        let mut filters = vec![tokens.filter()?];
        filters.extend(self.filters(&mut tokens)?);
        tokens.finish()?;
        let body = self.simple_body("endfilter", line)?;
        Ok(NodeKind::FilterBlock { filters, body })
    }

    fn macro_tag(&mut self, mut tokens: Tokens, line: usize) -> LexResult<NodeKind> {
        let name: Name = tokens.name()?;
        let parameters = tokens.parameters()?;
        tokens.finish()?;
        let defaults = parameters.iter().skip_while(|(_, default)| default.is_none());
        if let Some((name, _)) = defaults.clone().find(|(_, default)| default.is_none()) {
            return Err((line, format!("'{name}' has no default value, but follows one that has")));
        }
        let loops = std::mem::take(&mut self.loops);
        let body = self.simple_body("endmacro", line)?;
        self.loops = loops;
        self.macros.push(Macro { name, parameters, body });
        Ok(NodeKind::Macro(self.macros.len() - 1))
    }
}

fn has_name(target: &Target, name: &str) -> bool {
    match target {
        Target::Name(found) => &**found == name,
        Target::Attribute(..) => false,
        Target::Several(targets) => targets.iter().any(|target| has_name(target, name)),
    }
}

/// The words of the grammar: they are no names of values.
pub fn is_keyword(name: &str) -> bool {
    matches!(name, "and" | "else" | "if" | "in" | "is" | "not" | "or")
}
