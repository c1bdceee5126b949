//! Words that stand for real programs of the conformance suite and end as a
//! real host would make them end.
//!
//! `count FILE` writes growing numbers (`-`: prints them); `trap-term FILE CODE` waits for SIGTERM,
//! writes the file and ends with the code; `ignore-term` never ends;
//! `fork-bomb`; `fork-many N` prints how many of N processes it could start;
//! `fill-memory MIB` prints how many bytes it could hold and let go of (0: it
//! was killed); `fill-disk DIR MIB` prints how many bytes it could write;
//! `spin SECS` prints what `times` prints; `connect HOST PORT` prints `reached`
//! or `unreachable`; `listen PORT TEXT` greets with TEXT; `addresses`;
//! `processes`; `try WHAT` prints `held` or `escaped`; `watch-tty` prints the
//! terminal's size whenever it changes; `lines N` prints numbered lines.

use std::time::Duration;

use super::{End, HOST_PROCESS, Shell, Target, listener};
use crate::compute::fake::engine::FakeEngine;
use crate::compute::fake::faults::Defect;
use crate::compute::fake::workload::OnTerm;
use crate::core::capacity::Resources;

/// Names of the programs here.
pub(super) const NAMES: &[&str] = &[
    "count",
    "trap-term",
    "ignore-term",
    "fork-bomb",
    "fork-many",
    "fill-memory",
    "fill-disk",
    "spin",
    "connect",
    "listen",
    "addresses",
    "processes",
    "try",
    "watch-tty",
    "lines",
];

const MIB: u64 = 1024 * 1024;

/// Cores of the machine, as a program that spins sees them.
const CORES: u64 = 2;

impl Shell {
    /// Runs one of [`NAMES`].
    pub(super) async fn symbolic(
        &mut self,
        name: &str,
        args: &[String],
        out: &mut Target,
    ) -> Result<i32, End> {
        let arg = |at: usize| args.get(at).map_or("", String::as_str);
        let amount = |at: usize| arg(at).parse::<u64>().unwrap_or(0);
        match name {
            "count" => self.count(arg(0), out).await,
            "trap-term" => {
                let code = i32::try_from(amount(1)).unwrap_or(1);
                self.trap_term(arg(0), code).await
            }
            "ignore-term" => {
                self.on_term(OnTerm::Own);
                std::future::pending().await
            }
            "fork-bomb" => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(1)
            }
            "fork-many" => {
                let started = self.limited(amount(0), self.limits().pids, |r| r.pids);
                self.say_line(out, &started.to_string()).await?;
                Ok(0)
            }
            "fill-memory" => self.fill_memory(amount(0), out).await,
            "fill-disk" => self.fill_disk(amount(1), out).await,
            "spin" => self.spin(amount(0), out).await,
            "connect" => self.connect(arg(0), arg(1), out).await,
            "listen" => self.listen(arg(0), arg(1)).await,
            "addresses" => {
                let address = self.with(|workload| workload.address.clone());
                self.say_line(out, &address.unwrap_or_default()).await?;
                Ok(0)
            }
            "watch-tty" => self.watch_tty(out).await,
            "lines" => {
                for line in 1..=amount(0) {
                    self.say_line(out, &format!("line {line}")).await?;
                }
                Ok(0)
            }
            _ => self.peek(name, out).await,
        }
    }

    /// `processes` and `try`: a look over the wall.
    async fn peek(&mut self, name: &str, out: &mut Target) -> Result<i32, End> {
        let open = self.has(Defect::NoIsolation);
        let text = match (name, open) {
            ("try", false) => "held",
            ("try", true) => "escaped",
            (_, false) => "init",
            (_, true) => HOST_PROCESS,
        };
        self.say_line(out, text).await?;
        Ok(0)
    }

    async fn count(&mut self, file: &str, out: &mut Target) -> Result<i32, End> {
        let path = self.path(file);
        for number in 1_u64.. {
            match file {
                "-" => self.say_line(out, &number.to_string()).await?,
                _ => {
                    let text = format!("{number}\n").into_bytes();
                    self.store(&path, text).await?;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(0)
    }

    fn on_term(&self, on: OnTerm) {
        self.life.term.send_modify(|term| term.on = on);
    }

    async fn trap_term(&mut self, file: &str, code: i32) -> Result<i32, End> {
        self.on_term(OnTerm::Own);
        let mut term = self.life.term.subscribe();
        // An error would mean that the life is over, and then so is this.
        term.wait_for(|term| term.sent)
            .await
            .map_err(|_| End::Killed(9))?;
        let path = self.path(file);
        self.store(&path, b"bye\n".to_vec()).await?;
        Err(End::Exit(code))
    }

    /// `ask`, or the limit where there is one and it is less.
    fn limited(&self, ask: u64, holds: bool, limit: impl Fn(Resources) -> u32) -> u64 {
        let limit = self.with(|workload| limit(workload.spec.resources));
        match limit.unwrap_or(0) {
            0 => ask,
            _ if !holds => ask,
            limit => ask.min(u64::from(limit)),
        }
    }

    async fn fill_memory(&mut self, mib: u64, out: &mut Target) -> Result<i32, End> {
        let fits = self.limited(mib, self.limits().memory, |r| r.memory_mib) == mib;
        let bytes = if fits { mib.saturating_mul(MIB) } else { 0 };
        self.say_line(out, &bytes.to_string()).await?;
        Ok(0)
    }

    async fn fill_disk(&mut self, mib: u64, out: &mut Target) -> Result<i32, End> {
        let enforced = self.limits().disk;
        let ask = mib.saturating_mul(MIB);
        let room = self.with(|workload| workload.disk_room(enforced)).flatten();
        let wrote = room.map_or(ask, |room| room.min(ask));
        self.say_line(out, &wrote.to_string()).await?;
        Ok(0)
    }

    async fn spin(&mut self, seconds: u64, out: &mut Target) -> Result<i32, End> {
        let cores = CORES.saturating_mul(1000);
        let share = self.limited(cores, self.limits().cpu, |r| r.cpu_millicores);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let used = Duration::from_millis(seconds.saturating_mul(share));
        let line = format!("0m{:.3}s 0m0.000s", used.as_secs_f64());
        self.say_line(out, &format!("0m0.000s 0m0.000s\n{line}"))
            .await?;
        Ok(0)
    }

    async fn connect(&mut self, host: &str, port: &str, out: &mut Target) -> Result<i32, End> {
        let greeting = {
            let inner = self.engine.lock();
            let port = port.parse().ok();
            port.and_then(|port| listener(&inner, self.serial, host, port))
        };
        let (text, code) = match greeting {
            Some(_) => ("reached", 0),
            None => ("unreachable", 1),
        };
        self.say_line(out, text).await?;
        Ok(code)
    }

    async fn listen(&mut self, port: &str, text: &str) -> Result<i32, End> {
        let Ok(port) = port.parse() else {
            return Ok(2);
        };
        self.with(|workload| workload.ports.insert(port, text.as_bytes().to_vec()));
        let engine = self.engine.clone();
        let _listening = Listening {
            engine,
            serial: self.serial,
            port,
        };
        std::future::pending().await
    }

    async fn watch_tty(&mut self, out: &mut Target) -> Result<i32, End> {
        let Some(mut tty) = self.tty.clone() else {
            return Ok(1);
        };
        loop {
            let size = *tty.borrow_and_update();
            self.say_line(out, &format!("{} {}", size.rows, size.cols))
                .await?;
            if tty.changed().await.is_err() {
                return Ok(0);
            }
        }
    }
}

/// A port that is open for as long as the process that listens.
struct Listening {
    engine: FakeEngine,
    serial: u64,
    port: u16,
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(workload) = self.engine.lock().workloads.get_mut(&self.serial) {
            workload.ports.remove(&self.port);
        }
    }
}
