//! Unary: a call of gRPC for each number, on a few connections.

use anyhow::{Context, ensure};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use seriatim_proto::grpc::sequence::NextRequest;
use seriatim_proto::grpc::sequence::sequence_service_client::SequenceServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use super::ours::{Given, LANES, Ours};
use crate::load::System;

type Answer = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<(u64, u64)>> + Send>>;

/// The connections to one playground.
pub(crate) struct Unary<'a> {
    given: &'a mut Given,
    clients: Vec<SequenceServiceClient<Channel>>,
    token: MetadataValue<Ascii>,
    submitted: Vec<u64>,
    open: FuturesUnordered<Answer>,
}

impl<'a> Unary<'a> {
    pub(crate) async fn open(ours: &'a mut Ours) -> anyhow::Result<Self> {
        let mut clients = Vec::new();
        for _ in 0..LANES {
            clients.push(ours.connect().await?);
        }
        let token = ours.token.clone();
        Ok(Self { given: &mut ours.given, clients, token, submitted: Vec::new(), open: FuturesUnordered::new() })
    }

    fn note(&mut self, (number, first): (u64, u64), into: &mut Vec<u64>) {
        self.given.note(number, first, 1);
        into.push(number);
    }
}

impl System for Unary<'_> {
    fn submit(&mut self, number: u64) -> anyhow::Result<()> {
        self.submitted.push(number);
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        for number in self.submitted.drain(..) {
            let counter = format!("bench-{}", self.given.counter_of(number));
            let mut client = self.clients[(number % self.clients.len() as u64) as usize].clone();
            let mut request = tonic::Request::new(NextRequest { counter, count: 1 });
            request.metadata_mut().insert("authorization", self.token.clone());
            self.open.push(Box::pin(async move {
                let answer = client.next(request).await.context("a call")?.into_inner();
                ensure!(answer.count == 1, "{} numbers instead of one", answer.count);
                Ok((number, answer.first))
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
