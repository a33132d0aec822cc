//! How much longer the parts of a tokenizer.json can make a text. A few replacements in a row double a
//! text each, and the crate applies them whatever the result: hostile files are refused by this bound,
//! before memory is gone.

use serde_json::Value;

use crate::Result;

const MAX_BYTES: f64 = (4_u64 << 30) as f64;
/// T5's comes to 132. One that could make more of a text may make little: the crate needs up to 130 bytes
/// of memory for each.
const USUAL_FACTOR: f64 = 192.0;
const MAX_UNUSUAL_BYTES: f64 = (1 << 20) as f64;

/// A bound on the bytes that a text or some tokens may become.
pub struct Growth {
    factor: f64,
    added: f64,
}

impl Growth {
    /// `part`: normalizer, pre_tokenizer or decoder.
    pub fn of(part: &Value) -> Growth {
        Growth { factor: factor_of(part), added: added_by(part) }
    }

    /// One after the other.
    pub fn then(self, next: Growth) -> Growth {
        Growth { factor: self.factor * next.factor, added: self.added + next.added }
    }

    pub fn check(&self, size: usize) -> Result<()> {
        let max = if self.factor <= USUAL_FACTOR { MAX_BYTES } else { MAX_UNUSUAL_BYTES };
        if (size as f64 + self.added) * self.factor <= max {
            return Ok(());
        }
        Err(format!(
            "tokenizer: could make {size} bytes {:.0} times as many; allowed are {max} bytes in the end",
            self.factor
        ))
    }
}

/// The crate takes the memory that a charsmap's first number asks for before it looks for the bytes.
pub fn check_charsmaps(part: &Value) -> Result<()> {
    for child in children(part) {
        check_charsmaps(child)?;
    }
    let Some(text) = part["precompiled_charsmap"].as_str() else { return Ok(()) };
    let bytes = from_base64(text);
    let trie = bytes.first_chunk::<4>().map_or(0, |size| u32::from_le_bytes(*size) as usize);
    if trie <= bytes.len().saturating_sub(4) {
        return Ok(());
    }
    Err(format!("precompiled_charsmap has {} bytes; its trie alone is said to have {trie}", bytes.len()))
}

fn text_size(part: &Value, key: &str) -> f64 {
    part[key].as_str().map_or(0, str::len) as f64
}

/// The crate takes a part with a name that it does not know for what its fields look like.
fn factor_of(part: &Value) -> f64 {
    let own = match part["type"].as_str().unwrap_or("") {
        // The greatest growth in UTF-8 that the Unicode standard names.
        "NFC" | "NFD" | "ByteLevel" | "Lowercase" | "BertNormalizer" => 3.0,
        "NFKC" | "NFKD" => 11.0,
        "Metaspace" => 4.0,
        _ => 1.0,
    };
    let charsmap = longest_replacement(part).max(1.0);
    own * charsmap * replaced_by(part) * children(part).map(factor_of).product::<f64>()
}

/// Of what has a pattern and a content.
fn replaced_by(part: &Value) -> f64 {
    if part["pattern"].is_null() || !part["content"].is_string() {
        return 1.0;
    }
    let matched = part["pattern"]["String"].as_str().map_or(0, str::len) as f64;
    let content = text_size(part, "content");
    // A match of nothing stands between all bytes.
    if matched == 0.0 {
        content + 1.0
    } else {
        (content / matched).max(1.0)
    }
}

fn added_by(part: &Value) -> f64 {
    children(part).map(added_by).sum::<f64>()
        + text_size(part, "prepend")
        + text_size(part, "prefix")
}

fn children(part: &Value) -> impl Iterator<Item = &Value> {
    ["normalizers", "pretokenizers", "decoders"]
        .into_iter()
        .filter_map(|key| part[key].as_array())
        .flatten()
}

/// google/sentencepiece, normalizer.cc: four bytes with the size of a trie, the trie, and the
/// replacements with a NUL after each.
fn longest_replacement(part: &Value) -> f64 {
    let bytes = from_base64(part["precompiled_charsmap"].as_str().unwrap_or(""));
    let size = bytes.first_chunk::<4>().map_or(0, |size| u32::from_le_bytes(*size) as usize);
    let replacements = bytes.get(4_usize.saturating_add(size)..).unwrap_or(&[]);
    replacements.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0) as f64
}

/// What is no base64 is left out: the crate refuses it.
fn from_base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut values = [None; 256];
    (0..).zip(ALPHABET).for_each(|(value, &letter)| values[usize::from(letter)] = Some(value));
    let (mut out, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for value in text.bytes().filter_map(|letter| values[usize::from(letter)]) {
        bits = (bits << 6 | value) & 0xFFFF;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}
