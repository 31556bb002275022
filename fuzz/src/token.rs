//! Token: what a stranger shows to come in, and the sets of keys that it is verified with.
//!
//! Asserts: no bytes are a token but those that the key has signed, whatever they say of their algorithm; what is taken
//! says a user, a time that is not over and an audience that is ours; a changed signature is refused; a set of keys has
//! no more than the limit, gives the same when read again, and says of every key what became of it.

use std::sync::LazyLock;

use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::Value;
use seriatim_proto::limits;
use seriatim_proto::token::{self, AUDIENCE, KeySet, TokenError, Verified, Verifier};

/// Runs the target.
pub fn run(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 4 {
        0 => keys(bytes),
        1 => strange(bytes),
        2 => signed(br#"{"typ":"JWT","alg":"HS256"}"#, bytes),
        _ => {
            let Some((length, rest)) = bytes.split_first() else { return };
            let (header, claims) = rest.split_at(rest.len().min(usize::from(*length)));
            signed(header, claims);
        }
    }
}

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
/// The public keys of tests, which are nobody's.
const PUBLIC: &[u8] = br#"{"keys":[
    {"kty":"OKP","crv":"Ed25519","kid":"ed","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
    {"kty":"EC","crv":"P-256","kid":"ec","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}
]}"#;

static BY_SECRET: LazyLock<Verifier> =
    LazyLock::new(|| Verifier::new(KeySet::from_hs256_secret(SECRET).expect("it is long enough")));
static BY_PUBLIC: LazyLock<Verifier> = LazyLock::new(|| Verifier::new(KeySet::parse(PUBLIC).expect("two keys")));
static SIGNING: LazyLock<EncodingKey> = LazyLock::new(|| EncodingKey::from_secret(SECRET));

fn keys(bytes: &[u8]) {
    let Ok(set) = KeySet::parse(bytes) else { return };
    assert!(set.usable_count() > 0 && set.infos().len() <= limits::TOKEN_KEYS_MAX as usize);
    assert!(bytes.len() <= limits::TOKEN_KEYS_BYTES_MAX as usize);
    let taken = set.infos().iter().filter(|info| info.passed_over.is_none()).count();
    assert_eq!(taken, set.usable_count());
    let again = KeySet::parse(bytes).expect("the same bytes");
    assert_eq!(again.infos(), set.infos());
    // None of them verifies what somebody else has signed.
    assert!(Verifier::new(set).check(&sign(br#"{"alg":"HS256"}"#, b"{}")).is_err());
}

fn strange(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // Nobody who reads this has these private keys.
    BY_PUBLIC.check(text).expect_err("not signed with these keys");
    if let Ok(verified) = BY_SECRET.check(text) {
        let (message, _) = text.rsplit_once('.').expect("a token has three parts");
        assert_eq!(with_signature(message), text);
        check(&verified);
    }
    if let Some(said) = token::unverified(text) {
        assert!(!said.algorithm.is_empty());
    }
}

fn signed(header: &[u8], claims: &[u8]) {
    let token = sign(header, claims);
    if token.len() > limits::TOKEN_BYTES_MAX as usize {
        assert_eq!(BY_SECRET.check(&token), Err(TokenError::TooLong));
        return;
    }
    BY_PUBLIC.check(&token).expect_err("signed with a secret, whatever it says");
    let Ok(verified) = BY_SECRET.check(&token) else { return };
    check(&verified);
    // It was read as it was signed.
    // The library passes over what it does not look for, whether that is text or not.
    let claims: Value = serde_json::from_str(&String::from_utf8_lossy(claims)).expect("claims that are taken are JSON");
    assert_eq!(claims["sub"], verified.user.as_str());
    assert_eq!(claims["tenant"], verified.tenant.0);
    assert!(
        claims["aud"] == AUDIENCE || claims["aud"].as_array().is_some_and(|all| all.iter().any(|aud| aud == AUDIENCE))
    );
    // The last character of a signature has bits that say nothing; the first has not.
    let place = token.rfind('.').expect("three parts") + 1;
    let other = if token.as_bytes()[place] == b'A' { "B" } else { "A" };
    let changed = format!("{}{other}{}", &token[..place], &token[place + 1..]);
    assert_eq!(BY_SECRET.check(&changed), Err(TokenError::Signature));
}

fn check(verified: &Verified) {
    assert!(!verified.user.as_str().is_empty());
    assert!(verified.user.as_str().len() <= limits::NAME_BYTES_MAX as usize);
    // A second may have passed since.
    assert!(verified.expires_at_s + 1 >= jsonwebtoken::get_current_timestamp(), "its time is over");
}

fn sign(header: &[u8], claims: &[u8]) -> String {
    with_signature(&format!("{}.{}", base64(header), base64(claims)))
}

fn with_signature(message: &str) -> String {
    let signature =
        jsonwebtoken::crypto::sign(message.as_bytes(), &SIGNING, Algorithm::HS256).expect("a secret signs anything");
    format!("{message}.{signature}")
}

/// As tokens have it: for URLs, without padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let number = part.iter().fold(0u32, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - part.len()));
        for place in 0..=part.len() {
            out.push(char::from(LETTERS[(number >> (18 - 6 * place)) as usize & 63]));
        }
    }
    out
}
