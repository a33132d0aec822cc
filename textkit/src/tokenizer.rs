//! A tokenizer.json in up to four settings: special tokens matched or kept as text, and with or
//! without the blank that SentencePiece-like tokenizers put before the first word.

use std::collections::HashSet;

use serde_json::Value;

use crate::ffi::Seam;
use crate::growth::{check_charsmaps, Growth};
use crate::{one_line, Result};

/// Before the name of a hidden piece: a noncharacter, of which Unicode says that it means nothing.
const HIDDEN: char = '\u{10FFFF}';
/// Another one, which no piece has: what a text gets in its place.
const HARMLESS: &str = "\u{10FFFE}";

/// The same vocabulary twice: the switch for special strings is a state of the tokenizer.
struct Pair {
    special: tokenizers::Tokenizer,
    plain: tokenizers::Tokenizer,
    /// Whether `plain` has pieces under names that no text may reach.
    hides_pieces: bool,
}

pub struct Tokenizer {
    start: Pair,
    /// For text in the middle of a line; none where the tokenizer adds no blank anyway.
    middle: Option<Pair>,
    /// Whether the blank comes at the start of the whole text only, and not after a special token.
    blank_only_at_start: bool,
    special_ids: HashSet<u32>,
    vocabulary_size: i32,
    encoding: Growth,
    decoding: Growth,
    longest_token: usize,
}

impl Tokenizer {
    pub fn load(bytes: &[u8]) -> Result<Self> {
        let json: Value = serde_json::from_slice(bytes).map_err(|e| format!("is not JSON: {e}"))?;
        check_determined(&json)?;
        check_charsmaps(&json["normalizer"])?;
        let start = Pair::load(&json)?;
        let mut without_blank = json.clone();
        let middle =
            if remove_blank(&mut without_blank) { Some(Pair::load(&without_blank)?) } else { None };
        let vocabulary_size = vocabulary_size(&start.special)?;
        let special_ids = special_ids(&start.special);
        let vocabulary = start.special.get_vocab(true);
        Ok(Tokenizer {
            start,
            middle,
            blank_only_at_start: has_first_scheme(&json),
            special_ids,
            vocabulary_size,
            encoding: Growth::of(&json["normalizer"]).then(Growth::of(&json["pre_tokenizer"])),
            decoding: Growth::of(&json["decoder"]),
            longest_token: vocabulary.keys().map(String::len).max().unwrap_or(0),
        })
    }

    pub fn ids_of(&self, text: &str, special: bool, seam: Seam) -> Result<Vec<i32>> {
        self.encoding.check(text.len())?;
        if special && seam == Seam::Continuation && !self.blank_only_at_start {
            if let Some(middle) = &self.middle {
                return self.ids_across_special(text, &middle.special);
            }
        }
        let pair = self.pair(seam);
        let encoding = if special {
            pair.special.encode_fast(text, false)
        } else if pair.hides_pieces && text.contains(HIDDEN) {
            pair.plain.encode_fast(text.replace(HIDDEN, HARMLESS), false)
        } else {
            pair.plain.encode_fast(text, false)
        };
        Ok(to_signed(encoding.map_err(one_line_error)?.get_ids()))
    }

    /// The blank is missing only up to the first special token; behind it a line begins again.
    fn ids_across_special(&self, text: &str, middle: &tokenizers::Tokenizer) -> Result<Vec<i32>> {
        let encoding = middle.encode(text, false).map_err(one_line_error)?;
        let ids = encoding.get_ids();
        let Some(first) = ids.iter().position(|id| self.special_ids.contains(id)) else {
            return Ok(to_signed(ids));
        };
        let (_, end) = encoding.get_offsets()[first];
        let mut all = to_signed(&ids[..=first]);
        let rest = text.get(end..).ok_or("tokenizer: cuts a character in two")?;
        all.extend(self.ids_of(rest, true, Seam::AfterSpecial)?);
        Ok(all)
    }

    fn pair(&self, seam: Seam) -> &Pair {
        let adds_blank = match seam {
            Seam::TextStart => true,
            Seam::AfterSpecial => !self.blank_only_at_start,
            _ => false,
        };
        match &self.middle {
            Some(middle) if !adds_blank => middle,
            _ => &self.start,
        }
    }

    pub fn text_of(&self, ids: &[i32]) -> Result<String> {
        self.decoding.check(ids.len().saturating_mul(self.longest_token))?;
        let ids: Vec<u32> = ids.iter().filter_map(|&id| self.known(id)).collect();
        self.start.special.decode(&ids, true).map_err(one_line_error)
    }

    pub fn text_of_one(&self, id: i32) -> Result<String> {
        let Some(id) = self.known(id) else { return Ok(String::new()) };
        self.decoding.check(self.longest_token)?;
        let tokenizer = &self.start.special;
        let text = tokenizer.decode(&[id], false).map_err(one_line_error)?;
        // SentencePiece-like decoders drop the blank before the first word of a text.
        let piece = tokenizer.id_to_token(id).unwrap_or_default();
        let lost_blank = piece.starts_with('\u{2581}')
            && !text.starts_with([' ', '\u{2581}'])
            && !self.special_ids.contains(&id);
        Ok(if lost_blank { format!(" {text}") } else { text })
    }

    pub fn id_of(&self, token: &str) -> i32 {
        self.start.special.token_to_id(token).map_or(-1, |id| id as i32)
    }

    pub fn is_special(&self, id: i32) -> bool {
        u32::try_from(id).is_ok_and(|id| self.special_ids.contains(&id))
    }

    pub fn vocabulary_size(&self) -> i32 {
        self.vocabulary_size
    }

    fn known(&self, id: i32) -> Option<u32> {
        (id >= 0 && id < self.vocabulary_size).then_some(id as u32)
    }
}

impl Pair {
    fn load(json: &Value) -> Result<Self> {
        let special = parse(json)?;
        let mut hidden = json.clone();
        let hides_pieces = hide_special_pieces(&mut hidden);
        let mut plain = if hides_pieces { parse(&hidden)? } else { special.clone() };
        plain.set_encode_special_tokens(true);
        Ok(Pair { special, plain, hides_pieces })
    }
}

fn parse(json: &Value) -> Result<tokenizers::Tokenizer> {
    let bytes = serde_json::to_vec(json).map_err(|e| e.to_string())?;
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes)
        .map_err(|e| format!("is not a tokenizer: {}", one_line(&e.to_string())))?;
    // What a file may ask for, but a caller here must decide.
    tokenizer.with_truncation(None).map_err(|e| e.to_string())?;
    tokenizer.with_padding(None);
    tokenizer.set_encode_special_tokens(false);
    Ok(tokenizer)
}

/// A Unigram model finds its pieces in any text, special ones too. SentencePiece leaves control
/// pieces out of its search; here they keep their ids and scores under another name. False if there
/// are none.
fn hide_special_pieces(json: &mut Value) -> bool {
    if json["model"]["type"] != "Unigram" {
        return false;
    }
    let Some(mut added) = json["added_tokens"].as_array_mut().map(std::mem::take) else {
        return false;
    };
    let mut any = false;
    for token in added.iter_mut().filter(|token| token["special"] == true) {
        let place = token["id"].as_u64().and_then(|id| usize::try_from(id).ok());
        let piece = place.and_then(|place| json["model"]["vocab"].get_mut(place)?.get_mut(0));
        let Some(piece) = piece.filter(|piece| **piece == token["content"]) else { continue };
        let name = format!("{HIDDEN}{}", piece.as_str().unwrap_or(""));
        *piece = name.clone().into();
        token["content"] = name.into();
        any = true;
    }
    json["added_tokens"] = added.into();
    any
}

/// Ids are below vocabulary_size, which fits an i32.
fn to_signed(ids: &[u32]) -> Vec<i32> {
    ids.iter().map(|&id| id as i32).collect()
}

fn one_line_error(error: tokenizers::Error) -> String {
    format!("tokenizer: {}", one_line(&error.to_string()))
}

fn vocabulary_size(tokenizer: &tokenizers::Tokenizer) -> Result<i32> {
    const MAX_ID: u32 = 1 << 24;
    match tokenizer.get_vocab(true).values().max() {
        None => Err("has an empty vocabulary; at least one token is needed".to_string()),
        Some(&id) if id > MAX_ID => {
            Err(format!("has token id {id}; allowed are ids up to {MAX_ID}"))
        }
        Some(&id) => Ok(id as i32 + 1),
    }
}

/// A model that leaves out merges by chance gives other ids each time.
fn check_determined(json: &Value) -> Result<()> {
    match &json["model"]["dropout"] {
        Value::Null => Ok(()),
        Value::Number(number) if number.as_f64() == Some(0.0) => Ok(()),
        other => {
            Err(format!("has model.dropout {}; allowed is null", one_line(&other.to_string())))
        }
    }
}

fn special_ids(tokenizer: &tokenizers::Tokenizer) -> HashSet<u32> {
    tokenizer
        .get_added_tokens_decoder()
        .iter()
        .filter(|(_, token)| token.special)
        .map(|(&id, _)| id)
        .collect()
}

/// Takes out what adds a blank at the start of a text; false if there is nothing of the kind.
fn remove_blank(json: &mut Value) -> bool {
    let normalizer = json.get_mut("normalizer").is_some_and(remove_blank_from);
    json.get_mut("pre_tokenizer").is_some_and(remove_blank_from) || normalizer
}

fn remove_blank_from(part: &mut Value) -> bool {
    match part["type"].as_str() {
        Some("Sequence") => ["normalizers", "pretokenizers"]
            .into_iter()
            .filter_map(|key| part.get_mut(key).and_then(Value::as_array_mut).map(remove_from_all))
            .fold(false, |any, one| any || one),
        Some("Prepend") => {
            *part = serde_json::json!({"type": "Sequence", "normalizers": []});
            true
        }
        Some("Metaspace") if part["prepend_scheme"] != "never" => {
            part["prepend_scheme"] = "never".into();
            part["add_prefix_space"] = false.into();
            true
        }
        Some("ByteLevel") if part["add_prefix_space"] == true => {
            part["add_prefix_space"] = false.into();
            true
        }
        _ => false,
    }
}

fn remove_from_all(parts: &mut Vec<Value>) -> bool {
    parts.iter_mut().fold(false, |any, part| remove_blank_from(part) || any)
}

fn has_first_scheme(json: &Value) -> bool {
    let pre_tokenizer = &json["pre_tokenizer"];
    let is_first = |part: &Value| part["type"] == "Metaspace" && part["prepend_scheme"] == "first";
    is_first(pre_tokenizer)
        || pre_tokenizer["pretokenizers"].as_array().is_some_and(|parts| parts.iter().any(is_first))
}
