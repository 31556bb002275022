//! Config: what each role can be told, by flags or by a TOML file of the same names (`--config`). A flag wins.
//!
//! Read once at start and turned into the role's checked config; nothing else reads flags, files or the environment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use seriatim_gateway::dev_ca::ensure_dev_ca;
use seriatim_gateway::{ADDRESS_CONNECTIONS_MAX, CertificateFiles, GatewayConfig, Origins, WebTransportCertificate};
use seriatim_logic::LogicConfig;
use seriatim_mtls::{Files, Mtls, Own, Unclear};
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::limits;
use seriatim_proto::meta::Limit;
use seriatim_store::StoreConfig;

use crate::client_ca;
use crate::token_keys::{self, KeysFrom};

/// What every role has.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// TOML file with the same names as the flags (dashes as underscores)
    #[arg(long)]
    pub(crate) config: Option<PathBuf>,
    /// loopback address of /metrics and /healthz
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) metrics: SocketAddr,
    /// end when stdin ends: the playground's children end with it
    #[arg(long)]
    pub(crate) exit_with_parent: bool,
}

impl Default for Common {
    fn default() -> Self {
        Self { config: None, metrics: SocketAddr::from(([127, 0, 0, 1], 0)), exit_with_parent: false }
    }
}

/// `seriatim store`
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StoreOptions {
    #[command(flatten)]
    #[serde(skip)]
    pub(crate) common: Common,
    /// folder of this store's data
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// address to listen on
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// host:port by which others reach this store, if not the address it listens on
    #[arg(long)]
    advertise: Option<String>,
    /// PEM file of the CAs whose certificates other nodes may show; read anew when it changes, as the next two
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// PEM file of this node's certificate for other nodes, `raftctl cert issue --role …`
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// PEM file of its private key
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// development only: no TLS between our own processes, and nobody is asked who he is
    #[arg(long)]
    insecure_plaintext: bool,
    /// free bytes of the file system below which writes are refused
    #[arg(long)]
    disk_reserve_bytes: Option<u64>,
    /// bytes a second that are read in the background to find damaged data; 0 for none
    #[arg(long)]
    scrub_bytes_per_second: Option<u64>,
    /// what this store fails together with, such as a rack or a zone: replicas of a group are kept apart
    #[arg(long)]
    domain: Option<String>,
}

/// `seriatim logic`
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogicOptions {
    #[command(flatten)]
    #[serde(skip)]
    pub(crate) common: Common,
    /// address to listen on
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// host:port by which others reach this node, if not the address it listens on
    #[arg(long)]
    advertise: Option<String>,
    /// host:port of stores, comma-separated; one that answers is enough
    #[arg(long, value_delimiter = ',')]
    stores: Vec<String>,
    /// keys that tokens are signed with: a file (JWKS, or one Ed25519 public key as PEM) or an https address of a JWKS;
    /// read anew by itself
    #[arg(long, value_name = "FILE|URL")]
    token_keys: Option<String>,
    /// PEM file of the CA that signed that address's certificate; unless given, those that the system trusts
    #[arg(long, value_name = "FILE")]
    token_keys_ca: Option<PathBuf>,
    /// PEM file of the public key that tokens are signed with; read anew when it changes
    #[arg(long, value_name = "FILE")]
    token_public_key: Option<PathBuf>,
    /// development only: file of a secret of 32 bytes or more; tokens signed with it (HS256) are taken too
    #[arg(long, value_name = "FILE")]
    development_hs256_secret: Option<PathBuf>,
    /// PEM file of the CAs whose certificates devices may show instead of a token; read anew when it changes
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// what tenants and users may ask of this node, such as user-writes-per-s=100; `raftctl tenant show` names all
    #[arg(long = "limit", value_name = "NAME=PER_SECOND")]
    limit: Vec<String>,
    /// PEM file of the CAs whose certificates other nodes may show; read anew when it changes, as the next two
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// PEM file of this node's certificate for other nodes, `raftctl cert issue --role …`
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// PEM file of its private key
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// development only: no TLS between our own processes, and nobody is asked who he is
    #[arg(long)]
    insecure_plaintext: bool,
}

/// `seriatim gateway`
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GatewayOptions {
    #[command(flatten)]
    #[serde(skip)]
    pub(crate) common: Common,
    /// address to listen on, over UDP and TCP; `[::]:PORT` is for IPv6 and IPv4
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// what operators call this gateway; unless given, the address it listens on
    #[arg(long)]
    name: Option<String>,
    /// address of the door for operators (`raftctl gateway`, `raftctl session`), for TCP; without it there is none;
    /// whoever reaches it may end every session: keep it inside
    #[arg(long, value_name = "ADDRESS")]
    operators: Option<SocketAddr>,
    /// host:port of logic nodes, comma-separated; one that answers is enough
    #[arg(long, value_delimiter = ',')]
    logic: Vec<String>,
    /// development only: folder of a CA with this gateway's certificate and the tokens' keys, made on first start
    #[arg(long)]
    development_ca: Option<PathBuf>,
    /// PEM file of this gateway's certificate chain; read anew when it changes
    #[arg(long)]
    certificate_chain: Option<PathBuf>,
    /// PEM file of its private key
    #[arg(long)]
    private_key: Option<PathBuf>,
    /// certificate that browsers see over WebTransport: `short` is one of the gateway's own whose hash it publishes,
    /// `chain` the certificate chain, if browsers know its CA
    #[arg(long, value_name = "short|chain")]
    webtransport_certificate: Option<WebTransportCertificate>,
    /// origin of web pages that may connect, such as `https://chat.example`, repeated; * for all; without any, pages of
    /// the hosts that this gateway's certificate names
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// file of a secret of 32 bytes or more, the same after a restart: devices that this gateway has forgotten are told
    /// so at once; without it they find out by its silence
    #[arg(long, value_name = "FILE")]
    quic_secret: Option<PathBuf>,
    /// connections of one address at the same time: an IPv4 address, or a /64 of IPv6
    #[arg(long)]
    address_connections: Option<u32>,
    /// keys that tokens are signed with: a file (JWKS, or one Ed25519 public key as PEM) or an https address of a JWKS;
    /// read anew by itself
    #[arg(long, value_name = "FILE|URL")]
    token_keys: Option<String>,
    /// PEM file of the CA that signed that address's certificate; unless given, those that the system trusts
    #[arg(long, value_name = "FILE")]
    token_keys_ca: Option<PathBuf>,
    /// PEM file of the public key that tokens are signed with; read anew when it changes
    #[arg(long, value_name = "FILE")]
    token_public_key: Option<PathBuf>,
    /// development only: file of a secret of 32 bytes or more; tokens signed with it (HS256) are taken too
    #[arg(long, value_name = "FILE")]
    development_hs256_secret: Option<PathBuf>,
    /// PEM file of the CAs whose certificates devices may show instead of a token; read anew when it changes
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// PEM file of the CAs whose certificates other nodes may show; read anew when it changes, as the next two
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// PEM file of this node's certificate for other nodes, `raftctl cert issue --role …`
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// PEM file of its private key
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// development only: no TLS between our own processes, and nobody is asked who he is
    #[arg(long)]
    insecure_plaintext: bool,
}

impl StoreOptions {
    /// Flags over file over defaults.
    pub(crate) fn checked(self, registry: &mut Registry) -> anyhow::Result<StoreConfig> {
        let file: StoreOptions = read_file(self.common.config.as_deref())?;
        let insecure_plaintext = self.insecure_plaintext || file.insecure_plaintext;
        let tls = Tls {
            ca: self.tls_ca.or(file.tls_ca),
            cert: self.tls_cert.or(file.tls_cert),
            key: self.tls_key.or(file.tls_key),
        };
        let listen = wanted("listen", self.listen.or(file.listen))?;
        let advertise = self.advertise.or(file.advertise);
        let reached = told(advertise.as_deref(), listen, insecure_plaintext)?;
        Ok(StoreConfig {
            data_dir: wanted("data-dir", self.data_dir.or(file.data_dir))?,
            listen,
            advertise,
            insecure_plaintext,
            mtls: tls.start(insecure_plaintext, Own::reached_at(NodeRole::Store, [reached.as_str()]), registry)?,
            disk_reserve_bytes: self
                .disk_reserve_bytes
                .or(file.disk_reserve_bytes)
                .unwrap_or(limits::DISK_RESERVE_BYTES),
            scrub_bytes_per_s: self
                .scrub_bytes_per_second
                .or(file.scrub_bytes_per_second)
                .unwrap_or(limits::SCRUB_BYTES_PER_S),
            domain: domain(self.domain.or(file.domain))?,
        })
    }
}

/// What others are told to dial: with TLS a host that a certificate can name.
fn told(advertise: Option<&str>, listen: SocketAddr, insecure_plaintext: bool) -> anyhow::Result<String> {
    let reached = advertise.map_or_else(|| listen.to_string(), str::to_owned);
    anyhow::ensure!(
        insecure_plaintext || Own::is_told(&reached),
        "start: others would be told to dial {reached}, which no certificate names: say --advertise HOST:PORT"
    );
    Ok(reached)
}

/// A label that group 0 takes.
fn domain(label: Option<String>) -> anyhow::Result<Option<String>> {
    let is_name = |name: &String| {
        !name.is_empty() && name.len() <= limits::DOMAIN_BYTES_MAX as usize && !name.chars().any(char::is_control)
    };
    let max = limits::DOMAIN_BYTES_MAX;
    anyhow::ensure!(
        label.as_ref().is_none_or(is_name),
        "use the domain {label:?}: 1 to {max} bytes, no control characters"
    );
    Ok(label)
}

impl LogicOptions {
    /// Flags over file over defaults. Reads the keys of tokens, and keeps them fresh from then on.
    pub(crate) async fn checked(self, registry: &mut Registry) -> anyhow::Result<LogicConfig> {
        let file: LogicOptions = read_file(self.common.config.as_deref())?;
        let keys = KeysFrom {
            keys: self.token_keys.or(file.token_keys),
            ca: self.token_keys_ca.or(file.token_keys_ca),
            public_key: self.token_public_key.or(file.token_public_key),
            hs256_secret: self.development_hs256_secret.or(file.development_hs256_secret),
        };
        let insecure_plaintext = self.insecure_plaintext || file.insecure_plaintext;
        let tls = Tls {
            ca: self.tls_ca.or(file.tls_ca),
            cert: self.tls_cert.or(file.tls_cert),
            key: self.tls_key.or(file.tls_key),
        };
        let listen = wanted("listen", self.listen.or(file.listen))?;
        let advertise = self.advertise.or(file.advertise);
        let reached = told(advertise.as_deref(), listen, insecure_plaintext)?;
        let own = Own::reached_at(NodeRole::Logic, [reached.as_str()]);
        let mtls = tls.start(insecure_plaintext, own, registry)?;
        Ok(LogicConfig {
            listen,
            advertise,
            mtls,
            stores: wanted_list("stores", self.stores, file.stores)?,
            limits: rates(file.limit.iter().chain(&self.limit))?,
            insecure_plaintext,
            verifier: token_keys::start(&keys, registry).await?,
            client_ca: client_ca::start(self.client_ca.or(file.client_ca), registry).await?,
        })
    }
}

impl GatewayOptions {
    /// Flags over file over defaults. Reads the keys of tokens, and keeps them fresh from then on.
    pub(crate) async fn checked(self, registry: &mut Registry) -> anyhow::Result<GatewayConfig> {
        let file: GatewayOptions = read_file(self.common.config.as_deref())?;
        // Nothing is made for a start that is refused.
        let insecure_plaintext = self.insecure_plaintext || file.insecure_plaintext;
        let tls = Tls {
            ca: self.tls_ca.or(file.tls_ca),
            cert: self.tls_cert.or(file.tls_cert),
            key: self.tls_key.or(file.tls_key),
        };
        let operators = self.operators.or(file.operators);
        let reached = operators.map(|address| address.to_string());
        let own = Own::reached_at(NodeRole::Gateway, reached.as_deref());
        let mtls = tls.start(insecure_plaintext, own, registry)?;
        let listen = wanted("listen", self.listen.or(file.listen))?;
        let logic = wanted_list("logic", self.logic, file.logic)?;
        let mut chain = self.certificate_chain.or(file.certificate_chain);
        let mut key = self.private_key.or(file.private_key);
        let mut keys = KeysFrom {
            keys: self.token_keys.or(file.token_keys),
            ca: self.token_keys_ca.or(file.token_keys_ca),
            public_key: self.token_public_key.or(file.token_public_key),
            hs256_secret: self.development_hs256_secret.or(file.development_hs256_secret),
        };
        if let Some(folder) = self.development_ca.or(file.development_ca) {
            anyhow::ensure!(
                chain.is_none() && key.is_none(),
                "start: --development-ca has a certificate and key of its own: leave out --certificate-chain and \
                 --private-key, or it"
            );
            let files = ensure_dev_ca(&folder).context("make the development CA")?;
            tracing::warn!(ca = %files.ca.display(), token_key = %files.token_key.display(), "a CA for development only");
            if keys.keys.is_none() && keys.public_key.is_none() {
                keys.public_key = Some(files.token_public);
            }
            (chain, key) = (Some(files.gateway), Some(files.gateway_key));
        }
        Ok(GatewayConfig {
            name: gateway_name(self.name.or(file.name))?,
            operators,
            listen,
            logic,
            certificate: CertificateFiles {
                chain: wanted("certificate-chain", chain)?,
                key: wanted("private-key", key)?,
            },
            webtransport: self.webtransport_certificate.or(file.webtransport_certificate).unwrap_or_default(),
            origins: Origins::new(if self.allow_origin.is_empty() { file.allow_origin } else { self.allow_origin }),
            address_connections_max: self
                .address_connections
                .or(file.address_connections)
                .unwrap_or(ADDRESS_CONNECTIONS_MAX),
            quic_secret: match self.quic_secret.or(file.quic_secret) {
                Some(path) => {
                    Some(std::fs::read(&path).with_context(|| format!("read --quic-secret {}", path.display()))?)
                }
                None => None,
            },
            verifier: token_keys::start(&keys, registry).await?,
            client_ca: client_ca::start(self.client_ca.or(file.client_ca), registry).await?,
            insecure_plaintext,
            mtls,
        })
    }
}

/// One word: it is part of the ids of sessions.
fn gateway_name(name: Option<String>) -> anyhow::Result<Option<String>> {
    let is_word = |name: &String| {
        (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte))
    };
    anyhow::ensure!(
        name.as_ref().is_none_or(is_word),
        "use the name {name:?}: 1 to 64 letters, digits, dots, dashes and underscores"
    );
    Ok(name)
}

/// A later one wins.
fn rates<'a>(texts: impl Iterator<Item = &'a String>) -> anyhow::Result<BTreeMap<Limit, u32>> {
    let mut rates = BTreeMap::new();
    for text in texts {
        let (limit, rate) = Limit::parse(text).map_err(|error| anyhow::anyhow!("--limit: {error}"))?;
        anyhow::ensure!(
            !limit.is_retention(),
            "--limit {}: stores keep, not logic nodes; set it for a tenant with raftctl tenant set",
            limit.name()
        );
        match rate {
            Some(rate) => rates.insert(limit, rate),
            None => rates.remove(&limit),
        };
    }
    Ok(rates)
}

fn read_file<T: DeserializeOwned + Default>(path: Option<&Path>) -> anyhow::Result<T> {
    let Some(path) = path else { return Ok(T::default()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("read the config file {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("understand the config file {}", path.display()))
}

fn wanted<T>(name: &str, value: Option<T>) -> anyhow::Result<T> {
    value.with_context(|| format!("start: --{name} is missing (or `{}` in the config file)", name.replace('-', "_")))
}

fn wanted_list(name: &str, flags: Vec<String>, file: Vec<String>) -> anyhow::Result<Vec<String>> {
    let list = if flags.is_empty() { file } else { flags };
    wanted(name, (!list.is_empty()).then_some(list))
}

/// The three flags of TLS between our own processes.
pub(crate) struct Tls {
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

impl Tls {
    /// All three, or none.
    pub(crate) fn files(self) -> anyhow::Result<Option<Files>> {
        match (self.ca, self.cert, self.key) {
            (None, None, None) => Ok(None),
            (Some(ca), Some(certificate), Some(key)) => Ok(Some(Files { ca, certificate, key })),
            _ => anyhow::bail!("start: --tls-ca, --tls-cert and --tls-key go together: one of them is missing"),
        }
    }

    /// Reads the certificate, and keeps it fresh from then on. What was said is judged before anything is made.
    fn start(self, insecure_plaintext: bool, own: Own, registry: &mut Registry) -> anyhow::Result<Option<Mtls>> {
        match (self.files()?, insecure_plaintext) {
            (Some(files), false) => {
                Ok(Some(Mtls::start(files, own, registry).context("use the certificate of this node")?))
            }
            (None, true) => Ok(None),
            (Some(_), true) => Err(Unclear::Both.into()),
            (None, false) => Err(Unclear::Neither.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_in_a_config_file_is_refused() {
        let error = toml::from_str::<StoreOptions>("data_dir = \"x\"\nlisten_on = \"y\"").unwrap_err();
        assert!(error.to_string().contains("listen_on"), "{error}");
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.toml");
        std::fs::write(&path, "data_dir = \"a\"\nlisten = \"127.0.0.1:1\"\ninsecure_plaintext = true\n").unwrap();
        let options = StoreOptions {
            common: Common { config: Some(path), ..Common::default() },
            data_dir: Some("b".into()),
            ..StoreOptions::default()
        };
        let config = options.checked(&mut Registry::default()).unwrap();
        assert_eq!(config.data_dir, PathBuf::from("b"));
        assert_eq!(config.listen.port(), 1);
        assert_eq!(config.disk_reserve_bytes, limits::DISK_RESERVE_BYTES);
    }

    #[test]
    fn plaintext_must_be_asked_for() {
        let options = StoreOptions {
            data_dir: Some("b".into()),
            listen: Some("127.0.0.1:0".parse().unwrap()),
            ..StoreOptions::default()
        };
        assert!(options.checked(&mut Registry::default()).err().unwrap().to_string().contains("--insecure-plaintext"));
    }
}
