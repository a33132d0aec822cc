//! Finds the words for an error: which construct of a template looks into a message's content.

/// The first `content.split(...)`, `content[0]`, `content | length`, `... in content` and the like:
/// line (from 1) and text. Trimming and tests on the type are let through.
pub fn first_change_of_content(source: &str) -> Option<(usize, String)> {
    (1..).zip(source.lines()).find_map(|(number, line)| Some((number, change_in(line)?)))
}

fn change_in(line: &str) -> Option<String> {
    const WORD: &str = "content";
    line.match_indices(WORD).find_map(|(begin, _)| {
        let tail = &line[begin + WORD.len()..];
        let access = tail.trim_start_matches(['\'', '"', ']']);
        let end = line.len() - access.len() + operation_end(access)?;
        Some(line[begin..end].chars().take(80).collect())
    })
}

/// Where the operation that `text` begins with ends, its closing bracket included.
fn operation_end(text: &str) -> Option<usize> {
    const HARMLESS: [&str; 4] = ["trim", "strip", "lstrip", "rstrip"];
    let body = text.trim_start();
    let is_operation = match body.chars().next()? {
        '.' | '|' => {
            let name = name_in(&body[1..]);
            !name.is_empty() && !HARMLESS.contains(&name)
        }
        '[' => true,
        _ => false,
    };
    let end = body.find([')', ']', '%', '}']).map_or(body.len(), |end| end + 1);
    let operation = body[..end].trim_end_matches(['%', '}']).trim_end();
    is_operation.then(|| text.len() - body.len() + operation.len())
}

fn name_in(text: &str) -> &str {
    text.trim_start().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("")
}
