//! Source: the corpus file, as it is: conversations of turns, each turn one sender's messages.
//!
//! The format is that of PyPI's `chitchat-dataset`; the bundled sample has the same.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::Deserialize;

/// One conversation of the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Conversation {
    /// in turns; order is what counts
    pub messages: Vec<Vec<Message>>,
}

/// One message of the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Message {
    /// what was said; may be empty
    pub text: String,
    /// RFC 3339, UTC, whole seconds: its text sorts like its time
    pub timestamp: String,
    /// who
    pub sender: String,
}

/// How much of the file is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// the first so many messages: whole conversations by their start, the last one cut
    Messages(usize),
    /// everything
    All,
}

impl std::str::FromStr for Amount {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Amount::All);
        }
        match text.parse() {
            Ok(count) if count > 0 => Ok(Amount::Messages(count)),
            _ => Err(format!("`{text}` is neither a number of messages nor `all`")),
        }
    }
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Amount::Messages(count) => write!(f, "{count}"),
            Amount::All => f.write_str("all"),
        }
    }
}

/// Reads the file: conversations by name, in the order in which they started, cut to `amount` messages.
pub fn read(path: &Path, amount: Amount) -> anyhow::Result<Vec<(String, Vec<Message>)>> {
    let bytes = std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
    let found: BTreeMap<String, Conversation> =
        serde_json::from_slice(&bytes).with_context(|| format!("{} is no corpus file", path.display()))?;
    let mut conversations: Vec<(String, Vec<Message>)> =
        found.into_iter().map(|(name, talk)| (name, talk.messages.into_iter().flatten().collect())).collect();
    conversations.retain(|(_, messages): &(String, Vec<Message>)| !messages.is_empty());
    ensure!(!conversations.is_empty(), "{} holds no messages", path.display());
    conversations.sort_by(|a, b| (&a.1[0].timestamp, &a.0).cmp(&(&b.1[0].timestamp, &b.0)));
    if let Amount::Messages(count) = amount {
        let mut left = count;
        conversations.retain_mut(|(_, messages)| {
            messages.truncate(left);
            left -= messages.len();
            !messages.is_empty()
        });
    }
    Ok(conversations)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> std::path::PathBuf {
        std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("sample/dataset.json")
    }

    #[test]
    fn a_cut_keeps_the_first_messages_in_order() {
        let whole = read(&sample(), Amount::All).unwrap();
        let cut = read(&sample(), Amount::Messages(100)).unwrap();
        assert_eq!(cut.iter().map(|(_, messages)| messages.len()).sum::<usize>(), 100);
        for (place, (name, messages)) in cut.iter().enumerate() {
            assert_eq!(*name, whole[place].0);
            assert_eq!(messages[..], whole[place].1[..messages.len()]);
        }
    }

    #[test]
    fn an_amount_is_a_number_or_all() {
        assert_eq!("all".parse(), Ok(Amount::All));
        assert_eq!("7".parse(), Ok(Amount::Messages(7)));
        assert!("0".parse::<Amount>().is_err() && "many".parse::<Amount>().is_err());
    }
}
