//! Scenario: for each bug, the clients and the faults that can bring it to light, within half a minute.

use seriatim_proto::chaos::Sabotage;

use crate::cluster::DiskKind;
use crate::workload::{WorkloadKind, WorkloadOptions};

/// What is done to the cluster while clients work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hurt {
    /// nothing, while clients do what they do in so many seconds
    Nothing { work_s: u64 },
    /// logic nodes fall asleep by themselves, until so many times one had lost slots when it woke up
    HoldersAsleep { times: u32 },
    /// each logic node is killed and started again
    RestartHolders,
    /// the node that holds most slots is cut from the stores and its peer, and one gateway hears of it alone
    LonelyHolder { times: u32 },
    /// all stores are killed at once; those that led come back last
    KillAllLeadersLast { times: u32 },
    /// all stores are killed at once and started, each time when all have purged their logs
    KillAllPurged { times: u32 },
    /// all stores are killed at once, and what was not fsynced is lost
    PowerCutAll { times: u32 },
    /// a follower is made to lag, and is there again when the leader dies
    LaggingFollower { times: u32 },
    /// a follower is away until the log has left it behind, gets a snapshot, and is made the leader
    LeadFromSnapshot { times: u32 },
    /// of three stores one was away, one loses the end of its log, and the third, which has all, is killed
    CutLog,
}

/// A bug's scenario.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Scenario {
    /// which bug
    pub sabotage: Sabotage,
    /// in a few words
    pub about: &'static str,
    pub(crate) kind: WorkloadKind,
    pub(crate) hurt: Hurt,
    pub(crate) disk: DiskKind,
    /// what else the test build is told, with the bug and without it
    pub(crate) chaos: &'static str,
    pub(crate) logic: u32,
    pub(crate) gateways: u32,
    pub(crate) groups: u32,
    pub(crate) rate: u32,
    pub(crate) keys: u32,
}

impl Scenario {
    /// Of a bug.
    pub fn of(sabotage: Sabotage) -> Scenario {
        use WorkloadKind::{Authz, Direct, Mix, Seq};
        let of = |about, kind, hurt| Scenario {
            sabotage,
            about,
            kind,
            hurt,
            disk: DiskKind::Plain,
            chaos: "",
            logic: 2,
            gateways: 2,
            groups: 2,
            rate: 300,
            keys: 6,
        };
        match sabotage {
            Sabotage::NoFsync => Scenario {
                disk: DiskKind::Fuse,
                groups: 1,
                ..of("power cut of all stores", Direct, Hurt::PowerCutAll { times: 1 })
            },
            Sabotage::AckBeforeQuorum => Scenario {
                groups: 1,
                keys: 16,
                rate: 400,
                ..of("all stores killed, leaders back last", Direct, Hurt::KillAllLeadersLast { times: 2 })
            },
            // A logic node falls asleep with commands of its slots ready to be sent. When it wakes up, others hold
            // the slots and have reserved numbers in them. Counters, because nothing but their fence stops a
            // reservation that is late; many, so that each is in the buffers of some holder only. Each sleeps so many
            // times only: what clients must have done at the end is not done in between.
            Sabotage::FenceAtDoorOnly => Scenario {
                keys: 48,
                rate: 300,
                chaos: "commands.send=sleep:3500@1/20*6",
                ..of("holders fall asleep with commands ready to be sent", Seq, Hurt::HoldersAsleep { times: 3 })
            },
            Sabotage::SegmentNotFenced => Scenario {
                keys: 16,
                rate: 600,
                ..of("a holder is cut off past its lease, not from its gateway", Seq, Hurt::LonelyHolder { times: 2 })
            },
            Sabotage::SegmentReused => of("holders killed and restarted", Seq, Hurt::RestartHolders),
            Sabotage::StaleRead => Scenario {
                groups: 1,
                ..of("a follower lags, the leader dies", Mix, Hurt::LaggingFollower { times: 3 })
            },
            Sabotage::MapOrder => of("no fault", Direct, Hurt::Nothing { work_s: 5 }),
            Sabotage::WalCut => Scenario {
                groups: 1,
                ..of("a log loses its end, a follower was away, the leader is killed", Direct, Hurt::CutLog)
            },
            Sabotage::AudienceUnchecked | Sabotage::UserFromFrame => {
                of("intruders, no fault", Authz, Hurt::Nothing { work_s: 6 })
            }
            // So slow that senders, who remember their last messages, send some again that only the snapshot knows.
            Sabotage::SnapshotWithoutDedupe => Scenario {
                groups: 1,
                rate: 120,
                chaos: "limit.keep=20;limit.flush=16384",
                ..of("a follower leads from a snapshot", Direct, Hurt::LeadFromSnapshot { times: 2 })
            },
            // Between a flush and its purge much is applied, and until the next flush much time passes: a store that
            // is killed then has neither the rows nor the log of it.
            Sabotage::PurgeTooFar => Scenario {
                groups: 1,
                chaos: "limit.keep=20;limit.flush=65536;flush.after=sleep:1000@1/1;flush.before=sleep:6000@1/1",
                ..of("all stores killed long after a purge", Direct, Hurt::KillAllPurged { times: 2 })
            },
        }
    }

    /// Is everything the same but the bug?
    pub(crate) fn is_played_like(&self, other: &Scenario) -> bool {
        Scenario { sabotage: other.sabotage, ..*self } == *other
    }

    /// What clients do.
    pub(crate) fn workload(&self, seed: u64) -> WorkloadOptions {
        // So few that they meet often, so many that they make these pairs.
        let users = if self.keys <= 60 { 12 } else { self.keys };
        WorkloadOptions { kind: self.kind, seed, rate: self.rate, keys: self.keys, users }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_has_a_scenario_that_can_be_run() {
        for sabotage in Sabotage::ALL {
            let scenario = Scenario::of(*sabotage);
            assert_eq!(scenario.sabotage, *sabotage);
            assert_eq!(scenario.workload(1).check(), Ok(()));
        }
    }

    #[test]
    fn only_bugs_that_are_played_alike_share_a_control() {
        let of = Scenario::of;
        assert!(of(Sabotage::AudienceUnchecked).is_played_like(&of(Sabotage::UserFromFrame)));
        let alike = |one: &Sabotage| Sabotage::ALL.iter().filter(|other| of(*one).is_played_like(&of(**other))).count();
        assert_eq!(
            Sabotage::ALL.iter().filter(|one| alike(one) > 1).count(),
            2,
            "all others are played in their own ways"
        );
    }
}
