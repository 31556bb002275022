//! Record: what a device writes down of each entry that it received, and a sender of each message: one JSON object
//! a line. The replay writes them, the checker reads them; nothing else passes between the two but the measurements,
//! which the checker only prints.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Folder of the devices' files, inside the records' folder.
pub const RECEIVED: &str = "received";
/// File of the senders.
pub const SENDS: &str = "sends.jsonl";
/// File of the measurements.
pub const MEASURES: &str = "measures.json";

/// An entry as a device received it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Received {
    /// whose inbox
    pub user: String,
    /// which of his devices
    pub device: String,
    /// place in the inbox
    pub seq: u64,
    /// entry before it in the inbox, 0 for none
    pub prev_seq: u64,
    /// as [`seriatim_proto::ids::ConversationId`] prints
    pub conversation: String,
    /// place in the conversation
    pub conversation_seq: u64,
    /// `message`, `create`, `members`
    pub kind: String,
    /// who wrote it
    pub sender: String,
    /// 32 hexadecimal digits
    pub message_id: String,
    /// the body where it is UTF-8, else its hexadecimal digits behind `hex:`; `None`: the body was not there
    pub body: Option<String>,
    /// `push` or `sync`
    pub via: String,
}

/// What became of a message at its sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sent {
    /// 32 hexadecimal digits
    pub message_id: String,
    /// place in the conversation, `None` if it was never acked
    pub committed: Option<u64>,
    /// why not
    pub error: Option<String>,
}

/// One of the faults, and how it was felt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// which process was killed
    pub node: String,
    /// seconds since the first send
    pub at_s: f64,
    /// until the process was back
    pub restarted_after_ms: u64,
    /// until the throughput was back at 80 % of its median before
    pub window_ms: u64,
    /// longest pause between two commits of anybody, inside the window
    pub longest_gap_ms: u64,
    /// slowest commit that overlaps the window
    pub slowest_commit_ms: u64,
}

/// What the replay measured. Latencies and rate leave the faults' windows out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// committed and delivered to every participant, per second
    pub msgs_per_s: f64,
    /// send → Committed at the sender
    pub commit_p50_ms: f64,
    /// send → Committed at the sender
    pub commit_p99_ms: f64,
    /// send → the last participant's device has it
    pub deliver_p50_ms: f64,
    /// send → the last participant's device has it
    pub deliver_p99_ms: f64,
    /// from the first send to the last delivery
    pub elapsed_s: f64,
    /// of it, inside the faults' windows
    pub fault_s: f64,
    /// devices that took part
    pub devices: u64,
    /// users that took part
    pub users: u64,
    /// empty without faults
    pub faults: Vec<Fault>,
}

/// File of a device, inside [`RECEIVED`]: of the user at this place of the script.
pub fn device_file(user: usize, device: &str) -> String {
    format!("{user:05}-{device}.jsonl")
}

/// Body bytes as a record holds them.
pub fn body_text(body: &[u8]) -> String {
    match std::str::from_utf8(body) {
        Ok(text) => text.to_owned(),
        Err(_) => body.iter().fold("hex:".to_owned(), |text, byte| text + &format!("{byte:02x}")),
    }
}

/// Collects lines and appends them to a file in large pieces; the file is open only while it is written.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    buffer: Vec<u8>,
}

impl Recorder {
    /// Bytes that are collected before they are written.
    const BUFFER_BYTES: usize = 64 << 10;

    /// Lines for this file.
    pub fn new(path: PathBuf) -> Self {
        Self { path, buffer: Vec::new() }
    }

    /// One more line.
    pub fn push<T: Serialize>(&mut self, line: &T) -> anyhow::Result<()> {
        serde_json::to_writer(&mut self.buffer, line)?;
        self.buffer.push(b'\n');
        if self.buffer.len() >= Self::BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes what was collected.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        let context = || format!("failed to write {}", self.path.display());
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path).with_context(context)?;
        file.write_all(&self.buffer).with_context(context)?;
        self.buffer.clear();
        Ok(())
    }
}

/// Reads a file of lines.
pub fn read_lines<T: for<'a> Deserialize<'a>>(path: &Path) -> anyhow::Result<Vec<T>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    text.lines()
        .enumerate()
        .map(|(place, line)| {
            serde_json::from_str(line).with_context(|| format!("{}:{} is no record", path.display(), place + 1))
        })
        .collect()
}
