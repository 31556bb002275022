//! A bad network between devices and the gateway: datagrams that are lost, overtaken and doubled, and a device whose
//! address changes in mid-stream. Every entry arrives, once and in order.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::support::{PATIENCE, Site};
use futures_util::StreamExt;
use parking_lot::Mutex;
use seriatim_client::{Client, Conversation, Endpoint, EntryBody, Subscription};
use seriatim_proto::ids::Seq;
use tokio::net::UdpSocket;

/// What becomes of datagrams, of a thousand each.
#[derive(Clone, Copy, Default)]
struct Weather {
    lost: u64,
    /// held back behind later ones
    late: u64,
    doubled: u64,
}

/// A seeded generator: the same weather in each run, as far as the order of datagrams is the same.
struct Dice(u64);

impl Dice {
    /// With so many chances of a thousand.
    fn falls(&mut self, per_mille: u64) -> bool {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % 1_000 < per_mille
    }
}

/// How long one that is held back waits: longer than those behind it need.
const LATE: Duration = Duration::from_millis(12);

/// One direction of the network.
struct Road {
    weather: Weather,
    dice: Mutex<Dice>,
    lost: AtomicU64,
    late: AtomicU64,
}

impl Road {
    fn new(weather: Weather, seed: u64) -> Arc<Self> {
        Arc::new(Self { weather, dice: Mutex::new(Dice(seed)), lost: AtomicU64::new(0), late: AtomicU64::new(0) })
    }

    async fn carry(&self, socket: &Arc<UdpSocket>, to: SocketAddr, datagram: &[u8]) {
        let (lost, late, doubled) = {
            let mut dice = self.dice.lock();
            (dice.falls(self.weather.lost), dice.falls(self.weather.late), dice.falls(self.weather.doubled))
        };
        if lost {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        for _ in 0..1 + u8::from(doubled) {
            if late {
                self.late.fetch_add(1, Ordering::Relaxed);
                let (socket, datagram) = (socket.clone(), datagram.to_vec());
                tokio::spawn(async move {
                    tokio::time::sleep(LATE).await;
                    // As any network, it may lose what nobody takes.
                    let _ = socket.send_to(&datagram, to).await;
                });
            } else {
                let _ = socket.send_to(datagram, to).await;
            }
        }
    }
}

/// A network between devices and a gateway: of each device it has an address of its own, as a NAT has.
struct Network {
    address: SocketAddr,
    near: Arc<UdpSocket>,
    gateway: SocketAddr,
    out: Arc<Road>,
    back: Arc<Road>,
    /// of the gateway's side, by device
    far: Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>,
}

impl Network {
    async fn start(gateway: SocketAddr, weather: Weather) -> Arc<Self> {
        let near = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let network = Arc::new(Self {
            address: near.local_addr().unwrap(),
            near,
            gateway,
            out: Road::new(weather, 1),
            back: Road::new(weather, 2),
            far: Mutex::default(),
        });
        tokio::spawn(network.clone().run());
        network
    }

    async fn run(self: Arc<Self>) {
        let mut buffer = vec![0; 1 << 16];
        while let Ok((count, device)) = self.near.recv_from(&mut buffer).await {
            let known = self.far.lock().get(&device).cloned();
            let far = match known {
                Some(far) => far,
                None => self.open(device).await,
            };
            self.out.carry(&far, self.gateway, &buffer[..count]).await;
        }
    }

    /// Another address of the device, as the gateway sees it.
    async fn open(self: &Arc<Self>, device: SocketAddr) -> Arc<UdpSocket> {
        let far = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        self.far.lock().insert(device, far.clone());
        let (network, socket) = (self.clone(), Arc::downgrade(&far));
        tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            while let Some(far) = socket.upgrade() {
                let came = tokio::time::timeout(Duration::from_millis(100), far.recv_from(&mut buffer)).await;
                // An address that the device has no more gets nothing through.
                let is_current = network.far.lock().get(&device).is_some_and(|current| Arc::ptr_eq(current, &far));
                if let (Ok(Ok((count, _))), true) = (came, is_current) {
                    network.back.carry(&network.near, device, &buffer[..count]).await;
                }
            }
        });
        far
    }

    /// All devices have other addresses from now on: what is under way to the old ones is lost.
    async fn change_ports(self: &Arc<Self>) {
        let devices: Vec<_> = self.far.lock().keys().copied().collect();
        for device in devices {
            self.open(device).await;
        }
    }
}

async fn device(site: &Site, network: &Network, user: &str) -> Client {
    // Each its own socket: the network tells devices by their addresses.
    let endpoint = Endpoint::new(network.address, &site.ca()).unwrap();
    let builder = Client::builder(network.address, "localhost").endpoint(&endpoint).device("phone");
    let builder = builder.token(site.token(user, 3_600)).connect_timeout(PATIENCE).request_timeout(PATIENCE);
    builder.connect().await.unwrap()
}

async fn next_body(inbox: &mut Subscription) -> Vec<u8> {
    let entry = tokio::time::timeout(PATIENCE, inbox.next()).await.expect("an entry in time");
    match entry.unwrap().unwrap().body {
        EntryBody::Here { body, .. } => body.to_vec(),
        other => panic!("no body: {other:?}"),
    }
}

/// Larger than a datagram, with its number in front.
fn body(number: u32) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(3_000, 7);
    body
}

/// Pipelines messages over the network, and reads them in their order; `at` is called with the number of each that came.
async fn everything_arrives(alice: &Client, inbox: &mut Subscription, count: u32, mut at: impl AsyncFnMut(u32)) {
    let sender = alice.clone();
    let sending = tokio::spawn(async move {
        let mut tickets = Vec::new();
        for number in 0..count {
            let request = sender.prepare(Conversation::peer("bob").unwrap(), body(number));
            tickets.push(sender.submit(request).await.unwrap());
        }
        let mut places = Vec::new();
        for ticket in tickets {
            places.push(ticket.outcome().await.unwrap().seq);
        }
        assert!(places.is_sorted_by(|one, two| one < two), "{places:?}");
    });
    for number in 0..count {
        assert_eq!(next_body(inbox).await, body(number), "entry {number}");
        at(number).await;
    }
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenth_of_all_datagrams_is_lost_and_every_entry_arrives_in_order() {
    let site = Site::start().await;
    let network = Network::start(site.address, Weather { lost: 100, ..Weather::default() }).await;
    let (alice, bob) = (device(&site, &network, "alice").await, device(&site, &network, "bob").await);
    let mut inbox = bob.subscribe(Seq::FIRST, None);
    everything_arrives(&alice, &mut inbox, 200, async |_| {}).await;
    let lost = [&network.out, &network.back].map(|road| road.lost.load(Ordering::Relaxed));
    assert!(lost.iter().all(|lost| *lost > 10), "{lost:?} were lost on the two ways");
    assert_eq!(bob.status().await.unwrap().ordinal, 200, "none of them twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_overtake_each_other_and_come_twice_and_every_entry_arrives_in_order() {
    let site = Site::start().await;
    let network = Network::start(site.address, Weather { late: 200, doubled: 100, ..Weather::default() }).await;
    let (alice, bob) = (device(&site, &network, "alice").await, device(&site, &network, "bob").await);
    let mut inbox = bob.subscribe(Seq::FIRST, None);
    everything_arrives(&alice, &mut inbox, 300, async |_| {}).await;
    let late = [&network.out, &network.back].map(|road| road.late.load(Ordering::Relaxed));
    assert!(late.iter().all(|late| *late > 40), "{late:?} were held back on the two ways");
    assert_eq!(bob.status().await.unwrap().ordinal, 300, "none of them twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_change_in_mid_stream_and_the_connection_goes_on() {
    let site = Site::start().await;
    let network = Network::start(site.address, Weather::default()).await;
    let (alice, bob) = (device(&site, &network, "alice").await, device(&site, &network, "bob").await);
    let mut inbox = bob.subscribe(Seq::FIRST, None);
    let change = async |number| {
        // Five times, with more under way each time.
        if number % 60 == 30 {
            network.change_ports().await;
        }
    };
    everything_arrives(&alice, &mut inbox, 300, change).await;
    assert_eq!((alice.connections(), bob.connections()), (1, 1), "QUIC goes on from the new address");
    assert_eq!(bob.status().await.unwrap().ordinal, 300, "none of them twice");
}
