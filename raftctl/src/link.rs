//! Link: how this process speaks with the cluster's nodes: with an operator's certificate, or without TLS.
//!
//! Chosen once, when the command line is read; a tool that ends with its answer has no use for a second choice.

use std::path::PathBuf;
use std::sync::OnceLock;

use seriatim_mtls::{Files, Mtls, Own};
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::playground::Playground;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::cli::Globals;
use crate::failure::Failure;

static MTLS: OnceLock<Mtls> = OnceLock::new();

/// Flags over environment over playground.
pub(crate) fn choose(globals: &Globals, playground: Option<&Playground>) -> Result<(), Failure> {
    let files = match (&globals.cacert, &globals.cert, &globals.key) {
        (Some(ca), Some(certificate), Some(key)) => {
            Some(Files { ca: ca.clone(), certificate: certificate.clone(), key: key.clone() })
        }
        (None, None, None) => playground.and_then(|found| found.tls.as_ref()).map(|tls| Files {
            ca: PathBuf::from(&tls.ca),
            certificate: PathBuf::from(&tls.certificate),
            key: PathBuf::from(&tls.key),
        }),
        _ => return Err(Failure::usage("--cacert, --cert and --key go together: one of them is missing")),
    };
    let mtls = match files {
        None => Mtls::plaintext(),
        Some(files) => {
            let own = Own { role: NodeRole::Admin, hosts: Vec::new() };
            Mtls::once(&files, own).map_err(|error| {
                let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
                let text = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
                Failure::usage(format!("failed to {text}"))
            })?
        }
    };
    // Chosen before: by the same command line.
    let _ = MTLS.set(mtls);
    Ok(())
}

/// Connects to a node that must be of this role; `act` says what for.
pub(crate) async fn connect(act: &str, endpoint: &Endpoint, peer: NodeRole) -> Result<Channel, Failure> {
    let mtls = MTLS.get().cloned().unwrap_or_else(Mtls::plaintext);
    mtls.connect(endpoint, peer)
        .await
        .map_err(|error| Failure::unreachable(format!("{act}: {}", seriatim_mtls::dial::why(&error))))
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
