//! Doors: what strangers say before they have a session: HTTP/3 settings, requests with packed headers, capsules.
//!
//! The parsers are a library's, called as the gateway calls them: they run before anybody has shown a token, so a
//! panic in them would be anybody's way to end a gateway. Asserts: no panic; reading a stream and reading a buffer come
//! to the same; what was read is written and read again as the same; none takes more than it was given.

use bytes::BytesMut;
use futures_util::FutureExt;
use web_transport_proto::{Capsule, ConnectRequest, ConnectResponse, Http3CapsuleReader, Settings, StreamUni, VarInt};

/// Runs the target.
pub fn run(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 6 {
        0 => settings(bytes),
        1 => request(bytes),
        2 => response(bytes),
        3 => capsule(bytes),
        4 => capsules(bytes),
        _ => numbers(bytes),
    }
}

/// The bytes are all there, so nothing is ever waited for.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing to wait for")
}

fn settings(bytes: &[u8]) {
    let mut stream = bytes;
    let read = at_once(Settings::read(&mut stream));
    let mut buffer = bytes;
    let decoded = Settings::decode(&mut buffer);
    // A buffer that ends early may go on; a stream that does may not.
    if let (Ok(read), Ok(decoded)) = (&read, &decoded) {
        assert_eq!(**read, **decoded);
        let mut out = BytesMut::new();
        read.encode(&mut out);
        assert_eq!(**read, *Settings::decode(&mut &out[..]).expect("what was written is read"));
    }
    assert!(buffer.len() <= bytes.len() && stream.len() <= bytes.len());
}

fn request(bytes: &[u8]) {
    let mut stream = bytes;
    let read = at_once(ConnectRequest::read(&mut stream));
    let decoded = ConnectRequest::decode(&mut &bytes[..]);
    if let (Ok(read), Ok(decoded)) = (&read, &decoded) {
        assert_eq!((&read.url, &read.protocols, &read.headers), (&decoded.url, &decoded.protocols, &decoded.headers));
    }
    let Ok(request) = read else { return };
    let mut out = BytesMut::new();
    if request.encode(&mut out).is_ok() {
        let again = ConnectRequest::decode(&mut &out[..]).expect("what was written is read");
        // A fragment is nobody's but the browser's: it is not written.
        let ours = |request: &ConnectRequest| {
            let url = &request.url;
            (
                url.authority().to_owned(),
                url.path().to_owned(),
                url.query().map(str::to_owned),
                request.protocols.clone(),
            )
        };
        assert_eq!(ours(&again), ours(&request));
    }
}

fn response(bytes: &[u8]) {
    let mut stream = bytes;
    let Ok(response) = at_once(ConnectResponse::read(&mut stream)) else { return };
    let mut out = BytesMut::new();
    if response.encode(&mut out).is_ok() {
        let again = ConnectResponse::decode(&mut &out[..]).expect("what was written is read");
        assert_eq!((again.status, again.protocol), (response.status, response.protocol));
    }
}

fn capsule(bytes: &[u8]) {
    let mut stream = bytes;
    let read = at_once(Capsule::read(&mut stream));
    let mut buffer = bytes;
    let decoded = Capsule::decode(&mut buffer);
    let (Ok(Some(read)), Ok(decoded)) = (read, decoded) else { return };
    assert_eq!((&read, stream), (&decoded, buffer));
    let mut out = BytesMut::new();
    read.encode(&mut out);
    assert_eq!(Capsule::decode(&mut &out[..]).expect("what was written is read"), read);
}

fn capsules(bytes: &[u8]) {
    let mut reader = Http3CapsuleReader::new(bytes);
    let mut count = 0;
    while let Ok(Some(_)) = at_once(reader.read()) {
        count += 1;
        assert!(count <= bytes.len(), "a capsule of no bytes");
    }
}

fn numbers(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(number) = VarInt::decode(&mut rest) {
        let mut out = BytesMut::new();
        StreamUni(number).encode(&mut out);
        assert_eq!(VarInt::decode(&mut &out[..]).expect("what was written is read"), number);
    }
}
