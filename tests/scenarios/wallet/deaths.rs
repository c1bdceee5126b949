//! The wallet's process dies at each write to its file, in the middle of each thing
//! that it does. Opened again, it ends that thing, and all ecash that the mint has
//! given out can be spent by somebody.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as Lock, mpsc};

use satlet::core::payment::hash_lock::Preimage;
use satlet::core::purse::{Merge, fee};
use satlet::demo::store::{self, Watch};
use satlet::relay::convert::now;
use satlet::wallet::fake::{Fate, invoice};
use satlet::wallet::{Melt, MintQuote, SentToken};
use tokio::runtime::Runtime;

use super::*;

/// Stories that are told at once.
const AT_ONCE: usize = 3;

/// After so long a thing that is not over is stuck.
const STUCK: Duration = Duration::from_secs(40);

/// What a wallet has at first.
const HAS: u64 = 1000;

/// What it does.
#[derive(Clone, Copy, Debug)]
enum Act {
    Redeem,
    RedeemLocked,
    RedeemHashed,
    Claim,
    Send,
    SendWithFee,
    Reclaim,
    Merge,
    Pay(Fate),
    Collect,
}

/// The same, with what it takes.
#[derive(Clone)]
enum Task {
    Redeem(String, With),
    Send(bool),
    Reclaim(String),
    Merge(Merge),
    Pay(String, Msat),
    Collect(MintQuote),
}

#[derive(Clone)]
enum With {
    Nothing,
    ClaimKey(u64),
    Preimage(Preimage),
}

/// A mint, and somebody who pays.
struct Ground {
    dir: TempDir,
    mint: TestMint,
    payer: CdkWallet,
}

impl Ground {
    async fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mint = TestMint::start(MintOptions::default()).await.unwrap();
        let payer = open(dir.path(), 3, &mint.url().0).await;
        mint.fund(&payer, HAS).await.unwrap();
        Self { dir, mint, payer }
    }

    fn options(&self) -> WalletOptions {
        options(self.dir.path(), 1, &[&self.mint.url().0])
    }

    async fn token(&self) -> SentToken {
        let url = self.mint.url();
        let sent = self.payer.send(&url, &Unit::Sat, sat(300), false).await;
        sent.unwrap()
    }

    /// A token that only this key opens.
    async fn locked(&self, to: LockTo) -> String {
        let plain = self.token().await.token;
        self.payer.lock(&plain, &to).await.unwrap().token
    }

    /// Gives the wallet what it needs.
    async fn prepare(&self, act: Act, wallet: &CdkWallet) -> Task {
        let url = self.mint.url();
        let mut to = LockTo {
            key: wallet.lock_key(),
            locktime: now().plus_secs(3600),
            index: 3,
            hash: None,
        };
        match act {
            Act::Redeem => Task::Redeem(self.token().await.token, With::Nothing),
            Act::RedeemLocked => Task::Redeem(self.locked(to).await, With::Nothing),
            Act::RedeemHashed => {
                let preimage = self.payer.preimage(8).unwrap();
                to.hash = Some(preimage.hash());
                Task::Redeem(self.locked(to).await, With::Preimage(preimage))
            }
            Act::Claim => {
                to.key = wallet.claim_key(5).unwrap();
                Task::Redeem(self.locked(to).await, With::ClaimKey(5))
            }
            Act::Send | Act::SendWithFee => {
                self.mint.fund(wallet, HAS).await.unwrap();
                Task::Send(matches!(act, Act::SendWithFee))
            }
            Act::Reclaim => {
                self.mint.fund(wallet, HAS).await.unwrap();
                let sent = wallet.send(&url, &Unit::Sat, sat(300), false).await;
                Task::Reclaim(sent.unwrap().token)
            }
            Act::Merge => {
                for _ in 0..8 {
                    self.mint.fund(wallet, 1).await.unwrap();
                }
                let pieces = wallet.pieces(&url, &Unit::Sat).await.unwrap();
                Task::Merge(Merge {
                    ys: pieces.iter().map(|piece| piece.y.clone()).collect(),
                    fee: fee(&pieces, Unit::Sat.piece()).unwrap(),
                })
            }
            Act::Pay(fate) => {
                self.mint.fund(wallet, HAS).await.unwrap();
                let bolt11 = invoice(sat(300), fate);
                let quote = wallet.melt_quote(&url, &Unit::Sat, &bolt11).await.unwrap();
                let most = quote.most().unwrap();
                Task::Pay(quote.id, most)
            }
            Act::Collect => {
                let quote = wallet.mint_quote(&url, &Unit::Sat, sat(300)).await;
                let quote = quote.unwrap();
                // Its Lightning node pays too; whoever is second is refused.
                let _ = self.mint.pay(&quote.bolt11).await;
                Task::Collect(quote)
            }
        }
    }
}

impl Task {
    async fn begin(&self, wallet: &CdkWallet, url: &MintUrl) -> Result<(), WalletError> {
        let unit = &Unit::Sat;
        match self {
            Self::Redeem(token, with) => {
                let payment = wallet.inspect(token)?.payment;
                let redeemed = match with {
                    With::Nothing => wallet.redeem(payment, token).await,
                    With::ClaimKey(index) => wallet.claim(payment, token, *index).await,
                    With::Preimage(preimage) => {
                        wallet.redeem_hashed(payment, token, preimage).await
                    }
                };
                redeemed.map(drop)
            }
            Self::Send(fee) => wallet.send(url, unit, sat(300), *fee).await.map(drop),
            Self::Reclaim(token) => wallet.reclaim(token).await.map(drop),
            Self::Merge(merge) => wallet.merge(url, unit, merge).await.map(drop),
            Self::Pay(quote, most) => wallet.melt(url, unit, quote, *most).await.map(drop),
            Self::Collect(quote) => match wallet.collect(quote).await? {
                Some(_) => Ok(()),
                None => Err(WalletError::MintDown("not paid yet".to_owned())),
            },
        }
    }

    /// Brings it to its end, asking again while it is under way. `false`: it stays
    /// there.
    async fn end(&self, wallet: &CdkWallet, url: &MintUrl) -> Result<bool, WalletError> {
        let began = Instant::now();
        while !self.step(wallet, url).await? {
            if began.elapsed() > STUCK {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(true)
    }

    /// What who keeps books on it does after a start; whether it is over.
    async fn step(&self, wallet: &CdkWallet, url: &MintUrl) -> Result<bool, WalletError> {
        wallet.recover().await?;
        Ok(match self {
            Self::Redeem(token, _) => {
                let payment = wallet.inspect(token).unwrap().payment;
                match wallet.redemption(payment, token).await? {
                    RedemptionState::Done(_) => true,
                    RedemptionState::NotDone => self.begin(wallet, url).await.is_ok(),
                    RedemptionState::Unknown => false,
                    state @ RedemptionState::SpentElsewhere => panic!("{state:?}"),
                }
            }
            // Nobody was given it: it is taken back.
            Self::Send(_) | Self::Reclaim(_) => {
                let left = wallet.pending_sends().await?;
                for send in &left {
                    match wallet.reclaim(&send.token).await {
                        Ok(_) | Err(WalletError::Spent) => {}
                        Err(error) => return Err(error),
                    }
                }
                left.is_empty()
            }
            Self::Merge(_) | Self::Collect(_) => self.begin(wallet, url).await.is_ok(),
            Self::Pay(quote, _) => {
                let state = wallet.melt_state(url, &Unit::Sat, quote).await?;
                !matches!(state, Melt::Pending)
            }
        })
    }
}

/// What a process does until it is done, or dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Begins it, once.
    Begin,
    /// Starts again and brings it to its end.
    End,
}

/// A process: the places that it passed, and whether it died at the last of them,
/// the one of this number.
fn process(
    options: WalletOptions,
    url: MintUrl,
    task: Task,
    part: Part,
    death: Option<usize>,
) -> (Vec<String>, bool) {
    let passed: Arc<Lock<Vec<String>>> = Arc::default();
    // From when on places count.
    let armed = Arc::new(AtomicBool::new(part == Part::End));
    let (over, is_over) = mpsc::channel();
    let watch: Watch = {
        let (passed, armed, over) = (passed.clone(), armed.clone(), Lock::new(over.clone()));
        Arc::new(move |name, done| {
            if !armed.load(Ordering::SeqCst) {
                return true;
            }
            let mut passed = passed.lock().unwrap();
            let is_dead = |passed: &[String]| death.is_some_and(|at| passed.len() > at);
            if is_dead(&passed) {
                return false;
            }
            let when = if done { "after" } else { "before" };
            passed.push(format!("{when} {name}"));
            let dies = is_dead(&passed);
            if dies {
                let _ = over.lock().unwrap().send(true);
            }
            !dies
        })
    };
    let runtime = Runtime::new().unwrap();
    runtime.spawn(async move {
        let wallet = store::open(options, watch).await.unwrap();
        if part == Part::Begin {
            // Which would collect it.
            if !matches!(task, Task::Collect(_)) {
                wallet.recover().await.unwrap();
            }
            armed.store(true, Ordering::SeqCst);
            // How it went is seen by what is there.
            let _ = task.begin(&wallet, &url).await;
        } else {
            // Cut off, it has an error at last.
            let _ = task.end(&wallet, &url).await;
        }
        let _ = over.send(false);
    });
    let died = is_over.recv_timeout(Duration::from_secs(60)).unwrap();
    runtime.shutdown_timeout(Duration::from_secs(10));
    let passed = passed.lock().unwrap().clone();
    (passed, died)
}

/// All that a wallet has: what it can spend, and what it has given away and is not
/// known to be taken.
async fn has(wallet: &CdkWallet) -> Msat {
    assert_eq!(wallet.recover().await.unwrap().unfinished, 0);
    let out = wallet.pending_sends().await.unwrap();
    let out = Msat::checked_sum(out.into_iter().map(|send| send.face)).unwrap();
    total(wallet).await.checked_add(out).unwrap()
}

/// Where a story ended: the places of its first process and of its second.
struct Told {
    first: Vec<String>,
    second: Vec<String>,
}

/// One that dies at these places, if they are given and there are such.
fn story(act: Act, first: Option<usize>, second: Option<usize>) -> Told {
    let outer = Runtime::new().unwrap();
    let ground = outer.block_on(Ground::set());
    let (options, url) = (ground.options(), ground.mint.url());
    let task = outer.block_on(async {
        let wallet = CdkWallet::open(options.clone()).await.unwrap();
        wallet.recover().await.unwrap();
        let task = ground.prepare(act, &wallet).await;
        wallet.close().await;
        task
    });
    let run = |part, death| process(options.clone(), url.clone(), task.clone(), part, death);
    let (first, _) = run(Part::Begin, first);
    let (second, died) = run(Part::End, second);
    outer.block_on(async {
        let wallet = CdkWallet::open(options.clone()).await.unwrap();
        let over = task.end(&wallet, &url).await.unwrap();
        let died = if died { "died again" } else { "did not" };
        let told = format!("{act:?}: {first:?}, then {second:?}, where it {died}");
        assert!(over, "not over: {told}");
        let there = has(&wallet).await;
        let theirs = has(&ground.payer).await;
        let sum = there.checked_add(theirs).unwrap();
        let out = ground.mint.outstanding().await.unwrap();
        assert_eq!(sum, out, "{there} and {theirs}: {told}");
    });
    Told { first, second }
}

/// Tells these at once, each in a thread of its own.
fn tell_all(act: Act, deaths: Vec<(Option<usize>, Option<usize>)>) -> Vec<Told> {
    let left = Lock::new(VecDeque::from(deaths));
    let work = || {
        let mut told = Vec::new();
        loop {
            let Some((first, second)) = left.lock().unwrap().pop_front() else {
                return told;
            };
            told.push(story(act, first, second));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        let told = threads.into_iter().map(|thread| thread.join());
        told.flat_map(|told| told.expect("see above")).collect()
    })
}

/// Dies at each place of an act; and, where `twice`, at each place of what comes
/// after that too.
#[expect(clippy::print_stderr, reason = "how much of it was walked")]
fn everywhere(act: Act, twice: bool) {
    let whole = story(act, None, None);
    assert!(!whole.first.is_empty(), "{act:?} writes nothing");
    let deaths = (0..whole.first.len()).map(|at| (Some(at), None));
    let mut told = tell_all(act, deaths.collect());
    let mut stories = told.len();
    if twice {
        let again = told.drain(..).flat_map(|told| {
            let first = told.first.len() - 1;
            (0..told.second.len()).map(move |second| (Some(first), Some(second)))
        });
        stories += tell_all(act, again.collect()).len();
    }
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for place in &whole.first {
        *names.entry(place).or_default() += 1;
    }
    eprintln!("{act:?}: {stories} deaths; {names:?}");
}

/// Makes a test of each of these, and one that dies twice.
macro_rules! acts {
    ($($name:ident: $act:expr;)*) => {
        $(#[test]
        fn $name() {
            everywhere($act, false);
        })*

        /// Dying twice is some thousand stories.
        #[test]
        #[ignore = "minutes; run by hand when cdk or the wallet's recovery changes"]
        fn twice() {
            for act in [$($act),*] {
                everywhere(act, true);
            }
        }
    };
}

acts! {
    a_token_is_redeemed: Act::Redeem;
    a_locked_token_is_redeemed: Act::RedeemLocked;
    a_hashed_token_is_redeemed: Act::RedeemHashed;
    a_locked_refund_is_claimed: Act::Claim;
    a_token_is_sent: Act::Send;
    a_token_is_sent_with_its_fee: Act::SendWithFee;
    a_token_is_taken_back: Act::Reclaim;
    small_proofs_are_merged: Act::Merge;
    an_invoice_is_paid: Act::Pay(Fate::Pays);
    an_invoice_cannot_be_paid: Act::Pay(Fate::Fails);
    a_paid_invoice_is_collected: Act::Collect;
}
