//! Web: a WebTransport session on an HTTP/3 connection, with the certificate that the gateway publishes.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::BytesMut;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use seriatim_proto::wire::{self, FrameDecoder, lane};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use web_transport_proto::{
    Capsule, ConnectRequest, ConnectResponse, Frame, Http3CapsuleReader, Settings, StreamUni, VarInt,
};

use super::{RawError, RawEvent, RawStream, RawTarget, connect_error, read};
use crate::endpoint::tls_config;

/// Where a gateway says which certificate it shows to WebTransport.
const PUBLISHED: &str = "/.well-known/seriatim-wt";
/// Longest answer there.
const PUBLISHED_BYTES_MAX: u64 = 64 << 10;
/// Close code of HTTP/3 for an end without an error.
const H3_NO_ERROR: u32 = 0x100;

/// What a session keeps open, and its number.
pub(super) struct Session {
    id: u64,
    _settings: SendStream,
    _connect: SendStream,
    _endpoint: quinn::Endpoint,
}

impl Session {
    /// What a bidirectional stream of the session begins with.
    pub(super) fn stream_header(&self) -> BytesMut {
        let mut header = BytesMut::new();
        Frame::WEBTRANSPORT.encode(&mut header);
        VarInt::try_from(self.id).expect("a stream id is a varint").encode(&mut header);
        header
    }
}

/// A session, and nothing said in it.
pub(super) async fn connect(
    target: &RawTarget,
    sink: &mpsc::Sender<RawEvent>,
) -> Result<(Connection, Session), RawError> {
    let mut tls = tls_config(&target.ca_pem, None).map_err(|error| RawError::Handshake(error.to_string()))?;
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let hashes = published(target).await?;
    // None: its certificate is one that browsers know.
    if !hashes.is_empty() {
        tls.dangerous().set_certificate_verifier(Arc::new(ByHash(hashes)));
    }
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| RawError::Handshake(error.to_string()))?;
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let local: SocketAddr = match target.address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let endpoint = quinn::Endpoint::client(local).map_err(|error| RawError::Unreachable(error.to_string()))?;
    let connecting = endpoint.connect_with(config, target.address, &target.server_name);
    let connection = connecting.map_err(|error| RawError::Handshake(error.to_string()))?;
    let connection = connection.await.map_err(|error| connect_error(&error))?;
    match open(&connection, target).await {
        Ok((settings, connect, answers)) => {
            let id = quinn::VarInt::from(connect.id()).into_inner();
            tokio::spawn(watch(connection.clone(), answers, sink.clone()));
            tokio::spawn(accept(connection.clone(), id, sink.clone()));
            let session = Session { id, _settings: settings, _connect: connect, _endpoint: endpoint };
            Ok((connection, session))
        }
        Err(error) => {
            connection.close(H3_NO_ERROR.into(), b"");
            Err(error)
        }
    }
}

/// SETTINGS, and a request for a session.
async fn open(connection: &Connection, target: &RawTarget) -> Result<(SendStream, SendStream, RecvStream), RawError> {
    let lost = |error: &dyn std::fmt::Display| RawError::Unreachable(error.to_string());
    let refused = |error: &dyn std::fmt::Display| RawError::Refused(format!("WebTransport: {error}"));
    let mut said = Settings::default();
    said.enable_webtransport(1);
    let mut settings = connection.open_uni().await.map_err(|error| lost(&error))?;
    said.write(&mut settings).await.map_err(|error| lost(&error))?;
    let url = format!("https://{}:{}{}", bracketed(&target.server_name), target.address.port(), lane::PATH);
    let url: url::Url = url.parse().map_err(|error| refused(&error))?;
    let protocol = std::str::from_utf8(wire::ALPN).expect("the protocol's name is ASCII");
    let (mut connect, mut answers) = connection.open_bi().await.map_err(|error| lost(&error))?;
    let request = ConnectRequest::new(url).with_protocol(protocol);
    request.write(&mut connect).await.map_err(|error| lost(&error))?;
    let answer = ConnectResponse::read(&mut answers).await.map_err(|error| refused(&error))?;
    if !answer.status.is_success() {
        return Err(refused(&answer.status));
    }
    match answer.protocol {
        Some(chosen) if chosen == protocol => Ok((settings, connect, answers)),
        other => Err(refused(&format!("the protocol is {other:?}, not {protocol}"))),
    }
}

/// A host as a URL names it.
pub(super) fn bracketed(name: &str) -> String {
    if name.contains(':') { format!("[{name}]") } else { name.to_owned() }
}

/// The hashes of the gateway's certificates for WebTransport, as it publishes them over TCP.
async fn published(target: &RawTarget) -> Result<Vec<String>, RawError> {
    let stream = TcpStream::connect(target.address).await.map_err(|error| RawError::Unreachable(error.to_string()))?;
    let name = ServerName::try_from(target.server_name.clone());
    let name = name.map_err(|error| RawError::Handshake(error.to_string()))?;
    let stream = target.endpoint.tls().connect(name, stream).await;
    let mut stream = stream.map_err(|error| RawError::Handshake(error.to_string()))?;
    let host = format!("{}:{}", bracketed(&target.server_name), target.address.port());
    let request = format!("GET {PUBLISHED} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let lost = |error: io::Error| RawError::Unreachable(format!("{PUBLISHED}: {error}"));
    stream.write_all(request.as_bytes()).await.map_err(lost)?;
    let mut answer = Vec::new();
    // Some end without TLS's farewell: what was said before counts.
    let _ = stream.take(PUBLISHED_BYTES_MAX).read_to_end(&mut answer).await;
    hashes_in(&String::from_utf8_lossy(&answer)).map_err(|error| RawError::Refused(format!("{PUBLISHED}: {error}")))
}

/// `hashes` of an HTTP answer whose body is JSON.
fn hashes_in(answer: &str) -> Result<Vec<String>, String> {
    let status = answer.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        return Err(format!("the HTTP status is `{status}`"));
    }
    // A body in chunks has their lengths around it.
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let json = body.find('{').zip(body.rfind('}')).map_or("", |(start, end)| &body[start..=end]);
    let value: serde_json::Value = serde_json::from_str(json).map_err(|error| format!("no JSON: {error}"))?;
    let hashes = value["hashes"].as_array().ok_or("it has no `hashes`")?;
    let hash =
        |hash: &serde_json::Value| hash.as_str().map(str::to_lowercase).ok_or_else(|| "a hash is no text".to_owned());
    hashes.iter().map(hash).collect()
}

/// The capsule says the code; where there is none the connection's own close does.
async fn watch(connection: Connection, answers: RecvStream, sink: mpsc::Sender<RawEvent>) {
    let mut capsules = Http3CapsuleReader::new(answers);
    let code = loop {
        match capsules.read().await {
            Ok(Some(Capsule::CloseWebTransportSession { code, .. })) => break Some(code),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break None,
        }
    };
    let code = match code {
        Some(code) => {
            connection.close(H3_NO_ERROR.into(), b"");
            Some(code)
        }
        None => match connection.closed().await {
            ConnectionError::ApplicationClosed(close) => {
                web_transport_proto::error_from_http3(close.error_code.into_inner())
            }
            _ => None,
        },
    };
    let _ = sink.send(RawEvent::Closed(code)).await;
}

async fn accept(connection: Connection, session: u64, sink: mpsc::Sender<RawEvent>) {
    let mut count = 0;
    while let Ok(mut recv) = connection.accept_uni().await {
        match varint(&mut recv).await {
            Some(kind) if kind == StreamUni::WEBTRANSPORT.0.into_inner() => {
                if varint(&mut recv).await != Some(session) {
                    let _ = sink.send(RawEvent::Broken("a stream of no session".to_owned())).await;
                    return;
                }
                count += 1;
                tokio::spawn(read(recv, FrameDecoder::default(), RawStream::Inbox(count), sink.clone()));
            }
            // HTTP/3's own: settings, tables, and whatever a later version has.
            Some(_) => {
                tokio::spawn(async move { while let Ok(Some(_)) = recv.read_chunk(1024, true).await {} });
            }
            None => {}
        }
    }
}

/// QUIC's variable-length integer: the two highest bits say how many bytes it has.
async fn varint(recv: &mut RecvStream) -> Option<u64> {
    let mut bytes = [0; 8];
    recv.read_exact(&mut bytes[..1]).await.ok()?;
    let length = 1usize << (bytes[0] >> 6);
    recv.read_exact(&mut bytes[1..length]).await.ok()?;
    let first = u64::from(bytes[0] & 0x3f);
    Some(bytes[1..length].iter().fold(first, |value, byte| value << 8 | u64::from(*byte)))
}

/// Trusts certificates by their SHA-256 alone, as browsers do with `serverCertificateHashes`.
#[derive(Debug)]
struct ByHash(Vec<String>);

impl ServerCertVerifier for ByHash {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.0.contains(&sha256(end_entity)) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// In hexadecimal.
fn sha256(bytes: &[u8]) -> String {
    use aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("a suite of TLS 1.3");
    suite.common.hash_provider.hash(bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_found_in_whole_and_in_chunked_answers_and_nowhere_else() {
        let json = r#"{"port":4433,"hashes":["AB","cd"]}"#;
        let whole = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{json}");
        assert_eq!(hashes_in(&whole), Ok(vec!["ab".to_owned(), "cd".to_owned()]));
        let chunked = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n22\r\n{json}\r\n0\r\n\r\n");
        assert_eq!(hashes_in(&chunked), hashes_in(&whole));
        assert_eq!(hashes_in("HTTP/1.1 200 OK\r\n\r\n{\"hashes\":[]}"), Ok(Vec::new()));
        for wrong in ["", "HTTP/1.1 404 Not Found\r\n\r\n{\"hashes\":[]}", "HTTP/1.1 200 OK\r\n\r\n{}", "nonsense"] {
            assert!(hashes_in(wrong).is_err(), "{wrong}");
        }
        assert!(hashes_in("HTTP/1.1 200 OK\r\n\r\n{\"hashes\":[7]}").is_err());
    }

    #[test]
    fn a_hash_is_that_of_sha_256() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
