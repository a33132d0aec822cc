//! Tells text of the template from text of the messages. Each message's content is put between
//! marks, the template renders once, and the marks say who wrote what. Taking the marks out must
//! give exactly what the template makes of the unmarked conversation; otherwise the template looked
//! into the content in a way that cannot be followed, and that is an error, not a guess.
//!
//! The one look that is followed is trimming: outer white space whose absence changes nothing in
//! the rendered text is no part of it, and is left out before marking.

use crate::ffi::{ChatMessage, Rendered, Segment};
use crate::template::ChatTemplate;
use crate::{constructs, Result};

/// Two characters that stand nowhere in template or conversation. A mark is `open index open`
/// before a content and `close` after it.
struct Marks {
    open: char,
    close: char,
}

pub fn render(
    template: &ChatTemplate,
    messages: &[ChatMessage],
    generation_prompt: bool,
) -> Result<Rendered> {
    let session = Session::new(template, messages, generation_prompt)?;
    let whole: Vec<Content> = messages.iter().map(|m| Content::whole(&m.content)).collect();
    if let Some(rendered) = session.try_marked(&whole) {
        return Ok(rendered);
    }
    let trimmed = session.trimmed()?;
    if let Some(rendered) = session.try_marked(&trimmed) {
        return Ok(rendered);
    }
    // `{% if message.content %}`: a mark must not make an empty content true.
    let without_empty: Vec<Content> = trimmed.iter().map(Content::unmarked_if_empty).collect();
    session.try_marked(&without_empty).ok_or_else(|| session.explain(&without_empty))
}

/// What stands for one message's content in a marked rendering.
#[derive(Clone, Copy)]
struct Content<'a> {
    text: &'a str,
    is_marked: bool,
}

impl<'a> Content<'a> {
    fn whole(text: &'a str) -> Self {
        Content { text, is_marked: true }
    }

    fn unmarked_if_empty(&self) -> Self {
        Content { text: self.text, is_marked: self.is_marked && !self.text.is_empty() }
    }
}

struct Session<'a> {
    template: &'a ChatTemplate,
    messages: &'a [ChatMessage],
    generation_prompt: bool,
    plain: String,
    marks: Marks,
}

impl<'a> Session<'a> {
    fn new(
        template: &'a ChatTemplate,
        messages: &'a [ChatMessage],
        generation_prompt: bool,
    ) -> Result<Self> {
        let plain = template.render(messages, generation_prompt)?;
        let marks = Marks::choose(&plain, template.source(), messages)?;
        Ok(Session { template, messages, generation_prompt, plain, marks })
    }

    /// The segments, if the marks came through and nothing else changed.
    fn try_marked(&self, contents: &[Content]) -> Option<Rendered> {
        let marked: Vec<ChatMessage> = (0..)
            .zip(self.messages)
            .zip(contents)
            .map(|((index, message), content)| ChatMessage {
                role: message.role.clone(),
                content: self.marks.put_around(content, index),
            })
            .collect();
        let text = self.template.render(&marked, self.generation_prompt).ok()?;
        let rendered = self.marks.split(&text)?;
        (rendered.text == self.plain).then_some(rendered)
    }

    fn trimmed(&self) -> Result<Vec<Content<'a>>> {
        (0..self.messages.len()).map(|index| Ok(Content::whole(self.trim_one(index)))).collect()
    }

    /// The content without the outer white space that the template takes off.
    fn trim_one(&self, index: usize) -> &'a str {
        let content = self.messages[index].content.as_str();
        let starts = [content.trim_start(), content.trim_start_matches('\n')];
        let text = self.first_equal(index, content, starts);
        let ends = [text.trim_end(), text.trim_end_matches('\n')];
        self.first_equal(index, text, ends)
    }

    fn first_equal<const N: usize>(
        &self,
        index: usize,
        text: &'a str,
        candidates: [&'a str; N],
    ) -> &'a str {
        candidates
            .into_iter()
            .find(|candidate| candidate.len() < text.len() && self.renders_equal(index, candidate))
            .unwrap_or(text)
    }

    fn renders_equal(&self, index: usize, content: &str) -> bool {
        let mut messages: Vec<ChatMessage> = self.messages.iter().map(copy).collect();
        messages[index].content = content.to_string();
        let text = self.template.render(&messages, self.generation_prompt);
        text.is_ok_and(|text| text == self.plain)
    }

    fn explain(&self, contents: &[Content]) -> String {
        // Only to find words: a long conversation must not be rendered once per message.
        const MAX_TRIES: usize = 64;
        let culprit = (0..contents.len().min(MAX_TRIES)).find(|&index| {
            let mut alone = contents.to_vec();
            alone.iter_mut().for_each(|content| content.is_marked = false);
            alone[index].is_marked = true;
            self.try_marked(&alone).is_none()
        });
        let who = culprit.map_or("a message".to_string(), |index| {
            format!("messages[{}] ({})", index, self.messages[index].role)
        });
        let construct = constructs::first_change_of_content(self.template.source())
            .map_or(String::new(), |(line, text)| format!(", line {line}: `{text}`"));
        format!(
            "chat template: takes the content of {who} apart, so that its text cannot be told from \
             the template's{construct}; allowed are trimming and printing it"
        )
    }
}

fn copy(message: &ChatMessage) -> ChatMessage {
    ChatMessage { role: message.role.clone(), content: message.content.clone() }
}

impl Marks {
    fn choose(plain: &str, source: &str, messages: &[ChatMessage]) -> Result<Self> {
        let is_free = |c: &char| {
            !plain.contains(*c)
                && !source.contains(*c)
                && !messages.iter().any(|message| message.content.contains(*c))
        };
        // Noncharacters first: no text has any business with them. Then a private plane.
        let mut free = ('\u{FDD0}'..='\u{FDEF}').chain('\u{F0000}'..='\u{F00FF}').filter(is_free);
        match (free.next(), free.next()) {
            (Some(open), Some(close)) => Ok(Marks { open, close }),
            _ => Err("conversation: uses every private character, none is left to mark text with"
                .to_string()),
        }
    }

    fn put_around(&self, content: &Content, index: i32) -> String {
        let Marks { open, close } = self;
        if content.is_marked {
            format!("{open}{index}{open}{}{close}", content.text)
        } else {
            content.text.to_string()
        }
    }

    /// None if the marks are torn, nested or changed.
    fn split(&self, marked: &str) -> Option<Rendered> {
        let mut out = Rendered { text: String::with_capacity(marked.len()), segments: Vec::new() };
        let mut rest = marked;
        while let Some((before, tail)) = rest.split_once(self.open) {
            let (index, tail) = tail.split_once(self.open)?;
            let (content, tail) = tail.split_once(self.close)?;
            self.push(&mut out, -1, before)?;
            self.push(&mut out, index.parse().ok().filter(|&index: &i32| index >= 0)?, content)?;
            rest = tail;
        }
        self.push(&mut out, -1, rest)?;
        Some(out)
    }

    fn push(&self, out: &mut Rendered, message: i32, text: &str) -> Option<()> {
        if text.contains([self.open, self.close]) {
            return None;
        }
        let begin = out.text.len();
        out.text.push_str(text);
        // An empty content still says where its message stands.
        if message >= 0 || !text.is_empty() {
            out.segments.push(Segment { message, begin, end: out.text.len() });
        }
        Some(())
    }
}
