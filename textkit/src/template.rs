//! A chat template in the environment that transformers gives it: trim_blocks, lstrip_blocks, loop
//! controls, Python's string methods, `tojson`, `raise_exception`. `strftime_now` is left
//! undefined on purpose: templates that test for it then write a fixed date, so that a row renders
//! the same on every day.

use std::fmt;
use std::io::{self, Write};

use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind};
use serde::Serialize;

use crate::ffi::{ChatMessage, TemplateVariable};
use crate::{json, one_line, Result};

const MAX_OUTPUT_BYTES: usize = 16 << 20;
const MAX_SOURCE_BYTES: usize = 1 << 20;
/// Instructions; a message of a usual template takes about 30.
const FUEL: u64 = 2_000_000;
const RECURSION_LIMIT: usize = 100;
const NAME: &str = "chat template";

pub struct ChatTemplate {
    environment: Environment<'static>,
    variables: Vec<(String, Value)>,
    source: String,
}

/// What the template said to raise_exception.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

impl ChatTemplate {
    pub fn load(source: &str, variables: &[TemplateVariable]) -> Result<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            let size = source.len();
            return Err(format!("{NAME}: has {size} bytes; allowed are {MAX_SOURCE_BYTES}"));
        }
        let mut environment = new_environment();
        let compiled = without_generation_tags(source);
        environment.add_template_owned(NAME, compiled).map_err(|e| describe(&e, source))?;
        let variables =
            variables.iter().map(|v| (v.name.clone(), Value::from(v.value.as_str()))).collect();
        Ok(ChatTemplate { environment, variables, source: source.to_string() })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn render(&self, messages: &[ChatMessage], generation_prompt: bool) -> Result<String> {
        let template = self.environment.get_template(NAME).map_err(|e| e.to_string())?;
        let mut out = LimitedWriter::default();
        let result =
            template.render_captured_to(self.context(messages, generation_prompt), &mut out);
        if out.is_over {
            return Err(format!("{NAME}: writes more than the {MAX_OUTPUT_BYTES} bytes allowed"));
        }
        result.map_err(|e| describe(&e, &self.source))?;
        String::from_utf8(out.bytes).map_err(|e| e.to_string())
    }

    fn context(&self, messages: &[ChatMessage], generation_prompt: bool) -> Value {
        // transformers always defines the last two: templates ask `if tools`, `tools is not none`.
        let fixed = [
            (
                "messages",
                Value::from_serialize(messages.iter().map(Message::of).collect::<Vec<_>>()),
            ),
            ("add_generation_prompt", Value::from(generation_prompt)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ];
        let fixed = fixed.map(|(name, value)| (name.to_string(), value));
        self.variables.iter().cloned().chain(fixed).collect()
    }
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'a str,
    content: &'a str,
}

impl<'a> Message<'a> {
    fn of(message: &'a ChatMessage) -> Self {
        Message { role: &message.role, content: &message.content }
    }
}

fn new_environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_LIMIT);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", json::to_json);
    environment.add_function("raise_exception", raise_exception);
    environment
}

fn raise_exception(text: &str) -> std::result::Result<Value, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, text.to_string());
    Err(error.with_source(Refusal(text.to_string())))
}

/// One line: the template's own words, or line, fault and the line's text.
fn describe(error: &Error, source: &str) -> String {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(current) = cause {
        if let Some(Refusal(text)) = current.downcast_ref() {
            return format!("{NAME}: refuses the conversation: {}", one_line(text));
        }
        cause = current.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return format!("{NAME}: takes more than the {FUEL} steps allowed; does a loop end?");
    }
    let line = error.line().unwrap_or(0);
    let detail = error.detail().map_or(String::new(), |text| format!(": {text}"));
    let text = line.checked_sub(1).and_then(|index| source.lines().nth(index)).unwrap_or("");
    let excerpt: String = text.trim().chars().take(120).collect();
    one_line(&format!("{NAME}, line {line}: {}{detail}, in `{excerpt}`", error.kind()))
}

/// `{% generation %}` marks the answer for transformers' own mask. It scopes nothing, so that an
/// `if true` with the same white-space signs renders the same.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(begin) = rest.find("{%") {
        let (before, tag) = rest.split_at(begin);
        out.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        out.push_str(&plain_tag(&tag[..end]));
        rest = &tag[end..];
    }
    out.push_str(rest);
    out
}

fn plain_tag(tag: &str) -> String {
    let inner = tag.trim_start_matches("{%").trim_end_matches("%}");
    match inner.trim_matches(['-', '+']).trim() {
        "generation" => tag.replace("generation", "if true"),
        "endgeneration" => tag.replace("endgeneration", "endif"),
        _ => tag.to_string(),
    }
}

#[derive(Default)]
struct LimitedWriter {
    bytes: Vec<u8>,
    is_over: bool,
}

impl Write for LimitedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT_BYTES {
            self.is_over = true;
            return Err(io::Error::other("too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
