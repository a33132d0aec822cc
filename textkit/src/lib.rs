//! The typed bridge to C++. Every door turns a panic into an error, checks UTF-8 itself and speaks
//! in one-line messages.

mod ast;
mod calls;
mod clock;
mod eval;
mod expressions;
mod filters;
mod growth;
mod json;
mod lexer;
mod methods;
mod numbers;
mod operators;
mod parser;
mod strings;
mod template;
mod text;
mod tokenizer;
mod tokens;
mod unicode;
mod value;

use std::panic::{catch_unwind, AssertUnwindSafe};

use template::ChatTemplate;
use tokenizer::Tokenizer;

pub(crate) type Result<T> = std::result::Result<T, String>;

#[cxx::bridge(namespace = "lathe::textkit")]
mod ffi {
    /// What stands before a text that is tokenised by itself. Tokenizers that put a blank before
    /// the first word must not put one in the middle of a line.
    enum Seam {
        TextStart,
        AfterSpecial,
        Continuation,
    }

    struct ChatMessage {
        role: String,
        /// Without it a template sees no content; `content` is empty then.
        has_content: bool,
        content: String,
        /// Further fields (tool_calls, reasoning_content, ...): a JSON object, or empty.
        fields: String,
    }

    /// A named special token (`bos_token`, ...) that templates see as a variable.
    struct TemplateVariable {
        name: String,
        value: String,
    }

    /// Bytes [begin, end) of the rendered text; `message` is -1 for text of the template, -2 for
    /// the list of tools.
    struct Segment {
        message: i32,
        begin: usize,
        end: usize,
    }

    struct Rendered {
        text: String,
        segments: Vec<Segment>,
    }

    extern "Rust" {
        /// Offset of the first byte that is not UTF-8, or -1.
        fn utf8_fault(bytes: &[u8]) -> i64;

        type Tokenizer;
        fn load_tokenizer(tokenizer_json: &[u8]) -> Result<Box<Tokenizer>>;
        fn encode(self: &Tokenizer, text: &[u8], special: bool, seam: Seam) -> Result<Vec<i32>>;
        /// Ids that the vocabulary lacks are left out; so are special tokens.
        fn decode(self: &Tokenizer, ids: &[i32]) -> Result<String>;
        fn token_text(self: &Tokenizer, id: i32) -> Result<String>;
        /// -1 if there is none.
        fn token_id(self: &Tokenizer, token: &[u8]) -> i32;
        fn is_special(self: &Tokenizer, id: i32) -> bool;
        /// The greatest id plus one.
        fn vocabulary_size(self: &Tokenizer) -> i32;

        type ChatTemplate;
        fn load_template(
            source: &[u8],
            variables: Vec<TemplateVariable>,
        ) -> Result<Box<ChatTemplate>>;
        fn render_segments(
            self: &ChatTemplate,
            messages: &Vec<ChatMessage>,
            tools: &str,
            generation_prompt: bool,
        ) -> Result<Rendered>;
    }
}

// C++ calls both from several threads.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Tokenizer>();
    shared::<ChatTemplate>();
};

/// Runs `body`; a panic of a crate below (a hostile tokenizer.json can reach one) becomes an error.
fn guarded<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| text.to_string())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        Err(format!("the text library gave up: {}", one_line(&text)))
    })
}

/// Control characters out, and at most 400 characters: messages end in logs and terminals.
pub(crate) fn one_line(text: &str) -> String {
    let mut line: String = text
        .split(|c: char| c.is_control())
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    if let Some((end, _)) = line.char_indices().nth(400) {
        line.truncate(end);
        line.push_str("...");
    }
    line
}

pub(crate) fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes)
        .map_err(|e| format!("byte {} is not valid UTF-8; allowed is UTF-8", e.valid_up_to()))
}

fn utf8_fault(bytes: &[u8]) -> i64 {
    std::str::from_utf8(bytes).map_or_else(|e| e.valid_up_to() as i64, |_| -1)
}

fn load_tokenizer(tokenizer_json: &[u8]) -> Result<Box<Tokenizer>> {
    guarded(|| Tokenizer::load(tokenizer_json).map(Box::new))
}

fn load_template(
    source: &[u8],
    variables: Vec<ffi::TemplateVariable>,
) -> Result<Box<ChatTemplate>> {
    guarded(|| ChatTemplate::load(utf8(source)?, &variables).map(Box::new))
}

impl Tokenizer {
    fn encode(&self, text: &[u8], special: bool, seam: ffi::Seam) -> Result<Vec<i32>> {
        guarded(|| self.ids_of(utf8(text)?, special, seam))
    }

    fn decode(&self, ids: &[i32]) -> Result<String> {
        guarded(|| self.text_of(ids))
    }

    fn token_text(&self, id: i32) -> Result<String> {
        guarded(|| self.text_of_one(id))
    }

    fn token_id(&self, token: &[u8]) -> i32 {
        guarded(|| Ok(self.id_of(utf8(token)?))).unwrap_or(-1)
    }
}

impl ChatTemplate {
    fn render_segments(
        &self,
        messages: &Vec<ffi::ChatMessage>,
        tools: &str,
        generation_prompt: bool,
    ) -> Result<ffi::Rendered> {
        guarded(|| Ok(segments(&self.render(messages, tools, generation_prompt)?)))
    }
}

fn segments(text: &text::Text) -> ffi::Rendered {
    let mut begin = 0;
    let segment = |run: &text::Run| {
        let end = begin + run.len;
        let segment = ffi::Segment { message: run.origin, begin, end };
        begin = end;
        segment
    };
    let segments = text.runs().iter().map(segment).collect();
    ffi::Rendered { text: text.as_str().to_string(), segments }
}
