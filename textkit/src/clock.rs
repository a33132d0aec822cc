//! The clock of chat templates stands still, so that a row renders the same on every day.

use crate::value::{problem, Outcome};

/// Friday, 26 July 2024, 00:00: the date that Llama's templates write where there is no clock.
pub fn format(pattern: &str) -> Outcome<String> {
    let mut out = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut code = chars.next().unwrap_or('%');
        let is_short = code == '-';
        if is_short {
            code = chars.next().unwrap_or('%');
        }
        let text = match code {
            'Y' | 'G' => "2024",
            'y' | 'g' => "24",
            'C' => "20",
            'm' => "07",
            'd' | 'e' => "26",
            'B' => "July",
            'b' | 'h' => "Jul",
            'A' => "Friday",
            'a' => "Fri",
            'u' | 'w' => "5",
            'j' => "208",
            'U' => "29",
            'V' | 'W' => "30",
            'H' | 'M' | 'S' => "00",
            'I' => "12",
            'p' => "AM",
            'f' => "000000",
            'z' | 'Z' => "",
            'F' => "2024-07-26",
            'D' | 'x' => "07/26/24",
            'T' | 'X' => "00:00:00",
            'R' => "00:00",
            'c' => "Fri Jul 26 00:00:00 2024",
            '%' => "%",
            _ => return problem(format!("strftime_now: '%{code}' is not supported")),
        };
        // As the C library: without the zeros that fill a number up.
        let short = text.strip_prefix('0').unwrap_or(text);
        out.push_str(if is_short { short } else { text });
    }
    Ok(out)
}
