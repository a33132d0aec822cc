//! Cuts a template into text and tags, with jinja2's rules for white space as transformers sets
//! them (trim_blocks, lstrip_blocks, no newline at the end), and tags into tokens.

use crate::unicode::is_space;

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
            let rest = rest.trim_start();
            rest.strip_prefix('-').unwrap_or(rest).starts_with("%}")
        })
    }

    fn read_raw(&mut self) -> LexResult<()> {
        let line = self.line;
        let rest = &self.source[self.at..];
        let begin = rest.find("%}").map_or(rest.len(), |index| index + 2);
        let is_stripped = rest[..begin - 2].ends_with('-');
        self.at += begin;
        self.end_variable(is_stripped);
        let mut from = self.at;
        while let Some(index) = self.source[from..].find("{%") {
            let open = from + index;
            from = open + 2;
            let Some((first, last, size)) = endraw(&self.source[from..]) else { continue };
            let text = &self.source[self.at..open];
            self.push_text(text, "{%", first);
            self.at = from + size;
            self.end_block(last);
            return Ok(());
        }
        Err((line, "'{% raw %}' has no end '{% endraw %}'".to_string()))
    }

    fn read_tag(&mut self, close: &'static str) -> LexResult<()> {
        let line = self.line;
        let mut tokens = Vec::new();
        let mut brackets: Vec<&str> = Vec::new();
        loop {
            self.skip_space();
            let rest = &self.source[self.at..];
            let sign = rest.chars().next().filter(|c| matches!(c, '-' | '+'));
            let tail = &rest[usize::from(sign.is_some())..];
            if brackets.is_empty() && tail.starts_with(close) {
                self.at += usize::from(sign.is_some()) + close.len();
                self.end_tag(close, sign);
                break;
            }
            if rest.is_empty() {
                return Err((line, format!("a tag has no end '{close}'")));
            }
            let token = self.token()?;
            self.balance(&token, &mut brackets)?;
            tokens.push((token, self.line));
        }
        self.chunks.push(match close {
            "}}" => Chunk::Print { line, tokens },
            _ => Chunk::Tag { line, tokens },
        });
        Ok(())
    }

    fn balance(&self, token: &Token, brackets: &mut Vec<&'static str>) -> LexResult<()> {
        let closed_by = match token {
            Token::Sign("(") => ")",
            Token::Sign("[") => "]",
            Token::Sign("{") => "}",
            Token::Sign(sign @ (")" | "]" | "}")) if brackets.pop() != Some(*sign) => {
                return Err((self.line, format!("unexpected '{sign}'")));
            }
            _ => return Ok(()),
        };
        brackets.push(closed_by);
        Ok(())
    }

    fn end_tag(&mut self, close: &str, sign: Option<char>) {
        if close == "%}" {
            self.end_block(sign);
        } else {
            self.end_variable(sign == Some('-'));
        }
    }

    /// After `}}` and `{% raw %}`, which take no newline.
    fn end_variable(&mut self, is_stripped: bool) {
        let rest = &self.source[self.at..];
        let blank = &rest[..rest.len() - rest.trim_start_matches(is_space).len()];
        self.strips_start = is_stripped;
        self.starts_line = is_stripped && blank.ends_with('\n');
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

    /// Digits may have single underscores between them. No number begins with 0 but 0 itself.
    fn number(&mut self) -> LexResult<Token> {
        let rest = &self.source[self.at..];
        let lower = rest.get(..2).unwrap_or("").to_ascii_lowercase();
        let radix = match lower.as_str() {
            "0x" => 16,
            "0o" => 8,
            "0b" => 2,
            _ => 10,
        };
        if radix != 10 {
            let size = digits(&rest[2..], radix);
            self.at += 2 + size;
            return self.whole_number(&rest[2..2 + size], radix);
        }
        let mut end = digits(rest, 10);
        let whole = end;
        // `a.1.0` is an item of an item.
        let is_item = self.source[..self.at].ends_with('.');
        if is_item {
            self.at += end;
            return self.whole_number(&rest[..end], 10);
        }
        if rest[end..].starts_with('.') && digits(&rest[end + 1..], 10) > 0 {
            end += 1 + digits(&rest[end + 1..], 10);
        }
        let exponent = rest[end..].strip_prefix(['e', 'E']).unwrap_or("");
        let power = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if digits(power, 10) > 0 {
            end += 1 + (exponent.len() - power.len()) + digits(power, 10);
        }
        self.at += end;
        if end == whole {
            return self.whole_number(&rest[..whole], 10);
        }
        let fault = (self.line, format!("'{}' is not a number", &rest[..end.min(40)]));
        rest[..end].replace('_', "").parse().map(Token::Float).map_err(|_| fault)
    }

    fn whole_number(&self, digits: &str, radix: u32) -> LexResult<Token> {
        let shown = &digits[..digits.len().min(40)];
        let text = digits.replace('_', "");
        if radix == 10 && text.starts_with('0') && text.bytes().any(|c| c != b'0') {
            return Err((self.line, format!("'{shown}' is not a number: it begins with 0")));
        }
        i128::from_str_radix(&text, radix).map(Token::Int).map_err(|_| {
            (self.line, format!("'{shown}' is not a number, or one of more than 128 bits"))
        })
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
                    let (text, length) =
                        escape(&rest[index + 1..]).map_err(|text| (self.line, text))?;
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

/// What stands after `{%`: the signs of `endraw %}` and its size.
fn endraw(text: &str) -> Option<(Option<char>, Option<char>, usize)> {
    let is_sign = |c: &char| matches!(c, '-' | '+');
    let first = text.chars().next().filter(is_sign);
    let name = text[usize::from(first.is_some())..].trim_start_matches(is_space);
    let rest = name.strip_prefix("endraw")?.trim_start_matches(is_space);
    let last = rest.chars().next().filter(is_sign);
    let end = rest[usize::from(last.is_some())..].strip_prefix("%}")?;
    Some((first, last, text.len() - end.len()))
}

/// How many bytes of digits the text begins with.
fn digits(text: &str, radix: u32) -> usize {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(|c| (*c as char).is_digit(radix));
    let mut end = 0;
    while is_digit(end) || (end > 0 && bytes.get(end) == Some(&b'_') && is_digit(end + 1)) {
        end += 1;
    }
    end
}

/// Python's escapes: what stands after the backslash, and how many bytes of it belong to it; or
/// what is wrong.
fn escape(text: &str) -> Result<(String, usize), String> {
    let Some(c) = text.chars().next() else { return Ok(("\\".to_string(), 0)) };
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
        'N' => return Err("the escape '\\N{...}' is not supported".to_string()),
        c if c.is_ascii() => return numeric_escape(c, text),
        // jinja2 escapes the character first, which leaves a backslash before an escape's letters.
        c => return Ok((backslash_replaced(c), c.len_utf8())),
    };
    Ok((simple.to_string(), c.len_utf8()))
}

fn backslash_replaced(c: char) -> String {
    match c as u32 {
        code @ 0..=0xff => format!("\\x{code:02x}"),
        code @ 0x100..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

fn numeric_escape(c: char, text: &str) -> Result<(String, usize), String> {
    let (start, radix, most) = match c {
        'x' => (1, 16, 2),
        'u' => (1, 16, 4),
        'U' => (1, 16, 8),
        '0'..='7' => (0, 8, 3),
        _ => return Ok((format!("\\{c}"), c.len_utf8())),
    };
    let digits: String =
        text[start..].chars().take(most).take_while(|c| c.is_digit(radix)).collect();
    let is_whole = start == 0 || digits.len() == most;
    let code = u32::from_str_radix(&digits, radix).ok().filter(|_| is_whole);
    match code.and_then(char::from_u32) {
        Some(char) => Ok((char.to_string(), start + digits.len())),
        None => Err(format!("a string's escape '\\{c}{digits}' is no character")),
    }
}
