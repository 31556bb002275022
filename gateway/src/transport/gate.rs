//! Gate: how many may be at the door, in all and of one address, whatever way they come.
//!
//! An address is an IPv4 address, or the first 64 bits of an IPv6 one: whoever has one of those has them all. Behind
//! one address there may be a whole company, so the bound is high; it keeps one stranger from taking all the room.
//! Who comes over TCP takes a descriptor of the process besides, and of those there are fewer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use seriatim_proto::limits;

use crate::hub::Hub;
use crate::metrics::{Transport, Why};

/// Handshakes under way above which new ones are refused.
pub(crate) const HANDSHAKES_MAX: usize = 4_096;
/// Handshakes under way of one address above which its new ones are refused: one stranger does not shut the door.
const HANDSHAKES_ADDRESS_MAX: u32 = 512;
/// Handshakes under way above which addresses must be proved.
const HANDSHAKES_RETRY: usize = 512;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gate {
    hub: Arc<Hub>,
    address_connections_max: u32,
    tcp_connections_max: usize,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    handshakes: AtomicUsize,
    tcp_connections: AtomicUsize,
    addresses: Mutex<HashMap<IpAddr, OfAddress>>,
}

/// What there is of one address.
#[derive(Clone, Copy, Default)]
struct OfAddress {
    connections: u32,
    /// those of them that are not greeted
    handshakes: u32,
}

impl Gate {
    pub(crate) fn new(hub: Arc<Hub>, address_connections_max: u32, tcp_connections_max: usize) -> Self {
        hub.metrics.tcp_connections_max.set(i64::try_from(tcp_connections_max).unwrap_or(i64::MAX));
        Self { hub, address_connections_max, tcp_connections_max, shared: Arc::default() }
    }

    /// Must this address be proved before it may come in? From half of its share on: what was sent under somebody's
    /// forged address must not use it up.
    pub(crate) fn wants_proof(&self, address: IpAddr) -> bool {
        let of_address = self.shared.addresses.lock().get(&shortened(address)).copied().unwrap_or_default();
        self.shared.handshakes.load(Ordering::Relaxed) >= HANDSHAKES_RETRY
            || of_address.connections >= self.address_connections_max / 2
            || of_address.handshakes >= HANDSHAKES_ADDRESS_MAX / 2
    }

    /// Lets one in, from its first byte to its end. `transport` is what is known of it by its socket alone.
    pub(crate) fn enter(&self, transport: Transport, address: IpAddr) -> Result<Pass, Why> {
        if self.hub.draining().0 {
            return Err(Why::Draining);
        }
        let tcp = transport == Transport::WebSocket;
        if tcp && self.shared.tcp_connections.load(Ordering::Relaxed) >= self.tcp_connections_max {
            return Err(Why::Descriptors);
        }
        let handshakes = self.shared.handshakes.load(Ordering::Relaxed);
        if self.hub.connections() >= limits::GATEWAY_SESSIONS_MAX as usize || handshakes >= HANDSHAKES_MAX {
            return Err(Why::Full);
        }
        let address = shortened(address);
        let mut addresses = self.shared.addresses.lock();
        let of_address = addresses.entry(address).or_default();
        if of_address.connections >= self.address_connections_max || of_address.handshakes >= HANDSHAKES_ADDRESS_MAX {
            return Err(Why::Address);
        }
        of_address.connections += 1;
        of_address.handshakes += 1;
        drop(addresses);
        self.shared.handshakes.fetch_add(1, Ordering::Relaxed);
        self.shared.tcp_connections.fetch_add(usize::from(tcp), Ordering::Relaxed);
        Ok(Pass { shared: self.shared.clone(), address, tcp, shaking_hands: true })
    }
}

/// One that was let in, counted until dropped.
pub(crate) struct Pass {
    shared: Arc<Shared>,
    address: IpAddr,
    tcp: bool,
    shaking_hands: bool,
}

impl Pass {
    /// The handshake is done: from now on it is a connection.
    pub(crate) fn greeted(&mut self) {
        if std::mem::take(&mut self.shaking_hands) {
            self.shared.handshakes.fetch_sub(1, Ordering::Relaxed);
            if let Some(of_address) = self.shared.addresses.lock().get_mut(&self.address) {
                of_address.handshakes -= 1;
            }
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.greeted();
        self.shared.tcp_connections.fetch_sub(usize::from(self.tcp), Ordering::Relaxed);
        let mut addresses = self.shared.addresses.lock();
        if let Some(of_address) = addresses.get_mut(&self.address) {
            of_address.connections -= 1;
            if of_address.connections == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

/// What counts as one address.
fn shortened(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => std::net::Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn gate(max: u32) -> Gate {
        Gate::new(Arc::new(Hub::new(Metrics::new(&mut Default::default()))), max, usize::MAX)
    }

    fn enter(gate: &Gate, address: IpAddr) -> Result<Pass, Why> {
        gate.enter(Transport::Quic, address)
    }

    #[test]
    fn tcp_leaves_descriptors_to_the_rest_and_quic_needs_none() {
        let mut gate = gate(u32::MAX);
        gate.tcp_connections_max = 2;
        let enter = |transport| gate.enter(transport, address("192.0.2.1"));
        let first = enter(Transport::WebSocket).unwrap();
        let _second = enter(Transport::WebSocket).unwrap();
        assert!(matches!(enter(Transport::WebSocket), Err(Why::Descriptors)));
        let _quic = enter(Transport::Quic).unwrap();
        drop(first);
        enter(Transport::WebSocket).unwrap();
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_share_and_no_more_until_one_leaves() {
        let gate = gate(2);
        let first = enter(&gate, address("192.0.2.1")).unwrap();
        let _second = enter(&gate, address("::ffff:192.0.2.1")).unwrap();
        assert!(matches!(enter(&gate, address("192.0.2.1")), Err(Why::Address)));
        assert!(gate.wants_proof(address("192.0.2.1")) && !gate.wants_proof(address("192.0.2.2")));
        enter(&gate, address("192.0.2.2")).unwrap();
        drop(first);
        enter(&gate, address("192.0.2.1")).unwrap();
        assert_eq!(gate.shared.addresses.lock().len(), 1, "who is gone is forgotten");
    }

    #[test]
    fn one_address_does_not_take_all_handshakes() {
        let gate = gate(u32::MAX);
        let mut passes: Vec<_> =
            (0..HANDSHAKES_ADDRESS_MAX).map(|_| enter(&gate, address("192.0.2.1")).unwrap()).collect();
        assert!(matches!(enter(&gate, address("192.0.2.1")), Err(Why::Address)));
        assert!(enter(&gate, address("192.0.2.2")).is_ok());
        passes[0].greeted();
        enter(&gate, address("192.0.2.1")).unwrap();
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let gate = gate(1);
        let _pass = enter(&gate, address("2001:db8:1:2::1")).unwrap();
        assert!(enter(&gate, address("2001:db8:1:2:ffff::9")).is_err());
        assert!(enter(&gate, address("2001:db8:1:3::1")).is_ok());
    }

    #[test]
    fn handshakes_are_counted_until_they_are_done() {
        let gate = gate(u32::MAX);
        let mut passes: Vec<_> = (0..HANDSHAKES_MAX as u32)
            .map(|number| enter(&gate, IpAddr::V4(std::net::Ipv4Addr::from_bits(number))).unwrap())
            .collect();
        assert!(matches!(enter(&gate, address("192.0.2.1")), Err(Why::Full)));
        assert!(gate.wants_proof(address("192.0.2.1")));
        passes[0].greeted();
        passes[0].greeted();
        drop(passes.pop());
        assert_eq!(gate.shared.handshakes.load(Ordering::Relaxed), HANDSHAKES_MAX - 2);
    }
}
