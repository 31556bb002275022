//! Keys: a CA and a gateway certificate for one run, certificates of its nodes for each other, and the key that signs its
//! tokens.
//!
//! All are made anew for every run; the CA's own key is used once and never written.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use seriatim_mtls::{Files, Mtls, Own, development};
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::token::{AUDIENCE, Claims};

use super::{NodeInfo, Role};

/// Name that the gateways' certificate is for.
pub(crate) const SERVER_NAME: &str = "localhost";
/// How long an ordinary token lives.
const TOKEN_SECONDS: i64 = 3_600;
/// What the certificate of an operator is called.
const OPERATOR: &str = "operator";
/// What the certificate of those is called that talk to stores as a logic node does.
const PRETENDER: &str = "pretender";

/// What a token says; [`TokenClaims::of`] is an ordinary one, to be bent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenClaims {
    /// user
    pub user: String,
    /// tenant; everything of a run is of tenant 1
    pub tenant: u32,
    /// what it allows; `None`: a device of the user
    pub scopes: Option<Vec<String>>,
    /// audience; `seriatim` is the right one
    pub audience: String,
    /// seconds from now to its end; negative: it ended
    pub expires_in_s: i64,
    /// signed by a key that the cluster does not know
    pub foreign_key: bool,
}

impl TokenClaims {
    /// A device of a user of tenant 1, for an hour.
    pub fn of(user: &str) -> Self {
        Self {
            user: user.to_owned(),
            tenant: 1,
            scopes: None,
            audience: AUDIENCE.to_owned(),
            expires_in_s: TOKEN_SECONDS,
            foreign_key: false,
        }
    }
}

/// Keys of a run, and where their files are.
pub(crate) struct Keys {
    /// certificate of the CA, PEM
    pub(crate) ca_pem: Vec<u8>,
    /// its file
    pub(crate) ca: PathBuf,
    /// chain of the gateways
    pub(crate) gateway: PathBuf,
    /// their private key
    pub(crate) gateway_key: PathBuf,
    /// key that verifies tokens
    pub(crate) token_public: PathBuf,
    /// key that signs tokens, for `raftctl`
    pub(crate) token_key: PathBuf,
    /// of the nodes for each other; `None`: they speak plaintext
    links: Option<Rotated>,
    signer: EncodingKey,
    stranger: EncodingKey,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// Makes all of them in a folder.
    pub(crate) fn make(folder: &Path) -> anyhow::Result<Keys> {
        fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
        let ca_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).context("make the CA's key")?;
        let mut ca_params = CertificateParams::default();
        ca_params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca_params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = ca_params.self_signed(&ca_key).context("sign the CA")?;
        let gateway_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).context("make the gateways' key")?;
        let mut params = CertificateParams::new([SERVER_NAME.to_owned()]).context("name the gateways")?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let gateway = params.signed_by(&gateway_key, &Issuer::new(ca_params, &ca_key)).context("sign the gateways")?;
        let token_key = KeyPair::generate_for(&rcgen::PKCS_ED25519).context("make the tokens' key")?;
        let stranger = KeyPair::generate_for(&rcgen::PKCS_ED25519).context("make a stranger's key")?;
        let keys = Keys {
            ca_pem: ca.pem().into_bytes(),
            ca: folder.join("ca.pem"),
            gateway: folder.join("gateway.pem"),
            gateway_key: folder.join("gateway-key.pem"),
            token_public: folder.join("token-public.pem"),
            token_key: folder.join("token-key.pem"),
            links: None,
            signer: signer(&token_key)?,
            stranger: signer(&stranger)?,
        };
        write(&keys.ca, &ca.pem())?;
        write(&keys.gateway, &gateway.pem())?;
        write(&keys.gateway_key, &gateway_key.serialize_pem())?;
        write(&keys.token_public, &token_key.public_key_pem())?;
        write(&keys.token_key, &token_key.serialize_pem())?;
        Ok(keys)
    }

    /// Makes certificates with which nodes, operators and pretenders speak with nodes.
    pub(crate) fn make_links(&mut self, folder: &Path, nodes: &[NodeInfo]) -> anyhow::Result<()> {
        let role = |role| match role {
            Role::Store => NodeRole::Store,
            Role::Logic => NodeRole::Logic,
            Role::Gateway => NodeRole::Gateway,
        };
        let mut named: Vec<_> = nodes
            .iter()
            .map(|node| development::Node {
                role: role(node.role),
                name: node.name.clone(),
                host: Some(node.address.ip()),
            })
            .collect();
        named.push(development::Node::local(NodeRole::Admin, OPERATOR));
        named.push(development::Node::local(NodeRole::Logic, PRETENDER));
        self.links = Some(Rotated::make(folder, named)?);
        Ok(())
    }

    /// The certificates of the nodes, to be changed; `None`: they speak plaintext.
    pub(crate) fn rotated(&self) -> Option<&Rotated> {
        self.links.as_ref()
    }

    /// What a node speaks with the others by; `None`: plaintext.
    pub(crate) fn links_of(&self, name: &str) -> Option<Files> {
        self.links.as_ref().map(|links| development::files(&links.place, name))
    }

    /// The words by which `raftctl` speaks with nodes.
    pub(crate) fn operator_words(&self) -> Vec<String> {
        let Some(files) = self.links_of(OPERATOR) else { return vec!["--insecure-plaintext".to_owned()] };
        let named = [("--cacert", files.ca), ("--cert", files.certificate), ("--key", files.key)];
        named.into_iter().flat_map(|(name, path)| [name.to_owned(), path.display().to_string()]).collect()
    }

    /// How a pretender speaks with stores.
    pub(crate) fn pretender(&self) -> anyhow::Result<Mtls> {
        match self.links_of(PRETENDER) {
            Some(files) => {
                let own = Own { role: NodeRole::Logic, hosts: Vec::new() };
                Mtls::follow(files, own).context("read a pretender's certificate")
            }
            None => Ok(Mtls::plaintext()),
        }
    }

    /// Signs whatever is wanted.
    pub(crate) fn token(&self, wanted: &TokenClaims) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let claims = Claims {
            aud: wanted.audience.clone(),
            sub: wanted.user.clone(),
            tenant: wanted.tenant,
            exp: now.saturating_add_signed(wanted.expires_in_s),
            scopes: wanted.scopes.clone(),
        };
        let key = if wanted.foreign_key { &self.stranger } else { &self.signer };
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, key)
            .expect("strings and numbers are JSON, and the key is an Ed25519 key")
    }
}

/// The nodes' certificates for each other, of a CA that can be changed: a link to a folder with all of them, so that
/// every node sees either what was or what is.
#[derive(Debug)]
pub(crate) struct Rotated {
    place: PathBuf,
    nodes: Vec<development::Node>,
    /// CAs that were made
    made: AtomicU32,
}

impl Rotated {
    fn make(place: &Path, nodes: Vec<development::Node>) -> anyhow::Result<Self> {
        let rotated = Self { place: place.to_owned(), nodes, made: AtomicU32::new(0) };
        let first = rotated.new_set()?;
        rotated.point_at(&first)?;
        Ok(rotated)
    }

    /// Certificates of a new CA, which nobody sees yet.
    pub(crate) fn new_set(&self) -> anyhow::Result<PathBuf> {
        let folder = self.beside(&self.made.fetch_add(1, Ordering::Relaxed).to_string());
        development::ensure(&folder, &self.nodes).context("make the nodes' certificates")?;
        Ok(folder)
    }

    /// What nodes see now.
    pub(crate) fn now(&self) -> anyhow::Result<PathBuf> {
        let target = fs::read_link(&self.place).with_context(|| format!("read {}", self.place.display()))?;
        Ok(self.place.with_file_name(target))
    }

    /// From now on nodes see the certificates of `set`, and both its CA and that of `other`.
    pub(crate) fn show_with_both(&self, set: &Path, other: &Path) -> anyhow::Result<()> {
        let name = |path: &Path| path.extension().unwrap_or_default().to_string_lossy().into_owned();
        let both = self.beside(&format!("{}-with-{}", name(set), name(other)));
        fs::create_dir_all(&both).with_context(|| format!("make the folder {}", both.display()))?;
        for entry in fs::read_dir(set).with_context(|| format!("list {}", set.display()))? {
            let from = entry.context("list certificates")?.path();
            let to = both.join(from.file_name().unwrap_or_default());
            fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
        }
        let ca = |set: &Path| fs::read_to_string(set.join("ca.pem")).context("read a CA");
        fs::write(both.join("ca.pem"), ca(set)? + &ca(other)?).context("write both CAs")?;
        self.point_at(&both)
    }

    /// From now on nodes see `set`.
    pub(crate) fn point_at(&self, set: &Path) -> anyhow::Result<()> {
        let beside = self.beside("new");
        let name = set.file_name().context("a folder has a name")?;
        // Beside and renamed: nodes may read at any time.
        std::os::unix::fs::symlink(name, &beside)
            .and_then(|()| fs::rename(&beside, &self.place))
            .with_context(|| format!("point {} at {}", self.place.display(), set.display()))
    }

    fn beside(&self, what: &str) -> PathBuf {
        self.place.with_added_extension(what)
    }
}

fn signer(key: &KeyPair) -> anyhow::Result<EncodingKey> {
    EncodingKey::from_ed_pem(key.serialize_pem().as_bytes()).context("read the key that was just made")
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use seriatim_proto::error::ErrorCode;
    use seriatim_proto::ids::UserId;
    use seriatim_proto::token::Verifier;

    use super::*;

    fn made() -> (tempfile::TempDir, Keys, Verifier) {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::make(folder.path()).unwrap();
        let verifier = Verifier::from_public_pem(&fs::read(&keys.token_public).unwrap()).unwrap();
        (folder, keys, verifier)
    }

    #[test]
    fn an_ordinary_token_is_accepted() {
        let (_folder, keys, verifier) = made();
        let verified = verifier.verify(&keys.token(&TokenClaims::of("alice"))).unwrap();
        assert_eq!((verified.tenant.0, verified.user), (1, UserId::new("alice").unwrap()));
    }

    #[test]
    fn every_bent_token_is_refused() {
        let (_folder, keys, verifier) = made();
        let refused = |claims: TokenClaims| verifier.verify(&keys.token(&claims)).unwrap_err().code;
        let alice = || TokenClaims::of("alice");
        assert_eq!(refused(TokenClaims { expires_in_s: -10, ..alice() }), ErrorCode::AuthExpired);
        assert_eq!(refused(TokenClaims { audience: "other".to_owned(), ..alice() }), ErrorCode::AuthFailed);
        assert_eq!(refused(TokenClaims { foreign_key: true, ..alice() }), ErrorCode::AuthFailed);
    }
}
