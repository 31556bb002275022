//! Streams of calls of the sequence service, on a real cluster: what they answer, what ends them, and what they hold.

use std::collections::BTreeMap;
use std::time::Instant;

use prometheus_client::registry::Registry;
use seriatim_logic::LogicServer;
use seriatim_proto::grpc::sequence::{Answer, Call, CallsRequest, CallsResponse, NextResponse};
use seriatim_proto::limits;
use seriatim_proto::playground::PlaygroundRole;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use crate::common::{Cluster, metric, wait_until, wait_until_async};
use crate::sequence::{Door, Record, said, with_quota};

/// Calls of one message, and calls of one stream without an answer.
const CALLS_MAX: usize = 4_096;

/// A stream of calls at one logic node.
pub(crate) struct Calls {
    requests: tokio::sync::mpsc::Sender<CallsRequest>,
    pub(crate) answers: Streaming<CallsResponse>,
}

impl Calls {
    pub(crate) async fn open(door: &Door) -> Result<Self, Status> {
        let (requests, stream) = tokio::sync::mpsc::channel(16);
        let answers = door.client.clone().calls(door.request(ReceiverStream::new(stream))).await?.into_inner();
        Ok(Self { requests, answers })
    }

    /// Asks all at once, each under its place.
    pub(crate) async fn send(&self, calls: &[(&str, u32)]) {
        let call =
            |(id, (counter, count)): (u64, &(&str, u32))| Call { id, counter: (*counter).to_owned(), count: *count };
        // A stream that is over says why when it is read.
        self.requests.send(CallsRequest { calls: (0..).zip(calls).map(call).collect() }).await.ok();
    }

    /// The answers to all of these, by their places.
    async fn ask(&mut self, calls: &[(&str, u32)]) -> Result<BTreeMap<u64, Answer>, Status> {
        self.send(calls).await;
        let mut answers = BTreeMap::new();
        while answers.len() < calls.len() {
            let message = self.answers.message().await?.ok_or_else(|| Status::aborted("the stream ended"))?;
            for answer in message.answers {
                let before = answers.insert(answer.id, answer);
                assert_eq!(before, None, "answered once");
            }
        }
        Ok(answers)
    }

    /// How it ends, if nothing more is asked.
    async fn end(mut self) -> Result<(), Status> {
        while self.answers.message().await?.is_some() {}
        Ok(())
    }
}

fn codes(answers: &BTreeMap<u64, Answer>) -> Vec<&str> {
    answers.values().map(|answer| answer.code.as_str()).collect()
}

fn refused(code: Code, name: &str) -> (Code, String) {
    (code, name.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_answered_by_any_node_each_call_under_its_id() {
    let cluster = Cluster::start_plaintext();
    let token = cluster.sequence_token(1);
    let logic: Vec<_> = cluster.about.nodes.iter().filter(|node| node.role == PlaygroundRole::Logic).collect();
    let record = Record::default();
    let names: Vec<_> = (0..20).map(|place| format!("counter-{place}")).collect();
    for node in &logic {
        let mut calls = Calls::open(&Door::new(&node.address, token.clone())).await.unwrap();
        assert_eq!(metric(&node.metrics, "seriatim_logic_sequence_streams"), Some(1.0));
        for round in 1..4 {
            // Many of each counter in one message, with a look at where it stands between them.
            let asked: Vec<(&str, u32)> = (0..2_000)
                .map(|place| (names[place % names.len()].as_str(), if place % 7 == 0 { 0 } else { round }))
                .collect();
            let at = Instant::now();
            let answers = calls.ask(&asked).await.unwrap();
            for ((name, count), answer) in asked.iter().zip(answers.values()) {
                assert_eq!(answer.code, "", "{answer:?}");
                record.note(name, at, answer.first, answer.first + u64::from(*count));
            }
        }
        // What is wrong is refused by itself; the others of the message are answered.
        let wrong =
            [("orders", limits::NEXT_NUMBERS_MAX + 1), ("", 1), ("orders", limits::NEXT_NUMBERS_MAX), ("a\nb", 0)];
        let answers = calls.ask(&wrong).await.unwrap();
        assert_eq!(codes(&answers), ["COUNT_TOO_LARGE", "MALFORMED", "", "MALFORMED"], "{answers:?}");
        assert!(answers[&2].first > 0 && answers[&0].first == 0 && !answers[&0].message.is_empty(), "{answers:?}");
        // As many numbers as one request may have, several times in one message: none comes twice.
        let at = Instant::now();
        let large = [("large", limits::NEXT_NUMBERS_MAX); 40];
        for answer in calls.ask(&large).await.unwrap().values() {
            assert_eq!(answer.code, "", "{answer:?}");
            record.note("large", at, answer.first, answer.first + u64::from(limits::NEXT_NUMBERS_MAX));
        }
        // Two calls under one id are two calls.
        let call = || Call { id: 7, counter: "twins".to_owned(), count: 1 };
        calls.requests.send(CallsRequest { calls: vec![call(), call()] }).await.unwrap();
        let mut twins = Vec::new();
        while twins.len() < 2 {
            twins.extend(calls.answers.message().await.unwrap().unwrap().answers);
        }
        assert!(twins[0].id == 7 && twins[1].id == 7 && twins[0].first != twins[1].first, "{twins:?}");
        // Nothing asked is nothing answered, and nothing wrong.
        calls.requests.send(CallsRequest { calls: Vec::new() }).await.unwrap();
        // Whoever has said everything gets all answers, and then the end.
        let last = (0..100).map(|id| Call { id, counter: "last".to_owned(), count: 1 }).collect();
        calls.requests.send(CallsRequest { calls: last }).await.unwrap();
        let Calls { requests, mut answers } = calls;
        drop(requests);
        let mut count = 0;
        while let Some(message) = answers.message().await.unwrap() {
            count += message.answers.len();
        }
        assert_eq!(count, 100);
        wait_until("the stream is given back", || {
            metric(&node.metrics, "seriatim_logic_sequence_streams") == Some(0.0)
        });
    }
    record.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_ends_says_why() {
    let cluster = Cluster::start_plaintext();
    let node = cluster.about.nodes.iter().find(|node| node.role == PlaygroundRole::Logic).unwrap();
    let door = |token: String| Door::new(&node.address, token);
    let good = door(cluster.sequence_token(1));
    let malformed = refused(Code::InvalidArgument, "MALFORMED");
    let mut calls = Calls::open(&good).await.unwrap();
    let status = calls.ask(&vec![("orders", 1); CALLS_MAX + 1]).await.unwrap_err();
    assert_eq!(said(&status), malformed);
    let mut calls = Calls::open(&good).await.unwrap();
    let status = calls.ask(&[(&"x".repeat(600 << 10), 1)]).await.unwrap_err();
    assert_eq!(said(&status), malformed);
    // Bytes of another message.
    let channel = Endpoint::from_shared(format!("http://{}", node.address)).unwrap().connect().await.unwrap();
    let mut raw = tonic::client::Grpc::new(channel);
    raw.ready().await.unwrap();
    let request = good.request(tokio_stream::once(NextResponse { first: 7, count: 1 }));
    let path = PathAndQuery::from_static("/seriatim.sequence.v1.SequenceService/Calls");
    let codec = tonic_prost::ProstCodec::<NextResponse, CallsResponse>::default();
    let mut answers = raw.streaming(request, path, codec).await.unwrap().into_inner();
    assert_eq!(said(&answers.message().await.unwrap_err()), malformed);

    for (token, expected) in [
        (cluster.token("alice", 3_600), refused(Code::PermissionDenied, "FORBIDDEN")),
        (cluster.token("alice", -60), refused(Code::Unauthenticated, "AUTH_EXPIRED")),
        ("nonsense".to_owned(), refused(Code::Unauthenticated, "AUTH_FAILED")),
    ] {
        assert_eq!(said(&Calls::open(&door(token)).await.err().unwrap()), expected);
    }
    // With the token, whether its holder asks or not. A machine that is slow takes longer to open a stream than a short
    // token lasts.
    let asks = [false, true].map(async |asks| {
        for seconds in [2, 4, 8, 16] {
            let Ok(mut calls) = Calls::open(&door(cluster.sequence_token_for(1, seconds))).await else { continue };
            let status = loop {
                if !asks {
                    break calls.end().await.unwrap_err();
                }
                if let Err(status) = calls.ask(&[("orders", 1)]).await {
                    break status;
                }
            };
            assert_eq!(said(&status), refused(Code::Unauthenticated, "AUTH_EXPIRED"));
            return;
        }
        panic!("no stream could be opened");
    });
    futures_util::future::join_all(asks).await;
    wait_until("all are given back", || metric(&node.metrics, "seriatim_logic_sequence_streams") == Some(0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_does_not_read_holds_up_himself_and_is_let_go() {
    let cluster = Cluster::start_plaintext();
    let logic: Vec<_> = cluster.about.nodes.iter().filter(|node| node.role == PlaygroundRole::Logic).collect();
    let node = logic[0];
    let taken = || metric(&node.metrics, "seriatim_logic_sequence_calls_total").unwrap();
    // What it has room for is answered, however little it reads.
    let endpoint = Endpoint::from_shared(format!("http://{}", node.address)).unwrap();
    let endpoint = endpoint.initial_stream_window_size(64 << 10).initial_connection_window_size(64 << 10);
    let mut idle = Calls::open(&Door::of(endpoint, cluster.sequence_token(1))).await.unwrap();
    const MESSAGES: usize = 24;
    let (requests, answers) = (idle.requests.clone(), &mut idle.answers);
    let asking = tokio::spawn(async move {
        for message in 0..MESSAGES {
            let call = |id| Call { id: (message * CALLS_MAX + id) as u64, counter: format!("c{}", id % 50), count: 1 };
            if requests.send(CallsRequest { calls: (0..CALLS_MAX).map(call).collect() }).await.is_err() {
                break;
            }
        }
    });
    // Another one's calls are answered meanwhile.
    let mut other = Calls::open(&Door::new(&node.address, cluster.sequence_token(2))).await.unwrap();
    let ended = || metric(&node.metrics, "seriatim_logic_refusals_total{code=\"TIMEOUT\"}").unwrap_or(0.0) > 0.0;
    wait_until_async("the stream is let go", async || {
        assert_eq!(codes(&other.ask(&[("orders", 1)]).await.unwrap()), [""]);
        ended()
    })
    .await;
    let read = taken() as usize;
    assert!(read < MESSAGES * CALLS_MAX, "all {read} calls were read from one that does not");
    // What was answered is there, and then the reason.
    let mut count = 0;
    let status = loop {
        match answers.message().await {
            Ok(message) => count += message.expect("the stream does not end well").answers.len(),
            Err(status) => break status,
        }
    };
    assert_eq!(said(&status), refused(Code::DeadlineExceeded, "TIMEOUT"));
    assert!(count > 0 && count <= read, "{count} answers to {read} calls");
    asking.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_has_so_many_streams_and_gets_them_back() {
    const STREAMS_MAX: usize = 128;
    let cluster = Cluster::start_plaintext();
    let node = cluster.about.nodes.iter().find(|node| node.role == PlaygroundRole::Logic).unwrap();
    let streams = || metric(&node.metrics, "seriatim_logic_sequence_streams").unwrap();
    let mut open = Vec::new();
    let busy = loop {
        // A connection has 200 at most.
        let door = Door::new(&node.address, cluster.sequence_token(1));
        let mut busy = None;
        for _ in 0..100 {
            match Calls::open(&door).await {
                Ok(calls) => open.push(calls),
                Err(status) => busy = Some(status),
            }
        }
        if let Some(busy) = busy {
            break busy;
        }
        assert!(open.len() <= STREAMS_MAX, "{} streams", open.len());
    };
    assert_eq!(said(&busy), refused(Code::ResourceExhausted, "BUSY"));
    assert_eq!((open.len(), streams()), (STREAMS_MAX, STREAMS_MAX as f64));
    let mut other = Calls::open(&Door::new(&node.address, cluster.sequence_token(2))).await.unwrap();
    assert_eq!(codes(&other.ask(&[("orders", 1)]).await.unwrap()), [""]);
    // Whoever goes without a word gives his back.
    drop(open);
    wait_until("they are given back", || streams() == 1.0);
    let mut again = Calls::open(&Door::new(&node.address, cluster.sequence_token(1))).await.unwrap();
    assert_eq!(codes(&again.ask(&[("orders", 1)]).await.unwrap()), [""]);
}

/// Of a message that asks for more than the tenant may, as many calls are answered as it may; a node that stops says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_beyond_the_quota_is_slowed_down_and_ends_with_its_node() {
    let cluster = Cluster::start_plaintext();
    let small = LogicServer::start(with_quota(&cluster, 20), &mut Registry::default()).await.unwrap();
    let of = |tenant| Door::new(&small.address().to_string(), cluster.sequence_token(tenant));
    // The other tenant looks whether it is open, so that nothing of this one's is used up.
    let (door, other) = (of(1), of(2));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(small.run(async move { drop(stopped.await) }));
    wait_until_async("the node is open", async || Calls::open(&other).await.is_ok()).await;
    let mut calls = Calls::open(&door).await.unwrap();
    let asked = [("orders", 1); 50];
    let answers = calls.ask(&asked).await.unwrap();
    let over: Vec<_> = answers.values().filter(|answer| answer.code == "QUOTA_EXCEEDED").collect();
    // Opening it took of the second's worth too, and a slow machine gives some back.
    assert!((1..50).contains(&over.len()), "{answers:?}");
    assert!(answers.values().all(|answer| answer.code == "QUOTA_EXCEEDED" || answer.first > 0), "{answers:?}");
    assert!(over.iter().all(|answer| (1..=50).contains(&answer.retry_after_ms)), "{over:?}");
    // Behind a refusal it reads nothing until there is room again: asked as fast as it answers, it refuses no more
    // messages than it answers.
    let (mut answered, mut rounds) = (0, 0);
    while answered < 20 {
        let answers = calls.ask(&[("orders", 1); 3]).await.unwrap();
        answered += codes(&answers).iter().filter(|code| code.is_empty()).count();
        rounds += 1;
    }
    assert!(rounds <= answered + 5, "{rounds} rounds for {answered} calls: nothing slowed them down");

    stop.send(()).unwrap();
    assert_eq!(said(&calls.end().await.unwrap_err()), refused(Code::Unavailable, "UNAVAILABLE"));
    running.await.unwrap().unwrap();
}
