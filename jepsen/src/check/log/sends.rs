//! Sends: who sent what into a conversation, and where it came to lie.
//!
//! A retry is the same id: all attempts are one send. It may take effect from its first attempt that did not fail for
//! sure, and has taken effect once one attempt was acked.

use std::collections::HashMap;

use super::shown::Shown;
use crate::check::rule::Rule;
use crate::check::tape::Track;
use crate::check::verdict::{Evidence, Findings};
use crate::history::{Ended, Function, Op};

/// All attempts under one id.
#[derive(Clone, Debug)]
pub(super) struct Send<'a> {
    pub(super) id: &'a str,
    /// when it may have taken effect first; `u64::MAX` if all attempts failed for sure
    pub(super) call: u64,
    /// when it had taken effect for sure; `u64::MAX` if nobody was told
    pub(super) ret: u64,
    pub(super) seq: Option<u64>,
    /// the attempt to show: the ack, or else the first
    pub(super) index: Option<usize>,
    /// was a wrong that concerns it as a whole told already?
    told: bool,
}

/// The sends of a conversation.
#[derive(Debug)]
pub(super) struct Log<'a> {
    pub(super) track: &'a Track,
    pub(super) sends: Vec<Send<'a>>,
    by_id: HashMap<&'a str, usize>,
    by_seq: HashMap<u64, usize>,
}

impl<'a> Log<'a> {
    /// What the senders say. `unsent` ids may be shown though no append of theirs is in the track.
    pub(super) fn of_track(track: &'a Track, unsent: &[&'a str], findings: &mut Findings) -> Self {
        let mut log = Self { track, sends: Vec::new(), by_id: HashMap::new(), by_seq: HashMap::new() };
        for (index, noted) in track.ops.iter().enumerate() {
            if noted.op.f == Function::Append
                && let Some(id) = noted.op.id.as_deref()
            {
                log.attempt(id, index, &noted.op, findings);
            }
        }
        for id in unsent {
            // Nobody noted when it was sent, so no time speaks against it.
            log.by_id.entry(id).or_insert_with(|| {
                log.sends.push(Send { id, call: 0, ret: u64::MAX, seq: None, index: None, told: false });
                log.sends.len() - 1
            });
        }
        log
    }

    fn attempt(&mut self, id: &'a str, index: usize, op: &Op, findings: &mut Findings) {
        let sends = &mut self.sends;
        let place = *self.by_id.entry(id).or_insert_with(|| {
            sends.push(Send { id, call: u64::MAX, ret: u64::MAX, seq: None, index: Some(index), told: false });
            sends.len() - 1
        });
        let send = &mut self.sends[place];
        if op.ended != Ended::Fail {
            send.call = send.call.min(op.call);
        }
        if op.ended == Ended::Ok {
            if op.ret < send.ret {
                send.ret = op.ret;
            }
            if let Some(seq) = op.seq {
                let evidence = || self.track.evidence(index);
                if self.put(place, seq, op.ret, evidence, findings) {
                    self.sends[place].index = Some(index);
                }
            }
        }
    }

    /// What readers say: unknown outcomes find their place, and what contradicts is told.
    pub(super) fn learn(&mut self, shown: &[Shown<'a>], findings: &mut Findings) {
        for read in shown {
            for (seq, id) in &read.items {
                self.show(read, *seq, id, findings);
            }
        }
    }

    fn show(&mut self, read: &Shown<'a>, seq: u64, id: &'a str, findings: &mut Findings) {
        let Some(place) = self.by_id.get(id).copied() else {
            findings.add(Rule::S5, &self.track.key, read.ret, || {
                (format!("seq {seq} shows message {id}, which nobody sent"), vec![read.evidence(seq)])
            });
            // From here on it is known, so that it is told once.
            self.sends.push(Send { id, call: 0, ret: u64::MAX, seq: Some(seq), index: None, told: true });
            self.by_id.insert(id, self.sends.len() - 1);
            self.by_seq.entry(seq).or_insert(self.sends.len() - 1);
            return;
        };
        self.put(place, seq, read.ret, || read.evidence(seq), findings);
        let send = &self.sends[place];
        if read.ret < send.call && !send.told {
            let failed = send.call == u64::MAX;
            let attempts = self.attempts(place);
            let (rule, text) = if failed {
                (Rule::S6, format!("message {id} failed for sure and is shown at seq {seq}"))
            } else {
                (Rule::S5, format!("message {id} is shown at seq {seq} before it was sent"))
            };
            findings.add(rule, &self.track.key, read.ret, || {
                (text, attempts.into_iter().chain([read.evidence(seq)]).collect())
            });
            self.sends[place].told = true;
        }
    }

    /// A send lies at a seq, says somebody. True if nothing speaks against it.
    fn put(
        &mut self,
        place: usize,
        seq: u64,
        at: u64,
        evidence: impl FnOnce() -> Evidence,
        findings: &mut Findings,
    ) -> bool {
        let key = &self.track.key;
        let id = self.sends[place].id;
        match self.sends[place].seq {
            Some(other) if other == seq => return true,
            Some(other) => {
                let known = self.attempts(place);
                findings.add(Rule::S2, key, at, || {
                    let text = format!("message {id} lies at seq {other} and at seq {seq}");
                    (text, known.into_iter().chain([evidence()]).collect())
                });
                return false;
            }
            None => {}
        }
        if let Some(holder) = self.by_seq.get(&seq).copied() {
            let (holder_id, known) = (self.sends[holder].id, self.attempts(holder));
            findings.add(Rule::S1, key, at, || {
                let text = format!("seq {seq} names message {holder_id} and message {id}");
                (text, known.into_iter().chain([evidence()]).collect())
            });
            return false;
        }
        self.by_seq.insert(seq, place);
        self.sends[place].seq = Some(seq);
        true
    }

    /// The attempt of a send that is worth showing, if it is in the track.
    pub(super) fn attempts(&self, place: usize) -> Option<Evidence> {
        self.sends[place].index.map(|index| self.track.evidence(index))
    }

    /// All that lies in the conversation, rising by seq: seq and send.
    pub(super) fn truth(&self) -> Vec<(u64, usize)> {
        let mut truth: Vec<_> = self.by_seq.iter().map(|(seq, place)| (*seq, *place)).collect();
        truth.sort_unstable();
        truth
    }

    pub(super) fn has_acks(&self) -> bool {
        self.sends.iter().any(|send| send.ret != u64::MAX)
    }
}
