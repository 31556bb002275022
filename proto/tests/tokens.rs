//! Tokens: which are taken, which are refused and why, and what a set of keys may hold.
#![cfg(feature = "token")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::TenantId;
use seriatim_proto::limits;
use seriatim_proto::logic::Scopes;
use seriatim_proto::token::{KeySet, KeySetError, TokenError, Verifier};

/// A key that signs: of the files beside this one, which are nobody's.
struct Issuer {
    kid: &'static str,
    algorithm: Algorithm,
    pem: &'static [u8],
}

const ED: Issuer = Issuer { kid: "ed", algorithm: Algorithm::EdDSA, pem: include_bytes!("token/ed25519-a.pem") };
const ED_NEXT: Issuer = Issuer { kid: "next", algorithm: Algorithm::EdDSA, pem: include_bytes!("token/ed25519-b.pem") };
const EC: Issuer = Issuer { kid: "ec", algorithm: Algorithm::ES256, pem: include_bytes!("token/p256.pem") };
const EC_384: Issuer = Issuer { kid: "ec-384", algorithm: Algorithm::ES384, pem: include_bytes!("token/p384.pem") };
const RSA: Issuer = Issuer { kid: "rsa", algorithm: Algorithm::RS256, pem: include_bytes!("token/rsa2048.pem") };
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

impl Issuer {
    fn key(&self) -> EncodingKey {
        match self.algorithm {
            Algorithm::EdDSA => EncodingKey::from_ed_pem(self.pem),
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(self.pem),
            _ => EncodingKey::from_rsa_pem(self.pem),
        }
        .unwrap()
    }

    /// As a JWKS has it.
    fn jwk(&self) -> Value {
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&self.key(), self.algorithm).unwrap()).unwrap();
        jwk["kid"] = json!(self.kid);
        jwk
    }

    /// With a claim or a field of the header changed; null takes it away.
    fn sign(&self, header: Value, claims: Value) -> String {
        signed(&self.key(), &merged(json!({ "alg": self.algorithm, "typ": "JWT", "kid": self.kid }), header), claims)
    }

    fn good(&self) -> String {
        self.sign(json!({}), json!({}))
    }
}

fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn merged(mut whole: Value, changes: Value) -> Value {
    let fields = whole.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        fields.insert(name.clone(), value.clone());
    }
    fields.retain(|_, value| !value.is_null());
    whole
}

fn signed(key: &EncodingKey, header: &Value, claims: Value) -> String {
    let header: Header = serde_json::from_value(header.clone()).unwrap();
    let good = json!({ "aud": "seriatim", "sub": "alice", "tenant": 7, "exp": now_s() + 600 });
    jsonwebtoken::encode(&header, &merged(good, claims), key).unwrap()
}

fn jwks(keys: &[Value]) -> Vec<u8> {
    serde_json::to_vec(&json!({ "keys": keys })).unwrap()
}

fn verifier() -> Verifier {
    Verifier::new(KeySet::parse(&jwks(&[ED.jwk(), ED_NEXT.jwk(), EC.jwk(), RSA.jwk()])).unwrap())
}

#[test]
fn each_algorithm_is_taken_under_its_key() {
    let verifier = verifier();
    for issuer in [ED, ED_NEXT, EC, RSA] {
        let verified = verifier.verify(&issuer.good()).unwrap();
        assert_eq!((verified.tenant, verified.user.as_str()), (TenantId(7), "alice"), "{}", issuer.kid);
        assert_eq!(verified.scopes, Scopes::DEVICE);
    }
    for (what, token) in [
        ("no key named, and only one it can be", EC.sign(json!({ "kid": null }), json!({}))),
        ("several audiences", ED.sign(json!({}), json!({ "aud": ["other", "seriatim"] }))),
        ("claims of others", ED.sign(json!({}), json!({ "iss": "https://id.example", "iat": 1, "email": "a@b" }))),
        ("a clock that is a little ahead", ED.sign(json!({}), json!({ "nbf": now_s() + 30 }))),
        ("another type", ED.sign(json!({ "typ": "at+jwt" }), json!({}))),
    ] {
        assert!(verifier.check(&token).is_ok(), "{what}: {:?}", verifier.check(&token));
    }
    let counted = verifier.verify(&RSA.sign(json!({}), json!({ "scopes": ["sequence"] }))).unwrap();
    assert_eq!(counted.scopes, Scopes::SEQUENCE);
}

/// Who computes with it has overflow checked, and a process that aborts.
#[test]
fn a_token_that_never_ends_ends_with_the_year_9999() {
    for exp in [limits::TOKEN_END_S_MAX, limits::TOKEN_END_S_MAX + 1, i64::MAX as u64, u64::MAX] {
        let verified = verifier().check(&ED.sign(json!({}), json!({ "exp": exp }))).unwrap();
        assert_eq!(verified.expires_at_s, limits::TOKEN_END_S_MAX, "{exp}");
    }
    assert!(limits::TOKEN_END_S_MAX.checked_mul(1_000_000).is_some());
}

#[test]
fn every_bad_token_is_refused_for_its_reason() {
    let rsa_public = RSA.jwk()["n"].as_str().unwrap().as_bytes().to_vec();
    let hs256 = |secret: &[u8], kid: Option<&str>| {
        signed(&EncodingKey::from_secret(secret), &merged(json!({ "alg": "HS256" }), json!({ "kid": kid })), json!({}))
    };
    let good = ED.good();
    let parts: Vec<_> = good.split('.').collect();
    // {"alg":"none","typ":"JWT"} and {"alg":"none","kid":"ed"}
    let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts[1]);
    let none_named = format!("eyJhbGciOiJub25lIiwia2lkIjoiZWQifQ.{}.{}", parts[1], parts[2]);
    let claim = |claims: Value| ED.sign(json!({}), claims);
    let other = ED.sign(json!({}), json!({ "sub": "mallory" }));
    let table = [
        ("no algorithm", none, TokenError::Algorithm),
        ("no algorithm, under a key", none_named, TokenError::Algorithm),
        (
            "another algorithm of the key's kind",
            RSA.sign(json!({ "alg": "PS256" }), json!({})),
            TokenError::OtherAlgorithm,
        ),
        ("a longer hash", RSA.sign(json!({ "alg": "RS384" }), json!({})), TokenError::OtherAlgorithm),
        ("another kind under a key's name", EC.sign(json!({ "kid": "ed" }), json!({})), TokenError::OtherAlgorithm),
        ("the public key as a secret", hs256(&rsa_public, Some("rsa")), TokenError::OtherAlgorithm),
        ("a secret, no key named", hs256(SECRET, None), TokenError::OtherAlgorithm),
        ("a secret under an unknown name", hs256(SECRET, Some("who")), TokenError::UnknownKey),
        ("an unknown name", ED.sign(json!({ "kid": "who" }), json!({})), TokenError::UnknownKey),
        ("a key's name in capitals", ED.sign(json!({ "kid": "ED" }), json!({})), TokenError::UnknownKey),
        ("no name, two keys", ED.sign(json!({ "kid": null }), json!({})), TokenError::NoKeyNamed),
        ("another key of the kind", ED_NEXT.sign(json!({ "kid": "ed" }), json!({})), TokenError::Signature),
        (
            "other claims under a signature",
            format!("{}.{}.{}", parts[0], other.split('.').nth(1).unwrap(), parts[2]),
            TokenError::Signature,
        ),
        ("no signature", format!("{}.{}.", parts[0], parts[1]), TokenError::Signature),
        ("two parts", format!("{}.{}", parts[0], parts[1]), TokenError::Malformed),
        ("nothing", String::new(), TokenError::Malformed),
        ("no base64", "?.?.?".to_owned(), TokenError::Malformed),
        ("something critical", ED.sign(json!({ "crit": ["exp"] }), json!({})), TokenError::Malformed),
        ("too long", "a".repeat(limits::TOKEN_BYTES_MAX as usize + 1), TokenError::TooLong),
        ("expired", claim(json!({ "exp": now_s() - 1 })), TokenError::Expired),
        ("early", claim(json!({ "nbf": now_s() + 600 })), TokenError::Early),
        ("another audience", claim(json!({ "aud": "other" })), TokenError::Audience),
        ("other audiences", claim(json!({ "aud": ["a", "b"] })), TokenError::Audience),
        ("no audience", claim(json!({ "aud": null })), TokenError::Missing("aud")),
        ("no end", claim(json!({ "exp": null })), TokenError::Missing("exp")),
        ("no user", claim(json!({ "sub": null })), TokenError::Missing("sub")),
        ("no tenant", claim(json!({ "tenant": null })), TokenError::Missing("tenant")),
        ("a tenant that is text", claim(json!({ "tenant": "7" })), TokenError::Claims),
        ("a tenant below 0", claim(json!({ "tenant": -1 })), TokenError::Claims),
        ("scopes that are no list", claim(json!({ "scopes": "device" })), TokenError::Claims),
        ("an empty user", claim(json!({ "sub": "" })), TokenError::User),
        ("a long user", claim(json!({ "sub": "a".repeat(65) })), TokenError::User),
    ];
    let verifier = verifier();
    for (what, token, reason) in table {
        let error = verifier.check(&token).expect_err(what);
        assert_eq!(error, reason, "{what}");
        let code = if reason == TokenError::Expired { ErrorCode::AuthExpired } else { ErrorCode::AuthFailed };
        let refusal = verifier.verify(&token).unwrap_err();
        assert_eq!(refusal, Refusal::new(code, reason.to_string()), "{what}");
        assert!(token.is_empty() || !refusal.message.contains(&token));
    }
}

#[test]
fn a_single_key_takes_tokens_whatever_they_name_and_one_algorithm() {
    let verifier = Verifier::new(KeySet::from_hs256_secret(SECRET).unwrap());
    let token = |kid| {
        signed(&EncodingKey::from_secret(SECRET), &merged(json!({ "alg": "HS256" }), json!({ "kid": kid })), json!({}))
    };
    verifier.verify(&token(None)).unwrap();
    verifier.verify(&token(Some("any"))).unwrap();
    assert_eq!(verifier.check(&ED.good()), Err(TokenError::OtherAlgorithm));
    // Beside a set, a name that the set does not have may be a new key of the set.
    verifier.replace(KeySet::parse(&jwks(&[ED.jwk()])).unwrap().with(KeySet::from_hs256_secret(SECRET).unwrap()));
    verifier.verify(&token(Some("any"))).unwrap();
    verifier.verify(&ED.good()).unwrap();
    assert_eq!(verifier.check(&ED_NEXT.good()), Err(TokenError::UnknownKey));
}

#[test]
fn a_key_that_was_rotated_away_verifies_nothing_any_more() {
    let verifier = Verifier::new(KeySet::parse(&jwks(&[ED.jwk()])).unwrap());
    let clone = verifier.clone();
    assert_eq!(clone.check(&ED_NEXT.good()), Err(TokenError::UnknownKey));
    verifier.replace(KeySet::parse(&jwks(&[ED.jwk(), ED_NEXT.jwk()])).unwrap());
    clone.verify(&ED.good()).unwrap();
    clone.verify(&ED_NEXT.good()).unwrap();
    verifier.replace(KeySet::parse(&jwks(&[ED_NEXT.jwk()])).unwrap());
    assert_eq!(clone.check(&ED.good()), Err(TokenError::UnknownKey));
    clone.verify(&ED_NEXT.good()).unwrap();
}

#[test]
fn what_cannot_be_used_is_passed_over_and_named() {
    let named = |kid: &str, changes: Value| merged(merged(ED.jwk(), json!({ "kid": kid })), changes);
    let keys = [
        ED.jwk(),
        named("ed", json!({})),
        json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "secret" }),
        named("private", json!({ "d": "AAAA" })),
        named("encryption", json!({ "use": "enc" })),
        named("signing", json!({ "key_ops": ["sign"] })),
        named("long", json!({ "x": "A".repeat(44) })),
        named("other", json!({ "alg": "RS256" })),
        named("x25519", json!({ "crv": "X25519" })),
        merged(RSA.jwk(), json!({ "alg": "PS256" })),
        merged(RSA.jwk(), json!({ "kid": "short", "n": &RSA.jwk()["n"].as_str().unwrap()[..171] })),
        EC_384.jwk(),
        json!("no key"),
        // Without an algorithm, and for signatures: by its kind.
        merged(EC.jwk(), json!({ "alg": null, "use": "sig", "key_ops": ["verify"] })),
    ];
    let set = KeySet::parse(&jwks(&keys)).unwrap();
    let used: Vec<_> =
        set.infos().iter().filter(|info| info.passed_over.is_none()).map(|info| info.kid.clone().unwrap()).collect();
    assert_eq!((used, set.infos().len()), (vec!["ed".to_owned(), "ec".to_owned()], keys.len()));
    let reason = |kid: &str| {
        let info = set.infos().iter().rfind(|info| info.kid.as_deref() == Some(kid)).unwrap();
        info.passed_over.unwrap()
    };
    for (kid, word) in [
        ("ed", "name"),
        ("secret", "secret"),
        ("private", "private"),
        ("encryption", "signatures"),
        ("signing", "verifying"),
        ("long", "long"),
        ("other", "algorithm"),
        ("rsa", "algorithm"),
        ("short", "2048"),
        ("ec-384", "P-256"),
    ] {
        assert!(reason(kid).contains(word), "{kid}: {}", reason(kid));
    }
    let verifier = Verifier::new(set);
    verifier.verify(&EC.good()).unwrap();
    assert!(!format!("{verifier:?}").contains("c2VjcmV0"));
}

#[test]
fn what_is_no_set_of_keys_is_refused() {
    let error = |bytes: &[u8]| KeySet::parse(bytes).unwrap_err();
    for bytes in [&b""[..], b"hello", b"{}", b"[]", b"{\"keys\":1}", b"\xff"] {
        assert_eq!(error(bytes), KeySetError::Neither, "{bytes:?}");
    }
    assert_eq!(error(b"{\"keys\":[]}"), KeySetError::NoneUsable(String::new()));
    assert!(error(&jwks(&[EC_384.jwk()])).to_string().contains("P-256"));
    assert_eq!(error(&jwks(&vec![json!({}); 65])), KeySetError::TooMany);
    assert_eq!(error(&vec![b' '; limits::TOKEN_KEYS_BYTES_MAX as usize + 1]), KeySetError::TooLong);
    assert_eq!(error(b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"), KeySetError::Pem);
    assert_eq!(error(EC.pem), KeySetError::Pem);
    assert_eq!(KeySet::from_hs256_secret(&SECRET[1..]).unwrap_err(), KeySetError::ShortSecret);
}
