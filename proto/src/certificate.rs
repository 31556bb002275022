//! Certificate: the client certificate by which a device enters. Verified by the gateway and again by logic.
//!
//! The gateway forwards what the device showed in its TLS handshake: its chain, and its signature over that handshake.
//! So a logic node does not believe the gateway that somebody has a key: it checks the CA, the times, the name, and
//! that whoever holds the key has signed a TLS handshake as a client. A certificate alone, which anybody may read,
//! opens nothing. (docs/decisions/0010)
//!
//! Reading the CA's file is the shell's ([`ClientCa::replace`]).
//!
//! # Reading order
//! [`ClientCa::check`] → [`Name`].

mod name;
mod node;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::aws_lc_rs as algorithms;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::error::{ErrorCode, Refusal};
use crate::limits;
use crate::logic::CertificateProof;
use crate::token::Verified;

pub use name::{Name, NameProblem};
pub use node::{NodeName, NodeRole};

/// Why a certificate is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// This node was given no CA of devices.
    #[error("client certificates are not taken here")]
    NotTaken,
    /// Over [`limits::CERTIFICATES_MAX`] or [`limits::CERTIFICATE_BYTES_MAX`].
    #[error("the client certificate is too long")]
    TooLong,
    /// No X.509, or nothing that a client may show.
    #[error("the client certificate is malformed")]
    Malformed,
    /// Signed by nobody who is trusted here.
    #[error("the client certificate is of a CA that is not trusted here")]
    Issuer,
    /// Its time is past.
    #[error("the client certificate's time is over")]
    Expired,
    /// Its time is to come.
    #[error("the client certificate's time has not come yet")]
    Early,
    /// It is for something else, such as a server's.
    #[error("the client certificate is not for clients")]
    Purpose,
    /// The signature over the handshake is not that of the certificate's key.
    #[error("the holder of the client certificate has not signed the handshake")]
    Possession,
    /// It does not name one user.
    #[error("the client certificate {0}")]
    Name(#[from] NameProblem),
}

impl CertificateError {
    /// A word for metrics and programs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotTaken => "not_taken",
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::Issuer => "issuer",
            Self::Expired => "expired",
            Self::Early => "early",
            Self::Purpose => "purpose",
            Self::Possession => "possession",
            Self::Name(problem) => problem.reason(),
        }
    }
}

impl From<CertificateError> for Refusal {
    fn from(error: CertificateError) -> Self {
        let code = match error {
            CertificateError::Expired => ErrorCode::AuthExpired,
            _ => ErrorCode::AuthFailed,
        };
        Refusal::new(code, error.to_string())
    }
}

/// Why a file is no CA of devices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientCaError {
    /// No PEM.
    #[error("read the certificates: {0}")]
    Pem(String),
    /// One of them is no X.509 certificate.
    #[error("use certificate {number}: it is no X.509 certificate of a CA")]
    Certificate {
        /// counted from 1
        number: usize,
    },
    /// Nothing in it.
    #[error("no certificate in it")]
    Empty,
    /// Over [`limits::CLIENT_CAS_MAX`].
    #[error("more than {} certificates in it", limits::CLIENT_CAS_MAX)]
    TooMany,
}

/// The CAs whose certificates are taken.
#[derive(Debug)]
pub struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
    first_end_s: i64,
}

impl Roots {
    /// From a PEM file with their certificates; other things in it are passed over.
    pub fn from_pem(pem: &[u8]) -> Result<Self, ClientCaError> {
        let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|error| ClientCaError::Pem(error.to_string()))?;
        if certificates.len() > limits::CLIENT_CAS_MAX as usize {
            return Err(ClientCaError::TooMany);
        }
        let anchors = certificates.iter().enumerate().map(|(at, certificate)| {
            let is_ca = X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| parsed.is_ca());
            let anchor = anchor_from_trusted_cert(certificate).ok().filter(|_| is_ca);
            anchor.map(|anchor| anchor.to_owned()).ok_or(ClientCaError::Certificate { number: at + 1 })
        });
        let anchors = anchors.collect::<Result<Vec<_>, _>>()?;
        let first_end_s = first_end_s(&certificates).ok_or(ClientCaError::Empty)?;
        Ok(Self { anchors, first_end_s })
    }

    /// When the first of them ends, in seconds since 1970. Whoever builds paths to it may go on behind that (RFC 5280
    /// leaves it open, and this check does), but not everybody will.
    pub fn first_end_s(&self) -> i64 {
        self.first_end_s
    }

    /// As TLS names them.
    pub fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

/// When the first of these certificates ends, in seconds since 1970; `None` without one that can be read.
pub fn first_end_s(certificates: &[CertificateDer<'_>]) -> Option<i64> {
    let ends = certificates.iter().filter_map(|one| X509Certificate::from_der(one).ok());
    ends.map(|(_, parsed)| parsed.validity().not_after.timestamp()).min()
}

/// How near the end of a certificate is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Life {
    /// More than [`limits::CERTIFICATE_ENDING_S`] are left.
    Good,
    /// Time to renew it.
    Ending,
    /// It is over.
    Over,
}

impl Life {
    /// Of a certificate that ends so many seconds after 1970.
    pub fn of(end_s: i64, now: SystemTime) -> Self {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let left = end_s.saturating_sub(i64::try_from(now).unwrap_or(i64::MAX));
        match left {
            ..=0 => Self::Over,
            _ if left <= i64::from(limits::CERTIFICATE_ENDING_S) => Self::Ending,
            _ => Self::Good,
        }
    }
}

/// Verifies what devices show. Cheap to clone; all clones have the same CAs, and new ones are used at once.
#[derive(Clone, Debug)]
pub struct ClientCa {
    roots: Arc<RwLock<Arc<Roots>>>,
}

impl ClientCa {
    /// With these CAs.
    pub fn new(roots: Roots) -> Self {
        Self { roots: Arc::new(RwLock::new(Arc::new(roots))) }
    }

    /// Takes others from now on.
    pub fn replace(&self, roots: Roots) {
        *self.roots.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(roots);
    }

    /// Those of now.
    pub fn roots(&self) -> Arc<Roots> {
        self.roots.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Checks the chain, its times and its purpose, that its holder has signed a handshake, and whom it names.
    /// The end is that of the certificate of the chain that ends first.
    pub fn check(&self, proof: &CertificateProof) -> Result<Verified, CertificateError> {
        let chain = self.check_chain(&proof.chain, UnixTime::now())?;
        proof.check_possession(&chain[0])?;
        verified(&chain)
    }

    /// Checks the chain, its times and its purpose alone, as of `now`.
    pub fn check_chain<'a, C: AsRef<[u8]>>(
        &self,
        chain: &'a [C],
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'a>>, CertificateError> {
        check_size(chain)?;
        let chain: Vec<_> = chain.iter().map(|one| CertificateDer::from(one.as_ref())).collect();
        let (first, issuers) = chain.split_first().ok_or(CertificateError::Malformed)?;
        let device = EndEntityCert::try_from(first).map_err(|error| of_library(&error))?;
        let roots = self.roots();
        device
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &roots.anchors,
                issuers,
                now,
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map_err(|error| of_library(&error))?;
        Ok(chain)
    }
}

fn check_size<C: AsRef<[u8]>>(chain: &[C]) -> Result<(), CertificateError> {
    let bytes: usize = chain.iter().map(|one| one.as_ref().len()).sum();
    let fits = chain.len() <= limits::CERTIFICATES_MAX as usize && bytes <= limits::CERTIFICATE_BYTES_MAX as usize;
    if fits { Ok(()) } else { Err(CertificateError::TooLong) }
}

fn verified(chain: &[CertificateDer<'_>]) -> Result<Verified, CertificateError> {
    let parsed = chain.iter().map(|one| X509Certificate::from_der(one).map(|(_, parsed)| parsed));
    let parsed = parsed.collect::<Result<Vec<_>, _>>().map_err(|_| CertificateError::Malformed)?;
    let ends = parsed.iter().map(|one| one.validity().not_after.timestamp());
    let expires_at_s = ends.min().and_then(|end| u64::try_from(end).ok()).ok_or(CertificateError::Malformed)?;
    let Name { tenant, user, scopes } = Name::of(parsed.first().ok_or(CertificateError::Malformed)?)?;
    Ok(Verified { tenant, user, expires_at_s, scopes })
}

fn of_library(error: &webpki::Error) -> CertificateError {
    match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::Early,
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::Purpose,
        webpki::Error::BadDer | webpki::Error::UnsupportedCertVersion | webpki::Error::CaUsedAsEndEntity => {
            CertificateError::Malformed
        }
        // Whoever signed it is not whom it names, or is not known; or the chain is not one.
        _ => CertificateError::Issuer,
    }
}

/// What every client signs in a handshake of TLS 1.3, before the hash of what was said (RFC 8446, 4.4.3).
const CONTEXT: &[u8] = b"TLS 1.3, client CertificateVerify\0";
const PAD: [u8; 64] = [0x20; 64];

impl CertificateProof {
    /// Did the certificate's key sign what only a client that shows it signs?
    fn check_possession(&self, certificate: &CertificateDer<'_>) -> Result<(), CertificateError> {
        let hash = self.signed.strip_prefix(&PAD[..]).and_then(|rest| rest.strip_prefix(CONTEXT));
        // SHA-256 or SHA-384, by the cipher suite.
        hash.filter(|hash| matches!(hash.len(), 32 | 48)).ok_or(CertificateError::Possession)?;
        let algorithm = algorithm(self.scheme).ok_or(CertificateError::Possession)?;
        let device = EndEntityCert::try_from(certificate).map_err(|error| of_library(&error))?;
        let right = device.verify_signature(algorithm, &self.signed, &self.signature);
        right.map_err(|_| CertificateError::Possession)
    }
}

/// The schemes of TLS 1.3 that are taken, by their numbers.
fn algorithm(scheme: u16) -> Option<&'static dyn SignatureVerificationAlgorithm> {
    Some(match scheme {
        0x0403 => algorithms::ECDSA_P256_SHA256,
        0x0503 => algorithms::ECDSA_P384_SHA384,
        0x0603 => algorithms::ECDSA_P521_SHA512,
        0x0804 => algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
        0x0805 => algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
        0x0806 => algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
        0x0807 => algorithms::ED25519,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_certificate_is_to_be_renewed_before_its_end() {
        let end = i64::from(limits::CERTIFICATE_ENDING_S) * 3;
        let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap());
        let soon = end - i64::from(limits::CERTIFICATE_ENDING_S);
        for (now, life) in [
            (0, Life::Good),
            (soon - 1, Life::Good),
            (soon, Life::Ending),
            (end - 1, Life::Ending),
            (end, Life::Over),
            (end + 9, Life::Over),
        ] {
            assert_eq!(Life::of(end, at(now)), life, "{now}");
        }
        assert_eq!(Life::of(-1, UNIX_EPOCH - Duration::from_secs(9)), Life::Over);
        assert_eq!(Life::of(i64::MAX, at(1)), Life::Good);
    }
}
