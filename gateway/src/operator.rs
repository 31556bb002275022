//! Operator: the door for operators, on a port of its own that devices never need.
//!
//! It is there only if `--operators` names an address. It asks for a certificate of an admin; with plaintext it is as
//! safe as the network that the address is in. Nothing of it touches the way of a message: it looks at the
//! [`Roster`](crate::roster::Roster) and writes letters to the sessions' own tasks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use seriatim_mtls::{Door, Mtls};
use seriatim_proto::codec;
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::operator_server::{Operator, OperatorServer};
use seriatim_proto::operator::{
    DRAIN_MS_MAX, GatewayStatus, OperatorRequest, OperatorResponse, SESSIONS_MAX, SESSIONS_SEEN_MAX, SessionFilter,
    SessionStatus,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use crate::certificate::Certificates;
use crate::hub::Hub;
use crate::metrics::{ReloadLabel, Transport, TransportLabel};
use crate::roster::{Entry, way_in};
use crate::short_certificate::ShortCertificates;

/// Bytes of a request.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Longest wait for the tasks of the sessions that are asked how they are.
const REPORT_PATIENCE: Duration = Duration::from_secs(1);
/// Longest answer to a request.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// What operators ask of.
pub(crate) struct Office {
    pub(crate) hub: Arc<Hub>,
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) begun: Instant,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) short: Option<Arc<ShortCertificates>>,
}

/// Serves operators until it is dropped.
pub(crate) async fn serve(listener: TcpListener, office: Office, mtls: Mtls) {
    // It lives as long as this: the door is closed by dropping it.
    let (_open, closed) = watch::channel(false);
    let service = OperatorServer::new(Service(office)).max_decoding_message_size(REQUEST_BYTES_MAX);
    let served = tonic::transport::Server::builder()
        .timeout(ANSWER_PATIENCE)
        .concurrency_limit_per_connection(4)
        .add_service(InterceptedService::new(service, mtls.guard(Door::Operator)))
        .serve_with_incoming(seriatim_mtls::incoming(listener, &[Door::Operator], closed, mtls))
        .await;
    if let Err(error) = served {
        warn!(%error, "the door for operators is closed");
    }
}

struct Service(Office);

#[tonic::async_trait]
impl Operator for Service {
    async fn call(&self, request: Request<Packet>) -> Result<Response<Packet>, Status> {
        let asked = request.into_inner().frames;
        if asked.len() > 1 {
            return Err(Status::invalid_argument("a call has one request"));
        }
        let mut frames = Vec::new();
        for frame in asked {
            let answer = match codec::decode(&frame) {
                Ok(request) => self.0.answer(request).await.unwrap_or_else(OperatorResponse::Refused),
                Err(error) => {
                    let text = format!("no request of an operator: {error}");
                    OperatorResponse::Refused(Refusal::new(ErrorCode::Malformed, text))
                }
            };
            frames.push(codec::encode_bytes(&answer));
        }
        Ok(Response::new(Packet { frames }))
    }
}

impl Office {
    async fn answer(&self, request: OperatorRequest) -> Result<OperatorResponse, Refusal> {
        match request {
            OperatorRequest::Status => {}
            OperatorRequest::Sessions { after, count, filter } => {
                return Ok(self.sessions(after, count.min(SESSIONS_MAX), &filter).await);
            }
            OperatorRequest::Kick { incarnation, sessions } => return self.kick(incarnation, &sessions),
            OperatorRequest::Drain { deadline_ms } if deadline_ms > DRAIN_MS_MAX => {
                let text = format!("a drain takes at most {DRAIN_MS_MAX} ms");
                return Err(Refusal::new(ErrorCode::Malformed, text));
            }
            OperatorRequest::Drain { deadline_ms } => {
                info!(deadline_ms, connections = self.hub.connections(), "an operator drains this gateway");
                self.hub.metrics.drains.inc();
                self.hub.drain(Duration::from_millis(deadline_ms));
            }
            OperatorRequest::Undrain => {
                info!("an operator has this gateway take devices again");
                self.hub.undrain();
            }
            OperatorRequest::ReloadCertificate => {
                let reloaded = self.certificates.reload();
                let label = ReloadLabel { taken: if reloaded.is_ok() { "yes" } else { "no" } };
                self.hub.metrics.certificate_reloads.get_or_create(&label).inc();
                if let Err(error) = reloaded {
                    self.hub.metrics.certificates_refused.inc();
                    return Ok(OperatorResponse::NotReloaded { why: chain(&error), status: self.status() });
                }
            }
        }
        Ok(OperatorResponse::Status(self.status()))
    }

    fn status(&self) -> Box<GatewayStatus> {
        let metrics = &self.hub.metrics;
        let count = |gauge: i64| u64::try_from(gauge).unwrap_or(0);
        let connections = [Transport::Quic, Transport::WebTransport, Transport::WebSocket].map(|transport| {
            let gauge = metrics.connections.get_or_create(&TransportLabel { transport }).get();
            (way_in(transport), count(gauge))
        });
        let (draining, left) = self.hub.draining();
        Box::new(GatewayStatus {
            name: self.name.clone(),
            incarnation: self.hub.roster.incarnation,
            address: self.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            up_ms: ms(self.begun.elapsed()),
            draining,
            drain_left_ms: left.map(ms),
            connections: connections.to_vec(),
            sessions: self.hub.roster.admitted(),
            calls: self.hub.with_router(|router| router.calls()) as u64,
            queued_bytes: count(metrics.queued_bytes.get()),
            links: count(metrics.links.get()),
            certificate: Bytes::from(self.certificates.leaf()),
            webtransport_hashes: self.short.iter().flat_map(|short| short.hashes()).collect(),
        })
    }

    async fn sessions(&self, after: u64, count: u32, filter: &SessionFilter) -> OperatorResponse {
        let roster = &self.hub.roster;
        let (entries, next) = roster.page(after, count as usize, SESSIONS_SEEN_MAX as usize, filter);
        // All at once, and then each in its time: whoever does not answer holds up nobody.
        let deadline = tokio::time::Instant::now() + REPORT_PATIENCE;
        let asked: Vec<_> = entries.iter().map(|entry| tokio::time::timeout_at(deadline, entry.ask())).collect();
        let answered = join_all(asked).await;
        let sessions = entries
            .iter()
            .zip(answered)
            .map(|(entry, live)| SessionStatus { live: live.ok().and_then(Result::ok), ..of_entry(entry) });
        OperatorResponse::Sessions { incarnation: roster.incarnation, sessions: sessions.collect(), next }
    }

    fn kick(&self, incarnation: u16, sessions: &[u64]) -> Result<OperatorResponse, Refusal> {
        let roster = &self.hub.roster;
        if incarnation != roster.incarnation {
            let text = "the gateway was started again since: these sessions are gone";
            return Err(Refusal::new(ErrorCode::Conflict, text));
        }
        if sessions.len() > SESSIONS_MAX as usize {
            let text = format!("at most {SESSIONS_MAX} sessions are ended at once");
            return Err(Refusal::new(ErrorCode::Malformed, text));
        }
        let (mut kicked, mut gone) = (Vec::new(), Vec::new());
        for number in sessions {
            match roster.get(*number) {
                Some(entry) => {
                    entry.kick();
                    kicked.push(*number);
                }
                None => gone.push(*number),
            }
        }
        info!(?kicked, ?gone, "an operator ends sessions");
        self.hub.metrics.kicks.inc_by(kicked.len() as u64);
        Ok(OperatorResponse::Kicked { kicked, gone })
    }
}

fn of_entry(entry: &Entry) -> SessionStatus {
    SessionStatus {
        number: entry.number,
        way: entry.way,
        owner: entry.owner().cloned(),
        peer: entry.line.peer().to_string(),
        age_ms: ms(entry.begun.elapsed()),
        live: None,
    }
}

/// Whole milliseconds.
pub(crate) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What went wrong, with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
