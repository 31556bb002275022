//! QUIC keys: what a gateway needs to know again after a restart, derived from one secret.
//!
//! With the same secret as before, a gateway recognises the packets of connections that it has forgotten, and says so at
//! once (stateless reset) instead of letting its devices find out by silence; and a proof of address (Retry) that one
//! gateway asked for is good at another behind the same address.

use std::sync::Arc;

use aws_lc_rs::{hkdf, hmac};
use quinn::{EndpointConfig, ServerConfig};
use quinn_proto::HashedConnectionIdGenerator;

/// Bytes that a secret must have.
pub(crate) const SECRET_BYTES_MIN: usize = 32;

/// Keys of one secret.
pub(crate) struct QuicKeys {
    secret: hkdf::Prk,
}

impl QuicKeys {
    /// `None`: a secret of its own, until the next start. The secret must have [`SECRET_BYTES_MIN`].
    pub(crate) fn new(secret: Option<&[u8]>) -> Self {
        let own: [u8; SECRET_BYTES_MIN] = rand::random();
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"seriatim gateway quic 1");
        Self { secret: salt.extract(secret.unwrap_or(&own)) }
    }

    /// For stateless resets, and the connection ids that they are for.
    pub(crate) fn endpoint(&self) -> EndpointConfig {
        let reset = hmac::Key::new(hmac::HMAC_SHA256, &self.derived(b"reset"));
        let [a, b, c, d, e, f, g, h, ..] = self.derived(b"connection ids");
        let ids = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let mut config = EndpointConfig::new(Arc::new(reset));
        // Ids of another key are nobody's, and get no answer.
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
        config
    }

    /// For proofs of address.
    pub(crate) fn set_token_key(&self, server: &mut ServerConfig) {
        server.token_key(Arc::new(hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &self.derived(b"address"))));
    }

    fn derived(&self, label: &[u8]) -> [u8; 32] {
        let mut key = [0; 32];
        let info = [label];
        let expanded = self.secret.expand(&info, hkdf::HKDF_SHA256).expect("32 bytes are few for HKDF");
        expanded.fill(&mut key).expect("it was expanded to 32 bytes");
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_the_same_keys_again_and_each_use_its_own() {
        let keys = |secret: Option<&[u8]>| {
            let keys = QuicKeys::new(secret);
            [keys.derived(b"reset"), keys.derived(b"connection ids"), keys.derived(b"address")]
        };
        let [reset, ids, address] = keys(Some(&[7; 32]));
        assert_eq!([reset, ids, address], keys(Some(&[7; 32])));
        assert!(reset != ids && ids != address && address != reset);
        assert_ne!(keys(Some(&[7; 32])), keys(Some(&[8; 32])));
        assert_ne!(keys(None), keys(None));
    }
}
