//! Topology: who leads which group and how stores are reached, as the stores said last. Shared by the node's task and
//! by reads; a wrong entry costs one refused request.

use std::collections::{BTreeMap, HashMap};

use parking_lot::RwLock;
use seriatim_proto::ids::{GroupId, SlotId, StoreId};
use seriatim_proto::limits;
use seriatim_proto::meta::Directory;
use seriatim_proto::store::StoreRequest;
use tokio::sync::mpsc;

/// The door to one store: its queue, and the number of the connection behind it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) queue: mpsc::Sender<StoreRequest>,
    pub(crate) connection: u64,
}

#[derive(Debug, Default)]
struct Inner {
    /// the newest that any store has shown: stores may be behind each other, and behind themselves after a restart
    directory: Option<Directory>,
    leaders: BTreeMap<GroupId, StoreId>,
    links: HashMap<String, Link>,
    groups_of_slots: Vec<Option<GroupId>>,
    tries: u64,
}

impl Inner {
    /// True if it is newer than the one in use.
    fn take(&mut self, directory: Directory) -> bool {
        let age = |directory: &Directory| (directory.generation, directory.revision);
        if self.directory.as_ref().is_some_and(|known| age(&directory) <= age(known)) {
            return false;
        }
        let mut groups = vec![None; usize::from(limits::SLOTS)];
        for group in &directory.groups {
            for range in &group.slots {
                for slot in range.first.0..range.end.0.min(limits::SLOTS) {
                    groups[usize::from(slot)] = Some(group.id);
                }
            }
        }
        self.groups_of_slots = groups;
        self.directory = Some(directory);
        true
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Topology {
    inner: RwLock<Inner>,
}

impl Topology {
    /// Takes a store's directory; true if it is newer than all before.
    pub(crate) fn set_directory(&self, directory: Directory) -> bool {
        self.inner.write().take(directory)
    }

    pub(crate) fn directory(&self) -> Option<Directory> {
        self.inner.read().directory.clone()
    }

    pub(crate) fn group_of(&self, slot: SlotId) -> Option<GroupId> {
        self.inner.read().groups_of_slots.get(usize::from(slot.0)).copied().flatten()
    }

    /// A store, or a refusal, named a leader. `None` only takes back what `said_by` itself was.
    pub(crate) fn set_leader(&self, group: GroupId, leader: Option<StoreId>, said_by: Option<StoreId>) {
        let mut inner = self.inner.write();
        let known = inner.leaders.get(&group).copied();
        match leader {
            // A store knows best of itself; of others only while nobody is known, or when it led itself.
            Some(leader) if said_by == Some(leader) || known.is_none() || known == said_by => {
                inner.leaders.insert(group, leader);
            }
            None if said_by.is_some() && known == said_by => {
                inner.leaders.remove(&group);
            }
            _ => {}
        }
    }

    pub(crate) fn set_link(&self, address: &str, link: Link) {
        self.inner.write().links.insert(address.to_owned(), link);
    }

    pub(crate) fn drop_link(&self, address: &str, connection: u64) {
        let mut inner = self.inner.write();
        if inner.links.get(address).is_some_and(|link| link.connection == connection) {
            inner.links.remove(address);
            let store = inner
                .directory
                .as_ref()
                .and_then(|dir| dir.stores.iter().find(|store| store.address == address))
                .map(|store| store.id);
            inner.leaders.retain(|_, leader| Some(*leader) != store);
        }
    }

    /// The link to the group's leader, or to one of its stores in turn while nobody is known.
    pub(crate) fn leader_link(&self, group: GroupId) -> Option<(StoreId, Link)> {
        let mut inner = self.inner.write();
        let known = inner.leaders.get(&group).copied();
        inner.tries = inner.tries.wrapping_add(1);
        let turn = inner.tries as usize;
        let directory = inner.directory.as_ref()?;
        let record = directory.groups.iter().find(|record| record.id == group)?;
        let count = record.replicas.len();
        let candidates = known.into_iter().chain((0..count).map(|place| record.replicas[(turn + place) % count].store));
        for store in candidates {
            let address =
                directory.stores.iter().find(|record| record.id == store).map(|record| record.address.as_str());
            if let Some(link) = address.and_then(|address| inner.links.get(address)) {
                return Some((store, link.clone()));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use seriatim_proto::ids::{ClusterId, Generation};

    use super::*;

    fn directory(generation: u16, revision: u64) -> Directory {
        Directory {
            cluster: ClusterId([1; 16]),
            generation: Generation(generation),
            revision,
            stores: Vec::new(),
            groups: Vec::new(),
            nodes: Vec::new(),
            tenants: Vec::new(),
            moves: Vec::new(),
            draining: Vec::new(),
            replica_next: seriatim_proto::ids::ReplicaId(1),
            rotten: Vec::new(),
            domains: BTreeMap::new(),
            voters: 3,
        }
    }

    #[test]
    fn a_directory_never_goes_back_whichever_store_shows_it() {
        let topology = Topology::default();
        assert!(topology.set_directory(directory(0, 5)));
        assert!(!topology.set_directory(directory(0, 4)) && !topology.set_directory(directory(0, 5)));
        assert_eq!(topology.directory(), Some(directory(0, 5)));
        topology.set_leader(GroupId::META, Some(StoreId(2)), Some(StoreId(2)));
        topology.set_leader(GroupId::META, None, Some(StoreId(2)));
        assert!(!topology.set_directory(directory(0, 1)));
        assert!(topology.set_directory(directory(0, 6)));
        // A restored cluster counts anew in a higher generation.
        assert!(topology.set_directory(directory(1, 1)) && !topology.set_directory(directory(0, 9)));
    }
}
