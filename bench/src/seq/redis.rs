//! Redis: one server that fsyncs every write before it answers, and `INCR`s in a pipeline on a few connections.
//!
//! Its protocol (RESP 2) is spoken here directly: a client library would cost the peer processor time.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::mpsc;

use super::Plan;
use crate::load::System;
use crate::servers::{self, Server};

/// A running Redis with its clients.
pub(crate) struct Redis {
    server: Server,
    lanes: Vec<Lane>,
    answers: mpsc::Receiver<anyhow::Result<u64>>,
    counters: u64,
}

/// A connection: answers come in the order of the requests.
struct Lane {
    out: BytesMut,
    writer: mpsc::Sender<Bytes>,
    asked: Arc<Mutex<VecDeque<u64>>>,
}

impl Redis {
    /// Starts it in an empty folder.
    pub(crate) async fn start(program: &Path, folder: &Path, plan: &Plan) -> anyhow::Result<Self> {
        let port = servers::port()?;
        let mut command = Command::new(program);
        // Debian's package of the tools has the server too, under another name that it is told apart by.
        command.arg0("redis-server").arg("--port").arg(port.to_string()).args(["--bind", "127.0.0.1", "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "always"]).arg("--dir").arg(folder);
        let mut running = vec![Server::start("redis", &mut command, folder)?];
        let (said, answers) = mpsc::channel(plan.in_flight_max);
        let mut lanes = Vec::new();
        while lanes.len() < LANES {
            let said = said.clone();
            lanes.push(servers::until("Redis", &mut running, async || Lane::open(port, said.clone()).await).await?);
        }
        let server = running.pop().context("one server")?;
        Ok(Self { server, lanes, answers, counters: plan.counters })
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.server.stop().await
    }
}

impl Lane {
    async fn open(port: u16, said: mpsc::Sender<anyhow::Result<u64>>) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let (read, mut write) = stream.into_split();
        let (writer, mut queue) = mpsc::channel::<Bytes>(64);
        tokio::spawn(async move {
            while let Some(bytes) = queue.recv().await {
                if write.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        let asked = Arc::new(Mutex::new(VecDeque::new()));
        let waiting = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut reader = BufReader::with_capacity(64 << 10, read);
            let mut line = String::new();
            loop {
                line.clear();
                let answer = match reader.read_line(&mut line).await {
                    Ok(0) | Err(_) => Err(anyhow::anyhow!("Redis ended the connection")),
                    Ok(_) if line.starts_with(':') => waiting.lock().pop_front().context("an answer to nothing"),
                    Ok(_) => Err(anyhow::anyhow!("Redis says: {line}")),
                };
                let is_over = answer.is_err();
                // Nobody listens once the measurement is over.
                if said.send(answer).await.is_err() || is_over {
                    return;
                }
            }
        });
        Ok(Self { out: BytesMut::new(), writer, asked })
    }
}

impl System for Redis {
    fn submit(&mut self, number: u64) -> anyhow::Result<()> {
        let count = self.lanes.len() as u64;
        let lane = &mut self.lanes[(number % count) as usize];
        let counter = format!("bench-{}", number % self.counters);
        let request = format!("*2\r\n$4\r\nINCR\r\n${}\r\n{counter}\r\n", counter.len());
        lane.out.extend_from_slice(request.as_bytes());
        lane.asked.lock().push_back(number);
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        for lane in self.lanes.iter_mut().filter(|lane| !lane.out.is_empty()) {
            lane.writer.send(lane.out.split().freeze()).await.context("a connection to Redis ended")?;
        }
        Ok(())
    }

    async fn answers(&mut self, into: &mut Vec<u64>) -> anyhow::Result<()> {
        into.push(self.answers.recv().await.context("all connections to Redis ended")??);
        while let Ok(answer) = self.answers.try_recv() {
            into.push(answer?);
        }
        Ok(())
    }
}

/// Connections.
const LANES: usize = 4;
