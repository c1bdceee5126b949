//! Words that mean what they mean in any shell.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::{End, NOT_FOUND, Shell, Target, base, symbolic};

/// Names of the programs here.
pub(super) const NAMES: &[&str] = &[
    "true", "false", ":", "echo", "printf", "cat", "exit", "sleep", "env", "printenv", "export",
    "tty", "stty", "winsize", "test", "[", "mkdir", "rm", "ls", "pwd", "hostname", "whoami", "id",
    "sh", "bash", "kill", "wc", "readlink",
];

impl Shell {
    /// Runs a program with its arguments.
    pub(super) async fn argv(&mut self, argv: &[String], out: &mut Target) -> Result<i32, End> {
        let Some((name, args)) = argv.split_first() else {
            return Ok(0);
        };
        let name = base(name);
        if symbolic::NAMES.contains(&name) {
            return self.symbolic(name, args, out).await;
        }
        match name {
            "true" | ":" | "mkdir" => Ok(0),
            "false" => Ok(1),
            "exit" => Err(End::Exit(number(args.first()).unwrap_or(self.last))),
            "echo" => {
                let text = format!("{}\n", args.join(" "));
                self.said(out, text.as_bytes()).await
            }
            "printf" => {
                let text = printf(args);
                self.said(out, text.as_bytes()).await
            }
            "cat" | "readlink" => self.cat(args, out).await,
            "wc" => self.wc(args, out).await,
            "sleep" => sleep(args.first().map_or("", String::as_str)).await,
            "env" | "printenv" => self.env_of(args, out).await,
            "export" => self.export(args),
            "tty" | "stty" | "winsize" => self.tty(name, args, out).await,
            "test" | "[" => Ok(self.test(args)),
            "rm" => self.rm(args),
            "ls" => self.ls(args, out).await,
            "pwd" => self.said(out, b"/root\n").await,
            "hostname" => self.cat(&["/etc/hostname".to_owned()], out).await,
            "whoami" => self.said(out, b"root\n").await,
            "id" => self.said(out, b"0\n").await,
            "sh" | "bash" => self.sub_shell(args).await,
            "kill" => kill(args),
            _ => {
                self.complain(&format!("sh: {name}: not found")).await?;
                Ok(NOT_FOUND)
            }
        }
    }

    async fn said(&mut self, out: &mut Target, bytes: &[u8]) -> Result<i32, End> {
        self.say(out, bytes).await?;
        Ok(0)
    }

    async fn sub_shell(&mut self, args: &[String]) -> Result<i32, End> {
        let line = match args {
            [flag, line, ..] if flag == "-c" || flag == "-lc" => line.clone(),
            [] => return Box::pin(self.interactive()).await,
            [file, ..] => {
                let script = self.read(&self.path(file)).unwrap_or_default();
                String::from_utf8_lossy(&script).into_owned()
            }
        };
        match Box::pin(self.line(&line)).await {
            Err(End::Exit(code)) => Ok(code),
            ended => ended,
        }
    }

    async fn cat(&mut self, files: &[String], out: &mut Target) -> Result<i32, End> {
        if files.is_empty() {
            return self.cat_stdin(out).await;
        }
        let mut code = 0;
        for file in files {
            match self.read(&self.path(file)) {
                Some(text) => self.say(out, &text).await?,
                None => {
                    let why = format!("cat: {file}: No such file or directory");
                    self.complain(&why).await?;
                    code = 1;
                }
            }
        }
        Ok(code)
    }

    async fn cat_stdin(&mut self, out: &mut Target) -> Result<i32, End> {
        let mut buffer = vec![0; 8192];
        loop {
            let got = self.stdin.read(&mut buffer).await.unwrap_or(0);
            match buffer.get(..got) {
                Some([]) | None => return Ok(0),
                Some(bytes) => self.say(out, bytes).await?,
            }
        }
    }

    /// `wc -c`, of a file or of standard input.
    async fn wc(&mut self, args: &[String], out: &mut Target) -> Result<i32, End> {
        let mut text = Vec::new();
        match args.iter().find(|arg| !arg.starts_with('-')) {
            Some(file) => text = self.read(&self.path(file)).unwrap_or_default(),
            None => {
                // What could be read counts.
                self.stdin.read_to_end(&mut text).await.unwrap_or_default();
            }
        }
        self.say_line(out, &text.len().to_string()).await?;
        Ok(0)
    }

    async fn env_of(&mut self, args: &[String], out: &mut Target) -> Result<i32, End> {
        if let Some(name) = args.first() {
            let Some(value) = self.env.get(name).cloned() else {
                return Ok(1);
            };
            self.say_line(out, &value).await?;
            return Ok(0);
        }
        for (name, value) in self.env.clone() {
            self.say_line(out, &format!("{name}={value}")).await?;
        }
        Ok(0)
    }

    fn export(&mut self, args: &[String]) -> Result<i32, End> {
        for (name, value) in args.iter().filter_map(|arg| arg.split_once('=')) {
            self.env.insert(name.to_owned(), value.to_owned());
        }
        Ok(0)
    }

    /// `tty`, and the terminal's rows and columns as `stty size` says them.
    async fn tty(&mut self, name: &str, args: &[String], out: &mut Target) -> Result<i32, End> {
        let Some(size) = self.tty.as_ref().map(|tty| *tty.borrow()) else {
            if name == "tty" {
                self.say_line(out, "not a tty").await?;
            } else {
                self.complain("stty: standard input is not a terminal")
                    .await?;
            }
            return Ok(1);
        };
        if name == "tty" {
            self.say_line(out, "/dev/pts/0").await?;
        } else if name == "winsize" || args.first().is_some_and(|arg| arg == "size") {
            self.say_line(out, &format!("{} {}", size.rows, size.cols))
                .await?;
        }
        Ok(0)
    }

    /// `-e FILE`, `-f FILE`, `-n TEXT`, `-z TEXT`, `A = B`, `A != B`.
    fn test(&self, args: &[String]) -> i32 {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let holds = match args.strip_suffix(&["]"]).unwrap_or(&args) {
            ["-e" | "-f" | "-s", file] => self.read(&self.path(file)).is_some(),
            ["-n", text] => !text.is_empty(),
            ["-z", text] => text.is_empty(),
            [one, "=", other] => one == other,
            [one, "!=", other] => one != other,
            _ => return 2,
        };
        i32::from(!holds)
    }

    fn rm(&mut self, args: &[String]) -> Result<i32, End> {
        for file in args.iter().filter(|arg| !arg.starts_with('-')) {
            let path = self.path(file);
            self.with(|workload| workload.files.remove(&path));
        }
        Ok(0)
    }

    async fn ls(&mut self, args: &[String], out: &mut Target) -> Result<i32, End> {
        let folder = args.iter().find(|arg| !arg.starts_with('-'));
        let folder = self.path(folder.map_or("", String::as_str));
        let prefix = format!("{}/", folder.trim_end_matches('/'));
        let names: Vec<String> = self
            .with(|workload| {
                let below = workload
                    .files
                    .keys()
                    .filter_map(|path| path.strip_prefix(&prefix));
                below
                    .filter(|name| !name.contains('/'))
                    .map(str::to_owned)
                    .collect()
            })
            .unwrap_or_default();
        for name in names {
            self.say_line(out, &name).await?;
        }
        Ok(0)
    }
}

/// Seconds, or `infinity`.
async fn sleep(time: &str) -> Result<i32, End> {
    let seconds = time.parse().ok();
    match seconds.map(Duration::try_from_secs_f64) {
        Some(Ok(duration)) => tokio::time::sleep(duration).await,
        Some(Err(_)) => std::future::pending().await,
        None => return Ok(1),
    }
    Ok(0)
}

fn number(text: Option<&String>) -> Option<i32> {
    text?.parse().ok()
}

/// `kill -N $$`: the only process there is to kill is the shell itself.
fn kill(args: &[String]) -> Result<i32, End> {
    let flag = args.first().and_then(|arg| arg.strip_prefix('-'));
    let signal = flag.map_or(Some(nix::libc::SIGTERM), |text| text.parse().ok());
    signal.map_or(Ok(2), |signal| Err(End::Killed(signal)))
}

/// The format with `\n`, `\t`, `\\`, `%%` and `%s`.
fn printf(args: &[String]) -> String {
    let Some((format, values)) = args.split_first() else {
        return String::new();
    };
    let mut values = values.iter();
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.push(match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some(other) => other,
                None => '\\',
            }),
            '%' => match chars.next() {
                Some('%') => text.push('%'),
                _ => text.push_str(values.next().map_or("", String::as_str)),
            },
            c => text.push(c),
        }
    }
    text
}
