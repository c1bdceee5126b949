//! `satletd withdraw`.

use std::path::Path;
use std::time::{Duration, Instant};

use super::output::{Output, clean};
use super::{ConfigArg, Exit, load, runtime};
use crate::core::money::Msat;
use crate::provider::control::{Amount, Ask, ControlError, PayoutView, Withdrawal, ask};

/// Between two questions about a payment that is under way.
const PAUSE: Duration = Duration::from_secs(1);

/// What the command line says.
pub(super) struct Wanted {
    pub(super) to: String,
    pub(super) amount: Option<String>,
    pub(super) mint: Option<String>,
    pub(super) unit: Option<String>,
    pub(super) max_fee: Option<u64>,
    pub(super) unexplained: bool,
    pub(super) wait: Duration,
}

impl Wanted {
    fn question(self) -> Option<Withdrawal> {
        let amount = match self.amount.as_deref() {
            None => None,
            Some("all") => Some(Amount::All),
            Some(sat) => {
                let sat = sat.strip_suffix("sat").unwrap_or(sat).trim();
                let amount = sat.parse().ok().and_then(Msat::from_sat);
                Some(Amount::Msat(amount.filter(|amount| !amount.is_zero())?))
            }
        };
        let max_fee_msat = match self.max_fee {
            None => None,
            Some(sat) => Some(Msat::from_sat(sat)?),
        };
        Some(Withdrawal {
            to: self.to,
            amount,
            mint: self.mint,
            unit: self.unit,
            max_fee_msat,
            unexplained: self.unexplained,
        })
    }
}

pub(super) fn withdraw(
    output: &mut Output<'_>,
    arg: &ConfigArg,
    wanted: Wanted,
    json: bool,
) -> anyhow::Result<Exit> {
    let config = match load(output, arg) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    let wait = wanted.wait;
    let Some(question) = wanted.question() else {
        output.tell("Write the amount as a whole number of sat, or \"all\".");
        return Ok(Exit::Usage);
    };
    let asked = paid(&config.settings.data_dir, question, wait);
    match runtime()?.block_on(asked) {
        Ok(payout) => {
            if json {
                output.json(&payout)?;
            } else {
                for line in render(&payout) {
                    output.line(&line)?;
                }
            }
            Ok(match payout.state.as_str() {
                "failed" => Exit::Failed,
                _ => Exit::Done,
            })
        }
        Err(error @ ControlError::NotRunning(_)) => {
            output.tell(&format!("{error}; start it with `satletd run`."));
            Ok(Exit::NotRunning)
        }
        Err(error) => Err(error.into()),
    }
}

/// Asks, and asks again until it is over or the time is up.
async fn paid(
    data_dir: &Path,
    question: Withdrawal,
    wait: Duration,
) -> Result<PayoutView, ControlError> {
    let end = Instant::now() + wait;
    let mut payout: PayoutView = ask(data_dir, Ask::Withdraw(question)).await?;
    while payout.ended_at.is_none() && Instant::now() < end {
        tokio::time::sleep(PAUSE.min(end.saturating_duration_since(Instant::now()))).await;
        let hash = payout.payout.clone();
        payout = ask(data_dir, Ask::Payout { payout: hash }).await?;
    }
    Ok(payout)
}

pub(super) fn render(payout: &PayoutView) -> Vec<String> {
    let to = match &payout.to {
        Some(to) => format!(" to {}", clean(to)),
        None => String::new(),
    };
    let (mint, unit) = (clean(&payout.mint), clean(&payout.unit));
    let what = format!("{}{to} from {mint} ({unit})", payout.amount_msat);
    let line = match (payout.state.as_str(), payout.fee_msat) {
        ("paid", fee) => format!("Paid {what}, and {} in fees.", fee.unwrap_or_default()),
        ("failed", _) => format!("Not paid: {what}; {}.", clean(&payout.why)),
        (state, _) => format!(
            "Not over yet ({state}): {what}, with up to {} in fees; {}. Ask again with the same invoice, or see `satletd money`.",
            payout.reserve_msat,
            clean(&payout.why)
        ),
    };
    vec![
        line,
        format!("Its payment hash is {}.", clean(&payout.payout)),
    ]
}
