//! Lines of the tiny shell: words with quotes and `$NAME`, `;`, `&&`, `||`,
//! `>`, `>>`, `>&2`, `2>&1`. No pipes, no control flow.

use std::iter::Peekable;
use std::str::Chars;

/// A part of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    Variable(String),
}

pub(super) type Word = Vec<Part>;

/// Where standard output of a command goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    Write(Word),
    Append(Word),
    Stderr,
}

/// When a command runs, by how the one before it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Always,
    AfterSuccess,
    AfterFailure,
}

/// A command of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) when: When,
    pub(super) words: Vec<Word>,
    pub(super) redirect: Option<Redirect>,
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(Word),
    Next(When),
    Write,
    Append,
    ToStderr,
    Merge,
}

/// The commands of a line; `Err` with what is not understood.
pub(super) fn parse(line: &str) -> Result<Vec<Command>, String> {
    let mut chars = line.chars().peekable();
    let mut commands = Vec::new();
    let mut current = empty(When::Always);
    while let Some(token) = token(&mut chars)? {
        match token {
            Token::Word(word) => current.words.push(word),
            Token::Next(when) => {
                commands.push(std::mem::replace(&mut current, empty(when)));
            }
            Token::ToStderr => current.redirect = Some(Redirect::Stderr),
            Token::Merge => {}
            Token::Write | Token::Append => {
                let Some(Token::Word(file)) = self::token(&mut chars)? else {
                    return Err("a file name is missing".to_owned());
                };
                current.redirect = Some(match token {
                    Token::Append => Redirect::Append(file),
                    _ => Redirect::Write(file),
                });
            }
        }
    }
    commands.push(current);
    commands.retain(|command| !command.words.is_empty() || command.redirect.is_some());
    Ok(commands)
}

fn empty(when: When) -> Command {
    Command {
        when,
        words: Vec::new(),
        redirect: None,
    }
}

fn token(chars: &mut Peekable<Chars<'_>>) -> Result<Option<Token>, String> {
    while chars.next_if(|c| *c == ' ' || *c == '\t').is_some() {}
    let Some(first) = chars.peek().copied() else {
        return Ok(None);
    };
    let doubled = |chars: &mut Peekable<Chars<'_>>| {
        chars.next();
        chars.next_if_eq(&first).is_some()
    };
    Ok(Some(match first {
        ';' | '\n' => {
            chars.next();
            Token::Next(When::Always)
        }
        '&' if doubled(chars) => Token::Next(When::AfterSuccess),
        '|' if doubled(chars) => Token::Next(When::AfterFailure),
        '&' | '|' | '(' | ')' | '<' | '`' => return Err(format!("{first} is not understood")),
        '>' if doubled(chars) => Token::Append,
        '>' => after_write(chars)?,
        _ => return word(chars).map(Some),
    }))
}

/// What follows a single `>`.
fn after_write(chars: &mut Peekable<Chars<'_>>) -> Result<Token, String> {
    if chars.next_if_eq(&'&').is_none() {
        return Ok(Token::Write);
    }
    match chars.next() {
        Some('2') => Ok(Token::ToStderr),
        _ => Err(">& is understood with 2 only".to_owned()),
    }
}

fn word(chars: &mut Peekable<Chars<'_>>) -> Result<Token, String> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut quote = None;
    let mut quoted = false;
    while let Some(c) = chars.peek().copied() {
        match (quote, c) {
            (None, ' ' | '\t' | '\n' | ';' | '&' | '|' | '<' | '(' | ')') => break,
            (None, '>') if text == "2" && parts.is_empty() => return merge(chars),
            (None, '>') => break,
            _ => {}
        }
        chars.next();
        match (quote, c) {
            (None, '\'' | '"') => (quote, quoted) = (Some(c), true),
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => text.extend(chars.next()),
            (None | Some('"'), '$') => variable(chars, &mut text, &mut parts),
            _ => text.push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    if !text.is_empty() || (quoted && parts.is_empty()) {
        parts.push(Part::Text(text));
    }
    Ok(Token::Word(parts))
}

/// `2>&1` and `2>/dev/null`: standard error of the commands here is not worth
/// a place of its own.
fn merge(chars: &mut Peekable<Chars<'_>>) -> Result<Token, String> {
    chars.next();
    let rest: String = std::iter::from_fn(|| chars.next_if(|c| !" \t;".contains(*c))).collect();
    match rest.as_str() {
        "&1" | "/dev/null" => Ok(Token::Merge),
        _ => Err(format!("2>{rest} is not understood")),
    }
}

fn variable(chars: &mut Peekable<Chars<'_>>, text: &mut String, parts: &mut Word) {
    let braced = chars.next_if_eq(&'{').is_some();
    let special = chars.next_if(|c| "?$".contains(*c));
    let name: String = match special {
        Some(c) => c.to_string(),
        None => std::iter::from_fn(|| chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_'))
            .collect(),
    };
    if braced {
        chars.next_if_eq(&'}');
    }
    if name.is_empty() {
        text.push('$');
        return;
    }
    if !text.is_empty() {
        parts.push(Part::Text(std::mem::take(text)));
    }
    parts.push(Part::Variable(name));
}
