//! Where results and words for people go.

use std::io::{IsTerminal, Write};

use serde::Serialize;

/// Results go to `out`, everything for people to `err`.
pub(super) struct Output<'a> {
    out: Box<dyn Write + 'a>,
    err: Box<dyn Write + 'a>,
}

impl<'a> Output<'a> {
    /// Standard output and standard error.
    pub(super) fn std() -> Self {
        Self::new(std::io::stdout(), std::io::stderr())
    }

    pub(super) fn new(out: impl Write + 'a, err: impl Write + 'a) -> Self {
        Self {
            out: Box::new(out),
            err: Box::new(err),
        }
    }

    /// A line of the result.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn line(&mut self, text: &str) -> anyhow::Result<()> {
        match writeln!(self.out, "{text}") {
            // The reader has seen enough (`| head`).
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            done => Ok(done?),
        }
    }

    /// The result as JSON.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn json(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        self.line(&serde_json::to_string_pretty(value)?)
    }

    /// A line for people. A standard error that is closed stops nothing.
    pub(super) fn tell(&mut self, text: &str) {
        let _ = writeln!(self.err, "{text}");
    }

    /// The beginning of a line for people, which they go on with.
    pub(super) fn prompt(&mut self, text: &str) {
        let _ = write!(self.err, "{text}");
        let _ = self.err.flush();
    }
}

/// Whether somebody is there who can be asked.
pub(super) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Text of a stranger, so that it cannot move the cursor or end the line.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped: Vec<char> = if c.is_control() {
                c.escape_default().collect()
            } else {
                vec![c]
            };
            escaped
        })
        .collect()
}

/// Columns as wide as their widest cell, two spaces apart.
pub(super) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths);
            let padded: Vec<String> = cells
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            padded.join("  ").trim_end().to_owned()
        })
        .collect()
}
