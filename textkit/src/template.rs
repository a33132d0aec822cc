//! A chat template as transformers renders it: the same variables, functions and filters, and
//! jinja2's rules for white space, in an interpreter whose strings know who wrote them.

use crate::ast::Program;
use crate::eval;
use crate::ffi::{ChatMessage, TemplateVariable};
use crate::json::from_json;
use crate::parser;
use crate::text::{Origin, Text, TOOLS};
use crate::value::{Fault, Value};
use crate::{one_line, Result};

const MAX_SOURCE_BYTES: usize = 1 << 20;
const NAME: &str = "chat template";

pub struct ChatTemplate {
    program: Program,
    variables: Vec<(String, String)>,
    source: String,
}

impl ChatTemplate {
    pub fn load(source: &str, variables: &[TemplateVariable]) -> Result<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            let size = source.len();
            return Err(format!("{NAME}: has {size} bytes; allowed are {MAX_SOURCE_BYTES}"));
        }
        let program = parser::parse(source).map_err(|(line, text)| located(source, line, &text))?;
        let variables = variables.iter().map(|v| (v.name.clone(), v.value.clone())).collect();
        Ok(ChatTemplate { program, variables, source: source.to_string() })
    }

    /// `tools`: a JSON list, or empty.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        tools: &str,
        generation_prompt: bool,
    ) -> Result<Text> {
        let variables = self.variables(messages, tools, generation_prompt)?;
        eval::run(&self.program, variables).map_err(|fault| self.describe(fault))
    }

    fn variables(
        &self,
        messages: &[ChatMessage],
        tools: &str,
        generation_prompt: bool,
    ) -> Result<Vec<(String, Value)>> {
        let special = self.variables.iter().map(|(name, text)| (name.clone(), Value::text(text)));
        let mut variables: Vec<(String, Value)> = special.collect();
        let mut all = Vec::new();
        for (index, message) in (0..).zip(messages) {
            all.push(self.message(message, index)?);
        }
        let tools = if tools.is_empty() { Value::None } else { self.data("tools", tools, TOOLS)? };
        // transformers always defines the last two: templates ask `if tools`, `tools is not none`.
        variables.extend([
            ("messages".to_string(), Value::list(all).map_err(|fault| self.describe(fault))?),
            ("add_generation_prompt".to_string(), Value::Bool(generation_prompt)),
            ("tools".to_string(), tools),
            ("documents".to_string(), Value::None),
        ]);
        Ok(variables)
    }

    /// The role is one of a closed list: the template's own word. As in transformers, a field that is
    /// null is not there, and reasoning goes by each of its names.
    fn message(&self, message: &ChatMessage, index: Origin) -> Result<Value> {
        let mut items = vec![(Text::template("role"), Value::text(&message.role))];
        if message.has_content {
            items.push((Text::template("content"), Value::Str(Text::new(&message.content, index))));
        }
        if !message.fields.is_empty() {
            let name = format!("messages[{index}]");
            let Value::Map(map) = self.data(&name, &message.fields, index)? else {
                return Err(format!("{name}: its fields are no JSON object"));
            };
            items.extend(
                map.items
                    .iter()
                    .filter(|(key, value)| {
                        !["role", "content"].contains(&key.as_str())
                            && !matches!(value, Value::None)
                    })
                    .cloned(),
            );
        }
        add_reasoning(&mut items);
        Value::map(items).map_err(|fault| self.describe(fault))
    }

    fn data(&self, name: &str, json: &str, origin: Origin) -> Result<Value> {
        let json: serde_json::Value =
            serde_json::from_str(json).map_err(|e| format!("{name}: is not JSON: {e}"))?;
        from_json(&json, origin).map_err(|fault| self.describe(fault))
    }

    /// One line: the template's own words, or line, fault and the line's text.
    fn describe(&self, fault: Fault) -> String {
        match fault {
            Fault::Refusal(text) => {
                format!("{NAME}: refuses the conversation: {}", one_line(&text))
            }
            Fault::Problem { line: Some(line), text } => located(&self.source, line, &text),
            Fault::Problem { line: None, text } => one_line(&format!("{NAME}: {text}")),
        }
    }
}

fn add_reasoning(items: &mut Vec<(Text, Value)>) {
    const NAMES: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
    let place =
        |items: &[(Text, Value)], name| items.iter().position(|(key, _)| key.as_str() == name);
    let Some(found) = NAMES.into_iter().find_map(|name| place(items, name)) else { return };
    let reasoning = items[found].1.clone();
    let first = match place(items, "thinking") {
        Some(at) => items.remove(at),
        None => (Text::template("thinking"), reasoning.clone()),
    };
    items.insert(0, first);
    match place(items, "reasoning_content") {
        Some(at) => items[at].1 = reasoning,
        None => items.push((Text::template("reasoning_content"), reasoning)),
    }
}

fn located(source: &str, line: usize, text: &str) -> String {
    let shown = line.checked_sub(1).and_then(|index| source.lines().nth(index)).unwrap_or("");
    let excerpt: String = shown.trim().chars().take(120).collect();
    one_line(&format!("{NAME}, line {line}: {text}, in `{excerpt}`"))
}
