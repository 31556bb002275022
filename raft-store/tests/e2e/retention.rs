//! What tenants do not keep goes, on all replicas, and gives its space back.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::common::placement::meta;
use crate::common::{Cluster, Holder, TENANT, direct, wait_until};
use seriatim_proto::command::{Command, DeliveredRecord, DeliveryRecord, HolderOp, Outcome};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::hash;
use seriatim_proto::ids::{ConversationId, Fence, GroupId, Namespace, Seq};
use seriatim_proto::meta::{Limit, MetaCommand, MetaOutcome};
use seriatim_proto::store::{Freshness, Read, ReadOutcome, StoreRefusal};
use seriatim_store::Tuning;

const GROUPS: u32 = 1;
const GROUP: GroupId = GroupId(1);
const BODY_BYTES: usize = 2_000;

/// Messages of one sender in one conversation.
struct Writer {
    holder: Holder,
    conversation: ConversationId,
    written: u64,
    last: Option<Seq>,
}

impl Writer {
    async fn new(cluster: &Cluster, peer: &str) -> Self {
        let conversation = direct("alice", peer);
        let slot = hash::conversation_slot(TENANT, &conversation);
        Self { holder: Holder::claim(cluster, slot, GROUPS).await, conversation, written: 0, last: None }
    }

    /// So many messages of that time, none like another.
    async fn write(&mut self, cluster: &Cluster, count: u64, at_ms: u64) {
        let mut left = count;
        while left > 0 {
            let commands: Vec<_> = (0..left.min(100))
                .map(|_| {
                    self.written += 1;
                    let mut body = vec![0; BODY_BYTES];
                    blake3::Hasher::new().update(&self.written.to_be_bytes()).finalize_xof().fill(&mut body);
                    let mut command = self.holder.message(&self.conversation, "alice", self.written, &body);
                    if let Command::Held { op: HolderOp::Append(append), .. } = &mut command {
                        append.at_ms = at_ms;
                        append.known = self.last.map(Seq::next);
                    }
                    command
                })
                .collect();
            left -= commands.len() as u64;
            for outcome in cluster.propose(GROUP, &commands).await {
                let Outcome::Appended(appended) = outcome else { panic!("{outcome:?}") };
                self.last = Some(appended.seq);
            }
        }
    }

    /// All of it is delivered up to this entry.
    async fn delivered(&mut self, cluster: &Cluster, all: Option<Seq>) {
        let record = DeliveryRecord { all, behind: vec![] };
        let records = vec![DeliveredRecord { tenant: TENANT, conversation: self.conversation.clone(), record }];
        let fence = Fence { slot: self.holder.slot, epoch: self.holder.epoch, n: self.holder.n };
        self.holder.n += 1;
        let command = Command::Held { fence, op: HolderOp::Delivered { records } };
        assert_eq!(cluster.propose(GROUP, &[command]).await, [Outcome::Recorded]);
    }

    /// First kept entry and number of entries, of each replica; zeros of one that does not have the conversation yet.
    async fn kept(&self, cluster: &Cluster) -> Vec<(u64, usize)> {
        let mut kept = Vec::new();
        for nth in 0..cluster.nodes.len() {
            kept.push(self.kept_by(cluster, nth).await.unwrap_or_default());
        }
        kept
    }

    async fn kept_by(&self, cluster: &Cluster, nth: usize) -> Option<(u64, usize)> {
        let namespace = Namespace::conversation(TENANT, self.conversation.clone());
        let client = cluster.client(nth).await;
        let (mut from, mut count) = (Seq::FIRST, 0);
        loop {
            let conversation = self.conversation.clone();
            let messages = Read::Messages { tenant: TENANT, conversation, from, limit: 1_000, bytes_max: 1 << 20 };
            let reads = vec![Read::Namespace(namespace.clone()), messages];
            let outcomes = client.read(GROUP, Freshness::Stale, reads).await.ok()?;
            let [ReadOutcome::Namespace(row), ReadOutcome::Messages(part)] = &outcomes[..] else {
                panic!("{outcomes:?}")
            };
            count += part.len();
            match part.last() {
                Some(last) => from = last.entry.seq.next(),
                None => return row.as_ref().map(|row| (row.trim.get(), count)),
            }
        }
    }
}

async fn keep(cluster: &Cluster, changes: &[(Limit, Option<u32>)]) {
    let changes: BTreeMap<_, _> = changes.iter().copied().collect();
    let outcome = meta(cluster, MetaCommand::SetTenant { id: TENANT, changes }).await;
    assert!(matches!(outcome, MetaOutcome::TenantSet(_)), "{outcome:?}");
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// What a database takes on disk.
fn bytes_of(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    // One that compaction has just removed takes nothing.
    files
        .filter(|file| file.path().extension().is_some_and(|of| of == "sst"))
        .filter_map(|file| file.metadata().ok())
        .map(|about| about.len())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kept_goes_everywhere_and_gives_its_space_back() {
    let tuning =
        Tuning { flush_log_bytes: 256 << 10, retention_period: Duration::from_millis(300), ..Tuning::default() };
    let mut cluster = Cluster::start(3, GROUPS, tuning).await;
    let mut writer = Writer::new(&cluster, "bob").await;
    const OLD_MS: u64 = 1_700_000_000_000;
    writer.write(&cluster, 3_000, OLD_MS).await;
    let half = Seq::new(1_500);
    writer.delivered(&cluster, half).await;
    let folders: Vec<_> = cluster.nodes.iter().map(|node| node.folder.path().join("state.db")).collect();
    let sizes = || folders.iter().map(|folder| bytes_of(folder)).collect::<Vec<_>>();
    wait_until("the rows are on disk", || async { sizes().iter().all(|bytes| *bytes > 2_500 * BODY_BYTES as u64) })
        .await;

    // Nobody but a leader gives anything up.
    let namespace = Namespace::conversation(TENANT, writer.conversation.clone());
    let trim = Command::Trim { namespace, upto: Seq::new(100).unwrap() };
    let leader = cluster.leader(GROUP).await;
    match cluster.client(leader).await.propose(GROUP, &[trim]).await {
        Err(StoreRefusal::Refused(refusal)) => assert_eq!(refusal.code, ErrorCode::Malformed, "{refusal}"),
        other => panic!("{other:?}"),
    }
    let (cluster_ref, writer_ref) = (&cluster, &writer);
    wait_until("all is there", || async { writer_ref.kept(cluster_ref).await == [(1, 3_000); 3] }).await;

    // By number, as far as it is delivered.
    keep(cluster_ref, &[(Limit::RetentionConversation, Some(100))]).await;
    wait_until("what is delivered went", || async { writer_ref.kept(cluster_ref).await == [(1_501, 1_500); 3] }).await;
    let last = writer.last;
    writer.delivered(&cluster, last).await;
    let (cluster_ref, writer_ref) = (&cluster, &writer);
    wait_until("a hundred are kept", || async { writer_ref.kept(cluster_ref).await == [(2_901, 100); 3] }).await;
    // More is written, so that the deletions reach the disk; what is young stays whatever its age may be.
    writer.write(&cluster, 200, now_ms()).await;
    let last = writer.last;
    writer.delivered(&cluster, last).await;
    wait_until("the space is given back", || async { sizes().iter().all(|bytes| *bytes < 1_000 * BODY_BYTES as u64) })
        .await;

    // By age: the old ones go, whatever their number.
    keep(&cluster, &[(Limit::RetentionConversation, None)]).await;
    let mut other = Writer::new(&cluster, "carol").await;
    other.write(&cluster, 5, OLD_MS).await;
    other.write(&cluster, 5, now_ms()).await;
    let last = other.last;
    other.delivered(&cluster, last).await;
    let (cluster_ref, writer_ref, other_ref) = (&cluster, &writer, &other);
    wait_until("ten are there", || async { other_ref.kept(cluster_ref).await == [(1, 10); 3] }).await;
    // What its holder dates years back is a minute old.
    keep(cluster_ref, &[(Limit::RetentionAge, Some(60))]).await;
    wait_until("the old ones went", || async { other_ref.kept(cluster_ref).await == [(6, 5); 3] }).await;
    let is_aged = |kept: &[(u64, usize)]| kept.iter().all(|of| *of == kept[0] && of.0 > 3_000);
    wait_until("and of the other one", || async { is_aged(&writer_ref.kept(cluster_ref).await) }).await;
    keep(cluster_ref, &[(Limit::RetentionAge, None)]).await;
    let first = [writer_ref.kept(cluster_ref).await, other_ref.kept(cluster_ref).await];

    // It is the same behind a kill of all.
    (0..3).for_each(|nth| cluster.kill(nth));
    for nth in 0..3 {
        cluster.restart(nth).await;
    }
    let (cluster_ref, writer_ref, other_ref) = (&cluster, &writer, &other);
    wait_until("all are back", || async {
        [writer_ref.kept(cluster_ref).await, other_ref.kept(cluster_ref).await] == first
    })
    .await;
}
