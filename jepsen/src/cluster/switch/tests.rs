//! The switch with real namespaces, TAPs and sockets; skipped, with the reason, where these cannot be made.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::super::namespaces::{HARNESS_PORT, Namespaces, node_port};
use super::super::{netns, trouble};
use super::*;

/// Longest wait for a datagram that must come.
const PATIENCE: Duration = Duration::from_secs(10);
const PORT: u16 = 7_000;

/// Two nodes on a switch, and a socket of the harness and of each node, which know each other's addresses.
struct Bench {
    made: Namespaces,
    harness: UdpSocket,
    nodes: [UdpSocket; 2],
}

impl Bench {
    async fn make() -> Option<Bench> {
        let made = match Namespaces::switched(vec!["s1".to_owned(), "s2".to_owned()], 1) {
            Ok(made) => made,
            Err(error) => {
                eprintln!("skipped: {error:#}");
                return None;
            }
        };
        let harness = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        let nodes = [Self::bind(&made, 0).await, Self::bind(&made, 1).await];
        for socket in nodes.iter().chain([&harness]) {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let bench = Bench { made, harness, nodes };
        // Asks for addresses (ARP), so that what is measured later is not that.
        bench.round_trip(&bench.harness, 0);
        bench.round_trip(&bench.nodes[1], 0);
        Some(bench)
    }

    /// A socket belongs to the namespace of the thread that made it.
    async fn bind(made: &Namespaces, index: usize) -> UdpSocket {
        let address = SocketAddr::from((made.node_address(index), PORT));
        netns::within(Some(made.file(index)), move || UdpSocket::bind(address)).await.unwrap()
    }

    fn switch(&self) -> &Switch {
        self.made.switch().unwrap()
    }

    fn send(&self, from: &UdpSocket, to: usize, body: &[u8]) {
        from.send_to(body, (self.made.node_address(to), PORT)).unwrap();
    }

    fn round_trip(&self, from: &UdpSocket, to: usize) -> Duration {
        let (began, mut buffer) = (Instant::now(), [0; 2_000]);
        self.send(from, to, b"there");
        let (_, back_to) = self.nodes[to].recv_from(&mut buffer).unwrap();
        self.nodes[to].send_to(b"and back", back_to).unwrap();
        assert_eq!(from.recv_from(&mut buffer).unwrap().0, 8);
        began.elapsed()
    }

    async fn checksum_errors(&self, index: usize) -> u64 {
        netns::within(Some(self.made.file(index)), trouble::checksum_errors_here).await.unwrap()
    }
}

fn received(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut buffer = [0; 2_000];
    let one = |_| {
        let (length, _) = socket.recv_from(&mut buffer).unwrap();
        buffer[..length].to_vec()
    };
    (0..count).map(one).collect()
}

/// What has come already.
fn came(socket: &UdpSocket) -> impl Iterator<Item = Vec<u8>> {
    socket.set_nonblocking(true).unwrap();
    let mut got = Vec::new();
    let mut buffer = [0; 2_000];
    while let Ok((length, _)) = socket.recv_from(&mut buffer) {
        got.push(buffer[..length].to_vec());
    }
    socket.set_nonblocking(false).unwrap();
    got.into_iter()
}

#[tokio::test]
async fn a_round_trip_takes_as_much_longer_as_it_is_delayed() {
    let Some(bench) = Bench::make().await else { return };
    let by = Duration::from_millis(60);
    for from in [&bench.harness, &bench.nodes[1]] {
        let plain = (0..20).map(|_| bench.round_trip(from, 0)).min().unwrap();
        assert!(plain < by, "{plain:?}");
        let id = bench.switch().trouble(node_port(0), Direction::BOTH, Trouble::Delay(by));
        let delayed = (0..3).map(|_| bench.round_trip(from, 0)).min().unwrap();
        eprintln!("round trip {plain:?}, delayed {delayed:?}");
        assert!(delayed >= 2 * by && delayed < 2 * by + plain + by, "{delayed:?}");
        assert!(bench.switch().calm(id).hit >= 6);
        assert!((0..20).map(|_| bench.round_trip(from, 0)).min().unwrap() < by);
    }
}

#[tokio::test]
async fn every_datagram_that_is_doubled_comes_twice() {
    let Some(bench) = Bench::make().await else { return };
    let id = bench.switch().trouble(node_port(0), &[Direction::ToNode], Trouble::Duplicate(1_000));
    for number in 0..50_u8 {
        bench.send(&bench.nodes[1], 0, &[number]);
    }
    let bodies: Vec<u8> = received(&bench.nodes[0], 100).into_iter().flatten().collect();
    assert_eq!(bodies, (0..50).flat_map(|number| [number, number]).collect::<Vec<_>>());
    assert!(bench.switch().calm(id).hit >= 50);
}

#[tokio::test]
async fn reordered_datagrams_all_come_but_not_in_order() {
    let Some(bench) = Bench::make().await else { return };
    let id = bench.switch().trouble(node_port(0), &[Direction::ToNode], Trouble::Reorder(300));
    for number in 0..100_u8 {
        bench.send(&bench.harness, 0, &[number]);
    }
    let mut bodies: Vec<u8> = received(&bench.nodes[0], 100).into_iter().flatten().collect();
    assert!(!bodies.is_sorted());
    bodies.sort_unstable();
    assert_eq!(bodies, (0..100).collect::<Vec<_>>());
    assert!(bench.switch().calm(id).hit > 0);
}

/// Spoiled datagrams are either refused by the kernel, which counts them, or come spoiled; no third thing happens.
#[tokio::test]
async fn spoiled_datagrams_are_refused_by_the_kernel_or_come_spoiled() {
    const COUNT: u64 = 200;
    let Some(bench) = Bench::make().await else { return };
    let before = bench.checksum_errors(0).await;
    let id = bench.switch().trouble(node_port(0), &[Direction::ToNode], Trouble::Corrupt(1_000));
    // A body as long as most of what QUIC sends, so that the header of the datagram is seldom hit.
    let body: Vec<u8> = (0..1_200).map(|byte| (byte % 251) as u8).collect();
    let mut came_spoiled = 0;
    for number in 1..=COUNT {
        bench.send(&bench.nodes[1], 0, &body);
        let deadline = Instant::now() + PATIENCE;
        while bench.switch().troubled(id).frames < number {
            assert!(Instant::now() < deadline, "datagram {number} did not reach the switch");
            std::thread::yield_now();
        }
        // Read as they come, or a full buffer would lose some.
        let came = came(&bench.nodes[0]).inspect(|got| assert_ne!(*got, body, "a datagram came whole"));
        came_spoiled += came.count() as u64;
    }
    let troubled = bench.switch().calm(id);
    bench.send(&bench.nodes[1], 0, b"the end");
    while let Some(got) = received(&bench.nodes[0], 1).pop().filter(|got| got != b"the end") {
        assert_ne!(got, body, "a datagram came whole");
        came_spoiled += 1;
    }
    let refused = bench.checksum_errors(0).await - before;
    eprintln!("{troubled:?}: {came_spoiled} came spoiled, {refused} were refused");
    assert_eq!(came_spoiled, troubled.disguised);
    assert!(troubled.disguised > COUNT / 4 && refused > COUNT / 4);
    // The length of a datagram is a header of its own, and refused otherwise.
    assert!(refused + came_spoiled <= troubled.hit && refused + came_spoiled >= troubled.hit - 10);
}

#[tokio::test]
async fn cuts_pulled_plugs_and_rates_hit_whom_they_should() {
    let Some(bench) = Bench::make().await else { return };
    let switch = bench.switch();
    let cut = switch.cut(BTreeSet::from([(node_port(1), node_port(0))]), 100);
    bench.send(&bench.nodes[1], 0, b"cut off");
    bench.round_trip(&bench.harness, 0);
    assert!(switch.dropped(cut).unwrap() > 0);
    switch.mend(cut);
    switch.set_pulled(node_port(0), true);
    assert!(switch.is_pulled(node_port(0)) && !switch.is_pulled(HARNESS_PORT));
    bench.send(&bench.harness, 0, b"into the void");
    // What follows shows that the switch has seen the one before.
    bench.round_trip(&bench.harness, 1);
    switch.set_pulled(node_port(0), false);
    bench.round_trip(&bench.harness, 0);
    // 1,000 bytes and the headers take more than 80 ms; the second waits for the first.
    switch.set_rate(node_port(0), Some(100));
    let began = Instant::now();
    for _ in 0..2 {
        bench.send(&bench.harness, 0, &[7; 1_000]);
    }
    let bodies = received(&bench.nodes[0], 2);
    assert!(bodies.iter().all(|body| body.len() == 1_000) && began.elapsed() >= Duration::from_millis(160));
    assert!(switch.held_back(node_port(0)) >= 1);
}

#[tokio::test]
async fn a_stream_gets_through_every_trouble_at_once() {
    use std::io::{Read, Write};
    const BYTES: usize = 300_000;
    let Some(bench) = Bench::make().await else { return };
    let address = SocketAddr::from((bench.made.node_address(0), PORT));
    let file = bench.made.file(0);
    let listener = netns::within(Some(file), move || std::net::TcpListener::bind(address)).await.unwrap();
    for trouble in [
        Trouble::Delay(Duration::from_millis(2)),
        Trouble::Jitter(Duration::from_millis(3)),
        Trouble::Duplicate(100),
        Trouble::Reorder(100),
        Trouble::Corrupt(20),
    ] {
        bench.switch().trouble(node_port(0), Direction::BOTH, trouble);
    }
    let sent: Vec<u8> = (0..BYTES).map(|byte| (byte * 31 % 251) as u8).collect();
    let whole = sent.clone();
    let sender = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(address)?;
        stream.write_all(&sent)
    });
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    sender.join().unwrap().unwrap();
    assert!(got == whole, "the stream is not what was sent");
}

#[tokio::test]
async fn nothing_is_left_of_a_switch() {
    let Some(bench) = Bench::make().await else { return };
    let prefix = bench.made.prefix().to_owned();
    let left = super::super::leftovers(&prefix);
    assert_eq!(left.len(), 3, "two namespaces and the harness's link: {left:?}");
    drop(bench);
    assert_eq!(super::super::leftovers(&prefix), Vec::<String>::new());
}
