//! Internal: everything that our own processes say to each other and write into rows, in the proto codec.
//!
//! The first byte says as what the rest is read. Asserts: what was read is written and read again as the same, in no
//! more bytes; with a byte too many or too few it is refused; a list written part by part is the list.

use serde::{Serialize, de::DeserializeOwned};
use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::codec::{self, CodecError};
use seriatim_proto::command::{Command, Content, Outcome, pin_of, reaction_of};
use seriatim_proto::logic::{GatewayRequest, GatewayResponse, Identity, PeerRequest, PeerResponse};
use seriatim_proto::meta::Directory;
use seriatim_proto::store::{StoreRequest, StoreResponse};
use seriatim_store_core::Row;

/// Runs the target.
pub fn run(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 14 {
        0 => round_trip::<GatewayRequest>(bytes),
        1 => round_trip::<GatewayResponse>(bytes),
        2 => round_trip::<StoreRequest>(bytes),
        3 => round_trip::<StoreResponse>(bytes),
        4 => round_trip::<PeerRequest>(bytes),
        5 => round_trip::<PeerResponse>(bytes),
        6 => round_trip::<AdminRequest>(bytes),
        7 => round_trip::<AdminResponse>(bytes),
        8 => round_trip::<Row>(bytes),
        9 => round_trip::<Content>(bytes),
        10 => round_trip::<Directory>(bytes),
        11 => list::<Command>(bytes),
        12 => list::<Outcome>(bytes),
        _ => {
            round_trip::<Identity>(bytes);
            if let Some((emoji, _)) = reaction_of(bytes) {
                assert!(!emoji.as_str().is_empty());
            }
            pin_of(bytes);
        }
    }
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(value) = codec::decode::<T>(bytes) else { return };
    let mut written = codec::encode(&value);
    // Numbers may come with zeros in front, which are not written.
    assert!(written.len() <= bytes.len());
    assert_eq!(codec::decode::<T>(&written).expect("what was written is read"), value);
    written.push(0);
    assert_eq!(codec::decode::<T>(&written).expect_err("a byte too many"), CodecError::Trailing(1));
    written.truncate(written.len() - 2);
    codec::decode::<T>(&written).expect_err("a byte too few");
}

fn list<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    round_trip::<Vec<T>>(bytes);
    let Ok(values) = codec::decode::<Vec<T>>(bytes) else { return };
    let parts: Vec<_> = values.iter().map(codec::encode_part).collect();
    assert_eq!(codec::join(parts.iter().map(|part| &part[..])), codec::encode(&values));
}
