//! Replica: one replica's applied state beside what sync answered.
//!
//! Sync is linearizable and comes first, so a replica must have all of it as soon as it has applied as much as its
//! leader. Until then it is behind, which is no finding; a replica that is not behind and has less, is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use seriatim_proto::ids::{GroupId, Seq, StoreId, UserId};
use seriatim_proto::limits::READ_ROWS_MAX;
use seriatim_proto::store::{Freshness, InboxEntry, Read, ReadOutcome};

use super::Report;
use super::counts::{Listing, count};
use super::walk::Walk;
use crate::failure::Failure;
use crate::output::dash;
use crate::store;
use crate::survey::{GroupView, Survey};
use crate::target::Target;

/// Entries of one source.
#[derive(Clone, Debug)]
pub(super) struct Inbox {
    /// rising by seq
    pub(super) entries: Vec<InboxEntry>,
    /// first kept
    pub(super) trim: Seq,
    /// everything below should be in `entries`
    pub(super) tail: Seq,
    /// the list of conversations at the same moment, of a replica
    pub(super) listing: Option<Listing>,
}

/// How far a replica is that does not have all that sync answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lag {
    /// entries of the group's log that the leader has committed and it has not applied
    Behind(u64),
    /// nobody leads the group, so nobody knows
    Unknown,
    /// it has applied as much as the leader
    None,
}

/// What a replica has, once it has all that sync answered; or after [`CATCH_UP`], with how far it is.
pub(super) async fn caught_up(
    target: &Target,
    (store, address): (StoreId, &str),
    group: GroupId,
    user: &UserId,
    synced: &Inbox,
) -> Result<(Inbox, Option<Lag>), Failure> {
    let deadline = Instant::now() + CATCH_UP;
    loop {
        let inbox = from_replica(target, address, group, user).await?;
        if missing_end(synced, &inbox) == 0 {
            return Ok((inbox, None));
        }
        if Instant::now() >= deadline {
            // How far it is comes first: what it had applied by then, the rows that are read next have.
            let lag = lag(&Survey::take(target.stores()?, &target.link).await, store, group);
            let inbox = from_replica(target, address, group, user).await?;
            let is_whole = missing_end(synced, &inbox) == 0;
            return Ok((inbox, (!is_whole).then_some(lag)));
        }
        tokio::time::sleep(CATCH_UP_PAUSE).await;
    }
}

/// How far the replica of a store is behind its leader.
fn lag(survey: &Survey, store: StoreId, group: GroupId) -> Lag {
    let groups = survey.groups();
    let view = groups.get(&group);
    match (view.and_then(GroupView::leader), view.and_then(|view| view.replicas.get(&store))) {
        (Some((_, leader)), Some(replica)) => match leader.committed_index.saturating_sub(replica.applied_index) {
            0 => Lag::None,
            count => Lag::Behind(count),
        },
        _ => Lag::Unknown,
    }
}

/// Everything that a replica has applied.
async fn from_replica(target: &Target, address: &str, group: GroupId, user: &UserId) -> Result<Inbox, Failure> {
    let mut inbox = Inbox { entries: Vec::new(), trim: Seq::FIRST, tail: Seq::FIRST, listing: None };
    loop {
        let from = inbox.entries.last().map(|entry| entry.seq.next());
        let read = Read::Inbox { tenant: target.tenant, user: user.clone(), from, limit: READ_ROWS_MAX };
        let ReadOutcome::Inbox { state, entries: rows } = ask(target, address, group, read).await? else {
            return Err(Failure::internal(OTHERWISE));
        };
        if let Some(state) = state {
            (inbox.trim, inbox.tail) = (state.trim, state.tail);
        }
        if from.is_some_and(|from| from < inbox.trim) {
            // Trimmed since the last page: what comes now does not follow from it.
            inbox.entries.clear();
            continue;
        }
        if rows.is_empty() {
            inbox.listing = listing(target, address, group, user, inbox.tail).await?;
            // Whatever changes the list of conversations is an entry of the inbox, too.
            if inbox.listing.is_some() {
                return Ok(inbox);
            }
        }
        inbox.entries.extend(rows);
    }
}

/// The list of conversations as it was when the inbox's tail was `tail`; `None` if that has risen.
async fn listing(
    target: &Target,
    address: &str,
    group: GroupId,
    user: &UserId,
    tail: Seq,
) -> Result<Option<Listing>, Failure> {
    let mut listing = Listing::default();
    loop {
        let after = listing.list.last().map(|listed| listed.conversation.clone());
        let read = Read::List { tenant: target.tenant, user: user.clone(), after, limit: READ_ROWS_MAX / 2 };
        let ReadOutcome::List { state, read, list } = ask(target, address, group, read).await? else {
            return Err(Failure::internal(OTHERWISE));
        };
        if state.map_or(Seq::FIRST, |state| state.tail) != tail {
            return Ok(None);
        }
        listing.read = read;
        if list.is_empty() {
            return Ok(Some(listing));
        }
        listing.list.extend(list);
    }
}

/// One read of a replica's applied state.
async fn ask(target: &Target, address: &str, group: GroupId, read: Read) -> Result<ReadOutcome, Failure> {
    let answer = store::read(address, group, Freshness::Stale, vec![read], &target.link).await?;
    let outcomes = answer.map_err(|refusal| Failure::unreachable(format!("the replica refused: {refusal}")))?;
    outcomes.into_iter().next().ok_or_else(|| Failure::internal(OTHERWISE))
}

/// How many of the entries that sync answered lie above all that the replica has.
fn missing_end(synced: &Inbox, replica: &Inbox) -> usize {
    let last = replica.entries.last().map(|entry| entry.seq);
    let above = |entry: &&InboxEntry| Some(entry.seq) > last && entry.seq >= replica.trim;
    synced.entries.iter().filter(above).count()
}

/// A replica may be ahead of the sync that was read before, and it may be behind if it has not applied as much as the
/// leader. Where both should have entries, they have them and they are the same.
pub(super) fn compare(synced: &Inbox, replica: &Inbox, lag: Option<Lag>, report: &mut Report) {
    let mut walk = Walk::from(replica.trim);
    for entry in &replica.entries {
        walk.step(entry, report);
    }
    if let Some(listing) = &replica.listing {
        count(&replica.entries, replica.trim, listing, report);
    }
    let Some(last) = replica.entries.last().map(|entry| entry.seq) else {
        if replica.tail > Seq::FIRST && replica.trim < replica.tail {
            report.find(format!(
                "the replica has no entries, and its own row says that they reach up to {}",
                replica.tail
            ));
        }
        return end(synced, replica, lag, report);
    };
    if last.next() != replica.tail {
        report.find(format!(
            "the replica's last entry is {last}, and its own row says that its tail is {}",
            replica.tail
        ));
    }
    let theirs: BTreeMap<Seq, &InboxEntry> = replica.entries.iter().map(|entry| (entry.seq, entry)).collect();
    let ours: BTreeMap<Seq, &InboxEntry> = synced.entries.iter().map(|entry| (entry.seq, entry)).collect();
    for (seq, entry) in &ours {
        let same = |other: &InboxEntry| InboxEntry { messages: entry.messages, ..other.clone() } == **entry;
        if theirs.get(seq).is_some_and(|other| !same(other)) {
            report.find(format!("entry {seq} differs between sync and replica"));
        }
    }
    // Below the end of what it has, an entry that is not there is no lag.
    let kept = |seq: &Seq| *seq >= replica.trim.max(synced.trim);
    let lost: Vec<&Seq> = ours.keys().filter(|seq| kept(seq) && **seq < last && !theirs.contains_key(seq)).collect();
    if let Some(first) = lost.first() {
        report.find(format!("{} entries of sync are not in the replica, the first is {first}", lost.len()));
    }
    let strange: Vec<&Seq> =
        theirs.keys().filter(|seq| kept(seq) && **seq < synced.tail && !ours.contains_key(seq)).collect();
    if let Some(first) = strange.first() {
        report.find(format!("{} entries of the replica are not in sync, the first is {first}", strange.len()));
    }
    end(synced, replica, lag, report);
}

/// A replica that ends before sync does and is not behind has lost something.
fn end(synced: &Inbox, replica: &Inbox, lag: Option<Lag>, report: &mut Report) {
    if lag == Some(Lag::None) {
        let (last, count) = (dash(replica.entries.last().map(|entry| entry.seq)), missing_end(synced, replica));
        report.find(format!(
            "the replica ends at {last}, {count} entries before sync does, and has applied as much as the leader"
        ));
    }
}

const OTHERWISE: &str = "the replica answered something else than was asked";
/// How long a replica may take to apply what sync answered before it is called behind, or wrong.
const CATCH_UP: Duration = Duration::from_secs(5);
/// Pause before it is read again.
const CATCH_UP_PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::super::walk::tests::inbox;
    use super::*;

    fn copy(entries: &[InboxEntry]) -> Inbox {
        let tail = entries.last().map_or(Seq::FIRST, |entry| entry.seq.next());
        Inbox { entries: entries.to_vec(), trim: Seq::FIRST, tail, listing: None }
    }

    /// How many findings there are.
    fn compared(synced: &Inbox, replica: &Inbox, lag: Option<Lag>) -> usize {
        let mut report = Report::default();
        compare(synced, replica, lag, &mut report);
        report.all.len()
    }

    #[test]
    fn a_replica_with_the_same_entries_or_more_is_whole() {
        let (synced, more) = (copy(&inbox(5)), copy(&inbox(7)));
        assert_eq!((missing_end(&synced, &synced), compared(&synced, &synced, None)), (0, 0));
        assert_eq!((missing_end(&synced, &more), compared(&synced, &more, None)), (0, 0));
    }

    #[test]
    fn a_replica_that_ends_early_is_behind_or_has_lost_something() {
        let synced = copy(&inbox(5));
        for short in [copy(&inbox(3)), copy(&[])] {
            assert_eq!(missing_end(&synced, &short), 5 - short.entries.len());
            assert_eq!(compared(&synced, &short, Some(Lag::Behind(2))), 0);
            assert_eq!(compared(&synced, &short, Some(Lag::Unknown)), 0);
            assert_eq!(compared(&synced, &short, Some(Lag::None)), 1);
        }
    }

    #[test]
    fn a_replica_whose_row_knows_of_more_has_lost_something_however_far_it_is() {
        let (synced, mut short) = (copy(&inbox(5)), copy(&inbox(3)));
        short.tail = synced.tail;
        assert_eq!(compared(&synced, &short, Some(Lag::Behind(2))), 1);
        short.entries.clear();
        assert_eq!(compared(&synced, &short, Some(Lag::Behind(2))), 1);
    }

    #[test]
    fn an_entry_that_only_one_has_or_that_differs_is_found() {
        let synced = copy(&inbox(5));
        let mut other = synced.clone();
        other.entries[4].entry.at_ms += 1;
        // Its chain is broken, and it differs.
        assert_eq!(compared(&synced, &other, None), 2);
        let (mut without, whole) = (synced.clone(), synced.clone());
        without.entries.remove(2);
        let mut walked = Report::default();
        let mut walk = Walk::default();
        without.entries.iter().for_each(|entry| walk.step(entry, &mut walked));
        assert_eq!(compared(&synced, &without, None), walked.all.len() + 1);
        assert_eq!(compared(&without, &whole, None), 1);
    }

    #[test]
    fn entries_that_were_trimmed_meanwhile_are_not_missed() {
        let synced = copy(&inbox(5));
        let mut trimmed = copy(&[]);
        trimmed.trim = synced.tail;
        trimmed.tail = synced.tail;
        assert_eq!((missing_end(&synced, &trimmed), compared(&synced, &trimmed, None)), (0, 0));
    }
}
