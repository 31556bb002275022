//! `raftctl cert status`: the certificates that a running gateway serves, and how long they are good.
//!
//! It looks at them as a stranger: it asks on the gateway's TCP port, takes whatever is shown, and judges it afterwards,
//! so that one that has ended is shown too.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::cert;
use crate::failure::{Exit, Failure};
use crate::output::print_text;
use crate::target::Target;

/// Longest answer with the hashes.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// `cert status`: exit code 10 if one of the chain ends within this time, or is not trusted.
pub(super) async fn status(target: &Target, within: Duration) -> Result<Exit, Failure> {
    let gateway = target.gateway()?;
    let (host, _) = gateway.rsplit_once(':').ok_or_else(|| Failure::usage(format!("`{gateway}` is no host:port")))?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| Failure::usage(format!("`{host}` is no name of a server: {error}")))?;
    let late = || Failure::unreachable(format!("no answer from the gateway at {gateway}"));
    let asked = tokio::time::timeout(target.link.timeout, Seen::ask(gateway, name.clone())).await;
    let seen = asked.map_err(|_| late())??;
    let ca = target.ca_pem().ok();
    let trust = ca.as_ref().map(|pem| seen.judge(pem, &name)).transpose()?;
    let cas = seen.issuers(ca.as_deref().unwrap_or_default())?;
    let mut cas_list = cert::list();
    let mut ca_left = None;
    for (number, der) in &cas {
        let certificate = parsed(der, "the CA certificate")?;
        let left = cert::push(&mut cas_list, &format!("CA#{number}"), &certificate, &[])?;
        // Of several under one name, such as an old and a new one, the last to end counts.
        ca_left = ca_left.max(Some(left));
    }
    let (trusted, why) = match &trust {
        None => (Value::Null, None),
        // Not every client asks when the CA ends; some do.
        Some(Ok(())) if ca_left.is_some_and(|left| left <= 0) => (json!(false), Some("the CA has ended".to_owned())),
        Some(Ok(())) => (json!(true), None),
        Some(Err(error)) => (json!(false), Some(error.to_string())),
    };
    let mut list = cert::list();
    let mut least = ca_left.unwrap_or(i64::MAX);
    for (number, der) in seen.chain.iter().enumerate() {
        let certificate = parsed(der, &format!("what the gateway at {gateway} shows"))?;
        let more = [("trusted", trusted.clone()), ("why", json!(why)), ("webtransport", seen.hashes.clone())];
        // Of the chain, one row is the gateway's own.
        let more = if number == 0 { &more[..] } else { &[] };
        least = least.min(cert::push(&mut list, &format!("{gateway}#{}", number + 1), &certificate, more)?);
    }
    list.extend(cas_list);
    list.print(target.output)?;
    if target.output == crate::cli::Format::Table {
        let hashes = seen.hashes["hashes"].as_array().map(Vec::as_slice).unwrap_or_default();
        for hash in hashes.iter().filter_map(Value::as_str) {
            print_text(&format!("WebTransport: sha-256 {hash}"))?;
        }
        if let Some(why) = &why {
            print_text(&format!("not trusted: {why}"))?;
        }
    }
    let soon = i64::try_from(within.as_secs()).unwrap_or(i64::MAX);
    Ok(if why.is_some() || least <= soon { Exit::Unhealthy } else { Exit::Ok })
}

/// What a gateway shows to whoever asks.
struct Seen {
    chain: Vec<CertificateDer<'static>>,
    /// as /.well-known/seriatim-wt has it
    hashes: Value,
}

impl Seen {
    async fn ask(gateway: &str, name: ServerName<'static>) -> Result<Self, Failure> {
        let lost = |error: &dyn std::fmt::Display| {
            Failure::unreachable(format!("failed to ask the gateway at {gateway}: {error}"))
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let witness = Arc::new(Witness { provider: provider.clone(), chain: Mutex::default() });
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| Failure::internal(format!("failed to set up TLS: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(witness.clone())
            .with_no_client_auth();
        let stream = TcpStream::connect(gateway).await.map_err(|error| lost(&error))?;
        let mut stream =
            TlsConnector::from(Arc::new(tls)).connect(name.clone(), stream).await.map_err(|error| lost(&error))?;
        let hashes = published(&mut stream, &name).await.map_err(|error| lost(&error))?;
        let chain = std::mem::take(&mut *witness.chain.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Self { chain, hashes })
    }

    /// The CAs of this file that may have signed the end of the chain, by its name, with their numbers from 1 on.
    fn issuers(&self, ca_pem: &[u8]) -> Result<Vec<(usize, CertificateDer<'static>)>, Failure> {
        let Some(last) = self.chain.last() else { return Ok(Vec::new()) };
        let last = parsed(last, "what the gateway shows")?;
        let mut issuers = Vec::new();
        for (number, ca) in (1..).zip(CertificateDer::pem_slice_iter(ca_pem)) {
            let ca = ca.map_err(|error| Failure::usage(format!("failed to use the CA certificate: {error}")))?;
            if parsed(&ca, "the CA certificate")?.subject().as_raw() == last.issuer().as_raw() {
                issuers.push((number, ca));
            }
        }
        Ok(issuers)
    }

    /// Would a client that trusts this CA take it for the gateway of this name? `Err`: there is no such CA.
    fn judge(&self, ca_pem: &[u8], name: &ServerName<'_>) -> Result<Result<(), rustls::Error>, Failure> {
        let unusable =
            |error: &dyn std::fmt::Display| Failure::usage(format!("failed to use the CA certificate: {error}"));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem) {
            roots.add(certificate.map_err(|error| unusable(&error))?).map_err(|error| unusable(&error))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let verifier = verifier.map_err(|error| unusable(&error))?;
        let Some((first, issuers)) = self.chain.split_first() else {
            return Ok(Err(rustls::Error::NoCertificatesPresented));
        };
        Ok(verifier.verify_server_cert(first, issuers, name, &[], UnixTime::now()).map(drop))
    }
}

fn parsed<'a>(der: &'a CertificateDer<'_>, what: &str) -> Result<X509Certificate<'a>, Failure> {
    let parsed = X509Certificate::from_der(der);
    parsed
        .map(|(_, certificate)| certificate)
        .map_err(|error| Failure::internal(format!("failed to read {what} as a certificate: {error}")))
}

/// What browsers ask for; `null` if this is no gateway of ours.
async fn published(stream: &mut TlsStream<TcpStream>, name: &ServerName<'_>) -> std::io::Result<Value> {
    let request =
        format!("GET /.well-known/seriatim-wt HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", name.to_str());
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    match stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await {
        // An end without TLS's own word for it is an end all the same.
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => return Err(error),
        _ => {}
    }
    let text = String::from_utf8_lossy(&answer);
    let body = text.split_once("\r\n\r\n").filter(|(head, _)| head.starts_with("HTTP/1.1 200")).map(|(_, body)| body);
    Ok(body.and_then(|body| serde_json::from_str(body).ok()).unwrap_or(Value::Null))
}

/// Takes every certificate, and remembers it: nothing is said to whoever shows it that is not public.
#[derive(Debug)]
struct Witness {
    provider: Arc<CryptoProvider>,
    chain: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(server).chain(issuers).map(|one| one.clone().into_owned()).collect();
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = chain;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, server, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, server, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
