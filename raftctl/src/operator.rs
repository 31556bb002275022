//! Operator: what raftctl asks of gateways, at their doors for operators.

use std::time::Duration;

use futures_util::future::join_all;
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::codec;
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::operator_client::OperatorClient;
use seriatim_proto::limits::INTERNAL_FRAME_BYTES_MAX;
use seriatim_proto::operator::{
    GatewayStatus, OperatorRequest, OperatorResponse, SESSIONS_MAX, SessionFilter, SessionStatus,
};
use tonic::transport::Endpoint;

use crate::failure::Failure;
use crate::link::{self, Link};
use crate::target::Target;

/// One question.
pub(crate) async fn ask(door: &str, request: &OperatorRequest, link: &Link) -> Result<OperatorResponse, Failure> {
    let act = format!("failed to ask the gateway at {door}");
    let endpoint = Endpoint::from_shared(format!("http://{door}"))
        .map_err(|_| Failure::usage(format!("`{door}` is no host:port")))?
        .connect_timeout(link.timeout.min(Duration::from_secs(3)))
        .timeout(link.timeout);
    let asked = async {
        let connected = link.connect(&act, &endpoint, NodeRole::Gateway).await;
        let channel = connected
            .map_err(|failure| failure.hint("its door for operators: `seriatim gateway --operators ADDRESS`"))?;
        let mut client = OperatorClient::new(channel).max_decoding_message_size(INTERNAL_FRAME_BYTES_MAX as usize);
        let answer = client.call(Packet { frames: vec![codec::encode_bytes(request)] }).await;
        answer.map_err(|status| link::failed(&act, &status))
    };
    let late = |_| Failure::unreachable(format!("{act}: no answer in {:?}", link.timeout));
    let frames = tokio::time::timeout(link.timeout, asked).await.map_err(late)??.into_inner().frames;
    let frame = frames.first().ok_or_else(|| Failure::internal(format!("{act}: it answered nothing")))?;
    match codec::decode(frame).map_err(|error| Failure::internal(format!("{act}: {error}")))? {
        OperatorResponse::Refused(refusal) => Err(Failure::refused(&act, &refusal)),
        answer => Ok(answer),
    }
}

/// A request that is answered by how the gateway is.
pub(crate) async fn status(door: &str, request: &OperatorRequest, link: &Link) -> Result<GatewayStatus, Failure> {
    match ask(door, request, link).await? {
        OperatorResponse::Status(status) => Ok(*status),
        other => Err(unexpected(door, &other)),
    }
}

/// A gateway that answered.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// its door for operators
    pub(crate) door: String,
    /// how it is
    pub(crate) status: GatewayStatus,
}

impl Gateway {
    /// Is it called so?
    pub(crate) fn is_called(&self, name: &str) -> bool {
        [&self.status.name, &self.status.address, &self.door].into_iter().any(|known| known == name)
    }
}

/// The gateways that were named: those that answered, and doors where nobody did.
#[derive(Debug)]
pub(crate) struct Gateways {
    /// in the order in which they were named
    pub(crate) here: Vec<Gateway>,
    /// and why not
    pub(crate) silent: Vec<(String, Failure)>,
}

impl Gateways {
    /// Asks all at the same time.
    pub(crate) async fn survey(target: &Target) -> Result<Self, Failure> {
        let ask = async |door: &String| (door.clone(), status(door, &OperatorRequest::Status, &target.link).await);
        let (mut here, mut silent) = (Vec::new(), Vec::new());
        for (door, answer) in join_all(target.operators()?.iter().map(ask)).await {
            match answer {
                Ok(status) => here.push(Gateway { door, status }),
                Err(failure) => silent.push((door, failure)),
            }
        }
        Ok(Self { here, silent })
    }

    /// The one of this name, address or door.
    pub(crate) fn find(&self, name: &str) -> Result<&Gateway, Failure> {
        let mut called = self.here.iter().filter(|gateway| gateway.is_called(name));
        if let Some(found) = called.next() {
            if let Some(another) = called.next() {
                let (one, two) = (&found.door, &another.door);
                let text = format!("`{name}` is the gateway behind {one} and the one behind {two}");
                return Err(Failure::usage(text).hint("say its door, or start each gateway with a --name of its own"));
            }
            return Ok(found);
        }
        if let Some((_, failure)) = self.silent.iter().find(|(door, _)| door == name) {
            return Err(failure.clone());
        }
        let known: Vec<_> = self.here.iter().map(|gateway| gateway.status.name.as_str()).collect();
        if let Some((door, failure)) = self.silent.first() {
            let text = match known.as_slice() {
                [] => format!("no gateway answers, so none is called `{name}`"),
                known => format!("`{name}` is none of the gateways that answer ({})", known.join(", ")),
            };
            return Err(Failure::unreachable(format!("{text}; {door} does not: {}", failure.message)));
        }
        Err(Failure::not_found(format!("there is no gateway `{name}`, but {}", known.join(", ")))
            .hint("raftctl gateway ls"))
    }

    /// Says which did not answer.
    pub(crate) fn warn(&self) {
        for (door, failure) in &self.silent {
            eprintln!("warning: what follows is without the gateway at {door}: {}", failure.message);
        }
    }
}

/// Its sessions, as many as `limit`; and whether there are more.
pub(crate) async fn sessions(
    gateway: &Gateway,
    filter: &SessionFilter,
    limit: usize,
    link: &Link,
) -> Result<(Vec<SessionStatus>, bool), Failure> {
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        let left = u32::try_from(limit - found.len()).unwrap_or(u32::MAX);
        let request = OperatorRequest::Sessions { after, count: left.min(SESSIONS_MAX), filter: filter.clone() };
        let (sessions, next) = match ask(&gateway.door, &request, link).await? {
            OperatorResponse::Sessions { incarnation, sessions, next } if incarnation == gateway.status.incarnation => {
                (sessions, next)
            }
            OperatorResponse::Sessions { .. } => {
                let text = format!("the gateway at {} was started again just now", gateway.door);
                return Err(Failure::unreachable(text).hint("ask again"));
            }
            other => return Err(unexpected(&gateway.door, &other)),
        };
        found.extend(sessions);
        match next {
            None => return Ok((found, false)),
            Some(_) if found.len() >= limit => return Ok((found, true)),
            Some(next) => after = next,
        }
    }
}

/// It speaks of something else.
pub(crate) fn unexpected(door: &str, answer: &OperatorResponse) -> Failure {
    Failure::internal(format!("the gateway at {door} answered something else than was asked: {answer:?}"))
}
