//! Site: where clients connect, and how they get tokens. A cluster under test is one; so is a playground.

use std::net::SocketAddr;
use std::sync::Arc;

use seriatim_client::Endpoint;
use seriatim_mtls::Mtls;

use crate::cluster::{Cluster, Role, TokenClaims};

/// Tenant of everything that is not meant to be refused.
pub(crate) const TENANT: u32 = 1;

/// Gives tokens that say what they are told to say.
pub type Mint = Arc<dyn Fn(&TokenClaims) -> String + Send + Sync>;

/// Where clients connect.
#[derive(Clone)]
pub struct Site {
    /// names and addresses of all gateways
    pub gateways: Vec<(String, SocketAddr)>,
    /// addresses of all stores
    pub stores: Vec<SocketAddr>,
    /// how they are spoken with, as a logic node
    pub links: Mtls,
    /// name in the gateways' certificate
    pub server_name: String,
    /// one socket for all clients
    pub endpoint: Endpoint,
    /// gives tokens
    pub mint: Mint,
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Site({:?})", self.gateways)
    }
}

impl Site {
    /// The gateways of a cluster under test.
    pub fn of(cluster: &Cluster) -> anyhow::Result<Site> {
        let gateways = cluster.gateways();
        let Some((_, first)) = gateways.first() else { anyhow::bail!("find a gateway: the cluster has none") };
        let endpoint = Endpoint::new(*first, &cluster.ca_pem())?;
        let minting = cluster.clone();
        let stores = cluster.nodes().iter().filter(|node| node.role == Role::Store);
        Ok(Site {
            gateways,
            stores: stores.map(|node| node.address).collect(),
            links: cluster.pretender()?,
            server_name: cluster.server_name().to_owned(),
            endpoint,
            mint: Arc::new(move |claims| minting.token_for(claims)),
        })
    }

    /// An honest token.
    pub(crate) fn token(&self, user: &str, scopes: Option<&[&str]>) -> String {
        (self.mint)(&honest(user, scopes))
    }
}

/// Claims of a token that must be taken.
pub(crate) fn honest(user: &str, scopes: Option<&[&str]>) -> TokenClaims {
    let scopes = scopes.map(|scopes| scopes.iter().map(|&scope| scope.to_owned()).collect());
    TokenClaims { scopes, ..TokenClaims::of(user) }
}
