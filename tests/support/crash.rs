//! Stories of the real `satletd` in which one thing goes wrong: it dies at one of
//! the points that it passes, or something happens to one of its requests to the
//! mint. The points are those of a story in which nothing does.

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures::StreamExt;
use satlet::demo::crash;
use satlet::demo::mint::MintOptions;
use serde_json::json;

use super::proxy::{Fault, Proxy, Strike};
use super::world::{Daemon, World};

/// Stories that are told at once.
const AT_ONCE: usize = 3;

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// The daemon dies at this point.
    Death(String),
    /// This happens to requests to the mint.
    Faults(Vec<Strike>),
}

/// Where a story happens.
pub(crate) struct Stage {
    /// It asks its mint through the proxy, and has nothing yet. The first to go:
    /// what it logged and its workloads are in the world's folder.
    pub(crate) daemon: Daemon,
    pub(crate) world: World,
    pub(crate) proxy: Proxy,
    wrong: Option<Wrong>,
}

/// What happened in a story.
#[derive(Debug)]
pub(crate) struct Told {
    /// The points that the daemon passed before it died, or to the end.
    pub(crate) points: Vec<String>,
    /// How often it asked the mint for each path.
    pub(crate) requests: BTreeMap<String, u32>,
    /// Whether what was to go wrong did.
    pub(crate) happened: bool,
}

impl Stage {
    /// Sets it. Money is at `mint`, where it is not cdk's in this process.
    pub(crate) async fn set(
        options: MintOptions,
        mint: Option<String>,
        wrong: Option<Wrong>,
    ) -> Self {
        let world = World::with_mint(1, options).await;
        let mint = mint.unwrap_or_else(|| world.mint.url().0);
        let target = mint.trim_start_matches("http://").parse().unwrap();
        let proxy = Proxy::start(target).await;
        let daemon = Daemon::build(&world, |config| {
            config["mints"][0]["url"] = json!(proxy.url());
            config["timing"]["mint"] = json!("3s");
        });
        Self {
            daemon,
            world,
            proxy,
            wrong,
        }
    }

    fn log(&self) -> PathBuf {
        self.world.dir.path().join("points")
    }

    /// Starts the daemon. Once it has died, [`Daemon::start`] starts it again.
    pub(crate) fn launch(&mut self) {
        let mut env = vec![(crash::LOG, self.log().to_str().unwrap().to_owned())];
        let mut armed = Vec::new();
        match self.wrong.clone() {
            Some(Wrong::Death(point)) => env.push((crash::AT, point)),
            Some(Wrong::Faults(strikes)) => armed = strikes,
            None => {}
        }
        self.proxy.arm(armed);
        self.daemon.launch(&env);
    }

    /// What happened until now. Nothing goes wrong any more.
    pub(crate) fn told(&self) -> Told {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let points: Vec<String> = text.lines().map(str::to_owned).collect();
        let (requests, waits) = self.proxy.disarm();
        let happened = match &self.wrong {
            Some(Wrong::Death(point)) => points.last() == Some(point),
            Some(Wrong::Faults(_)) => !waits,
            None => false,
        };
        Told {
            points,
            requests,
            happened,
        }
    }
}

/// The points that were passed at most so often by their name.
pub(crate) fn at_most(times: u64, points: Vec<String>) -> Vec<String> {
    let count = |point: &String| {
        let (_, times) = point.rsplit_once('#').unwrap();
        times.parse::<u64>().unwrap()
    };
    let mut points = points;
    points.retain(|point| count(point) <= times);
    points
}

/// This, to the n-th request of this path.
pub(crate) fn strike(path: &str, n: u32, fault: Fault) -> Strike {
    let path = path.to_owned();
    Strike { path, n, fault }
}

/// One of each thing that may happen to each of these requests.
pub(crate) fn faults(requests: impl IntoIterator<Item = (String, u32)>) -> Vec<Wrong> {
    let requests = requests.into_iter();
    let each = requests.flat_map(|(path, times)| (1..=times).map(move |n| (path.clone(), n)));
    each.flat_map(|(path, n)| Fault::ALL.map(|fault| strike(&path, n, fault)))
        .map(|strike| Wrong::Faults(vec![strike]))
        .collect()
}

/// Tells a story for each of these; all have to end well. Those that did not
/// happen after all.
#[expect(clippy::print_stderr, reason = "how much of the matrix was walked")]
pub(crate) async fn tell_all<F>(
    wrongs: Vec<Wrong>,
    story: impl Fn(Option<Wrong>) -> F,
) -> Vec<Wrong>
where
    F: Future<Output = Told> + Send + 'static,
{
    let all = wrongs.len();
    let told = futures::stream::iter(wrongs).map(|wrong| {
        // A task of its own: one that fails does not end the others.
        let told = tokio::spawn(story(Some(wrong.clone())));
        async move { (wrong, told.await.map(|told| told.happened)) }
    });
    let told: Vec<_> = told.buffer_unordered(AT_ONCE).collect().await;
    let failed = told.iter().filter(|(_, told)| told.is_err());
    let failed: Vec<_> = failed.map(|(wrong, _)| wrong).collect();
    assert!(failed.is_empty(), "see above; it went wrong in {failed:?}");
    let missed = told
        .into_iter()
        .filter(|(_, told)| matches!(told, Ok(false)));
    let missed: Vec<Wrong> = missed.map(|(wrong, _)| wrong).collect();
    eprintln!("{all} stories; nothing happened after all in {missed:?}");
    missed
}
