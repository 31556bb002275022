//! Check: the independent judge. Compares what the source says with what the devices received.
//!
//! It knows the script (from the source file) and the devices' records. What the senders noted is used for two things
//! only: to count acks, and to hold an ack against the place where the devices found the message.
//!
//! # What counts as what
//! | found | counts as |
//! |---|---|
//! | a message that a device of a participant does not have | lost, once per device; a device without a record has nothing |
//! | a body that differs by a byte, or is not there | lost |
//! | a link of the inbox that leads over an entry never received | lost |
//! | an ack that names another place than the devices found | lost |
//! | a message that a device received twice | duplicated |
//! | an entry that nobody sent, or that is not for this user | duplicated (`foreign`) |
//! | a message behind a later one of its conversation | reordered |
//! | a conversation seq that falls, or differs between devices | reordered |
//! | an inbox seq that falls, or differs between a user's devices | reordered |

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::record::{self, Measures, Received, Sent};
use crate::script::Script;

/// Findings that are shown as sentences; the counts go on.
const FINDINGS_MAX: usize = 20;

/// What the judge says.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Verdict {
    /// messages of the script
    pub sent: u64,
    /// messages that were acked to their sender
    pub committed: u64,
    /// messages that every device of every participant has
    pub received: u64,
    /// see the table above
    pub lost: u64,
    /// see the table above
    pub duplicated: u64,
    /// see the table above
    pub reordered: u64,
    /// entries on all devices
    pub entries: u64,
    /// of `duplicated`: entries that nobody sent or that are not for this user
    pub foreign: u64,
    /// measured by the replay, printed here
    #[serde(flatten)]
    pub measures: Measures,
    /// the first of all findings, for people
    #[serde(skip)]
    pub findings: Vec<String>,
}

impl Verdict {
    /// Nothing lost, duplicated or reordered, and everything acked.
    pub fn is_good(&self) -> bool {
        self.lost == 0
            && self.duplicated == 0
            && self.reordered == 0
            && self.committed == self.sent
            && self.received == self.sent
    }
}

/// Reads the records of a run and judges them.
pub fn check(script: &Script, folder: &Path) -> anyhow::Result<Verdict> {
    let mut judge = Judge::new(script);
    let received = folder.join(record::RECEIVED);
    let context = || format!("failed to read {}", received.display());
    let mut files = HashSet::new();
    for file in std::fs::read_dir(&received).with_context(context)? {
        files.insert(file.with_context(context)?.file_name());
    }
    for user in 0..script.users.len() {
        for device in Script::devices(user) {
            let name = record::device_file(user, device);
            let is_there = files.remove(std::ffi::OsStr::new(&name));
            let entries = if is_there { record::read_lines(&received.join(&name))? } else { Vec::new() };
            judge.device(user, &entries);
        }
    }
    for name in files {
        judge.strange_file(&name.to_string_lossy());
    }
    judge.sends(&record::read_lines(&folder.join(record::SENDS))?);
    let mut verdict = judge.verdict();
    if let Ok(bytes) = std::fs::read(folder.join(record::MEASURES)) {
        verdict.measures = serde_json::from_slice(&bytes).context("failed to read the measurements")?;
    }
    Ok(verdict)
}

/// Where a message belongs: talk, line. Line `CREATE` is the creation of a group.
type Place = (usize, usize);
const CREATE: usize = usize::MAX;

/// Collects devices one by one.
pub struct Judge<'a> {
    script: &'a Script,
    conversations: HashMap<String, usize>,
    messages: HashMap<String, Place>,
    /// devices seen of each user
    devices: Vec<u32>,
    /// how many devices have each line
    having: Vec<Vec<u32>>,
    created: Vec<u32>,
    /// conversation seq of each entry, from the first device that had it
    seqs: HashMap<Place, u64>,
    /// inbox seq of each entry by user
    inbox_seqs: HashMap<(usize, Place), u64>,
    verdict: Verdict,
}

/// What one device has seen of one talk.
#[derive(Default)]
struct Progress {
    seen: Vec<bool>,
    created: bool,
    last_line: Option<usize>,
    last_seq: u64,
}

impl<'a> Judge<'a> {
    /// Knows the script only.
    pub fn new(script: &'a Script) -> Self {
        let mut messages = HashMap::new();
        for (talk, spoken) in script.talks.iter().enumerate() {
            for line in 0..spoken.lines.len() {
                messages.insert(spoken.message_id(line).to_string(), (talk, line));
            }
            if spoken.is_group() {
                messages.insert(spoken.create_id().to_string(), (talk, CREATE));
            }
        }
        Self {
            script,
            conversations: script.talks.iter().enumerate().map(|(place, talk)| (talk.id.to_string(), place)).collect(),
            messages,
            devices: vec![0; script.users.len()],
            having: script.talks.iter().map(|talk| vec![0; talk.lines.len()]).collect(),
            created: vec![0; script.talks.len()],
            seqs: HashMap::new(),
            inbox_seqs: HashMap::new(),
            verdict: Verdict { sent: script.message_count() as u64, ..Verdict::default() },
        }
    }

    /// All that one device of a user received, in its order; nothing at all, if it has no record.
    pub fn device(&mut self, user: usize, entries: &[Received]) {
        self.devices[user] += 1;
        let mut talks: HashMap<usize, Progress> = HashMap::new();
        let mut last_inbox_seq = 0;
        for entry in entries {
            self.verdict.entries += 1;
            if entry.user != self.script.users[user].as_str() {
                self.foreign(entry, "it is noted under somebody else's device");
            }
            if entry.seq <= last_inbox_seq {
                self.reordered(entry, "its inbox seq falls");
            } else if entry.prev_seq != last_inbox_seq {
                self.lost(entry, &format!("the entry before it, {}, was never received", entry.prev_seq));
            }
            last_inbox_seq = last_inbox_seq.max(entry.seq);
            self.entry(user, entry, &mut talks);
        }
        for (talk, progress) in talks {
            for (count, seen) in self.having[talk].iter_mut().zip(&progress.seen) {
                *count += u32::from(*seen);
            }
            self.created[talk] += u32::from(progress.created);
        }
    }

    /// A record of a device that nobody has.
    fn strange_file(&mut self, name: &str) {
        self.verdict.duplicated += 1;
        self.verdict.foreign += 1;
        self.find(format!("{name} is the record of a device that nobody has"));
    }

    /// What the senders noted.
    pub fn sends(&mut self, sends: &[Sent]) {
        for sent in sends {
            let Some(place) = self.messages.get(&sent.message_id).copied() else {
                self.find(format!("a send under an unknown id {}", sent.message_id));
                continue;
            };
            let Some(seq) = sent.committed else {
                let error = sent.error.as_deref().unwrap_or("no reason noted");
                self.find(format!("message {} was never acked: {error}", sent.message_id));
                continue;
            };
            if place.1 != CREATE {
                self.verdict.committed += 1;
            }
            if self.seqs.get(&place).is_some_and(|found| *found != seq) {
                self.verdict.lost += 1;
                self.find(format!("message {} was acked at {seq}, but devices found it elsewhere", sent.message_id));
            }
        }
    }

    /// Counts what is missing.
    pub fn verdict(mut self) -> Verdict {
        let script = self.script;
        for (place, talk) in script.talks.iter().enumerate() {
            // A participant without any record is one device that received nothing.
            let wanted: u32 = talk.members.iter().map(|member| self.devices[*member].max(1)).sum();
            for line in 0..talk.lines.len() {
                let missing = wanted.saturating_sub(self.having[place][line]);
                self.verdict.received += u64::from(missing == 0);
                self.missing(missing, &format!("line {line} of {}", talk.name));
            }
            if talk.is_group() {
                self.missing(wanted.saturating_sub(self.created[place]), &format!("the creation of {}", talk.name));
            }
        }
        self.verdict
    }

    fn entry(&mut self, user: usize, entry: &Received, talks: &mut HashMap<usize, Progress>) {
        let talk = self.conversations.get(&entry.conversation).copied();
        let place = self.messages.get(&entry.message_id).copied();
        let (talk, line) = match (talk, place) {
            (Some(talk), Some((of, line))) if talk == of => (talk, line),
            _ => return self.foreign(entry, "nobody sent it"),
        };
        let spoken = &self.script.talks[talk];
        if !spoken.members.contains(&user) {
            return self.foreign(entry, "its user is not in the conversation");
        }
        let progress = talks.entry(talk).or_default();
        progress.seen.resize(spoken.lines.len(), false);
        let falls = entry.conversation_seq <= progress.last_seq;
        progress.last_seq = progress.last_seq.max(entry.conversation_seq);
        let (twice, behind) = if line == CREATE {
            (std::mem::replace(&mut progress.created, true), progress.last_line.is_some())
        } else {
            let behind = progress.last_line.is_some_and(|last| line < last);
            progress.last_line = progress.last_line.max(Some(line));
            (std::mem::replace(&mut progress.seen[line], true), behind)
        };
        if twice {
            self.verdict.duplicated += 1;
            return self.find(format!("{} received twice", describe(entry)));
        }
        if let Err(why) = same(self.script, talk, line, entry) {
            if line != CREATE {
                progress.seen[line] = false;
            }
            // Counted once, as the missing message that it now is.
            return self.find(format!("{}: {why}", describe(entry)));
        }
        if behind || falls {
            self.reordered(entry, "it comes behind a later one of its conversation");
        }
        if *self.seqs.entry((talk, line)).or_insert(entry.conversation_seq) != entry.conversation_seq {
            self.reordered(entry, "other devices have it at another place of the conversation");
        }
        if *self.inbox_seqs.entry((user, (talk, line))).or_insert(entry.seq) != entry.seq {
            self.reordered(entry, "another device of its user has it at another place of the inbox");
        }
    }

    fn missing(&mut self, devices: u32, what: &str) {
        if devices > 0 {
            self.verdict.lost += u64::from(devices);
            self.find(format!("{what} is missing on {devices} device(s)"));
        }
    }

    fn lost(&mut self, entry: &Received, why: &str) {
        self.verdict.lost += 1;
        self.find(format!("{}: {why}", describe(entry)));
    }

    fn reordered(&mut self, entry: &Received, why: &str) {
        self.verdict.reordered += 1;
        self.find(format!("{}: {why}", describe(entry)));
    }

    fn foreign(&mut self, entry: &Received, why: &str) {
        self.verdict.duplicated += 1;
        self.verdict.foreign += 1;
        self.find(format!("{}: {why}", describe(entry)));
    }

    fn find(&mut self, sentence: String) {
        if self.verdict.findings.len() < FINDINGS_MAX {
            self.verdict.findings.push(sentence);
        }
    }
}

fn describe(entry: &Received) -> String {
    format!(
        "{}/{}: entry {} ({} seq {}, message {})",
        entry.user, entry.device, entry.seq, entry.conversation, entry.conversation_seq, entry.message_id
    )
}

/// Is the entry what the source says, byte for byte?
fn same(script: &Script, talk: usize, line: usize, entry: &Received) -> Result<(), &'static str> {
    let spoken = &script.talks[talk];
    let (kind, sender) = match spoken.lines.get(line) {
        Some(line) => ("message", line.sender),
        None => ("create", spoken.lines[0].sender),
    };
    if entry.kind != kind {
        return Err("it is of another kind than was sent");
    }
    if entry.sender != script.users[sender].as_str() {
        return Err("it names another sender");
    }
    match (spoken.lines.get(line), &entry.body) {
        (None, _) => Ok(()),
        (Some(_), None) => Err("its body is not there"),
        (Some(line), Some(body)) if *body == record::body_text(line.body.as_bytes()) => Ok(()),
        (Some(_), Some(_)) => Err("its body is not what was sent"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Message;

    fn script() -> Script {
        let says = |sender: &str, text: &str| Message {
            text: text.to_owned(),
            timestamp: "2026-01-01T00:00:00Z".to_owned(),
            sender: sender.to_owned(),
        };
        Script::new(vec![
            ("direct".to_owned(), vec![says("a", "ok"), says("b", "ok"), says("a", "")]),
            ("group".to_owned(), vec![says("a", "x"), says("b", "y"), says("c", "z")]),
        ])
        .unwrap()
    }

    /// A faultless device of `user`: everything of its talks, in order, with gaps between the seqs.
    fn device(script: &Script, user: usize, name: &str) -> Vec<Received> {
        let mut entries: Vec<Received> = Vec::new();
        for talk in script.talks.iter().filter(|talk| talk.members.contains(&user)) {
            let mut seq = 0;
            let mut push = |kind: &str, sender: usize, id: String, body: Option<String>| {
                seq += 3;
                let prev_seq = entries.last().map_or(0, |last| last.seq);
                entries.push(Received {
                    user: script.users[user].to_string(),
                    device: name.to_owned(),
                    seq: prev_seq + 2,
                    prev_seq,
                    conversation: talk.id.to_string(),
                    conversation_seq: seq,
                    kind: kind.to_owned(),
                    sender: script.users[sender].to_string(),
                    message_id: id,
                    body,
                    via: "push".to_owned(),
                });
            };
            if talk.is_group() {
                push("create", talk.lines[0].sender, talk.create_id().to_string(), None);
            }
            for (place, line) in talk.lines.iter().enumerate() {
                push("message", line.sender, talk.message_id(place).to_string(), Some(line.body.clone()));
            }
        }
        entries
    }

    fn sends(script: &Script) -> Vec<Sent> {
        let mut sends = Vec::new();
        for talk in &script.talks {
            let shift = u64::from(talk.is_group());
            for place in 0..talk.lines.len() {
                let seq = 3 * (place as u64 + 1 + shift);
                sends.push(Sent { message_id: talk.message_id(place).to_string(), committed: Some(seq), error: None });
            }
        }
        sends
    }

    /// Judges a good run with one device changed.
    fn judge(change: impl FnOnce(&mut Vec<Received>)) -> Verdict {
        let script = script();
        let mut changed = device(&script, 0, "phone");
        change(&mut changed);
        let mut judge = Judge::new(&script);
        judge.device(0, &changed);
        judge.device(0, &device(&script, 0, "laptop"));
        judge.device(1, &device(&script, 1, "phone"));
        judge.device(2, &device(&script, 2, "phone"));
        judge.sends(&sends(&script));
        judge.verdict()
    }

    /// Makes the inbox's links agree again, so that only the change itself is found.
    fn relink(entries: &mut [Received]) {
        for place in 0..entries.len() {
            entries[place].prev_seq = if place == 0 { 0 } else { entries[place - 1].seq };
        }
    }

    #[test]
    fn a_good_run_passes() {
        let verdict = judge(|_| ());
        assert!(verdict.is_good(), "{:?}", verdict.findings);
        assert_eq!((verdict.sent, verdict.committed, verdict.received, verdict.entries), (6, 6, 6, 25));
    }

    #[test]
    fn a_lost_message_is_found() {
        let verdict = judge(|entries| {
            entries.remove(1);
            relink(entries);
        });
        assert_eq!((verdict.lost, verdict.duplicated, verdict.reordered, verdict.received), (1, 0, 0, 5));
    }

    #[test]
    fn a_link_over_a_missing_entry_is_found() {
        let verdict = judge(|entries| {
            entries.remove(1);
        });
        assert_eq!(verdict.lost, 2);
    }

    #[test]
    fn a_device_that_received_nothing_is_found() {
        let script = script();
        let mut judge = Judge::new(&script);
        for user in [0, 1] {
            judge.device(user, &device(&script, user, "phone"));
        }
        judge.sends(&sends(&script));
        let verdict = judge.verdict();
        assert_eq!((verdict.lost, verdict.received), (4, 3));
    }

    #[test]
    fn a_second_device_that_received_nothing_is_found() {
        let verdict = judge(Vec::clear);
        assert_eq!((verdict.lost, verdict.received), (7, 0));
    }

    #[test]
    fn a_record_that_is_missing_or_nobodys_is_found() {
        let script = script();
        let run = |change: &dyn Fn(&Path)| {
            let folder = tempfile::tempdir().unwrap();
            let received = folder.path().join(record::RECEIVED);
            std::fs::create_dir(&received).unwrap();
            let write = |path: &Path, lines: Vec<String>| std::fs::write(path, lines.join("\n")).unwrap();
            for user in 0..script.users.len() {
                for name in Script::devices(user) {
                    let entries = device(&script, user, name);
                    let lines = entries.iter().map(|entry| serde_json::to_string(entry).unwrap()).collect();
                    write(&received.join(record::device_file(user, name)), lines);
                }
            }
            let lines = sends(&script).iter().map(|sent| serde_json::to_string(sent).unwrap()).collect();
            write(&folder.path().join(record::SENDS), lines);
            change(&received);
            check(&script, folder.path()).unwrap()
        };
        assert!(run(&|_| ()).is_good());
        let removed = run(&|received| std::fs::remove_file(received.join(record::device_file(1, "phone"))).unwrap());
        assert_eq!((removed.lost, removed.received), (7, 0));
        let emptied = run(&|received| std::fs::write(received.join(record::device_file(1, "phone")), "").unwrap());
        assert_eq!((emptied.lost, emptied.received), (7, 0));
        let strange = run(&|received| std::fs::write(received.join("00000-watch.jsonl"), "").unwrap());
        assert_eq!((strange.foreign, strange.is_good()), (1, false));
    }

    #[test]
    fn a_duplicated_message_is_found() {
        let verdict = judge(|entries| {
            let mut again = entries[1].clone();
            again.prev_seq = entries[entries.len() - 1].seq;
            again.seq = again.prev_seq + 1;
            entries.push(again);
        });
        assert_eq!((verdict.lost, verdict.duplicated, verdict.reordered), (0, 1, 0));
    }

    #[test]
    fn reordered_messages_are_found() {
        let verdict = judge(|entries| {
            let (seq, other) = (entries[0].seq, entries[1].seq);
            entries.swap(0, 1);
            (entries[0].seq, entries[1].seq) = (seq, other);
            relink(entries);
        });
        assert_eq!((verdict.lost, verdict.duplicated), (0, 0));
        assert!(verdict.reordered > 0);
    }

    #[test]
    fn a_conversation_seq_that_differs_between_devices_is_found() {
        let verdict = judge(|entries| entries[2].conversation_seq += 1);
        assert!(verdict.reordered > 0);
    }

    #[test]
    fn an_inbox_seq_that_falls_is_found() {
        let verdict = judge(|entries| {
            let last = entries.len() - 1;
            entries[last].seq = 1;
        });
        assert!(verdict.reordered > 0);
    }

    #[test]
    fn a_changed_body_is_found() {
        let verdict = judge(|entries| entries[0].body = Some("Ok".to_owned()));
        assert_eq!((verdict.lost, verdict.duplicated, verdict.reordered), (1, 0, 0));
        let verdict = judge(|entries| entries[0].body = None);
        assert_eq!(verdict.lost, 1);
    }

    #[test]
    fn another_sender_is_found() {
        let verdict = judge(|entries| entries[0].sender = "b".to_owned());
        assert_eq!(verdict.lost, 1);
    }

    #[test]
    fn a_foreign_entry_is_found() {
        let verdict = judge(|entries| entries[0].message_id = "00".repeat(16));
        assert_eq!((verdict.lost, verdict.duplicated, verdict.foreign), (1, 1, 1));
    }

    #[test]
    fn an_entry_of_somebody_elses_conversation_is_found() {
        let script = script();
        let mut judge = Judge::new(&script);
        let mut strange = device(&script, 0, "phone");
        for entry in &mut strange {
            entry.user = "c".to_owned();
        }
        judge.device(2, &strange);
        assert_eq!(judge.verdict().foreign, 3);
    }

    #[test]
    fn an_unacked_message_is_no_good_run() {
        let script = script();
        let mut judge = Judge::new(&script);
        for user in [0, 1, 2] {
            judge.device(user, &device(&script, user, "phone"));
        }
        let mut sends = sends(&script);
        sends[0].committed = None;
        judge.sends(&sends);
        assert!(!judge.verdict().is_good());
    }

    #[test]
    fn an_ack_for_another_place_is_found() {
        let script = script();
        let mut judge = Judge::new(&script);
        for user in [0, 1, 2] {
            judge.device(user, &device(&script, user, "phone"));
        }
        let mut sends = sends(&script);
        sends[0].committed = Some(999);
        judge.sends(&sends);
        assert_eq!(judge.verdict().lost, 1);
    }
}
