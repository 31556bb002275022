//! Stores: leases, claims, proposals and reads, and what became of each.

use std::time::Duration;

use bytes::Bytes;
use seriatim_logic_core::{Event, Placement};
use seriatim_proto::chaos::{self, Point};
use seriatim_proto::codec;
use seriatim_proto::command::{Command, Outcome, Reject};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{Epoch, GroupId, LeaseId, NodeId, SlotId, StoreId};
use seriatim_proto::limits;
use seriatim_proto::meta::{MetaCommand, MetaOutcome, NodeKind};
use seriatim_proto::store::{
    Freshness, HolderRow, Read, ReadOutcome, Renewal, StoreRefusal, StoreRequest, StoreResponse,
};

use super::{Brain, HolderKey, Input, Standing};
use crate::batcher::CommandOf;
use crate::clock;

/// Slots that one tick gives to their first choice.
const RELEASES_PER_TICK: usize = 64;

/// Whose read it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadOf {
    pub(crate) key: HolderKey,
    pub(crate) id: u64,
}

/// What was asked of a store, until it is answered or its connection is gone.
#[derive(Debug)]
pub(crate) struct Asked {
    connection: u64,
    store: StoreId,
    group: GroupId,
    sent_ms: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    OpenNode,
    OpenLease(NodeId),
    CloseLease,
    Claims(Vec<(SlotId, Epoch)>, LeaseId),
    Commands(Vec<CommandOf>),
    Read(ReadOf),
    Renew(GroupId, LeaseId),
}

fn unavailable() -> StoreRefusal {
    StoreRefusal::Refused(Refusal::new(ErrorCode::Unavailable, "no store of the group answers"))
}

impl Brain {
    pub(super) fn tick(&mut self, now_ms: u64) {
        let Some(directory) = self.stores.topology.directory() else { return };
        if self.draining {
            self.renew(now_ms);
            return;
        }
        let Some(placement) = &self.placement else {
            if self.leases.start_opening(GroupId::META, now_ms) {
                let command = MetaCommand::OpenNode { kind: NodeKind::Logic, address: self.advertise.clone() };
                self.propose_own(GroupId::META, &[Command::Meta(command)], What::OpenNode);
            }
            return;
        };
        let _ = placement;
        let node = self.standing.borrow().map(|standing| standing.node);
        for record in directory.groups.iter().filter(|record| record.id != GroupId::META) {
            if let Some(node) = node.filter(|_| self.leases.start_opening(record.id, now_ms)) {
                self.propose_own(record.id, &[Command::OpenLease { node }], What::OpenLease(node));
            }
        }
        self.renew(now_ms);
        self.claim(now_ms);
        let releases = self.placement.as_mut().map(|placement| placement.releases(now_ms, RELEASES_PER_TICK));
        for (slot, heir) in releases.into_iter().flatten() {
            self.handle(slot, Event::Release { heir: Some(heir) });
        }
        self.tell_gateways(now_ms);
        self.drop_overdue_deliveries(now_ms);
        let overdue = |asked: &Asked| asked.sent_ms + limits::STORE_TIMEOUT_MS < now_ms;
        let lost: Vec<u64> = self.asked.iter().filter(|(_, asked)| overdue(asked)).map(|(id, _)| *id).collect();
        lost.into_iter().for_each(|id| self.fail(id));
    }

    fn claim(&mut self, now_ms: u64) {
        let Some(placement) = &mut self.placement else { return };
        let mut by_group: std::collections::BTreeMap<GroupId, Vec<(SlotId, Epoch)>> = std::collections::BTreeMap::new();
        for (slot, seen) in placement.claims(now_ms) {
            let group = self.stores.topology.group_of(slot).filter(|group| self.leases.get(*group).is_some());
            match group {
                Some(group) => by_group.entry(group).or_default().push((slot, seen)),
                None => placement.claim_failed(slot),
            }
        }
        if !by_group.is_empty() {
            chaos::hit(Point::ClaimSend);
        }
        for (group, claims) in by_group {
            let Some(lease) = self.leases.get(group) else { continue };
            for claims in claims.chunks(limits::ENTRY_COMMANDS_MAX as usize / 4) {
                let commands: Vec<Command> = claims
                    .iter()
                    .map(|(slot, seen)| Command::Claim { slot: *slot, lease: lease.id, seen: *seen })
                    .collect();
                self.claiming.extend(claims.iter().map(|(slot, _)| *slot));
                self.propose_own(group, &commands, What::Claims(claims.to_vec(), lease.id));
            }
        }
    }

    fn renew(&mut self, now_ms: u64) {
        if self.renewed_ms + limits::LEASE_RENEW_MS > now_ms {
            return;
        }
        self.renewed_ms = now_ms;
        chaos::hit(Point::RenewSend);
        // A request is answered when all its leases are: each has its own, so that a group without a quorum holds up
        // nobody else's. They share packets.
        for (group, lease) in self.leases.all().collect::<Vec<_>>() {
            let Some((store, link)) = self.stores.topology.leader_link(group) else { continue };
            let id = self.id();
            if link.queue.try_send(StoreRequest::Renew { id, leases: vec![(group, lease)] }).is_ok() {
                let what = What::Renew(group, lease);
                self.asked.insert(id, Asked { connection: link.connection, store, group, sent_ms: now_ms, what });
            }
        }
    }

    /// Proposes commands of the node itself, in an entry of their own.
    fn propose_own(&mut self, group: GroupId, commands: &[Command], what: What) {
        let count = u32::try_from(commands.len()).expect("few commands");
        let batch = codec::encode_bytes(&commands);
        self.propose(group, count, batch, what);
    }

    fn propose(&mut self, group: GroupId, count: u32, batch: Bytes, what: What) {
        let id = self.id();
        let link = self.stores.topology.leader_link(group);
        let sent_ms = clock::boot_ms();
        let store = link.as_ref().map_or(StoreId(0), |(store, _)| *store);
        let connection = link.as_ref().map_or(0, |(_, link)| link.connection);
        self.asked.insert(id, Asked { connection, store, group, sent_ms, what });
        let sent = link
            .is_some_and(|(_, link)| link.queue.try_send(StoreRequest::Propose { id, group, count, batch }).is_ok());
        if !sent {
            self.fail(id);
        }
    }

    pub(super) fn flush_proposals(&mut self) {
        while let Some((group, of, batch)) = self.batcher.next() {
            chaos::hit(Point::CommandsSend);
            self.metrics.proposals.inc();
            self.metrics.commands.inc_by(of.len() as u64);
            let count = u32::try_from(of.len()).expect("an entry has few commands");
            self.propose(group, count, batch, What::Commands(of));
        }
    }

    pub(super) fn ask_read(&mut self, group: GroupId, of: ReadOf, read: Read) {
        let id = self.id();
        let sent_ms = clock::boot_ms();
        let link = self.stores.topology.leader_link(group);
        let store = link.as_ref().map_or(StoreId(0), |(store, _)| *store);
        let connection = link.as_ref().map_or(0, |(_, link)| link.connection);
        self.asked.insert(id, Asked { connection, store, group, sent_ms, what: What::Read(of) });
        self.metrics.reads.inc();
        let request = StoreRequest::Read { id, group, freshness: Freshness::Linearizable, reads: vec![read] };
        if link.is_none_or(|(_, link)| link.queue.try_send(request).is_err()) {
            self.fail(id);
        }
    }

    pub(super) fn on_store(&mut self, response: StoreResponse) {
        match response {
            StoreResponse::Proposed { id, result } => {
                if let Some(asked) = self.asked.remove(&id) {
                    self.on_proposed(asked, result);
                }
            }
            StoreResponse::Reads { id, result } => {
                if let Some(asked) = self.asked.remove(&id) {
                    self.on_read(&asked, result);
                }
            }
            StoreResponse::Renewed { id, results } => {
                if let Some(asked) = self.asked.remove(&id) {
                    self.on_renewed(&asked, &results);
                }
            }
            StoreResponse::Welcome { .. } | StoreResponse::Event(_) => {}
        }
    }

    pub(super) fn on_store_down(&mut self, connection: u64) {
        let lost: Vec<u64> =
            self.asked.iter().filter(|(_, asked)| asked.connection == connection).map(|(id, _)| *id).collect();
        lost.into_iter().for_each(|id| self.fail(id));
    }

    /// Another store leads now: what an older leader has not answered is asked again.
    pub(super) fn on_leads(&mut self, group: GroupId, store: StoreId) {
        let lost = |asked: &Asked| {
            asked.group == group && asked.store != store && matches!(asked.what, What::Commands(_) | What::Read(_))
        };
        let lost: Vec<u64> = self.asked.iter().filter(|(_, asked)| lost(asked)).map(|(id, _)| *id).collect();
        lost.into_iter().for_each(|id| self.fail(id));
    }

    /// No answer: nobody knows what became of it.
    fn fail(&mut self, id: u64) {
        let Some(asked) = self.asked.remove(&id) else { return };
        match asked.what {
            What::Read(_) => self.on_read(&asked, Err(unavailable())),
            What::Renew(..) => {}
            _ => self.on_proposed(asked, Err(unavailable())),
        }
    }

    fn heed(&self, asked: &Asked, refusal: &StoreRefusal) {
        if let StoreRefusal::NotLeader { leader } = refusal {
            self.stores.topology.set_leader(asked.group, *leader, Some(asked.store));
        }
    }

    fn on_proposed(&mut self, asked: Asked, result: Result<Vec<Outcome>, StoreRefusal>) {
        if let Err(refusal) = &result {
            self.metrics.proposals_failed.inc();
            self.heed(&asked, refusal);
        }
        let single =
            |result: Result<Vec<Outcome>, StoreRefusal>| result.ok().and_then(|outcomes| outcomes.into_iter().next());
        match asked.what {
            What::Commands(of) => {
                if result.is_ok() {
                    chaos::hit(Point::CommandsOutcome);
                }
                self.metrics
                    .proposal_seconds
                    .observe(Duration::from_millis(clock::boot_ms() - asked.sent_ms).as_secs_f64());
                self.batcher.landed(asked.group);
                self.on_commands(of, result);
            }
            What::Claims(claims, lease) => self.on_claims(asked.group, &claims, lease, result.ok()),
            What::OpenNode => match single(result) {
                // An answer that comes late, when the node has an id: that one is given back.
                Some(Outcome::Meta(MetaOutcome::Opened(record))) if self.placement.is_some() => {
                    self.close_lease(GroupId::META, record.lease);
                }
                Some(Outcome::Meta(MetaOutcome::Opened(record))) => {
                    self.on_node_opened(record.id, record.lease, asked.sent_ms)
                }
                _ => self.leases.opening_failed(GroupId::META),
            },
            What::OpenLease(node) => {
                let ours = self.standing.borrow().is_some_and(|standing| standing.node == node);
                match single(result) {
                    // A lease of an id that this process had before, or a second one: nobody may claim under it.
                    Some(Outcome::Leased(lease)) if !ours || self.leases.get(asked.group).is_some() => {
                        self.close_lease(asked.group, lease);
                    }
                    Some(Outcome::Leased(lease)) => self.leases.opened(asked.group, lease, asked.sent_ms),
                    _ if ours => self.leases.opening_failed(asked.group),
                    _ => {}
                }
            }
            What::CloseLease | What::Read(_) | What::Renew(..) => {}
        }
    }

    fn on_commands(&mut self, of: Vec<CommandOf>, result: Result<Vec<Outcome>, StoreRefusal>) {
        match result {
            Ok(outcomes) if outcomes.len() == of.len() => {
                for (of, outcome) in of.into_iter().zip(outcomes) {
                    self.handle_under(
                        HolderKey { slot: of.slot, epoch: of.epoch },
                        Event::Outcome { n: of.n, outcome },
                    );
                }
            }
            result => {
                let refusal = match result {
                    Err(StoreRefusal::Refused(refusal)) => refusal,
                    Err(StoreRefusal::NotLeader { .. }) => {
                        Refusal::new(ErrorCode::NotLeader, "another store leads the group")
                    }
                    Ok(_) => Refusal::new(ErrorCode::Internal, "the store answered another number of commands"),
                };
                for of in of {
                    let event = Event::ProposeFailed { n: of.n, refusal: refusal.clone() };
                    self.handle_under(HolderKey { slot: of.slot, epoch: of.epoch }, event);
                }
            }
        }
    }

    fn on_claims(
        &mut self,
        group: GroupId,
        claims: &[(SlotId, Epoch)],
        lease: LeaseId,
        outcomes: Option<Vec<Outcome>>,
    ) {
        let node = self.standing.borrow().map(|standing| standing.node);
        let ours = self.leases.get(group).is_some_and(|open| open.id == lease);
        let outcomes = outcomes.filter(|outcomes| outcomes.len() == claims.len());
        for (place, (slot, seen)) in claims.iter().enumerate() {
            match outcomes.as_ref().map(|outcomes| &outcomes[place]) {
                Some(Outcome::Claimed { epoch }) if ours => {
                    // The holder first: a row that names this node without a holder is claimed again.
                    self.start_holder(*slot, *epoch, *seen);
                    self.on_row(HolderRow { slot: *slot, epoch: *epoch, holder: node, lease: Some(lease), heir: None });
                }
                other => {
                    if let Some(Outcome::Rejected(Reject::LeaseGone)) = other {
                        self.lose_lease(group, lease);
                    }
                    if let Some(placement) = &mut self.placement {
                        placement.claim_failed(*slot);
                    }
                }
            }
            // Only now: until here a row that names us is no reason to claim again.
            self.claiming.remove(slot);
            // The answer was lost and the row was not: it is claimed again, since nobody else will.
            if !self.holders.contains_key(slot) {
                self.free_own_row(*slot);
            }
        }
    }

    /// Gives a lease back that is of no use here; if the store does not hear it, it expires.
    fn close_lease(&mut self, group: GroupId, lease: LeaseId) {
        self.propose_own(group, &[Command::CloseLease { lease }], What::CloseLease);
    }

    fn on_node_opened(&mut self, node: NodeId, lease: LeaseId, sent_ms: u64) {
        let Some(directory) = self.stores.topology.directory() else { return };
        self.leases.opened(GroupId::META, lease, sent_ms);
        let mut placement = Placement::new(node);
        let now_ms = clock::boot_ms();
        for row in self.rows.values() {
            placement.set_row(now_ms, *row);
        }
        self.placement = Some(placement);
        let standing = Standing { cluster: directory.cluster, generation: directory.generation, node };
        self.standing.send_replace(Some(standing));
        tracing::info!(node = %node, "node opened");
        self.on_directory();
    }

    fn on_read(&mut self, asked: &Asked, result: Result<Vec<ReadOutcome>, StoreRefusal>) {
        let What::Read(of) = asked.what else { return };
        if let Err(refusal) = &result {
            self.heed(asked, refusal);
        }
        let outcome = result.ok().and_then(|outcomes| outcomes.into_iter().next());
        let outcome = outcome.filter(|outcome| *outcome != ReadOutcome::WrongGroup);
        self.handle_under(of.key, Event::ReadDone { id: of.id, outcome });
    }

    fn on_renewed(&mut self, asked: &Asked, results: &[Renewal]) {
        let (What::Renew(group, lease), [result]) = (&asked.what, results) else { return };
        match result {
            Renewal::Renewed => {
                self.metrics.renewals.inc();
                self.leases.renewed(*group, *lease, asked.sent_ms);
            }
            Renewal::Gone => self.lose_lease(*group, *lease),
            Renewal::NotLeader { leader } => {
                self.stores.topology.set_leader(*group, *leader, Some(asked.store));
                self.renewed_ms = 0;
            }
            Renewal::Unavailable => {}
        }
    }

    fn lose_lease(&mut self, group: GroupId, lease: LeaseId) {
        if !self.leases.gone(group, lease) {
            return;
        }
        self.metrics.leases_lost.inc();
        tracing::warn!(group = %group, "lease lost");
        let all = group == GroupId::META;
        if all {
            // The node's id is gone with it: what it holds under leases of the old id ends, and a new node opens.
            self.leases.clear();
            self.placement = None;
            self.standing.send_replace(None);
        }
        let slots: Vec<SlotId> =
            self.holders.iter().filter(|(_, held)| all || held.group == group).map(|(slot, _)| *slot).collect();
        for slot in slots {
            self.handle(slot, Event::LeaseGone);
        }
    }

    pub(super) fn on_row(&mut self, row: HolderRow) {
        let newer = self.rows.get(&row.slot).is_none_or(|old| seriatim_logic_core::placement::replaces(&row, old));
        if newer {
            self.rows.insert(row.slot, row);
            self.changed_rows.insert(row.slot, row);
        }
        if let Some(placement) = &mut self.placement {
            placement.set_row(clock::boot_ms(), row);
        }
        if let Some(held) = self.holders.get(&row.slot) {
            if held.holder.epoch() < row.epoch {
                self.handle(row.slot, Event::LeaseGone);
            }
        } else if !self.claiming.contains(&row.slot) {
            self.free_own_row(row.slot);
        }
    }

    pub(super) fn on_directory(&mut self) {
        let Some(directory) = self.stores.topology.directory() else { return };
        self.stores.connect(directory.stores.iter().map(|store| store.address.clone()));
        if self.quotas.lock().set_tenants(&directory.tenants) {
            tracing::info!(tenants = directory.tenants.len(), "limits of tenants changed");
        }
        self.nodes_changed = true;
        let now_ms = clock::boot_ms();
        let nodes: Vec<_> =
            directory.nodes.iter().filter(|node| node.kind == NodeKind::Logic).map(|node| node.id).collect();
        if let Some(placement) = &mut self.placement {
            placement.set_nodes(now_ms, &nodes);
        }
    }

    pub(super) fn start_draining(&mut self) {
        let slots: Vec<SlotId> = self.holders.keys().copied().collect();
        for slot in slots {
            let heir = self.placement.as_ref().and_then(|placement| placement.heir(slot));
            self.handle(slot, Event::Release { heir });
        }
    }

    /// Ends this node's leases; whether the stores hear it only decides how soon others may claim.
    pub(super) async fn close_leases(&mut self) {
        for (group, lease) in self.leases.all().collect::<Vec<_>>() {
            self.close_lease(group, lease);
        }
        let until = tokio::time::Instant::now() + Duration::from_millis(500);
        while self.asked.values().any(|asked| matches!(asked.what, What::CloseLease)) {
            match tokio::time::timeout_at(until, self.inputs.recv()).await {
                Ok(Some(Input::Store(response))) => self.on_store(response),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }
}
