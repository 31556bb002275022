//! Token: the signed claims by which a device enters. Verified by the gateway and again by logic.
//!
//! Each key has one algorithm, and a token is verified by the key that it names: what a token says of its algorithm
//! only ever gets it refused. Reading files and asking an issuer for its keys is the shell's ([`Verifier::replace`],
//! [`Verifier::refreshed_by`]).
//!
//! # Reading order
//! [`Verifier::check`] → [`KeySet`].

mod keys;

use std::pin::Pin;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};

use crate::chaos::{self, Sabotage};
use crate::error::{ErrorCode, Refusal};
use crate::ids::{TenantId, UserId};
use crate::limits;
use crate::logic::Scopes;

pub use keys::{KeyInfo, KeySet, KeySetError};

/// Audience of every token of ours.
pub const AUDIENCE: &str = "seriatim";

/// The claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// [`AUDIENCE`]
    pub aud: String,
    /// user
    pub sub: String,
    /// tenant
    pub tenant: u32,
    /// end, Unix seconds
    pub exp: u64,
    /// what it allows ([`Scopes`]); absent: a device of `sub`; empty: nothing
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
}

/// What a verified token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// tenant
    pub tenant: TenantId,
    /// user
    pub user: UserId,
    /// end, Unix seconds
    pub expires_at_s: u64,
    /// what it allows
    pub scopes: Scopes,
}

impl Verified {
    /// What it says for a device of this name: the same. (A test build may be told to believe the device.)
    #[must_use]
    pub fn of_device(mut self, device: &str) -> Self {
        if chaos::sabotaged(Sabotage::UserFromFrame)
            && let Some(Ok(user)) = device.split_once('.').map(|(_, name)| UserId::new(name))
        {
            self.user = user;
        }
        self
    }
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Over [`limits::TOKEN_BYTES_MAX`].
    #[error("the token is too long")]
    TooLong,
    /// Not three parts of base64, or no JSON in them.
    #[error("the token is no JWT")]
    Malformed,
    /// `none`, and whatever else is never taken.
    #[error("the token's algorithm is none that is taken here")]
    Algorithm,
    /// A key that was rotated away, or is not known yet.
    #[error("the token's key is not known here")]
    UnknownKey,
    /// A key that is not known, and might be a new one: nobody can say for now.
    #[error("the token's key is not known here, and the keys cannot be read anew for now")]
    KeysUnreadable,
    /// No `kid`, and several keys that it might be.
    #[error("the token does not say which key it is signed with")]
    NoKeyNamed,
    /// Another algorithm than its key is for.
    #[error("the token's algorithm is not that of its key")]
    OtherAlgorithm,
    /// Signed by somebody else, or changed since.
    #[error("the token's signature is not its key's")]
    Signature,
    /// `exp` is past.
    #[error("the token's time is over")]
    Expired,
    /// `nbf` is to come.
    #[error("the token's time has not come yet")]
    Early,
    /// `aud` is not [`AUDIENCE`].
    #[error("the token is for another audience")]
    Audience,
    /// A claim is missing.
    #[error("the token has no claim `{0}`")]
    Missing(&'static str),
    /// A claim is of another type than it should be.
    #[error("a claim of the token is of another type than it should be")]
    Claims,
    /// `sub` is no user name.
    #[error("the token names no valid user")]
    User,
}

impl TokenError {
    /// A word for metrics and programs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::KeysUnreadable => "keys_unreadable",
            Self::NoKeyNamed => "no_key_named",
            Self::OtherAlgorithm => "other_algorithm",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::Early => "early",
            Self::Audience => "audience",
            Self::Missing(_) => "missing_claim",
            Self::Claims => "claims",
            Self::User => "user",
        }
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        let code = match error {
            TokenError::Expired => ErrorCode::AuthExpired,
            TokenError::KeysUnreadable => {
                return Refusal::later(ErrorCode::Unavailable, error.to_string(), KEYS_PAUSE_MS);
            }
            _ => ErrorCode::AuthFailed,
        };
        Refusal::new(code, error.to_string())
    }
}

/// What reads the keys anew, for a token whose key is not known. It says whether they were read.
pub type Refresh = Box<dyn Fn() -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// When to come again while the keys cannot be read.
const KEYS_PAUSE_MS: u32 = 1_000;

/// Verifies tokens. Cheap to clone; all clones have the same keys, and new ones are used at once.
#[derive(Clone)]
pub struct Verifier {
    shared: Arc<Shared>,
}

struct Shared {
    keys: RwLock<Arc<KeySet>>,
    refresh: OnceLock<Refresh>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Verifier").field(&self.keys()).finish()
    }
}

impl Verifier {
    /// With these keys.
    pub fn new(keys: KeySet) -> Self {
        let keys = RwLock::new(Arc::new(keys));
        Self { shared: Arc::new(Shared { keys, refresh: OnceLock::new() }) }
    }

    /// Takes the public key as PEM.
    pub fn from_public_pem(pem: &[u8]) -> Result<Self, KeySetError> {
        KeySet::from_public_pem(pem).map(Self::new)
    }

    /// Verifies with other keys from now on.
    pub fn replace(&self, keys: KeySet) {
        *self.shared.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// Says who reads the keys anew. The first one who says so stays.
    pub fn refreshed_by(&self, refresh: Refresh) {
        let _ = self.shared.refresh.set(refresh);
    }

    /// The keys of now.
    pub fn keys(&self) -> Arc<KeySet> {
        self.shared.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends when the keys were read anew (true), or could not be; `None`: nobody reads them anew.
    pub fn refresh(&self) -> Option<Pin<Box<dyn Future<Output = bool> + Send>>> {
        self.shared.refresh.get().map(|refresh| refresh())
    }

    /// Checks signature, algorithm, audience, time and names. The error never holds the token.
    pub fn verify(&self, token: &str) -> Result<Verified, Refusal> {
        Ok(self.check(token)?)
    }

    /// As [`Verifier::check`], behind a [`Verifier::refresh`]: a key that is not known still is nobody's if the keys were
    /// read, and may be anybody's if not.
    pub fn check_again(&self, token: &str, are_read: bool) -> Result<Verified, TokenError> {
        self.check(token).map_err(|error| match error {
            TokenError::UnknownKey if !are_read => TokenError::KeysUnreadable,
            error => error,
        })
    }

    /// As [`Verifier::verify`], with the reason in detail.
    pub fn check(&self, token: &str) -> Result<Verified, TokenError> {
        if token.len() > limits::TOKEN_BYTES_MAX as usize {
            return Err(TokenError::TooLong);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|error| match error.kind() {
            // A header that is JSON, but not one of ours: an algorithm that the library does not know, or none at all.
            ErrorKind::Json(error) if error.is_data() => TokenError::Algorithm,
            _ => TokenError::Malformed,
        })?;
        // What a token calls critical must be understood, and nothing of the kind is.
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let keys = self.keys();
        let (key, validation) = keys.key_for(&header)?;
        let claims = jsonwebtoken::decode::<ReadClaims>(token, key, validation).map_err(|error| of_library(&error))?;
        claims.claims.verified()
    }
}

fn of_library(error: &jsonwebtoken::errors::Error) -> TokenError {
    match error.kind() {
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::InvalidAlgorithm => TokenError::OtherAlgorithm,
        ErrorKind::MissingRequiredClaim(claim) => {
            TokenError::Missing(["exp", "aud", "sub"].into_iter().find(|name| name == claim).unwrap_or("claim"))
        }
        ErrorKind::Json(error) if error.is_data() => TokenError::Claims,
        ErrorKind::InvalidClaimFormat(_) => TokenError::Claims,
        ErrorKind::InvalidToken | ErrorKind::Base64(_) | ErrorKind::Utf8(_) | ErrorKind::Json(_) => {
            TokenError::Malformed
        }
        // A key or signature that the library cannot use.
        _ => TokenError::Signature,
    }
}

/// The claims as they come: more may be in a token, and some may be missing.
#[derive(Deserialize)]
struct ReadClaims {
    sub: Option<String>,
    tenant: Option<u32>,
    exp: Option<u64>,
    nbf: Option<u64>,
    scopes: Option<Vec<String>>,
}

impl ReadClaims {
    fn verified(self) -> Result<Verified, TokenError> {
        // One that never ends, or counts nanoseconds, is one that ends when everybody is gone: nobody computes with more.
        let expires_at_s = self.exp.ok_or(TokenError::Missing("exp"))?.min(limits::TOKEN_END_S_MAX);
        let earliest = jsonwebtoken::get_current_timestamp() + limits::TOKEN_EARLY_S_MAX;
        if self.nbf.is_some_and(|begins_at_s| begins_at_s > earliest) {
            return Err(TokenError::Early);
        }
        let sub = self.sub.ok_or(TokenError::Missing("sub"))?;
        let user = UserId::new(&sub).map_err(|_| TokenError::User)?;
        let tenant = TenantId(self.tenant.ok_or(TokenError::Missing("tenant"))?);
        let scopes = self.scopes.as_deref().map_or(Scopes::DEVICE, Scopes::from_names);
        Ok(Verified { tenant, user, expires_at_s, scopes })
    }
}

/// What a token says of itself: nobody has checked it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unverified {
    /// as its header says
    pub algorithm: String,
    /// the key that it names
    pub kid: Option<String>,
    /// whatever they are
    pub claims: serde_json::Value,
}

/// Reads a token without checking it, for tools that show it; `None`: it is no JWT, or of an algorithm that no library
/// should know.
pub fn unverified(token: &str) -> Option<Unverified> {
    let header = jsonwebtoken::decode_header(token).ok()?;
    let claims = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    Some(Unverified { algorithm: format!("{:?}", header.alg), kid: header.kid, claims })
}

/// Signs tokens; only development tools hold a signing key of ours.
#[derive(Clone)]
pub struct Minter {
    key: EncodingKey,
}

impl std::fmt::Debug for Minter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Minter")
    }
}

impl Minter {
    /// Takes the private key as PKCS#8 PEM.
    pub fn from_private_pem(pem: &[u8]) -> Result<Self, Refusal> {
        let key = EncodingKey::from_ed_pem(pem)
            .map_err(|error| Refusal::new(ErrorCode::AuthFailed, format!("read the signing key: {error}")))?;
        Ok(Self { key })
    }

    /// A token for a device of `user` until `expires_at_s` (Unix seconds).
    pub fn mint(&self, tenant: TenantId, user: &UserId, expires_at_s: u64) -> Result<String, Refusal> {
        self.mint_for(tenant, user, expires_at_s, Scopes::DEVICE)
    }

    /// A token of `user` for `scopes` until `expires_at_s` (Unix seconds).
    pub fn mint_for(
        &self,
        tenant: TenantId,
        user: &UserId,
        expires_at_s: u64,
        scopes: Scopes,
    ) -> Result<String, Refusal> {
        let claims = Claims {
            aud: AUDIENCE.to_owned(),
            sub: user.as_str().to_owned(),
            tenant: tenant.0,
            exp: expires_at_s,
            scopes: (scopes != Scopes::DEVICE).then(|| scopes.names()),
        };
        self.sign(&claims)
    }

    /// A token of these claims, whatever they say.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, Refusal> {
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), claims, &self.key)
            .map_err(|error| Refusal::new(ErrorCode::Internal, format!("sign a token: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_claim_is_a_device_and_an_empty_one_allows_nothing() {
        let allows = |json: &str| {
            let claims: Claims =
                serde_json::from_str(&format!(r#"{{"aud":"seriatim","sub":"a","tenant":1,"exp":1{json}}}"#)).unwrap();
            claims.scopes.as_deref().map_or(Scopes::DEVICE, Scopes::from_names)
        };
        assert_eq!(allows(""), Scopes::DEVICE);
        assert_eq!(allows(r#","scopes":[]"#), Scopes::default());
        assert_eq!(allows(r#","scopes":["sequence"]"#), Scopes::SEQUENCE);
        assert_eq!(allows(r#","scopes":["device","sequence","later"]"#), Scopes { device: true, sequence: true });
    }
}
