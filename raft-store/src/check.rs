//! Check: do the replicas of a group have the same rows at the same entry (I13)?
//!
//! ```text
//! leader ── an entry without commands ──▶ each replica, when it applies it: a digest of its rows, in the background
//!    └────── asks each store for its replica's digest at that entry; who differs from a majority is rotten (rot.rs)
//! ```
//! Nobody else can propose an entry without commands, so it means nothing but this.
//!
//! # Failure
//! A replica that gets past the entry by a snapshot has no digest for it. It is judged at the next one: so are all, if
//! no majority has the same. Rows that differ on every replica are a bug of ours; nobody is right, and nobody rotten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use seriatim_proto::ids::{GroupId, ReplicaId};
use seriatim_proto::limits;
use seriatim_proto::meta::{Directory, MetaCommand};
use seriatim_proto::store::{GroupStatus, RowsDigest, StoreRefusal};

use crate::host::Host;
use crate::remote::Remote;
use crate::replica::Replica;

/// What a leader remembers of a group's comparisons.
#[derive(Debug)]
struct Watched {
    /// the last comparison was begun, if this leader has begun one
    begun_at: Option<Instant>,
    /// its own digest at this entry was seen then
    seen: Option<(u64, Instant)>,
    /// judged up to this entry
    judged: u64,
}

/// Reports that were withdrawn: somebody knows better than the comparisons up to then, and no later leader reports by
/// these once more. Every store remembers, whoever leads. What a restart forgets, it has no digests of either.
#[derive(Debug, Default)]
struct Withdrawn {
    /// reported when last looked
    reported: BTreeSet<(GroupId, ReplicaId)>,
    /// of each group, the last entry at which a digest had been begun here when a report was withdrawn
    upto: BTreeMap<GroupId, u64>,
}

impl Withdrawn {
    /// A report that is gone though its replica is not was withdrawn. `begun` is the last entry of a digest here.
    fn look(&mut self, directory: &Directory, begun: impl Fn(GroupId) -> u64) {
        let now = directory.rotten.iter().map(|rot| (rot.group, rot.replica.id)).collect();
        for (group, replica) in std::mem::replace(&mut self.reported, now) {
            if !directory.is_rotten(group, replica) && !directory.is_removed(group, replica) {
                self.upto.insert(group, begun(group));
            }
        }
    }

    fn upto(&self, group: GroupId) -> u64 {
        self.upto.get(&group).copied().unwrap_or(0)
    }
}

/// What became of a comparison.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// somebody has no digest yet
    Waits,
    /// these differ from a majority; none, if all are the same
    Differ(Vec<ReplicaId>),
    /// no digest is a majority's
    Undecided,
    /// too few have one to say anything
    TooFew,
}

/// Compares the groups that are led here, again and again. Runs until it is dropped.
pub(crate) async fn run(host: Arc<Host>) {
    let mut groups: BTreeMap<GroupId, Watched> = BTreeMap::new();
    let mut withdrawn = Withdrawn::default();
    // The last comparison that was begun here, its group's digest before it, and when.
    let mut begun: Option<(GroupId, u64, Instant)> = None;
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(directory) = host.events().directory().borrow().clone() else { continue };
        withdrawn.look(&directory, |group| {
            let (done, begun) = host.serving(group).map(|replica| replica.live.compared()).unwrap_or_default();
            done.map(|digest| digest.index).max(begun).unwrap_or(0)
        });
        let led: Vec<_> = host.replicas().into_iter().filter(|replica| replica.leadership().is_some()).collect();
        groups.retain(|group, _| led.iter().any(|replica| replica.group == *group));
        // One after another: all digests of a store share one pace, and one that is begun anew is never done. Those that
        // a rebuild waits for have a pace of their own, and wait for each other only.
        let is_begun = |(group, index, at): &(GroupId, u64, Instant)| {
            let waits = |replica: &Arc<Replica>| {
                replica.group == *group && replica.live.digest().is_none_or(|digest| digest.index <= *index)
            };
            at.elapsed() < BEGUN && led.iter().any(waits)
        };
        let mut is_busy =
            begun.as_ref().is_some_and(is_begun) || host.replicas().iter().any(|replica| replica.live.is_digesting());
        let is_urgent = |group: GroupId| directory.rotten.iter().any(|rot| rot.group == group);
        let mut is_urgently_busy = begun.as_ref().is_some_and(|begun| is_urgent(begun.0) && is_begun(begun))
            || host.replicas().iter().any(|replica| is_urgent(replica.group) && replica.live.is_digesting());
        for replica in led {
            // Before a rotten replica is rebuilt, and stops, the others are compared: at once, and at a faster pace.
            let rots = is_urgent(replica.group);
            let moves = directory.moves.iter().any(|moved| moved.group == replica.group);
            if rots && !moves && !directory.is_rotten(replica.group, replica.id()) {
                let begins = !is_urgently_busy && is_rest_due(&directory, &replica);
                if begins {
                    (is_busy, is_urgently_busy) = (true, true);
                    let newest = replica.live.digest().map_or(0, |newest| newest.index);
                    begun = Some((replica.group, newest, Instant::now()));
                }
                if (begins || is_rest_begun(&directory, &replica))
                    && let Err(what) = rest_agrees(&host, &directory, &replica).await
                {
                    tracing::debug!(group = replica.group.0, what, "a rotten replica is not rebuilt yet");
                }
            }
            let newest = replica.live.digest();
            let watched = groups.entry(replica.group).or_insert_with(|| Watched {
                begun_at: None,
                seen: None,
                // What was compared under another leader is judged again, or not: it does no harm.
                judged: 0,
            });
            // Also of what was withdrawn while this leader waited for digests.
            watched.judged = watched.judged.max(withdrawn.upto(replica.group));
            // One that a move waits for is not disturbed, nor one that others are not done with.
            let waits = moves || rots || newest.is_some_and(|newest| newest.index > watched.judged);
            let is_due =
                is_due(Instant::now(), watched.begun_at, replica.live.compared_at(), host.tuning().scrub_period);
            if host.scrubs() && !is_busy && !waits && is_due {
                watched.begun_at = Some(Instant::now());
                is_busy = true;
                begun = Some((replica.group, newest.map_or(0, |newest| newest.index), Instant::now()));
                begin(&replica).await;
            }
            let Some(newest) = newest.filter(|newest| newest.index > watched.judged) else { continue };
            let since = match watched.seen {
                Some((index, since)) if index == newest.index => since,
                _ => watched.seen.insert((newest.index, Instant::now())).1,
            };
            let digests = digests(&statuses(host.remote(), &directory, &replica).await, newest.index);
            let verdict = judge(
                &replica.membership().voters.iter().copied().collect::<Vec<_>>(),
                &digests,
                since.elapsed() >= PATIENCE,
            );
            match verdict {
                Verdict::Waits => continue,
                Verdict::TooFew => {
                    tracing::warn!(group = replica.group.0, index = newest.index, "too few replicas made a digest");
                }
                Verdict::Undecided => {
                    tracing::error!(
                        group = replica.group.0,
                        index = newest.index,
                        ?digests,
                        "ALARM: no two replicas have the same rows"
                    );
                    host.metrics().compare_differences.inc();
                }
                Verdict::Differ(differ) => {
                    host.metrics().compares.inc();
                    // Of those that are known already, nothing new was found.
                    for id in differ.into_iter().filter(|id| !directory.is_rotten(replica.group, *id)) {
                        host.metrics().compare_differences.inc();
                        report(host.remote(), &directory, &replica, id, newest.index).await;
                    }
                }
            }
            watched.judged = newest.index;
        }
    }
}

/// Is the next comparison due? Counted from the last digest, whoever led the group then: leaders may change more often
/// than that. An entry of this leader's that never came counts too.
fn is_due(now: Instant, begun_at: Option<Instant>, compared_at: Instant, period: Duration) -> bool {
    let last = begun_at.map_or(compared_at, |begun_at| begun_at.max(compared_at));
    now.saturating_duration_since(last) >= period
}

/// Has all replicas of a group make a digest of their rows at one entry, which comes now.
pub(crate) async fn begin(replica: &Replica) {
    let Some(term) = replica.leadership() else { return };
    // Whether it was committed shows in the digests.
    replica.propose_as_leader(term, &[], |_: Result<_, StoreRefusal>| ()).await;
}

/// A comparison of those that a group is left with while others are rotten.
#[derive(Debug, Clone)]
pub(crate) struct Rest {
    /// all voters, and those of them that are not known to be rotten
    voters: BTreeSet<ReplicaId>,
    sound: BTreeSet<ReplicaId>,
    /// begun behind this entry
    after: u64,
    begun_at: Instant,
    /// the leader's own digest was done
    done_at: Option<Instant>,
    /// they were found to differ then
    differ_at: Option<Instant>,
    /// how often in a row they were found to differ before
    differed: u32,
    /// these are the same, and were found so then
    agreed: Option<(Vec<ReplicaId>, Instant)>,
}

impl Rest {
    /// One that is begun behind an entry.
    pub(crate) fn behind(after: u64, voters: BTreeSet<ReplicaId>, sound: BTreeSet<ReplicaId>) -> Self {
        let begun_at = Instant::now();
        Self { voters, sound, after, begun_at, done_at: None, differ_at: None, differed: 0, agreed: None }
    }

    /// The next one of the same replicas. If they differed, they are likely to do so for as long as nobody does anything:
    /// each comparison reads all rows of all of them, so the pauses double.
    fn again(&self, after: u64) -> Self {
        let differed = if self.differ_at.is_some() { self.differed.saturating_add(1) } else { 0 };
        Self { differed, ..Self::behind(after, self.voters.clone(), self.sound.clone()) }
    }

    /// Until then, those that differ are not compared once more.
    fn differ_until(&self) -> Option<Instant> {
        let pause = REST_AGAIN.saturating_mul(1_u32.checked_shl(self.differed).unwrap_or(u32::MAX));
        self.differ_at.map(|at| at + pause.min(REST_LASTS))
    }

    /// Those of the group's `voters` that are the same, if that was found lately and of these voters.
    pub(crate) fn agreeing(&self, voters: &BTreeSet<ReplicaId>) -> Vec<ReplicaId> {
        let agreed = self.agreed.as_ref().filter(|(_, at)| at.elapsed() < REST_LASTS && self.voters == *voters);
        agreed.map(|(agreeing, _)| agreeing.clone()).unwrap_or_default()
    }

    /// Is it of no use any more? Either others are the voters or known to be rotten, or it was too long ago.
    fn is_over(&self, voters: &BTreeSet<ReplicaId>, sound: &BTreeSet<ReplicaId>) -> bool {
        let is_old = self.agreed.as_ref().is_some_and(|(_, at)| at.elapsed() >= REST_LASTS);
        let is_due_again = self.differ_until().is_some_and(|until| Instant::now() >= until);
        is_old || is_due_again || !self.is_of(voters, sound)
    }

    fn is_of(&self, voters: &BTreeSet<ReplicaId>, sound: &BTreeSet<ReplicaId>) -> bool {
        (&self.voters, &self.sound) == (voters, sound)
    }
}

/// The voters, and those of them that are not known to be rotten.
fn voters_of(directory: &Directory, replica: &Replica) -> (BTreeSet<ReplicaId>, BTreeSet<ReplicaId>) {
    let voters = replica.membership().voters;
    let sound = voters.iter().copied().filter(|voter| !directory.is_rotten(replica.group, *voter)).collect();
    (voters, sound)
}

/// Has a comparison of the voters that are not rotten still to be begun? Not while too few of them follow: nobody would
/// be rebuilt, and what is read for it would be read again and again.
fn is_rest_due(directory: &Directory, replica: &Replica) -> bool {
    let (voters, sound) = voters_of(directory, replica);
    let is_over = replica.rest.lock().as_ref().is_none_or(|rest| rest.is_over(&voters, &sound));
    let follows = |id: &&ReplicaId| **id == replica.id() || replica.is_close(**id);
    is_over && (2..voters.len()).contains(&sound.len()) && sound.iter().filter(follows).count() > voters.len() / 2
}

/// Is a comparison of them under way, or done?
fn is_rest_begun(directory: &Directory, replica: &Replica) -> bool {
    let (voters, sound) = voters_of(directory, replica);
    replica.rest.lock().as_ref().is_some_and(|rest| !rest.is_over(&voters, &sound))
}

/// Have the voters that are not rotten the same rows, as far as they are more than one? Before a new replica copies
/// them, it must be sure that they are right: a majority may be one wrong replica and its own copy. The first call
/// begins the comparison, later ones look.
pub(crate) async fn rest_agrees(host: &Host, directory: &Directory, replica: &Replica) -> Result<(), String> {
    let (voters, rest) = voters_of(directory, replica);
    if !(2..voters.len()).contains(&rest.len()) {
        return Ok(());
    }
    let known = replica.rest.lock().clone();
    let Some(mut begun) = known.clone().filter(|begun| !begun.is_over(&voters, &rest)) else {
        let after = replica.last_index();
        let next = match known.filter(|known| known.is_of(&voters, &rest)) {
            Some(known) => known.again(after),
            None => Rest::behind(after, voters, rest),
        };
        *replica.rest.lock() = Some(next);
        begin(replica).await;
        return Err("the sound replicas are compared before one is copied".to_owned());
    };
    if begun.agreed.is_some() {
        return Ok(());
    }
    if begun.differ_at.is_some() {
        return Err("the sound replicas differ".to_owned());
    }
    let own = replica.live.digest().filter(|digest| digest.index > begun.after);
    let done_at = match (own, begun.done_at) {
        (Some(_), Some(done_at)) => Some(done_at),
        (Some(_), None) => Some(Instant::now()),
        (None, _) => None,
    };
    begun.done_at = done_at;
    *replica.rest.lock() = Some(begun.clone());
    let statuses = match own {
        Some(_) => statuses(host.remote(), directory, replica).await,
        None => Vec::new(),
    };
    let index = own.map_or(u64::MAX, |own| own.index);
    let digests = digests(&statuses, index);
    let of_rest: BTreeMap<ReplicaId, &RowsDigest> =
        rest.iter().filter_map(|id| Some((*id, digests.get(id)?))).collect();
    match judge_rest(&of_rest.values().copied().collect::<Vec<_>>(), voters.len()) {
        RestVerdict::Same => {
            begun.agreed = Some((of_rest.into_keys().collect(), Instant::now()));
            *replica.rest.lock() = Some(begun);
            Ok(())
        }
        RestVerdict::Waits => {
            // Who got past the entry by a snapshot, or a restart, makes none; who is only slower is not disturbed.
            let misses = |status: &GroupStatus| rest.contains(&status.replica) && has_missed(status, index);
            let took = done_at.map(|done_at| done_at - begun.begun_at);
            let is_late = match (took, done_at) {
                (Some(took), Some(done_at)) => done_at.elapsed() > REST_AGAIN.max(took * 4),
                _ => begun.begun_at.elapsed() > BEGUN && !replica.live.is_digesting(),
            };
            if is_late || statuses.iter().any(misses) {
                *replica.rest.lock() = None;
            }
            Err("the sound replicas are compared before one is copied".to_owned())
        }
        RestVerdict::Differ => {
            host.metrics().compare_differences.inc();
            tracing::error!(
                group = replica.group.0,
                ?digests,
                "ALARM: replicas that are not known to be rotten differ: nobody is right for sure, and none is copied"
            );
            begun.differ_at = Some(Instant::now());
            *replica.rest.lock() = Some(begun);
            Err("the sound replicas differ".to_owned())
        }
    }
}

/// Whether what remains can be copied.
#[derive(Debug, PartialEq, Eq)]
enum RestVerdict {
    Same,
    Differ,
    /// too few have a digest
    Waits,
}

fn judge_rest(digests: &[&RowsDigest], voters: usize) -> RestVerdict {
    match digests.windows(2).all(|pair| pair[0] == pair[1]) {
        false => RestVerdict::Differ,
        true if digests.len() > voters / 2 => RestVerdict::Same,
        true => RestVerdict::Waits,
    }
}

/// What the stores of a group say of its replicas, as far as they answer.
async fn statuses(remote: &Remote, directory: &Directory, replica: &Replica) -> Vec<GroupStatus> {
    let stores = directory.stores.iter().filter(|store| replica.stores().contains(&store.id));
    let asked = stores.map(|store| remote.status(&store.address, directory.cluster, store.id));
    let answers = futures_util::future::join_all(asked).await;
    let groups = answers.into_iter().flatten().flat_map(|status| status.groups);
    groups.filter(|group| group.group == replica.group).collect()
}

/// The digests at an entry, by replica.
fn digests(statuses: &[GroupStatus], index: u64) -> BTreeMap<ReplicaId, RowsDigest> {
    let at = |status: &GroupStatus| {
        status.digest.filter(|digest| digest.index == index).map(|digest| (status.replica, digest))
    };
    statuses.iter().filter_map(at).collect()
}

/// Is the replica past the entry, and will never have a digest at it?
fn has_missed(status: &GroupStatus, index: u64) -> bool {
    let newest = status.digest.map(|digest| digest.index).max(status.digesting);
    status.applied_index >= index && newest < Some(index)
}

fn judge(voters: &[ReplicaId], digests: &BTreeMap<ReplicaId, RowsDigest>, is_late: bool) -> Verdict {
    let of_voters: Vec<_> = digests.iter().filter(|(id, _)| voters.contains(id)).collect();
    if of_voters.len() < voters.len() && !is_late {
        return Verdict::Waits;
    }
    let same = |one: &RowsDigest| of_voters.iter().filter(|(_, other)| **other == *one).count();
    let of_majority = of_voters.iter().map(|(_, digest)| *digest).find(|digest| same(digest) > voters.len() / 2);
    match of_majority {
        Some(right) => {
            Verdict::Differ(of_voters.iter().filter(|(_, digest)| **digest != *right).map(|(id, _)| **id).collect())
        }
        None if of_voters.windows(2).all(|pair| pair[0].1 == pair[1].1) => Verdict::TooFew,
        None => Verdict::Undecided,
    }
}

async fn report(remote: &Remote, directory: &Directory, replica: &Replica, differs: ReplicaId, index: u64) {
    let group = replica.group;
    tracing::error!(
        group = group.0,
        replica = differs.0,
        index,
        "ALARM: a replica's rows differ from those of a majority"
    );
    let what = format!("at entry {index} its rows are others than those of a majority");
    let told = remote.tell_meta(directory, MetaCommand::ReportRot { group, replica: differs, what }).await;
    if let Err(why) = told {
        tracing::warn!(group = group.0, why, "group 0 does not know of the difference: it is found again");
    }
}

/// How often leaders look.
const LOOK: Duration = Duration::from_secs(1);
/// That those that are left are the same is not relied on for longer: as long as between two comparisons of all.
const REST_LASTS: Duration = Duration::from_secs(limits::SCRUB_PERIOD_S);
/// Pause before those that are left are compared once more, at least; it doubles while they differ.
const REST_AGAIN: Duration = Duration::from_secs(60);
/// Time for an entry that begins a comparison to be applied here.
const BEGUN: Duration = Duration::from_secs(10);
/// Time for slow replicas to make their digests.
const PATIENCE: Duration = Duration::from_secs(limits::COMPARE_PATIENCE_S);

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use seriatim_proto::admin::{AdminRequest, AdminResponse};

    use super::*;
    use crate::config::StoreConfig;
    use crate::server::StoreServer;
    use seriatim_mtls::Mtls;

    #[test]
    fn who_differs_from_a_majority_is_named_and_nobody_else() {
        let digest = |hash: u8| RowsDigest { index: 7, rows: 3, bytes: 9, hash: [hash; 32] };
        let ids = [1, 2, 3].map(ReplicaId);
        let of = |hashes: &[(u64, u8)]| hashes.iter().map(|(id, hash)| (ReplicaId(*id), digest(*hash))).collect();
        let late = |hashes: &[(u64, u8)]| judge(&ids, &of(hashes), true);
        assert_eq!(judge(&ids, &of(&[(1, 5), (2, 5)]), false), Verdict::Waits);
        assert_eq!(late(&[(1, 5), (2, 5), (3, 5)]), Verdict::Differ(vec![]));
        assert_eq!(late(&[(1, 6), (2, 5), (3, 5)]), Verdict::Differ(vec![ReplicaId(1)]), "a leader too");
        assert_eq!(late(&[(1, 5), (2, 5)]), Verdict::Differ(vec![]));
        assert_eq!(late(&[(1, 5)]), Verdict::TooFew, "alone it says nothing");
        // Two that differ: nobody knows who is right.
        assert_eq!(late(&[(1, 5), (2, 6)]), Verdict::Undecided);
        assert_eq!(late(&[(1, 5), (2, 6), (3, 7)]), Verdict::Undecided);
        // A learner's counts for nothing.
        assert_eq!(late(&[(1, 5), (2, 6), (9, 6), (8, 6)]), Verdict::Undecided);
    }

    #[test]
    fn what_was_compared_is_relied_on_only_for_the_same_voters() {
        let set = |ids: &[u64]| ids.iter().copied().map(ReplicaId).collect::<BTreeSet<_>>();
        let mut rest = Rest::behind(7, set(&[1, 2, 3]), set(&[1, 3]));
        assert!(rest.agreeing(&set(&[1, 2, 3])).is_empty(), "nobody has a digest yet");
        assert!(!rest.is_over(&set(&[1, 2, 3]), &set(&[1, 3])));
        rest.agreed = Some((vec![ReplicaId(1), ReplicaId(3)], Instant::now()));
        assert_eq!(rest.agreeing(&set(&[1, 2, 3])), [ReplicaId(1), ReplicaId(3)]);
        assert!(!rest.is_over(&set(&[1, 2, 3]), &set(&[1, 3])));
        assert!(rest.is_over(&set(&[1, 2, 3]), &set(&[1])), "another one is rotten");
        assert!(rest.is_over(&set(&[1, 3, 9]), &set(&[1, 3])) && rest.agreeing(&set(&[1, 3, 9])).is_empty());
    }

    #[test]
    fn a_new_leader_does_not_judge_what_a_report_was_withdrawn_of() {
        let mut directory = crate::raft::testing::directory_of_a_rebuild();
        let (group, replica) = (directory.rotten[0].group, directory.rotten[0].replica);
        let mut withdrawn = Withdrawn::default();
        withdrawn.look(&directory, |_| 7);
        withdrawn.look(&directory, |_| 8);
        assert_eq!(withdrawn.upto(group), 0, "the report stands");
        let mut rebuilt = directory.clone();
        rebuilt.rotten.clear();
        rebuilt.moves.clear();
        rebuilt.groups.iter_mut().for_each(|record| record.replicas.retain(|known| known.id != replica.id));
        let mut another = Withdrawn { reported: withdrawn.reported.clone(), ..Withdrawn::default() };
        another.look(&rebuilt, |_| 9);
        assert_eq!(another.upto(group), 0, "it ended with its replica");
        directory.rotten.clear();
        withdrawn.look(&directory, |of| if of == group { 9 } else { 99 });
        assert_eq!(withdrawn.upto(group), 9);
        withdrawn.look(&directory, |_| 12);
        assert_eq!(withdrawn.upto(group), 9, "what is compared since is judged");
    }

    #[test]
    fn the_pauses_between_comparisons_of_those_that_differ_double() {
        let set = |ids: &[u64]| ids.iter().copied().map(ReplicaId).collect::<BTreeSet<_>>();
        let (voters, sound) = (set(&[1, 2, 3]), set(&[1, 3]));
        let mut rest = Rest::behind(7, voters.clone(), sound.clone());
        assert_eq!(rest.differ_until(), None);
        for minutes in [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360] {
            let found_at = Instant::now();
            rest.differ_at = Some(found_at);
            assert_eq!(rest.differ_until(), Some(found_at + Duration::from_secs(60) * minutes));
            assert!(!rest.is_over(&voters, &sound));
            assert!(rest.is_over(&voters, &set(&[1])), "one of them is known to be rotten now");
            rest = rest.again(9);
            assert!(rest.differ_at.is_none() && rest.after == 9);
        }
        let mut many = Rest { differed: u32::MAX, differ_at: Some(Instant::now()), ..rest };
        assert!(!many.is_over(&voters, &sound));
        many.differ_at = Instant::now().checked_sub(REST_AGAIN);
        many.differed = 0;
        assert!(many.is_over(&voters, &sound));
        many.differ_at = None;
        assert_eq!(many.again(9).differed, 0, "it was given up for another reason");
    }

    #[test]
    fn a_new_leader_counts_from_the_last_digest() {
        let (begin, hour) = (Instant::now(), Duration::from_secs(3_600));
        let due = |hours: u32, begun: Option<u32>, compared: u32| {
            is_due(begin + hour * hours, begun.map(|at| begin + hour * at), begin + hour * compared, hour * 6)
        };
        assert!(due(6, None, 0) && due(9, None, 3), "though it leads for a moment only");
        assert!(!due(5, None, 0) && !due(8, None, 3));
        assert!(!due(12, Some(7), 0) && due(13, Some(7), 0), "its entry was lost: not again at once");
        assert!(!due(12, Some(1), 7), "another one has begun one since");
    }

    #[test]
    fn what_remains_is_copied_only_if_a_majority_is_there_and_nobody_differs() {
        let digest = |hash: u8| RowsDigest { index: 7, rows: 3, bytes: 9, hash: [hash; 32] };
        let judged = |hashes: &[u8], voters| {
            let digests: Vec<_> = hashes.iter().map(|hash| digest(*hash)).collect();
            judge_rest(&digests.iter().collect::<Vec<_>>(), voters)
        };
        assert_eq!(judged(&[5, 5], 3), RestVerdict::Same);
        assert_eq!(judged(&[5, 6], 3), RestVerdict::Differ);
        assert_eq!(judged(&[5], 3), RestVerdict::Waits);
        assert_eq!(judged(&[], 3), RestVerdict::Waits);
        assert_eq!(judged(&[5, 5, 5], 5), RestVerdict::Same, "one is away");
        assert_eq!(judged(&[5, 5, 5, 6], 5), RestVerdict::Differ);
        assert_eq!(judged(&[5, 5], 5), RestVerdict::Waits);
    }

    #[test]
    fn who_is_past_an_entry_without_a_digest_has_missed_it() {
        let digest = |index| RowsDigest { index, rows: 3, bytes: 9, hash: [5; 32] };
        let misses = |applied_index, done: Option<u64>, digesting| {
            let mut status = crate::raft::testing::group_status();
            (status.applied_index, status.digest, status.digesting) = (applied_index, done.map(digest), digesting);
            has_missed(&status, 7)
        };
        assert!(!misses(6, None, None), "it is not there yet");
        assert!(!misses(7, None, Some(7)) && !misses(9, Some(3), Some(7)), "it is at work");
        assert!(!misses(9, Some(7), None) && !misses(9, Some(8), None) && !misses(9, None, Some(8)));
        assert!(misses(7, None, None) && misses(9, Some(6), None) && misses(9, None, Some(6)));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_replica_with_rows_of_its_own_is_found_and_rebuilt() {
        let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let mut servers = Vec::new();
        for folder in &folders {
            let mut config = StoreConfig::new(folder.path().to_owned(), "127.0.0.1:0".parse().unwrap());
            config.insecure_plaintext = true;
            servers.push(StoreServer::start(config, &mut Registry::default()).await.unwrap());
        }
        let stores: Vec<String> = servers.iter().map(|server| server.address().to_string()).collect();
        let init = AdminRequest::InitCluster { stores: stores.clone(), groups: 1, voters: None };
        let remote = Remote::new(Mtls::plaintext());
        assert!(matches!(remote.admin(&stores[0], &init).await.unwrap(), AdminResponse::Initialised { .. }));
        let group = GroupId(1);
        let deadline = Instant::now() + Duration::from_secs(60);
        let follower = loop {
            let leads = |host: &Host| host.serving(group).ok().map(|replica| replica.leadership().is_some());
            let known: Vec<_> = servers.iter().map(|server| leads(server.host())).collect();
            if known.contains(&Some(true))
                && let Some(follower) = known.iter().position(|leads| *leads == Some(false))
            {
                break follower;
            }
            assert!(Instant::now() < deadline, "nobody leads");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let digests = || {
            let of = |server: &StoreServer| server.host().serving(group).ok().and_then(|replica| replica.live.digest());
            servers.iter().map(of).collect::<Vec<_>>()
        };
        let compare = async || {
            for store in &stores {
                remote.admin(store, &AdminRequest::Compare { groups: vec![group] }).await.unwrap();
            }
        };
        // All are the same at first.
        compare().await;
        while digests().iter().any(|digest| digest.is_none() || *digest != digests()[0]) {
            assert!(Instant::now() < deadline, "{:?}", digests());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let replica = servers[follower].host().serving(group).unwrap().id();
        servers[follower].host().state().spoil(group);
        compare().await;
        loop {
            let directory = servers[(follower + 1) % 3].host().events().directory().borrow().clone().unwrap();
            if directory.is_removed(group, replica) && directory.moves.is_empty() && directory.rotten.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "it is not rebuilt: {directory:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let found: u64 = servers.iter().map(|server| server.host().metrics().compare_differences.get()).sum();
        assert_eq!(found, 1);
        let before = digests().iter().flatten().map(|digest| digest.index).max().unwrap();
        compare().await;
        while digests().iter().any(|digest| digest.is_none_or(|it| it.index <= before) || *digest != digests()[0]) {
            assert!(Instant::now() < deadline, "{:?}", digests());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
