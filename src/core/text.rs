//! Text from strangers, before it is shown.

/// Text from strangers, fit for a terminal: control and direction characters
/// (Unicode categories Cc and the bidirectional controls) become `\u{…}`.
pub fn escape(text: &str) -> String {
    escape_but(text, |_| false)
}

/// As [`escape`], but lines and tabs stay: for whole outputs.
pub fn escape_lines(text: &str) -> String {
    escape_but(text, |c| matches!(c, '\n' | '\t'))
}

fn escape_but(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let hidden = c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if hidden && !keep(c) {
            safe.extend(c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    safe
}
