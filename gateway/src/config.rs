//! Config: what a gateway must be told.

use std::fmt;
use std::net::SocketAddr;

/// What a gateway must be told.
#[derive(Clone)]
pub struct GatewayConfig {
    /// UDP address for QUIC; port 0 takes a free one
    pub listen: SocketAddr,
    /// logic nodes to begin with, `host:port`; they name the others
    pub logic: Vec<String>,
    /// for QUIC: the server's certificate, then its issuers
    pub certificate_chain_pem: Vec<u8>,
    /// PKCS#8, of the certificate
    pub private_key_pem: Vec<u8>,
    /// Ed25519, of those who sign tokens
    pub token_public_key_pem: Vec<u8>,
    /// must be set: the streams to the logic nodes are not encrypted yet, mTLS comes later
    pub insecure_plaintext: bool,
}

impl fmt::Debug for GatewayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys stay out of logs.
        f.debug_struct("GatewayConfig")
            .field("listen", &self.listen)
            .field("logic", &self.logic)
            .field("insecure_plaintext", &self.insecure_plaintext)
            .finish_non_exhaustive()
    }
}
