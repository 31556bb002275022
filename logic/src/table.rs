//! Table: who holds which slot, which group owns it, and how other nodes are reached, as far as this node knows.
//!
//! Fed by the watches of all stores and by our own claims. Rows are only ever replaced by later ones, so a store that
//! lags changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::RwLock;
use seriatim_logic_core::placement;
use seriatim_proto::ids::{GroupId, NodeId, SlotId};
use seriatim_proto::limits;
use seriatim_proto::logic::{GatewayResponse, HolderTable};
use seriatim_proto::meta::{Directory, NodeKind};
use seriatim_proto::store::HolderRow;
use tokio::sync::Notify;

use crate::streams::Streams;

/// Shared by all parts of the node.
#[derive(Debug)]
pub(crate) struct Table {
    state: RwLock<State>,
    /// for the node task: rows or nodes changed
    pub(crate) changed: Notify,
}

#[derive(Debug)]
struct State {
    rows: Vec<Option<HolderRow>>,
    groups: Vec<Option<GroupId>>,
    nodes: BTreeMap<NodeId, String>,
    /// not yet seen by the node task
    fresh: BTreeSet<SlotId>,
}

impl Table {
    /// Knows nothing.
    pub(crate) fn new() -> Self {
        let slots = usize::from(limits::SLOTS);
        let state =
            State { rows: vec![None; slots], groups: vec![None; slots], nodes: BTreeMap::new(), fresh: BTreeSet::new() };
        Self { state: RwLock::new(state), changed: Notify::new() }
    }

    /// The row of a slot.
    pub(crate) fn row(&self, slot: SlotId) -> Option<HolderRow> {
        self.state.read().rows.get(usize::from(slot.0)).copied().flatten()
    }

    /// The group that owns a slot, as the directory has it.
    pub(crate) fn group(&self, slot: SlotId) -> Option<GroupId> {
        self.state.read().groups.get(usize::from(slot.0)).copied().flatten()
    }

    /// Who holds a slot, and which group owns it.
    pub(crate) fn route(&self, slot: SlotId) -> Option<(NodeId, GroupId)> {
        let state = self.state.read();
        let place = usize::from(slot.0);
        Some((state.rows.get(place).copied().flatten()?.holder?, state.groups.get(place).copied().flatten()?))
    }

    /// Live logic nodes and where they are.
    pub(crate) fn nodes(&self) -> BTreeMap<NodeId, String> {
        self.state.read().nodes.clone()
    }

    /// Takes rows; those that changed go to the gateways and to the node task.
    pub(crate) fn set_rows(&self, rows: Vec<HolderRow>, streams: &Streams) {
        let mut state = self.state.write();
        let mut changed = Vec::new();
        for row in rows {
            let Some(place) = state.rows.get_mut(usize::from(row.slot.0)) else { continue };
            if place.as_ref().is_none_or(|old| placement::replaces(&row, old)) {
                *place = Some(row);
                state.fresh.insert(row.slot);
                changed.push(row);
            }
        }
        if !changed.is_empty() {
            // Under the lock, so that no stream gets an older table after a newer row.
            streams.broadcast(&GatewayResponse::Table(HolderTable { rows: changed, nodes: None }));
            self.changed.notify_one();
        }
    }

    /// Takes the directory.
    pub(crate) fn set_directory(&self, directory: &Directory, streams: &Streams) {
        let mut state = self.state.write();
        for group in &directory.groups {
            for slot in group.slots.iter().flat_map(|range| range.first.0..range.end.0) {
                if let Some(place) = state.groups.get_mut(usize::from(slot)) {
                    *place = Some(group.id);
                }
            }
        }
        let nodes: BTreeMap<NodeId, String> = directory
            .nodes
            .iter()
            .filter(|node| node.kind == NodeKind::Logic)
            .map(|node| (node.id, node.address.clone()))
            .collect();
        if nodes != state.nodes {
            state.nodes = nodes;
            let nodes = Some(state.nodes.clone().into_iter().collect());
            streams.broadcast(&GatewayResponse::Table(HolderTable { rows: Vec::new(), nodes }));
            self.changed.notify_one();
        }
    }

    /// Rows that changed since the last call.
    pub(crate) fn take_fresh(&self) -> Vec<HolderRow> {
        let mut state = self.state.write();
        let fresh = std::mem::take(&mut state.fresh);
        fresh.into_iter().filter_map(|slot| state.rows[usize::from(slot.0)]).collect()
    }

    /// All rows, as fresh: for a node that starts over under another id.
    pub(crate) fn refresh(&self) {
        let mut state = self.state.write();
        let slots: Vec<SlotId> = state.rows.iter().flatten().map(|row| row.slot).collect();
        state.fresh.extend(slots);
    }

    /// Sends the whole table to one stream.
    pub(crate) fn send_whole(&self, stream: u64, streams: &Streams) {
        let state = self.state.read();
        let rows = state.rows.iter().flatten().copied().collect();
        let nodes = Some(state.nodes.clone().into_iter().collect());
        streams.send(stream, GatewayResponse::Table(HolderTable { rows, nodes }));
    }
}
