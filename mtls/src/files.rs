//! Files: a node's certificate, its key and the CA of the cluster, read and checked as the other side will check them.
//!
//! What another node would refuse is refused here, with what to do: at a start that ends the start.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use seriatim_proto::certificate::{ClientCaError, NodeName, NodeRole, Roots, first_end_s};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Where they are; all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// the CAs whose certificates are taken, one or more: the old one and the new one while a CA is changed
    pub ca: PathBuf,
    /// this node's certificate, then its issuers
    pub certificate: PathBuf,
    /// its private key
    pub key: PathBuf,
}

/// What the certificate must be good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// what this process is
    pub role: NodeRole,
    /// hosts by which others reach it, as far as they are known; none: nobody does
    pub hosts: Vec<String>,
}

impl Own {
    /// Reached at these addresses, `host:port`; one that is none in particular (`0.0.0.0`) says nothing: whoever tells
    /// others to dial it is refused by [`Own::is_told`].
    pub fn reached_at<'a>(role: NodeRole, addresses: impl IntoIterator<Item = &'a str>) -> Self {
        let hosts = addresses.into_iter().filter_map(host_of).filter(|host| !is_anywhere(host));
        Self { role, hosts: hosts.map(str::to_owned).collect() }
    }

    /// Can others be told to dial this address, `host:port`? No certificate names a host that is none in particular.
    pub fn is_told(address: &str) -> bool {
        host_of(address).is_none_or(|host| !is_anywhere(host))
    }
}

/// Since 1970.
fn now_s() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(now).unwrap_or(i64::MAX)
}

fn is_anywhere(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified())
}

/// Without the port, and without the brackets of IPv6.
fn host_of(address: &str) -> Option<&str> {
    let (host, _port) = address.rsplit_once(':')?;
    Some(host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host))
}

/// Why they cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// One cannot be read.
    #[error("read {}", path.display())]
    File {
        /// which
        path: PathBuf,
        /// why not
        #[source]
        source: std::io::Error,
    },
    /// The CA.
    #[error("use the CA {}", path.display())]
    Ca {
        /// which
        path: PathBuf,
        /// why not
        #[source]
        source: ClientCaError,
    },
    /// Another file.
    #[error("use {}: {why}", path.display())]
    Unusable {
        /// which
        path: PathBuf,
        /// why not
        why: String,
    },
    /// Certificate and key are not a pair.
    #[error("use {}: it is not the key of {}", key.display(), certificate.display())]
    NotAPair {
        /// the certificate
        certificate: PathBuf,
        /// the key
        key: PathBuf,
    },
    /// For something else.
    #[error("use {}: it is {found}, and not of role {}{}", path.display(), role.name(), Advice(*role))]
    Role {
        /// which
        path: PathBuf,
        /// whose it is
        found: String,
        /// what it should be
        role: NodeRole,
    },
    /// For another host.
    #[error("use {}: it does not name the host {host}, by which this node is reached{}", path.display(), Advice(*role))]
    Host {
        /// which
        path: PathBuf,
        /// what it should name
        host: String,
        /// of the node
        role: NodeRole,
    },
    /// Not at this time.
    #[error("use {}: {when}{}", path.display(), Advice(*role))]
    Time {
        /// which
        path: PathBuf,
        /// it has ended, or has not begun
        when: String,
        /// of the node
        role: NodeRole,
    },
    /// Of another CA.
    #[error("use {}: it is not signed by {}, or not for this use ({why}){}", path.display(), ca.display(), Advice(*role))]
    Issuer {
        /// which
        path: PathBuf,
        /// not by this one
        ca: PathBuf,
        /// as the library says
        why: String,
        /// of the node
        role: NodeRole,
    },
}

/// What to do.
struct Advice(NodeRole);

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.0.listens() { " --host HOST" } else { "" };
        write!(f, "; make one: raftctl cert issue CA-DIR --role {} --name NAME{host} --out FILE", self.0.name())
    }
}

/// An error with what caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// What was in the files.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pem {
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// What new connections are made with.
pub(crate) struct Current {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) end_s: i64,
    pub(crate) cas: usize,
    pub(crate) ca_end_s: i64,
}

impl Files {
    pub(crate) fn read(&self) -> Result<Pem, FilesError> {
        let read =
            |path: &Path| std::fs::read(path).map_err(|source| FilesError::File { path: path.to_owned(), source });
        Ok(Pem { ca: read(&self.ca)?, certificate: read(&self.certificate)?, key: read(&self.key)? })
    }

    pub(crate) fn load(&self, pem: &Pem, own: &Own) -> Result<Current, FilesError> {
        let roots = Roots::from_pem(&pem.ca).map_err(|source| FilesError::Ca { path: self.ca.clone(), source })?;
        let unusable =
            |why: &dyn fmt::Display| FilesError::Unusable { path: self.certificate.clone(), why: why.to_string() };
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem.certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| unusable(&error))?;
        let Some(leaf) = certificates.first() else { return Err(unusable(&"no certificate in it")) };
        let key = PrivateKeyDer::from_pem_slice(&pem.key)
            .map_err(|error| FilesError::Unusable { path: self.key.clone(), why: error.to_string() })?;
        self.check_leaf(leaf, own)?;
        let end_s = first_end_s(&certificates).unwrap_or(0);
        // Whoever is dialled ends a connection with the first of what it was shown, needed or not.
        if end_s <= now_s() {
            return Err(unusable(&"one of the issuers in it has ended: leave it out"));
        }
        let anchors = Arc::new(RootCertStore { roots: roots.anchors().to_vec() });
        let (server, client) = self.configs(&anchors, &certificates, key, own)?;
        let (cas, ca_end_s) = (anchors.roots.len(), roots.first_end_s());
        Ok(Current { server: Arc::new(server), client: Arc::new(client), end_s, cas, ca_end_s })
    }

    /// What the certificate says of itself.
    fn check_leaf(&self, leaf: &CertificateDer<'_>, own: &Own) -> Result<(), FilesError> {
        let (path, role) = (self.certificate.clone(), own.role);
        let Ok((_, parsed)) = X509Certificate::from_der(leaf) else {
            return Err(FilesError::Unusable { path, why: "it is no X.509 certificate".to_owned() });
        };
        let found = match NodeName::of(&parsed) {
            Ok(name) if name.role == role => None,
            Ok(name) => Some(format!("for {name}")),
            Err(_) => Some("for no node: it has no URI `seriatim-node://ROLE/NAME`".to_owned()),
        };
        if let Some(found) = found {
            return Err(FilesError::Role { path, found, role });
        }
        let now = now_s();
        let (begin, end) = (parsed.validity().not_before, parsed.validity().not_after);
        if now >= end.timestamp() {
            return Err(FilesError::Time { path, when: format!("it has ended ({end})"), role });
        }
        if now < begin.timestamp() {
            return Err(FilesError::Time { path, when: format!("its time begins only at {begin}"), role });
        }
        Ok(())
    }

    /// Makes both sides, and has them check our own certificate as the other side's would.
    fn configs(
        &self,
        anchors: &Arc<RootCertStore>,
        certificates: &[CertificateDer<'static>],
        key: PrivateKeyDer<'static>,
        own: &Own,
    ) -> Result<(ServerConfig, ClientConfig), FilesError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let library =
            |error: &dyn fmt::Display| FilesError::Unusable { path: self.certificate.clone(), why: error.to_string() };
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(anchors), Arc::clone(&provider))
            .build()
            .map_err(|error| library(&error))?;
        let servers = WebPkiServerVerifier::builder_with_provider(Arc::clone(anchors), Arc::clone(&provider))
            .build()
            .map_err(|error| library(&error))?;
        let now = UnixTime::now();
        let (leaf, issuers) = certificates.split_first().expect("there is one");
        let issuer = |error: &rustls::Error| FilesError::Issuer {
            path: self.certificate.clone(),
            ca: self.ca.clone(),
            why: error.to_string(),
            role: own.role,
        };
        clients.verify_client_cert(leaf, issuers, now).map_err(|error| issuer(&error))?;
        for host in &own.hosts {
            let wrong = || FilesError::Host { path: self.certificate.clone(), host: host.clone(), role: own.role };
            let name = ServerName::try_from(host.as_str()).map_err(|_| wrong())?;
            match servers.verify_server_cert(leaf, issuers, &name, &[], now) {
                Ok(_) => {}
                Err(rustls::Error::InvalidCertificate(
                    rustls::CertificateError::NotValidForName | rustls::CertificateError::NotValidForNameContext { .. },
                )) => return Err(wrong()),
                Err(error) => return Err(issuer(&error)),
            }
        }
        let versions = &[&rustls::version::TLS13];
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| library(&error))?
            .with_client_cert_verifier(clients)
            .with_single_cert(certificates.to_vec(), key.clone_key());
        let mut server = server.map_err(|error| self.of_pair(&error))?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        // Each connection is checked as a whole: none goes on where one with another certificate ended.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| library(&error))?
            .with_webpki_verifier(servers)
            .with_client_auth_cert(certificates.to_vec(), key);
        let mut client = client.map_err(|error| self.of_pair(&error))?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        Ok((server, client))
    }

    fn of_pair(&self, error: &rustls::Error) -> FilesError {
        match error {
            rustls::Error::InconsistentKeys(_) => {
                FilesError::NotAPair { certificate: self.certificate.clone(), key: self.key.clone() }
            }
            error => FilesError::Unusable { path: self.key.clone(), why: error.to_string() },
        }
    }
}

/// gRPC, and nothing else.
const ALPN: &[u8] = b"h2";
