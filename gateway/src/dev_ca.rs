//! Development CA: certificates and token keys for a cluster on one machine, made on first start.
//!
//! The CA's own key is used once and never written. `ca.pem` is written last: a folder without it holds nothing
//! that was finished, a folder with it must hold everything.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// Where the files of the development CA are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevFiles {
    /// certificate of the CA, for clients
    pub ca: PathBuf,
    /// certificate of the gateway, for `localhost`, `127.0.0.1` and `::1`
    pub gateway: PathBuf,
    /// its private key, PKCS#8
    pub gateway_key: PathBuf,
    /// Ed25519 private key that signs tokens, PKCS#8
    pub token_key: PathBuf,
    /// Ed25519 public key that verifies tokens
    pub token_public: PathBuf,
}

/// Why there is no development CA.
#[derive(Debug, thiserror::Error)]
pub enum DevCaError {
    /// A file could not be read or written.
    #[error("access {}", path.display())]
    File {
        /// which
        path: PathBuf,
        /// why not
        #[source]
        source: io::Error,
    },
    /// A finished folder lacks a file.
    #[error("{} is missing beside ca.pem: remove the folder's .pem files to make all of them anew", path.display())]
    Incomplete {
        /// which
        path: PathBuf,
    },
    /// Keys or certificates could not be made.
    #[error("make certificates")]
    Make(#[from] rcgen::Error),
}

impl DevFiles {
    /// The files of a folder, whether they exist or not.
    pub fn in_dir(dir: &Path) -> Self {
        Self {
            ca: dir.join("ca.pem"),
            gateway: dir.join("gateway.pem"),
            gateway_key: dir.join("gateway-key.pem"),
            token_key: dir.join("token-key.pem"),
            token_public: dir.join("token-public.pem"),
        }
    }

    fn all(&self) -> [&PathBuf; 5] {
        [&self.gateway, &self.gateway_key, &self.token_key, &self.token_public, &self.ca]
    }
}

/// Makes the development CA in `dir`, or finds the one that is there.
pub fn ensure_dev_ca(dir: &Path) -> Result<DevFiles, DevCaError> {
    let files = DevFiles::in_dir(dir);
    if files.ca.exists() {
        let missing = files.all().into_iter().find(|path| !path.exists()).cloned();
        return missing.map_or(Ok(files), |path| Err(DevCaError::Incomplete { path }));
    }
    fs::create_dir_all(dir).map_err(|source| DevCaError::File { path: dir.to_owned(), source })?;
    let ca_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let ca_params = ca_params();
    let ca = ca_params.self_signed(&ca_key)?;
    let gateway_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let gateway = gateway_params()?.signed_by(&gateway_key, &Issuer::new(ca_params, &ca_key))?;
    let token_key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
    write(&files.gateway, &gateway.pem(), PUBLIC)?;
    write(&files.gateway_key, &gateway_key.serialize_pem(), PRIVATE)?;
    write(&files.token_key, &token_key.serialize_pem(), PRIVATE)?;
    write(&files.token_public, &token_key.public_key_pem(), PUBLIC)?;
    write(&files.ca, &ca.pem(), PUBLIC)?;
    Ok(files)
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Seriatim development CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn gateway_params() -> Result<CertificateParams, rcgen::Error> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "Seriatim development gateway");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// Writes beside and renames, so that no half a key is ever found.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), DevCaError> {
    let fail = |source| DevCaError::File { path: path.to_owned(), source };
    let beside = path.with_extension("pem.new");
    let _ = fs::remove_file(&beside);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside).map_err(fail)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)?;
    fs::rename(&beside, path).map_err(fail)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use seriatim_proto::ids::{TenantId, UserId};
    use seriatim_proto::token::{Minter, Verifier};

    use super::*;

    #[test]
    fn the_second_start_finds_what_the_first_one_made() {
        let dir = tempfile::tempdir().unwrap();
        let files = ensure_dev_ca(dir.path()).unwrap();
        let before: Vec<_> = files.all().into_iter().map(|path| fs::read(path).unwrap()).collect();
        assert_eq!(ensure_dev_ca(dir.path()).unwrap(), files);
        let after: Vec<_> = files.all().into_iter().map(|path| fs::read(path).unwrap()).collect();
        assert_eq!(before, after);
    }

    #[test]
    fn private_keys_are_for_the_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let files = ensure_dev_ca(dir.path()).unwrap();
        for path in [&files.gateway_key, &files.token_key] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn tokens_signed_with_its_key_are_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let files = ensure_dev_ca(dir.path()).unwrap();
        let minter = Minter::from_private_pem(&fs::read(&files.token_key).unwrap()).unwrap();
        let verifier = Verifier::from_public_pem(&fs::read(&files.token_public).unwrap()).unwrap();
        let user = UserId::new("alice").unwrap();
        let token = minter.mint(TenantId(7), &user, 4_000_000_000).unwrap();
        let verified = verifier.verify(&token).unwrap();
        assert_eq!((verified.tenant, verified.user), (TenantId(7), user));
    }

    #[test]
    fn a_folder_that_lost_a_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let files = ensure_dev_ca(dir.path()).unwrap();
        fs::remove_file(&files.gateway_key).unwrap();
        assert!(matches!(ensure_dev_ca(dir.path()), Err(DevCaError::Incomplete { path }) if path == files.gateway_key));
    }
}
