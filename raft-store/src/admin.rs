//! Admin: the gRPC door for operators, and the making of a cluster.
//!
//! ```text
//! InitCluster ─ ask all stores for their status ─ Adopt on each ─ group 0 elects ─ Init ─ CreateGroup × groups ─ wait
//! ```
//! # Failure
//! Every step may be repeated: a store keeps the identity that it took, `Init` and `CreateGroup` are idempotent. A
//! crash in between leaves a cluster that the same call completes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::{Request, Response, Status};

use seriatim_mtls::{Caller, rules};
use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::codec;
use seriatim_proto::command::SlotRange;
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::grpc::{Packet, admin_server};
use seriatim_proto::ids::{ClusterId, Generation, GroupId, ReplicaId, SlotId, StoreId};
use seriatim_proto::limits;
use seriatim_proto::meta::{MetaCommand, MetaOutcome, ReplicaRecord, StoreRecord, StoreToken};
use seriatim_proto::store::{Freshness, StoreStatus};
use seriatim_store_core::Key;
use seriatim_store_core::plan::{self, Domains};

use crate::check;
use crate::host::Host;
use crate::identity::{Identity, IdentityError};
use crate::remote::Remote;

/// The `Admin` service.
pub(crate) struct AdminService {
    host: Arc<Host>,
}

impl AdminService {
    /// Serves `host`.
    pub(crate) fn new(host: Arc<Host>) -> Self {
        Self { host }
    }
}

#[tonic::async_trait]
impl admin_server::Admin for AdminService {
    async fn call(&self, request: Request<Packet>) -> Result<Response<Packet>, Status> {
        let caller = Caller::of_request(&request);
        let asked = request.into_inner().frames;
        if asked.len() > 1 {
            return Err(Status::invalid_argument("a call has one request"));
        }
        let mut frames = Vec::new();
        for frame in asked {
            let answer = match codec::decode(&frame) {
                Ok(request) => match rules::admin_request(&caller, &request) {
                    Ok(()) => handle(&self.host, request).await,
                    Err(refusal) => AdminResponse::Refused(refusal),
                },
                Err(error) => {
                    AdminResponse::Refused(Refusal::new(ErrorCode::Malformed, format!("no admin request: {error}")))
                }
            };
            frames.push(codec::encode_bytes(&answer));
        }
        Ok(Response::new(Packet { frames }))
    }
}

async fn handle(host: &Arc<Host>, request: AdminRequest) -> AdminResponse {
    let answered = match request {
        AdminRequest::Status => Ok(AdminResponse::Status(host.status())),
        AdminRequest::Compare { groups } => {
            let led = host.replicas().into_iter().filter(|replica| replica.leadership().is_some());
            let led: Vec<_> = led.filter(|led| groups.is_empty() || groups.contains(&led.group)).collect();
            for replica in &led {
                check::begin(replica).await;
            }
            Ok(AdminResponse::Comparing(led.iter().map(|replica| replica.group).collect()))
        }
        AdminRequest::Adopt { cluster, store, replica: _, token, stores, replicas } => {
            // In a task of its own, as below: a birth that ends in the middle would hold up the next one.
            let host = Arc::clone(host);
            let adopted = async move { adopt(&host, cluster, store, token, stores, replicas).await };
            match tokio::spawn(adopted).await {
                Ok(adopted) => adopted.map(|()| AdminResponse::Adopted),
                Err(_) => Err(Refusal::new(ErrorCode::Internal, "the identity was not taken")),
            }
        }
        AdminRequest::InitCluster { stores, groups, voters } => {
            // In a task of its own: a caller that goes away does not leave a cluster half made.
            let host = Arc::clone(host);
            match tokio::spawn(async move { init_cluster(&host, &stores, groups, voters).await }).await {
                Ok(made) => made.map(|cluster| AdminResponse::Initialised { cluster }),
                Err(_) => Err(Refusal::new(ErrorCode::Internal, "cluster init ended early")),
            }
        }
        AdminRequest::Transfer { group, to } => transfer(host, group, to).await.map(|()| AdminResponse::Transferring),
    };
    answered.unwrap_or_else(AdminResponse::Refused)
}

/// Takes an identity, and bears the replica of group 0 if one is for this store: a store that joins later has none.
async fn adopt(
    host: &Arc<Host>,
    cluster: ClusterId,
    store: StoreId,
    token: StoreToken,
    meta_stores: Vec<StoreRecord>,
    meta_replicas: Vec<ReplicaRecord>,
) -> Result<(), Refusal> {
    if token != host.token() {
        let what = "this data folder is another one than that which was asked: it was wiped since";
        return Err(Refusal::new(ErrorCode::Malformed, what));
    }
    let record = meta_stores.iter().find(|record| record.id == store);
    if record.is_none_or(|record| record.address != host.address()) {
        let what = format!("this store is reached at {}, not as store {store} of that cluster", host.address());
        return Err(Refusal::new(ErrorCode::Malformed, what));
    }
    let identity = Identity {
        cluster,
        store,
        address: host.address().to_owned(),
        poisoned: false,
        meta_stores,
        meta_replicas,
        born: Vec::new(),
    };
    host.adopt(identity).await.map_err(|error| match error {
        IdentityError::Other { .. } | IdentityError::OtherMeta { .. } => {
            Refusal::new(ErrorCode::WrongCluster, error.to_string())
        }
        error => Refusal::new(ErrorCode::Internal, error.to_string()),
    })
}

/// Asks another store to lead a group that this one leads.
async fn transfer(host: &Host, group: GroupId, to: StoreId) -> Result<(), Refusal> {
    let refuse = |code, what: String| Err(Refusal::new(code, what));
    let Some(replica) = host.replicas().into_iter().find(|replica| replica.group == group) else {
        return refuse(ErrorCode::NotFound, format!("this store has no replica of group {group}"));
    };
    if replica.leadership().is_none() {
        return refuse(ErrorCode::NotLeader, format!("this store does not lead group {group}"));
    }
    if !replica.stores().contains(&to) {
        return refuse(ErrorCode::NotFound, format!("store {to} has no voter of group {group}"));
    }
    // The one that leads already.
    if replica.store == to {
        return Ok(());
    }
    if !replica.follows_closely(to) {
        let what = format!("store {to} does not answer, or is too far behind in group {group}");
        return refuse(ErrorCode::Unavailable, what);
    }
    replica.transfer_to(to).await;
    Ok(())
}

async fn init_cluster(
    host: &Arc<Host>,
    addresses: &[String],
    groups: u32,
    voters: Option<u32>,
) -> Result<ClusterId, Refusal> {
    let count = check(host, addresses, groups, voters)?;
    let statuses = statuses(host, addresses).await?;
    let cluster = match known_cluster(&statuses)? {
        Some(cluster) => {
            refuse_wiped(host.remote(), cluster, addresses, &statuses).await?;
            cluster
        }
        None => ClusterId(rand::random()),
    };
    let ids = 1..=addresses.len() as u64;
    let stores: Vec<StoreRecord> = ids
        .clone()
        .zip(addresses)
        .map(|(id, address)| StoreRecord { id: StoreId(id), address: address.clone() })
        .collect();
    let named = ids.map(StoreId).zip(statuses.iter().map(|status| status.domain.clone()));
    let domains: BTreeMap<StoreId, String> = named.filter_map(|(id, domain)| Some((id, domain?))).collect();
    let all: Vec<StoreId> = stores.iter().map(|store| store.id).collect();
    let places = plan::place(&all, &Domains::new(&domains), groups + 1, count);
    // Group 0 lives on as many stores as the others; the rest are like stores that join later. What an interrupted call
    // has begun stays, though labels or numbers are others now.
    let replicas: Vec<ReplicaRecord> = match known_replicas(&statuses)? {
        Some(adopted) => adopted,
        None => places[0].iter().map(|store| ReplicaRecord { id: ReplicaId(store.0), store: *store }).collect(),
    };
    let is_of_meta = |store: &StoreRecord| replicas.iter().any(|replica| replica.store == store.id);
    let meta_stores: Vec<StoreRecord> = stores.iter().filter(|store| is_of_meta(store)).cloned().collect();
    for (store, status) in stores.iter().zip(&statuses) {
        let mut known = meta_stores.clone();
        if !is_of_meta(store) {
            known.push(store.clone());
        }
        let request = AdminRequest::Adopt {
            cluster,
            store: store.id,
            replica: ReplicaId(store.id.0),
            token: status.token,
            stores: known,
            replicas: replicas.clone(),
        };
        match host.remote().admin(&store.address, &request).await? {
            AdminResponse::Adopted => (),
            AdminResponse::Refused(refusal) => return Err(refusal),
            other => return Err(unexpected(&other)),
        }
    }
    let deadline = Instant::now() + INIT_TIMEOUT;
    let init = MetaCommand::Init { cluster, generation: Generation(0), stores: stores.clone(), replicas };
    match host.remote().propose_meta(&meta_stores, cluster, init, deadline).await? {
        MetaOutcome::Initialised => (),
        other => return Err(refused(&other)),
    }
    let labels = domains.into_iter().map(|(store, domain)| MetaCommand::SetDomain { store, domain: Some(domain) });
    // Without a number it stays what it is: the default, or what was set since.
    let wanted = voters.map(|voters| MetaCommand::SetVoters { voters });
    for command in labels.chain(wanted) {
        match host.remote().propose_meta(&meta_stores, cluster, command, deadline).await? {
            MetaOutcome::PlacementSet => (),
            other => return Err(refused(&other)),
        }
    }
    for (id, place) in (0..=groups).zip(places).skip(1) {
        let command = MetaCommand::CreateGroup { id: GroupId(id), slots: vec![share(id - 1, groups)], stores: place };
        match host.remote().propose_meta(&meta_stores, cluster, command, deadline).await? {
            MetaOutcome::Created(_) => (),
            other => return Err(refused(&other)),
        }
    }
    host.wait_closed(groups, deadline).await?;
    Ok(cluster)
}

/// How many voters each group gets.
fn check(host: &Host, addresses: &[String], groups: u32, voters: Option<u32>) -> Result<u32, Refusal> {
    let malformed = |what: String| Err(Refusal::new(ErrorCode::Malformed, what));
    let stores = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    if stores == 0 || stores > limits::INIT_STORES_MAX {
        return malformed(format!("a cluster is made of 1 to {} stores", limits::INIT_STORES_MAX));
    }
    match voters {
        Some(voters) if ![1, 3, limits::VOTERS_MAX].contains(&voters) => {
            return malformed(format!("a group has 1, 3 or {} replicas, not {voters}", limits::VOTERS_MAX));
        }
        Some(voters) if voters > stores => {
            return malformed(format!("{voters} replicas of a group need as many stores; {stores} are named"));
        }
        _ => (),
    }
    if addresses.iter().collect::<BTreeSet<_>>().len() != addresses.len() {
        return malformed("a store is named twice".into());
    }
    if !addresses.iter().any(|address| address == host.address()) {
        return malformed(format!("{} itself must be one of the stores", host.address()));
    }
    if groups == 0 || groups > limits::GROUPS_MAX.min(Key::GROUP_LAST.0) {
        return malformed("the number of groups is out of range".into());
    }
    Ok(voters.unwrap_or_else(|| limits::VOTERS_DEFAULT.min(stores)))
}

async fn statuses(host: &Arc<Host>, addresses: &[String]) -> Result<Vec<StoreStatus>, Refusal> {
    let mut statuses = Vec::with_capacity(addresses.len());
    for address in addresses {
        statuses.push(match address == host.address() {
            true => host.status(),
            false => match host.remote().admin(address, &AdminRequest::Status).await? {
                AdminResponse::Status(status) => status,
                AdminResponse::Refused(refusal) => return Err(refusal),
                other => return Err(unexpected(&other)),
            },
        });
    }
    Ok(statuses)
}

/// The cluster that an earlier, interrupted call began to make of these stores.
fn known_cluster(statuses: &[StoreStatus]) -> Result<Option<ClusterId>, Refusal> {
    let known: BTreeSet<ClusterId> = statuses.iter().filter_map(|status| status.cluster).collect();
    match known.len() {
        0 | 1 => Ok(known.into_iter().next()),
        _ => Err(Refusal::new(ErrorCode::WrongCluster, "the stores belong to different clusters")),
    }
}

/// The replicas of group 0 that an earlier call has named to some of these stores. A store's own may be missing there:
/// it was removed since.
fn known_replicas(statuses: &[StoreStatus]) -> Result<Option<Vec<ReplicaRecord>>, Refusal> {
    let adopted = || statuses.iter().filter(|status| status.cluster.is_some());
    if adopted().next().is_none() {
        return Ok(None);
    }
    let all: BTreeSet<ReplicaRecord> = adopted().flat_map(|status| status.meta_replicas.iter().copied()).collect();
    let lacks = |status: &StoreStatus| {
        let known: BTreeSet<_> = status.meta_replicas.iter().copied().collect();
        all.difference(&known).any(|missing| Some(missing.store) != status.store)
    };
    if adopted().any(lacks) {
        let what = "the stores were told of different replicas of group 0: these are not the stores of one call";
        return Err(Refusal::new(ErrorCode::WrongCluster, what));
    }
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_unstable_by_key(|replica| replica.store);
    Ok(Some(all))
}

/// Group 0 is initialised only once all stores have an identity: one that has none afterwards has lost its vote, and
/// must not come back under its old replica id (I15).
async fn refuse_wiped(
    remote: &Remote,
    cluster: ClusterId,
    addresses: &[String],
    statuses: &[StoreStatus],
) -> Result<(), Refusal> {
    let stores = || addresses.iter().zip(statuses);
    let Some((wiped, _)) = stores().find(|(_, status)| status.cluster.is_none()) else { return Ok(()) };
    for (address, _) in stores().filter(|(_, status)| status.cluster.is_some()) {
        if remote.directory(address, cluster, Freshness::Stale).await.is_ok() {
            let what = format!(
                "cluster {cluster} is complete, but the store at {wiped} has an empty data folder: it was wiped, and \
                 cannot take its old place again"
            );
            return Err(Refusal::new(ErrorCode::WrongCluster, what));
        }
    }
    Ok(())
}

/// The share of group `nth` of `groups`: contiguous ranges that differ by one slot at most.
fn share(nth: u32, groups: u32) -> SlotRange {
    let bound = |nth: u32| {
        let slot = u64::from(nth) * u64::from(limits::SLOTS) / u64::from(groups);
        SlotId(u16::try_from(slot).expect("a bound is at most SLOTS"))
    };
    SlotRange { first: bound(nth), end: bound(nth + 1) }
}

fn refused(outcome: &MetaOutcome) -> Refusal {
    let what = match outcome {
        MetaOutcome::Refused(refusal) => refusal.to_string(),
        _ => "group 0 gave another verdict than asked for".to_owned(),
    };
    Refusal::new(ErrorCode::AlreadyExists, what)
}

fn unexpected(_: &AdminResponse) -> Refusal {
    Refusal::new(ErrorCode::Malformed, "another answer than asked for")
}

/// Time for the whole of `cluster init`.
const INIT_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::testing::store_status;

    #[test]
    fn a_repeated_call_keeps_the_replicas_that_were_adopted() {
        let named = |stores: &[u64]| -> Vec<ReplicaRecord> {
            stores.iter().map(|id| ReplicaRecord { id: ReplicaId(*id), store: StoreId(*id) }).collect()
        };
        let status = |store: Option<u64>, known: &[u64]| StoreStatus {
            cluster: store.map(|_| ClusterId([1; 16])),
            store: store.map(StoreId),
            meta_replicas: named(known),
            ..store_status(StoreId(0))
        };
        let known = |statuses: &[StoreStatus]| known_replicas(statuses);
        assert_eq!(known(&[status(None, &[]), status(None, &[])]), Ok(None));
        let begun = [status(Some(1), &[1, 3, 5]), status(None, &[]), status(Some(2), &[1, 3, 5])];
        assert_eq!(known(&begun), Ok(Some(named(&[1, 3, 5]))));
        let rebuilt = [status(Some(1), &[3, 5]), status(Some(3), &[1, 3, 5])];
        assert_eq!(known(&rebuilt), Ok(Some(named(&[1, 3, 5]))), "that of store 1 was removed");
        let mixed = [status(Some(1), &[1, 3, 5]), status(Some(2), &[1, 2, 3])];
        assert_eq!(known(&mixed).unwrap_err().code, ErrorCode::WrongCluster);
    }

    #[test]
    fn shares_cover_all_slots_without_overlap() {
        for groups in [1, 3, 4, 7, 255] {
            let shares: Vec<_> = (0..groups).map(|nth| share(nth, groups)).collect();
            assert_eq!(shares[0].first, SlotId(0));
            assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].first && pair[0].first < pair[0].end));
            assert_eq!(shares.last().unwrap().end, SlotId(limits::SLOTS));
        }
    }
}
