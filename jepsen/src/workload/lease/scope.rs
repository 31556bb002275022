//! Scope: what pretenders quarrel over: one conversation, and which epochs of its slot were seen.

use parking_lot::Mutex;
use seriatim_proto::ids::{ConversationId, Epoch, GroupId, Namespace, Seq, SlotId, TenantId};
use seriatim_proto::store::{HolderRow, Read, ReadOutcome};

use crate::history::{Ended, Function, Op};
use crate::workload::site::TENANT;
use crate::workload::stage::Stage;
use crate::workload::stores::Stores;

/// One conversation that nobody else uses.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) key: String,
    pub(super) slot: SlotId,
    pub(super) group: GroupId,
    pub(super) conversation: ConversationId,
    seen: Mutex<Seen>,
}

/// The newest epoch that was seen.
#[derive(Clone, Copy, Default, Debug)]
struct Seen {
    epoch: u64,
    /// when the last operation was called that found no newer one: whatever came then came later
    at: u64,
}

/// A slot and its conversation at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    pub(super) row: HolderRow,
    /// end of all that is reserved
    pub(super) ceiling: Seq,
    /// under which the conversation was last reserved in
    pub(super) reserved: Option<Epoch>,
}

impl Scope {
    pub(super) fn new(key: &str, slot: SlotId, group: GroupId, conversation: ConversationId) -> Scope {
        Scope { key: key.to_owned(), slot, group, conversation, seen: Mutex::default() }
    }

    pub(super) fn namespace(&self) -> Namespace {
        Namespace::conversation(TenantId(TENANT), self.conversation.clone())
    }

    /// The epoch ruled at some moment behind this call. For a newer one than was known: since when it may have begun.
    pub(super) fn saw(&self, epoch: Epoch, call: u64) -> Option<u64> {
        let mut seen = self.seen.lock();
        if epoch.0 < seen.epoch {
            return None;
        }
        let since = (epoch.0 > seen.epoch).then_some(seen.at);
        *seen = Seen { epoch: epoch.0, at: if since.is_some() { call } else { seen.at.max(call) } };
        since
    }

    /// Is this epoch known to be over?
    pub(super) fn is_over(&self, epoch: Epoch) -> bool {
        self.seen.lock().epoch > epoch.0
    }

    /// Looks, and writes down a claim of somebody else that nobody has written down yet: a grant of nothing, which
    /// raised the epoch.
    pub(super) async fn look(&self, stage: &Stage, stores: &Stores) -> Option<Sight> {
        let call = stage.clock.now();
        let reads = [Read::Holder(self.slot), Read::Namespace(self.namespace())];
        let outcomes = stores.read(self.group, &reads).await.ok()?;
        let [ReadOutcome::Holder(row), ReadOutcome::Namespace(namespace)] = outcomes.as_slice() else { return None };
        let ceiling = namespace.as_ref().map_or(Seq::FIRST, |namespace| namespace.ceiling);
        let sight = Sight { row: *row, ceiling, reserved: namespace.as_ref().map(|namespace| namespace.epoch) };
        if let Some(since) = self.saw(row.epoch, call) {
            let interval = (since, stage.clock.now());
            let process = stage.process();
            let op = Op::new(process.number(), &self.key, Function::Lease, interval, Ended::Ok);
            stage.notebook.op(&granted(op, row.epoch, ceiling, ceiling));
        }
        Some(sight)
    }
}

/// A grant of `[lo, hi)`.
pub(super) fn granted(op: Op, epoch: Epoch, lo: Seq, hi: Seq) -> Op {
    Op { epoch: Some(epoch.0), lo: Some(lo.get()), hi: Some(hi.get()), ..op }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seriatim_proto::ids::ConversationKey;

    #[test]
    fn a_new_epoch_began_behind_the_last_moment_that_knew_none() {
        let scope = Scope::new("scope", SlotId(1), GroupId(1), ConversationId::Group(ConversationKey([1; 16])));
        assert_eq!(scope.saw(Epoch(3), 10), Some(0), "nothing was known before");
        assert_eq!(scope.saw(Epoch(3), 30), None);
        assert_eq!(scope.saw(Epoch(3), 20), None, "an older sight takes nothing back");
        assert!(!scope.is_over(Epoch(3)));
        assert_eq!(scope.saw(Epoch(5), 40), Some(30));
        assert_eq!(scope.saw(Epoch(4), 50), None, "an older epoch is no news");
        assert!(scope.is_over(Epoch(4)) && !scope.is_over(Epoch(5)));
    }
}
