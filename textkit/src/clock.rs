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
        let code = chars.next().unwrap_or('%');
        out.push_str(match code {
            'Y' => "2024",
            'y' => "24",
            'm' => "07",
            'd' | 'e' => "26",
            'B' => "July",
            'b' | 'h' => "Jul",
            'A' => "Friday",
            'a' => "Fri",
            'j' => "208",
            'H' | 'M' | 'S' => "00",
            'I' => "12",
            'p' => "AM",
            'F' => "2024-07-26",
            'T' => "00:00:00",
            '%' => "%",
            _ => return problem(format!("strftime_now: '%{code}' is not supported")),
        });
    }
    Ok(out)
}
