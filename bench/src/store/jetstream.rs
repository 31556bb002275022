//! JetStream: three `nats-server`s, streams with three replicas in files, and the leanest publisher there can be.
//!
//! The protocol of NATS is spoken here directly (docs.nats.io, "Client Protocol" and "JetStream wire API reference"): a
//! client library would cost the peer processor time on the cores that it shares with its servers. Publishers are
//! connected to the server that leads their stream, which spares it a hop. fsync is as it comes: every two minutes.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Command;
use tokio::sync::mpsc;

use super::{Bodies, Plan};
use crate::load::System;
use crate::servers::{self, Server};

/// A running JetStream with its publishers.
pub(crate) struct JetStream {
    servers: Vec<Server>,
    lanes: Vec<Lane>,
    answers: mpsc::Receiver<anyhow::Result<u64>>,
    bodies: Bodies,
    namespaces: u64,
}

/// A connection to the leader of one stream.
struct Lane {
    stream: usize,
    lane: usize,
    out: BytesMut,
    writer: mpsc::Sender<Bytes>,
}

impl JetStream {
    /// Starts it in an empty folder.
    pub(crate) async fn start(program: &Path, folder: &Path, plan: &Plan) -> anyhow::Result<Self> {
        let ports: Vec<(u16, u16)> =
            (0..3).map(|_| Ok((servers::port()?, servers::port()?))).collect::<anyhow::Result<_>>()?;
        let routes: Vec<_> = ports.iter().map(|(_, route)| format!("nats://127.0.0.1:{route}")).collect();
        let mut running = Vec::new();
        for (place, (client, route)) in ports.iter().enumerate() {
            let name = format!("n{place}");
            let config = format!(
                "server_name: {name}\nlisten: \"127.0.0.1:{client}\"\n\
                 jetstream {{ store_dir: \"{}\", max_file_store: 50GB }}\n\
                 cluster {{ name: bench, listen: \"127.0.0.1:{route}\", routes: [{}] }}\n",
                folder.join(&name).display(),
                routes.join(", ")
            );
            let path = folder.join(format!("{name}.conf"));
            std::fs::write(&path, config).with_context(|| format!("failed to write {}", path.display()))?;
            running.push(Server::start(&name, Command::new(program).arg("-c").arg(&path), folder)?);
        }
        let (said, answers) = mpsc::channel(plan.in_flight_max);
        let mut lanes = Vec::new();
        for stream in 0..plan.streams {
            let leader =
                servers::until("a stream with three replicas", &mut running, async || create(ports[0].0, stream).await)
                    .await?;
            let (port, _) = ports.get(leader).context("a leader that is none of ours")?;
            for _ in 0..LANES.div_ceil(plan.streams) {
                lanes.push(Lane::open(*port, stream, lanes.len(), said.clone()).await?);
            }
        }
        Ok(Self { servers: running, lanes, answers, bodies: plan.bodies(), namespaces: plan.namespaces })
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

impl System for JetStream {
    fn submit(&mut self, number: u64) -> anyhow::Result<()> {
        let count = self.lanes.len() as u64;
        let lane = &mut self.lanes[(number % count) as usize];
        let body = self.bodies.of(number);
        let mut line = String::with_capacity(64);
        let namespace = number % self.namespaces;
        write!(line, "PUB b{}.{namespace} _R.{}.{number} {}\r\n", lane.stream, lane.lane, body.len())?;
        lane.out.put_slice(line.as_bytes());
        lane.out.put_slice(&body);
        lane.out.put_slice(b"\r\n");
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        for lane in self.lanes.iter_mut().filter(|lane| !lane.out.is_empty()) {
            let bytes = lane.out.split().freeze();
            lane.writer.send(bytes).await.context("a connection to nats-server ended")?;
        }
        Ok(())
    }

    async fn answers(&mut self, into: &mut Vec<u64>) -> anyhow::Result<()> {
        into.push(self.answers.recv().await.context("all connections to nats-server ended")??);
        while let Ok(answer) = self.answers.try_recv() {
            into.push(answer?);
        }
        Ok(())
    }
}

impl Lane {
    async fn open(
        port: u16,
        stream: usize,
        lane: usize,
        said: mpsc::Sender<anyhow::Result<u64>>,
    ) -> anyhow::Result<Self> {
        let (reader, mut write) = connect(port).await?;
        write.write_all(format!("SUB _R.{lane}.* 1\r\n").as_bytes()).await?;
        let (writer, mut queue) = mpsc::channel::<Bytes>(64);
        let pongs = writer.clone();
        tokio::spawn(async move {
            while let Some(bytes) = queue.recv().await {
                if write.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        tokio::spawn(async move {
            let failed = read_acks(reader, pongs, &said).await;
            // Nobody listens once the measurement is over.
            let _ = said.send(Err(failed)).await;
        });
        Ok(Self { stream, lane, out: BytesMut::new(), writer })
    }
}

async fn read_acks(
    mut reader: BufReader<OwnedReadHalf>,
    pongs: mpsc::Sender<Bytes>,
    said: &mpsc::Sender<anyhow::Result<u64>>,
) -> anyhow::Error {
    loop {
        match next(&mut reader).await {
            Ok(Said::Message { subject, payload }) => {
                let number = subject.rsplit('.').next().and_then(|number| number.parse().ok());
                let Some(number) = number.filter(|_| is_ack(&payload)) else {
                    return anyhow::anyhow!("no ack: {}", String::from_utf8_lossy(&payload));
                };
                if said.send(Ok(number)).await.is_err() {
                    return anyhow::anyhow!("nobody listens");
                }
            }
            Ok(Said::Ping) => {
                if pongs.send(Bytes::from_static(b"PONG\r\n")).await.is_err() {
                    return anyhow::anyhow!("the connection ended");
                }
            }
            Ok(Said::Other) => {}
            Err(error) => return error,
        }
    }
}

/// An ack says where the message is: `{"stream":"B0","seq":7}`; a refusal has an `error` first.
fn is_ack(payload: &[u8]) -> bool {
    payload.starts_with(b"{\"stream\":") && payload.windows(6).any(|part| part == b"\"seq\":")
}

async fn connect(port: u16) -> anyhow::Result<(BufReader<OwnedReadHalf>, OwnedWriteHalf)> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::with_capacity(64 << 10, read);
    let mut info = String::new();
    reader.read_line(&mut info).await?;
    ensure!(info.starts_with("INFO "), "no nats-server answers: {info}");
    write.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"seriatim-bench\"}\r\n").await?;
    Ok((reader, write))
}

/// Makes a stream, and answers which server leads it. Again is the same.
async fn create(port: u16, stream: usize) -> anyhow::Result<usize> {
    let config = serde_json::json!({
        "name": format!("B{stream}"), "subjects": [format!("b{stream}.*")], "storage": "file", "num_replicas": 3,
        "retention": "limits", "discard": "old", "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0,
    })
    .to_string();
    let (mut reader, mut write) = connect(port).await?;
    let request = format!("SUB _C.1 1\r\nPUB $JS.API.STREAM.CREATE.B{stream} _C.1 {}\r\n{config}\r\n", config.len());
    write.write_all(request.as_bytes()).await?;
    let answered = async {
        loop {
            match next(&mut reader).await? {
                Said::Message { payload, .. } => return anyhow::Ok(payload),
                Said::Ping => write.write_all(b"PONG\r\n").await?,
                Said::Other => {}
            }
        }
    };
    let payload = tokio::time::timeout(std::time::Duration::from_secs(5), answered).await??;
    let answer: serde_json::Value = serde_json::from_slice(&payload)?;
    let leader = answer["cluster"]["leader"].as_str().and_then(|name| name.strip_prefix('n')?.parse().ok());
    let followers = answer["cluster"]["replicas"].as_array().map_or(0, Vec::len);
    ensure!(followers == 2, "no stream with three replicas yet: {answer}");
    leader.with_context(|| format!("a stream without a leader: {answer}"))
}

/// What a server says.
enum Said {
    Message { subject: String, payload: Vec<u8> },
    Ping,
    Other,
}

async fn next(reader: &mut BufReader<OwnedReadHalf>) -> anyhow::Result<Said> {
    let mut line = String::new();
    ensure!(reader.read_line(&mut line).await? > 0, "nats-server ended the connection");
    let mut words = line.split_ascii_whitespace();
    match words.next() {
        Some("MSG") => {
            let subject = words.next().context("a message without a subject")?.to_owned();
            let bytes: usize = words.next_back().context("a message without a length")?.parse()?;
            let mut payload = vec![0; bytes + 2];
            reader.read_exact(&mut payload).await?;
            payload.truncate(bytes);
            Ok(Said::Message { subject, payload })
        }
        Some("PING") => Ok(Said::Ping),
        Some("-ERR") => bail!("nats-server says: {line}"),
        _ => Ok(Said::Other),
    }
}

/// Connections, over all streams.
const LANES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_names_a_place_is_an_ack() {
        assert!(is_ack(br#"{"stream":"B0","seq":12}"#));
        assert!(!is_ack(br#"{"error":{"code":503,"description":"no leader"},"stream":"B0","seq":0}"#));
        assert!(!is_ack(b""));
    }
}
