//! Short certificate: what browsers take for WebTransport without a CA, if they know its hash.
//!
//! A browser accepts a certificate by hash only if it is ECDSA and lives for at most 14 days. So the gateway makes its
//! own and changes them often. The next one is made with the current one and its hash is published from then on: who
//! knows both hashes can connect for at least [`USED`] more, over one change.
//!
//! ```text
//! made ──────── used ──────── old
//!   0            6 d           12 d     13 d: expired
//!           made ──────── used ──────── old
//! ```
//!
//! A change that comes late moves none of this: the certificate that was made on day 0 is used until day 12 whenever its
//! turn began, so that it is never used when it has expired.
//!
//! They live in memory only: after a restart the hashes are new, and are asked for again.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long one is used.
pub(crate) const USED: Duration = Duration::from_secs(6 * 24 * 3600);
/// How long one is valid.
const VALID: Duration = Duration::from_secs(13 * 24 * 3600);
/// Clocks of browsers may be this far behind.
const SKEW: Duration = Duration::from_secs(3600);

const _: () = assert!(2 * USED.as_secs() + SKEW.as_secs() < VALID.as_secs());
const _: () = assert!(VALID.as_secs() <= 14 * DAY.as_secs());

/// Why none could be made.
#[derive(Debug, thiserror::Error)]
pub enum ShortCertificateError {
    /// The certificate.
    #[error("make the certificate for WebTransport")]
    Make(#[from] rcgen::Error),
    /// Its use.
    #[error("use the certificate for WebTransport")]
    Use(#[from] rustls::Error),
}

/// One certificate.
struct Short {
    key: Arc<CertifiedKey>,
    /// SHA-256 over the certificate, hexadecimal
    hash: String,
    expires: SystemTime,
}

/// The one that is used, and the one after it.
struct Pair {
    current: Arc<Short>,
    next: Arc<Short>,
    until: SystemTime,
}

/// The certificates for WebTransport, as they follow each other.
pub(crate) struct ShortCertificates {
    provider: Arc<CryptoProvider>,
    pair: ArcSwap<Pair>,
}

impl fmt::Debug for ShortCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys stay out of logs.
        write!(f, "ShortCertificates({:?})", self.hashes())
    }
}

impl ShortCertificates {
    pub(crate) fn new(provider: Arc<CryptoProvider>, now: SystemTime) -> Result<Self, ShortCertificateError> {
        let make = || make(&provider, now).map(Arc::new);
        let pair = Pair { current: make()?, next: make()?, until: now + USED };
        Ok(Self { pair: ArcSwap::from_pointee(pair), provider })
    }

    /// Takes the next one when it is time.
    pub(crate) fn rotate(&self, now: SystemTime) -> Result<bool, ShortCertificateError> {
        let pair = self.pair.load();
        if now < pair.until {
            return Ok(false);
        }
        let next = Arc::new(make(&self.provider, now)?);
        let until = pair.until + USED;
        // A gateway that slept through its time has only old ones.
        let (current, until) = if now < until && until < pair.next.expires {
            (pair.next.clone(), until)
        } else {
            (Arc::new(make(&self.provider, now)?), now + USED)
        };
        self.pair.store(Arc::new(Pair { current, next, until }));
        Ok(true)
    }

    /// The one that is used now.
    pub(crate) fn current(&self) -> Arc<CertifiedKey> {
        self.pair.load().current.key.clone()
    }

    /// SHA-256 of the one that is used now, and of the next.
    pub(crate) fn hashes(&self) -> [String; 2] {
        let pair = self.pair.load();
        [pair.current.hash.clone(), pair.next.hash.clone()]
    }
}

fn make(provider: &CryptoProvider, now: SystemTime) -> Result<Short, ShortCertificateError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(["localhost", "127.0.0.1", "::1"].map(str::to_owned))?;
    params.distinguished_name.push(DnType::CommonName, "Seriatim gateway, by hash");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let begin = now - SKEW;
    params.not_before = begin.into();
    let expires = begin + VALID;
    params.not_after = expires.into();
    let certificate = params.self_signed(&key)?;
    let hash = sha256(certificate.der());
    let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(|error| rustls::Error::General(error.into()))?;
    let key = CertifiedKey::from_der(vec![certificate.der().clone()], private, provider)?;
    Ok(Short { key: Arc::new(key), hash, expires })
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("its name says that it is of TLS 1.3");
    let hash = suite.common.hash_provider.hash(bytes);
    hash.as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String grows");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(days: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * (20_000 + u32::try_from(days).unwrap())
    }

    fn certificates() -> ShortCertificates {
        ShortCertificates::new(Arc::new(rustls::crypto::aws_lc_rs::default_provider()), at(0)).unwrap()
    }

    #[test]
    fn the_next_one_is_known_before_it_is_used() {
        let certificates = certificates();
        let [first, second] = certificates.hashes();
        assert_ne!(first, second);
        assert!(!certificates.rotate(at(5)).unwrap());
        assert!(certificates.rotate(at(6)).unwrap());
        let [current, third] = certificates.hashes();
        assert_eq!(current, second);
        assert_ne!(third, second);
        assert_eq!(sha256(&certificates.current().cert[0]), second);
        assert!(certificates.rotate(at(12)).unwrap());
        assert_eq!(certificates.hashes()[0], third);
    }

    #[test]
    fn a_change_that_comes_late_leaves_no_expired_one_in_use() {
        for late in 0..15 {
            let certificates = certificates();
            for day in (6 + late)..60 {
                certificates.rotate(at(day)).unwrap();
                // Until the next look, a day later.
                let expires = certificates.pair.load().current.expires;
                assert!(expires >= at(day + 1), "{late} days late: expired on day {day}");
            }
        }
    }

    #[test]
    fn who_slept_through_its_time_gets_fresh_ones() {
        let certificates = certificates();
        let old = certificates.hashes();
        assert!(certificates.rotate(at(40)).unwrap());
        assert!(certificates.hashes().iter().all(|hash| !old.contains(hash)));
    }

    #[test]
    fn a_hash_is_sha_256() {
        // FIPS 180-2, "abc".
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
