//! Client certificate: what a device shows in its TLS handshake, kept for Hello and for the logic nodes.
//!
//! Each connection is asked with a TLS set-up of its own, so that what was signed in it is known by connection: the TLS
//! library checks the signature and forgets it. A handshake that resumes an earlier one signs nothing, so a connection
//! with a certificate gets no ticket: it never resumes. Others do, as everywhere.
//!
//! A gateway without a CA of devices asks for no certificate, and its connections share one set-up, with tickets that
//! devices keep themselves; with a CA, those who showed none have theirs kept here.
//!
//! # Reading order
//! [`TlsSetup::next`] → [`Witness`] → [`Shown`].

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoClientAuth, ResolvesServerCert, ServerSessionMemoryCache, StoresServerSessions};
use rustls::{DigitallySignedStruct, DistinguishedName, PeerMisbehaved, ServerConfig, SignatureScheme};
use seriatim_proto::certificate::{CertificateError, ClientCa, Roots};
use seriatim_proto::logic::CertificateProof;

use crate::metrics::ReasonLabel;

/// Certificates that were not taken, by reason.
pub(crate) type Refused = Family<ReasonLabel, Counter>;

/// Sessions that may be resumed, of each way in.
const TICKETS: usize = 256;

/// What a device has shown, once its handshake is over; `None`: nothing.
#[derive(Clone, Default)]
pub(crate) struct Shown(Arc<OnceLock<CertificateProof>>);

impl Shown {
    /// After the handshake.
    pub(crate) fn proof(&self) -> Option<&CertificateProof> {
        self.0.get()
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What was signed stays out of logs.
        write!(f, "Shown({})", self.0.get().is_some())
    }
}

/// TLS of one way in, for one connection after another.
#[derive(Clone)]
pub(crate) struct TlsSetup {
    provider: Arc<CryptoProvider>,
    certificates: Arc<dyn ResolvesServerCert>,
    protocols: Vec<Vec<u8>>,
    tickets: Arc<dyn StoresServerSessions>,
    /// Without a CA of devices: the one for all connections.
    shared: Arc<ServerConfig>,
    asking: Option<Arc<Asking>>,
}

/// Whose certificates are asked for.
struct Asking {
    ca: ClientCa,
    refused: Refused,
    hints: Mutex<Hints>,
}

/// What a client is told of the CAs that are taken, so that it can choose.
struct Hints {
    of: Arc<Roots>,
    subjects: Arc<[DistinguishedName]>,
}

impl TlsSetup {
    /// With certificates that change by themselves, for these protocols.
    pub(crate) fn new(
        provider: &Arc<CryptoProvider>,
        certificates: Arc<dyn ResolvesServerCert>,
        protocols: &[&[u8]],
        asking: Option<(ClientCa, Refused)>,
    ) -> Result<Self, rustls::Error> {
        let protocols: Vec<_> = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let tickets = ServerSessionMemoryCache::new(TICKETS);
        let mut shared = config(provider, Arc::new(NoClientAuth), certificates.clone(), &protocols, tickets.clone())?;
        // A device that comes again is spared the certificate; its ticket is all that is kept, and it keeps it itself.
        shared.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        let asking = asking.map(|(ca, refused)| {
            let of = ca.roots();
            let subjects = subjects(&of);
            Arc::new(Asking { ca, refused, hints: Mutex::new(Hints { of, subjects }) })
        });
        let (provider, shared) = (provider.clone(), Arc::new(shared));
        Ok(Self { provider, certificates, protocols, tickets, shared, asking })
    }

    /// Does every connection need a set-up of its own?
    pub(crate) fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// For the next connection, and what its device will have shown.
    pub(crate) fn next(&self) -> (Arc<ServerConfig>, Shown) {
        let shown = Shown::default();
        let Some(asking) = &self.asking else { return (self.shared.clone(), shown) };
        let witness = Witness {
            ca: asking.ca.clone(),
            refused: asking.refused.clone(),
            subjects: asking.subjects(),
            provider: self.provider.clone(),
            chain: OnceLock::new(),
            shown: shown.clone(),
        };
        let tickets = Tickets { inner: self.tickets.clone(), shown: shown.clone() };
        let config =
            config(&self.provider, Arc::new(witness), self.certificates.clone(), &self.protocols, Arc::new(tickets));
        (Arc::new(config.expect("the provider has TLS 1.3, as it had before")), shown)
    }
}

impl Asking {
    fn subjects(&self) -> Arc<[DistinguishedName]> {
        let roots = self.ca.roots();
        let mut hints = self.hints.lock();
        if !Arc::ptr_eq(&hints.of, &roots) {
            *hints = Hints { subjects: subjects(&roots), of: roots };
        }
        hints.subjects.clone()
    }
}

fn subjects(roots: &Roots) -> Arc<[DistinguishedName]> {
    roots.anchors().iter().map(|anchor| DistinguishedName::in_sequence(&anchor.subject)).collect()
}

fn config(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ClientCertVerifier>,
    certificates: Arc<dyn ResolvesServerCert>,
    protocols: &[Vec<u8>],
    tickets: Arc<dyn StoresServerSessions>,
) -> Result<ServerConfig, rustls::Error> {
    let mut tls = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificates);
    tls.alpn_protocols = protocols.to_vec();
    tls.session_storage = tickets;
    // Nothing that a device sends can be replayed by others.
    tls.max_early_data_size = 0;
    Ok(tls)
}

/// Verifies what the device of one connection shows, and keeps it.
#[derive(Debug)]
struct Witness {
    ca: ClientCa,
    refused: Refused,
    subjects: Arc<[DistinguishedName]>,
    provider: Arc<CryptoProvider>,
    chain: OnceLock<Vec<Bytes>>,
    shown: Shown,
}

impl ClientCertVerifier for Witness {
    /// Who has none comes with a token.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        device: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let chain: Vec<_> = std::iter::once(device).chain(issuers).map(|one| Bytes::copy_from_slice(one)).collect();
        self.ca.check_chain(&chain, now).map_err(|error| {
            self.refused.get_or_create(&ReasonLabel { reason: error.reason() }).inc();
            alert(error)
        })?;
        // A handshake shows one chain.
        let _ = self.chain.set(chain);
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _device: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // TLS 1.2 is not spoken here.
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        device: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let valid = verify_tls13_signature(message, device, signed, algorithms)?;
        let proof = CertificateProof {
            chain: self.chain.get().cloned().unwrap_or_default(),
            signed: Bytes::copy_from_slice(message),
            scheme: u16::from(signed.scheme),
            signature: Bytes::copy_from_slice(signed.signature()),
        };
        let _ = self.shown.0.set(proof);
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What the device is told, as TLS's alerts have it.
fn alert(error: CertificateError) -> rustls::Error {
    let alert = match error {
        CertificateError::Expired => rustls::CertificateError::Expired,
        CertificateError::Early => rustls::CertificateError::NotValidYet,
        CertificateError::Issuer | CertificateError::NotTaken => rustls::CertificateError::UnknownIssuer,
        CertificateError::Purpose => rustls::CertificateError::InvalidPurpose,
        CertificateError::Possession => rustls::CertificateError::BadSignature,
        CertificateError::TooLong | CertificateError::Malformed | CertificateError::Name(_) => {
            rustls::CertificateError::BadEncoding
        }
    };
    alert.into()
}

/// Tickets for those who have shown no certificate.
#[derive(Debug)]
struct Tickets {
    inner: Arc<dyn StoresServerSessions>,
    shown: Shown,
}

impl StoresServerSessions for Tickets {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.shown.proof().is_none() && self.inner.put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.inner.get(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.inner.take(key)
    }

    fn can_cache(&self) -> bool {
        self.inner.can_cache()
    }
}
