//! Amend: authors who edit and recall what they said, and readers who hold every answer against what was acked before
//! they asked.
//!
//! ```text
//!  send ─▶ edits ─▶ read ─▶ recall or not ─▶ read, by history and by sync, both sides, through other gateways
//! ```
//! Their conversations are their own: nothing of them is in the run's files, and what must not be is found on the spot.
//! What ended without an answer may or may not have happened; everything else is held to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;
use seriatim_client::{
    AmendRequest, Amendment, Client, Conversation, Entry, EntryBody, Kind, RequestError, SendRequest,
};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::ids::{Emoji, Seq, UserId};

use super::device::Device;
use super::seen::body_text;
use super::stage::Stage;

/// Most edits of a message.
const EDITS_MAX: u32 = 4;
/// A recall of unknown outcome is sent again so often.
const RECALLS_MAX: u32 = 5;
/// Recalled messages that a device remembers, to look again long after.
const REMEMBERED: usize = 200;
/// Entries of one look back.
const PAGE: u32 = 100;
/// How long one request of the finale waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the author knows of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Said {
    /// its place
    seq: Seq,
    /// its texts, the first one and its edits, in the order in which they were asked for; a place if it was acked
    texts: Vec<(String, Option<Seq>)>,
    recall: Recall,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Recall {
    /// nobody asked for it
    Never,
    /// nobody knows
    Open,
    /// acked, at this place
    Done(Seq),
}

/// An entry, as a check looks at it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Shown {
    seq: Seq,
    kind: Kind,
    /// `None`: erased, or not there for now
    body: Option<String>,
    erased: bool,
}

impl Shown {
    fn of(entry: &Entry) -> Shown {
        let body = match &entry.body {
            EntryBody::Here { body, .. } => Some(String::from_utf8_lossy(body).into_owned()),
            EntryBody::Erased | EntryBody::Trimmed | EntryBody::Unavailable => None,
        };
        let erased = matches!(entry.body, EntryBody::Erased);
        Shown { seq: entry.conversation_seq, kind: entry.kind, body, erased }
    }

    /// Is it the message at this place, or one of its edits?
    fn says(&self, message: Seq) -> bool {
        self.seq == message || self.kind == Kind::Edit { target: message }
    }
}

/// What is wrong about a whole history from the message on, of which the author knew this before it was asked for.
fn wrong_in_history(said: &Said, shown: &[Shown]) -> Option<String> {
    if let Some(wrong) = wrong_in_any(said, shown) {
        return Some(wrong);
    }
    let texts: Vec<&Shown> = shown.iter().filter(|entry| entry.says(said.seq)).collect();
    for (text, seq) in &said.texts {
        if let Some(seq) = seq
            && !texts.iter().any(|entry| entry.seq == *seq)
        {
            return Some(format!("S4: the text `{text}` was acked at {seq}, and is not in the history"));
        }
    }
    let recalls: Vec<Seq> =
        shown.iter().filter(|entry| entry.kind == Kind::Recall { target: said.seq }).map(|entry| entry.seq).collect();
    match (said.recall, recalls.as_slice()) {
        (Recall::Never, []) | (Recall::Open, [] | [_]) => {}
        (Recall::Done(at), [seq]) if at == *seq => {}
        (recall, recalls) => return Some(format!("S4: the recall is {recall:?}, and the history shows {recalls:?}")),
    }
    if let ([recall], Some(late)) = (recalls.as_slice(), texts.iter().find(|entry| recalls.first() < Some(&entry.seq)))
    {
        return Some(format!("S3: an edit at {} came behind the recall at {recall}", late.seq));
    }
    // Each was asked for when those before it had ended: behind all of them that were acked, whatever it came to itself.
    let mut found = Vec::new();
    for entry in texts {
        let Some(body) = &entry.body else { continue };
        let Some(place) = said.texts.iter().position(|(text, _)| text == body) else {
            return Some(format!("S5: at {} stands `{body}`, which nobody wrote", entry.seq));
        };
        if found.contains(&place) {
            return Some(format!("S2: the text `{body}` stands there twice, also at {}", entry.seq));
        }
        if let Some((_, Some(before))) = said.texts[..place].iter().rfind(|(_, acked)| *acked >= Some(entry.seq)) {
            return Some(format!("S3: `{body}` stands at {}, and what was acked before it at {before}", entry.seq));
        }
        found.push(place);
    }
    None
}

/// What is wrong about any entries, of a history or of an inbox.
fn wrong_in_any(said: &Said, shown: &[Shown]) -> Option<String> {
    let texts = shown.iter().filter(|entry| entry.says(said.seq));
    for entry in texts {
        match said.recall {
            Recall::Done(at) if entry.body.is_some() => {
                return Some(format!(
                    "A1: {} was recalled at {at}, and {} is shown with its body",
                    said.seq, entry.seq
                ));
            }
            Recall::Never if entry.erased => {
                return Some(format!("B1: {} was never recalled, and {} is shown as erased", said.seq, entry.seq));
            }
            Recall::Done(_) | Recall::Never | Recall::Open => {}
        }
        let acked = said.texts.iter().find(|(_, seq)| *seq == Some(entry.seq));
        if let (Some((text, _)), Some(body)) = (acked, &entry.body)
            && text != body
        {
            return Some(format!("B1: at {} stands `{body}` instead of `{text}`", entry.seq));
        }
    }
    None
}

/// One pair: who says and takes back, and who listens.
struct Pair {
    stage: Arc<Stage>,
    rng: StdRng,
    author: Device,
    reader: Device,
    to: Conversation,
    /// as the reader names it
    of: Conversation,
    /// messages by their place, to be looked at again
    remembered: BTreeMap<Seq, Said>,
    order: VecDeque<Seq>,
}

/// Plays a pair until the run is over.
pub(crate) async fn run(stage: Arc<Stage>, place: usize) {
    let mut pair = Pair::new(&stage, "amend", place);
    while stage.turn().await {
        // Without an answer there is nothing to hold against anything: another one, perhaps elsewhere.
        if pair.round(false).await.is_err() && pair.rng.random_bool(0.5) {
            pair.author.hop();
            pair.reader.hop();
        }
    }
}

/// One whole round of each pair: all is acked, and read back through every gateway.
pub(crate) async fn finale(stage: &Arc<Stage>, patience: Duration) {
    let until = Instant::now() + patience;
    for place in 0..stage.cast.amending.len() {
        let mut pair = Pair::new(stage, "amended", place);
        pair.author = pair.author.with_patience(PATIENCE);
        pair.reader = pair.reader.with_patience(PATIENCE);
        while let Err(error) = pair.round(true).await {
            if Instant::now() >= until {
                stage.find(format!("L2: no message was recalled although everything is healed: {error:#}"));
                return;
            }
            pair.author.hop();
            pair.reader.hop();
        }
    }
}

impl Pair {
    fn new(stage: &Arc<Stage>, role: &str, place: usize) -> Pair {
        let mut rng = stage.rng(role, place);
        let (author, reader) = stage.cast.amending[place].clone();
        let (to, of) = (Conversation::Peer(reader.clone()), Conversation::Peer(author.clone()));
        let device = |user: UserId, rng: &mut StdRng| Device::new(stage, user, role, rng);
        Pair {
            author: device(author, &mut rng),
            reader: device(reader, &mut rng),
            stage: Arc::clone(stage),
            rng,
            to,
            of,
            remembered: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }

    /// A message from its sending to its looks; `surely`: recalled, and every step answered, or an error.
    async fn round(&mut self, surely: bool) -> anyhow::Result<()> {
        let client = self.author.client().await?;
        let request = SendRequest::new(self.to.clone(), "");
        let text = body_text(&self.author.user, &self.to, &request.message_id);
        let request = SendRequest { body: Bytes::from(text.clone().into_bytes()), ..request };
        let seq = client.send_request(request).await?.seq;
        let mut said = Said { seq, texts: vec![(text.clone(), Some(seq))], recall: Recall::Never };
        for number in 0..self.rng.random_range(0..EDITS_MAX) {
            let edit = format!("{text}, edit {number}");
            let request = AmendRequest::edit(self.to.clone(), seq, edit.clone());
            match self.amend(&client, request).await {
                Ok(committed) => said.texts.push((edit, Some(committed))),
                Err(error) if error.is_unknown() => said.texts.push((edit, None)),
                Err(_) => {}
            }
        }
        let emoji = Emoji::new("+").expect("a sign is a name");
        let react = AmendRequest::new(self.to.clone(), seq, Amendment::React { emoji, set: true });
        // Whatever becomes of it, it changes no text.
        drop(self.amend(&client, react).await);
        self.look(&said).await?;
        if surely || self.rng.random_bool(0.6) {
            let request = AmendRequest::new(self.to.clone(), seq, Amendment::Recall);
            said.recall = Recall::Open;
            for _ in 0..RECALLS_MAX {
                match self.amend(&client, request.clone()).await {
                    Ok(at) => said.recall = Recall::Done(at),
                    Err(error) if error.is_unknown() => continue,
                    // Surely not, if no attempt before may have been.
                    Err(_) => {}
                }
                break;
            }
            ensure!(!surely || matches!(said.recall, Recall::Done(_)), "the recall was not acked");
        }
        self.remember(said.clone());
        self.look(&said).await?;
        self.reader.hop();
        self.look(&said).await?;
        self.look_back().await
    }

    async fn amend(&self, client: &Client, request: AmendRequest) -> Result<Seq, RequestError> {
        let target = request.target;
        let result = client.amend(request).await;
        if let Err(RequestError::Rejected(refusal)) = &result
            && matches!(refusal.code, ErrorCode::NotFound | ErrorCode::NotAuthor | ErrorCode::Recalled)
        {
            let author = &self.author.user;
            self.stage.find(format!("S4: {author} was refused with {} about his own message {target}", refusal.code));
        }
        result.map(|committed| committed.seq)
    }

    /// Both sides read the conversation from the message on.
    async fn look(&mut self, said: &Said) -> anyhow::Result<()> {
        for (device, conversation) in [(&mut self.author, &self.to), (&mut self.reader, &self.of)] {
            let page = device.client().await?.history(conversation, Some(said.seq), 0).await?;
            let shown: Vec<Shown> = page.entries.iter().map(Shown::of).collect();
            if let Some(wrong) = wrong_in_history(said, &shown) {
                self.stage.find(format!("{wrong} (history, by {} at {})", device.user, device.gateway()));
            }
        }
        Ok(())
    }

    /// The reader reads a page of his inbox from anywhere on: what was recalled long ago is there, without its body.
    async fn look_back(&mut self) -> anyhow::Result<()> {
        let client = self.reader.client().await?;
        let Some(tail) = client.status().await?.tail else { return Ok(()) };
        let from = Seq::new(self.rng.random_range(1..=tail.get()));
        let page = client.sync(from, PAGE).await?;
        let shown: Vec<Shown> = page.entries.iter().map(Shown::of).collect();
        for said in self.remembered.values() {
            if let Some(wrong) = wrong_in_any(said, &shown) {
                self.stage.find(format!("{wrong} (sync, by {} at {})", self.reader.user, self.reader.gateway()));
            }
        }
        Ok(())
    }

    fn remember(&mut self, said: Said) {
        self.order.push_back(said.seq);
        self.remembered.insert(said.seq, said);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.remembered.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(seq: u64) -> Seq {
        Seq::new(seq).unwrap()
    }

    fn entry(at: u64, kind: Kind, body: Option<&str>) -> Shown {
        Shown { seq: seq(at), kind, body: body.map(str::to_owned), erased: body.is_none() }
    }

    /// A message at 4, an edit at 6 between two of unknown outcome, and its history.
    fn story() -> (Said, Vec<Shown>) {
        let acked = |text: &str, at| (text.to_owned(), Some(seq(at)));
        let texts = vec![acked("one", 4), ("two".to_owned(), None), acked("three", 6), ("four".to_owned(), None)];
        let edit = Kind::Edit { target: seq(4) };
        let shown = vec![
            entry(4, Kind::Message, Some("one")),
            entry(5, Kind::Message, Some("another")),
            entry(6, edit, Some("three")),
        ];
        (Said { seq: seq(4), texts, recall: Recall::Never }, shown)
    }

    #[test]
    fn what_may_be_is_nothing_wrong() {
        let (said, shown) = story();
        assert_eq!(wrong_in_history(&said, &shown), None);
        let mut with_two = shown.clone();
        with_two[1] = entry(5, Kind::Edit { target: seq(4) }, Some("two"));
        assert_eq!(wrong_in_history(&said, &with_two), None, "the unknown one may have happened");
        with_two[1] = entry(5, Kind::Message, Some("another"));
        with_two.push(entry(8, Kind::Edit { target: seq(4) }, Some("two")));
        assert_eq!(wrong_in_history(&said, &with_two), None, "and be late");
        let recall = entry(7, Kind::Recall { target: seq(4) }, Some(""));
        let mut erased = shown.clone();
        erased[0].body = None;
        erased[2].body = None;
        erased.push(recall);
        for recall in [Recall::Open, Recall::Done(seq(7))] {
            assert_eq!(wrong_in_history(&Said { recall, ..said.clone() }, &erased), None);
        }
        assert_eq!(wrong_in_history(&Said { recall: Recall::Open, ..said.clone() }, &shown), None);
    }

    #[test]
    fn what_may_not_be_is_found() {
        let (said, shown) = story();
        let recalled = Said { recall: Recall::Done(seq(7)), ..said.clone() };
        let with = |change: &dyn Fn(&mut Vec<Shown>)| {
            let mut shown = shown.clone();
            change(&mut shown);
            shown
        };
        let recall = |at| entry(at, Kind::Recall { target: seq(4) }, Some(""));
        let erase = |shown: &mut Vec<Shown>| {
            shown.iter_mut().filter(|entry| entry.says(seq(4))).for_each(|entry| entry.body = None)
        };
        let edit = Kind::Edit { target: seq(4) };
        let cases = [
            ("A1", &recalled, with(&|shown| shown.push(recall(7)))),
            (
                "A1",
                &recalled,
                with(&|shown| {
                    shown[0].body = None;
                    shown.push(recall(7))
                }),
            ),
            ("S4", &recalled, with(&|shown| erase(shown))),
            (
                "S4",
                &recalled,
                with(&|shown| {
                    erase(shown);
                    shown.push(recall(8))
                }),
            ),
            ("S4", &said, with(&|shown| shown.push(recall(7)))),
            (
                "B1",
                &said,
                with(&|shown| {
                    shown[0].body = None;
                    shown[0].erased = true
                }),
            ),
            ("B1", &said, with(&|shown| shown[2].body = Some("two".to_owned()))),
            ("S4", &said, with(&|shown| drop(shown.pop()))),
            ("S3", &said, with(&|shown| shown[1] = entry(5, edit, Some("four")))),
            ("S5", &said, with(&|shown| shown.push(entry(8, edit, Some("nobody's"))))),
            ("S2", &said, with(&|shown| shown.extend([entry(7, edit, Some("two")), entry(8, edit, Some("two"))]))),
            (
                "S3",
                &Said { recall: Recall::Open, ..said.clone() },
                with(&|shown| {
                    erase(shown);
                    shown.insert(1, recall(5))
                }),
            ),
        ];
        for (number, (rule, said, shown)) in cases.iter().enumerate() {
            let wrong = wrong_in_history(said, shown).unwrap_or_default();
            assert!(wrong.starts_with(rule), "case {number}: {wrong}");
        }
    }
}
