//! The sequence service of a real cluster: over QUIC and over gRPC, under kills and pauses, and what it refuses.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::Cluster;
use crate::sequence_calls::Calls;
use prometheus_client::registry::Registry;
use rustix::process::Signal;
use seriatim_client::{Client, RequestError};
use seriatim_logic::{LogicConfig, LogicServer};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::grpc::sequence::sequence_service_client::SequenceServiceClient;
use seriatim_proto::grpc::sequence::{CurrentRequest, NextRequest};
use seriatim_proto::ids::CounterName;
use seriatim_proto::limits;
use seriatim_proto::meta::Limit;
use seriatim_proto::playground::PlaygroundRole;
use seriatim_proto::token::Verifier;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

fn counter(name: &str) -> CounterName {
    CounterName::new(name).unwrap()
}

async fn counting(cluster: &Cluster, tenant: u32) -> Client {
    cluster.builder("counter").token(cluster.sequence_token(tenant)).connect().await.unwrap()
}

/// gRPC at one logic node.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) client: SequenceServiceClient<Channel>,
    token: String,
}

impl Door {
    pub(crate) fn new(address: &str, token: String) -> Self {
        Self::of(Endpoint::from_shared(format!("http://{address}")).unwrap(), token)
    }

    pub(crate) fn of(endpoint: Endpoint, token: String) -> Self {
        Self { client: SequenceServiceClient::new(endpoint.connect_lazy()), token }
    }

    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        request
    }
    pub(crate) async fn next(&mut self, counter: &str, count: u32) -> Result<(u64, u64), Status> {
        let request = self.request(NextRequest { counter: counter.to_owned(), count });
        let answer = self.client.next(request).await?.into_inner();
        Ok((answer.first, answer.first + u64::from(answer.count)))
    }
    pub(crate) async fn current(&mut self, counter: &str) -> Result<u64, Status> {
        let request = self.request(CurrentRequest { counter: counter.to_owned() });
        Ok(self.client.current(request).await?.into_inner().number)
    }
}

pub(crate) fn said(status: &Status) -> (Code, String) {
    let code = status.metadata().get("seriatim-code").unwrap().to_str().unwrap().to_owned();
    (status.code(), code)
}

/// What was answered, and when it had been asked for.
#[derive(Clone, Copy, Debug)]
struct Answer {
    asked: Instant,
    answered: Instant,
    /// numbers `[lo, hi)`; equal for `Current`
    lo: u64,
    hi: u64,
}

#[derive(Clone, Default)]
pub(crate) struct Record(Arc<Mutex<BTreeMap<String, Vec<Answer>>>>);

impl Record {
    pub(crate) fn note(&self, counter: &str, asked: Instant, lo: u64, hi: u64) {
        let answer = Answer { asked, answered: Instant::now(), lo, hi };
        self.0.lock().unwrap().entry(counter.to_owned()).or_default().push(answer);
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().values().map(Vec::len).sum()
    }

    /// I1: no number twice. I2: what was answered before another was asked for lies below it.
    pub(crate) fn check(&self) {
        for (counter, answers) in &*self.0.lock().unwrap() {
            let mut taken: Vec<_> = answers.iter().filter(|answer| answer.lo < answer.hi).collect();
            taken.sort_unstable_by_key(|answer| answer.lo);
            for pair in taken.windows(2) {
                assert!(pair[0].hi <= pair[1].lo, "I1 of {counter}: {:?} and {:?}", pair[0], pair[1]);
            }
            let mut by_answer: Vec<_> = answers.iter().collect();
            by_answer.sort_unstable_by_key(|answer| answer.answered);
            let mut by_asking = by_answer.clone();
            by_asking.sort_unstable_by_key(|answer| answer.asked);
            let mut before = by_answer.into_iter().peekable();
            let mut highest: Option<&Answer> = None;
            for answer in by_asking {
                while let Some(earlier) = before.next_if(|earlier| earlier.answered < answer.asked) {
                    if highest.is_none_or(|highest| highest.hi < earlier.hi) {
                        highest = Some(earlier);
                    }
                }
                if let Some(highest) = highest {
                    assert!(highest.hi <= answer.lo, "I2 of {counter}: {highest:?} came before {answer:?}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_come_over_quic_and_over_grpc_from_any_node() {
    let cluster = Cluster::start_plaintext();
    let client = counting(&cluster, 1).await;
    let token = cluster.sequence_token(1);
    let mut doors: Vec<_> =
        cluster.nodes(PlaygroundRole::Logic).iter().map(|address| Door::new(address, token.clone())).collect();
    let record = Record::default();
    // Enough counters that each node holds some: each door is asked for its own and for the other's.
    for name in (0..20).map(|place| format!("counter-{place}")) {
        let asked = Instant::now();
        record.note(&name, asked, 1, 1);
        assert_eq!(client.current_number(&counter(&name)).await.unwrap().get(), 1, "nobody counted yet");
        for round in 1..4 {
            for door in &mut doors {
                let asked = Instant::now();
                let (lo, hi) = door.next(&name, round).await.unwrap();
                assert_eq!(hi - lo, u64::from(round));
                record.note(&name, asked, lo, hi);
                let asked = Instant::now();
                let current = door.current(&name).await.unwrap();
                record.note(&name, asked, current, current);
            }
            let asked = Instant::now();
            let numbers = client.next_numbers(&counter(&name), 2).await.unwrap();
            record.note(&name, asked, numbers.first.get(), numbers.end().get());
        }
    }
    record.check();
    // Another tenant's counter of the same name is another counter.
    let other = counting(&cluster, 2).await;
    assert_eq!(other.next_numbers(&counter("counter-0"), 1).await.unwrap().first.get(), 1);
    // A run as long as allowed, in one piece.
    let long = client.next_numbers(&counter("long"), limits::NEXT_NUMBERS_MAX).await.unwrap();
    assert_eq!(long.count, limits::NEXT_NUMBERS_MAX);
    // The operator's way.
    let raftctl = |verb: &[&str]| {
        let mut arguments = vec!["--playground", cluster.data().to_str().unwrap(), "-o", "json", "seq"];
        arguments.extend(verb);
        crate::common::run(&crate::common::sibling("raftctl"), &arguments)
    };
    let (exit, _, error) = raftctl(&["show", "shell"]);
    assert_eq!((exit, error.contains("nobody ever counted on shell")), (Some(3), true), "{error}");
    let (exit, out, _) = raftctl(&["next", "shell", "-n", "3"]);
    assert!(exit == Some(0) && out.contains(r#""first":"1","last":"3""#), "{exit:?} {out}");
    let (exit, out, _) = raftctl(&["current", "shell"]);
    assert!(exit == Some(0) && out.contains(r#""number":"4""#), "{exit:?} {out}");
    let (exit, out, _) = raftctl(&["show", "shell"]);
    assert!(exit == Some(0) && out.contains(r#""ceiling":""#), "{exit:?} {out}");
    let (exit, _, error) = raftctl(&["next", "shell", "-n", "70000"]);
    assert!(exit == Some(2) && error.contains("COUNT_TOO_LARGE"), "{exit:?} {error}");
    // All start again with what they had.
    let mut cluster = cluster;
    cluster.restart();
    let client = counting(&cluster, 1).await;
    for name in (0..20).map(|place| format!("counter-{place}")) {
        let asked = Instant::now();
        let numbers = client.next_numbers(&counter(&name), 1).await.unwrap();
        record.note(&name, asked, numbers.first.get(), numbers.end().get());
    }
    record.check();
}

/// Clients of all doors count while a holder is paused beyond its lease and wakes up, a holder is killed, and a leader
/// is killed. The doors of the paused node are asked too: it must not answer from its old memory when it wakes up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_number_is_given_twice_or_late_whoever_is_paused_or_killed() {
    const COUNTERS: usize = 12;
    let cluster = Cluster::start_plaintext();
    let record = Record::default();
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    let token = cluster.sequence_token(1);
    for place in 0..8 {
        let client = counting(&cluster, 1).await;
        let (record, stop) = (record.clone(), stop.clone());
        tasks.push(tokio::spawn(async move {
            for turn in place.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let (name, asked) = (format!("counter-{}", turn % COUNTERS), Instant::now());
                if turn % 5 == 0 {
                    if let Ok(current) = client.current_number(&counter(&name)).await {
                        record.note(&name, asked, current.get(), current.get());
                    }
                } else if let Ok(numbers) = client.next_numbers(&counter(&name), 1 + turn as u32 % 7).await {
                    record.note(&name, asked, numbers.first.get(), numbers.end().get());
                }
            }
        }));
    }
    for address in cluster.nodes(PlaygroundRole::Logic) {
        for place in 0..4 {
            let (mut door, record, stop) = (Door::new(&address, token.clone()), record.clone(), stop.clone());
            tasks.push(tokio::spawn(async move {
                for turn in place.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let (name, asked) = (format!("counter-{}", turn % COUNTERS), Instant::now());
                    let answered = match turn % 5 {
                        0 => door.current(&name).await.map(|current| (current, current)),
                        _ => door.next(&name, 1 + turn as u32 % 7).await,
                    };
                    match answered {
                        Ok((lo, hi)) => record.note(&name, asked, lo, hi),
                        // A node that is down is asked again, not as fast as the machine can.
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            }));
        }
    }
    // Streams of calls too, opened again whenever they end.
    let from_streams = Arc::new(AtomicUsize::new(0));
    for address in cluster.nodes(PlaygroundRole::Logic) {
        let (door, record, stop) = (Door::new(&address, token.clone()), record.clone(), stop.clone());
        let from_streams = from_streams.clone();
        tasks.push(tokio::spawn(async move {
            let names: Vec<_> = (0..COUNTERS).map(|place| format!("counter-{place}")).collect();
            let mut open: Option<Calls> = None;
            for turn in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let Some(calls) = open.as_mut() else {
                    open = Calls::open(&door).await.ok();
                    if open.is_none() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    continue;
                };
                let asked: Vec<(&str, u32)> =
                    (0..16).map(|place| (names[(turn + place) % COUNTERS].as_str(), (place % 4) as u32)).collect();
                let at = Instant::now();
                calls.send(&asked).await;
                let mut owed = asked.len();
                while owed > 0 {
                    // Noted as they come: those of a stream that ends before the others count too.
                    let Ok(Some(message)) = calls.answers.message().await else {
                        open = None;
                        break;
                    };
                    owed -= message.answers.len();
                    for answer in message.answers.iter().filter(|answer| answer.code.is_empty()) {
                        let (name, count) = asked[answer.id as usize];
                        record.note(name, at, answer.first, answer.first + u64::from(count));
                        from_streams.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }));
    }
    let more = async |count: usize| {
        let (before, before_streams) = (record.count(), from_streams.load(Ordering::Relaxed));
        crate::common::wait_until_async("counting goes on", async || record.count() >= before + count).await;
        let go_on = async || from_streams.load(Ordering::Relaxed) > before_streams;
        crate::common::wait_until_async("streams go on", go_on).await;
    };
    more(500).await;
    for round in 0..2 {
        let nodes = cluster.status();
        let logic: Vec<_> = nodes.iter().filter(|node| node.role == PlaygroundRole::Logic).collect();
        let place = round % logic.len();
        let paused = logic[place].pid.unwrap();
        let door = Door::new(&cluster.nodes(PlaygroundRole::Logic)[place], token.clone());
        door.clone().current("counter-0").await.ok();
        crate::common::signal(paused, Signal::STOP);
        // Its slots are counted on by the other one: its lease is over.
        let began = Instant::now();
        more(300).await;
        let over = Duration::from_millis(limits::LEASE_GRANT_MS + 500);
        crate::common::wait_until_async("its lease is over", async || began.elapsed() > over).await;
        more(300).await;
        // Asked of it while it sleeps, after others have answered: this is the first that it reads.
        let asked = Instant::now();
        let late: Vec<_> = (0..COUNTERS)
            .map(|turn| {
                let (mut door, record) = (door.clone(), record.clone());
                tokio::spawn(async move {
                    let name = format!("counter-{turn}");
                    let answered = door.next(&name, 1).await;
                    answered.map(|(lo, hi)| record.note(&name, asked, lo, hi)).is_ok()
                })
            })
            .collect();
        more(300).await;
        crate::common::signal(paused, Signal::CONT);
        let mut answered = 0;
        for late in late {
            answered += usize::from(tokio::time::timeout(crate::common::PATIENCE, late).await.unwrap().unwrap());
        }
        assert!(answered > 0, "nobody was answered by the one that woke up: nothing was tried");
        more(500).await;
    }
    cluster.kill("logic-2");
    more(500).await;
    cluster.start_node("logic-2");
    more(500).await;
    let leads = cluster.status().into_iter().max_by_key(|node| node.leads.as_ref().map_or(0, Vec::len)).unwrap();
    cluster.kill(&leads.name);
    more(500).await;
    cluster.start_node(&leads.name);
    more(500).await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        tokio::time::timeout(crate::common::PATIENCE, task).await.unwrap().unwrap();
    }
    record.check();
}

/// Another logic node of a cluster, whose tenants may ask for numbers so many times a second.
pub(crate) fn with_quota(cluster: &Cluster, requests: u32) -> LogicConfig {
    LogicConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: None,
        stores: cluster.nodes(PlaygroundRole::Store),
        verifier: Verifier::from_public_pem(&std::fs::read(&cluster.about.token_public_key).unwrap()).unwrap(),
        limits: [(Limit::SequenceRequests, requests)].into(),
        client_ca: None,
        insecure_plaintext: true,
        mtls: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_asked_is_refused_with_its_code() {
    let cluster = Cluster::start_plaintext();
    let rejected = |error: RequestError| match error {
        RequestError::Rejected(refusal) => refusal.code,
        other => panic!("{other}"),
    };
    let (client, device) = (counting(&cluster, 1).await, cluster.device("alice", "phone").await);
    let orders = counter("orders");
    let code = rejected(client.next_numbers(&orders, limits::NEXT_NUMBERS_MAX + 1).await.unwrap_err());
    assert_eq!(code, ErrorCode::CountTooLarge);
    assert_eq!(rejected(device.next_numbers(&orders, 1).await.unwrap_err()), ErrorCode::Forbidden);
    assert_eq!(rejected(device.current_number(&orders).await.unwrap_err()), ErrorCode::Forbidden);
    // A token for counting is no device.
    let peer = seriatim_client::Conversation::peer("bob").unwrap();
    assert_eq!(rejected(client.send(peer, "hello").await.unwrap_err()), ErrorCode::Forbidden);
    assert_eq!(rejected(client.sync(None, 1).await.unwrap_err()), ErrorCode::Forbidden);

    let address = cluster.nodes(PlaygroundRole::Logic)[0].clone();
    let door = |token: String| Door::new(&address, token);
    let mut good = door(cluster.sequence_token(1));
    let refused = |status: Status| said(&status);
    let too_many = refused(good.next("orders", limits::NEXT_NUMBERS_MAX + 1).await.unwrap_err());
    assert_eq!(too_many, (Code::InvalidArgument, "COUNT_TOO_LARGE".to_owned()));
    for name in ["", "a\nb", &"x".repeat(65)] {
        let code = refused(good.next(name, 1).await.unwrap_err());
        assert_eq!(code, (Code::InvalidArgument, "MALFORMED".to_owned()), "{name:?}");
    }
    let code = refused(door(cluster.token("alice", 3600)).next("orders", 1).await.unwrap_err());
    assert_eq!(code, (Code::PermissionDenied, "FORBIDDEN".to_owned()));
    for (token, text) in [(cluster.token("alice", -60), "AUTH_EXPIRED"), ("nonsense".to_owned(), "AUTH_FAILED")] {
        let code = refused(door(token).current("orders").await.unwrap_err());
        assert_eq!(code, (Code::Unauthenticated, text.to_owned()));
    }
    let request = Request::new(CurrentRequest { counter: "orders".to_owned() });
    assert_eq!(refused(good.client.current(request).await.unwrap_err()).0, Code::Unauthenticated);
    // Nothing of it took a number.
    assert_eq!(good.current("orders").await.unwrap(), 1);

    // A node with a small quota says when to come again, and the other tenant is not held up.
    let small = LogicServer::start(with_quota(&cluster, 3), &mut Registry::default()).await.unwrap();
    let address = small.address().to_string();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(small.run(async move { drop(stopped.await) }));
    let (mut one, mut two) =
        (Door::new(&address, cluster.sequence_token(1)), Door::new(&address, cluster.sequence_token(2)));
    crate::common::wait_until_async("the node is open", async || two.clone().current("orders").await.is_ok()).await;
    let mut over = None;
    crate::common::wait_until_async("the quota is used up", async || {
        over = one.current("orders").await.err();
        over.is_some()
    })
    .await;
    let over = over.unwrap();
    assert_eq!(said(&over), (Code::ResourceExhausted, "QUOTA_EXCEEDED".to_owned()));
    let retry_ms: u32 = over.metadata().get("seriatim-retry-after-ms").unwrap().to_str().unwrap().parse().unwrap();
    assert!((1..=334).contains(&retry_ms), "{retry_ms}");
    crate::common::wait_until_async("another tenant goes on", async || two.current("orders").await.is_ok()).await;
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}
