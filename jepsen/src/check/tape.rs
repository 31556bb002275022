//! Tape: a history in memory, one track for each key.
//!
//! Keys are checked one by one, so the operations of a key lie together, each with its line in the file. A track is
//! judged by the model that its operations speak of.

use std::collections::HashMap;
use std::path::Path;

use super::clocks::BentClocks;
use super::verdict::{Evidence, Verdict};
use crate::history::{Function, HISTORY_FILE, LineError, Op, for_each_line};

/// An operation and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Noted {
    /// from 1
    pub(crate) line: u64,
    /// its key is the track's
    pub(crate) op: Op,
}

/// What a key stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Model {
    Log,
    Seq,
    Register,
    Lease,
}

impl Model {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Seq => "seq",
            Self::Register => "register",
            Self::Lease => "lease",
        }
    }

    /// `maxseq` belongs to two models: alone it says nothing.
    fn of(function: Function) -> Option<Self> {
        match function {
            Function::Append | Function::Sync => Some(Self::Log),
            Function::Next => Some(Self::Seq),
            Function::Read | Function::Write | Function::Cas => Some(Self::Register),
            Function::Lease | Function::Commit => Some(Self::Lease),
            Function::Maxseq => None,
        }
    }
}

/// All operations of a key, in the order of the file.
#[derive(Clone, Debug)]
pub(crate) struct Track {
    pub(crate) key: String,
    pub(crate) ops: Vec<Noted>,
}

impl Track {
    /// By the first operation that tells; a key with `maxseq` alone is a counter's.
    pub(crate) fn model(&self) -> Model {
        self.ops.iter().find_map(|noted| Model::of(noted.op.f)).unwrap_or(Model::Seq)
    }

    /// An operation with its key again.
    pub(crate) fn evidence(&self, index: usize) -> Evidence {
        let noted = &self.ops[index];
        Evidence::new(HISTORY_FILE, noted.line, &Op { key: self.key.clone(), ..noted.op.clone() })
    }
}

/// A whole history.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tape {
    pub(crate) tracks: Vec<Track>,
    /// when clocks were further off than promises allow for
    pub(crate) clocks: BentClocks,
    places: HashMap<String, usize>,
}

impl Tape {
    /// Reads a file, and counts what is in it.
    pub(crate) fn read(path: &Path, verdict: &mut Verdict) -> Result<Self, LineError> {
        let mut tape = Self::default();
        for_each_line(path, |line, op| tape.push(line, op, verdict))?;
        Ok(tape)
    }

    /// A history that was made in memory.
    pub(crate) fn of(ops: &[Op], verdict: &mut Verdict) -> Self {
        let mut tape = Self::default();
        for (line, op) in (1u64..).zip(ops) {
            tape.push(line, op.clone(), verdict);
        }
        tape
    }

    /// The operations of a key.
    pub(crate) fn track(&self, key: &str) -> Option<&Track> {
        self.places.get(key).map(|place| &self.tracks[*place])
    }

    fn push(&mut self, line: u64, mut op: Op, verdict: &mut Verdict) {
        verdict.count(&op);
        let key = std::mem::take(&mut op.key);
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None => {
                self.tracks.push(Track { key: key.clone(), ops: Vec::new() });
                self.places.insert(key, self.tracks.len() - 1);
                self.tracks.len() - 1
            }
        };
        self.tracks[place].ops.push(Noted { line, op });
    }
}
