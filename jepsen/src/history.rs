//! History: what clients asked and saw, one JSON object a line, so that any checker can judge the same run.
//!
//! A run's folder holds:
//! ```text
//!  history.jsonl       operations of clients, in the format that outside checkers read ([`Op`])
//!  inbox.jsonl         what devices were given: pages of sync and pushed entries ([`Seen`])
//!  conversation.jsonl  every conversation as its members read it at the end ([`ConversationRead`])
//!  nemesis.jsonl       what was done to the cluster, on the same clock ([`Fault`])
//!  leaders.jsonl       who led, again and again, if faults were kept apart ([`Leaders`])
//! ```
//! # What the checkers rest on
//! - Everything that enters a conversation is an `append` of its id: `create` and `members` entries as well. But a
//!   change of members that nobody knows the outcome of is named only if it is seen in the end.
//! - A `sync` operation shows all of `key` from `from` on: for a group it is only recorded for members whose stay covers
//!   all of it (founders who never leave). What others read is a [`ConversationRead`] or nothing.
//! - `maxseq` of a conversation is its highest seq (the tail less one), 0 while it is empty; of a counter it is what
//!   `Current` answers.
//! - A group's `create` entry may leave its sender out of `added`: he is a member all the same.
//! - A [`ConversationRead`] is what that user may see: his stays.
//!
//! All times are nanoseconds since the run began, on one monotonic clock.

mod lines;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use lines::{HistoryWriter, LineError, for_each_line, read_lines};

/// Operations of clients, in a run's folder.
pub const HISTORY_FILE: &str = "history.jsonl";
/// What devices were given.
pub const INBOX_FILE: &str = "inbox.jsonl";
/// Conversations as their members read them at the end.
pub const CONVERSATION_FILE: &str = "conversation.jsonl";
/// What was done to the cluster.
pub const NEMESIS_FILE: &str = "nemesis.jsonl";
/// Who led, again and again.
pub const LEADERS_FILE: &str = "leaders.jsonl";
/// Seed, options and versions of the run.
pub const RUN_FILE: &str = "run.json";

/// What an operation is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Function {
    /// `log`: send a message into a conversation
    Append,
    /// `log`: read a conversation from a seq on
    Sync,
    /// `log`, `seq`: where a conversation or counter stands
    Maxseq,
    /// `seq`: take the next number of a counter
    Next,
    /// `register`
    Read,
    /// `register`
    Write,
    /// `register`
    Cas,
    /// `lease`: a grant
    Lease,
    /// `lease`: a fenced write
    Commit,
}

impl Function {
    /// As in the file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Sync => "sync",
            Self::Maxseq => "maxseq",
            Self::Next => "next",
            Self::Read => "read",
            Self::Write => "write",
            Self::Cas => "cas",
            Self::Lease => "lease",
            Self::Commit => "commit",
        }
    }
    /// Does it change something, so that its `ok` is an ack?
    pub fn changes(self) -> bool {
        match self {
            Self::Append | Self::Next | Self::Write | Self::Cas | Self::Lease | Self::Commit => true,
            Self::Sync | Self::Maxseq | Self::Read => false,
        }
    }
}

/// How an operation ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// it took effect
    Ok,
    /// it surely had no effect
    Fail,
    /// nobody knows: it may take effect at any later time
    Info,
}

/// An entry that a `sync` returned.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Item {
    /// place in the conversation
    pub seq: u64,
    /// client message id
    pub id: String,
}

/// One operation of one client, as outside checkers read it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Op {
    /// client process; one operation at a time each
    pub proc: u64,
    /// conversation, counter, register or lease scope; each is checked on its own
    pub key: String,
    /// what it is
    pub f: Function,
    /// when it was called, ns
    pub call: u64,
    /// when it ended, ns
    pub ret: u64,
    /// how it ended
    #[serde(rename = "type")]
    pub ended: Ended,
    /// `append`: client message id; the same id again is a retry
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// the seq returned; a register's value; a commit's seq
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// `sync`: first seq asked
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// `sync`: most entries, 0 for all
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// `sync`: what was returned
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<Item>>,
    /// `lease`, `commit`: under which epoch
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// `lease`: first granted
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lo: Option<u64>,
    /// `lease`: end of what was granted
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hi: Option<u64>,
    /// `commit`: was it refused as fenced?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reject: Option<bool>,
    /// `cas`: the expected value (registers start at 0)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<u64>,
}

impl Op {
    /// An operation of nothing yet but its frame; `interval` is call and return.
    pub fn new(proc: u64, key: &str, f: Function, interval: (u64, u64), ended: Ended) -> Self {
        Self {
            proc,
            key: key.to_owned(),
            f,
            call: interval.0,
            ret: interval.1,
            ended,
            id: None,
            seq: None,
            from: None,
            limit: None,
            items: None,
            epoch: None,
            lo: None,
            hi: None,
            reject: None,
            old: None,
        }
    }
}

/// An entry of an inbox or of a conversation as a device was given it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SeenEntry {
    /// place in the inbox; absent in a conversation's history
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// entry before it in the inbox
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_seq: Option<u64>,
    /// messages up to and with it
    pub ordinal: u64,
    /// `direct:alice:bob` or `group:<32 hex digits>`
    pub conversation: String,
    /// place in the conversation
    pub conversation_seq: u64,
    /// `message`, `create`, `members`
    pub kind: String,
    /// who wrote it
    pub sender: String,
    /// 32 hex digits
    pub id: String,
    /// hash of salt and body, hex
    pub body_hash: String,
    /// the body as text (the workload's bodies are text), absent if it was not given
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// does the body match the hash?
    pub body_matches: bool,
    /// who joined
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<String>,
    /// who left
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
}

/// What a device was given, a line of `inbox.jsonl`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "e", rename_all = "lowercase")]
pub enum Seen {
    /// A page of sync.
    Page {
        /// client process
        proc: u64,
        /// whose inbox
        user: String,
        /// which device of his
        device: String,
        /// through which gateway
        gateway: String,
        /// when it was asked, ns
        call: u64,
        /// when it came, ns
        ret: u64,
        /// first seq asked
        from: u64,
        /// nothing below it is missing
        upto: u64,
        /// the inbox's tail when it was read
        tail: u64,
        /// first kept
        trim: u64,
        /// there is more
        more: bool,
        /// entries from `from` on were trimmed
        too_long: bool,
        /// did the chain of the page verify from the page before (absent: not checked)?
        #[serde(default, skip_serializing_if = "Option::is_none")]
        chain_verified: Option<bool>,
        /// the final sync after all faults were healed?
        last: bool,
        /// rising by seq
        entries: Vec<SeenEntry>,
    },
    /// An entry that the subscription of a device yielded.
    Push {
        /// client process
        proc: u64,
        /// whose inbox
        user: String,
        /// which device
        device: String,
        /// which life of the subscription: a device that subscribes anew starts at `from` again
        session: u64,
        /// where the subscription began
        from: u64,
        /// when it came, ns
        at: u64,
        /// the entry
        entry: SeenEntry,
    },
    /// A cursor that was acknowledged, or read.
    Cursor {
        /// client process
        proc: u64,
        /// whose
        user: String,
        /// which device
        device: String,
        /// when it was asked, ns
        call: u64,
        /// when it was answered, ns
        ret: u64,
        /// what was asked for, absent for a read
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wanted: Option<u64>,
        /// what was answered, absent for an unknown outcome
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answered: Option<u64>,
    },
    /// Something that must be refused, and what came of it.
    Denied {
        /// client process
        proc: u64,
        /// what was tried, such as `history of a stranger`
        what: String,
        /// when, ns
        at: u64,
        /// was it refused?
        refused: bool,
        /// the error code
        code: String,
    },
}

/// A conversation as a member read it after all faults were healed, a line of `conversation.jsonl`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConversationRead {
    /// which
    pub conversation: String,
    /// who read it
    pub user: String,
    /// through which gateway
    pub gateway: String,
    /// when it was asked, ns
    pub call: u64,
    /// when it was complete, ns
    pub ret: u64,
    /// all of it, in order
    pub entries: Vec<SeenEntry>,
}

/// Did a fault take effect?
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// it was done, and seen to be done
    Installed,
    /// it was not done: the machine or the moment did not allow it
    Skipped,
    /// nobody knows
    Indeterminate,
}

/// Something done to the cluster, a line of `nemesis.jsonl`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// number of this fault in the run; its healing has the same
    pub number: u64,
    /// kind, such as `kill-leader`
    pub kind: String,
    /// `inject` or `heal`
    pub act: Act,
    /// when it began, ns
    pub began: u64,
    /// when it was done, ns
    pub ended: u64,
    /// names of nodes
    pub targets: Vec<String>,
    /// did it take effect?
    pub effect: Effect,
    /// for people
    pub detail: String,
}

/// One half of a fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// begin
    Inject,
    /// end
    Heal,
}

/// A look at the cluster, a line of `leaders.jsonl`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Leaders {
    /// when it began, ns
    pub call: u64,
    /// when it was done, ns
    pub ret: u64,
    /// by group, as far as stores answered
    pub groups: BTreeMap<u32, Leader>,
    /// slots that logic nodes have claimed so far, over their restarts; absent unless all answered
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<u64>,
}

/// Who leads a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Leader {
    /// name of the store
    pub store: String,
    /// since which election
    pub term: u64,
}
