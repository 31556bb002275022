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
    directory: Option<Directory>,
    /// by store: each store's view only moves on, but one may be behind another
    directories: HashMap<StoreId, Directory>,
    leaders: BTreeMap<GroupId, StoreId>,
    links: HashMap<String, Link>,
    groups_of_slots: Vec<Option<GroupId>>,
    tries: u64,
}

impl Inner {
    /// Uses the view of group 0's leader, or the one that came last while nobody leads. True if that changed something.
    fn choose(&mut self, latest: StoreId) -> bool {
        let leader = self.leaders.get(&GroupId::META).copied().filter(|leader| self.directories.contains_key(leader));
        let Some(directory) = self.directories.get(&leader.unwrap_or(latest)) else { return false };
        if self.directory.as_ref() == Some(directory) {
            return false;
        }
        let directory = directory.clone();
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
    /// Takes a store's directory; true if the one in use changed.
    pub(crate) fn set_directory(&self, said_by: StoreId, directory: Directory) -> bool {
        let mut inner = self.inner.write();
        inner.directories.insert(said_by, directory);
        inner.choose(said_by)
    }

    pub(crate) fn directory(&self) -> Option<Directory> {
        self.inner.read().directory.clone()
    }

    pub(crate) fn group_of(&self, slot: SlotId) -> Option<GroupId> {
        self.inner.read().groups_of_slots.get(usize::from(slot.0)).copied().flatten()
    }

    /// A store, or a refusal, named a leader. `None` only takes back what `said_by` itself was. True if the directory
    /// in use changed.
    pub(crate) fn set_leader(&self, group: GroupId, leader: Option<StoreId>, said_by: Option<StoreId>) -> bool {
        let mut inner = self.inner.write();
        match leader {
            Some(leader) => {
                // A store knows best of itself; of others only while nobody is known, or when it led itself.
                let known = inner.leaders.get(&group).copied();
                if said_by == Some(leader) || known.is_none() || known == said_by {
                    inner.leaders.insert(group, leader);
                }
                group == GroupId::META && inner.choose(leader)
            }
            None => {
                if said_by.is_some() && inner.leaders.get(&group).copied() == said_by {
                    inner.leaders.remove(&group);
                }
                false
            }
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
