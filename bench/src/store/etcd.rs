//! etcd: three members, and puts over gRPC to the leader. Every put is fsynced on a majority, as it comes.
//!
//! Of etcd's API (`etcdserverpb`, etcd 3.4) only the fields that are used here are named.

use std::path::Path;

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::uri::PathAndQuery;
use tokio::process::Command;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};

use super::{Bodies, Plan};
use crate::load::System;
use crate::servers::{self, Server};

/// `PutRequest`
#[derive(Clone, PartialEq, prost::Message)]
struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// `PutResponse`: that it came says enough.
#[derive(Clone, PartialEq, prost::Message)]
struct Done {}

/// `StatusRequest`
#[derive(Clone, PartialEq, prost::Message)]
struct Ask {}

/// `StatusResponse`
#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

/// `ResponseHeader`
#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

type Answer = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<u64>> + Send>>;

/// A running etcd with its clients.
pub(crate) struct Etcd {
    servers: Vec<Server>,
    channels: Vec<Channel>,
    submitted: Vec<u64>,
    open: FuturesUnordered<Answer>,
    bodies: Bodies,
    namespaces: u64,
}

impl Etcd {
    /// Starts it in an empty folder.
    pub(crate) async fn start(program: &Path, folder: &Path, plan: &Plan) -> anyhow::Result<Self> {
        let ports: Vec<(u16, u16)> =
            (0..3).map(|_| Ok((servers::port()?, servers::port()?))).collect::<anyhow::Result<_>>()?;
        let members: Vec<_> =
            ports.iter().enumerate().map(|(place, (_, peer))| format!("e{place}=http://127.0.0.1:{peer}")).collect();
        let mut running = Vec::new();
        for (place, (client, peer)) in ports.iter().enumerate() {
            let name = format!("e{place}");
            let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            let mut command = Command::new(program);
            command.args(["--name", &name, "--log-level", "error", "--logger", "zap"]);
            command.arg("--data-dir").arg(folder.join(&name));
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--initial-cluster", &members.join(","), "--initial-cluster-state", "new"]);
            // 8 GiB, the most that etcd advises: what is measured must not fill it.
            command.args(["--quota-backend-bytes", "8589934592"]);
            running.push(Server::start(&name, &mut command, folder)?);
        }
        let leader = servers::until("etcd's leader", &mut running, async || leader(&ports).await).await?;
        let mut channels = Vec::new();
        for _ in 0..LANES {
            channels.push(channel(leader).await?);
        }
        let bodies = plan.bodies();
        let (submitted, open) = (Vec::new(), FuturesUnordered::new());
        Ok(Self { servers: running, channels, submitted, open, bodies, namespaces: plan.namespaces })
    }

    /// Of the servers.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.servers.iter().filter_map(Server::pid).collect()
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        for server in self.servers {
            server.stop().await?;
        }
        Ok(())
    }
}

impl System for Etcd {
    fn submit(&mut self, number: u64) -> anyhow::Result<()> {
        self.submitted.push(number);
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        for number in self.submitted.drain(..) {
            let channel = self.channels[(number % self.channels.len() as u64) as usize].clone();
            let key = format!("b/{}/{number}", number % self.namespaces);
            let put = Put { key: key.into(), value: self.bodies.of(number) };
            self.open.push(Box::pin(async move {
                let asked = call::<Put, Done>(channel, "/etcdserverpb.KV/Put", put).await;
                asked.context("a put")?;
                Ok(number)
            }));
        }
        Ok(())
    }

    async fn answers(&mut self, into: &mut Vec<u64>) -> anyhow::Result<()> {
        match self.open.next().await {
            Some(answer) => into.push(answer?),
            None => std::future::pending().await,
        }
        // Those that are there already, without a wait.
        while let Some(Some(answer)) = futures_util::FutureExt::now_or_never(self.open.next()) {
            into.push(answer?);
        }
        Ok(())
    }
}

async fn channel(port: u16) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?.tcp_nodelay(true);
    Ok(endpoint.connect().await?)
}

async fn call<A, B>(channel: Channel, path: &'static str, ask: A) -> anyhow::Result<B>
where
    A: prost::Message + 'static,
    B: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel);
    grpc.ready().await?;
    let codec = tonic_prost::ProstCodec::<A, B>::default();
    Ok(grpc.unary(tonic::Request::new(ask), PathAndQuery::from_static(path), codec).await?.into_inner())
}

/// The client port of the member that leads.
async fn leader(ports: &[(u16, u16)]) -> anyhow::Result<u16> {
    for (client, _) in ports {
        let status: Status = call(channel(*client).await?, "/etcdserverpb.Maintenance/Status", Ask {}).await?;
        ensure!(status.leader != 0, "no leader yet");
        if status.header.is_some_and(|header| header.member_id == status.leader) {
            return Ok(*client);
        }
    }
    anyhow::bail!("nobody says that it leads")
}

/// Connections.
const LANES: usize = 8;
