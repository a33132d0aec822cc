//! Cuts a template into text and tags, with jinja2's rules for white space as transformers sets
//! them (trim_blocks, lstrip_blocks, no newline at the end), and tags into tokens.

use crate::text::is_space;

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Name(String),
    Text(String),
    Int(i128),
    Float(f64),
    /// An operator or bracket, as it is written.
    Sign(&'static str),
}

pub enum Chunk {
    Text(String),
    /// `{{ ... }}`
    Print {
        line: usize,
        tokens: Vec<(Token, usize)>,
    },
    /// `{% ... %}`
    Tag {
        line: usize,
        tokens: Vec<(Token, usize)>,
    },
}

/// A fault and its line.
pub type LexResult<T> = Result<T, (usize, String)>;

const SIGNS: [&str; 25] = [
    "**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=", "(", ")", "[",
    "]", "{", "}", ",", ":", ".", "|",
];

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: usize,
    /// Whether the text that follows begins a line: lstrip_blocks asks.
    starts_line: bool,
    /// `-%}` came before.
    strips_start: bool,
    chunks: Vec<Chunk>,
}

pub fn cut(source: &str) -> LexResult<Vec<Chunk>> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer {
        source,
        at: 0,
        line: 1,
        starts_line: true,
        strips_start: false,
        chunks: Vec::new(),
    };
    lexer.run()?;
    Ok(lexer.chunks)
}

impl<'a> Lexer<'a> {
    fn run(&mut self) -> LexResult<()> {
        while let Some((begin, open)) = self.next_tag() {
            let text = &self.source[self.at..begin];
            let sign = self.source[begin + 2..].chars().next().filter(|c| matches!(c, '-' | '+'));
            self.push_text(text, open, sign);
            self.at = begin + 2 + usize::from(sign.is_some());
            match open {
                "{#" => self.skip_comment()?,
                "{{" => self.read_tag("}}")?,
                _ if self.is_raw_begin() => self.read_raw()?,
                _ => self.read_tag("%}")?,
            }
        }
        let rest = &self.source[self.at..];
        self.push_text(rest, "", None);
        Ok(())
    }

    fn next_tag(&self) -> Option<(usize, &'static str)> {
        let rest = &self.source[self.at..];
        rest.match_indices('{').find_map(|(index, _)| {
            let open = ["{{", "{%", "{#"].into_iter().find(|open| rest[index..].starts_with(open));
            open.map(|open| (self.at + index, open))
        })
    }

    /// The text before a tag, without what the tags around it strip.
    fn push_text(&mut self, text: &str, open: &str, sign: Option<char>) {
        self.line += text.matches('\n').count();
        let mut shown = text;
        if self.strips_start {
            shown = shown.trim_start_matches(is_space);
        }
        match sign {
            Some('-') => shown = shown.trim_end_matches(is_space),
            Some('+') => {}
            _ if open == "{%" || open == "{#" => shown = self.without_indent(shown),
            _ => {}
        }
        self.strips_start = false;
        if !shown.is_empty() {
            self.chunks.push(Chunk::Text(shown.to_string()));
        }
    }

    fn without_indent<'b>(&self, text: &'b str) -> &'b str {
        let line = text.rfind('\n').map_or(0, |index| index + 1);
        let is_indent = text[line..].chars().all(is_space);
        if is_indent && (line > 0 || self.starts_line) {
            &text[..line]
        } else {
            text
        }
    }

    /// After `%}` or `#}`: trim_blocks takes one newline.
    fn end_block(&mut self, sign: Option<char>) {
        self.strips_start = sign == Some('-');
        self.starts_line = false;
        if sign.is_none() && self.source[self.at..].starts_with('\n') {
            self.at += 1;
            self.line += 1;
            self.starts_line = true;
        }
        if self.strips_start {
            let rest = &self.source[self.at..];
            let blank = &rest[..rest.len() - rest.trim_start_matches(is_space).len()];
            self.starts_line = blank.ends_with('\n');
        }
    }

    fn skip_comment(&mut self) -> LexResult<()> {
        let rest = &self.source[self.at..];
        let Some(end) = rest.find("#}") else {
            return Err((self.line, "a comment '{#' has no end '#}'".to_string()));
        };
        let sign = rest[..end].chars().next_back().filter(|c| matches!(c, '-' | '+'));
        self.line += rest[..end].matches('\n').count();
        self.at += end + 2;
        self.end_block(sign);
        Ok(())
    }

    fn is_raw_begin(&self) -> bool {
        let rest = self.source[self.at..].trim_start();
        rest.strip_prefix("raw").is_some_and(|rest| {
            let rest = rest.trim_start().trim_start_matches(['-', '+']);
            rest.starts_with("%}")
        })
    }

    fn read_raw(&mut self) -> LexResult<()> {
        let line = self.line;
        let rest = &self.source[self.at..];
        let begin = rest.find("%}").map_or(rest.len(), |index| index + 2);
        let sign = rest[..begin - 2].chars().next_back().filter(|c| matches!(c, '-' | '+'));
        self.at += begin;
        self.end_block(sign);
        let fault = (line, "'{% raw %}' has no end '{% endraw %}'".to_string());
        let mut from = self.at;
        while let Some(index) = self.source[from..].find("{%") {
            let open = from + index;
            let inner = &self.source[open + 2..];
            let close = inner.find("%}").ok_or_else(|| fault.clone())?;
            let first = inner.chars().next().filter(|c| matches!(c, '-' | '+'));
            let last = inner[..close].chars().next_back().filter(|c| matches!(c, '-' | '+'));
            if inner[..close].trim_matches(['-', '+']).trim() == "endraw" {
                let text = &self.source[self.at..open];
                self.push_text(text, "{%", first);
                self.at = open + 2 + close + 2;
                self.end_block(last);
                return Ok(());
            }
            from = open + 2;
        }
        Err(fault)
    }

    fn read_tag(&mut self, close: &'static str) -> LexResult<()> {
        let line = self.line;
        let mut tokens = Vec::new();
        let mut brackets = 0_i32;
        loop {
            self.skip_space();
            let rest = &self.source[self.at..];
            let sign = rest.chars().next().filter(|c| matches!(c, '-' | '+'));
            let tail = &rest[usize::from(sign.is_some())..];
            if brackets == 0 && tail.starts_with(close) {
                self.at += usize::from(sign.is_some()) + close.len();
                self.end_tag(close, sign);
                break;
            }
            if rest.is_empty() {
                return Err((line, format!("a tag has no end '{close}'")));
            }
            let token = self.token()?;
            match &token {
                Token::Sign("(" | "[" | "{") => brackets += 1,
                Token::Sign(")" | "]" | "}") => brackets -= 1,
                _ => {}
            }
            tokens.push((token, self.line));
        }
        self.chunks.push(match close {
            "}}" => Chunk::Print { line, tokens },
            _ => Chunk::Tag { line, tokens },
        });
        Ok(())
    }

    fn end_tag(&mut self, close: &str, sign: Option<char>) {
        if close == "%}" {
            self.end_block(sign);
        } else {
            self.strips_start = sign == Some('-');
            let rest = &self.source[self.at..];
            let blank = &rest[..rest.len() - rest.trim_start_matches(is_space).len()];
            self.starts_line = self.strips_start && blank.ends_with('\n');
        }
    }

    fn skip_space(&mut self) {
        let rest = &self.source[self.at..];
        let blank = rest.len() - rest.trim_start_matches(is_space).len();
        self.line += rest[..blank].matches('\n').count();
        self.at += blank;
    }

    fn token(&mut self) -> LexResult<Token> {
        let rest = &self.source[self.at..];
        match rest.chars().next() {
            Some('\'' | '"') => self.string(),
            Some(c) if c.is_ascii_digit() => self.number(),
            Some(c) if c.is_alphabetic() || c == '_' => {
                let end =
                    rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                self.at += end;
                Ok(Token::Name(rest[..end].to_string()))
            }
            other => match SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
                Some(sign) => {
                    self.at += sign.len();
                    Ok(Token::Sign(sign))
                }
                None => Err((self.line, format!("unexpected character {other:?}"))),
            },
        }
    }

    fn number(&mut self) -> LexResult<Token> {
        let rest = &self.source[self.at..];
        let digits =
            |text: &str| text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
        let mut end = digits(rest);
        let mut is_float = false;
        let after_dot = rest[end..].strip_prefix('.').unwrap_or("");
        if after_dot.starts_with(|c: char| c.is_ascii_digit()) {
            end += 1 + digits(after_dot);
            is_float = true;
        }
        let text = rest[..end].replace('_', "");
        self.at += end;
        let fault = (self.line, format!("'{}' is not a number", &rest[..end.min(40)]));
        if is_float {
            return text.parse().map(Token::Float).map_err(|_| fault);
        }
        text.parse().map(Token::Int).map_err(|_| fault)
    }

    fn string(&mut self) -> LexResult<Token> {
        let line = self.line;
        let rest = &self.source[self.at..];
        let quote = rest.chars().next().unwrap_or('"');
        let mut out = String::new();
        let mut chars = rest.char_indices().skip(1);
        while let Some((index, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.at += index + 1;
                    return Ok(Token::Text(out));
                }
                '\\' => {
                    let (text, length) = escape(&rest[index + 1..]);
                    out.push_str(&text);
                    self.line += rest[index + 1..index + 1 + length].matches('\n').count();
                    let skipped = rest[index + 1..index + 1 + length].chars().count();
                    chars.by_ref().take(skipped).for_each(drop);
                }
                c => {
                    self.line += usize::from(c == '\n');
                    out.push(c);
                }
            }
        }
        Err((line, format!("a string that begins with {quote} has no end")))
    }
}

/// Python's escapes: what stands after the backslash, and how many bytes of it belong to it.
fn escape(text: &str) -> (String, usize) {
    let Some(c) = text.chars().next() else { return ("\\".to_string(), 0) };
    let simple = match c {
        'n' => "\n",
        't' => "\t",
        'r' => "\r",
        'a' => "\x07",
        'b' => "\x08",
        'f' => "\x0c",
        'v' => "\x0b",
        '\\' => "\\",
        '\'' => "'",
        '"' => "\"",
        '\n' => "",
        _ => return numeric_escape(c, text),
    };
    (simple.to_string(), c.len_utf8())
}

fn numeric_escape(c: char, text: &str) -> (String, usize) {
    let (start, radix, most) = match c {
        'x' => (1, 16, 2),
        'u' => (1, 16, 4),
        'U' => (1, 16, 8),
        '0'..='7' => (0, 8, 3),
        _ => return (format!("\\{c}"), c.len_utf8()),
    };
    let digits: String =
        text[start..].chars().take(most).take_while(|c| c.is_digit(radix)).collect();
    let is_whole = start == 0 || digits.len() == most;
    let code = u32::from_str_radix(&digits, radix).ok().filter(|_| is_whole);
    match code.and_then(char::from_u32) {
        Some(char) => (char.to_string(), start + digits.len()),
        None => (format!("\\{c}"), c.len_utf8()),
    }
}
