//! Metrics: what a node's /metrics says, read from inside its namespace.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;

use super::{Cluster, Role, netns};

/// Longest wait for a connection, and for each part of the answer.
const PATIENCE: Duration = Duration::from_secs(2);

impl Cluster {
    /// What a node's /metrics says: `name` or `name{label="value"}` to number.
    pub async fn metrics(&self, name: &str) -> anyhow::Result<BTreeMap<String, f64>> {
        let index = self.index(name)?;
        let namespace = self.inner.network.namespace_file(index);
        let address = self.nodes()[index].metrics;
        let text = netns::read_metrics(namespace, address, PATIENCE).await;
        Ok(parse(&text.with_context(|| format!("read the metrics of {name}"))?))
    }

    /// How many slots each logic node that answers holds.
    pub async fn slot_holders(&self) -> BTreeMap<String, u32> {
        let names = self.names(Role::Logic);
        let asked = futures_util::future::join_all(names.iter().map(|name| self.metrics(name))).await;
        let held = names.into_iter().zip(asked).filter_map(|(name, metrics)| {
            let held = *metrics.ok()?.get("seriatim_logic_slots_held")?;
            Some((name, held as u32))
        });
        held.collect()
    }
}

/// Samples of OpenMetrics text; comments and whatever is no sample are left out.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.filter_map(|line| {
        // Label values may hold spaces; what follows the name and labels does not.
        let end = line.rfind('}').map_or_else(|| line.find(' '), |brace| Some(brace + 1))?;
        let (name, rest) = line.split_at(end);
        Some((name.to_owned(), rest.split_whitespace().next()?.parse().ok()?))
    });
    samples.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_and_without_labels() {
        let text =
            "# HELP a_total b.\n# TYPE a counter\na_total 3\nb{code=\"Not Leader\",x=\"1\"} 2.5 1700000000\n# EOF\n";
        let expected = [("a_total".to_owned(), 3.0), ("b{code=\"Not Leader\",x=\"1\"}".to_owned(), 2.5)];
        assert_eq!(parse(text), BTreeMap::from(expected));
    }
}
