//! Client CA: whose client certificates a role takes, from a file that is looked at every few seconds.
//!
//! # Failure
//! A file that cannot be used at the start ends the start; later the CAs that were there stay, and the log says so.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use seriatim_proto::certificate::{ClientCa, Life, Roots};
use seriatim_proto::limits;
use tokio::io::AsyncReadExt;
use tracing::{error, info, warn};

/// From one look to the next.
const PERIOD: Duration = Duration::from_secs(5);

/// Reads the file, and keeps the CAs fresh for as long as the process runs. `None`: no file, nobody's are taken.
pub(crate) async fn start(path: Option<PathBuf>, registry: &mut Registry) -> anyhow::Result<Option<ClientCa>> {
    start_with(path, registry, PERIOD).await
}

async fn start_with(
    path: Option<PathBuf>,
    registry: &mut Registry,
    period: Duration,
) -> anyhow::Result<Option<ClientCa>> {
    let Some(path) = path else { return Ok(None) };
    let metrics = Metrics::register(registry);
    let pem = read(&path).await.context("use --client-ca")?;
    let roots = Roots::from_pem(&pem).with_context(|| format!("use --client-ca {}", path.display()))?;
    metrics.certificates(&roots);
    let ca = ClientCa::new(roots);
    let keeper = Keeper { path, ca: ca.clone(), seen: pem, failing: false, life: Life::Good, metrics };
    tokio::spawn(keeper.run(period));
    Ok(Some(ca))
}

async fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let file = tokio::fs::File::open(path).await.with_context(|| format!("open {}", path.display()))?;
    let mut bytes = Vec::new();
    let mut file = file.take(u64::from(limits::CLIENT_CA_BYTES_MAX) + 1);
    file.read_to_end(&mut bytes).await.with_context(|| format!("read {}", path.display()))?;
    anyhow::ensure!(
        bytes.len() <= limits::CLIENT_CA_BYTES_MAX as usize,
        "read {}: more than {} bytes",
        path.display(),
        limits::CLIENT_CA_BYTES_MAX
    );
    Ok(bytes)
}

/// Keeps the CAs fresh.
struct Keeper {
    path: PathBuf,
    ca: ClientCa,
    /// What was used last.
    seen: Vec<u8>,
    failing: bool,
    /// Of the CA that ends first, as it was said last.
    life: Life,
    metrics: Metrics,
}

impl Keeper {
    async fn run(mut self, period: Duration) {
        let mut interval = tokio::time::interval(period);
        loop {
            interval.tick().await;
            self.look().await;
            self.look_at_end(SystemTime::now());
        }
    }

    async fn look(&mut self) {
        let read = match read(&self.path).await {
            Ok(pem) if pem == self.seen => {
                self.failing = false;
                return self.metrics.read(Outcome::Same);
            }
            Ok(pem) => Roots::from_pem(&pem).map(|roots| (pem, roots)).map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        match read {
            Ok((pem, roots)) => {
                self.metrics.read(Outcome::New);
                self.metrics.certificates(&roots);
                info!(file = %self.path.display(), count = roots.anchors().len(), "new CAs of client certificates");
                self.ca.replace(roots);
                self.seen = pem;
                self.failing = false;
            }
            Err(error) => {
                self.metrics.read(Outcome::Refused);
                // Once per outage.
                if !std::mem::replace(&mut self.failing, true) {
                    let error = format!("{error:#}");
                    warn!(file = %self.path.display(), error, "no new CAs of client certificates; the old ones stay");
                }
            }
        }
    }
}

impl Keeper {
    /// Says once that a CA ends soon, and once that it has ended.
    fn look_at_end(&mut self, now: SystemTime) {
        let end_s = self.ca.roots().first_end_s();
        let life = Life::of(end_s, now);
        if std::mem::replace(&mut self.life, life) == life {
            return;
        }
        let file = self.path.display();
        match life {
            Life::Good => {}
            Life::Ending => warn!(%file, end_s, "a CA of client certificates ends soon"),
            Life::Over => error!(%file, end_s, "a CA of client certificates has ended"),
        }
    }
}

/// How a look at the file ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Outcome {
    New,
    Same,
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Outcome,
}

#[derive(Clone, Debug, Default)]
struct Metrics {
    certificates: Gauge,
    end_s: Gauge,
    reads: Family<OutcomeLabel, Counter>,
}

impl Metrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("client_cas", "CAs whose client certificates are taken", metrics.certificates.clone());
        let help = "When the first of these CAs ends, in seconds since 1970";
        registry.register("client_ca_end_timestamp_seconds", help, metrics.end_s.clone());
        registry.register("client_ca_reads", "Looks at their file, by outcome", metrics.reads.clone());
        metrics
    }

    fn certificates(&self, roots: &Roots) {
        self.certificates.set(i64::try_from(roots.anchors().len()).unwrap_or(i64::MAX));
        self.end_s.set(roots.first_end_s());
    }

    fn read(&self, outcome: Outcome) {
        self.reads.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn pem(names: &[&str]) -> String {
        let ca = |name: &&str| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, *name);
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
        };
        names.iter().map(ca).collect()
    }

    async fn wait_for(ca: &ClientCa, count: usize) {
        let begun = Instant::now();
        while ca.roots().anchors().len() != count {
            assert!(begun.elapsed() < Duration::from_secs(30), "{count} CAs are taken");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn new_cas_are_taken_and_a_bad_file_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, pem(&["a"])).unwrap();
        let mut registry = Registry::default();
        let started = start_with(Some(path.clone()), &mut registry, Duration::from_millis(10)).await;
        let ca = started.unwrap().unwrap();
        wait_for(&ca, 1).await;
        std::fs::write(&path, pem(&["a", "b"])).unwrap();
        wait_for(&ca, 2).await;
        std::fs::write(&path, "nothing").unwrap();
        let refused = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text.contains("client_ca_reads_total{outcome=\"Refused\"}")
        };
        let begun = Instant::now();
        while !refused() {
            assert!(begun.elapsed() < Duration::from_secs(30), "the file is seen to be bad");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(ca.roots().anchors().len(), 2);
        std::fs::write(&path, pem(&["c"])).unwrap();
        wait_for(&ca, 1).await;
    }

    #[tokio::test]
    async fn a_start_with_a_bad_file_fails_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let start = async || {
            let error = start(Some(path.clone()), &mut Registry::default()).await.err().unwrap();
            format!("{error:#}")
        };
        assert!(start().await.contains("open "), "{}", start().await);
        for (text, why) in [
            (String::new(), "no certificate in it"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(), "certificate 1"),
            (rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap().cert.pem(), "certificate 1"),
            (pem(&["x"; limits::CLIENT_CAS_MAX as usize + 1]), "more than 16 certificates"),
            (" ".repeat(limits::CLIENT_CA_BYTES_MAX as usize + 1), "more than 262144 bytes"),
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(start().await.contains(why), "{why}: {}", start().await);
        }
        assert!(super::start(None, &mut Registry::default()).await.unwrap().is_none());
    }
}
