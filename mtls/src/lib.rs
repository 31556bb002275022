//! Mtls: TLS between our own processes. Both sides show a certificate of the cluster's CA, and it says what they are.
//!
//! A connection is authenticated once, when it is made; what its certificate says of the caller is kept with it, and
//! each door looks at it ([`rules`]). Plaintext is for development: it is asked for by name, and then nobody is asked
//! who he is. It pays nothing for what is here.
//!
//! ```text
//! files ── every 5 s ──▶ [Files::load] ──▶ Current ──▶ new connections (those that are up go on)
//!                          └─ not usable: the old one stays, and the log and `tls_reads_total` say so
//! dial:   TCP ─▶ TLS ─▶ signed by the CA? named as it was dialled? of the role that was dialled? ─▶ gRPC
//! accept: TCP ─▶ TLS ─▶ signed by the CA? of a role for a door of this port? ─▶ gRPC ─▶ each stream: for this door?
//! ```
//!
//! # Failure
//! A connection ends when the certificate that the caller showed ends, or up to an hour before, so that those of one
//! day do not end together: whoever was rotated in time dials again at once.
//!
//! # Reading order
//! [`rules`] → [`files`] → [`accept`] → [`dial`].
#![forbid(unsafe_code)]

pub mod accept;
pub mod development;
pub mod dial;
pub mod files;
mod keeper;
mod metrics;
pub mod rules;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;

pub use accept::{Caller, Connection, incoming};
pub use files::{Files, FilesError, Own};
pub use rules::{Door, Guard};

use seriatim_proto::limits::NODE_CERTIFICATE_LOOK_MS;

use files::Current;
use metrics::Metrics;

/// From one look at the files to the next.
const PERIOD: Duration = Duration::from_millis(NODE_CERTIFICATE_LOOK_MS);

/// How a process speaks with the others. Cheap to clone; all clones have the same certificate, and a new one is used at
/// once.
#[derive(Clone)]
pub struct Mtls(Option<Arc<Inner>>);

struct Inner {
    own: Own,
    current: ArcSwap<Current>,
    metrics: Metrics,
    accept_word: Word,
    dial_word: Word,
    call_word: Word,
}

/// What comes again and again is said once a second; counters have all of it.
#[derive(Debug, Default)]
struct Word {
    said_s: AtomicU64,
}

impl Word {
    fn may_say(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.said_s.swap(now, Ordering::Relaxed) != now
    }
}

impl std::fmt::Debug for Mtls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys stay out of logs.
        f.write_str(if self.0.is_some() { "Mtls" } else { "Mtls(plaintext)" })
    }
}

/// Neither or both were said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    /// Nothing.
    #[error(
        "start without TLS between our own processes: name --tls-ca, --tls-cert and --tls-key (`raftctl cert init-ca` \
         and `raftctl cert issue` make them), or say --insecure-plaintext on a machine or network that you trust"
    )]
    Neither,
    /// Both.
    #[error("start with TLS and without it: leave out --insecure-plaintext, or --tls-ca, --tls-cert and --tls-key")]
    Both,
}

impl Mtls {
    /// For development: nobody is asked who he is, and everybody may read along.
    pub fn plaintext() -> Self {
        Self(None)
    }

    /// One of both must have been said.
    pub fn chosen(mtls: Option<Mtls>, insecure_plaintext: bool) -> Result<Self, Unclear> {
        match (mtls, insecure_plaintext) {
            (Some(mtls), false) => Ok(mtls),
            (None, true) => Ok(Self::plaintext()),
            (None, false) => Err(Unclear::Neither),
            (Some(_), true) => Err(Unclear::Both),
        }
    }

    /// Reads the files, and reads them anew for as long as the process runs. Needs a runtime.
    pub fn start(files: Files, own: Own, registry: &mut Registry) -> Result<Self, FilesError> {
        let (mtls, seen) = Self::load(&files, own, Metrics::register(registry))?;
        tokio::spawn(keeper::run(files, seen, mtls.clone(), PERIOD));
        Ok(Self(Some(mtls)))
    }

    /// As [`Mtls::start`], without metrics: for a program that is no node.
    pub fn follow(files: Files, own: Own) -> Result<Self, FilesError> {
        Self::start(files, own, &mut Registry::default())
    }

    /// Reads the files once: for a tool that ends soon.
    pub fn once(files: &Files, own: Own) -> Result<Self, FilesError> {
        Ok(Self(Some(Self::load(files, own, Metrics::default())?.0)))
    }

    fn load(files: &Files, own: Own, metrics: Metrics) -> Result<(Arc<Inner>, files::Pem), FilesError> {
        let mut pem = files.read()?;
        let current = loop {
            match files.load(&pem, &own) {
                Ok(current) => break current,
                Err(error) => match files.read()? {
                    // They were changed while they were read, one after the other.
                    changed if changed != pem => pem = changed,
                    _ => return Err(error),
                },
            }
        };
        metrics.took(&current);
        let current = ArcSwap::from_pointee(current);
        let [accept_word, dial_word, call_word] = <[Word; 3]>::default();
        Ok((Arc::new(Inner { own, current, metrics, accept_word, dial_word, call_word }), pem))
    }

    /// Is this TLS?
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }
}
