//! Options: which workload, how much of it, over how many keys.

use std::str::FromStr;

/// What clients do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WorkloadKind {
    /// numbers of counters
    Seq,
    /// two users each, both directions
    Direct,
    /// groups whose members join and leave
    Group,
    /// devices that follow their inboxes
    Inbox,
    /// cursors as registers
    Register,
    /// messages that are edited and recalled
    Amend,
    /// whoever must be refused
    Authz,
    /// logic nodes that write under fences that are over
    Lease,
    /// all of them at once, but for `lease`
    Mix,
}

impl WorkloadKind {
    /// All, in the order in which people read them.
    pub const ALL: [WorkloadKind; 9] = [
        Self::Seq,
        Self::Direct,
        Self::Group,
        Self::Inbox,
        Self::Register,
        Self::Amend,
        Self::Authz,
        Self::Lease,
        Self::Mix,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seq => "seq",
            Self::Direct => "direct",
            Self::Group => "group",
            Self::Inbox => "inbox",
            Self::Register => "register",
            Self::Amend => "amend",
            Self::Authz => "authz",
            Self::Lease => "lease",
            Self::Mix => "mix",
        }
    }

    /// One sentence.
    pub fn about(self) -> &'static str {
        match self {
            Self::Seq => "many clients take numbers of a few counters, and ask where they stand",
            Self::Direct => {
                "pairs of users chat in both directions; sends are repeated under the same id, also long after"
            }
            Self::Group => "groups of 3 to 8; members join and leave while others write and read",
            Self::Inbox => {
                "devices subscribe, sync, acknowledge, vanish and come back through another gateway, while pairs chat"
            }
            Self::Register => "a device's cursor, written by one client and read by others",
            Self::Amend => {
                "messages are edited and recalled, and read back by history and sync: no recalled body is shown, and the last edit holds; while pairs chat"
            }
            Self::Authz => {
                "strangers, other tenants, bad tokens and wrong scopes: all must be refused, while pairs and groups chat"
            }
            Self::Lease => {
                "pretenders act as logic nodes at the stores: they claim, reserve, write, stop to renew, and write on under fences that are over"
            }
            Self::Mix => "all of them at once, but for lease: it takes slots from the nodes that serve the others",
        }
    }

    /// Does it contain this other one?
    pub(crate) fn plays(self, other: WorkloadKind) -> bool {
        match (self, other) {
            (Self::Mix, other) => other != Self::Lease,
            // Inboxes need somebody who writes into them; refusals need something that is worth reading.
            (Self::Inbox, Self::Direct) => true,
            // Amending is not in the history's files: somebody must be.
            (Self::Amend, Self::Direct) => true,
            (Self::Authz, Self::Direct | Self::Group) => true,
            (one, other) => one == other,
        }
    }
}

impl std::fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for WorkloadKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|kind| kind.name()).collect();
            format!("`{text}` is no workload; there are {}", names.join(", "))
        })
    }
}

/// How much of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WorkloadOptions {
    /// what clients do
    pub kind: WorkloadKind,
    /// of everything that is drawn by lot
    pub seed: u64,
    /// operations a second, over all clients
    pub rate: u32,
    /// pairs that chat, counters; half as many groups and registers
    pub keys: u32,
    /// users that chat
    pub users: u32,
}

impl Default for WorkloadOptions {
    fn default() -> Self {
        Self { kind: WorkloadKind::Mix, seed: 1, rate: 800, keys: 16, users: 24 }
    }
}

/// Fewest users: a group has up to eight members and somebody must be outside.
pub const USERS_MIN: u32 = 10;
/// Most users.
pub const USERS_MAX: u32 = 1_000;
/// Most keys.
pub const KEYS_MAX: u32 = 1_000;
/// Most operations a second.
pub const RATE_MAX: u32 = 100_000;

impl WorkloadOptions {
    /// Refuses what cannot be run, in a sentence for people.
    pub fn check(&self) -> Result<(), String> {
        let ranges = [
            ("--rate", self.rate, 1, RATE_MAX),
            ("--keys", self.keys, 1, KEYS_MAX),
            ("--users", self.users, USERS_MIN, USERS_MAX),
        ];
        for (name, value, min, max) in ranges {
            if value < min || value > max {
                return Err(format!("{name} {value}: must be between {min} and {max}"));
            }
        }
        let pairs_max = u64::from(self.users) * u64::from(self.users - 1) / 2;
        if u64::from(self.keys) > pairs_max {
            return Err(format!("--keys {}: {} users make only {pairs_max} pairs", self.keys, self.users));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_workloads_are_read_back() {
        for kind in WorkloadKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert!("bank".parse::<WorkloadKind>().unwrap_err().contains("seq, direct"));
    }

    #[test]
    fn impossible_amounts_are_refused() {
        let good = WorkloadOptions::default();
        assert_eq!(good.check(), Ok(()));
        for bad in [
            WorkloadOptions { rate: 0, ..good },
            WorkloadOptions { keys: 0, ..good },
            WorkloadOptions { users: USERS_MIN - 1, ..good },
            WorkloadOptions { users: 10, keys: 46, ..good },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert_eq!(WorkloadOptions { users: 10, keys: 45, ..good }.check(), Ok(()));
    }

    #[test]
    fn whoever_only_listens_has_somebody_to_listen_to() {
        assert!(WorkloadKind::Inbox.plays(WorkloadKind::Direct));
        assert!(WorkloadKind::Mix.plays(WorkloadKind::Seq));
        assert!(!WorkloadKind::Mix.plays(WorkloadKind::Lease), "it takes slots from the nodes that serve");
        assert!(!WorkloadKind::Seq.plays(WorkloadKind::Direct));
    }
}
