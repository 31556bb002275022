//! Cast: everybody and everything of a run, drawn from its seed: users, pairs, groups, counters, registers.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use seriatim_client::Conversation;
use seriatim_proto::ids::{ConversationId, ConversationKey, CounterName, UserId};

use super::options::{WorkloadKind, WorkloadOptions};

/// Everybody and everything.
#[derive(Clone, Debug)]
pub(crate) struct Cast {
    /// who chat
    pub(crate) users: Vec<UserId>,
    /// who are in no conversation
    pub(crate) strangers: Vec<UserId>,
    /// direct conversations
    pub(crate) pairs: Vec<(UserId, UserId)>,
    /// groups
    pub(crate) groups: Vec<GroupCast>,
    /// counters
    pub(crate) counters: Vec<CounterName>,
    /// users whose devices' cursors are registers; each writes to himself
    pub(crate) registers: Vec<UserId>,
    /// who say, edit and recall, and who listen to them; in no other conversation
    pub(crate) amending: Vec<(UserId, UserId)>,
}

/// A group.
#[derive(Clone, Debug)]
pub(crate) struct GroupCast {
    /// its id
    pub(crate) key: ConversationKey,
    /// who never leave; the first makes the group
    pub(crate) stayers: Vec<UserId>,
    /// who come and go
    pub(crate) comers: Vec<UserId>,
}

/// Fewest and most members of a group, those who come and go included.
const GROUP_MEMBERS: std::ops::RangeInclusive<usize> = 3..=8;

impl Cast {
    /// Draws what a workload needs.
    pub(crate) fn new(options: &WorkloadOptions) -> Cast {
        let mut rng = StdRng::seed_from_u64(options.seed);
        let plays = |kind| options.kind.plays(kind);
        let keys = |kind: WorkloadKind, count: u32| if plays(kind) { count as usize } else { 0 };
        let half = options.keys.div_ceil(2);
        let users = named("u", options.users as usize);
        let pairs = draw_pairs(&mut rng, &users, keys(WorkloadKind::Direct, options.keys));
        let groups = (0..keys(WorkloadKind::Group, half)).map(|_| draw_group(&mut rng, &users)).collect();
        let counters = (0..keys(WorkloadKind::Seq, options.keys))
            .map(|place| CounterName::new(&format!("counter-{place:03}")).expect("a short plain text is a name"))
            .collect();
        Cast {
            strangers: named("stranger-", 2),
            registers: named("r", keys(WorkloadKind::Register, half)),
            amending: {
                let pairs = keys(WorkloadKind::Amend, options.keys.div_ceil(4));
                named("author-", pairs).into_iter().zip(named("listener-", pairs)).collect()
            },
            users,
            pairs,
            groups,
            counters,
        }
    }

    /// All conversations, as one member who never leaves names them, and that member.
    pub(crate) fn conversations(&self) -> Vec<(UserId, Conversation)> {
        let pairs = self.pairs.iter().map(|(one, other)| (one.clone(), Conversation::Peer(other.clone())));
        let groups = self.groups.iter().map(|group| (group.stayers[0].clone(), Conversation::Group(group.key)));
        let selves = self.registers.iter().map(|user| (user.clone(), Conversation::Peer(user.clone())));
        pairs.chain(groups).chain(selves).collect()
    }

    /// Those who read all of a conversation at any time.
    pub(crate) fn readers(&self, conversation: &ConversationId) -> Vec<UserId> {
        match conversation {
            ConversationId::Direct(one, other) if one == other => vec![one.clone()],
            ConversationId::Direct(one, other) => vec![one.clone(), other.clone()],
            ConversationId::Group(key) => {
                let group = self.groups.iter().find(|group| group.key == *key);
                group.map_or_else(Vec::new, |group| group.stayers.clone())
            }
        }
    }

    /// Everybody who may have an inbox.
    pub(crate) fn everybody(&self) -> Vec<UserId> {
        self.users.iter().chain(&self.registers).chain(&self.strangers).cloned().collect()
    }
}

fn named(prefix: &str, count: usize) -> Vec<UserId> {
    let name = |place| UserId::new(&format!("{prefix}{place:03}")).expect("a short plain text is a name");
    (0..count).map(name).collect()
}

/// Different pairs: first everybody once or almost, so that no inbox stays empty, then at random.
fn draw_pairs(rng: &mut StdRng, users: &[UserId], count: usize) -> Vec<(UserId, UserId)> {
    let mut all: Vec<(usize, usize)> =
        (0..users.len()).flat_map(|one| (one + 1..users.len()).map(move |other| (one, other))).collect();
    all.shuffle(rng);
    let mut met = vec![false; users.len()];
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for (one, other) in all {
        if met[one] || met[other] {
            rest.push((one, other));
        } else {
            (met[one], met[other]) = (true, true);
            first.push((one, other));
        }
    }
    let drawn = first.into_iter().chain(rest).take(count);
    drawn.map(|(one, other)| (users[one].clone(), users[other].clone())).collect()
}

fn draw_group(rng: &mut StdRng, users: &[UserId]) -> GroupCast {
    let size = rng.random_range(GROUP_MEMBERS).min(users.len());
    let mut members = users.to_vec();
    members.shuffle(rng);
    members.truncate(size);
    let comers = members.split_off(size.div_ceil(2));
    GroupCast { key: ConversationKey(rng.random()), stayers: members, comers }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn cast(kind: WorkloadKind, seed: u64) -> Cast {
        Cast::new(&WorkloadOptions { kind, seed, ..WorkloadOptions::default() })
    }

    #[test]
    fn one_seed_is_one_cast() {
        let (one, same, other) = (cast(WorkloadKind::Mix, 7), cast(WorkloadKind::Mix, 7), cast(WorkloadKind::Mix, 8));
        assert_eq!(format!("{one:?}"), format!("{same:?}"));
        assert_ne!(format!("{:?}", one.pairs), format!("{:?}", other.pairs));
    }

    #[test]
    fn pairs_are_different_and_nobody_is_left_out() {
        for seed in 0..50 {
            let cast = cast(WorkloadKind::Direct, seed);
            let pairs: BTreeSet<_> = cast.pairs.iter().collect();
            assert_eq!(pairs.len(), 16);
            let users: BTreeSet<_> = cast.pairs.iter().flat_map(|(one, other)| [one, other]).collect();
            assert_eq!(users.len(), cast.users.len());
        }
    }

    #[test]
    fn groups_have_three_to_eight_members_and_some_never_leave() {
        for seed in 0..50 {
            for group in cast(WorkloadKind::Group, seed).groups {
                let members: BTreeSet<_> = group.stayers.iter().chain(&group.comers).collect();
                assert!((3..=8).contains(&members.len()), "{group:?}");
                assert_eq!(members.len(), group.stayers.len() + group.comers.len());
                assert!(group.stayers.len() >= 2 && !group.comers.is_empty());
            }
        }
    }

    #[test]
    fn a_workload_has_only_the_keys_it_needs() {
        let seq = cast(WorkloadKind::Seq, 1);
        assert!(seq.pairs.is_empty() && seq.groups.is_empty() && seq.registers.is_empty());
        assert_eq!(seq.counters.len(), 16);
        assert!(cast(WorkloadKind::Direct, 1).counters.is_empty());
    }
}
