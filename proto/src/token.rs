//! Token: the signed claims by which a device enters. Verified by the gateway and again by logic.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::chaos::{self, Sabotage};
use crate::error::{ErrorCode, Refusal};
use crate::ids::{TenantId, UserId};
use crate::limits;
use crate::logic::Scopes;

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

/// Verifies tokens signed with Ed25519; the algorithm is pinned.
#[derive(Clone)]
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier")
    }
}

impl Verifier {
    /// Takes the public key as PEM.
    pub fn from_public_pem(pem: &[u8]) -> Result<Self, Refusal> {
        let key = DecodingKey::from_ed_pem(pem)
            .map_err(|error| Refusal::new(ErrorCode::AuthFailed, format!("read the token key: {error}")))?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&[AUDIENCE]);
        validation.validate_aud = !chaos::sabotaged(Sabotage::AudienceUnchecked);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        validation.leeway = 0;
        Ok(Self { key, validation })
    }

    /// Checks signature, algorithm, audience, end and names. The error never holds the token.
    pub fn verify(&self, token: &str) -> Result<Verified, Refusal> {
        let failed = |text: &str| Refusal::new(ErrorCode::AuthFailed, text);
        if token.len() > limits::TOKEN_BYTES_MAX as usize {
            return Err(failed("the token is too long"));
        }
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|error| match error.kind() {
                jsonwebtoken::errors::ErrorKind::ExpiredSignature => {
                    Refusal::new(ErrorCode::AuthExpired, "the token's time is over")
                }
                _ => failed("the token is not valid"),
            })?
            .claims;
        let user = UserId::new(&claims.sub).map_err(|_| failed("the token names no valid user"))?;
        let scopes = claims.scopes.as_deref().map_or(Scopes::DEVICE, Scopes::from_names);
        Ok(Verified { tenant: TenantId(claims.tenant), user, expires_at_s: claims.exp, scopes })
    }
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
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &self.key)
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
