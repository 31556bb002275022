//! What must hold while a rotten replica is rebuilt, seen from inside the stores.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus_client::registry::Registry;
use seriatim_mtls::Mtls;
use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::command::{Act, Append, Command, Content, HolderOp, Outcome, Place, Reject};
use seriatim_proto::hash;
use seriatim_proto::ids::{
    ConversationId, Epoch, Fence, GroupId, MessageId, NodeId, ReplicaId, Seq, StoreId, TenantId, UserId,
};
use seriatim_proto::meta::{Directory, MetaCommand, MetaOutcome, ReplicaRecord, RotRecord, StoreRecord};
use seriatim_store_core::{Item, Key, Reader};

use crate::check::{self, Rest};
use crate::config::StoreConfig;
use crate::host::Host;
use crate::identity::Stage;
use crate::remote::Remote;
use crate::server::StoreServer;

const GROUP: GroupId = GroupId(1);
const PATIENCE: Duration = Duration::from_secs(60);

/// Three stores with one data group.
struct Three {
    folders: Vec<tempfile::TempDir>,
    addresses: Vec<SocketAddr>,
    servers: Vec<Option<StoreServer>>,
}

async fn start(folder: PathBuf, listen: SocketAddr) -> StoreServer {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut config = StoreConfig::new(folder.clone(), listen);
        config.insecure_plaintext = true;
        match StoreServer::start(config, &mut Registry::default()).await {
            Ok(server) => return server,
            // The threads of the one before still hold the folder.
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Three {
    async fn start() -> Self {
        let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let mut servers = Vec::new();
        for folder in &folders {
            servers.push(Some(start(folder.path().to_owned(), "127.0.0.1:0".parse().unwrap()).await));
        }
        let addresses: Vec<_> = servers.iter().flatten().map(StoreServer::address).collect();
        let stores: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let init = AdminRequest::InitCluster { stores: stores.clone(), groups: 1, voters: None };
        assert!(matches!(
            Remote::new(Mtls::plaintext()).admin(&stores[0], &init).await.unwrap(),
            AdminResponse::Initialised { .. }
        ));
        Self { folders, addresses, servers }
    }

    fn kill(&mut self, nth: usize) {
        drop(self.servers[nth].take());
    }

    async fn restart(&mut self, nth: usize) {
        self.servers[nth] = Some(start(self.folders[nth].path().to_owned(), self.addresses[nth]).await);
    }

    fn host(&self, nth: usize) -> &Host {
        self.servers[nth].as_ref().unwrap().host()
    }

    async fn meta(&self, command: MetaCommand) -> MetaOutcome {
        let cluster = self.servers.iter().flatten().next().unwrap().host().identity().unwrap().cluster;
        let stores = (1..).map(StoreId).zip(&self.addresses);
        let stores: Vec<_> = stores.map(|(id, address)| StoreRecord { id, address: address.to_string() }).collect();
        Remote::new(Mtls::plaintext()).propose_meta(&stores, cluster, command, Instant::now() + PATIENCE).await.unwrap()
    }

    /// Until one of the stores that run says so of the newest directory that it knows.
    async fn wait_for(&self, what: &str, level: impl Fn(&Directory) -> bool) {
        wait_until(what, || {
            let known = self.servers.iter().flatten().map(|server| server.host().events().directory().borrow().clone());
            known.flatten().max_by_key(|directory| directory.revision).is_some_and(|directory| level(&directory))
        })
        .await;
    }
}

async fn wait_until(what: &str, level: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !level() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn stage(host: &Host, replica: ReplicaId) -> Option<Stage> {
    host.identity().unwrap().born(GROUP, replica).map(|born| born.stage)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_group_may_need_stays_until_the_successor_is_a_member() {
    let mut three = Three::start().await;
    let replica = three.host(2).serving(GROUP).unwrap().id();
    // What stores 1 and 3 have acknowledged, only store 3 may have now.
    three.kill(0);
    let what = "said by a test".to_owned();
    assert_eq!(three.meta(MetaCommand::ReportRot { group: GROUP, replica, what }).await, MetaOutcome::RotNoted);
    let begun = three.meta(MetaCommand::BeginRebuild { group: GROUP, replica }).await;
    let MetaOutcome::Moving(moved) = begun else { panic!("{begun:?}") };
    let successor = moved.joining.unwrap().id;
    wait_until("it stops", || three.host(2).rotten().iter().any(|rot| rot.replica == replica)).await;
    // Its group has no quorum: nothing of it goes, for as long as that is so. Looked at for longer than a birth takes.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        assert_eq!((stage(three.host(2), replica), stage(three.host(2), successor)), (Some(Stage::Rotten), None));
        assert!(three.host(2).raft().has_voted(GROUP, replica));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    three.restart(0).await;
    three.wait_for("the rebuild ends", |directory| directory.moves.is_empty() && directory.rotten.is_empty()).await;
    wait_until("the successor runs", || three.host(2).serving(GROUP).is_ok_and(|runs| runs.id() == successor)).await;
    wait_until("the old one is gone", || stage(three.host(2), replica).is_none()).await;
}

/// Does somebody lead the group and answer reads, for which it needs a quorum?
async fn wait_for_quorum(three: &Three) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for server in three.servers.iter().flatten() {
            if let Ok(replica) = server.host().serving(GROUP)
                && replica.leadership().is_some()
                && replica.read_index().await.is_ok()
            {
                return;
            }
        }
        assert!(Instant::now() < deadline, "the group has no quorum");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_group_cannot_spare_votes_on_though_it_is_rotten() {
    let mut three = Three::start().await;
    let replica = three.host(2).serving(GROUP).unwrap().id();
    three.kill(0);
    three.host(2).suspect(GROUP, replica, "said by a test");
    three.wait_for("it is reported", |directory| directory.is_rotten(GROUP, replica)).await;
    wait_for_quorum(&three).await;
    assert_eq!(three.host(2).serving(GROUP).unwrap().id(), replica);
    three.restart(0).await;
    three.wait_for("it is rebuilt", |directory| directory.moves.is_empty() && directory.rotten.is_empty()).await;
    wait_until("another one runs", || three.host(2).serving(GROUP).is_ok_and(|runs| runs.id() > replica)).await;
    wait_until("no alarm is left", || three.host(2).rotten().is_empty() && three.host(2).suspected().is_empty()).await;

    // A whole database, and a restart in between: the same.
    let replica = three.host(2).serving(GROUP).unwrap().id();
    three.kill(0);
    three.host(2).fatal().note_damage("said by a test");
    three.kill(2);
    three.restart(2).await;
    three
        .wait_for("all are reported", |directory| {
            directory.is_rotten(GROUP, replica) && directory.rotten.iter().any(|rot| rot.group == GroupId::META)
        })
        .await;
    wait_for_quorum(&three).await;
    assert_eq!(three.host(2).serving(GROUP).unwrap().id(), replica);
    assert!(!three.folders[2].path().join("rotten").exists());
    three.restart(0).await;
    wait_until("the process ends", || three.host(2).fatal().reason().is_some()).await;
    three.kill(2);
    three.restart(2).await;
    assert_eq!(three.host(2).metrics().rot_found.get(), 2, "of group 0 and of the other one");
    three.wait_for("all is rebuilt", |directory| directory.moves.is_empty() && directory.rotten.is_empty()).await;
    wait_until("another one runs", || three.host(2).serving(GROUP).is_ok_and(|runs| runs.id() > replica)).await;
    wait_until("no alarm is left", || three.host(2).rotten().is_empty() && three.host(2).suspected().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_leader_leads_on_until_a_sound_one_follows() {
    let mut three = Three::start().await;
    let ids: Vec<_> = (0..3).map(|nth| three.host(nth).serving(GROUP).unwrap().id()).collect();
    three.kill(2);
    wait_for_quorum(&three).await;
    let hears = |nth| three.host(nth).serving(GROUP).unwrap().heard_followers().iter().any(|(id, _)| *id == ids[2]);
    wait_until("the killed one is heard no more", || [0, 1].into_iter().all(|nth| !hears(nth))).await;
    for replica in [ids[0], ids[1]] {
        let what = "said by a test".to_owned();
        assert_eq!(three.meta(MetaCommand::ReportRot { group: GROUP, replica, what }).await, MetaOutcome::RotNoted);
    }
    let knows =
        |nth| three.host(nth).events().directory().borrow().as_ref().is_some_and(|known| known.rotten.len() == 2);
    wait_until("everybody knows both", || [0, 1].into_iter().all(knows)).await;
    // Between the two reports, the first of them may have given it to the other.
    let before = [0, 1].map(|nth| three.host(nth).metrics().rot_handovers.get());
    wait_for_quorum(&three).await;
    // Leaders look once a second. Elections, which a busy machine may cause, are nobody's hand-over.
    let began = Instant::now();
    let mut looks = 0;
    while began.elapsed() < Duration::from_secs(4) || looks == 0 {
        for nth in [0, 1] {
            let replica = three.host(nth).serving(GROUP).unwrap();
            let directory = three.host(nth).events().directory().borrow().clone().unwrap();
            if replica.leadership().is_some() && directory.rotten.len() == 2 {
                assert!(!replica.hand_over(&directory).await, "it is handed to one that is no better");
                looks += 1;
            }
            let handovers = three.host(nth).metrics().rot_handovers.get();
            assert_eq!(handovers, before[nth], "it was handed to one that is no better");
        }
        assert!(began.elapsed() < PATIENCE, "nobody leads");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    wait_for_quorum(&three).await;
    three.restart(2).await;
    let leads = || three.host(2).serving(GROUP).is_ok_and(|replica| replica.leadership().is_some());
    wait_until("the sound one leads", leads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_whose_store_is_gone_can_be_ended_and_begun_again() {
    let mut three = Three::start().await;
    let replica = three.host(2).serving(GROUP).unwrap().id();
    three.kill(2);
    wait_for_quorum(&three).await;
    let what = "said by a test".to_owned();
    assert_eq!(three.meta(MetaCommand::ReportRot { group: GROUP, replica, what }).await, MetaOutcome::RotNoted);
    let begun = three.meta(MetaCommand::BeginRebuild { group: GROUP, replica }).await;
    let MetaOutcome::Moving(moved) = begun else { panic!("{begun:?}") };
    let turned = three.meta(MetaCommand::CancelMove { moved: moved.clone() }).await;
    assert!(matches!(turned, MetaOutcome::Moving(_) | MetaOutcome::NothingMoves), "{turned:?}");
    let joining = moved.joining.unwrap().id;
    three
        .wait_for("it ends where it began", |directory| {
            directory.moves.is_empty() && directory.is_rotten(GROUP, replica) && directory.is_removed(GROUP, joining)
        })
        .await;
    // Nothing of it is in the way of what comes.
    three.restart(2).await;
    three.wait_for("it is rebuilt", |directory| directory.moves.is_empty() && directory.rotten.is_empty()).await;
    let successor = || three.host(2).serving(GROUP).is_ok_and(|runs| runs.id() > joining);
    wait_until("another one runs", successor).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_by_what_another_store_shows() {
    let three = Three::start().await;
    let replica = three.host(2).serving(GROUP).unwrap().id();
    let mut shown = Directory::clone(three.host(2).events().directory().borrow().as_ref().unwrap());
    shown.revision += 1;
    shown.groups.iter_mut().for_each(|group| group.replicas.retain(|known| known.id != replica));
    assert!(shown.is_removed(GROUP, replica));
    three.host(2).events().learn(shown);
    // Looked at for longer than a removal takes.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        assert_eq!(three.host(2).serving(GROUP).unwrap().id(), replica);
        assert_eq!(stage(three.host(2), replica), Some(Stage::Initialised));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Has the group's leader apply commands, whoever that is.
async fn run(three: &Three, commands: &[Command]) -> Vec<Outcome> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let leads = (0..3).find_map(|nth| {
            let replica = three.host(nth).serving(GROUP).ok()?;
            let term = replica.leadership()?;
            Some((replica, term))
        });
        if let Some((leader, term)) = leads {
            let (tx, answer) = tokio::sync::oneshot::channel();
            // The receiver waits below.
            leader.propose_as_leader(term, commands, move |result| drop(tx.send(result))).await;
            if let Ok(Ok(outcomes)) = answer.await {
                return outcomes;
            }
        }
        assert!(Instant::now() < deadline, "nobody leads");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lost_an_edit_goes_on_at_the_recall_and_is_rebuilt() {
    let three = Three::start().await;
    let (tenant, alice) = (TenantId(1), UserId::new("alice").unwrap());
    let conversation = ConversationId::direct(alice.clone(), alice.clone());
    let slot = hash::conversation_slot(tenant, &conversation);
    let Outcome::Leased(lease) = run(&three, &[Command::OpenLease { node: NodeId(7) }]).await[0] else { panic!() };
    let claim = Command::Claim { slot, lease, seen: Epoch::NONE };
    let Outcome::Claimed { epoch } = run(&three, &[claim]).await[0] else { panic!() };
    let append = |n: u8, content| {
        let append = Append {
            tenant,
            conversation: conversation.clone(),
            sender: alice.clone(),
            message_id: MessageId([n; 16]),
            known: None,
            follows: None,
            content,
            place: Place::Open { segment: 0 },
            at_ms: 1,
            local: Vec::new(),
            delivered: None,
        };
        Command::Held { fence: Fence { slot, epoch, n: n.into() }, op: HolderOp::Append(append) }
    };
    let amend = |n, act| append(n, Content::Amend { target: Seq::FIRST, act });
    let (salt, body) = (Bytes::new(), Bytes::from_static(b"a"));
    let said = append(0, Content::Message { salt: salt.clone(), body: body.clone() });
    let edited = amend(1, Act::Edit { salt, body, within_s: u32::MAX });
    // Said once more because the leader had changed, it is `Passed`.
    let is_applied = |outcomes: &[Outcome]| {
        outcomes.iter().all(|outcome| matches!(outcome, Outcome::Appended(_) | Outcome::Rejected(Reject::Passed)))
    };
    let outcomes = run(&three, &[said, edited]).await;
    assert!(is_applied(&outcomes), "{outcomes:?}");
    let row = Key::tenant(slot, tenant, Item::Message(conversation.clone(), Seq::FIRST.next()));
    let has_it = || three.host(2).state().view(GROUP).unwrap().get(&row).unwrap().is_some();
    wait_until("the edit is applied", has_it).await;
    three.host(2).state().lose(GROUP, &row);
    let replica = three.host(2).serving(GROUP).unwrap().id();

    let recalled = run(&three, &[amend(2, Act::Recall { within_s: u32::MAX })]).await;
    assert!(is_applied(&recalled), "{recalled:?}");
    wait_until("it is rebuilt", || {
        assert_eq!(three.host(2).fatal().reason(), None, "the process goes on");
        three.host(2).serving(GROUP).is_ok_and(|runs| runs.id() > replica)
    })
    .await;
    wait_until("it has the edit", has_it).await;
    let note = three.folders[2].path().join(format!("HOLE-{GROUP}-{replica}"));
    wait_until("its note is gone", || !note.exists()).await;
    assert_eq!([0, 1].map(|nth| three.host(nth).suspected().len()), [0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_that_a_restart_has_lost_is_begun_anew() {
    let mut three = Three::start().await;
    let compared = |nth: usize| three.host(nth).serving(GROUP).ok().map(|replica| replica.live.compared());
    let deadline = Instant::now() + PATIENCE;
    let leader = loop {
        assert!(Instant::now() < deadline, "no comparison is begun");
        let replica = |nth: usize| three.host(nth).serving(GROUP).ok();
        let found = (0..3).find_map(|nth| Some((nth, replica(nth)?.leadership()?)));
        if let Some((leader, term)) = found {
            let (tx, answer) = tokio::sync::oneshot::channel();
            let answered = move |result: Result<_, _>| {
                // The receiver waits below.
                let _ = tx.send(result.is_ok());
            };
            replica(leader).unwrap().propose_as_leader(term, &[], answered).await;
            if answer.await == Ok(true) {
                break leader;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    wait_until("all have a digest", || {
        matches!(compared(leader), Some((Some(_), None))) && (0..3).all(|nth| compared(nth) == compared(leader))
    })
    .await;
    let index = compared(leader).unwrap().0.unwrap().index;
    let (other, rotten) = ((leader + 1) % 3, (leader + 2) % 3);
    // What is flushed is not applied once more.
    three.host(other).state().flush().unwrap();
    three.kill(other);
    three.restart(other).await;
    wait_until("it is back", || three.host(other).serving(GROUP).is_ok_and(|it| it.status().applied_index >= index))
        .await;
    assert_eq!(three.host(other).serving(GROUP).unwrap().live.digest(), None);

    let replica = three.host(leader).serving(GROUP).unwrap();
    let mut directory = Directory::clone(three.host(leader).events().directory().borrow().as_ref().unwrap());
    let found = ReplicaRecord {
        id: three.host(rotten).serving(GROUP).unwrap().id(),
        store: three.host(rotten).identity().unwrap().store,
    };
    directory.rotten.push(RotRecord { group: GROUP, replica: found, what: "said by a test".to_owned() });
    let voters = replica.membership().voters;
    let sound = voters.iter().copied().filter(|voter| *voter != found.id).collect();
    *replica.rest.lock() = Some(Rest::behind(index - 1, voters, sound));
    check::rest_agrees(three.host(leader), &directory, &replica).await.unwrap_err();
    assert!(replica.rest.lock().is_none(), "it is not waited for");
}
