//! Many small proofs into few: which of a purse, and whether that is worth its
//! fee. Pure.

use serde::{Deserialize, Serialize};

use super::money::Msat;

/// Proofs of a purse beyond this number are worth a swap into fewer. Ecash is
/// kept in powers of two, a few of each: some sixty for any amount.
pub const MANY: usize = 100;

/// Beyond this number proofs are merged at any price: mints take no request with
/// more than about a thousand inputs, and what cannot be sent is no float.
pub const TOO_MANY: usize = 500;

/// Proofs that are merged in one request at most.
pub const AT_ONCE: usize = 200;

/// One proof of ours that can be spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its Y (NUT-00), hex of the compressed point. It tells nothing of the secret.
    pub y: String,
    /// What it is worth.
    pub amount: Msat,
    /// What spending it costs, in thousandths of the unit (NUT-02).
    pub ppk: u64,
    /// Whether the mint still signs with its keyset.
    pub active: bool,
}

/// Proofs that are swapped for few.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merge {
    /// Their Ys.
    pub ys: Vec<String>,
    /// What the mint keeps of them.
    pub fee: Msat,
}

/// What spending these proofs together costs (NUT-02); `unit`: what one piece of
/// the unit is worth. `None` where it does not fit.
pub fn fee<'a>(pieces: impl IntoIterator<Item = &'a Piece>, unit: Msat) -> Option<Msat> {
    let ppk = pieces
        .into_iter()
        .try_fold(0u64, |sum, piece| sum.checked_add(piece.ppk))?;
    unit.checked_mul(ppk.div_ceil(1000))
}

/// What should be merged now: proofs that the mint has no active keyset for any
/// more, else the smallest where there are more than [`MANY`]. `None`: nothing,
/// or nothing that is worth its fee.
pub fn to_merge(pieces: &[Piece], unit: Msat) -> Option<Merge> {
    let idle = pieces.iter().any(|piece| !piece.active);
    if !idle && pieces.len() <= MANY {
        return None;
    }
    // What costs as much as it is worth stays where it is.
    let worth = |piece: &&Piece| {
        let costs = unit.checked_mul(piece.ppk).map(|cost| cost.get() / 1000);
        costs.is_some_and(|costs| piece.amount.get() > costs)
    };
    let mut chosen: Vec<&Piece> = pieces.iter().filter(worth).collect();
    chosen.retain(|piece| !idle || !piece.active);
    chosen.sort_by(|one, other| (one.amount, &one.y).cmp(&(other.amount, &other.y)));
    chosen.truncate(AT_ONCE);
    let fee = fee(chosen.iter().copied(), unit)?;
    let sum = Msat::checked_sum(chosen.iter().map(|piece| piece.amount))?;
    let left = sum.checked_sub(fee).filter(|left| !left.is_zero())?;
    let outputs = left.get().checked_div(unit.get())?.count_ones() as usize;
    let fewer = idle || outputs < chosen.len() / 2;
    fewer.then(|| Merge {
        ys: chosen.iter().map(|piece| piece.y.clone()).collect(),
        fee,
    })
}

/// The one proof with which to try whether the mint swaps: the smallest that is
/// worth more than its fee, if that is at most `most`.
pub fn to_try(pieces: &[Piece], unit: Msat, most: Msat) -> Option<Merge> {
    let fits = |piece: &&Piece| {
        let left = fee([*piece], unit).and_then(|fee| piece.amount.checked_sub(fee));
        piece.amount <= most && left.is_some_and(|left| !left.is_zero())
    };
    let piece = pieces
        .iter()
        .filter(fits)
        .min_by_key(|piece| (piece.amount, piece.y.clone()))?;
    Some(Merge {
        ys: vec![piece.y.clone()],
        fee: fee([piece], unit)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAT: Msat = Msat::new(1000);

    fn piece(n: usize, sat: u64, ppk: u64) -> Piece {
        Piece {
            y: format!("{n:05}"),
            amount: Msat::from_sat(sat).unwrap(),
            ppk,
            active: true,
        }
    }

    fn pieces(count: usize, sat: u64, ppk: u64) -> Vec<Piece> {
        (0..count).map(|n| piece(n, sat, ppk)).collect()
    }

    #[test]
    fn few_are_left_alone_and_many_are_merged_the_smallest_first() {
        assert_eq!(to_merge(&pieces(MANY, 1, 100), SAT), None);
        let mut many = pieces(MANY, 1, 100);
        many.push(piece(MANY, 4096, 100));
        let merge = to_merge(&many, SAT).unwrap();
        assert_eq!(merge.ys.len(), MANY + 1);
        assert_eq!(merge.fee, Msat::new(11_000));
        let mut more = pieces(AT_ONCE + 7, 1, 100);
        more.insert(0, piece(9999, 4096, 100));
        let merge = to_merge(&more, SAT).unwrap();
        assert_eq!(merge.ys.len(), AT_ONCE);
        assert!(!merge.ys.contains(&"09999".to_owned()));
    }

    #[test]
    fn what_is_not_worth_its_fee_stays() {
        assert_eq!(to_merge(&pieces(300, 1, 1000), SAT), None, "all of it");
        assert_eq!(to_merge(&pieces(300, 1, 5000), SAT), None, "and more");
        let merge = to_merge(&pieces(300, 2, 1000), SAT).unwrap();
        assert_eq!(merge.fee, Msat::new(200_000));
    }

    #[test]
    fn proofs_of_a_keyset_that_is_not_used_any_more_come_first_however_few() {
        let mut some = pieces(5, 64, 100);
        some[3].active = false;
        let merge = to_merge(&some, SAT).unwrap();
        assert_eq!(merge.ys, ["00003"]);
        some[3].amount = Msat::from_sat(1).unwrap();
        some[3].ppk = 1000;
        assert_eq!(to_merge(&some, SAT), None, "but not dust");
    }

    #[test]
    fn the_smallest_that_is_worth_something_is_tried_with() {
        let some = [piece(0, 64, 100), piece(1, 1, 100), piece(2, 4, 100)];
        let at_most = |sat| to_try(&some, SAT, Msat::from_sat(sat).unwrap());
        assert_eq!(at_most(0), None);
        assert_eq!(at_most(3), None, "one sat is all fee");
        assert_eq!(at_most(21).unwrap().ys, ["00002"]);
        assert_eq!(at_most(21).unwrap().fee, SAT);
    }

    proptest! {
        /// However a purse is made up: a merge names each proof once, costs less
        /// than it is worth, and merging until there is nothing to merge ends.
        #[test]
        fn merging_comes_to_an_end(
            sats in prop::collection::vec(0u32..12, 0..700),
            ppk in 0u64..1500,
        ) {
            let made = |(n, power): (usize, u32)| piece(n, 1 << power, ppk);
            let mut purse: Vec<Piece> = sats.into_iter().enumerate().map(made).collect();
            let mut next = purse.len();
            for round in 0.. {
                prop_assert!(round < 20);
                let Some(merge) = to_merge(&purse, SAT) else { break };
                let taken = |piece: &&Piece| merge.ys.contains(&piece.y);
                let sum = Msat::checked_sum(purse.iter().filter(taken).map(|p| p.amount)).unwrap();
                prop_assert_eq!(purse.iter().filter(taken).count(), merge.ys.len());
                let left = sum.checked_sub(merge.fee).unwrap().whole_sat();
                prop_assert!(left > 0);
                purse.retain(|piece| !merge.ys.contains(&piece.y));
                for power in (0..u64::BITS).filter(|power| left & (1 << power) != 0) {
                    purse.push(piece(next, 1 << power, ppk));
                    next += 1;
                }
            }
            prop_assert!(purse.len() <= MANY || ppk >= 1000);
        }
    }
}
