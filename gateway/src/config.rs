//! Config: what a gateway must be told.

use std::fmt;
use std::net::SocketAddr;

use seriatim_mtls::Mtls;
use seriatim_proto::certificate::ClientCa;
use seriatim_proto::token::Verifier;

use crate::certificate::CertificateFiles;
use crate::transport::Origins;

/// Connections of one address at the same time, unless told otherwise: a company behind one address, and not all room.
pub const ADDRESS_CONNECTIONS_MAX: u32 = 10_000;

/// The certificate that browsers see over WebTransport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WebTransportCertificate {
    /// one of the gateway's own making, whose hash it publishes: needs no CA that browsers know
    #[default]
    Short,
    /// the certificate chain: from a CA that browsers know
    Chain,
}

impl std::str::FromStr for WebTransportCertificate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "short" => Ok(Self::Short),
            "chain" => Ok(Self::Chain),
            _ => Err("say `short` or `chain`".to_owned()),
        }
    }
}

/// What a gateway must be told.
#[derive(Clone)]
pub struct GatewayConfig {
    /// what operators call it; `None`: the address it listens on
    pub name: Option<String>,
    /// address of the door for operators, TCP; `None`: there is none. Whoever reaches it may end every session
    pub operators: Option<SocketAddr>,
    /// address for UDP and TCP; port 0 takes one that is free for both, `[::]` takes IPv4 too
    pub listen: SocketAddr,
    /// logic nodes to begin with, `host:port`; they name the others
    pub logic: Vec<String>,
    /// read anew when the files change
    pub certificate: CertificateFiles,
    /// the certificate that browsers see over WebTransport
    pub webtransport: WebTransportCertificate,
    /// which web pages may connect
    pub origins: Origins,
    /// connections of one address (IPv4, or a /64 of IPv6) at the same time
    pub address_connections_max: u32,
    /// what tokens are verified with; its keys may change
    pub verifier: Verifier,
    /// what QUIC's keys are made of, 32 bytes or more; `None`: of chance, and other ones after a restart
    pub quic_secret: Option<Vec<u8>>,
    /// whose certificates devices may show instead of a token; `None`: none are asked for
    pub client_ca: Option<ClientCa>,
    /// for development: traffic between our own processes without TLS
    pub insecure_plaintext: bool,
    /// certificate for other nodes; either this or plaintext must be wanted
    pub mtls: Option<Mtls>,
}

impl fmt::Debug for GatewayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys stay out of logs.
        f.debug_struct("GatewayConfig")
            .field("name", &self.name)
            .field("operators", &self.operators)
            .field("listen", &self.listen)
            .field("logic", &self.logic)
            .field("certificate", &self.certificate)
            .field("webtransport", &self.webtransport)
            .field("origins", &self.origins)
            .field("address_connections_max", &self.address_connections_max)
            .field("insecure_plaintext", &self.insecure_plaintext)
            .finish_non_exhaustive()
    }
}
