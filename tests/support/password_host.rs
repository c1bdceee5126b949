//! An SSH server that asks for a password, as the boxes of older providers do.
//! A command runs on this machine.

use std::sync::{Arc, Mutex};

use russh::keys::PrivateKey;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session, run_stream};
use russh::{Channel, ChannelId};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// It, on a free port of 127.0.0.1.
pub(crate) struct PasswordHost {
    pub(crate) port: u16,
    tried: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for PasswordHost {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Door {
    password: Arc<Mutex<String>>,
    tried: Arc<Mutex<Vec<String>>>,
}

impl PasswordHost {
    /// Starts one that lets in `root` with the password that is in `password`
    /// then, on this port or a free one.
    pub(crate) async fn start(password: Arc<Mutex<String>>, port: u16) -> Self {
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&rand::random()));
        let config = Arc::new(Config {
            keys: vec![key],
            auth_rejection_time: std::time::Duration::ZERO,
            ..Config::default()
        });
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tried = Arc::<Mutex<Vec<String>>>::default();
        let noted = tried.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let door = Door {
                    password: password.clone(),
                    tried: noted.clone(),
                };
                let config = config.clone();
                tokio::spawn(async move {
                    if let Ok(running) = run_stream(config, stream, door).await {
                        let _ = running.await;
                    }
                });
            }
        });
        Self { port, tried, task }
    }

    /// Passwords that were tried.
    pub(crate) fn tried(&self) -> Vec<String> {
        self.tried.lock().unwrap().clone()
    }

    /// Ends it; its port is free then.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Handler for Door {
    type Error = russh::Error;

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        self.tried.lock().unwrap().push(password.to_owned());
        let right = user == "root" && *self.password.lock().unwrap() == password;
        Ok(if right { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)?;
        let line = String::from_utf8_lossy(command).into_owned();
        let handle = session.handle();
        tokio::spawn(async move {
            let mut shell = tokio::process::Command::new("sh");
            shell.arg("-c").arg(line).stdin(std::process::Stdio::null());
            let ran = shell.output().await.unwrap();
            let code = u32::try_from(ran.status.code().unwrap_or(255)).unwrap();
            let _ = handle.data(channel, ran.stdout).await;
            let _ = handle.exit_status_request(channel, code).await;
            let _ = handle.eof(channel).await;
            let _ = handle.close(channel).await;
        });
        Ok(())
    }
}
