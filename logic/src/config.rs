//! Config: what a logic node must be told.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use seriatim_mtls::Mtls;
use seriatim_proto::certificate::ClientCa;
use seriatim_proto::meta::Limit;
use seriatim_proto::token::Verifier;

/// Configuration of one logic node.
#[derive(Clone, Debug)]
pub struct LogicConfig {
    /// where it listens for gateways and other logic nodes
    pub listen: SocketAddr,
    /// `host:port` that others use; `None`: the bound address
    pub advertise: Option<String>,
    /// `host:port` of stores; one that answers is enough, the directory names the others
    pub stores: Vec<String>,
    /// what tokens are verified with; its keys may change
    pub verifier: Verifier,
    /// whose client certificates open sessions; `None`: nobody's
    pub client_ca: Option<ClientCa>,
    /// what tenants and users may ask of this node, where it differs from `Limit::default_per_s`
    pub limits: BTreeMap<Limit, u32>,
    /// for development: traffic between our own processes without TLS
    pub insecure_plaintext: bool,
    /// certificate for other nodes; either this or plaintext must be wanted
    pub mtls: Option<Mtls>,
}
