//! Durations and sizes as people write them, and the key that was meant.

use std::time::Duration;

const DURATIONS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
const SIZES: [(&str, u64); 3] = [("TiB", 1024 * 1024), ("GiB", 1024), ("MiB", 1)];

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let (unit, size) = units.iter().find(|(unit, _)| text.ends_with(unit))?;
    let number = text.strip_suffix(unit)?.trim_end();
    let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    plain
        .then(|| number.parse::<u64>().ok())??
        .checked_mul(*size)
}

fn show(number: u64, units: &[(&str, u64)]) -> String {
    let fits = |size: u64| number != 0 && number.is_multiple_of(size);
    let (unit, size) = units
        .iter()
        .find(|(_, size)| fits(*size))
        .or(units.last())
        .copied()
        .unwrap_or(("", 1));
    format!("{}{unit}", number.checked_div(size).unwrap_or(number))
}

/// `90s`, `10m`, `2h`, `7d`: a whole number and a unit.
pub fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, &DURATIONS).map(Duration::from_secs)
}

/// A duration in the largest unit that shows it exactly; parts of a second are left out.
pub fn show_duration(duration: Duration) -> String {
    show(duration.as_secs(), &DURATIONS)
}

/// `512MiB`, `2GiB`, `1TiB`: a whole number and a unit, as MiB.
pub fn parse_mib(text: &str) -> Option<u64> {
    parse(text, &SIZES)
}

/// A size in MiB in the largest unit that shows it exactly.
pub fn show_mib(mib: u64) -> String {
    show(mib, &SIZES)
}

/// The word of `known` that `word` was probably meant to be.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (distance(word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, take out or change to get from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (cb, above) in b.iter().zip(row.iter().skip(1)) {
            let change = diagonal + usize::from(ca != *cb);
            left = change.min(left + 1).min(above + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
