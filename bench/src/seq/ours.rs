//! Ours: a playground with one logic node, asked over gRPC on a few connections.

use std::path::Path;

use anyhow::{Context, ensure};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use seriatim_proto::grpc::sequence::NextRequest;
use seriatim_proto::grpc::sequence::sequence_service_client::SequenceServiceClient;
use seriatim_proto::ids::{TenantId, UserId};
use seriatim_proto::logic::Scopes;
use seriatim_proto::playground::{FILE, Playground, PlaygroundRole};
use seriatim_proto::token::Minter;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use super::Plan;
use crate::load::System;
use crate::servers::{self, Cluster};

type Answer = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<Taken>> + Send>>;

/// The answer to a call.
struct Taken {
    number: u64,
    counter: usize,
    first: u64,
    count: u32,
}

/// A playground, its clients, and what they were given.
pub(crate) struct Ours {
    cluster: Cluster,
    clients: Vec<SequenceServiceClient<Channel>>,
    token: MetadataValue<Ascii>,
    submitted: Vec<u64>,
    open: FuturesUnordered<Answer>,
    count: u32,
    /// for each counter `[first, end)` of each answer
    taken: Vec<Vec<(u64, u64)>>,
}

impl Ours {
    /// Starts it in an empty folder.
    pub(crate) async fn start(seriatim: &Path, folder: &Path, plan: &Plan) -> anyhow::Result<Self> {
        let cluster = Cluster::start(seriatim, folder, &["--logic", "1", "--gateways", "0"]).await?;
        let about: Playground = serde_json::from_slice(&std::fs::read(cluster.folder().join(FILE))?)?;
        let node = about.nodes.iter().find(|node| node.role == PlaygroundRole::Logic).context("no logic node")?;
        let minter = Minter::from_private_pem(&std::fs::read(&about.token_private_key)?)?;
        let ends_at_s = servers::unix_ms() / 1_000 + 3_600;
        let token = minter.mint_for(TenantId(1), &UserId::new("bench")?, ends_at_s, Scopes::SEQUENCE)?;
        let mut clients = Vec::new();
        for _ in 0..LANES {
            let endpoint = Endpoint::from_shared(format!("http://{}", node.address))?.tcp_nodelay(true);
            clients.push(SequenceServiceClient::new(endpoint.connect().await.context("connect to the logic node")?));
        }
        Ok(Self {
            cluster,
            clients,
            token: format!("Bearer {token}").parse()?,
            submitted: Vec::new(),
            open: FuturesUnordered::new(),
            count: 1,
            taken: vec![Vec::new(); usize::try_from(plan.counters)?],
        })
    }

    /// So many numbers with each call from now on.
    pub(crate) fn ask_for(&mut self, count: u32) {
        self.count = count;
    }

    /// How many numbers were answered; none came twice.
    pub(crate) fn check(&mut self) -> anyhow::Result<u64> {
        let mut numbers = 0;
        for (counter, taken) in self.taken.iter_mut().enumerate() {
            taken.sort_unstable();
            numbers += taken.iter().map(|(first, end)| end - first).sum::<u64>();
            for pair in taken.windows(2) {
                ensure!(pair[0].1 <= pair[1].0, "number {} of counter {counter} came twice", pair[1].0);
            }
        }
        Ok(numbers)
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.cluster.stop().await
    }

    fn note(&mut self, taken: Taken, into: &mut Vec<u64>) {
        self.taken[taken.counter].push((taken.first, taken.first + u64::from(taken.count)));
        into.push(taken.number);
    }
}

impl System for Ours {
    fn submit(&mut self, number: u64) -> anyhow::Result<()> {
        self.submitted.push(number);
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        let count = self.count;
        for number in self.submitted.drain(..) {
            let counter = (number % self.taken.len() as u64) as usize;
            let mut client = self.clients[(number % self.clients.len() as u64) as usize].clone();
            let mut request = tonic::Request::new(NextRequest { counter: format!("bench-{counter}"), count });
            request.metadata_mut().insert("authorization", self.token.clone());
            self.open.push(Box::pin(async move {
                let answer = client.next(request).await.context("a call")?.into_inner();
                ensure!(answer.count == count, "{} numbers instead of {count}", answer.count);
                Ok(Taken { number, counter, first: answer.first, count })
            }));
        }
        Ok(())
    }

    async fn answers(&mut self, into: &mut Vec<u64>) -> anyhow::Result<()> {
        match self.open.next().await {
            Some(answer) => self.note(answer?, into),
            None => std::future::pending().await,
        }
        // Those that are there already, without a wait.
        while let Some(Some(answer)) = futures_util::FutureExt::now_or_never(self.open.next()) {
            self.note(answer?, into);
        }
        Ok(())
    }
}

/// Connections.
const LANES: usize = 4;
