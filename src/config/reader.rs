//! Walks a JSON value and notes what is wrong on the way, so that one look
//! finds everything.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use super::ConfigProblem;
use super::units;

/// Where problems and the keys that were looked for are collected.
#[derive(Default)]
pub(super) struct Sink {
    problems: RefCell<Vec<ConfigProblem>>,
    keys: RefCell<BTreeSet<String>>,
}

impl Sink {
    pub(super) fn into_parts(self) -> (Vec<ConfigProblem>, Vec<String>) {
        let keys = self.keys.into_inner().into_iter().collect();
        (self.problems.into_inner(), keys)
    }
}

/// A value and its place.
pub(super) struct Node<'a> {
    value: &'a Value,
    /// JSON pointer of the value.
    pointer: String,
    /// The same with `*` for places in lists and names in maps.
    pattern: String,
    sink: &'a Sink,
}

/// An object whose keys are being read. Keys that nobody asked for are
/// problems: [`finish`](Object::finish).
pub(super) struct Object<'a> {
    map: Option<&'a Map<String, Value>>,
    pointer: String,
    pattern: String,
    sink: &'a Sink,
    known: Vec<&'static str>,
}

impl<'a> Node<'a> {
    pub(super) fn root(value: &'a Value, sink: &'a Sink) -> Self {
        Self {
            value,
            pointer: String::new(),
            pattern: String::new(),
            sink,
        }
    }

    pub(super) fn value(&self) -> &'a Value {
        self.value
    }

    fn child(&self, step: &str, pattern: &str, value: &'a Value) -> Node<'a> {
        Node {
            value,
            pointer: format!("{}/{}", self.pointer, escape(step)),
            pattern: format!("{}/{pattern}", self.pattern),
            sink: self.sink,
        }
    }

    /// Notes a problem here; the value is not to be had.
    pub(super) fn problem<T>(
        &self,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Option<T> {
        self.problem_at("", message, fix);
        None
    }

    /// Notes a problem at `below`, a pointer that starts here.
    pub(super) fn problem_at(
        &self,
        below: &str,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.sink.problems.borrow_mut().push(ConfigProblem {
            pointer: format!("{}{below}", self.pointer),
            message: message.into(),
            fix: fix.into(),
        });
    }

    pub(super) fn object(&self) -> Object<'a> {
        if !self.value.is_object() {
            let _: Option<()> =
                self.problem("It is not an object.", "Write {\"key\": value, …} here.");
        }
        Object {
            map: self.value.as_object(),
            pointer: self.pointer.clone(),
            pattern: self.pattern.clone(),
            sink: self.sink,
            known: Vec::new(),
        }
    }

    /// All items, or `None` where one of them is wrong or there are too few or too many.
    pub(super) fn list<T>(
        &self,
        count: RangeInclusive<usize>,
        read: impl Fn(&Node<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::Array(items) = self.value else {
            return self.problem("It is not a list.", "Write […] here.");
        };
        if items.len() < *count.start() {
            return self.problem(
                "The list is empty.",
                format!("Write at least {} here.", count.start()),
            );
        }
        if items.len() > *count.end() {
            return self.problem(
                "The list is too long.",
                format!("Write at most {} here.", count.end()),
            );
        }
        let read: Vec<Option<T>> = items
            .iter()
            .enumerate()
            .map(|(at, item)| read(&self.child(&at.to_string(), "*", item)))
            .collect();
        read.into_iter().collect()
    }

    /// A list whose items differ by `key`.
    pub(super) fn unique<T, K: Ord>(
        &self,
        count: RangeInclusive<usize>,
        read: impl Fn(&Node<'a>) -> Option<T>,
        key: impl Fn(&T) -> K,
    ) -> Option<Vec<T>> {
        let items = self.list(count, read)?;
        let mut seen = BTreeSet::new();
        let mut good = true;
        for (at, item) in items.iter().enumerate() {
            if !seen.insert(key(item)) {
                self.problem_at(
                    &format!("/{at}"),
                    "It is there twice.",
                    "Take one of them out.",
                );
                good = false;
            }
        }
        good.then_some(items)
    }

    /// An object whose keys are names that the operator chose.
    pub(super) fn map<T>(
        &self,
        name_is: (&str, impl Fn(&str) -> bool),
        read: impl Fn(&Node<'a>) -> Option<T>,
    ) -> Option<BTreeMap<String, T>> {
        let Value::Object(map) = self.value else {
            return self.problem("It is not an object.", "Write {\"name\": value, …} here.");
        };
        let (wanted, fits) = name_is;
        let read: Vec<Option<(String, T)>> = map
            .iter()
            .map(|(name, value)| {
                let node = self.child(name, "*", value);
                if !fits(name) {
                    return node.problem(
                        format!("{name:?} cannot be a name here."),
                        format!("Use {wanted}."),
                    );
                }
                read(&node).map(|value| (name.clone(), value))
            })
            .collect();
        read.into_iter().collect()
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        match self.value {
            Value::String(text) => Some(text),
            _ => self.problem("It is not a text.", "Write it in double quotes."),
        }
    }

    /// 1 to `max` characters, none of them a control character.
    pub(super) fn printable(&self, max: usize) -> Option<String> {
        let text = self.text()?;
        let good = !text.trim().is_empty()
            && text.chars().count() <= max
            && !text.chars().any(char::is_control);
        if good {
            return Some(text.to_owned());
        }
        self.problem(
            "It is empty, too long or holds control characters.",
            format!("Write 1 to {max} printable characters."),
        )
    }

    pub(super) fn flag(&self) -> Option<bool> {
        match self.value {
            Value::Bool(flag) => Some(*flag),
            _ => self.problem(
                "It is neither true nor false.",
                "Write true or false, without quotes.",
            ),
        }
    }

    pub(super) fn integer<T: TryFrom<u64> + Copy>(&self, range: RangeInclusive<u64>) -> Option<T> {
        let fix = format!(
            "Write a whole number from {} to {}.",
            range.start(),
            range.end()
        );
        match self.value.as_u64() {
            Some(number) if range.contains(&number) => match T::try_from(number) {
                Ok(number) => Some(number),
                Err(_) => self.problem(format!("{number} is too large."), fix),
            },
            Some(number) => self.problem(format!("{number} is out of range."), fix),
            None => self.problem("It is not a whole number.", fix),
        }
    }

    /// `"90s"`, `"10m"`, `"2h"`, `"7d"`, or seconds as a number.
    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let read = match self.value {
            Value::String(text) => units::parse_duration(text),
            value => value.as_u64().map(Duration::from_secs),
        };
        let between = format!(
            "{} to {}",
            units::show_duration(*range.start()),
            units::show_duration(*range.end())
        );
        match read {
            Some(duration) if range.contains(&duration) => Some(duration),
            Some(duration) => self.problem(
                format!("{} is out of range.", units::show_duration(duration)),
                format!("Write {between}."),
            ),
            None => self.problem(
                "It is not a duration.",
                format!("Write a number with s, m, h or d, such as \"90s\", or seconds as a number; {between}."),
            ),
        }
    }

    /// `"512MiB"`, `"2GiB"`, `"1TiB"`, as MiB.
    pub(super) fn mib<T: TryFrom<u64> + Copy>(&self, range: RangeInclusive<u64>) -> Option<T> {
        let between = format!(
            "{} to {}",
            units::show_mib(*range.start()),
            units::show_mib(*range.end())
        );
        let read = match self.value {
            Value::String(text) => units::parse_mib(text),
            _ => None,
        };
        match read {
            Some(mib) if range.contains(&mib) => match T::try_from(mib) {
                Ok(mib) => Some(mib),
                Err(_) => self.problem("It is too large.", format!("Write {between}.")),
            },
            Some(mib) => self.problem(
                format!("{} is out of range.", units::show_mib(mib)),
                format!("Write {between}."),
            ),
            None => self.problem(
                "It is not a size.",
                format!("Write a number with MiB, GiB or TiB, such as \"512MiB\"; {between}."),
            ),
        }
    }

    /// Anything that reads itself from text.
    pub(super) fn parsed<T: std::str::FromStr>(&self, what: &str, fix: &str) -> Option<T> {
        match self.text()?.parse() {
            Ok(value) => Some(value),
            Err(_) => self.problem(format!("It is not {what}."), fix),
        }
    }

    /// A path; a relative one starts at `base`.
    pub(super) fn path(&self, base: &Path) -> Option<PathBuf> {
        let text = self.text()?;
        if text.is_empty() || text.contains('\0') {
            return self.problem(
                "It is not a path.",
                "Write the path of a file or directory.",
            );
        }
        Some(base.join(text))
    }
}

impl<'a> Object<'a> {
    fn note(&mut self, key: &'static str) -> Option<Node<'a>> {
        self.known.push(key);
        let pattern = format!("{}/{key}", self.pattern);
        self.sink.keys.borrow_mut().insert(pattern.clone());
        let value = self.map?.get(key).filter(|value| !value.is_null())?;
        Some(Node {
            value,
            pointer: format!("{}/{key}", self.pointer),
            pattern,
            sink: self.sink,
        })
    }

    /// The value of a key that has to be there.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Node<'a>) -> Option<T>,
    ) -> Option<T> {
        match self.note(key) {
            Some(node) => read(&node),
            None => self.problem(
                key,
                "It is missing.",
                format!("Add \"{key}\"; docs/configuration.md and provider.example.json show it."),
            ),
        }
    }

    /// The value of a key, or `default` where it is absent; `None` where it is wrong.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Node<'a>) -> Option<T>,
    ) -> Option<T> {
        match self.note(key) {
            Some(node) => read(&node),
            None => Some(default),
        }
    }

    /// An object below; an absent one is empty.
    pub(super) fn section(&mut self, key: &'static str) -> Object<'a> {
        match self.note(key) {
            Some(node) => node.object(),
            None => Object {
                map: None,
                pointer: format!("{}/{key}", self.pointer),
                pattern: format!("{}/{key}", self.pattern),
                sink: self.sink,
                known: Vec::new(),
            },
        }
    }

    /// Notes a problem at a key.
    pub(super) fn problem<T>(
        &self,
        key: &str,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Option<T> {
        let pointer = if key.is_empty() {
            self.pointer.clone()
        } else {
            format!("{}/{}", self.pointer, escape(key))
        };
        self.sink.problems.borrow_mut().push(ConfigProblem {
            pointer,
            message: message.into(),
            fix: fix.into(),
        });
        None
    }

    /// Notes keys that nobody asked for.
    pub(super) fn finish(self) {
        let Some(map) = self.map else { return };
        for key in map.keys().filter(|key| !self.known.contains(&key.as_str())) {
            let fix = match units::nearest(key, &self.known) {
                Some(near) => format!("Did you mean \"{near}\"?"),
                None => format!("Take it out; there are {}.", self.known.join(", ")),
            };
            let _: Option<()> = self.problem(key, "There is no such key.", fix);
        }
    }
}

/// One step of a JSON pointer (RFC 6901 section 3).
pub(super) fn escape(step: &str) -> String {
    step.replace('~', "~0").replace('/', "~1")
}
