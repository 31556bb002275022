//! Codec: how values that we alone read are written: one format version byte, then postcard
//! (<https://postcard.jamesmunns.com/wire-format>).
//!
//! Rules that keep old bytes readable: enum variants are only appended, structs never change; a changed struct is
//! a new variant or a new version byte. Trailing bytes are an error, so that no two readers disagree.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// Version of everything written by [`encode`].
pub const VERSION: u8 = 1;

/// Why bytes are no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Nothing at all.
    #[error("no bytes")]
    Empty,
    /// Written by another version of this program.
    #[error("format version {found}, this program reads {VERSION}")]
    Version {
        /// version byte found
        found: u8,
    },
    /// Not a value of this type.
    #[error("malformed value: {0}")]
    Malformed(postcard::Error),
    /// More bytes than the value has.
    #[error("{0} bytes behind the value")]
    Trailing(usize),
}

/// Writes a value. Cannot fail: our types have no unsized sequences and the buffer grows.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Most values fit at once.
    encode_in(value, Vec::with_capacity(ROOM))
}

/// As [`encode`], in the memory of `buffer`, whose content goes: for many values one after another.
pub fn encode_in<T: Serialize>(value: &T, mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer.push(VERSION);
    postcard::to_extend(value, buffer).expect("values of our own types serialise into a growing buffer")
}

/// As [`encode`], as shareable bytes.
pub fn encode_bytes<T: Serialize>(value: &T) -> Bytes {
    Bytes::from(encode(value))
}

/// As [`encode`], without the version byte: for [`join`].
pub fn encode_part<T: Serialize>(value: &T) -> Bytes {
    encode_bytes(value).slice(1..)
}

/// Writes a list of values that [`encode_part`] wrote one by one, as [`encode`] writes the list.
pub fn join<'a>(parts: impl ExactSizeIterator<Item = &'a [u8]> + Clone) -> Bytes {
    let mut out = encode(&parts.len());
    out.reserve_exact(parts.clone().map(<[u8]>::len).sum());
    parts.for_each(|part| out.extend_from_slice(part));
    Bytes::from(out)
}

/// Reads a value that [`encode`] wrote.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (version, rest) = bytes.split_first().ok_or(CodecError::Empty)?;
    if *version != VERSION {
        return Err(CodecError::Version { found: *version });
    }
    let (value, rest) = postcard::take_from_bytes(rest).map_err(CodecError::Malformed)?;
    if rest.is_empty() { Ok(value) } else { Err(CodecError::Trailing(rest.len())) }
}

/// Bytes that a new buffer has room for.
const ROOM: usize = 192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_parts_are_the_list() {
        for count in [0usize, 1, 127, 128, 300] {
            let values: Vec<(u64, String)> = (0..count as u64).map(|n| (n, format!("value {n}"))).collect();
            let parts: Vec<Bytes> = values.iter().map(encode_part).collect();
            assert_eq!(join(parts.iter().map(|part| &part[..])), encode_bytes(&values));
        }
    }
}
