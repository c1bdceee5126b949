//! One connection, as the SSH library tells about it. Nothing here waits for a
//! workload: while a callback runs, the whole connection stands still.

use std::time::Duration;

use russh::server::{
    Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty, Sig};

use super::algorithms::{WINDOW, methods};
use super::client::{Client, Open, term_name};
use super::server::Entrance;
use super::{forward, session};
use crate::compute::ExecCommand;

/// Window given to a client whose workload does not read: it goes on sending
/// two bytes at a time, and each packet is a chance to open the window again.
const DRIP: u32 = 2;

/// A dripping client waits this long between packets.
const DRIP_PAUSE: Duration = Duration::from_millis(20);

fn answer(session: &mut Session, channel: ChannelId, yes: bool) -> Result<(), russh::Error> {
    if yes {
        session.channel_success(channel)
    } else {
        session.channel_failure(channel)
    }
}

fn refusal(entrance: Entrance) -> Auth {
    Auth::Reject {
        proceed_with_methods: Some(methods(entrance)),
        partial_success: false,
    }
}

impl Handler for Client {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        self.note_try(user);
        let known = self.ask(user, offer.public_key).await.is_some();
        Ok(if known {
            Auth::Accept
        } else {
            refusal(self.entrance)
        })
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let Some(door) = self.ask(user, key.public_key).await else {
            return Ok(refusal(self.entrance));
        };
        self.door = Some(door);
        Ok(Auth::Accept)
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        self.note_try(user);
        let Some(door) = self.ask_password(user, password).await else {
            return Ok(refusal(self.entrance));
        };
        self.door = Some(door);
        Ok(Auth::Accept)
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Self::Error> {
        let Some(door) = &self.door else {
            return Err(russh::Error::Inconsistent);
        };
        let lease = door.lease.clone();
        tracing::info!(%lease, peer = %self.connection.peer, "login");
        self.connection.set_lease(lease);
        self.connection.touch();
        self.shared.enter(&self.connection).await;
        self.connection.authenticated.cancel();
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        match self.open(channel) {
            Ok((id, open)) => {
                self.channels.insert(id, open);
                reply.accept().await;
            }
            Err(why) => reply.reject(why).await,
        }
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let port = u16::try_from(port).ok().filter(|port| *port != 0);
        let dial = self.door.clone().filter(|d| d.backend.dial().is_some());
        let (Some(door), Some(host), Some(port)) = (dial, forward::loopback(host), port) else {
            reply
                .reject(ChannelOpenFailure::AdministrativelyProhibited)
                .await;
            return Ok(());
        };
        match self.open(channel) {
            Ok((id, mut open)) => {
                let Some(waiting) = open.waiting.take() else {
                    return Ok(());
                };
                let task = forward::Task {
                    door,
                    host,
                    port,
                    input: open.input.clone(),
                    out: waiting.out,
                    reply,
                    cancel: open.token.clone(),
                };
                self.run(id, open.token.clone(), task.run(), session);
                self.channels.insert(id, open);
            }
            Err(why) => reply.reject(why).await,
        }
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        cols: u32,
        rows: u32,
        _pix_width: u32,
        _pix_height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let yes = self.is_waiting(channel)
            && self.set_env(channel, "TERM", term_name(term))
            && self.set_size(channel, cols, rows);
        answer(session, channel, yes)
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        cols: u32,
        rows: u32,
        _pix_width: u32,
        _pix_height: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let has_tty = |open: &Open| open.size.borrow().is_some();
        let yes =
            self.channels.get(&channel).is_some_and(has_tty) && self.set_size(channel, cols, rows);
        answer(session, channel, yes)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let yes = self.set_env(channel, name, value);
        answer(session, channel, yes)
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let yes = self.launch(channel, ExecCommand::Shell, session);
        answer(session, channel, yes)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let line = match std::str::from_utf8(data) {
            Ok(line) if !line.contains('\0') => line.to_owned(),
            _ => return session.channel_failure(channel),
        };
        let yes = self.launch(channel, ExecCommand::Line(line), session);
        answer(session, channel, yes)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let yes = name == "sftp" && self.launch(channel, ExecCommand::Sftp, session);
        answer(session, channel, yes)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single_connection: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn signal(
        &mut self,
        channel: ChannelId,
        signal: Sig,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let (Some(open), Some(number)) =
            (self.channels.get(&channel), session::signal_number(&signal))
        {
            // RFC 4254 has no answer to a signal; one too many is lost.
            let _ = open.signals.try_send(number);
        }
        Ok(())
    }

    async fn data(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.connection.touch();
        let Some(open) = self.channels.get(&channel) else {
            return Ok(());
        };
        if open.input.push(data).is_err() {
            let lease = self.connection.lease();
            tracing::warn!(?lease, "a client sends more than its workload reads");
            self.channels.remove(&channel);
            return session.close(channel);
        }
        if data.len() <= DRIP as usize && self.connection.meter.stalled() {
            tokio::time::sleep(DRIP_PAUSE).await;
        }
        Ok(())
    }

    fn adjust_window(&mut self, _channel: ChannelId, _current: u32) -> u32 {
        if self.connection.meter.stalled() {
            DRIP
        } else {
            WINDOW
        }
    }

    async fn channel_eof(
        &mut self,
        channel: ChannelId,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(open) = self.channels.get(&channel) {
            open.input.end();
        }
        Ok(())
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channels.remove(&channel);
        Ok(())
    }
}
