//! Chain: hashes by which a reader proves that nothing is missing, changed or out of order.
//!
//! Each entry of a conversation or an inbox stores `chain = H(previous chain, prev_seq, seq, digest)`, where
//! `digest` binds the entry's header and its body *hash*. So the chain still proves itself after a body was erased.

use crate::ids::{BodyHash, Chain, Seq};

/// `H(salt, body)`. The salt is made by the sender's SDK and is the same on every attempt.
pub fn body_hash(salt: &[u8], body: &[u8]) -> BodyHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(salt.len() as u64).to_be_bytes());
    hasher.update(salt);
    hasher.update(body);
    BodyHash(short(hasher))
}

/// The next link. `previous` is [`Chain::default`] and `prev_seq` `None` for the first entry.
/// `header` is the entry's header in its stored bytes.
pub fn link(previous: Chain, prev_seq: Option<Seq>, seq: Seq, header: &[u8]) -> Chain {
    let mut input = [0u8; 32];
    input[..16].copy_from_slice(&previous.0);
    input[16..24].copy_from_slice(&prev_seq.map_or(0, Seq::get).to_be_bytes());
    input[24..].copy_from_slice(&seq.get().to_be_bytes());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&input);
    hasher.update(header);
    Chain(short(hasher))
}

fn short(hasher: blake3::Hasher) -> [u8; 16] {
    let mut out = [0u8; 16];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn salt_and_body_do_not_run_together() {
        assert_ne!(body_hash(b"ab", b"c"), body_hash(b"a", b"bc"));
    }

    #[test]
    fn a_link_binds_everything() {
        let one = link(Chain::default(), None, Seq::FIRST, b"h");
        assert_ne!(one, link(Chain([1; 16]), None, Seq::FIRST, b"h"));
        assert_ne!(one, link(Chain::default(), Some(Seq::FIRST), Seq::FIRST, b"h"));
        assert_ne!(one, link(Chain::default(), None, Seq::FIRST.next(), b"h"));
        assert_ne!(one, link(Chain::default(), None, Seq::FIRST, b"i"));
    }
}
