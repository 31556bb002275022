//! Verify: proves from a page alone that nothing is missing, changed or out of order in it.

use seriatim_proto::chain;
use seriatim_proto::ids::{Chain, Seq, UserId};
use seriatim_proto::store::InboxEntry;

use crate::entry::SyncPage;

/// What a page proves wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// An entry names another predecessor than the page shows.
    #[error("entry {seq} names another predecessor")]
    Predecessor {
        /// which entry
        seq: Seq,
    },
    /// An entry's link does not follow from its predecessor's: something is missing or was changed.
    #[error("the chain breaks at entry {seq}")]
    Broken {
        /// which entry
        seq: Seq,
    },
    /// A body does not match its hash.
    #[error("the body of entry {seq} was changed")]
    Body {
        /// which entry
        seq: Seq,
    },
}

/// Recomputes the links of a page of `user`'s inbox from `previous`, the chain at the last entry before it
/// ([`Chain::default`] before the first). The chain at the page's last entry, for the next page.
pub fn verify_page(user: &UserId, previous: Chain, page: &SyncPage) -> Result<Chain, ChainError> {
    let mut chain = previous;
    let mut last: Option<Seq> = None;
    for entry in &page.entries {
        let seq = entry.seq;
        if last.is_some() && entry.prev_seq != last {
            return Err(ChainError::Predecessor { seq });
        }
        let header = InboxEntry::header_bytes(&entry.conversation.id_for(user), &entry.entry_ref());
        chain = chain::link(chain, entry.prev_seq, seq, &header);
        if entry.chain.is_some_and(|said| said != chain) {
            return Err(ChainError::Broken { seq });
        }
        if !entry.body_matches() {
            return Err(ChainError::Body { seq });
        }
        last = Some(seq);
    }
    match last {
        Some(seq) if page.chain != chain => Err(ChainError::Broken { seq }),
        Some(_) | None => Ok(chain),
    }
}
