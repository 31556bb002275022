//! Keys: those that tokens are verified with, each with its one algorithm.
//!
//! A key says what it is for, never the token: an RSA key verifies RS256 and nothing else, however a token is made. What
//! is in a set and cannot be used (a secret, another curve, a key for encryption) is passed over and named; the others
//! go on.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde_json::Value;

use super::{AUDIENCE, TokenError};
use crate::chaos::{self, Sabotage};
use crate::limits;

/// Why there are no keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Over the bound.
    #[error("the keys have more than {} bytes", limits::TOKEN_KEYS_BYTES_MAX)]
    TooLong,
    /// Over the bound.
    #[error("there are more than {} keys", limits::TOKEN_KEYS_MAX)]
    TooMany,
    /// Neither a JWKS nor a PEM.
    #[error("this is neither a JWKS (JSON with `keys`) nor an Ed25519 public key in PEM")]
    Neither,
    /// A PEM of another kind.
    #[error("the PEM is no Ed25519 public key; keys of other kinds come as JWKS")]
    Pem,
    /// Nothing in it can be used.
    #[error("none of the keys can be used{0}")]
    NoneUsable(String),
    /// A secret of few bytes can be guessed.
    #[error("the secret has less than {SECRET_BYTES_MIN} bytes")]
    ShortSecret,
}

/// One key.
#[derive(Clone)]
struct Key {
    /// which tokens name it; `None` in a JWKS: those that name none
    kid: Option<String>,
    /// from a file that has nothing but this key: whatever a token names
    any_kid: bool,
    algorithm: Algorithm,
    key: DecodingKey,
    validation: Validation,
}

/// What became of one key of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// its name
    pub kid: Option<String>,
    /// as tokens name it, or its kind if it cannot be used
    pub algorithm: String,
    /// why it cannot be used
    pub passed_over: Option<&'static str>,
}

/// The keys that tokens are verified with.
#[derive(Clone, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    infos: Vec<KeyInfo>,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // One of them may be a secret.
        f.debug_list().entries(&self.infos).finish()
    }
}

impl KeySet {
    /// Takes a JWKS or a public key in PEM.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeySetError> {
        if bytes.len() > limits::TOKEN_KEYS_BYTES_MAX as usize {
            return Err(KeySetError::TooLong);
        }
        if bytes.trim_ascii_start().starts_with(b"-----BEGIN ") {
            return Self::from_public_pem(bytes);
        }
        let json: Value = serde_json::from_slice(bytes).map_err(|_| KeySetError::Neither)?;
        let keys = json.get("keys").and_then(Value::as_array).ok_or(KeySetError::Neither)?;
        if keys.len() > limits::TOKEN_KEYS_MAX as usize {
            return Err(KeySetError::TooMany);
        }
        let mut set = Self::default();
        for key in keys {
            set.add_jwk(key);
        }
        if set.keys.is_empty() {
            let reasons: Vec<_> = set.infos.iter().filter_map(|info| info.passed_over).collect();
            let text = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) };
            return Err(KeySetError::NoneUsable(text));
        }
        Ok(set)
    }

    /// An Ed25519 public key as PEM, for tokens whatever key they name.
    pub fn from_public_pem(pem: &[u8]) -> Result<Self, KeySetError> {
        let key = DecodingKey::from_ed_pem(pem).map_err(|_| KeySetError::Pem)?;
        let mut set = Self::default();
        set.add(None, true, Algorithm::EdDSA, key);
        Ok(set)
    }

    /// A secret that both sides know, for development: whoever verifies with it can sign with it.
    pub fn from_hs256_secret(secret: &[u8]) -> Result<Self, KeySetError> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(KeySetError::ShortSecret);
        }
        let mut set = Self::default();
        set.add(None, true, Algorithm::HS256, DecodingKey::from_secret(secret));
        Ok(set)
    }

    /// These and those.
    #[must_use]
    pub fn with(mut self, others: Self) -> Self {
        self.keys.extend(others.keys);
        self.infos.extend(others.infos);
        self
    }

    /// What is in it, also what cannot be used.
    pub fn infos(&self) -> &[KeyInfo] {
        &self.infos
    }

    /// How many can be used.
    pub fn usable_count(&self) -> usize {
        self.keys.len()
    }

    /// The key for a token, and how it is verified.
    pub(super) fn key_for(&self, header: &Header) -> Result<(&DecodingKey, &Validation), TokenError> {
        let key = match &header.kid {
            Some(kid) => self.named(kid, header.alg)?,
            None => self.only(header.alg)?,
        };
        Ok((&key.key, &key.validation))
    }

    /// The key of this name, else one that does not care for names.
    fn named(&self, kid: &str, algorithm: Algorithm) -> Result<&Key, TokenError> {
        let mut named = self.keys.iter().filter(|key| key.kid.as_deref() == Some(kid)).peekable();
        if named.peek().is_some() {
            return named.find(|key| key.algorithm == algorithm).ok_or(TokenError::OtherAlgorithm);
        }
        let found = self.keys.iter().find(|key| key.any_kid && key.algorithm == algorithm);
        let all_any = self.keys.iter().all(|key| key.any_kid);
        found.ok_or(if all_any { TokenError::OtherAlgorithm } else { TokenError::UnknownKey })
    }

    /// The only key of this algorithm.
    fn only(&self, algorithm: Algorithm) -> Result<&Key, TokenError> {
        let mut possible = self.keys.iter().filter(|key| key.algorithm == algorithm);
        let first = possible.next().ok_or(TokenError::OtherAlgorithm)?;
        if possible.next().is_some() { Err(TokenError::NoKeyNamed) } else { Ok(first) }
    }

    fn add_jwk(&mut self, json: &Value) {
        let text = |name: &str| json.get(name).and_then(Value::as_str);
        let kid = text("kid").map(str::to_owned);
        let reason = match usable(json) {
            Ok((algorithm, _)) if self.keys.iter().any(|key| key.kid == kid && key.algorithm == algorithm) => {
                "another key has its name"
            }
            Ok((algorithm, key)) => return self.add(kid, false, algorithm, key),
            Err(reason) => reason,
        };
        let algorithm = text("alg").or_else(|| text("kty")).unwrap_or("-").to_owned();
        self.infos.push(KeyInfo { kid, algorithm, passed_over: Some(reason) });
    }

    fn add(&mut self, kid: Option<String>, any_kid: bool, algorithm: Algorithm, key: DecodingKey) {
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&[AUDIENCE]);
        validation.validate_aud = !chaos::sabotaged(Sabotage::AudienceUnchecked);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        validation.leeway = 0;
        self.infos.push(KeyInfo { kid: kid.clone(), algorithm: format!("{algorithm:?}"), passed_over: None });
        self.keys.push(Key { kid, any_kid, algorithm, key, validation });
    }
}

/// The one algorithm of a key in a JWKS, or why it cannot be used.
fn usable(json: &Value) -> Result<(Algorithm, DecodingKey), &'static str> {
    if json.get("kty").and_then(Value::as_str) == Some("oct") {
        return Err("it is a secret, which no set of public keys may hold");
    }
    if json.get("d").is_some() {
        return Err("it has its private part: whoever reads the set can sign with it");
    }
    // Names that the library does not know are no algorithm of ours either.
    let jwk: Jwk = serde_json::from_value(json.clone()).map_err(|_| "it is no key that is known here")?;
    let (algorithm, whole) = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, key.x.len() == POINT_CHARS)
        }
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, key.x.len() == POINT_CHARS && key.y.len() == POINT_CHARS)
        }
        AlgorithmParameters::RSA(key) => (Algorithm::RS256, RSA_CHARS.contains(&key.n.len())),
        _ => return Err("it is no Ed25519, P-256 or RSA key"),
    };
    if !whole {
        return Err("it is too short or too long: RSA keys have 2048 to 8192 bits");
    }
    let declared = json.get("alg").and_then(Value::as_str);
    if declared.is_some_and(|declared| declared != format!("{algorithm:?}")) {
        return Err("its algorithm is none of EdDSA, ES256 and RS256, or not that of its kind");
    }
    if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
        return Err("it is not for signatures");
    }
    let operations = jwk.common.key_operations.as_ref();
    if operations.is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
        return Err("it is not for verifying");
    }
    let key = DecodingKey::from_jwk(&jwk).map_err(|_| "it is not well-formed")?;
    Ok((algorithm, key))
}

/// 32 bytes in base64, without padding.
const POINT_CHARS: usize = 43;
/// 256 to 1024 bytes in base64, without padding.
const RSA_CHARS: std::ops::RangeInclusive<usize> = 342..=1_366;
/// As many as HMAC-SHA-256 has.
const SECRET_BYTES_MIN: usize = 32;
