//! Ours: a playground with one logic node, and what it gave.
//!
//! It is asked in two ways: [`super::streams`] and [`super::unary`].

use std::path::Path;

use anyhow::{Context, ensure};
use seriatim_proto::grpc::sequence::sequence_service_client::SequenceServiceClient;
use seriatim_proto::ids::{TenantId, UserId};
use seriatim_proto::logic::Scopes;
use seriatim_proto::playground::{FILE, Playground, PlaygroundRole};
use seriatim_proto::token::Minter;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use crate::servers::{self, Cluster};

/// A playground.
pub(crate) struct Ours {
    cluster: Cluster,
    address: String,
    pub(crate) token: MetadataValue<Ascii>,
    pub(crate) given: Given,
}

/// Numbers that were answered: for each counter `[first, end)` of runs that followed each other.
pub(crate) struct Given(Vec<Vec<(u64, u64)>>);

impl Ours {
    /// Starts it in an empty folder.
    pub(crate) async fn start(seriatim: &Path, folder: &Path, counters: u64) -> anyhow::Result<Self> {
        let cluster = Cluster::start(seriatim, folder, &["--logic", "1", "--gateways", "0"]).await?;
        let about: Playground = serde_json::from_slice(&std::fs::read(cluster.folder().join(FILE))?)?;
        // What is measured is the service, not what a tenant may ask of it.
        cluster.raftctl(seriatim, &["tenant", "set", "1", &format!("sequence-requests-per-s={}", u32::MAX)]).await?;
        let node = about.nodes.iter().find(|node| node.role == PlaygroundRole::Logic).context("no logic node")?;
        let minter = Minter::from_private_pem(&std::fs::read(&about.token_private_key)?)?;
        let ends_at_s = servers::unix_ms() / 1_000 + 3_600;
        let token = minter.mint_for(TenantId(1), &UserId::new("bench")?, ends_at_s, Scopes::SEQUENCE)?;
        Ok(Self {
            address: node.address.clone(),
            token: format!("Bearer {token}").parse()?,
            given: Given(vec![Vec::new(); usize::try_from(counters)?]),
            cluster,
        })
    }

    /// A client on a connection of its own.
    pub(crate) async fn connect(&self) -> anyhow::Result<SequenceServiceClient<Channel>> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?.tcp_nodelay(true);
        Ok(SequenceServiceClient::new(endpoint.connect().await.context("connect to the logic node")?))
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.cluster.stop().await
    }
}

impl Given {
    /// How many counters there are.
    pub(crate) fn counters(&self) -> u64 {
        self.0.len() as u64
    }

    /// Which counter a call is for: they are asked in turn.
    pub(crate) fn counter_of(&self, number: u64) -> usize {
        (number % self.counters()) as usize
    }

    /// Notes what a call was given.
    pub(crate) fn note(&mut self, number: u64, first: u64, count: u32) {
        let counter = self.counter_of(number);
        let (runs, end) = (&mut self.0[counter], first + u64::from(count));
        match runs.last_mut() {
            Some(last) if last.1 == first => last.1 = end,
            _ => runs.push((first, end)),
        }
    }

    /// How many there are; none came twice.
    pub(crate) fn check(&mut self) -> anyhow::Result<u64> {
        let mut numbers = 0;
        for (counter, runs) in self.0.iter_mut().enumerate() {
            runs.sort_unstable();
            numbers += runs.iter().map(|(first, end)| end - first).sum::<u64>();
            for pair in runs.windows(2) {
                ensure!(pair[0].1 <= pair[1].0, "number {} of counter {counter} came twice", pair[1].0);
            }
        }
        Ok(numbers)
    }
}

/// Connections.
pub(crate) const LANES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_came_twice_is_found_in_whatever_order_it_came() {
        let mut given = Given(vec![Vec::new(); 2]);
        for (number, first, count) in [(0, 10, 1), (2, 11, 4), (1, 10, 5), (4, 1, 9)] {
            given.note(number, first, count);
        }
        assert_eq!(given.check().unwrap(), 19);
        given.note(6, 14, 1);
        assert!(given.check().unwrap_err().to_string().contains("of counter 0 came twice"));
    }
}
