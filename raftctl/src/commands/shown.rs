//! `raftctl cert nodes`: the certificates that nodes show each other, judged as another node would judge them.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::meta::NodeKind;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::cert;
use crate::failure::{Exit, Failure};
use crate::output::List;
use crate::store;
use crate::target::Target;

/// `cert nodes`: exit code 10 if a certificate ends within this time, or if a node is silent or would not be spoken with.
pub(super) async fn nodes(target: &Target, within: Duration) -> Result<Exit, Failure> {
    let named = named(target).await?;
    let ask = async |(address, role): (String, NodeRole)| {
        let shown = target.link.shown_by(&address, role).await;
        (address, role, shown)
    };
    let answers = join_all(named.into_iter().map(ask)).await;
    let mut list = cert::list();
    let (mut least, mut all_well) = (i64::MAX, true);
    for (address, role, shown) in answers {
        let place = format!("{} {address}", role.name());
        match shown {
            Ok(chain) => least = least.min(push(&mut list, &place, &chain)?),
            Err(failure) if failure.exit == Exit::Unreachable => {
                all_well = false;
                let mut row = vec![place.clone(), failure.message.clone()];
                row.resize(6, "-".to_owned());
                list.push(row, json!({"where": place, "role": role.name(), "error": failure.message}));
            }
            Err(failure) => return Err(failure),
        }
    }
    list.print(target.output)?;
    let soon = i64::try_from(within.as_secs()).unwrap_or(i64::MAX);
    Ok(if all_well && least > soon { Exit::Ok } else { Exit::Unhealthy })
}

/// Stores as they are named and as group 0 knows them, the logic nodes that group 0 knows, and gateways as they are named:
/// nobody else knows these.
async fn named(target: &Target) -> Result<Vec<(String, NodeRole)>, Failure> {
    let stores = target.stores()?;
    let mut all = BTreeSet::new();
    // Named and known is once.
    let mut add = |role: NodeRole, address: &str| _ = all.insert((role, address.to_owned()));
    stores.iter().for_each(|store| add(NodeRole::Store, store));
    match store::directory(stores, &target.link).await {
        Ok(directory) => {
            directory.stores.iter().for_each(|store| add(NodeRole::Store, &store.address));
            let logic = directory.nodes.iter().filter(|node| node.kind == NodeKind::Logic);
            logic.for_each(|node| add(NodeRole::Logic, &node.address));
        }
        Err(failure) => eprintln!("warning: only what is named is looked at: {}", failure.message),
    }
    if let Ok(gateways) = target.operators() {
        gateways.iter().for_each(|gateway| add(NodeRole::Gateway, gateway));
    }
    Ok(all.into_iter().map(|(role, address)| (address, role)).collect())
}

/// The one of the chain that ends first decides.
fn push(list: &mut List, place: &str, chain: &[rustls::pki_types::CertificateDer<'_>]) -> Result<i64, Failure> {
    let mut least = i64::MAX;
    for (number, der) in chain.iter().enumerate() {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|error| Failure::internal(format!("failed to read what {place} shows: {error}")))?;
        let place = if number == 0 { place.to_owned() } else { format!("{place}#{}", number + 1) };
        least = least.min(cert::push(list, &place, &certificate, &[])?);
    }
    Ok(least)
}
