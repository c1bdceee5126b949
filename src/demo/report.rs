//! What the demo says: a line and a time for each step, or a JSON object.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the demo's output"
)]

use std::time::Instant;

use serde_json::{Value, json};

use crate::core::money::Msat;
use crate::core::text::escape;

/// What became of the money, in msat: `paid` is the sum of the others.
pub(super) struct Money {
    pub(super) paid: Msat,
    pub(super) mint_fees: Msat,
    pub(super) served: Msat,
    pub(super) refunded: Msat,
    pub(super) credit: Msat,
}

impl Money {
    fn balances(&self) -> bool {
        let parts = [self.mint_fees, self.served, self.refunded, self.credit];
        Msat::checked_sum(parts) == Some(self.paid)
    }
}

/// Says what happens, and how long it took.
pub(super) struct Report {
    json: bool,
    last: Instant,
    steps: Vec<(String, f64)>,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            last: Instant::now(),
            steps: Vec::new(),
        }
    }

    /// A step is done.
    pub(super) fn step(&mut self, name: &str, text: &str, more: Value) {
        let ms = (self.last.elapsed().as_secs_f64() * 10_000.0).round() / 10.0;
        self.last = Instant::now();
        self.steps.push((name.to_owned(), ms));
        if self.json {
            let mut object = json!({ "name": name, "ms": ms });
            if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
                object.extend(more);
            }
            println!("{object}");
        } else {
            println!("{name:<8} {ms:>8.1} ms  {}", escape(text));
        }
    }

    /// The next step begins now: what was waited for is no step's time.
    pub(super) fn go_on(&mut self) {
        self.last = Instant::now();
    }

    /// Something that the reader should know.
    pub(super) fn note(&self, text: &str) {
        eprintln!("note: {}", escape(text));
    }

    /// It stays up: commands to play with, and for programs the way in.
    pub(super) fn keep(&self, commands: &[String], way_in: &Value) {
        if self.json {
            println!("{way_in}");
        }
        eprintln!("\nEverything stays up until Ctrl-C. In another terminal:");
        for command in commands {
            eprintln!("  {command}");
        }
    }

    /// The end; gives the exit code.
    pub(super) fn end(&self, output: &str, money: &Money, code: i32) -> u8 {
        let ok = code == 0 && money.balances();
        let steps: Vec<_> = self
            .steps
            .iter()
            .map(|(name, ms)| json!({ "name": name, "ms": ms }))
            .collect();
        if self.json {
            let object = json!({
                "ok": ok,
                "output": output,
                "exit_code": code,
                "steps": steps,
                "money": {
                    "paid_msat": money.paid,
                    "mint_fees_msat": money.mint_fees,
                    "served_msat": money.served,
                    "refunded_msat": money.refunded,
                    "credit_msat": money.credit,
                },
            });
            println!("{object}");
        } else {
            println!(
                "\npaid {} = mint fees {} + served {} + refunded {} + credit {}",
                money.paid, money.mint_fees, money.served, money.refunded, money.credit
            );
            println!("{}", if ok { "ok" } else { "not ok" });
        }
        u8::from(!ok)
    }

    /// It did not get to the end; gives the exit code.
    pub(super) fn failed(&self, error: &anyhow::Error) -> u8 {
        let why = format!("{error:#}");
        if self.json {
            println!("{}", json!({ "ok": false, "error": why }));
        }
        eprintln!("demo: {}", escape(&why));
        1
    }
}
