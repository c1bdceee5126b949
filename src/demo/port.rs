//! A port that is ours also while nobody listens on it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// A port of 127.0.0.1, held until this is dropped.
///
/// It is bound and not listened on, so connections to it are refused and nobody is
/// given it who asks for any free port. Whoever names it, with `SO_REUSEADDR` as
/// servers do, can listen on it: here, or in another program; socket(7).
#[derive(Debug)]
pub struct Port {
    addr: SocketAddr,
    _held: TcpSocket,
}

impl Port {
    /// Takes one that is free.
    ///
    /// # Errors
    /// None is free, or this process has no more file descriptors.
    pub fn take() -> io::Result<Self> {
        let held = TcpSocket::new_v4()?;
        held.set_reuseaddr(true)?;
        held.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let addr = held.local_addr()?;
        Ok(Self { addr, _held: held })
    }

    /// Its address: the same for as long as it is held.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.addr.port()
    }

    /// Listens on it.
    ///
    /// # Errors
    /// Somebody does already.
    pub async fn listen(&self) -> io::Result<TcpListener> {
        TcpListener::bind(self.addr).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn it_is_nobody_else_s_while_nobody_listens() {
        let held: Vec<Port> = (0..100).map(|_| Port::take().unwrap()).collect();
        let numbers: HashSet<u16> = held.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), held.len());
        for _ in 0..5000 {
            let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            assert!(!numbers.contains(&other.local_addr().unwrap().port()));
        }
        let port = &held[0];
        assert!(TcpStream::connect(port.addr()).await.is_err());
        for _ in 0..2 {
            let listener = port.listen().await.unwrap();
            TcpStream::connect(port.addr()).await.unwrap();
            assert!(port.listen().await.is_err(), "one listener at a time");
            drop(listener);
        }
    }
}
