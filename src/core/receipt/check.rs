//! Whether a receipt adds up, by nothing but what is in it.

use std::hash::Hash;

use super::{BTreeSet, Ground, Msat, PaymentLine, Receipt, RefundLine, RefundStage, Timestamp};
use super::{MAX_PAYMENTS, MAX_REFUNDS, VERSION};

/// Why a receipt is false, though its signature may be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Another version of the format.
    #[error("it has version {0}, and only version {VERSION} is known here")]
    Version(u32),
    /// A sum is beyond 64 bits.
    #[error("its numbers are too large to be added")]
    TooLarge,
    /// Something is in it twice, or more is listed than may be.
    #[error("{0}")]
    Listed(&'static str),
    /// A number is not what the rest of the receipt makes it.
    #[error("{what}: it says {says}, but the rest of it makes that {makes}")]
    Differs {
        /// Which number.
        what: &'static str,
        /// What it says.
        says: u64,
        /// What follows from the rest.
        makes: u64,
    },
    /// A payment bought more or less time than its money does.
    #[error("payment {payment}: {added} s were added for {net}, at {rate} msat a second")]
    Bought {
        /// Which payment.
        payment: super::PaymentId,
        /// What it added, in seconds.
        added: u64,
        /// What it was worth.
        net: Msat,
        /// The price.
        rate: u64,
    },
    /// A refund's face does not go with what was owed and whose doing it is.
    #[error("refund {refund}: a token of {face} for {owed} that were owed")]
    Refund {
        /// Which refund.
        refund: String,
        /// The token's face.
        face: Msat,
        /// What was owed.
        owed: Msat,
    },
    /// More was served than bought.
    #[error("{used} s were served or are left, but {sold} s were bought")]
    MoreThanSold {
        /// Served and left.
        used: u64,
        /// Bought.
        sold: u64,
    },
    /// More was served than time has passed.
    #[error("{served} s were charged as served, but it can have run for {ran} s at most")]
    LongerThanItRan {
        /// Charged.
        served: u64,
        /// From its start to its end, or to now.
        ran: u64,
    },
    /// Something is not possible at the end, or only there.
    #[error("{0}")]
    End(&'static str),
}

fn same(what: &'static str, says: u64, makes: u64) -> Result<(), Flaw> {
    if says == makes {
        return Ok(());
    }
    Err(Flaw::Differs { what, says, makes })
}

fn sum(amounts: impl IntoIterator<Item = Msat>) -> Result<Msat, Flaw> {
    Msat::checked_sum(amounts).ok_or(Flaw::TooLarge)
}

fn seconds(parts: impl IntoIterator<Item = u64>) -> Result<u64, Flaw> {
    let mut parts = parts.into_iter();
    let total = parts.try_fold(0, u64::checked_add);
    total.ok_or(Flaw::TooLarge)
}

fn all_differ<T: Ord + Hash>(of: impl ExactSizeIterator<Item = T>) -> bool {
    let count = of.len();
    of.collect::<BTreeSet<_>>().len() == count
}

impl Receipt {
    /// Adds it all up, as of `at`: that each payment is face = fee + net and
    /// bought what its money buys, that each refund gives what was owed, and that
    /// the sums are those of the lines and make the books balance.
    ///
    /// # Errors
    /// The first thing in it that cannot be true.
    pub fn check(&self, at: Timestamp) -> Result<(), Flaw> {
        if self.version != VERSION {
            return Err(Flaw::Version(self.version));
        }
        self.check_payments()?;
        self.check_gift()?;
        self.check_seconds(at)?;
        self.check_refunds()?;
        self.check_books()?;
        self.check_end()
    }

    fn check_payments(&self) -> Result<(), Flaw> {
        let lines = &self.payments;
        if !all_differ(lines.iter().map(|line| line.payment)) {
            return Err(Flaw::Listed("a payment is listed twice"));
        }
        let (listed, more) = (lines.len(), &self.earlier_payments);
        if listed > MAX_PAYMENTS || (listed < MAX_PAYMENTS && !more.is_none()) {
            return Err(Flaw::Listed("payments are summed up that should be listed"));
        }
        for line in lines {
            let whole = sum([line.mint_fee_msat, line.net_msat])?;
            same("face of a payment", line.face_msat.get(), whole.get())?;
            self.check_bought(line)?;
        }
        let faces = lines.iter().map(|line| line.face_msat);
        let paid = sum(faces.chain([more.face_msat]))?;
        same("paid_msat", self.books.paid_msat.get(), paid.get())?;
        let fees = lines.iter().map(|line| line.mint_fee_msat);
        let fees = sum(fees.chain([more.mint_fee_msat]))?;
        same(
            "mint_fees_msat",
            self.books.mint_fees_msat.get(),
            fees.get(),
        )?;
        let added = lines.iter().map(|line| line.added_seconds);
        let given = [more.added_seconds, self.gift_seconds];
        let added = seconds(added.chain(given))?;
        same("sold_seconds", self.sold_seconds, added)?;
        self.check_sold(paid, fees)
    }

    /// What a payment bought: its own money, less than a second's price that was
    /// left over from those before it, and credit of other leases. One that came too late bought nothing,
    /// and then the books must have its money elsewhere.
    fn check_bought(&self, line: &PaymentLine) -> Result<(), Flaw> {
        let (net, rate) = (line.net_msat.get(), self.rate_msat_per_s);
        let least = net.checked_div(rate);
        let more = self
            .books
            .brought_msat
            .get()
            .saturating_add(rate - rate.min(1));
        let most = net.saturating_add(more).checked_div(rate);
        match (least, most) {
            (Some(least), Some(most)) if (least..=most).contains(&line.added_seconds) => Ok(()),
            (Some(_), Some(_)) if line.added_seconds == 0 => Ok(()),
            _ => Err(Flaw::Bought {
                payment: line.payment,
                added: line.added_seconds,
                net: line.net_msat,
                rate,
            }),
        }
    }

    /// All payments together: where each of them bought time, they bought all that
    /// their money buys.
    fn check_sold(&self, paid: Msat, fees: Msat) -> Result<(), Flaw> {
        let all = sum([paid, self.books.brought_msat])?;
        let all = all.checked_sub(fees).ok_or(Flaw::TooLarge)?;
        let buys = |net: Msat| net.get().checked_div(self.rate_msat_per_s);
        let most = buys(all).ok_or(Flaw::TooLarge)?;
        let bought = self.payments.iter().filter(|line| line.added_seconds > 0);
        let bought = buys(sum(bought.map(|line| line.net_msat))?).ok_or(Flaw::TooLarge)?;
        let least = if self.earlier_payments.is_none() {
            bought
        } else {
            0
        };
        let sold = self.sold_seconds.saturating_sub(self.gift_seconds);
        let possible = sold.clamp(least, most.max(least));
        same("sold_seconds", sold, possible)
    }

    /// What was given is the price of its seconds, and is served first; the rest
    /// goes back when the lease is at its end, and not before.
    fn check_gift(&self) -> Result<(), Flaw> {
        let b = &self.books;
        let price = Msat::new(self.rate_msat_per_s).checked_mul(self.gift_seconds);
        let price = price.ok_or(Flaw::TooLarge)?;
        same("given_msat", b.given_msat.get(), price.get())?;
        let unused = match self.cause {
            Some(_) => price.saturating_sub(b.served_msat),
            None => Msat::ZERO,
        };
        same("returned_msat", b.returned_msat.get(), unused.get())
    }

    fn check_seconds(&self, at: Timestamp) -> Result<(), Flaw> {
        let price = |seconds| Msat::new(self.rate_msat_per_s).checked_mul(seconds);
        let served = price(self.served_seconds).ok_or(Flaw::TooLarge)?;
        same("served_msat", self.books.served_msat.get(), served.get())?;
        let unserved = price(self.unserved_seconds).ok_or(Flaw::TooLarge)?;
        same(
            "unserved_msat",
            self.books.unserved_msat.get(),
            unserved.get(),
        )?;
        let used = seconds([self.served_seconds, self.unserved_seconds])?;
        let sold = self.sold_seconds;
        if used > sold {
            return Err(Flaw::MoreThanSold { used, sold });
        }
        let until = self.expires_at.map_or(at, |end| end.min(at));
        let ran = self.started_at.map_or(0, |start| until.secs_since(start));
        if self.served_seconds > ran {
            let served = self.served_seconds;
            return Err(Flaw::LongerThanItRan { served, ran });
        }
        Ok(())
    }

    fn check_refunds(&self) -> Result<(), Flaw> {
        let lines = &self.refunds;
        if !all_differ(lines.iter().map(|line| &line.refund_id)) {
            return Err(Flaw::Listed("a refund is listed twice"));
        }
        let (listed, more) = (lines.len(), &self.earlier_refunds);
        if listed > MAX_REFUNDS || (listed < MAX_REFUNDS && !more.is_none()) {
            return Err(Flaw::Listed("refunds are summed up that should be listed"));
        }
        lines.iter().try_for_each(check_refund)?;
        let faces = lines.iter().map(|line| line.face_msat);
        let made = sum(faces.chain([more.face_msat]))?;
        same("refunded_msat", self.books.refunded_msat.get(), made.get())?;
        let owed = lines.iter().map(RefundLine::still_owed);
        let owed = sum(owed.chain([more.owed_msat]))?;
        same("owed_msat", self.books.owed_msat.get(), owed.get())
    }

    fn check_books(&self) -> Result<(), Flaw> {
        let b = &self.books;
        let came = sum([b.paid_msat, b.brought_msat, b.absorbed_msat, b.given_msat])?;
        let went = sum([
            b.mint_fees_msat,
            b.served_msat,
            b.unserved_msat,
            b.owed_msat,
            b.refunded_msat,
            b.refund_fees_msat,
            b.credit_msat,
            b.moved_msat,
            b.returned_msat,
        ])?;
        same(
            "paid_msat + brought_msat + absorbed_msat + given_msat",
            came.get(),
            went.get(),
        )
    }

    fn check_end(&self) -> Result<(), Flaw> {
        if self.ended_at.is_none() {
            return Ok(());
        }
        if self.unserved_seconds > 0 {
            return Err(Flaw::End("it has ended, and there is time left unserved"));
        }
        if self.cause.is_none() {
            return Err(Flaw::End("it has ended, and does not say why"));
        }
        Ok(())
    }
}

/// At the provider's fault all that was owed comes back; else no more than that.
fn check_refund(line: &RefundLine) -> Result<(), Flaw> {
    let right = match (line.state, line.ground) {
        (RefundStage::Made | RefundStage::Claimed, Ground::ProviderFault) => {
            line.face_msat >= line.owed_msat
        }
        (RefundStage::Made | RefundStage::Claimed, Ground::OwnerChoice) => {
            line.face_msat <= line.owed_msat
        }
        (RefundStage::Owed | RefundStage::TakenBack | RefundStage::Credited, _) => {
            line.face_msat.is_zero()
        }
    };
    if right {
        return Ok(());
    }
    Err(Flaw::Refund {
        refund: line.refund_id.clone(),
        face: line.face_msat,
        owed: line.owed_msat,
    })
}
