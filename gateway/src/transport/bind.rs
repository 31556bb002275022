//! Bind: one port number for UDP and TCP; `[::]` takes IPv4 too.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use crate::server::GatewayStartError;

/// Room for datagrams that arrive in one burst: all devices share one socket.
const SOCKET_BYTES: usize = 8 << 20;
/// Connections that the system completes before we take them.
const BACKLOG: i32 = 1_024;
/// Free ports that are tried until one is free for both.
const FREE_TRIES: u32 = 16;

/// The two sockets of a gateway.
pub(crate) struct Sockets {
    pub(crate) udp: UdpSocket,
    pub(crate) tcp: TcpListener,
}

impl Sockets {
    /// Binds both; port 0 takes one that is free for both.
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, GatewayStartError> {
        let mut tries = 0;
        loop {
            let udp =
                bind_udp(address).map_err(|source| GatewayStartError::Bind { protocol: "UDP", address, source })?;
            let same =
                udp.local_addr().map_err(|source| GatewayStartError::Bind { protocol: "UDP", address, source })?;
            match bind_tcp(same) {
                Ok(tcp) => return Ok(Self { udp, tcp }),
                Err(error) if address.port() == 0 && error.kind() == io::ErrorKind::AddrInUse && tries < FREE_TRIES => {
                    tries += 1;
                }
                Err(source) => return Err(GatewayStartError::Bind { protocol: "TCP", address: same, source }),
            }
        }
    }
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket_with(family(address), SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &address)?;
    // Larger buffers, as far as the system allows; without them it only loses more in bursts.
    let _ = sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BYTES)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BYTES));
    let _ = sockopt::set_socket_send_buffer_size(&socket, SOCKET_BYTES);
    Ok(socket.into())
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family(address), SocketType::STREAM, flags, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    // The connections of a gateway that ended do not keep the next one from the port.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sockets_have_one_port_and_both_families() {
        let sockets = Sockets::bind("[::]:0".parse().unwrap()).unwrap();
        let port = sockets.udp.local_addr().unwrap().port();
        assert_eq!(sockets.tcp.local_addr().unwrap().port(), port);
        for host in ["127.0.0.1", "[::1]"] {
            let address: SocketAddr = format!("{host}:{port}").parse().unwrap();
            std::net::TcpStream::connect(address).unwrap();
            let sender = UdpSocket::bind(if address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
            sender.send_to(b"x", address).unwrap();
            let (_, from) = sockets.udp.recv_from(&mut [0; 1]).unwrap();
            assert_eq!(from.port(), sender.local_addr().unwrap().port());
        }
    }

    #[test]
    fn a_port_whose_tcp_half_is_taken_is_refused() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = Sockets::bind(taken.local_addr().unwrap()).err().unwrap();
        let GatewayStartError::Bind { protocol, source, .. } = error else { panic!("{error}") };
        assert_eq!((protocol, source.kind()), ("TCP", io::ErrorKind::AddrInUse));
    }
}
