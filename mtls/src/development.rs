//! Development: a CA and certificates for all nodes of one machine, so that a playground, and a cluster under test, use
//! the same way as any other.
//!
//! The CA's key is used once and never written. `ca.pem` is written last: a folder without it holds nothing that was
//! finished.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use seriatim_proto::certificate::{NodeName, NodeRole};

use crate::files::Files;

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub enum DevelopmentError {
    /// A file.
    #[error("write {}", path.display())]
    File {
        /// which
        path: PathBuf,
        /// why not
        #[source]
        source: std::io::Error,
    },
    /// The library.
    #[error("make certificates")]
    Make(#[from] rcgen::Error),
}

/// Where a node's files are in the folder.
pub fn files(folder: &Path, name: &str) -> Files {
    Files {
        ca: folder.join("ca.pem"),
        certificate: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}-key.pem")),
    }
}

/// One of the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// what it is
    pub role: NodeRole,
    /// of its files, and in its certificate
    pub name: String,
    /// where it is reached besides the loopback
    pub host: Option<IpAddr>,
}

impl Node {
    /// One that is reached on the loopback only, or nowhere.
    pub fn local(role: NodeRole, name: &str) -> Self {
        Self { role, name: name.to_owned(), host: None }
    }
}

/// Makes them for nodes of this machine, unless they are there.
pub fn ensure(folder: &Path, nodes: &[Node]) -> Result<(), DevelopmentError> {
    if folder.join("ca.pem").exists() {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(|source| DevelopmentError::File { path: folder.to_owned(), source })?;
    let ca_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Seriatim development nodes");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = params.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(params, ca_key);
    for node in nodes {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate = params_of(node)?.signed_by(&key, &issuer)?;
        let files = files(folder, &node.name);
        write(&files.key, &key.serialize_pem(), 0o600)?;
        write(&files.certificate, &certificate.pem(), 0o644)?;
    }
    write(&folder.join("ca.pem"), &ca, 0o644)
}

fn params_of(Node { role, name, host }: &Node) -> Result<CertificateParams, rcgen::Error> {
    let mut hosts = Vec::new();
    if role.listens() {
        hosts.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
        hosts.extend(host.map(|host| host.to_string()));
    }
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name.push(DnType::CommonName, name.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if role.listens() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.use_authority_key_identifier_extension = true;
    let uri = NodeName::new(*role, name).expect("a playground's names are short").to_string();
    params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
    Ok(params)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), DevelopmentError> {
    let fail = |source| DevelopmentError::File { path: path.to_owned(), source };
    let _ = fs::remove_file(path);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(fail)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)
}
