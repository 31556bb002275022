//! Stored: what raft-store reads back from its disk besides rows: keys and log records. Their modules are read here as
//! files, since their crate brings the storage engine.
//!
//! Asserts: a key that was read is written as the same bytes, and the order of keys is that of their bytes; a record
//! that was read is written as the same bytes; a record of ours is read in its place and nowhere else, and not with a
//! changed bit.

#[allow(dead_code, reason = "the crate that it belongs to uses it all")]
#[path = "../../raft-store/src/keys.rs"]
mod keys;
#[allow(dead_code, reason = "the crate that it belongs to uses it all")]
#[path = "../../raft-store/src/log_record.rs"]
mod log_record;

use bytes::Bytes;
use seriatim_proto::codec;

use log_record::{HEADER_BYTES, Record, RecordError};

/// Runs the target.
pub fn run(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 4 {
        0 => two_keys(bytes),
        1 => found_record(bytes),
        2 => our_record(bytes),
        _ => sent_record(bytes),
    }
}

fn two_keys(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first() else { return };
    let (first, second) = rest.split_at(rest.len().min(usize::from(*length)));
    let read = [first, second].map(|bytes| {
        let key = keys::decode(bytes)?;
        assert_eq!(keys::encode(&key), bytes, "a key has one form");
        Some(key)
    });
    if let [Some(a), Some(b)] = read {
        assert_eq!(a.cmp(&b), first.cmp(second), "{a:?} and {b:?}");
    }
}

fn found_record(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    // It is read in the place that it names, if it can be read at all.
    let index = bytes.get(10..18).map_or(0, |index| u64::from_be_bytes(index.try_into().expect("eight bytes")));
    let Ok((record, _)) = Record::read(index, bytes.clone()) else { return };
    check(&record, &bytes);
    assert_eq!(
        Record::read(index.wrapping_add(1), bytes),
        Err(RecordError::Place { expected: index.wrapping_add(1), found: index })
    );
}

/// The bytes are the record's but for its chain, which is of the record before it.
fn check(record: &Record, bytes: &[u8]) {
    assert_eq!(record.stored_bytes(), bytes.len());
    let mut written = Vec::new();
    record.write(0, &mut written);
    assert_eq!((&written[..6], &written[10..]), (&bytes[..6], &bytes[10..]));
}

fn our_record(bytes: &[u8]) {
    let Some((head, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return };
    let number = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let previous = u32::from_be_bytes(head[2..6].try_into().expect("four bytes"));
    // The kind that it would be read as.
    let mut stored = vec![1, *[b'b', b'c', b'm'].get(usize::from(head[1] % 3)).expect("one of three")];
    stored.extend_from_slice(&head[2..]);
    stored.extend_from_slice(payload);
    let record = {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&[&stored[..2], &stored[10..HEADER_BYTES]].concat()), payload);
        stored[2..6].copy_from_slice(&crc.to_be_bytes());
        let (record, _) = Record::read(number(10), stored.into()).expect("all but the chain is right");
        record
    };
    let mut written = Vec::new();
    let chain = record.write(previous, &mut written);
    let read = Record::read_linked(record.index, written.clone().into(), Some(previous));
    assert_eq!(read, Ok((record.clone(), chain)));
    let bit = usize::from(u16::from_be_bytes([head[0], head[1]])) % (written.len() * 8);
    written[bit / 8] ^= 1 << (bit % 8);
    assert!(Record::read_linked(record.index, written.into(), Some(previous)).is_err(), "bit {bit} is changed");
}

fn sent_record(bytes: &[u8]) {
    let Ok(record) = codec::decode::<Record>(bytes) else { return };
    let mut written = Vec::new();
    record.write(7, &mut written);
    check(&record, &written);
    assert_eq!(Record::read(record.index, written.into()).map(|(read, _)| read), Ok(record));
}
