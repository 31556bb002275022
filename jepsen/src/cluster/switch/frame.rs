//! Frame: what of an Ethernet frame a switch reads, and how a frame is spoiled.

use std::ops::Range;

use rand::RngExt;
use rand::rngs::StdRng;

/// Bytes of a frame, from the destination's address on.
pub(super) type Frame = Vec<u8>;
/// Address of an interface.
pub(super) type Mac = [u8; 6];

/// Both addresses and the type.
const HEADER_BYTES: usize = 14;
const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const TYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const IPV6_HEADER_BYTES: usize = 40;
const PROTOCOL_UDP: u8 = 17;
const UDP_HEADER_BYTES: usize = 8;

/// Destination and source; nothing of what is no frame.
pub(super) fn addresses(frame: &[u8]) -> Option<(Mac, Mac)> {
    (frame.len() >= HEADER_BYTES).then_some(())?;
    Some((frame[..6].try_into().ok()?, frame[6..12].try_into().ok()?))
}

/// Is it for many?
pub(super) fn is_group(mac: Mac) -> bool {
    mac[0] & 1 == 1
}

/// What became of a frame that was to be spoiled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Spoiled {
    /// one bit flipped: no checksum of the kernel can miss it
    Plain,
    /// two bits of a datagram flipped so that its checksum is right: only its receiver can notice
    Disguised,
}

/// Flips bits of the IP payload. `None` if there is none: headers of Ethernet and IP are left alone, else the frame
/// would be lost, not spoiled.
///
/// Nodes talk TCP in plain text under test, and 16 bits of checksum are all that guards it: more flips than one might
/// cancel out, which would be our lie and not a fault of the product. UDP is QUIC, which has a seal of its own: of
/// every two datagrams one keeps its checksum, so that the seal is tried too.
pub(super) fn spoil(frame: &mut [u8], rng: &mut StdRng) -> Option<Spoiled> {
    let (protocol, payload) = payload(frame)?;
    if protocol == PROTOCOL_UDP
        && rng.random_bool(0.5)
        && let Some((one, other, mask)) = balanced_pair(frame, &payload, rng)
    {
        frame[one] ^= mask;
        frame[other] ^= mask;
        return Some(Spoiled::Disguised);
    }
    let byte = rng.random_range(payload);
    frame[byte] ^= 1 << rng.random_range(0..8);
    Some(Spoiled::Plain)
}

/// Protocol and place of what an IP packet carries; never empty.
fn payload(frame: &[u8]) -> Option<(u8, Range<usize>)> {
    let packet = frame.get(HEADER_BYTES..)?;
    let length = |at: usize| Some(usize::from(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?)));
    let (protocol, start, end) = match [frame[12], frame[13]] {
        TYPE_IPV4 => (*packet.get(9)?, usize::from(packet.first()? & 0x0f) * 4, length(2)?),
        TYPE_IPV6 => (*packet.get(6)?, IPV6_HEADER_BYTES, IPV6_HEADER_BYTES + length(4)?),
        _ => return None,
    };
    // What follows the packet pads the frame: nobody reads it.
    let range = HEADER_BYTES + start..HEADER_BYTES + end.min(packet.len());
    (!range.is_empty()).then_some((protocol, range))
}

/// Two bytes of a datagram's body and a bit that is set in one of them only, at the same place of their 16-bit words:
/// with both flipped the sum stays.
fn balanced_pair(frame: &[u8], payload: &Range<usize>, rng: &mut StdRng) -> Option<(usize, usize, u8)> {
    let body = payload.start + UDP_HEADER_BYTES..payload.end;
    if body.len() < 4 {
        return None;
    }
    let mask = 1 << rng.random_range(0..8);
    let one = rng.random_range(body.clone());
    let alike = body.filter(|at| at % 2 == one % 2 && (frame[*at] ^ frame[one]) & mask != 0);
    let others: Vec<usize> = alike.collect();
    let other = *others.get(rng.random_range(0..others.len().max(1)))?;
    Some((one, other, mask))
}

#[cfg(test)]
pub(super) mod tests {
    use rand::SeedableRng;

    use super::*;

    /// An IPv4 packet of so many bytes in a frame that is padded by four.
    pub(in super::super) fn ipv4(protocol: u8, body: &[u8]) -> Frame {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00];
        let mut header = [0; 20];
        header[0] = 0x45;
        header[2..4].copy_from_slice(&(20 + body.len() as u16).to_be_bytes());
        header[9] = protocol;
        frame.extend(header);
        frame.extend(body);
        frame.extend([0; 4]);
        frame
    }

    fn flipped(one: &[u8], other: &[u8]) -> Vec<usize> {
        one.iter().zip(other).enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at).collect()
    }

    fn sum(bytes: &[u8]) -> u32 {
        bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum::<u32>()
            % 0xffff
    }

    #[test]
    fn a_segment_loses_one_bit_and_its_headers_none() {
        let whole = ipv4(6, &[0xa5; 60]);
        for seed in 0..500 {
            let mut frame = whole.clone();
            assert_eq!(spoil(&mut frame, &mut StdRng::seed_from_u64(seed)), Some(Spoiled::Plain));
            let at = flipped(&whole, &frame);
            assert!(at.len() == 1 && (34..94).contains(&at[0]), "seed {seed}: {at:?}");
            assert_eq!((whole[at[0]] ^ frame[at[0]]).count_ones(), 1);
            assert_ne!(sum(&whole[34..94]), sum(&frame[34..94]), "seed {seed}: no checksum could notice");
        }
    }

    #[test]
    fn half_of_the_datagrams_keep_their_checksum() {
        let body: Vec<u8> = (0..61).map(|byte: u8| byte.wrapping_mul(37)).collect();
        let whole = ipv4(PROTOCOL_UDP, &body);
        let mut disguised = 0;
        for seed in 0..500 {
            let mut frame = whole.clone();
            let spoiled = spoil(&mut frame, &mut StdRng::seed_from_u64(seed)).unwrap();
            let at = flipped(&whole, &frame);
            assert!(at.iter().all(|at| (34..95).contains(at)), "seed {seed}: {at:?}");
            let same_sum = sum(&whole[34..95]) == sum(&frame[34..95]);
            assert_eq!((same_sum, at.len()), if spoiled == Spoiled::Disguised { (true, 2) } else { (false, 1) });
            assert!(spoiled == Spoiled::Plain || at[0] >= 42, "the header was hit");
            disguised += u32::from(spoiled == Spoiled::Disguised);
        }
        assert!((200..=300).contains(&disguised), "{disguised} of 500");
    }

    #[test]
    fn what_carries_nothing_is_left_alone() {
        let mut arp = ipv4(6, &[1; 20]);
        arp[13] = 0x06;
        for whole in [arp, ipv4(6, &[]), vec![1; 9], vec![0; HEADER_BYTES]] {
            let mut frame = whole.clone();
            assert_eq!(spoil(&mut frame, &mut StdRng::seed_from_u64(1)), None);
            assert_eq!(frame, whole);
        }
    }

    #[test]
    fn a_packet_that_lies_about_its_length_is_read_within_its_frame() {
        let mut frame = ipv4(6, &[7; 20]);
        frame[16..18].copy_from_slice(&u16::MAX.to_be_bytes());
        let end = frame.len();
        assert_eq!(payload(&frame), Some((6, 34..end)));
        frame[14] = 0x4f;
        assert_eq!(payload(&frame[..50]), None);
    }
}
