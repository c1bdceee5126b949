//! A backend whose one workload is this machine: commands are real processes,
//! with real pipes and terminals, in a folder of the test.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "in a test a panic is a finding"
)]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use satlet::compute::*;
use satlet::core::capacity::Resources;
use satlet::core::ids::{LeaseId, Name};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};

nix::ioctl_write_ptr_bad!(set_size, nix::libc::TIOCSWINSZ, Winsize);

/// A command on which the backend panics.
pub(crate) const PANIC: &str = "the backend panics";

/// What the backend saw.
#[derive(Default)]
pub(crate) struct Seen {
    /// Bytes read from the standard output of commands.
    pub(crate) output: AtomicU64,
    /// Commands that run now.
    pub(crate) running: AtomicUsize,
    /// Commands that were started.
    pub(crate) started: AtomicUsize,
}

pub(crate) struct LocalBackend {
    name: Name,
    capabilities: Capabilities,
    home: PathBuf,
    pub(crate) seen: Arc<Seen>,
}

impl LocalBackend {
    pub(crate) fn new(home: &Path) -> Self {
        Self {
            name: "local".parse().unwrap(),
            capabilities: Capabilities {
                isolation: "shared-kernel".to_owned(),
                oci_images: false,
                host_image: true,
                enforces: Enforced::default(),
                outgoing_network: false,
                notes: Vec::new(),
            },
            home: home.to_owned(),
            seen: Arc::default(),
        }
    }

    pub(crate) fn handle(&self, lease: &LeaseId) -> Handle {
        Handle {
            backend: self.name.clone(),
            version: 1,
            key: lease.clone(),
            data: serde_json::Value::Null,
        }
    }

    fn command(&self, request: &ExecRequest) -> Command {
        let argv: Vec<String> = match &request.command {
            ExecCommand::Shell => vec!["sh".to_owned(), "-i".to_owned()],
            ExecCommand::Line(line) => vec!["sh".to_owned(), "-c".to_owned(), line.clone()],
            ExecCommand::Argv(argv) => argv.clone(),
            ExecCommand::Sftp => unreachable!("served in a thread"),
        };
        // With a terminal, setsid makes standard input the controlling one.
        let mut command = if request.tty.is_some() {
            let mut command = Command::new("setsid");
            command.arg("-c").arg(&argv[0]);
            command
        } else {
            let mut command = Command::new(&argv[0]);
            command.process_group(0);
            command
        };
        command
            .args(&argv[1..])
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("HOME", &self.home)
            .env("PS1", "$ ")
            .envs(request.env.iter().map(|(k, v)| (k, v)))
            .current_dir(&self.home)
            // A test that fails ends, and does not wait for a shell.
            .kill_on_drop(true);
        command
    }

    fn with_pipes(&self, request: &ExecRequest) -> ExecSession {
        let mut child = self
            .command(request)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = Box::new(child.stdin.take().unwrap());
        let stdout = self.counted(child.stdout.take().unwrap());
        let stderr: BoxRead = Box::new(child.stderr.take().unwrap());
        let (control, exit) = self.supervise(child, None);
        ExecSession {
            stdin,
            stdout,
            stderr: Some(stderr),
            control,
            exit,
        }
    }

    fn with_terminal(&self, request: &ExecRequest, size: TtySize) -> ExecSession {
        let pty = openpty(Some(&winsize(size)), None).unwrap();
        let slave = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = self
            .command(request)
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .unwrap();
        let file = |fd: &OwnedFd| tokio::fs::File::from_std(fd.try_clone().unwrap().into());
        let stdin = Box::new(file(&pty.master));
        let stdout = self.counted(file(&pty.master));
        let (control, exit) = self.supervise(child, Some(pty.master));
        ExecSession {
            stdin,
            stdout,
            stderr: None,
            control,
            exit,
        }
    }

    fn sftp(&self) -> ExecSession {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = tokio::net::UnixStream::from_std(ours).unwrap();
        let home = self.home.clone();
        let (control, mut controls) = mpsc::channel(8);
        let (ended, exit) = oneshot::channel();
        let seen = self.seen.clone();
        seen.start();
        std::thread::spawn(move || {
            let reader = theirs.try_clone().unwrap();
            let served = satlet::compute::sftp_server::serve_at(reader, &theirs, &home);
            theirs.shutdown(std::net::Shutdown::Both).ok();
            let code = ExitStatus::Code(served.is_err().into());
            seen.running.fetch_sub(1, Ordering::SeqCst);
            ended.send(Ok(code)).ok();
        });
        tokio::spawn(async move { while controls.recv().await.is_some() {} });
        let (read, write) = ours.into_split();
        ExecSession {
            stdin: Box::new(write),
            stdout: Box::new(read),
            stderr: Some(Box::new(tokio::io::empty())),
            control,
            exit,
        }
    }

    fn counted(&self, inner: impl AsyncRead + Send + Unpin + 'static) -> BoxRead {
        Box::new(Counted {
            inner,
            seen: self.seen.clone(),
        })
    }

    /// Reaps the child, passes controls on, and kills it when the session is dropped.
    fn supervise(
        &self,
        mut child: Child,
        terminal: Option<OwnedFd>,
    ) -> (
        mpsc::Sender<ExecControl>,
        oneshot::Receiver<Result<ExitStatus, BackendError>>,
    ) {
        let (control, mut controls) = mpsc::channel(8);
        let (mut ended, exit) = oneshot::channel();
        let group = Pid::from_raw(child.id().unwrap().try_into().unwrap());
        let seen = self.seen.clone();
        seen.start();
        tokio::spawn(async move {
            let mut steering = true;
            let status = loop {
                tokio::select! {
                    status = child.wait() => break status.unwrap(),
                    () = ended.closed() => {
                        killpg(group, Signal::SIGHUP).ok();
                        killpg(group, Signal::SIGKILL).ok();
                        break child.wait().await.unwrap();
                    }
                    message = controls.recv(), if steering => match (message, &terminal) {
                        (Some(ExecControl::Resize(size)), Some(terminal)) => {
                            resize(terminal, size);
                        }
                        (Some(ExecControl::Signal(signal)), _) => {
                            killpg(group, Signal::try_from(signal).unwrap()).ok();
                        }
                        (Some(ExecControl::Resize(_)), None) => {}
                        (None, _) => steering = false,
                    },
                }
            };
            use std::os::unix::process::ExitStatusExt;
            let status = match (status.code(), status.signal()) {
                (Some(code), _) => ExitStatus::Code(code),
                (None, signal) => ExitStatus::Signal(signal.unwrap()),
            };
            seen.running.fetch_sub(1, Ordering::SeqCst);
            ended.send(Ok(status)).ok();
        });
        (control, exit)
    }
}

impl Seen {
    fn start(&self) {
        self.started.fetch_add(1, Ordering::SeqCst);
        self.running.fetch_add(1, Ordering::SeqCst);
    }
}

fn winsize(size: TtySize) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

#[expect(unsafe_code, reason = "an ioctl")]
fn resize(terminal: &OwnedFd, size: TtySize) {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open and the structure is the one the call reads.
    unsafe { set_size(terminal.as_raw_fd(), &winsize(size)) }.unwrap();
}

struct Counted<R> {
    inner: R,
    seen: Arc<Seen>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Counted<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        self.seen.output.fetch_add(read as u64, Ordering::SeqCst);
        result
    }
}

#[async_trait]
impl Exec for LocalBackend {
    async fn exec(&self, _: &Handle, request: ExecRequest) -> Result<ExecSession, BackendError> {
        assert_ne!(request.command, ExecCommand::Line(PANIC.to_owned()));
        Ok(match (&request.command, request.tty) {
            (ExecCommand::Sftp, _) => self.sftp(),
            (_, Some(size)) => self.with_terminal(&request, size),
            (_, None) => self.with_pipes(&request),
        })
    }
}

#[async_trait]
impl Dial for LocalBackend {
    async fn dial(
        &self,
        _: &Handle,
        host: &str,
        port: u16,
    ) -> Result<Box<dyn Duplex>, BackendError> {
        match tokio::net::TcpStream::connect((host, port)).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(why) => Err(BackendError::Permanent(why.to_string())),
        }
    }
}

#[async_trait]
impl Backend for LocalBackend {
    fn name(&self) -> &Name {
        &self.name
    }
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    async fn probe(&self) -> Result<Health, BackendError> {
        let engine = "local".to_owned();
        Ok(Health { engine })
    }
    async fn inventory(&self) -> Result<Inventory, BackendError> {
        Ok(Inventory {
            total: Resources::default(),
        })
    }
    async fn prepare(&self, _: &Image) -> Result<(), BackendError> {
        Ok(())
    }
    async fn create(&self, key: &WorkloadKey, _: &WorkloadSpec) -> Result<Handle, BackendError> {
        Ok(self.handle(key))
    }
    async fn observe(&self, _: &Handle) -> Result<Observed, BackendError> {
        Ok(Observed::Absent)
    }
    async fn list_owned(&self) -> Result<Vec<Owned>, BackendError> {
        Ok(Vec::new())
    }
    async fn start(&self, _: &Handle) -> Result<(), BackendError> {
        Ok(())
    }
    async fn stop(&self, _: &Handle, _: Duration) -> Result<(), BackendError> {
        Ok(())
    }
    async fn destroy(&self, _: &Handle) -> Result<(), BackendError> {
        Ok(())
    }
    fn exec(&self) -> Option<&dyn Exec> {
        Some(self)
    }
    fn dial(&self) -> Option<&dyn Dial> {
        Some(self)
    }
}
