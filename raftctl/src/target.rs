//! Target: where the cluster is and as whom to speak: flag over environment over playground.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use seriatim_proto::ids::{TenantId, UserId};
use seriatim_proto::logic::Scopes;
use seriatim_proto::playground::{FILE, Playground, PlaygroundRole};
use seriatim_proto::token::Minter;

use crate::cli::{Format, Globals};
use crate::failure::Failure;
use crate::link::Link;

/// How long a minted token lives.
const TOKEN_SECONDS: u64 = 24 * 3600;

/// What was said, by flags, environment and playground.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// of stores
    pub(crate) endpoints: Vec<String>,
    /// whose
    pub(crate) tenant: TenantId,
    /// how nodes are asked
    pub(crate) link: Link,
    /// how to print
    pub(crate) output: Format,
    gateway: Option<String>,
    /// of gateways
    operators: Vec<String>,
    ca: Option<PathBuf>,
    /// key of the playground that verifies its tokens
    pub(crate) token_public_key: Option<PathBuf>,
    token_file: Option<PathBuf>,
    signing_key: Option<PathBuf>,
}

impl Target {
    /// Fills what the flags leave open from the playground, if there is one.
    pub(crate) fn new(globals: &Globals) -> Result<Target, Failure> {
        let elsewhere =
            !globals.endpoints.is_empty() || globals.gateway.is_some() || !globals.gateway_operators.is_empty();
        let playground = match &globals.playground {
            Some(folder) => Some(read_playground(folder)?),
            None if elsewhere => None,
            // Nobody asked for one: no complaint if there is none.
            None => playground_folder(globals).ok().and_then(|folder| read_playground(&folder).ok()),
        };
        let found = playground.as_ref();
        let addresses = |role| -> Vec<String> {
            let nodes = found.iter().flat_map(|found| &found.nodes).filter(|node| node.role == role);
            nodes.map(|node| node.address.clone()).collect()
        };
        Ok(Target {
            endpoints: if globals.endpoints.is_empty() {
                addresses(PlaygroundRole::Store)
            } else {
                globals.endpoints.clone()
            },
            tenant: TenantId(globals.tenant.unwrap_or_else(|| found.map_or(1, |found| found.tenant))),
            link: Link::new(globals, found)?,
            output: globals.output,
            gateway: globals.gateway.clone().or_else(|| addresses(PlaygroundRole::Gateway).into_iter().next()),
            operators: if globals.gateway_operators.is_empty() {
                found.iter().flat_map(|found| &found.nodes).filter_map(|node| node.operators.clone()).collect()
            } else {
                globals.gateway_operators.clone()
            },
            ca: globals.ca.clone().or_else(|| found.map(|found| PathBuf::from(&found.ca_certificate))),
            token_public_key: found.map(|found| PathBuf::from(&found.token_public_key)),
            token_file: globals.token_file.clone(),
            signing_key: globals.dev_key.clone().or_else(|| found.map(|found| PathBuf::from(&found.token_private_key))),
        })
    }

    /// Stores to ask.
    pub(crate) fn stores(&self) -> Result<&[String], Failure> {
        if self.endpoints.is_empty() {
            return Err(nowhere("no store is named: --endpoints is missing"));
        }
        self.link.ready()?;
        Ok(&self.endpoints)
    }

    /// The gateway to speak to.
    pub(crate) fn gateway(&self) -> Result<&str, Failure> {
        self.gateway.as_deref().ok_or_else(|| nowhere("no gateway is named: --gateway is missing"))
    }

    /// Doors for operators of all gateways.
    pub(crate) fn operators(&self) -> Result<&[String], Failure> {
        if self.operators.is_empty() {
            return Err(Failure::usage("no gateway's door for operators is named: --gateway-operators is missing")
                .hint(
                    "--gateway-operators HOST:PORT,… of `seriatim gateway --operators ADDRESS`, or --playground DIR",
                ));
        }
        self.link.ready()?;
        Ok(&self.operators)
    }

    /// Certificate of the CA, PEM.
    pub(crate) fn ca_pem(&self) -> Result<Vec<u8>, Failure> {
        let path = self.ca.as_deref().ok_or_else(|| nowhere("the gateway's CA is not named: --ca is missing"))?;
        read(path, "the CA certificate")
    }

    /// A token for `user`: minted with a signing key, else the one that was given.
    pub(crate) fn token(&self, user: Option<&UserId>, scopes: Scopes) -> Result<String, Failure> {
        if self.token_file.is_some() {
            return self.given_token();
        }
        if self.signing_key.is_none() {
            return Err(Failure::usage("no token: neither --token-file nor --dev-key is given")
                .hint("--token-file FILE, or --dev-key of a development cluster"));
        }
        let user = user.ok_or_else(|| Failure::usage("whose message is it? --as USER is missing"))?;
        self.mint(user, scopes, Duration::from_secs(TOKEN_SECONDS))
    }

    /// The token that was given.
    pub(crate) fn given_token(&self) -> Result<String, Failure> {
        let path = self.token_file.as_deref().ok_or_else(|| {
            Failure::usage("which token? --token-file is missing").hint("--token-file FILE, or - for stdin")
        })?;
        read_token(path)
    }

    /// Is there no more of a token than what was read first?
    pub(crate) fn token_is_read_once(&self) -> bool {
        self.token_file.as_deref() == Some(Path::new("-"))
    }

    /// Was a token given?
    pub(crate) fn has_token(&self) -> bool {
        self.token_file.is_some()
    }

    /// What signs with the development key.
    pub(crate) fn minter(&self) -> Result<Minter, Failure> {
        let path = self.signing_key.as_deref().ok_or_else(|| {
            Failure::usage("no key to sign with: --dev-key is missing").hint("--dev-key of a development cluster")
        })?;
        Minter::from_private_pem(&read(path, "the signing key")?)
            .map_err(|refusal| Failure::refused("failed to use the signing key", &refusal))
    }

    /// A token that the development key signs.
    pub(crate) fn mint(&self, user: &UserId, scopes: Scopes, life: Duration) -> Result<String, Failure> {
        let minter = self.minter()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        minter
            .mint_for(self.tenant, user, now.saturating_add(life.as_secs()), scopes)
            .map_err(|refusal| Failure::refused("failed to mint a token", &refusal))
    }
}

/// The token in a file; `-` is stdin.
pub(crate) fn read_token(path: &Path) -> Result<String, Failure> {
    let bytes = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
            .map(String::into_bytes)
            .map_err(|error| Failure::usage(format!("failed to read the token from stdin: {error}")))?
    } else {
        read(path, "the token")?
    };
    let text = String::from_utf8(bytes).map_err(|_| Failure::usage("the token is not text"))?;
    Ok(text.trim().to_owned())
}

/// The playground in question: the one named, or the last one started.
pub(crate) fn playground_folder(globals: &Globals) -> Result<PathBuf, Failure> {
    if let Some(folder) = &globals.playground {
        return Ok(folder.clone());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let last = cache.and_then(|cache| std::fs::read_to_string(cache.join("seriatim/last-playground")).ok());
    last.map(|text| PathBuf::from(text.trim()))
        .ok_or_else(|| nowhere("no playground is named, and none was started here"))
}

fn read_playground(folder: &Path) -> Result<Playground, Failure> {
    let path = folder.join(FILE);
    let bytes =
        std::fs::read(&path).map_err(|error| nowhere(&format!("failed to read {}: {error}", path.display())))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::usage(format!("{} is no description of a playground: {error}", path.display())))
}

fn nowhere(message: &str) -> Failure {
    Failure::usage(message).hint(
        "--playground DIR of a running playground (`seriatim playground --data DIR`), or --endpoints and --gateway",
    )
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::usage(format!("failed to read {what} {}: {error}", path.display())))
}
