//! Meta: the commands and records of group 0: registry, placement, ids. Never on a message's way.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::command::SlotRange;
use crate::ids::{ClusterId, Generation, GroupId, LeaseId, NodeId, ReplicaId, StoreId, TenantId};
use crate::limits;

/// What kind of process a node is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub enum NodeKind {
    /// the message service
    Logic,
    /// the door for devices
    Gateway,
}

/// A command of group 0.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum MetaCommand {
    /// The first command of a cluster: its id and its first stores. Applied once; a repeat changes nothing.
    Init {
        /// fixed at `cluster init`
        cluster: ClusterId,
        /// generation of the new cluster
        generation: Generation,
        /// the stores of group 0, with the ids that `cluster init` gave them
        stores: Vec<StoreRecord>,
        /// the replicas of group 0
        replicas: Vec<ReplicaRecord>,
    },
    /// Makes a group. Ids of replicas are given by apply; overlapping slots are refused.
    CreateGroup {
        /// not 0
        id: GroupId,
        /// owned from the start
        slots: Vec<SlotRange>,
        /// where its replicas live; rising, distinct
        stores: Vec<StoreId>,
    },
    /// The group's first leader has proposed `Own`; replicas may no longer be born.
    CloseGroup {
        /// which
        id: GroupId,
    },
    /// A logic node or gateway starts: gives it a node id and a lease in group 0.
    OpenNode {
        /// what it is
        kind: NodeKind,
        /// where others reach it, `host:port`
        address: String,
    },
    /// Changes what a tenant may ask of each logic node. Repeated, it changes nothing.
    SetTenant {
        /// whose
        id: TenantId,
        /// only these change; `None`: back to the node's own
        changes: BTreeMap<Limit, Option<u32>>,
    },
    /// Takes a store into the cluster and gives it an id. The same store again gets the same record.
    AddStore {
        /// where others reach it, `host:port`
        address: String,
        /// made by the store itself with its data folder: tells a folder from one that was wiped
        token: StoreToken,
    },
    /// From now on the store gets no replicas, and those it has move away; or back. Repeated, it changes nothing.
    SetDraining {
        /// which
        store: StoreId,
        /// or not any more
        draining: bool,
    },
    /// Forgets a store that has no replicas. Its id is never given again.
    RemoveStore {
        /// which
        store: StoreId,
    },
    /// Begins to move a replica of a group: `to` gets a new one, `from` loses its own. The same move again returns it;
    /// one that was turned back goes forward again.
    BeginMove {
        /// not 0
        group: GroupId,
        /// loses its replica; `None`: the group gets one more
        from: Option<StoreId>,
        /// gets a replica with a new id; `None`: the group has one less
        to: Option<StoreId>,
    },
    /// Turns a move back: the new replica goes, the old one stays. Repeated, it changes nothing.
    CancelMove {
        /// as it is recorded
        moved: MoveRecord,
    },
    /// The group's membership is what the move wants. Only the move as it is recorded can end.
    EndMove {
        /// as the leader carried it out
        moved: MoveRecord,
    },
    /// A store, or the leader of a group, has found that a replica is not what was promised. Repeated, it changes
    /// nothing.
    ReportRot {
        /// of which group
        group: GroupId,
        /// which replica
        replica: ReplicaId,
        /// what is wrong, for people; at most [`limits::ROT_REASON_BYTES_MAX`]
        what: String,
    },
    /// Begins to replace a replica that was reported as rotten by a new one on the same store. The same again returns
    /// the move; one that was turned back goes forward again.
    BeginRebuild {
        /// of which group
        group: GroupId,
        /// which replica is rotten
        replica: ReplicaId,
    },
    /// Says what a store fails together with. Repeated, it changes nothing.
    SetDomain {
        /// which
        store: StoreId,
        /// such as a rack or a zone, at most [`limits::DOMAIN_BYTES_MAX`]; `None`: it fails alone
        domain: Option<String>,
    },
    /// Says how many voters each data group should have. Repeated, it changes nothing.
    SetVoters {
        /// 1 to [`limits::VOTERS_MAX`]
        voters: u32,
    },
    /// Takes back what was said in [`MetaCommand::ReportRot`], while nothing of the group moves. Repeated, it changes
    /// nothing.
    WithdrawRot {
        /// of which group
        group: GroupId,
        /// which replica is not rotten
        replica: ReplicaId,
    },
}

macro_rules! limits_of_tenants {
    ($($variant:ident = $name:literal, $default:expr, $help:literal;)*) => {
        /// What is limited: requests, per second and logic node; the age of what may be changed; or what is kept.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
        pub enum Limit {
            $(#[doc = $help] $variant,)*
        }

        impl Limit {
            /// All of them.
            pub const ALL: &'static [Limit] = &[$(Limit::$variant,)*];

            /// How operators write it.
            pub const fn name(self) -> &'static str {
                match self { $(Limit::$variant => $name,)* }
            }

            /// What is counted.
            pub const fn help(self) -> &'static str {
                match self { $(Limit::$variant => $help,)* }
            }

            /// For a tenant and a node that are told nothing else; of ages, seconds; of what is kept, messages.
            pub const fn default_per_s(self) -> u32 {
                match self { $(Limit::$variant => $default,)* }
            }
        }
    };
}

limits_of_tenants! {
    TenantWrites = "tenant-writes-per-s", limits::TENANT_WRITES_PER_S, "sends, changes of groups and cancels of all users together";
    TenantBytes = "tenant-bytes-per-s", limits::TENANT_BYTES_PER_S, "bytes of the bodies of all users' sends together";
    TenantReads = "tenant-reads-per-s", limits::TENANT_READS_PER_S, "syncs, histories, queries and acks of all users together";
    UserWrites = "user-writes-per-s", limits::USER_WRITES_PER_S, "sends, changes of groups and cancels of each user";
    UserReads = "user-reads-per-s", limits::USER_READS_PER_S, "syncs, histories, queries and acks of each user";
    SequenceRequests = "sequence-requests-per-s", limits::SEQUENCE_REQUESTS_PER_S, "requests of the sequence service";
    EditWindow = "edit-window-s", limits::EDIT_WINDOW_S, "age in seconds up to which a message may be edited; 4294967295 is any age";
    RecallWindow = "recall-window-s", limits::RECALL_WINDOW_S, "age in seconds up to which a message may be recalled; 4294967295 is any age";
    RetentionAge = "retention-s", u32::MAX, "age in seconds from which entries of conversations and inboxes are given up; 4294967295 is never";
    RetentionConversation = "retention-conversation-messages", u32::MAX, "newest messages that each conversation keeps; 4294967295 is all";
    RetentionInbox = "retention-inbox-messages", u32::MAX, "newest messages that each inbox keeps; 4294967295 is all";
}

impl Limit {
    /// The least that it may be.
    pub const fn least(self) -> u32 {
        match self {
            Limit::RetentionAge => limits::RETENTION_S_MIN,
            Limit::RetentionConversation | Limit::RetentionInbox => limits::RETENTION_MESSAGES_MIN,
            _ => 0,
        }
    }

    /// Is it about what stores keep? Stores know tenants' own limits only: a logic node cannot be told.
    pub const fn is_retention(self) -> bool {
        matches!(self, Limit::RetentionAge | Limit::RetentionConversation | Limit::RetentionInbox)
    }

    /// Reads `name=per second`, or `name=default`, which is `None`.
    ///
    /// # Errors
    /// What is wrong with it, for the one who typed it.
    pub fn parse(text: &str) -> Result<(Limit, Option<u32>), String> {
        let (name, rate) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=VALUE"))?;
        let found = Limit::ALL.iter().copied().find(|limit| limit.name() == name);
        let names = || Limit::ALL.iter().map(|limit| limit.name()).collect::<Vec<_>>().join(", ");
        let limit = found.ok_or_else(|| format!("no limit is called `{name}`; there are {}", names()))?;
        match rate {
            "default" => Ok((limit, None)),
            rate => match rate.parse() {
                Ok(rate) if rate >= limit.least() => Ok((limit, Some(rate))),
                _ => Err(format!("`{rate}` is no number from {} to {}, and not `default`", limit.least(), u32::MAX)),
            },
        }
    }
}

/// A tenant with limits of its own.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct TenantRecord {
    /// which
    pub id: TenantId,
    /// what differs from the nodes' own
    pub limits: BTreeMap<Limit, u32>,
}

/// A store process.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct StoreRecord {
    /// kept with its data
    pub id: StoreId,
    /// where others reach it, `host:port`
    pub address: String,
}

/// A replica of a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct ReplicaRecord {
    /// Raft's node id
    pub id: ReplicaId,
    /// where it lives
    pub store: StoreId,
}

/// Random bytes that a store makes with its data folder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct StoreToken(pub [u8; 16]);

/// A replica that is not what was promised: it never runs again.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct RotRecord {
    /// of which group
    pub group: GroupId,
    /// which, and where
    pub replica: ReplicaRecord,
    /// what is wrong, for people
    pub what: String,
}

/// A replica that moves.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct MoveRecord {
    /// of which group
    pub group: GroupId,
    /// becomes a voter; it takes no part in the group's record yet
    pub joining: Option<ReplicaRecord>,
    /// is a voter no longer, then it is removed; never listened to afterwards
    pub leaving: Option<ReplicaRecord>,
    /// turned back: what is `leaving` stays, and what is `joining` goes
    pub back: bool,
    /// of the directory when the move was begun or last turned: no two are the same record
    pub revision: u64,
}

impl MoveRecord {
    /// The replica that is a voter at the end of the move, as things stand.
    pub fn comes(&self) -> Option<ReplicaRecord> {
        if self.back { self.leaving } else { self.joining }
    }
    /// The replica that is gone at the end of the move, as things stand.
    pub fn goes(&self) -> Option<ReplicaRecord> {
        if self.back { self.joining } else { self.leaving }
    }
    /// Is a rotten replica replaced by a new one on the same store?
    pub fn is_rebuild(&self) -> bool {
        self.joining.zip(self.leaving).is_some_and(|(joining, leaving)| joining.store == leaving.store)
    }
}

/// A group, as group 0 knows it. The slots are a directory; the group's own state decides.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct GroupRecord {
    /// which
    pub id: GroupId,
    /// owned from the start
    pub slots: Vec<SlotRange>,
    /// where it lives
    pub replicas: Vec<ReplicaRecord>,
    /// no replica may be born any more
    pub closed: bool,
}

/// A logic node or gateway.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct NodeRecord {
    /// never reused
    pub id: NodeId,
    /// its session with group 0; it lives as long as this
    pub lease: LeaseId,
    /// what it is
    pub kind: NodeKind,
    /// where others reach it
    pub address: String,
}

/// Everything that group 0 knows, as one read returns it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct Directory {
    /// which cluster
    pub cluster: ClusterId,
    /// generation
    pub generation: Generation,
    /// rises with every change of what follows
    pub revision: u64,
    /// all stores
    pub stores: Vec<StoreRecord>,
    /// all groups, group 0 first
    pub groups: Vec<GroupRecord>,
    /// live logic nodes and gateways
    pub nodes: Vec<NodeRecord>,
    /// tenants with limits of their own
    pub tenants: Vec<TenantRecord>,
    /// replicas that move, at most one of a group
    pub moves: Vec<MoveRecord>,
    /// stores that get no replicas and lose theirs
    pub draining: Vec<StoreId>,
    /// replica ids from here on were not given yet
    pub replica_next: ReplicaId,
    /// replicas that were found rotten and are not replaced yet
    pub rotten: Vec<RotRecord>,
    /// what stores fail together with; those that are not named fail alone
    pub domains: BTreeMap<StoreId, String>,
    /// voters that each data group should have, if there are as many stores
    pub voters: u32,
}

impl Directory {
    /// Was the replica found rotten?
    pub fn is_rotten(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.rotten.iter().any(|rot| rot.group == group && rot.replica.id == replica)
    }
    /// Is a new replica made on its store, in its place? From then on it does not run, and nobody listens to it.
    pub fn is_replaced(&self, group: GroupId, replica: ReplicaId) -> bool {
        let of_group = self.moves.iter().filter(|moved| moved.group == group && moved.is_rebuild());
        of_group.filter_map(|moved| moved.leaving).any(|leaving| leaving.id == replica)
    }
    /// Was the replica once made, and is it no longer? A replica whose id this directory does not know yet was not.
    pub fn is_removed(&self, group: GroupId, replica: ReplicaId) -> bool {
        let of_group = self.groups.iter().filter(|record| record.id == group).flat_map(|record| &record.replicas);
        let of_move = self.moves.iter().filter(|moved| moved.group == group);
        let of_move = of_move.flat_map(|moved| moved.joining.iter().chain(&moved.leaving));
        replica < self.replica_next && !of_group.chain(of_move).any(|record| record.id == replica)
    }
}

/// What group 0 answers.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum MetaOutcome {
    /// `Init`
    Initialised,
    /// `CreateGroup`, first time or repeated
    Created(GroupRecord),
    /// `CloseGroup`
    Closed,
    /// `OpenNode`
    Opened(NodeRecord),
    /// a deterministic no
    Refused(MetaRefusal),
    /// `SetTenant`: what it has of its own now
    TenantSet(TenantRecord),
    /// `AddStore`
    StoreAdded(StoreRecord),
    /// `SetDraining`
    DrainingSet,
    /// `RemoveStore`, also if there was none
    StoreRemoved,
    /// `BeginMove`, `BeginRebuild`, and `CancelMove` if there was one to turn back
    Moving(MoveRecord),
    /// `EndMove`, also if it had ended; `CancelMove` if nothing moves
    NothingMoves,
    /// `ReportRot`, also of a replica that is no more
    RotNoted,
    /// `SetDomain`, `SetVoters`
    PlacementSet,
    /// `WithdrawRot`, also if there was no report
    RotWithdrawn,
}

/// Why group 0 says no.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug, thiserror::Error)]
pub enum MetaRefusal {
    /// `Init` must come first.
    #[error("the cluster is not initialised")]
    NotInitialised,
    /// Initialised as another cluster.
    #[error("the cluster is initialised under another id")]
    OtherCluster,
    /// Another group owns one of the slots, or the id is taken.
    #[error("the group overlaps another")]
    Overlap,
    /// No such group or store.
    #[error("no such group or store")]
    Unknown,
    /// Empty or out of range.
    #[error("malformed command")]
    Malformed,
    /// As many as there may be have limits of their own.
    #[error("{} tenants have limits of their own already", limits::TENANTS_LIMITED_MAX)]
    Full,
    /// Another store is known at this address.
    #[error("another store is known at this address; drain and remove it first")]
    AddressTaken,
    /// The store still has replicas.
    #[error("the store still has replicas: drain it first")]
    NotEmpty,
    /// Another replica of the group moves.
    #[error("another replica of the group is moving")]
    Moving,
    /// The store is being drained.
    #[error("the store is being drained")]
    Draining,
    /// The store has a replica of the group, or has none to lose.
    #[error("the group's replicas are not so that this move makes sense")]
    Misplaced,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_reads_what_it_writes_and_says_what_is_wrong() {
        for limit in Limit::ALL {
            assert_eq!(Limit::parse(&format!("{}=700", limit.name())), Ok((*limit, Some(700))));
            assert_eq!(Limit::parse(&format!("{}=default", limit.name())), Ok((*limit, None)));
        }
        assert!(Limit::parse("user-writes-per-s").unwrap_err().contains("NAME=VALUE"));
        assert!(Limit::parse("speed=7").unwrap_err().contains("user-writes-per-s, user-reads-per-s"));
        for limit in Limit::ALL.iter().copied().filter(|limit| limit.least() > 0) {
            let least = limit.least();
            assert_eq!(Limit::parse(&format!("{}={least}", limit.name())), Ok((limit, Some(least))));
            let refused = Limit::parse(&format!("{}={}", limit.name(), least - 1)).unwrap_err();
            assert!(refused.contains(&format!("from {least} to")), "{refused}");
        }
        for rate in ["", "-1", "many", "4294967296", "1.5"] {
            assert!(Limit::parse(&format!("user-writes-per-s={rate}")).unwrap_err().contains("4294967295"), "{rate}");
        }
    }
}
