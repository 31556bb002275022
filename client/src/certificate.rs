//! Certificate: what a device shows to a gateway that asks for it; may be replaced while clients use it.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::endpoint::SetupError;

/// The certificate of now.
pub(crate) struct ClientCertificate {
    current: RwLock<Arc<CertifiedKey>>,
    /// Its chain and its key, read anew for every connection.
    files: Option<[PathBuf; 2]>,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys stay out of logs.
        f.write_str("ClientCertificate")
    }
}

impl ClientCertificate {
    pub(crate) fn new(chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, SetupError> {
        Ok(Self { current: RwLock::new(Arc::new(certified(chain_pem, key_pem)?)), files: None })
    }

    pub(crate) fn from_files(chain: PathBuf, key: PathBuf) -> Result<Self, SetupError> {
        let files = [chain, key];
        let current = RwLock::new(Arc::new(read(&files)?));
        Ok(Self { current, files: Some(files) })
    }

    /// May another one take its place by itself?
    pub(crate) fn is_renewed(&self) -> bool {
        self.files.is_some()
    }

    /// Reads its files anew, if it came from files. If they cannot be used, it stays.
    pub(crate) fn refresh(&self) -> Result<(), SetupError> {
        let Some(files) = &self.files else { return Ok(()) };
        let new = Arc::new(read(files)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    pub(crate) fn replace(&self, chain_pem: &[u8], key_pem: &[u8]) -> Result<(), SetupError> {
        let new = Arc::new(certified(chain_pem, key_pem)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }
}

impl ResolvesClientCert for ClientCertificate {
    /// Whatever CAs the gateway names: it says best itself whom it does not take.
    fn resolve(&self, _cas: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        current.key.choose_scheme(schemes).is_some().then_some(current)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn read(files: &[PathBuf; 2]) -> Result<CertifiedKey, SetupError> {
    let [chain, key] = files.each_ref().map(|file| {
        let fail = |error| SetupError::ClientCertificate(format!("read {}: {error}", file.display()));
        std::fs::read(file).map_err(fail)
    });
    certified(&chain?, &key?)
}

fn certified(chain_pem: &[u8], key_pem: &[u8]) -> Result<CertifiedKey, SetupError> {
    let fail = |what: &str, error: &dyn fmt::Display| SetupError::ClientCertificate(format!("{what}: {error}"));
    let chain = CertificateDer::pem_slice_iter(chain_pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| fail("read its chain", &error))?;
    if chain.is_empty() {
        return Err(SetupError::ClientCertificate("no certificate in its chain".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| fail("read its private key", &error))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(|error| fail("use it with its key", &error))
}
