//! Keeper: reads the files anew every few seconds.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use seriatim_proto::certificate::Life;
use tracing::{error, info, warn};

use crate::Inner;
use crate::files::{Files, FilesError, Pem, chain};

/// Runs for as long as the process does.
pub(crate) async fn run(files: Files, mut seen: Pem, inner: Arc<Inner>, period: Duration) {
    let mut failing = None;
    let mut life = Life::Good;
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let read = {
            let files = files.clone();
            tokio::task::spawn_blocking(move || files.read()).await
        };
        // It panics only while the process ends.
        let Ok(read) = read else { return };
        match look(&files, &mut seen, &inner, read) {
            Ok(outcome) => {
                inner.metrics.read(outcome);
                failing = None;
            }
            Err(error) => {
                inner.metrics.read("Refused");
                let text = chain(&error);
                // Once per trouble.
                if failing.as_ref() != Some(&text) {
                    warn!(error = text, "the new certificate for other nodes cannot be used; the old one stays");
                    failing = Some(text);
                }
            }
        }
        let end_s = inner.current.load().end_s;
        let now = Life::of(end_s, SystemTime::now());
        if std::mem::replace(&mut life, now) != now {
            let file = files.certificate.display();
            match now {
                Life::Good => {}
                Life::Ending => warn!(%file, end_s, "this node's certificate ends soon: raftctl cert issue"),
                Life::Over => error!(%file, end_s, "this node's certificate has ended: raftctl cert issue"),
            }
        }
    }
}

/// A pair that does not go together is looked at again: one of its files may be on its way.
fn look(
    files: &Files,
    seen: &mut Pem,
    inner: &Inner,
    read: Result<Pem, FilesError>,
) -> Result<&'static str, FilesError> {
    let pem = read?;
    if pem == *seen {
        return Ok("Same");
    }
    let current = files.load(&pem, &inner.own)?;
    inner.metrics.took(&current);
    inner.current.store(Arc::new(current));
    *seen = pem;
    info!(file = %files.certificate.display(), "new certificate for other nodes");
    Ok("New")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::development::{self, Node};
    use crate::{Metrics, Mtls, Own};
    use seriatim_proto::certificate::NodeRole;

    /// Half of a pair, another CA, and files that are gone change nothing; the next good ones are taken.
    #[test]
    fn what_cannot_be_used_leaves_what_was() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let node = || [Node::local(NodeRole::Store, "s")];
        development::ensure(first.path(), &node()).unwrap();
        development::ensure(second.path(), &node()).unwrap();
        let (files, next) = (development::files(first.path(), "s"), development::files(second.path(), "s"));
        let own = Own { role: NodeRole::Store, hosts: vec!["127.0.0.1".to_owned()] };
        let (inner, mut seen) = Mtls::load(&files, own, Metrics::default()).unwrap();
        let before = inner.current.load_full();
        let mut look = || look(&files, &mut seen, &inner, files.read()).map_err(|error| chain(&error));
        assert_eq!(look(), Ok("Same"));
        let key = std::fs::read(&files.key).unwrap();
        std::fs::copy(&next.key, &files.key).unwrap();
        assert!(look().unwrap_err().contains("is not the key of"));
        std::fs::copy(&next.certificate, &files.certificate).unwrap();
        assert!(look().unwrap_err().contains("is not signed by"));
        std::fs::remove_file(&files.ca).unwrap();
        assert!(look().unwrap_err().contains("read "));
        assert!(Arc::ptr_eq(&before, &inner.current.load_full()), "the old one stays");
        std::fs::copy(&next.ca, &files.ca).unwrap();
        assert_eq!(look(), Ok("New"));
        assert!(!Arc::ptr_eq(&before, &inner.current.load_full()));
        assert_eq!(look(), Ok("Same"));
        std::fs::write(&files.key, key).unwrap();
        assert!(look().is_err());
    }
}
