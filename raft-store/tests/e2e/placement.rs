//! Where a new cluster's replicas live, on any number of stores and by what fails together.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::common::placement::{PATIENCE, Writer, directory, wait_for, wait_settled};
use crate::common::{Cluster, Node, admin, any_port};
use prometheus_client::registry::Registry;
use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::ids::StoreId;
use seriatim_proto::meta::{Directory, GroupRecord};
use seriatim_store::{StoreConfig, StoreServer, Tuning};
use seriatim_store_core::plan::preferred_leaders;

const GROUPS: u32 = 4;

fn config(folder: &std::path::Path, listen: std::net::SocketAddr, domain: Option<&str>) -> StoreConfig {
    let mut config = StoreConfig::new(folder.to_owned(), listen);
    config.insecure_plaintext = true;
    config.disk_reserve_bytes = 1 << 20;
    config.domain = domain.map(str::to_owned);
    config
}

/// Stores without a cluster, each in its domain.
async fn labelled(domains: &[Option<&str>]) -> Cluster {
    let mut nodes = Vec::new();
    for domain in domains {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), any_port(), *domain);
        let server = StoreServer::start(config, &mut Registry::default()).await.unwrap();
        nodes.push(Node { folder, address: server.address(), reserve_bytes: 1 << 20, server: Some(server) });
    }
    Cluster { nodes, tuning: Tuning::default(), id: None }
}

async fn init(cluster: &mut Cluster, voters: Option<u32>) -> Result<(), ErrorCode> {
    let request = AdminRequest::InitCluster { stores: cluster.addresses(), groups: GROUPS, voters };
    match admin(&cluster.nodes[0].address.to_string(), &request).await {
        AdminResponse::Initialised { cluster: id } => cluster.id = Some(id),
        AdminResponse::Refused(refusal) => return Err(refusal.code),
        other => panic!("{other:?}"),
    }
    Ok(())
}

fn domains(directory: &Directory, group: &GroupRecord) -> BTreeSet<String> {
    let label = |store: StoreId| directory.domains.get(&store).cloned().unwrap_or_else(|| store.to_string());
    group.replicas.iter().map(|replica| label(replica.store)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn voters_of_every_group_fail_apart_and_a_label_may_change() {
    let mut cluster = labelled(&[Some("a"), Some("a"), Some("a"), Some("b"), Some("c")]).await;
    init(&mut cluster, None).await.unwrap();
    // Any of them may be asked again; nothing changes.
    init(&mut cluster, None).await.unwrap();
    let placed = directory(&cluster).await;
    assert_eq!(placed.groups.len(), GROUPS as usize + 1);
    for group in &placed.groups {
        assert_eq!((group.replicas.len(), domains(&placed, group).len()), (3, 3), "{group:?}");
    }
    assert_eq!(placed.voters, 3);
    wait_settled(&cluster).await;
    let mut writer = Writer::new(&cluster, GROUPS).await;
    writer.write(&cluster, 20).await;
    // Leaders are dealt out: at once, or when all was calm for a while.
    let preferred = preferred_leaders(&placed.groups);
    assert_eq!(preferred.values().collect::<BTreeSet<_>>().len(), 4, "{preferred:?}");
    let deadline = Instant::now() + PATIENCE;
    for (group, store) in preferred {
        while cluster.leader(group).await as u64 + 1 != store.0 {
            assert!(Instant::now() < deadline, "group {group} is not led by store {store}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    // The domain of one store is known by another name from now on, and no other one moves for it.
    cluster.kill(3);
    let node = &cluster.nodes[3];
    let deadline = Instant::now() + PATIENCE;
    let server = loop {
        let config = config(node.folder.path(), node.address, Some("d"));
        match StoreServer::start(config, &mut Registry::default()).await {
            Ok(server) => break server,
            // The threads of the killed one still hold the folder.
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    cluster.nodes[3].server = Some(server);
    let known = |directory: &Directory| directory.domains.get(&StoreId(4)).is_some_and(|domain| domain == "d");
    let after = wait_for(&cluster, "the new label is known", known).await;
    assert!(after.groups.iter().all(|group| domains(&after, group).len() == 3));
    writer.write(&cluster, 5).await;
    writer.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_voters_on_request_and_nothing_that_makes_no_sense() {
    let mut cluster = labelled(&[None; 5]).await;
    for bad in [0, 2, 4, 6, 7] {
        assert_eq!(init(&mut cluster, Some(bad)).await, Err(ErrorCode::Malformed), "{bad}");
    }
    let mut small = labelled(&[None; 2]).await;
    assert_eq!(init(&mut small, Some(3)).await, Err(ErrorCode::Malformed), "three on two stores");
    init(&mut cluster, Some(5)).await.unwrap();
    let placed = directory(&cluster).await;
    assert!(placed.groups.iter().all(|group| group.replicas.len() == 5), "{placed:?}");
    assert_eq!(placed.voters, 5);
    // Two may be away.
    let mut writer = Writer::new(&cluster, GROUPS).await;
    writer.write(&cluster, 10).await;
    cluster.kill(4);
    cluster.kill(0);
    writer.write(&cluster, 10).await;
    writer.check(&cluster).await;
}
