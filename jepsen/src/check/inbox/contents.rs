//! Contents: every entry of every conversation that anybody was given, kept once.
//!
//! An entry comes back many times: to each member, by push and by sync, through each gateway. All copies share what
//! this table holds, so that two copies agree if and only if they have the same number.

use std::collections::HashMap;

use crate::check::tape::Tape;
use crate::check::verdict::Findings;
use crate::check::{Evidence, Rule};
use crate::history::{Ended, Function, SeenEntry};

/// Texts that come back often, each once.
#[derive(Debug, Default)]
pub(crate) struct Names {
    numbers: HashMap<String, u32>,
    texts: Vec<String>,
}

impl Names {
    pub(crate) fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = u32::try_from(self.texts.len()).expect("names are fewer than lines of a file in memory");
        self.texts.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        number
    }
    pub(crate) fn find(&self, text: &str) -> Option<u32> {
        self.numbers.get(text).copied()
    }
    pub(crate) fn text(&self, number: u32) -> &str {
        &self.texts[number as usize]
    }
}

/// What all copies of an entry have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Content {
    pub(crate) conversation: u32,
    pub(crate) conversation_seq: u64,
    pub(crate) kind: u32,
    pub(crate) sender: u32,
    pub(crate) id: u32,
    pub(crate) body_hash: u32,
}

/// Where and when an entry was seen first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstSeen {
    pub(crate) file: &'static str,
    pub(crate) line: u64,
    pub(crate) call: u64,
    pub(crate) at: u64,
}

/// Who came and who went with an entry.
pub(crate) type Change = (Vec<u32>, Vec<u32>);

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) names: Names,
    numbers: HashMap<Content, u32>,
    pub(crate) list: Vec<Content>,
    pub(crate) first: Vec<FirstSeen>,
    /// when it was surely in its conversation: seen by somebody, or acked
    pub(crate) known_at: Vec<u64>,
    changes: HashMap<u32, Change>,
}

impl Contents {
    /// The number of an entry's content. What is wrong with this copy alone is told here.
    pub(crate) fn take(
        &mut self,
        entry: &SeenEntry,
        seen: FirstSeen,
        bodies_embedded: bool,
        findings: &mut Findings,
    ) -> u32 {
        let names = &mut self.names;
        let content = Content {
            conversation: names.number(&entry.conversation),
            conversation_seq: entry.conversation_seq,
            kind: names.number(&entry.kind),
            sender: names.number(&entry.sender),
            id: names.number(&entry.id),
            body_hash: names.number(&entry.body_hash),
        };
        let number = *self.numbers.entry(content).or_insert_with(|| {
            self.list.push(content);
            self.first.push(seen);
            self.known_at.push(seen.at);
            u32::try_from(self.list.len() - 1).expect("contents are fewer than lines of a file in memory")
        });
        let first = &mut self.first[number as usize];
        if seen.at < first.at {
            *first = seen;
        }
        let known_at = &mut self.known_at[number as usize];
        *known_at = seen.at.min(*known_at);
        if !entry.added.is_empty() || !entry.removed.is_empty() {
            self.take_change(number, entry, seen, findings);
        }
        check_body(entry, seen, bodies_embedded, findings);
        number
    }

    /// Acks say when entries were in their conversation, before anybody saw them.
    pub(crate) fn learn_acks(&mut self, tape: &Tape) {
        let mut places: HashMap<(u32, u64, u32), usize> = HashMap::new();
        for (place, content) in self.list.iter().enumerate() {
            places.insert((content.conversation, content.conversation_seq, content.id), place);
        }
        for track in &tape.tracks {
            let Some(conversation) = self.names.find(&track.key) else { continue };
            for op in track.ops.iter().map(|noted| &noted.op) {
                let id = op.id.as_deref().filter(|_| op.f == Function::Append && op.ended == Ended::Ok);
                let id = id.and_then(|id| self.names.find(id));
                let (Some(id), Some(seq)) = (id, op.seq) else { continue };
                if let Some(place) = places.get(&(conversation, seq, id)) {
                    self.known_at[*place] = self.known_at[*place].min(op.ret);
                }
            }
        }
    }

    /// A copy without its body cannot say who came: then others do.
    fn take_change(&mut self, number: u32, entry: &SeenEntry, seen: FirstSeen, findings: &mut Findings) {
        let mut numbers = |users: &[String]| users.iter().map(|user| self.names.number(user)).collect::<Vec<_>>();
        let change = (numbers(&entry.added), numbers(&entry.removed));
        let known = self.changes.entry(number).or_insert_with(|| change.clone());
        if *known != change {
            findings.add(Rule::I8, &entry.conversation, seen.at, || {
                let text = format!("entry {} changes the members in two ways", entry.conversation_seq);
                (text, vec![Evidence::new(seen.file, seen.line, entry)])
            });
        }
    }

    pub(crate) fn of(&self, number: u32) -> &Content {
        &self.list[number as usize]
    }

    pub(crate) fn change(&self, number: u32) -> Option<&Change> {
        self.changes.get(&number)
    }

    pub(crate) fn is_message(&self, number: u32) -> bool {
        self.names.text(self.of(number).kind) == "message"
    }

    /// For people.
    pub(crate) fn describe(&self, number: u32) -> String {
        let content = self.of(number);
        let (names, seq) = (&self.names, content.conversation_seq);
        let (kind, id) = (names.text(content.kind), names.text(content.id));
        format!("{kind} {id} at {} of {}", seq, names.text(content.conversation))
    }

    /// Where it was seen first.
    pub(crate) fn evidence(&self, number: u32) -> Evidence {
        let first = &self.first[number as usize];
        Evidence::new(first.file, first.line, &self.describe(number))
    }
}

fn check_body(entry: &SeenEntry, seen: FirstSeen, bodies_embedded: bool, findings: &mut Findings) {
    let is_expected = |body: &str| {
        let mut parts = body.splitn(3, '|');
        parts.next() == Some(entry.sender.as_str())
            && parts.next() == Some(entry.conversation.as_str())
            && parts.next() == Some(entry.id.as_str())
    };
    let is_changed =
        bodies_embedded && entry.kind == "message" && entry.body.as_deref().is_some_and(|body| !is_expected(body));
    if is_changed || !entry.body_matches {
        findings.add(Rule::B1, &entry.conversation, seen.at, || {
            let what = if is_changed { "is not what was sent" } else { "does not match its hash" };
            let text = format!("the body of entry {} {what}", entry.conversation_seq);
            (text, vec![Evidence::new(seen.file, seen.line, entry)])
        });
    }
}
