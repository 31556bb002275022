//! Rules: who may use which door, and what may be asked there. The one table of it; everything else only applies it.
//!
//! | door | whose | for what |
//! |---|---|---|
//! | `Store` | logic, store, admin | admin and other stores read, and write to group 0 alone |
//! | `Raft` | store | |
//! | `Admin` | admin, store | a store asks others how they are, and has them join while a cluster is made |
//! | `Logic` | gateway | |
//! | `Peer` | logic | `Deliver`, `Push` |
//! | `Sequence` | application, logic | whose counters they are, their token says |
//! | `Operator` | admin | |

use seriatim_proto::admin::AdminRequest;
use seriatim_proto::certificate::{NodeName, NodeRole};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::GroupId;
use seriatim_proto::store::StoreRequest;
use tonic::{Request, Status};

use crate::accept::Caller;
use crate::{Inner, Mtls};

/// A gRPC service of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Door {
    /// of stores, for commands and reads
    Store,
    /// of stores, for Raft
    Raft,
    /// of stores, for operators
    Admin,
    /// of logic nodes, for gateways
    Logic,
    /// of logic nodes, for logic nodes
    Peer,
    /// of logic nodes, for applications that count
    Sequence,
    /// of gateways, for operators
    Operator,
}

impl Door {
    /// All of them.
    pub const ALL: [Door; 7] =
        [Self::Store, Self::Raft, Self::Admin, Self::Logic, Self::Peer, Self::Sequence, Self::Operator];

    /// Whose it is.
    pub fn callers(self) -> &'static [NodeRole] {
        match self {
            Self::Store => &[NodeRole::Admin, NodeRole::Logic, NodeRole::Store],
            Self::Raft => &[NodeRole::Store],
            Self::Admin => &[NodeRole::Admin, NodeRole::Store],
            Self::Logic => &[NodeRole::Gateway],
            Self::Peer => &[NodeRole::Logic],
            Self::Sequence => &[NodeRole::Application, NodeRole::Logic],
            Self::Operator => &[NodeRole::Admin],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Store => "Store",
            Self::Raft => "Raft",
            Self::Admin => "Admin",
            Self::Logic => "Logic",
            Self::Peer => "Peer",
            Self::Sequence => "Sequence",
            Self::Operator => "Operator",
        }
    }

    /// May `caller` come in? Why not, for people.
    pub fn check(self, caller: &NodeName) -> Result<(), String> {
        if self.callers().contains(&caller.role) {
            return Ok(());
        }
        let callers: Vec<_> = self.callers().iter().map(|role| role.name()).collect();
        Err(format!("{} is for {}; this certificate is of {caller}", self.name(), callers.join(", ")))
    }
}

/// May a store be asked this on its `Store` channel?
pub fn store_request(caller: &Caller, request: &StoreRequest) -> Result<(), Refusal> {
    let node = match caller {
        Caller::Plaintext => return Ok(()),
        Caller::Node(node) => node,
        Caller::Unknown => return Err(unknown()),
    };
    match (node.role, request) {
        (NodeRole::Logic, _) | (_, StoreRequest::Hello { .. } | StoreRequest::Read { .. } | StoreRequest::Watch) => {
            Ok(())
        }
        (_, StoreRequest::Propose { group: GroupId::META, .. }) => Ok(()),
        (_, StoreRequest::Propose { group, .. }) => {
            Err(forbidden(node, "logic", format_args!("writing to group {group}")))
        }
        (_, StoreRequest::Renew { .. }) => Err(forbidden(node, "logic", format_args!("renewing a lease"))),
    }
}

/// May a store be asked this at its `Admin` door?
pub fn admin_request(caller: &Caller, request: &AdminRequest) -> Result<(), Refusal> {
    let node = match caller {
        Caller::Plaintext => return Ok(()),
        Caller::Node(node) => node,
        Caller::Unknown => return Err(unknown()),
    };
    match (node.role, request) {
        (NodeRole::Admin, _) | (_, AdminRequest::Status | AdminRequest::Adopt { .. }) => Ok(()),
        (_, _) => Err(forbidden(node, "admin", format_args!("this request"))),
    }
}

fn unknown() -> Refusal {
    Refusal::new(ErrorCode::Forbidden, "nobody knows who asks this")
}

fn forbidden(caller: &NodeName, wanted: &str, what: std::fmt::Arguments<'_>) -> Refusal {
    Refusal::new(ErrorCode::Forbidden, format!("{what} is for {wanted}; this certificate is of {caller}"))
}

/// Lets through whose door it is.
#[derive(Clone, Debug)]
pub struct Guard {
    mtls: Mtls,
    door: Door,
}

impl Mtls {
    /// For a service.
    pub fn guard(&self, door: Door) -> Guard {
        Guard { mtls: self.clone(), door }
    }
}

impl Guard {
    fn check(&self, inner: &Inner, caller: Option<&Caller>) -> Result<(), Status> {
        let Some(Caller::Node(node)) = caller else {
            // Nobody comes this far without a certificate: a mistake of ours opens no door.
            return Err(Status::unauthenticated("no certificate was shown"));
        };
        self.door.check(node).map_err(|why| {
            if inner.call_word.may_say() {
                tracing::warn!(caller = %node, door = self.door.name(), "a call is refused: not this role's door");
            }
            inner.metrics.refuse_call(self.door.name(), node.role.name());
            Status::permission_denied(why)
        })
    }
}

impl tonic::service::Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(inner) = &self.mtls.0 {
            self.check(inner, request.extensions().get::<Caller>())?;
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every role at every door: what is not written here is refused.
    #[test]
    fn each_door_is_for_its_own() {
        let table = [
            (Door::Store, [true, false, false, true, true]),
            (Door::Raft, [false, false, false, false, true]),
            (Door::Admin, [true, false, false, false, true]),
            (Door::Logic, [false, false, true, false, false]),
            (Door::Peer, [false, false, false, true, false]),
            (Door::Sequence, [false, true, false, true, false]),
            (Door::Operator, [true, false, false, false, false]),
        ];
        assert_eq!(table.map(|(door, _)| door), Door::ALL);
        for (door, allowed) in table {
            for (role, allowed) in NodeRole::ALL.into_iter().zip(allowed) {
                let node = NodeName::new(role, "x").unwrap();
                let checked = door.check(&node);
                assert_eq!(checked.is_ok(), allowed, "{door:?} {role:?}");
                if let Err(why) = checked {
                    assert!(why.contains(&format!("seriatim-node://{}/x", role.name())), "{why}");
                }
            }
        }
    }

    #[test]
    fn writes_and_leases_are_for_logic_nodes() {
        let as_role = |role| Caller::of(NodeName::new(role, "x").unwrap());
        let propose = |group| StoreRequest::Propose { id: 1, group, count: 0, batch: Default::default() };
        let renew = StoreRequest::Renew { id: 1, leases: Vec::new() };
        for role in [NodeRole::Admin, NodeRole::Store] {
            assert!(store_request(&as_role(role), &StoreRequest::Watch).is_ok());
            assert!(store_request(&as_role(role), &propose(GroupId::META)).is_ok());
            let refused = store_request(&as_role(role), &propose(GroupId(1))).unwrap_err();
            assert_eq!(refused.code, ErrorCode::Forbidden);
            assert_eq!(store_request(&as_role(role), &renew).unwrap_err().code, ErrorCode::Forbidden);
        }
        assert!(store_request(&as_role(NodeRole::Logic), &propose(GroupId(1))).is_ok());
        assert!(store_request(&as_role(NodeRole::Logic), &renew).is_ok());
        assert!(store_request(&Caller::Plaintext, &renew).is_ok());
        // A mistake of ours opens no door.
        assert!(store_request(&Caller::Unknown, &StoreRequest::Watch).is_err());
        assert!(admin_request(&Caller::Unknown, &AdminRequest::Status).is_err());
        let init = AdminRequest::InitCluster { stores: Vec::new(), groups: 1, voters: None };
        assert!(admin_request(&as_role(NodeRole::Admin), &init).is_ok());
        assert_eq!(admin_request(&as_role(NodeRole::Store), &init).unwrap_err().code, ErrorCode::Forbidden);
        assert!(admin_request(&as_role(NodeRole::Store), &AdminRequest::Status).is_ok());
    }
}
