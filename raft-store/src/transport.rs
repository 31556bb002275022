//! Transport: Raft traffic between stores: per peer and class one gRPC stream, shared by all groups.
//!
//! ```text
//!  session ──┐                                   ┌── session of the peer's replica
//!  session ──┼── queue ── packets ═══ stream ═══ ┼── (incoming.rs)
//!  session ──┘                                   └── …
//! ```
//! A session is one conversation of one replica with another: a pipelined append stream, one vote, one snapshot.
//! Requests name their session; answers come back in the order of the session's requests. Whatever waits in the
//! queue goes into one packet: no timers.
//!
//! # Invariants
//! I15: every request names cluster, group and both replicas; the receiver refuses what is not for it.
//!
//! # Failure
//! When a stream ends, all its sessions end, and nothing is sent again by this module. The link is made again in
//! the background, with pauses; until then no session opens.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use seriatim_mtls::Mtls;
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::raft_client::RaftClient;
use seriatim_proto::ids::{ClusterId, GroupId, ReplicaId};
use seriatim_proto::{codec, limits};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio_stream::StreamExt;

use crate::log_record::Record;
use crate::raft::codec::{LogIdRow, SnapshotMetaRow};
use crate::watermark::MarkVote;

/// Requests of one session that may be unanswered.
pub(crate) const SESSION_REQUESTS_MAX: usize = 64;
/// Frames that wait for a stream.
const QUEUE_FRAMES: usize = 256;
/// Bytes at which a packet is full; it overshoots by at most one frame.
const PACKET_BYTES: usize = 1 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// First and longest pause between two attempts to reach a peer.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// A peer that is silent for this long, and does not answer to a ping for as long again, is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// What a stream is for. Each class has its own, so that bulk does not hold up heartbeats.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Class {
    /// log entries
    Log,
    /// heartbeats, votes and leader transfers
    Control,
    /// snapshots
    Snapshot,
}

/// One request on its way.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(crate) struct Envelope {
    /// whose cluster
    pub(crate) cluster: ClusterId,
    /// which group
    pub(crate) group: GroupId,
    /// the replica that asks
    pub(crate) from: ReplicaId,
    /// the replica that is asked
    pub(crate) to: ReplicaId,
    /// chosen by the asking store, new for every session
    pub(crate) session: u64,
    /// what is asked
    pub(crate) body: Request,
}

/// What a replica asks another one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(crate) enum Request {
    /// The next request of a pipelined session.
    Append {
        /// the session begins
        first: bool,
        /// what to append
        append: Append,
    },
    /// An append without entries, alone in its session.
    Heartbeat(Append),
    /// A candidate's request, alone in its session.
    Vote(Ballot),
    /// Asks whether a candidate would be voted for, alone in its session.
    PreVote(Ballot),
    /// Hands leadership over, alone in its session.
    Transfer {
        /// the leader that hands over
        from: MarkVote,
        /// the replica that shall lead
        to: ReplicaId,
        /// its log must reach this
        last: Option<LogIdRow>,
    },
    /// A snapshot begins.
    SnapshotBegin {
        /// the leader that sends it
        vote: MarkVote,
        /// what is in it
        meta: SnapshotMetaRow,
    },
    /// The next block of the snapshot; checked by what is inside.
    SnapshotBlock(Bytes),
    /// The snapshot is complete.
    SnapshotEnd,
    /// The session is over; nothing is answered.
    End,
}

/// An `AppendEntries`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(crate) struct Append {
    /// the leader
    pub(crate) vote: MarkVote,
    /// the entry before the first
    pub(crate) previous: Option<LogIdRow>,
    /// the leader's commit
    pub(crate) commit: Option<LogIdRow>,
    /// entries, each with its checksum
    pub(crate) records: Vec<(u32, Record)>,
}

/// A candidate's request.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(crate) struct Ballot {
    /// who stands
    pub(crate) vote: MarkVote,
    /// the candidate's last entry
    pub(crate) last: Option<LogIdRow>,
    /// the leader asked it to stand
    pub(crate) transfer: bool,
}

/// One answer on its way.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(crate) struct Answer {
    /// of the request
    pub(crate) session: u64,
    /// what is answered
    pub(crate) body: Response,
}

/// What a replica answers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(crate) enum Response {
    /// On disk up to here.
    Appended(Option<LogIdRow>),
    /// This entry is not there: the session is over.
    Conflict(LogIdRow),
    /// Another leader is known: the session is over.
    HigherVote(MarkVote),
    /// To a ballot.
    Voted {
        /// the vote that the voter has now
        vote: MarkVote,
        /// yes
        granted: bool,
        /// the voter's last entry
        last: Option<LogIdRow>,
    },
    /// Taken over.
    Transferred,
    /// The voter has another vote.
    TransferVoteChanged {
        /// which
        actual: MarkVote,
    },
    /// The replica's log does not reach far enough.
    TransferBehind {
        /// where it ends
        actual: Option<LogIdRow>,
    },
    /// The block is written.
    BlockTaken,
    /// The snapshot is installed, or is older than what is there.
    SnapshotInstalled {
        /// the vote that the receiver has now
        vote: MarkVote,
    },
    /// The session is over; the reason is for people.
    Refused(String),
}

/// All links of a store to its peers.
pub(crate) struct Links {
    /// runs the links
    runtime: Handle,
    mtls: Mtls,
    links: Mutex<HashMap<(String, Class), Arc<Link>>>,
}

impl Links {
    /// No links yet. `runtime` serves sockets.
    pub(crate) fn new(runtime: Handle, mtls: Mtls) -> Arc<Self> {
        Arc::new(Self { runtime, mtls, links: Mutex::default() })
    }

    /// The link to a store; made and kept up from now on.
    pub(crate) fn link(&self, address: &str, class: Class) -> Arc<Link> {
        let mut links = self.links.lock();
        let link = links.entry((address.to_owned(), class)).or_insert_with(|| {
            let link = Arc::new(Link {
                address: address.to_owned(),
                class,
                mtls: self.mtls.clone(),
                sessions: AtomicU64::new(1),
                attempts: AtomicU64::new(0),
                state: Mutex::default(),
                came_up: Notify::new(),
            });
            self.runtime.spawn(keep_up(Arc::downgrade(&link)));
            link
        });
        Arc::clone(link)
    }

    /// How often connections were tried, and sessions to peers that could not be reached.
    #[cfg(test)]
    pub(crate) fn attempts(&self) -> u64 {
        self.links.lock().values().map(|link| link.attempts.load(Ordering::Relaxed)).sum()
    }

    /// Streams for the log and for votes that are up.
    #[cfg(test)]
    pub(crate) fn up_count(&self) -> usize {
        let links = self.links.lock();
        links.values().filter(|link| link.class != Class::Snapshot && link.state.lock().queue.is_some()).count()
    }

    /// Ends all links.
    pub(crate) fn close(&self) {
        for (_, link) in self.links.lock().drain() {
            link.state.lock().closed = true;
            link.down();
        }
    }
}

/// One stream to one peer, made again whenever it ends.
pub(crate) struct Link {
    address: String,
    class: Class,
    mtls: Mtls,
    sessions: AtomicU64,
    /// connections tried, and sessions refused while there was none
    attempts: AtomicU64,
    state: Mutex<LinkState>,
    came_up: Notify,
}

#[derive(Default)]
struct LinkState {
    /// where frames go; `None` while the peer cannot be reached
    queue: Option<mpsc::Sender<Bytes>>,
    routes: HashMap<u64, mpsc::Sender<Response>>,
    closed: bool,
}

impl Link {
    /// Opens a session; `None` while the peer cannot be reached.
    pub(crate) fn open(self: &Arc<Self>) -> Option<Session> {
        let id = self.sessions.fetch_add(1, Ordering::Relaxed);
        let (route, answers) = mpsc::channel(SESSION_REQUESTS_MAX + 1);
        let mut state = self.state.lock();
        let Some(queue) = state.queue.clone() else {
            self.attempts.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        state.routes.insert(id, route);
        drop(state);
        Some(Session { link: Arc::clone(self), id, queue, answers })
    }

    /// As [`Link::open`], but waits for a stream that is being made. Never ends while there is none.
    pub(crate) async fn opened(self: &Arc<Self>) -> Session {
        loop {
            // Listened before it is looked at, so that no stream is missed.
            let came_up = self.came_up.notified();
            if let Some(session) = self.open() {
                return session;
            }
            came_up.await;
        }
    }

    /// Where it goes.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    fn up(&self, queue: mpsc::Sender<Bytes>) {
        let mut state = self.state.lock();
        if !state.closed {
            state.queue = Some(queue);
            drop(state);
            self.came_up.notify_waiters();
        }
    }

    fn down(&self) {
        let mut state = self.state.lock();
        state.queue = None;
        let routes = std::mem::take(&mut state.routes);
        drop(state);
        drop(routes);
    }

    fn deliver(&self, answer: Answer) {
        let mut state = self.state.lock();
        let Some(route) = state.routes.get(&answer.session) else {
            return; // the session has ended on this side
        };
        if route.try_send(answer.body).is_err() {
            // More answers than requests, or nobody listens.
            state.routes.remove(&answer.session);
        }
    }
}

/// One conversation over a link. Dropping it ends it.
pub(crate) struct Session {
    link: Arc<Link>,
    id: u64,
    queue: mpsc::Sender<Bytes>,
    answers: mpsc::Receiver<Response>,
}

impl Session {
    /// Its number, for envelopes.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Where encoded envelopes go.
    pub(crate) fn queue(&self) -> mpsc::Sender<Bytes> {
        self.queue.clone()
    }

    /// Sends an envelope; `false` when the link is gone.
    pub(crate) async fn send(&self, envelope: &Envelope) -> bool {
        self.queue.send(codec::encode_bytes(envelope)).await.is_ok()
    }

    /// The next answer; `None` when the link is gone.
    pub(crate) async fn receive(&mut self) -> Option<Response> {
        self.answers.recv().await
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.link.state.lock().routes.remove(&self.id);
    }
}

/// Makes the link again and again, until nobody has it any more.
async fn keep_up(weak: std::sync::Weak<Link>) {
    let mut pause = PAUSE.0;
    loop {
        let Some(link) = weak.upgrade() else { return };
        if link.state.lock().closed {
            return;
        }
        link.attempts.fetch_add(1, Ordering::Relaxed);
        let began = tokio::time::Instant::now();
        if let Err(reason) = run_once(&link).await {
            tracing::debug!(peer = link.address, class = ?link.class, reason, "no stream to the peer");
        }
        link.down();
        drop(link);
        // A stream that lived long ended for a new reason.
        pause = if began.elapsed() > PAUSE.1 { PAUSE.0 } else { (pause * 2).min(PAUSE.1) };
        tokio::time::sleep(pause).await;
    }
}

/// One stream from its beginning to its end.
async fn run_once(link: &Link) -> Result<(), String> {
    let text = |error: tonic::transport::Error| format!("{error:?}");
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", link.address))
        .map_err(text)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    let channel = link.mtls.connect(&endpoint, NodeRole::Store).await.map_err(text)?;
    let mut client = RaftClient::new(channel)
        .max_decoding_message_size(limits::INTERNAL_FRAME_BYTES_MAX as usize)
        .max_encoding_message_size(limits::INTERNAL_FRAME_BYTES_MAX as usize);
    let (queue, packets) = FramePackets::channel(QUEUE_FRAMES);
    let opened = tokio::time::timeout(CONNECT_TIMEOUT, client.channel(packets)).await;
    let mut answers = match opened {
        Ok(Ok(answers)) => answers.into_inner(),
        Ok(Err(status)) => return Err(status.to_string()),
        Err(_) => return Err("the peer does not answer".to_owned()),
    };
    link.up(queue);
    tracing::debug!(peer = link.address, class = ?link.class, "stream to the peer");
    while let Some(packet) = answers.next().await {
        for frame in packet.map_err(|status| status.to_string())?.frames {
            link.deliver(codec::decode(&frame).map_err(|error| error.to_string())?);
        }
        if link.state.lock().closed {
            return Ok(());
        }
    }
    Ok(())
}

/// Packs the frames that wait in a bounded queue.
pub(crate) struct FramePackets {
    queue: mpsc::Receiver<Bytes>,
    batch: Vec<Bytes>,
    left: VecDeque<Bytes>,
}

impl FramePackets {
    /// A queue and the stream that empties it.
    pub(crate) fn channel(frames: usize) -> (mpsc::Sender<Bytes>, Self) {
        let (sender, queue) = mpsc::channel(frames);
        (sender, Self { queue, batch: Vec::new(), left: VecDeque::new() })
    }
}

impl Stream for FramePackets {
    type Item = Packet;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Packet>> {
        let this = self.get_mut();
        if this.left.is_empty() {
            match this.queue.poll_recv_many(context, &mut this.batch, QUEUE_FRAMES) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(0) => return Poll::Ready(None),
                Poll::Ready(_) => this.left.extend(this.batch.drain(..)),
            }
        }
        let mut frames = Vec::new();
        let mut bytes = 0;
        while bytes < PACKET_BYTES
            && let Some(frame) = this.left.pop_front()
        {
            bytes += frame.len();
            frames.push(frame);
        }
        Poll::Ready(Some(Packet { frames }))
    }
}
