//! Certificate: the gateway's certificate, read anew when its files change, without a restart.
//!
//! Connections that are up keep what they were opened with. Files that cannot be used (half written, a key of another
//! certificate) change nothing: the gateway goes on with what it has, and says so.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use seriatim_proto::certificate::{Life, first_end_s};
use tracing::{error, info, warn};

/// Where the gateway's certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM: the server's certificate, then its issuers
    pub chain: PathBuf,
    /// PEM, PKCS#8: of the certificate
    pub key: PathBuf,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("read {}", path.display())]
    File {
        /// which
        path: PathBuf,
        /// why not
        #[source]
        source: std::io::Error,
    },
    /// The certificate chain.
    #[error("read the certificate")]
    Chain(#[source] rustls::pki_types::pem::Error),
    /// The private key.
    #[error("read the private key")]
    Key(#[source] rustls::pki_types::pem::Error),
    /// Certificate and key do not go together.
    #[error("use the certificate")]
    Mismatch(#[source] rustls::Error),
}

/// What was read from the files.
#[derive(PartialEq, Eq)]
struct Pem {
    chain: Vec<u8>,
    key: Vec<u8>,
}

/// The certificate that is used now.
pub(crate) struct Certificates {
    files: CertificateFiles,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<CertifiedKey>,
    /// What was looked at last, usable or not.
    seen: Mutex<Pem>,
    /// As it was said last.
    life: Mutex<Life>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys stay out of logs.
        write!(f, "Certificates({})", self.files.chain.display())
    }
}

impl Certificates {
    pub(crate) fn load(files: CertificateFiles, provider: Arc<CryptoProvider>) -> Result<Self, CertificateError> {
        let pem = read(&files)?;
        let current = ArcSwap::from_pointee(certified(&pem, &provider)?);
        Ok(Self { files, provider, current, seen: Mutex::new(pem), life: Mutex::new(Life::Good) })
    }

    /// Does the certificate name this host (a DNS name, an IPv4 address, an IPv6 one in brackets)?
    pub(crate) fn name(&self, host: &str) -> bool {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let key = self.current.load();
        let certificate = key.cert.first().and_then(|first| ParsedCertificate::try_from(first).ok());
        match (certificate, ServerName::try_from(host)) {
            (Some(certificate), Ok(host)) => verify_server_name(&certificate, &host).is_ok(),
            _ => false,
        }
    }

    /// When the first certificate of the chain ends, in seconds since 1970; says once that it ends soon, and once that
    /// it has ended.
    pub(crate) fn look_at_end(&self, now: SystemTime) -> i64 {
        let end_s = first_end_s(&self.current.load().cert).unwrap_or(i64::MAX);
        let life = Life::of(end_s, now);
        if std::mem::replace(&mut *self.life.lock(), life) != life {
            let chain = self.files.chain.display();
            match life {
                Life::Good => {}
                Life::Ending => warn!(%chain, end_s, "the gateway's certificate ends soon"),
                Life::Over => error!(%chain, end_s, "the gateway's certificate has ended"),
            }
        }
        end_s
    }

    /// The certificate that is served now, DER.
    pub(crate) fn leaf(&self) -> Vec<u8> {
        self.current.load().cert.first().map(|leaf| leaf.to_vec()).unwrap_or_default()
    }

    /// Takes what is in the files now, new or not. An error changes nothing.
    pub(crate) fn reload(&self) -> Result<(), CertificateError> {
        let pem = read(&self.files)?;
        let mut seen = self.seen.lock();
        let key = certified(&pem, &self.provider);
        *seen = pem;
        self.current.store(Arc::new(key?));
        info!(chain = %self.files.chain.display(), "certificate reloaded by an operator");
        Ok(())
    }

    /// Takes what is in the files now, if it is new and good. `Some(false)`: new, but not usable.
    pub(crate) fn refresh(&self) -> Option<bool> {
        let read = read(&self.files);
        let mut seen = self.seen.lock();
        let error = match read {
            Ok(pem) if pem == *seen => return None,
            Ok(pem) => match certified(&pem, &self.provider) {
                Ok(key) => {
                    self.current.store(Arc::new(key));
                    *seen = pem;
                    info!(chain = %self.files.chain.display(), "certificate reloaded");
                    return Some(true);
                }
                Err(error) => {
                    *seen = pem;
                    error
                }
            },
            // A file that is being replaced; it is looked at again.
            Err(error) => error,
        };
        let error: &dyn std::error::Error = &error;
        warn!(error, "the new certificate cannot be used; the old one stays");
        Some(false)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn read(files: &CertificateFiles) -> Result<Pem, CertificateError> {
    let read =
        |path: &PathBuf| std::fs::read(path).map_err(|source| CertificateError::File { path: path.clone(), source });
    Ok(Pem { chain: read(&files.chain)?, key: read(&files.key)? })
}

fn certified(pem: &Pem, provider: &CryptoProvider) -> Result<CertifiedKey, CertificateError> {
    let chain =
        CertificateDer::pem_slice_iter(&pem.chain).collect::<Result<Vec<_>, _>>().map_err(CertificateError::Chain)?;
    if chain.is_empty() {
        return Err(CertificateError::Chain(rustls::pki_types::pem::Error::NoItemsFound));
    }
    let key = PrivateKeyDer::from_pem_slice(&pem.key).map_err(CertificateError::Key)?;
    CertifiedKey::from_der(chain, key, provider).map_err(CertificateError::Mismatch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev_ca::ensure_dev_ca;

    #[test]
    fn its_own_hosts_are_those_that_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let files = ensure_dev_ca(dir.path()).unwrap();
        let paths = CertificateFiles { chain: files.gateway, key: files.gateway_key };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let certificates = Certificates::load(paths, provider).unwrap();
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "[::1]", "::1"] {
            assert!(certificates.name(host), "{host}");
        }
        for host in ["evil.example", "127.0.0.2", "[::2]", "", "[", "localhost.evil.example", "a b"] {
            assert!(!certificates.name(host), "{host}");
        }
    }

    #[test]
    fn new_files_are_taken_and_bad_ones_change_nothing() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (files, others) = (ensure_dev_ca(dir.path()).unwrap(), ensure_dev_ca(other.path()).unwrap());
        let paths = CertificateFiles { chain: files.gateway.clone(), key: files.gateway_key.clone() };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let certificates = Certificates::load(paths, provider).unwrap();
        let first = certificates.current.load().cert.clone();
        assert_eq!(certificates.refresh(), None);
        // The chain is replaced before the key: they do not go together for a moment.
        std::fs::copy(&others.gateway, &files.gateway).unwrap();
        assert_eq!(certificates.refresh(), Some(false));
        assert_eq!(certificates.current.load().cert, first);
        assert_eq!(certificates.refresh(), None, "said once");
        std::fs::copy(&others.gateway_key, &files.gateway_key).unwrap();
        assert_eq!(certificates.refresh(), Some(true));
        assert_ne!(certificates.current.load().cert, first);
        std::fs::write(&files.gateway, "no certificate").unwrap();
        assert_eq!(certificates.refresh(), Some(false));
        let second = certificates.leaf();
        assert!(matches!(certificates.reload(), Err(CertificateError::Chain(_) | CertificateError::Mismatch(_))));
        assert_eq!(certificates.leaf(), second);
        std::fs::remove_file(&files.gateway).unwrap();
        assert_eq!(certificates.refresh(), Some(false));
        assert!(matches!(certificates.reload(), Err(CertificateError::File { .. })));
        std::fs::copy(&others.gateway, &files.gateway).unwrap();
        certificates.reload().unwrap();
        assert_eq!(certificates.leaf(), second);
    }
}
