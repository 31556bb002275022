//! `raftctl node ls`: all nodes, as group 0 knows them.

use serde_json::json;
use seriatim_proto::meta::NodeKind;

use crate::failure::{Exit, Failure};
use crate::output::{List, number};
use crate::store;
use crate::target::Target;

/// `node ls`
pub(super) async fn ls(target: &Target) -> Result<Exit, Failure> {
    let directory = store::directory(target.stores()?, target.timeout).await?;
    let mut list = List::new("NodeList", &["role", "id", "address", "groups"]);
    for found in &directory.stores {
        let groups: Vec<u32> = directory
            .groups
            .iter()
            .filter(|group| group.replicas.iter().any(|replica| replica.store == found.id))
            .map(|group| group.id.0)
            .collect();
        list.push(
            vec!["store".to_owned(), found.id.to_string(), found.address.clone(), format!("{groups:?}")],
            json!({"role": "store", "id": number(found.id.0), "address": found.address, "groups": groups}),
        );
    }
    for node in &directory.nodes {
        let role = match node.kind {
            NodeKind::Logic => "logic",
            NodeKind::Gateway => "gateway",
        };
        list.push(
            vec![role.to_owned(), node.id.to_string(), node.address.clone(), "-".to_owned()],
            json!({"role": role, "id": number(node.id.0), "address": node.address, "lease": node.lease.to_string()}),
        );
    }
    list.print(target.output)?;
    Ok(Exit::Ok)
}
