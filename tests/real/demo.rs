//! `satlet demo`, as the README has it, and the stock OpenSSH client over what
//! it leaves up.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::support::host::is_root;
use crate::support::openssh::{Stock, finish, missing, out};
use crate::support::world::{LONG, until};

const STEPS: [&str; 11] = [
    "start", "fund", "list", "quote", "pay", "spawn", "run", "topup", "status", "stop", "refund",
];

/// A demo in a folder of its own, with nothing of this user's environment.
struct Stage {
    dir: TempDir,
}

impl Stage {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn command(&self, program: &[&str], args: &[&str]) -> Command {
        let mut command = Command::new(program[0]);
        command
            .args(&program[1..])
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("TMPDIR", self.dir.path())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    fn demo(&self, args: &[&str]) -> Command {
        let args = [&["demo", "--json"], args].concat();
        self.command(&[env!("CARGO_BIN_EXE_satlet")], &args)
    }

    async fn run(&self, args: &[&str]) -> Output {
        let done = tokio::time::timeout(LONG * 2, self.demo(args).output());
        done.await.expect("the demo ends").unwrap()
    }

    /// What is left in its folder.
    fn left(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

/// Why an ordinary user sees no demo here, if that is what happened.
fn excuse(output: &Output) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (!is_root() && text.contains("cannot run the sandbox")).then_some(text)
}

/// Every line that was printed is JSON.
fn objects(text: &str) -> Vec<Value> {
    let read = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    text.lines().map(read).collect()
}

fn names(objects: &[Value]) -> Vec<&str> {
    let name = |object: &Value| object["name"].as_str().map(str::len);
    assert!(objects.iter().all(|object| name(object).is_some()));
    objects
        .iter()
        .map(|object| object["name"].as_str().unwrap())
        .collect()
}

fn adds_up(last: &Value) {
    let of = |name: &str| {
        let amount = &last["money"][name];
        amount.as_u64().unwrap_or_else(|| panic!("{name}: {last}"))
    };
    let parts = [
        "mint_fees_msat",
        "served_msat",
        "refunded_msat",
        "credit_msat",
    ];
    assert_eq!(of("paid_msat"), parts.map(of).iter().sum::<u64>(), "{last}");
    // It may be over within the first second, which then costs nothing.
    assert!(of("paid_msat") > 0 && of("refunded_msat") > 0, "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_ends_with_ok() {
    let stage = Stage::new();
    let output = stage.run(&["--run", "echo hi; exit 0"]).await;
    if let Some(why) = excuse(&output) {
        skip!("{why}");
    }
    assert!(output.status.success(), "{output:?}");
    let objects = objects(&out(&output));
    let (last, steps) = objects.split_last().unwrap();
    assert_eq!(names(steps), STEPS);
    assert!(
        steps
            .iter()
            .all(|step| step["ms"].as_f64().is_some_and(|ms| ms >= 0.0))
    );
    assert_eq!(last["ok"], true, "{last}");
    assert_eq!(last["output"], "hi\n");
    assert_eq!(last["exit_code"], 0);
    assert_eq!(names(last["steps"].as_array().unwrap()), STEPS);
    adds_up(last);
    assert!(stage.left().is_empty(), "{:?}", stage.left());
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_a_line_a_step_and_ok() {
    let stage = Stage::new();
    let mut demo = stage.command(&[env!("CARGO_BIN_EXE_satlet")], &["demo"]);
    let done = tokio::time::timeout(LONG * 2, demo.output()).await;
    let output = done.expect("the demo ends").unwrap();
    if let Some(why) = excuse(&output) {
        skip!("{why}");
    }
    assert!(output.status.success(), "{output:?}");
    let text = out(&output);
    let first: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(first[..STEPS.len()], STEPS, "{text}");
    assert!(text.contains("hello from root@"), "{text}");
    assert!(
        text.contains("\npaid ") && text.ends_with("\nok\n"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_is_told_and_paid_back_all_the_same() {
    let stage = Stage::new();
    let output = stage.run(&["--run", "echo no; exit 3"]).await;
    if let Some(why) = excuse(&output) {
        skip!("{why}");
    }
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let objects = objects(&out(&output));
    let (last, steps) = objects.split_last().unwrap();
    assert_eq!(names(steps), STEPS);
    assert_eq!(
        (&last["ok"], &last["exit_code"]),
        (&false.into(), &3.into())
    );
    assert_eq!(last["output"], "no\n");
    adds_up(last);
}

/// A demo that stays up.
struct Kept {
    stage: Stage,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    way_in: Value,
}

impl Kept {
    /// Starts it and reads on to the way in; the text is why it is not there.
    async fn start() -> Result<Self, String> {
        let stage = Stage::new();
        let mut child = stage.demo(&["--keep"]).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reading = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                let object: Value = serde_json::from_str(&line).unwrap();
                if object["name"] == "keep" {
                    return Some(object);
                }
            }
            None
        };
        let Some(way_in) = tokio::time::timeout(LONG * 2, reading).await.unwrap() else {
            let mut said = String::new();
            let mut stderr = child.stderr.take().unwrap();
            stderr.read_to_string(&mut said).await.unwrap();
            return Err(said);
        };
        Ok(Self {
            stage,
            child,
            lines,
            way_in,
        })
    }

    fn stock(&self) -> Stock {
        let key = Path::new(self.way_in["ssh_key"].as_str().unwrap());
        Stock::new(&self.way_in, key)
    }
}

/// Ctrl-C; what it says until it ends, and its exit code.
async fn interrupt(
    child: &mut Child,
    lines: &mut Lines<BufReader<ChildStdout>>,
) -> (Vec<Value>, Option<i32>) {
    let pid = nix::unistd::Pid::from_raw(child.id().unwrap().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let ending = async {
        let mut said = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            said.push(serde_json::from_str(&line).unwrap());
        }
        (said, child.wait().await.unwrap().code())
    };
    tokio::time::timeout(LONG, ending).await.expect("it ends")
}

/// What a demo leaves on a host while it runs.
struct Traces {
    folder: PathBuf,
    instance: String,
}

impl Traces {
    /// Of the demo that runs in this stage.
    fn of(stage: &Stage) -> Self {
        let folder = stage.dir.path();
        let demo = stage.left().into_iter().find(|path| path.is_dir()).unwrap();
        let note = std::fs::read(demo.join("provider/sandbox/instance.json")).unwrap();
        let note: Value = serde_json::from_slice(&note).unwrap();
        Self {
            folder: folder.to_owned(),
            instance: note["id"].as_str().unwrap().to_owned(),
        }
    }

    /// Everything of it that is still on this host.
    fn left(&self) -> Vec<String> {
        let mut left = self.processes();
        let group = format!("satlet-{}", self.instance);
        left.extend(groups_named(Path::new("/sys/fs/cgroup"), &group, 5));
        let named = |text: String, name: String| {
            let ours = text.lines().filter(|line| line.contains(&name));
            ours.map(str::to_owned).collect::<Vec<_>>()
        };
        let devices = std::fs::read_to_string("/proc/net/dev").unwrap();
        left.extend(named(devices, format!("sl{}-", self.instance)));
        for entry in std::fs::read_dir("/sys/block")
            .into_iter()
            .flatten()
            .flatten()
        {
            let file = entry.path().join("loop/backing_file");
            let file = std::fs::read_to_string(file).unwrap_or_default();
            left.extend(named(file, self.folder.display().to_string()));
        }
        let nft = std::process::Command::new("nft")
            .args(["list", "tables"])
            .output();
        let tables = nft.map(|nft| out(&nft)).unwrap_or_default();
        left.extend(named(tables, format!("satlet_{}", self.instance)));
        let entries = std::fs::read_dir(&self.folder).unwrap();
        left.extend(entries.map(|entry| entry.unwrap().path().display().to_string()));
        left
    }

    /// Processes of it, and mounts that any process sees.
    fn processes(&self) -> Vec<String> {
        let folder = self.folder.display().to_string();
        let group = format!("satlet-{}", self.instance);
        let mut left = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let text = |name: &str| {
                let bytes = std::fs::read(entry.path().join(name)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).replace('\0', " ")
            };
            let (line, name) = (text("cmdline"), entry.file_name());
            if line.contains(&folder) || text("cgroup").contains(&group) {
                left.push(format!("process {name:?}: {line}"));
            }
            if text("mountinfo").contains(&folder) {
                left.push(format!("a mount that process {name:?} sees: {line}"));
            }
        }
        left
    }
}

/// Control groups of this name, in any hierarchy.
fn groups_named(dir: &Path, name: &str, depth: u32) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().contains(name) {
            found.push(entry.path().display().to_string());
        } else if depth > 0 {
            found.extend(groups_named(&entry.path(), name, depth - 1));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_demo_is_entered_by_the_stock_client_and_cleared_away() {
    if let Some(tool) = missing(&["ssh", "scp", "sftp"]) {
        skip!("{tool} (OpenSSH client) is not installed");
    }
    let mut kept = match Kept::start().await {
        Ok(kept) => kept,
        Err(why) if !is_root() && why.contains("cannot run the sandbox") => skip!("{why}"),
        Err(why) => panic!("{why}"),
    };
    let stock = kept.stock();

    let ran = stock.run("echo out; echo err >&2; id -u; exit 7").await;
    assert_eq!(ran.status.code(), Some(7), "{ran:?}");
    assert_eq!(out(&ran), "out\n0\n");
    assert!(
        String::from_utf8_lossy(&ran.stderr).contains("err"),
        "{ran:?}"
    );

    terminal(&stock).await;
    copies(&stock, kept.stage.dir.path()).await;
    forwards(&stock).await;

    // What is printed for people to play with works as it stands.
    let commands = kept.way_in["commands"].as_array().unwrap();
    let exec = commands.iter().map(|one| one.as_str().unwrap());
    let exec = exec.into_iter().find(|one| one.contains(" exec ")).unwrap();
    let ran = kept.stage.command(&["sh", "-c", exec], &[]);
    let ran = finish(ran).await;
    assert!(
        ran.status.success() && out(&ran).starts_with("Linux"),
        "{ran:?}"
    );
    let topup = exec.replace(" exec ", " topup ");
    let (topup, _) = topup.split_once(" -- ").unwrap();
    let line = format!("{topup} --for 1m --json");
    let ran = finish(kept.stage.command(&["sh", "-c", &line], &[])).await;
    let added: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(added["added_seconds"], 60, "{ran:?}");

    // Its own files aside, nothing of it is left.
    std::fs::remove_dir_all(kept.stage.dir.path().join("files")).unwrap();
    let traces = Traces::of(&kept.stage);
    assert!(traces.left().len() > 1, "the look sees what is there");
    let (said, code) = interrupt(&mut kept.child, &mut kept.lines).await;
    let (last, steps) = said.split_last().unwrap();
    assert_eq!((code, names(steps)), (Some(0), vec!["stop", "refund"]));
    assert_eq!(last["ok"], true, "{last}");
    adds_up(last);
    until("nothing is left behind", || traces.left().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_is_interrupted_leaves_nothing() {
    let stage = Stage::new();
    let mut child = stage.demo(&["--run", "sleep 1000"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let spawned = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if objects(&line)[0]["name"] == "spawn" {
                return true;
            }
        }
        false
    };
    if !tokio::time::timeout(LONG, spawned).await.unwrap() {
        let output = child.wait_with_output().await.unwrap();
        match excuse(&output) {
            Some(why) => skip!("{why}"),
            None => panic!("{output:?}"),
        }
    }
    let traces = Traces::of(&stage);
    let (said, code) = interrupt(&mut child, &mut lines).await;
    assert_eq!(code, Some(1), "{said:?}");
    assert_eq!(said.last().unwrap()["ok"], false, "{said:?}");
    until("nothing is left behind", || traces.left().is_empty()).await;
}

async fn terminal(stock: &Stock) {
    let mut ssh = stock.command("ssh");
    ssh.arg("-tt")
        .arg(stock.there())
        .arg("tty; stty size; exit 5");
    let ran = finish(ssh).await;
    assert_eq!(ran.status.code(), Some(5), "{ran:?}");
    let text = out(&ran);
    let mut lines = text.lines();
    assert!(
        lines
            .next()
            .is_some_and(|line| line.starts_with("/dev/pts/")),
        "{text:?}"
    );
    let size: Vec<u16> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect();
    assert!(
        matches!(size[..], [rows, cols] if rows > 0 && cols > 0),
        "{text:?}"
    );
    let mut ssh = stock.command("ssh");
    ssh.arg("-T").arg(stock.there()).arg("tty");
    assert_eq!(out(&finish(ssh).await).trim(), "not a tty");
}

async fn copies(stock: &Stock, dir: &Path) {
    let files = dir.join("files");
    std::fs::create_dir(&files).unwrap();
    let data = crate::support::local_gateway::noise(300_000);
    let local = files.join("local");
    std::fs::write(&local, &data).unwrap();
    std::fs::set_permissions(&local, std::fs::Permissions::from_mode(0o750)).unwrap();
    let there = stock.there();
    for (name, more) in [("sftp", &["-p"][..]), ("old", &["-p", "-O"][..])] {
        let remote = format!("{there}:/root/{name}");
        let back = files.join(name);
        let mut scp = stock.command("scp");
        scp.args(more).arg(&local).arg(&remote);
        let sent = finish(scp).await;
        if name == "old" && String::from_utf8_lossy(&sent.stderr).contains("scp: not found") {
            // The old protocol needs the image's own scp.
            continue;
        }
        assert!(sent.status.success(), "{name}: {sent:?}");
        let look = stock.run(&format!("stat -c '%a %s' /root/{name}")).await;
        assert_eq!(out(&look), "750 300000\n", "{name}: {look:?}");
        let mut scp = stock.command("scp");
        scp.args(more).arg(&remote).arg(&back);
        let got = finish(scp).await;
        assert!(got.status.success(), "{name}: {got:?}");
        assert!(std::fs::read(&back).unwrap() == data, "{name}");
        let mode = back.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o750, "{name}");
    }
    let batch = files.join("batch");
    let (local, back) = (local.display(), files.join("batched"));
    let lines = format!(
        "mkdir /root/d\nput {local} /root/d/f\nrename /root/d/f /root/d/g\nls -l /root/d\n\
         get /root/d/g {}\nrm /root/d/g\nrmdir /root/d\n",
        back.display()
    );
    std::fs::write(&batch, lines).unwrap();
    let mut sftp = stock.command("sftp");
    sftp.arg("-b").arg(&batch).arg(&there);
    let ran = finish(sftp).await;
    assert!(ran.status.success(), "{ran:?}");
    assert!(out(&ran).contains("300000"), "{ran:?}");
    assert!(std::fs::read(&back).unwrap() == data);
    let look = stock.run("test -e /root/d || echo gone").await;
    assert_eq!(out(&look), "gone\n");
}

async fn forwards(stock: &Stock) {
    use satlet::compute::conformance::{Program, debian_line};
    let line = debian_line(&Program::Listen(7777, "from inside".to_owned()));
    let mut server = stock.command("ssh");
    let _server = server.arg(stock.there()).arg(line).spawn().unwrap();
    let held = satlet::demo::port::Port::take().unwrap();
    let port = held.number();
    let mut ssh = stock.command("ssh");
    let _forward = ssh
        .args(["-N", "-o", "ExitOnForwardFailure=yes", "-L"])
        .arg(format!("127.0.0.1:{port}:127.0.0.1:7777"))
        .arg(stock.there())
        .spawn()
        .unwrap();
    let deadline = tokio::time::Instant::now() + LONG;
    let mut greeting = String::new();
    while greeting.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "nobody greets");
        if let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
            // Reset while nobody listens inside yet.
            let _ = stream.read_to_string(&mut greeting).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(greeting, "from inside");
}

/// An ordinary user, and a number that is no user of this host (as containers
/// often run with).
const USERS: [&str; 2] = ["65534", "61234"];

/// The demo as this user, with a program that everybody may read.
async fn as_user(stage: &Stage, user: &str) -> Output {
    let satlet = stage.dir.path().join("satlet");
    std::fs::copy(env!("CARGO_BIN_EXE_satlet"), &satlet).unwrap();
    let number = user.parse().unwrap();
    std::os::unix::fs::chown(stage.dir.path(), Some(number), Some(number)).unwrap();
    let (user, group) = (format!("--reuid={user}"), format!("--regid={user}"));
    let path = satlet.to_str().unwrap();
    let program = ["setpriv", &user, &group, "--clear-groups", path];
    let args = ["demo", "--json", "--run", "id -u; exit 0"];
    let done = tokio::time::timeout(LONG * 2, stage.command(&program, &args).output());
    let output = done.await.expect("the demo ends").unwrap();
    std::fs::remove_file(&satlet).unwrap();
    output
}

/// It ran, and named the limits that do not hold; or it says in one sentence
/// what is missing.
fn ran_or_told(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    let objects = objects(&out(output));
    let last = objects.last().expect("a last word");
    if output.status.success() {
        assert_eq!(
            (&last["ok"], &last["output"]),
            (&true.into(), &"0\n".into())
        );
        assert_eq!(names(&objects[..STEPS.len()]), STEPS);
        adds_up(last);
        assert!(
            said.contains("note: not enforced here"),
            "limits are named: {said}"
        );
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{said} {last}");
    assert_eq!(last["ok"], false, "{said} {last}");
    let why = last["error"]
        .as_str()
        .unwrap_or_else(|| panic!("{said} {last}"));
    let told = said.lines().filter(|line| line.starts_with("demo: "));
    assert_eq!(told.count(), 1, "{said}");
    assert!(
        why.contains("this host") && why.contains("as root"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_user_sees_it_run_or_is_told_what_is_missing() {
    if !is_root() {
        let stage = Stage::new();
        ran_or_told(&stage.run(&["--run", "id -u; exit 0"]).await);
        return;
    }
    if let Some(tool) = missing(&["setpriv"]) {
        skip!("{tool} is not installed");
    }
    for user in USERS {
        let stage = Stage::new();
        ran_or_told(&as_user(&stage, user).await);
        assert!(stage.left().is_empty(), "{user}: {:?}", stage.left());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_user_namespaces_is_told_how_to_allow_them() {
    if !is_root() {
        skip!("needs root to make such a host");
    }
    if let Some(tool) = missing(&["setpriv", "unshare"]) {
        skip!("{tool} is not installed");
    }
    let stage = Stage::new();
    let satlet = stage.dir.path().join("satlet");
    std::fs::copy(env!("CARGO_BIN_EXE_satlet"), &satlet).unwrap();
    let user = USERS[0];
    let number = user.parse().unwrap();
    std::os::unix::fs::chown(stage.dir.path(), Some(number), Some(number)).unwrap();
    // A limit of its own in a user namespace of its own; then no privilege left.
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces || exit 99; \
         exec setpriv --inh-caps=-all --ambient-caps=-all {} demo --json",
        satlet.display()
    );
    let program = [
        "setpriv",
        &format!("--reuid={user}"),
        &format!("--regid={user}"),
        "--clear-groups",
        "unshare",
        "--user",
        &format!("--map-user={user}"),
        &format!("--map-group={user}"),
        "--keep-caps",
        "sh",
        "-c",
        &script,
    ];
    let done = tokio::time::timeout(LONG, stage.command(&program, &[]).output());
    let output = done.await.expect("the demo ends").unwrap();
    if output.status.code() == Some(99) {
        skip!("the limit cannot be set here: {output:?}");
    }
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    ran_or_told(&output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("sysctl user.max_user_namespaces"), "{said}");
}
