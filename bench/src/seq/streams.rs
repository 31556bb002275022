//! Streams: calls on a few streams, each on a connection of its own, as whoever takes many single numbers asks.

use anyhow::{Context, bail};
use seriatim_proto::grpc::sequence::{Call, CallsRequest, CallsResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::ours::{Given, LANES, Ours};
use crate::load::System;

/// The streams of one playground.
pub(crate) struct Streams<'a> {
    given: &'a mut Given,
    lanes: Vec<Lane>,
    said: mpsc::Receiver<anyhow::Result<CallsResponse>>,
    names: Vec<String>,
    /// how many numbers a call asks for
    count: u32,
}

struct Lane {
    calls: Vec<Call>,
    requests: mpsc::Sender<CallsRequest>,
}

impl<'a> Streams<'a> {
    pub(crate) async fn open(ours: &'a mut Ours) -> anyhow::Result<Self> {
        let (saying, said) = mpsc::channel(MESSAGES);
        let mut lanes = Vec::new();
        for _ in 0..LANES {
            let (requests, stream) = mpsc::channel(MESSAGES);
            let mut request = tonic::Request::new(ReceiverStream::new(stream));
            request.metadata_mut().insert("authorization", ours.token.clone());
            let mut answers = ours.connect().await?.calls(request).await.context("a stream of calls")?.into_inner();
            let saying = saying.clone();
            tokio::spawn(async move {
                loop {
                    let said = match answers.message().await {
                        Ok(Some(message)) => Ok(message),
                        Ok(None) => Err(anyhow::anyhow!("the logic node ended a stream")),
                        Err(status) => Err(anyhow::Error::from(status).context("a stream of calls")),
                    };
                    let is_over = said.is_err();
                    // Nobody listens once the measurement is over.
                    if saying.send(said).await.is_err() || is_over {
                        return;
                    }
                }
            });
            lanes.push(Lane { calls: Vec::new(), requests });
        }
        let names = (0..ours.given.counters()).map(|counter| format!("bench-{counter}")).collect();
        Ok(Self { given: &mut ours.given, lanes, said, names, count: 1 })
    }

    /// So many numbers with each call from now on. No call is open.
    pub(crate) fn ask_for(&mut self, count: u32) {
        self.count = count;
    }

    fn note(&mut self, message: CallsResponse, into: &mut Vec<u64>) -> anyhow::Result<()> {
        for answer in message.answers {
            if !answer.code.is_empty() {
                bail!("a call was refused: {} ({})", answer.message, answer.code);
            }
            // That each is answered once is checked by the load.
            self.given.note(answer.id, answer.first, self.count);
            into.push(answer.id);
        }
        Ok(())
    }
}

impl System for Streams<'_> {
    fn submit(&mut self, number: u64) -> anyhow::Result<()> {
        let counter = self.names[self.given.counter_of(number)].clone();
        let lanes = self.lanes.len() as u64;
        self.lanes[(number % lanes) as usize].calls.push(Call { id: number, counter, count: self.count });
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        for lane in self.lanes.iter_mut().filter(|lane| !lane.calls.is_empty()) {
            let mut calls = std::mem::take(&mut lane.calls);
            while !calls.is_empty() {
                let rest = calls.split_off(calls.len().min(CALLS_MAX));
                lane.requests.send(CallsRequest { calls }).await.context("a stream of calls ended")?;
                calls = rest;
            }
        }
        Ok(())
    }

    async fn answers(&mut self, into: &mut Vec<u64>) -> anyhow::Result<()> {
        let message = self.said.recv().await.context("all streams of calls ended")??;
        self.note(message, into)?;
        while let Ok(message) = self.said.try_recv() {
            self.note(message?, into)?;
        }
        Ok(())
    }
}

/// Calls of one message.
const CALLS_MAX: usize = 4_096;
/// Messages that wait, each way.
const MESSAGES: usize = 64;
