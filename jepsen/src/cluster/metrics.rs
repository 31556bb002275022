//! Metrics: what a node's /metrics says, read from inside its namespace.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;

use super::{Cluster, Role, netns};

/// Longest wait for a connection, and for each part of the answer.
const PATIENCE: Duration = Duration::from_secs(2);

impl Cluster {
    /// What a node's /metrics says: `name` or `name{label="value"}` to number.
    pub async fn metrics(&self, name: &str) -> anyhow::Result<BTreeMap<String, f64>> {
        let (_, body) = self.read(name).await?;
        Ok(parse(&body))
    }

    /// A node's wall clock as its HTTP server tells it: in whole seconds, and never going back, because the server
    /// keeps the newest date until the clock has passed it.
    pub async fn wall_clock(&self, name: &str) -> anyhow::Result<SystemTime> {
        let (head, _) = self.read(name).await?;
        let date =
            head.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case("date")));
        date.and_then(|(_, value)| http_date(value.trim())).with_context(|| format!("read the date of {name}"))
    }

    async fn read(&self, name: &str) -> anyhow::Result<(String, String)> {
        let index = self.index(name)?;
        let namespace = self.inner.network.namespace_file(index);
        let read = netns::read_metrics(namespace, self.nodes()[index].metrics, PATIENCE).await;
        read.with_context(|| format!("read the metrics of {name}"))
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

/// `Thu, 26 Nov 2026 04:36:50 GMT`.
fn http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_whitespace().skip(1);
    let day: u64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut time = words.next()?.split(':').map(|part| part.parse::<u64>().ok());
    let seconds = time.next()?? * 3_600 + time.next()?? * 60 + time.next()??;
    // Days by years that begin in March, so that the leap day comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let since_epoch = days.checked_sub(719_468)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(since_epoch * 86_400 + seconds))
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

    #[test]
    fn dates_are_seconds_since_the_epoch() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:01 GMT", 1),
            ("Tue, 29 Feb 2000 12:00:00 GMT", 951_825_600),
            ("Thu, 26 Nov 2026 04:36:50 GMT", 1_795_667_810),
        ] {
            assert_eq!(http_date(text), Some(UNIX_EPOCH + Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(http_date("yesterday"), None);
    }
}
