//! A string whose every byte knows who wrote it: the template, or a message. Cutting, trimming and
//! joining keep that, so that a rendered conversation falls apart into its segments by itself.

use std::rc::Rc;

/// Who wrote a piece of text: TEMPLATE, TOOLS (the list of tools), or the index of a message.
pub type Origin = i32;
pub const TEMPLATE: Origin = -1;
pub const TOOLS: Origin = -2;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    pub origin: Origin,
    pub len: usize,
}

/// Immutable, cheap to copy. Its runs cover it in order; an empty run says where an empty content
/// stands.
#[derive(Clone, Debug)]
pub struct Text(Rc<Body>);

#[derive(Debug, Default)]
struct Body {
    text: String,
    runs: Vec<Run>,
}

impl Text {
    pub fn new(text: &str, origin: Origin) -> Self {
        let mut builder = TextBuilder::default();
        builder.push_str(text, origin);
        builder.finish()
    }

    pub fn template(text: &str) -> Self {
        Text::new(text, TEMPLATE)
    }

    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    pub fn len(&self) -> usize {
        self.0.text.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.text.is_empty()
    }

    pub fn runs(&self) -> &[Run] {
        &self.0.runs
    }

    /// The origin of the first run; of the template if there is none.
    pub fn first_origin(&self) -> Origin {
        self.runs().first().map_or(TEMPLATE, |run| run.origin)
    }

    /// Bytes [begin, end). REQUIRES: both on a character's border, begin <= end <= len().
    pub fn slice(&self, begin: usize, end: usize) -> Text {
        if begin == 0 && end == self.len() {
            return self.clone();
        }
        let mut builder = TextBuilder::default();
        let mut start = 0;
        for run in self.runs() {
            let stop = start + run.len;
            let (from, to) = (begin.max(start), end.min(stop));
            if from < to || (from == to && begin == end) {
                builder.push_str(&self.as_str()[from..to], run.origin);
                if begin == end {
                    break;
                }
            }
            start = stop;
        }
        builder.finish()
    }

    /// The part of it that `part`, a slice of as_str(), is.
    pub fn part(&self, part: &str) -> Text {
        let begin = part.as_ptr() as usize - self.as_str().as_ptr() as usize;
        self.slice(begin, begin + part.len())
    }

    pub fn pieces(&self) -> impl Iterator<Item = (&str, Origin)> {
        let mut start = 0;
        self.runs().iter().map(move |run| {
            let begin = start;
            start += run.len;
            (&self.as_str()[begin..start], run.origin)
        })
    }

    /// What each writer wrote in a row, which may become longer or shorter.
    pub fn map_pieces(&self, change: impl Fn(&str) -> String) -> Text {
        let mut builder = TextBuilder::default();
        self.pieces().for_each(|(piece, origin)| builder.push_str(&change(piece), origin));
        builder.finish()
    }

    /// Each character, which may become several, in turn.
    pub fn map_chars(&self, mut change: impl FnMut(char, &mut String)) -> Text {
        let mut builder = TextBuilder::default();
        for (piece, origin) in self.pieces() {
            let mut changed = String::with_capacity(piece.len());
            piece.chars().for_each(|c| change(c, &mut changed));
            builder.push_str(&changed, origin);
        }
        builder.finish()
    }
}

#[derive(Default)]
pub struct TextBuilder {
    body: Body,
}

impl TextBuilder {
    pub fn push_str(&mut self, text: &str, origin: Origin) {
        if text.is_empty() && origin == TEMPLATE {
            return;
        }
        self.body.text.push_str(text);
        match self.body.runs.last_mut() {
            Some(last) if last.origin == origin => last.len += text.len(),
            _ => self.body.runs.push(Run { origin, len: text.len() }),
        }
    }

    pub fn push(&mut self, text: &Text) {
        text.pieces().for_each(|(piece, origin)| self.push_str(piece, origin));
    }

    pub fn len(&self) -> usize {
        self.body.text.len()
    }

    pub fn finish(self) -> Text {
        Text(Rc::new(self.body))
    }
}
