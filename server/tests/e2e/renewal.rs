//! Renewal behind the gateway: what a logic node makes of a session that is opened again, and of one whose token ends.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{Cluster, PATIENCE, wait_until_async};
use seriatim_client::{Client, Conversation};
use seriatim_proto::codec;
use seriatim_proto::error::ErrorCode;
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::logic_client::LogicClient;
use seriatim_proto::ids::{DeviceId, Seq};
use seriatim_proto::logic::{Call, CallError, GatewayRequest, GatewayResponse, Scopes};
use seriatim_proto::playground::PlaygroundRole;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// One store, and one logic node, which holds every slot.
const SMALL: [&str; 5] = ["--stores", "1", "--logic", "1", "--insecure-plaintext"];

/// Lives of tokens in seconds: of one whose end is waited for, and of one that outlives the test.
const SHORT: i64 = 10;
const LONG: i64 = 3_600;

/// Or by which code it is refused.
type Answer = Result<(), ErrorCode>;

/// What a gateway says to the logic node and hears of it.
struct Gateway {
    requests: mpsc::Sender<Packet>,
    answers: Streaming<Packet>,
    heard: Vec<GatewayResponse>,
    last_id: u64,
    /// Entries that were pushed to each session.
    pushed: BTreeMap<u64, BTreeSet<Seq>>,
    unregistered: BTreeSet<u64>,
}

impl Gateway {
    async fn greet(cluster: &Cluster) -> Self {
        let address = cluster.nodes(PlaygroundRole::Logic).remove(0);
        let mut client = LogicClient::connect(format!("http://{address}")).await.unwrap();
        let (requests, stream) = mpsc::channel(16);
        let hello = Packet { frames: vec![codec::encode_bytes(&GatewayRequest::Hello { cluster: None })] };
        requests.send(hello).await.unwrap();
        let answers = client.channel(ReceiverStream::new(stream)).await.unwrap().into_inner();
        let (heard, pushed, unregistered) = Default::default();
        let mut gateway = Self { requests, answers, heard, last_id: 0, pushed, unregistered };
        gateway.hear(|frame| matches!(frame, GatewayResponse::Welcome { result: Ok(_) }).then_some(())).await;
        gateway
    }

    async fn say(&self, request: GatewayRequest) {
        self.requests.send(Packet { frames: vec![codec::encode_bytes(&request)] }).await.unwrap();
    }

    async fn hear_a_packet(&mut self) {
        let packet = self.answers.message().await.unwrap().unwrap();
        for frame in packet.frames {
            match codec::decode::<GatewayResponse>(&frame).unwrap() {
                GatewayResponse::Push { sessions, entries } => {
                    for session in sessions {
                        self.pushed.entry(session).or_default().extend(entries.iter().map(|entry| entry.seq));
                    }
                }
                GatewayResponse::Unregistered { sessions } => self.unregistered.extend(sessions),
                GatewayResponse::Table(_) => {}
                other => self.heard.push(other),
            }
        }
    }

    /// Hears what comes until `wanted` is among it.
    async fn hear<T>(&mut self, wanted: impl Fn(&GatewayResponse) -> Option<T>) -> T {
        let found = async {
            loop {
                if let Some((at, found)) = self.heard.iter().enumerate().find_map(|(at, it)| Some((at, wanted(it)?))) {
                    self.heard.remove(at);
                    return found;
                }
                self.hear_a_packet().await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap()
    }

    async fn open(&mut self, session: u64, token: String, device: &str) -> Answer {
        self.say(GatewayRequest::Open { session, token, device: DeviceId::new(device).unwrap() }).await;
        self.hear(move |frame| match frame {
            GatewayResponse::Opened { session: of, result } if *of == session => {
                Some(result.as_ref().map(drop).map_err(|refusal| refusal.code))
            }
            _ => None,
        })
        .await
    }

    /// The tail of the inbox.
    async fn register(&mut self, session: u64) -> Result<Seq, CallError> {
        self.last_id += 1;
        let id = self.last_id;
        self.say(GatewayRequest::Register { id, session, position: Seq::FIRST }).await;
        self.hear(move |frame| match frame {
            GatewayResponse::Registered { id: of, result } if *of == id => Some(result.clone()),
            _ => None,
        })
        .await
    }

    async fn status(&mut self, session: u64) -> Answer {
        self.last_id += 1;
        let id = self.last_id;
        self.say(GatewayRequest::Call { id, session, call: Call::Status }).await;
        let result = self.hear(move |frame| match frame {
            GatewayResponse::Reply { id: of, result } if *of == id => Some(result.clone()),
            _ => None,
        });
        match result.await {
            Ok(_) => Ok(()),
            Err(CallError::Refused(refusal)) => Err(refusal.code),
            Err(other) => panic!("{other}"),
        }
    }

    /// Renews these registrations; which of them the node does not serve.
    async fn renew(&mut self, sessions: &[u64]) -> BTreeSet<u64> {
        self.unregistered.clear();
        self.say(GatewayRequest::Renew { positions: sessions.iter().map(|one| (*one, Seq::FIRST)).collect() }).await;
        self.hear(|frame| matches!(frame, GatewayResponse::Lagging { .. }).then_some(())).await;
        // What is not served is said right behind; an answer to something later is behind that.
        self.status(CONTROL).await.unwrap();
        std::mem::take(&mut self.unregistered)
    }

    /// Sends a message to bob; to which sessions it is pushed. The one in control is pushed in the same frame.
    async fn pushed_to(&mut self, alice: &Client) -> BTreeSet<u64> {
        let of_control = |gateway: &Self| gateway.pushed.get(&CONTROL).map_or(0, BTreeSet::len);
        let before = of_control(self);
        let known = self.pushed.clone();
        alice.send(Conversation::peer("bob").unwrap(), "hello").await.unwrap();
        let pushed = async {
            while of_control(self) == before {
                self.hear_a_packet().await;
            }
        };
        tokio::time::timeout(PATIENCE, pushed).await.expect("it is pushed");
        let more = |(session, seqs): (&u64, &BTreeSet<Seq>)| (known.get(session) != Some(seqs)).then_some(*session);
        self.pushed.iter().filter_map(more).collect()
    }

    async fn wait_for_the_end_of(&mut self, session: u64) {
        let gateway = tokio::sync::Mutex::new(self);
        wait_until_async("the token ends", async || {
            gateway.lock().await.status(session).await == Err(ErrorCode::AuthExpired)
        })
        .await;
    }
}

/// Bob's session with a long token, which nothing happens to.
const CONTROL: u64 = 1;

/// A cluster, a gateway with bob's session [`CONTROL`] registered, and somebody who writes to him.
async fn scene(folder: &tempfile::TempDir) -> (Cluster, Gateway, Client) {
    let cluster = Cluster::start_with(folder.path().join("cluster"), &SMALL);
    let alice = cluster.device("alice", "laptop").await;
    alice.send(Conversation::peer("bob").unwrap(), "so that there is an inbox").await.unwrap();
    let mut gateway = Gateway::greet(&cluster).await;
    gateway.open(CONTROL, cluster.token("bob", LONG), "control").await.unwrap();
    let gateway = tokio::sync::Mutex::new(gateway);
    wait_until_async("bob's inbox has a holder and its message", async || {
        gateway.lock().await.register(CONTROL).await.is_ok_and(|tail| tail > Seq::FIRST)
    })
    .await;
    (cluster, gateway.into_inner(), alice)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_ends_with_its_token_and_a_fresh_one_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, mut gateway, alice) = scene(&folder).await;
    let (ends, quiet, renewed) = (2, 3, 4);
    gateway.open(quiet, cluster.token("carol", LONG), "phone").await.unwrap();
    let waiting = tokio::sync::Mutex::new(gateway);
    wait_until_async("carol's inbox has a holder", async || waiting.lock().await.register(quiet).await.is_ok()).await;
    let mut gateway = waiting.into_inner();
    // Nobody writes to carol: that hers has ended is seen when it is renewed.
    for (session, user) in [(ends, "bob"), (quiet, "carol"), (renewed, "bob")] {
        gateway.open(session, cluster.token(user, SHORT), "phone").await.unwrap();
        gateway.register(session).await.unwrap();
    }
    gateway.open(renewed, cluster.token("bob", LONG), "phone").await.unwrap();
    assert_eq!(gateway.renew(&[ends, quiet, renewed]).await, BTreeSet::new());
    assert_eq!(gateway.pushed_to(&alice).await, [CONTROL, ends, renewed].into());

    gateway.wait_for_the_end_of(ends).await;
    gateway.wait_for_the_end_of(quiet).await;
    assert_eq!(gateway.pushed_to(&alice).await, [CONTROL, renewed].into(), "beyond the end of a token");
    assert_eq!(gateway.renew(&[CONTROL, ends, quiet, renewed]).await, [ends, quiet].into());
    assert!(
        matches!(gateway.register(ends).await, Err(CallError::Refused(refusal)) if refusal.code == ErrorCode::AuthExpired)
    );
    assert_eq!(gateway.status(renewed).await, Ok(()));

    // A fresh token comes late, not too late: it registers anew.
    gateway.open(ends, cluster.token("bob", LONG), "phone").await.unwrap();
    assert_eq!(gateway.pushed_to(&alice).await, [CONTROL, renewed].into(), "not registered yet");
    gateway.register(ends).await.unwrap();
    assert_eq!(gateway.pushed_to(&alice).await, [CONTROL, ends, renewed].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_opened_again_stays_the_same_devices_and_has_its_new_scopes() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, mut gateway, alice) = scene(&folder).await;
    let (kept, lessened) = (2, 3);
    for session in [kept, lessened] {
        gateway.open(session, cluster.token("bob", LONG), "phone").await.unwrap();
        gateway.register(session).await.unwrap();
    }
    let others = [
        (cluster.token("carol", LONG), "phone", "another user's"),
        (cluster.token("bob", LONG), "tablet", "another device's"),
        (cluster.token_of(2, "bob"), "phone", "another tenant's"),
        (cluster.token("bob", -60), "phone", "over"),
        ("abc".to_owned(), "phone", "none"),
    ];
    for (token, device, what) in others {
        let code = if what == "over" { ErrorCode::AuthExpired } else { ErrorCode::AuthFailed };
        assert_eq!(gateway.open(kept, token, device).await, Err(code), "{what}");
        // The one before holds.
        assert_eq!(gateway.status(kept).await, Ok(()), "{what}");
        assert_eq!(gateway.renew(&[kept, lessened]).await, BTreeSet::new(), "{what}");
        assert_eq!(gateway.pushed_to(&alice).await, [CONTROL, kept, lessened].into(), "{what}");
    }

    gateway.open(lessened, cluster.token_for(1, "bob", Scopes::SEQUENCE), "phone").await.unwrap();
    assert_eq!(gateway.pushed_to(&alice).await, [CONTROL, kept].into(), "no device's any more");
    assert_eq!(gateway.renew(&[CONTROL, kept, lessened]).await, [lessened].into());
    assert_eq!(gateway.status(lessened).await, Err(ErrorCode::Forbidden));
    assert!(
        matches!(gateway.register(lessened).await, Err(CallError::Refused(refusal)) if refusal.code == ErrorCode::Forbidden)
    );
}
