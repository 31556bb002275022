//! Link: how this process speaks with the cluster's nodes: with an operator's certificate, or, if that is said, without
//! TLS.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use seriatim_mtls::{Files, Mtls, Own};
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::playground::Playground;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::cli::Globals;
use crate::failure::Failure;

/// How nodes are asked: for how long, and as whom. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// longest wait for one answer
    pub(crate) timeout: Duration,
    files: Option<Files>,
    is_plaintext: bool,
    /// made of the files when the first node is asked: verbs that ask none need no certificate
    mtls: Arc<OnceLock<Result<Mtls, Failure>>>,
}

impl Link {
    /// Flags over environment over playground.
    pub(crate) fn new(globals: &Globals, playground: Option<&Playground>) -> Result<Self, Failure> {
        let files = match (&globals.cacert, &globals.cert, &globals.key) {
            (Some(ca), Some(certificate), Some(key)) => {
                Some(Files { ca: ca.clone(), certificate: certificate.clone(), key: key.clone() })
            }
            (None, None, None) if globals.insecure_plaintext => None,
            (None, None, None) => playground.and_then(|found| found.tls.as_ref()).map(|tls| Files {
                ca: PathBuf::from(&tls.ca),
                certificate: PathBuf::from(&tls.certificate),
                key: PathBuf::from(&tls.key),
            }),
            _ => return Err(Failure::usage("--cacert, --cert and --key go together: one of them is missing")),
        };
        if globals.insecure_plaintext && files.is_some() {
            return Err(Failure::usage(
                "with TLS and without it: leave out --insecure-plaintext, or --cert and its like",
            ));
        }
        // A playground without certificates was started so.
        let is_plaintext = globals.insecure_plaintext || playground.is_some_and(|found| found.tls.is_none());
        Ok(Self { timeout: globals.timeout, files, is_plaintext, mtls: Arc::default() })
    }

    /// The same with another longest wait.
    pub(crate) fn within(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// Can the certificate be used? It is our own trouble and no node's, if not.
    pub(crate) fn ready(&self) -> Result<(), Failure> {
        self.mtls.get_or_init(|| self.load()).clone().map(drop)
    }

    /// Connects to a node that must be of this role; `act` says what for.
    pub(crate) async fn connect(&self, act: &str, endpoint: &Endpoint, peer: NodeRole) -> Result<Channel, Failure> {
        let mtls = self.mtls.get_or_init(|| self.load()).clone()?;
        mtls.connect(endpoint, peer)
            .await
            .map_err(|error| Failure::unreachable(format!("{act}: {}", seriatim_mtls::dial::why(&error))))
    }

    /// The certificates that a node shows; a failure also if it would not be spoken with, or shows none.
    pub(crate) async fn shown_by(
        &self,
        address: &str,
        peer: NodeRole,
    ) -> Result<Vec<CertificateDer<'static>>, Failure> {
        let mtls = self.mtls.get_or_init(|| self.load()).clone()?;
        let asked = tokio::time::timeout(self.timeout, mtls.shown_by(address, peer)).await;
        let late = |_| Failure::unreachable(format!("no answer from {address} in {:?}", self.timeout));
        let shown = asked.map_err(late)?.map_err(|error| Failure::unreachable(error.to_string()))?;
        shown.ok_or_else(|| {
            Failure::precondition("nodes are asked without TLS, and so they show no certificates")
                .hint("--cacert, --cert and --key of an operator")
        })
    }

    fn load(&self) -> Result<Mtls, Failure> {
        let Some(files) = &self.files else {
            return if self.is_plaintext {
                Ok(Mtls::plaintext())
            } else {
                Err(Failure::usage("with which certificate are nodes asked? --cacert, --cert and --key are missing")
                    .hint("`raftctl cert issue --role admin` makes one; --insecure-plaintext where nodes speak no TLS"))
            };
        };
        let own = Own { role: NodeRole::Admin, hosts: Vec::new() };
        Mtls::once(files, own).map_err(|error| {
            let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
            let text = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
            Failure::usage(format!("failed to {text}"))
        })
    }
}

/// What a node's status says, as an exit code.
pub(crate) fn failed(act: &str, status: &Status) -> Failure {
    let causes = std::iter::successors(std::error::Error::source(status), |cause| cause.source());
    let text = causes.fold(status.message().to_owned(), |text, cause| format!("{text}: {cause}"));
    match status.code() {
        tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => {
            Failure::forbidden(format!("{act}: {text}")).hint("--cert and --key of `raftctl cert issue --role admin`")
        }
        _ => Failure::unreachable(format!("{act}: {text}")),
    }
}
